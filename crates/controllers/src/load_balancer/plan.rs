//! From what is seen of Services and nodes to what is written: finalizers, addresses in statuses,
//! who announces them, and events as those of upstream's service controller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use control::action::{Action, Patch, Plan, Target, reference};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service, ServiceSpec};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::assign::{
    AddressRequest, AssignedAddresses, Claims, Machine, Pending, Port, Source, announcer, assign,
    standby,
};
use crate::common::{Key, is_deleting, key_of, time_text, value_of};

/// The class of a Service that asks for this load balancer by name.
pub const CLASS: &str = "tiphys.io/node";
/// Keeps a Service until its addresses are given back.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Nodes with this label take no traffic from load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// A node that the cluster autoscaler is about to remove.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";
/// Which node announces which address, for the nodes' proxies: `192.0.2.1=a,192.0.2.2=b`.
pub const ANNOUNCED_BY: &str = "tiphys.io/load-balancer-nodes";
/// Which node takes an address over as soon as the one that announces it is silent, and at which
/// address it asks that one: `192.0.2.1=b@10.0.0.1`. So nobody waits for the control plane to know.
pub const STANDBY: &str = "tiphys.io/load-balancer-standby";
/// Says in a Service's status why it has no address.
const CONDITION: &str = "LoadBalancerReady";

/// All that addresses depend on.
#[derive(Debug, Default)]
pub struct Observed {
    /// Services that are, were, or stand in the way of load balancers.
    pub services: Vec<Arc<Service>>,
    pub nodes: Vec<Arc<Node>>,
    /// For Services whose traffic stays on its node: the nodes with ready endpoints.
    pub local: BTreeMap<Key, BTreeSet<String>>,
    /// Where API servers listen.
    pub servers: Vec<(IpAddr, u16)>,
}

pub(super) fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

fn is_balancer(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|s| s.type_.as_deref());
    kind == Some("LoadBalancer")
}

/// Whether it is this load balancer that is asked for.
pub(super) fn is_ours(service: &Service) -> bool {
    let class = |s: &ServiceSpec| {
        s.load_balancer_class
            .as_deref()
            .is_none_or(|class| class == CLASS)
    };
    is_balancer(service) && service.spec.as_ref().is_some_and(class)
}

pub(super) fn keeps_sources(service: &Service) -> bool {
    let policy = |s: &ServiceSpec| s.external_traffic_policy.as_deref() == Some("Local");
    service.spec.as_ref().is_some_and(policy)
}

fn has_finalizer(service: &Service) -> bool {
    service.finalizers().iter().any(|f| f == FINALIZER)
}

/// Whether a change of it can matter to anybody's addresses.
pub(super) fn is_relevant(service: &Service) -> bool {
    let external = |s: &ServiceSpec| s.external_ips.iter().flatten().next().is_some();
    is_ours(service) || has_finalizer(service) || service.spec.as_ref().is_some_and(external)
}

/// The node, if it may take traffic.
pub(super) fn machine(node: &Node) -> Option<Machine> {
    // As upstream: a word that is not a truth value excludes.
    let excluded = |value: &String| {
        !matches!(
            value.as_str(),
            "false" | "False" | "FALSE" | "f" | "F" | "0"
        )
    };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let leaving = taints.into_iter().flatten().any(|t| t.key == LEAVING);
    if is_deleting(node) || leaving || node.labels().get(EXCLUDED).is_some_and(excluded) {
        return None;
    }
    let status = node.status.as_ref()?;
    let addresses = status.addresses.iter().flatten();
    let internal = addresses.filter(|a| a.type_ == "InternalIP");
    let mut conditions = status.conditions.iter().flatten();
    Some(Machine {
        name: node.name_any(),
        addresses: internal.filter_map(|a| a.address.parse().ok()).collect(),
        ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
    })
}

/// The addresses in a Service's status.
fn ingress(service: &Service) -> impl Iterator<Item = &LoadBalancerIngress> {
    let status = service.status.as_ref();
    let balancer = status.and_then(|s| s.load_balancer.as_ref());
    balancer
        .into_iter()
        .flat_map(|b| b.ingress.iter().flatten())
}

/// What a Service's status says of its addresses: only those that nodes answer at themselves.
fn published(service: &Service) -> BTreeSet<IpAddr> {
    ingress(service)
        .filter(|i| i.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
        .collect()
}

/// The ports at those addresses, as the status has them.
fn held(service: &Service) -> BTreeSet<Port> {
    let ports = ingress(service).flat_map(|i| i.ports.iter().flatten());
    ports
        .filter_map(|p| Some((p.protocol.clone(), u16::try_from(p.port).ok()?)))
        .collect()
}

fn is_published(service: &Service) -> bool {
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    balancer.is_some_and(|b| b.ingress.iter().flatten().next().is_some())
}

fn announced(service: &Service) -> BTreeMap<IpAddr, String> {
    let text = service.annotations().get(ANNOUNCED_BY);
    let parts = text.into_iter().flat_map(|t| t.split(','));
    let pairs = parts.filter_map(|p| p.split_once('='));
    pairs
        .filter_map(|(ip, node)| Some((ip.parse().ok()?, node.to_owned())))
        .collect()
}

fn ports(spec: &ServiceSpec) -> Vec<Port> {
    let all = spec.ports.iter().flatten();
    let one = |p: &k8s_openapi::api::core::v1::ServicePort| {
        let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((protocol, u16::try_from(p.port).ok()?))
    };
    all.filter_map(one).collect()
}

fn wish(service: &Service, seen: &Observed) -> AddressRequest {
    let (key, spec) = (key_of(service), spec(service));
    let mut six: Vec<bool> = crate::endpoints::plan::families(&spec)
        .iter()
        .map(|family| family == "IPv6")
        .collect();
    six.dedup();
    let local = keeps_sources(service).then(|| seen.local.get(&key).cloned().unwrap_or_default());
    let created = service.metadata.creation_timestamp.as_ref();
    AddressRequest {
        created: created.map_or(0, |t| t.0.as_second()),
        ports: ports(&spec),
        six,
        asked: spec.load_balancer_ip.filter(|ip| !ip.is_empty()),
        local,
        has: published(service),
        held: held(service),
        announced: announced(service),
        key,
    }
}

/// What others have that is in the way: external IPs of Services, and API servers on nodes.
fn claims(source: &Source, seen: &Observed, nodes: &[Machine]) -> Claims {
    let mut claims = Claims::default();
    let matters = |ip: &IpAddr| match source {
        Source::Nodes { .. } => nodes.iter().any(|n| n.addresses.contains(ip)),
        Source::Pool(pool) => pool.contains(*ip),
    };
    let kubernetes = ("default".to_owned(), "kubernetes".to_owned());
    for (ip, port) in seen.servers.iter().filter(|(ip, _)| matters(ip)) {
        claims.take(&("TCP".to_owned(), *port), Some(*ip), &kubernetes);
    }
    for service in &seen.services {
        let spec = spec(service);
        let ips = spec.external_ips.iter().flatten();
        let ips: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
        for ip in ips.into_iter().filter(|ip| matters(ip)) {
            for port in ports(&spec) {
                claims.take(&port, Some(ip), &key_of(&**service));
            }
        }
    }
    claims
}

pub fn plan(seen: &Observed, source: &Source, now_millis: i64) -> Plan {
    let mut nodes: Vec<Machine> = seen.nodes.iter().filter_map(|n| machine(n)).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut plan = Plan::default();
    let (ours, others): (Vec<_>, Vec<_>) = seen
        .services
        .iter()
        .partition(|s| is_ours(s) && !is_deleting(&***s));
    for service in others {
        let gone = is_deleting(&**service) && is_ours(service);
        if has_finalizer(service) && (gone || !is_balancer(service)) {
            plan.actions.extend(clean_up(service));
        }
    }
    let wishes: Vec<AddressRequest> = ours.iter().map(|s| wish(s, seen)).collect();
    let given = assign(source, &wishes, &nodes, claims(source, seen, &nodes));
    let announcers = match source {
        Source::Nodes { .. } => BTreeMap::new(),
        Source::Pool(_) => announcers(&wishes, &given, &nodes),
    };
    for ((service, wish), given) in ours.into_iter().zip(&wishes).zip(&given) {
        let actions = if has_finalizer(service) {
            publish(service, wish, given, &announcers, now_millis)
        } else {
            begin(service)
        };
        plan.actions.extend(actions);
    }
    plan
}

/// Who announces an address.
struct Announced {
    node: String,
    /// Who would, and at which address it asks whether the node is there.
    standby: Option<(String, IpAddr)>,
}

fn announcers(
    wishes: &[AddressRequest],
    given: &[AssignedAddresses],
    nodes: &[Machine],
) -> BTreeMap<IpAddr, Announced> {
    let mut sharers: BTreeMap<IpAddr, Vec<&AddressRequest>> = BTreeMap::new();
    for (wish, given) in wishes.iter().zip(given) {
        for ip in given.iter().flatten() {
            sharers.entry(*ip).or_default().push(wish);
        }
    }
    let one = |(ip, sharers): (IpAddr, Vec<&AddressRequest>)| {
        let node = announcer(ip, &sharers, nodes)?;
        let asked = nodes.iter().find(|n| n.name == node);
        let asked = asked.and_then(|n| {
            let same = |at: &&IpAddr| at.is_ipv6() == ip.is_ipv6();
            let all = || n.addresses.iter();
            all().find(same).or_else(|| all().next()).copied()
        });
        let standby = asked.and_then(|at| Some((standby(ip, &node, &sharers, nodes)?, at)));
        Some((ip, Announced { node, standby }))
    };
    sharers.into_iter().filter_map(one).collect()
}

/// The annotations of a Service with these addresses.
fn notes(
    ips: &BTreeSet<IpAddr>,
    announcers: &BTreeMap<IpAddr, Announced>,
) -> [(&'static str, Option<String>); 2] {
    let joined = |one: &dyn Fn(&IpAddr, &Announced) -> Option<String>| {
        let all = ips.iter().filter_map(|ip| one(ip, announcers.get(ip)?));
        let text = all.collect::<Vec<_>>().join(",");
        Some(text).filter(|text| !text.is_empty())
    };
    let nodes = joined(&|ip, by| Some(format!("{ip}={}", by.node)));
    let standbys = joined(&|ip, by| {
        let (node, asks) = by.standby.as_ref()?;
        Some(format!("{ip}={node}@{asks}"))
    });
    [(ANNOUNCED_BY, nodes), (STANDBY, standbys)]
}

fn event(service: &Service, warning: bool, reason: &'static str, message: String) -> Action {
    Action::Event {
        about: reference(service),
        warning,
        reason,
        message,
    }
}

/// A patch by the status subresource, which is what upstream's role has, at the version that the
/// plan was made on.
fn patch(service: &Service, mut patch: Value) -> Action {
    let (namespace, name) = key_of(service);
    patch["metadata"]["resourceVersion"] = json!(service.resource_version());
    Action::Patch {
        target: Target::of::<Service>(&namespace, &name),
        subresource: "status",
        patch: Patch::Merge(patch),
    }
}

/// First the finalizer, so that nothing is given that is not given back.
fn begin(service: &Service) -> Vec<Action> {
    let mut finalizers = service.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    vec![
        event(
            service,
            false,
            "EnsuringLoadBalancer",
            "Ensuring load balancer".into(),
        ),
        patch(service, json!({ "metadata": { "finalizers": finalizers } })),
    ]
}

fn clean_up(service: &Service) -> Vec<Action> {
    let finalizers: Vec<&String> = service
        .finalizers()
        .iter()
        .filter(|f| *f != FINALIZER)
        .collect();
    let change = json!({
        "metadata": { "finalizers": finalizers, "annotations": { ANNOUNCED_BY: null, STANDBY: null } },
        "status": { "loadBalancer": { "ingress": null } },
    });
    vec![
        event(
            service,
            false,
            "DeletingLoadBalancer",
            "Deleting load balancer".into(),
        ),
        patch(service, change).noted(
            &reference(service),
            ("DeletedLoadBalancer", "Deleted load balancer".into()),
            (
                "DeleteLoadBalancerFailed",
                "Error deleting load balancer: {error}".into(),
            ),
        ),
    ]
}

/// Brings status and annotation to what is given.
fn publish(
    service: &Service,
    wish: &AddressRequest,
    given: &AssignedAddresses,
    announcers: &BTreeMap<IpAddr, Announced>,
    now_millis: i64,
) -> Vec<Action> {
    let none = BTreeSet::new();
    let ips = given.as_ref().unwrap_or(&none);
    let notes = notes(ips, announcers);
    let same =
        |(name, text): &(&str, Option<String>)| service.annotations().get(*name) == text.as_ref();
    let moved = !notes.iter().all(same);
    let listed = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let listed = listed.and_then(|b| b.ingress.as_ref()).map_or(0, Vec::len);
    let same_ports = wish.ports.iter().cloned().collect::<BTreeSet<_>>() == wish.held;
    let other = *ips != wish.has || listed != ips.len() || !(ips.is_empty() || same_ports);
    let conditions = conditions(service, given.as_ref().err(), now_millis);
    if !moved && !other && conditions.is_none() {
        return Vec::new();
    }
    let mut change = json!({ "metadata": {}, "status": {} });
    if moved {
        change["metadata"]["annotations"] = notes.into_iter().collect::<Value>();
    }
    if other {
        let ports = wish.ports.iter();
        let ports: Vec<Value> = ports
            .map(|(protocol, port)| json!({ "port": port, "protocol": protocol }))
            .collect();
        let ingress: Vec<Value> = ips
            .iter()
            .map(|ip| json!({ "ip": ip, "ipMode": "VIP", "ports": ports }))
            .collect();
        change["status"]["loadBalancer"] = json!({ "ingress": ingress });
    }
    if let Some(conditions) = &conditions {
        change["status"]["conditions"] = json!(conditions);
    }
    let done = patch(service, change);
    let failure = (
        "SyncLoadBalancerFailed",
        "Error syncing load balancer: {error}".to_owned(),
    );
    let about = reference(service);
    match given {
        Err(why) => {
            let text =
                format!("Error syncing load balancer: failed to ensure load balancer: {why}");
            let reason = match why {
                Pending::NoNodes => "UnAvailableLoadBalancer",
                _ => "SyncLoadBalancerFailed",
            };
            let text = match why {
                Pending::NoNodes => "There are no available nodes for LoadBalancer".to_owned(),
                _ => text,
            };
            // The condition remembers that it was said.
            let said = conditions.map(|_| event(service, true, reason, text));
            let done = done.noted_failure(&about, failure);
            said.into_iter().chain([done]).collect()
        }
        Ok(_) => {
            let success = if is_published(service) {
                (
                    "UpdatedLoadBalancer",
                    "Updated load balancer with new hosts",
                )
            } else {
                ("EnsuredLoadBalancer", "Ensured load balancer")
            };
            vec![done.noted(&about, (success.0, success.1.into()), failure)]
        }
    }
}

/// The Service's conditions with ours; `None` when they are as they should be.
fn conditions(service: &Service, why: Option<&Pending>, now_millis: i64) -> Option<Vec<Value>> {
    let status = service.status.as_ref();
    let all = status
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    let own = all.iter().find(|c| c.type_ == CONDITION);
    let same = match (own, why) {
        (None, None) => true,
        (Some(own), Some(why)) => own.reason == why.reason() && own.message == why.to_string(),
        _ => false,
    };
    if same {
        return None;
    }
    let others = all.iter().filter(|c| c.type_ != CONDITION).map(value_of);
    let ours = why.map(|why| {
        json!({
            "type": CONDITION, "status": "False", "reason": why.reason(),
            "message": why.to_string(),
            "lastTransitionTime": own.map_or(json!(time_text(now_millis)), |own| json!(own.last_transition_time)),
        })
    });
    Some(others.chain(ours).collect())
}
