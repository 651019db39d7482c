//! Directories that survive a loss of power.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Makes a directory, with all above it that are missing, and makes the names of all of them durable:
/// a directory is on the disk once the one above it was synced, whoever has made it and when. Above a
/// mount point nothing is this file system's.
pub fn make(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let path = path.canonicalize()?;
    let device = fs::metadata(&path)?.dev();
    let same = |above: &&Path| fs::metadata(above).is_ok_and(|above| above.dev() == device);
    for above in path.ancestors().take_while(same) {
        match File::open(above) {
            Ok(directory) => directory.sync_all()?,
            // A process that may not look into a directory has made nothing there.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
