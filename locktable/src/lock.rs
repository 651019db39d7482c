//! The rules of one live lock: how a hold begins and ends, how a waiter queues and leaves, and who
//! is served next. Strict FIFO (S7): whoever comes is behind whoever waits, and only the head of the
//! queue may pass to a hold; it then brings those behind it that fit beside it.
//!
//! It does not answer commands and does not know duplicates: that is each verb's own file.

use crate::{
    Acquisition, AcquisitionId, At, Change, Finished, FinishedRow, Grant, HoldRow, Mode, Name,
    Owner, Token, Wait, WaiterRow,
    dirty::{InImage, RowState},
    hash::Digest,
    holds::{Hold, Holds, Kind},
    ledger::{HoldAfter, Ledger},
    queue::{Queue, Waiter},
    sessions::{Open, Place},
};

/// What surrounds a lock while a command works on it.
pub(crate) struct Step<'a> {
    pub(crate) at: At,
    pub(crate) name: &'a Name,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) changes: &'a mut Vec<Change>,
}

/// What an acquisition wants of a lock.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) acquisition: Acquisition,
    pub(crate) mode: Mode,
    pub(crate) ttl_ms: u64,
    pub(crate) owner: Owner,
}

/// The number that sharers compare by (D11), with its part of the state hash.
#[derive(Debug)]
pub(crate) struct FenceFloor {
    pub(crate) token: Token,
    digest: Digest,
}

/// Invariants, between commands:
/// - there is at least one hold: a lock without holds serves its queue, and without both it is gone;
/// - holders and waiters are of one kind;
/// - the head of the queue does not fit beside the holds (else it would hold);
/// - there is a fence floor exactly if the holds are not exclusive, and no hold's token is below it.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) holds: Holds,
    pub(crate) queue: Queue,
    pub(crate) fence_floor: Option<FenceFloor>,
    pub(crate) row_state: RowState,
}

impl Lock {
    pub(crate) fn new() -> Self {
        let (holds, queue) = (Holds::default(), Queue::default());
        Self { holds, queue, fence_floor: None, row_state: RowState::New }
    }

    pub(crate) fn is_free(&self) -> bool {
        self.holds.is_empty() && self.queue.is_empty()
    }

    /// What the lock is while it lives. Waiters are of the kind of the holds.
    pub(crate) fn kind(&self) -> Option<Kind> {
        self.holds.first().map(|hold| hold.row.mode.kind())
    }

    /// Whether a newcomer would hold at once: nobody waits, and it fits.
    pub(crate) fn is_open_to(&self, mode: Mode) -> bool {
        self.queue.is_empty() && self.holds.admit(mode)
    }

    /// The grant of one of this lock's holds, as its client sees it.
    pub(crate) fn grant_of(&self, hold: &HoldRow) -> Grant {
        let fence_floor = self.fence_floor.as_ref().map_or(hold.token, |floor| floor.token);
        Grant { token: hold.token, fence_floor, ttl_ms: hold.ttl_ms }
    }

    /// Begins a hold, which must fit.
    pub(crate) fn grant(&mut self, step: &mut Step<'_>, request: Request) -> Grant {
        let Request { acquisition, mode, ttl_ms, owner } = request;
        let token = step.ledger.next_token();
        if mode != Mode::Exclusive && self.fence_floor.is_none() {
            self.raise_fence_floor(step.name, step.ledger, token);
        }
        let row = HoldRow {
            token,
            session: acquisition.session,
            instance: acquisition.instance,
            open_ids: vec![acquisition.id],
            newest_id: acquisition.id,
            highest_closed_id: None,
            mode,
            ttl_ms,
            owner,
            granted_unix_ms: step.at.stamped_unix_ms,
            ending_reason: None,
        };
        let grant = self.grant_of(&row);
        self.insert_hold(step.name, step.ledger, row);
        let open = Open { name: step.name.clone(), place: Place::Held(token) };
        let stood = step.ledger.sessions.insert(acquisition, open);
        let from_queue = stood.is_some();
        self.mark(step.name, step.ledger);
        step.changes.push(Change::Granted {
            acquisition,
            name: step.name.clone(),
            grant,
            from_queue,
        });
        grant
    }

    /// Puts a hold among the others, without telling anyone.
    pub(crate) fn insert_hold(&mut self, name: &Name, ledger: &mut Ledger, row: HoldRow) {
        let digest = ledger.hash.add_hold(name, &row);
        self.holds.push(Hold { row, digest });
        ledger.holds_count += 1;
    }

    pub(crate) fn raise_fence_floor(&mut self, name: &Name, ledger: &mut Ledger, token: Token) {
        let digest = ledger.hash.add_fence_floor(name, token);
        self.fence_floor = Some(FenceFloor { token, digest });
    }

    /// Puts a newcomer at the end of the queue; its place.
    pub(crate) fn enqueue(&mut self, step: &mut Step<'_>, request: Request, wait: Wait) -> u32 {
        let Request { acquisition, mode, ttl_ms, owner } = request;
        let ticket = step.ledger.next_ticket();
        let queued_unix_ms = step.at.stamped_unix_ms;
        let row = WaiterRow { ticket, acquisition, mode, ttl_ms, wait, owner, queued_unix_ms };
        self.insert_waiter(step.name, step.ledger, row);
        let open = Open { name: step.name.clone(), place: Place::Waiting(ticket) };
        step.ledger.sessions.insert(acquisition, open);
        step.ledger.dirty.waiter_came(step.name, ticket);
        step.changes.push(Change::Queued { acquisition, name: step.name.clone(), ttl_ms, wait });
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    /// Puts a waiter behind the others, without telling anyone.
    pub(crate) fn insert_waiter(&mut self, name: &Name, ledger: &mut Ledger, row: WaiterRow) {
        let digest = ledger.hash.add_waiter(name, &row);
        self.queue.push_back(Waiter { row, digest });
        ledger.waiters_count += 1;
    }

    /// Takes a waiter out of the queue without a grant. The caller serves the queue afterwards.
    pub(crate) fn leave(&mut self, step: &mut Step<'_>, ticket: u64, how: Finished) {
        let Some(waiter) = self.queue.remove(ticket) else { return };
        let Request { acquisition, .. } = unqueued(step, waiter);
        step.ledger.sessions.remove(acquisition);
        let name = step.name.clone();
        let row = FinishedRow { acquisition, name: name.clone(), how, token: None };
        step.ledger.record(row, HoldAfter::Ended);
        step.changes.push(Change::WaiterLeft { acquisition, name, how });
    }

    /// Grants to the queue what has become possible.
    pub(crate) fn serve(&mut self, step: &mut Step<'_>) {
        while self.queue.front().is_some_and(|head| self.holds.admit(head.row.mode)) {
            let Some(waiter) = self.queue.pop_front() else { return };
            let request = unqueued(step, waiter);
            self.grant(step, request);
        }
    }

    /// Closes one acquisition that is open on the hold, which ends if it was the last. How many
    /// are open now. The caller serves the queue afterwards.
    pub(crate) fn close(&mut self, step: &mut Step<'_>, token: Token, id: AcquisitionId) -> u32 {
        let Some(hold) = self.holds.get(token) else { return 0 };
        let acquisition = hold.row.acquisition(id);
        if hold.row.open_ids == [id] {
            self.end(step, token, Finished::Released);
            return 0;
        }
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.open_ids.retain(|&open| open != id);
        });
        step.ledger.sessions.remove(acquisition);
        let (name, how) = (step.name.clone(), Finished::Released);
        let row = FinishedRow { acquisition, name: name.clone(), how, token: Some(token) };
        step.ledger.record(row, HoldAfter::Lives);
        step.changes.push(Change::Closed { acquisition, name, token });
        self.open_count(token)
    }

    /// How many acquisitions are open on the hold; none if it is not live.
    pub(crate) fn open_count(&self, token: Token) -> u32 {
        let open = self.holds.get(token).map_or(0, |hold| hold.row.open_ids.len());
        u32::try_from(open).unwrap_or(u32::MAX)
    }

    /// Ends a hold with everything open on it. The caller serves the queue afterwards.
    pub(crate) fn end(&mut self, step: &mut Step<'_>, token: Token, how: Finished) {
        let Some(Hold { row, digest }) = self.holds.remove(token) else { return };
        step.ledger.hash.remove(digest);
        step.ledger.holds_count -= 1;
        let acquisitions = row.acquisitions();
        for &acquisition in &acquisitions {
            step.ledger.sessions.remove(acquisition);
            let name = step.name.clone();
            let row = FinishedRow { acquisition, name, how, token: Some(token) };
            step.ledger.record(row, HoldAfter::Ended);
        }
        // NB: even if a waiter is served in the same command, the lock was without a hold for that
        // moment, so the next sharers get a floor above everybody who held before.
        if self.holds.is_empty()
            && let Some(floor) = self.fence_floor.take()
        {
            step.ledger.hash.remove(floor.digest);
        }
        self.mark(step.name, step.ledger);
        let name = step.name.clone();
        step.changes.push(Change::HoldEnded { token, name, acquisitions, how });
    }

    /// Changes a live hold in place.
    pub(crate) fn change_hold(
        &mut self,
        name: &Name,
        ledger: &mut Ledger,
        token: Token,
        change: impl FnOnce(&mut HoldRow),
    ) {
        let Some(hold) = self.holds.get_mut(token) else { return };
        ledger.hash.remove(hold.digest);
        change(&mut hold.row);
        hold.digest = ledger.hash.add_hold(name, &hold.row);
        self.mark(name, ledger);
    }

    /// Notes that the lock's row differs from the image.
    fn mark(&mut self, name: &Name, ledger: &mut Ledger) {
        let in_image = match self.row_state {
            RowState::New => InImage::No,
            RowState::Clean => InImage::Yes,
            RowState::Dirty(_) => return,
        };
        self.row_state = RowState::Dirty(ledger.dirty.lock_changed(name, in_image));
    }
}

/// Strikes a waiter, who has left the queue, out of hash and image.
fn unqueued(step: &mut Step<'_>, waiter: Waiter) -> Request {
    let Waiter { row: WaiterRow { ticket, acquisition, mode, ttl_ms, owner, .. }, digest } = waiter;
    step.ledger.hash.remove(digest);
    step.ledger.waiters_count -= 1;
    step.ledger.dirty.waiter_left(step.name, ticket);
    Request { acquisition, mode, ttl_ms, owner }
}
