//! The other way to the cluster: a connection to a second gateway, made when the first leaves
//! keepalives unanswered, and kept for a while. An answer that comes over it is as good as one that
//! comes over the main one: every attempt has a number of its own, by whichever way it went (D7).

use std::time::Duration;

use super::{Asked, Effects, SessionCore, Via};
use crate::{failure::Down, ids::Seq};

/// An unanswered keepalive is repeated this often: an election takes 1 to 2 s, and the first moment
/// after it counts.
pub(super) const REPEAT_EVERY: Duration = Duration::from_millis(250);

/// From this repetition on, another gateway is asked.
pub(super) const REPETITION_BY_SPARE: u32 = 2;

/// Every so manieth repetition the main gateway is asked, too: it may be back.
const REPETITIONS_PER_MAIN: u32 = 4;

/// A waiter that a whole election has left unanswered loses nothing by more patience: its lease
/// begins anew with the next leader. A holder's own count runs on, whatever servers do.
pub(super) const REPETITIONS_MAX: u32 = 8;

/// The spare connection is kept for so long after it was last needed.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// When the spare gateway has answered and the main one is asked the same again, this is how long it
/// has: it may have to hear of a new leader first.
const PROBE_WITHIN: Duration = Duration::from_secs(1);

/// A spare connection that says nothing for so long is left for the next gateway's.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// The spare connection as the session sees it.
#[derive(Debug, Default)]
pub(super) struct Spare {
    /// It is up: keepalives may go over it.
    is_up: bool,
    /// Until when it is kept, or sought.
    wanted_until: Option<Duration>,
    /// The sending of the oldest call after which nothing has come over it.
    asked_since: Option<Duration>,
    /// It has answered what the main one left unanswered, which was then asked again.
    probed: Option<Duration>,
}

impl Spare {
    /// When it has to be looked at.
    pub(super) fn due(&self) -> Option<Duration> {
        let silent = self.asked_since.map(|since| since + SILENT_AFTER);
        let probed = self.probed.map(|at| at + PROBE_WITHIN);
        [self.wanted_until, silent, probed].into_iter().flatten().min()
    }
}

/// Which ways a repetition goes; the first sending is repetition 0.
pub(super) fn ways(repetition: u32, spare_is_up: bool) -> &'static [Via] {
    if repetition < REPETITION_BY_SPARE || !spare_is_up {
        &[Via::Main]
    } else if repetition % REPETITIONS_PER_MAIN == REPETITIONS_PER_MAIN - 1 {
        &[Via::Spare, Via::Main]
    } else {
        &[Via::Spare]
    }
}

impl SessionCore {
    /// Whether a connection to another gateway is needed beside the main one, or is kept.
    pub fn is_spare_wanted(&self) -> bool {
        self.spare.wanted_until.is_some()
    }

    pub(super) fn spare_is_up(&self) -> bool {
        self.spare.is_up
    }

    /// A keepalive is repeated: from the next repetition on, another gateway is wanted.
    pub(super) fn want_spare(&mut self, now: Duration) {
        if self.config.gateways_count > 1 {
            self.spare.wanted_until = Some(now + KEPT_FOR);
        }
    }

    pub(super) fn spare_connected(&mut self, now: Duration, effects: &mut Effects) {
        assert!(!self.spare.is_up, "the spare must be reported lost before another is made");
        if self.spare.wanted_until.is_none() {
            return;
        }
        (self.spare.is_up, self.spare.asked_since) = (true, None);
        if !self.connected {
            self.move_to_spare(now, effects);
        }
    }

    /// Questions that went over it are asked again as they fall due.
    pub(super) fn spare_lost(&mut self) {
        self.attempts.retain(|_, attempt| attempt.via != Via::Spare);
        let wanted_until = self.spare.wanted_until;
        self.spare = Spare { wanted_until, ..Spare::default() };
    }

    pub(super) fn asked_spare(&mut self, now: Duration) {
        self.spare.asked_since.get_or_insert(now);
    }

    /// Something came as an answer to what was sent this way.
    pub(super) fn heard_by(&mut self, now: Duration, via: Via) {
        match via {
            Via::Main => self.heard(now),
            Via::Spare => self.spare.asked_since = None,
        }
    }

    /// A leader's answer came through a gateway: that one works. `seq` is what it answered.
    pub(super) fn served(&mut self, now: Duration, seq: Seq, effects: &mut Effects) {
        let Some(attempt) = self.attempts.get(&seq) else { return };
        match attempt.via {
            Via::Main => {
                self.main_served = now;
                (self.helpless, self.helpless_moves) = (None, 0);
                self.spare.probed = None;
            }
            Via::Spare if self.main_served < attempt.sent && self.spare.probed.is_none() => {
                self.probe_main(now, seq, effects);
            }
            Via::Spare => {}
        }
    }

    /// Asks the main gateway what the other has just answered.
    fn probe_main(&mut self, now: Duration, seq: Seq, effects: &mut Effects) {
        let Some(Asked::KeepAlive { ids, .. }) = self.attempts.get(&seq).map(|it| &it.asked) else {
            return;
        };
        let ids: Vec<_> = ids.iter().filter(|id| self.open.contains_key(id)).copied().collect();
        if ids.is_empty() {
            return;
        }
        self.spare.probed = Some(now);
        self.send_keep_alive(now, Via::Main, ids, effects);
    }

    /// Does what is due about the spare connection.
    pub(super) fn wake_spare(&mut self, now: Duration, effects: &mut Effects) {
        let is_over = |since: Option<Duration>, after| since.is_some_and(|at| at + after <= now);
        if is_over(self.spare.probed, PROBE_WITHIN) {
            self.move_to_spare(now, effects);
        } else if is_over(self.spare.asked_since, SILENT_AFTER) {
            self.spare_lost();
            effects.leave_spare = true;
        }
        if is_over(self.spare.wanted_until, Duration::ZERO) {
            // Also where another is wanted in the next moment: that one is reported anew.
            effects.leave_spare |= self.spare.is_up;
            self.spare_lost();
            self.spare.wanted_until = None;
        }
    }

    /// The spare connection takes the main one's place: everything is named again over it, as over a
    /// new one, and what was asked over it already is still answered.
    pub(super) fn move_to_spare(&mut self, now: Duration, effects: &mut Effects) {
        assert!(self.spare.is_up, "there is no other connection to move to");
        self.disconnected(Down::silent("the gateway answered nothing"));
        for attempt in self.attempts.values_mut() {
            attempt.via = Via::Main;
        }
        self.spare = Spare::default();
        effects.acquires.clear();
        effects.urgent.clear();
        (effects.reconnect, effects.check) = (false, false);
        effects.move_to_spare = true;
        self.connected(now, effects);
    }
}
