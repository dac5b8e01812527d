//! What is shown of persistent volumes, their claims and their attachments, under upstream's names. It
//! is read from the informers when somebody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use client::Informer;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod,
};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::ResourceExt;
use metrics::Gauges;

use super::Alive;
use crate::nodes::node_of;
use crate::volumes::{claim_phase, claims_of, class_of_claim, volume_phase};

/// What upstream says where no plugin knows a volume.
const NO_PLUGIN: &str = "N/A";

struct Volumes {
    total: Gauges<2>,
    bound: Gauges<1>,
    unbound: Gauges<1>,
    bound_claims: Gauges<3>,
    unbound_claims: Gauges<3>,
}

static VOLUMES: LazyLock<Volumes> = LazyLock::new(|| {
    let name = |n: &str| format!("pv_collector_{n}");
    let of_claims = ["namespace", "storage_class", "volume_attributes_class"];
    Volumes {
        total: Gauges::new(
            &name("total_pv_count"),
            "Number of persistent volumes",
            ["plugin_name", "volume_mode"],
        ),
        bound: Gauges::new(
            &name("bound_pv_count"),
            "Number of persistent volumes that are bound",
            ["storage_class"],
        ),
        unbound: Gauges::new(
            &name("unbound_pv_count"),
            "Number of persistent volumes that are not bound",
            ["storage_class"],
        ),
        bound_claims: Gauges::new(
            &name("bound_pvc_count"),
            "Number of claims that are bound",
            of_claims,
        ),
        unbound_claims: Gauges::new(
            &name("unbound_pvc_count"),
            "Number of claims that are not bound",
            of_claims,
        ),
    }
});

/// Upstream's name of what mounts a volume.
fn plugin(spec: &PersistentVolumeSpec) -> String {
    if let Some(csi) = &spec.csi {
        return format!("kubernetes.io/csi:{}", csi.driver);
    }
    let others = [
        (spec.local.is_some(), "kubernetes.io/local-volume"),
        (spec.host_path.is_some(), "kubernetes.io/host-path"),
        (spec.nfs.is_some(), "kubernetes.io/nfs"),
        (spec.iscsi.is_some(), "kubernetes.io/iscsi"),
        (spec.fc.is_some(), "kubernetes.io/fc"),
    ];
    let found = others.iter().find(|(is_it, _)| *is_it);
    found.map_or(NO_PLUGIN, |(_, name)| name).to_owned()
}

fn plugin_of(volume: &PersistentVolume) -> String {
    let spec = volume.spec.as_ref();
    spec.map_or_else(|| NO_PLUGIN.to_owned(), plugin)
}

/// How many there are of the same labels.
type Counts<const N: usize> = BTreeMap<[String; N], usize>;

fn show<const N: usize>(gauges: &Gauges<N>, counts: &Counts<N>) {
    gauges.clear();
    for (labels, count) in counts {
        gauges.set(labels.each_ref().map(String::as_str), *count as f64);
    }
}

/// How many volumes and claims there are.
#[derive(Default)]
struct VolumeCounts {
    total: Counts<2>,
    bound: Counts<1>,
    unbound: Counts<1>,
    bound_claims: Counts<3>,
    unbound_claims: Counts<3>,
}

impl VolumeCounts {
    fn of(volumes: &[Arc<PersistentVolume>], claims: &[Arc<PersistentVolumeClaim>]) -> Self {
        let mut all = Self::default();
        for volume in volumes {
            let spec = volume.spec.as_ref();
            let mode = spec.and_then(|s| s.volume_mode.clone());
            let mode = mode.unwrap_or_else(|| "Filesystem".to_owned());
            *all.total.entry([plugin_of(volume), mode]).or_default() += 1;
            let class = spec.and_then(|s| s.storage_class_name.clone());
            let counts = match volume_phase(volume) {
                "Bound" => &mut all.bound,
                _ => &mut all.unbound,
            };
            *counts.entry([class.unwrap_or_default()]).or_default() += 1;
        }
        for claim in claims {
            let spec = claim.spec.as_ref();
            let attributes = spec.and_then(|s| s.volume_attributes_class_name.clone());
            let labels = [
                claim.namespace().unwrap_or_default(),
                class_of_claim(claim).to_owned(),
                attributes.unwrap_or_default(),
            ];
            let counts = match claim_phase(claim) {
                "Bound" => &mut all.bound_claims,
                _ => &mut all.unbound_claims,
            };
            *counts.entry(labels).or_default() += 1;
        }
        all
    }

    fn show(&self) {
        show(&VOLUMES.total, &self.total);
        show(&VOLUMES.bound, &self.bound);
        show(&VOLUMES.unbound, &self.unbound);
        show(&VOLUMES.bound_claims, &self.bound_claims);
        show(&VOLUMES.unbound_claims, &self.unbound_claims);
    }
}

/// Shows how many volumes and claims there are while the controller lives.
pub fn show_volumes(
    volumes: &Informer<PersistentVolume>,
    claims: &Informer<PersistentVolumeClaim>,
    alive: &Alive,
) {
    let (volumes, claims) = (volumes.clone(), claims.clone());
    alive.show(move |lives| match lives {
        true => VolumeCounts::of(&volumes.list(), &claims.list()).show(),
        false => VolumeCounts::default().show(),
    });
}

struct Attached {
    total: Gauges<2>,
    in_use: Gauges<2>,
}

static ATTACHED: LazyLock<Attached> = LazyLock::new(|| Attached {
    total: Gauges::new(
        "attachdetach_controller_total_volumes",
        "Number of volumes that are attached, and that are to be",
        ["plugin_name", "state"],
    ),
    in_use: Gauges::new(
        "storage_count_attachable_volumes_in_use",
        "Number of volumes that pods of a node use and that are attached to it",
        ["node", "volume_plugin"],
    ),
});

/// A volume of a pod that has a node: the node, the volume's name, its plugin.
type Use = (String, String, String);

/// How many volumes are attached, are to be, and are used.
#[derive(Default)]
struct AttachedCounts {
    total: Counts<2>,
    in_use: Counts<2>,
}

impl AttachedCounts {
    fn of(uses: &[Use], attachments: &[Arc<VolumeAttachment>]) -> Self {
        let mut all = Self::default();
        let mut desired = BTreeSet::new();
        for (node, volume, plugin) in uses {
            let labels = [node.clone(), plugin.clone()];
            *all.in_use.entry(labels).or_default() += 1;
            // Several pods of a node have one attachment.
            if desired.insert((node, volume)) {
                let labels = [plugin.clone(), "desired_state_of_world".to_owned()];
                *all.total.entry(labels).or_default() += 1;
            }
        }
        let is_there = |a: &&Arc<VolumeAttachment>| a.status.as_ref().is_some_and(|s| s.attached);
        for attachment in attachments.iter().filter(is_there) {
            let plugin = format!("kubernetes.io/csi:{}", attachment.spec.attacher);
            let labels = [plugin, "actual_state_of_world".to_owned()];
            *all.total.entry(labels).or_default() += 1;
        }
        all
    }

    fn show(&self) {
        show(&ATTACHED.total, &self.total);
        show(&ATTACHED.in_use, &self.in_use);
    }
}

/// Shows what is attached while the controller lives; `attached_of`: the volume of a claim, if its
/// driver attaches volumes.
pub fn show_attachments(
    pods: &Informer<Pod>,
    attachments: &Informer<VolumeAttachment>,
    attached_of: impl Fn(&str) -> Option<Arc<PersistentVolume>> + Send + 'static,
    alive: &Alive,
) {
    let (pods, attachments) = (pods.clone(), attachments.clone());
    alive.show(move |lives| {
        if !lives {
            return AttachedCounts::default().show();
        }
        let mut uses = Vec::new();
        for pod in pods.list() {
            for node in node_of(&pod) {
                for volume in claims_of(&pod).iter().filter_map(|c| attached_of(c)) {
                    uses.push((node.clone(), volume.name_any(), plugin_of(&volume)));
                }
            }
        }
        AttachedCounts::of(&uses, &attachments.list()).show();
    });
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn counts<const N: usize>(of: [([&str; N], usize); 1]) -> Counts<N> {
        of.map(|(labels, count)| (labels.map(str::to_owned), count))
            .into()
    }

    #[test]
    fn volumes_are_counted_by_class_and_plugin_and_claims_by_namespace() {
        let volume = |phase: &str| -> Arc<PersistentVolume> {
            object(json!({
                "metadata": { "name": phase },
                "spec": { "storageClassName": "fast", "volumeMode": "Block",
                    "csi": { "driver": "d", "volumeHandle": "h" } },
                "status": { "phase": phase },
            }))
        };
        let claim = |phase: &str| -> Arc<PersistentVolumeClaim> {
            object(json!({
                "metadata": { "name": phase, "namespace": "n" },
                "spec": { "storageClassName": "fast" },
                "status": { "phase": phase },
            }))
        };
        let volumes = [volume("Bound"), volume("Available"), volume("Released")];
        let all = VolumeCounts::of(&volumes, &[claim("Bound"), claim("Pending")]);
        let csi = "kubernetes.io/csi:d";
        assert_eq!(all.total, counts([([csi, "Block"], 3)]));
        assert_eq!(all.bound, counts([(["fast"], 1)]));
        assert_eq!(all.unbound, counts([(["fast"], 2)]));
        assert_eq!(all.bound_claims, counts([(["n", "fast", ""], 1)]));
        assert_eq!(all.unbound_claims, counts([(["n", "fast", ""], 1)]));
    }

    #[test]
    fn an_attachment_that_several_pods_use_is_one() {
        let attachment = |attached: bool| -> Arc<VolumeAttachment> {
            object(json!({
                "metadata": { "name": attached.to_string() },
                "spec": { "attacher": "d", "nodeName": "a", "source": {} },
                "status": { "attached": attached },
            }))
        };
        let csi = "kubernetes.io/csi:d";
        let one = |volume: &str| ("a".to_owned(), volume.to_owned(), csi.to_owned());
        let uses = [one("v"), one("v"), one("w")];
        let all = AttachedCounts::of(&uses, &[attachment(true), attachment(false)]);
        assert_eq!(all.in_use, counts([(["a", csi], 3)]));
        let of = |state: &str| all.total.get(&[csi.to_owned(), state.to_owned()]).copied();
        assert_eq!(of("desired_state_of_world"), Some(2));
        assert_eq!(of("actual_state_of_world"), Some(1));
    }
}
