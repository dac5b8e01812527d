//! How long kubelets may believe what they remember of ConfigMaps and Secrets, by the number of
//! nodes: an annotation of each node that upstream's kubelets read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::{Informer, Informers};
use control::action::{Patch, Target};
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

const TTL: &str = "node.alpha.kubernetes.io/ttl";

/// From and to how many nodes, and the seconds then; upstream's. They overlap, so that one node that
/// comes and goes does not change all others each time.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1_000, 30),
    (900, 2_000, 60),
    (1_800, usize::MAX, 300),
];

/// Writes the annotation.
pub struct NodeTtls {
    nodes: Informer<Node>,
}

impl NodeTtls {
    pub fn new(informers: &Informers) -> Self {
        Self {
            nodes: informers.of(),
        }
    }
}

/// The seconds for so many nodes; where they may stay, they do.
fn seconds(nodes: usize, now: Option<u32>) -> u32 {
    let stays = |(from, to, seconds): &&(usize, usize, u32)| {
        Some(*seconds) == now && (*from..=*to).contains(&nodes)
    };
    let fits = |(_, to, _): &&(usize, usize, u32)| nodes <= *to;
    let step = STEPS.iter().find(stays).or(STEPS.iter().find(fits));
    step.map_or(0, |(_, _, seconds)| *seconds)
}

/// A node, and how many there are.
pub struct SeenNode {
    node: Arc<Node>,
    nodes: usize,
}

fn plan(node: &Node, nodes: usize) -> Plan {
    let now = node.annotations().get(TTL).and_then(|t| t.parse().ok());
    let wanted = seconds(nodes, now);
    if now == Some(wanted) {
        return Plan::nothing();
    }
    Action::Patch {
        target: Target::of::<Node>("", &node.name_any()),
        subresource: "",
        patch: Patch::Merge(json!({ "metadata": { "annotations": { TTL: wanted.to_string() } } })),
    }
    .into()
}

impl Controller for NodeTtls {
    const NAME: &'static str = "ttl-controller";
    const QUEUE: &'static str = "ttlcontroller";
    const ACCOUNT: &'static str = "ttl-controller";
    type Key = String;
    type Observed = SeenNode;

    fn watches(&self, watches: &mut Watches<String>) {
        let (nodes, last) = (self.nodes.clone(), AtomicUsize::new(0));
        watches.on_change(&self.nodes, move |change| {
            let own = change.new.iter().map(|n| n.name_any()).collect();
            let is_update = change.old.is_some() && change.new.is_some();
            // What counts for others is only in which step their number is.
            let count = nodes.len();
            let step = STEPS.iter().take_while(|(_, to, _)| *to < count).count();
            if is_update || last.swap(step, Ordering::Relaxed) == step {
                return own;
            }
            nodes.list().iter().map(|n| n.name_any()).collect()
        });
    }

    fn observe(&self, name: &String) -> Option<SeenNode> {
        Some(SeenNode {
            node: self.nodes.get("", name)?,
            nodes: self.nodes.len(),
        })
    }

    fn plan(&self, seen: &SeenNode, _: i64) -> Plan {
        plan(&seen.node, seen.nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_follow_the_number_of_nodes_and_stay_where_steps_overlap() {
        for (nodes, now, wanted) in [
            (1, None, 0),
            (100, None, 0),
            (101, Some(0), 15),
            (95, Some(15), 15),
            (95, Some(0), 0),
            (89, Some(15), 0),
            (500, Some(15), 15),
            (501, Some(15), 30),
            (5_000, Some(60), 300),
            (1_800, Some(300), 300),
            (1_799, Some(300), 60),
        ] {
            assert_eq!(seconds(nodes, now), wanted, "{nodes} {now:?}");
        }
    }

    #[test]
    fn a_node_is_written_once() {
        let mut node = Node::default();
        node.metadata.name = Some("n".into());
        let written = plan(&node, 1);
        let [Action::Patch { patch, .. }] = written.actions.as_slice() else {
            panic!("{written:?}");
        };
        let change = json!({ "metadata": { "annotations": { TTL: "0" } } });
        assert_eq!(*patch, Patch::Merge(change));
        node.annotations_mut().insert(TTL.into(), "0".into());
        assert!(plan(&node, 1).is_empty());
    }
}
