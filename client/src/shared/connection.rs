//! One shared connection to an endpoint, the sessions that have places on it, and the task that hands
//! them what comes in.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use sharklock_proto::v1::{
    SessionAnswer, SessionCall, SessionResponse, lock_service_client::LockServiceClient,
    session_answer, session_call,
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_stream::Stream as _;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::{
    delays::Delays,
    inbox::Inbox,
    lane::{Frame, Lane, Outgoing},
    numbers::block_of,
};
use crate::{
    clusters::{Named, UNNAMED, named},
    failure::Down,
    status::{explain, failure, innermost},
};

/// Sessions of one connection. Far below what a gateway takes on one stream (16,384 calls that are
/// open), so that they are served also while it stands still for a second; and a thousand connections,
/// which it takes from one address, are those of a million sessions.
const SESSIONS_MAX: usize = 1_024;
/// Messages taken in before others of the process have their turn.
const MESSAGES_PER_TURN_MAX: usize = 32;

/// The connections to one endpoint.
pub(crate) struct Places {
    connections: Mutex<Vec<Arc<Connection>>>,
    delays: Arc<Delays>,
}

/// One of them, from when it is dialled.
struct Connection {
    sessions: Mutex<Sessions>,
    /// None: it is being dialled.
    opened: watch::Sender<Option<Result<Opened, Down>>>,
    acquires: Arc<Lane>,
    urgent: Arc<Lane>,
    /// The last session has left.
    empty: Notify,
}

#[derive(Default)]
struct Sessions {
    inboxes: BTreeMap<u32, Arc<Inbox>>,
    /// It has ended, or its last session has left.
    is_closed: bool,
    /// Somebody has left it since it did not serve, and nothing has come over it since.
    is_doubted: bool,
}

#[derive(Clone)]
struct Opened {
    cluster: Named,
    channel: Channel,
}

/// The place of a session on a connection: the streams of the session.
pub(crate) struct Seat {
    places: Arc<Places>,
    connection: Arc<Connection>,
    session: u32,
    frame: Frame,
    inbox: Arc<Inbox>,
    has_left: AtomicBool,
}

impl Places {
    pub(super) fn new(delays: &Arc<Delays>) -> Arc<Self> {
        Arc::new(Self { connections: Mutex::default(), delays: Arc::clone(delays) })
    }

    pub(super) fn count(&self) -> usize {
        self.connections().len()
    }

    pub(super) fn seats_count(&self) -> usize {
        self.connections().iter().map(|connection| connection.sessions().inboxes.len()).sum()
    }

    /// A place for a session on a connection to this endpoint, which is dialled if there is none with
    /// room: until it works or has not within `within`. Whoever waits for the same one hears the same.
    pub(crate) async fn take(
        self: Arc<Self>,
        endpoint: Endpoint,
        session: u32,
        frame: Frame,
        within: Duration,
    ) -> Result<(Seat, Named, Channel), Down> {
        let seat = self.seat(endpoint, session, frame, within);
        let mut opened = seat.connection.opened.subscribe();
        let opened = opened.wait_for(Option::is_some).await;
        let opened = opened.expect("the seat has the sender").clone();
        let Opened { cluster, channel } = opened.expect("it was waited for")?;
        Ok((seat, cluster, channel))
    }

    fn seat(
        self: Arc<Self>,
        endpoint: Endpoint,
        session: u32,
        frame: Frame,
        within: Duration,
    ) -> Seat {
        let inbox = Arc::<Inbox>::default();
        let (connection, carrying) = self.find(session, &inbox);
        if let Some(carrying) = carrying {
            // A runtime that is about to end drops it at once.
            tokio::spawn(carrying.run(endpoint, frame.clone(), within));
        }
        let has_left = AtomicBool::new(false);
        Seat { places: self, connection, session, frame, inbox, has_left }
    }

    /// A connection on which the session now has a place, and, if it is a new one, its task.
    fn find(
        self: &Arc<Self>,
        session: u32,
        inbox: &Arc<Inbox>,
    ) -> (Arc<Connection>, Option<Carrying>) {
        let mut connections = self.connections();
        if let Some(known) = connections.iter().find(|it| it.seat(session, inbox)) {
            return (Arc::clone(known), None);
        }
        let made = Arc::new(Connection::new());
        assert!(made.seat(session, inbox), "it has just been made");
        connections.push(Arc::clone(&made));
        let carrying = Carrying { connection: Arc::clone(&made), places: Arc::clone(self) };
        (made, Some(carrying))
    }

    /// A panic cannot leave the list half changed.
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new() -> Self {
        Self {
            sessions: Mutex::default(),
            opened: watch::Sender::new(None),
            acquires: Arc::default(),
            urgent: Arc::default(),
            empty: Notify::new(),
        }
    }

    /// Whether the session has got a place.
    fn seat(&self, session: u32, inbox: &Arc<Inbox>) -> bool {
        let mut sessions = self.sessions();
        let Sessions { inboxes, is_closed, is_doubted } = &mut *sessions;
        // One that has a place here already, for another purpose, needs another connection.
        if *is_closed
            || *is_doubted
            || inboxes.len() >= SESSIONS_MAX
            || inboxes.contains_key(&session)
        {
            return false;
        }
        inboxes.insert(session, Arc::clone(inbox));
        true
    }

    /// Whether that was the last one.
    fn leave(&self, session: u32) -> bool {
        self.acquires.forget(session);
        self.urgent.forget(session);
        let mut sessions = self.sessions();
        sessions.inboxes.remove(&session);
        let is_empty = sessions.inboxes.is_empty();
        sessions.is_closed |= is_empty;
        is_empty
    }

    /// It works no more, or never has.
    fn end(&self, why: &Down) {
        let mut sessions = self.sessions();
        sessions.is_closed = true;
        sessions.inboxes.values().for_each(|inbox| inbox.end(&why.why));
        drop(sessions);
        self.opened.send_if_modified(|opened| {
            let waited_for = opened.is_none();
            opened.get_or_insert_with(|| Err(why.clone()));
            waited_for
        });
        self.close();
    }

    fn close(&self) {
        self.acquires.close();
        self.urgent.close();
        self.empty.notify_one();
    }

    /// Hands each session what is for it. What is for nobody comes late: its session has left.
    fn deliver(&self, message: SessionResponse, now: Instant, delays: &Delays) {
        let mut by_session = BTreeMap::<u32, Vec<SessionAnswer>>::new();
        for answer in message.answers {
            let number = match &answer.body {
                Some(session_answer::Body::Event(event)) => event.acquisition_id,
                _ => answer.call_id,
            };
            by_session.entry(block_of(number)).or_default().push(answer);
        }
        let mut sessions = self.sessions();
        sessions.is_doubted = false;
        let for_whom = by_session.into_iter().filter_map(|(session, answers)| {
            Some((Arc::clone(sessions.inboxes.get(&session)?), answers))
        });
        let for_whom: Vec<_> = for_whom.collect();
        drop(sessions);
        for (inbox, answers) in for_whom {
            inbox.put(answers, now, |delay| delays.answered(delay));
        }
    }

    /// A panic cannot leave it half changed.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a connection. Its end, also that of the runtime, ends the connection.
struct Carrying {
    connection: Arc<Connection>,
    places: Arc<Places>,
}

impl Carrying {
    async fn run(self, endpoint: Endpoint, greeting: Frame, within: Duration) {
        tokio::select! {
            // Nobody needs it any more, however far it is.
            () = self.connection.empty.notified() => {}
            why = self.carry(endpoint, &greeting, within) => self.connection.end(&why),
        }
    }

    /// Opens it and hands out what comes in, until it works no more: why.
    async fn carry(&self, endpoint: Endpoint, greeting: &Frame, within: Duration) -> Down {
        let connection = &*self.connection;
        let opening = open(endpoint, connection, greeting);
        let (opened, [mut urgent, mut acquires]) = match timeout(within, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(why)) => return why,
            Err(_) => return Down::silent(format!("no answer within {} s", within.as_secs())),
        };
        connection.opened.send_replace(Some(Ok(opened)));
        let mut messages = Vec::new();
        loop {
            let ended = poll_fn(|cx| {
                // Urgent answers first: leases count on them.
                for stream in [&mut urgent, &mut acquires] {
                    if let Poll::Ready(why) = take(stream, cx, &mut messages) {
                        return Poll::Ready(Some(why));
                    }
                }
                if messages.is_empty() { Poll::Pending } else { Poll::Ready(None) }
            })
            .await;
            let now = now();
            for message in messages.drain(..) {
                connection.deliver(message, now, &self.places.delays);
            }
            if let Some(why) = ended {
                return why.into();
            }
            tokio::task::coop::consume_budget().await;
        }
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.connection.end(&"its tokio runtime has ended".into());
        self.places.connections().retain(|other| !Arc::ptr_eq(other, &self.connection));
    }
}

/// Takes what has come in over one stream. Ready when it has ended, with the reason.
fn take(
    stream: &mut Streaming<SessionResponse>,
    cx: &mut Context<'_>,
    messages: &mut Vec<SessionResponse>,
) -> Poll<String> {
    for _ in 0..MESSAGES_PER_TURN_MAX {
        match std::task::ready!(Pin::new(&mut *stream).poll_next(cx)) {
            Some(Ok(message)) => messages.push(message),
            Some(Err(status)) => return Poll::Ready(explain(&status)),
            None => return Poll::Ready("the server closed the stream".to_owned()),
        }
    }
    Poll::Pending
}

/// Connects, and opens the streams of urgent calls and of acquires.
async fn open(
    endpoint: Endpoint,
    connection: &Connection,
    greeting: &Frame,
) -> Result<(Opened, [Streaming<SessionResponse>; 2]), Down> {
    let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
    let [mut first, mut second] = [(); 2].map(|()| LockServiceClient::new(channel.clone()));
    let opened = tokio::try_join!(
        first.session(Outgoing::new(&connection.urgent, greeting)),
        second.session(Outgoing::new(&connection.acquires, greeting))
    );
    let (urgent, acquires) = opened.map_err(|status| failure(&status))?;
    let named = [urgent.metadata(), acquires.metadata()].map(named);
    let [Some(cluster), Some(again)] = named else { return Err(UNNAMED.into()) };
    if again.cluster != cluster.cluster {
        return Err("it names two clusters at once".into());
    }
    Ok((Opened { cluster, channel }, [urgent.into_inner(), acquires.into_inner()]))
}

impl Seat {
    /// Takes what has come in until there are `max` messages. Ready when the connection has ended,
    /// with the reason.
    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
        messages: &mut Vec<SessionResponse>,
        max: usize,
    ) -> Poll<String> {
        self.inbox.poll(cx, messages, max)
    }

    pub(crate) fn send_acquires(&self, calls: &mut Vec<SessionCall>) {
        self.connection.acquires.put(self.session, &self.frame, calls);
    }

    pub(crate) fn send_urgent(&self, calls: &mut Vec<SessionCall>) {
        for call in &*calls {
            if let Some(session_call::Body::KeepAlive(_)) = call.body {
                self.places.delays.sent();
                self.inbox.asked(call.call_id, now());
            }
        }
        self.connection.urgent.put(self.session, &self.frame, calls);
    }

    /// The connection does not serve its session: nobody else is to begin with it, until something
    /// comes over it that shows otherwise.
    pub(crate) fn doubt(&self) {
        self.connection.sessions().is_doubted = true;
    }

    /// Leaves the connection, which ends with the last of its sessions.
    pub(crate) fn leave(&self) {
        if !self.has_left.swap(true, Ordering::Relaxed) && self.connection.leave(self.session) {
            self.connection.close();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[expect(clippy::disallowed_methods, reason = "delays of keepalives are measured at the edge")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use sharklock_proto::v1::{AcquisitionEvent, KeepAliveResponse};

    use super::{super::numbers::Numbers, *};

    /// An answer to the call of this number.
    fn answer(call_id: u64) -> SessionAnswer {
        let body = session_answer::Body::KeepAlive(KeepAliveResponse::default());
        SessionAnswer { call_id, body: Some(body) }
    }

    /// News of the acquisition of this number.
    fn event(acquisition_id: u64) -> SessionAnswer {
        let event = AcquisitionEvent { acquisition_id, ..AcquisitionEvent::default() };
        SessionAnswer { call_id: 0, body: Some(session_answer::Body::Event(event)) }
    }

    fn taken(inbox: &Inbox) -> Vec<SessionAnswer> {
        let (mut cx, mut messages) = (Context::from_waker(Waker::noop()), Vec::new());
        assert!(inbox.poll(&mut cx, &mut messages, 32).is_pending());
        messages.into_iter().flat_map(|message| message.answers).collect()
    }

    #[test]
    fn answers_and_events_go_to_the_sessions_whose_numbers_they_name() {
        let (numbers, connection) = (Arc::<Numbers>::default(), Connection::new());
        let blocks = [(); 3].map(|()| Numbers::take(&numbers).expect("few are used"));
        let inboxes = [(); 3].map(|()| Arc::<Inbox>::default());
        for (block, inbox) in blocks.iter().zip(&inboxes) {
            assert!(connection.seat(block.number(), inbox));
        }
        assert!(!connection.seat(blocks[0].number(), &inboxes[0]), "it has a place");
        connection.leave(blocks[2].number());
        let [first, second, gone] = [0, 1, 2].map(|at: usize| blocks[at].used());
        let answers = [answer(first + 1), event(second + 1), answer(gone + 1), event(first + 2)];
        let message = SessionResponse { answers: answers.to_vec() };
        connection.deliver(message, now(), &Delays::default());
        assert_eq!(taken(&inboxes[0]), [answers[0].clone(), answers[3].clone()]);
        assert_eq!(taken(&inboxes[1]), [answers[1].clone()]);
        assert_eq!(taken(&inboxes[2]), []);
    }

    #[test]
    fn a_full_connection_takes_nobody_in_nor_one_that_has_ended() {
        let (connection, inbox) = (Connection::new(), Arc::<Inbox>::default());
        let sessions = u32::try_from(SESSIONS_MAX).expect("it is small");
        assert!((0..sessions).all(|session| connection.seat(session, &inbox)));
        assert!(!connection.seat(sessions, &inbox));
        assert!(!connection.leave(0));
        assert!(connection.seat(sessions, &inbox));
        let (ended_one, inbox) = (Connection::new(), Arc::<Inbox>::default());
        assert!(ended_one.seat(1, &inbox));
        ended_one.end(&"broken".into());
        assert!(!ended_one.seat(2, &inbox));
        let ended = inbox.poll(&mut Context::from_waker(Waker::noop()), &mut Vec::new(), 32);
        assert_eq!(ended, Poll::Ready("broken".to_owned()));
        assert!(ended_one.leave(1), "it was the last");
    }

    #[test]
    fn a_doubted_connection_takes_nobody_in_until_something_comes_over_it() {
        let places = Places::new(&Arc::default());
        let inbox = Arc::<Inbox>::default();
        let (connection, carrying) = places.find(1, &inbox);
        assert!(carrying.is_some(), "it is new");
        connection.sessions().is_doubted = true;
        let (other, second) = places.find(2, &inbox);
        assert!(second.is_some() && !Arc::ptr_eq(&connection, &other));
        connection.deliver(SessionResponse::default(), now(), &Delays::default());
        let (again, third) = places.find(3, &inbox);
        assert!(third.is_none() && Arc::ptr_eq(&connection, &again));
    }
}
