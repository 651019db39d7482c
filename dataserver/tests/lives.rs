//! Ranges that come to a worker and leave it while it runs: their fronts come and go with them.

use std::time::Duration;

use sharklock_dataserver::{Input, LinkId, LockRange, Outputs, Pace, Worker};
use sharklock_multiraft::{Config, Disk, Effects, SimDisk, Split, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        PeerNotice, RangeMessage, ReplicaRemoved, StoreCall, peer_notice::Notice, store_call,
        store_reply,
    },
    v1,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

const NOW: Duration = Duration::from_secs(1);
const IDENT: StoreIdent = StoreIdent {
    cluster_id: ClusterId::from_bytes([1; 16]),
    store: StoreId(1),
    ident: Identity::from_bytes([2; 16]),
};

/// A disk with range 1, whose replicas are on the stores from 1 on.
fn disk(replicas: u64) -> SimDisk {
    let member =
        |number| Replica { peer: PeerId(number), store: StoreId(number), role: Role::Voter };
    let first = Descriptor {
        range: RangeId(1),
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=replicas).map(member).collect(),
    };
    let mut disk = SimDisk::default();
    disk.write(&bootstrap(&IDENT, &first), true).expect("a fresh disk");
    disk
}

fn turn(worker: &mut Worker, disk: &mut SimDisk) -> (Outputs, bool) {
    let outputs = worker.end_turn(NOW, 1_700_000_000_000, true);
    if let Some(batch) = &outputs.batch {
        disk.write(&batch.ops, true).expect("no fault is planned");
        worker.handle(NOW, Input::Persisted(batch.seq));
    }
    let is_busy = outputs.batch.is_some();
    (outputs, is_busy)
}

/// The answers until nothing moves any more.
fn settle(worker: &mut Worker, disk: &mut SimDisk) -> Vec<store_reply::Body> {
    let mut replies = Vec::new();
    loop {
        let (outputs, is_busy) = turn(worker, disk);
        let bodies = outputs.replies.into_iter().flat_map(|(_, replies)| replies);
        replies.extend(bodies.filter_map(|reply| reply.body));
        if !is_busy {
            return replies;
        }
    }
}

fn acquire(worker: &mut Worker, disk: &mut SimDisk, name: &str) -> store_reply::Body {
    let mut request = v1::AcquireRequest {
        acquisition_id: 1,
        seq: 1,
        name: name.to_owned(),
        ttl_ms: Some(10_000),
        owner_id: "owner".to_owned(),
        ..v1::AcquireRequest::default()
    };
    request.set_mode(v1::LockMode::Exclusive);
    let call = StoreCall {
        tag: 1,
        session: vec![7; 16].into(),
        instance: 1,
        client_address: "127.0.0.1:4000".into(),
        stream: 1,
        body: Some(store_call::Body::Acquire(request)),
        ..StoreCall::default()
    };
    let calls = vec![call];
    worker.handle(NOW, Input::Calls { link: LinkId(1), queued: Duration::ZERO, calls });
    settle(worker, disk).pop().expect("an answer")
}

/// The first name of the child is `m`. The worker takes the store over while the split is under way.
#[test]
fn a_child_is_served_as_soon_as_it_is_born() {
    let mut disk = disk(1);
    let mut store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
    let mut effects = Effects::default();
    loop {
        store.turn(&mut effects);
        let Some(batch) = effects.batch.take() else { break };
        disk.write(&batch.ops, true).expect("no fault is planned");
        store.persisted(batch.seq);
    }
    let split = Split {
        epoch: Epoch { version: 1, conf_ver: 1 },
        key: "m".to_owned(),
        child: RangeId(2),
        child_peers: vec![PeerId(2)],
    };
    store.split(RangeId(1), &split).expect("it leads");

    let mut worker = Worker::new(NOW, store, Pace::default());
    settle(&mut worker, &mut disk);
    assert_eq!(worker.store().ranges(), [RangeId(1), RangeId(2)]);
    let granted = acquire(&mut worker, &mut disk, "z");
    let store_reply::Body::Acquire(granted) = granted else { panic!("{granted:?}") };
    assert_eq!(granted.outcome(), v1::AcquireOutcome::Granted);

    // A restart finds both, and serves both.
    disk.crash();
    let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
    let mut worker = Worker::new(NOW, store, Pace::default());
    settle(&mut worker, &mut disk);
    assert!(worker.leads_all());
    for name in ["a", "z"] {
        let granted = acquire(&mut worker, &mut disk, name);
        assert!(matches!(granted, store_reply::Body::Acquire(_)), "{name}: {granted:?}");
    }
}

/// The range goes on without the replica here: calls for it are answered, and nothing is left.
#[test]
fn a_range_that_goes_takes_its_front_along() {
    let mut disk = disk(3);
    let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
    let mut worker = Worker::new(NOW, store, Pace::default());
    settle(&mut worker, &mut disk);
    assert!(!worker.leads_all(), "it follows");
    let removed = RangeMessage {
        cluster_id: vec![1; 16].into(),
        range_id: 1,
        from_store: 2,
        to_store: 1,
        from_peer: 2,
        to_peer: 1,
        conf_ver: 2,
        version: 1,
        message: None,
        notice: Some(PeerNotice { notice: Some(Notice::Removed(ReplicaRemoved {})) }),
    };
    worker.handle(NOW, Input::Message(Box::new(removed)));
    // A call of the same turn finds it there for the last time.
    let refused = acquire(&mut worker, &mut disk, "a");
    assert!(matches!(refused, store_reply::Body::Error(_)), "{refused:?}");
    assert_eq!(worker.store().ranges(), []);
    assert!(worker.leads_all(), "no front is left");
    assert_eq!(worker.memory().used(), 0);
    let refused = acquire(&mut worker, &mut disk, "a");
    assert!(matches!(refused, store_reply::Body::Error(_)), "{refused:?}");
    disk.crash();
    let store = Store::<LockRange>::recover(Config::default(), &disk).expect("its own disk");
    assert_eq!((store.ranges(), store.tombstone(RangeId(1))), (vec![], Some(PeerId(1))));
}
