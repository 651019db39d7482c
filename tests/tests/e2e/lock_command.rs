//! `sharklock lock NAME -- CMD`: exit codes, environment, and no two commands at a time, whatever
//! dies (D17).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_tests::process::{Process, command, is_running, text_of};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::witness::{Want, Witness, judge};
use tempfile::TempDir;
use tokio::time::Instant;

/// For what is over in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(15);

/// A command line that is run to its end.
async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let mut process = Process::spawn(&mut command);
    let status = process.ends(SOON).await;
    (status.code(), process.stdout(), process.stderr())
}

/// A shell script in a file, so that it can be run under several names at once.
pub(crate) fn script(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}")).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    path
}

async fn appears(file: &Path, text: &str) {
    let what = format!("{text:?} in {}", file.display());
    eventually(&what, SOON, async || text_of(file).contains(text).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_learns_its_name_its_token_and_its_session() {
    let server = Server::start().await;
    let show =
        "echo name $SHARKLOCK_NAME; echo token $SHARKLOCK_TOKEN; echo session $SHARKLOCK_SESSION";
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let (code, out, err) = run(server.cli(&["lock", "hello", "--", "sh", "-c", show])).await;
        assert_eq!(code, Some(0), "{err}");
        let value = |word: &str| {
            let line = out.lines().find_map(|line| line.strip_prefix(word));
            line.unwrap_or_else(|| panic!("no {word} in {out}")).trim().to_owned()
        };
        assert_eq!(value("name"), "hello");
        assert_eq!(value("session").len(), 32, "128 bits as hex: {out}");
        tokens.push(value("token").parse::<u64>().unwrap());
    }
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_the_commands_own_or_say_why_it_did_not_run() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let plain = dir.path().join("plain.txt");
    fs::write(&plain, "no program").unwrap();
    let plain = plain.to_str().unwrap();
    let holder = server.client().lock("held").acquire().await.unwrap();
    let table: &[(&[&str], i32)] = &[
        (&["lock", "n", "--", "true"], 0),
        (&["lock", "n", "--", "sh", "-c", "exit 7"], 7),
        (&["lock", "n", "--", "sh", "-c", "exit 75"], 75),
        (&["lock", "n", "--", "sh", "-c", "kill -KILL $$"], 137),
        (&["lock", "n", "--", "sh", "-c", "kill -TERM $$"], 143),
        (&["lock", "n", "--", "/no/such/command"], 127),
        (&["lock", "n", "--", "no-such-command-anywhere"], 127),
        (&["lock", "n", "--", plain], 126),
        (&["lock", "n", "--", "/"], 126),
        (&["lock", "held", "--try", "--", "true"], 75),
        (&["lock", "held", "--try", "-E", "9", "--", "true"], 9),
        (&["lock", "held", "--timeout", "300ms", "--", "true"], 75),
        (&["lock", "held", "--timeout", "300ms", "-E", "0", "--", "true"], 0),
        (&["lock", "held", "--shared", "--try", "--", "true"], 75),
        (&["lock", "held", "-n", "1", "--of", "2", "--", "true"], 64),
        (&["lock", "n", "--ttl", "1s", "--", "true"], 64),
        (&["lock", "n", "--ttl", "4s", "--grace", "4s", "--", "true"], 64),
        (&["lock", "--no-such-flag", "n", "--", "true"], 64),
        (&["lock", "", "--", "true"], 64),
    ];
    for (args, expected) in table {
        let (code, out, err) = run(server.cli(args)).await;
        assert_eq!(code, Some(*expected), "{args:?}\n{out}{err}");
    }
    // A caller that is not let in learns who is in.
    let (_, _, err) = run(server.cli(&["lock", "held", "--try", "--", "true"])).await;
    assert!(err.contains("held") && err.contains("tests"), "{err}");
    drop(holder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_out_of_reach_is_told_with_its_own_code() {
    let mut server = Server::start().await;
    server.kill();
    let args = ["lock", "n", "--timeout", "1s", "--", "true"];
    let (code, _, err) = run(server.cli(&args)).await;
    assert_eq!(code, Some(69), "{err}");
    let (code, _, err) = run(server.cli(&["status"])).await;
    assert_eq!(code, Some(69), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_are_passed_on_to_the_command() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let job = script(
        &dir,
        "job",
        "trap 'echo asked >> $1; exit 5' TERM\necho begun >> $1\nwhile :; do sleep 0.01; done\n",
    );
    let mut lock = Process::spawn(server.cli(&["lock", "n", "--"]).arg(&job).arg(&log));
    appears(&log, "begun").await;
    lock.signal(Signal::SIGTERM);
    assert_eq!(lock.ends(SOON).await.code(), Some(5));
    appears(&log, "asked").await;
    let free = server.client().get_lock("n").await.unwrap();
    assert_eq!(free.lock, None, "it was released");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_command_the_lock_is_held_until_ctrl_c() {
    let server = Server::start().await;
    let mut lock = Process::spawn(&mut server.cli(&["lock", "n"]));
    eventually("the line that says so", SOON, async || {
        lock.stdout().contains("acquired n token=").then_some(())
    })
    .await;
    assert!(server.client().get_lock("n").await.unwrap().lock.is_some());
    lock.signal(Signal::SIGINT);
    let status = lock.ends(SOON).await;
    assert_eq!(status.code(), Some(0), "{}", lock.stderr());
    assert_eq!(server.client().get_lock("n").await.unwrap().lock, None);
}

/// The command beats, and ignores SIGTERM; its server dies and never returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_lock_cannot_be_kept_is_dead_before_the_lease_ends() {
    let ttl = Duration::from_secs(3);
    let mut server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let job = script(
        &dir,
        "job",
        "trap 'echo asked >> $1' TERM\necho begun $$ >> $1\nwhile :; do sleep 0.01; done\n",
    );
    let args = ["lock", "n", "--ttl", "3s", "--grace", "1s", "--"];
    let mut lock = Process::spawn(server.cli(&args).arg(&job).arg(&log));
    appears(&log, "begun").await;
    let pid = text_of(&log).split_whitespace().nth(1).unwrap().to_owned();
    server.kill();
    // No renewal was acknowledged after this moment.
    let killed = Instant::now();
    eventually("the end of the command", SOON, async || (!is_running(&pid)).then_some(())).await;
    let lived = killed.elapsed();
    assert!(lived < ttl, "the command lived {lived:?} after the last renewal, ttl {ttl:?}");
    assert_eq!(lock.ends(SOON).await.code(), Some(79), "{}", lock.stderr());
    assert!(text_of(&log).contains("asked"), "it was asked to stop before it was killed");
    assert!(lock.stderr().contains("lost lock \"n\""), "{}", lock.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_force_release_stops_the_command_before_the_next_one_begins() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    // It takes a while to stop: the next one must not begin meanwhile.
    let first = script(
        &dir,
        "first",
        "trap 'sleep 0.5; echo first ends >> $1; exit 0' TERM\necho first begins >> $1\n\
         while :; do sleep 0.01; done\n",
    );
    let second = script(&dir, "second", "echo second runs >> $1\n");
    let mut holder = Process::spawn(server.cli(&["lock", "n", "--"]).arg(&first).arg(&log));
    appears(&log, "first begins").await;
    let mut next = Process::spawn(server.cli(&["lock", "n", "--"]).arg(&second).arg(&log));
    let client = server.client();
    eventually("the next in the queue", SOON, async || {
        let lock = client.get_lock("n").await.expect("a look succeeds").lock;
        (lock?.waiters_count == 1).then_some(())
    })
    .await;

    let begin = Instant::now();
    let args = ["locks", "force-release", "n", "--reason", "wrong job"];
    let (code, out, err) = run(server.cli(&args)).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(holder.ends(SOON).await.code(), Some(79), "{}", holder.stderr());
    assert!(holder.stderr().contains("wrong job"), "{}", holder.stderr());
    assert_eq!(next.ends(SOON).await.code(), Some(0), "{}", next.stderr());
    let told: Vec<String> = text_of(&log).lines().map(str::to_owned).collect();
    assert_eq!(told, ["first begins", "first ends", "second runs"]);
    assert!(begin.elapsed() < Duration::from_secs(8), "at its word, not at the end of its lease");
}

/// SIGKILL leaves no time for anything: the command dies with its supervisor, and the lock frees
/// itself within D7's bound.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_frees_its_lock_after_its_lease_and_not_before() {
    let ttl = Duration::from_secs(3);
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let job = script(&dir, "job", "echo begun $$ >> $1\nexec sleep 1000\n");
    let spawned = Instant::now();
    let args = ["lock", "n", "--ttl", "3s", "--"];
    let mut lock = Process::spawn(server.cli(&args).arg(&job).arg(&log));
    appears(&log, "begun").await;
    let pid = text_of(&log).split_whitespace().nth(1).unwrap().to_owned();
    lock.kill();
    let killed = Instant::now();
    eventually("the end of the command", Duration::from_secs(1), async || {
        (!is_running(&pid)).then_some(())
    })
    .await;
    let mut next = Witness::new(server.client());
    let held = next.acquire(&Want::exclusive("n")).await.unwrap();
    // The lease was renewed after `spawned` and not after `killed`.
    assert!(spawned.elapsed() >= ttl.mul_f64(0.99), "freed after {:?}", spawned.elapsed());
    let late = killed.elapsed();
    assert!(late < ttl.mul_f64(1.01) + Duration::from_secs(1), "freed after {late:?}");
    next.release(held).await.unwrap();
    judge([next.into_recorder()]);
}

/// Issue 2: 16 shells, 25 increments each, five kills: exactly 400, and no two commands at a time.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_shells_count_to_four_hundred_under_kills() {
    const SHELLS: usize = 16;
    const EACH: usize = 25;
    const KILLS: usize = 5;
    let total = SHELLS * EACH;
    let mut server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let counter = dir.path().join("counter");
    let log = dir.path().join("log");
    fs::write(&counter, "0\n").unwrap();
    let increment = script(
        &dir,
        "increment.sh",
        "echo begin $$ $SHARKLOCK_TOKEN >> $2\nn=$(cat $1)\nsleep 0.005\necho $((n + 1)) > $1\n\
         echo end $$ $SHARKLOCK_TOKEN >> $2\n",
    );
    let shell = "i=0; while [ $i -lt $0 ]; do i=$((i + 1)); \"$@\" || exit 1; done";
    let mut shells = Vec::new();
    for _ in 0..SHELLS {
        let mut sh = Command::new("sh");
        sh.args(["-c", shell, &EACH.to_string()]);
        sh.arg(sharklock_tests::process::sharklock());
        sh.args(["lock", "counter", "--timeout", "60s", "--"]);
        sh.arg(&increment).arg(&counter).arg(&log);
        sh.env("SHARKLOCK_ENDPOINTS", server.endpoint());
        shells.push(Process::spawn(&mut sh));
    }
    let ends = || text_of(&log).lines().filter(|line| line.starts_with("end ")).count();
    for kill in 1..=KILLS {
        let goal = kill * total / (KILLS + 1);
        eventually(&format!("{goal} increments"), Duration::from_secs(120), async || {
            (ends() >= goal).then_some(())
        })
        .await;
        server.kill();
        server.start_again().await;
        let ready = server.ready_after();
        assert!(ready < Duration::from_secs(2), "back after {ready:?}");
    }
    for shell in &mut shells {
        let status = shell.ends(Duration::from_secs(120)).await;
        assert_eq!(status.code(), Some(0), "{}", shell.stderr());
    }
    assert_eq!(text_of(&counter).trim(), total.to_string());
    let lifetimes = check_lifetimes(&text_of(&log)).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(lifetimes, total);
}

/// Whether the commands in a log of `begin PID TOKEN` and `end PID TOKEN` ran one at a time, each
/// under a larger token than the one before. The log is appended to, so its order is that of time.
pub(crate) fn check_lifetimes(log: &str) -> Result<usize, String> {
    let mut running: Option<(&str, u64)> = None;
    let mut last = 0;
    let mut count = 0;
    for (at, line) in log.lines().enumerate() {
        let at = at + 1;
        let words: Vec<&str> = line.split(' ').collect();
        let [what, pid, token] = words[..] else { return Err(format!("line {at}: {line:?}")) };
        let token: u64 = token.parse().map_err(|_| format!("line {at}: no token in {line:?}"))?;
        match (what, running) {
            ("begin", None) if token > last => (running, last) = (Some((pid, token)), token),
            ("begin", None) => return Err(format!("line {at}: token {token} comes after {last}")),
            ("begin", Some((other, theirs))) => {
                return Err(format!(
                    "line {at}: {pid} begins with token {token} while {other} runs with {theirs}"
                ));
            }
            ("end", Some(begun)) if begun == (pid, token) => (running, count) = (None, count + 1),
            _ => return Err(format!("line {at}: {line:?} while {running:?} runs")),
        }
    }
    match running {
        None => Ok(count),
        Some((pid, token)) => Err(format!("{pid} with token {token} does not end")),
    }
}

#[test]
fn the_checker_of_lifetimes_finds_what_it_is_for() {
    let good = "begin 10 5\nend 10 5\nbegin 11 7\nend 11 7\n";
    assert_eq!(check_lifetimes(good), Ok(2));
    let check = |log: &str, expected: &str| {
        assert_eq!(check_lifetimes(log), Err(expected.to_owned()));
    };
    check(
        "begin 10 5\nbegin 11 7\nend 10 5\nend 11 7\n",
        "line 2: 11 begins with token 7 while 10 runs with 5",
    );
    check("begin 10 5\nend 10 5\nbegin 11 5\nend 11 5\n", "line 3: token 5 comes after 5");
    check("begin 10 5\nend 11 5\n", "line 2: \"end 11 5\" while Some((\"10\", 5)) runs");
    check("begin 10 5\n", "10 with token 5 does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_print_tables_and_json() {
    let server = Server::start().await;
    let guard = server.client().lock("shown").owner("billing").acquire().await.unwrap();
    let token = guard.token().to_string();
    let (code, out, err) = run(server.cli(&["locks", "ls"])).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("shown") && out.contains("billing") && out.contains(&token), "{out}");
    let (_, out, _) = run(server.cli(&["locks", "show", "shown", "--output", "json"])).await;
    let shown: serde_json::Value = serde_json::from_str(&out).expect("it is JSON");
    assert!(shown.to_string().contains(&format!("\"{token}\"")), "64 bits as a string: {out}");
    let (code, out, err) = run(server.cli(&["status", "--output", "json"])).await;
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str::<serde_json::Value>(&out).expect("it is JSON");
    let (code, out, _) = run(command(["completion", "bash"])).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("sharklock"), "{out}");
}
