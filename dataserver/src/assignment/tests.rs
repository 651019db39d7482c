use std::{collections::BTreeSet, time::Duration};

use sharklock_proto::internal::v1::{
    CreateReplica, Heartbeat, Message as RaftMessage, MessageType, RangeDescriptor, ReplicaAbsent,
    ReplicaRemoved, store_call::Body,
};
use sharklock_proto::v1;
use sharklock_rangemap::{Epoch, PeerId, Replica, Role, StoreId};

use super::*;
use crate::front::LinkId;

fn bounds(start: &str, end: &str) -> Bounds {
    Bounds { start: start.as_bytes().to_vec(), end: end.as_bytes().to_vec() }
}

fn table(workers: usize) -> Assignment {
    Assignment::new(NonZeroUsize::new(workers).expect("some"))
}

fn settled(range: u64, bounds: Option<Bounds>, handled: u32) -> Whereabouts {
    Whereabouts::Settled { range: RangeId(range), bounds, handled }
}

fn born(range: u64, bounds: Bounds) -> Whereabouts {
    Whereabouts::Born { range: RangeId(range), bounds }
}

fn birth(table: &mut Assignment, range: u64, start: &str, end: &str) -> Option<usize> {
    table.of_birth(RangeId(range), &bounds(start, end))
}

fn notice(range: u64, notice: Notice) -> RangeMessage {
    let notice = Some(PeerNotice { notice: Some(notice) });
    RangeMessage { range_id: range, notice, ..RangeMessage::default() }
}

fn by_name(range: u64, name: &str) -> StoreCall {
    let request = v1::ReleaseRequest { name: name.to_owned(), ..v1::ReleaseRequest::default() };
    StoreCall { range_id: range, body: Some(Body::Release(request)), ..StoreCall::default() }
}

#[test]
fn first_ranges_are_spread_and_those_on_their_way_count() {
    let mut table = table(3);
    let workers = [(1, "", "c"), (2, "c", "f"), (3, "f", "k"), (4, "k", "")]
        .map(|(range, start, end)| birth(&mut table, range, start, end));
    assert_eq!(workers, [Some(0), Some(1), Some(2), Some(0)]);
    assert_eq!(birth(&mut table, 2, "c", "f"), Some(1), "the master repeats itself");
    assert_eq!(table.of_range(RangeId(4)), 0);
}

#[test]
fn a_child_is_where_its_parent_is_and_calls_find_it_as_soon_as_it_is_born() {
    let mut table = table(2);
    table.begin(1, vec![(RangeId(1), Some(Bounds::ALL))]);
    assert_eq!(table.of_call(&by_name(0, "x")), 1);
    assert_eq!(table.of_call(&by_name(9, "x")), 1, "who means another range hears of this one");
    table.follow(1, born(2, bounds("m", "")));
    assert_eq!((table.of_range(RangeId(2)), table.of_call(&by_name(1, "x"))), (1, 1));
    table.follow(1, settled(1, Some(bounds("", "m")), 0));
    table.follow(1, settled(2, Some(bounds("m", "")), 0));
    assert_eq!(table.loads, [0, 2]);
    assert_eq!(birth(&mut table, 3, "q", "s"), Some(1), "its names are still the child's");
}

#[test]
fn names_are_free_once_the_disk_has_that_they_are() {
    let mut table = table(2);
    table.begin(0, vec![(RangeId(1), Some(Bounds::ALL))]);
    assert_eq!(birth(&mut table, 2, "m", ""), Some(0), "the parent has not applied its split");
    // It is refused there; then a snapshot takes the parent behind the split.
    table.follow(0, settled(2, None, 1));
    assert_eq!(birth(&mut table, 2, "m", ""), Some(0));
    table.follow(0, settled(1, Some(bounds("", "m")), 0));
    table.follow(0, settled(2, None, 1));
    assert_eq!(birth(&mut table, 2, "m", ""), Some(1), "the other has less to do");
    table.follow(1, born(2, bounds("m", "")));
    table.follow(1, settled(2, Some(bounds("m", "")), 1));
    assert_eq!(table.of_call(&by_name(0, "x")), 1);
}

#[test]
fn whatever_is_older_than_what_two_workers_have_is_made_by_nobody() {
    let mut table = table(2);
    table.begin(0, vec![(RangeId(1), Some(bounds("", "m")))]);
    table.begin(1, vec![(RangeId(2), Some(bounds("m", "")))]);
    assert_eq!(birth(&mut table, 3, "a", "z"), None);
    assert_eq!(birth(&mut table, 1, "", ""), None, "a late word of the first itself");
    assert_eq!(table.places.len(), 2);
    assert_eq!(birth(&mut table, 3, "x", "z"), Some(1));
}

#[test]
fn a_range_keeps_its_worker_while_something_is_on_its_way_there() {
    let mut table = table(2);
    table.begin(0, vec![(RangeId(1), Some(Bounds::ALL))]);
    let removed = notice(1, Notice::Removed(ReplicaRemoved {}));
    assert_eq!(table.of_message(&removed), Some(0));
    assert_eq!(table.of_message(&removed), Some(0));
    table.follow(0, settled(1, None, 1));
    assert_eq!(birth(&mut table, 1, "", ""), Some(0), "the second word is still under way");
    table.not_sent(RangeId(1));
    assert_eq!(table.places.len(), 1);
    table.follow(0, settled(1, None, 1));
    assert!(table.places.is_empty() && table.by_start.is_empty());
    assert_eq!(table.loads, [0, 0]);
    assert_eq!(table.of_message(&removed), None, "nothing is there to be removed");
}

#[test]
fn a_range_that_is_to_be_buried_has_its_place_until_the_disk_has_that() {
    let mut table = table(2);
    table.begin(1, vec![(RangeId(7), None)]);
    assert_eq!(birth(&mut table, 7, "", ""), Some(1));
    table.not_sent(RangeId(7));
    assert_eq!(birth(&mut table, 7, "", ""), Some(1));
    table.follow(1, settled(7, None, 1));
    assert_eq!(birth(&mut table, 7, "", ""), Some(0));
}

#[test]
fn a_child_is_asked_for_its_vote_wherever_it_may_be_born() {
    let mut table = table(3);
    table.begin(1, vec![(RangeId(1), Some(Bounds::ALL))]);
    let message = |range, kind: MessageType| {
        let body = RaftMessage { msg_type: kind.into(), ..RaftMessage::default() };
        let message = Some(body);
        Input::Message(Box::new(RangeMessage { range_id: range, message, ..Default::default() }))
    };
    let mut workers = |range, kind| -> Vec<_> {
        table.route(message(range, kind)).into_iter().map(|(worker, _)| worker).collect()
    };
    assert_eq!(workers(8, MessageType::MsgRequestPreVote), [0, 1, 2]);
    assert_eq!(workers(8, MessageType::MsgRequestVote), [0, 1, 2]);
    assert_eq!(workers(8, MessageType::MsgAppend), [2], "it says that it knows no such range");
    assert_eq!(workers(1, MessageType::MsgRequestVote), [1]);
}

#[test]
fn a_leader_asks_for_a_replica_by_its_descriptor() {
    let member = Replica { peer: PeerId(4), store: StoreId(1), role: Role::Voter };
    let epoch = Epoch { version: 2, conf_ver: 3 };
    let descriptor = Descriptor::new(RangeId(3), bounds("c", "d"), epoch, vec![member]);
    let create = || CreateReplica { descriptor: Some(RangeDescriptor::from(&descriptor)) };
    let mut table = table(2);
    table.begin(1, vec![(RangeId(9), Some(bounds("a", "")))]);
    assert_eq!(table.of_message(&notice(3, Notice::Create(create()))), Some(1));
    assert_eq!(table.of_message(&notice(5, Notice::Create(create()))), None, "of another range");
    assert_eq!(table.of_message(&notice(3, Notice::Create(CreateReplica::default()))), None);
    assert_eq!(table.of_range(RangeId(3)), 1);
    let absent = notice(9, Notice::Absent(ReplicaAbsent::default()));
    assert_eq!(table.of_message(&absent), Some(1));
    assert_eq!(Assignment::is_about_life(&Input::Message(Box::new(absent))), None);
    let create = Input::Message(Box::new(notice(3, Notice::Create(create()))));
    assert_eq!(Assignment::is_about_life(&create), Some(RangeId(3)));
}

#[test]
fn heartbeats_of_many_ranges_are_split_and_keep_their_order() {
    let mut table = table(3);
    for (worker, range) in [(0, 1), (2, 2), (0, 3), (2, 4)] {
        table.begin(worker, vec![(RangeId(range), None)]);
    }
    let beat = |range_id| Heartbeat { range_id, ..Heartbeat::default() };
    let beats = [4, 1, 2, 3].map(beat).to_vec();
    let heartbeats = Heartbeats { from_store: 8, to_store: 9, beats, ..Heartbeats::default() };
    let split = table.route(Input::Heartbeats(Box::new(heartbeats)));
    let shape = split.iter().map(|(worker, input)| {
        let Input::Heartbeats(it) = input else { panic!("{input:?}") };
        assert_eq!((it.from_store, it.to_store), (8, 9));
        (*worker, it.beats.iter().map(|beat| beat.range_id).collect::<Vec<_>>())
    });
    assert_eq!(shape.collect::<Vec<_>>(), [(0, vec![1, 3]), (2, vec![4, 2])]);
}

#[test]
fn what_is_about_all_ranges_reaches_all_workers_and_calls_only_their_own() {
    let mut table = table(3);
    table.begin(0, vec![(RangeId(1), Some(bounds("", "m")))]);
    table.begin(2, vec![(RangeId(2), Some(bounds("m", "")))]);
    let workers = |routed: Vec<(usize, Input)>| {
        routed.into_iter().map(|(worker, _)| worker).collect::<Vec<_>>()
    };
    for input in [Input::LinkClosed(LinkId(4)), Input::Unreachable(StoreId(2)), Input::HandOver] {
        assert_eq!(workers(table.route(input)), [0, 1, 2]);
    }
    let calls = vec![by_name(0, "x"), by_name(1, "a"), by_name(2, "y"), StoreCall::default()];
    let sorted = table.sort_calls(calls.clone());
    let expected = [
        (0, vec![calls[1].clone(), calls[3].clone()]),
        (2, vec![calls[0].clone(), calls[2].clone()]),
    ];
    assert_eq!(sorted, expected);
    let input = Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls };
    assert_eq!(workers(table.route(input)), [0, 2]);
}

/// The naive picture: what every worker has, in memory or on the disk.
struct Model {
    table: Assignment,
    /// Range, worker, names as its log says, and as the disk has them.
    replicas: BTreeMap<u64, (usize, Bounds, Bounds)>,
    /// Changes that the disk does not have yet.
    unsettled: BTreeSet<(usize, u64)>,
    next: u64,
}

impl Model {
    fn check(&self) {
        let spans: Vec<_> = self.replicas.iter().collect();
        for (at, (range, (worker, _, on_disk))) in spans.iter().enumerate() {
            assert_eq!(self.table.of_range(RangeId(**range)), *worker, "range {range}");
            for (other, (its_worker, _, its_names)) in &spans[..at] {
                assert!(
                    worker == its_worker || !on_disk.overlaps(its_names),
                    "{range} at {worker} and {other} at {its_worker}: {on_disk:?} {its_names:?}"
                );
            }
        }
        let mut loads = vec![0; self.table.workers()];
        self.table.places.values().for_each(|place| loads[place.worker] += 1);
        assert_eq!(self.table.loads, loads);
    }

    /// As the engine of that worker decides.
    fn make(&mut self, range: u64, names: Bounds) {
        let Some(worker) = self.table.of_birth(RangeId(range), &names) else { return };
        let mine = self.replicas.iter().filter(|(_, (of, ..))| *of == worker);
        let is_refused =
            mine.into_iter().any(|(it, (_, here, _))| *it == range || here.overlaps(&names));
        if !is_refused {
            self.replicas.insert(range, (worker, names.clone(), names.clone()));
            self.table.follow(worker, born(range, names));
        }
        self.settle_one(worker, range, 1);
    }

    fn split(&mut self, range: u64, key: Vec<u8>) {
        let Some((worker, names, _)) = self.replicas.get_mut(&range) else { return };
        if !names.contains(&key) || names.start == key {
            return;
        }
        let child = Bounds { start: key.clone(), end: std::mem::replace(&mut names.end, key) };
        let worker = *worker;
        self.next += 1;
        self.replicas.insert(self.next, (worker, child.clone(), child.clone()));
        self.table.follow(worker, born(self.next, child));
        self.unsettled.insert((worker, range));
    }

    fn settle_one(&mut self, worker: usize, range: u64, handled: u32) {
        self.unsettled.remove(&(worker, range));
        let names = self.replicas.get_mut(&range).map(|(_, names, on_disk)| {
            on_disk.clone_from(names);
            names.clone()
        });
        self.table.follow(worker, settled(range, names, handled));
    }
}

#[test]
fn no_two_workers_ever_have_a_name_in_common() {
    for seed in 0..200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let table = table(1 + next(4) as usize);
        let mut model =
            Model { table, replicas: BTreeMap::new(), unsettled: BTreeSet::new(), next: 1_000 };
        for _ in 0..300 {
            let mut key = || vec![b'a' + next(20) as u8];
            let (start, end) = (key(), key());
            let range = 1 + next(12);
            let some = model.replicas.keys().nth(next(8) as usize).copied();
            match (next(6), some) {
                (0..=1, _) if start < end => model.make(range, Bounds { start, end }),
                (2, Some(range)) => model.split(range, start),
                (3, Some(range)) => {
                    let (worker, ..) = model.replicas[&range];
                    // On the disk it is gone with the next batch; in memory at once.
                    model.replicas.remove(&range);
                    model.settle_one(worker, range, 0);
                }
                (4, _) => {
                    let unsettled = model.unsettled.iter().nth(next(4) as usize).copied();
                    if let Some((worker, range)) = unsettled {
                        model.settle_one(worker, range, 0);
                    }
                }
                _ => {}
            }
            model.check();
        }
    }
}
