//! The endpoints of the Service `kube-dns`: every node's own DNS server. The Service's internal
//! traffic policy is Local, so that each pod asks its node.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::common::{uid_of, value_of};

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const SLICE: &str = "kube-dns-nodes";
/// The port of each node's server.
const PORT: u16 = 10_053;

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
    slice: Option<Arc<EndpointSlice>>,
}

impl Controller for ClusterDns {
    const NAME: &'static str = "cluster-dns-controller";
    // It keeps slices of a Service, as that one does for the others.
    const ACCOUNT: &'static str = "endpointslice-controller";
    type Key = ();
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<()>) {
        watches.on(&self.nodes, |_| vec![()]);
        let ours = |name: String, wanted: &str| if name == wanted { vec![()] } else { Vec::new() };
        watches.on(&self.services, move |s| ours(s.name_any(), SERVICE));
        watches.on(&self.slices, move |s| ours(s.name_any(), SLICE));
    }

    fn observe(&self, (): &()) -> Option<Observed> {
        let service = self.services.get(NAMESPACE, SERVICE)?;
        let slice = self.slices.get(NAMESPACE, SLICE);
        Some(Observed {
            nodes: self.nodes.list(),
            service_uid: uid_of(&*service),
            slice,
        })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }

    fn workers(&self) -> usize {
        1
    }
}

fn endpoint(node: &Node) -> Option<Value> {
    let status = node.status.as_ref()?;
    let address = status
        .addresses
        .iter()
        .flatten()
        .find(|a| a.type_ == "InternalIP")?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    Some(json!({
        "addresses": [address.address],
        "conditions": { "ready": ready, "serving": ready, "terminating": false },
        "nodeName": node.name_any(),
    }))
}

fn plan(seen: &Observed) -> Plan {
    let mut nodes: Vec<&Arc<Node>> = seen.nodes.iter().collect();
    nodes.sort_by_key(|n| n.name_any());
    let endpoints: Vec<Value> = nodes.into_iter().filter_map(|n| endpoint(n)).collect();
    let port =
        |name: &str, protocol: &str| json!({ "name": name, "port": PORT, "protocol": protocol });
    let mut object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": SLICE, "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "cluster-dns-controller.tiphys",
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": seen.service_uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
    });
    let target = Target::of::<EndpointSlice>(NAMESPACE, SLICE);
    let action = match &seen.slice {
        None => Action::Create { target, object },
        Some(slice) => {
            let same = value_of(&slice.endpoints) == object["endpoints"];
            if same {
                return Plan::nothing();
            }
            object["metadata"]["resourceVersion"] = json!(slice.resource_version());
            Action::Update {
                target,
                subresource: "",
                object,
            }
        }
    };
    Plan::from(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Arc<Node> {
        let value = json!({
            "metadata": { "name": name },
            "status": {
                "addresses": [{ "type": "InternalIP", "address": "10.0.0.9" }],
                "conditions": [{ "type": "Ready", "status": ready }],
            },
        });
        Arc::new(serde_json::from_value(value).expect("node"))
    }

    #[test]
    fn every_node_is_an_endpoint_and_an_unchanged_slice_is_left_alone() {
        let nodes = vec![node("b", "True"), node("a", "False")];
        let first = plan(&Observed {
            nodes: nodes.clone(),
            service_uid: "u".into(),
            slice: None,
        });
        let [Action::Create { object, .. }] = &first.actions[..] else {
            panic!("{first:?}")
        };
        assert_eq!(object["endpoints"][0]["nodeName"], "a");
        assert_eq!(object["endpoints"][1]["conditions"]["ready"], true);
        let slice: EndpointSlice = serde_json::from_value(object.clone()).expect("slice");
        let again = Observed {
            nodes,
            service_uid: "u".into(),
            slice: Some(Arc::new(slice)),
        };
        assert!(plan(&again).is_empty());
    }
}
