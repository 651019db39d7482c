//! A Session stream: one task, hyper's own, reads its calls and writes its answers.
//!
//! Reading happens when hyper asks for the next message to write, which it does only while the
//! client takes what was written. So a client that does not read its answers is not read either:
//! its calls stay in its own buffers, and HTTP/2 tells it to wait. No queue here grows by it, and after
//! a while its connection is closed (`unread.rs`).
//!
//! A stream has a place (`seats.rs`), which it may lose to others as long as it holds nothing, and must
//! say something soon after it was opened.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sharklock_proto::v1::{
    AcquireOutcome, AcquisitionEventKind, KeepAliveState, SessionAnswer, SessionRequest,
    SessionResponse, session_answer::Body,
};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{host::Host, metrics::RpcTimer, quota::Full, seats::Seat, status::status};
use crate::{
    SessionPort,
    failure::{Failure, Reason},
    validate::TTL_MS_MAX,
};

/// Messages read in one go before what has been answered is written.
const MESSAGES_PER_TURN: usize = 16;
/// For so long a stream counts as holding something after it was told so: the longest ttl, within
/// which a client that lives renews.
const HELD_FOR: Duration = Duration::from_millis(TTL_MS_MAX);

/// A gateway that has just started hears of its cluster within a moment.
const NO_CLUSTER_RETRY_MS: u64 = 100;

/// See the module.
pub(super) struct SessionStream {
    host: Arc<Host>,
    port: SessionPort,
    seat: Seat,
    /// When it must have spoken; then when it is to be seen whether it still holds something.
    alarm: Pin<Box<Sleep>>,
    has_spoken: bool,
    /// When it was last told that it holds something, or waits for it.
    held: Option<Instant>,
    calls: Streaming<SessionRequest>,
    /// The client has said all that it had to say.
    calls_ended: bool,
    ended: bool,
    /// Resolves when the gateway stops; None once it has.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    rpc: RpcTimer,
    span: tracing::Span,
}

impl SessionStream {
    /// Fails when too many streams are open, or while no cluster is known: the answer to opening a
    /// stream names the cluster to which all that follows belongs.
    pub(super) fn open(
        host: &Arc<Host>,
        ip: IpAddr,
        address: String,
    ) -> Result<(SessionPort, Seat), Failure> {
        if host.stopping.is_cancelled() {
            return Err(stopping());
        }
        if host.cluster.id().is_none() {
            return Err(no_cluster(host));
        }
        let seat = host.seats.take(ip).map_err(too_many_streams)?;
        Ok((SessionPort::open(&host.hub, address)?, seat))
    }

    pub(super) fn new(
        host: Arc<Host>,
        (port, seat): (SessionPort, Seat),
        calls: Streaming<SessionRequest>,
        address: &str,
        rpc: RpcTimer,
    ) -> Self {
        let stop = Box::pin(host.stopping.clone().cancelled_owned());
        let span = tracing::debug_span!("session", stream = port.number().0, %address);
        let alarm = Box::pin(sleep(host.config.first_word_within));
        Self {
            host,
            port,
            seat,
            alarm,
            has_spoken: false,
            held: None,
            calls,
            calls_ended: false,
            ended: false,
            stop: Some(stop),
            rpc,
            span,
        }
    }

    /// Why the stream has to end, though neither the client nor the gateway wants it.
    fn check_place(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        if self.seat.is_lost(cx) {
            return Err(displaced());
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if !self.has_spoken {
                self.host.metrics.stream_ended("silent");
                return Err(silent(self.host.config.first_word_within));
            }
            let next = self.held.unwrap_or_else(Instant::now) + HELD_FOR;
            if next <= Instant::now() {
                (self.held, _) = (None, self.seat.holds(false));
            }
            self.alarm.as_mut().reset(next.max(Instant::now() + HELD_FOR / 8));
        }
        Ok(())
    }

    /// The client has said something.
    fn spoke(&mut self) {
        if !self.has_spoken {
            self.has_spoken = true;
            self.seat.spoke();
            self.alarm.as_mut().reset(Instant::now() + HELD_FOR);
        }
    }

    /// The client is told something: does its session hold anything?
    fn tells(&mut self, message: &SessionResponse) {
        if message.answers.iter().any(shows_hold) {
            self.held = Some(Instant::now());
            self.seat.holds(true);
        }
    }

    /// Reads and sends what has arrived; an error ends the stream.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), Status> {
        for _ in 0..MESSAGES_PER_TURN {
            if self.calls_ended || self.stop.is_none() {
                return Ok(());
            }
            match Pin::new(&mut self.calls).poll_next(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.calls_ended = true,
                Poll::Ready(Some(message)) => {
                    self.spoke();
                    let taken = self.port.take_in(self.host.now_us(), message?);
                    taken.map_err(|failure| self.refusal(failure))?;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The status with which the stream ends for a reason of ours.
    fn refusal(&self, failure: Failure) -> Status {
        self.host.metrics.failed(failure.reason);
        status(failure)
    }

    fn end(&mut self, end: Result<(), Status>) -> Poll<Option<Result<SessionResponse, Status>>> {
        self.ended = true;
        match end {
            Ok(()) => {
                self.rpc.set_code(tonic::Code::Ok);
                Poll::Ready(None)
            }
            Err(status) => {
                tracing::debug!(why = status.message(), "a Session stream ends");
                self.rpc.set_code(status.code());
                Poll::Ready(Some(Err(status)))
            }
        }
    }
}

impl Stream for SessionStream {
    type Item = Result<SessionResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let span = this.span.clone();
        let _entered = span.enter();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Err(status) = this.take_in(cx) {
            return this.end(Err(status));
        }
        if let Err(failure) = this.check_place(cx) {
            let refusal = this.refusal(failure);
            return this.end(Err(refusal));
        }
        match this.port.poll_take_out(cx) {
            Poll::Ready(Ok(message)) => {
                this.tells(&message);
                Poll::Ready(Some(Ok(message)))
            }
            Poll::Ready(Err(failure)) => {
                let refusal = this.refusal(failure);
                this.end(Err(refusal))
            }
            Poll::Pending => {
                if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
                    this.stop = None;
                }
                // Open calls are answered first, also when the gateway stops.
                match (this.calls_ended, this.stop.is_none()) {
                    (false, false) => Poll::Pending,
                    _ if !this.port.is_idle() => Poll::Pending,
                    (true, _) => this.end(Ok(())),
                    (false, true) => {
                        let refusal = this.refusal(stopping());
                        this.end(Err(refusal))
                    }
                }
            }
        }
    }
}

/// Why this gateway knows no cluster yet: what the masters wait for.
pub(super) fn no_cluster(host: &Host) -> Failure {
    let message = format!("the cluster is still forming: {}", host.master_words.wait_for());
    Failure::new(Reason::NoCluster, message).retry_after(NO_CLUSTER_RETRY_MS)
}

/// Whether an answer says that its session holds something or waits for it.
fn shows_hold(answer: &SessionAnswer) -> bool {
    match &answer.body {
        Some(Body::Acquire(acquire)) => {
            matches!(acquire.outcome(), AcquireOutcome::Granted | AcquireOutcome::Queued)
        }
        Some(Body::KeepAlive(alive)) => {
            alive.answers.iter().any(|answer| answer.state() != KeepAliveState::Gone)
        }
        Some(Body::Event(event)) => event.kind() == AcquisitionEventKind::Granted,
        _ => false,
    }
}

fn too_many_streams(full: Full) -> Failure {
    let Full { of, max } = full;
    let message = format!(
        "the {of} has {max} Session streams open, which is its bound, and all of them hold \
         something: send the calls of several sessions over one stream, or use another gateway"
    );
    Failure::overloaded(&message).with("limit", of).with("max", max)
}

fn displaced() -> Failure {
    Failure::overloaded(
        "the stream held nothing, and its place was needed for another: open it again when there is \
         something to say",
    )
}

fn silent(within: Duration) -> Failure {
    let within = within.as_secs();
    let message = format!(
        "the stream said nothing within {within} s after it was opened: send a message, which may be \
         without calls, or open it when there is something to say"
    );
    Failure::new(Reason::SilentStream, message)
}

pub(super) fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "this gateway is stopping: go on with another one, by the same names",
    )
}
