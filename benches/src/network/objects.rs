//! Objects of the API as the parts of a node hear of them.

use std::net::Ipv4Addr;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use serde_json::{Value, json};

pub const NODE: &str = "here";

fn read<T: serde::de::DeserializeOwned>(object: Value) -> Result<T> {
    Ok(serde_json::from_value(object)?)
}

/// A Service of one port.
pub fn service(name: &str, ip: Ipv4Addr, protocol: &str) -> Result<Service> {
    read(json!({
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ports": [{ "name": "p", "port": 80, "protocol": protocol }] },
    }))
}

/// A Service without an address.
pub fn headless(name: &str) -> Result<Service> {
    read(json!({
        "metadata": { "name": name, "namespace": "bench" },
        "spec": { "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"],
            "ports": [{ "name": "p", "port": 80 }] },
    }))
}

/// Services have addresses of these networks.
pub fn ranges(cidrs: &[&str]) -> Result<ServiceCIDR> {
    read(json!({ "metadata": { "name": "ranges" }, "spec": { "cidrs": cidrs } }))
}

/// All its endpoints, none of them on this node.
pub fn slice(service: &str, endpoints: &[Ipv4Addr], protocol: &str) -> Result<EndpointSlice> {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(
            |ip| json!({ "addresses": [ip], "nodeName": "there", "conditions": { "ready": true } }),
        )
        .collect();
    read(json!({
        "metadata": { "name": format!("{service}-1"), "namespace": "bench",
            "labels": { "kubernetes.io/service-name": service } },
        "addressType": "IPv4", "ports": [{ "name": "p", "port": 8080, "protocol": protocol }],
        "endpoints": endpoints,
    }))
}

pub fn namespace(name: &str) -> Result<Namespace> {
    read(json!({ "metadata": { "name": name, "labels": { "team": name } } }))
}

/// A pod that runs.
pub fn pod(namespace: &str, name: &str, ip: Ipv4Addr, here: bool, labels: Value) -> Result<Pod> {
    read(json!({
        "metadata": { "name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"),
            "labels": labels },
        "spec": { "nodeName": if here { NODE } else { "there" },
            "containers": [{ "name": "c", "image": "i",
                "ports": [{ "name": "http", "containerPort": 8080 }] }] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    }))
}

pub fn policy(namespace: &str, name: &str, spec: Value) -> Result<NetworkPolicy> {
    read(json!({ "metadata": { "name": name, "namespace": namespace }, "spec": spec }))
}
