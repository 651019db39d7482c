//! One snapshot on its way in: chunks put in order, credit for more, nothing parsed before all of
//! it is here and its checksum fits.

use std::collections::BTreeMap;

use bytes::Bytes;
use sharklock_proto::internal::v1::{SnapshotAck, SnapshotChunk, SnapshotHeader};

use super::RESEND_TICKS;
use super::limits::{Budget, SnapshotLimits};
use super::wire::{self, Announced, Ends};
use crate::chore::Restore;

/// A chunk or the whole is not what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// The word that a transfer has to say after some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// How far it is: nothing was heard, or there is credit again.
    Ack,
    /// Nothing came for too long.
    Failed,
}

/// Invariants:
/// - `received <= granted <= header.bytes`, and what is in `ahead` lies between the first two and
///   takes less than twice what lies there;
/// - `chunks` are the first `received` bytes of what the sender has, and `crc32c` is theirs, but
///   for damage that its checksums do not show.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub ends: Ends,
    pub transfer: u64,
    pub header: SnapshotHeader,
    pub announced: Announced,
    chunks: Vec<Bytes>,
    received: u64,
    crc32c: u32,
    /// Chunks that overtook others, by offset.
    ahead: BTreeMap<u64, Bytes>,
    granted: u64,
    /// Tick at which the sender spoke last. Whether anything moves is for the sender to judge,
    /// which knows what it may send; one that has given up says so or falls silent.
    heard: u64,
    /// Tick at which this end spoke last.
    spoke: u64,
    /// All of it is here. Only a state made of it is missing, and the replica's disk.
    pub is_handed_on: bool,
}

impl Receiving {
    pub(crate) fn new(
        ends: Ends,
        transfer: u64,
        header: SnapshotHeader,
        announced: Announced,
        ticks: u64,
    ) -> Self {
        Self {
            ends,
            transfer,
            header,
            announced,
            chunks: Vec::new(),
            received: 0,
            crc32c: 0,
            ahead: BTreeMap::new(),
            granted: 0,
            heard: ticks,
            spoke: ticks,
            is_handed_on: false,
        }
    }

    /// Whether it was begun after the transfer that this header begins.
    pub(crate) fn is_newer_than(&self, header: &SnapshotHeader, transfer: u64) -> bool {
        wire::is_before((header.term, transfer), (self.header.term, self.transfer))
    }

    /// So many bytes are here without a gap.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// The sender is there.
    pub(crate) fn hear(&mut self, ticks: u64) {
        self.heard = ticks;
    }

    /// Takes a chunk, unless it is here already or more than what was granted: then an answer is no
    /// news, and false comes back.
    pub(crate) fn take(&mut self, chunk: SnapshotChunk, ticks: u64) -> Result<bool, Damaged> {
        let end = chunk.offset.checked_add(chunk.data.len() as u64).ok_or(Damaged)?;
        let is_damaged = crc32c::crc32c(&chunk.data) != chunk.crc32c || chunk.data.is_empty();
        if is_damaged || end > self.header.bytes {
            return Err(Damaged);
        }
        self.heard = ticks;
        let ahead: u64 = self.ahead.values().map(|data| data.len() as u64).sum();
        let is_too_much = end > self.granted || ahead >= self.granted - self.received;
        if end <= self.received || (is_too_much && chunk.offset > self.received) {
            return Ok(false);
        }
        self.ahead.insert(chunk.offset, chunk.data);
        while let Some(next) = self.ahead.first_entry()
            && *next.key() <= self.received
        {
            let (offset, data) = next.remove_entry();
            let end = (offset + data.len() as u64).min(self.granted);
            if end > self.received {
                let data = data.slice((self.received - offset) as usize..(end - offset) as usize);
                self.received = end;
                self.crc32c = crc32c::crc32c_append(self.crc32c, &data);
                self.chunks.push(data);
            }
        }
        Ok(true)
    }

    /// Whether it has said nothing in this tick.
    pub(crate) fn was_silent(&self, ticks: u64) -> bool {
        self.spoke < ticks
    }

    /// All of it, once it is here, if it is what was announced.
    pub(crate) fn whole(&mut self) -> Option<Result<Restore, Damaged>> {
        if self.received < self.header.bytes {
            return None;
        }
        self.is_handed_on = true;
        if self.crc32c != self.header.crc32c {
            return Some(Err(Damaged));
        }
        Some(Ok(Restore {
            ends: self.ends,
            transfer: self.transfer,
            header: self.header.clone(),
            announced: self.announced.clone(),
            chunks: std::mem::take(&mut self.chunks),
        }))
    }

    /// How far it is, and credit for more as far as the store takes it.
    pub(crate) fn ack(
        &mut self,
        limits: &SnapshotLimits,
        budget: &mut Budget,
        ticks: u64,
    ) -> SnapshotAck {
        self.spoke = ticks;
        let wanted = self.wanted(limits);
        // Piece by piece, so that no transfer owes the rate of many ticks for what it may get
        // later.
        while self.granted < wanted && budget.is_open() {
            let more = limits.chunk_bytes.max(1).min(wanted - self.granted);
            budget.spend(more);
            self.granted += more;
        }
        let offset = self.received;
        let (window, has_gap) = (self.granted - offset, !self.ahead.is_empty());
        SnapshotAck { offset, window, installed: false, has_gap }
    }

    fn wanted(&self, limits: &SnapshotLimits) -> u64 {
        self.header.bytes.min(self.received + limits.window_bytes.max(1))
    }

    pub(crate) fn tick(&mut self, ticks: u64, limits: &SnapshotLimits, budget: &Budget) -> Due {
        if !self.is_handed_on && ticks - self.heard >= limits.idle_ticks_max {
            return Due::Failed;
        }
        let has_credit = budget.is_open() && self.granted < self.wanted(limits);
        match has_credit || ticks - self.spoke >= RESEND_TICKS {
            true => Due::Ack,
            false => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

    use super::*;
    use crate::state_machine::EntryAt;

    fn receiving(bytes: u64) -> Receiving {
        let (range, my_store, my_peer) = (RangeId(1), StoreId(2), PeerId(22));
        let ends =
            Ends { range, my_store, my_peer, other_store: StoreId(1), other_peer: PeerId(11) };
        let replica = Replica { peer: my_peer, store: my_store, role: Role::Voter };
        let bounds = Bounds { start: Vec::new(), end: Vec::new() };
        let epoch = Epoch { version: 1, conf_ver: 1 };
        let descriptor = Descriptor::new(range, bounds, epoch, vec![replica]);
        let at = EntryAt { index: 9, term: 5 };
        let announced = Announced { at, descriptor, splits: Vec::new() };
        let header = SnapshotHeader { bytes, ..SnapshotHeader::default() };
        Receiving::new(ends, 1, header, announced, 0)
    }

    #[test]
    fn credit_comes_by_the_tick_and_owes_a_chunk_at_most() {
        let limits = SnapshotLimits {
            chunk_bytes: 400,
            window_bytes: 10_000,
            bytes_per_tick: Some(1_000),
            ..SnapshotLimits::default()
        };
        let (mut one, mut other) = (receiving(100_000), receiving(100_000));
        let mut budget = Budget::new(limits.bytes_per_tick);
        let mut granted = Vec::new();
        for tick in 0..5 {
            for transfer in [&mut one, &mut other] {
                granted.push(transfer.ack(&limits, &mut budget, tick).window);
            }
            budget.tick();
        }
        // Two and a half chunks a tick, for whoever asks first.
        assert_eq!(granted, [1_200, 0, 2_000, 0, 3_200, 0, 4_000, 0, 5_200, 0]);
        let all: u64 = [&one, &other].iter().map(|it| it.granted).sum();
        assert!(all <= 5 * 1_000 + limits.chunk_bytes);
    }
}
