//! Processes as /proc shows them.
//!
//! It does not know whose they are; see `lock/descendants.rs`.

use std::{collections::BTreeMap, fs, io, path::Path};

use rustix::{io::Errno, process};

/// The mark of kernel threads among the flags of a process.
const PF_KTHREAD: u64 = 0x0020_0000;

/// One process.
///
/// Its number and its start together name it: the kernel gives numbers out in turn, so that one
/// cannot come round again within the tick of 10 ms that a start is counted in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: process::Pid,
    /// When it started, in ticks since the machine did.
    pub start: u64,
    /// Its program, cut to 15 bytes by the kernel.
    pub name: String,
    /// The number of its parent.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session, which is the number of the process that began it.
    pub session: i32,
    /// The kernel runs it for itself: it has no program.
    pub is_kernel: bool,
    /// It has ended, and waits for its parent to take notice.
    pub ended: bool,
}

impl Process {
    /// How it stands now; none if there is no such process, or it is not shown to this user.
    pub fn look(pid: i32) -> Option<Self> {
        Self::try_look(pid).ok().flatten()
    }

    /// The same, where it matters whether there is no such process, or it is not shown.
    pub fn try_look(pid: i32) -> io::Result<Option<Self>> {
        match fs::read(format!("/proc/{pid}/stat")) {
            Ok(stat) => Ok(parse(&stat)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A process of which no more than its number and its parent is shown (hidepid in proc(5)).
    pub fn hidden(pid: i32, parent: i32) -> Option<Self> {
        let pid = process::Pid::from_raw(pid)?;
        let name = "?".to_owned();
        let (start, group, session) = (0, 0, 0);
        Some(Self { pid, start, name, parent, group, session, is_kernel: false, ended: false })
    }

    /// Whether it was made by [`Process::hidden`].
    pub fn is_hidden(&self) -> bool {
        self.start == 0
    }

    /// The pair that no other process has, now or later.
    pub fn identity(&self) -> (i32, u64) {
        (self.pid.as_raw_pid(), self.start)
    }

    /// Whether it belongs to somebody else, so that this process may not signal it.
    pub fn is_foreign(&self) -> bool {
        process::test_kill_process(self.pid) == Err(Errno::PERM)
    }
}

/// Reads /proc/PID/stat: `7 (NAME) S 1 …`, where NAME may hold anything, blanks and brackets too.
fn parse(stat: &[u8]) -> Option<Process> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let pid: i32 = std::str::from_utf8(&stat[..open]).ok()?.trim().parse().ok()?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let field: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbered from the state on, which proc(5) calls field 3.
    let number = |at: usize| field.get(at)?.parse::<u64>().ok();
    let signed = |at: usize| field.get(at)?.parse::<i32>().ok();
    let threads = number(17)?;
    Some(Process {
        pid: process::Pid::from_raw(pid)?,
        start: number(19)?,
        name,
        parent: signed(1)?,
        group: signed(2)?,
        session: signed(3)?,
        is_kernel: number(6)? & PF_KTHREAD != 0,
        // A first thread that has ended reads like an ended process, but the others go on.
        ended: matches!(field[0], "Z" | "X") && threads <= 1,
    })
}

/// Whether this is how /proc says that there is no such process, any more.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The children of each process.
#[derive(Debug)]
pub enum Children {
    /// The kernel keeps a list per thread.
    Listed,
    /// It does not (CONFIG_PROC_CHILDREN): every process was asked for its parent.
    Asked(BTreeMap<i32, Vec<i32>>),
}

impl Children {
    /// As they stand now.
    pub fn read() -> Self {
        match Path::new("/proc/thread-self/children").exists() {
            true => Self::Listed,
            false => Self::ask(),
        }
    }

    fn ask() -> Self {
        let mut children = BTreeMap::<i32, Vec<i32>>::new();
        for pid in numbers("/proc").unwrap_or_default() {
            if let Some(process) = Process::look(pid) {
                children.entry(process.parent).or_default().push(pid);
            }
        }
        Self::Asked(children)
    }

    /// The children of a process, those of all its threads. One that is born or given to it
    /// meanwhile may be missing.
    pub fn of(&self, parent: i32) -> Vec<i32> {
        match self {
            Self::Listed => listed(parent),
            Self::Asked(children) => children.get(&parent).cloned().unwrap_or_default(),
        }
    }
}

fn listed(parent: i32) -> Vec<i32> {
    let tasks = format!("/proc/{parent}/task");
    let mut children = Vec::new();
    for task in numbers(&tasks).unwrap_or_default() {
        let text = fs::read_to_string(format!("{tasks}/{task}/children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    children
}

/// The entries of a directory that are numbers.
pub fn numbers(directory: &str) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(directory)?.filter_map(Result::ok);
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = "1 7 7 0 -1 4194304 88 0 0 0 0 0 0 0 20 0 THREADS 0 5317 2949120 225";

    fn stat(name: &str, state: &str, threads: &str) -> Option<Process> {
        parse(format!("7 ({name}) {state} {}", REST.replace("THREADS", threads)).as_bytes())
    }

    #[test]
    fn a_process_is_read_from_proc_whatever_it_is_called() {
        for name in ["sleep", "a) R 9 (b", "", "two words", ") Z 1"] {
            let process = stat(name, "S", "1").expect("it is whole");
            assert_eq!((process.pid.as_raw_pid(), process.parent, process.start), (7, 1, 5317));
            assert_eq!((process.name.as_str(), process.ended), (name, false));
            assert_eq!((process.group, process.session, process.is_kernel), (7, 7, false));
        }
        assert_eq!(parse(b"7 (sleep) S 1"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_process_has_ended_when_no_thread_is_left() {
        assert!(stat("x", "Z", "1").expect("it is whole").ended);
        assert!(stat("x", "X", "0").expect("it is whole").ended);
        assert!(!stat("x", "Z", "2").expect("it is whole").ended, "its other threads run");
        assert!(!stat("x", "T", "1").expect("it is whole").ended);
    }

    #[test]
    fn both_ways_to_learn_of_children_agree() {
        // A pid 1 adopts nobody's children here, and this test starts none: others of the same
        // process would reap them.
        let of = |children: &Children| {
            let mut pids: Vec<i32> = children.of(1);
            pids.sort_unstable();
            pids
        };
        let agree = || of(&Children::read()) == of(&Children::ask());
        assert!((0..100).any(|_| agree()), "they never agree about the children of pid 1");
    }

    #[test]
    fn this_process_is_found_and_nobody_else_s() {
        let own = std::process::id().cast_signed();
        let process = Process::look(own).expect("it runs");
        assert_eq!(process.parent, std::os::unix::process::parent_id().cast_signed());
        assert!(!process.ended && !process.is_foreign() && !process.is_hidden());
        assert_eq!(Process::look(own).map(|again| again.identity()), Some(process.identity()));
        assert_eq!(Process::look(0), None);
    }
}
