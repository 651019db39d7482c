//! Answers and events: what was applied or read, in the API's words, collected per gateway.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::{
    Acquisition, Change, Finished, HoldView, LockTable, LockView, Name, Outcome, Reply, Status,
    Token, WaiterView,
};
use sharklock_multiraft::{ReplicaStatus, Store};
use sharklock_proto::{
    internal::v1::{self as internal, StoreReply, store_error::Kind, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::{
    front::{Asker, LinkId, Query, Read, ReplyTo, Subscriber},
    lease_clock::{LeaseClock, LeaseKey},
    machine::LockRange,
    wire,
};

/// Holders shown to whoever has to wait.
const HOLDERS_SHOWN: usize = 8;
/// Holders shown of one lock that is looked at.
const HOLDERS_MAX: usize = 1_000;
/// Waiters shown of one lock when the question does not say.
const WAITERS_DEFAULT: usize = 100;
/// Waiters or locks shown in one answer.
const PAGE_MAX: usize = 1_000;
/// Locks per page when the question does not say.
const PAGE_DEFAULT: usize = 100;
/// Bytes of holders, waiters or locks in one answer: below what a gateway may send in one message.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Answers and events of a turn, in order per link.
#[derive(Debug, Default)]
pub struct Replies {
    by_link: BTreeMap<LinkId, Vec<StoreReply>>,
}

impl Replies {
    /// What has been collected.
    pub fn take(&mut self) -> Vec<(LinkId, Vec<StoreReply>)> {
        std::mem::take(&mut self.by_link).into_iter().collect()
    }

    /// Drops what was meant for a link that is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.by_link.remove(&link);
    }

    /// Answers from the state of a range at an index of its log.
    pub fn at<'a>(
        &'a mut self,
        now: Duration,
        descriptor: &Descriptor,
        index: u64,
        table: &'a LockTable,
        subscribers: &'a mut BTreeMap<Acquisition, Subscriber>,
    ) -> Answers<'a> {
        let position = v1::Position {
            range_id: descriptor.range.0,
            conf_ver: descriptor.epoch.conf_ver,
            version: descriptor.epoch.version,
            applied_index: index,
        };
        Answers { replies: self, now, position, table, subscribers }
    }

    /// Something could not be done.
    pub fn fail(&mut self, to: ReplyTo, kind: Kind) {
        self.reply(to, Body::Error(internal::StoreError { kind: Some(kind) }));
    }

    /// A call that breaks a rule.
    pub fn refuse(&mut self, to: ReplyTo, reason: &str, message: &str) {
        self.fail(to, wire::refused(reason, message));
    }

    /// Not done: this replica does not lead.
    pub fn not_leader(&mut self, to: ReplyTo, range: RangeId, leader: Option<StoreId>) {
        let leader_store_id = leader.map_or(0, |store| store.0);
        self.fail(to, Kind::NotLeader(internal::NotLeader { range_id: range.0, leader_store_id }));
    }

    /// May or may not be done: leadership was lost on the way.
    pub fn indeterminate(&mut self, to: ReplyTo) {
        self.fail(to, Kind::Indeterminate(internal::Indeterminate {}));
    }

    /// The store and its ranges; `status` says what the core does not know.
    pub fn describe(&mut self, to: ReplyTo, store: &Store<LockRange>, status: &v1::StoreStatus) {
        let ranges = store.ranges();
        let described = |range: &RangeId| {
            Some(range_status(
                store.descriptor(*range)?,
                &store.status(*range)?,
                store.machine(*range)?,
            ))
        };
        let description = internal::StoreDescription {
            cluster_id: hex(&store.ident().cluster_id),
            store: Some(v1::StoreStatus {
                store_id: store.ident().store.0,
                ident: hex(&store.ident().ident),
                ..status.clone()
            }),
            ranges: ranges.iter().filter_map(described).collect(),
            descriptors: ranges
                .iter()
                .filter_map(|range| store.descriptor(*range))
                .map(wire::descriptor)
                .collect(),
        };
        self.reply(to, Body::Describe(description));
    }

    fn reply(&mut self, to: ReplyTo, body: Body) {
        let reply = StoreReply { tag: to.tag, stream: 0, body: Some(body) };
        self.by_link.entry(to.link).or_default().push(reply);
    }

    fn event(&mut self, to: Subscriber, event: v1::AcquisitionEvent) {
        let reply = StoreReply { tag: 0, stream: to.stream, body: Some(Body::Event(event)) };
        self.by_link.entry(to.link).or_default().push(reply);
    }
}

/// Answers from the state of one range at one index.
pub struct Answers<'a> {
    replies: &'a mut Replies,
    now: Duration,
    position: v1::Position,
    table: &'a LockTable,
    subscribers: &'a mut BTreeMap<Acquisition, Subscriber>,
}

impl Answers<'_> {
    /// Answers whoever asked for a command, and tells those whom it concerned. `clock` is set while
    /// this replica leads; replayed and inherited entries push nothing.
    pub fn outcome(&mut self, asker: Asker, outcome: Outcome, clock: Option<&LeaseClock>) {
        let cancelled = match &asker {
            Asker::Cancel(_) | Asker::Release(_) => true,
            Asker::Clock | Asker::Acquire { .. } | Asker::ForceRelease(_) => false,
        };
        self.answer(asker, outcome.reply, clock);
        if clock.is_none() {
            return;
        }
        for change in outcome.changes {
            self.push(change, cancelled);
        }
    }

    /// Answers a question that a ReadIndex round has cleared.
    pub fn read(&mut self, read: Read, clock: &LeaseClock) {
        let position = Some(self.position);
        let body = match read.query {
            Query::KeepAlive { caller, seq, items } => {
                let answers: Vec<_> = items
                    .into_iter()
                    .filter_map(|item| {
                        let acquisition = caller.acquisition(item.acquisition_id);
                        self.keep_alive(item, acquisition, seq, clock)
                    })
                    .collect();
                if answers.is_empty() {
                    return;
                }
                Body::KeepAlive(v1::KeepAliveResponse { answers })
            }
            Query::CheckToken(request) => {
                let hold = self.table.hold(&request.name, Token(request.token));
                let fence_floor = hold.as_ref().map_or(0, |hold| hold.grant.fence_floor.0);
                let live = hold.is_some();
                Body::CheckToken(v1::CheckTokenResponse { position, live, fence_floor })
            }
            Query::GetLock(request) => {
                let waiters_max = page(request.waiters_max, WAITERS_DEFAULT);
                let view = self.table.lock(&request.name, HOLDERS_MAX, waiters_max);
                let lock = view.map(|view| self.lock_info(view, Some(clock)));
                Body::GetLock(v1::GetLockResponse { position, lock })
            }
            Query::ListLocks(request) => Body::ListLocks(self.list(&request, clock)),
        };
        self.replies.reply(read.to, body);
    }

    fn answer(&mut self, asker: Asker, reply: Reply, clock: Option<&LeaseClock>) {
        let Some(to) = asker.reply_to() else { return };
        let position = Some(self.position);
        let body = match asker {
            Asker::Clock => return,
            Asker::Acquire { acquisition, name, seq, .. } => {
                let mut response = v1::AcquireResponse {
                    position,
                    seq,
                    acquisition_id: acquisition.id.0,
                    ..v1::AcquireResponse::default()
                };
                match reply {
                    Reply::Refused(refusal) => {
                        self.subscribers.remove(&acquisition);
                        return self.replies.fail(to, wire::refusal(refusal));
                    }
                    reply => self.acquired(&mut response, acquisition, &name, reply, clock),
                }
                Body::Acquire(response)
            }
            Asker::Release(_) => {
                let mut response =
                    v1::ReleaseResponse { position, ..v1::ReleaseResponse::default() };
                released(&mut response, &reply);
                Body::Release(response)
            }
            Asker::Cancel(_) => {
                let mut response = v1::CancelResponse { position, ..Default::default() };
                match reply {
                    Reply::Cancelled => response.set_outcome(v1::CancelOutcome::Cancelled),
                    Reply::Released | Reply::StillHeld { .. } => {
                        response.set_outcome(v1::CancelOutcome::Released);
                    }
                    reply => {
                        response.set_outcome(v1::CancelOutcome::Gone);
                        response.set_gone_reason(wire::gone_reason(finished(&reply)));
                    }
                }
                Body::Cancel(response)
            }
            Asker::ForceRelease(_) => {
                let holds = match reply {
                    Reply::Holds(holds) => holds,
                    _ => Vec::new(),
                };
                let ended = holds.iter().all(|hold| clock_ttl(clock, hold.grant.token).is_none());
                let holders = holds.into_iter().map(|hold| self.holder(hold, clock));
                let holders = within_budget(holders, ANSWER_BYTES_MAX);
                Body::ForceRelease(v1::ForceReleaseResponse { position, holders, ended })
            }
        };
        self.replies.reply(to, body);
    }

    fn acquired(
        &mut self,
        response: &mut v1::AcquireResponse,
        acquisition: Acquisition,
        name: &Name,
        reply: Reply,
        clock: Option<&LeaseClock>,
    ) {
        let how = match reply {
            // A duplicate may find its hold ending. To say "granted" with its seq would renew what
            // nothing may renew any more (hole 12), so it hears how this will end; its client
            // then cancels, which acknowledges.
            Reply::Granted(_) if self.is_ending(name, acquisition) => {
                response.set_outcome(v1::AcquireOutcome::Gone);
                response.set_gone_reason(v1::GoneReason::ForceReleased);
                return;
            }
            Reply::Granted(grant) => return wire::granted(response, grant),
            Reply::Queued { place, ttl_ms } => {
                response.set_outcome(v1::AcquireOutcome::Queued);
                response.place = place;
                response.ttl_ms = ttl_ms;
                return self.show_holders(response, name, clock);
            }
            reply => finished(&reply),
        };
        self.subscribers.remove(&acquisition);
        response.set_outcome(wire::finished_outcome(how));
        response.set_gone_reason(wire::gone_reason(how));
        if matches!(how, Finished::TryRefused | Finished::WaitTimedOut) {
            self.show_holders(response, name, clock);
        }
    }

    fn is_ending(&self, name: &Name, acquisition: Acquisition) -> bool {
        let status = self.table.status(name.as_str(), acquisition);
        matches!(status, Status::Held { ending: Some(_), .. })
    }

    fn show_holders(
        &self,
        response: &mut v1::AcquireResponse,
        name: &Name,
        clock: Option<&LeaseClock>,
    ) {
        let Some(view) = self.table.lock(name.as_str(), HOLDERS_SHOWN, 0) else { return };
        response.waiters = u32::try_from(view.waiters_count).unwrap_or(u32::MAX);
        response.holders = view.holds.into_iter().map(|hold| self.holder(hold, clock)).collect();
    }

    /// Pushes what a change means to the streams that listen. What a client did to itself it
    /// learns from its answer, so `by_client` pushes no "gone".
    fn push(&mut self, change: Change, by_client: bool) {
        match change {
            Change::Granted { acquisition, name, grant, from_queue: true } => {
                let mut event = self.event_of(acquisition, &name);
                event.set_kind(v1::AcquisitionEventKind::Granted);
                event.token = grant.token.0;
                event.fence_floor = grant.fence_floor.0;
                self.send(acquisition, event);
            }
            Change::WaiterLeft { acquisition, name, how } => {
                self.gone(acquisition, &name, how, by_client);
            }
            Change::HoldEnded { name, acquisitions, how, .. } => {
                for acquisition in acquisitions {
                    self.gone(acquisition, &name, how, by_client);
                }
            }
            Change::Closed { acquisition, .. } => {
                self.subscribers.remove(&acquisition);
            }
            Change::EndingBegan { token, name, acquisitions, reason, .. } => {
                for acquisition in acquisitions {
                    let mut event = self.event_of(acquisition, &name);
                    event.set_kind(v1::AcquisitionEventKind::Ending);
                    event.token = token.0;
                    event.ending_reason.clone_from(&reason);
                    self.send(acquisition, event);
                }
            }
            Change::Queued { .. }
            | Change::Granted { from_queue: false, .. }
            | Change::Joined { .. }
            | Change::ExpireMissed { .. } => {}
        }
    }

    fn gone(&mut self, acquisition: Acquisition, name: &Name, how: Finished, by_client: bool) {
        let Some(subscriber) = self.subscribers.remove(&acquisition) else { return };
        if by_client {
            return;
        }
        let mut event = self.event_of(acquisition, name);
        event.set_kind(v1::AcquisitionEventKind::Gone);
        event.set_gone_reason(wire::gone_reason(how));
        self.replies.event(subscriber, event);
    }

    fn send(&mut self, acquisition: Acquisition, event: v1::AcquisitionEvent) {
        if let Some(subscriber) = self.subscribers.get(&acquisition) {
            self.replies.event(*subscriber, event);
        }
    }

    fn event_of(&self, acquisition: Acquisition, name: &Name) -> v1::AcquisitionEvent {
        v1::AcquisitionEvent {
            name: name.as_str().to_owned(),
            instance: acquisition.instance.0,
            acquisition_id: acquisition.id.0,
            position: Some(self.position),
            ..v1::AcquisitionEvent::default()
        }
    }

    /// None while its end is pending: whatever is said now could be wrong a moment later (D7).
    fn keep_alive(
        &self,
        item: v1::KeepAliveItem,
        acquisition: Acquisition,
        seq: u64,
        clock: &LeaseClock,
    ) -> Option<v1::KeepAliveAnswer> {
        let mut answer = v1::KeepAliveAnswer {
            acquisition_id: item.acquisition_id,
            seq,
            position: Some(self.position),
            ..v1::KeepAliveAnswer::default()
        };
        match self.table.status(&item.name, acquisition) {
            Status::Held { grant, ending } => {
                if clock.is_pending(LeaseKey::Hold(grant.token)) {
                    return None;
                }
                answer.set_state(match ending {
                    Some(_) => v1::KeepAliveState::Ending,
                    None => v1::KeepAliveState::Held,
                });
                answer.token = grant.token.0;
                answer.fence_floor = grant.fence_floor.0;
                answer.ending_reason = ending.unwrap_or_default();
            }
            Status::Waiting { place } => {
                if clock.is_pending(LeaseKey::Waiter(acquisition)) {
                    return None;
                }
                answer.set_state(v1::KeepAliveState::Waiting);
                answer.place = place;
            }
            Status::Finished(how) => {
                answer.set_state(v1::KeepAliveState::Gone);
                answer.set_gone_reason(wire::gone_reason(how));
            }
        }
        answer.name = item.name;
        Some(answer)
    }

    fn list(&self, request: &v1::ListLocksRequest, clock: &LeaseClock) -> v1::ListLocksResponse {
        let locks_max = page(request.page_size, PAGE_DEFAULT);
        let after = (!request.page_token.is_empty()).then_some(request.page_token.as_str());
        let views =
            self.table.locks(&request.prefix, after, locks_max, HOLDERS_SHOWN, HOLDERS_SHOWN);
        let found = views.len();
        let infos = views.into_iter().map(|view| self.lock_info(view, Some(clock)));
        let locks = within_budget(infos, ANSWER_BYTES_MAX);
        let next_page_token = match locks.last() {
            Some(last) if found == locks_max || locks.len() < found => last.name.clone(),
            _ => String::new(),
        };
        v1::ListLocksResponse { position: Some(self.position), locks, next_page_token }
    }

    fn lock_info(&self, view: LockView, clock: Option<&LeaseClock>) -> v1::LockInfo {
        let mut info = wire::lock_info(&view);
        let holders = view.holds.into_iter().map(|hold| self.holder(hold, clock));
        info.holders = within_budget(holders, ANSWER_BYTES_MAX / 2);
        let waiters = view.waiters.into_iter().map(|waiter| self.waiter(waiter, clock));
        info.waiters = within_budget(waiters, ANSWER_BYTES_MAX / 2);
        info
    }

    fn holder(&self, hold: HoldView, clock: Option<&LeaseClock>) -> v1::Holder {
        let remaining = self.remaining(LeaseKey::Hold(hold.grant.token), clock);
        wire::holder(hold, remaining)
    }

    fn waiter(&self, waiter: WaiterView, clock: Option<&LeaseClock>) -> v1::Holder {
        let remaining = self.remaining(LeaseKey::Waiter(waiter.acquisition), clock);
        wire::waiter(waiter, remaining)
    }

    fn remaining(&self, key: LeaseKey, clock: Option<&LeaseClock>) -> u64 {
        let remaining = clock.and_then(|clock| clock.remaining(self.now, key));
        remaining.map_or(0, |remaining| u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX))
    }
}

fn clock_ttl(clock: Option<&LeaseClock>, token: Token) -> Option<Duration> {
    clock?.ttl(LeaseKey::Hold(token))
}

fn released(response: &mut v1::ReleaseResponse, reply: &Reply) {
    match reply {
        Reply::Released => response.set_outcome(v1::ReleaseOutcome::Released),
        Reply::StillHeld { open } => {
            response.set_outcome(v1::ReleaseOutcome::StillHeld);
            response.open_acquisitions = *open;
        }
        reply => {
            response.set_outcome(v1::ReleaseOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
}

fn finished(reply: &Reply) -> Finished {
    match reply {
        Reply::Finished(how) => *how,
        other => unreachable!("apply does not answer this command with {other:?}"),
    }
}

/// As many of the messages as fit, but at least one.
fn within_budget<M: prost::Message>(messages: impl Iterator<Item = M>, bytes_max: usize) -> Vec<M> {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for message in messages {
        bytes += message.encoded_len();
        if bytes > bytes_max && !kept.is_empty() {
            break;
        }
        kept.push(message);
    }
    kept
}

fn page(asked: u32, default: usize) -> usize {
    match usize::try_from(asked).unwrap_or(PAGE_MAX) {
        0 => default,
        asked => asked.min(PAGE_MAX),
    }
}

fn range_status(
    descriptor: &Descriptor,
    status: &ReplicaStatus,
    range: &LockRange,
) -> v1::RangeStatus {
    let counts = range.table().counts();
    v1::RangeStatus {
        range_id: descriptor.range.0,
        start: String::from_utf8_lossy(&descriptor.bounds.start).into_owned(),
        end: String::from_utf8_lossy(&descriptor.bounds.end).into_owned(),
        position: Some(v1::Position {
            range_id: descriptor.range.0,
            conf_ver: descriptor.epoch.conf_ver,
            version: descriptor.epoch.version,
            applied_index: status.applied,
        }),
        leader_store_id: status.leader.map_or(0, |store| store.0),
        term: status.term,
        commit_index: status.commit,
        flushed_index: status.flushed,
        log_first_index: status.log_first,
        state_hash: format!("{:016x}", status.state_hash),
        locks: counts.locks as u64,
        holds: counts.holds as u64,
        waiters: counts.waiters as u64,
        voter_store_ids: descriptor
            .replicas
            .iter()
            .filter(|replica| replica.role == sharklock_rangemap::Role::Voter)
            .map(|replica| replica.store.0)
            .collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        use std::fmt::Write as _;
        write!(text, "{byte:02x}").expect("a String grows as needed");
        text
    })
}
