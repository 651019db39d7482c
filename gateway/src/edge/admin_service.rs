//! The public `AdminService`, for operators.

use std::sync::Arc;

use sharklock_proto::v1::{
    ForceReleaseRequest, ForceReleaseResponse, GetStatusRequest, GetStatusResponse,
    admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::{
    exchange::{ask, expect_body},
    hub::Hub,
    listen::Peer,
    lock_service::unary,
};
use crate::validate::{self, Checked};

const NAME: &str = "sharklock.v1.AdminService";

/// See the module.
pub(super) struct Admin {
    hub: Arc<Hub>,
}

impl Admin {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        unary(&self.hub, NAME, "GetStatus", async {
            let description = expect_body!(ask(&self.hub, Checked::describe()).await, Describe)?;
            Ok(GetStatusResponse {
                cluster_id: description.cluster_id,
                version: self.hub.config.version.clone(),
                stores: description.store.into_iter().collect(),
                ranges: description.ranges,
            })
        })
        .await
    }

    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.address);
        unary(&self.hub, NAME, "ForceRelease", async {
            let request = request.into_inner();
            let (now, operator) = (request.now, request.operator.clone());
            let checked = validate::force_release(request)?;
            // Who overrules a holder leaves a trace, whatever comes of it. No lock name: logs are
            // read by more people than locks.
            tracing::warn!(?peer, operator = ?operator, now, "an operator releases a lock by force");
            expect_body!(ask(&self.hub, checked).await, ForceRelease)
        })
        .await
    }
}
