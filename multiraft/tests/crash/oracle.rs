//! The promises of stores, from their messages and reports, and whether they keep them.

use std::collections::BTreeMap;

use sharklock_multiraft::{Applied, Disk as _, Family, RaftRole, ReplicaStatus, SimDisk};
use sharklock_proto::internal::v1::{self as proto, Message, MessageType, RangeMessage};

use crate::tally::Tally;
use crate::world::RANGE;

/// Index and term of the log before its first entry.
pub const INITIAL: u64 = 5;

/// The hard state on a disk.
pub fn hard_state(disk: &SimDisk) -> proto::HardStateRecord {
    record(disk, Family::Meta, &key(1))
}

/// The log on a disk, as far as it is not truncated.
pub fn log(disk: &SimDisk) -> Vec<proto::Entry> {
    let truncated: proto::TruncatedRecord = record(disk, Family::Meta, &key(2));
    let entry = |index: u64| [key(1), index.to_be_bytes().to_vec()].concat();
    let (start, end) = (entry(truncated.index + 1), entry(u64::MAX));
    let pairs = disk.scan(Family::Raft, &start, &end).unwrap();
    pairs.into_iter().map(|(_, value)| open(&value)).collect()
}

fn key(tag: u8) -> Vec<u8> {
    [RANGE.0.to_be_bytes().to_vec(), vec![tag]].concat()
}

fn record<R: prost::Message + Default>(disk: &SimDisk, family: Family, key: &[u8]) -> R {
    open(&disk.get(family, key).unwrap().expect("the record is there"))
}

fn open<R: prost::Message + Default>(value: &[u8]) -> R {
    R::decode(&value[5..]).unwrap()
}

#[derive(Debug, Default)]
pub struct Oracle {
    /// Votes given, also to oneself: (peer, term) to the candidate.
    votes: BTreeMap<(u64, u64), u64>,
    /// Newest term in which a peer promised anything.
    terms: BTreeMap<u64, u64>,
    /// Up to where a peer acknowledged the log, in that term.
    acknowledged: BTreeMap<u64, (u64, u64)>,
    proposals: BTreeMap<(u64, u64), Vec<u8>>,
    /// Entries that some store took for committed: index to term and data.
    committed: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Up to where a store took its image for durable.
    flushed: BTreeMap<u64, u64>,
    /// State hash at each applied index (S9).
    hashes: BTreeMap<u64, u64>,
    /// Leader of each term.
    leaders: BTreeMap<u64, u64>,
    /// Entries that were reported to those who had proposed them.
    answered: usize,
}

/// The promise of a message about the disk of its sender.
#[derive(Debug, PartialEq)]
pub enum Promise {
    Vote { term: u64, candidate: u64 },
    Log { term: u64, index: u64 },
}

/// `None`: nothing that a crash could break.
pub fn promise(message: &RangeMessage) -> Option<Promise> {
    let Message { msg_type, from, to, term, index, reject, .. } =
        message.message.as_ref().expect("the engine sends bodies").clone();
    match MessageType::try_from(msg_type).expect("the engine sends known types") {
        MessageType::MsgRequestVote => Some(Promise::Vote { term, candidate: from }),
        MessageType::MsgRequestVoteResponse if !reject => {
            Some(Promise::Vote { term, candidate: to })
        }
        MessageType::MsgAppendResponse if !reject => Some(Promise::Log { term, index }),
        _ => None,
    }
}

/// Whether a disk could keep a promise.
pub fn check_promise(promise: &Promise, disk: &SimDisk) {
    let state = hard_state(disk);
    match promise {
        Promise::Vote { term, candidate } => {
            let vote = (state.term, state.vote);
            assert!(state.term > *term || vote == (*term, *candidate), "{promise:?}: {state:?}");
        }
        Promise::Log { term, index } => {
            let last = log(disk).last().map_or(u64::MAX, |entry| entry.index);
            assert!(state.term >= *term && last >= *index, "{promise:?}: {state:?}, {last}");
        }
    }
}

impl Oracle {
    pub fn proposed(&mut self, index: u64, term: u64, data: Vec<u8>) {
        self.proposals.insert((index, term), data);
    }

    /// A message has left.
    pub fn sent(&mut self, message: &RangeMessage) {
        let peer = message.from_peer;
        let Some(promise) = promise(message) else { return };
        let term = match promise {
            Promise::Vote { term, candidate } => {
                let first = *self.votes.entry((peer, term)).or_insert(candidate);
                assert_eq!(first, candidate, "{peer} voted twice in term {term}");
                term
            }
            Promise::Log { term, index } => {
                let known = self.acknowledged.entry(peer).or_insert((term, index));
                *known = if known.0 == term { (term, known.1.max(index)) } else { (term, index) };
                term
            }
        };
        let newest = self.terms.entry(peer).or_insert(term);
        *newest = term.max(*newest);
    }

    /// An entry was reported as applied; by a leader, its client is answered.
    pub fn applied(&mut self, applied: &Applied<u64>, leads: bool) {
        let (index, term) = (applied.at.index, applied.at.term);
        let data = match applied.output {
            Some(_) => self.proposals.get(&(index, term)).expect("it was proposed").clone(),
            None => Vec::new(),
        };
        self.committed(index, term, data);
        self.answered += usize::from(leads && applied.output.is_some());
    }

    fn committed(&mut self, index: u64, term: u64, data: Vec<u8>) {
        let new = (term, data);
        let known = self.committed.entry(index).or_insert_with(|| new.clone());
        assert_eq!(*known, new, "entry {index} changed after it was committed");
    }

    pub fn answered(&self) -> usize {
        self.answered
    }

    /// A store has come back, from this disk.
    pub fn recovered(
        &mut self,
        peer: u64,
        status: &ReplicaStatus,
        machine: &Tally,
        disk: &SimDisk,
    ) {
        let newest = self.terms.get(&peer).copied().unwrap_or(0);
        let found = hard_state(disk);
        assert!(found.term >= newest, "{peer} promised in term {newest}, and is back in {found:?}");
        if let Some(candidate) = self.votes.get(&(peer, found.term)) {
            assert_eq!(found.vote, *candidate, "{peer} forgot its vote in term {}", found.term);
        }
        let (term, index) = self.acknowledged.get(&peer).copied().unwrap_or((0, 0));
        if term == found.term {
            let last = status.log_last;
            assert!(last >= index, "{peer} acknowledged {index}, its log ends at {last}");
        }
        for entry in log(disk).into_iter().filter(|entry| entry.index <= status.commit) {
            self.committed(entry.index, entry.term, entry.data.to_vec());
        }
        let flushed = self.flushed.get(&peer).copied().unwrap_or(0);
        assert!(status.flushed >= flushed, "{peer} had an image up to {flushed}: {status:?}");
        self.stands(peer, status, machine);
    }

    /// How a store stands at any time.
    pub fn stands(&mut self, peer: u64, status: &ReplicaStatus, machine: &Tally) {
        self.flushed.insert(peer, status.flushed);
        assert!(status.applied <= status.commit, "S12: {status:?}");
        assert!(status.flushed <= status.applied, "{status:?}");
        assert!(status.log_first <= status.flushed + 1, "cut beyond the image: {status:?}");
        let known = *self.hashes.entry(status.applied).or_insert_with(|| {
            let expected = replay(&self.committed, status.applied);
            assert_eq!((&machine.tokens, machine.counter), (&expected.0, expected.1));
            status.state_hash
        });
        assert_eq!(known, status.state_hash, "S9 at {}", status.applied);
        if let (RaftRole::Leader, Some(store)) = (status.role, status.leader) {
            let leader = *self.leaders.entry(status.term).or_insert(store.0);
            assert_eq!(leader, store.0, "two leaders in term {}", status.term);
        }
    }

    /// The last entry that anybody took for committed.
    pub fn last_committed(&self) -> u64 {
        self.committed.keys().next_back().copied().unwrap_or(INITIAL)
    }
}

/// The words of the first entries up to `last`, without any engine or machine.
fn replay(entries: &BTreeMap<u64, (u64, Vec<u8>)>, last: u64) -> (BTreeMap<String, u64>, u64) {
    let (mut tokens, mut counter) = (BTreeMap::new(), 0);
    for index in INITIAL + 1..=last {
        let (_, data) = entries.get(&index).expect("a store that applies an entry was told of it");
        let word = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
        match data.split_first() {
            None => {}
            Some((b'+', rest)) => {
                counter += 1;
                tokens.insert(word(rest), counter);
            }
            Some((b'-', rest)) => drop(tokens.remove(&word(rest))),
            Some(_) => panic!("unknown command {data:?}"),
        }
    }
    (tokens, counter)
}
