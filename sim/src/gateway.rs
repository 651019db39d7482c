//! A gateway as shipped: its hub, the ports of its clients, and an operator who sits at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sharklock_gateway::failure::Failure;
use sharklock_gateway::validate::{self, Checked, Frame, Session};
use sharklock_gateway::{
    Hub, HubConfig, Lane, Origin, SessionPort, StoreId, StoreLinks, StreamHandle,
};
use sharklock_proto::internal::v1::StoreCall;
use sharklock_proto::v1::{AcquireRequest, SessionRequest};

use crate::asking::Seeker;
use crate::clock::DriftingClock;
use crate::route_events::Unheard;
use crate::split_calls::SplitCall;
use crate::state_file::Key;
use crate::streams::{ConnId, Half, Payload};

/// A gateway's machine.
pub struct GatewayNode {
    /// Its clock.
    pub clock: DriftingClock,
    /// Which life of its process this is.
    pub life: u32,
    /// The process, while it lives.
    pub process: Option<GatewayProcess>,
    /// Until when the process stands still.
    pub paused_until: u64,
    /// What has arrived meanwhile. `None`: the connection is gone.
    pub backlog: Vec<(ConnId, Option<Payload>)>,
    /// Old calls that have come again meanwhile, each with the instance that it is of.
    pub late: Vec<(u64, SessionRequest)>,
    /// What masters said while it stood still, in the order in which it came: a stream keeps it.
    pub unheard: Vec<Unheard>,
}

/// A life of a gateway.
pub struct GatewayProcess {
    /// The core.
    pub hub: Arc<Hub>,
    /// What the hub has for stores.
    pub to_stores: Arc<ToStores>,
    /// Which connection leads to which store.
    pub stores: BTreeMap<StoreId, ConnId>,
    /// The stores to which it keeps connections, by number.
    pub known: BTreeSet<usize>,
    /// Whom it asks for routes.
    pub seeker: Seeker,
    /// The question by which it watches them, while it does.
    pub watches: Option<u64>,
    /// The two streams of each client.
    pub clients: BTreeMap<ConnId, Ports>,
    /// Streams over which others repeat old requests; nobody reads them.
    pub ghosts: Vec<(u64, SessionPort)>,
    /// Unary Acquires that repeat old ones.
    pub unary: Vec<UnaryGhost>,
    /// The operator's stream.
    pub operator: StreamHandle,
    /// What the operator has asked, by call id.
    pub asked: BTreeMap<u64, Look>,
    /// Those who watch locks, by call id.
    pub watched: BTreeMap<u64, usize>,
    /// The splits that it was called for, by call id.
    pub split_calls: BTreeMap<u64, SplitCall>,
    /// How often it has lost a store.
    pub links_lost: u64,
    /// Number of the operator's last call.
    pub last_call: u64,
    /// The clock's reading at the start.
    born: Duration,
    /// The next tick: only the event with this number counts.
    pub tick: u64,
    /// When it is planned.
    pub tick_at: Option<u64>,
}

/// The streams of one client.
pub struct Ports {
    /// For acquires.
    pub acquires: SessionPort,
    /// For what must never wait.
    pub urgent: SessionPort,
}

/// Something that an operator asked.
#[derive(Clone, Debug)]
pub struct Look {
    /// When.
    pub asked_ns: u64,
    /// Which lock.
    pub name: String,
    /// Whether this token is live; `None`: something else.
    pub token: Option<u64>,
    /// A client's life, for an entry of its file; `None`: an operator.
    pub by: Option<(usize, u32, Key)>,
}

/// The way to the stores: what the hub sends waits here until its call is over.
#[derive(Debug, Default)]
pub struct ToStores(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    connected: BTreeSet<StoreId>,
    calls: Vec<(StoreId, Lane, Vec<StoreCall>)>,
}

impl ToStores {
    /// A store can be reached, or cannot.
    pub fn set_connected(&self, store: StoreId, connected: bool) {
        let mut waiting = self.waiting();
        if connected {
            waiting.connected.insert(store);
        } else {
            waiting.connected.remove(&store);
        }
    }

    /// What is to be sent.
    pub fn take(&self) -> Vec<(StoreId, Lane, Vec<StoreCall>)> {
        std::mem::take(&mut self.waiting().calls)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreLinks for ToStores {
    fn send(
        &self,
        store: StoreId,
        lane: Lane,
        calls: Vec<StoreCall>,
    ) -> Result<(), Vec<StoreCall>> {
        let mut waiting = self.waiting();
        if !waiting.connected.contains(&store) {
            return Err(calls);
        }
        waiting.calls.push((store, lane, calls));
        Ok(())
    }
}

impl GatewayNode {
    /// A machine without a process.
    pub fn new(clock: DriftingClock) -> Self {
        Self {
            clock,
            life: 0,
            process: None,
            paused_until: 0,
            backlog: Vec::new(),
            late: Vec::new(),
            unheard: Vec::new(),
        }
    }

    /// Begins a life.
    pub fn start(&mut self, now_ns: u64, masters: usize) {
        let to_stores = Arc::new(ToStores::default());
        let links = Arc::clone(&to_stores) as Arc<dyn StoreLinks>;
        let hub = Hub::new(HubConfig::default(), links, Arc::new(()));
        let operator = StreamHandle::open(&hub).expect("a new hub has room");
        self.life += 1;
        self.process = Some(GatewayProcess {
            hub,
            to_stores,
            stores: BTreeMap::new(),
            known: BTreeSet::new(),
            seeker: Seeker::new(masters),
            watches: None,
            clients: BTreeMap::new(),
            ghosts: Vec::new(),
            unary: Vec::new(),
            operator,
            asked: BTreeMap::new(),
            watched: BTreeMap::new(),
            split_calls: BTreeMap::new(),
            links_lost: 0,
            last_call: 0,
            born: self.clock.read(now_ns),
            tick: 0,
            tick_at: None,
        });
    }

    /// What the process's clock reads, microseconds.
    pub fn now_us(&self, now_ns: u64) -> u64 {
        let born = self.process.as_ref().map_or(Duration::ZERO, |process| process.born);
        (self.clock.read(now_ns) - born).as_micros() as u64
    }

    /// When the hub wants its next tick.
    pub fn tick_at(&self, now_ns: u64) -> Option<u64> {
        let process = self.process.as_ref()?;
        let due = Duration::from_micros(process.hub.next_due_us());
        Some(self.clock.when(process.born + due)?.max(now_ns + 1_000))
    }
}

/// A unary Acquire that repeats what a client asked for on a stream, and whose caller goes away. It is
/// read by nobody.
pub struct UnaryGhost {
    /// When its caller goes away.
    pub until_ns: u64,
    handle: StreamHandle,
    session: Session,
    acquire: AcquireRequest,
}

impl UnaryGhost {
    /// None: the gateway takes no more streams, or the call is not in order.
    pub fn ask(
        hub: &Arc<Hub>,
        now_us: u64,
        until_ns: u64,
        frame: &Frame,
        acquire: AcquireRequest,
    ) -> Option<Self> {
        let handle = StreamHandle::open(hub).ok()?;
        let checked = validate::acquire(&hub.limits(), frame, acquire.clone()).ok()?;
        let session = checked.session()?.clone();
        let origin = Origin { events_to: handle.number(), is_unary: true, address: "ghost" };
        handle.submit(now_us, [(1, Ok(checked))].into_iter(), origin);
        Some(Self { until_ns, handle, session, acquire })
    }

    /// Its caller goes away.
    pub fn withdraw(&self, gives_up: bool) {
        let AcquireRequest { name, acquisition_id, .. } = &self.acquire;
        self.handle.withdraw(&self.session, name, *acquisition_id, gives_up);
    }
}

impl GatewayProcess {
    /// Somebody beside it asks something over the stream that is the operator's: by which call.
    pub fn asks(
        &mut self,
        now_us: u64,
        address: &'static str,
        question: Result<Checked, Failure>,
    ) -> u64 {
        self.last_call += 1;
        let origin = Origin { events_to: self.operator.number(), is_unary: false, address };
        self.operator.submit(now_us, [(self.last_call, question)].into_iter(), origin);
        self.last_call
    }

    /// The store at the other end of a connection.
    pub fn store_at(&self, conn: ConnId) -> Option<StoreId> {
        self.stores.iter().find(|(_, known)| **known == conn).map(|(store, _)| *store)
    }

    /// A client connects. False: too many streams are open.
    pub fn accept(&mut self, conn: ConnId, address: &str) -> bool {
        let open = || SessionPort::open(&self.hub, address.to_owned());
        let (Ok(acquires), Ok(urgent)) = (open(), open()) else { return false };
        self.clients.insert(conn, Ports { acquires, urgent });
        true
    }

    /// One stream of a client.
    pub fn port(&mut self, conn: ConnId, half: Half) -> Option<&mut SessionPort> {
        let ports = self.clients.get_mut(&conn)?;
        Some(match half {
            Half::Acquires => &mut ports.acquires,
            Half::Urgent => &mut ports.urgent,
        })
    }
}
