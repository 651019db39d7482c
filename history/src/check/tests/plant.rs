//! Faults, put into valid histories by hand.
#![expect(clippy::ptr_arg, reason = "all plants have one signature, and some add records")]

use super::service::Rng;
use crate::check::Kind;
use crate::record::{End, Hold, Mode, Record, What};

type Plant = fn(&mut Vec<Record>, &mut Rng) -> Option<()>;

/// Each kind, and how it is planted; `None` where the history has no place for it.
pub(super) const ALL: [(Kind, Plant); 12] = [
    (Kind::DuplicateToken, duplicate_token),
    (Kind::TokenBackwards, token_backwards),
    (Kind::Overlap, overlap),
    (Kind::Overlap, too_many_permits),
    (Kind::EarlyExpiry, early_expiry),
    (Kind::DoubleEffect, double_effect),
    (Kind::LostGrant, lost_grant),
    (Kind::ReleaseUndone, release_undone),
    (Kind::StaleAnswer, stale_answer),
    (Kind::Overtaken, overtaken),
    (Kind::FenceFloor, fence_floor),
    (Kind::PositionBackwards, position_backwards),
];

fn hold(record: &Record) -> Option<Hold> {
    match record.what {
        What::Granted(hold) => Some(hold),
        _ => None,
    }
}

fn edit(record: &mut Record, change: impl FnOnce(&mut Hold)) {
    if let What::Granted(hold) = &mut record.what {
        change(hold);
    }
}

/// A random index among those that fit.
fn pick(records: &[Record], rng: &mut Rng, fits: impl Fn(&Record) -> bool) -> Option<usize> {
    let all: Vec<usize> = (0..records.len()).filter(|at| fits(&records[*at])).collect();
    (!all.is_empty()).then(|| all[rng.below(all.len() as u64) as usize])
}

/// A hold that nobody re-entered, for all that is known.
fn is_plain(records: &[Record], record: &Record) -> bool {
    let key = |record: &Record| match record.what {
        What::Granted(hold) => Some((record.lock, hold.token)),
        What::Unknown { reenter } => Some((record.lock, reenter)),
        _ => None,
    };
    hold(record).is_some() && records.iter().filter(|other| key(other) == key(record)).count() == 1
}

fn is_exclusive(record: &Record) -> bool {
    hold(record).is_some_and(|hold| hold.mode == Mode::Exclusive)
}

fn stranger(record: Record) -> Record {
    Record { session: 1_000, acquisition: 1, ..record }
}

fn duplicate_token(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let at = pick(records, rng, |record| is_plain(records, record))?;
    let mut again = stranger(records[at]);
    let later = rng.below(50_000);
    again.invoked += later;
    again.returned += later;
    edit(&mut again, |hold| (hold.end, hold.valid_until) = (End::Open, 0));
    records.push(again);
    Some(())
}

fn token_backwards(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let first = pick(records, rng, |record| is_plain(records, record))?;
    let (lock, returned) = (records[first].lock, records[first].returned);
    let second = pick(records, rng, |record| {
        is_plain(records, record) && record.lock == lock && returned < record.invoked
    })?;
    swap_tokens(records, first, second);
    Some(())
}

fn swap_tokens(records: &mut [Record], first: usize, second: usize) {
    let (a, b) = (hold(&records[first]), hold(&records[second]));
    let (Some(a), Some(b)) = (a, b) else { unreachable!("both are grants") };
    edit(&mut records[first], |hold| (hold.token, hold.fence_floor) = (b.token, b.fence_floor));
    edit(&mut records[second], |hold| (hold.token, hold.fence_floor) = (a.token, a.fence_floor));
}

/// Somebody else holds it, too, for a while in the middle.
pub(super) fn overlap(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let until = |hold: &Hold| hold.end_invoked.min(hold.valid_until);
    let at = pick(records, rng, |record| {
        is_plain(records, record)
            && hold(record)
                .is_some_and(|hold| hold.end == End::Released && record.returned + 2 < until(&hold))
    })?;
    let first = hold(&records[at])?;
    let mut second = stranger(records[at]);
    let room = until(&first) - second.returned - 1;
    second.returned += 1 + rng.below(room);
    second.invoked = second.returned - rng.below(100);
    let returned = second.returned;
    let before = rng.chance(50);
    edit(&mut second, |hold| {
        hold.token = if before { first.token - 1 } else { first.token + 1 };
        hold.fence_floor = hold.token;
        hold.mode = Mode::Exclusive;
        hold.valid_until = returned + 1_000;
        (hold.end, hold.end_invoked, hold.end_returned) =
            (End::Released, returned + 500, returned + 600);
    });
    records.push(second);
    Some(())
}

fn too_many_permits(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let at = pick(records, rng, |record| {
        is_plain(records, record)
            && hold(record).is_some_and(|hold| {
                matches!(hold.mode, Mode::Permits { .. })
                    && hold.end == End::Released
                    && record.returned + 2 < hold.end_invoked.min(hold.valid_until)
            })
    })?;
    let mut second = stranger(records[at]);
    second.returned += 1;
    edit(&mut second, |hold| {
        hold.token += 1;
        hold.mode = Mode::Permits { units: 4, units_max: 4 };
    });
    records.push(second);
    Some(())
}

fn early_expiry(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let given_up = |end| matches!(end, End::Open | End::Lapsed | End::ToldGone);
    let at = pick(records, rng, |record| {
        is_plain(records, record)
            && is_exclusive(record)
            && hold(record).is_some_and(|hold| given_up(hold.end))
    })?;
    let (lock, token) = (records[at].lock, hold(&records[at])?.token);
    let later =
        |other: &Record| hold(other).filter(|h| other.lock == lock && h.token > token).is_some();
    let next = records.iter().filter(|other| later(other)).map(|other| other.returned).min()?;
    let promised = next + 1 + rng.below(1_000);
    edit(&mut records[at], |hold| hold.valid_until = promised);
    Some(())
}

fn double_effect(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let first = pick(records, rng, |record| hold(record).is_some())?;
    let final_answer =
        |what| matches!(what, What::Granted(_) | What::Refused { .. } | What::TimedOut { .. });
    let second = pick(records, rng, |record| final_answer(record.what))?;
    if first == second {
        return None;
    }
    records[second].session = records[first].session;
    records[second].acquisition = records[first].acquisition;
    Some(())
}

fn lost_grant(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let at = pick(records, rng, |record| hold(record).is_some_and(|h| h.end == End::ToldGone))?;
    edit(&mut records[at], |hold| hold.valid_until = hold.end_returned + 1);
    Some(())
}

fn release_undone(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let at = pick(records, rng, |record| {
        is_plain(records, record) && hold(record).is_some_and(|h| h.end == End::Released)
    })?;
    let ended = hold(&records[at])?;
    let mut look = stranger(records[at]);
    look.invoked = ended.end_returned + 1 + rng.below(1_000);
    look.returned = look.invoked + rng.below(1_000);
    look.what = match rng.below(3) {
        0 => What::Refused { holder: ended.token },
        1 => What::TimedOut { holder: ended.token },
        _ => What::Looked { token: ended.token, live: true },
    };
    records.push(look);
    Some(())
}

fn stale_answer(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let until = |hold: &Hold| hold.end_invoked.min(hold.valid_until);
    let at = pick(records, rng, |record| {
        is_plain(records, record)
            && hold(record)
                .is_some_and(|h| h.end == End::Released && record.returned + 10 < until(&h))
    })?;
    let held = hold(&records[at])?;
    let mut look = stranger(records[at]);
    if rng.chance(50) {
        look.invoked = look.returned + 1;
        look.returned = look.invoked + rng.below(until(&held) - look.invoked);
        look.what = What::Looked { token: held.token, live: false };
    } else {
        look.returned = look.invoked - 1 - rng.below(100);
        look.invoked = look.returned - rng.below(100);
        look.what = What::Looked { token: held.token, live: true };
    }
    records.push(look);
    Some(())
}

fn overtaken(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let queued = pick(records, rng, |record| {
        let granted = |other: &Record| {
            is_plain(records, other)
                && (other.session, other.acquisition) == (record.session, record.acquisition)
        };
        matches!(record.what, What::Queued { .. }) && records.iter().any(granted)
    })?;
    let first = records[queued];
    let ahead = records.iter().position(|record| {
        hold(record).is_some()
            && (record.session, record.acquisition) == (first.session, first.acquisition)
    })?;
    let behind = pick(records, rng, |record| {
        is_plain(records, record) && record.lock == first.lock && first.returned < record.invoked
    })?;
    swap_tokens(records, ahead, behind);
    Some(())
}

fn fence_floor(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let at = pick(records, rng, |record| hold(record).is_some_and(|hold| !hold.reentered))?;
    let (lock, token) = (records[at].lock, hold(&records[at])?.token);
    let earlier = records.iter().filter(|other| other.lock == lock && is_exclusive(other));
    let earlier = earlier.filter_map(hold).map(|hold| hold.token).filter(|t| *t < token).max();
    let floor = match earlier {
        Some(earlier) if rng.chance(50) => earlier,
        _ => token + 1,
    };
    edit(&mut records[at], |hold| hold.fence_floor = floor);
    Some(())
}

fn position_backwards(records: &mut Vec<Record>, rng: &mut Rng) -> Option<()> {
    let is_answer = |record: &Record| !matches!(record.what, What::Unknown { .. });
    let first = pick(records, rng, is_answer)?;
    let first = records[first];
    let later = pick(records, rng, |record| {
        is_answer(record)
            && record.position.range == first.position.range
            && first.returned < record.invoked
    })?;
    records[later].position.applied_index = first.position.applied_index - 1;
    Some(())
}
