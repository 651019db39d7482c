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
    Acquisition, AcquisitionId, Change, Command, End, EndCause, Expire, ExpireItem, Grant, Lease,
    Name, Token, Wait, WaitTimeout,
};

use crate::condition_clock::{ConditionClock, TimeKey};

/// ρ of D7 in parts per thousand: how much faster than true time a server's clock may be assumed
/// to run, and by how much every lease is longer here than the client counts it.
pub const DRIFT_PERMILLE: u32 = 10;

/// A loop or disk stall longer than this is credited to every lease (D7).
pub const STALL_MIN: Duration = Duration::from_millis(500);

/// Most expiries in one command: bounds the work of one apply (raft.md §10, story 21).
const EXPIRE_ITEMS_MAX: usize = 1_000;

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
/// - `deadline` is `Some` exactly when `(deadline, Alarm::Lease(key))` is in `alarms`; `None` means
///   that its end has been proposed and not yet been applied.
/// - `deadline` only moves later, except that Ending sets it anew;
/// - `heard` is set only while the end is pending.
/// - `credited` is at most `ttl`.
#[derive(Clone, Debug)]
struct LeaseState {
    name: Name,
    ttl: Duration,
    deadline: Option<Duration>,
    /// The last receipt while the end was pending. It counts if apply refuses that end: the
    /// receipt may have been an acquire, which is answered behind it in the log.
    heard: Option<Duration>,
    /// Stall credit since the last renewal.
    credited: Duration,
    kind: Kind,
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
/// - has a lease for every hold that is no orphan and every waiter of the table as applied, and no
///   other, and a time for everything that a condition sets;
/// - a lease is never proposed to end before a full `ttl(1+ρ)` since the receipt of its last
///   renewal (S5).
#[derive(Debug)]
pub struct LeaseClock {
    term: u64,
    election_max: Duration,
    leases: BTreeMap<LeaseKey, LeaseState>,
    alarms: BTreeSet<(Duration, Alarm)>,
    conditions: ConditionClock,
    /// Set by the first stall: no end is proposed before.
    paused_until: Option<Duration>,
}

impl LeaseClock {
    /// The clock of a leader that has just applied to its own `term`: every lease starts in full,
    /// longer by the time in which an older leader may still have answered (D7, *New leader*).
    pub fn promote(now: Duration, term: u64, election_max: Duration, leases: Vec<Lease>) -> Self {
        let mut clock = Self {
            term,
            election_max,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            conditions: ConditionClock::default(),
            paused_until: None,
        };
        for lease in leases {
            let from = now + election_max;
            match lease {
                Lease::Hold { name, token, ttl_ms, newest, ending, agreement, asked, .. } => {
                    // Whether an older leader has told its client is not known here.
                    let kind = Kind::Hold { newest, ending, told: true };
                    if !ending {
                        clock.conditions.agree(now, &name, token, &agreement, asked);
                    }
                    clock.start(from, LeaseKey::Hold(token), name, ttl_ms, kind);
                }
                Lease::Waiter { name, acquisition, ttl_ms, wait } => {
                    let key = LeaseKey::Waiter(acquisition);
                    let kind = Kind::Waiter { wait_ends: wait_ends(now, wait) };
                    clock.start(from, key, name, ttl_ms, kind);
                }
                Lease::Delay { name, token, delay_ms } => {
                    clock.conditions.begin(now, TimeKey::LockDelay(token), name, delay_ms, 0);
                }
            }
        }
        clock
    }

    /// Takes the receipt of a keepalive, a duplicate acquire or a re-entry.
    pub fn renew(&mut self, now: Duration, key: LeaseKey) -> Renewal {
        let Some(lease) = self.leases.get_mut(&key) else { return Renewal::Unknown };
        if let Kind::Hold { told, .. } = &mut lease.kind {
            *told = true;
        }
        let Some(deadline) = lease.deadline else {
            lease.heard = Some(now);
            return Renewal::Pending;
        };
        if matches!(lease.kind, Kind::Hold { ending: true, .. }) {
            return Renewal::Ending;
        }
        lease.credited = Duration::ZERO;
        let renewed = deadline.max(now + with_drift(lease.ttl));
        lease.deadline = Some(renewed);
        self.alarms.remove(&(deadline, Alarm::Lease(key)));
        self.alarms.insert((renewed, Alarm::Lease(key)));
        Renewal::Renewed
    }

    /// Notes that a push tells the client of a grant.
    pub fn tell(&mut self, granted: Token) {
        let lease = self.leases.get_mut(&LeaseKey::Hold(granted));
        if let Some(LeaseState { kind: Kind::Hold { told, .. }, .. }) = lease {
            *told = true;
        }
    }

    /// Upper bound of what is left of a time that a condition sets.
    pub fn time_left(&self, now: Duration, key: TimeKey) -> Option<Duration> {
        self.conditions.remaining(now, key)
    }

    /// Whether the end of `key` has been proposed and not been applied yet.
    pub fn is_pending(&self, key: LeaseKey) -> bool {
        self.leases.get(&key).is_some_and(|lease| lease.deadline.is_none())
    }

    /// Upper bound of what is left of a lease.
    pub fn remaining(&self, now: Duration, key: LeaseKey) -> Option<Duration> {
        Some(self.leases.get(&key)?.deadline?.saturating_sub(now))
    }

    /// Lease length of `key`.
    pub fn ttl(&self, key: LeaseKey) -> Option<Duration> {
        Some(self.leases.get(&key)?.ttl)
    }

    /// Follows a change that apply made.
    pub fn observe(&mut self, now: Duration, change: &Change) {
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
        while let Some((at, alarm)) = self.alarms.first().copied() {
            if at > now || items.len() + commands.len() >= EXPIRE_ITEMS_MAX {
                break;
            }
            self.alarms.pop_first();
            match alarm {
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

    /// When [`due`](Self::due) will next have something to say.
    pub fn next_alarm(&self) -> Option<Duration> {
        let lease = self.alarms.first().map(|&(at, _)| at);
        let at = lease.into_iter().chain(self.conditions.next_alarm()).min()?;
        Some(self.paused_until.map_or(at, |until| until.max(at)))
    }

    /// Credits a stall of the loop or of the disk: renewals may have been waiting behind it. At
    /// most one ttl between two renewals, and with a new pause only after an equal time without
    /// one, so that a server that stalls again and again frees its locks all the same.
    pub fn credit_stall(&mut self, now: Duration, stall: Duration) {
        self.alarms.retain(|(_, alarm)| matches!(alarm, Alarm::Wait(_)));
        for (key, lease) in &mut self.leases {
            let Some(deadline) = lease.deadline else { continue };
            let credit = stall.min(lease.ttl.saturating_sub(lease.credited));
            lease.credited += credit;
            lease.deadline = Some(deadline + credit);
            self.alarms.insert((deadline + credit, Alarm::Lease(*key)));
        }
        if self.paused_until.is_none_or(|until| now >= until + self.election_max) {
            self.paused_until = Some(now + self.election_max);
        }
    }

    /// How many leases run.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether none runs.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    fn start(&mut self, from: Duration, key: LeaseKey, name: Name, ttl_ms: u64, kind: Kind) {
        let ttl = Duration::from_millis(ttl_ms);
        let deadline = from + with_drift(ttl);
        let (deadline_set, credited) = (Some(deadline), Duration::ZERO);
        let state = LeaseState { name, ttl, deadline: deadline_set, heard: None, credited, kind };
        if let (LeaseKey::Waiter(acquisition), Kind::Waiter { wait_ends: Some(at) }) = (key, kind) {
            self.alarms.insert((at, Alarm::Wait(acquisition)));
        }
        self.alarms.insert((deadline, Alarm::Lease(key)));
        let before = self.leases.insert(key, state);
        assert!(before.is_none(), "{key:?} has two leases");
    }

    fn stop(&mut self, key: LeaseKey) -> Option<LeaseState> {
        let lease = self.leases.remove(&key)?;
        if let Some(deadline) = lease.deadline {
            self.alarms.remove(&(deadline, Alarm::Lease(key)));
        }
        if let (LeaseKey::Waiter(acquisition), Kind::Waiter { wait_ends: Some(at) }) =
            (key, lease.kind)
        {
            self.alarms.remove(&(at, Alarm::Wait(acquisition)));
        }
        Some(lease)
    }

    fn set_deadline(&mut self, key: LeaseKey, deadline: Duration) {
        let lease = self.leases.get_mut(&key).expect("the caller has just seen this lease");
        lease.heard = None;
        if let Some(before) = lease.deadline.replace(deadline) {
            self.alarms.remove(&(before, Alarm::Lease(key)));
        }
        self.alarms.insert((deadline, Alarm::Lease(key)));
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
        if let (true, Some(waited)) = (from_queue, waited) {
            let heard = waited.heard.map(|heard| heard + with_drift(waited.ttl));
            let deadline = waited.deadline.or(heard).unwrap_or(now);
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
        let deadline = now + with_drift(lease.ttl);
        self.set_deadline(key, deadline);
    }

    /// The Expire was decided without knowing the newest acquisition: it is known now.
    fn rearm(&mut self, now: Duration, token: Token, newest: AcquisitionId) {
        let key = LeaseKey::Hold(token);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        if let Kind::Hold { newest: known, .. } = &mut lease.kind {
            *known = newest.max(*known);
        }
        lease.credited = Duration::ZERO;
        let deadline = now + with_drift(lease.ttl);
        self.set_deadline(key, deadline);
    }

    /// The hold goes on under another token, by its client's word: in full from here. An Expire that
    /// is on its way names the token before, and does nothing.
    fn rename(&mut self, now: Duration, before: Token, after: Token) {
        self.conditions.rename_hold(before, after);
        let Some(LeaseState { name, ttl, kind, .. }) = self.stop(LeaseKey::Hold(before)) else {
            return;
        };
        let kind = match kind {
            Kind::Hold { newest, ending, .. } => Kind::Hold { newest, ending, told: true },
            waiter @ Kind::Waiter { .. } => waiter,
        };
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.start(now, LeaseKey::Hold(after), name, ttl_ms, kind);
    }

    /// The lease is longer from here on.
    fn lengthen(&mut self, now: Duration, token: Token, ttl_ms: u64) {
        let key = LeaseKey::Hold(token);
        let Some(lease) = self.leases.get_mut(&key) else { return };
        lease.ttl = Duration::from_millis(ttl_ms);
        if let Some(deadline) = lease.deadline {
            let deadline = deadline.max(now + with_drift(lease.ttl));
            self.set_deadline(key, deadline);
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
mod tests {
    use sharklock_locktable::{Agreement, Condition, Finished, Instance, SessionHandle};

    use super::*;

    const ELECTION_MAX: Duration = Duration::from_secs(2);
    const TTL_MS: u64 = 10_000;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn acquisition(id: u64) -> Acquisition {
        Acquisition {
            session: SessionHandle([1; 16]),
            instance: Instance(1),
            id: AcquisitionId(id),
        }
    }

    fn clock() -> LeaseClock {
        LeaseClock::promote(at(0), 7, ELECTION_MAX, Vec::new())
    }

    fn granted(id: u64, token: u64, from_queue: bool) -> Change {
        Change::Granted {
            acquisition: acquisition(id),
            name: "a".into(),
            grant: Grant { token: Token(token), fence_floor: Token(token), ttl_ms: TTL_MS },
            from_queue,
            condition: None,
        }
    }

    fn queued(id: u64, wait: Wait) -> Change {
        Change::Queued { acquisition: acquisition(id), name: "a".into(), ttl_ms: TTL_MS, wait }
    }

    fn expire_hold(token: u64, newest: u64) -> Command {
        let newest = AcquisitionId(newest);
        let (name, token) = ("a".into(), Token(token));
        let items = vec![ExpireItem::Hold { name, token, newest, told: true }];
        Command::Expire(Expire { items, proposer_term: 7 })
    }

    #[test]
    fn a_hold_expires_after_its_ttl_with_drift_and_not_before() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        assert_eq!(clock.next_alarm(), Some(at(10_100)));
        assert_eq!(clock.due(at(10_099)), vec![]);
        assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
        assert_eq!(clock.due(at(99_999)), vec![], "it is proposed once");
    }

    #[test]
    fn renewal_moves_the_deadline_from_receipt_and_never_back() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        let key = LeaseKey::Hold(Token(5));
        assert_eq!(clock.renew(at(3_000), key), Renewal::Renewed);
        assert_eq!(clock.next_alarm(), Some(at(13_100)));
        assert_eq!(clock.renew(at(2_000), key), Renewal::Renewed);
        assert_eq!(clock.next_alarm(), Some(at(13_100)));
        assert_eq!(clock.renew(at(0), LeaseKey::Hold(Token(6))), Renewal::Unknown);
    }

    #[test]
    fn while_its_end_is_pending_a_hold_is_not_renewed() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        clock.due(at(10_100));
        assert_eq!(clock.renew(at(10_101), LeaseKey::Hold(Token(5))), Renewal::Pending);
        assert!(clock.is_pending(LeaseKey::Hold(Token(5))));
    }

    /// holes.md 6: another acquisition joined before the Expire was applied.
    #[test]
    fn an_expire_that_missed_starts_the_lease_anew() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        clock.due(at(10_100));
        let (token, name) = (Token(5), Name::from("a"));
        let joined = Change::Joined { acquisition: acquisition(2), name: name.clone(), token };
        clock.observe(at(10_150), &joined);
        clock.observe(at(10_200), &Change::ExpireMissed { token, name, newest: AcquisitionId(2) });
        assert_eq!(clock.next_alarm(), Some(at(20_300)));
        assert_eq!(clock.due(at(20_300)), vec![expire_hold(5, 2)]);
    }

    #[test]
    fn a_granted_waiter_keeps_its_deadline() {
        let mut clock = clock();
        clock.observe(at(0), &queued(1, Wait::Unbounded));
        clock.renew(at(4_000), LeaseKey::Waiter(acquisition(1)));
        clock.observe(at(9_000), &granted(1, 5, true));
        assert_eq!(clock.next_alarm(), Some(at(14_100)));
        assert_eq!(clock.len(), 1);
    }

    #[test]
    fn a_waiter_granted_while_its_expiry_was_pending_is_due_as_a_hold() {
        let mut clock = clock();
        clock.observe(at(0), &queued(1, Wait::Unbounded));
        assert_eq!(clock.due(at(10_100)).len(), 1);
        clock.observe(at(10_200), &granted(1, 5, true));
        clock.tell(Token(5));
        assert_eq!(clock.due(at(10_200)), vec![expire_hold(5, 1)]);
    }

    /// Its duplicate acquire came while the expiry was pending, and will be answered behind it.
    #[test]
    fn a_waiter_heard_of_while_its_expiry_was_pending_holds_for_a_full_lease() {
        let mut clock = clock();
        clock.observe(at(0), &queued(1, Wait::Unbounded));
        assert_eq!(clock.due(at(10_100)).len(), 1);
        assert_eq!(clock.renew(at(10_150), LeaseKey::Waiter(acquisition(1))), Renewal::Pending);
        clock.observe(at(10_200), &granted(1, 5, true));
        assert_eq!(clock.next_alarm(), Some(at(20_250)));
    }

    #[test]
    fn stalls_in_a_row_cannot_put_expiry_off_for_ever() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        let mut now = 20_000;
        while clock.due(at(now)).is_empty() {
            assert!(now < 40_000, "expiry never came");
            now += 700;
            clock.credit_stall(at(now), at(600));
        }
    }

    #[test]
    fn a_wait_ends_by_its_own_alarm_and_the_lease_goes_on() {
        let mut clock = clock();
        clock.observe(at(0), &queued(1, Wait::AtMost(3_000)));
        let timeout = Command::WaitTimeout(WaitTimeout {
            acquisition: acquisition(1),
            name: "a".into(),
            proposer_term: 7,
        });
        assert_eq!(clock.due(at(3_000)), vec![timeout]);
        // holes.md 18: it was granted before the time-out was applied; nothing is left behind.
        clock.observe(at(3_001), &granted(1, 5, true));
        assert_eq!(clock.next_alarm(), Some(at(10_100)));
        let ended = Change::HoldEnded {
            token: Token(5),
            name: "a".into(),
            acquisitions: vec![acquisition(1)],
            how: Finished::Released,
        };
        clock.observe(at(3_002), &ended);
        assert!(clock.is_empty());
        assert_eq!(clock.next_alarm(), None);
    }

    #[test]
    fn an_ending_hold_is_waited_out_in_full_and_not_renewed() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        let ending = Change::EndingBegan {
            token: Token(5),
            name: "a".into(),
            ttl_ms: TTL_MS,
            acquisitions: vec![acquisition(1)],
            reason: "stuck".into(),
        };
        clock.observe(at(4_000), &ending);
        assert_eq!(clock.renew(at(5_000), LeaseKey::Hold(Token(5))), Renewal::Ending);
        let cause = EndCause::WaitedOut { proposer_term: 7, told: true };
        let end = Command::End(End { name: "a".into(), token: Some(Token(5)), cause });
        assert_eq!(clock.due(at(14_099)), vec![]);
        assert_eq!(clock.due(at(14_100)), vec![end]);
    }

    #[test]
    fn a_new_leader_gives_every_lease_in_full_plus_an_election() {
        let hold = Lease::Hold {
            name: "a".into(),
            token: Token(5),
            ttl_ms: TTL_MS,
            newest: AcquisitionId(1),
            acquisitions: vec![acquisition(1)],
            ending: false,
            agreement: Agreement { ttl_ms: TTL_MS, ..Agreement::default() },
            asked: false,
        };
        let clock = LeaseClock::promote(at(1_000), 8, ELECTION_MAX, vec![hold]);
        assert_eq!(clock.next_alarm(), Some(at(13_100)));
    }

    /// holes.md 7: after a stall, renewals that waited behind it are heard first.
    #[test]
    fn a_stall_is_credited_once_per_ttl_and_pauses_expiry() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        clock.credit_stall(at(9_000), at(8_000));
        assert_eq!(clock.next_alarm(), Some(at(18_100)));
        clock.credit_stall(at(18_000), at(8_000));
        assert_eq!(clock.next_alarm(), Some(at(20_100)), "only 2 s of credit were left");
        clock.credit_stall(at(22_000), at(600));
        assert_eq!(clock.due(at(22_100)), vec![], "paused for an election time-out");
        assert_eq!(clock.due(at(24_000)), vec![expire_hold(5, 1)]);
    }

    /// The Expire that is proposed for the hold, as far as it says who was told.
    fn told_at_expiry(clock: &mut LeaseClock) -> bool {
        let commands = clock.due(at(1_000_000));
        match &commands[..] {
            [Command::Expire(Expire { items, .. })] => match items[..] {
                [ExpireItem::Hold { told, .. }] => told,
                _ => panic!("{items:?}"),
            },
            _ => panic!("{commands:?}"),
        }
    }

    #[test]
    fn a_client_was_told_of_a_grant_by_an_answer_or_a_push() {
        let mut answered = clock();
        answered.observe(at(0), &granted(1, 5, false));
        assert!(told_at_expiry(&mut answered));
        let from_queue = || {
            let mut clock = clock();
            clock.observe(at(0), &queued(1, Wait::Unbounded));
            clock.observe(at(1), &granted(1, 5, true));
            clock
        };
        assert!(!told_at_expiry(&mut from_queue()), "nobody listened, nobody asked");
        let mut pushed = from_queue();
        pushed.tell(Token(5));
        assert!(told_at_expiry(&mut pushed));
        let mut renewed = from_queue();
        renewed.renew(at(2), LeaseKey::Hold(Token(5)));
        assert!(told_at_expiry(&mut renewed));
    }

    #[test]
    fn an_orphan_has_no_lease() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
        let acquisitions = vec![acquisition(1)];
        let orphaned = Change::Orphaned { token: Token(5), name: "a".into(), acquisitions };
        clock.observe(at(10_101), &orphaned);
        assert!(clock.is_empty());
        assert_eq!(clock.next_alarm(), None);
        assert_eq!(clock.renew(at(10_102), LeaseKey::Hold(Token(5))), Renewal::Unknown);
    }

    /// Even if an Expire of the token before is on its way, which does nothing.
    #[test]
    fn a_downgraded_hold_has_a_full_lease_under_its_new_token() {
        let downgraded = Change::Downgraded {
            before: Token(5),
            name: "a".into(),
            grant: Grant { token: Token(6), fence_floor: Token(6), ttl_ms: TTL_MS },
            acquisitions: vec![acquisition(1)],
        };
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        assert_eq!(clock.due(at(10_100)), vec![expire_hold(5, 1)]);
        clock.observe(at(10_200), &downgraded);
        assert!(!clock.is_pending(LeaseKey::Hold(Token(6))));
        assert_eq!(clock.due(at(20_299)), vec![]);
        assert_eq!(clock.due(at(20_300)), vec![expire_hold(6, 1)]);
    }

    #[test]
    fn a_longer_lease_counts_from_when_it_was_agreed() {
        let mut clock = clock();
        clock.observe(at(0), &granted(1, 5, false));
        let agreement = Agreement { ttl_ms: 2 * TTL_MS, revision: 1, ..Agreement::default() };
        let name = Name::from("a");
        let set = Change::ConditionSet { token: Token(5), name, agreement, asked: false };
        clock.observe(at(1_000), &set);
        assert_eq!(clock.next_alarm(), Some(at(21_200)));
        assert_eq!(clock.ttl(LeaseKey::Hold(Token(5))), Some(at(2 * TTL_MS)));
    }

    #[test]
    fn the_times_of_conditions_end_with_their_hold() {
        let condition = Condition { max_hold_ms: Some(5_000), ..Condition::default() };
        let grant = Grant { token: Token(5), fence_floor: Token(5), ttl_ms: TTL_MS };
        let granted = Change::Granted {
            acquisition: acquisition(1),
            name: "a".into(),
            grant,
            from_queue: false,
            condition: Some(Box::new(condition)),
        };
        let mut clock = clock();
        clock.observe(at(0), &granted);
        assert_eq!(clock.next_alarm(), Some(at(5_050)));
        let ended = Change::HoldEnded {
            token: Token(5),
            name: "a".into(),
            acquisitions: vec![acquisition(1)],
            how: Finished::Released,
        };
        clock.observe(at(1), &ended);
        assert_eq!(clock.next_alarm(), None);
    }
}
