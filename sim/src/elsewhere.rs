//! L4: faults elsewhere do not make a range slow. A run whose faults hit some stores only is compared
//! with its twin, the same run without faults: in ranges that have no replica on those stores the
//! slowest of a hundred acquires must not take twice as long, unless as many took so long in the twin.

use std::collections::BTreeMap;

use sharklock_rangemap::RangeId;

use crate::options::Options;
use crate::ranges::Ranges;
use crate::world::MS;

/// Ranges with fewer answers say nothing about the slowest of a hundred.
const ANSWERS_MIN: usize = 400;
/// What is no difference: a turn or two of a worker, a gateway's batch.
const SLACK_NS: u64 = 10 * MS;

/// How long acquires of each range waited for their first answer.
pub type Answers = BTreeMap<RangeId, Waits>;

/// How long acquires of one range waited for their first answer, but for those that were asked before
/// the range had answered anybody: these wait for its first leader, in the twin just as long.
#[derive(Debug, Default)]
pub struct Waits {
    first_answer: Option<u64>,
    ns: Vec<u64>,
}

impl Waits {
    /// An acquire that was asked at `since` is answered at `now`, both nanoseconds.
    pub fn answered(&mut self, since: u64, now: u64) {
        if since >= *self.first_answer.get_or_insert(now) {
            self.ns.push(now - since);
        }
    }

    /// The 99th percentile, if there are answers enough.
    fn slowest_of_100(&self) -> Option<u64> {
        if self.ns.len() < ANSWERS_MIN {
            return None;
        }
        let mut sorted = self.ns.clone();
        sorted.sort_unstable();
        Some(sorted[sorted.len() * 99 / 100])
    }

    /// How many of a million waited for longer.
    fn longer_ppm(&self, than_ns: u64) -> usize {
        self.ns.iter().filter(|ns| **ns > than_ns).count() * 1_000_000 / self.ns.len()
    }
}

/// The ranges that no fault of the run can touch.
pub fn untouched(ranges: &Ranges, options: &Options) -> Vec<RangeId> {
    if options.faulty_stores == 0 {
        return Vec::new();
    }
    let is_untouched = |range: &&sharklock_rangemap::Descriptor| {
        range.replicas.iter().all(|replica| replica.store.0 > options.faulty_stores)
    };
    ranges.all().iter().filter(is_untouched).map(|range| range.range).collect()
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Compared {
    /// Ranges that had answers enough.
    pub count: u64,
    /// Those that were slower than they may be, with the numbers.
    pub slower: Vec<String>,
}

/// Compares ranges of a run with those of its twin without faults.
pub fn compare(ranges: &[RangeId], run: &Answers, calm: &Answers) -> Compared {
    let mut compared = Compared::default();
    for range in ranges {
        let (Some(run), Some(calm)) = (run.get(range), calm.get(range)) else { continue };
        let (Some(slowest), Some(calm_slowest)) = (run.slowest_of_100(), calm.slowest_of_100())
        else {
            continue;
        };
        compared.count += 1;
        let most = 2 * calm_slowest + SLACK_NS;
        // A 99th percentile leaps where a hundredth of the answers is slow in both, as children of
        // splits make them that wait for a leader.
        if slowest > most && run.longer_ppm(most) > 2 * calm.longer_ppm(most) {
            let what = format!(
                "faults elsewhere made range {range} slow: the slowest of 100 acquires waited \
                 {slowest} ns for an answer, and {calm_slowest} ns without those faults"
            );
            compared.slower.push(what);
        }
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One answer of the range begins, then so many come of which a number is slow.
    fn answers(count: usize, slow_count: usize, slow_ns: u64) -> Answers {
        let mut waits = Waits::default();
        for at in 0..=count {
            let wait = if at <= slow_count { slow_ns } else { MS };
            waits.answered(1_000 * MS * at as u64, 1_000 * MS * at as u64 + wait);
        }
        Answers::from([(RangeId(1), waits)])
    }

    fn told(run: Answers, calm: Answers) -> Compared {
        compare(&[RangeId(1)], &run, &calm)
    }

    #[test]
    fn a_range_that_is_slower_than_twice_is_told_and_one_with_few_answers_is_not_compared() {
        let fine = told(answers(1_000, 20, 50 * MS), answers(1_000, 20, 25 * MS));
        assert!(fine.count == 1 && fine.slower.is_empty(), "{fine:?}");
        let slow = told(answers(1_000, 20, 80 * MS), answers(1_000, 20, 25 * MS));
        assert_eq!(slow.slower.len(), 1);
        assert_eq!(told(answers(100, 20, 80 * MS), answers(1_000, 0, 0)).count, 0);
    }

    /// Seed 300001831: five answers of 426 were slow, and the same five of 502 in the twin.
    #[test]
    fn as_many_slow_answers_in_a_twin_that_has_more_answers_say_nothing() {
        let same = told(answers(426, 5, 600 * MS), answers(502, 5, 600 * MS));
        assert!(same.count == 1 && same.slower.is_empty(), "{same:?}");
        let more = told(answers(426, 15, 600 * MS), answers(502, 5, 600 * MS));
        assert_eq!(more.slower.len(), 1);
    }

    #[test]
    fn who_asks_before_a_range_has_answered_anybody_is_not_counted() {
        let mut waits = Waits::default();
        for (since, now) in [(10, 500), (20, 510), (500, 501), (700, 900)] {
            waits.answered(since, now);
        }
        assert_eq!(waits.ns, [1, 200]);
    }
}
