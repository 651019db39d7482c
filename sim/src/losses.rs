//! Machines that are lost for good. An operator says so to the masters, who put other replicas in the
//! places of those that are lost. Some machines come back all the same, with their disk as it was, and
//! must not act any more.
//!
//! Nothing is lost with them that a range cannot do without: a range whose majority is gone is a matter
//! for its operator, and stands still until then.

use std::collections::BTreeMap;

use sharklock_master::{Request, schedule::Duty};
use sharklock_proto::v1::StoreDuty;
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::faults::Fault;
use crate::note;
use crate::orders::duty;
use crate::poll::leader_of;
use crate::ranges::REPLICAS;
use crate::store::StoreNode;
use crate::world::{Event, MS, S, World};

/// How long after a moment at which nothing could be lost another is looked for,
const TRY_AGAIN_NS: u64 = 50 * MS;
/// and how often.
const TRIES_MAX: u64 = 200;
/// Between two tries to say that a store is gone: at first the masters still hear of it.
const SAY_AGAIN_NS: u64 = 2 * S;
/// The longest time after which a machine that is gone comes back.
const BACK_MAX_NS: u64 = 60 * S;

/// So long may a replica of a settled range stand on a machine that is gone while nothing moves.
const REPAIR_BEGINS_NS: u64 = 15 * S;

/// What has become of a machine that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// The masters do not know it yet.
    Missing,
    /// They have it in their log.
    Gone,
    /// They have, and somebody has switched the machine on again.
    Back,
}

/// The machines that are lost.
#[derive(Debug, Default)]
pub struct Losses {
    lost: BTreeMap<usize, Loss>,
    tries: u64,
    /// Since when ranges stand as they were with a place on a machine that is gone.
    standing: BTreeMap<RangeId, u64>,
}

impl Losses {
    /// Whether this machine is lost.
    pub fn is_lost(&self, number: usize) -> bool {
        self.lost.contains_key(&number)
    }

    /// Whether a process may begin on this machine.
    pub fn may_start(&self, number: usize) -> bool {
        matches!(self.lost.get(&number), None | Some(Loss::Back))
    }

    /// Whether the masters know that this machine is lost.
    pub fn is_known(&self, number: usize) -> bool {
        matches!(self.lost.get(&number), Some(Loss::Gone | Loss::Back))
    }

    /// Machines of which the masters know that they are lost.
    pub fn known_count(&self) -> usize {
        self.lost.keys().filter(|number| self.is_known(**number)).count()
    }

    /// One is lost, and the masters do not know it yet.
    pub fn one_is_missing(&self) -> bool {
        self.lost.values().any(|loss| *loss == Loss::Missing)
    }
}

impl World {
    /// The machine of some store is lost, if no range has its majority on machines that are.
    pub(crate) fn lose_store(&mut self) {
        if self.is_calm {
            return;
        }
        let able: Vec<usize> =
            (1..=self.stores.len()).filter(|number| self.may_be_lost(*number)).collect();
        if able.is_empty() {
            self.losses.tries += 1;
            if !self.losses.tries.is_multiple_of(TRIES_MAX) {
                self.queue.plan(self.now + TRY_AGAIN_NS, Event::StoreLost);
            }
            return;
        }
        let number = *self.dice.losses.pick(&able);
        note!(self, "s{number} is lost for good");
        self.counters.count(Fault::LoseStore.name());
        self.losses.lost.insert(number, Loss::Missing);
        // It is not started again before somebody does.
        self.store_ends(number, true, 0);
        self.queue.plan(self.now + SAY_AGAIN_NS, Event::StoreMissed(number));
    }

    fn may_be_lost(&self, number: usize) -> bool {
        let others = self.stores.len() - self.losses.lost.len() - 1;
        let Some(id) = self.stores[number - 1].id else { return false };
        let all_serve =
            self.stores.iter().all(|it| it.process.is_some() || self.losses.is_lost(it.number));
        all_serve
            && others >= REPLICAS
            && !self.losses.is_lost(number)
            && !self.losses.one_is_missing()
            && !self.ranges_shrink()
            && self.ranges_on(id).into_iter().all(|range| self.can_do_without(range, id))
    }

    /// The ranges of which a store has, or is to have, a replica.
    fn ranges_on(&self, store: StoreId) -> Vec<RangeId> {
        let mut ranges: Vec<_> = self.checks.tiling.ids();
        let here = |it: &&StoreNode| it.id == Some(store);
        ranges.extend(self.stores.iter().filter(here).flat_map(StoreNode::ranges));
        ranges.sort();
        ranges.dedup();
        ranges
    }

    /// Whether the members of a range are settled, and a majority of them is on other machines.
    fn can_do_without(&self, range: RangeId, store: StoreId) -> bool {
        let Some(leader) = leader_of(&self.stores, range) else { return false };
        let (Some(status), Some(descriptor)) = (leader.status(range), leader.descriptor(range))
        else {
            return false;
        };
        let is_settled = status.applied == status.log_last
            && !descriptor.is_joint()
            && !self.is_being_changed(descriptor);
        let voters = descriptor.replicas.iter().filter(|it| it.role.votes_incoming());
        let stores: Vec<_> = voters.map(|it| it.store).collect();
        let left = stores.iter().filter(|it| **it != store && !self.is_on_lost(**it)).count();
        is_settled && 2 * left > stores.len() && stores.len() >= REPLICAS
    }

    /// A store of this id is lost.
    pub(crate) fn is_on_lost(&self, store: StoreId) -> bool {
        self.number_of(store).is_some_and(|number| self.losses.is_lost(number))
    }

    /// The replicas of a range on machines that are not lost.
    pub(crate) fn members_left(&self, descriptor: &Descriptor) -> usize {
        descriptor.replicas.iter().filter(|it| !self.is_on_lost(it.store)).count()
    }

    /// Somebody says to the masters that a machine is gone.
    pub(crate) fn store_missed(&mut self, number: usize) {
        if self.losses.is_known(number) {
            return;
        }
        let id = self.stores[number - 1].id.expect("only who has one is lost");
        self.order(duty(id.0, StoreDuty::Gone));
    }

    /// The masters have taken what was said of a store, or refused it.
    pub(crate) fn told_of_store(&mut self, request: &Request, is_refused: bool) {
        let Request::SetStoreDuty(request) = request else { return };
        if request.duty() != StoreDuty::Gone {
            return;
        }
        let Some(number) = self.number_of(StoreId(request.store_id)) else { return };
        if is_refused {
            return self.queue.plan(self.now + SAY_AGAIN_NS, Event::StoreMissed(number));
        }
        if self.losses.is_known(number) {
            return;
        }
        note!(self, "s{number} is known to be gone");
        self.counters.count("stores that masters know to be gone");
        self.losses.lost.insert(number, Loss::Gone);
        if self.dice.losses.one_in(2) {
            let at = self.now + self.dice.losses.below(BACK_MAX_NS);
            self.queue.plan(at, Event::StoreBack(number));
        }
    }

    /// At rest the masters are to know of all.
    pub(crate) fn say_what_is_missing(&mut self) {
        for number in 1..=self.stores.len() {
            if self.losses.lost.get(&number) == Some(&Loss::Missing) {
                self.store_missed(number);
            }
        }
    }

    /// In calm the masters put other replicas in the places of those that are lost with a machine.
    pub(crate) fn poll_losses(&mut self) {
        let ranges: Vec<_> = match self.is_calm && !self.is_winding_down {
            true => self.checks.tiling.all().filter(|it| self.is_to_be_repaired(it)).collect(),
            false => Vec::new(),
        };
        let before = std::mem::take(&mut self.losses.standing);
        let since = |range: RangeId| (range, before.get(&range).copied().unwrap_or(self.now));
        let standing: BTreeMap<_, _> = ranges.into_iter().map(|it| since(it.range)).collect();
        let late = standing.iter().find(|(_, since)| self.now > **since + REPAIR_BEGINS_NS);
        let late = late.map(|(range, since)| (*range, *since));
        self.losses.standing = standing;
        if let Some((range, since)) = late {
            let what = format!("range {range} has a place on a machine that is gone since {since}");
            self.violated("repair", &[], format_args!("{what}, and nothing moves"));
        }
    }

    /// A range has a replica on a machine that is gone, there is another place for it, and nothing keeps
    /// the masters from moving it there.
    fn is_to_be_repaired(&self, range: &Descriptor) -> bool {
        let is_gone = |store: StoreId| {
            self.number_of(store).is_some_and(|number| self.losses.is_known(number))
        };
        let leading = self.masters.iter().find(|master| master.leads()).and_then(|it| it.core());
        let Some(state) = leading.map(|core| core.state()) else { return false };
        let serves = |store: &StoreNode| {
            let record = store.id.and_then(|id| state.stores().get(&id));
            store.process.is_some() && record.is_some_and(|it| it.duty == Duty::Serves)
        };
        let free = |store: &&StoreNode| {
            serves(store) && store.id.is_some_and(|id| range.on_store(id).is_none())
        };
        range.replicas.iter().any(|it| is_gone(it.store))
            && self.stores.iter().any(|it| free(&it))
            && state.paused_by().is_none()
            && state.operators().running().next().is_none()
            && leader_of(&self.stores, range.range).is_some()
    }

    /// Somebody switches a machine on of which the masters know that it is gone.
    pub(crate) fn store_is_back(&mut self, number: usize) {
        note!(self, "s{number}, which is gone, is switched on");
        self.losses.lost.insert(number, Loss::Back);
        self.store_starts(number);
    }

    /// The masters refuse a machine that is gone: its process ends.
    pub(crate) fn store_is_refused(&mut self, number: usize) {
        self.counters.count("stores that came back when they were gone");
        self.losses.lost.insert(number, Loss::Gone);
        self.store_ends(number, false, 0);
    }
}
