//! Whether a range is busy for long, and where a split would share its work out (D12). Soft state of
//! its leader.
//!
//! A range counts as busy once each second of a whole streak had more commands than the limit, so that
//! a spike splits nothing. Beside the count a sample of the names that were used is kept over the
//! streak. A name is a good bound if enough of the work lies on either side; where most of the work is
//! for one lock, no bound helps.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::Name;

/// The time over which commands are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// A range that was busy in so many windows in a row counts as busy (D12).
const STREAK: u32 = 10;

/// Names in the sample: of a side that has 30 % of the work it holds less than a fifth once in ten
/// thousand times.
const SAMPLE_MAX: usize = 256;

/// Fewer say too little.
const SAMPLE_MIN: usize = 64;

/// Of the work so much must lie on either side of a bound, in percent.
pub const SIDE_PERCENT_MIN: u64 = 20;

/// A bound that would share out what a range has too much of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadCut {
    /// About half of the work is for names from this one on.
    At(Name),
    /// Most of the work is for this lock.
    OneName(Name),
}

/// The commands of one range: how many came in this second, in how many in a row they were too many,
/// and a sample of their names.
///
/// Invariants:
/// - `sample` has at most [`SAMPLE_MAX`] names, each with its draw, which is a multiple of `stride`;
/// - `stride` is a power of two;
/// - `streak` windows in a row, up to the last whole one, had more commands than the limit.
#[derive(Debug)]
pub struct LoadSample {
    since: Duration,
    count: u64,
    per_second: u64,
    streak: u32,
    drawn: u64,
    stride: u64,
    sample: Vec<(u64, Name)>,
}

impl Default for LoadSample {
    fn default() -> Self {
        Self::begin(Duration::ZERO)
    }
}

impl LoadSample {
    /// Nothing has happened yet.
    pub fn begin(now: Duration) -> Self {
        Self {
            since: now,
            count: 0,
            per_second: 0,
            streak: 0,
            drawn: 0,
            stride: 1,
            sample: Vec::new(),
        }
    }

    /// These commands are proposed, each for a lock of this name. `limit`: so many in a second are not
    /// too many.
    pub fn count<'n>(
        &mut self,
        now: Duration,
        limit: u64,
        names: impl IntoIterator<Item = &'n Name>,
    ) {
        self.pass(now, limit);
        names.into_iter().for_each(|name| self.draw(name));
    }

    fn draw(&mut self, name: &Name) {
        self.count += 1;
        self.drawn += 1;
        let draw = scattered(self.drawn);
        if !draw.is_multiple_of(self.stride) {
            return;
        }
        while self.sample.len() >= SAMPLE_MAX {
            self.stride *= 2;
            self.sample.retain(|(draw, _)| draw.is_multiple_of(self.stride));
        }
        if draw.is_multiple_of(self.stride) {
            self.sample.push((draw, name.clone()));
        }
    }

    /// Ends the windows that are over.
    pub fn pass(&mut self, now: Duration, limit: u64) {
        let passed = now.saturating_sub(self.since);
        if passed < WINDOW {
            return;
        }
        // Whoever looks late has one window that was longer: as a whole it counts once.
        let per_second = u128::from(self.count) * 1_000 / passed.as_millis().max(1);
        self.per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
        self.streak = if self.per_second > limit { self.streak + 1 } else { 0 };
        (self.since, self.count) = (now, 0);
        if self.streak == 0 {
            // By the next streak others may be at work.
            self.sample.clear();
            self.stride = 1;
        }
    }

    /// Commands per second in the last window, if the range has been busy for a whole streak.
    pub fn too_many(&self) -> Option<u64> {
        (self.streak >= STREAK).then_some(self.per_second)
    }

    /// The bound that shares the work of this streak out. `None`: too little is known of it.
    pub fn cut(&self) -> Option<LoadCut> {
        let all = self.sample.len();
        if all < SAMPLE_MIN {
            return None;
        }
        let mut by_name: BTreeMap<&Name, usize> = BTreeMap::new();
        for (_, name) in &self.sample {
            *by_name.entry(name).or_default() += 1;
        }
        let mut below = 0;
        let mut best: Option<(usize, &Name)> = None;
        for (name, count) in &by_name {
            let smaller = below.min(all - below);
            let is_enough = is_shared(below as u64, (all - below) as u64);
            if is_enough && best.is_none_or(|(most, _)| smaller > most) {
                best = Some((smaller, name));
            }
            below += count;
        }
        let most = || by_name.iter().max_by_key(|(_, count)| **count).map(|(name, _)| *name);
        match best {
            Some((_, name)) => Some(LoadCut::At(name.clone())),
            None => most().map(|name| LoadCut::OneName(name.clone())),
        }
    }
}

/// Whether both sides have enough of the whole.
pub fn is_shared(below: u64, above: u64) -> bool {
    let (smaller, all) = (below.min(above), below.saturating_add(above));
    all > 0 && smaller.saturating_mul(100) >= all.saturating_mul(SIDE_PERCENT_MIN)
}

/// A number that looks as if it were drawn, for the n-th command: clients that take their names in turn
/// would show each 2^k-th command the same name (the finalizer of SplitMix64).
fn scattered(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 100;
    const MS: Duration = Duration::from_millis(1);

    /// So many seconds with a command each millisecond.
    fn busy(
        sample: &mut LoadSample,
        from: Duration,
        secs: u32,
        name: impl Fn(u32) -> String,
    ) -> Duration {
        for at in 0..secs * 1_000 {
            sample.count(from + MS * at, LIMIT, [&name(at).as_str().into()]);
        }
        from + Duration::from_secs(secs.into())
    }

    fn begun() -> LoadSample {
        LoadSample::begin(Duration::ZERO)
    }

    #[test]
    fn a_range_that_is_busy_for_long_is_cut_where_half_of_its_work_is() {
        let mut sample = begun();
        // As many clients do it: in turn.
        let names = |at| format!("n{:03}", at % 256);
        let now = busy(&mut sample, Duration::ZERO, 10, names);
        assert_eq!(sample.too_many(), None, "the tenth window is not over");
        sample.pass(now, LIMIT);
        assert_eq!(sample.too_many(), Some(1_000));
        let Some(LoadCut::At(name)) = sample.cut() else { panic!("{:?}", sample.cut()) };
        assert!(("n100".into()..="n156".into()).contains(&name), "{name:?} is about the middle");
        assert!(sample.sample.len() <= SAMPLE_MAX);
    }

    #[test]
    fn a_spike_and_a_pause_begin_anew() {
        let mut sample = begun();
        let now = busy(&mut sample, Duration::ZERO, 9, |at| format!("n{at}"));
        let later = now + Duration::from_secs(20);
        sample.pass(later, LIMIT);
        assert_eq!((sample.streak, sample.sample.len()), (0, 0));
        let now = busy(&mut sample, later, 9, |at| format!("n{at}"));
        sample.pass(now, LIMIT);
        assert_eq!(sample.too_many(), None);
    }

    #[test]
    fn one_lock_cannot_be_cut_and_is_named() {
        let mut sample = begun();
        let hot = |at: u32| if at.is_multiple_of(8) { format!("n{at}") } else { "hot".to_owned() };
        busy(&mut sample, Duration::ZERO, 11, hot);
        assert_eq!(sample.cut(), Some(LoadCut::OneName("hot".into())));
        // The half of the work beside it can be led elsewhere.
        let mut sample = begun();
        let half = |at: u32| if at.is_multiple_of(2) { "hot".to_owned() } else { format!("n{at}") };
        busy(&mut sample, Duration::ZERO, 11, half);
        let Some(LoadCut::At(name)) = sample.cut() else { panic!("{:?}", sample.cut()) };
        assert!(name > "hot".into(), "{name:?}");
    }

    /// The lower half has work, too, so the bound is never the first name in use.
    #[test]
    fn a_bound_has_work_on_both_sides() {
        for names in 2..40 {
            let mut sample = begun();
            busy(&mut sample, Duration::ZERO, 11, |at| format!("n{:02}", at % names));
            match sample.cut() {
                Some(LoadCut::At(name)) => assert!(name > "n00".into(), "{name:?} of {names}"),
                other => panic!("{other:?} of {names} names"),
            }
        }
    }
}
