//! Between the API's messages and the lock table's values. Requests come from gateways, which have
//! validated them; what a table could not bear is refused here all the same.

use std::time::Duration;

use sharklock_locktable::{
    Acquire, Acquisition, AcquisitionId, Agreement, AskView, Cancel, Claim, Condition,
    ConditionFlaw, Downgrade, Finished, Grant, HoldView, Instance, LeaseRule, LockView, Mode,
    Owner, Reclaim, Refusal, Release, SessionHandle, SetAttributes, SetCondition, Token, Wait,
    WaiterView,
};
use sharklock_proto::{
    internal::v1::{self as internal, store_error},
    v1,
};
use sharklock_rangemap::{Descriptor, Epoch, RangeId, StoreId};

use crate::{codec, front::Wish};

/// How long an overloaded store asks to be left alone.
const RETRY_AFTER_MS: u64 = 100;

/// Where and when an answer about a range holds.
pub fn position(descriptor: &Descriptor, applied_index: u64) -> v1::Position {
    let Epoch { conf_ver, version } = descriptor.epoch;
    v1::Position { range_id: descriptor.range.0, conf_ver, version, applied_index }
}

/// The session, instance and address that a call speaks for.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The session.
    pub session: SessionHandle,
    /// In which of its lives.
    pub instance: Instance,
    /// From where.
    pub address: String,
}

impl Caller {
    /// The caller of `call`, or the reason why it has none.
    pub fn of(call: &mut internal::StoreCall) -> Result<Self, Malformed> {
        let session = handle(&call.session)?;
        if call.instance == 0 {
            return Err(Malformed("instance is 0"));
        }
        let address = std::mem::take(&mut call.client_address);
        Ok(Self { session, instance: Instance(call.instance), address })
    }

    /// One of its acquisitions.
    pub fn acquisition(&self, id: u64) -> Acquisition {
        Acquisition { session: self.session, instance: self.instance, id: AcquisitionId(id) }
    }
}

/// The handle of a session.
pub fn handle(bytes: &[u8]) -> Result<SessionHandle, Malformed> {
    codec::session_from_bytes(bytes).map_err(|_| Malformed("session is not a handle of 16 bytes"))
}

/// A call that no gateway of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// An acquire as a command. `asked_ms` is the age of the range when a gateway got it, at the earliest.
pub fn acquire(
    caller: Caller,
    request: v1::AcquireRequest,
    asked_ms: u64,
) -> Result<Acquire, Malformed> {
    let mode = match request.mode() {
        v1::LockMode::Exclusive => Mode::Exclusive,
        v1::LockMode::Shared => Mode::Shared,
        v1::LockMode::Permits => {
            let (n, of) = (request.permits, request.permits_max);
            if !(1..=of).contains(&n) {
                return Err(Malformed("permits is not within 1 and permits_max"));
            }
            Mode::Permits { n, of }
        }
        v1::LockMode::Unspecified => return Err(Malformed("mode is not set")),
    };
    let Some(ttl_ms) = request.ttl_ms.filter(|ttl_ms| (1..=u64::from(u32::MAX)).contains(ttl_ms))
    else {
        return Err(Malformed("ttl_ms is not set or out of range"));
    };
    let wait = match request.wait_ms {
        Some(0) => Wait::Try,
        Some(wait_ms) if wait_ms <= u64::from(u32::MAX) => Wait::AtMost(wait_ms),
        Some(_) => return Err(Malformed("wait_ms is out of range")),
        None => Wait::Unbounded,
    };
    Ok(Acquire {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        mode,
        ttl_ms,
        wait,
        reenter: request.reenter_token.map(Token),
        owner: Owner {
            id: request.owner_id,
            address: caller.address,
            attributes: request.attributes.into_iter().collect(),
        },
        condition: request
            .condition
            .map(condition)
            .transpose()?
            .filter(|it| !it.is_default())
            .map(Box::new),
        asked_ms,
    })
}

/// A reclaim as a command. `asked_ms`: as of an [`acquire`].
pub fn reclaim(caller: Caller, request: v1::ReclaimRequest, asked_ms: u64) -> Reclaim {
    Reclaim {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
        owner: Owner {
            id: request.owner_id,
            address: caller.address,
            attributes: request.attributes.into_iter().collect(),
        },
        asked_ms,
    }
}

/// A claim as a command, and what it is to lead to.
pub fn claim(caller: &Caller, request: v1::ClaimRequest) -> (Claim, Wish) {
    let claim = Claim {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
        revision: request.revision,
    };
    (claim, Wish::Claimed(request.revision))
}

/// A change of a condition as a command, and what it is to lead to.
pub fn set_condition(
    caller: &Caller,
    request: v1::SetConditionRequest,
) -> Result<(SetCondition, Wish), Malformed> {
    let v1::SetConditionRequest { ttl_ms, revision, .. } = request;
    if !(1..=u64::from(u32::MAX)).contains(&ttl_ms) {
        return Err(Malformed("ttl_ms is not set or out of range"));
    }
    let condition = request.condition.map(condition).transpose()?.unwrap_or_default();
    let Some(next) = revision.checked_add(1) else { return Err(Malformed("revision is no count")) };
    let set = SetCondition {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
        revision,
        ttl_ms,
        condition,
    };
    Ok((set, Wish::Condition(condition, next)))
}

/// A change of attributes as a command.
pub fn set_attributes(caller: &Caller, request: v1::SetAttributesRequest) -> SetAttributes {
    SetAttributes {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
        seq: request.seq,
        attributes: request.attributes.into_iter().collect(),
    }
}

/// A downgrade as a command.
pub fn downgrade(caller: &Caller, request: v1::DowngradeRequest) -> Downgrade {
    Downgrade {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
    }
}

fn condition(condition: v1::Condition) -> Result<Condition, Malformed> {
    let lease = match v1::LeaseRule::try_from(condition.lease) {
        Ok(v1::LeaseRule::Unspecified | v1::LeaseRule::OnExpiry) => LeaseRule::OnExpiry,
        Ok(v1::LeaseRule::AfterMissed) => {
            LeaseRule::AfterMissed { missed: condition.missed, interval_ms: condition.interval_ms }
        }
        Ok(v1::LeaseRule::Hold) => LeaseRule::Hold,
        Err(_) => return Err(Malformed("condition.lease is not known")),
    };
    let v1::Condition { lock_delay_ms, max_hold_ms, ask_grace_ms, .. } = condition;
    Ok(Condition { lease, lock_delay_ms, max_hold_ms, ask_grace_ms })
}

/// What is agreed about a hold, for its client and for people.
pub fn agreement(agreement: &Agreement) -> v1::Agreement {
    let &Agreement { condition, revision, claimed, ttl_ms } = agreement;
    let (lease, missed, interval_ms) = match condition.lease {
        LeaseRule::OnExpiry => (v1::LeaseRule::OnExpiry, 0, 0),
        LeaseRule::AfterMissed { missed, interval_ms } => {
            (v1::LeaseRule::AfterMissed, missed, interval_ms)
        }
        LeaseRule::Hold => (v1::LeaseRule::Hold, 0, 0),
    };
    let Condition { lock_delay_ms, max_hold_ms, ask_grace_ms, .. } = condition;
    let lease = lease.into();
    let condition = Some(v1::Condition {
        lease,
        missed,
        interval_ms,
        lock_delay_ms,
        max_hold_ms,
        ask_grace_ms,
    });
    v1::Agreement { condition, revision, claimed, ttl_ms }
}

/// A release as a command.
pub fn release(caller: &Caller, request: v1::ReleaseRequest) -> Release {
    Release {
        acquisition: caller.acquisition(request.acquisition_id),
        name: request.name.into(),
        token: Token(request.token),
        all: request.all,
    }
}

/// A cancel as a command.
pub fn cancel(caller: &Caller, request: v1::CancelRequest) -> Cancel {
    Cancel { acquisition: caller.acquisition(request.acquisition_id), name: request.name.into() }
}

/// How an acquisition ended, for its client.
pub fn gone_reason(how: Finished) -> v1::GoneReason {
    match how {
        Finished::Unknown => v1::GoneReason::Unknown,
        Finished::Released => v1::GoneReason::Released,
        Finished::Cancelled => v1::GoneReason::Cancelled,
        Finished::Expired => v1::GoneReason::Expired,
        Finished::WaitTimedOut => v1::GoneReason::WaitTimedOut,
        Finished::TryRefused => v1::GoneReason::Refused,
        Finished::ForceReleased => v1::GoneReason::ForceReleased,
        Finished::HoldLost => v1::GoneReason::HoldLost,
        Finished::Orphaned => v1::GoneReason::Orphaned,
        Finished::Reclaimed => v1::GoneReason::Reclaimed,
        Finished::HeldTooLong => v1::GoneReason::HeldTooLong,
        Finished::AskedFor => v1::GoneReason::AskedFor,
    }
}

/// How an acquisition ended, as the answer to its acquire.
pub fn finished_outcome(how: Finished) -> v1::AcquireOutcome {
    match how {
        Finished::TryRefused => v1::AcquireOutcome::HeldByOther,
        Finished::WaitTimedOut => v1::AcquireOutcome::WaitTimedOut,
        Finished::HoldLost => v1::AcquireOutcome::HoldLost,
        Finished::Unknown
        | Finished::Released
        | Finished::Cancelled
        | Finished::Expired
        | Finished::ForceReleased
        | Finished::Orphaned
        | Finished::Reclaimed
        | Finished::HeldTooLong
        | Finished::AskedFor => v1::AcquireOutcome::Gone,
    }
}

/// Why an acquire is not allowed, as the API names it.
pub fn refusal(refusal: Refusal) -> store_error::Kind {
    let (reason, message) = match refusal {
        Refusal::ModeMismatch => (
            "MODE_MISMATCH",
            "the lock is in use as another kind (exclusive and shared, or permits of another \
             permits_max); use the same kind or wait until it is free",
        ),
        Refusal::WouldDeadlock => (
            "WOULD_DEADLOCK",
            "a shared hold cannot become exclusive; release it and acquire the lock exclusively",
        ),
        Refusal::SharedReentry => (
            "NOT_REENTERABLE",
            "the hold is exclusive, and a shared acquire cannot join it; release it and acquire the \
             lock shared",
        ),
        Refusal::TooManyHolders { .. }
        | Refusal::TooManyWaiters { .. }
        | Refusal::TooManyAcquisitions { .. } => return limit(refusal),
        Refusal::AcquisitionReused => (
            "ACQUISITION_REUSED",
            "acquisition_id was used for another lock or mode; use a new, larger one",
        ),
        Refusal::NotReenterable => (
            "NOT_REENTERABLE",
            "reenter_token names a hold of another session, instance, owner_id or mode, or one \
             that is ending; acquire without reenter_token",
        ),
        Refusal::Condition(flaw) => ("CONDITION_REFUSED", condition_flaw(flaw)),
        Refusal::HoldEnding => {
            ("HOLD_ENDING", "the hold is ending; stop using it, release it and acquire anew")
        }
        Refusal::LeaseShortened => {
            ("LEASE_SHORTENED", "the new ttl is shorter than the hold's; keep it or make it longer")
        }
        Refusal::NotReclaimable => (
            "NOT_RECLAIMABLE",
            "the hold belongs to another session, or to an instance that is not older; only a \
             newer instance of its session may reclaim it",
        ),
        Refusal::NotWaiting => (
            "NOT_WAITING",
            "only a waiter of the lock may ask its holders for it; acquire it first",
        ),
        Refusal::Quarantine => return in_quarantine(None),
        Refusal::FeatureLevel => (
            "FEATURE_LEVEL",
            "not every server of the range can do this yet; finish the upgrade, then try again",
        ),
    };
    refused(reason, message)
}

/// As [`refusal`], for what is too much: the number is part of the text.
fn limit(refusal: Refusal) -> store_error::Kind {
    match refusal {
        Refusal::TooManyHolders { max } => refused(
            "TOO_MANY_HOLDERS",
            &format!(
                "the lock has {max} holders, counting places that a lock-delay keeps taken, and \
                 may have no more; try again when some have released it, or use several locks"
            ),
        ),
        Refusal::TooManyWaiters { max } => refused(
            "TOO_MANY_WAITERS",
            &format!("{max} already wait for the lock, as many as may; try again later"),
        ),
        Refusal::TooManyAcquisitions { max } => refused(
            "TOO_MANY_ACQUISITIONS",
            &format!(
                "the session has {max} open acquisitions in this range, as many as it may; \
                 release some first"
            ),
        ),
        other => unreachable!("{other:?} is no limit"),
    }
}

/// Nothing is granted for so long; `None`: nobody knows.
pub fn in_quarantine(left: Option<Duration>) -> store_error::Kind {
    let left = left.map(|left| left.max(Duration::from_secs(1)));
    let when = left.map_or("later".to_owned(), |left| format!("in {} s", left.as_secs()));
    let message = format!(
        "the range of the lock was recovered without its majority, and grants nothing until every \
         lease is over that its lost entries may have given: try again {when}, or acquire with a wait"
    );
    let left_ms = left.map_or(0, |left| left.as_millis());
    refused_for_now("QUARANTINE", &message, u64::try_from(left_ms).unwrap_or(u64::MAX))
}

fn condition_flaw(flaw: ConditionFlaw) -> &'static str {
    match flaw {
        ConditionFlaw::ZeroDuration => "a duration of the condition is 0; leave the clause out",
        ConditionFlaw::MissedTooFew => "after_missed needs at least 3 missed keepalives",
        ConditionFlaw::TtlIsNotMissedIntervals => {
            "with after_missed the ttl is the number of keepalives times the interval"
        }
        ConditionFlaw::HoldWithMaxHold => "hold cannot be combined with max_hold; choose one",
        ConditionFlaw::HoldWithAskHolder => "hold cannot be combined with ask_holder; choose one",
        ConditionFlaw::WithReentry => {
            "re-entry joins a hold under the condition that it has; change that instead"
        }
        ConditionFlaw::NothingToClaim => "only the condition hold is claimed; set it first",
    }
}

/// A refusal in the API's words.
pub fn refused(reason: &str, message: &str) -> store_error::Kind {
    refused_for_now(reason, message, 0)
}

/// As [`refused`], of what may go better after a while; 0: not by itself.
pub fn refused_for_now(reason: &str, message: &str, retry_after_ms: u64) -> store_error::Kind {
    let (reason, message) = (reason.to_owned(), message.to_owned());
    store_error::Kind::Refused(internal::Refused { reason, message, retry_after_ms })
}

/// Not done: this replica does not lead.
pub fn not_leader(range: RangeId, leader: Option<StoreId>) -> store_error::Kind {
    let leader_store_id = leader.map_or(0, |store| store.0);
    store_error::Kind::NotLeader(internal::NotLeader { range_id: range.0, leader_store_id })
}

/// Too much is waiting: later.
pub fn overloaded() -> store_error::Kind {
    store_error::Kind::Overloaded(internal::Overloaded { retry_after_ms: RETRY_AFTER_MS })
}

/// The answer to a granted acquire.
pub fn granted(response: &mut v1::AcquireResponse, grant: Grant) {
    response.set_outcome(v1::AcquireOutcome::Granted);
    response.token = grant.token.0;
    response.fence_floor = grant.fence_floor.0;
    response.ttl_ms = grant.ttl_ms;
}

/// A hold for people, without attributes and mark.
pub fn holder_in_short(hold: HoldView, remaining_ms: u64) -> v1::Holder {
    let (mode, permits) = mode(hold.mode);
    v1::Holder {
        session: hold.acquisition.session.to_string(),
        owner_id: hold.owner.id.clone(),
        client_address: hold.owner.address.clone(),
        mode: mode.into(),
        permits,
        token: hold.grant.token.0,
        fence_floor: hold.grant.fence_floor.0,
        since_unix_ms: hold.granted_unix_ms,
        ttl_ms: hold.grant.ttl_ms,
        remaining_ms,
        open_acquisitions: hold.open,
        ending_reason: hold.ending.unwrap_or_default(),
        acquisition_id: hold.acquisition.id.0,
        agreement: (!hold.agreement.is_default()).then(|| agreement(&hold.agreement)),
        orphaned: hold.orphaned,
        arrival: hold.arrival,
        instance: hold.acquisition.instance.0,
        ..v1::Holder::default()
    }
}

/// The mark of a waiter that has asked for a hold.
pub fn ask_mark(asked: AskView, remaining_ms: u64) -> v1::AskMark {
    let AskView { by, since_unix_ms, grace_ms } = asked;
    let (session, owner_id) =
        by.map(|by| (by.session.to_string(), by.owner_id)).unwrap_or_default();
    v1::AskMark { session, owner_id, since_unix_ms, grace_ms, remaining_ms }
}

/// A waiter for people.
pub fn waiter(waiter: WaiterView, remaining_ms: u64) -> v1::Holder {
    let (mode, permits) = mode(waiter.mode);
    let WaiterView { condition, ttl_ms, .. } = waiter;
    let agreed = Agreement { condition, ttl_ms, ..Agreement::default() };
    v1::Holder {
        session: waiter.acquisition.session.to_string(),
        owner_id: waiter.owner.id.clone(),
        client_address: waiter.owner.address.clone(),
        attributes: waiter.owner.attributes.iter().cloned().collect(),
        mode: mode.into(),
        permits,
        since_unix_ms: waiter.queued_unix_ms,
        ttl_ms: waiter.ttl_ms,
        remaining_ms,
        acquisition_id: waiter.acquisition.id.0,
        agreement: (!agreed.is_default()).then(|| agreement(&agreed)),
        arrival: waiter.arrival,
        instance: waiter.acquisition.instance.0,
        ..v1::Holder::default()
    }
}

/// A lock for people, without its holders and waiters.
pub fn lock_info(view: &LockView) -> v1::LockInfo {
    let kind = view
        .holds
        .first()
        .map(|hold| hold.mode)
        .or_else(|| view.waiters.first().map(|waiter| waiter.mode))
        .or_else(|| view.delays.first().map(|delay| delay.mode));
    let permits_max = match kind {
        Some(Mode::Permits { of, .. }) => of,
        _ => 0,
    };
    v1::LockInfo {
        name: view.name.as_str().to_owned(),
        mode: kind.map_or(v1::LockMode::Unspecified, |kind| mode(kind).0).into(),
        permits_max,
        holders: Vec::new(),
        waiters: Vec::new(),
        waiters_count: count(view.waiters_count),
        holders_count: count(view.holds_count),
        retry_after_ms: 0,
    }
}

fn mode(mode: Mode) -> (v1::LockMode, u32) {
    match mode {
        Mode::Exclusive => (v1::LockMode::Exclusive, 0),
        Mode::Shared => (v1::LockMode::Shared, 0),
        Mode::Permits { n, .. } => (v1::LockMode::Permits, n),
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
