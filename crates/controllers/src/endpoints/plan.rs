//! Which addresses belong in which slice: what is there stays where it is, so that few slices are
//! written and sent to every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::topology::{self, Cpus};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::common::{is_deleting, is_finished, is_ready, key_of, suffix, uid_of, value_of};

/// Endpoints of a slice, as upstream's default.
const PER_SLICE: usize = 100;
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Where a slice says when the change happened that it was written for: who follows it counts how
/// long that took.
pub(super) const CHANGED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A Service (or what is left of one), the pods it selects, what was published before.
#[derive(Clone)]
pub struct Observed {
    pub namespace: String,
    pub name: String,
    pub service: Option<Arc<Service>>,
    /// `None`: the Service has no selector.
    pub pods: Option<Vec<Arc<Pod>>>,
    /// Zone of each node that is in one.
    pub zones: BTreeMap<String, String>,
    /// CPU of the zones, where the Service asks for hints by it and all nodes say it.
    pub cpus: Option<Cpus>,
    pub slices: Vec<Arc<EndpointSlice>>,
}

pub fn plan(seen: &Observed, now_millis: i64) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = seen.service.as_ref() else {
        plan.actions.extend(
            seen.slices
                .iter()
                .filter(|s| !is_deleting(&***s))
                .map(|s| delete(s)),
        );
        return plan;
    };
    let Some(spec) = service.spec.as_ref() else {
        return plan;
    };
    // Of such a Service they are somebody else's, those too that were made while it was another.
    let (Some(pods), false) = (&seen.pods, spec.type_.as_deref() == Some("ExternalName")) else {
        return plan;
    };
    let mut number = 0;
    let families = families(spec);
    for family in &families {
        slices_of(
            seen,
            service,
            spec,
            pods,
            family,
            now_millis,
            &mut number,
            &mut plan,
        );
    }
    let is_stale =
        |s: &&Arc<EndpointSlice>| !families.contains(&s.address_type) || !is_owned(s, service);
    let stale = seen.slices.iter().filter(is_stale);
    let stale = stale.filter(|s| !is_deleting(&***s));
    plan.actions.extend(stale.map(|s| delete(s)));
    plan
}

/// Whether a slice is of this very Service: one of that name may have gone before it, and the garbage
/// collector ends what that left.
fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|o| o.kind == "Service" && o.uid == uid_of(service))
}

fn delete(slice: &EndpointSlice) -> Action {
    let (namespace, name) = key_of(slice);
    Action::delete(
        Target::of::<EndpointSlice>(&namespace, &name),
        Some(uid_of(slice)),
    )
}

pub(crate) fn families(spec: &ServiceSpec) -> Vec<String> {
    let named = spec.ip_families.clone().unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let v6 = spec
        .cluster_ip
        .as_deref()
        .is_some_and(|ip| ip.contains(':'));
    vec![if v6 { "IPv6" } else { "IPv4" }.to_owned()]
}

pub(super) fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status
        .pod_ips
        .iter()
        .flatten()
        .map(|p| &p.ip)
        .chain(&status.pod_ip);
    all.into_iter()
        .find(|ip| !ip.is_empty() && ip.contains(':') == (family == "IPv6"))
        .cloned()
}

/// The number of a target port in a pod; a name is looked up among its containers.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(n)) => return Some(*n),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let found = ports.find(|p| {
        p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found.map(|p| p.container_port)
}

pub(super) fn ports_of(spec: &ServiceSpec, pod: &Pod) -> Vec<Value> {
    let all = spec.ports.iter().flatten().filter_map(|port| {
        let mut one = json!({
            "name": port.name.clone().unwrap_or_default(),
            "protocol": port.protocol.as_deref().unwrap_or("TCP"),
            "port": target_port(port, pod)?,
        });
        if let Some(app) = &port.app_protocol {
            one["appProtocol"] = json!(app);
        }
        Some(one)
    });
    all.collect()
}

pub(super) fn reference(pod: &Pod) -> Value {
    json!({ "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid })
}

pub(super) fn node_of(pod: &Pod) -> Option<&String> {
    pod.spec.as_ref()?.node_name.as_ref()
}

/// The name under which the pod is found below that of a headless Service.
pub(super) fn hostname<'a>(pod: &'a Pod, service: &str) -> Option<&'a String> {
    let spec = pod.spec.as_ref()?;
    spec.hostname
        .as_ref()
        .filter(|_| spec.subdomain.as_deref() == Some(service))
}

fn endpoint(seen: &Observed, spec: &ServiceSpec, pod: &Pod, ip: &str) -> Value {
    let (serving, terminating) = (is_ready(pod), is_deleting(pod));
    let anyhow = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut one = json!({
        "addresses": [ip],
        "conditions": {
            "ready": anyhow || (serving && !terminating), "serving": serving, "terminating": terminating,
        },
        "targetRef": reference(pod),
    });
    if let Some(node) = node_of(pod) {
        one["nodeName"] = json!(node);
        if let Some(zone) = seen.zones.get(node) {
            one["zone"] = json!(zone);
        }
    }
    if let Some(name) = hostname(pod, &seen.name) {
        one["hostname"] = json!(name);
    }
    let by_cpu = seen.service.as_deref().is_some_and(topology::is_wanted);
    if let Some(hints) = hints(spec, &one).filter(|_| !by_cpu) {
        one["hints"] = hints;
    }
    one
}

/// Whose clients should prefer a ready endpoint, as the Service's traffic distribution says: those
/// of its zone and, if it is to be that near, those of its node.
fn hints(spec: &ServiceSpec, endpoint: &Value) -> Option<Value> {
    let by_node = match spec.traffic_distribution.as_deref()? {
        "PreferSameNode" => true,
        "PreferSameZone" | "PreferClose" => false,
        _ => return None,
    };
    if endpoint["conditions"]["ready"] != true {
        return None;
    }
    let mut out = serde_json::Map::new();
    let places = [
        ("forNodes", endpoint.get("nodeName").filter(|_| by_node)),
        ("forZones", endpoint.get("zone")),
    ];
    for (field, place) in places {
        if let Some(name) = place {
            out.insert(field.to_owned(), json!([{ "name": name }]));
        }
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), Some("None"))
}

pub(super) fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut all = service.metadata.labels.clone().unwrap_or_default();
    all.remove(HEADLESS);
    if is_headless(spec) {
        all.insert(HEADLESS.into(), String::new());
    }
    all
}

/// When that happened which makes endpoints say something else than before: the earliest of their
/// pods' changes, or the beginning of a Service of which nothing was published yet (`is_first`). None
/// for what only went.
pub(super) fn changed_at(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    is_first: bool,
    before: &[Value],
    now: &[Value],
) -> Option<String> {
    if is_first {
        let made = service?.metadata.creation_timestamp.as_ref();
        return made.map(|time| time.0.to_string());
    }
    let of = |uid: &str| {
        let pod = pods.iter().find(|p| uid_of(&***p) == uid)?;
        let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
        let ready = conditions.find(|c| c.type_ == "Ready")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let uid = |one: &Value| one["targetRef"]["uid"].as_str().map(str::to_owned);
    let before: BTreeMap<_, _> = before.iter().map(|one| (uid(one), one)).collect();
    let new = now.iter().filter(|one| before.get(&uid(one)) != Some(one));
    let times = new.filter_map(|one| of(&uid(one)?));
    times.min().map(|time| time.to_string())
}

/// By its address: what an endpoint of a group is to say.
type DesiredEndpoints = BTreeMap<String, Value>;

#[expect(
    clippy::too_many_arguments,
    reason = "one family of one Service; a struct would only rename them"
)]
fn slices_of(
    seen: &Observed,
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    family: &str,
    now_millis: i64,
    number: &mut usize,
    plan: &mut Plan,
) {
    // Pods with the same ports share slices. The key is the ports' text.
    let mut groups: BTreeMap<String, (Vec<Value>, DesiredEndpoints)> = BTreeMap::new();
    for pod in pods.iter().filter(|p| !is_finished(p)) {
        let Some(ip) = address(pod, family) else {
            continue;
        };
        let ports = ports_of(spec, pod);
        let text = Value::from(ports.clone()).to_string();
        let group = groups
            .entry(text)
            .or_insert_with(|| (ports, DesiredEndpoints::new()));
        group
            .1
            .insert(uid_of(&**pod), endpoint(seen, spec, pod, &ip));
    }
    if topology::is_wanted(service) {
        let endpoints = groups
            .values_mut()
            .flat_map(|(_, wanted)| wanted.iter_mut());
        let known = (&seen.slices[..], seen.cpus.as_ref());
        topology::hint(service, known, family, endpoints, plan);
    }
    if groups.is_empty() {
        // One empty slice says that the Service is known and has nobody.
        groups.insert("[]".into(), (Vec::new(), DesiredEndpoints::new()));
    }
    let mut own = labels(service, spec);
    own.insert(SERVICE_NAME.into(), seen.name.clone());
    own.insert(MANAGED_BY.into(), MANAGER.into());
    let is_own = |s: &&Arc<EndpointSlice>| {
        s.address_type == family && is_owned(s, service) && !is_deleting(&***s)
    };
    let mut there: BTreeMap<String, Vec<&EndpointSlice>> = BTreeMap::new();
    // Those with ports that no pod has any more: they are used in place of new ones, which is one
    // write where it would be two.
    let mut spare: Vec<&EndpointSlice> = Vec::new();
    for slice in seen.slices.iter().filter(is_own) {
        let ports: Vec<Value> = slice.ports.iter().flatten().map(value_of).collect();
        let text = Value::from(ports).to_string();
        if groups.contains_key(&text) {
            there.entry(text).or_default().push(slice);
        } else {
            spare.push(slice);
        }
    }
    let mut spare = spare.into_iter();
    for (text, (ports, mut wanted)) in groups {
        let slices = there.remove(&text).unwrap_or_default();
        pack(seen, &own, &slices, &mut wanted, plan);
        let mut rest: Vec<Value> = wanted.into_values().collect();
        // A group has one slice at least: one without endpoints says that there are none.
        let mut is_missing = slices.is_empty();
        while !rest.is_empty() || is_missing {
            is_missing = false;
            let more = rest.split_off(rest.len().min(PER_SLICE));
            if let Some(slice) = spare.next() {
                plan.actions
                    .push(rewrite(seen, &own, slice, Some(ports.as_slice()), rest));
            } else if !is_deleting(service) {
                let made = create(
                    seen,
                    service,
                    &own,
                    (family, ports.as_slice()),
                    rest,
                    (now_millis, *number),
                );
                plan.actions.push(made);
                *number += 1;
            }
            rest = more;
        }
    }
    plan.actions.extend(spare.map(delete));
}

/// A new slice; `number` of those that are made at this time.
fn create(
    seen: &Observed,
    service: &Service,
    labels: &BTreeMap<String, String>,
    (family, ports): (&str, &[Value]),
    endpoints: Vec<Value>,
    (now_millis, number): (i64, usize),
) -> Action {
    let base = format!("{}-", seen.name);
    let name = api::names::generate_name(&base, &suffix(&uid_of(service), now_millis, number));
    let pods = seen.pods.as_deref().unwrap_or_default();
    let time = changed_at(Some(service), pods, seen.slices.is_empty(), &[], &endpoints);
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "generateName": base, "namespace": seen.namespace, "labels": labels,
            "ownerReferences": [crate::common::controller_reference(service)],
        },
        "addressType": family, "ports": ports, "endpoints": endpoints,
    });
    if let Some(time) = time {
        object["metadata"]["annotations"] = json!({ CHANGED: time });
    }
    Action::Create {
        target: Target::of::<EndpointSlice>(&seen.namespace, &name),
        object,
    }
}

/// A slice that says something else from now on; its ports stay unless there are others.
fn rewrite(
    seen: &Observed,
    labels: &BTreeMap<String, String>,
    slice: &EndpointSlice,
    ports: Option<&[Value]>,
    endpoints: Vec<Value>,
) -> Action {
    let mut object = value_of(slice);
    object["apiVersion"] = json!("discovery.k8s.io/v1");
    object["kind"] = json!("EndpointSlice");
    let mut notes = slice.metadata.annotations.clone().unwrap_or_default();
    notes.remove(CHANGED);
    let published: Vec<Value> = slice.endpoints.iter().flatten().map(value_of).collect();
    let (service, pods) = (seen.service.as_deref(), seen.pods.as_deref());
    let time = changed_at(
        service,
        pods.unwrap_or_default(),
        false,
        &published,
        &endpoints,
    );
    notes.extend(time.map(|time| (CHANGED.to_owned(), time)));
    object["metadata"]["annotations"] = match notes.is_empty() {
        true => Value::Null,
        false => json!(notes),
    };
    object["endpoints"] = Value::from(endpoints);
    object["metadata"]["labels"] = json!(labels);
    if let Some(ports) = ports {
        object["ports"] = json!(ports);
    }
    let (_, name) = key_of(slice);
    Action::Update {
        target: Target::of::<EndpointSlice>(&seen.namespace, &name),
        subresource: "",
        object,
    }
}

/// Brings the slices of a group up to date and fills their gaps; what finds no room stays in
/// `wanted`.
fn pack(
    seen: &Observed,
    labels: &BTreeMap<String, String>,
    slices: &[&EndpointSlice],
    wanted: &mut DesiredEndpoints,
    plan: &mut Plan,
) {
    let mut kept: Vec<Vec<Value>> = Vec::new();
    for slice in slices {
        let of = |e: &k8s_openapi::api::discovery::v1::Endpoint| {
            e.target_ref.as_ref().and_then(|t| t.uid.clone())
        };
        let stays = slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|e| wanted.remove(&of(e)?));
        kept.push(stays.collect());
    }
    for list in &mut kept {
        while list.len() < PER_SLICE
            && let Some((_, one)) = wanted.pop_first()
        {
            list.push(one);
        }
    }
    let last = kept.iter().all(Vec::is_empty) && wanted.is_empty();
    for (i, (slice, list)) in slices.iter().zip(kept).enumerate() {
        // One empty slice may stay.
        if list.is_empty() && !(last && i == 0) {
            plan.actions.push(delete(slice));
            continue;
        }
        let published: Vec<Value> = slice.endpoints.iter().flatten().map(value_of).collect();
        let same_labels = slice.metadata.labels.as_ref() == Some(labels);
        if published != list || !same_labels {
            plan.actions.push(rewrite(seen, labels, slice, None, list));
        }
    }
}
