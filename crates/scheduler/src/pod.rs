//! A pod as the scheduler sees it: read once when it appears, then shared.

use std::sync::Arc;

use api::declared_features;
use api::selector::{LabelSelector, Operator};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::disk::Disk;
use crate::interned::{Labels, Strings};
use crate::resources::{self, Resources, Weight};
use crate::selector_terms::{self, NodeTerm, PodTerm};
use crate::selectors::Owner;

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Arc<str>,
    /// Empty for all addresses.
    pub ip: Arc<str>,
    pub port: i32,
}

impl HostPort {
    pub fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip.is_empty() || other.ip.is_empty())
    }
}

/// What a pod says about its topology.
#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: Arc<str>,
    /// `DoNotSchedule`; otherwise it is only a wish.
    pub required: bool,
    pub selector: LabelSelector,
    pub min_domains: i64,
    /// Nodes that the pod's node affinity excludes are not counted.
    pub honors_affinity: bool,
    /// Nodes whose taints the pod does not tolerate are not counted.
    pub honors_taints: bool,
}

/// A claim that a pod uses.
#[derive(Clone, Debug)]
pub struct UsedClaim {
    /// Namespace and name.
    pub key: Arc<str>,
    pub name: String,
    /// It is made for the pod alone.
    pub ephemeral: bool,
}

/// A claim of devices that a pod uses.
#[derive(Clone, Debug)]
pub struct UsedDevices {
    /// Namespace and name; none while it has not been made.
    pub key: Option<Arc<str>>,
    /// Its name, or the pod's word for it while it has none.
    pub name: String,
    /// It is made for the pod alone.
    pub made: bool,
}

/// What a container asks for of extended resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedRequests {
    pub container: String,
    /// Its place among the init containers and then the others.
    pub index: usize,
    /// It ends before others start.
    pub ends: bool,
    pub amounts: Vec<Amount>,
}

/// How much of an extended resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount {
    pub resource: String,
    pub count: i64,
    /// The place of the resource among all that the container asks for, by name.
    pub nth: usize,
}

/// Whether a resource is one that plugins of nodes offer, or that a class of devices may stand for.
fn is_extended(name: &str) -> bool {
    let implicit = name.starts_with("deviceclass.resource.kubernetes.io/");
    implicit || name.contains('/') && !name.contains("kubernetes.io/")
}

fn extended(spec: &k8s::PodSpec) -> Vec<ExtendedRequests> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|c| (c, c.restart_policy.as_deref() != Some("Always")));
    let all = init.chain(spec.containers.iter().map(|c| (c, false)));
    let asked = all.enumerate().map(|(index, (container, ends))| {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|r| r.requests.as_ref());
        let requests = requests.into_iter().flatten().enumerate();
        let amounts = requests.filter(|(_, (name, _))| is_extended(name));
        let amounts = amounts.filter_map(|(nth, (name, quantity))| {
            let count = quantity.0.parse::<api::quantity::Quantity>().ok()?.value();
            let resource = name.clone();
            (count > 0).then_some(Amount {
                resource,
                count,
                nth,
            })
        });
        ExtendedRequests {
            container: container.name.clone(),
            index,
            ends,
            amounts: amounts.collect(),
        }
    });
    asked.filter(|a| !a.amounts.is_empty()).collect()
}

/// A pod, with all that plugins ask.
#[derive(Clone, Debug)]
pub struct Pod {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: String,
    /// How often its spec has changed: conditions say by it what they are about.
    pub generation: Option<i64>,
    /// The scheduler that it names.
    pub scheduler: Arc<str>,
    pub labels: Labels,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    pub priority: i32,
    /// Seconds since 1970; of two pods of one priority the older goes first.
    pub created_seconds: i64,
    pub started_seconds: i64,
    pub terminating: bool,
    /// It is leaving to make room for a more important pod.
    pub preempted: bool,
    pub request: Resources,
    pub weight: Weight,
    pub ports: Vec<HostPort>,
    pub wants: Wants,
}

/// What a pod says about where it wants to be.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    pub never_preempts: bool,
    /// The node where victims make room for it.
    pub nominated: Option<Arc<str>>,
    pub gates: Vec<String>,
    pub tolerations: Vec<k8s::Toleration>,
    /// `nodeSelector`.
    pub node_labels: Vec<(String, String)>,
    /// Required node affinity: any of these.
    pub node_required: Option<Vec<NodeTerm>>,
    pub node_preferred: Vec<(i64, NodeTerm)>,
    pub near: Vec<Arc<PodTerm>>,
    pub apart: Vec<Arc<PodTerm>>,
    pub near_preferred: Vec<(i64, Arc<PodTerm>)>,
    pub apart_preferred: Vec<(i64, Arc<PodTerm>)>,
    /// The controller whose set it is of.
    pub owner: Option<(Owner, String)>,
    pub spread: Vec<Spread>,
    pub claims: Vec<UsedClaim>,
    pub devices: Vec<UsedDevices>,
    pub extended: Vec<ExtendedRequests>,
    /// Namespace and name of the group that it is of.
    pub group: Option<Arc<str>>,
    pub disks: Vec<Disk>,
    /// Of all containers and of volumes, normalized.
    pub images: Vec<String>,
    pub containers: usize,
    /// New features that its node must declare.
    pub features: Vec<&'static str>,
}

/// The features that a pod needs to run as it asks.
fn features(spec: &k8s::PodSpec) -> Vec<&'static str> {
    let mut out = Vec::new();
    let init = spec.init_containers.iter().flatten();
    let mut rules = init
        .chain(&spec.containers)
        .flat_map(|c| c.restart_policy_rules.iter().flatten());
    if rules.any(|rule| rule.action == "RestartAllContainers") {
        out.push(declared_features::RESTART_ALL);
    }
    if spec.host_network == Some(true) && spec.host_users == Some(false) {
        out.push(declared_features::USERS_IN_HOST_NETWORK);
    }
    out
}

fn seconds(time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>) -> i64 {
    time.map_or(0, |t| t.0.as_second())
}

fn owner(meta: &ObjectMeta) -> Option<(Owner, String)> {
    let mut owners = meta.owner_references.iter().flatten();
    let owner = owners.find(|o| o.controller == Some(true))?;
    Some((Owner::of(owner)?, owner.name.clone()))
}

/// The scheduler that a pod names.
pub fn scheduler_of(spec: &k8s::PodSpec) -> &str {
    spec.scheduler_name
        .as_deref()
        .unwrap_or("default-scheduler")
}

/// Whether a scheduler asked it to make room.
fn is_preempted(status: &k8s::PodStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    let mut targets = conditions.filter(|c| c.type_ == "DisruptionTarget");
    targets.any(|c| c.status == "True" && c.reason.as_deref() == Some("PreemptionByScheduler"))
}

/// Namespace and name of the group that a pod names.
pub fn group_of(pod: &k8s::Pod) -> Option<String> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{namespace}/{}", group.pod_group_name.as_deref()?))
}

/// Whether the pod has run to its end: it holds nothing of its node any more.
pub fn is_terminal(pod: &k8s::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The name with its tag, as nodes report images.
fn normalized_image(image: &str) -> String {
    if image.rfind(':') <= image.rfind('/') {
        format!("{image}:latest")
    } else {
        image.to_owned()
    }
}

impl Pod {
    pub fn read(from: &k8s::Pod, strings: &mut Strings) -> Self {
        let meta = &from.metadata;
        let empty = k8s::PodSpec::default();
        let spec = from.spec.as_ref().unwrap_or(&empty);
        let status = from.status.as_ref();
        let (request, weight) = resources::of_pod(from, strings);
        let namespace = strings.get(meta.namespace.as_deref().unwrap_or_default());
        let labels = strings.labels(meta.labels.as_ref());
        let node = spec.node_name.as_deref().filter(|n| !n.is_empty());
        Self {
            uid: Arc::from(meta.uid.as_deref().unwrap_or_default()),
            name: meta.name.clone().unwrap_or_default(),
            generation: meta.generation,
            scheduler: strings.get(scheduler_of(spec)),
            node: node.map(|n| strings.get(n)),
            priority: spec.priority.unwrap_or(0),
            created_seconds: seconds(meta.creation_timestamp.as_ref()),
            // What has not started is the youngest.
            started_seconds: status
                .and_then(|s| s.start_time.as_ref())
                .map_or(i64::MAX, |t| seconds(Some(t))),
            terminating: meta.deletion_timestamp.is_some(),
            preempted: meta.deletion_timestamp.is_some() && status.is_some_and(is_preempted),
            request,
            weight,
            ports: ports(spec, strings),
            wants: Wants::read(from, spec, &namespace, &labels, strings),
            namespace,
            labels,
        }
    }

    /// Whether another pod asks for the same, and neither asks for anything that is elsewhere than on a
    /// node: then both fit the same nodes equally well.
    pub fn is_like(&self, other: &Self) -> bool {
        self.request == other.request
            && self.weight == other.weight
            && self.priority == other.priority
            && self.labels == other.labels
            && self.namespace == other.namespace
            && self.scheduler == other.scheduler
            && self.node == other.node
            && self.ports == other.ports
            && self.wants.is_like(&other.wants)
    }

    /// Whether it was set aside until its gates are removed.
    pub fn is_gated(&self) -> bool {
        !self.wants.gates.is_empty()
    }
}

fn ports(spec: &k8s::PodSpec, strings: &mut Strings) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut out = Vec::new();
    for port in spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
    {
        let own = spec.host_network.unwrap_or(false);
        let host = port.host_port.filter(|p| *p > 0);
        if let Some(number) = host.or(own.then_some(port.container_port)) {
            let ip = port.host_ip.as_deref().unwrap_or_default();
            out.push(HostPort {
                protocol: strings.get(port.protocol.as_deref().unwrap_or("TCP")),
                ip: strings.get(if ip == "0.0.0.0" { "" } else { ip }),
                port: number,
            });
        }
    }
    out
}

impl Wants {
    fn read(
        from: &k8s::Pod,
        spec: &k8s::PodSpec,
        namespace: &Arc<str>,
        labels: &Labels,
        strings: &mut Strings,
    ) -> Self {
        let nominated = from.status.as_ref();
        let nominated = nominated.and_then(|s| s.nominated_node_name.as_deref());
        let gates = spec.scheduling_gates.iter().flatten();
        let mut out = Self {
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            nominated: nominated.filter(|n| !n.is_empty()).map(|n| strings.get(n)),
            gates: gates.map(|g| g.name.clone()).collect(),
            owner: owner(&from.metadata),
            features: features(spec),
            extended: extended(spec),
            group: group_of(from).map(|group| strings.get(&group)),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_labels: spec
                .node_selector
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            ..Self::default()
        };
        out.read_images(spec);
        out.read_volumes(from, spec, namespace, strings);
        out.read_devices(from, spec, namespace, strings);
        if let Some(affinity) = &spec.affinity {
            out.read_affinity(affinity, namespace, labels, strings);
        }
        let spread = spec.topology_spread_constraints.iter().flatten();
        out.spread = spread.map(|c| read_spread(c, labels, strings)).collect();
        out
    }

    fn read_images(&mut self, spec: &k8s::PodSpec) {
        let init = spec.init_containers.iter().flatten();
        let containers = init.chain(&spec.containers);
        let run = containers.filter_map(|c| c.image.as_deref());
        let volumes = spec.volumes.iter().flatten();
        let mounted = volumes.filter_map(|v| v.image.as_ref()?.reference.as_deref());
        self.images = run.chain(mounted).map(normalized_image).collect();
        self.containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    }

    fn read_volumes(
        &mut self,
        pod: &k8s::Pod,
        spec: &k8s::PodSpec,
        namespace: &str,
        strings: &mut Strings,
    ) {
        for volume in spec.volumes.iter().flatten() {
            let claim = volume.persistent_volume_claim.as_ref();
            let (name, ephemeral) = match (claim, &volume.ephemeral) {
                (Some(claim), _) => (claim.claim_name.clone(), false),
                (None, Some(_)) => {
                    let pod = pod.metadata.name.as_deref().unwrap_or_default();
                    (format!("{pod}-{}", volume.name), true)
                }
                (None, None) => {
                    self.disks.extend(Disk::read(volume));
                    continue;
                }
            };
            self.claims.push(UsedClaim {
                key: strings.get(&format!("{namespace}/{name}")),
                name,
                ephemeral,
            });
        }
    }

    fn read_devices(
        &mut self,
        pod: &k8s::Pod,
        spec: &k8s::PodSpec,
        namespace: &str,
        strings: &mut Strings,
    ) {
        for claim in spec.resource_claims.iter().flatten() {
            let (name, made) = match &claim.resource_claim_name {
                Some(name) => (Some(name.clone()), false),
                None => {
                    let status = pod.status.as_ref();
                    let mut known = status
                        .iter()
                        .flat_map(|s| s.resource_claim_statuses.iter().flatten());
                    match known.find(|s| s.name == claim.name) {
                        // It was found that none is needed.
                        Some(of) if of.resource_claim_name.is_none() => continue,
                        Some(of) => (of.resource_claim_name.clone(), true),
                        None => (None, true),
                    }
                }
            };
            self.devices.push(UsedDevices {
                key: name
                    .as_ref()
                    .map(|n| strings.get(&format!("{namespace}/{n}"))),
                name: name.unwrap_or_else(|| claim.name.clone()),
                made,
            });
        }
    }

    fn read_affinity(
        &mut self,
        from: &k8s::Affinity,
        namespace: &Arc<str>,
        labels: &Labels,
        strings: &mut Strings,
    ) {
        if let Some(nodes) = &from.node_affinity {
            let required = nodes
                .required_during_scheduling_ignored_during_execution
                .as_ref();
            self.node_required = required.map(selector_terms::node_terms);
            let preferred = &nodes.preferred_during_scheduling_ignored_during_execution;
            self.node_preferred =
                selector_terms::node_wishes(preferred.as_deref().unwrap_or_default());
        }
        let mut term =
            |t: &k8s::PodAffinityTerm| Arc::new(PodTerm::read(t, namespace, labels, strings));
        if let Some(near) = &from.pod_affinity {
            let required = &near.required_during_scheduling_ignored_during_execution;
            self.near = required.iter().flatten().map(&mut term).collect();
            let preferred = &near.preferred_during_scheduling_ignored_during_execution;
            self.near_preferred = preferred
                .iter()
                .flatten()
                .map(|p| (i64::from(p.weight), term(&p.pod_affinity_term)))
                .collect();
        }
        if let Some(apart) = &from.pod_anti_affinity {
            let required = &apart.required_during_scheduling_ignored_during_execution;
            self.apart = required.iter().flatten().map(&mut term).collect();
            let preferred = &apart.preferred_during_scheduling_ignored_during_execution;
            self.apart_preferred = preferred
                .iter()
                .flatten()
                .map(|p| (i64::from(p.weight), term(&p.pod_affinity_term)))
                .collect();
        }
    }

    /// See [`Pod::is_like`].
    fn is_like(&self, other: &Self) -> bool {
        let of_nodes_alone = |w: &Self| {
            !w.has_pod_terms()
                && w.spread.is_empty()
                && w.claims.is_empty()
                && w.devices.is_empty()
                && w.disks.is_empty()
        };
        of_nodes_alone(self)
            && of_nodes_alone(other)
            && self.never_preempts == other.never_preempts
            && self.owner == other.owner
            && self.tolerations == other.tolerations
            && self.node_labels == other.node_labels
            && self.node_required == other.node_required
            && self.node_preferred == other.node_preferred
            && self.images == other.images
            && self.containers == other.containers
            && self.features == other.features
            && self.extended == other.extended
            && self.group == other.group
    }

    /// Whether its node selector and required node affinity allow a node of this name, with these
    /// labels.
    pub fn allows(&self, name: &str, labels: &Labels) -> bool {
        self.node_labels
            .iter()
            .all(|(k, v)| labels.get(k).is_some_and(|have| **have == **v))
            && self
                .node_required
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    /// Whether the pod has a say in which pods it is with.
    pub fn has_pod_terms(&self) -> bool {
        !(self.near.is_empty()
            && self.apart.is_empty()
            && self.near_preferred.is_empty()
            && self.apart_preferred.is_empty())
    }
}

fn read_spread(
    from: &k8s::TopologySpreadConstraint,
    labels: &Labels,
    strings: &mut Strings,
) -> Spread {
    let mut selector = selector_terms::selector(from.label_selector.as_ref());
    let keys = from.match_label_keys.as_deref();
    selector_terms::add_label_keys(&mut selector, keys, labels, Operator::In);
    // One that is empty counts no pod, as upstream has it.
    if selector.is_everything() {
        selector = LabelSelector::nothing();
    }
    Spread {
        max_skew: i64::from(from.max_skew),
        topology_key: strings.get(&from.topology_key),
        required: from.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: i64::from(from.min_domains.unwrap_or(1)),
        honors_affinity: from.node_affinity_policy.as_deref() != Some("Ignore"),
        honors_taints: from.node_taints_policy.as_deref() == Some("Honor"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_what_the_control_plane_keeps_everything_is_read() {
        let container = json!({
            "name": "c", "image": "registry.example/a", "command": ["x"],
            "env": [{ "name": "A", "value": "B" }],
            "ports": [{ "containerPort": 80, "hostPort": 8080, "hostIP": "192.0.2.1" }],
            "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } },
        });
        let mut sidecar = container.clone();
        sidecar["name"] = json!("s");
        sidecar["restartPolicy"] = json!("Always");
        let selector = json!({ "matchLabels": { "a": "b" } });
        let term = json!({ "topologyKey": "z", "labelSelector": selector });
        let whole = json!({
            "metadata": { "name": "p", "namespace": "n", "uid": "u", "labels": { "a": "b" },
                "annotations": { "x": "y" }, "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": {
                "priority": 7, "preemptionPolicy": "Never", "nodeSelector": { "d": "e" },
                "schedulingGates": [{ "name": "g" }], "overhead": { "cpu": "10m" },
                "tolerations": [{ "key": "t", "operator": "Exists" }],
                "volumes": [{ "name": "v", "emptyDir": {} }],
                "initContainers": [sidecar], "containers": [container],
                "affinity": {
                    "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{ "matchExpressions":
                            [{ "key": "k", "operator": "In", "values": ["v"] }] }] } },
                    "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] },
                },
                "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "z",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector }],
            },
            "status": { "nominatedNodeName": "n1", "startTime": "2026-01-01T00:00:01Z",
                "containerStatuses": [{ "name": "c", "ready": true, "restartCount": 1,
                    "image": "i", "imageID": "", "resources": { "requests": { "cpu": "200m" } } }] },
        });
        let whole: k8s::Pod = serde_json::from_value(whole).expect("a pod");
        let mut kept = whole.clone();
        control::trimmed::pod(&mut kept);
        assert_ne!(whole, kept);
        let read = |pod| format!("{:?}", Pod::read(pod, &mut Strings::default()));
        assert_eq!(read(&whole), read(&kept));
    }
}
