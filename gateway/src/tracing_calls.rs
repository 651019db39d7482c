//! The spans of acquires in a gateway. It is told of what is traced by callers; of what nobody traces it
//! traces some itself, if it is to.

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
    /// Of so many acquires that come without a trace one gets one; `None`: none does.
    pub every: Option<NonZeroU64>,
}

impl Tracing {
    /// Begins the span of a call with its tag, if it is traced; the store hears of it as what is above
    /// its own. `untraced` counts those that come without a trace.
    pub(crate) fn begin(
        self,
        untraced: &AtomicU64,
        call: &mut StoreCall,
        arrived_us: u64,
    ) -> Option<Begun> {
        let Some(Ask::Acquire(request)) = &mut call.body else { return None };
        let begin = Duration::from_micros(arrived_us);
        let span = match request.traceparent.parse::<TraceContext>() {
            Ok(above) => above.begin(call.tag ^ self.salt, begin)?,
            Err(_) => self.root(untraced, begin)?,
        };
        request.traceparent = span.context.to_string();
        Some(span)
    }

    fn root(self, untraced: &AtomicU64, begin: Duration) -> Option<Begun> {
        let every = self.every?.get();
        let number = untraced.fetch_add(1, Ordering::Relaxed);
        let seed = u128::from(self.salt) << 64 | u128::from(number);
        let root = || Begun { context: TraceContext::root(seed), parent: 0, begin };
        number.is_multiple_of(every).then(root)
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
        Tracing { salt: 5, every: NonZeroU64::new(every) }
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
}
