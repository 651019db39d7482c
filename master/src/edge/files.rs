//! The files of a master beside its store. They say who it is before there is a cluster, and with
//! whom it formed one. Both are on the disk before anything follows from them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::formation::Formed;

/// The identity: 32 hexadecimal digits.
const IDENTITY: &str = "identity.draft";
/// The members: one a line, identity and address.
const MEMBERS: &str = "members";
/// There once the store has begun.
const BEGUN: &str = "begun";

/// This directory's identity; drawn and made durable if there is none.
pub fn identity(dir: &Path) -> io::Result<[u8; 16]> {
    match read(dir, IDENTITY)? {
        Some(text) => parse(text.trim()).ok_or_else(|| damaged(IDENTITY)),
        None => {
            let mut ident = [0; 16];
            getrandom(&mut ident, GetRandomFlags::empty())?;
            write(dir, IDENTITY, &format!("{}\n", hex(&ident)))?;
            Ok(ident)
        }
    }
}

/// The cluster that this directory belongs to, if it does.
pub fn formed(dir: &Path) -> io::Result<Option<Formed>> {
    let Some(text) = read(dir, MEMBERS)? else { return Ok(None) };
    let member = |line: &str| {
        let (ident, address) = line.split_once(' ')?;
        Some((address.to_owned(), parse(ident)?))
    };
    let members: Option<BTreeMap<_, _>> = text.lines().map(member).collect();
    match members.filter(|members| !members.is_empty()) {
        Some(members) => Ok(Some(Formed { members })),
        None => Err(damaged(MEMBERS)),
    }
}

/// From now on this directory belongs to this cluster.
pub fn keep_formed(dir: &Path, formed: &Formed) -> io::Result<()> {
    let line = |(address, ident): (&String, &[u8; 16])| format!("{} {address}\n", hex(ident));
    write(dir, MEMBERS, &formed.members.iter().map(line).collect::<String>())
}

fn read(dir: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(dir.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(why),
    }
}

/// Whether the store of this directory has ever begun: if it is gone since, so are its votes.
pub fn has_begun(dir: &Path) -> io::Result<bool> {
    Ok(read(dir, BEGUN)?.is_some())
}

/// The store of this directory is on the disk.
pub fn keep_begun(dir: &Path) -> io::Result<()> {
    match has_begun(dir)? {
        true => Ok(()),
        false => write(dir, BEGUN, "the store of this directory holds votes: keep all of it\n"),
    }
}

/// Whole or not at all, and durable.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let unfinished = dir.join(format!("{name}.new"));
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(name))?;
    File::open(dir)?.sync_all()?;
    // A directory made just now is durable with its parent.
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

fn damaged(name: &str) -> io::Error {
    io::Error::other(format!("{name} is damaged: restore the directory"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
    fn an_identity_is_drawn_once_and_a_damaged_one_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let drawn = identity(dir.path()).expect("it is drawn");
        assert_eq!(identity(dir.path()).expect("it is there"), drawn);
        fs::write(dir.path().join(IDENTITY), "00").expect("it is written");
        identity(dir.path()).expect_err("it is damaged");
    }

    #[test]
    fn members_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(formed(dir.path()).expect("nothing is wrong"), None);
        let members = [("a:1".to_owned(), [1; 16]), ("b:2".to_owned(), [2; 16])];
        let cluster = Formed { members: members.into() };
        keep_formed(dir.path(), &cluster).expect("it is written");
        assert_eq!(formed(dir.path()).expect("nothing is wrong"), Some(cluster));
        for text in ["", "zz a:1\n", "a:1\n"] {
            fs::write(dir.path().join(MEMBERS), text).expect("it is written");
            formed(dir.path()).expect_err(text);
        }
    }
}
