//! Claims that are to grow: what our own provisioner made grows in `local`; of all others it is said
//! that somebody else has to do it, and of the kinds that drivers took over, which driver that is.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Action, Patch, Target, reference};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec as Spec,
};
use serde_json::json;

use super::binder::is_bound_to;
use super::{annotation, claim_phase, given, is_local, is_to_grow, requested, volume_name};
use crate::common::{Key, key_of, uid_of};

const REASON: &str = "ExternalExpanding";
/// Names the driver whose resizer is to act on a claim.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
/// A volume that is not in the cache, or not bound yet, is looked for again: the claim may have been
/// seen before it.
const LOOK_AGAIN_MILLIS: u64 = 5_000;

/// The kinds of volumes that CSI drivers took over: how a volume is one, the name that its plugin had,
/// and its driver.
type TakenOver = (fn(&Spec) -> bool, &'static str, &'static str);
static TAKEN_OVER: [TakenOver; 7] = [
    (
        |s| s.aws_elastic_block_store.is_some(),
        "kubernetes.io/aws-ebs",
        "ebs.csi.aws.com",
    ),
    (
        |s| s.gce_persistent_disk.is_some(),
        "kubernetes.io/gce-pd",
        "pd.csi.storage.gke.io",
    ),
    (
        |s| s.azure_disk.is_some(),
        "kubernetes.io/azure-disk",
        "disk.csi.azure.com",
    ),
    (
        |s| s.azure_file.is_some(),
        "kubernetes.io/azure-file",
        "file.csi.azure.com",
    ),
    (
        |s| s.cinder.is_some(),
        "kubernetes.io/cinder",
        "cinder.csi.openstack.org",
    ),
    (
        |s| s.vsphere_volume.is_some(),
        "kubernetes.io/vsphere-volume",
        "csi.vsphere.vmware.com",
    ),
    (
        |s| s.portworx_volume.is_some(),
        "kubernetes.io/portworx-volume",
        "pxd.portworx.com",
    ),
];

pub struct Expansions {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl Expansions {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.of(),
            volumes: informers.of(),
        }
    }
}

pub struct Observed {
    claim: Arc<PersistentVolumeClaim>,
    /// None where it is not known, or not bound to the claim.
    volume: Option<Arc<PersistentVolume>>,
}

impl Controller for Expansions {
    const NAME: &'static str = "volume_expand";
    const ACCOUNT: &'static str = "expand-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.claims, |change| {
            let new = change.new.iter();
            new.filter(|claim| concerns(change.old.as_deref(), claim))
                .map(|claim| key_of(&**claim))
                .collect()
        });
        watches.expect_from(&self.volumes);
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let claim = self.claims.get(namespace, name)?;
        let volume = self.volumes.get("", volume_name(&claim));
        let volume = volume.filter(|volume| is_bound_to(volume, &claim));
        Some(Observed { claim, volume })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }
}

/// Whether a claim wants to be looked at: it is bound and asks for more than before, or has more, and
/// still not all. So each size that is asked for is spoken of once.
fn concerns(old: Option<&PersistentVolumeClaim>, new: &PersistentVolumeClaim) -> bool {
    let more = |old| requested(new) > requested(old) || given(new) > given(old);
    claim_phase(new) == "Bound" && is_to_grow(new) && old.is_none_or(more)
}

fn plan(seen: &Observed) -> Plan {
    let claim = &*seen.claim;
    if claim_phase(claim) != "Bound" || !is_to_grow(claim) {
        return Plan::nothing();
    }
    let Some(volume) = &seen.volume else {
        let mut later = Plan::nothing().because("its volume is not bound to it");
        later.wake_after_millis = Some(LOOK_AGAIN_MILLIS);
        return later;
    };
    if is_local(volume) {
        return Plan::nothing();
    }
    let about = reference(claim);
    let say = |warning, message| Action::Event {
        about: about.clone(),
        warning,
        reason: REASON,
        message,
    };
    let spec = volume.spec.as_ref();
    let taken_over = spec.and_then(|spec| TAKEN_OVER.iter().find(|(is, ..)| is(spec)));
    let Some(&(_, plugin, driver)) = taken_over else {
        // No node here has FlexVolumes: whoever asks that one should grow waits for nobody.
        let is_hopeless = spec.is_some_and(|spec| spec.flex_volume.is_some());
        let message = "waiting for an external controller to expand this PVC";
        return say(is_hopeless, message.to_owned()).into();
    };
    let message = format!(
        "CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
    );
    let mut plan = Plan::from(say(false, message));
    if annotation(claim, RESIZER) != Some(driver) {
        let (namespace, name) = key_of(claim);
        let failed = format!(
            "error setting resizer annotation to pvc {namespace}/{name}, with error {{error}}"
        );
        // With the status, which is all of a claim that the role allows; labels and annotations may
        // be written so.
        let patch = Action::Patch {
            target: Target::of::<PersistentVolumeClaim>(&namespace, &name),
            subresource: "status",
            patch: Patch::Merge(json!({ "metadata": {
                "uid": uid_of(claim), "annotations": { RESIZER: driver } } })),
        };
        plan.actions
            .push(patch.noted_failure(&about, (REASON, failed)));
    }
    plan
}

#[cfg(test)]
mod tests {
    use api::local_volumes::PROVISIONER;
    use serde_json::Value;

    use super::super::{BIND_COMPLETED, PROVISIONED_BY};
    use super::*;

    /// A bound claim that has and asks for so much.
    fn claim(has: &str, asks: &str) -> PersistentVolumeClaim {
        let claim = json!({
            "metadata": { "name": "c", "namespace": "a", "uid": "u1",
                "annotations": { BIND_COMPLETED: "yes" } },
            "spec": { "volumeName": "v", "resources": { "requests": { "storage": asks } } },
            "status": { "phase": "Bound", "capacity": { "storage": has } },
        });
        serde_json::from_value(claim).unwrap()
    }

    fn seen(claim: PersistentVolumeClaim, source: Value) -> Observed {
        let mut volume = json!({ "metadata": { "name": "v" }, "spec": {
            "claimRef": { "namespace": "a", "name": "c", "uid": "u1" },
            "capacity": { "storage": "1Gi" } } });
        crate::common::merge(&mut volume["spec"], &source);
        Observed {
            claim: Arc::new(claim),
            volume: Some(Arc::new(serde_json::from_value(volume).unwrap())),
        }
    }

    /// The events of a plan: whether it is a warning, and its text.
    fn said(plan: &Plan) -> Vec<(bool, &str)> {
        let events = plan.actions.iter().filter_map(|action| match action {
            Action::Event {
                about,
                warning,
                reason,
                message,
            } => {
                assert_eq!((*reason, about.name.as_deref()), (REASON, Some("c")));
                Some((*warning, &**message))
            }
            _ => None,
        });
        events.collect()
    }

    const WAITS: &str = "waiting for an external controller to expand this PVC";

    #[test]
    fn what_no_plugin_of_the_tree_grows_waits_for_somebody_else() {
        let csi = json!({ "csi": { "driver": "com.csi.ceph", "volumeHandle": "v" } });
        let nfs = json!({ "nfs": { "server": "s", "path": "/" } });
        let flex = json!({ "flexVolume": { "driver": "d" } });
        for (source, warning) in [(csi, false), (nfs, false), (flex, true)] {
            let plan = plan(&seen(claim("1Gi", "2Gi"), source));
            assert_eq!(said(&plan), [(warning, WAITS)]);
            assert_eq!(plan.actions.len(), 1, "nothing is written");
        }
    }

    #[test]
    fn of_a_kind_that_a_driver_took_over_the_claim_names_the_driver() {
        let id = json!({ "volumeID": "v" });
        let disk = json!({ "diskName": "v", "diskURI": "u" });
        for (source, plugin, driver) in [
            (
                json!({ "awsElasticBlockStore": id }),
                "aws-ebs",
                "ebs.csi.aws.com",
            ),
            (
                json!({ "gcePersistentDisk": { "pdName": "v" } }),
                "gce-pd",
                "pd.csi.storage.gke.io",
            ),
            (
                json!({ "azureDisk": disk }),
                "azure-disk",
                "disk.csi.azure.com",
            ),
            (
                json!({ "azureFile": { "secretName": "s", "shareName": "v" } }),
                "azure-file",
                "file.csi.azure.com",
            ),
            (
                json!({ "cinder": id }),
                "cinder",
                "cinder.csi.openstack.org",
            ),
            (
                json!({ "vsphereVolume": { "volumePath": "v" } }),
                "vsphere-volume",
                "csi.vsphere.vmware.com",
            ),
            (
                json!({ "portworxVolume": id }),
                "portworx-volume",
                "pxd.portworx.com",
            ),
        ] {
            let mut seen = seen(claim("1Gi", "2Gi"), source);
            let text = format!(
                "CSI migration enabled for kubernetes.io/{plugin}; waiting for external resizer to \
                 expand the pvc"
            );
            let first = plan(&seen);
            assert_eq!(said(&first), [(false, &*text)]);
            let [
                _,
                Action::Noted {
                    action, failure, ..
                },
            ] = &first.actions[..]
            else {
                panic!("{first:?}");
            };
            assert!(
                failure
                    .1
                    .starts_with("error setting resizer annotation to pvc a/c")
            );
            let Action::Patch {
                target,
                subresource: "status",
                patch: Patch::Merge(patch),
            } = &**action
            else {
                panic!("{action:?}");
            };
            assert_eq!((&*target.namespace, &*target.name), ("a", "c"));
            let wanted = json!({ "uid": "u1", "annotations": { RESIZER: driver } });
            assert_eq!(patch["metadata"], wanted);
            // What it says already is not written again.
            let claim = Arc::make_mut(&mut seen.claim);
            super::super::annotate(&mut claim.metadata, RESIZER, driver);
            let again = plan(&seen);
            assert_eq!(again.actions.len(), 1, "{again:?}");
            assert_eq!(said(&again), [(false, &*text)]);
        }
    }

    #[test]
    fn what_has_all_or_grows_here_is_left_alone() {
        let csi = json!({ "csi": { "driver": "d", "volumeHandle": "v" } });
        for (has, asks) in [("2Gi", "2Gi"), ("3Gi", "2Gi")] {
            let plan = plan(&seen(claim(has, asks), csi.clone()));
            assert!(plan.is_empty() && plan.wake_after_millis.is_none());
        }
        let mut lost = claim("1Gi", "2Gi");
        lost.status.get_or_insert_default().phase = Some("Lost".to_owned());
        assert!(plan(&seen(lost, csi)).is_empty());
        let mut local = seen(claim("1Gi", "2Gi"), json!({ "local": { "path": "/v" } }));
        let volume = local.volume.as_mut().map(Arc::make_mut).unwrap();
        super::super::annotate(&mut volume.metadata, PROVISIONED_BY, PROVISIONER);
        assert!(plan(&local).is_empty());
    }

    #[test]
    fn a_volume_that_is_not_bound_yet_is_looked_for_again() {
        let csi = json!({ "csi": { "driver": "d", "volumeHandle": "v" } });
        let mut seen = seen(claim("1Gi", "2Gi"), csi);
        let volume = seen.volume.take().unwrap();
        assert!(is_bound_to(&volume, &seen.claim));
        let waits = plan(&seen);
        assert!(waits.is_empty() && waits.wake_after_millis == Some(LOOK_AGAIN_MILLIS));
        // Another claim of this name is not the one that the volume is bound to.
        let mut other = claim("1Gi", "2Gi");
        other.metadata.uid = Some("u2".to_owned());
        assert!(!is_bound_to(&volume, &other));
    }

    #[test]
    fn each_size_that_is_asked_for_is_spoken_of_once() {
        let at = |has: &str, asks: &str| claim(has, asks);
        let new = at("1Gi", "3Gi");
        assert!(concerns(None, &new), "at the start");
        assert!(concerns(Some(&at("1Gi", "2Gi")), &new), "more is asked for");
        assert!(
            concerns(Some(&at("500Mi", "3Gi")), &new),
            "it has some more"
        );
        assert!(!concerns(Some(&new), &new), "nothing changed");
        assert!(
            !concerns(Some(&at("1Gi", "4Gi")), &new),
            "less is asked for"
        );
        let done = at("3Gi", "3Gi");
        assert!(!concerns(Some(&new), &done), "it has all");
        let mut unbound = new.clone();
        unbound.status.get_or_insert_default().phase = Some("Pending".to_owned());
        assert!(!concerns(None, &unbound));
    }
}
