//! Replicas that come back while their range goes on writing, faster than its log reaches back.

use sharklock_multiraft::PeerProgress;

use crate::network::Network;
use crate::node::RANGE;
use crate::weather::{MS, SECOND, Weather};

/// Entries that may be on their way to a replica that keeps up: a round trip, a batch of the disk
/// and a heartbeat of a leader that lost some.
const KEEPS_UP: u64 = 120;

/// A new entry every 2 ms, of which a log keeps 12; a snapshot takes several round trips of 60 ms.
fn busy() -> Weather {
    let mut it = Weather::calm(3);
    it.delay = 20 * MS..40 * MS;
    it.propose = 2 * MS;
    it.flush = 50 * MS;
    it.layout.config.log.entries_floor = 4;
    it.layout.config.log.entries_max = 12;
    it
}

/// How the leader sees a store that was cut off for two seconds; `None`: nobody leads.
fn seen(network: &Network, store: u64) -> Option<(PeerProgress, u64)> {
    let leader = &network.cluster.nodes[&network.leader(RANGE)?];
    let peer = leader.store.peers(RANGE).into_iter().find(|peer| peer.store.0 == store)?;
    Some((peer, leader.status().log_last - peer.matched))
}

fn cut_off(network: &mut Network) -> u64 {
    let led = network.run_until(10 * SECOND, |it| it.leader(RANGE).is_some());
    assert!(led, "nobody leads");
    network.run_for(SECOND);
    let leader = network.leader(RANGE).expect("calm weather");
    let store = leader % 3 + 1;
    for other in (1..=3).filter(|other| *other != store) {
        network.cut(store, other);
        network.cut(other, store);
    }
    network.run_for(2 * SECOND);
    network.mend_all();
    store
}

/// CI of b6d92b5: a replica was sent one snapshot after the other for as long as the load lasted,
/// since the log no longer had what followed a snapshot when that was installed.
#[test]
fn one_snapshot_is_enough_however_short_the_log() {
    for seed in 0..10 {
        let mut network = Network::new(seed, busy());
        let store = cut_off(&mut network);
        let keeps_up = |it: &Network| {
            seen(it, store).is_some_and(|(peer, lag)| !peer.in_snapshot && lag <= KEEPS_UP)
        };
        assert!(network.run_until(10 * SECOND, keeps_up), "{:?}", seen(&network, store));
        for _ in 0..50 {
            network.run_for(100 * MS);
            assert!(keeps_up(&network), "it falls back: {:?}", seen(&network, store));
        }
        let installed = network.cluster.nodes[&store].store.snapshot_stats().installed;
        assert_eq!(installed, 1, "seed {seed}");
        // Nothing is kept for it any more. A flush cuts behind the one before.
        let log = network.cluster.nodes.values().map(|node| node.status());
        let longest = log.map(|it| it.log_last + 1 - it.log_first).max();
        assert!(longest <= Some(12 + KEEPS_UP), "{longest:?} entries");
    }
}

/// A snapshot that is slower than its range writes must not take all memory.
#[test]
fn what_is_kept_for_a_snapshot_is_bounded() {
    for seed in 0..5 {
        let mut weather = busy();
        // About 130 bytes an entry; the image has 210.
        weather.layout.config.log.bytes_max = 8_000;
        weather.layout.config.snapshots.bytes_per_tick = Some(2);
        let mut network = Network::new(seed, weather);
        let store = cut_off(&mut network);
        let mut was_sent = false;
        for _ in 0..100 {
            network.run_for(100 * MS);
            let longest = network.cluster.nodes.values().map(|node| {
                let status = node.status();
                status.log_last + 1 - status.log_first
            });
            // Entries that two flushes and the disk let pass, and those in flight, come on top.
            let longest = longest.max();
            assert!(longest <= Some(63 + 2 + 2 * KEEPS_UP), "seed {seed}: {longest:?} entries");
            was_sent |= seen(&network, store).is_some_and(|(peer, _)| peer.in_snapshot);
        }
        assert!(was_sent);
    }
}
