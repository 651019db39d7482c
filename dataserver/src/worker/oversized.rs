//! Ranges that have too much of something (`triggers.rs`), and the splits that they get without
//! anybody's asking.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::LockTable;
use sharklock_rangemap::RangeId;

use super::Worker;
use crate::{
    front::{Front, Unsplit},
    gate::SplitWish,
    splitting::Cut,
    triggers::{Excess, Measure, SplitLimits},
};

/// A range that is not split, whatever the reason, is looked at again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// Splits for load are so far apart, all ranges of a worker together: the next one is decided by what
/// the last one has led to, and a spike of a minute leaves a handful of ranges.
const LOAD_PACE: Duration = Duration::from_secs(10);

/// The ranges of a worker that are to be looked at closely, and when.
///
/// Invariants:
/// - a range that has too much of something, as the last turn that looked at it has found, is in
///   `due`, with the moment from which it is looked at closely.
#[derive(Debug, Default)]
pub(super) struct Oversized {
    limits: SplitLimits,
    due: BTreeMap<RangeId, Duration>,
    next_for_load: Duration,
    /// A child that was split off for its load. Once this store leads it, another is to lead it.
    to_hand_on: Option<RangeId>,
}

impl Oversized {
    pub(super) fn beyond(limits: SplitLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub(super) fn limits(&self) -> &SplitLimits {
        &self.limits
    }

    /// A turn has worked on the range.
    pub(super) fn look(
        &mut self,
        now: Duration,
        range: RangeId,
        front: &mut Front,
        table: &LockTable,
    ) {
        if front.leading.is_some() && self.excesses(now, front, table).next().is_some() {
            self.due.entry(range).or_insert(now);
        }
    }

    fn excesses(
        &self,
        now: Duration,
        front: &mut Front,
        table: &LockTable,
    ) -> impl Iterator<Item = Excess> {
        front.sample.pass(now, self.limits.commands_per_second.unwrap_or(u64::MAX));
        self.limits.excesses(table, &front.sample)
    }

    /// The range was split, so it is another now.
    pub(super) fn forget(&mut self, range: RangeId) {
        self.due.remove(&range);
    }

    /// Another store is to lead the child of a range that had too much work.
    pub(super) fn hand_on(&mut self, child: RangeId) {
        self.to_hand_on = Some(child);
    }

    /// Whether the range, which this store has begun to lead, is such a child.
    pub(super) fn take_to_hand_on(&mut self, range: RangeId) -> bool {
        self.to_hand_on.take_if(|child| *child == range).is_some()
    }

    /// Those that are to be looked at by now.
    fn take_due(&mut self, now: Duration) -> Vec<RangeId> {
        let due = self.due.extract_if(.., |_, at| *at <= now);
        due.map(|(range, _)| range).collect()
    }
}

impl Unsplit {
    /// Of one lock only the figures change.
    fn is_news_after(&self, before: &Self) -> bool {
        let is_as_hot = self.hot_name.is_some() && self.hot_name == before.hot_name;
        !is_as_hot && self != before
    }
}

impl Worker {
    /// Splits what has too much of something, where that helps.
    pub(super) fn split_oversized(&mut self, now: Duration) {
        for range in self.oversized.take_due(now) {
            if let Some(again) = self.look_at_oversized(now, range) {
                self.oversized.due.insert(range, again);
            }
        }
    }

    /// When the range is to be looked at again; `None`: it has not too much of anything, or is not led
    /// here.
    fn look_at_oversized(&mut self, now: Duration, range: RangeId) -> Option<Duration> {
        let front = self.fronts.get_mut(&range)?;
        front.leading.as_ref()?;
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        let excesses: Vec<_> = self.oversized.excesses(now, front, table).collect();
        if excesses.is_empty() {
            front.unsplit = None;
            return None;
        }
        if front.split_under_way().is_some() {
            return Some(now + RETRY);
        }
        let mut unsplit = None;
        for excess in excesses {
            if excess.of == Measure::Commands && now < self.oversized.next_for_load {
                continue;
            }
            match excess.cut(table, &front.sample) {
                Ok(Some(cut)) => match self.split_for(now, range, excess.of, cut) {
                    Ok(()) => return Some(now + RETRY),
                    Err(why) => {
                        unsplit = Some(why);
                        break;
                    }
                },
                Ok(None) => {}
                Err(one) => {
                    let (because, name) = (one.to_string(), one.name);
                    unsplit.get_or_insert(Unsplit { because, hot_name: Some(name) });
                }
            }
        }
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        if let Some(why) = &unsplit
            && front.unsplit.as_ref().is_none_or(|before| why.is_news_after(before))
        {
            // No name: logs are read by more people than locks.
            let why = match &why.hot_name {
                Some(_) => "most is for one lock, which `sharklock ranges show` names",
                None => &why.because,
            };
            tracing::info!(%range, why, "a range has too much, and is not split");
        }
        front.unsplit = unsplit;
        Some(now + RETRY)
    }

    fn split_for(
        &mut self,
        now: Duration,
        range: RangeId,
        of: Measure,
        cut: Cut,
    ) -> Result<(), Unsplit> {
        let epoch = self.store.descriptor(range).expect("a range has its descriptor").epoch;
        let checked = self.check_split(range, epoch, &cut, Some(of));
        checked.map_err(|why| Unsplit { because: why.to_string(), hot_name: None })?;
        if of == Measure::Commands {
            self.oversized.next_for_load = now + LOAD_PACE;
        }
        let because = cut.to_string();
        let wish = SplitWish { because, excess_of: Some(of), askers: Vec::new() };
        self.want_split(range, epoch, cut, wish);
        Ok(())
    }
}
