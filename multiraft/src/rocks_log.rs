//! Reads RocksDB's log files, write-ahead logs and manifest, before RocksDB does: what it would
//! take for the end of a log is examined here, refused where it is damage, and cut off where a
//! crash tore it.
//!
//! RocksDB must accept a torn end, and it takes more than that for one. Three single flipped bits
//! of a synced log it reads wrongly (`tests/rocks/damaged_files.rs` has them all):
//! - a longer length, anywhere in the last 32 KiB: the rest of the log is dropped without a word;
//! - the type of a file's first record: the whole file counts as another log's remains and is
//!   dropped without a word;
//! - the type of another record: the start never ends.
//!
//! And a stretch of zeros makes it drop the rest of a block of 32 KiB without a word, or refuse the
//! log where it lies in a record of several parts.
//!
//! # What a crash leaves
//!
//! *Every batch is synced before the next is written* ([`crate::Batch`]). So all records of all
//! logs but the very last one have been synced, and the last one may have lost any of its bytes:
//! the end, when the process died; any sectors, which then read as zeros, when the machine did. A
//! file's size may be on the disk before its pages, and pages in any order. From this follow:
//! - only the newest log that holds anything may be torn;
//! - a hole is a torn end if it is one of missing sectors, or of missing bytes up to the end of the
//!   file, *and no other record follows it*. One that follows proves that the hole was synced.
//!
//! Behind a hole no lengths lead on. The proof of another record is the [`Mark`] at its begin,
//! which no client can know, and so cannot write into its own entries to make a torn end look like
//! damage. RocksDB's manifest has no marks: there any whole record behind the hole counts as proof.
//! (A commit of several records that lost the first of two sectors is refused, too: nobody can tell
//! it from damage, and what hangs on a manifest is everything.)
//!
//! A torn end is cut off, and that is synced, before RocksDB opens: this process will write a newer
//! log, and after its own crash the old one may still be there. For the same reason every log is
//! synced: a killed process may have left its last record to the page cache.
//!
//! Nobody can tell a log that was cut off between two records from one that was never longer, nor
//! zeros over the last records of a log from one torn record.

mod format;
mod torn;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use self::format::End;
pub(crate) use self::torn::{BATCH_END, Mark};

/// The fault of a log file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLog {
    /// It cannot be read, or not be cut.
    #[error("{file}: {error}")]
    Unusable { file: String, error: io::Error },
    /// It holds, or held, what is not what was written.
    #[error("{file} is damaged at byte {at}: {why}")]
    Damaged { file: String, at: u64, why: &'static str },
}

/// Reads all logs of the database in `directory`, which nobody else may have open, and cuts off the
/// torn end, if there is one. If anything is damaged nothing is changed. An absent database has
/// nothing wrong.
pub(crate) fn mend(directory: &Path) -> Result<(), BadLog> {
    let current = directory.join("CURRENT");
    if !current.exists() {
        return Ok(());
    }
    let name = fs::read(&current).map_err(|error| unusable(&current, error))?;
    let manifest = directory.join(String::from_utf8_lossy(&name).trim_end());
    // RocksDB has made it durable before CURRENT.
    let identity = directory.join("IDENTITY");
    let identity = fs::read(&identity).map_err(|error| unusable(&identity, error))?;
    let mark = Mark::of(&identity);

    let mut ends = vec![(manifest.clone(), format::read(&manifest, None)?)];
    let mut torn: Option<(PathBuf, u64)> = None;
    for log in write_ahead_logs(directory).map_err(|error| unusable(directory, error))? {
        let end = format::read(&log, Some(&mark))?;
        if let (Some((file, at)), true) = (&torn, end != End::Empty) {
            return Err(damaged(file, *at, "it ends within a record, and a later log goes on"));
        }
        if let End::Torn(at) = end {
            torn = Some((log.clone(), at));
        }
        ends.push((log, end));
    }
    for (file, end) in ends {
        settle(&file, end).map_err(|error| unusable(&file, error))?;
    }
    Ok(())
}

/// Makes the file durable, without its torn end.
fn settle(path: &Path, end: End) -> io::Result<()> {
    let file = match File::options().write(true).open(path) {
        // RocksDB knows which files there must be.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if let End::Torn(at) = end {
        let lost = file.metadata()?.len() - at;
        tracing::warn!(file = %path.display(), at, lost, "a crash tore the log's end: it is cut off");
        file.set_len(at)?;
    }
    file.sync_all()
}

/// Oldest first.
fn write_ahead_logs(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut logs = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|it| it == "log")) {
            logs.push((number, path));
        }
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

fn unusable(path: &Path, error: io::Error) -> BadLog {
    BadLog::Unusable { file: name(path), error }
}

fn damaged(path: &Path, at: u64, why: &'static str) -> BadLog {
    BadLog::Damaged { file: name(path), at, why }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
