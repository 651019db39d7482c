//! This master as a member of its cluster: what its directory says of that, the store that it begins
//! with, and the others.

use std::{collections::BTreeMap, io, sync::Arc};

use sharklock_multiraft::{
    Config, Disk as _, RocksDisk, Store, StoreIdent, bootstrap, init_store, read_ident,
};
use sharklock_proto::{ClusterId, Identity, internal::v1::MasterView};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, Replica, Role, StoreId};
use sharklock_transport::{Masters, PeerAcceptor, PeerAddress, PeerIdentity, PeerLinks};
use tokio::runtime::Handle;

use super::{
    files::{self, Joined},
    joining::Applicant,
    server::{MasterConfig, StartError, Tuning},
};
use crate::{
    core::GROUP,
    formation::{FormationError, Formed},
    state::{self, ClusterState},
};

/// This master in its cluster.
pub struct Member {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// All masters, as the directory knows them.
    pub members: BTreeMap<StoreId, state::Member>,
    ident: Identity,
    id: StoreId,
    /// It has formed the cluster with the others, and so begins with a vote.
    is_founder: bool,
}

impl Member {
    /// One that has formed the cluster.
    pub fn founder(ident: Identity, formed: &Formed, me: &str) -> Self {
        let member = |(address, ident): (&String, &Identity)| state::Member {
            ident: *ident,
            address: address.clone(),
        };
        let id = formed.member_id(me).expect("a member is in its formation");
        Self {
            cluster_id: formed.cluster_id(),
            members: (1..).map(StoreId).zip(formed.members.iter().map(member)).collect(),
            ident,
            id: StoreId(id),
            is_founder: true,
        }
    }

    /// One that was added to the cluster.
    ///
    /// # Errors
    /// The directory is another master's.
    pub fn joined(ident: Identity, joined: Joined, me: &str) -> Result<Self, StartError> {
        let Joined { cluster_id, id, members } = joined;
        let own = &members[&id];
        if own.ident != ident {
            return Err(FormationError::Wiped(me.to_owned()).into());
        }
        if own.address != me {
            let (me, known) = (me.to_owned(), vec![own.address.clone()]);
            return Err(FormationError::Moved { me, known }.into());
        }
        Ok(Self { cluster_id, members, ident, id, is_founder: false })
    }

    /// As those see it who look for a cluster to form.
    pub fn view(&self) -> MasterView {
        let members = self.members.values();
        MasterView {
            address: self.members[&self.id].address.clone(),
            ident: self.ident.to_wire(),
            masters: members.clone().map(|it| it.address.clone()).collect(),
            idents: members.map(|it| (it.address.clone(), it.ident.to_wire())).collect(),
            cluster_id: self.cluster_id.to_wire(),
        }
    }

    /// The master, as it asks whether it still is one.
    pub fn applicant(&self) -> Applicant {
        Applicant {
            ident: self.ident,
            address: self.members[&self.id].address.clone(),
            known: Some((self.cluster_id, self.id)),
        }
    }

    /// The store on the disk. A fresh one begins with the group of all founders, or with nothing: then the
    /// leader of the group asks for a replica.
    pub fn recover(
        &self,
        config: &MasterConfig,
        mut disk: RocksDisk,
    ) -> Result<(RocksDisk, Store<ClusterState>), StartError> {
        let path = &config.data_dir;
        let corrupt = |source| StartError::Recover { path: path.clone(), source };
        let unusable = |source| StartError::DataDir { path: path.clone(), source };
        let Self { cluster_id, id: store, ident, .. } = *self;
        let own = StoreIdent { cluster_id, store, ident };
        match read_ident(&disk).map_err(corrupt)? {
            Some(known) if known == own => {}
            Some(_) => return Err(FormationError::OtherCluster(config.advertise.clone()).into()),
            // A directory that lost its store must not begin anew: it could vote twice in a term.
            None if files::has_begun(path).map_err(unusable)? => {
                return Err(FormationError::Wiped(config.advertise.clone()).into());
            }
            None => {
                let first = match self.is_founder {
                    true => bootstrap(&own, &self.group()),
                    false => init_store(&own),
                };
                disk.write(&first, true).map_err(|error| unusable(io::Error::other(error)))?;
            }
        }
        files::keep_begun(path).map_err(unusable)?;
        let Tuning { log, snapshots, .. } = config.tuning;
        let engine = Config { log, snapshots, ..Config::default() };
        let store = Store::<ClusterState>::recover(engine, &disk).map_err(corrupt)?;
        match store.tombstone(GROUP) {
            Some(_) => Err(StartError::Removed),
            None => Ok((disk, store)),
        }
    }

    /// The masters' Raft group at its beginning: every founder votes.
    fn group(&self) -> Descriptor {
        let voter = |id: &StoreId| Replica { peer: PeerId(id.0), store: *id, role: Role::Voter };
        let epoch = Epoch { conf_ver: 1, version: 1 };
        Descriptor::new(GROUP, Bounds::ALL, epoch, self.members.keys().map(voter).collect())
    }

    /// The speaker on the streams to the others.
    pub fn identity(&self) -> PeerIdentity {
        let Self { cluster_id, id, ident, .. } = *self;
        PeerIdentity { cluster_id, store: id.0, ident, worker: 0, role: "master" }
    }
}

/// The ways to the other masters.
pub struct Others {
    /// The streams to them.
    pub peers: Arc<PeerLinks>,
    /// The streams from them.
    pub acceptor: PeerAcceptor,
    /// Where questions go.
    pub masters: Masters,
    /// Streams are tasks of this runtime.
    pub runtime: Handle,
}

impl Others {
    /// From now on these are the masters.
    pub fn are(&self, members: &BTreeMap<StoreId, state::Member>) {
        let peer = |(id, it): (&StoreId, &state::Member)| {
            (id.0, PeerAddress { ident: it.ident, address: it.address.clone() })
        };
        let addresses: Vec<_> = members.values().map(|it| it.address.clone()).collect();
        let _inside = self.runtime.enter();
        let members: BTreeMap<_, _> = members.iter().map(peer).collect();
        self.masters.learn(&addresses);
        self.acceptor.set_peers(&members);
        self.peers.set_peers(members);
    }
}
