//! Where a Service's endpoints, pods and kubelets are reached, by what the cache has of them.

use std::net::IpAddr;

use api::{GroupResource, Status};
use rand::RngExt;
use serde_json::Value;

use crate::dialer::{DialTarget, PodPort};
use crate::state::State;

/// The port of a kubelet that does not say another one.
const KUBELET_PORT: u16 = 10_250;
/// Address types of a node in the order in which they are tried.
const ADDRESS_TYPES: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];

/// The node that the pod is bound to.
pub fn node_name(pod: &Value) -> Option<&str> {
    let name = pod.pointer("/spec/nodeName").and_then(Value::as_str);
    name.filter(|n| !n.is_empty())
}

/// Where a node's kubelet listens.
pub fn kubelet(state: &State, node: &str) -> Result<(String, u16), Status> {
    let object = state.lookup("", "nodes", "", node);
    let object = object.ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), node))?;
    location(&object.to_value())
}

fn location(node: &Value) -> Result<(String, u16), Status> {
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let find = |kind: &&str| {
        let found = addresses?.iter().find(|a| a["type"] == **kind)?;
        found["address"].as_str().filter(|a| !a.is_empty())
    };
    let host = ADDRESS_TYPES.iter().find_map(find);
    let host = host.ok_or_else(|| Status {
        code: 500,
        status: "Failure".into(),
        message: "no preferred addresses found; known addresses: []".into(),
        ..Status::default()
    })?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port");
    let port = port
        .and_then(Value::as_u64)
        .and_then(|p| u16::try_from(p).ok());
    let port = port.filter(|p| *p > 0).unwrap_or(KUBELET_PORT);
    Ok((host.to_owned(), port))
}

/// The way to a pod's port: by the node that it is bound to.
pub fn way(state: &State, pod: &Value, address: &str, port: u16) -> Result<PodPort, Status> {
    allowed(address)?;
    let word = |field: &str| {
        let text = pod["metadata"][field].as_str();
        text.unwrap_or_default().to_owned()
    };
    let node = node_name(pod).ok_or_else(|| Status::bad_request("address not allowed"))?;
    Ok(PodPort {
        kubelet: kubelet(state, node)?,
        target: wire::stream::tunnel::Target {
            namespace: word("namespace"),
            name: word("name"),
            uid: word("uid"),
            port,
        },
        address: address.to_owned(),
    })
}

/// Whom a Service may lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// Pods of its own namespace: endpoints are written by users, and must not lead those who may
    /// use the proxy where they may not go.
    Pods,
    /// Other addresses, too: who registers a webhook or an extension server may name any. They are
    /// connected to from here.
    Anyone,
}

/// A Service's port.
#[derive(Clone, Copy, Debug)]
pub struct ServicePort<'a> {
    pub namespace: &'a str,
    pub service: &'a str,
    /// A number, or the name that the Service gives it.
    pub port: &'a str,
}

/// The ready places behind a Service's port, in random order, since not every one need be what it
/// says; never none.
pub fn behind(state: &State, of: ServicePort<'_>, who: Behind) -> Result<Vec<DialTarget>, Status> {
    let object = state.lookup("", "services", of.namespace, of.service);
    let object =
        object.ok_or_else(|| Status::not_found(&GroupResource::new("", "services"), of.service))?;
    let service = object.to_value();
    if who == Behind::Anyone && service["spec"]["type"] == "ExternalName" {
        return external(&service, of.port).map(|place| vec![place]);
    }
    let port = port_name(&service, of)?;
    let slices = state.lookup_all("discovery.k8s.io", "endpointslices", of.namespace);
    let of_service = |label: Option<&str>| label.is_some_and(|l| l == of.service);
    let slices = slices
        .iter()
        .filter(|s| of_service(s.label("kubernetes.io/service-name")))
        .map(|s| s.to_value());
    let mut all: Vec<Endpoint> = slices
        .flat_map(|s| endpoints(&s, &port, of.namespace))
        .collect();
    let mut random = state.random();
    let mut places = Vec::new();
    while !all.is_empty() {
        let endpoint = all.swap_remove(random.random_range(0..all.len()));
        places.extend(place(state, of.namespace, endpoint, who)?);
    }
    if places.is_empty() {
        return Err(none(of.service));
    }
    Ok(places)
}

/// There is nobody behind a Service.
pub fn none(id: &str) -> Status {
    Status::unavailable(format!("no endpoints available for service {id:?}"))
}

fn external(service: &Value, port: &str) -> Result<DialTarget, Status> {
    let name = service["spec"]["externalName"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(DialTarget::Host {
        host: name.to_owned(),
        port: number(port)?,
    })
}

fn place(
    state: &State,
    namespace: &str,
    endpoint: Endpoint,
    who: Behind,
) -> Result<Option<DialTarget>, Status> {
    let Endpoint { pod, address, port } = endpoint;
    let Some(pod) = pod else {
        if who == Behind::Pods || allowed(&address).is_err() {
            return Ok(None);
        }
        return Ok(Some(DialTarget::Host {
            host: address,
            port,
        }));
    };
    let object = state.lookup("", "pods", namespace, &pod);
    let Some(object) = object.map(|o| o.to_value()) else {
        return Ok(None);
    };
    if !has_address(&object, &address) {
        return Ok(None);
    }
    way(state, &object, &address, port).map(|pod| Some(DialTarget::Pod(pod)))
}

fn has_address(pod: &Value, address: &str) -> bool {
    let all = pod["status"]["podIPs"].as_array().into_iter().flatten();
    all.into_iter().any(|ip| ip["ip"] == address)
}

/// The name of the service's port that is meant: endpoints know their ports by name.
fn port_name(service: &Value, of: ServicePort<'_>) -> Result<String, Status> {
    let Ok(number) = of.port.parse::<u64>() else {
        return Ok(of.port.to_owned());
    };
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let found = ports
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_u64() == Some(number));
    let found = found.ok_or_else(|| {
        Status::unavailable(format!(
            "no service port {number} found for service {:?}",
            of.service
        ))
    })?;
    Ok(found["name"].as_str().unwrap_or_default().to_owned())
}

/// An endpoint of a slice.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    /// The pod of the slice's namespace that it says it is.
    pod: Option<String>,
    address: String,
    port: u16,
}

/// Ready endpoints of a slice for a port. Those that name something else than a pod of the Service's
/// own namespace are nobody's.
fn endpoints(slice: &Value, port_name: &str, namespace: &str) -> Vec<Endpoint> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let mut named = ports.filter(|p| p["name"].as_str().unwrap_or_default() == port_name);
    let port = named.find_map(|p| u16::try_from(p["port"].as_u64()?).ok());
    let Some(port) = port.filter(|p| *p > 0) else {
        return Vec::new();
    };
    let all = slice["endpoints"].as_array().into_iter().flatten();
    all.filter(|e| e["conditions"]["ready"].as_bool().unwrap_or(true))
        .filter_map(|e| {
            let target = &e["targetRef"];
            let is_pod = target["kind"] == "Pod" && target["namespace"] == namespace;
            if !target.is_null() && !is_pod {
                return None;
            }
            Some(Endpoint {
                pod: target["name"].as_str().map(str::to_owned),
                address: e["addresses"][0].as_str()?.to_owned(),
                port,
            })
        })
        .collect()
}

/// A port's number.
pub fn number(port: &str) -> Result<u16, Status> {
    let number = port.parse().ok().filter(|p| *p > 0);
    number.ok_or_else(|| Status::bad_request(format!("invalid port {port:?}")))
}

/// Addresses are written by nodes and pods' owners: none may lead to this machine's own
/// services or to a cloud's metadata.
pub fn allowed(host: &str) -> Result<(), Status> {
    let fine = match host.parse::<IpAddr>() {
        Err(_) => !host.is_empty() && host != "localhost",
        Ok(IpAddr::V4(a)) => {
            !(a.is_loopback()
                || a.is_link_local()
                || a.is_unspecified()
                || a.is_multicast()
                || a.is_broadcast())
        }
        Ok(IpAddr::V6(a)) => {
            let mapped_local = a
                .to_ipv4_mapped()
                .is_some_and(|a| a.is_loopback() || a.is_link_local());
            let bad = a.is_loopback()
                || a.is_unicast_link_local()
                || a.is_unspecified()
                || a.is_multicast();
            !(bad || mapped_local)
        }
    };
    if fine {
        Ok(())
    } else {
        Err(Status::bad_request("address not allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_reached_at_its_internal_address() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "192.0.2.7"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10_251}},
        }});
        assert_eq!(location(&node), Ok(("192.0.2.7".into(), 10_251)));
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}]}});
        assert_eq!(location(&node), Ok(("n".into(), 10_250)));
        assert_eq!(location(&json!({})).map_err(|s| s.code), Err(500));
    }

    #[test]
    fn only_ready_endpoints_of_the_port_are_chosen() {
        let of = |namespace, name| json!({"kind": "Pod", "namespace": namespace, "name": name});
        let slice = json!({
            "ports": [{"name": "web", "port": 8080}, {"name": "tls", "port": 8443}],
            "endpoints": [
                {"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "targetRef": of("n", "a")},
                {"addresses": ["192.0.2.2"], "conditions": {"ready": false}, "targetRef": of("n", "b")},
                {"addresses": ["192.0.2.3"], "targetRef": of("n", "c")},
                // Not a pod, and one of another namespace.
                {"addresses": ["192.0.2.4"]},
                {"addresses": ["192.0.2.5"], "targetRef": of("other", "d")},
            ],
        });
        let endpoint = |pod: &str, address: &str| Endpoint {
            pod: (!pod.is_empty()).then(|| pod.into()),
            address: address.into(),
            port: 8443,
        };
        let expected = [
            endpoint("a", "192.0.2.1"),
            endpoint("c", "192.0.2.3"),
            endpoint("", "192.0.2.4"),
        ];
        assert_eq!(endpoints(&slice, "tls", "n"), expected);
        assert!(endpoints(&slice, "", "n").is_empty());
        let service = json!({"spec": {"ports": [{"name": "tls", "port": 443}]}});
        let named = |port| {
            let of = ServicePort {
                namespace: "n",
                service: "s",
                port,
            };
            port_name(&service, of).map_err(|s| s.code)
        };
        assert_eq!(named("443"), Ok("tls".into()));
        assert_eq!(named("444"), Err(503));
    }

    #[test]
    fn no_way_to_the_servers_own_machine() {
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "localhost",
            "",
        ] {
            assert!(allowed(bad).is_err(), "{bad}");
        }
        assert!(allowed("10.0.0.1").is_ok() && allowed("node-1").is_ok());
    }
}
