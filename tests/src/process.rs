//! Child processes that tests start, signal, wait for, and never leave behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::wait::eventually;

/// The binary under test: `SHARKLOCK_BIN`, or the one that cargo built beside this test. Tests
/// build nothing themselves, so that they never test something else than what was built.
///
/// # Panics
/// When it is not there, with what to do.
pub fn sharklock() -> PathBuf {
    if let Some(path) = std::env::var_os("SHARKLOCK_BIN") {
        return path.into();
    }
    let this = std::env::current_exe().expect("a process knows its program");
    // target/PROFILE/deps/TEST -> target/PROFILE/sharklock
    let path = this.ancestors().nth(2).expect("cargo runs tests two levels down").join("sharklock");
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build -p sharklock-cli` first, or set SHARKLOCK_BIN",
        path.display()
    );
    path
}

/// A running child. Its output goes to files, so that it never waits for a reader. Killed when
/// dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    output: TempDir,
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, |command, stdout, stderr| {
            command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        })
    }

    /// The same for a program whose input and output are somewhere else already.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_connected(command: &mut Command) -> Self {
        Self::spawn_with(command, |_, _, _| ())
    }

    fn spawn_with(command: &mut Command, connect: impl FnOnce(&mut Command, File, File)) -> Self {
        let output = TempDir::new().expect("a temporary directory can be made");
        let file = |name| File::create(output.path().join(name)).expect("a file can be made");
        connect(command, file("stdout"), file("stderr"));
        let what = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Self { child, what, output }
    }

    /// The child's process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("process ids are positive"))
    }

    /// Sends a signal to the child alone.
    ///
    /// # Panics
    /// When the child has been waited for: its id may be another's by now.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.what));
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap_or_else(|error| panic!("{}: {error}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it goes on for longer.
    pub async fn ends(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.what);
        eventually(&what, within, async || self.ended()).await
    }

    /// Kills it as a power cut would, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        self.child.wait().unwrap_or_else(|error| panic!("{}: {error}", self.what));
    }

    /// Its output to stdout so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Its output to stderr so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.output.path().join(name)).expect("the file is ours");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let (out, err) = (self.stdout(), self.stderr());
            eprintln!("--- {}\n{out}--- its stderr\n{}---", self.what, last_lines(&err, 40));
        }
    }
}

/// The end of a log, without the far ends of its lines: a backtrace in JSON is one line.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    last.iter().map(|line| line.chars().take(2_000).chain(['\n']).collect::<String>()).collect()
}

/// A call of the binary under test, which heeds all signals even if the tests were started without
/// some: shells start background jobs with SIGINT ignored, and `sharklock lock` leaves it so.
pub fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(sharklock()).args(args);
    for variable in ["SHARKLOCK_ENDPOINTS", "SHARKLOCK_CLUSTER", "SHARKLOCK_OUTPUT"] {
        command.env_remove(variable);
    }
    command
}

/// A file's text; empty while there is no file.
pub fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Whether a process runs: one that has ended and waits for somebody to reap it does not.
pub fn is_running(pid: &str) -> bool {
    let stat = text_of(&Path::new("/proc").join(pid).join("stat"));
    // PID (NAME) STATE …, where the name may hold anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
