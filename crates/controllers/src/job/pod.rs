//! The pods of a Job: their finalizer, index and count of failures, and how they are made.

use control::action::{Action, Patch};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::common::{is_deleting, key_of, phase, uid_of};
use crate::pods;

/// While a pod has it, the pod is not counted yet, and stays.
pub const TRACKED: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Bytes; five letters follow, and a name has 63 at most.
const LONGEST_PREFIX: usize = 58;

pub fn is_tracked(pod: &Pod) -> bool {
    let mut all = pod.metadata.finalizers.iter().flatten();
    all.any(|f| f == TRACKED)
}

/// Lets a pod go: it was counted, or will not be.
pub fn untrack(pod: &Pod) -> Action {
    // Names what goes, so that it does not matter what others change meanwhile.
    let patch = json!({ "metadata": { "uid": uid_of(pod),
        "$deleteFromPrimitiveList/finalizers": [TRACKED] } });
    Action::Patch {
        target: pods::target(pod),
        subresource: "",
        patch: Patch::Strategic(patch),
    }
}

fn annotation(pod: &Pod, key: &str) -> Option<i32> {
    let value = pod.metadata.annotations.as_ref()?.get(key)?.parse().ok()?;
    (value >= 0).then_some(value)
}

/// The completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)
}

/// Failures of the pod's index before it, those that count and those that were ignored.
pub fn failures_before(pod: &Pod) -> (i32, i32) {
    (
        annotation(pod, FAILURES).unwrap_or(0),
        annotation(pod, IGNORED).unwrap_or(0),
    )
}

/// A pod of this Job counts only as failed when its phase says so, not already when it is being
/// deleted.
pub fn only_failed_count(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    let policy = spec.and_then(|s| s.pod_replacement_policy.as_deref());
    policy == Some("Failed") || spec.is_some_and(|s| s.pod_failure_policy.is_some())
}

pub fn has_failed(job: &Job, pod: &Pod) -> bool {
    match phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => is_deleting(pod) && !only_failed_count(job),
    }
}

/// The template as all pods of the Job have it.
pub fn template(template: &Value, indexed: bool) -> Value {
    let mut template = template.clone();
    let given = template["metadata"]["finalizers"].as_array().cloned();
    let mut finalizers = given.unwrap_or_default();
    if !finalizers.iter().any(|f| f == TRACKED) {
        finalizers.push(json!(TRACKED));
    }
    template["metadata"]["finalizers"] = Value::Array(finalizers);
    if !indexed {
        return template;
    }
    let variable = json!({ "name": INDEX_VARIABLE, "valueFrom": { "fieldRef": {
        "fieldPath": format!("metadata.labels['{INDEX}']") } } });
    for field in ["initContainers", "containers"] {
        let containers = template.pointer_mut(&format!("/spec/{field}"));
        for container in containers
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let env = container["env"].as_array().cloned().unwrap_or_default();
            if !env.iter().any(|v| v["name"] == INDEX_VARIABLE) {
                let all = env.into_iter().chain([variable.clone()]);
                container["env"] = all.collect();
            }
        }
    }
    template
}

/// How the names of the pods of an index begin: of a long name the end is left out, never the index.
pub fn name_prefix(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let kept = LONGEST_PREFIX.saturating_sub(end.len());
    format!("{}{end}", job.get(..kept).unwrap_or(job))
}

/// Makes a pod the one of an index; `failures` as [`failures_before`], where they are counted.
pub fn give_index(template: &mut Value, job: &Job, index: i32, failures: Option<(i32, i32)>) {
    let (_, name) = key_of(job);
    for field in ["annotations", "labels"] {
        if template["metadata"][field].is_null() {
            template["metadata"][field] = json!({});
        }
        template["metadata"][field][INDEX] = json!(index.to_string());
    }
    if let Some((counted, ignored)) = failures {
        let annotations = &mut template["metadata"]["annotations"];
        annotations[FAILURES] = json!(counted.to_string());
        if ignored > 0 {
            annotations[IGNORED] = json!(ignored.to_string());
        }
    }
    template["spec"]["hostname"] = json!(format!("{name}-{index}"));
}
