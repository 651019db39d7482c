//! The spans of acquires in a gateway. What callers trace it traces all where spans leave the process; of
//! everything else it traces some, if it is to.

use std::{
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sharklock_proto::{
    internal::v1::{StoreCall, store_call::Body as Ask},
    trace::{Begun, TraceContext},
};

/// Which calls a gateway traces, to which somebody listens.
#[derive(Clone, Copy, Debug)]
pub struct Tracing {
    /// Tells its spans from those of other gateways.
    pub salt: u64,
    /// Of so many other acquires one is traced; `None`: none is.
    pub every: Option<NonZeroU64>,
    /// Every acquire is traced whose caller keeps its trace. Otherwise those are like all others: an
    /// application that keeps all its traces is no reason to make spans that nobody gets.
    pub all_of_callers: bool,
}

impl Tracing {
    /// Begins the span of a call with its tag, if it is traced; the store hears of it as what is above
    /// its own, and otherwise that nobody keeps the trace. `others` counts the acquires of which some are traced.
    pub(crate) fn begin(
        self,
        others: &AtomicU64,
        call: &mut StoreCall,
        arrived_us: u64,
    ) -> Option<Begun> {
        let Some(Ask::Acquire(request)) = &mut call.body else { return None };
        let begin = Duration::from_micros(arrived_us);
        let span = match request.traceparent.parse::<TraceContext>() {
            Ok(above) if !above.is_sampled => return None,
            Ok(above) if self.all_of_callers || self.chosen(others).is_some() => {
                above.begin(call.tag ^ self.salt, begin)?
            }
            Ok(above) => {
                request.traceparent = TraceContext { is_sampled: false, ..above }.to_string();
                return None;
            }
            Err(_) => self.root(self.chosen(others)?, begin),
        };
        request.traceparent = span.context.to_string();
        Some(span)
    }

    /// The number of an acquire among those of which some are traced, if it is.
    fn chosen(self, others: &AtomicU64) -> Option<u64> {
        let every = self.every?.get();
        let number = others.fetch_add(1, Ordering::Relaxed);
        number.is_multiple_of(every).then_some(number)
    }

    fn root(self, number: u64, begin: Duration) -> Begun {
        let seed = u128::from(self.salt) << 64 | u128::from(number);
        Begun { context: TraceContext::root(seed), parent: 0, begin }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::v1::AcquireRequest;

    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn acquire(traceparent: &str) -> StoreCall {
        let traceparent = traceparent.to_owned();
        let request = AcquireRequest { traceparent, ..AcquireRequest::default() };
        StoreCall { tag: 7, body: Some(Ask::Acquire(request)), ..StoreCall::default() }
    }

    fn said(call: &StoreCall) -> &str {
        let Some(Ask::Acquire(request)) = &call.body else { panic!("it is an acquire") };
        &request.traceparent
    }

    fn tracing(every: u64) -> Tracing {
        Tracing { salt: 5, every: NonZeroU64::new(every), all_of_callers: true }
    }

    #[test]
    fn the_store_hears_of_the_gateways_span_below_the_callers() {
        let mut call = acquire(GIVEN);
        let span = tracing(0).begin(&AtomicU64::new(0), &mut call, 9).expect("it is traced");
        assert_eq!(format!("{:016x}", span.parent), "00f067aa0ba902b7");
        assert_eq!(said(&call), span.context.to_string());
        assert_ne!(said(&call), GIVEN);
        assert_eq!(span.begin, Duration::from_micros(9));
    }

    #[test]
    fn a_trace_that_nobody_keeps_is_passed_on_as_it_is() {
        let quiet = GIVEN.replace("-01", "-00");
        let mut call = acquire(&quiet);
        assert_eq!(tracing(1).begin(&AtomicU64::new(0), &mut call, 9), None);
        assert_eq!(said(&call), quiet);
    }

    #[test]
    fn one_of_so_many_gets_a_trace_of_its_own() {
        let untraced = AtomicU64::new(0);
        let begin = |tracing: Tracing| tracing.begin(&untraced, &mut acquire(""), 0);
        let begun: Vec<_> = (0..9).filter_map(|_| begin(tracing(4))).collect();
        assert_eq!(begun.len(), 3);
        assert!(begun.iter().all(|span| span.parent == 0));
        assert_ne!(begun[0].context.trace_id, begun[1].context.trace_id);
        assert_eq!(begin(tracing(0)), None, "nothing is traced that nobody traces");
    }

    #[test]
    fn where_spans_stay_in_memory_what_callers_trace_is_like_everything_else() {
        let others = AtomicU64::new(0);
        let tracing = Tracing { all_of_callers: false, ..tracing(4) };
        let begun = |_| {
            let mut call = acquire(GIVEN);
            let span = tracing.begin(&others, &mut call, 0);
            let is_kept = said(&call).ends_with("-01");
            assert_eq!(span.is_some(), is_kept, "the store makes spans where the gateway does");
            span
        };
        let begun: Vec<_> = (0..8).filter_map(begun).collect();
        assert_eq!(begun.len(), 2);
        assert!(begun.iter().all(|span| format!("{:016x}", span.parent) == "00f067aa0ba902b7"));
        let off = Tracing { every: None, ..tracing };
        assert_eq!(off.begin(&others, &mut acquire(GIVEN), 0), None);
    }
}
