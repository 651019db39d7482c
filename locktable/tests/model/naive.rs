//! The rules of D8, D9 and D11 once more, as plainly as they can be said: flat lists, linear
//! scans, everything looked up anew. Of the crate under test it uses the types of commands and
//! outcomes and nothing else. Here is what grants, queues and closes; `naive_terms` has conditions
//! and what takes holds away.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Agreement, AskView, AskedBy, At, Cancel, Change, Command,
    Condition, ConditionFlaw, DelayView, EndingCause, ExpireItem, Finished, Grant, HoldView, Lease,
    LockView, Mode, Name, Outcome, Owner, Quarantine, Refusal, Release, Reply, Status, TableLimits,
    Token, Wait, WaiterView,
};

use crate::naive_ended::Generation;

pub struct Held {
    pub name: Name,
    pub token: Token,
    pub floor: Token,
    /// Session and instance; the id is that of the first acquisition and means nothing.
    pub owner_life: Acquisition,
    pub open: Vec<u64>,
    pub newest: u64,
    /// Largest id closed here that the list of finished ones has lost.
    pub lost: u64,
    pub mode: Mode,
    pub ttl_ms: u64,
    pub owner: Owner,
    pub since: u64,
    pub came: u64,
    pub condition: Condition,
    pub revision: u64,
    pub claimed: bool,
    pub orphan: bool,
    /// The token that it had, or that the hold had from which it was taken.
    pub before: Option<Token>,
    /// Who asked, and when.
    pub asked: Option<(Option<AskedBy>, u64)>,
    /// The number of the last change of what its owner says.
    pub changes: u64,
    pub notice: Option<Notice>,
}

/// That a hold is ending.
#[derive(Clone)]
pub struct Notice {
    pub cause: EndingCause,
    pub reason: String,
    /// The acquisition that gets it then.
    pub heir: Option<(Acquisition, Owner)>,
}

/// A place that stays taken.
pub struct Delayed {
    pub name: Name,
    pub token: Token,
    pub mode: Mode,
    pub ms: u64,
    pub since: u64,
}

pub struct Waiting {
    pub name: Name,
    pub acquisition: Acquisition,
    pub mode: Mode,
    pub ttl_ms: u64,
    pub wait: Wait,
    pub owner: Owner,
    pub since: u64,
    pub came: u64,
    pub condition: Condition,
}

#[derive(Clone)]
pub struct Gone {
    pub acquisition: Acquisition,
    pub name: Name,
    pub how: Finished,
    pub token: Option<Token>,
    /// Of what has ended, in which it is.
    pub generation: u64,
}

/// All holds in order of grants, all waiters in order of arrival, all that is finished in order.
pub struct Naive {
    pub limits: TableLimits,
    pub level: u64,
    pub tokens: u64,
    /// The upper part of tokens.
    pub generation: u64,
    /// The age at which it was recovered last; 0: never.
    pub recovered: u64,
    pub quarantine: Quarantine,
    pub held: Vec<Held>,
    pub waiting: Vec<Waiting>,
    pub delayed: Vec<Delayed>,
    pub gone: Vec<Gone>,
    pub gone_ever: u64,
    /// Age of the range, and up to which of what ended then something is forgotten.
    pub age: u64,
    pub lost: u64,
    /// Oldest first, and how many there ever were.
    pub ended: Vec<Generation>,
    pub generations: u64,
    pub changes: Vec<Change>,
}

pub fn same_life(a: Acquisition, b: Acquisition) -> bool {
    (a.session, a.instance) == (b.session, b.instance)
}

fn is_rw(mode: Mode) -> bool {
    !matches!(mode, Mode::Permits { .. })
}

fn same_kind(a: Mode, b: Mode) -> bool {
    match (a, b) {
        (Mode::Permits { of: a, .. }, Mode::Permits { of: b, .. }) => a == b,
        _ => is_rw(a) && is_rw(b),
    }
}

impl Held {
    pub fn ids(&self) -> Vec<Acquisition> {
        let named = |&id| Acquisition { id: AcquisitionId(id), ..self.owner_life };
        self.open.iter().map(named).collect()
    }

    pub fn grant(&self) -> Grant {
        Grant { token: self.token, fence_floor: self.floor, ttl_ms: self.ttl_ms }
    }

    pub fn view(&self) -> HoldView {
        let ids = self.ids();
        HoldView {
            acquisition: ids[0],
            newest: ids[ids.len() - 1].id,
            open: ids.len() as u32,
            grant: self.grant(),
            mode: self.mode,
            owner: self.owner.clone().into(),
            granted_unix_ms: self.since,
            arrival: self.came,
            ending: self.notice.as_ref().map(|notice| notice.reason.clone()),
            agreement: self.agreement(),
            orphaned: self.orphan,
            asked: self.ask_view(),
            reclaimer: self.heir(),
        }
    }

    pub fn ask_view(&self) -> Option<AskView> {
        let (by, since_unix_ms) = self.asked.clone()?;
        let grace_ms = self.condition.ask_grace_ms.expect("it agreed to that");
        Some(AskView { by, since_unix_ms, grace_ms })
    }

    pub fn agreement(&self) -> Agreement {
        let Self { condition, revision, claimed, ttl_ms, .. } = *self;
        Agreement { condition, revision, claimed, ttl_ms }
    }

    pub fn heir(&self) -> Option<Acquisition> {
        self.notice.as_ref()?.heir.as_ref().map(|(acquisition, _)| *acquisition)
    }
}

/// The parts of a new hold.
pub struct Wish<'a> {
    pub name: &'a Name,
    pub acquisition: Acquisition,
    pub mode: Mode,
    pub ttl_ms: u64,
    pub owner: &'a Owner,
    pub condition: Condition,
    /// When it came, if that was before.
    pub came: Option<u64>,
}

impl Naive {
    pub fn new(limits: TableLimits, level: u64) -> Self {
        Self {
            limits,
            level,
            tokens: 0,
            generation: 0,
            recovered: 0,
            quarantine: Quarantine::None,
            held: vec![],
            waiting: vec![],
            delayed: vec![],
            gone: vec![],
            gone_ever: 0,
            age: 60_000,
            lost: 0,
            ended: vec![],
            generations: 0,
            changes: vec![],
        }
    }

    pub fn apply(&mut self, at: At, command: &Command) -> Outcome {
        let reply = match command {
            Command::Acquire(acquire) if self.level < 2 && acquire.condition.is_some() => {
                Reply::Refused(Refusal::FeatureLevel)
            }
            Command::Acquire(acquire) => {
                let reply = self.acquired_before(acquire);
                if reply.is_some() {
                    self.again(acquire.acquisition);
                }
                match reply {
                    None if self.is_doubtful(acquire.asked_ms) => Reply::Indeterminate,
                    reply => reply.unwrap_or_else(|| self.acquire(at, acquire)),
                }
            }
            Command::Release(release) => self.release(at, release),
            Command::Cancel(cancel) => self.cancel(at, cancel),
            Command::Expire(expire) => {
                if expire.proposer_term == at.term {
                    expire.items.iter().for_each(|item| self.expire(at, item));
                    for item in &expire.items {
                        let (ExpireItem::Hold { name, .. } | ExpireItem::Waiter { name, .. }) =
                            item;
                        self.serve(at, name);
                    }
                }
                Reply::Done
            }
            Command::WaitTimeout(timeout) => {
                if timeout.proposer_term == at.term {
                    self.stop_waiting(&timeout.name, timeout.acquisition, Finished::WaitTimedOut);
                    self.serve(at, &timeout.name);
                }
                Reply::Done
            }
            Command::Ending(ending) => self.ending(at, ending),
            Command::End(end) => self.end_command(at, end),
            Command::RaiseFeatureLevel(raise) => {
                self.raise(raise.level);
                Reply::Done
            }
            Command::Recover(recover) => {
                self.generation = (self.generation + 1).max(recover.generation.into());
                self.recovered = self.age;
                if recover.waits {
                    self.quarantine = Quarantine::Waits;
                } else if self.is_quarantined() {
                    self.quarantine = Quarantine::Ends;
                }
                Reply::Done
            }
            Command::EndQuarantine(end) => {
                if end.proposer_term == at.term && self.is_quarantined() {
                    self.quarantine = Quarantine::None;
                    let mut names: Vec<_> = self.waiting.iter().map(|it| it.name.clone()).collect();
                    names.sort();
                    names.iter().for_each(|name| self.serve(at, name));
                    self.changes.push(Change::QuarantineEnds { is_over: true });
                }
                Reply::Done
            }
            _ if self.level < 2 => Reply::Refused(Refusal::FeatureLevel),
            Command::SetCondition(set) => self.set_condition(set),
            Command::Claim(claim) => self.claim(claim),
            Command::Reclaim(reclaim) => self.reclaim(at, reclaim),
            Command::Ask(ask) => self.ask(at, ask),
            Command::Downgrade(downgrade) => self.downgrade(at, downgrade),
            Command::SetAttributes(_) if self.level < 4 => Reply::Refused(Refusal::FeatureLevel),
            Command::SetAttributes(set) => self.set_attributes(set),
            Command::TimeUp(time_up) => self.time_up(at, time_up),
            Command::Revoke(revoke) => self.revoke(at, revoke),
        };
        Outcome { reply, changes: std::mem::take(&mut self.changes) }
    }

    /// The answer to a duplicate.
    fn acquired_before(&self, acquire: &Acquire) -> Option<Reply> {
        let Acquire { acquisition, name, mode, .. } = acquire;
        let reused = Some(Reply::Refused(Refusal::AcquisitionReused));
        if let Some(hold) = self.held.iter().find(|hold| hold.ids().contains(acquisition)) {
            let same = hold.name == *name && hold.mode == *mode;
            return match (same, hold.orphan) {
                (true, true) => Some(Reply::Finished(Finished::Orphaned)),
                (true, false) => Some(Reply::Granted(hold.grant())),
                (false, _) => reused,
            };
        }
        if self.held.iter().any(|hold| hold.heir() == Some(*acquisition)) {
            return reused;
        }
        if let Some(waiter) = self.waiting.iter().find(|it| it.acquisition == *acquisition) {
            if waiter.name != *name || waiter.mode != *mode {
                return reused;
            }
            let place = self.place(*acquisition);
            return Some(Reply::Queued { place, ttl_ms: waiter.ttl_ms });
        }
        self.ended_before(*acquisition, name)
    }

    pub fn ended_before(&self, acquisition: Acquisition, name: &Name) -> Option<Reply> {
        match self.gone.iter().find(|gone| gone.acquisition == acquisition) {
            Some(gone) if gone.name != *name => Some(Reply::Refused(Refusal::AcquisitionReused)),
            Some(gone) => Some(Reply::Finished(gone.how)),
            None if self.has_ended(acquisition) => Some(Reply::Finished(Finished::Unknown)),
            None => None,
        }
    }

    fn acquire(&mut self, at: At, acquire: &Acquire) -> Reply {
        let Acquire { acquisition, name, mode, ttl_ms, wait, owner, .. } = acquire;
        let full = self.open_of(*acquisition) >= self.limits.acquisitions_per_session_max;
        let condition = acquire.condition.as_deref().copied().unwrap_or_default();
        if let Some(token) = acquire.reenter {
            if condition != Condition::default() {
                return Reply::Refused(Refusal::Condition(ConditionFlaw::WithReentry));
            }
            return self.reenter(acquire, token, full);
        }
        if let Some(flaw) = super::naive_terms::flaw(&condition, *ttl_ms) {
            return Reply::Refused(Refusal::Condition(flaw));
        }
        let waiting = self.waiting.iter().filter(|it| it.name == *name).map(|it| it.mode);
        if self.seats(name).into_iter().chain(waiting).any(|other| !same_kind(other, *mode)) {
            return Reply::Refused(Refusal::ModeMismatch);
        }
        if full {
            return self.too_many_open();
        }
        let queue = self.waiting.iter().filter(|waiter| waiter.name == *name).count();
        let is_open = queue == 0 && self.fits(name, *mode);
        if is_open && self.is_quarantined() && *wait == Wait::Try {
            return Reply::Refused(Refusal::Quarantine);
        }
        if is_open && !self.is_quarantined() {
            if self.has_no_seat(name) {
                return Reply::Refused(Refusal::TooManyHolders {
                    max: self.limits.seats_per_lock_max,
                });
            }
            let (acquisition, mode, ttl_ms) = (*acquisition, *mode, *ttl_ms);
            let wish = Wish { name, acquisition, mode, ttl_ms, owner, condition, came: None };
            return Reply::Granted(self.grant(at, false, wish));
        }
        if *wait == Wait::Try {
            self.finish(*acquisition, name, Finished::TryRefused, None);
            return Reply::Finished(Finished::TryRefused);
        }
        if queue >= self.limits.waiters_per_lock_max {
            return Reply::Refused(Refusal::TooManyWaiters {
                max: self.limits.waiters_per_lock_max,
            });
        }
        let came = if self.level >= 4 { self.next_token().0 } else { 0 };
        self.waiting.push(Waiting {
            came,
            name: name.clone(),
            acquisition: *acquisition,
            mode: *mode,
            ttl_ms: *ttl_ms,
            wait: *wait,
            owner: owner.clone(),
            since: at.stamped_unix_ms,
            condition,
        });
        self.changes.push(Change::Queued {
            acquisition: *acquisition,
            name: name.clone(),
            ttl_ms: *ttl_ms,
            wait: *wait,
        });
        Reply::Queued { place: queue as u32 + 1, ttl_ms: *ttl_ms }
    }

    fn reenter(&mut self, acquire: &Acquire, token: Token, full: bool) -> Reply {
        let Acquire { acquisition, name, mode, owner, .. } = acquire;
        let too_many = self.too_many_open();
        let mut held = self.held.iter_mut();
        let hold = held.find(|hold| hold.name == *name && hold.token == token && !hold.orphan);
        let Some(hold) = hold else {
            self.finish(*acquisition, name, Finished::HoldLost, None);
            return Reply::Finished(Finished::HoldLost);
        };
        if !same_life(hold.owner_life, *acquisition) || hold.owner.id != owner.id {
            return Reply::Refused(Refusal::NotReenterable);
        }
        if hold.mode == Mode::Shared && *mode == Mode::Exclusive {
            return Reply::Refused(Refusal::WouldDeadlock);
        }
        if hold.mode == Mode::Exclusive && *mode == Mode::Shared {
            return Reply::Refused(Refusal::SharedReentry);
        }
        if hold.mode != *mode || hold.notice.is_some() {
            return Reply::Refused(Refusal::NotReenterable);
        }
        if acquisition.id.0 <= hold.lost {
            return Reply::Finished(Finished::Unknown);
        }
        if full {
            return too_many;
        }
        hold.open.push(acquisition.id.0);
        hold.open.sort();
        hold.newest = hold.newest.max(acquisition.id.0);
        let (acquisition, name) = (*acquisition, name.clone());
        self.changes.push(Change::Joined { acquisition, name, token });
        Reply::Granted(hold.grant())
    }

    fn release(&mut self, at: At, release: &Release) -> Reply {
        let Release { acquisition, name, token, all } = release;
        let index = self.held.iter().position(|hold| {
            let same = hold.name == *name && hold.token == *token;
            same && same_life(hold.owner_life, *acquisition)
        });
        let Some(index) = index else { return self.how(name, *acquisition) };
        let known = self.is_known(*acquisition);
        if *all {
            self.give_up(at, index);
            if !known {
                self.finish(*acquisition, name, Finished::Released, Some(*token));
            }
            self.serve(at, name);
            return Reply::Released;
        }
        if self.held[index].open.contains(&acquisition.id.0) {
            return self.close(at, index, *acquisition);
        }
        if known {
            self.again(*acquisition);
            return self.how(name, *acquisition);
        }
        self.finish(*acquisition, name, Finished::Released, Some(*token));
        Reply::StillHeld { open: self.held[index].open.len() as u32 }
    }

    fn cancel(&mut self, at: At, cancel: &Cancel) -> Reply {
        let Cancel { acquisition, name } = cancel;
        if !self.is_known(*acquisition) {
            self.finish(*acquisition, name, Finished::Cancelled, None);
            return Reply::Cancelled;
        }
        self.again(*acquisition);
        if self.stop_waiting(name, *acquisition, Finished::Cancelled) {
            self.serve(at, name);
            return Reply::Cancelled;
        }
        let index = self
            .held
            .iter()
            .position(|hold| hold.name == *name && hold.ids().contains(acquisition));
        match index {
            Some(index) => self.close(at, index, *acquisition),
            None => self.how(name, *acquisition),
        }
    }

    fn close(&mut self, at: At, index: usize, acquisition: Acquisition) -> Reply {
        let hold = &mut self.held[index];
        let (name, token) = (hold.name.clone(), hold.token);
        if hold.open.len() == 1 {
            self.give_up(at, index);
            self.serve(at, &name);
            return Reply::Released;
        }
        hold.open.retain(|id| *id != acquisition.id.0);
        let open = hold.open.len() as u32;
        self.finish(acquisition, &name, Finished::Released, Some(token));
        self.changes.push(Change::Closed { acquisition, name, token });
        Reply::StillHeld { open }
    }

    /// Out of the queue, or no heir any more.
    pub fn stop_waiting(&mut self, name: &Name, acquisition: Acquisition, how: Finished) -> bool {
        let heir_of = self
            .held
            .iter_mut()
            .find(|hold| hold.name == *name && hold.heir() == Some(acquisition));
        let found = self
            .waiting
            .iter()
            .position(|waiter| waiter.name == *name && waiter.acquisition == acquisition);
        match (heir_of, found) {
            (Some(hold), _) => hold.notice.as_mut().expect("it has an heir").heir = None,
            (None, Some(index)) => drop(self.waiting.remove(index)),
            (None, None) => return false,
        }
        self.finish(acquisition, name, how, None);
        self.changes.push(Change::WaiterLeft { acquisition, name: name.clone(), how });
        true
    }

    pub fn end(&mut self, index: usize, how: Finished) -> Held {
        let hold = self.held.remove(index);
        for acquisition in hold.ids() {
            self.finish(acquisition, &hold.name, how, Some(hold.token));
        }
        let acquisitions = hold.ids();
        let (token, name) = (hold.token, hold.name.clone());
        self.changes.push(Change::HoldEnded {
            token,
            name,
            acquisitions,
            how,
            reason: String::new(),
        });
        if let Some(acquisition) = hold.heir() {
            self.finish(acquisition, &hold.name, how, None);
            let name = hold.name.clone();
            self.changes.push(Change::WaiterLeft { acquisition, name, how });
        }
        hold
    }

    pub fn is_quarantined(&self) -> bool {
        self.quarantine != Quarantine::None
    }

    pub fn next_token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.generation << 48 | self.tokens)
    }

    pub fn serve(&mut self, at: At, name: &Name) {
        if self.is_quarantined() {
            return;
        }
        while let Some(index) = self.waiting.iter().position(|waiter| waiter.name == *name) {
            if !self.fits(name, self.waiting[index].mode) || self.has_no_seat(name) {
                return;
            }
            let Waiting { acquisition, mode, ttl_ms, owner, condition, came, .. } =
                self.waiting.remove(index);
            let (owner, came) = (&owner, Some(came));
            let wish = Wish { name, acquisition, mode, ttl_ms, owner, condition, came };
            self.grant(at, true, wish);
        }
    }

    pub fn grant(&mut self, at: At, from_queue: bool, wish: Wish<'_>) -> Grant {
        let Wish { name, acquisition, mode, ttl_ms, owner, condition, came } = wish;
        let token = self.next_token();
        let now = if self.level >= 4 { token.0 } else { 0 };
        let companion = self.held.iter().find(|hold| hold.name == *name);
        let hold = Held {
            name: name.clone(),
            token,
            floor: companion.map_or(token, |companion| companion.floor),
            owner_life: acquisition,
            open: vec![acquisition.id.0],
            newest: acquisition.id.0,
            lost: 0,
            mode,
            ttl_ms,
            owner: owner.clone(),
            since: at.stamped_unix_ms,
            came: came.unwrap_or(now),
            condition,
            revision: 0,
            claimed: false,
            orphan: false,
            before: None,
            asked: None,
            changes: 0,
            notice: None,
        };
        let (name, grant) = (name.clone(), hold.grant());
        self.held.push(hold);
        let condition = (condition != Condition::default()).then(|| Box::new(condition));
        self.changes.push(Change::Granted { acquisition, name, grant, from_queue, condition });
        grant
    }

    pub fn finish(
        &mut self,
        acquisition: Acquisition,
        name: &Name,
        how: Finished,
        on: Option<Token>,
    ) {
        if self.level >= 3 {
            self.remember(acquisition);
        }
        let generation = self.generations.saturating_sub(1);
        self.gone.push(Gone { acquisition, name: name.clone(), how, token: on, generation });
        self.gone_ever += 1;
        if self.gone.len() > self.limits.ring_len_max {
            self.lose_oldest_outcome();
        }
    }

    /// How each seat of a lock is taken, by a hold or a delay.
    pub fn seats(&self, name: &Name) -> Vec<Mode> {
        let held = self.held.iter().filter(|hold| hold.name == *name).map(|hold| hold.mode);
        let delayed = self.delayed.iter().filter(|it| it.name == *name).map(|it| it.mode);
        held.chain(delayed).collect()
    }

    pub fn fits(&self, name: &Name, mode: Mode) -> bool {
        let seats = self.seats(name);
        match mode {
            Mode::Exclusive => seats.is_empty(),
            Mode::Shared => seats.iter().all(|taken| *taken == Mode::Shared),
            Mode::Permits { n, of } => {
                let units = |taken: &Mode| match taken {
                    Mode::Permits { n, .. } => *n,
                    Mode::Exclusive | Mode::Shared => of,
                };
                seats.iter().map(units).sum::<u32>() + n <= of
            }
        }
    }

    pub fn too_many_open(&self) -> Reply {
        let max = self.limits.acquisitions_per_session_max;
        Reply::Refused(Refusal::TooManyAcquisitions { max })
    }

    /// As many places of a lock are taken as may be.
    pub fn has_no_seat(&self, name: &Name) -> bool {
        self.level >= 3 && self.seats(name).len() >= self.limits.seats_per_lock_max
    }

    pub fn open_of(&self, acquisition: Acquisition) -> usize {
        let session = acquisition.session;
        let held = self.held.iter().filter(|hold| hold.owner_life.session == session);
        let waiting = self.waiting.iter().filter(|it| it.acquisition.session == session);
        let heirs = self.held.iter().filter_map(Held::heir).filter(|heir| heir.session == session);
        held.map(|hold| hold.open.len()).sum::<usize>() + waiting.count() + heirs.count()
    }

    fn is_known(&self, acquisition: Acquisition) -> bool {
        self.held.iter().any(|hold| hold.ids().contains(&acquisition))
            || self.held.iter().any(|hold| hold.heir() == Some(acquisition))
            || self.waiting.iter().any(|waiter| waiter.acquisition == acquisition)
            || self.has_ended(acquisition)
    }

    fn place(&self, acquisition: Acquisition) -> u32 {
        let index = self.waiting.iter().position(|it| it.acquisition == acquisition);
        let (before, rest) = self.waiting.split_at(index.expect("it waits"));
        before.iter().filter(|waiter| waiter.name == rest[0].name).count() as u32 + 1
    }

    pub fn how(&self, name: &Name, acquisition: Acquisition) -> Reply {
        let gone = self.gone.iter().find(|it| it.acquisition == acquisition && it.name == *name);
        Reply::Finished(gone.map_or(Finished::Unknown, |gone| gone.how))
    }

    pub fn views(&self, name: &Name, token: Option<Token>) -> Vec<HoldView> {
        let meant =
            |hold: &&Held| hold.name == *name && token.is_none_or(|token| token == hold.token);
        self.held.iter().filter(meant).map(Held::view).collect()
    }

    // Questions to it.

    pub fn finished_count(&self) -> usize {
        self.gone.len()
    }

    pub fn status(&self, name: &Name, acquisition: Acquisition) -> Status {
        let mut held = self.held.iter().filter(|hold| hold.name == *name);
        if let Some(hold) = held.find(|hold| hold.ids().contains(&acquisition)) {
            if hold.orphan {
                return Status::Finished(Finished::Orphaned);
            }
            let ending = hold.notice.as_ref().map(|notice| {
                let (reason, how) =
                    (notice.reason.clone(), super::naive_terms::how_it_ends(notice.cause));
                sharklock_locktable::EndingView { reason, how }
            });
            return Status::Held { grant: hold.grant(), ending, asked: hold.ask_view() };
        }
        let mut heirs = self.held.iter().filter(|hold| hold.name == *name).filter_map(Held::heir);
        if heirs.any(|heir| heir == acquisition) {
            return Status::Waiting { place: 1 };
        }
        let mut waiting = self.waiting.iter().filter(|waiter| waiter.name == *name);
        if waiting.any(|waiter| waiter.acquisition == acquisition) {
            return Status::Waiting { place: self.place(acquisition) };
        }
        match self.how(name, acquisition) {
            Reply::Finished(how) => Status::Finished(how),
            other => panic!("{other:?}"),
        }
    }

    pub fn lock(&self, name: &Name) -> Option<LockView> {
        let holds = self.views(name, None);
        let waiters: Vec<_> = self
            .waiting
            .iter()
            .filter(|waiter| waiter.name == *name)
            .map(|waiter| WaiterView {
                acquisition: waiter.acquisition,
                mode: waiter.mode,
                ttl_ms: waiter.ttl_ms,
                wait: waiter.wait,
                owner: waiter.owner.clone().into(),
                queued_unix_ms: waiter.since,
                arrival: waiter.came,
                condition: waiter.condition,
            })
            .collect();
        let delays = self.delays(name);
        if holds.is_empty() && waiters.is_empty() && delays.is_empty() {
            return None;
        }
        let (name, holds_count, waiters_count) = (name.clone(), holds.len(), waiters.len());
        Some(LockView { name, holds, holds_count, waiters, waiters_count, delays })
    }

    /// By token.
    fn delays(&self, name: &Name) -> Vec<DelayView> {
        let view = |it: &Delayed| DelayView {
            token: it.token,
            mode: it.mode,
            delay_ms: it.ms,
            since_unix_ms: it.since,
        };
        let mut delays: Vec<_> =
            self.delayed.iter().filter(|it| it.name == *name).map(view).collect();
        delays.sort_by_key(|delay| delay.token);
        delays
    }

    pub fn leases(&self, names: &[Name]) -> Vec<Lease> {
        let mut leases = vec![];
        for name in names {
            for DelayView { token, delay_ms, .. } in self.delays(name) {
                leases.push(Lease::Delay { name: name.clone(), token, delay_ms });
            }
            for hold in self.held.iter().filter(|hold| hold.name == *name && !hold.orphan) {
                leases.push(Lease::Hold {
                    name: name.clone(),
                    token: hold.token,
                    ttl_ms: hold.ttl_ms,
                    newest: AcquisitionId(hold.newest),
                    acquisitions: hold.ids(),
                    ending: hold.notice.is_some(),
                    agreement: hold.agreement(),
                    asked: hold.asked.is_some(),
                });
                leases.extend(hold.heir().map(|acquisition| Lease::Waiter {
                    name: name.clone(),
                    acquisition,
                    ttl_ms: hold.ttl_ms,
                    wait: Wait::Unbounded,
                }));
            }
            for waiter in self.waiting.iter().filter(|waiter| waiter.name == *name) {
                leases.push(Lease::Waiter {
                    name: name.clone(),
                    acquisition: waiter.acquisition,
                    ttl_ms: waiter.ttl_ms,
                    wait: waiter.wait,
                });
            }
        }
        leases
    }
}
