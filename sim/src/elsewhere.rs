//! L4: faults elsewhere do not make a range slow. A run whose faults hit some stores only is compared
//! with its twin, the same run without faults: in ranges that have no replica on those stores the
//! slowest of a hundred acquires must not take twice as long.

use std::collections::BTreeMap;

use sharklock_rangemap::RangeId;

use crate::options::Options;
use crate::ranges::Ranges;
use crate::world::MS;

/// Ranges with fewer answers say nothing about the slowest of a hundred.
const ANSWERS_MIN: usize = 400;
/// What is no difference: a turn or two of a worker, a gateway's batch.
const SLACK_NS: u64 = 10 * MS;

/// How long acquires of a range waited for their first answer, nanoseconds.
pub type AnsweredNs = BTreeMap<RangeId, Vec<u64>>;

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
pub fn compare(ranges: &[RangeId], run: &AnsweredNs, calm: &AnsweredNs) -> Compared {
    let mut compared = Compared::default();
    for range in ranges {
        let of = |all: &AnsweredNs| all.get(range).and_then(|answers| slowest_of_100(answers));
        let (Some(run), Some(calm)) = (of(run), of(calm)) else { continue };
        compared.count += 1;
        if run > 2 * calm + SLACK_NS {
            let what = format!(
                "faults elsewhere made range {range} slow: the slowest of 100 acquires waited {run} \
                 ns for an answer, and {calm} ns without those faults"
            );
            compared.slower.push(what);
        }
    }
    compared
}

/// The 99th percentile.
fn slowest_of_100(answers: &[u64]) -> Option<u64> {
    if answers.len() < ANSWERS_MIN {
        return None;
    }
    let mut sorted = answers.to_vec();
    sorted.sort_unstable();
    Some(sorted[sorted.len() * 99 / 100])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_slower_than_twice_is_told_and_one_with_few_answers_is_not_compared() {
        let answers = |count: usize, slow: u64| {
            let mut all = vec![MS; count];
            all[..count / 50].fill(slow);
            AnsweredNs::from([(RangeId(1), all)])
        };
        let told = |run, calm| compare(&[RangeId(1)], &run, &calm);
        let fine = told(answers(1_000, 50 * MS), answers(1_000, 25 * MS));
        assert!(fine.count == 1 && fine.slower.is_empty(), "{fine:?}");
        let slow = told(answers(1_000, 80 * MS), answers(1_000, 25 * MS));
        assert_eq!(slow.slower.len(), 1);
        assert_eq!(told(answers(100, 80 * MS), answers(1_000, MS)).count, 0);
    }
}
