//! What Prometheus' discovery of Kubernetes makes of a cluster's objects: for each of its roles the
//! targets with the labels that relabelling is written for. Debian builds its Prometheus without that
//! discovery; so these targets reach it by files, and the rest of the configuration stays as it is.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// The roles, as `kubernetes_sd_configs` name them.
pub const ROLES: [&str; 5] = ["node", "pod", "service", "endpoints", "endpointslice"];

/// Lists that discovery watches.
pub struct Objects {
    pub nodes: Vec<Value>,
    pub pods: Vec<Value>,
    pub services: Vec<Value>,
    pub endpoints: Vec<Value>,
    pub slices: Vec<Value>,
}

type Labels = Map<String, Value>;

impl Objects {
    /// The groups of targets of a role, in the form of a file for `file_sd_configs`.
    pub fn groups(&self, role: &str) -> Result<Value> {
        let groups = match role {
            "node" => self.nodes.iter().map(of_node).collect::<Result<_>>()?,
            "pod" => self.pods.iter().flat_map(of_pod).collect(),
            "service" => self.services.iter().flat_map(of_service).collect(),
            "endpoints" => self
                .endpoints
                .iter()
                .flat_map(|e| self.of_endpoints(e))
                .collect(),
            "endpointslice" => self.slices.iter().flat_map(|s| self.of_slice(s)).collect(),
            other => anyhow::bail!("no such role: {other}"),
        };
        Ok(Value::Array(groups))
    }

    /// Labels of the Service with this name; none where there is no such Service.
    fn service(&self, namespace: &str, name: &str) -> Labels {
        let is = |s: &&Value| {
            word(&s["metadata"]["namespace"]) == namespace && word(&s["metadata"]["name"]) == name
        };
        let mut labels = Labels::new();
        if let Some(service) = self.services.iter().find(is) {
            put(&mut labels, "service_name", name);
            put_metadata(&mut labels, "service", service);
        }
        labels
    }

    fn of_endpoints(&self, object: &Value) -> Vec<Value> {
        let (namespace, name) = names(object);
        let mut common = self.service(namespace, name);
        put(&mut common, "namespace", namespace);
        put(&mut common, "endpoints_name", name);
        let mut groups = Vec::new();
        for subset in list(&object["subsets"]) {
            for (addresses, ready) in [("addresses", "true"), ("notReadyAddresses", "false")] {
                for (port, address) in pairs(&subset["ports"], &subset[addresses]) {
                    let mut labels = common.clone();
                    put(&mut labels, "endpoint_port_name", word(&port["name"]));
                    put(
                        &mut labels,
                        "endpoint_port_protocol",
                        word(&port["protocol"]),
                    );
                    put(&mut labels, "endpoint_ready", ready);
                    groups.push(group(word(&address["ip"]), &port["port"], labels));
                }
            }
        }
        groups
    }

    fn of_slice(&self, slice: &Value) -> Vec<Value> {
        let (namespace, name) = names(slice);
        let service = word(&slice["metadata"]["labels"]["kubernetes.io/service-name"]);
        let mut common = self.service(namespace, service);
        put(&mut common, "namespace", namespace);
        put(&mut common, "endpointslice_name", name);
        put(
            &mut common,
            "endpointslice_address_type",
            word(&slice["addressType"]),
        );
        let mut groups = Vec::new();
        for (port, endpoint) in pairs(&slice["ports"], &slice["endpoints"]) {
            let mut labels = common.clone();
            put(&mut labels, "endpointslice_port_name", word(&port["name"]));
            let ready = endpoint["conditions"]["ready"].to_string();
            put(
                &mut labels,
                "endpointslice_endpoint_conditions_ready",
                &ready,
            );
            for address in list(&endpoint["addresses"]) {
                groups.push(group(word(address), &port["port"], labels.clone()));
            }
        }
        groups
    }
}

fn of_node(node: &Value) -> Result<Value> {
    let (_, name) = names(node);
    let addresses = list(&node["status"]["addresses"]);
    let own = addresses.iter().find(|a| a["type"] == "InternalIP");
    let own = word(&own.with_context(|| format!("{name} has no address"))?["address"]);
    let mut labels = Labels::new();
    labels.insert("instance".to_owned(), name.into());
    put(&mut labels, "node_name", name);
    put_metadata(&mut labels, "node", node);
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    Ok(group(own, port, labels))
}

fn of_pod(pod: &Value) -> Vec<Value> {
    let ip = word(&pod["status"]["podIP"]);
    if ip.is_empty() {
        return Vec::new();
    }
    let (namespace, name) = names(pod);
    let mut common = Labels::new();
    put(&mut common, "namespace", namespace);
    put(&mut common, "pod_name", name);
    put(&mut common, "pod_ip", ip);
    put(&mut common, "pod_phase", word(&pod["status"]["phase"]));
    put_metadata(&mut common, "pod", pod);
    let mut groups = Vec::new();
    for container in list(&pod["spec"]["containers"]) {
        for port in list(&container["ports"]) {
            let mut labels = common.clone();
            put(&mut labels, "pod_container_name", word(&container["name"]));
            put(&mut labels, "pod_container_port_name", word(&port["name"]));
            groups.push(group(ip, &port["containerPort"], labels));
        }
    }
    groups
}

fn of_service(service: &Value) -> Vec<Value> {
    let (namespace, name) = names(service);
    let mut common = Labels::new();
    put(&mut common, "namespace", namespace);
    put(&mut common, "service_name", name);
    put(&mut common, "service_type", word(&service["spec"]["type"]));
    put_metadata(&mut common, "service", service);
    let host = format!("{name}.{namespace}.svc");
    let ports = list(&service["spec"]["ports"]).iter();
    ports
        .map(|port| {
            let mut labels = common.clone();
            put(&mut labels, "service_port_name", word(&port["name"]));
            group(&host, &port["port"], labels)
        })
        .collect()
}

fn group(host: &str, port: &Value, labels: Labels) -> Value {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    json!({ "targets": [format!("{host}:{port}")], "labels": labels })
}

fn names(object: &Value) -> (&str, &str) {
    let metadata = &object["metadata"];
    (word(&metadata["namespace"]), word(&metadata["name"]))
}

fn pairs<'a>(
    ports: &'a Value,
    addresses: &'a Value,
) -> impl Iterator<Item = (&'a Value, &'a Value)> {
    let each = |port| list(addresses).iter().map(move |address| (port, address));
    list(ports).iter().flat_map(each)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn put(labels: &mut Labels, name: &str, value: &str) {
    labels.insert(format!("__meta_kubernetes_{name}"), value.into());
}

/// An object's labels and annotations: what a name of a Prometheus label cannot have is `_`.
fn put_metadata(labels: &mut Labels, kind: &str, object: &Value) {
    for (field, what) in [("labels", "label"), ("annotations", "annotation")] {
        for (key, value) in object["metadata"][field].as_object().into_iter().flatten() {
            let key = key.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            put(labels, &format!("{kind}_{what}_{key}"), word(value));
            put(labels, &format!("{kind}_{what}present_{key}"), "true");
        }
    }
}
