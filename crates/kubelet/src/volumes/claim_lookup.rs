//! From a volume of a pod to what it is on this node: the claim that it names, the persistent
//! volume that the claim is bound to, and whether this pod may have it here. What was found is kept
//! as long as the pod has it: for its statistics, and so that nobody else gets a volume that is
//! for one pod.

use super::error::Error;
use super::source::Order;
use crate::node::own_object::OwnNode;
use crate::pod::{fit, spec};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::Api;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// What a pod has of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountedClaim {
    /// Namespace of the claim.
    pub namespace: String,
    /// Its name.
    pub claim: String,
    /// The persistent volume.
    pub volume: String,
    /// Where it is on the host.
    pub path: PathBuf,
    /// It may not be written.
    pub read_only: bool,
    /// It is a block device.
    pub block: bool,
    /// It is for one pod alone.
    pub exclusive: bool,
    /// It is on another machine.
    pub on_network: bool,
    /// The CSI driver and its name for the volume.
    pub driver: Option<(String, String)>,
    /// The group that the persistent volume names as its own.
    pub group: Option<i64>,
}

/// The annotation of a persistent volume that names its group; upstream's.
const GROUP: &str = "pv.beta.kubernetes.io/gid";

/// A claim that was found, with its volume.
#[derive(Debug)]
pub struct BoundClaim {
    /// The claim.
    pub claim: PersistentVolumeClaim,
    /// What it is bound to.
    pub volume: PersistentVolume,
    /// The pod asks for it to read only.
    pub read_only: bool,
}

impl BoundClaim {
    /// The name of the persistent volume.
    #[must_use]
    pub fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }

    /// Who may use the volume, where it says that; what is not a number says nothing, as upstream.
    fn group(&self) -> Option<i64> {
        let annotations = self.volume.metadata.annotations.as_ref()?;
        annotations.get(GROUP)?.parse().ok().filter(|g| *g >= 0)
    }

    /// Whether it is a block device, and no file system.
    #[must_use]
    pub fn is_block(&self) -> bool {
        let mode = self.volume.spec.as_ref();
        mode.and_then(|s| s.volume_mode.as_deref()) == Some("Block")
    }

    /// What is to be kept of it when it is at `path`.
    #[must_use]
    pub fn at(&self, path: PathBuf) -> MountedClaim {
        let meta = &self.claim.metadata;
        let modes = self.claim.spec.as_ref();
        let modes = modes.and_then(|s| s.access_modes.as_deref());
        let alone = "ReadWriteOncePod".to_owned();
        MountedClaim {
            namespace: meta.namespace.clone().unwrap_or_default(),
            claim: meta.name.clone().unwrap_or_default(),
            volume: self.name().to_owned(),
            path,
            read_only: self.read_only,
            block: self.is_block(),
            on_network: self.volume.spec.as_ref().is_some_and(|s| s.nfs.is_some()),
            exclusive: modes.unwrap_or_default().contains(&alone),
            driver: self.volume.spec.as_ref().and_then(|s| {
                let csi = s.csi.as_ref()?;
                Some((csi.driver.clone(), csi.volume_handle.clone()))
            }),
            group: self.group(),
        }
    }
}

/// The claims of all pods of this node.
pub struct Claims {
    client: kube::Client,
    node: Arc<OwnNode>,
    /// By the pod's UID and the volume's name.
    held: Mutex<BTreeMap<(String, String), MountedClaim>>,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims").finish_non_exhaustive()
    }
}

impl Claims {
    /// None is known yet.
    #[must_use]
    pub fn new(client: kube::Client, node: Arc<OwnNode>) -> Self {
        Self {
            client,
            node,
            held: Mutex::default(),
        }
    }

    /// The claim of a pod's volume and what it is bound to, if the pod may have it here.
    pub async fn find(&self, order: Order<'_>) -> Result<BoundClaim, Error> {
        let namespace = spec::namespace(order.pod);
        let name = claim_name(order.pod, order.volume);
        let wrong = |text: String| {
            order.unmounted(format!("error processing PVC {namespace}/{name}: {text}"))
        };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let claim = claims.get(&name).await.map_err(|e| {
            wrong(format!(
                "failed to fetch PVC from API server: {}",
                client::said(&e)
            ))
        })?;
        let volume = bound_to(order.pod, order.volume, &claim).map_err(&wrong)?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = volumes.get(volume).await.map_err(|e| {
            wrong(format!(
                "failed to fetch PV {volume:?} from API server: {}",
                client::said(&e)
            ))
        })?;
        is_for(&volume, &claim).map_err(&wrong)?;
        let node = self.node.get().await;
        let node =
            node.map_err(|e| wrong(format!("the node is not known: {}", client::said(&e))))?;
        let required = volume.spec.as_ref();
        let required = required.and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
        if required.is_some_and(|r| !fit::selects(r, &node)) {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            return Err(Error::Claim {
                text: format!(
                    "MountVolume.NodeAffinity check failed for volume {name:?} : no matching NodeSelectorTerms"
                ),
            });
        }
        let source = order.volume.persistent_volume_claim.as_ref();
        let read_only = source.is_some_and(|s| s.read_only == Some(true));
        Ok(BoundClaim {
            claim,
            volume,
            read_only,
        })
    }

    /// Notes what a pod has; an error: it is for one pod alone, and another one has it.
    pub fn hold(&self, uid: &str, volume: &str, held: MountedClaim) -> Result<(), String> {
        let mut all = self.held.lock();
        let others = |((other, _), h): (&(String, String), &MountedClaim)| {
            other != uid && h.volume == held.volume && (h.exclusive || held.exclusive)
        };
        if all.iter().any(others) {
            return Err(
                "volume uses the ReadWriteOncePod access mode and is already in use by another pod"
                    .into(),
            );
        }
        all.insert((uid.to_owned(), volume.to_owned()), held);
        Ok(())
    }

    /// What a pod has by the name of its volume.
    #[must_use]
    pub fn held(&self, uid: &str, volume: &str) -> Option<MountedClaim> {
        let key = (uid.to_owned(), volume.to_owned());
        self.held.lock().get(&key).cloned()
    }

    /// All that a pod has, by the names of its volumes.
    #[must_use]
    pub fn of_pod(&self, uid: &str) -> Vec<(String, MountedClaim)> {
        let all = self.held.lock();
        let own = all.iter().filter(|((pod, _), _)| pod == uid);
        own.map(|((_, name), held)| (name.clone(), held.clone()))
            .collect()
    }

    /// Whether some pod has the persistent volume.
    #[must_use]
    pub fn is_used(&self, volume: &str) -> bool {
        self.held.lock().values().any(|h| h.volume == volume)
    }

    /// Forgets one volume of a pod.
    pub fn release(&self, uid: &str, volume: &str) {
        let key = (uid.to_owned(), volume.to_owned());
        self.held.lock().remove(&key);
    }

    /// Forgets what a pod had.
    pub fn forget(&self, uid: &str) {
        self.held.lock().retain(|(pod, _), _| pod != uid);
    }
}

/// The name of the claim that a volume means.
fn claim_name(pod: &Pod, volume: &Volume) -> String {
    match &volume.persistent_volume_claim {
        Some(source) => source.claim_name.clone(),
        None => format!("{}-{}", spec::name(pod), volume.name),
    }
}

/// The volume that the claim is bound to, or why the pod cannot use the claim.
fn bound_to<'a>(
    pod: &Pod,
    volume: &Volume,
    claim: &'a PersistentVolumeClaim,
) -> Result<&'a str, String> {
    if volume.ephemeral.is_some() {
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let owned = owners.any(|o| o.controller == Some(true) && o.uid == spec::uid(pod));
        if !owned {
            return Err("PVC was not created for the pod (pod is not owner)".into());
        }
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".into());
    }
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref());
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
    match name.filter(|n| !n.is_empty() && phase == Some("Bound")) {
        Some(name) => Ok(name),
        None => Err("PVC is not bound".into()),
    }
}

/// Whether the volume knows the claim as the one that it is bound to.
fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let Some(reference) = reference else {
        return Err(format!("PV {name:?} has no claim"));
    };
    if reference.uid != claim.metadata.uid {
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        return Err(format!(
            "PV {name:?} is bound to another claim: expected UID {uid:?}, found {:?}",
            reference.uid.as_deref().unwrap_or_default()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(change: Value) -> PersistentVolumeClaim {
        let mut claim = json!({ "metadata": { "name": "c", "namespace": "a", "uid": "c1" },
            "spec": { "volumeName": "v" }, "status": { "phase": "Bound" } });
        for (part, fields) in change.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                claim[part][field] = value.clone();
            }
        }
        serde_json::from_value(claim).unwrap()
    }

    fn pod() -> Pod {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "p1" } });
        serde_json::from_value(pod).unwrap()
    }

    fn volume(source: Value) -> Volume {
        let mut volume = source;
        volume["name"] = json!("data");
        serde_json::from_value(volume).unwrap()
    }

    #[test]
    fn a_volume_may_name_its_group() {
        for (said, want) in [("1234", Some(1234)), ("-1", None), ("staff", None)] {
            let meta = json!({ "name": "v", "annotations": { GROUP: said } });
            let volume = serde_json::from_value(json!({ "metadata": meta })).unwrap();
            let found = BoundClaim {
                claim: claim(json!({})),
                volume,
                read_only: false,
            };
            assert_eq!(found.at(PathBuf::new()).group, want, "{said}");
        }
    }

    #[test]
    fn a_claim_is_used_when_it_is_bound_and_stays() {
        let named = volume(json!({ "persistentVolumeClaim": { "claimName": "c" } }));
        assert_eq!(claim_name(&pod(), &named), "c");
        assert_eq!(bound_to(&pod(), &named, &claim(json!({}))), Ok("v"));
        for wrong in [
            json!({ "status": { "phase": "Pending" } }),
            json!({ "status": { "phase": "Lost" } }),
            json!({ "spec": { "volumeName": null } }),
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } }),
        ] {
            assert!(
                bound_to(&pod(), &named, &claim(wrong.clone())).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn an_ephemeral_claim_is_the_pods_own() {
        let own = volume(json!({ "ephemeral": { "volumeClaimTemplate": { "spec": {} } } }));
        assert_eq!(claim_name(&pod(), &own), "p-data");
        let owned = |uid: &str| {
            claim(
                json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod",
                "name": "p", "uid": uid, "controller": true }] } }),
            )
        };
        assert_eq!(bound_to(&pod(), &own, &owned("p1")), Ok("v"));
        assert!(bound_to(&pod(), &own, &owned("p0")).is_err());
        assert!(bound_to(&pod(), &own, &claim(json!({}))).is_err());
    }

    #[test]
    fn both_sides_of_a_binding_must_agree() {
        let of = |uid: &str| -> PersistentVolume {
            let volume = json!({ "metadata": { "name": "v" }, "spec": { "claimRef":
                { "namespace": "a", "name": "c", "uid": uid } } });
            serde_json::from_value(volume).unwrap()
        };
        assert!(is_for(&of("c1"), &claim(json!({}))).is_ok());
        assert!(is_for(&of("c0"), &claim(json!({}))).is_err());
        assert!(is_for(&PersistentVolume::default(), &claim(json!({}))).is_err());
    }
}
