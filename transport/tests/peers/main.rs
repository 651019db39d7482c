//! Streams between stores over loopback: what arrives, what is refused, what is told when it does
//! not.

mod frames;

use std::{
    cell::Cell,
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        Heartbeats, Message, MessageType, RaftClass, RaftFrame, RaftHello, RaftSign, RangeMessage,
        SnapshotChunk, SnapshotMessage,
        peer_service_client::PeerServiceClient,
        peer_service_server::{PeerService, PeerServiceServer},
        snapshot_message::Body,
    },
};
use sharklock_transport::{
    Dialling, FramePeers, PeerAcceptor, PeerAddress, PeerIdentity, PeerInbox, PeerLinks, Signs,
    serve, server,
};
use tokio::{net::TcpListener, runtime::Handle, sync::mpsc, task::JoinHandle};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId::from_bytes([9; 16]);
/// The store that speaks in these tests, and the one that hears.
const SPEAKER: u64 = 1;
const HEARER: u64 = 2;

#[derive(Debug, PartialEq)]
enum Heard {
    Messages(Vec<RangeMessage>),
    Heartbeats(Vec<Heartbeats>),
    Snapshots(Vec<SnapshotMessage>),
    Unreachable(u64),
}

struct Inbox(mpsc::UnboundedSender<Heard>);

impl Inbox {
    fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Heard>) {
        let (heard, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self(heard)), receiver)
    }

    fn hear(&self, heard: Heard) {
        // A test that has seen enough no longer listens.
        let _ = self.0.send(heard);
    }
}

impl PeerInbox for Inbox {
    fn messages(&self, messages: Vec<RangeMessage>) {
        self.hear(Heard::Messages(messages));
    }
    fn heartbeats(&self, heartbeats: Vec<Heartbeats>) {
        self.hear(Heard::Heartbeats(heartbeats));
    }
    fn snapshots(&self, snapshots: Vec<SnapshotMessage>) {
        self.hear(Heard::Snapshots(snapshots));
    }
    fn unreachable(&self, store: u64) {
        self.hear(Heard::Unreachable(store));
    }
}

fn identity(store: u64) -> PeerIdentity {
    let ident = Identity::from_bytes([u8::try_from(store).expect("small"); 16]);
    PeerIdentity { cluster_id: CLUSTER, store, ident, worker: 0, role: "data" }
}

fn at(store: u64, address: &str) -> BTreeMap<u64, PeerAddress> {
    let ident = identity(store).ident;
    BTreeMap::from([(store, PeerAddress { ident, address: address.to_owned() })])
}

/// The store that hears, and knows the one that speaks.
struct Hearing {
    address: String,
    heard: mpsc::UnboundedReceiver<Heard>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Hearing {
    async fn start(address: &str) -> Self {
        Self::start_as(address, true).await
    }

    /// One that speaks frames, or one from before there were any.
    async fn start_as(address: &str, speaks_frames: bool) -> Self {
        let (inbox, heard) = Inbox::new();
        let stop = CancellationToken::new();
        let acceptor = PeerAcceptor::new(identity(HEARER), inbox, stop.clone());
        acceptor.set_peers(&at(SPEAKER, "127.0.0.1:1"));
        let frames = FramePeers { acceptor: acceptor.clone(), runtime: Handle::current() };
        let frames = speaks_frames.then_some(frames);
        let service = acceptor.into_service();
        let (address, serving) = served(address, service, frames, stop.clone()).await;
        Self { address, heard, stop, serving }
    }

    async fn stop(self) -> String {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it stops").expect("no panic");
        self.address
    }
}

async fn served<S: PeerService>(
    address: &str,
    service: PeerServiceServer<S>,
    frames: Option<FramePeers>,
    stop: CancellationToken,
) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.expect("the port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let router = server().add_service(service);
    let serving = async move { serve(router, listener, frames, stop).await.expect("serves") };
    let serving = tokio::spawn(serving);
    (address, serving)
}

/// The store that speaks, and what it is told.
fn speaker(address: &str) -> (PeerLinks, mpsc::UnboundedReceiver<Heard>) {
    let (inbox, told) = Inbox::new();
    let links = PeerLinks::start(identity(SPEAKER), Dialling::default(), inbox);
    let links = links.with_appends_on(Handle::current());
    links.set_peers(at(HEARER, address));
    (links, told)
}

async fn next(heard: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    tokio::time::timeout(PATIENCE, heard.recv()).await.expect("in time").expect("it is there")
}

fn message(index: u64, of: MessageType) -> RangeMessage {
    let message = Message { msg_type: of.into(), index, ..Message::default() };
    let (from_store, to_store) = (SPEAKER, HEARER);
    RangeMessage { from_store, to_store, message: Some(message), ..RangeMessage::default() }
}

fn beats() -> Heartbeats {
    Heartbeats { from_store: SPEAKER, to_store: HEARER, ..Heartbeats::default() }
}

fn chunk(offset: u64, bytes: usize) -> SnapshotMessage {
    let data = vec![7; bytes].into();
    let body = Some(Body::Chunk(SnapshotChunk { offset, data, ..SnapshotChunk::default() }));
    SnapshotMessage { from_store: SPEAKER, to_store: HEARER, body, ..SnapshotMessage::default() }
}

/// Sends this again and again, as Raft does, until the answer to `is_there` is yes.
async fn until(
    links: &PeerLinks,
    heard: &mut mpsc::UnboundedReceiver<Heard>,
    is_there: impl Fn(&Heard) -> bool,
) {
    let sending = async {
        let mut tick = tokio::time::interval(Duration::from_millis(10));
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let append = message(0, MessageType::MsgAppend);
                    links.send(vec![append], vec![beats()], vec![chunk(0, 1)]);
                }
                heard = heard.recv() => if is_there(&heard.expect("it is there")) { return },
            }
        }
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("in time");
}

/// Until all three streams stand.
async fn until_all_stand(links: &PeerLinks, heard: &mut mpsc::UnboundedReceiver<Heard>) {
    until(links, heard, |heard| matches!(heard, Heard::Messages(_))).await;
    until(links, heard, |heard| matches!(heard, Heard::Heartbeats(_))).await;
    until(links, heard, |heard| matches!(heard, Heard::Snapshots(_))).await;
}

#[tokio::test]
async fn every_class_arrives_whole_and_in_order() {
    arrive_whole_and_in_order(Hearing::start("127.0.0.1:0").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_from_before_there_were_frames_gets_all_of_it_over_grpc() {
    arrive_whole_and_in_order(Hearing::start_as("127.0.0.1:0", false).await).await;
}

async fn arrive_whole_and_in_order(mut hearing: Hearing) {
    let (links, _told) = speaker(&hearing.address);
    until_all_stand(&links, &mut hearing.heard).await;

    for index in 1..=1_000 {
        links.send(
            vec![message(index, MessageType::MsgAppend)],
            Vec::new(),
            vec![chunk(index, 1_000)],
        );
    }
    let (mut indexes, mut offsets) = (Vec::new(), Vec::new());
    while indexes.last() != Some(&1_000) || offsets.last() != Some(&1_000) {
        match next(&mut hearing.heard).await {
            Heard::Messages(messages) => {
                indexes.extend(messages.iter().map(|m| m.message.as_ref().expect("set").index));
            }
            Heard::Snapshots(parts) => offsets.extend(parts.iter().map(|part| match &part.body {
                Some(Body::Chunk(chunk)) => chunk.offset,
                other => panic!("not what was sent: {other:?}"),
            })),
            Heard::Heartbeats(_) => {}
            Heard::Unreachable(store) => panic!("store {store} hears all of it"),
        }
    }
    // 0 is what until_all_stand sent.
    indexes.retain(|index| *index > 0);
    offsets.retain(|offset| *offset > 0);
    assert_eq!(indexes, (1..=1_000).collect::<Vec<_>>());
    assert_eq!(offsets, (1..=1_000).collect::<Vec<_>>());
}

/// A peer that takes a snapshot stream and never reads it; everything else it hands on.
struct StuckOnSnapshots(Arc<Inbox>);

#[tonic::async_trait]
impl PeerService for StuckOnSnapshots {
    type RaftStream = Signs;

    async fn raft(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Signs>, Status> {
        let (inbox, mut frames) = (Arc::clone(&self.0), request.into_inner());
        Ok(Response::new(Signs::while_reading(async move {
            while let Some(frame) = frames.message().await? {
                let is_snapshots = frame.hello.is_some_and(|h| h.class() == RaftClass::Snapshot);
                if is_snapshots {
                    inbox.snapshots(frame.snapshots);
                    std::future::pending::<()>().await;
                }
                if !frame.messages.is_empty() {
                    inbox.messages(frame.messages);
                }
                if !frame.heartbeats.is_empty() {
                    inbox.heartbeats(frame.heartbeats);
                }
            }
            Ok(())
        })))
    }
}

/// A stream that stays open, and of which nobody reads anything.
struct Unread(#[expect(dead_code, reason = "it is held, not read")] Streaming<RaftFrame>);

impl Stream for Unread {
    type Item = Result<RaftSign, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Pending
    }
}

/// A peer that takes the first stream that comes and shows no sign of life on it, as if nobody read it;
/// those after it are as they should be.
struct SilentOnce(PeerAcceptor, Arc<AtomicBool>);

#[tonic::async_trait]
impl PeerService for SilentOnce {
    type RaftStream = Pin<Box<dyn Stream<Item = Result<RaftSign, Status>> + Send>>;

    async fn raft(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Self::RaftStream>, Status> {
        if !self.1.swap(true, Ordering::SeqCst) {
            return Ok(Response::new(Box::pin(Unread(request.into_inner()))));
        }
        let signs = self.0.raft(request).await?.into_inner();
        Ok(Response::new(Box::pin(signs)))
    }
}

#[tokio::test]
async fn a_stuck_snapshot_delays_neither_heartbeats_nor_appends() {
    let (inbox, mut heard) = Inbox::new();
    let service = PeerServiceServer::new(StuckOnSnapshots(inbox));
    let (address, serving) = served("127.0.0.1:0", service, None, CancellationToken::new()).await;
    let (links, mut told) = speaker(&address);
    // Each class has come once; of the snapshots nothing comes a second time.
    let stand = Cell::new([false; 3]);
    until(&links, &mut heard, |heard| {
        let [messages, beats, snapshots] = stand.get();
        stand.set([
            messages || matches!(heard, Heard::Messages(_)),
            beats || matches!(heard, Heard::Heartbeats(_)),
            snapshots || matches!(heard, Heard::Snapshots(_)),
        ]);
        stand.get() == [true; 3]
    })
    .await;

    // Window and queue together take some 20 MiB; what is more is told as lost.
    while told.try_recv().is_ok() {}
    for offset in 0..64 {
        links.send(Vec::new(), Vec::new(), vec![chunk(offset, 1 << 20)]);
    }
    assert_eq!(next(&mut told).await, Heard::Unreachable(HEARER));
    assert!(told.try_recv().is_err(), "one word is enough");

    while heard.try_recv().is_ok() {}
    links.send(vec![message(77, MessageType::MsgAppend)], vec![beats()], Vec::new());
    let (mut appended, mut beaten) = (false, false);
    while !(appended && beaten) {
        match next(&mut heard).await {
            Heard::Messages(all) => appended |= all.contains(&message(77, MessageType::MsgAppend)),
            Heard::Heartbeats(_) => beaten = true,
            other => panic!("nothing else can come: {other:?}"),
        }
    }
    serving.abort();
}

/// Whatever the reason: HTTP/2's pings are answered, and nobody reads. Messages would be lost for ever.
#[tokio::test]
async fn a_stream_that_stands_and_is_read_by_nobody_is_given_up_for_another() {
    let (inbox, mut heard) = Inbox::new();
    let acceptor = PeerAcceptor::new(identity(HEARER), inbox, CancellationToken::new());
    acceptor.set_peers(&at(SPEAKER, "127.0.0.1:1"));
    let first = Arc::new(AtomicBool::new(false));
    let service = PeerServiceServer::new(SilentOnce(acceptor, Arc::clone(&first)));
    let (address, serving) = served("127.0.0.1:0", service, None, CancellationToken::new()).await;
    let (links, _told) = speaker(&address);
    until_all_stand(&links, &mut heard).await;
    assert!(first.load(Ordering::SeqCst), "one stream was silent at first");
    serving.abort();
}

#[tokio::test]
async fn a_peer_that_dies_is_told_as_unreachable_and_found_again_when_it_is_back() {
    let mut hearing = Hearing::start("127.0.0.1:0").await;
    let (links, mut told) = speaker(&hearing.address);
    until_all_stand(&links, &mut hearing.heard).await;
    while told.try_recv().is_ok() {}

    let address = hearing.stop().await;
    // Without a word from us: the streams themselves see it.
    assert_eq!(next(&mut told).await, Heard::Unreachable(HEARER));

    let mut again = Hearing::start(&address).await;
    until_all_stand(&links, &mut again.heard).await;
}

#[tokio::test]
async fn nobody_there_is_told_once_per_class_however_much_is_sent() {
    // Nobody listens on port 1, and no other test can happen to.
    let (links, mut told) = speaker("127.0.0.1:1");
    for index in 0..1_000 {
        links.send(vec![message(index, MessageType::MsgAppend)], vec![beats()], Vec::new());
    }
    assert_eq!(told.try_recv(), Ok(Heard::Unreachable(HEARER)));
    assert_eq!(told.try_recv(), Ok(Heard::Unreachable(HEARER)));
    assert!(told.try_recv().is_err(), "two classes, two words");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_noticed_without_a_message_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    // Connections stand and no byte comes back on them: a process that is frozen, or a cut link.
    let frozen = tokio::spawn(async move {
        let mut taken = Vec::new();
        while let Ok(connection) = listener.accept().await {
            taken.push(connection);
        }
    });
    let (_links, mut told) = speaker(&address);
    assert_eq!(next(&mut told).await, Heard::Unreachable(HEARER));
    frozen.abort();
}

#[tokio::test]
async fn a_peer_that_moves_is_spoken_to_where_it_is_now() {
    let mut old = Hearing::start("127.0.0.1:0").await;
    let (links, _told) = speaker(&old.address);
    until_all_stand(&links, &mut old.heard).await;

    let mut new = Hearing::start("127.0.0.1:0").await;
    links.set_peers(at(HEARER, &new.address));
    until_all_stand(&links, &mut new.heard).await;
    let has_five = |heard: &Heard| match heard {
        Heard::Messages(all) => all.contains(&message(5, MessageType::MsgAppend)),
        _ => false,
    };
    links.send(vec![message(5, MessageType::MsgAppend)], Vec::new(), Vec::new());
    until(&links, &mut new.heard, has_five).await;
    while let Ok(heard) = old.heard.try_recv() {
        assert!(!has_five(&heard), "nobody speaks there any more");
    }
}

#[tokio::test]
async fn votes_and_the_word_to_lead_travel_with_the_heartbeats() {
    let (inbox, mut heard) = Inbox::new();
    let service = PeerServiceServer::new(OfClass(RaftClass::Heartbeat, inbox));
    let (address, serving) = served("127.0.0.1:0", service, None, CancellationToken::new()).await;
    let (links, _told) = speaker(&address);
    until(&links, &mut heard, |heard| matches!(heard, Heard::Heartbeats(_))).await;

    let of = [
        MessageType::MsgAppend,
        MessageType::MsgAppendResponse,
        MessageType::MsgTimeoutNow,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVote,
        MessageType::MsgRequestPreVoteResponse,
    ];
    links.send(of.map(|of| message(1, of)).into(), Vec::new(), Vec::new());
    let votes = loop {
        match next(&mut heard).await {
            Heard::Messages(messages) => break messages,
            _ => continue,
        }
    };
    let votes: Vec<_> = votes.iter().map(|m| m.message.as_ref().expect("set").msg_type()).collect();
    assert_eq!(votes, of[2..]);
    serving.abort();
}

/// A peer that hands on what one class brings.
struct OfClass(RaftClass, Arc<Inbox>);

#[tonic::async_trait]
impl PeerService for OfClass {
    type RaftStream = Signs;

    async fn raft(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Signs>, Status> {
        let (of, inbox, mut frames) = (self.0, Arc::clone(&self.1), request.into_inner());
        Ok(Response::new(Signs::while_reading(async move {
            let mut class = RaftClass::Unspecified;
            while let Some(frame) = frames.message().await? {
                class = frame.hello.map_or(class, |hello| hello.class());
                if class == of && !frame.messages.is_empty() {
                    inbox.messages(frame.messages);
                }
                if class == of && !frame.heartbeats.is_empty() {
                    inbox.heartbeats(frame.heartbeats);
                }
            }
            Ok(())
        })))
    }
}

fn hello() -> RaftHello {
    RaftHello {
        cluster_id: CLUSTER.to_wire(),
        from_store: SPEAKER,
        to_store: HEARER,
        class: RaftClass::Append.into(),
        worker: 0,
        from_ident: identity(SPEAKER).ident.to_wire(),
    }
}

/// The answer to a stream of this one frame.
async fn answer(address: &str, frame: RaftFrame) -> Result<(), Status> {
    let channel = Dialling::default().connect(address).await.expect("it listens");
    let frames = tokio_stream::iter([frame]);
    let mut client = PeerServiceClient::new(channel);
    let answer = client.raft(frames);
    tokio::time::timeout(PATIENCE, answer).await.expect("in time").map(|_end| ())
}

#[tokio::test]
async fn who_may_not_speak_is_told_why() {
    let mut hearing = Hearing::start("127.0.0.1:0").await;
    let of = |hello| RaftFrame { hello, ..RaftFrame::default() };
    let other = Bytes::from_static(&[8; 16]);
    let cases = [
        (None, Code::InvalidArgument, "no hello"),
        (
            Some(RaftHello { cluster_id: other.clone(), ..hello() }),
            Code::FailedPrecondition,
            "another cluster",
        ),
        (
            Some(RaftHello { to_store: 7, ..hello() }),
            Code::FailedPrecondition,
            "store 7 is meant, and store 2 answers here",
        ),
        (Some(RaftHello { class: 0, ..hello() }), Code::InvalidArgument, "hello.class"),
        (Some(RaftHello { class: 99, ..hello() }), Code::InvalidArgument, "hello.class"),
        (
            Some(RaftHello { from_ident: other, ..hello() }),
            Code::FailedPrecondition,
            "another identity",
        ),
        (Some(RaftHello { from_store: 5, ..hello() }), Code::Unavailable, "not known here yet"),
    ];
    for (hello, code, says) in cases {
        let refused = answer(&hearing.address, of(hello.clone())).await.expect_err(says);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "`{}` does not say: {says}", refused.message());
        let refusal = frames::answer(&hearing.address, &of(hello)).await;
        assert!(refusal.contains(says), "`{refusal}` does not say: {says}");
    }
    answer(&hearing.address, of(Some(hello()))).await.expect("that one may");
    assert_eq!(frames::answer(&hearing.address, &of(Some(hello()))).await, "", "that one may");
    assert!(hearing.heard.try_recv().is_err(), "nobody has said anything");
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let hearing = Hearing::start("127.0.0.1:0").await;
    let channel = Dialling::default().connect(&hearing.address).await.expect("it listens");
    let mut client = PeerServiceClient::new(channel);
    let silence = client.raft(tokio_stream::pending());
    let refused = tokio::time::timeout(PATIENCE, silence).await.expect("in time");
    let refused = refused.expect_err("nobody said who it is");
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
}

#[tokio::test]
async fn nobody_speaks_for_another_store() {
    let mut hearing = Hearing::start("127.0.0.1:0").await;
    let frame = || RaftFrame { hello: Some(hello()), ..RaftFrame::default() };
    let append = || message(1, MessageType::MsgAppend);
    let forged = [
        RaftFrame { messages: vec![RangeMessage { from_store: 5, ..append() }], ..frame() },
        RaftFrame { messages: vec![RangeMessage { to_store: 5, ..append() }], ..frame() },
        RaftFrame { heartbeats: vec![Heartbeats { from_store: 5, ..beats() }], ..frame() },
        RaftFrame { snapshots: vec![SnapshotMessage { from_store: 5, ..chunk(0, 1) }], ..frame() },
        // Good ones beside a forged one do not get in with it.
        RaftFrame {
            messages: vec![append()],
            heartbeats: vec![Heartbeats { to_store: 5, ..beats() }],
            ..frame()
        },
    ];
    for frame in forged {
        let refused = answer(&hearing.address, frame.clone()).await.expect_err("it is forged");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let frame = RaftFrame { hello: None, ..frame };
        let refusal = frames::answer_after_hello(&hearing.address, &frame).await;
        assert!(refusal.contains("of another store"), "{refusal}");
    }
    assert!(hearing.heard.try_recv().is_err(), "nothing got in");
}

#[tokio::test]
async fn heartbeats_that_were_long_under_way_are_marked_by_who_receives_them() {
    let mut hearing = Hearing::start("127.0.0.1:0").await;
    // By a clock that nobody else has: the second is a minute late, the third the quickest of all.
    let sent = [700_000, 640_000, 760_000, 0];
    let frames = sent.map(|sent_ms| {
        let hello = (sent_ms == 700_000).then(hello);
        // Who sends them has no say.
        let beats = Heartbeats { sent_ms, is_late: sent_ms == 0, ..beats() };
        RaftFrame { hello, heartbeats: vec![beats], ..RaftFrame::default() }
    });
    let channel = Dialling::default().connect(&hearing.address).await.expect("it listens");
    let frames = tokio_stream::iter(frames);
    let _signs = PeerServiceClient::new(channel).raft(frames).await.expect("it may speak");
    let mut marks = Vec::new();
    while marks.len() < sent.len() {
        match next(&mut hearing.heard).await {
            Heard::Heartbeats(all) => marks.extend(all.iter().map(|beats| beats.is_late)),
            other => panic!("not what was sent: {other:?}"),
        }
    }
    assert_eq!(marks, [false, true, false, false]);
}
