//! The identity of a data directory before it belongs to a cluster.
//!
//! It is drawn once, and on the disk before anybody is told: a process that dies between telling a
//! master and writing what the master said comes back as the same store, and a directory that was
//! emptied comes back as another one. Once the store itself holds its identity the draft goes: a
//! directory that lost its store, and with it its votes, must not come back as the same one either.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use rustix::rand::{GetRandomFlags, getrandom};

/// The file, in the store's directory beside RocksDB's.
const FILE: &str = "identity.draft";
/// While it is written.
const UNFINISHED: &str = "identity.draft.new";

/// Sixteen random bytes.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes)
}

/// The directory's draft; drawn and made durable if there is none.
pub fn load_or_draw(dir: &Path) -> io::Result<[u8; 16]> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => parse(text.trim()).ok_or_else(|| {
            io::Error::other(format!("{FILE} is damaged: 32 hexadecimal digits are expected"))
        }),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let ident = random()?;
            write(dir, &ident)?;
            Ok(ident)
        }
        Err(why) => Err(why),
    }
}

/// The store holds its identity durably: the draft has served.
pub fn forget(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(FILE)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}

fn write(dir: &Path, ident: &[u8; 16]) -> io::Result<()> {
    let unfinished = dir.join(UNFINISHED);
    let mut file = File::create(&unfinished)?;
    let digits: String = ident.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{digits}")?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(FILE))?;
    // The name is durable with its directory, and the directory with its parent.
    File::open(dir)?.sync_all()?;
    dir.parent().map_or(Ok(()), |parent| match parent.as_os_str().is_empty() {
        true => File::open(".")?.sync_all(),
        false => File::open(parent)?.sync_all(),
    })
}

fn parse(digits: &str) -> Option<[u8; 16]> {
    let mut ident = [0; 16];
    if digits.len() != 2 * ident.len() || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in ident.iter_mut().zip((0..digits.len()).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(ident)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_drawn_once_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drawn = load_or_draw(dir.path()).expect("it is drawn");
        assert_eq!(load_or_draw(dir.path()).expect("it is there"), drawn);
        let other = tempfile::tempdir().expect("a temporary directory");
        assert_ne!(load_or_draw(other.path()).expect("it is drawn"), drawn);
        for damaged in ["", "0123", &"x".repeat(32), &"é".repeat(16)] {
            fs::write(dir.path().join(FILE), damaged).expect("it is written");
            load_or_draw(dir.path()).expect_err(damaged);
        }
    }

    #[test]
    fn a_directory_that_has_lost_its_store_draws_another_identity() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drawn = load_or_draw(dir.path()).expect("it is drawn");
        forget(dir.path()).expect("it is there");
        forget(dir.path()).expect("once more does no harm");
        assert_ne!(load_or_draw(dir.path()).expect("it is drawn anew"), drawn);
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_no_draft() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(UNFINISHED), "01").expect("it is written");
        load_or_draw(dir.path()).expect("it is drawn anew");
    }
}
