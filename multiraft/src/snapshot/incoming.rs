//! All snapshots on their way to a store: whether it takes one in, before a byte of the state is
//! sent, and how each transfer ends.

use std::collections::BTreeMap;

use sharklock_proto::internal::v1::{
    SnapshotAck, SnapshotChunk, SnapshotHeader, SnapshotMessage, SnapshotReject,
    snapshot_message::Body, snapshot_reject::Why,
};
use sharklock_rangemap::{PeerId, RangeId, StoreId};

use super::fates::{SnapshotStats, WhyEnded};
use super::limits::{Budget, SnapshotLimits};
use super::outbox::Outbox;
use super::receiving::{self, Receiving};
use super::rests::REPAIR_RETURNS_WITHIN;
use super::wire::{self, Ends};
use super::{may_install, why};
use crate::chore::{NotRestored, Restore};
use crate::guard::Dropped;
use crate::replica::{Arrived, InstallEnd, Replica};
use crate::state_machine::StateMachine;

/// The snapshots that a store takes in.
///
/// Invariants:
/// - `receiving` are at most `limits.receiving_max`;
/// - each holds what it was granted at most, see [`Receiving`].
#[derive(Debug)]
pub(super) struct Incoming {
    limits: SnapshotLimits,
    ticks: u64,
    receiving: BTreeMap<RangeId, Receiving>,
    /// Until this tick a free place is for a repair: one was refused since there was none.
    kept_for_repair_until: u64,
    /// Of the disk, as far as known.
    disk_free: Option<u64>,
    budget: Budget,
    pub(super) outbox: Outbox,
    /// States that are to be made of what has come.
    pub(super) to_restore: Vec<Restore>,
    stats: SnapshotStats,
}

impl Incoming {
    pub(super) fn new(outbox: Outbox, limits: SnapshotLimits) -> Self {
        Self {
            limits,
            ticks: 0,
            receiving: BTreeMap::new(),
            kept_for_repair_until: 0,
            disk_free: None,
            budget: Budget::new(limits.bytes_per_tick),
            outbox,
            to_restore: Vec::new(),
            stats: SnapshotStats::default(),
        }
    }

    pub(super) fn stats(&self) -> SnapshotStats {
        SnapshotStats { receiving: self.receiving.len() as u64, ..self.stats }
    }

    pub(super) fn set_disk_free(&mut self, bytes: Option<u64>) {
        self.disk_free = bytes;
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.budget.tick();
        let mut failed = Vec::new();
        for repairs in [true, false] {
            let of_kind = self.receiving.iter_mut().filter(|(_, it)| it.header.repairs == repairs);
            for (range, receiving) in of_kind {
                match receiving.tick(self.ticks, &self.limits, &self.budget) {
                    receiving::Due::Nothing => {}
                    receiving::Due::Failed => failed.push(*range),
                    receiving::Due::Ack => {
                        let ack = receiving.ack(&self.limits, &mut self.budget, self.ticks);
                        self.outbox.post(receiving.ends, receiving.transfer, Body::Ack(ack));
                    }
                }
            }
        }
        for range in failed {
            self.abandon(range, WhyEnded::Idle);
        }
    }

    /// Nothing reaches this store: who sends from there hears no answer. What is here whole stays.
    pub(super) fn unreachable(&mut self, store: StoreId) {
        let is_lost = |it: &Receiving| it.ends.other_store == store && !it.is_handed_on;
        let lost = self.receiving.iter().filter(|(_, it)| is_lost(it)).map(|(range, _)| *range);
        for range in lost.collect::<Vec<_>>() {
            self.abandon(range, WhyEnded::LinkLost);
        }
    }

    /// The place is free again.
    fn abandon(&mut self, range: RangeId, why: WhyEnded) -> Option<Receiving> {
        let receiving = self.receiving.remove(&range)?;
        self.stats.abandoned.count(why);
        let (store, got, bytes) =
            (receiving.ends.other_store, receiving.received(), receiving.header.bytes);
        tracing::info!(%range, %store, got, bytes, %why, "a snapshot is not taken in");
        Some(receiving)
    }

    /// The same, and the sender is told.
    fn reject(&mut self, range: RangeId, said: Why) {
        if let Some(receiving) = self.abandon(range, why::of(said)) {
            self.say_no(receiving.ends, receiving.transfer, said);
        }
    }

    fn say_no(&mut self, ends: Ends, transfer: u64, why: Why) {
        self.outbox.post(ends, transfer, Body::Reject(SnapshotReject { why: why.into() }));
    }

    /// One that is offered is not taken.
    fn refuse(&mut self, ends: Ends, transfer: u64, said: Why) {
        self.stats.refused.count(why::of(said));
        let (range, store, why) = (ends.range, ends.other_store, why::of(said));
        tracing::debug!(%range, %store, %why, "a snapshot is refused");
        self.say_no(ends, transfer, said);
    }

    /// Whoever offers or sends a snapshot to a replica that cannot take any is told so, and need
    /// not wait in vain.
    pub(super) fn refuse_unheard(&mut self, message: &SnapshotMessage, said: Why) {
        let ends = Ends {
            range: RangeId(message.range_id),
            my_store: StoreId(message.to_store),
            my_peer: PeerId(message.to_peer),
            other_store: StoreId(message.from_store),
            other_peer: PeerId(message.from_peer),
        };
        match message.body {
            Some(Body::Header(_)) => self.refuse(ends, message.transfer, said),
            Some(Body::Chunk(_)) => self.say_no(ends, message.transfer, said),
            _ => {}
        }
    }

    /// Whether a snapshot of this range is taken in.
    pub(super) fn is_receiving(&self, range: RangeId) -> bool {
        self.receiving.contains_key(&range)
    }

    /// A snapshot that is taken in belongs to one term and its leader; and it is of no use once the
    /// log here reaches as far.
    pub(super) fn follow<M: StateMachine>(&mut self, replica: &mut Replica<M>) {
        let range = replica.range();
        if let Some(receiving) = self.receiving.get(&range) {
            let is_outdated = !may_install(replica, receiving.header.term)
                || replica.commit() >= receiving.announced.at.index;
            if is_outdated && !receiving.is_handed_on {
                self.reject(range, Why::Stale);
            }
        }
        if let Some(end) = replica.take_install_end() {
            self.installed(range, end);
        }
    }

    fn installed(&mut self, range: RangeId, end: InstallEnd) {
        match end {
            InstallEnd::Installed => {
                let receiving = self.receiving.remove(&range);
                let receiving = receiving.expect("who handed a state on waits for it");
                self.stats.installed += 1;
                let offset = receiving.header.bytes;
                let ack = SnapshotAck { offset, window: 0, installed: true, has_gap: false };
                self.outbox.post(receiving.ends, receiving.transfer, Body::Ack(ack));
            }
            InstallEnd::NotNeeded => self.reject(range, Why::Stale),
        }
    }

    /// A header: everything that could speak against the snapshot is looked at here.
    pub(super) fn offered<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        ends: Ends,
        transfer: u64,
        header: SnapshotHeader,
    ) -> Result<(), Dropped> {
        let Some(announced) = wire::announced(&header, ends) else {
            self.refuse(ends, transfer, Why::Refused);
            return Err(Dropped::Malformed("a snapshot of another range, or of none"));
        };
        let at = announced.at;
        let is_as_far = at.index <= replica.commit();
        if at.index == replica.commit() && !replica.has(at) {
            self.refuse(ends, transfer, Why::Refused);
            return Err(Dropped::Malformed("a snapshot that contradicts what is committed"));
        }
        let can_become = is_as_far || replica.can_become(&announced.descriptor);
        if !may_install(replica, header.term) || !can_become {
            self.refuse(ends, transfer, Why::Stale);
            return Ok(());
        }
        replica.learn_of_splits(&announced.splits);
        match self.receiving.get_mut(&ends.range) {
            Some(known) if known.transfer == transfer && known.ends == ends => {
                known.hear(self.ticks);
                self.acknowledge(ends.range);
                return Ok(());
            }
            // Late: its sender has begun another since. Or the other is whole.
            Some(known) if known.is_newer_than(&header, transfer) || known.is_handed_on => {
                self.refuse(ends, transfer, Why::Busy);
                return Ok(());
            }
            Some(_) => _ = self.abandon(ends.range, WhyEnded::Cancelled),
            None => {}
        }
        if is_as_far {
            replica.acknowledge_snapshot(header.term, ends.other_peer, at);
            self.refuse(ends, transfer, Why::Stale);
        } else if let Err(why) = self.has_room(&header) {
            self.refuse(ends, transfer, why);
        } else {
            let (range, store, bytes) = (ends.range, ends.other_store, header.bytes);
            tracing::info!(%range, %store, index = at.index, bytes, "taking a snapshot in");
            let receiving = Receiving::new(ends, transfer, header, announced, self.ticks);
            self.receiving.insert(range, receiving);
            self.acknowledge(range);
        }
        Ok(())
    }

    /// Whether there is a place for it, and room on the disk beside those that are on their way.
    fn has_room(&mut self, header: &SnapshotHeader) -> Result<(), Why> {
        let coming: u64 = self.receiving.values().map(|it| it.header.bytes).sum();
        let needed = self.limits.disk_free_min.saturating_add(coming).saturating_add(header.bytes);
        let looks = self.limits.disk_free_min > 0;
        if looks && self.disk_free.is_some_and(|free| free < needed) {
            return Err(Why::NoSpace);
        }
        let is_full = self.receiving.len() >= self.limits.receiving_max;
        if header.repairs {
            let until = if is_full { self.ticks + REPAIR_RETURNS_WITHIN } else { 0 };
            self.kept_for_repair_until = until;
        }
        if is_full || self.ticks < self.kept_for_repair_until {
            return Err(Why::Busy);
        }
        Ok(())
    }

    fn acknowledge(&mut self, range: RangeId) {
        let receiving = self.receiving.get_mut(&range).expect("who answers is there");
        let ack = receiving.ack(&self.limits, &mut self.budget, self.ticks);
        self.outbox.post(receiving.ends, receiving.transfer, Body::Ack(ack));
    }

    pub(super) fn chunk(&mut self, ends: Ends, transfer: u64, chunk: SnapshotChunk) {
        self.stats.bytes_received += chunk.data.len() as u64;
        let known = self.receiving.get_mut(&ends.range);
        let Some(receiving) = known.filter(|it| it.transfer == transfer && it.ends == ends) else {
            // Of a transfer that this store has forgotten, by a restart perhaps.
            return self.say_no(ends, transfer, Why::Damaged);
        };
        let mut is_news = false;
        if !receiving.is_handed_on {
            let whole = receiving.take(chunk, self.ticks).and_then(|took| {
                is_news = took;
                receiving.whole().transpose()
            });
            let Ok(whole) = whole else { return self.reject(ends.range, Why::Damaged) };
            self.to_restore.extend(whole);
        }
        // What is here already is no news; but an earlier answer may be lost.
        if is_news || receiving.was_silent(self.ticks) {
            self.acknowledge(ends.range);
        }
    }

    pub(super) fn cancelled(&mut self, ends: Ends, transfer: u64) {
        let known = self.receiving.get(&ends.range);
        let is_it = |it: &&Receiving| it.transfer == transfer && it.ends == ends;
        if known.filter(is_it).is_some_and(|it| !it.is_handed_on) {
            self.abandon(ends.range, WhyEnded::Cancelled);
        }
    }

    /// Takes a state that was made of a snapshot. One that nobody wants any more comes back.
    pub(super) fn restored<M: StateMachine>(
        &mut self,
        replica: &mut Replica<M>,
        (ends, transfer): (Ends, u64),
        arrived: Result<Box<Arrived<M>>, NotRestored>,
    ) -> Option<M> {
        let known = self.receiving.get(&ends.range);
        let is_it = |it: &&Receiving| it.transfer == transfer && it.ends == ends;
        if known.filter(is_it).is_none() {
            return arrived.ok().map(|arrived| arrived.state.into_machine());
        }
        match arrived {
            Ok(arrived) => replica.arrived(*arrived),
            Err(why) => {
                if let NotRestored::Beyond(behind) = why {
                    replica.stays_behind(behind);
                }
                self.reject(ends.range, Why::Damaged);
            }
        }
        None
    }

    /// A replica is not here any more: whatever travels to it ends.
    pub(super) fn forget(&mut self, range: RangeId) {
        self.reject(range, Why::UnknownRange);
        self.to_restore.retain(|restore| restore.ends.range != range);
    }
}
