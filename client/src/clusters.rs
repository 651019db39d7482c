//! The words of a client's endpoints about their clusters, for its session and its calls alike.

use sharklock_proto::{
    CLUSTER_ID,
    v1::{self, lock_service_client::LockServiceClient},
};
use tokio::sync::watch;
use tonic::{Status, metadata::MetadataMap, transport::Channel};

use crate::{
    cluster::{ClusterId, ClusterMismatch, Membership, Standing},
    status::explain,
};

/// The state of knowledge, and news of it. [`Membership`] decides what follows from it.
#[derive(Debug)]
pub(crate) struct Clusters(watch::Sender<Membership>);

impl Clusters {
    pub(crate) fn new(known: Membership) -> Self {
        Self(watch::Sender::new(known))
    }

    /// Hears of every change.
    pub(crate) fn watch(&self) -> watch::Receiver<Membership> {
        self.0.subscribe()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.0.borrow().standing()
    }

    pub(crate) fn is_ours(&self, at: usize) -> bool {
        self.0.borrow().is_ours(at)
    }

    pub(crate) fn nowhere(&self) -> Option<ClusterMismatch> {
        self.0.borrow().nowhere()
    }

    /// An endpoint says that it belongs to this cluster. The error: this client belongs to another.
    pub(crate) fn said(&self, at: usize, cluster: ClusterId) -> Result<(), ClusterMismatch> {
        let mut mismatch = None;
        self.0.send_if_modified(|known| {
            let before = (known.standing(), known.mismatch(at), known.is_ours(at));
            known.said(at, cluster);
            mismatch = known.mismatch(at);
            if let Some(mismatch) = mismatch.as_ref().filter(|_| before.1 != mismatch) {
                tracing::error!("{mismatch}: nothing is taken from it");
            }
            before != (known.standing(), mismatch.clone(), known.is_ours(at))
        });
        mismatch.map_or(Ok(()), Err)
    }

    /// An endpoint cannot be reached.
    pub(crate) fn silent(&self, at: usize) {
        self.0.send_if_modified(|known| known.silent(at));
    }

    /// All are asked again.
    pub(crate) fn ask_anew(&self) {
        self.0.send_if_modified(Membership::ask_anew);
    }

    /// Those that have not been heard yet have had their time.
    pub(crate) fn time_is_up(&self) {
        self.0.send_if_modified(Membership::time_is_up);
    }

    /// Waits until enough is known to begin with this endpoint. The error says, for people, why not.
    pub(crate) async fn decided(&self, at: usize) -> Result<(), String> {
        let mut watch = self.watch();
        let known = watch.wait_for(|known| known.standing() != Standing::Open).await;
        let known = known.expect("the sender lives in self");
        match (known.is_ours(at), known.standing()) {
            (true, _) => Ok(()),
            (false, Standing::Refused(mismatch)) => Err(mismatch.to_string()),
            (false, _) => Err("it belongs to another cluster".to_owned()),
        }
    }
}

/// The cluster that an answer names.
pub(crate) fn named(metadata: &MetadataMap) -> Option<ClusterId> {
    metadata.get(CLUSTER_ID)?.to_str().ok()?.parse().ok()
}

/// The fault of an answer that names no cluster, in words for people.
pub(crate) const UNNAMED: &str = "it does not say to which cluster it belongs";

/// Asks a gateway for its cluster. The error is for people.
pub(crate) async fn ask(channel: Channel) -> Result<ClusterId, Status> {
    let answer = LockServiceClient::new(channel).get_cluster(v1::GetClusterRequest {}).await?;
    let cluster = answer.into_inner().cluster_id.parse();
    cluster.map_err(|_not_one| Status::internal(UNNAMED))
}

/// As [`ask`], with the reason in one sentence.
pub(crate) async fn ask_over(channel: Channel) -> Result<ClusterId, String> {
    ask(channel).await.map_err(|status| explain(&status))
}
