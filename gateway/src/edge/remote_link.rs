//! The connection to a store in another process: one `StoreService.Exchange` stream, and what waits
//! for it. A link stands once the store has said that it is the one that was meant.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use prost::Message as _;
use sharklock_proto::internal::v1::{
    DescribeStore, StoreAddress, StoreCall, StoreCalls, StoreReplies, StoreReply,
    store_call::Body as Ask, store_reply::Body, store_service_client::StoreServiceClient,
};
use sharklock_transport::Dialling;
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    Lane, StoreLink,
    tag::{CallNumber, StreamNumber, Tag},
};

/// Opening the stream on a connection that stands, and the store's first word.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Calls that may wait for the stream to be free: as many as may stand before the store's worker.
/// Ordinary calls may use half of it, so that keepalives and releases find room (D16).
const WAITING_MAX: usize = 65_536;
/// A message ends with the call that reaches this: what is urgent waits at most for so much.
const MESSAGE_BYTES: usize = 256 << 10;
/// Largest message of a store: a page of locks is the largest answer, at most 4 MiB, and answers
/// that wait are gathered until about as much.
const RECEIVED_BYTES_MAX: usize = 16 << 20;
/// A stream that stands.
pub(super) struct Connected {
    /// Calls go here.
    pub(super) link: Arc<RemoteLink>,
    /// The store's first word: its description.
    pub(super) first: Vec<StoreReply>,
    replies: Streaming<StoreReplies>,
}

impl Connected {
    /// The next replies. The error says, for people, why nothing comes any more.
    pub(super) async fn next(&mut self) -> Result<Vec<StoreReply>, String> {
        next(&mut self.replies).await
    }
}

/// Connects to a store, and makes sure that it is this one. The error is for people.
pub(super) async fn dial(store: &StoreAddress, dialling: Dialling) -> Result<Connected, String> {
    let channel = dialling.connect(&store.address).await?;
    let silent = |_| format!("it says nothing within {} s", ANSWER_WITHIN.as_secs());
    let connected =
        timeout(ANSWER_WITHIN, open(channel)).await.unwrap_or_else(|late| Err(silent(late)))?;
    is_meant(store, &connected.first)?;
    Ok(connected)
}

async fn open(channel: Channel) -> Result<Connected, String> {
    let link = Arc::new(RemoteLink::default());
    let tag = Tag { stream: StreamNumber::GATEWAY, call: CallNumber::DESCRIBE };
    let body = Some(Ask::Describe(DescribeStore { heard: Some(0), only: None }));
    let describe = StoreCall { tag: tag.to_wire(), body, ..StoreCall::default() };
    let fits = link.send(Lane::Ordinary, vec![describe]);
    fits.expect("nothing waits for a new stream");
    let mut client = StoreServiceClient::new(channel).max_decoding_message_size(RECEIVED_BYTES_MAX);
    let outgoing = Outgoing(link.clone());
    let replies = client.exchange(outgoing).await.map_err(|status| said(&status))?;
    let mut replies = replies.into_inner();
    let first = next(&mut replies).await?;
    Ok(Connected { link, first, replies })
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

async fn next(replies: &mut Streaming<StoreReplies>) -> Result<Vec<StoreReply>, String> {
    match replies.next().await {
        Some(Ok(batch)) => Ok(batch.replies),
        Some(Err(status)) => Err(said(&status)),
        None => Err("the store has ended the stream".to_owned()),
    }
}

/// The store that answers at an address may be another one: one that was made anew there, or of
/// another cluster.
fn is_meant(store: &StoreAddress, first: &[StoreReply]) -> Result<(), String> {
    let described = first.iter().find_map(|reply| match &reply.body {
        Some(Body::Describe(description)) => description.store.as_ref(),
        _ => None,
    });
    let described = described.ok_or("the store does not say who it is")?;
    let hex = format!("{:x}", store.ident);
    if (described.store_id, &described.ident) == (store.store_id, &hex) {
        return Ok(());
    }
    let StoreAddress { store_id, address, .. } = store;
    Err(format!(
        "at {address} answers store {} with identity {}, where store {store_id} with identity {hex} \
         is expected: each store needs an --advertise-data address of its own",
        described.store_id, described.ident
    ))
}

/// Calls that wait for the stream to be free. All that waits then goes out, urgent calls first; no
/// delay is added to gather more.
#[derive(Default)]
pub(super) struct RemoteLink(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    urgent: Lined,
    ordinary: Lined,
    waker: Option<Waker>,
    closed: bool,
}

/// Calls in order, each with when it came.
type Lined = std::collections::VecDeque<(Instant, StoreCall)>;

impl RemoteLink {
    /// Calls that wait, and all that come, are not sent any more.
    pub(super) fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic cannot leave the queues half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreLink for RemoteLink {
    fn send(&self, lane: Lane, calls: Vec<StoreCall>) -> Result<(), Vec<StoreCall>> {
        let now = Instant::now();
        let mut waiting = self.waiting();
        let bound = match lane {
            Lane::Urgent => WAITING_MAX,
            Lane::Ordinary => WAITING_MAX / 2,
        };
        let count = waiting.urgent.len() + waiting.ordinary.len() + calls.len();
        if waiting.closed || count > bound {
            return Err(calls);
        }
        let line = match lane {
            Lane::Urgent => &mut waiting.urgent,
            Lane::Ordinary => &mut waiting.ordinary,
        };
        line.extend(calls.into_iter().map(|call| (now, call)));
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl Waiting {
    /// The next message; None while nothing waits.
    fn take(&mut self, now: Instant) -> Option<StoreCalls> {
        let mut calls = Vec::new();
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES
            && let Some((came, mut call)) =
                self.urgent.pop_front().or_else(|| self.ordinary.pop_front())
        {
            // The store drops what is too old, wherever it has grown old.
            call.age_ms += now.duration_since(came).as_millis() as u64;
            bytes += call.encoded_len();
            calls.push(call);
        }
        (!calls.is_empty()).then_some(StoreCalls { calls })
    }
}

/// The stream of messages that tonic sends: the other end of a [`RemoteLink`].
struct Outgoing(Arc<RemoteLink>);

impl Stream for Outgoing {
    type Item = StoreCalls;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StoreCalls>> {
        let mut waiting = self.0.waiting();
        if waiting.closed {
            return Poll::Ready(None);
        }
        let message = waiting.take(Instant::now());
        if message.is_none() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(message)
    }
}

#[cfg(test)]
mod tests;
