//! Answers of the client library, turned into views for operators.

use std::time::{Duration, UNIX_EPOCH};

use sharklock_client::{
    Because, CallError, ClusterMismatch, ForceReleased, GetStatusResponse, HeldMode, Holder,
    HoldersAsked, LeaseRule, LockInfo, LockSeen, Position as SeenPosition, RangePart, RangeStatus,
    SplitRangeResponse, StoreStatus,
};
use sharklock_proto::v1::{MasterStatus, Position as WirePosition, ReplicaStatus, StoreLiveness};

use super::{
    following::HoldersAskedView,
    force_release::ForceRelease,
    ranges::{Part, Range, RangeSplit, Replica},
    status::{Master, RangeTotals, Status, Store},
    view::{Agreement, AskMark, Lock, OneLock, Party, Position, UNKNOWN, WallTime, Wide},
};
use crate::{
    exit::{CONFIG, FAILED, Failure, UNREACHABLE, USAGE},
    unserved,
};

/// A call that did not succeed, as the end of this process.
pub fn failure(error: CallError) -> Failure {
    match error {
        CallError::Invalid { ref reason, .. } => {
            Failure::new(USAGE, error.to_string()).reason(reason)
        }
        CallError::Unavailable { reason, message } => unserved::failure(&reason, &message),
        CallError::Indeterminate { message } => {
            Failure::new(UNREACHABLE, "no answer came: it may or may not have been done")
                .reason("INDETERMINATE")
                .cause(message)
                .hint("look with `sharklock locks show`, then try again")
        }
        CallError::OtherCluster(mismatch) => other_cluster(&mismatch),
        // The cluster is there and says no.
        CallError::Failed { ref reason, .. } => {
            Failure::new(FAILED, error.to_string()).reason(reason)
        }
        other => Failure::new(FAILED, other.to_string()),
    }
}

/// The gateways that are named are not those of one cluster, the one that is meant.
pub fn other_cluster(mismatch: &ClusterMismatch) -> Failure {
    let error = match mismatch.because {
        Because::Told => "the endpoints belong to another cluster",
        Because::Begun | Because::Said(_) => "the endpoints belong to two clusters",
    };
    Failure::new(CONFIG, error).reason("OTHER_CLUSTER").cause(mismatch).hint(
        "name the gateways of one cluster, or the one that is meant with --cluster ID: \
         `sharklock status --endpoints URL` shows it",
    )
}

/// One lock.
pub fn one_lock(name: &str, seen: LockSeen) -> OneLock {
    let lock = seen.lock.map(lock);
    OneLock { position: position(seen.position), name: name.to_owned(), free: lock.is_none(), lock }
}

/// A lock as one of many.
pub fn lock(info: LockInfo) -> Lock {
    let any = info.holders.first().or(info.waiters.first());
    Lock {
        mode: any.map_or(UNKNOWN, |party| mode(party.mode)),
        name: info.name,
        permits_max: info.permits_max.unwrap_or(0),
        holders: info.holders.into_iter().map(party).collect(),
        waiters: info.waiters.into_iter().map(party).collect(),
        holders_count: info.holders_count,
        waiters_count: info.waiters_count,
        retry_after_ms: Wide(ms(info.retry_after)),
    }
}

/// The outcome of a force-release.
pub fn force_release(name: &str, done: ForceReleased) -> ForceRelease {
    ForceRelease {
        position: position(done.position),
        name: name.to_owned(),
        dry_run: false,
        found: !done.holders.is_empty(),
        ended: done.ended && !done.holders.is_empty(),
        holders: done.holders.into_iter().map(party).collect(),
        plan: None,
    }
}

/// The cluster. It is healthy when it has ranges, each of them has a leader, and its gateway has
/// nothing to warn of.
pub fn status(seen: GetStatusResponse) -> Status {
    let totals = seen.range_totals.unwrap_or_default();
    let all_led = totals.ranges > 0 && totals.led == totals.ranges;
    Status {
        cluster_id: seen.cluster_id,
        cluster_name: seen.cluster_name,
        version: seen.version,
        node: seen.node,
        // A gateway reads its clock last of all, when everybody whom it asks has answered.
        clock_ahead_ms: match seen.unix_ms {
            0 => 0,
            there => there as i64 - WallTime::now().unix_ms as i64,
        },
        healthy: all_led && seen.warnings.is_empty() && seen.problem.is_empty(),
        problem: seen.problem,
        works: seen.works,
        waits: seen.waits,
        next_step: seen.next_step,
        warnings: seen.warnings,
        unexplained_warnings: seen.unexplained_warnings,
        masters: seen.masters.into_iter().map(master).collect(),
        stores: seen.stores.into_iter().map(store).collect(),
        range_totals: RangeTotals {
            ranges: Wide(totals.ranges),
            led: Wide(totals.led),
            in_trouble: Wide(totals.in_trouble),
            locks: Wide(totals.locks),
            holds: Wide(totals.holds),
            waiters: Wide(totals.waiters),
            state_bytes: Wide(totals.state_bytes),
        },
        ranges: seen.ranges.into_iter().map(range).collect(),
    }
}

/// A split that was not made, as the end of this process: where nothing of it was done because
/// somebody did not answer, that need not be the cluster.
pub fn split_failure(error: CallError) -> Failure {
    match error {
        CallError::Unavailable { reason, message } => {
            Failure::new(UNREACHABLE, "the range was not split")
                .reason(reason)
                .cause(message)
                .hint("look with `sharklock status`, then try again")
        }
        CallError::Indeterminate { message } => {
            Failure::new(UNREACHABLE, "the range may or may not have been split")
                .reason("INDETERMINATE")
                .cause(message)
                .hint("look with `sharklock ranges ls`; to try again cannot split it twice")
        }
        other => failure(other),
    }
}

/// The result of a split, or of a plan for one.
pub fn split(seen: SplitRangeResponse) -> RangeSplit {
    let is_planned = !seen.done;
    let part = |part: Option<RangePart>| {
        let part = part.unwrap_or_default();
        let epoch = part.epoch.unwrap_or_default();
        Part {
            range_id: Wide(part.range_id),
            start: part.start,
            end: part.end,
            conf_ver: Wide(epoch.conf_ver),
            version: Wide(epoch.version),
            locks: is_planned.then_some(Wide(part.locks)),
            store_ids: part.store_ids.into_iter().map(Wide).collect(),
            leader_store_id: Wide(0),
        }
    };
    RangeSplit {
        position: wire_position(seen.position.unwrap_or_default()),
        at: seen.at,
        done: seen.done,
        because: seen.because,
        led: None,
        lower: part(seen.lower),
        upper: part(seen.upper),
    }
}

fn wire_position(at: WirePosition) -> Position {
    Position {
        range_id: Wide(at.range_id),
        conf_ver: Wide(at.conf_ver),
        version: Wide(at.version),
        applied_index: Wide(at.applied_index),
    }
}

fn master(master: MasterStatus) -> Master {
    Master {
        member_id: Wide(master.member_id),
        node: master.node,
        address: master.address,
        answers: master.answers,
        silent_ms: Wide(master.silent_ms),
        leaderless_ms: Wide(master.leaderless_ms),
        waits_for: master.waits_for,
        is_leader: master.is_leader,
        is_up: master.is_up,
        is_voter: master.is_voter,
        term: Wide(master.term),
        lag: Wide(master.lag),
    }
}

/// Whether the masters hear of a store, in one word.
pub fn liveness(liveness: StoreLiveness) -> &'static str {
    match liveness {
        StoreLiveness::Up => "up",
        StoreLiveness::Disconnected => "disconnected",
        StoreLiveness::Down => "down",
        StoreLiveness::Unspecified => "unknown",
    }
}

fn store(store: StoreStatus) -> Store {
    Store {
        liveness: liveness(store.liveness()),
        store_id: Wide(store.store_id),
        node: store.node,
        ident: store.ident,
        address: store.address,
        heard_ms: Wide(store.heard_ms),
        is_linked: store.is_linked,
        answers: store.answers,
        silent_ms: Wide(store.silent_ms),
        replicas_count: store.replicas_count,
        leaders_count: store.leaders_count,
        uptime_ms: Wide(store.uptime_ms),
        syncs: Wide(store.syncs),
        sync_p50_us: Wide(store.sync_p50_us),
        sync_p99_us: Wide(store.sync_p99_us),
        state_bytes: Wide(store.state_bytes),
        state_bytes_max: Wide(store.state_bytes_max),
        state_alarm: store.state_alarm,
    }
}

/// One range.
pub fn range(range: RangeStatus) -> Range {
    Range {
        range_id: Wide(range.range_id),
        start: range.start,
        end: range.end,
        position: wire_position(range.position.unwrap_or_default()),
        leader_store_id: Wide(range.leader_store_id),
        term: Wide(range.term),
        commit_index: Wide(range.commit_index),
        flushed_index: Wide(range.flushed_index),
        log_first_index: Wide(range.log_first_index),
        state_hash: range.state_hash,
        locks: Wide(range.locks),
        holds: Wide(range.holds),
        waiters: Wide(range.waiters),
        state_bytes: Wide(range.state_bytes),
        commands_per_second: range.commands_per_second.map(Wide),
        splitting_at: range.splitting_at,
        unsplit_because: range.unsplit_because,
        hot_name: range.hot_name,
        waits_for: range.waits_for,
        voter_store_ids: range.voter_store_ids.into_iter().map(Wide).collect(),
        replicas: range.replicas.into_iter().map(replica).collect(),
        awaited_range_id: Wide(range.awaited_range_id),
        log_bytes: Wide(range.log_bytes),
        log_bytes_max: Wide(range.log_bytes_max),
    }
}

fn replica(replica: ReplicaStatus) -> Replica {
    Replica {
        store_id: Wide(replica.store_id),
        peer_id: Wide(replica.peer_id),
        is_voter: replica.is_voter,
        is_leader: replica.is_leader,
        lag: Wide(replica.lag),
        is_active: replica.is_active,
        in_snapshot: replica.in_snapshot,
        is_new: replica.is_new,
    }
}

fn position(at: SeenPosition) -> Position {
    Position {
        range_id: Wide(at.range),
        conf_ver: Wide(at.conf_ver),
        version: Wide(at.version),
        applied_index: Wide(at.applied_index),
    }
}

pub fn party(holder: Holder) -> Party {
    Party {
        session: holder.session,
        owner_id: holder.owner,
        client_address: holder.address,
        attributes: holder.attributes,
        mode: mode(holder.mode),
        permits: match holder.mode {
            HeldMode::Permits(n) => n,
            HeldMode::Exclusive | HeldMode::Shared => 0,
        },
        token: Wide(holder.token.map_or(0, |token| token.as_u64())),
        fence_floor: Wide(holder.fence_floor.map_or(0, |token| token.as_u64())),
        since: WallTime { unix_ms: holder.since.duration_since(UNIX_EPOCH).map_or(0, ms) },
        ttl_ms: Wide(ms(holder.ttl)),
        remaining_ms: Wide(ms(holder.remaining)),
        open_acquisitions: holder.open_acquisitions,
        ending_reason: holder.ending_reason.unwrap_or_default(),
        agreement: agreement(&holder.agreement),
        orphaned: holder.orphaned,
        asked: holder.asked.map(|asked| AskMark {
            session: asked.session,
            owner_id: asked.owner,
            since: WallTime { unix_ms: asked.since.duration_since(UNIX_EPOCH).map_or(0, ms) },
            grace_ms: Wide(ms(asked.grace)),
            remaining_ms: Wide(ms(asked.remaining)),
        }),
        arrival: Wide(holder.arrival),
        instance: Wide(holder.instance),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn agreement(agreed: &sharklock_client::Agreement) -> Agreement {
    let condition = &agreed.condition;
    let wide = |clause: Option<Duration>| clause.map(|clause| Wide(ms(clause)));
    let (lease, missed, interval) = match condition.lease {
        LeaseRule::OnExpiry => ("on_expiry", 0, Duration::ZERO),
        LeaseRule::AfterMissed { missed, interval } => ("after_missed", missed, interval),
        LeaseRule::Hold => ("hold", 0, Duration::ZERO),
    };
    Agreement {
        lease,
        missed,
        interval_ms: Wide(ms(interval)),
        lock_delay_ms: wide(condition.lock_delay),
        max_hold_ms: wide(condition.max_hold),
        ask_grace_ms: wide(condition.ask_grace),
        revision: Wide(agreed.revision),
        claimed: agreed.claimed,
    }
}

/// Holders that were asked.
pub fn asked(name: &str, asked: HoldersAsked) -> HoldersAskedView {
    HoldersAskedView {
        position: position(asked.position),
        name: name.to_owned(),
        asked_count: asked.asked_count,
        holders: asked.holders.into_iter().map(party).collect(),
    }
}

fn mode(mode: HeldMode) -> &'static str {
    match mode {
        HeldMode::Exclusive => "exclusive",
        HeldMode::Shared => "shared",
        HeldMode::Permits(_) => "permits",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_ranges_or_leaders_is_not_healthy() {
        let with = |ranges, led, warnings: &[&str]| {
            let range_totals = Some(sharklock_client::RangeTotals {
                ranges,
                led,
                ..sharklock_client::RangeTotals::default()
            });
            let warnings = warnings.iter().map(|it| (*it).to_owned()).collect();
            status(GetStatusResponse { range_totals, warnings, ..Default::default() }).healthy
        };
        assert!(with(2, 2, &[]));
        assert!(!with(2, 1, &[]));
        assert!(!with(0, 0, &[]));
        assert!(!with(2, 2, &["a master is down"]));
    }

    #[test]
    fn exit_codes_tell_unreachable_from_refused() {
        let message = || "x".to_owned();
        let code = |error| failure(error).code();
        let reason = message();
        assert_eq!(code(CallError::Unavailable { reason, message: message() }), UNREACHABLE);
        assert_eq!(code(CallError::Indeterminate { message: message() }), UNREACHABLE);
        assert_eq!(code(CallError::Failed { reason: message(), message: message() }), FAILED);
    }
}
