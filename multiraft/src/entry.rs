//! What an entry of a range's log says. Whatever this engine proposes names its kind in the first
//! byte of the entry's context; an entry without a context is a leader's empty first one.
//!
//! The machine's bytes are the entry's data. A split and a change of members stand in the context
//! whole. The data of the latter is raft-rs's own form of it, so that its checks of pending changes
//! stay in force; nobody here ever reads that.

use prost::Message as _;
use raft::eraftpb::{Entry, EntryType};
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{Epoch, PeerId, RangeId, StoreId};

use crate::membership::{ChangePeers, PeerChange};
use crate::split::Split;

// On disks and in messages; a number never changes its meaning.
const MACHINE: u8 = 1;
const SPLIT: u8 = 2;
const CHANGE_PEERS: u8 = 3;

/// The kinds of entries, by what they ask of a replica.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// Raft's own: with it a leader begins its term.
    Nothing,
    Machine(&'a [u8]),
    Split(Split),
    ChangePeers(ChangePeers),
}

/// Why an entry is not understood: it is damaged, or a newer program wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadEntry {
    #[error("this program knows no entry of type {0} and kind {1}")]
    Unknown(i32, u8),
    #[error("its record does not decode: {0}")]
    Broken(#[from] prost::DecodeError),
    #[error("its record has a change of members of kind {0}, which this program does not know")]
    UnknownChange(i32),
    #[error("it names no kind, or has no data")]
    Nameless,
}

impl BadEntry {
    /// Whether a newer program may have made it, with the way out. Anything else is damage.
    pub fn is_newer(&self) -> Option<String> {
        match self {
            Self::Unknown(..) | Self::UnknownChange(_) => {
                Some(format!("{self}: upgrade this server"))
            }
            Self::Broken(_) | Self::Nameless => None,
        }
    }
}

/// The context of an entry with the machine's bytes.
pub(crate) fn machine() -> Vec<u8> {
    vec![MACHINE]
}

/// The context of a split's entry.
pub(crate) fn split(split: &Split) -> Vec<u8> {
    let record = proto::SplitEntry {
        version: split.epoch.version,
        conf_ver: split.epoch.conf_ver,
        key: split.key.clone(),
        child_range_id: split.child.0,
        child_peer_ids: split.child_peers.iter().map(|peer| peer.0).collect(),
    };
    context(SPLIT, &record)
}

/// The context of the entry of a change of members.
pub(crate) fn change_peers(change: &ChangePeers) -> Vec<u8> {
    let record = proto::ChangePeersEntry {
        version: change.epoch.version,
        conf_ver: change.epoch.conf_ver,
        changes: change.changes.iter().map(change_record).collect(),
    };
    context(CHANGE_PEERS, &record)
}

fn context(kind: u8, record: &impl prost::Message) -> Vec<u8> {
    let mut context = Vec::with_capacity(1 + record.encoded_len());
    context.push(kind);
    record.encode_raw(&mut context);
    context
}

/// What an entry says. Anything else than what the functions here make is refused.
pub(crate) fn decode(entry: &Entry) -> Result<Command<'_>, BadEntry> {
    let kind = entry.context.split_first();
    match (entry.entry_type, kind) {
        (EntryType::EntryNormal, None) if entry.data.is_empty() => Ok(Command::Nothing),
        (EntryType::EntryNormal, Some((&MACHINE, []))) if !entry.data.is_empty() => {
            Ok(Command::Machine(&entry.data))
        }
        (EntryType::EntryNormal, Some((&SPLIT, record))) => {
            Ok(Command::Split(split_of(proto::SplitEntry::decode(record)?)))
        }
        (EntryType::EntryConfChangeV2, Some((&CHANGE_PEERS, record))) => {
            let change = change_of(proto::ChangePeersEntry::decode(record)?)?;
            Ok(Command::ChangePeers(change))
        }
        (_, None | Some((&MACHINE, _))) => Err(BadEntry::Nameless),
        (entry_type, Some((&kind, _))) => Err(BadEntry::Unknown(entry_type as i32, kind)),
    }
}

fn split_of(record: proto::SplitEntry) -> Split {
    Split {
        epoch: Epoch { version: record.version, conf_ver: record.conf_ver },
        key: record.key,
        child: RangeId(record.child_range_id),
        child_peers: record.child_peer_ids.into_iter().map(PeerId).collect(),
    }
}

fn change_of(record: proto::ChangePeersEntry) -> Result<ChangePeers, BadEntry> {
    let epoch = Epoch { version: record.version, conf_ver: record.conf_ver };
    let changes = record.changes.iter().map(one_change).collect::<Result<_, _>>()?;
    Ok(ChangePeers { epoch, changes })
}

fn change_record(change: &PeerChange) -> proto::PeerChange {
    use proto::PeerChangeKind as Kind;
    let (kind, peer, store) = match *change {
        PeerChange::AddLearner { peer, store } => (Kind::AddLearner, peer, store),
        PeerChange::RemoveLearner(peer) => (Kind::RemoveLearner, peer, StoreId(0)),
        PeerChange::Promote(peer) => (Kind::Promote, peer, StoreId(0)),
        PeerChange::Demote(peer) => (Kind::Demote, peer, StoreId(0)),
    };
    proto::PeerChange { kind: kind.into(), peer_id: peer.0, store_id: store.0 }
}

fn one_change(record: &proto::PeerChange) -> Result<PeerChange, BadEntry> {
    use proto::PeerChangeKind as Kind;
    let peer = PeerId(record.peer_id);
    match Kind::try_from(record.kind) {
        Ok(Kind::AddLearner) => {
            Ok(PeerChange::AddLearner { peer, store: StoreId(record.store_id) })
        }
        Ok(Kind::RemoveLearner) => Ok(PeerChange::RemoveLearner(peer)),
        Ok(Kind::Promote) => Ok(PeerChange::Promote(peer)),
        Ok(Kind::Demote) => Ok(PeerChange::Demote(peer)),
        Ok(Kind::Unspecified) | Err(_) => Err(BadEntry::UnknownChange(record.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch { version: 3, conf_ver: 4 };

    fn entry(entry_type: EntryType, context: Vec<u8>, data: &[u8]) -> Entry {
        let (context, data) = (context.into(), data.to_vec().into());
        Entry { entry_type, context, data, ..Entry::default() }
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let normal = EntryType::EntryNormal;
        let empty = entry(normal, Vec::new(), b"");
        assert_eq!(decode(&empty), Ok(Command::Nothing));
        let bytes = entry(normal, machine(), b"bytes");
        assert_eq!(decode(&bytes), Ok(Command::Machine(b"bytes")));
        let child_peers = vec![PeerId(11), PeerId(12)];
        let whole = Split { epoch: EPOCH, key: "m".to_owned(), child: RangeId(8), child_peers };
        assert_eq!(decode(&entry(normal, split(&whole), b"")), Ok(Command::Split(whole)));
        let changes = vec![
            PeerChange::AddLearner { peer: PeerId(5), store: StoreId(6) },
            PeerChange::RemoveLearner(PeerId(7)),
            PeerChange::Promote(PeerId(8)),
            PeerChange::Demote(PeerId(9)),
        ];
        let whole = ChangePeers { epoch: EPOCH, changes };
        let made = entry(EntryType::EntryConfChangeV2, change_peers(&whole), b"raft-rs's");
        assert_eq!(decode(&made), Ok(Command::ChangePeers(whole)));
    }

    #[test]
    fn what_nobody_here_makes_is_refused() {
        let normal = EntryType::EntryNormal;
        let refused = [
            entry(normal, Vec::new(), b"data without a kind"),
            entry(normal, machine(), b""),
            entry(normal, vec![MACHINE, 0], b"more"),
            entry(normal, vec![4], b"of a newer program"),
            entry(normal, vec![SPLIT, 0xff], b""),
            entry(normal, vec![CHANGE_PEERS], b""),
            entry(EntryType::EntryConfChange, vec![CHANGE_PEERS], b""),
            entry(EntryType::EntryConfChangeV2, Vec::new(), b""),
            entry(EntryType::EntryConfChangeV2, machine(), b"data"),
        ];
        for entry in refused {
            assert!(decode(&entry).is_err(), "{entry:?}");
        }
    }
}
