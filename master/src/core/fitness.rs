//! Whether a goal can be reached: asked before an operator begins, and again while it runs.

use std::time::Duration;

use sharklock_proto::internal::v1::StoreState;
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use super::MasterCore;
use crate::{
    operator::{Goal, Step, path},
    refusal::{Reason, Refusal},
    schedule::Duty,
    state::Operator,
};

impl MasterCore {
    /// The steps to a goal that people may set for a range.
    pub(super) fn may_change(
        &self,
        now: Duration,
        range: RangeId,
        goal: Goal,
    ) -> Result<Vec<Step>, Refusal> {
        let Some(descriptor) = self.state().ranges().range(range) else {
            let message = format!("range {range} is not known: `sharklock ranges ls` lists them");
            return Err(Refusal::new(Reason::RangeUnknown, message));
        };
        // Waiting for an operator that runs does not make a store fit.
        if let Goal::Add { to, .. } | Goal::Replace { to, .. } | Goal::Lead { to } = goal {
            self.is_fit(now, to)?;
        }
        if let Some(to) = goal.comes_to() {
            self.knows_rules(range, to)?;
        }
        if let Some(running) = self.state().operators().of(range) {
            return Err(runs_already(running));
        }
        if let Some(store) = goal.comes_to()
            && descriptor.on_store(store).is_some()
        {
            let message = format!(
                "store {store} has a replica of range {range} already, as stores {} have: choose \
                 another (`sharklock stores ls`)",
                stores_of(descriptor)
            );
            return Err(Refusal::new(Reason::ReplicaThere, message));
        }
        if let Some(store) = goal.goes_from() {
            may_go(descriptor, store, goal)?;
        }
        if let Goal::Remove { from } = goal {
            self.keeps_live_majority(now, descriptor, from)?;
        }
        if let Goal::Lead { to } = goal {
            let votes = descriptor.on_store(to).is_some_and(|it| it.role.votes_incoming());
            if !votes {
                let message = format!(
                    "store {to} has no voter of range {range}, so it cannot lead it: stores {} have \
                     replicas",
                    stores_of(descriptor)
                );
                return Err(Refusal::new(Reason::NoReplicaThere, message));
            }
        }
        match path(goal, descriptor, self.leader_of(range).map(|leader| leader.store)) {
            Some(steps) if steps.is_empty() => {
                let message = format!("range {range} is so already: {goal}");
                Err(Refusal::new(Reason::NothingToDo, message))
            }
            Some(steps) => Ok(steps),
            None => {
                let message = format!(
                    "the members of range {range} are being changed: wait until that is over"
                );
                Err(Refusal::new(Reason::OperatorRunning, message))
            }
        }
    }

    /// Whether those that stay when a replica goes can lead the range.
    fn keeps_live_majority(
        &self,
        now: Duration,
        range: &Descriptor,
        from: StoreId,
    ) -> Result<(), Refusal> {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let is_up = |store: &StoreId| leading.presence.of(now, *store).0 == StoreState::Up;
        let (live, silent) = voters_beside(range, from).partition::<Vec<_>, _>(is_up);
        match live.len() > silent.len() || silent.is_empty() {
            true => Ok(()),
            false => Err(Refusal::new(Reason::NoMajority, too_few(&live, &silent))),
        }
    }

    /// Whether a store may get replicas or leaderships.
    fn is_fit(&self, now: Duration, store: StoreId) -> Result<(), Refusal> {
        if !self.state().stores().contains_key(&store) {
            let message = format!("store {store} is not known: `sharklock stores ls` lists them");
            return Err(Refusal::new(Reason::StoreUnknown, message));
        }
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let (state, silence, _) = leading.presence.of(now, store);
        let duty = self.state().stores()[&store].duty;
        match (state, duty) {
            (StoreState::Up, Duty::Serves) => Ok(()),
            (_, Duty::Gone) => Err(Refusal::new(
                Reason::StoreUnfit,
                format!(
                    "store {store} was declared gone, for ever: choose another (`sharklock stores ls`)"
                ),
            )),
            (_, Duty::Drains) => Err(Refusal::new(
                Reason::StoreUnfit,
                format!(
                    "store {store} is to become empty: `sharklock stores undrain {store}` first"
                ),
            )),
            _ => Err(Refusal::new(
                Reason::StoreUnfit,
                format!(
                    "store {store} has not been heard of for {} s: start it, or choose another \
                     (`sharklock stores ls`)",
                    silence.as_secs()
                ),
            )),
        }
    }

    /// Whether a store's program could read what a range has.
    fn knows_rules(&self, range: RangeId, store: StoreId) -> Result<(), Refusal> {
        let follows = self.leader_of(range).map_or(0, |leader| leader.level);
        let Some(record) = self.state().stores().get(&store) else { return Ok(()) };
        let known = record.feature_level;
        if known >= follows {
            return Ok(());
        }
        let message = format!(
            "store {store} runs {}, which knows feature level {known}, and range {range} follows \
             {follows}: upgrade that store, or choose another (`sharklock stores ls`)",
            record.version
        );
        Err(Refusal::new(Reason::StoreUnfit, message))
    }

    /// Nobody expects a store back soon, or at all.
    pub(super) fn is_lost(&self, now: Duration, store: StoreId) -> bool {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let duty = self.state().stores().get(&store).map(|it| it.duty);
        duty == Some(Duty::Gone) || leading.presence.of(now, store).0 == StoreState::Down
    }
}

/// Those that have a replica, for people.
fn stores_of(range: &Descriptor) -> String {
    let has: Vec<String> = range.replicas.iter().map(|it| it.store.to_string()).collect();
    has.join(", ")
}

fn may_go(range: &Descriptor, store: StoreId, goal: Goal) -> Result<(), Refusal> {
    let id = range.range;
    let Some(replica) = range.on_store(store) else {
        let message =
            format!("store {store} has no replica of range {id}: stores {} have", stores_of(range));
        return Err(Refusal::new(Reason::NoReplicaThere, message));
    };
    let voters = range.replicas.iter().filter(|it| it.role.votes_incoming()).count();
    let is_last = voters == 1 && replica.role.votes_incoming();
    if is_last && goal.comes_to().is_none() {
        let message = format!(
            "the replica on store {store} is the last voter of range {id}: its locks would be lost. \
             Move it, or add another one first"
        );
        return Err(Refusal::new(Reason::LastVoter, message));
    }
    Ok(())
}

/// Why a goal will not be reached as long as some stores are lost. Its range is then free for whatever
/// repairs it.
pub(super) fn hopeless(
    goal: Goal,
    range: &Descriptor,
    is_lost: impl Fn(StoreId) -> bool,
) -> Option<String> {
    if let Some(to) = goal.comes_to() {
        return is_lost(to).then(|| format!("store {to}, where a replica was to come, is down"));
    }
    let (lost, live) =
        voters_beside(range, goal.goes_from()?).partition::<Vec<_>, _>(|it| is_lost(*it));
    (live.len() <= lost.len() && !lost.is_empty()).then(|| too_few(&live, &lost))
}

/// The stores of the voters that stay when the replica on one goes.
fn voters_beside(range: &Descriptor, from: StoreId) -> impl Iterator<Item = StoreId> {
    let voters = range.replicas.iter().filter(|it| it.role.votes_incoming());
    voters.map(|it| it.store).filter(move |store| *store != from)
}

fn too_few(live: &[StoreId], silent: &[StoreId]) -> String {
    let named: Vec<_> = silent.iter().map(ToString::to_string).collect();
    format!(
        "of the {} voters that would stay {} are heard of, which is no majority: bring store {} back, or \
         have its replica moved, first",
        live.len() + silent.len(),
        live.len(),
        named.join(" and ")
    )
}

pub(super) fn runs_already(running: &Operator) -> Refusal {
    let Operator { id, range, goal, .. } = running;
    let message = format!(
        "operator {id} runs for range {range} ({goal}): wait for it (`sharklock ops wait {id}`), or \
         cancel it (`sharklock ops cancel {id}`)"
    );
    Refusal::new(Reason::OperatorRunning, message)
}
