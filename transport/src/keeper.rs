//! Keeps one stream to a peer up: dials, says hello, sends what waits, listens to signs of life,
//! and begins anew when these end.

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use sharklock_proto::internal::v1::{
    RaftAnswer, RaftClass, RaftFrame, RaftHello, RaftSign, peer_service_client::PeerServiceClient,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    acceptor::SIGN_EVERY,
    backoff::Backoff,
    dialling::Dialling,
    frames::Frames,
    outage::{Outage, OutageNews},
    peer_queue::Outgoing,
    peers::{Link, PeerInbox},
};

/// A class as the log names it.
fn class_name(class: RaftClass) -> &'static str {
    match class {
        RaftClass::Append => "append",
        RaftClass::Heartbeat => "heartbeat",
        RaftClass::Snapshot => "snapshot",
        RaftClass::Unspecified => "unspecified",
    }
}

/// Keeps one stream up.
pub(crate) struct Keeper {
    pub(crate) role: &'static str,
    pub(crate) store: u64,
    pub(crate) address: String,
    pub(crate) link: Arc<Link>,
    pub(crate) hello: RaftHello,
    /// Carries the stream as frames, where the peer understands them; None: it is of gRPC.
    pub(crate) frames_on: Option<Handle>,
    pub(crate) dialling: Dialling,
    pub(crate) inbox: Arc<dyn PeerInbox>,
}

impl Keeper {
    pub(crate) async fn run(self) {
        let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
        loop {
            let why = self.once(&mut backoff, &mut outage).await;
            self.tell(outage.failed(Instant::now()), &why);
            sleep(backoff.pause()).await;
        }
    }

    /// One connection, until it has ended, and why it has.
    async fn once(&self, backoff: &mut Backoff, outage: &mut Outage) -> String {
        if let Some(runtime) = &self.frames_on {
            match Frames::dial(self.dialling, &self.address).await {
                Ok(Some(frames)) => {
                    let why = self.over_frames(frames, runtime, backoff, outage).await;
                    return self.ended(why);
                }
                // A program from before there were frames.
                Ok(None) => {}
                Err(why) => return why,
            }
        }
        match self.dialling.connect(&self.address).await {
            Ok(channel) => {
                let why = self.speak(channel, backoff, outage).await;
                self.ended(why)
            }
            Err(why) => why,
        }
    }

    /// What was under way is lost.
    fn ended(&self, why: String) -> String {
        self.link.queue.down();
        self.link.told.store(true, Ordering::Relaxed);
        self.inbox.unreachable(self.store);
        why
    }

    fn tell(&self, news: Option<OutageNews>, why: &str) {
        let Self { role, store, address, link, .. } = self;
        let class = class_name(link.class);
        match news {
            Some(OutageNews::Begins) => {
                tracing::info!(role, %store, address, class, why, "a peer is not connected");
            }
            Some(OutageNews::Lasts) => {
                tracing::warn!(role, %store, address, class, why, "a peer stays out of reach");
            }
            None => {}
        }
    }

    fn connected(&self, over: &'static str, backoff: &mut Backoff, outage: &mut Outage) {
        let Self { role, store, address, link, .. } = self;
        let class = class_name(link.class);
        tracing::info!(role, %store, address, class, over, "a peer is connected");
        backoff.reset();
        outage.over();
    }

    /// As [`speak`](Self::speak), in frames.
    async fn over_frames(
        &self,
        mut frames: Frames,
        runtime: &Handle,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> String {
        let frames = match self.introduce(&mut frames).await {
            Ok(()) => frames.trusted_on(runtime),
            Err(why) => return why,
        };
        let frames = match frames {
            Ok(frames) => frames,
            Err(why) => return why.to_string(),
        };
        self.connected("frames", backoff, outage);
        let outgoing = self.link.queue.stream(None);
        let speaking = AbortOnDropHandle::new(runtime.spawn(speak_frames(frames, outgoing)));
        speaking.await.unwrap_or_else(|_| "the thread that carries it has ended".to_owned())
    }

    /// Says who speaks, and waits until that is taken.
    async fn introduce(&self, frames: &mut Frames) -> Result<(), String> {
        let hello = Some(self.hello.clone());
        frames.writer.put(&RaftFrame { hello, ..RaftFrame::default() });
        let flushed = frames.writer.flush(ANSWER_WITHIN).await;
        flushed.map_err(|why| why.to_string())?;
        match timeout(ANSWER_WITHIN, frames.reader.next()).await {
            Ok(answer) => sign_of_life(answer),
            Err(_elapsed) => Err(format!("no answer to the hello within {ANSWER_WITHIN:?}")),
        }
    }

    /// Until the stream has ended or shows no sign of life, and why.
    async fn speak(
        &self,
        channel: tonic::transport::Channel,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> String {
        let mut client = PeerServiceClient::new(channel);
        let outgoing = self.link.queue.stream(Some(self.hello.clone()));
        // The answer begins when the peer has taken the hello.
        let mut signs = match timeout(ANSWER_WITHIN, client.raft(outgoing)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_elapsed) => return format!("no answer to the hello within {ANSWER_WITHIN:?}"),
        };
        self.connected("grpc", backoff, outage);
        loop {
            match timeout(SIGN_WITHIN, signs.message()).await {
                Ok(Ok(Some(RaftSign {}))) => {}
                Ok(Ok(None)) => return "the peer has ended the stream".to_owned(),
                Ok(Err(status)) => return status.message().to_owned(),
                Err(_elapsed) => return format!("no sign of life within {SIGN_WITHIN:?}"),
            }
        }
    }
}

/// How long a peer may take to answer a hello: it may be about to start.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A stream whose peer shows no sign of life for so long is given up. HTTP/2's own pings are not
/// enough: a connection can answer them while nobody reads the stream.
const SIGN_WITHIN: Duration = Duration::from_secs(3 * SIGN_EVERY.as_secs());

/// Sends what waits, until the connection has ended or shows no sign of life, and why.
async fn speak_frames(frames: Frames, mut outgoing: Outgoing) -> String {
    let Frames { mut reader, mut writer } = frames;
    let mut silence = pin!(sleep(SIGN_WITHIN));
    loop {
        // In this order: this thread may have been away, and what came meanwhile counts.
        tokio::select! {
            biased;
            answer = reader.next() => match sign_of_life(answer) {
                Ok(()) => silence.as_mut().reset(Instant::now() + SIGN_WITHIN),
                Err(why) => return why,
            },
            () = &mut silence => return format!("no sign of life within {SIGN_WITHIN:?}"),
            written = writer.write(), if !writer.is_empty() => if let Err(why) = written {
                return why.to_string();
            },
            frame = outgoing.next(), if writer.is_empty() => match frame {
                Some(frame) => writer.put(&frame),
                // Another stream has taken this one's place.
                None => return "it is replaced".to_owned(),
            },
        }
    }
}

/// Takes an answer, which is a sign of life or says why it is none.
fn sign_of_life(answer: io::Result<Option<Bytes>>) -> Result<(), String> {
    match answer.map(|bytes| bytes.map(RaftAnswer::decode)) {
        Ok(Some(Ok(RaftAnswer { refusal }))) if refusal.is_empty() => Ok(()),
        Ok(Some(Ok(RaftAnswer { refusal }))) => Err(refusal),
        Ok(Some(Err(why))) => Err(format!("the peer's answer cannot be read: {why}")),
        Ok(None) => Err("the peer has ended the stream".to_owned()),
        Err(why) => Err(why.to_string()),
    }
}
