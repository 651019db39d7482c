//! What the owner of a [`Store`] wants in one range's log: what waits to be proposed, what is in the
//! log, and who is to hear how each command ended.
//!
//! The log decides late, and sometimes about something else: an entry may be overtaken by another
//! leader's, and a leader that steps down does not know which of its entries will be committed. Here
//! is the one place that tells these apart, for data servers and masters.

use std::collections::VecDeque;

use sharklock_rangemap::RangeId;

use crate::effects::{NotProposed, Proposed};
use crate::state_machine::{EntryAt, StateMachine};
use crate::store::Store;

/// Commands `C`, each with its asker `A`, on their way into a range's log and through it.
///
/// Each asker that comes in goes out once: with what was taken out before it was proposed, with its
/// own entry, as overtaken, or at the step-down.
///
/// Invariants:
/// - `commands` and `askers` are equally long, and in the order in which they were asked;
/// - `entries` have growing indices, and terms that do not fall.
#[derive(Debug)]
pub struct Proposals<C, A> {
    /// Waiting for the next entry.
    commands: Vec<C>,
    /// The asker of each of `commands`.
    askers: Vec<A>,
    /// In the log, not applied.
    entries: VecDeque<Entry<A>>,
}

/// An entry on its way through the log.
#[derive(Debug)]
struct Entry<A> {
    /// Its place: in another term another entry may take it.
    at: Proposed,
    /// One per command of the entry, in order.
    askers: Vec<A>,
}

/// The askers to whom an applied entry matters.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched<A> {
    /// Of the entry itself, one per command, in order. Empty if it was proposed by somebody else.
    pub askers: Vec<A>,
    /// Of entries whose places others have taken: whether they will ever be applied is not known.
    pub overtaken: Vec<A>,
}

/// Whom a leader leaves behind that steps down.
#[derive(Debug, PartialEq, Eq)]
pub struct LeftBehind<A> {
    /// Their commands were not proposed: nothing of them will happen.
    pub not_proposed: Vec<A>,
    /// Their commands are in the log: nobody knows yet whether they will happen.
    pub in_log: Vec<A>,
}

impl<C, A> Default for Proposals<C, A> {
    fn default() -> Self {
        Self { commands: Vec::new(), askers: Vec::new(), entries: VecDeque::new() }
    }
}

impl<C, A> Proposals<C, A> {
    /// Queues a command for the next entry.
    pub fn ask(&mut self, command: C, asker: A) {
        self.commands.push(command);
        self.askers.push(asker);
    }

    /// The commands that wait for the next entry.
    pub fn waiting(&self) -> &[C] {
        &self.commands
    }

    /// The same, to be changed. What each is about must stay, for its asker.
    pub fn waiting_mut(&mut self) -> &mut [C] {
        &mut self.commands
    }

    /// Takes commands out that will not be proposed.
    pub fn take_out(&mut self, goes: impl Fn(&C, &A) -> bool) -> Vec<(C, A)> {
        let mut asked = self.commands.iter().zip(&self.askers);
        if !asked.any(|(command, asker)| goes(command, asker)) {
            return Vec::new();
        }
        let (commands, askers) = (self.commands.drain(..), self.askers.drain(..));
        let (gone, kept): (Vec<_>, Vec<_>) =
            commands.zip(askers).partition(|(command, asker)| goes(command, asker));
        (self.commands, self.askers) = kept.into_iter().unzip();
        gone
    }

    /// Everybody who waits for an outcome, whether proposed or not.
    pub fn askers(&self) -> impl Iterator<Item = &A> {
        self.askers.iter().chain(self.entries.iter().flat_map(|entry| &entry.askers))
    }

    /// Whether something that was proposed here is in the log and not applied.
    pub fn is_in_log(&self) -> bool {
        !self.entries.is_empty()
    }

    /// The place of what was proposed last and is not applied.
    pub fn newest_in_log(&self) -> Option<Proposed> {
        self.entries.back().map(|entry| entry.at)
    }

    /// Whether entries are in the log that are not applied.
    pub fn are_under_way(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Puts the first `count` waiting commands into the log, as `encode` makes one entry of them.
    /// Whether it did; if not, they wait on. What does not pass by itself ends with the step-down
    /// that comes with the next turn.
    pub fn propose<M: StateMachine>(
        &mut self,
        store: &mut Store<M>,
        range: RangeId,
        count: usize,
        encode: impl FnOnce(&[C]) -> Vec<u8>,
    ) -> bool {
        match store.propose(range, encode(&self.commands[..count])) {
            Ok(at) => {
                self.proposed(count, at);
                true
            }
            Err(NotProposed::Overloaded | NotProposed::NotReady) => false,
            Err(error) => {
                tracing::debug!(%range, why = %error, "not proposed");
                false
            }
        }
    }

    fn proposed(&mut self, count: usize, at: Proposed) {
        if let Some(Entry { at: before, .. }) = self.entries.back() {
            let follows = before.index < at.index && before.term <= at.term;
            assert!(follows, "{at:?} is proposed behind {before:?}, which no step-down has ended");
        }
        self.commands.drain(..count);
        self.entries.push_back(Entry { at, askers: self.askers.drain(..count).collect() });
    }

    /// The entry at this place was applied, whoever had proposed it.
    pub fn applied(&mut self, at: EntryAt) -> Matched<A> {
        let mut overtaken = Vec::new();
        while let Some(Entry { at: place, .. }) = self.entries.front() {
            let Proposed { index, term } = *place;
            if index > at.index {
                break;
            }
            let askers = self.entries.pop_front().expect("front() has just seen it").askers;
            if (index, term) == (at.index, at.term) {
                return Matched { askers, overtaken };
            }
            overtaken.extend(askers);
        }
        Matched { askers: Vec::new(), overtaken }
    }

    /// Forgets everything: this replica does not lead any more.
    pub fn step_down(&mut self) -> LeftBehind<A> {
        self.commands.clear();
        let not_proposed = std::mem::take(&mut self.askers);
        let in_log = self.entries.drain(..).flat_map(|entry| entry.askers).collect();
        LeftBehind { not_proposed, in_log }
    }
}

#[cfg(test)]
mod tests;
