//! The disk of the data server that may be full: a file system of its own.

use std::path::Path;

use anyhow::Result;

use super::program::run;

/// Above what a server keeps free for snapshots.
const SIZE: &str = "size=600m";

/// Mounts one at this directory, which is made. The list of mounts then has it under the project's name.
///
/// # Errors
/// When the machine does not do it.
pub async fn mount(project: &str, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let place = directory.to_string_lossy();
    run("mount", ["-t", "tmpfs", "-o", SIZE, project, &place]).await.map(|_| ())
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
