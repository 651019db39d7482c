//! The RocksDB disk: a store on it, its refusals, and its equality with the simulated disk.

use std::fs;

use proptest::prelude::*;
use sharklock_multiraft::{
    Disk, Effects, Family, OpenError, RocksDisk, SimDisk, Store, WriteOp, bootstrap, read_ident,
};

use crate::node::{RANGE, descriptor, ident, small_log};
use crate::tally::{Tally, put};

fn settle(store: &mut Store<Tally>, disk: &mut RocksDisk) {
    loop {
        let mut effects = Effects::default();
        store.turn(&mut effects);
        let Some(batch) = effects.batch else { return };
        disk.write(&batch.ops, batch.sync).unwrap();
        store.persisted(batch.seq);
    }
}

#[test]
fn a_store_lives_on_through_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = RocksDisk::open(directory.path()).unwrap();
    assert_eq!(read_ident(&disk).unwrap(), None);
    disk.write(&bootstrap(&ident(1), &descriptor(1)), true).unwrap();
    let mut words = 0;
    for life in 1..=4 {
        let mut store: Store<Tally> = Store::recover(small_log(), &disk).unwrap();
        settle(&mut store, &mut disk);
        assert_eq!(store.machine(RANGE).unwrap().tokens.len(), words, "life {life}");
        for round in 0..30 {
            store.propose(RANGE, put(&format!("{life}.{round}"))).unwrap();
            words += 1;
            if round % 7 == 0 {
                store.flush();
            }
            settle(&mut store, &mut disk);
        }
        drop(disk);
        disk = RocksDisk::open(directory.path()).unwrap();
    }
}

#[test]
fn a_directory_in_use_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let _disk = RocksDisk::open(directory.path()).unwrap();
    let Err(error) = RocksDisk::open(directory.path()) else { panic!("opened twice") };
    let path = directory.path().display();
    assert_eq!(error.to_string(), format!("data directory {path} is in use by another process"));
}

#[test]
fn a_directory_that_is_a_file_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "x").unwrap();
    let Err(error) = RocksDisk::open(&path) else { panic!("opened a file") };
    assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

/// The log file that a database without tables has all its data in.
fn log_file(directory: &std::path::Path) -> std::path::PathBuf {
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|it| it == "log"));
    logs.max_by_key(|path| fs::metadata(path).unwrap().len()).expect("there is a log")
}

/// The default recovery mode opens such a log without an error and without its second half.
#[test]
fn a_flipped_bit_in_the_log_is_refused_and_a_torn_end_is_not() {
    let written = tempfile::tempdir().unwrap();
    let mut disk = RocksDisk::open(written.path()).unwrap();
    for number in 0..1_000_u32 {
        let key = number.to_be_bytes().to_vec();
        disk.write(&[WriteOp::Put(Family::Raft, key, vec![7; 50])], true).unwrap();
    }
    // The directory is copied while open, as a power loss would leave it: a clean close may tidy.
    let copy = |change: &dyn Fn(&mut Vec<u8>)| {
        let directory = tempfile::tempdir().unwrap();
        for file in fs::read_dir(written.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
        }
        let log = log_file(directory.path());
        let mut bytes = fs::read(&log).unwrap();
        change(&mut bytes);
        fs::write(&log, bytes).unwrap();
        directory
    };
    let count = |disk: &RocksDisk| disk.scan(Family::Raft, &[], &[0xff; 5]).unwrap().len();

    let whole = copy(&|_| {});
    assert_eq!(count(&RocksDisk::open(whole.path()).unwrap()), 1_000);

    let torn = copy(&|bytes| bytes.truncate(bytes.len() - 20));
    assert_eq!(count(&RocksDisk::open(torn.path()).unwrap()), 999);

    let flipped = copy(&|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let Err(error) = RocksDisk::open(flipped.path()) else { panic!("half of it is gone") };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<WriteOp>, bool),
    Get(Family, Vec<u8>),
    Scan(Family, Vec<u8>, Vec<u8>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let family = || prop_oneof![Just(Family::Raft), Just(Family::State), Just(Family::Meta)];
    let key = || prop::collection::vec(0..4_u8, 0..3);
    let value = prop::collection::vec(any::<u8>(), 0..4);
    let op = prop_oneof![
        4 => (family(), key(), value).prop_map(|(family, key, value)| {
            WriteOp::Put(family, key, value)
        }),
        1 => (family(), key()).prop_map(|(family, key)| WriteOp::Delete(family, key)),
        1 => (family(), key(), key()).prop_map(|(family, start, end)| {
            WriteOp::DeleteRange(family, start, end)
        }),
    ];
    let step = prop_oneof![
        8 => (prop::collection::vec(op, 0..5), any::<bool>())
            .prop_map(|(ops, sync)| Step::Write(ops, sync)),
        4 => (family(), key()).prop_map(|(family, key)| Step::Get(family, key)),
        4 => (family(), key(), key())
            .prop_map(|(family, start, end)| Step::Scan(family, start, end)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn both_disks_are_equal(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let mut rocks = RocksDisk::open(directory.path()).unwrap();
        let mut model = SimDisk::default();
        for step in steps {
            match step {
                Step::Write(ops, sync) => {
                    rocks.write(&ops, sync).unwrap();
                    model.write(&ops, sync).unwrap();
                }
                Step::Get(family, key) => {
                    prop_assert_eq!(rocks.get(family, &key).unwrap(), model.get(family, &key).unwrap());
                }
                Step::Scan(family, start, end) => {
                    let found = rocks.scan(family, &start, &end).unwrap();
                    prop_assert_eq!(found, model.scan(family, &start, &end).unwrap());
                }
                Step::Reopen => {
                    drop(rocks);
                    rocks = RocksDisk::open(directory.path()).unwrap();
                }
            }
        }
    }
}
