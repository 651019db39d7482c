//! The cost of idle ranges: CPU of a store whose ranges only beat (D6: a few percent of one core
//! for 10,000), the beats and bytes on the wire for it, and the memory of an idle replica.
//!
//! `cargo run --release --no-default-features -p sharklock-multiraft --example idle -- [RANGES]`

mod nothing;

use std::collections::BTreeMap;
use std::fs;

use sharklock_multiraft::{Config, Disk, Effects, SimDisk, Store, StoreIdent, bootstrap};
use sharklock_proto::{
    ClusterId, Identity,
    internal::v1::{Heartbeats, RangeMessage},
};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use nothing::Nothing;

const STORES: u64 = 3;
const TICKS_PER_SECOND: u32 = 10;
/// Long enough for every range to elect and for all to fall silent.
const WARM_UP_TICKS: u32 = 60;
const MEASURED_SECONDS: u32 = 20;

/// A disk with `ranges` ranges, each on all stores.
fn disk(store: u64, ranges: u64) -> SimDisk {
    let ident = StoreIdent {
        cluster_id: ClusterId::from_bytes([1; 16]),
        store: StoreId(store),
        ident: Identity::from_bytes([2; 16]),
    };
    let border = |place: u64| match place {
        place if place == 0 || place == ranges => Vec::new(),
        place => place.to_be_bytes().to_vec(),
    };
    let mut disk = SimDisk::default();
    for place in 0..ranges {
        let replica = |store| Replica {
            peer: PeerId(place * STORES + store),
            store: StoreId(store),
            role: Role::Voter,
        };
        let descriptor = Descriptor {
            range: RangeId(place + 1),
            bounds: Bounds { start: border(place), end: border(place + 1) },
            epoch: Epoch { version: 1, conf_ver: 1 },
            replicas: (1..=STORES).map(replica).collect(),
        };
        disk.write(&bootstrap(&ident, &descriptor), true).expect("no fault is planned");
    }
    disk
}

/// The traffic between the stores.
#[derive(Default)]
struct Traffic {
    singles: u64,
    bundles: u64,
    beats: u64,
    bytes: u64,
}

struct Cluster {
    stores: BTreeMap<u64, Store<Nothing>>,
    traffic: Traffic,
}

impl Cluster {
    fn tick(&mut self) {
        for store in self.stores.values_mut() {
            store.tick();
        }
        while self.round() {}
    }

    /// A turn of every store, whose disk is at once done; false: nothing was sent.
    fn round(&mut self) -> bool {
        let mut messages = Vec::new();
        let mut bundles = Vec::new();
        for store in self.stores.values_mut() {
            let mut effects = Effects::default();
            store.turn(&mut effects);
            if let Some(batch) = effects.batch.take() {
                store.persisted(batch.seq);
                store.turn(&mut effects);
                if let Some(batch) = effects.batch.take() {
                    store.persisted(batch.seq);
                }
            }
            messages.append(&mut effects.messages);
            bundles.append(&mut effects.heartbeats);
        }
        let sent = !messages.is_empty() || !bundles.is_empty();
        for message in messages {
            self.traffic.singles += 1;
            let message: RangeMessage = self.over_the_wire(&message);
            let to = self.stores.get_mut(&message.to_store).expect("it is up");
            to.step(message).expect("all are honest");
        }
        for bundle in bundles {
            self.traffic.bundles += 1;
            self.traffic.beats += bundle.beats.len() as u64;
            let bundle: Heartbeats = self.over_the_wire(&bundle);
            let to = self.stores.get_mut(&bundle.to_store).expect("it is up");
            assert_eq!(to.step_heartbeats(bundle), [], "all are honest");
        }
        sent
    }

    fn over_the_wire<M: prost::Message + Default>(&mut self, message: &M) -> M {
        let bytes = message.encode_to_vec();
        self.traffic.bytes += bytes.len() as u64;
        M::decode(bytes::Bytes::from(bytes)).expect("it was just written")
    }
}

/// Nanoseconds that this thread has run: others on the machine do not count.
fn cpu_ns() -> u64 {
    let line = fs::read_to_string("/proc/self/schedstat").expect("Linux says how long it ran");
    let ns = line.split(' ').next().expect("three numbers");
    ns.parse().expect("a number")
}

fn resident_bytes() -> u64 {
    let line = fs::read_to_string("/proc/self/statm").expect("Linux says how much it has");
    let pages = line.split(' ').nth(1).expect("seven numbers");
    4096 * pages.parse::<u64>().expect("a number")
}

fn main() {
    let given = std::env::args().nth(1);
    let ranges = given.map_or(10_000, |text| text.parse().expect("a number of ranges"));
    let disks: Vec<_> = (1..=STORES).map(|store| disk(store, ranges)).collect();

    let before = resident_bytes();
    let recover = |disk| Store::recover(Config::default(), disk).expect("a fresh disk recovers");
    let stores = (1..=STORES).zip(disks.iter().map(recover)).collect();
    let mut cluster = Cluster { stores, traffic: Traffic::default() };
    for _ in 0..WARM_UP_TICKS {
        cluster.tick();
    }
    let replicas = ranges * STORES;
    let memory = resident_bytes().saturating_sub(before) / replicas;
    println!("{ranges} ranges on each of {STORES} stores, {memory} bytes per replica");

    cluster.traffic = Traffic::default();
    let begin = cpu_ns();
    for _ in 0..MEASURED_SECONDS * TICKS_PER_SECOND {
        cluster.tick();
    }
    let spent_ms = (cpu_ns() - begin) as f64 / 1e6;
    let seconds = f64::from(MEASURED_SECONDS);
    let per_store_ms = spent_ms / seconds / STORES as f64;
    let Traffic { singles, bundles, beats, bytes } = cluster.traffic;
    let per_store = |count: u64| count as f64 / seconds / STORES as f64;
    println!(
        "a store spends {per_store_ms:.1} ms of CPU per second: {:.1} % of a core",
        per_store_ms / 10.0
    );
    println!(
        "it sends {:.0} beats in {:.1} messages, {:.2} MB, and {singles} others",
        per_store(beats),
        per_store(bundles),
        per_store(bytes) / 1e6,
    );
}
