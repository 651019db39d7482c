//! From a wire request to a checked call: every limit of the API is enforced here, once, and what
//! passes is the only thing that a store is ever sent.
//!
//! It owns limits and their error texts, which name the field, the limit and the fix, and never
//! repeat the input. It does not know what is held: rules that need state are the state machine's.

use std::collections::BTreeSet;

use bytes::Bytes;
use sharklock_proto::{
    internal::v1::{DescribeStore, ListRange, SplitRange, describe_store::Only, store_call::Body},
    trace::TraceContext,
    v1::{
        AcquireRequest, CancelOperatorRequest, CancelRequest, ChangeMastersRequest,
        ChangeRangeRequest, CheckTokenRequest, ForceReleaseRequest, GetLockRequest,
        KeepAliveRequest, ListLocksRequest, ListRangesRequest, PauseScheduleRequest, RangeEpoch,
        RebalanceRequest, RecoverRangeRequest, ReleaseRequest, SetScheduleRequest,
        SetStoreDutyRequest, SplitRangeRequest, WatchLockRequest, list_ranges_request,
        session_call, split_range_request,
    },
};

use sharklock_rangemap::StoreId;

use self::agreements::check_condition;
pub use self::agreements::{ask, claim, downgrade, reclaim, set_attributes, set_condition};
use self::fields::{
    check_acquisition_id, check_attributes, check_mode, check_name, check_seq, check_text,
    check_token_number, clamp_page,
};
pub use self::session::{Frame, HandleCache, Session};
pub use self::sessions::{get_session, list_sessions, revoke_session};
use crate::{
    failure::{Failure, Reason},
    listing::Listing,
    page_token,
};

mod agreements;
mod fields;
mod session;
mod sessions;

/// Longest lock name.
pub const NAME_BYTES_MAX: usize = 512;
/// Shortest lease: below it not even one lost packet is survived (D7).
pub const TTL_MS_MIN: u64 = 2_000;
/// Stores that a recovery may name at most.
pub const LOST_STORES_MAX: usize = 64;
/// Longest lease.
pub const TTL_MS_MAX: u64 = 600_000;
/// The lease of a request that names none.
pub const TTL_MS_DEFAULT: u64 = 10_000;
/// Longest bounded wait.
pub const WAIT_MS_MAX: u64 = 3_600_000;
/// A session id is a random secret of this length, nothing else.
pub const SESSION_ID_BYTES: usize = 16;
/// The part of the SHA-256 of a session id that is shown (D10).
pub const HANDLE_BYTES: usize = 16;
/// Most units of a permits lock.
pub const PERMITS_MAX: u32 = 65_535;
/// Longest owner id and operator name.
pub const OWNER_BYTES_MAX: usize = 256;
/// Attributes, keys and values together.
pub const ATTRIBUTES_BYTES_MAX: usize = 4_096;
/// Longest reason of an operator.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Most items of one keepalive.
pub const ITEMS_MAX: usize = 64;
/// Most calls of one message on a stream.
pub const CALLS_MAX: usize = 1_024;
/// Waiters shown, or locks per page, for a request that does not say.
pub const PAGE_DEFAULT: u32 = 100;
/// Most waiters shown, or locks per page: more is clamped, since it asks for nothing wrong.
pub const PAGE_MAX: u32 = 1_000;

/// Holders and waiters shown of a lock that is watched.
pub const WATCH_SHOWN_MAX: u32 = 100;

/// Limits of requests that a cluster may set differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Shortest lease, milliseconds; chaos tests go below the default.
    pub ttl_ms_min: u64,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self { ttl_ms_min: TTL_MS_MIN }
    }
}

/// A call that has passed every check.
///
/// Invariant: the body holds no session id.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    session: Option<Session>,
    body: Body,
    /// Set for what is asked of a store and not of a range.
    store: Option<StoreId>,
}

impl Checked {
    /// The session of the call; none for calls that anybody may make.
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// The store that is asked; None where the name of a lock says it.
    pub fn store(&self) -> Option<StoreId> {
        self.store
    }

    /// The request.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Both, to be sent.
    pub fn into_parts(self) -> (Option<Session>, Body) {
        (self.session, self.body)
    }

    /// The gateway's own keepalive for an acquisition that has passed every check.
    pub fn keep_alive(session: Session, request: KeepAliveRequest) -> Self {
        let request = KeepAliveRequest { instance: session.instance(), ..request };
        Self { session: Some(session), body: Body::KeepAlive(request), store: None }
    }

    /// The gateway's own question: a part of a list.
    pub fn list_range(question: ListRange) -> Self {
        Self::of_range(Body::ListRange(question))
    }

    /// The gateway's own question to one range, a part of a call that goes over many.
    pub fn of_range(body: Body) -> Self {
        Self { session: None, body, store: None }
    }

    /// An operator's split, once it is known which range is meant.
    pub fn split_range(split: SplitRange) -> Self {
        Self { session: None, body: Body::SplitRange(split), store: None }
    }

    /// The gateway's own question: a store's description, with all its ranges or only the one that is
    /// meant.
    pub fn describe(store: StoreId, which: Option<&Which>) -> Self {
        let only = which.map(|which| match which {
            Which::Id(range) => Only::RangeId(*range),
            Which::Named(name) => Only::Name(name.clone()),
        });
        let describe = DescribeStore { heard: None, only };
        Self { session: None, body: Body::Describe(describe), store: Some(store) }
    }
}

/// A request that has passed, as a call of its session: the secret is left behind.
macro_rules! in_session {
    ($session:expr, $kind:ident($request:expr)) => {{
        let (session, mut request) = ($session, $request);
        request.session_id = Bytes::new();
        request.instance = session.instance();
        Checked { session: Some(session), body: Body::$kind(request), store: None }
    }};
}
use in_session;

/// Checks any call of a Session stream.
pub fn call(
    limits: &RequestLimits,
    frame: &Frame,
    body: Option<session_call::Body>,
) -> Result<Checked, Failure> {
    match body {
        Some(session_call::Body::Acquire(request)) => acquire(limits, frame, request),
        Some(session_call::Body::Release(request)) => release(frame, request),
        Some(session_call::Body::Cancel(request)) => cancel(frame, request),
        Some(session_call::Body::KeepAlive(request)) => keep_alive(frame, request),
        Some(session_call::Body::CheckToken(request)) => check_token(request),
        Some(session_call::Body::GetLock(request)) => get_lock(request),
        Some(session_call::Body::WatchLock(request)) => watch_lock(request),
        Some(session_call::Body::Claim(request)) => claim(frame, request),
        Some(session_call::Body::SetCondition(request)) => set_condition(limits, frame, request),
        Some(session_call::Body::Reclaim(request)) => reclaim(frame, request),
        Some(session_call::Body::Ask(request)) => ask(frame, request),
        Some(session_call::Body::Downgrade(request)) => downgrade(frame, request),
        Some(session_call::Body::SetAttributes(request)) => set_attributes(frame, request),
        None => Err(Failure::of_field(
            Reason::UnknownCall,
            "body",
            "the call asks nothing that this server knows: set one of its bodies, or use a server \
             as new as the client",
        )),
    }
}

/// Checks an acquire, and fills in what it leaves out.
pub fn acquire(
    limits: &RequestLimits,
    frame: &Frame,
    mut request: AcquireRequest,
) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_name(&request.name)?;
    check_acquisition_id("acquisition_id", request.acquisition_id)?;
    check_seq(request.seq)?;
    check_mode(&request)?;
    let ttl_ms = *request.ttl_ms.get_or_insert(TTL_MS_DEFAULT.max(limits.ttl_ms_min));
    check_ttl(limits, ttl_ms)?;
    if request.wait_ms.is_some_and(|wait_ms| wait_ms > WAIT_MS_MAX) {
        return Err(Failure::of_field(
            Reason::BadWait,
            "wait_ms",
            format!(
                "a wait has at most {WAIT_MS_MAX} milliseconds: choose a shorter one, or leave \
                 wait_ms out to wait without bound"
            ),
        )
        .with("max", WAIT_MS_MAX));
    }
    if let Some(token) = request.reenter_token {
        check_token_number("reenter_token", token)?;
    }
    if let Some(condition) = &request.condition {
        if request.reenter_token.is_some() {
            return Err(Failure::of_field(
                Reason::BadCondition,
                "condition",
                "re-entry joins a hold under the condition that it has: leave the condition out, and \
                 change that of the hold by SetCondition",
            ));
        }
        check_condition(condition, ttl_ms)?;
    }
    check_text(Reason::BadOwner, "owner_id", &request.owner_id, 0, OWNER_BYTES_MAX)?;
    check_attributes(&request.attributes)?;
    // Said again in our own words: a later version may have a tail of any length, and whoever waits
    // is kept with what it has said.
    let traced = request.traceparent.parse::<TraceContext>().ok();
    request.traceparent = traced.map(|it| it.to_string()).unwrap_or_default();
    Ok(in_session!(session, Acquire(request)))
}

fn check_ttl(limits: &RequestLimits, ttl_ms: u64) -> Result<(), Failure> {
    let min = limits.ttl_ms_min;
    if (min..=TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    Err(Failure::of_field(
        Reason::BadTtl,
        "ttl_ms",
        format!("a lease has {min} to {TTL_MS_MAX} milliseconds: choose a ttl_ms within"),
    )
    .with("min", min)
    .with("max", TTL_MS_MAX))
}

/// Checks a release.
pub fn release(frame: &Frame, request: ReleaseRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_name(&request.name)?;
    check_token_number("token", request.token)?;
    // Also to release all: a retry is told from a new release by its acquisition (D16).
    check_acquisition_id("acquisition_id", request.acquisition_id)?;
    Ok(in_session!(session, Release(request)))
}

/// Checks a cancel.
pub fn cancel(frame: &Frame, request: CancelRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_name(&request.name)?;
    check_acquisition_id("acquisition_id", request.acquisition_id)?;
    Ok(in_session!(session, Cancel(request)))
}

/// Checks a keepalive and all its items.
pub fn keep_alive(frame: &Frame, request: KeepAliveRequest) -> Result<Checked, Failure> {
    let session = frame.session_of(&request.session_id, request.instance)?;
    check_seq(request.seq)?;
    if request.items.is_empty() || request.items.len() > ITEMS_MAX {
        return Err(Failure::of_field(
            Reason::BadBatch,
            "items",
            format!("a keepalive names 1 to {ITEMS_MAX} acquisitions: send several keepalives"),
        )
        .with("max", ITEMS_MAX));
    }
    let mut seen = BTreeSet::new();
    for (at, item) in request.items.iter().enumerate() {
        check_name(&item.name)
            .and_then(|()| check_acquisition_id("acquisition_id", item.acquisition_id))
            .map_err(|failure| failure.inside(&format!("items[{at}]")))?;
        if !seen.insert((item.acquisition_id, item.name.as_str())) {
            return Err(Failure::of_field(
                Reason::BadBatch,
                &format!("items[{at}]"),
                "the keepalive names this acquisition twice: name each once",
            ));
        }
    }
    Ok(in_session!(session, KeepAlive(request)))
}

/// Checks a token check.
pub fn check_token(request: CheckTokenRequest) -> Result<Checked, Failure> {
    check_name(&request.name)?;
    check_token_number("token", request.token)?;
    Ok(Checked { session: None, body: Body::CheckToken(request), store: None })
}

/// Checks a look at one lock, and clamps how much it may show.
pub fn get_lock(mut request: GetLockRequest) -> Result<Checked, Failure> {
    check_name(&request.name)?;
    request.waiters_max = clamp_page(request.waiters_max);
    Ok(Checked { session: None, body: Body::GetLock(request), store: None })
}

/// Checks a question for the next state of a lock, and clamps how much it may show.
pub fn watch_lock(mut request: WatchLockRequest) -> Result<Checked, Failure> {
    check_name(&request.name)?;
    request.shown_max = request.shown_max.min(WATCH_SHOWN_MAX);
    Ok(Checked { session: None, body: Body::WatchLock(request), store: None })
}

/// Checks a listing, and clamps its page.
pub fn list_locks(request: ListLocksRequest) -> Result<Listing, Failure> {
    let ListLocksRequest { prefix, page_size, page_token } = request;
    check_text(Reason::BadLockName, "prefix", &prefix, 0, NAME_BYTES_MAX)?;
    let from = match page_token.as_str() {
        "" => prefix.clone(),
        token => page_token::decode(&prefix, token)?,
    };
    Ok(Listing::new(prefix, from, clamp_page(page_size)))
}

/// Checks an operator's force-release.
pub fn force_release(request: ForceReleaseRequest) -> Result<Checked, Failure> {
    check_name(&request.name)?;
    if let Some(token) = request.token {
        check_token_number("token", token)?;
    }
    check_text(Reason::BadReason, "reason", &request.reason, 1, REASON_BYTES_MAX)?;
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(Checked { session: None, body: Body::ForceRelease(request), store: None })
}

/// The range that an operator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// By its id.
    Id(u64),
    /// The one that has this lock name.
    Named(String),
}

/// A split that has passed every check which needs no state.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitWish {
    /// Of this range.
    pub which: Which,
    /// First name of the upper half; `None`: the range chooses.
    pub at: Option<String>,
    /// The epoch that it must have.
    pub epoch: Option<RangeEpoch>,
    /// Nothing is done.
    pub dry_run: bool,
    /// Who asks, for the log.
    pub operator: String,
}

/// Checks an operator's split.
pub fn split_range(request: SplitRangeRequest) -> Result<SplitWish, Failure> {
    let SplitRangeRequest { which, at, epoch, dry_run, operator } = request;
    let which = match which {
        Some(split_range_request::Which::RangeId(id)) => Which::by_id(id),
        Some(split_range_request::Which::Name(name)) => Which::by_name(name),
        None => Err(no_range()),
    }?;
    if let Some(at) = &at {
        check_text(Reason::BadLockName, "at", at, 1, NAME_BYTES_MAX)?;
    }
    check_text(Reason::BadOperator, "operator", &operator, 0, OWNER_BYTES_MAX)?;
    Ok(SplitWish { which, at, epoch, dry_run, operator })
}

/// A look at ranges that has passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeList {
    /// Only this one.
    pub which: Option<Which>,
    /// At most so many.
    pub page_size: u32,
    /// From this name on.
    pub from: String,
}

/// A range is to be changed; the masters check the rest.
///
/// # Errors
/// A field breaks a rule.
pub fn change_range(request: ChangeRangeRequest) -> Result<ChangeRangeRequest, Failure> {
    if request.range_id == 0 {
        return Err(no_range());
    }
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// A store gets another duty; the masters check the rest.
///
/// # Errors
/// A field breaks a rule.
pub fn set_store_duty(request: SetStoreDutyRequest) -> Result<SetStoreDutyRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// A range is to go on without its majority; the masters check the rest.
///
/// # Errors
/// A field breaks a rule.
pub fn recover_range(request: RecoverRangeRequest) -> Result<RecoverRangeRequest, Failure> {
    if request.range_id == 0 {
        return Err(no_range());
    }
    let count = request.lost_store_ids.len();
    if count > LOST_STORES_MAX {
        let message = format!("{count} stores are named: a range has fewer replicas");
        let failure = Failure::of_field(Reason::BadBatch, "lost_store_ids", message);
        return Err(failure.with("max", LOST_STORES_MAX));
    }
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// Settings of the schedule change; the masters check what they are.
///
/// # Errors
/// A field breaks a rule.
pub fn set_schedule(request: SetScheduleRequest) -> Result<SetScheduleRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// Leaders and replicas are to be balanced now.
///
/// # Errors
/// A field breaks a rule.
pub fn rebalance(request: RebalanceRequest) -> Result<RebalanceRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// The schedule is to pause, or to go on.
///
/// # Errors
/// A field breaks a rule.
pub fn pause_schedule(request: PauseScheduleRequest) -> Result<PauseScheduleRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// The masters are to be others; they check the rest.
///
/// # Errors
/// A field breaks a rule.
pub fn change_masters(request: ChangeMastersRequest) -> Result<ChangeMastersRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// An operator is to end.
///
/// # Errors
/// A field breaks a rule.
pub fn cancel_operator(request: CancelOperatorRequest) -> Result<CancelOperatorRequest, Failure> {
    check_text(Reason::BadOperator, "operator", &request.operator, 0, OWNER_BYTES_MAX)?;
    Ok(request)
}

/// Checks a look at ranges, and clamps its page.
pub fn list_ranges(request: ListRangesRequest) -> Result<RangeList, Failure> {
    let ListRangesRequest { which, page_size, page_token } = request;
    let which = which.map(|which| match which {
        list_ranges_request::Which::RangeId(id) => Which::by_id(id),
        list_ranges_request::Which::Name(name) => Which::by_name(name),
    });
    let which = which.transpose()?;
    check_text(Reason::BadLockName, "page_token", &page_token, 0, NAME_BYTES_MAX)?;
    Ok(RangeList { which, page_size: clamp_page(page_size), from: page_token })
}

impl Which {
    fn by_id(id: u64) -> Result<Self, Failure> {
        if id == 0 { Err(no_range()) } else { Ok(Self::Id(id)) }
    }

    fn by_name(name: String) -> Result<Self, Failure> {
        check_name(&name)?;
        Ok(Self::Named(name))
    }
}

fn no_range() -> Failure {
    Failure::of_field(
        Reason::BadRange,
        "which",
        "the request says no range: set range_id, which is not 0, or name, the name of a lock",
    )
}

/// Checks how many calls a message on a stream carries.
pub fn calls_count(count: usize) -> Result<(), Failure> {
    if count <= CALLS_MAX {
        return Ok(());
    }
    let message = format!("a message carries at most {CALLS_MAX} calls: send several messages");
    Err(Failure::of_field(Reason::BadBatch, "calls", message).with("max", CALLS_MAX))
}

/// Checks that a call on a stream can be answered.
pub fn call_id(call_id: u64) -> Result<(), Failure> {
    if call_id != 0 {
        return Ok(());
    }
    Err(Failure::of_field(
        Reason::BadCallId,
        "calls.call_id",
        "a call id is not 0, which marks events: number calls from 1",
    ))
}

#[cfg(test)]
mod tests;
