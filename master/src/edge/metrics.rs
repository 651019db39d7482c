//! The master's Prometheus metrics (D19).

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::core::{MasterCore, OperatorCounts};

/// Every metric of one master.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_seconds: Histogram,
    requests: IntCounter,
    leads: IntGauge,
    stores: IntGauge,
    ranges: IntGauge,
    operators: IntGauge,
    operators_begun: IntCounterVec,
    operators_ended: IntCounterVec,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let buckets = prometheus::exponential_buckets(0.000_032, 2.0, 18)?;
        let name = "sharklock_master_sync_seconds";
        let help = "Durable writes to the master's disk, by how long each took.";
        let sync_seconds = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
        registry.register(Box::new(sync_seconds.clone()))?;
        let counters = |name: &str, help: &str, by: &str| -> Result<_, prometheus::Error> {
            let counters = IntCounterVec::new(Opts::new(name, help), &[by])?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let requests =
            IntCounter::new("sharklock_master_requests_total", "Requests that this master got.")?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            sync_seconds,
            requests,
            leads: gauge("sharklock_master_leads", "1 while this master leads, else 0.")?,
            stores: gauge(
                "sharklock_master_stores",
                "Stores of the cluster, by the leading master; 0 at the others.",
            )?,
            ranges: gauge(
                "sharklock_master_ranges",
                "Ranges of the cluster, by the leading master; 0 at the others.",
            )?,
            operators: gauge(
                "sharklock_master_operators",
                "Operators that run, by the leading master; 0 at the others.",
            )?,
            operators_begun: counters(
                "sharklock_master_operators_begun_total",
                "Operators that began while this master led, by who wanted them: somebody has ordered \
                 them, or the masters' own schedule.",
                "by",
            )?,
            operators_ended: counters(
                "sharklock_master_operators_ended_total",
                "Operators that ended while this master led, by how: done, cancelled, timed out, or off, \
                 since their range had become another.",
                "end",
            )?,
        })
    }

    /// A durable write has ended.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// Somebody asked.
    pub fn asked(&self) {
        self.requests.inc();
    }

    /// Shows what a master knows.
    pub fn show(&self, core: &MasterCore) {
        // The others know them as well: whoever adds up the masters would count them again.
        let leads = core.leads();
        let count = |count: usize| if leads { i64::try_from(count).unwrap_or(i64::MAX) } else { 0 };
        self.leads.set(i64::from(leads));
        self.stores.set(count(core.state().stores().len()));
        self.ranges.set(count(core.state().ranges().len()));
        self.operators.set(count(core.state().operators().running().count()));
        let OperatorCounts { ordered, scheduled, done, cancelled, timed_out, off } =
            core.operator_counts();
        follow(&self.operators_begun, [("order", ordered), ("schedule", scheduled)]);
        let ends =
            [("done", done), ("cancelled", cancelled), ("timed_out", timed_out), ("off", off)];
        follow(&self.operators_ended, ends);
    }
}

/// The core's counts are totals already; the metrics follow them.
fn follow<const N: usize>(metrics: &IntCounterVec, totals: [(&str, u64); N]) {
    for (label, total) in totals {
        let counter = metrics.with_label_values(&[label]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
