//! What the log of a range makes of it: descriptor and machine, as of one entry. Entries are applied
//! here and nowhere else, by a running replica as by a recovery that replays.

use bytes::Bytes;
use raft::eraftpb::{ConfChangeV2, ConfState, Entry};
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{Bounds, Descriptor, PeerId, RangeId, Replica, Role, StoreId};

use crate::alone::Alone;
use crate::disk::WriteOp;
use crate::entry::{self, Command};
use crate::keys::Key;
use crate::membership::{self, ChangePeers};
use crate::records;
use crate::split::{self, Split, SplitMark};
use crate::state_machine::{DirtyRow, EntryAt, StateMachine};

/// Invariants:
/// - `machine` and `descriptor` have exactly the entries up to `applied` applied;
/// - `splits` are in order of their entries, none behind `applied`.
#[derive(Debug)]
pub(crate) struct RangeState<M> {
    descriptor: Descriptor,
    machine: M,
    applied: EntryAt,
    /// Splits that the state contains whose children may not live yet, as far as this store knows:
    /// soft, it differs between replicas and is in no hash. None is dropped before its child lives: the
    /// log could be cut at it, and a snapshot that does not name it could be installed over it, so
    /// that the child is on too few stores. What bounds them is that a leader lets only so many
    /// children come into being before one of them lives (`Store::may_await_another`).
    splits: Vec<SplitMark>,
    /// Names that left by snapshots: the replica has not applied the splits by which they did, so of the
    /// ranges that those made this store has nothing by them. Soft as `splits`, and of this replica alone.
    skipped: Option<Bounds>,
}

/// The effect of applying an entry, beside the new state.
pub(crate) enum Effect<M: StateMachine> {
    /// A leader's first entry, or a change that came too late.
    Nothing,
    Machine(M::Output),
    /// The child is to be born here, too.
    Split(Half<M>),
    /// raft-rs has to follow.
    Peers(ConfChangeV2),
}

/// The upper half of a range that was split.
pub(crate) struct Half<M> {
    pub descriptor: Descriptor,
    pub machine: M,
}

impl<M: StateMachine> RangeState<M> {
    pub(crate) fn new(
        descriptor: Descriptor,
        machine: M,
        applied: EntryAt,
        splits: Vec<SplitMark>,
    ) -> Self {
        Self { descriptor, machine, applied, splits, skipped: None }
    }

    /// As an earlier image of this replica has it.
    pub(crate) fn with_skipped(self, skipped: Option<Bounds>) -> Self {
        Self { skipped, ..self }
    }

    /// See the field.
    pub(crate) fn skipped(&self) -> Option<&Bounds> {
        self.skipped.as_ref()
    }

    /// It came as a snapshot, and takes the place of `before`, as `Replica::can_become` allows.
    pub(crate) fn follow(&mut self, before: &Self) {
        let (start, end) = (&self.descriptor.bounds.end, &before.descriptor.bounds.end);
        let left = (start != end).then(|| Bounds { start: start.clone(), end: end.clone() });
        self.skipped = match (left, before.skipped.clone()) {
            // Ends only come nearer, so the earlier one lies behind.
            (Some(left), Some(earlier)) => Some(Bounds { end: earlier.end, ..left }),
            (left, earlier) => left.or(earlier),
        };
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(crate) fn machine(&self) -> &M {
        &self.machine
    }

    /// For what is derived from the state, and for the image. What is replicated changes by
    /// [`apply`](Self::apply) only.
    pub(crate) fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    pub(crate) fn into_machine(self) -> M {
        self.machine
    }

    pub(crate) fn applied(&self) -> EntryAt {
        self.applied
    }

    pub(crate) fn splits(&self) -> &[SplitMark] {
        &self.splits
    }

    /// Whether nothing is here but the intention: a snapshot has to bring the state.
    pub(crate) fn is_shell(&self) -> bool {
        self.applied.index == 0
    }

    /// Raft's configuration, for the replica of this peer.
    pub(crate) fn conf_state(&self, peer: PeerId) -> ConfState {
        match self.is_shell() {
            true => membership::shell_conf_state(&self.descriptor, peer),
            false => membership::conf_state(&self.descriptor),
        }
    }

    /// The children of these splits live: nobody has to be told of them any more.
    pub(crate) fn forget_splits(&mut self, lives: impl Fn(RangeId) -> bool) {
        self.splits.retain(|split| !lives(split.child));
    }

    /// Applies the next entry.
    ///
    /// # Panics
    ///
    /// If it is not understood: guard and recovery let no such entry in, and to skip it would let
    /// replicas diverge (D19).
    pub(crate) fn apply(&mut self, entry: &Entry) -> Effect<M> {
        let at = EntryAt { index: entry.index, term: entry.term };
        assert_eq!(at.index, self.applied.index + 1, "entries are applied one after the other");
        let effect = match entry::decode(entry) {
            Ok(Command::Nothing) => Effect::Nothing,
            Ok(Command::Machine(data)) => {
                Effect::Machine(self.machine.apply(at, self.descriptor.epoch.version, data))
            }
            Ok(Command::Split(split)) => self.split(at, &split),
            Ok(Command::ChangePeers(change)) => self.change_peers(&change),
            Err(why) => panic!("entry {} of term {}: {why}", at.index, at.term),
        };
        self.applied = at;
        effect
    }

    /// The majority is lost: the replica on this store is the only one from here on, under another id. The
    /// state of names that belong to other ranges, if there are any.
    pub(crate) fn go_on_alone(&mut self, alone: &Alone, store: StoreId, at: EntryAt) -> Option<M> {
        let Alone { as_peer, epoch, end, entry, .. } = alone;
        let bounds = &mut self.descriptor.bounds;
        let is_shorter = !end.is_empty() && (bounds.end.is_empty() || *end < bounds.end);
        let others = is_shorter.then(|| {
            bounds.end.clone_from(end);
            let key = str::from_utf8(end).expect("the order was checked");
            self.machine.split_off(key)
        });
        let voter = Replica { peer: *as_peer, store, role: Role::Voter };
        let Descriptor { range, bounds, .. } = self.descriptor.clone();
        self.descriptor = Descriptor::new(range, bounds, *epoch, vec![voter]);
        self.machine.apply(at, epoch.version, entry);
        self.applied = at;
        others
    }

    fn split(&mut self, at: EntryAt, split: &Split) -> Effect<M> {
        let (parent, child) = match split::halves(&self.descriptor, split) {
            Ok(halves) => halves,
            Err(why) => {
                tracing::info!(range = %self.descriptor.range, index = at.index, %why, "no split");
                return Effect::Nothing;
            }
        };
        let machine = self.machine.split_off(&split.key);
        self.descriptor = parent;
        self.splits.push(SplitMark { at, child: child.range });
        Effect::Split(Half { descriptor: child, machine })
    }

    fn change_peers(&mut self, change: &ChangePeers) -> Effect<M> {
        match membership::changed(&self.descriptor, change) {
            Ok(changed) => {
                self.descriptor = changed;
                Effect::Peers(membership::conf_change(change))
            }
            Err(why) => {
                tracing::info!(range = %self.descriptor.range, %why, "no change of members");
                Effect::Nothing
            }
        }
    }

    /// The header of an image of this state. The machine's rows belong to it.
    pub(crate) fn header(&self) -> proto::FlushHeader {
        proto::FlushHeader {
            applied_index: self.applied.index,
            applied_term: self.applied.term,
            descriptor: Some(proto::RangeDescriptor::from(&self.descriptor)),
            state_hash: self.machine.state_hash(),
            machine: Some(Bytes::from(self.machine.header())),
            splits: self.splits.iter().map(mark_record).collect(),
            skipped: self.skipped.as_ref().map(span),
        }
    }

    /// The rows that changed since the last call, as changes of a disk.
    pub(crate) fn dirty_rows(&mut self) -> Vec<WriteOp> {
        let rows = self.machine.take_dirty();
        self.row_ops(rows)
    }

    /// See [`StateMachine::take_some_dirty`].
    pub(crate) fn some_dirty_rows(&mut self, rows_max: usize) -> (Vec<WriteOp>, bool) {
        let (rows, is_all) = self.machine.take_some_dirty(rows_max);
        (self.row_ops(rows), is_all)
    }

    fn row_ops(&self, rows: Vec<DirtyRow>) -> Vec<WriteOp> {
        let range = self.descriptor.range;
        let op = |(row, value): DirtyRow| {
            let key = Key::Row(range, &row);
            match value {
                Some(value) => records::put_row(key, &value),
                None => WriteOp::Delete(key.family(), key.encode()),
            }
        };
        rows.into_iter().map(op).collect()
    }
}

/// As it stands in images and messages.
pub(crate) fn span(names: &Bounds) -> proto::NameSpan {
    proto::NameSpan { start: names.start.clone().into(), end: names.end.clone().into() }
}

/// The other way.
pub(crate) fn names(span: &proto::NameSpan) -> Bounds {
    Bounds { start: span.start.to_vec(), end: span.end.to_vec() }
}

pub(crate) fn mark_record(split: &SplitMark) -> proto::ContainedSplit {
    let SplitMark { at: EntryAt { index, term }, child } = *split;
    proto::ContainedSplit { index, term, child_range_id: child.0 }
}

pub(crate) fn mark(record: &proto::ContainedSplit) -> SplitMark {
    let proto::ContainedSplit { index, term, child_range_id } = *record;
    SplitMark { at: EntryAt { index, term }, child: RangeId(child_range_id) }
}
