//! The cgroup of a run (cgroups(7), version 2): all that is started in it stays in it, whatever
//! becomes of parents, groups, sessions and environments.
//!
//! It is made below the cgroup of this process, which needs root or a delegated cgroup.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

use super::record::Mark;

/// The kind of file system that has the second version's cgroups (`CGROUP2_SUPER_MAGIC`).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// So many processes are read at most: they are for people.
const MEMBERS_MAX: usize = 1_000;

/// How the hierarchy is seen: where it is mounted, and the number of the cgroup there, which is no
/// other's until the machine starts again. A container sees another root, and a path that is not there
/// says nothing then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// The number of the cgroup that is seen there.
    pub root: u64,
}

/// A cgroup of one run. Its name is 128 random bits, so that it is never anybody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// How it is seen.
    pub view: View,
    /// Where it is.
    pub path: PathBuf,
}

/// What a look at it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupState {
    /// It was removed, which only an empty one can be; or nobody is in it and in those below it.
    Empty,
    /// These are in it; not all may be named.
    Populated(Vec<i32>),
    /// This process does not see what the other saw.
    Elsewhere,
    /// It cannot be read.
    Unread(String),
}

impl Cgroup {
    /// Makes one below this process's own.
    ///
    /// # Errors
    /// None can be made: there is no such hierarchy, or it belongs to somebody else.
    pub fn make() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let none = || io::Error::new(ErrorKind::Unsupported, "no cgroup of version 2 is seen here");
        let (mount, shown) = mounted(&mounts).ok_or_else(none)?;
        let below = own_path(&own).and_then(|own| below(own, &shown)).ok_or_else(none)?;
        let view = View { root: root(&mount).ok_or_else(none)?, mount };
        let path = view.mount.join(below).join(format!("sharklock-run-{}", Mark::random()?));
        if path.to_str().is_none_or(|path| path.contains(char::is_control)) {
            return Err(none());
        }
        fs::create_dir(&path)?;
        Ok(Self { view, path })
    }

    /// Takes a process in, which must not have started another yet.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())?;
        let of_it = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_in = own_path(&of_it).is_some_and(|path| path.ends_with(name));
        if is_in { Ok(()) } else { Err(io::Error::other("the kernel did not take it in")) }
    }

    /// How it stands now.
    pub fn state(&self) -> CgroupState {
        if root(&self.view.mount) != Some(self.view.root) {
            return CgroupState::Elsewhere;
        }
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(events) => match populated(&events) {
                Some(false) => CgroupState::Empty,
                Some(true) => CgroupState::Populated(members(&self.path)),
                None => CgroupState::Unread("cgroup.events does not tell".to_owned()),
            },
            Err(_) if self.is_removed() => CgroupState::Empty,
            Err(error) => CgroupState::Unread(error.to_string()),
        }
    }

    fn is_removed(&self) -> bool {
        let gone = |error: io::Error| error.kind() == ErrorKind::NotFound;
        fs::symlink_metadata(&self.path).is_err_and(gone)
    }

    /// Removes it, with those that were made in it, if nobody is left; otherwise it stays.
    pub fn remove(&self) -> io::Result<()> {
        match remove(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    for below in directories(path)? {
        remove(&below)?;
    }
    fs::remove_dir(path)
}

fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.filter_map(Result::ok);
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(entries.map(|entry| entry.path()).collect())
}

fn members(path: &Path) -> Vec<i32> {
    let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut members: Vec<i32> = procs.lines().filter_map(|line| line.parse().ok()).collect();
    for below in directories(path).unwrap_or_default() {
        if members.len() < MEMBERS_MAX {
            members.extend(self::members(&below));
        }
    }
    members
}

/// The number of the cgroup at the root of what is mounted here, if it is of the second version.
fn root(mount: &Path) -> Option<u64> {
    let kind = rustix::fs::statfs(mount).ok()?.f_type;
    #[expect(clippy::allow_attributes, reason = "the type depends on the machine")]
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a magic number")]
    let kind = kind as u64;
    (kind == CGROUP2_MAGIC).then_some(())?;
    Some(fs::metadata(mount).ok()?.ino())
}

/// Where the second version is mounted, and which part of it, from /proc/PID/mountinfo.
fn mounted(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let is_second = kind.split(' ').next() == Some("cgroup2");
        let (root, path) = (fields.get(3)?, fields.get(4)?);
        is_second.then(|| (PathBuf::from(unescape(path)), PathBuf::from(unescape(root))))
    })
}

/// Blanks and their like stand as `\040` in mountinfo.
fn unescape(text: &str) -> String {
    let mut plain = Vec::new();
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let octal = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                bytes = &rest[3..];
            }
            None => {
                plain.push(*first);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The path in the second version's hierarchy, from /proc/PID/cgroup.
fn own_path(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.strip_suffix(" (deleted)").unwrap_or(path))
}

/// The path below the mount point, where `shown` is the part that is mounted.
fn below(own: &str, shown: &Path) -> Option<PathBuf> {
    let below = Path::new(own).strip_prefix(shown).ok()?;
    let is_inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    is_inside.then(|| below.to_owned())
}

/// Whether somebody lives in it or below.
fn populated(events: &str) -> Option<bool> {
    match events.lines().find_map(|line| line.strip_prefix("populated "))? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Whether it cannot be removed yet since its last process is not quite gone.
pub fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::BUSY.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_the_second_version_is_found_among_others() {
        let lines = "\
31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
41 31 0:38 /a\\040b /sys/fs/cg\\0402 rw,relatime shared:9 - cgroup2 cgroup2 rw
";
        let found = mounted(lines).expect("there is one");
        assert_eq!(found, (PathBuf::from("/sys/fs/cg 2"), PathBuf::from("/a b")));
        assert_eq!(mounted("32 31 0:28 / /x rw - cgroup cgroup rw,cpu\n"), None);
        assert_eq!(mounted("32 31 / - cgroup2 cgroup2 rw\n"), None);
    }

    #[test]
    fn the_own_cgroup_is_found_below_the_mount() {
        assert_eq!(own_path("4:memory:/m\n0::/user.slice/x y\n"), Some("/user.slice/x y"));
        assert_eq!(own_path("0::/gone (deleted)\n"), Some("/gone"));
        assert_eq!(own_path("4:memory:/m\n"), None);
        let below = |own, shown| below(own, Path::new(shown));
        assert_eq!(below("/", "/"), Some(PathBuf::new()));
        assert_eq!(below("/a/b", "/"), Some(PathBuf::from("a/b")));
        assert_eq!(below("/a/b", "/a"), Some(PathBuf::from("b")));
        assert_eq!(below("/other", "/a"), None);
        assert_eq!(below("/../other", "/"), None, "it is outside of what is seen");
    }

    #[test]
    fn whether_it_is_populated_is_read_or_not_known() {
        assert_eq!(populated("populated 0\nfrozen 0\n"), Some(false));
        assert_eq!(populated("frozen 0\npopulated 1\n"), Some(true));
        assert_eq!(populated("frozen 0\n"), None);
        assert_eq!(populated("populated 2\n"), None);
    }

    #[test]
    fn a_hierarchy_that_is_seen_in_another_way_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let view = View { mount: folder.path().to_owned(), root: 1 };
        let cgroup = Cgroup { path: folder.path().join("gone"), view };
        assert_eq!(cgroup.state(), CgroupState::Elsewhere);
    }
}
