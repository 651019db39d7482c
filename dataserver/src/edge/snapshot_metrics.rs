//! The metrics of snapshots.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use sharklock_multiraft::{EndCounts, SnapshotStats, WhyEnded};

use crate::edge::metrics::follow_each;

/// What becomes of snapshots, by the reason that ended them.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    sent: IntCounterVec,
    received: IntCounterVec,
    refused: IntCounterVec,
    bytes: IntCounterVec,
    under_way: IntGaugeVec,
}

impl Snapshots {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, by: &str| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[by])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let under_way = IntGaugeVec::new(
            Opts::new(
                "sharklock_snapshots_under_way",
                "Snapshots on their way from this store and to it, and replicas elsewhere that wait \
                 for a place to be sent one.",
            ),
            &["what"],
        )?;
        registry.register(Box::new(under_way.clone()))?;
        Ok(Self {
            sent: counters(
                "sharklock_snapshots_sent_total",
                "Snapshots begun to send, by their end: delivered, or why not.",
                "result",
            )?,
            received: counters(
                "sharklock_snapshots_received_total",
                "Snapshots taken in, by their end: installed, or why not.",
                "result",
            )?,
            refused: counters(
                "sharklock_snapshots_refused_total",
                "Snapshots that this store did not take in when they were offered, by reason.",
                "reason",
            )?,
            bytes: counters(
                "sharklock_snapshot_bytes_total",
                "Bytes of snapshots sent and received, what was sent again among them.",
                "direction",
            )?,
            under_way,
        })
    }

    pub(super) fn show(&self, stats: &SnapshotStats) {
        let of = |counts: &EndCounts| WhyEnded::ALL.map(|why| (why.label(), counts.of(why)));
        follow_each(&self.sent, of(&stats.failed));
        follow_each(&self.sent, [("delivered", stats.delivered)]);
        follow_each(&self.received, of(&stats.abandoned));
        follow_each(&self.received, [("installed", stats.installed)]);
        follow_each(&self.refused, of(&stats.refused));
        let bytes = [("sent", stats.bytes_sent), ("received", stats.bytes_received)];
        follow_each(&self.bytes, bytes);
        let SnapshotStats { sending, receiving, waiting, .. } = *stats;
        for (what, count) in [("sending", sending), ("receiving", receiving), ("waiting", waiting)]
        {
            self.under_way.with_label_values(&[what]).set(count as i64);
        }
    }
}
