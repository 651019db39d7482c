//! What operators should know, because it does not pass by itself.

use std::{collections::BTreeMap, fmt};

use sharklock_rangemap::{RangeId, StoreId};

use super::{Hindrance, SlowDisk, needs::Need, pass::Pass, reason::Span};

/// Something that stays until somebody acts. Ranges that lack the same for the same reason are one warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Operators have paused the scheduler.
    Paused,
    /// So many stores are down that the scheduler waits.
    TooManyDown {
        /// These.
        down: Vec<StoreId>,
        /// Of so many.
        stores: usize,
    },
    /// An even number of replicas is wanted, and one less is made.
    EvenReplicas {
        /// The number.
        wanted: usize,
    },
    /// Ranges lack something, and nothing can be done.
    Lacking {
        /// What they lack.
        lack: Lack,
        /// So many.
        ranges: usize,
        /// The one with the smallest id.
        first: RangeId,
        /// Why nothing can be done for that one.
        why: Hindrance,
    },
    /// A store leads less because its disk is slow.
    SlowDisk {
        /// The store.
        store: StoreId,
        /// How slow.
        disk: SlowDisk,
    },
}

/// What ranges lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// A majority of voters that are heard.
    Quorum,
    /// A leader that is heard.
    Leader,
    /// Voters, or some of those that they have are lost.
    Voters,
    /// They do not leave a store that drains.
    Drained,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => write!(f, "{}", Hindrance::Paused),
            Self::TooManyDown { down, stores } => {
                let names = down.iter().take(10).map(ToString::to_string).collect::<Vec<_>>();
                let more = if down.len() > names.len() { ", …" } else { "" };
                let down = down.len();
                let why = Hindrance::TooManyDown { down, stores: *stores };
                write!(f, "{why} (down: {}{more})", names.join(", "))
            }
            Self::EvenReplicas { wanted } => write!(
                f,
                "{wanted} replicas are wanted; {} are made, since an even number survives no more \
                 losses",
                wanted.saturating_sub(1).max(1)
            ),
            Self::Lacking { lack, ranges, first, why } => {
                let lack = match lack {
                    Lack::Quorum => "without a majority of their voters",
                    Lack::Leader => "without a leader",
                    Lack::Voters => "with fewer live voters than wanted",
                    Lack::Drained => "still on a store that drains",
                };
                let plural = if *ranges == 1 { "" } else { "s" };
                let named = if *ranges == 1 { "it is" } else { "for instance" };
                write!(f, "{ranges} range{plural} {lack}; {named} range {first}: {why}")
            }
            Self::SlowDisk { store, disk: SlowDisk { p99, median } } => write!(
                f,
                "the disk of store {store} is slow, so it leads nothing: p99 of syncs {}, median of \
                 all stores {}",
                Span(*p99),
                Span(*median)
            ),
        }
    }
}

/// Warnings of a pass, as they come up.
pub(super) struct Warnings {
    all: Vec<Warning>,
    lacking: BTreeMap<(Lack, &'static str), (usize, RangeId, Hindrance)>,
}

impl Warnings {
    pub fn new(pass: &Pass<'_>) -> Self {
        let mut all = Vec::new();
        let settings = &pass.view.settings;
        if settings.is_paused {
            all.push(Warning::Paused);
        }
        if settings.replicas.is_multiple_of(2) {
            all.push(Warning::EvenReplicas { wanted: settings.replicas });
        }
        if let Some(Hindrance::TooManyDown { stores, .. }) = &pass.halted {
            let down = pass.down().map(|store| store.id).collect();
            all.push(Warning::TooManyDown { down, stores: *stores });
        }
        let slow = pass.view.stores.iter().filter_map(|(id, store)| Some((*id, store.slow?)));
        all.extend(slow.map(|(store, disk)| Warning::SlowDisk { store, disk }));
        Self { all, lacking: BTreeMap::new() }
    }

    /// Nothing can be done for a range. Without a need: that it lacks what `why` says is all.
    pub fn hindered(&mut self, pass: &Pass<'_>, at: usize, need: Option<Need>, why: Hindrance) {
        let lack = match (&why, need) {
            (Hindrance::QuorumLost { .. }, _) => Lack::Quorum,
            (Hindrance::NoLeader, _) => Lack::Leader,
            (_, Some(Need::Lost(_) | Need::Few) | None) => Lack::Voters,
            (_, Some(Need::Drain(_) | Need::DrainLeader)) => Lack::Drained,
            (_, Some(_)) => return,
        };
        // A master that has begun to lead has not heard of all yet.
        let is_new = matches!(pass.halted, Some(Hindrance::JustBegun { .. }));
        if is_new || !why.lasts() {
            return;
        }
        let range = pass.view.ranges[at].descriptor.range;
        let entry = self.lacking.entry((lack, why.name()));
        let (ranges, first, kept) = entry.or_insert((0, range, why.clone()));
        *ranges += 1;
        if range < *first {
            (*first, *kept) = (range, why);
        }
    }

    pub fn finish(self) -> Vec<Warning> {
        let lacking = self.lacking.into_iter();
        let lacking = lacking.map(|((lack, _), (ranges, first, why))| Warning::Lacking {
            lack,
            ranges,
            first,
            why,
        });
        self.all.into_iter().chain(lacking).collect()
    }
}
