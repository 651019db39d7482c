//! A replica goes on alone by the masters' word: what it knows goes on, what the others knew alone is
//! lost, and nothing is granted before every lease of theirs is over.

use std::time::Duration;

use sharklock_dataserver::Input;
use sharklock_proto::{
    internal::v1::{GoOnAlone, StoreError, store_error::Kind, store_reply::Body},
    v1::AcquireOutcome,
};
use sharklock_rangemap::RangeId;

use super::rig::{RANGE, Trio};

const JUMP: u64 = 1 << 32;
/// 600 s, a hundredth more, and an election.
const QUARANTINE: Duration = Duration::from_secs(608);

fn order(survivor: u64, waits: bool) -> GoOnAlone {
    GoOnAlone {
        range_id: RANGE.0,
        peer_id: 100 + survivor,
        as_peer_id: 9_000,
        conf_ver: JUMP,
        version: JUMP,
        term: JUMP,
        generation: 3,
        waits,
        ..GoOnAlone::default()
    }
}

/// "held" is known to all, and "lost" was granted when the survivor was cut off. It stays so.
fn disaster() -> (Trio, u64) {
    let (mut trio, leader) = Trio::new();
    assert_eq!(trio.granted(leader, "held", 1), 1);
    trio.pass(Duration::from_secs(1));
    let survivor = leader % 3 + 1;
    trio.alone = Some(survivor);
    assert_eq!(trio.granted(leader, "lost", 2), 2);
    (trio, survivor)
}

fn outcome(trio: &mut Trio, store: u64, name: &str, id: u64) -> Result<AcquireOutcome, u64> {
    match trio.acquire(store, name, id) {
        Some(Body::Acquire(response)) => Ok(response.outcome()),
        Some(Body::Error(StoreError { kind: Some(Kind::Refused(refused)) })) => {
            assert_eq!(refused.reason, "QUARANTINE", "{}", refused.message);
            Err(refused.retry_after_ms)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_granted_before_every_lease_that_is_lost_is_over() {
    let (mut trio, survivor) = disaster();
    trio.tell(survivor, Input::GoOnAlone(Box::new(order(survivor, true))));
    trio.settle();
    assert!(trio.worker(survivor).store().tombstone(RANGE).is_none(), "it follows somebody still");
    trio.pass(Duration::from_secs(40));
    let told = trio.worker(survivor).orphans();
    assert_eq!((told.len(), told[0].peer_id, told[0].generation), (1, 100 + survivor, 0));
    assert!(told[0].descriptor.is_some() && told[0].last_index > 5 && !told[0].is_stopped);
    assert!(trio.worker(survivor).reports().is_empty());

    trio.tell(survivor, Input::GoOnAlone(Box::new(order(survivor, true))));
    trio.pass(Duration::from_secs(2));
    let report = trio.worker(survivor).reports().remove(0);
    let descriptor = report.descriptor.expect("a report has its descriptor");
    assert_eq!((descriptor.conf_ver, descriptor.replicas.len()), (JUMP, 1));
    assert!(report.term > JUMP);
    assert_eq!(outcome(&mut trio, survivor, "held", 3), Ok(AcquireOutcome::HeldByOther));
    let left = outcome(&mut trio, survivor, "lost", 4).expect_err("it may be held still");
    let left = Duration::from_millis(left);
    assert!(left <= QUARANTINE && left >= QUARANTINE - Duration::from_secs(3), "{left:?}");

    // Told again, as masters do that have not heard of it, it is the same.
    trio.tell(survivor, Input::GoOnAlone(Box::new(order(survivor, true))));
    trio.pass(QUARANTINE - Duration::from_secs(10));
    let left = outcome(&mut trio, survivor, "lost", 5).expect_err("not yet");
    assert!(left <= 10_000, "{left}");
    assert_eq!(trio.worker(survivor).orphans(), []);
    trio.pass(Duration::from_secs(10));
    let token = trio.granted(survivor, "lost", 6);
    assert_eq!(token >> 48, 3, "{token}");
}

#[test]
fn who_does_not_want_to_wait_is_served_at_once() {
    let (mut trio, survivor) = disaster();
    trio.pass(Duration::from_secs(40));
    trio.tell(survivor, Input::GoOnAlone(Box::new(order(survivor, false))));
    trio.pass(Duration::from_secs(2));
    assert_eq!(outcome(&mut trio, survivor, "held", 3), Ok(AcquireOutcome::HeldByOther));
    assert_eq!(trio.granted(survivor, "lost", 4) >> 48, 3);
}

/// The masters cannot tell a store that has nothing from one that has not said yet what it has.
#[test]
fn a_store_says_of_which_ranges_it_has_nothing_when_it_is_asked() {
    let (mut trio, leader) = Trio::new();
    assert_eq!(trio.worker(leader).absent(), [0; 0]);
    for range in [RANGE, RangeId(77)] {
        trio.tell(leader, Input::AskedAbout(range));
    }
    assert_eq!(trio.worker(leader).absent(), [77]);
    trio.pass(Duration::from_secs(11));
    assert_eq!(trio.worker(leader).absent(), [0; 0], "nobody wants to know any more");
}
