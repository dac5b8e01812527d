//! Generic ephemeral volumes: each is a claim that is made for its pod, and goes with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Action, Target, reference};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::{PODS_BY_CLAIM, ephemeral_name, index_pods, is_made_for};
use crate::common::{Key, controller_reference, is_deleting, key_of, value_of};

pub struct EphemeralVolumes {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl EphemeralVolumes {
    pub fn new(informers: &Informers) -> Self {
        let all = Self {
            pods: informers.of(),
            claims: informers.of(),
        };
        index_pods(&all.pods);
        all
    }
}

fn has_some(pod: &Pod) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let mut all = volumes.into_iter().flatten();
    all.any(|v| v.ephemeral.is_some())
}

pub struct Observed {
    pod: Arc<Pod>,
    /// Claims that exist, by name.
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
}

impl Controller for EphemeralVolumes {
    const NAME: &'static str = "ephemeral-volume-controller";
    const QUEUE: &'static str = "ephemeral_volume";
    const ACCOUNT: &'static str = "ephemeral-volume-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.pods, |change| {
            let new = change.new.iter();
            new.filter(|p| has_some(p) && !is_deleting(&***p))
                .map(|p| key_of(&**p))
                .collect()
        });
        let pods = self.pods.clone();
        // One that somebody deleted is made again.
        watches.on_change(&self.claims, move |change| {
            let (Some(old), None) = (&change.old, &change.new) else {
                return Vec::new();
            };
            let (namespace, name) = key_of(&**old);
            let pods = pods.by_index(PODS_BY_CLAIM, &format!("{namespace}/{name}"));
            pods.iter().map(|p| key_of(&**p)).collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let pod = self.pods.get(namespace, name)?;
        if !has_some(&pod) || is_deleting(&*pod) {
            return None;
        }
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
        let names = volumes.into_iter().flatten();
        let found = names.filter_map(|v| {
            let name = ephemeral_name(&pod, &v.name);
            Some((name.clone(), self.claims.get(namespace, &name)?))
        });
        let claims = found.collect();
        Some(Observed { pod, claims })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }
}

fn plan(seen: &Observed) -> Plan {
    let (pod, mut plan) = (&*seen.pod, Plan::nothing());
    let (namespace, pod_name) = key_of(pod);
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    for volume in volumes.into_iter().flatten() {
        let Some(source) = &volume.ephemeral else {
            continue;
        };
        let claim = ephemeral_name(pod, &volume.name);
        let failed = |why: String| format!("ephemeral volume {}: {why}", volume.name);
        match seen.claims.get(&claim) {
            Some(known) if is_made_for(pod, known) => {}
            Some(_) => plan.actions.push(Action::Event {
                about: reference(pod),
                warning: true,
                reason: "FailedBinding",
                message: failed(format!(
                    "PVC {namespace}/{claim} was not created for pod {namespace}/{pod_name} (pod is not owner)"
                )),
            }),
            None => {
                let template = source.volume_claim_template.as_ref();
                let meta = template.and_then(|t| t.metadata.as_ref());
                let mut object = json!({
                    "metadata": { "name": claim, "namespace": namespace,
                        "ownerReferences": [controller_reference(pod)] },
                    "spec": template.map(|t| value_of(&t.spec)),
                });
                if let Some(meta) = meta {
                    let part = |v: Value| Some(v).filter(|v| !v.is_null());
                    for (field, value) in [
                        ("labels", part(value_of(&meta.labels))),
                        ("annotations", part(value_of(&meta.annotations))),
                    ] {
                        if let Some(value) = value {
                            object["metadata"][field] = value;
                        }
                    }
                }
                let target = Target::of::<PersistentVolumeClaim>(&namespace, &claim);
                let failure = failed(format!("create PVC {claim}: {{error}}"));
                let create = Action::Create { target, object };
                plan.actions
                    .push(create.noted_failure(&reference(pod), ("FailedBinding", failure)));
            }
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(claims: &[(&str, &str)]) -> Observed {
        let template = json!({ "metadata": { "labels": { "k": "v" } },
            "spec": { "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Gi" } } } });
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "p1" },
            "spec": { "containers": [], "volumes": [
                { "name": "v", "ephemeral": { "volumeClaimTemplate": template } },
                { "name": "c", "persistentVolumeClaim": { "claimName": "x" } }] } });
        let claim = |(name, owner): &(&str, &str)| {
            let claim = json!({ "metadata": { "name": name, "namespace": "a", "ownerReferences":
                [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true }] } });
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            ((*name).to_owned(), Arc::new(claim))
        };
        Observed {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            claims: claims.iter().map(claim).collect(),
        }
    }

    #[test]
    fn a_claim_is_made_for_its_pod() {
        let plan_of = plan(&seen(&[]));
        let [Action::Noted { action, .. }] = &plan_of.actions[..] else {
            panic!("{plan_of:?}");
        };
        let Action::Create { target, object } = &**action else {
            panic!("{action:?}");
        };
        assert_eq!((&*target.namespace, &*target.name), ("a", "p-v"));
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "p1");
        assert_eq!(object["metadata"]["labels"], json!({ "k": "v" }));
        assert_eq!(object["spec"]["resources"]["requests"]["storage"], "1Gi");
        assert!(plan(&seen(&[("p-v", "p1")])).is_empty());
        let other = plan(&seen(&[("p-v", "p0")]));
        assert!(
            matches!(&other.actions[..], [Action::Event { warning: true, message, .. }]
            if message.contains("pod is not owner"))
        );
    }
}
