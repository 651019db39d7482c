//! The cost of one entry of one range: the engine's CPU without a disk, and a synced batch on
//! RocksDB beside a bare append and fdatasync of as many bytes.
//!
//! `cargo run --release -p sharklock-multiraft --example cost -- [DIRECTORY]`
#![expect(clippy::disallowed_methods, reason = "it measures time")]

mod nothing;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use sharklock_multiraft::{
    Config, Disk, Effects, RocksDisk, SimDisk, Store, StoreIdent, bootstrap,
};
use sharklock_proto::{ClusterId, Identity};
use sharklock_rangemap::{Bounds, Descriptor, Epoch, PeerId, RangeId, Replica, Role, StoreId};

use nothing::Nothing;

const RANGE: RangeId = RangeId(1);

fn fresh(disk: &mut impl Disk) -> Store<Nothing> {
    let ident = StoreIdent {
        cluster_id: ClusterId::from_bytes([1; 16]),
        store: StoreId(1),
        ident: Identity::from_bytes([2; 16]),
    };
    let replica = Replica { peer: PeerId(1), store: StoreId(1), role: Role::Voter };
    let descriptor = Descriptor {
        range: RANGE,
        bounds: Bounds::ALL,
        epoch: Epoch { version: 1, conf_ver: 1 },
        replicas: vec![replica],
    };
    disk.write(&bootstrap(&ident, &descriptor), true).expect("the disk works");
    Store::recover(Config::default(), disk).expect("a fresh disk recovers")
}

/// Proposes `rounds` entries one after another, each as if its batch were on a disk at once.
fn run(store: &mut Store<Nothing>, rounds: usize, bytes: usize) {
    let mut effects = Effects::default();
    for round in 0..rounds {
        let proposed = store.propose(RANGE, vec![7; bytes]);
        if round % 500 == 0 {
            store.flush();
        }
        store.turn(&mut effects);
        if let Some(batch) = effects.batch.take() {
            store.persisted(batch.seq);
        }
        store.turn(&mut effects);
        effects.applied.clear();
        effects.roles.clear();
        assert!(proposed.is_ok() || round == 0, "a sole voter leads");
    }
}

fn engine(bytes: usize) {
    let mut store = fresh(&mut SimDisk::default());
    run(&mut store, 5_000, bytes);
    let rounds = 5_000;
    let mut chunks: Vec<f64> = (0..20)
        .map(|_| {
            let begin = Instant::now();
            run(&mut store, rounds, bytes);
            begin.elapsed().as_secs_f64() / rounds as f64 * 1e6
        })
        .collect();
    chunks.sort_by(f64::total_cmp);
    let (best, median) = (chunks[0], chunks[chunks.len() / 2]);
    println!("engine without disk, {bytes:>6} B: best {best:.2} us, median {median:.2} us");
}

fn percentiles(what: &str, bytes: usize, mut one: impl FnMut()) {
    for _ in 0..200 {
        one();
    }
    let mut times: Vec<f64> = (0..2_000)
        .map(|_| {
            let begin = Instant::now();
            one();
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[(share * times.len() as f64) as usize];
    let (p50, p90, p99) = (at(0.5), at(0.9), at(0.99));
    println!("{what}, {bytes:>6} B: p50 {p50:.0} us, p90 {p90:.0} us, p99 {p99:.0} us");
}

fn disks(directory: &Path, bytes: usize) {
    let mut file = File::create(directory.join("raw")).expect("the directory is writable");
    percentiles("append + fdatasync", bytes, || {
        file.write_all(&vec![7; bytes]).expect("the disk works");
        file.sync_data().expect("the disk works");
    });

    let mut disk = RocksDisk::open(directory.join(format!("db{bytes}"))).expect("it opens");
    let mut store = fresh(&mut disk);
    let mut effects = Effects::default();
    percentiles("propose to applied on RocksDB", bytes, || {
        let _first_round_has_no_leader = store.propose(RANGE, vec![7; bytes]);
        store.turn(&mut effects);
        if let Some(batch) = effects.batch.take() {
            disk.write(&batch.ops, true).expect("the disk works");
            store.persisted(batch.seq);
        }
        store.turn(&mut effects);
        effects.applied.clear();
    });
}

fn main() {
    let given = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let directory = tempfile::tempdir_in(given).expect("the directory is writable");
    for bytes in [120, 4_096, 65_536] {
        engine(bytes);
    }
    for bytes in [120, 4_096, 65_536] {
        disks(directory.path(), bytes);
    }
}
