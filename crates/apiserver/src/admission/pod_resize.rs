//! PodResizeValidator: a pod does not grow beyond what its node could ever give.

use api::{Cause, Status};
use futures::future::BoxFuture;
use quota::{Amounts, pod};
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, Operation, Review, text};
use crate::state::State;

/// The label of the pod's node.
pub(super) const NODE: &str = "node of the resized pod";
const PLAIN: pod::Rules = pod::Rules {
    status: false,
    overhead: true,
    huge_pages: true,
};

pub struct PodResizeValidator;

impl Admit for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        is_resize(operation, row, subresource)
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        its_node(asked)
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(check(review)))
    }
}

pub(super) fn is_resize(operation: Operation, row: &Row, subresource: &str) -> bool {
    operation == Operation::Update
        && subresource == "resize"
        && row.group.is_empty()
        && &*row.resource == "pods"
}

/// The node that a pod is on, as [`NODE`].
pub(super) fn its_node(asked: &AdmissionAttributes<'_>) -> Vec<Need> {
    match asked.text("/spec/nodeName") {
        "" => Vec::new(),
        name => vec![Need::seen(NODE, ("", "nodes"), "", name)],
    }
}

fn check(review: &Review<'_>) -> Result<(), Status> {
    let (Some(pod), Some(old)) = (review.object.as_deref(), review.old) else {
        return Ok(());
    };
    let name = text(pod, "/spec/nodeName");
    if name.is_empty() || pod.get("spec") == old.get("spec") {
        return Ok(());
    }
    let Some(node) = review.found.get(NODE) else {
        return Err(review.forbidden(&format!("node {name:?} not found")));
    };
    let refuse = |why: String, reason: &str| {
        let mut status = review.forbidden(&why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: reason.into(),
                ..Cause::default()
            });
        }
        Err(status)
    };
    if let Some(system) = node.label("kubernetes.io/os").filter(|os| *os != "linux") {
        let why =
            format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
        return refuse(why, "UnsupportedPlatform");
    }
    match beyond(pod, &node.to_value()) {
        None => Ok(()),
        Some(why) => refuse(why, "NodeCapacity"),
    }
}

/// What a pod asks for that its node does not have.
fn beyond(pod: &Value, node: &Value) -> Option<String> {
    let has = Amounts::read(node.pointer("/status/allocatable"));
    let asks = pod::requests(pod, PLAIN);
    let of = |all: &Amounts, name| all.get(name).copied().unwrap_or_default();
    let mut short = Vec::new();
    let (cpu, room) = (of(&asks, "cpu"), of(&has, "cpu"));
    if cpu > room {
        let (cpu, room) = (cpu.milli_value(), room.milli_value());
        short.push(format!("cpu, requested: {cpu}, allocatable: {room}"));
    }
    let (memory, room) = (of(&asks, "memory"), of(&has, "memory"));
    if memory > room {
        let (memory, room) = (memory.value(), room.value());
        short.push(format!("memory, requested: {memory}, allocatable: {room}"));
    }
    (!short.is_empty()).then(|| {
        format!(
            "node didn't have enough allocatable resources: {}",
            short.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_stays_below_its_node() {
        let node = json!({ "status": { "allocatable": { "cpu": "2", "memory": "1Gi" } } });
        let pod = |cpu: &str, memory: &str| json!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": cpu, "memory": memory } } }] } });
        assert_eq!(beyond(&pod("2", "1Gi"), &node), None);
        assert_eq!(
            beyond(&pod("2500m", "2Gi"), &node).as_deref(),
            Some(
                "node didn't have enough allocatable resources: cpu, requested: 2500, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"
            )
        );
    }
}
