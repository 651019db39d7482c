//! Ranges that have lost their majority for good: what is left of them, and the order that lets that go
//! on (`docs/internals/recover.md`).

use std::{collections::BTreeMap, time::Duration};

use sharklock_proto::{
    internal::v1::{RecoverRangeCommand, StoreState, master_command::Body as Command},
    v1::{
        ListRecoveriesResponse, LostRange, RecoverRangeRequest, RecoverRangeResponse,
        RecoveryState, Survivor,
    },
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, StoreId};

use super::{
    AUDIT, Asker, MasterCore,
    losses::{Orphan, Survey},
    operations::check_by,
    recovery_words::{comma, steps, stores_are, stores_in_words},
};
use crate::{
    refusal::{Reason, Refusal},
    request::Reply,
    schedule::Duty,
    state::RecoveryRecord,
};

/// Epochs and terms go on so far above all that is known. What the lost stores have done without anybody
/// hearing of it took an entry or an election for each step: so many take them 49 days without a pause,
/// at one in a millisecond.
const JUMP: u64 = 1 << 32;

/// Lost ranges that are shown.
const LOST_SHOWN_MAX: usize = 1_000;

/// The order, and its words for people.
struct Plan {
    record: RecoveryRecord,
    /// Of the range as the masters know it.
    known: Epoch,
    steps: Vec<String>,
    losses: Vec<String>,
}

impl MasterCore {
    pub(super) fn recover_range(
        &mut self,
        now: Duration,
        number: u64,
        request: RecoverRangeRequest,
    ) -> Result<Option<Reply>, Refusal> {
        check_by(&request.operator)?;
        let range = RangeId(request.range_id);
        let lost: Vec<_> = request.lost_store_ids.iter().copied().map(StoreId).collect();
        if let Some(running) = self.state().recoveries().of(range)
            && !lost.contains(&running.store)
        {
            if (&running.by, running.now) == (&request.operator, request.now)
                && running.lost == lost
                && !request.dry_run
            {
                // The first answer was lost.
                let recovery = Some(running.to_wire());
                let answer = RecoverRangeResponse { recovery, ..Default::default() };
                return Ok(Some(Reply::Recovering(answer)));
            }
            return Err(goes_on_already(running));
        }
        let silent = self.survey(now, range)?.silent;
        self.ask_about(now, range, silent);
        let survey = self.survey(now, range)?;
        let plan = if request.dry_run && lost.is_empty() {
            self.has_lost_its_majority(&survey)?;
            self.plan_recovery(&survey, survey.missing.clone(), &request)?
        } else {
            let are_stopped = request.are_stopped || request.dry_run;
            self.is_confirmed(now, &survey, &lost, are_stopped)?;
            self.plan_recovery(&survey, lost, &request)?
        };
        let answer = RecoverRangeResponse {
            recovery: Some(plan.record.to_wire()),
            steps: plan.steps,
            losses: plan.losses,
        };
        if request.dry_run {
            return Ok(Some(Reply::Recovering(answer)));
        }
        let RecoverRangeResponse { steps, losses, .. } = answer;
        let command = RecoverRangeCommand {
            recovery: Some(plan.record.to_row()),
            base_version: plan.known.version,
            base_conf_ver: plan.known.conf_ver,
        };
        let asker = Asker::Recovering { number, steps, losses };
        self.ask_log(Command::RecoverRange(command), asker)?;
        Ok(None)
    }

    /// Whether they have a replica, which they have not said.
    fn ask_about(&mut self, now: Duration, range: RangeId, silent: Vec<StoreId>) {
        let leading = self.leading.as_mut().expect("only a leader is asked");
        leading.losses.ask(now, range, silent);
    }

    /// What is known of a range.
    ///
    /// # Errors
    /// Nobody knows it.
    fn survey(&self, now: Duration, range: RangeId) -> Result<Survey<'_>, Refusal> {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let told = leading.losses.of(range);
        let known = self.state().ranges().range(range);
        let newest = known.into_iter().chain(told.values().map(|it| &it.descriptor));
        let Some(base) = newest.max_by_key(|it| (it.epoch.conf_ver, it.epoch.version)) else {
            let message = format!("range {range} is not known: `sharklock ranges ls` lists them");
            return Err(Refusal::new(Reason::RangeUnknown, message));
        };
        let is_up = |store: StoreId| {
            let record = self.state().stores().get(&store);
            let is_gone = record.is_none_or(|record| record.duty == Duty::Gone);
            !is_gone && leading.presence.of(now, store).0 == StoreState::Up
        };
        let (mut left, mut silent) = (BTreeMap::new(), Vec::new());
        let (mut absent, mut missing) = (Vec::new(), Vec::new());
        for Replica { store, peer, .. } in &base.replicas {
            match told.get(store).filter(|it| it.peer == *peer) {
                _ if !is_up(*store) => missing.push(*store),
                Some(orphan) => _ = left.insert(*store, *orphan),
                None if leading.losses.is_absent(*store, range) => absent.push(*store),
                None => silent.push(*store),
            }
        }
        missing.sort_unstable();
        Ok(Survey { range, base: base.clone(), left, silent, absent, missing })
    }

    /// Whether a range is lost, and an operator has said all that only people know.
    fn is_confirmed(
        &self,
        now: Duration,
        survey: &Survey<'_>,
        lost: &[StoreId],
        are_stopped: bool,
    ) -> Result<(), Refusal> {
        self.has_lost_its_majority(survey)?;
        let range = survey.range;
        let leading = self.leading.as_ref().expect("only a leader is asked");
        for store in lost {
            let refuse = |reason, message| Err(Refusal::new(reason, message));
            let Some(record) = self.state().stores().get(store) else {
                let message =
                    format!("store {store} is not known: `sharklock stores ls` lists them");
                return refuse(Reason::StoreUnknown, message);
            };
            if survey.base.on_store(*store).is_none() {
                let message = format!(
                    "store {store} has no replica of range {range}: name only stores that have one"
                );
                return refuse(Reason::NoReplicaThere, message);
            }
            let is_gone = record.duty == Duty::Gone;
            if !is_gone && leading.presence.of(now, *store).0 == StoreState::Up {
                let message = format!(
                    "store {store} is alive: what it has is not lost. Stop its process first, if it \
                     is to go"
                );
                return refuse(Reason::StoreUnfit, message);
            }
        }
        let unnamed: Vec<_> = survey.missing.iter().filter(|it| !lost.contains(it)).collect();
        if !unnamed.is_empty() {
            let message = format!(
                "range {range} has replicas on {}, too, not heard of: bring back what can be brought \
                 back; if all are lost for good, name all: --lost {}",
                stores_in_words(unnamed.into_iter().copied()),
                comma(&survey.missing)
            );
            return Err(Refusal::new(Reason::NotConfirmed, message));
        }
        if !are_stopped && !lost.is_empty() {
            let message = format!(
                "nobody has said that {} are stopped for good: should one still run somewhere, two \
                 would hold the same lock. Make sure of it, then say --stopped",
                stores_in_words(lost.iter().copied())
            );
            return Err(Refusal::new(Reason::NotConfirmed, message));
        }
        Ok(())
    }

    /// # Errors
    /// It has a leader, or may get one without help.
    fn has_lost_its_majority(&self, survey: &Survey<'_>) -> Result<(), Refusal> {
        let range = survey.range;
        let alive = |message| Err(Refusal::new(Reason::QuorumAlive, message));
        if let Some(leader) = self.leader_of(range)
            && survey.silent.contains(&leader.store)
        {
            return alive(format!(
                "store {} leads range {range}, or did a moment ago: it is not lost. Whether it has a \
                 leader shows within half a minute",
                leader.store
            ));
        }
        if survey.has_majority() {
            return alive(format!(
                "a majority of range {range} is heard of: it is not lost, and gets a leader by itself"
            ));
        }
        Ok(())
    }

    fn plan_recovery(
        &self,
        survey: &Survey<'_>,
        lost: Vec<StoreId>,
        request: &RecoverRangeRequest,
    ) -> Result<Plan, Refusal> {
        let range = survey.range;
        let (store, orphan) = self.who_goes_on(survey)?;
        let known = self.state().ranges().range(range).map(|it| it.epoch);
        let known = known.unwrap_or(Epoch { version: 0, conf_ver: 0 });
        let (end, others) = self.names_left(orphan)?;
        let mut epoch = Epoch { version: others, conf_ver: 0 };
        let (mut term, mut generation) = (self.leader_of(range).map_or(0, |it| it.term), 0);
        let epochs = survey.left.values().map(|it| it.descriptor.epoch).chain([known]);
        for seen in epochs.chain(self.earlier(range).map(|it| it.epoch)) {
            epoch.version = epoch.version.max(seen.version);
            epoch.conf_ver = epoch.conf_ver.max(seen.conf_ver);
        }
        for earlier in self.earlier(range) {
            (term, generation) = (term.max(earlier.term), generation.max(earlier.generation));
        }
        for left in survey.left.values() {
            (term, generation) = (term.max(left.last.0), generation.max(left.generation));
        }
        let Some(generation) = generation.checked_add(1) else {
            let message = format!("range {range} has had all generations of tokens");
            return Err(Refusal::new(Reason::NoSurvivor, message));
        };
        let record = RecoveryRecord {
            // Given by the log.
            id: 0,
            as_peer: PeerId(0),
            range,
            state: RecoveryState::Running,
            by: request.operator.clone(),
            at_unix_ms: request.at_unix_ms,
            lost,
            store,
            peer: orphan.peer,
            last: orphan.last,
            epoch: Epoch { version: epoch.version + JUMP, conf_ver: epoch.conf_ver + JUMP },
            term: term + JUMP,
            bounds: Bounds { start: orphan.descriptor.bounds.start.clone(), end },
            generation,
            now: request.now,
        };
        let (steps, losses) = (steps(&record), self.losses(survey, &record));
        Ok(Plan { record, known, steps, losses })
    }

    fn earlier(&self, range: RangeId) -> impl Iterator<Item = &RecoveryRecord> {
        self.state().recoveries().iter().filter(move |it| it.range == range)
    }

    /// # Errors
    /// There is nobody, or not all have said yet what they have.
    fn who_goes_on<'a>(&self, survey: &'a Survey<'_>) -> Result<(StoreId, &'a Orphan), Refusal> {
        let range = survey.range;
        if !survey.silent.is_empty() {
            let message = format!(
                "{} alive, and not all have said what they have of range {range}: try again in half a \
                 minute",
                stores_are(survey.silent.iter().copied())
            );
            return Err(Refusal::new(Reason::SurvivorsUnknown, message));
        }
        survey.chosen().ok_or_else(|| {
            let message = format!(
                "no replica is left of range {range} that could go on: start one of its stores again, \
                 with its directory"
            );
            Refusal::new(Reason::NoSurvivor, message)
        })
    }

    /// The first name that belongs to others by now, and the largest version of those. What was split
    /// off without a replica is another range's, which may live; of two that overlap the one with the
    /// older version has lost the names.
    fn names_left(&self, orphan: &Orphan) -> Result<(Vec<u8>, u64), Refusal> {
        let Descriptor { range, bounds, epoch, .. } = &orphan.descriptor;
        let mut end = bounds.end.clone();
        let mut shorten = |to: &[u8]| {
            if !to.is_empty() && (end.is_empty() || to < end.as_slice()) {
                end = to.to_vec();
            }
        };
        let mut version = 0;
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let named = |it: &Descriptor| (it.range, it.bounds.clone(), it.epoch.version);
        let known = self.state().ranges().overlapping(bounds).map(named);
        let told = leading.losses.all().map(|it| &it.descriptor);
        let told = told.filter(|it| it.bounds.overlaps(bounds)).map(named);
        // Whoever has gone on may serve already, and nobody may have heard of it.
        let recovered = self.state().recoveries().running();
        let recovered = recovered.filter(|it| it.bounds.overlaps(bounds));
        let recovered = recovered.map(|it| (it.range, it.bounds.clone(), it.epoch.version));
        for (other, Bounds { start, end }, other_version) in known.chain(told).chain(recovered) {
            if other == *range {
                if other_version > epoch.version {
                    shorten(&end);
                }
                continue;
            }
            if other_version < epoch.version {
                continue;
            }
            version = version.max(other_version);
            if start <= bounds.start {
                let message = format!(
                    "the names of what is left of range {range} belong to range {other} by now"
                );
                return Err(Refusal::new(Reason::NamesTaken, message));
            }
            shorten(&start);
        }
        Ok((end, version))
    }

    fn losses(&self, survey: &Survey<'_>, record: &RecoveryRecord) -> Vec<String> {
        let orphan = survey.left[&record.store];
        let (term, index) = record.last;
        let mut losses = vec![format!(
            "whatever the others decided behind entry {index} (term {term}), the last that store {} \
             has: who got a lock there loses it, and what was released there is held until its lease \
             ends",
            record.store
        )];
        if orphan.commit < index {
            losses.push(format!(
                "entries {} to {index} were never known to be decided, and count as if they were",
                orphan.commit + 1
            ));
        }
        if record.bounds != orphan.descriptor.bounds {
            let name = String::from_utf8_lossy(&record.bounds.end);
            losses
                .push(format!("what it has of names from {name:?} on, which are another range's"));
        }
        for store in &record.lost {
            let held = self.state().ranges().iter().filter(|it| it.on_store(*store).is_some());
            let others = held.filter(|it| it.range != survey.range).count();
            if others > 0 {
                losses.push(format!("store {store} with its replicas of {others} other ranges"));
            }
        }
        if record.now {
            losses.push(
                "mutual exclusion for up to 10 minutes: a lease that the lost entries have given may \
                 still run while another client gets the lock (--now)"
                    .to_owned(),
            );
        }
        losses
    }

    /// For people.
    pub(super) fn recoveries(&mut self, now: Duration) -> ListRecoveriesResponse {
        let silent: Vec<_> =
            self.lost_ranges(now).into_iter().map(|it| (it.range, it.silent)).collect();
        for (range, silent) in silent {
            self.ask_about(now, range, silent);
        }
        let lost = self.lost_ranges(now);
        ListRecoveriesResponse {
            lost: lost.iter().map(|survey| self.lost_range(survey)).collect(),
            recoveries: self.state().recoveries().iter().map(RecoveryRecord::to_wire).collect(),
        }
    }

    fn lost_ranges(&self, now: Duration) -> Vec<Survey<'_>> {
        let leading = self.leading.as_ref().expect("only a leader is asked");
        let mut ranges: Vec<_> = self.state().ranges().iter().map(|it| it.range).collect();
        ranges.extend(leading.losses.all().map(|it| it.descriptor.range));
        ranges.sort_unstable();
        ranges.dedup();
        let surveys = ranges.into_iter().filter_map(|range| self.survey(now, range).ok());
        let lost = surveys.filter(|survey| self.has_lost_its_majority(survey).is_ok());
        lost.take(LOST_SHOWN_MAX).collect()
    }

    fn lost_range(&self, survey: &Survey<'_>) -> LostRange {
        let Bounds { start, end } = survey.base.bounds.clone();
        let chosen = survey.chosen().map(|(store, _)| store);
        let survivor = |(store, orphan): (&StoreId, &&Orphan)| Survivor {
            store_id: store.0,
            peer_id: orphan.peer.0,
            last_term: orphan.last.0,
            last_index: orphan.last.1,
            commit_index: orphan.commit,
            is_voter: survey.base.on_store(*store).is_some_and(|it| it.role.votes()),
            is_chosen: chosen == Some(*store),
        };
        let lost = survey.missing.clone();
        let plan = match self.state().recoveries().of(survey.range) {
            Some(running) => Err(goes_on_already(running)),
            None => self.plan_recovery(survey, lost, &RecoverRangeRequest::default()),
        };
        let (hindrance, losses) = match plan {
            Ok(plan) => (String::new(), plan.losses),
            Err(refusal) => (refusal.message, Vec::new()),
        };
        let is_gone = |store: &&StoreId| {
            self.state().stores().get(store).is_some_and(|it| it.duty == Duty::Gone)
        };
        LostRange {
            range_id: survey.range.0,
            start: start.into(),
            end: end.into(),
            survivors: survey.left.iter().map(survivor).collect(),
            missing_store_ids: survey.missing.iter().map(|store| store.0).collect(),
            gone_store_ids: survey.missing.iter().filter(is_gone).map(|it| it.0).collect(),
            hindrance,
            losses,
        }
    }

    pub(super) fn recovery_begun(
        &mut self,
        number: u64,
        id: u64,
        steps: Vec<String>,
        losses: Vec<String>,
    ) {
        let record = self.state().recoveries().get(id).expect("it has just begun");
        let (recovery, lost) = (record.to_wire(), record.lost.clone());
        let lost_stores: Vec<_> = lost.iter().map(StoreId::to_string).collect();
        tracing::warn!(
            target: AUDIT,
            recovery_id = id,
            range = %record.range,
            operator = record.by,
            lost_stores = lost_stores.join(","),
            store = %record.store,
            peer = %record.as_peer,
            instead_of = %record.peer,
            term = record.term,
            generation = record.generation,
            now = record.now,
            "recovery-begins"
        );
        self.changed_stores.extend(lost);
        let running: Vec<_> = self.state().operators().running().map(|it| it.id).collect();
        if let Some(leading) = &mut self.leading {
            leading.operations.keep(|id| running.contains(&id));
        }
        let answer = RecoverRangeResponse { recovery: Some(recovery), steps, losses };
        self.reply(number, Reply::Recovering(answer));
    }

    pub(super) fn recovery_overtaken(&mut self, number: u64) {
        let message = "the range has changed meanwhile, and nothing was done: look again with \
                       `sharklock recover ls`";
        self.reply(number, Reply::Refused(Refusal::new(Reason::QuorumAlive, message)));
    }
}

fn goes_on_already(running: &RecoveryRecord) -> Refusal {
    let RecoveryRecord { id, range, store, .. } = running;
    let message = format!(
        "recovery {id} has store {store} go on with range {range}: wait for it; if that is lost, too, \
         name it as well (--lost)"
    );
    Refusal::new(Reason::RecoveryRunning, message)
}
