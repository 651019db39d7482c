//! From a call to a command or a question of its range. Everything that must happen at the moment
//! of receipt happens here: leases are renewed, too much is refused.

use std::time::Duration;

use sharklock_locktable::{
    Acquire, Acquisition, Ask, Cancel, Command, End, EndCause, Ending, LockTable, Name, Refusal,
    Revoke, SessionHandle, SetAttributes, Status, Token,
};
use sharklock_multiraft::AwaitedChild;
use sharklock_proto::{
    CALL_AGE_MAX,
    internal::v1::{self as internal, StoreCall, store_call::Body, store_error::Kind},
    v1,
};
use sharklock_rangemap::{Descriptor, RangeId};

use crate::{
    front::{About, Asker, Front, LOOKS_QUEUED_MAX, Leading, Query, Read, ReplyTo, Subscriber},
    lease_clock::{LeaseKey, Renewal},
    memory::{Charge, StoreMemory},
    ports::WorkerStats,
    tracing_calls::Traced,
    wire::{self, Caller, Malformed},
};

/// When to try again what waits until somebody leads a child.
const SPLIT_RETRY_MS: u64 = 1_000;

/// How often a client renews a lease of `ttl` (D7).
pub fn keepalive_interval(ttl: Duration) -> Duration {
    (ttl / 3).min(Duration::from_secs(5))
}

/// One call at the door of a range that this store leads.
pub struct Admission<'a> {
    /// Receipt.
    pub now: Duration,
    /// Age at receipt.
    pub age: Duration,
    /// How long it stood in the mailbox.
    pub queued: Duration,
    /// Whether somebody listens to spans.
    pub traces: bool,
    /// The way of its answer.
    pub to: ReplyTo,
    /// The range's soft state.
    pub front: &'a mut Front,
    /// The range's state as applied.
    pub table: &'a LockTable,
    /// The range's names, and their version.
    pub descriptor: &'a Descriptor,
    /// Set if the range's log has become too long for what it is kept for.
    pub overlong: Option<AwaitedChild>,
    /// The store's memory.
    pub memory: &'a mut StoreMemory,
    /// The counters.
    pub stats: &'a mut WorkerStats,
}

impl Admission<'_> {
    /// Queues the call's command or question, or says why not.
    pub fn admit(mut self, mut call: StoreCall, body: Body) -> Result<(), Kind> {
        let to = self.to;
        let subscriber =
            (call.stream != 0).then_some(Subscriber { link: to.link, stream: call.stream });
        let asker = (call.asker != 0).then_some(Subscriber { link: to.link, stream: call.asker });
        let caller = |call: &mut StoreCall| Caller::of(call).map_err(malformed);
        match body {
            Body::Acquire(request) => {
                self.acquire(caller(&mut call)?, subscriber, asker, request)?;
            }
            Body::Reclaim(request) => self.reclaim(caller(&mut call)?, subscriber, request)?,
            Body::Release(request) => {
                let release = wire::release(&caller(&mut call)?, request);
                self.urgent(Command::Release(release), About::Release)?;
            }
            Body::Cancel(request) => {
                let cancel = wire::cancel(&caller(&mut call)?, request);
                self.urgent(Command::Cancel(cancel), About::Cancel)?;
            }
            Body::Withdraw(request) => self.withdraw(&caller(&mut call)?, asker, request),
            Body::ForceRelease(request) => {
                let asker = self.asker(About::ForceRelease);
                self.front.ask(force_release(request), asker);
            }
            Body::Claim(request) => {
                let (claim, wish) = wire::claim(&caller(&mut call)?, request);
                self.ordinary(Command::Claim(claim), Asker::Agree { to, wish })?;
            }
            Body::SetCondition(request) => {
                let set = wire::set_condition(&caller(&mut call)?, request);
                let (set, wish) = set.map_err(malformed)?;
                self.ordinary(Command::SetCondition(set), Asker::Agree { to, wish })?;
            }
            Body::Ask(request) => {
                let ask = self.asking(&mut call, request)?;
                let asker = self.asker(About::Ask);
                self.ordinary(Command::Ask(ask), asker)?;
            }
            Body::Downgrade(request) => {
                let downgrade = wire::downgrade(&caller(&mut call)?, request);
                let asker = self.asker(About::Downgrade);
                self.ordinary(Command::Downgrade(downgrade), asker)?;
            }
            Body::SetAttributes(request) => {
                let set = wire::set_attributes(&caller(&mut call)?, request);
                self.may_grow(&set)?;
                let asker = self.asker(About::SetAttributes);
                self.ordinary(Command::SetAttributes(set), asker)?;
            }
            Body::KeepAlive(request) => {
                self.keep_alive(caller(&mut call)?, subscriber, asker, request);
            }
            Body::CheckToken(request) => self.look(Query::CheckToken(request))?,
            Body::GetLock(request) => self.look(Query::GetLock(request))?,
            Body::WatchLock(request) => {
                self.look(Query::WatchLock { request, has_waited: false })?;
            }
            Body::ListRange(request) => self.look(Query::ListRange(request))?,
            Body::ListRangeSessions(request) => {
                let is_first = request.after.is_empty();
                let after = (!is_first).then(|| handle(&request.after)).transpose()?;
                self.look(Query::ListSessions(after, request))?;
            }
            Body::GetRangeSession(request) => {
                let session = handle(&request.session)?;
                self.look(Query::GetSession(session, request))?;
            }
            Body::RevokeRangeSession(request) => self.revoke(request)?,
            Body::Describe(_) => unreachable!("a store describes itself without a range"),
            Body::SplitRange(_) => unreachable!("a split concerns the range, and no lock"),
        }
        Ok(())
    }

    fn acquire(
        mut self,
        caller: Caller,
        subscriber: Option<Subscriber>,
        asker: Option<Subscriber>,
        request: v1::AcquireRequest,
    ) -> Result<(), Kind> {
        self.has_room()?;
        let trace = self.traces.then(|| self.traced(&request)).flatten();
        let seq = request.seq;
        let asked_ms = leading(self.front).age.asked_ms(self.age);
        let acquire = wire::acquire(caller, request, asked_ms).map_err(malformed)?;
        let charge = Charge::of(&acquire);
        self.memory.admit(&acquire, &charge, self.table, &self.front.pending)?;
        if let Some(overlong) = &self.overlong
            && !self.table.knows(acquire.acquisition)
        {
            return Err(split_unfinished(self.descriptor.range, overlong));
        }
        let (acquisition, name) = (acquire.acquisition, acquire.name.clone());
        let key = leased_by(self.table, &acquire);
        let stale_at = self.attempted(acquisition, &name, key, subscriber, asker);
        self.front.pending.add(&charge, self.memory.bounds());
        self.memory.weigh(self.front, self.table);
        let charge = Some(charge);
        let to = self.to;
        let asker = Asker::Acquire { to, acquisition, name, seq, stale_at, charge, trace };
        self.front.ask(Command::Acquire(Box::new(acquire)), asker);
        Ok(())
    }

    /// It is never withdrawn: to cancel a reclaim that was granted would free what its session wants
    /// protected.
    fn reclaim(
        mut self,
        caller: Caller,
        subscriber: Option<Subscriber>,
        request: v1::ReclaimRequest,
    ) -> Result<(), Kind> {
        self.has_room()?;
        let seq = request.seq;
        let asked_ms = leading(self.front).age.asked_ms(self.age);
        let reclaim = wire::reclaim(caller, request, asked_ms);
        let (acquisition, name) = (reclaim.acquisition, reclaim.name.clone());
        // An earlier arrival of the same reclaim holds, or waits for the older life to end.
        let held = self.table.hold_of(name.as_str(), acquisition);
        let key = held.map_or(LeaseKey::Waiter(acquisition), LeaseKey::Hold);
        let stale_at = self.attempted(acquisition, &name, key, subscriber, None);
        let (to, charge, trace) = (self.to, None, None);
        let asker = Asker::Acquire { to, acquisition, name, seq, stale_at, charge, trace };
        self.front.ask(Command::Reclaim(Box::new(reclaim)), asker);
        Ok(())
    }

    /// A command only where there is something to end: an operator's call goes to every range, and most
    /// know nothing of the session. What this one gets later was not meant.
    fn revoke(self, request: internal::RevokeRangeSession) -> Result<(), Kind> {
        let session = handle(&request.session)?;
        if request.dry_run {
            return self.look(Query::PlanRevocation(session, request));
        }
        if !self.table.has_session(session) {
            return self.look(Query::RevokeNothing(request));
        }
        let internal::RevokeRangeSession { reason, operator, bytes_max, .. } = request;
        let about = About::Revoke { bytes_max: bytes_max as usize };
        self.urgent(Command::Revoke(Revoke { session, reason, operator }), about)
    }

    /// An attempt of an acquisition has been let in. Its answer will carry its seq, from which the client
    /// counts, so the lease that it names is renewed by its receipt (D7, *Proof*): a duplicate's own, or
    /// that of the hold which it joins. When it is too old to be proposed.
    fn attempted(
        &mut self,
        acquisition: Acquisition,
        name: &Name,
        key: LeaseKey,
        subscriber: Option<Subscriber>,
        asker: Option<Subscriber>,
    ) -> Duration {
        let clock = &mut leading(self.front).clock;
        clock.meet(self.table, name.as_str(), key);
        clock.renew(self.now, key);
        if let Some(subscriber) = subscriber {
            self.front.subscribers.insert(acquisition, subscriber);
        }
        let status = self.table.status(name.as_str(), acquisition);
        self.front.attempts.asked(acquisition, asker, &status);
        self.now + CALL_AGE_MAX.saturating_sub(self.age)
    }

    fn asker(&self, about: About) -> Asker {
        Asker::Call { to: self.to, about, received: self.now.saturating_sub(self.queued) }
    }

    /// Queues what frees a lock, as long as there is any room at all.
    fn urgent(self, command: Command, about: About) -> Result<(), Kind> {
        if self.front.is_overfull() {
            self.stats.overloads += 1;
            return Err(wire::overloaded());
        }
        let asker = self.asker(about);
        self.front.ask(command, asker);
        Ok(())
    }

    /// The span of an acquire that its gateway traces.
    fn traced(&self, request: &v1::AcquireRequest) -> Option<Box<Traced>> {
        let received = self.now.saturating_sub(self.queued);
        Traced::begin(&request.traceparent, self.to.tag, received, self.descriptor.range)
    }

    fn ordinary(mut self, command: Command, asker: Asker) -> Result<(), Kind> {
        self.has_room()?;
        self.front.ask(command, asker);
        Ok(())
    }

    fn has_room(&mut self) -> Result<(), Kind> {
        if self.front.is_full() {
            self.stats.overloads += 1;
            return Err(wire::overloaded());
        }
        Ok(())
    }

    /// Whether the attributes of a hold may become so large.
    fn may_grow(&mut self, set: &SetAttributes) -> Result<(), Kind> {
        let Some(hold) = self.table.hold(set.name.as_str(), set.token) else { return Ok(()) };
        let charge = Charge::of_attributes(set, &hold.owner.address);
        self.memory.has_room(&charge, self.table, &self.front.pending)
    }

    /// The waiter that asks: the one that is named, or the first in the queue.
    fn asking(&self, call: &mut StoreCall, request: v1::AskRequest) -> Result<Ask, Kind> {
        let acquisition = match request.acquisition_id {
            0 => {
                let view = self.table.lock(&request.name, 0, 1);
                let first = view.and_then(|view| Some(view.waiters.first()?.acquisition));
                first.ok_or_else(|| wire::refusal(Refusal::NotWaiting))?
            }
            id => Caller::of(call).map_err(malformed)?.acquisition(id),
        };
        Ok(Ask { acquisition, name: request.name.into() })
    }

    /// The caller of a unary Acquire has gone away. Nobody is answered: where this leader cannot
    /// know that nobody else was told of the acquisition, its lease ends it.
    fn withdraw(
        self,
        caller: &Caller,
        asker: Option<Subscriber>,
        request: internal::WithdrawAcquire,
    ) {
        let acquisition = caller.acquisition(request.acquisition_id);
        let Some(asker) = asker.filter(|_| !self.front.is_overfull()) else { return };
        if self.front.attempts.withdraw(acquisition, asker, request.gives_up) {
            self.stats.withdrawals += 1;
            let cancel = Cancel { acquisition, name: request.name.into() };
            self.front.ask(Command::Cancel(cancel), Asker::Withdrawal(acquisition));
        }
    }

    /// Renews at receipt; the answer comes after a ReadIndex round, from the state of then. Not
    /// answered: items whose end is pending or which are withdrawn, items too old to renew, and names that are not in
    /// this range, of which nothing may be said.
    fn keep_alive(
        self,
        caller: Caller,
        subscriber: Option<Subscriber>,
        asker: Option<Subscriber>,
        request: v1::KeepAliveRequest,
    ) {
        self.stats.keepalive_items += request.items.len() as u64;
        let Front { leading, subscribers, attempts, reads, .. } = self.front;
        let clock = &mut leading.as_mut().expect("the worker has checked that it leads").clock;
        let mut items = request.items;
        items.retain(|item| {
            if !self.descriptor.bounds.contains(item.name.as_bytes()) {
                return false;
            }
            let acquisition = caller.acquisition(item.acquisition_id);
            let key = match self.table.status(&item.name, acquisition) {
                Status::Finished(_) => return true,
                Status::Held { grant, .. } => LeaseKey::Hold(grant.token),
                Status::Waiting { .. } => LeaseKey::Waiter(acquisition),
            };
            if !attempts.may_tell(acquisition, asker) {
                return false;
            }
            if let Some(subscriber) = subscriber {
                subscribers.insert(acquisition, subscriber);
            }
            clock.meet(self.table, &item.name, key);
            let interval = clock.ttl(key).map_or(Duration::ZERO, keepalive_interval);
            self.age <= interval && clock.renew(self.now, key) != Renewal::Pending
        });
        if !items.is_empty() {
            let query = Query::KeepAlive { caller, seq: request.seq, asker, items };
            reads.push(Read { to: self.to, query });
        }
    }

    fn look(self, query: Query) -> Result<(), Kind> {
        if self.front.looks.len() >= LOOKS_QUEUED_MAX {
            self.stats.overloads += 1;
            return Err(wire::overloaded());
        }
        self.front.looks.push_back(Read { to: self.to, query });
        Ok(())
    }
}

fn leading(front: &mut Front) -> &mut Leading {
    front.leading.as_mut().expect("the worker has checked that it leads")
}

/// The lease that an acquire renews, which is the one that its answer will speak of: that of its own
/// earlier arrival, or that of the hold it would join, if that is its own.
fn leased_by(table: &LockTable, acquire: &Acquire) -> LeaseKey {
    let name = acquire.name.as_str();
    let acquisition = acquire.acquisition;
    let same_life = |owner: Acquisition| {
        (owner.session, owner.instance) == (acquisition.session, acquisition.instance)
    };
    let joins =
        |token: &Token| table.hold(name, *token).is_some_and(|hold| same_life(hold.acquisition));
    let held = table.hold_of(name, acquisition).or_else(|| acquire.reenter.filter(joins));
    held.map_or(LeaseKey::Waiter(acquisition), LeaseKey::Hold)
}

fn force_release(request: v1::ForceReleaseRequest) -> Command {
    let name = request.name.into();
    let token = request.token.map(Token);
    let (reason, operator) = (request.reason, request.operator);
    if request.now {
        Command::End(End { name, token, cause: EndCause::Operator { reason, operator } })
    } else {
        Command::Ending(Ending { name, token, reason, operator })
    }
}

/// Whoever holds goes on, renews and releases. What is new would make the log longer without end.
fn split_unfinished(range: RangeId, awaited: &AwaitedChild) -> Kind {
    let AwaitedChild { child, log_bytes, log_bytes_max } = awaited;
    let message = format!(
        "range {range} was split, and nobody has led the new range {child} yet; the log that is kept \
         for it takes {log_bytes} bytes, of at most {log_bytes_max}, so nothing new is taken in: \
         bring back the stores that have range {child}"
    );
    wire::refused_for_now("SPLIT_UNFINISHED", &message, SPLIT_RETRY_MS)
}

fn handle(bytes: &[u8]) -> Result<SessionHandle, Kind> {
    wire::handle(bytes).map_err(malformed)
}

fn malformed(error: Malformed) -> Kind {
    wire::refused("MALFORMED_CALL", error.0)
}
