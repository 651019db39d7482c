//! The counters of the gateway. No label ever holds a lock name or anything of a session.

use std::sync::Arc;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use sharklock_proto::{CallKind, Unanswered};
use tokio::time::Instant;

use super::audit::{Order, Outcome};
use crate::{failure::Reason, observer::RouteMiss, outbox::Settled};

/// From a call that is answered out of memory to one that waits for a failover, seconds.
const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// See the module. Cheap to use: the metrics of the hot path are looked up once.
pub(super) struct Metrics {
    started: IntCounterVec,
    handled: IntCounterVec,
    handling: HistogramVec,
    /// In the order of [`CallKind::ALL`]; none of what is not [timed](is_timed).
    calls: Vec<Option<Histogram>>,
    /// In the order of [`Reason::ALL`].
    failures: Vec<IntCounter>,
    force_releases: IntCounterVec,
    revocations: IntCounterVec,
    orders: IntCounterVec,
    /// In the order of [`RouteMiss::ALL`].
    route_misses: Vec<IntCounter>,
    keepalive_repetitions: IntCounter,
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
            "Calls over Session streams and alone, by the time from their arrival until their answer. An \
             acquire is answered when it is granted or queued. Without watch_lock, which waits for news.",
            &["call"],
        )?;
        let failures = make.counters(
            "sharklock_gateway_failures_total",
            "Calls and streams answered with an error, by reason. What the gateway repeats by itself counts \
             once.",
            &["reason"],
        )?;
        let orders = make.counters(
            "sharklock_gateway_orders_total",
            "Orders of operators about ranges, stores, masters and the schedule, without dry runs, by \
             outcome: accepted, refused, or unknown.",
            &["order", "outcome"],
        )?;
        for order in Order::ALL {
            for outcome in Order::OUTCOMES {
                orders.with_label_values(&[order.name(), outcome]);
            }
        }
        let route_misses = make.counters(
            "sharklock_gateway_route_misses_total",
            "Calls that did not go where their ranges are, each time, by why: the store did not lead, the \
             range had moved, or this gateway knew none.",
            &["reason"],
        )?;
        Ok(Self {
            started: make.counters(
                "grpc_server_started_total",
                "RPCs of clients begun at this gateway, streams among them.",
                &rpc,
            )?,
            handled: make.counters(
                "grpc_server_handled_total",
                "RPCs of clients ended at this gateway, streams among them, by code.",
                &rpc_code,
            )?,
            handling: make.histograms(
                "grpc_server_handling_seconds",
                "RPCs of clients at this gateway, by how long each took. Without those that last as \
                 long as their clients like: Session, WatchLock, Reclaim, and an Acquire that may \
                 wait.",
                &rpc,
            )?,
            calls: CallKind::ALL
                .iter()
                .map(|kind| is_timed(*kind).then(|| calls.with_label_values(&[kind.as_str()])))
                .collect(),
            failures: Reason::ALL
                .iter()
                .map(|reason| failures.with_label_values(&[reason.as_str()]))
                .collect(),
            force_releases: make.counters_of(
                "sharklock_gateway_force_releases_total",
                "Forced releases that operators asked for, by outcome: ended at once, ending when the \
                 holders have stopped or their leases have run out, nothing was held, refused, or \
                 unknown.",
                "outcome",
                &Outcome::ALL.map(Outcome::name),
            )?,
            revocations: make.counters_of(
                "sharklock_gateway_revocations_total",
                "Pages of revocations of sessions that operators asked for, by outcome: ended at once, \
                 ending when the holders have stopped or their leases have run out, nothing was held, \
                 refused, or unknown.",
                "outcome",
                &Outcome::ALL.map(Outcome::name),
            )?,
            orders,
            route_misses: RouteMiss::ALL
                .iter()
                .map(|why| route_misses.with_label_values(&[why.as_str()]))
                .collect(),
            keepalive_repetitions: make.counter(
                "sharklock_gateway_keepalive_repetitions_total",
                "Keepalive items sent again since a store did not do them or its link was lost.",
            )?,
            calls_open: make
                .gauge("sharklock_gateway_calls_open", "Calls that wait for a store.")?,
            streams: make.gauge(
                "sharklock_gateway_streams",
                "Open Session streams, and unary calls that are being answered.",
            )?,
            outbox_bytes: make.gauge(
                "sharklock_gateway_outbox_bytes",
                "Bytes of answers that wait until their clients read.",
            )?,
            events: make.counter("sharklock_gateway_events_total", "Events that stores pushed.")?,
            events_dropped: make.counter(
                "sharklock_gateway_events_dropped_total",
                "Events whose stream was gone or too far behind; keepalives tell the same.",
            )?,
            overruns: make.counter(
                "sharklock_gateway_overruns_total",
                "Session streams that were ended since their clients did not read.",
            )?,
            late_replies: make.counter(
                "sharklock_gateway_late_replies_total",
                "Replies whose call or stream was gone.",
            )?,
            stalls: make.counter(
                "sharklock_gateway_stalls_total",
                "Times the gateway stood still for over a second; what waited meanwhile counts as old.",
            )?,
            keepalive_batches: make.counter(
                "sharklock_gateway_keepalive_batches_total",
                "Batches of keepalives sent to stores.",
            )?,
            sent_again: make.counter(
                "sharklock_gateway_sent_again_total",
                "Calls that one store did not do and that were sent to another at once.",
            )?,
            keepalive_items: make.gauge(
                "sharklock_gateway_keepalive_items",
                "Keepalive items that wait to be sent or answered.",
            )?,
            connections: make
                .gauge("sharklock_gateway_connections", "Open connections of clients.")?,
            connections_refused: make.counters_of(
                "sharklock_gateway_connections_refused_total",
                "Connections of clients closed at once, by whose limit they hit.",
                "limit",
                &["gateway", "address"],
            )?,
            connections_given_up: make.counter(
                "sharklock_gateway_connections_given_up_total",
                "Connections closed since their clients did not read.",
            )?,
            calls_refused: make.counters_of(
                "sharklock_gateway_calls_refused_total",
                "Unary calls refused for what was open or unread already, by whose limit they hit.",
                "limit",
                &["gateway", "address", "connection"],
            )?,
            streams_refused: make.counters_of(
                "sharklock_gateway_streams_refused_total",
                "Session streams refused, by whose limit they hit.",
                "limit",
                &["gateway", "address"],
            )?,
            streams_ended: make.counters_of(
                "sharklock_gateway_streams_ended_total",
                "Session streams that the gateway ended, by reason: silent, or displaced by a newcomer.",
                "reason",
                &["silent", "displaced"],
            )?,
            unread_bytes: make.gauge(
                "sharklock_gateway_unread_bytes",
                "Bytes of answers handed to HTTP/2 that clients have not taken.",
            )?,
            ready: make.gauge(
                "sharklock_gateway_ready",
                "1 while every name has a route and a store answers, else 0.",
            )?,
        })
    }

    pub(super) fn settled(&self, settled: Settled, now_us: u64) {
        let seconds = now_us.saturating_sub(settled.opened_us) as f64 / 1e6;
        if let Some(histogram) = &self.calls[settled.kind as usize] {
            histogram.observe(seconds);
        }
    }

    pub(super) fn failed(&self, reason: Reason) {
        self.failures[reason as usize].inc();
    }

    /// This came of an operator's wish that a lock be released by force.
    pub(super) fn force_released(&self, outcome: Outcome) {
        self.force_releases.with_label_values(&[outcome.name()]).inc();
    }

    /// This came of a page of an operator's revocation of a session.
    pub(super) fn revoked(&self, outcome: Outcome) {
        self.revocations.with_label_values(&[outcome.name()]).inc();
    }

    /// This came of another order.
    pub(super) fn ordered(&self, order: Order, outcome: &str) {
        self.orders.with_label_values(&[order.name(), outcome]).inc();
    }

    pub(super) fn route_missed(&self, why: RouteMiss) {
        self.route_misses[why as usize].inc();
    }

    /// So many keepalive items were sent again since the start.
    pub(super) fn repeated_so_far(&self, items: u64) {
        let counter = &self.keepalive_repetitions;
        counter.inc_by(items.saturating_sub(counter.get()));
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

    pub(super) fn stream_ended(&self, reason: &str) {
        self.streams_ended.with_label_values(&[reason]).inc();
    }

    /// Counts an RPC from now until the returned value is dropped.
    pub(super) fn rpc(self: &Arc<Self>, rpc: Rpc) -> RpcTimer {
        self.started.with_label_values(&rpc.labels()).inc();
        // A future that is dropped was given up by its client.
        RpcTimer { metrics: self.clone(), rpc, begun: Instant::now(), code: tonic::Code::Cancelled }
    }
}

/// Whether it says something of a server how long a call of this kind takes: nobody waits for some, and
/// a question for news takes as long as there are none.
fn is_timed(kind: CallKind) -> bool {
    kind.unanswered() != Unanswered::Nothing && kind != CallKind::WatchLock
}

/// An RPC as metrics name it.
#[derive(Clone, Copy)]
pub(super) struct Rpc {
    form: &'static str,
    service: &'static str,
    pub(super) method: &'static str,
    /// It lasts as long as its client likes, which says nothing of a server.
    is_long: bool,
}

impl Rpc {
    pub(super) fn unary(service: &'static str, method: &'static str) -> Self {
        Self { form: "unary", service, method, is_long: false }
    }

    pub(super) fn stream(service: &'static str, method: &'static str) -> Self {
        Self { form: "bidi_stream", service, method, is_long: true }
    }

    /// Where `waits`, its duration is not measured.
    pub(super) fn may_wait(self, waits: bool) -> Self {
        Self { is_long: waits, ..self }
    }

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
        if !self.rpc.is_long {
            let seconds = self.begun.elapsed().as_secs_f64();
            self.metrics.handling.with_label_values(&[form, service, method]).observe(seconds);
        }
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

    /// Counters by one label, all of whose values are known: each is there from the start, at 0.
    fn counters_of(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.counters(name, help, &[label])?;
        for value in values {
            counters.with_label_values(&[value]);
        }
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
    use std::collections::BTreeMap;

    use super::*;

    fn settled(kind: CallKind) -> Settled {
        Settled { kind, opened_us: 0, span: None, has_failed: false }
    }

    #[test]
    fn calls_and_reasons_are_counted_under_their_own_names() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("the names are distinct");
        for &kind in CallKind::ALL {
            let Some(histogram) = &metrics.calls[kind as usize] else {
                assert!(!is_timed(kind));
                metrics.settled(settled(kind), 10);
                continue;
            };
            metrics.settled(settled(kind), 10);
            assert_eq!(histogram.get_sample_count(), 1, "{kind:?} is out of order in ALL");
        }
        for reason in Reason::ALL {
            metrics.failed(*reason);
            assert_eq!(metrics.failures[*reason as usize].get(), 1, "{reason:?}");
        }
    }

    /// The labels of a family's metrics with their counts: of a counter its value, of a histogram its
    /// observations.
    fn counts(registry: &Registry, name: &str) -> BTreeMap<String, u64> {
        let families = registry.gather();
        let metrics = families.iter().filter(|it| it.name() == name).flat_map(|it| it.get_metric());
        let count = |metric: &prometheus::proto::Metric| {
            let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
            let counted = metric.get_counter().get_value() as u64;
            (labels.join(" "), counted + metric.get_histogram().get_sample_count())
        };
        metrics.map(count).collect()
    }

    #[test]
    fn what_lasts_as_long_as_its_client_likes_is_counted_and_not_timed() {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).expect("the names are distinct"));
        let unary = |method| Rpc::unary("S", method);
        drop(metrics.rpc(Rpc::stream("S", "Session")));
        drop(metrics.rpc(unary("WatchLock").may_wait(true)));
        drop(metrics.rpc(unary("Acquire").may_wait(true)));
        drop(metrics.rpc(unary("Acquire").may_wait(false)));
        drop(metrics.rpc(unary("GetLock")));
        let timed = counts(&registry, "grpc_server_handling_seconds");
        assert_eq!(
            timed,
            BTreeMap::from([("Acquire S unary".into(), 1), ("GetLock S unary".into(), 1)])
        );
        let ended = counts(&registry, "grpc_server_handled_total");
        assert_eq!(ended.values().sum::<u64>(), 5, "{ended:?}");
    }

    #[test]
    fn forced_releases_and_revocations_are_counted_by_what_became_of_them() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("the names are distinct");
        type Count = fn(&Metrics, Outcome);
        let releases: Count = Metrics::force_released;
        let revocations: Count = Metrics::revoked;
        let counters = [
            ("sharklock_gateway_force_releases_total", releases),
            ("sharklock_gateway_revocations_total", revocations),
        ];
        for (name, count) in counters {
            assert_eq!(
                counts(&registry, name).len(),
                Outcome::ALL.len(),
                "each is there from the start"
            );
            for (already, outcome) in Outcome::ALL.into_iter().enumerate() {
                count(&metrics, outcome);
                let counts = counts(&registry, name);
                assert_eq!(counts[outcome.name()], 1);
                assert_eq!(counts.values().sum::<u64>(), already as u64 + 1);
            }
        }
    }
}
