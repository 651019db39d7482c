//! The image of [`ClusterState`]: its rows, its header, and back.

use prost::Message;
use sharklock_multiraft::{BadImage, StateMachine as _};
use sharklock_proto::{
    Identity, Life, Start,
    internal::v1::{
        MasterHeader, MasterRow, OperatorRow, RangeDescriptor, ScheduleChoice, StoreRow,
    },
    v1::StoreLabel,
};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};
use twox_hash::XxHash3_64;

use crate::{
    schedule::Choices,
    state::{
        ClusterState, MemberRecord, Members, Operator, RecoveryRecord, StoreRecord, duty_from_wire,
        duty_to_wire,
    },
};

/// Format of rows and header.
const FORMAT: u8 = 1;

/// The subject of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Store(StoreId),
    Range(RangeId),
    Operator(u64),
    Member(StoreId),
    Recovery(u64),
}

impl Key {
    pub fn encode(self) -> Vec<u8> {
        let (kind, id) = match self {
            Self::Store(store) => (b's', store.0),
            Self::Range(range) => (b'r', range.0),
            Self::Operator(id) => (b'o', id),
            Self::Member(id) => (b'm', id.0),
            Self::Recovery(id) => (b'c', id),
        };
        [&[kind][..], &id.to_be_bytes()].concat()
    }

    fn decode(key: &[u8]) -> Option<Self> {
        let (kind, id) = key.split_first()?;
        let id = u64::from_be_bytes(id.try_into().ok()?);
        match kind {
            b's' => Some(Self::Store(StoreId(id))),
            b'r' => Some(Self::Range(RangeId(id))),
            b'o' => Some(Self::Operator(id)),
            b'm' => Some(Self::Member(StoreId(id))),
            b'c' => Some(Self::Recovery(id)),
            _ => None,
        }
    }
}

/// The row as it is now; None: there is none.
pub fn row(state: &ClusterState, key: Key) -> Option<Vec<u8>> {
    match key {
        Key::Store(id) => {
            let store = state.stores.get(&id)?;
            Some(versioned(&StoreRow {
                store_id: id.0,
                ident: store.ident.to_wire(),
                address: store.address.clone(),
                version: store.version.clone(),
                feature_level: store.feature_level,
                start: store.start.number,
                life: store.start.life.to_wire(),
                labels: labels_to_wire(&store.labels),
                duty: duty_to_wire(store.duty).into(),
                node: store.node.clone(),
            }))
        }
        Key::Range(range) => Some(range_row(state.ranges.range(range)?)),
        Key::Operator(id) => Some(operator_row(state.operators.get(id)?)),
        Key::Member(id) => Some(member_row(id, state.members.get(id)?)),
        Key::Recovery(id) => Some(recovery_row(state.recoveries.get(id)?)),
    }
}

/// As they stand in the log and in rows.
pub fn labels_to_wire(labels: &[(String, String)]) -> Vec<StoreLabel> {
    let label =
        |(key, value): &(String, String)| StoreLabel { key: key.clone(), value: value.clone() };
    labels.iter().map(label).collect()
}

/// As they stand in the log and in the header.
pub fn choices_to_wire(choices: &Choices) -> Vec<ScheduleChoice> {
    let choice = |(key, value): (&String, &u64)| ScheduleChoice { key: key.clone(), value: *value };
    choices.iter().map(choice).collect()
}

/// The row of a range that is described so.
pub fn range_row(descriptor: &Descriptor) -> Vec<u8> {
    versioned(&RangeDescriptor::from(descriptor))
}

/// The row of an operator that is so.
pub fn operator_row(operator: &Operator) -> Vec<u8> {
    versioned(&operator.to_row())
}

/// The row of a master that is known so.
pub fn member_row(id: StoreId, record: &MemberRecord) -> Vec<u8> {
    versioned(&record.to_row(id))
}

/// The row of a recovery that is so.
pub fn recovery_row(record: &RecoveryRecord) -> Vec<u8> {
    versioned(&record.to_row())
}

pub fn header(state: &ClusterState) -> Vec<u8> {
    versioned(&MasterHeader {
        next_store_id: state.next_store_id,
        next_id: state.next_id,
        first_range_lives: state.first_range_lives,
        first_range_level: state.first_range_level,
        is_paused: state.paused_by.is_some(),
        paused_by: state.paused_by.clone().unwrap_or_default(),
        choices: choices_to_wire(&state.choices),
        next_member_id: state.members.next_id(),
    })
}

pub fn restore(header: &[u8], rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<ClusterState, BadImage> {
    let header: MasterHeader = read(header)?;
    let mut state = ClusterState::empty();
    state.next_store_id = header.next_store_id;
    state.next_id = header.next_id;
    state.first_range_lives = header.first_range_lives;
    state.first_range_level = header.first_range_level;
    state.paused_by = header.is_paused.then_some(header.paused_by);
    state.choices = header.choices.into_iter().map(|it| (it.key, it.value)).collect();
    state.members = Members::restore(header.next_member_id);
    for (key, row) in rows {
        let corrupt = |why: String| BadImage::Corrupt(format!("row {key:02x?}: {why}"));
        match Key::decode(&key) {
            Some(Key::Store(id)) => {
                let store: StoreRow = read(&row)?;
                if store.store_id != id.0 || id.0 >= state.next_store_id {
                    return Err(corrupt(format!("store {} cannot stand here", store.store_id)));
                }
                state.stores.insert(id, store_record(store).map_err(corrupt)?);
            }
            Some(Key::Range(range)) => {
                let record: RangeDescriptor = read(&row)?;
                let descriptor =
                    Descriptor::try_from(&record).map_err(|why| corrupt(why.to_string()))?;
                if descriptor.range != range {
                    return Err(corrupt(format!("range {} cannot stand here", descriptor.range)));
                }
                state.ranges.insert(descriptor).map_err(|why| corrupt(why.to_string()))?;
            }
            Some(Key::Operator(id)) => {
                let row: OperatorRow = read(&row)?;
                if row.operator_id != id || id >= state.next_id {
                    return Err(corrupt(format!("operator {} cannot stand here", row.operator_id)));
                }
                let operator = Operator::from_row(row).map_err(corrupt)?;
                state.operators.insert(operator).map_err(corrupt)?;
            }
            Some(Key::Member(id)) => {
                let row: MasterRow = read(&row)?;
                if row.member_id != id.0 {
                    return Err(corrupt(format!("master {} cannot stand here", row.member_id)));
                }
                state.members.insert_row(row).map_err(corrupt)?;
            }
            Some(Key::Recovery(id)) => {
                let record = RecoveryRecord::from_row(read(&row)?).map_err(corrupt)?;
                if record.id != id || record.as_peer.0 >= state.next_id {
                    return Err(corrupt(format!("recovery {} cannot stand here", record.id)));
                }
                state.recoveries.insert(record).map_err(corrupt)?;
            }
            None => return Err(corrupt("an unknown key".to_owned())),
        }
    }
    state.rows_hash = rows_hash(&state);
    Ok(state)
}

fn store_record(row: StoreRow) -> Result<StoreRecord, String> {
    let duty = duty_from_wire(row.duty());
    let StoreRow { ident, address, version, feature_level, start, life, labels, node, .. } = row;
    let labels = labels.into_iter().map(|it| (it.key, it.value)).collect();
    let ident = Identity::from_wire(&ident).map_err(|why| format!("ident: {why}"))?;
    let life = Life::from_wire(&life).map_err(|why| format!("life: {why}"))?;
    let start = Start { number: start, life };
    Ok(StoreRecord { ident, address, version, feature_level, start, labels, node, duty })
}

/// The sum of the hashes of all rows as they are now.
pub fn rows_hash(state: &ClusterState) -> u64 {
    state.rows().map(|(key, row)| hash(key, &row)).fold(0, u64::wrapping_add)
}

pub fn hash(key: Key, row: &[u8]) -> u64 {
    hash_at(&key.encode(), row)
}

pub fn header_hash(header: &[u8]) -> u64 {
    hash_at(b"", header)
}

fn hash_at(key: &[u8], row: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(key), row)
}

fn versioned(record: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + record.encoded_len());
    bytes.push(FORMAT);
    record.encode_raw(&mut bytes);
    bytes
}

fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, BadImage> {
    match bytes.split_first() {
        Some((&FORMAT, record)) => M::decode(record)
            .map_err(|why| BadImage::Corrupt(format!("a record is damaged: {why}"))),
        Some((&format, _)) if format > FORMAT => Err(BadImage::Newer(format!(
            "it has format {format}, and this program reads {FORMAT}: upgrade this server"
        ))),
        Some((format, _)) => Err(BadImage::Corrupt(format!("a record has format {format}"))),
        None => Err(BadImage::Corrupt("a record is empty".to_owned())),
    }
}
