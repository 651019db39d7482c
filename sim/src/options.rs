//! What a run is like. Everything is drawn from the seed: each run enables some of the faults at
//! rates of its own (a swarm finds more than one well-balanced mix), and is printed whole, so that
//! a report says what it was.

use std::fmt;

use sharklock_dataserver::SplitLimits;

use crate::dice::Dice;
use crate::node::Node;

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The options of one run. Times say their unit; `_mean_ms` of a fault is the mean time
        /// between two, 0 for never; `_ppm` is so many in a million, `_pct` in a hundred.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Options {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Options {
            /// Replaces one option by name.
            ///
            /// # Errors
            ///
            /// If there is no such option; the text lists those that there are.
            pub fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($name) => self.$name = value,)*
                    _ => {
                        let known = [$(stringify!($name)),*].join(" ");
                        return Err(format!("no option {name:?}; there are: {known}"));
                    }
                }
                Ok(())
            }

            /// Names and values.
            pub fn pairs(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

options! {
    /// How long faults go on.
    duration_s,
    /// Gateways.
    gateways,
    /// Client processes.
    clients,
    /// Tasks of each, which take one lock after the other.
    tasks,
    /// Names that many want.
    hot_names,
    /// Names that few want.
    cold_names,
    /// How often a task takes a hot name.
    hot_pct,
    /// Share of locks of permits among names.
    permit_names_pct,
    /// Share of shared acquisitions on other names.
    shared_pct,
    /// Mean pause of a task between two locks.
    think_mean_ms,
    /// Mean time of a hold.
    hold_mean_ms,
    /// Mean time between two uses of a hold.
    use_mean_ms,
    /// Leases are drawn between this,
    ttl_min_ms,
    /// and this.
    ttl_max_ms,
    /// Share of tries.
    try_pct,
    /// Share of waits with an end.
    bounded_wait_pct,
    /// Share of acquisitions whose future is dropped,
    give_up_pct,
    /// after this long at the latest.
    give_up_max_ms,
    /// Share of holds that are re-entered.
    reenter_pct,
    /// Share of guards that are dropped, not released.
    drop_guard_pct,
    /// Mean time between looks of a gateway's operator.
    look_mean_ms,
    /// Mean time between an operator's wishes to end a hold.
    force_mean_ms,
    /// Mean time between repetitions of old requests by others.
    replay_mean_ms,
    /// How often changed rows go to the image.
    flush_ms,
    /// Entries that a log keeps.
    log_floor,
    /// From mail to the worker's turn.
    turn_us,
    /// Mean duration of a synced write.
    disk_mean_us,
    /// Writes that stall,
    disk_stall_ppm,
    /// for up to this long.
    disk_stall_max_ms,
    /// Writes that fail, which ends their process.
    disk_fail_ppm,
    /// Mean delay between stores.
    raft_delay_us,
    /// Messages between stores that are lost,
    raft_loss_ppm,
    /// that come twice,
    raft_twice_ppm,
    /// that overtake others.
    raft_reorder_ppm,
    /// Mean delay of connections.
    stream_delay_us,
    /// Messages in a connection that lag, and hold up their stream,
    stream_lag_ppm,
    /// for up to this long.
    stream_lag_max_ms,
    /// A connection that is silent for so long counts as lost, at most 2 s later.
    silence_ms,
    /// Clocks run wrong by up to this.
    drift_ppm,
    /// Clocks change their rate.
    drift_mean_ms,
    /// A store's process or machine ends.
    crash_store_mean_ms,
    /// All of them at once.
    power_cut_mean_ms,
    /// A store's process stands still.
    pause_store_mean_ms,
    /// A store's machine stands still, with its clock.
    freeze_store_mean_ms,
    /// A store's disk stalls at every write.
    slow_disk_mean_ms,
    /// Stores are separated from each other.
    partition_mean_ms,
    /// Messages between stores are held back and released late.
    clog_mean_ms,
    /// Gateways and clients are separated from others, unnoticed.
    stall_streams_mean_ms,
    /// A connection breaks.
    cut_stream_mean_ms,
    /// A gateway ends.
    crash_gateway_mean_ms,
    /// A gateway stands still.
    pause_gateway_mean_ms,
    /// A client ends.
    crash_client_mean_ms,
    /// A client stands still.
    pause_client_mean_ms,
    /// A client is cut off from all gateways for about as long as its leases last.
    isolate_client_mean_ms,
    /// A client's connection breaks, it notices at once, and goes to another gateway.
    switch_gateway_mean_ms,
    /// How often what is rare is followed by the worst for its client, see `ambush`.
    ambush_ppm,
    /// Mean length of what ends by itself.
    fault_mean_ms,
    /// A store hands its leadership over.
    hand_over_mean_ms,
    /// Another, empty cluster answers at a gateway's address for a while.
    impostor_mean_ms,
    /// Entries beyond which a log is cut whoever still needs them; 0: as shipped.
    log_max,
    /// Bytes of a snapshot's chunk,
    snapshot_chunk_bytes,
    /// chunks that may be on their way without an answer,
    snapshot_window_chunks,
    /// bytes of them in a tick, 0 for no limit,
    snapshot_tick_bytes,
    /// and snapshots that a store sends and takes in at the same time.
    snapshot_slots,
    /// Leases that a turn takes up of those that a new leader has found.
    leases_per_turn,
    /// Data servers; each range has replicas on three of them.
    stores,
    /// Ranges with which the cluster begins.
    ranges,
    /// Only so many of the stores, the first, have faults, and nothing else has; 0: whatever may
    /// have faults has. Ranges that have no replica there must not feel it (L4).
    faulty_stores,
    /// Masters: 1 or 3; 0: all stores and gateways were told by hand what there is.
    masters,
    /// A master's process or machine ends.
    crash_master_mean_ms,
    /// A master stands still.
    pause_master_mean_ms,
    /// A master is cut off from others.
    isolate_master_mean_ms,
    /// Routes that do not reach a gateway,
    routes_lost_ppm,
    /// that come late, so that others overtake them,
    routes_late_ppm,
    /// and how often old ones come again.
    stale_routes_mean_ms,
    /// Questions of stores to masters of which a copy comes once more,
    asked_twice_ppm,
    /// after up to this long.
    asked_late_max_ms,
    /// Mean time between two wishes to split a range.
    split_mean_ms,
    /// Share of them that operators ask for by a call; the others come to stores with their ids.
    split_calls_pct,
    /// Ranges that may come into being by wishes.
    splits_max,
    /// Splits during which something goes wrong on purpose.
    split_fault_ppm,
    /// Ranges that have more locks are split by themselves, 0 for never,
    split_locks,
    /// or whose locks take more bytes,
    split_bytes,
    /// or that have more waiters,
    split_waiters,
    /// or more commands in each of ten seconds,
    split_commands,
    /// where the leader's store has fewer replicas than this; 0: as shipped.
    ranges_max,
    /// Raft workers of each store; 0: each start has 1, 2 or 4.
    raft_workers,
    /// Mean time between lists of all locks.
    list_mean_ms,
    /// Mean time between an operator's orders to the masters.
    orders_mean_ms,
    /// Mean time between two machines of stores that are lost for good.
    lose_store_mean_ms,
    /// So long the masters go on balancing when faults have ceased.
    balances_s,
    /// The cool-down of leaders, where there are orders.
    cool_down_ms,
    /// Share of acquires that ask for a condition,
    condition_pct,
    /// and of these for one under which the hold stays.
    stays_pct,
    /// Share of waits that ask the holders for the lock.
    ask_pct,
    /// Mean time between two changes of a hold by its task.
    change_mean_ms,
    /// Share of clients that keep a state file.
    state_file_pct,
    /// Share of the ends of clients that are closes.
    close_pct,
    /// Mean time between two revocations of sessions.
    revoke_mean_ms,
    /// How many watch a lock.
    watchers,
    /// Share of holds with a lock-delay whose client dies while it has them.
    doomed_pct,
}

/// Faults that a run without faults lacks, all of them.
const CRASHES_AND_PAUSES: [&str; 5] = [
    "crash_store_mean_ms",
    "power_cut_mean_ms",
    "pause_store_mean_ms",
    "partition_mean_ms",
    "cut_stream_mean_ms",
];

/// Faults of stores, of their disks and of what is between them.
const OF_STORES: [&str; 14] = [
    "crash_store_mean_ms",
    "power_cut_mean_ms",
    "pause_store_mean_ms",
    "freeze_store_mean_ms",
    "slow_disk_mean_ms",
    "partition_mean_ms",
    "clog_mean_ms",
    "hand_over_mean_ms",
    "disk_stall_ppm",
    "disk_fail_ppm",
    "raft_loss_ppm",
    "raft_twice_ppm",
    "raft_reorder_ppm",
    "split_fault_ppm",
];

/// Faults of clients, of gateways and of what is between them and others.
const ELSEWHERE: [&str; 16] = [
    "stall_streams_mean_ms",
    "cut_stream_mean_ms",
    "crash_gateway_mean_ms",
    "pause_gateway_mean_ms",
    "crash_client_mean_ms",
    "pause_client_mean_ms",
    "isolate_client_mean_ms",
    "switch_gateway_mean_ms",
    "ambush_ppm",
    "impostor_mean_ms",
    "replay_mean_ms",
    "stream_lag_ppm",
    "force_mean_ms",
    "give_up_pct",
    "drop_guard_pct",
    "doomed_pct",
];

impl Options {
    /// The options of a seed.
    pub fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed, "options");
        let mut options = Self::workload(dice);
        options.draw_hardware(dice);
        options.draw_faults(dice);
        options.draw_snapshots(dice);
        options.draw_extreme(dice);
        options.draw_impostors(dice);
        options.draw_cluster(dice);
        options.draw_masters(dice);
        options.draw_splits(dice);
        options.draw_late_questions(dice);
        // Drawn last: older seeds mean what they meant, with one worker.
        options.raft_workers = *dice.pick(&[1, 1, 2, 4, 0]);
        options.draw_lists(dice);
        options.split_calls_pct = *dice.pick(&[0, 40, 80]);
        options.draw_split_limits(dice);
        options.draw_orders(dice);
        options.draw_losses(dice);
        options.draw_balancing(dice);
        options.draw_agreements(dice);
        options
    }

    fn workload(dice: &mut Dice) -> Self {
        let ttl_min_ms = *dice.pick(&[2_000, 2_000, 3_000, 5_000]);
        Self {
            duration_s: dice.between(120, 600),
            gateways: dice.between(1, 3),
            clients: dice.between(2, 6),
            tasks: dice.between(1, 4),
            hot_names: dice.between(1, 3),
            cold_names: dice.scale(1, 30),
            hot_pct: *dice.pick(&[30, 60, 90, 100]),
            permit_names_pct: *dice.pick(&[0, 0, 30, 50]),
            shared_pct: *dice.pick(&[0, 0, 30, 60]),
            think_mean_ms: dice.scale(50, 4_000),
            hold_mean_ms: dice.scale(20, 8_000),
            use_mean_ms: dice.scale(100, 2_000),
            ttl_min_ms,
            ttl_max_ms: ttl_min_ms + *dice.pick(&[0, 0, 2_000, 8_000]),
            try_pct: *dice.pick(&[0, 10, 40]),
            bounded_wait_pct: *dice.pick(&[0, 30, 60]),
            give_up_pct: *dice.pick(&[0, 5, 30, 80]),
            give_up_max_ms: *dice.pick(&[50, 500, 10_000]),
            reenter_pct: *dice.pick(&[0, 10, 30]),
            drop_guard_pct: *dice.pick(&[0, 10, 50]),
            look_mean_ms: *dice.pick(&[0, 200, 1_000, 5_000]),
            force_mean_ms: *dice.pick(&[0, 0, 5_000, 30_000]),
            replay_mean_ms: *dice.pick(&[0, 0, 500, 5_000]),
            flush_ms: dice.scale(50, 3_000),
            log_floor: dice.scale(64, 4_096),
            // Set by the functions below.
            turn_us: 0,
            disk_mean_us: 0,
            disk_stall_ppm: 0,
            disk_stall_max_ms: 0,
            disk_fail_ppm: 0,
            raft_delay_us: 0,
            raft_loss_ppm: 0,
            raft_twice_ppm: 0,
            raft_reorder_ppm: 0,
            stream_delay_us: 0,
            stream_lag_ppm: 0,
            stream_lag_max_ms: 0,
            silence_ms: 0,
            drift_ppm: 0,
            drift_mean_ms: 0,
            crash_store_mean_ms: 0,
            power_cut_mean_ms: 0,
            pause_store_mean_ms: 0,
            freeze_store_mean_ms: 0,
            slow_disk_mean_ms: 0,
            partition_mean_ms: 0,
            clog_mean_ms: 0,
            stall_streams_mean_ms: 0,
            cut_stream_mean_ms: 0,
            crash_gateway_mean_ms: 0,
            pause_gateway_mean_ms: 0,
            crash_client_mean_ms: 0,
            pause_client_mean_ms: 0,
            isolate_client_mean_ms: 0,
            switch_gateway_mean_ms: 0,
            ambush_ppm: 0,
            fault_mean_ms: 0,
            hand_over_mean_ms: 0,
            impostor_mean_ms: 0,
            log_max: 0,
            snapshot_chunk_bytes: 0,
            snapshot_window_chunks: 0,
            snapshot_tick_bytes: 0,
            snapshot_slots: 0,
            leases_per_turn: 0,
            stores: 3,
            ranges: 1,
            faulty_stores: 0,
            masters: 0,
            crash_master_mean_ms: 0,
            pause_master_mean_ms: 0,
            isolate_master_mean_ms: 0,
            routes_lost_ppm: 0,
            routes_late_ppm: 0,
            stale_routes_mean_ms: 0,
            asked_twice_ppm: 0,
            asked_late_max_ms: 0,
            split_mean_ms: 0,
            split_calls_pct: 0,
            splits_max: 0,
            split_fault_ppm: 0,
            split_locks: 0,
            split_bytes: 0,
            split_waiters: 0,
            split_commands: 0,
            ranges_max: 0,
            raft_workers: 1,
            list_mean_ms: 0,
            orders_mean_ms: 0,
            lose_store_mean_ms: 0,
            balances_s: 0,
            cool_down_ms: 10_000,
            condition_pct: 0,
            stays_pct: 0,
            ask_pct: 0,
            change_mean_ms: 0,
            state_file_pct: 0,
            close_pct: 0,
            revoke_mean_ms: 0,
            watchers: 0,
            doomed_pct: 0,
        }
    }

    fn draw_hardware(&mut self, dice: &mut Dice) {
        self.turn_us = dice.scale(20, 4_000);
        self.disk_mean_us = dice.scale(100, 40_000);
        self.disk_stall_ppm = *dice.pick(&[0, 0, 500, 5_000]);
        self.disk_stall_max_ms = dice.scale(200, 6_000);
        self.disk_fail_ppm = *dice.pick(&[0, 0, 0, 100, 1_000]);
        self.raft_delay_us = dice.scale(100, 50_000);
        self.raft_loss_ppm = *dice.pick(&[0, 0, 10_000, 100_000, 300_000]);
        self.raft_twice_ppm = *dice.pick(&[0, 0, 10_000, 200_000]);
        self.raft_reorder_ppm = *dice.pick(&[0, 0, 10_000, 200_000]);
        self.stream_delay_us = dice.scale(100, 50_000);
        self.stream_lag_ppm = *dice.pick(&[0, 0, 1_000, 20_000, 100_000]);
        self.stream_lag_max_ms = dice.scale(50, 4_000);
        self.silence_ms = dice.between(3_000, 13_000);
        self.drift_ppm = *dice.pick(&[0, 100, 10_000, 10_000]);
        self.drift_mean_ms = *dice.pick(&[0, 5_000, 60_000]);
    }

    fn draw_faults(&mut self, dice: &mut Dice) {
        // A tenth of the runs has no faults at all: what goes wrong there is the workload's alone.
        let all_off = dice.one_in(10);
        let mut mean = |low, high| {
            // All draws are made, whatever is off: one option does not move the others.
            let (on, value) = (dice.one_in(2), dice.scale(low, high));
            if on && !all_off { value } else { 0 }
        };
        self.crash_store_mean_ms = mean(6_000, 120_000);
        self.power_cut_mean_ms = mean(12_000, 240_000);
        self.pause_store_mean_ms = mean(6_000, 120_000);
        self.freeze_store_mean_ms = mean(15_000, 240_000);
        self.slow_disk_mean_ms = mean(15_000, 240_000);
        self.partition_mean_ms = mean(6_000, 120_000);
        self.clog_mean_ms = mean(8_000, 120_000);
        self.stall_streams_mean_ms = mean(6_000, 120_000);
        self.cut_stream_mean_ms = mean(1_000, 60_000);
        self.crash_gateway_mean_ms = mean(15_000, 240_000);
        self.pause_gateway_mean_ms = mean(10_000, 120_000);
        self.crash_client_mean_ms = mean(5_000, 120_000);
        self.pause_client_mean_ms = mean(5_000, 120_000);
        self.isolate_client_mean_ms = mean(5_000, 120_000);
        self.switch_gateway_mean_ms = mean(1_000, 60_000);
        self.fault_mean_ms = dice.scale(500, 12_000);
        let ambush_ppm = *dice.pick(&[0, 10_000, 100_000, 300_000]);
        self.ambush_ppm = if all_off { 0 } else { ambush_ppm };
    }

    /// Half of the runs are extreme in one dimension: what needs two rare things at once is then
    /// in want of one.
    fn draw_extreme(&mut self, dice: &mut Dice) {
        let (kind, mean) = (dice.below(20), dice.scale(100, 1_000));
        if !self.has_faults() {
            return;
        }
        match kind {
            // Clients that give up what they have just asked for.
            0 => (self.give_up_pct, self.give_up_max_ms, self.try_pct) = (90, 50, 0),
            // Clients that go from gateway to gateway.
            1 => (self.switch_gateway_mean_ms, self.gateways) = (mean, self.gateways.max(2)),
            // Answers that come when they have been asked for again.
            2 => (self.stream_lag_ppm, self.stream_lag_max_ms) = (200_000, 2_000),
            // Operators who end whatever they see.
            3 => (self.force_mean_ms, self.look_mean_ms) = (mean, mean),
            // Old calls that come again and again.
            4 => self.replay_mean_ms = mean / 2,
            // Leases that end under everybody.
            5 => {
                (self.ttl_min_ms, self.ttl_max_ms) = (2_000, 2_000);
                (self.isolate_client_mean_ms, self.pause_client_mean_ms) = (mean * 4, mean * 8);
            }
            // Holds within holds.
            6 => (self.reenter_pct, self.drop_guard_pct) = (100, 0),
            // Leaders that change all the time.
            7 => self.hand_over_mean_ms = 2_000 + mean * 2,
            // The worst, whenever it can.
            8 => self.ambush_ppm = 600_000,
            // Restarts from images.
            9 => (self.crash_store_mean_ms, self.flush_ms) = (3_000 + mean * 4, 50),
            _ => {}
        }
    }

    pub(crate) fn has_faults(&self) -> bool {
        let pairs = self.pairs().into_iter();
        pairs.filter(|(name, _)| CRASHES_AND_PAUSES.contains(name)).any(|(_, value)| value > 0)
    }

    /// Drawn last: older seeds mean what they meant.
    fn draw_impostors(&mut self, dice: &mut Dice) {
        let (come, mean) = (dice.one_in(3), dice.scale(5_000, 120_000));
        self.impostor_mean_ms = if come && self.has_faults() { mean } else { 0 };
    }

    /// Drawn last, as whatever is new: older seeds keep what they had. Half of the runs have one range
    /// on three stores, as clusters begin.
    fn draw_cluster(&mut self, dice: &mut Dice) {
        let (size, few, many) = (dice.below(8), dice.between(2, 5), dice.scale(6, 40));
        let stores = dice.between(3, 7);
        let (spares, faulty) = (dice.one_in(4), dice.between(1, 2));
        (self.stores, self.ranges) = match size {
            0..=3 => (3, 1),
            4..=6 => (stores, few),
            _ => (stores, many),
        };
        if self.ranges > 1 {
            // Else nobody would lock anything in most of them.
            self.hot_pct = self.hot_pct.min(60);
        }
        if spares && self.stores > 4 && self.has_faults() {
            self.faulty_stores = faulty;
            self.spare_others(dice);
        }
    }

    /// Two of three runs have masters.
    fn draw_masters(&mut self, dice: &mut Dice) {
        let masters = *dice.pick(&[0, 1, 3]);
        let mut mean = |low, high| {
            let (on, value) = (dice.one_in(2), dice.scale(low, high));
            if on { value } else { 0 }
        };
        let crash = mean(6_000, 120_000);
        let pause = mean(6_000, 120_000);
        let isolate = mean(6_000, 120_000);
        let stale = mean(500, 20_000);
        let lost = *dice.pick(&[0, 0, 100_000, 500_000]);
        let late = *dice.pick(&[0, 0, 100_000, 500_000]);
        // Whose faults are which is told by numbers, and masters number stores as they come.
        self.masters = if self.faulty_stores == 0 { masters } else { 0 };
        if self.masters > 0 && self.has_faults() {
            self.crash_master_mean_ms = crash;
            self.pause_master_mean_ms = pause;
            self.isolate_master_mean_ms = isolate;
            self.stale_routes_mean_ms = stale;
            (self.routes_lost_ppm, self.routes_late_ppm) = (lost, late);
        }
    }

    /// In half of the runs with masters, what stores ask comes once more, much later.
    fn draw_late_questions(&mut self, dice: &mut Dice) {
        let twice = *dice.pick(&[0, 0, 20_000, 300_000]);
        let late_max = dice.scale(500, 60_000);
        if self.masters > 0 && self.has_faults() {
            (self.asked_twice_ppm, self.asked_late_max_ms) = (twice, late_max);
        }
    }

    /// In three of five runs ranges are split, in some of them again and again.
    fn draw_splits(&mut self, dice: &mut Dice) {
        let (size, few, many) = (dice.below(10), dice.between(1, 6), dice.between(10, 30));
        let (mean, often) = (dice.scale(4_000, 60_000), dice.scale(1_000, 8_000));
        let faults = *dice.pick(&[0, 200_000, 600_000]);
        (self.splits_max, self.split_mean_ms) = match size {
            0..=3 => (0, 0),
            4..=7 => (few, mean),
            _ => (many, often),
        };
        if self.faulty_stores > 0 {
            // There is enough to do for who has no faults without them: L4 compares the slowest.
            self.splits_max = self.splits_max.min(2);
        }
        self.split_fault_ppm = if self.has_faults() { faults } else { 0 };
    }

    /// Drawn last, as whatever is new.
    fn draw_lists(&mut self, dice: &mut Dice) {
        let mean = *dice.pick(&[0, 300, 1_000, 5_000]);
        // L4 compares how fast ranges answer, and a list asks them all.
        self.list_mean_ms = if self.faulty_stores > 0 { 0 } else { mean };
    }

    /// Drawn last, as whatever is new. In half of the runs with few ranges these are split by themselves,
    /// by limits that are as low as the run is small.
    fn draw_split_limits(&mut self, dice: &mut Dice) {
        let (kind, more) = (dice.below(10), dice.between(4, 24));
        let (locks, bytes) = (dice.scale(1, 5), dice.scale(1_000, 12_000));
        let waiters = dice.scale(1, 4);
        let commands = dice.scale(1, 4);
        // L4 compares how fast ranges answer.
        if kind < 5 || self.faulty_stores > 0 || self.ranges > 12 {
            return;
        }
        let limit = |of, limit| if kind == 5 || kind == of { limit } else { 0 };
        (self.split_locks, self.split_bytes) = (limit(6, locks), limit(7, bytes));
        (self.split_waiters, self.split_commands) = (limit(8, waiters), limit(9, commands));
        self.ranges_max = self.ranges + more;
        if self.split_commands > 0 {
            // Else no range would be busy for ten seconds in a row, or all of it with one lock.
            self.hot_pct = self.hot_pct.min(60);
            self.cold_names = self.cold_names.max(4);
            self.think_mean_ms = self.think_mean_ms.min(300);
            self.hold_mean_ms = self.hold_mean_ms.min(300);
        }
    }

    /// Drawn last, as whatever is new. In half of the runs with masters replicas and leaderships move all
    /// the time, and there are stores for them to move to.
    fn draw_orders(&mut self, dice: &mut Dice) {
        let (on, mean, spare) = (dice.one_in(2), dice.scale(1_000, 20_000), dice.between(4, 6));
        if on && self.masters > 0 {
            self.orders_mean_ms = mean;
            self.stores = self.stores.max(spare);
        }
    }

    /// Drawn last, as whatever is new. In half of the runs with orders machines are lost for good.
    fn draw_losses(&mut self, dice: &mut Dice) {
        let (on, mean, spare) = (dice.one_in(2), dice.scale(20_000, 200_000), dice.between(1, 2));
        if on && self.orders_mean_ms > 0 && self.has_faults() {
            self.lose_store_mean_ms = mean;
            self.stores = (self.stores + spare).min(7);
        }
    }

    /// Drawn last, as whatever is new. In half of the runs with orders the masters still balance while
    /// what is late is measured; in half of those leaders stay for longer than leases last. Where
    /// machines are lost they do so in any case, to repair.
    fn draw_balancing(&mut self, dice: &mut Dice) {
        let (on, long, slow) = (dice.one_in(2), dice.between(20, 60), dice.one_in(2));
        if on && self.orders_mean_ms > 0 && self.lose_store_mean_ms == 0 {
            self.balances_s = long;
            self.cool_down_ms = if slow { 20_000 } else { 10_000 };
        }
    }

    /// As the workers of a store take them.
    pub fn split_limits(&self) -> SplitLimits {
        let limit = |limit: u64| Some(limit).filter(|limit| *limit > 0);
        SplitLimits {
            locks: limit(self.split_locks),
            bytes: limit(self.split_bytes),
            waiters: limit(self.split_waiters),
            commands_per_second: limit(self.split_commands),
        }
    }

    /// Only some stores have faults, and their ranges so many calls that a slow one is no accident.
    fn spare_others(&mut self, dice: &mut Dice) {
        self.duration_s = dice.between(90, 150);
        (self.clients, self.tasks) = (dice.between(3, 5), dice.between(2, 3));
        (self.think_mean_ms, self.hold_mean_ms) = (dice.scale(100, 300), dice.scale(20, 200));
        for fault in ELSEWHERE {
            self.set(fault, 0).expect("it is an option");
        }
        for (fault, low, high) in
            [("crash_store_mean_ms", 8_000, 30_000), ("partition_mean_ms", 8_000, 30_000)]
        {
            self.set(fault, dice.scale(low, high)).expect("it is an option");
        }
    }

    /// Whether a node may have faults.
    pub fn may_fail(&self, node: Node) -> bool {
        match node {
            _ if self.faulty_stores == 0 => true,
            Node::Store(number) => number as u64 <= self.faulty_stores,
            Node::Gateway(_) | Node::Client(_) | Node::Master(_) | Node::Operator => false,
        }
    }

    /// The same run in which no store has faults.
    pub fn without_faults(&self) -> Self {
        let mut calm = self.clone();
        for (name, _) in self.pairs() {
            let is_fault = ELSEWHERE.contains(&name) || OF_STORES.contains(&name);
            if is_fault {
                calm.set(name, 0).expect("it is an option");
            }
        }
        calm
    }

    /// In two of three runs logs are so short that who was away needs a snapshot, and chunks so
    /// small that much can go wrong on the way.
    fn draw_snapshots(&mut self, dice: &mut Dice) {
        let short = !dice.one_in(3);
        let (hands_over, mean) = (dice.one_in(3), dice.scale(5_000, 120_000));
        self.hand_over_mean_ms = if hands_over && self.has_faults() { mean } else { 0 };
        let log_max = dice.scale(10, 100);
        self.log_max = if short { log_max } else { 0 };
        self.snapshot_chunk_bytes = dice.scale(256, 16_384);
        self.snapshot_window_chunks = dice.between(1, 8);
        self.snapshot_tick_bytes = *dice.pick(&[0, 0, 2_000, 20_000]);
        self.snapshot_slots = dice.between(1, 2);
        // One by one, so that much happens before all are taken up; or as shipped.
        self.leases_per_turn = *dice.pick(&[1, 1, 3, 2_048]);
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.pairs().iter().map(|(name, value)| format!("{name}={value}")).collect();
        for line in pairs.chunks(5) {
            writeln!(f, "  {}", line.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_its_options_and_each_can_be_replaced() {
        let mut options = Options::draw(3);
        assert_eq!(options, Options::draw(3));
        assert_ne!(options, Options::draw(4));
        options.set("clients", 99).expect("it exists");
        assert_eq!(options.clients, 99);
        assert!(options.set("clint", 1).expect_err("it does not").contains("clients"));
        assert!(options.to_string().contains("clients=99"));
    }
}
