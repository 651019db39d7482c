//! One snapshot on its way out. The header goes first, and chunks follow once it is taken; what is
//! lost is sent again from where the receiver's answers stand.

use bytes::Bytes;
use sharklock_proto::internal::v1::{SnapshotAck, SnapshotChunk, SnapshotHeader};

use super::RESEND_TICKS;
use super::limits::{Budget, SnapshotLimits};
use super::reserve::Reserve;
use super::wire::Ends;

/// So many times longer than for a chunk the sender waits for the install, while the receiver says
/// that it has all of it.
const INSTALL_PATIENCE: u64 = 20;

/// The word that a transfer has to say after some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The header, since nobody answered it.
    Header,
    /// It has failed.
    Failed,
}

/// Invariants:
/// - `acked <= next <= data.len()`;
/// - nothing at or above `limit` was sent.
#[derive(Debug)]
pub(crate) struct Sending {
    pub ends: Ends,
    pub transfer: u64,
    /// The term in which the sender leads; another ends the transfer.
    pub term: u64,
    pub header: SnapshotHeader,
    /// Index up to which the state has the log applied.
    pub index: u64,
    data: Bytes,
    next: u64,
    acked: u64,
    limit: u64,
    is_taken: bool,
    /// Tick of the last progress.
    progress: u64,
    /// Tick at which either end spoke last.
    spoke: u64,
    went_back: u64,
}

impl Sending {
    pub(crate) fn new(
        ends: Ends,
        transfer: u64,
        header: SnapshotHeader,
        data: Bytes,
        ticks: u64,
    ) -> Self {
        Self {
            ends,
            transfer,
            term: header.term,
            index: header.metadata.as_ref().map_or(0, |metadata| metadata.index),
            header,
            data,
            next: 0,
            acked: 0,
            limit: 0,
            is_taken: false,
            progress: ticks,
            spoke: ticks,
            went_back: ticks,
        }
    }

    fn len(&self) -> u64 {
        self.data.len() as u64
    }

    /// The entries behind it in the log will be needed.
    pub(crate) fn log_reserve(&self) -> Reserve {
        Reserve { from: self.index, bytes: self.len() }
    }

    /// Whether the receiver has all of it, as far as known.
    pub(crate) fn is_delivered(&self) -> bool {
        self.acked == self.len()
    }

    /// How far it came, once it has failed.
    pub(crate) fn stands(&self) -> String {
        let Self { acked, next, is_taken, .. } = self;
        let all = self.len();
        match is_taken {
            true => format!(
                "a snapshot is given up: of {all} bytes {next} were sent and {acked} acknowledged"
            ),
            false => format!("a snapshot of {all} bytes is given up: nobody has taken its header"),
        }
    }

    pub(crate) fn acknowledged(&mut self, ack: SnapshotAck, ticks: u64) {
        let limit = ack.offset.saturating_add(ack.window).min(self.len());
        // Late, or of what was never sent.
        if ack.offset < self.acked || ack.offset > self.next {
            return;
        }
        self.spoke = ticks;
        let advanced = ack.offset > self.acked || limit > self.limit || !self.is_taken;
        if advanced {
            self.is_taken = true;
            self.acked = ack.offset;
            self.limit = self.limit.max(limit);
            self.progress = ticks;
        } else if self.went_back < ticks {
            // It says the same again: something between was lost. Once a tick, or each of the
            // answers to what is on its way would send all of it anew.
            self.go_back(ticks);
        }
    }

    fn go_back(&mut self, ticks: u64) {
        self.went_back = ticks;
        self.next = self.acked;
    }

    pub(crate) fn tick(&mut self, ticks: u64, limits: &SnapshotLimits) -> Due {
        // A receiver that has all of it says so until it is installed; one that has fallen silent
        // has forgotten it, by a restart perhaps.
        let is_forgotten = self.is_delivered() && ticks - self.spoke >= 3 * RESEND_TICKS;
        // To make a state of it and to write that takes the longer the larger it is.
        let patience = match self.is_delivered() {
            true => INSTALL_PATIENCE * limits.idle_ticks_max,
            false => limits.idle_ticks_max,
        };
        if ticks - self.progress >= patience || is_forgotten {
            return Due::Failed;
        }
        if ticks - self.spoke < RESEND_TICKS || self.is_delivered() {
            return Due::Nothing;
        }
        self.spoke = ticks;
        if !self.is_taken {
            return Due::Header;
        }
        self.go_back(ticks);
        Due::Nothing
    }

    /// The next chunk, if the receiver takes one and the store may send it.
    pub(crate) fn chunk(
        &mut self,
        limits: &SnapshotLimits,
        budget: &mut Budget,
    ) -> Option<SnapshotChunk> {
        if self.next >= self.limit || !budget.is_open() {
            return None;
        }
        let end = self.limit.min(self.next + limits.chunk_bytes.max(1));
        let data = self.data.slice(self.next as usize..end as usize);
        budget.spend(end - self.next);
        let chunk = SnapshotChunk { offset: self.next, crc32c: crc32c::crc32c(&data), data };
        self.next = end;
        Some(chunk)
    }
}
