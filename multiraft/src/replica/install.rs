//! A state that came as a snapshot takes the place of a replica's: one batch, which begins by
//! deleting what was there.
//!
//! raft-rs wants a snapshot to be the only thing that is not durable. So it is stepped only when
//! the disk has everything before it, and until the disk has it the replica takes nothing else
//! from raft-rs and is not ticked: a campaign would look for entries that the log no longer has.
//! To everybody else it shows its old state until then.

use raft::eraftpb::{self, ConfState, Message, MessageType};
use sharklock_proto::internal::v1::TruncatedRecord;
use sharklock_rangemap::{Descriptor, PeerId};

use super::Replica;
use crate::disk::WriteOp;
use crate::effects::ReplicaStatus;
use crate::keys::Key;
use crate::range_state::RangeState;
use crate::records;
use crate::snapshot;
use crate::split::SplitMark;
use crate::staging::Staging;
use crate::state_machine::{EntryAt, StateMachine};

/// A state that came whole, restored, not yet the replica's.
#[derive(Debug)]
pub(crate) struct Arrived<M> {
    pub state: RangeState<M>,
    /// The term of the leader that sent it.
    pub term: u64,
    pub from: PeerId,
    /// Deletes what the disk has of the range, and writes the rows.
    pub ops: Vec<WriteOp>,
}

/// A state that is in a batch, and not durable.
struct Writing<M> {
    /// Of the `Ready` that it came with.
    number: u64,
    state: RangeState<M>,
    /// How the replica stood before, which is how it stands until the disk has it.
    before: ReplicaStatus,
}

/// The fate of a state that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstallEnd {
    /// It is the replica's, durably.
    Installed,
    /// The replica was as far already, or its leader changed.
    NotNeeded,
}

/// The progress of the install of a snapshot.
///
/// Invariants:
/// - at most one of the first three is set;
/// - while `writing` is set, nothing else of this replica is put into a batch, and raft-rs is not
///   ticked.
pub(super) struct Install<M> {
    /// Waits until the disk has all that came before.
    arrived: Option<Arrived<M>>,
    /// raft-rs was told; its next `Ready` says whether it wants it.
    offered: Option<Arrived<M>>,
    /// On its way to the disk.
    writing: Option<Writing<M>>,
    /// For the other side.
    end: Option<InstallEnd>,
    /// States that are of no use any more. Large ones take long to let go of, so the store's owner
    /// does that elsewhere.
    discarded: Vec<M>,
}

impl<M> Default for Install<M> {
    fn default() -> Self {
        Self { arrived: None, offered: None, writing: None, end: None, discarded: Vec::new() }
    }
}

impl<M: StateMachine> Install<M> {
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// How the replica stood before the state that is on its way to the disk.
    pub(super) fn before(&self) -> Option<ReplicaStatus> {
        self.writing.as_ref().map(|writing| writing.before)
    }

    fn give_up(&mut self, arrived: Arrived<M>) {
        self.end = Some(InstallEnd::NotNeeded);
        self.discarded.push(arrived.state.into_machine());
    }

    /// All states that are here, at the end of the replica.
    pub(super) fn take_all(&mut self) -> Vec<M> {
        let waiting = [self.arrived.take(), self.offered.take()].into_iter().flatten();
        let mut states: Vec<_> = waiting.map(|it| it.state.into_machine()).collect();
        states.extend(self.writing.take().map(|writing| writing.state.into_machine()));
        states.append(&mut self.discarded);
        states
    }
}

impl<M: StateMachine> Replica<M> {
    /// A state has come whole. It waits until it can be installed.
    pub(crate) fn arrived(&mut self, arrived: Arrived<M>) {
        self.install.arrived = Some(arrived);
    }

    /// The fate of the state that came last, once.
    pub(crate) fn take_install_end(&mut self) -> Option<InstallEnd> {
        self.install.end.take()
    }

    /// States that are of no use any more.
    pub(crate) fn take_discarded(&mut self) -> Vec<M> {
        std::mem::take(&mut self.install.discarded)
    }

    /// Whether this descriptor can follow the one here: epochs never go back, and names only leave.
    pub(crate) fn can_become(&self, next: &Descriptor) -> bool {
        let mine = self.descriptor();
        let (from, to) = (mine.epoch, next.epoch);
        let end_fits = mine.bounds.end.is_empty()
            || (!next.bounds.end.is_empty() && next.bounds.end <= mine.bounds.end);
        from.version <= to.version
            && from.conf_ver <= to.conf_ver
            && mine.bounds.start == next.bounds.start
            && end_fits
    }

    /// A snapshot contains these splits, so they are committed. Those that stand in the log here are
    /// applied first, whatever comes of the snapshot: it would skip them, and if it does so on most
    /// stores, the child is on too few to decide anything, and its names are lost with the next one.
    pub(crate) fn learn_of_splits(&mut self, splits: &[SplitMark]) {
        let here = splits.iter().filter(|split| self.has(split.at)).map(|split| split.at.index);
        if let Some(last) = here.max() {
            self.raw.raft.raft_log.commit_to(last);
        }
    }

    /// Tells raft-rs of a state that has arrived, once the disk has all that came before. True: it
    /// was told, and has something to say.
    pub(super) fn offer_arrived(&mut self, all_durable: bool) -> bool {
        if !all_durable || self.install.arrived.is_none() {
            return false;
        }
        let Some(arrived) = self.install.arrived.take() else { return false };
        let at = arrived.state.applied();
        let is_needed = self.raw.raft.raft_log.committed < at.index;
        if !is_needed || !snapshot::may_install(self, arrived.term) {
            self.install.give_up(arrived);
            return false;
        }
        let members = arrived.state.conf_state(self.address.peer);
        self.step_snapshot(arrived.term, arrived.from, at, members);
        self.install.offered = Some(arrived);
        true
    }

    /// raft-rs had its chance to take the state that it was told of.
    pub(super) fn forget_offered(&mut self) {
        if let Some(offered) = self.install.offered.take() {
            self.install.give_up(offered);
        }
    }

    /// A replica that stopped takes nothing in.
    pub(super) fn forget_arrived(&mut self) {
        if let Some(arrived) = self.install.arrived.take() {
            self.install.give_up(arrived);
        }
    }

    /// A snapshot is offered of a state that is here already: raft-rs tells the leader how far this
    /// replica is, since an earlier acknowledgement may be lost.
    pub(crate) fn acknowledge_snapshot(&mut self, term: u64, from: PeerId, at: EntryAt) {
        let members = self.state.conf_state(self.address.peer);
        self.step_snapshot(term, from, at, members);
    }

    /// The message that raft-rs's leader would have sent. The guard lets none in from outside.
    fn step_snapshot(&mut self, term: u64, from: PeerId, at: EntryAt, members: ConfState) {
        let metadata = eraftpb::SnapshotMetadata {
            conf_state: Some(members).into(),
            index: at.index,
            term: at.term,
            ..eraftpb::SnapshotMetadata::default()
        };
        let snapshot =
            eraftpb::Snapshot { metadata: Some(metadata).into(), ..eraftpb::Snapshot::default() };
        let message = Message {
            msg_type: MessageType::MsgSnapshot,
            from: from.0,
            to: self.address.peer.0,
            term,
            snapshot: Some(snapshot).into(),
            ..Message::default()
        };
        self.raw.step(message).expect("a follower takes a snapshot of its term");
        self.pin_timeout();
    }
}

/// Puts the state of `Ready` number `number` into the batch, in the place of the replica's.
pub(super) fn stage<M: StateMachine>(
    replica: &mut Replica<M>,
    staging: &mut Staging,
    snapshot: &eraftpb::Snapshot,
    number: u64,
) {
    let arrived = replica.install.offered.take().expect("only what was offered is taken");
    let mut state = arrived.state;
    state.follow(&replica.state);
    let EntryAt { index, term } = state.applied();
    let announced = (snapshot.get_metadata().index, snapshot.get_metadata().term);
    assert_eq!(announced, (index, term), "raft-rs takes the state that it was told of");
    assert!(replica.applied().index < index, "a snapshot never goes back");

    let range = replica.range();
    let rows = arrived.ops.len();
    staging.put_all(arrived.ops);
    staging.put(records::put(Key::Header(range), &state.header()));
    let record = TruncatedRecord { index, term };
    staging.put(records::put(Key::Truncated(range), &record));

    tracing::info!(%range, index, rows, "installing a snapshot");
    // raft-rs has raised its commit index already.
    let before = ReplicaStatus { commit: replica.applied().index, ..replica.status() };
    replica.install.writing = Some(Writing { number, state, before });
    // raft-rs reads the log as soon as it is advanced.
    replica.raw.raft.mut_store().restore(index, term);
}

/// `Ready` number `number` and all before it are durable.
pub(super) fn saved<M: StateMachine>(replica: &mut Replica<M>, number: u64) {
    let is_it = |writing: &mut Writing<M>| writing.number <= number;
    let Some(writing) = replica.install.writing.take_if(is_it) else { return };
    let replaced = std::mem::replace(&mut replica.state, writing.state);
    replica.is_changed |= replaced.descriptor() != replica.descriptor();
    replica.install.discarded.push(replaced.into_machine());
    let index = replica.applied().index;
    (replica.flushed, replica.flush_staged) = (index, index);
    replica.has_image = true;
    replica.install.end = Some(InstallEnd::Installed);
    replica.raw.advance_apply_to(index);
}
