//! Splits that operators ask for, as in the product: a call at some gateway, which goes to the leader,
//! which wants ids. Calls are repeated, at other gateways as well; some are dry runs, some come by an
//! epoch that is over. What each is answered is compared with what replicas have applied.

use std::collections::{BTreeMap, BTreeSet};

use sharklock_dataserver::{IdsWanted, SplitLimits};
use sharklock_gateway::Origin;
use sharklock_gateway::failure::{Failure, Reason};
use sharklock_gateway::outbox::Answer;
use sharklock_gateway::validate::{self, Checked};
use sharklock_multiraft::Split;
use sharklock_proto::internal::v1::{SplitRange, store_reply::Body};
use sharklock_proto::v1::{
    RangeEpoch, RangePart, SplitRangeRequest, SplitRangeResponse, split_range_request::Which,
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, RangeId};

use crate::note;
use crate::world::{Event, MS, S, World};

/// How late a call may be repeated.
const REPEATED_MAX_NS: u64 = 8 * S;
/// How often one wish is called for at most.
const CALLS_MAX: u32 = 6;
/// Gateways give up a call after 30 s: an earlier end has another reason.
const NOT_GIVEN_UP_NS: u64 = 25 * S;

/// What operators have wished, and what came of it.
///
/// Invariant: every child in `made` is in `given`.
#[derive(Debug, Default)]
pub struct SplitCalls {
    wishes: Vec<Wish>,
    /// The splits for which workers were given ids, by child.
    given: BTreeMap<RangeId, (RangeId, Epoch, String)>,
    /// Splits that stores were told to make by the world: whoever had wanted the same is answered by
    /// what came of them.
    forced: BTreeSet<(RangeId, Epoch, String)>,
    /// Those that were made.
    made: BTreeSet<RangeId>,
    /// The children of which operators were told, by parent and the epoch that the split ended.
    told: BTreeMap<(RangeId, Epoch), RangeId>,
}

/// A split that an operator wishes.
#[derive(Debug)]
struct Wish {
    range: RangeId,
    epoch: Epoch,
    at: Option<String>,
    dry_run: bool,
    /// The first name of the range.
    name: String,
    /// So many calls were made for it,
    calls: u32,
    /// and so many were told that nothing was done.
    refused: u32,
}

impl Wish {
    /// Whether it may have led a leader to want this split.
    fn explains(&self, range: RangeId, epoch: Epoch, key: &str) -> bool {
        let is_it = (self.range, self.epoch) == (range, epoch) && !self.dry_run;
        is_it && self.at.as_ref().is_none_or(|at| at == key) && self.refused < self.calls
    }
}

/// A call on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitCall {
    wish: usize,
    asked_ns: u64,
    seen: Standing,
    /// Nothing else happens any more.
    settled: bool,
}

/// What must not change if a call is to be answered: who answers for its range, how often that has
/// changed, and how often its gateway has lost a store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    leaders: Vec<(usize, u32, u64)>,
    changes: u64,
    links_lost: u64,
}

impl World {
    /// Whether this wish for a split goes the way of an operator. If so, it is called for then.
    pub(crate) fn operator_wishes(
        &mut self,
        descriptor: Option<Descriptor>,
        split: &Split,
        at: u64,
    ) -> bool {
        let dice = &mut self.dice.asked_splits;
        let Some(Descriptor { range, bounds, .. }) = descriptor else { return false };
        if dice.below(100) >= self.options.split_calls_pct {
            return false;
        }
        let named = !dice.one_in(4);
        let dry_run = dice.one_in(8);
        let wish = Wish {
            range,
            epoch: split.epoch,
            at: named.then(|| split.key.clone()),
            dry_run,
            name: String::from_utf8_lossy(&bounds.start).into_owned(),
            calls: 0,
            refused: 0,
        };
        let repeated = match dice.below(4) {
            0 => Some(at + dice.around(2 * self.options.stream_delay_us * 1_000)),
            1 => Some(at + dice.below(REPEATED_MAX_NS)),
            _ => None,
        };
        self.split_calls.wishes.push(wish);
        let number = self.split_calls.wishes.len() - 1;
        for at in [Some(at), repeated].into_iter().flatten() {
            self.queue.plan(at, Event::SplitCalled(number));
        }
        true
    }

    /// An operator calls for a split, at some gateway.
    pub(crate) fn call_for_split(&mut self, number: usize) {
        let up = self.gateways.iter().enumerate();
        let up = up.filter(|(_, it)| it.process.is_some() && it.paused_until <= self.now);
        let up: Vec<usize> = up.map(|(at, _)| at + 1).collect();
        let wish = &self.split_calls.wishes[number];
        if up.is_empty() || self.splits.have_ceased() {
            return;
        }
        let gateway = *self.dice.asked_splits.pick(&up);
        let Wish { range, epoch: Epoch { conf_ver, version }, .. } = *wish;
        let request = SplitRangeRequest {
            which: Some(Which::RangeId(range.0)),
            at: wish.at.clone(),
            epoch: Some(RangeEpoch { conf_ver, version }),
            dry_run: wish.dry_run,
            operator: format!("g{gateway}"),
        };
        let Ok(checked) = validate::split_range(request) else {
            return self.counters.count("split calls that gateways refuse");
        };
        let (at, dry_run) = (checked.at, checked.dry_run);
        note!(self, "g{gateway} is called to split {range} ({}) at {at:?}", wish.epoch);
        self.counters.count(match (dry_run, wish.calls) {
            (true, _) => "split calls of dry runs",
            (false, 0) => "split calls",
            (false, _) => "split calls repeated",
        });
        let name = wish.name.clone();
        let question = SplitRange { name, range_id: range.0, conf_ver, version, at, dry_run };
        self.split_calls.wishes[number].calls += 1;
        let seen = self.standing(gateway, range);
        let settled = self.splits.is_settled;
        let call = SplitCall { wish: number, asked_ns: self.now, seen, settled };
        let node = &mut self.gateways[gateway - 1];
        let now_us = node.now_us(self.now);
        let process = node.process.as_mut().expect("it is up");
        process.last_call += 1;
        process.split_calls.insert(process.last_call, call);
        let origin =
            Origin { events_to: process.operator.number(), is_unary: false, address: "operator" };
        let checked = [(process.last_call, Ok(Checked::split_range(question)))];
        process.operator.submit(now_us, checked.into_iter(), origin);
        self.after_gateway(gateway);
    }

    fn standing(&self, gateway: usize, range: RangeId) -> Standing {
        let leads = self.stores.iter().filter(|store| store.answers(range));
        let term = |status: sharklock_multiraft::ReplicaStatus| status.term;
        let leaders = leads.map(|it| (it.number, it.life, it.status(range).map_or(0, term)));
        let process = self.gateways[gateway - 1].process.as_ref();
        Standing {
            leaders: leaders.collect(),
            changes: self.checks.replicas.leader_changes(range),
            links_lost: process.map_or(0, |process| process.links_lost),
        }
    }

    /// An operator is answered, or told why not.
    pub(crate) fn split_call_answered(&mut self, gateway: usize, call: SplitCall, answer: Answer) {
        let found = match answer.reply {
            Ok(Body::SplitRange(response)) => self.split_call_done(gateway, &call, &response),
            Ok(other) => Err(format!("a call for a split is answered {other:?}")),
            Err(failure) => self.split_call_failed(gateway, &call, &failure),
        };
        if let Err(what) = found {
            let wish = &self.split_calls.wishes[call.wish];
            let what = format!("g{gateway}, of {wish:?}: {what}");
            self.violated("splits", &[], format_args!("{what}"));
        }
    }

    fn split_call_done(
        &mut self,
        gateway: usize,
        call: &SplitCall,
        response: &SplitRangeResponse,
    ) -> Result<(), String> {
        let wish = &self.split_calls.wishes[call.wish];
        let (range, epoch) = (wish.range, wish.epoch);
        note!(self, "g{gateway}: {range} ({epoch}), done: {}, {}", response.done, response.because);
        let Some(before) = self.checks.tiling.in_epoch(range, epoch) else {
            return Err(format!("no replica has applied this epoch: {response:?}"));
        };
        let at = response.at.clone();
        let next = Epoch { version: epoch.version + 1, ..epoch };
        // A dry run may find that it was split there before.
        let is_again = response.because.contains("already");
        let is_meant = wish.at.as_ref().is_none_or(|named| *named == at)
            && (response.done != wish.dry_run || (response.done && is_again));
        let parts = response.lower.as_ref().zip(response.upper.as_ref());
        let (Some((lower, upper)), true) = (parts, is_meant) else {
            return Err(format!("that is no answer: {response:?}"));
        };
        if response.epoch.map(epoch_of) != Some(epoch) {
            return Err(format!("another epoch was meant: {response:?}"));
        }
        let Bounds { start, end } = before.bounds.clone();
        let cut = at.into_bytes();
        let below = Descriptor {
            bounds: Bounds { start, end: cut.clone() },
            epoch: next,
            ..before.clone()
        };
        let above = Descriptor { bounds: Bounds { start: cut, end }, ..below.clone() };
        is_half(lower, &below)?;
        // Later the child may have been split as well.
        let later =
            upper.epoch.filter(|_| is_again).map(|it| (RangeId(upper.range_id), epoch_of(it)));
        let later = later.and_then(|(child, epoch)| self.checks.tiling.in_epoch(child, epoch));
        is_half(upper, later.unwrap_or(&above))?;
        if lower.range_id != range.0 {
            return Err(format!("the lower half is another range: {response:?}"));
        }
        if !response.done {
            self.counters.count("split calls answered with a plan");
            return if upper.range_id == 0 {
                Ok(())
            } else {
                Err(format!("a plan has an id: {response:?}"))
            };
        }
        let child = RangeId(upper.range_id);
        let is_new =
            self.split_calls.told.insert((range, epoch), child).is_none_or(|it| it == child);
        let position = response.position.unwrap_or_default();
        self.checks.tiling.was_split((range, epoch), child, (position.applied_index, is_again))?;
        let stands = (position.range_id, position.version) == (range.0, next.version);
        if !is_new || !stands {
            return Err(format!("another child or place was told before: {response:?}"));
        }
        self.counters.count(match is_again {
            true => "split calls answered again",
            false => "split calls answered",
        });
        Ok(())
    }

    fn split_call_failed(
        &mut self,
        gateway: usize,
        call: &SplitCall,
        failure: &Failure,
    ) -> Result<(), String> {
        let number = call.wish;
        let reason = failure.reason;
        note!(
            self,
            "g{gateway}: {} is not split: {}",
            self.split_calls.wishes[number].range,
            reason.as_str()
        );
        let is_known = reason != Reason::Indeterminate;
        self.counters.count(match reason {
            Reason::Indeterminate => "split calls whose outcome is not known",
            Reason::NoLeader | Reason::RangeMoved => "split calls that found no leader",
            Reason::NoMaster => "split calls refused: no master",
            Reason::SplitRunning => "split calls refused: another runs",
            Reason::RangeChanged => "split calls refused: the range has changed",
            _ => "split calls refused otherwise",
        });
        let wish = &mut self.split_calls.wishes[number];
        let range = wish.range;
        wish.refused += u32::from(is_known);
        if failure.retry_after_ms > 0 || !is_known {
            self.call_again(number);
        }
        if is_known {
            return self.check_refusals();
        }
        // Nothing has come between, and yet nobody knows.
        let is_early = self.now < call.asked_ns + NOT_GIVEN_UP_NS || call.settled;
        let stands = self.standing(gateway, range);
        if is_early && stands == call.seen && stands.leaders.len() == 1 {
            return Err(format!("it is not known, and all is as it was: {stands:?}"));
        }
        Ok(())
    }

    /// As the Rust client does it.
    fn call_again(&mut self, number: usize) {
        let calls = self.split_calls.wishes[number].calls;
        let dice = &mut self.dice.asked_splits;
        if calls < CALLS_MAX && !self.is_winding_down && dice.one_in(2) {
            let at = self.now + dice.between(50, 2_000) * MS;
            self.queue.plan(at, Event::SplitCalled(number));
        }
    }

    /// Whoever was told that nothing was done has split nothing.
    fn check_refusals(&self) -> Result<(), String> {
        // Those that nobody has asked for look alike.
        if self.options.split_limits() != SplitLimits::default() {
            return Ok(());
        }
        let SplitCalls { wishes, given, forced, made, .. } = &self.split_calls;
        for child in made {
            let split @ (range, epoch, key) = &given[child];
            if !forced.contains(split)
                && !wishes.iter().any(|wish| wish.explains(*range, *epoch, key))
            {
                let split = format!("{range} ({epoch}) at {key} into {child}");
                return Err(format!(
                    "all who asked for it were refused, and it was split: {split}"
                ));
            }
        }
        Ok(())
    }

    /// A worker wants splits: somebody has asked for them.
    pub(crate) fn ids_were_wanted(&mut self, wanted: &[IdsWanted]) {
        if self.options.split_limits() != SplitLimits::default() {
            return;
        }
        for IdsWanted { range, epoch, key, .. } in wanted {
            let mut wishes = self.split_calls.wishes.iter();
            if !wishes.any(|wish| wish.explains(*range, *epoch, key)) {
                let what = format_args!("nobody has asked to split {range} ({epoch}) at {key}");
                return self.violated("splits", &[], what);
            }
        }
    }

    /// A store is told to split a range although nobody has wanted it there.
    pub(crate) fn split_is_forced(&mut self, range: RangeId, split: &Split) {
        let Split { epoch, key, .. } = split;
        self.split_calls.forced.insert((range, *epoch, key.clone()));
    }

    /// A worker is given ids.
    pub(crate) fn ids_were_given(&mut self, range: RangeId, split: &Split) {
        let Split { epoch, key, child, .. } = split;
        self.split_calls.given.insert(*child, (range, *epoch, key.clone()));
    }

    /// A range was split off another.
    pub(crate) fn asked_split_is_made(&mut self, child: RangeId) {
        if !self.split_calls.given.contains_key(&child) {
            return;
        }
        self.counters.count("splits applied for which leaders wanted ids");
        self.split_calls.made.insert(child);
        if let Err(what) = self.check_refusals() {
            self.violated("splits", &[], format_args!("{what}"));
        }
    }

    /// Every child that an operator was told of has come into being, and no call waits.
    pub(crate) fn check_split_calls_at_rest(&mut self) {
        let tiling = &self.checks.tiling;
        let mut told = self.split_calls.told.iter();
        if let Some(((range, _), child)) =
            told.find(|((range, _), child)| tiling.parent(**child) != Some(*range))
        {
            let what = format!("an operator was told that {range} was split into {child}");
            return self.violated("splits", &[], format_args!("{what}"));
        }
        let waiting = self.gateways.iter().filter_map(|it| it.process.as_ref());
        let waiting: Vec<_> = waiting.flat_map(|it| it.split_calls.values()).collect();
        if let Some(call) = waiting.first() {
            let what = format!("nobody has answered {call:?}");
            self.violated("splits", &[], format_args!("{what}"));
        }
    }
}

fn epoch_of(RangeEpoch { conf_ver, version }: RangeEpoch) -> Epoch {
    Epoch { conf_ver, version }
}

fn is_half(part: &RangePart, expected: &Descriptor) -> Result<(), String> {
    let Descriptor { bounds, epoch, replicas, .. } = expected;
    let is_it = part.start.as_bytes() == bounds.start
        && part.end.as_bytes() == bounds.end
        && part.epoch.map(epoch_of) == Some(*epoch)
        && part.store_ids.iter().copied().eq(replicas.iter().map(|it| it.store.0));
    if is_it {
        Ok(())
    } else {
        Err(format!("{part:?} is not {bounds:?} in {epoch}, on {replicas:?}"))
    }
}
