//! What is asked of a driver for a volume, in its words. Pure.

use super::driver::Abilities;
use super::record::{EPHEMERAL, PERSISTENT};
use crate::pod::spec;
use host::plugins::csi::VolumeCapability;
use host::plugins::csi::volume_capability::access_mode::Mode;
use host::plugins::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use k8s_openapi::api::core::v1::{PersistentVolume, Pod, SecretReference, Volume};
use k8s_openapi::api::storage::v1::CSIDriverSpec;
use std::collections::{BTreeMap, HashMap};

/// A secret by namespace and name.
pub type Reference = (String, String);

/// A volume that a pod is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsiVolume {
    /// The persistent volume, or the pod's name for its own.
    pub name: String,
    /// The driver.
    pub driver: String,
    /// The driver's name for the volume.
    pub handle: String,
    /// What the driver hears of it.
    pub attributes: BTreeMap<String, String>,
    /// The file system; empty: as the driver likes.
    pub fs_type: String,
    /// Options of the mount.
    pub mount_options: Vec<String>,
    /// As in the persistent volume.
    pub access_modes: Vec<String>,
    /// Nobody in the pod writes it.
    pub read_only: bool,
    /// It is a block device.
    pub block: bool,
    /// It comes and goes with the pod.
    pub ephemeral: bool,
    /// For publishing.
    pub publish_secret: Option<Reference>,
    /// For staging.
    pub stage_secret: Option<Reference>,
    /// For growing.
    pub expand_secret: Option<Reference>,
}

impl CsiVolume {
    /// A persistent volume, if it is a driver's.
    #[must_use]
    pub fn of_volume(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        let secret = |reference: &Option<SecretReference>| {
            let reference = reference.as_ref()?;
            Some((reference.namespace.clone()?, reference.name.clone()?))
        };
        Some(Self {
            name: volume.metadata.name.clone().unwrap_or_default(),
            driver: csi.driver.clone(),
            handle: csi.volume_handle.clone(),
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            mount_options: spec.mount_options.clone().unwrap_or_default(),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            read_only,
            block: spec.volume_mode.as_deref() == Some("Block"),
            ephemeral: false,
            publish_secret: secret(&csi.node_publish_secret_ref),
            stage_secret: secret(&csi.node_stage_secret_ref),
            expand_secret: secret(&csi.node_expand_secret_ref),
        })
    }

    /// A volume that a pod brings along, if it is a driver's.
    #[must_use]
    pub fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let csi = volume.csi.as_ref()?;
        let secret = csi.node_publish_secret_ref.as_ref();
        Some(Self {
            name: volume.name.clone(),
            driver: csi.driver.clone(),
            handle: api::csi::inline_handle(spec::uid(pod), &volume.name),
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            read_only: csi.read_only == Some(true),
            ephemeral: true,
            publish_secret: secret.map(|s| (spec::namespace(pod).to_owned(), s.name.clone())),
            ..Self::default()
        })
    }

    /// How long it lives, in the API's word.
    #[must_use]
    pub fn lifecycle(&self) -> &'static str {
        if self.ephemeral {
            EPHEMERAL
        } else {
            PERSISTENT
        }
    }

    /// Whether the driver has volumes of this kind; without an object of its own only lasting ones.
    pub fn is_supported(&self, driver: Option<&CSIDriverSpec>) -> Result<(), String> {
        let (mode, name) = (self.lifecycle(), &self.driver);
        let Some(driver) = driver else {
            return if self.ephemeral {
                Err(format!(
                    "volume mode {mode:?} not supported by driver {name} (no CSIDriver object)"
                ))
            } else {
                Ok(())
            };
        };
        let modes = driver.volume_lifecycle_modes.as_deref().unwrap_or_default();
        // What the API has defaulted; an object may be older than that.
        if modes.iter().any(|m| m == mode) || modes.is_empty() && !self.ephemeral {
            return Ok(());
        }
        Err(format!(
            "volume mode {mode:?} not supported by driver {name} (only supports {modes:?})"
        ))
    }

    /// Whether it must be attached to the node before.
    #[must_use]
    pub fn is_attached(&self, driver: Option<&CSIDriverSpec>) -> bool {
        !self.ephemeral && driver.and_then(|d| d.attach_required) != Some(false)
    }

    /// How the volume is to be accessed; `group`: who gets it, where the driver does that.
    #[must_use]
    pub fn capability(&self, can: Abilities, group: Option<u32>) -> VolumeCapability {
        let first = self.access_modes.first().map(String::as_str);
        let mode = match (first.unwrap_or("ReadWriteOnce"), can.several_writers) {
            ("ReadWriteOnce", true) => Mode::SingleNodeMultiWriter,
            ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
            ("ReadWriteOnce" | "ReadWriteOncePod", false) => Mode::SingleNodeWriter,
            ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
            _ => Mode::Unknown,
        };
        let access = if self.block {
            AccessType::Block(BlockVolume {})
        } else {
            let group = group.filter(|_| can.mount_group);
            AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group.map(|g| g.to_string()).unwrap_or_default(),
            })
        };
        VolumeCapability {
            access_type: Some(access),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    /// Whether the node gives the volume's files to the pod's group.
    #[must_use]
    pub fn is_given_to_group(&self, driver: Option<&CSIDriverSpec>, can: Abilities) -> bool {
        if self.read_only || self.block || can.mount_group {
            return false;
        }
        match driver.and_then(|d| d.fs_group_policy.as_deref()) {
            Some("File") => true,
            Some("None") => false,
            _ => {
                let once = |m: &String| m == "ReadWriteOnce" || m == "ReadWriteOncePod";
                !self.fs_type.is_empty() && (self.ephemeral || self.access_modes.iter().any(once))
            }
        }
    }

    /// What the driver hears of the volume when it is published to a pod.
    #[must_use]
    pub fn context(&self, pod: &Pod, driver: Option<&CSIDriverSpec>) -> HashMap<String, String> {
        let mut out: HashMap<String, String> = self.attributes.clone().into_iter().collect();
        if driver.and_then(|d| d.pod_info_on_mount) != Some(true) {
            return out;
        }
        let account = spec::of(pod).service_account_name.clone();
        for (key, value) in [
            ("pod.name", spec::name(pod).to_owned()),
            ("pod.namespace", spec::namespace(pod).to_owned()),
            ("pod.uid", spec::uid(pod).to_owned()),
            ("serviceAccount.name", account.unwrap_or_default()),
            ("ephemeral", self.ephemeral.to_string()),
        ] {
            out.insert(format!("csi.storage.k8s.io/{key}"), value);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn driver(spec: Value) -> CSIDriverSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn volume(more: Value) -> CsiVolume {
        let mut volume = json!({ "metadata": { "name": "pv" }, "spec": {
            "accessModes": ["ReadWriteOnce"], "mountOptions": ["noatime"],
            "csi": { "driver": "d", "volumeHandle": "h", "fsType": "ext4",
                "volumeAttributes": { "a": "b" },
                "nodeStageSecretRef": { "namespace": "x", "name": "s" } } } });
        for (key, value) in more.as_object().unwrap() {
            volume["spec"][key] = value.clone();
        }
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        CsiVolume::of_volume(&volume, false).unwrap()
    }

    fn pod() -> Pod {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u" },
            "spec": { "serviceAccountName": "sa", "containers": [], "volumes": [
                { "name": "v", "csi": { "driver": "d", "readOnly": true,
                    "nodePublishSecretRef": { "name": "s" } } }] } });
        serde_json::from_value(pod).unwrap()
    }

    fn inline() -> CsiVolume {
        let pod = pod();
        CsiVolume::inline(&pod, &spec::of(&pod).volumes.as_ref().unwrap()[0]).unwrap()
    }

    #[test]
    fn volumes_are_read() {
        let lasting = volume(json!({}));
        assert_eq!(lasting.stage_secret, Some(("x".into(), "s".into())));
        assert_eq!((lasting.lifecycle(), lasting.block), (PERSISTENT, false));
        assert!(volume(json!({ "volumeMode": "Block" })).block);
        let own = inline();
        assert_eq!(own.publish_secret, Some(("a".into(), "s".into())));
        assert_eq!(own.handle, api::csi::inline_handle("u", "v"));
        assert!(own.read_only && own.ephemeral);
    }

    #[test]
    fn a_driver_says_which_volumes_it_has() {
        let both = driver(json!({ "volumeLifecycleModes": ["Persistent", "Ephemeral"] }));
        let one = driver(json!({ "volumeLifecycleModes": ["Persistent"] }));
        assert!(inline().is_supported(Some(&both)).is_ok());
        assert!(inline().is_supported(Some(&one)).is_err());
        assert!(inline().is_supported(None).is_err());
        assert!(volume(json!({})).is_supported(None).is_ok());
    }

    #[test]
    fn what_must_be_attached_first() {
        let without = driver(json!({ "attachRequired": false }));
        assert!(volume(json!({})).is_attached(None));
        assert!(volume(json!({})).is_attached(Some(&driver(json!({})))));
        assert!(!volume(json!({})).is_attached(Some(&without)));
        assert!(!inline().is_attached(None));
    }

    #[test]
    fn access_is_told_as_the_driver_can_tell_it_apart() {
        let can = |several_writers| Abilities {
            several_writers,
            ..Abilities::default()
        };
        for (mode, plain, several) in [
            (
                "ReadWriteOnce",
                Mode::SingleNodeWriter,
                Mode::SingleNodeMultiWriter,
            ),
            (
                "ReadWriteOncePod",
                Mode::SingleNodeWriter,
                Mode::SingleNodeSingleWriter,
            ),
            (
                "ReadOnlyMany",
                Mode::MultiNodeReaderOnly,
                Mode::MultiNodeReaderOnly,
            ),
            (
                "ReadWriteMany",
                Mode::MultiNodeMultiWriter,
                Mode::MultiNodeMultiWriter,
            ),
        ] {
            let asked = volume(json!({ "accessModes": [mode] }));
            let told = |can| asked.capability(can, None).access_mode.unwrap().mode();
            assert_eq!(
                (told(can(false)), told(can(true))),
                (plain, several),
                "{mode}"
            );
        }
        let groups = Abilities {
            mount_group: true,
            ..Abilities::default()
        };
        for (can, want) in [(Abilities::default(), ""), (groups, "7")] {
            let told = volume(json!({})).capability(can, Some(7)).access_type;
            let Some(AccessType::Mount(mount)) = told else {
                panic!("{told:?}");
            };
            assert_eq!(mount.volume_mount_group, want);
            assert_eq!(
                (mount.fs_type.as_str(), mount.mount_flags),
                ("ext4", vec!["noatime".into()])
            );
        }
    }

    #[test]
    fn the_group_gets_what_the_policy_says() {
        let policy = |p: &str| Some(driver(json!({ "fsGroupPolicy": p })));
        let usual = || policy("ReadWriteOnceWithFSType");
        let bare = Abilities::default();
        let many = || volume(json!({ "accessModes": ["ReadWriteMany"] }));
        for (asked, driver, want) in [
            (volume(json!({})), usual(), true),
            (volume(json!({})), None, true),
            (many(), usual(), false),
            (many(), policy("File"), true),
            (volume(json!({})), policy("None"), false),
            (
                volume(json!({ "volumeMode": "Block" })),
                policy("File"),
                false,
            ),
            (inline(), policy("File"), false),
        ] {
            let found = asked.is_given_to_group(driver.as_ref(), bare);
            assert_eq!(found, want, "{asked:?} {driver:?}");
        }
        let by_driver = Abilities {
            mount_group: true,
            ..bare
        };
        assert!(!volume(json!({})).is_given_to_group(usual().as_ref(), by_driver));
    }

    #[test]
    fn a_driver_hears_of_the_pod_if_it_wants() {
        let with = driver(json!({ "podInfoOnMount": true }));
        let told = inline().context(&pod(), Some(&with));
        assert_eq!(told["csi.storage.k8s.io/pod.uid"], "u");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        let told = volume(json!({})).context(&pod(), None);
        assert_eq!(told, [("a".to_owned(), "b".to_owned())].into());
    }
}
