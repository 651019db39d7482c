//! Which raft worker of a store has which range: the one place that assigns (D5).
//!
//! What two replicas with a name in common must know of each other is known inside one worker only:
//! that they overlap, that one is born out of the other's split, that one has ended. So the table
//! keeps those together. Names only become free: a child is born where its parent is, and a replica
//! that is to be made goes to the worker that has, or may still get, one of its names. Where that is
//! more than one worker, its descriptor is older than what is here, and nobody makes it.
//!
//! Workers tell what becomes of their ranges ([`Whereabouts`]). A range and its names stay in the
//! table until the disk has that they are free, so whoever gets them next writes behind that.

use std::{collections::BTreeMap, num::NonZeroUsize, ops::Bound};

use sharklock_multiraft::asks_for_a_vote;
use sharklock_proto::internal::v1::{
    Heartbeats, PeerNotice, RangeMessage, SnapshotMessage, StoreCall, peer_notice::Notice,
};
use sharklock_rangemap::{Bounds, Descriptor, RangeId};

use crate::ports::{IdsWanted, Input, Whereabouts};

/// See the module. Workers are counted from 0.
///
/// Invariants:
/// - whatever a worker has of a range, in memory or on the disk, has its place here, with at least
///   those names; a tombstone alone has none, since every worker knows of it;
/// - two places with a name in common are of one worker;
/// - `loads` counts the places of each worker;
/// - `by_start` has the places whose replica is here, so far as no two begin at the same name.
#[derive(Debug)]
pub struct Assignment {
    places: BTreeMap<RangeId, Place>,
    by_start: BTreeMap<Vec<u8>, RangeId>,
    loads: Vec<usize>,
}

#[derive(Debug)]
struct Place {
    worker: usize,
    /// The names of its replica.
    here: Option<Bounds>,
    /// The names of those that may be made of inputs under way: versions of one range, which begin
    /// at the same name.
    hoped: Option<Bounds>,
    /// Inputs on their way to the worker that can make or end a replica.
    under_way: u32,
    /// A replay has ended its replica, and the disk does not have that yet.
    is_ending: bool,
}

impl Place {
    fn overlaps(&self, bounds: &Bounds) -> bool {
        self.here.iter().chain(&self.hoped).any(|it| it.overlaps(bounds))
    }
}

impl Assignment {
    /// A table in which nothing has a place.
    pub fn new(workers: NonZeroUsize) -> Self {
        let loads = vec![0; workers.get()];
        Self { places: BTreeMap::new(), by_start: BTreeMap::new(), loads }
    }

    /// Takes in the ranges of a worker at the start ([`Store::held`](sharklock_multiraft::Store::held)).
    pub fn begin(&mut self, worker: usize, held: Vec<(RangeId, Option<Bounds>)>) {
        for (range, bounds) in held {
            self.put(worker, range);
            match bounds {
                Some(bounds) => self.is_here(range, bounds),
                None => self.places.get_mut(&range).expect("it is there").is_ending = true,
            }
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.loads.len()
    }

    /// The worker of a range; any, where it has no place: none knows it, and each would say so.
    pub fn of_range(&self, range: RangeId) -> usize {
        let any = usize::try_from(range.0 % self.workers() as u64).expect("it is below a usize");
        self.places.get(&range).map_or(any, |place| place.worker)
    }

    /// Whether a range has its place at another worker than this one.
    pub fn is_elsewhere(&self, range: RangeId, worker: usize) -> bool {
        self.places.get(&range).is_some_and(|place| place.worker != worker)
    }

    /// What is for this store, for each worker what is for it, in order. Whatever is about the life of a
    /// replica ([`is_about_life`](Self::is_about_life)) counts as under way from now on: it must reach
    /// its worker, or be taken back ([`not_sent`](Self::not_sent)).
    ///
    /// # Panics
    /// On what a worker's own disk, chores and table say: that is for no other.
    pub fn route(&mut self, input: Input) -> Vec<(usize, Input)> {
        let all = 0..self.workers();
        match input {
            Input::Calls { link, queued, calls } => {
                let of_each = self.sort(calls, |table, call| table.of_call(call)).into_iter();
                of_each
                    .map(|(worker, calls)| (worker, Input::Calls { link, queued, calls }))
                    .collect()
            }
            Input::Heartbeats(heartbeats) => self.split_heartbeats(*heartbeats),
            Input::Snapshots(pieces) => {
                let of_range =
                    |table: &Self, piece: &SnapshotMessage| table.of_range(RangeId(piece.range_id));
                let of_each = self.sort(pieces, of_range).into_iter();
                of_each.map(|(worker, pieces)| (worker, Input::Snapshots(pieces))).collect()
            }
            Input::LinkClosed(link) => all.map(|it| (it, Input::LinkClosed(link))).collect(),
            Input::Unreachable(store) => all.map(|it| (it, Input::Unreachable(store))).collect(),
            Input::HandOver => all.map(|it| (it, Input::HandOver)).collect(),
            // Its range may be a child that the worker of its parent is about to bear.
            Input::Message(message) if self.is_early_vote(&message) => {
                all.map(|it| (it, Input::Message(message.clone()))).collect()
            }
            Input::Message(message) => {
                let worker = self.of_message(&message);
                worker.map(|worker| (worker, Input::Message(message))).into_iter().collect()
            }
            Input::Create { descriptor, level } => {
                let worker = self.of_birth(descriptor.range, &descriptor.bounds);
                let create = |worker| (worker, Input::Create { descriptor, level });
                worker.map(create).into_iter().collect()
            }
            Input::GoOnAlone(order) => {
                vec![(self.of_range(RangeId(order.range_id)), Input::GoOnAlone(order))]
            }
            Input::AskedAbout(range) => vec![(self.of_range(range), Input::AskedAbout(range))],
            Input::Step(step) => {
                vec![(self.of_range(RangeId(step.range_id)), Input::Step(step))]
            }
            Input::RaiseLevel { range, .. }
            | Input::Split { range, .. }
            | Input::NoIds { wanted: IdsWanted { range, .. }, .. } => {
                vec![(self.of_range(range), input)]
            }
            Input::Persisted(_) | Input::ChoreDone(_) | Input::Buried { .. } => {
                unreachable!("{input:?} is for one worker")
            }
        }
    }

    /// Sorts calls by their workers, each in order.
    pub fn sort_calls(&self, calls: Vec<StoreCall>) -> Vec<(usize, Vec<StoreCall>)> {
        self.sort(calls, Self::of_call)
    }

    /// The range whose replica an input can make or end, if it can. So can the range's own log.
    pub fn is_about_life(input: &Input) -> Option<RangeId> {
        match input {
            Input::Message(message) => {
                let notice = notice(message)?;
                let ours = matches!(notice, Notice::Create(_) | Notice::Removed(_));
                ours.then_some(RangeId(message.range_id))
            }
            Input::Create { descriptor, .. } => Some(descriptor.range),
            _ => None,
        }
    }

    fn sort<T>(&self, all: Vec<T>, of: impl Fn(&Self, &T) -> usize) -> Vec<(usize, Vec<T>)> {
        let mut sorted: Vec<_> = (0..self.workers()).map(|worker| (worker, Vec::new())).collect();
        all.into_iter().for_each(|it| sorted[of(self, &it)].1.push(it));
        sorted.retain(|(_, its)| !its.is_empty());
        sorted
    }

    /// The worker for a call: of the range here that has the name, since a caller that has not heard
    /// of it learns of it there; otherwise of the range that the caller means.
    fn of_call(&self, call: &StoreCall) -> usize {
        let name = call.body.as_ref().and_then(|body| body.routed_by());
        let named = name.and_then(|name| self.at(name.as_bytes()));
        named.unwrap_or_else(|| self.of_range(RangeId(call.range_id)))
    }

    fn at(&self, name: &[u8]) -> Option<usize> {
        let before = (Bound::Unbounded, Bound::Included(name));
        let (_, range) = self.by_start.range::<[u8], _>(before).next_back()?;
        let place = &self.places[range];
        place.here.as_ref().filter(|bounds| bounds.contains(name)).map(|_| place.worker)
    }

    /// Whether a message asks a replica for its vote that has no place yet.
    fn is_early_vote(&self, message: &RangeMessage) -> bool {
        asks_for_a_vote(message) && !self.places.contains_key(&RangeId(message.range_id))
    }

    /// The worker for a message. `None`: it leads to nothing.
    fn of_message(&mut self, message: &RangeMessage) -> Option<usize> {
        let range = RangeId(message.range_id);
        match notice(message) {
            Some(Notice::Create(create)) => {
                let descriptor = Descriptor::try_from(create.descriptor.as_ref()?).ok()?;
                let is_same = descriptor.range == range;
                is_same.then(|| self.of_birth(range, &descriptor.bounds))?
            }
            // Where no replica is, and none on its way, a tombstone would only keep a late message from
            // making one, which then finds out by itself. But another worker might have made it by now.
            Some(Notice::Removed(_)) => {
                let place = self.places.get_mut(&range)?;
                place.under_way += 1;
                Some(place.worker)
            }
            _ => Some(self.of_range(range)),
        }
    }

    /// The worker that may make a replica of this range: it counts as there from now on. `None`: two
    /// workers have some of its names, so the descriptor is older than what is here.
    fn of_birth(&mut self, range: RangeId, bounds: &Bounds) -> Option<usize> {
        let others =
            self.places.iter().filter(|(it, place)| **it == range || place.overlaps(bounds));
        let mut workers = others.map(|(_, place)| place.worker);
        let first = workers.next();
        if workers.any(|worker| Some(worker) != first) {
            return None;
        }
        let least = || (0..self.loads.len()).min_by_key(|worker| self.loads[*worker]);
        let worker = first.or_else(least).expect("there is a worker");
        self.put(worker, range);
        let place = self.places.get_mut(&range).expect("it has just been put there");
        place.under_way += 1;
        place.hoped = Some(match place.hoped.take() {
            Some(before) => both(before, bounds),
            None => bounds.clone(),
        });
        Some(worker)
    }

    /// An input about the life of this range has not reached its worker.
    pub fn not_sent(&mut self, range: RangeId) {
        self.is_handled(range, 1);
    }

    fn split_heartbeats(&self, mut heartbeats: Heartbeats) -> Vec<(usize, Input)> {
        let (beats, whole) = (std::mem::take(&mut heartbeats.beats), heartbeats);
        let of_each = self.sort(beats, |table, beat| table.of_range(RangeId(beat.range_id)));
        let heartbeats = |beats| Input::Heartbeats(Box::new(Heartbeats { beats, ..whole.clone() }));
        of_each.into_iter().map(|(worker, beats)| (worker, heartbeats(beats))).collect()
    }

    /// Follows what a worker tells. What comes back is for all other workers, before anything else is
    /// routed.
    ///
    /// # Panics
    /// If two workers have the range, or names of it: each would write what the other relies on.
    pub fn follow(&mut self, worker: usize, told: Whereabouts) -> Option<Input> {
        match told {
            Whereabouts::Buried { range, peer } => return Some(Input::Buried { range, peer }),
            Whereabouts::Born { range, bounds } => {
                let other = self.places.iter().find(|(it, place)| {
                    place.worker != worker && (**it == range || place.overlaps(&bounds))
                });
                if let Some((other, place)) = other {
                    panic!(
                        "worker {worker} has range {range} with {bounds:?}, and worker {} has \
                         range {other}: {place:?}",
                        place.worker
                    );
                }
                self.put(worker, range);
                self.is_here(range, bounds);
            }
            Whereabouts::Settled { range, bounds, handled } => {
                let Some(place) = self.places.get_mut(&range) else {
                    assert!(bounds.is_none() && handled == 0, "range {range} has no place");
                    return None;
                };
                assert_eq!(place.worker, worker, "worker {worker} tells of range {range}");
                place.is_ending = false;
                match bounds {
                    Some(bounds) => self.is_here(range, bounds),
                    None => self.is_not_here(range),
                }
                self.is_handled(range, handled);
            }
        }
        None
    }

    fn put(&mut self, worker: usize, range: RangeId) {
        let loads = &mut self.loads;
        let place = self.places.entry(range).or_insert_with(|| {
            loads[worker] += 1;
            Place { worker, here: None, hoped: None, under_way: 0, is_ending: false }
        });
        assert_eq!(place.worker, worker, "range {range} has a place at another worker");
    }

    fn is_here(&mut self, range: RangeId, bounds: Bounds) {
        self.is_not_here(range);
        self.by_start.insert(bounds.start.clone(), range);
        self.places.get_mut(&range).expect("it has a place").here = Some(bounds);
    }

    fn is_not_here(&mut self, range: RangeId) {
        let place = self.places.get_mut(&range).expect("it has a place");
        let Some(before) = place.here.take() else { return };
        // Its names may have another range by now, of the same worker.
        if self.by_start.get(&before.start) == Some(&range) {
            self.by_start.remove(&before.start);
        }
    }

    fn is_handled(&mut self, range: RangeId, count: u32) {
        let place = self.places.get_mut(&range).expect("its input has given it a place");
        place.under_way = place.under_way.checked_sub(count).expect("no more than were sent");
        if place.under_way > 0 {
            return;
        }
        place.hoped = None;
        if place.here.is_none() && !place.is_ending {
            self.loads[place.worker] -= 1;
            self.places.remove(&range);
        }
    }
}

fn notice(message: &RangeMessage) -> Option<&Notice> {
    message.notice.as_ref().and_then(|PeerNotice { notice }| notice.as_ref())
}

/// The names of two versions of one range.
fn both(a: Bounds, b: &Bounds) -> Bounds {
    let start = a.start.min(b.start.clone());
    let end =
        if a.end.is_empty() || b.end.is_empty() { Vec::new() } else { a.end.max(b.end.clone()) };
    Bounds { start, end }
}

#[cfg(test)]
mod tests;
