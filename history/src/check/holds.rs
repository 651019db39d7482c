//! S1, S3, S5, S6 and the floors: what the holds of one lock must be to each other.

use crate::check::{Kind, Report};
use crate::record::{End, LockId, Mode, Record, What};

/// One hold: a grant with the re-entries that joined it.
pub(super) struct Held {
    pub lock: LockId,
    pub token: u64,
    pub fence_floor: u64,
    pub mode: Mode,
    /// The grant's call and answer.
    pub invoked: u64,
    pub returned: u64,
    pub range: u32,
    pub applied_index: u64,
    /// Until when nobody else may have it: until its client gave it up, or, where the client did
    /// not, until the time that it was told.
    must_hold_until: u64,
    /// Until when its client went by it: as above, or until it learnt of the loss.
    believed_until: u64,
    /// The client gave it up: then a successor that comes too soon is an overlap, no early expiry.
    ended_by_client: bool,
    /// When the acknowledgement of its end had arrived; `None`: there was none.
    end_acknowledged: Option<u64>,
}

/// The holds, by lock and token. Two grants with one token that are not a hold and its re-entry
/// are reported, and kept as two.
pub(super) fn held(records: &[&Record], report: &mut Report) -> Vec<Held> {
    let mut grants: Vec<(LockId, u64, bool, u64, usize)> = Vec::new();
    for (at, record) in records.iter().enumerate() {
        if let What::Granted(hold) = record.what {
            grants.push((record.lock, hold.token, hold.reentered, record.returned, at));
        }
    }
    grants.sort_unstable();
    let mut all: Vec<Held> = Vec::with_capacity(grants.len());
    let mut session_before = None;
    for (lock, token, reentered, _, at) in grants {
        let record = records[at];
        match all.last_mut() {
            Some(hold) if (hold.lock, hold.token) == (lock, token) => {
                if reentered && session_before == Some(record.session) {
                    hold.join(record);
                    continue;
                }
                let (first, second) = (hold.returned, record.returned);
                report.violation(Kind::DuplicateToken, lock, || {
                    format!("token {token} was granted twice, answered at {first} and {second}")
                });
            }
            _ => {}
        }
        session_before = Some(record.session);
        all.push(Held::new(record));
    }
    for record in records {
        if let What::Unknown { reenter } = record.what
            && let Ok(at) =
                all.binary_search_by_key(&(record.lock, reenter), |hold| (hold.lock, hold.token))
        {
            // It may have joined, and then the hold outlives the others' releases.
            all[at].end_acknowledged = None;
        }
    }
    all
}

impl Held {
    fn new(record: &Record) -> Self {
        let What::Granted(hold) = record.what else { unreachable!("only grants are held") };
        let acknowledged = matches!(hold.end, End::Released | End::Acknowledged);
        let ended_by_client = hold.end.by_client();
        let gave_up = if hold.end == End::Open { u64::MAX } else { hold.end_invoked };
        let (must_hold_until, believed_until) = match hold.end {
            End::Revoked => (0, 0),
            _ if ended_by_client => (gave_up.min(hold.valid_until), gave_up.min(hold.valid_until)),
            _ => (hold.valid_until, gave_up.min(hold.valid_until)),
        };
        Self {
            lock: record.lock,
            token: hold.token,
            fence_floor: hold.fence_floor,
            mode: hold.mode,
            invoked: record.invoked,
            returned: record.returned,
            range: record.position.range,
            applied_index: record.position.applied_index,
            must_hold_until,
            believed_until,
            ended_by_client,
            end_acknowledged: acknowledged.then_some(hold.end_returned),
        }
    }

    /// A re-entry: the hold ends with the last of its acquisitions.
    fn join(&mut self, record: &Record) {
        let other = Self::new(record);
        let What::Granted(hold) = record.what else { unreachable!("only grants are held") };
        self.ended_by_client &= other.ended_by_client;
        self.end_acknowledged = self
            .end_acknowledged
            .zip(other.end_acknowledged)
            .map(|(one, another)| one.max(another));
        if hold.end == End::Revoked || self.must_hold_until == 0 {
            self.must_hold_until = 0;
            self.believed_until = 0;
        } else {
            self.must_hold_until = self.must_hold_until.max(other.must_hold_until);
            self.believed_until = self.believed_until.max(other.believed_until);
        }
    }
}

/// Holds of one lock, which lie together.
fn by_lock(held: &[Held]) -> impl Iterator<Item = &[Held]> {
    held.chunk_by(|a, b| a.lock == b.lock)
}

/// S3: whoever called after another's grant had been answered has the larger token.
pub(super) fn check_token_order(held: &[Held], report: &mut Report) {
    for lock in by_lock(held) {
        // Of all grants with smaller tokens, the one that was asked for last.
        let mut latest: Option<&Held> = None;
        for hold in lock {
            if let Some(smaller) = latest
                && hold.returned < smaller.invoked
            {
                report.violation(Kind::TokenBackwards, hold.lock, || {
                    format!(
                        "token {} was answered at {}, and the smaller {} only asked for at {}",
                        hold.token, hold.returned, smaller.token, smaller.invoked
                    )
                });
            }
            if latest.is_none_or(|smaller| smaller.invoked < hold.invoked) {
                latest = Some(hold);
            }
        }
    }
}

/// The grants with larger tokens that were answered first, by mode.
#[derive(Clone, Copy, Default)]
struct Soonest<'a> {
    exclusive: Option<&'a Held>,
    shared: Option<&'a Held>,
    permits: Option<&'a Held>,
}

impl<'a> Soonest<'a> {
    fn take(&mut self, hold: &'a Held) {
        let place = match hold.mode {
            Mode::Exclusive => &mut self.exclusive,
            Mode::Shared => &mut self.shared,
            Mode::Permits { .. } => &mut self.permits,
        };
        if place.is_none_or(|soonest| hold.returned < soonest.returned) {
            *place = Some(hold);
        }
    }

    /// The first to be answered of those that cannot hold beside `mode`.
    fn against(&self, mode: Mode) -> Option<&'a Held> {
        let beside = match mode {
            Mode::Exclusive => [self.exclusive, self.shared, self.permits],
            Mode::Shared => [self.exclusive, None, self.permits],
            Mode::Permits { .. } => [self.exclusive, self.shared, None],
        };
        beside.into_iter().flatten().min_by_key(|hold| hold.returned)
    }
}

/// S1 and S5: a larger token that cannot stand beside a hold proves that the hold has ended. Its
/// answer must not come before the hold may end.
pub(super) fn check_overlap(held: &[Held], report: &mut Report) {
    for lock in by_lock(held) {
        let mut soonest = Soonest::default();
        for hold in lock.iter().rev() {
            if let Some(next) = soonest.against(hold.mode)
                && next.returned < hold.must_hold_until
            {
                report_too_soon(hold, next, report);
            }
            soonest.take(hold);
        }
    }
}

fn report_too_soon(hold: &Held, next: &Held, report: &mut Report) {
    let both_from = hold.returned.max(next.returned);
    let both_until = hold.believed_until.min(next.believed_until);
    if hold.ended_by_client || both_from < both_until {
        report.violation(Kind::Overlap, hold.lock, || {
            format!(
                "token {} ({:?}) was held until {}, and {} ({:?}) granted by {}",
                hold.token, hold.mode, hold.believed_until, next.token, next.mode, next.returned
            )
        });
    }
    if !hold.ended_by_client {
        report.violation(Kind::EarlyExpiry, hold.lock, || {
            format!(
                "token {} was promised until {}, and {} granted by {}",
                hold.token, hold.must_hold_until, next.token, next.returned
            )
        });
    }
}

/// S1 for permits: at no moment may more be held for certain than there are.
pub(super) fn check_permits(held: &[Held], report: &mut Report) {
    for lock in by_lock(held) {
        // Ends sort before beginnings: a moment that ends one hold may begin another.
        let mut changes: Vec<(u64, i64, u64, u16)> = Vec::new();
        for hold in lock {
            if let Mode::Permits { units, units_max } = hold.mode
                && hold.returned < hold.must_hold_until
            {
                changes.push((hold.returned, i64::from(units), hold.token, units_max));
                changes.push((hold.must_hold_until, -i64::from(units), hold.token, units_max));
            }
        }
        changes.sort_unstable();
        let mut taken = 0;
        for (at, units, token, units_max) in changes {
            taken += units;
            if units > 0 && taken > i64::from(units_max) {
                report.violation(Kind::Overlap, lock[0].lock, || {
                    format!("at {at}, with token {token}, {taken} of {units_max} permits are held")
                });
            }
        }
    }
}

/// A resource that has seen a sharer's floor must refuse every earlier exclusive holder.
pub(super) fn check_fence_floors(held: &[Held], report: &mut Report) {
    for lock in by_lock(held) {
        let mut exclusive_before = 0;
        for hold in lock {
            let sound = match hold.mode {
                Mode::Exclusive => hold.fence_floor == hold.token,
                Mode::Shared | Mode::Permits { .. } => {
                    exclusive_before < hold.fence_floor && hold.fence_floor <= hold.token
                }
            };
            if !sound {
                report.violation(Kind::FenceFloor, hold.lock, || {
                    format!(
                        "token {} ({:?}) has the floor {}; the exclusive token before was \
                         {exclusive_before}",
                        hold.token, hold.mode, hold.fence_floor
                    )
                });
            }
            if hold.mode == Mode::Exclusive {
                exclusive_before = hold.token;
            }
        }
    }
}

/// S6: nobody is told that a hold is gone before the time that it was told.
pub(super) fn check_lost(records: &[&Record], report: &mut Report) {
    for record in records {
        let What::Granted(hold) = record.what else { continue };
        if hold.end == End::ToldGone && hold.end_returned < hold.valid_until {
            report.violation(Kind::LostGrant, record.lock, || {
                format!(
                    "token {} was promised until {}, and said to be gone at {}",
                    hold.token, hold.valid_until, hold.end_returned
                )
            });
        }
    }
}

/// S4 and S6: what others were told about a token must have been true at some moment between their
/// call and its answer.
pub(super) fn check_looks(records: &[&Record], held: &[Held], report: &mut Report) {
    let mut looks: Vec<(&Record, u64, bool)> = Vec::new();
    for record in records {
        match record.what {
            What::Refused { holder } | What::TimedOut { holder } if holder != 0 => {
                looks.push((record, holder, true));
            }
            What::Looked { token, live } => looks.push((record, token, live)),
            _ => {}
        }
    }
    if looks.is_empty() {
        return;
    }
    // For each hold, the first answer among it and the larger tokens of its lock: of exclusive
    // ones, and of any.
    let mut soonest: Vec<(u64, u64)> = vec![(u64::MAX, u64::MAX); held.len() + 1];
    for (at, hold) in held.iter().enumerate().rev() {
        let same_lock = held.get(at + 1).is_some_and(|next| next.lock == hold.lock);
        let (exclusive, any) = if same_lock { soonest[at + 1] } else { (u64::MAX, u64::MAX) };
        let own = if hold.mode == Mode::Exclusive { hold.returned } else { u64::MAX };
        soonest[at] = (exclusive.min(own), any.min(hold.returned));
    }
    for (look, token, live) in looks {
        let at = held.partition_point(|hold| (hold.lock, hold.token) < (look.lock, token));
        let hold = held.get(at).filter(|hold| (hold.lock, hold.token) == (look.lock, token));
        let after = if hold.is_some() { at + 1 } else { at };
        let successor = match held.get(after).filter(|next| next.lock == look.lock) {
            None => u64::MAX,
            Some(_) if hold.is_some_and(|hold| hold.mode == Mode::Exclusive) => soonest[after].1,
            Some(_) => soonest[after].0,
        };
        if live {
            check_seen_live(look, token, hold, successor, report);
        } else {
            check_seen_dead(look, token, hold, report);
        }
    }
}

fn check_seen_live(
    look: &Record,
    token: u64,
    hold: Option<&Held>,
    successor: u64,
    report: &mut Report,
) {
    let asked = look.invoked;
    if let Some(released) = hold.and_then(|hold| hold.end_acknowledged)
        && released < asked
    {
        report.violation(Kind::ReleaseUndone, look.lock, || {
            format!(
                "token {token}'s release was acknowledged at {released}, and it was shown as \
                     held to a call made at {asked}"
            )
        });
    } else if successor < asked {
        report.violation(Kind::StaleAnswer, look.lock, || {
            format!(
                "token {token} had a successor by {successor}, and was shown as held to a \
                     call made at {asked}"
            )
        });
    }
    if let Some(hold) = hold
        && look.returned < hold.invoked
    {
        report.violation(Kind::StaleAnswer, look.lock, || {
            format!(
                "token {token} was asked for at {}, and shown as held at {}",
                hold.invoked, look.returned
            )
        });
    }
}

fn check_seen_dead(look: &Record, token: u64, hold: Option<&Held>, report: &mut Report) {
    if let Some(hold) = hold
        && hold.returned < look.invoked
        && look.returned < hold.must_hold_until
    {
        report.violation(Kind::StaleAnswer, look.lock, || {
            format!(
                "token {token} was held from {} to {}, and said to be dead between {} and {}",
                hold.returned, hold.must_hold_until, look.invoked, look.returned
            )
        });
    }
}
