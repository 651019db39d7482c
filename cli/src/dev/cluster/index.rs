//! Finds running clusters of this user. Each leaves a note in its own directory, and one in a
//! directory that all of them share; a note whose process is gone counts for nothing.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The note's name in the cluster's directory.
pub const NOTE: &str = "dev.json";
/// The socket's name there.
pub const SOCKET: &str = "dev.sock";

/// A process, told apart from every other that had or will have its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub start_ticks: u64,
    /// Which run of the machine.
    pub boot_id: String,
}

/// The note that a cluster leaves of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The process that owns the nodes.
    pub owner: Identity,
    /// The directory of the cluster, from the root.
    pub data_dir: PathBuf,
}

impl Identity {
    /// Of a process that runs; `None` when there is none, or only its remains.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(Self { pid, start_ticks: start_ticks(&stat)?, boot_id: boot_id.trim().to_owned() })
    }

    /// Whether this very process still runs.
    pub fn runs(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// Of `/proc/PID/stat`: PID (NAME) STATE …, where the name may hold anything. `None` for a zombie.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    if matches!(words.next()?, "Z" | "X") {
        return None;
    }
    // The state is field 3, the start time field 22.
    words.nth(18)?.parse().ok()
}

/// Notes in two places, removed with this value.
#[derive(Debug)]
pub struct Noted(Vec<PathBuf>);

impl Noted {
    /// Writes the notes. Without the shared directory the cluster is found by its own.
    pub fn write(note: &Note) -> io::Result<Self> {
        let text = serde_json::to_string_pretty(note).map_err(io::Error::other)?;
        let own = note.data_dir.join(NOTE);
        fs::write(&own, &text)?;
        let mut written = vec![own];
        let shared = shared_dir().and_then(|dir| {
            let path = dir.join(format!("dev-{}.json", note.owner.pid));
            fs::write(&path, &text)?;
            Ok(path)
        });
        match shared {
            Ok(path) => written.push(path),
            Err(why) => tracing::warn!(%why, "the cluster is found by --data-dir only"),
        }
        Ok(Self(written))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// The cluster that runs in a directory.
pub fn running_in(dir: &Path) -> Option<Note> {
    read(&dir.join(NOTE)).filter(|note| note.owner.runs())
}

/// The newest cluster of this user that runs. Notes of others that ended are removed.
pub fn newest_running() -> Option<Note> {
    newest_of(&shared_dir().ok()?)
}

fn newest_of(dir: &Path) -> Option<Note> {
    let mut newest: Option<Note> = None;
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let Some(note) = read(&path) else { continue };
        if !note.owner.runs() {
            let _ = fs::remove_file(&path);
            continue;
        }
        let age = |note: &Note| (note.owner.start_ticks, note.owner.pid);
        if newest.as_ref().is_none_or(|newest| age(newest) < age(&note)) {
            newest = Some(note);
        }
    }
    newest
}

fn read(path: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Of this user alone: below the session's runtime directory, else below the state directory.
fn shared_dir() -> io::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = || Some(set("HOME")?.join(".local/state"));
    let parents = [set("XDG_RUNTIME_DIR"), set("XDG_STATE_HOME").or_else(state)];
    let mut refused = io::Error::other("none of XDG_RUNTIME_DIR, XDG_STATE_HOME and HOME is set");
    for parent in parents.into_iter().flatten() {
        let dir = parent.join("sharklock");
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Identity {
        Identity::of(std::process::id()).expect("this process runs")
    }

    fn put(dir: &Path, name: &str, owner: Identity, data_dir: &str) {
        let note = Note { owner, data_dir: data_dir.into() };
        let text = serde_json::to_string(&note).expect("it is plain data");
        fs::write(dir.join(name), text).expect("it is written");
    }

    #[test]
    fn start_times_are_read_past_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_ticks(&format!("7 (a) b) {rest}")), Some(4711));
        assert_eq!(start_ticks("7 (a) Z 1 2"), None);
        assert_eq!(start_ticks(""), None);
    }

    #[test]
    fn a_process_is_not_taken_for_another_with_its_id() {
        assert!(me().runs());
        assert!(!Identity { start_ticks: me().start_ticks + 1, ..me() }.runs());
        assert!(!Identity { boot_id: "another".into(), ..me() }.runs());
        assert!(!Identity { pid: u32::MAX, ..me() }.runs());
    }

    #[test]
    fn notes_of_the_dead_count_for_nothing_and_are_removed() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let stale = Identity { start_ticks: 1, ..me() };
        put(dir.path(), "dev-1.json", stale.clone(), "/stale");
        put(dir.path(), "dev-2.json", me(), "/live");
        fs::write(dir.path().join("dev-3.json"), "no json").expect("it is written");
        let found = newest_of(dir.path()).expect("one runs");
        assert_eq!(found.data_dir, Path::new("/live"));
        assert!(!dir.path().join("dev-1.json").exists());
        put(dir.path(), NOTE, stale, "/stale");
        assert_eq!(running_in(dir.path()), None);
        put(dir.path(), NOTE, me(), "/live");
        assert!(running_in(dir.path()).is_some());
    }

    #[test]
    fn notes_go_with_their_cluster() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let note = Note { owner: me(), data_dir: dir.path().to_owned() };
        let text = serde_json::to_string(&note).expect("it is plain data");
        fs::write(dir.path().join(NOTE), text).expect("it is written");
        drop(Noted(vec![dir.path().join(NOTE)]));
        assert_eq!(running_in(dir.path()), None);
    }
}
