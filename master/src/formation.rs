//! How masters that have never met become one cluster.
//!
//! Each has a random identity that is on its disk before anybody hears of it. A master forms the
//! cluster when all others that are named with it name the same masters and have heard the same
//! identities; what they form follows from those alone, so all form the same, in whatever order
//! they get there, and one that dies on the way forms it when it is back. A master whose directory
//! was emptied has another identity, and is refused by those that know the first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use sharklock_proto::{ClusterId, Identity, internal::v1::MasterView};

/// Group sizes that make sense: an even one tolerates no more losses than the odd one below it.
const SIZES: [usize; 3] = [1, 3, 5];

/// A cluster, as it was formed. The same on all its masters, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// Identities by address. A member's id is its place in this order, from 1.
    pub members: BTreeMap<String, Identity>,
}

impl Formed {
    /// Sixteen bytes of SHA-256 over addresses and identities.
    pub fn cluster_id(&self) -> ClusterId {
        let mut hash = Sha256::new();
        for (address, ident) in &self.members {
            hash.update((address.len() as u64).to_be_bytes());
            hash.update(address);
            hash.update(ident.to_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        ClusterId::from_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    }

    /// A member's id.
    pub fn member_id(&self, address: &str) -> Option<u64> {
        let place = self.members.keys().position(|member| member == address)?;
        Some(place as u64 + 1)
    }
}

/// Why masters do not form a cluster. For people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// The list has a wrong length.
    #[error("{0} masters are named: name 1, 3 or 5")]
    Size(usize),
    /// One is named twice.
    #[error("master {0} is named twice")]
    Twice(String),
    /// This one is not named.
    #[error(
        "this master advertises {me}, which is not among the named masters {}: each must name all, \
         itself included", masters.join(",")
    )]
    NotNamed {
        /// Its address.
        me: String,
        /// The list.
        masters: Vec<String>,
    },
    /// Another one names others.
    #[error(
        "the master at {address} names {}, and this one names {}: all must name the same",
        theirs.join(","), ours.join(",")
    )]
    Lists {
        /// The master's address.
        address: String,
        /// Its list.
        theirs: Vec<String>,
        /// The list here.
        ours: Vec<String>,
    },
    /// The cluster exists, and was formed with another directory of this master.
    #[error(
        "the master at {0} belongs to a cluster that was formed with another data directory of this \
         master: restore that directory; an empty one cannot take its place. If it is lost, start \
         this master with --join, and replace the old one: `sharklock masters add ADDRESS --replace ID`"
    )]
    Wiped(String),
    /// The cluster exists, and this master is none of those that formed it.
    #[error(
        "the master at {0} belongs to a cluster already: to become one of its masters, start this one \
         with --join, and add it: `sharklock masters add ADDRESS`"
    )]
    Exists(String),
    /// Another cluster.
    #[error("the master at {0} belongs to another cluster")]
    OtherCluster(String),
    /// It is known by another address.
    #[error(
        "this master advertises {me}, and its directory belongs to the master at {}: a master keeps \
         its address; to move it, add one at the new address and remove this one",
        known.join(" or ")
    )]
    Moved {
        /// Its address.
        me: String,
        /// Those by which its directory may be known.
        known: Vec<String>,
    },
    /// A view is malformed.
    #[error("a master sends a malformed view: {0}")]
    Malformed(&'static str),
}

/// See the module.
///
/// Invariants:
/// - `masters` is sorted, has no address twice, and has `me`;
/// - `heard` has only addresses of `masters`, without `me`;
/// - `formed` never changes once it is there.
#[derive(Clone, Debug)]
pub struct Formation {
    me: String,
    ident: Identity,
    masters: Vec<String>,
    /// The last word of each other master: its identity, and the identities that it has heard.
    heard: BTreeMap<String, BTreeMap<String, Identity>>,
    formed: Option<Formed>,
}

impl Formation {
    /// A master that belongs to no cluster yet. One that is alone forms its own.
    ///
    /// # Errors
    /// The list of masters cannot be.
    pub fn new(me: &str, ident: Identity, masters: &[String]) -> Result<Self, FormationError> {
        let named: BTreeSet<&String> = masters.iter().collect();
        if named.len() != masters.len() {
            let is_again = |&at: &usize| masters[..at].contains(&masters[at]);
            let again = (0..masters.len()).find(is_again).expect("one is named twice");
            return Err(FormationError::Twice(masters[again].clone()));
        }
        if !SIZES.contains(&masters.len()) {
            return Err(FormationError::Size(masters.len()));
        }
        let masters: Vec<String> = named.into_iter().cloned().collect();
        if !masters.iter().any(|master| master == me) {
            return Err(FormationError::NotNamed { me: me.to_owned(), masters });
        }
        let heard = BTreeMap::new();
        let mut formation = Self { me: me.to_owned(), ident, masters, heard, formed: None };
        formation.form_if_all_agree();
        Ok(formation)
    }

    /// A master that comes back to its cluster. Which masters its configuration names does not matter
    /// any more: members may have come and gone.
    ///
    /// # Errors
    /// The directory is none of those that formed the cluster, or another master's.
    pub fn again(me: &str, ident: Identity, formed: Formed) -> Result<Self, FormationError> {
        match formed.members.get(me) {
            Some(known) if *known == ident => {}
            Some(_) => return Err(FormationError::Wiped(me.to_owned())),
            None => {
                let known = formed.members.into_keys().collect();
                return Err(FormationError::Moved { me: me.to_owned(), known });
            }
        }
        let masters = formed.members.keys().cloned().collect();
        let (me, heard) = (me.to_owned(), BTreeMap::new());
        Ok(Self { me, ident, masters, heard, formed: Some(formed) })
    }

    /// The view that this master tells the others.
    pub fn view(&self) -> MasterView {
        let idents = match &self.formed {
            Some(formed) => formed.members.clone(),
            None => self.idents(),
        };
        let wire = |(address, ident): (String, Identity)| (address, ident.to_wire());
        let cluster_id = self.formed.as_ref().map(Formed::cluster_id);
        MasterView {
            address: self.me.clone(),
            ident: self.ident.to_wire(),
            masters: self.masters.clone(),
            idents: idents.into_iter().map(wire).collect(),
            cluster_id: cluster_id.map(ClusterId::to_wire).unwrap_or_default(),
        }
    }

    /// Takes in what another one tells.
    ///
    /// # Errors
    /// The two can never be of one cluster as they are; nothing is changed.
    pub fn hear(&mut self, view: &MasterView) -> Result<(), FormationError> {
        let address = view.address.clone();
        let mut theirs = view.masters.clone();
        theirs.sort();
        if theirs != self.masters {
            if self.formed.is_none() && !view.cluster_id.is_empty() {
                return Err(FormationError::Exists(address));
            }
            return Err(FormationError::Lists { address, theirs, ours: self.masters.clone() });
        }
        if address == self.me || !self.masters.contains(&address) {
            return Err(FormationError::Malformed("its address is not in its own list"));
        }
        let idents = idents_of(view)?;
        let ident = ident_of(&view.ident)?;
        if idents.get(&address) != Some(&ident) {
            return Err(FormationError::Malformed("its own identity is missing"));
        }
        if view.cluster_id.is_empty() {
            return self.hear_unformed(address, ident, idents);
        }
        let formed = Formed { members: idents };
        if view.cluster_id != formed.cluster_id() {
            // Other masters than these have formed it, and members have changed since.
            return Err(FormationError::Exists(address));
        }
        match &self.formed {
            Some(ours) if *ours == formed => Ok(()),
            Some(_) => Err(FormationError::OtherCluster(address)),
            None if formed.members.get(&self.me) != Some(&self.ident) => {
                Err(FormationError::Wiped(address))
            }
            None => {
                self.formed = Some(formed);
                Ok(())
            }
        }
    }

    /// The cluster, once it is formed.
    pub fn formed(&self) -> Option<&Formed> {
        self.formed.as_ref()
    }

    /// The others, to be asked for their views.
    pub fn others(&self) -> impl Iterator<Item = &String> {
        self.masters.iter().filter(|master| **master != self.me)
    }

    /// The masters that this one has not heard yet.
    pub fn missing(&self) -> Vec<&String> {
        self.others().filter(|master| !self.heard.contains_key(*master)).collect()
    }

    fn hear_unformed(
        &mut self,
        address: String,
        ident: Identity,
        idents: BTreeMap<String, Identity>,
    ) -> Result<(), FormationError> {
        match &self.formed {
            // It will hear from us what is formed, or that it is not the one that was there.
            Some(formed) if formed.members.get(&address) == Some(&ident) => Ok(()),
            Some(_) => Err(FormationError::Wiped(self.me.clone())),
            None => {
                self.heard.insert(address, idents);
                self.form_if_all_agree();
                Ok(())
            }
        }
    }

    /// Identities heard, and the own one.
    fn idents(&self) -> BTreeMap<String, Identity> {
        let own = |(address, idents): (&String, &BTreeMap<String, Identity>)| {
            (address.clone(), idents[address])
        };
        let mut idents: BTreeMap<_, _> = self.heard.iter().map(own).collect();
        idents.insert(self.me.clone(), self.ident);
        idents
    }

    fn form_if_all_agree(&mut self) {
        let idents = self.idents();
        let all_heard = idents.len() == self.masters.len();
        if self.formed.is_none() && all_heard && self.heard.values().all(|theirs| *theirs == idents)
        {
            self.formed = Some(Formed { members: idents });
        }
    }
}

fn ident_of(bytes: &Bytes) -> Result<Identity, FormationError> {
    Identity::from_wire(bytes).map_err(|_length| FormationError::Malformed("an identity's length"))
}

fn idents_of(view: &MasterView) -> Result<BTreeMap<String, Identity>, FormationError> {
    let pairs = view.idents.iter();
    pairs.map(|(address, ident)| Ok((address.clone(), ident_of(ident)?))).collect()
}

#[cfg(test)]
mod tests;
