//! One pass over small clusters: what is proposed, in which words, and why not.

use std::{collections::BTreeMap, time::Duration};

use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use super::*;
use crate::operator::Goal;

const NOW: Duration = Duration::from_secs(10_000);

/// A cluster of up, serving stores.
pub(super) struct Cluster {
    pub(super) labels: BTreeMap<u64, Vec<(String, String)>>,
    pub(super) stores: BTreeMap<u64, (Liveness, Duty, Option<SlowDisk>)>,
    pub(super) ranges: Vec<(Descriptor, Option<u64>, u64)>,
    pub(super) operators: BTreeMap<RangeId, InFlight>,
    pub(super) unheard: Vec<Unheard>,
    pub(super) settings: Settings,
    pub(super) led_for: Duration,
    pub(super) leads_since: Duration,
    pub(super) ordered_at: Option<Duration>,
    /// The rules that stores know, where these are not the newest.
    pub(super) levels: BTreeMap<u64, u64>,
    /// The rules that ranges follow.
    pub(super) level: u64,
}

impl Cluster {
    pub(super) fn of(stores: u64) -> Self {
        let each = |id| (id, (Liveness::Up, Duty::Serves, None));
        Self {
            labels: BTreeMap::new(),
            stores: (1..=stores).map(each).collect(),
            ranges: Vec::new(),
            operators: BTreeMap::new(),
            unheard: Vec::new(),
            settings: Settings::default(),
            led_for: NOW,
            leads_since: Duration::ZERO,
            ordered_at: None,
            levels: BTreeMap::new(),
            level: 4,
        }
    }

    pub(super) fn zones(mut self, zones: &[&str]) -> Self {
        let label = |zone: &&str| vec![("zone".to_owned(), (*zone).to_owned())];
        self.labels = (1..).zip(zones.iter().map(label)).collect();
        self
    }

    /// A range whose voters are on these stores; the first leads.
    pub(super) fn range(self, voters: &[u64]) -> Self {
        let replicas = voters.iter().map(|store| (*store, Role::Voter));
        self.range_of(&replicas.collect::<Vec<_>>())
    }

    fn range_of(mut self, replicas: &[(u64, Role)]) -> Self {
        let range = self.ranges.len() as u64 + 1;
        let replica = |&(store, role): &(u64, Role)| Replica {
            peer: PeerId(100 * range + store),
            store: StoreId(store),
            role,
        };
        let epoch = Epoch { version: 1, conf_ver: 1 };
        let leader = Some(replicas[0].0);
        let replicas = replicas.iter().map(replica).collect();
        let descriptor = Descriptor::new(RangeId(range), Bounds::ALL, epoch, replicas);
        self.ranges.push((descriptor, leader, 0));
        self
    }

    pub(super) fn store(mut self, store: u64, liveness: Liveness, duty: Duty) -> Self {
        self.stores.insert(store, (liveness, duty, None));
        self
    }

    pub(super) fn down(self, store: u64) -> Self {
        self.store(store, Liveness::Down, Duty::Serves)
    }

    fn drains(self, store: u64) -> Self {
        self.store(store, Liveness::Up, Duty::Drains)
    }

    pub(super) fn view(&self) -> View<'_> {
        let silent = Duration::from_secs(312);
        let stores = self.stores.iter().map(|(id, (liveness, duty, slow))| {
            let silent_for = if *liveness == Liveness::Up { Duration::ZERO } else { silent };
            let view = StoreView {
                liveness: *liveness,
                silent_for,
                duty: *duty,
                labels: self.labels.get(id).map_or([].as_slice(), Vec::as_slice),
                slow: *slow,
                level: self.levels.get(id).copied().unwrap_or(4),
            };
            (StoreId(*id), view)
        });
        let ranges = self.ranges.iter().map(|(descriptor, leader, load)| RangeView {
            descriptor,
            leader: leader.map(StoreId),
            led_for: self.led_for,
            moved_at: None,
            load: *load,
            bytes: 1_000,
            level: self.level,
            unheard: self.unheard.clone(),
        });
        View {
            now: NOW,
            leads_since: self.leads_since,
            ordered_at: self.ordered_at,
            settings: self.settings,
            stores: stores.collect(),
            ranges: ranges.collect(),
            operators: self.operators.clone(),
        }
    }

    pub(super) fn plans(&self) -> Vec<String> {
        plan(&self.view()).iter().map(ToString::to_string).collect()
    }

    fn warnings(&self) -> Vec<String> {
        warnings(&self.view()).iter().map(ToString::to_string).collect()
    }

    fn hindrance(&self) -> Hindrance {
        match why_not(&self.view(), RangeId(1)) {
            Outlook::Hindered(why) => why,
            other => panic!("{other:?}"),
        }
    }
}

fn add(store: u64) -> Wanted {
    Wanted::Add { to: StoreId(store) }
}

fn wanted(cluster: &Cluster) -> Vec<Wanted> {
    plan(&cluster.view()).into_iter().map(|plan| plan.wanted).collect()
}

#[test]
fn a_voter_on_a_store_that_is_down_is_replaced_where_there_is_most_room() {
    let cluster = Cluster::of(6).zones(&["a", "b", "c", "a", "c", "c"]);
    let cluster = cluster.range(&[1, 2, 3]).range(&[2, 1, 5]).down(3);
    let expected = "store 3 has been down for 5m12s: the replica of range 1 moves from store 3 to store \
                    6 (zone c, 0 replicas, fewest)";
    assert_eq!(cluster.plans()[0], expected);
    let silent = cluster.store(3, Liveness::Disconnected, Duty::Serves);
    assert!(silent.plans().iter().all(|it| !it.contains("range 1")), "it may be on its way back");
    let gone = silent.store(3, Liveness::Disconnected, Duty::Gone);
    assert!(gone.plans()[0].starts_with("store 3 is gone: the replica of range 1 moves"));
}

#[test]
fn a_range_waits_for_the_best_place_rather_than_take_a_worse_one() {
    let cluster = Cluster::of(5).zones(&["a", "b", "c", "c", "a"]);
    let mut cluster = cluster.range(&[1, 2, 3]).range(&[2, 1, 3]).down(3);
    cluster.settings.urgent.coming = 1;
    let plans = plan(&cluster.view()).into_iter().filter(|it| it.class == Class::Repair);
    let wanted = plans.map(|it| it.wanted).collect::<Vec<_>>();
    assert_eq!(wanted, [Wanted::Replace { from: StoreId(3), to: StoreId(4) }]);
}

#[test]
fn what_was_left_half_done_is_ended_first() {
    use Role::{JointIncoming, JointOutgoing, Learner, Voter};
    let joint = [(1, Voter), (2, Voter), (3, JointOutgoing), (4, JointIncoming)];
    let cluster = Cluster::of(5).range_of(&joint);
    let cluster = cluster.range_of(&[(1, Voter), (2, Voter), (3, Voter), (4, Learner)]);
    let expected = [
        "a change of the members was left half-done: range 1 leaves its joint configuration",
        "a learner was left behind on store 4: range 2 loses its replica on store 4",
    ];
    assert_eq!(cluster.plans(), expected);
    // Each half needs a majority of its own: 2 of {1, 2, 3}, and 2 of {1, 2, 4}.
    let cluster = cluster.store(1, Liveness::Disconnected, Duty::Serves);
    let cluster = cluster.store(4, Liveness::Disconnected, Duty::Serves);
    assert_eq!(cluster.hindrance(), Hindrance::QuorumLost { live: 1, voters: 3 });
}

#[test]
fn a_range_with_an_operator_is_left_to_it_and_its_outcome_is_counted_on() {
    let mut cluster = Cluster::of(5).range(&[1, 2, 3]).range(&[1, 2, 3]).down(3);
    let goal = Goal::Replace { from: StoreId(3), peer: PeerId(9), to: StoreId(4) };
    let operator = InFlight { goal, class: None, since: NOW - Duration::from_secs(61) };
    cluster.operators.insert(RangeId(1), operator);
    let replace = Wanted::Replace { from: StoreId(3), to: StoreId(5) };
    assert_eq!(wanted(&cluster), [replace], "store 4 is to get one already");
    assert_eq!(cluster.hindrance(), Hindrance::UnderWay { since: Duration::from_secs(61) });
}

#[test]
fn stores_that_drain_give_up_leaders_first_and_then_replicas() {
    let cluster = Cluster::of(5).range(&[2, 1, 3]).range(&[1, 2, 3]).drains(1);
    let expected = [
        "store 1 drains: store 3 is to lead range 2",
        "store 1 drains: the replica of range 1 moves from store 1 to store 4 (0 replicas, fewest)",
    ];
    assert_eq!(cluster.plans(), expected);
    let nowhere = Cluster::of(3).range(&[2, 1, 3]).drains(1);
    assert_eq!(nowhere.hindrance(), Hindrance::NoPlace { stores: 2, voters: 3 });
    assert_eq!(
        nowhere.warnings(),
        [
            "1 range still on a store that drains; it is range 1: all 2 stores that are up, serve and \
             know its rules have a replica of it, or it would come to an even number of voters (3 \
             now): add a store, or upgrade one that runs an older version"
        ]
    );
}

#[test]
fn no_replica_comes_to_a_store_that_does_not_know_the_rules_of_its_range() {
    let mut cluster = Cluster::of(5).range(&[1, 2, 3]).down(3);
    cluster.levels = [(4, 3)].into();
    assert_eq!(wanted(&cluster), [Wanted::Replace { from: StoreId(3), to: StoreId(5) }]);
    cluster.levels = [(4, 3), (5, 3)].into();
    assert_eq!(wanted(&cluster), [], "it could not read what it gets");
    assert_eq!(cluster.hindrance(), Hindrance::NoPlace { stores: 2, voters: 3 });
    cluster.level = 3;
    assert_eq!(wanted(&cluster), [Wanted::Replace { from: StoreId(3), to: StoreId(4) }]);
    // Nor to balance: store 4 has no replica of eight ranges.
    let moves = |cluster: &Cluster| {
        wanted(cluster).into_iter().filter(|it| it.comes_to().is_some()).collect::<Vec<_>>()
    };
    let mut uneven = (0..8).fold(Cluster::of(4), |cluster, _| cluster.range(&[1, 2, 3]));
    assert_ne!(moves(&uneven), []);
    uneven.levels = [(4, 3)].into();
    assert_eq!(moves(&uneven), []);
}

#[test]
fn a_single_voter_drains_by_another_that_comes_first() {
    let cluster = Cluster::of(2).range(&[1]).drains(1);
    assert_eq!(wanted(&cluster), [add(2)]);
    let cluster = Cluster::of(2).range(&[1, 2]).drains(1);
    assert_eq!(wanted(&cluster), [Wanted::Lead { to: StoreId(2) }]);
    let cluster = Cluster::of(2).range(&[2, 1]).drains(1);
    assert_eq!(wanted(&cluster), [Wanted::Remove { from: StoreId(1) }]);
}

#[test]
fn a_range_that_is_only_on_stores_that_drain_gets_a_voter_elsewhere_first() {
    let cluster = Cluster::of(6).range(&[1, 2, 3]).drains(1).drains(2).drains(3);
    assert_eq!(wanted(&cluster), [Wanted::Replace { from: StoreId(2), to: StoreId(4) }]);
    let cluster = Cluster::of(6).range(&[1, 4, 3]).drains(1).drains(2).drains(3);
    assert_eq!(wanted(&cluster), [Wanted::Lead { to: StoreId(4) }]);
}

#[test]
fn voters_come_to_odd_numbers_only() {
    assert_eq!(wanted(&Cluster::of(2).range(&[1])), []);
    assert_eq!(wanted(&Cluster::of(3).range(&[1])), [add(2)]);
    assert_eq!(wanted(&Cluster::of(3).range(&[1, 2])), [add(3)]);
    let mut five = Cluster::of(4).range(&[1, 2, 3]);
    five.settings.replicas = 5;
    assert_eq!(wanted(&five), []);
    assert_eq!(five.hindrance(), Hindrance::NoPlace { stores: 4, voters: 3 });
    let mut two = Cluster::of(3).range(&[1]);
    two.settings.replicas = 2;
    assert_eq!(wanted(&two), []);
    assert!(two.warnings()[0].starts_with("2 replicas are wanted; 1 are made"));
}

#[test]
fn of_too_many_voters_the_lost_goes_first_and_the_leader_last() {
    let remove = |store| [Wanted::Remove { from: StoreId(store) }];
    let of_four = || Cluster::of(4).range(&[4, 1, 2, 3]);
    assert_eq!(wanted(&of_four()), remove(1));
    assert_eq!(wanted(&of_four().down(2)), remove(2));
    assert_eq!(wanted(&of_four().drains(4)), remove(4));
    let near = of_four().zones(&["a", "b", "b", "c"]);
    assert_eq!(wanted(&near), remove(2));
}

#[test]
fn replicas_come_apart_as_far_as_there_are_zones() {
    let cluster = Cluster::of(4).zones(&["a", "a", "b", "c"]).range(&[1, 2, 3]);
    let expected = "stores 2 and 1 are both in zone a, and need not be: the replica of range 1 moves \
                    from store 2 to store 4 (zone c, 0 replicas, fewest)";
    assert_eq!(cluster.plans(), [expected]);
    let two_zones = Cluster::of(4).zones(&["a", "a", "b", "b"]).range(&[1, 2, 3]);
    assert_eq!(two_zones.plans(), [""; 0]);
}

#[test]
fn a_quorum_that_is_lost_is_told_and_nothing_is_done() {
    let cluster = Cluster::of(9).range(&[1, 2, 3]).down(2).down(3);
    assert_eq!(wanted(&cluster), []);
    assert_eq!(
        cluster.warnings(),
        [
            "1 range without a majority of their voters; it is range 1: 1 of its 3 voters are heard, \
             which is no majority: bring their stores back"
        ]
    );
    let mut led_by_nobody = Cluster::of(3).range(&[1, 2, 3]);
    led_by_nobody.ranges[0].1 = None;
    assert_eq!(led_by_nobody.hindrance(), Hindrance::NoLeader);
}

#[test]
fn a_replica_that_only_its_leader_misses_is_replaced_after_longer() {
    let mut cluster = Cluster::of(4).range(&[1, 2, 3]);
    cluster.unheard = vec![Unheard { peer: PeerId(102), silent_for: Duration::from_secs(599) }];
    assert_eq!(wanted(&cluster), []);
    cluster.unheard[0].silent_for = Duration::from_secs(600);
    let expected = "the leader has not heard of the replica on store 2 for 10m00s: the replica of range \
                    1 moves from store 2 to store 4 (0 replicas, fewest)";
    assert_eq!(cluster.plans(), [expected]);
}

#[test]
fn nothing_is_planned_in_a_pause_nor_at_first_nor_with_a_third_down() {
    let cluster = || Cluster::of(4).range(&[1, 2, 3]).down(3);
    assert_eq!(cluster().plans().len(), 1);
    let mut paused = cluster();
    paused.settings.is_paused = true;
    assert_eq!(paused.plans(), [""; 0]);
    assert_eq!(paused.hindrance(), Hindrance::Paused);
    assert!(paused.warnings()[0].contains("`sharklock schedule resume`"));
    let mut new = cluster();
    new.leads_since = NOW - Duration::from_secs(29);
    assert_eq!(new.plans(), [""; 0]);
    assert_eq!(new.hindrance(), Hindrance::JustBegun { left: Duration::from_secs(1) });
    assert_eq!(new.warnings(), [""; 0]);
    let third = cluster().down(4);
    assert_eq!(third.plans(), [""; 0]);
    assert_eq!(third.hindrance(), Hindrance::TooManyDown { down: 2, stores: 4 });
    assert!(third.warnings()[0].ends_with("(down: 3, 4)"), "{:?}", third.warnings());
}

#[test]
fn a_slow_disk_leads_nothing() {
    let mut cluster = Cluster::of(3).range(&[1, 2, 3]);
    let disk = SlowDisk { p99: Duration::from_millis(900), median: Duration::from_millis(4) };
    cluster.stores.insert(1, (Liveness::Up, Duty::Serves, Some(disk)));
    let expected = "the disk of store 1 is slow: p99 of syncs 900ms, median of all stores 4ms: store 2 \
                    is to lead range 1";
    assert_eq!(cluster.plans(), [expected]);
    cluster.stores.insert(2, (Liveness::Up, Duty::Serves, Some(disk)));
    cluster.stores.insert(3, (Liveness::Up, Duty::Serves, Some(disk)));
    assert_eq!(cluster.plans(), [""; 0]);
    assert_eq!(cluster.hindrance(), Hindrance::NobodyElse);
}

#[test]
fn leaders_move_for_their_number_and_their_load_but_not_soon_again() {
    let mut cluster = Cluster::of(3);
    for _ in 0..6 {
        cluster = cluster.range(&[1, 2, 3]);
    }
    let expected = "store 1 has 6 leaders, store 2 0, the mean is 2: store 2 is to lead range 1";
    assert_eq!(cluster.plans(), [expected], "one at a time leaves a store");
    cluster.ranges[4].2 = 900;
    cluster.ranges[5].2 = 1_000;
    let expected =
        "store 1 has 1900 commands/s, store 2 0, the mean is 633: store 2 is to lead range 5";
    assert_eq!(cluster.plans(), [expected]);
    cluster.led_for = Duration::from_secs(599);
    assert_eq!(cluster.plans(), [""; 0]);
}

#[test]
fn replicas_move_to_where_there_are_fewest() {
    let mut cluster = Cluster::of(4);
    for leader in [1, 2, 3, 1, 2, 3] {
        let others = [1, 2, 3].into_iter().filter(|it| *it != leader);
        cluster = cluster.range(&[[leader].as_slice(), &others.collect::<Vec<_>>()].concat());
    }
    let plans = cluster.plans();
    let expected = "store 1 has 6 replicas, store 4 0, the mean is 5: the replica of range 2 moves from \
                    store 1 to store 4";
    assert_eq!(plans[0], expected);
    assert_eq!(plans.len(), 2, "as many as may come to one store at a time");
}

#[test]
fn a_range_that_is_not_there_or_as_wanted_is_said_to_be_so() {
    let cluster = Cluster::of(4).range(&[1, 2, 3]);
    assert_eq!(why_not(&cluster.view(), RangeId(9)), Outlook::Unknown);
    assert_eq!(why_not(&cluster.view(), RangeId(1)), Outlook::AsWanted);
    let cluster = cluster.down(3);
    assert!(matches!(why_not(&cluster.view(), RangeId(1)), Outlook::Planned(_)));
}
