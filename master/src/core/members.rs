//! The masters' own membership: who they are, who waits to be added, and the next step towards what the
//! list of members says. What is ordered is in [`ordering`](super::ordering).
//!
//! As with [operators](super::operations) whichever master leads goes on where the last one was.

use std::{collections::BTreeMap, time::Duration};

use sharklock_multiraft::{CatchingUp, ChangePeers, PeerChange};
use sharklock_proto::{
    Identity,
    internal::v1::{
        ForgetMasterCommand, FoundMastersCommand, JoinRequest, JoinResponse, MasterAddress,
        MasterRow, master_command::Body as Command,
    },
};
use sharklock_rangemap::StoreId;

use super::{Asker, GROUP, MasterCore, registering::ADDRESS_BYTES_MAX};
use crate::{
    membership::{Step, next, peer},
    refusal::{Reason, Refusal},
    request::Reply,
    state::{Member, MemberRecord},
};

/// A master that waits asks about twice a second; after so long without a word it is gone.
const WAITS_FOR: Duration = Duration::from_secs(10);
/// Masters that wait. More than that is somebody who knocks under many names.
const WAITING_MAX: usize = 32;
/// What a leading master knows of the members beside the log.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The founders are on their way into the log.
    founding: bool,
    /// This one's end is on its way into the log.
    forgetting: Option<StoreId>,
    /// Masters that wait to be added, by their addresses, and when they were heard last.
    waiting: BTreeMap<String, (Identity, Duration)>,
    /// The step that is being done, and what it waits for.
    doing: Option<(Step, String)>,
    /// The learner that is to vote, and the looks at it.
    looked: Option<(StoreId, CatchingUp)>,
}

impl MasterCore {
    /// Where the masters are, as far as it is known here, by their ids.
    pub fn members(&self) -> BTreeMap<StoreId, Member> {
        let members = self.state().members();
        if !members.are_known() {
            return self.settings.members.clone();
        }
        members.iter().map(|(id, record)| (id, record.member.clone())).collect()
    }

    /// Those with whom connections are to be held: also those of whom only others know yet.
    fn connected(&self) -> BTreeMap<StoreId, Member> {
        let next_id = self.state().members().next_id();
        let is_newer = |(id, _): &(&StoreId, &Member)| id.0 >= next_id;
        let newer = self.members_heard.iter().filter(is_newer);
        let newer = newer.map(|(id, member)| (*id, member.clone()));
        self.members().into_iter().chain(newer).collect()
    }

    /// The members, if they are others than those that the edge was told last.
    pub(super) fn take_new_members(&mut self) -> Option<BTreeMap<StoreId, Member>> {
        let now = self.connected();
        if now == self.members_told {
            return None;
        }
        self.members_told.clone_from(&now);
        self.masters_changed = true;
        Some(now)
    }

    /// Where stores and gateways find the masters: all that stay.
    pub(super) fn master_addresses(&self) -> Vec<String> {
        let stays = |(_, record): &(StoreId, &MemberRecord)| record.leaving.is_none();
        let known: Vec<_> = {
            let members = self.state().members().iter().filter(stays);
            members.map(|(_, record)| record.member.address.clone()).collect()
        };
        if known.is_empty() {
            return self.settings.members.values().map(|it| it.address.clone()).collect();
        }
        known
    }

    /// A master says who it is.
    pub(super) fn join(&mut self, now: Duration, request: JoinRequest) -> Result<Reply, Refusal> {
        let invalid = |message: String| Refusal::new(Reason::Invalid, message);
        let ident = Identity::from_wire(&request.ident);
        let ident = ident.map_err(|why| invalid(format!("ident: {why}")))?;
        let JoinRequest { cluster_id, member_id, address, .. } = request;
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            return Err(invalid(format!("address: 1 to {ADDRESS_BYTES_MAX} bytes are expected")));
        }
        if !cluster_id.is_empty() {
            self.check_cluster(&cluster_id)?;
        }
        let members = self.state().members();
        if !members.are_known() {
            let message = "the masters are not in their own log yet: ask again";
            return Err(Refusal::new(Reason::Undecided, message));
        }
        let answer = JoinResponse {
            cluster_id: self.settings.cluster_id.to_wire(),
            ..JoinResponse::default()
        };
        if let Some((id, record)) = members.of(ident) {
            if record.member.address != address {
                return Err(invalid(format!(
                    "master {id} is known at {}, and advertises {address}: a master keeps its \
                     address; to move it, add one at the new address and remove this one",
                    record.member.address
                )));
            }
            let of = |(id, it): (StoreId, &MemberRecord)| MasterAddress {
                member_id: id.0,
                ident: it.member.ident.to_wire(),
                address: it.member.address.clone(),
                is_learner: !self.votes(id),
            };
            let members = members.iter().map(of).collect();
            return Ok(Reply::Joined(JoinResponse { member_id: id.0, members, ..answer }));
        }
        if member_id != 0 {
            return Err(Refusal::new(
                Reason::MasterRemoved,
                format!("master {member_id} was removed from the cluster"),
            ));
        }
        let membership = self.membership_mut();
        membership.waiting.retain(|_, (_, heard)| now.saturating_sub(*heard) < WAITS_FOR);
        if membership.waiting.len() < WAITING_MAX || membership.waiting.contains_key(&address) {
            membership.waiting.insert(address, (ident, now));
        }
        Ok(Reply::Joined(answer))
    }

    fn membership_mut(&mut self) -> &mut Membership {
        &mut self.leading.as_mut().expect("only a leader is asked").membership
    }

    /// The masters that wait to be added.
    pub(super) fn waiting_masters(&self, now: Duration) -> Vec<String> {
        let Some(leading) = &self.leading else { return Vec::new() };
        let waiting = leading.membership.waiting.iter();
        let is_heard = |heard: &(Identity, Duration)| now.saturating_sub(heard.1) < WAITS_FOR;
        waiting.filter(|(_, it)| is_heard(it)).map(|(address, _)| address.clone()).collect()
    }

    /// The identity of the one that waits at an address.
    pub(super) fn waits_at(&self, now: Duration, address: &str) -> Option<Identity> {
        let (ident, heard) = *self.leading.as_ref()?.membership.waiting.get(address)?;
        (now.saturating_sub(heard) < WAITS_FOR).then_some(ident)
    }

    /// What is being done with a master, for people; empty: nothing.
    pub(super) fn step_of_master(&self, id: StoreId) -> String {
        let doing = self.leading.as_ref().and_then(|it| it.membership.doing.as_ref());
        let Some((step, waits)) = doing else { return String::new() };
        match (step.member(), waits.is_empty()) {
            (Some(other), _) if other != id => String::new(),
            (_, true) => step.in_words(),
            (_, false) => format!("{}: {waits}", step.in_words()),
        }
    }

    pub(super) fn votes(&self, id: StoreId) -> bool {
        let group = self.store.descriptor(GROUP);
        let replica = group.and_then(|group| group.on_store(id));
        replica.is_some_and(|replica| replica.role.votes_incoming())
    }

    pub(super) fn is_heard(&self, id: StoreId) -> bool {
        self.store.peers(GROUP).iter().any(|peer| peer.store == id && peer.is_active)
    }

    /// With each tick: does the next step.
    pub(super) fn follow_members(&mut self, now: Duration) {
        let Some(leading) = &mut self.leading else { return };
        if !self.store.machine(GROUP).is_some_and(|state| state.members().are_known()) {
            if !std::mem::replace(&mut leading.membership.founding, true) {
                self.found_masters();
            }
            return;
        }
        let Some(group) = self.store.descriptor(GROUP) else { return };
        let step = next(self.state().members(), group, self.store.ident().store);
        let doing = step.map(|step| (step, self.do_step(now, step).err().unwrap_or_default()));
        self.membership_mut().doing = doing;
    }

    /// The members become known to the log, which knows none at the beginning of a cluster.
    fn found_masters(&mut self) {
        let row = |(id, member): (&StoreId, &Member)| MasterRow {
            member_id: id.0,
            ident: member.ident.to_wire(),
            address: member.address.clone(),
            ..MasterRow::default()
        };
        let masters = self.settings.members.iter().map(row).collect();
        let found = Command::FoundMasters(FoundMastersCommand { masters });
        self.proposals.ask(found, Asker::Nobody);
    }

    /// # Errors
    /// What it waits for.
    fn do_step(&mut self, now: Duration, step: Step) -> Result<(), String> {
        let changes = match step {
            Step::HandOver(_) => {
                return match self.store.hand_over_one(GROUP, None) {
                    true => Ok(()),
                    false => Err("no other voter follows closely enough to lead".to_owned()),
                };
            }
            Step::Forget(id) => {
                if self.membership_mut().forgetting != Some(id) {
                    let forget = Command::ForgetMaster(ForgetMasterCommand { member_id: id.0 });
                    self.ask_log(forget, Asker::Nobody).map_err(|why| why.message)?;
                    self.membership_mut().forgetting = Some(id);
                }
                return Ok(());
            }
            Step::LeaveJoint => Vec::new(),
            Step::AddLearner(id) => {
                vec![PeerChange::AddLearner { peer: peer(id), store: id }]
            }
            Step::Promote(id, old) => {
                self.has_caught_up(now, id)?;
                let demoted = old.map(|old| PeerChange::Demote(peer(old)));
                [PeerChange::Promote(peer(id))].into_iter().chain(demoted).collect()
            }
            Step::Demote(id) => vec![PeerChange::Demote(peer(id))],
            Step::Remove(id) => vec![PeerChange::RemoveLearner(peer(id))],
        };
        let group = self.store.descriptor(GROUP).ok_or("this master has no replica")?;
        let change = ChangePeers { epoch: group.epoch, changes };
        let proposed = self.store.change_peers(GROUP, &change).map_err(|why| why.to_string())?;
        tracing::info!(step = step.in_words(), index = proposed.index, "the masters change");
        Ok(())
    }

    /// # Errors
    /// It has not, or not for long enough.
    fn has_caught_up(&mut self, now: Duration, id: StoreId) -> Result<(), String> {
        let peers = self.store.peers(GROUP);
        let progress = peers.iter().find(|it| it.store == id).ok_or("it is no member")?;
        let last = self.store.status(GROUP).map_or(0, |status| status.log_last);
        let tick = self.settings.tick;
        let looked = &mut self.membership_mut().looked;
        let of_this = looked.filter(|it| it.0 == id);
        let (_, looks) = looked.insert(of_this.unwrap_or((id, CatchingUp::begin(now))));
        looks.look((now, tick), progress, last).map_err(|why| format!("it {why}"))
    }
}
