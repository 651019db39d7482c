//! Three workers on simulated disks whose messages arrive at once, or when a test lets them: replicas
//! made at runtime, leadership handed over, a follower whose table a snapshot replaces, and ranges
//! that split or go on without their majority.

mod asked_splits;
mod oversized;
mod recovered;
mod rig;
mod splits;
mod steps;

use std::time::Duration;

use sharklock_dataserver::{Input, LockRange};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::Store;
use sharklock_proto::{
    internal::v1::{DescribeStore, store_call, store_error, store_reply},
    v1,
};

use rig::{RANGE, Trio, create};

#[test]
fn ranges_appear_at_runtime_and_are_served() {
    let mut trio = Trio::empty();
    trio.pass(Duration::from_secs(1));
    for store in 1..=3 {
        assert!(trio.worker(store).knows_leaders(), "a store without ranges is ready");
        assert!(trio.worker(store).reports().is_empty());
    }
    trio.tell(1, create());
    trio.pass(Duration::from_millis(100));
    assert!(!trio.worker(1).knows_leaders(), "nobody leads yet");
    for store in 1..=3 {
        trio.tell(store, create());
        trio.tell(store, create());
    }
    let leader = trio.elected();
    assert_eq!(trio.granted(leader, "a", 1), 1);
    let report = trio.worker(leader).reports().remove(0);
    let described = report.descriptor.expect("a report has its descriptor");
    assert_eq!((described.range_id, described.replicas.len(), report.locks), (RANGE.0, 3, 1));
    for store in 1..=3 {
        let range = trio.describe(store).ranges.remove(0);
        let active = range.replicas.iter().filter(|it| it.is_active && it.is_voter).count();
        assert_eq!(active, if store == leader { 3 } else { 0 }, "only the leader knows");
    }
}

#[test]
fn routes_and_reports_tell_what_has_changed_and_nothing_else() {
    let (mut trio, leader) = Trio::new();
    let routes = |trio: &mut Trio, heard: u64| {
        let question = DescribeStore { heard: Some(heard), only: None };
        match trio.call(leader, store_call::Body::Describe(question)) {
            Some(store_reply::Body::Describe(description)) => description,
            other => panic!("{other:?}"),
        }
    };
    let whole = routes(&mut trio, 0);
    assert_eq!((whole.since, whole.descriptors.len(), whole.has_more), (0, 1, false));
    assert_eq!((whole.ranges[0].range_id, whole.ranges[0].leader_store_id), (RANGE.0, leader));
    assert_eq!(trio.worker_mut(leader).take_reports().len(), 1);

    trio.granted(leader, "a", 1);
    trio.pass(Duration::from_secs(5));
    let nothing = routes(&mut trio, whole.upto);
    assert_eq!((nothing.since, nothing.upto), (whole.upto, whole.upto));
    assert!(nothing.ranges.is_empty() && nothing.descriptors.is_empty());
    assert_eq!(trio.worker_mut(leader).take_reports(), []);

    trio.tell(leader, Input::HandOver);
    trio.pass(Duration::from_secs(1));
    let next = trio.leader().expect("another leads");
    let change = routes(&mut trio, whole.upto);
    assert_eq!((change.since, change.ranges.len()), (whole.upto, 1));
    assert_eq!(change.ranges[0].leader_store_id, next);
    assert!(change.ranges[0].term > whole.ranges[0].term);
    let changed = trio.worker_mut(leader).take_reports();
    assert_eq!(changed, [(RANGE, None)], "it leads no more");
}

/// As if a newer program had proposed what is in it.
fn of_newer_rules(input: Input) -> Input {
    let Input::Message(mut message) = input else { return input };
    let entries = message.message.iter_mut().flat_map(|body| &mut body.entries);
    for entry in entries.filter(|entry| !entry.data.is_empty()) {
        let mut data = entry.data.to_vec();
        data[1] = FEATURE_LEVEL as u8 + 1;
        entry.data = data.into();
    }
    Input::Message(message)
}

#[test]
fn a_store_whose_program_is_too_old_for_a_range_says_so_until_it_has_caught_up() {
    let (mut trio, leader) = Trio::new();
    let follower = 1 + leader % 3;
    trio.parks = Some(follower);
    trio.granted(leader, "a", 1);
    trio.parks = None;
    let parked = std::mem::take(&mut trio.parked).into_iter();
    let newer = parked.map(|(to, input)| (to, of_newer_rules(input))).collect::<Vec<_>>();
    newer.into_iter().for_each(|(to, input)| trio.tell(to, input));
    let [ailing] = &trio.worker(follower).ailing_replicas()[..] else { panic!("it is behind") };
    assert_eq!(
        *ailing,
        format!(
            "its replica of range 1: it stays behind at entry {}: it needs feature level {}, and \
             this program knows {FEATURE_LEVEL}: upgrade this server",
            trio.worker(leader).store().status(RANGE).expect("it is here").log_last,
            FEATURE_LEVEL + 1,
        )
    );
    let ailing = ailing.clone();
    let described = trio.describe(follower).store.expect("it says who it is");
    assert_eq!(described.behind_replicas, [ailing]);
    assert!(described.lost_replicas.is_empty());
    trio.pass(Duration::from_secs(1));
    assert!(trio.worker(follower).ailing_replicas().is_empty(), "the leader has this program");
}

#[test]
fn a_store_that_stops_hands_its_ranges_over_at_once() {
    let (mut trio, leader) = Trio::new();
    let token = trio.granted(leader, "a", 1);
    trio.tell(leader, Input::HandOver);
    trio.settle();
    let next = trio.leader().expect("no time has passed, and another leads");
    assert_ne!(next, leader);
    assert!(!trio.worker(leader).leads_all());
    let refused = trio.acquire(leader, "b", 2);
    let Some(store_reply::Body::Error(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.kind, Some(store_error::Kind::NotLeader(_))), "{error:?}");
    assert_eq!(trio.granted(next, "b", 2), token + 1, "the state went with it");
}

#[test]
fn a_follower_leads_from_the_table_that_a_snapshot_brought() {
    let (mut trio, leader) = Trio::new();
    trio.granted(leader, "before", 1);
    trio.pass(Duration::from_secs(1));
    let away = leader % 3 + 1;
    trio.alone = Some(away);
    let mut last = 0;
    for id in 2..40 {
        last = trio.granted(leader, &format!("name-{id}"), id);
        trio.pass(Duration::from_millis(100));
    }
    trio.alone = None;
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.worker(away).store().snapshot_stats().installed, 1);
    let (stands, led) = (trio.worker(away).store(), trio.worker(leader).store());
    let hash = |store: &Store<LockRange>| store.status(RANGE).map(|it| it.state_hash);
    assert_eq!(hash(stands), hash(led));

    // Nobody else can take it: the third is cut off.
    let third = 6 - leader - away;
    trio.alone = Some(third);
    trio.pass(Duration::from_secs(2));
    let leader = trio.leader().expect("two of three go on");
    if leader != away {
        trio.tell(leader, Input::HandOver);
        trio.settle();
    }
    assert_eq!(trio.leader(), Some(away));
    assert_eq!(trio.granted(away, "after", 90), last + 1);
    let held = trio.acquire(away, "before", 91);
    let Some(store_reply::Body::Acquire(response)) = held else { panic!("{held:?}") };
    assert_ne!(response.outcome(), v1::AcquireOutcome::Granted, "it is held still");
}
