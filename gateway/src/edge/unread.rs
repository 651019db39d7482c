//! Answers on one connection that the client has not taken: counted, bounded, and
//! watched. HTTP/2 keeps an answer for as long as its stream's window is shut, and a client opens
//! windows as it likes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::quota::{Full, Quota, Taken};

/// Bytes of answers that one connection may leave unread; then no call that can wait is taken from it.
pub(super) const CONNECTION_BYTES_MAX: usize = 8 << 20;
/// Bytes that HTTP/2 is given before the socket takes any. Bytes that it holds beyond the socket's
/// buffer make nothing faster.
const TRANSPORT_BYTES_MAX: usize = 256 << 10;

/// The unread bytes of one connection.
///
/// Invariants:
/// - `quota` counts what answers hold and what the transport was given and has not written;
/// - an answer stands in `waiting` exactly while some of it has not been taken.
pub(super) struct Unread {
    quota: Arc<Quota>,
    transport: Mutex<Taken>,
    /// As `transport` says, to be read without its lock.
    transport_bytes: AtomicUsize,
    waiting: Mutex<Waiting>,
    is_given_up: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    last: u64,
    /// Since when no byte of an answer has been taken, by answer.
    since: BTreeMap<u64, Instant>,
    /// Answers that go on when the transport has room.
    writers: Vec<Waker>,
    /// The connection's task, to be told that it is given up.
    connection: Option<Waker>,
}

/// An answer's number among those of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AnswerNumber(u64);

impl Unread {
    /// Of a connection whose address has this quota.
    pub(super) fn new(address: &Arc<Quota>) -> Self {
        let quota = address.part("connection", CONNECTION_BYTES_MAX);
        let transport = Mutex::new(Taken::nothing(&quota));
        Self {
            quota,
            transport,
            transport_bytes: AtomicUsize::new(0),
            waiting: Mutex::default(),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// Whether calls that can wait are taken: the client, its address and all together leave less
    /// unread than they may.
    pub(super) fn check(&self) -> Result<(), Full> {
        self.quota.check()
    }

    /// Counts an answer's bytes.
    pub(super) fn charge(&self) -> Taken {
        Taken::nothing(&self.quota)
    }

    /// A number for an answer.
    pub(super) fn number(&self) -> AnswerNumber {
        let mut waiting = self.waiting();
        waiting.last += 1;
        AnswerNumber(waiting.last)
    }

    /// The client has just taken some of an answer; whether more of it waits.
    pub(super) fn progress(&self, answer: AnswerNumber, waits: bool) {
        let mut waiting = self.waiting();
        match waits {
            true => drop(waiting.since.insert(answer.0, Instant::now())),
            false => drop(waiting.since.remove(&answer.0)),
        }
        // A call that waits for room may have got some.
        let writers = std::mem::take(&mut waiting.writers);
        drop(waiting);
        writers.into_iter().for_each(Waker::wake);
    }

    /// The transport has been given so much.
    pub(super) fn given(&self, bytes: usize) {
        if bytes > 0 {
            let mut transport = self.transport();
            transport.grow(bytes);
            self.transport_bytes.store(transport.amount(), Ordering::Relaxed);
        }
    }

    /// The socket has taken so much of what the transport has; None: all that can be sent at all.
    pub(super) fn written(&self, bytes: Option<usize>) {
        if self.transport_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut transport = self.transport();
        let left = bytes.map_or(0, |bytes| transport.amount().saturating_sub(bytes));
        transport.shrink_to(left);
        self.transport_bytes.store(left, Ordering::Relaxed);
        drop(transport);
        if left < TRANSPORT_BYTES_MAX {
            let writers = std::mem::take(&mut self.waiting().writers);
            writers.into_iter().for_each(Waker::wake);
        }
    }

    /// Ready when the transport may be given another piece.
    pub(super) fn poll_transport(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_until(cx, || self.transport_bytes.load(Ordering::Relaxed) < TRANSPORT_BYTES_MAX)
    }

    /// Ready when another message may be made for the connection.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll_until(cx, || !self.quota.is_full())
    }

    fn poll_until(&self, cx: &Context<'_>, is_ready: impl Fn() -> bool) -> Poll<()> {
        if is_ready() {
            return Poll::Ready(());
        }
        self.waiting().writers.push(cx.waker().clone());
        // The room may have come before it could be told.
        if is_ready() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Gives the connection up if nothing of some answer was taken for `within`; says whether it did.
    pub(super) fn give_up_if_late(&self, now: Instant, within: Duration) -> bool {
        let mut waiting = self.waiting();
        let is_late = waiting.since.values().any(|since| *since + within <= now);
        if !is_late || self.is_given_up.swap(true, Ordering::AcqRel) {
            return false;
        }
        let connection = waiting.connection.take();
        drop(waiting);
        connection.into_iter().for_each(Waker::wake);
        true
    }

    /// Whether the connection has to be closed.
    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// The connection's task waits: it is woken if the connection is given up.
    pub(super) fn connection_waits(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting();
        if !waiting.connection.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            waiting.connection = Some(cx.waker().clone());
        }
    }

    /// Bytes that are not taken.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.quota.used()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A panic cannot leave the lists half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transport(&self) -> MutexGuard<'_, Taken> {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS_MAX: usize = 64 << 20;

    fn unread() -> (Arc<Quota>, Unread) {
        let address = Quota::whole(ADDRESS_MAX).part("address", ADDRESS_MAX);
        let unread = Unread::new(&address);
        (address, unread)
    }

    fn is_ready(poll: Poll<()>) -> bool {
        poll.is_ready()
    }

    #[test]
    fn a_connection_is_given_up_when_an_answer_makes_no_progress() {
        let (_address, unread) = unread();
        let within = Duration::from_secs(30);
        let (taken, stuck) = (unread.number(), unread.number());
        unread.progress(taken, true);
        unread.progress(stuck, true);
        let begin = Instant::now();
        unread.progress(taken, false);
        assert!(!unread.give_up_if_late(begin, within));
        assert!(unread.give_up_if_late(begin + within, within));
        assert!(unread.is_given_up());
        assert!(!unread.give_up_if_late(begin + within, within), "it is counted once");
    }

    #[test]
    fn an_answer_that_was_taken_gives_up_nothing() {
        let (_address, unread) = unread();
        let answer = unread.number();
        unread.progress(answer, true);
        unread.progress(answer, false);
        let late = Instant::now() + Duration::from_secs(1_000);
        assert!(!unread.give_up_if_late(late, Duration::from_secs(30)));
    }

    #[test]
    fn the_transport_is_given_no_more_than_it_may_hold_until_the_socket_takes_some() {
        let (address, unread) = unread();
        let cx = Context::from_waker(Waker::noop());
        unread.given(TRANSPORT_BYTES_MAX);
        assert!(!is_ready(unread.poll_transport(&cx)));
        unread.written(Some(1));
        assert!(is_ready(unread.poll_transport(&cx)));
        assert_eq!(unread.bytes(), TRANSPORT_BYTES_MAX - 1);
        unread.written(None);
        assert_eq!((unread.bytes(), address.used()), (0, 0));
    }

    #[test]
    fn no_message_is_made_and_no_call_taken_for_a_connection_that_has_left_too_much_unread() {
        let (_address, unread) = unread();
        let cx = Context::from_waker(Waker::noop());
        let mut charge = unread.charge();
        charge.grow(CONNECTION_BYTES_MAX);
        let full = Full { of: "connection", max: CONNECTION_BYTES_MAX };
        assert_eq!(unread.check(), Err(full));
        assert!(!is_ready(unread.poll_room(&cx)));
        assert!(is_ready(unread.poll_transport(&cx)), "what there is may go on");
        drop(charge);
        assert!(is_ready(unread.poll_room(&cx)) && unread.check().is_ok());
    }
}
