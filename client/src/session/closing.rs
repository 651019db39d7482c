//! The last words to the cluster after a handle was given back: a Cancel for what is not
//! known to be granted, a Release for what is. Repeated until answered or until no lease can be
//! left.

use std::{sync::Arc, time::Duration};

use super::{
    Asked, Attempt, Call, CloseEnd, Effects, GoneReason, Notice, SessionCore, Via,
    acquiring::lost_reason,
    acquisition::Phase,
    changing::PendingChange,
    lease::Lease,
    spare::{REPEAT_EVERY, ways},
};
use crate::{
    error::LostReason,
    failure::{Failure, Verdict},
    ids::{AcquisitionId, FencingToken, Seq},
    request::TTL_DEFAULT,
};

/// So many are repeated as soon as an unanswered keepalive is: somebody waits for the lock. That is 4 s,
/// an election and the time that a gateway may take to leave a leader that says nothing.
const REPETITIONS_SOON: u32 = 16;

/// How an acquisition is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It may be queued, granted or still on its way.
    Cancel,
    /// It is granted under this token.
    Release(FencingToken),
}

/// One acquisition that was given back.
#[derive(Debug)]
pub(super) struct Closing {
    name: Arc<str>,
    way: Way,
    /// It was sent when the cluster was known to have granted it.
    knew_of_grant: bool,
    /// No lease is left after this, or nobody cares.
    until: Duration,
    /// Time between later repetitions, doubled.
    interval: Duration,
    next_call: Duration,
    /// The sending of the oldest call after which no answer has come.
    pub(super) asked_since: Option<Duration>,
    calls_count: u32,
    failures_count: u32,
    /// Its entry in the session's timers.
    pub(super) armed: Option<Duration>,
}

impl Closing {
    fn new(now: Duration, name: Arc<str>, way: Way, lease: &Lease) -> Self {
        Self {
            name,
            way,
            knew_of_grant: false,
            // A lapsed lease is worth one more interval: the cluster may hold it longer.
            until: lease.valid_until().unwrap_or(now + lease.ttl).max(now + lease.call_interval()),
            interval: lease.call_interval(),
            next_call: now,
            asked_since: None,
            calls_count: 0,
            failures_count: 0,
            armed: None,
        }
    }

    /// It closes an acquisition of this lock this way.
    pub(super) fn is_of(&self, name: &str, way: Way) -> bool {
        *self.name == *name && self.way == way
    }

    /// The time that a sending has to be answered before it is repeated; the first is repetition 0.
    fn repeated_after(&self, repetition: u32) -> Duration {
        let patient = self.interval / 2;
        if repetition < REPETITIONS_SOON { patient.min(REPEAT_EVERY) } else { patient }
    }

    pub(super) fn due(&self, connected: bool) -> Duration {
        if connected { self.until.min(self.next_call) } else { self.until }
    }
}

impl SessionCore {
    /// The handle is given back.
    pub(super) fn close(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.remove(&id) else {
            // It had failed before.
            return;
        };
        let is_moving = acquisition.changes.front().is_some_and(PendingChange::may_move_token);
        // Only its id is known for certain: whatever servers said of its token may be over.
        let by_id = acquisition.may_have_other_token || is_moving;
        let way = match &acquisition.phase {
            Phase::Requested if acquisition.surely_unknown() => {
                self.disarm(id, acquisition.armed);
                effects.notices.push(Notice::Closed { id, end: CloseEnd::Confirmed });
                return;
            }
            Phase::Requested | Phase::Waiting { .. } => Way::Cancel,
            _ if by_id => Way::Cancel,
            Phase::Granted { hold, .. } => Way::Release(hold.token),
            Phase::Held { token, .. } | Phase::Lost { token } => Way::Release(*token),
        };
        let name = Arc::clone(&acquisition.request.name);
        let mut closing = Closing::new(now, name, way, &acquisition.lease);
        closing.armed = acquisition.armed;
        closing.knew_of_grant = acquisition.token().is_some();
        self.start_closing(now, id, closing, effects);
    }

    /// A server told of an acquisition that nobody has a handle for: it is closed, unless that is
    /// under way already (D7, holes 14, 16, 17, 19). Its id is all that is certain: the token in an
    /// old answer may be the one from before a downgrade (simulator, seed 1150000035).
    pub(super) fn close_stray(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        name: &Arc<str>,
        effects: &mut Effects,
    ) {
        if !self.closing.contains_key(&id) {
            let lease = Lease::new(TTL_DEFAULT, None);
            let closing = Closing::new(now, Arc::clone(name), Way::Cancel, &lease);
            self.start_closing(now, id, closing, effects);
        }
    }

    /// The same, of one that was granted. A Cancel on its way does the same, if it is not recorded
    /// ahead of the grant: one that was sent without knowing of a grant is repeated.
    pub(super) fn close_granted_stray(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        name: &Arc<str>,
        effects: &mut Effects,
    ) {
        let is_known = self.closing.contains_key(&id);
        self.close_stray(now, id, name, effects);
        let Some(closing) = self.closing.get_mut(&id) else { return };
        let knew_of_grant = std::mem::replace(&mut closing.knew_of_grant, true);
        if is_known && closing.way == Way::Cancel && !knew_of_grant {
            self.send_if_connected(now, id, effects);
        }
    }

    fn start_closing(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        closing: Closing,
        effects: &mut Effects,
    ) {
        self.closing.insert(id, closing);
        self.send_if_connected(now, id, effects);
        self.arm(id);
    }

    fn send_if_connected(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        if self.connected {
            self.send_close(now, id, effects);
        }
    }

    pub(super) fn send_close(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let spare_is_up = self.spare_is_up();
        let Some(closing) = self.closing.get_mut(&id) else { return };
        let repetition = closing.calls_count;
        closing.calls_count += 1;
        closing.asked_since.get_or_insert(now);
        closing.next_call = now + closing.repeated_after(repetition);
        if repetition > 0 {
            self.want_spare(now);
        }
        for via in ways(repetition, spare_is_up) {
            self.send_close_by(now, *via, id, effects);
        }
    }

    fn send_close_by(&mut self, now: Duration, via: Via, id: AcquisitionId, effects: &mut Effects) {
        let seq = self.take_seq();
        let Some(closing) = self.closing.get(&id) else { return };
        let name = Arc::clone(&closing.name);
        let call = match closing.way {
            Way::Cancel => Call::Cancel { seq, id, name },
            Way::Release(token) => Call::Release { seq, id, name, token },
        };
        match via {
            Via::Main => effects.urgent.push(call),
            Via::Spare => {
                effects.spare.push(call);
                self.asked_spare(now);
            }
        }
        let asked = Asked::Close { id };
        self.attempts.insert(seq, Attempt { sent: now, via, asked });
    }

    pub(super) fn wake_closing(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(closing) = self.closing.get(&id) else { return };
        if closing.until <= now {
            self.end_closing(id, CloseEnd::Unconfirmed, effects);
        } else if self.connected && closing.next_call <= now {
            if self.is_stalled(now, closing.asked_since, closing.interval) {
                self.reconnect(now, effects);
            } else {
                self.send_close(now, id, effects);
            }
        }
    }

    pub(super) fn release_answered(
        &mut self,
        seq: Seq,
        gone: Option<GoneReason>,
        effects: &mut Effects,
    ) {
        let Some(Attempt { asked: Asked::Close { id }, .. }) = self.attempts.remove(&seq) else {
            return;
        };
        self.closed_by_server(id, gone, effects);
    }

    pub(super) fn cancel_answered(&mut self, seq: Seq, effects: &mut Effects) {
        let Some(Attempt { asked: Asked::Close { id }, .. }) = self.attempts.remove(&seq) else {
            return;
        };
        self.end_closing(id, CloseEnd::Confirmed, effects);
    }

    /// The cluster says that it is closed, or had ended before.
    pub(super) fn closed_by_server(
        &mut self,
        id: AcquisitionId,
        gone: Option<GoneReason>,
        effects: &mut Effects,
    ) {
        let Some(closing) = self.closing.get(&id) else { return };
        let released = closing.way != Way::Cancel;
        let end = match gone {
            Some(
                reason @ (GoneReason::Expired
                | GoneReason::ForceReleased
                | GoneReason::Orphaned
                | GoneReason::Reclaimed
                | GoneReason::HeldTooLong
                | GoneReason::AskedFor),
            ) if released => CloseEnd::Lost(lost_reason(reason)),
            // A repeated release whose first answer was lost may find it forgotten.
            Some(GoneReason::Unknown) if released && closing.calls_count == 1 => {
                CloseEnd::Lost(LostReason::Unknown)
            }
            _ => CloseEnd::Confirmed,
        };
        self.end_closing(id, end, effects);
    }

    pub(super) fn close_failed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        failure: &Failure,
        effects: &mut Effects,
    ) {
        if failure.verdict() == Verdict::Refused {
            self.end_closing(id, CloseEnd::Unconfirmed, effects);
            return;
        }
        let Some(closing) = self.closing.get_mut(&id) else { return };
        closing.failures_count += 1;
        closing.asked_since = None;
        let (failures_count, latest) = (closing.failures_count, closing.interval / 2);
        let pause = self.pause_after(failure, failures_count).min(latest);
        if let Some(closing) = self.closing.get_mut(&id) {
            closing.next_call = now + pause;
        }
        self.arm(id);
    }

    fn end_closing(&mut self, id: AcquisitionId, end: CloseEnd, effects: &mut Effects) {
        let Some(closing) = self.closing.remove(&id) else { return };
        self.disarm(id, closing.armed);
        effects.notices.push(Notice::Closed { id, end });
    }
}
