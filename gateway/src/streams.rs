//! The table of open streams, and the sums of what all of them hold.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::Waker,
};

use dashmap::{DashMap, mapref::entry::Entry};

use crate::{outbox::Outbox, tag::StreamNumber};

/// A stream that is further behind than this is cut off while all streams together have used up
/// half of their bound.
const FAIR_BYTES: usize = 64 << 10;

/// A stream's place in the table.
pub(crate) struct OpenStream {
    pub(crate) number: StreamNumber,
    outbox: Mutex<Outbox>,
}

impl OpenStream {
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Streams {
    /// Its order is random: only [`all`](Self::all) goes over it.
    open: DashMap<u32, Arc<OpenStream>>,
    last: AtomicU32,
    pub(crate) sums: Sums,
}

impl Streams {
    pub(crate) fn open(&self) -> Arc<OpenStream> {
        loop {
            let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if StreamNumber(number) == StreamNumber::GATEWAY {
                continue;
            }
            let Entry::Vacant(entry) = self.open.entry(number) else { continue };
            let number = StreamNumber(number);
            let stream = Arc::new(OpenStream { number, outbox: Mutex::default() });
            entry.insert(stream.clone());
            return stream;
        }
    }

    pub(crate) fn close(&self, stream: &OpenStream) {
        self.open.remove(&stream.number.0);
        let mut outbox = stream.outbox();
        add_difference(&self.sums.calls_open, outbox.calls_open(), 0);
        add_difference(&self.sums.bytes, outbox.bytes(), 0);
        // A thread that has just looked this stream up must not count anything in it any more.
        outbox.cut_off();
    }

    pub(crate) fn get(&self, number: StreamNumber) -> Option<Arc<OpenStream>> {
        self.open.get(&number.0).map(|found| found.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// All of them, in order of their numbers.
    pub(crate) fn all(&self) -> Vec<Arc<OpenStream>> {
        let mut all: Vec<_> = self.open.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|stream| stream.number);
        all
    }
}

/// The sum of what all outboxes hold.
#[derive(Default)]
pub(crate) struct Sums {
    calls_open: AtomicUsize,
    bytes: AtomicUsize,
}

/// The result of a change of an outbox.
pub(crate) struct Changed<R> {
    pub(crate) result: R,
    /// It was cut off by this change.
    pub(crate) overrun: bool,
    /// To be woken.
    pub(crate) taker: Option<Waker>,
}

impl Sums {
    pub(crate) fn calls_open(&self) -> usize {
        self.calls_open.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Changes an outbox and keeps the sums right. `bytes_max` bounds all outboxes together.
    pub(crate) fn with_outbox<R>(
        &self,
        stream: &OpenStream,
        bytes_max: usize,
        change: impl FnOnce(&mut Outbox) -> R,
    ) -> Changed<R> {
        let mut outbox = stream.outbox();
        let (calls, bytes) = (outbox.calls_open(), outbox.bytes());
        let was_cut_off = outbox.is_cut_off();
        let result = change(&mut outbox);
        if self.bytes() > bytes_max / 2 && outbox.bytes() > FAIR_BYTES.max(bytes) {
            outbox.cut_off();
        }
        let taker = if outbox.wants_taker() { outbox.taker() } else { None };
        add_difference(&self.calls_open, calls, outbox.calls_open());
        add_difference(&self.bytes, bytes, outbox.bytes());
        Changed { result, overrun: outbox.is_cut_off() && !was_cut_off, taker }
    }
}

fn add_difference(sum: &AtomicUsize, before: usize, after: usize) {
    if after > before {
        sum.fetch_add(after - before, Ordering::Relaxed);
    } else if before > after {
        sum.fetch_sub(before - after, Ordering::Relaxed);
    }
}
