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
        let help = "Durable writes to the master's disk, by how long each took.";
        let sync_seconds = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
        registry.register(Box::new(sync_seconds.clone()))?;
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
    }
}
