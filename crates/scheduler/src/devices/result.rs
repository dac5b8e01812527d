//! What was found for a claim, as its status says it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as k8s;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::allocate::Chosen;
use super::requests::{Request, WantedClaim};
use super::slices::NodeScope;

/// The allocation of a claim; `share_id` makes an identity for each share of a device.
pub fn allocation(
    wanted: &WantedClaim<'_>,
    chosen: &[Chosen<'_>],
    node: &str,
    share_id: &mut dyn FnMut() -> String,
) -> k8s::AllocationResult {
    let of = |c: &Chosen<'_>| wanted.requests.get(c.request)?.get(c.alternative);
    let results = chosen.iter().filter_map(|c| {
        let request = of(c)?;
        let taken = c.taken.as_ref().filter(|t| !t.is_empty());
        let taken = taken.map(|t| {
            let amounts = t.iter().map(|(n, q)| (n.clone(), Text(q.to_string())));
            amounts.collect::<BTreeMap<_, _>>()
        });
        Some(k8s::DeviceRequestAllocationResult {
            request: request.name.clone(),
            driver: c.id.driver.to_string(),
            pool: c.id.pool.to_string(),
            device: c.id.device.to_string(),
            admin_access: request.admin.then_some(true),
            tolerations: Some(request.tolerations.to_vec()).filter(|t| !t.is_empty()),
            share_id: c.taken.as_ref().map(|_| share_id()),
            consumed_capacity: taken,
            binding_conditions: c.device.binding.clone(),
            binding_failure_conditions: c.device.binding_failure.clone(),
        })
    });
    let results: Vec<_> = results.collect();
    // Of each request the alternative that is met.
    let met = wanted.requests.iter().enumerate().filter_map(|(r, all)| {
        let chosen = chosen.iter().find(|c| c.request == r);
        all.get(chosen.map_or(0, |c| c.alternative))
    });
    let met: Vec<&Request<'_>> = met.collect();
    let config = configs(wanted, &met);
    k8s::AllocationResult {
        allocation_timestamp: None,
        devices: Some(k8s::DeviceAllocationResult {
            config: Some(config).filter(|c| !c.is_empty()),
            results: Some(results).filter(|r| !r.is_empty()),
        }),
        node_selector: node_selector(chosen, node),
    }
}

fn configs(
    wanted: &WantedClaim<'_>,
    met: &[&Request<'_>],
) -> Vec<k8s::DeviceAllocationConfiguration> {
    let mut out: Vec<k8s::DeviceAllocationConfiguration> = Vec::new();
    let mut of_class: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for request in met {
        let name = request.class.metadata.name.as_deref().unwrap_or_default();
        if let Some((start, end)) = of_class.get(name) {
            for config in out.get_mut(*start..*end).into_iter().flatten() {
                let requests = config.requests.get_or_insert_default();
                requests.push(request.name.clone());
            }
            continue;
        }
        let start = out.len();
        for config in request.class.spec.config.iter().flatten() {
            out.push(k8s::DeviceAllocationConfiguration {
                source: "FromClass".to_owned(),
                requests: Some(vec![request.name.clone()]),
                opaque: config.opaque.clone(),
            });
        }
        of_class.insert(name, (start, out.len()));
    }
    let spec = wanted.claim.spec.devices.as_ref();
    for config in spec.iter().flat_map(|s| s.config.iter().flatten()) {
        let requests = config.requests.iter().flatten();
        let about = |name: &String| met.iter().any(|m| m.base == name || m.name == *name);
        let whole = config.requests.iter().flatten().next().is_none();
        if whole || requests.into_iter().any(about) {
            out.push(k8s::DeviceAllocationConfiguration {
                source: "FromClaim".to_owned(),
                requests: config.requests.clone(),
                opaque: config.opaque.clone(),
            });
        }
    }
    out
}

/// Where the devices can be used; none for everywhere.
fn node_selector(chosen: &[Chosen<'_>], node: &str) -> Option<core::NodeSelector> {
    let mut term = core::NodeSelectorTerm::default();
    for c in chosen {
        let place = c.slice.place_of(c.device);
        if c.device.binds_to_node || matches!(place, NodeScope::Node(_)) {
            let name = core::NodeSelectorRequirement {
                key: "metadata.name".to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            };
            return Some(core::NodeSelector {
                node_selector_terms: vec![core::NodeSelectorTerm {
                    match_fields: Some(vec![name]),
                    match_expressions: None,
                }],
            });
        }
        if let NodeScope::Selected(selector, _) = place
            && let Some(first) = selector.node_selector_terms.first()
        {
            let lists = [
                (&first.match_fields, &mut term.match_fields),
                (&first.match_expressions, &mut term.match_expressions),
            ];
            for (from, to) in lists {
                for requirement in from.iter().flatten() {
                    let to = to.get_or_insert_default();
                    if !to.contains(requirement) {
                        to.push(requirement.clone());
                    }
                }
            }
        }
    }
    let some = term.match_fields.is_some() || term.match_expressions.is_some();
    some.then(|| core::NodeSelector {
        node_selector_terms: vec![term],
    })
}
