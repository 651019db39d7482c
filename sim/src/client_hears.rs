//! What a client asks and is told, word by word, before its session makes anything of it. What is
//! said to be over must be over on every replica that has applied as much (S11); and what is rare is
//! marked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sharklock_proto::v1::{
    AcquireOutcome, AcquisitionEventKind, CancelOutcome, GoneReason, KeepAliveState, Position,
    ReleaseOutcome, SessionCall, SessionResponse, session_answer, session_call,
};
use sharklock_rangemap::RangeId;

use crate::check::Checks;
use crate::world::{S, World};

/// Acquisitions remembered per life of a client.
const REMEMBERED_MAX: usize = 1_000;
/// Attempts of one acquisition that wait for an answer and are remembered.
const ATTEMPTS_MAX: usize = 64;
/// For so long the cluster remembers that an acquisition has ended. What its client asks later is a
/// new wish.
pub(crate) const ENDED_KNOWN_NS: u64 = 30 * S;

/// What a life of a client has asked and heard, by acquisition.
#[derive(Debug, Default)]
pub struct Talk {
    of: BTreeMap<u64, Talked>,
}

/// Of one acquisition.
#[derive(Clone, Debug, Default)]
struct Talked {
    /// Its lock.
    name: Option<Arc<str>>,
    /// The newest attempt to acquire it, or to keep it alive.
    newest: u64,
    /// The newest of them that was answered.
    heard: u64,
    /// When an attempt was made that has been answered, the latest of them, true time; before that, when
    /// it was first asked for. Its lease was renewed then or later. When the answer is heard says
    /// nothing: it may have lain there while the client stood still (seed 500000122).
    renewed_ns: u64,
    /// When each attempt was made that is not answered, true time.
    made: VecDeque<(u64, u64)>,
    /// When it was first asked for, until it is first answered.
    unanswered_since: Option<u64>,
    /// The gateway that was last asked to close it.
    closed_at: Option<usize>,
    /// A server has said that it is over.
    over: bool,
}

impl Talk {
    fn of(&mut self, id: u64) -> &mut Talked {
        if self.of.len() > REMEMBERED_MAX && !self.of.contains_key(&id) {
            self.of.pop_first();
        }
        self.of.entry(id).or_default()
    }

    /// Whether a gateway was asked to close an acquisition.
    pub fn closes(&self, id: u64) -> bool {
        self.of.get(&id).is_some_and(|talked| talked.closed_at.is_some())
    }

    /// The lock that an acquisition is of, if it is remembered.
    pub fn name(&self, id: u64) -> Option<Arc<str>> {
        self.of.get(&id)?.name.clone()
    }

    /// Whether an attempt is on its way that is newer than all answers.
    pub fn is_asking(&self, id: u64) -> bool {
        self.of.get(&id).is_some_and(|talked| talked.newest > talked.heard)
    }
}

impl Talked {
    fn attempt(&mut self, seq: u64, now: u64) {
        self.newest = seq;
        if self.made.len() == ATTEMPTS_MAX {
            self.made.pop_front();
        }
        self.made.push_back((seq, now));
    }

    fn answered(&mut self, seq: u64) {
        self.heard = self.heard.max(seq);
        let made = self.made.iter().find(|(made, _)| *made == seq);
        self.renewed_ns = self.renewed_ns.max(made.map_or(0, |(_, at)| *at));
        self.made.retain(|(made, _)| *made > seq);
    }
}

impl World {
    /// A client sends a call to a gateway.
    pub(crate) fn client_says(&mut self, number: usize, gateway: usize, call: &SessionCall) {
        use session_call::Body;
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let seq = call.call_id;
        let asks = match &call.body {
            Some(Body::Acquire(it)) => Some((it.acquisition_id, &it.name)),
            Some(Body::Reclaim(it)) => Some((it.acquisition_id, &it.name)),
            _ => None,
        };
        let closed = match &call.body {
            Some(Body::Acquire(_) | Body::Reclaim(_)) => {
                let Some((id, name)) = asks else { return };
                let talked = process.talk.of(id);
                if talked.newest == 0 {
                    talked.renewed_ns = self.now;
                    talked.unanswered_since = Some(self.now);
                    talked.name = Some(Arc::from(name.as_str()));
                }
                talked.attempt(seq, self.now);
                let is_new = talked.renewed_ns + ENDED_KNOWN_NS < self.now;
                if is_new && let Some(taken) = process.taken.get_mut(&id) {
                    taken.wishes += 1;
                    self.checks.finished.wished_anew(process.instance, id);
                    self.mark("acquisitions that became new wishes", number);
                }
                return;
            }
            Some(Body::KeepAlive(it)) => {
                for item in &it.items {
                    process.talk.of(item.acquisition_id).attempt(seq, self.now);
                }
                return;
            }
            Some(Body::Release(it)) => it.acquisition_id,
            Some(Body::Cancel(it)) => it.acquisition_id,
            _ => return,
        };
        process.sent.insert(seq, (closed, self.now));
        let before = process.talk.of(closed).closed_at.replace(gateway);
        if before.is_some_and(|before| before != gateway) {
            self.mark("closes repeated by another gateway", number);
        }
    }

    /// A client receives answers and events.
    pub(crate) fn client_hears(&mut self, number: usize, response: &SessionResponse) {
        use session_answer::Body;
        for answer in &response.answers {
            let Some(process) = &self.clients[number - 1].process else { return };
            let call = answer.call_id;
            let asked = process.sent.get(&call).map(|(id, _)| *id);
            match &answer.body {
                Some(Body::Acquire(it)) => {
                    let id = it.acquisition_id;
                    self.attempt_answered(number, id, call);
                    self.acquire_answered(number, id);
                    let is_open =
                        matches!(it.outcome(), AcquireOutcome::Granted | AcquireOutcome::Queued);
                    let is_unknown = it.outcome() == AcquireOutcome::Gone
                        && it.gone_reason() == GoneReason::Unknown;
                    self.told_of(number, id, it.position, (is_open, is_unknown));
                    let gone = is_final(it.gone_reason(), false);
                    let over = match it.outcome() {
                        AcquireOutcome::HeldByOther
                        | AcquireOutcome::WaitTimedOut
                        | AcquireOutcome::HoldLost => true,
                        AcquireOutcome::Gone => gone,
                        _ => false,
                    };
                    if it.outcome() == AcquireOutcome::Gone && gone {
                        self.mark("duplicates that heard how it had ended", number);
                    }
                    self.told_over(number, Some(id).filter(|_| over), it.position);
                }
                Some(Body::Release(it)) => {
                    let is_gone = it.outcome() == ReleaseOutcome::Gone;
                    let is_unknown = is_gone && it.gone_reason() == GoneReason::Unknown;
                    if let Some(id) = asked {
                        self.told_of(number, id, it.position, (false, is_unknown));
                    }
                    let over = match it.outcome() {
                        ReleaseOutcome::Gone => is_final(it.gone_reason(), true),
                        _ => true,
                    };
                    self.told_over(number, asked.filter(|_| over), it.position);
                }
                Some(Body::Cancel(it)) => {
                    let is_gone = it.outcome() == CancelOutcome::Gone;
                    let is_unknown = is_gone && it.gone_reason() == GoneReason::Unknown;
                    if let Some(id) = asked {
                        self.told_of(number, id, it.position, (false, is_unknown));
                    }
                    let over =
                        it.outcome() != CancelOutcome::Gone || is_final(it.gone_reason(), true);
                    self.told_over(number, asked.filter(|_| over), it.position);
                }
                Some(Body::KeepAlive(it)) => {
                    for item in &it.answers {
                        let id = item.acquisition_id;
                        self.attempt_answered(number, id, item.seq);
                        self.kept_by(number, id, item.position);
                        let is_gone = item.state() == KeepAliveState::Gone;
                        let is_unknown = is_gone && item.gone_reason() == GoneReason::Unknown;
                        self.told_of(number, id, item.position, (!is_gone, is_unknown));
                        let over = item.state() == KeepAliveState::Gone
                            && is_final(item.gone_reason(), true);
                        self.told_over(number, Some(id).filter(|_| over), item.position);
                    }
                }
                Some(Body::Event(it)) => {
                    let over = it.kind() == AcquisitionEventKind::Gone;
                    let id = it.acquisition_id;
                    match it.kind() {
                        AcquisitionEventKind::Granted => self.mark("grants pushed", number),
                        AcquisitionEventKind::Ending => self.mark("endings pushed", number),
                        _ => {}
                    }
                    self.told_over(number, Some(id).filter(|_| over), it.position);
                }
                Some(Body::Failure(it)) if it.reason == "INDETERMINATE" => {
                    self.mark("indeterminate told", number);
                }
                _ => {}
            }
        }
    }

    fn attempt_answered(&mut self, number: usize, id: u64, seq: u64) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let talked = process.talk.of(id);
        talked.answered(seq);
        if seq < talked.newest {
            self.mark("answers after a newer attempt", number);
        }
    }

    /// A keepalive is answered: behind a split perhaps by another range than the one that has granted.
    fn kept_by(&mut self, number: usize, id: u64, position: Option<Position>) {
        let Some(process) = &self.clients[number - 1].process else { return };
        let grant = process.taken.get(&id).and_then(|taken| taken.held()).map(|it| &it.grant);
        if let (Some(grant), Some(position)) = (grant, position)
            && grant.position.range != position.range_id
        {
            self.counters.count("keepalives answered by a range that was split off");
        }
    }

    /// How long the first answer to an acquire took, whatever it says: the measure of L4.
    fn acquire_answered(&mut self, number: usize, id: u64) {
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let talked = process.talk.of(id);
        let Some(since) = talked.unanswered_since.take() else { return };
        let Some(name) = talked.name.clone() else { return };
        if !self.is_calm {
            let range = self.ranges.of(&name);
            self.answers.entry(range).or_default().answered(since, self.now);
        }
    }

    /// A server has said something of an acquisition, from the state at a place in the log: that it
    /// is there, or that it knows nothing of it.
    fn told_of(
        &mut self,
        number: usize,
        id: u64,
        position: Option<Position>,
        (is_open, is_unknown): (bool, bool),
    ) {
        let Some(position) = position else { return };
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let key = (process.instance, id);
        let talked = process.talk.of(id);
        let Some(name) = talked.name.clone() else { return };
        let renewed_ns = talked.renewed_ns;
        let Position { range_id, version, applied_index, .. } = position;
        let at = (RangeId(range_id), applied_index);
        let Checks { finished, tiling, .. } = &mut self.checks;
        if let Err(what) = tiling.spoke((at.0, version, at.1), &name) {
            let what = format!("of acquisition {id}, {what}");
            return self.violated("S10", &[name.to_string()], format_args!("{what}"));
        }
        if is_open {
            finished.told_open(key, at, renewed_ns);
        }
        let known_ns = self.now.saturating_sub(ENDED_KNOWN_NS);
        if is_unknown && let Err(what) = finished.called_unknown(key, at, known_ns, tiling) {
            self.violated("S11", &[name.to_string()], format_args!("{what}"));
        }
    }

    /// A server has said, from the state at a place in the log, that an acquisition is over.
    fn told_over(&mut self, number: usize, id: Option<u64>, position: Option<Position>) {
        let (Some(id), Some(position)) = (id, position) else { return };
        let Some(process) = &mut self.clients[number - 1].process else { return };
        let instance = process.instance;
        let talked = process.talk.of(id);
        if std::mem::replace(&mut talked.over, true) {
            self.counters.count("ends told again");
        }
        let range = RangeId(position.range_id);
        let (version, index) = (position.version, position.applied_index);
        if let Some(name) = talked.name.clone()
            && let Err(what) = self.checks.tiling.spoke((range, version, index), &name)
        {
            let what = format!("of the end of acquisition {id}, {what}");
            return self.violated("S10", &[name.to_string()], format_args!("{what}"));
        }
        let Checks { finished, tiling, .. } = &mut self.checks;
        finished.told((instance, id), (range, index), tiling);
    }
}

/// Whether a reason says for certain that an acquisition is over and can never begin. Of an unknown
/// one the Acquire may still be on its way. A duplicate whose hold is ending hears how that will end.
fn is_final(reason: GoneReason, force_released: bool) -> bool {
    match reason {
        GoneReason::Unspecified | GoneReason::Unknown => false,
        GoneReason::ForceReleased
        | GoneReason::HeldTooLong
        | GoneReason::AskedFor
        | GoneReason::Reclaimed => force_released,
        _ => true,
    }
}
