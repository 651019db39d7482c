//! Becoming, or being again, a store of a cluster: no store serves before a master knows it.

use std::{collections::BTreeMap, time::Duration};

use sharklock_locktable::FEATURE_LEVEL;
use sharklock_multiraft::StoreIdent;
use sharklock_proto::{
    ClusterId, Identity, Start,
    internal::v1::{RegisterStoreRequest, RegisterStoreResponse, StoreAddress},
    v1::StoreLabel,
};
use sharklock_rangemap::StoreId;
use sharklock_transport::{Masters, MastersError, PeerAddress};
use tokio::time::Instant;

use crate::edge::server::StartError;

/// The reason with which a master refuses a directory that has had this start or a later one.
const OLDER_COPY: &str = "STORE_OLDER_COPY";
/// Somebody who starts a cluster starts all its machines within such a time. Until then it is no news
/// that masters are missing.
const FORMS_WITHIN: Duration = Duration::from_secs(30);
/// How long the masters are asked before it is said that none answers; then on.
const ASK_FOR: Duration = Duration::from_secs(5);

/// The store that asks to be taken in.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The random identity of the data directory.
    pub ident: Identity,
    /// The identity in the directory; `None`: it belongs to no cluster yet.
    pub known: Option<StoreIdent>,
    /// The address at which peers and gateways reach it.
    pub advertise: String,
    /// Which start on the directory this is, and the process's random name.
    pub start: Start,
    /// Where it is, from the widest to the narrowest.
    pub labels: Vec<(String, String)>,
    /// What people call its process.
    pub node: String,
}

/// The answer of the masters.
#[derive(Debug)]
pub struct Registered {
    /// The identity, to be written before anything else is done under it.
    pub ident: StoreIdent,
    /// All stores of the cluster.
    pub stores: Vec<StoreAddress>,
}

fn label((key, value): (String, String)) -> StoreLabel {
    StoreLabel { key, value }
}

/// Asks until a leading master answers. Those that the directory remembers are asked once none of the
/// configuration's has answered for a while: these may be gone, or be another cluster's, and then the
/// directory is in the wrong place.
///
/// # Errors
/// The master refuses, or says what contradicts the directory.
pub async fn register(
    masters: &Masters,
    applicant: &Applicant,
    remembered: &[String],
) -> Result<Registered, StartError> {
    let known = applicant.known;
    let request = RegisterStoreRequest {
        ident: applicant.ident.to_wire(),
        cluster_id: known.map(|known| known.cluster_id.to_wire()).unwrap_or_default(),
        store_id: known.map_or(0, |known| known.store.0),
        address: applicant.advertise.clone(),
        start: applicant.start.number,
        life: applicant.start.life.to_wire(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        labels: applicant.labels.iter().cloned().map(label).collect(),
        node: applicant.node.clone(),
    };
    let begun = Instant::now();
    loop {
        match masters.register_store(request.clone(), ASK_FOR).await {
            Ok(answer) => return accept(applicant, answer),
            Err(refused @ MastersError::Refused(_)) => return Err(refusal(&refused)),
            Err(MastersError::Unavailable(why)) => {
                let asked = masters.addresses().join(",");
                masters.ask_also(remembered);
                if begun.elapsed() < FORMS_WITHIN {
                    tracing::info!(masters = asked, why, "no master takes this store in yet");
                } else {
                    tracing::warn!(masters = asked, why, "no master takes this store in");
                }
            }
        }
    }
}

fn refusal(refused: &MastersError) -> StartError {
    let is_older = refused.reason() == OLDER_COPY;
    let why = match refused {
        MastersError::Refused(status) => status.message().to_owned(),
        MastersError::Unavailable(why) => why.clone(),
    };
    if is_older { StartError::OlderCopy(why) } else { StartError::Refused(why) }
}

fn accept(applicant: &Applicant, answer: RegisterStoreResponse) -> Result<Registered, StartError> {
    let nonsense = |what: &str| StartError::Refused(format!("the master's answer has {what}"));
    let cluster_id = ClusterId::from_wire(&answer.cluster_id);
    let cluster_id = cluster_id.map_err(|_wrong_length| nonsense("no cluster id of 16 bytes"))?;
    if answer.store_id == 0 {
        return Err(nonsense("no store id"));
    }
    let store = StoreId(answer.store_id);
    let ident = StoreIdent { cluster_id, store, ident: applicant.ident };
    match applicant.known {
        Some(known) if known != ident => Err(nonsense("another identity than this directory")),
        _ => Ok(Registered { ident, stores: answer.stores }),
    }
}

/// The stores as the links take them.
pub fn peers(stores: &[StoreAddress]) -> BTreeMap<u64, PeerAddress> {
    // A master tells only of stores that it has taken in.
    let peer = |store: &StoreAddress| {
        let ident = Identity::from_wire(&store.ident).ok()?;
        Some((store.store_id, PeerAddress { ident, address: store.address.clone() }))
    };
    stores.iter().filter_map(peer).collect()
}
