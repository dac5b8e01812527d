//! A pod that needs a feature so new that not all nodes have it goes to one that declares it.

use super::{Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct NodeDeclaredFeatures;
struct Needed<'a>(&'a [&'static str]);

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED.with(Events::NODE_FEATURES)
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let needed = pod.wants.features.as_slice();
        Ok((!needed.is_empty()).then(|| Box::new(Needed(needed)) as Box<dyn Check>))
    }
}

impl Needed<'_> {
    fn missing<'n>(&'n self, node: &'n Node) -> impl Iterator<Item = &'static str> + 'n {
        let needed = self.0.iter().copied();
        needed.filter(move |feature| !node.features.iter().any(|f| **f == **feature))
    }
}

impl Check for Needed<'_> {
    fn is_steady(&self) -> bool {
        true
    }

    fn filter(&self, node: &Node) -> Verdict {
        if self.missing(node).next().is_none() {
            return Verdict::Fits;
        }
        Verdict::Never(Reason::one("node(s) didn't match Pod's required features"))
    }

    fn advice(&self, node: &Node) -> Option<String> {
        let missing: Vec<&str> = self.missing(node).collect();
        let text = missing.join(" and ");
        (!missing.is_empty()).then(|| format!("a kubelet that declares {text}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Cluster, verdicts};

    #[test]
    fn new_features_are_had_where_they_are_declared() {
        let cluster = Cluster::new([
            json!({"metadata": {"name": "old"}}),
            json!({"metadata": {"name": "new"}, "status": {"declaredFeatures": [
                "ExtendWebSocketsToKubelet", "RestartAllContainersOnContainerExits"]}}),
        ]);
        let rule = json!([{"action": "RestartAllContainers",
            "exitCodes": {"operator": "In", "values": [1]}}]);
        let pod = json!({"containers": [{"name": "c"}], "initContainers": [
            {"name": "i", "restartPolicyRules": rule}]});
        assert_eq!(
            verdicts(&NodeDeclaredFeatures, &cluster, pod),
            "old: never, node(s) didn't match Pod's required features\nnew: fits"
        );
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!(
            verdicts(&NodeDeclaredFeatures, &cluster, plain),
            "nothing to say"
        );
    }
}
