//! What is noted beside a mount, so that a kubelet that knows nothing else can undo it: upstream's
//! file.

use crate::checkpoint;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The file.
const FILE: &str = "vol_data.json";

/// A volume that lives longer than pods.
pub const PERSISTENT: &str = "Persistent";
/// A volume that a pod brings along.
pub const EPHEMERAL: &str = "Ephemeral";

/// Which volume of which driver is mounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Record {
    /// The driver.
    pub driver_name: String,
    /// Its name for the volume.
    pub volume_handle: String,
    /// The persistent volume, or the pod's name for its own.
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The VolumeAttachment that there is where the driver attaches.
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    /// How long it lives.
    #[serde(
        rename = "volumeLifecycleMode",
        skip_serializing_if = "String::is_empty"
    )]
    pub lifecycle: String,
}

impl Record {
    /// The record in a folder; none if there is no file. A file that cannot be read is an error:
    /// what is mounted there is not given up.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        checkpoint::load(dir, FILE).map_err(|e| e.source)
    }

    /// Notes it.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        checkpoint::save(dir, FILE, self)
    }

    /// Removes it; none there is fine.
    pub fn remove(dir: &Path) -> io::Result<()> {
        gone(std::fs::remove_file(dir.join(FILE)))
    }

    /// Whether pods may come and go while the volume stays.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.lifecycle != EPHEMERAL
    }
}

/// What is not there need not be removed.
pub fn gone(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_upstreams() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), None);
        let text = r#"{"attachmentID":"csi-1","driverName":"d","nodeName":"n","specVolID":"pv",
            "volumeHandle":"h","volumeLifecycleMode":"Persistent"}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let read = Record::load(dir.path()).unwrap().unwrap();
        assert_eq!(
            (read.name.as_str(), read.attachment.as_str()),
            ("pv", "csi-1")
        );
        assert!(read.is_persistent());
        read.save(dir.path()).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), Some(read));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Record::load(dir.path()).is_err());
        Record::remove(dir.path()).unwrap();
        Record::remove(dir.path()).unwrap();
    }
}
