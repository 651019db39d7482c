//! File systems of their own, on loop devices, that can be cut off from their disks as by a loss of
//! power.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::ioctl::{Setter, ioctl, opcode};
use tempfile::TempDir;

use crate::wait::eventually;

/// Enough for a node's logs and for the least that xfs wants.
const BYTES: u64 = 640 << 20;

/// Ext4's `EXT4_IOC_SHUTDOWN`, which is xfs's `XFS_IOC_GOINGDOWN`: their own tests cut power with it.
const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
/// The journal is not written out before.
const WITHOUT_A_FLUSH: u32 = 2;

/// A file system that can be cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ext4.
    Ext4,
    /// Xfs.
    Xfs,
}

impl Kind {
    fn make(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub struct FileSystem {
    dir: TempDir,
    mounted: bool,
}

impl FileSystem {
    /// A fresh one.
    ///
    /// # Errors
    /// The lack of this machine: root, loop devices, the file system or its tools.
    pub fn make(kind: Kind) -> Result<Self, String> {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let mut made = Self { dir, mounted: false };
        let image = File::create(made.image()).expect("the directory is ours");
        image.set_len(BYTES).expect("it takes no space");
        std::fs::create_dir(made.path()).expect("the directory is ours");
        run(Command::new(kind.make()).arg("-q").arg(made.image()))?;
        made.mount()?;
        Ok(made)
    }

    /// The path at which it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// From now on nothing reaches its disk any more.
    ///
    /// # Panics
    /// When the file system refuses.
    #[expect(unsafe_code, reason = "no safe call has this ioctl; it takes the address of a number")]
    pub fn cut(&self) {
        let root = File::open(self.path()).expect("it is mounted");
        // SAFETY: the kernel reads one u32 at the address that it is given, as the opcode says.
        let cut = unsafe { ioctl(&root, Setter::<SHUTDOWN, u32>::new(WITHOUT_A_FLUSH)) };
        cut.expect("ext4 and xfs can be shut down");
    }

    /// The machine comes up again: what is on the disk, without all that the kernel remembered. Whoever
    /// used it must be gone.
    ///
    /// # Panics
    /// When somebody still uses it.
    pub async fn remount(&mut self) {
        let unmount = async || run(Command::new("umount").arg(self.path())).ok();
        eventually("the end of the last process on it", Duration::from_secs(20), unmount).await;
        self.mounted = false;
        self.mount().unwrap_or_else(|why| panic!("{why}"));
    }

    fn mount(&mut self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).args([self.image(), self.path()]))?;
        self.mounted = true;
        Ok(())
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.mounted {
            // A process that still uses it keeps it, out of everybody's sight.
            drop(run(Command::new("umount").arg("--lazy").arg(Path::new(&self.path()))));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{command:?}: {}: {said}", output.status))
}
