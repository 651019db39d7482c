//! Routes and the cluster's state, as they are answered.

use std::{collections::BTreeMap, time::Duration};

use sharklock_proto::internal::v1::{
    ClusterStore, DescribeMasterResponse, GetClusterResponse, MasterAddress, MasterMember,
    RangeDescriptor, Route, RoutesUpdate, StoreAddress, StoreState,
};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use super::{GROUP, MasterCore};
use crate::{
    presence::Counts,
    refusal::Refusal,
    schedule::Duty,
    state::{Member, StoreRecord, duty_to_wire},
    state_rows::labels_to_wire,
};

impl MasterCore {
    /// All routes, for somebody who will be told of every change after them.
    ///
    /// # Errors
    /// This master does not lead.
    pub fn watch(&self) -> Result<RoutesUpdate, Refusal> {
        match &self.leading {
            Some(_) => Ok(self.routes()),
            None => Err(self.not_leader()),
        }
    }

    pub(super) fn routes(&self) -> RoutesUpdate {
        RoutesUpdate {
            cluster_id: self.settings.cluster_id.to_wire(),
            is_whole: true,
            routes: self.state().ranges().iter().map(|range| self.route(range)).collect(),
            stores: self.peers(),
            masters: self.master_addresses(),
            gone_store_ids: Vec::new(),
        }
    }

    /// The changes that watchers have not been told of.
    pub(super) fn take_changes(&mut self) -> Option<RoutesUpdate> {
        let ranges = std::mem::take(&mut self.changed_ranges);
        let stores = std::mem::take(&mut self.changed_stores);
        let is_news = std::mem::take(&mut self.masters_changed) && self.leading.is_some();
        if ranges.is_empty() && stores.is_empty() && !is_news {
            return None;
        }
        let state = self.state();
        let known = |range: RangeId| state.ranges().range(range);
        let routes = ranges.into_iter().filter_map(known).map(|range| self.route(range)).collect();
        let is_gone = |id: &StoreId| state.stores().get(id).is_some_and(|it| it.duty == Duty::Gone);
        let (gone, stores): (Vec<_>, Vec<_>) = stores.into_iter().partition(is_gone);
        let address = |id: StoreId| Some(address(id, state.stores().get(&id)?));
        Some(RoutesUpdate {
            cluster_id: self.settings.cluster_id.to_wire(),
            is_whole: false,
            routes,
            stores: stores.into_iter().filter_map(address).collect(),
            masters: if is_news { self.master_addresses() } else { Vec::new() },
            gone_store_ids: gone.into_iter().map(|id| id.0).collect(),
        })
    }

    /// The stores that gateways and other stores may speak with. One that was declared gone is refused by all, also
    /// where its process still runs.
    pub(super) fn peers(&self) -> Vec<StoreAddress> {
        let stores = self.state().stores().iter();
        let stores = stores.filter(|(_, store)| store.duty != Duty::Gone);
        stores.map(|(id, store)| address(*id, store)).collect()
    }

    pub(super) fn cluster(&self, now: Duration) -> GetClusterResponse {
        let state = self.state();
        let counted = self.counted();
        let count = |id| counted.get(&id).copied().unwrap_or_default();
        let store_now = |(id, store): (&StoreId, &StoreRecord)| {
            let (id, count) = (*id, count(*id));
            self.store_now(now, id, store, count)
        };
        let stores = state.stores().iter().map(store_now);
        GetClusterResponse {
            cluster_id: self.settings.cluster_id.to_wire(),
            masters: self.members_now(),
            waiting_masters: self.waiting_masters(now),
            stores: stores.collect(),
            replicas_wanted: self.schedule_settings().replicas as u32,
            is_bootstrapped: !state.ranges().is_empty(),
        }
    }

    fn route(&self, range: &Descriptor) -> Route {
        let leader = self.leader_of(range.range);
        Route {
            descriptor: Some(RangeDescriptor::from(range)),
            leader_store_id: leader.map_or(0, |leader| leader.store.0),
            term: leader.map_or(0, |leader| leader.term),
        }
    }

    /// What each store has by the log, and leads as far as that is known.
    fn counted(&self) -> BTreeMap<StoreId, Counts> {
        let mut counted: BTreeMap<StoreId, Counts> = BTreeMap::new();
        for range in self.state().ranges().iter() {
            for replica in &range.replicas {
                counted.entry(replica.store).or_default().replicas += 1;
            }
            if let Some(leader) = self.leader_of(range.range) {
                counted.entry(leader.store).or_default().leaders += 1;
            }
        }
        counted
    }

    fn store_now(
        &self,
        now: Duration,
        id: StoreId,
        store: &StoreRecord,
        counted: Counts,
    ) -> ClusterStore {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let (state, silence, said) = leading.presence.of(now, id);
        // Whoever is silent does not say what it has lost meanwhile.
        let counts = said.filter(|_| state == StoreState::Up).unwrap_or(counted);
        ClusterStore {
            store_id: id.0,
            ident: store.ident.to_wire(),
            address: store.address.clone(),
            state: state.into(),
            heard_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
            replicas_count: counts.replicas,
            leaders_count: counts.leaders,
            version: store.version.clone(),
            duty: duty_to_wire(store.duty).into(),
            labels: labels_to_wire(&store.labels),
            node: store.node.clone(),
        }
    }

    /// What this master says of itself, leading or not.
    pub(super) fn describe(&self, now: Duration) -> DescribeMasterResponse {
        let own = self.store.ident().store;
        let members: Vec<_> = self.members().into_iter().collect();
        let address_of = |id: StoreId| {
            let member = members.iter().find(|(member, _)| *member == id);
            member.map(|(_, member)| member.address.clone()).unwrap_or_default()
        };
        let leader = if self.leads() { Some(own) } else { self.leader };
        let leaderless = match self.knows_leader() {
            true => Duration::ZERO,
            false => now.saturating_sub(self.leader_seen),
        };
        let store = |(id, store): (&StoreId, &StoreRecord)| ClusterStore {
            store_id: id.0,
            ident: store.ident.to_wire(),
            address: store.address.clone(),
            duty: duty_to_wire(store.duty).into(),
            labels: labels_to_wire(&store.labels),
            node: store.node.clone(),
            version: store.version.clone(),
            ..ClusterStore::default()
        };
        DescribeMasterResponse {
            cluster_id: self.settings.cluster_id.to_wire(),
            member_id: own.0,
            address: address_of(own),
            term: self.store.status(GROUP).map_or(0, |status| status.term),
            leader: leader.map(address_of).unwrap_or_default(),
            leaderless_ms: leaderless.as_millis() as u64,
            waits_for: self.ailing().unwrap_or_default(),
            stores: self.state().stores().iter().map(store).collect(),
            members: members
                .iter()
                .map(|(id, member)| MasterAddress {
                    member_id: id.0,
                    ident: member.ident.to_wire(),
                    address: member.address.clone(),
                    is_learner: !self.votes(*id),
                })
                .collect(),
            ..DescribeMasterResponse::default()
        }
    }

    fn members_now(&self) -> Vec<MasterMember> {
        let Some(status) = self.store.status(GROUP) else { return Vec::new() };
        let peers = self.store.peers(GROUP);
        let member = |(id, member): (StoreId, Member)| {
            let peer = peers.iter().find(|peer| peer.store == id);
            let is_leader = id == self.store.ident().store;
            let record = self.state().members().get(id);
            MasterMember {
                member_id: id.0,
                address: member.address,
                is_leader,
                is_up: is_leader || peer.is_some_and(|peer| peer.is_active),
                term: status.term,
                matched_index: peer.map_or(0, |peer| peer.matched),
                commit_index: status.commit,
                is_voter: self.votes(id),
                is_leaving: record.is_some_and(|record| record.leaving.is_some()),
                step: self.step_of_master(id),
            }
        };
        self.members().into_iter().map(member).collect()
    }
}

fn address(id: StoreId, store: &StoreRecord) -> StoreAddress {
    StoreAddress { store_id: id.0, ident: store.ident.to_wire(), address: store.address.clone() }
}
