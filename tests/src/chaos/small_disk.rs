//! The disk of the data server that may be full: a file system of its own.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::program::{MachineFault, run};

/// Above what a server keeps free for snapshots.
const SIZE_MIB: usize = 600;

/// Mounts one at this directory, which is made. The list of mounts then has it under the project's name.
///
/// # Errors
/// When the machine does not do it.
pub async fn mount(project: &str, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let place = directory.to_string_lossy();
    let size = format!("size={SIZE_MIB}m");
    run("mount", ["-t", "tmpfs", "-o", &size, project, &place]).await.map(|_| ())
}

/// Takes all the space of a project's disk at this directory.
///
/// # Errors
/// When no such disk is mounted there, or it has space left afterwards.
pub async fn fill(project: &str, directory: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    if !mounted_as(project, &mounts).iter().any(|place| Path::new(place) == directory) {
        // It would be the disk of this machine.
        let what = format!("no small disk is mounted at {}", directory.display());
        return Err(MachineFault::new(what).into());
    }
    let ballast = ballast_of(directory);
    tokio::task::spawn_blocking(move || write_until_full(&ballast)).await?
}

/// Gives the space back that [`fill`] took, if it did.
///
/// # Errors
/// When the file cannot be removed.
pub fn relieve(directory: &Path) -> Result<()> {
    match std::fs::remove_file(ballast_of(directory)) {
        Err(why) if why.kind() != ErrorKind::NotFound => Err(why.into()),
        _ => Ok(()),
    }
}

fn ballast_of(directory: &Path) -> PathBuf {
    directory.join("ballast")
}

fn write_until_full(path: &Path) -> Result<()> {
    let (mut file, block) = (File::create(path)?, vec![0; 1 << 20]);
    for _ in 0..SIZE_MIB {
        match file.write_all(&block) {
            Err(why) if why.kind() == ErrorKind::StorageFull => return Ok(()),
            written => written?,
        }
    }
    // The server has a file there at least.
    Err(MachineFault::new(format!("{} took {SIZE_MIB} MiB and is not full", path.display())).into())
}

/// Unmounts all of a project: also what an older run has left, wherever it had its directory.
///
/// # Errors
/// When one is still in use.
pub async fn unmount_all(project: &str) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    for place in mounted_as(project, &mounts) {
        run("umount", [place]).await?;
    }
    Ok(())
}

/// The places at which something with this source is mounted, by the list of the kernel.
fn mounted_as(source: &str, mounts: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let (from, rest) = line.split_once(' ')?;
        let place = rest.split(' ').next()?;
        (from == source).then(|| place.replace("\\040", " "))
    };
    mounts.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_without_the_disk_is_not_filled() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let why = fill("no-such-project", dir.path()).await.expect_err("nothing is mounted there");
        assert!(MachineFault::is_in(&why), "{why:#}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is ours").count(), 0);
        relieve(dir.path()).expect("there is nothing to relieve");
    }

    #[test]
    fn disks_of_older_runs_are_found_by_their_source() {
        let mounts = "tmpfs /run tmpfs rw 0 0\n\
                      sharklock-chaos /a/small-disk tmpfs rw,size=614400k 0 0\n\
                      sharklock-chaos-2 /b tmpfs rw 0 0\n\
                      sharklock-chaos /c\\040d/small-disk tmpfs rw 0 0\n";
        let found = mounted_as("sharklock-chaos", mounts);
        assert_eq!(found, ["/a/small-disk", "/c d/small-disk"]);
    }
}
