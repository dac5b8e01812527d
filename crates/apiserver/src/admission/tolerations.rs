//! DefaultTolerationSeconds: how long a pod stays bound to a node that is not ready or not heard
//! of, when the pod says nothing of it.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{Admit, Operation, Review, list, push, text};
use crate::state::State;

/// Upstream waits 300 s. Here a node is only marked after its own grace period, in which it has
/// missed several heartbeats, and the replacement of a pod is cheap compared with five minutes
/// without it; 30 s outlast a restart of the node's agent and most reboots' loss of network.
pub const DEFAULT_SECONDS: i64 = 30;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

pub struct DefaultTolerationSeconds {
    pub not_ready_seconds: i64,
    pub unreachable_seconds: i64,
}

impl Admit for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && row.group.is_empty()
            && &*row.resource == "pods"
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        if let Some(pod) = review.object.as_deref_mut() {
            add(pod, NOT_READY, self.not_ready_seconds);
            add(pod, UNREACHABLE, self.unreachable_seconds);
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

fn add(pod: &mut Value, key: &str, seconds: i64) {
    if list(pod, "/spec/tolerations")
        .iter()
        .any(|t| speaks_of(t, key))
    {
        return;
    }
    let toleration = json!({
        "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
    });
    push(pod, "tolerations", toleration);
}

fn speaks_of(toleration: &Value, key: &str) -> bool {
    matches!(text(toleration, "/key"), k if k == key || k.is_empty())
        && matches!(text(toleration, "/effect"), "" | "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pod_says_counts() {
        let mut pod = json!({ "spec": { "tolerations": [{ "key": NOT_READY, "operator": "Exists", "effect": "NoExecute" }] } });
        add(&mut pod, NOT_READY, 5);
        add(&mut pod, UNREACHABLE, 5);
        add(&mut pod, UNREACHABLE, 6);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
        assert_eq!(pod["spec"]["tolerations"][1]["tolerationSeconds"], 5);
        let mut all = json!({ "spec": { "tolerations": [{ "operator": "Exists" }] } });
        add(&mut all, UNREACHABLE, 5);
        assert_eq!(all["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
    }
}
