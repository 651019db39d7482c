//! All replicas of one store, driven by its owner's calls: the engine's public face.
//!
//! It owns no thread, no clock and no socket. The owner ticks it, steps what arrived, proposes,
//! and then calls [`Store::turn`], which says what to write, send and answer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use sharklock_proto::internal::v1::{Heartbeats, RangeMessage, SnapshotMessage};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::chore::{Chore, ChoreDone};
use crate::create::{self, CreateError};
use crate::disk::{BatchSeq, Disk};
use crate::effects::{Effects, LostLog, NotProposed, Proposed, ReadId, ReplicaStatus};
use crate::guard::Dropped;
use crate::ident::{self, StoreIdent, read_ident};
use crate::log::LogLimits;
use crate::peers::PeerProgress;
use crate::recover::{self, RecoverError};
use crate::replica::{Address, Loaded, Replica};
use crate::snapshot::{SnapshotLimits, SnapshotStats, Transfers};
use crate::staging::{Incarnation, Staging};
use crate::state_machine::StateMachine;
use crate::{heartbeats, image, ready};

/// What may differ between stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Spreads election timeouts. Equal seeds and inputs give equal runs; stores of one cluster
    /// differ anyway, by their peer ids.
    pub election_seed: u64,
    /// How much log each range keeps.
    pub log: LogLimits,
    /// What snapshots may take.
    pub snapshots: SnapshotLimits,
}

/// The replicas of one store.
///
/// Invariants:
/// - bounds of ranges never overlap;
/// - a replica whose raft-rs has something for us is in `work`;
/// - a replica whose image lacks something is in `unflushed` or `flush_due`;
/// - `lost` has exactly the replicas that are stopped for ever.
pub struct Store<M: StateMachine> {
    ident: StoreIdent,
    config: Config,
    replicas: BTreeMap<RangeId, Replica<M>>,
    by_start: BTreeMap<Vec<u8>, RangeId>,
    work: BTreeSet<RangeId>,
    lost: BTreeSet<RangeId>,
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
    last_incarnation: u64,
    /// Since recovery.
    ticks: u64,
    last_read: u64,
}

impl<M: StateMachine> Store<M> {
    /// The store that was last on this disk. A range whose only voter is here campaigns at once.
    pub fn recover(config: Config, disk: &impl Disk) -> Result<Self, RecoverError> {
        let ident = read_ident(disk)?.ok_or(RecoverError::NoIdent)?;
        let cluster_id = Bytes::copy_from_slice(&ident.cluster_id);
        let mut store = Self {
            ident,
            config,
            replicas: BTreeMap::new(),
            by_start: BTreeMap::new(),
            work: BTreeSet::new(),
            lost: BTreeSet::new(),
            unflushed: BTreeSet::new(),
            flush_due: BTreeSet::new(),
            flush_waits: false,
            staging: Staging::default(),
            transfers: Transfers::new(cluster_id, config.snapshots),
            discarded: Vec::new(),
            last_incarnation: 0,
            ticks: 0,
            last_read: 0,
        };
        for loaded in recover::load(disk, &ident)? {
            store.admit(loaded)?;
        }
        Ok(store)
    }

    /// Makes a replica of a first range out of nothing, as [`crate::bootstrap`] does on a fresh
    /// disk. Its records go into the next batch, and no vote of it leaves before they are durable.
    /// Where the range is already, with an equal descriptor, nothing happens.
    pub fn create(&mut self, descriptor: Descriptor) -> Result<(), CreateError> {
        create::check(&descriptor, self.ident.store)?;
        let range = descriptor.range;
        if let Some(here) = self.replicas.get(&range) {
            let equal = here.descriptor == descriptor;
            return if equal { Ok(()) } else { Err(CreateError::Differs(range)) };
        }
        if let Some(other) = self.overlapping(&descriptor) {
            return Err(CreateError::Overlap { range, other });
        }
        ident::birth(&descriptor).into_iter().for_each(|op| self.staging.put(op));
        self.admit(create::newborn(descriptor)).expect("its checks have passed");
        Ok(())
    }

    /// A range here that has names in common with this one.
    fn overlapping(&self, descriptor: &Descriptor) -> Option<RangeId> {
        let bounds = &descriptor.bounds;
        // Those here do not overlap each other, so only the neighbours can overlap the new one.
        let before = self.by_start.range(..bounds.start.clone()).next_back();
        let after = self.by_start.range(bounds.start.clone()..).next();
        let mut neighbours = before.into_iter().chain(after).map(|(_, range)| *range);
        neighbours.find(|range| self.replicas[range].descriptor.bounds.overlaps(bounds))
    }

    fn admit(&mut self, loaded: Loaded<M>) -> Result<(), RecoverError> {
        let range = loaded.descriptor.range;
        let corrupt = |why| RecoverError::corrupt(format!("range {range}"), why);
        if let Some(other) = self.overlapping(&loaded.descriptor) {
            return Err(corrupt(format!("its names overlap with those of {other}")));
        }
        let start = loaded.descriptor.bounds.start.clone();
        let here = loaded.descriptor.on_store(self.ident.store);
        self.last_incarnation += 1;
        let address = Address {
            cluster_id: Bytes::copy_from_slice(&self.ident.cluster_id),
            store: self.ident.store,
            peer: here.expect("its descriptor was checked to name this store").peer,
            incarnation: Incarnation(self.last_incarnation),
            election_seed: self.config.election_seed,
        };
        let refused = |error: raft::Error| corrupt(format!("Raft refuses its state: {error}"));
        let mut replica = Replica::new(address, loaded).map_err(refused)?;
        if let Some(why) = replica.lost() {
            tracing::error!(%range, "a replica's disk counts as lost: {why}");
            self.lost.insert(range);
        } else if replica.votes_alone() {
            replica.campaign().map_err(refused)?;
        }
        self.by_start.insert(start, range);
        self.work.insert(range);
        self.unflushed.insert(range);
        self.replicas.insert(range, replica);
        Ok(())
    }

    /// 100 ms have passed. All leaders here send their heartbeats at the same ticks.
    pub fn tick(&mut self) {
        self.ticks += 1;
        self.transfers.tick();
        for (range, replica) in &mut self.replicas {
            if replica.tick(self.ticks) {
                self.work.insert(*range);
            }
        }
    }

    /// A message from a peer, whose `from_store` the link has authenticated. What it leads to
    /// comes with the next turn.
    pub fn step(&mut self, message: RangeMessage) -> Result<(), Dropped> {
        let range = RangeId(message.range_id);
        let replica = self.replicas.get_mut(&range).ok_or(Dropped::UnknownRange(range))?;
        self.work.insert(range);
        let stepped = replica.step(message, self.ticks);
        if let Err(Dropped::LostLog { .. }) = stepped {
            self.lost.insert(range);
        }
        stepped
    }

    /// Heartbeats from a peer store, authenticated as in [`Store::step`]: each is stepped as the
    /// single message that it stands for. Returns those that were dropped.
    pub fn step_heartbeats(&mut self, heartbeats: Heartbeats) -> Vec<(RangeId, Dropped)> {
        let mut dropped = Vec::new();
        for message in heartbeats::singles(heartbeats) {
            let range = RangeId(message.range_id);
            if let Err(why) = self.step(message) {
                dropped.push((range, why));
            }
        }
        dropped
    }

    /// A piece of a snapshot, or what answers one, from a peer store, authenticated as in
    /// [`Store::step`].
    pub fn step_snapshot(&mut self, message: SnapshotMessage) -> Result<(), Dropped> {
        if message.cluster_id != self.ident.cluster_id[..] {
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
        for (range, replica) in &mut self.replicas {
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
        for (range, replica) in &mut self.replicas {
            if replica.hand_over(self.ticks) {
                self.work.insert(*range);
            }
        }
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
        for range in std::mem::take(&mut self.work) {
            let Some(replica) = self.replicas.get_mut(&range) else { continue };
            ready::drive(replica, &mut self.staging, effects);
            self.transfers.follow(replica, &self.config.log);
            self.discarded.append(&mut replica.install.discarded);
            let hold = self.transfers.hold(range);
            if !replica.needs_flush() {
                continue;
            }
            self.unflushed.insert(range);
            if image::is_overdue(replica, &self.config.log, hold) {
                self.flush_due.insert(range);
                self.flush_waits = false;
            }
        }
        self.transfers.hand_out(&mut effects.snapshots);
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
            let replica = self.replicas.get_mut(&range).filter(|replica| replica.needs_flush());
            let Some(replica) = replica else { continue };
            let hold = self.transfers.hold(range);
            image::stage(replica, &self.config.log, hold, &mut self.staging);
        }
    }

    /// The disk has the batch: all of it, durably. What waited for it comes with the next turn.
    ///
    /// # Panics
    ///
    /// If `seq` is not the batch in flight.
    pub fn persisted(&mut self, seq: BatchSeq) {
        let completion = self.staging.complete(seq);
        for saved in completion.saved {
            if let Some(replica) = self.replicas.get_mut(&saved.range)
                && replica.address.incarnation == saved.incarnation
            {
                ready::saved(replica, saved.number);
                self.work.insert(saved.range);
            }
        }
        for flushed in completion.flushed {
            if let Some(replica) = self.replicas.get_mut(&flushed.range)
                && replica.address.incarnation == flushed.incarnation
            {
                // An image that was on its way when a snapshot was installed is older than that.
                replica.flushed = replica.flushed.max(flushed.applied);
            }
        }
    }

    /// What is to be done beside the turns, since it grows with a range. A bounded number is under
    /// way at a time: [`SnapshotLimits`] says how many snapshots.
    pub fn take_chores(&mut self) -> Vec<Chore<M>> {
        let reads = self.transfers.to_read.drain(..).map(Chore::Read);
        let restores = self.transfers.to_restore.drain(..).map(|it| Chore::Restore(Box::new(it)));
        let discards = self.discarded.drain(..).map(Chore::Discard);
        reads.chain(restores).chain(discards).collect()
    }

    /// What came of a chore. What it leads to comes with the next turn.
    pub fn chore_done(&mut self, done: ChoreDone<M>) {
        let range = done.range();
        let Some(replica) = self.replicas.get_mut(&range) else { return };
        self.work.insert(range);
        let unwanted = self.transfers.chore_done(replica, done.0);
        self.discarded.extend(unwanted);
    }

    /// Whether a batch was handed out and not reported back.
    pub fn batch_in_flight(&self) -> bool {
        self.staging.in_flight()
    }

    /// The state of a range, as applied.
    pub fn machine(&self, range: RangeId) -> Option<&M> {
        self.replicas.get(&range).map(|replica| &replica.machine)
    }

    /// The state of a range, for what its owner derives from it. To change what is replicated would
    /// make this replica another than the rest.
    pub fn machine_mut(&mut self, range: RangeId) -> Option<&mut M> {
        self.replicas.get_mut(&range).map(|replica| &mut replica.machine)
    }

    /// The descriptor of a range, as applied.
    pub fn descriptor(&self, range: RangeId) -> Option<&Descriptor> {
        self.replicas.get(&range).map(|replica| &replica.descriptor)
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

    /// How a replica stands.
    pub fn status(&self, range: RangeId) -> Option<ReplicaStatus> {
        self.replicas.get(&range).map(Replica::status)
    }

    /// What became of the snapshots that this store has sent and taken in.
    pub fn snapshot_stats(&self) -> SnapshotStats {
        self.transfers.stats
    }

    /// Whose store it is.
    pub fn ident(&self) -> &StoreIdent {
        &self.ident
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{Bounds, Epoch, PeerId, Replica as Member, Role};

    use super::*;
    use crate::disk::WriteOp;
    use crate::ident::bootstrap;
    use crate::sim_disk::SimDisk;
    use crate::state_machine::{CorruptImage, DirtyRow, EntryAt};

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
        ) -> Result<Self, CorruptImage> {
            let header = header.try_into().map_err(|_| CorruptImage("no count".to_owned()))?;
            Ok(Self(u64::from_be_bytes(header)))
        }
    }

    /// A disk with a range of one member.
    fn one_range() -> SimDisk {
        let ident = StoreIdent { cluster_id: [1; 16], store: StoreId(1), ident: [2; 16] };
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
        replacement.address.incarnation = Incarnation(99);
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
}
