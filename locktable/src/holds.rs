//! The seats of one lock: its live holds in the order of their tokens, the places of ended ones that
//! a lock-delay keeps taken, and whether one more fits beside them.

use std::collections::BTreeMap;

use crate::{DelayRow, HoldRow, Mode, Token, dirty::RowState, hash::Digest};

/// The kind of a live lock: all its holders and waiters agree on it (D8).
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
    pub(crate) row_state: RowState,
}

/// The place of an ended hold with its part of the state hash.
#[derive(Debug)]
pub(crate) struct Delay {
    pub(crate) row: DelayRow,
    pub(crate) digest: Digest,
}

/// Invariants:
/// - tokens of holds ascend strictly, and no token is that of a hold and of a delay;
/// - all seats are of one kind;
/// - an exclusive seat is alone (S1);
/// - `permits_used` is the sum of the permits of all seats, and no more than the lock has (S1).
#[derive(Debug, Default)]
pub(crate) struct Holds {
    // Nearly every lock has one hold, some have thousands of sharers: boxes keep the first small
    // and removal from the second cheap.
    #[expect(clippy::vec_box, reason = "removal moves pointers and not holds of 250 bytes")]
    by_token: Vec<Box<Hold>>,
    // Few locks have any. Never empty.
    delays: Option<Box<Delays>>,
    permits_used: u64,
}

/// They begin and end in any order, thousands of them where a lock has as many sharers.
type Delays = BTreeMap<Token, Delay>;

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

    /// Their rows stay as they are.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Hold> {
        self.by_token.iter_mut().map(Box::as_mut)
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

    /// By token.
    pub(crate) fn delays(&self) -> impl Iterator<Item = &Delay> {
        self.delays.iter().flat_map(|delays| delays.values())
    }

    pub(crate) fn delay(&self, token: Token) -> Option<&Delay> {
        self.delays.as_ref()?.get(&token)
    }

    pub(crate) fn delays_len(&self) -> usize {
        self.delays.as_ref().map_or(0, |delays| delays.len())
    }

    /// How many seats are taken.
    pub(crate) fn seats_taken(&self) -> usize {
        self.len() + self.delays_len()
    }

    /// Whether no seat is taken.
    pub(crate) fn is_vacant(&self) -> bool {
        self.by_token.is_empty() && self.delays.is_none()
    }

    /// How a seat is taken, if one is. All seats are of the kind of this one.
    pub(crate) fn some_mode(&self) -> Option<Mode> {
        let delayed = || self.delays().next().map(|delay| delay.row.mode);
        self.first().map(|hold| hold.row.mode).or_else(delayed)
    }

    /// Whether a grant in this mode fits beside what is taken, and there is a seat for it.
    pub(crate) fn admit(&self, mode: Mode, seats_max: usize) -> bool {
        self.fits(mode) && self.seats_taken() < seats_max
    }

    /// Whether a grant in this mode fits beside what is taken, however much that is.
    pub(crate) fn fits(&self, mode: Mode) -> bool {
        let Some(taken) = self.some_mode() else { return mode.is_grantable() };
        match (taken, mode) {
            (Mode::Shared, Mode::Shared) => true,
            (Mode::Permits { of, .. }, Mode::Permits { n, of: of_wanted }) => {
                of == of_wanted && self.permits_used + u64::from(n) <= u64::from(of)
            }
            _ => false,
        }
    }

    /// Adds a hold that fits and has the largest token so far. Panics on any other: a wrong lock is
    /// worse than a stopped store.
    pub(crate) fn push(&mut self, hold: Hold) {
        assert!(self.fits(hold.row.mode), "a hold that does not fit: {hold:?} beside {self:?}");
        let last = self.by_token.last().map(|last| last.row.token);
        assert!(last < Some(hold.row.token), "token {} after {last:?}", hold.row.token);
        self.permits_used += hold.row.mode.permits();
        if self.by_token.is_empty() {
            // Nearly always there will be no second.
            self.by_token.reserve_exact(1);
        }
        self.by_token.push(Box::new(hold));
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Hold> {
        let index = self.find(token)?;
        let hold = self.by_token.remove(index);
        self.permits_used -= hold.row.mode.permits();
        Some(*hold)
    }

    /// Adds a delay, which must fit as a hold would.
    pub(crate) fn push_delay(&mut self, delay: Delay) {
        assert!(self.fits(delay.row.mode), "a delay that does not fit: {delay:?} in {self:?}");
        self.permits_used += delay.row.mode.permits();
        let twin = self.delays.get_or_insert_default().insert(delay.row.token, delay);
        assert!(twin.is_none(), "two delays of one hold: {twin:?} in {self:?}");
    }

    pub(crate) fn remove_delay(&mut self, token: Token) -> Option<Delay> {
        let delay = self.delays.as_mut()?.remove(&token)?;
        self.delays.take_if(|delays| delays.is_empty());
        self.permits_used -= delay.row.mode.permits();
        Some(delay)
    }

    fn find(&self, token: Token) -> Option<usize> {
        self.by_token.binary_search_by_key(&token, |hold| hold.row.token).ok()
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        assert!(self.iter().map(|hold| hold.row.token).is_sorted_by(|a, b| a < b));
        assert!(self.delays.as_ref().is_none_or(|delays| !delays.is_empty()));
        let mut delays = self.delays.iter().flat_map(|delays| delays.iter());
        assert!(delays.all(|(token, delay)| *token == delay.row.token));
        assert!(self.delays().all(|delay| self.get(delay.row.token).is_none()));
        let held = self.iter().map(|hold| hold.row.mode);
        let modes: Vec<_> = held.chain(self.delays().map(|delay| delay.row.mode)).collect();
        assert_eq!(self.permits_used, modes.iter().map(|mode| mode.permits()).sum());
        let Some(&first) = modes.first() else { return };
        assert!(modes.iter().all(|mode| mode.kind() == first.kind()));
        match first {
            Mode::Exclusive => assert_eq!(modes.len(), 1, "exclusive with others: {self:?}"),
            Mode::Shared => assert!(modes.iter().all(|&mode| mode == Mode::Shared)),
            Mode::Permits { of, .. } => assert!(self.permits_used <= u64::from(of)),
        }
    }
}
