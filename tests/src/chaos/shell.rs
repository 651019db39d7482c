//! The counter of a shell under `sharklock lock`: no lost update, whatever happens to the cluster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Command;
use tokio::time::sleep;

/// The number, which all shells share.
const COUNTER: &str = "counter";
/// After a lock that was not to be had.
const PAUSE: Duration = Duration::from_millis(200);
/// Adds one; the file is exchanged whole, so that a shell that is killed leaves the old or the new one.
const ADD_ONE: &str = "n=$(cat /out/counter 2>/dev/null || echo 0); \
                       echo $((n + 1)) >/out/counter.$$ && mv /out/counter.$$ /out/counter";

/// Counts until `stop` and leaves how often it tried, and how often it was told that it was done.
///
/// # Errors
/// When nothing can be written.
pub async fn run(label: &str, out: &Path, stop: impl Future<Output = ()>) -> Result<()> {
    let stopped = AtomicBool::new(false);
    let counting = async {
        let (mut tried, mut done) = (0_u64, 0_u64);
        while !stopped.load(Ordering::Relaxed) {
            tried += 1;
            let mut lock = Command::new("sharklock");
            lock.args([
                "lock",
                "g0/shell",
                "--ttl",
                "6s",
                "--timeout",
                "20s",
                "--",
                "sh",
                "-c",
                ADD_ONE,
            ]);
            let status = lock.output().await.context("sharklock lock")?.status;
            if status.success() {
                done += 1;
            } else {
                sleep(PAUSE).await;
            }
        }
        Ok::<_, anyhow::Error>((tried, done))
    };
    let stopping = async {
        stop.await;
        stopped.store(true, Ordering::Relaxed);
    };
    let (counted, ()) = tokio::join!(counting, stopping);
    let (tried, done) = counted?;
    std::fs::write(file(out, label), format!("{tried} {done}\n"))?;
    Ok(())
}

fn file(out: &Path, label: &str) -> PathBuf {
    out.join(format!("{label}.count"))
}

/// What the shells have counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often one has tried.
    pub tried: u64,
    /// How often one was told that it was done.
    pub done: u64,
    /// What the counter shows.
    pub counter: u64,
}

impl Counted {
    /// Of the shells with these labels.
    ///
    /// # Errors
    /// When one has left nothing.
    pub fn read(out: &Path, labels: &[&str]) -> Result<Self> {
        let (mut tried, mut done) = (0, 0);
        for label in labels {
            let text =
                std::fs::read_to_string(file(out, label)).with_context(|| (*label).to_owned())?;
            let (one, other) = text.trim().split_once(' ').context("two numbers")?;
            tried += one.parse::<u64>()?;
            done += other.parse::<u64>()?;
        }
        let counter = std::fs::read_to_string(out.join(COUNTER)).unwrap_or_else(|_| "0".to_owned());
        Ok(Self { tried, done, counter: counter.trim().parse()? })
    }

    /// What is wrong with it: an update is lost, or was made by nobody.
    pub fn fault(&self) -> Option<String> {
        let Self { tried, done, counter } = *self;
        let lost = counter < done;
        (lost || counter > tried).then(|| {
            format!("the shells' counter is {counter}, after {done} of {tried} runs that said done")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_update_is_a_fault_and_a_killed_shell_is_none() {
        let counted = |counter| Counted { tried: 12, done: 10, counter }.fault();
        assert_eq!((counted(10), counted(12)), (None, None));
        assert!(counted(9).is_some_and(|fault| fault.contains("counter is 9, after 10 of 12")));
        assert!(counted(13).is_some());
    }
}
