//! A set of descriptors that never overlap, and which of two that overlap is right.
//!
//! It owns the rule of acceptance (ranges.md, *Which of two descriptors is right*) and the tiling
//! check (S10). It does not know who leads a range (see `route_cache`), nor where descriptors come
//! from.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use crate::descriptor::{Bounds, Descriptor, DescriptorError, Epoch, RangeId};

/// Descriptors in order of their names. There may be gaps: a cache has not seen every range.
///
/// Invariants:
/// - every descriptor is well-formed ([`Descriptor::validate`]);
/// - no two overlap, and no range stands in it twice;
/// - `starts` holds exactly the ranges of `descriptors`, each with its first name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeMap {
    /// By first name.
    descriptors: BTreeMap<Vec<u8>, Descriptor>,
    /// The key of each range in `descriptors`.
    starts: BTreeMap<RangeId, Vec<u8>>,
}

impl RangeMap {
    /// Takes the descriptor in if nothing in the map is newer, and hands back what it displaced, in
    /// order of names: the range's own older descriptor, and older ones of other ranges that it
    /// overlaps.
    ///
    /// A range's own descriptors are ordered by (version, `conf_ver`). Those of two ranges that
    /// overlap are ordered by version alone: their memberships change independently after a split,
    /// so their `conf_ver`s say nothing about each other.
    pub fn insert(&mut self, descriptor: Descriptor) -> Result<Vec<Descriptor>, InsertError> {
        descriptor.validate().map_err(InsertError::Malformed)?;
        if self.range(descriptor.range) == Some(&descriptor) {
            return Ok(Vec::new());
        }
        let displaced = self.displaced_by(&descriptor);
        for cached in &displaced {
            check_newer(&descriptor, cached)?;
        }
        let displaced: Vec<RangeId> = displaced.iter().map(|cached| cached.range).collect();
        let removed = displaced.into_iter().filter_map(|range| self.remove(range)).collect();
        self.starts.insert(descriptor.range, descriptor.bounds.start.clone());
        self.descriptors.insert(descriptor.bounds.start.clone(), descriptor);
        Ok(removed)
    }

    /// Drops a range.
    pub fn remove(&mut self, range: RangeId) -> Option<Descriptor> {
        let start = self.starts.remove(&range)?;
        Some(self.descriptors.remove(&start).expect("`starts` names only what is there"))
    }

    /// The range whose bounds hold `name`.
    pub fn at(&self, name: &[u8]) -> Option<&Descriptor> {
        let upto = (Bound::Unbounded, Bound::Included(name));
        let (_, descriptor) = self.descriptors.range::<[u8], _>(upto).next_back()?;
        descriptor.bounds.contains(name).then_some(descriptor)
    }

    /// The descriptor of a range.
    pub fn range(&self, range: RangeId) -> Option<&Descriptor> {
        self.descriptors.get(self.starts.get(&range)?)
    }

    /// Everything that shares a name with `bounds`, in order of names.
    pub fn overlapping<'a>(&'a self, bounds: &'a Bounds) -> impl Iterator<Item = &'a Descriptor> {
        // Of the ranges that begin before the bounds only the last can reach into them.
        let before = (Bound::Unbounded, Bound::Excluded(bounds.start.as_slice()));
        let from = (Bound::Included(bounds.start.as_slice()), Bound::Unbounded);
        let reaches_in = self.descriptors.range::<[u8], _>(before).next_back();
        let begins_in = self.descriptors.range::<[u8], _>(from);
        reaches_in
            .into_iter()
            .map(|(_, descriptor)| descriptor)
            .filter(|descriptor| descriptor.bounds.overlaps(bounds))
            .chain(
                begins_in
                    .map(|(_, descriptor)| descriptor)
                    .take_while(|descriptor| descriptor.bounds.overlaps(bounds)),
            )
    }

    /// All descriptors in order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Descriptor> {
        self.descriptors.values()
    }

    /// How many ranges it holds.
    pub fn len(&self) -> usize {
        self.descriptors.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// S10: whether every name has its range.
    pub fn check_tiling(&self) -> Result<(), TilingError> {
        check_tiling(self.iter())
    }

    /// The descriptors that have to go if `descriptor` comes: each must be older.
    fn displaced_by<'a>(&'a self, descriptor: &'a Descriptor) -> Vec<&'a Descriptor> {
        // A range whose bounds moved away (by a merge) may not overlap its own old place.
        let elsewhere = self
            .range(descriptor.range)
            .filter(|cached| !cached.bounds.overlaps(&descriptor.bounds));
        elsewhere.into_iter().chain(self.overlapping(&descriptor.bounds)).collect()
    }
}

/// Whether `offered` may displace `cached`, which it overlaps or which is its own older self.
fn check_newer(offered: &Descriptor, cached: &Descriptor) -> Result<(), InsertError> {
    let ordering = if offered.range == cached.range {
        offered.epoch.cmp(&cached.epoch)
    } else {
        offered.epoch.version.cmp(&cached.epoch.version)
    };
    let (range, epoch) = (offered.range, offered.epoch);
    let (cached_range, cached_epoch) = (cached.range, cached.epoch);
    match ordering {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Less => {
            Err(InsertError::Stale { range, epoch, cached_range, cached_epoch })
        }
        std::cmp::Ordering::Equal => {
            Err(InsertError::Contradiction { range, epoch, cached_range, cached_epoch })
        }
    }
}

/// S10: whether the descriptors, given in any order, tile the name space: every name lies in
/// exactly one, and no range stands in it twice.
pub fn check_tiling<'a>(
    descriptors: impl IntoIterator<Item = &'a Descriptor>,
) -> Result<(), TilingError> {
    let mut sorted: Vec<&Descriptor> = descriptors.into_iter().collect();
    sorted.sort_by(|a, b| a.bounds.start.cmp(&b.bounds.start));
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
        return Err(TilingError::Empty);
    };
    let mut ranges: Vec<RangeId> = sorted.iter().map(|descriptor| descriptor.range).collect();
    ranges.sort_unstable();
    for descriptor in &sorted {
        descriptor.validate().map_err(TilingError::Malformed)?;
    }
    if let Some(twice) = ranges.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(TilingError::RangeTwice { range: twice[0] });
    }
    if !first.bounds.start.is_empty() {
        return Err(TilingError::GapBefore { range: first.range });
    }
    for pair in sorted.windows(2) {
        let (left, right) = (pair[0], pair[1]);
        if left.bounds.overlaps(&right.bounds) {
            return Err(TilingError::Overlap { left: left.range, right: right.range });
        }
        if left.bounds.end != right.bounds.start {
            return Err(TilingError::GapBefore { range: right.range });
        }
    }
    if !last.bounds.end.is_empty() {
        return Err(TilingError::GapAtEnd { range: last.range });
    }
    Ok(())
}

/// Why a descriptor was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// It describes no range.
    Malformed(DescriptorError),
    /// Something newer is there. Harmless: messages overtake each other.
    Stale {
        /// The range offered.
        range: RangeId,
        /// Its epoch.
        epoch: Epoch,
        /// The range that stands in its way; itself, perhaps.
        cached_range: RangeId,
        /// That one's epoch.
        cached_epoch: Epoch,
    },
    /// Two different descriptors claim names at the same epoch. Cannot happen while every change
    /// raises the epoch (S10): worth an alarm.
    Contradiction {
        /// The range offered.
        range: RangeId,
        /// Its epoch.
        epoch: Epoch,
        /// The range that stands in its way; itself, perhaps.
        cached_range: RangeId,
        /// That one's epoch.
        cached_epoch: Epoch,
    },
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => error.fmt(f),
            Self::Stale { range, epoch, cached_range, cached_epoch } => write!(
                f,
                "the descriptor of range {range} ({epoch}) is older than that of range \
                 {cached_range} ({cached_epoch}), which is known already"
            ),
            Self::Contradiction { range, epoch, cached_range, cached_epoch } => write!(
                f,
                "the descriptor of range {range} ({epoch}) contradicts that of range \
                 {cached_range} ({cached_epoch}): both claim the same names at the same epoch"
            ),
        }
    }
}

impl std::error::Error for InsertError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            Self::Stale { .. } | Self::Contradiction { .. } => None,
        }
    }
}

/// Why descriptors do not tile the name space (S10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TilingError {
    /// There are none.
    Empty,
    /// One of them describes no range.
    Malformed(DescriptorError),
    /// Two descriptors of one range.
    RangeTwice {
        /// The range.
        range: RangeId,
    },
    /// Names right before this range belong to nobody.
    GapBefore {
        /// The range.
        range: RangeId,
    },
    /// Names after the last range belong to nobody.
    GapAtEnd {
        /// The last range.
        range: RangeId,
    },
    /// A name belongs to both.
    Overlap {
        /// The one that begins first.
        left: RangeId,
        /// The other.
        right: RangeId,
    },
}

impl fmt::Display for TilingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "there is no range, so no name has one"),
            Self::Malformed(error) => error.fmt(f),
            Self::RangeTwice { range } => write!(f, "range {range} has two descriptors"),
            Self::GapBefore { range } => {
                write!(f, "the names right before range {range} belong to no range")
            }
            Self::GapAtEnd { range } => {
                write!(f, "the names after range {range}, the last, belong to no range")
            }
            Self::Overlap { left, right } => {
                write!(f, "ranges {left} and {right} claim the same names")
            }
        }
    }
}

impl std::error::Error for TilingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
