//! A worker whose locks have bounded memory: acquires are refused before they are
//! queued, and everything that gives memory back goes on.

use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, MemoryBounds, MemoryRefusals, Pace, Worker};
use sharklock_multiraft::{Config, Disk, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{self as internal, StoreCall, StoreReply, store_call, store_error, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
/// Room for ten holds or so.
const ROOM: u64 = 12_000;

/// One worker, its disk, and what it has said.
struct Rig {
    worker: Worker,
    disk: SimDisk,
    bounds: MemoryBounds,
    now: Duration,
    next_tag: u64,
    replies: Vec<StoreReply>,
}

/// The caller and its address.
#[derive(Clone, Copy)]
struct Caller(u8, &'static str);

const HERE: &str = "10.0.0.1:4000";
const ALICE: Caller = Caller(1, HERE);
const BOB: Caller = Caller(2, "10.0.0.2:4000");

impl Rig {
    fn under(bounds: MemoryBounds) -> Self {
        let store = StoreId(1);
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store,
            ident: Identity::from_bytes([2; 16]),
        };
        let first = Descriptor {
            range: RangeId(1),
            bounds: Bounds::ALL,
            epoch: Epoch { version: 1, conf_ver: 1 },
            replicas: vec![Replica { peer: PeerId(1), store, role: Role::Voter }],
        };
        let mut disk = SimDisk::default();
        disk.write(&bootstrap(&ident, &first), true).expect("a fresh disk");
        Self::on(disk, bounds, Duration::ZERO)
    }

    fn on(disk: SimDisk, bounds: MemoryBounds, now: Duration) -> Self {
        let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
        let worker = Worker::new(now, store, Pace::default()).with_memory_bounds(bounds.clone());
        let mut rig = Self { worker, disk, bounds, now, next_tag: 1, replies: Vec::new() };
        rig.settle();
        assert!(rig.worker.leads_all(), "a single voter leads at once");
        rig
    }

    fn restart(&mut self) {
        self.worker.flush();
        self.settle();
        *self = Self::on(self.disk.clone(), self.bounds.clone(), self.now);
    }

    fn settle(&mut self) {
        loop {
            let mut outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.replies.extend(outputs.replies.drain(..).flat_map(|(_, replies)| replies));
            let Some(batch) = outputs.batch else { return };
            self.disk.write(&batch.ops, true).expect("no fault was asked for");
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(100);
        self.settle();
    }

    fn call(&mut self, caller: Caller, body: store_call::Body) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let Caller(session, address) = caller;
        let call = StoreCall {
            tag,
            session: vec![session; 16].into(),
            instance: 1,
            client_address: address.into(),
            body: Some(body),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        tag
    }

    fn answer(&mut self, tag: u64) -> store_reply::Body {
        self.settle();
        let at = self.replies.iter().position(|reply| reply.tag == tag);
        let at = at.unwrap_or_else(|| panic!("no answer to {tag}: {:?}", self.replies));
        self.replies.remove(at).body.expect("an answer says something")
    }

    fn acquire(&mut self, caller: Caller, id: u64, name: &str) -> Result<u64, internal::Refused> {
        let tag = self.call(caller, acquire(id, name));
        match self.answer(tag) {
            store_reply::Body::Acquire(response) => {
                assert_eq!(response.outcome(), v1::AcquireOutcome::Granted);
                Ok(response.token)
            }
            store_reply::Body::Error(internal::StoreError {
                kind: Some(store_error::Kind::Refused(refused)),
            }) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    /// Acquires locks of names with this beginning until one is refused: how many, their last token,
    /// and the refusal.
    fn fill(&mut self, caller: Caller, from: u64, prefix: &str) -> (u64, u64, internal::Refused) {
        let mut last = 0;
        for id in from..from + 1_000 {
            match self.acquire(caller, id, &format!("{prefix}{id}")) {
                Ok(token) => last = token,
                Err(refused) => return (id - from, last, refused),
            }
        }
        panic!("no bound was met");
    }

    fn release(&mut self, caller: Caller, id: u64, name: &str, token: u64) {
        let name = name.to_owned();
        let request = v1::ReleaseRequest { name, token, acquisition_id: id, ..Default::default() };
        let tag = self.call(caller, store_call::Body::Release(request));
        match self.answer(tag) {
            store_reply::Body::Release(response) => {
                assert_eq!(response.outcome(), v1::ReleaseOutcome::Released);
            }
            other => panic!("{other:?}"),
        }
    }

    fn used(&self) -> u64 {
        self.worker.memory().used()
    }
}

fn acquire(id: u64, name: &str) -> store_call::Body {
    store_call::Body::Acquire(v1::AcquireRequest {
        name: name.to_owned(),
        mode: v1::LockMode::Exclusive.into(),
        ttl_ms: Some(600_000),
        wait_ms: Some(0),
        acquisition_id: id,
        seq: id,
        ..v1::AcquireRequest::default()
    })
}

fn store_of(bytes: u64) -> MemoryBounds {
    MemoryBounds { store: Some(bytes), ..MemoryBounds::default() }
}

#[test]
fn a_full_store_refuses_acquires_and_nothing_else() {
    let mut rig = Rig::under(store_of(ROOM));
    let (held, token, refused) = rig.fill(ALICE, 1, "a/");
    assert!((5..20).contains(&held), "{held}");
    assert_eq!(refused.reason, "STORE_FULL");
    assert!(refused.message.contains("12000"), "{}", refused.message);
    assert!(refused.retry_after_ms > 0);
    assert!(rig.used() <= ROOM);
    assert_eq!(rig.acquire(BOB, 1, "b").expect_err("it is full for all").reason, "STORE_FULL");
    // A repetition of what is held takes nothing, and hears the same as before.
    assert_eq!(rig.acquire(ALICE, held, &format!("a/{held}")), Ok(token));
    let items = vec![v1::KeepAliveItem { name: "a/1".into(), acquisition_id: 1 }];
    let renewal = v1::KeepAliveRequest { items, seq: 1, ..Default::default() };
    let tag = rig.call(ALICE, store_call::Body::KeepAlive(renewal));
    match rig.answer(tag) {
        store_reply::Body::KeepAlive(response) => {
            assert_eq!(response.answers[0].state(), v1::KeepAliveState::Held);
        }
        other => panic!("{other:?}"),
    }
    rig.release(ALICE, held, &format!("a/{held}"), token);
    rig.acquire(BOB, 2, "b").expect("there is room again");
    assert_eq!(
        rig.worker.memory().refusals(),
        MemoryRefusals { store: 2, ..MemoryRefusals::default() }
    );
}

#[test]
fn attributes_that_a_full_store_has_no_room_for_are_refused_and_others_set() {
    let mut rig = Rig::under(store_of(ROOM));
    let (held, token, _) = rig.fill(ALICE, 1, "a/");
    let mut set = |seq, bytes: usize| {
        let request = v1::SetAttributesRequest {
            name: format!("a/{held}"),
            token,
            acquisition_id: held,
            seq,
            attributes: [("load".to_owned(), "x".repeat(bytes))].into(),
            ..Default::default()
        };
        let tag = rig.call(ALICE, store_call::Body::SetAttributes(request));
        match rig.answer(tag) {
            store_reply::Body::SetAttributes(response) => Ok(response.outcome()),
            store_reply::Body::Error(internal::StoreError {
                kind: Some(store_error::Kind::Refused(refused)),
            }) => Err(refused.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(set(1, 4_000), Err("STORE_FULL".to_owned()));
    assert_eq!(set(2, 1), Ok(v1::SetAttributesOutcome::Set));
    assert_eq!(set(1, 2), Ok(v1::SetAttributesOutcome::Overtaken));
}

/// Commands that are queued and not applied count: else one turn could let in any number.
#[test]
fn a_flood_within_one_turn_is_bounded() {
    let mut rig = Rig::under(store_of(ROOM));
    let tags: Vec<_> =
        (1..=500).map(|id| rig.call(ALICE, acquire(id, &format!("a/{id}")))).collect();
    assert!(rig.used() <= ROOM, "{}", rig.used());
    let granted = |body: &store_reply::Body| matches!(body, store_reply::Body::Acquire(_));
    let answers: Vec<_> = tags.into_iter().map(|tag| rig.answer(tag)).collect();
    let held = answers.iter().filter(|body| granted(body)).count();
    assert!((5..20).contains(&held), "{held}");
    assert!(rig.used() <= ROOM, "{}", rig.used());
}

#[test]
fn a_restarted_store_counts_what_it_had() {
    let mut rig = Rig::under(store_of(ROOM));
    let (held, token, _) = rig.fill(ALICE, 1, "a/");
    let used = rig.used();
    rig.restart();
    assert_eq!(rig.used(), used);
    assert_eq!(rig.acquire(BOB, 1, "b").expect_err("as before").reason, "STORE_FULL");
    rig.release(ALICE, held, &format!("a/{held}"), token);
    rig.acquire(BOB, 2, "b").expect("there is room again");
}

#[test]
fn nothing_is_counted_when_all_is_gone() {
    let mut rig = Rig::under(MemoryBounds {
        address: Some(1 << 20),
        prefixes: vec![("a/".into(), 1 << 20)],
        ..store_of(1 << 20)
    });
    let tokens: Vec<_> =
        (1..=20).map(|id| (id, rig.acquire(ALICE, id, &format!("a/{id}")))).collect();
    for (id, token) in tokens {
        rig.release(ALICE, id, &format!("a/{id}"), token.expect("there is room"));
    }
    assert_eq!(rig.used(), 0);
}

#[test]
fn an_address_that_is_full_stops_nobody_else() {
    let mut rig = Rig::under(MemoryBounds { address: Some(ROOM), ..MemoryBounds::default() });
    let (held, _, refused) = rig.fill(ALICE, 1, "a/");
    assert_eq!(refused.reason, "ADDRESS_FULL");
    assert!(held > 0 && refused.message.contains("12000"), "{}", refused.message);
    // Another session of the same host, on another port.
    let also = Caller(3, "10.0.0.1:4001");
    assert_eq!(rig.acquire(also, 1, "x").expect_err("same host").reason, "ADDRESS_FULL");
    rig.acquire(BOB, 1, "b").expect("another host");
}

#[test]
fn a_prefix_that_is_full_stops_no_other_name() {
    let bounds = MemoryBounds { prefixes: vec![("a/".into(), ROOM)], ..MemoryBounds::default() };
    let mut rig = Rig::under(bounds);
    let (held, token, refused) = rig.fill(ALICE, 1, "a/");
    assert_eq!(refused.reason, "PREFIX_FULL");
    assert!(refused.message.contains("a/") && refused.message.contains("12000"), "{refused:?}");
    rig.acquire(ALICE, 900, "b/1").expect("another prefix");
    rig.restart();
    rig.acquire(BOB, 1, "a/x").expect_err("still full");
    rig.release(ALICE, held, &format!("a/{held}"), token);
    rig.acquire(BOB, 2, "a/x").expect("there is room again");
}

#[test]
fn a_session_has_as_many_acquisitions_as_it_may() {
    let bounds = MemoryBounds { session_acquisitions: Some(3), ..MemoryBounds::default() };
    let mut rig = Rig::under(bounds);
    let (held, _, refused) = rig.fill(ALICE, 1, "a/");
    assert_eq!((held, refused.reason.as_str()), (3, "SESSION_FULL"));
    assert!(refused.message.contains(" 3 open"), "{}", refused.message);
    rig.acquire(BOB, 1, "b").expect("another session");
}

#[test]
fn an_alarm_comes_before_the_bound() {
    let mut rig = Rig::under(store_of(ROOM));
    let mut alarmed_at = None;
    for id in 1..1_000 {
        let Ok(_) = rig.acquire(ALICE, id, &format!("a/{id}")) else { break };
        rig.tick();
        if alarmed_at.is_none() && rig.worker.memory().alarm() {
            alarmed_at = Some(rig.used());
        }
    }
    let at = alarmed_at.expect("it was raised before the first refusal");
    assert!((ROOM * 8 / 10..ROOM).contains(&at), "{at}");
}
