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

/// The number that sharers compare by (D11), with its part of the state hash.
#[derive(Debug)]
pub(crate) struct FenceFloor {
    pub(crate) token: Token,
    pub(crate) digest: Digest,
}

/// Nearly every lock is held by one alone: that hold stands in the lock itself, and whatever else
/// there can be at seats is behind a pointer.
///
/// Invariants:
/// - tokens of holds ascend strictly, and no token is that of a hold and of a delay;
/// - all seats are of one kind;
/// - an exclusive seat is alone (S1);
/// - `permits_used` is the sum of the permits of all seats, and no more than the lock has (S1);
/// - a crowd has something that neither a free lock nor a single hold has.
#[derive(Debug, Default)]
pub(crate) enum Holds {
    #[default]
    None,
    One(Hold),
    Many(Box<Crowd>),
}

/// The seats of a lock that sharers or permits hold, or lock-delays keep.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    // There may be thousands of sharers: boxes make removal cheap.
    #[expect(clippy::vec_box, reason = "removal moves pointers and not holds of 120 bytes")]
    by_token: Vec<Box<Hold>>,
    delays: Delays,
    permits_used: u64,
    fence_floor: Option<FenceFloor>,
}

/// They begin and end in any order, thousands of them where a lock has as many sharers.
type Delays = BTreeMap<Token, Delay>;

impl Crowd {
    fn push(&mut self, hold: Hold) {
        self.permits_used += hold.row.mode.permits();
        self.by_token.push(Box::new(hold));
    }

    fn find(&self, token: Token) -> Option<usize> {
        self.by_token.binary_search_by_key(&token, |hold| hold.row.token).ok()
    }

    fn is_empty(&self) -> bool {
        self.by_token.is_empty() && self.delays.is_empty() && self.fence_floor.is_none()
    }
}

impl Holds {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(crowd) => crowd.by_token.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hold> {
        let (one, many) = match self {
            Self::None => (None, &[][..]),
            Self::One(hold) => (Some(hold), &[][..]),
            Self::Many(crowd) => (None, &crowd.by_token[..]),
        };
        one.into_iter().chain(many.iter().map(Box::as_ref))
    }

    /// Their rows stay as they are.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Hold> {
        let (one, many) = match self {
            Self::None => (None, &mut [][..]),
            Self::One(hold) => (Some(hold), &mut [][..]),
            Self::Many(crowd) => (None, &mut crowd.by_token[..]),
        };
        one.into_iter().chain(many.iter_mut().map(Box::as_mut))
    }

    pub(crate) fn first(&self) -> Option<&Hold> {
        match self {
            Self::None => None,
            Self::One(hold) => Some(hold),
            Self::Many(crowd) => crowd.by_token.first().map(Box::as_ref),
        }
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Hold> {
        match self {
            Self::None => None,
            Self::One(hold) => (hold.row.token == token).then_some(hold),
            Self::Many(crowd) => crowd.find(token).map(|index| &*crowd.by_token[index]),
        }
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Hold> {
        match self {
            Self::None => None,
            Self::One(hold) => (hold.row.token == token).then_some(hold),
            Self::Many(crowd) => crowd.find(token).map(|index| &mut *crowd.by_token[index]),
        }
    }

    fn crowd(&self) -> Option<&Crowd> {
        match self {
            Self::None | Self::One(_) => None,
            Self::Many(crowd) => Some(crowd),
        }
    }

    /// By token.
    pub(crate) fn delays(&self) -> impl Iterator<Item = &Delay> {
        self.crowd().into_iter().flat_map(|crowd| crowd.delays.values())
    }

    pub(crate) fn delay(&self, token: Token) -> Option<&Delay> {
        self.crowd()?.delays.get(&token)
    }

    pub(crate) fn delays_len(&self) -> usize {
        self.crowd().map_or(0, |crowd| crowd.delays.len())
    }

    pub(crate) fn fence_floor(&self) -> Option<&FenceFloor> {
        self.crowd()?.fence_floor.as_ref()
    }

    /// How many seats are taken.
    pub(crate) fn seats_taken(&self) -> usize {
        self.len() + self.delays_len()
    }

    /// Whether no seat is taken.
    pub(crate) fn is_vacant(&self) -> bool {
        self.seats_taken() == 0
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
                of == of_wanted && self.permits_used() + u64::from(n) <= u64::from(of)
            }
            _ => false,
        }
    }

    fn permits_used(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::One(hold) => hold.row.mode.permits(),
            Self::Many(crowd) => crowd.permits_used,
        }
    }

    /// Adds a hold that fits and has the largest token so far. Panics on any other: a wrong lock is
    /// worse than a stopped store.
    pub(crate) fn push(&mut self, hold: Hold) {
        assert!(self.fits(hold.row.mode), "a hold that does not fit: {hold:?} beside {self:?}");
        let last = match self {
            Self::None => None,
            Self::One(only) => Some(only.row.token),
            Self::Many(crowd) => crowd.by_token.last().map(|last| last.row.token),
        };
        assert!(last < Some(hold.row.token), "token {} after {last:?}", hold.row.token);
        match self {
            Self::None => *self = Self::One(hold),
            Self::One(_) | Self::Many(_) => self.crowd_mut().push(hold),
        }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Hold> {
        if let Self::Many(crowd) = self {
            let hold = crowd.find(token).map(|index| *crowd.by_token.remove(index))?;
            crowd.permits_used -= hold.row.mode.permits();
            self.disperse();
            return Some(hold);
        }
        self.get(token)?;
        match std::mem::take(self) {
            Self::One(hold) => Some(hold),
            Self::None | Self::Many(_) => None,
        }
    }

    /// Adds a delay, which must fit as a hold would.
    pub(crate) fn push_delay(&mut self, delay: Delay) {
        assert!(self.fits(delay.row.mode), "a delay that does not fit: {delay:?} in {self:?}");
        let crowd = self.crowd_mut();
        crowd.permits_used += delay.row.mode.permits();
        let twin = crowd.delays.insert(delay.row.token, delay);
        assert!(twin.is_none(), "two delays of one hold: {twin:?} in {self:?}");
    }

    pub(crate) fn remove_delay(&mut self, token: Token) -> Option<Delay> {
        let Self::Many(crowd) = self else { return None };
        let delay = crowd.delays.remove(&token)?;
        crowd.permits_used -= delay.row.mode.permits();
        self.disperse();
        Some(delay)
    }

    pub(crate) fn set_fence_floor(&mut self, floor: FenceFloor) {
        self.crowd_mut().fence_floor = Some(floor);
    }

    pub(crate) fn take_fence_floor(&mut self) -> Option<FenceFloor> {
        let Self::Many(crowd) = self else { return None };
        let floor = crowd.fence_floor.take();
        self.disperse();
        floor
    }

    /// The crowd that these seats are from here on.
    fn crowd_mut(&mut self) -> &mut Crowd {
        if !matches!(self, Self::Many(_)) {
            let mut crowd = Box::<Crowd>::default();
            if let Self::One(hold) = std::mem::take(self) {
                crowd.push(hold);
            }
            *self = Self::Many(crowd);
        }
        match self {
            Self::Many(crowd) => crowd,
            Self::None | Self::One(_) => unreachable!("it has just become a crowd"),
        }
    }

    /// What is no crowd any more stands as if it had never been one.
    fn disperse(&mut self) {
        if self.crowd().is_some_and(Crowd::is_empty) {
            *self = Self::None;
        }
    }

    /// Panics where an invariant of this struct is broken.
    pub(crate) fn check_invariants(&self) {
        assert!(self.iter().map(|hold| hold.row.token).is_sorted_by(|a, b| a < b));
        assert!(self.crowd().is_none_or(|crowd| !crowd.is_empty()), "nobody: {self:?}");
        let mut delays = self.crowd().into_iter().flat_map(|crowd| &crowd.delays);
        assert!(delays.all(|(token, delay)| *token == delay.row.token));
        assert!(self.delays().all(|delay| self.get(delay.row.token).is_none()));
        let held = self.iter().map(|hold| hold.row.mode);
        let modes: Vec<_> = held.chain(self.delays().map(|delay| delay.row.mode)).collect();
        assert_eq!(self.permits_used(), modes.iter().map(|mode| mode.permits()).sum());
        let Some(&first) = modes.first() else { return };
        assert!(modes.iter().all(|mode| mode.kind() == first.kind()));
        match first {
            Mode::Exclusive => assert_eq!(modes.len(), 1, "exclusive with others: {self:?}"),
            Mode::Shared => assert!(modes.iter().all(|&mode| mode == Mode::Shared)),
            Mode::Permits { of, .. } => assert!(self.permits_used() <= u64::from(of)),
        }
    }
}
