//! The stream by which a gateway in another process calls this store: the same mailboxes, lanes and
//! bounds as a gateway's in this process.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use prost::Message as _;
use sharklock_proto::{
    Lane,
    internal::v1::{
        NotLeader, Overloaded, StoreCall, StoreCalls, StoreError, StoreReplies, StoreReply,
        store_error, store_reply,
        store_service_server::{StoreService, StoreServiceServer},
    },
};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, Streaming};

use crate::edge::{
    links::{Links, LocalLink},
    porter::Porter,
};

/// Largest message of a gateway: it ends one with the call that brings it over 256 KiB.
const CALLS_BYTES_MAX: usize = 1 << 20;
/// A message of replies ends with the batch that brings it over this.
const REPLIES_BYTES: usize = 1 << 20;
/// When a call that found no room is worth another try, milliseconds.
const RETRY_AFTER_MS: u64 = 50;

/// See the module.
#[derive(Clone)]
pub struct Exchanges {
    porter: Arc<Porter>,
    links: Arc<Links>,
    stopping: CancellationToken,
}

impl Exchanges {
    /// For one store. Streams end when `stopping` says so.
    pub fn new(porter: Arc<Porter>, links: Arc<Links>, stopping: CancellationToken) -> Self {
        Self { porter, links, stopping }
    }

    /// The gRPC service.
    pub fn into_service(self) -> StoreServiceServer<Self> {
        StoreServiceServer::new(self).max_decoding_message_size(CALLS_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl StoreService for Exchanges {
    type ExchangeStream = Replies;

    async fn exchange(
        &self,
        request: Request<Streaming<StoreCalls>>,
    ) -> Result<Response<Replies>, Status> {
        let (link, batches) = LocalLink::connect(&self.porter, &self.links);
        let (refused, refusals) = mpsc::channel(REFUSALS_MAX);
        // The gateway is connected for as long as both directions are: the end of either ends the
        // link, and what the store would still say is lost with it.
        let ended = self.stopping.child_token();
        let listening = listen(request.into_inner(), link, Arc::clone(&self.porter), refused);
        let ending = ended.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = listening => {}
                () = ending.cancelled() => {}
            }
            ending.cancel();
        });
        Ok(Response::new(Replies {
            batches,
            refusals,
            ended: Box::pin(ended.clone().cancelled_owned()),
            _ends: ended.drop_guard(),
        }))
    }
}

/// Batches of refusals that may wait for the gateway to read: as many as there may be batches of
/// calls before the gateway's own bound closes.
const REFUSALS_MAX: usize = 64;

/// Takes calls in until the gateway hangs up.
async fn listen(
    mut calls: Streaming<StoreCalls>,
    link: LocalLink,
    porter: Arc<Porter>,
    refused: mpsc::Sender<Vec<StoreReply>>,
) {
    loop {
        let message = match calls.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(why = status.message(), "a gateway's stream has ended");
                return;
            }
        };
        let (urgent, ordinary): (Vec<_>, Vec<_>) = message
            .calls
            .into_iter()
            .partition(|call| call.body.as_ref().is_some_and(|body| body.lane() == Lane::Urgent));
        for (lane, calls) in [(Lane::Urgent, urgent), (Lane::Ordinary, ordinary)] {
            if calls.is_empty() {
                continue;
            }
            let Err(calls) = link.send(lane, calls) else { continue };
            let refusals = calls.into_iter().map(|call| refusal(&porter, &call)).collect();
            // A gateway that reads no answers has to wait with its calls.
            if refused.send(refusals).await.is_err() {
                return;
            }
        }
    }
}

/// Why a call was not taken; not done, in either case.
fn refusal(porter: &Porter, call: &StoreCall) -> StoreReply {
    let kind = match porter.is_closed() {
        // It stops: another replica leads, or will.
        true => {
            store_error::Kind::NotLeader(NotLeader { range_id: call.range_id, leader_store_id: 0 })
        }
        false => store_error::Kind::Overloaded(Overloaded { retry_after_ms: RETRY_AFTER_MS }),
    };
    let body = Some(store_reply::Body::Error(StoreError { kind: Some(kind) }));
    StoreReply { tag: call.tag, body, ..StoreReply::default() }
}

/// The replies to a gateway. The connection itself polls them, so that a reply waits for no task
/// but that; whatever waits then goes out in one message.
pub struct Replies {
    batches: mpsc::Receiver<Vec<StoreReply>>,
    refusals: mpsc::Receiver<Vec<StoreReply>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _ends: DropGuard,
}

impl Replies {
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<StoreReply>>> {
        if let Poll::Ready(Some(batch)) = self.refusals.poll_recv(cx) {
            return Poll::Ready(Some(batch));
        }
        self.batches.poll_recv(cx)
    }
}

impl Stream for Replies {
    type Item = Result<StoreReplies, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        let Some(mut replies) = ready!(self.poll_batch(cx)) else { return Poll::Ready(None) };
        let size = |replies: &[StoreReply]| replies.iter().map(StoreReply::encoded_len).sum();
        let mut bytes: usize = size(&replies);
        while bytes < REPLIES_BYTES
            && let Poll::Ready(Some(more)) = self.poll_batch(cx)
        {
            bytes += size(&more);
            replies.extend(more);
        }
        Poll::Ready(Some(Ok(StoreReplies { replies })))
    }
}
