//! The live holds of one lock in the order of their tokens, and whether one more fits beside them.

use crate::{HoldRow, Mode, Token, hash::Digest};

/// What a live lock is: all its holders and waiters agree on it (D8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Exclusive and shared.
    ReadWrite,
    /// Permits, so many in all.
    Permits { of: u32 },
}

impl Mode {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Mode::Exclusive | Mode::Shared => Kind::ReadWrite,
            Mode::Permits { of, .. } => Kind::Permits { of },
        }
    }

    /// Whether a free lock could grant it at all.
    pub(crate) fn is_grantable(self) -> bool {
        match self {
            Mode::Exclusive | Mode::Shared => true,
            Mode::Permits { n, of } => (1..=of).contains(&n),
        }
    }

    fn permits(self) -> u64 {
        match self {
            Mode::Exclusive | Mode::Shared => 0,
            Mode::Permits { n, .. } => n.into(),
        }
    }
}

/// A hold with its part of the state hash.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) row: HoldRow,
    pub(crate) digest: Digest,
}

/// Invariants:
/// - tokens ascend strictly;
/// - all holds are of one kind;
/// - an exclusive hold is alone (S1);
/// - `permits_used` is the sum of the permits held, and no more than the lock has (S1).
#[derive(Debug, Default)]
pub(crate) struct Holds {
    // Nearly every lock has one hold, some have thousands of sharers: boxes keep the first small
    // and removal from the second cheap.
    #[expect(clippy::vec_box, reason = "removal moves pointers and not holds of 250 bytes")]
    by_token: Vec<Box<Hold>>,
    permits_used: u64,
}

impl Holds {
    pub(crate) fn len(&self) -> usize {
        self.by_token.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hold> {
        self.by_token.iter().map(Box::as_ref)
    }

    pub(crate) fn first(&self) -> Option<&Hold> {
        self.by_token.first().map(Box::as_ref)
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Hold> {
        self.find(token).map(|index| &*self.by_token[index])
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Hold> {
        self.find(token).map(|index| &mut *self.by_token[index])
    }

    /// Whether a grant in this mode fits beside what is held.
    pub(crate) fn admit(&self, mode: Mode) -> bool {
        let Some(first) = self.first() else { return mode.is_grantable() };
        match (first.row.mode, mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permits { of, .. }, Mode::Permits { n, of: of_wanted }) => {
                of == of_wanted && self.permits_used + u64::from(n) <= u64::from(of)
            }
            _ => false,
        }
    }

    /// Adds a hold that is admitted and has the largest token so far. Panics on any other: a wrong
    /// lock is worse than a stopped store.
    pub(crate) fn push(&mut self, hold: Hold) {
        assert!(self.admit(hold.row.mode), "a hold that does not fit: {hold:?} beside {self:?}");
        let last = self.by_token.last().map(|last| last.row.token);
        assert!(last < Some(hold.row.token), "token {} after {last:?}", hold.row.token);
        self.permits_used += hold.row.mode.permits();
        self.by_token.push(Box::new(hold));
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Hold> {
        let index = self.find(token)?;
        let hold = self.by_token.remove(index);
        self.permits_used -= hold.row.mode.permits();
        Some(*hold)
    }

    fn find(&self, token: Token) -> Option<usize> {
        self.by_token.binary_search_by_key(&token, |hold| hold.row.token).ok()
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        assert!(self.iter().map(|hold| hold.row.token).is_sorted_by(|a, b| a < b));
        assert_eq!(self.permits_used, self.iter().map(|hold| hold.row.mode.permits()).sum());
        let Some(first) = self.first() else { return };
        assert!(self.iter().all(|hold| hold.row.mode.kind() == first.row.mode.kind()));
        match first.row.mode {
            Mode::Exclusive => assert_eq!(self.len(), 1, "exclusive with others: {self:?}"),
            Mode::Shared => assert!(self.iter().all(|hold| hold.row.mode == Mode::Shared)),
            Mode::Permits { of, .. } => assert!(self.permits_used <= u64::from(of)),
        }
    }
}
