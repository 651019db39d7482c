//! The file of the record, beside the client's state file: replaced as a whole, and synced. The state
//! file's own lock keeps a second process from it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::record::{self, Fault, RunRecord};
use crate::exit::{Failure, INTERNAL, LOCK_USAGE};

/// Only its owner may read or write it: whoever knows a run's mark can feign to be of it.
const MODE: u32 = 0o600;
/// A file larger than this is none of ours: it has a line for each process of a run.
const BYTES_MAX: u64 = 64 << 20;

/// The record's file. Whoever has it may write it: there is one writer at a time.
#[derive(Clone, Debug)]
pub struct RecordFile {
    path: PathBuf,
}

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// There is no file: no `sharklock lock` has used this state file.
    NoFile,
    /// Nothing runs.
    Nothing,
    /// This runs, or did when it was written.
    Run(Box<RunRecord>),
}

impl RecordFile {
    /// Beside this state file.
    pub fn beside(state_file: &Path) -> Self {
        Self { path: with_suffix(state_file, ".run") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    ///
    /// # Errors
    /// It is not ours, is damaged, or cannot be read; it is left as it is.
    pub fn read(&self) -> Result<Recorded, Failure> {
        let kind = match fs::symlink_metadata(&self.path) {
            Ok(kind) => kind,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recorded::NoFile),
            Err(error) => return Err(self.failed("cannot read", &error)),
        };
        if !kind.is_file() || kind.len() > BYTES_MAX {
            return Err(self.fault(Fault::Foreign));
        }
        let mode = kind.permissions().mode() & 0o7777;
        if mode & !MODE != 0 {
            let wide = format!("{:?} has mode {mode:04o}", self.path);
            return Err(Failure::new(LOCK_USAGE, wide)
                .cause("others could say in it that nothing runs")
                .hint(format!("if nobody has: chmod 600 {}", self.path.display())));
        }
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| self.failed("cannot read", &error))?;
        match record::decode(&bytes) {
            Ok(None) => Ok(Recorded::Nothing),
            Ok(Some(run)) => Ok(Recorded::Run(Box::new(run))),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    /// Replaces it. When this returns, the disk has it; a crash before leaves the old one.
    pub fn write(&self, record: Option<&RunRecord>) -> io::Result<()> {
        let text = record::encode(record);
        let new = with_suffix(&self.path, ".new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        // One that was there may have had another mode.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The failure to write it.
    pub fn unwritten(&self, error: &io::Error) -> Failure {
        self.failed("cannot write", error)
    }

    fn failed(&self, doing: &str, error: &io::Error) -> Failure {
        let what = format!("{doing} {:?}, the record of what runs under the kept lock", self.path);
        Failure::new(INTERNAL, what).cause(error)
    }

    fn fault(&self, fault: Fault) -> Failure {
        let path = &self.path;
        let (error, hint) = match fault {
            Fault::Foreign => (
                "is no record of `sharklock lock --keep`",
                "it has the place of one: name another file with --state-file",
            ),
            Fault::Version => (
                "was written by another version of sharklock",
                "start that version again, and let its command end",
            ),
            Fault::Damaged => (
                "is torn or damaged",
                "restore it from a copy; or, if nothing of the earlier run lives, remove it and \
                 start again",
            ),
        };
        Failure::new(LOCK_USAGE, format!("{path:?} {error}"))
            .cause("what runs under the kept lock is not known without it")
            .hint(hint)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_whole_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = RecordFile::beside(&folder.path().join("state"));
        assert_eq!(file.read(), Ok(Recorded::NoFile));
        let record = record::tests::record();
        file.write(Some(&record)).expect("it can be written");
        assert_eq!(file.read(), Ok(Recorded::Run(Box::new(record))));
        file.write(None).expect("it can be written");
        assert_eq!(file.read(), Ok(Recorded::Nothing));
        let mode = fs::metadata(file.path()).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("it is ours").count(), 1);
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_by_name_and_left() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = RecordFile::beside(&folder.path().join("state"));
        file.write(None).expect("it can be written");
        let wide = fs::Permissions::from_mode(0o620);
        fs::set_permissions(file.path(), wide).expect("it is ours");
        assert!(file.read().expect_err("it is wide").to_string().contains("chmod 600"));
        fs::remove_file(file.path()).expect("it is ours");
        file.write(None).expect("it can be written");
        for (bytes, words) in [
            (&b"else"[..], "is no record"),
            (b"", "is torn"),
            (b"sharklock lock run 1\n", "is torn"),
        ] {
            fs::write(file.path(), bytes).expect("it is ours");
            let refused = file.read().expect_err("it is not whole").to_string();
            assert!(refused.contains(words) && refused.contains("state.run"), "{refused}");
            assert_eq!(fs::read(file.path()).expect("it is ours"), bytes);
        }
    }
}
