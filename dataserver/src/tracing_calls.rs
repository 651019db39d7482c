//! The spans of an acquire in its store: how long it waited for its entry, how long that took to be
//! committed, and how long the acquisition stood in its lock's queue. Only of what its gateway traces.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::{Acquisition, Change, Finished, Outcome, Reply};
use sharklock_proto::trace::{Begun, Note, Span, SpanKind, TraceContext};
use sharklock_rangemap::RangeId;

use crate::front::Asker;

/// Spans below that of the store.
const QUEUE: u64 = 1;
const COMMIT: u64 = 2;
const APPLY: u64 = 3;
const WAIT: u64 = 4;

/// A traced acquire between its receipt and its outcome.
#[derive(Clone, Debug)]
pub struct Traced {
    begun: Begun,
    range: RangeId,
}

impl Traced {
    /// The span of the call with this tag, below the one that its gateway names; none if that names
    /// none, or nobody keeps it. The range tells the attempts apart that a gateway sends to several
    /// stores.
    pub fn begin(
        traceparent: &str,
        tag: u64,
        received: Duration,
        range: RangeId,
    ) -> Option<Box<Self>> {
        let above: TraceContext = traceparent.parse().ok()?;
        let of = tag ^ range.0.rotate_left(32) ^ received.as_nanos() as u64;
        Some(Box::new(Self { begun: above.begin(of, received)?, range }))
    }

    /// The entry with the acquire was applied, and is being answered.
    fn applied(
        &self,
        now: Duration,
        index: u64,
        proposed: Option<Duration>,
        reply: &Reply,
        spans: &mut Vec<Span>,
    ) {
        let Self { begun, range } = self;
        let below = |of: u64, begin: Duration| {
            let (context, parent) = (begun.context.child(of), begun.context.span_id);
            Begun { context, parent, begin }
        };
        if let Some(proposed) = proposed {
            let queue = below(QUEUE, begun.begin);
            spans.push(queue.ended("store.queue", SpanKind::Internal, Some(proposed)));
            let commit = below(COMMIT, proposed);
            spans.push(commit.ended("store.commit", SpanKind::Internal, Some(now)));
        }
        let apply = below(APPLY, now).ended("store.apply", SpanKind::Internal, None);
        spans.push(apply.with("raft.index", Note::Number(index)));
        let whole = begun.ended("store.acquire", SpanKind::Server, None);
        let whole = whole.with("range", Note::Number(range.0));
        spans.push(whole.with("outcome", Note::Word(outcome(reply))));
    }
}

/// Tells of a traced acquire that was applied at `index`, and of waits that end by that.
pub fn follow(
    now: Duration,
    (index, proposed): (u64, Option<Duration>),
    asker: &Asker,
    outcome: &Outcome,
    waits: &mut BTreeMap<Acquisition, Begun>,
    spans: &mut Vec<Span>,
) {
    if let Asker::Acquire { acquisition, trace: Some(traced), .. } = asker {
        traced.applied(now, index, proposed, &outcome.reply, spans);
        if let Reply::Queued { .. } = outcome.reply {
            let above = traced.begun.context;
            waits.entry(*acquisition).or_insert(Begun {
                context: above.child(WAIT),
                parent: above.span_id,
                begin: now,
            });
        }
    }
    if waits.is_empty() {
        return;
    }
    for change in &outcome.changes {
        let (acquisition, how) = match change {
            Change::Granted { acquisition, from_queue: true, .. } => (acquisition, "granted"),
            Change::WaiterLeft { acquisition, how, .. } => (acquisition, finished(*how)),
            _ => continue,
        };
        if let Some(begun) = waits.remove(acquisition) {
            let wait = begun.ended("lock.wait", SpanKind::Internal, Some(now));
            spans.push(wait.with("outcome", Note::Word(how)));
        }
    }
}

fn outcome(reply: &Reply) -> &'static str {
    match reply {
        Reply::Granted(_) => "granted",
        Reply::Queued { .. } => "queued",
        Reply::Finished(how) => finished(*how),
        Reply::Indeterminate => "indeterminate",
        _ => "refused",
    }
}

fn finished(how: Finished) -> &'static str {
    match how {
        Finished::TryRefused => "held_by_other",
        Finished::WaitTimedOut => "wait_timed_out",
        Finished::Expired => "expired",
        Finished::Cancelled | Finished::Released => "cancelled",
        Finished::ForceReleased => "force_released",
        Finished::HoldLost => "hold_lost",
        Finished::Unknown
        | Finished::Orphaned
        | Finished::Reclaimed
        | Finished::HeldTooLong
        | Finished::AskedFor => "gone",
    }
}
