//! S10: the committed descriptors tile the name space, whoever is asked, and a descriptor of one
//! epoch is one.

use std::collections::BTreeMap;

use sharklock_rangemap::{Descriptor, Epoch, RangeId, check_tiling};

/// Descriptors that replicas have applied.
#[derive(Clone, Debug, Default)]
pub struct Tiling {
    /// All that were ever seen.
    committed: BTreeMap<(RangeId, Epoch), Descriptor>,
    /// The newest of each range.
    newest: BTreeMap<RangeId, Descriptor>,
    changed: bool,
}

impl Tiling {
    /// A replica has applied a descriptor.
    ///
    /// # Errors
    ///
    /// Another one has this epoch.
    pub fn applied(&mut self, descriptor: &Descriptor) -> Result<(), String> {
        let Descriptor { range, epoch, .. } = descriptor;
        match self.newest.get(range) {
            Some(known) if known == descriptor => return Ok(()),
            _ => self.agrees(descriptor)?,
        }
        self.committed.insert((*range, *epoch), descriptor.clone());
        if self.newest.get(range).is_none_or(|known| known.epoch < *epoch) {
            self.newest.insert(*range, descriptor.clone());
            self.changed = true;
        }
        Ok(())
    }

    /// Somebody says that a range is so: a leader has said it before, or it was made so.
    ///
    /// # Errors
    ///
    /// No replica has ever applied this.
    pub fn said(&self, who: &str, descriptor: &Descriptor) -> Result<(), String> {
        match self.committed.get(&(descriptor.range, descriptor.epoch)) {
            Some(known) if known == descriptor => Ok(()),
            known => Err(format!("{who} says {descriptor:?}; replicas have applied {known:?}")),
        }
    }

    /// Whether the newest descriptors tile the name space: to be asked when everything that a turn
    /// of a store has changed has been told.
    ///
    /// # Errors
    ///
    /// The gap or the overlap.
    pub fn check(&mut self) -> Result<(), String> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        check_tiling(self.newest.values()).map_err(|error| error.to_string())
    }

    fn agrees(&self, descriptor: &Descriptor) -> Result<(), String> {
        match self.committed.get(&(descriptor.range, descriptor.epoch)) {
            Some(known) if known != descriptor => {
                Err(format!("one epoch has two descriptors: {known:?} and {descriptor:?}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sharklock_rangemap::{Bounds, PeerId, Replica, Role, StoreId};

    use super::*;

    fn range(id: u64, start: &str, end: &str, version: u64) -> Descriptor {
        let replica = Replica { peer: PeerId(id), store: StoreId(1), role: Role::Voter };
        let bounds = Bounds { start: start.into(), end: end.into() };
        Descriptor::new(RangeId(id), bounds, Epoch { version, conf_ver: 1 }, vec![replica])
    }

    #[test]
    fn a_gap_an_overlap_and_two_descriptors_of_one_epoch_are_found() {
        let mut tiling = Tiling::default();
        tiling.applied(&range(1, "", "", 1)).expect("the first");
        tiling.check().expect("it has all names");
        tiling.applied(&range(1, "", "m", 2)).expect("it was split");
        tiling.clone().check().expect_err("the right half is missing");
        tiling.applied(&range(2, "m", "", 2)).expect("its child");
        tiling.check().expect("together they have all names");
        tiling.applied(&range(1, "", "", 1)).expect("a replica that is behind");
        tiling.check().expect("nothing new");
        tiling.said("m1", &range(1, "", "", 1)).expect("it was so");
        tiling.said("m1", &range(1, "", "m", 3)).expect_err("nobody has applied it");
        tiling.applied(&range(2, "k", "", 2)).expect_err("its epoch has another descriptor");
        tiling.applied(&range(2, "k", "", 3)).expect("newer");
        tiling.check().expect_err("both claim k to m");
    }
}
