//! Whose is it? What a controller owns of a kind, what it may adopt and what it lets go: one rule
//! for pods, ReplicaSets and ControllerRevisions.

use std::fmt::Debug;
use std::sync::Arc;

use api::LabelSelector;
use client::Informer;
use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::common::{
    Key, controller_of, controller_reference, is_deleting, key_of, selector_of, uid_of, value_of,
};

/// The index of objects that no controller owns, by namespace.
const ORPHANS: &str = "orphans";

/// Keeps what [`candidates`] looks up.
pub fn index<K>(informer: &Informer<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    informer.index(ORPHANS, |object| match controller_of(object) {
        Some(_) => Vec::new(),
        None => vec![object.namespace().unwrap_or_default()],
    });
}

/// What the controller with this UID owns, and what of its namespace it could adopt; by name.
pub fn candidates<K>(
    informer: &Informer<K>,
    namespace: &str,
    uid: &str,
    selector: &LabelSelector,
) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut found = informer.owned_by(uid);
    found.retain(|o| controller_of(&**o).is_some_and(|owner| owner.uid == uid));
    let orphans = informer.by_index(ORPHANS, namespace).into_iter();
    found.extend(orphans.filter(|o| selector.matches(&o.meta().labels)));
    found.sort_by_cached_key(|o| o.name_any());
    found
}

/// The keys that an object concerns: its controller of this kind, or all that could adopt it.
pub fn concerned<K: Resource>(
    object: &K,
    kind: &str,
    adopters: impl Fn(&str) -> Vec<(Key, LabelSelector)>,
) -> Vec<Key> {
    let (namespace, _) = key_of(object);
    match controller_of(object) {
        Some(owner) if owner.kind == kind => vec![(namespace, owner.name.clone())],
        Some(_) => Vec::new(),
        None => {
            let all = adopters(&namespace).into_iter();
            all.filter(|(_, s)| s.matches(&object.meta().labels))
                .map(|(k, _)| k)
                .collect()
        }
    }
}

/// A controller's object, as what it owns knows it.
#[derive(Clone, Debug)]
pub struct Parent {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub about: ObjectReference,
    /// The owner reference that its dependents carry.
    pub reference: Value,
    pub selector: LabelSelector,
    pub deleting: bool,
    /// What it adopts gets this finalizer, what it lets go loses it.
    pub finalizer: Option<&'static str>,
}

impl Parent {
    pub fn new<K: Resource<DynamicType = ()>>(object: &K, selector: LabelSelector) -> Self {
        let (namespace, name) = key_of(object);
        Self {
            namespace,
            name,
            uid: uid_of(object),
            about: control::action::reference(object),
            reference: controller_reference(object),
            selector,
            deleting: is_deleting(object),
            finalizer: None,
        }
    }

    /// As [`Parent::new`], with a selector as most kinds have it.
    pub fn selecting<K: Resource<DynamicType = ()>>(
        object: &K,
        selector: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    ) -> Self {
        Self::new(object, selector_of(selector))
    }

    /// What is the parent's own after this plan. What it owned and no longer `fits` is let go;
    /// what nobody owns, fits and may be `adopted` becomes its own. A parent that is being deleted
    /// does neither.
    pub fn claim<'a, K: Resource<DynamicType = ()>>(
        &self,
        all: &'a [Arc<K>],
        fits: impl Fn(&K) -> bool,
        adopted: impl Fn(&K) -> bool,
        plan: &mut Plan,
    ) -> Vec<&'a Arc<K>> {
        let mut own = Vec::new();
        for object in all {
            let matches = self.selector.matches(&object.meta().labels) && fits(object);
            match controller_of(&**object) {
                Some(owner) if owner.uid != self.uid => {}
                Some(_) if matches => own.push(object),
                Some(_) if self.deleting || is_deleting(&**object) => {}
                Some(_) => plan.actions.push(self.release(&**object)),
                None if matches && !self.deleting && !is_deleting(&**object) && adopted(object) => {
                    plan.actions.push(self.adopt(&**object));
                    own.push(object);
                }
                None => {}
            }
        }
        own
    }
}

/// Whatever is adopted may be so.
pub fn any<K>(_: &K) -> bool {
    true
}

fn owners<K: Resource>(object: &K) -> impl Iterator<Item = &OwnerReference> {
    object.meta().owner_references.iter().flatten()
}

impl Parent {
    fn release<K: Resource<DynamicType = ()>>(&self, object: &K) -> Action {
        let others = owners(object).filter(|o| o.uid != self.uid);
        self.with_owners(object, others.map(value_of).collect(), false)
    }

    fn adopt<K: Resource<DynamicType = ()>>(&self, object: &K) -> Action {
        // It may be one of its owners already, that did not control it.
        let others = owners(object).filter(|o| o.uid != self.uid);
        let mut all: Vec<Value> = others.map(value_of).collect();
        all.push(self.reference.clone());
        self.with_owners(object, all, true)
    }

    fn with_owners<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        owners: Vec<Value>,
        is_ours: bool,
    ) -> Action {
        let (namespace, name) = key_of(object);
        let mut patch = json!({ "metadata": { "uid": uid_of(object), "ownerReferences": owners } });
        if let Some(finalizer) = self.finalizer {
            let all = object.meta().finalizers.iter().flatten();
            let mut all: Vec<&str> = all.map(String::as_str).collect();
            all.retain(|f| *f != finalizer);
            all.extend(is_ours.then_some(finalizer));
            patch["metadata"]["finalizers"] = json!(all);
            // The list is replaced: nobody may have changed it meanwhile.
            patch["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
        }
        Action::merge(Target::of::<K>(&namespace, &name), patch)
    }
}

#[cfg(test)]
mod tests {
    use control::action::Patch;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn parent(deleting: bool, finalizer: Option<&'static str>) -> Parent {
        Parent {
            namespace: "a".into(),
            name: "o".into(),
            uid: "o".into(),
            about: ObjectReference::default(),
            reference: json!({ "uid": "o", "controller": true }),
            selector: LabelSelector::parse("app=a").expect("a selector"),
            deleting,
            finalizer,
        }
    }

    /// A pod with an owner that does not control it and one that may.
    fn pod(matches: bool, owner: Option<(&str, bool)>, deleting: bool) -> Arc<Pod> {
        let reference = |uid: &str, controls: bool| {
            json!({ "apiVersion": "v1", "kind": "K", "name": uid, "uid": uid,
                "controller": controls })
        };
        let mut owners = vec![reference("y", false)];
        owners.extend(owner.map(|(uid, controls)| reference(uid, controls)));
        let label = if matches { "a" } else { "b" };
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        let pod = json!({ "metadata": { "name": "p", "namespace": "a", "uid": "p",
            "labels": { "app": label }, "ownerReferences": owners, "finalizers": ["f", "g"],
            "deletionTimestamp": deletion } });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn what_is_owned_adopted_and_let_go() {
        let (adopted, released) = (Some(vec!["y", "o"]), Some(vec!["y"]));
        // Whether it is selected, who owns it and controls it, whether it is being deleted and its
        // owner is; whether it is the owner's then, and which owners it gets.
        for (matches, owner, deleting, ends, own, owners) in [
            (true, None, false, false, true, adopted.clone()),
            (true, Some(("o", false)), false, false, true, adopted),
            (false, None, false, false, false, None),
            (true, None, false, true, false, None),
            (true, None, true, false, false, None),
            (true, Some(("o", true)), false, false, true, None),
            (true, Some(("o", true)), false, true, true, None),
            (true, Some(("o", true)), true, false, true, None),
            (true, Some(("x", true)), false, false, false, None),
            (false, Some(("x", true)), false, false, false, None),
            (false, Some(("o", true)), false, false, false, released),
            (false, Some(("o", true)), true, false, false, None),
            (false, Some(("o", true)), false, true, false, None),
        ] {
            for finalizer in [None, Some("f")] {
                let row = format!("{matches} {owner:?} {deleting} {ends} {finalizer:?}");
                let (all, mut plan) = ([pod(matches, owner, deleting)], Plan::default());
                let found = parent(ends, finalizer).claim(&all, any, any, &mut plan);
                assert_eq!(!found.is_empty(), own, "{row}");
                let patches: Vec<&Value> = plan
                    .actions
                    .iter()
                    .map(|action| match action {
                        Action::Patch {
                            patch: Patch::Merge(patch),
                            ..
                        } => &patch["metadata"],
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let uids = |patch: &&Value| -> Vec<String> {
                    let all = patch["ownerReferences"].as_array().into_iter().flatten();
                    all.filter_map(|o| o["uid"].as_str().map(str::to_owned))
                        .collect()
                };
                let named = |all: &Vec<&str>| -> Vec<String> {
                    all.iter().map(|uid| (*uid).to_owned()).collect()
                };
                let wanted = owners.as_ref().map(named);
                assert_eq!(patches.first().map(uids), wanted, "{row}");
                let Some(patch) = patches.first() else {
                    continue;
                };
                assert_eq!(patch["uid"], "p", "never another one of its name");
                let finalizers = match (finalizer, own) {
                    (None, _) => Value::Null,
                    (Some(_), true) => json!(["g", "f"]),
                    (Some(_), false) => json!(["g"]),
                };
                assert_eq!(patch["finalizers"], finalizers, "{row}");
            }
        }
    }
}
