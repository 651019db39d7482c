//! Answers of the client library, turned into views for operators.

use std::time::UNIX_EPOCH;

use sharklock_client::{
    Because, CallError, ClusterMismatch, ForceReleased, GetStatusResponse, HeldMode, Holder,
    LockInfo, LockSeen, Position as SeenPosition, RangeStatus, StoreStatus,
};
use sharklock_proto::v1::{MasterStatus, ReplicaStatus, StoreLiveness};

use super::{
    status::{Master, Range, Replica, Status, Store},
    view::{ForceRelease, Lock, OneLock, Party, Position, WallTime, Wide},
};
use crate::exit::{CONFIG, FAILED, Failure, UNREACHABLE, USAGE};

/// The hint for when no gateway answers.
pub const UNREACHABLE_HINT: &str =
    "start one with `sharklock dev`, or name another with --endpoints";

/// A call that did not succeed, as the end of this process.
pub fn failure(error: CallError) -> Failure {
    match error {
        CallError::Invalid { .. } => Failure::new(USAGE, error.to_string()),
        CallError::Unavailable { message } => {
            Failure::new(UNREACHABLE, "the cluster is out of reach")
                .cause(message)
                .hint(UNREACHABLE_HINT)
        }
        CallError::Indeterminate { message } => {
            Failure::new(UNREACHABLE, "no answer came: it may or may not have been done")
                .cause(message)
                .hint("look with `sharklock locks show`, then try again")
        }
        CallError::OtherCluster(mismatch) => other_cluster(&mismatch),
        // The other errors are refusals: the cluster is there and says no.
        other => Failure::new(FAILED, other.to_string()),
    }
}

/// The gateways that are named are not those of one cluster, the one that is meant.
pub fn other_cluster(mismatch: &ClusterMismatch) -> Failure {
    let error = match mismatch.because {
        Because::Told => "the endpoints belong to another cluster",
        Because::Begun | Because::Said(_) => "the endpoints belong to two clusters",
    };
    Failure::new(CONFIG, error).cause(mismatch).hint(
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
        mode: any.map_or("unknown", |party| mode(party.mode)),
        name: info.name,
        permits_max: info.permits_max.unwrap_or(0),
        holders: info.holders.into_iter().map(party).collect(),
        waiters: info.waiters.into_iter().map(party).collect(),
        holders_count: info.holders_count,
        waiters_count: info.waiters_count,
    }
}

/// The outcome of a force-release.
pub fn force_release(name: &str, done: ForceReleased) -> ForceRelease {
    ForceRelease {
        position: position(done.position),
        name: name.to_owned(),
        ended: done.ended,
        holders: done.holders.into_iter().map(party).collect(),
    }
}

/// The cluster. It is healthy when it has ranges, each of them has a leader, and its gateway has
/// nothing to warn of.
pub fn status(seen: GetStatusResponse) -> Status {
    let ranges: Vec<Range> = seen.ranges.into_iter().map(range).collect();
    let all_led = ranges.iter().all(|range| range.leader_store_id.0 != 0);
    Status {
        cluster_id: seen.cluster_id,
        version: seen.version,
        healthy: !ranges.is_empty() && all_led && seen.warnings.is_empty(),
        warnings: seen.warnings,
        masters: seen.masters.into_iter().map(master).collect(),
        stores: seen.stores.into_iter().map(store).collect(),
        ranges,
    }
}

fn master(master: MasterStatus) -> Master {
    Master {
        member_id: Wide(master.member_id),
        address: master.address,
        is_leader: master.is_leader,
        is_up: master.is_up,
        term: Wide(master.term),
        lag: Wide(master.lag),
    }
}

fn store(store: StoreStatus) -> Store {
    Store {
        liveness: match store.liveness() {
            StoreLiveness::Up => "up",
            StoreLiveness::Disconnected => "disconnected",
            StoreLiveness::Down => "down",
            StoreLiveness::Unspecified => "unknown",
        },
        store_id: Wide(store.store_id),
        ident: store.ident,
        address: store.address,
        heard_ms: Wide(store.heard_ms),
        is_linked: store.is_linked,
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

fn range(range: RangeStatus) -> Range {
    let at = range.position.unwrap_or_default();
    Range {
        range_id: Wide(range.range_id),
        start: range.start,
        end: range.end,
        position: Position {
            range_id: Wide(at.range_id),
            conf_ver: Wide(at.conf_ver),
            version: Wide(at.version),
            applied_index: Wide(at.applied_index),
        },
        leader_store_id: Wide(range.leader_store_id),
        term: Wide(range.term),
        commit_index: Wide(range.commit_index),
        flushed_index: Wide(range.flushed_index),
        log_first_index: Wide(range.log_first_index),
        state_hash: range.state_hash,
        locks: Wide(range.locks),
        holds: Wide(range.holds),
        waiters: Wide(range.waiters),
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

fn party(holder: Holder) -> Party {
    let ms =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
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
        let with = |leaders: &[u64]| {
            let range = |&leader_store_id| RangeStatus { leader_store_id, ..Default::default() };
            let ranges = leaders.iter().map(range).collect();
            status(GetStatusResponse { ranges, ..Default::default() }).healthy
        };
        assert!(with(&[1, 1]));
        assert!(!with(&[1, 0]));
        assert!(!with(&[]));
        let ranges = vec![RangeStatus { leader_store_id: 1, ..Default::default() }];
        let warnings = vec!["a master is down".to_owned()];
        let warned = GetStatusResponse { ranges, warnings, ..Default::default() };
        assert!(!status(warned).healthy);
    }

    #[test]
    fn exit_codes_tell_unreachable_from_refused() {
        let message = || "x".to_owned();
        let code = |error| failure(error).code();
        assert_eq!(code(CallError::Unavailable { message: message() }), UNREACHABLE);
        assert_eq!(code(CallError::Indeterminate { message: message() }), UNREACHABLE);
        assert_eq!(code(CallError::Failed { reason: message(), message: message() }), FAILED);
    }
}
