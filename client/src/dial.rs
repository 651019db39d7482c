//! Dialling: the two streams of a session to the first of several endpoints that works. Connections
//! to processes that are frozen stand, so only an answer counts; while one says nothing the next is
//! dialled beside it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use sharklock_proto::v1::{self, lock_service_client::LockServiceClient};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::Stream as _;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    asking::Asking,
    cluster::Standing,
    clusters::{Named, UNNAMED, ask, named},
    endpoint::shown,
    failure::Down,
    race::Race,
    session_id::SessionId,
    shared::{Frame, Group, Seat, Turn},
    status::{explain, failure, innermost},
    unsent::{Outgoing, Unsent},
};

/// Connecting and opening both streams.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The same where there is another endpoint to try: a gateway that is cut off must not use up the
/// leases of those who look for one.
const DIAL_TIMEOUT_OF_MANY: Duration = Duration::from_secs(2);

/// Messages taken from the streams in one go; the rest comes in the next turn.
const MESSAGES_PER_TURN_MAX: usize = 32;

type Dialled = Result<Box<Streams>, Down>;

/// The endpoints to dial, and the session that dials.
pub(crate) struct Dialler {
    group: Arc<Group>,
    id: Arc<SessionId>,
    /// The session's number among those that share connections; None: it has its own.
    shares_as: Option<u32>,
}

/// Endpoints that are being dialled, in the order in which they were begun.
pub(crate) struct Dialling {
    race: Race<Dialled>,
    /// Begun so far, also those that have failed.
    tried: Vec<usize>,
    /// When the next is begun beside those that run; None: nobody else is left.
    next: Option<Pin<Box<Sleep>>>,
    /// Why the others have failed.
    failures: Vec<Down>,
}

/// A connection that works, to the client's cluster.
pub(crate) struct Streams {
    cluster: Named,
    channel: Channel,
    streams: Both,
}

/// The two streams.
enum Both {
    Own(Box<OwnStreams>),
    Shared(Seat),
}

struct OwnStreams {
    acquires_in: Streaming<v1::SessionResponse>,
    urgent_in: Streaming<v1::SessionResponse>,
    acquires_out: Arc<Unsent>,
    urgent_out: Arc<Unsent>,
}

impl Dialler {
    pub(crate) fn new(group: Arc<Group>, id: Arc<SessionId>, shares_as: Option<u32>) -> Self {
        Self { group, id, shares_as }
    }

    /// Asks all but this one, which is dialled, to which cluster they belong, if need be: anew, where
    /// that has been asked. Who shares its connections leaves it to one of those who do.
    pub(crate) fn ask_others(
        &self,
        asking: &mut Option<(Asking, Arc<Turn>)>,
        dialled: usize,
        patience: Duration,
    ) {
        let Group { endpoints, clusters, .. } = &*self.group;
        // Once that is known late answers still count.
        if clusters.standing() != Standing::Open {
            return;
        }
        *asking = None;
        let Some(turn) = self.group.turn_to_ask() else { return };
        let begun = Asking::begin(endpoints, clusters, |at| at == dialled, patience);
        *asking = begun.map(|asking| (asking, turn));
    }

    pub(crate) fn endpoint(&self, at: usize) -> &Endpoint {
        &self.group.endpoints[at]
    }

    fn dial(&self, at: usize) -> impl Future<Output = Dialled> + Send + 'static {
        let endpoint = self.endpoint(at).clone();
        let clusters = Arc::clone(&self.group.clusters);
        let others = self.group.endpoints.len() > 1;
        let within = if others { DIAL_TIMEOUT_OF_MANY } else { DIAL_TIMEOUT };
        let opening = self.open(at, endpoint, within);
        async move {
            let streams = timeout(within, opening).await;
            let silent = |_| Err(Down::silent(format!("no answer within {} s", within.as_secs())));
            let streams = streams.unwrap_or_else(silent).inspect_err(|_| clusters.silent(at))?;
            // Before anything is said to it, or taken from it.
            clusters.said(at, streams.cluster.clone()).map_err(|mismatch| mismatch.to_string())?;
            clusters.decided(at).await?;
            Ok(streams)
        }
    }

    /// A connection of its own, or a place on one that it shares.
    fn open(
        &self,
        at: usize,
        endpoint: Endpoint,
        within: Duration,
    ) -> impl Future<Output = Dialled> + Send + 'static {
        let id = Arc::clone(&self.id);
        let shared = self.shares_as.map(|number| (Arc::clone(self.group.places(at)), number));
        async move {
            let Some((places, number)) = shared else { return open(endpoint, &id).await };
            let taken = places.take(endpoint, number, Frame::new(&id), within).await;
            let (seat, cluster, channel) = taken?;
            Ok(Box::new(Streams { cluster, channel, streams: Both::Shared(seat) }))
        }
    }
}

impl Dialling {
    /// Begins with this endpoint; others follow after `patience`.
    pub(crate) fn begin(dialler: &Dialler, first: usize, patience: Duration) -> Self {
        let mut race = Race::default();
        race.add(first, dialler.dial(first));
        let next = Some(Box::pin(sleep(patience)));
        Self { race, tried: vec![first], next, failures: Vec::new() }
    }

    /// The first that works; or, when all have failed, why. `challenger` names the next to be tried
    /// after those that were.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        dialler: &Dialler,
        patience: Duration,
        challenger: impl Fn(&[usize]) -> Option<usize>,
    ) -> Poll<Result<(usize, Box<Streams>), Down>> {
        loop {
            match self.race.poll(cx) {
                Poll::Ready((at, Ok(streams))) => return Poll::Ready(Ok((at, streams))),
                Poll::Ready((at, Err(Down { reason, why }))) => {
                    let why = format!("{}: {why}", shown(dialler.endpoint(at)));
                    self.failures.push(Down { reason, why });
                }
                Poll::Pending => match &mut self.next {
                    Some(next) => std::task::ready!(next.as_mut().poll(cx)),
                    None => return Poll::Pending,
                },
            }
            match challenger(&self.tried) {
                Some(at) => {
                    self.tried.push(at);
                    self.race.add(at, dialler.dial(at));
                    self.next = Some(Box::pin(sleep(patience)));
                }
                None if self.race.count() == 0 => {
                    let failures = std::mem::take(&mut self.failures);
                    return Poll::Ready(Err(Down::of_all(failures)));
                }
                None => self.next = None,
            }
        }
    }
}

impl Streams {
    /// Takes what has come in. Ready when a stream has ended, with the reason.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        messages: &mut Vec<v1::SessionResponse>,
    ) -> Poll<String> {
        let OwnStreams { urgent_in, acquires_in, .. } = match &mut self.streams {
            Both::Own(own) => &mut **own,
            Both::Shared(seat) => return seat.poll(cx, messages, MESSAGES_PER_TURN_MAX),
        };
        // Urgent answers first: a lease counts on them.
        for stream in [urgent_in, acquires_in] {
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

    /// Ready when the gateway has answered a question that it answers from memory; the error, for
    /// people, is that it has not.
    pub(crate) fn check(
        &self,
        patience: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let channel = self.channel.clone();
        async move {
            let answer = timeout(patience, ask(channel)).await;
            // A refusal is an answer, too.
            answer.map(drop).map_err(|_| "it does not answer".to_owned())
        }
    }

    pub(crate) fn send_acquires(&self, calls: &mut Vec<v1::SessionCall>) {
        match &self.streams {
            Both::Own(own) => own.acquires_out.put(calls),
            Both::Shared(seat) => seat.send_acquires(calls),
        }
    }

    pub(crate) fn send_urgent(&self, calls: &mut Vec<v1::SessionCall>) {
        match &self.streams {
            Both::Own(own) => own.urgent_out.put(calls),
            Both::Shared(seat) => seat.send_urgent(calls),
        }
    }

    /// The connection does not serve its session: who shares it is to begin with another.
    pub(crate) fn doubt(&self) {
        if let Both::Shared(seat) = &self.streams {
            seat.doubt();
        }
    }

    /// The connection ends with the streams' last owners: the outgoing halves are told to end.
    pub(crate) fn close(&self) {
        match &self.streams {
            Both::Own(own) => {
                own.acquires_out.close();
                own.urgent_out.close();
            }
            Both::Shared(seat) => seat.leave(),
        }
    }
}

async fn open(endpoint: Endpoint, id: &SessionId) -> Result<Box<Streams>, Down> {
    let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
    let (acquires_out, urgent_out) = (Arc::new(Unsent::default()), Arc::new(Unsent::default()));
    let outgoing = |unsent: &Arc<Unsent>| Outgoing {
        unsent: Arc::clone(unsent),
        session_id: id.secret(),
        instance: id.instance(),
        has_greeted: false,
    };
    let mut acquires = LockServiceClient::new(channel.clone());
    let mut urgent = LockServiceClient::new(channel.clone());
    let opened = tokio::try_join!(
        acquires.session(outgoing(&acquires_out)),
        urgent.session(outgoing(&urgent_out))
    );
    let (acquires_in, urgent_in) = opened.map_err(|status| failure(&status))?;
    let named = [acquires_in.metadata(), urgent_in.metadata()].map(named);
    let [Some(cluster), Some(again)] = named else { return Err(UNNAMED.into()) };
    if again.cluster != cluster.cluster {
        return Err("it names two clusters at once".into());
    }
    let streams = Both::Own(Box::new(OwnStreams {
        acquires_in: acquires_in.into_inner(),
        urgent_in: urgent_in.into_inner(),
        acquires_out,
        urgent_out,
    }));
    Ok(Box::new(Streams { cluster, channel, streams }))
}
