//! What a range lacks. One thing at a time, in the order in which it is to be mended: each is safe by
//! itself, and the next pass sees what is left.

use sharklock_rangemap::{Replica, Role};

use super::{
    Class, Hindrance, Reason,
    pass::{Pass, majority, odd},
};

/// What should be done for a range. Replicas are named by their place in its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// A joint configuration is to be left.
    Joint,
    /// A learner is to go.
    Learner(usize),
    /// A voter is lost, and is to be replaced.
    Lost(usize),
    /// There are too few voters.
    Few,
    /// The leader is on a store that drains.
    DrainLeader,
    /// A voter is on a store that drains.
    Drain(usize),
    /// The leader is on a store with a slow disk.
    SlowLeader,
    /// There are too many voters.
    Many,
    /// Voters are nearer to each other than they must be.
    Together,
}

impl Need {
    /// What it is for.
    pub fn class(self) -> Class {
        match self {
            Self::Joint | Self::Learner(_) => Class::Tidy,
            Self::Lost(_) | Self::Few => Class::Repair,
            Self::DrainLeader | Self::Drain(_) => Class::Drain,
            Self::SlowLeader => Class::SlowDisk,
            Self::Many => Class::Trim,
            Self::Together => Class::Place,
        }
    }
}

impl Pass<'_> {
    /// What a range lacks. None: nothing, or somebody is at work on it.
    ///
    /// # Errors
    /// It lacks something that no change of members or leaders can mend.
    pub fn need(&mut self, at: usize) -> Result<Option<Need>, Hindrance> {
        if self.is_taken[at] {
            return Ok(None);
        }
        self.can_change(at)?;
        let range = &self.view.ranges[at];
        if range.descriptor.is_joint() {
            return Ok(Some(Need::Joint));
        }
        let replicas = &range.descriptor.replicas;
        if let Some(learner) = replicas.iter().position(|it| it.role == Role::Learner) {
            return Ok(Some(Need::Learner(learner)));
        }
        let (voters, wanted) = (replicas.len(), self.wanted());
        if voters > wanted {
            return Ok(Some(Need::Many));
        }
        if let Some(lost) = self.replicas(at).position(|it| self.is_lost(at, it).is_some()) {
            return Ok(Some(Need::Lost(lost)));
        }
        let reach = self.reach(at, voters);
        if reach > voters {
            return Ok(Some(Need::Few));
        }
        if let Some(drains) = self.drains(at) {
            return Ok(Some(drains));
        }
        let store = |store: usize| &self.tally.stores[store];
        if self.leader(at).is_some_and(|leader| store(leader).is_slow) {
            return Ok(Some(Need::SlowLeader));
        }
        if voters < wanted {
            let stores = self.takers(at).count();
            return Err(Hindrance::NoPlace { stores, voters });
        }
        let all_live = self.replicas(at).all(|it| self.is_live(at, it));
        Ok((all_live && self.is_crowded(at)).then_some(Need::Together))
    }

    /// Whether entries can be committed, and somebody is there to be asked.
    fn can_change(&self, at: usize) -> Result<(), Hindrance> {
        let halves: [fn(Role) -> bool; 2] = [Role::votes_incoming, Role::votes_outgoing];
        for votes in halves {
            let of_half = || self.replicas(at).filter(|(_, replica)| votes(replica.role));
            let voters = of_half().count();
            let live = of_half().filter(|it| self.is_live(at, *it)).count();
            if live < majority(voters) {
                return Err(Hindrance::QuorumLost { live, voters });
            }
        }
        let is_led = self.leader(at).is_some_and(|leader| self.tally.stores[leader].is_up);
        if is_led { Ok(()) } else { Err(Hindrance::NoLeader) }
    }

    /// Why a replica is to be replaced though nobody has asked for that.
    pub fn is_lost(&self, at: usize, (store, replica): (usize, &Replica)) -> Option<Reason> {
        let id = replica.store;
        if self.tally.stores[store].is_lost {
            return Some(match self.view.stores.get(&id) {
                Some(known) if known.duty != super::Duty::Gone => {
                    Reason::Down { store: id, silent_for: known.silent_for }
                }
                Some(_) | None => Reason::Gone { store: id },
            });
        }
        let unheard = self.view.ranges[at].unheard.iter().find(|it| it.peer == replica.peer)?;
        let is_up = self.tally.stores[store].is_up;
        let silent_for = unheard.silent_for;
        (is_up && silent_for >= self.view.settings.unheard)
            .then_some(Reason::Unheard { store: id, silent_for })
    }

    /// The voters that a range can come to: an odd number, for an even one survives no more losses
    /// than the odd one below it, and two survive none at all.
    pub fn reach(&self, at: usize, voters: usize) -> usize {
        let wanted = self.wanted();
        if voters >= wanted {
            return voters;
        }
        let has = |store: usize| self.replicas(at).any(|(other, _)| other == store);
        let free = self.takers(at).filter(|store| !has(*store)).take(wanted - voters);
        odd(voters + free.count())
    }

    /// The leader goes first, if anybody can lead instead; else the others make room for one who can.
    fn drains(&self, at: usize) -> Option<Need> {
        let leader = self.leader(at);
        let drains = |store: usize| self.tally.stores[store].drains;
        let mut drained = self.replicas(at).enumerate().filter(|(_, (store, _))| drains(*store));
        let (first, _) = drained.clone().next()?;
        if leader.is_some_and(drains) && self.heirs_of_drained(at).next().is_some() {
            return Some(Need::DrainLeader);
        }
        let follower = drained.find(|(_, (store, _))| Some(*store) != leader);
        let is_alone = self.voters(at).nth(1).is_none();
        match follower {
            Some((follower, _)) => Some(Need::Drain(follower)),
            None if is_alone => Some(Need::Drain(first)),
            None => Some(Need::DrainLeader),
        }
    }

    /// The voters that may lead instead of one whose store drains.
    pub fn heirs_of_drained(&self, at: usize) -> impl Iterator<Item = usize> {
        let leader = self.leader(at);
        let others = self.voters(at).filter(move |(store, _)| Some(*store) != leader);
        let heirs =
            others.filter(move |it| self.tally.stores[it.0].takes() && self.is_live(at, *it));
        heirs.map(|(store, _)| store)
    }

    fn is_crowded(&mut self, at: usize) -> bool {
        let crowding = self.places.crowding(self.voters(at).map(|(store, _)| store));
        crowding > 0 && crowding > self.least_crowding(at, self.voters(at).count())
    }
}
