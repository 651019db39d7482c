//! The faults of a state file.

use std::path::PathBuf;

use crate::{cluster::ClusterId, error::AcquireError};

/// Why a state file cannot be used. It is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateFileError {
    /// Another process, or another client of this one, uses it.
    #[error("state file {path:?} is in use by another client: end that one, or name another file")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or write it, and it has the session's secret.
    #[error("state file {path:?} has mode {mode:04o}, and has a secret: chmod 600 it")]
    WiderMode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is of another cluster than the client was told.
    #[error(
        "state file {path:?} is of cluster {theirs}, and this client of {ours}: name another file, or \
         the cluster that is meant"
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Its cluster.
        theirs: ClusterId,
        /// The client's.
        ours: ClusterId,
    },
    /// It is torn, damaged, of another version or not ours.
    #[error("state file {path:?} {why}")]
    Fault {
        /// The file.
        path: PathBuf,
        /// The fault, and what to do.
        why: String,
    },
    /// The operating system refused.
    #[error("state file {path:?}: {doing}: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's words.
        why: String,
    },
}

impl From<StateFileError> for AcquireError {
    /// A hold that is to stay and is not in the file would be nobody's after a crash.
    fn from(error: StateFileError) -> Self {
        Self::Failed { reason: "STATE_FILE".to_owned(), message: error.to_string() }
    }
}
