//! L2 over the history of slow holders: the lock of one that stood still past its lease passes on within the
//! bound of docs/SEMANTICS.md, *Leases*.

use std::time::Duration;

use sharklock_history::{End, History, Hold, Record, What};

use super::timeline::{Span, group_of};
use super::watch::LeaderChange;

/// The lease of slow holders.
pub const LEASE: Duration = Duration::from_secs(3);
/// What a new leader, and every end, gives beside the lease.
const ELECTION_MAX: Duration = Duration::from_secs(2);
/// 100 ms, a commit, and the way back to a client on a busy machine.
const ANSWER: Duration = Duration::from_secs(1);
/// A fault may leave a range without a leader for so long after its mending (L3).
const LEADERLESS_AFTER: Duration = Duration::from_secs(10);

/// The times of a run that the bound depends on.
#[derive(Clone, Copy, Debug)]
pub struct Times<'a> {
    /// The begin of the run, on the clock of the history.
    pub begin: u64,
    /// When servers were struck, until they were mended.
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
        let group = group_of(name).unwrap_or(0);
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
            let bound = times.bound(group, (from, to), unknown);
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
    /// The bound on the end of a lease that ran between two moments.
    fn bound(&self, group: u32, (from, to): (u64, u64), more: usize) -> Duration {
        let within = |at: u64| from <= at && at <= to;
        let changes = self.leaders.iter().filter(|it| it.group == group && within(it.at)).count();
        let ends = u32::try_from(changes + more + 1).expect("a run has few leaders");
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(self.begin));
        let (from, to) = (since(from), since(to));
        let leaderless = self.struck.iter().map(|(begin, mended)| {
            (*mended + LEADERLESS_AFTER).min(to).saturating_sub((*begin).max(from))
        });
        (LEASE.mul_f64(1.01) + ELECTION_MAX) * ends + leaderless.sum::<Duration>() + ANSWER
    }
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
            let (position, what) = (Position::UNKNOWN, What::Granted(hold));
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
    fn changes_of_the_leader_and_times_without_one_make_it_later() {
        let change =
            |group| LeaderChange { at: 5_000 * MS, range: 1, group, leader: "a".to_owned() };
        assert_eq!(late(15_000, &[], &[change(0)]), 0);
        assert_eq!(late(15_000, &[], &[change(1)]), 1, "another group's");
        let seconds = Duration::from_secs;
        assert_eq!(late(15_000, &[(seconds(2), seconds(3))], &[]), 0);
        assert_eq!(late(15_000, &[(seconds(20), seconds(30))], &[]), 1, "later");
    }
}
