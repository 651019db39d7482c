//! The events that may happen in a run of the test network, drawn from a seed, and those that did.

use std::ops::Range;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sharklock_multiraft::{Config, LogLimits, SnapshotLimits};

use crate::node::{Layout, small_snapshots};

/// Virtual time.
pub type Micros = u64;
pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// The options of a run. Rates are mean times between two such events; 0: none.
#[derive(Clone, Debug)]
pub struct Weather {
    pub layout: Layout,
    pub delay: Range<Micros>,
    pub disk: Range<Micros>,
    /// Length of a tick on each store: clocks run differently fast.
    pub tick: Range<Micros>,
    /// Shares of packets.
    pub loss: f64,
    pub twice: f64,
    /// Share of the chunks of snapshots.
    pub damage: f64,
    /// Packets of one stream (two stores, one class) stay in order, until a reconnect. Otherwise
    /// every packet travels for itself.
    pub orderly: bool,
    pub reconnect: Micros,
    pub crash: Micros,
    pub down: Range<Micros>,
    pub cut: Micros,
    pub mend: Micros,
    pub pause: Micros,
    pub propose: Micros,
    pub read: Micros,
    pub hand_over: Micros,
    pub split: Micros,
    pub members: Micros,
    pub flush: Micros,
}

/// Of the engine's own pace nothing is drawn: a tick is 100 ms, an election takes 1 to 2 s.
const LOG: LogLimits = LogLimits { entries_floor: 8, entries_max: 1 << 20, bytes_max: 1 << 30 };

impl Weather {
    /// Good links, good disks, and nothing to do.
    pub fn calm(voters: u64) -> Self {
        let config = Config { log: LOG, snapshots: small_snapshots(), piece_rows: 1 };
        Self {
            layout: Layout { config, ..Layout::of_voters(voters) },
            delay: 100..2 * MS,
            disk: 100..5 * MS,
            tick: 99 * MS..101 * MS,
            loss: 0.0,
            twice: 0.0,
            damage: 0.0,
            orderly: true,
            reconnect: 0,
            crash: 0,
            down: 100 * MS..SECOND,
            cut: 0,
            mend: SECOND,
            pause: 0,
            propose: 0,
            read: 0,
            hand_over: 0,
            split: 0,
            members: 0,
            flush: 300 * MS,
        }
    }

    /// A storm in which logs reach back so shortly that who was away needs a snapshot.
    pub fn stormy_with_short_logs(seed: u64) -> Self {
        let mut it = Self::stormy(seed);
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x5A07_1065);
        let max = dice.random_range(5..40);
        it.layout.config.log =
            LogLimits { entries_floor: 4.min(max), entries_max: max, bytes_max: 1 << 30 };
        let chunk_bytes = 4 << dice.random_range(0..5);
        it.layout.config.snapshots = SnapshotLimits {
            chunk_bytes,
            window_bytes: chunk_bytes * dice.random_range(1..5),
            bytes_per_tick: [None, Some(20), Some(100)][dice.random_range(0..3)],
            sending_max: dice.random_range(1..4),
            receiving_max: dice.random_range(1..4),
            idle_ticks_max: dice.random_range(20..100),
            disk_free_min: 0,
        };
        it.hand_over = if dice.random_bool(0.5) { 3 * SECOND } else { 0 };
        it.damage = if dice.random_bool(0.4) { 0.1 } else { 0.0 };
        it
    }

    /// The same, while ranges are split and their replicas move over two more stores.
    pub fn changing(seed: u64) -> Self {
        let mut it = Self::stormy_with_short_logs(seed);
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x0051_711D);
        it.layout.voters = it.layout.voters.max(3);
        it.layout.spare = 2;
        it.split = dice.random_range(1..6) * SECOND;
        it.members = dice.random_range(200..2_000) * MS;
        it
    }

    /// Anything, drawn from the seed. Some faults are left out of each run: with all of them at
    /// once, little ever gets done.
    pub fn stormy(seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x57EA_7E44);
        let voters = [1, 3, 3, 3, 5][dice.random_range(0..5)];
        let mut it = Self::calm(voters);
        it.layout.learners = dice.random_range(0..2);
        it.layout.ranges = dice.random_range(1..4);
        it.delay = 100..MS << dice.random_range(0..9);
        it.disk = 50..MS << dice.random_range(0..9);
        let skew = dice.random_range(1..10) * MS;
        it.tick = 100 * MS - skew..100 * MS + skew;
        it.orderly = dice.random_bool(0.6);
        it.propose = dice.random_range(2..200) * MS;
        it.read = dice.random_range(5..400) * MS;
        it.flush = dice.random_range(50..1_000) * MS;
        let mut sometimes = |chance: f64| dice.random_bool(chance);
        let (loses, repeats) = (sometimes(0.5), sometimes(0.5));
        let (reconnects, crashes) = (sometimes(0.5), sometimes(0.6));
        let (cuts, pauses) = (sometimes(0.6), sometimes(0.4));
        let mut rate = |on: bool, seconds: Range<Micros>| match on {
            true => dice.random_range(seconds) * SECOND,
            false => 0,
        };
        it.reconnect = rate(reconnects, 1..5);
        it.crash = rate(crashes, 1..12);
        it.cut = rate(cuts, 1..8);
        it.mend = rate(true, 1..6);
        it.pause = rate(pauses, 2..12);
        it.down = 10 * MS..dice.random_range(1..6) * SECOND;
        if loses {
            it.loss = dice.random_range(0.01..0.3);
        }
        if repeats {
            it.twice = dice.random_range(0.01..0.3);
        }
        it
    }
}

/// The events of a run; a swarm of runs must have seen everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub events: u64,
    pub proposals: u64,
    pub reads: u64,
    pub leaders: u64,
    pub crashes: u64,
    pub one_way_cuts: u64,
    pub two_way_cuts: u64,
    pub pauses: u64,
    pub reconnects: u64,
    pub lost: u64,
    pub repeated: u64,
    pub overtaken: u64,
    pub damaged: u64,
    pub installed: u64,
    pub handed_over: u64,
    pub splits: u64,
    pub members: u64,
    pub born: u64,
    pub gone: u64,
}

impl Counts {
    fn numbers(&mut self) -> [(&'static str, &mut u64); 19] {
        [
            ("events", &mut self.events),
            ("proposals", &mut self.proposals),
            ("reads", &mut self.reads),
            ("leaders", &mut self.leaders),
            ("crashes", &mut self.crashes),
            ("one_way_cuts", &mut self.one_way_cuts),
            ("two_way_cuts", &mut self.two_way_cuts),
            ("pauses", &mut self.pauses),
            ("reconnects", &mut self.reconnects),
            ("lost", &mut self.lost),
            ("repeated", &mut self.repeated),
            ("overtaken", &mut self.overtaken),
            ("damaged", &mut self.damaged),
            ("installed", &mut self.installed),
            ("handed_over", &mut self.handed_over),
            ("splits", &mut self.splits),
            ("members", &mut self.members),
            ("born", &mut self.born),
            ("gone", &mut self.gone),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        let mut other = *other;
        for ((_, sum), (_, more)) in self.numbers().into_iter().zip(other.numbers()) {
            *sum += *more;
        }
    }

    pub fn assert_at_least(&self, floor: &Self) {
        let (mut counts, mut floor) = (*self, *floor);
        for ((name, count), (_, least)) in counts.numbers().into_iter().zip(floor.numbers()) {
            assert!(*count >= *least, "only {count} {name}, expected {least}");
        }
    }
}
