//! Finding the leading master over loopback, among peers that say what masters say at the edges of
//! the protocol: that another one leads, that they refuse, or nothing at all.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sharklock_proto::{
    internal::v1::{
        AllocateIdsRequest, AllocateIdsResponse, DescribeMasterRequest, DescribeMasterResponse,
        GetClusterRequest, GetClusterResponse, GetRoutesRequest, JoinRequest, JoinResponse,
        MeetRequest, MeetResponse, RegisterStoreRequest, RegisterStoreResponse, RoutesUpdate,
        StoreHeartbeatRequest, StoreHeartbeatResponse, WatchRoutesRequest,
        master_service_server::{MasterService, MasterServiceServer},
    },
    v1::{
        CancelOperatorRequest, CancelOperatorResponse, ChangeMastersRequest, ChangeMastersResponse,
        ChangeRangeRequest, ChangeRangeResponse, GetScheduleRequest, GetScheduleResponse,
        ListOperatorsRequest, ListOperatorsResponse, ListRecoveriesRequest, ListRecoveriesResponse,
        PauseScheduleRequest, PauseScheduleResponse, RebalanceRequest, RebalanceResponse,
        RecoverRangeRequest, RecoverRangeResponse, SetScheduleRequest, SetScheduleResponse,
        SetStoreDutyRequest, SetStoreDutyResponse,
    },
};
use sharklock_transport::{Dialling, Masters, MastersError, NOT_LEADER, serve, server};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
enum Role {
    /// Answers, with this id.
    Leads(u64),
    /// Names another, or none.
    Follows(Option<String>),
    Refuses,
    /// Takes the question and says nothing: a process that stands still.
    Silent,
}

/// A peer that speaks the master's protocol.
#[derive(Clone)]
struct Peer(Arc<Inner>);

struct Inner {
    role: Mutex<Role>,
    asked: AtomicUsize,
    /// Ends the watches that were begun.
    watches: Mutex<Vec<mpsc::Sender<Result<RoutesUpdate, Status>>>>,
}

impl Peer {
    async fn start(role: Role) -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let inner =
            Inner { role: Mutex::new(role), asked: AtomicUsize::new(0), watches: Mutex::default() };
        let peer = Self(Arc::new(inner));
        let router = server().add_service(MasterServiceServer::new(peer.clone()));
        tokio::spawn(serve(router, listener, None, CancellationToken::new()));
        (peer, address)
    }

    fn becomes(&self, role: Role) {
        *self.0.role.lock().expect("whole") = role;
        self.0.watches.lock().expect("whole").clear();
    }

    fn asked(&self) -> usize {
        self.0.asked.load(Ordering::SeqCst)
    }

    async fn answer(&self) -> Result<u64, Status> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let role = self.0.role.lock().expect("whole").clone();
        match role {
            Role::Leads(id) => Ok(id),
            Role::Refuses => Err(Status::failed_precondition("store 3 lives already")),
            Role::Silent => std::future::pending().await,
            Role::Follows(leader) => {
                let leader = [("leader".to_owned(), leader.unwrap_or_default())];
                let mut details = ErrorDetails::new();
                details.set_error_info(NOT_LEADER, "sharklock", leader);
                let says = "this master does not lead";
                Err(Status::with_error_details(Code::Unavailable, says, details))
            }
        }
    }
}

#[tonic::async_trait]
impl MasterService for Peer {
    async fn meet(&self, _: Request<MeetRequest>) -> Result<Response<MeetResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn register_store(
        &self,
        _: Request<RegisterStoreRequest>,
    ) -> Result<Response<RegisterStoreResponse>, Status> {
        let store_id = self.answer().await?;
        Ok(Response::new(RegisterStoreResponse { store_id, ..RegisterStoreResponse::default() }))
    }

    async fn store_heartbeat(
        &self,
        _: Request<StoreHeartbeatRequest>,
    ) -> Result<Response<StoreHeartbeatResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn allocate_ids(
        &self,
        _: Request<AllocateIdsRequest>,
    ) -> Result<Response<AllocateIdsResponse>, Status> {
        Ok(Response::new(AllocateIdsResponse { first: self.answer().await? }))
    }

    async fn get_routes(
        &self,
        _: Request<GetRoutesRequest>,
    ) -> Result<Response<RoutesUpdate>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    type WatchRoutesStream = Pin<Box<dyn Stream<Item = Result<RoutesUpdate, Status>> + Send>>;

    async fn watch_routes(
        &self,
        _: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let id = u8::try_from(self.answer().await?).expect("small");
        let (updates, stream) = mpsc::channel(1);
        let whole = RoutesUpdate {
            cluster_id: vec![id; 16].into(),
            is_whole: true,
            ..RoutesUpdate::default()
        };
        updates.try_send(Ok(whole)).expect("it is empty");
        self.0.watches.lock().expect("whole").push(updates);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream).map(|update| update))))
    }

    async fn change_range(
        &self,
        _: Request<ChangeRangeRequest>,
    ) -> Result<Response<ChangeRangeResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn list_operators(
        &self,
        _: Request<ListOperatorsRequest>,
    ) -> Result<Response<ListOperatorsResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn cancel_operator(
        &self,
        _: Request<CancelOperatorRequest>,
    ) -> Result<Response<CancelOperatorResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn set_store_duty(
        &self,
        _: Request<SetStoreDutyRequest>,
    ) -> Result<Response<SetStoreDutyResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn get_schedule(
        &self,
        _: Request<GetScheduleRequest>,
    ) -> Result<Response<GetScheduleResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn pause_schedule(
        &self,
        _: Request<PauseScheduleRequest>,
    ) -> Result<Response<PauseScheduleResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn set_schedule(
        &self,
        _: Request<SetScheduleRequest>,
    ) -> Result<Response<SetScheduleResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn rebalance(
        &self,
        _: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn change_masters(
        &self,
        _: Request<ChangeMastersRequest>,
    ) -> Result<Response<ChangeMastersResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn list_recoveries(
        &self,
        _: Request<ListRecoveriesRequest>,
    ) -> Result<Response<ListRecoveriesResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn recover_range(
        &self,
        _: Request<RecoverRangeRequest>,
    ) -> Result<Response<RecoverRangeResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn describe_master(
        &self,
        _: Request<DescribeMasterRequest>,
    ) -> Result<Response<DescribeMasterResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }

    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        self.answer().await.map(|_id| Response::new(Default::default()))
    }
}

fn masters(addresses: &[&str]) -> Masters {
    let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
    Masters::new(addresses, Dialling::default()).expect("they are addresses")
}

async fn ids(masters: &Masters, within: Duration) -> Result<u64, MastersError> {
    let request = AllocateIdsRequest { count: 1, ..AllocateIdsRequest::default() };
    Ok(masters.allocate_ids(request, within).await?.first)
}

/// The id of the master whose whole routes come next.
async fn watched(updates: &mut mpsc::Receiver<RoutesUpdate>) -> u8 {
    let update = tokio::time::timeout(PATIENCE, updates.recv()).await.expect("in time");
    let update = update.expect("the watch goes on");
    assert!(update.is_whole, "the first of a leading master is whole");
    update.cluster_id[0]
}

#[tokio::test]
async fn the_named_leader_is_asked_and_remembered() {
    let (_leader, at_leader) = Peer::start(Role::Leads(7)).await;
    let (first, at_first) = Peer::start(Role::Follows(Some(at_leader.clone()))).await;
    let (second, at_second) = Peer::start(Role::Follows(Some(at_leader.clone()))).await;
    let masters = masters(&[&at_first, &at_second, &at_leader]);

    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 7);
    assert_eq!(ids(&masters.clone(), PATIENCE).await.expect("it leads"), 7);
    assert_eq!((first.asked(), second.asked()), (1, 0), "the hint was followed, and kept");
}

#[tokio::test]
async fn without_a_hint_and_past_the_dead_every_master_is_asked() {
    let (_leader, at_leader) = Peer::start(Role::Leads(7)).await;
    let (_follower, at_follower) = Peer::start(Role::Follows(None)).await;
    // Nobody listens on port 1.
    let masters = masters(&["127.0.0.1:1", &at_follower, &at_leader]);
    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 7);
}

#[tokio::test]
async fn a_leader_that_stands_still_is_left_for_the_next() {
    let (old, at_old) = Peer::start(Role::Leads(7)).await;
    let (new, at_new) = Peer::start(Role::Follows(Some(at_old.clone()))).await;
    let masters = masters(&[&at_old, &at_new]);
    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 7);

    old.becomes(Role::Silent);
    new.becomes(Role::Leads(8));
    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 8);
}

#[tokio::test]
async fn a_refusal_of_the_leader_is_final() {
    let (refuses, at) = Peer::start(Role::Refuses).await;
    let masters = masters(&[&at]);
    let answer = masters.register_store(RegisterStoreRequest::default(), PATIENCE).await;
    match answer {
        Err(MastersError::Refused(status)) => assert_eq!(status.code(), Code::FailedPrecondition),
        other => panic!("it refuses: {other:?}"),
    }
    assert_eq!(refuses.asked(), 1);
}

#[tokio::test]
async fn without_a_leader_the_deadline_ends_it_with_the_reason() {
    let (follower, at) = Peer::start(Role::Follows(None)).await;
    let masters = masters(&[&at]);
    match ids(&masters, Duration::from_secs(1)).await {
        Err(MastersError::Unavailable(why)) => assert_eq!(why, "this master does not lead"),
        other => panic!("nobody leads: {other:?}"),
    }
    // Pauses of at least 25, 50, 100, 200 and 400 ms lie between the tries of a second.
    assert!((2..=6).contains(&follower.asked()), "{} tries", follower.asked());
}

#[tokio::test]
async fn a_watch_follows_the_hint_wherever_the_leader_stands_in_the_list() {
    for place in 0..3 {
        let (_leader, at_leader) = Peer::start(Role::Leads(7)).await;
        let (_first, at_first) = Peer::start(Role::Follows(Some(at_leader.clone()))).await;
        let (_second, at_second) = Peer::start(Role::Follows(Some(at_leader.clone()))).await;
        let mut list = vec![at_first.as_str(), &at_second];
        list.insert(place, &at_leader);
        let mut updates = masters(&list).watch_routes();
        assert_eq!(watched(&mut updates).await, 7, "the leader is number {place}");
    }
}

#[tokio::test]
async fn a_watch_goes_on_at_the_next_leader() {
    let (old, at_old) = Peer::start(Role::Leads(7)).await;
    let (new, at_new) = Peer::start(Role::Follows(Some(at_old.clone()))).await;
    let mut updates = masters(&[&at_old, &at_new]).watch_routes();
    assert_eq!(watched(&mut updates).await, 7);

    new.becomes(Role::Leads(8));
    old.becomes(Role::Follows(Some(at_new)));
    assert_eq!(watched(&mut updates).await, 8);
}

#[tokio::test]
async fn masters_that_were_learned_are_asked_when_those_of_the_beginning_are_gone() {
    let (old, at_old) = Peer::start(Role::Leads(7)).await;
    let masters = masters(&[&at_old, "127.0.0.1:1"]);
    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 7);

    let (_new, at_new) = Peer::start(Role::Leads(8)).await;
    masters.learn(&[]);
    masters.learn(&["no address".to_owned()]);
    assert_eq!(masters.addresses(), [at_old.as_str(), "127.0.0.1:1"], "nothing was learned");
    masters.learn(&[at_new.clone(), at_new.clone()]);
    let known = [at_new.as_str(), at_old.as_str(), "127.0.0.1:1"];
    assert_eq!(masters.clone().addresses(), known, "what it began with is asked last");
    old.becomes(Role::Follows(None));
    assert_eq!(ids(&masters, PATIENCE).await.expect("it leads"), 8);
}

#[tokio::test]
async fn masters_that_are_remembered_are_asked_where_the_others_are_gone_and_not_before() {
    let (_configured, at_configured) = Peer::start(Role::Leads(7)).await;
    let (remembered, at_remembered) = Peer::start(Role::Leads(8)).await;
    let both = masters(&[&at_configured]);
    both.ask_also(&[at_remembered.clone(), "no address".to_owned(), at_configured]);
    assert_eq!(ids(&both, PATIENCE).await.expect("it leads"), 7);
    assert_eq!(remembered.asked(), 0, "the configuration may mean another cluster");
    let gone = masters(&["127.0.0.1:1"]);
    gone.ask_also(std::slice::from_ref(&at_remembered));
    assert_eq!(ids(&gone, PATIENCE).await.expect("it leads"), 8);
    assert_eq!(gone.addresses(), ["127.0.0.1:1", &at_remembered]);
}

#[tokio::test]
async fn a_watch_goes_on_at_a_master_that_was_learned_meanwhile() {
    let (old, at_old) = Peer::start(Role::Leads(7)).await;
    let masters = masters(&[&at_old]);
    let mut updates = masters.watch_routes();
    assert_eq!(watched(&mut updates).await, 7);
    let (_new, at_new) = Peer::start(Role::Leads(8)).await;
    masters.learn(&[at_new]);
    old.becomes(Role::Follows(None));
    assert_eq!(watched(&mut updates).await, 8);
}

#[test]
fn what_is_no_address_is_refused_by_name() {
    let none = Masters::new(Vec::new(), Dialling::default()).expect_err("none");
    assert_eq!(none, "no master is named");
    let bad = Masters::new(vec!["a b".into()], Dialling::default()).expect_err("bad");
    assert_eq!(bad, "`a b` is not an address: want HOST:PORT");
}
