//! What the scheduler proposes, and in which words it says so.

use std::fmt;

use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::Reason;
use crate::operator::Goal;

/// An operator that the masters should begin. Its text is one sentence: why, what, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The range. No two plans of one pass are for the same, and none for one with an operator.
    pub range: RangeId,
    /// What is to become of it.
    pub wanted: Wanted,
    /// What it is for.
    pub class: Class,
    /// Why.
    pub reason: Reason,
    /// Why the store that it comes to was chosen, where it was chosen among several.
    pub spot: Option<Spot>,
}

/// A [`Goal`] whose new replica has no id yet: the masters give it when the operator begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// One voter more.
    Add {
        /// Its store.
        to: StoreId,
    },
    /// A replica goes.
    Remove {
        /// Its store.
        from: StoreId,
    },
    /// A voter is replaced by another one.
    Replace {
        /// The store of the one that goes.
        from: StoreId,
        /// The store of the one that comes.
        to: StoreId,
    },
    /// Another voter leads.
    Lead {
        /// Its store.
        to: StoreId,
    },
    /// A joint configuration ends.
    LeaveJoint,
}

/// What a plan is for. In this order they are considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A change of the membership that was left half-done is ended.
    Tidy,
    /// A range gets back the voters that it should have.
    Repair,
    /// A store is to become empty.
    Drain,
    /// A store with a slow disk leads less.
    SlowDisk,
    /// A range has more voters than it should.
    Trim,
    /// Replicas are too near to each other.
    Place,
    /// Stores do unequal work.
    Balance,
}

impl Class {
    /// All, in order.
    const ALL: [Self; 7] = [
        Self::Tidy,
        Self::Repair,
        Self::Drain,
        Self::SlowDisk,
        Self::Trim,
        Self::Place,
        Self::Balance,
    ];

    /// The one of this name, if there is any.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Within which of the two limits it is.
    pub fn is_urgent(self) -> bool {
        matches!(self, Self::Tidy | Self::Repair | Self::Drain | Self::SlowDisk)
    }

    /// Its name, for tables and scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tidy => "tidy",
            Self::Repair => "repair",
            Self::Drain => "drain",
            Self::SlowDisk => "slow-disk",
            Self::Trim => "trim",
            Self::Place => "place",
            Self::Balance => "balance",
        }
    }
}

impl Wanted {
    /// The goal, with the id of the replica that comes, if one does.
    pub fn goal(self, peer: PeerId) -> Goal {
        match self {
            Self::Add { to } => Goal::Add { peer, to },
            Self::Remove { from } => Goal::Remove { from },
            Self::Replace { from, to } => Goal::Replace { from, peer, to },
            Self::Lead { to } => Goal::Lead { to },
            Self::LeaveJoint => Goal::LeaveJoint,
        }
    }

    /// The store that gets a replica: only then the goal takes an id.
    pub fn comes_to(self) -> Option<StoreId> {
        match self {
            Self::Add { to } | Self::Replace { to, .. } => Some(to),
            Self::Remove { .. } | Self::Lead { .. } | Self::LeaveJoint => None,
        }
    }

    /// The store that loses one.
    pub fn goes_from(self) -> Option<StoreId> {
        match self {
            Self::Remove { from } | Self::Replace { from, .. } => Some(from),
            Self::Add { .. } | Self::Lead { .. } | Self::LeaveJoint => None,
        }
    }
}

impl From<Goal> for Wanted {
    fn from(goal: Goal) -> Self {
        match goal {
            Goal::Add { to, .. } => Self::Add { to },
            Goal::Remove { from } => Self::Remove { from },
            Goal::Replace { from, to, .. } => Self::Replace { from, to },
            Goal::Lead { to } => Self::Lead { to },
            Goal::LeaveJoint => Self::LeaveJoint,
        }
    }
}

/// What speaks for a store that gets a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    /// Where it is: `zone b, host 7`.
    pub labels: String,
    /// The replicas that it had before.
    pub replicas: u32,
    /// No other store that could have been chosen has fewer.
    pub is_fewest: bool,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { labels, replicas, is_fewest } = self;
        let comma = if labels.is_empty() { "" } else { ", " };
        let plural = if *replicas == 1 { "" } else { "s" };
        let fewest = if *is_fewest { ", fewest" } else { "" };
        write!(f, "{labels}{comma}{replicas} replica{plural}{fewest}")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, wanted, reason, spot, .. } = self;
        write!(f, "{reason}: ")?;
        match wanted {
            Wanted::Add { to } => write!(f, "range {range} gets a replica on store {to}"),
            Wanted::Remove { from } => write!(f, "range {range} loses its replica on store {from}"),
            Wanted::Replace { from, to } => {
                write!(f, "the replica of range {range} moves from store {from} to store {to}")
            }
            Wanted::Lead { to } => write!(f, "store {to} is to lead range {range}"),
            Wanted::LeaveJoint => write!(f, "range {range} leaves its joint configuration"),
        }?;
        spot.as_ref().map_or(Ok(()), |spot| write!(f, " ({spot})"))
    }
}
