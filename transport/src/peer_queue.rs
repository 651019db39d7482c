//! Messages that wait for one stream to be free. The stream takes all of them at once, so that a
//! burst costs one frame, and a lone message no delay.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use prost::Message as _;
use sharklock_proto::internal::v1::{
    Heartbeats, RaftClass, RaftFrame, RaftHello, RangeMessage, SnapshotMessage,
};
use tokio_stream::Stream;

/// A frame ends with the message that reaches this: far below what a receiver takes (32 MiB), since
/// a single append may have 1 MiB and a little more.
const FRAME_BYTES: usize = 1 << 20;

/// Bytes that may wait. Appends: what Raft has under way to a slow follower before it stops by itself.
/// Beats: some thousand ranges' for seconds, whoever is that late has been given up. Snapshots: the
/// credit windows of all transfers.
const fn bytes_max(class: RaftClass) -> usize {
    match class {
        RaftClass::Append => 32 << 20,
        RaftClass::Heartbeat => 8 << 20,
        RaftClass::Snapshot | RaftClass::Unspecified => 16 << 20,
    }
}

/// One message of any class.
#[derive(Debug)]
pub(crate) enum Item {
    Message(RangeMessage),
    Heartbeats(Heartbeats),
    Snapshot(SnapshotMessage),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(message) => message.encoded_len(),
            Self::Heartbeats(heartbeats) => heartbeats.encoded_len(),
            Self::Snapshot(snapshot) => snapshot.encoded_len(),
        }
    }
}

/// The queue of one class towards one peer. Only while a stream stands does anything wait here: what
/// is old when a connection comes back would only be refused, and Raft sends it anew.
#[derive(Debug)]
pub(crate) struct PeerQueue {
    class: RaftClass,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the first frame of the stream that stands.
    hello: Option<RaftHello>,
    items: VecDeque<(usize, Item)>,
    bytes: usize,
    waker: Option<Waker>,
    /// Which stream stands; 0: none.
    stream: u64,
    streams_count: u64,
}

/// An item was not taken: no stream stands, or too much waits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotTaken;

impl PeerQueue {
    pub(crate) fn new(class: RaftClass) -> Self {
        Self { class, waiting: Mutex::default() }
    }

    /// Takes an item for the stream. Never blocks.
    pub(crate) fn put(&self, item: Item) -> Result<(), NotTaken> {
        let bytes = item.bytes();
        let mut waiting = self.waiting();
        if waiting.stream == 0 || waiting.bytes + bytes > bytes_max(self.class) {
            return Err(NotTaken);
        }
        waiting.bytes += bytes;
        waiting.items.push_back((bytes, item));
        let waker = waiting.waker.take();
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// A stream of what will wait here, which begins with `hello` unless that was said before. It
    /// takes the place of an earlier one, which ends.
    pub(crate) fn stream(self: &Arc<Self>, hello: Option<RaftHello>) -> Outgoing {
        let mut waiting = self.waiting();
        let number = waiting.streams_count + 1;
        let waker = waiting.waker.take();
        *waiting = Waiting { hello, stream: number, streams_count: number, ..Waiting::default() };
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
        Outgoing { queue: Arc::clone(self), number }
    }

    /// No stream stands any more: what waits is lost.
    pub(crate) fn down(&self) {
        let mut waiting = self.waiting();
        let waker = waiting.waker.take();
        let streams_count = waiting.streams_count;
        *waiting = Waiting { streams_count, ..Waiting::default() };
        drop(waiting);
        waker.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic aborts the process; should a test catch one, the queue is whole all the same.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Option<RaftFrame> {
        let hello = self.hello.take();
        if hello.is_none() && self.items.is_empty() {
            return None;
        }
        let mut frame = RaftFrame { hello, ..RaftFrame::default() };
        let mut taken = 0;
        while taken < FRAME_BYTES
            && let Some((bytes, item)) = self.items.pop_front()
        {
            self.bytes -= bytes;
            taken += bytes;
            match item {
                Item::Message(message) => frame.messages.push(message),
                Item::Heartbeats(heartbeats) => frame.heartbeats.push(heartbeats),
                Item::Snapshot(snapshot) => frame.snapshots.push(snapshot),
            }
        }
        Some(frame)
    }
}

/// The stream that a connection sends. It polls this itself, so that a message waits for no other
/// task.
#[derive(Debug)]
pub(crate) struct Outgoing {
    queue: Arc<PeerQueue>,
    number: u64,
}

impl Stream for Outgoing {
    type Item = RaftFrame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RaftFrame>> {
        let mut waiting = self.queue.waiting();
        if waiting.stream != self.number {
            return Poll::Ready(None);
        }
        match waiting.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    fn beat(from_store: u64) -> Item {
        Item::Heartbeats(Heartbeats { from_store, ..Heartbeats::default() })
    }

    fn chunk(bytes: usize) -> Item {
        use sharklock_proto::internal::v1::{SnapshotChunk, snapshot_message::Body};
        let chunk = SnapshotChunk { data: vec![7; bytes].into(), ..SnapshotChunk::default() };
        let body = Some(Body::Chunk(chunk));
        Item::Snapshot(SnapshotMessage { body, ..SnapshotMessage::default() })
    }

    #[tokio::test]
    async fn whatever_waits_goes_out_in_one_frame_after_the_hello() {
        let queue = Arc::new(PeerQueue::new(RaftClass::Heartbeat));
        assert_eq!(queue.put(beat(1)), Err(NotTaken), "no stream stands");
        let mut stream = queue.stream(Some(RaftHello { from_store: 3, ..RaftHello::default() }));
        queue.put(beat(1)).expect("it stands");
        queue.put(beat(2)).expect("it stands");
        let frame = stream.next().await.expect("it stands");
        assert_eq!(frame.hello.expect("the first frame").from_store, 3);
        assert_eq!(frame.heartbeats.len(), 2);
        queue.put(beat(4)).expect("it stands");
        let frame = stream.next().await.expect("it stands");
        assert_eq!((frame.hello, frame.heartbeats.len()), (None, 1));
        queue.down();
        assert_eq!(stream.next().await, None);
        assert_eq!(queue.put(beat(5)), Err(NotTaken));
    }

    #[tokio::test]
    async fn what_an_earlier_stream_did_not_take_is_lost_with_it() {
        let queue = Arc::new(PeerQueue::new(RaftClass::Heartbeat));
        let mut first = queue.stream(Some(RaftHello::default()));
        queue.put(beat(1)).expect("it stands");
        let mut second = queue.stream(Some(RaftHello::default()));
        assert_eq!(first.next().await, None);
        assert!(second.next().await.expect("it stands").heartbeats.is_empty());
    }

    #[tokio::test]
    async fn frames_and_the_queue_are_bounded() {
        let queue = Arc::new(PeerQueue::new(RaftClass::Snapshot));
        let mut stream = queue.stream(None);
        let taken = (0..100).take_while(|_| queue.put(chunk(600_000)).is_ok()).count();
        assert_eq!(taken, (16 << 20) / 600_020, "16 MiB");
        let frame = stream.next().await.expect("it stands");
        assert_eq!((frame.hello, frame.snapshots.len()), (None, 2), "1 MiB, and no hello");
        assert_eq!(queue.put(chunk(600_000)), Ok(()), "there is room again");
    }
}
