//! Measures what a small message costs from store to store and back, over loopback: two stores, each
//! with its links, its acceptor and a thread of its own, as in a cluster. Ends after 20,000 round
//! trips.
//!
//! `cargo run -p sharklock-transport --example round_trip`

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{Entry, Heartbeats, Message, MessageType, RangeMessage, SnapshotMessage},
};
use sharklock_transport::{
    Dialling, FramePeers, PeerAcceptor, PeerAddress, PeerIdentity, PeerInbox, PeerLinks, serve,
    server,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

const WARM_UP: usize = 2_000;
const ROUND_TRIPS: usize = 20_000;
/// After so long a message counts as lost, and the next one is sent.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
/// Of an append: a lock's acquire is about as large.
const ENTRY_BYTES: usize = 200;

/// Hands messages to the one who measures or answers, as a data server's mailbox does.
struct Inbox(mpsc::Sender<RangeMessage>);

impl PeerInbox for Inbox {
    fn messages(&self, messages: Vec<RangeMessage>) {
        for message in messages {
            self.0.try_send(message).expect("one is on its way at a time");
        }
    }
    fn heartbeats(&self, _: Vec<Heartbeats>) {}
    fn snapshots(&self, _: Vec<SnapshotMessage>) {}
    fn unreachable(&self, _: u64) {}
}

fn identity(store: u8) -> PeerIdentity {
    PeerIdentity {
        cluster_id: ClusterId::from_bytes([9; 16]),
        store: store.into(),
        ident: Identity::from_bytes([store; 16]),
        worker: 0,
        role: "data",
    }
}

fn at(store: u8, address: &str) -> BTreeMap<u64, PeerAddress> {
    let ident = identity(store).ident;
    BTreeMap::from([(store.into(), PeerAddress { ident, address: address.to_owned() })])
}

struct Store {
    address: String,
    links: PeerLinks,
    acceptor: PeerAcceptor,
    heard: mpsc::Receiver<RangeMessage>,
}

async fn store(number: u8) -> Store {
    let (inbox, heard) = mpsc::channel(1_000);
    let inbox = Arc::new(Inbox(inbox));
    let stop = CancellationToken::new();
    let links = PeerLinks::start(identity(number), Dialling::default(), Arc::clone(&inbox) as _);
    let links = links.with_appends_on(Handle::current());
    let acceptor = PeerAcceptor::new(identity(number), inbox, stop.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let router = server().add_service(acceptor.clone().into_service());
    let frames = FramePeers { acceptor: acceptor.clone(), runtime: Handle::current() };
    tokio::spawn(serve(router, listener, Some(frames), stop));
    Store { address, links, acceptor, heard }
}

/// Messages are numbered, so that an answer that comes late is not taken for the next one's.
fn message(from_store: u64, to_store: u64, of: MessageType, index: u64) -> RangeMessage {
    let entry = Entry { data: vec![7; ENTRY_BYTES].into(), ..Entry::default() };
    let entries = if of == MessageType::MsgAppend { vec![entry] } else { Vec::new() };
    let message = Message { msg_type: of.into(), index, entries, ..Message::default() };
    RangeMessage { from_store, to_store, message: Some(message), ..RangeMessage::default() }
}

fn index_of(message: &RangeMessage) -> u64 {
    message.message.as_ref().map_or(0, |message| message.index)
}

async fn answer_to(index: u64, heard: &mut mpsc::Receiver<RangeMessage>) {
    while index_of(&heard.recv().await.expect("the inbox stays")) != index {}
}

/// The second store, in a runtime of its own, as in a process of its own: it answers until the
/// program ends.
fn second_store(address_of_one: String, told: oneshot::Sender<String>) {
    let answering = async move {
        let mut two = store(2).await;
        two.acceptor.set_peers(&at(1, &address_of_one));
        two.links.set_peers(at(1, &address_of_one));
        told.send(two.address).expect("the first one waits");
        while let Some(asked) = two.heard.recv().await {
            let answer = message(2, 1, MessageType::MsgAppendResponse, index_of(&asked));
            two.links.send(vec![answer], vec![], vec![]);
        }
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("descriptors are there").block_on(answering);
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "measuring is what this is for")]
async fn main() {
    let mut one = store(1).await;
    let (told, address) = oneshot::channel();
    let address_of_one = one.address.clone();
    std::thread::spawn(move || second_store(address_of_one, told));
    let two = at(2, &address.await.expect("the second one starts"));
    one.acceptor.set_peers(&two);
    one.links.set_peers(two);

    let mut took = Vec::with_capacity(ROUND_TRIPS);
    let (mut index, mut lost) = (0, 0);
    while took.len() < WARM_UP + ROUND_TRIPS {
        index += 1;
        let begun = std::time::Instant::now();
        one.links.send(vec![message(1, 2, MessageType::MsgAppend, index)], vec![], vec![]);
        let answered = tokio::time::timeout(ANSWER_WITHIN, answer_to(index, &mut one.heard)).await;
        if answered.is_ok() {
            took.push(begun.elapsed());
        } else {
            // As it is until both streams stand.
            lost += 1;
            assert!(lost < 100, "no streams stand");
        }
    }
    let mut took = took.split_off(WARM_UP);
    took.sort_unstable();
    let at = |of: usize| took[ROUND_TRIPS * of / 1_000];
    println!(
        "{ROUND_TRIPS} round trips of {ENTRY_BYTES} bytes, {lost} lost: \
         p50 {:?}, p90 {:?}, p99 {:?}, p99.9 {:?}",
        at(500),
        at(900),
        at(990),
        at(999)
    );
}
