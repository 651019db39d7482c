//! The counters of the gateway. No label ever holds a lock name or anything of a session.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use sharklock_proto::{CallKind, Unanswered};
use tokio::time::Instant;

use crate::{failure::Reason, outbox::Settled};

/// From a call that is answered out of memory to one that waits for a failover, seconds.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// See the module. Cheap to use: the metrics of the hot path are looked up once.
pub(super) struct Metrics {
    started: IntCounterVec,
    handled: IntCounterVec,
    handling: HistogramVec,
    /// In the order of [`CallKind::ALL`]; none of what nobody waits for.
    calls: Vec<Option<Histogram>>,
    /// In the order of [`Reason::ALL`].
    failures: Vec<IntCounter>,
    pub(super) calls_open: IntGauge,
    pub(super) streams: IntGauge,
    pub(super) outbox_bytes: IntGauge,
    pub(super) events: IntCounter,
    pub(super) events_dropped: IntCounter,
    pub(super) overruns: IntCounter,
    pub(super) late_replies: IntCounter,
    pub(super) stalls: IntCounter,
    pub(super) keepalive_batches: IntCounter,
    pub(super) sent_again: IntCounter,
    pub(super) keepalive_items: IntGauge,
    pub(super) connections: IntGauge,
    connections_refused: IntCounterVec,
    connections_given_up: IntCounter,
    calls_refused: IntCounterVec,
    streams_refused: IntCounterVec,
    streams_ended: IntCounterVec,
    pub(super) unread_bytes: IntGauge,
    pub(super) ready: IntGauge,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let rpc = ["grpc_type", "grpc_service", "grpc_method"];
        let rpc_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let make = Make { registry };
        let calls = make.histograms(
            "sharklock_gateway_call_seconds",
            "Time from a call's arrival until its answer, by call.",
            &["call"],
        )?;
        let failures = make.counters(
            "sharklock_gateway_failures_total",
            "Calls that were answered with an error, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            started: make.counters("grpc_server_started_total", "RPCs begun.", &rpc)?,
            handled: make.counters(
                "grpc_server_handled_total",
                "RPCs ended, by code.",
                &rpc_code,
            )?,
            handling: make.histograms("grpc_server_handling_seconds", "Time of RPCs.", &rpc)?,
            calls: CallKind::ALL
                .iter()
                .map(|kind| {
                    let is_answered = kind.unanswered() != Unanswered::Nothing;
                    is_answered.then(|| calls.with_label_values(&[kind.as_str()]))
                })
                .collect(),
            failures: Reason::ALL
                .iter()
                .map(|reason| failures.with_label_values(&[reason.as_str()]))
                .collect(),
            calls_open: make
                .gauge("sharklock_gateway_calls_open", "Calls that wait for a store.")?,
            streams: make
                .gauge("sharklock_gateway_streams", "Open Session streams and unary calls.")?,
            outbox_bytes: make.gauge(
                "sharklock_gateway_outbox_bytes",
                "Answers that wait until their clients read.",
            )?,
            events: make.counter("sharklock_gateway_events_total", "Events that stores pushed.")?,
            events_dropped: make.counter(
                "sharklock_gateway_events_dropped_total",
                "Events whose stream was gone or too far behind; keepalives tell the same.",
            )?,
            overruns: make.counter(
                "sharklock_gateway_overruns_total",
                "Streams that were ended since their clients did not read.",
            )?,
            late_replies: make.counter(
                "sharklock_gateway_late_replies_total",
                "Replies whose call or stream was gone.",
            )?,
            stalls: make.counter(
                "sharklock_gateway_stalls_total",
                "Times the gateway stood still for over a second; what waited meanwhile counts as old.",
            )?,
            keepalive_batches: make
                .counter("sharklock_gateway_keepalive_batches_total", "Keepalive batches sent.")?,
            sent_again: make.counter(
                "sharklock_gateway_sent_again_total",
                "Calls that one store did not do and that were sent to another at once.",
            )?,
            keepalive_items: make.gauge(
                "sharklock_gateway_keepalive_items",
                "Keepalive items that wait to be sent or answered.",
            )?,
            connections: make.gauge("sharklock_gateway_connections", "Open connections.")?,
            connections_refused: make.counters(
                "sharklock_gateway_connections_refused_total",
                "Connections closed at once, by the limit they hit.",
                &["limit"],
            )?,
            connections_given_up: make.counter(
                "sharklock_gateway_connections_given_up_total",
                "Connections closed since their clients did not read.",
            )?,
            calls_refused: make.counters(
                "sharklock_gateway_calls_refused_total",
                "Unary calls refused for what was open or unread already, by whose limit they hit.",
                &["limit"],
            )?,
            streams_refused: make.counters(
                "sharklock_gateway_streams_refused_total",
                "Session streams refused, by whose limit they hit.",
                &["limit"],
            )?,
            streams_ended: make.counters(
                "sharklock_gateway_streams_ended_total",
                "Session streams ended: silent, or displaced by a newcomer.",
                &["why"],
            )?,
            unread_bytes: make.gauge(
                "sharklock_gateway_unread_bytes",
                "Answers handed to HTTP/2 that clients have not taken.",
            )?,
            ready: make.gauge("sharklock_gateway_ready", "Whether every name has a route, and a store answers.")?,
        })
    }

    pub(super) fn settled(&self, settled: Settled, now_us: u64) {
        let seconds = now_us.saturating_sub(settled.opened_us) as f64 / 1e6;
        let histogram = self.calls[settled.kind as usize].as_ref();
        histogram.expect("only what somebody waits for is settled").observe(seconds);
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.failures[reason as usize].inc();
    }

    pub(super) fn connection_refused(&self, limit: &str) {
        self.connections_refused.with_label_values(&[limit]).inc();
    }

    pub(super) fn connection_given_up(&self) {
        self.connections_given_up.inc();
    }

    pub(super) fn call_refused(&self, limit: &str) {
        self.calls_refused.with_label_values(&[limit]).inc();
    }

    pub(super) fn stream_refused(&self, limit: &str) {
        self.streams_refused.with_label_values(&[limit]).inc();
    }

    pub(super) fn stream_ended(&self, why: &str) {
        self.streams_ended.with_label_values(&[why]).inc();
    }

    /// Counts an RPC from now until the returned value is dropped.
    pub(super) fn rpc(self: &Arc<Self>, rpc: Rpc) -> RpcTimer {
        self.started.with_label_values(&rpc.labels()).inc();
        // A future that is dropped was given up by its client.
        RpcTimer { metrics: self.clone(), rpc, begun: Instant::now(), code: tonic::Code::Cancelled }
    }
}

/// An RPC as metrics name it.
#[derive(Clone, Copy)]
pub(super) struct Rpc {
    pub(super) form: &'static str,
    pub(super) service: &'static str,
    pub(super) method: &'static str,
}

impl Rpc {
    fn labels(&self) -> [&'static str; 3] {
        [self.form, self.service, self.method]
    }
}

/// Counts the end of an RPC when dropped.
pub(super) struct RpcTimer {
    metrics: Arc<Metrics>,
    rpc: Rpc,
    begun: Instant,
    code: tonic::Code,
}

impl RpcTimer {
    pub(super) fn set_code(&mut self, code: tonic::Code) {
        self.code = code;
    }
}

impl Drop for RpcTimer {
    fn drop(&mut self) {
        let [form, service, method] = self.rpc.labels();
        let code = match self.code {
            tonic::Code::Ok => "OK".to_owned(),
            // As etcd's dashboards spell it.
            tonic::Code::Cancelled => "Canceled".to_owned(),
            code => format!("{code:?}"),
        };
        self.metrics.handled.with_label_values(&[form, service, method, &code]).inc();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.handling.with_label_values(&[form, service, method]).observe(seconds);
    }
}

struct Make<'a> {
    registry: &'a Registry,
}

impl Make<'_> {
    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        let counter = IntCounter::new(name, help)?;
        self.registry.register(Box::new(counter.clone()))?;
        Ok(counter)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.registry.register(Box::new(counters.clone()))?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        let gauge = IntGauge::new(name, help)?;
        self.registry.register(Box::new(gauge.clone()))?;
        Ok(gauge)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let histograms = HistogramVec::new(opts, labels)?;
        self.registry.register(Box::new(histograms.clone()))?;
        Ok(histograms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_reasons_are_counted_under_their_own_names() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("the names are distinct");
        for &kind in CallKind::ALL {
            let Some(histogram) = &metrics.calls[kind as usize] else {
                assert_eq!(kind.unanswered(), Unanswered::Nothing);
                continue;
            };
            metrics.settled(Settled { kind, opened_us: 0 }, 10);
            assert_eq!(histogram.get_sample_count(), 1, "{kind:?} is out of order in ALL");
        }
        for reason in Reason::ALL {
            metrics.failed(*reason);
            assert_eq!(metrics.failures[*reason as usize].get(), 1, "{reason:?}");
        }
    }
}
