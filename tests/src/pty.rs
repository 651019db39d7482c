//! A command on a terminal of its own, whose screen is read as bytes.

use std::{
    fs::File,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    process::{Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{process::Process, wait::eventually};

/// For what is over in milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(30);

/// A process that has a terminal, and has it to itself.
#[derive(Debug)]
pub struct OnTerminal {
    process: Process,
    written: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl OnTerminal {
    /// Starts it on a terminal of so many columns, and 24 lines.
    pub fn start(command: &Command, columns: u16) -> Self {
        // Whatever else is started at this moment must not get its ends.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("the system has terminals");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&master, size).expect("it is a terminal");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let name = std::ffi::OsStr::from_bytes(name.as_bytes());
        let no_ctty = rustix::fs::OFlags::NOCTTY.bits() as i32;
        let end = File::options().read(true).write(true).custom_flags(no_ctty).open(name);
        let end = end.expect("its other end can be opened");
        // It makes this the terminal of a new session, whose first process has it.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        let stdio = || Stdio::from(end.try_clone().expect("a descriptor more"));
        on_terminal.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let process = Process::spawn_connected(&mut on_terminal);
        // The commands' ends would keep the terminal open here.
        drop((on_terminal, end));
        let written = Arc::default();
        let (to, mut from) = (Arc::clone(&written), File::from(master));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails once nobody has the other end any more.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                bytes_of(&to).extend_from_slice(&bytes[..count]);
            }
        });
        Self { process, written, reader }
    }

    /// All that was written so far.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&bytes_of(&self.written)).into_owned()
    }

    /// Waits until what was written is as wanted, and gives it back.
    pub async fn until(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        eventually(what, SOON, async || Some(self.written()).filter(|text| is(text))).await
    }

    /// Sends it what Ctrl-C would.
    pub fn interrupt(&self) {
        self.process.signal(Signal::SIGINT);
    }

    /// Waits for its end: its exit code, and all that was written.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let status = self.process.ends(SOON).await;
        let what = "the end of what was written";
        eventually(what, SOON, async || self.reader.is_finished().then_some(())).await;
        (status.code(), self.written())
    }
}

fn bytes_of(written: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    written.lock().unwrap_or_else(PoisonError::into_inner)
}
