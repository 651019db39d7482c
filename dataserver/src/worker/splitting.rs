//! Splits that this store is asked for, and the answers that wait for one (`gate.rs`).

use std::time::Duration;

use sharklock_multiraft::{AwaitedChild, Proposed, Split};
use sharklock_proto::{
    internal::v1::{self as internal, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Descriptor, Epoch, RangeId};

use super::Worker;
use crate::{
    front::{Front, Read, ReplyTo, WantedSplit},
    gate::{Gate, HeldOutcome, Opened, SplitAskers},
    load::Load,
    ports::IdsWanted,
    splitting::{Cut, NotSplit},
    wire,
};

/// Callers that may wait for one split: repetitions of one call, by several gateways.
const ASKERS_MAX: usize = 64;

impl Worker {
    /// An operator asks for a split of a range that this store leads. It is answered once it is applied,
    /// or refused.
    pub(super) fn asked_to_split(
        &mut self,
        to: ReplyTo,
        range: RangeId,
        asked: &internal::SplitRange,
    ) {
        match self.begin_split(to, range, asked) {
            Ok(Some(response)) => self.replies.reply(to, Body::SplitRange(response)),
            Ok(None) => {}
            Err(why) => self.refuse_split(range, &[to], why),
        }
    }

    /// The answer, if there is nothing to wait for.
    fn begin_split(
        &mut self,
        to: ReplyTo,
        range: RangeId,
        asked: &internal::SplitRange,
    ) -> Result<Option<v1::SplitRangeResponse>, NotSplit> {
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let internal::SplitRange { conf_ver, version, at, .. } = asked;
        let epoch = Epoch { conf_ver: *conf_ver, version: *version };
        if asked.range_id != range.0 {
            return Err(NotSplit::Changed(descriptor.epoch));
        }
        if let Some(done) = at.as_ref().and_then(|at| self.was_split(descriptor, epoch, at)) {
            return Ok(Some(done));
        }
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        if let Some((of, key, askers)) = front.split_under_way() {
            let is_the_same = of == epoch && at.as_deref() == Some(key);
            if !is_the_same || asked.dry_run || askers.to.len() >= ASKERS_MAX {
                return Err(NotSplit::Running);
            }
            askers.to.push(to);
            return Ok(None);
        }
        if epoch != descriptor.epoch {
            return Err(NotSplit::Changed(descriptor.epoch));
        }
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        let cut = Cut::choose(table, &descriptor.bounds, at.as_deref())?;
        let may = self.store.may_split(range, epoch, &cut.at);
        may.map_err(|error| NotSplit::of_engine(&error, false))?;
        self.check_room()?;
        if asked.dry_run {
            return Ok(Some(self.plan(descriptor, cut)));
        }
        let replicas = descriptor.replicas.len();
        let askers = SplitAskers { because: cut.to_string(), to: vec![to] };
        let key = cut.at;
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        front.wanted = Some(WantedSplit { epoch, key: key.clone(), askers });
        self.ids_wanted.push(IdsWanted { range, epoch, key, replicas });
        Ok(None)
    }

    /// The answer to whoever repeats the call by which the range was split, since the first answer was
    /// lost.
    fn was_split(
        &self,
        descriptor: &Descriptor,
        epoch: Epoch,
        at: &str,
    ) -> Option<v1::SplitRangeResponse> {
        let Descriptor { bounds, epoch: now, .. } = descriptor;
        let is_next = now.conf_ver == epoch.conf_ver && now.version == epoch.version + 1;
        if !is_next || bounds.end != at.as_bytes() {
            return None;
        }
        let child = self.store.descriptor_at(at.as_bytes())?;
        let because = "it was split there already, by this epoch".to_owned();
        let index = self.store.status(descriptor.range)?.applied;
        Some(split_response((descriptor, child), index, epoch, because))
    }

    /// Says what a split would do.
    fn plan(&self, descriptor: &Descriptor, cut: Cut) -> v1::SplitRangeResponse {
        let next = Epoch { version: descriptor.epoch.version + 1, ..descriptor.epoch };
        let because = cut.to_string();
        let Cut { at, below, above, .. } = cut;
        let half = v1::RangePart { epoch: Some(wire_epoch(next)), ..part(descriptor) };
        let lower = v1::RangePart { end: at.clone(), locks: below as u64, ..half.clone() };
        let upper = v1::RangePart { range_id: 0, start: at.clone(), locks: above as u64, ..half };
        let applied = self.store.status(descriptor.range).map_or(0, |status| status.applied);
        v1::SplitRangeResponse {
            position: Some(wire::position(descriptor, applied)),
            done: false,
            because,
            epoch: Some(wire_epoch(descriptor.epoch)),
            lower: Some(lower),
            upper: Some(upper),
            at,
        }
    }

    /// Whether this store may have one more replica, with those that splits on their way will make.
    fn check_room(&self) -> Result<(), NotSplit> {
        let is_splitting = |front: &&Front| front.gate.is_some() || front.wanted.is_some();
        let coming = self.fronts.values().filter(is_splitting).count();
        let here = self.fronts.len() + coming + self.ranges_elsewhere;
        let max = self.ranges_max;
        if here >= max { Err(NotSplit::TooManyRanges { here, max }) } else { Ok(()) }
    }

    /// Proposes a split of a range that this store leads. Where it cannot be proposed nothing has
    /// happened; whoever waits for it is told why.
    pub(super) fn split(&mut self, range: RangeId, split: Split) {
        let askers = self.take_wanted(range, split.epoch, &split.key).unwrap_or_default();
        match self.try_split(range, &split) {
            Ok(proposed) => {
                tracing::info!(%range, child = %split.child, "a split is proposed");
                let front = self.fronts.get_mut(&range).expect("it is led here");
                let before = front.gate.replace(Gate::shut(proposed.index, split, askers));
                assert!(before.is_none(), "range {range} has two splits on their way: {before:?}");
                self.agenda.wake(range);
            }
            Err(why) => {
                tracing::info!(%range, %why, "no split");
                self.refuse_split(range, &askers.to, why);
            }
        }
    }

    fn try_split(&mut self, range: RangeId, split: &Split) -> Result<Proposed, NotSplit> {
        let leading = self.fronts.get(&range).filter(|front| front.leading.is_some());
        let Some(front) = leading else {
            let leader = self.store.status(range).and_then(|status| status.leader);
            return Err(NotSplit::NotLeader { leader });
        };
        let is_split = front.gate.is_some();
        self.check_room()?;
        let proposed = self.store.split(range, split);
        proposed.map_err(|error| NotSplit::of_engine(&error, is_split))
    }

    /// There are no ids for a split that was wanted.
    pub(super) fn no_ids(&mut self, wanted: &IdsWanted, why: String) {
        let IdsWanted { range, epoch, key, .. } = wanted;
        if let Some(askers) = self.take_wanted(*range, *epoch, key) {
            tracing::info!(%range, why, "no split, since there are no ids for it");
            self.refuse_split(*range, &askers.to, NotSplit::NoMaster(why));
        }
    }

    /// Those who wait for this split, which waits for ids no longer.
    fn take_wanted(&mut self, range: RangeId, epoch: Epoch, key: &str) -> Option<SplitAskers> {
        let front = self.fronts.get_mut(&range)?;
        let wanted = front.wanted.take_if(|wanted| wanted.epoch == epoch && wanted.key == key);
        wanted.map(|wanted| wanted.askers)
    }

    fn refuse_split(&mut self, range: RangeId, askers: &[ReplyTo], why: NotSplit) {
        self.stats.split_refusals += u64::from(!askers.is_empty());
        for to in askers {
            self.replies.fail(*to, why.clone().into_kind(range));
        }
    }

    /// Behind an entry that was applied and is none of the machine's: if it is the split for which
    /// answers were kept back, the outcomes are told now, as if they had come in this turn. The
    /// keepalives are for [`answer`](Self::answer), once clocks and bounds are up to date.
    pub(super) fn open_gate(
        &mut self,
        now: Duration,
        range: RangeId,
        index: u64,
    ) -> Option<(RangeId, Vec<Read>)> {
        let front = self.fronts.get_mut(&range)?;
        // If the range has ended in the same turn, its end answers them.
        let status = self.store.status(range)?;
        let gate = front.gate.take_if(|gate| gate.opens_at(index))?;
        let Opened { split, askers, outcomes, keepalives } = gate.open();
        let (at, subscribers) = ((index, status.applied), &mut front.subscribers);
        let mut answers = self.replies.at(now, &self.store, range, at, subscribers);
        let clock = front.leading.as_ref().map(|leading| &leading.clock);
        for HeldOutcome { index, asker, outcome } in outcomes {
            answers.position.applied_index = index;
            answers.outcome(asker, outcome, clock);
        }
        front.load = Load::begin(now);
        self.tell_of_split(range, index, &split, &askers);
        Some((range, keepalives))
    }

    /// Tells those who wait for a split what has come of it.
    fn tell_of_split(&mut self, range: RangeId, index: u64, split: &Split, askers: &SplitAskers) {
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let child = self.store.descriptor_at(split.key.as_bytes());
        let Some(child) = child.filter(|child| child.range == split.child) else {
            let why = NotSplit::Changed(descriptor.epoch);
            return self.refuse_split(range, &askers.to, why);
        };
        self.stats.splits += 1;
        let because = askers.because.clone();
        let response = split_response((descriptor, child), index, split.epoch, because);
        for to in &askers.to {
            self.replies.reply(*to, Body::SplitRange(response.clone()));
        }
    }
}

/// Says what a split has done.
fn split_response(
    (parent, child): (&Descriptor, &Descriptor),
    index: u64,
    epoch: Epoch,
    because: String,
) -> v1::SplitRangeResponse {
    let upper = part(child);
    v1::SplitRangeResponse {
        position: Some(wire::position(parent, index)),
        at: upper.start.clone(),
        done: true,
        because,
        epoch: Some(wire_epoch(epoch)),
        lower: Some(part(parent)),
        upper: Some(upper),
    }
}

fn part(descriptor: &Descriptor) -> v1::RangePart {
    let Descriptor { range, bounds, epoch, .. } = descriptor;
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    v1::RangePart {
        range_id: range.0,
        start: text(&bounds.start),
        end: text(&bounds.end),
        epoch: Some(wire_epoch(*epoch)),
        locks: 0,
        store_ids: descriptor.replicas.iter().map(|replica| replica.store.0).collect(),
    }
}

fn wire_epoch(epoch: Epoch) -> v1::RangeEpoch {
    let Epoch { conf_ver, version } = epoch;
    v1::RangeEpoch { conf_ver, version }
}

/// Follows how long the log of a range has become that is kept for a child.
pub(super) fn look_at_log(range: RangeId, front: &mut Front, awaited: Option<AwaitedChild>) {
    let overlong = awaited.filter(|awaited| front.leading.is_some() && awaited.is_too_much());
    let was_overlong = std::mem::replace(&mut front.is_overlong, overlong.is_some());
    match overlong {
        Some(AwaitedChild { child, log_bytes, log_bytes_max }) if !was_overlong => tracing::warn!(
            %range,
            %child,
            log_bytes,
            log_bytes_max,
            "nobody has led a range since it was split off, and the log that is kept for it is too \
             long: nobody can acquire in the range from which it came"
        ),
        None if was_overlong => tracing::info!(%range, "the log is not too long any more"),
        Some(_) | None => {}
    }
}
