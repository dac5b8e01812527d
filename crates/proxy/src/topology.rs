//! Where a node is, and which endpoints are meant for it: pure.

use crate::model::Endpoint;

/// Where a node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeTopology {
    /// The node's name.
    pub node: String,
    /// Its zone, as a label of its object says; none if it has none, or was not seen yet.
    pub zone: Option<String>,
}

/// How near an endpoint must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    /// Meant for this node.
    Node,
    /// Meant for this node's zone.
    Zone,
    /// Anywhere.
    Any,
}

impl NodeTopology {
    /// Whether an endpoint is meant for here.
    pub fn is_meant(&self, near: Near, endpoint: &Endpoint) -> bool {
        match near {
            Near::Node => endpoint.for_nodes.contains(&self.node),
            Near::Zone => self
                .zone
                .as_ref()
                .is_some_and(|zone| endpoint.for_zones.contains(zone)),
            Near::Any => true,
        }
    }

    /// Upstream's rule: hints count only if every ready endpoint has them and one is meant for
    /// this place; those of nodes before those of zones.
    pub fn nearest(&self, ready: &[&Endpoint]) -> Near {
        let usable = |near: Near, hints: &dyn Fn(&Endpoint) -> &Vec<String>| {
            ready.iter().all(|e| !hints(e).is_empty())
                && ready.iter().any(|e| self.is_meant(near, e))
        };
        if usable(Near::Node, &|e| &e.for_nodes) {
            Near::Node
        } else if usable(Near::Zone, &|e| &e.for_zones) {
            Near::Zone
        } else {
            Near::Any
        }
    }
}
