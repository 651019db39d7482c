//! The rules of DESIGN D8, D9 (Ending, End) and D11 once more, as plainly as they can be said: flat
//! lists, linear scans, everything looked up anew. Of the crate under test it uses the types of
//! commands and outcomes and nothing else.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, At, Cancel, Change, Command, EndCause, ExpireItem,
    Finished, Grant, HoldView, Lease, Limits, LockView, Mode, Name, Outcome, Owner, Refusal,
    Release, Reply, Status, Token, Wait, WaiterView,
};

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
    pub ending: Option<String>,
}

pub struct Waiting {
    pub name: Name,
    pub acquisition: Acquisition,
    pub mode: Mode,
    pub ttl_ms: u64,
    pub wait: Wait,
    pub owner: Owner,
    pub since: u64,
}

struct Gone {
    acquisition: Acquisition,
    name: Name,
    how: Finished,
    token: Option<Token>,
}

/// All holds in order of grants, all waiters in order of arrival, all that is finished in order.
pub struct Naive {
    limits: Limits,
    pub tokens: u64,
    pub held: Vec<Held>,
    pub waiting: Vec<Waiting>,
    gone: Vec<Gone>,
    pub gone_ever: u64,
    changes: Vec<Change>,
}

fn same_life(a: Acquisition, b: Acquisition) -> bool {
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
    fn ids(&self) -> Vec<Acquisition> {
        let named = |&id| Acquisition { id: AcquisitionId(id), ..self.owner_life };
        self.open.iter().map(named).collect()
    }

    fn grant(&self) -> Grant {
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
            owner: self.owner.clone(),
            granted_unix_ms: self.since,
            ending: self.ending.clone(),
        }
    }
}

impl Naive {
    pub fn new(limits: Limits) -> Self {
        let (held, waiting, gone, changes) = (vec![], vec![], vec![], vec![]);
        Self { limits, tokens: 0, held, waiting, gone, gone_ever: 0, changes }
    }

    pub fn apply(&mut self, at: At, command: &Command) -> Outcome {
        let reply = match command {
            Command::Acquire(acquire) => self.acquire(at, acquire),
            Command::Release(release) => self.release(at, release),
            Command::Cancel(cancel) => self.cancel(at, cancel),
            Command::Expire(expire) => {
                if expire.proposer_term == at.term {
                    expire.items.iter().for_each(|item| self.expire(item));
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
            Command::Ending(ending) => {
                let views = self.views(&ending.name, ending.token);
                for hold in &mut self.held {
                    let meant = ending.token.is_none_or(|token| token == hold.token);
                    if hold.name == ending.name && meant && hold.ending.is_none() {
                        hold.ending = Some(ending.reason.clone());
                        self.changes.push(Change::EndingBegan {
                            token: hold.token,
                            name: hold.name.clone(),
                            ttl_ms: hold.ttl_ms,
                            acquisitions: hold.ids(),
                            reason: ending.reason.clone(),
                        });
                    }
                }
                Reply::Holds(views)
            }
            Command::End(end) => match end.cause {
                EndCause::WaitedOut { proposer_term } => {
                    let index = self
                        .held
                        .iter()
                        .position(|hold| hold.name == end.name && Some(hold.token) == end.token);
                    if let Some(index) = index
                        && proposer_term == at.term
                        && self.held[index].ending.is_some()
                    {
                        self.end(index, Finished::ForceReleased);
                        self.serve(at, &end.name);
                    }
                    Reply::Done
                }
                EndCause::Operator { .. } => {
                    let views = self.views(&end.name, end.token);
                    for view in &views {
                        let token = view.grant.token;
                        let index = self.held.iter().position(|hold| hold.token == token);
                        self.end(index.expect("just seen"), Finished::ForceReleased);
                    }
                    self.serve(at, &end.name);
                    Reply::Holds(views)
                }
            },
        };
        Outcome { reply, changes: std::mem::take(&mut self.changes) }
    }

    fn acquire(&mut self, at: At, acquire: &Acquire) -> Reply {
        let Acquire { acquisition, name, mode, ttl_ms, wait, owner, .. } = acquire;
        if let Some(hold) = self.held.iter().find(|hold| hold.ids().contains(acquisition)) {
            let same = hold.name == *name && hold.mode == *mode;
            let reused = Reply::Refused(Refusal::AcquisitionReused);
            return if same { Reply::Granted(hold.grant()) } else { reused };
        }
        if let Some(waiter) = self.waiting.iter().find(|it| it.acquisition == *acquisition) {
            if waiter.name != *name || waiter.mode != *mode {
                return Reply::Refused(Refusal::AcquisitionReused);
            }
            let place = self.place(*acquisition);
            return Reply::Queued { place, ttl_ms: waiter.ttl_ms };
        }
        if let Some(gone) = self.gone.iter().find(|gone| gone.acquisition == *acquisition) {
            let reused = Reply::Refused(Refusal::AcquisitionReused);
            return if gone.name == *name { Reply::Finished(gone.how) } else { reused };
        }
        let full = self.open_of(*acquisition) >= self.limits.acquisitions_per_session_max;
        if let Some(token) = acquire.reenter {
            return self.reenter(acquire, token, full);
        }
        let holds: Vec<_> = self.held.iter().filter(|hold| hold.name == *name).collect();
        if holds.iter().any(|hold| !same_kind(hold.mode, *mode)) {
            return Reply::Refused(Refusal::ModeMismatch);
        }
        if full {
            return Reply::Refused(Refusal::TooManyAcquisitions);
        }
        let queue = self.waiting.iter().filter(|waiter| waiter.name == *name).count();
        if queue == 0 && self.fits(name, *mode) {
            return Reply::Granted(self.grant(
                at,
                false,
                name,
                *acquisition,
                (*mode, *ttl_ms),
                owner,
            ));
        }
        if *wait == Wait::Try {
            self.finish(*acquisition, name, Finished::TryRefused, None);
            return Reply::Finished(Finished::TryRefused);
        }
        if queue >= self.limits.waiters_per_lock_max {
            return Reply::Refused(Refusal::TooManyWaiters);
        }
        self.waiting.push(Waiting {
            name: name.clone(),
            acquisition: *acquisition,
            mode: *mode,
            ttl_ms: *ttl_ms,
            wait: *wait,
            owner: owner.clone(),
            since: at.stamped_unix_ms,
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
        let hold = self.held.iter_mut().find(|hold| hold.name == *name && hold.token == token);
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
        if hold.mode != *mode || hold.ending.is_some() {
            return Reply::Refused(Refusal::NotReenterable);
        }
        if acquisition.id.0 <= hold.lost {
            return Reply::Finished(Finished::Unknown);
        }
        if full {
            return Reply::Refused(Refusal::TooManyAcquisitions);
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
            self.end(index, Finished::Released);
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
            self.end(index, Finished::Released);
            self.serve(at, &name);
            return Reply::Released;
        }
        hold.open.retain(|id| *id != acquisition.id.0);
        let open = hold.open.len() as u32;
        self.finish(acquisition, &name, Finished::Released, Some(token));
        self.changes.push(Change::Closed { acquisition, name, token });
        Reply::StillHeld { open }
    }

    fn expire(&mut self, item: &ExpireItem) {
        match item {
            ExpireItem::Waiter { name, acquisition } => {
                self.stop_waiting(name, *acquisition, Finished::Expired);
            }
            ExpireItem::Hold { name, token, newest } => {
                let found =
                    self.held.iter().position(|hold| hold.name == *name && hold.token == *token);
                let Some(index) = found else { return };
                let joined = self.held[index].newest;
                if joined <= newest.0 {
                    return self.end(index, Finished::Expired);
                }
                let (token, name, newest) = (*token, name.clone(), AcquisitionId(joined));
                self.changes.push(Change::ExpireMissed { token, name, newest });
            }
        }
    }

    fn stop_waiting(&mut self, name: &Name, acquisition: Acquisition, how: Finished) -> bool {
        let found = self
            .waiting
            .iter()
            .position(|waiter| waiter.name == *name && waiter.acquisition == acquisition);
        let Some(index) = found else { return false };
        self.waiting.remove(index);
        self.finish(acquisition, name, how, None);
        self.changes.push(Change::WaiterLeft { acquisition, name: name.clone(), how });
        true
    }

    fn end(&mut self, index: usize, how: Finished) {
        let hold = self.held.remove(index);
        for acquisition in hold.ids() {
            self.finish(acquisition, &hold.name, how, Some(hold.token));
        }
        let acquisitions = hold.ids();
        let (token, name) = (hold.token, hold.name);
        self.changes.push(Change::HoldEnded { token, name, acquisitions, how });
    }

    fn serve(&mut self, at: At, name: &Name) {
        while let Some(index) = self.waiting.iter().position(|waiter| waiter.name == *name) {
            if !self.fits(name, self.waiting[index].mode) {
                return;
            }
            let Waiting { acquisition, mode, ttl_ms, owner, .. } = self.waiting.remove(index);
            self.grant(at, true, name, acquisition, (mode, ttl_ms), &owner);
        }
    }

    fn grant(
        &mut self,
        at: At,
        from_queue: bool,
        name: &Name,
        acquisition: Acquisition,
        (mode, ttl_ms): (Mode, u64),
        owner: &Owner,
    ) -> Grant {
        self.tokens += 1;
        let token = Token(self.tokens);
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
            ending: None,
        };
        let (name, grant) = (name.clone(), hold.grant());
        self.held.push(hold);
        self.changes.push(Change::Granted { acquisition, name, grant, from_queue });
        grant
    }

    fn finish(&mut self, acquisition: Acquisition, name: &Name, how: Finished, on: Option<Token>) {
        self.gone.push(Gone { acquisition, name: name.clone(), how, token: on });
        self.gone_ever += 1;
        if self.gone.len() > self.limits.ring_len_max {
            let lost = self.gone.remove(0);
            let hold = self.held.iter_mut().find(|hold| Some(hold.token) == lost.token);
            if let Some(hold) = hold {
                hold.lost = hold.lost.max(lost.acquisition.id.0);
            }
        }
    }

    fn fits(&self, name: &Name, mode: Mode) -> bool {
        let mut holds = self.held.iter().filter(|hold| hold.name == *name);
        match mode {
            Mode::Exclusive => holds.next().is_none(),
            Mode::Shared => holds.all(|hold| hold.mode == Mode::Shared),
            Mode::Permits { n, of } => {
                let units = |hold: &Held| match hold.mode {
                    Mode::Permits { n, .. } => n,
                    Mode::Exclusive | Mode::Shared => of,
                };
                holds.map(units).sum::<u32>() + n <= of
            }
        }
    }

    fn open_of(&self, acquisition: Acquisition) -> usize {
        let session = acquisition.session;
        let held = self.held.iter().filter(|hold| hold.owner_life.session == session);
        let waiting = self.waiting.iter().filter(|it| it.acquisition.session == session);
        held.map(|hold| hold.open.len()).sum::<usize>() + waiting.count()
    }

    fn is_known(&self, acquisition: Acquisition) -> bool {
        self.held.iter().any(|hold| hold.ids().contains(&acquisition))
            || self.waiting.iter().any(|waiter| waiter.acquisition == acquisition)
            || self.gone.iter().any(|gone| gone.acquisition == acquisition)
    }

    fn place(&self, acquisition: Acquisition) -> u32 {
        let index = self.waiting.iter().position(|it| it.acquisition == acquisition);
        let (before, rest) = self.waiting.split_at(index.expect("it waits"));
        before.iter().filter(|waiter| waiter.name == rest[0].name).count() as u32 + 1
    }

    fn how(&self, name: &Name, acquisition: Acquisition) -> Reply {
        let gone = self.gone.iter().find(|it| it.acquisition == acquisition && it.name == *name);
        Reply::Finished(gone.map_or(Finished::Unknown, |gone| gone.how))
    }

    fn views(&self, name: &Name, token: Option<Token>) -> Vec<HoldView> {
        let meant =
            |hold: &&Held| hold.name == *name && token.is_none_or(|token| token == hold.token);
        self.held.iter().filter(meant).map(Held::view).collect()
    }

    // What can be asked of it.

    pub fn finished_count(&self) -> usize {
        self.gone.len()
    }

    pub fn status(&self, name: &Name, acquisition: Acquisition) -> Status {
        let mut held = self.held.iter().filter(|hold| hold.name == *name);
        if let Some(hold) = held.find(|hold| hold.ids().contains(&acquisition)) {
            return Status::Held { grant: hold.grant(), ending: hold.ending.clone() };
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
                owner: waiter.owner.clone(),
                queued_unix_ms: waiter.since,
            })
            .collect();
        if holds.is_empty() && waiters.is_empty() {
            return None;
        }
        let (holds_count, waiters_count) = (holds.len(), waiters.len());
        Some(LockView { name: name.clone(), holds, holds_count, waiters, waiters_count })
    }

    pub fn leases(&self, names: &[Name]) -> Vec<Lease> {
        let mut leases = vec![];
        for name in names {
            for hold in self.held.iter().filter(|hold| hold.name == *name) {
                leases.push(Lease::Hold {
                    name: name.clone(),
                    token: hold.token,
                    ttl_ms: hold.ttl_ms,
                    newest: AcquisitionId(hold.newest),
                    acquisitions: hold.ids(),
                    ending: hold.ending.is_some(),
                });
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
