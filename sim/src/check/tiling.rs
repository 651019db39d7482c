//! S10: the committed descriptors tile the name space, whoever is asked; a descriptor of one epoch is
//! one; a range comes into being by the split of another; and whoever speaks of a name has it.

use std::collections::BTreeMap;
use std::ops::Bound;

use sharklock_rangemap::{Bounds, Descriptor, Epoch, RangeId, StoreId, check_tiling};

/// Descriptors that replicas have applied.
///
/// Invariants:
/// - `starts` has exactly the ranges of `newest`: the first name of a range never changes;
/// - `parents` has every range but those with which the world began.
#[derive(Clone, Debug, Default)]
pub struct Tiling {
    /// All that were ever seen.
    committed: BTreeMap<(RangeId, Epoch), Seen>,
    /// The newest of each range.
    newest: BTreeMap<RangeId, Descriptor>,
    starts: BTreeMap<Vec<u8>, RangeId>,
    /// Who was split off whom.
    parents: BTreeMap<RangeId, RangeId>,
    /// What ranges have lost by splits: until the child is on a disk, nobody shows these names.
    lost: Vec<Bounds>,
    changed: bool,
}

/// A descriptor that replicas have applied.
#[derive(Clone, Debug)]
struct Seen {
    descriptor: Descriptor,
    /// The least index by which it had been applied, as far as replicas have shown.
    by: u64,
    /// The largest at which it was still the newest of a replica.
    until: u64,
}

/// What a descriptor that a replica has applied tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It was known, or is older than what was.
    None,
    /// The range has changed.
    Changed,
    /// The range was split off this one.
    Born(RangeId),
}

impl Tiling {
    /// A replica that has applied so much has applied a descriptor.
    ///
    /// # Errors
    ///
    /// Another one has this epoch, or another range these names in this version; or the range has
    /// come into being otherwise than by a split.
    pub fn applied(&mut self, descriptor: &Descriptor, index: u64) -> Result<News, String> {
        let Descriptor { range, epoch, .. } = descriptor;
        match self.newest.get(range) {
            Some(known) if known == descriptor => {
                self.is_seen(descriptor, index);
                return Ok(News::None);
            }
            _ => self.agrees(descriptor)?,
        }
        if !self.is_seen(descriptor, index) {
            self.nobody_else_has(descriptor)?;
            let seen = Seen { descriptor: descriptor.clone(), by: index, until: index };
            self.committed.insert((*range, *epoch), seen);
        }
        let Some(known) = self.newest.get(range) else { return self.comes(descriptor) };
        if known.epoch >= *epoch {
            return Ok(News::None);
        }
        if known.bounds.start != descriptor.bounds.start {
            return Err(format!("the first name of range {range} has changed: {descriptor:?}"));
        }
        if known.bounds.end != descriptor.bounds.end {
            let start = descriptor.bounds.end.clone();
            self.lost.push(Bounds { start, end: known.bounds.end.clone() });
        }
        self.newest.insert(*range, descriptor.clone());
        self.changed = true;
        Ok(News::Changed)
    }

    /// Takes note of where a replica still has a descriptor. False: nobody had it before.
    fn is_seen(&mut self, descriptor: &Descriptor, index: u64) -> bool {
        let seen = self.committed.get_mut(&(descriptor.range, descriptor.epoch));
        let Some(Seen { by, until, .. }) = seen else { return false };
        // A shell has what its leader has applied, and has applied nothing itself.
        if index == 0 {
            return true;
        }
        (*by, *until) = ((*by).min(index), (*until).max(index));
        true
    }

    /// A range that nobody has shown before.
    fn comes(&mut self, descriptor: &Descriptor) -> Result<News, String> {
        let Descriptor { range, epoch, bounds, .. } = descriptor;
        self.newest.insert(*range, descriptor.clone());
        self.starts.insert(bounds.start.clone(), *range);
        self.changed = true;
        if epoch.version == 1 {
            return Ok(News::Changed);
        }
        let is_parent = |known: &&Descriptor| {
            known.epoch == Epoch { version: epoch.version - 1, ..*epoch }
                && known.bounds.contains(&bounds.start)
                && known.bounds.end == bounds.end
                && known
                    .replicas
                    .iter()
                    .map(|it| (it.store, it.role))
                    .eq(descriptor.replicas.iter().map(|it| (it.store, it.role)))
        };
        let mut all = self.committed.values().map(|seen| &seen.descriptor);
        let Some(parent) = all.find(is_parent).map(|it| it.range) else {
            return Err(format!("no range was split into this one: {descriptor:?}"));
        };
        self.parents.insert(*range, parent);
        Ok(News::Born(parent))
    }

    /// Somebody says that a range is so: a leader has said it before, or it was made so.
    ///
    /// # Errors
    ///
    /// No replica has ever applied this.
    pub fn said(&self, who: &str, descriptor: &Descriptor) -> Result<(), String> {
        match self.committed.get(&(descriptor.range, descriptor.epoch)) {
            Some(known) if known.descriptor == *descriptor => Ok(()),
            known => Err(format!("{who} says {descriptor:?}; replicas have applied {known:?}")),
        }
    }

    /// A range has said something of a name, from the state at this index, when it had this version.
    ///
    /// # Errors
    ///
    /// It had not the name.
    pub fn spoke(
        &self,
        (range, version, index): (RangeId, u64, u64),
        name: &str,
    ) -> Result<(), String> {
        let of_range = (range, Epoch { version: 0, conf_ver: 0 })
            ..=(range, Epoch { version: u64::MAX, conf_ver: u64::MAX });
        let mut seen = self.committed.range(of_range).map(|(_, seen)| seen);
        let said = format!("range {range} speaks of {name} in version {version} at {index}");
        if !seen.clone().any(|known| known.descriptor.epoch.version == version) {
            return Err(format!("{said}, which no replica has applied"));
        }
        // What stands in front of the split was decided here, and is told here.
        match seen.find(|known| !known.descriptor.bounds.contains(name.as_bytes())) {
            Some(Seen { descriptor, by, .. }) if index >= *by => {
                Err(format!("{said}, and was {descriptor:?} at {by}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the newest descriptors tile the name space, but for names whose new range nobody has
    /// shown yet: to be asked when everything that a turn of a store has changed has been told.
    ///
    /// # Errors
    ///
    /// The gap or the overlap.
    pub fn check(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let mut next: Option<&[u8]> = Some(b"");
        for range in self.starts.values() {
            let bounds = &self.newest[range].bounds;
            match next {
                Some(next) if *next == *bounds.start => {}
                Some(next) if *next < *bounds.start => self.is_lost(next, &bounds.start)?,
                _ => return Err(format!("range {range} has names that another has: {bounds:?}")),
            }
            next = Some(&*bounds.end).filter(|end| !end.is_empty());
        }
        match next {
            None => Ok(()),
            Some(next) => self.is_lost(next, b""),
        }
    }

    /// Whether every name has its range: what splits have begun has come to its end.
    ///
    /// # Errors
    ///
    /// The gap or the overlap.
    pub fn check_whole(&self) -> Result<(), String> {
        check_tiling(self.newest.values()).map_err(|error| error.to_string())
    }

    /// Whether these names, which nobody shows, have left their ranges.
    fn is_lost(&self, from: &[u8], end: &[u8]) -> Result<(), String> {
        let mut from = from;
        loop {
            let Some(lost) = self.lost.iter().find(|it| it.contains(from)) else {
                return Err(format!("nobody has the names from {from:?} to {end:?}"));
            };
            if lost.end == end || (!end.is_empty() && (lost.end.is_empty() || *lost.end >= *end)) {
                return Ok(());
            }
            from = &lost.end;
        }
    }

    /// The range that has a name, or that had it last where its new one is not there yet. `None`: no
    /// replica of any range is there.
    pub fn of(&self, name: &str) -> Option<RangeId> {
        let upto = (Bound::Unbounded, Bound::Included(name.as_bytes()));
        self.starts.range::<[u8], _>(upto).next_back().map(|(_, range)| *range)
    }

    /// What a range is, by the newest descriptor that any replica has applied.
    pub fn get(&self, range: RangeId) -> Option<&Descriptor> {
        self.newest.get(&range)
    }

    /// All ranges, in order of names, as of their newest descriptors.
    pub fn all(&self) -> impl Iterator<Item = &Descriptor> {
        self.starts.values().map(|range| &self.newest[range])
    }

    /// Their ids.
    pub fn ids(&self) -> Vec<RangeId> {
        self.starts.values().copied().collect()
    }

    /// Every descriptor that a range has ever had, in order.
    pub fn all_of(&self, range: RangeId) -> impl Iterator<Item = &Descriptor> {
        let all = self.committed.values().map(|seen| &seen.descriptor);
        all.filter(move |descriptor| descriptor.range == range)
    }

    /// What a range was in an epoch, as some replica has applied it.
    pub fn in_epoch(&self, range: RangeId, epoch: Epoch) -> Option<&Descriptor> {
        self.committed.get(&(range, epoch)).map(|seen| &seen.descriptor)
    }

    /// Somebody was told that a range was split, by the epoch that ended there: by the entry at this
    /// index, or at some time `before` it.
    ///
    /// # Errors
    ///
    /// No replica has applied that, or one has applied as much and is not split, or the child is
    /// another range.
    pub fn was_split(
        &self,
        (range, epoch): (RangeId, Epoch),
        child: RangeId,
        (index, before): (u64, bool),
    ) -> Result<(), String> {
        let next = Epoch { version: epoch.version + 1, ..epoch };
        let at = |epoch| self.committed.get(&(range, epoch));
        let (Some(whole), Some(lower)) = (at(epoch), at(next)) else {
            return Err(format!("no replica has applied a split of {range} in {epoch}"));
        };
        if index <= whole.until || (index > lower.by && !before) {
            return Err(format!("it was not split at {index}: {whole:?}, {lower:?}"));
        }
        let end = &lower.descriptor.bounds.end;
        let upper = self.committed.get(&(child, next)).map(|seen| &seen.descriptor.bounds);
        match upper {
            Some(upper) if upper.start != *end || upper.end != whole.descriptor.bounds.end => {
                Err(format!("{child} is not what was split off: {upper:?}, {lower:?}"))
            }
            // It is on no disk yet.
            _ => Ok(()),
        }
    }

    /// The range that a range was split off.
    pub fn parent(&self, range: RangeId) -> Option<RangeId> {
        self.parents.get(&range).copied()
    }

    /// Whether a range was split off another, or off one that was.
    pub fn descends(&self, range: RangeId, from: RangeId) -> bool {
        let mut above = self.parent(range);
        while let Some(parent) = above {
            if parent == from {
                return true;
            }
            above = self.parent(parent);
        }
        false
    }

    /// Whether a range has a replica on a store.
    pub fn is_on(&self, range: RangeId, store: Option<StoreId>) -> bool {
        let descriptor = self.newest.get(&range);
        store.is_some_and(|store| descriptor.is_some_and(|it| it.on_store(store).is_some()))
    }

    fn agrees(&self, descriptor: &Descriptor) -> Result<(), String> {
        match self.committed.get(&(descriptor.range, descriptor.epoch)) {
            Some(known) if known.descriptor != *descriptor => {
                let known = &known.descriptor;
                Err(format!("one epoch has two descriptors: {known:?} and {descriptor:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Of two ranges that have had a name, one has it in a later version: by that everybody tells
    /// which is right.
    fn nobody_else_has(&self, descriptor: &Descriptor) -> Result<(), String> {
        let contradicts = |known: &&Descriptor| {
            known.range != descriptor.range
                && known.epoch.version == descriptor.epoch.version
                && known.bounds.overlaps(&descriptor.bounds)
        };
        match self.committed.values().map(|seen| &seen.descriptor).find(contradicts) {
            Some(known) => {
                Err(format!("two ranges claim names at once: {known:?}, {descriptor:?}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{PeerId, Replica, Role};

    use super::*;

    fn range(id: u64, start: &str, end: &str, version: u64) -> Descriptor {
        let replica = Replica { peer: PeerId(id), store: StoreId(1), role: Role::Voter };
        let bounds = Bounds { start: start.into(), end: end.into() };
        Descriptor::new(RangeId(id), bounds, Epoch { version, conf_ver: 1 }, vec![replica])
    }

    fn whole() -> Tiling {
        let mut tiling = Tiling::default();
        tiling.applied(&range(1, "", "", 1), 5).expect("the first");
        tiling.check_whole().expect("it has all names");
        tiling
    }

    /// A range that was split at "m" at index 10 at the latest.
    fn split() -> Tiling {
        let mut tiling = whole();
        assert_eq!(tiling.applied(&range(1, "", "m", 2), 10), Ok(News::Changed));
        tiling.check().expect("the child is on its way");
        tiling.check_whole().expect_err("and not there yet");
        assert_eq!(tiling.of("z"), Some(RangeId(1)), "it had the name last");
        assert_eq!(tiling.applied(&range(2, "m", "", 2), 5), Ok(News::Born(RangeId(1))));
        tiling.check_whole().expect("together they have all names");
        tiling
    }

    #[test]
    fn two_halves_have_what_their_parent_had() {
        let mut tiling = split();
        assert_eq!(tiling.applied(&range(1, "", "", 1), 9), Ok(News::None), "it is behind");
        tiling.check().expect("nothing new");
        assert_eq!((tiling.of("a"), tiling.of("z")), (Some(RangeId(1)), Some(RangeId(2))));
        tiling.applied(&range(2, "m", "t", 3), 9).expect("it is split as well");
        tiling.applied(&range(3, "t", "", 3), 5).expect("its child");
        tiling.check_whole().expect("all names");
        assert!(tiling.descends(RangeId(3), RangeId(1)) && tiling.descends(RangeId(2), RangeId(1)));
        assert!(!tiling.descends(RangeId(1), RangeId(3)));
    }

    #[test]
    fn gaps_overlaps_and_ranges_of_nowhere_are_found() {
        let mut tiling = whole();
        tiling.applied(&range(2, "m", "", 2), 5).expect("on its own it may be a child");
        tiling.check().expect_err("its parent has the names, too");
        let mut tiling = split();
        tiling.applied(&range(2, "k", "", 2), 5).expect_err("its epoch has another descriptor");
        tiling.applied(&range(3, "p", "", 2), 5).expect_err("range 2 has them in version 2");
        tiling.applied(&range(3, "p", "", 4), 5).expect_err("nobody has had them in version 3");
        tiling.applied(&range(2, "k", "", 3), 9).expect_err("its first name has changed");
        let mut tiling = split();
        tiling.lost.clear();
        tiling.applied(&range(2, "m", "n", 3), 9).expect("it was split");
        tiling.lost.clear();
        tiling.check().expect_err("nobody has the names from n on");
    }

    #[test]
    fn names_may_leave_twice_before_anybody_shows_them() {
        let mut tiling = whole();
        tiling.applied(&range(1, "", "t", 2), 10).expect("split");
        tiling.applied(&range(1, "", "m", 3), 11).expect("and again");
        tiling.check().expect("both children are on their way");
        tiling.applied(&range(3, "m", "t", 3), 5).expect("the second");
        tiling.check().expect("one is");
        tiling.applied(&range(2, "t", "", 2), 5).expect("the first");
        tiling.check_whole().expect("all are there");
    }

    #[test]
    fn who_tells_of_a_split_tells_where_it_was_applied_and_what_came_of_it() {
        let mut tiling = whole();
        tiling.applied(&range(1, "", "", 1), 8).expect("not split yet");
        tiling.applied(&range(1, "", "m", 2), 10).expect("by now");
        let by_first = (RangeId(1), Epoch { version: 1, conf_ver: 1 });
        tiling.was_split(by_first, RangeId(2), (9, false)).expect("its child is on no disk yet");
        tiling.applied(&range(2, "m", "", 2), 5).expect("now it is");
        tiling.was_split(by_first, RangeId(2), (10, false)).expect("there at the latest");
        tiling.was_split(by_first, RangeId(2), (70, true)).expect("it was before");
        tiling.was_split(by_first, RangeId(2), (11, false)).expect_err("somebody had it at 10");
        tiling.was_split(by_first, RangeId(2), (8, true)).expect_err("it was whole then");
        let by_second = (RangeId(1), Epoch { version: 2, conf_ver: 1 });
        tiling.was_split(by_second, RangeId(3), (12, false)).expect_err("nobody has applied it");
        tiling.applied(&range(2, "m", "t", 3), 9).expect("split again");
        tiling.applied(&range(3, "t", "", 3), 5).expect("its child");
        let other = (RangeId(2), Epoch { version: 2, conf_ver: 1 });
        tiling.was_split(other, RangeId(3), (9, false)).expect("that is it");
        tiling.was_split(other, RangeId(9), (9, false)).expect("another that nobody has shown");
    }

    #[test]
    fn who_speaks_of_a_name_has_it_where_it_speaks() {
        let tiling = split();
        tiling.said("m1", &range(1, "", "", 1)).expect("it was so");
        tiling.said("m1", &range(1, "", "m", 3)).expect_err("nobody has applied it");
        tiling.spoke((RangeId(1), 1, 8), "z").expect("it had it");
        tiling.spoke((RangeId(1), 2, 9), "z").expect("from in front of the split");
        tiling.spoke((RangeId(1), 2, 10), "z").expect_err("it had left by then");
        tiling.spoke((RangeId(1), 2, 90), "a").expect("it has it");
        tiling.spoke((RangeId(2), 2, 6), "a").expect_err("it never had it");
        tiling.spoke((RangeId(1), 3, 6), "a").expect_err("there is no such version");
    }
}
