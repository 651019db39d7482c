//! A replica goes on alone, since the majority of its range is lost for good and somebody has said so.
//! It takes all of its own log for committed, and what was its range's state then is the first state of
//! another replica, which is the only one that votes. Its promises were those of the old one, which has
//! a tombstone: it never acts again (S11).
//!
//! This is no part of Raft, and breaks what Raft promises: what the lost majority had decided without
//! this replica is gone. Whoever asks for it has to know that the lost ones never decide anything again.

use raft::eraftpb::{Entry, HardState};
use sharklock_proto::internal::v1::TruncatedRecord;
use sharklock_rangemap::{Descriptor, Epoch, PeerId, RangeId, StoreId};

use crate::disk::WriteOp;
use crate::entry::{self, Command};
use crate::keys::{self, Key};
use crate::range_state::{Effect, Half, RangeState};
use crate::replica::Loaded;
use crate::state_machine::{EntryAt, StateMachine};
use crate::{burial, membership, records};

/// Says that a replica is to go on alone, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alone {
    /// The replica that is left. Nothing is done to another.
    pub peer: PeerId,
    /// Its id from then on: given later, and never before.
    pub as_peer: PeerId,
    /// Of the range from then on: above all that the lost ones can have made of it.
    pub epoch: Epoch,
    /// Its term from then on, at least: above all in which a lost one can have led.
    pub term: u64,
    /// The names from here on belong to other ranges, which were split off without it; empty: none do.
    pub end: Vec<u8>,
    /// The data of a last entry, by which the state learns of it. Its version is that of `epoch`.
    pub entry: Vec<u8>,
}

/// Why a replica does not go on alone. Some of it passes: the owner asks again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAlone {
    /// There is no replica of the range here, or it is on its way.
    #[error("no replica of the range is here")]
    UnknownRange,
    /// The replica is another. If it has the id of whoever goes on, that is done.
    #[error("the replica here is {0}")]
    OtherPeer(PeerId),
    /// It follows somebody, or leads.
    #[error("the range has a leader")]
    HasLeader,
    /// Its log lost entries, so that it must not act.
    #[error("the replica is stopped because its log lost entries")]
    Stopped,
    /// Nothing of the range's state has come to it yet.
    #[error("the replica has no state")]
    NoState,
    /// A snapshot or a split is on its way to the disk. It passes.
    #[error("a snapshot or a split is on its way to the disk")]
    Busy,
    /// Ids or epochs are not above those here, or no name is left.
    #[error("what it is to become does not follow from what it is: {0}")]
    Malformed(&'static str),
}

/// A replica without a leader, for those who may know what became of its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// As applied here.
    pub descriptor: Descriptor,
    /// The replica.
    pub peer: PeerId,
    /// The last entry of its log.
    pub last: EntryAt,
    /// Up to here it knows them to be committed.
    pub commit: u64,
    /// It never acts again, since its log lost entries.
    pub is_stopped: bool,
    /// Nothing of the range's state has come to it yet.
    pub is_empty: bool,
}

/// What is left of a replica that goes on alone.
pub(crate) struct Remains<M> {
    pub state: RangeState<M>,
    /// All that is not applied.
    pub tail: Vec<Entry>,
    pub term: u64,
    /// States that are of no use.
    pub discarded: Vec<M>,
}

/// The same replica under another id, and what its log has split off on the way.
pub(crate) struct Heir<M> {
    pub loaded: Loaded<M>,
    pub records: Vec<WriteOp>,
    pub halves: Vec<Half<M>>,
    /// States that are of no use.
    pub discarded: Vec<M>,
}

impl Alone {
    /// Whether it can follow this.
    pub(crate) fn check(&self, now: &Descriptor, tail: u64) -> Result<(), NotAlone> {
        let Self { peer, as_peer, epoch, end, .. } = self;
        // Each entry of the tail may raise either.
        let is_above = |to: u64, from: u64| from.checked_add(tail).is_some_and(|from| from < to);
        if as_peer <= peer {
            return Err(NotAlone::Malformed("its id is not above that of the replica"));
        }
        if !is_above(epoch.version, now.epoch.version)
            || !is_above(epoch.conf_ver, now.epoch.conf_ver)
        {
            return Err(NotAlone::Malformed("its epoch is not above that of the replica"));
        }
        if !end.is_empty() && (*end <= now.bounds.start || str::from_utf8(end).is_err()) {
            return Err(NotAlone::Malformed("no name is left to it"));
        }
        Ok(())
    }
}

/// Makes the one of the other, in memory, with the records that make it so on the disk: all of them go
/// into one batch, with those of the halves.
pub(crate) fn inherit<M: StateMachine>(
    remains: Remains<M>,
    alone: &Alone,
    store: StoreId,
) -> Heir<M> {
    let Remains { mut state, tail, term, mut discarded } = remains;
    let (range, committed) = (state.descriptor().range, state.applied().index);
    let halves = apply_tail(&mut state, &tail, store);
    let at = EntryAt { index: state.applied().index + 1, term: alone.term.max(term + 1) };
    discarded.extend(state.go_on_alone(alone, store, at));
    tracing::warn!(
        %range, peer = %alone.as_peer, instead_of = %alone.peer, committed, last = at.index - 1,
        "a replica goes on alone: its range has lost its majority"
    );
    let records = records_of(&mut state, alone.peer, at);
    let loaded = Loaded {
        hard_state: HardState { term: at.term, commit: at.index, ..HardState::default() },
        truncated: (at.index, at.term),
        entries: Vec::new(),
        flushed: at.index,
        has_image: true,
        lost: None,
        state,
    };
    Heir { loaded, records, halves, discarded }
}

/// Applies all of a log. An entry that takes the replica on this store out of the range ends it: that
/// range is lost, and what was before it is not to be.
fn apply_tail<M: StateMachine>(
    state: &mut RangeState<M>,
    tail: &[Entry],
    store: StoreId,
) -> Vec<Half<M>> {
    let mut halves = Vec::new();
    for entry in tail {
        if removes(state.descriptor(), entry, store) {
            tracing::warn!(range = %state.descriptor().range, index = entry.index, "its removal is undone");
            break;
        }
        if let Effect::Split(half) = state.apply(entry) {
            halves.push(half);
        }
    }
    halves
}

fn removes(descriptor: &Descriptor, entry: &Entry, store: StoreId) -> bool {
    let Ok(Command::ChangePeers(change)) = entry::decode(entry) else { return false };
    membership::changed(descriptor, &change).is_ok_and(|next| next.on_store(store).is_none())
}

/// The image of the state, a log that ends with it, and the tombstone of who was here.
fn records_of<M: StateMachine>(
    state: &mut RangeState<M>,
    before: PeerId,
    at: EntryAt,
) -> Vec<WriteOp> {
    let range = state.descriptor().range;
    let EntryAt { index, term } = at;
    let (log, end_of_log) = keys::log_span(range, 0, u64::MAX);
    let lost = Key::Lost(range);
    let hard_state = HardState { term, commit: index, ..HardState::default() };
    let mut ops = state.dirty_rows();
    ops.extend([
        records::put(Key::Header(range), &state.header()),
        records::put(Key::Truncated(range), &TruncatedRecord { index, term }),
        records::put(Key::HardState(range), &records::hard_state_record(&hard_state)),
        WriteOp::DeleteRange(Key::Entry(range, 0).family(), log, end_of_log),
        WriteOp::Delete(lost.family(), lost.encode()),
        burial::tombstone(range, before),
    ]);
    ops
}

impl Orphan {
    /// Its range.
    pub fn range(&self) -> RangeId {
        self.descriptor.range
    }
}
