//! The files of a master beside its store and its identity. They say with whom it formed a cluster, and
//! are on the disk before anything follows from them.

use std::{collections::BTreeMap, io, path::Path};

use sharklock_multiraft::data_dir;
use sharklock_proto::Identity;

use crate::formation::Formed;

/// The members: one a line, identity and address.
const MEMBERS: &str = "members";
/// There once the store has begun.
const BEGUN: &str = "begun";

/// The cluster that this directory belongs to, if it does.
pub fn formed(dir: &Path) -> io::Result<Option<Formed>> {
    let Some(text) = data_dir::read(dir, MEMBERS)? else { return Ok(None) };
    let member = |line: &str| {
        let (ident, address) = line.split_once(' ')?;
        Some((address.to_owned(), ident.parse().ok()?))
    };
    let members: Option<BTreeMap<_, _>> = text.lines().map(member).collect();
    match members.filter(|members| !members.is_empty()) {
        Some(members) => Ok(Some(Formed { members })),
        None => Err(damaged(MEMBERS)),
    }
}

/// From now on this directory belongs to this cluster.
pub fn keep_formed(dir: &Path, formed: &Formed) -> io::Result<()> {
    let line = |(address, ident): (&String, &Identity)| format!("{ident} {address}\n");
    data_dir::write(dir, MEMBERS, &formed.members.iter().map(line).collect::<String>())
}

/// Whether the store of this directory has ever begun: if it is gone since, so are its votes.
pub fn has_begun(dir: &Path) -> io::Result<bool> {
    Ok(data_dir::read(dir, BEGUN)?.is_some())
}

/// The store of this directory is on the disk.
pub fn keep_begun(dir: &Path) -> io::Result<()> {
    match has_begun(dir)? {
        true => Ok(()),
        false => {
            data_dir::write(dir, BEGUN, "the store of this directory holds votes: keep all of it\n")
        }
    }
}

fn damaged(name: &str) -> io::Error {
    io::Error::other(format!("{name} is damaged: restore the directory"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn members_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(formed(dir.path()).expect("nothing is wrong"), None);
        let members = [("a:1".to_owned(), 1), ("b:2".to_owned(), 2)];
        let cluster = Formed {
            members: members.map(|(at, ident)| (at, Identity::from_bytes([ident; 16]))).into(),
        };
        keep_formed(dir.path(), &cluster).expect("it is written");
        assert_eq!(formed(dir.path()).expect("nothing is wrong"), Some(cluster));
        for text in ["", "zz a:1\n", "a:1\n"] {
            fs::write(dir.path().join(MEMBERS), text).expect("it is written");
            formed(dir.path()).expect_err(text);
        }
    }
}
