//! The output of raft-rs, and in which order it may take effect. The only file that touches
//! `Ready`; every ordering rule of Raft and disk stands here, with its reason.

use raft::eraftpb::{ConfChangeV2, Entry, HardState, Message, MessageType};
use raft::{Ready, StateRole};
use sharklock_proto::internal::v1::LostRecord;

use super::propose::parse_read_context;
use super::{PendingRead, Replica, install};
use crate::disk::WriteOp;
use crate::effects::{Applied, Effects, LostLog};
use crate::keys::{self, Key};
use crate::range_state::Effect;
use crate::staging::{Saved, Staging};
use crate::state_machine::{EntryAt, StateMachine};
use crate::{membership, mirror, records};

/// The part of a replica's `Ready`s that is on its way to the disk.
///
/// Invariants:
/// - `durable <= staged`, and `voted <= staged`;
/// - a message in `held` leaves once its `Ready` and all before it are durable.
#[derive(Default)]
pub(super) struct Saving {
    /// Number of the last `Ready` that has something to make durable.
    staged: u64,
    /// Number of the last of those that is durable.
    durable: u64,
    /// Number of the last `Ready` in which term or vote changed.
    voted: u64,
    /// Term and vote, as raft-rs showed them last.
    vote: (u64, u64),
    /// Term, vote and commit where they changed and no batch has them.
    unsaved: Option<HardState>,
    /// Messages, each with the number of the `Ready` that must be durable first.
    held: Vec<(u64, Vec<Message>)>,
    /// Messages that may leave, for the next turn.
    released: Vec<Message>,
}

impl Saving {
    fn all_durable(&self) -> bool {
        self.durable == self.staged
    }

    /// Whether the disk has the term and the vote that were shown last.
    pub(super) fn is_vote_durable(&self) -> bool {
        self.durable >= self.voted
    }

    /// A message that promises nothing leaves with the next turn.
    pub(super) fn send_soon(&mut self, message: Message) {
        self.released.push(message);
    }

    /// Takes out what need not wait for the log: that a heartbeat was heard. It promises no entry,
    /// only that its sender knows of no newer term, so it waits for no more than term and vote. A
    /// leader whose followers' disks are slow would lose its quorum otherwise.
    fn answers_to_beats(&self, messages: &mut Vec<Message>) -> Vec<Message> {
        if !self.is_vote_durable() {
            return Vec::new();
        }
        messages.extract_if(.., |it| it.msg_type == MessageType::MsgHeartbeatResponse).collect()
    }
}

impl<M: StateMachine> Replica<M> {
    /// Takes everything that raft-rs has for us.
    pub(crate) fn drive(&mut self, staging: &mut Staging, effects: &mut Effects<M::Output>) {
        if self.is_stopped() {
            if let Some(LostLog { commit, last }) = self.take_new_loss() {
                let record = LostRecord { commit, last };
                staging.put(records::put(Key::Lost(self.range()), &record));
            }
            self.saving.released.clear();
            self.forget_arrived();
        } else {
            let released = std::mem::take(&mut self.saving.released);
            self.send(released, effects);
            drive_all(self, staging, effects);
        }
        self.answer_reads(effects);
        // Last: who is told that it leads must have been told of everything applied before.
        self.announce(effects);
    }

    /// The `Ready` of this number and all before it are durable.
    pub(crate) fn saved(&mut self, number: u64) {
        let saving = &mut self.saving;
        assert!(
            saving.durable < number && number <= saving.staged,
            "completions arrive in order: {} < {number} <= {}",
            saving.durable,
            saving.staged
        );
        saving.durable = number;
        let waiting = saving.held.partition_point(|(needed, _)| *needed <= number);
        saving.released.extend(saving.held.drain(..waiting).flat_map(|(_, messages)| messages));
        self.raw.on_persist_ready(number);
        install::saved(self, number);
    }
}

/// Every `Ready` there is. A snapshot is the only thing on its way to the disk while it is.
fn drive_all<M: StateMachine>(
    replica: &mut Replica<M>,
    staging: &mut Staging,
    effects: &mut Effects<M::Output>,
) {
    loop {
        while !replica.is_removed() && !replica.install.is_writing() && replica.raw.has_ready() {
            drive_one(replica, staging, effects);
        }
        replica.forget_offered();
        let all_durable = replica.saving.all_durable() && !replica.is_dividing;
        if !replica.offer_arrived(all_durable && replica.halves.is_empty()) {
            return;
        }
    }
}

/// One `Ready`. Between `ready()` and `advance_append_async()` nothing may be stepped, proposed or
/// ticked.
fn drive_one<M: StateMachine>(
    replica: &mut Replica<M>,
    staging: &mut Staging,
    effects: &mut Effects<M::Output>,
) {
    let mut ready = replica.raw.ready();
    let number = ready.number();

    // A leader's messages leave before its own log is durable: it then counts as one follower
    // among others, and the syncs of all run at the same time (Raft thesis 10.2.1).
    replica.send(ready.take_messages(), effects);

    // Entries and hard state go into the batch, and into the in-memory log at once: raft-rs reads
    // them from there as soon as it is advanced.
    let must_save = ready.must_sync();
    stage(replica, staging, &mut ready);

    // Votes and acknowledgements promise durability, so they wait for it; not only for that of
    // their own `Ready`: an acknowledgement repeated without new entries still covers old ones.
    let mut after = ready.take_persisted_messages();
    let beats = replica.saving.answers_to_beats(&mut after);
    replica.send(beats, effects);
    if !after.is_empty() {
        if replica.saving.all_durable() {
            replica.send(after, effects);
        } else {
            replica.saving.held.push((replica.saving.staged, after));
        }
    }

    let committed = ready.take_committed_entries();
    for state in ready.take_read_states() {
        if let Some((read, term)) = parse_read_context(&state.request_ctx) {
            replica.reads.push(PendingRead { read, term, index: state.index });
        }
    }
    replica.raw.advance_append_async(ready);
    if !must_save && replica.saving.all_durable() {
        // Nothing to wait for. Said at once, because raft-rs keeps a record until it is said, and
        // an idle leader makes a `Ready` for every heartbeat.
        replica.raw.on_persist_ready(number);
    }

    // raft-rs 0.7 hands out an entry only when it is committed and durable here. An applied entry
    // is hence in an earlier batch than the image that contains it, and no crash leaves an image
    // ahead of its log (S12).
    apply(replica, committed, effects);
}

fn stage<M: StateMachine>(replica: &mut Replica<M>, staging: &mut Staging, ready: &mut Ready) {
    let mut votes = false;
    if let Some(state) = ready.hs() {
        votes = replica.saving.vote != (state.term, state.vote);
        replica.saving.vote = (state.term, state.vote);
        replica.saving.unsaved = Some(state.clone());
    }
    // Only the commit index moved: the next batch of this range carries it. Losing it costs
    // nothing, since a leader learns it again from its quorum and a follower from its leader.
    if !ready.must_sync() {
        return;
    }
    let range = replica.range();
    if !ready.snapshot().is_empty() {
        assert!(replica.saving.all_durable(), "a snapshot is alone on its way to the disk");
        install::stage(replica, staging, ready.snapshot(), ready.number());
    }
    let entries = ready.take_entries();
    if let Some(last_new) = entries.last().map(|entry| entry.index) {
        stage_entries(replica, staging, entries, last_new);
    }
    if let Some(state) = replica.saving.unsaved.take() {
        let record = records::hard_state_record(&state);
        staging.put(records::put(Key::HardState(range), &record));
    }
    let number = ready.number();
    if votes {
        replica.saving.voted = number;
    }
    replica.saving.staged = number;
    staging.save(Saved { range, incarnation: replica.address.incarnation, number });
}

fn stage_entries<M: StateMachine>(
    replica: &mut Replica<M>,
    staging: &mut Staging,
    entries: Vec<Entry>,
    last_new: u64,
) {
    let range = replica.range();
    for entry in &entries {
        let record = mirror::entry_record(entry);
        staging.put(records::put(Key::Entry(range, entry.index), &record));
    }
    // A new leader replaced a tail that was longer than what replaces it. What is left of it must
    // go in the same batch, or a restart would read it as the log's end.
    let last_old = replica.log().last();
    if last_old > last_new {
        let (start, end) = keys::log_span(range, last_new + 1, last_old + 1);
        let family = Key::Entry(range, last_new).family();
        staging.put(WriteOp::DeleteRange(family, start, end));
    }
    replica.raw.raft.mut_store().append(entries);
}

fn apply<M: StateMachine>(
    replica: &mut Replica<M>,
    committed: Vec<Entry>,
    effects: &mut Effects<M::Output>,
) {
    let _measured = effects.measure(committed.len());
    let range = replica.range();
    for entry in &committed {
        let at = EntryAt { index: entry.index, term: entry.term };
        let mut output = None;
        match replica.state.apply(entry) {
            Effect::Nothing => {}
            Effect::Machine(returned) => output = Some(returned),
            Effect::Split(half) => {
                replica.halves.push(half);
                replica.is_changed = true;
                // The others apply it as soon as they know that it is committed: the child needs
                // them to have a leader.
                replica.raw.ping();
            }
            Effect::Peers(change) => follow_members(replica, &change),
        }
        effects.applied.push(Applied { range, at, output });
        // Entries behind its removal are none of its business.
        if replica.is_removed() {
            return;
        }
    }
    if !committed.is_empty() {
        replica.raw.advance_apply_to(replica.applied().index);
    }
}

/// raft-rs gets the configuration that the descriptor now describes.
fn follow_members<M: StateMachine>(replica: &mut Replica<M>, change: &ConfChangeV2) {
    replica.is_changed = true;
    if replica.is_removed() {
        return;
    }
    let made = replica.raw.apply_conf_change(change).expect("a descriptor was made of it, too");
    let expected = replica.state.conf_state(replica.peer());
    assert_eq!(membership::in_order(made), expected, "raft-rs and the descriptor agree");
    let members = replica.state.descriptor().replicas.iter().map(|member| member.peer);
    let members: Vec<_> = members.collect();
    replica.heard.retain(|peer| members.contains(&peer));
    // raft-rs lets a leader go on that has no vote any more.
    let me = replica.peer();
    let votes = replica.descriptor().voters().any(|voter| voter.peer == me);
    let raft = &mut replica.raw.raft;
    if raft.state == StateRole::Leader && !votes {
        let term = raft.term;
        raft.become_follower(term, 0);
        replica.pin_timeout();
    }
}
