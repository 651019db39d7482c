//! SIGKILL of the leader under load: how long until somebody is granted again.

use std::time::Duration;

use crate::{
    disk::{self, Sampler},
    measure,
    peers::{
        drive::{self, Cycle, Notes},
        results::{Failover, Kind, System},
        service::{Home, Replicated},
    },
    report::Disk,
    worker::{Window, now},
};

/// Workers, on names of their own.
const CLIENTS: u32 = 64;
/// The load runs so long before the kill.
const BEFORE: Duration = Duration::from_secs(3);
/// And so long after it: several elections.
const AFTER: Duration = Duration::from_secs(15);
/// A call without an answer is made again after so long, where the client leaves that to its user.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it takes at most, beside the start.
pub const TIME_MAX: Duration =
    BEFORE.saturating_add(AFTER).saturating_add(drive::DRAIN_MAX).saturating_mul(2);

/// Starts a cluster, loads it, kills its leader, and measures.
pub async fn run<S: Replicated>(
    home: &Home,
    system: System,
    round: u32,
) -> anyhow::Result<Failover> {
    let mut service = S::start(home).await?;
    let workers = service.workers(CLIENTS, Some(PATIENCE)).await?;
    let mut idle = disk::sample_idle(home.dir.clone()).await?;
    let sampler = Sampler::start(&home.dir)?;
    let window = Window::starting(now(), BEFORE, AFTER);
    let load = drive::start(workers, Kind::Own, "failover", window);
    tokio::time::sleep(BEFORE).await;
    let leader = service.leader().await?;
    let killed = window.nanos(now());
    leader.kill()?;
    let notes = load.ended().await;
    let loaded = sampler.stop();
    idle.extend(disk::sample_idle(home.dir.clone()).await?);
    let end = window.nanos(window.end());
    let all: Vec<Cycle> = notes.iter().flat_map(|notes: &Notes| &notes.cycles).copied().collect();
    let gaps = gaps(&all, killed, end);
    let dir = home.dir.display().to_string();
    Ok(Failover {
        round,
        system,
        clients: CLIENTS,
        cycles_per_s_before: gaps.cycles_before as f64 / seconds(killed),
        first_grant_ms: gaps.first_grant.map(|nanos| nanos as f64 / 1e6),
        longest_gap_ms: gaps.longest as f64 / 1e6,
        watched_s: seconds(end.saturating_sub(killed)),
        errors: measure::errors(notes.iter().map(|notes| &notes.errors)),
        disk: Disk::new(dir, measure::latencies(idle), measure::latencies(loaded)),
    })
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// The story of the kill, as the cycles tell it; all in nanoseconds.
#[derive(Debug, PartialEq, Eq)]
struct Gaps {
    cycles_before: u64,
    /// From the kill to the first grant of an acquire that began after it: what a dead leader had
    /// still answered is no sign of a new one.
    first_grant: Option<u64>,
    /// The longest time without any answer that ends after the kill and begins before `end`.
    longest: u64,
}

fn gaps(cycles: &[Cycle], killed: u64, end: u64) -> Gaps {
    let mut answers: Vec<u64> = cycles.iter().flat_map(|c| [c.granted, c.released]).collect();
    answers.retain(|&answer| answer < end);
    answers.push(end);
    answers.sort_unstable();
    let last_before = answers.iter().rev().find(|&&answer| answer <= killed);
    let mut at = last_before.copied().unwrap_or(0);
    let mut longest = 0;
    for answer in answers.into_iter().filter(|&answer| answer > killed) {
        longest = longest.max(answer - at);
        at = answer;
    }
    let new = cycles.iter().filter(|cycle| cycle.invoked > killed);
    Gaps {
        cycles_before: cycles.iter().filter(|cycle| cycle.released <= killed).count() as u64,
        first_grant: new.map(|cycle| cycle.granted - killed).min(),
        longest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle(invoked: u64, granted: u64, released: u64) -> Cycle {
        Cycle { invoked, granted, released }
    }

    #[test]
    fn the_gap_begins_with_the_last_answer_before_the_kill() {
        let cycles = [cycle(0, 10, 90), cycle(95, 300, 310), cycle(120, 320, 330)];
        let expected = Gaps { cycles_before: 1, first_grant: Some(220), longest: 210 };
        assert_eq!(gaps(&cycles, 100, 400), expected);
    }

    #[test]
    fn a_later_gap_counts_too_and_so_does_one_that_never_ends() {
        let cycles = [cycle(0, 10, 90), cycle(110, 120, 130), cycle(140, 600, 610)];
        assert_eq!(gaps(&cycles, 100, 700).longest, 470);
        assert_eq!(gaps(&cycles, 100, 5_000).longest, 4_390);
    }

    #[test]
    fn without_a_grant_after_the_kill_there_is_none_to_tell() {
        let expected = Gaps { cycles_before: 1, first_grant: None, longest: 910 };
        assert_eq!(gaps(&[cycle(0, 10, 90)], 100, 1_000), expected);
    }
}
