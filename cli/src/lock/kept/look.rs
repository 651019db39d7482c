//! A look at all processes that misses none: what a later start knows about those of an earlier run.
//!
//! A process that lives through the whole look is found by its number. One that is born meanwhile may
//! get a number that was passed already. The kernel gives numbers out in turn, so those that were
//! given since a moment are known: the look goes on with them until none was given.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    thread,
};

use super::record::Mark;
use crate::lock::proc::{self, Process};

/// So often numbers that were given meanwhile are looked at, until none was.
const ROUNDS_MAX: u32 = 5_000;
/// So often an environment is read that is empty while its process becomes another program.
const READS_MAX: u32 = 2_000;
/// The place of `env_end` among the fields of /proc/PID/stat after the name (field 51 of proc(5)).
const ENV_END: usize = 48;

/// What the environment of a process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// It has the mark.
    Marked,
    /// It has not.
    Unmarked,
    /// It is not shown to this user.
    Hidden,
}

/// One process, and what its environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The process.
    pub process: Process,
    /// Its environment.
    pub environment: Environment,
}

/// Why a look may have missed somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// /proc does not show all processes to this user (hidepid in proc(5)).
    HiddenProcesses,
    /// Processes were born faster than they could be looked at.
    Restless,
    /// The system refused.
    Failed(String),
}

/// All processes of this namespace, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Those that were seen.
    pub seen: BTreeMap<i32, Seen>,
    /// Why there may be others.
    pub gap: Option<Gap>,
}

/// Looks for all processes, and for `mark` in the environments of those that started at `since` or
/// later.
pub fn look(mark: &Mark, since: u64) -> Look {
    let mut look = Looking { mark: mark.to_string(), since, seen: BTreeMap::new() };
    let gap = match look.all() {
        Ok(()) if hides_processes() => Some(Gap::HiddenProcesses),
        Ok(()) => None,
        Err(gap) => Some(gap),
    };
    Look { seen: look.seen, gap }
}

struct Looking {
    mark: String,
    since: u64,
    seen: BTreeMap<i32, Seen>,
}

impl Looking {
    fn all(&mut self) -> Result<(), Gap> {
        let mut newest = newest_number()?;
        self.each(proc::numbers("/proc").map_err(failed)?)?;
        for _ in 0..ROUNDS_MAX {
            let before = std::mem::replace(&mut newest, newest_number()?);
            if newest == before.saturating_add(1) {
                return Ok(());
            }
            match newest > before {
                true => self.each((before + 1..newest).filter(|&number| is_process(number)))?,
                // They began anew at the smallest.
                false => self.each(proc::numbers("/proc").map_err(failed)?)?,
            }
        }
        Err(Gap::Restless)
    }

    fn each(&mut self, numbers: impl IntoIterator<Item = i32>) -> Result<(), Gap> {
        for number in numbers {
            if number.cast_unsigned() == std::process::id() {
                continue;
            }
            match see(number, &self.mark, self.since) {
                Ok(Some(seen)) => drop(self.seen.insert(number, seen)),
                Ok(None) => drop(self.seen.remove(&number)),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(Gap::HiddenProcesses);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

fn failed(error: io::Error) -> Gap {
    Gap::Failed(error.to_string())
}

/// The number that was given last: that of a thread, since threads get theirs from the same row.
fn newest_number() -> Result<i32, Gap> {
    let number = thread::Builder::new().spawn(|| nix::unistd::gettid().as_raw());
    number.map_err(failed)?.join().map_err(|_| Gap::Failed("a thread has failed".to_owned()))
}

/// Whether a number is a process's, and not only a further thread's.
fn is_process(number: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    group.is_none_or(|group| group.trim() == number.to_string())
}

/// How a process stands; none if there is none.
fn see(pid: i32, mark: &str, since: u64) -> io::Result<Option<Seen>> {
    for _ in 0..READS_MAX {
        let Some(process) = Process::try_look(pid)? else { return Ok(None) };
        if process.ended || process.is_kernel || process.start < since {
            return Ok(Some(Seen { process, environment: Environment::Unmarked }));
        }
        let environment = match environment(pid, mark) {
            Ok(environment) => environment,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Environment::Hidden),
            // It ends, or becomes another program.
            Err(error) if proc::is_gone(&error) => None,
            Err(error) => return Err(error),
        };
        // Unless its number has become another's meanwhile.
        let now = Process::try_look(pid)?;
        let is_it = now.is_some_and(|now| now.identity() == process.identity());
        if let Some(environment) = environment.filter(|_| is_it) {
            return Ok(Some(Seen { process, environment }));
        }
        thread::yield_now();
    }
    // Nobody knows what it has.
    let process = Process::try_look(pid)?;
    Ok(process.map(|process| Seen { process, environment: Environment::Hidden }))
}

/// What its environment says; none while it has none since it becomes another program.
fn environment(pid: i32, mark: &str) -> io::Result<Option<Environment>> {
    let has = |text: &[u8]| text.windows(mark.len()).any(|part| part == mark.as_bytes());
    let of = |text: &[u8]| if has(text) { Environment::Marked } else { Environment::Unmarked };
    let text = fs::read(format!("/proc/{pid}/environ"))?;
    if !text.is_empty() {
        return Ok(Some(of(&text)));
    }
    // Its first thread may have ended, and others go on.
    let tasks = format!("/proc/{pid}/task");
    for task in proc::numbers(&tasks)? {
        let text = fs::read(format!("{tasks}/{task}/environ")).unwrap_or_default();
        if !text.is_empty() {
            return Ok(Some(of(&text)));
        }
    }
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    Ok(has_environment(&stat).then_some(Environment::Unmarked))
}

/// Whether a process has its environment, which may be empty. While it becomes another program it has
/// none for a moment.
fn has_environment(stat: &[u8]) -> bool {
    let after_name = stat.iter().rposition(|&byte| byte == b')').map_or(0, |at| at + 1);
    let fields = String::from_utf8_lossy(&stat[after_name..]);
    fields.split_ascii_whitespace().nth(ENV_END).is_some_and(|end| end != "0")
}

/// Whether /proc keeps processes of others from this user.
fn hides_processes() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let may_see_all = rustix::process::geteuid().is_root() && Process::look(1).is_some();
    hides(&mounts) && !may_see_all
}

/// Whether the /proc that is seen has `hidepid`.
fn hides(mountinfo: &str) -> bool {
    let is_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let Some(line) = mountinfo.lines().rfind(is_proc) else { return true };
    let options = line.split([' ', ',']);
    options
        .filter_map(|option| option.strip_prefix("hidepid="))
        .any(|kind| !matches!(kind, "0" | "off"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::children::alone;
    use std::process::Command;

    fn sleeper(mark: &Mark) -> std::process::Child {
        let mut command = Command::new("sleep");
        command.arg("600").env("SHARKLOCK_RUNS", format!("before {mark}"));
        command.spawn().expect("sleep(1) starts")
    }

    #[test]
    fn whoever_has_the_mark_is_found_and_nobody_else() {
        let _alone = alone();
        let mark = Mark::random().expect("there is randomness");
        let mut child = sleeper(&mark);
        let pid = child.id().cast_signed();
        let marked = |look: &Look| {
            let marked = |seen: &&Seen| seen.environment == Environment::Marked;
            let found = look.seen.values().filter(marked);
            found.map(|seen| seen.process.pid.as_raw_pid()).collect::<Vec<_>>()
        };
        assert_eq!(marked(&look(&mark, 0)), [pid]);
        let start = Process::look(pid).expect("it lives").start;
        assert_eq!(marked(&look(&mark, start)), [pid]);
        assert_eq!(marked(&look(&mark, start + 1)), [0; 0], "it is older than the run");
        assert_eq!(marked(&look(&Mark::random().expect("there is randomness"), 0)), [0; 0]);
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert_eq!(marked(&look(&mark, 0)), [0; 0]);
    }

    #[test]
    fn an_empty_environment_is_told_from_none() {
        let _alone = alone();
        let stat = |end: &str| format!("7 (a) b) S{} {end} 0", " 1".repeat(ENV_END - 1));
        assert!(has_environment(stat("140736").as_bytes()));
        assert!(!has_environment(stat("0").as_bytes()));
        assert!(!has_environment(b"7 (x) S 1 2"));
        assert!(!has_environment(b""));
        let mut child = Command::new("sleep").arg("600").env_clear().spawn().expect("it starts");
        let seen =
            see(child.id().cast_signed(), "mark", 0).expect("it is shown").expect("it lives");
        assert_eq!(seen.environment, Environment::Unmarked);
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    #[test]
    fn a_proc_that_hides_processes_is_known() {
        let line = |options: &str| format!("20 1 0:5 / /proc rw - proc proc {options}\n");
        assert!(!hides(&line("rw")));
        assert!(!hides(&line("rw,hidepid=0")));
        assert!(!hides(&line("rw,hidepid=off")));
        for kind in ["1", "2", "4", "noaccess", "invisible", "ptraceable"] {
            assert!(hides(&line(&format!("rw,gid=7,hidepid={kind}"))), "{kind}");
        }
        assert!(hides(""), "nobody knows what it is");
        assert!(hides(&format!("{}{}", line("rw"), line("rw,hidepid=2"))), "the last one counts");
    }

    #[test]
    fn numbers_are_given_in_turn() {
        // Others may start something between the two, but not each time.
        let is_next = || newest_number().unwrap() == newest_number().unwrap() - 1;
        assert!((0..1_000).any(|_| is_next()));
    }
}
