//! L2 over the history of slow holders: the lock of one that stood still past its lease passes on within the
//! bound of docs/SEMANTICS.md, *Leases*. And L3 lock by lock, over names that nobody else wants.

use std::time::Duration;

use sharklock_history::{End, History, Hold, Record, What};

use super::load;
use super::timeline::Span;
use super::watch::{Blind, LeaderChange};

/// The lease of slow holders.
pub const LEASE: Duration = Duration::from_secs(3);
/// What a new leader, and every end, gives beside the lease.
const ELECTION_MAX: Duration = Duration::from_secs(2);
/// After a strike a free lock is granted again within this (docs/SEMANTICS.md, L3).
const FOUND_AGAIN_MAX: Duration = Duration::from_secs(10);
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
    /// When nobody could tell.
    pub blind: &'a [Blind],
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
            let bound = times.bound(LEASE, (hold.valid_until, to), changes + unknown);
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

/// Names of clients' own that were not granted in time, in words: nobody else wants them, so that only a hold
/// of which its own client has not heard, or a strike, can stand in the way.
pub fn stuck_names(history: &History, times: &Times<'_>) -> Vec<String> {
    let is_own = |name: &String| name.contains("!own-");
    let mut waits: Vec<Option<Wait>> =
        history.names.iter().map(|name| is_own(name).then(Wait::default)).collect();
    let mut records: Vec<&Record> = history.records.iter().collect();
    records.sort_by_key(|it| it.invoked);
    let mut stuck = Vec::new();
    for record in records {
        let name = record.lock.0 as usize;
        let Some(wait) = &mut waits[name] else { continue };
        let since = *wait.since.get_or_insert(record.invoked);
        let granted = match record.what {
            What::Granted(_) => true,
            What::TimedOut { .. } => false,
            // Without an answer it may have been granted. That it has none is the affair of whoever cut its
            // client off.
            What::Unknown { .. } => {
                wait.since = None;
                continue;
            }
            _ => continue,
        };
        let ranges = [wait.range, u64::from(record.position.range)];
        if let Some(late) = times.stuck((since, record.returned), ranges, &history.names[name]) {
            stuck.push(late);
            wait.since = None;
        }
        if granted {
            *wait = Wait { since: None, range: u64::from(record.position.range) };
        }
    }
    stuck
}

/// A name between its last grant and the next.
#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    /// The first call after the last grant.
    since: Option<u64>,
    /// The range of the last grant; 0: there was none.
    range: u64,
}

impl Times<'_> {
    /// Changes of the leader of either range between two moments; one for each time in which nobody saw them.
    fn changes(&self, ranges: [u64; 2], (from, to): (u64, u64)) -> usize {
        let within = |it: &&LeaderChange| from <= it.at && it.at <= to;
        let seen = self.leaders.iter().filter(|it| ranges.contains(&it.range)).filter(within);
        let unseen = self.blind.iter().filter(|it| it.from <= to && from <= it.until);
        seen.count() + unseen.count()
    }

    /// Says so if a name that only its own client wants was not granted within the bound.
    fn stuck(&self, (from, to): (u64, u64), ranges: [u64; 2], name: &str) -> Option<String> {
        let took = Duration::from_nanos(to.saturating_sub(from));
        // Nearly all: no leader and no strike has to be looked for.
        if took <= load::LEASE {
            return None;
        }
        let is_struck = !self.struck_between((from, to)).is_zero();
        let found_again = if is_struck { FOUND_AGAIN_MAX } else { Duration::ZERO };
        let changes = self.changes(ranges, (from, to));
        let bound = self.bound(load::LEASE, (from, to), changes) + found_again;
        let at = Duration::from_nanos(from.saturating_sub(self.begin)).as_secs_f64();
        let (took, most) = (took.as_secs_f64(), bound.as_secs_f64());
        let told = format!(
            "{at:.1} s: nobody else wants {name}, and it was not granted for {took:.1} s; {most:.1} s is \
             the most (L3)"
        );
        (took > most).then_some(told)
    }

    /// The bound on the time from the end of such a lease as its client saw it until the next grant, with so many
    /// more leases that begin anew. While a majority is away no lease ends: the time in which servers were
    /// struck after that moment comes on top, once, however many strikes there were.
    fn bound(&self, lease: Duration, (from, to): (u64, u64), more: usize) -> Duration {
        let ends = u32::try_from(more + 1).expect("a run has few leaders");
        (lease.mul_f64(1.01) + ELECTION_MAX) * ends + self.struck_between((from, to)) + ANSWER
    }

    /// Adds up the time in which servers were struck between two moments.
    fn struck_between(&self, (from, to): (u64, u64)) -> Duration {
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(self.begin));
        let (from, to) = (since(from), since(to));
        let both =
            |(begin, recovered): &Span| (*recovered).min(to).saturating_sub((*begin).max(from));
        self.struck.iter().map(both).sum()
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
        late_ends(&history(next), &Times { begin: 0, struck, leaders, blind: &[] }).len()
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

    /// How often a client's own name was granted too late, and a hot one: it was granted at 1 s, waited for
    /// anew from 2 s on and every 20 s after that, and granted again at `at`, if at all.
    fn own(waits: u64, at: Option<u64>, times: &Times<'_>) -> usize {
        let mut recorder = Recorder::default();
        let hold = |token| Hold {
            token,
            fence_floor: token,
            valid_until: 9_000 * MS,
            end_invoked: 1_500 * MS,
            end_returned: 1_500 * MS,
            mode: Mode::Exclusive,
            reentered: false,
            end: End::Released,
        };
        for (name, session) in [("g0/own!own-1-1", 1), ("g0/hot", 2)] {
            let lock = recorder.lock(name);
            let mut note = |acquisition, range, (invoked, returned): (u64, u64), what| {
                let position = Position { range, version: 1, applied_index: acquisition };
                let (invoked, returned) = (invoked * MS, returned * MS);
                recorder.push(Record {
                    lock,
                    session,
                    acquisition,
                    invoked,
                    returned,
                    position,
                    what,
                });
            };
            note(1, 4, (900, 1_000), What::Granted(hold(1)));
            for wait in 0..waits {
                let from = 2_000 + 20_000 * wait;
                // A call that was not granted says nothing of its range.
                note(2 + wait, 0, (from, from + 20_000), What::TimedOut { holder: 0 });
            }
            if let Some(at) = at {
                note(99, 4, (2_000 + 20_000 * waits, at), What::Granted(hold(99)));
            }
        }
        stuck_names(&History::merge([recorder]), times).len()
    }

    #[test]
    fn a_name_that_nobody_else_wants_is_granted_at_once_or_after_a_lease_or_a_strike() {
        let secs = Duration::from_secs;
        let times = Times { begin: 0, struck: &[], leaders: &[], blind: &[] };
        assert_eq!(own(0, Some(13_000), &times), 0, "a hold of which its client knows nothing");
        assert_eq!(own(0, Some(14_000), &times), 1, "and not the hot lock, which others want");
        assert_eq!(own(1, None, &times), 1);
        let struck = [(secs(5), secs(7))];
        let times = Times { struck: &struck, ..times };
        assert_eq!(own(1, Some(25_000), &times), 0);
        assert_eq!(own(1, Some(26_000), &times), 1, "since the first wait");
        let changes = [LeaderChange { at: 30_000 * MS, range: 4, leader: "a".to_owned() }];
        let times = Times { leaders: &changes, ..times };
        assert_eq!(own(1, Some(35_000), &times), 0);
        assert_eq!(own(2, None, &times), 1, "however short each wait is");
        let blind = [Blind { from: 31_000 * MS, until: 33_000 * MS, why: String::new() }];
        assert_eq!(own(2, None, &Times { blind: &blind, ..times }), 0);
    }
}
