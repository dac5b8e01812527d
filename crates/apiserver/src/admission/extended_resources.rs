//! ExtendedResourceToleration: a pod that asks for a device tolerates the taint of that name, so
//! that nodes with devices can be kept for those who need them.

use std::collections::BTreeSet;

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{Admit, Operation, Review, is_pod, list, push, text};
use crate::state::State;

pub struct ExtendedResourceToleration;

impl Admit for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_pod(row, subresource)
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(pod) = review.object.as_deref_mut() {
            tolerate(pod);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn tolerate(pod: &mut Value) {
    let mut names = BTreeSet::new();
    for field in ["/spec/containers", "/spec/initContainers"] {
        for container in list(pod, field) {
            let requests = container.pointer("/resources/requests");
            let requests = requests.and_then(Value::as_object).into_iter().flatten();
            let asked = requests.map(|(name, _)| name.clone());
            names.extend(asked.filter(|name| quota::evaluator::is_extended_resource(name)));
        }
    }
    for name in names {
        let same = |t: &Value| {
            text(t, "/key") == name
                && text(t, "/operator") == "Exists"
                && text(t, "/effect") == "NoSchedule"
                && t.get("tolerationSeconds").is_none_or(Value::is_null)
        };
        if !list(pod, "/spec/tolerations").iter().any(same) {
            let toleration = json!({ "key": name, "operator": "Exists", "effect": "NoSchedule" });
            push(pod, "tolerations", toleration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_tolerated_once() {
        let mut pod = json!({ "spec": { "containers": [
            { "resources": { "requests": { "cpu": "1", "example.com/gpu": "1", "kubernetes.io/x": "1" } } }] } });
        tolerate(&mut pod);
        tolerate(&mut pod);
        assert_eq!(
            pod["spec"]["tolerations"],
            json!([{ "key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule" }])
        );
    }
}
