//! What can go wrong when a cluster is brought up.

use std::io;
use std::path::Path;

use crate::bridge::BridgeError;
use crate::process::ProcessError;

/// Why a cluster does not come up.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("another `tiphys up` runs on {0}")]
    Busy(String),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Bridge(#[from] BridgeError),
    #[error("netlink: {0}")]
    Netlink(String),
    #[error("keys of the cluster: {0}")]
    Keys(#[from] wire::pki::PkiError),
    #[error("{0}")]
    Config(String),
}

/// The error of what was done with a file.
pub(super) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> UpError + '_ {
    move |source| UpError::File {
        path: path.display().to_string(),
        source,
    }
}
