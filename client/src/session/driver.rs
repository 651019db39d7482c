//! A session with its handles: messages of servers and wishes of handles go in, messages for
//! servers and answers to the wishes come out. Every rule between the pure [`SessionCore`] and a
//! connection stands here; its owner has the connection, the clock and the timer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sharklock_proto::v1;

use super::closing_all::End;
use super::{
    Change, Changed, CloseEnd, Effects, Event, LeaseCell, Notice, SessionConfig, SessionCore,
    Watchers, wire,
};
use crate::{
    cluster::{Membership, Standing},
    error::{AcquireError, ChangeError, LockLost, LostReason, ReleaseError},
    events::{Closed, GuardEvent, GuardEventKind, GuardName},
    failure::Down,
    grant::Grant,
    ids::{AcquisitionId, FencingToken},
    request::Request,
};

/// Acquisitions of one session at a time, waiting ones included. The cluster's own limit is 10,000
/// per range; this one bounds the client's memory.
const ACQUISITIONS_MAX: usize = 65_536;

/// See the module. `A`, `R` and `C` are the owner's tickets for an acquire, for a release and for a
/// change of a hold: each comes back at most once, with its result.
///
/// Invariant: the core's ids in use and `entries` agree, except for acquisitions whose handle was
/// told of their end while the cluster still has to be.
#[derive(Debug)]
pub struct Driver<W: Watchers, A, R, C> {
    pub(super) core: SessionCore,
    /// The handles' side of every acquisition that has one, or whose close is waited for.
    pub(super) entries: BTreeMap<AcquisitionId, Entry<W, A, R, C>>,
    /// Numbers the changes that handles want.
    newest_change: u64,
    newest: AcquisitionId,
    effects: Effects,
    pub(super) told: Vec<Told<A, R, C>>,
    pub(super) end: End,
}

/// The work that a turn leaves to its owner, who drains it.
#[derive(Debug)]
pub struct Output<A, R, C> {
    /// For the stream of acquires. Only while connected.
    pub acquires: Vec<v1::SessionCall>,
    /// For the stream that no queue of acquires can hold up. Only while connected.
    pub urgent: Vec<v1::SessionCall>,
    /// For the spare connection's stream of urgent calls, before anything else of this turn is done.
    /// Only while it is up.
    pub spare: Vec<v1::SessionCall>,
    /// For handles, in order.
    pub told: Vec<Told<A, R, C>>,
    /// The connection answers nothing: leave it, with all that waits to be sent on it, and dial
    /// another. The session counts itself disconnected from here on.
    pub reconnect: bool,
    /// The connection has been silent for a while: find out within [`Driver::patience`] whether its
    /// gateway answers at all, and report it lost if it does not.
    pub check: bool,
    /// The spare connection takes the main one's place, which is left; `acquires` and `urgent` go
    /// over it.
    pub move_to_spare: bool,
    /// The spare connection answers nothing, or is not needed any more: leave it, and dial another
    /// gateway if one is still wanted. The session counts it as lost from here on.
    pub leave_spare: bool,
    /// A connection to another gateway is needed beside the main one, or is kept: seek it, if there
    /// is another gateway; otherwise leave it.
    pub spare_wanted: bool,
}

impl<A, R, C> Default for Output<A, R, C> {
    fn default() -> Self {
        Self {
            acquires: Vec::new(),
            urgent: Vec::new(),
            spare: Vec::new(),
            told: Vec::new(),
            reconnect: false,
            check: false,
            move_to_spare: false,
            leave_spare: false,
            spare_wanted: false,
        }
    }
}

/// The result of a handle's wish.
#[derive(Debug)]
pub enum Told<A, R, C> {
    /// The acquire future ends.
    Acquired {
        /// The ticket of its owner.
        ticket: A,
        /// With a guard or not.
        result: Result<Grant, AcquireError>,
    },
    /// The release ends.
    Released {
        /// The ticket of its owner.
        ticket: R,
        /// Confirmed or not.
        result: Result<(), ReleaseError>,
    },
    /// Something has happened to a guard.
    Event(GuardEvent),
    /// The client is closed.
    Closed(Closed),
    /// The change of a hold ends.
    Changed {
        /// The ticket of its owner.
        ticket: C,
        /// Done or not.
        result: Result<Changed, ChangeError>,
    },
}

/// The handles of one acquisition, which wait for its news.
#[derive(Debug)]
pub(super) struct Entry<W, A, R, C> {
    pub(super) cell: Arc<LeaseCell<W>>,
    pub(super) request: Arc<Request>,
    pub(super) stage: Stage<A, R>,
    /// Those who watch all guards have been told that it is lost.
    pub(super) is_lost: bool,
    /// Changes of the hold that somebody waits for, by number.
    changes: BTreeMap<u64, C>,
}

#[derive(Debug)]
pub(super) enum Stage<A, R> {
    /// The acquire future waits.
    Acquiring(A),
    /// The guard is out.
    Held(FencingToken),
    /// It was given back, and somebody may wait for the confirmation.
    Closing(Option<FencingToken>, Option<R>),
}

impl<W: Watchers, A, R, C> Driver<W, A, R, C> {
    /// A session without acquisitions or connection.
    pub fn new(config: SessionConfig) -> Self {
        Self {
            core: SessionCore::new(config),
            entries: BTreeMap::new(),
            newest_change: 0,
            newest: AcquisitionId(config.numbers_after),
            effects: Effects::default(),
            told: Vec::new(),
            end: End::default(),
        }
    }

    /// Somebody wants a lock: a new acquisition, unless its future was dropped meanwhile. `cell` is a
    /// fresh one that the future, and then the guard, keeps.
    pub fn acquire(
        &mut self,
        now: Duration,
        request: Arc<Request>,
        cell: Arc<LeaseCell<W>>,
        ticket: A,
    ) {
        if cell.is_abandoned() {
            return;
        }
        if self.end.is_wanted() {
            return self.told.push(Told::Acquired { ticket, result: Err(AcquireError::Closed) });
        }
        if self.acquisitions_count() >= ACQUISITIONS_MAX {
            let message = format!("this client has {ACQUISITIONS_MAX} acquisitions");
            let reason = "TOO_MANY_ACQUISITIONS".to_owned();
            let error = AcquireError::LimitReached { reason, message, retry_after: None };
            self.told.push(Told::Acquired { ticket, result: Err(error) });
            return;
        }
        let id = AcquisitionId(self.newest.0 + 1);
        self.newest = id;
        cell.set_id(id.0);
        let stage = Stage::Acquiring(ticket);
        let changes = BTreeMap::new();
        let entry = Entry { cell, request: Arc::clone(&request), stage, changes, is_lost: false };
        self.entries.insert(id, entry);
        self.handle(now, Event::Acquire { id, request });
    }

    /// A guard was given back ([`LeaseCell::give_back`]), or an acquire future was dropped
    /// ([`LeaseCell::abandon`]). An acquisition that has not come in yet, or has ended, needs
    /// nothing. The owner of the ticket is told when the cluster has confirmed the end, or cannot
    /// any more.
    pub fn give_back(&mut self, now: Duration, cell: &LeaseCell<W>, ticket: Option<R>) {
        let id = AcquisitionId(cell.id());
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let token = match &entry.stage {
            Stage::Held(token) => Some(*token),
            // The client's close came before.
            Stage::Closing(token, _) => *token,
            Stage::Acquiring(_) => None,
        };
        entry.stage = Stage::Closing(token, ticket);
        self.handle(now, Event::Close { id });
    }

    /// The user of a guard wants its hold changed. The owner of the ticket is told what came of it; if
    /// the guard is given back before, nobody is.
    pub fn change(&mut self, now: Duration, cell: &LeaseCell<W>, change: Change, ticket: C) {
        let id = AcquisitionId(cell.id());
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let Stage::Held(token) = entry.stage else { return };
        if let Err(reason) = cell.check(now) {
            let lost = LockLost { name: Arc::clone(&entry.request.name), token, reason };
            return self.told.push(Told::Changed { ticket, result: Err(lost.into()) });
        }
        self.newest_change += 1;
        let number = self.newest_change;
        entry.changes.insert(number, ticket);
        self.handle(now, Event::Change { id, number, change });
    }

    /// Both streams are open. Nothing sent before is under way any more.
    pub fn connected(&mut self, now: Duration) {
        self.handle(now, Event::Connected);
    }

    /// The streams are gone, or could not be opened.
    pub fn disconnected(&mut self, now: Duration, why: impl Into<Down>) {
        self.forget_calls();
        self.handle(now, Event::Disconnected { why: why.into() });
    }

    /// Both streams of the spare connection are open.
    pub fn spare_connected(&mut self, now: Duration) {
        self.handle(now, Event::SpareConnected);
    }

    /// They are gone. One that could not be opened needs no word.
    pub fn spare_lost(&mut self, now: Duration) {
        self.effects.spare.clear();
        self.handle(now, Event::SpareLost);
    }

    /// The endpoints have said more about the clusters to which they belong, or none of them can be
    /// reached. To be called before what came meanwhile is taken in.
    pub fn clusters(&mut self, now: Duration, known: &Membership) {
        match (known.standing(), known.nowhere()) {
            (Standing::Refused(mismatch), _) => {
                let keeps_guards = known.keeps_guards();
                self.handle(now, Event::Refused { mismatch, keeps_guards });
            }
            (_, Some(mismatch)) => self.handle(now, Event::Nowhere { mismatch }),
            (Standing::Open | Standing::Belongs(_), None) => {}
        }
    }

    /// A message came on one of the streams of either connection.
    pub fn take_in(&mut self, now: Duration, message: v1::SessionResponse) {
        for answer in message.answers {
            match wire::event(answer) {
                Some(event) => self.handle(now, event),
                // A newer server's word; what it means for leases, silence means too.
                None => tracing::warn!("the server sent an answer that this client cannot read"),
            }
        }
    }

    /// Ends a turn: does what is due, and says what all that went in wants done. `output` is what
    /// is left of the last turn's, drained.
    pub fn turn(&mut self, now: Duration, output: &mut Output<A, R, C>) {
        if self.core.next_due().is_some_and(|due| due <= now) {
            self.handle(now, Event::Tick);
        }
        self.go_on_ending(now);
        output.told.append(&mut self.told);
        output.reconnect = std::mem::take(&mut self.effects.reconnect);
        if output.reconnect {
            self.forget_calls();
        }
        output.check = std::mem::take(&mut self.effects.check);
        output.move_to_spare = std::mem::take(&mut self.effects.move_to_spare);
        output.leave_spare = std::mem::take(&mut self.effects.leave_spare);
        output.spare_wanted = self.core.is_spare_wanted();
        output.spare.extend(self.effects.spare.drain(..).map(wire::session_call));
        output.acquires.extend(self.effects.acquires.drain(..).map(wire::session_call));
        output.urgent.extend(self.effects.urgent.drain(..).map(wire::session_call));
    }

    /// When the next turn is needed; earlier ones do no harm.
    pub fn next_due(&self) -> Option<Duration> {
        self.core.next_due().into_iter().chain(self.end.due()).min()
    }

    /// See [`SessionCore::patience`].
    pub fn patience(&self) -> Duration {
        self.core.patience()
    }

    /// Acquisitions that are not over, given back or not. Without any nobody needs a connection.
    pub fn acquisitions_count(&self) -> usize {
        self.core.acquisitions_count()
    }

    /// The largest number that a call or an acquisition of this session has had.
    pub fn numbers_used(&self) -> u64 {
        self.core.last_seq().0.max(self.newest.0)
    }

    /// The connection that they were for is gone. The core names all of it again over the next one.
    fn forget_calls(&mut self) {
        self.effects.acquires.clear();
        self.effects.urgent.clear();
    }

    /// News reach their handles before anything else happens: who gives back what has just been
    /// granted must find it granted.
    pub(super) fn handle(&mut self, now: Duration, event: Event) {
        self.core.handle(now, event, &mut self.effects);
        let mut notices = std::mem::take(&mut self.effects.notices);
        for notice in notices.drain(..) {
            self.notice(now, notice);
        }
        assert!(self.effects.notices.is_empty(), "a notice causes no other");
        self.effects.notices = notices;
    }

    fn notice(&mut self, now: Duration, notice: Notice) {
        match notice {
            Notice::Decided { id, result } => self.decided(id, result),
            Notice::Renewed { id, valid_until, in_jeopardy } => {
                self.renewed(now, id, valid_until, in_jeopardy);
            }
            Notice::Jeopardy { id } => self.standing(id, true),
            Notice::Agreed { id, agreement } => {
                if let Some(entry) = self.entries.get(&id) {
                    entry.cell.agree(agreement);
                }
            }
            Notice::Asked { id, mark } => {
                let Some(entry) = self.entries.get(&id) else { return };
                entry.cell.set_asked(mark.clone());
                // A guard that is lost to the client's close is still kept.
                if let Some((mark, _)) = mark.filter(|_| !entry.is_lost) {
                    self.tell(id, GuardEventKind::Asked(mark));
                }
            }
            Notice::Changed { id, number, result } => self.changed(id, number, result),
            Notice::Lost { id, reason } => {
                if let Some(entry) = self.entries.get(&id) {
                    tracing::warn!(lock = &*entry.request.name, why = %reason, "a lock is lost");
                    entry.cell.lose(reason.clone());
                }
                self.tell_lost(id, reason);
            }
            Notice::Closed { id, end } => self.closed(id, end),
        }
    }

    fn renewed(
        &mut self,
        now: Duration,
        id: AcquisitionId,
        valid_until: Duration,
        in_jeopardy: bool,
    ) {
        let Some(entry) = self.entries.get(&id) else { return };
        match entry.cell.lost().cloned() {
            None => {
                entry.cell.renew(valid_until);
                self.standing(id, in_jeopardy);
            }
            // It is kept until its user has stopped.
            Some(LostReason::Closed) => {}
            // Its user has seen the lease lapse before this answer came.
            Some(reason) => {
                self.core.handle(now, Event::LapsedAtUse { id }, &mut self.effects);
                self.tell_lost(id, reason);
            }
        }
    }

    fn standing(&mut self, id: AcquisitionId, in_jeopardy: bool) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.cell.set_jeopardy(in_jeopardy) && !entry.is_lost {
            let kind = match in_jeopardy {
                true => GuardEventKind::Jeopardy,
                false => GuardEventKind::Safe,
            };
            self.tell(id, kind);
        }
    }

    fn decided(&mut self, id: AcquisitionId, result: Result<Grant, AcquireError>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match result {
            Ok(grant) => {
                entry.cell.renew(grant.valid_until);
                entry.cell.agree(grant.agreement);
                let stage = std::mem::replace(&mut entry.stage, Stage::Held(grant.token));
                match stage {
                    // If the future was dropped meanwhile, the note of that is on its way.
                    Stage::Acquiring(ticket) => {
                        self.told.push(Told::Acquired { ticket, result: Ok(grant) });
                        self.tell(id, GuardEventKind::Safe);
                    }
                    Stage::Held(_) | Stage::Closing(..) => {
                        unreachable!("only what is open is decided, and once")
                    }
                }
            }
            Err(error) => {
                let entry = self.entries.remove(&id).expect("get_mut() has just seen it");
                if let Stage::Acquiring(ticket) = entry.stage {
                    self.told.push(Told::Acquired { ticket, result: Err(error) });
                }
            }
        }
    }

    fn changed(&mut self, id: AcquisitionId, number: u64, result: Result<Changed, ChangeError>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if let (Ok(Changed::Downgraded { token, .. }), Stage::Held(known)) =
            (&result, &mut entry.stage)
        {
            *known = *token;
        }
        if let Some(ticket) = entry.changes.remove(&number) {
            self.told.push(Told::Changed { ticket, result });
        }
    }

    fn closed(&mut self, id: AcquisitionId, end: CloseEnd) {
        self.tell_closed(id, &end);
        let Some(entry) = self.entries.remove(&id) else { return };
        let Stage::Closing(token, Some(ticket)) = entry.stage else { return };
        let name = Arc::clone(&entry.request.name);
        let result = match (end, token) {
            (CloseEnd::Lost(reason), Some(token)) => Err(LockLost { name, token, reason }.into()),
            (CloseEnd::Unconfirmed, _) => Err(ReleaseError::Unconfirmed { name }),
            // Of what nobody had, nothing was lost.
            (CloseEnd::Confirmed | CloseEnd::Lost(_), _) => Ok(()),
        };
        self.told.push(Told::Released { ticket, result });
    }
}

impl<W: Watchers, A, R, C> Driver<W, A, R, C> {
    /// Those who watch all guards hear how one that was given back has ended.
    fn tell_closed(&mut self, id: AcquisitionId, end: &CloseEnd) {
        let Some(entry) = self.entries.get(&id) else { return };
        let was_lost = entry.is_lost && entry.cell.lost() != Some(&LostReason::Closed);
        let Stage::Closing(Some(token), _) = entry.stage else { return };
        if was_lost {
            return;
        }
        let name = Arc::clone(&entry.request.name);
        self.end.note(GuardName { name, token, acquisition: id }, end);
        match end {
            CloseEnd::Confirmed => self.tell(id, GuardEventKind::Released),
            CloseEnd::Unconfirmed => self.tell(id, GuardEventKind::ReleaseUnconfirmed),
            CloseEnd::Lost(reason) => self.tell_lost(id, reason.clone()),
        }
    }
}

impl<W: Watchers, A, R, C> Drop for Driver<W, A, R, C> {
    /// Nobody renews any more.
    fn drop(&mut self) {
        for entry in self.entries.values() {
            entry.cell.lose(LostReason::SessionEnded);
        }
    }
}

#[cfg(test)]
mod tests;
