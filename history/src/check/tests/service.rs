//! A naive, correct lock service and its clients, in one loop: where valid histories come from.
//!
//! Everything takes effect at the loop's clock; calls were sent a little before and are answered a
//! little after. It shares no code with the product either.

use crate::record::{End, Hold, LockId, Mode, Position, Record, What};

/// splitmix64: the seed is the history.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const TTL: u64 = 10_000;
const LOCKS: usize = 3;
/// Tokens leave gaps, so that faults can be planted between two.
const TOKEN_STEP: u64 = 10;

/// One acquisition, on both sides of the wire.
struct Acquisition {
    /// Its client's final record; `what` is filled in as things happen.
    record: Record,
    /// Its client is still interested.
    wanted: bool,
    lock: usize,
    mode: Mode,
    /// The client's: when it sent the last call that was answered.
    sent: u64,
}

/// The service's side of a grant.
struct Live {
    token: u64,
    mode: Mode,
    floor: u64,
    deadline: u64,
    ending: bool,
    /// Open acquisitions.
    open: Vec<usize>,
    /// All acquisitions ever.
    all: Vec<usize>,
}

struct Waiter {
    who: usize,
    deadline: u64,
}

#[derive(Default)]
struct Lock {
    live: Vec<Live>,
    queue: Vec<Waiter>,
}

pub(crate) struct Service {
    rng: Rng,
    now: u64,
    acquisitions: Vec<Acquisition>,
    locks: Vec<Lock>,
    /// Per range: token counter and log index.
    ranges: [(u64, u64); 2],
    notes: Vec<Record>,
}

impl Service {
    /// The notes of the clients in so many steps.
    pub(crate) fn history(seed: u64, steps: u64) -> Vec<Record> {
        let locks = (0..LOCKS).map(|_| Lock::default()).collect();
        let (acquisitions, notes) = (Vec::new(), Vec::new());
        let ranges = [(0, 1), (1_000, 1)];
        let mut service =
            Self { rng: Rng::new(seed), now: 100_000, acquisitions, locks, ranges, notes };
        for _ in 0..steps {
            service.now += 1 + service.rng.below(400);
            service.step();
        }
        service.into_records()
    }

    fn step(&mut self) {
        let lock = self.rng.below(LOCKS as u64) as usize;
        self.ranges[lock % 2].1 += 1;
        match self.rng.below(100) {
            0..35 => self.acquire(lock),
            35..60 => self.release(lock),
            60..75 => self.renew(lock),
            75..80 => self.time_out(lock),
            80..85 => self.reenter(lock),
            85..88 => self.operator(lock),
            88..94 => self.look(lock),
            _ => self.now += self.rng.below(TTL),
        }
        if self.rng.chance(40) {
            self.expire(lock);
        }
        self.grant_waiters(lock);
    }

    fn before(&mut self) -> u64 {
        self.now - self.rng.below(300)
    }

    fn after(&mut self) -> u64 {
        self.now + self.rng.below(300)
    }

    fn position(&self, lock: usize) -> Position {
        let range = lock % 2;
        Position { range: range as u32 + 1, version: 1, applied_index: self.ranges[range].1 }
    }

    fn record(&mut self, lock: usize, session: u32, acquisition: u64, what: What) -> Record {
        let (invoked, returned) = (self.before(), self.after());
        let position = self.position(lock);
        let lock = LockId(lock as u32);
        Record { lock, session, acquisition, invoked, returned, position, what }
    }

    /// A lock is of one kind while it is live: here for ever, by its number.
    fn mode(&mut self, lock: usize) -> Mode {
        match lock {
            0 => Mode::Exclusive,
            1 if self.rng.chance(50) => Mode::Exclusive,
            1 => Mode::Shared,
            _ => Mode::Permits { units: 1 + self.rng.below(3) as u16, units_max: 4 },
        }
    }

    fn fits(&self, lock: usize, mode: Mode) -> bool {
        let live = &self.locks[lock].live;
        match mode {
            Mode::Exclusive => live.is_empty(),
            Mode::Shared => live.iter().all(|hold| hold.mode == Mode::Shared),
            Mode::Permits { units, units_max } => {
                let taken = live.iter().map(|hold| match hold.mode {
                    Mode::Permits { units, .. } => units,
                    _ => unreachable!("a lock is of one kind"),
                });
                taken.sum::<u16>() + units <= units_max
            }
        }
    }

    fn acquire(&mut self, lock: usize) {
        let mode = self.mode(lock);
        let who = self.acquisitions.len();
        let session = self.rng.below(5) as u32;
        let record = self.record(lock, session, who as u64 + 1, What::Unknown { reenter: 0 });
        let sent = record.invoked;
        self.acquisitions.push(Acquisition { record, wanted: true, lock, mode, sent });
        if self.rng.chance(5) {
            return; // It never arrives, and its client gives up.
        }
        if self.locks[lock].queue.is_empty() && self.fits(lock, mode) {
            return self.grant(lock, who, self.now + TTL);
        }
        if self.rng.chance(30) {
            let holder = self.any_token(lock);
            self.acquisitions[who].record.what = What::Refused { holder };
            return;
        }
        self.locks[lock].queue.push(Waiter { who, deadline: self.now + TTL });
        self.tell_place(lock, self.locks[lock].queue.len() - 1, sent);
    }

    fn any_token(&mut self, lock: usize) -> u64 {
        let live = &self.locks[lock].live;
        if live.is_empty() {
            return 0;
        }
        let which = self.rng.below(live.len() as u64) as usize;
        self.locks[lock].live[which].token
    }

    fn tell_place(&mut self, lock: usize, at: usize, sent: u64) {
        let place = at as u32 + 1;
        let who = self.locks[lock].queue[at].who;
        let Record { session, acquisition, .. } = self.acquisitions[who].record;
        let mut note = self.record(lock, session, acquisition, What::Queued { place });
        note.invoked = sent;
        if self.rng.chance(80) {
            self.notes.push(note);
        }
    }

    fn grant(&mut self, lock: usize, who: usize, deadline: u64) {
        let counter = &mut self.ranges[lock % 2].0;
        *counter += TOKEN_STEP;
        let token = *counter;
        let mode = self.acquisitions[who].mode;
        let sharers = self.locks[lock].live.first();
        let floor = match mode {
            Mode::Exclusive => token,
            _ => sharers.map_or(token, |first| first.floor),
        };
        let (open, all) = (vec![who], vec![who]);
        self.locks[lock].live.push(Live { token, mode, floor, deadline, ending: false, open, all });
        self.tell_grant(lock, who, token, floor, false);
    }

    fn tell_grant(&mut self, lock: usize, who: usize, token: u64, floor: u64, reentered: bool) {
        let (returned, position) = (self.after(), self.position(lock));
        let known = self.rng.chance(95);
        let acquisition = &mut self.acquisitions[who];
        acquisition.record.returned = returned;
        if !known {
            acquisition.wanted = false; // The answer is lost, and its client with it.
            return;
        }
        acquisition.record.position = position;
        acquisition.record.what = What::Granted(Hold {
            token,
            fence_floor: floor,
            valid_until: acquisition.sent + TTL * 99 / 100,
            end_invoked: 0,
            end_returned: 0,
            mode: acquisition.mode,
            reentered,
            end: End::Open,
        });
    }

    fn grant_waiters(&mut self, lock: usize) {
        while let Some(Waiter { who, deadline }) = self.locks[lock].queue.first() {
            let (who, deadline) = (*who, *deadline);
            if !self.fits(lock, self.acquisitions[who].mode) {
                return;
            }
            self.locks[lock].queue.remove(0);
            self.grant(lock, who, deadline);
        }
    }

    /// A random live hold's random open acquisition, if its client knows of the grant by now.
    fn pick(&mut self, lock: usize) -> Option<(usize, usize)> {
        let live = &self.locks[lock].live;
        let at = self.rng.below(live.len().max(1) as u64) as usize;
        let open = &self.locks[lock].live.get(at)?.open;
        let who = open[self.rng.below(open.len() as u64) as usize];
        let acquisition = &self.acquisitions[who];
        let knows = matches!(acquisition.record.what, What::Granted(_))
            && acquisition.record.returned + 300 < self.now;
        (knows && acquisition.wanted).then_some((at, who))
    }

    fn end(&mut self, who: usize, end: End, invoked: u64, returned: u64) {
        let acquisition = &mut self.acquisitions[who];
        if let What::Granted(hold) = &mut acquisition.record.what
            && acquisition.wanted
        {
            hold.end = end;
            hold.end_invoked = invoked.max(acquisition.record.returned);
            hold.end_returned = returned.max(hold.end_invoked);
        }
        acquisition.wanted = false;
    }

    fn close(&mut self, lock: usize, at: usize, who: usize) {
        let hold = &mut self.locks[lock].live[at];
        hold.open.retain(|open| *open != who);
        if hold.open.is_empty() {
            self.locks[lock].live.remove(at);
        }
    }

    fn release(&mut self, lock: usize) {
        let Some((at, who)) = self.pick(lock) else { return };
        let (invoked, returned) = (self.before(), self.after());
        match self.rng.below(20) {
            0 => self.end(who, End::ReleaseUnknown, invoked, 0), // It never arrives.
            1 => {
                self.end(who, End::ReleaseUnknown, invoked, 0);
                self.close(lock, at, who);
            }
            2 => self.acquisitions[who].wanted = false, // The client dies.
            _ => {
                let ending = self.locks[lock].live[at].ending;
                let end = if ending { End::Acknowledged } else { End::Released };
                self.end(who, end, invoked, returned);
                self.close(lock, at, who);
            }
        }
    }

    fn renew(&mut self, lock: usize) {
        let sent = self.before();
        for at in 0..self.locks[lock].queue.len() {
            if self.rng.chance(50) {
                self.locks[lock].queue[at].deadline = self.now + TTL;
                let who = self.locks[lock].queue[at].who;
                let acquisition = &mut self.acquisitions[who];
                acquisition.sent = acquisition.sent.max(sent);
                self.tell_place(lock, at, sent);
            }
        }
        let Some((at, who)) = self.pick(lock) else { return };
        if self.locks[lock].live[at].ending {
            return;
        }
        self.locks[lock].live[at].deadline = self.now + TTL;
        if let What::Granted(hold) = &mut self.acquisitions[who].record.what {
            hold.valid_until = hold.valid_until.max(sent + TTL * 99 / 100);
        }
    }

    fn time_out(&mut self, lock: usize) {
        let waiters = self.locks[lock].queue.len() as u64;
        if waiters == 0 {
            return;
        }
        let at = self.rng.below(waiters) as usize;
        let who = self.locks[lock].queue.remove(at).who;
        let holder = self.any_token(lock);
        let (returned, position) = (self.after(), self.position(lock));
        let record = &mut self.acquisitions[who].record;
        record.returned = returned;
        record.position = position;
        // The call that is answered is the wait itself, and the answer may lie anywhere in it; the
        // holder named is that of now.
        record.what = What::TimedOut { holder };
    }

    fn reenter(&mut self, lock: usize) {
        let Some((at, base)) = self.pick(lock) else { return };
        let hold = &self.locks[lock].live[at];
        if hold.ending {
            return;
        }
        let (token, floor) = (hold.token, hold.floor);
        let who = self.acquisitions.len();
        let Acquisition { record: Record { session, .. }, mode, .. } = self.acquisitions[base];
        let what = What::Unknown { reenter: token };
        let record = self.record(lock, session, who as u64 + 1, what);
        let sent = record.invoked;
        self.acquisitions.push(Acquisition { record, wanted: true, lock, mode, sent });
        let hold = &mut self.locks[lock].live[at];
        hold.open.push(who);
        hold.all.push(who);
        hold.deadline = self.now + TTL;
        self.tell_grant(lock, who, token, floor, true);
    }

    fn operator(&mut self, lock: usize) {
        let Some((at, _)) = self.pick(lock) else { return };
        if self.rng.chance(60) {
            self.locks[lock].live[at].ending = true;
            return;
        }
        let hold = self.locks[lock].live.remove(at);
        let (invoked, returned) = (self.now, self.after());
        for who in hold.all {
            self.acquisitions[who].wanted = true;
            self.end(who, End::Revoked, invoked, returned);
        }
    }

    fn look(&mut self, lock: usize) {
        let newest = self.ranges[lock % 2].0;
        let token = match self.any_token(lock) {
            0 => newest,
            live if self.rng.chance(70) => live,
            live => live.saturating_sub(TOKEN_STEP),
        };
        let live = self.locks[lock].live.iter().any(|hold| hold.token == token);
        let note = self.record(lock, 99, 0, What::Looked { token, live });
        self.notes.push(note);
    }

    /// Ends some of what is due: a correct service may be late.
    fn expire(&mut self, lock: usize) {
        let now = self.now;
        self.locks[lock].queue.retain(|waiter| now <= waiter.deadline);
        let due = self.locks[lock].live.iter().position(|hold| hold.deadline < now);
        let Some(at) = due.filter(|_| self.rng.chance(70)) else { return };
        let hold = self.locks[lock].live.remove(at);
        for who in hold.open {
            let (told, returned) = (self.rng.below(3), self.after());
            let What::Granted(known) = self.acquisitions[who].record.what else { continue };
            match told {
                0 => {}
                1 => self.end(who, End::Lapsed, known.valid_until, known.valid_until),
                _ => self.end(who, End::ToldGone, now, returned),
            }
        }
    }

    fn into_records(self) -> Vec<Record> {
        debug_assert!(self.acquisitions.iter().all(|a| a.lock < LOCKS));
        let mut records = self.notes;
        records.extend(self.acquisitions.into_iter().map(|acquisition| acquisition.record));
        records
    }
}
