//! The abilities that a system under test must have.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use crate::peers::process::Process;

/// Connections that the workers of a run share, one per worker where there are fewer workers.
pub const CONNECTIONS_MAX: u32 = 8;

/// Why a call brought nothing: its kind, for counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(pub String);

/// One worker's way to acquire and release.
pub trait Locks: Send + 'static {
    /// The knowledge that a release needs.
    type Held: Send;

    /// Waits until `name` is granted.
    fn acquire(&mut self, name: &str) -> impl Future<Output = Result<Self::Held, Failed>> + Send;

    /// Lets go, and waits for the answer.
    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<(), Failed>> + Send;
}

/// The place and the settings with which a system is started.
#[derive(Clone, Debug)]
pub struct Home {
    /// An empty directory, removed at the end.
    pub dir: PathBuf,
    /// The program `sharklock`.
    pub sharklock: PathBuf,
}

/// A system that runs. Dropping it kills its processes.
pub trait Service: Sized {
    /// One worker's client.
    type Locks: Locks;

    /// Starts it, and returns when it serves.
    async fn start(home: &Home) -> anyhow::Result<Self>;

    /// Clients for so many workers, over at most [`CONNECTIONS_MAX`] connections that are spread
    /// over the nodes. With `patience` a call that has no answer for so long is made again, at
    /// another node, if the system's client does not do that by itself.
    async fn workers(
        &self,
        count: u32,
        patience: Option<Duration>,
    ) -> anyhow::Result<Vec<Self::Locks>>;
}

/// A system that outlives its leader.
pub trait Replicated: Service {
    /// The process that leads now.
    async fn leader(&mut self) -> anyhow::Result<&mut Process>;
}

/// A list that begins with its element `first`, for a connection that prefers that node.
pub fn rotated<T: Clone>(all: &[T], first: u32) -> Vec<T> {
    let mut all = all.to_vec();
    let by = first as usize % all.len();
    all.rotate_left(by);
    all
}

/// A directory under `under`, removed when it is dropped: after the service that lives in it.
pub fn home(
    prefix: &str,
    under: &Path,
    sharklock: &Path,
) -> anyhow::Result<(tempfile::TempDir, Home)> {
    let under = std::path::absolute(under)?;
    let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(&under);
    let dir = dir.with_context(|| format!("cannot write {}", under.display()))?;
    let home = Home { dir: dir.path().to_owned(), sharklock: sharklock.to_owned() };
    Ok((dir, home))
}

/// The first line that a program prints when asked for its version.
pub fn version(program: &Path, argument: &str) -> anyhow::Result<String> {
    let missing = |why| anyhow::anyhow!("cannot run {}: {why}", program.display());
    let output = std::process::Command::new(program).arg(argument).output().map_err(missing)?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_prefer_different_nodes() {
        assert_eq!(
            [0, 1, 2, 3].map(|first| rotated(&['a', 'b', 'c'], first)[0]),
            ['a', 'b', 'c', 'a']
        );
        assert_eq!(rotated(&['a', 'b', 'c'], 2), ['c', 'a', 'b']);
    }
}
