//! A data directory: how it is made, its small files beside RocksDB's, and the identity that it has
//! before it belongs to a cluster. Whatever is written here survives a loss of power.
//!
//! The identity is drawn once, and on the disk before anybody is told: a process that dies between
//! telling a master and writing what the master said comes back as the same store, and a directory
//! that was emptied comes back as another one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};
use sharklock_proto::Identity;

/// The file with the identity: 32 hex digits.
const IDENTITY: &str = "identity.draft";

/// Makes a directory, with all above it that are missing, and makes the names of all of them durable:
/// a directory is on the disk once the one above it was synced, whoever has made it and when. Above a
/// mount point nothing is this file system's.
pub fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    let device = fs::metadata(&path)?.dev();
    let same = |above: &&Path| fs::metadata(above).is_ok_and(|above| above.dev() == device);
    for above in path.ancestors().take_while(same) {
        match File::open(above) {
            Ok(directory) => directory.sync_all()?,
            // A process that may not look into a directory has made nothing there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A small file of the directory; `None` if it is not there.
pub fn read(dir: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

/// Writes a small file, whole or not at all, and durably. The directory's own name is made durable as
/// well.
pub fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(name))?;
    make(dir)
}

/// Removes a small file durably, if it is there.
fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}

/// Sixteen random bytes of the operating system.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// The directory's identity; drawn and made durable if there is none.
///
/// # Errors
/// The directory cannot be used, or its file is damaged.
pub fn identity(dir: &Path) -> io::Result<Identity> {
    match read(dir, IDENTITY)? {
        Some(text) => text.trim().parse().map_err(|why| {
            io::Error::other(format!("{IDENTITY} is damaged: {why}; restore the directory"))
        }),
        None => {
            let identity = Identity::from_bytes(random()?);
            write(dir, IDENTITY, &format!("{identity}\n"))?;
            Ok(identity)
        }
    }
}

/// The store holds its identity durably, so the file goes: a directory that lost its store, and with
/// it its votes, must not come back as the same one.
pub fn forget_identity(dir: &Path) -> io::Result<()> {
    remove(dir, IDENTITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drawn = identity(dir.path()).expect("it is drawn");
        assert_eq!(identity(dir.path()).expect("it is there"), drawn);
        let other = tempfile::tempdir().expect("a temporary directory");
        assert_ne!(identity(other.path()).expect("it is drawn"), drawn);
        for damaged in ["", "0123", &"x".repeat(32), &"é".repeat(16)] {
            fs::write(dir.path().join(IDENTITY), damaged).expect("it is written");
            identity(dir.path()).expect_err(damaged);
        }
    }

    #[test]
    fn a_directory_that_has_lost_its_store_draws_another_identity() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drawn = identity(dir.path()).expect("it is drawn");
        forget_identity(dir.path()).expect("it is there");
        forget_identity(dir.path()).expect("once more does no harm");
        assert_ne!(identity(dir.path()).expect("it is drawn anew"), drawn);
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("identity.draft.new"), "01").expect("it is written");
        identity(dir.path()).expect("it is drawn anew");
    }
}
