//! Columns of services, endpoints and the networking group.

use serde_json::Value;

use super::{AGE, NAME, col, text_col, wide};
use crate::kinds::def::Col;
use crate::print::{self, first_three, int, list, text, text_or};

pub const SERVICES: &[Col] = &[
    NAME,
    text_col!("Type", "/spec/type"),
    text_col!("Cluster-IP", "/spec/clusterIPs/0", "<none>"),
    col("External-IP", "string", |o, _| external_ip(o).into()),
    col("Port(s)", "string", |o, _| {
        ports(list(o, "/spec/ports")).into()
    }),
    AGE,
    wide("Selector", |o, _| {
        print::labels(o.pointer("/spec/selector")).into()
    }),
];

/// Addresses of the load balancer, sorted, each once.
fn balancers(o: &Value) -> Vec<String> {
    let all = list(o, "/status/loadBalancer/ingress");
    let mut found: Vec<String> = all
        .iter()
        .map(|i| text_or(i, "/ip", &text(i, "/hostname")))
        .filter(|a| !a.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn external_ip(o: &Value) -> String {
    let mut given: Vec<String> = list(o, "/spec/externalIPs")
        .iter()
        .map(|v| text(v, ""))
        .collect();
    let none = match text(o, "/spec/type").as_str() {
        "ClusterIP" | "NodePort" => "<none>",
        "LoadBalancer" => {
            let mut all = balancers(o);
            all.append(&mut given);
            given = all;
            "<pending>"
        }
        "ExternalName" => return text(o, "/spec/externalName"),
        _ => return print::UNKNOWN.to_owned(),
    };
    if given.is_empty() {
        none.to_owned()
    } else {
        given.join(",")
    }
}

fn ports(ports: &[Value]) -> String {
    let one = |p: &Value| {
        let (port, protocol) = (int(p, "/port"), text(p, "/protocol"));
        match int(p, "/nodePort") {
            n if n > 0 => format!("{port}:{n}/{protocol}"),
            _ => format!("{port}/{protocol}"),
        }
    };
    let shown: Vec<String> = ports.iter().map(one).collect();
    if shown.is_empty() {
        "<none>".to_owned()
    } else {
        shown.join(",")
    }
}

pub const ENDPOINTS: &[Col] = &[
    NAME,
    col("Endpoints", "string", |o, _| {
        endpoints(list(o, "/subsets")).into()
    }),
    AGE,
];

fn endpoints(subsets: &[Value]) -> String {
    if subsets.is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for s in subsets {
        let (addresses, ports) = (list(s, "/addresses"), list(s, "/ports"));
        if ports.is_empty() {
            all.extend(addresses.iter().map(|a| text(a, "/ip")));
        }
        for p in ports {
            all.extend(
                addresses
                    .iter()
                    .map(|a| host_port(&text(a, "/ip"), int(p, "/port"))),
            );
        }
    }
    if all.is_empty() {
        String::new()
    } else {
        first_three(&all)
    }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

pub const ENDPOINT_SLICES: &[Col] = &[
    NAME,
    text_col!("AddressType", "/addressType"),
    col("Ports", "string", |o, _| {
        let port = |p: &Value| text_or(p, "/port", &text_or(p, "/name", "*"));
        first_three(&list(o, "/ports").iter().map(port).collect::<Vec<_>>()).into()
    }),
    col("Endpoints", "string", |o, _| {
        let all = list(o, "/endpoints")
            .iter()
            .flat_map(|e| list(e, "/addresses"));
        first_three(&all.map(|a| text(a, "")).collect::<Vec<_>>()).into()
    }),
    AGE,
];

pub const INGRESSES: &[Col] = &[
    NAME,
    text_col!("Class", "/spec/ingressClassName", "<none>"),
    col("Hosts", "string", |o, _| {
        hosts(list(o, "/spec/rules")).into()
    }),
    col("Address", "string", |o, _| balancers(o).join(",").into()),
    col("Ports", "string", |o, _| {
        if list(o, "/spec/tls").is_empty() {
            "80".into()
        } else {
            "80, 443".into()
        }
    }),
    AGE,
];

fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut more = false;
    for r in rules {
        more |= shown.len() == 3;
        let host = text(r, "/host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - 3),
        (false, false) => shown.join(","),
    }
}

/// The name, marked when an annotation makes the object the default of its kind.
pub(super) fn name_or_default(o: &Value, annotations: &[&str]) -> String {
    let name = text(o, "/metadata/name");
    let set = |a: &&str| {
        o.pointer("/metadata/annotations")
            .and_then(|m| m.get(*a))
            .and_then(Value::as_str)
            == Some("true")
    };
    if annotations.iter().any(set) {
        format!("{name} (default)")
    } else {
        name
    }
}

pub const INGRESS_CLASSES: &[Col] = &[
    Col {
        name: "Name",
        ty: "string",
        format: "name",
        priority: 0,
        cell: |o, _| name_or_default(o, &["ingressclass.kubernetes.io/is-default-class"]).into(),
    },
    text_col!("Controller", "/spec/controller"),
    col("Parameters", "string", |o, _| parameters(o).into()),
    AGE,
];

fn parameters(o: &Value) -> String {
    let Some(p) = o.pointer("/spec/parameters") else {
        return "<none>".to_owned();
    };
    let (kind, name) = (text(p, "/kind"), text(p, "/name"));
    match p.get("apiGroup").and_then(Value::as_str) {
        Some(g) => format!("{kind}.{g}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

pub const NETWORK_POLICIES: &[Col] = &[
    NAME,
    col("Pod-Selector", "string", |o, _| {
        let shown = print::selector(o.pointer("/spec/podSelector"));
        if shown.is_empty() {
            "<none>".into()
        } else {
            shown.into()
        }
    }),
    AGE,
];

pub const SERVICE_CIDRS: &[Col] = &[
    NAME,
    col("CIDRs", "string", |o, _| {
        print::joined(list(o, "/spec/cidrs"), "", ",").into()
    }),
    AGE,
];

/// Upstream fills an age here without a column for it; it is left out.
pub const IP_ADDRESSES: &[Col] = &[NAME, col("ParentRef", "string", |o, _| parent(o).into())];

fn parent(o: &Value) -> String {
    let Some(p) = o.pointer("/spec/parentRef") else {
        return "<none>".to_owned();
    };
    let resource = api::GroupResource::new(&text(p, "/group"), &text(p, "/resource"));
    let resource = resource.to_string().to_lowercase();
    match text(p, "/namespace") {
        n if n.is_empty() => format!("{resource}/{}", text(p, "/name")),
        n => format!("{resource}/{n}/{}", text(p, "/name")),
    }
}
