//! Data servers that say who they are, and ids.

use std::time::Duration;

use bytes::Bytes;
use sharklock_proto::{
    Identity, Life, NotSixteenBytes, Start,
    internal::v1::{
        AllocateIdsCommand, AllocateIdsRequest, AllocateIdsResponse, FirstRangeCommand,
        RangeDescriptor, RegisterStoreCommand, RegisterStoreRequest, RegisterStoreResponse,
        master_command::Body as Command,
    },
    v1::{PauseScheduleResponse, SetScheduleResponse, StoreLabel},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use super::{AUDIT, Asker, MasterCore, lost};
use crate::{
    refusal::{Reason, Refusal},
    request::Reply,
    schedule::Duty,
    state::{Answer, IDS_MAX, StoreRecord},
};

/// The range of all names with which a cluster begins.
const FIRST_RANGE: RangeId = RangeId(1);
/// Of a range that nothing has happened to: only such a one can be made out of nothing.
pub(super) const FIRST_EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };
/// Longest address: a DNS name has 253 bytes at most, a port 5.
pub(super) const ADDRESS_BYTES_MAX: usize = 260;

/// Longest version of a program, bytes: it is kept, for operators.
const VERSION_BYTES_MAX: usize = 128;

/// Longest name of a node, bytes.
pub const NODE_BYTES_MAX: usize = 64;

/// Labels of a store, at most.
pub const LABELS_MAX: usize = 8;
/// Longest key or value of one, bytes.
pub const LABEL_BYTES_MAX: usize = 64;

fn check_labels(labels: &[StoreLabel]) -> Result<(), Refusal> {
    let is_long = |text: &String| text.is_empty() || text.len() > LABEL_BYTES_MAX;
    let bad = labels.iter().any(|it| is_long(&it.key) || is_long(&it.value));
    if labels.len() > LABELS_MAX || bad {
        let message = format!(
            "labels: at most {LABELS_MAX}, each with a key and a value of 1 to {LABEL_BYTES_MAX} bytes"
        );
        return Err(Refusal::new(Reason::Invalid, message));
    }
    Ok(())
}

impl MasterCore {
    /// Asks the log, if the process may be this store; see the rules at each refusal.
    pub(super) fn register_store(
        &mut self,
        now: Duration,
        number: u64,
        request: RegisterStoreRequest,
    ) -> Result<Option<Reply>, Refusal> {
        let start = start(request.start, &request.life)?;
        let ident = Identity::from_wire(&request.ident).map_err(|why| malformed("ident", why))?;
        if request.address.is_empty() || request.address.len() > ADDRESS_BYTES_MAX {
            let message = format!("address: 1 to {ADDRESS_BYTES_MAX} bytes are expected");
            return Err(Refusal::new(Reason::Invalid, message));
        }
        if request.version.len() > VERSION_BYTES_MAX {
            let message = format!("version: at most {VERSION_BYTES_MAX} bytes are expected");
            return Err(Refusal::new(Reason::Invalid, message));
        }
        check_labels(&request.labels)?;
        if request.node.len() > NODE_BYTES_MAX {
            let message = format!("node: at most {NODE_BYTES_MAX} bytes are expected");
            return Err(Refusal::new(Reason::Invalid, message));
        }
        if request.feature_level == 0 {
            let message = "feature_level: 0; a store says which rules of lock ranges it knows";
            return Err(Refusal::new(Reason::Invalid, message));
        }
        let address = request.address.clone();
        self.may_register(now, &request, ident, start)?;
        if self.is_contested(ident, start, &address) {
            let message = "another process registers this directory or this address at the moment";
            return Err(Refusal::new(Reason::Undecided, message));
        }
        let command = RegisterStoreCommand {
            ident: request.ident,
            address: request.address,
            version: request.version,
            feature_level: request.feature_level,
            start: request.start,
            life: request.life,
            labels: request.labels,
            node: request.node,
        };
        let asker = Asker::Registration { number, ident, start, address };
        self.ask_log(Command::RegisterStore(command), asker)?;
        Ok(None)
    }

    fn may_register(
        &self,
        now: Duration,
        request: &RegisterStoreRequest,
        ident: Identity,
        start: Start,
    ) -> Result<(), Refusal> {
        let claims_cluster = !request.cluster_id.is_empty();
        if claims_cluster {
            // It stands in a refusal.
            Identity::from_wire(&request.cluster_id).map_err(|why| malformed("cluster_id", why))?;
        }
        if claims_cluster && request.cluster_id != self.settings.cluster_id {
            return Err(Refusal::new(
                Reason::ClusterMismatch,
                format!(
                    "the data directory belongs to cluster {:x}, and these masters to {}: start it \
                     with its own masters, or with an empty directory",
                    request.cluster_id, self.settings.cluster_id
                ),
            ));
        }
        let known = self.state().store_of(ident);
        let Some(store) = known else { return self.may_be_new(request) };
        if request.store_id != 0 && request.store_id != store.0 {
            return Err(Refusal::new(
                Reason::StoreUnknown,
                format!(
                    "the data directory says store {}, and the masters know it as store {store}",
                    request.store_id
                ),
            ));
        }
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let record = &self.state().stores()[&store];
        if record.duty == Duty::Gone {
            return Err(is_gone(store));
        }
        if !start.may_follow(record.start) {
            return Err(outdated(store, record, start));
        }
        leading.presence.may_speak(now, store, record, (start, &request.address))
    }

    /// Whether another process is on its way into the log as the same store, or with the same
    /// address. An entry that is applied keeps its address, also where the process is refused then.
    fn is_contested(&self, ident: Identity, start: Start, address: &str) -> bool {
        self.proposals.askers().any(|asker| match asker {
            Asker::Registration { ident: other, start: theirs, address: at, .. } => {
                if *other == ident { *theirs != start } else { at == address }
            }
            Asker::Nobody
            | Asker::Ids { .. }
            | Asker::Beginning { .. }
            | Asker::Cancelling { .. }
            | Asker::Scheduled { .. }
            | Asker::Pausing { .. }
            | Asker::Setting { .. }
            | Asker::Dutiful { .. }
            | Asker::Masters { .. }
            | Asker::Recovering { .. }
            | Asker::Watchers { .. } => false,
        })
    }

    /// A directory that the masters have never heard of.
    fn may_be_new(&self, request: &RegisterStoreRequest) -> Result<(), Refusal> {
        if request.store_id != 0 {
            return Err(Refusal::new(
                Reason::StoreUnknown,
                format!(
                    "the data directory says store {}, and the masters do not know it: they were \
                     restored from an older state, or the directory is not of this cluster",
                    request.store_id
                ),
            ));
        }
        let mut stores = self.state().stores().iter();
        match stores.find(|(_, store)| store.address == request.address) {
            None => Ok(()),
            Some((store, _)) => Err(Refusal::new(
                Reason::StoreWiped,
                format!(
                    "{} is the address of store {store}, whose data directory is another one: this \
                     one is new or was emptied. Restore the directory; or, to join as a new store, \
                     advertise another address",
                    request.address
                ),
            )),
        }
    }

    pub(super) fn allocate_ids(
        &mut self,
        number: u64,
        request: &AllocateIdsRequest,
    ) -> Result<Option<Reply>, Refusal> {
        self.check_cluster(&request.cluster_id)?;
        let count = request.count;
        if !(1..=IDS_MAX).contains(&count) {
            let message = format!("count is {count}: 1 to {IDS_MAX} are given at a time");
            return Err(Refusal::new(Reason::Invalid, message));
        }
        let command = Command::AllocateIds(AllocateIdsCommand { count });
        self.ask_log(command, Asker::Ids { number })?;
        Ok(None)
    }

    pub(super) fn check_cluster(&self, cluster_id: &Bytes) -> Result<(), Refusal> {
        match *cluster_id == self.settings.cluster_id {
            true => Ok(()),
            false => Err(Refusal::new(
                Reason::ClusterMismatch,
                format!("these are the masters of cluster {}", self.settings.cluster_id),
            )),
        }
    }

    /// A cluster begins with one range, on the first stores that have registered: as many as it is
    /// to have replicas, because they stay.
    pub(super) fn ask_for_the_first_range(&mut self) {
        let wanted = self.settings.replicas as usize;
        let state = self.state();
        let is_time = state.ranges().is_empty() && state.stores().len() >= wanted;
        let stores: Vec<StoreId> = state.stores().keys().copied().take(wanted).collect();
        // All of its replicas begin alike, whatever their programs know beyond that.
        let levels = state.stores().values().take(wanted).map(|store| store.feature_level);
        let feature_level = levels.min().unwrap_or(0);
        let Some(leading) = self.leading.as_mut().filter(|_| is_time) else { return };
        if std::mem::replace(&mut leading.first_range_asked, true) {
            return;
        }
        let replica = |(peer, store)| Replica { peer: PeerId(peer), store, role: Role::Voter };
        let replicas = (1..).zip(stores).map(replica).collect();
        let first = Descriptor::new(FIRST_RANGE, Bounds::ALL, FIRST_EPOCH, replicas);
        let descriptor = Some(RangeDescriptor::from(&first));
        tracing::info!(replicas = wanted, feature_level, "the cluster gets its first range");
        let first_range = FirstRangeCommand { descriptor, feature_level };
        self.proposals.ask(Command::FirstRange(first_range), Asker::Nobody);
    }

    /// Answers from what was applied.
    pub(super) fn answer(&mut self, now: Duration, asker: Asker, answer: Answer) {
        match (asker, answer) {
            (Asker::Registration { number, address, .. }, Answer::Store(store)) => {
                let reply = match self.registered(now, store, address) {
                    Ok(reply) => Reply::Registered(reply),
                    Err(refusal) => Reply::Refused(refusal),
                };
                self.reply(number, reply);
            }
            (Asker::Registration { number, start, .. }, Answer::Outdated(store)) => {
                let refusal = outdated(store, &self.state().stores()[&store], start);
                self.reply(number, Reply::Refused(refusal));
            }
            (Asker::Ids { number }, Answer::Ids(first)) => {
                self.reply(number, Reply::Allocated(AllocateIdsResponse { first }));
            }
            (Asker::Beginning { number, steps }, Answer::Operator(id)) => {
                self.operator_begun(now, Some((number, steps)), id);
            }
            (Asker::Beginning { number, .. }, Answer::Running(id)) => {
                self.operator_runs_already(number, id);
            }
            (Asker::Cancelling { number }, Answer::Operator(id)) => {
                self.operator_ended(now, Some(number), id);
            }
            (Asker::Scheduled { range }, answer) => {
                if let Some(leading) = &mut self.leading {
                    leading.scheduling.begun(range);
                }
                if let Answer::Operator(id) = answer {
                    self.operator_begun(now, None, id);
                }
            }
            (Asker::Pausing { number }, _) => {
                self.reply(number, Reply::Paused(PauseScheduleResponse {}));
            }
            (Asker::Setting { number }, _) => {
                let settings = self.shown_settings(self.state().choices());
                self.reply(number, Reply::Settings(SetScheduleResponse { settings }));
            }
            (Asker::Dutiful { number, store }, _) => {
                let duty = self.state().stores()[&store].duty;
                tracing::warn!(target: AUDIT, %store, %duty, "store-duty");
                self.changed_stores.insert(store);
                let reply = Reply::Duty(self.duty_of(now, store, duty));
                self.reply(number, reply);
            }
            (Asker::Masters { number, steps }, Answer::Member(id)) => {
                self.masters_changed(number, steps, id);
            }
            (Asker::Recovering { number, steps, losses }, Answer::Recovery(id)) => {
                self.recovery_begun(number, id, steps, losses);
            }
            (Asker::Recovering { number, .. }, _) => self.recovery_overtaken(number),
            (Asker::Nobody, Answer::Operator(id)) => self.operator_ended(now, None, id),
            (Asker::Nobody, _) => {}
            (Asker::Watchers { range, is_new }, _) => {
                if is_new {
                    // All ranges but the first, which the masters make, come from splits.
                    tracing::info!(target: AUDIT, %range, "range-split");
                }
                self.changed_ranges.insert(range);
            }
            (asker, answer) => unreachable!("{answer:?} answers {asker:?}"),
        }
    }

    fn registered(
        &mut self,
        now: Duration,
        store: StoreId,
        address: String,
    ) -> Result<RegisterStoreResponse, Refusal> {
        // The log has decided who speaks for the store, and every master has it so.
        let leading = self.leading.as_mut().ok_or_else(lost)?;
        tracing::info!(%store, address, "a store has registered");
        leading.presence.speaks(now, store, address);
        self.changed_stores.insert(store);
        Ok(RegisterStoreResponse {
            cluster_id: self.settings.cluster_id.to_wire(),
            store_id: store.0,
            stores: self.peers(),
        })
    }
}

/// The process that a request names.
pub(super) fn start(number: u64, life: &Bytes) -> Result<Start, Refusal> {
    if number == 0 {
        let message = "start: 0; a data directory counts its starts from 1";
        return Err(Refusal::new(Reason::Invalid, message));
    }
    let life = Life::from_wire(life).map_err(|why| malformed("life", why))?;
    Ok(Start { number, life })
}

/// A directory of which a later start is known, or another process with this one.
fn outdated(store: StoreId, record: &StoreRecord, start: Start) -> Refusal {
    let (last, number) = (record.start.number, start.number);
    let found = if last == number {
        format!("another process, at {}, has had start {number}", record.address)
    } else {
        format!("start {last} is known, at {}, and this is start {number}", record.address)
    };
    Refusal::new(
        Reason::StoreOlderCopy,
        format!(
            "of the data directory of store {store}, {found}: it was put back from an older copy, or \
             is a copy. Put the original disk back; or, to join as a new store, start with an empty \
             directory and advertise another address"
        ),
    )
}

/// Whether it is the process that speaks for the store.
///
/// # Errors
/// It is not: another one has registered in its place, or this master does not know that this one
/// has. A deposed master that still takes itself for the leader is of the latter kind.
pub(super) fn check_speaker(
    store: StoreId,
    record: &StoreRecord,
    start: Start,
) -> Result<(), Refusal> {
    if start == record.start {
        return Ok(());
    }
    if start.number > record.start.number {
        let message = format!(
            "store {store} says start {} of its data directory, and this master knows {}: either \
             another master leads by now, or the masters were restored from an older state, and \
             then this process must be started again",
            start.number, record.start.number
        );
        return Err(Refusal::new(Reason::Behind, message));
    }
    let message = format!(
        "a newer process speaks for store {store} at {}: this one must end",
        record.address
    );
    Err(Refusal::new(Reason::StoreSuperseded, message))
}

/// A store that operators have declared gone.
pub(super) fn is_gone(store: StoreId) -> Refusal {
    Refusal::new(
        Reason::StoreGone,
        format!(
            "store {store} was declared gone: its replicas are replaced, and it is never taken in \
             again. To bring this machine back, start it with an empty directory and another address"
        ),
    )
}

fn malformed(field: &str, why: NotSixteenBytes) -> Refusal {
    Refusal::new(Reason::Invalid, format!("{field}: {why}"))
}
