//! Claims, volumes and classes of volumes' attributes that are used outlive their deletion: a
//! finalizer holds a claim while a pod uses it, a volume while it is bound, and a class while a
//! claim or a volume names it. Admission sets the finalizers; where it did not, they are set here.

use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{
    PODS_BY_CLAIM, claims_of, ephemeral_name, has_finalizer, index_pods, is_made_for, volume_phase,
};
use crate::common::{Key, is_deleting, key_of};
use crate::finalizers::{concerns, plan};

pub const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
pub const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";
/// Name of the indexes of claims and volumes by the classes that they name.
const BY_CLASS: &str = "attributes class";

pub struct ClaimProtection {
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

impl ClaimProtection {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            claims: informers.of(),
            pods: informers.of(),
        };
        index_pods(&all.pods);
        all
    }
}

/// Whether a pod holds a claim: one that a node has heard of. Others are not started with a claim
/// that is about to go.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    if spec.node_name.as_deref().unwrap_or_default().is_empty() {
        return false;
    }
    let name = claim.name_any();
    let mut volumes = spec.volumes.iter().flatten();
    volumes.any(|v| {
        let named = v.persistent_volume_claim.as_ref();
        named.is_some_and(|c| c.claim_name == name)
            || v.ephemeral.is_some()
                && !has_ended(pod)
                && ephemeral_name(pod, &v.name) == name
                && is_made_for(pod, claim)
    })
}

/// Whether a pod's node has said that nothing of it is left.
fn has_ended(pod: &Pod) -> bool {
    is_deleting(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

pub struct SeenClaim {
    claim: Arc<PersistentVolumeClaim>,
    is_used: bool,
}

impl Controller for ClaimProtection {
    const NAME: &'static str = "pvc-protection-controller";
    const QUEUE: &'static str = "pvcprotection";
    const ACCOUNT: &'static str = "pvc-protection-controller";
    type Key = Key;
    type Observed = SeenClaim;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.claims, |c| {
            if concerns(c, CLAIM_FINALIZER) {
                vec![key_of(c)]
            } else {
                Vec::new()
            }
        });
        let claims = self.claims.clone();
        watches.on_change(&self.pods, move |change| {
            let gone = change.old.iter().filter(|old| {
                let new = change.new.as_ref();
                new.is_none_or(|new| has_ended(new) || new.metadata.uid != old.metadata.uid)
            });
            let names = gone.flat_map(|pod| claims_of(pod));
            let keys = names.filter_map(|n| n.split_once('/').map(|(a, b)| (a.into(), b.into())));
            let keys = keys.filter(|(namespace, name): &Key| {
                let claim = claims.get(namespace, name);
                claim.is_some_and(|c| is_deleting(&*c))
            });
            keys.collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<SeenClaim> {
        let claim = self.claims.get(namespace, name)?;
        let pods = self
            .pods
            .by_index(PODS_BY_CLAIM, &format!("{namespace}/{name}"));
        let is_used = pods.iter().any(|p| uses(p, &claim));
        Some(SeenClaim { claim, is_used })
    }

    /// Nobody uses it: but is the cache the newest? A claim that is let go is gone for good.
    async fn gather(&self, client: &Client, seen: SeenClaim) -> Result<SeenClaim, kube::Error> {
        let SeenClaim { claim, is_used } = seen;
        if is_used || !is_deleting(&*claim) || !has_finalizer(&*claim, CLAIM_FINALIZER) {
            return Ok(SeenClaim { claim, is_used });
        }
        let namespace = claim.namespace().unwrap_or_default();
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let pods = pods.list(&ListParams::default()).await?;
        let is_used = pods.iter().any(|p| uses(p, &claim));
        Ok(SeenClaim { claim, is_used })
    }

    fn plan(&self, seen: &SeenClaim, _: i64) -> Plan {
        plan(&*seen.claim, CLAIM_FINALIZER, seen.is_used)
    }
}

pub struct VolumeProtection {
    volumes: Informer<PersistentVolume>,
}

impl VolumeProtection {
    pub fn new(informers: &Informers) -> Self {
        Self {
            volumes: informers.of(),
        }
    }
}

impl Controller for VolumeProtection {
    const NAME: &'static str = "pv-protection-controller";
    const QUEUE: &'static str = "pvprotection";
    const ACCOUNT: &'static str = "pv-protection-controller";
    type Key = String;
    type Observed = Arc<PersistentVolume>;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.volumes, |v| {
            if concerns(v, VOLUME_FINALIZER) {
                vec![v.name_any()]
            } else {
                Vec::new()
            }
        });
    }

    fn observe(&self, name: &String) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn plan(&self, volume: &Arc<PersistentVolume>, _: i64) -> Plan {
        let is_used = volume_phase(volume) == "Bound";
        plan(&**volume, VOLUME_FINALIZER, is_used)
    }
}

pub struct ClassProtection {
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl ClassProtection {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            classes: informers.of(),
            claims: informers.of(),
            volumes: informers.of(),
        };
        all.claims.index(BY_CLASS, classes_of_claim);
        all.volumes.index(BY_CLASS, classes_of_volume);
        all
    }
}

/// What a claim wants, has, and is being changed to.
fn classes_of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let spec = claim.spec.as_ref();
    let status = claim.status.as_ref();
    let wanted = spec.and_then(|s| s.volume_attributes_class_name.clone());
    let current = status.and_then(|s| s.current_volume_attributes_class_name.clone());
    let target = status.and_then(|s| s.modify_volume_status.as_ref());
    let target = target.and_then(|m| m.target_volume_attributes_class_name.clone());
    let all = [wanted, current, target].into_iter().flatten();
    all.filter(|name| !name.is_empty()).collect()
}

fn classes_of_volume(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.as_ref();
    let name = spec.and_then(|s| s.volume_attributes_class_name.clone());
    name.filter(|name| !name.is_empty()).into_iter().collect()
}

/// Classes that something named and names no more.
fn let_go(old: Vec<String>, new: &[String]) -> Vec<String> {
    old.into_iter().filter(|n| !new.contains(n)).collect()
}

pub struct SeenClass {
    class: Arc<VolumeAttributesClass>,
    is_used: bool,
}

impl Controller for ClassProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    const QUEUE: &'static str = "vacprotection";
    const ACCOUNT: &'static str = "volumeattributesclass-protection-controller";
    type Key = String;
    type Observed = SeenClass;

    fn watches(&self, watches: &mut Watches<String>) {
        watches.on(&self.classes, |c| {
            if concerns(c, CLASS_FINALIZER) {
                vec![c.name_any()]
            } else {
                Vec::new()
            }
        });
        watches.on_change(&self.claims, |change| {
            let all = |c: &Option<Arc<PersistentVolumeClaim>>| {
                c.as_ref().map(|c| classes_of_claim(c)).unwrap_or_default()
            };
            let_go(all(&change.old), &all(&change.new))
        });
        watches.on_change(&self.volumes, |change| {
            let all = |v: &Option<Arc<PersistentVolume>>| {
                v.as_ref().map(|v| classes_of_volume(v)).unwrap_or_default()
            };
            let_go(all(&change.old), &all(&change.new))
        });
    }

    fn observe(&self, name: &String) -> Option<SeenClass> {
        let class = self.classes.get("", name)?;
        let is_used = !self.claims.by_index(BY_CLASS, name).is_empty()
            || !self.volumes.by_index(BY_CLASS, name).is_empty();
        Some(SeenClass { class, is_used })
    }

    fn plan(&self, seen: &SeenClass, _: i64) -> Plan {
        plan(&*seen.class, CLASS_FINALIZER, seen.is_used)
    }
}

#[cfg(test)]
mod tests {
    use control::Action;
    use serde_json::{Value, json};

    use super::*;

    fn claim(deleting: bool, finalizers: &[&str]) -> PersistentVolumeClaim {
        let mut claim = json!({ "metadata": { "name": "c", "namespace": "a", "uid": "1",
            "finalizers": finalizers,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p1",
                "controller": true }] } });
        if deleting {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(claim).unwrap()
    }

    fn finalizers(plan: &Plan) -> Option<Value> {
        match &plan.actions[..] {
            [Action::Update { object, .. }] => Some(object["metadata"]["finalizers"].clone()),
            [] => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_finalizer_comes_and_goes_when_nobody_uses_the_object() {
        let ours = CLAIM_FINALIZER;
        let of = |c: &PersistentVolumeClaim, used| finalizers(&plan(c, ours, used));
        assert_eq!(of(&claim(false, &[]), false), Some(json!([ours])));
        assert_eq!(of(&claim(false, &[ours]), false), None);
        assert_eq!(of(&claim(true, &[ours, "x/y"]), true), None);
        let left = of(&claim(true, &[ours, "x/y"]), false);
        assert_eq!(left, Some(json!(["x/y"])));
        assert_eq!(of(&claim(true, &["x/y"]), false), None);
    }

    #[test]
    fn a_class_is_held_by_what_names_it() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": { "volumeAttributesClassName": "fast" },
            "status": { "currentVolumeAttributesClassName": "slow",
                "modifyVolumeStatus": { "status": "InProgress",
                    "targetVolumeAttributesClassName": "fast" } } }))
        .unwrap();
        let named = classes_of_claim(&claim);
        assert_eq!(named, ["fast", "slow", "fast"]);
        assert_eq!(let_go(named, &["fast".to_owned()]), ["slow"]);
        let class: VolumeAttributesClass = serde_json::from_value(json!({
            "driverName": "d", "metadata": { "name": "fast", "finalizers": [CLASS_FINALIZER],
                "deletionTimestamp": "2026-01-01T00:00:00Z" } }))
        .unwrap();
        assert_eq!(finalizers(&plan(&class, CLASS_FINALIZER, true)), None);
        let left = finalizers(&plan(&class, CLASS_FINALIZER, false));
        assert_eq!(left, Some(json!([])));
    }

    #[test]
    fn pods_hold_a_claim_from_their_node_on() {
        let pod = |node: &str, volume: Value, more: Value| -> Pod {
            let mut pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "p1" },
                "spec": { "nodeName": node, "containers": [], "volumes": [volume] } });
            crate::common::merge(&mut pod, &more);
            serde_json::from_value(pod).unwrap()
        };
        let named = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } });
        let other = json!({ "name": "v", "persistentVolumeClaim": { "claimName": "d" } });
        let claim = claim(true, &[]);
        assert!(uses(&pod("n", named.clone(), json!({})), &claim));
        assert!(!uses(&pod("", named.clone(), json!({})), &claim));
        assert!(!uses(&pod("n", other, json!({})), &claim));
        let ended = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 0 } });
        // It is there until its object is gone.
        assert!(uses(&pod("n", named, ended.clone()), &claim));
        let template = json!({ "spec": {} });
        let own = json!({ "name": "v", "ephemeral": { "volumeClaimTemplate": template } });
        let mut own_claim = claim.clone();
        own_claim.metadata.name = Some("p-v".into());
        assert!(uses(&pod("n", own.clone(), json!({})), &own_claim));
        assert!(!uses(&pod("n", own.clone(), ended), &own_claim));
        let stranger = json!({ "metadata": { "uid": "p2" } });
        assert!(!uses(&pod("n", own, stranger), &own_claim));
    }
}
