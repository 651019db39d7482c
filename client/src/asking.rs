//! The question to all endpoints of a client, before it begins, to which cluster they belong: side by
//! side, over connections that end with the answer. It ends when enough is known; those that are
//! frozen are not waited for, but their late answers count.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Sleep, sleep, timeout};
use tonic::transport::Endpoint;

use crate::{
    cluster::Standing,
    clusters::{Clusters, Named, ask_over},
    race::Race,
    status::innermost,
};

/// An endpoint that has not answered by then is asked again only when it is dialled.
const LATE_AFTER: Duration = Duration::from_secs(5);

/// The question while it is asked: polled until enough is known.
pub(crate) struct Asking {
    asked: Race<Result<Named, String>>,
    clusters: Arc<Clusters>,
    time: Pin<Box<Sleep>>,
}

impl Asking {
    /// Asks all but those that are asked anyway, if need be: whoever has a single endpoint, or was
    /// told its cluster, hears enough from whom it uses. `patience` is what those that are silent are
    /// waited for.
    pub(crate) fn begin(
        endpoints: &[Endpoint],
        clusters: &Arc<Clusters>,
        is_asked: impl Fn(usize) -> bool,
        patience: Duration,
    ) -> Option<Self> {
        if endpoints.len() == 1 || clusters.standing() != Standing::Open {
            return None;
        }
        clusters.ask_anew();
        let mut asked = Race::default();
        for (at, endpoint) in endpoints.iter().enumerate().filter(|(at, _)| !is_asked(*at)) {
            asked.add(at, ask_once(endpoint.clone()));
        }
        Some(Self { asked, clusters: Arc::clone(clusters), time: Box::pin(sleep(patience)) })
    }

    /// Takes in what has come. Ready when nothing is left to come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked.count() == 0 && self.is_decided() {
                return Poll::Ready(());
            }
            match self.asked.poll(cx) {
                // An endpoint of another cluster is reported as such, once.
                Poll::Ready((at, Ok(cluster))) => drop(self.clusters.said(at, cluster)),
                Poll::Ready((at, Err(why))) => {
                    tracing::debug!(endpoint = at, why, "an endpoint does not name its cluster");
                    self.clusters.silent(at);
                }
                Poll::Pending if self.is_decided() => return Poll::Pending,
                Poll::Pending => {
                    std::task::ready!(self.time.as_mut().poll(cx));
                    self.clusters.time_is_up();
                    if !self.is_decided() {
                        // Nobody has named any: the first that does is the one.
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Waits until enough is known, or nobody is left to say it.
    pub(crate) async fn decided(&mut self) {
        poll_fn(|cx| match self.poll(cx) {
            Poll::Pending if !self.is_decided() && !self.time.is_elapsed() => Poll::Pending,
            Poll::Pending | Poll::Ready(()) => Poll::Ready(()),
        })
        .await;
    }

    fn is_decided(&self) -> bool {
        self.clusters.standing() != Standing::Open
    }
}

async fn ask_once(endpoint: Endpoint) -> Result<Named, String> {
    let asking = async {
        let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
        ask_over(channel).await
    };
    timeout(LATE_AFTER, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}
