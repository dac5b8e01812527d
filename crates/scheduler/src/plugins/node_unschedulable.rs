//! A node that was set unschedulable takes only pods that tolerate it.

use super::{Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::{Effect, Node, Taint};
use crate::plugins::taint_toleration::tolerates;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct NodeUnschedulable;
struct Closed;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.with(Events::NODE_TAINTS)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &'a Snapshot) -> Prepare<'a> {
        if !snapshot.any_unschedulable() {
            return Ok(None);
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: "".into(),
            effect: Effect::NoSchedule,
        };
        let tolerated = pod.wants.tolerations.iter().any(|t| tolerates(t, &taint));
        Ok((!tolerated).then(|| Box::new(Closed) as Box<dyn Check>))
    }
}

impl Check for Closed {
    fn is_steady(&self) -> bool {
        true
    }

    fn advice(&self, _: &Node) -> Option<String> {
        Some("uncordon it".to_owned())
    }

    fn filter(&self, node: &Node) -> Verdict {
        if node.unschedulable {
            Verdict::Never(Reason::one("node(s) were unschedulable"))
        } else {
            Verdict::Fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Cluster, verdicts};
    use serde_json::json;

    #[test]
    fn closed_nodes_take_only_who_tolerates_it() {
        let cluster = Cluster::new([
            json!({"metadata": {"name": "open"}}),
            json!({"metadata": {"name": "closed"}, "spec": {"unschedulable": true}}),
        ]);
        let pod = json!({});
        assert_eq!(
            verdicts(&NodeUnschedulable, &cluster, pod),
            "open: fits\nclosed: never, node(s) were unschedulable"
        );
        let pod = json!({"tolerations": [
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
        assert_eq!(
            verdicts(&NodeUnschedulable, &cluster, pod),
            "nothing to say"
        );
    }
}
