//! Groups of pods that are used outlive their deletion: a finalizer, which admission sets, holds a group
//! until no pod of it is left that has not ended. The kind is served where somebody asks for it, and
//! watched there.

use client::{Informer, Informers, ServedKinds};
use clock::Random;
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use kube::api::ListParams;
use kube::core::ApiResource;
use kube::{Api, Client};

use crate::common::{Key, is_deleting, is_finished, key_of};
use crate::{finalizers, served_later};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";
/// Name of the index of pods that have not ended, by their groups.
const BY_GROUP: &str = "group of pods";

/// Takes the finalizer of groups that are to go and hold no pods.
pub struct PodGroupProtection {
    client: Client,
    random: Random,
    served: ServedKinds,
    pods: Informer<Pod>,
}

impl PodGroupProtection {
    /// `client` acts as [`Controller::ACCOUNT`].
    pub fn new(informers: &Informers, client: Client) -> Self {
        let all = Self {
            client,
            random: informers.random().clone(),
            served: informers.served(),
            pods: informers.of(),
        };
        all.pods.index(BY_GROUP, |pod| {
            let group = group_of(pod).filter(|_| !is_finished(pod));
            group.iter().map(place).collect()
        });
        all
    }
}

/// The group that a pod names.
fn group_of(pod: &Pod) -> Option<Key> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?;
    let name = group.pod_group_name.clone()?;
    Some((pod.metadata.namespace.clone().unwrap_or_default(), name))
}

fn place((namespace, name): &Key) -> String {
    format!("{namespace}/{name}")
}

/// Whether nothing but its pods may keep the group.
fn is_held(group: &PodGroup) -> bool {
    is_deleting(group) && finalizers::has(group, FINALIZER)
}

/// A group that may have nothing left to wait for.
pub struct Observed {
    key: Key,
    is_used: bool,
    /// Where it is to go, and nobody uses it.
    group: Option<PodGroup>,
}

impl Controller for PodGroupProtection {
    const NAME: &'static str = "podgroup-protection-controller";
    const QUEUE: &'static str = "podgroupprotection";
    const ACCOUNT: &'static str = "podgroup-protection-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        let (random, served) = (self.random.clone(), self.served.clone());
        let api: Api<PodGroup> = Api::all(self.client.clone());
        let resource = ApiResource::erase::<PodGroup>(&());
        watches.feed(|keys| {
            served_later::each(api, resource, random, served, move |group| {
                if is_held(&group) {
                    keys.add([key_of(&group)]);
                }
            })
        });
        watches.on_change(&self.pods, |change| {
            let new = change.new.as_deref();
            let gone = change.old.as_deref().filter(|old| {
                let is_other = |new: &Pod| new.metadata.uid != old.metadata.uid;
                new.is_none_or(is_other)
            });
            let ended = new.filter(|pod| is_finished(pod));
            let pods = gone.into_iter().chain(ended);
            pods.filter_map(group_of).collect()
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        Some(Observed {
            key: key.clone(),
            is_used: !self.pods.by_index(BY_GROUP, &place(key)).is_empty(),
            group: None,
        })
    }

    /// Nobody uses it: but is the cache the newest? A group that is let go is gone for good.
    async fn gather(&self, client: &Client, mut seen: Observed) -> Result<Observed, kube::Error> {
        if seen.is_used {
            return Ok(seen);
        }
        let (namespace, name) = &seen.key;
        let groups: Api<PodGroup> = Api::namespaced(client.clone(), namespace);
        let group = match groups.get_opt(name).await {
            // The kind is not served any more.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            found => found?.filter(is_held),
        };
        if group.is_some() {
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let pods = pods.list(&ListParams::default()).await?;
            let mut own = pods
                .iter()
                .filter(|p| group_of(p).as_ref() == Some(&seen.key));
            seen.is_used = own.any(|pod| !is_finished(pod));
        }
        seen.group = group;
        Ok(seen)
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }
}

fn plan(seen: &Observed) -> Plan {
    match &seen.group {
        Some(group) => finalizers::plan(group, FINALIZER, seen.is_used),
        None => Plan::nothing(),
    }
}

#[cfg(test)]
mod tests {
    use control::Action;
    use serde_json::{Value, json};

    use super::*;

    fn group(change: impl FnOnce(&mut Value)) -> PodGroup {
        let mut group = json!({ "metadata": { "name": "g", "namespace": "a", "finalizers": [FINALIZER],
            "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "schedulingPolicy": { "gang": { "minCount": 2 } } } });
        change(&mut group);
        serde_json::from_value(group).unwrap()
    }

    #[test]
    fn a_group_is_let_go_when_no_pod_is_left() {
        let held = group(|_| {});
        assert!(is_held(&held));
        assert!(!is_held(&group(
            |g| g["metadata"]["finalizers"] = json!(["x/y"])
        )));
        assert!(!is_held(&group(|g| {
            g["metadata"]["deletionTimestamp"] = Value::Null;
        })));
        let mut seen = Observed {
            key: key_of(&held),
            is_used: true,
            group: Some(held),
        };
        assert_eq!(plan(&seen), Plan::nothing());
        seen.is_used = false;
        let plan = plan(&seen);
        let [Action::Update { object, .. }] = &plan.actions[..] else {
            panic!("{plan:?}");
        };
        assert_eq!(object["metadata"]["finalizers"], json!([]));
        // What else it says stays.
        assert_eq!(object["spec"]["schedulingPolicy"]["gang"]["minCount"], 2);
    }

    #[test]
    fn a_pod_names_its_group() {
        let pod = |spec: Value| -> Pod {
            let meta = json!({ "name": "p", "namespace": "a" });
            serde_json::from_value(json!({ "metadata": meta, "spec": spec })).unwrap()
        };
        let named = pod(json!({ "containers": [], "schedulingGroup": { "podGroupName": "g" } }));
        assert_eq!(group_of(&named), Some(("a".to_owned(), "g".to_owned())));
        assert_eq!(group_of(&pod(json!({ "containers": [] }))), None);
    }
}
