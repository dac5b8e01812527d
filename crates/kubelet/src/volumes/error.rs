//! Why a volume could not be made, and the folders that all have.

use crate::objects;
use std::io;
use std::path::{Path, PathBuf};

/// A volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object is missing or cannot be read.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {source}")]
    Object {
        /// Name of the volume.
        volume: String,
        /// Why.
        source: objects::Error,
    },
    /// Something else about one volume.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {text}")]
    Volume {
        /// Name of the volume.
        volume: String,
        /// Why.
        text: String,
    },
    /// A claim of the pod cannot be used, or what it is bound to.
    #[error("{text}")]
    Claim {
        /// Why.
        text: String,
    },
    /// A driver does not take a volume back.
    #[error("{}: {source}", dir.display())]
    Release {
        /// The volume's folder.
        dir: PathBuf,
        /// Why.
        source: Box<crate::csi::Error>,
    },
    /// The machine refused.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Makes a folder, and those above it that are missing, for the kubelet and its group alone:
/// no other user of the machine may look into pods. Upstream's permissions.
pub fn private_folder(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut folder = std::fs::DirBuilder::new();
    folder.recursive(true).mode(0o750).create(dir)
}

/// The folder of a volume, which the users of containers may look into, in private ones.
pub fn open_folder(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        private_folder(parent)?;
    }
    match std::fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}
