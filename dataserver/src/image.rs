//! The image's encoding: keys and rows of a lock table as bytes. Every value begins with a
//! format-version byte. The only place where table rows meet their records.
//!
//! Keys, within the range's prefix: `L name` a lock; `W name 0x00 ticket` a waiter (names have no
//! NUL, so a name's waiters lie together, in order); `R chunk` a run of the ring.

use sharklock_locktable::{
    AcquisitionId, Finished, FinishedRow, Header, HoldRow, Instance, LockRow, Row, RowKey, Token,
    WaiterRow,
};
use sharklock_proto::internal::v1 as record;

use crate::codec::{
    self, DecodeError, acquisition_from_record, acquisition_to_record, mode_from_record,
    mode_to_record, owner_from_record, owner_to_record, session_from_bytes,
};

/// Version of the row and header formats. A reader refuses any other.
const IMAGE_FORMAT: u8 = 1;

/// A row's key as bytes.
pub fn encode_key(key: &RowKey) -> Vec<u8> {
    match key {
        RowKey::Lock(name) => [b"L", name.as_str().as_bytes()].concat(),
        RowKey::Waiter(name, ticket) => {
            [b"W", name.as_str().as_bytes(), &[0], &ticket.to_be_bytes()].concat()
        }
        RowKey::Ring(chunk) => [b"R".as_slice(), &chunk.to_be_bytes()].concat(),
    }
}

/// The inverse of [`encode_key`].
pub fn decode_key(key: &[u8]) -> Result<RowKey, DecodeError> {
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().map_err(|_| DecodeError::Field("row key"))?;
        Ok(u64::from_be_bytes(bytes))
    };
    let name = |bytes: &[u8]| {
        let name = std::str::from_utf8(bytes).map_err(|_| DecodeError::Field("row key"))?;
        Ok(name.into())
    };
    match key.split_first().ok_or(DecodeError::Empty)? {
        (b'L', rest) => Ok(RowKey::Lock(name(rest)?)),
        (b'W', rest) => {
            let end = rest.len().checked_sub(9).ok_or(DecodeError::Field("row key"))?;
            let (before, ticket) = rest.split_at(end + 1);
            if before.last() != Some(&0) {
                return Err(DecodeError::Field("row key"));
            }
            Ok(RowKey::Waiter(name(&before[..end])?, number(ticket)?))
        }
        (b'R', rest) => Ok(RowKey::Ring(number(rest)?)),
        _ => Err(DecodeError::Field("row key")),
    }
}

/// A row's value as bytes.
pub fn encode_row(row: &Row) -> Vec<u8> {
    match row {
        Row::Lock(lock) => encode(&record::LockRow {
            fence_floor: lock.fence_floor.map_or(0, |token| token.0),
            holds: lock.holds.iter().map(hold_to_record).collect(),
        }),
        Row::Waiter(waiter) => encode(&waiter_to_record(waiter)),
        Row::Ring(finished) => {
            encode(&record::RingRow { finished: finished.iter().map(finished_to_record).collect() })
        }
    }
}

/// The inverse of [`encode_row`]; the key says what the row is.
pub fn decode_row(key: &RowKey, value: &[u8]) -> Result<Row, DecodeError> {
    Ok(match key {
        RowKey::Lock(_) => {
            let row: record::LockRow = decode(value)?;
            Row::Lock(LockRow {
                fence_floor: token_from_record(row.fence_floor),
                holds: row.holds.into_iter().map(hold_from_record).collect::<Result<_, _>>()?,
            })
        }
        RowKey::Waiter(_, ticket) => {
            let row: record::WaiterRow = decode(value)?;
            if row.ticket != *ticket {
                return Err(DecodeError::Field("ticket"));
            }
            Row::Waiter(waiter_from_record(row)?)
        }
        RowKey::Ring(_) => {
            let row: record::RingRow = decode(value)?;
            let finished = row.finished.into_iter().map(finished_from_record);
            Row::Ring(finished.collect::<Result<_, _>>()?)
        }
    })
}

/// The table's header as bytes.
pub fn encode_header(header: Header) -> Vec<u8> {
    encode(&record::TableHeader {
        generation: header.generation.into(),
        token_counter: header.token_counter,
        ticket_counter: header.ticket_counter,
        ring_first: header.ring_first,
        ring_next: header.ring_next,
        feature_level: header.feature_level,
    })
}

/// The inverse of [`encode_header`].
pub fn decode_header(value: &[u8]) -> Result<Header, DecodeError> {
    let header: record::TableHeader = decode(value)?;
    Ok(Header {
        generation: u16::try_from(header.generation)
            .map_err(|_| DecodeError::Field("generation"))?,
        token_counter: header.token_counter,
        ticket_counter: header.ticket_counter,
        ring_first: header.ring_first,
        ring_next: header.ring_next,
        feature_level: header.feature_level,
    })
}

fn encode(message: &impl prost::Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + message.encoded_len());
    value.push(IMAGE_FORMAT);
    message.encode(&mut value).expect("a Vec grows as needed");
    value
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> Result<M, DecodeError> {
    let (&format, body) = value.split_first().ok_or(DecodeError::Empty)?;
    if format != IMAGE_FORMAT {
        return Err(DecodeError::Format(format));
    }
    M::decode(body).map_err(|error| DecodeError::Malformed(error.to_string()))
}

fn token_from_record(token: u64) -> Option<Token> {
    (token != 0).then_some(Token(token))
}

fn hold_to_record(hold: &HoldRow) -> record::HoldRow {
    record::HoldRow {
        token: hold.token.0,
        session: bytes::Bytes::copy_from_slice(&hold.session.0),
        instance: hold.instance.0,
        open_ids: hold.open_ids.iter().map(|id| id.0).collect(),
        mode: Some(mode_to_record(hold.mode)),
        ttl_ms: hold.ttl_ms,
        owner: Some(owner_to_record(hold.owner.clone())),
        granted_unix_ms: hold.granted_unix_ms,
        ending_reason: hold.ending_reason.clone(),
        highest_closed_id: hold.highest_closed_id.map(|id| id.0),
        newest_id: hold.newest_id.0,
    }
}

fn hold_from_record(hold: record::HoldRow) -> Result<HoldRow, DecodeError> {
    Ok(HoldRow {
        token: Token(hold.token),
        session: session_from_bytes(&hold.session)?,
        instance: Instance(hold.instance),
        open_ids: hold.open_ids.into_iter().map(AcquisitionId).collect(),
        newest_id: AcquisitionId(hold.newest_id),
        highest_closed_id: hold.highest_closed_id.map(AcquisitionId),
        mode: mode_from_record(hold.mode)?,
        ttl_ms: hold.ttl_ms,
        owner: owner_from_record(hold.owner.unwrap_or_default()),
        granted_unix_ms: hold.granted_unix_ms,
        ending_reason: hold.ending_reason,
    })
}

fn waiter_to_record(waiter: &WaiterRow) -> record::WaiterRow {
    record::WaiterRow {
        ticket: waiter.ticket,
        acquisition: Some(acquisition_to_record(waiter.acquisition)),
        mode: Some(mode_to_record(waiter.mode)),
        ttl_ms: waiter.ttl_ms,
        wait_ms: codec::wait_to_record(waiter.wait),
        owner: Some(owner_to_record(waiter.owner.clone())),
        queued_unix_ms: waiter.queued_unix_ms,
    }
}

fn waiter_from_record(waiter: record::WaiterRow) -> Result<WaiterRow, DecodeError> {
    Ok(WaiterRow {
        ticket: waiter.ticket,
        acquisition: acquisition_from_record(waiter.acquisition)?,
        mode: mode_from_record(waiter.mode)?,
        ttl_ms: waiter.ttl_ms,
        wait: codec::wait_from_record(waiter.wait_ms),
        owner: owner_from_record(waiter.owner.unwrap_or_default()),
        queued_unix_ms: waiter.queued_unix_ms,
    })
}

fn finished_to_record(finished: &FinishedRow) -> record::FinishedRow {
    record::FinishedRow {
        acquisition: Some(acquisition_to_record(finished.acquisition)),
        name: finished.name.as_str().to_owned(),
        how: finished.how as u32,
        token: finished.token.map_or(0, |token| token.0),
    }
}

fn finished_from_record(finished: record::FinishedRow) -> Result<FinishedRow, DecodeError> {
    let how = match finished.how {
        1 => Finished::Released,
        2 => Finished::Cancelled,
        3 => Finished::Expired,
        4 => Finished::WaitTimedOut,
        5 => Finished::TryRefused,
        6 => Finished::ForceReleased,
        7 => Finished::HoldLost,
        _ => return Err(DecodeError::Field("how")),
    };
    Ok(FinishedRow {
        acquisition: acquisition_from_record(finished.acquisition)?,
        name: finished.name.into(),
        how,
        token: token_from_record(finished.token),
    })
}
