//! The times that conditions set (D9): lock-delays, longest holds, graces. Part of the lease clock,
//! and like it a core. A new leader begins each of them anew and in full, so that none is ever over
//! too early; apply decides whether what was proposed is still true.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_locktable::{Agreement, Command, Name, TimeUp, Timed, Token};

use crate::lease_clock::with_drift;

/// What a time is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeKey {
    /// The place of an ended hold stays taken.
    LockDelay(Token),
    /// The longest that this hold may last.
    MaxHold(Token),
    /// A waiter has asked for this hold's lock.
    AskGrace(Token),
}

#[derive(Clone, Debug)]
struct Time {
    over: Duration,
    name: Name,
    /// Of the condition that set it.
    revision: u64,
}

/// Times of one range that run, while its replica leads.
///
/// Invariants:
/// - `(over, key)` is in `alarms` exactly for the times in `times`;
/// - what has been proposed is here no more: it is proposed once.
#[derive(Debug, Default)]
pub struct ConditionClock {
    times: BTreeMap<TimeKey, Time>,
    alarms: BTreeSet<(Duration, TimeKey)>,
}

impl ConditionClock {
    /// Begins a time of `ms` milliseconds of true time, in place of one that runs.
    pub fn begin(&mut self, now: Duration, key: TimeKey, name: Name, ms: u64, revision: u64) {
        self.stop(key);
        let over = now + with_drift(Duration::from_millis(ms));
        self.alarms.insert((over, key));
        self.times.insert(key, Time { over, name, revision });
    }

    /// Begins what is agreed about a hold, in place of what was.
    pub fn agree(
        &mut self,
        now: Duration,
        name: &Name,
        token: Token,
        agreement: &Agreement,
        asked: bool,
    ) {
        self.stop_hold(token);
        let Agreement { condition, revision, .. } = *agreement;
        if let Some(ms) = condition.max_hold_ms {
            self.begin(now, TimeKey::MaxHold(token), name.clone(), ms, revision);
        }
        if let Some(ms) = condition.ask_grace_ms.filter(|_| asked) {
            self.begin(now, TimeKey::AskGrace(token), name.clone(), ms, revision);
        }
    }

    /// Ends a time without a word.
    pub fn stop(&mut self, key: TimeKey) {
        if let Some(Time { over, .. }) = self.times.remove(&key) {
            self.alarms.remove(&(over, key));
        }
    }

    /// Ends the times of a hold.
    pub fn stop_hold(&mut self, token: Token) {
        self.stop(TimeKey::MaxHold(token));
        self.stop(TimeKey::AskGrace(token));
    }

    /// Ends the times of names that have left the range.
    pub fn stop_those_of(&mut self, is_gone: impl Fn(&Name) -> bool) {
        let gone: Vec<_> = self
            .times
            .iter()
            .filter(|(_, time)| is_gone(&time.name))
            .map(|(key, _)| *key)
            .collect();
        gone.into_iter().for_each(|key| self.stop(key));
    }

    /// A time was over, and what was proposed of it was not applied: it is over still, unless another
    /// runs in its place.
    pub fn again(&mut self, now: Duration, time_up: &TimeUp) {
        let TimeUp { name, token, what, .. } = time_up;
        let (key, revision) = match *what {
            Timed::LockDelay => (TimeKey::LockDelay(*token), 0),
            Timed::MaxHold { revision } => (TimeKey::MaxHold(*token), revision),
            Timed::AskGrace { revision } => (TimeKey::AskGrace(*token), revision),
        };
        if !self.times.contains_key(&key) {
            self.begin(now, key, name.clone(), 0, revision);
        }
    }

    /// The times of a hold go on under another token.
    pub fn rename_hold(&mut self, before: Token, after: Token) {
        for key in [TimeKey::MaxHold, TimeKey::AskGrace] {
            let Some(time) = self.times.remove(&key(before)) else { continue };
            self.alarms.remove(&(time.over, key(before)));
            self.alarms.insert((time.over, key(after)));
            self.times.insert(key(after), time);
        }
    }

    /// The commands whose time has come, at most so many.
    pub fn due(&mut self, now: Duration, term: u64, commands_max: usize) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(&(over, key)) = self.alarms.first()
            && over <= now
            && commands.len() < commands_max
        {
            let time = self.times.remove(&key).expect("an alarm has its time");
            self.alarms.pop_first();
            let Time { name, revision, .. } = time;
            let (token, what) = match key {
                TimeKey::LockDelay(token) => (token, Timed::LockDelay),
                TimeKey::MaxHold(token) => (token, Timed::MaxHold { revision }),
                TimeKey::AskGrace(token) => (token, Timed::AskGrace { revision }),
            };
            commands.push(Command::TimeUp(TimeUp { name, token, what, proposer_term: term }));
        }
        commands
    }

    /// When the next time is over.
    pub fn next_alarm(&self) -> Option<Duration> {
        self.alarms.first().map(|&(over, _)| over)
    }

    /// Upper bound of what is left.
    pub fn remaining(&self, now: Duration, key: TimeKey) -> Option<Duration> {
        Some(self.times.get(&key)?.over.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::{Change, Condition, Lease};

    use super::*;
    use crate::lease_clock::LeaseClock;

    const TERM: u64 = 7;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn clock() -> LeaseClock {
        LeaseClock::inheriting(at(0), TERM, at(2_000), vec![])
    }

    fn time_up(token: u64, what: Timed) -> Command {
        let (name, token) = ("a".into(), Token(token));
        Command::TimeUp(TimeUp { name, token, what, proposer_term: TERM })
    }

    fn agreement(revision: u64) -> Agreement {
        let condition = Condition {
            max_hold_ms: Some(60_000),
            ask_grace_ms: Some(5_000),
            ..Condition::default()
        };
        Agreement { condition, revision, claimed: false, ttl_ms: 10_000 }
    }

    fn set(revision: u64, asked: bool) -> Change {
        let (token, name) = (Token(5), "a".into());
        Change::ConditionSet { token, name, agreement: agreement(revision), asked }
    }

    fn asked(revision: u64) -> Change {
        let acquisitions = vec![];
        let (token, name, grace_ms) = (Token(5), "a".into(), 5_000);
        Change::Asked { token, name, acquisitions, grace_ms, revision }
    }

    #[test]
    fn a_lock_delay_is_never_over_too_early() {
        let mut clock = clock();
        let began = Change::DelayBegan { token: Token(5), name: "a".into(), delay_ms: 15_000 };
        clock.observe(at(1_000), &began);
        assert_eq!(clock.next_alarm(), Some(at(16_150)));
        assert_eq!(clock.delay_left(at(6_150), Token(5), 15_000), Some(at(10_000)));
        assert_eq!(clock.due(at(16_149)), vec![]);
        assert_eq!(clock.due(at(16_150)), vec![time_up(5, Timed::LockDelay)]);
        assert_eq!(clock.due(at(99_999)), vec![], "it is proposed once");
    }

    #[test]
    fn a_new_leader_begins_every_time_anew_and_in_full() {
        let delay = Lease::Delay { name: "a".into(), token: Token(5), delay_ms: 15_000 };
        let hold = Lease::Hold {
            name: "b".into(),
            token: Token(6),
            ttl_ms: 600_000,
            newest: sharklock_locktable::AcquisitionId(1),
            acquisitions: vec![],
            ending: false,
            agreement: agreement(3),
            asked: true,
        };
        let mut clock = LeaseClock::inheriting(at(100_000), TERM, at(2_000), vec![delay, hold]);
        let of_hold = |what| {
            let (name, token) = ("b".into(), Token(6));
            Command::TimeUp(TimeUp { name, token, what, proposer_term: TERM })
        };
        assert_eq!(clock.due(at(105_049)), vec![]);
        assert_eq!(clock.due(at(105_050)), vec![of_hold(Timed::AskGrace { revision: 3 })]);
        assert_eq!(clock.due(at(115_150)), vec![time_up(5, Timed::LockDelay)]);
        assert_eq!(clock.due(at(160_600)), vec![of_hold(Timed::MaxHold { revision: 3 })]);
    }

    #[test]
    fn a_new_condition_begins_its_times_anew() {
        let mut clock = clock();
        clock.observe(at(0), &set(1, false));
        clock.observe(at(1_000), &asked(1));
        assert_eq!(clock.next_alarm(), Some(at(6_050)));
        clock.observe(at(5_000), &set(2, true));
        let grace = Timed::AskGrace { revision: 2 };
        assert_eq!(clock.due(at(10_049)), vec![]);
        assert_eq!(clock.due(at(10_050)), vec![time_up(5, grace)]);
        assert_eq!(clock.due(at(65_600)), vec![time_up(5, Timed::MaxHold { revision: 2 })]);
    }

    #[test]
    fn the_times_of_a_hold_go_on_under_another_token() {
        let mut clock = ConditionClock::default();
        clock.agree(at(0), &"a".into(), Token(5), &agreement(0), true);
        clock.rename_hold(Token(5), Token(9));
        let grace = Timed::AskGrace { revision: 0 };
        assert_eq!(clock.due(at(5_050), TERM, 9), vec![time_up(9, grace)]);
        clock.stop_hold(Token(9));
        assert_eq!(clock.next_alarm(), None);
    }

    #[test]
    fn an_ending_hold_has_no_other_time_than_its_lease() {
        let mut clock = clock();
        clock.observe(at(0), &set(1, true));
        let ending = Change::EndingBegan {
            token: Token(5),
            name: "a".into(),
            ttl_ms: 10_000,
            acquisitions: vec![],
            reason: "stuck".into(),
        };
        clock.observe(at(1), &ending);
        assert_eq!(clock.next_alarm(), None);
    }
}
