//! The rules of scheduling, one file each, and the order in which they are asked.

mod default_binder;
mod dynamic_resources;
mod gang_scheduling;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_declared_features;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod plugin;
mod resources_balanced;
mod resources_fit;
mod scheduling_gates;
mod taint_toleration;
#[cfg(test)]
pub mod testing;
mod topology_spread;
mod volume_binding;
mod volume_limits;
mod volume_restrictions;
mod volume_zone;

pub use dynamic_resources::DynamicResources;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use plugin::*;
pub use resources_balanced::NodeResourcesBalancedAllocation;
pub use resources_fit::{NodeResourcesFit, Strategy};
pub use taint_toleration::{MEND_NODE, tolerates_node};
pub use topology_spread::PodTopologySpread;
pub use volume_binding::VolumeBinding;

/// All plugins in upstream's order and with its weights.
pub fn defaults() -> Vec<(Box<dyn Plugin>, i64)> {
    vec![
        (Box::new(scheduling_gates::SchedulingGates), 0),
        (Box::new(node_unschedulable::NodeUnschedulable), 0),
        (Box::new(node_name::NodeName), 0),
        (Box::new(taint_toleration::TaintToleration), 3),
        (Box::new(node_affinity::NodeAffinity::default()), 2),
        (Box::new(node_ports::NodePorts), 0),
        (Box::new(resources_fit::NodeResourcesFit::default()), 1),
        (Box::new(volume_restrictions::VolumeRestrictions), 0),
        (Box::new(volume_limits::NodeVolumeLimits), 0),
        (Box::new(volume_binding::VolumeBinding::default()), 0),
        (Box::new(volume_zone::VolumeZone), 0),
        (Box::new(topology_spread::PodTopologySpread::default()), 2),
        (Box::new(inter_pod_affinity::InterPodAffinity::default()), 2),
        (Box::new(dynamic_resources::DynamicResources::default()), 2),
        (
            Box::new(resources_balanced::NodeResourcesBalancedAllocation::default()),
            1,
        ),
        (Box::new(image_locality::ImageLocality), 1),
        (Box::new(node_declared_features::NodeDeclaredFeatures), 0),
        (Box::new(gang_scheduling::GangScheduling), 0),
        (Box::new(default_binder::DefaultBinder), 0),
    ]
}
