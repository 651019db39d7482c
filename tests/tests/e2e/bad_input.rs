//! Every bad input of a client gets the answer that is documented for it, over the wire, as no
//! well-behaved client would send it; in both forms of the API.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, CancelOutcome, CancelRequest, CheckTokenRequest,
    ForceReleaseRequest, GetLockRequest, GoneReason, KeepAliveRequest, KeepAliveState,
    ListLocksRequest, LockMode, ReleaseOutcome, ReleaseRequest, SessionCall, SessionRequest,
    admin_service_client::AdminServiceClient, lock_service_client::LockServiceClient,
    session_answer, session_call,
};
use sharklock_tests::server::Server;
use sharklock_tests::wire::{Session, channel, domain, locks, reason};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Stands in every bad text, and must stand in no answer: errors never repeat raw input.
const MARK: &str = "zebra";

/// A call in its unary form.
#[derive(Clone, Debug)]
enum Call {
    Acquire(AcquireRequest),
    Release(ReleaseRequest),
    Cancel(CancelRequest),
    KeepAlive(KeepAliveRequest),
    CheckToken(CheckTokenRequest),
    GetLock(GetLockRequest),
    ListLocks(ListLocksRequest),
    ForceRelease(ForceReleaseRequest),
}

impl Call {
    async fn unary(&self, channel: &Channel) -> Result<(), Status> {
        let mut locks = LockServiceClient::new(channel.clone());
        let mut admin = AdminServiceClient::new(channel.clone());
        match self.clone() {
            Self::Acquire(request) => locks.acquire(request).await.map(drop),
            Self::Release(request) => locks.release(request).await.map(drop),
            Self::Cancel(request) => locks.cancel(request).await.map(drop),
            Self::KeepAlive(request) => locks.keep_alive(request).await.map(drop),
            Self::CheckToken(request) => locks.check_token(request).await.map(drop),
            Self::GetLock(request) => locks.get_lock(request).await.map(drop),
            Self::ListLocks(request) => locks.list_locks(request).await.map(drop),
            Self::ForceRelease(request) => admin.force_release(request).await.map(drop),
        }
    }

    /// The same as part of a batch; some exist in the unary form only.
    fn batched(&self) -> Option<SessionRequest> {
        use session_call::Body;
        let (id, instance, body) = match self.clone() {
            Self::Acquire(r) => (r.session_id.clone(), r.instance, Body::Acquire(r)),
            Self::Release(r) => (r.session_id.clone(), r.instance, Body::Release(r)),
            Self::Cancel(r) => (r.session_id.clone(), r.instance, Body::Cancel(r)),
            Self::KeepAlive(r) => (r.session_id.clone(), r.instance, Body::KeepAlive(r)),
            Self::CheckToken(r) => (Session::default().id, 1, Body::CheckToken(r)),
            Self::GetLock(r) => (Session::default().id, 1, Body::GetLock(r)),
            Self::ListLocks(_) | Self::ForceRelease(_) => return None,
        };
        let calls = vec![SessionCall { call_id: 1, body: Some(body) }];
        Some(SessionRequest { session_id: id, instance, calls })
    }
}

type Row = (&'static str, Call, Code, &'static str);

/// Bad input that one call shows, each broken in one place only, with the reason that answers it.
fn rows(session: &Session) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let bad = Code::InvalidArgument;
    let long_name = MARK.repeat(103); // 515 bytes
    let names = [
        ("an empty name", ""),
        ("a name of 515 bytes", long_name.as_str()),
        ("NUL in a name", "zebra\0"),
        ("a line break in a name", "zebra\n"),
        ("an escape in a name", "\u{1b}[31mzebra"),
        ("DEL in a name", "zebra\u{7f}"),
        ("a C1 control in a name", "zebra\u{85}"),
        ("a line separator in a name", "zebra\u{2028}"),
        ("text direction in a name", "zebra\u{202e}"),
    ];
    for (why, name) in names {
        let name = name.to_owned();
        let with = |call| (why, call, bad, "BAD_LOCK_NAME");
        rows.push(with(Call::Acquire(session.acquire(&name))));
        rows.push(with(Call::Release(session.release(&name, 1, 1))));
        rows.push(with(Call::Cancel(session.cancel(&name, 1))));
        rows.push(with(Call::KeepAlive(session.keep_alive(&[(&name, 1)]))));
        rows.push(with(Call::CheckToken(CheckTokenRequest { name: name.clone(), token: 1 })));
        rows.push(with(Call::GetLock(GetLockRequest { name: name.clone(), waiters_max: 0 })));
        if !name.is_empty() {
            let request = ListLocksRequest { prefix: name.clone(), ..Default::default() };
            rows.push(with(Call::ListLocks(request)));
            let request = ListLocksRequest { page_token: name.clone(), ..Default::default() };
            rows.push((why, Call::ListLocks(request), bad, "BAD_PAGE_TOKEN"));
        }
        let reason = "because".to_owned();
        let request = ForceReleaseRequest { name, reason, ..Default::default() };
        rows.push(with(Call::ForceRelease(request)));
    }

    let mut acquire = |why, spoil: fn(&mut AcquireRequest), code, reason| {
        let mut request = session.acquire("good");
        spoil(&mut request);
        rows.push((why, Call::Acquire(request), code, reason));
    };
    acquire("ttl 0", |r| r.ttl_ms = Some(0), bad, "BAD_TTL");
    acquire("ttl below 2 s", |r| r.ttl_ms = Some(1_999), bad, "BAD_TTL");
    acquire("ttl above 10 min", |r| r.ttl_ms = Some(600_001), bad, "BAD_TTL");
    acquire("ttl that overflows", |r| r.ttl_ms = Some(u64::MAX), bad, "BAD_TTL");
    acquire("a wait above an hour", |r| r.wait_ms = Some(3_600_001), bad, "BAD_WAIT");
    acquire("a wait that overflows", |r| r.wait_ms = Some(u64::MAX), bad, "BAD_WAIT");
    acquire("no mode", |r| r.mode = 0, bad, "BAD_MODE");
    acquire("an unknown mode", |r| r.mode = 99, bad, "BAD_MODE");
    acquire("a negative mode", |r| r.mode = -1, bad, "BAD_MODE");
    acquire(
        "permits without the mode",
        |r| (r.permits, r.permits_max) = (1, 2),
        bad,
        "BAD_PERMITS",
    );
    let permits = |r: &mut AcquireRequest, n, of| {
        (r.mode, r.permits, r.permits_max) = (LockMode::Permits.into(), n, of);
    };
    let mut with_permits = |why, n, of| {
        let mut request = session.acquire("good");
        permits(&mut request, n, of);
        rows.push((why, Call::Acquire(request), bad, "BAD_PERMITS"));
    };
    with_permits("no permits", 0, 5);
    with_permits("permits of none", 1, 0);
    with_permits("more permits than there are", 6, 5);
    with_permits("65,536 permits", 1, 65_536);
    let mut acquire = |why, spoil: fn(&mut AcquireRequest), reason| {
        let mut request = session.acquire("good");
        spoil(&mut request);
        rows.push((why, Call::Acquire(request), bad, reason));
    };
    acquire("an owner of 260 bytes", |r| r.owner_id = MARK.repeat(52), "BAD_OWNER");
    acquire("a line break in an owner", |r| r.owner_id = "zebra\n".into(), "BAD_OWNER");
    acquire(
        "attributes of 5,010 bytes",
        |r| drop(r.attributes.insert("k".repeat(10), MARK.repeat(1_000))),
        "BAD_ATTRIBUTES",
    );
    acquire(
        "NUL in an attribute",
        |r| drop(r.attributes.insert("k".into(), "zebra\0".into())),
        "BAD_ATTRIBUTES",
    );
    acquire(
        "an attribute without a key",
        |r| drop(r.attributes.insert(String::new(), MARK.into())),
        "BAD_ATTRIBUTES",
    );
    acquire("no session", |r| r.session_id = Bytes::new(), "BAD_SESSION");
    acquire(
        "a session of 15 bytes",
        |r| r.session_id = Bytes::from_static(&[7; 15]),
        "BAD_SESSION",
    );
    acquire(
        "a session of 17 bytes",
        |r| r.session_id = Bytes::from_static(&[7; 17]),
        "BAD_SESSION",
    );
    acquire("a session of zeros", |r| r.session_id = Bytes::from_static(&[0; 16]), "BAD_SESSION");
    acquire("instance 0", |r| r.instance = 0, "BAD_SESSION");
    acquire("acquisition id 0", |r| r.acquisition_id = 0, "BAD_ACQUISITION_ID");
    acquire("seq 0", |r| r.seq = 0, "BAD_SEQ");
    acquire("re-entry of token 0", |r| r.reenter_token = Some(0), "BAD_TOKEN");

    rows.push(("token 0", Call::Release(session.release("good", 0, 1)), bad, "BAD_TOKEN"));
    let request = session.release("good", 1, 0);
    rows.push(("acquisition id 0", Call::Release(request), bad, "BAD_ACQUISITION_ID"));
    let request = session.cancel("good", 0);
    rows.push(("acquisition id 0", Call::Cancel(request), bad, "BAD_ACQUISITION_ID"));
    rows.push(("no items", Call::KeepAlive(session.keep_alive(&[])), bad, "BAD_BATCH"));
    let many: Vec<(&str, u64)> = (1..=65).map(|id| ("good", id)).collect();
    rows.push(("65 items", Call::KeepAlive(session.keep_alive(&many)), bad, "BAD_BATCH"));
    let twice = session.keep_alive(&[("good", 1), ("good", 1)]);
    rows.push(("one item twice", Call::KeepAlive(twice), bad, "BAD_BATCH"));
    let mut request = session.keep_alive(&[("good", 1)]);
    request.seq = 0;
    rows.push(("seq 0", Call::KeepAlive(request), bad, "BAD_SEQ"));
    let request = CheckTokenRequest { name: "good".into(), token: 0 };
    rows.push(("token 0", Call::CheckToken(request), bad, "BAD_TOKEN"));
    let mut force = |why, spoil: fn(&mut ForceReleaseRequest), reason| {
        let (name, because) = ("good".to_owned(), "because".to_owned());
        let mut request = ForceReleaseRequest { name, reason: because, ..Default::default() };
        spoil(&mut request);
        rows.push((why, Call::ForceRelease(request), bad, reason));
    };
    force("no reason", |r| r.reason.clear(), "BAD_REASON");
    force("a reason of 1,025 bytes", |r| r.reason = MARK.repeat(205), "BAD_REASON");
    force("a line break in a reason", |r| r.reason = "zebra\r\n".into(), "BAD_REASON");
    force("an operator of 260 bytes", |r| r.operator = MARK.repeat(52), "BAD_OPERATOR");
    force("token 0", |r| r.token = Some(0), "BAD_TOKEN");
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_get_the_documented_code_and_reason_in_both_forms() {
    let mut server = Server::start().await;
    let channel = channel(&server).await;
    let session = Session::default();
    for (why, call, code, expected) in rows(&session) {
        let status = call.unary(&channel).await.expect_err(why);
        assert_eq!((status.code(), reason(&status).as_str()), (code, expected), "{why}: {call:?}");
        assert_eq!(domain(&status), "sharklock", "{why}");
        assert!(!status.message().is_empty() && !status.message().contains(MARK), "{status}");
        let Some(batch) = call.batched() else { continue };
        let failure = first_failure(&channel, batch).await;
        assert_eq!((failure.0, failure.1.as_str()), (code as i32, expected), "{why}: {call:?}");
        assert!(!failure.2.contains(MARK), "{}", failure.2);
    }
    server.assert_serves().await;
}

/// Sends one message on a stream of its own, and gives the failure that answers its call.
async fn first_failure(channel: &Channel, batch: SessionRequest) -> (i32, String, String) {
    let mut client = LockServiceClient::new(channel.clone());
    // The stream stays open until the answer is there.
    let (send, receive) = tokio::sync::mpsc::channel(1);
    send.send(batch).await.expect("the stream is open");
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = client.session(requests).await.expect("it opens").into_inner();
    let answer = tokio::time::timeout(Duration::from_secs(10), answers.message()).await;
    let answer = answer.expect("it is answered").expect("the stream goes on");
    let answer = answer.expect("there is an answer").answers.remove(0);
    assert_eq!(answer.call_id, 1);
    match answer.body {
        Some(session_answer::Body::Failure(f)) => (f.code, f.reason, f.message),
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_and_late_calls_are_answers_and_no_errors() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (a, b) = (Session::default(), Session::default());
    let first = a.acquire("n");
    let id = first.acquisition_id;
    let granted = locks.acquire(first.clone()).await.unwrap().into_inner();
    assert_eq!(granted.outcome(), AcquireOutcome::Granted);
    assert_eq!((granted.seq, granted.acquisition_id), (first.seq, id));

    // A retry of the same acquisition is the same grant.
    let retry = AcquireRequest { seq: a.next(), ..first.clone() };
    let again = locks.acquire(retry.clone()).await.unwrap().into_inner();
    assert_eq!((again.outcome(), again.token), (AcquireOutcome::Granted, granted.token));
    assert_eq!(again.seq, retry.seq, "each attempt is answered by its own seq");

    // The same id for something else is refused.
    let reused = AcquireRequest { name: "other".into(), seq: a.next(), ..first.clone() };
    match locks.acquire(reused).await {
        Err(status) => {
            let got = (status.code(), reason(&status));
            assert_eq!(got, (Code::InvalidArgument, "ACQUISITION_REUSED".to_owned()));
        }
        Ok(granted) => panic!("one id, two locks: {granted:?}"),
    }
    let reused = AcquireRequest { mode: LockMode::Shared.into(), seq: a.next(), ..first.clone() };
    let status = locks.acquire(reused).await.unwrap_err();
    assert_eq!(reason(&status), "ACQUISITION_REUSED", "{status}");

    let refused = locks.acquire(b.acquire("n")).await.unwrap().into_inner();
    assert_eq!(refused.outcome(), AcquireOutcome::HeldByOther);
    assert_eq!(refused.holders[0].token, granted.token);
    let late = AcquireRequest { wait_ms: Some(100), ..b.acquire("n") };
    let late = locks.acquire(late).await.unwrap().into_inner();
    assert_eq!(late.outcome(), AcquireOutcome::WaitTimedOut);
    let seen = GetLockRequest { name: "n".into(), waiters_max: 0 };
    let lock = locks.get_lock(seen).await.unwrap().into_inner().lock.unwrap();
    assert_eq!(lock.waiters_count, 0);

    // Somebody else's release, a release of another token, a cancel of what never was.
    for (session, token, id) in [(&b, granted.token, id), (&a, granted.token + 1, id)] {
        let gone = locks.release(session.release("n", token, id)).await.unwrap().into_inner();
        assert_eq!(gone.outcome(), ReleaseOutcome::Gone, "{session:?} {token}");
    }
    let other = locks.cancel(b.cancel("n", id)).await.unwrap().into_inner();
    assert_ne!(other.outcome(), CancelOutcome::Released);
    let check = CheckTokenRequest { name: "n".into(), token: granted.token };
    assert!(locks.check_token(check.clone()).await.unwrap().into_inner().live);

    // A keepalive of both: each item gets its own answer.
    let request = a.keep_alive(&[("n", id), ("n", 4_000_000)]);
    let seq = request.seq;
    let answers = locks.keep_alive(request).await.unwrap().into_inner().answers;
    assert_eq!(answers.len(), 2, "{answers:?}");
    for answer in answers {
        let expected =
            if answer.acquisition_id == id { KeepAliveState::Held } else { KeepAliveState::Gone };
        assert_eq!((answer.state(), answer.seq), (expected, seq), "{answer:?}");
    }
    // Another session cannot keep it alive.
    let request = b.keep_alive(&[("n", id)]);
    let answers = locks.keep_alive(request).await.unwrap().into_inner().answers;
    assert_eq!(answers[0].state(), KeepAliveState::Gone);

    let release = a.release("n", granted.token, id);
    let released = locks.release(release.clone()).await.unwrap().into_inner();
    assert_eq!(released.outcome(), ReleaseOutcome::Released);
    let twice = locks.release(release).await.unwrap().into_inner();
    // A duplicate gets its outcome back, in whichever of its two forms.
    assert_ne!(twice.outcome(), ReleaseOutcome::StillHeld);
    assert!(!locks.check_token(check).await.unwrap().into_inner().live);
    // The acquisition has ended, and a late duplicate of it starts nothing.
    let ghost = AcquireRequest { seq: a.next(), ..first };
    let ghost = locks.acquire(ghost).await.unwrap().into_inner();
    assert_eq!(ghost.outcome(), AcquireOutcome::Gone);
    assert_eq!(ghost.gone_reason(), GoneReason::Released);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_the_lock_are_failed_preconditions() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let (a, b) = (Session::default(), Session::default());
    let granted = locks.acquire(a.acquire("n")).await.unwrap().into_inner();
    let mut refused = async |request: AcquireRequest| {
        let status = locks.acquire(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        reason(&status)
    };
    let permits = AcquireRequest {
        mode: LockMode::Permits.into(),
        permits: 1,
        permits_max: 2,
        ..b.acquire("n")
    };
    assert_eq!(refused(permits).await, "MODE_MISMATCH");
    let foreign = AcquireRequest { reenter_token: Some(granted.token), ..b.acquire("n") };
    assert_eq!(refused(foreign).await, "NOT_REENTERABLE");
    let other_owner = AcquireRequest {
        reenter_token: Some(granted.token),
        owner_id: "somebody".into(),
        ..a.acquire("n")
    };
    assert_eq!(refused(other_owner).await, "NOT_REENTERABLE");
    let shared = AcquireRequest {
        mode: LockMode::Shared.into(),
        reenter_token: Some(granted.token),
        ..a.acquire("n")
    };
    let status = locks.acquire(shared).await.unwrap_err();
    assert_eq!(reason(&status), "NOT_REENTERABLE");
    assert!(status.message().contains("release it and acquire the lock shared"), "{status}");
    let shared = AcquireRequest { mode: LockMode::Shared.into(), ..a.acquire("s") };
    let shared = locks.acquire(shared).await.unwrap().into_inner();
    let upgrade = AcquireRequest { reenter_token: Some(shared.token), ..a.acquire("s") };
    let status = locks.acquire(upgrade).await.unwrap_err();
    let got = (status.code(), reason(&status));
    assert_eq!(got, (Code::FailedPrecondition, "WOULD_DEADLOCK".to_owned()));
    let lost = AcquireRequest { reenter_token: Some(granted.token + 1_000), ..a.acquire("n") };
    let lost = locks.acquire(lost).await.unwrap().into_inner();
    assert_eq!(lost.outcome(), AcquireOutcome::HoldLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_clamped_and_not_refused() {
    let server = Server::start().await;
    let mut locks = locks(&server).await;
    let session = Session::default();
    for name in ["a", "b", "c"] {
        locks.acquire(session.acquire(name)).await.unwrap();
    }
    let all = ListLocksRequest { page_size: u32::MAX, ..Default::default() };
    assert_eq!(locks.list_locks(all).await.unwrap().into_inner().locks.len(), 3);
    let one = ListLocksRequest { page_size: 1, ..Default::default() };
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = ListLocksRequest { page_token, ..one.clone() };
        let page = locks.list_locks(page).await.unwrap().into_inner();
        names.extend(page.locks.into_iter().map(|lock| lock.name));
        if page.next_page_token.is_empty() {
            break;
        }
        page_token = page.next_page_token;
    }
    assert_eq!(names, ["a", "b", "c"]);
    let look = GetLockRequest { name: "a".into(), waiters_max: u32::MAX };
    assert!(locks.get_lock(look).await.unwrap().into_inner().lock.is_some());
}

/// Messages that are not of the API at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_gets_grpcs_own_answers() {
    let mut server = Server::start().await;
    let channel = channel(&server).await;
    let acquire = "/sharklock.v1.LockService/Acquire";
    let session = Session::default();
    let good = session.acquire("good").encode_to_vec();
    let non_utf8 = {
        let mut bytes = good.clone();
        let at = bytes.windows(4).position(|window| window == b"good").unwrap();
        bytes[at] = 0xff;
        bytes
    };
    let nested = [0x0b].repeat(200); // 200 groups, each in the one before
    let table: [(&str, &str, Vec<u8>, &[Code]); 8] = [
        (
            "an unknown method",
            "/sharklock.v1.LockService/Steal",
            good.clone(),
            &[Code::Unimplemented],
        ),
        (
            "an unknown service",
            "/sharklock.v9.LockService/Acquire",
            good.clone(),
            &[Code::Unimplemented],
        ),
        (
            "an internal service",
            "/sharklock.internal.v1.StoreService/Exchange",
            Vec::new(),
            &[Code::Unimplemented],
        ),
        ("a name that is no UTF-8", acquire, non_utf8, &[Code::Internal, Code::InvalidArgument]),
        ("half a message", acquire, good[..good.len() - 3].to_vec(), &[Code::Internal]),
        ("200 nested groups", acquire, nested, &[Code::Internal]),
        ("noise", acquire, vec![0xff; 64], &[Code::Internal]),
        ("70 KiB", acquire, vec![0x1a; 70 * 1024], &[Code::OutOfRange, Code::ResourceExhausted]),
    ];
    for (why, path, body, codes) in table {
        let status = raw_call(&channel, path, body).await.expect_err(why);
        assert!(codes.contains(&status.code()), "{why}: {status:?}");
    }
    // Unknown fields are no fault: a newer client may talk to an older server.
    let mut newer = session.acquire("newer").encode_to_vec();
    newer.extend([0xfa, 0x7f, 0x03, b'a', b'b', b'c']); // field 2047
    raw_call(&channel, acquire, newer).await.expect("unknown fields are passed over");
    server.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_headers_and_wrong_content_types_are_refused() {
    let mut server = Server::start().await;
    let channel = channel(&server).await;
    let session = Session::default();
    let mut request = Request::new(session.acquire("n"));
    let large = "x".repeat(20 * 1024).parse().expect("ASCII");
    request.metadata_mut().insert("x-large", large);
    let status = LockServiceClient::new(channel).acquire(request).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok, "{status:?}");

    // HTTP/1.1 and plain bytes on the gRPC port are no gRPC.
    for hello in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\u{16}\u{3}\u{1}hello", "\0\0\0\0"] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(server.gateway()).await.unwrap();
        stream.write_all(hello.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("it hangs up");
    }
    server.assert_serves().await;
}

/// Calls a method by its path with these bytes as the message.
async fn raw_call(channel: &Channel, path: &str, body: Vec<u8>) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = path.parse().expect("a path");
    let response = grpc.unary(Request::new(Bytes::from(body)), path, RawCodec).await;
    response.map(tonic::Response::into_inner)
}

/// Messages as they are.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let all = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(all)))
    }
}
