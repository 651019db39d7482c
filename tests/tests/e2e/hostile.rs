//! Bytes that nobody means well with, on the client port: the server answers, refuses or hangs up;
//! it does not fall over, and others are served.
//!
//! The mutations are drawn from a seed, which a failure prints with everything needed to see it
//! again. `FUZZ_SECONDS` (20) is how long, `FUZZ_SEED` which; the inputs in `corpus/` are what
//! mutations start from, and are replayed by themselves. A connection that once did harm joins
//! them as `bad-WHAT.bin`: of the others it is expected that they are answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use sharklock_proto::v1::{
    AcquireRequest, AskRequest, CancelRequest, CheckTokenRequest, ClaimRequest, Condition,
    DowngradeRequest, ForceReleaseRequest, KeepAliveItem, KeepAliveRequest, ListLocksRequest,
    ReclaimRequest, ReleaseRequest, SessionCall, SessionRequest, SetConditionRequest,
    WatchLockRequest, session_call,
};
use sharklock_tests::server::Server;
use sharklock_tests::wire::Session;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types and flags of RFC 9113.
pub(crate) const DATA: u8 = 0x0;
pub(crate) const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
pub(crate) const SETTINGS: u8 = 0x4;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const ACK: u8 = 0x1;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK without tables and without Huffman: each a literal that is never indexed.
pub(crate) fn header_block(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|len| *len < 127).expect("short"));
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A gRPC message: not compressed, its length, its bytes.
pub(crate) fn message(body: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(body.len()).expect("messages are small").to_be_bytes());
    message.extend(body);
    message
}

fn opening() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(SETTINGS, ACK, 0, &[]));
    bytes
}

/// A connection that makes these calls, one per stream.
fn connection(calls: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = opening();
    for (at, (path, body)) in (0_u32..).zip(calls) {
        let stream = 2 * at + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &header_block(path)));
        bytes.extend(frame(DATA, END_STREAM, stream, &message(body)));
    }
    bytes
}

const ACQUIRE: &str = "/sharklock.v1.LockService/Acquire";
pub(crate) const SESSION: &str = "/sharklock.v1.LockService/Session";

/// Good calls, encoded, with their paths.
fn good_calls() -> Vec<(&'static str, Vec<u8>)> {
    let session = Session::default();
    let acquire = session.acquire("fuzz/a");
    let id = acquire.acquisition_id;
    let mut queued = session.acquire("fuzz/a");
    queued.wait_ms = Some(50);
    queued.attributes.insert("k".into(), "v".into());
    let release = session.release("fuzz/a", 1, id);
    let keep_alive = session.keep_alive(&[("fuzz/a", id), ("fuzz/b", id + 1)]);
    let cancel = session.cancel("fuzz/a", id);
    let bodies = [
        session_call::Body::Acquire(session.acquire("fuzz/b")),
        session_call::Body::KeepAlive(session.keep_alive(&[("fuzz/b", id)])),
        session_call::Body::Release(session.release("fuzz/b", 2, id)),
        session_call::Body::Cancel(session.cancel("fuzz/c", id)),
    ];
    let calls = (1..).zip(bodies);
    let calls = calls.map(|(call_id, body)| SessionCall { call_id, body: Some(body) });
    let batch = SessionRequest {
        session_id: session.id.clone(),
        instance: session.instance,
        calls: calls.collect(),
    };
    let list = sharklock_proto::v1::ListLocksRequest { page_size: 9, ..Default::default() };
    vec![
        (ACQUIRE, acquire.encode_to_vec()),
        (ACQUIRE, queued.encode_to_vec()),
        ("/sharklock.v1.LockService/Release", release.encode_to_vec()),
        ("/sharklock.v1.LockService/KeepAlive", keep_alive.encode_to_vec()),
        ("/sharklock.v1.LockService/Cancel", cancel.encode_to_vec()),
        ("/sharklock.v1.LockService/ListLocks", list.encode_to_vec()),
        (SESSION, batch.encode_to_vec()),
        ("/sharklock.v1.AdminService/GetStatus", Vec::new()),
        ("/grpc.health.v1.Health/Check", Vec::new()),
    ]
}

fn corpus_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of the corpus, in order of their names: each is what one connection sends.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus_dir()).expect("the corpus is in the repository");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "bin"));
    files.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        (name, std::fs::read(path).expect("a file of the corpus is readable"))
    };
    files.into_iter().map(read).collect()
}

/// Varints and lengths that claim far too much, and what looks like text and is none.
const ODD_BYTES: [&[u8]; 7] = [
    b"\xff\xff\xff\xff\x0f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff\x07",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\0",
];

/// One small change somewhere.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut StdRng) {
    if bytes.is_empty() {
        bytes.push(rng.random());
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let end = (at + rng.random_range(1..=32)).min(bytes.len());
    match rng.random_range(0..9) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
        3 => bytes.insert(at, rng.random()),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => bytes.truncate(at),
        7 => {
            let other = &others[rng.random_range(0..others.len())];
            let from = rng.random_range(0..=other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
        _ => {
            let odd = ODD_BYTES[rng.random_range(0..ODD_BYTES.len())];
            let until = (at + rng.random_range(0..=odd.len())).min(bytes.len());
            bytes.splice(at..until, odd.iter().copied());
        }
    }
}

/// A number that somebody may not have thought of, or one that others use too.
fn odd_number(rng: &mut StdRng) -> u64 {
    const ODD: [u64; 10] =
        [0, 1, 2, 3, 1 << 31, 1 << 32, (1 << 48) - 1, 1 << 48, 1 << 63, u64::MAX];
    match rng.random_range(0..3) {
        0 => ODD[rng.random_range(0..ODD.len())],
        1 => rng.random_range(1..40),
        _ => 1 << rng.random_range(0..64),
    }
}

fn odd_acquire(rng: &mut StdRng) -> AcquireRequest {
    let maybe = |rng: &mut StdRng, value: u64| rng.random_bool(0.5).then_some(value);
    let (ttl, wait, token) = (odd_number(rng), odd_number(rng), odd_number(rng));
    let waits = [0, 1, 30, wait];
    AcquireRequest {
        session_id: odd_session(rng),
        instance: odd_number(rng),
        acquisition_id: odd_number(rng),
        seq: odd_number(rng),
        name: odd_name(rng),
        mode: [0, 1, 1, 1, 2, 2, 3, 3, 4, -1][rng.random_range(0..10)],
        permits: [0, 1, 2, 65_535, u32::MAX][rng.random_range(0..5)],
        permits_max: [0, 2, 2, 65_535, u32::MAX][rng.random_range(0..5)],
        ttl_ms: if rng.random_bool(0.3) { Some(ttl) } else { maybe(rng, 2_000) },
        wait_ms: Some(waits[rng.random_range(0..4)]),
        reenter_token: maybe(rng, token).filter(|_| rng.random_bool(0.4)),
        owner_id: odd_name(rng),
        attributes: [(odd_name(rng), odd_name(rng))].into(),
        condition: rng.random_bool(0.5).then(|| odd_condition(rng)),
        traceparent: odd_name(rng),
    }
}

fn odd_condition(rng: &mut StdRng) -> Condition {
    let mut clause = |chance| {
        let value = [1, 20, odd_number(rng)][rng.random_range(0..3)];
        rng.random_bool(chance).then_some(value)
    };
    let (lock_delay_ms, max_hold_ms, ask_grace_ms) = (clause(0.3), clause(0.3), clause(0.3));
    Condition {
        lease: [0, 1, 1, 2, 3, 3, 4, -1][rng.random_range(0..8)],
        missed: [0, 0, 0, 4, 101, u32::MAX][rng.random_range(0..6)],
        interval_ms: [0, 0, 0, 500, u64::MAX][rng.random_range(0..5)],
        lock_delay_ms,
        max_hold_ms,
        ask_grace_ms,
    }
}

/// Calls about what a session holds, which few of these tokens name.
fn odd_agreement(rng: &mut StdRng, session_id: bytes::Bytes, instance: u64) -> session_call::Body {
    let (name, token, acquisition_id) = (odd_name(rng), rng.random_range(0..200), odd_number(rng));
    let revision = [0, 0, 1, odd_number(rng)][rng.random_range(0..4)];
    match rng.random_range(0..6) {
        0 => session_call::Body::Claim(ClaimRequest {
            session_id,
            instance,
            name,
            token,
            acquisition_id,
            revision,
        }),
        1 => session_call::Body::SetCondition(SetConditionRequest {
            session_id,
            instance,
            name,
            token,
            acquisition_id,
            revision,
            ttl_ms: [2_000, odd_number(rng)][rng.random_range(0..2)],
            condition: rng.random_bool(0.9).then(|| odd_condition(rng)),
        }),
        2 => session_call::Body::Reclaim(ReclaimRequest {
            session_id,
            instance,
            name,
            token,
            acquisition_id,
            seq: odd_number(rng),
            owner_id: odd_name(rng),
            attributes: [(odd_name(rng), odd_name(rng))].into(),
        }),
        3 => session_call::Body::Ask(AskRequest { session_id, instance, name, acquisition_id }),
        4 => session_call::Body::Downgrade(DowngradeRequest {
            session_id,
            instance,
            name,
            token,
            acquisition_id,
        }),
        _ => session_call::Body::WatchLock(WatchLockRequest {
            name,
            shown_max: [0, 1, u32::MAX][rng.random_range(0..3)],
            state_tag: rng.random_bool(0.5).then(|| odd_number(rng)),
        }),
    }
}

/// Few sessions and few names, so that the calls meet each other.
fn odd_session(rng: &mut StdRng) -> bytes::Bytes {
    bytes::Bytes::from(vec![rng.random_range(0..4); [16, 16, 16, 15][rng.random_range(0..4)]])
}

fn odd_name(rng: &mut StdRng) -> String {
    let names = ["fuzz/a", "fuzz/b", "fuzz/a", "\u{10ffff}", "fuzz/\u{202e}", "", " "];
    names[rng.random_range(0..names.len())].to_owned()
}

fn odd_release(rng: &mut StdRng) -> ReleaseRequest {
    ReleaseRequest {
        session_id: odd_session(rng),
        instance: odd_number(rng),
        name: odd_name(rng),
        token: odd_number(rng),
        acquisition_id: odd_number(rng),
        all: rng.random_bool(0.3),
    }
}

fn odd_cancel(rng: &mut StdRng) -> CancelRequest {
    CancelRequest {
        session_id: odd_session(rng),
        instance: odd_number(rng),
        name: odd_name(rng),
        acquisition_id: odd_number(rng),
    }
}

fn odd_keep_alive(rng: &mut StdRng) -> KeepAliveRequest {
    let count = rng.random_range(0..5);
    let item = |_| KeepAliveItem { name: odd_name(rng), acquisition_id: odd_number(rng) };
    let items = (0..count).map(item).collect();
    KeepAliveRequest {
        session_id: odd_session(rng),
        instance: odd_number(rng),
        seq: odd_number(rng),
        items,
    }
}

/// A well-formed call whose fields are drawn from what breaks arithmetic and bookkeeping: it gets
/// past decoding, and often past validation.
fn odd_call(rng: &mut StdRng) -> (&'static str, Vec<u8>) {
    match rng.random_range(0..8) {
        0 | 1 => (ACQUIRE, odd_acquire(rng).encode_to_vec()),
        2 => ("/sharklock.v1.LockService/Release", odd_release(rng).encode_to_vec()),
        3 => ("/sharklock.v1.LockService/KeepAlive", odd_keep_alive(rng).encode_to_vec()),
        4 => {
            let check = CheckTokenRequest { name: odd_name(rng), token: odd_number(rng) };
            ("/sharklock.v1.LockService/CheckToken", check.encode_to_vec())
        }
        5 => {
            let page_size = rng.random();
            let (prefix, page_token) = (odd_name(rng), odd_name(rng));
            let list = ListLocksRequest { prefix, page_size, page_token };
            ("/sharklock.v1.LockService/ListLocks", list.encode_to_vec())
        }
        6 => {
            let force = ForceReleaseRequest {
                name: odd_name(rng),
                token: rng.random_bool(0.7).then(|| odd_number(rng)),
                reason: odd_name(rng),
                now: rng.random_bool(0.5),
                operator: odd_name(rng),
            };
            ("/sharklock.v1.AdminService/ForceRelease", force.encode_to_vec())
        }
        _ => (SESSION, odd_batch(rng).encode_to_vec()),
    }
}

fn odd_batch(rng: &mut StdRng) -> SessionRequest {
    let count = rng.random_range(0..12);
    let calls = (0..count).map(|_| {
        // A call mostly leaves its session to the message's.
        let mostly = rng.random_bool(0.9);
        let (id, number) = (odd_session(rng), odd_number(rng));
        let id = if mostly { bytes::Bytes::new() } else { id };
        let instance = if mostly { 0 } else { number };
        let body = match rng.random_range(0..6) {
            0 => session_call::Body::Acquire(AcquireRequest {
                session_id: id,
                instance,
                ..odd_acquire(rng)
            }),
            1 => session_call::Body::Release(ReleaseRequest {
                session_id: id,
                instance,
                ..odd_release(rng)
            }),
            2 => session_call::Body::Cancel(CancelRequest {
                session_id: id,
                instance,
                ..odd_cancel(rng)
            }),
            3 => session_call::Body::KeepAlive(KeepAliveRequest {
                session_id: id,
                instance,
                ..odd_keep_alive(rng)
            }),
            _ => odd_agreement(rng, id, instance),
        };
        SessionCall { call_id: odd_number(rng), body: rng.random_bool(0.97).then_some(body) }
    });
    let calls = calls.collect();
    SessionRequest { session_id: odd_session(rng), instance: odd_number(rng), calls }
}

/// The bytes of one connection: raw ones with changes anywhere; well-formed calls with odd fields;
/// or good calls whose messages were changed, in whole frames.
fn hostile_bytes(
    seeds: &[Vec<u8>],
    calls: &[(&'static str, Vec<u8>)],
    rng: &mut StdRng,
) -> Vec<u8> {
    let changes = rng.random_range(1..=6);
    if rng.random_bool(0.4) {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..changes {
            mutate(&mut bytes, seeds, rng);
        }
        return bytes;
    }
    if rng.random_bool(0.4) {
        let odd: Vec<(&str, Vec<u8>)> = (0..8).map(|_| odd_call(rng)).collect();
        return connection(&odd);
    }
    let bodies: Vec<Vec<u8>> = calls.iter().map(|(_, body)| body.clone()).collect();
    let count = rng.random_range(1..=4);
    let spoilt: Vec<(&str, Vec<u8>)> = (0..count)
        .map(|_| {
            let (path, body) = &calls[rng.random_range(0..calls.len())];
            let mut body = body.clone();
            for _ in 0..changes {
                mutate(&mut body, &bodies, rng);
            }
            (*path, body)
        })
        .collect();
    connection(&spoilt)
}

/// Sends the bytes on a connection of their own and reads until the server has had enough, or has
/// nothing to say for `quiet`; gives how many headers it sent, at least one per call that it
/// understood. Errors are the server's right.
async fn send(gateway: &str, bytes: &[u8], hang_up: bool, quiet: Duration) -> usize {
    let Ok(mut stream) = TcpStream::connect(gateway).await else { return 0 };
    let _ = timeout(Duration::from_secs(2), stream.write_all(bytes)).await;
    if hang_up {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    while answer.len() < 1 << 20 {
        match timeout(quiet, stream.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    headers_count(&answer)
}

/// How many HEADERS frames a server sent.
fn headers_count(mut answer: &[u8]) -> usize {
    let mut count = 0;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answer {
        count += usize::from(*kind == HEADERS);
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        answer = rest.get(length..).unwrap_or_default();
    }
    count
}

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().expect("a number of the environment") }
}

/// That the server is alive, serves, and has met no panic on the way.
async fn assert_unharmed(server: &mut Server, what: &str) {
    let ended = server.process().ended();
    let errors = server.process().stderr();
    assert!(ended.is_none(), "{what}: the server has ended with {ended:?}\n{errors}");
    assert!(!errors.contains("panicked"), "{what}: something panicked\n{errors}");
    server.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_corpus_does_no_harm() {
    let mut server = Server::start().await;
    let corpus = corpus();
    assert!(corpus.len() >= 9, "the corpus is in {}", corpus_dir().display());
    for (name, bytes) in &corpus {
        let answers = send(server.gateway(), bytes, false, Duration::from_millis(500)).await;
        assert!(name.starts_with("bad") || answers > 0, "{name} is a good call and is answered");
        assert_unharmed(&mut server, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_connections_do_no_harm() {
    /// Connections at a time.
    const LANES: u64 = 16;
    /// Longer than most answers take; what comes later finds nobody there, which is a test too.
    const QUIET: Duration = Duration::from_millis(8);
    let lasting = Duration::from_secs(number("FUZZ_SECONDS", 20));
    let seed = number("FUZZ_SEED", 2);
    let mut server = Server::start().await;
    let calls = Arc::new(good_calls());
    let mut seeds: Vec<Vec<u8>> = corpus().into_iter().map(|(_, bytes)| bytes).collect();
    seeds.push(connection(&calls));
    let seeds = Arc::new(seeds);
    let deadline = Instant::now() + lasting;
    let (sent, understood) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut round = 0;
    while Instant::now() < deadline {
        let mut lanes = JoinSet::new();
        for lane in 0..LANES {
            let gateway = server.gateway().to_owned();
            let (calls, seeds) = (Arc::clone(&calls), Arc::clone(&seeds));
            let (sent, understood) = (Arc::clone(&sent), Arc::clone(&understood));
            let mut rng = StdRng::seed_from_u64(seed ^ (round << 8) ^ (lane << 56));
            lanes.spawn(async move {
                for _ in 0..12 {
                    let bytes = hostile_bytes(&seeds, &calls, &mut rng);
                    let answers = send(&gateway, &bytes, rng.random_bool(0.3), QUIET).await;
                    sent.fetch_add(1, Ordering::Relaxed);
                    understood.fetch_add(answers as u64, Ordering::Relaxed);
                }
            });
        }
        lanes.join_all().await;
        assert_unharmed(&mut server, &format!("FUZZ_SEED={seed}, round {round}")).await;
        round += 1;
    }
    let (sent, understood) = (sent.load(Ordering::Relaxed), understood.load(Ordering::Relaxed));
    println!("{sent} connections, {understood} answers in {lasting:?}, seed {seed}");
    assert!(understood > sent / 2, "most of it does not get past the first frames");
}

/// Opens streams and resets them at once, as fast as it can (CVE-2023-44487).
#[tokio::test(flavor = "multi_thread")]
async fn rapid_resets_do_no_harm() {
    let mut server = Server::start().await;
    let headers = header_block(SESSION);
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.gateway()).await.unwrap();
        let mut bytes = opening();
        for at in 0..5_000_u32 {
            let id = 2 * at + 1;
            bytes.extend(frame(HEADERS, END_HEADERS, id, &headers));
            bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
        }
        // The server may hang up half-way, which is the best it can do.
        let _ = timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
    }
    assert_unharmed(&mut server, "rapid resets").await;
}

/// Clients that open more streams than they may, and one that never reads what it asked for.
#[tokio::test(flavor = "multi_thread")]
async fn greedy_and_deaf_clients_harm_nobody_else() {
    let mut server = Server::start().await;
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.gateway()).await.unwrap();
        let mut bytes = opening();
        for at in 0..2_000_u32 {
            bytes.extend(frame(HEADERS, END_HEADERS, 2 * at + 1, &header_block(SESSION)));
        }
        let _ = timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
        kept.push(stream);
    }
    let mut deaf = TcpStream::connect(server.gateway()).await.unwrap();
    let calls: Vec<SessionCall> = (1..=500)
        .map(|call_id| SessionCall {
            call_id,
            body: Some(session_call::Body::GetLock(sharklock_proto::v1::GetLockRequest {
                name: "deaf".into(),
                waiters_max: 0,
            })),
        })
        .collect();
    let session = Session::default();
    let batch = SessionRequest { session_id: session.id.clone(), instance: 1, calls };
    let batch = message(&batch.encode_to_vec());
    let mut bytes = opening();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &header_block(SESSION)));
    for _ in 0..200 {
        for part in batch.chunks(16_000) {
            bytes.extend(frame(DATA, 0, 1, part));
        }
    }
    // Its window ends long before: the rest would wait for ever.
    let _ = timeout(Duration::from_secs(2), deaf.write_all(&bytes)).await;
    kept.push(deaf);
    assert_unharmed(&mut server, "greedy and deaf clients").await;
    drop(kept);
    assert_unharmed(&mut server, "their end").await;
}

/// The seeds of the corpus are made here, so that they can be made again when the API grows:
/// `SHARKLOCK_WRITE_CORPUS=1 cargo test -p sharklock-tests corpus`.
#[test]
fn the_corpus_covers_every_call() {
    if std::env::var_os("SHARKLOCK_WRITE_CORPUS").is_some() {
        for (at, (path, body)) in good_calls().into_iter().enumerate() {
            let method = path.rsplit('/').next().expect("a method").to_lowercase();
            let file = corpus_dir().join(format!("{at:02}-{method}.bin"));
            std::fs::write(file, connection(&[(path, body)])).expect("the corpus is writable");
        }
        let all = corpus_dir().join("50-all-on-one-connection.bin");
        std::fs::write(all, connection(&good_calls())).expect("the corpus is writable");
    }
    let corpus = corpus();
    for (path, _) in good_calls() {
        let covers = |bytes: &[u8]| bytes.windows(path.len()).any(|part| part == path.as_bytes());
        assert!(corpus.iter().any(|(_, bytes)| covers(bytes)), "no file of the corpus has {path}");
    }
}
