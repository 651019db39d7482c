//! Questions to a table, which change nothing: for keepalives and for people.

use std::{cmp::Reverse, ops::Bound};

use crate::{
    Acquisition, Agreement, AskMark, AskView, DelayRow, DelayView, EndingView, Extras, Finished,
    HoldRow, HoldView, LockTable, LockView, Name, Status, Token, WaiterRow, WaiterView, lock::Lock,
    sessions::Place,
};

impl LockTable {
    /// How an acquisition of this lock stands. An ended one is known as long as the ring knows it.
    pub fn status(&self, name: &str, acquisition: Acquisition) -> Status {
        let open = self.ledger.sessions.get(acquisition).filter(|open| open.name.as_str() == name);
        let Some(open) = open else {
            let finished = self.ledger.ring.get(acquisition);
            let how = finished.filter(|row| row.name.as_str() == name).map(|row| row.how);
            return Status::Finished(how.unwrap_or(Finished::Unknown));
        };
        let status = self.locks.get(name).and_then(|lock| match open.place {
            Place::Held(token) => lock.holds.get(token).map(|hold| lock.status_on(&hold.row)),
            // Before everybody in the queue.
            Place::Reclaiming(_) => Some(Status::Waiting { place: 1 }),
            Place::Waiting(ticket) => {
                lock.queue.place(ticket).map(|place| Status::Waiting { place })
            }
        });
        status.expect("an open acquisition stands where the index of sessions says")
    }

    /// What is agreed about the hold on which an acquisition of this lock is open, or will be about the
    /// one for which it waits.
    pub fn agreement(&self, name: &str, acquisition: Acquisition) -> Option<Agreement> {
        let open = self.ledger.sessions.get(acquisition)?;
        let lock = self.locks.get(name).filter(|_| open.name.as_str() == name)?;
        match open.place {
            Place::Held(token) | Place::Reclaiming(token) => {
                Some(lock.holds.get(token)?.row.agreement())
            }
            Place::Waiting(ticket) => {
                let WaiterRow { condition, ttl_ms, .. } = &lock.queue.get(ticket)?.row;
                let condition = condition.as_deref().copied().unwrap_or_default();
                Some(Agreement { condition, ttl_ms: *ttl_ms, ..Agreement::default() })
            }
        }
    }

    /// Whether the acquisition is open, under whatever name.
    pub fn is_open(&self, acquisition: Acquisition) -> bool {
        self.ledger.sessions.get(acquisition).is_some()
    }

    /// Whether the acquisition is open, or its end is remembered, under whatever name.
    pub fn knows(&self, acquisition: Acquisition) -> bool {
        self.ledger.is_known(acquisition)
    }

    /// The live hold with this token.
    pub fn hold(&self, name: &str, token: Token) -> Option<HoldView> {
        let lock = self.locks.get(name)?;
        Some(lock.view_of(&lock.holds.get(token)?.row))
    }

    /// The hold of this lock on which an acquisition is open.
    pub fn hold_of(&self, name: &str, acquisition: Acquisition) -> Option<Token> {
        let open = self.ledger.sessions.get(acquisition)?;
        match open.place {
            Place::Held(token) if open.name.as_str() == name => Some(token),
            Place::Held(_) | Place::Waiting(_) | Place::Reclaiming(_) => None,
        }
    }

    /// A live lock with its first holds and waiters, at most so many of each.
    pub fn lock(&self, name: &str, holds_max: usize, waiters_max: usize) -> Option<LockView> {
        let (name, lock) = self.locks.get_key_value(name)?;
        Some(lock.view(name, holds_max, waiters_max))
    }

    /// Live locks in byte order of their names: those that begin with `prefix`, from `from` on, at
    /// most so many, each as [`LockTable::lock`] shows it.
    pub fn locks(
        &self,
        prefix: &str,
        from: &str,
        locks_max: usize,
        holds_max: usize,
        waiters_max: usize,
    ) -> Vec<LockView> {
        self.locks
            .range::<str, _>((Bound::Included(from.max(prefix)), Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .take(locks_max)
            .map(|(name, lock)| lock.view(name, holds_max, waiters_max))
            .collect()
    }

    /// The name that has half of all names of this table before it, or one less than half. None: it has
    /// no two names. Takes time in proportion to the names.
    pub fn middle(&self) -> Option<&Name> {
        (self.locks.len() > 1).then(|| self.locks.keys().nth(self.locks.len() / 2)).flatten()
    }

    /// The first name that it has.
    pub fn first(&self) -> Option<&Name> {
        self.locks.keys().next()
    }

    /// How many names come before this one, in the same time.
    pub fn names_before(&self, name: &str) -> usize {
        self.locks.range::<str, _>((Bound::Unbounded, Bound::Excluded(name))).count()
    }
}

impl Lock {
    fn status_on(&self, hold: &HoldRow) -> Status {
        if hold.is_orphan() {
            return Status::Finished(Finished::Orphaned);
        }
        Status::Held {
            grant: self.grant_of(hold),
            ending: hold
                .ending()
                .map(|mark| EndingView { reason: mark.reason.clone(), how: mark.cause.how() }),
            asked: ask_view(hold),
        }
    }

    pub(crate) fn view_of(&self, hold: &HoldRow) -> HoldView {
        HoldView {
            acquisition: hold.acquisition(hold.open_ids[0]),
            newest: hold.open_ids[hold.open_ids.len() - 1],
            open: u32::try_from(hold.open_ids.len()).unwrap_or(u32::MAX),
            grant: self.grant_of(hold),
            mode: hold.mode,
            owner: hold.owner.clone(),
            granted_unix_ms: hold.granted_unix_ms,
            arrival: hold.arrival,
            ending: hold.ending().map(|mark| mark.reason.clone()),
            agreement: hold.agreement(),
            orphaned: hold.is_orphan(),
            asked: ask_view(hold),
            reclaimer: hold.reclaimer().map(|reclaimer| reclaimer.acquisition),
        }
    }

    fn view(&self, name: &Name, holds_max: usize, waiters_max: usize) -> LockView {
        let holds = self.holds.iter().take(holds_max);
        let waiters = self.queue.iter().take(waiters_max);
        LockView {
            name: name.clone(),
            holds: holds.map(|hold| self.view_of(&hold.row)).collect(),
            holds_count: self.holds.len(),
            waiters: waiters.map(|waiter| waiter_view(&waiter.row)).collect(),
            waiters_count: self.queue.len(),
            delays: self.delays_that_end_last(holds_max),
        }
    }
}

impl Lock {
    /// At most so many delays, by token. They are shown to say how long the lock stays taken.
    fn delays_that_end_last(&self, delays_max: usize) -> Vec<DelayView> {
        let mut delays: Vec<_> = self.holds.delays().map(|delay| delay_view(&delay.row)).collect();
        if delays.len() > delays_max {
            delays.sort_by_key(|delay| Reverse(delay.since_unix_ms.saturating_add(delay.delay_ms)));
            delays.truncate(delays_max);
            delays.sort_by_key(|delay| delay.token);
        }
        delays
    }
}

fn ask_view(hold: &HoldRow) -> Option<AskView> {
    let &Extras { ref asked, condition, .. } = hold.extras();
    let &AskMark { since_unix_ms, ref by } = asked.as_deref()?;
    let grace_ms = condition.ask_grace_ms.unwrap_or(0);
    Some(AskView { by: by.clone(), since_unix_ms, grace_ms })
}

pub(crate) fn waiter_view(waiter: &WaiterRow) -> WaiterView {
    WaiterView {
        acquisition: waiter.acquisition,
        mode: waiter.mode,
        ttl_ms: waiter.ttl_ms,
        wait: waiter.wait,
        owner: waiter.owner.clone(),
        queued_unix_ms: waiter.queued_unix_ms,
        arrival: waiter.arrival,
        condition: waiter.condition.as_deref().copied().unwrap_or_default(),
    }
}

fn delay_view(delay: &DelayRow) -> DelayView {
    let DelayRow { token, mode, delay_ms, since_unix_ms } = *delay;
    DelayView { token, mode, delay_ms, since_unix_ms }
}
