//! The connections of a session: dials one endpoint after the other, opens the two streams (D16),
//! and hands over what comes in; a spare connection to another endpoint beside the main one, while
//! the session wants it. It knows no lock.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sharklock_proto::v1::{self, lock_service_client::LockServiceClient};
use tokio::time::{Sleep, timeout};
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

/// The same where there is another endpoint to try: a gateway that is cut off must not use up the
/// leases of those who look for one.
const DIAL_TIMEOUT_OF_MANY: Duration = Duration::from_secs(2);

/// Messages taken from the streams in one go; the rest comes in the next turn.
const MESSAGES_PER_TURN_MAX: usize = 32;

/// Where the connection stands.
enum State {
    /// Nobody needs one.
    Idle,
    /// The next dial waits.
    Pausing(Pin<Box<Sleep>>),
    Dialling(Dial),
    Up(Box<Streams>),
}

type Dial = Pin<Box<dyn Future<Output = Result<Box<Streams>, String>> + Send>>;

struct Streams {
    acquires_in: Streaming<v1::SessionResponse>,
    urgent_in: Streaming<v1::SessionResponse>,
    acquires_out: Arc<Outbox>,
    urgent_out: Arc<Outbox>,
}

/// What the connections report.
pub(crate) enum LinkEvent {
    /// Both streams are open.
    Connected,
    /// Messages of either connection have been put into the caller's list.
    Messages,
    /// The streams are gone, or could not be opened.
    Lost { why: String },
    /// Both streams of the spare connection are open.
    SpareConnected,
    /// They are gone.
    SpareLost,
}

pub(crate) struct Link {
    endpoints: Vec<Endpoint>,
    rotation: Rotation,
    id: Arc<SessionId>,
    main: State,
    spare: State,
    /// The endpoint of the spare connection, as far as there is one.
    spare_at: usize,
}

impl Link {
    pub(crate) fn new(endpoints: Vec<Endpoint>, id: Arc<SessionId>) -> Self {
        let rotation = Rotation::new(endpoints.len(), rand::random());
        Self { endpoints, rotation, id, main: State::Idle, spare: State::Idle, spare_at: 0 }
    }

    /// Makes sure that there is a connection, or will be; or, when nobody needs one, that none is
    /// sought. One that is up stays.
    pub(crate) fn want(&mut self, wanted: bool) {
        match (&self.main, wanted) {
            (State::Idle, true) => self.main = State::Dialling(self.dial(self.rotation.current())),
            (State::Pausing(_) | State::Dialling(_), false) => self.main = State::Idle,
            (State::Idle | State::Up(_), false)
            | (State::Pausing(_) | State::Dialling(_) | State::Up(_), true) => {}
        }
    }

    /// Makes sure that there is a spare connection, or will be, if there is another endpoint; or
    /// that there is none.
    pub(crate) fn want_spare(&mut self, wanted: bool) {
        match (&self.spare, wanted) {
            (State::Idle, true) => self.spare = self.dial_spare(),
            (_, false) => self.spare.hang_up(State::Idle),
            (State::Pausing(_) | State::Dialling(_) | State::Up(_), true) => {}
        }
    }

    /// Leaves the connection for the next endpoint's.
    pub(crate) fn leave(&mut self) {
        self.rotation.leave();
        let next = State::Dialling(self.dial(self.rotation.current()));
        self.main.hang_up(next);
    }

    /// Leaves the spare connection for the next other endpoint's.
    pub(crate) fn leave_spare(&mut self) {
        self.rotation.leave_spare();
        let next = self.dial_spare();
        self.spare.hang_up(next);
    }

    /// Leaves the main connection; the spare one, which is up, takes its place.
    pub(crate) fn move_to_spare(&mut self) {
        assert!(matches!(self.spare, State::Up(_)), "there is no other connection to move to");
        let spare = std::mem::replace(&mut self.spare, State::Idle);
        self.main.hang_up(spare);
        self.rotation.move_to(self.spare_at);
        tracing::info!(endpoint = %self.endpoint().uri(), "moved to another gateway");
    }

    /// Takes the calls if the connection is up.
    pub(crate) fn send(
        &self,
        acquires: &mut Vec<v1::SessionCall>,
        urgent: &mut Vec<v1::SessionCall>,
    ) {
        let State::Up(streams) = &self.main else {
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

    /// Takes keepalives for the spare connection if it is up.
    pub(crate) fn send_spare(&self, urgent: &mut Vec<v1::SessionCall>) {
        match &self.spare {
            State::Up(streams) if !urgent.is_empty() => streams.urgent_out.put(urgent),
            _ => assert!(urgent.is_empty(), "calls without a spare connection"),
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
        match self.poll_main(cx, messages) {
            Poll::Pending => self.poll_spare(cx, messages),
            ready => ready,
        }
    }

    fn poll_main(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<v1::SessionResponse>,
    ) -> Poll<LinkEvent> {
        loop {
            match &mut self.main {
                State::Idle => return Poll::Pending,
                State::Pausing(pause) => {
                    std::task::ready!(pause.as_mut().poll(cx));
                    self.main = State::Dialling(self.dial(self.rotation.current()));
                }
                State::Dialling(dial) => match std::task::ready!(dial.as_mut().poll(cx)) {
                    Ok(streams) => {
                        tracing::debug!(endpoint = %self.endpoint().uri(), "connected");
                        self.main = State::Up(streams);
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

    fn poll_spare(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<v1::SessionResponse>,
    ) -> Poll<LinkEvent> {
        loop {
            match &mut self.spare {
                State::Idle => return Poll::Pending,
                State::Pausing(pause) => {
                    std::task::ready!(pause.as_mut().poll(cx));
                    self.spare = self.dial_spare();
                }
                State::Dialling(dial) => match std::task::ready!(dial.as_mut().poll(cx)) {
                    Ok(streams) => {
                        self.rotation.spare_connected();
                        self.spare = State::Up(streams);
                        return Poll::Ready(LinkEvent::SpareConnected);
                    }
                    Err(why) => self.pause_spare(&why),
                },
                State::Up(streams) => {
                    let ended = streams.poll(cx, messages);
                    if !messages.is_empty() {
                        return Poll::Ready(LinkEvent::Messages);
                    }
                    let why = std::task::ready!(ended);
                    self.pause_spare(&why);
                    return Poll::Ready(LinkEvent::SpareLost);
                }
            }
        }
    }

    fn pause_spare(&mut self, why: &str) {
        tracing::debug!(endpoint = %self.endpoints[self.spare_at].uri(), why, "no spare connection");
        let pause = self.rotation.spare_lost();
        self.spare.hang_up(State::Pausing(Box::pin(tokio::time::sleep(pause))));
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
        self.main.hang_up(State::Pausing(Box::pin(tokio::time::sleep(pause))));
        LinkEvent::Lost { why }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.rotation.current()]
    }

    fn dial_spare(&mut self) -> State {
        let Some(at) = self.rotation.spare() else { return State::Idle };
        self.spare_at = at;
        State::Dialling(self.dial(at))
    }

    fn dial(&self, at: usize) -> Dial {
        let endpoint = self.endpoints[at].clone();
        let id = Arc::clone(&self.id);
        let within = if self.endpoints.len() > 1 { DIAL_TIMEOUT_OF_MANY } else { DIAL_TIMEOUT };
        Box::pin(async move {
            match timeout(within, open(endpoint, &id)).await {
                Ok(streams) => streams,
                Err(_) => Err(format!("no connection within {} s", within.as_secs())),
            }
        })
    }
}

impl State {
    /// The connection ends with the streams' last owners: the outgoing halves are told to end.
    fn hang_up(&mut self, next: Self) {
        if let Self::Up(streams) = std::mem::replace(self, next) {
            streams.acquires_out.close();
            streams.urgent_out.close();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.main.hang_up(State::Idle);
        self.spare.hang_up(State::Idle);
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
