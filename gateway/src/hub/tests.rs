//! Calls find their leader over several stores, and what is lost on the way says so.

use std::collections::BTreeSet;

use bytes::Bytes;
use sharklock_proto::{
    internal::v1::{
        EpochNotMatch, Indeterminate, NotLeader, RangeDescriptor, Replica, ReplicaRole,
        StoreDescription, StoreError, StoreReply, store_error::Kind, store_reply::Body,
    },
    v1::{
        AcquireRequest, AcquireResponse, AcquisitionEvent, GetLockRequest, KeepAliveAnswer,
        KeepAliveItem, KeepAliveRequest, KeepAliveResponse, Position, RangeStatus, ReleaseRequest,
        SessionCall, SessionRequest, session_answer, session_call,
    },
};
use sharklock_rangemap::HOPS_MAX;

use super::*;
use crate::{
    Origin, SessionPort, StreamHandle,
    describing::{DESCRIBE_AGAIN_US, DESCRIBE_EVERY_US, DESCRIBE_WITHIN_US},
    failure::Reason,
    keepalives::FLUSH_EVERY_US,
    validate::{Frame, Session},
};

const A: StoreId = StoreId(1);
const B: StoreId = StoreId(2);
const C: StoreId = StoreId(3);

/// The calls that have been sent, in order.
#[derive(Default)]
struct Wires {
    sent: Mutex<Vec<(StoreId, StoreCall)>>,
    full: Mutex<BTreeSet<StoreId>>,
}

impl StoreLinks for Wires {
    fn send(
        &self,
        store: StoreId,
        _lane: Lane,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        if self.full.lock().unwrap().contains(&store) {
            return Err(calls);
        }
        self.sent.lock().unwrap().extend(calls.into_iter().map(|call| (store, call)));
        Ok(())
    }
}

/// A gateway, and the one stream of a client on it.
struct Rig {
    hub: Arc<Hub>,
    wires: Arc<Wires>,
    port: SessionPort,
    now_us: u64,
    next_call: u64,
}

fn descriptor(
    range_id: u64,
    start: &str,
    end: &str,
    version: u64,
    stores: &[u64],
) -> RangeDescriptor {
    let replica = |store_id: &u64| Replica {
        peer_id: range_id * 10 + store_id,
        store_id: *store_id,
        role: ReplicaRole::Voter as i32,
    };
    RangeDescriptor {
        range_id,
        start: start.to_owned().into(),
        end: end.to_owned().into(),
        conf_ver: 1,
        version,
        replicas: stores.iter().map(replica).collect(),
    }
}

fn described(stores: &[u64], leader_store_id: u64, term: u64) -> Body {
    let range = RangeStatus { range_id: 1, leader_store_id, term, ..RangeStatus::default() };
    Body::Describe(StoreDescription {
        ranges: vec![range],
        descriptors: vec![descriptor(1, "", "", 4, stores)],
        ..StoreDescription::default()
    })
}

fn error(kind: Kind) -> Body {
    Body::Error(StoreError { kind: Some(kind) })
}

fn not_leader(leader_store_id: u64) -> Body {
    error(Kind::NotLeader(NotLeader { range_id: 1, leader_store_id }))
}

fn granted(token: u64) -> Body {
    let position = Some(Position { range_id: 1, ..Position::default() });
    Body::Acquire(AcquireResponse { position, token, ..AcquireResponse::default() })
}

impl Rig {
    /// With one range of all names on these stores; the leader as they describe it, 0 for none.
    fn new(stores: &[u64], leader: u64) -> Self {
        let wires = Arc::new(Wires::default());
        let hub = Hub::new(HubConfig::default(), wires.clone(), Arc::new(()));
        let port = SessionPort::open(&hub, "10.0.0.1:5".to_owned()).expect("there is room");
        let mut rig = Self { hub, wires, port, now_us: 1_000, next_call: 1 };
        for store in stores {
            rig.hub.link_up(rig.now_us, StoreId(*store));
        }
        for (to, call) in rig.sent() {
            rig.reply(to, &call, described(stores, leader, 5));
        }
        rig
    }

    /// Takes what was sent since the last time.
    fn sent(&mut self) -> Vec<(StoreId, StoreCall)> {
        std::mem::take(&mut self.wires.sent.lock().unwrap())
    }

    /// The one call that was sent, questions to stores left out.
    #[track_caller]
    fn sent_one(&mut self) -> (StoreId, StoreCall) {
        let mut sent = self.sent_calls();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.pop().expect("there is one")
    }

    fn sent_calls(&mut self) -> Vec<(StoreId, StoreCall)> {
        let describes = |call: &StoreCall| matches!(call.body, Some(Ask::Describe(_)));
        self.sent().into_iter().filter(|(_, call)| !describes(call)).collect()
    }

    fn reply(&mut self, from: StoreId, to: &StoreCall, body: Body) {
        let reply = StoreReply { tag: to.tag, stream: 0, body: Some(body) };
        self.hub.dispatch(self.now_us, from, vec![reply]);
    }

    /// Answers the questions to stores that were sent.
    fn describe_all(&mut self, body: &Body) {
        for (to, call) in self.sent() {
            self.reply(to, &call, body.clone());
        }
    }

    fn ask(&mut self, body: session_call::Body) -> u64 {
        let call_id = self.next_call;
        self.next_call += 1;
        let calls = vec![SessionCall { call_id, body: Some(body) }];
        let session_id = Bytes::from_static(&[7; 16]);
        let request = SessionRequest { session_id, instance: 1, calls };
        self.port.take_in(self.now_us, request).expect("the message is well-formed");
        call_id
    }

    fn acquire(&mut self, name: &str) -> u64 {
        let id = self.next_call;
        self.ask(session_call::Body::Acquire(AcquireRequest {
            name: name.to_owned(),
            acquisition_id: id,
            seq: id,
            mode: 1,
            ..AcquireRequest::default()
        }))
    }

    fn keep_alive(&mut self, seq: u64, acquisition_id: u64) -> u64 {
        let items = vec![KeepAliveItem { name: "a".to_owned(), acquisition_id }];
        let request = KeepAliveRequest { seq, items, ..KeepAliveRequest::default() };
        self.ask(session_call::Body::KeepAlive(request))
    }

    fn pass(&mut self, us: u64) {
        self.now_us += us;
        self.hub.tick(self.now_us);
    }

    /// Ticks as the gateway does while it runs: one that is not shown to run for so long stands still.
    fn run(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while self.now_us < end_us {
            self.pass(LISTEN_EVERY_US.min(end_us - self.now_us));
        }
    }

    /// The answers that the client hears: (call id, what), in short.
    fn heard(&mut self) -> Vec<(u64, String)> {
        let mut heard = Vec::new();
        while let Some(message) = self.port.take_out().expect("it is not cut off") {
            for answer in message.answers {
                let what = match answer.body.expect("answers have bodies") {
                    session_answer::Body::Acquire(body) => format!("token {}", body.token),
                    session_answer::Body::KeepAlive(body) => format!("seq {}", body.answers[0].seq),
                    session_answer::Body::Failure(failure) => failure.reason,
                    session_answer::Body::Event(event) => format!("event {}", event.name),
                    other => format!("{other:?}"),
                };
                heard.push((answer.call_id, what));
            }
        }
        heard
    }
}

fn kept_alive(call: &StoreCall) -> Body {
    let Some(Ask::KeepAlive(request)) = &call.body else { panic!("{call:?}") };
    let answer = |item: &KeepAliveItem| KeepAliveAnswer {
        name: item.name.clone(),
        acquisition_id: item.acquisition_id,
        seq: request.seq,
        position: Some(Position { range_id: 1, ..Position::default() }),
        ..KeepAliveAnswer::default()
    };
    Body::KeepAlive(KeepAliveResponse { answers: request.items.iter().map(answer).collect() })
}

fn one(call_id: u64, what: &str) -> Vec<(u64, String)> {
    vec![(call_id, what.to_owned())]
}

#[test]
fn calls_go_to_the_leader_that_stores_describe() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    assert!(rig.hub.is_ready());
    let id = rig.acquire("a");
    let (to, call) = rig.sent_one();
    assert_eq!((to, call.range_id, call.version, call.age_ms), (B, 1, 4, 0));
    assert_eq!(call.client_address, "10.0.0.1:5");
    rig.reply(B, &call, granted(9));
    assert_eq!(rig.heard(), one(id, "token 9"));
    assert_eq!(rig.hub.calls_open(), 0);
}

#[test]
fn a_call_that_met_a_follower_goes_to_the_leader_at_once_and_tells_its_age() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("a");
    let (_, first) = rig.sent_one();
    rig.now_us += 2_500;
    rig.reply(B, &first, not_leader(3));
    let (to, second) = rig.sent_one();
    assert_eq!((to, second.tag, second.age_ms), (C, first.tag, 3));
    assert_eq!((&second.body, &second.session), (&first.body, &first.session));
    assert_eq!(rig.heard(), [], "its client waits on");
    rig.reply(C, &second, granted(9));
    assert_eq!(rig.heard(), one(id, "token 9"));
    // The next one goes there directly.
    rig.acquire("b");
    assert_eq!(rig.sent_one().0, C);
}

/// The gateway runs, and what it sends meanwhile is of no interest.
fn run(rig: &mut Rig, us: u64) {
    rig.run(us);
    rig.sent();
}

#[test]
fn what_waited_while_the_gateway_stood_still_tells_its_age() {
    let mut rig = Rig::new(&[1], 1);
    run(&mut rig, 3_000_000);
    rig.now_us += 4_000_000;
    // One is read before the gateway has noticed, the others after.
    rig.acquire("a");
    assert_eq!(rig.sent_one().1.age_ms, 4_000);
    rig.hub.tick(rig.now_us);
    rig.sent();
    rig.acquire("b");
    assert_eq!(rig.sent_one().1.age_ms, 4_000);
    rig.keep_alive(8, 3);
    assert_eq!(rig.sent_one().1.age_ms, 4_000);
    run(&mut rig, 3_000_000);
    rig.acquire("c");
    assert_eq!(rig.sent_one().1.age_ms, 0, "it has caught up");
}

#[test]
fn what_may_have_waited_for_too_long_is_refused_until_the_gateway_has_caught_up() {
    let mut rig = Rig::new(&[1], 1);
    run(&mut rig, 3_000_000);
    rig.now_us += CALL_AGE_MAX.as_micros() as u64 + 1;
    let early = rig.acquire("a");
    rig.hub.tick(rig.now_us);
    let late = rig.keep_alive(8, 3);
    assert_eq!(rig.sent_calls(), []);
    let told = |id| (id, "TOO_OLD".to_owned());
    assert_eq!(rig.heard(), [told(early), told(late)]);
    run(&mut rig, 2_000_000);
    rig.acquire("a");
    assert_eq!(rig.sent_one().1.age_ms, 0);
}

#[test]
fn stores_that_point_at_each_other_are_not_believed_for_ever() {
    let mut rig = Rig::new(&[1, 2, 3], 1);
    let id = rig.acquire("a");
    let mut sent = 0;
    loop {
        let calls = rig.sent_calls();
        let Some((to, call)) = calls.into_iter().next() else { break };
        sent += 1;
        rig.reply(to, &call, not_leader(if to == A { 2 } else { 1 }));
    }
    assert_eq!(sent, HOPS_MAX);
    assert_eq!(rig.heard(), one(id, "NO_LEADER"));
    assert_eq!(rig.hub.calls_open(), 0);
}

#[test]
fn without_a_leader_each_call_asks_one_store_and_the_next_asks_another() {
    let mut rig = Rig::new(&[1, 2, 3], 1);
    let mut asked = Vec::new();
    // No hint; one at itself; one at who does not vote; one at who is not linked any more.
    for hint in [0, 2, 77, 2] {
        if hint == 2 && asked.len() > 1 {
            rig.hub.link_lost(rig.now_us, B);
        }
        let id = rig.acquire("a");
        let (to, call) = rig.sent_one();
        asked.push(to);
        rig.reply(to, &call, not_leader(hint));
        assert_eq!(rig.heard(), one(id, "NO_LEADER"), "hint {hint} of {to}");
        assert_eq!(rig.sent_calls(), [], "its client repeats it, later and later");
    }
    assert_eq!(asked, [A, B, C, A]);
}

#[test]
fn a_call_of_a_range_that_has_split_goes_to_its_half() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("z");
    let (_, first) = rig.sent_one();
    let descriptors =
        vec![descriptor(1, "", "m", 5, &[1, 2, 3]), descriptor(2, "m", "", 5, &[1, 2, 3])];
    rig.reply(B, &first, error(Kind::EpochNotMatch(EpochNotMatch { descriptors })));
    let (to, second) = rig.sent_one();
    assert_eq!((to, second.range_id, second.version), (B, 2, 5));
    let other = rig.acquire("y");
    let (_, call) = rig.sent_one();
    let position = Some(Position { range_id: 2, ..Position::default() });
    let led = AcquireResponse { position, token: 8, ..AcquireResponse::default() };
    rig.reply(B, &call, Body::Acquire(led));
    assert_eq!(rig.heard(), one(other, "token 8"), "B leads it");
    // A store that says the same again teaches nothing.
    let descriptors = vec![descriptor(2, "m", "", 5, &[1, 2, 3])];
    rig.reply(B, &second, error(Kind::EpochNotMatch(EpochNotMatch { descriptors })));
    assert_eq!(rig.sent_calls(), []);
    assert_eq!(rig.heard(), one(id, "RANGE_MOVED"));
}

/// A range of three stores that B leads has split at m, which a call for z has found out.
fn split_under_a_call() -> (Rig, u64, StoreCall) {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("z");
    let (_, first) = rig.sent_one();
    let descriptors =
        vec![descriptor(1, "", "m", 5, &[1, 2, 3]), descriptor(2, "m", "", 5, &[1, 2, 3])];
    rig.reply(B, &first, error(Kind::EpochNotMatch(EpochNotMatch { descriptors })));
    let (to, second) = rig.sent_one();
    assert_eq!((to, second.range_id), (B, 2));
    (rig, id, second)
}

fn child_not_led(leader_store_id: u64) -> Body {
    error(Kind::NotLeader(NotLeader { range_id: 2, leader_store_id }))
}

/// Its client would come back only after a pause several times as long as that takes.
#[test]
fn calls_of_a_range_that_has_just_been_made_wait_until_it_is_led() {
    let (mut rig, first, call) = split_under_a_call();
    rig.reply(B, &call, child_not_led(0));
    let others: Vec<_> = ["x", "y"].map(|name| rig.acquire(name)).into();
    for (to, call) in rig.sent_calls() {
        rig.reply(to, &call, child_not_led(0));
    }
    assert_eq!((rig.sent_calls(), rig.heard()), (vec![], vec![]), "all of them wait");
    assert!(rig.hub.next_due_us() <= rig.now_us + parked::LOOK_EVERY_US);
    // One looks at a time, and at one store after the other; a store that is behind says so.
    let mut asked = Vec::new();
    let behind = EpochNotMatch { descriptors: vec![descriptor(1, "", "", 4, &[1, 2, 3])] };
    let refusals = [child_not_led(0), error(Kind::EpochNotMatch(behind)), child_not_led(0)];
    for refusal in refusals {
        rig.pass(parked::LOOK_EVERY_US);
        let (to, call) = rig.sent_one();
        asked.push(to);
        rig.reply(to, &call, refusal);
    }
    asked.sort_unstable();
    assert_eq!(asked, [A, B, C]);
    rig.pass(parked::LOOK_EVERY_US);
    let (to, looks) = rig.sent_one();
    assert_eq!(looks.age_ms, 20);
    // It is led by now, and does not serve yet.
    let leader = if to == B { C } else { B };
    rig.reply(to, &looks, child_not_led(leader.0));
    let (to, looks) = rig.sent_one();
    assert_eq!(to, leader);
    rig.reply(to, &looks, child_not_led(leader.0));
    assert_eq!((rig.sent_calls(), rig.heard()), (vec![], vec![]), "they wait on");
    rig.pass(parked::LOOK_EVERY_US);
    let (to, looks) = rig.sent_one();
    if to != leader {
        rig.reply(to, &looks, child_not_led(leader.0));
        assert_eq!(rig.sent_one().0, leader);
    }
    // It serves: the others go there at once.
    let serves = || {
        let position = Some(Position { range_id: 2, ..Position::default() });
        Body::Acquire(AcquireResponse { position, token: 9, ..AcquireResponse::default() })
    };
    rig.reply(leader, &looks, serves());
    for (to, call) in rig.sent_calls() {
        assert_eq!((to, call.range_id, call.version), (leader, 2, 5));
        rig.reply(to, &call, serves());
    }
    let mut ids = rig.heard();
    ids.sort_unstable();
    assert_eq!(ids, [first, others[0], others[1]].map(|id| (id, "token 9".to_owned())));
    assert_eq!((rig.hub.calls_open(), rig.hub.parked().due_us()), (0, None));
}

#[test]
fn a_range_that_stays_without_a_leader_is_waited_for_once_and_not_for_long() {
    let (mut rig, id, call) = split_under_a_call();
    rig.reply(B, &call, child_not_led(0));
    let began_us = rig.now_us;
    while rig.hub.calls_open() > 0 {
        rig.pass(parked::LOOK_EVERY_US);
        for (to, call) in rig.sent_calls() {
            rig.reply(to, &call, child_not_led(0));
        }
    }
    assert_eq!(rig.heard(), one(id, "NO_LEADER"));
    assert_eq!(rig.now_us - began_us, parked::WAITS_MAX_US);
    let next = rig.acquire("z");
    let (to, call) = rig.sent_one();
    rig.reply(to, &call, child_not_led(0));
    assert_eq!(rig.heard(), one(next, "NO_LEADER"), "as in any election");
}

#[test]
fn a_call_that_waits_for_a_leader_ends_with_its_stream_and_not_with_a_link() {
    let (mut rig, _, call) = split_under_a_call();
    rig.reply(B, &call, child_not_led(0));
    rig.hub.link_lost(rig.now_us, B);
    assert_eq!((rig.heard(), rig.hub.calls_open()), (vec![], 1), "B does not have it");
    rig.port = SessionPort::open(&rig.hub, "10.0.0.1:6".to_owned()).expect("there is room");
    rig.pass(parked::LOOK_EVERY_US);
    assert_eq!((rig.sent_calls(), rig.hub.parked().due_us()), (vec![], None));
}

/// Otherwise they would be asked for with the client's next renewal, and be late by so much.
#[test]
fn items_of_a_keepalive_whose_names_have_moved_go_to_their_new_range_at_once() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let item = |name: &str| KeepAliveItem { name: name.to_owned(), acquisition_id: 3 };
    let items = ["a", "x", "z"].map(item).to_vec();
    let request = KeepAliveRequest { seq: 8, items, ..KeepAliveRequest::default() };
    let id = rig.ask(session_call::Body::KeepAlive(request));
    let (_, first) = rig.sent_one();
    let part = |call: &StoreCall, names: &[&str]| {
        let Some(Ask::KeepAlive(request)) = &call.body else { panic!("{call:?}") };
        let items = request.items.iter().filter(|item| names.contains(&&*item.name));
        let request = KeepAliveRequest { items: items.cloned().collect(), ..request.clone() };
        StoreCall { body: Some(Ask::KeepAlive(request)), ..call.clone() }
    };
    // It is answered behind a split: what has stayed, and then where the rest is.
    rig.reply(B, &first, kept_alive(&part(&first, &["a"])));
    let halves = [("", "m", 1), ("m", "", 2)];
    let half = |(start, end, range_id)| descriptor(range_id, start, end, 5, &[1, 2, 3]);
    let descriptors = halves.map(half).to_vec();
    rig.reply(B, &first, error(Kind::EpochNotMatch(EpochNotMatch { descriptors })));
    rig.pass(FLUSH_EVERY_US);
    let (to, second) = rig.sent_one();
    assert_eq!((to, second.range_id, second.version), (B, 2, 5));
    assert_eq!(second.body, part(&first, &["x", "z"]).body, "under its seq, and without a");
    rig.reply(B, &second, kept_alive(&second));
    assert_eq!(rig.heard(), [one(id, "seq 8"), one(id, "seq 8")].concat());
    assert_eq!((rig.hub.calls_open(), rig.hub.keepalive_items()), (0, 0));
}

#[test]
fn what_may_have_been_done_is_never_sent_again() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("a");
    let (_, call) = rig.sent_one();
    rig.reply(B, &call, error(Kind::Indeterminate(Indeterminate {})));
    assert_eq!(rig.sent_calls(), []);
    assert_eq!(rig.heard(), one(id, "INDETERMINATE"));
}

#[test]
fn an_answer_counts_only_from_the_store_that_has_the_call() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("a");
    let (_, first) = rig.sent_one();
    rig.reply(A, &first, granted(1));
    assert_eq!(rig.heard(), []);
    rig.reply(B, &first, not_leader(3));
    let (_, second) = rig.sent_one();
    rig.reply(B, &first, granted(2));
    assert_eq!(rig.heard(), []);
    rig.reply(C, &second, granted(3));
    assert_eq!(rig.heard(), one(id, "token 3"));
}

#[test]
fn a_lost_link_fails_its_calls_at_once_and_the_next_go_elsewhere() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let acquire = rig.acquire("a");
    let release = rig.ask(session_call::Body::Release(ReleaseRequest {
        name: "a".to_owned(),
        token: 3,
        acquisition_id: 1,
        ..ReleaseRequest::default()
    }));
    let look = rig.ask(session_call::Body::GetLock(GetLockRequest {
        name: "a".to_owned(),
        ..GetLockRequest::default()
    }));
    let under_way = rig.sent_calls();
    assert!(under_way.iter().all(|(to, _)| *to == B));
    rig.hub.link_lost(rig.now_us, B);
    let want: Vec<_> =
        [(acquire, "INDETERMINATE"), (release, "INDETERMINATE"), (look, "NO_ANSWER")].into();
    let heard = rig.heard();
    let heard: Vec<_> = heard.iter().map(|(id, what)| (*id, what.as_str())).collect();
    assert_eq!(heard, want);
    assert_eq!(rig.hub.calls_open(), 0);
    assert!(rig.hub.is_ready(), "the others say that there is a leader");
    rig.reply(B, &under_way[0].1, granted(9));
    assert_eq!(rig.heard(), [], "an answer from beyond");
    rig.acquire("b");
    assert_eq!(rig.sent_one().0, C);
}

#[test]
fn calls_go_on_by_known_routes_while_links_come_and_go() {
    let wires = Arc::new(Wires::default());
    let hub = Hub::new(HubConfig::default(), wires.clone(), Arc::new(()));
    let port = SessionPort::open(&hub, "10.0.0.1:5".to_owned()).expect("there is room");
    let mut rig = Rig { hub, wires, port, now_us: 1_000, next_call: 1 };
    let route = |leader_store_id, term| RoutesUpdate {
        routes: vec![sharklock_proto::internal::v1::Route {
            descriptor: Some(descriptor(1, "", "", 4, &[1, 2, 3])),
            leader_store_id,
            term,
        }],
        ..RoutesUpdate::default()
    };
    // The masters know the range before any store is connected.
    rig.hub.learn_routes(&route(2, 5));
    let id = rig.acquire("a");
    assert_eq!(rig.heard(), one(id, "NO_LEADER"));
    rig.hub.link_up(rig.now_us, C);
    rig.acquire("a");
    let (to, call) = rig.sent_one();
    assert_eq!((to, call.range_id, call.version), (C, 1, 4), "whoever is there is asked");
    rig.hub.link_up(rig.now_us, B);
    rig.reply(C, &call, not_leader(2));
    assert_eq!(rig.sent_one().0, B);
    rig.hub.link_lost(rig.now_us, B);
    // No master speaks any more: what is known serves on.
    rig.acquire("b");
    assert_eq!(rig.sent_one().0, C);
    rig.hub.link_up(rig.now_us, B);
    rig.hub.learn_routes(&route(2, 6));
    rig.acquire("c");
    assert_eq!(rig.sent_one().0, B, "it is back, and leads");
    assert_eq!(rig.hub.stores(), [B, C]);
}

#[test]
fn keepalives_under_way_on_a_lost_link_go_elsewhere_with_their_seq_and_age() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.keep_alive(8, 3);
    let (to, first) = rig.sent_one();
    assert_eq!(to, B);
    rig.now_us += 1_000;
    rig.hub.link_lost(rig.now_us, B);
    assert_eq!(rig.heard(), []);
    assert!(rig.hub.next_due_us() <= rig.now_us + FLUSH_EVERY_US);
    rig.pass(FLUSH_EVERY_US);
    let (to, second) = rig.sent_one();
    assert_eq!((to, second.age_ms), (C, 26));
    assert_eq!(second.body, first.body);
    rig.reply(C, &second, kept_alive(&second));
    assert_eq!(rig.heard(), one(id, "seq 8"));
    assert_eq!((rig.hub.calls_open(), rig.hub.keepalive_items()), (0, 0));
}

#[test]
fn keepalives_follow_the_leader() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.keep_alive(8, 3);
    let (_, first) = rig.sent_one();
    rig.reply(B, &first, not_leader(1));
    rig.pass(FLUSH_EVERY_US);
    let (to, second) = rig.sent_one();
    assert_eq!(to, A);
    rig.reply(A, &second, kept_alive(&second));
    assert_eq!(rig.heard(), one(id, "seq 8"));
}

#[test]
fn with_no_link_at_all_everybody_is_told_at_once() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    [A, B, C].into_iter().for_each(|store| rig.hub.link_lost(rig.now_us, store));
    assert!(!rig.hub.is_ready());
    let acquire = rig.acquire("a");
    let keep_alive = rig.keep_alive(9, 3);
    let heard = rig.heard();
    assert_eq!(heard, [(acquire, "NO_LEADER".to_owned()), (keep_alive, "NO_LEADER".to_owned())]);
    assert_eq!(rig.sent(), []);
    assert_eq!((rig.hub.calls_open(), rig.hub.keepalive_items()), (0, 0));
    rig.hub.link_up(rig.now_us, B);
    rig.acquire("a");
    let sent = rig.sent();
    assert!(sent.iter().all(|(to, _)| *to == B));
    assert_eq!(sent.len(), 2, "it is asked to describe itself, and the call: {sent:?}");
}

#[test]
fn a_store_that_says_nothing_is_found_out_and_led_around_until_it_speaks() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let answer_others = |rig: &mut Rig| {
        for (to, call) in rig.sent() {
            if to != B {
                rig.reply(to, &call, described(&[1, 2, 3], 2, 5));
            }
        }
    };
    rig.acquire("a");
    let mut silent_after_us = 0;
    while rig.hub.routing().route(b"a").expect("there are links").store == B {
        assert!(silent_after_us < 10_000_000, "it is never found out");
        let due_us = rig.hub.next_due_us();
        assert!(due_us > rig.now_us, "what is due is done");
        silent_after_us += due_us - rig.now_us;
        rig.pass(due_us - rig.now_us);
        answer_others(&mut rig);
    }
    let bound_us = OWED_MAX_US + LISTEN_EVERY_US + DESCRIBE_WITHIN_US;
    assert!(silent_after_us <= bound_us + 100_000, "{silent_after_us}");
    assert_eq!(rig.hub.calls_open(), 1, "it may still be answered");
    // It was only slow.
    rig.hub.dispatch(rig.now_us, B, Vec::new());
    rig.hub.routing_mut().answered(1, B);
    rig.acquire("b");
    assert!(rig.sent_calls().iter().any(|(to, _)| *to == B));
}

/// What is asked of stores, and behind which change.
fn questions(rig: &mut Rig) -> Vec<(StoreId, StoreCall, Option<u64>)> {
    let heard = |call: &StoreCall| match &call.body {
        Some(Ask::Describe(question)) => Some(question.heard),
        _ => None,
    };
    let sent = rig.sent().into_iter();
    sent.filter_map(|(to, call)| heard(&call).map(|heard| (to, call, heard))).collect()
}

fn whole(descriptors: Vec<RangeDescriptor>, leader_store_id: u64) -> Body {
    let range = RangeStatus { range_id: 1, leader_store_id, term: 5, ..RangeStatus::default() };
    let ranges = vec![range];
    Body::Describe(StoreDescription { ranges, descriptors, upto: 7, ..StoreDescription::default() })
}

fn nothing_new() -> Body {
    Body::Describe(StoreDescription { since: 7, upto: 7, ..StoreDescription::default() })
}

#[test]
fn a_leader_that_was_out_of_sight_is_known_again_by_what_was_said_before() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    rig.pass(DESCRIBE_EVERY_US);
    rig.describe_all(&whole(vec![descriptor(1, "", "", 4, &[1, 2, 3])], 2));
    rig.hub.link_lost(rig.now_us, B);
    rig.hub.link_up(rig.now_us, B);
    let asked = questions(&mut rig);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].0, asked[0].2), (B, Some(0)), "a new link has heard nothing");
    rig.acquire("a");
    assert_eq!(rig.sent_one().0, C, "nobody says who leads");
    rig.pass(DESCRIBE_AGAIN_US);
    for (to, call, heard) in questions(&mut rig) {
        assert_eq!((to == B, heard), (false, Some(7)));
        rig.reply(to, &call, nothing_new());
    }
    rig.acquire("b");
    assert_eq!(rig.sent_one().0, B);
}

#[test]
fn where_nothing_is_known_of_a_name_stores_say_everything_anew() {
    let mut rig = Rig::new(&[1], 1);
    rig.run(DESCRIBE_EVERY_US);
    rig.describe_all(&whole(vec![descriptor(1, "", "m", 5, &[1])], 1));
    rig.run(DESCRIBE_EVERY_US);
    let asked = questions(&mut rig);
    assert_eq!(asked[0].2, Some(7));
    rig.reply(A, &asked[0].1, nothing_new());
    rig.acquire("z");
    let (_, call) = rig.sent_one();
    assert_eq!(call.range_id, 0);
    rig.pass(DESCRIBE_AGAIN_US);
    assert_eq!(questions(&mut rig)[0].2, Some(0));
}

#[test]
fn a_range_with_one_voter_keeps_no_copies() {
    let mut rig = Rig::new(&[1], 1);
    let id = rig.acquire("a");
    let (_, call) = rig.sent_one();
    let stream = rig.hub.streams.get(rig.port.number()).expect("it is open");
    assert!(stream.outbox().kept(Tag::from_wire(call.tag).call).is_none());
    rig.reply(A, &call, not_leader(0));
    assert_eq!(rig.heard(), one(id, "NO_LEADER"));
}

#[test]
fn a_call_that_the_leaders_link_does_not_take_fails() {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let id = rig.acquire("a");
    let (_, call) = rig.sent_one();
    rig.wires.full.lock().unwrap().insert(C);
    rig.reply(B, &call, not_leader(3));
    assert_eq!(rig.heard(), one(id, "OVERLOADED"));
    assert_eq!(rig.hub.calls_open(), 0);
}

/// Another gateway could do no more about it.
#[test]
fn a_gateway_is_ready_when_every_name_has_a_route_and_a_store_answers_whoever_leads() {
    let mut rig = Rig::new(&[1, 2, 3], 0);
    assert!(rig.hub.is_ready() && rig.hub.lacks().is_none());
    let remark = rig.hub.remark().expect("a range without a leader");
    assert_eq!(remark, "1 of 1 ranges have no leader that is known: 1");
    rig.describe_all(&described(&[1, 2, 3], 2, 5));
    rig.run(DESCRIBE_AGAIN_US);
    rig.describe_all(&described(&[1, 2, 3], 2, 5));
    assert_eq!(rig.hub.remark(), None);
    // It has heard of one half of a split: the next call that needs the other half finds it.
    rig.acquire("a");
    let (to, call) = rig.sent_one();
    let descriptors = vec![descriptor(1, "", "m", 5, &[1, 2, 3])];
    rig.reply(to, &call, error(Kind::EpochNotMatch(EpochNotMatch { descriptors })));
    assert!(rig.hub.is_ready());
    let remark = rig.hub.remark().expect("the names from m on");
    assert!(remark.contains("the names after range 1, the last, belong to no range"), "{remark}");
    [A, B, C].into_iter().for_each(|store| rig.hub.link_lost(rig.now_us, store));
    assert_eq!(rig.hub.lacks().as_deref(), Some("no store answers that has a range"));
}

#[test]
fn a_gateway_that_knows_routes_for_a_part_of_the_names_is_not_ready_and_says_which_it_lacks() {
    let observer = Arc::new(Told::default());
    let hub = Hub::new(HubConfig::default(), Arc::new(Wires::default()), observer.clone());
    assert_eq!(hub.lacks().as_deref(), Some("no store answers that has a range"));
    hub.link_up(1_000, A);
    let said = |range_id, start, end| {
        let ranges = vec![RangeStatus { range_id, ..RangeStatus::default() }];
        let descriptors = vec![descriptor(range_id, start, end, 4, &[1])];
        let said = StoreDescription { descriptors, ranges, ..StoreDescription::default() };
        let tag = Tag { stream: StreamNumber::GATEWAY, call: CallNumber::DESCRIBE }.to_wire();
        vec![StoreReply { tag, stream: 0, body: Some(Body::Describe(said)) }]
    };
    hub.dispatch(1_000, A, said(1, "", "m"));
    let lacks = hub.lacks().expect("the names from m on");
    assert!(lacks.contains("the names after range 1, the last, belong to no range"), "{lacks}");
    let route = sharklock_proto::internal::v1::Route {
        descriptor: Some(descriptor(2, "m", "", 4, &[1])),
        ..Default::default()
    };
    hub.learn_routes(&RoutesUpdate { routes: vec![route], ..RoutesUpdate::default() });
    assert!(hub.is_ready(), "the masters have told the rest");
    hub.link_lost(1_000, A);
    assert_eq!(*observer.0.lock().unwrap(), [true, false], "each once, when it happens");
}

/// What its owner is told of readiness.
#[derive(Default)]
struct Told(Mutex<Vec<bool>>);

impl Observer for Told {
    fn ready_changed(&self, ready: bool) {
        self.0.lock().unwrap().push(ready);
    }
}

#[test]
fn an_answer_turns_a_guess_into_knowledge() {
    let mut rig = Rig::new(&[1, 2, 3], 0);
    rig.acquire("a");
    let (to, call) = rig.sent_one();
    assert!(rig.hub.routing().learns_from_answers());
    rig.reply(to, &call, granted(1));
    assert!(!rig.hub.routing().learns_from_answers());
}

#[test]
fn events_reach_their_stream_and_those_of_closed_streams_nobody() {
    let mut rig = Rig::new(&[1], 1);
    let event = |stream: u32| {
        let event = AcquisitionEvent { name: "a".to_owned(), ..AcquisitionEvent::default() };
        StoreReply { tag: 0, stream: u64::from(stream), body: Some(Body::Event(event)) }
    };
    let other = SessionPort::open(&rig.hub, String::new()).expect("there is room");
    let closed = other.number().0;
    drop(other);
    assert_eq!(rig.hub.streams_open(), 1);
    let number = rig.port.number().0;
    rig.hub.dispatch(rig.now_us, A, vec![event(number), event(closed)]);
    assert_eq!(rig.heard(), one(0, "event a"));
}

/// A unary Acquire on a stream of its own, as the edge makes it.
fn unary(rig: &mut Rig, id: u64) -> (StreamHandle, Session) {
    let acquire = AcquireRequest {
        name: "a".to_owned(),
        acquisition_id: id,
        seq: id,
        mode: 1,
        ..AcquireRequest::default()
    };
    let frame = Frame::of_call(&Bytes::from_static(&[7; 16]), 1);
    let limits = rig.hub.limits();
    let checked = crate::validate::acquire(&limits, &frame, acquire).expect("it is good");
    let session = checked.session().expect("an acquire has one").clone();
    let handle = StreamHandle::open(&rig.hub).expect("there is room");
    let origin = Origin { events_to: handle.number(), is_unary: true, address: "10.0.0.1:5" };
    handle.submit(rig.now_us, [(1, Ok(checked))].into_iter(), origin);
    (handle, session)
}

/// On the lane of its acquire, so that it cannot overtake it.
#[test]
fn a_withdrawal_follows_its_acquire_under_the_same_number() {
    let mut rig = Rig::new(&[1, 2], 2);
    rig.acquire("a");
    assert_eq!(rig.sent_one().1.asker, 0, "a stream speaks for itself");
    let (handle, session) = unary(&mut rig, 9);
    let (to, asked) = rig.sent_one();
    assert_eq!((to, asked.asker), (B, u64::from(handle.number().0)));
    handle.withdraw(&session, "a", 9, true);
    drop(handle);
    let (to, withdrawn) = rig.sent_one();
    assert_eq!((to, withdrawn.asker, withdrawn.range_id), (B, asked.asker, 1));
    assert_eq!((&withdrawn.session, withdrawn.instance), (&asked.session, asked.instance));
    let lane = |call: &StoreCall| call.body.as_ref().expect("it has a body").lane();
    assert_eq!(lane(&withdrawn), lane(&asked));
    // An error that comes back all the same finds nobody.
    rig.reply(B, &withdrawn, not_leader(1));
    assert_eq!(rig.heard(), vec![]);
    assert_eq!(rig.hub.calls_open(), 1);
}

/// Nobody leads, or the link is full: the lease ends it.
#[test]
fn a_withdrawal_that_cannot_be_sent_is_forgotten() {
    let mut rig = Rig::new(&[1], 1);
    let (handle, session) = unary(&mut rig, 9);
    rig.sent();
    rig.wires.full.lock().unwrap().insert(A);
    handle.withdraw(&session, "a", 9, true);
    rig.hub.link_lost(rig.now_us, A);
    handle.withdraw(&session, "a", 9, true);
    assert_eq!(rig.sent_calls(), vec![]);
}

#[test]
fn calls_that_nobody_answers_are_given_up() {
    let mut rig = Rig::new(&[1], 1);
    let acquire = rig.acquire("a");
    rig.keep_alive(9, 3);
    assert_eq!(rig.sent_calls().len(), 2);
    while rig.now_us < CALL_LIFE_US + 2 * SWEEP_EVERY_US {
        let due_us = rig.hub.next_due_us();
        rig.pass(due_us.saturating_sub(rig.now_us).max(1));
        rig.describe_all(&described(&[1], 1, 5));
    }
    let heard = rig.heard();
    assert_eq!(heard[0], (acquire, "INDETERMINATE".to_owned()));
    assert_eq!(heard[1].1, Reason::NoAnswer.as_str());
    assert_eq!((rig.hub.calls_open(), rig.hub.keepalive_items()), (0, 0));
}

/// Everything that comes out of a gateway with many streams, as text.
fn story() -> String {
    let mut rig = Rig::new(&[1, 2, 3], 2);
    let mut ports: Vec<_> = (0..50)
        .map(|at| SessionPort::open(&rig.hub, format!("10.0.0.{at}:1")).expect("room"))
        .collect();
    let mut told = String::new();
    for round in 0..6 {
        for (at, port) in ports.iter_mut().enumerate() {
            let id = round * 100 + at as u64 + 1;
            let acquire = AcquireRequest {
                name: format!("lock {}", at % 7),
                acquisition_id: id,
                seq: 2 * id,
                mode: 1,
                ..AcquireRequest::default()
            };
            let item = KeepAliveItem { name: format!("lock {}", at % 5), acquisition_id: id };
            let keep_alive =
                KeepAliveRequest { seq: 2 * id + 1, items: vec![item], ..Default::default() };
            let calls =
                [session_call::Body::Acquire(acquire), session_call::Body::KeepAlive(keep_alive)];
            let calls = calls
                .into_iter()
                .enumerate()
                .map(|(at, body)| SessionCall { call_id: 2 * id + at as u64, body: Some(body) })
                .collect();
            let session_id = Bytes::copy_from_slice(&[at as u8 + 1; 16]);
            let request = SessionRequest { session_id, instance: 1, calls };
            port.take_in(rig.now_us, request).expect("it is well-formed");
        }
        rig.pass(FLUSH_EVERY_US);
        match round {
            2 => rig.hub.link_lost(rig.now_us, B),
            3 => rig.hub.link_up(rig.now_us, B),
            4 => rig.pass(CALL_LIFE_US + SWEEP_EVERY_US),
            _ => {}
        }
        for (at, (to, call)) in rig.sent().into_iter().enumerate() {
            told.push_str(&format!("{to} {call:?}\n"));
            if at % 3 > 0 {
                rig.reply(to, &call, not_leader(at as u64 % 4));
            }
        }
        for port in &mut ports {
            while let Some(message) = port.take_out().expect("it is read") {
                told.push_str(&format!("{message:?}\n"));
            }
        }
    }
    told
}

#[test]
fn equal_calls_have_equal_results() {
    let told = story();
    assert!(told.contains("INDETERMINATE") && told.contains("NO_LEADER"), "the story is rich");
    assert!(told == story());
}

/// Why calls did not find their ranges.
#[derive(Default)]
struct Missed(Mutex<Vec<RouteMiss>>);

impl Observer for Missed {
    fn route_missed(&self, why: RouteMiss) {
        self.0.lock().unwrap().push(why);
    }
}

#[test]
fn a_call_that_finds_no_route_is_one_miss_however_often_it_is_looked_for() {
    let observer = Arc::new(Missed::default());
    let hub = Hub::new(HubConfig::default(), Arc::new(Wires::default()), observer.clone());
    let port = SessionPort::open(&hub, String::new()).expect("there is room");
    let (wires, now_us) = (Arc::new(Wires::default()), 1_000);
    let mut rig = Rig { hub, wires, port, now_us, next_call: 1 };
    let id = rig.acquire("a");
    assert_eq!(rig.heard(), one(id, "NO_LEADER"));
    let release =
        Ask::Release(ReleaseRequest { name: "a".to_owned(), ..ReleaseRequest::default() });
    assert_eq!(rig.hub.target(&release), None);
    assert_eq!(*observer.0.lock().unwrap(), [RouteMiss::Unknown]);
}
