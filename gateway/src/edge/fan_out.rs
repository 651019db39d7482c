//! One question to many at once: to all stores, or to the ranges of a list. The one way to ask them,
//! so that what is slow holds up nothing else, and nothing grows with their number.

use std::{iter::Enumerate, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

/// The bounds of what is asked at a time, and of the wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Questions on their way at a time.
    pub(super) at_once: usize,
    /// For one answer: then its place is another question's.
    pub(super) each: Duration,
    /// For all of them.
    pub(super) all: Instant,
}

/// See the module. What is on its way when it is dropped is not waited for any more.
pub(super) struct FanOut<I: Iterator, F, A> {
    questions: Enumerate<I>,
    ask: F,
    asking: JoinSet<(usize, Option<A>)>,
    bounds: Bounds,
}

impl<I, F, A, T> FanOut<I, F, A>
where
    I: Iterator,
    F: FnMut(I::Item) -> T,
    T: Future<Output = A> + Send + 'static,
    A: Send + 'static,
{
    /// `ask` makes the call that answers a question.
    pub(super) fn new(questions: I, bounds: Bounds, ask: F) -> Self {
        Self { questions: questions.enumerate(), ask, asking: JoinSet::new(), bounds }
    }

    /// The next answer, as they come, with the number of its question from 0. None: no more are
    /// to come, since all have answered or were given up.
    pub(super) async fn next(&mut self) -> Option<(usize, A)> {
        loop {
            while self.asking.len() < self.bounds.at_once
                && let Some((number, question)) = self.questions.next()
            {
                let answer = timeout(self.bounds.each, (self.ask)(question));
                self.asking.spawn(async move { (number, answer.await.ok()) });
            }
            // A task that has failed answers nothing; none does when the runtime stops.
            if let Ok((number, Some(answer))) =
                timeout_at(self.bounds.all, self.asking.join_next()).await.ok()??
            {
                return Some((number, answer));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;

    fn bounds(at_once: usize, each_ms: u64, all_ms: u64) -> Bounds {
        let each = Duration::from_millis(each_ms);
        Bounds { at_once, each, all: Instant::now() + Duration::from_millis(all_ms) }
    }

    const LONG_MS: u64 = 600_000;

    #[tokio::test]
    async fn whoever_says_nothing_holds_up_nobody_and_is_given_up() {
        let mut asking = FanOut::new(0..10, bounds(4, LONG_MS, LONG_MS), async |store| {
            if store < 3 {
                pending::<()>().await;
            }
            store * 10
        });
        for store in 3..10 {
            assert_eq!(asking.next().await, Some((store, store * 10)), "one place is left");
        }
        // Here every place is taken by one that says nothing.
        let mut asking = FanOut::new(0..10, bounds(2, 10, LONG_MS), async |store| {
            if store < 6 {
                pending::<()>().await;
            }
            store
        });
        let mut answered = Vec::new();
        while let Some((store, _)) = asking.next().await {
            answered.push(store);
        }
        answered.sort_unstable();
        assert_eq!(answered, [6, 7, 8, 9]);
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_than_all_may_take() {
        let mut asking = FanOut::new(0..10, bounds(4, LONG_MS, 50), async |store| {
            if store > 0 {
                pending::<()>().await;
            }
        });
        assert_eq!(asking.next().await, Some((0, ())));
        assert_eq!(asking.next().await, None);
    }

    #[tokio::test]
    async fn never_more_are_asked_at_once() {
        let open = Arc::new(AtomicUsize::new(0));
        let mut asking = FanOut::new(0..1_000, bounds(8, LONG_MS, LONG_MS), |number| {
            let open = open.clone();
            async move {
                assert!(open.fetch_add(1, Ordering::Relaxed) < 8);
                tokio::task::yield_now().await;
                open.fetch_sub(1, Ordering::Relaxed);
                number
            }
        });
        let mut answered = 0;
        while asking.next().await.is_some() {
            answered += 1;
        }
        assert_eq!(answered, 1_000, "a panic answers nothing");
    }
}
