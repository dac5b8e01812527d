//! Why something could not be done with a volume of a driver.

use super::driver::CallError;
use std::io;
use std::path::{Path, PathBuf};

/// It could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver is not there, or not yet.
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NotRegistered(String),
    /// The driver refused, or did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The API refused, or did not answer.
    #[error("{what}: {text}")]
    Api {
        /// What was attempted.
        what: &'static str,
        /// Why not.
        text: String,
    },
    /// The driver has no such volumes.
    #[error("{0}")]
    Mode(String),
    /// A secret is missing or cannot be read.
    #[error("fetching {reference} {namespace}/{name} failed: {source}")]
    Secret {
        /// Which field names it.
        reference: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<crate::objects::Error>,
    },
    /// The volume is not attached to this node.
    #[error("{0}")]
    NotAttached(String),
    /// It cannot be: the node has as many volumes of the driver as it can have.
    #[error("{0}")]
    TooManyAttached(String),
    /// The machine refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn api(what: &'static str, e: &kube::Error) -> Self {
        let text = client::said(e);
        Self::Api { what, text }
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_path_buf(),
        source,
    }
}
