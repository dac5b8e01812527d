//! The rules of scheduling, one file each, and the order in which they are asked.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod plugin;
mod resources_balanced;
mod resources_fit;
mod taint_toleration;
#[cfg(test)]
pub mod testing;
mod topology_spread;

pub use plugin::*;
pub use taint_toleration::tolerates_node;

/// All plugins in upstream's order and with its weights.
pub fn defaults() -> Vec<(Box<dyn Plugin>, i64)> {
    vec![
        (Box::new(node_unschedulable::NodeUnschedulable), 0),
        (Box::new(node_name::NodeName), 0),
        (Box::new(taint_toleration::TaintToleration), 3),
        (Box::new(node_affinity::NodeAffinity), 2),
        (Box::new(node_ports::NodePorts), 0),
        (Box::new(resources_fit::NodeResourcesFit), 1),
        (Box::new(topology_spread::PodTopologySpread), 2),
        (Box::new(inter_pod_affinity::InterPodAffinity), 2),
        (
            Box::new(resources_balanced::NodeResourcesBalancedAllocation),
            1,
        ),
        (Box::new(image_locality::ImageLocality), 1),
    ]
}
