//! A range that splits while its clients go on: what its leader keeps back, and what the child does.

use std::time::Duration;

use sharklock_dataserver::{Input, Pace, with_drift};
use sharklock_locktable::Token;
use sharklock_multiraft::{LogLimits, RaftRole, Split};
use sharklock_proto::{
    internal::v1::{store_call::Body as Call, store_error::Kind, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Epoch, PeerId, RangeId};

use super::rig::{RANGE, Trio};

const CHILD: RangeId = RangeId(2);
const TTL: Duration = Duration::from_secs(10);

/// The names from `m` on become a range of their own.
fn split() -> Input {
    let split = Split {
        epoch: Epoch { version: 1, conf_ver: 1 },
        key: "m".into(),
        child: CHILD,
        child_peers: [201, 202, 203].map(PeerId).to_vec(),
    };
    Input::Split { range: RANGE, term: None, split }
}

/// A session has one acquisition of each name.
fn id(name: &str) -> u64 {
    name.bytes().next().expect("a name has letters").into()
}

fn acquire(name: &str) -> Call {
    let mut request = v1::AcquireRequest {
        name: name.into(),
        ttl_ms: Some(10_000),
        seq: 500,
        acquisition_id: id(name),
        ..v1::AcquireRequest::default()
    };
    request.set_mode(v1::LockMode::Exclusive);
    Call::Acquire(request)
}

fn keep_alive(names: &[&str]) -> Call {
    let item = |name: &&str| v1::KeepAliveItem { name: (*name).into(), acquisition_id: id(name) };
    let items = names.iter().map(item).collect();
    Call::KeepAlive(v1::KeepAliveRequest { seq: 900, items, ..v1::KeepAliveRequest::default() })
}

fn release(name: &str, token: u64) -> Call {
    let (name, acquisition_id) = (name.into(), id(name));
    Call::Release(v1::ReleaseRequest { name, token, acquisition_id, ..Default::default() })
}

fn get(name: &str) -> Call {
    Call::GetLock(v1::GetLockRequest { name: name.into(), ..v1::GetLockRequest::default() })
}

impl Trio {
    fn acquired(&mut self, store: u64, session: u8, name: &str) -> v1::AcquireResponse {
        let tag = self.ask(store, session, acquire(name));
        self.settle();
        match self.answer(store, tag) {
            Some(Body::Acquire(response)) => response,
            other => panic!("{other:?}"),
        }
    }

    fn kept_alive(
        &mut self,
        store: u64,
        session: u8,
        names: &[&str],
    ) -> Vec<(String, v1::KeepAliveState)> {
        let tag = self.ask(store, session, keep_alive(names));
        self.settle();
        states(self.answer(store, tag))
    }

    /// The store that leads the child, as soon as one does.
    fn child_led(&mut self) -> u64 {
        for _ in 0..30 {
            if let Some(store) = (1..=3).find(|store| self.leads(*store, CHILD)) {
                return store;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("nobody leads the child after three seconds");
    }

    fn leads(&self, store: u64, range: RangeId) -> bool {
        self.worker(store).leads(range)
    }

    /// How many holds of a name the store's ranges have.
    fn holders(&self, store: u64, name: &str) -> usize {
        let store = self.worker(store).store();
        let tables = store.ranges().into_iter().filter_map(|range| store.machine(range));
        let views = tables.filter_map(|machine| machine.table().lock(name, 10, 10));
        views.map(|view| view.holds.len()).sum()
    }
}

fn states(answer: Option<Body>) -> Vec<(String, v1::KeepAliveState)> {
    match answer {
        Some(Body::KeepAlive(response)) => {
            response.answers.iter().map(|it| (it.name.clone(), it.state())).collect()
        }
        None => Vec::new(),
        other => panic!("{other:?}"),
    }
}

/// The descriptors that a caller is sent to, by range and version.
fn moved(answer: Option<Body>) -> Vec<(u64, u64)> {
    let Some(Body::Error(error)) = answer else { panic!("{answer:?}") };
    let Some(Kind::EpochNotMatch(known)) = error.kind else { panic!("{error:?}") };
    known.descriptors.iter().map(|known| (known.range_id, known.version)).collect()
}

/// Whether a call was told that another replica leads its range.
fn not_leader_of(answer: Option<Body>) -> Option<u64> {
    let Some(Body::Error(error)) = answer else { panic!("{answer:?}") };
    match error.kind {
        Some(Kind::NotLeader(not)) => Some(not.range_id),
        _ => None,
    }
}

/// Between the proposal of a split and its application nothing leaves by which a client could count:
/// neither what was decided in front of it, nor what a round has cleared.
#[test]
fn a_leader_keeps_its_answers_back_while_its_split_is_on_its_way_and_loses_none() {
    let (mut trio, leader) = Trio::new();
    let token = trio.acquired(leader, 1, "a").token;
    trio.acquired(leader, 1, "z");
    trio.parks = Some(leader);
    let before = ["b", "y"].map(|name| trio.ask(leader, 2, acquire(name)));
    let waits = trio.ask(leader, 2, acquire("a"));
    trio.settle();
    let of_the_batch = std::mem::take(&mut trio.parked);

    trio.tell(leader, split());
    let renewed = trio.ask(leader, 1, keep_alive(&["a", "z"]));
    trio.settle();
    trio.deliver(of_the_batch);
    let looks = trio.ask(leader, 3, get("b"));
    trio.settle();
    let status = trio.worker(leader).store().status(RANGE).expect("it is here");
    assert_eq!(status.commit + 1, status.log_last, "the batch is committed, and the split is not");
    for tag in before.into_iter().chain([waits, renewed]) {
        assert_eq!(trio.answer(leader, tag), None, "its seq would move a lease");
    }
    let Some(Body::GetLock(seen)) = trio.answer(leader, looks) else { panic!("no seq, no gate") };
    assert_eq!(seen.lock.map(|lock| lock.holders.len()), Some(1));
    let behind = trio.ask(leader, 1, release("a", token));

    trio.parks = None;
    let rest = std::mem::take(&mut trio.parked);
    trio.deliver(rest);
    let [stays, goes] = before.map(|tag| trio.answer(leader, tag));
    let Some(Body::Acquire(granted)) = stays else { panic!("{stays:?}") };
    assert_eq!((granted.outcome(), granted.seq), (v1::AcquireOutcome::Granted, 500));
    let Some(Body::Error(error)) = goes else { panic!("{goes:?}") };
    assert!(matches!(error.kind, Some(Kind::Indeterminate(_))), "its gateway asks the child");
    let Some(Body::Acquire(queued)) = trio.answer(leader, waits) else { panic!("an answer") };
    assert_eq!((queued.outcome(), queued.place), (v1::AcquireOutcome::Queued, 1));
    let told = states(trio.answer(leader, renewed));
    assert_eq!(told, [("a".into(), v1::KeepAliveState::Held)], "and of z nothing");
    assert_eq!(moved(trio.answer(leader, behind)), [(RANGE.0, 2)]);

    // Nothing is in the way any more.
    assert_eq!(trio.kept_alive(leader, 2, &["b"]), [("b".into(), v1::KeepAliveState::Held)]);
    assert_eq!(trio.acquired(leader, 3, "c").outcome(), v1::AcquireOutcome::Granted);
}

/// A split that is lost with its leader takes no answer along.
#[test]
fn whoever_waits_for_a_split_hears_of_it_when_its_leader_steps_down() {
    let (mut trio, leader) = Trio::new();
    trio.acquired(leader, 1, "a");
    trio.parks = Some(leader);
    let decided = trio.ask(leader, 2, acquire("b"));
    trio.settle();
    let of_the_batch = std::mem::take(&mut trio.parked);
    trio.tell(leader, split());
    let renewed = trio.ask(leader, 1, keep_alive(&["a"]));
    trio.settle();
    trio.deliver(of_the_batch);
    assert_eq!(trio.answer(leader, decided), None);

    trio.alone = Some(leader);
    trio.pass(Duration::from_secs(5));
    assert!(!trio.leads(leader, RANGE));
    let Some(Body::Error(error)) = trio.answer(leader, decided) else { panic!("no answer") };
    assert!(matches!(error.kind, Some(Kind::Indeterminate(_))), "{error:?}");
    assert_eq!(not_leader_of(trio.answer(leader, renewed)), Some(RANGE.0), "nothing was done");

    // The others had the entry, and go on with both halves.
    let next = (1..=3).find(|store| *store != leader && trio.leads(*store, RANGE));
    assert_eq!(trio.worker(next.expect("one of them")).store().ranges(), [RANGE, CHILD]);
    assert_eq!(trio.holders(next.expect("one of them"), "b"), 1);
}

/// Two holders: to the parent the name is free, since the child has it with its holder.
#[test]
fn a_batch_behind_a_split_grants_nothing_and_is_repeated_where_its_names_are() {
    let (mut trio, leader) = Trio::new();
    let token = trio.acquired(leader, 1, "z").token;
    trio.tell(leader, split());
    let [goes, stays] = ["z", "a"].map(|name| trio.ask(leader, 2, acquire(name)));
    trio.settle();
    assert_eq!(moved(trio.answer(leader, goes)), [(RANGE.0, 2), (CHILD.0, 2)]);
    assert_eq!(moved(trio.answer(leader, stays)), [(RANGE.0, 2)], "nothing of it is applied");
    for store in 1..=3 {
        assert_eq!((trio.holders(store, "z"), trio.holders(store, "a")), (1, 0));
    }

    assert_eq!(trio.child_led(), leader, "it asks for votes where its clients are");
    assert_eq!(trio.acquired(leader, 2, "z").outcome(), v1::AcquireOutcome::Queued);
    let in_both = trio.acquired(leader, 2, "a");
    assert_eq!(in_both.outcome(), v1::AcquireOutcome::Granted);
    assert!(in_both.token > token, "either half gives tokens above all that were given");
}

/// Its client would let go of a lock that it holds, or tell its user that it is lost.
#[test]
fn a_keepalive_in_front_of_a_split_is_never_told_that_its_hold_is_gone() {
    let (mut trio, leader) = Trio::new();
    trio.acquired(leader, 1, "z");
    trio.acquired(leader, 1, "a");
    let both = trio.ask(leader, 1, keep_alive(&["z", "a"]));
    let only_moved = trio.ask(leader, 1, keep_alive(&["z"]));
    trio.tell(leader, split());
    trio.settle();
    assert_eq!(states(trio.answer(leader, both)), [("a".into(), v1::KeepAliveState::Held)]);
    for rest in [both, only_moved] {
        assert_eq!(moved(trio.answer(leader, rest)), [(RANGE.0, 2), (CHILD.0, 2)]);
    }

    // A gateway that believes in the range as it was learns where each name of its call is, and no
    // more than that.
    for (names, known) in [
        (&["z"][..], &[(RANGE.0, 2), (CHILD.0, 2)][..]),
        (&["a", "z"], &[(RANGE.0, 2), (CHILD.0, 2)]),
        (&["a"], &[(RANGE.0, 2)]),
    ] {
        let late = trio.ask_range(leader, 1, (RANGE.0, 1), keep_alive(names));
        trio.settle();
        assert_eq!(moved(trio.answer(leader, late)), known, "{names:?}");
    }
    let held = v1::KeepAliveState::Held;
    assert_eq!(trio.child_led(), leader);
    assert_eq!(trio.kept_alive(leader, 1, &["z"]), [("z".into(), held)]);
    assert_eq!(trio.kept_alive(leader, 1, &["a"]), [("a".into(), held)]);
}

/// The child's leader cannot know when the parent's renewed a lease last.
#[test]
fn a_childs_leases_begin_anew_when_its_leader_has_applied_to_its_own_term() {
    let (mut trio, leader) = Trio::new();
    let [stays, goes] = ["a", "z"].map(|name| Token(trio.acquired(leader, 1, name).token));
    trio.pass(Duration::from_secs(8));
    let left = |trio: &Trio, range, hold| trio.worker(leader).lease_left(trio.now, range, hold);
    assert_eq!(left(&trio, RANGE, goes), Some(with_drift(TTL) - Duration::from_secs(8)));

    trio.parks = Some(leader);
    trio.tell(leader, split());
    trio.settle();
    let (mut passed, mut elected) = (Duration::from_secs(8), false);
    while !elected {
        let parked = std::mem::take(&mut trio.parked);
        trio.deliver(parked);
        let store = trio.worker(leader).store();
        let status = store.status(CHILD).expect("the split is applied");
        elected = status.role == RaftRole::Leader;
        let asked = trio.ask(leader, 1, keep_alive(&["z"]));
        trio.settle();
        let refused = not_leader_of(trio.answer(leader, asked));
        assert_eq!(refused, Some(CHILD.0), "elected: {elected}, and not applied");
        if !elected {
            passed += Duration::from_millis(100);
            assert!(passed < Duration::from_secs(10), "nobody is elected");
            trio.pass(Duration::from_millis(100));
        }
    }
    trio.parks = None;
    let parked = std::mem::take(&mut trio.parked);
    trio.deliver(parked);
    assert!(trio.leads(leader, CHILD));
    let anew = with_drift(TTL) + Pace::default().election_max();
    assert_eq!(left(&trio, CHILD, goes), Some(anew));
    assert_eq!(left(&trio, RANGE, goes), None, "the parent's leader lets go of it");
    let of_the_parent = with_drift(TTL) - passed;
    assert_eq!(left(&trio, RANGE, stays), Some(of_the_parent), "nothing has happened to it");

    trio.pass(anew - Duration::from_millis(100));
    assert_eq!((trio.holders(leader, "a"), trio.holders(leader, "z")), (0, 1));
    trio.pass(Duration::from_millis(200));
    assert_eq!(trio.holders(leader, "z"), 0, "nobody has renewed it");
}

/// The queue goes along, and whoever waits is heard and told in the child.
#[test]
fn waiters_are_granted_in_the_child() {
    let (mut trio, leader) = Trio::new();
    let token = trio.acquired(leader, 1, "z").token;
    for session in [2, 3] {
        assert_eq!(trio.acquired(leader, session, "z").outcome(), v1::AcquireOutcome::Queued);
    }
    trio.tell(leader, split());
    trio.settle();
    assert_eq!(trio.child_led(), leader);
    for session in [2, 3] {
        let waiting = v1::KeepAliveState::Waiting;
        assert_eq!(trio.kept_alive(leader, session, &["z"]), [("z".into(), waiting)]);
    }
    trio.pushed(leader);
    let released = trio.ask(leader, 1, release("z", token));
    trio.settle();
    let Some(Body::Release(done)) = trio.answer(leader, released) else { panic!("an answer") };
    assert_eq!(done.outcome(), v1::ReleaseOutcome::Released);
    let granted = v1::AcquisitionEventKind::Granted;
    assert_eq!(trio.pushed(leader), [("z".into(), granted)], "the first of them");
    assert_eq!(
        trio.kept_alive(leader, 2, &["z"]),
        [("z".into(), v1::KeepAliveState::Held)],
        "first come, first served, across a split"
    );
}

/// Otherwise it would hear of its grant with its next renewal, which may be seconds away.
#[test]
fn a_waiter_that_says_nothing_during_a_split_is_told_by_the_child() {
    let (mut trio, leader) = Trio::new();
    let [stays, goes] = ["a", "z"].map(|name| trio.acquired(leader, 1, name).token);
    for name in ["a", "z"] {
        assert_eq!(trio.acquired(leader, 2, name).outcome(), v1::AcquireOutcome::Queued);
    }
    trio.tell(leader, split());
    trio.settle();
    assert_eq!(trio.child_led(), leader);
    trio.pushed(leader);
    let released = [("z", goes), ("a", stays)].map(|(name, token)| {
        let released = trio.ask(leader, 1, release(name, token));
        trio.settle();
        released
    });
    for tag in released {
        assert!(matches!(trio.answer(leader, tag), Some(Body::Release(_))));
    }
    let granted = v1::AcquisitionEventKind::Granted;
    assert_eq!(trio.pushed(leader), [("z".into(), granted), ("a".into(), granted)]);
}

/// The case for which the gate is there: the leader of the parent is late, and another store leads the
/// child already. What the first says and what the second counts must not contradict each other.
#[test]
fn the_parents_leader_says_nothing_of_names_that_another_store_leads() {
    let (mut trio, leader) = Trio::new();
    trio.acquired(leader, 1, "z");
    trio.acquired(leader, 1, "a");
    trio.hangs = Some(leader);
    trio.tell(leader, split());
    trio.pass(Duration::from_secs(5));
    let other = (1..=3).find(|store| *store != leader && trio.leads(*store, CHILD));
    let other = other.expect("two stores have applied the split, and one leads the child");
    assert!(trio.leads(leader, RANGE), "its disk hangs, and it leads the parent still");
    assert_eq!(trio.worker(leader).store().ranges(), [RANGE]);
    assert_eq!(trio.kept_alive(leader, 1, &["a", "z"]), [], "not even of a");
    assert_eq!(trio.kept_alive(other, 1, &["z"]), [("z".into(), v1::KeepAliveState::Held)]);

    trio.comes_back();
    assert_eq!(trio.kept_alive(leader, 1, &["a"]), [("a".into(), v1::KeepAliveState::Held)]);
}

/// Whoever asks for a split in vain changes nothing, and may ask again.
#[test]
fn a_split_that_cannot_be_proposed_is_left_alone() {
    let (mut trio, leader) = Trio::new();
    trio.acquired(leader, 1, "z");
    trio.tell(leader % 3 + 1, split());
    let Input::Split { split: it, .. } = split() else { unreachable!("it is one") };
    for void in [
        Split { epoch: Epoch { version: 7, conf_ver: 1 }, ..it.clone() },
        Split { key: String::new(), ..it.clone() },
        Split { child_peers: vec![PeerId(201)], ..it.clone() },
        Split { child: RANGE, ..it.clone() },
    ] {
        trio.tell(leader, Input::Split { range: RANGE, term: None, split: void });
    }
    let unknown = Input::Split { range: RangeId(77), term: None, split: it.clone() };
    trio.tell(leader, unknown);
    trio.settle();
    assert_eq!(trio.worker(leader).store().ranges(), [RANGE]);
    assert_eq!(trio.kept_alive(leader, 1, &["z"]), [("z".into(), v1::KeepAliveState::Held)]);

    trio.tell(leader, split());
    trio.tell(leader, split());
    trio.settle();
    for store in 1..=3 {
        assert_eq!(trio.worker(store).store().ranges(), [RANGE, CHILD]);
    }
}

/// Of the log that a store keeps for its range: where it begins, and what it takes.
fn log(trio: &Trio, store: u64) -> (u64, u64) {
    let store = trio.worker(store).store();
    let first = store.status(RANGE).expect("it is here").log_first;
    (first, store.awaited_child(RANGE).map_or(0, |awaited| awaited.log_bytes))
}

impl Trio {
    /// Takes a lock and lets it go, or says why it was refused.
    fn take_and_release(&mut self, store: u64, name: &str) -> Result<(), String> {
        let tag = self.ask(store, 9, fresh(name, self.now));
        self.settle();
        let token = match self.answer(store, tag) {
            Some(Body::Acquire(response)) => response.token,
            Some(Body::Error(error)) => match error.kind {
                Some(Kind::Refused(refused)) => return Err(refused.reason),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let Call::Acquire(taken) = fresh(name, self.now) else { unreachable!("it is one") };
        let name = name.to_owned();
        let acquisition_id = taken.acquisition_id;
        let release = v1::ReleaseRequest { name, token, acquisition_id, ..Default::default() };
        let tag = self.ask(store, 9, Call::Release(release));
        self.settle();
        assert!(matches!(self.answer(store, tag), Some(Body::Release(_))));
        self.pass(Duration::from_millis(100));
        Ok(())
    }
}

/// An acquisition of its own at each moment.
fn fresh(name: &str, now: Duration) -> Call {
    let Call::Acquire(request) = acquire(name) else { unreachable!("it is one") };
    let acquisition_id = u64::try_from(now.as_millis()).expect("a short test");
    Call::Acquire(v1::AcquireRequest { acquisition_id, ..request })
}

/// The log is needed by whoever lacks the split, and must not grow for ever. So it is not cut, and what
/// is new has to wait; who holds a lock goes on.
#[test]
fn a_range_whose_child_never_lives_takes_nothing_new_in_before_its_log_is_endless() {
    let limits = LogLimits { entries_floor: 4, entries_max: 8, bytes_max: 2_000 };
    let (mut trio, leader) = Trio::with_log(limits).with_range();
    let held = trio.acquired(leader, 1, "a").token;
    trio.silent = Some((CHILD, vec![1, 2, 3]));
    trio.tell(leader, split());
    trio.pass(Duration::from_secs(1));
    let split_at = log(&trio, leader).0;
    let refused = (0..1_000).find_map(|_| trio.take_and_release(leader, "b").err());
    assert_eq!(refused.as_deref(), Some("SPLIT_UNFINISHED"));
    for store in 1..=3 {
        let (first, bytes) = log(&trio, store);
        assert!(first <= split_at + 4, "its log is kept from the split on: {first} {split_at}");
        assert!(bytes > 16 * 2_000 && bytes < 17 * 2_000, "{bytes}");
    }
    let range = trio.describe(leader).ranges.remove(0);
    assert_eq!((range.awaited_range_id, range.log_bytes_max), (CHILD.0, 16 * 2_000));

    // Whoever has something keeps it, is answered, and can give it back.
    let held_state = [("a".into(), v1::KeepAliveState::Held)];
    assert_eq!(trio.kept_alive(leader, 1, &["a"]), held_state);
    assert_eq!(trio.acquired(leader, 1, "a").outcome(), v1::AcquireOutcome::Granted, "as before");
    let released = trio.ask(leader, 1, release("a", held));
    trio.settle();
    assert!(matches!(trio.answer(leader, released), Some(Body::Release(_))));

    // The child lives, and nothing is left of it.
    trio.silent = None;
    trio.pass(Duration::from_secs(5));
    assert_eq!(trio.take_and_release(leader, "b"), Ok(()));
    trio.pass(Duration::from_secs(2));
    for store in 1..=3 {
        let (first, bytes) = log(&trio, store);
        assert!(first > split_at + 20 && bytes == 0, "{first}, {bytes}");
    }
}

/// The others know that the child lives, and cut their logs; only this store never hears it.
#[test]
fn a_store_that_never_hears_that_a_child_lives_keeps_no_endless_log() {
    let limits = LogLimits { entries_floor: 4, entries_max: 8, bytes_max: 2_000 };
    let (mut trio, leader) = Trio::with_log(limits).with_range();
    let deaf = leader % 3 + 1;
    trio.silent = Some((CHILD, vec![deaf]));
    trio.tell(leader, split());
    trio.settle();
    assert_ne!(trio.child_led(), deaf);
    let mut most = 0;
    for _ in 0..400 {
        assert_eq!(trio.take_and_release(leader, "b"), Ok(()));
        most = most.max(log(&trio, deaf).1);
    }
    assert!(trio.leads(leader, RANGE));
    assert!(most > 16 * 2_000, "a leader may need it: {most}");
    assert!(most < 36 * 2_000, "none needs so much: {most}");
    assert_eq!(log(&trio, deaf).1, 0, "what is beyond is cut as ever");
}
