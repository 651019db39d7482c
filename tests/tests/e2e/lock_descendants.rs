//! `sharklock lock NAME -- CMD` and all that descends from the command: in other process groups, in
//! other sessions, orphaned, stopped, of another user. The lock is released when none is left.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use sharklock_tests::process::{Process, is_running, sharklock, text_of};
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::lock_command::script;

/// For what is over in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// A script that says its number, then works for a minute, whoever asks it to stop.
const STUBBORN: &str = "trap '' TERM INT HUP\necho $$ >> $1\ni=0\n\
                        while [ $i -lt 6000 ]; do i=$((i + 1)); sleep 0.01; done\n";

/// `sharklock lock ARGS`.
fn lock(server: &Server, args: &[&str]) -> Command {
    let mut command = server.cli(&["lock"]);
    command.args(args);
    command
}

/// The numbers in `log`, once there are so many.
async fn pids(log: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} numbers in {}", log.display()), SOON, async || {
        let text = text_of(log);
        let whole = text.ends_with('\n') && text.lines().count() >= count;
        whole.then(|| text.lines().map(str::to_owned).collect())
    })
    .await
}

fn assert_ended(pids: &[String], when: &str) {
    let left: Vec<&String> = pids.iter().filter(|pid| is_running(pid)).collect();
    assert!(left.is_empty(), "{left:?} run, {when}");
}

fn state_of(pid: &str) -> Option<char> {
    let stat = text_of(&Path::new("/proc").join(pid).join("stat"));
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

async fn force_release(server: &Server, name: &str) {
    let args = ["locks", "force-release", name, "--reason", "a test"];
    let mut release = Process::spawn(&mut server.cli(&args));
    assert_eq!(release.ends(SOON).await.code(), Some(0), "{}", release.stderr());
}

async fn is_held(server: &Server, name: &str) -> bool {
    server.client().get_lock(name).await.expect("a look succeeds").lock.is_some()
}

fn send(process: &Process, signal: i32) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), process.pid().to_string()])
        .status()
        .expect("kill(1) runs");
    assert!(status.success(), "kill -{signal}");
}

/// As with timeout(1), interactive shells, script(1) and daemons, the part that moved away works on
/// unless it is killed.
#[tokio::test(flavor = "multi_thread")]
async fn parts_in_other_groups_and_sessions_end_before_the_next_holder_begins() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let part = script(&dir, "part", STUBBORN);
    for (name, how) in [
        ("timeout", "timeout 60 PART LOG; true"),
        ("setsid", "setsid PART LOG & wait"),
        ("orphan", "(setsid sh -c 'PART LOG & exit 0' &); sleep 60"),
        ("deep", "sh -c 'timeout 60 setsid timeout 60 PART LOG; true'; true"),
    ] {
        let log = dir.path().join(name);
        let how = how.replace("PART", part.to_str().unwrap());
        let how = how.replace("LOG", log.to_str().unwrap());
        let args = [name, "--ttl", "4s", "--grace", "500ms", "--", "sh", "-c", &how];
        let mut holder = Process::spawn(&mut lock(&server, &args));
        let parts = pids(&log, 1).await;
        force_release(&server, name).await;
        assert_eq!(holder.ends(SOON).await.code(), Some(79), "{name}: {}", holder.stderr());
        assert_ended(&parts, name);
    }
}

/// Every signal that can be caught and that ends a process by default: it reaches all, and this
/// process ends last, with the code that a shell would give.
#[tokio::test(flavor = "multi_thread")]
async fn no_signal_ends_the_supervisor_before_its_command() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let signals = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31];
    let mut runs = Vec::new();
    for signal in signals.into_iter().chain([34, 35, 50, 64]) {
        let log = dir.path().join(signal.to_string());
        let part = format!("echo \\$\\$ >> {}; exec sleep 60", log.display());
        // Not `&`: a shell starts background jobs with SIGINT and SIGQUIT ignored.
        let job = format!("ulimit -c 0; setsid -f sh -c \"{part}\"; sh -c \"{part}\"; true");
        let name = format!("signal-{signal}");
        let process = Process::spawn(&mut lock(&server, &[&name, "--", "sh", "-c", &job]));
        runs.push((signal, process, log));
    }
    for (signal, process, log) in &mut runs {
        let parts = pids(log, 2).await;
        send(process, *signal);
        let status = process.ends(SOON).await;
        assert_ended(&parts, &format!("after signal {signal}"));
        assert_eq!(status.code(), Some(128 + *signal), "{signal}: {}", process.stderr());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_end_nobody_change_nothing_and_none_is_blocked_for_the_command() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let job = script(
        &dir,
        "job",
        "trap 'echo window >> $1' WINCH\ngrep SigBlk /proc/self/status >> $1\n\
         i=0; while [ $i -lt 6000 ]; do i=$((i + 1)); sleep 0.01; done\n",
    );
    let mut process = Process::spawn(lock(&server, &["n", "--"]).arg(&job).arg(&log));
    let begun = pids(&log, 1).await;
    let own = text_of(Path::new("/proc/self/status"));
    let mask = own.lines().find(|line| line.starts_with("SigBlk")).unwrap();
    assert_eq!(begun, [mask], "the command begins with the signals blocked that it would have");
    for signal in [13, 17, 18, 23, 28] {
        send(&process, signal);
    }
    pids(&log, 2).await;
    assert_eq!(process.ended(), None);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ends(SOON).await.code(), Some(143), "{}", process.stderr());
}

/// As batch systems suspend jobs, and end suspended ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_terminal_is_suspended_continued_and_ended() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let job = script(
        &dir,
        "job",
        "echo $$ >> $1\ni=0; while [ $i -lt 6000 ]; do i=$((i + 1)); sleep 0.01; done\n",
    );
    let mut command = Command::new("setsid");
    command.args(["env", "--default-signal"]).arg(sharklock());
    command.args(["lock", "n", "--ttl", "4s", "--"]).arg(&job).arg(&log);
    command.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let mut process = Process::spawn(&mut command);
    let pid = pids(&log, 1).await.remove(0);
    let becomes = async |stopped: bool| {
        let what = format!("a command that is stopped: {stopped}");
        eventually(&what, SOON, async || {
            (state_of(&pid).map(|state| state == 'T') == Some(stopped)).then_some(())
        })
        .await;
    };
    process.signal(Signal::SIGTSTP);
    becomes(true).await;
    process.signal(Signal::SIGCONT);
    becomes(false).await;
    process.signal(Signal::SIGTSTP);
    becomes(true).await;
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ends(SOON).await.code(), Some(143), "{}", process.stderr());
    assert_ended(&[pid], "after SIGTERM to a stopped command");
    assert!(!is_held(&server, "n").await);
}

/// Somebody else has stopped it all; the server dies and never returns.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_command_is_dead_before_the_lease_ends() {
    let ttl = Duration::from_secs(3);
    let mut server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let part = script(&dir, "part", "echo $$ >> $1\nkill -STOP $$\nexec sleep 60\n");
    let job = format!("setsid {0} {1} & {0} {1}; true", part.display(), log.display());
    let args = ["n", "--ttl", "3s", "--grace", "1s", "--", "sh", "-c", &job];
    let mut process = Process::spawn(&mut lock(&server, &args));
    let parts = pids(&log, 2).await;
    for pid in &parts {
        eventually("the stop", SOON, async || (state_of(pid) == Some('T')).then_some(())).await;
    }
    server.kill();
    // No renewal was acknowledged after this moment.
    let killed = Instant::now();
    eventually("the end of all", SOON, async || {
        parts.iter().all(|pid| !is_running(pid)).then_some(())
    })
    .await;
    let lived = killed.elapsed();
    assert!(lived < ttl, "they lived {lived:?} after the last renewal, ttl {ttl:?}");
    assert_eq!(process.ends(SOON).await.code(), Some(79), "{}", process.stderr());
}

/// Three chains in which each process starts the next, in a session of its own, and ends: whoever
/// looks finds numbers that are gone, and misses those that come. Each chain ends by itself. The pause
/// leaves the machine to the other tests: without it the chains take every process number there is.
#[tokio::test(flavor = "multi_thread")]
async fn processes_that_keep_moving_are_all_caught() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let hop = script(
        &dir,
        "hop",
        "trap '' TERM\n[ $1 -gt 0 ] || exit 0\n[ $1 -eq 4990 ] && echo $$ >> $2\n\
         sleep 0.01\n setsid \"$0\" $(($1 - 1)) \"$2\" &\nexit 0\n",
    );
    let run = format!("{} 5000 {}", hop.display(), log.display());
    let job = format!("for i in 1 2 3; do {run} & done; sleep 60");
    let args = ["n", "--ttl", "6s", "--grace", "300ms", "--", "sh", "-c", &job];
    let mut process = Process::spawn(&mut lock(&server, &args));
    pids(&log, 3).await;
    force_release(&server, "n").await;
    assert_eq!(process.ends(SOON).await.code(), Some(79), "{}", process.stderr());
    let left = running_with(&hop);
    assert!(left.is_empty(), "they run on: {left:?}");
}

/// The processes whose command line names `program`.
fn running_with(program: &Path) -> Vec<String> {
    let program = program.to_str().expect("a plain path");
    let all = fs::read_dir("/proc").expect("there is /proc").filter_map(Result::ok);
    all.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| text_of(&Path::new("/proc").join(pid).join("cmdline")).contains(program))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_command_leaves_running_is_named_and_keeps_the_lock() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let (log, stop) = (dir.path().join("log"), dir.path().join("stop"));
    let part = script(&dir, "part", "echo $$ >> $1\nwhile [ ! -e $2 ]; do sleep 0.02; done\n");
    let job = format!("setsid {} {} {} & exit 3", part.display(), log.display(), stop.display());
    let mut process =
        Process::spawn(&mut lock(&server, &["n", "--ttl", "2s", "--", "sh", "-c", &job]));
    let parts = pids(&log, 1).await;
    eventually("a line that names it", SOON, async || {
        process.stderr().contains(&format!("pid {} (part)", parts[0])).then_some(())
    })
    .await;
    // It is renewed: what remains of the lease grows.
    let client = server.client();
    let mut least = Duration::MAX;
    eventually("a renewal", SOON, async || {
        let lock = client.get_lock("n").await.expect("a look succeeds").lock.expect("it is held");
        let remaining = lock.holders[0].remaining;
        least = least.min(remaining);
        (remaining > least + Duration::from_millis(200)).then_some(())
    })
    .await;
    assert_eq!(process.ended(), None, "{}", process.stderr());
    fs::write(&stop, "").unwrap();
    assert_eq!(process.ends(SOON).await.code(), Some(3), "{}", process.stderr());
    assert!(!is_held(&server, "n").await);
}

/// SIGTERM and Ctrl-C are passed on to what is left. It ignores them, so a second one kills it; the
/// command's own code stays.
#[tokio::test(flavor = "multi_thread")]
async fn who_insists_ends_what_the_command_left_running() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let part = script(&dir, "part", STUBBORN);
    let job = format!("setsid {} {} & exit 3", part.display(), log.display());
    let mut process = Process::spawn(&mut lock(&server, &["n", "--", "sh", "-c", &job]));
    let parts = pids(&log, 1).await;
    eventually("the line", SOON, async || process.stderr().contains("left").then_some(())).await;
    process.signal(Signal::SIGTERM);
    let status = eventually("the end of all", SOON, async || {
        let ended = process.ended();
        if ended.is_none() {
            process.signal(Signal::SIGTERM);
        }
        ended
    })
    .await;
    assert_ended(&parts, "after two SIGTERM");
    assert_eq!(status.code(), Some(3), "{}", process.stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_is_ended_or_left_alone_for_who_says_so() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let part = script(&dir, "part", STUBBORN);
    let run = async |flag: &str| {
        let log = dir.path().join(flag);
        let job = format!("setsid {} {} & ", part.display(), log.display());
        let job = format!("{job} while [ ! -s {} ]; do sleep 0.01; done; exit 3", log.display());
        let args = ["n", flag, "--grace", "500ms", "--", "sh", "-c", &job];
        let mut process = Process::spawn(&mut lock(&server, &args));
        let status = process.ends(SOON).await;
        assert_eq!(status.code(), Some(3), "{flag}: {}", process.stderr());
        assert!(!is_held(&server, "n").await, "{flag}");
        pids(&log, 1).await
    };
    let ended = run("--end-descendants").await;
    assert_ended(&ended, "although they were to be ended");
    let left = run("--leave-descendants").await;
    assert!(is_running(&left[0]), "it was to be left alone");
    let kill = Command::new("kill").args(["-KILL", &left[0]]).status().unwrap();
    assert!(kill.success());
}

/// `exec sharklock lock …` at the end of a script inherits what the script has started: it is
/// neither waited for nor killed.
#[tokio::test(flavor = "multi_thread")]
async fn children_from_before_are_no_part_of_the_command() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    let part = script(&dir, "part", STUBBORN);
    let before = format!(
        "{} {} & while [ ! -s {1} ]; do sleep 0.01; done; exec \"$@\"",
        part.display(),
        log.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &before, "sh"]).arg(sharklock());
    command.args(["lock", "n", "--", "sh", "-c", "exit 3"]);
    command.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let mut process = Process::spawn(&mut command);
    assert_eq!(process.ends(SOON).await.code(), Some(3), "{}", process.stderr());
    let earlier = pids(&log, 1).await;
    assert!(is_running(&earlier[0]), "it is not ours to end");
    let kill = Command::new("kill").args(["-KILL", &earlier[0]]).status().unwrap();
    assert!(kill.success());
}

/// sudo and its like, from a user that may not signal root's processes.
#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_killed_is_told_at_once_and_keeps_the_lock_while_it_can_be_kept() {
    let dir = TempDir::new().unwrap();
    let Some(user) = Unprivileged::prepare(&dir) else { return };
    let mut server = Server::start().await;
    let log = dir.path().join("log");
    fs::write(&log, "").unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
    let part = script(&dir, "part", STUBBORN);
    let job = format!("{} {} {}; true", user.become_root, part.display(), log.display());
    let mut command = user.run(&["lock", "n", "--ttl", "4s", "--grace", "500ms", "--"], &job);
    command.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let mut process = Process::spawn(&mut command);
    let parts = pids(&log, 1).await;
    eventually("a line that says so, long before any deadline", SOON, async || {
        let told = process.stderr();
        (told.contains(&format!("pid {} (part)", parts[0])) && told.contains("another user"))
            .then_some(())
    })
    .await;
    server.kill();
    eventually("a line that says that the lease has ended", SOON, async || {
        process.stderr().contains("the lease of lock \"n\" has ended").then_some(())
    })
    .await;
    assert!(is_running(&parts[0]), "nobody here may kill it");
    assert_eq!(process.ended(), None, "it watches while somebody is left");
    let kill = Command::new("kill").args(["-KILL", &parts[0]]).status().unwrap();
    assert!(kill.success());
    assert_eq!(process.ends(SOON).await.code(), Some(79), "{}", process.stderr());
}

/// A user without rights, a program that gives him root's, and the binary where he can reach it.
struct Unprivileged {
    binary: PathBuf,
    become_root: String,
}

impl Unprivileged {
    fn prepare(dir: &TempDir) -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIPPED, who cannot be killed: {why}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("only root can make a setuid program");
        }
        let Some(setpriv) = ["/usr/bin/setpriv", "/bin/setpriv"]
            .iter()
            .find(|p| fs::exists(p).is_ok_and(|there| there))
        else {
            return skip("there is no setpriv(1)");
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");
        let (binary, elevated) = (dir.path().join("sharklock"), dir.path().join("elevated"));
        fs::copy(sharklock(), &binary).expect("the directory is ours");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))
            .expect("the directory is ours");
        fs::copy(setpriv, &elevated).expect("the directory is ours");
        fs::set_permissions(&elevated, fs::Permissions::from_mode(0o4755))
            .expect("the directory is ours");
        let become_root = format!("{} --reuid 0 --regid 0 --clear-groups", elevated.display());
        let user = Self { binary, become_root };
        let check = format!("exit $({} id -u)", user.become_root);
        let mut setpriv = Self::as_nobody();
        match setpriv.args(["sh", "-c", &check]).status() {
            Ok(status) if status.success() => Some(user),
            other => skip(&format!("setuid programs have no effect here: {other:?}")),
        }
    }

    fn as_nobody() -> Command {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        setpriv
    }

    fn run(&self, args: &[&str], job: &str) -> Command {
        let mut command = Self::as_nobody();
        command.arg(&self.binary).args(args).args(["sh", "-c", job]);
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_waits_for_itself_is_told_at_once() {
    let server = Server::start().await;
    let binary = sharklock();
    let binary = binary.to_str().unwrap();
    let nested = async |inner: &[&str]| {
        let mut command = lock(&server, &["x", "--", binary, "lock"]);
        let mut process = Process::spawn(command.args(inner));
        (process.ends(SOON).await.code(), process.stderr())
    };
    let (code, told) = nested(&["x", "--", "true"]).await;
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("waits for itself") && told.contains("hint: "), "{told}");
    // Somebody else's name between the two changes nothing.
    let (code, told) = nested(&["y", "--", binary, "lock", "x", "--shared", "--", "true"]).await;
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("waits for itself"), "{told}");
    // With a time limit it is told, and waited for.
    let (code, told) = nested(&["x", "--timeout", "3s", "--", "true"]).await;
    assert_eq!(code, Some(75), "{told}");
    assert!(told.contains("waits for itself"), "{told}");
    let (code, told) = nested(&["y", "--", "sh", "-c", "exit 5"]).await;
    assert_eq!(code, Some(5), "{told}");
    assert!(!told.contains("itself"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_permits_than_there_are_is_refused_in_words() {
    let server = Server::start().await;
    let args = ["x", "-n", "3", "--of", "2", "--", "true"];
    let mut process = Process::spawn(&mut lock(&server, &args));
    assert_eq!(process.ends(SOON).await.code(), Some(64));
    let told = process.stderr();
    assert!(told.contains("-n 3") && told.contains("--of 2"), "{told}");
}
