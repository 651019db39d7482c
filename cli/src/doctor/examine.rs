//! Asks everybody: each endpoint by itself, all at the same time.

use std::time::Duration;

use sharklock_client::{CallError, Client, GetStatusResponse, NO_ANSWER};
use tokio::time::timeout;

use super::{Endpoint, Examination, Member, READY};
use crate::{
    admin::{WallTime, Wide},
    args::ReachArgs,
    identity,
    probe::{Readiness, readiness},
};

/// A gateway waits for 2 s for masters that say nothing.
const ASK_MAX: Duration = Duration::from_secs(4);
/// Between the port of a gateway and the admin port, unless told otherwise.
const ADMIN_STEP: u16 = 90;

pub(super) async fn examine(reach: &ReachArgs) -> Examination {
    let mut asking = tokio::task::JoinSet::new();
    for (at, endpoint) in reach.endpoints.0.iter().cloned().enumerate() {
        asking.spawn(async move { (at, one(endpoint).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    let (endpoints, seen): (Vec<_>, Vec<_>) = found.into_iter().map(|(_, found)| found).unzip();
    let mut examination = Examination::new(endpoints);
    if let Some(seen) = seen.into_iter().flatten().next() {
        take_members(&mut examination, seen);
    }
    examination
}

async fn one(endpoint: String) -> (Endpoint, Option<GetStatusResponse>) {
    let mut found = Endpoint { endpoint: endpoint.clone(), ..Endpoint::default() };
    let seen = match status(&endpoint).await {
        Ok(seen) => {
            found.answers = true;
            // A gateway reads its clock last of all, when everybody whom it asks has answered.
            found.clock_ahead_ms = seen.unix_ms as i64 - WallTime::now().unix_ms as i64;
            found.node.clone_from(&seen.node);
            found.version.clone_from(&seen.version);
            found.cluster_id.clone_from(&seen.cluster_id);
            found.cluster_name.clone_from(&seen.cluster_name);
            found.admin_address.clone_from(&seen.admin_address);
            found.problem.clone_from(&seen.problem);
            found.next_step.clone_from(&seen.next_step);
            Some(seen)
        }
        Err((reason, why)) => {
            (found.reason, found.why) = (reason, why);
            found.admin_address = guessed_admin(&endpoint).unwrap_or_default();
            None
        }
    };
    found.admin = admin(&found.admin_address).await;
    if found.admin.is_empty() && seen.is_none() {
        // It was only a guess.
        found.admin_address.clear();
    }
    (found, seen)
}

/// The status by the gateway at this endpoint, or why there is none, for programs and for people.
async fn status(endpoint: &str) -> Result<GetStatusResponse, (String, String)> {
    let client = Client::builder().endpoints(&[endpoint.to_owned()]);
    let client = client.identity(&identity::default_owner()).call_timeout(ASK_MAX).build();
    let client = client.map_err(|why| ("BAD_ENDPOINT".to_owned(), why.to_string()))?;
    client.status().await.map_err(|error| match error {
        CallError::Unavailable { reason, message } => (reason, message),
        CallError::Indeterminate { message } => (NO_ANSWER.to_owned(), message),
        CallError::Failed { reason, message } => (reason, message),
        other => ("FAILED".to_owned(), other.to_string()),
    })
}

/// The admin port that goes with the port of a gateway unless told otherwise.
fn guessed_admin(endpoint: &str) -> Option<String> {
    let authority = endpoint.split("://").last()?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    Some(format!("{host}:{}", port.parse::<u16>().ok()?.checked_add(ADMIN_STEP)?))
}

/// `ready`, or what the process lacks; empty: it does not answer.
async fn admin(address: &str) -> String {
    let found = timeout(ASK_MAX, tokio::net::lookup_host(address)).await;
    let Some(address) = found.ok().and_then(Result::ok).and_then(|mut all| all.next()) else {
        return String::new();
    };
    match readiness(address).await {
        Readiness::Ready => READY.to_owned(),
        Readiness::Lacks(what) => what,
        Readiness::Silent => String::new(),
    }
}

fn take_members(examination: &mut Examination, seen: GetStatusResponse) {
    let masters = seen.masters.into_iter().map(|master| Member {
        id: Wide(master.member_id),
        node: master.node,
        address: master.address,
        answers: master.answers,
        version: master.version,
        clock_ahead_ms: master.clock_ahead_ms,
        sync_p99_us: Wide(0),
        syncs: Wide(0),
    });
    examination.masters = masters.collect();
    let stores = seen.stores.into_iter().map(|store| Member {
        id: Wide(store.store_id),
        node: store.node,
        address: store.address,
        answers: store.answers,
        version: store.version,
        clock_ahead_ms: 0,
        sync_p99_us: Wide(store.sync_p99_us),
        syncs: Wide(store.syncs),
    });
    examination.stores = stores.collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_port_is_guessed_by_the_usual_step() {
        let guessed = |endpoint: &str| guessed_admin(endpoint);
        assert_eq!(guessed("http://127.0.0.1:7800").as_deref(), Some("127.0.0.1:7890"));
        assert_eq!(guessed("https://[::1]:7700/").as_deref(), Some("[::1]:7790"));
        assert_eq!(guessed("http://host"), None);
        assert_eq!(guessed("http://host:65500"), None);
    }
}
