//! Response bodies that count their bytes from when the handler has answered until HTTP/2 may send
//! them.
//!
//! hyper takes one frame of a body at once, whether the stream's window is open or not, keeps it
//! until the window opens by a byte, and then hands the whole of it to h2, which keeps what the
//! window does not let through. So large frames go out in pieces, and what was taken is counted
//! until hyper asks for more, which it does once some of the window is left beyond it. The last piece
//! is a single byte: when that has gone, so has everything.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    acquire::Undelivered,
    listen::Peer,
    quota::Taken,
    unread::{AnswerNumber, Unread},
};

/// Most that h2 holds of a stream whose window lets nothing through: an HTTP/2 frame.
const PIECE_BYTES: usize = 16 << 10;
/// Frames up to this size go out whole. Of each stream so much may stand in h2 uncounted.
const WHOLE_BYTES: usize = 1 << 10;

/// The layer that counts the answers of a service.
#[derive(Clone, Copy)]
pub(super) struct Meter;

impl<S> Layer<S> for Meter {
    type Service = Metering<S>;

    fn layer(&self, inner: S) -> Metering<S> {
        Metering { inner }
    }
}

/// A service whose answers are counted.
#[derive(Clone)]
pub(super) struct Metering<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Metering<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Metered>;
    type Error = S::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Metered>, S::Error>> + Send + 'static>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.expect("every connection is a listen::Connection");
        let unread = peer.unread.clone();
        let answering = self.inner.call(request);
        Box::pin(async move {
            let (mut parts, body) = answering.await?.into_parts();
            let undelivered = parts.extensions.remove::<Undelivered>();
            Ok(Response::from_parts(parts, Metered::new(body, unread, undelivered)))
        })
    }
}

/// A response body whose bytes are charged to its connection until HTTP/2 may send them.
pub(super) struct Metered {
    inner: Body,
    unread: Arc<Unread>,
    number: AnswerNumber,
    /// The bytes that are not known to have been taken.
    charge: Taken,
    /// Of the frame in hand, what has not been given to hyper.
    rest: Bytes,
    /// The piece that hyper has, or has just given to h2.
    given: usize,
    undelivered: Option<Undelivered>,
}

impl Metered {
    fn new(inner: Body, unread: Arc<Unread>, undelivered: Option<Undelivered>) -> Self {
        let (number, charge) = (unread.number(), unread.charge());
        Self { inner, unread, number, charge, rest: Bytes::new(), given: 0, undelivered }
    }

    /// hyper asks for more: h2 has what it was given, and the window lets through all before that.
    fn settle(&mut self) {
        let given = std::mem::take(&mut self.given);
        if given == 0 {
            return;
        }
        self.unread.given(given);
        let waits = if self.rest.is_empty() { 0 } else { self.rest.len() + given };
        self.charge.shrink_to(waits);
        self.unread.progress(self.number, waits > 0);
        if waits == 0
            && let Some(undelivered) = self.undelivered.take()
        {
            undelivered.delivered();
        }
    }

    /// The next piece of the frame in hand.
    fn piece(&mut self) -> Bytes {
        let length = match self.rest.len() {
            length @ ..=WHOLE_BYTES => length,
            length => PIECE_BYTES.min(length - 1),
        };
        self.given = length;
        self.rest.split_to(length)
    }
}

impl http_body::Body for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        this.settle();
        ready!(this.unread.poll_transport(cx));
        if this.rest.is_empty() {
            ready!(this.unread.poll_room(cx));
            let frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(data) => {
                    this.charge.grow(data.len());
                    this.rest = data;
                    this.unread.progress(this.number, true);
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.unread.progress(self.number, false);
    }
}
