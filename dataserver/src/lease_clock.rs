//! The lease clock of one range (D7): the deadlines that its leader keeps in memory, and the
//! commands it proposes when they pass. A core: `now` is an argument, commands are values.
//!
//! It decides nothing. Apply decides, and every command here carries its cause and the term it was
//! decided in, so that apply can refuse it. Late is always safe; early never happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use sharklock_locktable::{
    Acquisition, AcquisitionId, Change, Command, End, EndCause, Expire, ExpireItem, Grant,
    LockTable, Name, Token, Wait, WaitTimeout,
};

use crate::condition_clock::{ConditionClock, TimeKey};

mod inherited;
mod moved;

use inherited::Inherited;

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

/// What has a lease: a hold has one, whatever the number of acquisitions open on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKey {
    /// A hold, by its token.
    Hold(Token),
    /// A waiting acquisition.
    Waiter(Acquisition),
}

/// What a renewal found.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Lease(LeaseKey),
    Wait(Acquisition),
}

/// One lease.
///
/// Invariants:
/// - `deadline` is `Some` exactly when `(alarm, Alarm::Lease(key))` is in `alarms`; `None` means
///   that its end has been proposed and not yet been applied;
/// - `alarm` is never behind the moment at which the lease ends. It lies before that once a stall
///   has been credited: whoever finds it due looks again;
/// - that moment only moves later, except that Ending sets it anew;
/// - `heard` is set only while the end is pending.
#[derive(Clone, Debug)]
struct LeaseState {
    name: Name,
    ttl: Duration,
    deadline: Option<Deadline>,
    alarm: Duration,
    /// The last receipt while the end was pending. It counts if apply refuses that end: the
    /// receipt may have been an acquire, which is answered behind it in the log.
    heard: Option<Duration>,
    kind: Kind,
}

/// When a lease ends, but for the stalls since it was set.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// As if no stall came.
    plain: Duration,
    /// What [`LeaseClock::credit`] was when it was set: what came since is the lease's, up to its
    /// ttl.
    credit_before: Duration,
}

impl LeaseState {
    /// When it ends after so much credit in all; none while its end is pending.
    fn ends_at(&self, credit: Duration) -> Option<Duration> {
        Some(self.deadline?.ends_at(self.ttl, credit))
    }
}

impl Deadline {
    fn ends_at(self, ttl: Duration, credit: Duration) -> Duration {
        self.plain + ttl.min(credit - self.credit_before)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Hold {
        newest: AcquisitionId,
        ending: bool,
        /// Its client may know of the grant: something was sent that says so.
        told: bool,
    },
    Waiter {
        wait_ends: Option<Duration>,
    },
}

/// Deadlines of every hold and waiter of a range, while its replica leads.
///
/// Invariants:
/// - exists only between the apply of the leader's first entry and its step-down;
/// - once it is whole it has a lease for every hold that is no orphan and every waiter of the table
///   as applied, and a time for everything that a condition sets; it never has another;
/// - what it has not taken up yet has the lease that [`Inherited`] says, and nothing has happened to
///   it since the promotion;
/// - a lease is never proposed to end before a full `ttl(1+ρ)` since the receipt of its last
///   renewal (S5).
#[derive(Debug)]
pub struct LeaseClock {
    term: u64,
    election_max: Duration,
    leases: BTreeMap<LeaseKey, LeaseState>,
    alarms: BTreeSet<(Duration, Alarm)>,
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
}

impl LeaseClock {
    /// Takes the receipt of a keepalive, a duplicate acquire or a re-entry.
    pub fn renew(&mut self, now: Duration, key: LeaseKey) -> Renewal {
        let Some(lease) = self.leases.get_mut(&key) else { return Renewal::Unknown };
        if let Kind::Hold { told, .. } = &mut lease.kind {
            *told = true;
        }
        let Some(ends_at) = lease.ends_at(self.credit) else {
            lease.heard = Some(now);
            return Renewal::Pending;
        };
        if matches!(lease.kind, Kind::Hold { ending: true, .. }) {
            return Renewal::Ending;
        }
        let renewed = ends_at.max(now + with_drift(lease.ttl));
        self.end_at(key, renewed);
        Renewal::Renewed
    }

    /// Notes that a push tells the client of a grant.
    pub fn tell(&mut self, granted: Token) {
        let lease = self.leases.get_mut(&LeaseKey::Hold(granted));
        if let Some(LeaseState { kind: Kind::Hold { told, .. }, .. }) = lease {
            *told = true;
        }
    }

    /// Whether the end of `key` has been proposed and not been applied yet.
    pub fn is_pending(&self, key: LeaseKey) -> bool {
        self.leases.get(&key).is_some_and(|lease| lease.deadline.is_none())
    }

    /// Lease length of `key`.
    pub fn ttl(&self, key: LeaseKey) -> Option<Duration> {
        Some(self.leases.get(&key)?.ttl)
    }

    /// Follows a change that apply made. `table` is as it stands after the whole entry.
    pub fn follow(&mut self, now: Duration, change: &Change, table: &LockTable) {
        self.meet_changed(change, table);
        self.observe(now, change);
    }

    pub(crate) fn observe(&mut self, now: Duration, change: &Change) {
        match change {
            Change::Queued { acquisition, name, ttl_ms, wait } => {
                let kind = Kind::Waiter { wait_ends: wait_ends(now, *wait) };
                self.start(now, LeaseKey::Waiter(*acquisition), name.clone(), *ttl_ms, kind);
            }
            Change::Granted { acquisition, name, grant, from_queue, condition } => {
                self.begin_hold(now, *acquisition, name, grant, *from_queue);
                if let Some(ms) = condition.as_ref().and_then(|it| it.max_hold_ms) {
                    let key = TimeKey::MaxHold(grant.token);
                    self.conditions.begin(now, key, name.clone(), ms, 0);
                }
            }
            Change::Joined { acquisition, token, .. } => self.join(now, *token, acquisition.id),
            Change::Closed { .. } => {}
            Change::WaiterLeft { acquisition, .. } => {
                self.stop(LeaseKey::Waiter(*acquisition));
            }
            // An orphan has no lease: nothing but a command of somebody ends it.
            Change::HoldEnded { token, .. } | Change::Orphaned { token, .. } => {
                self.stop(LeaseKey::Hold(*token));
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
        let mut seen = 0;
        while let Some((at, alarm)) = self.alarms.first().copied() {
            let is_full = items.len() + commands.len() >= EXPIRE_ITEMS_MAX;
            if at > now || is_full || seen >= ALARMS_PER_TURN_MAX {
                break;
            }
            seen += 1;
            self.alarms_seen += 1;
            self.alarms.pop_first();
            match alarm {
                Alarm::Lease(key) if self.is_credited(now, key) => {}
                Alarm::Lease(key) => self.lease_due(key, &mut items, &mut commands),
                Alarm::Wait(acquisition) => commands.extend(self.wait_due(acquisition)),
            }
        }
        let commands_max = EXPIRE_ITEMS_MAX.saturating_sub(items.len() + commands.len());
        if !items.is_empty() {
            commands.push(Command::Expire(Expire { items, proposer_term: self.term }));
        }
        commands.extend(self.conditions.due(now, self.term, commands_max));
        commands
    }

    /// When [`due`](Self::due) is to be asked next: it may have something to say by then, and has
    /// nothing before.
    pub fn next_alarm(&self) -> Option<Duration> {
        let lease = self.alarms.first().map(|&(at, _)| at);
        let at = lease.into_iter().chain(self.conditions.next_alarm()).min()?;
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
        for _ in 0..leases_max {
            if self.leases.pop_first().is_none() {
                break;
            }
            self.alarms.pop_first();
        }
        self.is_empty()
    }

    /// How many leases run that are taken up.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    fn start(&mut self, from: Duration, key: LeaseKey, name: Name, ttl_ms: u64, kind: Kind) {
        let plain = from + with_drift(Duration::from_millis(ttl_ms));
        let deadline = Deadline { plain, credit_before: self.credit };
        self.start_with(deadline, key, name, ttl_ms, kind);
    }

    fn start_with(
        &mut self,
        deadline: Deadline,
        key: LeaseKey,
        name: Name,
        ttl_ms: u64,
        kind: Kind,
    ) {
        let (ttl, alarm) = (Duration::from_millis(ttl_ms), deadline.plain);
        let deadline = Some(deadline);
        let state = LeaseState { name, ttl, deadline, alarm, heard: None, kind };
        if let (LeaseKey::Waiter(acquisition), Kind::Waiter { wait_ends: Some(at) }) = (key, kind) {
            self.alarms.insert((at, Alarm::Wait(acquisition)));
        }
        self.alarms.insert((alarm, Alarm::Lease(key)));
        let before = self.leases.insert(key, state);
        assert!(before.is_none(), "{key:?} has two leases");
    }

    fn stop(&mut self, key: LeaseKey) -> Option<LeaseState> {
        let lease = self.leases.remove(&key)?;
        if lease.deadline.is_some() {
            self.alarms.remove(&(lease.alarm, Alarm::Lease(key)));
        }
        if let (LeaseKey::Waiter(acquisition), Kind::Waiter { wait_ends: Some(at) }) =
            (key, lease.kind)
        {
            self.alarms.remove(&(at, Alarm::Wait(acquisition)));
        }
        Some(lease)
    }

    /// From here on the lease ends at `plain`, and has its whole credit before it.
    fn end_at(&mut self, key: LeaseKey, plain: Duration) {
        self.set_deadline(key, Deadline { plain, credit_before: self.credit });
    }

    fn set_deadline(&mut self, key: LeaseKey, deadline: Deadline) {
        let lease = self.leases.get_mut(&key).expect("the caller has just seen this lease");
        lease.heard = None;
        if lease.deadline.replace(deadline).is_some() {
            self.alarms.remove(&(lease.alarm, Alarm::Lease(key)));
        }
        lease.alarm = deadline.plain;
        self.alarms.insert((lease.alarm, Alarm::Lease(key)));
    }

    /// Whether a lease whose alarm has come goes on, as stalls have been credited to it; its alarm
    /// then stands where it ends.
    fn is_credited(&mut self, now: Duration, key: LeaseKey) -> bool {
        let lease = self.leases.get_mut(&key).expect("an alarm has its lease");
        let ends_at = lease.ends_at(self.credit).expect("what is pending has no alarm");
        if ends_at <= now {
            return false;
        }
        lease.alarm = ends_at;
        self.alarms.insert((ends_at, Alarm::Lease(key)));
        true
    }

    fn begin_hold(
        &mut self,
        now: Duration,
        acquisition: Acquisition,
        name: &Name,
        grant: &Grant,
        from_queue: bool,
    ) {
        // The answer to an acquire tells of the grant; whether a push does, the caller knows.
        let kind = Kind::Hold { newest: acquisition.id, ending: false, told: !from_queue };
        let waited = self.stop(LeaseKey::Waiter(acquisition));
        self.start(now, LeaseKey::Hold(grant.token), name.clone(), grant.ttl_ms, kind);
        // The waiter's lease becomes the hold's, deadline unchanged. If the waiter's end
        // was pending, apply has just refused it: the hold is due at once, unless the waiter
        // was heard of meanwhile.
        if from_queue && let Some(waited) = waited {
            let heard = waited.heard.map(|heard| heard + with_drift(waited.ttl));
            let refused = Deadline { plain: heard.unwrap_or(now), credit_before: self.credit };
            let deadline = waited.deadline.unwrap_or(refused);
            self.set_deadline(LeaseKey::Hold(grant.token), deadline);
        } else if from_queue && let Some(inherited) = &self.inherited {
            let deadline = inherited.deadline(Duration::from_millis(grant.ttl_ms));
            self.set_deadline(LeaseKey::Hold(grant.token), deadline);
        }
    }

    /// A re-entry renews, and makes any Expire that is on its way miss.
    fn join(&mut self, now: Duration, token: Token, id: AcquisitionId) {
        let key = LeaseKey::Hold(token);
        if let Some(LeaseState { kind: Kind::Hold { newest, .. }, .. }) = self.leases.get_mut(&key)
        {
            *newest = id.max(*newest);
        }
        self.renew(now, key);
    }

    /// Ending is waited out in full from here, whatever was left of the lease (D9).
    fn begin_ending(&mut self, now: Duration, token: Token) {
        let key = LeaseKey::Hold(token);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        if let Kind::Hold { ending, .. } = &mut lease.kind {
            *ending = true;
        }
        let ends_at = now + with_drift(lease.ttl);
        self.end_at(key, ends_at);
    }

    /// The Expire was decided without knowing the newest acquisition: it is known now.
    fn rearm(&mut self, now: Duration, token: Token, newest: AcquisitionId) {
        let key = LeaseKey::Hold(token);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        if let Kind::Hold { newest: known, .. } = &mut lease.kind {
            *known = newest.max(*known);
        }
        let ends_at = now + with_drift(lease.ttl);
        self.end_at(key, ends_at);
    }

    /// The hold goes on under another token, by its client's word: in full from here. An Expire that
    /// is on its way names the token before, and does nothing.
    fn rename(&mut self, now: Duration, before: Token, after: Token) {
        self.conditions.rename_hold(before, after);
        let after = LeaseKey::Hold(after);
        let Some(LeaseState { name, ttl, kind, .. }) = self.stop(LeaseKey::Hold(before)) else {
            // A new leader has taken it up under the token that it has now.
            if let Some(lease) = self.leases.get(&after) {
                let ends_at = now + with_drift(lease.ttl);
                self.end_at(after, ends_at);
            }
            return;
        };
        let kind = match kind {
            Kind::Hold { newest, ending, .. } => Kind::Hold { newest, ending, told: true },
            waiter @ Kind::Waiter { .. } => waiter,
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.start(now, after, name, ttl_ms, kind);
    }

    /// The lease is longer from here on.
    fn lengthen(&mut self, now: Duration, token: Token, ttl_ms: u64) {
        let key = LeaseKey::Hold(token);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        let ends_at = lease.ends_at(self.credit);
        lease.ttl = Duration::from_millis(ttl_ms);
        let longer = now + with_drift(lease.ttl);
        if let Some(ends_at) = ends_at {
            self.end_at(key, ends_at.max(longer));
        }
    }

    fn lease_due(
        &mut self,
        key: LeaseKey,
        items: &mut Vec<ExpireItem>,
        commands: &mut Vec<Command>,
    ) {
        let lease = self.leases.get_mut(&key).expect("an alarm has its lease");
        lease.deadline = None;
        let name = lease.name.clone();
        match (key, lease.kind) {
            (LeaseKey::Hold(token), Kind::Hold { ending: true, told, .. }) => {
                let cause = EndCause::WaitedOut { proposer_term: self.term, told };
                commands.push(Command::End(End { name, token: Some(token), cause }));
            }
            (LeaseKey::Hold(token), Kind::Hold { newest, told, .. }) => {
                items.push(ExpireItem::Hold { name, token, newest, told });
            }
            (LeaseKey::Waiter(acquisition), _) => {
                items.push(ExpireItem::Waiter { name, acquisition });
            }
            (LeaseKey::Hold(_), Kind::Waiter { .. }) => unreachable!("a hold's lease is a hold's"),
        }
    }

    fn wait_due(&mut self, acquisition: Acquisition) -> Option<Command> {
        let lease = self.leases.get_mut(&LeaseKey::Waiter(acquisition))?;
        lease.kind = Kind::Waiter { wait_ends: None };
        let name = lease.name.clone();
        let proposer_term = self.term;
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
