//! What was last made for a key, of each kind. Where that has gone again and is to be made once more,
//! its owner may have gone: somebody removes what it owned, as the garbage collector does, and only
//! the owner's own watch is late. Without a look at the owner, both would go on as fast as they can
//! until it comes.

use std::collections::HashMap;
use std::hash::Hash;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use parking_lot::Mutex;
use serde_json::Value;

use crate::action::{Action, Patch, Plan, Target};
use crate::expectation::{Expected, LookUps, expect};

/// An object, and its UID.
pub(crate) type Object = (Target, String);

pub(crate) struct LastCreated<K>(Mutex<HashMap<K, Vec<Object>>>);

impl<K> Default for LastCreated<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash> LastCreated<K> {
    /// Takes note of what was made; only what has an owner counts.
    pub fn note(&self, key: &K, target: &Target, made: &DynamicObject) {
        let mut owners = made.metadata.owner_references.iter().flatten();
        if !owners.any(|o| o.controller == Some(true)) {
            return;
        }
        let name = made.metadata.name.clone().unwrap_or_default();
        let object = (
            Target {
                name,
                ..target.clone()
            },
            made.metadata.uid.clone().unwrap_or_default(),
        );
        let mut all = self.0.lock();
        let of_key = all.entry(key.clone()).or_default();
        of_key.retain(|(t, _)| t.resource != target.resource);
        of_key.push(object);
    }

    /// The owner of what the plan makes, if it makes again what was made before and has gone, and the
    /// caches say that the owner lives. The API must be asked about it.
    pub fn doubtful_owner(&self, key: &K, plan: &Plan, look_ups: &LookUps) -> Option<Object> {
        let has_gone = |(target, uid): Object| {
            expect(&target, &target.name, Expected::Gone(uid)).is_met(look_ups)
        };
        let mut creations = plan.all().filter_map(|action| match action {
            Action::Create { target, object } => Some((target, object)),
            _ => None,
        });
        let (target, object) =
            creations.find(|(target, _)| self.last(key, target).is_some_and(has_gone))?;
        let (owner, uid) = owner_of(target, object)?;
        // What the caches know already the plan knew, too, and of what nobody watches nothing is known.
        let is_known = expect(&owner, &owner.name, Expected::Gone(uid.clone())).is_met(look_ups);
        (!is_known).then_some((owner, uid))
    }

    /// What was last made of the target's kind.
    fn last(&self, key: &K, target: &Target) -> Option<Object> {
        let all = self.0.lock();
        let mut of_key = all.get(key)?.iter();
        of_key.find(|(t, _)| t.resource == target.resource).cloned()
    }

    /// There is no such key any more.
    pub fn forget(&self, key: &K) {
        self.0.lock().remove(key);
    }
}

/// The owner that the plan gives something to that nobody owned.
pub(crate) fn adopter(plan: &Plan) -> Option<Object> {
    plan.all().find_map(|action| match action {
        Action::Patch {
            target,
            patch: Patch::Merge(patch),
            ..
        } if action.adopts() => owner_of(target, patch),
        _ => None,
    })
}

/// The controller that an object names as its owner, taken for one of the same namespace.
fn owner_of(target: &Target, object: &Value) -> Option<Object> {
    let mut owners = object["metadata"]["ownerReferences"].as_array()?.iter();
    let owner = owners.find(|o| o["controller"] == true)?;
    let text = |field: &str| owner[field].as_str();
    let (group, version) = match text("apiVersion")?.split_once('/') {
        Some(both) => both,
        None => ("", text("apiVersion")?),
    };
    let kind = GroupVersionKind::gvk(group, version, text("kind")?);
    let owner = Target {
        resource: ApiResource::from_gvk(&kind),
        namespace: target.namespace.clone(),
        name: text("name")?.to_owned(),
    };
    Some((owner, text("uid")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_last_of_each_kind_is_remembered_and_its_owner_is_found() {
        let (made, target) = (LastCreated::default(), Target::of::<Pod>("a", ""));
        let object = |name: &str, is_controller: bool| {
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": "a", "uid": format!("uid-{name}"),
                    "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "StatefulSet",
                        "name": "db", "uid": "s", "controller": is_controller }] } })
        };
        let note = |name: &str, is_controller: bool| {
            let object = serde_json::from_value(object(name, is_controller)).expect("an object");
            made.note(&1, &target, &object);
        };
        note("db-0", true);
        note("db-1", true);
        note("other", false);
        let (last, uid) = made.last(&1, &target).expect("the second");
        assert_eq!((&*last.name, &*uid), ("db-1", "uid-db-1"));
        assert!(made.last(&1, &Target::of::<StatefulSet>("a", "")).is_none());
        made.forget(&1);
        assert!(made.last(&1, &target).is_none());
        let (owner, uid) = owner_of(&target, &object("db-0", true)).expect("an owner");
        assert_eq!(owner, Target::of::<StatefulSet>("a", "db"));
        assert_eq!(uid, "s");
        assert!(owner_of(&target, &object("db-0", false)).is_none());
    }
}
