//! A store that starts on a log which ends with the removal of its replica: the entry was committed
//! and durable, and the power was lost before the end of the replica was. The replay ends it then,
//! before any worker has heard of it, and nothing of it may come to one later.

use std::num::NonZeroUsize;

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Command, Instance, Mode, Owner, SessionHandle, Wait,
};
use sharklock_multiraft::{
    ChangePeers, Config, Disk, PeerChange, SimDisk, Split, StateMachine as _, StoreIdent, bootstrap,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{
        CreateReplica, PeerNotice, RangeDescriptor, RangeMessage, StoreReply, peer_notice::Notice,
        store_error::Kind, store_reply,
    },
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role, StoreId};

use super::*;
use crate::ports::Whereabouts;

const REMOVED: RangeId = RangeId(1);
const CHILD: RangeId = RangeId(4);
/// The replica here, and the only voter, elsewhere.
const PEERS: [PeerId; 2] = [PeerId(11), PeerId(12)];
const LINK: LinkId = LinkId(1);

fn ident(store: u64) -> StoreIdent {
    let ident = Identity::from_bytes([store as u8; 16]);
    StoreIdent { cluster_id: ClusterId::from_bytes([1; 16]), store: StoreId(store), ident }
}

fn range(id: RangeId, (start, end): (&str, &str), replicas: &[(PeerId, u64, Role)]) -> Descriptor {
    let bounds = Bounds { start: start.into(), end: end.into() };
    let epoch = Epoch { version: 1, conf_ver: 1 };
    let replica =
        |&(peer, store, role): &(PeerId, u64, Role)| Replica { peer, store: StoreId(store), role };
    Descriptor::new(id, bounds, epoch, replicas.iter().map(replica).collect())
}

/// The range that is led from store 2, with a replica of this number here.
fn removed(here: PeerId) -> Descriptor {
    let replicas = [(here, 1, Role::Learner), (PEERS[1], 2, Role::Voter)];
    range(REMOVED, ("", "h"), &replicas)
}

/// A store without workers, which writes at once whatever it wants written.
struct Engine {
    store: Store<LockRange>,
    disk: SimDisk,
}

impl Engine {
    fn of(number: u64) -> Self {
        let mut disk = SimDisk::default();
        let first = bootstrap(&ident(number), &removed(PEERS[0]));
        disk.write(&first, true).expect("a fresh disk");
        let store = Store::recover(Config::default(), &disk).expect("its own disk");
        Self { store, disk }
    }

    fn settle(&mut self) -> Vec<RangeMessage> {
        let mut effects = Effects::default();
        loop {
            self.store.turn(&mut effects);
            let Some(batch) = effects.batch.take() else { return effects.messages };
            self.disk.write(&batch.ops, true).expect("no fault is planned");
            self.store.persisted(batch.seq);
        }
    }

    fn hears(&mut self, messages: Vec<RangeMessage>) {
        messages.into_iter().for_each(|message| self.store.hear(message));
    }
}

/// Until the one has nothing to say any more to which the other answers.
fn exchange(a: &mut Engine, b: &mut Engine) {
    loop {
        b.hears(a.settle());
        let answers = b.settle();
        if answers.is_empty() {
            return;
        }
        a.hears(answers);
    }
}

/// The disk of a store whose replica of one range of three was removed, behind a split of that range
/// or not, of which the store had applied nothing when its power was lost.
fn disk(is_split: bool) -> SimDisk {
    let (mut here, mut leader) = (Engine::of(1), Engine::of(2));
    for (id, names) in [(2, ("h", "p")), (3, ("p", ""))] {
        let descriptor = range(RangeId(id), names, &[(PeerId(id * 10), 1, Role::Voter)]);
        here.store.create(descriptor, LockRange::empty()).expect("these names are free");
    }
    exchange(&mut leader, &mut here);
    // A follower hears with the next entry that the one before is committed.
    for (id, name) in [(1, "a"), (2, "b")] {
        leader.store.propose(REMOVED, hold(id, name)).expect("a single voter leads at once");
        exchange(&mut leader, &mut here);
    }
    let holds = |store: &Store<LockRange>| {
        store.machine(REMOVED).map(|machine| machine.table().counts().holds)
    };
    assert_eq!(holds(&here.store), Some(1), "it follows");

    let mut said = Vec::new();
    if is_split {
        let epoch = Epoch { version: 1, conf_ver: 1 };
        let child_peers = vec![PeerId(41), PeerId(42)];
        let split = Split { epoch, key: "c".to_owned(), child: CHILD, child_peers };
        leader.store.split(REMOVED, &split).expect("it leads");
        said.extend(leader.settle());
    }
    let epoch = leader.store.descriptor(REMOVED).expect("it is there").epoch;
    let changes = vec![PeerChange::RemoveLearner(PEERS[0])];
    leader.store.change_peers(REMOVED, &ChangePeers { epoch, changes }).expect("it leads");
    said.extend(leader.settle());
    assert_eq!(leader.store.descriptor(REMOVED).map(|it| it.replicas.len()), Some(1));
    // As a leader says it that had no room for the entry before it was committed.
    said.retain(|it| it.message.as_ref().is_some_and(|body| !body.entries.is_empty()));
    let body = said.last_mut().and_then(|it| it.message.as_mut()).expect("the entry was sent");
    body.commit = body.entries.last().expect("as above").index;
    let commit = body.commit;

    here.hears(said);
    let mut effects = Effects::default();
    here.store.turn(&mut effects);
    let status = here.store.status(REMOVED).expect("it is still here");
    assert!(status.applied < commit, "{status:?}");
    let batch = effects.batch.expect("entries and what is known to be committed");
    here.disk.write(&batch.ops, true).expect("no fault is planned");
    here.disk
}

/// An entry by which this lock is held.
fn hold(id: u64, name: &str) -> Vec<u8> {
    let acquisition = Acquisition {
        session: SessionHandle([7; 16]),
        instance: Instance(1),
        id: AcquisitionId(id),
    };
    let acquire = Acquire {
        acquisition,
        name: name.into(),
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner::default(),
        condition: None,
        asked_ms: u64::MAX,
    };
    let head = BatchHead { version: 1, stamped_unix_ms: 1, passed_ms: 0 };
    codec::encode_batch(head, &[Command::Acquire(Box::new(acquire))])
}

/// A store with several workers on that disk.
struct Started {
    workers: Vec<Worker>,
    table: Assignment,
    mail: Vec<Vec<Input>>,
    disk: SimDisk,
    now: Duration,
    replies: Vec<StoreReply>,
    buried: Vec<(RangeId, PeerId)>,
}

impl Started {
    fn on(disk: SimDisk, workers: usize) -> Self {
        let count = NonZeroUsize::new(workers).expect("some");
        let shares = Store::<LockRange>::recover_shares(Config::default(), &disk, count);
        let shares = shares.expect("it is whole");
        let mut table = Assignment::new(count);
        shares.iter().enumerate().for_each(|(worker, share)| table.begin(worker, share.held()));
        let worker = |(number, share)| {
            Worker::new(Duration::ZERO, share, Pace::default()).with_number(number)
        };
        Self {
            workers: shares.into_iter().enumerate().map(worker).collect(),
            table,
            mail: (0..workers).map(|_| Vec::new()).collect(),
            disk,
            now: Duration::ZERO,
            replies: Vec::new(),
            buried: Vec::new(),
        }
    }

    fn receive(&mut self, input: Input) {
        for (worker, input) in self.table.route(input) {
            self.mail[worker].push(input);
        }
    }

    /// A turn of each worker. What they write is on the disk behind it.
    fn turns(&mut self) {
        for number in 0..self.workers.len() {
            let worker = &mut self.workers[number];
            for input in std::mem::take(&mut self.mail[number]) {
                worker.handle(self.now, input);
            }
            let outputs = worker.end_turn(self.now, 1_700_000_000_000, true);
            for told in outputs.whereabouts {
                if let Whereabouts::Buried { range, peer } = told {
                    self.buried.push((range, peer));
                }
                if let Some(Input::Buried { range, peer }) = self.table.follow(number, told) {
                    let others = (0..self.mail.len()).filter(|other| *other != number);
                    others.for_each(|it| self.mail[it].push(Input::Buried { range, peer }));
                }
            }
            self.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
            if let Some(batch) = outputs.batch {
                self.disk.write(&batch.ops, true).expect("no fault is planned");
                self.mail[number].push(Input::Persisted(batch.seq));
            }
        }
    }

    /// Some seconds, in which images are written and elections are won.
    fn pass(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_millis(50);
            self.turns();
        }
    }

    /// The workers that know a range by anything but its tombstone.
    fn who_keeps(&self, range: RangeId) -> Vec<usize> {
        let keeps = |worker: &Worker| {
            let word = worker.journal.since(0, usize::MAX).changes;
            worker.fronts.contains_key(&range)
                || worker.leaderless.contains(&range)
                || worker.unreported.contains(&range)
                || worker.agenda.awake().any(|it| it == range)
                || word.iter().any(|(it, _)| *it == range)
                || worker.reports().iter().any(|it| is_of(range, it.descriptor.as_ref()))
                || worker.store.descriptor(range).is_some()
        };
        let workers = self.workers.iter().enumerate();
        workers.filter(|(_, worker)| keeps(worker)).map(|(number, _)| number).collect()
    }

    fn check_whole(&self) {
        for worker in &self.workers {
            let fronts: Vec<_> = worker.fronts.keys().copied().collect();
            assert_eq!(fronts, worker.store.ranges(), "each range has a front, and nothing else");
            assert_eq!(worker.agenda.next_alarm(), None, "nobody holds anything here");
            assert!(worker.retired.is_empty(), "no clock of it was ever there");
            assert_eq!(worker.memory.used(), 0, "nobody holds anything here");
        }
    }
}

fn is_of(range: RangeId, descriptor: Option<&RangeDescriptor>) -> bool {
    descriptor.is_some_and(|it| it.range_id == range.0)
}

/// A call of a gateway that believes in the replica here.
fn call() -> Input {
    let acquire = v1::AcquireRequest {
        acquisition_id: 1,
        seq: 1,
        name: "a".into(),
        ttl_ms: Some(10_000),
        mode: v1::LockMode::Exclusive.into(),
        ..v1::AcquireRequest::default()
    };
    let call = StoreCall {
        tag: 5,
        session: vec![8; 16].into(),
        instance: 1,
        stream: 77,
        range_id: REMOVED.0,
        version: 1,
        body: Some(Body::Acquire(acquire)),
        ..StoreCall::default()
    };
    Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] }
}

/// The leader asks for a replica with this number.
fn asks_for(here: PeerId, conf_ver: u64) -> Input {
    let mut descriptor = removed(here);
    descriptor.epoch.conf_ver = conf_ver;
    let create = CreateReplica { descriptor: Some(RangeDescriptor::from(&descriptor)) };
    Input::Message(Box::new(RangeMessage {
        cluster_id: vec![1; 16].into(),
        range_id: REMOVED.0,
        from_store: 2,
        to_store: 1,
        from_peer: PEERS[1].0,
        to_peer: here.0,
        conf_ver,
        version: 1,
        notice: Some(PeerNotice { notice: Some(Notice::Create(create)) }),
        ..RangeMessage::default()
    }))
}

#[test]
fn a_replica_that_a_replay_removes_leaves_nothing_at_any_worker() {
    for (workers, is_split) in [(1, false), (2, false), (3, false), (2, true), (4, true)] {
        let mut store = Started::on(disk(is_split), workers);
        assert_eq!(store.who_keeps(REMOVED), [], "of {workers}: at the start");
        store.receive(call());
        store.turns();
        assert_eq!(store.buried, [(REMOVED, PEERS[0])], "one worker ends it, once");
        assert_eq!(store.who_keeps(REMOVED), [], "of {workers}: while it ends");
        store.pass();
        assert_eq!(store.who_keeps(REMOVED), [], "of {workers}: for good");
        assert_eq!(store.buried.len(), 1);
        store.check_whole();
        let here: usize = store.workers.iter().map(Worker::ranges_count).sum();
        assert_eq!(here, if is_split { 3 } else { 2 }, "its child and the others are here");
        let error = match store.replies.as_slice() {
            [StoreReply { tag: 5, body: Some(store_reply::Body::Error(error)), .. }] => error,
            other => panic!("{other:?}"),
        };
        let Some(Kind::EpochNotMatch(known)) = &error.kind else { panic!("{error:?}") };
        assert!(known.descriptors.iter().all(|it| it.range_id != REMOVED.0), "{known:?}");

        // The disk has its end, too.
        let again = Started::on(store.disk.clone(), workers);
        assert_eq!(again.who_keeps(REMOVED), [], "of {workers}: after another start");
    }
}

/// The table gives the range to another worker only when the disk has its end, and each worker knows
/// by then that this replica must not come back.
#[test]
fn a_range_whose_replica_a_replay_has_removed_comes_back_only_as_a_newer_one() {
    for workers in [1, 2, 3] {
        let mut store = Started::on(disk(false), workers);
        let ends_at = store.table.of_range(REMOVED);
        let count = workers as u64;
        store.receive(asks_for(PEERS[0], 1));
        assert_eq!(store.mail[ends_at].len(), 1, "its end is not on the disk");
        store.pass();
        assert_eq!(store.who_keeps(REMOVED), [], "it was removed");
        assert_eq!(store.table.of_range(REMOVED), (REMOVED.0 % count) as usize, "it has no place");

        store.receive(asks_for(PeerId(51), 3));
        store.pass();
        let [_] = store.who_keeps(REMOVED)[..] else { panic!("one worker makes a newer one") };
        assert_eq!(store.table.of_range(REMOVED), store.who_keeps(REMOVED)[0]);

        // Past the table: none of them makes it.
        let mut store = Started::on(disk(false), workers);
        for worker in &mut store.workers {
            worker.handle(Duration::ZERO, asks_for(PEERS[0], 1));
            worker.store.turn(&mut worker.effects);
            let batch = worker.effects.batch.take();
            batch.into_iter().for_each(|batch| worker.store.persisted(batch.seq));
            worker.store.turn(&mut worker.effects);
            assert!(worker.store.descriptor(REMOVED).is_none(), "it must not come back");
        }
    }
}
