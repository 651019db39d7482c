//! The words of a client's endpoints about their clusters, for its session and its calls alike.

use sharklock_proto::{
    CLUSTER_ID, CLUSTER_NAME,
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
    pub(crate) fn said(&self, at: usize, said: Named) -> Result<(), ClusterMismatch> {
        let Named { cluster, name } = said;
        let mut mismatch = None;
        self.0.send_if_modified(|known| {
            known.called(cluster, &name);
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

/// A cluster as an answer names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) cluster: ClusterId,
    /// What people call it; empty: nothing.
    pub(crate) name: String,
}

/// The cluster that an answer names.
pub(crate) fn named(metadata: &MetadataMap) -> Option<Named> {
    let cluster = metadata.get(CLUSTER_ID)?.to_str().ok()?.parse().ok()?;
    Some(Named { cluster, name: name(metadata).unwrap_or_default() })
}

fn name(metadata: &MetadataMap) -> Option<String> {
    Some(metadata.get(CLUSTER_NAME)?.to_str().ok()?.to_owned())
}

/// The fault of an answer that names no cluster, in words for people.
pub(crate) const UNNAMED: &str = "it does not say to which cluster it belongs";

/// Asks a gateway for its cluster. The error is for people.
pub(crate) async fn ask(channel: Channel) -> Result<Named, Status> {
    let answer = LockServiceClient::new(channel).get_cluster(v1::GetClusterRequest {}).await?;
    let name = name(answer.metadata()).unwrap_or_default();
    match answer.into_inner().cluster_id.parse() {
        Ok(cluster) => Ok(Named { cluster, name }),
        Err(_not_one) => Err(Status::internal(UNNAMED)),
    }
}

/// As [`ask`], with the reason in one sentence.
pub(crate) async fn ask_over(channel: Channel) -> Result<Named, String> {
    ask(channel).await.map_err(|status| explain(&status))
}
