//! The owner's side of an open stream: it sends calls, and takes answers and events.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use sharklock_proto::{
    internal::v1::{StoreCall, store_call::Body as Ask},
    v1::KeepAliveRequest,
};

use super::hub::{Hub, OpenStream};
use crate::{
    Lane,
    failure::Failure,
    keepalives::Caller,
    outbox::{Answer, CallKind, Outbox, Overrun},
    tag::{StreamNumber, Tag},
    validate::{Checked, Session},
};

/// A call of a stream: the client's number of it, and the call or why it is none.
pub(super) type Numbered = (u64, Result<Checked, Failure>);

/// The owner's side of an open stream.
pub(super) struct StreamHandle {
    hub: Arc<Hub>,
    stream: Arc<OpenStream>,
}

impl StreamHandle {
    pub(super) fn new(hub: Arc<Hub>, stream: Arc<OpenStream>) -> Self {
        Self { hub, stream }
    }

    /// The gateway's number of this stream.
    pub(super) fn number(&self) -> StreamNumber {
        self.stream.number
    }

    /// Where it is open.
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Sends calls, one batch per lane, and answers at once those that cannot be sent. Events of
    /// what they name go to `events_to`.
    pub(super) fn submit(
        &self,
        calls: impl Iterator<Item = Numbered>,
        events_to: StreamNumber,
        address: &str,
    ) {
        let hub = &*self.hub;
        let mut batch = Batch::default();
        for (call_id, checked) in calls {
            match checked {
                Err(failure) => batch.refused.push((call_id, failure)),
                Ok(checked) => match checked.into_parts() {
                    (Some(session), Ask::KeepAlive(request)) => {
                        batch.keepalives.push(KeepAlive { tag: call_id, session, request });
                    }
                    (session, body) => {
                        let lane = match Lane::of(&body) {
                            Lane::Urgent => &mut batch.urgent,
                            Lane::Ordinary => &mut batch.ordinary,
                        };
                        lane.push(hub.store_call(call_id, session, body, events_to, address));
                    }
                },
            }
        }
        self.open_calls(&mut batch);
        self.send(Lane::Urgent, batch.urgent);
        self.send(Lane::Ordinary, batch.ordinary);
        self.keep_alive(batch.keepalives, events_to);
    }

    /// Gives every call its tag, and answers those that find no room.
    fn open_calls(&self, batch: &mut Batch) {
        let hub = &*self.hub;
        let number = self.stream.number;
        let now_us = hub.now_us();
        let max = hub.config.calls_open_max;
        let mut room = hub.room();
        let mut open = |outbox: &mut Outbox, tag: &mut u64, kind: CallKind, items: usize| {
            // Acquires and looks stop at half of the bound (D16).
            let kept_free = if kind.is_urgent() { 0 } else { max / 2 };
            let opened =
                (room > kept_free).then(|| outbox.open(*tag, kind, items, now_us)).flatten();
            match opened {
                Some(call) => {
                    room -= 1;
                    *tag = Tag { stream: number, call }.to_wire();
                }
                None => {
                    outbox.refuse(*tag, Failure::overloaded(TOO_MANY_CALLS));
                }
            }
            opened.is_some()
        };
        let mut wakers = Vec::new();
        let Batch { urgent, ordinary, keepalives, refused } = batch;
        hub.with_outbox(&self.stream, &mut wakers, |outbox| {
            for (call_id, failure) in refused.drain(..) {
                outbox.refuse(call_id, failure);
            }
            keepalives.retain_mut(|call| {
                open(outbox, &mut call.tag, CallKind::KeepAlive, call.request.items.len())
            });
            for lane in [urgent, ordinary] {
                lane.retain_mut(|call| {
                    let kind = CallKind::of(call.body.as_ref().expect("store_call() sets it"));
                    open(outbox, &mut call.tag, kind, 1)
                });
            }
        });
        wakers.into_iter().for_each(Waker::wake);
    }

    fn send(&self, lane: Lane, calls: Vec<StoreCall>) {
        if calls.is_empty() {
            return;
        }
        let Err(rejected) = self.hub.send(lane, calls) else { return };
        let mut wakers = Vec::new();
        let now_us = self.hub.now_us();
        for call in rejected {
            let call = Tag::from_wire(call.tag).call;
            let failure = Failure::overloaded("the store has too much waiting: retry later");
            let settled = self
                .hub
                .with_outbox(&self.stream, &mut wakers, |outbox| outbox.fail(call, 1, failure));
            settled.into_iter().for_each(|settled| self.hub.metrics.settled(settled, now_us));
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn keep_alive(&self, calls: Vec<KeepAlive>, events_to: StreamNumber) {
        if calls.is_empty() {
            return;
        }
        for KeepAlive { tag, session, request } in calls {
            let call = Tag::from_wire(tag).call;
            let caller = Caller { stream: self.stream.number, call };
            self.hub.add_keepalive(&session, request, caller, events_to);
        }
        self.hub.send_keepalives_or_wait();
    }

    /// Takes answers and events, or waits for some.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<Answer>, Overrun>> {
        self.hub.poll_take(&self.stream, cx)
    }

    /// Whether every call has been answered.
    pub(super) fn is_idle(&self) -> bool {
        self.stream.outbox().calls_open() == 0
    }
}

impl Drop for StreamHandle {
    /// Its calls go on: only their answers are not awaited any more. What it holds or waits for
    /// stays too, since another stream or gateway may carry on.
    fn drop(&mut self) {
        self.hub.close(&self.stream);
    }
}

const TOO_MANY_CALLS: &str = "too many calls are open: wait for answers before asking more";

/// The calls of one message, sorted by where they go. Until a call is opened its tag is the
/// client's number of it.
#[derive(Default)]
struct Batch {
    urgent: Vec<StoreCall>,
    ordinary: Vec<StoreCall>,
    keepalives: Vec<KeepAlive>,
    refused: Vec<(u64, Failure)>,
}

/// A keepalive on its way into the next batch.
struct KeepAlive {
    tag: u64,
    session: Session,
    request: KeepAliveRequest,
}
