//! Splits of ranges. The world wishes them, at any time, and not always sensibly: where there is nothing
//! to split, with ids that are taken, by what the range was before, twice, of two stores, or late. A
//! part goes to operators (`split_calls`); the others come to whoever seems to lead, with their ids.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sharklock_dataserver::Input;
use sharklock_locktable::Lease;
use sharklock_multiraft::Split;
use sharklock_rangemap::{Descriptor, PeerId, RangeId};

use crate::check::News;
use crate::note;
use crate::poll::leader_of;
use crate::store::StoreNode;
use crate::world::{Event, MS, S, World};

/// Ids from here on are the masters' to give. A store takes no replica of a range with a smaller id
/// than one that it had, so what the world gives has to be smaller,
const FIRST_ID: u64 = 1_000;
/// and larger than what the world begins with.
const IDS_BESIDE_MASTERS: u64 = 500;
/// Where there are no masters nobody moves replicas, and many splits are to have ids.
const IDS_WITHOUT_MASTERS: u64 = 100_000;
/// Wishes that may come again.
const REMEMBERED_MAX: usize = 8;
/// How late a wish may be, and how late it may come again.
const LATE_MAX_NS: u64 = 10 * S;
/// When everything is calm splits come at least so often.
const CALM_MEAN_MS: u64 = 8_000;
/// A child has replicas on all stores of its parent after so long in calm.
const YOUNG_NS: u64 = 20 * S;

/// A wish that is on its way to a store.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Counted from 1.
    pub store: usize,
    /// Which range.
    pub range: RangeId,
    /// Where, and into what.
    pub split: Split,
    /// It cannot be done, whoever leads.
    pub is_spoilt: bool,
}

/// What was asked for so far.
#[derive(Debug)]
pub struct Splits {
    /// The next id for a range or a replica, and the first that is not to be given.
    next_id: u64,
    ids_end: u64,
    /// So many children more may come into being.
    left: u64,
    latest: VecDeque<(RangeId, Split)>,
    /// When a child was first seen.
    born: BTreeMap<RangeId, u64>,
    /// Every id that was given for a split.
    given: BTreeSet<u64>,
    /// Faults are over, and what they did.
    pub is_settled: bool,
    /// Nobody calls for a split any more.
    is_over: bool,
}

/// A hold whose leader is about to end it.
struct Ending {
    name: String,
    at_ns: u64,
}

impl Splits {
    /// Of a world in which masters give ids, or none do.
    pub fn new(with_masters: bool) -> Self {
        let (next_id, ids_end) = match with_masters {
            true => (IDS_BESIDE_MASTERS, FIRST_ID),
            false => (IDS_WITHOUT_MASTERS, u64::MAX),
        };
        Self {
            next_id,
            ids_end,
            left: 0,
            latest: VecDeque::new(),
            born: BTreeMap::new(),
            given: BTreeSet::new(),
            is_settled: false,
            is_over: false,
        }
    }

    /// So many may still happen.
    pub fn begin(&mut self, children: u64) {
        self.left = children;
    }

    /// None is asked for any more.
    pub fn cease(&mut self) {
        self.left = 0;
    }

    /// The clients go, and nobody repeats a call.
    pub fn end(&mut self) {
        self.cease();
        self.is_over = true;
    }

    /// Whether nobody calls for a split any more.
    pub fn have_ceased(&self) -> bool {
        self.is_over
    }

    /// Whether a range was split off so lately that a store may still lack its replica.
    pub fn is_young(&self, range: RangeId, now: u64) -> bool {
        self.born.get(&range).is_some_and(|born| now < born + YOUNG_NS)
    }

    /// Whether there are so many ids that were never given.
    pub fn have_ids(&self, count: u64) -> bool {
        self.next_id + count <= self.ids_end
    }

    /// The first of so many ids that were never given.
    ///
    /// # Panics
    /// There are not so many.
    pub fn next_ids(&mut self, count: u64) -> u64 {
        assert!(self.have_ids(count), "{count} ids from {} are too many", self.next_id);
        self.next_id += count;
        self.next_id - count
    }

    /// Takes note of ids that a worker is given; the first that was given before, or with which the
    /// world began.
    pub fn given_twice(&mut self, ids: &[u64]) -> Option<u64> {
        ids.iter().copied().find(|id| *id < IDS_BESIDE_MASTERS || !self.given.insert(*id))
    }
}

impl World {
    pub(crate) fn plan_split(&mut self) {
        let mean = self.options.split_mean_ms;
        let mean = if self.is_calm { mean.min(CALM_MEAN_MS) } else { mean };
        if mean > 0 {
            let at = self.now + self.dice.splits.around(mean * MS) + MS;
            self.queue.plan(at, Event::Split);
        }
    }

    /// How many splits each part of a run may have: some are left for the calm, in which all must go
    /// on in time, and one for the end, when half of the clients are gone.
    pub(crate) fn begin_splits(&mut self) {
        let (max, kept) = (self.options.splits_max, self.options.splits_max / 4);
        let left = match (self.is_calm, self.is_winding_down) {
            (false, _) => max - kept,
            (true, false) => (kept + 1).min(max),
            (true, true) => max.min(1),
        };
        self.splits.begin(left);
    }

    /// Somebody wants a range to be split.
    pub(crate) fn split(&mut self) {
        self.plan_split();
        if self.splits.left == 0 || self.checks.tiling.all().next().is_none() {
            return;
        }
        if self.is_winding_down {
            self.splits.cease();
        }
        // What the range's clock asks for while the split is in the log has to be asked for again.
        let ending = match self.dice.splits.one_in(3) {
            true => self.some_ending(),
            false => None,
        };
        // After a while most names in use are bounds already.
        let mut key = self.draw_key(ending.as_ref());
        for _ in 0..4 {
            let range = self.checks.tiling.of(&key).and_then(|range| self.checks.tiling.get(range));
            if range.is_some_and(|it| it.bounds.start != key.as_bytes()) {
                break;
            }
            key = self.draw_key(ending.as_ref());
        }
        let Some((range, split, is_spoilt)) = self.draw_split(key) else { return };
        let soon = self.dice.splits.around(self.options.stream_delay_us * 1_000);
        let at = match ending {
            Some(ending) => {
                let before = self.dice.splits.below(self.commit_ns());
                (ending.at_ns - before.min(ending.at_ns)).max(self.now)
            }
            None => self.now + soon,
        };
        self.splits.latest.push_back((range, split.clone()));
        if self.splits.latest.len() > REMEMBERED_MAX {
            self.splits.latest.pop_front();
        }
        let at = self.plan_split_fault(range, at);
        let descriptor = self.checks.tiling.get(range).cloned();
        if self.operator_wishes(descriptor, &split, at) {
            return;
        }
        for (at, store) in self.draw_receivers(range, at) {
            let asked = Asked { store, range, split: split.clone(), is_spoilt };
            self.queue.plan(at, Event::SplitAsked(Box::new(asked)));
        }
    }

    /// About what it takes to get an entry through.
    pub(crate) fn commit_ns(&self) -> u64 {
        let Self { options, .. } = self;
        1_000 * (2 * options.disk_mean_us + 2 * options.raft_delay_us + options.turn_us)
    }

    /// A hold of which nobody has heard for a while.
    fn some_ending(&mut self) -> Option<Ending> {
        let mut endings = Vec::new();
        for range in self.checks.tiling.ids() {
            let Some(leader) = leader_of(&self.stores, range) else { continue };
            for lease in leader.table(range).map(|it| it.leases()).unwrap_or_default() {
                let Lease::Hold { name, token, ttl_ms, .. } = lease else { continue };
                let ends = leader.lease_ends(self.now, range, token);
                let is_near = |at: &u64| *at > self.now && *at < self.now + ttl_ms * MS / 2;
                if let Some(at_ns) = ends.filter(is_near) {
                    endings.push(Ending { name: name.as_str().to_owned(), at_ns });
                }
            }
        }
        let which = self.dice.splits.below(endings.len() as u64) as usize;
        (!endings.is_empty()).then(|| endings.swap_remove(which))
    }

    /// Where a range is to be cut: at a name that is in use, or beside one.
    fn draw_key(&mut self, ending: Option<&Ending>) -> String {
        let dice = &mut self.dice.splits;
        let (name, kind) = match ending {
            // It stays, mostly.
            Some(ending) => (ending.name.clone(), dice.below(4)),
            None => (self.names.draw(dice).to_owned(), dice.below(8)),
        };
        let shorter = &name[..name.len() - 1];
        match kind {
            0 | 1 if ending.is_some() => format!("{name}!"),
            4 | 6 => format!("{name}{}", dice.pick(&['!', '0', '5', 'x', '~'])),
            5 if !shorter.is_empty() => shorter.to_owned(),
            _ => name,
        }
    }

    /// A wish, and whether it is spoilt.
    fn draw_split(&mut self, key: String) -> Option<(RangeId, Split, bool)> {
        let Self { dice, checks, splits, .. } = self;
        let (dice, tiling) = (&mut dice.splits, &checks.tiling);
        if dice.one_in(16) && !splits.latest.is_empty() {
            // What was asked for already, by what the range is now.
            let latest: Vec<_> = splits.latest.iter().collect();
            let (range, split) = dice.pick(&latest);
            let epoch = tiling.get(*range)?.epoch;
            return Some((*range, Split { epoch, ..split.clone() }, true));
        }
        let range = match dice.one_in(16) {
            true => *dice.pick(&tiling.ids()),
            false => tiling.of(&key)?,
        };
        let descriptor = match dice.one_in(10) {
            true => *dice.pick(&tiling.all_of(range).collect::<Vec<_>>()),
            false => tiling.get(range)?,
        };
        let replicas = descriptor.replicas.len() as u64;
        if !splits.have_ids(1 + replicas) {
            return None;
        }
        let (child, first) = (splits.next_ids(1), splits.next_ids(replicas));
        let split = Split {
            epoch: descriptor.epoch,
            key,
            child: RangeId(child),
            child_peers: (first..first + replicas).map(PeerId).collect(),
        };
        match dice.below(40) {
            kind @ 0..=4 => Some((range, spoil(split, kind, descriptor), true)),
            _ => {
                let is_spoilt = !descriptor.bounds.contains(split.key.as_bytes())
                    || split.key.as_bytes() == descriptor.bounds.start;
                Some((range, split, is_spoilt))
            }
        }
    }

    /// Who hears of it, and when: who leads, mostly.
    fn draw_receivers(&mut self, range: RangeId, at: u64) -> Vec<(u64, usize)> {
        let stores = self.stores.len() as u64;
        let dice = &mut self.dice.splits;
        let other = 1 + dice.below(stores) as usize;
        let leader = leader_of(&self.stores, range).map_or(other, |store| store.number);
        match dice.below(12) {
            0 => vec![(at, other)],
            1 => vec![(at, leader), (at + dice.around(10 * MS), other)],
            2 => vec![(at, leader), (at + dice.below(LATE_MAX_NS / 8), leader)],
            3 => vec![(at + dice.below(LATE_MAX_NS), leader)],
            _ => vec![(at, leader)],
        }
    }

    /// A wish reaches a store.
    pub(crate) fn split_asked(&mut self, asked: Asked) {
        let Asked { store: number, range, split, is_spoilt } = asked;
        let store = &self.stores[number - 1];
        let epoch = store.descriptor(range).map(|it| it.epoch);
        self.counters.count(match () {
            () if store.process.is_none() => "splits asked of a store that is down",
            () if !store.answers(range) => "splits asked of a store that does not lead",
            () if epoch != Some(split.epoch) => "splits asked by an epoch that is over",
            () if is_spoilt => "splits asked that cannot be",
            () => "splits asked",
        });
        note!(self, "s{number} is asked to split {range} ({}) at {}", split.epoch, split.key);
        self.split_is_forced(range, &split);
        self.store_told(number, Input::Split { range, term: None, split });
    }

    /// A replica has applied more, and may have another descriptor by that.
    pub(crate) fn observe_descriptor(&mut self, number: usize, range: RangeId, skipped: bool) {
        let store = &mut self.stores[number - 1];
        let (Some(status), Some(descriptor)) = (store.status(range), store.descriptor(range))
        else {
            return;
        };
        let news = self.checks.tiling.applied(descriptor, status.applied);
        let version = descriptor.epoch.version;
        match store.versions.insert(range, version) {
            Some(before) if skipped && before < version => {
                self.counters.count("snapshots that cross a split");
            }
            None if status.applied == 0 => self.counters.count("replicas that begin empty"),
            _ => {}
        }
        match news {
            Err(what) => self.violated("S10", &[], format_args!("{what}")),
            Ok(News::Born(parent)) => {
                note!(self, "s{number}: range {range} was split off {parent}");
                self.counters.count("splits applied");
                self.checks.born(range, parent, self.now);
                if self.options.split_commands > 0
                    && let Some(born) = self.checks.liveness.get_mut(&range)
                {
                    born.may_be_handed_on();
                }
                self.splits.born.insert(range, self.now);
                self.splits.left = self.splits.left.saturating_sub(1);
                self.asked_split_is_made(range);
            }
            Ok(News::None | News::Changed) => {}
        }
    }

    /// A leader has begun to answer for a range, which may be the first one of a child.
    pub(crate) fn child_is_led(&mut self, number: usize, range: RangeId) {
        let Some(parent) = self.checks.tiling.parent(range) else { return };
        if self.checks.replicas.leader_changes(range) > 1 {
            return;
        }
        let is_here = |store: &StoreNode| store.number == number;
        self.counters.count(match leader_of(&self.stores, parent).is_some_and(is_here) {
            true => "children led where their parents are led",
            false => "children led elsewhere than their parents",
        });
    }
}

/// Makes a wish that cannot be fulfilled.
fn spoil(split: Split, kind: u64, descriptor: &Descriptor) -> Split {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    match kind {
        0 => Split { key: text(&descriptor.bounds.start), ..split },
        1 => Split { key: text(&descriptor.bounds.end), ..split },
        2 => Split { child: descriptor.range, ..split },
        3 => Split { child: RangeId(u64::MAX), ..split },
        _ => Split { child_peers: split.child_peers[1..].to_vec(), ..split },
    }
}
