//! Which system has its turn when, and what a turn is.

use std::time::Duration;

use crate::{
    disk::{self, Sampler},
    measure,
    peers::{
        drive::{self, Figures},
        results::{Kind, Run, System},
        service::{Home, Service},
    },
    report::Disk,
    worker::{Window, now},
};

/// After a start every system is loaded so long before anything is measured: a JVM compiles, caches
/// fill.
const HEAT: Duration = Duration::from_secs(3);
/// By so many workers.
const HEAT_CLIENTS: u32 = 64;
/// The time that starting a system may take beside its runs.
const START_MAX: Duration = Duration::from_secs(300);
/// The time that sampling the disk and making clients may take beside a run.
const AROUND_MAX: Duration = Duration::from_secs(60);

/// One start of one system, and its runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// From 1.
    pub round: u32,
    /// Which.
    pub system: System,
    /// The work of its workers.
    pub kind: Kind,
    /// One run each.
    pub clients: Vec<u32>,
    /// Before each run counts.
    pub warmup: Duration,
    /// That counts.
    pub duration: Duration,
}

impl Turn {
    /// When something is wrong at the latest.
    pub fn time_max(&self) -> Duration {
        let run = self.warmup + self.duration + drive::DRAIN_MAX + AROUND_MAX;
        START_MAX + run * u32::try_from(self.clients.len()).unwrap_or(u32::MAX)
    }

    /// Starts the system, heats it, and makes the runs.
    pub async fn run<S: Service>(&self, home: &Home) -> anyhow::Result<Vec<Run>> {
        let service = S::start(home).await?;
        let heat = Window::starting(now(), Duration::ZERO, HEAT);
        let workers = service.workers(HEAT_CLIENTS, None).await?;
        drive::start(workers, Kind::Own, "heat", heat).ended().await;
        let mut runs = Vec::new();
        for (n, &clients) in self.clients.iter().enumerate() {
            let workers = service.workers(clients, None).await?;
            let mut idle = disk::sample_idle(home.dir.clone()).await?;
            let sampler = Sampler::start(&home.dir)?;
            let window = Window::starting(now(), self.warmup, self.duration);
            let load = drive::start(workers, self.kind, &format!("run-{n}"), window);
            let notes = load.ended().await;
            let loaded = sampler.stop();
            idle.extend(disk::sample_idle(home.dir.clone()).await?);
            let dir = home.dir.display().to_string();
            let disk = Disk::new(dir, measure::latencies(idle), measure::latencies(loaded));
            runs.push(self.note(clients, drive::figures(&notes, window), disk));
        }
        Ok(runs)
    }

    fn note(&self, clients: u32, figures: Figures, disk: Disk) -> Run {
        Run {
            round: self.round,
            system: self.system,
            workload: self.kind,
            clients,
            cycles_per_s: figures.cycles_count as f64 / self.duration.as_secs_f64(),
            cycle: figures.cycle,
            acquire: figures.acquire,
            release: figures.release,
            fairness: (self.kind == Kind::Hot).then_some(figures.fairness),
            errors: figures.errors,
            overlaps: figures.overlaps,
            disk,
        }
    }
}

/// All turns: in every round and for every workload each system has one, in the same order.
pub fn turns(
    rounds: u32,
    kinds: &[Kind],
    systems: &[System],
    clients: &[u32],
    [warmup, duration]: [Duration; 2],
) -> Vec<Turn> {
    let mut turns = Vec::new();
    for round in 1..=rounds {
        for &kind in kinds {
            for &system in systems {
                let clients = clients.to_vec();
                turns.push(Turn { round, system, kind, clients, warmup, duration });
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_take_turns_within_a_workload_and_a_round() {
        let second = Duration::from_secs(1);
        let systems = [System::Sharklock, System::Etcd];
        let turns = turns(2, &Kind::ALL, &systems, &[1, 64], [second, second]);
        let order: Vec<_> = turns.iter().map(|turn| (turn.round, turn.kind, turn.system)).collect();
        let [a, b] = systems;
        let round =
            |n| [(n, Kind::Own, a), (n, Kind::Own, b), (n, Kind::Hot, a), (n, Kind::Hot, b)];
        assert_eq!(order, [round(1), round(2)].concat());
        assert_eq!(turns[0].clients, [1, 64]);
        assert!(turns[0].time_max() > 4 * second);
    }
}
