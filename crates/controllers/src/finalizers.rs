//! Finalizers that hold what is used: set while an object lives, and taken from one that is to go when
//! nobody uses it.

use control::Plan;
use control::action::{Action, Target};
use kube::Resource;
use serde::Serialize;

use crate::common::{is_deleting, key_of, value_of};

/// Whether the finalizer is there.
pub fn has<K: Resource>(object: &K, name: &str) -> bool {
    let all = object.meta().finalizers.as_ref();
    all.is_some_and(|f| f.iter().any(|f| f == name))
}

/// Whether there is something to do: a finalizer is missing, or may go.
pub fn concerns<K: Resource>(object: &K, finalizer: &str) -> bool {
    is_deleting(object) == has(object, finalizer)
}

/// Sets the finalizer of a living object, takes that of one that is to go and is not used.
pub fn plan<K>(object: &K, finalizer: &str, is_used: bool) -> Plan
where
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    if !concerns(object, finalizer) || is_deleting(object) && is_used {
        return Plan::nothing();
    }
    let mut changed = object.clone();
    let all = changed.meta_mut().finalizers.get_or_insert_default();
    if is_deleting(object) {
        all.retain(|f| f != finalizer);
    } else {
        all.push(finalizer.to_owned());
    }
    let (namespace, name) = key_of(object);
    Action::Update {
        target: Target::of::<K>(&namespace, &name),
        subresource: "",
        object: value_of(&changed),
    }
    .into()
}
