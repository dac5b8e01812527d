//! Each node gets a part of the cluster's pod range, for good.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Target, reference};
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;

/// Bits of a node's range: 254 pods.
const NODE_BITS: u8 = 24;

/// The whole range and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    base: u32,
    prefix: u8,
}

impl Range {
    /// `10.244.0.0/16`; `None` when it cannot be cut into ranges for nodes.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
        let prefix = prefix
            .parse()
            .ok()
            .filter(|p| (8..=NODE_BITS).contains(p))?;
        Some(Self { base, prefix })
    }
    fn parts(self) -> u32 {
        1 << (NODE_BITS - self.prefix)
    }
    fn part(self, i: u32) -> String {
        format!(
            "{}/{NODE_BITS}",
            Ipv4Addr::from(self.base + (i << (32 - NODE_BITS)))
        )
    }
}

/// The controller; all nodes are one key, so that no two get the same range.
pub struct PodCidrs {
    nodes: Informer<Node>,
    range: Range,
}

impl PodCidrs {
    pub fn new(informers: &Informers, range: Range) -> Self {
        Self {
            nodes: informers.of(),
            range,
        }
    }
}

impl Controller for PodCidrs {
    const NAME: &'static str = "node-ipam-controller";
    const QUEUE: &'static str = "cidrallocator";
    const ACCOUNT: &'static str = "node-controller";
    type Key = ();
    type Observed = Vec<Arc<Node>>;

    fn watches(&self, watches: &mut Watches<()>) {
        watches.on(&self.nodes, |n| {
            if cidr(n).is_none() {
                vec![()]
            } else {
                Vec::new()
            }
        });
    }
    fn observe(&self, (): &()) -> Option<Vec<Arc<Node>>> {
        Some(self.nodes.list())
    }
    fn plan(&self, nodes: &Vec<Arc<Node>>, _: i64) -> Plan {
        plan(nodes, self.range)
    }
    fn workers(&self) -> usize {
        1
    }
}

fn cidr(node: &Node) -> Option<&str> {
    node.spec
        .as_ref()?
        .pod_cidr
        .as_deref()
        .filter(|c| !c.is_empty())
}

fn plan(nodes: &[Arc<Node>], range: Range) -> Plan {
    let mut taken: HashSet<String> = nodes
        .iter()
        .filter_map(|n| cidr(n))
        .map(str::to_owned)
        .collect();
    let mut without: Vec<&Arc<Node>> = nodes.iter().filter(|n| cidr(n).is_none()).collect();
    without.sort_by_key(|n| n.name_any());
    let mut plan = Plan::default();
    let mut free = (0..range.parts()).map(|i| range.part(i));
    for node in without {
        let Some(part) = free.find(|p| !taken.contains(p)) else {
            plan.actions.push(Action::Event {
                about: reference(&**node),
                warning: true,
                reason: "CIDRNotAvailable",
                message: "Node has no range for its pods: the cluster's is used up".into(),
            });
            continue;
        };
        let patch = json!({
            "metadata": { "resourceVersion": node.resource_version() },
            "spec": { "podCIDR": part, "podCIDRs": [part] },
        });
        plan.actions.push(Action::merge(
            Target::of::<Node>("", &node.name_any()),
            patch,
        ));
        taken.insert(part);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str) -> Arc<Node> {
        let value = json!({ "metadata": { "name": name }, "spec": { "podCIDR": cidr } });
        Arc::new(serde_json::from_value(value).expect("node"))
    }

    #[test]
    fn each_node_gets_the_first_free_part() {
        let range = Range::parse("10.4.0.0/22").expect("range");
        let nodes = [node("a", "10.4.1.0/24"), node("b", ""), node("c", "")];
        let plan = plan(&nodes, range);
        let given: Vec<String> = plan
            .actions
            .iter()
            .map(|a| match a {
                Action::Patch {
                    patch: control::action::Patch::Merge(p),
                    ..
                } => p["spec"]["podCIDR"].to_string(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(given, ["\"10.4.0.0/24\"", "\"10.4.2.0/24\""]);
    }

    #[test]
    fn a_used_up_range_is_reported() {
        let range = Range::parse("10.4.0.0/24").expect("range");
        let plan = plan(&[node("a", "10.4.0.0/24"), node("b", "")], range);
        assert!(matches!(
            &plan.actions[..],
            [Action::Event {
                reason: "CIDRNotAvailable",
                ..
            }]
        ));
        assert!(Range::parse("10.4.0.0/25").is_none());
    }
}
