//! Which claims are prepared on this node, and for which pods: a file for each, since nobody else
//! knows it. It is written before a driver is asked, so that whatever was prepared is given back,
//! by whichever kubelet.

use crate::checkpoint;
use crate::folder::{entries, name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// A device of a claim, as its driver prepared it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// The claim's requests that it is for; none: for all.
    pub requests: Vec<String>,
    /// Its pool.
    pub pool: String,
    /// Its name there.
    pub device: String,
    /// Which part of a device that several claims share.
    pub share: Option<String>,
    /// What the runtime gives to containers, by names of CDI.
    pub cdi: Vec<String>,
}

impl Device {
    /// Whether it is for a request of the claim; an empty one means all.
    #[must_use]
    pub fn is_for(&self, request: &str) -> bool {
        // Of a request with alternatives only the request itself is noted.
        let base = request.split('/').next().unwrap_or_default();
        base.is_empty() || self.requests.is_empty() || self.requests.iter().any(|r| r == base)
    }
}

/// A claim that is prepared here, or is about to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// UIDs of the pods that use it here.
    pub pods: BTreeSet<String>,
    /// Its devices, by driver.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// This kubelet has heard of all drivers that it is prepared.
    #[serde(skip)]
    pub prepared: bool,
}

impl Claim {
    fn file(uid: &str) -> Option<String> {
        // A UID is not a path.
        let plain = !uid.is_empty() && !uid.starts_with('.') && !uid.contains('/');
        plain.then(|| format!("{uid}.json"))
    }

    /// Notes it.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the claim's UID cannot be a file's name",
            )
        };
        let file = Self::file(&self.uid).ok_or_else(bad)?;
        crate::volumes::error::private_folder(folder)?;
        checkpoint::save(folder, &file, self)
    }

    /// Forgets it; none there is fine.
    pub(super) fn remove(folder: &Path, uid: &str) -> io::Result<()> {
        let file = Self::file(uid).map(|name| folder.join(name));
        match file.map(std::fs::remove_file) {
            Some(Err(e)) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// What earlier kubelets noted, by UID. A file that is damaged is an error of the log: nobody knows
/// whose it is.
pub(super) fn load(folder: &Path) -> BTreeMap<String, Claim> {
    let entries = entries(folder).unwrap_or_else(|error| {
        tracing::error!(folder = %folder.display(), %error, "prepared claims cannot be read");
        Vec::new()
    });
    let mut out = BTreeMap::new();
    for entry in entries {
        let name = name(&entry);
        if checkpoint::is_beside(&name) || !name.ends_with(".json") {
            continue;
        }
        match checkpoint::load::<Claim>(folder, &name) {
            Ok(claim) => out.extend(claim.map(|c| (c.uid.clone(), c))),
            Err(error) => tracing::error!(%error, "a prepared claim cannot be read"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_outlives_a_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        let device = Device {
            requests: vec!["r".into()],
            cdi: vec!["v/c=d".into()],
            ..Device::default()
        };
        assert!(device.is_for("") && device.is_for("r") && device.is_for("r/first"));
        assert!(!device.is_for("other"));
        let claim = Claim {
            uid: "u".into(),
            pods: ["p".to_owned()].into(),
            drivers: [("d".to_owned(), vec![device])].into(),
            prepared: true,
            ..Claim::default()
        };
        claim.save(dir.path()).unwrap();
        std::fs::write(dir.path().join("broken.json"), "{").unwrap();
        let read = load(dir.path());
        // Whether it is still prepared must be asked.
        let expected = Claim {
            prepared: false,
            ..claim.clone()
        };
        assert_eq!(read, [("u".to_owned(), expected)].into());
        Claim::remove(dir.path(), "u").unwrap();
        Claim::remove(dir.path(), "u").unwrap();
        assert!(load(dir.path()).is_empty());
        let escape = Claim {
            uid: "../u".into(),
            ..Claim::default()
        };
        assert!(escape.save(dir.path()).is_err());
    }
}
