//! Throughput of a run by tenths of a second and ranges, out of its history.

use std::collections::BTreeMap;
use std::time::Duration;

use sharklock_history::{End, History, What};

use super::watch::RangeSeen;

/// A tenth of a second.
pub const SLOT: Duration = Duration::from_millis(100);
/// Until the clients who see to it that every range has work have heard of a new one.
const WORK_COMES_WITHIN: Duration = Duration::from_secs(3);

/// A time within a run, from and to, since its begin.
pub type Span = (Duration, Duration);

/// Acknowledged operations in each slot: an acquire and a release are two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// All of them, by slot.
    pub total: Vec<u32>,
    /// By range, in the order of their ids.
    pub ranges: Vec<RangeLine>,
    /// All operations, those before the begin and after the end included.
    pub operations: u64,
}

/// The operations of one range. A release counts for the range that granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeLine {
    /// Its id.
    pub range: u64,
    /// Its first name; empty: from the begin of all.
    pub start: String,
    /// When it was first seen, or first granted. Zero: it was there from the begin.
    pub born: Duration,
    /// By slot.
    pub counts: Vec<u32>,
}

/// How steadily a range was served in the times that count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steadiness {
    /// How long these times are together.
    pub counted: Duration,
    /// Of all slots in them, the share in which something succeeded.
    pub busy: f64,
    /// The longest time without a success.
    pub silence: Duration,
    /// When that began.
    pub silence_from: Duration,
}

impl Timeline {
    /// Of the operations that were acknowledged between two moments of the history's clock, on the ranges
    /// that were seen.
    pub fn of(
        history: &History,
        seen: &BTreeMap<u64, RangeSeen>,
        (begin, end): (u64, u64),
    ) -> Self {
        let slot = u64::try_from(SLOT.as_nanos()).expect("a tenth of a second");
        let slots = usize::try_from(end.saturating_sub(begin) / slot).expect("a run is short");
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(begin));
        let line = |(range, it): (&u64, &RangeSeen)| {
            let (start, born) = (it.start.clone(), since(it.since));
            (*range, RangeLine { range: *range, start, born, counts: vec![0; slots] })
        };
        let mut ranges: BTreeMap<u64, RangeLine> = seen.iter().map(line).collect();
        let (mut total, mut operations) = (vec![0; slots], 0);
        for record in &history.records {
            let What::Granted(hold) = record.what else { continue };
            let mut range = ranges.get_mut(&u64::from(record.position.range));
            let released = (hold.end == End::Released).then_some(hold.end_returned);
            for at in [Some(record.returned), released].into_iter().flatten() {
                operations += 1;
                if let Some(range) = &mut range {
                    range.born = range.born.min(since(at));
                }
                let Some(after) = at.checked_sub(begin) else { continue };
                let place = usize::try_from(after / slot).expect("a run is short");
                let Some(count) = total.get_mut(place) else { continue };
                *count += 1;
                if let Some(range) = &mut range {
                    range.counts[place] += 1;
                }
            }
        }
        Self { total, ranges: ranges.into_values().collect(), operations }
    }
}

impl Timeline {
    /// All slots as comma-separated values: the second at which one begins, all operations, and those of each
    /// range. A picture of an hour averages many of them.
    pub fn csv(&self) -> String {
        let names = self.ranges.iter().map(|it| format!(",{}", it.range));
        let mut csv = format!("second,all{}\n", names.collect::<String>());
        for (slot, total) in self.total.iter().enumerate() {
            let counts = self.ranges.iter().map(|it| format!(",{}", it.counts[slot]));
            let counts: String = counts.collect();
            csv.push_str(&format!("{}.{},{total}{counts}\n", slot / 10, slot % 10));
        }
        csv
    }
}

impl RangeLine {
    /// How it is called in reports.
    pub fn name(&self) -> String {
        let Self { range, start, .. } = self;
        if start.is_empty() { format!("{range}") } else { format!("{range} from {start}") }
    }

    /// How steadily the range was served outside of these times; none where nothing is left. A range that
    /// was born meanwhile counts from when it has work.
    pub fn steadiness(&self, but: &[Span]) -> Option<Steadiness> {
        let from_begin = self.born.is_zero();
        let begin = if from_begin { Duration::ZERO } else { self.born + WORK_COMES_WITHIN };
        let counts = |slot: usize| {
            let from = SLOT * u32::try_from(slot).expect("a run is short");
            from >= begin && !but.iter().any(|(begin, end)| from < *end && from + SLOT > *begin)
        };
        let (mut busy, mut all) = (0_u32, 0_u32);
        let (mut silence, mut longest) = (0_u32, (0_u32, 0_usize));
        for (slot, count) in self.counts.iter().enumerate() {
            if !counts(slot) {
                silence = 0;
                continue;
            }
            all += 1;
            if *count > 0 {
                busy += 1;
                silence = 0;
            } else {
                silence += 1;
                // Of two that are as long, the first.
                if silence > longest.0 {
                    longest = (silence, slot + 1 - silence as usize);
                }
            }
        }
        let silence_from = SLOT * u32::try_from(longest.1).expect("a run is short");
        (all > 0).then(|| Steadiness {
            counted: SLOT * all,
            busy: f64::from(busy) / f64::from(all),
            silence: SLOT * longest.0,
            silence_from,
        })
    }
}

#[cfg(test)]
mod tests {
    use sharklock_history::{Hold, Mode, Position, Record, Recorder};

    use super::*;

    const MS: u64 = 1_000_000;

    /// Locks of these ranges that were granted and released at these milliseconds.
    fn history(ends: &[(u32, u64)]) -> History {
        let mut recorder = Recorder::default();
        for (token, (range, at)) in (1..).zip(ends) {
            let lock = recorder.lock("a");
            let hold = Hold {
                token,
                fence_floor: token,
                valid_until: at * MS + 1,
                end_invoked: at * MS,
                end_returned: at * MS,
                mode: Mode::Exclusive,
                reentered: false,
                end: End::Released,
            };
            let position = Position { range: *range, version: 1, applied_index: 1 };
            let what = What::Granted(hold);
            let (invoked, returned) = (at * MS, at * MS);
            recorder.push(Record {
                lock,
                session: 1,
                acquisition: token,
                invoked,
                returned,
                position,
                what,
            });
        }
        History::merge([recorder])
    }

    /// The time line of the second from 1 s on, with range 1 from the begin and range 2 seen at `born`.
    fn timeline(ends: &[(u32, u64)], born: u64) -> Timeline {
        let seen = |since: u64| RangeSeen { start: String::new(), since: since * MS };
        let seen = BTreeMap::from([(1, seen(900)), (2, seen(born))]);
        Timeline::of(&history(ends), &seen, (1_000 * MS, 2_000 * MS))
    }

    #[test]
    fn successes_fall_into_the_slots_of_their_ranges() {
        let timeline = timeline(&[(1, 1_050), (1, 1_250), (2, 1_999), (2, 5_000), (7, 1_100)], 900);
        assert_eq!(timeline.operations, 10);
        assert_eq!(timeline.ranges[0].counts, [2, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(timeline.ranges[1].counts, [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(timeline.total, [2, 2, 2, 0, 0, 0, 0, 0, 0, 2]);
        assert!(timeline.csv().starts_with("second,all,1,2\n0.0,2,2,0\n0.1,2,0,0\n0.2,2,2,0\n"));
    }

    #[test]
    fn silences_are_counted_but_for_the_times_that_do_not_count() {
        let range = &timeline(&[(1, 1_050), (1, 1_250)], 900).ranges[0];
        let whole = range.steadiness(&[]).expect("there are slots");
        let ms = Duration::from_millis;
        assert_eq!((whole.silence, whole.silence_from), (ms(700), ms(300)));
        assert!((whole.busy - 0.2).abs() < 1e-9);
        let but = [(ms(350), ms(800))];
        let part = range.steadiness(&but).expect("there are slots");
        assert_eq!((part.silence, part.silence_from), (ms(200), ms(800)));
        assert!((part.busy - 0.4).abs() < 1e-9, "{part:?}");
        assert_eq!(range.steadiness(&[(ms(0), ms(1_000))]), None);
    }

    #[test]
    fn a_range_counts_from_when_it_has_work() {
        let seen = RangeSeen { start: "g1/".to_owned(), since: 3_000 * MS };
        // It granted before it was seen, and then nothing for half a second of the last two.
        let mut ends = vec![(2, 2_500)];
        ends.extend((5_500..7_500).step_by(100).map(|at| (2, at)));
        let seen = BTreeMap::from([(2, seen)]);
        let line = &Timeline::of(&history(&ends), &seen, (1_000 * MS, 8_000 * MS)).ranges[0];
        assert_eq!((line.born, line.name().as_str()), (Duration::from_millis(1_500), "2 from g1/"));
        let it = line.steadiness(&[]).expect("there are slots");
        assert_eq!((it.silence, it.silence_from.as_millis()), (Duration::from_millis(500), 6_500));
        assert!((it.busy - 0.8).abs() < 1e-9, "{it:?}");
    }
}
