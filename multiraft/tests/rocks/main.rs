//! The RocksDB disk: its equality with the simulated one, its damaged files, its killed writers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod damaged_files;
mod killed;
mod model;
#[path = "../engine/node.rs"]
#[expect(dead_code, reason = "the rest serves the tests of the engine")]
mod node;
mod opening;
mod power_cuts;
#[path = "../engine/tally.rs"]
#[expect(dead_code, reason = "the rest serves the tests of the engine")]
mod tally;

use std::path::Path;

use sharklock_multiraft::{Applied, Disk as _, Effects, Family, Pair, RocksDisk, Store};
use tempfile::TempDir;

use crate::tally::Tally;

const FAMILIES: [Family; 3] = [Family::Raft, Family::State, Family::Meta];

/// Everything that a disk holds, by family.
type Contents = [Vec<Pair>; 3];

/// In memory where there is a file system for that: these tests make thousands of databases.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

fn contents(disk: &impl sharklock_multiraft::Disk) -> Result<Contents, String> {
    let mut contents = Contents::default();
    for (family, pairs) in FAMILIES.into_iter().zip(&mut contents) {
        *pairs = disk.scan(family, &[], &[0xff; 20]).map_err(|error| error.to_string())?;
    }
    Ok(contents)
}

/// Turns and writes until nothing is left to do. Returns what was applied.
fn settle(store: &mut Store<Tally>, disk: &mut RocksDisk) -> Vec<Applied<u64>> {
    let mut applied = Vec::new();
    loop {
        let mut effects = Effects::default();
        store.turn(&mut effects);
        applied.append(&mut effects.applied);
        let Some(batch) = effects.batch else { return applied };
        disk.write(&batch.ops, true).unwrap();
        store.persisted(batch.seq);
    }
}
