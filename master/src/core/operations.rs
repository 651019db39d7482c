//! Operators: begun by people, carried out by the leaders of their ranges step by step, ended where
//! the range has become what it was to become.

use std::{collections::BTreeMap, time::Duration};

use sharklock_proto::{
    internal::v1::{
        BeginOperatorCommand, EndOperatorCommand, RangeStep, StepWaits,
        master_command::Body as Command, range_step,
    },
    v1::{
        self, CancelOperatorRequest, CancelOperatorResponse, ChangeRangeRequest,
        ChangeRangeResponse, ListOperatorsRequest, ListOperatorsResponse, OperatorState,
    },
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::{
    AUDIT, Asker, MasterCore,
    fitness::{hopeless, runs_already},
};
use crate::{
    operator::{Goal, Next, Step, path},
    refusal::{Reason, Refusal},
    request::Reply,
    state::{Operator, goal_from_wire, goal_to_wire},
};

/// A leadership that does not move within this time will not: the other does not follow.
const FAST: Duration = Duration::from_secs(60);
/// A learner has so long to get its snapshot and to catch up.
const SLOW: Duration = Duration::from_secs(600);
/// Longest name of whoever orders something, bytes.
const BY_BYTES_MAX: usize = 256;

/// What a leading master knows of operators beside the log.
///
/// Invariants: `since` and `ending` are about operators that run.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// Since when this master carries each out.
    since: BTreeMap<u64, Duration>,
    /// Their ends are on their way into the log.
    ending: BTreeMap<u64, OperatorState>,
    /// What their steps wait for, and the store that has said so.
    waits: BTreeMap<u64, (StoreId, String)>,
}

impl Operations {
    /// A store says which steps wait there, and for what. Others have been done.
    pub(super) fn hear(&mut self, store: StoreId, waits: Vec<StepWaits>) {
        self.waits.retain(|_, (of, _)| *of != store);
        self.waits.extend(waits.into_iter().map(|it| (it.operator_id, (store, it.because))));
    }

    /// Since when this master carries it out.
    pub(super) fn since(&self, id: u64) -> Option<Duration> {
        self.since.get(&id).copied()
    }

    /// Others have ended.
    pub(super) fn keep(&mut self, runs: impl Fn(u64) -> bool) {
        self.since.retain(|id, _| runs(*id));
        self.ending.retain(|id, _| runs(*id));
        self.waits.retain(|id, _| runs(*id));
    }

    fn forget(&mut self, id: u64) {
        self.since.remove(&id);
        self.ending.remove(&id);
        self.waits.remove(&id);
    }
}

/// Operators that began and ended while this master led, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// Somebody has ordered them.
    pub ordered: u64,
    /// The masters wanted them themselves.
    pub scheduled: u64,
    /// Their ranges have become what they were to become.
    pub done: u64,
    /// Somebody has cancelled them.
    pub cancelled: u64,
    /// They took too long.
    pub timed_out: u64,
    /// Their ranges have become others meanwhile.
    pub off: u64,
}

impl MasterCore {
    /// See there.
    pub fn operator_counts(&self) -> OperatorCounts {
        self.operator_counts
    }

    /// Somebody wants a range changed.
    pub(super) fn change_range(
        &mut self,
        now: Duration,
        number: u64,
        request: ChangeRangeRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let ChangeRangeRequest { range_id, goal, dry_run, operator: by } = request;
        check_by(&by)?;
        let goal = goal.unwrap_or_default();
        // The id of the replica is given by the log; it has a place in the text of a dry run only.
        let wanted = goal_from_wire(&goal, PeerId(0));
        let wanted = wanted.map_err(|why| Refusal::new(Reason::Invalid, why))?;
        let range = RangeId(range_id);
        if let Some(running) = self.state().operators().of(range)
            && (goal_to_wire(running.goal), &running.by) == (goal, &by)
            && !dry_run
        {
            // The first answer was lost.
            let steps = self.steps_left(running);
            let operator = Some(self.shown(now, running));
            return Ok(Some(Reply::Changing(ChangeRangeResponse { operator, steps })));
        }
        let steps = self.may_change(now, range, wanted)?;
        let steps: Vec<String> = steps.iter().map(|step| in_words(*step)).collect();
        let reason = "an operator wishes it".to_owned();
        if dry_run {
            let planned =
                v1::Operator { range_id, goal: Some(goal), by, reason, ..v1::Operator::default() };
            return Ok(Some(Reply::Changing(ChangeRangeResponse {
                operator: Some(planned),
                steps,
            })));
        }
        let class = String::new();
        let begin = BeginOperatorCommand { range_id, goal: Some(goal), by, reason, class };
        self.ask_log(Command::BeginOperator(begin), Asker::Beginning { number, steps })?;
        Ok(None)
    }

    fn steps_left(&self, operator: &Operator) -> Vec<String> {
        let range = self.state().ranges().range(operator.range);
        let leader = self.leader_of(operator.range).map(|leader| leader.store);
        let path = range.and_then(|range| path(operator.goal, range, leader));
        path.unwrap_or_default().into_iter().map(in_words).collect()
    }

    pub(super) fn list_operators(
        &self,
        now: Duration,
        request: &ListOperatorsRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let operators = self.state().operators();
        let operators = match request.operator_id {
            0 => operators.iter().map(|it| self.shown(now, it)).collect(),
            id => vec![self.shown(now, self.operator(id)?)],
        };
        Ok(Some(Reply::Operators(ListOperatorsResponse { operators })))
    }

    fn operator(&self, id: u64) -> Result<&Operator, Refusal> {
        self.state().operators().get(id).ok_or_else(|| {
            let message = format!(
                "operator {id} is not known, or has ended long ago: `sharklock ops ls` lists them"
            );
            Refusal::new(Reason::OperatorUnknown, message)
        })
    }

    pub(super) fn cancel_operator(
        &mut self,
        now: Duration,
        number: u64,
        request: &CancelOperatorRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let operator = self.operator(request.operator_id)?;
        if operator.state != OperatorState::Running {
            let operator = Some(self.shown(now, operator));
            return Ok(Some(Reply::Cancelled(CancelOperatorResponse { operator })));
        }
        let by: String = request.operator.chars().take(BY_BYTES_MAX / 4).collect();
        let end = EndOperatorCommand {
            operator_id: operator.id,
            state: OperatorState::Cancelled.into(),
            because: format!("cancelled by {by}"),
        };
        self.ask_log(Command::EndOperator(end), Asker::Cancelling { number })?;
        Ok(None)
    }

    /// With each tick: ends what is done, and what cannot be done.
    pub(super) fn follow_operators(&mut self, now: Duration) {
        let Some(leading) = &self.leading else { return };
        let mut ends = Vec::new();
        let mut begun = Vec::new();
        for operator in self.state().operators().running() {
            let since = leading.operations.since.get(&operator.id).copied();
            if since.is_none() {
                begun.push(operator.id);
            }
            if leading.operations.ending.contains_key(&operator.id) {
                continue;
            }
            let ran = now.saturating_sub(since.unwrap_or(now));
            if let Some((state, because)) = self.end_of(now, operator, ran) {
                ends.push((operator.id, state, because));
            }
        }
        let operations = &mut self.leading.as_mut().expect("it leads").operations;
        operations.since.extend(begun.into_iter().map(|id| (id, now)));
        for (operator_id, state, because) in ends {
            let end = EndOperatorCommand { operator_id, state: state.into(), because };
            if self.ask_log(Command::EndOperator(end), Asker::Nobody).is_ok() {
                let operations = &mut self.leading.as_mut().expect("it leads").operations;
                operations.ending.insert(operator_id, state);
            }
        }
    }

    /// Whether an operator has come to its end.
    fn end_of(
        &self,
        now: Duration,
        operator: &Operator,
        ran: Duration,
    ) -> Option<(OperatorState, String)> {
        let range = self.state().ranges().range(operator.range);
        let off = || (OperatorState::Off, "the range has become another".to_owned());
        let Some(descriptor) = range else { return Some(off()) };
        let leader = self.leader_of(operator.range).map(|leader| leader.store);
        let most = if matches!(operator.goal, Goal::Lead { .. }) { FAST } else { SLOW };
        match operator.goal.next(descriptor, leader) {
            Next::Done => Some((OperatorState::Done, String::new())),
            Next::Off => Some(off()),
            // A joint configuration is not left alone.
            Next::Do(Step::LeaveJoint) => None,
            Next::Do(step) if ran > most => {
                Some((OperatorState::TimedOut, self.waits_for(operator, step)))
            }
            Next::Do(_) => {
                let is_lost = |store| self.is_lost(now, store);
                let why = hopeless(operator.goal, descriptor, is_lost)?;
                Some((OperatorState::Off, why))
            }
        }
    }

    /// The steps that a store is to do: of the ranges that it leads.
    pub(super) fn steps_of(&self, store: StoreId) -> Vec<RangeStep> {
        let operators = self.state().operators().running();
        operators.filter_map(|operator| self.step_at(store, operator)).collect()
    }

    fn step_at(&self, store: StoreId, operator: &Operator) -> Option<RangeStep> {
        let leader = self.leader_of(operator.range).filter(|leader| leader.store == store)?;
        let descriptor = self.state().ranges().range(operator.range)?;
        let leading = self.leading.as_ref()?;
        if leading.operations.ending.contains_key(&operator.id) {
            return None;
        }
        match operator.goal.next(descriptor, Some(leader.store)) {
            Next::Do(step) => Some(RangeStep {
                range_id: operator.range.0,
                conf_ver: descriptor.epoch.conf_ver,
                version: descriptor.epoch.version,
                operator_id: operator.id,
                step: Some(step_to_wire(step)),
            }),
            Next::Done | Next::Off => None,
        }
    }

    /// The answers to those whose commands were about operators.
    pub(super) fn operator_begun(
        &mut self,
        now: Duration,
        asked: Option<(u64, Vec<String>)>,
        id: u64,
    ) {
        let operator = self.state().operators().get(id).expect("it has just begun");
        tracing::info!(
            target: AUDIT,
            operator_id = id,
            range = %operator.range,
            goal = %operator.goal,
            operator = operator.by,
            reason = operator.reason,
            "operator-begins"
        );
        let counts = &mut self.operator_counts;
        *if asked.is_some() { &mut counts.ordered } else { &mut counts.scheduled } += 1;
        if let Some((number, steps)) = asked {
            let operator = self.state().operators().get(id).expect("it has just begun");
            let operator = Some(self.shown(now, operator));
            self.reply(number, Reply::Changing(ChangeRangeResponse { operator, steps }));
        }
    }

    pub(super) fn operator_runs_already(&mut self, number: u64, id: u64) {
        let refusal = runs_already(self.state().operators().get(id).expect("it runs"));
        self.reply(number, Reply::Refused(refusal));
    }

    pub(super) fn operator_ended(&mut self, now: Duration, number: Option<u64>, id: u64) {
        let Some(operator) = self.state().operators().get(id) else { return };
        let shown = self.shown(now, operator);
        let (range, ended) = (operator.range, operator.state);
        let (state, why) = (ended.as_str_name(), &operator.because);
        tracing::info!(target: AUDIT, operator_id = id, %range, state, why, "operator-ended");
        let counts = &mut self.operator_counts;
        match ended {
            OperatorState::Done => counts.done += 1,
            OperatorState::Cancelled => counts.cancelled += 1,
            OperatorState::TimedOut => counts.timed_out += 1,
            OperatorState::Off => counts.off += 1,
            OperatorState::Running | OperatorState::Unspecified => {}
        }
        if let Some(leading) = &mut self.leading {
            leading.operations.forget(id);
        }
        if let Some(number) = number {
            let operator = Some(shown);
            self.reply(number, Reply::Cancelled(CancelOperatorResponse { operator }));
        }
    }

    /// An operator, for people.
    fn shown(&self, now: Duration, operator: &Operator) -> v1::Operator {
        let Operator { id, range, goal, by, reason, state, because, .. } = operator;
        let since = self.leading.as_ref().and_then(|it| it.operations.since.get(id));
        let ran = now.saturating_sub(since.copied().unwrap_or(now));
        v1::Operator {
            operator_id: *id,
            range_id: range.0,
            goal: Some(goal_to_wire(*goal)),
            by: by.clone(),
            reason: match because.is_empty() {
                true => reason.clone(),
                false => format!("{reason}; {because}"),
            },
            state: (*state).into(),
            step: self.step_shown(operator),
            running_ms: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn step_shown(&self, operator: &Operator) -> String {
        let range = self.state().ranges().range(operator.range);
        let leader = self.leader_of(operator.range).map(|leader| leader.store);
        match range.map(|range| operator.goal.next(range, leader)) {
            Some(Next::Do(step)) if operator.state == OperatorState::Running => {
                self.waits_for(operator, step)
            }
            _ => String::new(),
        }
    }

    /// The step of an operator, and what it waits for.
    fn waits_for(&self, operator: &Operator, step: Step) -> String {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let step = in_words(step);
        match leading.operations.waits.get(&operator.id) {
            Some((_, because)) => format!("{step}: {because}"),
            None if self.leader_of(operator.range).is_none() => {
                format!("{step}: range {} has no leader", operator.range)
            }
            None => step,
        }
    }
}

/// # Errors
/// The name of whoever orders something is too long to be kept.
pub(super) fn check_by(by: &str) -> Result<(), Refusal> {
    if by.len() <= BY_BYTES_MAX {
        return Ok(());
    }
    let message = format!("operator: {} bytes; at most {BY_BYTES_MAX}", by.len());
    Err(Refusal::new(Reason::Invalid, message))
}

/// A step; before its operator begins, the replica that comes has no id.
fn in_words(step: Step) -> String {
    match step {
        Step::AddLearner { peer: PeerId(0), store } => format!("store {store} gets a learner"),
        Step::Promote { peer: PeerId(0), instead_of: None } => {
            "it votes, once it has caught up".to_owned()
        }
        Step::Promote { peer: PeerId(0), instead_of: Some(old) } => {
            format!("it takes over the vote of peer {old}, once it has caught up")
        }
        step => step.to_string(),
    }
}

fn step_to_wire(step: Step) -> range_step::Step {
    match step {
        Step::AddLearner { peer, store } => {
            let (peer_id, store_id) = (peer.0, store.0);
            range_step::Step::AddLearner(range_step::AddLearner { peer_id, store_id })
        }
        Step::Promote { peer, instead_of } => range_step::Step::Promote(range_step::Promote {
            peer_id: peer.0,
            instead_of: instead_of.map_or(0, |old| old.0),
        }),
        Step::Demote { peer } => range_step::Step::Demote(peer.0),
        Step::LeaveJoint => range_step::Step::LeaveJoint(range_step::LeaveJoint {}),
        Step::Remove { peer } => range_step::Step::Remove(peer.0),
        Step::HandOver { to } => range_step::Step::HandOverTo(to.map_or(0, |store| store.0)),
    }
}
