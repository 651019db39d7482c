//! The image's encoding: keys and rows of a lock table as bytes. Every value begins with a
//! format-version byte. The only place where table rows meet their records.
//!
//! Keys, within the range's prefix: `L name` a lock; `M name 0x00 token` a hold; `N name 0x00 token` a
//! delay; `O name 0x00 ticket` a waiter; `P generation row` some of what has ended; `R chunk` a run
//! of the ring. Names have no NUL, so what
//! belongs to one name lies together, in order; and the order of the letters is that of [`RowKey`], in
//! which a table is restored.

use sharklock_locktable::{
    AcquisitionId, AskMark, AskedBy, DelayRow, EndedLife, EndedRow, EndingCause, EndingMark,
    Extras, Finished, FinishedRow, Header, HoldRow, Instance, LockRow, Name, OpenIds, Owner,
    Quarantine, Reclaimer, Row, RowKey, Token, WaiterRow,
};
use sharklock_proto::internal::v1 as record;

use crate::{
    agreement::{boxed_condition_from_record, condition_from_record, condition_to_record},
    codec::{
        self, DecodeError, acquisition_from_record, acquisition_to_record, mode_from_record,
        mode_to_record, owner_from_record, owner_to_record, session_from_bytes,
    },
};

/// Version of the row and header formats. A reader refuses any other.
const IMAGE_FORMAT: u8 = 2;

/// A row's key as bytes.
pub fn encode_key(key: &RowKey) -> Vec<u8> {
    match key {
        RowKey::Lock(name) => [b"L", name.as_str().as_bytes()].concat(),
        RowKey::Hold(name, token) => numbered_key(b"M", name, token.0),
        RowKey::Delay(name, token) => numbered_key(b"N", name, token.0),
        RowKey::Waiter(name, ticket) => numbered_key(b"O", name, *ticket),
        RowKey::Ended(generation, row) => {
            [b"P".as_slice(), &generation.to_be_bytes(), &row.to_be_bytes()].concat()
        }
        RowKey::Ring(chunk) => [b"R".as_slice(), &chunk.to_be_bytes()].concat(),
    }
}

fn numbered_key(tag: &[u8; 1], name: &Name, number: u64) -> Vec<u8> {
    [tag, name.as_str().as_bytes(), &[0], &number.to_be_bytes()].concat()
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
        (tag @ (b'M' | b'N' | b'O'), rest) => {
            let end = rest.len().checked_sub(9).ok_or(DecodeError::Field("row key"))?;
            let (before, digits) = rest.split_at(end + 1);
            if before.last() != Some(&0) {
                return Err(DecodeError::Field("row key"));
            }
            let (name, number) = (name(&before[..end])?, number(digits)?);
            Ok(match tag {
                b'M' => RowKey::Hold(name, Token(number)),
                b'N' => RowKey::Delay(name, Token(number)),
                _ => RowKey::Waiter(name, number),
            })
        }
        (b'P', rest) => match rest.split_at_checked(8) {
            Some((generation, row)) => Ok(RowKey::Ended(number(generation)?, number(row)?)),
            None => Err(DecodeError::Field("row key")),
        },
        (b'R', rest) => Ok(RowKey::Ring(number(rest)?)),
        _ => Err(DecodeError::Field("row key")),
    }
}

/// A row's value as bytes.
pub fn encode_row(row: &Row) -> Vec<u8> {
    match row {
        Row::Lock(lock) => encode(&record::LockRow { fence_floor: lock.fence_floor.0 }),
        Row::Hold(hold) => encode(&hold_to_record(hold)),
        Row::Delay(delay) => encode(&delay_to_record(delay)),
        Row::Waiter(waiter) => encode(&waiter_to_record(waiter)),
        Row::Ended(ended) => encode(&record::EndedRow {
            first_ms: ended.first_ms,
            last_ms: ended.last_ms,
            ring_next: ended.ring_next,
            lives: ended.lives.iter().map(life_to_record).collect(),
        }),
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
            Row::Lock(LockRow { fence_floor: Token(row.fence_floor) })
        }
        RowKey::Hold(_, token) => {
            let row: record::HoldRow = decode(value)?;
            if row.token != token.0 {
                return Err(DecodeError::Field("token"));
            }
            Row::Hold(hold_from_record(row)?)
        }
        RowKey::Delay(_, token) => {
            let row: record::DelayRow = decode(value)?;
            if row.token != token.0 {
                return Err(DecodeError::Field("token"));
            }
            Row::Delay(delay_from_record(row)?)
        }
        RowKey::Waiter(_, ticket) => {
            let row: record::WaiterRow = decode(value)?;
            if row.ticket != *ticket {
                return Err(DecodeError::Field("ticket"));
            }
            Row::Waiter(waiter_from_record(row)?)
        }
        RowKey::Ended(..) => {
            let row: record::EndedRow = decode(value)?;
            let record::EndedRow { first_ms, last_ms, ring_next, lives } = row;
            let lives = lives.into_iter().map(life_from_record).collect::<Result<_, _>>()?;
            Row::Ended(EndedRow { first_ms, last_ms, ring_next, lives })
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
        age_ms: header.age_ms,
        lost_ms: header.lost_ms,
        ended_next: header.ended_next,
        recovered_ms: header.recovered_ms,
        quarantine: header.quarantine.code().into(),
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
        age_ms: header.age_ms,
        lost_ms: header.lost_ms,
        ended_next: header.ended_next,
        recovered_ms: header.recovered_ms,
        quarantine: u8::try_from(header.quarantine)
            .ok()
            .and_then(Quarantine::from_code)
            .ok_or(DecodeError::Field("quarantine"))?,
    })
}

fn encode(message: &impl prost::Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + message.encoded_len());
    value.push(IMAGE_FORMAT);
    message.encode(&mut value).expect("a Vec grows as needed");
    value
}

fn decode<M: prost::Message + Default>(value: &[u8]) -> Result<M, DecodeError> {
    let (&found, body) = value.split_first().ok_or(DecodeError::Empty)?;
    if found != IMAGE_FORMAT {
        return Err(DecodeError::Format { found, reads: IMAGE_FORMAT });
    }
    M::decode(body).map_err(|error| DecodeError::Malformed(error.to_string()))
}

fn token_from_record(token: u64) -> Option<Token> {
    (token != 0).then_some(Token(token))
}

fn hold_to_record(hold: &HoldRow) -> record::HoldRow {
    let extras = hold.extras();
    let ending = extras.ending.as_ref();
    let reclaimer = ending.and_then(|mark| mark.reclaimer.as_ref());
    let asked = extras.asked.as_deref();
    let asked_by = asked.and_then(|mark| mark.by.as_ref());
    let condition = (!extras.condition.is_default()).then_some(&extras.condition);
    record::HoldRow {
        token: hold.token.0,
        session: bytes::Bytes::copy_from_slice(&hold.session.0),
        instance: hold.instance.0,
        open_ids: hold.open_ids.iter().map(|id| id.0).collect(),
        mode: Some(mode_to_record(hold.mode)),
        ttl_ms: hold.ttl_ms,
        owner: Some(owner_to_record(Owner::clone(&hold.owner))),
        granted_unix_ms: hold.granted_unix_ms,
        ending_reason: ending.map(|mark| mark.reason.clone()),
        highest_closed_id: extras.highest_closed_id.map(|id| id.0),
        newest_id: hold.open_ids.newest().0,
        condition: condition.map(condition_to_record),
        revision: extras.revision,
        claimed: extras.claimed,
        orphaned: extras.orphaned,
        token_before: extras.token_before.map_or(0, |token| token.0),
        asked_unix_ms: asked.map(|mark| mark.since_unix_ms),
        ending_cause: ending.map_or(0, |mark| mark.cause.code().into()),
        reclaimer: reclaimer.map(|reclaimer| record::ReclaimerRecord {
            acquisition: Some(acquisition_to_record(reclaimer.acquisition)),
            owner: Some(owner_to_record(Owner::clone(&reclaimer.owner))),
        }),
        arrival: hold.arrival,
        attributes_seq: extras.attributes_seq,
        asked_by_session: asked_by
            .map(|by| bytes::Bytes::copy_from_slice(&by.session.0))
            .unwrap_or_default(),
        asked_by_owner_id: asked_by.map(|by| by.owner_id.clone()).unwrap_or_default(),
    }
}

fn hold_from_record(mut hold: record::HoldRow) -> Result<HoldRow, DecodeError> {
    let extras = extras_from_record(&mut hold)?;
    Ok(HoldRow {
        token: Token(hold.token),
        session: session_from_bytes(&hold.session)?,
        instance: Instance(hold.instance),
        open_ids: OpenIds::new(
            hold.open_ids.into_iter().map(AcquisitionId).collect(),
            AcquisitionId(hold.newest_id),
        ),
        mode: mode_from_record(hold.mode)?,
        ttl_ms: hold.ttl_ms,
        owner: owner_from_record(hold.owner.unwrap_or_default()).into(),
        granted_unix_ms: hold.granted_unix_ms,
        arrival: hold.arrival,
        extras: (extras != Extras::default()).then(|| Box::new(extras)),
    })
}

fn extras_from_record(hold: &mut record::HoldRow) -> Result<Extras, DecodeError> {
    let condition = hold.condition.take().map(condition_from_record).transpose()?;
    Ok(Extras {
        condition: condition.unwrap_or_default(),
        revision: hold.revision,
        claimed: hold.claimed,
        orphaned: hold.orphaned,
        highest_closed_id: hold.highest_closed_id.map(AcquisitionId),
        token_before: token_from_record(hold.token_before),
        asked: asked_from_record(hold)?.map(Box::new),
        attributes_seq: hold.attributes_seq,
        ending: ending_from_record(hold)?,
    })
}

fn asked_from_record(hold: &mut record::HoldRow) -> Result<Option<AskMark>, DecodeError> {
    let session = std::mem::take(&mut hold.asked_by_session);
    let owner_id = std::mem::take(&mut hold.asked_by_owner_id);
    let Some(since_unix_ms) = hold.asked_unix_ms else {
        let is_none = session.is_empty() && owner_id.is_empty();
        return if is_none { Ok(None) } else { Err(DecodeError::Field("asked_unix_ms")) };
    };
    // Below feature level 4 nobody is named.
    let by = match (session.is_empty(), owner_id.is_empty()) {
        (true, true) => None,
        (true, false) => return Err(DecodeError::Field("asked_by_session")),
        (false, _) => Some(AskedBy { session: session_from_bytes(&session)?, owner_id }),
    };
    Ok(Some(AskMark { since_unix_ms, by }))
}

fn ending_from_record(hold: &mut record::HoldRow) -> Result<Option<EndingMark>, DecodeError> {
    let Some(reason) = hold.ending_reason.take() else {
        let is_none = hold.ending_cause == 0 && hold.reclaimer.is_none();
        return if is_none { Ok(None) } else { Err(DecodeError::Field("ending_reason")) };
    };
    let cause = match hold.ending_cause {
        // Feature level 1 knew no other.
        0 => Some(EndingCause::Operator),
        code => u8::try_from(code).ok().and_then(EndingCause::from_code),
    };
    let cause = cause.ok_or(DecodeError::Field("ending_cause"))?;
    let reclaimer = hold.reclaimer.take().map(|reclaimer| {
        let acquisition = acquisition_from_record(reclaimer.acquisition)?;
        let owner = owner_from_record(reclaimer.owner.unwrap_or_default()).into();
        Ok(Reclaimer { acquisition, owner })
    });
    Ok(Some(EndingMark { cause, reason, reclaimer: reclaimer.transpose()? }))
}

fn delay_to_record(delay: &DelayRow) -> record::DelayRow {
    record::DelayRow {
        token: delay.token.0,
        mode: Some(mode_to_record(delay.mode)),
        delay_ms: delay.delay_ms,
        since_unix_ms: delay.since_unix_ms,
    }
}

fn delay_from_record(delay: record::DelayRow) -> Result<DelayRow, DecodeError> {
    Ok(DelayRow {
        token: Token(delay.token),
        mode: mode_from_record(delay.mode)?,
        delay_ms: delay.delay_ms,
        since_unix_ms: delay.since_unix_ms,
    })
}

fn waiter_to_record(waiter: &WaiterRow) -> record::WaiterRow {
    record::WaiterRow {
        ticket: waiter.ticket,
        acquisition: Some(acquisition_to_record(waiter.acquisition)),
        mode: Some(mode_to_record(waiter.mode)),
        ttl_ms: waiter.ttl_ms,
        wait_ms: codec::wait_to_record(waiter.wait),
        owner: Some(owner_to_record(Owner::clone(&waiter.owner))),
        queued_unix_ms: waiter.queued_unix_ms,
        condition: waiter.condition.as_deref().map(condition_to_record),
        arrival: waiter.arrival,
    }
}

fn waiter_from_record(waiter: record::WaiterRow) -> Result<WaiterRow, DecodeError> {
    Ok(WaiterRow {
        ticket: waiter.ticket,
        acquisition: acquisition_from_record(waiter.acquisition)?,
        mode: mode_from_record(waiter.mode)?,
        ttl_ms: waiter.ttl_ms,
        wait: codec::wait_from_record(waiter.wait_ms),
        owner: owner_from_record(waiter.owner.unwrap_or_default()).into(),
        queued_unix_ms: waiter.queued_unix_ms,
        arrival: waiter.arrival,
        condition: boxed_condition_from_record(waiter.condition)?,
    })
}

fn life_to_record(life: &EndedLife) -> record::EndedLife {
    let mut before = 0;
    let blocks =
        life.blocks.iter().map(|&(block, _)| block - std::mem::replace(&mut before, block));
    record::EndedLife {
        session: bytes::Bytes::copy_from_slice(&life.session.0),
        instance: life.instance.0,
        page: life.page,
        blocks: blocks.collect(),
        bits: life.blocks.iter().map(|&(_, bits)| bits).collect(),
    }
}

fn life_from_record(life: record::EndedLife) -> Result<EndedLife, DecodeError> {
    if life.blocks.len() != life.bits.len() {
        return Err(DecodeError::Field("bits"));
    }
    let mut last = 0_u32;
    let mut blocks = Vec::with_capacity(life.blocks.len());
    for (distance, bits) in life.blocks.into_iter().zip(life.bits) {
        last = last.checked_add(distance).ok_or(DecodeError::Field("blocks"))?;
        blocks.push((last, bits));
    }
    Ok(EndedLife {
        session: session_from_bytes(&life.session)?,
        instance: Instance(life.instance),
        page: life.page,
        blocks,
    })
}

fn finished_to_record(finished: &FinishedRow) -> record::FinishedRow {
    record::FinishedRow {
        acquisition: Some(acquisition_to_record(finished.acquisition)),
        name: finished.name.as_str().to_owned(),
        how: finished.how.code().into(),
        token: finished.token.map_or(0, |token| token.0),
    }
}

fn finished_from_record(finished: record::FinishedRow) -> Result<FinishedRow, DecodeError> {
    let how = u8::try_from(finished.how).ok().and_then(Finished::from_code);
    let how = how.ok_or(DecodeError::Field("how"))?;
    Ok(FinishedRow {
        acquisition: acquisition_from_record(finished.acquisition)?,
        name: finished.name.into(),
        how,
        token: token_from_record(finished.token),
    })
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::{Acquisition, Condition, LeaseRule, Mode, SessionHandle, Wait};

    use super::*;

    fn acquisition(id: u64) -> Acquisition {
        let session = SessionHandle([7; 16]);
        Acquisition { session, instance: Instance(3), id: AcquisitionId(id) }
    }

    fn owner() -> Owner {
        let attributes = vec![("k".into(), "v".into())];
        Owner { id: "o".into(), address: "127.0.0.1:1".into(), attributes }
    }

    fn hold(extras: Extras) -> HoldRow {
        HoldRow {
            token: Token(9),
            session: SessionHandle([7; 16]),
            instance: Instance(3),
            open_ids: OpenIds::new(vec![AcquisitionId(4), AcquisitionId(6)], AcquisitionId(8)),
            mode: Mode::Permits { n: 2, of: 5 },
            ttl_ms: 10_000,
            owner: owner().into(),
            granted_unix_ms: 11,
            arrival: 7,
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
        }
    }

    /// One for each field that is not the default, and one of all.
    fn every_extras() -> Vec<Extras> {
        let condition = Condition {
            lease: LeaseRule::AfterMissed { missed: 5, interval_ms: 2_000 },
            lock_delay_ms: Some(1),
            max_hold_ms: Some(2),
            ask_grace_ms: Some(3),
        };
        let mark = |cause, reclaimer| Some(EndingMark { cause, reason: String::new(), reclaimer });
        let asked = |since_unix_ms, owner_id: Option<&str>| {
            let by = owner_id.map(|owner_id| AskedBy {
                session: SessionHandle([8; 16]),
                owner_id: owner_id.into(),
            });
            Some(Box::new(AskMark { since_unix_ms, by }))
        };
        let reclaimer = Some(Reclaimer { acquisition: acquisition(9), owner: owner().into() });
        let none = Extras::default;
        let causes = [
            EndingCause::Operator,
            EndingCause::MaxHold,
            EndingCause::AskGrace,
            EndingCause::Reclaim,
        ];
        let mut all: Vec<_> =
            causes.map(|cause| Extras { ending: mark(cause, None), ..none() }).into();
        all.extend([
            none(),
            Extras { condition, ..none() },
            Extras { revision: 1, ..none() },
            Extras { claimed: true, ..none() },
            Extras { orphaned: true, ..none() },
            Extras { highest_closed_id: Some(AcquisitionId(0)), ..none() },
            Extras { token_before: Some(Token(1)), ..none() },
            Extras { asked: asked(0, None), ..none() },
            Extras { asked: asked(0, Some("")), ..none() },
            Extras { attributes_seq: 1, ..none() },
            Extras {
                condition,
                revision: 2,
                claimed: true,
                orphaned: true,
                highest_closed_id: Some(AcquisitionId(3)),
                token_before: Some(Token(4)),
                asked: asked(5, Some("o")),
                attributes_seq: 6,
                ending: mark(EndingCause::Reclaim, reclaimer),
            },
        ]);
        all
    }

    #[test]
    fn every_field_of_a_row_survives_the_disk() {
        let row = Row::Lock(LockRow { fence_floor: Token(5) });
        assert_eq!(decode_row(&RowKey::Lock("a".into()), &encode_row(&row)), Ok(row));
        for extras in every_extras() {
            let row = Row::Hold(hold(extras));
            assert_eq!(decode_row(&RowKey::Hold("a".into(), Token(9)), &encode_row(&row)), Ok(row));
        }
        let delay =
            DelayRow { token: Token(2), mode: Mode::Shared, delay_ms: 15_000, since_unix_ms: 12 };
        let row = Row::Delay(delay);
        assert_eq!(decode_row(&RowKey::Delay("a".into(), Token(2)), &encode_row(&row)), Ok(row));
        for condition in
            [None, Some(Box::new(Condition { lock_delay_ms: Some(7), ..Condition::default() }))]
        {
            let (key, acquisition) = (RowKey::Waiter("a".into(), 8), acquisition(2));
            let row = Row::Waiter(WaiterRow {
                ticket: 8,
                acquisition,
                mode: Mode::Exclusive,
                ttl_ms: 1,
                wait: Wait::AtMost(2),
                owner: owner().into(),
                queued_unix_ms: 3,
                arrival: 4,
                condition,
            });
            assert_eq!(decode_row(&key, &encode_row(&row)), Ok(row));
        }
        let life = |session, instance, page, blocks| EndedLife {
            session: SessionHandle([session; 16]),
            instance: Instance(instance),
            page,
            blocks,
        };
        let lives = vec![
            life(1, 2, 0, vec![(0, 2), (1, u32::MAX), (900, 1 << 31), (u32::MAX, 1)]),
            life(1, u64::MAX, (1 << 27) - 1, vec![(7, 1)]),
        ];
        let row = Row::Ended(EndedRow { first_ms: 60_000, last_ms: 64_999, ring_next: 3, lives });
        let key = RowKey::Ended(u64::MAX, 1);
        assert_eq!(decode_key(&encode_key(&key)), Ok(key.clone()));
        assert_eq!(decode_row(&key, &encode_row(&row)), Ok(row));
        for how in (1..=u8::MAX).filter_map(Finished::from_code) {
            let (acquisition, name) = (acquisition(5), Name::from("a"));
            let row = Row::Ring(vec![FinishedRow { acquisition, name, how, token: None }]);
            assert_eq!(decode_row(&RowKey::Ring(0), &encode_row(&row)), Ok(row));
        }
    }

    /// Rows that were written before there were conditions.
    #[test]
    fn an_ending_without_a_cause_is_an_operators() {
        let mut row = hold_to_record(&hold(Extras::default()));
        row.ending_reason = Some("stuck".into());
        let hold = hold_from_record(row).expect("a row of level 1");
        assert_eq!(hold.extras().ending.as_ref().map(|it| it.cause), Some(EndingCause::Operator));
    }

    #[test]
    fn keys_survive_the_disk_and_have_the_order_of_rows() {
        let mut keys = vec![];
        for name in ["a", "a.b", "b"].map(Name::from) {
            keys.push(RowKey::Lock(name.clone()));
            for number in [1, 2, 256] {
                keys.push(RowKey::Hold(name.clone(), Token(number)));
                keys.push(RowKey::Delay(name.clone(), Token(number)));
                keys.push(RowKey::Waiter(name.clone(), number));
            }
        }
        keys.extend([RowKey::Ring(0), RowKey::Ring(256)]);
        keys.sort();
        let encoded: Vec<_> = keys.iter().map(encode_key).collect();
        assert!(encoded.is_sorted(), "{encoded:?}");
        for (key, encoded) in keys.iter().zip(&encoded) {
            assert_eq!(decode_key(encoded).as_ref(), Ok(key));
        }
    }

    #[test]
    fn a_row_under_the_key_of_another_is_refused() {
        let row = encode_row(&Row::Hold(hold(Extras::default())));
        let key = RowKey::Hold("a".into(), Token(8));
        assert_eq!(decode_row(&key, &row), Err(DecodeError::Field("token")));
    }

    #[test]
    fn a_row_that_says_half_of_something_is_refused() {
        let row = || hold_to_record(&hold(Extras::default()));
        let cause = record::HoldRow { ending_cause: 1, ..row() };
        assert_eq!(hold_from_record(cause), Err(DecodeError::Field("ending_reason")));
        let unknown =
            record::HoldRow { ending_reason: Some(String::new()), ending_cause: 5, ..row() };
        assert_eq!(hold_from_record(unknown), Err(DecodeError::Field("ending_cause")));
        let session = bytes::Bytes::copy_from_slice(&[8; 16]);
        let asked = record::HoldRow { asked_by_session: session, ..row() };
        assert_eq!(hold_from_record(asked), Err(DecodeError::Field("asked_unix_ms")));
        let asked =
            record::HoldRow { asked_unix_ms: Some(1), asked_by_owner_id: "o".into(), ..row() };
        assert_eq!(hold_from_record(asked), Err(DecodeError::Field("asked_by_session")));
        let condition = Some(record::ConditionRecord { lease: 4, ..Default::default() });
        let unknown = record::HoldRow { condition, ..row() };
        assert_eq!(hold_from_record(unknown), Err(DecodeError::Field("condition")));
    }
}
