//! One acquisition that its handle has not given back: where it stands and what it has to do next.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    changing::PendingChange,
    lease::Lease,
    rotation::patience,
    spare::{REPEAT_EVERY, REPETITIONS_MAX},
};
use crate::{
    condition::Agreement,
    failure::Failure,
    ids::{FencingToken, Position, Seq},
    request::{AskMark, Holder, Request, Wait},
};

/// The range's leader ends a wait by its own clock and tells; only when that news stays out for so
/// long does the client end it. Callers are promised 100 ms.
const WAIT_SLACK: Duration = Duration::from_millis(60);

/// A server that was asked so long ago and has said nothing is out of touch.
const OUT_OF_TOUCH_AFTER: Duration = REPEAT_EVERY;

/// A request that has been queued may not be asked again as a try.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// The state of an acquisition.
#[derive(Debug)]
pub(super) enum Phase {
    /// No server has answered yet.
    Requested,
    /// In the queue, as an answer said.
    Waiting { place: u32, holders: Vec<Holder> },
    /// Granted, but not handed out: its time is not known yet, or too little is left of it.
    Granted {
        hold: Hold,
        /// The first number not used when the grant became known.
        known_from: Seq,
    },
    /// Its guard is out.
    Held { token: FencingToken, in_jeopardy: bool },
    /// Its guard is out and knows that the lock is lost. Only its return leads out of here.
    Lost { token: FencingToken },
}

/// A hold as a server tells of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) token: FencingToken,
    pub(super) fence_floor: FencingToken,
    pub(super) position: Position,
}

/// One acquisition with a handle.
#[derive(Debug)]
pub(super) struct Acquisition {
    pub(super) request: Arc<Request>,
    pub(super) phase: Phase,
    pub(super) lease: Lease,
    pub(super) started: Duration,
    /// While no server answers, this ends it.
    pub(super) give_up_after: Option<Duration>,
    /// When an Acquire or KeepAlive was last sent.
    pub(super) last_sent: Duration,
    /// When to send the next.
    pub(super) next_call: Duration,
    /// The sending of the oldest call after which no answer has come.
    pub(super) asked_since: Option<Duration>,
    /// Somebody with a time-out waits: when the gateway is asked whether it lives, if it has said
    /// nothing at all by then.
    pub(super) check_at: Option<Duration>,
    /// Failures since the last answer.
    pub(super) failures_count: u32,
    /// KeepAlives sent since the last answer.
    pub(super) keep_alives_count: u32,
    /// The last failure.
    pub(super) last_failure: Option<Box<Failure>>,
    /// Acquires under way.
    pub(super) acquires_count: u32,
    /// An Acquire was sent of which nobody knows whether it arrived.
    pub(super) may_have_arrived: bool,
    /// KeepAlives numbered from here on were sent after an answer for this acquisition had
    /// arrived, and after its grant was known: only those can say that it is gone. An earlier one may
    /// have overtaken the Acquire, and the end of a place in the queue is not the end of a later grant.
    pub(super) gone_counts_from: Option<Seq>,
    /// What is agreed about the hold, as far as is known.
    pub(super) agreement: Agreement,
    /// An answer has said what is agreed, or nothing was asked for. A pushed grant says nothing of it.
    pub(super) agreement_known: bool,
    /// Changes of the hold in order; the first is under way.
    pub(super) changes: VecDeque<PendingChange>,
    /// The lock was lost while a downgrade was under way: the hold may have another token than is known.
    pub(super) may_have_other_token: bool,
    /// A waiter has asked for the lock, as was known when this number was the first not used.
    pub(super) asked: Option<(AskMark, Seq)>,
    /// Its entry in the session's timers.
    pub(super) armed: Option<Duration>,
}

impl Acquisition {
    pub(super) fn new(now: Duration, request: Arc<Request>, call_timeout: Duration) -> Self {
        let give_up_after = match request.wait {
            Wait::Try => Some(call_timeout),
            Wait::AtMost(wait) => Some(wait),
            Wait::Unbounded => None,
        };
        Self {
            phase: Phase::Requested,
            lease: Lease::new(request.ttl, request.condition.interval()),
            started: now,
            give_up_after,
            last_sent: now,
            next_call: now,
            asked_since: None,
            check_at: None,
            failures_count: 0,
            keep_alives_count: 0,
            last_failure: None,
            acquires_count: 0,
            may_have_arrived: false,
            gone_counts_from: None,
            agreement: Agreement { condition: request.condition, ..Agreement::plain(request.ttl) },
            agreement_known: request.condition.is_default() && request.reclaim.is_none(),
            changes: VecDeque::new(),
            may_have_other_token: false,
            asked: None,
            armed: None,
            request,
        }
    }

    /// The grant is not known.
    pub(super) fn is_asking(&self) -> bool {
        matches!(self.phase, Phase::Requested | Phase::Waiting { .. })
    }

    /// Nothing but the answer to an Acquire brings it further: no server has answered yet, or a push
    /// has told the grant and no answer what is agreed.
    pub(super) fn needs_acquire(&self) -> bool {
        match self.phase {
            Phase::Requested => true,
            Phase::Granted { .. } => !self.agreement_known,
            Phase::Waiting { .. } | Phase::Held { .. } | Phase::Lost { .. } => false,
        }
    }

    /// Its guard may be handed out as soon as enough of its lease is known.
    pub(super) fn is_agreed(&self) -> bool {
        self.agreement_known && !self.agreement.wants_claim()
    }

    /// KeepAlives name it: a server has answered for it, and it is not lost.
    pub(super) fn is_kept_alive(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. } | Phase::Granted { .. } | Phase::Held { .. })
            && !self.needs_acquire()
    }

    /// An answer tells the lease, and what is agreed.
    pub(super) fn take_terms(&mut self, ttl: Option<Duration>, agreement: Option<Agreement>) {
        if let Some(ttl) = ttl {
            self.lease.ttl = ttl;
            self.agreement.ttl = ttl;
        }
        if let Some(agreement) = agreement
            && agreement.revision >= self.agreement.revision
        {
            self.agreement = agreement;
            self.lease.renew_every(agreement.condition.interval());
        }
    }

    /// The grant that was claimed is not the one that counts.
    pub(super) fn forget_claim(&mut self) {
        self.changes.clear();
        self.agreement = Agreement { revision: 0, claimed: false, ..self.agreement };
    }

    /// The token of a guard that is out.
    pub(super) fn token(&self) -> Option<FencingToken> {
        match &self.phase {
            Phase::Requested | Phase::Waiting { .. } => None,
            Phase::Granted { hold, .. } => Some(hold.token),
            Phase::Held { token, .. } | Phase::Lost { token } => Some(*token),
        }
    }

    pub(super) fn wants_call(&self, now: Duration) -> bool {
        !matches!(self.phase, Phase::Lost { .. }) && self.next_call <= now
    }

    /// When the caller is answered whatever is known.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let deadline = self.give_up_after.map(|after| self.started + after);
        match &self.phase {
            Phase::Requested => deadline,
            Phase::Waiting { .. } | Phase::Granted { .. } => deadline.map(|at| at + WAIT_SLACK),
            Phase::Held { .. } | Phase::Lost { .. } => None,
        }
    }

    /// When to look at it next.
    pub(super) fn due(&self, connected: bool) -> Option<Duration> {
        let duty = match &self.phase {
            Phase::Requested | Phase::Waiting { .. } | Phase::Granted { .. } => self.deadline(),
            Phase::Held { in_jeopardy: false, .. } => self.lease.jeopardy_at(),
            Phase::Held { in_jeopardy: true, .. } => self.lease.valid_until(),
            Phase::Lost { .. } => return None,
        };
        if connected {
            let change = self.changes.front().map(|change| change.next_call);
            [duty, self.check_at, change, Some(self.next_call)].into_iter().flatten().min()
        } else {
            duty
        }
    }

    /// How long a request that is sent now may queue.
    pub(super) fn wait_left(&self, now: Duration) -> Wait {
        match self.request.wait {
            Wait::AtMost(wait) => {
                Wait::AtMost(wait.saturating_sub(now - self.started).max(WAIT_MIN))
            }
            Wait::Try => Wait::Try,
            Wait::Unbounded => Wait::Unbounded,
        }
    }

    /// An Acquire was sent; without an answer it is repeated after half an interval.
    pub(super) fn asked_for(&mut self, now: Duration) {
        self.last_sent = now;
        self.asked_since.get_or_insert(now);
        self.next_call = now + self.lease.call_interval() / 2;
        self.check_at = self.give_up_after.map(|after| now + patience(Some(after)));
    }

    /// A KeepAlive was sent that names it; without an answer it is repeated soon.
    pub(super) fn kept(&mut self, now: Duration) {
        self.last_sent = now;
        self.asked_since.get_or_insert(now);
        self.next_call = now + self.repeat_after();
        self.keep_alives_count = self.keep_alives_count.saturating_add(1);
    }

    /// Between a KeepAlive and its repetition.
    pub(super) fn repeat_after(&self) -> Duration {
        let latest = self.lease.call_interval() / 2;
        let is_patient = matches!(self.phase, Phase::Waiting { .. });
        if is_patient && self.keep_alives_count >= REPETITIONS_MAX {
            return latest;
        }
        REPEAT_EVERY.min(latest)
    }

    /// Its grant became known when `known_from` was the first number not used.
    pub(super) fn grant_known(&mut self, hold: Hold, known_from: Seq) {
        self.phase = Phase::Granted { hold, known_from };
        self.gone_counts_from = Some(known_from);
    }

    /// An answer for it came. `next_seq` is the first number not used yet; `echoed` the sending of
    /// the attempt that was answered, if it is known.
    pub(super) fn heard(&mut self, next_seq: Seq, echoed: Option<Duration>) {
        self.gone_counts_from.get_or_insert(next_seq);
        let Some(sent) = echoed else { return };
        self.asked_since = None;
        self.check_at = None;
        self.failures_count = 0;
        self.keep_alives_count = 0;
        let interval = self.lease.interval();
        // A later attempt may be under way, but only what is answered renews.
        self.next_call = (sent + interval).max(self.last_sent + self.lease.call_interval() / 2);
    }

    /// The streams are gone, and what was under way with them.
    pub(super) fn attempts_lost(&mut self) {
        self.may_have_arrived |= self.acquires_count > 0;
        self.acquires_count = 0;
        self.keep_alives_count = 0;
        self.asked_since = None;
        self.check_at = None;
        if let Some(change) = self.changes.front_mut() {
            change.attempts_lost();
        }
    }

    /// A question has stayed unanswered for longer than answers take.
    pub(super) fn is_out_of_touch(&self, now: Duration) -> bool {
        self.asked_since.is_some_and(|since| since + OUT_OF_TOUCH_AFTER <= now)
    }

    /// No server can have heard of it.
    pub(super) fn surely_unknown(&self) -> bool {
        !self.may_have_arrived && self.acquires_count == 0 && self.gone_counts_from.is_none()
    }
}
