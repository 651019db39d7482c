//! The directory of a process's stores: whether it may be used, and that nobody else does
//! meanwhile.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tempfile::TempDir;

use crate::exit::{CONFIG, Failure};

/// Held while a process uses the directory.
const LOCK: &str = "lock";
/// The names that a node has in its directory; `address` is written by `dev`, `log` by
/// `dev --nodes`, and a disk of its own has the last.
const OURS: [&str; 7] = ["master", "data", LOCK, "address", "address.new", "log", "lost+found"];

/// A directory for a store.
#[derive(Debug)]
pub enum DataDir {
    /// Stays after the run.
    Kept(PathBuf),
    /// Goes with this value.
    Temporary(TempDir),
}

impl DataDir {
    /// A fresh one that is removed at the end of the run.
    pub fn temporary() -> Result<Self, Failure> {
        let made = tempfile::Builder::new().prefix("sharklock-dev-").tempdir();
        made.map(Self::Temporary).map_err(|why| {
            Failure::new(CONFIG, format!("cannot make a temporary data directory: {why}"))
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }
}

/// The right to use a directory; it ends with this value, and with the process.
#[derive(Debug)]
pub struct Claimed {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Claimed {
    /// A directory that is absent, empty, or holds what a node has. Whether its stores can be
    /// used is found out by opening them.
    pub fn of_node(path: &Path) -> Result<Self, Failure> {
        look(path, |name| OURS.contains(&name))?;
        Self::take(path)
    }

    /// A directory that is absent, empty, or holds nothing but what `ours` knows.
    pub fn of(path: &Path, ours: impl Fn(&str) -> bool) -> Result<Self, Failure> {
        look(path, |name| name == LOCK || name == "lost+found" || ours(name))?;
        Self::take(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn take(path: &Path) -> Result<Self, Failure> {
        let refuse = |why: io::Error| refused(path, why);
        fs::create_dir_all(path).map_err(refuse)?;
        let file = File::options().create(true).append(true).open(path.join(LOCK));
        match Flock::lock(file.map_err(refuse)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                let why = format!("data directory {} is in use by another process", path.display());
                Err(Failure::new(CONFIG, why).hint("choose another with --data-dir"))
            }
            Err((_, why)) => Err(refused(path, why.into())),
        }
    }
}

fn refused(path: &Path, why: io::Error) -> Failure {
    Failure::new(CONFIG, format!("data directory {}: {why}", path.display()))
}

/// A mistyped path must not fill somebody's home with database files, and a directory of another
/// layout must not be mixed with ours.
fn look(path: &Path, ours: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let entries = match fs::read_dir(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|why| refused(path, why))?,
    };
    let mut strangers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|why| refused(path, why))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours(&name) {
            strangers.push(name);
        }
    }
    strangers.sort();
    let shown = path.display();
    let (why, hint) = match strangers.first().map(String::as_str) {
        None => return Ok(()),
        Some(_) if strangers.iter().any(|name| name == "CURRENT") => (
            format!(
                "data directory {shown} holds a store itself, as versions before clusters wrote it"
            ),
            "its locks cannot be taken over: choose another with --data-dir, or remove it",
        ),
        Some(name) if name.starts_with("node-") || name == "cluster.json" => (
            format!("data directory {shown} holds a cluster of several nodes"),
            "run it with `sharklock dev --nodes N`, or choose another with --data-dir",
        ),
        Some("data" | "master") => (
            format!("data directory {shown} holds a single node"),
            "run it without --nodes, or choose another with --data-dir",
        ),
        Some(name) => (
            format!("data directory {shown} holds something else than SharkLock's data: {name}"),
            "choose another with --data-dir",
        ),
    };
    Err(Failure::new(CONFIG, why).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(dir: &Path) -> String {
        let refused = Claimed::of_node(dir).expect_err("it is refused");
        assert_eq!(refused.code(), CONFIG);
        let text = refused.to_string();
        assert_eq!(text.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{text}");
        text
    }

    #[test]
    fn absent_empty_and_used_directories_are_taken_and_others_refused() {
        let parent = TempDir::new().expect("a temporary directory");
        let dir = parent.path().join("a/data");
        drop(Claimed::of_node(&dir).expect("absent"));
        drop(Claimed::of_node(&dir).expect("it holds our lock"));
        for name in ["master", "data"] {
            fs::create_dir(dir.join(name)).expect("it is made");
        }
        drop(Claimed::of_node(&dir).expect("a node"));
        fs::write(dir.join("thesis.tex"), "").expect("it is written");
        let text = refusal(&dir);
        assert!(text.contains("something else than SharkLock's data: thesis.tex"), "{text}");
    }

    #[test]
    fn directories_of_other_layouts_are_told_apart() {
        let told = |names: &[&str]| {
            let dir = TempDir::new().expect("a temporary directory");
            for name in names {
                fs::write(dir.path().join(name), "").expect("it is written");
            }
            refusal(dir.path())
        };
        let text = told(&["000004.log", "CURRENT", "LOCK", "MANIFEST-000005"]);
        assert!(text.contains("versions before clusters") && text.contains("hint:"), "{text}");
        let text = told(&["cluster.json", "node-1", "node-2"]);
        assert!(text.contains("hint: run it with `sharklock dev --nodes N`"), "{text}");
        let dir = TempDir::new().expect("a temporary directory");
        drop(Claimed::of_node(dir.path()).expect("empty"));
        fs::create_dir(dir.path().join("data")).expect("it is made");
        let text = Claimed::of(dir.path(), |name| name.starts_with("node-")).expect_err("a node");
        assert!(text.to_string().contains("run it without --nodes"), "{text}");
    }

    #[test]
    fn a_directory_is_used_by_one_at_a_time() {
        let dir = TempDir::new().expect("a temporary directory");
        let first = Claimed::of_node(dir.path()).expect("it is free");
        assert!(refusal(dir.path()).contains("is in use"));
        drop(first);
        Claimed::of_node(dir.path()).expect("it is free again");
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        assert_eq!(Claimed::of_node(file.path()).expect_err("a file").code(), CONFIG);
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
