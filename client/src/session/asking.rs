//! Asking holders for a lock while it is waited for, and hearing that a waiter asks.

use std::{sync::Arc, time::Duration};

use super::{
    Asked, Attempt, Call, Effects, Notice, SessionCore, Via,
    acquisition::{Acquisition, Phase},
};
use crate::{
    ids::{AcquisitionId, FencingToken, Seq},
    request::AskMark,
};

impl Acquisition {
    /// It waits, and its user wants the holders to be asked.
    pub(super) fn wants_to_ask(&self) -> bool {
        self.request.ask && matches!(self.phase, Phase::Waiting { .. })
    }

    /// Its guard may still be told something.
    fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }
}

impl SessionCore {
    /// Asks whoever holds the lock for it. Those that are marked already stay so, and those that have
    /// come since are marked: so it is repeated with every keepalive, and no answer is waited for.
    pub(super) fn ask_holders(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        if !self.connected {
            return;
        }
        let seq = self.take_seq();
        let Some(acquisition) = self.open.get(&id) else { return };
        let name = Arc::clone(&acquisition.request.name);
        effects.urgent.push(Call::Ask { seq, id, name });
        let asked = Asked::Holders;
        self.attempts.insert(seq, Attempt { sent: now, via: Via::Main, asked });
    }

    /// A push says that a waiter has asked.
    pub(super) fn asked_for(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        mark: &AskMark,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get(&id) else { return };
        let Some(token) = acquisition.token() else { return };
        let name = Arc::clone(&acquisition.request.name);
        for id in self.of_hold(&name, token) {
            self.mark(now, id, mark.clone(), effects);
        }
    }

    /// The answer to the keepalive `echoed` says of the hold with this token whether a waiter has
    /// asked. An answer from before the mark was known says nothing about its end.
    pub(super) fn told_of_mark(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        token: FencingToken,
        mark: Option<AskMark>,
        echoed: Seq,
        effects: &mut Effects,
    ) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if acquisition.token() != Some(token) {
            return;
        }
        if let Some(mark) = mark {
            return self.mark(now, id, mark, effects);
        }
        let is_over = |(_, known_from): &mut (AskMark, Seq)| echoed >= *known_from;
        if acquisition.asked.take_if(is_over).is_some() && acquisition.is_held() {
            effects.notices.push(Notice::Asked { id, mark: None });
        }
    }

    fn mark(&mut self, now: Duration, id: AcquisitionId, mark: AskMark, effects: &mut Effects) {
        let known_from = self.next_seq;
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        let is_same = |(known, _): &(AskMark, Seq)| {
            known.since == mark.since && known.session == mark.session && known.owner == mark.owner
        };
        let is_known = acquisition.asked.as_ref().is_some_and(is_same);
        if is_known || matches!(acquisition.phase, Phase::Lost { .. }) {
            return;
        }
        acquisition.asked = Some((mark.clone(), known_from));
        if acquisition.is_held() {
            let until = now + mark.remaining;
            effects.notices.push(Notice::Asked { id, mark: Some((mark, until)) });
        }
    }
}
