//! The span of an acquisition as its caller sees it: from the call until the guard, or why there is none.

use std::time::{Duration, SystemTime};

use sharklock_proto::trace::{Begun, Note, Span, SpanKind, Spans, TraceContext};

use crate::{clock::Clock, error::AcquireError, request::Request};

/// An acquisition that is traced and has not ended.
pub(crate) struct TracedAcquire {
    spans: Spans,
    begun: Begun,
    clock: Clock,
}

impl TracedAcquire {
    /// Begins a span, if somebody listens: below the one that the request names, or a trace of its own.
    /// The cluster hears of it as what is above its own.
    pub(crate) fn begin(spans: &Spans, request: &mut Request) -> Option<Self> {
        if !spans.are_wanted() {
            return None;
        }
        let begun = match request.traceparent.parse::<TraceContext>() {
            Ok(above) => above.begin(rand::random(), Duration::ZERO)?,
            Err(_) => {
                let context = TraceContext::root(rand::random());
                Begun { context, parent: 0, begin: Duration::ZERO }
            }
        };
        request.traceparent = begun.context.to_string();
        Some(Self { spans: spans.clone(), begun, clock: Clock::start() })
    }

    /// The acquisition has ended so.
    pub(crate) fn ended(self, error: Option<&AcquireError>) {
        let span = self.begun.ended("client.acquire", SpanKind::Client, None);
        let mut span: Span = span.with("outcome", Note::Word(error.map_or("granted", outcome)));
        span.has_failed = error.is_some();
        let clock = &self.clock;
        self.spans.hand_on(vec![span], || (clock.now(), wall_unix_ns()));
    }
}

fn outcome(error: &AcquireError) -> &'static str {
    match error {
        AcquireError::Held { .. } => "held_by_other",
        AcquireError::WaitTimedOut { .. } => "wait_timed_out",
        AcquireError::Lost { .. } => "lost",
        _ => "failed",
    }
}

#[expect(clippy::disallowed_methods, reason = "an edge: spans are told in wall time, for people")]
fn wall_unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
