//! The endpoints of the Service `kube-dns`: every node's own DNS server. The Service's internal
//! traffic policy is Local, so that each pod asks its node.
//!
//! So each endpoint is asked by its own node alone, and is ready whatever is said of that node: one
//! that shuts down, whose heartbeats are late or whose runtime is silent still has pods that ask,
//! and nobody else could answer them. A node that says that it has no such server is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::cidr::IpFamily;
use api::node_notes::{CLUSTER_DNS, NONE};
use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::common::{uid_of, value_of};

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
/// The slice of a family; the first one has had its name since there was no other.
fn slice_name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::Four => "kube-dns-nodes",
        IpFamily::Six => "kube-dns-nodes-ipv6",
    }
}
/// The port of each node's server.
const PORT: u16 = 10_053;
/// By these the slices are found and known as ours.
const LABELS: [(&str, &str); 2] = [
    ("kubernetes.io/service-name", SERVICE),
    (
        "endpointslice.kubernetes.io/managed-by",
        "cluster-dns-controller.tiphys",
    ),
];

/// The controller; there is one key.
pub struct ClusterDns {
    nodes: Informer<Node>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

impl ClusterDns {
    pub fn new(informers: &Informers) -> Self {
        Self {
            nodes: informers.of(),
            services: informers.of(),
            slices: informers.of(),
        }
    }
}

pub struct Observed {
    nodes: Vec<Arc<Node>>,
    service_uid: String,
    /// The families in which nodes serve.
    families: Vec<IpFamily>,
    /// What there is, by its family.
    slices: BTreeMap<IpFamily, Arc<EndpointSlice>>,
}

impl Controller for ClusterDns {
    const NAME: &'static str = "cluster-dns-controller";
    // It keeps slices of a Service, as that one does for the others.
    const ACCOUNT: &'static str = "endpointslice-controller";
    type Key = ();
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<()>) {
        // Heartbeats and the like are of no interest, and all nodes are looked at each time.
        watches.on_change(&self.nodes, |change| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            match old.map(served_at) == new.map(served_at) {
                true => Vec::new(),
                false => vec![()],
            }
        });
        watches.on(&self.services, |s| {
            if s.name_any() == SERVICE {
                vec![()]
            } else {
                Vec::new()
            }
        });
        watches.on(&self.slices, |s| {
            let name = s.name_any();
            let is_ours = IpFamily::ALL.iter().any(|f| slice_name(*f) == name);
            if is_ours { vec![()] } else { Vec::new() }
        });
    }

    fn observe(&self, (): &()) -> Option<Observed> {
        let service = self.services.get(NAMESPACE, SERVICE)?;
        let of = |family| Some((family, self.slices.get(NAMESPACE, slice_name(family))?));
        Some(Observed {
            nodes: self.nodes.list(),
            service_uid: uid_of(&*service),
            families: served(&service.spec.clone().unwrap_or_default()),
            slices: IpFamily::ALL.into_iter().filter_map(of).collect(),
        })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }

    fn workers(&self) -> usize {
        1
    }
}

/// The families in which the nodes serve the Service: none where it selects pods, with which somebody
/// has replaced the nodes' servers.
fn served(spec: &ServiceSpec) -> Vec<IpFamily> {
    if spec.selector.as_ref().is_some_and(|s| !s.is_empty()) {
        return Vec::new();
    }
    let families = crate::endpoints::plan::families(spec);
    let families = families.iter();
    families
        .filter_map(|word| IpFamily::of_word(word))
        .collect()
}

/// Whether a server answers at the node, as its agent says.
fn answers(node: &Node) -> bool {
    let said = node.annotations().get(CLUSTER_DNS);
    said.is_none_or(|said| said != NONE)
}

/// Where the server at a node answers in a family.
fn address(node: &Node, family: IpFamily) -> Option<&str> {
    if !answers(node) {
        return None;
    }
    let addresses = node.status.as_ref()?.addresses.iter().flatten();
    let mut internal = addresses.filter(|a| a.type_ == "InternalIP");
    let own = internal.find(|a| a.address.parse().is_ok_and(|ip| IpFamily::of(ip) == family))?;
    Some(&own.address)
}

/// All of a node that its endpoints say.
fn served_at(node: &Node) -> [Option<&str>; 2] {
    IpFamily::ALL.map(|family| address(node, family))
}

fn endpoint(node: &Node, family: IpFamily) -> Option<Value> {
    let address = address(node, family)?;
    Some(json!({
        "addresses": [address],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": node.name_any(),
    }))
}

fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::nothing();
    for family in IpFamily::ALL {
        let old = seen.slices.get(&family);
        plan.actions
            .extend(match (seen.families.contains(&family), old) {
                (true, old) => slice(seen, family, old),
                (false, Some(old)) => {
                    let target = Target::of::<EndpointSlice>(NAMESPACE, slice_name(family));
                    Some(Action::delete(target, Some(uid_of(&**old))))
                }
                (false, None) => None,
            });
    }
    plan
}

/// Makes the slice of a family, or brings it up to date.
fn slice(seen: &Observed, family: IpFamily, old: Option<&Arc<EndpointSlice>>) -> Option<Action> {
    let name = slice_name(family);
    let mut nodes: Vec<&Arc<Node>> = seen.nodes.iter().collect();
    nodes.sort_by_cached_key(|n| n.name_any());
    let endpoints: Vec<Value> = nodes
        .into_iter()
        .filter_map(|n| endpoint(n, family))
        .collect();
    let port =
        |name: &str, protocol: &str| json!({ "name": name, "port": PORT, "protocol": protocol });
    // What others have put there beside ours stays.
    let mut labels = old.map_or_else(BTreeMap::new, |old| old.labels().clone());
    for (key, value) in LABELS {
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": seen.service_uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family.word(),
        "endpoints": endpoints,
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    });
    let target = Target::of::<EndpointSlice>(NAMESPACE, name);
    let Some(old) = old else {
        return Some(Action::Create { target, object });
    };
    let metadata = &object["metadata"];
    // A list without entries comes back as none.
    let endpoints = old.endpoints.as_deref().unwrap_or_default();
    let same = value_of(&endpoints) == object["endpoints"]
        && value_of(&old.ports) == object["ports"]
        && value_of(&old.metadata.labels) == metadata["labels"]
        && value_of(&old.metadata.owner_references) == metadata["ownerReferences"];
    if same {
        return None;
    }
    object["metadata"]["resourceVersion"] = json!(old.resource_version());
    Some(Action::Update {
        target,
        subresource: "",
        object,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Arc<Node> {
        let value = json!({
            "metadata": { "name": name },
            "status": {
                "addresses": [
                    { "type": "InternalIP", "address": "10.0.0.9" },
                    { "type": "InternalIP", "address": "fd00::9" },
                ],
                "conditions": [{ "type": "Ready", "status": ready }],
            },
        });
        Arc::new(serde_json::from_value(value).expect("node"))
    }

    #[test]
    fn a_node_is_of_interest_for_where_it_answers() {
        let before = node("a", "True");
        let mut later = Node::clone(&node("a", "False"));
        later.metadata.resource_version = Some("7".into());
        assert_eq!(served_at(&before), served_at(&later));
        assert_eq!(served_at(&later), [Some("10.0.0.9"), Some("fd00::9")]);
        let note = (CLUSTER_DNS.to_owned(), NONE.to_owned());
        later.metadata.annotations = Some(BTreeMap::from([note]));
        assert_eq!(served_at(&later), [None, None]);
    }

    #[test]
    fn what_others_change_of_a_slice_is_repaired() {
        let observed = |slices| Observed {
            nodes: vec![node("a", "True")],
            service_uid: "u".into(),
            families: vec![IpFamily::Four],
            slices,
        };
        let made = plan(&observed(BTreeMap::new()));
        let [Action::Create { object, .. }] = &made.actions[..] else {
            panic!("{made:?}")
        };
        let label = "/metadata/labels/kubernetes.io~1service-name";
        for (pointer, value) in [
            ("/ports/0/port", json!(53)),
            ("/endpoints/0/conditions/ready", json!(false)),
            ("/metadata/ownerReferences/0/uid", json!("another")),
            (label, json!("other")),
        ] {
            let mut changed = object.clone();
            changed["metadata"]["labels"]["of-others"] = json!("kept");
            *changed.pointer_mut(pointer).expect("it is there") = value;
            let changed: EndpointSlice = serde_json::from_value(changed).expect("slice");
            let again = plan(&observed([(IpFamily::Four, Arc::new(changed))].into()));
            let [Action::Update { object: mended, .. }] = &again.actions[..] else {
                panic!("{pointer}: {again:?}")
            };
            assert_eq!(mended.pointer(pointer), object.pointer(pointer));
            assert_eq!(mended["metadata"]["labels"]["of-others"], "kept");
        }
    }

    #[test]
    fn a_slice_of_no_nodes_is_left_alone() {
        let mut seen = Observed {
            nodes: Vec::new(),
            service_uid: "u".into(),
            families: vec![IpFamily::Four],
            slices: BTreeMap::new(),
        };
        let first = plan(&seen);
        let [Action::Create { object, .. }] = &first.actions[..] else {
            panic!("{first:?}")
        };
        let mut stored = object.clone();
        stored["endpoints"] = Value::Null;
        let stored = serde_json::from_value(stored).expect("slice");
        seen.slices.insert(IpFamily::Four, Arc::new(stored));
        assert!(plan(&seen).actions.is_empty());
    }

    #[test]
    fn every_node_is_an_endpoint_and_an_unchanged_slice_is_left_alone() {
        let nodes = vec![node("b", "True"), node("a", "False")];
        let first = plan(&Observed {
            nodes: nodes.clone(),
            service_uid: "u".into(),
            families: IpFamily::ALL.to_vec(),
            slices: BTreeMap::new(),
        });
        let [
            Action::Create { object, .. },
            Action::Create { object: six, .. },
        ] = &first.actions[..]
        else {
            panic!("{first:?}")
        };
        // Also of the node that is not ready: its own pods have nobody else to ask.
        for (index, name) in [(0, "a"), (1, "b")] {
            let (endpoint, yes) = (&object["endpoints"][index], json!(true));
            let conditions = &endpoint["conditions"];
            assert_eq!(
                (&endpoint["nodeName"], &conditions["ready"]),
                (&json!(name), &yes)
            );
            assert_eq!(conditions["serving"], yes, "{name}");
        }
        assert_eq!(object["endpoints"][0]["addresses"], json!(["10.0.0.9"]));
        assert_eq!(
            (&six["addressType"], &six["endpoints"][0]["addresses"]),
            (&json!("IPv6"), &json!(["fd00::9"]))
        );
        let slice = |object: &Value| -> Arc<EndpointSlice> {
            Arc::new(serde_json::from_value(object.clone()).expect("slice"))
        };
        let mut again = Observed {
            nodes,
            service_uid: "u".into(),
            families: IpFamily::ALL.to_vec(),
            slices: [(IpFamily::Four, slice(object)), (IpFamily::Six, slice(six))].into(),
        };
        assert!(plan(&again).is_empty());
        // The Service has one family again.
        again.families.pop();
        assert!(matches!(&plan(&again).actions[..], [Action::Delete { .. }]));
    }

    #[test]
    fn a_node_without_a_server_is_no_endpoint() {
        let with = |said: Option<&str>| {
            let mut node = Node::clone(&node("a", "True"));
            let said = said.map(|said| [(CLUSTER_DNS.to_owned(), said.to_owned())].into());
            node.metadata.annotations = said;
            endpoint(&node, IpFamily::Four).is_some()
        };
        assert!(with(None), "an agent of before");
        assert!(with(Some("builtin")) && !with(Some(NONE)));
    }

    #[test]
    fn who_brings_dns_pods_along_replaces_the_nodes() {
        let spec = |selector: Value| -> ServiceSpec {
            let spec = json!({ "ipFamilies": ["IPv4", "IPv6"], "clusterIP": "10.96.0.10", "selector": selector });
            serde_json::from_value(spec).expect("spec")
        };
        assert_eq!(served(&spec(json!({}))), IpFamily::ALL);
        assert_eq!(served(&spec(json!({ "k8s-app": "kube-dns" }))), []);
    }
}
