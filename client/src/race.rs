//! Futures that run side by side, one per endpoint: whoever is ready first is taken.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

/// One endpoint's part.
type Runner<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The futures that still run, by endpoint. Dropping it drops them.
pub(crate) struct Race<T> {
    running: Vec<(usize, Runner<T>)>,
}

impl<T> Default for Race<T> {
    fn default() -> Self {
        Self { running: Vec::new() }
    }
}

impl<T> Race<T> {
    /// Adds the endpoint `at`, which must not be running.
    pub(crate) fn add(&mut self, at: usize, runner: impl Future<Output = T> + Send + 'static) {
        assert!(!self.is_running(at), "endpoint {at} runs already");
        self.running.push((at, Box::pin(runner)));
    }

    pub(crate) fn is_running(&self, at: usize) -> bool {
        self.running.iter().any(|(running, _)| *running == at)
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// The first that is ready, taken out; the earlier it was added, the sooner it is looked at.
    /// Pending while nobody runs.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(usize, T)> {
        for place in 0..self.running.len() {
            let (at, runner) = &mut self.running[place];
            if let Poll::Ready(result) = runner.as_mut().poll(cx) {
                let at = *at;
                // The order of the others is the order in which they were added.
                drop(self.running.remove(place));
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    }

    /// As [`poll`](Self::poll). Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> (usize, T) {
        poll_fn(|cx| self.poll(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn the_first_that_is_ready_is_taken_and_the_others_run_on() {
        let mut race = Race::default();
        race.add(2, pending());
        race.add(0, ready("zero"));
        race.add(1, ready("one"));
        assert_eq!(race.next().await, (0, "zero"));
        assert_eq!(race.next().await, (1, "one"));
        assert!(race.is_running(2) && !race.is_running(0));
        assert_eq!(race.count(), 1);
    }
}
