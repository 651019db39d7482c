//! What a replica begins with, in memory and on the disk. There are three ways to come into being and
//! no other: as one of a first range, out of nothing; as the upper half of a range that was split
//! here; and as an empty shell for which a leader has asked. Never by a stray message.

use raft::eraftpb::HardState;
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{Descriptor, RangeId};

use crate::disk::WriteOp;
use crate::keys::Key;
use crate::range_state::{Half, RangeState};
use crate::records;
use crate::replica::Loaded;
use crate::state_machine::{EntryAt, StateMachine};

/// Log index and term of a range before its first entry: the same on every replica, so all start from
/// equal logs and none needs a snapshot.
pub(crate) const INITIAL: u64 = 5;

const BEGIN: EntryAt = EntryAt { index: INITIAL, term: INITIAL };
/// A shell's log ends before every other log begins, so whatever a leader sends does not connect to it,
/// and it acknowledges nothing before a snapshot.
const NOWHERE: EntryAt = EntryAt { index: 0, term: 0 };

/// A replica that is to be. Until its records are durable nothing of it is stepped, sent or changed.
pub(crate) struct Birth<M> {
    pub loaded: Loaded<M>,
    pub records: Vec<WriteOp>,
}

/// One of a first range, with the state that its maker gives to all replicas alike. It is on the disk
/// from the beginning: a newer program that finds the range must not begin it anew by its own rules.
pub(crate) fn first<M: StateMachine>(descriptor: Descriptor, machine: M) -> Birth<M> {
    let (mut state, mut records) = begun(descriptor, machine);
    records.extend(state.dirty_rows());
    Birth { loaded: loaded(state, false), records }
}

/// The upper half of a range, with the state that it takes along. The rows of that belong to its
/// records, and are still to be taken (`store/dividing.rs`).
pub(crate) fn half<M: StateMachine>(half: Half<M>) -> Birth<M> {
    let (state, records) = begun(half.descriptor, half.machine);
    Birth { loaded: loaded(state, true), records }
}

/// Without the rows.
fn begun<M: StateMachine>(descriptor: Descriptor, machine: M) -> (RangeState<M>, Vec<WriteOp>) {
    let range = descriptor.range;
    let state = RangeState::new(descriptor, machine, BEGIN, Vec::new());
    let mut records = vec![records::put(Key::Header(range), &state.header())];
    records.extend(raft_records(range, BEGIN));
    (state, records)
}

/// One that waits for a snapshot.
pub(crate) fn shell<M: StateMachine>(descriptor: Descriptor) -> Birth<M> {
    let records = empty_records(&descriptor, NOWHERE).to_vec();
    let state = RangeState::new(descriptor, M::empty(), NOWHERE, Vec::new());
    Birth { loaded: loaded(state, false), records }
}

/// The records of a replica of a first range. All replicas of it, learners too, begin alike.
pub(crate) fn first_records(first: &Descriptor) -> [WriteOp; 3] {
    empty_records(first, BEGIN)
}

fn empty_records(descriptor: &Descriptor, at: EntryAt) -> [WriteOp; 3] {
    let header = proto::FlushHeader {
        applied_index: at.index,
        applied_term: at.term,
        descriptor: Some(proto::RangeDescriptor::from(descriptor)),
        state_hash: 0,
        machine: None,
        splits: Vec::new(),
        skipped: None,
    };
    let [hard_state, truncated] = raft_records(descriptor.range, at);
    [hard_state, truncated, records::put(Key::Header(descriptor.range), &header)]
}

fn raft_records(range: RangeId, at: EntryAt) -> [WriteOp; 2] {
    let hard_state = proto::HardStateRecord { term: at.term, vote: 0, commit: at.index };
    let truncated = proto::TruncatedRecord { index: at.index, term: at.term };
    [
        records::put(Key::HardState(range), &hard_state),
        records::put(Key::Truncated(range), &truncated),
    ]
}

/// The same as recovery would load right after the records were written.
fn loaded<M: StateMachine>(state: RangeState<M>, has_image: bool) -> Loaded<M> {
    let at = state.applied();
    Loaded {
        hard_state: HardState { term: at.term, commit: at.index, ..HardState::default() },
        truncated: (at.index, at.term),
        entries: Vec::new(),
        flushed: at.index,
        has_image,
        lost: None,
        state,
    }
}
