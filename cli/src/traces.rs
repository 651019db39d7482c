//! Spans leave the process here, over OTLP, in batches and in the background. No thread runs for it unless
//! the configuration names a collector.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::http::Uri;
use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind as OtlpKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};
use sharklock_proto::trace::{Note, Span, SpanKind, SpanSink, Spans};

use crate::exit::{CONFIG, Failure};

/// The name under which all processes of SharkLock appear in traces.
const SERVICE: &str = "sharklock";
/// How long a collector may take for a batch; more of it is dropped meanwhile.
const EXPORT_MAX: Duration = Duration::from_secs(5);

/// Reads the URL of a collector. It has no user and no password, since whoever asks a process for its
/// settings is shown it.
///
/// # Errors
/// What is wrong with it.
pub fn collector_url(url: &str) -> Result<String, String> {
    let is_place = url.parse::<Uri>().is_ok_and(|uri| {
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        let has_port = uri.port_u16().is_some_and(|port| port > 0);
        uri.scheme_str() == Some("http") && has_host && has_port && is_bare && !url.contains('@')
    });
    match is_place {
        true => Ok(url.to_owned()),
        false if url.contains('@') => Err("the URL must have no user and no password: \
            headers for the collector are taken from OTEL_EXPORTER_OTLP_HEADERS"
            .to_owned()),
        false => Err(format!(
            "{url:?}: expected http://HOST:PORT of an OTLP collector (gRPC), like \
             http://127.0.0.1:4317"
        )),
    }
}

/// The way of spans to a collector.
#[derive(Debug)]
pub struct Collector {
    sender: Arc<Sender>,
}

impl Collector {
    /// Sends to the collector at `url` (`http://HOST:PORT`, OTLP over gRPC) as the process `node`. To be
    /// called inside a tokio runtime; nothing is connected yet, and a collector that is not there costs
    /// spans and nothing else.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn at(url: &str, node: &str) -> Result<Self, Failure> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(url)
            .with_timeout(EXPORT_MAX)
            .build()
            .map_err(|why| Failure::new(CONFIG, "spans cannot be sent").cause(why))?;
        let exporter = Watched { exporter, fails: AtomicBool::new(false) };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder()
            .with_service_name(SERVICE)
            .with_attributes([
                KeyValue::new("service.instance.id", node.to_owned()),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder(SERVICE).build();
        Ok(Self { sender: Arc::new(Sender { processor, scope }) })
    }

    /// Where spans are handed to it.
    pub fn spans(&self) -> Spans {
        Spans::to(self.sink())
    }

    /// The same, for whoever keeps spans as well.
    pub fn sink(&self) -> Arc<dyn SpanSink> {
        Arc::clone(&self.sender) as Arc<dyn SpanSink>
    }

    /// Sends what is left, within `patience`. Blocks.
    pub fn finish(&self, patience: Duration) {
        if let Err(why) = self.sender.processor.shutdown_with_timeout(patience) {
            tracing::debug!(%why, "the last spans were not sent");
        }
    }
}

/// Says once when a collector takes no spans any more, and once when it does again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    fails: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        match (&result, self.fails.swap(result.is_err(), Ordering::Relaxed)) {
            (Err(why), false) => {
                tracing::warn!(%why, spans, "the collector takes no spans: they are dropped");
            }
            (Ok(()), true) => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, patience: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(patience)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[derive(Debug)]
struct Sender {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl SpanSink for Sender {
    fn take(&self, now: Duration, now_unix_ns: u64, spans: Vec<Span>) {
        let wall = |at: Duration| {
            let ago = now.saturating_sub(at);
            UNIX_EPOCH + Duration::from_nanos(now_unix_ns).saturating_sub(ago)
        };
        for span in spans {
            let (start, end) = (wall(span.begin), wall(span.end.unwrap_or(now)));
            self.processor.on_end(self.data(span, start, end));
        }
    }
}

impl Sender {
    fn data(&self, span: Span, start_time: SystemTime, end_time: SystemTime) -> SpanData {
        let Span { name, kind, context, parent, notes, has_failed, .. } = span;
        let attribute = |(key, note)| {
            let value = match note {
                Note::Number(number) => Value::I64(i64::try_from(number).unwrap_or(i64::MAX)),
                Note::Word(word) => Value::from(word),
            };
            KeyValue::new(key, value)
        };
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(context.trace_id),
                SpanId::from(context.span_id),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: SpanId::from(parent),
            parent_span_is_remote: kind == SpanKind::Server,
            span_kind: match kind {
                SpanKind::Client => OtlpKind::Client,
                SpanKind::Server => OtlpKind::Server,
                SpanKind::Internal => OtlpKind::Internal,
            },
            name: name.into(),
            start_time,
            end_time,
            attributes: notes.into_iter().map(attribute).collect(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if has_failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: self.scope.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_host_and_a_port_and_has_no_secrets() {
        for url in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://collector.local:1"] {
            assert_eq!(collector_url(url).as_deref(), Ok(url));
        }
        for url in [
            "",
            "127.0.0.1:4317",
            "https://a:1",
            "http://a",
            "http://a:99999",
            "http://a:0",
            "http://:1",
            "http://::1:4317",
            "http://a?b:1",
            "http://a:1/v1/traces",
        ] {
            let why = collector_url(url).expect_err("it is none");
            assert!(why.contains("http://HOST:PORT"), "{why}");
        }
        let why = collector_url("http://me:secret@collector:4317").expect_err("a secret");
        assert!(why.contains("OTEL_EXPORTER_OTLP_HEADERS") && !why.contains("secret"), "{why}");
    }
}
