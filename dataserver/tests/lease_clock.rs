//! The lease clock beside the table whose changes it follows, over random lives: it has a lease for
//! whatever the table says has one, ends nothing that somebody may still count on, and in the end,
//! when nobody renews any more, ends everything that has not been claimed.

use std::{collections::BTreeMap, time::Duration};

use sharklock_dataserver::{LeaseClock, LeaseKey, Renewal};
use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Ask, At, Cancel, Change, Claim, Command, Condition,
    Downgrade, Ending, Finished, Instance, Lease, LeaseRule, LockTable, Mode, Name, Owner, Reclaim,
    Release, Reply, SessionHandle, SetCondition, Status, Token, Wait,
};

const ELECTION_MAX: Duration = Duration::from_secs(2);

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// Credit as it is promised, kept the slow way: for each lease when it ends, and what of that was
/// credited since its last renewal.
#[derive(Default)]
struct Books {
    ends: BTreeMap<LeaseKey, Entry>,
    /// Holds whose lease was a waiter's a moment ago: it must not have moved.
    moved: Vec<LeaseKey>,
}

#[derive(Clone, Copy)]
struct Entry {
    ends: Duration,
    credited: Duration,
    ttl_ms: u64,
}

impl Books {
    /// Changes beside stalls are taken from the clock: a lease that began anew has no credit.
    fn follow(&mut self, now: Duration, clock: &LeaseClock, table: &LockTable) {
        for key in std::mem::take(&mut self.moved) {
            let Entry { ends, ttl_ms, .. } = self.ends[&key];
            let left = clock.remaining(now, key, ttl_ms);
            assert_eq!(left, Some(ends.saturating_sub(now)), "{key:?}, which waited");
        }
        let before = std::mem::take(&mut self.ends);
        for (key, ttl_ms) in table.leases().iter().filter_map(key_of) {
            let Some(left) = clock.remaining(now, key, ttl_ms) else { continue };
            let anew = Entry { ends: now + left, credited: Duration::ZERO, ttl_ms };
            // An overdue lease has nothing left, and shows no more when it was due.
            let as_before = before.get(&key).copied().filter(|it| it.ttl_ms == ttl_ms);
            let as_before = as_before.filter(|it| it.ends.saturating_sub(now) == left);
            self.ends.insert(key, as_before.unwrap_or(anew));
        }
    }

    /// A waiter's lease becomes its hold's, with the credit that it has used up.
    fn granted(&mut self, waiter: Acquisition, hold: Token) {
        let lease = self.ends.remove(&LeaseKey::Waiter(waiter));
        let key = LeaseKey::Hold(hold);
        self.moved.extend(lease.map(|_| key));
        self.ends.extend(lease.map(|lease| (key, lease)));
    }

    fn renewed(&mut self, key: LeaseKey) {
        if let Some(entry) = self.ends.get_mut(&key) {
            entry.credited = Duration::ZERO;
        }
    }

    /// At most one ttl between two renewals, for each lease by itself.
    fn credit(&mut self, stall: Duration) {
        for entry in self.ends.values_mut() {
            let credit = stall.min(Duration::from_millis(entry.ttl_ms) - entry.credited);
            entry.credited += credit;
            entry.ends += credit;
        }
    }

    fn check(&self, now: Duration, clock: &LeaseClock) {
        for (key, Entry { ends, credited, ttl_ms }) in &self.ends {
            let left = clock.remaining(now, *key, *ttl_ms);
            assert_eq!(left, Some(ends.saturating_sub(now)), "{key:?}, {credited:?} credited");
        }
    }
}

fn key_of(lease: &Lease) -> Option<(LeaseKey, u64)> {
    match lease {
        Lease::Hold { token, ttl_ms, .. } => Some((LeaseKey::Hold(*token), *ttl_ms)),
        Lease::Waiter { acquisition, ttl_ms, .. } => {
            Some((LeaseKey::Waiter(*acquisition), *ttl_ms))
        }
        Lease::Delay { .. } => None,
    }
}

/// A range of one table, its leader's clock, and what clients were told.
struct Life {
    dice: Dice,
    now: Duration,
    index: u64,
    term: u64,
    table: LockTable,
    clock: LeaseClock,
    /// Until when somebody may count on a hold: answered at, plus ttl.
    valid_until: BTreeMap<Token, Duration>,
    /// The same of a waiter, which will count on its hold from then (hole 4).
    waiting_until: BTreeMap<Acquisition, Duration>,
    /// The rest of each lease, counted one by one.
    books: Books,
    /// Decided by a leader that is one no more.
    stale: Vec<Command>,
    id_last: u64,
    /// How many leases a turn takes up of those that a new leader has found; none for a while.
    take_up_max: usize,
    /// The end of a run, in which nothing is lost between two leaders.
    leader_stays: bool,
    ended_by_the_clock: u64,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            dice: Dice(seed),
            now: Duration::ZERO,
            index: 0,
            term: 1,
            table: LockTable::new(),
            clock: LeaseClock::promote(Duration::ZERO, 1, ELECTION_MAX),
            valid_until: BTreeMap::new(),
            waiting_until: BTreeMap::new(),
            books: Books::default(),
            stale: vec![],
            id_last: 0,
            take_up_max: 1,
            leader_stays: false,
            ended_by_the_clock: 0,
        }
    }

    fn apply(&mut self, command: Command, by_clock: bool) -> Reply {
        self.index += 1;
        let at = At { index: self.index, term: self.term, stamped_unix_ms: self.index };
        let outcome = self.table.apply(at, command);
        for change in &outcome.changes {
            self.check_not_early(change, by_clock);
            self.clock.follow(self.now, change, &self.table);
        }
        self.check_follows();
        self.books.follow(self.now, &self.clock, &self.table);
        outcome.reply
    }

    /// Nothing that the clock proposed takes away what somebody may count on.
    fn check_not_early(&mut self, change: &Change, by_clock: bool) {
        match change {
            Change::HoldEnded { token, .. } | Change::Orphaned { token, .. } => {
                let valid_until = self.valid_until.remove(token);
                if by_clock {
                    self.ended_by_the_clock += 1;
                    let early = valid_until.is_some_and(|valid_until| self.now < valid_until);
                    assert!(!early, "at {:?}: {change:?} of {valid_until:?}", self.now);
                }
            }
            Change::Granted { acquisition, grant, from_queue: true, .. } => {
                self.books.granted(*acquisition, grant.token);
                let valid_until = self.waiting_until.remove(acquisition);
                self.valid_until.extend(valid_until.map(|until| (grant.token, until)));
            }
            Change::WaiterLeft { acquisition, .. } => {
                let valid_until = self.waiting_until.remove(acquisition);
                let early = valid_until.is_some_and(|valid_until| self.now < valid_until);
                let expired = matches!(change, Change::WaiterLeft { how: Finished::Expired, .. });
                assert!(!(expired && early), "at {:?}: {change:?} of {valid_until:?}", self.now);
            }
            Change::Downgraded { before, grant, .. } => {
                let valid_until = self.valid_until.remove(before);
                self.valid_until.extend(valid_until.map(|until| (grant.token, until)));
            }
            _ => {}
        }
    }

    /// One lease for each hold and waiter, of its length, and no other; but what a new leader has not
    /// taken up may be missing yet.
    fn check_follows(&self) {
        let leases = self.table.leases();
        let mut count = 0;
        for (key, ttl_ms) in leases.iter().filter_map(key_of) {
            let ttl = self.clock.ttl(key);
            if self.clock.is_whole() || ttl.is_some() {
                count += 1;
                assert_eq!(ttl, Some(Duration::from_millis(ttl_ms)), "{key:?}");
            }
        }
        assert_eq!(self.clock.len(), count, "{leases:?}");
    }

    fn holds(&self) -> Vec<(Name, Token, Acquisition, u64)> {
        let views = self.table.locks("", "", usize::MAX, usize::MAX, 0);
        let views = views.into_iter().flat_map(|lock| {
            let name = lock.name;
            lock.holds.into_iter().map(move |hold| (name.clone(), hold))
        });
        let holds = views.map(|(name, hold)| {
            (name, hold.grant.token, hold.acquisition, hold.agreement.revision)
        });
        holds.collect()
    }

    fn waiters(&self) -> Vec<(Name, Acquisition)> {
        let leases = self.table.leases().into_iter().filter_map(|lease| match lease {
            Lease::Waiter { name, acquisition, .. } => Some((name, acquisition)),
            Lease::Hold { .. } | Lease::Delay { .. } => None,
        });
        leases.collect()
    }

    fn acquisition(&mut self, session: u8, instance: u64) -> Acquisition {
        self.id_last += 1;
        let (session, id) = (SessionHandle([session; 16]), AcquisitionId(self.id_last));
        Acquisition { session, instance: Instance(instance), id }
    }

    fn condition(&mut self) -> Condition {
        let lease = if self.dice.roll(3) == 0 { LeaseRule::Hold } else { LeaseRule::OnExpiry };
        let may_end = lease != LeaseRule::Hold;
        let ms = |dice: &mut Dice| (dice.roll(2) == 0).then(|| 1_000 + dice.roll(20) * 500);
        Condition {
            lease,
            lock_delay_ms: ms(&mut self.dice),
            max_hold_ms: ms(&mut self.dice).filter(|_| may_end),
            ask_grace_ms: ms(&mut self.dice).filter(|_| may_end),
        }
    }

    fn acquire(&mut self) {
        let session = 1 + self.dice.roll(4) as u8;
        let acquisition = self.acquisition(session, 1);
        let name = Name::from(["a", "b", "c"][self.dice.roll(3) as usize]);
        let mode = if self.dice.roll(3) == 0 { Mode::Shared } else { Mode::Exclusive };
        let wait = if self.dice.roll(2) == 0 { Wait::AtMost(5_000) } else { Wait::Unbounded };
        let condition = (self.dice.roll(2) == 0).then(|| Box::new(self.condition()));
        let ttl_ms = 2_000 + self.dice.roll(4) * 2_000;
        let acquire = Acquire {
            acquisition,
            name,
            mode,
            ttl_ms,
            wait,
            reenter: None,
            owner: Owner::default(),
            condition,
            asked_ms: u64::MAX,
        };
        // Its receipt is now; the answer tells it so.
        let valid_until = self.now + Duration::from_millis(ttl_ms);
        match self.apply(Command::Acquire(Box::new(acquire)), false) {
            Reply::Granted(grant) => drop(self.valid_until.insert(grant.token, valid_until)),
            Reply::Queued { .. } => drop(self.waiting_until.insert(acquisition, valid_until)),
            _ => {}
        }
    }

    /// A keepalive of something that is open, and its answer.
    fn keep_alive(&mut self) {
        let holds = self.holds().into_iter().map(|(name, _, acquisition, _)| (name, acquisition));
        let all: Vec<_> = holds.chain(self.waiters()).collect();
        if all.is_empty() {
            return;
        }
        let (name, acquisition) = all[self.dice.roll(all.len() as u64) as usize].clone();
        match self.table.status(name.as_str(), acquisition) {
            Status::Held { grant, .. } => {
                let key = LeaseKey::Hold(grant.token);
                self.clock.meet(&self.table, name.as_str(), key);
                if self.renew(key) == Renewal::Renewed {
                    let ttl = Duration::from_millis(grant.ttl_ms);
                    self.valid_until.insert(grant.token, self.now + ttl);
                }
            }
            Status::Waiting { .. } => {
                let key = LeaseKey::Waiter(acquisition);
                self.clock.meet(&self.table, name.as_str(), key);
                let ttl = self.clock.ttl(key).expect("a waiter has a lease");
                if self.renew(key) == Renewal::Renewed {
                    self.waiting_until.insert(acquisition, self.now + ttl);
                }
            }
            Status::Finished(_) => {}
        }
    }

    fn renew(&mut self, key: LeaseKey) -> Renewal {
        let renewal = self.clock.renew(self.now, key);
        self.books.follow(self.now, &self.clock, &self.table);
        if renewal == Renewal::Renewed {
            self.books.renewed(key);
        }
        renewal
    }

    /// The server stands still, and says so.
    fn stall(&mut self, most_ms: u64) {
        let stall = Duration::from_millis(500 + self.dice.roll(most_ms));
        self.now += stall;
        self.books.credit(stall);
        self.clock.credit_stall(self.now, stall);
        self.books.check(self.now, &self.clock);
    }

    /// Something that a client or an operator does to a hold.
    fn touch(&mut self) {
        let holds = self.holds();
        if holds.is_empty() {
            return self.acquire();
        }
        let (name, token, acquisition, revision) =
            holds[self.dice.roll(holds.len() as u64) as usize].clone();
        let command = match self.dice.roll(9) {
            0 => Command::Release(Release { acquisition, name, token, all: true }),
            1 => Command::Downgrade(Downgrade { acquisition, name, token }),
            2 | 3 => Command::Claim(Claim { acquisition, name, token, revision }),
            4 => {
                let (condition, ttl_ms) = (self.condition(), 2_000 + self.dice.roll(6) * 2_000);
                let set = SetCondition { acquisition, name, token, revision, ttl_ms, condition };
                Command::SetCondition(set)
            }
            5 | 6 => {
                let Acquisition { session, instance, .. } = acquisition;
                let acquisition = self.acquisition(session.0[0], instance.0 + 1);
                let (owner, asked_ms) = (Owner::default(), u64::MAX);
                let reclaim = Reclaim { acquisition, name, token, owner, asked_ms };
                Command::Reclaim(Box::new(reclaim))
            }
            7 => {
                let (reason, operator) = ("stuck".into(), "op".into());
                Command::Ending(Ending { name, token: Some(token), reason, operator })
            }
            _ => match self.waiters().pop() {
                Some((name, acquisition)) if self.dice.roll(3) > 0 => {
                    Command::Ask(Ask { acquisition, name })
                }
                Some((name, acquisition)) => Command::Cancel(Cancel { acquisition, name }),
                None => return,
            },
        };
        self.apply(command, false);
    }

    /// The commands that the clock wants; not all of them get into the log before the leader
    /// changes.
    fn run_due(&mut self) {
        if self.take_up_max == 0 {
            self.take_up_max = self.dice.roll(20) as usize / 18;
        } else {
            let taken = self.clock.take_up(self.now, &self.table, self.take_up_max);
            assert!(taken <= 8 * self.take_up_max, "{taken} leases in one turn");
        }
        self.books.check(self.now, &self.clock);
        for command in self.clock.due(self.now) {
            if self.dice.roll(30) == 0 && !self.leader_stays {
                self.stale.push(command);
                self.change_leader();
                return;
            }
            self.apply(command, true);
        }
    }

    fn change_leader(&mut self) {
        self.now += Duration::from_millis(self.dice.roll(3_000));
        self.term += 1;
        self.clock = LeaseClock::promote(self.now, self.term, ELECTION_MAX);
        self.take_up_max = self.dice.roll(4) as usize;
        self.books = Books::default();
        self.books.follow(self.now, &self.clock, &self.table);
        for command in std::mem::take(&mut self.stale) {
            let before = self.table.state_hash();
            self.apply(command, true);
            assert_eq!(self.table.state_hash(), before, "an older leader's word did something");
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.dice.roll(400));
        match self.dice.roll(100) {
            0..30 => self.acquire(),
            30..75 => self.keep_alive(),
            75..97 => self.touch(),
            97..99 => self.stall(12_000),
            _ => self.change_leader(),
        }
        self.run_due();
    }

    /// Nobody asks for anything any more, and the server stands still in half of its time. All the
    /// same every lease ends within what is published: its full length, one ttl of credit, and as
    /// long again as pauses last.
    fn end_stalling(&mut self) {
        let begin = self.now;
        (self.leader_stays, self.take_up_max) = (true, 100);
        let ttl_max = Duration::from_secs(12);
        let full = ttl_max + ttl_max / 100 + ELECTION_MAX;
        while !(self.clock.is_empty() && self.clock.is_whole()) {
            self.now += Duration::from_millis(3_000);
            self.run_due();
            self.stall(2_500);
            // Ending, and who then reclaims the hold, take their time one after the other.
            let latest = begin + 2 * (2 * (full + ttl_max));
            assert!(self.now < latest, "{:?} since {begin:?}: {:?}", self.now, self.clock);
        }
    }

    /// Nobody asks for anything any more.
    fn end(&mut self) {
        while self.clock.next_alarm().is_some() || !self.clock.is_whole() {
            assert!(self.now < Duration::from_secs(3_600), "something never ends");
            self.now = self.clock.next_alarm().map_or(self.now, |at| self.now.max(at));
            self.run_due();
        }
        let left = self.table.locks("", "", usize::MAX, usize::MAX, usize::MAX);
        for lock in left {
            assert!(lock.holds.iter().all(|hold| hold.orphaned), "{lock:#?}");
            assert!(!lock.holds.is_empty() && lock.waiters.is_empty(), "{lock:#?}");
            assert!(lock.delays.is_empty(), "{lock:#?}");
        }
        assert!(self.clock.is_empty());
    }
}

#[test]
fn the_clock_follows_the_table_and_is_never_early() {
    let mut ended = 0;
    for seed in 0..40 {
        let mut life = Life::new(seed);
        (0..1_500).for_each(|_| life.step());
        life.table.check_invariants();
        if seed % 2 == 0 {
            life.end_stalling();
        }
        life.end();
        ended += life.ended_by_the_clock;
    }
    assert!(ended > 1_000, "the clock ended only {ended} holds");
}
