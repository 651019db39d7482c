//! The connections of a session: dials endpoints until one works, opens the two streams (D16),
//! and hands over what comes in; a spare connection to another endpoint beside the main one, while
//! the session wants it. It knows no lock.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sharklock_proto::v1;
use tokio::time::Sleep;
use tonic::transport::Endpoint;

use crate::{
    asking::Asking,
    cluster::Membership,
    dial::{Dialler, Dialling, Streams},
    failure::Down,
    session::{Rotation, patience},
    session_id::SessionId,
    shared::{Group, Turn},
};

/// The state of the connection.
enum State {
    /// Nobody needs one.
    Idle,
    /// The next dial waits.
    Pausing(Pin<Box<Sleep>>),
    Dialling(Dialling),
    Up(Box<Streams>),
}

/// The answer of a gateway that lives, whatever it is; the error is for people.
type Check = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The reports of the connections.
pub(crate) enum LinkEvent {
    /// Both streams are open.
    Connected,
    /// Messages of either connection have been put into the caller's list.
    Messages,
    /// The streams are gone, or could not be opened.
    Lost { why: Down },
    /// Both streams of the spare connection are open.
    SpareConnected,
    /// They are gone.
    SpareLost,
}

pub(crate) struct Link {
    dialler: Dialler,
    rotation: Rotation,
    /// How long an endpoint that is dialled may say nothing before another is dialled beside it.
    patience: Duration,
    /// The others are asked to which cluster they belong.
    asking: Option<(Asking, Arc<Turn>)>,
    /// The main connection's gateway is asked whether it lives.
    check: Option<Check>,
    main: State,
    spare: State,
    /// The endpoint of the spare connection, as far as there is one.
    spare_at: usize,
}

impl Link {
    /// `shares_as` is the session's number among those that share connections.
    pub(crate) fn new(group: Arc<Group>, id: Arc<SessionId>, shares_as: Option<u32>) -> Self {
        Self {
            rotation: Rotation::new(group.endpoints.len(), rand::random()),
            dialler: Dialler::new(group, id, shares_as),
            patience: patience(None),
            asking: None,
            check: None,
            main: State::Idle,
            spare: State::Idle,
            spare_at: 0,
        }
    }

    /// More is known of the clusters to which the endpoints belong.
    pub(crate) fn heed(&mut self, known: &Membership) {
        self.rotation.bar(|at| known.mismatch(at).is_some());
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.main, State::Up(_))
    }

    /// How long an endpoint that is dialled from now on may say nothing before another is dialled
    /// beside it.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Makes sure that there is a connection, or will be; or, when nobody needs one, that none is
    /// sought. One that is up stays.
    pub(crate) fn want(&mut self, wanted: bool) {
        match (&self.main, wanted) {
            (State::Idle, true) => self.main = self.dial(),
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

    /// The connection counts as lost unless its gateway answers a question within `patience`.
    pub(crate) fn check(&mut self, patience: Duration) {
        if let State::Up(streams) = &self.main {
            self.check = Some(Box::pin(streams.check(patience)));
        }
    }

    /// Leaves the connection for the next endpoint's.
    pub(crate) fn leave(&mut self) {
        self.rotation.leave();
        self.main.doubt();
        let next = self.dial();
        self.hang_up(next);
    }

    /// Leaves the spare connection for the next other endpoint's.
    pub(crate) fn leave_spare(&mut self) {
        self.rotation.leave_spare();
        self.spare.doubt();
        let next = self.dial_spare();
        self.spare.hang_up(next);
    }

    /// Leaves the main connection; the spare one, which is up, takes its place.
    pub(crate) fn move_to_spare(&mut self) {
        assert!(matches!(self.spare, State::Up(_)), "there is no other connection to move to");
        let spare = std::mem::replace(&mut self.spare, State::Idle);
        self.main.doubt();
        self.hang_up(spare);
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
            streams.send_urgent(urgent);
        }
        if !acquires.is_empty() {
            streams.send_acquires(acquires);
        }
    }

    /// Takes keepalives for the spare connection if it is up.
    pub(crate) fn send_spare(&self, urgent: &mut Vec<v1::SessionCall>) {
        match &self.spare {
            State::Up(streams) if !urgent.is_empty() => streams.send_urgent(urgent),
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
        if self.asking.as_mut().is_some_and(|(asking, _)| asking.poll(cx).is_ready()) {
            self.asking = None;
        }
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
            let Self { dialler, rotation, patience, main, check, .. } = self;
            match main {
                State::Idle => return Poll::Pending,
                State::Pausing(pause) => {
                    std::task::ready!(pause.as_mut().poll(cx));
                    self.main = self.dial();
                }
                State::Dialling(dialling) => {
                    let next = |tried: &[usize]| rotation.challenger(tried);
                    let dialled = std::task::ready!(dialling.poll(cx, dialler, *patience, next));
                    match dialled {
                        Ok((at, streams)) => {
                            rotation.dialled(at);
                            *main = State::Up(streams);
                            tracing::debug!(endpoint = %self.endpoint().uri(), "connected");
                            return Poll::Ready(LinkEvent::Connected);
                        }
                        Err(why) => return Poll::Ready(self.lost(false, why)),
                    }
                }
                State::Up(streams) => {
                    let ended = streams.poll(cx, messages);
                    if !messages.is_empty() {
                        rotation.answered();
                        return Poll::Ready(LinkEvent::Messages);
                    }
                    let why = match (ended, check) {
                        (Poll::Ready(why), _) => why,
                        (Poll::Pending, None) => return Poll::Pending,
                        (Poll::Pending, Some(checking)) => {
                            let checked = std::task::ready!(checking.as_mut().poll(cx));
                            self.check = None;
                            let Err(why) = checked else { return Poll::Pending };
                            why
                        }
                    };
                    let why = format!("{}: {why}", self.endpoint().uri());
                    return Poll::Ready(self.lost(true, why.into()));
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
                State::Dialling(dialling) => {
                    let alone = |_: &[usize]| None;
                    let dialler = &self.dialler;
                    match std::task::ready!(dialling.poll(cx, dialler, self.patience, alone)) {
                        Ok((_, streams)) => {
                            self.rotation.spare_connected();
                            self.spare = State::Up(streams);
                            return Poll::Ready(LinkEvent::SpareConnected);
                        }
                        Err(down) => self.pause_spare(&down.why),
                    }
                }
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
        let endpoint = self.dialler.endpoint(self.spare_at).uri();
        tracing::debug!(%endpoint, why, "no spare connection");
        let pause = self.rotation.spare_lost();
        self.spare.hang_up(State::Pausing(Box::pin(tokio::time::sleep(pause))));
    }

    fn lost(&mut self, was_up: bool, down: Down) -> LinkEvent {
        let why = &*down.why;
        // One line when a connection is lost or cannot be had, not one per try.
        if was_up || !self.rotation.is_failing() {
            tracing::warn!(why, "no connection; trying again");
        } else {
            tracing::debug!(why, "no connection; trying again");
        }
        let pause = self.rotation.lost();
        self.main.doubt();
        self.hang_up(State::Pausing(Box::pin(tokio::time::sleep(pause))));
        LinkEvent::Lost { why: down }
    }

    /// Ends the main connection, and what was asked over it.
    fn hang_up(&mut self, next: State) {
        self.check = None;
        self.main.hang_up(next);
    }

    fn endpoint(&self) -> &Endpoint {
        self.dialler.endpoint(self.rotation.current())
    }

    fn dial(&mut self) -> State {
        self.dialler.ask_others(&mut self.asking, self.rotation.current(), self.patience);
        State::Dialling(Dialling::begin(&self.dialler, self.rotation.current(), self.patience))
    }

    fn dial_spare(&mut self) -> State {
        let Some(at) = self.rotation.spare() else { return State::Idle };
        self.spare_at = at;
        State::Dialling(Dialling::begin(&self.dialler, at, self.patience))
    }
}

impl State {
    /// Whoever shares the connection is to begin with another one.
    fn doubt(&self) {
        if let Self::Up(streams) = self {
            streams.doubt();
        }
    }

    /// The connection ends with the streams' last owners: the outgoing halves are told to end.
    fn hang_up(&mut self, next: Self) {
        if let Self::Up(streams) = std::mem::replace(self, next) {
            streams.close();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up(State::Idle);
        self.spare.hang_up(State::Idle);
    }
}
