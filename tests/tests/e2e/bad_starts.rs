//! Servers that cannot start as they are told: each ends with exit code 78, one line that says why, and
//! what to do. `containers.rs` has the same in containers, which stop trying.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sharklock_tests::process::{Process, command, sharklock};
use tempfile::TempDir;

/// A refusal comes before anything is opened.
const SOON: Duration = Duration::from_secs(30);

/// A server with every role, at ports that nobody has.
fn server(data_dir: &Path) -> Command {
    let mut server = command(["server", "--roles", "master,data,gateway"]);
    with_ports(&mut server, data_dir);
    server
}

fn with_ports(server: &mut Command, data_dir: &Path) {
    server.args(["--masters", "127.0.0.1:11720", "--listen-master", "127.0.0.1:11720"]);
    server.args(["--listen-gateway", "127.0.0.1:0", "--listen-data", "127.0.0.1:0"]);
    server.args(["--listen-admin", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
}

/// Runs a server to its end, which is to be a refusal: its line, and the one that says what to do. It says
/// nothing else, but for causes.
async fn refusal(server: &mut Command) -> (String, String) {
    let (error, hint) = refused(server).await;
    let hint = hint.unwrap_or_else(|| panic!("`{error}`: what is to be done?"));
    (error, hint)
}

/// The same of one whose hint may be missing, since its line says what to do.
async fn refused(server: &mut Command) -> (String, Option<String>) {
    let mut process = Process::spawn(server);
    let status = process.ends(SOON).await;
    let said = process.stderr();
    assert_eq!(status.code(), Some(78), "{said}");
    let (mut errors, mut hints) = (Vec::new(), Vec::new());
    // A port is found in use after the first lines of the log.
    for line in said.lines().filter(|line| !line.starts_with('{')) {
        match line.split_once(": ") {
            Some(("error", rest)) => errors.push(rest.to_owned()),
            Some(("hint", rest)) => hints.push(rest.to_owned()),
            Some(("cause", _)) => {}
            _ => panic!("`{line}` is neither an error nor what to do: {said}"),
        }
    }
    assert!(errors.len() == 1 && hints.len() <= 1, "{said}");
    (errors.remove(0), hints.pop())
}

#[tokio::test]
async fn wrong_variables_are_refused_with_the_right_ones() {
    let dir = TempDir::new().expect("a temporary directory");
    for (variable, value, error, hint) in [
        (
            "SHARKLOCK_RAFT__TIK",
            "1s",
            "unknown setting SHARKLOCK_RAFT__TIK",
            "SHARKLOCK_RAFT__TICK?",
        ),
        (
            "SHARKLOCK_RAFT_TICK",
            "1s",
            "unknown setting SHARKLOCK_RAFT_TICK",
            "SHARKLOCK_RAFT__TICK?",
        ),
        ("SHARKLOCK_RAFT__TICK", "soon", "SHARKLOCK_RAFT__TICK: expected a number", "unit of time"),
        ("SHARKLOCK_LOG", "loud", "SHARKLOCK_LOG=\"loud\" is not a log filter", "use a level"),
        ("SHARKLOCK_CLUSTER", "mine", "invalid value 'mine' for '--cluster", "--help"),
        (
            "SHARKLOCK_CONFIG",
            "/absent.toml",
            "configuration /absent.toml",
            "--config or SHARKLOCK_CONFIG",
        ),
    ] {
        let (said, todo) = refused(server(dir.path()).env(variable, value)).await;
        assert!(said.contains(error), "{variable}={value}: {said}");
        // What a value must look like stands in the line itself.
        let todo = todo.unwrap_or_else(|| said.clone());
        assert!(todo.contains(hint), "{variable}={value}: {todo}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is ours").count(), 0, "nothing was opened");
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_line() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("server.toml");
    std::fs::write(&file, "[server]\ninsecure = true\n[raft]\ntikc = \"1s\"\n")
        .expect("it is ours");
    let data = dir.path().join("data");
    let (said, todo) = refusal(server(&data).arg("--config").arg(&file)).await;
    assert!(said.ends_with("server.toml:4: unknown setting \"raft.tikc\""), "{said}");
    assert_eq!(todo, "did you mean raft.tick?");
    assert!(!data.exists());
}

#[tokio::test]
async fn a_directory_that_is_on_no_volume_is_refused_where_one_is_wanted() {
    // The root directory's file system is the one that a container loses.
    let data = Path::new("/sharklock-test-of-no-volume");
    let (said, todo) = refusal(server(data).env("SHARKLOCK_SERVER__DATA_ON_VOLUME", "true")).await;
    assert!(said.contains("is on no volume"), "{said}");
    assert!(todo.starts_with("mount a volume at /sharklock-test-of-no-volume"), "{todo}");
    assert!(!data.exists());
}

#[tokio::test]
async fn a_port_in_use_is_refused_with_the_option_that_chooses_another() {
    let dir = TempDir::new().expect("a temporary directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("it is bound").to_string();
    let mut server = command(["server", "--roles", "gateway", "--masters", "127.0.0.1:1"]);
    server.args(["--listen-admin", "127.0.0.1:0", "--listen-gateway", &at]);
    let (said, hint) = refused(&mut server).await;
    assert_eq!(said, format!("{at} is in use; choose another with --listen-gateway IP:PORT"));
    assert_eq!(hint, None);
    drop(dir);
}

#[tokio::test]
async fn a_directory_that_another_process_uses_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    // A master that waits for two that never come claims its directory and stays.
    let mut first = command(["server", "--roles", "master", "--listen-master", "127.0.0.1:11721"]);
    first.args(["--masters", "127.0.0.1:11721,127.0.0.1:2,127.0.0.1:3"]);
    first.args(["--listen-admin", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
    let mut first = Process::spawn(&mut first);
    sharklock_tests::wait::eventually("the claim of the directory", SOON, async || {
        assert_eq!(first.ended(), None, "{}", first.stderr());
        dir.path().join("master").exists().then_some(())
    })
    .await;
    let (said, todo) = refusal(&mut server(dir.path())).await;
    assert!(said.ends_with("is in use by another process"), "{said}");
    assert!(todo.starts_with("stop that process or container"), "{todo}");
}

/// A command of `setpriv` or `unshare`, or nothing, told aloud, where they cannot be had.
fn as_root(program: &str, args: &[&str]) -> Option<Command> {
    let mut command = Command::new(program);
    command.args(args);
    let works = nix::unistd::geteuid().is_root()
        && Command::new(program).args(args).arg("true").status().is_ok_and(|it| it.success());
    if !works {
        println!("left out: `{program} {}` does not work here", args.join(" "));
    }
    works.then_some(command)
}

/// Like everybody but root: who owns a file decides.
const WITHOUT_OVERRIDE: [&str; 2] = ["--bounding-set", "-dac_override,-dac_read_search"];

#[tokio::test]
async fn a_volume_of_another_owner_is_refused_with_the_command_that_gives_it() {
    let parent = TempDir::new().expect("a temporary directory");
    let data = parent.path().join("data");
    for inside in ["", "data", "data/CURRENT"] {
        let Some(mut server) = as_root("setpriv", &WITHOUT_OVERRIDE) else { return };
        let at = data.join(inside);
        if inside.ends_with("CURRENT") {
            std::fs::write(&at, "").expect("it is ours");
        } else {
            std::fs::create_dir(&at).expect("it is ours");
        }
        std::os::unix::fs::chown(&at, Some(7700), Some(7700)).expect("this is root");
        let mode = if at.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode)).expect("it is ours");
        server.arg(sharklock()).args(["server", "--roles", "master,data,gateway"]);
        with_ports(&mut server, &data);
        let (said, todo) = refusal(&mut server).await;
        let at = at.display().to_string();
        let at = at.trim_end_matches('/');
        assert!(
            said.contains(&format!("{at} belongs to user 7700, this process runs as 0")),
            "{said}"
        );
        assert_eq!(todo, format!("as root: chown -R 0:0 {at}"));
        std::os::unix::fs::chown(at, Some(0), Some(0)).expect("this is root");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let Some(mut server) = as_root("unshare", &["--mount"]) else { return };
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    server.args(["sh", "-c", read_only]).arg(dir.path()).arg(sharklock());
    server.args(["server", "--roles", "master,data,gateway"]);
    with_ports(&mut server, dir.path());
    let (said, todo) = refusal(&mut server).await;
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(todo.starts_with("mount it for writing"), "{todo}");
}
