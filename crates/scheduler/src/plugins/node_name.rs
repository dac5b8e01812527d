//! A pod that names its node goes there or nowhere.

use super::{Check, Events, Plugin, Prepare, Reason, Verdict};
use crate::node::Node;
use crate::pod::Pod;
use crate::snapshot::Snapshot;

pub struct NodeName;
struct Named<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
    fn wakes_on(&self) -> Events {
        Events::NODE_ADDED
    }
    fn is_local(&self) -> bool {
        true
    }
    fn prepare<'a>(&'a self, pod: &'a Pod, _: &'a Snapshot) -> Prepare<'a> {
        let name = pod.node.as_deref();
        Ok(name.map(|n| Box::new(Named(n)) as Box<dyn Check>))
    }
}

impl Check for Named<'_> {
    fn is_steady(&self) -> bool {
        true
    }

    fn filter(&self, node: &Node) -> Verdict {
        if *node.name == *self.0 {
            Verdict::Fits
        } else {
            Verdict::Never(Reason::one("node(s) didn't match the requested node name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Cluster, verdicts};
    use serde_json::json;

    #[test]
    fn only_the_named_node_fits() {
        let cluster = Cluster::new([
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "b"}}),
        ]);
        assert_eq!(
            verdicts(&NodeName, &cluster, json!({"nodeName": "b"})),
            "a: never, node(s) didn't match the requested node name\nb: fits"
        );
        assert_eq!(verdicts(&NodeName, &cluster, json!({})), "nothing to say");
    }
}
