//! The public `AdminService`, for operators.

use std::{sync::Arc, time::Duration};

use sharklock_proto::{
    internal::v1::StoreDescription,
    v1::{
        ForceReleaseRequest, ForceReleaseResponse, GetStatusRequest, GetStatusResponse,
        admin_service_server::AdminService,
    },
};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use super::{
    cluster_view::{Masters, Seen, picture},
    exchange::{ask, expect_body},
    fan_out::{Bounds, FanOut},
    host::Host,
    lock_service::{admit, peer, unary},
};
use crate::{
    StoreId,
    failure::Failure,
    validate::{self, Checked},
};

/// The time that a status waits for masters and for each store. Both answer from memory; whoever
/// looks at a cluster does so because something does not answer.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// Stores that are asked at a time.
const STORES_AT_ONCE: usize = 64;

/// Asks everybody at once, and fails only if nobody answers.
async fn look(host: &Arc<Host>) -> Result<Seen, Failure> {
    let linked = host.hub.stores();
    let (described, cluster) = tokio::join!(describe_all(host, &linked), ask_masters(host));
    let (described, failure) = described;
    if described.is_empty() && !matches!(cluster, Masters::Leading(_)) {
        return Err(failure);
    }
    let linked = linked.into_iter().map(|store| store.0).collect();
    Ok(Seen { described, cluster, named: host.named_stores(), linked })
}

async fn ask_masters(host: &Arc<Host>) -> Masters {
    let Some(masters) = &host.masters else { return Masters::None };
    match timeout(SEEN_WITHIN, masters.cluster()).await {
        Ok(Ok(cluster)) => match host.cluster.take(&cluster.cluster_id) {
            Ok(()) => Masters::Leading(cluster),
            Err(other) => Masters::Other(other),
        },
        Ok(Err(status)) => {
            tracing::debug!(%status, "the masters do not describe the cluster");
            Masters::Silent
        }
        Err(_elapsed) => Masters::Silent,
    }
}

/// The words of the stores that answer, in order of their ids, and why one did not.
async fn describe_all(host: &Arc<Host>, stores: &[StoreId]) -> (Vec<StoreDescription>, Failure) {
    let all = Instant::now() + SEEN_WITHIN;
    let bounds = Bounds { at_once: STORES_AT_ONCE, each: SEEN_WITHIN / 2, all };
    let mut asking = FanOut::new(stores.iter(), bounds, |store| {
        let (host, checked) = (host.clone(), Checked::describe(*store));
        async move { expect_body!(ask(&host, checked).await, Describe) }
    });
    let mut described = Vec::new();
    let mut failure = Failure::no_leader();
    // A store that says nothing is missing in the picture, which shows it.
    while let Some((_, answer)) = asking.next().await {
        match answer {
            Ok(description) => described.push(description),
            Err(why) => failure = why,
        }
    }
    described.sort_by_key(|it| it.store.as_ref().map_or(0, |store| store.store_id));
    (described, failure)
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
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "GetStatus", async {
            let _call = admit(&self.host, &peer)?;
            let seen = look(&self.host).await?;
            let mut picture = picture(seen, &self.host.config.version);
            if let Some(served) = self.host.cluster.id() {
                served.clone_into(&mut picture.cluster_id);
            }
            Ok(picture)
        })
        .await
    }

    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let peer = peer(&request);
        unary(&self.host, NAME, "ForceRelease", async {
            let _call = admit(&self.host, &peer)?;
            let request = request.into_inner();
            let (now, operator) = (request.now, request.operator.clone());
            let checked = validate::force_release(request)?;
            // An operator who overrules a holder leaves a trace, whatever comes of it. No lock
            // name: logs are read by more people than locks.
            tracing::warn!(peer = %peer.address, operator = ?operator, now, "an operator releases a lock by force");
            expect_body!(ask(&self.host, checked).await, ForceRelease)
        })
        .await
    }
}
