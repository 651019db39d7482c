//! The data server's Prometheus metrics (D19).

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::{AtomicU64, GenericCounter},
};

use sharklock_multiraft::SnapshotStats;
use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};

use crate::{
    edge::{lock_metrics::LockHistograms, snapshot_metrics::Snapshots},
    memory::MemoryRefusals,
    ports::{ExpiryCounts, SplitCounts, WorkerStats},
    worker::{Busy, Worker},
};

/// Ranges that have metrics of their own: a scrape must not grow with the number of ranges.
const BUSIEST_MAX: usize = 16;

/// Every metric of one store.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_seconds: Histogram,
    turn_seconds: Histogram,
    entries: IntCounter,
    commands: IntCounter,
    grants: IntCounter,
    expiries: IntCounterVec,
    wait_timeouts: IntCounter,
    keepalive_items: IntCounter,
    withdrawals: IntCounter,
    stale_requests: IntCounter,
    moved: IntCounter,
    overloads: IntCounter,
    mailbox_refusals: IntCounter,
    stalls: IntCounter,
    promotions: IntCounter,
    lost_replies: IntCounter,
    peer_messages: IntCounter,
    peer_heartbeats: IntCounter,
    peer_snapshots: IntCounter,
    snapshots: Snapshots,
    /// Of single locks and entries.
    pub locks_observed: LockHistograms,
    disk_free: IntGauge,
    ranges_led: IntGauge,
    replicas_behind: IntGauge,
    state_bytes: IntGauge,
    state_limit_bytes: IntGauge,
    refusals: IntCounterVec,
    locks: IntGauge,
    holds: IntGauge,
    waiters: IntGauge,
    log_entries: IntGauge,
    unflushed_entries: IntGauge,
    replicas: IntGauge,
    splits: IntCounterVec,
    split_refusals: IntCounter,
    busiest: Busiest,
}

/// Gauges of the busiest ranges, by their ids.
#[derive(Clone, Debug)]
struct Busiest {
    commands_per_second: IntGaugeVec,
    locks: IntGaugeVec,
    waiters: IntGaugeVec,
}

impl Busiest {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauges = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["range_id"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        Ok(Self {
            commands_per_second: gauges(
                "sharklock_busy_range_commands_per_second",
                "Commands per second in the last 10 s, of the 16 busiest ranges led here.",
            )?,
            locks: gauges(
                "sharklock_busy_range_locks",
                "Locks with a holder or a waiter, of the 16 busiest ranges led here.",
            )?,
            waiters: gauges(
                "sharklock_busy_range_waiters",
                "Waiting acquisitions, of the 16 busiest ranges led here.",
            )?,
        })
    }

    /// These, and no others.
    fn show(&self, busiest: &[Busy]) {
        let Self { commands_per_second, locks, waiters } = self;
        [commands_per_second, locks, waiters].into_iter().for_each(IntGaugeVec::reset);
        for busy in busiest {
            let label = &[busy.range.0.to_string()];
            commands_per_second.with_label_values(label).set(busy.commands_per_second as i64);
            locks.with_label_values(label).set(busy.locks as i64);
            waiters.with_label_values(label).set(busy.waiters as i64);
        }
    }
}

/// The counts of a worker since the start of the process, and of all that it holds. Those of locks are
/// of ranges that it leads, so that sums over all stores count each once; the others are of every replica.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub stats: WorkerStats,
    pub refusals: MemoryRefusals,
    pub state_bytes: u64,
    /// Of the whole store; each worker knows it.
    pub state_limit_bytes: u64,
    pub ranges_led: u64,
    pub replicas_behind: u64,
    /// Of ranges that are led here, as the two below.
    pub locks: u64,
    pub holds: u64,
    pub waiters: u64,
    pub log_entries: u64,
    pub unflushed_entries: u64,
    pub replicas: u64,
    pub snapshots: SnapshotStats,
    /// Calls for which its mailbox had no room.
    pub mailbox_refusals: u64,
    pub busiest: Vec<Busy>,
}

impl Shown {
    /// As of now.
    pub fn of(worker: &Worker, now: Duration) -> Self {
        let (store, memory) = (worker.store(), worker.memory());
        let mut shown = Self {
            stats: worker.stats(),
            refusals: memory.refusals(),
            state_bytes: memory.used(),
            replicas_behind: store.behind().count() as u64,
            state_limit_bytes: memory.bounds().store.unwrap_or(0),
            replicas: worker.ranges_count() as u64,
            snapshots: store.snapshot_stats(),
            busiest: worker.busiest(now, BUSIEST_MAX),
            ..Self::default()
        };
        for range in store.ranges() {
            let (Some(status), Some(machine)) = (store.status(range), store.machine(range)) else {
                continue;
            };
            // A follower has the same locks: whoever adds up the stores would count them again.
            if status.leader == Some(store.ident().store) {
                let counts = machine.table().counts();
                shown.locks += counts.locks as u64;
                shown.holds += counts.holds as u64;
                shown.waiters += counts.waiters as u64;
                shown.ranges_led += 1;
            }
            shown.log_entries += status.log_last + 1 - status.log_first.min(status.log_last + 1);
            shown.unflushed_entries += status.applied - status.flushed.min(status.applied);
        }
        shown
    }

    fn add(&mut self, other: &Self) {
        self.stats += other.stats;
        self.refusals += other.refusals;
        self.state_bytes += other.state_bytes;
        self.state_limit_bytes = other.state_limit_bytes;
        self.ranges_led += other.ranges_led;
        self.replicas_behind += other.replicas_behind;
        self.locks += other.locks;
        self.holds += other.holds;
        self.waiters += other.waiters;
        self.log_entries += other.log_entries;
        self.unflushed_entries += other.unflushed_entries;
        self.replicas += other.replicas;
        self.snapshots.add(&other.snapshots);
        self.mailbox_refusals += other.mailbox_refusals;
        self.busiest.extend(&other.busiest);
    }
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let buckets = prometheus::exponential_buckets(0.000_032, 2.0, 18)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        let counters = |name: &str, help: &str, by: &str| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[by])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        Ok(Self {
            sync_seconds: seconds(
                "sharklock_store_sync_seconds",
                "Durable writes to the store's disk, by how long each took.",
            )?,
            turn_seconds: seconds(
                "sharklock_store_turn_seconds",
                "Turns of the raft workers, by how long each took.",
            )?,
            entries: counter(
                "sharklock_range_entries_total",
                "Raft entries proposed by the leaders here.",
            )?,
            commands: counter(
                "sharklock_range_commands_total",
                "Commands in the Raft entries that the leaders here have proposed.",
            )?,
            grants: counter(
                "sharklock_lock_grants_total",
                "Grants, at once or from the queue, by the leaders here.",
            )?,
            expiries: counters(
                "sharklock_lock_expiries_total",
                "Holds and waiters that the clocks of the leaders here have ended, by what ran out: the lease \
                 of a hold or a waiter, max_hold, the grace of a holder who was asked, or the lease of a \
                 hold that stays as an orphan.",
                "reason",
            )?,
            wait_timeouts: counter(
                "sharklock_lock_wait_timeouts_total",
                "Waits that timed out before a grant, by the leaders here.",
            )?,
            keepalive_items: counter(
                "sharklock_keepalive_items_total",
                "Acquisitions named by the keepalives that this store received.",
            )?,
            withdrawals: counter(
                "sharklock_lock_withdrawals_total",
                "Acquisitions cancelled since the callers of their unary acquires had gone away.",
            )?,
            stale_requests: counter(
                "sharklock_store_stale_requests_total",
                "Requests dropped because they were older than 10 s.",
            )?,
            moved: counter(
                "sharklock_range_moved_commands_total",
                "Commands that leaders here did not apply since their range's bounds had changed: they are \
                 repeated.",
            )?,
            overloads: counter(
                "sharklock_store_overloads_total",
                "Calls refused because too much was waiting for a range.",
            )?,
            mailbox_refusals: counter(
                "sharklock_store_mailbox_refusals_total",
                "Calls refused because the mailbox of a raft worker was full.",
            )?,
            stalls: counter(
                "sharklock_store_stalls_total",
                "Stalls of the loop or the disk over 500 ms, credited to leases.",
            )?,
            promotions: counter(
                "sharklock_range_promotions_total",
                "Times that this store began to lead a range.",
            )?,
            lost_replies: counter(
                "sharklock_store_lost_replies_total",
                "Replies dropped because a gateway did not read or was gone.",
            )?,
            peer_messages: counter(
                "sharklock_peer_messages_total",
                "Raft messages for other stores, without heartbeats and snapshots.",
            )?,
            peer_heartbeats: counter(
                "sharklock_peer_heartbeats_total",
                "Messages with the heartbeats of all ranges, or answers to them, for other stores.",
            )?,
            peer_snapshots: counter(
                "sharklock_peer_snapshot_messages_total",
                "Pieces of snapshots, or answers to them, for other stores.",
            )?,
            snapshots: Snapshots::register(registry)?,
            locks_observed: LockHistograms::register(registry)?,
            disk_free: gauge(
                "sharklock_store_disk_free_bytes",
                "Room on the disk of the store's directory; -1: unknown.",
            )?,
            ranges_led: gauge(
                "sharklock_store_ranges_led",
                "Ranges that this store leads; their sum over all stores is the number of ranges.",
            )?,
            replicas_behind: gauge(
                "sharklock_store_replicas_behind",
                "Replicas that stay behind since this program is too old for their ranges.",
            )?,
            state_bytes: gauge(
                "sharklock_store_state_bytes",
                "Memory of the locks of all replicas on this store, as it counts them.",
            )?,
            state_limit_bytes: gauge(
                "sharklock_store_state_limit_bytes",
                "Memory of locks beyond which acquires are refused; 0: no bound.",
            )?,
            refusals: counters(
                "sharklock_store_memory_refusals_total",
                "Acquires refused because locks take as much memory as they may, by reason.",
                "reason",
            )?,
            locks: gauge(
                "sharklock_locks",
                "Locks with a holder or a waiter, in ranges that this store leads.",
            )?,
            holds: gauge("sharklock_holds", "Live holds, in ranges that this store leads.")?,
            waiters: gauge(
                "sharklock_waiters",
                "Waiting acquisitions, in ranges that this store leads.",
            )?,
            log_entries: gauge(
                "sharklock_range_log_entries",
                "Raft log entries kept by all replicas on this store.",
            )?,
            unflushed_entries: gauge(
                "sharklock_range_unflushed_entries",
                "Applied entries that the images on disk do not hold yet, of all replicas on this store.",
            )?,
            replicas: gauge("sharklock_store_replicas", "Replicas of ranges on this store.")?,
            splits: counters(
                "sharklock_range_splits_total",
                "Splits that this store has proposed as a leader, and that were applied, by what the \
                 range had too much of.",
                "cause",
            )?,
            split_refusals: counter(
                "sharklock_range_split_refusals_total",
                "Splits that somebody has asked a leader here for in vain.",
            )?,
            busiest: Busiest::register(registry)?,
        })
    }

    /// The disk has so much room; `None`: nobody knows.
    pub fn disk_has(&self, bytes: Option<u64>) {
        // A full disk has 0, so that no number of bytes can stand for not knowing.
        self.disk_free.set(bytes.map_or(-1, |it| i64::try_from(it).unwrap_or(i64::MAX)));
    }

    /// A durable write has ended.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// A turn has ended.
    pub fn turned(&self, took: Duration) {
        self.turn_seconds.observe(took.as_secs_f64());
    }

    /// A turn has this for other stores.
    pub fn sending(
        &self,
        messages: &[RangeMessage],
        heartbeats: &[Heartbeats],
        snapshots: &[SnapshotMessage],
    ) {
        self.peer_messages.inc_by(messages.len() as u64);
        self.peer_heartbeats.inc_by(heartbeats.len() as u64);
        self.peer_snapshots.inc_by(snapshots.len() as u64);
    }

    /// Replies could not be delivered.
    pub fn lost(&self, replies: usize) {
        self.lost_replies.inc_by(replies as u64);
    }

    /// Shows what the workers of the store have done and hold, all together.
    pub fn show<'a>(&self, workers: impl Iterator<Item = &'a Shown>) {
        let mut all = Shown::default();
        workers.for_each(|worker| all.add(worker));
        self.show_stats(all.stats);
        self.show_refusals(all.refusals);
        self.state_bytes.set(all.state_bytes as i64);
        self.state_limit_bytes.set(all.state_limit_bytes as i64);
        self.ranges_led.set(all.ranges_led as i64);
        self.replicas_behind.set(all.replicas_behind as i64);
        self.locks.set(all.locks as i64);
        self.holds.set(all.holds as i64);
        self.waiters.set(all.waiters as i64);
        self.log_entries.set(all.log_entries as i64);
        self.unflushed_entries.set(all.unflushed_entries as i64);
        self.replicas.set(all.replicas as i64);
        self.snapshots.show(&all.snapshots);
        follow(&self.mailbox_refusals, all.mailbox_refusals);
        self.busiest.show(&Busy::most(all.busiest.into_iter(), BUSIEST_MAX));
    }

    fn show_refusals(&self, refusals: MemoryRefusals) {
        let MemoryRefusals { store, address, session, prefix } = refusals;
        follow_each(
            &self.refusals,
            [
                ("STORE_FULL", store),
                ("ADDRESS_FULL", address),
                ("SESSION_FULL", session),
                ("PREFIX_FULL", prefix),
            ],
        );
    }

    fn show_expiries(&self, expiries: ExpiryCounts) {
        let ExpiryCounts { hold, waiter, max_hold, asked, orphaned } = expiries;
        follow_each(
            &self.expiries,
            [
                ("hold", hold),
                ("waiter", waiter),
                ("max_hold", max_hold),
                ("asked", asked),
                ("orphaned", orphaned),
            ],
        );
    }

    fn show_splits(&self, splits: SplitCounts) {
        let SplitCounts { operator, locks, bytes, waiters, commands } = splits;
        follow_each(
            &self.splits,
            [
                ("operator", operator),
                ("locks", locks),
                ("bytes", bytes),
                ("waiters", waiters),
                ("commands", commands),
            ],
        );
    }

    fn show_stats(&self, stats: WorkerStats) {
        follow(&self.entries, stats.entries);
        follow(&self.commands, stats.commands);
        follow(&self.grants, stats.grants);
        self.show_expiries(stats.expiries);
        follow(&self.wait_timeouts, stats.wait_timeouts);
        follow(&self.keepalive_items, stats.keepalive_items);
        follow(&self.withdrawals, stats.withdrawals);
        follow(&self.stale_requests, stats.stale_requests);
        follow(&self.moved, stats.moved);
        follow(&self.overloads, stats.overloads);
        follow(&self.stalls, stats.stalls);
        follow(&self.promotions, stats.promotions);
        self.show_splits(stats.splits);
        follow(&self.split_refusals, stats.split_refusals);
    }
}

/// Counters of workers are totals already; the metric follows them.
fn follow(metric: &GenericCounter<AtomicU64>, total: u64) {
    metric.inc_by(total.saturating_sub(metric.get()));
}

pub(super) fn follow_each<const N: usize>(metrics: &IntCounterVec, totals: [(&str, u64); N]) {
    for (label, total) in totals {
        follow(&metrics.with_label_values(&[label]), total);
    }
}
