//! Ranges that have too much of something are split without anybody's asking, where that helps.

use std::time::Duration;

use sharklock_dataserver::{Input, SplitCounts, SplitLimits};
use sharklock_proto::{
    internal::v1::store_call::Body as Call,
    v1::{self, RangeStatus},
};
use sharklock_rangemap::RangeId;

use super::{
    asked_splits::{CHILD, ids},
    rig::{RANGE, Trio},
};

const NONE: SplitLimits =
    SplitLimits { locks: None, bytes: None, waiters: None, commands_per_second: None };

fn beyond(limits: SplitLimits) -> (Trio, u64) {
    Trio::empty().set(|worker| worker.with_split_limits(limits)).with_range()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl Trio {
    fn range(&mut self, store: u64, range: RangeId) -> RangeStatus {
        let mut ranges = self.describe(store).ranges.into_iter();
        ranges.find(|it| it.range_id == range.0).expect("the store has it")
    }

    fn splits(&self, store: u64) -> SplitCounts {
        self.worker(store).stats().splits
    }

    /// Waits for a lock, for a session of its own.
    fn waits(&mut self, store: u64, name: &str, session: u8) {
        let acquire = v1::AcquireRequest {
            name: name.into(),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(60_000),
            acquisition_id: 1,
            ..v1::AcquireRequest::default()
        };
        self.ask(store, session, Call::Acquire(acquire));
    }

    /// Twenty commands a second for so many seconds: each lock in turn is tried by somebody.
    fn works(&mut self, store: u64, secs: u64, names: &[&str]) {
        let until = self.now + seconds(secs);
        for at in 0.. {
            if self.now >= until || !self.ids_wanted.is_empty() {
                return;
            }
            self.now += Duration::from_millis(50);
            let id = 1_000 + u64::try_from(self.now.as_millis()).expect("a test is short");
            self.acquire(store, names[at % names.len()], id);
        }
    }
}

#[test]
fn a_range_of_too_many_locks_is_split_in_its_middle_and_nobody_had_to_ask() {
    let (mut trio, leader) = beyond(SplitLimits { locks: Some(3), ..NONE });
    for (id, name) in (1..).zip(["a", "b", "c"]) {
        trio.granted(leader, name, id);
    }
    trio.pass(seconds(1));
    assert!(trio.ids_wanted.is_empty(), "three are not too many");
    trio.granted(leader, "d", 4);
    trio.pass(seconds(1));
    let wanted = trio.only_wanted();
    assert_eq!((wanted.range, wanted.key.as_str()), (RANGE, "c"));
    assert_eq!(trio.range(leader, RANGE).splitting_at, "c");
    trio.tell(leader, ids(wanted));
    trio.pass(seconds(1));
    assert_eq!([RANGE, CHILD].map(|range| trio.range(leader, range).locks), [2, 2]);
    assert_eq!(trio.splits(leader), SplitCounts { locks: 1, ..SplitCounts::default() });
    assert!(trio.worker(leader).leads(CHILD), "there is no reason to lead it elsewhere");
    trio.pass(seconds(20));
    assert!(trio.ids_wanted.is_empty(), "neither half has too many");
}

#[test]
fn without_masters_the_split_waits_and_locks_go_on() {
    let (mut trio, leader) = beyond(SplitLimits { locks: Some(2), ..NONE });
    for (id, name) in (1..).zip(["a", "b", "c"]) {
        trio.granted(leader, name, id);
    }
    trio.pass(seconds(1));
    let wanted = trio.only_wanted();
    trio.tell(leader, Input::NoIds { wanted, why: "nobody is there".into() });
    trio.granted(leader, "d", 4);
    let range = trio.range(leader, RANGE);
    assert!(range.unsplit_because.contains("nobody is there"), "{range:?}");
    assert_eq!(range.hot_name, "");
    trio.pass(seconds(6));
    let again = trio.only_wanted();
    assert_eq!(again.key, "c", "it is decided anew");
    trio.tell(leader, ids(again));
    trio.pass(seconds(1));
    assert_eq!(trio.range(leader, RANGE).unsplit_because, "");
    assert_eq!(trio.splits(leader).locks, 1);
}

#[test]
fn waiters_and_memory_are_shared_out_unless_one_lock_has_them() {
    for limits in
        [SplitLimits { waiters: Some(3), ..NONE }, SplitLimits { bytes: Some(4_096), ..NONE }]
    {
        let (mut trio, leader) = beyond(limits);
        for (id, name) in (1..).zip(["a", "b", "c"]) {
            trio.granted(leader, name, id);
        }
        for session in 20..32 {
            trio.waits(leader, "c", session);
        }
        trio.pass(seconds(1));
        assert!(trio.ids_wanted.is_empty());
        let hot = trio.range(leader, RANGE);
        assert!(hot.unsplit_because.contains("no split helps"), "{hot:?}");
        assert_eq!(hot.hot_name, "c");
        for session in 40..52 {
            trio.waits(leader, "b", session);
        }
        trio.pass(seconds(6));
        let wanted = trio.only_wanted();
        assert_eq!(wanted.key, "c", "the waiters of b stay");
        trio.tell(leader, ids(wanted));
        trio.pass(seconds(1));
        assert_eq!([RANGE, CHILD].map(|range| trio.range(leader, range).waiters), [12, 12]);
    }
}

#[test]
fn a_range_that_is_busy_for_ten_seconds_is_split_and_another_store_leads_the_child() {
    let (mut trio, leader) = beyond(SplitLimits { commands_per_second: Some(10), ..NONE });
    trio.works(leader, 8, &["a", "b"]);
    trio.pass(seconds(3));
    trio.works(leader, 8, &["a", "b"]);
    assert!(trio.ids_wanted.is_empty(), "neither spell was long enough");
    trio.works(leader, 6, &["a", "b"]);
    let wanted = trio.only_wanted();
    assert_eq!(wanted.key, "b");
    trio.tell(leader, ids(wanted));
    trio.pass(seconds(2));
    assert_eq!(trio.splits(leader).commands, 1);
    let leads = |range| (1..=3).find(|store| trio.worker(*store).leads(range));
    assert_eq!(leads(RANGE), Some(leader));
    assert!(leads(CHILD).is_some_and(|child| child != leader), "{:?}", leads(CHILD));
}

#[test]
fn one_hot_lock_is_named_and_nothing_is_split() {
    let (mut trio, leader) = beyond(SplitLimits { commands_per_second: Some(10), ..NONE });
    trio.works(leader, 15, &["hot", "hot", "hot", "hot", "hot", "z"]);
    assert!(trio.ids_wanted.is_empty());
    let range = trio.range(leader, RANGE);
    assert_eq!(range.hot_name, "hot");
    assert!(range.unsplit_because.contains("split.commands_per_second"), "{range:?}");
    trio.pass(seconds(10));
    let range = trio.range(leader, RANGE);
    assert_eq!((range.hot_name.as_str(), range.unsplit_because.as_str()), ("", ""), "it is over");
}

/// The replicas that a store may have are kept for ranges that grow, and for operators.
#[test]
fn what_passes_uses_up_half_of_the_replicas_of_a_store() {
    let limits = SplitLimits { locks: Some(4), waiters: Some(3), ..NONE };
    let set =
        |worker: sharklock_dataserver::Worker| worker.with_split_limits(limits).with_ranges_max(3);
    let (mut trio, leader) = Trio::empty().set(set).with_range();
    for (id, name) in (1..).zip(["a", "b", "c", "d"]) {
        trio.granted(leader, name, id);
    }
    for (session, name) in (20..).zip(["a", "b", "c", "d"]) {
        trio.waits(leader, name, session);
    }
    trio.pass(seconds(6));
    assert!(trio.ids_wanted.is_empty());
    let range = trio.range(leader, RANGE);
    assert!(range.unsplit_because.contains("ranges.max_per_store"), "{range:?}");
    trio.granted(leader, "e", 5);
    trio.pass(seconds(6));
    assert_eq!(trio.only_wanted().key, "c", "locks do not go by themselves");
}
