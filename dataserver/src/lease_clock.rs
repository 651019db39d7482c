//! The lease clock of one range (D7): the deadlines that its leader keeps in memory, and the
//! commands it proposes when they pass. A core: `now` is an argument, commands are values.
//!
//! It decides nothing. Apply decides, and every command here carries its cause and the term it was
//! decided in, so that apply can refuse it. Late is always safe; early never happens.

use std::time::Duration;

use sharklock_locktable::{
    Acquisition, AcquisitionId, Change, Command, End, EndCause, Expire, ExpireItem, Grant,
    LockTable, Name, Token, Wait, WaitTimeout,
};

use crate::{
    alarms::{Alarms, Moment},
    condition_clock::{ConditionClock, TimeKey},
};

mod inherited;
mod leases;
mod moved;
mod quarantine;

use inherited::Inherited;
use leases::{Deadline, Lease, Leases};

/// ρ of D7 in parts per thousand: how much faster than true time a server's clock may be assumed
/// to run, and by how much every lease is longer here than the client counts it.
pub const DRIFT_PERMILLE: u32 = 10;

/// A loop or disk stall longer than this is credited to every lease (D7).
pub const STALL_MIN: Duration = Duration::from_millis(500);

/// Most expiries in one command: bounds the work of one apply (failure story 21).
const EXPIRE_ITEMS_MAX: usize = 1_000;

/// Most alarms looked at in one turn. After a stall each alarm stands too early, once.
pub const ALARMS_PER_TURN_MAX: usize = 4_096;

/// `ttl(1+ρ)`: how long a leader waits before it may end a lease of `ttl`.
pub fn with_drift(ttl: Duration) -> Duration {
    ttl + ttl * DRIFT_PERMILLE / 1_000
}

/// The owner of a lease: a hold has one, whatever the number of acquisitions open on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKey {
    /// A hold, by its token.
    Hold(Token),
    /// A waiting acquisition.
    Waiter(Acquisition),
}

/// The result of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The deadline is at least a full lease away now.
    Renewed,
    /// Its end has been proposed: nothing may be answered for it until that has been applied.
    Pending,
    /// An operator has asked for its end: it is answered, but not renewed.
    Ending,
    /// No such lease.
    Unknown,
}

/// The clock's knowledge of a hold, beside its lease.
#[derive(Clone, Copy, Debug)]
struct Hold {
    /// The newest acquisition that ever joined it.
    newest: AcquisitionId,
    ending: bool,
    /// Its client may know of the grant: something was sent that says so.
    told: bool,
    /// When it was granted; `None`: another leader has seen that.
    since: Option<Moment>,
}

/// A waiter, beside its lease. When its wait ends stands in `waits`.
#[derive(Debug)]
struct Waiter {
    /// When it took its place; `None`: another leader has seen that.
    since: Option<Moment>,
}

/// The kinds of alarms. Of several that ring at one moment the first here comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ringing {
    Hold,
    Waiter,
    Wait,
}

/// Deadlines of every hold and waiter of a range, while its replica leads.
///
/// Invariants:
/// - exists only between the apply of the leader's first entry and its step-down;
/// - once it is whole it has a lease for every hold that is no orphan and every waiter of the table
///   as applied, and a time for everything that a condition sets; it never has another;
/// - `waits` has waiters only, until the end of their wait has been proposed;
/// - what it has not taken up yet has the lease that [`Inherited`] says, and nothing has happened to
///   it since the promotion;
/// - a lease is never proposed to end before a full `ttl(1+ρ)` since the receipt of its last
///   renewal (S5).
#[derive(Debug)]
pub struct LeaseClock {
    term: u64,
    election_max: Duration,
    holds: Leases<Token, Hold>,
    waiters: Leases<Acquisition, Waiter>,
    waits: Alarms<Acquisition, ()>,
    conditions: ConditionClock,
    /// The sum of all stalls. One number for all leases, so that crediting costs the same however
    /// many there are: it must not become a stall itself.
    credit: Duration,
    /// Set by the first stall: no end is proposed before.
    paused_until: Option<Duration>,
    /// Counts the alarms looked at, which is the work of [`due`](Self::due).
    alarms_seen: u64,
    /// Set until all is taken up that the leader found.
    inherited: Option<Inherited>,
    /// When the quarantine of the range is over, if it is in one and that has not been proposed.
    quarantine: Option<Duration>,
}

impl LeaseClock {
    /// Takes the receipt of a keepalive, a duplicate acquire or a re-entry.
    pub fn renew(&mut self, now: Duration, key: LeaseKey) -> Renewal {
        match key {
            LeaseKey::Hold(token) => self.renew_hold(now, token),
            LeaseKey::Waiter(acquisition) => self.waiters.renew(now, acquisition, self.credit),
        }
    }

    fn renew_hold(&mut self, now: Duration, token: Token) -> Renewal {
        let Some(lease) = self.holds.get_mut(token) else { return Renewal::Unknown };
        lease.of.told = true;
        if lease.of.ending && !lease.is_pending() {
            return Renewal::Ending;
        }
        self.holds.renew(now, token, self.credit)
    }

    /// Notes that a push tells the client of a grant.
    pub fn tell(&mut self, granted: Token) {
        if let Some(lease) = self.holds.get_mut(granted) {
            lease.of.told = true;
        }
    }

    /// Whether the end of `key` has been proposed and not been applied yet.
    pub fn is_pending(&self, key: LeaseKey) -> bool {
        match key {
            LeaseKey::Hold(token) => self.holds.get(token).is_some_and(|it| it.is_pending()),
            LeaseKey::Waiter(waiter) => self.waiters.get(waiter).is_some_and(|it| it.is_pending()),
        }
    }

    /// Lease length of `key`.
    pub fn ttl(&self, key: LeaseKey) -> Option<Duration> {
        match key {
            LeaseKey::Hold(token) => self.holds.get(token).map(|lease| lease.ttl()),
            LeaseKey::Waiter(acquisition) => self.waiters.get(acquisition).map(|lease| lease.ttl()),
        }
    }

    /// Since when the hold is held, or the waiter waits, if this leader has seen it begin.
    pub fn since(&self, key: LeaseKey) -> Option<Duration> {
        match key {
            LeaseKey::Hold(token) => self.holds.get(token)?.of.since.map(Moment::time),
            LeaseKey::Waiter(acquisition) => {
                self.waiters.get(acquisition)?.of.since.map(Moment::time)
            }
        }
    }

    /// Follows a change that apply made. `table` is as it stands after the whole entry.
    pub fn follow(&mut self, now: Duration, change: &Change, table: &LockTable) {
        self.meet_changed(change, table);
        self.observe(now, change);
    }

    pub(crate) fn observe(&mut self, now: Duration, change: &Change) {
        match change {
            Change::Queued { acquisition, name, ttl_ms, wait } => {
                let deadline = self.deadline(now, *ttl_ms);
                let wait_ends = wait_ends(now, *wait);
                let since = Some(Moment::at(now));
                self.start_waiter(deadline, (*acquisition, since), name, *ttl_ms, wait_ends);
            }
            Change::Granted { acquisition, name, grant, from_queue, condition } => {
                self.begin_hold(now, *acquisition, name, grant, *from_queue);
                if let Some(ms) = condition.as_ref().and_then(|it| it.max_hold_ms) {
                    let key = TimeKey::MaxHold(grant.token);
                    self.conditions.begin(now, key, name.clone(), ms, 0);
                }
            }
            Change::Joined { acquisition, token, .. } => self.join(now, *token, acquisition.id),
            // What a claim changes is known when the lease ends; attributes are for people.
            Change::Closed { .. } | Change::Claimed { .. } | Change::AttributesSet { .. } => {}
            Change::WaiterLeft { acquisition, .. } => drop(self.stop_waiter(*acquisition)),
            // An orphan has no lease: nothing but a command of somebody ends it.
            Change::HoldEnded { token, .. } | Change::Orphaned { token, .. } => {
                self.holds.stop(*token);
                self.conditions.stop_hold(*token);
            }
            Change::EndingBegan { token, .. } => {
                self.begin_ending(now, *token);
                self.conditions.stop_hold(*token);
            }
            Change::ExpireMissed { token, newest, .. } => self.rearm(now, *token, *newest),
            Change::Downgraded { before, grant, .. } => self.rename(now, *before, grant.token),
            Change::ConditionSet { token, name, agreement, asked } => {
                self.lengthen(now, *token, agreement.ttl_ms);
                self.conditions.agree(now, name, *token, agreement, *asked);
            }
            Change::Asked { token, name, grace_ms, revision, .. } => {
                let key = TimeKey::AskGrace(*token);
                self.conditions.begin(now, key, name.clone(), *grace_ms, *revision);
            }
            Change::AskDropped { token, .. } => self.conditions.stop(TimeKey::AskGrace(*token)),
            Change::DelayBegan { token, name, delay_ms } => {
                let key = TimeKey::LockDelay(*token);
                self.conditions.begin(now, key, name.clone(), *delay_ms, 0);
            }
            Change::DelayEnded { token, .. } => self.conditions.stop(TimeKey::LockDelay(*token)),
            Change::QuarantineEnds { is_over } => self.quarantine = (!is_over).then_some(now),
        }
    }

    /// The commands whose time has come; their leases are pending from here on. Call it only when
    /// the mailbox that stood at the start of the turn has been drained: a renewal that had
    /// already arrived must count (D7, *Expiry*).
    pub fn due(&mut self, now: Duration) -> Vec<Command> {
        if self.paused_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let mut items = Vec::new();
        let mut commands = Vec::new();
        for _ in 0..ALARMS_PER_TURN_MAX {
            let is_full = items.len() + commands.len() >= EXPIRE_ITEMS_MAX;
            let Some((_, ringing)) = self.first().filter(|(at, _)| *at <= now && !is_full) else {
                break;
            };
            self.alarms_seen += 1;
            match ringing {
                Ringing::Hold => self.hold_due(now, &mut items, &mut commands),
                Ringing::Waiter => items.extend(self.waiter_due(now)),
                Ringing::Wait => commands.extend(self.wait_due(now)),
            }
        }
        let commands_max = EXPIRE_ITEMS_MAX.saturating_sub(items.len() + commands.len());
        if !items.is_empty() {
            commands.push(Command::Expire(Expire { items, proposer_term: self.term }));
        }
        commands.extend(self.conditions.due(now, self.term, commands_max));
        commands.extend(self.quarantine_due(now));
        commands
    }

    /// When [`due`](Self::due) is to be asked next: it may have something to say by then, and has
    /// nothing before.
    pub fn next_alarm(&self) -> Option<Duration> {
        let lease = self.first().map(|(at, _)| at);
        let others = self.conditions.next_alarm().into_iter().chain(self.quarantine);
        let at = lease.into_iter().chain(others).min()?;
        Some(self.paused_until.map_or(at, |until| until.max(at)))
    }

    /// Credits a stall of the loop or of the disk: renewals may have been waiting behind it. At
    /// most one ttl between two renewals, and with a new pause only after an equal time without
    /// one, so that a server that stalls again and again frees its locks all the same.
    pub fn credit_stall(&mut self, now: Duration, stall: Duration) {
        self.credit += stall;
        if self.paused_until.is_none_or(|until| now >= until + self.election_max) {
            self.paused_until = Some(now + self.election_max);
        }
    }

    /// How many alarms were looked at so far: the work done, for tests and benchmarks.
    pub fn alarms_seen(&self) -> u64 {
        self.alarms_seen
    }

    /// Lets go of about so many leases, of a leadership that is over, and says whether none is left:
    /// to drop millions at once takes as long as to make them.
    pub fn shed(&mut self, leases_max: usize) -> bool {
        let mut left = leases_max;
        left -= self.waits.shed(left);
        left -= self.waiters.shed(left);
        self.holds.shed(left);
        self.is_empty() && self.waits.is_empty()
    }

    /// How many leases run that are taken up.
    pub fn len(&self) -> usize {
        self.holds.len() + self.waiters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The deadline of a lease that begins.
    fn deadline(&self, from: Duration, ttl_ms: u64) -> Deadline {
        let plain = from + with_drift(Duration::from_millis(ttl_ms));
        Deadline { plain, credit_before: self.credit }
    }

    fn start_waiter(
        &mut self,
        deadline: Deadline,
        (acquisition, since): (Acquisition, Option<Moment>),
        name: &Name,
        ttl_ms: u64,
        wait_ends: Option<Duration>,
    ) {
        self.waiters.start(acquisition, name.clone(), ttl_ms, deadline, Waiter { since });
        if let Some(at) = wait_ends {
            self.waits.set(acquisition, at, ());
        }
    }

    fn stop_waiter(&mut self, acquisition: Acquisition) -> Option<Lease<Waiter>> {
        self.waits.remove(acquisition);
        self.waiters.stop(acquisition)
    }

    /// The alarm that rings first.
    fn first(&self) -> Option<(Duration, Ringing)> {
        let alarms = [
            self.holds.next().map(|at| (at, Ringing::Hold)),
            self.waiters.next().map(|at| (at, Ringing::Waiter)),
            self.waits.next().map(|at| (at, Ringing::Wait)),
        ];
        alarms.into_iter().flatten().min()
    }

    fn begin_hold(
        &mut self,
        now: Duration,
        acquisition: Acquisition,
        name: &Name,
        grant: &Grant,
        from_queue: bool,
    ) {
        let ttl = Duration::from_millis(grant.ttl_ms);
        let waited = self.stop_waiter(acquisition).filter(|_| from_queue);
        // The waiter's lease becomes the hold's, deadline unchanged.
        let deadline = match (waited, &self.inherited) {
            (Some(waited), _) => waited.carried_on(now, self.credit),
            (None, Some(inherited)) if from_queue => inherited.deadline(ttl),
            (None, _) => self.deadline(now, grant.ttl_ms),
        };
        // The answer to an acquire tells of the grant; whether a push does, the caller knows.
        let newest = acquisition.id;
        let hold = Hold { newest, ending: false, told: !from_queue, since: Some(Moment::at(now)) };
        self.holds.start(grant.token, name.clone(), grant.ttl_ms, deadline, hold);
    }

    /// A re-entry renews, and makes any Expire that is on its way miss.
    fn join(&mut self, now: Duration, token: Token, id: AcquisitionId) {
        if let Some(lease) = self.holds.get_mut(token) {
            lease.of.newest = id.max(lease.of.newest);
        }
        self.renew_hold(now, token);
    }

    /// Ending is waited out in full from here, whatever was left of the lease (D9).
    fn begin_ending(&mut self, now: Duration, token: Token) {
        let Some(lease) = self.holds.get_mut(token) else { return };
        lease.of.ending = true;
        self.holds.begin_anew(now, token, self.credit);
    }

    /// The Expire was decided without knowing the newest acquisition: it is known now.
    fn rearm(&mut self, now: Duration, token: Token, newest: AcquisitionId) {
        let Some(lease) = self.holds.get_mut(token) else { return };
        lease.of.newest = newest.max(lease.of.newest);
        self.holds.begin_anew(now, token, self.credit);
    }

    /// The hold goes on under another token, by its client's word: in full from here. An Expire that
    /// is on its way names the token before, and does nothing.
    fn rename(&mut self, now: Duration, before: Token, after: Token) {
        self.conditions.rename_hold(before, after);
        // A new leader may have taken it up under the token that it has now.
        if let Some(lease) = self.holds.stop(before) {
            let ttl_ms = lease.ttl_ms();
            let (deadline, hold) = (self.deadline(now, ttl_ms), Hold { told: true, ..lease.of });
            self.holds.start(after, lease.name, ttl_ms, deadline, hold);
        } else {
            self.holds.begin_anew(now, after, self.credit);
        }
    }

    /// The lease is longer from here on.
    fn lengthen(&mut self, now: Duration, token: Token, ttl_ms: u64) {
        let Some(lease) = self.holds.get_mut(token) else { return };
        let ends_at = lease.ends_at(self.credit);
        lease.set_ttl(ttl_ms);
        if let Some(ends_at) = ends_at {
            let Deadline { plain, credit_before } = self.deadline(now, ttl_ms);
            let longer = Deadline { plain: plain.max(ends_at), credit_before };
            self.holds.set_deadline(token, longer);
        }
    }

    fn hold_due(
        &mut self,
        now: Duration,
        items: &mut Vec<ExpireItem>,
        commands: &mut Vec<Command>,
    ) {
        let Some((token, lease)) = self.holds.ring(now, self.credit) else { return };
        let (name, Hold { newest, ending, told, .. }) = (lease.name.clone(), lease.of);
        if ending {
            let cause = EndCause::WaitedOut { proposer_term: self.term, told };
            commands.push(Command::End(End { name, token: Some(token), cause }));
        } else {
            items.push(ExpireItem::Hold { name, token, newest, told });
        }
    }

    fn waiter_due(&mut self, now: Duration) -> Option<ExpireItem> {
        let (acquisition, lease) = self.waiters.ring(now, self.credit)?;
        Some(ExpireItem::Waiter { name: lease.name.clone(), acquisition })
    }

    fn wait_due(&mut self, now: Duration) -> Option<Command> {
        let (acquisition, ()) = self.waits.pop(now)?;
        let lease = self.waiters.get(acquisition).expect("only who waits has an end of its wait");
        let (name, proposer_term) = (lease.name.clone(), self.term);
        Some(Command::WaitTimeout(WaitTimeout { acquisition, name, proposer_term }))
    }
}

fn wait_ends(now: Duration, wait: Wait) -> Option<Duration> {
    match wait {
        Wait::AtMost(wait_ms) => Some(now + Duration::from_millis(wait_ms)),
        Wait::Try | Wait::Unbounded => None,
    }
}

#[cfg(test)]
mod tests;
