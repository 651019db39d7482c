//! One process of a cluster: started, signalled, and seen to its end.
//!
//! Signals go only to a child that was not waited for yet, whose id cannot be another's.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{control::Answer, layout::NodeSpec};
use crate::spawn::spawn_bound_to_this_thread;

/// How to start nodes.
#[derive(Debug)]
pub struct Recipe {
    /// This binary.
    pub program: PathBuf,
    /// The directory of the cluster.
    pub dir: PathBuf,
    /// Arguments for every node beside its own.
    pub arguments: Vec<OsString>,
    /// Variables for every node.
    pub variables: Vec<(String, String)>,
}

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// Its place in the layout.
    pub spec: NodeSpec,
    /// Its state.
    pub process: Process,
    /// A command that waits until it is ready.
    pub awaited: Option<oneshot::Sender<Answer>>,
}

/// The state of a node.
#[derive(Debug)]
pub enum Process {
    /// It was not started yet.
    Unborn,
    /// It runs.
    Running(Running),
    /// It has ended.
    Ended(ExitStatus),
}

/// A node that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// It was ready once.
    pub was_ready: bool,
    /// It does not go on.
    pub paused: bool,
    /// It was told to end.
    pub ending: Option<Ending>,
    /// Looks whether it is ready.
    pub watch: Option<AbortHandle>,
}

/// Why a node was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Its end is what was asked for.
    Stop,
    /// It is to be started again.
    Restart,
}

/// How a node ended.
#[derive(Debug)]
pub struct End {
    /// Its process.
    pub pid: u32,
    /// How.
    pub status: ExitStatus,
    /// It was told to.
    pub asked: Option<Ending>,
}

impl Node {
    /// Not started yet.
    pub fn new(spec: NodeSpec) -> Self {
        Self { spec, process: Process::Unborn, awaited: None }
    }

    /// Starts it. To be called on the main thread: it is killed when the calling thread ends.
    pub fn start(&mut self, recipe: &Recipe, own: Vec<String>) -> io::Result<u32> {
        assert!(self.running().is_none(), "{} runs already", self.spec.name);
        let dir = recipe.dir.join(&self.spec.name);
        fs::create_dir_all(&dir)?;
        let log = File::options().create(true).append(true).open(log_of(&dir))?;
        let mut command = Command::new(&recipe.program);
        command.args(own).args(&recipe.arguments).envs(recipe.variables.iter().cloned());
        // The variables that clients find servers by are not for servers, and a config file is
        // named explicitly.
        command.env_remove("SHARKLOCK_CONFIG").env_remove("SHARKLOCK_CLUSTER");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = spawn_bound_to_this_thread(&mut command, SigSet::thread_get_mask()?)?;
        let pid = child.id();
        let (was_ready, paused) = (false, false);
        let running = Running { child, was_ready, paused, ending: None, watch: None };
        self.process = Process::Running(running);
        Ok(pid)
    }

    /// Answers the command that waits for this node, if one does. One that has gone away needs no
    /// answer.
    pub fn answer(&mut self, answer: Answer) {
        if let Some(awaited) = self.awaited.take() {
            let _ = awaited.send(answer);
        }
    }

    /// Its process, if it has one.
    pub fn running(&self) -> Option<&Running> {
        match &self.process {
            Process::Running(running) => Some(running),
            Process::Unborn | Process::Ended(_) => None,
        }
    }

    /// The same, to change it.
    pub fn running_mut(&mut self) -> Option<&mut Running> {
        match &mut self.process {
            Process::Running(running) => Some(running),
            Process::Unborn | Process::Ended(_) => None,
        }
    }

    /// Looks whether it has ended since the last look.
    pub fn poll(&mut self) -> Option<End> {
        let Process::Running(running) = &mut self.process else { return None };
        let status = running.child.try_wait().ok().flatten()?;
        if let Some(watch) = running.watch.take() {
            watch.abort();
        }
        let pid = running.pid();
        let end = End { pid, status, asked: running.ending };
        self.process = Process::Ended(status);
        Some(end)
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to it and to whatever it may have started.
    pub fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.pid()).expect("Linux pids are below 2^22");
        // It may be ending at this moment, which is as good.
        let _ = killpg(Pid::from_raw(group), signal);
    }

    /// Tells it to end in order, also if it is paused.
    pub fn terminate(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.signal(Signal::SIGTERM);
        if std::mem::take(&mut self.paused) {
            self.signal(Signal::SIGCONT);
        }
    }
}

/// The path of a node's log.
pub fn log_of(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// How a process ended, for people.
pub fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// The last line of a log that says why a process ended; empty when there is none.
pub fn last_words(log: &Path) -> String {
    // Errors are the last that a process writes; what stands before is not searched for them.
    const TAIL_BYTES: u64 = 16 << 10;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let error = text.lines().rev().find_map(|line| line.strip_prefix("error: "));
    error.map(str::to_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_people_say_it() {
        assert_eq!(told(ExitStatus::from_raw(78 << 8)), "exit code 78");
        assert_eq!(told(ExitStatus::from_raw(9)), "killed by SIGKILL");
    }

    #[test]
    fn last_words_are_the_last_error() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let log = log_of(dir.path());
        assert_eq!(last_words(&log), "");
        fs::write(&log, "error: old\n{\"level\":\"INFO\"}\nerror: new\nhint: x\n")
            .expect("written");
        assert_eq!(last_words(&log), "new");
    }
}
