//! The work of threads so far, by `/proc`: time on a processor, and how often they went to sleep.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::Context as _;

/// Of all threads of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nanoseconds on a processor.
    pub run_ns: u64,
    /// Times that one went to sleep, to be woken later.
    pub sleeps: u64,
}

/// All threads of some processes: the kind and the totals of each, by the ids of process and thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads(BTreeMap<(u32, u32), (String, Totals)>);

/// What was done, by kinds of threads.
pub type ByKind = BTreeMap<String, Totals>;

impl Threads {
    /// Looks at all threads of these processes.
    pub fn of(processes: &[u32]) -> anyhow::Result<Self> {
        let mut threads = BTreeMap::new();
        for process in processes {
            let path = format!("/proc/{process}/task");
            let tasks = fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
            for task in tasks {
                let task = task?;
                let id = task.file_name().to_str().and_then(|id| id.parse().ok());
                let id = id.with_context(|| format!("{} is no thread", task.path().display()))?;
                match thread(&task.path()) {
                    Ok((name, totals)) => {
                        threads.insert((*process, id), (kind_of(&name), totals));
                    }
                    // It has ended meanwhile.
                    Err(_) if !task.path().exists() => {}
                    Err(why) => {
                        let path = task.path();
                        return Err(why).with_context(|| format!("cannot read {}", path.display()));
                    }
                }
            }
        }
        Ok(Self(threads))
    }

    /// What was done since `before`, but for threads that have ended since.
    pub fn since(&self, before: &Self) -> ByKind {
        let mut all = ByKind::new();
        for (id, (kind, now)) in &self.0 {
            let before = before.0.get(id).map(|(_, totals)| *totals).unwrap_or_default();
            let of_kind = all.entry(kind.clone()).or_default();
            of_kind.run_ns += now.run_ns.saturating_sub(before.run_ns);
            of_kind.sleeps += now.sleeps.saturating_sub(before.sleeps);
        }
        all
    }
}

/// All kinds together.
pub fn all(of: &ByKind) -> Totals {
    let mut all = Totals::default();
    for totals in of.values() {
        all.run_ns += totals.run_ns;
        all.sleeps += totals.sleeps;
    }
    all
}

/// The name of a thread, and its totals.
fn thread(task: &Path) -> io::Result<(String, Totals)> {
    let name = fs::read_to_string(task.join("comm"))?.trim_end().to_owned();
    let run = fs::read_to_string(task.join("schedstat"))?;
    let status = fs::read_to_string(task.join("status"))?;
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Ok((name, Totals { run_ns: number(run.split(' ').next()), sleeps: number(sleeps) }))
}

/// The name without the number of a thread among its like.
fn kind_of(name: &str) -> String {
    let kind = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    kind.trim_end_matches(['-', ':']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_told_apart_by_what_they_are_for() {
        let kinds = ["store-raft-0", "store-raft-12", "tokio-rt-worker", "rocksdb:low1", "7"];
        let expected = ["store-raft", "store-raft", "tokio-rt-worker", "rocksdb:low", ""];
        assert_eq!(kinds.map(kind_of), expected);
    }

    #[test]
    fn work_and_sleep_are_counted_by_kind() {
        let me = [std::process::id()];
        let before = Threads::of(&me).expect("this process is there");
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::Builder::new().name("profiled-3".to_owned());
        let worker = worker.spawn(move || {
            // Work until it shows, then sleep until the end.
            let mut sum = 0_u64;
            for number in 0..50_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_add(number));
            }
            wait.recv().ok();
        });
        let worker = worker.expect("a thread can be made");
        let deadline = std::time::Duration::from_secs(60);
        let mut waited = std::time::Duration::ZERO;
        let spent = loop {
            let spent = Threads::of(&me).expect("this process is there").since(&before);
            let of = spent.get("profiled").copied().unwrap_or_default();
            if of.run_ns > 0 && of.sleeps > 0 {
                break spent;
            }
            assert!(waited < deadline, "{spent:?}");
            std::thread::park_timeout(std::time::Duration::from_millis(5));
            waited += std::time::Duration::from_millis(5);
        };
        drop(stop);
        worker.join().expect("no panic");
        assert!(all(&spent).run_ns >= spent["profiled"].run_ns);
    }

    #[test]
    fn a_thread_that_has_ended_takes_nothing_from_its_like() {
        let thread = |run_ns| ("worker".to_owned(), Totals { run_ns, sleeps: 1 });
        let before = Threads([((1, 1), thread(900)), ((1, 2), thread(50))].into());
        let now = Threads([((1, 2), thread(80)), ((1, 3), thread(7))].into());
        assert_eq!(now.since(&before)["worker"], Totals { run_ns: 30 + 7, sleeps: 1 });
    }
}
