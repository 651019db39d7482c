//! The state that the masters replicate.
//!
//! It changes by commands of the log only, and reads no clock. Which stores live and who leads is
//! not here: that changes by the second, and each leading master learns it anew.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use sharklock_multiraft::{BadImage, DirtyRow, EntryAt, StateMachine};
use sharklock_proto::{
    Identity, Life, Start,
    internal::v1::{
        AllocateIdsCommand, BeginOperatorCommand, EndOperatorCommand, MasterBatch, MasterCommand,
        PauseScheduleCommand, RangeDescriptor, RecoverRangeCommand, RegisterStoreCommand,
        SetScheduleCommand, SetStoreDutyCommand, master_command::Body as Command,
    },
    v1::{OperatorState, StoreDuty},
};
use sharklock_rangemap::{Descriptor, PeerId, RangeId, RangeMap, StoreId};

use crate::{
    schedule::{Choices, Duty},
    state_rows::{self, Key},
};
pub use members::{Leaving, Member, MemberRecord, Members};
pub use operators::{Operator, Operators, goal_from_wire, goal_to_wire};
pub use recoveries::{Recoveries, RecoveryRecord};

mod members;
mod operators;
mod recoveries;

/// Format of log entries.
const FORMAT: u8 = 1;
/// Ids for ranges and replicas begin here: below are those of the first range, which needs no
/// allocation.
pub const FIRST_ID: u64 = 1_000;
/// Ids given at a time.
pub const IDS_MAX: u32 = 1_000;

/// A data server's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRecord {
    /// Random identity of its data directory.
    pub ident: Identity,
    /// The address at which it answers.
    pub address: String,
    /// Of its program, when it registered last.
    pub version: String,
    /// The newest rules of lock ranges that this program knows.
    pub feature_level: u64,
    /// Where it is, from the widest to the narrowest.
    pub labels: Vec<(String, String)>,
    /// What people call its process.
    pub node: String,
    /// What operators have said of it.
    pub duty: Duty,
    /// The process that speaks for it, for as long as no later one registers. Whether it lives is not
    /// said here.
    pub start: Start,
}

/// See the module.
///
/// Invariants:
/// - no two stores have one ident; their ids are below `next_store_id`;
/// - the number of a store's start never falls, and only one process ever has it;
/// - ids only grow: what was given once is never given again;
/// - `ranges` never overlap ([`RangeMap`]);
/// - `rows_hash` is the wrapping sum of the hashes of all rows: each change takes out what the row
///   was and adds what it is, so it costs the same however many rows there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterState {
    pub(crate) stores: BTreeMap<StoreId, StoreRecord>,
    pub(crate) ranges: RangeMap,
    pub(crate) operators: Operators,
    pub(crate) members: Members,
    pub(crate) recoveries: Recoveries,
    pub(crate) next_store_id: u64,
    pub(crate) next_id: u64,
    /// A leader of the first range has reported.
    pub(crate) first_range_lives: bool,
    pub(crate) rows_hash: u64,
    /// The rules that the first range begins with.
    pub(crate) first_range_level: u64,
    /// Somebody has said that nothing is to be planned.
    pub(crate) paused_by: Option<String>,
    /// The settings of the schedule that somebody has changed.
    pub(crate) choices: Choices,
    dirty: BTreeSet<Key>,
}

/// As it stands in the log and in rows.
pub fn duty_from_wire(duty: StoreDuty) -> Duty {
    match duty {
        StoreDuty::Unspecified => Duty::Serves,
        StoreDuty::Draining => Duty::Drains,
        StoreDuty::Gone => Duty::Gone,
    }
}

/// The other way.
pub fn duty_to_wire(duty: Duty) -> StoreDuty {
    match duty {
        Duty::Serves => StoreDuty::Unspecified,
        Duty::Drains => StoreDuty::Draining,
        Duty::Gone => StoreDuty::Gone,
    }
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The store has this id.
    Store(StoreId),
    /// This store has had a later start, or another process with this one: nothing has changed.
    Outdated(StoreId),
    /// The first of the ids.
    Ids(u64),
    /// This operator has begun, or ended.
    Operator(u64),
    /// This one runs for the range already: nothing has changed.
    Running(u64),
    /// The master has this id.
    Member(StoreId),
    /// This recovery has begun.
    Recovery(u64),
    /// The range is another than when something was decided about it, or goes on already: nothing has
    /// changed.
    Overtaken,
    /// Nobody waits for more.
    Done,
}

/// The entry with these commands.
pub fn encode_batch(commands: Vec<Command>) -> Vec<u8> {
    let commands = commands.into_iter().map(|body| MasterCommand { body: Some(body) });
    let batch = MasterBatch { commands: commands.collect() };
    let mut data = Vec::with_capacity(1 + batch.encoded_len());
    data.push(FORMAT);
    batch.encode_raw(&mut data);
    data
}

/// The commands of an entry.
///
/// # Errors
/// A newer program wrote it. To skip a command is to diverge (D19), so it does not come into the log.
fn decode_batch(data: &[u8]) -> Result<Vec<Command>, String> {
    let (format, record) = data.split_first().ok_or("it is empty")?;
    if *format != FORMAT {
        return Err(format!(
            "it is of a newer format, {format}; this program reads {FORMAT}: upgrade it"
        ));
    }
    let batch = MasterBatch::decode(record).map_err(|why| format!("it does not decode: {why}"))?;
    let known = batch.commands.into_iter().map(|command| command.body);
    known.collect::<Option<_>>().ok_or_else(|| "it has an unknown command: upgrade".to_owned())
}

impl ClusterState {
    /// All stores.
    pub fn stores(&self) -> &BTreeMap<StoreId, StoreRecord> {
        &self.stores
    }

    /// All ranges.
    pub fn ranges(&self) -> &RangeMap {
        &self.ranges
    }

    /// Whoever has said that nothing is to be planned.
    pub fn paused_by(&self) -> Option<&str> {
        self.paused_by.as_deref()
    }

    /// The settings of the schedule that somebody has changed.
    pub fn choices(&self) -> &Choices {
        &self.choices
    }

    /// All operators that are remembered.
    pub fn operators(&self) -> &Operators {
        &self.operators
    }

    /// All masters.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// All recoveries that are remembered.
    pub fn recoveries(&self) -> &Recoveries {
        &self.recoveries
    }

    /// The newest rules of lock ranges that the programs of all replicas know. None: nobody can say,
    /// since a replica is on a store that is not known here.
    pub fn level_known_to(&self, descriptor: &Descriptor) -> Option<u64> {
        let stores = descriptor.replicas.iter().map(|replica| self.stores.get(&replica.store));
        stores.map(|store| store.map(|store| store.feature_level)).min()?
    }

    /// The store of a data directory.
    pub fn store_of(&self, ident: Identity) -> Option<StoreId> {
        let mut stores = self.stores.iter();
        stores.find(|(_, store)| store.ident == ident).map(|(id, _)| *id)
    }

    fn apply_one(&mut self, command: Command) -> Answer {
        match command {
            Command::RegisterStore(command) => self.register(command),
            Command::AllocateIds(command) => Answer::Ids(self.allocate(command)),
            Command::SetStoreDuty(command) => self.set_duty(&command),
            Command::PauseSchedule(PauseScheduleCommand { is_paused, by }) => {
                self.paused_by = is_paused.then_some(by);
                Answer::Done
            }
            Command::SetSchedule(SetScheduleCommand { choices, reset }) => {
                self.choices.retain(|key, _| !reset.contains(key));
                self.choices.extend(choices.into_iter().map(|it| (it.key, it.value)));
                Answer::Done
            }
            Command::BeginOperator(command) => self.begin_operator(command),
            Command::EndOperator(command) => self.end_operator(command),
            Command::RecoverRange(command) => self.recover_range(command),
            Command::FoundMasters(command) => {
                let before = self.members.found(command);
                self.members_changed(before);
                Answer::Done
            }
            Command::AdmitMaster(command) => {
                let (id, before) = self.members.admit(command);
                self.members_changed(before);
                Answer::Member(id)
            }
            Command::DismissMaster(command) => {
                let before = self.members.dismiss(command);
                self.members_changed(before);
                Answer::Member(StoreId(command.member_id))
            }
            Command::ForgetMaster(command) => {
                let before = self.members.forget(&command);
                self.members_changed(before);
                Answer::Done
            }
            Command::FirstRange(command) => {
                let descriptor = proposed(&command.descriptor.unwrap_or_default());
                if self.ranges.is_empty() {
                    self.first_range_level = command.feature_level;
                    self.insert(descriptor);
                }
                Answer::Done
            }
            Command::Ranges(command) => {
                for descriptor in &command.descriptors {
                    self.insert(proposed(descriptor));
                }
                if !self.first_range_lives {
                    self.first_range_lives = true;
                }
                Answer::Done
            }
        }
    }

    fn set_duty(&mut self, command: &SetStoreDutyCommand) -> Answer {
        let id = StoreId(command.store_id);
        let duty = duty_from_wire(command.duty());
        let before = state_rows::row(self, Key::Store(id));
        let store = self.stores.get_mut(&id).filter(|store| store.duty != Duty::Gone);
        if let Some(store) = store.filter(|store| store.duty != duty) {
            store.duty = duty;
            self.changed(Key::Store(id), before);
        }
        Answer::Store(id)
    }

    fn begin_operator(&mut self, command: BeginOperatorCommand) -> Answer {
        if let Some(running) = self.operators.of(RangeId(command.range_id)) {
            return Answer::Running(running.id);
        }
        let (id, peer) = (self.next_id, PeerId(self.next_id + 1));
        self.next_id += 2;
        let inserted = self.operators.insert(Operator::begun(command, id, peer));
        inserted.unwrap_or_else(|why| panic!("{why}"));
        self.changed(Key::Operator(id), None);
        Answer::Operator(id)
    }

    fn end_operator(&mut self, command: EndOperatorCommand) -> Answer {
        let id = command.operator_id;
        for before in self.operators.end(command) {
            self.changed(Key::Operator(before.id), Some(state_rows::operator_row(&before)));
        }
        Answer::Operator(id)
    }

    fn members_changed(&mut self, before: Vec<(StoreId, Option<MemberRecord>)>) {
        for (id, record) in before {
            let row = record.map(|record| state_rows::member_row(id, &record));
            self.changed(Key::Member(id), row);
        }
    }

    fn register(&mut self, command: RegisterStoreCommand) -> Answer {
        let RegisterStoreCommand {
            ident,
            address,
            version,
            feature_level,
            start,
            life,
            labels,
            node,
        } = command;
        let checked = "a leading master checks it";
        let ident = Identity::from_wire(&ident).expect(checked);
        let start = Start { number: start, life: Life::from_wire(&life).expect(checked) };
        let id = self.store_of(ident).unwrap_or_else(|| {
            let id = StoreId(self.next_store_id);
            self.next_store_id += 1;
            id
        });
        let known = self.stores.get(&id);
        let duty = known.map_or(Duty::Serves, |known| known.duty);
        let labels = labels.into_iter().map(|it| (it.key, it.value)).collect();
        let record =
            StoreRecord { ident, address, version, feature_level, start, labels, node, duty };
        if known.is_some_and(|known| !start.may_follow(known.start)) {
            return Answer::Outdated(id);
        }
        if known != Some(&record) {
            let before = state_rows::row(self, Key::Store(id));
            self.stores.insert(id, record);
            self.changed(Key::Store(id), before);
        }
        Answer::Store(id)
    }

    fn allocate(&mut self, AllocateIdsCommand { count }: AllocateIdsCommand) -> u64 {
        let first = self.next_id;
        self.next_id += u64::from(count.min(IDS_MAX));
        first
    }

    /// Its stores are gone, what runs for the range ends, and the replica that is left is told.
    fn recover_range(&mut self, command: RecoverRangeCommand) -> Answer {
        let RecoverRangeCommand { recovery, base_version, base_conf_ver } = command;
        let record = RecoveryRecord::from_row(recovery.unwrap_or_default());
        let mut record = record.unwrap_or_else(|why| panic!("the log of the masters: {why}"));
        let known = self.ranges.range(record.range).map(|it| (it.epoch.version, it.epoch.conf_ver));
        let is_same = known.unwrap_or_default() == (base_version, base_conf_ver);
        let goes_on = |running: &RecoveryRecord| !record.lost.contains(&running.store);
        if !is_same || self.recoveries.of(record.range).is_some_and(goes_on) {
            return Answer::Overtaken;
        }
        for store in &record.lost {
            let duty = StoreDuty::Gone.into();
            self.set_duty(&SetStoreDutyCommand { store_id: store.0, duty });
        }
        if let Some(operator) = self.operators.of(record.range).map(|operator| operator.id) {
            let (state, because) = (OperatorState::Off.into(), "its range is recovered".to_owned());
            self.end_operator(EndOperatorCommand { operator_id: operator, state, because });
        }
        (record.id, record.as_peer) = (self.next_id, PeerId(self.next_id + 1));
        self.next_id += 2;
        let id = record.id;
        let changed = self.recoveries.begin(record);
        self.recoveries_changed(changed);
        Answer::Recovery(id)
    }

    fn recoveries_changed(&mut self, before: Vec<(u64, Option<RecoveryRecord>)>) {
        for (id, record) in before {
            let row = record.map(|record| state_rows::recovery_row(&record));
            self.changed(Key::Recovery(id), row);
        }
    }

    /// Older descriptors than those that are known have no effect; see [`RangeMap::insert`].
    fn insert(&mut self, descriptor: Descriptor) {
        let range = descriptor.range;
        let done = self.recoveries.reported(&descriptor);
        self.recoveries_changed(done);
        if self.ranges.range(range) == Some(&descriptor) {
            return;
        }
        match self.ranges.insert(descriptor) {
            Ok(displaced) => {
                if displaced.iter().all(|old| old.range != range) {
                    self.changed(Key::Range(range), None);
                }
                for old in displaced {
                    self.changed(Key::Range(old.range), Some(state_rows::range_row(&old)));
                }
            }
            Err(why) => tracing::debug!(%why, "a descriptor is not taken"),
        }
    }

    /// A row is another than `before`.
    fn changed(&mut self, key: Key, before: Option<Vec<u8>>) {
        let after = state_rows::row(self, key);
        let hash = |row: Option<Vec<u8>>| row.map_or(0, |row| state_rows::hash(key, &row));
        self.rows_hash = self.rows_hash.wrapping_sub(hash(before)).wrapping_add(hash(after));
        self.dirty.insert(key);
    }
}

/// A descriptor out of the log.
///
/// # Panics
/// It describes no range: a leading master checks what it proposes.
fn proposed(descriptor: &RangeDescriptor) -> Descriptor {
    let read = Descriptor::try_from(descriptor);
    read.unwrap_or_else(|why| panic!("the log of the masters holds no descriptor: {why}"))
}

impl ClusterState {
    /// All rows of the image.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Key, Vec<u8>)> {
        let stores = self.stores.keys().map(|store| Key::Store(*store));
        let ranges = self.ranges.iter().map(|descriptor| Key::Range(descriptor.range));
        let operators = self.operators.iter().map(|operator| Key::Operator(operator.id));
        let members = self.members.iter().map(|(id, _)| Key::Member(id));
        let recoveries = self.recoveries.iter().map(|recovery| Key::Recovery(recovery.id));
        let keys = stores.chain(ranges).chain(operators).chain(members).chain(recoveries);
        keys.map(|key| (key, state_rows::row(self, key).expect("it is there")))
    }
}

impl StateMachine for ClusterState {
    type Output = Vec<Answer>;

    fn empty() -> Self {
        Self {
            stores: BTreeMap::new(),
            ranges: RangeMap::default(),
            operators: Operators::default(),
            members: Members::default(),
            recoveries: Recoveries::default(),
            next_store_id: 1,
            next_id: FIRST_ID,
            first_range_lives: false,
            rows_hash: 0,
            first_range_level: 0,
            paused_by: None,
            choices: Choices::new(),
            dirty: BTreeSet::new(),
        }
    }

    fn knows(data: &[u8]) -> Result<(), String> {
        decode_batch(data).map(drop)
    }

    fn apply(&mut self, _at: EntryAt, _version: u64, data: &[u8]) -> Vec<Answer> {
        let commands = decode_batch(data).unwrap_or_else(|why| panic!("an entry: {why}"));
        commands.into_iter().map(|command| self.apply_one(command)).collect()
    }

    fn split_off(&mut self, key: &str) -> Self {
        panic!("the masters' group has no names that could be split at {key}");
    }

    fn take_dirty(&mut self) -> Vec<DirtyRow> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|key| (key.encode(), state_rows::row(self, key))).collect()
    }

    fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    fn header(&self) -> Vec<u8> {
        state_rows::header(self)
    }

    fn state_hash(&self) -> u64 {
        self.rows_hash.wrapping_add(state_rows::header_hash(&self.header()))
    }

    fn restore(
        header: &[u8],
        rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self, BadImage> {
        state_rows::restore(header, rows.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
