//! Steps that the masters want done for ranges that this store leads: members come and go, and others
//! lead. A step is tried with each tick for as long as the masters repeat it, until the range has
//! another epoch than the one by which it was decided.

use std::{collections::BTreeMap, time::Duration};

use sharklock_multiraft::{CatchingUp, ChangePeers, PeerChange};
use sharklock_proto::internal::v1::{
    RangeStep, StepWaits,
    range_step::{AddLearner, Promote, Step},
};
use sharklock_rangemap::{Epoch, PeerId, RangeId, StoreId};

use super::Worker;

/// A step that the masters have not repeated for so long they want no more, or they are gone.
const REPEATED_WITHIN: Duration = Duration::from_secs(10);

/// The step of one range.
#[derive(Debug)]
struct Wanted {
    step: RangeStep,
    /// When the masters said so last.
    told: Duration,
    /// The looks at the learner that is to be promoted.
    looks: CatchingUp,
    /// Why it is not done yet.
    waits: String,
}

/// The steps that the masters have told this worker, by their ranges.
///
/// Invariants: a range has one step at most, the last that the masters have told.
#[derive(Debug, Default)]
pub(super) struct Steps {
    wanted: BTreeMap<RangeId, Wanted>,
}

impl Steps {
    /// The masters want this step.
    pub(super) fn tell(&mut self, now: Duration, step: RangeStep) {
        let range = RangeId(step.range_id);
        match self.wanted.get_mut(&range) {
            Some(wanted) if wanted.step == step => wanted.told = now,
            _ => {
                let waits = String::new();
                let looks = CatchingUp::begin(now);
                self.wanted.insert(range, Wanted { step, told: now, looks, waits });
            }
        }
    }
}

/// A step as the log shows it.
fn in_words(step: Step) -> String {
    match step {
        Step::AddLearner(AddLearner { peer_id, store_id }) => {
            format!("learner {peer_id} is added on store {store_id}")
        }
        Step::Promote(Promote { peer_id, instead_of: 0 }) => format!("learner {peer_id} votes"),
        Step::Promote(Promote { peer_id, instead_of }) => {
            format!("learner {peer_id} votes instead of voter {instead_of}")
        }
        Step::Demote(peer) => format!("voter {peer} does not vote any more"),
        Step::Remove(peer) => format!("learner {peer} is removed"),
        Step::LeaveJoint(_) => "the joint configuration is left".to_owned(),
        Step::HandOverTo(store) => format!("store {store} is to lead"),
    }
}

impl Worker {
    /// The steps that are not done yet, each with the reason.
    pub fn waiting_steps(&self) -> Vec<StepWaits> {
        let waiting = self.steps.wanted.values().filter(|wanted| !wanted.waits.is_empty());
        let said = |wanted: &Wanted| StepWaits {
            operator_id: wanted.step.operator_id,
            because: wanted.waits.clone(),
        };
        waiting.map(said).collect()
    }

    pub(super) fn do_steps(&mut self, now: Duration) {
        let mut steps = std::mem::take(&mut self.steps);
        steps.wanted.retain(|range, wanted| self.is_wanted(now, *range, wanted));
        for (range, wanted) in &mut steps.wanted {
            wanted.waits = self.do_step(now, *range, wanted).err().unwrap_or_default();
        }
        self.steps = steps;
    }

    fn is_wanted(&self, now: Duration, range: RangeId, wanted: &Wanted) -> bool {
        let RangeStep { conf_ver, version, .. } = wanted.step;
        let epoch = self.store.descriptor(range).map(|descriptor| descriptor.epoch);
        epoch == Some(Epoch { conf_ver, version })
            && now.saturating_sub(wanted.told) < REPEATED_WITHIN
            && self.leads(range)
    }

    /// # Errors
    /// Why it is not done.
    fn do_step(
        &mut self,
        now: Duration,
        range: RangeId,
        wanted: &mut Wanted,
    ) -> Result<(), String> {
        let Some(step) = wanted.step.step else {
            return Err("this program does not know this step: upgrade it".to_owned());
        };
        let changes = match step {
            Step::AddLearner(AddLearner { peer_id, store_id }) => {
                let (peer, store) = (PeerId(peer_id), StoreId(store_id));
                vec![PeerChange::AddLearner { peer, store }]
            }
            Step::Promote(Promote { peer_id, instead_of }) => {
                self.has_caught_up(now, range, PeerId(peer_id), &mut wanted.looks)?;
                let demoted = (instead_of > 0).then_some(PeerChange::Demote(PeerId(instead_of)));
                [PeerChange::Promote(PeerId(peer_id))].into_iter().chain(demoted).collect()
            }
            Step::Demote(peer) => vec![PeerChange::Demote(PeerId(peer))],
            Step::Remove(peer) => vec![PeerChange::RemoveLearner(PeerId(peer))],
            Step::LeaveJoint(_) => Vec::new(),
            Step::HandOverTo(store) => {
                let to = (store > 0).then_some(StoreId(store));
                return match self.store.hand_over_one(range, to) {
                    true => Ok(()),
                    false => Err(cannot_take_over(to)),
                };
            }
        };
        let RangeStep { conf_ver, version, .. } = wanted.step;
        let change = ChangePeers { epoch: Epoch { conf_ver, version }, changes };
        match self.store.change_peers(range, &change) {
            Ok(proposed) => {
                let (step, index) = (in_words(step), proposed.index);
                tracing::info!(%range, step, index, "the members of a range change");
                self.agenda.wake(range);
                Ok(())
            }
            Err(why) => Err(why.to_string()),
        }
    }

    /// # Errors
    /// It has not, or has not for long enough.
    fn has_caught_up(
        &self,
        now: Duration,
        range: RangeId,
        learner: PeerId,
        looks: &mut CatchingUp,
    ) -> Result<(), String> {
        let peers = self.store.peers(range);
        let progress = peers.iter().find(|it| it.peer == learner).ok_or("it is no member")?;
        let last = self.store.status(range).map_or(0, |status| status.log_last);
        let seen = looks.look((now, self.pace.tick), progress, last);
        seen.map_err(|why| format!("the learner on store {} {why}", progress.store))
    }
}

fn cannot_take_over(to: Option<StoreId>) -> String {
    match to {
        Some(store) => format!("store {store} cannot lead it: it has no voter there that follows"),
        None => "no other voter follows closely enough to lead it".to_owned(),
    }
}
