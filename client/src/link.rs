//! The connection of a session: dials one endpoint after the other, opens the two streams (D16),
//! and hands over what comes in. It knows no lock.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sharklock_proto::v1::{self, lock_service_client::LockServiceClient};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream as _;
use tonic::{Streaming, transport::Endpoint};

use crate::{
    outbox::{Outbox, Outgoing},
    session::Rotation,
    session_id::SessionId,
    status::{explain, innermost},
};

/// Connecting and opening both streams.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages taken from the streams in one go; the rest comes in the next turn.
const MESSAGES_PER_TURN_MAX: usize = 32;

/// Where the connection stands.
enum State {
    /// Nobody needs one.
    Idle,
    /// The next dial waits.
    Pausing(Pin<Box<Sleep>>),
    Dialling(Pin<Box<dyn Future<Output = Result<Box<Streams>, String>> + Send>>),
    Up(Box<Streams>),
}

struct Streams {
    acquires_in: Streaming<v1::SessionResponse>,
    urgent_in: Streaming<v1::SessionResponse>,
    acquires_out: Arc<Outbox>,
    urgent_out: Arc<Outbox>,
}

/// What the connection reports.
pub(crate) enum LinkEvent {
    /// Both streams are open.
    Connected,
    /// Messages have been put into the caller's list.
    Messages,
    /// The streams are gone, or could not be opened.
    Lost { why: String },
}

pub(crate) struct Link {
    endpoints: Vec<Endpoint>,
    rotation: Rotation,
    id: Arc<SessionId>,
    state: State,
}

impl Link {
    pub(crate) fn new(endpoints: Vec<Endpoint>, id: Arc<SessionId>) -> Self {
        let rotation = Rotation::new(endpoints.len(), rand::random());
        Self { endpoints, rotation, id, state: State::Idle }
    }

    /// Makes sure that there is a connection, or will be; or, when nobody needs one, that none is
    /// sought. One that is up stays.
    pub(crate) fn want(&mut self, wanted: bool) {
        match (&self.state, wanted) {
            (State::Idle, true) => self.state = State::Dialling(self.dial()),
            (State::Pausing(_) | State::Dialling(_), false) => self.state = State::Idle,
            (State::Idle | State::Up(_), false)
            | (State::Pausing(_) | State::Dialling(_) | State::Up(_), true) => {}
        }
    }

    /// Leaves the connection for the next endpoint's.
    pub(crate) fn leave(&mut self) {
        self.rotation.leave();
        self.hang_up(State::Dialling(self.dial()));
    }

    /// Takes the calls if the connection is up.
    pub(crate) fn send(
        &self,
        acquires: &mut Vec<v1::SessionCall>,
        urgent: &mut Vec<v1::SessionCall>,
    ) {
        let State::Up(streams) = &self.state else {
            assert!(acquires.is_empty() && urgent.is_empty(), "calls without a connection");
            return;
        };
        if !urgent.is_empty() {
            streams.urgent_out.put(urgent);
        }
        if !acquires.is_empty() {
            streams.acquires_out.put(acquires);
        }
    }

    /// Waits for news; never ends while the connection is idle. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self, messages: &mut Vec<v1::SessionResponse>) -> LinkEvent {
        poll_fn(|cx| self.poll(cx, messages)).await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<v1::SessionResponse>,
    ) -> Poll<LinkEvent> {
        loop {
            match &mut self.state {
                State::Idle => return Poll::Pending,
                State::Pausing(pause) => {
                    std::task::ready!(pause.as_mut().poll(cx));
                    self.state = State::Dialling(self.dial());
                }
                State::Dialling(dial) => match std::task::ready!(dial.as_mut().poll(cx)) {
                    Ok(streams) => {
                        tracing::debug!(endpoint = %self.endpoint().uri(), "connected");
                        self.state = State::Up(streams);
                        return Poll::Ready(LinkEvent::Connected);
                    }
                    Err(why) => return Poll::Ready(self.lost(false, why)),
                },
                State::Up(streams) => {
                    let ended = streams.poll(cx, messages);
                    if !messages.is_empty() {
                        self.rotation.answered();
                        return Poll::Ready(LinkEvent::Messages);
                    }
                    let why = std::task::ready!(ended);
                    return Poll::Ready(self.lost(true, why));
                }
            }
        }
    }

    fn lost(&mut self, was_up: bool, why: String) -> LinkEvent {
        let endpoint = self.endpoint().uri();
        // One line when a connection is lost or cannot be had, not one per try.
        if was_up || !self.rotation.is_failing() {
            tracing::warn!(%endpoint, why, "no connection; trying again");
        } else {
            tracing::debug!(%endpoint, why, "no connection; trying again");
        }
        let why = format!("{endpoint}: {why}");
        let pause = self.rotation.lost();
        self.hang_up(State::Pausing(Box::pin(tokio::time::sleep(pause))));
        LinkEvent::Lost { why }
    }

    /// The connection ends with the streams' last owners: the outgoing halves are told to end.
    fn hang_up(&mut self, next: State) {
        if let State::Up(streams) = std::mem::replace(&mut self.state, next) {
            streams.acquires_out.close();
            streams.urgent_out.close();
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.rotation.current()]
    }

    fn dial(&self) -> Pin<Box<dyn Future<Output = Result<Box<Streams>, String>> + Send>> {
        let endpoint = self.endpoint().clone();
        let id = Arc::clone(&self.id);
        Box::pin(async move {
            let deadline = Instant::now() + DIAL_TIMEOUT;
            match tokio::time::timeout_at(deadline, open(endpoint, &id)).await {
                Ok(streams) => streams,
                Err(_) => Err(format!("no connection within {} s", DIAL_TIMEOUT.as_secs())),
            }
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up(State::Idle);
    }
}

impl Streams {
    /// Takes what has come in. Ready when a stream has ended, with the reason.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<v1::SessionResponse>,
    ) -> Poll<String> {
        // Urgent answers first: a lease counts on them.
        for stream in [&mut self.urgent_in, &mut self.acquires_in] {
            while messages.len() < MESSAGES_PER_TURN_MAX {
                match Pin::new(&mut *stream).poll_next(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Some(Ok(message))) => messages.push(message),
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(explain(&status)),
                    Poll::Ready(None) => {
                        return Poll::Ready("the server closed the stream".to_owned());
                    }
                }
            }
        }
        Poll::Pending
    }
}

async fn open(endpoint: Endpoint, id: &SessionId) -> Result<Box<Streams>, String> {
    let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
    let (acquires_out, urgent_out) = (Arc::new(Outbox::default()), Arc::new(Outbox::default()));
    let outgoing = |outbox: &Arc<Outbox>| Outgoing {
        outbox: Arc::clone(outbox),
        session_id: id.secret(),
        instance: id.instance(),
    };
    let mut acquires = LockServiceClient::new(channel.clone());
    let mut urgent = LockServiceClient::new(channel);
    let opened = tokio::try_join!(
        acquires.session(outgoing(&acquires_out)),
        urgent.session(outgoing(&urgent_out))
    );
    let (acquires_in, urgent_in) = opened.map_err(|status| explain(&status))?;
    Ok(Box::new(Streams {
        acquires_in: acquires_in.into_inner(),
        urgent_in: urgent_in.into_inner(),
        acquires_out,
        urgent_out,
    }))
}
