//! A question to the whole store is put to each of its workers, and their answers become one.
//!
//! Each worker numbers the changes of its own ranges. A gateway that asks for routes names the last
//! number that it was told: here that stands for a number of each worker.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{
    DescribeStore, StoreCall, StoreDescription, StoreReply, store_call::Body as Ask,
    store_reply::Body,
};
use sharklock_rangemap::RangeId;

use crate::{front::LinkId, reads::ROUTES_MAX};

/// The link of the store itself: workers answer here what is to be gathered. No gateway has it.
pub const GATHERING_LINK: LinkId = LinkId(0);

/// Questions that are open at a time. Beyond that the oldest is forgotten: a worker has dropped it for
/// its age, and whoever asked has given up.
const OPEN_MAX: usize = 1_024;

/// See the module.
///
/// Invariants:
/// - a question is open until each worker has answered it, or it is forgotten;
/// - `told` has the answer about routes that each link was given last.
#[derive(Debug)]
pub struct Gathering {
    workers: usize,
    /// Of the last question; an answer about routes ends with the number of its own.
    last: u64,
    open: BTreeMap<u64, Open>,
    told: BTreeMap<LinkId, Told>,
}

#[derive(Debug)]
struct Open {
    link: LinkId,
    tag: u64,
    routes: Option<Routes>,
    /// By worker.
    parts: Vec<Option<StoreDescription>>,
}

/// A question about routes.
#[derive(Debug)]
struct Routes {
    /// What it named; 0: nothing, or something that is not known any more.
    since: u64,
    /// The change of each worker behind which it is asked.
    heard: Vec<u64>,
}

/// Up to where a gateway has heard.
#[derive(Debug)]
struct Told {
    upto: u64,
    heard: Vec<u64>,
}

/// Whether a call is for all workers.
pub fn is_for_all(call: &StoreCall) -> bool {
    matches!(call.body, Some(Ask::Describe(_)))
}

impl Gathering {
    /// For a store with so many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, last: 0, open: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// A gateway asks: gives the call for each worker, in their order, on [`GATHERING_LINK`].
    pub fn ask(&mut self, link: LinkId, call: &StoreCall) -> Vec<StoreCall> {
        self.last += 1;
        if self.open.len() >= OPEN_MAX {
            self.open.pop_first();
        }
        let named = match &call.body {
            Some(Ask::Describe(DescribeStore { heard, .. })) => *heard,
            _ => None,
        };
        let routes = named.map(|named| match self.told.get(&link) {
            Some(told) if told.upto == named => Routes { since: named, heard: told.heard.clone() },
            _ => Routes { since: 0, heard: vec![0; self.workers] },
        });
        let only = match &call.body {
            Some(Ask::Describe(DescribeStore { only, .. })) => only.clone(),
            _ => None,
        };
        let ask = |worker: usize| {
            let heard = routes.as_ref().map(|routes| routes.heard[worker]);
            let body = Some(Ask::Describe(DescribeStore { heard, only: only.clone() }));
            StoreCall { tag: self.last, body, ..call.clone() }
        };
        let calls = (0..self.workers).map(ask).collect();
        let parts = (0..self.workers).map(|_| None).collect();
        self.open.insert(self.last, Open { link, tag: call.tag, routes, parts });
        calls
    }

    /// What [`ask`](Self::ask) gave last did not reach all workers.
    pub fn not_asked(&mut self, calls: &[StoreCall]) {
        calls.iter().for_each(|call| _ = self.open.remove(&call.tag));
    }

    /// A gateway is gone, and with it what it asked.
    pub fn link_closed(&mut self, link: LinkId) {
        self.open.retain(|_, open| open.link != link);
        self.told.remove(&link);
    }

    /// A worker answers; the last of them makes the answer whole. `is_elsewhere` says whether a range
    /// is at another worker than this one.
    pub fn answered(
        &mut self,
        worker: usize,
        reply: StoreReply,
        is_elsewhere: impl Fn(RangeId, usize) -> bool,
    ) -> Option<(LinkId, StoreReply)> {
        let open = self.open.get_mut(&reply.tag)?;
        let Some(Body::Describe(part)) = reply.body else { return None };
        open.parts[worker] = Some(part);
        if open.parts.iter().any(Option::is_none) {
            return None;
        }
        let Open { link, tag, routes, parts } = self.open.remove(&reply.tag).expect("it is open");
        let mut parts: Vec<_> = parts.into_iter().flatten().collect();
        let whole = match routes {
            None => merge(parts),
            Some(routes) => {
                for (worker, part) in parts.iter_mut().enumerate() {
                    part.gone.retain(|range| !is_elsewhere(RangeId(*range), worker));
                }
                let (whole, told) = merge_routes(reply.tag, &routes, parts);
                self.told.insert(link, told);
                whole
            }
        };
        Some((link, StoreReply { tag, body: Some(Body::Describe(whole)), ..StoreReply::default() }))
    }
}

/// The store as all of its workers see it, for people. What is not of their ranges they were told by
/// one: the newest word counts.
fn merge(mut parts: Vec<StoreDescription>) -> StoreDescription {
    let uptime = |part: &StoreDescription| part.store.as_ref().map_or(0, |store| store.uptime_ms);
    parts.sort_by_key(uptime);
    let mut whole = parts.pop().unwrap_or_default();
    for part in parts {
        if let (Some(store), Some(other)) = (&mut whole.store, part.store) {
            store.lost_replicas.extend(other.lost_replicas);
            store.behind_replicas.extend(other.behind_replicas);
        }
        whole.ranges.extend(part.ranges);
        whole.descriptors.extend(part.descriptors);
    }
    if let Some(store) = &mut whole.store {
        store.lost_replicas.sort();
        store.behind_replicas.sort();
    }
    whole.ranges.sort_by_key(|range| range.range_id);
    whole.descriptors.sort_by_key(|descriptor| descriptor.range_id);
    whole
}

/// What has changed at all workers, in an answer that ends with the number `upto`, and what that stands
/// for. A part that makes it too long is left for the next question, which comes at once.
fn merge_routes(
    upto: u64,
    routes: &Routes,
    mut parts: Vec<StoreDescription>,
) -> (StoreDescription, Told) {
    let store = parts.first_mut().and_then(|part| part.store.take());
    let cluster_id = parts.first().map(|part| part.cluster_id.clone()).unwrap_or_default();
    let mut whole = StoreDescription {
        cluster_id,
        store,
        since: routes.since,
        upto,
        ..StoreDescription::default()
    };
    // A worker that does not know any more what was heard begins anew. Whatever was heard of the
    // others then counts no more either, and they are asked again.
    if parts.iter().zip(&routes.heard).any(|(part, heard)| part.since != *heard) {
        whole.since = 0;
        whole.has_more = true;
        return (whole, Told { upto, heard: vec![0; parts.len()] });
    }
    let mut heard = routes.heard.clone();
    let count = parts.len();
    // Each time another one is first.
    for turn in 0..count {
        let worker = (usize::try_from(upto).unwrap_or(0) + turn) % count;
        let part = std::mem::take(&mut parts[worker]);
        let length = |of: &StoreDescription| of.ranges.len() + of.gone.len();
        if length(&whole) > 0 && length(&whole) + length(&part) > ROUTES_MAX {
            whole.has_more = true;
            continue;
        }
        heard[worker] = part.upto;
        whole.has_more |= part.has_more;
        whole.ranges.extend(part.ranges);
        whole.descriptors.extend(part.descriptors);
        whole.gone.extend(part.gone);
    }
    (whole, Told { upto, heard })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sharklock_proto::{internal::v1::RangeDescriptor, v1};

    use super::*;
    use crate::journal::Journal;

    const LINK: LinkId = LinkId(7);

    fn question(tag: u64, heard: Option<u64>) -> StoreCall {
        let body = Some(Ask::Describe(DescribeStore { heard, only: None }));
        StoreCall { tag, body, ..StoreCall::default() }
    }

    fn heard(call: &StoreCall) -> Option<u64> {
        match &call.body {
            Some(Ask::Describe(DescribeStore { heard, .. })) => *heard,
            other => panic!("{other:?}"),
        }
    }

    fn part(ranges: &[u64]) -> StoreDescription {
        let status = |range_id: &u64| v1::RangeStatus { range_id: *range_id, ..Default::default() };
        let descriptor =
            |range_id: &u64| RangeDescriptor { range_id: *range_id, ..Default::default() };
        StoreDescription {
            cluster_id: "c".to_owned(),
            store: Some(v1::StoreStatus::default()),
            ranges: ranges.iter().map(status).collect(),
            descriptors: ranges.iter().map(descriptor).collect(),
            ..StoreDescription::default()
        }
    }

    fn for_people(uptime_ms: u64, ranges: &[u64], lost: &[&str]) -> StoreDescription {
        let lost_replicas = lost.iter().map(|it| (*it).to_owned()).collect();
        let store = Some(v1::StoreStatus { uptime_ms, lost_replicas, ..Default::default() });
        StoreDescription { store, ..part(ranges) }
    }

    fn reply(tag: u64, description: StoreDescription) -> StoreReply {
        StoreReply { tag, body: Some(Body::Describe(description)), ..StoreReply::default() }
    }

    fn nowhere_else(_: RangeId, _: usize) -> bool {
        false
    }

    #[test]
    fn the_last_answer_makes_one_of_all_in_the_order_of_ranges() {
        let mut gathering = Gathering::new(3);
        let calls = gathering.ask(LINK, &question(99, None));
        assert!(calls.len() == 3 && calls.iter().all(is_for_all));
        let tag = calls[0].tag;
        let mut answer = |worker, it| gathering.answered(worker, reply(tag, it), nowhere_else);
        assert_eq!(answer(2, for_people(5, &[3], &["its replica of range 3"])), None);
        assert_eq!(answer(0, for_people(6, &[2, 5], &["its replica of range 2"])), None);
        let (link, whole) = answer(1, for_people(4, &[1], &[])).expect("it is whole");
        assert_eq!((link, whole.tag), (LINK, 99));
        let lost = ["its replica of range 2", "its replica of range 3"];
        assert_eq!(whole.body, reply(0, for_people(6, &[1, 2, 3, 5], &lost)).body);
        assert_eq!(answer(1, for_people(4, &[1], &[])), None, "it was answered");
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_waits_for() {
        let mut gathering = Gathering::new(2);
        let first = gathering.ask(LinkId(1), &question(1, None));
        let second = gathering.ask(LinkId(2), &question(1, None));
        let third = gathering.ask(LinkId(2), &question(2, None));
        gathering.link_closed(LinkId(1));
        gathering.not_asked(&third);
        assert_eq!(gathering.open.keys().collect::<Vec<_>>(), [&second[0].tag]);
        for tag in 0..2 * OPEN_MAX as u64 {
            gathering.ask(LinkId(3), &question(tag, None));
        }
        assert_eq!(gathering.open.len(), OPEN_MAX);
        for call in [first, second, third].concat() {
            let late = reply(call.tag, part(&[1]));
            assert_eq!(gathering.answered(0, late, nowhere_else), None);
        }
    }

    /// Workers with journals of their own, and a gateway that asks again and again.
    struct Store {
        gathering: Gathering,
        journals: Vec<Journal<u64>>,
        places: BTreeMap<u64, usize>,
        /// What the gateway knows, and has heard.
        known: BTreeSet<u64>,
        heard: u64,
    }

    impl Store {
        fn new(workers: usize) -> Self {
            Self {
                gathering: Gathering::new(workers),
                journals: (0..workers).map(|_| Journal::default()).collect(),
                places: BTreeMap::new(),
                known: BTreeSet::new(),
                heard: 0,
            }
        }

        fn note(&mut self, worker: usize, range: u64, word: Option<u64>) {
            self.journals[worker].note(RangeId(range), word);
            match word {
                Some(_) => _ = self.places.insert(range, worker),
                None => _ = self.places.remove(&range),
            }
        }

        /// One question and its answer, which may be lost. True: there is more.
        fn ask(&mut self, is_lost: bool) -> bool {
            let calls = self.gathering.ask(LINK, &question(1, Some(self.heard)));
            let mut whole = None;
            for (worker, call) in calls.iter().enumerate() {
                let heard = heard(call).expect("it is about routes");
                let page = self.journals[worker].since(heard, ROUTES_MAX);
                let mut said = part(&[]);
                (said.since, said.upto, said.has_more) = (page.since, page.upto, page.has_more);
                for (range, word) in page.changes {
                    match word {
                        Some(_) => said.ranges.extend(part(&[range.0]).ranges),
                        None => said.gone.push(range.0),
                    }
                }
                let is_elsewhere = |range: RangeId, worker: usize| {
                    self.places.get(&range.0).is_some_and(|it| *it != worker)
                };
                let said = reply(call.tag, said);
                whole = self.gathering.answered(worker, said, is_elsewhere);
            }
            let (_, StoreReply { body: Some(Body::Describe(whole)), .. }) =
                whole.expect("all have answered")
            else {
                panic!("it describes")
            };
            if is_lost {
                return true;
            }
            assert!(whole.ranges.len() <= ROUTES_MAX);
            if whole.since == 0 {
                self.known.clear();
            } else {
                assert_eq!(whole.since, self.heard);
            }
            self.known.extend(whole.ranges.iter().map(|range| range.range_id));
            whole.gone.iter().for_each(|range| _ = self.known.remove(range));
            self.heard = whole.upto;
            whole.has_more
        }

        fn listen(&mut self) {
            while self.ask(false) {}
            assert_eq!(self.known, self.places.keys().copied().collect());
        }
    }

    #[test]
    fn what_has_not_changed_at_any_worker_is_not_said_again_and_parts_are_bounded() {
        let mut store = Store::new(3);
        for range in 0..2_500 {
            store.note(range as usize % 3, range, Some(1));
        }
        let mut asked = 1;
        while store.ask(false) {
            asked += 1;
        }
        assert_eq!((asked, store.known.len()), (3, 2_500));
        store.note(1, 7, Some(2));
        store.note(2, 5, None);
        let calls = store.gathering.ask(LINK, &question(1, Some(store.heard)));
        assert!(calls.iter().all(|call| heard(call) > Some(0)), "{calls:?}");
        assert!(!store.ask(false));
        assert_eq!(store.known.len(), 2_499);
    }

    #[test]
    fn gateways_that_lose_answers_know_everything_in_the_end() {
        for seed in 0..50_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            let mut store = Store::new(1 + next(4) as usize);
            for _ in 0..100 {
                let range = next(60);
                match (next(10), store.places.get(&range).copied()) {
                    (0..4, None) => {
                        let worker = next(store.journals.len() as u64) as usize;
                        store.note(worker, range, Some(next(3)));
                    }
                    (0..2, Some(worker)) => store.note(worker, range, None),
                    (2..4, Some(worker)) => store.note(worker, range, Some(next(3))),
                    (4, _) => _ = store.ask(true),
                    // A worker does not know any more what it has said.
                    (5, _) if next(20) == 0 => {
                        let worker = next(store.journals.len() as u64) as usize;
                        for range in 100_000..104_200 {
                            store.note(worker, range, Some(1));
                            store.note(worker, range, None);
                        }
                    }
                    (6, _) if next(5) == 0 => store.heard = 0,
                    _ => store.listen(),
                }
            }
            store.listen();
        }
    }
}
