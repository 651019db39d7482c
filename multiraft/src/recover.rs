//! From a disk back to a store: every record read, checked against the others, and refused with
//! a sentence where they do not fit. Nothing here panics on what a disk holds.

use std::collections::BTreeMap;

use raft::eraftpb::{Entry, HardState};
use sharklock_proto::internal::v1 as proto;
use sharklock_rangemap::{Descriptor, PeerId, RangeId};

use crate::disk::{Disk, DiskError, Family, Pair};
use crate::effects::LostLog;
use crate::entry::{self, Command};
use crate::ident::StoreIdent;
use crate::keys::{self, Key};
use crate::mirror;
use crate::range_state::{self, Effect, Half, RangeState};
use crate::records::{self, BadValue, FORMAT};
use crate::replica::Loaded;
use crate::state_machine::{BadImage, EntryAt, StateMachine};

/// Why a disk cannot be served from. Nothing was changed on it.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It cannot be read.
    #[error("the disk cannot be read: {0}")]
    Disk(#[from] DiskError),
    /// It is fresh, or its identity is gone while ranges are there.
    #[error("the disk holds no store identity")]
    NoIdent,
    /// A newer program wrote it.
    #[error("the store has format {format}, and this program reads no format newer than {FORMAT}")]
    NewerStore {
        /// Its format.
        format: u32,
    },
    /// A newer program wrote a record.
    #[error("{what} has format {format}, and this program reads no format newer than {FORMAT}")]
    NewerValue {
        /// The record.
        what: String,
        /// Its format.
        format: u8,
    },
    /// A newer program wrote an entry, an image or a record of a new kind. Nothing is wrong with the
    /// disk.
    #[error("{what} is beyond this program: {why}")]
    Beyond {
        /// Which.
        what: String,
        /// What it needs, for instance a feature level, and what this program has.
        why: String,
    },
    /// A record is damaged or does not fit the others. The replica's copy is lost: the store must
    /// be wiped and come back under new ids, never repaired into voting.
    #[error("{what} is corrupt: {why}")]
    Corrupt {
        /// The record.
        what: String,
        /// The fault, in words.
        why: String,
    },
    /// The machine cannot read its image.
    #[error("the image of range {range} cannot be restored: {source}")]
    Image {
        /// The range.
        range: RangeId,
        /// The words of the machine.
        source: BadImage,
    },
}

impl RecoverError {
    pub(crate) fn bad_value(what: &str, error: BadValue) -> Self {
        let what = what.to_owned();
        match error {
            BadValue::Newer(format) => Self::NewerValue { what, format },
            why => Self::Corrupt { what, why: why.to_string() },
        }
    }

    pub(crate) fn corrupt(what: String, why: impl Into<String>) -> Self {
        Self::Corrupt { what, why: why.into() }
    }
}

/// The records of one range in `Meta`.
#[derive(Default)]
struct MetaRecords {
    hard_state: Option<proto::HardStateRecord>,
    truncated: Option<proto::TruncatedRecord>,
    header: Option<proto::FlushHeader>,
    lost: Option<proto::LostRecord>,
    tombstone: Option<proto::TombstoneRecord>,
}

impl MetaRecords {
    /// There is more than the tombstone of a replica that is gone.
    fn has_replica(&self) -> bool {
        self.hard_state.is_some() || self.truncated.is_some() || self.header.is_some()
    }
}

/// The contents of a disk.
pub(crate) struct Recovered<M> {
    pub replicas: Vec<Replayed<M>>,
    pub tombstones: BTreeMap<RangeId, PeerId>,
}

/// A replica with its log and its machine as of all that is known to be committed.
pub(crate) struct Replayed<M> {
    /// Itself. The replay may have removed it from the descriptor.
    pub peer: PeerId,
    pub loaded: Loaded<M>,
    /// What was split off while entries were replayed behind the image. The disk does not have these,
    /// or the image would be newer.
    pub halves: Vec<Half<M>>,
}

/// Everything on the disk.
pub(crate) fn load<M: StateMachine>(
    disk: &impl Disk,
    ident: &StoreIdent,
) -> Result<Recovered<M>, RecoverError> {
    let mut recovered = Recovered { replicas: Vec::new(), tombstones: BTreeMap::new() };
    for (range, records) in read_meta(disk)? {
        if let Some(tombstone) = &records.tombstone {
            recovered.tombstones.insert(range, PeerId(tombstone.peer_id));
        }
        if records.has_replica() || records.tombstone.is_none() {
            recovered.replicas.push(load_range(disk, ident, range, records)?);
        }
    }
    Ok(recovered)
}

fn read_meta(disk: &impl Disk) -> Result<BTreeMap<RangeId, MetaRecords>, RecoverError> {
    let mut ranges: BTreeMap<RangeId, MetaRecords> = BTreeMap::new();
    let (start, end) = keys::meta_span();
    for (key, value) in disk.scan(Family::Meta, &start, &end)? {
        match Key::decode_meta(&key) {
            Some(Key::HardState(range)) => {
                let record = open(&key, value, || format!("the hard state of range {range}"))?;
                ranges.entry(range).or_default().hard_state = Some(record);
            }
            Some(Key::Truncated(range)) => {
                let record = open(&key, value, || format!("the log's begin of range {range}"))?;
                ranges.entry(range).or_default().truncated = Some(record);
            }
            Some(Key::Header(range)) => {
                let record = open(&key, value, || format!("the image header of range {range}"))?;
                ranges.entry(range).or_default().header = Some(record);
            }
            Some(Key::Lost(range)) => {
                let record = open(&key, value, || format!("the loss of range {range}"))?;
                ranges.entry(range).or_default().lost = Some(record);
            }
            Some(Key::Tombstone(range)) => {
                let record = open(&key, value, || format!("the tombstone of range {range}"))?;
                ranges.entry(range).or_default().tombstone = Some(record);
            }
            Some(Key::Ident | Key::Starts) => {}
            Some(Key::Entry(..) | Key::Row(..)) | None => return Err(unknown(&key, &value)),
        }
    }
    Ok(ranges)
}

/// A record at a key that this program does not know. A checksum covers the key as well: if it fits, a
/// program has written it there, and that is a newer one.
fn unknown(key: &[u8], value: &[u8]) -> RecoverError {
    let what = format!("the record {key:02x?}");
    match records::row_in(key, value) {
        Ok(_) if value.first() == Some(&FORMAT) => RecoverError::Beyond {
            what,
            why: "it knows no record of this kind: upgrade this server".to_owned(),
        },
        Err(newer @ BadValue::Newer(_)) => RecoverError::bad_value(&what, newer),
        _ => RecoverError::corrupt(what, "this program knows no such record"),
    }
}

fn open<R: prost::Message + Default>(
    key: &[u8],
    value: Vec<u8>,
    what: impl Fn() -> String,
) -> Result<R, RecoverError> {
    records::open(key, value).map_err(|error| RecoverError::bad_value(&what(), error))
}

fn load_range<M: StateMachine>(
    disk: &impl Disk,
    ident: &StoreIdent,
    range: RangeId,
    meta: MetaRecords,
) -> Result<Replayed<M>, RecoverError> {
    let what = || format!("range {range}");
    let missing = |part: &str| RecoverError::corrupt(what(), format!("it has no {part}"));
    let header = meta.header.ok_or_else(|| missing("image header"))?;
    let hard_state = meta.hard_state.ok_or_else(|| missing("hard state"))?;
    let truncated = meta.truncated.ok_or_else(|| missing("record of where its log begins"))?;

    let (descriptor, peer) = read_descriptor(ident, range, &header)?;
    let flushed = EntryAt { index: header.applied_index, term: header.applied_term };
    let entries = read_log::<M>(disk, range, &truncated)?;
    // Written with entries, the recorded commit may be older than an image written after it.
    let mut hard_state = records::hard_state(&hard_state);
    hard_state.commit = hard_state.commit.max(flushed.index);
    check_log(&hard_state, &truncated, &entries, flushed)
        .map_err(|why| RecoverError::corrupt(format!("the log of range {range}"), why))?;

    let machine = read_image::<M>(disk, range, &header)?;
    let splits = header.splits.iter().map(range_state::mark).collect();
    let skipped = header.skipped.as_ref().map(range_state::names);
    let mut state = RangeState::new(descriptor, machine, flushed, splits).with_skipped(skipped);
    let halves = replay(&mut state, &entries, hard_state.commit, ident);
    let lost = meta.lost.map(|record| LostLog { commit: record.commit, last: record.last });
    let truncated = (truncated.index, truncated.term);
    let (flushed, has_image) = (flushed.index, header.machine.is_some());
    let loaded = Loaded { state, hard_state, truncated, entries, flushed, has_image, lost };
    Ok(Replayed { peer, loaded, halves })
}

/// Applies what is known to be committed, without a word to anybody: clients were answered in an
/// earlier life. It ends where the replica on this store is removed.
fn replay<M: StateMachine>(
    state: &mut RangeState<M>,
    entries: &[Entry],
    commit: u64,
    ident: &StoreIdent,
) -> Vec<Half<M>> {
    let flushed = state.applied().index;
    let mut halves = Vec::new();
    for entry in entries.iter().filter(|it| flushed < it.index && it.index <= commit) {
        if let Effect::Split(half) = state.apply(entry) {
            halves.push(half);
        }
        if state.descriptor().on_store(ident.store).is_none() {
            break;
        }
    }
    halves
}

fn read_descriptor(
    ident: &StoreIdent,
    range: RangeId,
    header: &proto::FlushHeader,
) -> Result<(Descriptor, PeerId), RecoverError> {
    let what = || format!("the descriptor of range {range}");
    let corrupt = |why: &str| RecoverError::corrupt(what(), why);
    let record = header.descriptor.as_ref().ok_or_else(|| corrupt("it is missing"))?;
    let descriptor = Descriptor::try_from(record).map_err(|error| corrupt(&error.to_string()))?;
    if descriptor.range != range || range.0 == u64::MAX {
        return Err(corrupt("it names another range"));
    }
    match descriptor.on_store(ident.store).map(|here| here.peer) {
        Some(peer) => Ok((descriptor, peer)),
        None => Err(corrupt("it names no replica on this store")),
    }
}

fn read_log<M: StateMachine>(
    disk: &impl Disk,
    range: RangeId,
    truncated: &proto::TruncatedRecord,
) -> Result<Vec<Entry>, RecoverError> {
    let first = truncated.index.saturating_add(1);
    let (start, end) = keys::log_span(range, first, u64::MAX);
    let pairs = disk.scan(Family::Raft, &start, &end)?;
    let mut entries = Vec::with_capacity(pairs.len());
    for (index, (key, value)) in (first..).zip(pairs) {
        let what = || format!("entry {index} of range {range}");
        let record: proto::Entry = open(&key, value, what)?;
        // The key and the record must agree, and neither may leave a gap.
        if key != Key::Entry(range, index).encode() || record.index != index {
            return Err(RecoverError::corrupt(what(), "it is missing"));
        }
        // Its checksum fits: a program that knows the type has written it.
        let entry = mirror::entry(record).map_err(|unknown| RecoverError::Beyond {
            what: what(),
            why: format!("{unknown}: upgrade this server"),
        })?;
        let command = entry::decode(&entry).map_err(|bad| match bad.is_newer() {
            Some(why) => RecoverError::Beyond { what: what(), why },
            None => RecoverError::corrupt(what(), bad.to_string()),
        })?;
        if let Command::Machine(data) = command {
            M::knows(data).map_err(|why| RecoverError::Beyond { what: what(), why })?;
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Whether hard state, log and image can stem from one history.
fn check_log(
    hard_state: &HardState,
    truncated: &proto::TruncatedRecord,
    entries: &[Entry],
    flushed: EntryAt,
) -> Result<(), String> {
    let mut terms = vec![truncated.term];
    terms.extend(entries.iter().map(|entry| entry.term));
    if !terms.is_sorted() {
        return Err("the terms of its entries fall".to_owned());
    }
    let last = truncated.index + entries.len() as u64;
    let last_term = *terms.last().expect("the term before the first entry is there");
    if last_term > hard_state.term {
        return Err(format!("it ends in term {last_term}, above {}", hard_state.term));
    }
    if hard_state.commit > last {
        return Err(format!("it ends at {last}, before the commit index {}", hard_state.commit));
    }
    if flushed.index < truncated.index {
        let (flushed, begin) = (flushed.index, truncated.index);
        return Err(format!("the image ends at {flushed}, before the log begins at {begin}"));
    }
    let term = terms[(flushed.index - truncated.index) as usize];
    if term != flushed.term {
        let EntryAt { index, term: claimed } = flushed;
        return Err(format!("entry {index} has term {term}, the image says {claimed}"));
    }
    Ok(())
}

fn read_image<M: StateMachine>(
    disk: &impl Disk,
    range: RangeId,
    header: &proto::FlushHeader,
) -> Result<M, RecoverError> {
    let (start, end) = keys::rows_span(range);
    let mut rows = disk.walk(Family::State, &start, &end)?.map(|pair| open_row(range, pair?));
    let what = || format!("the image of range {range}");
    let Some(machine) = &header.machine else {
        return match rows.next() {
            Some(row) => {
                row?;
                Err(RecoverError::corrupt(what(), "it has rows before its first entry"))
            }
            None => Ok(M::empty()),
        };
    };
    // The rows end at the first that cannot be read, and that is then what is wrong.
    let mut unreadable = None;
    let readable = rows.map_while(|row| row.map_err(|error| unreadable = Some(error)).ok());
    let machine = M::restore(machine, readable);
    if let Some(error) = unreadable {
        return Err(error);
    }
    let machine = machine.map_err(|bad| match bad {
        BadImage::Newer(why) => RecoverError::Beyond { what: what(), why },
        source @ BadImage::Corrupt(_) => RecoverError::Image { range, source },
    })?;
    let (found, expected) = (machine.state_hash(), header.state_hash);
    if found != expected {
        let why = format!("its hash is {found:016x}, the header says {expected:016x}");
        return Err(RecoverError::corrupt(what(), why));
    }
    Ok(machine)
}

fn open_row(range: RangeId, (key, value): Pair) -> Result<Pair, RecoverError> {
    let value = records::open_row(&key, value).map_err(|error| {
        RecoverError::bad_value(&format!("the row {key:02x?} of range {range}"), error)
    })?;
    Ok((keys::row_key(&key).to_vec(), value))
}
