//! A worker with many ranges, for a test and an example. The disk is done at once and keeps nothing.

use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, Pace, Worker};
use sharklock_multiraft::{Config, Disk, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{StoreCall, StoreReply, store_call::Body, store_reply},
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const LINK: LinkId = LinkId(1);
/// The time from one tick of a worker to the next.
pub const TICK: Duration = Duration::from_millis(100);

/// One worker whose ranges have one voter each. Range `n` has the names that begin with its number.
pub struct Rig {
    pub worker: Worker,
    pub now: Duration,
    /// Turns that were made.
    pub turns: u64,
    next_tag: u64,
    replies: Vec<StoreReply>,
}

impl Rig {
    pub fn with_ranges(count: u64) -> Self {
        let store = StoreId(1);
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store,
            ident: Identity::from_bytes([2; 16]),
        };
        let mut disk = SimDisk::default();
        for range in 1..=count {
            let end = if range == count { Vec::new() } else { prefix(range + 1).into_bytes() };
            let start = if range == 1 { Vec::new() } else { prefix(range).into_bytes() };
            let descriptor = Descriptor {
                range: RangeId(range),
                bounds: Bounds { start, end },
                epoch: Epoch { version: 1, conf_ver: 1 },
                replicas: vec![Replica { peer: PeerId(range), store, role: Role::Voter }],
            };
            disk.write(&bootstrap(&ident, &descriptor), true).expect("a fresh disk");
        }
        let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
        let worker = Worker::new(Duration::ZERO, store, Pace::default());
        let mut rig =
            Self { worker, now: Duration::ZERO, turns: 0, next_tag: 1, replies: Vec::new() };
        assert!(!rig.worker.knows_leaders());
        rig.settle();
        assert!(rig.worker.leads_all() && rig.worker.knows_leaders(), "single voters lead at once");
        rig
    }

    pub fn settle(&mut self) {
        loop {
            self.turns += 1;
            let outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
            let Some(batch) = outputs.batch else { return };
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn call(&mut self, body: Body) -> store_reply::Body {
        let tag = self.next_tag;
        self.next_tag += 1;
        let call = StoreCall {
            tag,
            session: vec![1; 16].into(),
            instance: 1,
            client_address: "127.0.0.1:4000".into(),
            stream: 7,
            body: Some(body),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        self.settle();
        let is_answer = |reply: &StoreReply| reply.tag == tag;
        let at = self.replies.iter().position(is_answer).expect("it is answered at once");
        self.replies.remove(at).body.expect("an answer says something")
    }

    pub fn acquire(&mut self, range: u64, id: u64, ttl_ms: u64) -> u64 {
        let request = v1::AcquireRequest {
            name: format!("{}/lock", prefix(range)),
            mode: v1::LockMode::Exclusive.into(),
            ttl_ms: Some(ttl_ms),
            acquisition_id: id,
            ..v1::AcquireRequest::default()
        };
        match self.call(Body::Acquire(request)) {
            store_reply::Body::Acquire(granted) if granted.token > 0 => granted.token,
            other => panic!("{other:?}"),
        }
    }

    pub fn release(&mut self, range: u64, id: u64, token: u64) {
        let request = v1::ReleaseRequest {
            name: format!("{}/lock", prefix(range)),
            token,
            acquisition_id: id,
            ..v1::ReleaseRequest::default()
        };
        drop(self.call(Body::Release(request)));
    }
}

fn prefix(range: u64) -> String {
    format!("{range:06}")
}
