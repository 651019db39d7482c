//! What a run says while it goes on: on standard output, and with the time of the day in `run.log`.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;

/// The file of a run's diary, in its directory.
pub const FILE: &str = "run.log";

/// The diary of a run.
#[derive(Debug)]
pub struct Diary {
    file: File,
}

impl Diary {
    /// Begins one in the directory of the run.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn begin(dir: &Path) -> Result<Self> {
        Ok(Self { file: File::create(dir.join(FILE))? })
    }

    /// Says a line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn say(&mut self, line: &str) -> Result<()> {
        println!("{line}");
        writeln!(self.file, "{} {line}", rfc3339(wall_clock()))?;
        Ok(())
    }
}

/// The time of the day, by which containers' logs are dated.
#[expect(
    clippy::disallowed_methods,
    reason = "an edge of its own, which only tells people the time"
)]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// A moment as it stands in containers' logs: UTC, to the millisecond.
pub fn rfc3339(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}
