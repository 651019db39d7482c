//! A state that came as a snapshot takes the place of a replica's: one batch, which begins by
//! deleting what was there.
//!
//! raft-rs wants a snapshot to be the only thing that is not durable. So it is stepped only when
//! the disk has everything before it, and until the disk has it the replica takes nothing else
//! from raft-rs and is not ticked: a campaign would look for entries that the log no longer has.
//! To everybody else it shows its old state until then.

use raft::eraftpb::{self, Message, MessageType};
use sharklock_proto::internal::v1::{FlushHeader, RangeDescriptor, TruncatedRecord};
use sharklock_rangemap::PeerId;

use bytes::Bytes;

use crate::disk::WriteOp;
use crate::effects::ReplicaStatus;
use crate::keys::Key;
use crate::records;
use crate::replica::Replica;
use crate::snapshot;
use crate::staging::Staging;
use crate::state_machine::{EntryAt, StateMachine};

/// A state that came whole, restored, not yet the replica's.
#[derive(Debug)]
pub(crate) struct Arrived<M> {
    /// Where it has the log applied.
    pub at: EntryAt,
    /// The term of the leader that sent it.
    pub term: u64,
    pub from: PeerId,
    pub machine: M,
    pub machine_header: Vec<u8>,
    /// Deletes what the disk has of the range, and writes the rows.
    pub ops: Vec<WriteOp>,
}

/// A state that is in a batch, and not durable.
pub(crate) struct Writing<M> {
    /// Of the `Ready` that it came with.
    number: u64,
    at: EntryAt,
    machine: M,
    /// How the replica stood before, which is how it stands until the disk has it.
    pub before: ReplicaStatus,
}

/// What became of a state that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is the replica's, durably.
    Installed,
    /// The replica was as far already, or its leader changed.
    NotNeeded,
}

/// Where the install of a snapshot stands.
///
/// Invariants:
/// - at most one of the first three is set;
/// - while `writing` is set, nothing else of this replica is put into a batch, and raft-rs is not
///   ticked.
pub(crate) struct Install<M> {
    /// Waits until the disk has all that came before.
    pub arrived: Option<Arrived<M>>,
    /// raft-rs was told; its next `Ready` says whether it wants it.
    pub offered: Option<Arrived<M>>,
    /// On its way to the disk.
    pub writing: Option<Writing<M>>,
    /// For the other side.
    pub outcome: Option<Outcome>,
    /// States that are of no use any more. Large ones take long to let go of, so the store's owner
    /// does that elsewhere.
    pub discarded: Vec<M>,
}

impl<M> Default for Install<M> {
    fn default() -> Self {
        Self { arrived: None, offered: None, writing: None, outcome: None, discarded: Vec::new() }
    }
}

impl<M> Install<M> {
    fn give_up(&mut self, arrived: Arrived<M>) {
        self.outcome = Some(Outcome::NotNeeded);
        self.discarded.push(arrived.machine);
    }
}

impl<M: StateMachine> Replica<M> {
    /// Tells raft-rs of a state that has arrived, once the disk has all that came before. True: it
    /// was told, and has something to say.
    pub(crate) fn offer_arrived(&mut self, all_durable: bool) -> bool {
        if !all_durable || self.install.arrived.is_none() {
            return false;
        }
        let Some(arrived) = self.install.arrived.take() else { return false };
        let is_needed = self.raw.raft.raft_log.committed < arrived.at.index;
        if !is_needed || !snapshot::may_install(self, arrived.term) {
            self.install.give_up(arrived);
            return false;
        }
        self.step_snapshot(arrived.term, arrived.from, arrived.at);
        self.install.offered = Some(arrived);
        true
    }

    /// raft-rs had its chance to take the state that it was told of.
    pub(crate) fn forget_offered(&mut self) {
        if let Some(offered) = self.install.offered.take() {
            self.install.give_up(offered);
        }
    }

    /// A replica that stopped takes nothing in.
    pub(crate) fn forget_arrived(&mut self) {
        if let Some(arrived) = self.install.arrived.take() {
            self.install.give_up(arrived);
        }
    }

    /// The message that raft-rs's leader would have sent. The guard lets none in from outside.
    pub(crate) fn step_snapshot(&mut self, term: u64, from: PeerId, at: EntryAt) {
        let metadata = eraftpb::SnapshotMetadata {
            conf_state: Some(records::conf_state(&self.descriptor)).into(),
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
pub(crate) fn stage<M: StateMachine>(
    replica: &mut Replica<M>,
    staging: &mut Staging,
    snapshot: &eraftpb::Snapshot,
    number: u64,
) {
    let arrived = replica.install.offered.take().expect("only what was offered is taken");
    let EntryAt { index, term } = arrived.at;
    let announced = (snapshot.get_metadata().index, snapshot.get_metadata().term);
    assert_eq!(announced, (index, term), "raft-rs takes the state that it was told of");
    assert!(replica.applied.index < index, "a snapshot never goes back");

    let range = replica.range();
    let rows = arrived.ops.len();
    staging.put_all(arrived.ops);
    let header = FlushHeader {
        applied_index: index,
        applied_term: term,
        descriptor: Some(RangeDescriptor::from(&replica.descriptor)),
        state_hash: arrived.machine.state_hash(),
        machine: Some(Bytes::from(arrived.machine_header)),
        conf_state: Some(records::conf_state_record(&records::conf_state(&replica.descriptor))),
    };
    staging.put(records::put(Key::Header(range), &header));
    let record = TruncatedRecord { index, term };
    staging.put(records::put(Key::Truncated(range), &record));

    tracing::info!(%range, index, rows, "installing a snapshot");
    // raft-rs has raised its commit index already.
    let before = ReplicaStatus { commit: replica.applied.index, ..replica.status() };
    let machine = arrived.machine;
    replica.install.writing = Some(Writing { number, at: arrived.at, machine, before });
    // raft-rs reads the log as soon as it is advanced.
    replica.raw.raft.mut_store().restore(index, term);
}

/// `Ready` number `number` and all before it are durable.
pub(crate) fn saved<M: StateMachine>(replica: &mut Replica<M>, number: u64) {
    let Some(writing) = replica.install.writing.take_if(|it| it.number <= number) else { return };
    let replaced = std::mem::replace(&mut replica.machine, writing.machine);
    replica.install.discarded.push(replaced);
    replica.applied = writing.at;
    (replica.flushed, replica.flush_staged) = (writing.at.index, writing.at.index);
    replica.install.outcome = Some(Outcome::Installed);
    replica.raw.advance_apply_to(writing.at.index);
}
