//! PodDisruptionBudget: how many of the pods that it selects may be disrupted now.

use std::sync::Arc;

use client::{Informer, Informers};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::common::{Key, controller_of, key_of, selector_of, uid_of};

pub mod plan;

pub use plan::{Observed, Scale};

pub struct Disruptions {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    replication_controllers: Informer<ReplicationController>,
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
        }
    }

    /// What scales a pod: the owner, or of a ReplicaSet its Deployment.
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
        })
    }

    fn plan(&self, observed: &Observed, now_millis: i64) -> Plan {
        plan::plan(observed, now_millis)
    }
}
