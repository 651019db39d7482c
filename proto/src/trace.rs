//! Traces: which call of whom a span belongs to, as the W3C's `traceparent` says it, and what a span
//! has to tell.
//!
//! Nothing here reads a clock or draws a number, so that cores may begin and end spans: a span's id is
//! made of its parent's and of what tells it from its siblings. Whoever owns a core hands what has
//! ended to a [`SpanSink`], in wall time; where nobody listens no span begins.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// The metadata by which a caller says of which trace its call is a part.
pub const TRACEPARENT: &str = "traceparent";
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_BYTES: usize = 55;
const SAMPLED: u8 = 1;

/// A place in a trace: below this span whatever it leads to begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Of all spans of the trace; never 0.
    pub trace_id: u128,
    /// Of this one; never 0.
    pub span_id: u64,
    /// Whether somebody keeps the trace. Otherwise no span is made, and the context is passed on.
    pub is_sampled: bool,
}

/// A text that is no `traceparent`. As the standard wants, it is as if there were none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTraceparent;

impl FromStr for TraceContext {
    type Err = NoTraceparent;

    fn from_str(text: &str) -> Result<Self, NoTraceparent> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let (head, rest) = text.split_at_checked(TRACEPARENT_BYTES).ok_or(NoTraceparent)?;
        let mut parts = head.split('-');
        let mut part = |length: usize| {
            let part = parts.next().filter(|it| it.len() == length && it.bytes().all(is_digit));
            part.ok_or(NoTraceparent)
        };
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // Later versions may have more to say behind what is known of them.
        let is_whole = rest.is_empty() || (version != "00" && rest.starts_with('-'));
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| NoTraceparent)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| NoTraceparent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NoTraceparent)?;
        if version == "ff" || !is_whole || trace_id == 0 || span_id == 0 {
            return Err(NoTraceparent);
        }
        Ok(Self { trace_id, span_id, is_sampled: flags & SAMPLED != 0 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, is_sampled } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(*is_sampled))
    }
}

impl TraceContext {
    /// A trace of its own. `seed` is drawn by chance, or differs from any other's in some way.
    pub fn root(seed: u128) -> Self {
        let (high, low) = ((seed >> 64) as u64, seed as u64);
        let trace_id = u128::from(mixed(high, low)) << 64 | u128::from(mixed(low, high));
        Self { trace_id, span_id: mixed(high ^ low, ROOT), is_sampled: true }
    }

    /// A span below this one. `of` differs from span to span below the same one.
    pub fn child(self, of: u64) -> Self {
        let trace = (self.trace_id >> 64) as u64 ^ self.trace_id as u64;
        Self { span_id: mixed(mixed(trace, self.span_id), of), ..self }
    }

    /// Begins a span below this one at `begin`; none where nobody keeps the trace.
    pub fn begin(self, of: u64, begin: Duration) -> Option<Begun> {
        let begun = || Begun { context: self.child(of), parent: self.span_id, begin };
        self.is_sampled.then(begun)
    }
}

/// Tells the first span of a trace from what lies below others.
const ROOT: u64 = 0x7368_6172_6b6c_6f63;

/// Never 0, and as good as by chance: the finalizer of SplitMix64, twice.
fn mixed(one: u64, other: u64) -> u64 {
    let finalized = |mut it: u64| {
        it = (it ^ it >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ it >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ it >> 31
    };
    let golden = 0x9e37_79b9_7f4a_7c15;
    finalized(finalized(one.wrapping_add(golden)) ^ other.wrapping_add(golden)).max(1)
}

/// A span that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Itself.
    pub context: TraceContext,
    /// The span above it; 0: none.
    pub parent: u64,
    /// When, by the clock of whoever makes it.
    pub begin: Duration,
}

impl Begun {
    /// The whole span; without an `end` it goes on until it is handed to a sink.
    pub fn ended(self, name: &'static str, kind: SpanKind, end: Option<Duration>) -> Span {
        let Self { context, parent, begin } = self;
        Span { name, kind, context, parent, begin, end, notes: Vec::new(), has_failed: false }
    }
}

/// The part that a process plays in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// It asks another.
    Client,
    /// It was asked by another.
    Server,
    /// A part of its own work.
    Internal,
}

/// A value that a span has to tell. Nothing of a client: no lock's name, no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A number, or an id.
    Number(u64),
    /// One of a few words.
    Word(&'static str),
}

/// A span that has ended, by its maker's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The name of what was done.
    pub name: &'static str,
    /// See there.
    pub kind: SpanKind,
    /// Its trace and its id.
    pub context: TraceContext,
    /// The span above it; 0: none.
    pub parent: u64,
    /// When it began.
    pub begin: Duration,
    /// When it ended; `None`: when it is handed on.
    pub end: Option<Duration>,
    /// What it has to tell.
    pub notes: Vec<(&'static str, Note)>,
    /// What was done failed.
    pub has_failed: bool,
}

impl Span {
    /// The same, with something to tell.
    pub fn with(mut self, key: &'static str, note: Note) -> Self {
        self.notes.push((key, note));
        self
    }
}

/// Whoever keeps spans. It returns at once, and drops what it cannot take.
pub trait SpanSink: Send + Sync + fmt::Debug {
    /// These have ended. Their clock reads `now`, while it is `now_unix_ns` for people, nanoseconds
    /// since 1970 began.
    fn take(&self, now: Duration, now_unix_ns: u64, spans: Vec<Span>);
}

/// Where a process hands its spans, if somebody listens.
#[derive(Clone, Debug, Default)]
pub struct Spans(Option<Arc<dyn SpanSink>>);

impl Spans {
    /// Hands them to `sink`.
    pub fn to(sink: Arc<dyn SpanSink>) -> Self {
        Self(Some(sink))
    }

    /// Whether somebody listens.
    pub fn are_wanted(&self) -> bool {
        self.0.is_some()
    }

    /// Hands spans on, if there are any; see [`SpanSink::take`]. Only then are the clocks read, the one of
    /// the spans and that of people in nanoseconds since 1970 began.
    pub fn hand_on(
        &self,
        spans: Vec<Span>,
        clock: impl FnMut() -> Duration,
        wall_unix_ns: impl FnMut() -> u64,
    ) {
        if let Some(sink) = self.0.as_ref().filter(|_| !spans.is_empty()) {
            let (now, now_unix_ns) = both_clocks(clock, wall_unix_ns);
            sink.take(now, now_unix_ns, spans);
        }
    }
}

/// Two clocks are read one after the other, so much apart at most if the thread is left running.
const APART_MAX: Duration = Duration::from_micros(20);
/// Tries to read them without a pause in between.
const READINGS_MAX: usize = 5;

/// Reads both clocks at one time. A thread that is stopped between the two readings would shift its spans
/// against those of other processes by that pause; the best of a few readings is taken.
fn both_clocks(
    mut clock: impl FnMut() -> Duration,
    mut wall_unix_ns: impl FnMut() -> u64,
) -> (Duration, u64) {
    let mut best: Option<(Duration, Duration, u64)> = None;
    for _ in 0..READINGS_MAX {
        let (before, wall, after) = (clock(), wall_unix_ns(), clock());
        let apart = after.saturating_sub(before);
        if best.is_none_or(|(least, ..)| apart < least) {
            best = Some((apart, before + apart / 2, wall));
        }
        if apart <= APART_MAX {
            break;
        }
    }
    let (_, now, wall) = best.expect("they are read at least once");
    (now, wall)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_pause_between_the_readings_of_two_clocks_shifts_no_span() {
        // Milliseconds; a thread is stopped after its first reading, and runs through at the second try.
        let mut readings = [100, 150, 200, 200].map(Duration::from_millis).into_iter();
        let mut walls = [9_150, 9_200].into_iter();
        let clock = || readings.next().expect("two tries");
        let (now, wall) = both_clocks(clock, || walls.next().expect("two tries"));
        assert_eq!((now, wall), (Duration::from_millis(200), 9_200));
        // One that is stopped each time goes by the middle of the shortest pause.
        let mut readings =
            [10, 20, 30, 40, 50, 52, 60, 70, 80, 90].map(Duration::from_millis).into_iter();
        let (now, _) = both_clocks(|| readings.next().expect("five tries"), || 0);
        assert_eq!(now, Duration::from_millis(51));
    }

    #[test]
    fn a_traceparent_is_read_and_said_again() {
        let context: TraceContext = GIVEN.parse().expect("it is the standard's own");
        assert_eq!(context.to_string(), GIVEN);
        assert!(context.is_sampled);
        let quiet: TraceContext = GIVEN.replace("-01", "-00").parse().expect("nobody keeps it");
        assert!(!quiet.is_sampled);
        assert_eq!(quiet.begin(1, Duration::ZERO), None);
        let later = GIVEN.replacen("00", "01", 1) + "-what-comes";
        assert_eq!(later.parse::<TraceContext>(), Ok(context), "a later version says more");
    }

    #[test]
    fn whatever_is_no_traceparent_is_none() {
        for text in [
            "",
            "00",
            &GIVEN[..54],
            &GIVEN.to_uppercase(),
            &GIVEN.replace("-01", "-0g"),
            &GIVEN.replacen("00", "ff", 1),
            &(GIVEN.to_owned() + "-more"),
            &GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GIVEN.replace('-', "_"),
            &GIVEN.replace("4bf9", "4bfä"),
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NoTraceparent), "{text}");
        }
    }

    #[test]
    fn spans_below_one_have_ids_of_their_own() {
        let root = TraceContext::root(7);
        let mut ids: BTreeSet<_> = (0..10_000).map(|of| root.child(of).span_id).collect();
        ids.insert(root.span_id);
        ids.extend((0..100).map(|of| TraceContext::root(8).child(of).span_id));
        assert_eq!(ids.len(), 10_101);
        assert!(!ids.contains(&0));
        assert_eq!(root.child(3), TraceContext::root(7).child(3), "it is no chance");
    }
}
