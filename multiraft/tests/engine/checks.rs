//! Checks of every run, whatever happens to stores, disks and links. Told of everything,
//! it compares what all stores have ever shown.

use std::collections::BTreeMap;
use std::ops::RangeFrom;

use prost::Message as _;
use sharklock_multiraft::{Disk, Family, Proposed, RaftRole, ReadId, RoleNow, WriteOp};
use sharklock_proto::internal::v1::{Entry, MessageType};
use sharklock_rangemap::{Descriptor, Epoch, PeerId, RangeId, StoreId};
use twox_hash::XxHash3_64;

use crate::cluster::Packet;
use crate::node::Node;

/// An application at an index: the term of the entry, and what it returned.
type Fate = (u64, Option<u64>);

#[derive(Default)]
pub struct Checks {
    /// Votes given: (range, peer, term) to the candidate.
    votes: BTreeMap<(u64, u64, u64), u64>,
    /// State hash at each (range, applied index).
    hashes: BTreeMap<(RangeId, u64), u64>,
    /// Store, and which life of it, that led each (range, term).
    leaders: BTreeMap<(RangeId, u64), (u64, u64)>,
    /// The entry that some store has applied at each (range, index).
    fates: BTreeMap<(RangeId, u64), Fate>,
    /// Log entries that some disk has had, by (range, index, term): the term before and the hash
    /// of the data.
    entries: BTreeMap<(u64, u64, u64), (Option<u64>, u64)>,
    /// Proposals taken, by (range, index, term): by which store.
    proposals: BTreeMap<(RangeId, u64, u64), u64>,
    /// Reads begun, by (store, life, read): the highest index applied anywhere at that moment.
    reads: BTreeMap<(u64, u64, ReadId), u64>,
    /// (term, applied) that each (store, life, peer of a range) showed last.
    shown: BTreeMap<(u64, u64, RangeId, PeerId), (u64, u64)>,
    /// The descriptors, by range and epoch.
    epochs: BTreeMap<RangeId, BTreeMap<Epoch, Descriptor>>,
    /// How often each store was started anew.
    lives: BTreeMap<u64, u64>,
    sole_voter: bool,
}

/// How much a node had shown before a turn.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    applied: usize,
    reads: usize,
    roles: usize,
}

impl Seen {
    pub fn of(node: &Node) -> Self {
        Self { applied: node.applied.len(), reads: node.reads.len(), roles: node.roles.len() }
    }
}

fn since<T>(all: &[T], from: usize) -> &[T] {
    let range: RangeFrom<usize> = from..;
    &all[range]
}

impl Checks {
    pub fn of_voters(voters: u64) -> Self {
        Self { sole_voter: voters == 1, ..Self::default() }
    }

    /// The highest index of the range that anybody has applied.
    pub fn applied_max(&self, range: RangeId) -> u64 {
        let mut of_range = self.fates.range((range, 0)..=(range, u64::MAX));
        of_range.next_back().map_or(0, |((_, index), _)| *index)
    }

    /// Every range, as it is in the newest epoch that anybody has applied.
    pub fn newest(&self) -> Vec<Descriptor> {
        let newest = self.epochs.values().filter_map(|epochs| epochs.values().next_back());
        newest.cloned().collect()
    }

    /// All ranges that anybody has had.
    pub fn ranges(&self) -> Vec<RangeId> {
        self.epochs.keys().copied().collect()
    }

    pub fn restarted(&mut self, store: u64) {
        *self.lives.entry(store).or_default() += 1;
        // Nobody heard of a term that a sole voter gave itself and that a crash took from its
        // disk, nor of what it put into its log there: it may begin the term once more.
        if self.sole_voter {
            self.leaders.clear();
            self.proposals.clear();
            self.entries.clear();
        }
    }

    /// Which life of a store this is.
    pub fn life(&self, store: u64) -> u64 {
        self.lives.get(&store).copied().unwrap_or(0)
    }

    /// A store hands a packet out.
    pub fn sent(&mut self, packet: &Packet) {
        use MessageType as Kind;
        let Packet::Message(message) = packet else { return };
        let Some(body) = &message.message else {
            assert!(message.notice.is_some(), "the engine sends bodies or notices");
            return;
        };
        let kind = Kind::try_from(body.msg_type).expect("a known type");
        let travels = [
            Kind::MsgAppend,
            Kind::MsgAppendResponse,
            Kind::MsgRequestVote,
            Kind::MsgRequestVoteResponse,
            Kind::MsgRequestPreVote,
            Kind::MsgRequestPreVoteResponse,
            Kind::MsgTimeoutNow,
        ];
        assert!(travels.contains(&kind), "{kind:?} leaves as a message of its own");
        if kind == Kind::MsgRequestVoteResponse && !body.reject {
            let vote = (message.range_id, body.from, body.term);
            let before = *self.votes.entry(vote).or_insert(body.to);
            assert_eq!(before, body.to, "{vote:?}: voted twice in a term");
        }
    }

    /// A disk has taken these writes. Log matching: an entry of an index and a term is one and
    /// the same in every log, and so is what stands before it.
    pub fn written(&mut self, disk: &impl Disk, ops: &[WriteOp]) {
        for op in ops {
            let WriteOp::Put(Family::Raft, key, value) = op else { continue };
            // The same batch may replace it again, or what stands before it: a slow disk takes the
            // entries of an old leader and those of its successor at once (network seed 14).
            if disk.get(Family::Raft, key).expect("no fault is planned").as_ref() != Some(value) {
                continue;
            }
            let entry = decode(value);
            let range = u64::from_be_bytes(key[..8].try_into().expect("a key begins with a range"));
            let mut before = key.clone();
            before[9..].copy_from_slice(&(entry.index - 1).to_be_bytes());
            let before = disk.get(Family::Raft, &before).expect("no fault is planned");
            let before = before.map(|value| decode(&value).term);
            let data = XxHash3_64::oneshot(&entry.data);
            let at = (range, entry.index, entry.term);
            let known = self.entries.entry(at).or_insert((before, data));
            // None: behind the begin of that log.
            let fits = known.0.is_none() || before.is_none() || known.0 == before;
            assert!(fits && known.1 == data, "{at:?}: logs do not match");
            known.0 = known.0.or(before);
        }
    }

    /// A store took a proposal: it leads, so nobody else can take one at that index and term.
    pub fn proposed(&mut self, store: u64, node: &Node, range: RangeId, at: Proposed) {
        let status = node.status_of(range);
        assert_eq!(status.role, RaftRole::Leader, "{store} took a proposal for {range}");
        assert_eq!(status.term, at.term);
        let before = self.proposals.insert((range, at.index, at.term), store);
        assert_eq!(before, None, "two proposals for {range} at {at:?}");
    }

    /// A store began a read: its answer must show all that anybody has applied so far.
    pub fn read_begun(&mut self, store: u64, range: RangeId, read: ReadId) {
        let floor = self.applied_max(range);
        self.reads.insert((store, self.life(store), read), floor);
    }

    /// A store had a turn; `seen` is what it had shown before.
    pub fn turned(&mut self, store: u64, node: &Node, seen: Seen) {
        let life = self.life(store);
        for applied in since(&node.applied, seen.applied) {
            let (at, fate) = ((applied.range, applied.at.index), (applied.at.term, applied.output));
            let before = *self.fates.entry(at).or_insert(fate);
            assert_eq!(before, fate, "{at:?} on {store}: an applied entry changed");
        }
        for ready in since(&node.reads, seen.reads) {
            let begun = self.reads.remove(&(store, life, ready.read));
            let floor = begun.expect("a read is answered once, by who was asked");
            assert!(ready.index >= floor, "{ready:?} misses what was applied before it, {floor}");
            let applied = node.status_of(ready.range).applied;
            assert!(applied >= ready.index, "{ready:?} at applied {applied}");
        }
        for change in since(&node.roles, seen.roles) {
            if let RoleNow::Leader { term } = change.role {
                self.led(store, change.range, term);
            }
        }
        for range in node.store.ranges() {
            self.stands(store, life, node, range);
        }
    }

    /// True: this leadership is new.
    fn led(&mut self, store: u64, range: RangeId, term: u64) -> bool {
        let before = self.leaders.len();
        let now = (store, self.life(store));
        let leader = *self.leaders.entry((range, term)).or_insert(now);
        assert_eq!(leader, now, "two leaders of {range} in term {term}");
        self.leaders.len() > before
    }

    fn stands(&mut self, store: u64, life: u64, node: &Node, range: RangeId) {
        let status = node.status_of(range);
        let ordered = status.flushed <= status.applied
            && status.applied <= status.commit
            && status.commit <= status.log_last
            && status.log_first <= status.flushed + 1;
        assert!(ordered, "S12: {range} on {store}: {status:?}");
        let hash = *self.hashes.entry((range, status.applied)).or_insert(status.state_hash);
        assert_eq!(hash, status.state_hash, "S9: {range} at {} on {store}", status.applied);
        let descriptor = node.store.descriptor(range).expect("the range is there");
        let epochs = self.epochs.entry(range).or_default();
        let known = epochs.entry(descriptor.epoch).or_insert_with(|| descriptor.clone());
        assert_eq!(known, descriptor, "two ranges {range} of one epoch");
        let peer = descriptor.on_store(StoreId(store)).expect("who is there is a member").peer;
        let now = (status.term, status.applied);
        let before = self.shown.insert((store, life, range, peer), now).unwrap_or_default();
        assert!(before.0 <= now.0 && before.1 <= now.1, "{range} on {store} went back: {now:?}");
        if status.role == RaftRole::Leader && self.led(store, range, status.term) {
            // Leader completeness: whatever was committed in an earlier term, it has.
            let of_range = self.fates.range((range, 0)..=(range, u64::MAX)).rev();
            let mut earlier = of_range.filter(|(_, (term, _))| *term < status.term);
            let needed = earlier.next().map_or(0, |((_, index), _)| *index);
            assert!(status.log_last >= needed, "{range}: leader {store} lacks entry {needed}");
        }
    }
}

fn decode(value: &[u8]) -> Entry {
    // Before it stand the format version and a checksum.
    Entry::decode(&value[5..]).expect("the engine writes entries")
}
