//! How what a range lacks is mended, and on which store.

use std::cmp::Reverse;

use sharklock_rangemap::StoreId;

use super::{
    Class, Hindrance, Plan, Reason, Spot, Wanted,
    needs::Need,
    pass::{Pass, majority},
};

/// A store to which a replica may come.
#[derive(Clone, Copy, Debug)]
struct Destination {
    place: usize,
    /// How near it is to the other replicas.
    nearness: u64,
    is_fewest: bool,
}

impl Pass<'_> {
    /// What is to be done about it.
    ///
    /// # Errors
    /// It cannot be done now.
    pub fn remedy(&mut self, at: usize, need: Need) -> Result<Plan, Hindrance> {
        match &self.halted {
            // A joint configuration stops when either half does: it is better left in any case.
            Some(Hindrance::TooManyDown { .. }) if need == Need::Joint => {}
            Some(halted) => return Err(halted.clone()),
            None => {}
        }
        match need {
            Need::Joint => Ok(self.planned(at, need, Wanted::LeaveJoint, Reason::JointLeft)),
            Need::Learner(learner) => {
                let store = self.store_of(at, learner);
                let reason = Reason::LearnerLeft { store };
                Ok(self.planned(at, need, Wanted::Remove { from: store }, reason))
            }
            Need::Lost(lost) => self.replace_lost(at, lost),
            Need::Few => self.add(at, need, self.few(at)),
            Need::DrainLeader | Need::SlowLeader => self.hand_over(at, need),
            Need::Drain(drained) => self.drain(at, drained),
            Need::Many => self.trim(at),
            Need::Together => self.spread(at),
        }
    }

    fn planned(&self, at: usize, need: Need, wanted: Wanted, reason: Reason) -> Plan {
        let range = self.view.ranges[at].descriptor.range;
        Plan { range, wanted, class: need.class(), reason, spot: None }
    }

    fn store_of(&self, at: usize, replica: usize) -> StoreId {
        self.view.ranges[at].descriptor.replicas[replica].store
    }

    fn few(&self, at: usize) -> Reason {
        Reason::Few { voters: self.voters(at).count(), wanted: self.wanted() }
    }

    fn add(&mut self, at: usize, need: Need, reason: Reason) -> Result<Plan, Hindrance> {
        let destination = self.destination(at, None, need.class())?;
        let to = self.tally.stores[destination.place].id;
        let spot = Some(self.spot(destination));
        Ok(Plan { spot, ..self.planned(at, need, Wanted::Add { to }, reason) })
    }

    fn replace_lost(&mut self, at: usize, lost: usize) -> Result<Plan, Hindrance> {
        let voter = self.replicas(at).nth(lost).expect("it was found there");
        let reason = self.is_lost(at, voter).expect("it was found to be lost");
        self.replace(at, lost, Need::Lost(lost), reason)
    }

    fn drain(&mut self, at: usize, drained: usize) -> Result<Plan, Hindrance> {
        let (need, reason) =
            (Need::Drain(drained), Reason::Drains { store: self.store_of(at, drained) });
        if self.voters(at).nth(1).is_none() {
            return self.add(at, need, reason);
        }
        self.replace(at, drained, need, reason)
    }

    /// A voter is replaced by one on another store. Where there is none, and the number of voters is
    /// even, it just goes: the odd number below it survives as many losses.
    fn replace(
        &mut self,
        at: usize,
        replica: usize,
        need: Need,
        reason: Reason,
    ) -> Result<Plan, Hindrance> {
        let from = self.store_of(at, replica);
        let voters = self.voters(at).count();
        match self.destination(at, Some(replica), need.class()) {
            Ok(destination) => {
                let to = self.tally.stores[destination.place].id;
                let spot = Some(self.spot(destination));
                Ok(Plan { spot, ..self.planned(at, need, Wanted::Replace { from, to }, reason) })
            }
            Err(Hindrance::NoPlace { .. }) if voters.is_multiple_of(2) => {
                self.may_lose(at, replica)?;
                Ok(self.planned(at, need, Wanted::Remove { from }, reason))
            }
            Err(why) => Err(why),
        }
    }

    /// Another voter leads, where the leader's store drains or has a slow disk.
    fn hand_over(&mut self, at: usize, need: Need) -> Result<Plan, Hindrance> {
        let (settings, class) = (self.view.settings, need.class());
        let leader = self.leader(at).expect("somebody leads, or there is no such need");
        let store = self.tally.stores[leader].id;
        let drains = need == Need::DrainLeader;
        let mut heirs = self.heirs_of_drained(at).collect::<Vec<_>>();
        if !drains {
            heirs.retain(|it| self.tally.stores[*it].leads());
        }
        if heirs.is_empty() {
            return Err(Hindrance::NobodyElse);
        }
        let stores = &self.tally.stores;
        let free = heirs.into_iter().filter(|it| stores[*it].may_gain(&settings, class));
        let burden = |it: &usize| (stores[*it].is_slow, self.burden(*it), *it);
        let heir = free.min_by_key(burden).filter(|_| stores[leader].may_give(&settings, class));
        let to = stores[heir.ok_or(Hindrance::Busy)?].id;
        let reason = match self.view.stores.get(&store).and_then(|it| it.slow) {
            Some(disk) if !drains => Reason::Slow { store, disk },
            _ => Reason::Drains { store },
        };
        Ok(self.planned(at, need, Wanted::Lead { to }, reason))
    }

    /// What a store does as a leader: each range that it leads counts as much as the load of an
    /// average one.
    fn burden(&self, store: usize) -> u64 {
        let stores = &self.tally.stores;
        let (leaders, load) = stores
            .iter()
            .fold((0, 0), |(leaders, load), it| (leaders + u64::from(it.leaders), load + it.load));
        let average = load / leaders.max(1) + 1;
        stores[store].load + u64::from(stores[store].leaders) * average
    }

    /// A voter goes where there are too many: one that is not heard, or drains, or is nearest to the
    /// others; the leader only if it must.
    fn trim(&mut self, at: usize) -> Result<Plan, Hindrance> {
        let voters = self.voters(at).collect::<Vec<_>>();
        let reason = Reason::Many { voters: voters.len(), wanted: self.wanted() };
        let leader = self.leader(at);
        let key = |&(place, it): &(usize, &sharklock_rangemap::Replica)| {
            let store = &self.tally.stores[place];
            let others = voters.iter().map(|(other, _)| *other).filter(|other| *other != place);
            let nearness = self.places.nearness(place, others);
            let leads = leader == Some(place);
            let (is_lost, is_live) =
                (self.is_lost(at, (place, it)).is_some(), self.is_live(at, (place, it)));
            let weight = Reverse((nearness, u64::from(store.replicas)));
            (!is_lost, is_live, !store.drains, leads, weight, it.store)
        };
        let (_, goes) = voters.iter().min_by_key(|it| key(it)).expect("there are too many");
        let replicas = &self.view.ranges[at].descriptor.replicas;
        let replica = replicas.iter().position(|it| it.peer == goes.peer).expect("it is one");
        self.may_lose(at, replica)?;
        let wanted = Wanted::Remove { from: goes.store };
        Ok(self.planned(at, Need::Many, wanted, reason))
    }

    /// Whether enough voters are heard without this one.
    fn may_lose(&self, at: usize, replica: usize) -> Result<(), Hindrance> {
        let peer = self.view.ranges[at].descriptor.replicas[replica].peer;
        let others = || self.voters(at).filter(|(_, it)| it.peer != peer);
        let (voters, live) =
            (others().count(), others().filter(|it| self.is_live(at, *it)).count());
        match live >= majority(voters) {
            true => Ok(()),
            false => Err(Hindrance::WouldLoseQuorum { live, voters }),
        }
    }

    /// A voter moves to where it is less near to the others.
    fn spread(&mut self, at: usize) -> Result<Plan, Hindrance> {
        let leader = self.leader(at);
        let voters = self.voters(at).map(|(place, _)| place).collect::<Vec<_>>();
        let mut better = Vec::new();
        let mut hindrance = Hindrance::Busy;
        for (replica, from) in voters.iter().copied().enumerate() {
            let others = voters.iter().copied().filter(|it| *it != from);
            let nearness = self.places.nearness(from, others);
            let leads = leader == Some(from);
            // The leader would have to hand over.
            if let Some(left) = self.cools_down(at).filter(|_| leads) {
                hindrance = Hindrance::CoolsDown { left };
                continue;
            }
            match self.destination(at, Some(replica), Class::Place) {
                Ok(to) if to.nearness < nearness => {
                    better.push(((Reverse(nearness - to.nearness), leads, from), to));
                }
                Ok(_) => {}
                Err(why) => hindrance = why,
            }
        }
        let best = better.into_iter().min_by_key(|(key, _)| *key);
        let ((.., from), to) = best.ok_or(hindrance)?;
        let others = voters.into_iter().filter(|it| *it != from);
        let with = others.max_by_key(|it| (self.places.shared(from, *it), Reverse(*it)));
        let reason = self.together(from, with.expect("it is near to somebody"));
        let id = |place: usize| self.tally.stores[place].id;
        let wanted = Wanted::Replace { from: id(from), to: id(to.place) };
        let spot = Some(self.spot(to));
        Ok(Plan { spot, ..self.planned(at, Need::Together, wanted, reason) })
    }

    fn together(&self, from: usize, with: usize) -> Reason {
        let id = |place: usize| self.tally.stores[place].id;
        let shared = self.places.shared(from, with);
        let shared = named(&self.labels(from)[..shared]);
        Reason::Together { store: id(from), with: id(with), shared }
    }

    fn labels(&self, place: usize) -> &[(String, String)] {
        let store = self.view.stores.get(&self.tally.stores[place].id);
        store.map_or([].as_slice(), |store| store.labels)
    }

    /// The best store for one more replica, or for one instead of another: nearest to none of those
    /// that stay, then with the fewest replicas. While all of the best have enough on their way,
    /// the range waits for them: a replica that comes to a worse one would have to move again.
    fn destination(
        &mut self,
        at: usize,
        instead_of: Option<usize>,
        class: Class,
    ) -> Result<Destination, Hindrance> {
        let settings = &self.view.settings;
        let sender = self.leader(at).expect("somebody leads, or nothing can be changed");
        if self.searches_left == 0 || !self.tally.stores[sender].may_send(settings, class) {
            return Err(Hindrance::Busy);
        }
        self.searches_left -= 1;
        let all = self.replicas(at).map(|(place, _)| place).collect::<Vec<_>>();
        let stay = || all.iter().enumerate().filter(|(it, _)| Some(*it) != instead_of);
        let (mut best, mut nearest, mut fewest) = (None, u64::MAX, u32::MAX);
        for place in self.takers(at).filter(|place| !all.contains(place)) {
            let store = &self.tally.stores[place];
            let nearness = self.places.nearness(place, stay().map(|(_, it)| *it));
            (nearest, fewest) = (nearest.min(nearness), fewest.min(store.replicas));
            let key = (nearness, store.is_slow, store.replicas, place);
            if store.has_room(settings, class) && best.is_none_or(|known| key < known) {
                best = Some(key);
            }
        }
        match best {
            Some((nearness, _, replicas, place)) if nearness == nearest => {
                Ok(Destination { place, nearness, is_fewest: replicas == fewest })
            }
            _ if nearest < u64::MAX => Err(Hindrance::Busy),
            _ => {
                let stores = self.takers(at).count();
                Err(Hindrance::NoPlace { stores, voters: self.voters(at).count() })
            }
        }
    }

    fn spot(&self, destination: Destination) -> Spot {
        let Destination { place, is_fewest, .. } = destination;
        let store = &self.tally.stores[place];
        Spot { labels: named(self.labels(place)), replicas: store.replicas, is_fewest }
    }
}

/// Labels as people read them: `zone b, host 7`.
fn named(labels: &[(String, String)]) -> String {
    let each = labels.iter().map(|(key, value)| format!("{key} {value}"));
    each.collect::<Vec<_>>().join(", ")
}
