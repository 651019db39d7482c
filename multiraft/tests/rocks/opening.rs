//! A store on the RocksDB disk, and directories that cannot be opened.

use std::fs;

use sharklock_multiraft::{Disk as _, OpenError, RocksDisk, Store, bootstrap, read_ident};

use crate::node::{RANGE, descriptor, ident, small_log};
use crate::settle;
use crate::tally::{Tally, put};

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
