//! A snapshot over a link that is slower than the pauses after which a sender repeats itself. The
//! link loses nothing and keeps the order, as a stream does.

use std::collections::VecDeque;

use sharklock_multiraft::SnapshotLimits;
use sharklock_proto::internal::v1::snapshot_message::Body;

use crate::cluster::{Cluster, Packet};
use crate::node::{Layout, small_snapshots};
use crate::tally::put;

/// Ticks that everything of a snapshot is on its way, besides what its bytes take.
const LATENCY: u64 = 3;

/// One way from store to store for pieces of snapshots; the rest arrives at once.
#[derive(Default)]
struct Link {
    waiting: VecDeque<Packet>,
    /// With the ticks of their arrival.
    travelling: VecDeque<(u64, Packet)>,
    /// Ticks that a chunk takes.
    ticks_per_chunk: u64,
    free_at: u64,
    chunks: u64,
    longest: usize,
}

impl Link {
    fn put(&mut self, packet: Packet) {
        self.waiting.push_back(packet);
        self.longest = self.longest.max(self.waiting.len());
    }

    fn arriving(&mut self, now: u64) -> Option<Packet> {
        while self.free_at <= now
            && let Some(packet) = self.waiting.pop_front()
        {
            if is_chunk(&packet) {
                self.chunks += 1;
                self.free_at = now + self.ticks_per_chunk;
            }
            self.travelling.push_back((self.free_at + LATENCY, packet));
        }
        let (at, _) = self.travelling.front()?;
        if *at > now { None } else { self.travelling.pop_front().map(|(_, packet)| packet) }
    }
}

fn is_chunk(packet: &Packet) -> bool {
    let Packet::Snapshot(piece) = packet else { return false };
    matches!(piece.body, Some(Body::Chunk(_)))
}

/// A leader and a follower that was away, with the two ways between them.
struct World {
    cluster: Cluster,
    now: u64,
    leader: u64,
    away: u64,
    out: Link,
    back: Link,
}

impl World {
    fn new(snapshots: SnapshotLimits, ticks_per_chunk: u64) -> Self {
        let mut layout = Layout::of_voters(3);
        layout.config.log.entries_floor = 4;
        layout.config.log.entries_max = 8;
        layout.config.snapshots = snapshots;
        let mut cluster = Cluster::fresh_in(&layout);
        let leader = cluster.elect();
        let away = leader % 3 + 1;
        cluster.isolated.insert(away);
        for word in 0..200 {
            cluster.propose(leader, put(&format!("word-{word}")));
            cluster.settle();
            cluster.node(leader).store.flush();
            cluster.settle();
        }
        cluster.isolated.clear();
        let out = Link { ticks_per_chunk, ..Link::default() };
        Self { cluster, now: 0, leader, away, out, back: Link::default() }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.cluster.nodes.values_mut().for_each(|node| node.store.tick());
        loop {
            let mut moved = false;
            for store in 1..=3 {
                self.cluster.turn(store);
                moved |= self.cluster.write(store).expect("no fault is planned");
            }
            for packet in std::mem::take(&mut self.cluster.in_transit) {
                moved = true;
                match (&packet, packet.ends()) {
                    (Packet::Snapshot(_), ends) if ends == (self.leader, self.away) => {
                        self.out.put(packet);
                    }
                    (Packet::Snapshot(_), _) => self.back.put(packet),
                    _ => self.cluster.arrive(packet),
                }
            }
            while let Some(packet) =
                self.out.arriving(self.now).or_else(|| self.back.arriving(self.now))
            {
                moved = true;
                self.cluster.arrive(packet);
            }
            if !moved {
                return;
            }
        }
    }

    fn is_here(&self) -> bool {
        self.cluster.nodes[&self.away].store.snapshot_stats().installed > 0
    }
}

/// A sender that hears nothing for a while sends again what is on its way still. What comes twice
/// must not lead to more of the same: each copy would have kept the next ones coming, until all
/// that the link carried was old.
#[test]
fn what_a_slow_link_carries_is_not_sent_again_and_again() {
    for ticks_per_chunk in [1, 2, 4, 8] {
        let limits =
            SnapshotLimits { chunk_bytes: 256, window_bytes: 8 * 256, ..small_snapshots() };
        let mut world = World::new(limits, ticks_per_chunk);
        let mut ticks = 0;
        while !world.is_here() && ticks < 1_000 {
            world.tick();
            ticks += 1;
        }
        let node = &world.cluster.nodes[&world.leader];
        let stats = node.store.snapshot_stats();
        let (chunks, longest) = (world.out.chunks, world.out.longest);
        println!("{ticks_per_chunk}: {ticks} ticks, {chunks} chunks, {longest} waited, {stats:?}");
        assert!(world.is_here(), "after {ticks} ticks and {chunks} chunks: {stats:?}");
        assert_eq!(stats.begun, 1, "{ticks_per_chunk}: the first one arrives");
        // 200 words of some 30 bytes.
        assert!(chunks <= 2 * 30, "{ticks_per_chunk}: {chunks} chunks for about 25");
        assert!(longest <= 3 * 8, "{ticks_per_chunk}: {longest} pieces waited for the link");
    }
}
