//! A `.tar.gz` of texts, below one directory.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};

/// The archive while it is written. It is whole once [`finish`](Self::finish) has returned.
pub struct Archive {
    tar: tar::Builder<GzEncoder<File>>,
    directory: String,
    unix_s: u64,
}

impl Archive {
    /// Makes the file, which must not exist. Only its owner may read it: logs have what people said.
    pub fn create(file: &Path, directory: &str, unix_s: u64) -> io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { tar, directory: directory.to_owned(), unix_s })
    }

    /// Adds a text.
    pub fn add(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(self.unix_s);
        let path = format!("{}/{name}", self.directory);
        self.tar.append_data(&mut header, path, text.as_bytes())
    }

    /// Writes the end.
    pub fn finish(self) -> io::Result<()> {
        let mut file = self.tar.into_inner()?.finish()?;
        file.flush()?;
        file.sync_all()
    }
}
