//! The receiving side of the streams between stores: who may speak, and that he speaks for himself
//! only. The messages themselves are the inbox's business.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::{
    Identity,
    internal::v1::{
        RaftAnswer, RaftClass, RaftFrame, RaftHello, RaftSign,
        peer_service_server::{PeerService, PeerServiceServer},
    },
};
use tokio::{
    runtime::Handle,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    frames::{FRAME_BYTES_MAX, FrameReader, Frames},
    lateness::{Lateness, monotonic},
    peers::{PeerAddress, PeerIdentity, PeerInbox},
};

/// The sender of a stream says at once who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// Between two signs of life on a stream that is read.
pub const SIGN_EVERY: Duration = Duration::from_secs(2);

/// See the module. Clones share the list of stores.
#[derive(Clone)]
pub struct PeerAcceptor(Arc<Acceptor>);

struct Acceptor {
    me: PeerIdentity,
    /// Stores that may speak, and the identities by which they are known.
    known: RwLock<BTreeMap<u64, Identity>>,
    inbox: Arc<dyn PeerInbox>,
    stopping: CancellationToken,
}

impl PeerAcceptor {
    /// For the store `me`. Streams end when `stopping` says so.
    pub fn new(me: PeerIdentity, inbox: Arc<dyn PeerInbox>, stopping: CancellationToken) -> Self {
        Self(Arc::new(Acceptor { me, known: RwLock::default(), inbox, stopping }))
    }

    /// From now on these may open streams.
    pub fn set_peers(&self, peers: &BTreeMap<u64, PeerAddress>) {
        let known = peers.iter().map(|(store, at)| (*store, at.ident)).collect();
        *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Hears who speaks on a connection, and lets `runtime` take what comes then, until it ends or
    /// this process does.
    pub(crate) async fn serve(self, mut frames: Frames, runtime: &Handle) {
        let greeted = self.0.greet(&mut frames.reader).await;
        let refusal = greeted.as_ref().err().map(|status| status.message().to_owned());
        frames.writer.put(&RaftAnswer { refusal: refusal.unwrap_or_default() });
        let Ok(from) = greeted else {
            // It is told why, if it still listens.
            let _ = frames.writer.flush(HELLO_WITHIN).await;
            return;
        };
        if frames.writer.flush(HELLO_WITHIN).await.is_err() {
            return;
        }
        if let Ok(frames) = frames.trusted_on(runtime) {
            runtime.spawn(self.0.hear(from, frames));
        }
    }

    /// The gRPC service.
    pub fn into_service(self) -> PeerServiceServer<Self> {
        PeerServiceServer::new(self).max_decoding_message_size(FRAME_BYTES_MAX)
    }
}

impl Acceptor {
    /// The one who speaks, if he may.
    fn admit(&self, hello: &RaftHello) -> Result<u64, Status> {
        let me = &self.me;
        if hello.cluster_id != me.cluster_id {
            return Err(Status::failed_precondition("the sender belongs to another cluster"));
        }
        if hello.to_store != me.store {
            let (meant, here) = (hello.to_store, me.store);
            return Err(Status::failed_precondition(format!(
                "store {meant} is meant, and store {here} answers here"
            )));
        }
        if hello.class() == RaftClass::Unspecified {
            return Err(Status::invalid_argument("hello.class is not set, or not known here"));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(&hello.from_store) {
            Some(ident) if hello.from_ident == *ident => Ok(hello.from_store),
            Some(_) => Err(Status::failed_precondition(format!(
                "store {} is known by another identity: this data directory is not its own",
                hello.from_store
            ))),
            // It will be, with the master's next answer.
            None => Err(Status::unavailable(format!(
                "store {} is not known here yet",
                hello.from_store
            ))),
        }
    }

    fn take(&self, from: u64, frame: RaftFrame, lateness: &mut Lateness) -> Result<(), Status> {
        let RaftFrame { hello, messages, mut heartbeats, snapshots } = frame;
        let forged = |what| Status::permission_denied(format!("{what} of another store"));
        let mine = |from_store, to_store| from_store == from && to_store == self.me.store;
        if hello.is_some_and(|hello| hello.from_store != from) {
            return Err(forged("a hello"));
        }
        if !messages.iter().all(|message| mine(message.from_store, message.to_store)) {
            return Err(forged("a message"));
        }
        if !heartbeats.iter().all(|beats| mine(beats.from_store, beats.to_store)) {
            return Err(forged("heartbeats"));
        }
        if !snapshots.iter().all(|snapshot| mine(snapshot.from_store, snapshot.to_store)) {
            return Err(forged("a snapshot"));
        }
        let inbox = &self.inbox;
        if !messages.is_empty() {
            inbox.messages(messages);
        }
        let now = monotonic();
        for beats in &mut heartbeats {
            beats.is_late = lateness.arrives(now, beats.sent_ms);
        }
        if heartbeats.iter().any(|beats| beats.is_late) && lateness.is_news(now) {
            let (role, why) = (self.me.role, "its link is slow, or this process is");
            tracing::info!(role, store = %from, why, "a peer's heartbeats come late");
        }
        if !heartbeats.is_empty() {
            inbox.heartbeats(heartbeats);
        }
        if !snapshots.is_empty() {
            inbox.snapshots(snapshots);
        }
        Ok(())
    }

    /// Takes the hello of a connection, and says whose it is.
    async fn greet(&self, reader: &mut FrameReader) -> Result<u64, Status> {
        let first = tokio::select! {
            first = timeout(HELLO_WITHIN, reader.next()) => first.map_err(|_| no_hello())?,
            () = self.stopping.cancelled() => return Err(about_to_end()),
        };
        match decoded(first)?.unwrap_or_default() {
            RaftFrame { hello: Some(hello), messages, heartbeats, snapshots }
                if messages.is_empty() && heartbeats.is_empty() && snapshots.is_empty() =>
            {
                self.admit(&hello)
            }
            RaftFrame { hello: Some(_), .. } => {
                Err(Status::invalid_argument("the first frame has more than a hello"))
            }
            _ => Err(Status::invalid_argument("the first frame has no hello")),
        }
    }

    /// Takes the frames of a connection, and shows that somebody does.
    async fn hear(self: Arc<Self>, from: u64, frames: Frames) {
        let Frames { reader, mut writer } = frames;
        let mut signs = Signs::while_reading(self.read_frames(from, reader));
        while let Some(sign) = signs.next().await {
            let refusal = sign.err().map(|status| status.message().to_owned());
            writer.put(&RaftAnswer { refusal: refusal.unwrap_or_default() });
            if writer.flush(HELLO_WITHIN).await.is_err() {
                return;
            }
        }
    }

    /// Takes the first frame of a stream, and says whose it is.
    fn begin(&self, first: RaftFrame) -> Result<(u64, Lateness), Status> {
        let hello = first.hello.as_ref();
        let hello =
            hello.ok_or_else(|| Status::invalid_argument("the first frame has no hello"))?;
        let from = self.admit(hello)?;
        let mut lateness = Lateness::default();
        self.take(from, first, &mut lateness)?;
        Ok((from, lateness))
    }

    /// Takes what comes until the connection ends, or this process does.
    async fn read_frames(
        self: Arc<Self>,
        from: u64,
        mut reader: FrameReader,
    ) -> Result<(), Status> {
        let mut lateness = Lateness::default();
        loop {
            let frame = tokio::select! {
                frame = reader.next() => decoded(frame)?,
                () = self.stopping.cancelled() => None,
            };
            match frame {
                Some(frame) => self.take(from, frame, &mut lateness)?,
                None => return Ok(()),
            }
        }
    }

    /// Takes what comes until the stream ends, or this process does.
    async fn read(
        self: Arc<Self>,
        from: u64,
        mut frames: Streaming<RaftFrame>,
        mut lateness: Lateness,
    ) -> Result<(), Status> {
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame?,
                () = self.stopping.cancelled() => None,
            };
            match frame {
                Some(frame) => self.take(from, frame, &mut lateness)?,
                None => return Ok(()),
            }
        }
    }
}

#[tonic::async_trait]
impl PeerService for PeerAcceptor {
    type RaftStream = Signs;

    async fn raft(
        &self,
        request: Request<Streaming<RaftFrame>>,
    ) -> Result<Response<Signs>, Status> {
        let mut frames = request.into_inner();
        let first = tokio::select! {
            first = timeout(HELLO_WITHIN, frames.message()) => first.map_err(|_| no_hello())??,
            () = self.0.stopping.cancelled() => return Err(about_to_end()),
        };
        let (from, lateness) = self.0.begin(first.unwrap_or_default())?;
        let reading = Arc::clone(&self.0).read(from, frames, lateness);
        Ok(Response::new(Signs::while_reading(reading)))
    }
}

fn no_hello() -> Status {
    Status::deadline_exceeded(format!("no hello within {HELLO_WITHIN:?}"))
}

fn about_to_end() -> Status {
    Status::unavailable("this process is about to end")
}

/// A frame of a plain connection; `None` at its end.
fn decoded(frame: io::Result<Option<Bytes>>) -> Result<Option<RaftFrame>, Status> {
    let bytes = frame.map_err(|why| Status::unavailable(why.to_string()))?;
    let frame = bytes.map(RaftFrame::decode).transpose();
    frame.map_err(|why| Status::invalid_argument(format!("a frame cannot be read: {why}")))
}

/// The answer to a stream: signs of life for as long as somebody reads it. The reading ends with it.
pub struct Signs {
    /// None: it has come to its end.
    reading: Option<Reading>,
    every: Interval,
}

type Reading = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

impl Signs {
    /// While this goes on.
    pub fn while_reading(
        reading: impl Future<Output = Result<(), Status>> + Send + 'static,
    ) -> Self {
        let mut every = interval(SIGN_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { reading: Some(Box::pin(reading)), every }
    }
}

impl Stream for Signs {
    type Item = Result<RaftSign, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        if let Poll::Ready(ended) = reading.as_mut().poll(cx) {
            self.reading = None;
            return Poll::Ready(ended.err().map(Err));
        }
        self.every.poll_tick(cx).map(|_at| Some(Ok(RaftSign {})))
    }
}
