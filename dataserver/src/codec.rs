//! The log's encoding: one entry is one byte of format version, one of the feature level that whoever
//! applies it must know, and one `LogBatch`. The only place
//! where lock commands meet their records.

use prost::Message as _;
use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Cancel, Command, End, EndCause, Ending, Expire,
    ExpireItem, FEATURE_LEVEL, Instance, Mode, Owner, Release, SessionHandle, Token, Wait,
    WaitTimeout,
};
use sharklock_proto::internal::v1 as record;

use crate::agreement;

/// Version of the log entry format. A reader refuses any other.
pub const LOG_FORMAT: u8 = 1;

/// A record that does not mean anything.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Written by another program, mostly by a newer one.
    #[error("it has format {found}, and this program reads {reads}{}", way_out(*found, *reads))]
    Format {
        /// Its format.
        found: u8,
        /// The one of this program.
        reads: u8,
    },
    /// Proposed by a newer program.
    #[error(
        "it needs feature level {0}, and this program knows {FEATURE_LEVEL}: upgrade this server"
    )]
    Level(u8),
    /// Empty where at least the version byte must be.
    #[error("empty record")]
    Empty,
    /// Not the record it should be.
    #[error("malformed record: {0}")]
    Malformed(String),
    /// A field has a value that no writer of this version writes.
    #[error("field {0} is missing or out of range")]
    Field(&'static str),
}

impl DecodeError {
    /// Whether a newer program wrote it, so that nothing is wrong with it.
    pub fn is_newer(&self) -> bool {
        match self {
            Self::Format { found, reads } => found > reads,
            Self::Level(_) => true,
            Self::Empty | Self::Malformed(_) | Self::Field(_) => false,
        }
    }
}

fn way_out(found: u8, reads: u8) -> &'static str {
    if found > reads { ": upgrade this server" } else { "" }
}

/// Upper bound of the encoded length of a command, cheap to compute: what an entry is filled by.
pub fn weight(command: &Command) -> usize {
    /// Ids, tokens, terms, a condition and the framing of one command or item.
    const FIXED: usize = 240;
    let own = match command {
        Command::Acquire(acquire) => acquire.name.as_str().len() + owner_weight(&acquire.owner),
        Command::Reclaim(reclaim) => reclaim.name.as_str().len() + owner_weight(&reclaim.owner),
        Command::Release(release) => release.name.as_str().len(),
        Command::Cancel(cancel) => cancel.name.as_str().len(),
        Command::Expire(expire) => expire
            .items
            .iter()
            .map(|item| match item {
                ExpireItem::Hold { name, .. } | ExpireItem::Waiter { name, .. } => {
                    name.as_str().len() + FIXED
                }
            })
            .sum(),
        Command::WaitTimeout(timeout) => timeout.name.as_str().len(),
        Command::Ending(ending) => {
            ending.name.as_str().len() + ending.reason.len() + ending.operator.len()
        }
        Command::End(end) => {
            let words = match &end.cause {
                EndCause::WaitedOut { .. } => 0,
                EndCause::Operator { reason, operator } => reason.len() + operator.len(),
            };
            end.name.as_str().len() + words
        }
        Command::SetCondition(set) => set.name.as_str().len(),
        Command::Claim(claim) => claim.name.as_str().len(),
        Command::Ask(ask) => ask.name.as_str().len(),
        Command::Downgrade(downgrade) => downgrade.name.as_str().len(),
        Command::SetAttributes(set) => set.name.as_str().len() + attributes_weight(&set.attributes),
        Command::TimeUp(time_up) => time_up.name.as_str().len(),
        Command::Revoke(revoke) => revoke.reason.len() + revoke.operator.len(),
        Command::RaiseFeatureLevel(_) | Command::Recover(_) | Command::EndQuarantine(_) => 0,
    };
    FIXED + own
}

fn owner_weight(owner: &Owner) -> usize {
    owner.id.len() + owner.address.len() + attributes_weight(&owner.attributes)
}

fn attributes_weight(attributes: &[(String, String)]) -> usize {
    attributes.iter().map(|(key, value)| key.len() + value.len() + 16).sum()
}

/// The content of one Raft entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBatch {
    /// Beside the commands.
    pub head: BatchHead,
    /// The commands of one turn.
    pub commands: Vec<Command>,
}

/// The rest of an entry, beside its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHead {
    /// The version of the range's descriptor under which the commands were admitted, from 1 on. A
    /// range that has another when the entry is applied applies none of them.
    pub version: u64,
    /// The leader's wall clock, for people.
    pub stamped_unix_ms: u64,
    /// The time that the leader has counted since its entry before, for
    /// [`sharklock_locktable::LockTable::pass`].
    pub passed_ms: u64,
}

/// Encodes the commands of one turn as the data of one Raft entry. See [`LogBatch`].
pub fn encode_batch(head: BatchHead, commands: &[Command]) -> Vec<u8> {
    let level = commands.iter().map(Command::known_from).max().unwrap_or(1);
    let level = u8::try_from(level).expect("there are few feature levels");
    let commands = commands.iter().map(command_to_record).collect();
    let BatchHead { version, stamped_unix_ms, passed_ms } = head;
    let batch = record::LogBatch { stamped_unix_ms, commands, passed_ms, version };
    let mut data = Vec::with_capacity(2 + batch.encoded_len());
    data.extend([LOG_FORMAT, level]);
    batch.encode(&mut data).expect("a Vec grows as needed");
    data
}

/// Whether this program can apply an entry, so far as its first bytes say.
pub fn knows(data: &[u8]) -> Result<(), DecodeError> {
    match *data {
        [] => Err(DecodeError::Empty),
        [found, ..] if found != LOG_FORMAT => Err(DecodeError::Format { found, reads: LOG_FORMAT }),
        [_] => Err(DecodeError::Field("level")),
        [_, level, ..] if u64::from(level) > FEATURE_LEVEL => Err(DecodeError::Level(level)),
        [_, _, ..] => Ok(()),
    }
}

/// The inverse of [`encode_batch`].
pub fn decode_batch(data: &[u8]) -> Result<LogBatch, DecodeError> {
    knows(data)?;
    let batch = record::LogBatch::decode(&data[2..])
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let record::LogBatch { stamped_unix_ms, passed_ms, commands, version } = batch;
    if version == 0 {
        return Err(DecodeError::Field("version"));
    }
    let head = BatchHead { version, stamped_unix_ms, passed_ms };
    let commands = commands.into_iter().map(command_from_record).collect::<Result<_, _>>()?;
    Ok(LogBatch { head, commands })
}

fn command_to_record(command: &Command) -> record::LogCommand {
    use record::log_command::Body;
    let body = match command {
        Command::Acquire(acquire) => Body::Acquire(acquire_to_record(acquire)),
        Command::Release(release) => Body::Release(record::LogRelease {
            acquisition: Some(acquisition_to_record(release.acquisition)),
            name: release.name.as_str().to_owned(),
            token: release.token.0,
            all: release.all,
        }),
        Command::Cancel(cancel) => Body::Cancel(record::LogCancel {
            acquisition: Some(acquisition_to_record(cancel.acquisition)),
            name: cancel.name.as_str().to_owned(),
        }),
        Command::Expire(expire) => Body::Expire(record::LogExpire {
            items: expire.items.iter().map(expire_item_to_record).collect(),
            proposer_term: expire.proposer_term,
        }),
        Command::WaitTimeout(timeout) => Body::WaitTimeout(record::LogWaitTimeout {
            acquisition: Some(acquisition_to_record(timeout.acquisition)),
            name: timeout.name.as_str().to_owned(),
            proposer_term: timeout.proposer_term,
        }),
        Command::Ending(ending) => Body::Ending(record::LogEnding {
            name: ending.name.as_str().to_owned(),
            token: ending.token.map(|token| token.0),
            reason: ending.reason.clone(),
            operator: ending.operator.clone(),
        }),
        Command::End(end) => Body::End(end_to_record(end)),
        Command::SetCondition(set) => agreement::set_condition_to_record(set),
        Command::Claim(claim) => agreement::claim_to_record(claim),
        Command::Reclaim(reclaim) => agreement::reclaim_to_record(reclaim),
        Command::Ask(ask) => agreement::ask_to_record(ask),
        Command::Downgrade(downgrade) => agreement::downgrade_to_record(downgrade),
        Command::SetAttributes(set) => agreement::set_attributes_to_record(set),
        Command::TimeUp(time_up) => agreement::time_up_to_record(time_up),
        Command::Revoke(revoke) => agreement::revoke_to_record(revoke),
        Command::RaiseFeatureLevel(raise) => agreement::raise_to_record(*raise),
        Command::Recover(recover) => agreement::recover_to_record(*recover),
        Command::EndQuarantine(end) => agreement::end_quarantine_to_record(*end),
    };
    record::LogCommand { body: Some(body) }
}

fn command_from_record(command: record::LogCommand) -> Result<Command, DecodeError> {
    use record::log_command::Body;
    Ok(match command.body.ok_or(DecodeError::Field("command"))? {
        Body::Acquire(acquire) => Command::Acquire(Box::new(acquire_from_record(acquire)?)),
        Body::Release(release) => Command::Release(Release {
            acquisition: acquisition_from_record(release.acquisition)?,
            name: release.name.into(),
            token: Token(release.token),
            all: release.all,
        }),
        Body::Cancel(cancel) => Command::Cancel(Cancel {
            acquisition: acquisition_from_record(cancel.acquisition)?,
            name: cancel.name.into(),
        }),
        Body::Expire(expire) => Command::Expire(Expire {
            items: expire
                .items
                .into_iter()
                .map(expire_item_from_record)
                .collect::<Result<_, _>>()?,
            proposer_term: expire.proposer_term,
        }),
        Body::WaitTimeout(timeout) => Command::WaitTimeout(WaitTimeout {
            acquisition: acquisition_from_record(timeout.acquisition)?,
            name: timeout.name.into(),
            proposer_term: timeout.proposer_term,
        }),
        Body::Ending(ending) => Command::Ending(Ending {
            name: ending.name.into(),
            token: ending.token.map(Token),
            reason: ending.reason,
            operator: ending.operator,
        }),
        Body::End(end) => Command::End(end_from_record(end)),
        Body::SetCondition(set) => agreement::set_condition_from_record(set)?,
        Body::Claim(claim) => agreement::claim_from_record(claim)?,
        Body::Reclaim(reclaim) => agreement::reclaim_from_record(reclaim)?,
        Body::Ask(ask) => agreement::ask_from_record(ask)?,
        Body::Downgrade(downgrade) => agreement::downgrade_from_record(downgrade)?,
        Body::SetAttributes(set) => agreement::set_attributes_from_record(set)?,
        Body::TimeUp(time_up) => agreement::time_up_from_record(time_up)?,
        Body::Revoke(revoke) => agreement::revoke_from_record(revoke)?,
        Body::RaiseFeatureLevel(raise) => agreement::raise_from_record(raise),
        Body::Recover(recover) => agreement::recover_from_record(recover)?,
        Body::EndQuarantine(end) => agreement::end_quarantine_from_record(end),
    })
}

fn acquire_to_record(acquire: &Acquire) -> record::LogAcquire {
    record::LogAcquire {
        acquisition: Some(acquisition_to_record(acquire.acquisition)),
        name: acquire.name.as_str().to_owned(),
        mode: Some(mode_to_record(acquire.mode)),
        ttl_ms: acquire.ttl_ms,
        wait_ms: wait_to_record(acquire.wait),
        reenter: acquire.reenter.map(|token| token.0),
        owner: Some(owner_to_record(acquire.owner.clone())),
        condition: acquire.condition.as_deref().map(agreement::condition_to_record),
        asked_ms: acquire.asked_ms,
    }
}

fn acquire_from_record(acquire: record::LogAcquire) -> Result<Acquire, DecodeError> {
    Ok(Acquire {
        acquisition: acquisition_from_record(acquire.acquisition)?,
        name: acquire.name.into(),
        mode: mode_from_record(acquire.mode)?,
        ttl_ms: acquire.ttl_ms,
        wait: wait_from_record(acquire.wait_ms),
        reenter: acquire.reenter.map(Token),
        owner: owner_from_record(acquire.owner.unwrap_or_default()),
        condition: agreement::boxed_condition_from_record(acquire.condition)?,
        asked_ms: acquire.asked_ms,
    })
}

fn end_to_record(end: &End) -> record::LogEnd {
    let name = end.name.as_str().to_owned();
    let token = end.token.map(|token| token.0);
    match &end.cause {
        &EndCause::WaitedOut { proposer_term, told } => {
            record::LogEnd { name, token, proposer_term, told, ..Default::default() }
        }
        EndCause::Operator { reason, operator } => {
            let (reason, operator) = (reason.clone(), operator.clone());
            record::LogEnd { name, token, now: true, reason, operator, ..Default::default() }
        }
    }
}

fn end_from_record(end: record::LogEnd) -> End {
    let cause = if end.now {
        EndCause::Operator { reason: end.reason, operator: end.operator }
    } else {
        EndCause::WaitedOut { proposer_term: end.proposer_term, told: end.told }
    };
    End { name: end.name.into(), token: end.token.map(Token), cause }
}

fn expire_item_to_record(item: &ExpireItem) -> record::ExpireItem {
    match item {
        ExpireItem::Hold { name, token, newest, told } => record::ExpireItem {
            name: name.as_str().to_owned(),
            token: token.0,
            newest_id: newest.0,
            waiter: None,
            told: *told,
        },
        ExpireItem::Waiter { name, acquisition } => record::ExpireItem {
            name: name.as_str().to_owned(),
            token: 0,
            newest_id: 0,
            waiter: Some(acquisition_to_record(*acquisition)),
            told: false,
        },
    }
}

fn expire_item_from_record(item: record::ExpireItem) -> Result<ExpireItem, DecodeError> {
    let name = item.name.into();
    Ok(match item.waiter {
        Some(waiter) => {
            ExpireItem::Waiter { name, acquisition: acquisition_from_record(Some(waiter))? }
        }
        None => ExpireItem::Hold {
            name,
            token: Token(item.token),
            newest: AcquisitionId(item.newest_id),
            told: item.told,
        },
    })
}

/// An acquisition as a record.
pub fn acquisition_to_record(acquisition: Acquisition) -> record::AcquisitionRecord {
    record::AcquisitionRecord {
        session: bytes::Bytes::copy_from_slice(&acquisition.session.0),
        instance: acquisition.instance.0,
        id: acquisition.id.0,
    }
}

/// The inverse of [`acquisition_to_record`].
pub fn acquisition_from_record(
    acquisition: Option<record::AcquisitionRecord>,
) -> Result<Acquisition, DecodeError> {
    let acquisition = acquisition.ok_or(DecodeError::Field("acquisition"))?;
    Ok(Acquisition {
        session: session_from_bytes(&acquisition.session)?,
        instance: Instance(acquisition.instance),
        id: AcquisitionId(acquisition.id),
    })
}

/// A session handle from its 16 bytes.
pub fn session_from_bytes(session: &[u8]) -> Result<SessionHandle, DecodeError> {
    let handle = session.try_into().map_err(|_| DecodeError::Field("session"))?;
    Ok(SessionHandle(handle))
}

/// A mode as a record.
pub fn mode_to_record(mode: Mode) -> record::ModeRecord {
    let (kind, permits, permits_max) = match mode {
        Mode::Exclusive => (1, 0, 0),
        Mode::Shared => (2, 0, 0),
        Mode::Permits { n, of } => (3, n, of),
    };
    record::ModeRecord { kind, permits, permits_max }
}

/// The inverse of [`mode_to_record`].
pub fn mode_from_record(mode: Option<record::ModeRecord>) -> Result<Mode, DecodeError> {
    let mode = mode.ok_or(DecodeError::Field("mode"))?;
    Ok(match (mode.kind, mode.permits, mode.permits_max) {
        (1, 0, 0) => Mode::Exclusive,
        (2, 0, 0) => Mode::Shared,
        (3, n, of) if (1..=of).contains(&n) => Mode::Permits { n, of },
        _ => return Err(DecodeError::Field("mode")),
    })
}

/// A wait as a record's optional milliseconds.
pub fn wait_to_record(wait: Wait) -> Option<u64> {
    match wait {
        Wait::Try => Some(0),
        Wait::AtMost(wait_ms) => Some(wait_ms),
        Wait::Unbounded => None,
    }
}

/// The inverse of [`wait_to_record`].
pub fn wait_from_record(wait_ms: Option<u64>) -> Wait {
    match wait_ms {
        Some(0) => Wait::Try,
        Some(wait_ms) => Wait::AtMost(wait_ms),
        None => Wait::Unbounded,
    }
}

/// An owner as a record.
pub fn owner_to_record(owner: Owner) -> record::OwnerRecord {
    record::OwnerRecord {
        owner_id: owner.id,
        client_address: owner.address,
        attributes: owner.attributes.into_iter().collect(),
    }
}

/// The inverse of [`owner_to_record`].
pub fn owner_from_record(owner: record::OwnerRecord) -> Owner {
    Owner {
        id: owner.owner_id,
        address: owner.client_address,
        attributes: owner.attributes.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use sharklock_locktable::{
        Ask, Claim, Condition, Downgrade, EndQuarantine, LeaseRule, Name, RaiseFeatureLevel,
        Reclaim, Recover, Revoke, SetAttributes, SetCondition, TimeUp, Timed,
    };

    use super::*;

    const HEAD: BatchHead =
        BatchHead { version: u64::MAX, stamped_unix_ms: u64::MAX, passed_ms: u64::MAX };

    fn acquisition(id: u64) -> Acquisition {
        Acquisition {
            session: SessionHandle([7; 16]),
            instance: Instance(3),
            id: AcquisitionId(id),
        }
    }

    fn every_command() -> Vec<Command> {
        let owner = Owner {
            id: "billing@host-3".into(),
            address: "127.0.0.1:4711".into(),
            attributes: vec![("job".into(), "42".into()), ("why".into(), "close".into())],
        };
        let acquire = |mode, wait, reenter| {
            Command::Acquire(Box::new(Acquire {
                acquisition: acquisition(1),
                name: "invoices/42".into(),
                mode,
                ttl_ms: 10_000,
                wait,
                reenter,
                owner: owner.clone(),
                condition: None,
                asked_ms: u64::MAX,
            }))
        };
        let conditions = every_condition();
        let under = |condition: &Condition| match acquire(Mode::Shared, Wait::Try, None) {
            Command::Acquire(mut acquire) => {
                acquire.condition = Some(Box::new(*condition));
                Command::Acquire(acquire)
            }
            other => other,
        };
        let mut commands: Vec<_> = conditions.iter().map(under).collect();
        commands.extend(conditions.iter().map(set_condition));
        commands.extend(new_commands(&owner));
        commands.extend([
            acquire(Mode::Exclusive, Wait::Try, None),
            acquire(Mode::Shared, Wait::Unbounded, Some(Token(9))),
            acquire(Mode::Permits { n: 2, of: 5 }, Wait::AtMost(1), None),
            Command::Release(Release {
                acquisition: acquisition(2),
                name: "a".into(),
                token: Token(5),
                all: true,
            }),
            Command::Cancel(Cancel { acquisition: acquisition(3), name: "b".into() }),
            Command::Expire(Expire {
                items: vec![
                    ExpireItem::Hold {
                        name: "c".into(),
                        token: Token(6),
                        newest: AcquisitionId(8),
                        told: true,
                    },
                    ExpireItem::Waiter { name: "d".into(), acquisition: acquisition(4) },
                ],
                proposer_term: 12,
            }),
            Command::WaitTimeout(WaitTimeout {
                acquisition: acquisition(5),
                name: "e".into(),
                proposer_term: 13,
            }),
            Command::Ending(Ending {
                name: "f".into(),
                token: None,
                reason: "stuck".into(),
                operator: "ops".into(),
            }),
            Command::End(End {
                name: "g".into(),
                token: Some(Token(7)),
                cause: EndCause::WaitedOut { proposer_term: 14, told: true },
            }),
            Command::End(End {
                name: "h".into(),
                token: None,
                cause: EndCause::Operator { reason: "now".into(), operator: "ops".into() },
            }),
        ]);
        commands
    }

    /// Every rule about the lease with every choice of clauses.
    fn every_condition() -> Vec<Condition> {
        let missed = LeaseRule::AfterMissed { missed: u32::MAX, interval_ms: u64::MAX };
        let mut conditions = vec![];
        for lease in [LeaseRule::OnExpiry, missed, LeaseRule::Hold] {
            for clauses in 0..8_u32 {
                let clause = |bit: u32| (clauses & bit != 0).then_some(u64::MAX - u64::from(bit));
                conditions.push(Condition {
                    lease,
                    lock_delay_ms: clause(1),
                    max_hold_ms: clause(2),
                    ask_grace_ms: clause(4),
                });
            }
        }
        conditions
    }

    fn set_condition(condition: &Condition) -> Command {
        Command::SetCondition(SetCondition {
            acquisition: acquisition(6),
            name: "i".into(),
            token: Token(u64::MAX),
            revision: u64::MAX - 1,
            ttl_ms: u64::MAX - 2,
            condition: *condition,
        })
    }

    fn new_commands(owner: &Owner) -> Vec<Command> {
        let name = Name::from("j");
        let revision = u64::MAX - 3;
        let time_up = |what| {
            let (name, token) = (name.clone(), Token(10));
            Command::TimeUp(TimeUp { name, token, what, proposer_term: 15 })
        };
        vec![
            Command::Claim(Claim {
                acquisition: acquisition(7),
                name: name.clone(),
                token: Token(8),
                revision,
            }),
            Command::Reclaim(Box::new(Reclaim {
                acquisition: acquisition(8),
                name: name.clone(),
                token: Token(9),
                owner: owner.clone(),
                asked_ms: u64::MAX,
            })),
            Command::Ask(Ask { acquisition: acquisition(9), name: name.clone() }),
            Command::Downgrade(Downgrade {
                acquisition: acquisition(10),
                name: name.clone(),
                token: Token(11),
            }),
            Command::SetAttributes(SetAttributes {
                acquisition: acquisition(11),
                name: name.clone(),
                token: Token(12),
                seq: u64::MAX,
                attributes: owner.attributes.clone(),
            }),
            time_up(Timed::LockDelay),
            time_up(Timed::MaxHold { revision }),
            time_up(Timed::AskGrace { revision }),
            Command::Revoke(Revoke {
                session: SessionHandle([9; 16]),
                reason: "left".into(),
                operator: "ops".into(),
            }),
            Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 }),
            Command::Recover(Recover { generation: 3, waits: true }),
            Command::EndQuarantine(EndQuarantine { proposer_term: 8 }),
        ]
    }

    #[test]
    fn every_command_survives_the_log() {
        let head = BatchHead { version: 3, stamped_unix_ms: 1_700_000_000_000, passed_ms: 7 };
        let commands = every_command();
        let data = encode_batch(head, &commands);
        assert_eq!(decode_batch(&data), Ok(LogBatch { head, commands }));
    }

    #[test]
    fn no_command_is_longer_than_its_weight() {
        let empty = encode_batch(HEAD, &[]).len();
        for command in every_command() {
            let weight = weight(&command);
            let commands = std::slice::from_ref(&command);
            let encoded = encode_batch(HEAD, commands).len() - empty;
            assert!(encoded <= weight, "{encoded} > {weight}: {command:?}");
        }
    }

    #[test]
    fn another_format_is_refused() {
        let mut data = encode_batch(HEAD, &every_command());
        data[0] = LOG_FORMAT + 1;
        let (found, reads) = (LOG_FORMAT + 1, LOG_FORMAT);
        assert_eq!(decode_batch(&data), Err(DecodeError::Format { found, reads }));
        assert_eq!(decode_batch(&[]), Err(DecodeError::Empty));
    }

    /// Also one that says so itself: it raises its range beyond this program.
    #[test]
    fn an_entry_of_newer_rules_is_refused_by_its_first_bytes() {
        let raise = |level| [Command::RaiseFeatureLevel(RaiseFeatureLevel { level })];
        let known = encode_batch(HEAD, &raise(FEATURE_LEVEL));
        assert_eq!(knows(&known), Ok(()));
        let newer = encode_batch(HEAD, &raise(FEATURE_LEVEL + 1));
        let level = u8::try_from(FEATURE_LEVEL + 1).expect("small");
        assert_eq!(knows(&newer), Err(DecodeError::Level(level)));
        assert!(DecodeError::Level(level).to_string().contains("upgrade this server"));
        assert_eq!(knows(&newer[..1]), Err(DecodeError::Field("level")));
    }

    /// Without one nothing says whether the range still has the names.
    #[test]
    fn an_entry_without_a_version_is_refused() {
        let data = encode_batch(BatchHead { version: 0, ..HEAD }, &every_command());
        assert_eq!(decode_batch(&data), Err(DecodeError::Field("version")));
    }

    /// A command of a later version has a field that this one does not know.
    #[test]
    fn an_unknown_command_is_an_error_and_is_not_skipped() {
        let mut batch = record::LogBatch { version: 1, ..record::LogBatch::default() };
        batch.commands.push(record::LogCommand { body: None });
        let mut data = vec![LOG_FORMAT, 1];
        batch.encode(&mut data).expect("a Vec grows as needed");
        assert_eq!(decode_batch(&data), Err(DecodeError::Field("command")));
    }

    #[test]
    fn damaged_bytes_are_errors_and_never_panics() {
        let data = encode_batch(HEAD, &every_command());
        for position in 1..data.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut damaged = data.clone();
                damaged[position] ^= flip;
                let _either = decode_batch(&damaged);
                let _either = decode_batch(&damaged[..position]);
            }
        }
    }
}
