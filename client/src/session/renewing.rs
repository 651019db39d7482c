//! Keeping acquisitions alive, and noticing that they are not.

use std::{sync::Arc, time::Duration};

use super::{
    Asked, Attempt, Call, Echo, Effects, KEEP_ALIVE_ITEMS_MAX, KeepAliveAnswer, KeepAliveState,
    Notice, SessionCore, Via,
    acquisition::{Hold, Phase},
    spare::ways,
};
use crate::{
    error::{AcquireError, LostReason},
    failure::{Failure, Verdict},
    ids::{AcquisitionId, FencingToken, Seq},
};

impl SessionCore {
    /// Sends KeepAlives for everything that is due, and for whatever would be due within half of
    /// its interval: so all acquisitions of a session fall into step and cost one message per
    /// interval. An unanswered keepalive is repeated only when it is due itself, and by
    /// another gateway before long.
    pub(super) fn send_keep_alives(&mut self, now: Duration, effects: &mut Effects) {
        let (mut by_main, mut by_spare) = (Vec::new(), Vec::new());
        let spare_is_up = self.spare_is_up();
        let mut repeated = false;
        let mut asking = Vec::new();
        for (id, acquisition) in &mut self.open {
            let joins = match acquisition.asked_since {
                Some(_) => Duration::ZERO,
                None => acquisition.lease.interval() / 2,
            };
            if !acquisition.is_kept_alive() || acquisition.next_call > now + joins {
                continue;
            }
            let repetition = acquisition.keep_alives_count;
            if repetition == 0 && acquisition.wants_to_ask() {
                asking.push(*id);
            }
            repeated |= repetition > 0;
            for way in ways(repetition, spare_is_up) {
                match way {
                    Via::Main => by_main.push(*id),
                    Via::Spare => by_spare.push(*id),
                }
            }
            acquisition.kept(now);
        }
        if repeated {
            self.want_spare(now);
        }
        // One that has joined the others is due sooner than it was.
        for id in by_main.iter().chain(&by_spare) {
            self.arm(*id);
        }
        for (via, mut ids) in [(Via::Main, by_main), (Via::Spare, by_spare)] {
            while !ids.is_empty() {
                let rest = ids.split_off(ids.len().min(KEEP_ALIVE_ITEMS_MAX));
                self.send_keep_alive(now, via, std::mem::replace(&mut ids, rest), effects);
            }
        }
        for id in asking {
            self.ask_holders(now, id, effects);
        }
    }

    /// Sends one KeepAlive, for at most [`KEEP_ALIVE_ITEMS_MAX`] open acquisitions in order.
    pub(super) fn send_keep_alive(
        &mut self,
        now: Duration,
        via: Via,
        ids: Vec<AcquisitionId>,
        effects: &mut Effects,
    ) {
        let seq = self.take_seq();
        let items = ids.iter().map(|id| (Arc::clone(&self.open[id].request.name), *id)).collect();
        let calls = match via {
            Via::Main => &mut effects.urgent,
            Via::Spare => &mut effects.spare,
        };
        calls.push(Call::KeepAlive { seq, items });
        let asked = Asked::KeepAlive { unanswered_count: ids.len(), ids };
        self.attempts.insert(seq, Attempt { sent: now, via, asked });
        if via == Via::Spare {
            self.asked_spare(now);
        }
    }

    pub(super) fn keep_alive_answered(
        &mut self,
        now: Duration,
        seq: Seq,
        answers: Vec<KeepAliveAnswer>,
        effects: &mut Effects,
    ) {
        let answered_count = answers.iter().filter(|answer| answer.echoed == seq).count();
        for answer in answers {
            let id = answer.id;
            self.item_answered(now, answer, effects);
            self.arm(id);
        }
        let over = match self.attempts.get_mut(&seq) {
            Some(Attempt { asked: Asked::KeepAlive { unanswered_count, .. }, .. }) => {
                *unanswered_count = unanswered_count.saturating_sub(answered_count);
                *unanswered_count == 0
            }
            _ => false,
        };
        if over {
            self.attempts.remove(&seq);
        }
    }

    fn item_answered(&mut self, now: Duration, answer: KeepAliveAnswer, effects: &mut Effects) {
        let KeepAliveAnswer { name, id, echoed, state, position } = answer;
        let echo = self.echo(echoed, id);
        let next_seq = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else {
            self.item_of_closed(now, id, &name, state, effects);
            return;
        };
        let early = acquisition.gone_counts_from.is_none_or(|from| echoed < from);
        if matches!(state, KeepAliveState::Gone(_)) && (early || echo.is_none()) {
            return;
        }
        acquisition.heard(next_seq, echo.map(|echo| echo.sent));
        match state {
            KeepAliveState::Held { token, fence_floor, asked } => {
                let hold = Hold { token, fence_floor, position };
                self.granted(now, id, hold, echo, effects);
                self.told_of_mark(now, id, token, asked, echoed, effects);
            }
            KeepAliveState::Waiting { place } => {
                if let Phase::Waiting { place: known, .. } = &mut acquisition.phase {
                    *known = place;
                }
                self.renew(now, id, echo, effects);
            }
            KeepAliveState::Ending { token, why } => {
                self.ending(now, id, &name, token, &why, effects);
            }
            KeepAliveState::Gone(reason) => self.gone(id, reason, effects),
        }
    }

    fn item_of_closed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        name: &str,
        state: KeepAliveState,
        effects: &mut Effects,
    ) {
        match state {
            KeepAliveState::Held { .. } | KeepAliveState::Ending { .. } => {
                self.close_granted_stray(now, id, &Arc::from(name), effects);
            }
            KeepAliveState::Waiting { .. } => {
                self.close_stray(now, id, &Arc::from(name), effects);
            }
            // The answer to a KeepAlive from before the close says nothing about the close.
            KeepAliveState::Gone(_) => {}
        }
    }

    pub(super) fn keep_alive_failed(
        &mut self,
        now: Duration,
        ids: &[AcquisitionId],
        failure: &Failure,
    ) {
        let unanswered = |session: &Self, id: &AcquisitionId| {
            session
                .open
                .get(id)
                .is_some_and(|kept| kept.is_kept_alive() && kept.asked_since.is_some())
        };
        let ids: Vec<_> = ids.iter().filter(|id| unanswered(self, id)).collect();
        let failures_count = ids.iter().map(|id| self.open[id].failures_count).max();
        let Some(failures_count) = failures_count.map(|count| count + 1) else { return };
        // A lease is worth asking for to its end, even where the server says that it will not.
        let pause = match failure.verdict() {
            Verdict::Refused => Duration::MAX,
            Verdict::NotDone | Verdict::NotKnown => self.pause_after(failure, failures_count),
        };
        for id in ids {
            let Some(acquisition) = self.open.get_mut(id) else { continue };
            acquisition.failures_count = failures_count;
            // A refused one is as good as an unanswered one, unless the server asks for patience.
            let latest = acquisition.repeat_after().max(failure.retry_after);
            acquisition.next_call =
                now + pause.min(latest).min(acquisition.lease.call_interval() / 2);
            self.arm(*id);
        }
    }

    /// An answer came that the acquisition lives. Unless it echoes a known attempt it moves nothing
    /// (hole 3), and what has lapsed it does not bring back.
    pub(super) fn renew(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        echo: Option<Echo>,
        effects: &mut Effects,
    ) {
        self.check_lease(now, id, effects);
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Some(echo) = echo else { return };
        acquisition.lease.renew(echo.sent);
        match &mut acquisition.phase {
            Phase::Held { in_jeopardy, .. } => {
                *in_jeopardy = acquisition.lease.jeopardy_at().is_some_and(|at| at <= now);
                let in_jeopardy = *in_jeopardy;
                if let Some(valid_until) = acquisition.lease.valid_until() {
                    effects.notices.push(Notice::Renewed { id, valid_until, in_jeopardy });
                }
            }
            // More will not come than in the answer to what was asked after the grant was known.
            Phase::Granted { known_from, .. } => {
                let left = acquisition.lease.remaining(now);
                let last_word = echo.seq >= *known_from && !left.is_zero();
                if last_word || acquisition.lease.is_worth_handing_out(now) {
                    self.hand_out(now, id, effects);
                }
            }
            Phase::Requested | Phase::Waiting { .. } | Phase::Lost { .. } => {}
        }
    }

    /// Tells the guard what the clock says about its lease.
    pub(super) fn check_lease(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let Phase::Held { in_jeopardy, .. } = &mut acquisition.phase else { return };
        if acquisition.lease.remaining(now).is_zero() {
            self.lose(id, LostReason::Unrenewed, effects);
        } else if !*in_jeopardy && acquisition.lease.jeopardy_at().is_some_and(|at| at <= now) {
            *in_jeopardy = true;
            effects.notices.push(Notice::Jeopardy { id });
        }
    }

    /// The guard has lost its lock. It is not renewed any more, whatever a server says.
    pub(super) fn lose(&mut self, id: AcquisitionId, reason: LostReason, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if let Phase::Held { token, .. } = acquisition.phase {
            acquisition.phase = Phase::Lost { token };
            Self::end_changes(id, acquisition, token, &reason, effects);
            effects.notices.push(Notice::Lost { id, reason });
        }
    }

    pub(super) fn lapsed_at_use(&mut self, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if let Phase::Held { token, .. } = acquisition.phase {
            acquisition.phase = Phase::Lost { token };
            Self::end_changes(id, acquisition, token, &LostReason::Unrenewed, effects);
        }
    }

    /// The hold is to end: every guard of it is lost first, and the releases that
    /// follow when they are given back tell the cluster that their holders have stopped.
    pub(super) fn ending(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        name: &str,
        token: FencingToken,
        why: &LostReason,
        effects: &mut Effects,
    ) {
        if !self.open.contains_key(&id) {
            self.close_granted_stray(now, id, &Arc::from(name), effects);
        }
        let mut of_hold = self.of_hold(name, token);
        if !of_hold.contains(&id) {
            of_hold.push(id);
        }
        for id in of_hold {
            let Some(acquisition) = self.open.get_mut(&id) else { continue };
            match &acquisition.phase {
                Phase::Held { .. } => self.lose(id, why.clone(), effects),
                Phase::Lost { .. } => {}
                // Nobody uses it: the release may follow at once.
                Phase::Requested | Phase::Waiting { .. } | Phase::Granted { .. } => {
                    let name = Arc::clone(&acquisition.request.name);
                    acquisition.phase = Phase::Lost { token };
                    let error = AcquireError::Lost { name, reason: why.clone() };
                    self.fail(now, id, error, effects);
                }
            }
        }
    }
}
