//! Watches how much room the disk has that a store's directory is on.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::edge::board::Board;

/// How often it looks. Snapshots come in at the rate that the settings say, so a disk does not fill
/// up unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells the board once, before there is anything that would not know it.
pub fn look(dir: &Path, board: &Board) {
    board.set_disk_free(free_bytes(dir));
}

/// Tells the board, until `stopping`. A disk that does not answer leaves the last word.
pub async fn watch(dir: PathBuf, board: Arc<Board>, stopping: CancellationToken) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut is_silent = false;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let dir = dir.clone();
        // The system may ask the disk itself.
        let looking = tokio::task::spawn_blocking(move || free_bytes(&dir));
        let free = tokio::select! {
            free = looking => free.ok().flatten(),
            () = stopping.cancelled() => return,
        };
        if free.is_none() && !std::mem::replace(&mut is_silent, true) {
            tracing::warn!("nobody says how much room the disk has: snapshots are taken in anyway");
        }
        board.set_disk_free(free);
    }
}

/// Bytes that this process may still write; `None`: the system does not say.
fn free_bytes(dir: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(dir).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_room_and_one_that_is_not_there_has_no_answer() {
        let free = free_bytes(&std::env::temp_dir()).expect("it is there");
        assert!((1..1 << 60).contains(&free), "{free}");
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")), None);
    }
}
