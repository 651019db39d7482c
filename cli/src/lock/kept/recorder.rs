//! Keeps the record of a run current, from a thread of its own: a disk that stands still must not be
//! able to stop the supervisor, which has signals to send in time.

use std::{
    collections::BTreeSet,
    io,
    sync::mpsc::{self, SyncSender, TrySendError},
    thread::{self, JoinHandle},
};

use super::{
    cgroup::is_busy,
    file::RecordFile,
    record::{Member, RunRecord},
};
use crate::lock::{notices::Notices, proc::Process};

/// So often the removal of a cgroup is tried whose last process the kernel is still about to forget.
const REMOVALS_MAX: u32 = 1_000;

/// The record of a run that has begun.
#[derive(Debug)]
pub struct Recorder {
    file: RecordFile,
    record: RunRecord,
    /// What the thread was told last.
    known: BTreeSet<Member>,
    /// None where all is in a cgroup, and nobody needs to be named.
    writer: Option<Writer>,
    failure_told: bool,
}

#[derive(Debug)]
struct Writer {
    /// One list waits at most: the next is newer.
    lists: SyncSender<Vec<Member>>,
    failures: mpsc::Receiver<io::Error>,
    thread: JoinHandle<()>,
}

impl Recorder {
    /// Of a run whose record is on the disk.
    pub(super) fn start(file: RecordFile, record: RunRecord) -> io::Result<Self> {
        let known = record.members.iter().cloned().collect();
        let writer = match record.cgroup {
            Some(_) => None,
            None => Some(Writer::start(file.clone(), record.clone())?),
        };
        Ok(Self { file, record, known, writer, failure_told: false })
    }

    /// Somebody was seen: whoever is new is recorded as soon as the disk takes it.
    pub fn seen(&mut self, running: &[Process], notices: &Notices) {
        let Some(writer) = &self.writer else { return };
        if let Ok(error) = writer.failures.try_recv()
            && !std::mem::replace(&mut self.failure_told, true)
        {
            notices.say(format_args!(
                "cannot write {:?}: {error}; a start after a crash may not find all that runs now",
                self.file.path(),
            ));
        }
        let members: BTreeSet<Member> = running.iter().map(Member::from).collect();
        if members.is_subset(&self.known) {
            return;
        }
        match writer.lists.try_send(members.iter().cloned().collect()) {
            Ok(()) => self.known = members,
            // The next look tells it.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Nobody of the run is left: says so in the file.
    pub fn over(self) -> io::Result<()> {
        if let Some(Writer { lists, thread, .. }) = self.writer {
            drop(lists);
            drop(thread.join());
        }
        if let Some(cgroup) = &self.record.cgroup {
            let busy = || cgroup.remove().is_err_and(|error| is_busy(&error));
            // Whoever was put into it from elsewhere keeps it.
            let _ = (0..REMOVALS_MAX).any(|_| {
                let busy = busy();
                thread::yield_now();
                !busy
            });
        }
        self.file.write(None)
    }
}

impl Writer {
    fn start(file: RecordFile, mut record: RunRecord) -> io::Result<Self> {
        let (lists, new) = mpsc::sync_channel::<Vec<Member>>(1);
        let (failed, failures) = mpsc::sync_channel(1);
        let write = move || {
            for members in new {
                record.members = members;
                if let Err(error) = file.write(Some(&record)) {
                    // One is enough.
                    let _ = failed.try_send(error);
                }
            }
        };
        let thread = thread::Builder::new().name("recorder".into()).spawn(write)?;
        Ok(Self { lists, failures, thread })
    }
}
