//! Reports of stores, and the answers to them.

use std::time::Duration;

use prost::Message;
use sharklock_proto::internal::v1::{
    OrphanReplica, RaiseLevel, RangeDescriptor, RangeReport, RangesCommand, StoreAddress,
    StoreHeartbeatRequest, StoreHeartbeatResponse, master_command::Body as Command,
};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};
use twox_hash::XxHash3_64;

use super::{
    Asker, MasterCore,
    registering::{self, FIRST_EPOCH},
};
use crate::{
    presence::{Beat, Counts, Leader, Presence},
    refusal::{Reason, Refusal},
    schedule::Duty,
    state::RecoveryRecord,
};

/// Ranges that one answer to a heartbeat asks to raise; the rest follows with the next.
const RAISED_MAX: usize = 1_000;
/// Orphans of one heartbeat that are looked at.
const ORPHANS_MAX: usize = 16_384;

impl MasterCore {
    pub(super) fn store_heartbeat(
        &mut self,
        now: Duration,
        request: StoreHeartbeatRequest,
    ) -> Result<StoreHeartbeatResponse, Refusal> {
        self.check_cluster(&request.cluster_id)?;
        let store = StoreId(request.store_id);
        let start = registering::start(request.start, &request.life)?;
        let Some(record) = self.state().stores().get(&store) else {
            let message = format!(
                "this master does not know store {store}: either another master leads by now, or the \
                 masters were restored from an older state"
            );
            return Err(Refusal::new(Reason::Behind, message));
        };
        registering::check_speaker(store, record, start)?;
        if record.duty == Duty::Gone {
            return Err(registering::is_gone(store));
        }
        let address = record.address.clone();
        let counts = Counts { replicas: request.replicas_count, leaders: request.leaders_count };
        let leading = self.leading.as_mut().expect("only a leader is asked");
        let beat = Beat { seq: request.seq, since: request.since, counts };
        let is_next = leading.presence.heartbeat(now, store, &address, beat);
        leading.scheduling.beat(store, &request);
        leading.operations.hear(store, request.waits);
        let orphans = &request.orphans[..request.orphans.len().min(ORPHANS_MAX)];
        leading.losses.hear(store, orphans, &request.absent);
        let asked_about = leading.losses.asked(now, store);
        if request.is_leaving {
            leading.presence.leaves(store);
        }
        let heard = match is_next && self.take_in(now, store, request.ranges) {
            true => self.presence_mut().heard_to(store, request.upto),
            false => self.presence_mut().heard_to(store, 0),
        };
        let mut stores = self.peers();
        let stores_hash = hash_of(&stores);
        if stores_hash == request.stores_hash {
            stores.clear();
        }
        Ok(StoreHeartbeatResponse {
            heard,
            stores,
            stores_hash,
            bootstrap: self.to_make(store),
            bootstrap_level: self.state().first_range_level,
            raise: self.to_raise(store),
            steps: self.steps_of(store),
            asked_about,
            alone: self.state().recoveries().at(store).map(RecoveryRecord::order).collect(),
            removed: self.removed_of(&request.orphans),
            masters: self.master_addresses(),
        })
    }

    /// Of the replicas that hear of no leader those that a newer configuration does not have. Whatever a
    /// leader has reported is committed, and ids are given once: they never come back.
    fn removed_of(&self, orphans: &[OrphanReplica]) -> Vec<OrphanReplica> {
        let newer = |orphan: &OrphanReplica| {
            let descriptor = self.state().ranges().range(RangeId(orphan.range_id))?;
            let conf_ver = descriptor.epoch.conf_ver;
            let is_member = descriptor.replicas.iter().any(|it| it.peer.0 == orphan.peer_id);
            let is_removed = conf_ver > orphan.conf_ver && !is_member;
            let OrphanReplica { range_id, peer_id, .. } = *orphan;
            let removed = OrphanReplica { range_id, peer_id, conf_ver, ..Default::default() };
            is_removed.then_some(removed)
        };
        orphans.iter().take(ORPHANS_MAX).filter_map(newer).collect()
    }

    fn presence_mut(&mut self) -> &mut Presence {
        &mut self.leading.as_mut().expect("only a leader is asked").presence
    }

    /// True: all of it is known here now, or on its way into the log.
    fn take_in(&mut self, now: Duration, store: StoreId, reports: Vec<RangeReport>) -> bool {
        let mut all = true;
        for report in reports {
            all &= self.reported(now, store, report);
        }
        all
    }

    /// The ranges led by a store that follow older rules than the programs of all their replicas
    /// know (D19). A program that is put back to an older version meanwhile stops at a rule that it does
    /// not know; it never skips one.
    fn to_raise(&self, store: StoreId) -> Vec<RaiseLevel> {
        let state = self.state();
        let newest = state.stores().values().map(|store| store.feature_level).max().unwrap_or(0);
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let raised = leading.presence.led_below(store, newest).filter_map(|(range, leader)| {
            let descriptor = state.ranges().range(range)?;
            let feature_level = state.level_known_to(descriptor)?;
            let conf_ver = descriptor.epoch.conf_ver;
            let raise = RaiseLevel { range_id: range.0, conf_ver, feature_level };
            (leader.level < feature_level).then_some(raise)
        });
        raised.take(RAISED_MAX).collect()
    }

    /// A leader reports a range. False: the log has no room for it, and it is to be said again. A
    /// report that is not well-formed is passed over: the range's own log is the truth.
    fn reported(&mut self, now: Duration, store: StoreId, mut report: RangeReport) -> bool {
        let descriptor = report.descriptor.take().unwrap_or_default();
        let descriptor = match Descriptor::try_from(&descriptor) {
            Ok(descriptor) => descriptor,
            Err(why) => {
                tracing::warn!(%store, %why, "a store reports a range that cannot be");
                return true;
            }
        };
        let range = descriptor.range;
        let is_news = self.is_news(&descriptor);
        if is_news {
            let descriptors = vec![RangeDescriptor::from(&descriptor)];
            let command = Command::Ranges(RangesCommand { descriptors });
            let is_new = self.state().ranges().range(range).is_none();
            if self.ask_log(command, Asker::Watchers { range, is_new }).is_err() {
                return false;
            }
        }
        let scheduling = &mut self.leading.as_mut().expect("only a leader is asked").scheduling;
        scheduling.report(now, range, &report);
        let leader = Leader { store, term: report.term, level: report.feature_level };
        // What is on its way into the log is told from there, with its leader.
        if self.presence_mut().leads(range, leader) && !is_news {
            self.changed_ranges.insert(range);
        }
        true
    }

    /// Whether the log must hear of it: the first sign of life of the first range, or a range that
    /// was not known so.
    fn is_news(&self, descriptor: &Descriptor) -> bool {
        let state = self.state();
        let known = state.ranges().range(descriptor.range);
        !state.first_range_lives || known.is_none_or(|known| known.epoch < descriptor.epoch)
    }

    /// The replicas that a store is to make out of nothing, until the first range lives. A store that
    /// missed its birth then gets an empty replica from its leader, which knows the members of today;
    /// this state may be older, and the range have moved away.
    fn to_make(&self, store: StoreId) -> Vec<RangeDescriptor> {
        let state = self.state();
        if state.first_range_lives {
            return Vec::new();
        }
        let has_replica =
            |range: &&Descriptor| range.epoch == FIRST_EPOCH && range.on_store(store).is_some();
        state.ranges().iter().filter(has_replica).map(RangeDescriptor::from).collect()
    }

    /// Whether a range's leader is known.
    pub(super) fn leader_of(&self, range: RangeId) -> Option<crate::presence::Leader> {
        self.leading.as_ref()?.presence.leader(range)
    }
}

/// By which a store tells whether it has this list. Never 0.
fn hash_of(stores: &[StoreAddress]) -> u64 {
    let bytes = stores.iter().flat_map(Message::encode_length_delimited_to_vec).collect::<Vec<_>>();
    XxHash3_64::oneshot(&bytes).max(1)
}
