//! Calls that concern several ranges, beside stores of which some say nothing. The stores speak the
//! protocol as far as these calls need it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use prometheus::Registry;
use sharklock_proto::{
    internal::v1::{
        EpochNotMatch, NotLeader, Overloaded, RangeDescriptor, RangeLocks, Replica, ReplicaRole,
        StoreCall, StoreDescription, StoreError, StoreReply, store_call, store_error::Kind,
        store_reply::Body,
    },
    v1::{
        KeepAliveAnswer, KeepAliveItem, KeepAliveRequest, ListLocksRequest, ListLocksResponse,
        LockInfo, Position, RangeStatus,
    },
};
use tokio::time::Instant;

use super::{Config, host::Host, keep_alive::keep_alive, list::list, metrics::Metrics};
use crate::{
    Lane, StoreId, StoreLink,
    failure::{Failure, Reason},
    validate::{self, Frame},
};

/// Who answers for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Led {
    Well,
    /// Its store says that nobody leads it.
    ByNobody,
    /// Its store says nothing.
    Silently,
    /// Its store has too much to do.
    Hardly,
}

/// Ranges, each alone on the store with its number.
struct Stores {
    host: Mutex<Weak<Host>>,
    ranges: Mutex<Vec<(RangeDescriptor, Led)>>,
    held: Mutex<BTreeSet<String>>,
}

/// The link to one of them.
struct Link {
    number: usize,
    stores: Arc<Stores>,
}

impl StoreLink for Link {
    fn send(&self, _: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>> {
        let (number, stores) = (self.number, self.stores.clone());
        tokio::spawn(async move {
            let Some(host) = stores.host.lock().unwrap().upgrade() else { return };
            let replies = calls.into_iter().filter_map(|call| {
                let body = Some(stores.answer(number, call.clone())?);
                Some(StoreReply { tag: call.tag, stream: 0, body })
            });
            host.hub.dispatch(host.now_us(), StoreId(number as u64), replies.collect());
        });
        Ok(())
    }
}

impl Stores {
    fn answer(&self, number: usize, call: StoreCall) -> Option<Body> {
        let ranges = self.ranges.lock().unwrap();
        let (descriptor, led) = &ranges[number - 1];
        let range_id = descriptor.range_id;
        if let Some(store_call::Body::Describe(_)) = &call.body {
            let leader_store_id = if *led == Led::ByNobody { 0 } else { number as u64 };
            let range = RangeStatus { range_id, leader_store_id, ..RangeStatus::default() };
            let (descriptors, ranges) = (vec![descriptor.clone()], vec![range]);
            let said = StoreDescription { descriptors, ranges, ..StoreDescription::default() };
            return Some(Body::Describe(said));
        }
        let kind = match led {
            Led::Silently => return None,
            Led::Hardly => Some(Kind::Overloaded(Overloaded { retry_after_ms: 9 })),
            Led::ByNobody => Some(Kind::NotLeader(NotLeader { range_id, leader_store_id: 0 })),
            Led::Well => (call.version != descriptor.version).then(|| {
                let descriptors = ranges.iter().map(|(descriptor, _)| descriptor.clone());
                Kind::EpochNotMatch(EpochNotMatch { descriptors: descriptors.collect() })
            }),
        };
        if kind.is_some() {
            return Some(Body::Error(StoreError { kind }));
        }
        let position = Some(Position { range_id, ..Position::default() });
        Some(match call.body.expect("a call asks something") {
            store_call::Body::ListRange(asked) => {
                let end = String::from_utf8(descriptor.end.to_vec()).unwrap();
                let held = self.held.lock().unwrap();
                let lock = |name: &String| LockInfo { name: name.clone(), ..LockInfo::default() };
                let here = held.range(asked.from.clone()..);
                let here = here.take_while(|name| end.is_empty() || **name < end);
                let locks: Vec<_> = here.take(asked.locks_max as usize).map(lock).collect();
                Body::ListRange(RangeLocks { position, locks, has_more: false, end })
            }
            store_call::Body::KeepAlive(asked) => {
                let answer = |item: KeepAliveItem| KeepAliveAnswer {
                    name: item.name,
                    acquisition_id: item.acquisition_id,
                    seq: asked.seq,
                    position,
                    ..KeepAliveAnswer::default()
                };
                let answers = asked.items.into_iter().map(answer).collect();
                Body::KeepAlive(sharklock_proto::v1::KeepAliveResponse { answers })
            }
            other => panic!("{other:?}"),
        })
    }
}

fn descriptor(range_id: u64, start: &str, end: &str, version: u64) -> RangeDescriptor {
    let role = ReplicaRole::Voter.into();
    let replica = Replica { peer_id: range_id * 10, store_id: range_id, role };
    let (start, end) = (start.to_owned().into(), end.to_owned().into());
    RangeDescriptor { range_id, start, end, conf_ver: 1, version, replicas: vec![replica] }
}

/// A gateway to ranges that begin there, and that holds these names.
async fn gateway(starts: &[&str], held: &[&str]) -> (Arc<Host>, Arc<Stores>) {
    let metrics = Arc::new(Metrics::new(&Registry::new()).expect("a fresh registry"));
    let within = Duration::from_secs(60);
    let config = Config { unary_deadline: within, look_deadline: within, ..Config::default() };
    let host = Arc::new(Host::new(config, None, metrics));
    let ends = starts.iter().skip(1).copied().chain([""]);
    let of = |(at, (start, end)): (usize, (&&str, &str))| {
        (descriptor(at as u64 + 1, start, end, 1), Led::Well)
    };
    let stores = Arc::new(Stores {
        host: Mutex::new(Arc::downgrade(&host)),
        ranges: Mutex::new(starts.iter().zip(ends).enumerate().map(of).collect()),
        held: Mutex::new(held.iter().map(|name| (*name).to_owned()).collect()),
    });
    for number in 1..=starts.len() {
        let link = Arc::new(Link { number, stores: stores.clone() });
        host.link_up(StoreId(number as u64), link);
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !host.hub.is_ready() {
        assert!(Instant::now() < deadline, "the stores describe themselves");
        tokio::task::yield_now().await;
    }
    let host_of_ticks = Arc::downgrade(&host);
    tokio::spawn(async move {
        while let Some(host) = host_of_ticks.upgrade() {
            host.hub.tick(host.now_us());
            drop(host);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    (host, stores)
}

async fn page(host: &Arc<Host>, page_size: u32, token: &str) -> Result<ListLocksResponse, Failure> {
    let page_token = token.to_owned();
    let request = ListLocksRequest { prefix: String::new(), page_size, page_token };
    list(host, validate::list_locks(request)?).await
}

fn names(page: &ListLocksResponse) -> String {
    page.locks.iter().map(|lock| lock.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn ranges(page: &ListLocksResponse) -> Vec<u64> {
    page.positions.iter().map(|position| position.range_id).collect()
}

#[tokio::test]
async fn a_page_goes_over_several_ranges_and_any_gateway_goes_on_with_the_next() {
    let held = ["a", "b", "c", "d", "e"];
    let (one, _) = gateway(&["", "b", "c", "d", "x"], &held).await;
    let whole = page(&one, 0, "").await.expect("all answer");
    assert_eq!((names(&whole), whole.next_page_token.as_str()), ("a b c d e".to_owned(), ""));
    assert_eq!(ranges(&whole), [1, 2, 3, 4, 5]);
    let first = page(&one, 3, "").await.expect("all answer");
    assert_eq!(names(&first), "a b c");
    let (other, _) = gateway(&["", "c", "dd"], &held).await;
    let rest = page(&other, 3, &first.next_page_token).await.expect("all answer");
    assert_eq!((names(&rest), rest.next_page_token.as_str()), ("d e".to_owned(), ""));
}

/// The gateway learns of it from the refusal, within the call.
#[tokio::test]
async fn a_page_finds_ranges_that_have_split_since_they_were_learnt() {
    let (host, stores) = gateway(&["", "x", "y"], &["a", "m", "n", "z"]).await;
    *stores.ranges.lock().unwrap() = vec![
        (descriptor(1, "", "m", 2), Led::Well),
        (descriptor(2, "m", "n", 2), Led::Well),
        (descriptor(3, "n", "", 2), Led::Well),
    ];
    let whole = page(&host, 0, "").await.expect("all answer");
    assert_eq!((names(&whole), ranges(&whole)), ("a m n z".to_owned(), vec![1, 2, 3]));
}

#[tokio::test]
async fn a_range_that_does_not_answer_ends_the_page_and_fails_the_next() {
    for led in [Led::ByNobody, Led::Silently, Led::Hardly] {
        let (host, stores) = gateway(&["", "b", "c", "d"], &["a", "b", "c", "d"]).await;
        stores.ranges.lock().unwrap()[2].1 = led;
        let short = page(&host, 0, "").await.expect("the first range answers");
        assert_eq!(names(&short), "a b", "{led:?}");
        let next = tokio::spawn({
            let (host, token) = (host.clone(), short.next_page_token.clone());
            async move { page(&host, 0, &token).await }
        });
        // It is met first, as any range: what is wrong with it is said, or waited for.
        if led == Led::Hardly {
            let failure = next.await.expect("no panic").expect_err("its range is overloaded");
            assert_eq!(failure.reason, Reason::Overloaded);
        } else if led == Led::ByNobody {
            stores.ranges.lock().unwrap()[2].1 = Led::Well;
            let rest = next.await.expect("no panic").expect("all answer");
            assert_eq!((names(&rest), rest.next_page_token.as_str()), ("c d".to_owned(), ""));
        }
    }
}

fn keepalive(items: &[&str]) -> validate::Checked {
    let item = |name: &&str| KeepAliveItem { name: (*name).to_owned(), acquisition_id: 1 };
    let items = items.iter().map(item).collect();
    let request = KeepAliveRequest { seq: 7, items, ..KeepAliveRequest::default() };
    let frame = Frame::of_call(&Bytes::from_static(&[7; 16]), 1);
    validate::keep_alive(&frame, request).expect("it is good")
}

async fn renewed(host: &Arc<Host>, items: &[&str]) -> Result<Vec<String>, Reason> {
    let answered = keep_alive(host, keepalive(items)).await.map_err(|failure| failure.reason)?;
    let mut names: Vec<_> = answered.answers.into_iter().map(|answer| answer.name).collect();
    names.sort();
    Ok(names)
}

/// Who hears nothing must let go of everything when its lease ends.
#[tokio::test]
async fn a_range_that_does_not_answer_keeps_no_other_item_of_a_keepalive_from_being_answered() {
    let (host, stores) = gateway(&["", "h", "p"], &[]).await;
    let all = ["a", "b", "i", "q"];
    assert_eq!(renewed(&host, &all).await.expect("all answer"), all);
    for led in [Led::ByNobody, Led::Silently] {
        stores.ranges.lock().unwrap()[1].1 = led;
        assert_eq!(renewed(&host, &["i", "a", "q"]).await.expect("two answer"), ["a", "q"]);
    }
}
