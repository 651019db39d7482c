//! A master that becomes one of a cluster that exists: it asks until somebody adds it. And one that is a
//! member asks whether it still is: whoever was removed while it was away hears of it by nothing else.

use std::{path::PathBuf, time::Duration};

use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{JoinRequest, JoinResponse},
};
use sharklock_rangemap::StoreId;
use sharklock_transport::{Masters, MastersError};
use tokio::time::{Instant, sleep};

use super::{
    desk::Desk,
    files::{self, Joined},
    server::StartError,
};
use crate::{refusal::Reason, state::Member};

/// How long the masters are asked before it is said that none answers; then on.
const ASK_FOR: Duration = Duration::from_secs(5);
/// Between two questions of one that waits.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// Between two questions of a member.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The master that asks.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// The identity of its directory.
    pub ident: Identity,
    /// Where others reach it.
    pub address: String,
    /// What its directory says of it, once it belongs to a cluster.
    pub known: Option<(ClusterId, StoreId)>,
}

impl Applicant {
    fn request(&self) -> JoinRequest {
        JoinRequest {
            cluster_id: self.known.map(|(cluster, _)| cluster.to_wire()).unwrap_or_default(),
            member_id: self.known.map_or(0, |(_, id)| id.0),
            ident: self.ident.to_wire(),
            address: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Asks until it is a member.
    ///
    /// # Errors
    /// The masters refuse, or their answer makes no sense.
    pub async fn join(&self, masters: &Masters) -> Result<Joined, StartError> {
        let mut say_at = Instant::now();
        loop {
            let why = match masters.join(self.request(), ASK_FOR).await {
                Ok(answer) if answer.member_id == 0 => "nobody has added it".to_owned(),
                Ok(answer) => return accept(answer),
                Err(why) if is_removal(&why) => return Err(StartError::Removed),
                Err(MastersError::Refused(status)) => {
                    return Err(StartError::Refused(status.message().to_owned()));
                }
                Err(MastersError::Unavailable(why)) => why,
            };
            if Instant::now() >= say_at {
                say_at = Instant::now() + SAY_EVERY;
                let (address, masters) = (&self.address, masters.addresses().join(","));
                tracing::info!(
                    masters,
                    why,
                    "this master waits to be added: sharklock masters add {address}"
                );
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// Asks who the members are for as long as it is one of them. Then its directory is marked, and its
    /// thread ends.
    pub async fn look(self, masters: Masters, dir: PathBuf, desk: Desk) {
        loop {
            sleep(LOOK_EVERY).await;
            match masters.join(self.request(), LOOK_EVERY).await {
                Err(why) if is_removal(&why) => {}
                Err(_unknown) => continue,
                Ok(answer) => {
                    // One that was away while others came does not know those.
                    if let Ok(joined) = accept(answer) {
                        desk.members(joined.members);
                    }
                    continue;
                }
            }
            match files::keep_removed(&dir) {
                Ok(()) => return desk.removed(),
                Err(why) => tracing::error!(%why, "this master was removed, and cannot note it"),
            }
        }
    }
}

fn is_removal(why: &MastersError) -> bool {
    why.reason() == Reason::MasterRemoved.as_str()
}

fn accept(answer: JoinResponse) -> Result<Joined, StartError> {
    let nonsense = |what: &str| StartError::Refused(format!("the masters' answer has {what}"));
    let cluster_id = ClusterId::from_wire(&answer.cluster_id);
    let cluster_id = cluster_id.map_err(|_wrong_length| nonsense("no cluster id of 16 bytes"))?;
    let member = |it: sharklock_proto::internal::v1::MasterAddress| {
        let ident = Identity::from_wire(&it.ident).ok()?;
        Some((StoreId(it.member_id), Member { ident, address: it.address }))
    };
    let members = answer.members.into_iter().map(member).collect::<Option<_>>();
    let joined = Joined {
        cluster_id,
        id: StoreId(answer.member_id),
        members: members.ok_or_else(|| nonsense("a member without an identity"))?,
    };
    match joined.members.contains_key(&joined.id) {
        true => Ok(joined),
        false => Err(nonsense("no place for this master")),
    }
}
