//! The files of a master beside its store and its identity. They say with whom it formed a cluster, and
//! are on the disk before anything follows from them.

use std::{collections::BTreeMap, fmt::Write as _, io, path::Path};

use sharklock_multiraft::data_dir;
use sharklock_proto::{ClusterId, Identity};
use sharklock_rangemap::StoreId;

use crate::{formation::Formed, state::Member};

/// The members: one a line, identity and address.
const MEMBERS: &str = "members";
/// The cluster that this master has joined: its id, this one's, and the members of that day.
const JOINED: &str = "joined";
/// There once the master was removed from its cluster.
const REMOVED: &str = "removed";
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

/// A cluster that was there before this master, and took it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This master.
    pub id: StoreId,
    /// All masters as this one was told last, itself included.
    pub members: BTreeMap<StoreId, Member>,
}

/// The cluster that took this directory in, if one did.
pub fn joined(dir: &Path) -> io::Result<Option<Joined>> {
    let Some(text) = data_dir::read(dir, JOINED)? else { return Ok(None) };
    parse_joined(&text).map(Some).ok_or_else(|| damaged(JOINED))
}

fn parse_joined(text: &str) -> Option<Joined> {
    let mut lines = text.lines();
    let (cluster_id, id) = lines.next()?.split_once(' ')?;
    let (cluster_id, id) = (cluster_id.parse().ok()?, StoreId(id.parse().ok()?));
    let member = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let id = StoreId(words.next()?.parse().ok()?);
        let ident = words.next()?.parse().ok()?;
        Some((id, Member { ident, address: words.next()?.to_owned() }))
    };
    let members: BTreeMap<_, _> = lines.map(member).collect::<Option<_>>()?;
    members.contains_key(&id).then_some(Joined { cluster_id, id, members })
}

/// Whether a master's directory belongs to a cluster, so that its master need not wait for others to
/// take it in.
pub fn belongs_to_a_cluster(dir: &Path) -> bool {
    [MEMBERS, JOINED].iter().any(|name| dir.join(name).exists())
}

/// From now on this directory belongs to this cluster, as this master.
pub fn keep_joined(dir: &Path, joined: &Joined) -> io::Result<()> {
    let mut text = format!("{} {}\n", joined.cluster_id, joined.id);
    for (id, Member { ident, address }) in &joined.members {
        let _ = writeln!(text, "{id} {ident} {address}");
    }
    data_dir::write(dir, JOINED, &text)
}

/// Whether the master of this directory was removed from its cluster.
pub fn is_removed(dir: &Path) -> io::Result<bool> {
    Ok(data_dir::read(dir, REMOVED)?.is_some())
}

/// The master of this directory never acts again.
pub fn keep_removed(dir: &Path) -> io::Result<()> {
    data_dir::write(dir, REMOVED, "the master of this directory was removed from its cluster\n")
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
    fn the_cluster_that_was_joined_comes_back_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(joined(dir.path()).expect("nothing is wrong"), None);
        let member = |of: u64| {
            let ident = Identity::from_bytes([of as u8; 16]);
            (StoreId(of), Member { ident, address: format!("m{of}:7720") })
        };
        let (cluster_id, id) = (ClusterId::from_bytes([7; 16]), StoreId(4));
        let cluster = Joined { cluster_id, id, members: [2, 4].map(member).into() };
        keep_joined(dir.path(), &cluster).expect("it is written");
        assert_eq!(joined(dir.path()).expect("nothing is wrong"), Some(cluster.clone()));
        let whole = fs::read_to_string(dir.path().join(JOINED)).expect("it is there");
        let without_me = whole.lines().take(2).collect::<Vec<_>>().join("\n");
        for text in ["", "zz 4\n", "x", &whole.replace(" m4", ""), &without_me] {
            fs::write(dir.path().join(JOINED), text).expect("it is written");
            joined(dir.path()).expect_err(text);
        }
        assert!(!is_removed(dir.path()).expect("nothing is wrong"));
        keep_removed(dir.path()).expect("it is written");
        assert!(is_removed(dir.path()).expect("nothing is wrong"));
    }

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
