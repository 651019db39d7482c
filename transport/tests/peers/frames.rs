//! What only streams in frames have: a preamble, a hello of their own, another thread, signs of life in
//! place of pings.

use std::time::Duration;

use prost::Message as _;
use sharklock_proto::internal::v1::{MessageType, RaftAnswer, RaftFrame};
use sharklock_transport::{Dialling, PeerLinks};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, Handle},
    time::{interval, timeout},
};

use super::{
    HEARER, Heard, Hearing, Inbox, PATIENCE, at, hello, identity, message, next, speaker, until,
    until_all_stand,
};

const PREAMBLE: &[u8; 8] = b"SLPEER\0\x01";

/// A connection on which frames are spoken by hand.
struct ByHand(TcpStream);

impl ByHand {
    /// The side that dials.
    async fn dial(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(PREAMBLE).await.expect("it is read");
        let mut preamble = [0; 8];
        stream.read_exact(&mut preamble).await.expect("it answers");
        assert_eq!(&preamble, PREAMBLE);
        Self(stream)
    }

    /// The side that is dialled, up to the hello.
    async fn accept(listener: &TcpListener) -> Self {
        // Other classes come over gRPC, and are not answered.
        loop {
            let (mut stream, _) = listener.accept().await.expect("it comes");
            let mut preamble = [0; 8];
            stream.read_exact(&mut preamble).await.expect("it says what it speaks");
            if &preamble == PREAMBLE {
                stream.write_all(PREAMBLE).await.expect("it is read");
                let mut accepted = Self(stream);
                let frame = RaftFrame::decode(&accepted.hear().await.expect("a hello")[..]);
                assert_eq!(frame.expect("it is one").hello, Some(hello()));
                return accepted;
            }
        }
    }

    async fn say(&mut self, message: &impl prost::Message) {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).expect("it is small").to_be_bytes();
        self.0.write_all(&[&length[..], &bytes].concat()).await.expect("it is read");
    }

    /// None: the connection has ended.
    async fn hear(&mut self) -> Option<Vec<u8>> {
        let read = async {
            let length = self.0.read_u32().await?;
            let mut frame = vec![0; length as usize];
            self.0.read_exact(&mut frame).await.map(|_all| frame)
        };
        timeout(PATIENCE, read).await.expect("in time").ok()
    }

    /// Why no more is read. None: it is read.
    async fn refusal(&mut self) -> Option<String> {
        let answer = self.hear().await.expect("it answers");
        let RaftAnswer { refusal } = RaftAnswer::decode(&answer[..]).expect("it is one");
        (!refusal.is_empty()).then_some(refusal)
    }
}

/// Why this first frame is refused; empty: it is not.
pub(crate) async fn answer(address: &str, first: &RaftFrame) -> String {
    let mut speaking = ByHand::dial(address).await;
    speaking.say(first).await;
    speaking.refusal().await.unwrap_or_default()
}

/// Why this frame is refused, by somebody who has taken the hello.
pub(crate) async fn answer_after_hello(address: &str, frame: &RaftFrame) -> String {
    let mut speaking = ByHand::dial(address).await;
    speaking.say(&RaftFrame { hello: Some(hello()), ..RaftFrame::default() }).await;
    assert_eq!(speaking.refusal().await, None);
    speaking.say(frame).await;
    loop {
        if let Some(refusal) = speaking.refusal().await {
            assert_eq!(speaking.hear().await, None, "nobody reads it any more");
            return refusal;
        }
    }
}

#[tokio::test]
async fn the_first_frame_is_the_hello_alone() {
    let mut hearing = Hearing::start("127.0.0.1:0").await;
    let messages = vec![message(1, MessageType::MsgAppend)];
    let first = RaftFrame { hello: Some(hello()), messages, ..RaftFrame::default() };
    let refusal = answer(&hearing.address, &first).await;
    assert!(refusal.contains("more than a hello"), "{refusal}");
    // Nobody keeps room for strangers.
    let mut stranger = ByHand::dial(&hearing.address).await;
    stranger.0.write_all(&5_000_u32.to_be_bytes()).await.expect("it is read");
    let refusal = stranger.refusal().await.expect("it is too large");
    assert!(refusal.contains("a frame of 5000 bytes, above the 4096"), "{refusal}");
    assert!(hearing.heard.try_recv().is_err(), "nothing got in");
}

#[tokio::test]
async fn a_peer_that_is_changed_for_an_older_one_and_back_is_spoken_to_as_it_understands() {
    let mut address = "127.0.0.1:0".to_owned();
    let mut links = None;
    for speaks_frames in [false, true, false, true] {
        let mut hearing = Hearing::start_as(&address, speaks_frames).await;
        let (links, _told) = links.get_or_insert_with(|| speaker(&hearing.address));
        until_all_stand(links, &mut hearing.heard).await;
        address = hearing.stop().await;
    }
}

#[tokio::test]
async fn frames_that_nobody_answers_are_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (_links, mut told) = speaker(&address);
    for _ in 0..2 {
        let mut silent = ByHand::accept(&listener).await;
        silent.say(&RaftAnswer::default()).await;
        assert_eq!(silent.hear().await, None, "it is given up for another");
        while next(&mut told).await != Heard::Unreachable(HEARER) {}
    }
}

#[tokio::test]
async fn a_slow_link_is_not_given_up_while_it_shows_signs() {
    const STEP: usize = 16 << 10;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(STEP as u32).expect("it is taken");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
    let listener = socket.listen(8).expect("it listens");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (links, mut told) = speaker(&address);
    let mut slow = ByHand::accept(&listener).await;
    slow.say(&RaftAnswer::default()).await;

    // Nothing is taken until the stream stands; then more than one link can take in 4 s.
    let large = || {
        let mut large = message(7, MessageType::MsgAppend);
        let context = vec![7; 1 << 20].into();
        large.message.as_mut().expect("set").context = context;
        large
    };
    while told.try_recv().is_ok() {}
    let mut tick = interval(Duration::from_millis(100));
    let mut taken = 0;
    while taken < 1 << 20 {
        tick.tick().await;
        if taken == 0 {
            links.send(vec![large()], Vec::new(), Vec::new());
        }
        let mut step = vec![0; STEP];
        match slow.0.try_read(&mut step) {
            Ok(0) => panic!("it was given up after {taken} bytes"),
            Ok(bytes) => taken += bytes,
            Err(_nothing_yet) => {}
        }
        slow.say(&RaftAnswer::default()).await;
    }
}

#[test]
fn another_thread_carries_the_frames_until_it_ends() {
    let carrying = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let carrying = carrying.expect("a runtime");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut hearing = Hearing::start("127.0.0.1:0").await;
        let (inbox, mut told) = Inbox::new();
        let links = PeerLinks::start(identity(super::SPEAKER), Dialling::default(), inbox);
        let links = links.with_appends_on(Handle::clone(carrying.handle()));
        links.set_peers(at(HEARER, &hearing.address));
        until_all_stand(&links, &mut hearing.heard).await;
        while told.try_recv().is_ok() {}

        carrying.shutdown_background();
        assert_eq!(next(&mut told).await, Heard::Unreachable(HEARER));
        // The other classes are carried by others.
        until(&links, &mut hearing.heard, |heard| matches!(heard, Heard::Heartbeats(_))).await;
    });
}
