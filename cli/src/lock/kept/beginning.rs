//! The begin of a run: its first process is on the disk, and in the run's cgroup, before it becomes
//! the command.

use std::{env, io};

use rustix::process::Pid;
use sharklock_client::LockMode;

use super::{
    cgroup::Cgroup,
    file::RecordFile,
    place::Place,
    record::{Mark, Member, Outside, RunRecord},
    recorder::Recorder,
};
use crate::{args::Proof, lock::proc::Process};

/// The variable with the marks of all runs that a process is of, the outermost first.
const VARIABLE: &str = "SHARKLOCK_RUNS";

/// A run that is about to begin.
#[derive(Debug)]
pub struct Beginning {
    file: RecordFile,
    name: String,
    mode: LockMode,
    token: u64,
    by: Proof,
    mark: Mark,
}

impl Beginning {
    /// Of a command under this lock.
    pub fn new(
        file: RecordFile,
        (name, mode, token): (&str, LockMode, u64),
        by: Proof,
    ) -> io::Result<Self> {
        let (name, mark) = (name.to_owned(), Mark::random()?);
        Ok(Self { file, name, mode, token, by, mark })
    }

    /// The variable that marks the command, and with it all that it starts.
    pub fn variable(&self) -> (&'static str, String) {
        let outer = env::var(VARIABLE).unwrap_or_default();
        (VARIABLE, format!("{outer} {}", self.mark).trim_start().to_owned())
    }

    /// Takes the first process in, which waits and has started nothing: records it, and returns when
    /// that is on the disk.
    ///
    /// # Errors
    /// It must not become the command: what it starts could not be found again.
    pub fn take_in(&self, first: Pid) -> io::Result<Recorder> {
        let number = first.as_raw_pid();
        let none = || io::Error::other("/proc does not show the command's process");
        let process = Process::try_look(number)?.ok_or_else(none)?;
        let cgroup = match self.by {
            Proof::Pids => None,
            Proof::Cgroup => Some(with_cgroup(number)?),
            // Most users have no cgroup of their own.
            Proof::Auto => with_cgroup(number).ok(),
        };
        let record = RunRecord {
            name: self.name.clone(),
            mode: self.mode,
            token: self.token,
            mark: self.mark,
            since: process.start,
            place: Place::of_this_process().ok_or_else(none)?,
            outside: outside().ok_or_else(none)?,
            cgroup,
            members: vec![Member::from(&process)],
        };
        let written = self.file.write(Some(&record));
        if let (Err(_), Some(cgroup)) = (&written, &record.cgroup) {
            // It is removed with the one that it is in otherwise.
            let _ = cgroup.remove();
        }
        written.and_then(|()| Recorder::start(self.file.clone(), record))
    }
}

fn with_cgroup(first: i32) -> io::Result<Cgroup> {
    let told = |error: io::Error| {
        io::Error::new(error.kind(), format!("no cgroup can be made for the run: {error}"))
    };
    let cgroup = Cgroup::make().map_err(told)?;
    match cgroup.take_in(first) {
        Ok(()) => Ok(cgroup),
        Err(error) => {
            let _ = cgroup.remove();
            Err(told(error))
        }
    }
}

fn outside() -> Option<Outside> {
    let own = Process::look(std::process::id().cast_signed())?;
    let mut outside =
        Outside { group: own.group, session: own.session, ancestors: vec![own.identity()] };
    let mut parent = own.parent;
    // The first process of a namespace has the parent 0, and so has who was put into it.
    while let Some(process) = Process::look(parent) {
        outside.ancestors.push(process.identity());
        parent = process.parent;
    }
    Some(outside)
}
