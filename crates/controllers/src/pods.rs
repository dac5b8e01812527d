//! Pods as controllers make and delete them: from a template, with the events of upstream.

use control::action::{Action, Target};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::common::{key_of, suffix, uid_of};
use crate::own::Parent;

/// Pods created or deleted by one plan at most, so that one large object does not starve the
/// others.
pub const BURST: usize = 500;

pub fn target(pod: &Pod) -> Target {
    let (namespace, name) = key_of(pod);
    Target::of::<Pod>(&namespace, &name)
}

/// A pod of a template, owned by `parent`.
pub fn of_template(parent: &Parent, template: &Value, name: &str) -> Value {
    let given = |field: &str| template.get(field).cloned().filter(|v| !v.is_null());
    let mut metadata = given("metadata").unwrap_or_else(|| json!({}));
    metadata["name"] = json!(name);
    metadata["namespace"] = json!(parent.namespace);
    metadata["ownerReferences"] = json!([parent.reference]);
    let spec = given("spec").unwrap_or_else(|| json!({}));
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// A pod whose name is made of `base` and letters that differ by time and `number`.
pub fn numbered(
    parent: &Parent,
    template: &Value,
    base: &str,
    now_millis: i64,
    number: usize,
) -> Value {
    let name = api::names::generate_name(base, &suffix(&parent.uid, now_millis, number));
    let mut pod = of_template(parent, template, &name);
    pod["metadata"]["generateName"] = json!(base);
    pod
}

/// Creates a pod, told by events on its parent.
pub fn create(parent: &Parent, pod: Value) -> Action {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let (target, done) = (
        Target::of::<Pod>(&parent.namespace, name),
        format!("Created pod: {name}"),
    );
    let action = Action::Create {
        target,
        object: pod,
    };
    action.noted(
        &parent.about,
        ("SuccessfulCreate", done),
        ("FailedCreate", "Error creating: {error}".into()),
    )
}

/// Deletes a pod, told by events on its parent.
pub fn delete(parent: &Parent, pod: &Pod) -> Action {
    let target = target(pod);
    let name = target.name.clone();
    Action::delete(target, Some(uid_of(pod))).noted(
        &parent.about,
        ("SuccessfulDelete", format!("Deleted pod: {name}")),
        (
            "FailedDelete",
            format!("Error deleting pod {name:?}: {{error}}"),
        ),
    )
}
