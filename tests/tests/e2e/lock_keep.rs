//! `sharklock lock NAME --keep --state-file F -- CMD`: a lock that outlives a crash, and a command that
//! runs again only when nothing of the run before lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sharklock_client::{Client, Guard};
use sharklock_tests::process::{Process, command, is_running, text_of};
use sharklock_tests::proxy::Proxy;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::lock_command::script;

/// For what is over in milliseconds on an idle machine, beside a lease of two seconds.
const SOON: Duration = Duration::from_secs(30);
/// Logs its token, and works until it is asked to stop.
const JOB: &str = "echo $SHARKLOCK_TOKEN >> $1\nexec sleep 600\n";
/// Logs its number, and works on whoever asks it to stop. Its name is its own.
const PART: &str = "trap '' TERM INT HUP\necho $$ >> $1\nwhile :; do sleep 0.05; done\n";

/// A folder with a state file, a job and a part of it, and what they log.
struct Place {
    dir: TempDir,
    state: PathBuf,
    tokens: PathBuf,
    parts: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder can be made");
        script(&dir, "job", JOB);
        script(&dir, "part", PART);
        let path = |name: &str| dir.path().join(name);
        let (state, tokens, parts) = (path("state"), path("tokens"), path("parts"));
        Self { dir, state, tokens, parts }
    }

    fn record(&self) -> PathBuf {
        self.dir.path().join("state.run")
    }

    /// `sharklock lock n --keep …`, with the shell command `how`: JOB is the job, PART a part.
    fn keep(&self, endpoint: &str, options: &[&str], how: &str) -> Command {
        let run = |name: &str, log: &Path| {
            format!("{} {}", self.dir.path().join(name).display(), log.display())
        };
        let how = how.replace("JOB", &run("job", &self.tokens));
        let how = how.replace("PART", &run("part", &self.parts));
        let mut keep = command(["lock", "n", "--keep", "--ttl", "2s", "--state-file"]);
        keep.arg(&self.state).args(options).args(["--", "sh", "-c", &how]);
        keep.env("SHARKLOCK_ENDPOINTS", endpoint);
        keep
    }

    /// The tokens under which the job has run, once there are so many.
    async fn tokens(&self, count: usize) -> Vec<u64> {
        lines(&self.tokens, count)
            .await
            .iter()
            .map(|token| token.parse().expect("a token"))
            .collect()
    }
}

async fn lines(log: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {}", log.display()), SOON, async || {
        let text = text_of(log);
        let whole = text.ends_with('\n') && text.lines().count() >= count;
        whole.then(|| text.lines().map(str::to_owned).collect())
    })
    .await
}

async fn run(mut command: Command) -> (Option<i32>, String) {
    let mut process = Process::spawn(&mut command);
    let status = process.ends(SOON).await;
    (status.code(), process.stderr())
}

fn end(pid: &str) {
    kill(Pid::from_raw(pid.parse().expect("a number")), Signal::SIGKILL).expect("it is ours");
}

async fn is_held(client: &Client) -> bool {
    client.get_lock("n").await.expect("a look succeeds").lock.is_some()
}

/// Waits until the lock has no lease any more, and is nobody else's.
async fn orphaned(client: &Client) {
    eventually("an orphan", SOON, async || {
        let lock = client.get_lock("n").await.expect("a look succeeds").lock?;
        assert_eq!(lock.holders.len(), 1, "{lock:?}");
        lock.holders[0].orphaned.then_some(())
    })
    .await;
}

/// Queues for the lock, and gets it when it is released.
fn waiter(server: &Server) -> tokio::task::JoinHandle<Guard> {
    let client = server.client();
    tokio::spawn(async move { client.lock("n").acquire().await.expect("it is released") })
}

/// The ways in which it can be proved here that nothing of a run lives.
async fn proofs(server: &Server) -> Vec<&'static str> {
    let place = Place::new();
    let probe = place.keep(&server.endpoint(), &["--proof", "cgroup"], "true");
    match run(probe).await {
        (Some(0), _) => vec!["pids", "cgroup"],
        (_, why) => {
            eprintln!("skipped by cgroup: none can be made here: {why}");
            vec!["pids"]
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_command_runs_again_and_nobody_has_had_the_lock() {
    let server = Server::start().await;
    for proof in proofs(&server).await {
        let place = Place::new();
        let start =
            || Process::spawn(&mut place.keep(&server.endpoint(), &["--proof", proof], "exec JOB"));
        let mut first = start();
        place.tokens(1).await;
        let waiting = waiter(&server);
        first.kill();
        let mut second = start();
        let tokens = place.tokens(2).await;
        assert!(tokens[0] < tokens[1], "{tokens:?}");
        assert!(!waiting.is_finished(), "somebody got the kept lock");
        second.signal(Signal::SIGTERM);
        assert_eq!(second.ends(SOON).await.code(), Some(143), "{}", second.stderr());
        let theirs = timeout(SOON, waiting).await.expect("it is released").expect("no panic");
        assert!(theirs.token().as_u64() > tokens[1], "{proof}: {tokens:?}, {theirs:?}");
        theirs.release().await.expect("it is held");
        // Nothing is left, so that the state file may be another lock's.
        assert!(text_of(&place.record()).contains("nothing runs"), "{proof}");
        assert!(!text_of(&place.state).contains("\nhold "), "{proof}");
        let mut other = command(["lock", "other", "--keep", "--state-file"]);
        other.arg(&place.state).args(["--", "sh", "-c", "exit 3"]);
        other.env("SHARKLOCK_ENDPOINTS", server.endpoint());
        let (code, why) = run(other).await;
        assert_eq!(code, Some(3), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_lease_has_ended_is_taken_back_at_once() {
    let server = Server::start().await;
    let place = Place::new();
    let start =
        |options: &[&str]| Process::spawn(&mut place.keep(&server.endpoint(), options, "exec JOB"));
    start(&[]).kill_after(&place, 1).await;
    // The lease of the first run goes on for a while: `--try` does not wait for its end.
    let (code, why) = run(place.keep(&server.endpoint(), &["--try"], "exec JOB")).await;
    assert_eq!(code, Some(75), "{why}");
    assert!(why.contains("lease of the earlier run") && why.contains("stays kept"), "{why}");
    orphaned(&server.client()).await;
    let second = start(&["--try"]);
    place.tokens(2).await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_may_ask_for_a_longer_lease_and_a_lock_delay() {
    let server = Server::start().await;
    let place = Place::new();
    let first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    first.kill_after(&place, 1).await;
    let job = format!("exec {}/job {}", place.dir.path().display(), place.tokens.display());
    let mut again = command(["lock", "n", "--keep", "--ttl", "9s", "--lock-delay", "1s"]);
    again.arg("--state-file").arg(&place.state).args(["--", "sh", "-c", &job]);
    again.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let mut second = Process::spawn(&mut again);
    place.tokens(2).await;
    let lock = server.client().get_lock("n").await.expect("a look succeeds").lock;
    let holder = lock.expect("it is held").holders.remove(0);
    assert_eq!(holder.ttl, Duration::from_secs(9));
    let condition = holder.agreement.condition;
    assert!(condition.holds() && condition.lock_delay == Some(Duration::from_secs(1)));
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ends(SOON).await.code(), Some(143), "{}", second.stderr());
}

/// What a test does with a process that is to crash.
trait Crash {
    async fn kill_after(self, place: &Place, tokens: usize);
}

impl Crash for Process {
    async fn kill_after(mut self, place: &Place, tokens: usize) {
        place.tokens(tokens).await;
        self.kill();
    }
}

/// A part that has left its parents, group and session behind; by pids also one without environment,
/// which is recorded while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_descendant_that_lives_is_named_and_holds_the_next_run_back() {
    let server = Server::start().await;
    let client = server.client();
    for proof in proofs(&server).await {
        for clean in ["", "env -i PATH=$PATH "] {
            let place = Place::new();
            let how = format!("(setsid sh -c '{clean}PART & exit 0' &); exec JOB");
            let start = || place.keep(&server.endpoint(), &["--proof", proof], &how);
            let mut first = Process::spawn(&mut start());
            let part = lines(&place.parts, 1).await.remove(0);
            place.tokens(1).await;
            if proof == "pids" {
                eventually("its record", SOON, async || {
                    text_of(&place.record()).contains(&format!("process {part} ")).then_some(())
                })
                .await;
            }
            first.kill();
            let (code, why) = run(start()).await;
            assert_eq!(code, Some(80), "{proof}: {why}");
            let named = format!("pid {part} (part)");
            assert!(why.contains(&named) && why.contains("stays kept"), "{proof}: {why}");
            assert!(is_running(&part), "nobody has ended it");
            orphaned(&client).await;
            assert!(client.try_lock("n").await.expect("it is answered").is_none(), "it is kept");
            end(&part);
            let mut second = Process::spawn(&mut start());
            let tokens = place.tokens(2).await;
            assert!(tokens[0] < tokens[1], "{tokens:?}");
            second.signal(Signal::SIGKILL);
            second.kill();
            end(&lines(&place.parts, 2).await[1]);
            let ended = client.force_release("n", None, "a test", false, "tests").await;
            ended.expect("it is answered");
            eventually("its end", SOON, async || (!is_held(&client).await).then_some(())).await;
        }
    }
}

/// A part that is born while the supervisor stands still: nobody has recorded it.
#[tokio::test(flavor = "multi_thread")]
async fn a_descendant_that_nobody_has_seen_is_found_by_its_mark() {
    let server = Server::start().await;
    let place = Place::new();
    let go = place.dir.path().join("go");
    let how = format!(
        "(setsid sh -c 'while [ ! -e {} ]; do sleep 0.02; done; setsid PART & exit 0' &); exec JOB",
        go.display()
    );
    let start = || place.keep(&server.endpoint(), &["--proof", "pids"], &how);
    let mut first = Process::spawn(&mut start());
    place.tokens(1).await;
    first.signal(Signal::SIGSTOP);
    fs::write(&go, "").unwrap();
    let part = lines(&place.parts, 1).await.remove(0);
    assert!(!text_of(&place.record()).contains(&format!("process {part} ")));
    first.kill();
    let (code, why) = run(start()).await;
    assert_eq!(code, Some(80), "{why}");
    assert!(why.contains(&format!("pid {part} (part)")), "{why}");
    end(&part);
    let second = Process::spawn(&mut start());
    place.tokens(2).await;
    drop(second);
    end(&lines(&place.parts, 2).await[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_with_the_state_file_is_refused() {
    let server = Server::start().await;
    let place = Place::new();
    let mut first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    place.tokens(1).await;
    let (code, why) = run(place.keep(&server.endpoint(), &[], "exec JOB")).await;
    assert_eq!(code, Some(75), "{why}");
    assert!(why.contains("state\" is in use") && why.contains("name another file"), "{why}");
    assert_eq!(first.ended(), None);
    assert_eq!(place.tokens(1).await.len(), 1, "it did not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_is_of_one_lock_in_one_mode() {
    let server = Server::start().await;
    let place = Place::new();
    let first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    first.kill_after(&place, 1).await;
    let mut other = command(["lock", "m", "--keep", "--state-file"]);
    other.arg(&place.state).args(["--", "true"]);
    other.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let shared = place.keep(&server.endpoint(), &["--shared"], "true");
    let table = [(other, "lock \"m\" (exclusive)"), (shared, "lock \"n\" (shared)")];
    for (start, words) in table {
        let (code, why) = run(start).await;
        assert_eq!(code, Some(64), "{why}");
        assert!(why.contains("keeps lock \"n\" (exclusive)") && why.contains(words), "{why}");
    }
    let _second = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    place.tokens(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_a_kept_lock_is_refused_with_the_way_out() {
    let place = Place::new();
    for (options, what) in [
        (&["--max-hold", "1h"][..], "--max-hold"),
        (&["--ask-grace", "1s"], "--ask-grace"),
        (&["--leave-descendants"], "--leave-descendants"),
    ] {
        let (code, why) = run(place.keep("http://127.0.0.1:1", options, "true")).await;
        assert_eq!(code, Some(64), "{why}");
        let named = why.contains("--keep") && why.contains(what);
        assert!(named && why.contains("leave one of the two out"), "{why}");
    }
    let mut bare = command(["lock", "n", "--keep", "--state-file"]);
    let (code, why) = run({
        bare.arg(&place.state);
        bare
    })
    .await;
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("--keep needs a command"), "{why}");
    let (code, why) = run(command(["lock", "n", "--keep", "--", "true"])).await;
    assert_eq!(code, Some(64), "{why}");
    assert!(why.contains("--state-file"), "{why}");
    assert!(!place.state.exists(), "nothing was begun");
}

/// This process stands still for longer than its lease: the cluster keeps the lock for it, and it does
/// not give it back when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_was_frozen_stops_its_command_and_the_lock_stays() {
    let server = Server::start().await;
    let place = Place::new();
    let mut first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    place.tokens(1).await;
    first.signal(Signal::SIGSTOP);
    orphaned(&server.client()).await;
    first.signal(Signal::SIGCONT);
    assert_eq!(first.ends(SOON).await.code(), Some(79), "{}", first.stderr());
    assert!(first.stderr().contains("it stays kept: start the same command"), "{}", first.stderr());
    // It was seen to end, which needs no proof.
    assert!(text_of(&place.record()).contains("nothing runs"));
    orphaned(&server.client()).await;
    let _second = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    place.tokens(2).await;
}

/// The way to the cluster is cut, and is there again while the command is being stopped: a release
/// would arrive now.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stops_the_command_and_the_lock_stays() {
    let server = Server::start().await;
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    let proxy = Proxy::start(&address).await;
    let place = Place::new();
    let how = "trap 'echo asked >> LOG' TERM; JOB & while :; do sleep 0.02; done";
    let asked = place.dir.path().join("asked");
    let how = how.replace("LOG", asked.to_str().unwrap());
    let mut first = Process::spawn(&mut place.keep(&proxy.endpoint(), &["--grace", "900ms"], &how));
    place.tokens(1).await;
    proxy.move_to("127.0.0.1:1");
    lines(&asked, 1).await;
    proxy.move_to(&address);
    assert_eq!(first.ends(SOON).await.code(), Some(79), "{}", first.stderr());
    orphaned(&server.client()).await;
    let _second = Process::spawn(&mut place.keep(&proxy.endpoint(), &[], "exec JOB"));
    let tokens = place.tokens(2).await;
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_an_operator_has_ended_is_acquired_anew() {
    let server = Server::start().await;
    let client = server.client();
    let place = Place::new();
    let first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    first.kill_after(&place, 1).await;
    orphaned(&client).await;
    let ended = client.force_release("n", None, "not needed", false, "tests").await;
    assert!(ended.expect("it is answered").ended, "an orphan has no lease to wait for");
    let theirs = client.lock("n").acquire().await.expect("it is free");
    let second = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    eventually("the words", SOON, async || {
        second.stderr().contains("was ended meanwhile; tests holds it now").then_some(())
    })
    .await;
    assert_eq!(place.tokens(1).await.len(), 1, "it waits");
    let token = theirs.token().as_u64();
    theirs.release().await.expect("it is held");
    let tokens = place.tokens(2).await;
    assert!(tokens[0] < token && token < tokens[1], "{tokens:?} {token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_takes_a_kept_lock_away_is_obeyed() {
    let server = Server::start().await;
    let place = Place::new();
    let mut first = Process::spawn(&mut place.keep(&server.endpoint(), &[], "exec JOB"));
    place.tokens(1).await;
    let waiting = waiter(&server);
    let ended = server.client().force_release("n", None, "a test", false, "tests").await;
    ended.expect("it is answered");
    assert_eq!(first.ends(SOON).await.code(), Some(79), "{}", first.stderr());
    assert!(!first.stderr().contains("stays kept"), "{}", first.stderr());
    let theirs = timeout(SOON, waiting).await.expect("it is free").expect("no panic");
    theirs.release().await.expect("it is held");
}

/// What runs in another process namespace cannot be seen from here, nor from there what runs here.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_another_namespace_is_not_proved_dead() {
    if !geteuid().is_root() {
        eprintln!("skipped: a process namespace needs root");
        return;
    }
    let server = Server::start().await;
    let place = Place::new();
    let keep = |options: &[&str]| {
        place.keep(&server.endpoint(), &[&["--proof", "pids"], options].concat(), "exec JOB")
    };
    let inside = keep(&[]);
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    apart.arg(inside.get_program()).args(inside.get_args());
    apart.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    Process::spawn(&mut apart).kill_after(&place, 1).await;
    let token = place.tokens(1).await[0];
    let refused = async |options: &[&str]| {
        eventually("the end of the namespace", SOON, async || {
            let (code, why) = run(keep(options)).await;
            // The process that is killed with the namespace's parent has the file for a moment.
            (code != Some(75)).then_some((code, why))
        })
        .await
    };
    for options in [&[][..], &["--assume-ended", "999"]] {
        let (code, why) = refused(options).await;
        assert_eq!(code, Some(80), "{why}");
        let way_out = format!("--assume-ended {token}");
        assert!(why.contains("another process namespace") && why.contains(&way_out), "{why}");
    }
    orphaned(&server.client()).await;
    let ended = token.to_string();
    let _second = Process::spawn(&mut keep(&["--assume-ended", &ended]));
    let tokens = place.tokens(2).await;
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_gone_torn_or_not_ours_is_refused_by_name() {
    let server = Server::start().await;
    let place = Place::new();
    let keep = |options: &[&str]| place.keep(&server.endpoint(), options, "exec JOB");
    Process::spawn(&mut keep(&[])).kill_after(&place, 1).await;
    let record = fs::read(place.record()).unwrap();
    for (bytes, words) in [
        (&b"something else"[..], "is no record of `sharklock lock --keep`"),
        (&record[..record.len() / 2], "is torn or damaged"),
        (&[], "is torn or damaged"),
    ] {
        fs::write(place.record(), bytes).unwrap();
        let (code, why) = run(keep(&[])).await;
        assert_eq!(code, Some(64), "{why}");
        assert!(why.contains("state.run") && why.contains(words), "{why}");
        assert_eq!(fs::read(place.record()).unwrap(), bytes, "it is left as it is");
    }
    fs::remove_file(place.record()).unwrap();
    let (code, why) = run(keep(&[])).await;
    assert_eq!(code, Some(80), "{why}");
    assert!(why.contains("state.run") && why.contains("is not there"), "{why}");
    let token = place.tokens(1).await[0].to_string();
    let _second = Process::spawn(&mut keep(&["--assume-ended", &token]));
    place.tokens(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_start_leaves_nothing_kept() {
    let server = Server::start().await;
    let place = Place::new();
    let mut start = command(["lock", "n", "--keep", "--state-file"]);
    start.arg(&place.state).args(["--", "no-such-command-anywhere"]);
    start.env("SHARKLOCK_ENDPOINTS", server.endpoint());
    let (code, why) = run(start).await;
    assert_eq!(code, Some(127), "{why}");
    assert!(text_of(&place.record()).contains("nothing runs"));
    assert!(!is_held(&server.client()).await);
    let (code, why) = run(place.keep(&server.endpoint(), &[], "exit 7")).await;
    assert_eq!(code, Some(7), "{why}");
}

/// Killed at any moment of its start and its run: no two runs meet, and no token comes again. What a
/// run locks (flock(1)) is free when the last of its processes is gone, which outlives its job and the
/// lease.
#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_no_two_runs_meet() {
    let server = Server::start().await;
    let place = Place::new();
    let (alone, met) = (place.dir.path().join("alone"), place.dir.path().join("met"));
    let how = format!(
        "exec 9> {}; flock -n 9 || echo met >> {}; (setsid sleep 3 &); exec JOB",
        alone.display(),
        met.display()
    );
    for delay in [0, 10, 30, 60, 120, 300, 700, 1_400, 2_000, 2_200, 2_400, 2_800] {
        let mut start = Process::spawn(&mut place.keep(&server.endpoint(), &[], &how));
        let until = Instant::now() + Duration::from_millis(delay);
        eventually("the moment", SOON, async || (Instant::now() >= until).then_some(())).await;
        start.kill();
    }
    let last = async || {
        let (code, why) = run(place.keep(&server.endpoint(), &[], "exit 4")).await;
        (code != Some(80)).then_some((code, why))
    };
    let (code, why) = eventually("the end of what is left", SOON, last).await;
    assert_eq!(code, Some(4), "{why}");
    assert_eq!(text_of(&met), "");
    let tokens = text_of(&place.tokens);
    let tokens: Vec<u64> = tokens.lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.len() > 1 && tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
    assert!(!is_held(&server.client()).await);
}
