//! Clients that take more than their share: answers that they never read, streams that say nothing.
//! The gateway stays small, and serves everybody else meanwhile.

use std::time::Duration;

use prost::Message as _;
use sharklock_proto::v1::{
    AcquireOutcome, AcquireRequest, ListLocksRequest, ReleaseOutcome,
    lock_service_client::LockServiceClient,
};
use sharklock_tests::process::text_of;
use sharklock_tests::server::Server;
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::{Session, locks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::hostile::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SESSION, SETTINGS, frame, header_block,
    message,
};

/// The gateway's own patience with clients that do not read is 30 s.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;

/// The connection preface, with this as every stream's window.
fn opening(window: u32) -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    setting.extend(window.to_be_bytes());
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &setting));
    bytes.extend(frame(SETTINGS, ACK, 0, &[]));
    bytes
}

/// The memory of a process.
fn resident_bytes(server: &mut Server) -> usize {
    let pid = server.process().pid().to_string();
    let status = text_of(&std::path::Path::new("/proc").join(pid).join("status"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux has it");
    let kib = line.trim().strip_suffix(" kB").expect("in kB").trim();
    kib.parse::<usize>().expect("a number") << 10
}

/// The value of one metric.
async fn metric(server: &Server, name: &str) -> f64 {
    let (_, text) = server.get("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is a metric")).parse().expect("a number")
}

/// Somebody else's lock, through a connection of its own.
async fn assert_others_are_served(others: &mut LockServiceClient<Channel>) {
    for at in 0..20 {
        let (session, name) = (Session::default(), format!("others/{at}"));
        let request = session.acquire(&name);
        let got = others.acquire(request.clone()).await.expect("it is served").into_inner();
        assert_eq!(got.outcome(), AcquireOutcome::Granted);
        let release = session.release(&name, got.token, request.acquisition_id);
        let released = others.release(release).await.expect("it is served").into_inner();
        assert_eq!(released.outcome(), ReleaseOutcome::Released);
    }
}

/// Answers pings, so that the connection looks alive, until the server hangs up.
async fn answer_pings(mut stream: TcpStream) {
    const PING: u8 = 0x6;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if (head[3], head[4] & ACK) == (PING, 0) {
            // That the server has hung up is seen by the next read.
            let _ = stream.write_all(&frame(PING, ACK, 0, &payload)).await;
        }
    }
}

/// 2 × 250 pages of a megabyte for clients that open no window.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_are_bounded_and_their_connections_closed() {
    let mut server = Server::start().await;
    let mut holder = locks(&server).await;
    let session = Session::default();
    for at in 0..300 {
        let request = AcquireRequest {
            ttl_ms: Some(600_000),
            attributes: [("k".to_owned(), "v".repeat(4_000))].into(),
            ..session.acquire(&format!("big/{at}"))
        };
        holder.acquire(request).await.expect("it is free");
    }
    let list = ListLocksRequest { page_size: 1_000, ..ListLocksRequest::default() };
    let page = holder.list_locks(list.clone()).await.expect("it is served").into_inner();
    assert!(page.encoded_len() > MIB / 2, "the pages are large");
    drop(page);
    let before = resident_bytes(&mut server);

    let mut deaf = Vec::new();
    for _ in 0..2 {
        let mut bytes = opening(0);
        for at in 0..250 {
            let path = header_block("/sharklock.v1.LockService/ListLocks");
            bytes.extend(frame(HEADERS, END_HEADERS, 2 * at + 1, &path));
            let body = message(&list.encode_to_vec());
            bytes.extend(frame(DATA, END_STREAM, 2 * at + 1, &body));
        }
        let mut stream = TcpStream::connect(server.gateway()).await.expect("it listens");
        stream.write_all(&bytes).await.expect("the gateway reads");
        deaf.push(tokio::spawn(answer_pings(stream)));
    }
    eventually("answers wait", PATIENCE, async || {
        (metric(&server, "sharklock_gateway_unread_bytes").await > MIB as f64).then_some(())
    })
    .await;
    let mut others = locks(&server).await;
    assert_others_are_served(&mut others).await;
    let unread = metric(&server, "sharklock_gateway_unread_bytes").await;
    assert!(unread < (40 * MIB) as f64, "{unread} bytes are unread");
    let grown = resident_bytes(&mut server).saturating_sub(before);
    assert!(grown < 128 * MIB, "the server has grown by {grown} bytes");
    for connection in deaf {
        let hung_up = timeout(PATIENCE, connection).await.expect("the server hangs up");
        hung_up.expect("no panic");
    }
    let given_up = metric(&server, "sharklock_gateway_connections_given_up_total").await;
    assert_eq!(given_up, 2.0);
    assert_others_are_served(&mut others).await;
}

/// As many as a gateway has places, from one address, over 257 connections.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_say_nothing_keep_nobody_out_and_end() {
    let mut server = Server::start().await;
    let (name, session) = ("held", Session::default());
    let mut others = locks(&server).await;
    let request = session.acquire(name);
    let held = others.acquire(request.clone()).await.expect("it is free").into_inner();

    let headers = header_block(SESSION);
    let mut silent = Vec::new();
    for _ in 0..257 {
        let mut bytes = opening(65_535);
        for at in 0..256 {
            bytes.extend(frame(HEADERS, END_HEADERS, 2 * at + 1, &headers));
        }
        let mut stream = TcpStream::connect(server.gateway()).await.expect("it listens");
        stream.write_all(&bytes).await.expect("the gateway reads");
        silent.push(stream);
    }
    // A holder can renew and release, and others get what they want, by streams
    // and by single calls.
    let alive = session.keep_alive(&[(name, request.acquisition_id)]);
    others.keep_alive(alive).await.expect("a keepalive finds a place");
    let release = session.release(name, held.token, request.acquisition_id);
    let released = others.release(release).await.expect("a release finds a place").into_inner();
    assert_eq!(released.outcome(), ReleaseOutcome::Released);
    assert_others_are_served(&mut others).await;
    server.assert_serves().await;
    eventually("silent streams have ended", PATIENCE, async || {
        (metric(&server, "sharklock_gateway_streams").await < 100.0).then_some(())
    })
    .await;
    drop(silent);
    server.assert_serves().await;
}
