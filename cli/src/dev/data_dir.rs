//! Where `sharklock dev` keeps its store, and whether it may.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::exit::{CONFIG, Failure};

/// A directory for a store.
#[derive(Debug)]
pub enum DataDir {
    /// Stays after the run.
    Kept(PathBuf),
    /// Goes with this value.
    Temporary(TempDir),
}

impl DataDir {
    /// A directory of the user's choice: absent, empty, or with a store in it. Whether the store is
    /// in use, or of another version, is found out by opening it.
    pub fn kept(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        match stranger(path) {
            Ok(None) => Ok(Self::Kept(path.to_owned())),
            Ok(Some(name)) => Err(Failure::new(
                CONFIG,
                format!(
                    "data directory {shown} holds something else than a store: {name}; \
                     choose another with --data-dir"
                ),
            )),
            Err(why) => Err(Failure::new(CONFIG, format!("data directory {shown}: {why}"))),
        }
    }

    /// A fresh one that is removed at the end of the run.
    pub fn temporary() -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix("sharklock-dev-").tempdir();
        made.map(Self::Temporary).map_err(|why| {
            Failure::new(CONFIG, format!("cannot make a temporary data directory: {why}"))
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// Something in the directory that RocksDB did not put there: a mistyped path must not fill
/// somebody's home with database files.
fn stranger(path: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !of_a_store(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether RocksDB uses such a name. A start that was killed half-way may have left any of them.
fn of_a_store(name: &str) -> bool {
    ["CURRENT", "IDENTITY", "LOCK", "lost+found"].contains(&name)
        || ["LOG", "MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix))
        || [".log", ".sst", ".dbtmp", ".blob"].iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_empty_and_used_directories_are_taken_and_others_refused() {
        let parent = TempDir::new().expect("a temporary directory");
        let dir = parent.path().join("data");
        assert!(DataDir::kept(&dir).is_ok(), "absent");
        fs::create_dir(&dir).expect("it is made");
        assert!(DataDir::kept(&dir).is_ok(), "empty");
        for name in ["000004.log", "CURRENT", "LOCK", "LOG", "LOG.old.17", "MANIFEST-000005"] {
            fs::write(dir.join(name), "").expect("it is written");
        }
        assert!(DataDir::kept(&dir).is_ok(), "a store");
        fs::write(dir.join("thesis.tex"), "").expect("it is written");
        let refused = DataDir::kept(&dir).expect_err("not only a store");
        assert_eq!(refused.code(), CONFIG);
        let text = refused.to_string();
        assert!(text.contains("something else than a store: thesis.tex"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert_eq!(DataDir::kept(file.path()).expect_err("a file").code(), CONFIG);
    }

    #[test]
    fn a_temporary_directory_goes_with_its_run() {
        let dir = DataDir::temporary().expect("a temporary directory");
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
