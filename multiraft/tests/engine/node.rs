//! One store with its disk, and the part of an owner that a test needs.

use sharklock_multiraft::{
    Applied, Batch, Config, Disk, DiskError, Effects, LogLimits, ReadReady, RecoverError,
    RoleChange, RoleNow, SimDisk, Store, StoreIdent, bootstrap,
};
use sharklock_proto::internal::v1::{Heartbeats, RangeMessage};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use crate::tally::Tally;

pub const RANGE: RangeId = RangeId(7);

pub fn ident(store: u64) -> StoreIdent {
    StoreIdent { cluster_id: [9; 16], store: StoreId(store), ident: [store as u8; 16] }
}

/// All names, on stores `1..=stores`; peer `100 + n` lives on store `n`.
pub fn descriptor(stores: u64) -> Descriptor {
    let replica =
        |store| Replica { peer: PeerId(100 + store), store: StoreId(store), role: Role::Voter };
    Descriptor {
        range: RANGE,
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: (1..=stores).map(replica).collect(),
    }
}

pub fn small_log() -> Config {
    let log = LogLimits { entries_floor: 4, entries_max: 12, bytes_max: 1 << 20 };
    Config { election_seed: 1, log }
}

pub struct Node {
    pub store: Store<Tally>,
    pub disk: SimDisk,
    /// A batch that the disk has not taken yet.
    pub batch: Option<Batch>,
    pub messages: Vec<RangeMessage>,
    pub heartbeats: Vec<Heartbeats>,
    pub applied: Vec<Applied<u64>>,
    pub reads: Vec<ReadReady>,
    pub roles: Vec<RoleChange>,
}

impl Node {
    /// Store `store` of `stores`, on a fresh disk.
    pub fn fresh(store: u64, stores: u64) -> Self {
        let mut disk = SimDisk::default();
        let ops = bootstrap(&ident(store), &descriptor(stores));
        disk.write(&ops, true).expect("no fault is planned");
        Self::recover(disk).expect("a fresh disk recovers")
    }

    pub fn recover(disk: SimDisk) -> Result<Self, RecoverError> {
        let store = Store::recover(small_log(), &disk)?;
        Ok(Self {
            store,
            disk,
            batch: None,
            messages: Vec::new(),
            heartbeats: Vec::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            roles: Vec::new(),
        })
    }

    /// The process dies and the machine loses power.
    pub fn crash(mut self) -> Self {
        self.disk.crash();
        Self::recover(self.disk).expect("a crash leaves a store that recovers")
    }

    pub fn turn(&mut self) {
        let mut effects = Effects::default();
        self.store.turn(&mut effects);
        if let Some(batch) = effects.batch {
            assert!(self.batch.replace(batch).is_none(), "one batch at a time");
        }
        self.messages.append(&mut effects.messages);
        self.heartbeats.append(&mut effects.heartbeats);
        self.applied.append(&mut effects.applied);
        self.reads.append(&mut effects.reads);
        self.roles.append(&mut effects.roles);
    }

    /// The disk takes the batch, if there is one.
    pub fn write(&mut self) -> Result<bool, DiskError> {
        let Some(batch) = self.batch.take() else { return Ok(false) };
        self.disk.write(&batch.ops, batch.sync)?;
        self.store.persisted(batch.seq);
        Ok(true)
    }

    /// Turns and writes until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            self.turn();
            if !self.write().expect("no fault is planned") {
                return;
            }
        }
    }

    pub fn leads(&self) -> bool {
        matches!(self.roles.last(), Some(RoleChange { role: RoleNow::Leader { .. }, .. }))
    }

    pub fn machine(&self) -> &Tally {
        self.store.machine(RANGE).expect("the range is there")
    }

    pub fn status(&self) -> sharklock_multiraft::ReplicaStatus {
        self.store.status(RANGE).expect("the range is there")
    }
}
