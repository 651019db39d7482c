//! The rules of one live lock: how a hold begins and ends, how a waiter queues and leaves, and who
//! is served next. Strict FIFO (S7): whoever comes is behind whoever waits, and only the head of the
//! queue may pass to a hold; it then brings those behind it that fit beside it.
//!
//! It does not answer commands and does not know duplicates: that is each verb's own file.

use std::sync::Arc;

use crate::{
    Acquisition, AcquisitionId, At, Change, Condition, DelayRow, Extras, Finished, FinishedRow,
    Grant, HoldRow, Mode, Name, OpenIds, Owner, Token, Wait, WaiterRow,
    dirty::RowState,
    holds::{Delay, FenceFloor, Hold, Holds, Kind},
    ledger::{HoldAfter, Ledger},
    queue::{Queue, Waiter},
    sessions::{Open, Place},
    usage,
};

/// The surroundings of a lock while a command works on it.
pub(crate) struct Step<'a> {
    pub(crate) at: At,
    pub(crate) name: &'a Name,
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) changes: &'a mut Vec<Change>,
    /// What an operator says to those whose holds he ends at once; empty unless he does.
    pub(crate) words: String,
}

impl<'a> Step<'a> {
    pub(crate) fn new(
        at: At,
        name: &'a Name,
        ledger: &'a mut Ledger,
        changes: &'a mut Vec<Change>,
    ) -> Self {
        Self { at, name, ledger, changes, words: String::new() }
    }

    /// An acquisition that waited, in the queue or for a reclaimed hold, is no more.
    pub(crate) fn waiter_left(&mut self, acquisition: Acquisition, how: Finished) {
        self.ledger.sessions.remove(acquisition);
        let name = self.name.clone();
        let row = FinishedRow { acquisition, name: name.clone(), how, token: None };
        self.ledger.record(row, HoldAfter::Ended);
        self.changes.push(Change::WaiterLeft { acquisition, name, how });
    }
}

/// The wish of an acquisition for a lock.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) acquisition: Acquisition,
    pub(crate) mode: Mode,
    pub(crate) ttl_ms: u64,
    pub(crate) owner: Arc<Owner>,
    /// None where it is the default.
    pub(crate) condition: Option<Box<Condition>>,
    /// Of the waiter or hold that it goes on from, which has one already. None: it comes now.
    pub(crate) arrival: Option<u64>,
}

/// Invariants, between commands:
/// - at least one seat is taken, by a hold or a delay: a lock whose seats are all free serves its
///   queue, and without that it is gone. Only in quarantine, which serves nobody, it may have nothing
///   but a queue;
/// - holders and waiters are of one kind;
/// - the head of the queue does not fit beside the seats taken, or there is no seat left (else it
///   would hold); or the range is in quarantine;
/// - whoever waits came after all that hold and after all before it in the queue;
/// - there is a fence floor exactly if there are holds and they are not exclusive, and no hold's
///   token is below it.
#[derive(Debug)]
pub(crate) struct Lock {
    pub(crate) holds: Holds,
    pub(crate) queue: Queue,
}

impl Lock {
    pub(crate) fn new() -> Self {
        Self { holds: Holds::default(), queue: Queue::default() }
    }

    pub(crate) fn is_free(&self) -> bool {
        self.holds.is_vacant() && self.queue.is_empty()
    }

    /// The kind of the lock while it lives. Waiters are of the kind of the holds.
    pub(crate) fn kind(&self) -> Option<Kind> {
        let waits = || self.queue.front().map(|head| head.row.mode);
        self.holds.some_mode().or_else(waits).map(Mode::kind)
    }

    /// Whether a newcomer would hold at once if a lock had any number of seats: nobody waits, and it
    /// fits.
    pub(crate) fn is_open_to(&self, mode: Mode) -> bool {
        self.queue.is_empty() && self.holds.fits(mode)
    }

    /// Whether waiters came in the order of the queue and after all holders, and no two at once. Those
    /// of before feature level 4 have no number, and came before all others.
    pub(crate) fn is_in_order_of_arrival(&self) -> bool {
        if self.queue.is_empty() && self.holds.len() < 2 {
            return true;
        }
        let mut arrivals: Vec<u64> = self.holds.iter().map(|hold| hold.row.arrival).collect();
        arrivals.sort_unstable();
        arrivals.extend(self.queue.iter().map(|waiter| waiter.row.arrival));
        arrivals.is_sorted_by(|a, b| a < b || (*a, *b) == (0, 0))
    }

    /// The grant of one of this lock's holds, as its client sees it.
    pub(crate) fn grant_of(&self, hold: &HoldRow) -> Grant {
        let fence_floor = self.holds.fence_floor().map_or(hold.token, |floor| floor.token);
        Grant { token: hold.token, fence_floor, ttl_ms: hold.ttl_ms }
    }

    /// Begins a hold, which must fit.
    pub(crate) fn grant(&mut self, step: &mut Step<'_>, request: Request) -> Grant {
        let extras = request
            .condition
            .as_deref()
            .map(|&condition| Box::new(Extras { condition, ..Extras::default() }));
        self.grant_with(step, request, extras)
    }

    /// As [`Lock::grant`], with more than the request says.
    pub(crate) fn grant_with(
        &mut self,
        step: &mut Step<'_>,
        request: Request,
        extras: Option<Box<Extras>>,
    ) -> Grant {
        let Request { acquisition, mode, ttl_ms, owner, condition, arrival } = request;
        let token = step.ledger.next_token();
        if mode != Mode::Exclusive && self.holds.fence_floor().is_none() {
            self.raise_fence_floor(step.name, step.ledger, token);
        }
        let row = HoldRow {
            token,
            session: acquisition.session,
            instance: acquisition.instance,
            open_ids: OpenIds::one(acquisition.id),
            mode,
            ttl_ms,
            owner,
            granted_unix_ms: step.at.stamped_unix_ms,
            arrival: arrival.unwrap_or_else(|| step.ledger.arrival_with(token)),
            extras,
        };
        let grant = self.grant_of(&row);
        let open = Open { name: step.name.clone(), place: Place::Held(token) };
        let stood = step.ledger.sessions.insert(acquisition, &row.owner, open);
        let row_state = step.ledger.dirty.hold_came(step.name, token);
        self.insert_hold(step.name, step.ledger, row, row_state);
        let from_queue = stood.is_some();
        step.changes.push(Change::Granted {
            acquisition,
            name: step.name.clone(),
            grant,
            from_queue,
            condition,
        });
        grant
    }

    /// Puts a hold among the others, without telling anyone.
    pub(crate) fn insert_hold(
        &mut self,
        name: &Name,
        ledger: &mut Ledger,
        row: HoldRow,
        row_state: RowState,
    ) {
        let digest = ledger.count_hold(name, &row);
        self.holds.push(Hold { row, digest, row_state });
        ledger.holds_count += 1;
    }

    /// Puts a delay among the others, without telling anyone.
    pub(crate) fn insert_delay(&mut self, name: &Name, ledger: &mut Ledger, row: DelayRow) {
        let digest = ledger.count_delay(name, &row);
        ledger.dirty.delay_came(name, row.token);
        self.holds.push_delay(Delay { row, digest });
        ledger.delays_count += 1;
    }

    pub(crate) fn raise_fence_floor(&mut self, name: &Name, ledger: &mut Ledger, token: Token) {
        let digest = ledger.count_floor(name, token);
        ledger.dirty.floor_came(name);
        self.holds.set_fence_floor(FenceFloor { token, digest });
    }

    /// Puts a newcomer at the end of the queue; its place.
    pub(crate) fn enqueue(&mut self, step: &mut Step<'_>, request: Request, wait: Wait) -> u32 {
        let Request { acquisition, mode, ttl_ms, owner, condition, .. } = request;
        let ticket = step.ledger.next_ticket();
        let row = WaiterRow {
            ticket,
            acquisition,
            mode,
            ttl_ms,
            wait,
            owner,
            queued_unix_ms: step.at.stamped_unix_ms,
            arrival: step.ledger.next_arrival(),
            condition,
        };
        let open = Open { name: step.name.clone(), place: Place::Waiting(ticket) };
        step.ledger.sessions.insert(acquisition, &row.owner, open);
        self.insert_waiter(step.name, step.ledger, row);
        step.ledger.dirty.waiter_came(step.name, ticket);
        step.changes.push(Change::Queued { acquisition, name: step.name.clone(), ttl_ms, wait });
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    /// Puts a waiter behind the others, without telling anyone.
    pub(crate) fn insert_waiter(&mut self, name: &Name, ledger: &mut Ledger, row: WaiterRow) {
        let digest = ledger.count_waiter(name, &row);
        self.queue.push_back(Waiter { row, digest });
        ledger.waiters_count += 1;
    }

    /// Takes a waiter out of the queue without a grant. The caller serves the queue afterwards.
    pub(crate) fn leave(&mut self, step: &mut Step<'_>, ticket: u64, how: Finished) {
        let Some(waiter) = self.queue.remove(ticket) else { return };
        let Request { acquisition, .. } = unqueued(step, waiter);
        step.waiter_left(acquisition, how);
    }

    /// Whether the head of the queue could hold now, but for a quarantine.
    pub(crate) fn could_serve(&self, seats_max: usize) -> bool {
        self.queue.front().is_some_and(|head| self.holds.admit(head.row.mode, seats_max))
    }

    /// Grants to the queue what has become possible. In quarantine that is nothing.
    pub(crate) fn serve(&mut self, step: &mut Step<'_>) {
        if step.ledger.is_quarantined() {
            return;
        }
        let seats_max = step.ledger.seats_max();
        while self.queue.front().is_some_and(|head| self.holds.admit(head.row.mode, seats_max)) {
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
        if *hold.row.open_ids == [id] {
            self.give_up(step, token);
            return 0;
        }
        self.change_hold(step.name, step.ledger, token, |hold| {
            hold.open_ids.change(|ids| ids.retain(|&open| open != id));
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

    /// Ends a hold at its owner's word; it goes to its reclaimer, if there is one. The caller
    /// serves the queue afterwards.
    pub(crate) fn give_up(&mut self, step: &mut Step<'_>, token: Token) {
        let reclaimed = self.holds.get(token).is_some_and(|hold| hold.row.reclaimer().is_some());
        // In quarantine it ends for its reclaimer, too.
        if reclaimed && !step.ledger.is_quarantined() {
            // It has acknowledged: nobody need wait for its lease any more.
            self.hand_over(step, token, Finished::Released);
        } else {
            self.end(step, token, Finished::Released);
        }
    }

    /// Ends a hold without its owner's word. If its client may count on it, and asked for that, its
    /// place stays taken for a while. The caller serves the queue afterwards.
    pub(crate) fn take_away(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        how: Finished,
        told: bool,
    ) {
        let Some(row) = self.end(step, token, how) else { return };
        let (mode, extras) = (row.mode, row.extras());
        // A client that claimed it, or agreed to something about it, knew its token, whatever the
        // leader knows.
        let told = told || extras.claimed || extras.revision > 0;
        let Some(delay_ms) = extras.condition.lock_delay_ms.filter(|_| told) else { return };
        let since_unix_ms = step.at.stamped_unix_ms;
        let row = DelayRow { token, mode, delay_ms, since_unix_ms };
        self.insert_delay(step.name, step.ledger, row);
        step.changes.push(Change::DelayBegan { token, name: step.name.clone(), delay_ms });
    }

    /// Ends a hold with everything open on it, and its reclaimer with it. The caller serves the
    /// queue afterwards. Returns the hold as it was.
    pub(crate) fn end(
        &mut self,
        step: &mut Step<'_>,
        token: Token,
        how: Finished,
    ) -> Option<HoldRow> {
        let row = self.remove_hold(step, token)?;
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
            && let Some(floor) = self.holds.take_fence_floor()
        {
            step.ledger.discount_floor(step.name, floor.digest);
            step.ledger.dirty.floor_left(step.name);
        }
        let name = step.name.clone();
        let reason = step.words.clone();
        step.changes.push(Change::HoldEnded { token, name, acquisitions, how, reason });
        if let Some(reclaimer) = row.reclaimer() {
            step.waiter_left(reclaimer.acquisition, how);
        }
        Some(row)
    }

    /// Takes a hold out of its seat, hash and image, without telling anyone.
    pub(crate) fn remove_hold(&mut self, step: &mut Step<'_>, token: Token) -> Option<HoldRow> {
        let Hold { row, digest, row_state } = self.holds.remove(token)?;
        step.ledger.discount_hold(step.name, &row, digest);
        step.ledger.holds_count -= 1;
        step.ledger.dirty.hold_left(step.name, token, row_state);
        Some(row)
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
        ledger.discount_hold(name, &hold.row, hold.digest);
        change(&mut hold.row);
        hold.digest = ledger.count_hold(name, &hold.row);
        hold.row_state = ledger.dirty.hold_changed(name, token, hold.row_state);
    }
}

impl Lock {
    /// The weight of the lock; see `usage`.
    pub(crate) fn bytes(&self, name: &Name) -> u64 {
        let floor = self.holds.fence_floor().map_or(0, |_| usage::floor_bytes(name));
        let holds = self.holds.iter().map(|hold| usage::hold_bytes(name, &hold.row));
        let delays = self.holds.delays_len() as u64 * usage::delay_bytes(name);
        let waiters = self.queue.iter().map(|waiter| usage::waiter_bytes(name, &waiter.row));
        floor + holds.sum::<u64>() + delays + waiters.sum::<u64>()
    }
}

/// Strikes a waiter, who has left the queue, out of hash and image.
fn unqueued(step: &mut Step<'_>, waiter: Waiter) -> Request {
    let Waiter { row, digest } = waiter;
    step.ledger.discount_waiter(step.name, &row, digest);
    step.ledger.waiters_count -= 1;
    step.ledger.dirty.waiter_left(step.name, row.ticket);
    let WaiterRow { acquisition, mode, ttl_ms, owner, condition, arrival, .. } = row;
    Request { acquisition, mode, ttl_ms, owner, condition, arrival: Some(arrival) }
}
