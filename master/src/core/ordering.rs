//! What people order of the masters themselves: that one comes, goes, or leads.

use std::time::Duration;

use sharklock_proto::{
    internal::v1::{AdmitMasterCommand, DismissMasterCommand, master_command::Body as Command},
    v1::{ChangeMastersRequest, ChangeMastersResponse, MasterGoal, master_goal},
};
use sharklock_rangemap::StoreId;
use tracing::field::display;

use super::{Asker, GROUP, MasterCore, operations::check_by, registering::ADDRESS_BYTES_MAX};
use crate::{
    membership::{Step, path},
    refusal::{Reason, Refusal},
    request::Reply,
    state::{Leaving, MemberRecord},
};

/// More masters only make each commit slower.
const MEMBERS_MAX: usize = 7;

impl MasterCore {
    /// Somebody wants other masters.
    pub(super) fn change_masters(
        &mut self,
        now: Duration,
        number: u64,
        request: ChangeMastersRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let ChangeMastersRequest { goal, dry_run, operator: by } = request;
        check_by(&by)?;
        let MasterGoal { goal: Some(goal) } = goal.unwrap_or_default() else {
            return Err(Refusal::new(Reason::Invalid, "goal: none is set"));
        };
        if !self.state().members().are_known() {
            let message = "the masters are not in their own log yet: ask again";
            return Err(Refusal::new(Reason::Undecided, message));
        }
        let wanted = match goal {
            master_goal::Goal::LeadMemberId(id) => {
                return self.transfer_leader(id, dry_run, &by).map(Some);
            }
            master_goal::Goal::Add(add) => {
                check_address(&add.address)?;
                self.may_add(now, &add)?
            }
            master_goal::Goal::RemoveMemberId(id) => self.may_remove(StoreId(id))?,
        };
        let (id, command) = wanted;
        let (steps, id) = self.planned(id, command.as_ref());
        let answer = ChangeMastersResponse { member_id: id.map_or(0, |id| id.0), steps };
        let Some(command) = command.filter(|_| !dry_run) else {
            return Ok(Some(Reply::MastersChanging(answer)));
        };
        let (master, planned) = (id.map(display), answer.steps.join("; "));
        tracing::info!(operator = by, master, planned, "the masters are to change");
        self.ask_log(command, Asker::Masters { number, steps: answer.steps })?;
        Ok(None)
    }

    /// The steps behind a command, and the member whom it is about, as far as it has an id.
    fn planned(
        &self,
        id: Option<StoreId>,
        command: Option<&Command>,
    ) -> (Vec<String>, Option<StoreId>) {
        let mut members = self.state().members().clone();
        match command {
            Some(Command::AdmitMaster(admit)) => _ = members.admit(admit.clone()),
            Some(Command::DismissMaster(dismiss)) => _ = members.dismiss(*dismiss),
            _ => {}
        }
        let Some(group) = self.store.descriptor(GROUP) else { return (Vec::new(), id) };
        let steps = path(&members, group, self.store.ident().store);
        (steps.into_iter().map(Step::in_words).collect(), id)
    }

    /// The command that adds a master; none if it is on its way already.
    fn may_add(
        &self,
        now: Duration,
        add: &master_goal::Add,
    ) -> Result<(Option<StoreId>, Option<Command>), Refusal> {
        let master_goal::Add { address, instead_of_member_id } = add;
        let members = self.state().members();
        let old = match instead_of_member_id {
            0 => None,
            old => Some(self.member(StoreId(*old))?),
        };
        let here = members.iter().find(|(_, it)| it.member.address == *address);
        if let Some((id, record)) = here.filter(|(id, _)| Some(*id) != old) {
            if record.leaving.is_some() && old.is_none() {
                let stays = DismissMasterCommand { member_id: id.0, stays: true };
                return Ok((Some(id), Some(Command::DismissMaster(stays))));
            }
            let goes_for =
                |old: StoreId| members.get(old).and_then(|it| it.leaving) == Some(Leaving::For(id));
            if record.leaving.is_none() && !self.votes(id) && old.is_none_or(goes_for) {
                return Ok((Some(id), None));
            }
            let message = format!(
                "{address} is master {id}: if its disk is lost, start it there with an empty \
                 directory and --join, then add it with --replace {id}"
            );
            return Err(Refusal::new(Reason::MasterThere, message));
        }
        self.nothing_else_changes()?;
        if members.count() >= MEMBERS_MAX + usize::from(old.is_some()) {
            let message = format!(
                "there are {} masters, and more than {MEMBERS_MAX} only make each change slower: \
                 remove one first, or add this one with --replace",
                members.count()
            );
            return Err(Refusal::new(Reason::MastersTooMany, message));
        }
        let Some(ident) = self.waits_at(now, address) else {
            let message = format!(
                "no master waits at {address}: start it there with an empty directory, --join and \
                 --advertise-master {address}, then try again (`sharklock masters ls` shows it)"
            );
            return Err(Refusal::new(Reason::MasterUnfit, message));
        };
        let admit = AdmitMasterCommand {
            ident: ident.to_wire(),
            address: address.clone(),
            instead_of_member_id: *instead_of_member_id,
        };
        Ok((None, Some(Command::AdmitMaster(admit))))
    }

    /// The command that removes a master; none if it is on its way already.
    fn may_remove(&self, id: StoreId) -> Result<(Option<StoreId>, Option<Command>), Refusal> {
        let id = self.member(id)?;
        let members = self.state().members();
        let record = members.get(id).expect("it is known");
        if record.leaving == Some(Leaving::Now) {
            return Ok((Some(id), None));
        }
        let dismiss =
            Command::DismissMaster(DismissMasterCommand { member_id: id.0, stays: false });
        // One that does not vote yet may be taken back, whatever else changes.
        if self.votes(id) {
            let stays = |(other, it): &(StoreId, &MemberRecord)| {
                *other != id && it.leaving.is_none() && self.votes(*other)
            };
            let voters: Vec<_> = members.iter().filter(stays).map(|(id, _)| id).collect();
            if voters.is_empty() {
                let message = format!(
                    "master {id} is the only one that votes: add another first, or replace it: \
                     `sharklock masters add ADDRESS --replace {id}`"
                );
                return Err(Refusal::new(Reason::LastVoter, message));
            }
            self.nothing_else_changes()?;
            self.keeps_a_majority(&voters)?;
        }
        Ok((Some(id), Some(dismiss)))
    }

    /// # Errors
    /// Of those that would vote then too few are heard of.
    fn keeps_a_majority(&self, voters: &[StoreId]) -> Result<(), Refusal> {
        let silent: Vec<_> = voters.iter().filter(|id| !self.is_heard(**id)).collect();
        let live = voters.len() - silent.len();
        if 2 * live > voters.len() {
            return Ok(());
        }
        let silent: Vec<_> = silent.into_iter().map(ToString::to_string).collect();
        let message = format!(
            "{live} of the {} masters that would stay are heard of, which is no majority: bring \
             master {} back, or replace it, first",
            voters.len(),
            silent.join(" and ")
        );
        Err(Refusal::new(Reason::NoMajority, message))
    }

    fn transfer_leader(&mut self, to: u64, dry_run: bool, by: &str) -> Result<Reply, Refusal> {
        let me = self.store.ident().store;
        let to = match to {
            0 => None,
            id => Some(self.member(StoreId(id))?),
        };
        if to == Some(me) {
            let message = format!("master {me} leads already");
            return Err(Refusal::new(Reason::NothingToDo, message));
        }
        if let Some(to) = to {
            let leaves = self.state().members().get(to).is_some_and(|it| it.leaving.is_some());
            if !self.votes(to) || leaves {
                let message = format!("master {to} has no vote, or is to go: it cannot lead");
                return Err(Refusal::new(Reason::MasterUnfit, message));
            }
        }
        let heir = |id: &StoreId| self.votes(*id) && self.is_heard(*id) && *id != me;
        let able = match to {
            Some(to) => heir(&to),
            None => self.state().members().iter().any(|(id, _)| heir(&id)),
        };
        if !able || (!dry_run && !self.store.hand_over_one(GROUP, to)) {
            let who =
                to.map_or("no other master can".to_owned(), |to| format!("master {to} cannot"));
            let message = format!(
                "{who} lead: whoever does must vote, be heard of and follow closely; look with \
                 `sharklock masters ls`"
            );
            return Err(Refusal::new(Reason::MasterUnfit, message));
        }
        if !dry_run {
            let master = to.map(display);
            tracing::info!(operator = by, master, "this master hands its leadership over");
        }
        let who = to.map_or("another master".to_owned(), |to| format!("master {to}"));
        let steps = vec![format!("{who} leads instead of master {me}")];
        let member_id = to.map_or(0, |to| to.0);
        Ok(Reply::MastersChanging(ChangeMastersResponse { member_id, steps }))
    }

    fn member(&self, id: StoreId) -> Result<StoreId, Refusal> {
        if self.state().members().get(id).is_some() {
            return Ok(id);
        }
        let message = format!("master {id} is not known: `sharklock masters ls` lists them");
        Err(Refusal::new(Reason::MasterUnknown, message))
    }

    /// One change of members at a time, so that each is understood.
    fn nothing_else_changes(&self) -> Result<(), Refusal> {
        let changing = |message: String| Err(Refusal::new(Reason::MastersChanging, message));
        if self.proposals.askers().any(|asker| matches!(asker, Asker::Masters { .. })) {
            return changing("another change of the masters is on its way: wait for it".to_owned());
        }
        for (id, record) in self.state().members().iter() {
            let address = &record.member.address;
            if record.leaving.is_some() {
                return changing(format!(
                    "master {id} is being removed: wait until it is gone (`sharklock masters ls`), or \
                     keep it: `sharklock masters add {address}`"
                ));
            }
            if !self.votes(id) {
                return changing(format!(
                    "master {id} is being added: wait until it votes (`sharklock masters ls`), or take \
                     it back: `sharklock masters remove {id}`"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn masters_changed(&mut self, number: u64, steps: Vec<String>, id: StoreId) {
        let answer = ChangeMastersResponse { member_id: id.0, steps };
        self.reply(number, Reply::MastersChanging(answer));
    }
}

/// It stands in refusals, which go through headers.
fn check_address(address: &str) -> Result<(), Refusal> {
    if (1..=ADDRESS_BYTES_MAX).contains(&address.len()) {
        return Ok(());
    }
    let message =
        format!("address: {} bytes; 1 to {ADDRESS_BYTES_MAX}, like b.example:7720", address.len());
    Err(Refusal::new(Reason::Invalid, message))
}
