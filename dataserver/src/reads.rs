//! Questions: what is read at an index and changes nothing. Keepalives, looks at locks, and the
//! description of the store.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use sharklock_locktable::{
    Acquisition, AskView, EndingView, HoldView, LockView, Name, Status, Token, WaiterView,
};
use sharklock_multiraft::{PeerProgress, ReplicaStatus, Store};
use sharklock_proto::{
    internal::v1::{self as internal, describe_store::Only, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Descriptor, Epoch, RangeId, StoreId};
use twox_hash::XxHash3_64;

use crate::{
    answers::{ANSWER_BYTES_MAX, Answers, HOLDERS_SHOWN, Replies, within_budget},
    attempts::Attempts,
    front::{Figures, Query, Read, ReplyTo},
    journal::{Journal, Page},
    lease_clock::{LeaseClock, LeaseKey},
    machine::LockRange,
    watching::{Watch, Watches},
    wire,
};

/// Holders shown of one lock that is looked at.
const HOLDERS_MAX: usize = 1_000;
/// Waiters shown of one lock when the question does not say.
const WAITERS_DEFAULT: u32 = 100;
/// Holders and waiters shown in the state of a lock that is watched.
const WATCH_SHOWN_MAX: u32 = 100;
/// Waiters or locks shown in one answer.
pub const SHOWN_MAX: u32 = 1_000;
/// Ranges in one description for routes: some 200 KiB.
pub const ROUTES_MAX: usize = 1_000;

/// What gateways and masters are told of a range: if none of it has changed, they know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Of its descriptor as applied here.
    pub epoch: Epoch,
    /// Of the replica.
    pub term: u64,
    /// Who leads in that term, as far as known; this store only once it answers.
    pub leader: Option<StoreId>,
    /// The rules that it follows.
    pub feature_level: u64,
}

impl Replies {
    /// What has changed of the ranges, as far as routes need it, since a gateway has `heard` of them.
    pub fn describe_routes(
        &mut self,
        to: ReplyTo,
        store: &Store<LockRange>,
        journal: &Journal<Word>,
        heard: u64,
    ) {
        let Page { since, upto, has_more, changes } = journal.since(heard, ROUTES_MAX);
        let ident = store.ident();
        let mut description = internal::StoreDescription {
            cluster_id: ident.cluster_id.to_string(),
            store: Some(v1::StoreStatus {
                store_id: ident.store.0,
                ident: ident.ident.to_string(),
                ..v1::StoreStatus::default()
            }),
            since,
            upto,
            has_more,
            ..internal::StoreDescription::default()
        };
        for (range, word) in changes {
            let Some((word, descriptor)) = word.zip(store.descriptor(range)) else {
                description.gone.push(range.0);
                continue;
            };
            description.descriptors.push(descriptor.into());
            description.ranges.push(v1::RangeStatus {
                range_id: range.0,
                leader_store_id: word.leader.map_or(0, |leader| leader.0),
                term: word.term,
                ..v1::RangeStatus::default()
            });
        }
        self.reply(to, Body::Describe(description));
    }

    /// The store and its ranges, or `only` one of them; `status` says what the core does not know,
    /// and `figures` what only the worker knows of a range.
    pub fn describe(
        &mut self,
        to: ReplyTo,
        store: &Store<LockRange>,
        status: &v1::StoreStatus,
        only: Option<Only>,
        figures: impl Fn(RangeId) -> Option<Figures>,
    ) {
        let ranges = match &only {
            None => store.ranges(),
            Some(Only::RangeId(range)) => vec![RangeId(*range)],
            Some(Only::Name(name)) => store.range_at(name.as_bytes()).into_iter().collect(),
        };
        let is_meant = |coming: &&Descriptor| match &only {
            None => true,
            Some(Only::RangeId(range)) => coming.range.0 == *range,
            Some(Only::Name(name)) => coming.bounds.contains(name.as_bytes()),
        };
        let coming = store.coming().filter(is_meant).map(coming);
        let described = |range: &RangeId| {
            let status = store.status(*range)?;
            let figures = figures(*range).unwrap_or_default();
            let unsplit = figures.unsplit.as_ref();
            let hot_name = unsplit.and_then(|it| Some(it.hot_name.as_ref()?.as_str().to_owned()));
            let peers = store.peers(*range).into_iter();
            let awaited = store.awaited_child(*range);
            Some(v1::RangeStatus {
                awaited_range_id: awaited.map_or(0, |it| it.child.0),
                log_bytes: awaited.map_or(0, |it| it.log_bytes),
                log_bytes_max: awaited.map_or(0, |it| it.log_bytes_max),
                replicas: peers.map(|peer| replica_status(peer, status.log_last)).collect(),
                state_bytes: figures.state_bytes,
                commands_per_second: figures.commands_per_second,
                splitting_at: figures.splitting_at,
                unsplit_because: unsplit.map(|it| it.because.clone()).unwrap_or_default(),
                hot_name: hot_name.unwrap_or_default(),
                ..range_status(store.descriptor(*range)?, &status, store.machine(*range)?)
            })
        };
        let description = internal::StoreDescription {
            cluster_id: store.ident().cluster_id.to_string(),
            store: Some(v1::StoreStatus {
                store_id: store.ident().store.0,
                ident: store.ident().ident.to_string(),
                lost_replicas: lost_replicas(store),
                behind_replicas: behind_replicas(store),
                ..status.clone()
            }),
            ranges: ranges.iter().filter_map(described).chain(coming).collect(),
            descriptors: ranges
                .iter()
                .filter_map(|range| store.descriptor(*range))
                .map(internal::RangeDescriptor::from)
                .collect(),
            ..internal::StoreDescription::default()
        };
        self.reply(to, Body::Describe(description));
    }
}

/// The replicas to which the store's disk counts as lost, each with why, for people.
pub fn lost_replicas(store: &Store<LockRange>) -> Vec<String> {
    store
        .lost()
        .map(|(range, why)| format!("its replica of range {range} is lost: {why}"))
        .collect()
}

/// The replicas that stay behind since this program does not know the rules of their ranges, each
/// with what it needs, for people.
pub fn behind_replicas(store: &Store<LockRange>) -> Vec<String> {
    store.behind().map(|(range, why)| format!("its replica of range {range}: {why}")).collect()
}

impl Answers<'_> {
    /// Answers a question that a ReadIndex round has cleared. It may have been admitted before the
    /// range lost names: of those this table says nothing, least of all that something is gone.
    pub fn read(
        &mut self,
        read: Read,
        clock: &mut LeaseClock,
        attempts: &mut Attempts,
        watches: &mut Watches,
    ) {
        if let Some(name) = self.left_by(&read.query) {
            return self.fail_moved(read.to, [&*name]);
        }
        let position = Some(self.position);
        let body = match read.query {
            Query::KeepAlive { caller, seq, asker, items } => {
                let (here, left): (Vec<_>, Vec<_>) =
                    items.into_iter().partition(|item| !self.has_left(&item.name));
                let answers: Vec<_> = here
                    .into_iter()
                    .filter_map(|item| {
                        let acquisition = caller.acquisition(item.acquisition_id);
                        let answer = self.keep_alive(item, acquisition, seq, clock)?;
                        let is_gone = answer.state() == v1::KeepAliveState::Gone;
                        (is_gone || attempts.may_tell(acquisition, asker)).then_some(answer)
                    })
                    .collect();
                if !answers.is_empty() {
                    let response = v1::KeepAliveResponse { answers };
                    self.replies.reply(read.to, Body::KeepAlive(response));
                }
                if !left.is_empty() {
                    // Its gateway asks for them where they are, and not only with their next renewal.
                    self.fail_moved(read.to, left.iter().map(|item| &*item.name));
                }
                return;
            }
            Query::CheckToken(request) => {
                let hold = self.table.hold(&request.name, Token(request.token));
                let fence_floor = hold.as_ref().map_or(0, |hold| hold.grant.fence_floor.0);
                let live = hold.is_some();
                Body::CheckToken(v1::CheckTokenResponse { position, live, fence_floor })
            }
            Query::GetLock(request) => {
                let waiters_max = match request.waiters_max {
                    0 => WAITERS_DEFAULT,
                    asked => asked.min(SHOWN_MAX),
                };
                let view = self.table.lock(&request.name, HOLDERS_MAX, waiters_max as usize);
                let lock = view.map(|view| self.lock_info(view, Some(clock)));
                Body::GetLock(v1::GetLockResponse { position, lock })
            }
            Query::ListRange(request) => Body::ListRange(self.list(&request, clock)),
            Query::WatchLock { request, has_waited } => {
                return self.watch(read.to, request, has_waited, clock, watches);
            }
            Query::ListSessions(after, request) => {
                Body::ListRangeSessions(self.sessions(after, &request))
            }
            Query::GetSession(session, request) => {
                Body::GetRangeSession(self.session(session, &request, clock))
            }
            Query::PlanRevocation(session, request) => {
                Body::RevokeRangeSession(self.would_revoke(session, &request, clock))
            }
            Query::RevokeNothing(_) => Body::RevokeRangeSession(self.nothing_revoked()),
        };
        self.replies.reply(read.to, body);
    }

    /// Answers with the state of a lock, unless its asker knows it: then the question waits.
    fn watch(
        &mut self,
        to: ReplyTo,
        request: v1::WatchLockRequest,
        has_waited: bool,
        clock: &LeaseClock,
        watches: &mut Watches,
    ) {
        let v1::WatchLockRequest { name, shown_max, state_tag } = request;
        let name = Name::from(name);
        let state = self.watched(&name, shown_max, Some(clock));
        if has_waited || state_tag != Some(state.state_tag) {
            return self.replies.reply(to, Body::WatchLock(state));
        }
        if !watches.has_room() {
            return self.replies.fail(to, wire::overloaded());
        }
        watches.wait(self.now, name, Watch { to, shown_max, known: state.state_tag });
    }

    /// Answers those who wait for a lock that has changed, and do not know what it is now.
    pub fn tell_watchers(&mut self, name: &Name, clock: &LeaseClock, watches: &mut Watches) {
        // The table may be behind a split that was applied in the same turn: there the lock would look
        // free. Who watches it is told to ask elsewhere (simulator, seed 114).
        if self.has_left(name.as_str()) {
            return;
        }
        // Mostly all want to be shown as much.
        let mut states = BTreeMap::new();
        let told = watches.take_answered(name, |watch| {
            let state = states
                .entry(watch.shown_max)
                .or_insert_with(|| self.watched(name, watch.shown_max, Some(clock)));
            state.state_tag != watch.known
        });
        for Watch { to, shown_max, .. } in told {
            self.replies.reply(to, Body::WatchLock(states[&shown_max].clone()));
        }
    }

    fn watched(
        &self,
        name: &Name,
        shown_max: u32,
        clock: Option<&LeaseClock>,
    ) -> v1::WatchLockResponse {
        let shown = match shown_max {
            0 => HOLDERS_SHOWN,
            asked => asked.min(WATCH_SHOWN_MAX) as usize,
        };
        let info =
            |clock| Some(self.lock_info(self.table.lock(name.as_str(), shown, shown)?, clock));
        // What is left of leases and delays is no state: without a clock it is 0.
        let bare: Option<v1::LockInfo> = info(None);
        let state_tag = bare.map_or(0, |lock| XxHash3_64::oneshot(&lock.encode_to_vec()).max(1));
        let position = v1::Position { applied_index: self.applied, ..self.position };
        v1::WatchLockResponse { position: Some(position), lock: info(clock), state_tag }
    }

    /// The name that a look is about which the range has lost since it was admitted.
    fn left_by(&self, query: &Query) -> Option<String> {
        let name = match query {
            // Item by item.
            Query::KeepAlive { .. } => return None,
            Query::CheckToken(request) => &request.name,
            Query::GetLock(request) => &request.name,
            Query::WatchLock { request, .. } => &request.name,
            // What follows its first name may have left: its answer says where the range ends now.
            Query::ListRange(request) => &request.from,
            Query::ListSessions(_, request) => &request.from,
            Query::GetSession(_, request) => &request.from,
            Query::PlanRevocation(_, request) | Query::RevokeNothing(request) => &request.from,
        };
        self.has_left(name).then(|| name.clone())
    }

    /// None while its end is pending: whatever is said now could be wrong a moment later (D7).
    fn keep_alive(
        &self,
        item: v1::KeepAliveItem,
        acquisition: Acquisition,
        seq: u64,
        clock: &mut LeaseClock,
    ) -> Option<v1::KeepAliveAnswer> {
        let mut answer = v1::KeepAliveAnswer {
            acquisition_id: item.acquisition_id,
            seq,
            position: Some(self.position),
            ..v1::KeepAliveAnswer::default()
        };
        match self.table.status(&item.name, acquisition) {
            Status::Held { grant, ending, asked } => {
                if clock.is_pending(LeaseKey::Hold(grant.token)) {
                    return None;
                }
                clock.tell(grant.token);
                answer.token = grant.token.0;
                answer.fence_floor = grant.fence_floor.0;
                match ending {
                    Some(EndingView { reason, how }) => {
                        answer.set_state(v1::KeepAliveState::Ending);
                        answer.set_gone_reason(wire::gone_reason(how));
                        answer.ending_reason = reason;
                    }
                    None => {
                        answer.set_state(v1::KeepAliveState::Held);
                        let mark = |asked| self.ask_mark(grant.token, asked, Some(clock));
                        answer.asked = asked.map(mark);
                    }
                }
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

    fn list(&self, request: &internal::ListRange, clock: &LeaseClock) -> internal::RangeLocks {
        let internal::ListRange { prefix, from, locks_max, bytes_max } = request;
        let locks_max = (*locks_max).clamp(1, SHOWN_MAX) as usize;
        let bytes_max = (*bytes_max as usize).min(ANSWER_BYTES_MAX);
        // One more shows whether there is more.
        let views = self.table.locks(prefix, from, locks_max + 1, HOLDERS_SHOWN, HOLDERS_SHOWN);
        let found = views.len();
        let views = views.into_iter().take(locks_max);
        let locks = within_budget(views.map(|view| self.lock_info(view, Some(clock))), bytes_max);
        let has_more = locks.len() < found;
        internal::RangeLocks { position: Some(self.position), locks, has_more, end: self.end() }
    }

    /// First name after the range, where the table stands; empty: no end.
    pub fn end(&self) -> String {
        let end = std::str::from_utf8(&self.descriptor.bounds.end);
        end.expect("a range is cut at a text").to_owned()
    }

    fn lock_info(&self, view: LockView, clock: Option<&LeaseClock>) -> v1::LockInfo {
        let mut info = wire::lock_info(&view);
        info.retry_after_ms = self.retry_after_ms(&view, clock);
        let holders = view.holds.into_iter().map(|hold| self.holder(hold, clock));
        info.holders = within_budget(holders, ANSWER_BYTES_MAX / 2);
        let waiters = view.waiters.into_iter().map(|waiter| self.waiter(waiter, clock));
        info.waiters = within_budget(waiters, ANSWER_BYTES_MAX / 2);
        info
    }

    /// How long the last of the lock-delays that run still lasts; 0 where none runs.
    pub fn retry_after_ms(&self, view: &LockView, clock: Option<&LeaseClock>) -> u64 {
        let left = view.delays.iter().map(|delay| {
            let left = clock?.delay_left(self.now, delay.token, delay.delay_ms);
            // Its end is on its way through the log, or this replica does not lead.
            Some(left.map_or(1, |left| whole_ms(left).max(1)))
        });
        left.flatten().max().unwrap_or(0)
    }

    pub fn holder(&self, hold: HoldView, clock: Option<&LeaseClock>) -> v1::Holder {
        let attributes = hold.owner.attributes.iter().cloned().collect();
        v1::Holder { attributes, ..self.holder_in_short(hold, clock) }
    }

    /// A hold for people, without what its client said of itself at length: an answer to somebody who
    /// only tried must be cheap, and `GetLock` shows the rest.
    pub fn holder_in_short(&self, mut hold: HoldView, clock: Option<&LeaseClock>) -> v1::Holder {
        let remaining = self.remaining_of(&hold, clock);
        let mark = hold.asked.take().map(|asked| self.ask_mark(hold.grant.token, asked, clock));
        v1::Holder { asked: mark, ..wire::holder_in_short(hold, remaining) }
    }

    /// Of a hold, with what is left of its grace.
    pub fn ask_mark(
        &self,
        token: Token,
        asked: AskView,
        clock: Option<&LeaseClock>,
    ) -> v1::AskMark {
        let left = clock.and_then(|clock| clock.grace_left(self.now, token, asked.grace_ms));
        wire::ask_mark(asked, left.map_or(0, whole_ms))
    }

    fn remaining_of(&self, hold: &HoldView, clock: Option<&LeaseClock>) -> u64 {
        // An orphan has no lease.
        let clock = clock.filter(|_| !hold.orphaned);
        self.remaining(LeaseKey::Hold(hold.grant.token), hold.grant.ttl_ms, clock)
    }

    pub fn waiter(&self, waiter: WaiterView, clock: Option<&LeaseClock>) -> v1::Holder {
        let key = LeaseKey::Waiter(waiter.acquisition);
        let remaining = self.remaining(key, waiter.ttl_ms, clock);
        wire::waiter(waiter, remaining)
    }

    fn remaining(&self, key: LeaseKey, ttl_ms: u64, clock: Option<&LeaseClock>) -> u64 {
        let remaining = clock.and_then(|clock| clock.remaining(self.now, key, ttl_ms));
        remaining.map_or(0, whole_ms)
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn replica_status(peer: PeerProgress, log_last: u64) -> v1::ReplicaStatus {
    v1::ReplicaStatus {
        store_id: peer.store.0,
        peer_id: peer.peer.0,
        is_voter: peer.is_voter,
        is_leader: peer.is_leader,
        lag: log_last.saturating_sub(peer.matched),
        is_active: peer.is_active,
        in_snapshot: peer.in_snapshot,
        is_new: peer.is_new,
    }
}

fn range_status(
    descriptor: &Descriptor,
    status: &ReplicaStatus,
    range: &LockRange,
) -> v1::RangeStatus {
    let counts = range.table().counts();
    v1::RangeStatus {
        position: Some(wire::position(descriptor, status.applied)),
        leader_store_id: status.leader.map_or(0, |store| store.0),
        term: status.term,
        commit_index: status.commit,
        flushed_index: status.flushed,
        log_first_index: status.log_first,
        state_hash: format!("{:016x}", status.state_hash),
        locks: counts.locks as u64,
        holds: counts.holds as u64,
        waiters: counts.waiters as u64,
        ..coming(descriptor)
    }
}

/// A range of which nothing but the descriptor is here yet: the child of a split that has just been
/// applied. Whoever lists all ranges would lack its names.
fn coming(descriptor: &Descriptor) -> v1::RangeStatus {
    let Descriptor { range, bounds, .. } = descriptor;
    v1::RangeStatus {
        range_id: range.0,
        start: String::from_utf8_lossy(&bounds.start).into_owned(),
        end: String::from_utf8_lossy(&bounds.end).into_owned(),
        position: Some(wire::position(descriptor, 0)),
        voter_store_ids: descriptor.voters().map(|replica| replica.store.0).collect(),
        ..v1::RangeStatus::default()
    }
}
