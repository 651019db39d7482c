//! The public `AdminService`, for operators.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use sharklock_proto::{
    internal::v1::StoreDescription,
    v1::{
        ForceReleaseRequest, ForceReleaseResponse, GetStatusRequest, GetStatusResponse,
        RangeStatus, admin_service_server::AdminService,
    },
};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use super::{
    exchange::{ask, expect_body},
    host::Host,
    listen::Peer,
    lock_service::unary,
};
use crate::{
    failure::Failure,
    validate::{self, Checked},
};

/// Asks every connected store, and fails only if none answers.
async fn describe_all(host: &Arc<Host>) -> Result<Vec<StoreDescription>, Failure> {
    let mut asking = JoinSet::new();
    for store in host.hub.stores() {
        let host = host.clone();
        asking.spawn(
            async move { expect_body!(ask(&host, Checked::describe(store)).await, Describe) },
        );
    }
    let mut described = Vec::new();
    let mut failure = Failure::no_leader();
    while let Some(answer) = asking.join_next().await {
        match answer {
            Ok(Ok(description)) => described.push(description),
            Ok(Err(why)) => failure = why,
            // The runtime is stopping, and nobody waits for the answer.
            Err(_aborted) => {}
        }
    }
    if described.is_empty() { Err(failure) } else { Ok(described) }
}

/// The cluster as its stores describe it: of each range the view of who knows most, its leader's.
fn merged(mut described: Vec<StoreDescription>, version: &str) -> GetStatusResponse {
    let id = |description: &StoreDescription| {
        description.store.as_ref().map_or(0, |store| store.store_id)
    };
    described.sort_by_key(id);
    let mut status = GetStatusResponse { version: version.to_owned(), ..Default::default() };
    let mut ranges: BTreeMap<u64, (bool, RangeStatus)> = BTreeMap::new();
    for description in described {
        let store = id(&description);
        status.cluster_id = description.cluster_id;
        status.stores.extend(description.store);
        for range in description.ranges {
            let seen = (range.leader_store_id == store, range);
            let rank = |(leads, range): &(bool, RangeStatus)| (range.term, *leads);
            match ranges.entry(seen.1.range_id) {
                Entry::Vacant(entry) => drop(entry.insert(seen)),
                Entry::Occupied(mut entry) if rank(&seen) > rank(entry.get()) => {
                    entry.insert(seen);
                }
                Entry::Occupied(_) => {}
            }
        }
    }
    // In order of names, as one store tells them.
    status.ranges = ranges.into_values().map(|(_, range)| range).collect();
    status.ranges.sort_by(|a, b| a.start.cmp(&b.start));
    status
}

const NAME: &str = "sharklock.v1.AdminService";

/// See the module.
pub(super) struct Admin {
    host: Arc<Host>,
}

impl Admin {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        unary(&self.host, NAME, "GetStatus", async {
            let described = describe_all(&self.host).await?;
            Ok(merged(described, &self.host.config.version))
        })
        .await
    }

    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        unary(&self.host, NAME, "ForceRelease", async {
            let request = request.into_inner();
            let (now, operator) = (request.now, request.operator.clone());
            let checked = validate::force_release(request)?;
            // Who overrules a holder leaves a trace, whatever comes of it. No lock name: logs are
            // read by more people than locks.
            tracing::warn!(?peer, operator = ?operator, now, "an operator releases a lock by force");
            expect_body!(ask(&self.host, checked).await, ForceRelease)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use sharklock_proto::v1::StoreStatus;

    use super::*;

    fn description(store_id: u64, ranges: &[(u64, u64, u64)]) -> StoreDescription {
        let status = |&(range_id, leader_store_id, term): &(u64, u64, u64)| RangeStatus {
            range_id,
            leader_store_id,
            term,
            // So that the view that was taken can be told.
            locks: store_id,
            ..RangeStatus::default()
        };
        StoreDescription {
            store: Some(StoreStatus { store_id, ..StoreStatus::default() }),
            ranges: ranges.iter().map(status).collect(),
            ..StoreDescription::default()
        }
    }

    #[test]
    fn of_each_range_the_leader_of_the_newest_term_is_believed() {
        let described = vec![
            description(3, &[(1, 2, 6), (2, 0, 4)]),
            description(1, &[(1, 1, 5), (2, 1, 4)]),
            description(2, &[(1, 2, 6)]),
        ];
        let status = merged(described, "1.2.3");
        assert_eq!(status.version, "1.2.3");
        let stores: Vec<_> = status.stores.iter().map(|store| store.store_id).collect();
        assert_eq!(stores, [1, 2, 3]);
        let views: Vec<_> =
            status.ranges.iter().map(|range| (range.range_id, range.locks)).collect();
        assert_eq!(views, [(1, 2), (2, 1)]);
    }
}
