//! The span of an acquisition as its caller sees it: from the call until the guard, or why there is none.

use std::time::{Duration, SystemTime};

use sharklock_proto::trace::{Begun, Note, Span, SpanKind, Spans, TraceContext};

use crate::{clock::Clock, error::AcquireError};

/// An acquisition that is traced. It tells its span when it goes, so that one whose caller drops its
/// future leaves a span, too.
pub(crate) struct TracedAcquire {
    spans: Spans,
    begun: Begun,
    clock: Clock,
    outcome: &'static str,
    has_failed: bool,
}

impl TracedAcquire {
    /// Begins a span, if somebody listens: below the one that `traceparent` names, or a trace of its own.
    /// The cluster hears of it as what is above its own, which `traceparent` names from here on.
    pub(crate) fn begin(spans: &Spans, traceparent: &mut String) -> Option<Self> {
        if !spans.are_wanted() {
            return None;
        }
        let begun = match traceparent.parse::<TraceContext>() {
            Ok(above) => above.begin(rand::random(), Duration::ZERO)?,
            Err(_) => {
                let context = TraceContext::root(rand::random());
                Begun { context, parent: 0, begin: Duration::ZERO }
            }
        };
        *traceparent = begun.context.to_string();
        let (spans, clock) = (spans.clone(), Clock::start());
        Some(Self { spans, begun, clock, outcome: WITHDRAWN, has_failed: false })
    }

    /// The acquisition has ended so.
    pub(crate) fn ended(mut self, error: Option<&AcquireError>) {
        self.outcome = error.map_or("granted", outcome);
        self.has_failed = error.is_some();
    }
}

impl Drop for TracedAcquire {
    fn drop(&mut self) {
        let span = self.begun.ended("client.acquire", SpanKind::Client, None);
        let mut span: Span = span.with("outcome", Note::Word(self.outcome));
        span.has_failed = self.has_failed;
        let clock = &self.clock;
        self.spans.hand_on(vec![span], || clock.now(), wall_unix_ns);
    }
}

/// The outcome of an acquisition whose caller waits no longer.
const WITHDRAWN: &str = "withdrawn";

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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sharklock_proto::trace::SpanSink;

    use super::*;

    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl SpanSink for Kept {
        fn take(&self, _now: Duration, _now_unix_ns: u64, spans: Vec<Span>) {
            self.0.lock().expect("nobody panics").extend(spans);
        }
    }

    #[test]
    fn each_acquisition_leaves_one_span_also_if_its_future_is_dropped() {
        let kept = Arc::new(Kept::default());
        let spans = Spans::to(kept.clone());
        let begin = || {
            let traced = TracedAcquire::begin(&spans, &mut String::new());
            traced.expect("somebody listens")
        };
        begin().ended(None);
        begin().ended(Some(&AcquireError::SessionEnded));
        drop(begin());
        let kept = kept.0.lock().expect("nobody panics");
        let told: Vec<_> = kept.iter().map(|it| (it.notes.clone(), it.has_failed)).collect();
        let outcome = |word| vec![("outcome", Note::Word(word))];
        assert_eq!(
            told,
            [(outcome("granted"), false), (outcome("failed"), true), (outcome("withdrawn"), false)]
        );
    }
}
