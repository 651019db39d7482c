//! The replicas of one store, or one share of them, driven by its owner's calls: the engine's public
//! face. A store with several raft workers has a `Store` for each ([`Store::recover_shares`]), and
//! they share nothing but the disk.
//!
//! It owns no thread, no clock and no socket. The owner ticks it, steps what arrived, proposes,
//! and then calls [`Store::turn`], which says what to write, send and answer.

mod alone;
mod dividing;
mod early_votes;
mod hearing;
mod lives;
mod notices;
mod punctuality;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::ops::Bound;

use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};
use sharklock_rangemap::{Bounds, ByRange, Descriptor, Epoch, PeerId, RangeId, StoreId};

use crate::alone::Orphan;
use crate::chore::{Chore, ChoreDone};
use crate::disk::{BatchSeq, Disk};
use crate::effects::{Behind, Effects, LostLog, NotProposed, Proposed, ReadId, ReplicaStatus};
use crate::guard::Dropped;
use crate::heartbeats;
use crate::ident::{StoreIdent, read_ident};
use crate::log::LogLimits;
use crate::membership::ChangePeers;
use crate::recover::{self, RecoverError, Recovered};
use crate::replica::{PeerProgress, Replica};
use crate::share;
use crate::snapshot::{SnapshotLimits, SnapshotStats, Transfers};
use crate::split::{NotChanged, Split};
use crate::staging::Staging;
use crate::state_machine::StateMachine;
use dividing::Dividing;
use early_votes::EarlyVotes;
pub use early_votes::asks_for_a_vote;
pub use lives::AwaitedChild;
use lives::Unborn;
use notices::Ends;
use punctuality::Punctuality;

/// The settings that may differ between stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How much log each range keeps.
    pub log: LogLimits,
    /// The limits of snapshots.
    pub snapshots: SnapshotLimits,
    /// Of the first image of a half that was split off a turn takes about so many rows: some 2 µs
    /// each. More would hold up all ranges of the store.
    pub piece_rows: usize,
}

impl Default for Config {
    fn default() -> Self {
        let (log, snapshots) = (LogLimits::default(), SnapshotLimits::default());
        Self { log, snapshots, piece_rows: 4_096 }
    }
}

impl Config {
    /// For one share of a store, counted from 0, of so many.
    fn share(self, number: usize, count: NonZeroUsize) -> Self {
        Self { snapshots: self.snapshots.share(number, count), ..self }
    }
}

/// The replicas of one store, or one share of them.
///
/// Invariants:
/// - no other share of the store has, in memory or on the disk, a name or a range that this one has.
///   The owner of the shares sees to that, in what it creates where;
/// - `tombstones` has those of all shares, or hears of them before anything that they forbid;
/// - bounds of ranges never overlap, those of `unborn` ones included;
/// - `by_start` has exactly the ranges of `replicas`;
/// - what is said of a range that is not in `replicas` leads to nothing of it;
/// - no replica is here that is not newer than the tombstone of its range;
/// - a replica whose raft-rs has something for us is in `work`;
/// - a replica whose image lacks something is in `unflushed` or `flush_due`;
/// - `lost` has exactly the replicas that are stopped for ever;
/// - `behind` has every replica that stays behind, and maybe some that did.
pub struct Store<M: StateMachine> {
    ident: StoreIdent,
    config: Config,
    replicas: ByRange<Replica<M>>,
    by_start: BTreeMap<Vec<u8>, RangeId>,
    /// Replicas whose records are not durable yet. Until then they are nothing but memory.
    unborn: BTreeMap<RangeId, Unborn<M>>,
    dividing: Dividing,
    /// The newest replica of each range that was on this store and is gone.
    tombstones: BTreeMap<RangeId, PeerId>,
    /// Tombstones that were left here since the last turn.
    buried: Vec<(RangeId, PeerId)>,
    /// Ranges in `unborn` that the next turn bears.
    due: Vec<RangeId>,
    /// Heartbeats, and answers to them, that wait to be sent.
    beats: Vec<Heartbeats>,
    /// Messages to other stores about replicas that wait to be sent, see `notices.rs`.
    notices: Vec<RangeMessage>,
    early_votes: EarlyVotes,
    work: BTreeSet<RangeId>,
    lost: BTreeSet<RangeId>,
    behind: BTreeSet<RangeId>,
    /// Ranges that have changed since the owner last asked for images.
    unflushed: BTreeSet<RangeId>,
    /// Ranges whose image the next batch brings up to date.
    flush_due: BTreeSet<RangeId>,
    /// Whether that is a batch that leaves anyway.
    flush_waits: bool,
    staging: Staging,
    transfers: Transfers,
    /// States that others have taken the place of.
    discarded: Vec<M>,
    punctuality: Punctuality,
    last_incarnation: u64,
    /// Since recovery.
    ticks: u64,
    last_read: u64,
}

impl<M: StateMachine> Store<M> {
    /// The store that was last on this disk. A range whose only voter is here campaigns at once.
    pub fn recover(config: Config, disk: &impl Disk) -> Result<Self, RecoverError> {
        let mut shares = Self::recover_shares(config, disk, NonZeroUsize::MIN)?;
        Ok(shares.pop().expect("there is one share"))
    }

    /// The same in so many shares: replicas whose names could meet are in the same one. How many
    /// there are may change from start to start, since the disk knows nothing of them. The limits of
    /// snapshots are shared out as well.
    pub fn recover_shares(
        config: Config,
        disk: &impl Disk,
        count: NonZeroUsize,
    ) -> Result<Vec<Self>, RecoverError> {
        let ident = read_ident(disk)?.ok_or(RecoverError::NoIdent)?;
        let Recovered { replicas, tombstones } = recover::load(disk, &ident)?;
        let mut shares = Vec::new();
        for (number, replicas) in share::share_out(replicas, count).into_iter().enumerate() {
            let mut store = Self::without_replicas(config.share(number, count), ident);
            store.tombstones.clone_from(&tombstones);
            store.admit_all(replicas)?;
            shares.push(store);
        }
        let buried: Vec<_> = shares.iter().flat_map(|it| it.buried.iter().copied()).collect();
        for (range, peer) in buried {
            shares.iter_mut().for_each(|share| share.buried_elsewhere(range, peer));
        }
        Ok(shares)
    }

    fn without_replicas(config: Config, ident: StoreIdent) -> Self {
        let cluster_id = ident.cluster_id.to_wire();
        Self {
            ident,
            config,
            replicas: ByRange::default(),
            by_start: BTreeMap::new(),
            unborn: BTreeMap::new(),
            dividing: Dividing::default(),
            tombstones: BTreeMap::new(),
            buried: Vec::new(),
            due: Vec::new(),
            beats: Vec::new(),
            notices: Vec::new(),
            early_votes: EarlyVotes::default(),
            work: BTreeSet::new(),
            lost: BTreeSet::new(),
            behind: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            flush_due: BTreeSet::new(),
            flush_waits: false,
            staging: Staging::default(),
            transfers: Transfers::new(cluster_id, config.snapshots),
            discarded: Vec::new(),
            punctuality: Punctuality::default(),
            last_incarnation: 0,
            ticks: 0,
            last_read: 0,
        }
    }

    /// 100 ms have passed. All leaders here send their heartbeats at the same ticks.
    pub fn tick(&mut self) {
        self.ticks += 1;
        self.transfers.tick();
        self.early_votes.tick(self.ticks);
        let mut lonely = Vec::new();
        for (range, replica) in self.replicas.iter_mut() {
            if replica.tick(self.ticks, &mut self.beats) {
                self.work.insert(*range);
            }
            if replica.is_lonely(self.ticks) {
                lonely.push(*range);
            }
        }
        for range in lonely {
            self.ask_whether_member(range);
        }
    }

    /// A message from a peer, whose `from_store` the link has authenticated. Its effects
    /// come with the next turn. A request for the vote of a replica that is not here may wait for it
    /// for a short while.
    pub fn step(&mut self, message: RangeMessage) -> Result<(), Dropped> {
        if message.notice.is_some() {
            return self.step_notice(message);
        }
        let range = RangeId(message.range_id);
        let ends = Ends::of(&message);
        let Some(replica) = self.replicas.get_mut(&range) else {
            self.tell_absent(&message);
            if self.keep_early_vote(&message) {
                return Ok(());
            }
            return Err(Dropped::UnknownRange(range));
        };
        self.work.insert(range);
        let is_late = self.punctuality.is_late(StoreId(message.from_store), self.ticks);
        let stepped = replica.step(message, self.ticks, is_late);
        match stepped {
            Err(Dropped::LostLog { .. }) => _ = self.lost.insert(range),
            Err(Dropped::Beyond(_)) => _ = self.behind.insert(range),
            Err(Dropped::RemovedPeer(_) | Dropped::NotForMe(_)) => self.tell_if_removed(ends),
            _ => {}
        }
        stepped
    }

    /// Heartbeats from a peer store, authenticated as in [`Store::step`]: each is stepped as the
    /// single message that it stands for. Returns those that were dropped.
    ///
    /// If they are late, whoever follows a leader there does not count anew from what it hears of it,
    /// until some come in time, and will campaign: what that leader decides would be late as well.
    pub fn step_heartbeats(&mut self, mut heartbeats: Heartbeats) -> Vec<(RangeId, Dropped)> {
        let from = StoreId(heartbeats.from_store);
        self.punctuality.heard(from, self.ticks, heartbeats.is_late);
        let heard = (self.ticks, self.punctuality.is_late(from, self.ticks));
        let is_ours = heartbeats.cluster_id == self.ident.cluster_id
            && StoreId(heartbeats.to_store) == self.ident.store
            && from != self.ident.store;
        let mut dropped = Vec::new();
        for beat in std::mem::take(&mut heartbeats.beats) {
            let range = RangeId(beat.range_id);
            // Where a snapshot is under way each turn of the replica may tell of it. What is due has
            // been told things in this turn that no batch has: an answer waits for term and vote.
            if is_ours
                && !self.transfers.is_about(range)
                && !self.work.contains(&range)
                && let Some(replica) = self.replicas.get_mut(&range)
                && replica.heed(&beat, from, heard, &mut self.beats)
            {
                continue;
            }
            if let Err(why) = self.step(heartbeats::single(&heartbeats, beat)) {
                dropped.push((range, why));
            }
        }
        dropped
    }

    /// A piece of a snapshot, or what answers one, from a peer store, authenticated as in
    /// [`Store::step`].
    pub fn step_snapshot(&mut self, message: SnapshotMessage) -> Result<(), Dropped> {
        if message.cluster_id != self.ident.cluster_id {
            return Err(Dropped::OtherCluster);
        }
        let range = RangeId(message.range_id);
        let Some(replica) = self.replicas.get_mut(&range) else {
            self.transfers.unknown_range(&message);
            return Err(Dropped::UnknownRange(range));
        };
        self.work.insert(range);
        self.transfers.step(replica, message)
    }

    /// Appends an entry to the range's log, if this replica leads. Its outcome is the
    /// [`crate::Applied`] at the same index and term; another term at that index, or a
    /// [`crate::RoleNow::Follower`], leave it open whether it will happen.
    ///
    /// # Panics
    ///
    /// If `data` is empty: such entries are Raft's own.
    pub fn propose(&mut self, range: RangeId, data: Vec<u8>) -> Result<Proposed, NotProposed> {
        let replica = self.replicas.get_mut(&range).ok_or(NotProposed::UnknownRange)?;
        self.work.insert(range);
        replica.propose(data)
    }

    /// Proposes that the range becomes two, if this replica leads and has applied an entry of its own
    /// term. With its application (at the same index and term, see [`propose`](Self::propose)) the
    /// range has the lower names, and the upper ones are a range that is born on every store of this
    /// one; or nothing has happened, since another change of the epoch came first. Not while 64 earlier
    /// children do not live.
    pub fn split(&mut self, range: RangeId, split: &Split) -> Result<Proposed, NotProposed> {
        // Applied, it would shrink the range and make nothing: the names would belong to nobody.
        if self.has_or_had(split.child) {
            return Err(NotChanged::Child(split.child).into());
        }
        self.may_await_another(range)?;
        let replica = self.replicas.get_mut(&range).ok_or(NotProposed::UnknownRange)?;
        self.work.insert(range);
        replica.split(split)
    }

    /// Whether [`split`](Self::split) would propose it, given ids that were never given before.
    pub fn may_split(&self, range: RangeId, epoch: Epoch, key: &str) -> Result<(), NotProposed> {
        self.may_await_another(range)?;
        let replica = self.replicas.get(&range).ok_or(NotProposed::UnknownRange)?;
        replica.may_split(epoch, key)
    }

    /// Proposes other members of the range, under the same conditions as [`split`](Self::split).
    pub fn change_peers(
        &mut self,
        range: RangeId,
        change: &ChangePeers,
    ) -> Result<Proposed, NotProposed> {
        let replica = self.replicas.get_mut(&range).ok_or(NotProposed::UnknownRange)?;
        self.work.insert(range);
        replica.change_peers(change, self.ticks)
    }

    /// Begins a round that proves leadership, for answers from the applied state. One round
    /// serves everything received before it. Its [`crate::ReadReady`] never comes if leadership
    /// is lost, and may be late if messages are: the owner asks again.
    pub fn read_index(&mut self, range: RangeId) -> Result<ReadId, NotProposed> {
        let replica = self.replicas.get_mut(&range).ok_or(NotProposed::UnknownRange)?;
        self.last_read += 1;
        let read = ReadId(self.last_read);
        self.work.insert(range);
        replica.read_index(read)?;
        Ok(read)
    }

    /// Nothing reaches this store for now, or what was sent to it of late is lost: its link says
    /// so. Raft sends again what matters; a snapshot on its way there has failed.
    pub fn unreachable(&mut self, store: StoreId) {
        self.transfers.unreachable(store);
        for (range, replica) in self.replicas.iter_mut() {
            if replica.leads_now() {
                replica.unreachable(store);
                self.work.insert(*range);
            }
        }
    }

    /// Begins to hand over every leadership, each to the voter elsewhere that has most of the log
    /// and is heard of: the owner is about to stop. A leadership that nobody can take stays, and
    /// one that is not taken within an election timeout comes back; the owner may ask again.
    pub fn hand_over(&mut self) {
        for (range, replica) in self.replicas.iter_mut() {
            if replica.hand_over(self.ticks, None) {
                self.work.insert(*range);
            }
        }
    }

    /// The same for one range, to this store or to whichever is best. False: nobody there can take it
    /// at the moment, or it is not led here, and so it stays.
    pub fn hand_over_one(&mut self, range: RangeId, to: Option<StoreId>) -> bool {
        let Some(replica) = self.replicas.get_mut(&range) else { return false };
        let begins = replica.hand_over(self.ticks, to);
        if begins {
            self.work.insert(range);
        }
        begins
    }

    /// The replicas here that have heard of no leader for a while: their ranges may go on without them.
    pub fn orphans(&self) -> impl Iterator<Item = Orphan> {
        let orphaned = self.replicas.values().filter(|it| it.is_orphaned(self.ticks));
        orphaned.map(Replica::orphan)
    }

    /// The replicas of a range as its leader sees them, in the order of its descriptor. None unless
    /// the leader is here.
    pub fn peers(&self, range: RangeId) -> Vec<PeerProgress> {
        let Some(replica) = self.replicas.get(&range) else { return Vec::new() };
        let mut peers = replica.peers(self.ticks);
        for peer in &mut peers {
            peer.in_snapshot = self.transfers.is_sending(range, peer.peer);
        }
        peers
    }

    /// The next batch brings the images of all ranges up to what they have applied by then. Also
    /// the moment at which logs are truncated, behind images that are durable already.
    pub fn flush(&mut self) {
        let replicas = &self.replicas;
        let needs_flush = |range: &RangeId| replicas.get(range).is_some_and(Replica::needs_flush);
        self.flush_due.extend(std::mem::take(&mut self.unflushed).into_iter().filter(needs_flush));
        self.flush_waits = false;
    }

    /// As [`flush`](Self::flush), but images wait for a batch that leaves anyway, until the next call
    /// of this: a batch of their own costs a sync for which somebody may wait. An owner that calls
    /// it from time to time leaves nothing unwritten when it goes idle.
    pub fn flush_along(&mut self) {
        let nobody_came = !self.flush_due.is_empty();
        self.flush();
        self.flush_waits = !nobody_came;
    }

    /// Takes what Raft has for us, applies what is committed, and hands out a batch if there is
    /// something to write and the disk is free.
    pub fn turn(&mut self, effects: &mut Effects<M::Output>) {
        heartbeats::add_all(&mut effects.heartbeats, std::mem::take(&mut self.beats));
        for range in std::mem::take(&mut self.due) {
            self.is_born(range, effects);
        }
        self.go_on_dividing();
        for range in std::mem::take(&mut self.work) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            replica.drive(&mut self.staging, effects);
            if replica.has_life_to_follow() {
                self.follow_life(range, effects);
            }
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            self.transfers.follow(replica, &self.config.log);
            self.discarded.append(&mut replica.take_discarded());
            if !replica.needs_flush() {
                continue;
            }
            self.unflushed.insert(range);
            let reserve = self.log_reserve(range);
            if self.replicas[&range].is_flush_overdue(&self.config.log, reserve) {
                self.flush_due.insert(range);
                self.flush_waits = false;
            }
        }
        effects.buried.append(&mut self.buried);
        self.transfers.hand_out(&mut effects.snapshots);
        effects.messages.append(&mut self.notices);
        // Images wait until their batch leaves: a row that changes twice meanwhile is written once.
        if self.staging.in_flight() {
            return;
        }
        if !self.flush_waits || self.staging.has_changes() {
            self.stage_images();
        }
        if let Some(batch) = self.staging.cut() {
            assert!(effects.batch.replace(batch).is_none(), "the owner drains effects");
        }
    }

    fn stage_images(&mut self) {
        for range in std::mem::take(&mut self.flush_due) {
            if self.replicas.get(&range).is_some_and(Replica::needs_flush) {
                self.stage_image(range);
            }
        }
    }

    /// The disk has the batch: all of it, durably. Everything that waited for it comes with the
    /// next turn.
    ///
    /// # Panics
    ///
    /// If `seq` is not the batch in flight.
    pub fn persisted(&mut self, seq: BatchSeq) {
        let completion = self.staging.complete(seq);
        for saved in completion.saved {
            if let Some(replica) = self.replicas.get_mut(&saved.range)
                && replica.incarnation() == saved.incarnation
            {
                replica.saved(saved.number);
                self.work.insert(saved.range);
            }
        }
        for flushed in completion.flushed {
            if let Some(replica) = self.replicas.get_mut(&flushed.range)
                && replica.incarnation() == flushed.incarnation
            {
                replica.flushed_to(flushed.applied);
            }
        }
        self.due.extend(completion.born);
    }

    /// The work beside the turns, since it grows with a range. A bounded number is under
    /// way at a time: [`SnapshotLimits`] says how many snapshots.
    pub fn take_chores(&mut self) -> Vec<Chore<M>> {
        let reads = self.transfers.take_reads().into_iter().map(Chore::Read);
        let restores = self.transfers.take_restores().into_iter();
        let restores = restores.map(|it| Chore::Restore(Box::new(it)));
        let discards = self.discarded.drain(..).map(Chore::Discard);
        reads.chain(restores).chain(discards).collect()
    }

    /// Takes the result of a chore. Its effects comes with the next turn.
    pub fn chore_done(&mut self, done: ChoreDone<M>) {
        let range = done.range();
        let Some(replica) = self.replicas.get_mut(&range) else {
            self.discarded.extend(done.into_machine());
            return;
        };
        self.work.insert(range);
        let unwanted = self.transfers.chore_done(replica, done.0);
        if replica.behind().is_some() {
            self.behind.insert(range);
        }
        self.discarded.extend(unwanted);
    }

    /// Whether something is to be written that no batch has yet.
    pub fn batch_is_due(&self) -> bool {
        self.staging.has_changes() || self.has_divisions()
    }

    /// Whether a batch was handed out and not reported back.
    pub fn batch_in_flight(&self) -> bool {
        self.staging.in_flight()
    }

    /// The batch with which everything that has happened here so far is durable.
    pub fn staged(&self) -> BatchSeq {
        self.staging.staged()
    }

    /// The last batch that is durable; none is before the first.
    pub fn durable(&self) -> BatchSeq {
        self.staging.durable()
    }

    /// The state of a range, as applied.
    pub fn machine(&self, range: RangeId) -> Option<&M> {
        self.replicas.get(&range).map(Replica::machine)
    }

    /// The state of a range, for what its owner derives from it. To change what is replicated would
    /// make this replica another than the rest.
    pub fn machine_mut(&mut self, range: RangeId) -> Option<&mut M> {
        self.replicas.get_mut(&range).map(Replica::machine_mut)
    }

    /// The descriptor of a range, as applied.
    pub fn descriptor(&self, range: RangeId) -> Option<&Descriptor> {
        self.replicas.get(&range).map(Replica::descriptor)
    }

    /// The range here that a name belongs to.
    pub fn range_at(&self, name: &[u8]) -> Option<RangeId> {
        let before = (Bound::Unbounded, Bound::Included(name));
        let (_, range) = self.by_start.range::<[u8], _>(before).next_back()?;
        let descriptor = self.descriptor(*range)?;
        descriptor.bounds.contains(name).then_some(*range)
    }

    /// All ranges here, by id.
    pub fn ranges(&self) -> Vec<RangeId> {
        self.replicas.keys().copied().collect()
    }

    /// The store of a range's leader, as far as known; this store's own while it leads. `None` also
    /// for a range that is not here.
    pub fn leader_of(&self, range: RangeId) -> Option<StoreId> {
        self.replicas.get(&range)?.leader()
    }

    /// The replicas to which this disk counts as lost, and why: they are stopped, for ever.
    pub fn lost(&self) -> impl Iterator<Item = (RangeId, LostLog)> {
        self.lost.iter().filter_map(|range| Some((*range, self.replicas.get(range)?.lost()?)))
    }

    /// The replicas that stay behind since this program is too old for their ranges, and at what.
    pub fn behind(&self) -> impl Iterator<Item = (RangeId, &Behind)> {
        self.behind.iter().filter_map(|range| Some((*range, self.replicas.get(range)?.behind()?)))
    }

    /// The newest replica of a range that was here and is gone, if one was.
    pub fn tombstone(&self, range: RangeId) -> Option<PeerId> {
        self.tombstones.get(&range).copied()
    }

    /// The ranges that are this share's to have or to bury, and their names, as far as it has a
    /// replica or makes one.
    pub fn held(&self) -> Vec<(RangeId, Option<Bounds>)> {
        let here = self.replicas.iter().map(|(range, it)| (*range, it.descriptor()));
        let unborn = self.unborn.iter().map(|(range, it)| (*range, it.descriptor()));
        let held = here.chain(unborn).map(|(range, it)| (range, Some(it.bounds.clone())));
        held.chain(self.buried.iter().map(|(range, _)| (*range, None))).collect()
    }

    /// Another share of the store has left this tombstone: what it forbids it forbids here, too.
    pub fn buried_elsewhere(&mut self, range: RangeId, peer: PeerId) {
        let newest = self.tombstones.entry(range).or_insert(peer);
        *newest = peer.max(*newest);
    }

    /// How a replica stands.
    pub fn status(&self, range: RangeId) -> Option<ReplicaStatus> {
        self.replicas.get(&range).map(Replica::status)
    }

    /// The fates of the snapshots that this store has sent and taken in.
    pub fn snapshot_stats(&self) -> SnapshotStats {
        self.transfers.stats()
    }

    /// So many bytes of its disk are free; `None`: nobody knows. Snapshots are refused that would leave
    /// less than [`SnapshotLimits::disk_free_min`].
    pub fn set_disk_free(&mut self, bytes: Option<u64>) {
        self.transfers.set_disk_free(bytes);
    }

    /// The identity of the store.
    pub fn ident(&self) -> &StoreIdent {
        &self.ident
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::{ClusterId, Identity};
    use sharklock_rangemap::{Replica as Member, Role};

    use super::*;
    use crate::disk::WriteOp;
    use crate::ident::bootstrap;
    use crate::sim_disk::SimDisk;
    use crate::staging::Incarnation;
    use crate::state_machine::{BadImage, DirtyRow, EntryAt};

    /// Counts its entries.
    struct Count(u64);

    impl StateMachine for Count {
        type Output = ();

        fn empty() -> Self {
            Self(0)
        }

        fn apply(&mut self, _at: EntryAt, _version: u64, _data: &[u8]) {
            self.0 += 1;
        }

        fn split_off(&mut self, _key: &str) -> Self {
            Self(self.0)
        }

        fn take_dirty(&mut self) -> Vec<DirtyRow> {
            Vec::new()
        }

        fn dirty_len(&self) -> usize {
            0
        }

        fn header(&self) -> Vec<u8> {
            self.0.to_be_bytes().to_vec()
        }

        fn state_hash(&self) -> u64 {
            self.0
        }

        fn restore(
            header: &[u8],
            _rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
        ) -> Result<Self, BadImage> {
            let header = header.try_into().map_err(|_| BadImage::Corrupt("no count".to_owned()))?;
            Ok(Self(u64::from_be_bytes(header)))
        }
    }

    /// A disk with a range of one member.
    fn one_range() -> SimDisk {
        let ident = StoreIdent {
            cluster_id: ClusterId::from_bytes([1; 16]),
            store: StoreId(1),
            ident: Identity::from_bytes([2; 16]),
        };
        let member = Member { peer: PeerId(3), store: StoreId(1), role: Role::Voter };
        let first = Descriptor {
            range: RangeId(7),
            bounds: Bounds::ALL,
            epoch: Epoch { version: 1, conf_ver: 1 },
            replicas: vec![member],
        };
        let mut disk = SimDisk::default();
        disk.write(&bootstrap(&ident, &first), true).expect("no fault is planned");
        disk
    }

    /// The persist completion of a replica must not reach the one that took its place (TiKV
    /// lost entries that way: mistake 3 of failures.md).
    #[test]
    fn a_completion_for_an_earlier_incarnation_is_ignored() {
        let disk = one_range();
        let recover = || Store::<Count>::recover(Config::default(), &disk).expect("it is fresh");

        let mut store = recover();
        let mut effects = Effects::default();
        store.turn(&mut effects);
        let seq = effects.batch.take().expect("the campaign goes to the disk").seq;

        let mut replacement = recover().replicas.remove(&RangeId(7)).expect("it is there");
        replacement.set_incarnation(Incarnation(99));
        store.replicas.insert(RangeId(7), replacement);
        store.work.insert(RangeId(7));
        store.turn(&mut effects);
        store.persisted(seq);
        store.turn(&mut effects);
        assert!(effects.applied.is_empty(), "the replacement's own batch is not on the disk");

        let seq = effects.batch.take().expect("the replacement has a batch of its own").seq;
        store.persisted(seq);
        store.turn(&mut effects);
        assert_eq!(effects.applied.len(), 1);
    }

    /// Were the log cut back to its maximum only, each entry would be over it and flush the range.
    #[test]
    fn a_log_at_its_maximum_does_not_flush_its_range_with_every_entry() {
        const ENTRIES: u64 = 300;
        let (mut config, mut disk) = (Config::default(), one_range());
        config.log = LogLimits { entries_floor: 64, entries_max: 1 << 20, bytes_max: 10_000 };
        let mut store = Store::<Count>::recover(config, &disk).expect("it is fresh");
        let mut effects = Effects::default();
        let mut flushes = 0;
        let mut settle = |store: &mut Store<Count>| loop {
            store.turn(&mut effects);
            let Some(batch) = effects.batch.take() else { return };
            let cuts = |op: &&WriteOp| matches!(op, WriteOp::DeleteRange(..));
            flushes += batch.ops.iter().filter(cuts).count() as u64;
            disk.write(&batch.ops, true).expect("no fault is planned");
            store.persisted(batch.seq);
        };
        settle(&mut store);
        for _ in 0..ENTRIES {
            store.propose(RangeId(7), vec![7; 500]).expect("it leads");
            settle(&mut store);
        }
        assert!(flushes > 10, "the log is cut: {flushes} times");
        assert!(flushes < ENTRIES / 3, "{flushes} flushes of {ENTRIES} entries");
    }

    /// What earlier leaders have left in the log may change the epoch, too.
    #[test]
    fn a_leader_changes_no_epoch_before_it_has_applied_to_its_own_term() {
        let mut disk = one_range();
        let mut store = Store::<Count>::recover(Config::default(), &disk).expect("it is fresh");
        let mut effects = Effects::default();
        let split = Split {
            epoch: Epoch { version: 1, conf_ver: 1 },
            key: "m".to_owned(),
            child: RangeId(8),
            child_peers: vec![PeerId(4)],
        };
        store.turn(&mut effects);
        assert_eq!(store.split(RangeId(7), &split), Err(NotProposed::NotReady));
        while let Some(batch) = effects.batch.take() {
            disk.write(&batch.ops, true).expect("no fault is planned");
            store.persisted(batch.seq);
            store.turn(&mut effects);
        }
        store.split(RangeId(7), &split).expect("it leads, and has applied to its own term");
        assert_eq!(store.split(RangeId(7), &split), Err(NotProposed::EpochChanging));
    }
}
