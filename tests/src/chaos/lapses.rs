//! L2 over the history of slow holders: the lock of one that stood still past its lease passes on within the
//! bound of docs/SEMANTICS.md, *Leases*.

use std::time::Duration;

use sharklock_history::{End, History, Hold, Record, What};

use super::timeline::Span;
use super::watch::LeaderChange;

/// The lease of slow holders.
pub const LEASE: Duration = Duration::from_secs(3);
/// What a new leader, and every end, gives beside the lease.
const ELECTION_MAX: Duration = Duration::from_secs(2);
/// 100 ms, a commit, and the way back to a client on a busy machine.
const ANSWER: Duration = Duration::from_secs(1);

/// The times of a run that the bound depends on.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// The begin of the run, on the clock of the history.
    pub begin: u64,
    /// When servers were struck, until every range granted a free lock again: in order, and apart.
    pub struck: &'a [Span],
    /// Who led when.
    pub leaders: &'a [LeaderChange],
}

/// Locks that passed on too late, in words.
pub fn late_ends(history: &History, times: &Times<'_>) -> Vec<String> {
    let mut late = Vec::new();
    for (lock, name) in (0_u32..).zip(&history.names) {
        if !name.ends_with("/slow") {
            continue;
        }
        let of_lock = || history.records.iter().filter(move |it| it.lock.0 == lock);
        let mut grants: Vec<(&Record, Hold)> = of_lock()
            .filter_map(|it| match it.what {
                What::Granted(hold) => Some((it, hold)),
                _ => None,
            })
            .collect();
        grants.sort_unstable_by_key(|(_, hold)| hold.token);
        for pair in grants.windows(2) {
            let ((first, hold), (next, _)) = (pair[0], pair[1]);
            // Somebody was waiting when the lease ended.
            if hold.end != End::Lapsed || next.invoked > hold.valid_until {
                continue;
            }
            let (from, to) = (first.returned, next.returned);
            // Whoever has no answer may have been granted, and is a dead holder too.
            let unknown = of_lock().filter(|it| matches!(it.what, What::Unknown { .. }));
            let unknown = unknown.filter(|it| it.invoked < to && it.returned > from).count();
            // A split may have given the lock to another range meanwhile.
            let ranges = [first, next].map(|it| u64::from(it.position.range));
            let changes = times.changes(ranges, (from, to));
            let bound = times.bound((hold.valid_until, to), changes + unknown);
            let took = Duration::from_nanos(to.saturating_sub(hold.valid_until));
            if took > bound {
                let at = Duration::from_nanos(hold.valid_until.saturating_sub(times.begin));
                late.push(format!(
                    "{:.1} s: {name} passed on {:.1} s after its lease, and not within {:.1} s (L2)",
                    at.as_secs_f64(),
                    took.as_secs_f64(),
                    bound.as_secs_f64()
                ));
            }
        }
    }
    late
}

impl Times<'_> {
    /// Changes of the leader of either range between two moments.
    fn changes(&self, ranges: [u64; 2], (from, to): (u64, u64)) -> usize {
        let within = |it: &&LeaderChange| from <= it.at && it.at <= to;
        self.leaders.iter().filter(|it| ranges.contains(&it.range)).filter(within).count()
    }

    /// The bound on the time from the end of a lease as its client saw it until the next grant, with so many
    /// more leases that begin anew. While a majority is away no lease ends: the time in which servers were
    /// struck after that moment comes on top, once, however many strikes there were.
    fn bound(&self, (from, to): (u64, u64), more: usize) -> Duration {
        let ends = u32::try_from(more + 1).expect("a run has few leaders");
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(self.begin));
        let (from, to) = (since(from), since(to));
        let struck = self
            .struck
            .iter()
            .map(|(begin, recovered)| (*recovered).min(to).saturating_sub((*begin).max(from)));
        (LEASE.mul_f64(1.01) + ELECTION_MAX) * ends + struck.sum::<Duration>() + ANSWER
    }
}

/// The times that lie in any of these, in order and apart.
pub fn union_of(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut all: Vec<Span> = Vec::new();
    for (begin, end) in spans {
        match all.last_mut() {
            Some((_, last)) if begin <= *last => *last = end.max(*last),
            _ => all.push((begin, end)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use sharklock_history::{Mode, Position, Recorder};

    use super::*;

    const MS: u64 = 1_000_000;

    /// A holder whose lease ended at 4 s, and one who waited from 2 s on and was granted at `next`.
    fn history(next: u64) -> History {
        let mut recorder = Recorder::default();
        let lock = recorder.lock("g0/slow");
        let mut grant = |token, (invoked, returned): (u64, u64), valid_until, end| {
            let hold = Hold {
                token,
                fence_floor: token,
                valid_until: valid_until * MS,
                end_invoked: valid_until * MS,
                end_returned: valid_until * MS,
                mode: Mode::Exclusive,
                reentered: false,
                end,
            };
            let position = Position { range: 4, version: 1, applied_index: token };
            let what = What::Granted(hold);
            let (invoked, returned) = (invoked * MS, returned * MS);
            let (session, acquisition) = (1, token);
            recorder.push(Record { lock, session, acquisition, invoked, returned, position, what });
        };
        grant(1, (900, 1_000), 4_000, End::Lapsed);
        grant(2, (2_000, next), next + 1, End::Released);
        History::merge([recorder])
    }

    fn late(next: u64, struck: &[Span], leaders: &[LeaderChange]) -> usize {
        late_ends(&history(next), &Times { begin: 0, struck, leaders }).len()
    }

    #[test]
    fn a_lock_passes_on_within_the_lease_and_an_election() {
        assert_eq!(late(10_000, &[], &[]), 0);
        assert_eq!(late(10_100, &[], &[]), 1);
    }

    #[test]
    fn changes_of_the_leader_make_it_later() {
        let change = |range| LeaderChange { at: 5_000 * MS, range, leader: "a".to_owned() };
        assert_eq!(late(15_000, &[], &[change(4)]), 0);
        assert_eq!(late(15_000, &[], &[change(5)]), 1, "another range's");
    }

    #[test]
    fn times_without_a_majority_make_it_later_once() {
        let secs = Duration::from_secs;
        assert_eq!(late(15_000, &[(secs(2), secs(10))], &[]), 0);
        assert_eq!(late(15_000, &[(secs(1), secs(4))], &[]), 1, "before the end of the lease");
        assert_eq!(late(15_000, &[(secs(20), secs(30))], &[]), 1, "later");
        let struck = vec![(secs(7), secs(9)), (secs(4), secs(6)), (secs(5), secs(8))];
        assert_eq!(union_of(struck.clone()), [(secs(4), secs(9))]);
        assert_eq!(late(15_100, &union_of(struck), &[]), 1, "5 s, and not 7 s");
    }
}
