//! PodDisruptionBudget: how many of the pods that it selects may be disrupted now.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::discovery::Discovery;
use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::common::{Key, controller_of, key_of, selector_of, uid_of};
use crate::scales;

pub mod plan;
pub mod stale;

pub use plan::{Observed, Scale};

pub struct Disruptions {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
    discovery: OnceCell<Discovery>,
}

impl Disruptions {
    pub fn new(informers: &Informers) -> Self {
        Self {
            budgets: informers.of(),
            pods: informers.of(),
            deployments: informers.of(),
            replica_sets: informers.of(),
            stateful_sets: informers.of(),
            replication_controllers: informers.of(),
            discovery: OnceCell::new(),
        }
    }

    /// What scales a pod, of the kinds that the caches have: the owner, or of a ReplicaSet its
    /// Deployment.
    fn scale(&self, namespace: &str, owner: &OwnerReference) -> Option<Scale> {
        let group = owner.api_version.split_once('/').map_or("", |(g, _)| g);
        let scale = |uid: String, replicas: Option<i32>| {
            Some(Scale {
                uid,
                replicas: replicas.unwrap_or(1),
            })
        };
        match (group, owner.kind.as_str()) {
            ("apps" | "extensions", "ReplicaSet") => {
                let set = self.replica_sets.get(namespace, &owner.name)?;
                let set = Some(set).filter(|s| uid_of(&**s) == owner.uid)?;
                let above = controller_of(&*set).filter(|o| o.kind == "Deployment");
                let Some(above) = above else {
                    return scale(uid_of(&*set), set.spec.as_ref()?.replicas);
                };
                let above_it = self.deployments.get(namespace, &above.name)?;
                let found = Some(above_it).filter(|d| uid_of(&**d) == above.uid)?;
                scale(uid_of(&*found), found.spec.as_ref()?.replicas)
            }
            ("apps", "StatefulSet") => {
                let set = self.stateful_sets.get(namespace, &owner.name)?;
                let set = Some(set).filter(|s| uid_of(&**s) == owner.uid)?;
                scale(uid_of(&*set), set.spec.as_ref()?.replicas)
            }
            ("", "ReplicationController") => {
                let set = self.replication_controllers.get(namespace, &owner.name)?;
                let set = Some(set).filter(|s| uid_of(&**s) == owner.uid)?;
                scale(uid_of(&*set), set.spec.as_ref()?.replicas)
            }
            _ => None,
        }
    }
}

/// What scales a pod of an owner of any kind; none where there is no such owner, and why where it
/// cannot be known.
async fn asked_for(
    client: &Client,
    discovery: &Discovery,
    namespace: &str,
    owner: &OwnerReference,
) -> Result<Option<Scale>, String> {
    let served = scales::served(discovery, &owner.api_version, &owner.kind).await?;
    let resource = served.resource;
    match scales::scale(client, &resource, namespace, &owner.name).await {
        Ok(scale) => Ok(read(&scale, &owner.uid)),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            // Of an object that is missing the server says the name, of a path that it does not
            // serve nothing.
            let named = status.details.as_ref().is_some_and(|d| !d.name.is_empty());
            match named {
                true => Ok(None),
                false => Err(format!(
                    "{} does not implement the scale subresource",
                    scales::name_of(&resource)
                )),
            }
        }
        Err(e) => Err(client::said(&e)),
    }
}

/// A scale, where it is that of the object with this UID.
fn read(scale: &Value, uid: &str) -> Option<Scale> {
    let is_it = scale.pointer("/metadata/uid").and_then(Value::as_str) == Some(uid);
    let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64);
    is_it.then(|| Scale {
        uid: uid.to_owned(),
        // A field that is nought may be left out.
        replicas: i32::try_from(replicas.unwrap_or(0)).unwrap_or(i32::MAX),
    })
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some() && selector_of(selector).matches(&pod.metadata.labels)
}

/// The budgets of a namespace that select one of these pods.
fn of_pods<'a>(
    budgets: &Informer<PodDisruptionBudget>,
    namespace: &str,
    pods: impl Iterator<Item = &'a Pod> + Clone,
) -> Vec<Key> {
    let mut all = budgets.list_namespace(namespace);
    all.retain(|b| pods.clone().any(|p| selects(b, p)));
    all.iter().map(|b| key_of(&**b)).collect()
}

impl Controller for Disruptions {
    const NAME: &'static str = "controllermanager";
    const QUEUE: &'static str = "disruption";
    const ACCOUNT: &'static str = "disruption-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on(&self.budgets, |b| vec![key_of(b)]);
        let budgets = self.budgets.clone();
        watches.on(&self.pods, move |pod| {
            let namespace = pod.namespace().unwrap_or_default();
            of_pods(&budgets, &namespace, std::iter::once(pod))
        });
        // A new scale of an owner concerns the budgets of its pods.
        let all = || (self.budgets.clone(), self.pods.clone());
        let owned = |(budgets, pods): (Informer<PodDisruptionBudget>, Informer<Pod>)| {
            move |namespace: &str, uid: &str| {
                let pods: Vec<Arc<Pod>> = pods.owned_by(uid);
                of_pods(&budgets, namespace, pods.iter().map(|p| &**p))
            }
        };
        let of = owned(all());
        watches.on(&self.replica_sets, move |s| of(&key_of(s).0, &uid_of(s)));
        let of = owned(all());
        watches.on(&self.stateful_sets, move |s| of(&key_of(s).0, &uid_of(s)));
        let of = owned(all());
        watches.on(&self.replication_controllers, move |s| {
            of(&key_of(s).0, &uid_of(s))
        });
        let (of, sets) = (owned(all()), self.replica_sets.clone());
        watches.on(&self.deployments, move |d| {
            let sets = sets.owned_by(&uid_of(d));
            let keys = sets.iter().flat_map(|s| of(&key_of(&**s).0, &uid_of(&**s)));
            keys.collect()
        });
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let budget = self.budgets.get(namespace, name)?;
        let mut pods = self.pods.list_namespace(namespace);
        pods.retain(|p| selects(&budget, p));
        pods.sort_by_cached_key(|p| p.name_any());
        let scale = |p: &Arc<Pod>| {
            let owner = controller_of(&**p)?;
            Some((owner.uid.clone(), self.scale(namespace, owner)?))
        };
        let scales = pods.iter().filter_map(scale).collect();
        Some(Observed {
            budget,
            pods,
            scales,
            unknown: BTreeMap::new(),
        })
    }

    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        if !plan::asks_for_scales(&seen.budget) {
            return Ok(seen);
        }
        let namespace = seen.budget.namespace().unwrap_or_default();
        let owners = seen.pods.iter().filter_map(|p| controller_of(&**p));
        let others = owners.filter(|o| !seen.scales.contains_key(&o.uid));
        // One question for each, however many pods it has.
        let others: BTreeMap<String, OwnerReference> =
            others.map(|o| (o.uid.clone(), o.clone())).collect();
        for (uid, owner) in others {
            let new = || async { Discovery::new(client.clone()) };
            let discovery = self.discovery.get_or_init(new).await;
            match asked_for(client, discovery, &namespace, &owner).await {
                Ok(Some(scale)) => {
                    seen.scales.insert(uid, scale);
                }
                Ok(None) => {}
                Err(why) => {
                    seen.unknown.insert(uid, why);
                }
            }
        }
        Ok(seen)
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scale_counts_for_the_owner_and_for_no_other_of_its_name() {
        let scale = json!({ "metadata": { "uid": "u" }, "spec": { "replicas": 3 } });
        let expected = |replicas| Scale {
            uid: "u".to_owned(),
            replicas,
        };
        assert_eq!(read(&scale, "u"), Some(expected(3)));
        assert_eq!(read(&scale, "other"), None);
        let none = json!({ "metadata": { "uid": "u" }, "spec": {} });
        assert_eq!(read(&none, "u"), Some(expected(0)));
    }
}
