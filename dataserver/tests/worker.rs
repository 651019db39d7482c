//! A worker on a simulated disk, in virtual time: what leases, waits and restarts do, without a
//! thread, a socket or a clock.

use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, Observed, Outputs, Pace, Worker};
use sharklock_multiraft::{Config, Disk, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        self as internal, RangeLocks, StoreCall, StoreReply, WithdrawAcquire, store_call,
        store_error, store_reply,
    },
    trace::{Note, TraceContext},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
const STREAM: u64 = 77;
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// One worker, its disk, and what it has said.
struct Rig {
    worker: Worker,
    disk: SimDisk,
    now: Duration,
    next_tag: u64,
    replies: Vec<StoreReply>,
    /// Of each turn.
    observed: Vec<Observed>,
}

impl Rig {
    fn new() -> Self {
        Self::over(Bounds::ALL)
    }

    /// One whose range has these names only.
    fn over(bounds: Bounds) -> Self {
        let store = StoreId(1);
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store,
            ident: Identity::from_bytes([2; 16]),
        };
        let first = Descriptor {
            range: RangeId(1),
            bounds,
            epoch: Epoch { version: 1, conf_ver: 1 },
            replicas: vec![Replica { peer: PeerId(1), store, role: Role::Voter }],
        };
        let mut disk = SimDisk::default();
        disk.write(&bootstrap(&ident, &first), true).expect("a fresh disk");
        let mut rig = Self::on(disk, Duration::ZERO);
        rig.settle();
        assert!(rig.worker.leads_all(), "a single voter leads at once");
        rig
    }

    fn on(disk: SimDisk, now: Duration) -> Self {
        let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
        let worker = Worker::new(now, store, Pace::default()).with_traces(true);
        let (replies, observed) = (Vec::new(), Vec::new());
        Self { worker, disk, now, next_tag: 1, replies, observed }
    }

    /// Turns until the disk has nothing more to do.
    fn settle(&mut self) {
        loop {
            let outputs = self.turn();
            let Some(batch) = outputs.batch else {
                match self.worker.commands_due() {
                    Some(Duration::ZERO) => continue,
                    _ => return,
                }
            };
            self.disk.write(&batch.ops, true).expect("no fault was asked for");
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn turn(&mut self) -> Outputs {
        let mut outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
        for (link, replies) in std::mem::take(&mut outputs.replies) {
            assert_eq!(link, LINK);
            self.replies.extend(replies);
        }
        self.observed.push(std::mem::take(&mut outputs.observed));
        outputs
    }

    /// Lets time pass in steps of a tick, as the driver does.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(100)).min(until);
            self.settle();
        }
    }

    /// Power cut and restart.
    fn crash(&mut self) {
        self.disk.crash();
        let mut rig = Self::on(self.disk.clone(), self.now);
        rig.next_tag = self.next_tag;
        rig.settle();
        *self = rig;
    }

    fn call(&mut self, session: u8, body: store_call::Body) -> u64 {
        self.call_by(0, session, body)
    }

    /// A call that the unary Acquire `asker` makes; 0 for another's.
    fn call_by(&mut self, asker: u64, session: u8, body: store_call::Body) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            session: vec![session; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: STREAM,
            asker,
            body: Some(body),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        tag
    }

    fn answer(&mut self, tag: u64) -> store_reply::Body {
        let at = self.replies.iter().position(|reply| reply.tag == tag);
        let at = at.unwrap_or_else(|| panic!("no answer to {tag}: {:?}", self.replies));
        self.replies.remove(at).body.expect("an answer says something")
    }

    fn acquire(&mut self, session: u8, id: u64, wait_ms: Option<u64>) -> v1::AcquireResponse {
        let tag = self.call(session, acquire(id, wait_ms));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::Acquire(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, session: u8, id: u64, token: u64) -> v1::ReleaseResponse {
        let request = v1::ReleaseRequest {
            name: "a".into(),
            token,
            acquisition_id: id,
            ..v1::ReleaseRequest::default()
        };
        let tag = self.call(session, store_call::Body::Release(request));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::Release(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn keep_alive(&mut self, session: u8, id: u64) -> v1::KeepAliveAnswer {
        let items = vec![v1::KeepAliveItem { name: "a".into(), acquisition_id: id }];
        let request = v1::KeepAliveRequest { seq: 900, items, ..v1::KeepAliveRequest::default() };
        let tag = self.call(session, store_call::Body::KeepAlive(request));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::KeepAlive(response) => response.answers[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    fn force_release(&mut self, now: bool) -> v1::ForceReleaseResponse {
        let request = v1::ForceReleaseRequest {
            name: "a".into(),
            reason: "stuck".into(),
            now,
            ..v1::ForceReleaseRequest::default()
        };
        let tag = self.call(0, store_call::Body::ForceRelease(request));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::ForceRelease(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn events(&mut self) -> Vec<v1::AcquisitionEvent> {
        let mut events = Vec::new();
        self.replies.retain(|reply| match &reply.body {
            Some(store_reply::Body::Event(event)) => {
                assert_eq!((reply.tag, reply.stream), (0, STREAM));
                events.push(event.clone());
                false
            }
            _ => true,
        });
        events
    }
}

/// The caller of the unary Acquire that asked for `id` goes away.
fn withdraw(id: u64, gives_up: bool) -> store_call::Body {
    let name = "a".to_owned();
    store_call::Body::Withdraw(WithdrawAcquire { name, acquisition_id: id, gives_up })
}

fn acquire(id: u64, wait_ms: Option<u64>) -> store_call::Body {
    let mut request = v1::AcquireRequest {
        acquisition_id: id,
        seq: 500 + id,
        name: "a".into(),
        ttl_ms: Some(10_000),
        wait_ms,
        owner_id: format!("owner-{id}"),
        ..v1::AcquireRequest::default()
    };
    request.set_mode(v1::LockMode::Exclusive);
    store_call::Body::Acquire(request)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_grant_is_answered_only_after_its_entry_is_durable() {
    let mut rig = Rig::new();
    let tag = rig.call(1, acquire(1, None));
    let batch = rig.turn().batch.expect("the entry goes to the disk");
    rig.turn();
    assert!(rig.replies.is_empty(), "answered before the sync: {:?}", rig.replies);
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    rig.worker.handle(rig.now, Input::Persisted(batch.seq));
    rig.settle();
    let store_reply::Body::Acquire(response) = rig.answer(tag) else { panic!("not an acquire") };
    assert_eq!(response.outcome(), v1::AcquireOutcome::Granted);
    assert_eq!((response.seq, response.token), (501, response.fence_floor));
}

#[test]
fn commands_that_come_while_the_disk_is_busy_share_one_entry() {
    let mut rig = Rig::new();
    let before = rig.worker.stats().entries;
    rig.call(1, acquire(1, None));
    let batch = rig.turn().batch.expect("the first entry");
    for session in 2..=20 {
        rig.call(session, acquire(1, None));
        assert!(rig.turn().batch.is_none(), "one batch at a time");
    }
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    rig.worker.handle(rig.now, Input::Persisted(batch.seq));
    rig.settle();
    assert_eq!(rig.worker.stats().entries - before, 2);
    assert_eq!(rig.replies.len(), 20);
}

#[test]
fn a_waiter_is_told_its_place_and_pushed_its_grant() {
    let mut rig = Rig::new();
    let first = rig.acquire(1, 1, None);
    let second = rig.acquire(2, 1, None);
    assert_eq!(second.outcome(), v1::AcquireOutcome::Queued);
    assert_eq!((second.place, second.waiters), (1, 1));
    assert_eq!(second.holders[0].owner_id, "owner-1");
    assert_eq!(second.holders[0].token, first.token);
    let refused = rig.acquire(3, 1, Some(0));
    assert_eq!(refused.outcome(), v1::AcquireOutcome::HeldByOther);
    let released = rig.release(1, 1, first.token);
    assert_eq!(released.outcome(), v1::ReleaseOutcome::Released);
    let events = rig.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind(), v1::AcquisitionEventKind::Granted);
    assert!(events[0].token > first.token);
}

#[test]
fn an_unrenewed_hold_ends_after_its_ttl_with_drift_and_the_next_waiter_gets_it() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    for _ in 0..3 {
        rig.pass(3 * SECOND);
        assert_eq!(rig.keep_alive(2, 1).state(), v1::KeepAliveState::Waiting);
    }
    rig.pass(SECOND);
    assert_eq!(rig.events(), vec![], "10.0 s have passed, 10.1 s are due");
    rig.pass(Duration::from_millis(200));
    let events = rig.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(events[0].gone_reason(), v1::GoneReason::Expired);
    assert_eq!(events[1].kind(), v1::AcquisitionEventKind::Granted);
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Gone);
    assert_eq!(rig.keep_alive(2, 1).state(), v1::KeepAliveState::Held);
}

#[test]
fn a_wait_times_out_and_is_provably_over() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.acquire(2, 1, Some(2_000));
    rig.pass(Duration::from_millis(2_100));
    let events = rig.events();
    assert_eq!(events[0].gone_reason(), v1::GoneReason::WaitTimedOut);
    rig.release(1, 1, held.token);
    assert_eq!(rig.events(), vec![], "nobody is granted what nobody waits for");
    let late = rig.acquire(2, 1, Some(2_000));
    assert_eq!(late.outcome(), v1::AcquireOutcome::WaitTimedOut, "a late duplicate finds its end");
}

#[test]
fn a_power_cut_keeps_every_answered_grant_and_gives_it_its_full_lease() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    rig.pass(9 * SECOND);
    rig.crash();
    assert_eq!(rig.keep_alive(2, 1).state(), v1::KeepAliveState::Waiting);
    rig.pass(5 * SECOND);
    assert_eq!(rig.keep_alive(2, 1).state(), v1::KeepAliveState::Waiting);
    // The dead holder's lease ends 10.1 s + 2 s after the restart.
    rig.pass(Duration::from_millis(7_000));
    assert_eq!(rig.keep_alive(2, 1).state(), v1::KeepAliveState::Waiting);
    rig.pass(Duration::from_millis(300));
    let granted = rig.keep_alive(2, 1);
    assert_eq!(granted.state(), v1::KeepAliveState::Held);
    assert!(granted.token > held.token);
}

#[test]
fn tokens_grow_over_restarts_even_when_every_lock_is_long_free() {
    let mut rig = Rig::new();
    let mut last = 0;
    for round in 1..=5 {
        let granted = rig.acquire(1, round, None);
        assert!(granted.token > last, "{} after {last}", granted.token);
        last = granted.token;
        rig.release(1, round, last);
        if round % 2 == 0 {
            rig.pass(SECOND);
        }
        rig.crash();
    }
}

#[test]
fn a_forced_release_waits_for_the_holder_or_its_lease() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    let forced = rig.force_release(false);
    assert!(!forced.ended);
    assert_eq!(forced.holders[0].token, held.token);
    let events = rig.events();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0].kind(), v1::AcquisitionEventKind::Ending);
    assert_eq!(events[0].ending_reason, "stuck");
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Ending);
    // The holder lets go: its release is the acknowledgement.
    rig.release(1, 1, held.token);
    assert_eq!(rig.events()[0].kind(), v1::AcquisitionEventKind::Granted);
}

/// Hole 12: from Ending on nothing renews, nor does a late duplicate of the acquire.
#[test]
fn a_duplicate_acquire_of_an_ending_hold_is_not_told_that_it_holds() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    rig.force_release(false);
    rig.pass(5 * SECOND);
    let duplicate = rig.acquire(1, 1, None);
    assert_eq!(duplicate.outcome(), v1::AcquireOutcome::Gone);
    assert_eq!(duplicate.gone_reason(), v1::GoneReason::ForceReleased);
    rig.events();
    rig.pass(Duration::from_millis(5_200));
    assert_eq!(rig.acquire(2, 1, Some(0)).outcome(), v1::AcquireOutcome::Granted);
}

#[test]
fn a_forced_release_of_a_silent_holder_takes_its_whole_lease() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    rig.pass(5 * SECOND);
    rig.force_release(false);
    rig.events();
    rig.pass(10 * SECOND);
    assert_eq!(rig.events(), vec![]);
    rig.pass(Duration::from_millis(200));
    assert_eq!(rig.events()[0].gone_reason(), v1::GoneReason::ForceReleased);
}

#[test]
fn a_forced_release_with_now_ends_the_hold_at_once() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    assert!(rig.force_release(true).ended);
    let told = rig.events().remove(0);
    assert_eq!(
        (told.gone_reason(), told.ending_reason.as_str()),
        (v1::GoneReason::ForceReleased, "stuck"),
    );
    assert!(rig.force_release(false).holders.is_empty());
}

#[test]
fn a_keepalive_that_was_long_on_its_way_renews_nothing() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    rig.pass(8 * SECOND);
    let items = vec![v1::KeepAliveItem { name: "a".into(), acquisition_id: 1 }];
    let request = v1::KeepAliveRequest { seq: 9, items, ..v1::KeepAliveRequest::default() };
    let call = StoreCall {
        tag: 999,
        age_ms: 3_400,
        session: vec![1; 16].into(),
        instance: 1,
        body: Some(store_call::Body::KeepAlive(request)),
        ..StoreCall::default()
    };
    let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
    rig.worker.handle(rig.now, input);
    rig.settle();
    assert!(rig.replies.is_empty(), "nothing may be said for it");
    rig.pass(Duration::from_millis(2_200));
    assert_eq!(rig.events()[0].gone_reason(), v1::GoneReason::Expired);
}

/// The waiter was silent past its lease while the release before it was on its way to the disk;
/// it comes back while its expiry is queued, is granted first, and its acquire is answered behind
/// the expiry that apply refused.
#[test]
fn a_waiter_that_comes_back_while_its_expiry_is_pending_keeps_what_it_is_told() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    rig.acquire(3, 1, None);
    for _ in 0..3 {
        rig.pass(3 * SECOND);
        rig.keep_alive(1, 1);
        rig.keep_alive(3, 1);
    }
    rig.pass(SECOND);
    let request = v1::ReleaseRequest {
        name: "a".into(),
        token: held.token,
        acquisition_id: 1,
        ..v1::ReleaseRequest::default()
    };
    rig.call(1, store_call::Body::Release(request));
    let batch = rig.turn().batch.expect("the release goes to the disk");
    rig.now += Duration::from_millis(200);
    rig.turn();
    let told = rig.now;
    let tag = rig.call(2, acquire(1, None));
    rig.turn();
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    rig.worker.handle(rig.now, Input::Persisted(batch.seq));
    rig.settle();
    let store_reply::Body::Acquire(response) = rig.answer(tag) else { panic!("not an acquire") };
    assert_eq!(response.outcome(), v1::AcquireOutcome::Granted);
    rig.keep_alive(3, 1);
    rig.events();
    for _ in 0..3 {
        rig.pass(3 * SECOND);
        rig.keep_alive(3, 1);
    }
    rig.pass(told + Duration::from_millis(9_900) - rig.now);
    assert_eq!(rig.events(), vec![], "it was told that it holds for 9.9 s");
    rig.pass(Duration::from_millis(300));
    assert_eq!(rig.events()[0].gone_reason(), v1::GoneReason::Expired);
}

#[test]
fn a_flood_of_looks_is_answered_a_few_at_a_time() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    let look =
        || store_call::Body::GetLock(v1::GetLockRequest { name: "a".into(), waiters_max: 1_000 });
    for _ in 0..1_100 {
        rig.call(9, look());
    }
    rig.turn();
    let refused = rig.replies.iter().filter(|reply| is_overloaded(reply)).count();
    assert_eq!(refused, 1_100 - 1_024);
    assert!(rig.replies.len() < refused + 20, "only a few were answered in the first turn");
    assert_eq!(rig.worker.next_wakeup(), Duration::ZERO, "the others come without delay");
    let answered = rig.replies.len();
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Held);
    assert!(rig.replies.len() < answered + 50, "the keepalive did not wait for them");
    while rig.worker.next_wakeup().is_zero() {
        rig.turn();
    }
    assert_eq!(rig.replies.len(), 1_100);
}

fn is_overloaded(reply: &StoreReply) -> bool {
    let Some(store_reply::Body::Error(error)) = &reply.body else { return false };
    matches!(error.kind, Some(store_error::Kind::Overloaded(_)))
}

/// Commands that do not fit into one entry wait for the next; nothing is lost.
#[test]
fn more_than_an_entry_holds_goes_into_several() {
    let mut rig = Rig::new();
    let before = rig.worker.stats().entries;
    for session in 1..=100 {
        for id in 1..=10 {
            let store_call::Body::Acquire(mut request) = acquire(id, None) else { panic!() };
            request.attributes.insert("k".into(), "v".repeat(4_000));
            rig.call(session, store_call::Body::Acquire(request));
        }
    }
    rig.settle();
    assert_eq!(rig.replies.len(), 1_000);
    assert!(rig.worker.stats().entries - before >= 4);
}

#[test]
fn a_stalled_loop_expires_nobody_before_it_has_heard_them() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    // The process is paused for 15 s; the keepalive stood in its mailbox.
    rig.now += 15 * SECOND;
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Held);
    rig.pass(9 * SECOND);
    assert_eq!(rig.events(), vec![]);
    // Without one, the hold lives on by its credit and ends all the same.
    rig.now += 15 * SECOND;
    rig.settle();
    assert_eq!(rig.events(), vec![]);
    rig.pass(11 * SECOND);
    assert_eq!(rig.events().len(), 1);
}

/// Loop and disk stand still at the same time when the process does: that is one stall.
#[test]
fn what_loop_and_disk_stand_still_together_is_credited_once() {
    let mut rig = Rig::new();
    rig.call(1, acquire(1, None));
    let batch = rig.turn().batch.expect("the entry");
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    rig.now += 8 * SECOND;
    rig.worker.handle(rig.now, Input::Persisted(batch.seq));
    rig.settle();
    assert_eq!(rig.worker.stats().stalls, 1);
}

#[test]
fn a_call_routed_by_an_old_map_is_told_the_new_one() {
    let mut rig = Rig::new();
    let call = StoreCall {
        tag: 5,
        range_id: 1,
        version: 9,
        session: vec![1; 16].into(),
        instance: 1,
        body: Some(acquire(1, None)),
        ..StoreCall::default()
    };
    let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
    rig.worker.handle(rig.now, input);
    rig.settle();
    let store_reply::Body::Error(error) = rig.answer(5) else { panic!("not an error") };
    let Some(store_error::Kind::EpochNotMatch(epoch)) = error.kind else { panic!("{error:?}") };
    assert_eq!(epoch.descriptors[0].version, 1);
}

impl Rig {
    /// The part of a list that the range gives; none if it is another's.
    fn listed(&mut self, range_id: u64, request: internal::ListRange) -> Option<RangeLocks> {
        let tag = self.next_tag;
        self.next_tag += 1;
        let body = Some(store_call::Body::ListRange(request));
        let call = StoreCall { tag, range_id, version: 1, body, ..StoreCall::default() };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        self.settle();
        match self.answer(tag) {
            store_reply::Body::ListRange(part) => Some(part),
            store_reply::Body::Error(error) => {
                let kind = error.kind.expect("an error has its kind");
                assert!(matches!(kind, store_error::Kind::EpochNotMatch(_)), "{kind:?}");
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

fn list_range(prefix: &str, from: &str) -> internal::ListRange {
    let (prefix, from) = (prefix.to_owned(), from.to_owned());
    internal::ListRange { prefix, from, locks_max: 1_000, bytes_max: 1 << 20 }
}

/// A range that lacks the first name of a part would take that for the end of the list.
#[test]
fn a_part_of_a_list_is_for_the_range_of_its_first_name() {
    let mut rig = Rig::over(Bounds { start: b"g".to_vec(), end: b"p".to_vec() });
    // Routed by who knows the range, and by who does not.
    for range_id in [1, 0] {
        let mut is_answered = |from| rig.listed(range_id, list_range("", from)).is_some();
        assert!(is_answered("g") && is_answered("h\0") && is_answered("o"));
        assert!(!is_answered(""), "the first part of all locks is the first range's");
        assert!(!is_answered("p"), "it begins where the next range does");
    }
}

#[test]
fn a_part_of_a_list_says_whether_there_is_more_and_where_its_range_ends() {
    let mut rig = Rig::over(Bounds { start: b"g".to_vec(), end: b"p".to_vec() });
    for (session, name) in [(1, "ga"), (2, "gb"), (3, "gc"), (4, "o")] {
        let store_call::Body::Acquire(request) = acquire(1, None) else { unreachable!() };
        let name = name.to_owned();
        rig.call(session, store_call::Body::Acquire(v1::AcquireRequest { name, ..request }));
        rig.settle();
    }
    let mut listed = |request| {
        let part = rig.listed(1, request).expect("it is this range's");
        let names = part.locks.iter().map(|lock| lock.name.as_str()).collect::<Vec<_>>();
        (names.join(" "), part.has_more, part.end)
    };
    let shown = |names: &str, has_more| (names.to_owned(), has_more, "p".to_owned());
    assert_eq!(listed(list_range("", "g")), shown("ga gb gc o", false));
    assert_eq!(listed(list_range("g", "ga\0")), shown("gb gc", false), "behind a name");
    assert_eq!(listed(list_range("z", "g")), shown("", false));
    let mut of = |locks_max, bytes_max, from| {
        listed(internal::ListRange { locks_max, bytes_max, ..list_range("g", from) })
    };
    assert_eq!(of(2, 1 << 20, "g"), shown("ga gb", true));
    assert_eq!(of(2, 1 << 20, "gb"), shown("gb gc", false), "exactly as many as there are");
    assert_eq!(of(0, 1 << 20, "g"), shown("ga", true), "never more without one");
    assert_eq!(of(9, 1, "g"), shown("ga", true), "nor where no byte is left");
}

#[test]
fn a_retried_acquire_is_one_acquisition_over_a_crash() {
    let mut rig = Rig::new();
    let tag = rig.call(1, acquire(1, None));
    let batch = rig.turn().batch.expect("the entry");
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    rig.crash();
    assert!(rig.replies.iter().all(|reply| reply.tag != tag), "replay answers nobody");
    let first = rig.acquire(1, 1, None);
    let again = rig.acquire(1, 1, None);
    assert_eq!(first.outcome(), v1::AcquireOutcome::Granted);
    assert_eq!(first.token, again.token);
}

/// So many cancels, each of another session: they make nothing but ended acquisitions.
fn flood(rig: &mut Rig, count: u64) {
    for first in (0..count).step_by(10_000) {
        let calls = (first..first + 10_000).map(|number| {
            let request = v1::CancelRequest {
                name: "b".into(),
                acquisition_id: 1,
                ..v1::CancelRequest::default()
            };
            StoreCall {
                tag: 1 << 40,
                session: [number.to_be_bytes(), [7; 8]].concat().into(),
                instance: 1,
                body: Some(store_call::Body::Cancel(request)),
                ..StoreCall::default()
            }
        });
        let calls = calls.collect();
        rig.worker.handle(rig.now, Input::Calls { link: LINK, queued: Duration::ZERO, calls });
        rig.pass(Duration::from_millis(1));
        rig.replies.clear();
    }
}

/// The first arrival of a try is refused, and a copy of it comes when the lock is free and the ring has
/// forgotten the refusal: as it is after two seconds of 30,000 in each.
#[test]
fn a_duplicate_is_not_granted_when_the_ring_has_forgotten_the_first() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    assert_eq!(rig.acquire(2, 7, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
    flood(&mut rig, 70_000);
    rig.release(1, 1, held.token);
    let again = rig.acquire(2, 7, Some(0));
    assert_eq!(again.outcome(), v1::AcquireOutcome::Gone);
    assert_eq!(again.gone_reason(), v1::GoneReason::Unknown);
    assert_eq!(rig.acquire(2, 8, Some(0)).outcome(), v1::AcquireOutcome::Granted);
}

impl Rig {
    /// The answer to a try that was on its way for so long.
    fn aged_try(&mut self, id: u64, age_ms: u64) -> store_reply::Body {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            age_ms,
            session: vec![2; 16].into(),
            instance: 1,
            body: Some(acquire(id, Some(0))),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        self.settle();
        self.answer(tag)
    }

    fn is_indeterminate(&mut self, id: u64, age_ms: u64) -> bool {
        let store_reply::Body::Error(error) = self.aged_try(id, age_ms) else { return false };
        matches!(error.kind, Some(store_error::Kind::Indeterminate(_)))
    }
}

/// As above, but so much has ended meanwhile that the range has forgotten of this one that it has.
#[test]
fn what_may_be_a_forgotten_duplicate_is_not_done_and_asking_again_is_answered() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    assert_eq!(rig.acquire(2, 7, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
    flood(&mut rig, 150_000);
    rig.release(1, 1, held.token);
    assert!(rig.is_indeterminate(7, 500), "the copy");
    // A new leader knows less of ages, and doubts no less.
    rig.worker.flush();
    rig.settle();
    rig.crash();
    assert!(rig.is_indeterminate(7, 500), "the copy");
    assert!(rig.is_indeterminate(8, 500), "another that could be one");
    rig.pass(2 * SECOND);
    assert!(rig.is_indeterminate(8, 2_500));
    assert!(!rig.is_indeterminate(8, 0), "asked again");
    let store_reply::Body::Acquire(answer) = rig.aged_try(8, 10_000) else { panic!("an error") };
    assert_eq!(answer.outcome(), v1::AcquireOutcome::Granted, "what is known has no age");
}

/// Nothing remains of what has ended (R1), and then the range is silent.
#[test]
fn an_idle_range_forgets_what_has_ended() {
    let mut rig = Rig::new();
    let table = |rig: &Rig| {
        let table = rig.worker.store().machine(RangeId(1)).expect("it is there").table();
        (table.ended_bytes(), table.counts().finished)
    };
    let held = rig.acquire(1, 1, None);
    rig.release(1, 1, held.token);
    rig.pass(34 * SECOND);
    assert_ne!(table(&rig), (0, 0), "a copy may still come");
    rig.pass(2 * SECOND);
    assert_eq!(table(&rig), (0, 0));
    let entries = rig.worker.stats().entries;
    rig.pass(100 * SECOND);
    assert_eq!(rig.worker.stats().entries, entries, "an idle range writes nothing");
}

/// Requests lay unread while the process stood still, and nobody counted their age.
#[test]
fn a_stalled_leader_forgets_nothing() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    assert_eq!(rig.acquire(2, 7, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
    rig.release(1, 1, held.token);
    rig.now += 60 * SECOND;
    assert_eq!(rig.acquire(2, 7, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
    rig.settle();
    assert_eq!(rig.acquire(2, 7, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
}

/// One unary Acquire and its end, in all the places where the end may find it.
#[test]
fn a_unary_acquire_whose_caller_goes_away_leaves_no_ghost() {
    // Before its command is proposed, on its way to the disk, in the queue.
    for settled in [0, 1, 2] {
        let mut rig = Rig::new();
        let held = rig.acquire(1, 1, None);
        rig.call_by(7, 2, acquire(2, None));
        match settled {
            0 => {}
            1 => {
                let batch = rig.turn().batch.expect("the entry goes to the disk");
                rig.call_by(7, 2, withdraw(2, true));
                rig.disk.write(&batch.ops, true).expect("no fault was asked for");
                rig.worker.handle(rig.now, Input::Persisted(batch.seq));
            }
            _ => rig.settle(),
        }
        rig.call_by(7, 2, withdraw(2, true));
        rig.settle();
        assert_eq!(rig.worker.stats().withdrawals, 1, "{settled}");
        rig.release(1, 1, held.token);
        assert_eq!(rig.events(), vec![], "nobody is told who has gone");
        let next = rig.acquire(3, 3, Some(0));
        assert_eq!(next.outcome(), v1::AcquireOutcome::Granted, "{settled}");
        let again = rig.acquire(2, 2, None);
        assert_eq!(again.gone_reason(), v1::GoneReason::Cancelled);
    }
}

/// It was granted, and the answer never reached the caller.
#[test]
fn a_grant_that_was_never_delivered_is_given_back() {
    let mut rig = Rig::new();
    rig.call_by(7, 1, acquire(1, None));
    rig.settle();
    rig.call_by(7, 1, withdraw(1, true));
    rig.settle();
    assert_eq!(rig.acquire(2, 2, Some(0)).outcome(), v1::AcquireOutcome::Granted);
}

/// The first call runs into its deadline, the second has been answered, by another gateway or the
/// same one; in whichever order their messages arrive.
#[test]
fn a_hold_of_which_another_attempt_was_told_outlives_the_one_that_is_withdrawn() {
    for withdrawn in [7, 8] {
        let mut rig = Rig::new();
        rig.call_by(7, 1, acquire(1, None));
        rig.call_by(8, 1, acquire(1, None));
        rig.call_by(withdrawn, 1, withdraw(1, true));
        rig.settle();
        assert_eq!(rig.worker.stats().withdrawals, 0);
        assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Held);
        assert_eq!(rig.acquire(2, 2, Some(0)).outcome(), v1::AcquireOutcome::HeldByOther);
    }
}

#[test]
fn what_a_session_stream_or_a_keepalive_was_told_of_is_not_withdrawn() {
    let mut rig = Rig::new();
    rig.call(1, acquire(1, None));
    rig.call_by(7, 1, acquire(1, None));
    rig.settle();
    rig.call_by(7, 1, withdraw(1, true));
    rig.settle();
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Held);

    rig.call_by(9, 2, acquire(2, None));
    rig.settle();
    assert_eq!(rig.keep_alive(2, 2).state(), v1::KeepAliveState::Waiting);
    rig.call_by(9, 2, withdraw(2, true));
    rig.settle();
    assert_eq!(rig.keep_alive(2, 2).state(), v1::KeepAliveState::Waiting);
}

/// An answer to a keepalive before the cancel is applied could be wrong a moment later.
#[test]
fn nothing_is_said_of_an_acquisition_while_its_withdrawal_is_on_its_way() {
    let mut rig = Rig::new();
    rig.call_by(7, 1, acquire(1, None));
    rig.settle();
    let items = vec![v1::KeepAliveItem { name: "a".into(), acquisition_id: 1 }];
    let request = v1::KeepAliveRequest { seq: 900, items, ..v1::KeepAliveRequest::default() };
    let before = rig.call(1, store_call::Body::KeepAlive(request.clone()));
    rig.call_by(7, 1, withdraw(1, true));
    let behind = rig.call(1, store_call::Body::KeepAlive(request));
    rig.settle();
    let answered: Vec<_> = rig.replies.iter().map(|reply| reply.tag).collect();
    // The first one came before the withdrawal, and so the hold stays.
    assert!(answered.contains(&before) && answered.contains(&behind), "{answered:?}");
    assert_eq!(rig.worker.stats().withdrawals, 0);

    let mut rig = Rig::new();
    rig.call_by(7, 1, acquire(1, None));
    rig.settle();
    rig.call_by(7, 1, withdraw(1, true));
    let items = vec![v1::KeepAliveItem { name: "a".into(), acquisition_id: 1 }];
    let request = v1::KeepAliveRequest { seq: 900, items, ..v1::KeepAliveRequest::default() };
    let behind = rig.call(1, store_call::Body::KeepAlive(request));
    rig.settle();
    assert_eq!(rig.worker.stats().withdrawals, 1);
    assert!(rig.replies.iter().all(|reply| reply.tag != behind), "{:?}", rig.replies);
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Gone);
}

/// An older life of the leader may have answered another attempt: nobody knows any more.
#[test]
fn what_was_there_before_this_term_is_left_to_its_lease() {
    let mut rig = Rig::new();
    rig.call_by(7, 1, acquire(1, None));
    rig.settle();
    rig.crash();
    rig.call_by(7, 1, withdraw(1, true));
    rig.call_by(8, 1, acquire(1, None));
    rig.settle();
    rig.call_by(8, 1, withdraw(1, true));
    rig.settle();
    assert_eq!(rig.keep_alive(1, 1).state(), v1::KeepAliveState::Held);
}

/// Its connection broke: it may come again by another, and gives up there.
#[test]
fn a_lost_caller_ends_nothing_until_the_next_attempt_gives_up() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.call_by(7, 2, acquire(2, None));
    rig.call_by(7, 2, withdraw(2, false));
    rig.settle();
    rig.call_by(8, 2, acquire(2, None));
    rig.settle();
    assert_eq!(rig.worker.stats().withdrawals, 0);
    rig.call_by(8, 2, withdraw(2, true));
    rig.settle();
    rig.release(1, 1, held.token);
    assert_eq!(rig.acquire(3, 3, Some(0)).outcome(), v1::AcquireOutcome::Granted);
}

/// On another stream or gateway: it finds nothing, and leaves nothing.
#[test]
fn a_withdrawal_that_overtakes_its_acquire_does_nothing() {
    let mut rig = Rig::new();
    rig.call_by(7, 1, withdraw(1, true));
    rig.settle();
    assert_eq!(rig.acquire(1, 1, None).outcome(), v1::AcquireOutcome::Granted);
}

/// A duplicate acquire and the end of its hold, which was ending, may be applied in one turn. To say
/// "granted" with its seq would give the hold a lease that nobody keeps.
#[test]
fn a_duplicate_that_is_applied_with_the_end_of_its_ending_hold_is_not_told_that_it_holds() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.force_release(false);
    let again = rig.call(1, acquire(1, None));
    rig.release_later(1, 1, held.token);
    rig.settle();
    let store_reply::Body::Acquire(response) = rig.answer(again) else { panic!("an error") };
    assert_eq!(response.outcome(), v1::AcquireOutcome::Gone, "{response:?}");
}

impl Rig {
    /// Asks for a release, and does not wait for it.
    fn release_later(&mut self, session: u8, id: u64, token: u64) {
        let name = "a".to_owned();
        let request =
            v1::ReleaseRequest { name, token, acquisition_id: id, ..v1::ReleaseRequest::default() };
        self.call(session, store_call::Body::Release(request));
    }
}

impl Rig {
    fn revoke(&mut self, session: u8, dry_run: bool) -> internal::RangeRevoked {
        let request = internal::RevokeRangeSession {
            session: vec![session; 16].into(),
            reason: "gone".into(),
            dry_run,
            bytes_max: 1 << 20,
            ..internal::RevokeRangeSession::default()
        };
        let tag = self.call(0, store_call::Body::RevokeRangeSession(request));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::RevokeRangeSession(response) => response,
            other => panic!("{other:?}"),
        }
    }

    fn session(&mut self, session: u8) -> Vec<v1::SessionLock> {
        let request = internal::GetRangeSession {
            session: vec![session; 16].into(),
            locks_max: 9,
            bytes_max: 1 << 20,
            ..internal::GetRangeSession::default()
        };
        let tag = self.call(0, store_call::Body::GetRangeSession(request));
        self.settle();
        match self.answer(tag) {
            store_reply::Body::GetRangeSession(response) => response.locks,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_revocation_tells_the_holder_and_whoever_waits_and_a_plan_does_nothing() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    let plan = rig.revoke(1, true);
    assert_eq!((plan.holds_count, plan.waiters_count, plan.end.as_str()), (1, 0, ""));
    assert_eq!(rig.session(1)[0].holds[0].ending_reason, "", "nothing was done");

    let waiter = rig.revoke(2, false);
    assert_eq!((waiter.holds_count, waiter.waiters_count), (0, 1));
    let events = rig.events();
    assert_eq!(events[0].gone_reason(), v1::GoneReason::ForceReleased, "{events:?}");
    assert!(rig.session(2).is_empty());

    let holder = rig.revoke(1, false);
    assert_eq!((holder.holds_count, holder.waiters_count), (1, 0));
    let hold = &holder.holds[0];
    assert_eq!((hold.name.as_str(), hold.ended), ("a", false));
    assert_eq!(hold.holder.as_ref().map(|it| it.token), Some(held.token));
    let events = rig.events();
    assert_eq!(events[0].kind(), v1::AcquisitionEventKind::Ending);
    assert_eq!(events[0].ending_reason, "gone");
    // The same order once more; and then it is no ban.
    assert_eq!(rig.revoke(1, false).holds_count, 1);
    rig.release(1, 1, held.token);
    assert_eq!(rig.acquire(1, 2, None).outcome(), v1::AcquireOutcome::Granted);
}

#[test]
fn a_revocation_of_a_session_that_nobody_knows_writes_nothing() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    let before = rig.revoke(7, true).position.expect("it held somewhere").applied_index;
    let none = rig.revoke(7, false);
    assert_eq!((none.holds_count, none.waiters_count), (0, 0));
    assert_eq!(none.position.expect("it held somewhere").applied_index, before);
    assert_eq!(rig.revoke(1, false).position.expect("it held").applied_index, before + 1);
}

#[test]
fn sessions_are_listed_as_many_as_fit_and_the_rest_behind_the_last() {
    let mut rig = Rig::new();
    rig.acquire(1, 1, None);
    rig.acquire(2, 1, None);
    rig.acquire(3, 1, None);
    let mut listed = |after: &[u8], sessions_max, bytes_max, owner: &str| {
        let (after, owner) = (after.to_vec().into(), owner.to_owned());
        let request = internal::ListRangeSessions {
            after,
            owner,
            sessions_max,
            bytes_max,
            ..internal::ListRangeSessions::default()
        };
        let tag = rig.call(0, store_call::Body::ListRangeSessions(request));
        rig.settle();
        match rig.answer(tag) {
            store_reply::Body::ListRangeSessions(part) => {
                let sessions = part.sessions.iter();
                let counts = sessions.map(|it| (it.holds_count, it.waiters_count)).collect();
                Ok::<(Vec<_>, _), Box<store_reply::Body>>((counts, part.next.to_vec()))
            }
            other => Err(Box::new(other)),
        }
    };
    let (one, two) = (vec![1_u8; 16], vec![2_u8; 16]);
    let good = |counts: &[(u32, u32)], next: &[u8]| Ok((counts.to_vec(), next.to_vec()));
    assert_eq!(listed(&[], 9, 1 << 20, "owner"), good(&[(1, 0), (0, 1), (0, 1)], &[]));
    assert_eq!(listed(&[], 2, 1 << 20, ""), good(&[(1, 0), (0, 1)], &two));
    assert_eq!(listed(&[], 9, 1, ""), good(&[(1, 0)], &one), "never none where there is one");
    assert_eq!(listed(&two, 9, 1 << 20, ""), good(&[(0, 1)], &[]));
    assert_eq!(listed(&[], 9, 1 << 20, "other"), good(&[], &[]));
    let refused = listed(&[1], 9, 1 << 20, "").expect_err("these bytes are no handle");
    assert!(matches!(*refused, store_reply::Body::Error(_)), "{refused:?}");
}

#[test]
fn a_turn_tells_how_long_things_took_that_this_leader_has_seen_begin() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    // Its repetition is told the place again, and takes none.
    for _ in 0..2 {
        assert_eq!(rig.acquire(2, 2, None).place, 1);
    }
    rig.pass(Duration::from_secs(3));
    rig.release(1, 1, held.token);
    let next = rig.events()[0].token;
    let all = std::mem::take(&mut rig.observed);
    let times = |of: fn(&Observed) -> &Vec<Duration>| -> Vec<Duration> {
        all.iter().flat_map(of).copied().collect()
    };
    assert_eq!(times(|it| &it.waits), [Duration::from_secs(3)]);
    assert_eq!(times(|it| &it.holds), [Duration::from_secs(3)]);
    // In virtual time a commit takes none.
    assert_eq!(times(|it| &it.hand_overs), [Duration::ZERO]);
    assert!(times(|it| &it.commits).len() >= 3, "two acquires and a release");
    let places: Vec<_> = all.iter().flat_map(|it| &it.places).copied().collect();
    assert_eq!(places, [1]);

    // A new leader has not seen it begin, and says nothing of it.
    rig.pass(Duration::from_secs(2));
    rig.crash();
    rig.observed.clear();
    rig.release(2, 2, next);
    assert!(rig.observed.iter().all(|it| it.holds.is_empty()), "{:?}", rig.observed);
}

#[test]
fn a_traced_acquire_tells_its_spans_and_its_wait_and_others_tell_none() {
    let mut rig = Rig::new();
    let held = rig.acquire(1, 1, None);
    let spans = |rig: &mut Rig| -> Vec<_> {
        std::mem::take(&mut rig.observed).into_iter().flat_map(|it| it.spans).collect()
    };
    assert_eq!(spans(&mut rig), [], "nobody traces it");
    let above: TraceContext = TRACEPARENT.parse().expect("it is one");
    let store_call::Body::Acquire(request) = acquire(2, None) else { panic!("it is one") };
    let traceparent = TRACEPARENT.to_owned();
    rig.call(2, store_call::Body::Acquire(v1::AcquireRequest { traceparent, ..request }));
    rig.settle();
    let told = spans(&mut rig);
    let names: Vec<_> = told.iter().map(|span| span.name).collect();
    assert_eq!(names, ["store.queue", "store.commit", "store.apply", "store.acquire"]);
    let whole = &told[3];
    assert_eq!((whole.parent, whole.context.trace_id), (above.span_id, above.trace_id));
    assert!(told[..3].iter().all(|span| span.parent == whole.context.span_id), "{told:?}");
    assert!(whole.notes.contains(&("outcome", Note::Word("queued"))), "{whole:?}");

    rig.pass(Duration::from_secs(3));
    rig.release(1, 1, held.token);
    let told = spans(&mut rig);
    let [wait] = &told[..] else { panic!("one wait: {told:?}") };
    assert_eq!((wait.name, wait.parent), ("lock.wait", whole.context.span_id));
    assert_eq!(wait.end, Some(wait.begin + Duration::from_secs(3)));
}
