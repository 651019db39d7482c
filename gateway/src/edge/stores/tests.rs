//! Links that come and go, over real sockets on loopback. The other end speaks the store's protocol
//! as far as a link needs it: it says who it is, and who asked what.

use std::{net::SocketAddr, pin::Pin, sync::Mutex, time::Duration};

use prometheus::Registry;
use sharklock_proto::{
    ClusterId,
    internal::v1::{
        GetClusterResponse, RangeDescriptor, Replica, ReplicaRole, Route, StoreCalls,
        StoreDescription, StoreReplies, StoreReply, store_call,
        store_reply::Body,
        store_service_server::{StoreService, StoreServiceServer},
    },
    v1::StoreStatus,
};
use sharklock_transport::Dialling;
use tokio::{net::TcpListener, time::Instant};
use tokio_stream::{
    Stream, StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;
use crate::{
    Lane, StoreLink,
    edge::{
        Config, Directory,
        exchange::{ask, expect_body},
        metrics::Metrics,
    },
    validate::Checked,
};

const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store's end of the Exchange stream.
#[derive(Clone)]
struct Listener {
    store_id: u64,
    ident: Vec<u8>,
    /// Ends all streams.
    stop: CancellationToken,
}

#[tonic::async_trait]
impl StoreService for Listener {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<StoreReplies, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<StoreCalls>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let this = self.clone();
        let mut calls = request.into_inner();
        let (sender, replies) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Some(Ok(batch))) = this.stop.run_until_cancelled(calls.next()).await {
                let replies = batch.calls.into_iter().map(|call| this.reply(call)).collect();
                if sender.send(Ok(StoreReplies { replies })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

impl Listener {
    fn new(store_id: u64, ident: u8) -> Self {
        Self { store_id, ident: vec![ident], stop: CancellationToken::new() }
    }

    fn reply(&self, call: sharklock_proto::internal::v1::StoreCall) -> StoreReply {
        assert!(matches!(call.body, Some(store_call::Body::Describe(_))), "{call:?}");
        let ident = self.ident.iter().map(|byte| format!("{byte:02x}")).collect();
        let store = StoreStatus { store_id: self.store_id, ident, ..StoreStatus::default() };
        let description = StoreDescription { store: Some(store), ..StoreDescription::default() };
        StoreReply { tag: call.tag, stream: 0, body: Some(Body::Describe(description)) }
    }

    /// Answers at an address until it is told to stop.
    async fn serve(self, at: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(at).await.expect("the port is free");
        let at = listener.local_addr().expect("it is bound");
        let stopped = self.stop.clone();
        tokio::spawn(async move {
            let server = Server::builder().add_service(StoreServiceServer::new(self));
            let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
            tokio::select! {
                served = serving => served.expect("loopback does not fail"),
                () = stopped.cancelled() => {}
            }
        });
        at
    }
}

/// Masters that say what a test says.
struct Told(Mutex<Option<mpsc::Receiver<RoutesUpdate>>>);

#[tonic::async_trait]
impl Directory for Told {
    fn watch_routes(&self) -> mpsc::Receiver<RoutesUpdate> {
        self.0.lock().expect("no panic").take().expect("a gateway watches once")
    }

    async fn cluster(&self) -> Result<GetClusterResponse, Status> {
        Err(Status::unavailable("no leading master"))
    }
}

struct Rig {
    host: Arc<Host>,
    updates: mpsc::Sender<RoutesUpdate>,
    stores: Stores,
}

fn host(masters: Option<Arc<dyn Directory>>) -> Arc<Host> {
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("a fresh registry"));
    Arc::new(Host::new(Config::default(), masters, metrics))
}

impl Rig {
    fn new() -> Self {
        let (updates, watched) = mpsc::channel(1);
        let host = host(Some(Arc::new(Told(Mutex::new(Some(watched))))));
        let (stores, by_hand) = Stores::new();
        tokio::spawn(keep_all(host.clone(), by_hand));
        Self { host, updates, stores }
    }

    async fn named(&self, is_whole: bool, stores: &[(u64, &[u8], SocketAddr)]) {
        let address = |(store_id, ident, at): &(u64, &[u8], SocketAddr)| StoreAddress {
            store_id: *store_id,
            ident: ident.to_vec().into(),
            address: at.to_string(),
        };
        let stores = stores.iter().map(address).collect();
        let cluster_id = CLUSTER.to_wire();
        let update = RoutesUpdate { cluster_id, is_whole, stores, ..RoutesUpdate::default() };
        self.updates.send(update).await.expect("it is watched");
    }

    async fn until_linked(&self, stores: &[u64]) {
        let stores: Vec<_> = stores.iter().map(|store| StoreId(*store)).collect();
        until(&format!("{stores:?} are linked"), || self.host.hub.stores() == stores).await;
    }

    /// The store that answers a question.
    async fn who_is(&self, store: u64) -> u64 {
        let answer = ask(&self.host, Checked::describe(StoreId(store), None)).await;
        let description = expect_body!(answer, Describe).expect("the store answers");
        description.store.expect("it says who it is").store_id
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

const ANYWHERE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn a_store_is_linked_while_it_answers_wherever_it_is() {
    let rig = Rig::new();
    let store = Listener::new(7, 0xa7);
    let at = store.clone().serve(ANYWHERE).await;
    rig.named(true, &[(7, &[0xa7], at)]).await;
    rig.until_linked(&[7]).await;
    assert_eq!(rig.who_is(7).await, 7);
    store.stop.cancel();
    rig.until_linked(&[]).await;
    let back = Listener::new(7, 0xa7);
    back.clone().serve(at).await;
    rig.until_linked(&[7]).await;
    let elsewhere = Listener::new(7, 0xa7).serve(ANYWHERE).await;
    rig.named(false, &[(7, &[0xa7], elsewhere)]).await;
    back.stop.cancel();
    until("it is known elsewhere", || {
        rig.host.named_stores()[0].address.ends_with(&elsewhere.port().to_string())
    })
    .await;
    rig.until_linked(&[7]).await;
    assert_eq!(rig.who_is(7).await, 7);
}

#[tokio::test]
async fn a_store_that_the_masters_do_not_name_any_more_is_left() {
    let rig = Rig::new();
    let one = Listener::new(1, 1).serve(ANYWHERE).await;
    let two = Listener::new(2, 2).serve(ANYWHERE).await;
    rig.named(true, &[(1, &[1], one)]).await;
    rig.named(false, &[(2, &[2], two)]).await;
    rig.until_linked(&[1, 2]).await;
    rig.named(true, &[(2, &[2], two)]).await;
    rig.until_linked(&[2]).await;
    let (cluster_id, gone_store_ids) = (CLUSTER.to_wire(), vec![2]);
    let update = RoutesUpdate { cluster_id, gone_store_ids, ..RoutesUpdate::default() };
    rig.updates.send(update).await.expect("it is watched");
    rig.until_linked(&[]).await;
    assert_eq!(rig.host.named_stores(), [], "nobody asks it for anything");
}

#[tokio::test]
async fn a_stranger_at_a_stores_address_is_not_taken_for_it() {
    let at = Listener::new(8, 0xb8).serve(ANYWHERE).await;
    let meant = |store_id, ident: &[u8]| StoreAddress {
        store_id,
        ident: ident.to_vec().into(),
        address: at.to_string(),
    };
    assert!(dial(&meant(8, &[0xb8]), Dialling::default()).await.is_ok());
    for other in [meant(7, &[0xb8]), meant(8, &[0xa7])] {
        let why = dial(&other, Dialling::default()).await.err().expect("it is another");
        assert!(why.contains("answers store 8 with identity b8"), "{why}");
    }
}

#[tokio::test]
async fn a_source_address_is_where_connections_leave_from() {
    let at = Listener::new(8, 0xb8).serve(ANYWHERE).await;
    let ident = vec![0xb8].into();
    let meant = StoreAddress { store_id: 8, ident, address: at.to_string() };
    let loopback = "127.0.0.1".parse().expect("an address");
    assert!(dial(&meant, Dialling { source: Some(loopback) }).await.is_ok());
    // TEST-NET-1 is nobody's: a connection cannot leave from there.
    let nobodys = "192.0.2.1".parse().expect("an address");
    assert!(dial(&meant, Dialling { source: Some(nobodys) }).await.is_err());
}

/// A link in this process that answers nothing.
struct Mute;

impl StoreLink for Mute {
    fn send(
        &self,
        _lane: Lane,
        _calls: Vec<sharklock_proto::internal::v1::StoreCall>,
    ) -> Result<(), Vec<sharklock_proto::internal::v1::StoreCall>> {
        Ok(())
    }
}

fn connection(link: Arc<Mute>, replies: mpsc::Receiver<Vec<StoreReply>>) -> StoreConnection {
    StoreConnection { cluster_id: CLUSTER, store: StoreId(7), link, replies }
}

#[tokio::test]
async fn masters_and_stores_of_another_cluster_change_nothing() {
    let rig = Rig::new();
    let one = Listener::new(1, 1).serve(ANYWHERE).await;
    rig.named(true, &[(1, &[1], one)]).await;
    rig.until_linked(&[1]).await;
    let cluster_id = vec![0xee; 16].into();
    // It would take the store away, were it taken.
    let other = RoutesUpdate { cluster_id, is_whole: true, ..RoutesUpdate::default() };
    rig.updates.send(other).await.expect("it is watched");
    let (_sender, replies) = mpsc::channel(1);
    let local = StoreConnection {
        cluster_id: ClusterId::from_bytes([0xee; 16]),
        ..connection(Arc::new(Mute), replies)
    };
    rig.stores.connect(local).await;
    let two = Listener::new(2, 2).serve(ANYWHERE).await;
    rig.named(false, &[(2, &[2], two)]).await;
    rig.until_linked(&[1, 2]).await;
    assert_eq!(rig.host.cluster.id(), Some("c1".repeat(16).as_str()));
}

#[tokio::test]
async fn a_store_of_this_process_is_not_dialled_until_its_link_ends() {
    let rig = Rig::new();
    let at = Listener::new(7, 0xa7).serve(ANYWHERE).await;
    let (sender, replies) = mpsc::channel(1);
    let connection = connection(Arc::new(Mute), replies);
    rig.stores.connect(connection).await;
    rig.until_linked(&[7]).await;
    rig.named(true, &[(7, &[0xa7], at)]).await;
    until("the masters are heard", || !rig.host.named_stores().is_empty()).await;
    assert_eq!(rig.host.hub.stores(), [StoreId(7)]);
    drop(sender);
    // The local link answers nothing: what answers is at the other end of the network.
    let deadline = Instant::now() + PATIENCE;
    while ask(&rig.host, Checked::describe(StoreId(7), None)).await.is_err() {
        assert!(Instant::now() < deadline, "nothing answers");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_address_that_came_before_the_link_in_this_process_is_remembered() {
    let rig = Rig::new();
    let at = Listener::new(7, 0xa7).serve(ANYWHERE).await;
    rig.named(true, &[(7, &[0xa7], at)]).await;
    rig.until_linked(&[7]).await;
    let (sender, replies) = mpsc::channel(1);
    let lost = Arc::new(Mute);
    let connection = connection(lost.clone(), replies);
    rig.stores.connect(connection).await;
    until("the link in this process is used", || Arc::strong_count(&lost) == 2).await;
    drop(sender);
    until("that link is gone", || Arc::strong_count(&lost) == 1).await;
    rig.until_linked(&[7]).await;
    assert_eq!(rig.who_is(7).await, 7);
}

#[tokio::test]
async fn a_gateway_without_masters_ends_with_its_last_store() {
    let (stores, by_hand) = Stores::new();
    let keeping = tokio::spawn(keep_all(host(None), by_hand));
    let (sender, replies) = mpsc::channel(1);
    stores.connect(connection(Arc::new(Mute), replies)).await;
    drop(sender);
    tokio::time::timeout(PATIENCE, keeping).await.expect("it ends").expect("without a panic");
}

#[tokio::test]
async fn routes_of_the_masters_are_taken() {
    let rig = Rig::new();
    let at = Listener::new(2, 2).serve(ANYWHERE).await;
    rig.named(true, &[(2, &[2], at)]).await;
    rig.until_linked(&[2]).await;
    let replica =
        |store_id| Replica { peer_id: store_id + 10, store_id, role: ReplicaRole::Voter as i32 };
    let descriptor = RangeDescriptor {
        range_id: 1,
        conf_ver: 1,
        version: 4,
        replicas: vec![replica(1), replica(2)],
        ..RangeDescriptor::default()
    };
    let route = Route { descriptor: Some(descriptor), leader_store_id: 2, term: 5 };
    let cluster_id = CLUSTER.to_wire();
    let update = RoutesUpdate { cluster_id, routes: vec![route], ..RoutesUpdate::default() };
    rig.updates.send(update).await.expect("it is watched");
    let question = sharklock_proto::v1::GetLockRequest { name: "a".to_owned(), waiters_max: 1 };
    let body = store_call::Body::GetLock(question);
    let aim = || rig.host.hub.target(&body).map(|to| (to.store.0, to.range_id, to.is_leader));
    until("the route is known", || aim() == Some((2, 1, true))).await;
}
