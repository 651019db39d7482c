//! What a run does to the cluster, and when: a function of its seed and length, and of the kinds of faults
//! that are asked for. What the machine cannot do is left out of it without changing the rest.

use std::collections::BTreeSet;
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
    /// The kinds that were asked for.
    pub kinds: Vec<Kind>,
    /// In order.
    pub strikes: Vec<Strike>,
    /// Kinds whose strikes were taken out.
    pub left_out: BTreeSet<Kind>,
}

impl Plan {
    /// Draws the plan of a run of this length. Kinds come out of a bag that is filled anew when it is empty,
    /// so that none is forgotten in a long run; one for which too little time is left waits for another run.
    pub fn draw(seed: u64, length: Duration, topology: &Topology, kinds: &[Kind]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let all: Vec<Kind> = Kind::BAG
            .into_iter()
            .filter(|(kind, _)| kinds.contains(kind))
            .flat_map(|(kind, count)| std::iter::repeat_n(kind, count))
            .collect();
        let (mut bag, mut strikes, mut next) = (Vec::new(), Vec::new(), FIRST);
        loop {
            let fits = |kind: &Kind| next + kind.takes() + CALM <= length;
            if !bag.iter().any(fits) {
                bag.clone_from(&all);
                bag.shuffle(&mut rng);
            }
            let Some(at) = bag.iter().rposition(fits) else { break };
            let kind = bag.remove(at);
            let lasts = kind.draw_length(&mut rng);
            let jitter = Duration::from_millis(rng.random_range(0..1_000));
            let fault = kind.draw(&mut rng, topology);
            strikes.push(Strike { at: next + jitter, lasts, fault });
            next += PERIOD;
        }
        Self { seed, length, kinds: kinds.to_vec(), strikes, left_out: BTreeSet::new() }
    }

    /// The same plan without the strikes that cannot be done: all others stay as they are.
    #[must_use]
    pub fn without(mut self, can_do: impl Fn(Kind) -> bool) -> Self {
        let kinds: BTreeSet<Kind> = self.strikes.iter().map(|it| it.fault.kind).collect();
        self.left_out = kinds.into_iter().filter(|kind| !can_do(*kind)).collect();
        self.strikes.retain(|it| !self.left_out.contains(&it.fault.kind));
        self
    }

    /// The command that strikes by this plan again.
    pub fn command(&self) -> String {
        let minutes = self.length.as_secs() / 60;
        let only = match self.kinds.len() == Kind::BAG.len() {
            true => String::new(),
            false => {
                let names: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
                format!("ONLY={} ", names.join(","))
            }
        };
        format!("{only}scripts/chaos-compose.sh {minutes} {}", self.seed)
    }
}

#[cfg(test)]
mod tests {
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
    fn kinds_that_are_not_asked_for_are_in_no_plan() {
        let kinds = [Kind::Kill, Kind::CutOff];
        let plan = Plan::draw(3, Duration::from_secs(180), &Topology::of_compose(), &kinds);
        assert!(plan.strikes.len() >= 12);
        assert!(plan.strikes.iter().all(|it| kinds.contains(&it.fault.kind)));
        assert_eq!(plan.command(), "ONLY=kill,cut-off scripts/chaos-compose.sh 3 3");
        assert!(Plan::draw(3, plan.length, &Topology::of_compose(), &[]).strikes.is_empty());
    }

    #[test]
    fn what_the_machine_cannot_do_leaves_all_other_strikes_as_they_are() {
        let plan = hour(5).without(|kind| kind != Kind::Clock);
        assert_eq!(plan.left_out, BTreeSet::from([Kind::Clock]));
        let all = hour(5);
        assert!(all.left_out.is_empty());
        assert!(all.strikes.len() > plan.strikes.len());
        let others = all.strikes.into_iter().filter(|it| it.fault.kind != Kind::Clock);
        assert_eq!(plan.strikes, others.collect::<Vec<_>>());
        assert_eq!(plan.command(), "scripts/chaos-compose.sh 60 5");
    }

    #[test]
    fn what_takes_long_does_not_begin_near_the_end() {
        for seed in 0..50 {
            let plan = Plan::draw(seed, Duration::from_secs(180), &Topology::of_compose(), &all());
            assert!(plan.strikes.len() >= 14, "{}", plan.strikes.len());
            for it in &plan.strikes {
                let begin = Duration::from_secs(it.at.as_secs());
                assert!(begin + it.fault.kind.takes() + CALM <= plan.length + PERIOD, "{it:?}");
                assert!(it.lasts <= it.fault.kind.takes(), "{it:?}");
            }
        }
        let short = Duration::from_secs(60);
        let plan = Plan::draw(1, short, &Topology::of_compose(), &[Kind::RollingChange]);
        assert!(plan.strikes.is_empty());
    }

    #[test]
    fn a_bag_knows_every_kind_once_and_by_its_own_name() {
        let names: BTreeSet<String> = all().into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::BAG.len());
        assert!(names.contains("rolling-restart"));
    }
}
