//! What a run does to the cluster, and when: a function of its seed and length, and of which kinds of faults
//! the machine can do.

use std::time::Duration;

use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::fault::{Fault, Kind, Topology};

/// From the begin until the first strike: clients have begun.
const FIRST: Duration = Duration::from_secs(6);
/// From one strike to the next, unless the first is not mended yet.
const PERIOD: Duration = Duration::from_secs(10);
/// After the last: everything is to be well again.
pub const CALM: Duration = Duration::from_secs(20);

/// A fault, when it begins after the run's begin, and how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Its begin. A strike that comes while another is being mended waits.
    pub at: Duration,
    /// Until it is mended.
    pub lasts: Duration,
    /// What is done.
    pub fault: Fault,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its origin.
    pub seed: u64,
    /// The length of the run.
    pub length: Duration,
    /// In order.
    pub strikes: Vec<Strike>,
}

impl Plan {
    /// Draws the plan of a run of this length. Kinds come out of a bag that is filled anew when it is empty,
    /// so that none is forgotten in a long run.
    pub fn draw(seed: u64, length: Duration, topology: &Topology, kinds: &[Kind]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let all: Vec<Kind> = Kind::BAG
            .into_iter()
            .filter(|(kind, _)| kinds.contains(kind))
            .flat_map(|(kind, count)| std::iter::repeat_n(kind, count))
            .collect();
        let (mut bag, mut strikes, mut next) = (Vec::new(), Vec::new(), FIRST);
        while !all.is_empty() {
            if bag.is_empty() {
                bag.clone_from(&all);
                bag.shuffle(&mut rng);
            }
            let kind = bag.pop().expect("it was filled");
            let lasts = kind.draw_length(&mut rng);
            if next + lasts + CALM > length {
                break;
            }
            let jitter = Duration::from_millis(rng.random_range(0..1_000));
            let fault = kind.draw(&mut rng, topology);
            strikes.push(Strike { at: next + jitter, lasts, fault });
            next += PERIOD;
        }
        Self { seed, length, strikes }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> Vec<Kind> {
        Kind::BAG.iter().map(|(kind, _)| *kind).collect()
    }

    fn hour(seed: u64) -> Plan {
        Plan::draw(seed, Duration::from_secs(3_600), &Topology::of_compose(), &all())
    }

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_one_another() {
        assert_eq!(hour(7), hour(7));
        assert_ne!(hour(7).strikes, hour(8).strikes);
    }

    #[test]
    fn an_hour_has_more_than_two_hundred_strikes_of_every_kind_that_do_not_overlap() {
        for seed in 0..20 {
            let plan = hour(seed);
            assert!(plan.strikes.len() >= 250, "{}", plan.strikes.len());
            let kinds: BTreeSet<Kind> = plan.strikes.iter().map(|it| it.fault.kind).collect();
            assert_eq!(kinds.len(), Kind::BAG.len());
            for pair in plan.strikes.windows(2) {
                assert!(pair[0].at + pair[0].lasts < pair[1].at, "{pair:?}");
            }
            let last = plan.strikes.last().expect("there are some");
            assert!(last.at + last.lasts < plan.length);
        }
    }

    #[test]
    fn what_the_machine_cannot_do_is_in_no_plan() {
        let kinds = [Kind::Kill, Kind::CutOff];
        let plan = Plan::draw(3, Duration::from_secs(180), &Topology::of_compose(), &kinds);
        assert!(plan.strikes.len() >= 12);
        assert!(plan.strikes.iter().all(|it| kinds.contains(&it.fault.kind)));
        assert!(Plan::draw(3, plan.length, &Topology::of_compose(), &[]).strikes.is_empty());
    }

    #[test]
    fn a_bag_knows_every_kind_once_and_by_its_own_name() {
        let names: BTreeSet<String> = all().into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::BAG.len());
        assert!(names.contains("rolling-restart"));
    }
}
