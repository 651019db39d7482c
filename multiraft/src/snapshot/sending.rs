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

/// A sender that may send nothing for so many ticks, since its rate is used up, says that it is
/// there.
const SIGN_OF_LIFE_TICKS: u64 = 4 * RESEND_TICKS;

/// The word that a transfer has to say after some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The header: nobody has answered it, or nothing else was said for long.
    Header,
    /// It has failed.
    Failed,
}

/// A stream loses nothing and keeps the order, but what it carries may take longer than any pause
/// that is chosen beforehand. If all that is on its way were sent again after such a pause, a slow
/// link would carry old copies only, and each copy would lead to the next. So the pause follows the
/// round trips that are measured and doubles while nothing comes of it, and then one piece is sent
/// again, not all: if more is lost, the receiver says so, since what comes next leaves a gap.
///
/// Invariants:
/// - `acked <= next <= sent <= limit <= data.len()`.
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
    /// What is sent next; what is below and not acknowledged is taken to be on its way.
    next: u64,
    /// Everything below was sent at least once.
    sent: u64,
    acked: u64,
    limit: u64,
    is_taken: bool,
    /// Tick of the last progress.
    progress: u64,
    /// Tick at which the receiver spoke last.
    heard: u64,
    /// Tick at which this end spoke last.
    spoke: u64,
    went_back: u64,
    /// Of the first piece that is on its way a copy is to be sent.
    copy_is_due: bool,
    /// Ticks without progress after which that is so.
    pause: u64,
    /// The same after progress, by the last round trip.
    pause_min: u64,
    /// The end of a piece that was sent once, and when: its answer tells the round trip. What was
    /// sent twice tells nothing, since nobody knows which of the two is answered.
    timed: Option<(u64, u64)>,
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
            sent: 0,
            acked: 0,
            limit: 0,
            is_taken: false,
            progress: ticks,
            heard: ticks,
            spoke: ticks,
            went_back: ticks,
            copy_is_due: false,
            pause: RESEND_TICKS,
            pause_min: RESEND_TICKS,
            timed: None,
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

    /// Whether all of it is on its way, or there. The receiver answers to Raft on another stream,
    /// so what it says there may come first.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.sent == self.len()
    }

    /// How far it came, once it has failed.
    pub(crate) fn stands(&self) -> String {
        let Self { acked, sent, is_taken, .. } = self;
        let all = self.len();
        match is_taken {
            true => format!("of {all} bytes {sent} were sent and {acked} acknowledged"),
            false => format!("of {all} bytes, whose header nobody has taken"),
        }
    }

    pub(crate) fn acknowledged(&mut self, ack: SnapshotAck, ticks: u64) {
        let limit = ack.offset.saturating_add(ack.window).min(self.len());
        // Late, or of what was never sent.
        if ack.offset < self.acked || ack.offset > self.sent {
            return;
        }
        self.heard = ticks;
        let advanced = ack.offset > self.acked || limit > self.limit || !self.is_taken;
        if advanced {
            self.is_taken = true;
            self.acked = ack.offset;
            self.next = self.next.max(self.acked);
            self.limit = self.limit.max(limit);
            self.progress = ticks;
            if let Some((_, since)) = self.timed.take_if(|(end, _)| *end <= ack.offset) {
                self.pause_min = RESEND_TICKS.max(2 * (ticks - since));
            }
            self.pause = self.pause_min;
            self.copy_is_due = false;
        } else if ack.has_gap && self.went_back < ticks {
            // Once a tick, or each of the answers to what is on its way would send all of it anew.
            self.go_back(ticks);
        }
    }

    fn go_back(&mut self, ticks: u64) {
        self.went_back = ticks;
        self.next = self.acked;
        self.timed = None;
    }

    pub(crate) fn tick(&mut self, ticks: u64, limits: &SnapshotLimits) -> Due {
        if self.is_delivered() {
            // A receiver that has all of it says so until it is installed; one that has fallen
            // silent has forgotten it, by a restart perhaps. To make a state of it and to write
            // that takes the longer the larger it is.
            let is_forgotten = ticks - self.heard >= 3 * RESEND_TICKS;
            let is_late = ticks - self.progress >= INSTALL_PATIENCE * limits.idle_ticks_max;
            return if is_late || is_forgotten { Due::Failed } else { Due::Nothing };
        }
        let is_on_its_way = !self.is_taken || self.next > self.acked;
        // A receiver that gives no credit and says so is there: its rate is used up, or that of
        // this store is.
        let moved = if is_on_its_way { self.progress } else { self.heard.max(self.progress) };
        if ticks - moved >= limits.idle_ticks_max {
            return Due::Failed;
        }
        let pause = self.pause.min((limits.idle_ticks_max / 4).max(RESEND_TICKS));
        let is_late = is_on_its_way && ticks - self.progress.max(self.went_back) >= pause;
        if is_late {
            self.pause = pause * 2;
            self.went_back = ticks;
            self.copy_is_due = self.is_taken;
        }
        if (is_late && !self.is_taken) || ticks - self.spoke >= SIGN_OF_LIFE_TICKS {
            self.spoke = ticks;
            return Due::Header;
        }
        Due::Nothing
    }

    /// The next chunk, if the receiver takes one and the store may send it.
    pub(crate) fn chunk(
        &mut self,
        limits: &SnapshotLimits,
        budget: &mut Budget,
        ticks: u64,
    ) -> Option<SnapshotChunk> {
        if !budget.is_open() {
            return None;
        }
        let is_copy = std::mem::take(&mut self.copy_is_due) && self.next > self.acked;
        let begin = if is_copy { self.acked } else { self.next };
        if begin >= self.limit {
            return None;
        }
        let end = self.limit.min(begin + limits.chunk_bytes.max(1));
        let data = self.data.slice(begin as usize..end as usize);
        budget.spend(end - begin);
        if begin == self.sent {
            self.timed.get_or_insert((end, ticks));
        }
        // Which of two is answered nobody knows.
        self.timed.take_if(|(timed, _)| is_copy && *timed <= end);
        self.next = self.next.max(end);
        self.sent = self.sent.max(end);
        self.spoke = ticks;
        Some(SnapshotChunk { offset: begin, crc32c: crc32c::crc32c(&data), data })
    }
}
