//! S7: first come, first served.

use crate::check::once::each;
use crate::check::{Kind, Report};
use crate::record::{LockId, Record, What};

/// An acquisition that was granted, and what is known of its wait.
struct Turn {
    lock: LockId,
    token: u64,
    invoked: u64,
    /// When its client had first been told that it stands in the queue; `u64::MAX`: it was not.
    in_queue_by: u64,
}

/// A place told to an acquisition that was granted in the end.
struct Told {
    lock: LockId,
    token: u64,
    invoked: u64,
    returned: u64,
    place: u32,
}

/// Two proofs that one stood ahead of another: it was known to queue before the other called; or
/// it was told a place, and the other, to a later call, that one or a place further back. (Places
/// only shrink, and no two share one.)
pub(super) fn check(by_acquisition: &[&Record], report: &mut Report) {
    let mut turns: Vec<Turn> = Vec::new();
    let mut told: Vec<Told> = Vec::new();
    for group in each(by_acquisition) {
        let Some((granted, token)) = group.iter().find_map(|record| match record.what {
            What::Granted(hold) if !hold.reentered => Some((record, hold.token)),
            _ => None,
        }) else {
            continue;
        };
        let lock = granted.lock;
        let mut in_queue_by = u64::MAX;
        for record in group {
            let What::Queued { place } = record.what else { continue };
            let (invoked, returned) = (record.invoked, record.returned);
            in_queue_by = in_queue_by.min(returned);
            told.push(Told { lock, token, invoked, returned, place });
        }
        turns.push(Turn { lock, token, invoked: granted.invoked, in_queue_by });
    }
    check_turns(turns, report);
    check_places(told, report);
}

fn check_turns(mut turns: Vec<Turn>, report: &mut Report) {
    turns.sort_unstable_by_key(|turn| (turn.lock, turn.token));
    for lock in turns.chunk_by(|a, b| a.lock == b.lock) {
        // Of all with larger tokens, the one that was known to queue first.
        let mut first: Option<&Turn> = None;
        for turn in lock.iter().rev() {
            if let Some(ahead) = first
                && ahead.in_queue_by < turn.invoked
            {
                report.violation(Kind::Overtaken, turn.lock, || {
                    format!(
                        "token {} went to a call made at {}, and only {} to one that stood in the \
                         queue by {}",
                        turn.token, turn.invoked, ahead.token, ahead.in_queue_by
                    )
                });
            }
            if first.is_none_or(|ahead| turn.in_queue_by < ahead.in_queue_by) {
                first = Some(turn);
            }
        }
    }
}

fn check_places(mut told: Vec<Told>, report: &mut Report) {
    told.sort_unstable_by_key(|told| (told.lock, told.invoked));
    for lock in told.chunk_by(|a, b| a.lock == b.lock) {
        let mut arrived: Vec<&Told> = lock.iter().collect();
        arrived.sort_unstable_by_key(|told| told.returned);
        let mut arrived = arrived.into_iter().peekable();
        let mut ahead = LargestUpTo::of(lock.iter().map(|told| told.place).collect());
        for later in lock {
            while let Some(told) = arrived.next_if(|told| told.returned < later.invoked) {
                ahead.insert(told.place, told.token);
            }
            let largest = ahead.largest_up_to(later.place);
            if largest > later.token {
                report.violation(Kind::Overtaken, later.lock, || {
                    format!(
                        "token {} went to one that was told place {} at {}, and only {largest} to \
                         one that stood ahead of it",
                        later.token, later.place, later.returned
                    )
                });
            }
        }
    }
}

/// Keys with values, that tells the largest value at keys up to a given one (a Fenwick tree).
struct LargestUpTo {
    keys: Vec<u32>,
    tree: Vec<u64>,
}

impl LargestUpTo {
    fn of(mut keys: Vec<u32>) -> Self {
        keys.sort_unstable();
        keys.dedup();
        let tree = vec![0; keys.len() + 1];
        Self { keys, tree }
    }

    fn insert(&mut self, key: u32, value: u64) {
        let mut at = self.keys.partition_point(|known| *known < key) + 1;
        while at < self.tree.len() {
            self.tree[at] = self.tree[at].max(value);
            at += at & at.wrapping_neg();
        }
    }

    /// 0 when there is none.
    fn largest_up_to(&self, key: u32) -> u64 {
        let mut at = self.keys.partition_point(|known| *known <= key);
        let mut largest = 0;
        while at > 0 {
            largest = largest.max(self.tree[at]);
            at -= at & at.wrapping_neg();
        }
        largest
    }
}
