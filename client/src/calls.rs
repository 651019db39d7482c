//! Calls that are no acquisition: looks at locks, and the operator's. Unary gRPC, each retried over
//! the endpoints until its deadline, and asked of a second one beside the first when that is silent.

use std::{
    future::Future,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sharklock_proto::v1::{self, admin_service_client::AdminServiceClient};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep_until},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    asking::Asking,
    client::Client,
    cluster::{ClusterMismatch, Standing},
    clusters::{self, Clusters, UNNAMED},
    endpoint::shown,
    error::{CallError, NO_ANSWER, NOT_CONNECTED},
    failure::{Failure, Verdict},
    race::Race,
    session::patience,
    status::{self, innermost},
};

mod force_release;
mod looks;
mod operators;
mod ranges;
mod sessions;
mod watch;

pub use self::{
    force_release::ForceReleased,
    looks::{LockPage, LockSeen, TokenChecked},
    ranges::WhichRange,
    sessions::{
        RevokedHold, SessionLock, SessionRevoked, SessionSummary, SessionWait, SessionsAsked,
    },
    watch::{HoldersAsked, Watch},
};

/// The reason of a gateway whose cluster is still forming.
const NO_CLUSTER: &str = "NO_CLUSTER";

/// Pauses between rounds over all endpoints: doubling from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Client {
    /// Shows stores and ranges as the answering gateway sees them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<v1::GetStatusResponse, CallError> {
        // A cluster that is still forming has a status, and no id yet.
        let calls = self.calls();
        let answered = calls
            .ask(v1::GetStatusRequest {}, Repeat::LookAtForming, |channel, request| async move {
                AdminServiceClient::new(channel).get_status(request).await
            })
            .await?;
        Ok(answered.response)
    }
}

/// Refuses words that every server would refuse, also where there is nothing to end.
fn check_words(
    field: &str,
    reason: &str,
    words: &str,
    bytes: RangeInclusive<usize>,
) -> Result<(), CallError> {
    if bytes.contains(&words.len()) && !words.contains(char::is_control) {
        return Ok(());
    }
    let (least, most) = (bytes.start(), bytes.end());
    Err(CallError::Invalid {
        field: Some(field.to_owned()),
        reason: reason.to_owned(),
        message: format!("{least} to {most} bytes without control characters"),
    })
}

/// Whether a call may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// It has no effects: whether it was done does not matter.
    Look,
    /// As [`Look`](Self::Look), and it may be asked of a gateway whose cluster is still forming.
    LookAtForming,
    /// It has the same effect however often it is done.
    Freely,
    /// It goes to another gateway only while it has certainly reached none.
    UnlessSent,
}

impl Repeat {
    fn is_look(self) -> bool {
        matches!(self, Self::Look | Self::LookAtForming)
    }
}

/// The time of a call.
#[derive(Clone, Copy, Debug)]
struct Within {
    /// It ends by then.
    timeout: Duration,
    /// An endpoint that has said nothing for so long has the next asked beside it.
    patience: Duration,
}

/// An answer, and how it was come by.
struct Answered<R> {
    response: R,
    /// No attempt before this one may have been done.
    is_first: bool,
}

/// The connections for unary calls, one per endpoint, made when first needed.
pub(crate) struct Calls {
    endpoints: Vec<Endpoint>,
    channels: Vec<OnceCell<Channel>>,
    clusters: Arc<Clusters>,
    /// Which endpoint answered last; counts on, modulo their number.
    current: AtomicUsize,
    timeout: Duration,
}

/// In which order endpoints are asked, and with which pauses.
struct Rounds {
    next: usize,
    count: usize,
    /// Endpoints that have not been asked in this round.
    untried_count: usize,
    pause: Duration,
}

impl Rounds {
    fn begin(first: usize, count: usize) -> Self {
        Self { next: first, count, untried_count: count, pause: PAUSE_FIRST }
    }

    /// The next endpoint of which nobody waits for an answer.
    fn next(&mut self, is_asked: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..self.count {
            let at = self.next % self.count;
            self.next = self.next.wrapping_add(1);
            if !is_asked(at) {
                self.untried_count = self.untried_count.saturating_sub(1);
                return Some(at);
            }
        }
        None
    }

    /// An endpoint could not help: the pause until the next is asked.
    fn failed(&mut self) -> Duration {
        if self.untried_count > 0 {
            return Duration::ZERO;
        }
        self.untried_count = self.count;
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

impl Calls {
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        clusters: Arc<Clusters>,
        timeout: Duration,
    ) -> Arc<Self> {
        let channels = endpoints.iter().map(|_| OnceCell::new()).collect();
        Arc::new(Self { endpoints, channels, clusters, current: AtomicUsize::new(0), timeout })
    }

    /// A call without effects: whether it was done does not matter.
    async fn read<Q, R, F>(
        self: &Arc<Self>,
        request: Q,
        call: fn(Channel, Q) -> F,
    ) -> Result<R, CallError>
    where
        Q: Clone + Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<tonic::Response<R>, Status>> + Send + 'static,
    {
        self.read_within(self.within(), request, call).await
    }

    /// As [`read`](Self::read), in another time.
    async fn read_within<Q, R, F>(
        self: &Arc<Self>,
        within: Within,
        request: Q,
        call: fn(Channel, Q) -> F,
    ) -> Result<R, CallError>
    where
        Q: Clone + Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<tonic::Response<R>, Status>> + Send + 'static,
    {
        Ok(self.ask_within(within, request, Repeat::Look, call).await?.response)
    }

    fn within(&self) -> Within {
        Within { timeout: self.timeout, patience: patience(Some(self.timeout)) }
    }

    async fn ask<Q, R, F>(
        self: &Arc<Self>,
        request: Q,
        repeat: Repeat,
        call: fn(Channel, Q) -> F,
    ) -> Result<Answered<R>, CallError>
    where
        Q: Clone + Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<tonic::Response<R>, Status>> + Send + 'static,
    {
        self.ask_within(self.within(), request, repeat, call).await
    }

    /// Asks one endpoint, and the next beside it when it says nothing for a while or cannot help:
    /// connections to processes that are frozen stand, and take calls. The first answer counts.
    async fn ask_within<Q, R, F>(
        self: &Arc<Self>,
        within: Within,
        request: Q,
        repeat: Repeat,
        call: fn(Channel, Q) -> F,
    ) -> Result<Answered<R>, CallError>
    where
        Q: Clone + Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<tonic::Response<R>, Status>> + Send + 'static,
    {
        let Within { timeout, patience } = within;
        let deadline = Instant::now() + timeout;
        self.belong(self.within().patience).await?;
        let mut attempts = Race::default();
        let mut rounds = Rounds::begin(self.current.load(Ordering::Relaxed), self.endpoints.len());
        let mut next_at = Some(Instant::now());
        let mut last = Failure {
            reason: NO_ANSWER.to_owned(),
            message: "no answer in time".to_owned(),
            ..Failure::default()
        };
        // Each attempt that runs, and whether the call may have left this process.
        let mut running: Vec<(usize, Arc<AtomicBool>)> = Vec::new();
        // An attempt without an answer may have been done.
        let mut may_be_done = false;
        loop {
            tokio::select! {
                biased;
                (at, result) = attempts.next() => {
                    let left = has_left(&running, |running| running == at);
                    running.retain(|(running, _)| *running != at);
                    let failure = match result {
                        Err(Fault::OtherCluster(mismatch)) => {
                            if self.is_lost_to_others() {
                                return Err(CallError::OtherCluster(mismatch));
                            }
                            last.message = mismatch.to_string();
                            next_at = Some(Instant::now() + rounds.failed());
                            continue;
                        }
                        Ok(response) => {
                            self.current.store(at, Ordering::Relaxed);
                            let is_first = !may_be_done && !has_left(&running, |_| true);
                            return Ok(Answered { response, is_first });
                        }
                        Err(Fault::Failed(failure)) => failure,
                    };
                    match failure.verdict() {
                        Verdict::Refused => return Err(failure.into_call_error(repeat.is_look())),
                        Verdict::NotKnown => may_be_done |= left,
                        Verdict::NotDone => {}
                    }
                    last = failure;
                    if may_be_done && repeat == Repeat::UnlessSent {
                        return Err(CallError::Indeterminate { message: last.message });
                    }
                    next_at = Some(Instant::now() + rounds.failed());
                }
                () = sleep_until(next_at.unwrap_or(deadline)), if next_at.is_some() => {
                    next_at = None;
                    let Some(at) = rounds.next(|at| attempts.is_running(at)) else { continue };
                    let left = Arc::new(AtomicBool::new(false));
                    running.push((at, Arc::clone(&left)));
                    let attempt = Arc::clone(self).attempt(at, repeat, request.clone(), call, left);
                    attempts.add(at, attempt);
                    if repeat != Repeat::UnlessSent && attempts.count() < self.endpoints.len() {
                        next_at = Some(Instant::now() + patience);
                    }
                }
                () = sleep_until(deadline) => {
                    let Failure { reason, message, .. } = last;
                    let may_be_done = may_be_done || has_left(&running, |_| true);
                    return Err(match may_be_done && !repeat.is_look() {
                        true => CallError::Indeterminate { message },
                        false => CallError::Unavailable { reason: said(reason), message },
                    });
                }
            }
        }
    }

    /// Makes sure that the endpoints belong to one cluster, as far as they say it in time.
    async fn belong(&self, patience: Duration) -> Result<(), CallError> {
        let asking = Asking::begin(&self.endpoints, &self.clusters, |_| false, patience);
        if let Some(mut asking) = asking {
            asking.decided().await;
        }
        match self.clusters.standing() {
            Standing::Refused(mismatch) => Err(CallError::OtherCluster(mismatch)),
            Standing::Open | Standing::Belongs(_) => Ok(()),
        }
    }

    /// No endpoint can be asked: the client is refused, or all of them are of other clusters.
    fn is_lost_to_others(&self) -> bool {
        let is_refused = matches!(self.clusters.standing(), Standing::Refused(_));
        is_refused || self.clusters.nowhere().is_some()
    }

    /// One attempt of a call. `left` tells that it may have left this process.
    async fn attempt<Q, R, F>(
        self: Arc<Self>,
        at: usize,
        repeat: Repeat,
        request: Q,
        call: fn(Channel, Q) -> F,
        left: Arc<AtomicBool>,
    ) -> Result<R, Fault>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let endpoint = &self.endpoints[at];
        let channel = self.channels[at].get_or_try_init(|| endpoint.connect()).await;
        let channel = channel.map_err(|error| {
            self.clusters.silent(at);
            Fault::Failed(Failure {
                code: Code::Unavailable.into(),
                reason: NOT_CONNECTED.to_owned(),
                message: format!("{}: {}", shown(endpoint), innermost(&error)),
                ..Failure::default()
            })
        })?;
        let mut is_named = true;
        if !self.clusters.is_ours(at) {
            // Before anything is done there.
            match clusters::ask(channel.clone()).await.map_err(|status| status::failure(&status)) {
                Ok(cluster) => self.clusters.said(at, cluster)?,
                Err(why) if why.reason == NO_CLUSTER && repeat == Repeat::LookAtForming => {
                    is_named = false;
                }
                Err(why) => return Err(Fault::Failed(why)),
            }
        }
        left.store(true, Ordering::Relaxed);
        let answer = call(channel.clone(), request).await;
        let metadata = match &answer {
            Ok(response) => response.metadata(),
            Err(status) => status.metadata(),
        };
        // Another process may listen there since.
        match clusters::named(metadata) {
            Some(cluster) => self.clusters.said(at, cluster)?,
            None if answer.is_ok() && is_named => return Err(Status::internal(UNNAMED).into()),
            None => {}
        }
        Ok(answer?.into_inner())
    }
}

/// Why an attempt came to nothing.
enum Fault {
    Failed(Failure),
    OtherCluster(ClusterMismatch),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Failed(status::failure(&status))
    }
}

impl From<ClusterMismatch> for Fault {
    fn from(mismatch: ClusterMismatch) -> Self {
        Self::OtherCluster(mismatch)
    }
}

/// A reason that programs can tell: some answers have none.
fn said(reason: String) -> String {
    if reason.is_empty() { NO_ANSWER.to_owned() } else { reason }
}

/// Whether a call may have left for one of these endpoints.
fn has_left(running: &[(usize, Arc<AtomicBool>)], which: impl Fn(usize) -> bool) -> bool {
    running.iter().any(|(at, left)| which(*at) && left.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_asked_before_there_is_a_pause() {
        let mut rounds = Rounds::begin(4, 3);
        let nobody = |_| false;
        assert_eq!(rounds.next(nobody), Some(1));
        assert_eq!(rounds.failed(), Duration::ZERO);
        assert_eq!(rounds.next(|at| at == 2), Some(0), "2 is being asked");
        assert_eq!(rounds.failed(), Duration::ZERO);
        assert_eq!(rounds.next(nobody), Some(1));
        assert_eq!(rounds.failed(), PAUSE_FIRST);
        assert_eq!(rounds.next(|_| true), None);
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let mut rounds = Rounds::begin(0, 1);
        let pauses = (0..7).map(|_| {
            rounds.next(|_| false);
            rounds.failed()
        });
        assert_eq!(pauses.last(), Some(PAUSE_MAX));
    }
}
