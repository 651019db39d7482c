//! The last spans of this process, kept in memory for whoever looks for where a call's time went:
//! `debug collect` asks each process for them, whether or not there is a collector.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Map, Value, json};
use sharklock_proto::trace::{Note, Span, SpanKind, SpanSink};

/// Spans that are kept: the last 200 acquires that were traced, at some 200 bytes a span.
const SPANS_MAX: usize = 1_000;

/// Keeps spans, and hands them on to a collector, if there is one.
#[derive(Debug)]
pub struct RecentSpans {
    kept: Mutex<VecDeque<Arc<Kept>>>,
    collector: Option<Arc<dyn SpanSink>>,
}

/// A span, in wall time.
#[derive(Debug)]
struct Kept {
    span: Span,
    begin_unix_ns: u64,
    lasted: Duration,
}

impl RecentSpans {
    /// None yet; those to come go to this collector, too.
    pub fn before(collector: Option<Arc<dyn SpanSink>>) -> Self {
        Self { kept: Mutex::default(), collector }
    }

    /// One JSON object a line, those that ended first in front. All processes' lines of a trace together,
    /// sorted by `begin_unix_ns`, are its story.
    pub fn text(&self) -> String {
        // Threads that serve wait for the lock: it is not held while this is written.
        let kept: Vec<Arc<Kept>> = self.kept().iter().map(Arc::clone).collect();
        let mut text = String::new();
        for kept in kept {
            let _ = writeln!(text, "{}", kept.line());
        }
        text
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Kept>>> {
        // A panic cannot leave a span half kept.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpanSink for RecentSpans {
    fn take(&self, now: Duration, now_unix_ns: u64, spans: Vec<Span>) {
        if let Some(collector) = &self.collector {
            collector.take(now, now_unix_ns, spans.clone());
        }
        let ended = spans.into_iter().map(|span| Arc::new(Kept::of(span, now, now_unix_ns)));
        let ended: Vec<Arc<Kept>> = ended.collect();
        let mut kept = self.kept();
        for span in ended {
            if kept.len() == SPANS_MAX {
                kept.pop_front();
            }
            kept.push_back(span);
        }
    }
}

impl Kept {
    fn of(span: Span, now: Duration, now_unix_ns: u64) -> Self {
        let ago = u64::try_from(now.saturating_sub(span.begin).as_nanos()).unwrap_or(u64::MAX);
        let lasted = span.end.unwrap_or(now).saturating_sub(span.begin);
        Self { span, begin_unix_ns: now_unix_ns.saturating_sub(ago), lasted }
    }

    fn line(&self) -> Value {
        let Span { name, kind, context, parent, notes, has_failed, .. } = &self.span;
        let said = |(key, note): &(&'static str, Note)| {
            let said = match note {
                Note::Number(number) => json!(number),
                Note::Word(word) => json!(word),
            };
            ((*key).to_owned(), said)
        };
        json!({
            "trace": format!("{:032x}", context.trace_id),
            "span": format!("{:016x}", context.span_id),
            "parent": (*parent != 0).then(|| format!("{parent:016x}")),
            "name": name,
            "kind": match kind {
                SpanKind::Client => "client",
                SpanKind::Server => "server",
                SpanKind::Internal => "internal",
            },
            "begin_unix_ns": self.begin_unix_ns,
            "lasted_us": u64::try_from(self.lasted.as_micros()).unwrap_or(u64::MAX),
            "failed": has_failed,
            "notes": notes.iter().map(said).collect::<Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::trace::TraceContext;

    use super::*;

    fn span(of: u64, begin_ms: u64) -> Span {
        let below = TraceContext::root(7);
        let begun = below.begin(of, Duration::from_millis(begin_ms)).expect("it is kept");
        begun.ended("store.acquire", SpanKind::Server, None).with("range", Note::Number(of))
    }

    fn lines(spans: &RecentSpans) -> Vec<Value> {
        let text = spans.text();
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    #[test]
    fn a_span_is_told_in_wall_time() {
        let spans = RecentSpans::before(None);
        spans.take(Duration::from_millis(1_250), 9_000_000_000, vec![span(5, 1_000)]);
        let [line] = &lines(&spans)[..] else { panic!("one span") };
        assert_eq!(line["begin_unix_ns"], 8_750_000_000_u64);
        assert_eq!(line["lasted_us"], 250_000);
        assert_eq!((&line["name"], &line["notes"]["range"]), (&json!("store.acquire"), &json!(5)));
        let root = TraceContext::root(7);
        assert_eq!(line["trace"], format!("{:032x}", root.trace_id));
        assert_eq!(line["parent"], format!("{:016x}", root.span_id));
    }

    #[test]
    fn the_last_ones_are_kept_and_the_collector_gets_all() {
        let collector = Arc::new(RecentSpans::before(None));
        let spans = RecentSpans::before(Some(Arc::clone(&collector) as Arc<dyn SpanSink>));
        let count = SPANS_MAX as u64 + 10;
        for of in 1..=count {
            spans.take(Duration::ZERO, of, vec![span(of, 0)]);
        }
        let kept = lines(&spans);
        assert_eq!(kept.len(), SPANS_MAX);
        assert_eq!(kept[0]["notes"]["range"], 11, "the oldest are gone");
        assert_eq!(kept[SPANS_MAX - 1]["notes"]["range"], count);
        assert_eq!(lines(&collector).last(), kept.last());
    }
}
