//! Somebody wants stores to be balanced now. While such an order holds, leaders need not have cooled
//! down, each of them once; and a master that has just begun to lead waits only until it knows all
//! leaders. Every other rule holds as ever: limits of stores, labels, what is down.

use super::{
    Hindrance, Limits, Plan, Settings, View,
    pass::Pass,
    tally::{Mean, StoreTally},
};

/// So much of each is named for a store, and not all of it: each range is searched for among all that a
/// store leads, and the master that answers has other things to do. The schedule begins it one after
/// the other, as stores have room, and then what has become next.
const MANY_MAX: u32 = 16;

/// What an order to balance comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebalance {
    /// What would be done first, beyond what stores take at a time. Empty: nothing would help.
    pub plans: Vec<Plan>,
    /// How much stores have, with what is under way counted as done.
    pub spreads: Vec<Spread>,
}

/// How much the stores that serve have of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Of what: `replicas`, `leaders`, `commands/s`.
    pub what: &'static str,
    /// The store with the least.
    pub least: u64,
    /// On the average, rounded.
    pub mean: u64,
    /// The store with the most.
    pub most: u64,
}

/// What it takes to balance stores, and how they stand.
///
/// # Errors
/// Nothing is balanced now, and why.
///
/// # Panics
/// As [`survey`](super::survey).
pub fn rebalance(mut view: View<'_>) -> Result<Rebalance, Hindrance> {
    const MANY: Limits = Limits { coming: MANY_MAX, sending: MANY_MAX, leaders: MANY_MAX };
    view.ordered_at = view.ordered_at.or(Some(view.now));
    view.settings = Settings { leisurely: MANY, ..view.settings };
    Pass::new(&view).rebalance()
}

impl Pass<'_> {
    pub fn spreads(&self) -> Vec<Spread> {
        let of = |what, amount: fn(&StoreTally) -> u64| {
            let all = self.tally.takers().map(|place| amount(&self.tally.stores[place]));
            let all: Vec<u64> = all.collect();
            let (least, most) = (*all.iter().min()?, *all.iter().max()?);
            Some(Spread { what, least, mean: Mean::of(all.into_iter(), 0, 0).rounded(), most })
        };
        let all = [
            of("replicas", |store| store.replicas.into()),
            of("leaders", |store| store.leaders.into()),
            of("commands/s", |store| store.load),
        ];
        all.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{Class, Duty, Liveness, Wanted, survey, tests::Cluster},
        *,
    };

    fn six_led_by_one() -> Cluster {
        (0..6).fold(Cluster::of(3), |cluster, _| cluster.range(&[1, 2, 3]))
    }

    fn ordered(cluster: &Cluster) -> Result<Vec<String>, Hindrance> {
        let done = rebalance(cluster.view())?;
        assert!(done.plans.iter().all(|plan| plan.class == Class::Balance), "{done:?}");
        Ok(done.plans.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_order_waits_neither_for_cool_down_nor_for_patience_and_names_all_of_it() {
        let mut cluster = six_led_by_one();
        cluster.led_for = Duration::from_secs(1);
        cluster.leads_since = cluster.view().now - Duration::from_secs(1);
        assert_eq!(survey(&cluster.view()).plans, [], "the schedule waits for both");
        let plans = ordered(&cluster).expect("nothing is in the way");
        let expected =
            "store 1 has 6 leaders, store 2 0, the mean is 2: store 2 is to lead range 1";
        assert_eq!(plans[0], expected);
        assert_eq!(plans.len(), 3, "until all are within one of the mean: {plans:?}");
        let spreads = rebalance(cluster.view()).expect("as before").spreads;
        let leaders = Spread { what: "leaders", least: 0, mean: 2, most: 6 };
        assert_eq!(spreads[1], leaders);
    }

    #[test]
    fn while_an_order_holds_the_schedule_keeps_to_the_limits_and_moves_each_leader_once() {
        let mut cluster = six_led_by_one();
        cluster.led_for = Duration::from_secs(1);
        let now = cluster.view().now;
        cluster.ordered_at = Some(now - Duration::from_secs(5));
        assert_eq!(cluster.plans().len(), 1, "one leadership leaves a store at a time");
        let mut view = cluster.view();
        for range in &mut view.ranges[..5] {
            range.moved_at = Some(now - Duration::from_secs(2));
        }
        let plans = survey(&view).plans;
        let moved: Vec<_> = plans.iter().map(|plan| plan.range.0).collect();
        assert_eq!(moved, [6], "five were moved by this order");
        let earlier = now - Duration::from_secs(6);
        view.ranges.iter_mut().for_each(|range| range.moved_at = Some(earlier));
        assert_eq!(survey(&view).plans.len(), 1, "what was moved before it may move again");
    }

    #[test]
    fn an_order_keeps_the_other_rules_and_says_what_is_in_the_way() {
        let mut paused = six_led_by_one();
        paused.settings.is_paused = true;
        assert_eq!(ordered(&paused), Err(Hindrance::Paused));
        let down = six_led_by_one().down(2).down(3);
        assert_eq!(ordered(&down), Err(Hindrance::TooManyDown { down: 2, stores: 3 }));
        let silent = six_led_by_one().store(2, Liveness::Disconnected, Duty::Serves);
        let silent = silent.store(3, Liveness::Disconnected, Duty::Serves);
        assert_eq!(ordered(&silent), Err(Hindrance::TooManySilent { silent: 2, stores: 3 }));
        let mut new = six_led_by_one();
        new.leads_since = new.view().now - Duration::from_secs(1);
        new.ranges[3].1 = None;
        let why = ordered(&new).expect_err("who leads range 4 is not known yet");
        assert_eq!(why, Hindrance::JustBegun { left: Duration::from_secs(29) });
        let zones = Cluster::of(4).zones(&["a", "b", "c", "a"]);
        let zones = (0..6).fold(zones, |cluster, _| cluster.range(&[2, 1, 3]));
        let plans = rebalance(zones.view()).expect("nothing is in the way").plans;
        for plan in plans.iter().filter(|plan| plan.wanted.comes_to().is_some()) {
            assert_eq!(plan.wanted.goes_from(), Some(sharklock_rangemap::StoreId(1)), "{plan}");
        }
        let comes = |plan: &Plan| matches!(plan.wanted, Wanted::Replace { .. });
        assert!(plans.iter().any(comes), "{plans:?}");
    }

    /// Each is searched for among all that a store leads.
    #[test]
    fn of_very_many_the_first_are_named() {
        let many = (0..1_000).fold(Cluster::of(3), |cluster, _| cluster.range(&[1, 2, 3]));
        assert_eq!(rebalance(many.view()).expect("nothing is in the way").plans.len(), 16);
    }

    #[test]
    fn where_all_have_the_same_there_is_nothing_to_do() {
        let even = Cluster::of(3).range(&[1, 2, 3]).range(&[2, 1, 3]).range(&[3, 1, 2]);
        let done = rebalance(even.view()).expect("nothing is in the way");
        assert_eq!(done.plans, []);
        assert_eq!(done.spreads[0], Spread { what: "replicas", least: 3, mean: 3, most: 3 });
    }
}
