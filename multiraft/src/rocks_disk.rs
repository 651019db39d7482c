//! The disk on RocksDB: one database per store, a column family per key space, one write-ahead
//! log for all of them (D3).

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, ErrorKind,
    IteratorMode, Options, ReadOptions, Snapshot, WriteBatch, WriteOptions,
};

use crate::data_dir;
use crate::disk::{Disk, DiskError, DiskView, Family, Pair, Walk, WriteOp};
use crate::rocks_log::{self, BATCH_END, BadLog, Mark};

const FAMILIES: [Family; 3] = [Family::Raft, Family::State, Family::Meta];

/// Once the write-ahead log is this long, the key spaces that hold its oldest part are written
/// out, so that it can go. Bounds the time of a restart and the space on the disk.
const WAL_BYTES_MAX: u64 = 128 << 20;

/// Why a directory cannot be opened. One line each, for an operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It is damaged. Must not be repaired: what was acknowledged may be missing.
    #[error("data directory {} is damaged: {why}", .path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// The finding of RocksDB.
        why: String,
    },
    /// It cannot be read or written.
    #[error("data directory {} cannot be opened: {why}", .path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The words of RocksDB.
        why: String,
    },
}

/// Locked while the disk is open. RocksDB locks a file of its own, but only after its logs were
/// mended; and what it locks must not be opened by anybody else in its process.
const LOCK: &str = "store.lock";

/// The right to use a directory; ends with this value, and with the process.
struct Lock(File);

impl Lock {
    fn take(path: &Path) -> Result<Self, OpenError> {
        let unusable =
            |why: io::Error| OpenError::Unusable { path: path.to_owned(), why: why.to_string() };
        let file = File::options().create(true).append(true).open(path.join(LOCK));
        let file = file.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(why)) => Err(unusable(why)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file does not suffice while a process that another thread is starting just
        // now has it, too. The kernel gives the lock back in the end.
        drop(self.0.unlock());
    }
}

/// A store's disk.
pub struct RocksDisk {
    db: Arc<Locked>,
    /// Begins every batch.
    mark: Mark,
    synced: WriteOptions,
    unsynced: WriteOptions,
}

/// A database and the right to its directory: nobody else opens it before whoever reads here has
/// gone, too.
struct Locked {
    db: DB,
    /// Dropped after the database.
    _lock: Lock,
}

impl Deref for Locked {
    type Target = DB;

    fn deref(&self) -> &DB {
        &self.db
    }
}

impl RocksDisk {
    /// Opens the database in `path`, or makes a fresh one there; the directory is durable then, with
    /// its name in its parent. The database's logs are read beforehand, as RocksDB takes some damage
    /// for their end, and what a crash tore off is cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let unusable = |why: String| OpenError::Unusable { path: path.to_owned(), why };
        data_dir::make(path).map_err(|error| unusable(error.to_string()))?;
        let lock = Lock::take(path)?;
        rocks_log::mend(path).map_err(|bad| {
            let (path, why) = (path.to_owned(), bad.to_string());
            match bad {
                BadLog::Damaged { .. } => OpenError::Damaged { path, why },
                BadLog::Unusable { .. } => OpenError::Unusable { path, why },
            }
        })?;
        let families = FAMILIES
            .map(|family| ColumnFamilyDescriptor::new(name(family), family_options(family)));
        let db = DB::open_cf_descriptors(&database_options(), path, families)
            .map_err(|error| open_error(path, &error))?;
        let identity = db.get_db_identity().map_err(|error| unusable(one_line(&error)))?;
        let db = Arc::new(Locked { db, _lock: lock });
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        let (mark, unsynced) = (Mark::of(&identity), WriteOptions::default());
        Ok(Self { db, mark, synced, unsynced })
    }

    /// For another thread, which reads while this one writes.
    pub fn reader(&self) -> RocksReader {
        RocksReader { db: Arc::clone(&self.db) }
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        handle(&self.db, family)
    }
}

fn handle(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(name(family)).expect("all families are opened with the database")
}

/// Reads a store's disk beside its writer. The directory is in use until this is gone, too.
pub struct RocksReader {
    db: Arc<Locked>,
}

impl RocksReader {
    /// The contents of the disk now.
    pub fn view(&self) -> RocksView<'_> {
        RocksView { db: &self.db, snapshot: self.db.snapshot() }
    }
}

/// See [`RocksReader::view`].
pub struct RocksView<'a> {
    db: &'a DB,
    snapshot: Snapshot<'a>,
}

/// For the owner, who does not write meanwhile.
impl DiskView for RocksDisk {
    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.get(family, key)
    }

    fn visit(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        see: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), DiskError> {
        RocksView { db: &self.db, snapshot: self.db.snapshot() }.visit(family, start, end, see)
    }
}

impl DiskView for RocksView<'_> {
    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.snapshot.get_cf(handle(self.db, family), key).map_err(disk_error)
    }

    fn visit(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        see: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<(), DiskError> {
        if start >= end {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        // It is read once: what others need must stay in the cache.
        options.fill_cache(false);
        let family = handle(self.db, family);
        for pair in self.snapshot.iterator_cf_opt(family, options, IteratorMode::Start) {
            let (key, value) = pair.map_err(disk_error)?;
            see(&key, &value);
        }
        Ok(())
    }
}

impl Disk for RocksDisk {
    fn write(&mut self, ops: &[WriteOp], sync: bool) -> Result<(), DiskError> {
        let handles = FAMILIES.map(|family| self.family(family));
        let handle = |family: Family| handles[family as usize];
        let mut batch = WriteBatch::default();
        batch.put_log_data(self.mark.bytes());
        for op in ops {
            match op {
                WriteOp::Put(family, key, value) => batch.put_cf(handle(*family), key, value),
                WriteOp::Delete(family, key) => batch.delete_cf(handle(*family), key),
                WriteOp::DeleteRange(family, start, end) => {
                    // RocksDB refuses a range that ends before it begins.
                    if start < end {
                        batch.delete_range_cf(handle(*family), start, end);
                    }
                }
            }
        }
        batch.put_log_data(BATCH_END);
        let options = if sync { &self.synced } else { &self.unsynced };
        self.db.write_opt(batch, options).map_err(disk_error)
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.db.get_cf(self.family(family), key).map_err(disk_error)
    }

    fn scan(&self, family: Family, start: &[u8], end: &[u8]) -> Result<Vec<Pair>, DiskError> {
        self.walk(family, start, end)?.collect()
    }

    fn walk(&self, family: Family, start: &[u8], end: &[u8]) -> Result<Walk<'_>, DiskError> {
        if start >= end {
            return Ok(Box::new(std::iter::empty()));
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        let pairs = self.db.iterator_cf_opt(self.family(family), options, IteratorMode::Start);
        Ok(Box::new(pairs.map(|pair| {
            let (key, value) = pair.map_err(disk_error)?;
            Ok((key.into_vec(), value.into_vec()))
        })))
    }
}

/// On disks: never changes.
fn name(family: Family) -> &'static str {
    match family {
        Family::Raft => "raft",
        Family::State => "state",
        Family::Meta => "meta",
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // The default drops everything after a damaged record without an error: 500 of 1,000 synced
    // puts after one flipped bit. This one accepts a torn end only. It forbids recycling old logs,
    // whose rests look like such damage.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_paranoid_checks(true);
    // A log file that is missing or too short is an error and not a shorter history.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    // One thread writes, so what serves concurrent writers only costs.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    // One flush and one compaction at a time: both cores are wanted elsewhere.
    options.set_max_background_jobs(2);
    options.set_max_open_files(128);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn family_options(family: Family) -> Options {
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    // Most entries are truncated before a large buffer is full, and then never reach a table.
    let buffer_bytes = match family {
        Family::Raft => 32 << 20,
        Family::State => 8 << 20,
        Family::Meta => 1 << 20,
    };
    options.set_write_buffer_size(buffer_bytes);
    options.set_max_write_buffer_number(3);
    options
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let path = path.to_owned();
    let why = one_line(error);
    match error.kind() {
        ErrorKind::IOError if why.contains("lock") && why.contains("LOCK") => {
            OpenError::InUse(path)
        }
        ErrorKind::Corruption => OpenError::Damaged { path, why },
        _ => OpenError::Unusable { path, why },
    }
}

fn disk_error(error: rocksdb::Error) -> DiskError {
    DiskError(one_line(&error))
}

fn one_line(error: &rocksdb::Error) -> String {
    error.to_string().lines().collect::<Vec<_>>().join("; ")
}
