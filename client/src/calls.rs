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
    ids::{FencingToken, Position},
    race::Race,
    request::Holder,
    session::{patience, wire},
    status::{self, innermost},
};

mod looks;
mod operators;
mod ranges;
mod sessions;
mod watch;

pub use self::{
    looks::{LockPage, LockSeen, TokenChecked},
    ranges::WhichRange,
    sessions::{
        RevokedHold, SessionLock, SessionRevoked, SessionSummary, SessionWait, SessionsAsked,
    },
    watch::{HoldersAsked, Watch},
};

/// Pauses between rounds over all endpoints: doubling from the first to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Holds that are ended at a time, where an operator ends all holds of a lock.
const ENDED_AT_A_TIME: usize = 32;

/// The outcome of a force-release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForceReleased {
    /// When and where.
    pub position: Position,
    /// The holds it ends, as they were.
    pub holders: Vec<Holder>,
    /// They have ended already. Otherwise they end when their holders have stopped, or when their
    /// leases have run out at the latest.
    pub ended: bool,
}

impl Client {
    /// Shows stores and ranges as the answering gateway sees them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<v1::GetStatusResponse, CallError> {
        self.calls()
            .read(v1::GetStatusRequest {}, |channel, request| async move {
                AdminServiceClient::new(channel).get_status(request).await
            })
            .await
    }

    /// Ends the hold of a lock with this token, or every hold that the lock has now, against its
    /// holders' will. `reason` (1 to 1,024 bytes) is shown to them. Unless `now` is set the cluster
    /// waits until the holders have stopped, or their leases have run out; with `now` it does not
    /// wait and BREAKS THE PROMISE of one holder at a time: only tokens protect the resource then.
    ///
    /// A gateway that says nothing is asked beside the next. So that a repetition cannot end a later
    /// hold, "every hold" is what a look finds first, and each of those is ended by its token.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn force_release(
        &self,
        name: &str,
        token: Option<FencingToken>,
        reason: &str,
        now: bool,
        operator: &str,
    ) -> Result<ForceReleased, CallError> {
        check_words("reason", "BAD_REASON", reason, 1..=1_024)?;
        check_words("operator", "BAD_OPERATOR", operator, 0..=256)?;
        let request = |token: Option<FencingToken>| v1::ForceReleaseRequest {
            name: name.to_owned(),
            token: token.map(FencingToken::as_u64),
            reason: reason.to_owned(),
            now,
            operator: operator.to_owned(),
        };
        let LockSeen { position, lock } = self.get_lock(name).await?;
        if token.is_some() {
            let holders = lock.map_or_else(Vec::new, |lock| lock.holders);
            let seen = holders.into_iter().find(|holder| holder.token == token);
            return self.end_one(request(token), seen).await;
        }
        let (holders, count) = lock.map_or((Vec::new(), 0), |it| (it.holders, it.holders_count));
        if holders.len() < count as usize {
            // A look does not name them all: one call ends them, which must not be repeated.
            return self.end_all_unseen(request(None)).await;
        }
        // An orphan ends at once also without `now`, since it has no lease to wait for.
        let ended = now || !holders.is_empty();
        let mut done = ForceReleased { position, holders: Vec::new(), ended };
        let mut holders = holders.into_iter();
        loop {
            let mut ending = Race::default();
            for (at, holder) in holders.by_ref().take(ENDED_AT_A_TIME).enumerate() {
                let (client, request) = (self.clone(), request(holder.token));
                ending.add(at, async move { client.end_one(request, Some(holder)).await });
            }
            if ending.count() == 0 {
                return Ok(done);
            }
            while ending.count() > 0 {
                let (_, one) = ending.next().await;
                let one = one?;
                done.position = one.position;
                done.holders.extend(one.holders);
                done.ended &= one.ended;
                done.holders.sort_by_key(|holder| holder.token.map(FencingToken::as_u64));
            }
        }
    }

    /// Ends the hold with the request's token. `seen` is what a look said of it: told where an earlier
    /// attempt, whose answer was lost, may have ended it.
    async fn end_one(
        &self,
        request: v1::ForceReleaseRequest,
        seen: Option<Holder>,
    ) -> Result<ForceReleased, CallError> {
        assert!(request.token.is_some(), "only a hold that is named can be ended twice");
        let now = request.now;
        let answered = self.calls().ask(request, Repeat::Freely, force_release).await?;
        let Answered { response, is_first } = answered;
        let mut holders: Vec<_> = response.holders.into_iter().map(wire::holder).collect();
        let mut ended = response.ended;
        if let (true, false, Some(seen)) = (holders.is_empty(), is_first, seen) {
            holders.push(seen);
            ended |= now;
        }
        Ok(ForceReleased { position: wire::position(response.position), holders, ended })
    }

    async fn end_all_unseen(
        &self,
        request: v1::ForceReleaseRequest,
    ) -> Result<ForceReleased, CallError> {
        let answered = self.calls().ask(request, Repeat::UnlessSent, force_release).await?;
        let v1::ForceReleaseResponse { position, holders, ended } = answered.response;
        let holders = holders.into_iter().map(wire::holder).collect();
        Ok(ForceReleased { position: wire::position(position), holders, ended })
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

async fn force_release(
    channel: Channel,
    request: v1::ForceReleaseRequest,
) -> Result<tonic::Response<v1::ForceReleaseResponse>, Status> {
    AdminServiceClient::new(channel).force_release(request).await
}

/// Whether a call may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// It has no effects, or the same one however often it is done.
    Freely,
    /// It goes to another gateway only while it has certainly reached none.
    UnlessSent,
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
        let answered = self.ask_within(within, request, Repeat::Freely, call).await;
        let answered = answered.map_err(|error| match error {
            CallError::Indeterminate { message } => {
                CallError::Unavailable { reason: NO_ANSWER.to_owned(), message }
            }
            error => error,
        })?;
        Ok(answered.response)
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
                        Verdict::Refused => return Err(failure.into_call_error(false)),
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
                    attempts.add(at, Arc::clone(self).attempt(at, request.clone(), call, left));
                    if repeat == Repeat::Freely && attempts.count() < self.endpoints.len() {
                        next_at = Some(Instant::now() + patience);
                    }
                }
                () = sleep_until(deadline) => {
                    let Failure { reason, message, .. } = last;
                    return Err(match may_be_done || has_left(&running, |_| true) {
                        true => CallError::Indeterminate { message },
                        false => CallError::Unavailable { reason, message },
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
        if !self.clusters.is_ours(at) {
            // Before anything is done there.
            self.clusters.said(at, clusters::ask(channel.clone()).await?)?;
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
            None if answer.is_ok() => return Err(Status::internal(UNNAMED).into()),
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
