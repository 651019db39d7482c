//! The end of all that a client has: guards are lost first, so that their users stop, and given back
//! when they have, or when their time is over. Released before, a lock would let another holder in
//! beside a user who still works.

use std::{sync::Arc, time::Duration};

use super::{
    CloseEnd, Driver, Event, Told, Watchers,
    driver::{Entry, Stage},
};
use crate::{
    error::{AcquireError, LostReason},
    events::{Closed, GuardEventKind, GuardName},
    ids::AcquisitionId,
};

/// Whether a session takes wishes, and how far its end has come.
#[derive(Debug, Default)]
pub(super) enum End {
    /// It takes them.
    #[default]
    NotWanted,
    /// Guards are lost, and their users have until then to give them back.
    Grace { until: Duration, closed: Closed },
    /// Everything is given back, and the answers are waited for.
    GivenBack { closed: Closed },
    /// Nothing is left, and nothing new begins.
    Over,
}

impl End {
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(self, Self::NotWanted)
    }

    /// When it has to be looked at.
    pub(super) fn due(&self) -> Option<Duration> {
        match self {
            Self::Grace { until, .. } => Some(*until),
            Self::NotWanted | Self::GivenBack { .. } | Self::Over => None,
        }
    }

    /// A hold that was given back is over.
    pub(super) fn note(&mut self, hold: GuardName, end: &CloseEnd) {
        let (Self::Grace { closed, .. } | Self::GivenBack { closed }) = self else { return };
        match end {
            CloseEnd::Confirmed => closed.released.push(hold),
            CloseEnd::Unconfirmed => closed.unconfirmed.push(hold),
            CloseEnd::Lost(_) => {}
        }
    }
}

impl<W: Watchers, A, R, C> Driver<W, A, R, C> {
    /// Ends everything: guards are lost at once and renewed until they are given back, at the latest
    /// `grace` from now; acquisitions are withdrawn. [`Told::Closed`] follows, also where it was told
    /// before. When it is called again, the shorter time counts.
    pub fn close(&mut self, now: Duration, grace: Duration) {
        let until = now.saturating_add(grace);
        match &mut self.end {
            End::Grace { until: before, .. } => *before = until.min(*before),
            End::GivenBack { .. } => {}
            End::NotWanted | End::Over => {
                self.end = End::Grace { until, closed: Closed::default() };
                self.lose_all(now);
            }
        }
    }

    fn lose_all(&mut self, now: Duration) {
        let ids: Vec<_> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            match std::mem::replace(&mut entry.stage, Stage::Closing(None, None)) {
                Stage::Acquiring(ticket) => {
                    let result = Err(AcquireError::Closed);
                    self.told.push(Told::Acquired { ticket, result });
                    self.handle(now, Event::Close { id });
                }
                Stage::Held(token) => {
                    entry.stage = Stage::Held(token);
                    entry.cell.lose(LostReason::Closed);
                    self.tell_lost(id, LostReason::Closed);
                }
                closing @ Stage::Closing(..) => entry.stage = closing,
            }
        }
    }

    /// Goes on with the end as far as it can go now.
    pub(super) fn go_on_ending(&mut self, now: Duration) {
        let has_guard = |entry: &Entry<W, A, R, C>| matches!(entry.stage, Stage::Held(_));
        if let End::Grace { until, closed } = &mut self.end
            && (*until <= now || !self.entries.values().any(has_guard))
        {
            self.end = End::GivenBack { closed: std::mem::take(closed) };
            self.give_all_back(now);
        }
        if let End::GivenBack { closed } = &mut self.end
            && self.core.acquisitions_count() == 0
        {
            let closed = std::mem::take(closed);
            self.end = End::Over;
            self.told.push(Told::Closed(closed));
        }
    }

    fn give_all_back(&mut self, now: Duration) {
        let ids: Vec<AcquisitionId> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if let Stage::Held(token) = entry.stage {
                tracing::warn!(lock = &*entry.request.name, "given back while its guard is open");
                entry.stage = Stage::Closing(Some(token), None);
                self.handle(now, Event::Close { id });
            }
        }
    }

    /// The guard's loss is told once.
    pub(super) fn tell_lost(&mut self, id: AcquisitionId, reason: LostReason) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !std::mem::replace(&mut entry.is_lost, true) {
            self.tell(id, GuardEventKind::Lost(reason));
        }
    }

    /// Tells what has happened to a guard, if there is one.
    pub(super) fn tell(&mut self, id: AcquisitionId, kind: GuardEventKind) {
        let Some(entry) = self.entries.get(&id) else { return };
        let (Stage::Held(token) | Stage::Closing(Some(token), _)) = entry.stage else { return };
        let hold = GuardName { name: Arc::clone(&entry.request.name), token, acquisition: id };
        self.told.push(Told::Event(crate::events::GuardEvent { hold, kind }));
    }
}
