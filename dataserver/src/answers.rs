//! Answers and events: what was applied or read, in the API's words, collected per gateway.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::{
    Acquisition, Ascending, AskView, Change, Finished, Grant, HoldView, LockTable, Name, Outcome,
    Refusal, Reply, Status, Token,
};
use sharklock_multiraft::Store;
use sharklock_proto::{
    internal::v1::{self as internal, StoreReply, store_error::Kind, store_reply::Body},
    v1,
};
use sharklock_rangemap::{Descriptor, RangeId, StoreId};

use crate::{
    front::{About, Asker, LinkId, ReplyTo, Subscriber, Wish},
    lease_clock::LeaseClock,
    machine::LockRange,
    moved, wire,
};

/// Holders shown to whoever has to wait.
pub const HOLDERS_SHOWN: usize = 8;
/// Bytes of holders, waiters or locks in one answer: below what a gateway may send in one message.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Answers and events of a turn, in order per link.
#[derive(Debug, Default)]
pub struct Replies {
    by_link: BTreeMap<LinkId, Vec<StoreReply>>,
}

impl Replies {
    /// The replies that have been collected.
    pub fn take(&mut self) -> Vec<(LinkId, Vec<StoreReply>)> {
        std::mem::take(&mut self.by_link).into_iter().collect()
    }

    /// Drops what was meant for a link that is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.by_link.remove(&link);
    }

    /// Answers as of an index of a range's log, from a table that has `applied` so much. The range
    /// is in the store.
    pub fn at<'a>(
        &'a mut self,
        now: Duration,
        store: &'a Store<LockRange>,
        range: RangeId,
        (index, applied): (u64, u64),
        subscribers: &'a mut Ascending<Acquisition, Subscriber>,
    ) -> Answers<'a> {
        let table = store.machine(range).expect("a range has its state").table();
        let descriptor = store.descriptor(range).expect("a range has its descriptor");
        let position = wire::position(descriptor, index);
        Answers { replies: self, now, position, applied, store, descriptor, table, subscribers }
    }

    /// Something could not be done.
    pub fn fail(&mut self, to: ReplyTo, kind: Kind) {
        self.reply(to, Body::Error(internal::StoreError { kind: Some(kind) }));
    }

    /// A call that breaks a rule.
    pub fn refuse(&mut self, to: ReplyTo, reason: &str, message: &str) {
        self.fail(to, wire::refused(reason, message));
    }

    /// Not done: this replica does not lead.
    pub fn not_leader(&mut self, to: ReplyTo, range: RangeId, leader: Option<StoreId>) {
        self.fail(to, wire::not_leader(range, leader));
    }

    /// May or may not be done: leadership was lost on the way.
    pub fn indeterminate(&mut self, to: ReplyTo) {
        self.fail(to, Kind::Indeterminate(internal::Indeterminate {}));
    }

    pub fn reply(&mut self, to: ReplyTo, body: Body) {
        let reply = StoreReply { tag: to.tag, stream: 0, body: Some(body) };
        self.by_link.entry(to.link).or_default().push(reply);
    }

    fn event(&mut self, to: Subscriber, event: v1::AcquisitionEvent) {
        let reply = StoreReply { tag: 0, stream: to.stream, body: Some(Body::Event(event)) };
        self.by_link.entry(to.link).or_default().push(reply);
    }
}

/// Answers from the state of one range at one index.
pub struct Answers<'a> {
    pub replies: &'a mut Replies,
    pub now: Duration,
    pub position: v1::Position,
    /// Up to here the table goes, which may be beyond `position`: entries of one turn are answered
    /// together.
    pub applied: u64,
    store: &'a Store<LockRange>,
    /// As of `applied`, too.
    pub descriptor: &'a Descriptor,
    pub table: &'a LockTable,
    subscribers: &'a mut Ascending<Acquisition, Subscriber>,
}

impl Answers<'_> {
    /// Answers whoever asked for a command, and tells those whom it concerned. `clock` is set while
    /// this replica leads; replayed and inherited entries push nothing.
    pub fn outcome(&mut self, asker: Asker, outcome: Outcome, clock: Option<&LeaseClock>) {
        let cancelled = match &asker {
            Asker::Call { about: About::Release | About::Cancel, .. } | Asker::Withdrawal(_) => {
                true
            }
            Asker::Clock | Asker::Acquire { .. } | Asker::Agree { .. } | Asker::Call { .. } => {
                false
            }
        };
        self.answer(asker, outcome.reply, &outcome.changes, clock);
        if clock.is_none() {
            return;
        }
        for change in outcome.changes {
            self.push(change, cancelled);
        }
    }

    fn answer(
        &mut self,
        asker: Asker,
        reply: Reply,
        changes: &[Change],
        clock: Option<&LeaseClock>,
    ) {
        let Some(to) = asker.reply_to() else { return };
        let position = Some(self.position);
        let body = match asker {
            Asker::Clock | Asker::Withdrawal(_) => return,
            // The others hear how their command ended, which was true where it stands. What an acquire
            // hears is made of the table as well (see `granted`), so that it is repeated, under its
            // id; only of a refusal is it known that nothing was done.
            Asker::Acquire { acquisition, name, .. } if self.has_left(name.as_str()) => {
                self.subscribers.remove(&acquisition);
                return match reply {
                    Reply::Refused(_) => self.fail_moved(to, [name.as_str()]),
                    _ => self.replies.indeterminate(to),
                };
            }
            Asker::Acquire { acquisition, name, seq, .. } => {
                let mut response = v1::AcquireResponse {
                    position,
                    seq,
                    acquisition_id: acquisition.id.0,
                    ..v1::AcquireResponse::default()
                };
                match reply {
                    Reply::Indeterminate => {
                        self.subscribers.remove(&acquisition);
                        return self.replies.indeterminate(to);
                    }
                    Reply::Refused(Refusal::Quarantine) => {
                        self.subscribers.remove(&acquisition);
                        let left = clock.and_then(|clock| clock.quarantine_left(self.now));
                        return self.replies.fail(to, wire::in_quarantine(left));
                    }
                    Reply::Refused(refusal) => {
                        self.subscribers.remove(&acquisition);
                        return self.replies.fail(to, wire::refusal(refusal));
                    }
                    reply => self.acquired(&mut response, acquisition, &name, reply, clock),
                }
                Body::Acquire(response)
            }
            Asker::Agree { wish, .. } => match reply {
                Reply::Refused(refusal) => return self.replies.fail(to, wire::refusal(refusal)),
                reply => Body::Agreement(agreed(position, wish, &reply)),
            },
            Asker::Call { about, .. } => match reply {
                Reply::Refused(refusal) => return self.replies.fail(to, wire::refusal(refusal)),
                reply => self.done(about, reply, changes, clock),
            },
        };
        self.replies.reply(to, body);
    }

    /// What a command did, for whoever asked for it.
    fn done(
        &self,
        about: About,
        reply: Reply,
        changes: &[Change],
        clock: Option<&LeaseClock>,
    ) -> Body {
        let position = Some(self.position);
        match about {
            About::Release => Body::Release(released(position, &reply)),
            About::Cancel => Body::Cancel(cancelled(position, &reply)),
            About::Downgrade => Body::Downgrade(downgraded(position, &reply)),
            About::SetAttributes => Body::SetAttributes(attributes_set(position, &reply)),
            About::Revoke { bytes_max } => {
                Body::RevokeRangeSession(self.revoked(reply, changes, bytes_max, clock))
            }
            About::Ask => {
                let holds = holds(reply);
                let asked_count = u32::try_from(holds.len()).unwrap_or(u32::MAX);
                let shown = holds.into_iter().take(HOLDERS_SHOWN);
                let holders = shown.map(|hold| self.holder_in_short(hold, clock)).collect();
                Body::Ask(v1::AskResponse { position, holders, asked_count })
            }
            About::ForceRelease => {
                let holds = holds(reply);
                let ended = holds.iter().all(|hold| has_ended(hold.grant.token, changes));
                let holders = holds.into_iter().map(|hold| self.holder(hold, clock));
                let holders = within_budget(holders, ANSWER_BYTES_MAX);
                Body::ForceRelease(v1::ForceReleaseResponse { position, holders, ended })
            }
        }
    }

    fn acquired(
        &mut self,
        response: &mut v1::AcquireResponse,
        acquisition: Acquisition,
        name: &Name,
        reply: Reply,
        clock: Option<&LeaseClock>,
    ) {
        let how = match reply {
            Reply::Granted(grant) => return self.granted(response, acquisition, name, grant),
            Reply::Queued { place, ttl_ms } => {
                response.set_outcome(v1::AcquireOutcome::Queued);
                response.place = place;
                response.ttl_ms = ttl_ms;
                response.agreement = self.agreement(name, acquisition);
                return self.show_holders(response, name, clock);
            }
            reply => finished(&reply),
        };
        self.subscribers.remove(&acquisition);
        response.set_outcome(wire::finished_outcome(how));
        response.set_gone_reason(wire::gone_reason(how));
        if matches!(how, Finished::TryRefused | Finished::WaitTimedOut) {
            self.show_holders(response, name, clock);
        }
    }

    /// Whether the name is outside the bounds that the range has where the table stands, so that the
    /// table says nothing of it.
    pub fn has_left(&self, name: &str) -> bool {
        !self.descriptor.bounds.contains(name.as_bytes())
    }

    /// Nothing was done about these names, since they have left the range.
    pub fn fail_moved<'n>(&mut self, to: ReplyTo, names: impl IntoIterator<Item = &'n str>) {
        let range = self.descriptor.range;
        self.replies.fail(to, moved::epoch_not_match(self.store, Some(range), names));
    }

    /// Whether a push about the acquisition would reach somebody.
    pub fn listens(&self, acquisition: Acquisition) -> bool {
        self.subscribers.contains_key(&acquisition)
    }

    /// Says "granted" only of what still stands. A duplicate may find its hold ending, and to say so
    /// with its seq would renew what nothing may renew any more (hole 12): it hears how this will end,
    /// and its client then cancels, which acknowledges. And what was applied in one turn with the
    /// grant may have ended it: then this is known, and told as of there.
    fn granted(
        &self,
        response: &mut v1::AcquireResponse,
        acquisition: Acquisition,
        name: &Name,
        grant: Grant,
    ) {
        let reason = match self.table.status(name.as_str(), acquisition) {
            Status::Held { ending: Some(_), .. } => v1::GoneReason::ForceReleased,
            Status::Finished(how) => {
                response.position =
                    Some(v1::Position { applied_index: self.applied, ..self.position });
                wire::gone_reason(how)
            }
            Status::Held { .. } | Status::Waiting { .. } => {
                response.agreement = self.agreement(name, acquisition);
                return wire::granted(response, grant);
            }
        };
        response.set_outcome(v1::AcquireOutcome::Gone);
        response.set_gone_reason(reason);
    }

    /// What is agreed about an open acquisition; nothing where it is no more than the end of a lease.
    fn agreement(&self, name: &Name, acquisition: Acquisition) -> Option<v1::Agreement> {
        let agreement = self.table.agreement(name.as_str(), acquisition)?;
        (!agreement.is_default()).then(|| wire::agreement(&agreement))
    }

    fn show_holders(
        &self,
        response: &mut v1::AcquireResponse,
        name: &Name,
        clock: Option<&LeaseClock>,
    ) {
        let Some(view) = self.table.lock(name.as_str(), HOLDERS_SHOWN, 0) else { return };
        response.waiters = u32::try_from(view.waiters_count).unwrap_or(u32::MAX);
        response.retry_after_ms = self.retry_after_ms(&view, clock);
        let in_short = |hold| self.holder_in_short(hold, clock);
        response.holders = view.holds.into_iter().map(in_short).collect();
    }

    /// Pushes what a change means to the streams that listen. A client learns from its answer what
    /// it did itself, so `by_client` pushes no "gone".
    fn push(&mut self, change: Change, by_client: bool) {
        match change {
            Change::Granted { acquisition, name, grant, from_queue: true, .. } => {
                let mut event = self.event_of(acquisition, &name);
                event.set_kind(v1::AcquisitionEventKind::Granted);
                event.token = grant.token.0;
                event.fence_floor = grant.fence_floor.0;
                self.send(acquisition, event);
            }
            // Who did it himself hears it in his answer.
            Change::WaiterLeft { acquisition, .. } if by_client => {
                self.subscribers.remove(&acquisition);
            }
            Change::WaiterLeft { acquisition, name, how } => {
                self.gone(acquisition, &name, how, "");
            }
            Change::HoldEnded { acquisitions, .. } if by_client => {
                for acquisition in acquisitions {
                    self.subscribers.remove(&acquisition);
                }
            }
            Change::HoldEnded { name, acquisitions, how, reason, .. } => {
                for acquisition in acquisitions {
                    self.gone(acquisition, &name, how, &reason);
                }
            }
            Change::Orphaned { name, acquisitions, .. } => {
                for acquisition in acquisitions {
                    self.gone(acquisition, &name, Finished::Orphaned, "");
                }
            }
            Change::Closed { acquisition, .. } => {
                self.subscribers.remove(&acquisition);
            }
            Change::EndingBegan { token, name, acquisitions, reason, how, .. } => {
                for acquisition in acquisitions {
                    let mut event = self.event_of(acquisition, &name);
                    event.set_kind(v1::AcquisitionEventKind::Ending);
                    event.token = token.0;
                    event.ending_reason.clone_from(&reason);
                    event.set_gone_reason(wire::gone_reason(how));
                    self.send(acquisition, event);
                }
            }
            Change::Asked { token, name, acquisitions, by, since_unix_ms, grace_ms, .. } => {
                let asked = AskView { by, since_unix_ms, grace_ms };
                for acquisition in acquisitions {
                    let mut event = self.event_of(acquisition, &name);
                    event.set_kind(v1::AcquisitionEventKind::Asked);
                    event.token = token.0;
                    // It has just begun.
                    event.asked = Some(wire::ask_mark(asked.clone(), grace_ms));
                    self.send(acquisition, event);
                }
            }
            Change::Queued { .. }
            | Change::Granted { from_queue: false, .. }
            | Change::Joined { .. }
            | Change::AttributesSet { .. }
            | Change::ExpireMissed { .. }
            | Change::Downgraded { .. }
            | Change::ConditionSet { .. }
            | Change::Claimed { .. }
            | Change::AskDropped { .. }
            | Change::DelayBegan { .. }
            | Change::DelayEnded { .. }
            | Change::QuarantineEnds { .. } => {}
        }
    }

    fn gone(&mut self, acquisition: Acquisition, name: &Name, how: Finished, words: &str) {
        let Some(subscriber) = self.subscribers.remove(&acquisition) else { return };
        let mut event = self.event_of(acquisition, name);
        event.set_kind(v1::AcquisitionEventKind::Gone);
        event.set_gone_reason(wire::gone_reason(how));
        words.clone_into(&mut event.ending_reason);
        self.replies.event(subscriber, event);
    }

    fn send(&mut self, acquisition: Acquisition, event: v1::AcquisitionEvent) {
        if let Some(subscriber) = self.subscribers.get(&acquisition) {
            self.replies.event(*subscriber, event);
        }
    }

    fn event_of(&self, acquisition: Acquisition, name: &Name) -> v1::AcquisitionEvent {
        v1::AcquisitionEvent {
            name: name.as_str().to_owned(),
            instance: acquisition.instance.0,
            acquisition_id: acquisition.id.0,
            position: Some(self.position),
            ..v1::AcquisitionEvent::default()
        }
    }
}

pub fn has_ended(hold: Token, changes: &[Change]) -> bool {
    let is_it =
        |change: &Change| matches!(change, Change::HoldEnded { token, .. } if *token == hold);
    changes.iter().any(is_it)
}

fn holds(reply: Reply) -> Vec<HoldView> {
    match reply {
        Reply::Holds(holds) => holds,
        _ => Vec::new(),
    }
}

fn released(position: Option<v1::Position>, reply: &Reply) -> v1::ReleaseResponse {
    let mut response = v1::ReleaseResponse { position, ..Default::default() };
    match reply {
        Reply::Released => response.set_outcome(v1::ReleaseOutcome::Released),
        Reply::StillHeld { open } => {
            response.set_outcome(v1::ReleaseOutcome::StillHeld);
            response.open_acquisitions = *open;
        }
        reply => {
            response.set_outcome(v1::ReleaseOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
    response
}

fn cancelled(position: Option<v1::Position>, reply: &Reply) -> v1::CancelResponse {
    let mut response = v1::CancelResponse { position, ..Default::default() };
    match reply {
        Reply::Cancelled => response.set_outcome(v1::CancelOutcome::Cancelled),
        Reply::Released | Reply::StillHeld { .. } => {
            response.set_outcome(v1::CancelOutcome::Released);
        }
        reply => {
            response.set_outcome(v1::CancelOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
    response
}

fn downgraded(position: Option<v1::Position>, reply: &Reply) -> v1::DowngradeResponse {
    let mut response = v1::DowngradeResponse { position, ..Default::default() };
    match reply {
        Reply::Granted(grant) => {
            response.set_outcome(v1::DowngradeOutcome::Downgraded);
            response.token = grant.token.0;
            response.fence_floor = grant.fence_floor.0;
        }
        reply => {
            response.set_outcome(v1::DowngradeOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
    response
}

fn attributes_set(position: Option<v1::Position>, reply: &Reply) -> v1::SetAttributesResponse {
    let mut response = v1::SetAttributesResponse { position, ..Default::default() };
    match reply {
        Reply::AttributesSet { is_newest: true } => {
            response.set_outcome(v1::SetAttributesOutcome::Set);
        }
        Reply::AttributesSet { is_newest: false } => {
            response.set_outcome(v1::SetAttributesOutcome::Overtaken);
        }
        reply => {
            response.set_outcome(v1::SetAttributesOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
    response
}

fn agreed(position: Option<v1::Position>, wish: Wish, reply: &Reply) -> v1::AgreementResponse {
    let mut response = v1::AgreementResponse { position, ..Default::default() };
    match reply {
        Reply::Agreed(agreement) => {
            response.set_outcome(match wish.is_met_by(agreement) {
                true => v1::AgreementOutcome::Agreed,
                false => v1::AgreementOutcome::RevisionMoved,
            });
            response.agreement = Some(wire::agreement(agreement));
        }
        reply => {
            response.set_outcome(v1::AgreementOutcome::Gone);
            response.set_gone_reason(wire::gone_reason(finished(reply)));
        }
    }
    response
}

fn finished(reply: &Reply) -> Finished {
    match reply {
        Reply::Finished(how) => *how,
        other => unreachable!("apply does not answer this command with {other:?}"),
    }
}

/// As many of the messages as fit, but at least one.
pub fn within_budget<M: prost::Message>(
    messages: impl Iterator<Item = M>,
    bytes_max: usize,
) -> Vec<M> {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for message in messages {
        bytes += message.encoded_len();
        if bytes > bytes_max && !kept.is_empty() {
            break;
        }
        kept.push(message);
    }
    kept
}
