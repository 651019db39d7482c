//! What holds of every plan, whatever the cluster looks like.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{prelude::*, sample::subsequence};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use super::*;

const STORES: u64 = 10;
const NOW: Duration = Duration::from_secs(10_000);

#[derive(Clone, Debug)]
struct AnyStore {
    liveness: Liveness,
    duty: Duty,
    labels: Vec<(String, String)>,
    is_slow: bool,
    level: u64,
}

#[derive(Clone, Debug)]
struct AnyRange {
    descriptor: Descriptor,
    leader: Option<StoreId>,
    led_for: u64,
    /// The schedule asked for another leader so many seconds ago.
    moved_for: Option<u64>,
    load: u64,
    bytes: u64,
    level: u64,
    unheard: Option<(usize, u64)>,
    operator: Option<(Wanted, Option<Class>)>,
}

#[derive(Clone, Debug)]
struct AnyCluster {
    stores: Vec<AnyStore>,
    ranges: Vec<AnyRange>,
    replicas: usize,
    /// Somebody wants it to be balanced, for so many seconds.
    ordered_for: Option<u64>,
}

fn any_store() -> impl Strategy<Value = AnyStore> {
    let liveness = prop_oneof![
        8 => Just(Liveness::Up), 1 => Just(Liveness::Disconnected), 1 => Just(Liveness::Down)
    ];
    let duty = prop_oneof![8 => Just(Duty::Serves), 1 => Just(Duty::Drains), 1 => Just(Duty::Gone)];
    let level = prop_oneof![3 => Just(4u64), 1 => 2u64..4];
    let rest = (prop::option::of(0u8..3), prop::bool::weighted(0.1), level);
    (liveness, duty, rest).prop_map(|(liveness, duty, (zone, is_slow, level))| {
        let labels = zone.map(|zone| ("zone".to_owned(), zone.to_string())).into_iter().collect();
        AnyStore { liveness, duty, labels, is_slow, level }
    })
}

/// How a range's replicas may stand: all vote, one is a learner, or one takes over another's vote.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Plain,
    Learner,
    Joint,
}

fn any_range() -> impl Strategy<Value = AnyRange> {
    let stores = subsequence((1..=STORES).collect::<Vec<_>>(), 1..6).prop_shuffle();
    let shape = prop_oneof![
        8 => Just(Shape::Plain), 1 => Just(Shape::Learner), 1 => Just(Shape::Joint)
    ];
    let number = |most| prop_oneof![20 => 0u64..most, 1 => Just(u64::MAX)];
    let moved = prop::option::weighted(0.5, 0u64..1_200);
    let numbers = ((0u64..1_200, moved), number(500), number(1_000), 2u64..=4);
    let unheard = prop::option::weighted(0.1, (0usize..5, 0u64..1_200));
    let operator = prop::option::weighted(0.1, (1..=STORES, any::<bool>()));
    let leads = prop::option::weighted(0.9, Just(()));
    (stores, shape, numbers, unheard, operator, leads).prop_map(
        |(stores, shape, ((led_for, moved_for), load, bytes, level), unheard, operator, leads)| {
            let role = |at: usize| match (shape, at) {
                (Shape::Learner, 1) => Role::Learner,
                (Shape::Joint, 1) if stores.len() > 2 => Role::JointIncoming,
                (Shape::Joint, 2) => Role::JointOutgoing,
                _ => Role::Voter,
            };
            let replica = |(at, store): (usize, &u64)| Replica {
                peer: PeerId(at as u64 + 1),
                store: StoreId(*store),
                role: role(at),
            };
            let replicas = stores.iter().enumerate().map(replica).collect::<Vec<_>>();
            let epoch = Epoch { version: 1, conf_ver: 1 };
            let descriptor = Descriptor::new(RangeId(1), Bounds::ALL, epoch, replicas);
            let leader = leads.map(|()| StoreId(stores[0]));
            let operator = operator.map(|(store, is_ours)| {
                let store = StoreId(store);
                let wanted = match descriptor.on_store(store) {
                    Some(_) => Wanted::Lead { to: store },
                    None => Wanted::Replace { from: StoreId(stores[0]), to: store },
                };
                (wanted, is_ours.then_some(Class::Balance))
            });
            AnyRange {
                descriptor,
                leader,
                led_for,
                moved_for,
                load,
                bytes,
                level,
                unheard,
                operator,
            }
        },
    )
}

fn any_cluster() -> impl Strategy<Value = AnyCluster> {
    let stores = prop::collection::vec(any_store(), STORES as usize);
    let ranges = prop::collection::vec(any_range(), 1..30);
    let ordered = prop::option::weighted(0.3, 0u64..600);
    (stores, ranges, 1usize..6, ordered).prop_map(|(stores, mut ranges, replicas, ordered_for)| {
        for (range, id) in ranges.iter_mut().zip(1..) {
            range.descriptor.range = RangeId(id);
        }
        AnyCluster { stores, ranges, replicas, ordered_for }
    })
}

impl AnyCluster {
    fn view(&self) -> View<'_> {
        let slow = SlowDisk { p99: Duration::from_secs(1), median: Duration::from_millis(1) };
        let stores = self.stores.iter().zip(1..).map(|(store, id)| {
            let view = StoreView {
                liveness: store.liveness,
                silent_for: Duration::ZERO,
                duty: store.duty,
                labels: &store.labels,
                slow: store.is_slow.then_some(slow),
                level: store.level,
            };
            (StoreId(id), view)
        });
        let ranges = self.ranges.iter().map(|range| RangeView {
            descriptor: &range.descriptor,
            leader: range.leader,
            led_for: Duration::from_secs(range.led_for),
            moved_at: range.moved_for.map(|seconds| NOW - Duration::from_secs(seconds)),
            load: range.load,
            bytes: range.bytes,
            level: range.level,
            unheard: unheard(range).into_iter().collect(),
        });
        let operators = self.ranges.iter().filter_map(|range| {
            let (wanted, class) = range.operator?;
            let in_flight = InFlight { goal: wanted.goal(PeerId(99)), class, since: NOW };
            Some((range.descriptor.range, in_flight))
        });
        let settings = Settings { replicas: self.replicas, ..Settings::default() };
        View {
            now: NOW,
            leads_since: Duration::ZERO,
            ordered_at: self.ordered_for.map(|seconds| NOW - Duration::from_secs(seconds)),
            settings,
            stores: stores.collect(),
            ranges: ranges.collect(),
            operators: operators.collect(),
        }
    }

    fn store(&self, store: StoreId) -> &AnyStore {
        &self.stores[store.0 as usize - 1]
    }

    fn is_live(&self, range: &AnyRange, store: StoreId) -> bool {
        let unheard = unheard(range).and_then(|it| {
            range.descriptor.on_store(store).filter(|replica| replica.peer == it.peer)
        });
        let AnyStore { liveness, duty, .. } = self.store(store);
        *liveness == Liveness::Up && *duty != Duty::Gone && unheard.is_none()
    }

    fn zones(&self, stores: &BTreeSet<StoreId>) -> usize {
        // Without labels a store is near to nobody.
        let zones = stores.iter().map(|it| match self.store(*it).labels.first() {
            Some((_, zone)) => zone.clone(),
            None => format!("store {it}"),
        });
        zones.collect::<BTreeSet<_>>().len()
    }
}

fn unheard(range: &AnyRange) -> Option<Unheard> {
    let (at, seconds) = range.unheard?;
    let replica = range.descriptor.replicas.get(at)?;
    // A leader hears itself.
    let is_leader = range.leader == Some(replica.store);
    let silent_for = Duration::from_secs(seconds);
    (!is_leader).then_some(Unheard { peer: replica.peer, silent_for })
}

fn check(cluster: &AnyCluster, range: &AnyRange, plan: &Plan) {
    let settings = Settings::default();
    let descriptor = &range.descriptor;
    let incoming = descriptor.replicas.iter().filter(|it| it.role.votes_incoming());
    let before = incoming.map(|it| it.store).collect::<BTreeSet<_>>();
    let live = |stores: &BTreeSet<StoreId>| {
        stores.iter().filter(|it| cluster.is_live(range, **it)).count()
    };
    assert!(2 * live(&before) > before.len(), "it cannot be done: {plan}");
    let mut after = before.clone();
    if let Some(to) = plan.wanted.comes_to() {
        let store = cluster.store(to);
        assert!(store.liveness == Liveness::Up && store.duty == Duty::Serves, "{plan}");
        assert!(descriptor.on_store(to).is_none(), "it has a replica there: {plan}");
        assert!(store.level >= range.level, "its program cannot read the range: {plan}");
        after.insert(to);
    }
    if let Some(from) = plan.wanted.goes_from() {
        assert!(descriptor.on_store(from).is_some(), "it has none there: {plan}");
        after.remove(&from);
    }
    assert!(2 * live(&after) > after.len(), "it loses the quorum: {plan}");
    let wanted = cluster.replicas.max(1);
    assert!(after.len() >= before.len().min(wanted) || before.len() % 2 == 0, "fewer: {plan}");
    if let Wanted::Lead { to } = plan.wanted {
        assert!(before.contains(&to) && cluster.is_live(range, to), "it cannot lead: {plan}");
        assert!(range.leader.is_some_and(|leader| leader != to), "it leads: {plan}");
    }
    if plan.class == Class::Balance {
        let lead = matches!(plan.wanted, Wanted::Lead { .. });
        let is_cool = match (cluster.ordered_for, range.moved_for) {
            // An order moves each leader once, and what has cooled down.
            (Some(ordered), moved) if moved.is_none_or(|moved| moved > ordered) => true,
            (_, moved) => {
                let quiet = moved.map_or(range.led_for, |moved| moved.min(range.led_for));
                quiet >= settings.cool_down.as_secs()
            }
        };
        assert!(!lead || is_cool, "too soon: {plan}");
        assert_eq!(live(&before), before.len(), "it is not whole: {plan}");
        assert!(plan.wanted.goes_from().is_none_or(|it| Some(it) != range.leader), "{plan}");
        assert!(cluster.zones(&after) >= cluster.zones(&before), "nearer: {plan}");
    }
}

fn check_limits(cluster: &AnyCluster, plans: &[Plan]) {
    let settings = Settings::default();
    let mut coming = BTreeMap::new();
    let begun = cluster.ranges.iter().filter_map(|range| range.operator);
    let begun = begun.filter_map(|(wanted, class)| Some((wanted.comes_to()?, class?)));
    for (to, class) in begun {
        *coming.entry((to, class.is_urgent())).or_insert(0) += 1;
    }
    for plan in plans {
        let Some(to) = plan.wanted.comes_to() else { continue };
        let is_urgent = plan.class.is_urgent();
        let count = coming.entry((to, is_urgent)).or_insert(0);
        *count += 1;
        let limit = if is_urgent { settings.urgent.coming } else { settings.leisurely.coming };
        assert!(*count <= limit, "too many at a time: {plan}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_the_rules(cluster in any_cluster()) {
        let view = cluster.view();
        let survey = survey(&view);
        let mut planned = BTreeSet::new();
        for plan in &survey.plans {
            prop_assert!(planned.insert(plan.range), "two plans for one range: {}", plan);
            let range = &cluster.ranges[plan.range.0 as usize - 1];
            prop_assert!(range.operator.is_none(), "it has an operator: {}", plan);
            check(&cluster, range, plan);
        }
        check_limits(&cluster, &survey.plans);
        prop_assert_eq!(&survey, &super::survey(&view.clone()), "it depends on what it reads alone");
        let warnings = survey.warnings.iter().map(ToString::to_string);
        prop_assert!(warnings.clone().all(|it| !it.is_empty()));
    }

    /// What an order comes to in the end keeps them as well, but for the limits at a time.
    #[test]
    fn every_plan_of_an_order_to_balance_keeps_the_rules(cluster in any_cluster()) {
        let ordered_for = cluster.ordered_for.or(Some(0));
        let Ok(done) = rebalance(cluster.view()) else { return Ok(()) };
        let ordered = AnyCluster { ordered_for, ..cluster.clone() };
        let mut planned = BTreeSet::new();
        for plan in &done.plans {
            prop_assert!(plan.class == Class::Balance && planned.insert(plan.range), "{}", plan);
            let range = &cluster.ranges[plan.range.0 as usize - 1];
            prop_assert!(range.operator.is_none(), "it has an operator: {}", plan);
            check(&ordered, range, plan);
        }
        for spread in &done.spreads {
            prop_assert!(spread.least <= spread.mean && spread.mean <= spread.most, "{:?}", spread);
        }
    }

    /// A single range is seen as in the pass over all.
    #[test]
    fn the_reason_for_a_range_is_that_of_the_pass(cluster in any_cluster()) {
        let view = cluster.view();
        let plans = plan(&view);
        for range in &cluster.ranges {
            let id = range.descriptor.range;
            let plan = plans.iter().find(|it| it.range == id && it.class != Class::Balance);
            let outlook = why_not(&view, id);
            match plan {
                Some(plan) => {
                    let Outlook::Planned(alone) = &outlook else {
                        panic!("{plan}, but alone {outlook:?}");
                    };
                    prop_assert_eq!(plan.class, alone.class);
                }
                None => {
                    let is_urgent = matches!(&outlook, Outlook::Planned(it) if it.class == Class::Tidy);
                    prop_assert!(!is_urgent, "{:?}", outlook);
                }
            }
        }
    }
}
