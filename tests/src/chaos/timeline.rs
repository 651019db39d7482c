//! Throughput of a run by tenths of a second and groups of names, out of its history.

use std::time::Duration;

use sharklock_history::{End, History, What};

/// A tenth of a second.
pub const SLOT: Duration = Duration::from_millis(100);

/// The group of a name: `g3/hot` is of group 3.
pub fn group_of(name: &str) -> Option<u32> {
    name.strip_prefix('g')?.split_once('/')?.0.parse().ok()
}

/// A time within a run, from and to, since its begin.
pub type Span = (Duration, Duration);

/// Acknowledged operations of each group in each slot: an acquire and a release are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// By group, then by slot.
    pub groups: Vec<Vec<u32>>,
    /// All operations.
    pub operations: u64,
}

/// How steadily a group was served in the times that count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steadiness {
    /// Of all slots, the share in which something succeeded.
    pub busy: f64,
    /// The longest time without a success.
    pub silence: Duration,
    /// When that began.
    pub silence_from: Duration,
}

impl Timeline {
    /// Of the operations that were acknowledged between two moments of the history's clock.
    pub fn of(history: &History, groups: u32, begin: u64, end: u64) -> Self {
        let slot = u64::try_from(SLOT.as_nanos()).expect("a tenth of a second");
        let slots = usize::try_from(end.saturating_sub(begin) / slot).expect("a run is short");
        let mut timeline = Self { groups: vec![vec![0; slots]; groups as usize], operations: 0 };
        for record in &history.records {
            let What::Granted(hold) = record.what else { continue };
            let released = (hold.end == End::Released).then_some(hold.end_returned);
            for at in [Some(record.returned), released].into_iter().flatten() {
                timeline.operations += 1;
                let Some(since) = at.checked_sub(begin) else { continue };
                let place = usize::try_from(since / slot).expect("a run is short");
                let name = history.names.get(record.lock.0 as usize).map_or("", String::as_str);
                let group = group_of(name);
                let group = group.and_then(|group| timeline.groups.get_mut(group as usize));
                if let Some(count) = group.and_then(|group| group.get_mut(place)) {
                    *count += 1;
                }
            }
        }
        timeline
    }

    /// How steadily a group was served outside of these times; none where nothing is left.
    pub fn steadiness(&self, group: usize, but: &[Span]) -> Option<Steadiness> {
        let counts = |slot: usize| {
            let from = SLOT * u32::try_from(slot).expect("a run is short");
            !but.iter().any(|(begin, end)| from < *end && from + SLOT > *begin)
        };
        let (mut busy, mut all) = (0_u64, 0_u64);
        let (mut silence, mut longest) = (0_u32, (0_u32, 0_usize));
        for (slot, count) in self.groups[group].iter().enumerate() {
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
                longest = longest.max((silence, slot + 1 - silence as usize));
            }
        }
        let silence_from = SLOT * u32::try_from(longest.1).expect("a run is short");
        (all > 0).then(|| Steadiness {
            busy: busy as f64 / all as f64,
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

    fn history(ends: &[(&str, u64)]) -> History {
        let mut recorder = Recorder::default();
        for (token, (name, at)) in (1..).zip(ends) {
            let lock = recorder.lock(name);
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
            let (position, what) = (Position::UNKNOWN, What::Granted(hold));
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

    #[test]
    fn names_are_of_their_groups() {
        assert_eq!((group_of("g3/hot"), group_of("g12/own/1-2")), (Some(3), Some(12)));
        assert_eq!((group_of(""), group_of("hot"), group_of("gx/1")), (None, None, None));
    }

    #[test]
    fn successes_fall_into_their_slots() {
        let history =
            history(&[("g0/a", 1_050), ("g0/a", 1_250), ("g1/a", 1_999), ("g1/a", 5_000)]);
        let timeline = Timeline::of(&history, 2, 1_000 * MS, 2_000 * MS);
        assert_eq!(timeline.operations, 8);
        assert_eq!(timeline.groups[0], [2, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(timeline.groups[1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn silences_are_counted_but_for_the_times_that_do_not_count() {
        let history = history(&[("g0/a", 1_050), ("g0/a", 1_250)]);
        let timeline = Timeline::of(&history, 1, 1_000 * MS, 2_000 * MS);
        let whole = timeline.steadiness(0, &[]).expect("there are slots");
        let ms = Duration::from_millis;
        assert_eq!((whole.silence, whole.silence_from), (ms(700), ms(300)));
        assert!((whole.busy - 0.2).abs() < 1e-9);
        let but = [(ms(350), ms(800))];
        let part = timeline.steadiness(0, &but).expect("there are slots");
        assert_eq!((part.silence, part.silence_from), (ms(200), ms(800)));
        assert!((part.busy - 0.4).abs() < 1e-9, "{part:?}");
        assert_eq!(timeline.steadiness(0, &[(ms(0), ms(1_000))]), None);
    }
}
