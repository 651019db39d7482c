//! Medians over rounds, and ratios within them.

use std::collections::BTreeMap;

use crate::peers::results::{Failover, Kind, Results, Run, System};

/// Middle, smallest and largest of some figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the mean of both.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// None of nothing.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, min, max })
    }
}

/// The measurements of one system, one workload and one number of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Cycles per second.
    pub rate: Spread,
    /// SharkLock's rate as a multiple of this one, round by round.
    pub rate_ratio: Option<Spread>,
    /// The median of a cycle, milliseconds.
    pub p50_ms: Spread,
    /// SharkLock's median as a share of this one, round by round.
    pub p50_ratio: Option<Spread>,
    /// The 99th percentile of a cycle, milliseconds.
    pub p99_ms: Spread,
    /// `fdatasync`, microseconds.
    pub f_us: Spread,
    /// Jain's index; of a hot lock.
    pub jain: Option<Spread>,
}

/// All cells, in the order of the tables.
pub fn cells(results: &Results) -> BTreeMap<(u8, u32, System), Cell> {
    let places = results.runs.iter().map(|run| (order(run.workload), run.clients, run.system));
    let places: std::collections::BTreeSet<_> = places.collect();
    let cell = |place| Some((place, cell(results, place)?));
    places.into_iter().filter_map(cell).collect()
}

/// The workload's place in the tables.
pub fn order(kind: Kind) -> u8 {
    match kind {
        Kind::Own => 0,
        Kind::Hot => 1,
    }
}

fn cell(results: &Results, (kind, clients, system): (u8, u32, System)) -> Option<Cell> {
    let is_here = |run: &&Run| order(run.workload) == kind && run.clients == clients;
    let of = |system| results.runs.iter().filter(is_here).filter(move |run| run.system == system);
    let ratio = |figure: fn(&Run) -> f64| {
        let pairs = of(system).filter_map(|run| {
            let ours = of(System::Sharklock).find(|ours| ours.round == run.round)?;
            Some(figure(ours) / figure(run))
        });
        Spread::of(pairs.filter(|ratio| ratio.is_finite()))
    };
    let is_other = system != System::Sharklock;
    Some(Cell {
        rate: Spread::of(of(system).map(|run| run.cycles_per_s))?,
        rate_ratio: ratio(|run| run.cycles_per_s).filter(|_| is_other),
        p50_ms: Spread::of(of(system).map(|run| run.cycle.p50_us / 1e3))?,
        p50_ratio: ratio(|run| run.cycle.p50_us).filter(|_| is_other),
        p99_ms: Spread::of(of(system).map(|run| run.cycle.p99_us / 1e3))?,
        f_us: Spread::of(of(system).map(|run| run.disk.f_us))?,
        jain: Spread::of(of(system).filter_map(|run| Some(run.fairness?.jain))),
    })
}

/// The time after the death of a leader, by system.
pub fn failovers(results: &Results) -> BTreeMap<System, (Option<Spread>, Spread)> {
    let systems: std::collections::BTreeSet<_> =
        results.failovers.iter().map(|failover| failover.system).collect();
    let of = |system| {
        let rounds = results.failovers.iter().filter(move |failover| failover.system == system);
        let first = Spread::of(rounds.clone().filter_map(|round: &Failover| round.first_grant_ms));
        Some((system, (first, Spread::of(rounds.map(|round| round.longest_gap_ms))?)))
    };
    systems.into_iter().filter_map(of).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::{Disk, Errors, Fairness, Latencies};

    fn run(round: u32, system: System, workload: Kind, cycles_per_s: f64) -> Run {
        let cycle = Latencies { count: 9, p50_us: 1e6 / cycles_per_s, ..Latencies::default() };
        let fairness = Fairness { grants_min: 1, grants_max: 1, jain: 1.0 };
        Run {
            round,
            system,
            workload,
            clients: 64,
            cycles_per_s,
            cycle,
            acquire: cycle,
            release: cycle,
            fairness: (workload == Kind::Hot).then_some(fairness),
            errors: Errors::default(),
            overlaps: 0,
            disk: Disk::new("here".into(), Latencies::default(), Latencies::default()),
        }
    }

    /// Two rounds of two systems.
    pub fn results() -> Results {
        let rates = [(1, 1_000.0, 250.0), (2, 3_000.0, 500.0)];
        let runs = rates.into_iter().flat_map(|(round, ours, theirs)| {
            Kind::ALL.into_iter().flat_map(move |kind| {
                let of = |system, rate| run(round, system, kind, rate);
                [of(System::Sharklock, ours), of(System::Etcd, theirs)]
            })
        });
        let failover = Failover {
            round: 1,
            system: System::Etcd,
            clients: 64,
            cycles_per_s_before: 100.0,
            first_grant_ms: Some(1_500.0),
            longest_gap_ms: 1_400.0,
            watched_s: 10.0,
            errors: Errors::default(),
            disk: Disk::new("here".into(), Latencies::default(), Latencies::default()),
        };
        Results {
            cpus: 2,
            round_trip_us: 30.0,
            versions: [(System::Sharklock, "0.0.0".into()), (System::Etcd, "3.4".into())].into(),
            warmup_s: 1.0,
            measured_s: 5.0,
            rounds: 2,
            runs: runs.collect(),
            failovers: vec![failover],
        }
    }

    #[test]
    fn a_median_lies_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        let of = |figures: &[f64]| Spread::of(figures.iter().copied()).expect("some");
        assert_eq!(of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(of(&[4.0, 1.0]).median, 2.5);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let cells = cells(&results());
        let etcd = cells[&(0, 64, System::Etcd)];
        let ratio = etcd.rate_ratio.expect("both were measured");
        assert_eq!((ratio.min, ratio.max, ratio.median), (4.0, 6.0, 5.0));
        assert_eq!(etcd.rate.median, 375.0);
        assert_eq!(cells[&(0, 64, System::Sharklock)].rate_ratio, None);
        assert!(cells[&(1, 64, System::Etcd)].jain.is_some());
        assert_eq!(failovers(&results())[&System::Etcd].1.median, 1_400.0);
    }
}
