//! The stores of these tests, and their clients.

use std::{collections::BTreeMap, time::Duration};

use sharklock_dataserver::{IdsWanted, Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::{Config, Disk, LogLimits, SimDisk, Store, StoreIdent, init_store};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{StoreCall, StoreDescription, StoreReply, store_call, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
pub const RANGE: RangeId = RangeId(1);

pub struct Machine {
    worker: Worker,
    disk: SimDisk,
    replies: Vec<StoreReply>,
}

pub struct Trio {
    machines: BTreeMap<u64, Machine>,
    /// A store that nothing reaches.
    pub alone: Option<u64>,
    /// A store to which Raft's messages are kept back, but for heartbeats and their answers.
    pub parks: Option<u64>,
    pub parked: Vec<(u64, Input)>,
    /// A range of which nothing is heard on any of these stores.
    pub silent: Option<(RangeId, Vec<u64>)>,
    /// Of all other ranges nothing is heard.
    pub hears_only: Option<RangeId>,
    /// A store whose disk takes a batch and does not come back.
    pub hangs: Option<u64>,
    hanging: Vec<Input>,
    /// Splits that wait for ids, of all stores.
    pub ids_wanted: Vec<IdsWanted>,
    pub now: Duration,
    next_tag: u64,
}

pub fn create() -> Input {
    Input::Create { descriptor: descriptor(), level: FEATURE_LEVEL }
}

fn descriptor() -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RANGE,
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=3).map(replica).collect(),
    }
}

impl Trio {
    /// Three stores without a range.
    pub fn empty() -> Self {
        let log = LogLimits { entries_floor: 4, entries_max: 8, ..LogLimits::default() };
        Self::with_log(log)
    }

    /// The same, with logs of this length.
    pub fn with_log(log: LogLimits) -> Self {
        let machine = |store: u64| {
            let ident = StoreIdent {
                cluster_id: ClusterId::from_bytes([1; 16]),
                store: StoreId(store),
                ident: Identity::from_bytes([store as u8; 16]),
            };
            let mut disk = SimDisk::default();
            disk.write(&init_store(&ident), true).expect("a fresh disk");
            let config = Config { log, piece_rows: 1, ..Config::default() };
            let recovered = Store::<LockRange>::recover(config, &disk).expect("its own disk");
            let worker = Worker::new(Duration::ZERO, recovered, Pace::default());
            (store, Machine { worker, disk, replies: Vec::new() })
        };
        let machines = (1..=3).map(machine).collect();
        Self {
            machines,
            alone: None,
            parks: None,
            parked: Vec::new(),
            silent: None,
            hears_only: None,
            hangs: None,
            hanging: Vec::new(),
            ids_wanted: Vec::new(),
            now: Duration::ZERO,
            next_tag: 1,
        }
    }

    /// The same stores, each with other settings.
    pub fn set(mut self, set: impl Fn(Worker) -> Worker) -> Self {
        let set = |machine: Machine| Machine { worker: set(machine.worker), ..machine };
        self.machines = self.machines.into_iter().map(|(store, it)| (store, set(it))).collect();
        self
    }

    /// Three stores with one range, which one of them leads.
    pub fn new() -> (Self, u64) {
        Self::empty().with_range()
    }

    /// Makes the range, and says who leads it.
    pub fn with_range(self) -> (Self, u64) {
        let mut trio = self;
        for store in 1..=3 {
            trio.tell(store, create());
        }
        let leader = trio.elected();
        (trio, leader)
    }

    pub fn worker(&self, store: u64) -> &Worker {
        &self.machines[&store].worker
    }

    pub fn worker_mut(&mut self, store: u64) -> &mut Worker {
        &mut self.machines.get_mut(&store).expect("one of three").worker
    }

    pub fn tell(&mut self, store: u64, input: Input) {
        let machine = self.machines.get_mut(&store).expect("one of three");
        machine.worker.handle(self.now, input);
    }

    /// Turns, writes and deliveries until nothing moves.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    /// One turn of each store, with its writes and deliveries. Whether anything has moved.
    pub fn step(&mut self) -> bool {
        let mut moves = false;
        for store in 1..=3 {
            moves |= self.look(store);
        }
        moves
    }

    /// The same of one store.
    pub fn look(&mut self, store: u64) -> bool {
        let machine = self.machines.get_mut(&store).expect("one of three");
        let outputs = machine.worker.end_turn(self.now, 1_700_000_000_000, true);
        let goes_on = machine.worker.store().has_divisions();
        self.carry(store, outputs) || goes_on
    }

    fn carry(&mut self, from: u64, outputs: Outputs) -> bool {
        let machine = self.machines.get_mut(&from).expect("one of three");
        let mut moves = outputs.batch.is_some();
        if let Some(batch) = outputs.batch {
            machine.disk.write(&batch.ops, true).expect("no fault was asked for");
            let persisted = Input::Persisted(batch.seq);
            if self.hangs == Some(from) {
                self.hanging.push(persisted);
            } else {
                machine.worker.handle(self.now, persisted);
            }
        }
        for chore in outputs.chores {
            if let Some(done) = chore.run(&machine.disk) {
                moves = true;
                machine.worker.handle(self.now, Input::ChoreDone(Box::new(done)));
            }
        }
        self.ids_wanted.extend(outputs.ids_wanted);
        machine.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
        let (silent, stores) = self.silent.clone().unwrap_or((RangeId(0), Vec::new()));
        let hears_only = self.hears_only;
        let is_heard = |range_id, to: u64| {
            let is_silent =
                range_id == silent.0 && (stores.contains(&from) || stores.contains(&to));
            !is_silent && hears_only.is_none_or(|only| range_id == only.0)
        };
        let messages = outputs.messages.into_iter();
        let messages = messages.filter(|it| is_heard(it.range_id, it.to_store));
        let messages = messages.map(|it| (it.to_store, Input::Message(Box::new(it))));
        let (parked, messages): (Vec<_>, Vec<_>) =
            messages.partition(|(to, _)| self.parks == Some(*to));
        self.parked.extend(parked);
        let beats = outputs.heartbeats.into_iter().map(|mut it| {
            it.beats.retain(|beat| is_heard(beat.range_id, it.to_store));
            it
        });
        let beats = beats.map(|it| (it.to_store, Input::Heartbeats(Box::new(it))));
        let pieces = outputs.snapshots.into_iter();
        let pieces = pieces.map(|it| (it.to_store, Input::Snapshots(vec![it])));
        for (to, input) in messages.into_iter().chain(beats).chain(pieces).collect::<Vec<_>>() {
            if self.alone != Some(from) && self.alone != Some(to) {
                moves = true;
                self.tell(to, input);
            }
        }
        moves
    }

    /// The disk that hung comes back.
    pub fn comes_back(&mut self) {
        let store = self.hangs.take().expect("a disk hangs");
        std::mem::take(&mut self.hanging).into_iter().for_each(|done| self.tell(store, done));
        self.settle();
    }

    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            self.settle();
        }
    }

    pub fn leader(&self) -> Option<u64> {
        let mut machines = self.machines.iter();
        machines.find(|(_, it)| !it.worker.reports().is_empty()).map(|(store, _)| *store)
    }

    pub fn elected(&mut self) -> u64 {
        for _ in 0..100 {
            self.pass(Duration::from_millis(100));
            if let Some(leader) = self.leader()
                && (1..=3).all(|store| self.worker(store).knows_leaders())
            {
                return leader;
            }
        }
        panic!("nobody leads after ten seconds");
    }

    /// Everything that was kept back arrives.
    pub fn deliver(&mut self, parked: Vec<(u64, Input)>) {
        parked.into_iter().for_each(|(to, input)| self.tell(to, input));
        self.settle();
    }

    pub fn call(&mut self, store: u64, body: store_call::Body) -> Option<store_reply::Body> {
        let tag = self.ask(store, 9, body);
        self.settle();
        self.answer(store, tag)
    }

    /// Hands a call of a session to a store, by its name alone.
    pub fn ask(&mut self, store: u64, session: u8, body: store_call::Body) -> u64 {
        self.ask_range(store, session, (0, 0), body)
    }

    /// The same, for a range in the version that its gateway believes in.
    pub fn ask_range(
        &mut self,
        store: u64,
        session: u8,
        (range_id, version): (u64, u64),
        body: store_call::Body,
    ) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            session: vec![session; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: 7,
            range_id,
            version,
            body: Some(body),
            ..StoreCall::default()
        };
        let calls = vec![call];
        self.tell(store, Input::Calls { link: LINK, queued: Duration::ZERO, calls });
        tag
    }

    /// The answers of a store to a call so far.
    pub fn answer(&mut self, store: u64, tag: u64) -> Option<store_reply::Body> {
        let replies = &mut self.machines.get_mut(&store).expect("one of three").replies;
        let at = replies.iter().position(|reply| reply.tag == tag)?;
        replies.remove(at).body
    }

    /// What a store has pushed since it was last asked: names, and what became of them.
    pub fn pushed(&mut self, store: u64) -> Vec<(String, v1::AcquisitionEventKind)> {
        let replies = &mut self.machines.get_mut(&store).expect("one of three").replies;
        let events = replies.extract_if(.., |reply| reply.tag == 0).filter_map(|it| it.body);
        let told = events.filter_map(|body| match body {
            store_reply::Body::Event(event) => Some((event.name.clone(), event.kind())),
            _ => None,
        });
        told.collect()
    }

    pub fn acquire(&mut self, store: u64, name: &str, id: u64) -> Option<store_reply::Body> {
        self.call(
            store,
            store_call::Body::Acquire(v1::AcquireRequest {
                name: name.into(),
                mode: v1::LockMode::Exclusive.into(),
                ttl_ms: Some(60_000),
                wait_ms: Some(0),
                acquisition_id: id,
                ..v1::AcquireRequest::default()
            }),
        )
    }

    pub fn describe(&mut self, store: u64) -> StoreDescription {
        match self.call(store, store_call::Body::Describe(Default::default())) {
            Some(store_reply::Body::Describe(description)) => description,
            other => panic!("{other:?}"),
        }
    }

    pub fn granted(&mut self, store: u64, name: &str, id: u64) -> u64 {
        match self.acquire(store, name, id) {
            Some(store_reply::Body::Acquire(response)) => {
                assert_eq!(response.outcome(), v1::AcquireOutcome::Granted, "{response:?}");
                response.token
            }
            other => panic!("{other:?}"),
        }
    }
}
