//! RuntimeClass: what a pod's runtime class adds to it: overhead, node selector, tolerations.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, is_new_pod, list, push, text};
use crate::state::State;

/// The label of the class that a pod names.
const CLASS: &str = "runtime class";

pub struct RuntimeClass;

impl Admit for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        is_new_pod(operation, row, subresource)
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        match asked.text("/spec/runtimeClassName") {
            "" => Vec::new(),
            name => vec![Need::relied(
                CLASS,
                ("node.k8s.io", "runtimeclasses"),
                "",
                name,
            )],
        }
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some(pod) = review.object.as_deref_mut() else {
                return Ok(());
            };
            let name = text(pod, "/spec/runtimeClassName").to_owned();
            let done = if name.is_empty() {
                without_class(pod)
            } else {
                match review.found.get(CLASS) {
                    None => Err(format!("pod rejected: RuntimeClass {name:?} not found")),
                    Some(class) => with_class(pod, &class.to_value()),
                }
            };
            done.map_err(|why| review.forbidden(&why))
        })
    }
}

const NO_CLASS: &str =
    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

fn without_class(pod: &Value) -> Result<(), String> {
    match pod.pointer("/spec/overhead") {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(NO_CLASS.into()),
    }
}

fn with_class(pod: &mut Value, class: &Value) -> Result<(), String> {
    match class.pointer("/overhead/podFixed") {
        None => without_class(pod)?,
        Some(fixed) => {
            let own = pod
                .pointer("/spec/overhead")
                .filter(|o| o.as_object().is_some_and(|o| !o.is_empty()));
            if own.is_some_and(|own| own != fixed) {
                return Err(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"
                        .into(),
                );
            }
            pod["spec"]["overhead"] = fixed.clone();
        }
    }
    let selector = class
        .pointer("/scheduling/nodeSelector")
        .and_then(Value::as_object);
    for (key, theirs) in selector.into_iter().flatten() {
        let own = pod.pointer("/spec/nodeSelector").and_then(|s| s.get(key));
        if let Some(own) = own.filter(|own| *own != theirs) {
            let plain = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                plain(theirs),
                plain(own)
            ));
        }
        pod["spec"]["nodeSelector"][key] = theirs.clone();
    }
    for toleration in list(class, "/scheduling/tolerations") {
        if !list(pod, "/spec/tolerations").contains(toleration) {
            push(pod, "tolerations", toleration.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_class_adds_to_the_pod() {
        let class = json!({
            "overhead": { "podFixed": { "cpu": "10m" } },
            "scheduling": { "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "k" }] },
        });
        let mut pod = json!({ "spec": {} });
        assert_eq!(with_class(&mut pod, &class), Ok(()));
        assert_eq!(
            pod["spec"],
            json!({ "overhead": { "cpu": "10m" }, "nodeSelector": { "a": "b" }, "tolerations": [{ "key": "k" }] })
        );
        let mut other = json!({ "spec": { "nodeSelector": { "a": "c" } } });
        assert!(with_class(&mut other, &class).is_err());
        assert!(without_class(&json!({ "spec": { "overhead": {} } })).is_err());
    }
}
