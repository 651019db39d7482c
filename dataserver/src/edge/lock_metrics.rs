//! Histograms of what happens to single locks and entries: fed by each turn with what it has observed.

use std::time::{Duration, Instant};

use prometheus::{Histogram, HistogramOpts, Registry, exponential_buckets};
use sharklock_multiraft::ApplyMeter;

use crate::observed::Observed;

/// See the module. Each worker observes into the same.
#[derive(Clone, Debug)]
pub struct LockHistograms {
    waits: Histogram,
    holds: Histogram,
    hand_overs: Histogram,
    places: Histogram,
    commits: Histogram,
    applies: Histogram,
    mailbox_calls: Histogram,
}

impl LockHistograms {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = |name: &str, help: &str, buckets: Result<Vec<f64>, _>| {
            let opts = HistogramOpts::new(name, help).buckets(buckets?);
            let histogram = Histogram::with_opts(opts)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        // From a millisecond to more than an hour: people wait and hold for as long as they like.
        let long = || exponential_buckets(0.001, 3.0, 15);
        let short = || exponential_buckets(0.000_1, 2.0, 17);
        let counts = || exponential_buckets(1.0, 2.0, 17);
        Ok(Self {
            waits: make(
                "sharklock_lock_wait_seconds",
                "Grants from the queues of locks, by how long each was waited for. Without those whose \
                 waiters came under an earlier leader, or in another range before a split.",
                long(),
            )?,
            holds: make(
                "sharklock_lock_hold_seconds",
                "Holds that ended, by how long each was held. Without those that were granted under an \
                 earlier leader or in another range before a split, and without orphans.",
                long(),
            )?,
            hand_overs: make(
                "sharklock_lock_hand_over_seconds",
                "Grants from the queues of locks that a release or another call led to, by how long after \
                 its receipt.",
                short(),
            )?,
            places: make(
                "sharklock_lock_queue_length",
                "Acquisitions that began to wait, by their places in the queues of their locks: 1 is next.",
                counts(),
            )?,
            commits: make(
                "sharklock_range_commit_seconds",
                "Raft entries proposed by the leaders here, by how long each took to be applied here.",
                short(),
            )?,
            applies: make(
                "sharklock_store_apply_seconds",
                "Committed entries that replicas on this store applied in one go, by how long that took.",
                exponential_buckets(0.000_001, 2.0, 20),
            )?,
            mailbox_calls: make(
                "sharklock_store_mailbox_calls",
                "Turns of the raft workers that found calls in the mailbox, by how many.",
                counts(),
            )?,
        })
    }

    /// A turn has observed this.
    pub fn observe(&self, observed: &Observed) {
        let Observed { waits, holds, hand_overs, commits, places, spans: _ } = observed;
        for (durations, histogram) in [
            (waits, &self.waits),
            (holds, &self.holds),
            (hand_overs, &self.hand_overs),
            (commits, &self.commits),
        ] {
            durations.iter().for_each(|it| histogram.observe(it.as_secs_f64()));
        }
        places.iter().for_each(|place| self.places.observe(f64::from(*place)));
    }

    /// A turn begins with so many calls.
    pub fn found(&self, calls: usize) {
        if calls > 0 {
            self.mailbox_calls.observe(calls as f64);
        }
    }

    /// Measures how long entries take to be applied.
    pub fn apply_meter(&self) -> ApplyTimes {
        #[expect(clippy::disallowed_methods, reason = "an edge: it measures")]
        let started = Instant::now();
        ApplyTimes { applies: self.applies.clone(), started }
    }
}

/// See [`LockHistograms::apply_meter`].
#[derive(Debug)]
pub struct ApplyTimes {
    applies: Histogram,
    started: Instant,
}

impl ApplyMeter for ApplyTimes {
    fn begins(&self) -> Duration {
        self.started.elapsed()
    }

    fn ends(&self, begun: Duration) {
        self.applies.observe(self.started.elapsed().saturating_sub(begun).as_secs_f64());
    }
}
