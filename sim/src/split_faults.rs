//! What goes wrong while a range is being split. Between the moment at which a split is committed and
//! the one at which all stores have applied it lie a few milliseconds, in which chance alone would
//! bring too little: somebody is away, does not hear, is slow or ends just then.

use sharklock_dataserver::Input;
use sharklock_rangemap::RangeId;

use crate::node::Node;
use crate::note;
use crate::poll::leader_of;
use crate::world::{Event, MS, S, World};

/// One of these, to the stores of a range.
#[derive(Clone, Copy, Debug)]
pub struct SplitFault {
    range: RangeId,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The leader's disk is slow: others have the split before it.
    SlowLeader,
    /// Nobody hears one that follows, nor it them: it finds the log cut behind the split.
    LoseFollower,
    /// One that follows has the split, and does not hear that it is committed.
    DeafFollower,
    /// The leader hears nobody, and nobody the leader.
    LoseLeader,
    EndLeader,
    EndFollower,
    EndAll,
    PauseLeader,
    HandOver,
    /// Nobody hears one that follows for long before the split, until right behind it. Then the other
    /// one, which has the split, hears nobody: who was away goes on with the leader, by a snapshot.
    RelieveFollower {
        split_ns: u64,
    },
    /// This store hears nobody.
    Deafen(usize),
}

impl World {
    /// A range is to be split at this time. Tells when it is split, which may be later.
    pub(crate) fn plan_split_fault(&mut self, range: RangeId, at: u64) -> u64 {
        let (ppm, commit) = (self.options.split_fault_ppm, self.commit_ns());
        let dice = &mut self.dice.splits;
        if self.is_calm || !dice.ppm(ppm) {
            return at;
        }
        let (before, behind) = (dice.below(commit), dice.below(2 * commit));
        let away = dice.around(self.options.fault_mean_ms * MS).clamp(S, 20 * S);
        let kind = *dice.pick(&[
            Kind::SlowLeader,
            Kind::SlowLeader,
            Kind::LoseFollower,
            Kind::DeafFollower,
            Kind::LoseLeader,
            Kind::EndLeader,
            Kind::EndFollower,
            Kind::EndAll,
            Kind::PauseLeader,
            Kind::HandOver,
            Kind::RelieveFollower { split_ns: at + away },
        ]);
        let (strikes, split) = match kind {
            Kind::SlowLeader | Kind::LoseFollower => (at.saturating_sub(before).max(self.now), at),
            Kind::RelieveFollower { split_ns } => (at, split_ns),
            _ => (at + behind, at),
        };
        self.queue.plan(strikes, Event::SplitFault(SplitFault { range, kind }));
        split
    }

    /// Now it goes wrong.
    pub(crate) fn split_fault(&mut self, SplitFault { range, kind }: SplitFault) {
        let Some(leader) = leader_of(&self.stores, range).map(|store| store.number) else { return };
        let stores: Vec<usize> = self.stores.iter().map(|store| store.number).collect();
        let follows = |number: &usize| {
            let store = &self.stores[number - 1];
            *number != leader && self.checks.tiling.is_on(range, store.id)
        };
        let followers: Vec<usize> = stores.iter().copied().filter(follows).collect();
        if self.is_calm || followers.is_empty() {
            return;
        }
        let dice = &mut self.dice.splits;
        let follower = *dice.pick(&followers);
        let length = dice.around(self.options.fault_mean_ms * MS).clamp(MS, 40 * S);
        let (power, longer) = (dice.one_in(2), dice.between(1, 6));
        let struck = match kind {
            Kind::LoseFollower | Kind::DeafFollower | Kind::EndFollower => follower,
            Kind::RelieveFollower { .. } => follower,
            Kind::Deafen(store) => store,
            _ => leader,
        };
        if !self.options.may_fail(Node::Store(struck)) {
            return;
        }
        self.counters.count("fault: while a range is split");
        note!(self, "s{struck}: {kind:?} while {range} is split");
        let others = stores.iter().copied().filter(|other| *other != struck);
        let to_it = |other| (Node::Store(other), Node::Store(struck));
        let from_it = |other| (Node::Store(struck), Node::Store(other));
        match kind {
            Kind::SlowLeader => {
                let until = self.now + length;
                let store = self.store(struck);
                store.slow_until = store.slow_until.max(until);
            }
            Kind::LoseFollower => {
                let ways = others.flat_map(|other| [to_it(other), from_it(other)]).collect();
                self.block(ways, length * longer);
            }
            Kind::RelieveFollower { split_ns } => {
                let ways = others.flat_map(|other| [to_it(other), from_it(other)]).collect();
                let behind = self.dice.splits.below(2 * self.commit_ns());
                self.block(ways, split_ns.saturating_sub(self.now) + behind);
                if let Some(other) = followers.into_iter().find(|other| *other != struck) {
                    let at = split_ns + self.dice.splits.below(self.commit_ns());
                    let kind = Kind::Deafen(other);
                    self.queue.plan(at, Event::SplitFault(SplitFault { range, kind }));
                }
            }
            Kind::Deafen(_) => {
                let ways = others.map(to_it).collect();
                self.block(ways, length * longer);
            }
            Kind::DeafFollower => {
                let ways = others.map(to_it).collect();
                self.block(ways, length);
            }
            Kind::LoseLeader => {
                let ways = others.flat_map(|other| [to_it(other), from_it(other)]).collect();
                self.block(ways, length);
            }
            Kind::EndLeader | Kind::EndFollower => self.store_ends(struck, power, length),
            Kind::EndAll => {
                for store in stores {
                    if self.options.may_fail(Node::Store(store)) {
                        let back = self.dice.splits.below(length);
                        self.store_ends(store, true, back);
                    }
                }
            }
            Kind::PauseLeader => self.pause(Node::Store(struck), length),
            Kind::HandOver => self.store_told(struck, Input::HandOver),
        }
    }
}
