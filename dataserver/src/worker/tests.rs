//! What a leader has on the way when its range splits. The store here is one on which that has
//! happened: a parent that has the names up to "m", and the child with the rest. What was admitted or
//! proposed before is put where it waits then: into the parent's front, or into its log.

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Change, Command, FEATURE_LEVEL, Instance, Mode, Owner,
    RaiseFeatureLevel, SessionHandle, Wait,
};
use sharklock_multiraft::{
    ChangePeers, Config, Disk, PeerChange, SimDisk, StateMachine as _, StoreIdent, bootstrap,
    init_store,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{ListRange, SplitRange, StoreReply, store_error::Kind, store_reply},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role, StoreId};

use super::*;
use crate::{
    front::{Asker, Query, Read},
    memory::Charge,
    watching::Watch,
    wire::Caller,
};

const PARENT: RangeId = RangeId(1);
const CHILD: RangeId = RangeId(2);
const BEFORE: u64 = 4;
const AFTER: u64 = 5;
const LINK: LinkId = LinkId(1);
/// Leases here, and what the clock adds.
const LEASE: Duration = Duration::from_millis(10_100);

struct Rig {
    worker: Worker,
    disk: SimDisk,
    now: Duration,
    next_tag: u64,
    replies: Vec<StoreReply>,
}

impl Rig {
    fn new() -> Self {
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store: StoreId(1),
            ident: Identity::from_bytes([2; 16]),
        };
        let mut disk = SimDisk::default();
        let first = bootstrap(&ident, &descriptor(PARENT, "", "m"));
        disk.write(&first, true).expect("a fresh disk");
        let mut store = Store::recover(Config::default(), &disk).expect("its own disk");
        store.create(descriptor(CHILD, "m", ""), LockRange::empty()).expect("these names are free");
        let worker = Worker::new(Duration::ZERO, store, Pace::default());
        let now = Duration::ZERO;
        let mut rig = Self { worker, disk, now, next_tag: 1, replies: Vec::new() };
        rig.settle();
        assert!(rig.worker.leads_all(), "a single voter leads at once");
        rig
    }

    fn settle(&mut self) {
        loop {
            let outputs = self.worker.end_turn(self.now, 1_700_000_000_000, true);
            self.replies.extend(outputs.replies.into_iter().flat_map(|(_, replies)| replies));
            let Some(batch) = outputs.batch else { return };
            self.disk.write(&batch.ops, true).expect("no fault was asked for");
            self.worker.handle(self.now, Input::Persisted(batch.seq));
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + Duration::from_millis(100)).min(until);
            self.settle();
        }
    }

    fn front(&mut self) -> &mut Front {
        self.worker.agenda.wake(PARENT);
        self.worker.fronts.get_mut(&PARENT).expect("every range has a front")
    }

    fn to(&mut self) -> ReplyTo {
        self.next_tag += 1;
        ReplyTo { link: LINK, tag: self.next_tag }
    }

    /// A call that is routed by today's bounds.
    fn acquire(&mut self, session: u8, name: &str) -> v1::AcquireResponse {
        let mut request = v1::AcquireRequest {
            acquisition_id: 1,
            seq: 500,
            name: name.into(),
            ttl_ms: Some(10_000),
            ..v1::AcquireRequest::default()
        };
        request.set_mode(v1::LockMode::Exclusive);
        let to = self.to();
        let call = StoreCall {
            tag: to.tag,
            session: vec![session; 16].into(),
            instance: 1,
            stream: 77,
            body: Some(Body::Acquire(request)),
            ..StoreCall::default()
        };
        let input = Input::Calls { link: LINK, queued: Duration::ZERO, calls: vec![call] };
        self.worker.handle(self.now, input);
        self.settle();
        match self.answer(to) {
            Some(store_reply::Body::Acquire(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    /// Counts the memory of what waits, as admission does.
    fn admitted(&mut self, asker: &Asker) {
        if let Asker::Acquire { charge: Some(charge), .. } = asker {
            self.front().pending.add(charge, &MemoryBounds::default());
        }
    }

    /// Puts an entry into the parent's log that was proposed under that version.
    fn propose(&mut self, version: u64, asked: Vec<(Command, Asker)>) {
        asked.iter().for_each(|(_, asker)| self.admitted(asker));
        let front = self.worker.fronts.get_mut(&PARENT).expect("every range has a front");
        assert!(front.proposals.waiting().is_empty(), "it would be proposed as well");
        let count = asked.len();
        asked.into_iter().for_each(|(command, asker)| front.ask(command, asker));
        let head = BatchHead { version, stamped_unix_ms: 1, passed_ms: 0 };
        let encode = |commands: &[_]| codec::encode_batch(head, commands);
        let is_proposed = front.proposals.propose(&mut self.worker.store, PARENT, count, encode);
        assert!(is_proposed, "it leads");
    }

    fn read(&mut self, query: Query) -> ReplyTo {
        let to = self.to();
        let read = Read { to, query };
        match &read.query {
            Query::KeepAlive { .. } => self.front().reads.push(read),
            _ => self.front().looks.push_back(read),
        }
        to
    }

    fn answer(&mut self, to: ReplyTo) -> Option<store_reply::Body> {
        let at = self.replies.iter().position(|reply| reply.tag == to.tag)?;
        self.replies.remove(at).body
    }

    /// Where a call is told that its name is now: the bounds of the parent, and who has the name.
    fn moved(&mut self, to: ReplyTo) -> Vec<(u64, u64)> {
        let Some(store_reply::Body::Error(error)) = self.answer(to) else {
            panic!("{to:?} is no error")
        };
        let Some(Kind::EpochNotMatch(known)) = error.kind else { panic!("{error:?}") };
        known.descriptors.iter().map(|known| (known.range_id, known.version)).collect()
    }

    fn holds(&self) -> usize {
        let holds = |range| self.worker.store.machine(range).expect("it is here").table().counts();
        holds(PARENT).holds + holds(CHILD).holds
    }
}

fn descriptor(range: RangeId, start: &str, end: &str) -> Descriptor {
    let bounds = Bounds { start: start.into(), end: end.into() };
    let epoch = Epoch { version: AFTER, conf_ver: 1 };
    let replica = Replica { peer: PeerId(range.0), store: StoreId(1), role: Role::Voter };
    Descriptor::new(range, bounds, epoch, vec![replica])
}

fn acquisition(session: u8) -> Acquisition {
    let session = SessionHandle([session; 16]);
    Acquisition { session, instance: Instance(1), id: AcquisitionId(1) }
}

fn acquire(to: ReplyTo, session: u8, name: &str) -> (Command, Asker) {
    let acquire = Acquire {
        acquisition: acquisition(session),
        name: name.into(),
        mode: Mode::Exclusive,
        ttl_ms: 10_000,
        wait: Wait::Unbounded,
        reenter: None,
        owner: Owner::default(),
        condition: None,
        asked_ms: u64::MAX,
    };
    let asker = Asker::Acquire {
        to,
        acquisition: acquire.acquisition,
        name: name.into(),
        seq: 500,
        stale_at: Duration::MAX,
        charge: Some(Charge::of(&acquire)),
        trace: None,
    };
    (Command::Acquire(Box::new(acquire)), asker)
}

fn caller(session: u8) -> Caller {
    let mut call =
        StoreCall { session: vec![session; 16].into(), instance: 1, ..StoreCall::default() };
    Caller::of(&mut call).expect("it has a session")
}

fn keep_alive(session: u8, names: &[&str]) -> Query {
    let item = |name: &&str| v1::KeepAliveItem { name: (*name).into(), acquisition_id: 1 };
    let items = names.iter().map(item).collect();
    Query::KeepAlive { caller: caller(session), seq: 900, asker: None, items }
}

/// Two holders: the name is free in the parent, since the child has it with its holder.
#[test]
fn a_batch_that_commits_behind_a_split_grants_nothing_and_is_repeated_where_the_names_are() {
    let mut rig = Rig::new();
    assert_eq!(rig.acquire(1, "m").outcome(), v1::AcquireOutcome::Granted);
    let (moved, stayed) = (rig.to(), rig.to());
    rig.propose(BEFORE, vec![acquire(moved, 2, "m"), acquire(stayed, 3, "a")]);
    rig.settle();
    assert_eq!(rig.holds(), 1, "one name, one holder");
    assert_eq!(rig.moved(moved), [(PARENT.0, AFTER), (CHILD.0, AFTER)]);
    assert_eq!(rig.moved(stayed), [(PARENT.0, AFTER)], "nothing of a batch is applied");
    assert_eq!(rig.worker.stats().moved, 2);

    assert_eq!(rig.acquire(2, "m").outcome(), v1::AcquireOutcome::Queued);
    assert_eq!(rig.acquire(3, "a").outcome(), v1::AcquireOutcome::Granted);
}

/// Its client would let go of a lock that it holds, or tell its user that it is lost.
#[test]
fn a_keepalive_that_was_admitted_before_a_split_is_never_told_that_its_hold_is_gone() {
    let mut rig = Rig::new();
    rig.acquire(1, "m");
    rig.acquire(1, "a");
    let both = rig.read(keep_alive(1, &["m", "a"]));
    let only_moved = rig.read(keep_alive(1, &["m"]));
    rig.settle();
    let Some(store_reply::Body::KeepAlive(response)) = rig.answer(both) else { panic!("answered") };
    let told: Vec<_> = response.answers.iter().map(|it| (it.name.as_str(), it.state())).collect();
    assert_eq!(told, [("a", v1::KeepAliveState::Held)]);
    for rest in [both, only_moved] {
        assert_eq!(
            rig.moved(rest),
            [(PARENT.0, AFTER), (CHILD.0, AFTER)],
            "its gateway asks there"
        );
    }
    let only_here = rig.read(keep_alive(1, &["a"]));
    rig.settle();
    assert!(matches!(rig.answer(only_here), Some(store_reply::Body::KeepAlive(_))));
    assert_eq!(rig.answer(only_here), None, "nothing is left");
}

#[test]
fn a_look_that_was_admitted_before_a_split_goes_where_the_name_is() {
    let mut rig = Rig::new();
    let token = rig.acquire(1, "m").token;
    let check = v1::CheckTokenRequest { name: "m".into(), token };
    let get = v1::GetLockRequest { name: "m".into(), ..v1::GetLockRequest::default() };
    let moved = [rig.read(Query::CheckToken(check)), rig.read(Query::GetLock(get))];
    let list = |from: &str| {
        let (prefix, from) = (String::new(), from.into());
        Query::ListRange(ListRange { prefix, from, locks_max: 9, bytes_max: 1 << 20 })
    };
    let (first, second) = (rig.read(list("")), rig.read(list("m")));
    rig.settle();
    for to in moved {
        assert_eq!(rig.moved(to), [(PARENT.0, AFTER), (CHILD.0, AFTER)]);
    }
    let Some(store_reply::Body::ListRange(part)) = rig.answer(first) else { panic!("answered") };
    assert_eq!((part.end.as_str(), part.has_more), ("m", false), "what is behind is elsewhere");
    assert_eq!(rig.moved(second), [(PARENT.0, AFTER), (CHILD.0, AFTER)], "it would lack names");
}

/// Its outcome would be made of a table that has the name no more.
#[test]
fn an_acquire_whose_name_left_before_it_was_answered_is_repeated_under_its_id() {
    let mut rig = Rig::new();
    let to = rig.to();
    rig.propose(AFTER, vec![acquire(to, 1, "z")]);
    rig.settle();
    let Some(store_reply::Body::Error(error)) = rig.answer(to) else { panic!("an answer") };
    assert!(matches!(error.kind, Some(Kind::Indeterminate(_))), "{error:?}");
}

/// The change and the split are applied in one turn: the table that is left would show the lock as free,
/// at a newer version (simulator, seed 114).
#[test]
fn who_watches_a_lock_that_changed_and_left_in_one_turn_asks_elsewhere() {
    let mut rig = Rig::new();
    let (to, granted) = (rig.to(), rig.to());
    let now = rig.now;
    rig.front().watches.wait(now, "z".into(), Watch { to, shown_max: 8, known: 7 });
    rig.propose(AFTER, vec![acquire(granted, 1, "z")]);
    rig.settle();
    assert_eq!(rig.answer(to), None, "no state of a lock that is not here");
    rig.front().leading.as_mut().expect("it leads").version = BEFORE;
    rig.worker.follow_bounds(rig.now, PARENT);
    rig.settle();
    assert_eq!(rig.moved(to), [(PARENT.0, AFTER), (CHILD.0, AFTER)]);
}

#[test]
fn what_waits_to_be_proposed_is_parted_by_the_bounds() {
    let mut rig = Rig::new();
    rig.acquire(1, "a");
    let (moved, stayed) = (rig.to(), rig.to());
    let front = rig.front();
    let leading = front.leading.as_mut().expect("it leads");
    leading.version = BEFORE;
    // A lease of a name that was the parent's before.
    let grant =
        sharklock_locktable::Grant { token: Token(99), fence_floor: Token(99), ttl_ms: 10_000 };
    let (name, from_queue) = ("z".into(), false);
    let acquisition = acquisition(9);
    let before = Change::Granted { acquisition, name, grant, from_queue, condition: None };
    leading.clock.observe(Duration::ZERO, &before);
    for command in leading.clock.due(LEASE) {
        front.ask(command, Asker::Clock);
    }
    front.subscribers.insert(acquisition, crate::front::Subscriber { link: LINK, stream: 77 });
    for (command, asker) in [acquire(moved, 2, "m"), acquire(stayed, 3, "b")] {
        rig.admitted(&asker);
        rig.front().ask(command, asker);
    }
    rig.worker.follow_bounds(rig.now, PARENT);
    rig.now = LEASE;
    rig.settle();
    assert_eq!(rig.moved(moved), [(PARENT.0, AFTER), (CHILD.0, AFTER)]);
    let Some(store_reply::Body::Acquire(response)) = rig.answer(stayed) else { panic!("answered") };
    assert_eq!(response.outcome(), v1::AcquireOutcome::Granted);
    assert!(!rig.front().subscribers.contains_key(&acquisition), "who left is not listened to");
    // The lease of what has stayed has ended, in the same command that named what has left.
    assert_eq!(rig.acquire(4, "a").outcome(), v1::AcquireOutcome::Granted);
    assert_eq!(rig.front().leading.as_ref().map(|leading| leading.clock.len()), Some(2));
}

/// Its lease would be pending for ever: no keepalive of it is answered, and nobody else gets the lock.
#[test]
fn an_expiry_that_is_lost_to_a_split_is_asked_for_again() {
    let mut rig = Rig::new();
    rig.acquire(1, "a");
    let to_wait = rig.acquire(2, "a");
    assert_eq!(to_wait.outcome(), v1::AcquireOutcome::Queued);
    rig.pass(Duration::from_secs(10));
    rig.now = LEASE;
    let clock = &mut rig.front().leading.as_mut().expect("it leads").clock;
    clock.renew(LEASE, LeaseKey::Waiter(acquisition(2)));
    let due = clock.due(LEASE);
    assert!(matches!(&due[..], [Command::Expire(_)]), "{due:?}");
    rig.propose(BEFORE, due.into_iter().map(|command| (command, Asker::Clock)).collect());
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.worker.stats().moved, 1);
    let granted = rig.replies.iter().any(|reply| match &reply.body {
        Some(store_reply::Body::Event(event)) => event.kind() == v1::AcquisitionEventKind::Granted,
        _ => false,
    });
    assert!(granted, "the next waiter has it: {:?}", rig.replies);
}

/// A range follows the rules that its log has reached, whatever program runs it.
#[test]
fn a_leader_raises_the_level_of_its_range_as_far_as_the_masters_say_and_no_further() {
    let mut rig = Rig::new();
    let machine = rig.worker.store.machine_mut(PARENT).expect("it is here");
    *machine = LockRange::at_level(1).expect("older rules");
    let raise = |rig: &mut Rig, conf_ver, level| {
        rig.worker.handle(rig.now, Input::RaiseLevel { range: PARENT, conf_ver, level });
        rig.settle();
        rig.worker.reports()[0].feature_level
    };
    assert_eq!(raise(&mut rig, 2, 2), 1, "other replicas were asked about");
    assert_eq!(raise(&mut rig, 1, 2), 2);
    assert_eq!(raise(&mut rig, 1, 1), 2, "it never falls");
    assert_eq!(raise(&mut rig, 1, FEATURE_LEVEL + 1), 2, "this program knows no such rules");
    assert_eq!(raise(&mut rig, 1, FEATURE_LEVEL), FEATURE_LEVEL);
    let entries = rig.worker.stats().entries;
    assert_eq!(raise(&mut rig, 1, FEATURE_LEVEL), FEATURE_LEVEL);
    assert_eq!(rig.worker.stats().entries, entries, "it is done");
}

/// A server that was put back to an older program says so at its start, and nothing is damaged.
#[test]
fn a_log_of_newer_rules_is_refused_at_the_start_with_what_to_do() {
    let mut rig = Rig::new();
    let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level: FEATURE_LEVEL + 1 });
    let head = BatchHead { version: AFTER, stamped_unix_ms: 1, passed_ms: 0 };
    rig.worker.store.propose(PARENT, codec::encode_batch(head, &[raise])).expect("it leads");
    let batch = rig.worker.end_turn(rig.now, 1, true).batch.expect("the entry goes to the disk");
    rig.disk.write(&batch.ops, true).expect("no fault was asked for");
    let refused = Store::<LockRange>::recover(Config::default(), &rig.disk).err();
    let refused = refused.expect("this program does not know it").to_string();
    assert!(refused.contains("upgrade this server"), "{refused}");
}

/// The masters say by which rules a range begins; a program that does not know them makes none.
#[test]
fn a_first_range_begins_by_the_rules_of_its_makers_and_keeps_them_over_a_restart() {
    let ident = StoreIdent {
        cluster_id: ClusterId::from_bytes([1; 16]),
        store: StoreId(1),
        ident: Identity::from_bytes([2; 16]),
    };
    let mut disk = SimDisk::default();
    disk.write(&init_store(&ident), true).expect("a fresh disk");
    let store = Store::recover(Config::default(), &disk).expect("its own disk");
    let worker = Worker::new(Duration::ZERO, store, Pace::default());
    let now = Duration::ZERO;
    let mut rig = Rig { worker, disk, now, next_tag: 1, replies: Vec::new() };
    let create = |level| Input::Create { descriptor: descriptor(PARENT, "", "m"), level };
    rig.worker.handle(now, create(FEATURE_LEVEL + 1));
    rig.settle();
    assert!(rig.worker.store.ranges().is_empty(), "its program is too old");
    rig.worker.handle(now, create(1));
    rig.settle();
    assert_eq!(rig.worker.reports()[0].feature_level, 1);
    let store = Store::<LockRange>::recover(Config::default(), &rig.disk).expect("its own disk");
    let machine = store.machine(PARENT).expect("it is here");
    assert_eq!(machine.table().feature_level(), 1);
}

/// Nobody changes members yet, but whoever will: nothing is split meanwhile.
#[test]
fn nothing_is_split_while_members_are_being_changed() {
    let mut rig = Rig::new();
    let epoch = Epoch { conf_ver: 1, version: AFTER };
    let learner = PeerChange::AddLearner { peer: PeerId(77), store: StoreId(2) };
    let change = ChangePeers { epoch, changes: vec![learner] };
    rig.worker.store.change_peers(PARENT, &change).expect("it leads");
    let asked = SplitRange {
        range_id: PARENT.0,
        conf_ver: epoch.conf_ver,
        version: epoch.version,
        at: Some("c".into()),
        ..SplitRange::default()
    };
    let to = rig.to();
    let body = Some(Body::SplitRange(asked));
    let call = StoreCall { tag: to.tag, body, ..StoreCall::default() };
    let calls = vec![call];
    rig.worker.handle(rig.now, Input::Calls { link: LINK, queued: Duration::ZERO, calls });
    rig.settle();
    let Some(store_reply::Body::Error(error)) = rig.answer(to) else { panic!("it is refused") };
    let Some(Kind::Refused(refused)) = error.kind else { panic!("{error:?}") };
    assert_eq!(refused.reason, "MEMBERS_CHANGING");
}
