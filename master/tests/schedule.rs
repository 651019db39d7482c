//! The scheduler with a cluster around it: stores that join, die, drain, are slow; ranges that are hot.
//! Every plan is checked as it is made (`World::obeys`).

#[path = "../examples/balance/measure.rs"]
mod measure;
#[path = "../examples/balance/world.rs"]
mod world;

use std::time::Duration;

use proptest::prelude::*;
use sharklock_master::schedule::{Class, Duty, Plan, Settings, SlowDisk, plan, warnings};
use sharklock_rangemap::StoreId;
use world::{Dice, World};

/// A cluster that is spread evenly, and has been so for long.
fn cluster(stores: u64, zones: u64, ranges: u64) -> World {
    let mut world = World::new(Settings::default(), stores + ranges);
    world.join(stores, zones);
    world.spread(ranges, 3);
    settle(&mut world);
    world
}

/// Runs until nothing has moved for longer than any cool-down; how long it took until then.
fn settle(world: &mut World) -> u64 {
    let began = world.now;
    let mut last = began;
    while world.now < last + 700 {
        let is_busy = !world.is_quiet();
        let plans = world.tick(if is_busy { 1 } else { 10 });
        if is_busy || !plans.is_empty() {
            last = world.now;
        }
        assert!(world.now < began + 36_000, "after ten hours: {:?}", plans.last());
    }
    last - began
}

/// Everything is even, and nothing moves for an hour.
fn is_settled(world: &mut World) {
    let balance = world.balance();
    let percents = [balance.replicas, balance.leaders, balance.load].map(|it| it.percent());
    assert!(balance.is_even(world.settings.load_floor), "{percents:?} %: {balance:?}");
    rests(world);
}

/// Nothing moves for an hour.
fn rests(world: &mut World) {
    let before = world.moves;
    for _ in 0..120 {
        let plans = world.tick(30);
        assert!(plans.is_empty(), "it does not come to rest: {}", plans[0]);
    }
    assert_eq!(world.moves, before);
}

/// Not more than half as many again as have to be, where these are more than a handful.
fn is_thrifty(what: &str, moves: u64, minimum: u64) {
    assert!(2 * moves <= 3 * minimum + 8, "{what}: {moves} moves, {minimum} would do");
}

fn all_have(world: &World, voters: usize) -> bool {
    let mut ranges = world.ranges.iter();
    ranges.all(|it| it.descriptor.replicas.len() == voters) && world.fewest_live() == voters
}

#[test]
fn an_even_cluster_is_left_alone() {
    let mut world = cluster(20, 4, 2_000);
    is_settled(&mut world);
    assert_eq!(warnings(&world.view()), []);
}

#[test]
fn stores_that_join_get_their_part_and_no_replica_moves_twice() {
    for zones in [0, 3] {
        let mut world = cluster(24, zones, 3_000);
        world.join(6, zones);
        let ((replicas, leaders), before) = (world.minimum(), world.moves);
        settle(&mut world);
        is_thrifty("replicas", world.moves.since(before).replicas, replicas);
        is_thrifty("leaders", world.moves.since(before).leaders, leaders);
        is_settled(&mut world);
    }
}

#[test]
fn what_a_dead_store_had_is_made_again_soon() {
    let mut world = cluster(25, 5, 2_500);
    let (dead, began) = (StoreId(7), world.now);
    world.kill(dead);
    // Nothing happens while it may come back.
    while world.now < began + 299 {
        let plans = world.tick(1);
        assert_eq!(plans.iter().find(|it| it.class == Class::Repair), None);
    }
    let (minimum, before) = (world.has()[&dead].replicas, world.moves);
    while world.has()[&dead].replicas > 0 {
        world.tick(1);
        assert!(world.now < began + 600, "{} are left", world.has()[&dead].replicas);
    }
    settle(&mut world);
    assert!(all_have(&world, 3));
    is_thrifty("replicas", world.moves.since(before).replicas, minimum);
    is_settled(&mut world);
}

#[test]
fn a_drained_store_leads_nothing_first_and_then_is_empty() {
    let mut world = cluster(25, 5, 2_500);
    let drained = StoreId(4);
    world.set_duty(drained, Duty::Drains);
    let (minimum, before) = (world.minimum(), world.moves);
    let goes_first = |world: &World, plan: &Plan| {
        let range = &world.ranges[plan.range.0 as usize - 1];
        range.leader == Some(drained) && plan.wanted.goes_from() == Some(drained)
    };
    while world.has()[&drained].replicas > 0 {
        let plans = world.tick(1);
        let wrong = plans.iter().find(|plan| goes_first(&world, plan));
        assert_eq!(wrong, None, "it leads, and is to go");
    }
    settle(&mut world);
    assert_eq!(world.has()[&drained], measure::Has::default());
    is_thrifty("replicas", world.moves.since(before).replicas, minimum.0);
    is_thrifty("leaders", world.moves.since(before).leaders, minimum.1);
    is_settled(&mut world);
}

#[test]
fn hot_ranges_are_led_from_different_stores() {
    let mut world = cluster(20, 0, 2_000);
    let mut dice = Dice(5);
    let led = world.ranges.iter_mut().filter(|range| range.leader == Some(StoreId(3)));
    for range in led.take(12) {
        range.load = 200 + dice.roll(50);
    }
    let (minimum, before) = (world.minimum_for_load(), world.moves);
    settle(&mut world);
    // Each hot one that goes is repaid with a cold one, for the numbers are to be even as well.
    is_thrifty("leaders", world.moves.since(before).leaders, 2 * minimum);
    assert_eq!(world.moves.replicas, before.replicas);
    // The load comes first: who leads hot ranges leads fewer.
    let load = world.balance().load;
    assert!(load.is_even(world.settings.load_floor as f64), "{load:?}");
    rests(&mut world);
}

#[test]
fn a_cluster_of_one_grows_to_three_and_no_range_has_two_voters_for_long() {
    let mut world = World::new(Settings::default(), 1);
    let first = world.join(1, 0)[0];
    for _ in 0..50 {
        world.add(&[first], first, 10, 1_000);
    }
    settle(&mut world);
    assert!(all_have(&world, 1));
    world.join(1, 0);
    settle(&mut world);
    assert!(all_have(&world, 1), "two voters survive no loss at all");
    world.join(1, 0);
    let mut two_since = vec![None; world.ranges.len()];
    while !all_have(&world, 3) {
        world.tick(1);
        for (since, range) in two_since.iter_mut().zip(&world.ranges) {
            let has_two = range.descriptor.voters().count() == 2;
            *since = has_two.then(|| since.unwrap_or(world.now));
            assert!(since.is_none_or(|since| world.now - since < 60), "{:?}", range.descriptor);
        }
    }
    settle(&mut world);
    is_settled(&mut world);
}

#[test]
fn ranges_follow_the_number_of_replicas_that_is_wanted() {
    let mut world = cluster(9, 3, 900);
    for wanted in [5, 3] {
        world.settings.replicas = wanted;
        settle(&mut world);
        assert!(all_have(&world, wanted));
        is_settled(&mut world);
    }
}

#[test]
fn replicas_that_share_a_zone_come_apart_when_another_zone_is_there() {
    let mut world = cluster(8, 2, 800);
    let third = world.join(4, 0);
    for store in &third {
        let labels = &mut world.stores.get_mut(store).expect("a store").labels;
        *labels = vec![("zone".to_owned(), "2".to_owned())];
    }
    let before = world.moves;
    settle(&mut world);
    let on_third = |range: &world::Range| {
        let replicas = range.descriptor.replicas.iter();
        replicas.filter(|it| third.contains(&it.store)).count()
    };
    assert!(world.ranges.iter().all(|range| on_third(range) == 1));
    let moves = world.moves.replicas - before.replicas;
    assert!((800..900).contains(&moves), "one of each range, and some to even out: {moves}");
    rests(&mut world);
}

#[test]
fn with_more_than_a_third_down_nothing_moves_until_they_are_back_or_gone() {
    let mut world = cluster(9, 0, 90);
    let dead = [1, 2, 3, 4].map(StoreId);
    for store in dead {
        world.kill(store);
    }
    waits(&mut world, 10);
    let before = world.moves;
    waits(&mut world, 2_000);
    assert_eq!(world.moves, before);
    let warned = warnings(&world.view());
    assert!(warned[0].to_string().starts_with("4 of 9 stores are down"), "{warned:?}");
    world.revive(StoreId(1));
    world.revive(StoreId(2));
    world.set_duty(StoreId(3), Duty::Gone);
    waits(&mut world, 3_000);
    let lost = world.ranges.iter().filter(|it| !world.has_quorum(&it.descriptor)).count();
    let has = world.has();
    let left = [3, 4].map(|store| has[&StoreId(store)].replicas as usize);
    assert_eq!(left, [lost; 2], "what has lost its quorum stays, the rest is made again");
    assert!(world.moves.replicas > before.replicas);
}

#[test]
fn a_slow_disk_leads_nothing_and_gets_its_part_back() {
    let mut world = cluster(9, 0, 900);
    let store = StoreId(5);
    let disk = SlowDisk { p99: Duration::from_millis(900), median: Duration::from_millis(4) };
    world.stores.get_mut(&store).expect("a store").slow = Some(disk);
    let replicas = world.moves.replicas;
    settle(&mut world);
    assert_eq!(world.has()[&store].leaders, 0);
    assert_eq!(world.moves.replicas, replicas, "its replicas stay");
    is_settled(&mut world);
    world.stores.get_mut(&store).expect("a store").slow = None;
    settle(&mut world);
    assert!(world.has()[&store].leaders > 80);
    is_settled(&mut world);
}

#[test]
fn what_a_lost_master_had_begun_is_ended_by_the_next() {
    let mut world = cluster(12, 3, 1_200);
    world.join(3, 3);
    for seconds in 121..135 {
        waits(&mut world, seconds);
        world.change_master();
        assert_eq!(plan(&world.view()), [], "it waits for all to report");
    }
    settle(&mut world);
    assert!(all_have(&world, 3));
    is_settled(&mut world);
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Event {
    Join,
    Kill(u64),
    Revive,
    Drain(u64),
    Undrain(u64),
    Slow(u64, bool),
    Heat(u64, u64),
    Master,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Join),
        2 => any::<u64>().prop_map(Event::Kill),
        2 => Just(Event::Revive),
        1 => any::<u64>().prop_map(Event::Drain),
        1 => any::<u64>().prop_map(Event::Undrain),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(store, is_slow)| Event::Slow(store, is_slow)),
        2 => (any::<u64>(), 0u64..2_000).prop_map(|(range, load)| Event::Heat(range, load)),
        1 => Just(Event::Master),
        5 => (1u64..900).prop_map(Event::Wait),
    ]
}

fn happens(world: &mut World, zones: u64, event: &Event) {
    let pick = |world: &World, number: u64| {
        let nth = number as usize % world.stores.len();
        *world.stores.keys().nth(nth).expect("it is below their number")
    };
    match *event {
        Event::Join => drop(world.join(1, zones)),
        // What has lost its quorum cannot be mended: so one at a time, and none while one is away.
        Event::Kill(store) => {
            if world.fewest_live() >= 3 {
                let store = pick(world, store);
                world.kill(store);
            }
        }
        Event::Revive if world.has_silent() => revive_all(world),
        Event::Revive => {}
        Event::Drain(store) => world.set_duty(pick(world, store), Duty::Drains),
        Event::Undrain(store) => world.set_duty(pick(world, store), Duty::Serves),
        Event::Slow(store, is_slow) => {
            let (p99, median) = (Duration::from_millis(500), Duration::from_millis(5));
            let store = pick(world, store);
            let store = world.stores.get_mut(&store).expect("a store");
            store.slow = is_slow.then_some(SlowDisk { p99, median });
        }
        Event::Heat(range, load) => {
            let nth = range as usize % world.ranges.len();
            world.ranges[nth].load = load;
        }
        Event::Master => world.change_master(),
        Event::Wait(seconds) => waits(world, seconds),
    }
}

fn waits(world: &mut World, seconds: u64) {
    for _ in 0..seconds {
        world.tick(1);
    }
}

fn revive_all(world: &mut World) {
    for store in world.stores.keys().copied().collect::<Vec<_>>() {
        world.revive(store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever happens, every plan obeys the rules, and when all is well again, everything has its
    /// three voters and comes to rest. How even it is then depends on how hot single ranges are.
    #[test]
    fn whatever_happens_it_is_mended_and_comes_to_rest(
        zones in prop_oneof![Just(0u64), Just(2), Just(3), Just(5)],
        stores in 5u64..14,
        events in prop::collection::vec(event(), 1..25),
    ) {
        let mut world = World::new(Settings::default(), stores);
        world.join(stores, zones);
        world.spread(60, 3);
        for event in &events {
            happens(&mut world, zones, event);
        }
        revive_all(&mut world);
        for store in world.stores.values_mut() {
            (store.duty, store.slow) = (Duty::Serves, None);
        }
        settle(&mut world);
        prop_assert!(all_have(&world, 3));
        rests(&mut world);
    }
}

/// The size at which the costs of a pass begin to show; see the example for a thousand stores.
#[test]
fn sixty_stores_and_six_thousand_ranges() {
    let mut world = cluster(54, 7, 6_000);
    world.join(6, 7);
    world.kill(StoreId(11));
    world.set_duty(StoreId(12), Duty::Drains);
    settle(&mut world);
    assert!(all_have(&world, 3));
    assert_eq!(world.has()[&StoreId(12)].replicas, 0);
    let balance = world.balance();
    assert!(balance.is_even(world.settings.load_floor), "{balance:?}");
}
