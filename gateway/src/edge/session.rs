//! A Session stream: one task, hyper's own, reads its calls and writes its answers.
//!
//! Reading happens when hyper asks for the next message to write, which it does only while the
//! client takes what was written. So a client that does not read its answers is not read either:
//! its calls stay in its own buffers, and HTTP/2 tells it to wait. No queue here grows by it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use sharklock_proto::v1::{SessionRequest, SessionResponse};
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::{host::Host, metrics::RpcTimer, status::status};
use crate::{
    SessionPort,
    failure::{Failure, Reason},
};

/// Messages read in one go before what has been answered is written.
const MESSAGES_PER_TURN: usize = 16;

/// A gateway that has just started hears of its cluster within a moment.
const NO_CLUSTER_RETRY_MS: u64 = 100;

/// See the module.
pub(super) struct SessionStream {
    host: Arc<Host>,
    port: SessionPort,
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
    pub(super) fn open(host: &Arc<Host>, address: String) -> Result<SessionPort, Failure> {
        if host.stopping.is_cancelled() {
            return Err(stopping());
        }
        if host.cluster.id().is_none() {
            return Err(no_cluster());
        }
        SessionPort::open(&host.hub, address)
    }

    pub(super) fn new(
        host: Arc<Host>,
        port: SessionPort,
        calls: Streaming<SessionRequest>,
        address: &str,
        rpc: RpcTimer,
    ) -> Self {
        let stop = Box::pin(host.stopping.clone().cancelled_owned());
        let span = tracing::debug_span!("session", stream = port.number().0, %address);
        Self { host, port, calls, calls_ended: false, ended: false, stop: Some(stop), rpc, span }
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
                    self.port.take_in(self.host.now_us(), message?).map_err(status)?;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn end(&mut self, end: Result<(), Status>) -> Poll<Option<Result<SessionResponse, Status>>> {
        self.ended = true;
        match end {
            Ok(()) => {
                self.rpc.set_code(tonic::Code::Ok);
                Poll::Ready(None)
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), "the stream ends");
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
        match this.port.poll_take_out(cx) {
            Poll::Ready(Ok(message)) => Poll::Ready(Some(Ok(message))),
            Poll::Ready(Err(failure)) => this.end(Err(status(failure))),
            Poll::Pending => {
                if this.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(cx).is_ready()) {
                    this.stop = None;
                }
                // What was asked is answered first, also when the gateway stops.
                match (this.calls_ended, this.stop.is_none()) {
                    (false, false) => Poll::Pending,
                    _ if !this.port.is_idle() => Poll::Pending,
                    (true, _) => this.end(Ok(())),
                    (false, true) => this.end(Err(status(stopping()))),
                }
            }
        }
    }
}

pub(super) fn no_cluster() -> Failure {
    let message = "this gateway has heard of no cluster yet: no leading master answers it";
    Failure::new(Reason::NoLeader, message).retry_after(NO_CLUSTER_RETRY_MS)
}

pub(super) fn stopping() -> Failure {
    Failure::new(
        Reason::ShuttingDown,
        "this gateway is stopping: go on with another one, by the same names",
    )
}
