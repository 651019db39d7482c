//! The owner of a disk, and the first record of a store's life.

use sharklock_proto::{ClusterId, Identity, internal::v1 as proto};
use sharklock_rangemap::{Descriptor, StoreId};

use crate::birth;
use crate::disk::{Disk, WriteOp};
use crate::keys::{self, Key};
use crate::records::{self, FORMAT};
use crate::recover::RecoverError;

/// The identity of a store, on its disk from the first write on. A wiped disk is a new store: it
/// must never come back under the old id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdent {
    /// The cluster. Messages of another are dropped.
    pub cluster_id: ClusterId,
    /// The store's id in its cluster; never 0.
    pub store: StoreId,
    /// Random, made with the data directory: tells two disks apart that claim one store id.
    pub ident: Identity,
}

/// The changes that turn a fresh disk into a store without ranges. To be written in one synced
/// batch, then [`crate::Store::recover`].
pub fn init_store(ident: &StoreIdent) -> Vec<WriteOp> {
    let record = proto::StoreIdentRecord {
        cluster_id: ident.cluster_id.to_wire(),
        store_id: ident.store.0,
        ident: ident.ident.to_wire(),
        format: FORMAT.into(),
    };
    vec![records::put(Key::Ident, &record)]
}

/// The changes that turn a fresh disk into a store with one range: [`init_store`] and the birth of
/// a replica. To be written in one synced batch, then [`crate::Store::recover`].
///
/// # Panics
///
/// If the descriptor does not name `ident.store`.
pub fn bootstrap(ident: &StoreIdent, first: &Descriptor) -> Vec<WriteOp> {
    let here = first.on_store(ident.store);
    assert!(here.is_some(), "the first range has a replica on this store");
    let range = first.range;
    assert!(range.0 != 0 && range.0 != u64::MAX, "{range} is no range id");
    let mut ops = init_store(ident);
    ops.extend(birth::first_records(first));
    ops
}

/// The owner of the disk. `None`: nobody, it is fresh.
pub fn read_ident(disk: &impl Disk) -> Result<Option<StoreIdent>, RecoverError> {
    let (family, key) = (Key::Ident.family(), Key::Ident.encode());
    let Some(value) = disk.get(family, &key)? else {
        let (start, end) = keys::meta_span();
        let records = disk.scan(family, &start, &end)?;
        // A process that was not taken in has only counted that it was started.
        let is_fresh = records.iter().all(|(key, _)| Key::decode_meta(key) == Some(Key::Starts));
        return if is_fresh { Ok(None) } else { Err(RecoverError::NoIdent) };
    };
    let bad = |error| RecoverError::bad_value("the store's identity", error);
    let record: proto::StoreIdentRecord = records::open(&key, value).map_err(bad)?;
    if record.format > u32::from(FORMAT) {
        return Err(RecoverError::NewerStore { format: record.format });
    }
    let cluster_id = ClusterId::from_wire(&record.cluster_id);
    match (cluster_id, record.store_id, Identity::from_wire(&record.ident)) {
        (Ok(cluster_id), store @ 1.., Ok(ident)) => {
            Ok(Some(StoreIdent { cluster_id, store: StoreId(store), ident }))
        }
        _ => Err(bad(records::BadValue::Nonsense("an id is missing".to_owned()))),
    }
}
