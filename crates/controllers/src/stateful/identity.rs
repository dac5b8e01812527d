//! What makes a pod the one of its number: name, labels, host name, and the volumes of its claims.

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use serde_json::{Value, json};

use super::claims;
use super::names::pod_name;
use crate::common::value_of;
use crate::ownership::Parent;
use crate::pods;
use crate::revisions::HASH_LABEL;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The name of the revision that a pod was made of.
pub fn revision_of(pod: &Pod) -> &str {
    label(pod, HASH_LABEL).unwrap_or_default()
}

/// The patch that gives an adopted pod the labels of its identity, if it lacks them.
pub fn labels_to_mend(pod: &Pod, ordinal: i32) -> Option<Value> {
    let name = pod.metadata.name.as_deref()?;
    let index = ordinal.to_string();
    if label(pod, NAME_LABEL) == Some(name) {
        return None;
    }
    Some(json!({ "metadata": { "uid": pod.metadata.uid,
        "labels": { NAME_LABEL: name, INDEX_LABEL: index } } }))
}

/// The pod of a number, of a revision's template.
pub fn new_pod(
    parent: &Parent,
    spec: &StatefulSetSpec,
    template: &PodTemplateSpec,
    revision: &str,
    ordinal: i32,
) -> Value {
    let name = pod_name(&parent.name, ordinal);
    let mut pod = pods::of_template(parent, &value_of(template), &name);
    pod["metadata"]["generateName"] = json!(format!("{}-", parent.name));
    let labels = &mut pod["metadata"]["labels"];
    if labels.is_null() {
        *labels = json!({});
    }
    labels[NAME_LABEL] = json!(name);
    labels[INDEX_LABEL] = json!(ordinal.to_string());
    labels[HASH_LABEL] = json!(revision);
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = json!(spec.service_name.as_deref().filter(|s| !s.is_empty()));
    let mut volumes = Vec::new();
    for claim in claims::templates(spec) {
        volumes.push(
            json!({ "name": claims::volume(claim), "persistentVolumeClaim": {
            "claimName": claims::name(claim, &parent.name, ordinal) } }),
        );
    }
    let of_claims = volumes.len();
    let given = pod["spec"]["volumes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for volume in given {
        let hidden = volumes[..of_claims]
            .iter()
            .any(|v| v["name"] == volume["name"]);
        if !hidden {
            volumes.push(volume);
        }
    }
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = Value::Array(volumes);
    }
    pod
}
