//! The open calls of one stream, and its answers that have not been sent.
//!
//! It owns the bounds that keep a client that never reads from growing the gateway's memory. It
//! neither sends nor waits: whoever puts something in wakes whoever takes it out.

use std::task::{Context, Poll, Waker};

use sharklock_proto::{
    CallKind,
    internal::v1::{StoreCall, store_reply::Body},
    trace::Begun,
    v1::KeepAliveAnswer,
};
use sharklock_rangemap::{Hops, StoreId};

use crate::{
    failure::{Failure, Reason},
    tag::CallNumber,
};

/// Open calls of one stream. Acquires get half of them, so that a release or a keepalive finds room
/// however many wait (D16).
pub const CALLS_OPEN_MAX: usize = 1 << SLOT_BITS;
/// Events that wait to be sent; more are dropped, since keepalive answers tell the same.
pub const EVENTS_MAX: usize = 4_096;
/// Bytes of answers that wait to be sent; a client so far behind is cut off.
pub const BYTES_MAX: usize = 8 << 20;
/// Bytes of answers in one message, unless a single one is larger.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The largest single answer: with its frame it fits into the 4 MiB of a gRPC message.
pub const ANSWER_BYTES_MAX: usize = (4 << 20) - 1_024;

const SLOT_BITS: u32 = 14;
const GENERATION_MAX: u32 = u32::MAX >> SLOT_BITS;

/// An answer or an event on its way to a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The client's number of the call; 0 for an event.
    pub call_id: u64,
    /// The store's answer, or why there is none.
    pub reply: Result<Body, Failure>,
}

/// A call that has just been answered for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The kind of the call.
    pub kind: CallKind,
    /// When it was opened: microseconds of the gateway's clock.
    pub opened_us: u64,
    /// Its span, if it is traced.
    pub span: Option<Begun>,
    /// It was answered with an error.
    pub has_failed: bool,
}

/// The client is too far behind: its stream has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

struct OpenCall {
    call_id: u64,
    kind: CallKind,
    opened_us: u64,
    /// Items of a keepalive that are not answered; 1 for every other call.
    remaining: usize,
    /// Why some of them will not be; told after those that are.
    failure: Option<Box<Failure>>,
    /// The store that has it; None for a keepalive, whose items go their own ways.
    sent_to: Option<StoreId>,
    /// The call as it was sent, as long as it may be sent again. At most 6 KiB (an acquire with the
    /// longest name and attributes), so that all open calls of a gateway keep less than 400 MiB.
    kept: Option<Box<Kept>>,
    /// Its span, if it is traced.
    span: Option<Box<Begun>>,
}

/// A call that may have to go to another store.
struct Kept {
    call: StoreCall,
    hops: Hops,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    open: Option<OpenCall>,
}

/// See the module.
///
/// Invariants:
/// - `free` holds exactly the slots without an open call;
/// - `bytes` is the sum of the sizes of `answers`, at most `BYTES_MAX`;
/// - `events` of `answers` are events, at most `EVENTS_MAX`;
/// - once overrun, it holds nothing and takes nothing in.
#[derive(Default)]
pub struct Outbox {
    slots: Vec<Slot>,
    free: Vec<u32>,
    answers: std::collections::VecDeque<(Answer, usize)>,
    bytes: usize,
    events: usize,
    overrun: bool,
    taker: Option<Waker>,
}

impl Outbox {
    /// Opens a call of `items` parts (1 unless it is a keepalive); None when too many are open.
    pub fn open(
        &mut self,
        call_id: u64,
        kind: CallKind,
        items: usize,
        opened_us: u64,
    ) -> Option<CallNumber> {
        let bound = if kind.is_urgent() { CALLS_OPEN_MAX } else { CALLS_OPEN_MAX / 2 };
        if self.overrun || self.calls_open() >= bound {
            return None;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[at as usize];
        // A reply to an earlier call in this slot, late by 30 s or more, must not find this one.
        slot.generation = if slot.generation == GENERATION_MAX { 1 } else { slot.generation + 1 };
        slot.open = Some(OpenCall {
            call_id,
            kind,
            opened_us,
            remaining: items,
            failure: None,
            sent_to: None,
            kept: None,
            span: None,
        });
        Some(CallNumber(slot.generation << SLOT_BITS | at))
    }

    /// An open call goes to this store. `kept` is what is sent if it may have to go elsewhere.
    pub fn sent(&mut self, call: CallNumber, store: StoreId, kept: Option<StoreCall>) {
        let Some(open) = self.open_call(call) else { return };
        open.sent_to = Some(store);
        open.kept = kept.map(|call| {
            let mut hops = Hops::default();
            hops.take().expect("the first sending is always allowed");
            Box::new(Kept { call, hops })
        });
    }

    /// An open call is traced.
    pub fn trace(&mut self, call: CallNumber, span: Begun) {
        if let Some(open) = self.open_call(call) {
            open.span = Some(Box::new(span));
        }
    }

    /// The store that has an open call.
    pub fn sent_to(&self, call: CallNumber) -> Option<StoreId> {
        let slot = self.slots.get(slot_of(call))?;
        let open = slot.open.as_ref().filter(|_| slot.generation == call.0 >> SLOT_BITS)?;
        open.sent_to
    }

    /// A call that its store certainly did not do, and when it was opened: as it was sent. None when
    /// it cannot be sent again.
    pub fn kept(&mut self, call: CallNumber) -> Option<(&StoreCall, u64)> {
        let open = self.open_call(call)?;
        Some((&open.kept.as_ref()?.call, open.opened_us))
    }

    /// Sends a kept call again, to `store`, by another route. None when it has been sent too often.
    pub fn again(
        &mut self,
        call: CallNumber,
        store: StoreId,
        reroute: impl FnOnce(&mut StoreCall),
    ) -> Option<StoreCall> {
        let open = self.open_call(call)?;
        let kept = open.kept.as_mut()?;
        kept.hops.take().ok()?;
        reroute(&mut kept.call);
        open.sent_to = Some(store);
        Some(kept.call.clone())
    }

    /// A kept call waits in the gateway: no store has it, and it may be sent as often as a new one.
    pub fn park(&mut self, call: CallNumber) {
        let Some(open) = self.open_call(call) else { return };
        open.sent_to = None;
        if let Some(kept) = &mut open.kept {
            kept.hops = Hops::default();
        }
    }

    /// Fails the calls that a store has, whose link is lost.
    pub fn lost(&mut self, store: StoreId) -> Vec<Settled> {
        self.give_up(|open| open.sent_to == Some(store))
    }

    /// How many calls are open.
    pub fn calls_open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether whoever takes has to be woken: there is something to take, or the stream has to end.
    pub fn wants_taker(&self) -> bool {
        self.overrun || !self.answers.is_empty()
    }

    /// Answers a call. None when it is not open (any more), or is a keepalive of which items are
    /// still to come.
    pub fn answer(&mut self, call: CallNumber, reply: Body) -> Option<Settled> {
        let open = self.open_call(call)?;
        let (call_id, kind) = (open.call_id, open.kind);
        match reply {
            Body::Error(error) => self.fail(call, 1, Failure::of_store(error)),
            Body::KeepAlive(response) if kind == CallKind::KeepAlive => {
                let items = response.answers.len();
                self.push(Answer { call_id, reply: Ok(Body::KeepAlive(response)) });
                self.subtract(call, items)
            }
            reply => {
                self.push(Answer { call_id, reply: Ok(reply) });
                self.subtract(call, 1)
            }
        }
    }

    /// Answers items of a keepalive.
    pub fn answer_items(
        &mut self,
        call: CallNumber,
        answers: Vec<KeepAliveAnswer>,
    ) -> Option<Settled> {
        let response = sharklock_proto::v1::KeepAliveResponse { answers };
        self.answer(call, Body::KeepAlive(response))
    }

    /// Says why a call, or `items` items of a keepalive, will not be answered.
    pub fn fail(&mut self, call: CallNumber, items: usize, failure: Failure) -> Option<Settled> {
        let open = self.open_call(call)?;
        open.failure = Some(Box::new(failure));
        self.subtract(call, items)
    }

    /// Answers a call that was never opened.
    pub fn refuse(&mut self, call_id: u64, failure: Failure) {
        self.push(Answer { call_id, reply: Err(failure) });
    }

    /// Takes an event in, unless too many wait already; says whether it did.
    pub fn event(&mut self, event: Body) -> bool {
        if self.events >= EVENTS_MAX || self.overrun {
            return false;
        }
        self.events += 1;
        self.push(Answer { call_id: 0, reply: Ok(event) });
        true
    }

    /// Gives up on calls that were opened before `before_us`.
    pub fn sweep(&mut self, before_us: u64) -> Vec<Settled> {
        self.give_up(|open| open.opened_us < before_us)
    }

    fn give_up(&mut self, whether: impl Fn(&OpenCall) -> bool) -> Vec<Settled> {
        let mut settled = Vec::new();
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let Some(open) = slot.open.as_mut().filter(|open| whether(open)) else { continue };
            let unanswered =
                open.failure.take().map_or_else(|| Failure::unanswered(open.kind), |f| *f);
            let (call, items) =
                (CallNumber(slot.generation << SLOT_BITS | at as u32), open.remaining);
            settled.extend(self.fail(call, items, unanswered));
        }
        settled
    }

    /// Forgets everything and lets the stream end. Leaving answers out would not be true, since some
    /// of what was asked has been done; the client asks again on another stream, by the same names.
    pub fn cut_off(&mut self) {
        let (overrun, taker) = (true, self.taker.take());
        *self = Self { overrun, taker, ..Self::default() };
    }

    /// Whether the stream has to end.
    pub fn is_cut_off(&self) -> bool {
        self.overrun
    }

    /// The task that waits for something to take; wake it after putting something in.
    pub fn taker(&mut self) -> Option<Waker> {
        self.taker.take()
    }

    /// Takes answers and events out as [`take`](Self::take) does; waits when there are none.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Answer>, Overrun>> {
        match self.take() {
            Ok(None) => {
                // Most wait again with the same waker.
                if !self.taker.as_ref().is_some_and(|taker| taker.will_wake(cx.waker())) {
                    self.taker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Ok(Some(taken)) => Poll::Ready(Ok(taken)),
            Err(overrun) => Poll::Ready(Err(overrun)),
        }
    }

    /// Takes answers and events out, at most a message full; None when there are none.
    pub fn take(&mut self) -> Result<Option<Vec<Answer>>, Overrun> {
        if self.overrun {
            return Err(Overrun);
        }
        if self.answers.is_empty() {
            return Ok(None);
        }
        let mut bytes = 0;
        let mut taken = Vec::with_capacity(self.answers.len());
        while let Some((_, size)) = self.answers.front() {
            if !taken.is_empty() && bytes + size > MESSAGE_BYTES_MAX {
                break;
            }
            bytes += size;
            let (answer, _) = self.answers.pop_front().expect("front() has just seen it");
            self.events -= usize::from(answer.call_id == 0);
            taken.push(answer);
        }
        self.bytes -= bytes;
        Ok(Some(taken))
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn open_call(&mut self, call: CallNumber) -> Option<&mut OpenCall> {
        let slot = self.slots.get_mut(slot_of(call))?;
        if slot.generation != call.0 >> SLOT_BITS {
            return None;
        }
        slot.open.as_mut()
    }

    /// Counts answered items, and closes the call with the last one.
    fn subtract(&mut self, call: CallNumber, items: usize) -> Option<Settled> {
        let open = self.open_call(call)?;
        open.remaining = open.remaining.saturating_sub(items);
        if open.remaining > 0 {
            return None;
        }
        let slot = slot_of(call);
        let open = self.slots[slot].open.take().expect("open_call() has just seen it");
        self.free.push(slot as u32);
        let OpenCall { kind, opened_us, span, .. } = open;
        let has_failed = open.failure.is_some();
        if let Some(failure) = open.failure {
            self.push(Answer { call_id: open.call_id, reply: Err(*failure) });
        }
        Some(Settled { kind, opened_us, span: span.map(|span| *span), has_failed })
    }

    fn push(&mut self, mut answer: Answer) {
        if self.overrun {
            return;
        }
        let mut size = encoded_len(&answer.reply);
        if size > ANSWER_BYTES_MAX {
            let failure = Failure::new(
                Reason::AnswerTooLarge,
                "the answer does not fit into a message: ask for fewer waiters or locks",
            );
            answer.reply = Err(failure);
            size = encoded_len(&answer.reply);
        }
        if self.bytes + size > BYTES_MAX {
            self.cut_off();
            return;
        }
        self.bytes += size;
        self.answers.push_back((answer, size));
    }
}

fn slot_of(call: CallNumber) -> usize {
    (call.0 & (CALLS_OPEN_MAX as u32 - 1)) as usize
}

/// The size on the wire, but for the frame of a few bytes per answer.
fn encoded_len(reply: &Result<Body, Failure>) -> usize {
    match reply {
        Ok(body) => body.encoded_len(),
        Err(failure) => failure.message.len() + failure.field.len() + 64,
    }
}

#[cfg(test)]
mod tests;
