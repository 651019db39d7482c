//! The session: every acquisition of one client, from its request to its release. Pure: time,
//! answers and wishes come in as events, calls and news go out as effects (D1). It opens no
//! connection, encodes nothing and wakes nobody. [`Driver`] joins it to its handles and to the
//! messages of the API; the connection, the clock and the timer are `session_task`'s.
//!
//! An acquisition lives in `open` (requested → waiting → granted → held → lost) until its handle
//! gives it back or it ends; from then on, while the cluster may still think of it, in `closing`
//! (withdrawn or released).

mod acquiring;
mod acquisition;
mod asking;
mod belonging;
mod changing;
mod closing;
mod closing_all;
mod driver;
mod effects;
mod event;
mod framing;
mod lease;
mod lease_cell;
mod pace;
mod renewing;
mod rotation;
mod spare;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use self::{acquisition::Acquisition, closing::Closing, pace::Jitter, spare::Spare};
pub use self::{
    driver::{Driver, Output, Told},
    effects::{Call, ChangeCall, Changed, CloseEnd, Effects, KEEP_ALIVE_ITEMS_MAX, Notice},
    event::{
        AcquireAnswer, AcquireOutcome, Answer, Change, ChangeAnswer, Event, GoneReason,
        KeepAliveAnswer, KeepAliveState, Pushed, PushedKind,
    },
    framing::take_message,
    lease_cell::{GuardState, LeaseCell, Watchers},
    rotation::{Rotation, patience},
};
use crate::{
    cluster::ClusterMismatch,
    failure::{Down, Failure, Verdict},
    ids::{AcquisitionId, Seq},
    request::Request,
};

/// An attempt whose answer has not come for so long will not be answered: no server handles a
/// request that is older than 30 s (D5).
const ATTEMPT_KEPT_FOR: Duration = Duration::from_secs(60);

/// The longest time that a silent connection is given.
const PATIENCE_MAX: Duration = Duration::from_secs(10);

/// A gateway that answers nothing but that it cannot help is given so long before another is tried:
/// most elections are over by then.
const HELPLESS_FOR: Duration = Duration::from_secs(3);

/// Settings of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// How long a try is repeated while no server answers it.
    pub call_timeout: Duration,
    /// How many gateways there are to choose from.
    pub gateways_count: usize,
    /// Draws the jitter of back-off. Clients need different ones.
    pub jitter_seed: u64,
    /// Calls and acquisitions are numbered from the next on. Sessions that share a stream must never
    /// have the same numbers; otherwise it is 0.
    pub numbers_after: u64,
}

/// The state machine of one session. `handle(now, event, &mut effects)` is all there is to it.
///
/// Invariants:
/// - numbers (`Seq`) are never used twice: each sending of anything takes the next;
/// - a lease is renewed only by an answer that echoes a known attempt naming its acquisition, and
///   counts from the sending of that attempt;
/// - what is lost stays lost: no answer leads out of `Phase::Lost`, and a lapsed lease is lost
///   before an answer can renew it;
/// - a guard is handed out only while its lease, known from an answer, runs, and none once the
///   endpoints have turned out to belong to two clusters;
/// - attempts by way of the spare connection are there only while it is up, and are KeepAlives,
///   Releases and Cancels;
/// - an id is in at most one of `open` and `closing`, and `timers` holds at most one entry of it,
///   not later than the id's next duty.
#[derive(Debug)]
pub struct SessionCore {
    config: SessionConfig,
    /// Calls may be sent. While not, they only become due.
    connected: bool,
    /// Why there is no connection.
    why_down: Down,
    /// When the servers last answered or pushed anything, or the connection was made.
    last_heard: Duration,
    /// Connections that were left one after the other because nothing came back on them.
    silent_reconnects: u32,
    /// When a leader's answer last came over the main connection.
    main_served: Duration,
    /// Since when all answers over it have been that the gateway cannot help, and the last of them.
    helpless: Option<(Duration, Duration)>,
    /// Connections that were left one after the other for that.
    helpless_moves: u32,
    spare: Spare,
    /// Why nothing is asked for any more.
    refused: Option<ClusterMismatch>,
    /// Number of the next call.
    next_seq: Seq,
    /// The newest acquisition.
    newest: AcquisitionId,
    /// Calls without an answer, by number, hence by time of sending.
    attempts: BTreeMap<Seq, Attempt>,
    open: BTreeMap<AcquisitionId, Acquisition>,
    closing: BTreeMap<AcquisitionId, Closing>,
    /// When to look at which acquisition again; may be earlier than needed.
    timers: BTreeSet<(Duration, AcquisitionId)>,
    jitter: Jitter,
}

/// By which connection something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Via {
    Main,
    Spare,
}

/// One call that was sent.
#[derive(Debug)]
struct Attempt {
    sent: Duration,
    via: Via,
    asked: Asked,
}

/// A known attempt that an answer echoed: the only thing that renews a lease.
#[derive(Clone, Copy, Debug)]
struct Echo {
    seq: Seq,
    sent: Duration,
}

/// The acquisitions that a call named.
#[derive(Debug)]
enum Asked {
    Acquire {
        id: AcquisitionId,
        /// Knows the lock's name when a grant comes after the acquisition is forgotten.
        request: Arc<Request>,
    },
    /// A Release or a Cancel.
    Close { id: AcquisitionId },
    /// A change of its hold.
    Change { id: AcquisitionId },
    /// The holders, for the lock. Nothing depends on the answer.
    Holders,
    KeepAlive {
        /// In order.
        ids: Vec<AcquisitionId>,
        /// Items without an answer.
        unanswered_count: usize,
    },
}

impl SessionCore {
    /// A session without acquisitions or connection.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            config,
            connected: false,
            why_down: Down::silent("no connection yet"),
            last_heard: Duration::ZERO,
            silent_reconnects: 0,
            main_served: Duration::ZERO,
            helpless: None,
            helpless_moves: 0,
            spare: Spare::default(),
            refused: None,
            next_seq: Seq(config.numbers_after + 1),
            newest: AcquisitionId(config.numbers_after),
            attempts: BTreeMap::new(),
            open: BTreeMap::new(),
            closing: BTreeMap::new(),
            timers: BTreeSet::new(),
            jitter: Jitter::new(config.jitter_seed),
        }
    }

    /// Takes one event at `now`, a reading of the client's clock that never falls.
    pub fn handle(&mut self, now: Duration, event: Event, effects: &mut Effects) {
        match event {
            Event::Connected => self.connected(now, effects),
            Event::Disconnected { why } => {
                self.disconnected(why);
                if self.spare_is_up() {
                    self.move_to_spare(now, effects);
                }
            }
            Event::SpareConnected => self.spare_connected(now, effects),
            Event::SpareLost => self.spare_lost(),
            Event::Refused { mismatch, keeps_guards } => {
                self.two_clusters(now, mismatch, keeps_guards, effects);
            }
            Event::Nowhere { mismatch } => self.nowhere(now, &mismatch, effects),
            Event::Acquire { id, request } => self.acquire(now, id, request, effects),
            Event::Close { id } => self.close(now, id, effects),
            Event::LapsedAtUse { id } => self.lapsed_at_use(id, effects),
            Event::Change { id, number, change } => self.change(now, id, number, change, effects),
            Event::Answered { seq, answer } => {
                let via = self.attempts.get(&seq).map_or(Via::Main, |attempt| attempt.via);
                self.heard_by(now, via);
                self.answered(now, seq, answer, effects);
            }
            Event::Pushed(pushed) => {
                // It may have come by either way: then it proves nothing of this one.
                if !self.spare_is_up() {
                    self.heard(now);
                }
                self.pushed(now, pushed, effects);
            }
            Event::Tick => self.tick(now, effects),
        }
    }

    /// When the next `Tick` is needed; earlier ones do no harm.
    pub fn next_due(&self) -> Option<Duration> {
        let timer = self.timers.first().map(|(due, _)| *due);
        timer.into_iter().chain(self.spare.due()).min()
    }

    /// How long a gateway that is dialled may say nothing before another is tried beside it: those
    /// who wait for an answer may have little time.
    pub fn patience(&self) -> Duration {
        let asking = self.open.values().filter(|acquisition| acquisition.is_asking());
        patience(asking.filter_map(|acquisition| acquisition.give_up_after).min())
    }

    /// Acquisitions that are not over, given back or not.
    pub fn acquisitions_count(&self) -> usize {
        self.open.len() + self.closing.len()
    }

    fn answered(&mut self, now: Duration, seq: Seq, answer: Answer, effects: &mut Effects) {
        let serves = match &answer {
            Answer::Failed(failure) => failure.verdict() == Verdict::Refused,
            _ => true,
        };
        if serves {
            self.served(now, seq, effects);
        }
        match answer {
            Answer::Acquire(answer) => self.acquire_answered(now, seq, answer, effects),
            Answer::KeepAlive(answers) => self.keep_alive_answered(now, seq, answers, effects),
            Answer::Released { gone } => self.release_answered(seq, gone, effects),
            Answer::Cancelled => self.cancel_answered(seq, effects),
            Answer::Changed(answer) => self.change_answered(now, seq, answer, effects),
            Answer::Asked { .. } => drop(self.attempts.remove(&seq)),
            Answer::Failed(failure) => self.failed(now, seq, failure, effects),
        }
    }

    fn failed(&mut self, now: Duration, seq: Seq, failure: Failure, effects: &mut Effects) {
        let Some(attempt) = self.attempts.remove(&seq) else { return };
        // An overloaded gateway is no worse than the others will be if all turn to them.
        let cannot_help = attempt.via == Via::Main
            && failure.verdict() != Verdict::Refused
            && failure.reason != "OVERLOADED";
        match attempt.asked {
            Asked::Acquire { id, .. } => self.acquire_failed(now, id, failure, effects),
            Asked::Close { id } => self.close_failed(now, id, &failure, effects),
            Asked::Change { id } => self.change_failed(now, seq, id, failure, effects),
            // It goes again with the next keepalive.
            Asked::Holders => {}
            Asked::KeepAlive { ids, .. } => self.keep_alive_failed(now, &ids, &failure),
        }
        if cannot_help {
            self.cannot_help(now, effects);
        }
    }

    /// A gateway that answers only that it cannot help is left when there is another, which may know
    /// more; when others were no better, the range has no leader, and each is given ever more time.
    fn cannot_help(&mut self, now: Duration, effects: &mut Effects) {
        // Repetitions follow within a second, so an older failure belongs to a story that is over.
        let goes_on = |(_, last): &(Duration, Duration)| *last + HELPLESS_FOR > now;
        let since = self.helpless.filter(goes_on).map_or(now, |(since, _)| since);
        self.helpless = Some((since, now));
        let doubled = HELPLESS_FOR.saturating_mul(1 << self.helpless_moves.min(8));
        if self.config.gateways_count > 1 && since + doubled <= now {
            self.helpless_moves += 1;
            self.reconnect(now, effects);
        }
    }

    /// After a stream is lost everything is named again: calls that were under way may never have
    /// arrived, and the new gateway knows nobody.
    fn connected(&mut self, now: Duration, effects: &mut Effects) {
        assert!(!self.connected, "the connection must be reported lost before another is made");
        self.connected = true;
        self.last_heard = now;
        self.helpless = None;
        let asking =
            self.ids_where(|acquisition| acquisition.is_asking() || acquisition.needs_acquire());
        for id in asking {
            self.send_acquire(now, id, effects);
        }
        for acquisition in self.open.values_mut().filter(|kept| kept.is_kept_alive()) {
            acquisition.next_call = now;
        }
        self.send_keep_alives(now, effects);
        for id in self.ids_where(|acquisition| !acquisition.changes.is_empty()) {
            self.send_change_anew(now, id, effects);
        }
        let closing: Vec<_> = self.closing.keys().copied().collect();
        for id in closing {
            self.send_close(now, id, effects);
        }
        self.arm_all();
    }

    fn disconnected(&mut self, why: Down) {
        self.connected = false;
        self.why_down = why;
        // Their answers can only come on the streams that are gone.
        self.attempts.retain(|_, attempt| attempt.via == Via::Spare);
        for acquisition in self.open.values_mut() {
            acquisition.attempts_lost();
        }
        for closing in self.closing.values_mut() {
            closing.asked_since = None;
        }
    }

    fn tick(&mut self, now: Duration, effects: &mut Effects) {
        self.wake_spare(now, effects);
        let later = self.timers.split_off(&(now + Duration::from_nanos(1), AcquisitionId(0)));
        for (_, id) in std::mem::replace(&mut self.timers, later) {
            if let Some(acquisition) = self.open.get_mut(&id) {
                acquisition.armed = None;
                self.wake_open(now, id, effects);
            } else if let Some(closing) = self.closing.get_mut(&id) {
                closing.armed = None;
                self.wake_closing(now, id, effects);
            }
            self.arm(id);
        }
        while let Some(oldest) = self.attempts.first_entry() {
            if oldest.get().sent + ATTEMPT_KEPT_FOR > now {
                break;
            }
            oldest.remove();
        }
    }

    fn wake_open(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        self.check_lease(now, id, effects);
        let Some(acquisition) = self.open.get(&id) else { return };
        if acquisition.deadline().is_some_and(|deadline| deadline <= now) {
            self.give_up(now, id, effects);
            return;
        }
        if !self.connected {
            return;
        }
        self.check_gateway(now, id, effects);
        self.wake_change(now, id, effects);
        let Some(acquisition) = self.open.get(&id) else { return };
        if !self.connected || !acquisition.wants_call(now) {
            return;
        }
        if self.is_stalled(now, acquisition.asked_since, acquisition.lease.call_interval()) {
            self.reconnect(now, effects);
        } else if acquisition.needs_acquire() {
            self.send_acquire(now, id, effects);
        } else {
            self.send_keep_alives(now, effects);
        }
    }

    /// Somebody with a time-out waits, and nothing at all has come back. The range may be slow, and
    /// then its answer is on its way; or the gateway is dead, and there is another.
    fn check_gateway(&mut self, now: Duration, id: AcquisitionId, effects: &mut Effects) {
        let Some(acquisition) = self.open.get_mut(&id) else { return };
        if acquisition.check_at.is_none_or(|at| at > now) {
            return;
        }
        acquisition.check_at = None;
        let unheard = acquisition.asked_since.is_some_and(|since| self.last_heard <= since);
        effects.check |= unheard && self.config.gateways_count > 1;
    }

    fn heard(&mut self, now: Duration) {
        self.last_heard = now;
        self.silent_reconnects = 0;
    }

    /// Nothing at all has come back for an interval although something was asked: the answer to
    /// repeating it on the same connection would be the same. When other connections were no
    /// better, the servers are slow, and to leave drops the answer that is on its way: then each
    /// gets twice the time of the one before.
    fn is_stalled(&self, now: Duration, asked_since: Option<Duration>, interval: Duration) -> bool {
        let doubled = interval.saturating_mul(1 << self.silent_reconnects.min(8));
        let interval = interval.max(doubled.min(PATIENCE_MAX));
        asked_since.is_some_and(|since| since + interval <= now)
            && self.last_heard + interval <= now
    }

    fn reconnect(&mut self, now: Duration, effects: &mut Effects) {
        if self.spare_is_up() {
            return self.move_to_spare(now, effects);
        }
        self.silent_reconnects += 1;
        effects.reconnect = true;
        self.disconnected(Down::silent("the connection answered nothing"));
    }

    /// The open acquisitions of which something is true.
    fn ids_where(&self, which: impl Fn(&Acquisition) -> bool) -> Vec<AcquisitionId> {
        let those = self.open.iter().filter(|(_, acquisition)| which(acquisition));
        those.map(|(id, _)| *id).collect()
    }

    /// The number of the last call.
    pub fn last_seq(&self) -> Seq {
        Seq(self.next_seq.0 - 1)
    }

    fn take_seq(&mut self) -> Seq {
        let seq = self.next_seq;
        self.next_seq = Seq(seq.0 + 1);
        seq
    }

    /// The attempt that an answer echoes, if it is known and named this acquisition.
    fn echo(&self, seq: Seq, id: AcquisitionId) -> Option<Echo> {
        let attempt = self.attempts.get(&seq)?;
        let named = match &attempt.asked {
            Asked::Acquire { id: asked, .. } => *asked == id,
            Asked::Close { .. } | Asked::Change { .. } | Asked::Holders => false,
            Asked::KeepAlive { ids, .. } => ids.binary_search(&id).is_ok(),
        };
        named.then_some(Echo { seq, sent: attempt.sent })
    }

    /// How long to wait before a failed call is repeated.
    fn pause_after(&mut self, failure: &Failure, failures_count: u32) -> Duration {
        assert!(failure.verdict() != Verdict::Refused, "what is refused is not repeated");
        self.jitter.pause(failures_count).max(failure.retry_after)
    }

    /// Makes sure that the acquisition is looked at when its next duty is due.
    fn arm(&mut self, id: AcquisitionId) {
        let (due, armed) = if let Some(acquisition) = self.open.get_mut(&id) {
            (acquisition.due(self.connected), &mut acquisition.armed)
        } else if let Some(closing) = self.closing.get_mut(&id) {
            (Some(closing.due(self.connected)), &mut closing.armed)
        } else {
            return;
        };
        let Some(due) = due else { return };
        // A timer that fires too early finds nothing to do: cheaper than moving it at every call.
        if armed.is_some_and(|armed| armed <= due) {
            return;
        }
        if let Some(armed) = armed.replace(due) {
            self.timers.remove(&(armed, id));
        }
        self.timers.insert((due, id));
    }

    fn arm_all(&mut self) {
        let ids: Vec<_> = self.open.keys().chain(self.closing.keys()).copied().collect();
        for id in ids {
            self.arm(id);
        }
    }

    fn disarm(&mut self, id: AcquisitionId, armed: Option<Duration>) {
        if let Some(armed) = armed {
            self.timers.remove(&(armed, id));
        }
    }
}
