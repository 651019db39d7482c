//! The value at each key: one byte of format version, four of checksum, then a record of
//! `records.proto` or a row of the machine.
//!
//! RocksDB has checksums, too, but only from where it gets a value to where it reads it: not over
//! its buffers in memory, nor does it know that a value belongs to its key.
//!
//! Conversions between the records and the engine's types are here and in `mirror.rs` only; those of
//! descriptors are in `sharklock_proto`.

use bytes::{BufMut, Bytes};
use prost::Message;
use raft::eraftpb;
use sharklock_proto::internal::v1 as proto;
use twox_hash::XxHash3_64;

use crate::disk::WriteOp;
use crate::keys::Key;

/// Version of the values that this program writes, and the newest that it reads.
pub(crate) const FORMAT: u8 = 2;
/// The first format, without a checksum.
const FORMAT_PLAIN: u8 = 1;
/// Format version and checksum.
const HEAD_BYTES: usize = 5;

/// Why a stored value cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadValue {
    #[error("it is empty")]
    Empty,
    #[error("it has format {0}, and this program reads no format newer than {FORMAT}")]
    Newer(u8),
    #[error("it does not match its checksum")]
    Damaged,
    #[error("it does not decode: {0}")]
    Broken(#[from] prost::DecodeError),
    #[error("{0}")]
    Nonsense(String),
}

/// The change that stores a record at its key.
pub(crate) fn put(key: Key<'_>, record: &impl Message) -> WriteOp {
    put_encoded(key, record.encoded_len(), |value| record.encode_raw(value))
}

/// The change that stores a row of the machine.
pub(crate) fn put_row(key: Key<'_>, row: &[u8]) -> WriteOp {
    put_encoded(key, row.len(), |value| value.put_slice(row))
}

fn put_encoded(key: Key<'_>, len: usize, encode: impl FnOnce(&mut Vec<u8>)) -> WriteOp {
    let (family, key) = (key.family(), key.encode());
    let mut value = Vec::with_capacity(HEAD_BYTES + len);
    value.extend([FORMAT, 0, 0, 0, 0]);
    encode(&mut value);
    let sum = checksum(&key, &value[HEAD_BYTES..]);
    value[1..HEAD_BYTES].copy_from_slice(&sum);
    WriteOp::Put(family, key, value)
}

/// The key is under it: a value that strayed to another one is wrong there.
fn checksum(key: &[u8], body: &[u8]) -> [u8; 4] {
    let seed = XxHash3_64::oneshot(key);
    (XxHash3_64::oneshot_with_seed(seed, body) as u32).to_le_bytes()
}

/// The record that stands at `key`. Its byte fields keep sharing `value`.
pub(crate) fn open<R: Message + Default>(key: &[u8], value: Vec<u8>) -> Result<R, BadValue> {
    let head = check(key, &value)?;
    let value = Bytes::from(value);
    Ok(R::decode(value.slice(head..))?)
}

/// The machine's bytes that stand at `key`.
pub(crate) fn open_row(key: &[u8], mut value: Vec<u8>) -> Result<Vec<u8>, BadValue> {
    value.drain(..check(key, &value)?);
    Ok(value)
}

/// As [`open_row`], without taking the value.
pub(crate) fn row_in<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], BadValue> {
    Ok(&value[check(key, value)?..])
}

/// The offset behind the head at which the value begins.
fn check(key: &[u8], value: &[u8]) -> Result<usize, BadValue> {
    match value.split_first() {
        None => Err(BadValue::Empty),
        Some((&FORMAT_PLAIN, _)) => Ok(1),
        Some((&FORMAT, rest)) => match rest.split_first_chunk() {
            Some((sum, body)) if *sum == checksum(key, body) => Ok(HEAD_BYTES),
            _ => Err(BadValue::Damaged),
        },
        Some((&format, _)) if format > FORMAT => Err(BadValue::Newer(format)),
        Some((format, _)) => Err(BadValue::Nonsense(format!("{format} is no format version"))),
    }
}

pub(crate) fn hard_state_record(state: &eraftpb::HardState) -> proto::HardStateRecord {
    proto::HardStateRecord { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn hard_state(record: &proto::HardStateRecord) -> eraftpb::HardState {
    eraftpb::HardState {
        term: record.term,
        vote: record.vote,
        commit: record.commit,
        ..eraftpb::HardState::default()
    }
}
