//! One slice per set of ports and address family, with the labels and annotations of the
//! Endpoints. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use control::action::{Action, Plan, Target, reference};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use serde_json::{Value, json};

use super::MANAGER;
use super::subsets::{Port, repack};
use crate::common::{Labels, controller_reference, is_deleting, key_of, suffix, uid_of, value_of};
use crate::endpoints::{MANAGED_BY, SERVICE_NAME};

/// Addresses of a subset that are mirrored, as upstream's default; an Endpoints object has no
/// bound of its own, and a slice holds no more.
const PER_SUBSET: usize = 1_000;
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Such Endpoints are a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that say nothing of the slice.
const NOT_COPIED: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// What is to be mirrored, and what was.
#[derive(Clone)]
pub struct Observed {
    /// `None`: there are none, or no Service without selector wants them.
    pub endpoints: Option<Arc<Endpoints>>,
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Family and ports: what a slice has in common.
type Group = (&'static str, Vec<Port>);

#[derive(Default)]
struct DesiredSlices {
    groups: BTreeMap<Group, Vec<Endpoint>>,
    invalid: usize,
    too_many: usize,
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    let annotations = endpoints.metadata.annotations.as_ref();
    labels.and_then(|l| l.get(SKIP)).is_none_or(|v| v != "true")
        && annotations.is_none_or(|a| !a.contains_key(LEADER))
}

/// An endpoint and its family; `None` when the address is not an IP.
fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        target_ref: address.target_ref.clone(),
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        ..Endpoint::default()
    };
    Some((family, endpoint))
}

fn wanted(endpoints: &Endpoints) -> DesiredSlices {
    let mut out = DesiredSlices::default();
    for subset in repack(endpoints.subsets.as_deref().unwrap_or_default()) {
        let mut taken = 0;
        for (address, ready) in &subset.addresses {
            let Some((family, endpoint)) = endpoint(address, *ready) else {
                out.invalid += 1;
                continue;
            };
            if taken == PER_SUBSET {
                out.too_many += 1;
                continue;
            }
            taken += 1;
            let group = (family, subset.ports.clone());
            out.groups.entry(group).or_default().push(endpoint);
        }
    }
    out
}

fn group_of(slice: &EndpointSlice) -> Option<Group> {
    let family = match slice.address_type.as_str() {
        "IPv4" => "IPv4",
        "IPv6" => "IPv6",
        _ => return None,
    };
    let mut ports: Vec<Port> = slice
        .ports
        .iter()
        .flatten()
        .map(|p| {
            (
                p.name.clone().unwrap_or_default(),
                p.port.unwrap_or(0),
                p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                p.app_protocol.clone(),
            )
        })
        .collect();
    ports.sort();
    Some((family, ports))
}

fn labels(endpoints: &Endpoints) -> Labels {
    let mut all = endpoints.metadata.labels.clone().unwrap_or_default();
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    all.insert(SERVICE_NAME.into(), name);
    all.insert(MANAGED_BY.into(), MANAGER.into());
    all
}

fn annotations(endpoints: &Endpoints) -> Labels {
    let mut all = endpoints.metadata.annotations.clone().unwrap_or_default();
    all.retain(|k, _| !NOT_COPIED.contains(&k.as_str()));
    all
}

/// Whether a slice says just this already.
fn says(slice: &EndpointSlice, endpoints: &Endpoints, wanted: &[Endpoint]) -> bool {
    let mut have = slice.endpoints.clone().unwrap_or_default();
    let mut want = wanted.to_vec();
    let by_address = |e: &Endpoint| {
        let uid = e.target_ref.as_ref().and_then(|t| t.uid.clone());
        (e.addresses.clone(), uid)
    };
    have.sort_by_key(by_address);
    want.sort_by_key(by_address);
    let owners = slice.metadata.owner_references.as_deref();
    let owned = owners
        .unwrap_or_default()
        .iter()
        .any(|o| o.uid == uid_of(endpoints));
    have == want
        && owned
        && slice.metadata.labels.clone().unwrap_or_default() == labels(endpoints)
        && slice.metadata.annotations.clone().unwrap_or_default() == annotations(endpoints)
}

fn delete(slice: &EndpointSlice) -> Action {
    let (namespace, name) = key_of(slice);
    let target = Target::of::<EndpointSlice>(&namespace, &name);
    Action::delete(target, Some(uid_of(slice)))
}

fn object(endpoints: &Endpoints, group: &Group, wanted: &[Endpoint]) -> Value {
    let ports = group.1.iter().map(|(name, port, protocol, app)| {
        let mut one = json!({ "name": name, "port": port, "protocol": protocol });
        if let Some(app) = app {
            one["appProtocol"] = json!(app);
        }
        one
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": endpoints.metadata.namespace,
            "labels": labels(endpoints), "annotations": annotations(endpoints),
            "ownerReferences": [controller_reference(endpoints)],
        },
        "addressType": group.0,
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": wanted.iter().map(value_of).collect::<Vec<_>>(),
    })
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let living = seen.slices.iter().filter(|s| !is_deleting(&***s));
    let Some(endpoints) = seen.endpoints.as_ref().filter(|e| is_mirrored(e)) else {
        plan.actions.extend(living.map(|s| delete(s)));
        return plan;
    };
    let wanted = wanted(endpoints);
    let mut there: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in living {
        match group_of(slice) {
            Some(group) => there.entry(group).or_default().push(slice),
            None => plan.actions.push(delete(slice)),
        }
    }
    for (number, (group, list)) in wanted.groups.iter().enumerate() {
        let mut have = there.remove(group).unwrap_or_default().into_iter();
        let object = object(endpoints, group, list);
        match have.next() {
            Some(first) if says(first, endpoints, list) => {}
            Some(first) => plan.actions.push(update(first, object)),
            None if is_deleting(&**endpoints) => {}
            None => plan
                .actions
                .push(create(endpoints, object, now_millis, number)),
        }
        plan.actions.extend(have.map(delete));
    }
    plan.actions
        .extend(there.into_values().flatten().map(delete));
    if !plan.actions.is_empty() {
        plan.actions.extend(complaints(endpoints, &wanted));
    }
    plan
}

fn update(slice: &EndpointSlice, mut object: Value) -> Action {
    let (namespace, name) = key_of(slice);
    object["metadata"]["name"] = json!(name);
    object["metadata"]["uid"] = json!(slice.metadata.uid);
    object["metadata"]["resourceVersion"] = json!(slice.metadata.resource_version);
    Action::Update {
        target: Target::of::<EndpointSlice>(&namespace, &name),
        subresource: "",
        object,
    }
}

fn create(endpoints: &Endpoints, mut object: Value, now_millis: i64, number: usize) -> Action {
    let (namespace, service) = key_of(endpoints);
    let base = format!("{service}-");
    let name = api::names::generate_name(&base, &suffix(&uid_of(endpoints), now_millis, number));
    object["metadata"]["name"] = json!(name);
    object["metadata"]["generateName"] = json!(base);
    Action::Create {
        target: Target::of::<EndpointSlice>(&namespace, &name),
        object,
    }
}

/// What could not be mirrored.
fn complaints(endpoints: &Endpoints, wanted: &DesiredSlices) -> Vec<Action> {
    let event = |reason: &'static str, message: String| Action::Event {
        about: reference(endpoints),
        warning: true,
        reason,
        message,
    };
    let mut out = Vec::new();
    if wanted.invalid > 0 {
        let n = wanted.invalid;
        out.push(event(
            "InvalidIPAddress",
            format!("Skipped {n} invalid IP addresses when mirroring to EndpointSlices"),
        ));
    }
    if wanted.too_many > 0 {
        let n = wanted.too_many;
        out.push(event(
            "TooManyAddressesToMirror",
            format!(
                "A max of {PER_SUBSET} addresses can be mirrored to EndpointSlices per Endpoints subset. {n} addresses were skipped"
            ),
        ));
    }
    out
}
