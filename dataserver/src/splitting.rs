//! Whether a range is split, and where: the part of it that is pure, whoever wishes it. An operator
//! may name the place, or leave it to the range.

use std::fmt;

use sharklock_locktable::LockTable;
use sharklock_multiraft::{NotChanged, NotProposed};
use sharklock_proto::internal::v1::store_error::Kind;
use sharklock_rangemap::{Bounds, Epoch, RangeId, StoreId};

use crate::{triggers::Excess, wire};

/// Replicas that a store has at most, unless it is told otherwise. Each costs a few kilobytes and a row
/// in every heartbeat; whoever needs more has more stores.
pub const RANGES_MAX: usize = 2_000;

/// When a refusal that passes by itself is worth another try.
const RETRY_MS: u64 = 1_000;

/// The place of a split, and what it leaves on both sides: locks with a holder, a waiter or a running
/// lock-delay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// First name of the upper half.
    pub at: String,
    /// Why there.
    pub why: Why,
    /// Locks of the lower half.
    pub below: usize,
    /// Locks of the upper half.
    pub above: usize,
}

/// Why a range is split where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody has named the place.
    Told,
    /// It is to be split, and the place is its middle.
    Middle,
    /// It has too much of something, and so both halves get their share of that.
    TooMuch(Excess),
}

impl Cut {
    /// The place where a range of these bounds is split: where somebody wishes, or else so that both
    /// halves have as many locks, or nearly.
    ///
    /// # Errors
    /// One half would have no name, or there is nothing by which the range could choose.
    pub fn choose(
        table: &LockTable,
        bounds: &Bounds,
        told: Option<&str>,
    ) -> Result<Self, NotSplit> {
        let locks = table.counts().locks;
        let Some(at) = told else {
            let middle = table.middle().ok_or(NotSplit::TooFewNames { locks })?;
            let at = middle.as_str().to_owned();
            let below = locks / 2;
            return Ok(Self { at, why: Why::Middle, below, above: locks - below });
        };
        let is_bound = [&bounds.start, &bounds.end].contains(&&at.as_bytes().to_vec());
        if is_bound {
            return Err(NotSplit::AtBound);
        }
        if !bounds.contains(at.as_bytes()) {
            return Err(NotSplit::Outside);
        }
        let below = table.names_before(at);
        Ok(Self { at: at.to_owned(), why: Why::Told, below, above: locks - below })
    }
}

impl fmt::Display for Cut {
    /// Why there, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, below, above, .. } = self;
        match why {
            Why::Told => write!(f, "it was told so")?,
            Why::Middle => write!(f, "it is the middle of the range's locks")?,
            Why::TooMuch(excess) => write!(f, "{excess}")?,
        }
        write!(f, ": {below} locks are below it, {above} are not")
    }
}

/// Why a range is not split. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSplit {
    /// It is the first name of the range, or the first behind it.
    #[error(
        "the name is a bound of the range already, so one half would have no names: choose one that \
         lies between its bounds"
    )]
    AtBound,
    /// Another range has it.
    #[error("the name lies outside of the range: choose one that lies between its bounds")]
    Outside,
    /// A middle needs two names.
    #[error(
        "the range has {locks} locks at the moment, and a middle needs two: say where it is to be \
         split"
    )]
    TooFewNames {
        /// So many it has.
        locks: usize,
    },
    /// It was decided by another epoch.
    #[error("the range has changed since: its epoch is {0} by now; look again, and decide anew")]
    Changed(Epoch),
    /// One at a time.
    #[error("a split of this range is on its way already: wait until it is done")]
    Running,
    /// The range has joint members, or is about to.
    #[error("the members of this range are being changed: wait until that is done")]
    MembersChanging,
    /// Nobody has led any of these.
    #[error(
        "{count} ranges that were split off this one have never had a leader: bring back the stores \
         that have them"
    )]
    ChildrenAwaited {
        /// So many.
        count: usize,
    },
    /// Its leader hands it over.
    #[error("the leadership of this range is being handed over: ask again in a moment")]
    HandingOver,
    /// The leader is new.
    #[error(
        "the leader of this range has just begun, and has not caught up: ask again in a moment"
    )]
    NotReady,
    /// 16 MiB of entries wait.
    #[error("too much of this range waits for its log: ask again in a moment")]
    Busy,
    /// The store has as many as it may.
    #[error(
        "the store of its leader has {here} replicas, and may have {max} (ranges.max_per_store): add \
         stores, or raise the limit on all of them"
    )]
    TooManyRanges {
        /// Replicas on the store, with those that are about to be born.
        here: usize,
        /// The limit.
        max: usize,
    },
    /// Ids come from the masters.
    #[error("no leading master answers; locks go on, the split waits: ask again ({0})")]
    NoMaster(String),
    /// A master has given ids that cannot be.
    #[error("the ids that the masters gave for the new range cannot be used: {0}")]
    IdsUnusable(String),
    /// Another replica may lead.
    #[error("this replica does not lead its range")]
    NotLeader {
        /// The leader's store, as far as it is known.
        leader: Option<StoreId>,
    },
}

impl NotSplit {
    /// Makes it of what the engine says. A change of bounds that is under way `is_split`.
    pub fn of_engine(error: &NotProposed, is_split: bool) -> Self {
        match error {
            NotProposed::NotChanged(NotChanged::Epoch(epoch)) => Self::Changed(*epoch),
            NotProposed::NotChanged(NotChanged::Joint) => Self::MembersChanging,
            NotProposed::NotChanged(NotChanged::Key) => Self::Outside,
            NotProposed::NotChanged(other) => Self::IdsUnusable(other.to_string()),
            NotProposed::EpochChanging if is_split => Self::Running,
            NotProposed::EpochChanging => Self::MembersChanging,
            NotProposed::ChildrenAwaited { count } => Self::ChildrenAwaited { count: *count },
            NotProposed::HandingOver => Self::HandingOver,
            NotProposed::NotReady => Self::NotReady,
            NotProposed::Overloaded => Self::Busy,
            NotProposed::NotLeader { leader } => Self::NotLeader { leader: *leader },
            NotProposed::UnknownRange | NotProposed::Stopped => Self::NotLeader { leader: None },
        }
    }

    /// The name of it on the wire; it never changes its meaning.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::AtBound => "SPLIT_AT_BOUND",
            Self::Outside => "SPLIT_OUTSIDE",
            Self::TooFewNames { .. } => "SPLIT_NO_MIDDLE",
            Self::Changed(_) => "RANGE_CHANGED",
            Self::Running => "SPLIT_RUNNING",
            Self::MembersChanging => "MEMBERS_CHANGING",
            Self::ChildrenAwaited { .. } => "CHILDREN_AWAITED",
            Self::HandingOver => "HANDING_OVER",
            Self::NotReady => "LEADER_NOT_READY",
            Self::Busy => "RANGE_BUSY",
            Self::TooManyRanges { .. } => "TOO_MANY_RANGES",
            Self::NoMaster(_) => "NO_MASTER",
            Self::IdsUnusable(_) => "IDS_UNUSABLE",
            Self::NotLeader { .. } => "NOT_LEADER",
        }
    }

    /// As the store says it to a gateway.
    pub fn into_kind(self, range: RangeId) -> Kind {
        let message = self.to_string();
        match self {
            Self::NotLeader { leader } => wire::not_leader(range, leader),
            Self::Running
            | Self::MembersChanging
            | Self::ChildrenAwaited { .. }
            | Self::HandingOver
            | Self::NotReady
            | Self::Busy
            | Self::NoMaster(_) => wire::refused_for_now(self.reason(), &message, RETRY_MS),
            Self::AtBound
            | Self::Outside
            | Self::TooFewNames { .. }
            | Self::Changed(_)
            | Self::TooManyRanges { .. }
            | Self::IdsUnusable(_) => wire::refused(self.reason(), &message),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeSet;

    use sharklock_locktable::{
        Acquire, Acquisition, AcquisitionId, At, Command, Instance, Mode, Owner, SessionHandle,
        Wait,
    };

    use super::*;

    /// Each name has a holder.
    pub fn table(names: &[&str]) -> LockTable {
        let held_by_one: Vec<_> = names.iter().map(|name| (*name, 0)).collect();
        held(&held_by_one)
    }

    /// Each name has a holder, and so many waiters.
    pub fn held(names: &[(&str, usize)]) -> LockTable {
        let mut table = LockTable::new();
        let acquires = names.iter().flat_map(|(name, waiters)| vec![*name; waiters + 1]);
        for (at, name) in (1..).zip(acquires) {
            let acquisition = Acquisition {
                session: SessionHandle(u128::from(at).to_be_bytes()),
                instance: Instance(1),
                id: AcquisitionId(at),
            };
            let acquire = Acquire {
                acquisition,
                name: name.into(),
                mode: Mode::Exclusive,
                ttl_ms: 10_000,
                wait: Wait::Unbounded,
                reenter: None,
                owner: Owner::default(),
                condition: None,
                asked_ms: u64::MAX,
            };
            let at = At { index: at, term: 1, stamped_unix_ms: 1 };
            table.apply(at, Command::Acquire(Box::new(acquire)));
        }
        table
    }

    fn bounds(start: &str, end: &str) -> Bounds {
        Bounds { start: start.into(), end: end.into() }
    }

    #[test]
    fn the_range_chooses_the_middle_of_its_names() {
        let cut = |names: &[&str]| Cut::choose(&table(names), &Bounds::ALL, None);
        for few in [&[][..], &["b"]] {
            assert_eq!(cut(few), Err(NotSplit::TooFewNames { locks: few.len() }));
        }
        for (names, at, below, above) in [
            (&["b", "a"][..], "b", 1, 1),
            (&["a", "b", "c"], "b", 1, 2),
            (&["a", "b", "c", "d", "z"], "c", 2, 3),
        ] {
            let expected = Cut { at: at.to_owned(), why: Why::Middle, below, above };
            assert_eq!(cut(names), Ok(expected), "{names:?}");
        }
    }

    #[test]
    fn a_place_that_is_told_lies_between_the_bounds_and_may_leave_a_half_empty() {
        let table = table(&["c", "d"]);
        let cut = |at: &str| Cut::choose(&table, &bounds("b", "m"), Some(at));
        for (at, why) in [
            ("b", NotSplit::AtBound),
            ("m", NotSplit::AtBound),
            ("a", NotSplit::Outside),
            ("mm", NotSplit::Outside),
        ] {
            assert_eq!(cut(at), Err(why), "{at}");
        }
        for (at, below) in [("c", 0), ("cc", 1), ("d", 1), ("l", 2)] {
            let expected = Cut { at: at.to_owned(), why: Why::Told, below, above: 2 - below };
            assert_eq!(cut(at), Ok(expected), "{at}");
        }
        let whole = Cut::choose(&table, &Bounds::ALL, Some(""));
        assert_eq!(whole, Err(NotSplit::AtBound), "before all names");
    }

    #[test]
    fn whatever_the_engine_refuses_has_a_name_and_a_sentence_of_its_own() {
        let epoch = Epoch { conf_ver: 3, version: 4 };
        let mut seen = BTreeSet::new();
        for (error, is_split, reason) in [
            (NotProposed::NotChanged(NotChanged::Epoch(epoch)), false, "RANGE_CHANGED"),
            (NotProposed::NotChanged(NotChanged::Joint), false, "MEMBERS_CHANGING"),
            (NotProposed::NotChanged(NotChanged::Key), false, "SPLIT_OUTSIDE"),
            (NotProposed::NotChanged(NotChanged::Child(RangeId(7))), false, "IDS_UNUSABLE"),
            (NotProposed::EpochChanging, true, "SPLIT_RUNNING"),
            (NotProposed::EpochChanging, false, "MEMBERS_CHANGING"),
            (NotProposed::ChildrenAwaited { count: 64 }, false, "CHILDREN_AWAITED"),
            (NotProposed::HandingOver, false, "HANDING_OVER"),
            (NotProposed::NotReady, false, "LEADER_NOT_READY"),
            (NotProposed::Overloaded, false, "RANGE_BUSY"),
            (NotProposed::NotLeader { leader: None }, false, "NOT_LEADER"),
        ] {
            let why = NotSplit::of_engine(&error, is_split);
            assert_eq!(why.reason(), reason, "{error}");
            let is_new = seen.insert(why.to_string());
            assert!(is_new || reason == "MEMBERS_CHANGING", "{why}");
            match why.into_kind(RangeId(1)) {
                Kind::Refused(refused) => assert_eq!(refused.reason, reason),
                other => assert!(matches!(other, Kind::NotLeader(_)), "{other:?}"),
            }
        }
    }
}
