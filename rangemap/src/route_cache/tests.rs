//! The decisions of the cache, told as stories, and its invariants under anything.

use proptest::prelude::*;

use super::*;
use crate::descriptor::{Bounds, PeerId, Replica, Role};

fn s(store: u64) -> StoreId {
    StoreId(store)
}

fn descriptor(range: u64, span: (&str, &str), version: u64, stores: &[u64]) -> Descriptor {
    let bounds = Bounds { start: span.0.into(), end: span.1.into() };
    let voter = |store: &u64| Replica { peer: PeerId(*store), store: s(*store), role: Role::Voter };
    let epoch = Epoch { version, conf_ver: version };
    Descriptor::new(RangeId(range), bounds, epoch, stores.iter().map(voter).collect())
}

fn destination(cache: &RouteCache, name: &str) -> Option<(u64, u64, Destination)> {
    cache.route(name.as_bytes()).map(|route| (route.range.0, route.epoch.version, route.to))
}

#[test]
fn an_unknown_name_has_no_route() {
    let mut cache = RouteCache::default();
    assert_eq!(destination(&cache, "a"), None);
    cache.install(descriptor(1, ("b", "d"), 1, &[1])).unwrap();
    assert_eq!(destination(&cache, "a"), None);
    assert_eq!(destination(&cache, "b"), Some((1, 1, Destination::AnyReplica(s(1)))));
    assert_eq!(destination(&cache, "czz"), Some((1, 1, Destination::AnyReplica(s(1)))));
    assert_eq!(destination(&cache, "d"), None);
    cache.forget(RangeId(1));
    assert_eq!(destination(&cache, "b"), None);
}

#[test]
fn the_ranges_behind_a_name_are_told_up_to_the_first_that_is_not_known() {
    let mut cache = RouteCache::default();
    for (range, span) in [(1, ("", "b")), (2, ("b", "d")), (3, ("d", "f")), (4, ("m", ""))] {
        cache.install(descriptor(range, span, 1, &[1])).unwrap();
    }
    let behind = |name: &str, max| -> Vec<String> {
        let starts = cache.starts_behind(name.as_bytes(), max).into_iter();
        starts.map(|start| String::from_utf8_lossy(start).into_owned()).collect()
    };
    assert_eq!(behind("", 9), ["b", "d"], "nobody knows what begins at f");
    assert_eq!(behind("az", 1), ["b"]);
    assert_eq!(behind("b", 9), ["d"]);
    assert!(behind("f", 9).is_empty() && behind("z", 9).is_empty() && behind("", 0).is_empty());
}

#[test]
fn a_refusal_leads_to_the_hint_and_without_one_to_the_next_voter() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    let mut refuse = |from, hint: Option<u64>| {
        cache.on_not_leader(RangeId(1), s(from), hint.map(s));
        cache.route(b"x").unwrap().to
    };
    assert_eq!(refuse(1, Some(3)), Destination::Leader(s(3)));
    assert_eq!(refuse(3, None), Destination::AnyReplica(s(1)), "around the end");
    assert_eq!(refuse(1, Some(1)), Destination::AnyReplica(s(2)), "nobody hints at itself");
    assert_eq!(refuse(2, Some(77)), Destination::AnyReplica(s(3)), "77 is not known to vote");
    assert_eq!(refuse(1, Some(2)), Destination::AnyReplica(s(3)), "1 is asked no more");
}

#[test]
fn a_late_refusal_does_not_unseat_the_leader_that_answered() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    cache.on_answered(RangeId(1), s(2));
    cache.on_not_leader(RangeId(1), s(1), Some(s(3)));
    assert_eq!(cache.route(b"x").unwrap().to, Destination::Leader(s(2)));
    cache.on_answered(RangeId(1), s(9));
    assert_eq!(cache.route(b"x").unwrap().to, Destination::Leader(s(2)), "9 does not vote");
}

#[test]
fn a_split_installs_both_halves_and_tries_the_child_at_the_parents_leader() {
    for child_first in [false, true] {
        let mut cache = RouteCache::default();
        cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
        cache.on_answered(RangeId(1), s(2));
        let mut halves =
            vec![descriptor(1, ("", "m"), 2, &[1, 2, 3]), descriptor(2, ("m", ""), 2, &[1, 2, 3])];
        if child_first {
            halves.reverse();
        }
        assert_eq!(cache.on_epoch_not_match(halves), vec![]);
        let left = destination(&cache, "a").unwrap();
        assert_eq!((left.0, left.1, left.2.store()), (1, 2, s(2)));
        assert_eq!(destination(&cache, "m"), Some((2, 2, Destination::AnyReplica(s(2)))));
    }
}

#[test]
fn what_a_split_has_made_is_an_heir_until_somebody_answers_as_its_leader() {
    let halves =
        || vec![descriptor(1, ("", "m"), 2, &[1, 2, 3]), descriptor(2, ("m", ""), 2, &[1, 2, 3])];
    let split = || {
        let mut cache = RouteCache::default();
        cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
        assert!(!cache.is_unserved_heir(RangeId(1)), "it took no other's names");
        cache.on_answered(RangeId(1), s(2));
        assert!(!cache.learns_from_answers());
        assert_eq!(cache.on_epoch_not_match(halves()), vec![]);
        assert!(cache.is_unserved_heir(RangeId(2)) && !cache.is_unserved_heir(RangeId(1)));
        cache
    };
    let mut cache = split();
    cache.on_not_leader(RangeId(2), s(2), None);
    // It is split again itself, and then led.
    cache.install(descriptor(2, ("m", "x"), 3, &[1, 2, 3])).unwrap();
    cache.on_not_leader(RangeId(2), s(3), Some(s(1)));
    cache.on_described(RangeId(2), s(1), 6);
    assert_eq!(cache.route(b"m").unwrap().to, Destination::Leader(s(1)));
    assert!(cache.is_unserved_heir(RangeId(2)), "who leads does not serve at once");
    assert!(cache.learns_from_answers());
    cache.on_answered(RangeId(2), s(1));
    assert!(!cache.is_unserved_heir(RangeId(2)) && !cache.learns_from_answers());
    cache.on_not_leader(RangeId(2), s(1), None);
    assert!(!cache.is_unserved_heir(RangeId(2)), "an election like any other");
    let mut cache = split();
    cache.is_no_heir(RangeId(2));
    assert!(!cache.is_unserved_heir(RangeId(2)));
    let mut cache = split();
    cache.forget(RangeId(2));
    assert!(!cache.is_unserved_heir(RangeId(2)));
}

#[test]
fn an_older_descriptor_changes_nothing() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", "m"), 2, &[1, 2, 3])).unwrap();
    let refused = cache.on_epoch_not_match(vec![descriptor(1, ("", ""), 1, &[1, 2, 3])]);
    assert!(matches!(refused[..], [InsertError::Stale { .. }]), "{refused:?}");
    assert_eq!(destination(&cache, "z"), None);
    assert!(destination(&cache, "a").is_some());
}

#[test]
fn of_a_contradiction_neither_side_is_trusted() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", "m"), 2, &[1])).unwrap();
    cache.install(descriptor(2, ("k", ""), 2, &[2])).unwrap_err();
    assert_eq!(destination(&cache, "a"), None);
    assert_eq!(destination(&cache, "z"), None);
    cache.install(descriptor(2, ("k", ""), 2, &[2])).unwrap();
}

#[test]
fn a_leader_that_left_the_range_is_not_tried_again() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    cache.on_answered(RangeId(1), s(1));
    cache.install(descriptor(1, ("", ""), 2, &[2, 3, 4])).unwrap();
    assert_eq!(cache.route(b"x").unwrap().to, Destination::AnyReplica(s(2)));
}

#[test]
fn a_description_names_the_leader_and_an_older_one_does_not_bring_back_its_predecessor() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    assert!(cache.has_guesses());
    let mut describe = |leader, term| {
        cache.on_described(RangeId(1), s(leader), term);
        cache.route(b"x").unwrap().to
    };
    assert_eq!(describe(2, 5), Destination::Leader(s(2)));
    assert_eq!(describe(1, 4), Destination::Leader(s(2)), "deposed, and has not heard of it");
    assert_eq!(describe(3, 5), Destination::Leader(s(2)), "a term has one leader");
    assert_eq!(describe(3, 6), Destination::Leader(s(3)));
    assert_eq!(describe(9, 7), Destination::Leader(s(3)), "9 does not vote");
    assert!(!cache.has_guesses());
}

#[test]
fn a_guess_gives_way_to_a_description_of_the_newest_term_and_to_no_older() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    cache.on_described(RangeId(1), s(2), 5);
    cache.on_not_leader(RangeId(1), s(2), None);
    assert_eq!(cache.destination(RangeId(1)), Some(Destination::AnyReplica(s(3))));
    cache.on_described(RangeId(1), s(1), 4);
    assert_eq!(cache.destination(RangeId(1)), Some(Destination::AnyReplica(s(3))));
    cache.on_described(RangeId(1), s(2), 5);
    assert_eq!(cache.destination(RangeId(1)), Some(Destination::Leader(s(2))));
}

#[test]
fn terms_go_on_over_the_descriptors_of_a_range() {
    let mut cache = RouteCache::default();
    cache.install(descriptor(1, ("", ""), 1, &[1, 2, 3])).unwrap();
    cache.on_described(RangeId(1), s(2), 5);
    cache.install(descriptor(1, ("", "m"), 2, &[1, 2, 3])).unwrap();
    cache.on_described(RangeId(1), s(1), 4);
    assert_eq!(cache.destination(RangeId(1)), Some(Destination::Leader(s(2))));
}

#[test]
fn hops_end() {
    let mut hops = Hops::default();
    for _ in 0..HOPS_MAX {
        hops.take().unwrap();
    }
    let error = hops.take().unwrap_err();
    assert_eq!(error.to_string(), "the leader of the range was not found in 3 hops");
}

#[derive(Clone, Debug)]
enum Event {
    Install(Descriptor),
    EpochNotMatch(Vec<Descriptor>),
    NotLeader { range: u64, from: u64, hint: Option<u64> },
    Answered { range: u64, from: u64 },
    Described { range: u64, leader: u64, term: u64 },
    Forget(u64),
}

fn any_descriptor() -> impl Strategy<Value = Descriptor> {
    let span = prop::sample::select(vec![
        ("", ""),
        ("", "c"),
        ("c", ""),
        ("", "a"),
        ("a", "c"),
        ("c", "e"),
        ("e", ""),
        ("a", "e"),
    ]);
    let stores = prop::collection::btree_set(1..5u64, 1..4);
    (1..5u64, span, 1..8u64, stores).prop_map(|(range, span, version, stores)| {
        descriptor(range, span, version, &stores.into_iter().collect::<Vec<_>>())
    })
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        any_descriptor().prop_map(Event::Install),
        prop::collection::vec(any_descriptor(), 0..3).prop_map(Event::EpochNotMatch),
        (1..5u64, 1..5u64, prop::option::of(1..6u64))
            .prop_map(|(range, from, hint)| Event::NotLeader { range, from, hint }),
        (1..5u64, 1..5u64).prop_map(|(range, from)| Event::Answered { range, from }),
        (1..5u64, 1..5u64, 1..5u64).prop_map(|(range, leader, term)| Event::Described {
            range,
            leader,
            term
        }),
        (1..5u64).prop_map(Event::Forget),
    ]
}

proptest! {
    #[test]
    fn every_known_range_always_has_a_voter_to_try(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut cache = RouteCache::default();
        for event in events {
            match event {
                Event::Install(known) => drop(cache.install(known)),
                Event::EpochNotMatch(known) => drop(cache.on_epoch_not_match(known)),
                Event::NotLeader { range, from, hint } => {
                    cache.on_not_leader(RangeId(range), s(from), hint.map(s));
                }
                Event::Answered { range, from } => cache.on_answered(RangeId(range), s(from)),
                Event::Described { range, leader, term } => {
                    cache.on_described(RangeId(range), s(leader), term);
                }
                Event::Forget(range) => cache.forget(RangeId(range)),
            }
            let guesses = cache.destinations.iter().filter(|(_, to)| to.is_guess());
            let guesses: Vec<_> = guesses.map(|(range, _)| *range).collect();
            prop_assert_eq!(cache.has_guesses(), !guesses.is_empty());
            prop_assert_eq!(cache.guesses().collect::<Vec<_>>(), guesses);
            prop_assert!(cache.terms.keys().all(|range| cache.destinations.contains_key(range)));
            let known: Vec<_> = cache.descriptors().map(|d| d.range).collect();
            let mut aimed: Vec<_> = cache.destinations.keys().copied().collect();
            aimed.sort_by_key(|range| known.iter().position(|k| k == range));
            prop_assert_eq!(&known, &aimed);
            for name in ["", "a", "b", "c", "d", "e", "f"] {
                let holder = cache.descriptors().find(|d| d.bounds.contains(name.as_bytes()));
                let route = cache.route(name.as_bytes());
                prop_assert_eq!(route.map(|r| (r.range, r.epoch)), holder.map(|d| (d.range, d.epoch)));
                if let (Some(route), Some(holder)) = (route, holder) {
                    prop_assert!(holder.voters().any(|v| v.store == route.to.store()));
                }
            }
        }
    }

    /// Without hints the voters are asked in turn, so whoever leads is found; with true hints in
    /// at most two sendings.
    #[test]
    fn a_stable_leader_is_found(leader in 0..3usize, hints in any::<bool>()) {
        let stores = [4, 5, 6];
        let mut cache = RouteCache::default();
        cache.install(descriptor(1, ("", ""), 1, &stores)).unwrap();
        let mut hops = Hops::default();
        let mut sent = 0;
        while hops.take().is_ok() {
            sent += 1;
            let to = cache.route(b"n").unwrap().to.store();
            if to == s(stores[leader]) {
                break;
            }
            cache.on_not_leader(RangeId(1), to, hints.then_some(s(stores[leader])));
        }
        prop_assert_eq!(cache.route(b"n").unwrap().to.store(), s(stores[leader]));
        prop_assert!(!hints || sent <= 2);
    }
}
