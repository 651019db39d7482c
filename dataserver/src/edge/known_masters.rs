//! The masters of today, as a store was told last: on its disk, so that it finds them after a restart also
//! where none of those that its configuration names is left.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use sharklock_multiraft::data_dir;
use sharklock_transport::Masters;

/// The file: one address a line.
const NAME: &str = "masters";

/// The masters that the store of this directory was told of last, none if it never was. A gateway of the
/// same process, which keeps nothing itself, begins with them, too.
pub fn known_masters(dir: &Path) -> Vec<String> {
    match data_dir::read(dir, NAME) {
        Ok(text) => text.unwrap_or_default().lines().map(str::to_owned).collect(),
        Err(why) => {
            tracing::warn!(%why, "the file of known masters cannot be read: it is done without");
            Vec::new()
        }
    }
}

/// The file of a store, and what it says now.
#[derive(Debug)]
pub struct KnownMasters {
    dir: PathBuf,
    kept: Mutex<Vec<String>>,
}

impl KnownMasters {
    /// Of the store of this directory.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), kept: Mutex::new(known_masters(dir)) }
    }

    /// These are the masters, by the word of the leading one; one of an older program says nothing of it.
    pub async fn are(&self, masters: &Masters, today: &[String]) {
        if today.is_empty() {
            return;
        }
        masters.learn(today);
        if *self.kept() == today {
            return;
        }
        let (dir, list) = (self.dir.clone(), today.to_vec());
        let written = tokio::task::spawn_blocking(move || write(&dir, &list)).await;
        match written.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            Ok(()) => *self.kept() = today.to_vec(),
            // It is told again with the next heartbeat.
            Err(why) => tracing::warn!(%why, "the masters of today cannot be written down"),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<String>> {
        // A panic aborts the process; should a test catch one, the list is whole all the same.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(dir: &Path, masters: &[String]) -> io::Result<()> {
    let line = |address: &String| format!("{address}\n");
    data_dir::write(dir, NAME, &masters.iter().map(line).collect::<String>())
}

#[cfg(test)]
mod tests {
    use sharklock_transport::Dialling;

    use super::*;

    fn new_masters() -> Masters {
        let seeds = vec!["127.0.0.1:1".to_owned()];
        Masters::new(seeds, Dialling::default()).expect("an address")
    }

    #[tokio::test]
    async fn what_was_told_is_there_after_a_restart_and_nothing_is_no_news() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let masters = new_masters();
        let known = KnownMasters::of(dir.path());
        assert_eq!(known_masters(dir.path()), Vec::<String>::new());
        let today = ["127.0.0.1:2".to_owned(), "127.0.0.1:3".to_owned()];
        known.are(&masters, &today).await;
        known.are(&masters, &[]).await;
        assert_eq!(known_masters(dir.path()), today);
        let order = ["127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:1"];
        assert_eq!(masters.addresses(), order);
        // The next life is told the same, and begins with its configuration.
        let (masters, known) = (new_masters(), KnownMasters::of(dir.path()));
        known.are(&masters, &today).await;
        assert_eq!(masters.addresses(), order);
    }
}
