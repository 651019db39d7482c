//! One store with its disk, and the part of an owner that a test needs.

use prost::Message as _;
use sharklock_multiraft::{
    Applied, Batch, Chore, Config, Disk, DiskError, Effects, Family, LogLimits, ReadReady,
    RecoverError, ReplicaStatus, RoleChange, RoleNow, SimDisk, SnapshotLimits, Split, Store,
    StoreIdent, bootstrap, init_store,
};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{self as proto, Heartbeats, RangeMessage, SnapshotMessage},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use crate::tally::{Tally, put};

pub const RANGE: RangeId = RangeId(7);

/// The members: every range has the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Voters, on stores `1..=voters`.
    pub voters: u64,
    /// Learners, on the stores behind them.
    pub learners: u64,
    /// Stores behind those that have no replica at first.
    pub spare: u64,
    /// Ranges, with the ids from [`RANGE`] on.
    pub ranges: u64,
    /// Stores begin without a replica; each is made by `create`.
    pub empty: bool,
    pub config: Config,
}

impl Layout {
    /// One range, whose log is kept short.
    pub fn of_voters(voters: u64) -> Self {
        Self { voters, learners: 0, spare: 0, ranges: 1, empty: false, config: small_log() }
    }

    pub fn stores(&self) -> std::ops::RangeInclusive<u64> {
        1..=self.voters + self.learners + self.spare
    }

    /// In order of their names: `a..`, `b..` and so on; the first also has what lies before.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let replica = |store| {
            let role = if store <= self.voters { Role::Voter } else { Role::Learner };
            Replica { peer: PeerId(100 + store), store: StoreId(store), role }
        };
        let members = 1..=self.voters + self.learners;
        let replicas: Vec<_> = members.map(replica).collect();
        let border = |place: u64| match place {
            place if place == 0 || place == self.ranges => Vec::new(),
            place => vec![b'a' + place as u8],
        };
        let range = |place| Descriptor {
            range: RangeId(RANGE.0 + place),
            bounds: Bounds { start: border(place), end: border(place + 1) },
            epoch: Epoch { version: 1, conf_ver: 1 },
            replicas: replicas.clone(),
        };
        (0..self.ranges).map(range).collect()
    }
}

pub fn ident(store: u64) -> StoreIdent {
    StoreIdent {
        cluster_id: ClusterId::from_bytes([9; 16]),
        store: StoreId(store),
        ident: Identity::from_bytes([store as u8; 16]),
    }
}

/// All names, on stores `1..=stores`; peer `100 + n` lives on store `n`.
pub fn descriptor(stores: u64) -> Descriptor {
    Layout::of_voters(stores).descriptors().remove(0)
}

/// The entry as a log has it, with the kind that the engine gives to a machine's bytes.
pub fn machine_entry(index: u64, term: u64, word: &str) -> proto::Entry {
    let (data, context) = (put(word).into(), vec![1].into());
    proto::Entry { index, term, data, context, ..proto::Entry::default() }
}

/// The split of a range at a name; the child's peer on store `n` is `100 · k + n`, where `k` counts
/// ranges from 1 on.
pub fn split_of(parent: &Descriptor, key: &str, child: RangeId) -> Split {
    let number = 100 * (child.0 - RANGE.0 + 1);
    let peers = parent.replicas.iter().map(|member| PeerId(number + member.store.0));
    Split { epoch: parent.epoch, key: key.to_owned(), child, child_peers: peers.collect() }
}

pub fn small_log() -> Config {
    let log = LogLimits { entries_floor: 4, entries_max: 12, bytes_max: 1 << 20 };
    // Splits take several turns.
    Config { log, snapshots: small_snapshots(), piece_rows: 1 }
}

/// Several chunks even of a small state, several windows, one transfer at a time.
pub fn small_snapshots() -> SnapshotLimits {
    SnapshotLimits {
        chunk_bytes: 16,
        window_bytes: 64,
        bytes_per_tick: None,
        sending_max: 1,
        receiving_max: 1,
        ..SnapshotLimits::default()
    }
}

/// The word of a store about a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Born,
    Changed,
    Gone,
}

pub struct Node {
    config: Config,
    pub store: Store<Tally>,
    pub disk: SimDisk,
    /// A batch that the disk has not taken yet.
    pub batch: Option<Batch>,
    pub messages: Vec<RangeMessage>,
    pub heartbeats: Vec<Heartbeats>,
    pub snapshots: Vec<SnapshotMessage>,
    pub applied: Vec<Applied<u64>>,
    pub reads: Vec<ReadReady>,
    pub roles: Vec<RoleChange>,
    /// Ranges that came, changed and went, as told.
    pub lives: Vec<(RangeId, Life)>,
    /// Somebody else runs its chores, some time. Otherwise they are done within the turn.
    pub has_late_chores: bool,
    pub chores: Vec<Chore<Tally>>,
}

impl Node {
    /// Store `store` of `stores`, on a fresh disk.
    pub fn fresh(store: u64, stores: u64) -> Self {
        Self::fresh_in(store, &Layout::of_voters(stores))
    }

    pub fn fresh_in(store: u64, layout: &Layout) -> Self {
        let mut disk = SimDisk::default();
        disk.write(&init_store(&ident(store)), true).expect("no fault is planned");
        let here = |it: &Descriptor| !layout.empty && it.on_store(StoreId(store)).is_some();
        for descriptor in layout.descriptors().into_iter().filter(here) {
            let ops = bootstrap(&ident(store), &descriptor);
            disk.write(&ops, true).expect("no fault is planned");
        }
        Self::recover_with(layout.config, disk).expect("a fresh disk recovers")
    }

    pub fn recover(disk: SimDisk) -> Result<Self, RecoverError> {
        Self::recover_with(small_log(), disk)
    }

    fn recover_with(config: Config, disk: SimDisk) -> Result<Self, RecoverError> {
        let store = Store::recover(config, &disk)?;
        Ok(Self {
            config,
            store,
            disk,
            batch: None,
            messages: Vec::new(),
            heartbeats: Vec::new(),
            snapshots: Vec::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            roles: Vec::new(),
            lives: Vec::new(),
            has_late_chores: false,
            chores: Vec::new(),
        })
    }

    /// The process dies and the machine loses power.
    pub fn crash(self) -> Self {
        self.crash_keeping(0)
    }

    /// The same, but the disk happens to have the first `writes_kept` of what was not synced.
    pub fn crash_keeping(mut self, writes_kept: usize) -> Self {
        self.disk.crash_keeping(writes_kept);
        Self::recover_with(self.config, self.disk).expect("a crash leaves a store that recovers")
    }

    pub fn turn(&mut self) {
        self.turn_once();
        while !self.has_late_chores && !self.chores.is_empty() {
            for chore in std::mem::take(&mut self.chores) {
                self.run(chore);
            }
            self.turn_once();
        }
    }

    pub fn run(&mut self, chore: Chore<Tally>) {
        if let Some(done) = chore.run(&self.disk) {
            self.store.chore_done(done);
        }
    }

    fn turn_once(&mut self) {
        let mut effects = Effects::default();
        self.store.turn(&mut effects);
        self.chores.extend(self.store.take_chores());
        if let Some(batch) = effects.batch {
            assert!(self.batch.replace(batch).is_none(), "one batch at a time");
        }
        self.messages.append(&mut effects.messages);
        self.heartbeats.append(&mut effects.heartbeats);
        self.snapshots.append(&mut effects.snapshots);
        self.lives.extend(effects.born.drain(..).map(|range| (range, Life::Born)));
        self.lives.extend(effects.changed.drain(..).map(|range| (range, Life::Changed)));
        self.lives.extend(effects.gone.drain(..).map(|range| (range, Life::Gone)));
        self.applied.append(&mut effects.applied);
        self.reads.append(&mut effects.reads);
        self.roles.append(&mut effects.roles);
    }

    /// The disk takes the batch, if there is one.
    pub fn write(&mut self) -> Result<bool, DiskError> {
        let Some(batch) = self.batch.take() else { return Ok(false) };
        self.disk.write(&batch.ops, true)?;
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

    /// The kind of an entry on the disk which the machine does not see.
    pub fn kind_of(&self, range: RangeId, index: u64) -> &'static str {
        let key = [&range.0.to_be_bytes()[..], &[1], &index.to_be_bytes()].concat();
        let value = self.disk.get(Family::Raft, &key).expect("no fault is planned");
        let entry = value.map(|value| proto::Entry::decode(&value[5..]).expect("an entry"));
        match entry.and_then(|entry| entry.context.first().copied()) {
            Some(2) => "a split",
            Some(3) => "other members",
            _ => "its leader's first",
        }
    }

    pub fn leads(&self) -> bool {
        self.leads_range(RANGE)
    }

    pub fn machine(&self) -> &Tally {
        self.store.machine(RANGE).expect("the range is there")
    }

    pub fn status(&self) -> ReplicaStatus {
        self.status_of(RANGE)
    }

    pub fn status_of(&self, range: RangeId) -> ReplicaStatus {
        self.store.status(range).expect("the range is there")
    }

    /// Whether it was told that it leads a range, and not yet that it does not.
    pub fn leads_range(&self, range: RangeId) -> bool {
        let last = self.roles.iter().rev().find(|change| change.range == range);
        matches!(last, Some(RoleChange { role: RoleNow::Leader { .. }, .. }))
    }
}
