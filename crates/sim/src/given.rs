//! What is given to one alone: volumes to claims, devices to claims of them; and that a namespace which
//! has gone leaves nothing. Judged by what is stored alone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::values::text;

/// Volumes that claims have, by the claims' keys: their UIDs and their volumes.
#[derive(Default)]
pub(crate) struct Volumes(BTreeMap<String, (String, String)>);

impl Volumes {
    /// Takes a claim in; none when it is deleted. What is wrong with it.
    pub fn note(&mut self, key: &str, claim: Option<&Value>) -> Option<String> {
        let Some(claim) = claim else {
            self.0.remove(key);
            return None;
        };
        let uid = text(claim, "/metadata/uid").to_owned();
        let volume = text(claim, "/spec/volumeName").to_owned();
        let old = self.0.insert(key.to_owned(), (uid.clone(), volume.clone()));
        if let Some((before, had)) = old
            && before == uid
            && !had.is_empty()
            && had != volume
        {
            return Some(format!("its volume was {had:?} and is {volume:?}"));
        }
        // Two may ask for one by its name; only one of them gets it.
        if text(claim, "/status/phase") != "Bound" {
            return None;
        }
        let mut others = self.0.iter().filter(|(k, _)| *k != key);
        let other = others.find(|(_, (_, theirs))| !volume.is_empty() && *theirs == volume);
        other.map(|(other, _)| format!("volume {volume:?} is that of {other}, too"))
    }
}

/// Devices that claims have, by the claims' keys.
#[derive(Default)]
pub(crate) struct Devices(BTreeMap<String, BTreeSet<String>>);

impl Devices {
    /// Takes a claim of devices in; none when it is deleted. What is wrong with it.
    pub fn note(&mut self, key: &str, claim: Option<&Value>) -> Option<String> {
        self.0.remove(key);
        let results = claim?.pointer("/status/allocation/devices/results");
        let results = results.and_then(Value::as_array).into_iter().flatten();
        let alone = results.filter(|r| r["adminAccess"] != true);
        let own: BTreeSet<String> = alone
            .map(|r| {
                let part = |field: &str| r[field].as_str().unwrap_or_default().to_owned();
                [part("driver"), part("pool"), part("device")].join("/")
            })
            .collect();
        let mut others = self.0.iter();
        let wrong = others.find_map(|(other, theirs)| {
            let both = own.intersection(theirs).next()?;
            Some(format!("device {both} is that of {other}, too"))
        });
        self.0.insert(key.to_owned(), own);
        wrong
    }
}

/// All keys that are there.
#[derive(Default)]
pub(crate) struct Keys(BTreeSet<String>);

const NAMESPACES: &str = "/registry/namespaces/";

impl Keys {
    /// Takes a change of a key in. What a namespace that goes leaves.
    pub fn note(&mut self, key: &str, is_there: bool) -> Option<String> {
        if is_there {
            if !self.0.contains(key) {
                self.0.insert(key.to_owned());
            }
            return None;
        }
        self.0.remove(key);
        let gone = key.strip_prefix(NAMESPACES)?;
        let within = |key: &&String| key.rsplit('/').nth(1) == Some(gone);
        // Events go by themselves, in their time.
        let mut left = self.0.iter().filter(within);
        let left = left.find(|key| !key.starts_with("/registry/events/"))?;
        Some(format!("{left} is left of it"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_volume_is_of_one_claim() {
        let mut volumes = Volumes::default();
        let claim = |uid: &str, volume: &str, phase: &str| {
            json!({ "metadata": { "uid": uid }, "spec": { "volumeName": volume },
                "status": { "phase": phase } })
        };
        assert_eq!(volumes.note("a", Some(&claim("a", "", "Pending"))), None);
        assert_eq!(volumes.note("a", Some(&claim("a", "v", "Bound"))), None);
        assert_eq!(volumes.note("b", Some(&claim("b", "v", "Pending"))), None);
        assert!(volumes.note("b", Some(&claim("b", "v", "Bound"))).is_some());
        assert!(volumes.note("a", Some(&claim("a", "w", "Bound"))).is_some());
        volumes.note("b", None);
        // Another claim of its name.
        assert_eq!(volumes.note("a", Some(&claim("c", "v", "Bound"))), None);
    }

    #[test]
    fn a_device_is_of_one_claim() {
        let mut devices = Devices::default();
        let claim = |device: &str, admin: bool| {
            json!({ "status": { "allocation": { "devices": { "results": [{ "driver": "d",
                "pool": "p", "device": device, "adminAccess": admin }] } } } })
        };
        assert_eq!(devices.note("a", Some(&claim("x", false))), None);
        assert_eq!(devices.note("b", Some(&claim("y", false))), None);
        assert_eq!(devices.note("c", Some(&claim("x", true))), None);
        assert!(devices.note("d", Some(&claim("x", false))).is_some());
        devices.note("a", None);
        assert_eq!(devices.note("d", Some(&claim("x", false))), None);
    }

    #[test]
    fn a_namespace_leaves_nothing() {
        let mut keys = Keys::default();
        for key in [
            "/registry/namespaces/team",
            "/registry/pods/team/a",
            "/registry/pods/other/team",
            "/registry/events/team/e",
        ] {
            assert_eq!(keys.note(key, true), None);
        }
        assert!(keys.note("/registry/namespaces/team", false).is_some());
        assert_eq!(keys.note("/registry/pods/team/a", false), None);
        assert_eq!(keys.note("/registry/namespaces/team", false), None);
    }
}
