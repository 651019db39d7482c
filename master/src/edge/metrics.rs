//! The master's Prometheus metrics (D19).

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use crate::core::MasterCore;

/// Every metric of one master.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_seconds: Histogram,
    requests: IntCounter,
    leads: IntGauge,
    stores: IntGauge,
    ranges: IntGauge,
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
        let help = "Durations of durable writes of the master's disk.";
        let sync_seconds = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
        registry.register(Box::new(sync_seconds.clone()))?;
        let requests =
            IntCounter::new("sharklock_master_requests_total", "Requests to this master.")?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            sync_seconds,
            requests,
            leads: gauge("sharklock_master_leads", "1 while this master leads.")?,
            stores: gauge("sharklock_master_stores", "Stores that have registered.")?,
            ranges: gauge("sharklock_master_ranges", "Ranges that the masters know.")?,
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
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.leads.set(i64::from(core.leads()));
        self.stores.set(count(core.state().stores().len()));
        self.ranges.set(count(core.state().ranges().len()));
    }
}
