//! The file in which a client keeps what must outlive it: replaced as a whole, synced, and locked
//! against a second process. What it says is `state`'s.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    cluster::ClusterId,
    condition::Condition,
    error::LostReason,
    events::{GuardEvent, GuardEventKind},
    grant::Grant,
    ids::{AcquisitionId, FencingToken},
    request::{LockMode, Request},
    session_id::fresh_instance,
    state::{Recorded, State},
    state_error::StateFileError,
};

/// Only its owner may read or write it: it has the session's secret.
const MODE: u32 = 0o600;

/// A file larger than this is none of ours: 65,536 holds of the longest names have 40 MB.
const BYTES_MAX: u64 = 64 << 20;

/// An open state file.
///
/// Invariant: what is on the disk is `kept` as of the version in `written`, or newer.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    kept: Mutex<Kept>,
    /// The version that is on the disk. Held while it is written.
    written: Mutex<u64>,
    /// Locked while it is open. A file of its own, since the state's is replaced.
    _lock: File,
}

#[derive(Debug)]
struct Kept {
    state: State,
    /// Counts the changes of `state`.
    version: u64,
    /// Numbers the holds.
    newest: u64,
}

impl StateFile {
    /// Opens the file, or makes one, as the next life of its client. `told` is the cluster that the
    /// client was told.
    pub(crate) fn open(path: &Path, told: Option<ClusterId>) -> Result<Self, StateFileError> {
        let lock = lock(path)?;
        let mut state = match read(path)? {
            Some(bytes) => State::decode(&bytes).map_err(|fault| StateFileError::Fault {
                path: path.into(),
                why: fault.to_string(),
            })?,
            None => State {
                secret: rand::random(),
                instance: 0,
                cluster: None,
                holds: Default::default(),
            },
        };
        if let (Some(ours), Some(theirs)) = (told, state.cluster)
            && ours != theirs
        {
            return Err(StateFileError::OtherCluster { path: path.into(), theirs, ours });
        }
        state.cluster = state.cluster.or(told);
        // The clock may have been set back, and the file may be an older copy.
        state.instance = fresh_instance().max(state.instance.saturating_add(1));
        let newest = state.holds.len() as u64;
        let file = Self {
            path: path.into(),
            kept: Mutex::new(Kept { state, version: 1, newest }),
            written: Mutex::new(0),
            _lock: lock,
        };
        file.write()?;
        Ok(file)
    }

    pub(crate) fn secret(&self) -> [u8; 16] {
        self.kept().state.secret
    }

    pub(crate) fn instance(&self) -> u64 {
        self.kept().state.instance
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.kept().state.cluster
    }

    /// The holds are of this cluster.
    pub(crate) fn belongs_to(&self, cluster: ClusterId) {
        let mut kept = self.kept();
        if kept.state.cluster.is_none() {
            kept.state.cluster = Some(cluster);
            kept.version += 1;
        }
    }

    /// The holds of older lives.
    pub(crate) fn of_older_lives(&self) -> Vec<(u64, Recorded)> {
        let kept = self.kept();
        let State { instance, holds, .. } = &kept.state;
        let older = holds.iter().filter(|(_, hold)| hold.instance < *instance);
        older.map(|(number, hold)| (*number, hold.clone())).collect()
    }

    /// A hold is about to be acquired.
    pub(crate) fn intend(&self, request: &Request) -> u64 {
        let mut kept = self.kept();
        let hold = Recorded {
            name: Arc::clone(&request.name),
            instance: kept.state.instance,
            grant: None,
            mode: request.mode,
            ttl: request.ttl,
            condition: request.condition,
        };
        kept.newest += 1;
        kept.version += 1;
        let number = kept.newest;
        kept.state.holds.insert(number, hold);
        number
    }

    /// It is granted, and what it takes back is no more.
    pub(crate) fn granted(&self, number: u64, request: &Request, grant: &Grant) {
        let mut kept = self.kept();
        kept.version += 1;
        if let Some(old) = request.reclaim {
            kept.state.holds.retain(|_, hold| {
                hold.name != request.name || hold.grant.is_none_or(|(token, _)| token != old)
            });
        }
        let instance = kept.state.instance;
        let hold = Recorded {
            name: Arc::clone(&request.name),
            instance,
            grant: Some((grant.token, grant.id)),
            mode: request.mode,
            ttl: grant.agreement.ttl,
            condition: grant.agreement.condition,
        };
        kept.state.holds.insert(number, hold);
    }

    /// There is no such hold.
    pub(crate) fn remove(&self, number: u64) {
        let mut kept = self.kept();
        if kept.state.holds.remove(&number).is_some() {
            kept.version += 1;
        }
    }

    /// There is no such hold of an older life, whichever of its guards are in the file.
    pub(crate) fn remove_older(&self, number: u64) {
        let mut kept = self.kept();
        let Some(gone) = kept.state.holds.remove(&number) else { return };
        let instance = kept.state.instance;
        kept.state.holds.retain(|_, hold| hold.instance == instance || !hold.is_same(&gone));
        kept.version += 1;
    }

    /// Nobody knows what became of the wish. It stays, once for each name, so that the next life looks.
    pub(crate) fn leave(&self, number: u64) {
        let mut kept = self.kept();
        let Some(left) = kept.state.holds.get(&number) else { return };
        let same = |(other, hold): (&u64, &Recorded)| {
            *other != number && hold.grant.is_none() && hold.name == left.name
        };
        if left.grant.is_none() && kept.state.holds.iter().any(same) {
            kept.state.holds.remove(&number);
            kept.version += 1;
        }
    }

    /// What is agreed about a hold of this life is another, or is about to be: for all its guards.
    pub(crate) fn agree(&self, acquisition: AcquisitionId, condition: Condition) {
        let mut kept = self.kept();
        let instance = kept.state.instance;
        let mut holds = kept.state.holds.values();
        let Some(first) = holds.find(|hold| hold.is_of(instance, acquisition)).cloned() else {
            return;
        };
        let same = |hold: &&mut Recorded| hold.instance == instance && hold.is_same(&first);
        kept.state.holds.values_mut().filter(same).for_each(|hold| hold.condition = condition);
        kept.version += 1;
    }

    /// Whether a hold of this life, as the file knows it, stays when its lease ends.
    pub(crate) fn stays(&self, name: &str, token: FencingToken) -> bool {
        let kept = self.kept();
        let is_it = |hold: &&Recorded| *hold.name == *name && hold.token() == Some(token);
        kept.state.holds.values().filter(is_it).any(|hold| hold.condition.holds())
    }

    /// A hold of this life is shared now, under another token.
    pub(crate) fn downgraded(&self, acquisition: AcquisitionId, token: FencingToken) {
        self.change(acquisition, |hold| {
            hold.grant = Some((token, acquisition));
            hold.mode = LockMode::Shared;
        });
    }

    fn change(&self, acquisition: AcquisitionId, change: impl FnOnce(&mut Recorded)) {
        let mut kept = self.kept();
        let instance = kept.state.instance;
        let is_it = |hold: &&mut Recorded| hold.is_of(instance, acquisition);
        if let Some(hold) = kept.state.holds.values_mut().find(is_it) {
            change(hold);
            kept.version += 1;
        }
    }

    /// Something has happened to a guard: its hold may be no more. Whether there is something to write.
    pub(crate) fn heard(&self, event: &GuardEvent) -> bool {
        let acquisition = event.hold.acquisition;
        let mut kept = self.kept();
        let instance = kept.state.instance;
        let before = kept.state.holds.len();
        kept.state.holds.retain(|_, hold| {
            !hold.is_of(instance, acquisition) || outlives(hold.condition.holds(), &event.kind)
        });
        let is_changed = kept.state.holds.len() != before;
        kept.version += u64::from(is_changed);
        is_changed
    }

    /// Writes what has changed, and returns when that is on the disk. Whoever comes while another writes
    /// waits, and mostly finds it written.
    pub(crate) fn write(&self) -> Result<(), StateFileError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, text) = {
            let kept = self.kept();
            if kept.version == *written {
                return Ok(());
            }
            (kept.version, kept.state.encode())
        };
        self.replace(text.as_bytes()).map_err(|error| {
            let doing = "it cannot be written";
            StateFileError::Io { path: self.path.clone(), doing, why: error.to_string() }
        })?;
        *written = version;
        Ok(())
    }

    /// As [`write`](Self::write), without keeping a thread of the runtime.
    pub(crate) async fn written(self: &Arc<Self>) -> Result<(), StateFileError> {
        let file = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || file.write());
        written.await.unwrap_or_else(|error| {
            let doing = "it was not written";
            Err(StateFileError::Io { path: self.path.clone(), doing, why: error.to_string() })
        })
    }

    /// Writes what may be lost: then the next life asks for what is no more.
    pub(crate) fn write_soon(self: &Arc<Self>) {
        let file = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = file.write() {
                tracing::error!(why = %error, "the state file is older than what is held");
            }
        }));
    }

    /// A crash leaves the old file or the new one.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let new = beside(&self.path, ".new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&new)?;
        // One that was there may have had another mode.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// A panic cannot leave it half changed: every change is one value or one call.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    fn is_of(&self, instance: u64, acquisition: AcquisitionId) -> bool {
        self.instance == instance && self.grant.is_some_and(|(_, id)| id == acquisition)
    }

    pub(crate) fn token(&self) -> Option<FencingToken> {
        self.grant.map(|(token, _)| token)
    }

    /// Another guard of the same hold.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.token().is_some() && self.token() == other.token()
    }
}

/// Whether a hold may be there after this. One that stays is kept in doubt: to look for it in vain
/// costs the next life one question.
fn outlives(stays: bool, kind: &GuardEventKind) -> bool {
    match kind {
        GuardEventKind::Safe | GuardEventKind::Jeopardy | GuardEventKind::Asked(_) => true,
        GuardEventKind::Lost(LostReason::Closed) => true,
        GuardEventKind::Released => false,
        GuardEventKind::ReleaseUnconfirmed => stays,
        GuardEventKind::Lost(reason) => match reason {
            LostReason::Unrenewed
            | LostReason::Orphaned
            | LostReason::ForceReleased { .. }
            | LostReason::Unknown
            | LostReason::OtherCluster
            | LostReason::SessionEnded
            | LostReason::Closed => stays,
            LostReason::Expired
            | LostReason::Reclaimed
            | LostReason::HeldTooLong
            | LostReason::AskedFor
            | LostReason::Released
            | LostReason::Cancelled
            | LostReason::WaitTimedOut
            | LostReason::Refused
            | LostReason::HoldLost => false,
        },
    }
}

fn lock(path: &Path) -> Result<File, StateFileError> {
    let lock_path = beside(path, ".lock");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(MODE);
    let lock = options.open(&lock_path).map_err(|error| StateFileError::Io {
        path: lock_path,
        doing: "it cannot be opened",
        why: error.to_string(),
    })?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateFileError::InUse { path: path.into() }),
        Err(error) => {
            let doing = "it cannot be locked";
            Err(StateFileError::Io { path: path.into(), doing, why: error.to_string() })
        }
    }
}

/// The contents; `None` where there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateFileError> {
    let failed = |error: io::Error| StateFileError::Io {
        path: path.into(),
        doing: "it cannot be read",
        why: error.to_string(),
    };
    let kind = match fs::symlink_metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !kind.is_file() || kind.len() > BYTES_MAX {
        let why = "is no state file of a SharkLock client: name another file".to_owned();
        return Err(StateFileError::Fault { path: path.into(), why });
    }
    let mode = kind.permissions().mode() & 0o7777;
    if mode & !MODE != 0 {
        return Err(StateFileError::WiderMode { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(failed)?;
    Ok(Some(bytes))
}

/// A path with something added to its last part.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
