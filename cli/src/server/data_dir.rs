//! The directory of a process's stores: whether it may be used, and that nobody else does
//! meanwhile.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    unistd::{AccessFlags, access, getegid, geteuid},
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

    /// The same of a directory that must be on another file system than the root: in a container
    /// everything else goes with it.
    pub fn of_node_on_volume(path: &Path) -> Result<Self, Failure> {
        on_volume(path)?;
        Self::of_node(path)
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
            Ok(lock) => {
                usable_inside(path)?;
                Ok(Self { path: path.to_owned(), _lock: lock })
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let why = format!("data directory {} is in use by another process", path.display());
                Err(Failure::new(CONFIG, why)
                    .hint("stop that process or container, or choose another with --data-dir"))
            }
            Err((_, why)) => Err(refused(path, why.into())),
        }
    }
}

/// The line that says why a directory cannot be used, with what to do about it.
fn refused(path: &Path, why: io::Error) -> Failure {
    let told = format!("data directory {}: {why}", path.display());
    let hint = match why.kind() {
        io::ErrorKind::PermissionDenied => return not_ours(path, &told),
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it for writing, or choose another with --data-dir"
        }
        io::ErrorKind::StorageFull => "free space on its disk",
        _ => "choose another with --data-dir",
    };
    Failure::new(CONFIG, told).hint(hint)
}

/// Of a path that another user owns, as a volume that was filled by root.
fn not_ours(path: &Path, told: &str) -> Failure {
    let found = path.ancestors().find_map(|at| Some((at, fs::metadata(at).ok()?)));
    let (user, group) = (geteuid(), getegid());
    let Some((at, owner)) = found else {
        return Failure::new(CONFIG, told).hint("choose another with --data-dir");
    };
    let (at, owner) = (at.display(), owner.uid());
    Failure::new(
        CONFIG,
        format!("{told}: {at} belongs to user {owner}, this process runs as {user}"),
    )
    .hint(format!("as root: chown -R {user}:{group} {at}"))
}

/// Stores fail late, and in words of their own, on files that another user has left.
fn usable_inside(path: &Path) -> Result<(), Failure> {
    for role in ["master", "data"] {
        let inside = path.join(role);
        let entries = match fs::read_dir(&inside) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|why| refused(&inside, why))?,
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        for file in [inside].into_iter().chain(files) {
            if let Err(why) = access(&file, AccessFlags::R_OK | AccessFlags::W_OK) {
                return Err(refused(&file, why.into()));
            }
        }
    }
    Ok(())
}

/// A file system that is the root's is, in a container, the layer that goes with it.
fn on_volume(path: &Path) -> Result<(), Failure> {
    let device = |path: &Path| fs::metadata(path).map(|it| it.dev());
    let root = device(Path::new("/")).map_err(|why| refused(path, why))?;
    let at = path.ancestors().find_map(|at| device(at).ok()).unwrap_or(root);
    if at != root {
        return Ok(());
    }
    let shown = path.display();
    let why = format!("data directory {shown} is on no volume: it would go with this container");
    Err(Failure::new(CONFIG, why).hint(format!(
        "mount a volume at {shown}, as `docker run -v sharklock:{shown}` does; outside of containers \
         set server.data_on_volume to false"
    )))
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
    fn the_file_system_of_the_root_is_no_volume() {
        let told = Claimed::of_node_on_volume(Path::new("/sharklock-of-no-volume/x"));
        let told = told.expect_err("the root itself").to_string();
        assert!(
            told.contains("is on no volume") && told.contains("hint: mount a volume"),
            "{told}"
        );
        // What the kernel shows of processes is a file system of its own.
        on_volume(Path::new("/proc/self")).expect("it is another");
    }

    #[test]
    fn who_owns_a_directory_is_told_with_what_to_do() {
        let dir = TempDir::new().expect("a temporary directory");
        let told = refused(dir.path(), io::ErrorKind::PermissionDenied.into()).to_string();
        let user = geteuid();
        assert!(told.contains(&format!("belongs to user {user}")), "{told}");
        assert!(told.contains(&format!("hint: as root: chown -R {user}:")), "{told}");
        let told = refused(dir.path(), io::ErrorKind::ReadOnlyFilesystem.into()).to_string();
        assert!(told.contains("hint: mount it for writing"), "{told}");
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
