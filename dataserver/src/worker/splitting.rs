//! Splits of ranges that this store leads, and the answers that wait for one (`gate.rs`).

use std::time::Duration;

use sharklock_multiraft::{AwaitedChild, Proposed, Split};
use sharklock_proto::{
    internal::v1::{self as internal, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Descriptor, Epoch, RangeId};

use super::Worker;
use crate::{
    front::{Front, Read, ReplyTo, Unsplit, WantedSplit},
    gate::{Gate, HeldOutcome, Opened, SplitWish},
    load::Load,
    load_sample::LoadSample,
    ports::IdsWanted,
    splitting::{Cut, NotSplit},
    triggers::Measure,
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
        if let Some((of, key, wish)) = front.split_under_way() {
            let is_the_same = of == epoch && at.as_deref() == Some(key);
            if !is_the_same || asked.dry_run || wish.askers.len() >= ASKERS_MAX {
                return Err(NotSplit::Running);
            }
            wish.askers.push(to);
            return Ok(None);
        }
        if epoch != descriptor.epoch {
            return Err(NotSplit::Changed(descriptor.epoch));
        }
        let table = self.store.machine(range).expect("a leading replica has its state").table();
        let cut = Cut::choose(table, &descriptor.bounds, at.as_deref())?;
        self.check_split(range, epoch, &cut, None)?;
        if asked.dry_run {
            return Ok(Some(self.plan(descriptor, cut)));
        }
        let because = cut.to_string();
        let wish = SplitWish { because, excess_of: None, askers: vec![to] };
        self.want_split(range, epoch, cut, wish);
        Ok(None)
    }

    /// Whether a split could be proposed, as far as that is known without ids for it.
    pub(super) fn check_split(
        &self,
        range: RangeId,
        epoch: Epoch,
        cut: &Cut,
        excess_of: Option<Measure>,
    ) -> Result<(), NotSplit> {
        let may = self.store.may_split(range, epoch, &cut.at);
        may.map_err(|error| NotSplit::of_engine(&error, false))?;
        self.check_room(excess_of)
    }

    /// Asks for ids for a split that was checked.
    pub(super) fn want_split(&mut self, range: RangeId, epoch: Epoch, cut: Cut, wish: SplitWish) {
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let (key, replicas) = (cut.at, descriptor.replicas.len());
        let term = self.store.status(range).expect("it is led here").term;
        let front = self.fronts.get_mut(&range).expect("every range has a front");
        front.wanted = Some(WantedSplit { epoch, key: key.clone(), term, wish });
        self.ids_wanted.push(IdsWanted { range, epoch, key, replicas, term });
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

    /// Whether this store may have one more replica, with those that splits on their way will make. What
    /// passes by itself may use up half of them only: the other half is for ranges that grow, and for
    /// operators.
    fn check_room(&self, excess_of: Option<Measure>) -> Result<(), NotSplit> {
        let is_splitting = |front: &&Front| front.gate.is_some() || front.wanted.is_some();
        let coming = self.fronts.values().filter(is_splitting).count();
        let here = self.fronts.len() + coming + self.ranges_elsewhere;
        let max = match excess_of {
            Some(measure) if measure.passes() => self.ranges_max / 2,
            _ => self.ranges_max,
        };
        if here >= max { Err(NotSplit::TooManyRanges { here, max }) } else { Ok(()) }
    }

    /// Proposes a split of a range that this store leads. Where it cannot be proposed nothing has
    /// happened; whoever waits for it is told why. One that was `wanted_in` another term is not made,
    /// though this store may lead again: whoever has asked was told that nothing is done.
    pub(super) fn split(&mut self, range: RangeId, wanted_in: Option<u64>, split: Split) {
        let wanted = self.take_wanted(range, split.epoch, &split.key, wanted_in);
        if wanted.is_none() && wanted_in.is_some() {
            tracing::info!(%range, why = "nobody waits for it any more", "no split");
            return;
        }
        let wish = wanted.unwrap_or_default();
        match self.try_split(range, &split, wish.excess_of) {
            Ok(proposed) => {
                let (child, why, index) = (split.child, &wish.because, proposed.index);
                // No name: logs are read by more people than locks.
                tracing::info!(%range, %child, why, index, "a split is proposed");
                let front = self.fronts.get_mut(&range).expect("it is led here");
                let before = front.gate.replace(Gate::shut(proposed.index, split, wish));
                assert!(before.is_none(), "range {range} has two splits on their way: {before:?}");
                self.agenda.wake(range);
            }
            Err(why) => {
                tracing::info!(%range, %why, "no split");
                self.refuse_split(range, &wish.askers, why);
            }
        }
    }

    fn try_split(
        &mut self,
        range: RangeId,
        split: &Split,
        excess_of: Option<Measure>,
    ) -> Result<Proposed, NotSplit> {
        let leading = self.fronts.get(&range).filter(|front| front.leading.is_some());
        let Some(front) = leading else {
            let leader = self.store.status(range).and_then(|status| status.leader);
            return Err(NotSplit::NotLeader { leader });
        };
        let is_split = front.gate.is_some();
        self.check_room(excess_of)?;
        let proposed = self.store.split(range, split);
        proposed.map_err(|error| NotSplit::of_engine(&error, is_split))
    }

    /// There are no ids for a split that was wanted.
    pub(super) fn no_ids(&mut self, wanted: &IdsWanted, why: String) {
        let IdsWanted { range, epoch, key, term, .. } = wanted;
        if let Some(wish) = self.take_wanted(*range, *epoch, key, Some(*term)) {
            tracing::info!(%range, why, "no split: there are no ids for it");
            let why = NotSplit::NoMaster(why);
            if wish.excess_of.is_some()
                && let Some(front) = self.fronts.get_mut(range)
            {
                front.unsplit = Some(Unsplit { because: why.to_string(), hot_name: None });
            }
            self.refuse_split(*range, &wish.askers, why);
        }
    }

    /// Why this split is wanted, which waits for ids no longer, and who waits for it. `term`: in which it
    /// was wanted; `None`: whenever.
    fn take_wanted(
        &mut self,
        range: RangeId,
        epoch: Epoch,
        key: &str,
        term: Option<u64>,
    ) -> Option<SplitWish> {
        let front = self.fronts.get_mut(&range)?;
        let wanted = front.wanted.take_if(|wanted| {
            (wanted.epoch, wanted.key.as_str()) == (epoch, key)
                && term.is_none_or(|term| term == wanted.term)
        });
        wanted.map(|wanted| wanted.wish)
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
        let Opened { split, wish, outcomes, keepalives } = gate.open();
        let (at, subscribers) = ((index, status.applied), &mut front.subscribers);
        let mut answers = self.replies.at(now, &self.store, range, at, subscribers);
        let clock = front.leading.as_ref().map(|leading| &leading.clock);
        for HeldOutcome { index, asker, outcome } in outcomes {
            answers.position.applied_index = index;
            answers.outcome(asker, outcome, clock);
        }
        front.load = Load::begin(now);
        front.sample = LoadSample::begin(now);
        front.unsplit = None;
        self.oversized.forget(range);
        self.tell_of_split(range, index, &split, &wish);
        Some((range, keepalives))
    }

    /// Tells those who wait for a split what has come of it.
    fn tell_of_split(&mut self, range: RangeId, index: u64, split: &Split, wish: &SplitWish) {
        let descriptor = self.store.descriptor(range).expect("a range has its descriptor");
        let child = self.store.descriptor_at(split.key.as_bytes());
        let Some(child) = child.filter(|child| child.range == split.child) else {
            let why = NotSplit::Changed(descriptor.epoch);
            return self.refuse_split(range, &wish.askers, why);
        };
        self.stats.splits.count(wish.excess_of);
        if wish.excess_of == Some(Measure::Commands) {
            self.oversized.hand_on(split.child);
        }
        let because = wish.because.clone();
        let response = split_response((descriptor, child), index, split.epoch, because);
        for to in &wish.askers {
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
