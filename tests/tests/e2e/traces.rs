//! Traces: one acquire is one trace, from its client over gateway and store to the apply, and into the
//! queue of its lock. Spans come to a collector of our own, over the wire.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use sharklock_proto::v1::lock_service_client::LockServiceClient;
use sharklock_tests::cluster::{Cluster, SOON};
use sharklock_tests::process::{Process, command};
use sharklock_tests::wait::eventually;
use sharklock_tests::wire::Session;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

/// Whoever traces these calls, as the header says it.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// An OTLP collector that keeps everything.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let all = request.into_inner().resource_spans.into_iter();
        let spans = all.flat_map(|it| it.scope_spans).flat_map(|it| it.spans);
        self.0.lock().expect("no test panics here").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// One that serves, and its URL.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, url)
    }

    /// The spans of this trace so far.
    fn of(&self, trace: &str) -> Vec<Span> {
        let spans = self.0.lock().expect("no test panics here");
        spans.iter().filter(|span| hex(&span.trace_id) == trace).cloned().collect()
    }

    /// The spans of the trace, once all of these have come.
    async fn until(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        eventually(&format!("{names:?} of trace {trace}"), SOON, async || {
            let spans = self.of(trace);
            let have: BTreeSet<_> = spans.iter().map(|span| span.name.as_str()).collect();
            names.iter().all(|name| have.contains(name)).then_some(spans)
        })
        .await
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut named = spans.iter().filter(|span| span.name == name);
    let found = named.next().unwrap_or_else(|| panic!("no {name} in {spans:#?}"));
    assert!(named.next().is_none(), "{name} is there twice: {spans:#?}");
    found
}

/// The word that a span has under this key.
fn word(span: &Span, key: &str) -> String {
    let attribute = span.attributes.iter().find(|it| it.key == key);
    let value = attribute.and_then(|it| it.value.as_ref()).and_then(|it| it.value.as_ref());
    match value {
        Some(Value::StringValue(word)) => word.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} of {}: {other:?}", span.name),
    }
}

/// Each span lies below the one that the table says, and none lasts for less than nothing.
fn assert_parents(spans: &[Span], parents: &[(&str, &str)]) {
    for (name, above) in parents {
        let span = only(spans, name);
        let expected = match spans.iter().find(|span| span.name == *above) {
            Some(above) => hex(&above.span_id),
            None => (*above).to_owned(),
        };
        assert_eq!(hex(&span.parent_span_id), expected, "{name} is below {above}: {spans:#?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:#?}");
    }
}

const STORE: [&str; 4] = ["store.acquire", "store.queue", "store.commit", "store.apply"];

/// They trace what callers trace, and nothing else.
async fn three_nodes(url: &str) -> Cluster {
    let settings = format!("[trace]\notlp = \"{url}\"\nevery = \"off\"\n");
    let cluster = Cluster::start(3, &settings).await;
    cluster.until_healthy().await;
    cluster
}

/// `sharklock lock`, traced by whoever runs it.
fn lock(cluster: &Cluster, url: &str, name: &str) -> Process {
    let mut lock = command(["lock", name, "--trace-otlp", url, "--", "true"]);
    lock.env("SHARKLOCK_ENDPOINTS", cluster.endpoints().join(","));
    lock.env("TRACEPARENT", format!("00-{TRACE}-{CALLER}-01"));
    Process::spawn(&mut lock)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_is_one_trace_from_its_client_to_the_apply() {
    let _alone = crate::alone().await;
    let (collector, url) = Collector::start().await;
    let cluster = three_nodes(&url).await;
    let mut locking = lock(&cluster, &url, "traced/free");
    let status = locking.ends(SOON).await;
    assert!(status.success(), "{}", locking.stderr());
    let names = [&STORE[..], &["client.acquire", "gateway.acquire"]].concat();
    let spans = collector.until(TRACE, &names).await;
    assert_parents(
        &spans,
        &[
            ("client.acquire", CALLER),
            ("gateway.acquire", "client.acquire"),
            ("store.acquire", "gateway.acquire"),
            ("store.queue", "store.acquire"),
            ("store.commit", "store.acquire"),
            ("store.apply", "store.acquire"),
        ],
    );
    assert_eq!(spans.len(), names.len(), "{spans:#?}");
    assert_eq!(word(only(&spans, "client.acquire"), "outcome"), "granted");
    assert_eq!(word(only(&spans, "store.acquire"), "outcome"), "granted");
    assert_eq!(word(only(&spans, "store.acquire"), "range"), "1");
    // Its time in the queue of commands, then that of the commit, then the apply.
    let [queue, commit, apply] =
        ["store.queue", "store.commit", "store.apply"].map(|it| only(&spans, it));
    assert!(queue.end_time_unix_nano <= commit.end_time_unix_nano, "{spans:#?}");
    assert!(commit.start_time_unix_nano <= apply.start_time_unix_nano, "{spans:#?}");
    // Clocks of one machine: whoever waits for an answer does so until it has been sent.
    let [whole, gateway] = ["store.acquire", "gateway.acquire"].map(|it| only(&spans, it));
    for of_store in [apply, whole] {
        assert!(of_store.end_time_unix_nano <= gateway.end_time_unix_nano, "{spans:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_in_a_locks_queue_is_a_part_of_its_trace() {
    let _alone = crate::alone().await;
    let (collector, url) = Collector::start().await;
    let cluster = three_nodes(&url).await;
    let client = cluster.client();
    let guard = client.lock("traced/held").acquire().await.expect("it is free");
    let mut waiting = lock(&cluster, &url, "traced/held");
    collector.until(TRACE, &["store.acquire"]).await;
    assert!(waiting.ended().is_none(), "the lock is held");
    guard.release().await.expect("it is released");
    assert!(waiting.ends(SOON).await.success(), "{}", waiting.stderr());
    let spans = collector.until(TRACE, &["lock.wait", "client.acquire"]).await;
    assert_parents(&spans, &[("lock.wait", "store.acquire"), ("client.acquire", CALLER)]);
    assert_eq!(word(only(&spans, "store.acquire"), "outcome"), "queued");
    assert_eq!(word(only(&spans, "lock.wait"), "outcome"), "granted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_traceparent_is_taken_from_the_metadata_and_only_if_somebody_keeps_it() {
    let _alone = crate::alone().await;
    let (collector, url) = Collector::start().await;
    let cluster = three_nodes(&url).await;
    let channel = Channel::from_shared(cluster.endpoint(0)).expect("an address");
    let channel = channel.connect().await.expect("the gateway accepts connections");
    let mut locks = LockServiceClient::new(channel);
    let quiet = "5bf92f3577b34da6a3ce929d0e0e4736";
    let untraced = Request::new(Session::default().acquire("traced/by-nobody"));
    locks.acquire(untraced).await.expect("it is served");
    for (trace, flags) in [(quiet, "00"), (TRACE, "01")] {
        let mut request = Request::new(Session::default().acquire(&format!("traced/{flags}")));
        let said = format!("00-{trace}-{CALLER}-{flags}").parse().expect("it is ASCII");
        request.metadata_mut().insert("traceparent", said);
        locks.acquire(request).await.expect("it is served");
    }
    let spans = collector.until(TRACE, &[&STORE[..], &["gateway.acquire"]].concat()).await;
    assert_parents(&spans, &[("gateway.acquire", CALLER), ("store.acquire", "gateway.acquire")]);
    assert!(collector.of(quiet).is_empty(), "nobody keeps that trace");
    // Nor does an acquire that nobody traces begin one by itself: these settings turn that off.
    let all = collector.0.lock().expect("no test panics here").clone();
    assert!(all.iter().all(|span| hex(&span.trace_id) == TRACE), "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_acquires_that_nobody_traces_get_a_trace_if_the_settings_say_so() {
    let _alone = crate::alone().await;
    let (collector, url) = Collector::start().await;
    let settings = format!("[cluster]\nreplicas = 1\n[trace]\notlp = \"{url}\"\nevery = 1\n");
    let cluster = Cluster::start(1, &settings).await;
    let client = cluster.client();
    let guard = client.lock("traced/by-the-gateway").acquire().await.expect("it is free");
    guard.release().await.expect("it is released");
    eventually("a trace of the gateway's own", SOON, async || {
        let spans = collector.0.lock().expect("no test panics here").clone();
        let gateway = spans.iter().find(|span| span.name == "gateway.acquire")?;
        assert!(gateway.parent_span_id.iter().all(|byte| *byte == 0), "{gateway:#?}");
        let store = spans.iter().find(|span| span.name == "store.acquire")?;
        assert_eq!(store.parent_span_id, gateway.span_id);
        assert_eq!(store.trace_id, gateway.trace_id);
        Some(())
    })
    .await;
}
