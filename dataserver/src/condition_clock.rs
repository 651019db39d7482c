//! The times that conditions set (D9): lock-delays, longest holds, graces. Part of the lease clock,
//! and like it a core. A new leader begins each of them anew and in full, so that none is ever over
//! too early; apply decides whether what was proposed is still true.

use std::time::Duration;

use sharklock_locktable::{Agreement, Command, Name, TimeUp, Timed, Token};

use crate::{alarms::Alarms, lease_clock::with_drift};

/// The subject of a time.
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
    name: Name,
    /// Of the condition that set it.
    revision: u64,
}

/// Times of one range that run, while its replica leads.
///
/// Invariants:
/// - what has been proposed is here no more: it is proposed once.
#[derive(Debug, Default)]
pub struct ConditionClock {
    times: Alarms<TimeKey, Time>,
}

impl ConditionClock {
    /// Begins a time of `ms` milliseconds of true time, in place of one that runs.
    pub fn begin(&mut self, now: Duration, key: TimeKey, name: Name, ms: u64, revision: u64) {
        let over = now + with_drift(Duration::from_millis(ms));
        self.times.set(key, over, Time { name, revision });
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
        self.times.remove(key);
    }

    /// Ends the times of a hold.
    pub fn stop_hold(&mut self, token: Token) {
        self.stop(TimeKey::MaxHold(token));
        self.stop(TimeKey::AskGrace(token));
    }

    /// Ends the times of names that have left the range.
    pub fn stop_those_of(&mut self, is_gone: impl Fn(&Name) -> bool) {
        self.times.retain(|_, time| !is_gone(&time.name));
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
        if !self.times.contains(key) {
            self.begin(now, key, name.clone(), 0, revision);
        }
    }

    /// The times of a hold go on under another token.
    pub fn rename_hold(&mut self, before: Token, after: Token) {
        for key in [TimeKey::MaxHold, TimeKey::AskGrace] {
            self.times.rename(key(before), key(after));
        }
    }

    /// The commands whose time has come, at most so many.
    pub fn due(&mut self, now: Duration, term: u64, commands_max: usize) -> Vec<Command> {
        let mut commands = Vec::new();
        while commands.len() < commands_max
            && let Some((key, Time { name, revision })) = self.times.pop(now)
        {
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
        self.times.next()
    }

    /// Upper bound of what is left.
    pub fn remaining(&self, now: Duration, key: TimeKey) -> Option<Duration> {
        Some(self.times.at(key)?.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests;
