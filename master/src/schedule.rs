//! What should be done so that every range has its voters where they should be, and all stores do
//! equal work: a pure function from what the leading master knows to operators, with the reason for
//! each (`docs/internals/scheduler.md`).
//!
//! [`survey`] looks once at everything. Ranges that are not as they should be come first
//! (`needs.rs`, `remedies.rs`), in the order of [`Class`]; then leaders and replicas are balanced
//! (`leaders.rs`, `replicas.rs`), at once where somebody has ordered that (`rebalance.rs`). Nothing is remembered between passes: whatever is proposed counts
//! as done for the rest of the pass, and whatever is under way for those to come (`tally.rs`), so
//! nothing is proposed twice. The one memory, of how disks have been, is [`DiskWatch`].

mod disks;
mod keys;
mod leaders;
mod needs;
mod pass;
mod places;
mod plan;
mod reason;
mod rebalance;
mod remedies;
mod replicas;
mod settings;
mod tally;
mod view;
mod warnings;

use sharklock_rangemap::RangeId;

pub use disks::{DiskLimits, DiskWatch};
pub use keys::{Choices, KEYS, Key, Unit, key};
pub use plan::{Class, Plan, Spot, Wanted};
pub use reason::{Hindrance, Reason, Uneven};
pub use rebalance::{Rebalance, Spread, rebalance};
pub use settings::{Limits, Settings};
pub use view::{Duty, InFlight, Liveness, RangeView, SlowDisk, StoreView, Unheard, View};
pub use warnings::{Lack, Warning};

use pass::Pass;

/// What one look at everything says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What should be done now, most urgent first. At most one for each range.
    pub plans: Vec<Plan>,
    /// What operators should know.
    pub warnings: Vec<Warning>,
}

/// Looks at everything.
///
/// # Panics
/// The ranges are not in the order of their ids.
pub fn survey(view: &View<'_>) -> Survey {
    Pass::new(view).run()
}

/// What should be done now; see [`Survey::plans`].
///
/// # Panics
/// As [`survey`].
pub fn plan(view: &View<'_>) -> Vec<Plan> {
    survey(view).plans
}

/// What operators should know; see [`Survey::warnings`].
///
/// # Panics
/// As [`survey`].
pub fn warnings(view: &View<'_>) -> Vec<Warning> {
    survey(view).warnings
}

/// How a single range stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// There is no such range.
    Unknown,
    /// As it should be. It may still be moved to balance stores.
    AsWanted,
    /// This would be done for it if it came first.
    Planned(Plan),
    /// Something should be done, and cannot be.
    Hindered(Hindrance),
}

/// Why nothing is done for a range, or what is.
///
/// # Panics
/// As [`survey`].
pub fn why_not(view: &View<'_>, range: RangeId) -> Outlook {
    Pass::new(view).outlook(range)
}

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
