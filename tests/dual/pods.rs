//! Pods: their addresses, and that they reach each other.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod};
use tests::traffic::get;

/// A pod that serves its name at port 8080, on a node.
pub fn server(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": tests::DEMO,
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "path": "/healthz", "port": "http" },
                    "periodSeconds": 1, "timeoutSeconds": 60 },
            }],
        },
    })
}

/// A pod with a shell, on a node.
pub fn client(name: &str, node: &str) -> Value {
    let mut object = pod(name, STAY);
    object["spec"]["nodeName"] = node.into();
    object
}

/// A list of addresses in an object, such as `.status.podIPs`.
pub fn ips(object: &Value, pointer: &str, field: &str) -> Result<Vec<IpAddr>> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    let list = list.with_context(|| format!("{pointer}: {object}"))?;
    let one = |entry: &Value| {
        let text = entry.get(field).unwrap_or(entry).as_str();
        let text = text.with_context(|| format!("{pointer}: {entry}"))?;
        text.parse().with_context(|| text.to_owned())
    };
    list.iter().map(one).collect()
}

/// The addresses of a pod, one of each family.
pub fn pod_ips(cx: &Context, name: &str) -> Result<Vec<IpAddr>> {
    let both = ips(
        &cx.json(&format!("get pod {name}"))?,
        "/status/podIPs",
        "ip",
    )?;
    ensure!(
        matches!(both[..], [IpAddr::V4(_), IpAddr::V6(_)]),
        "{name}: {both:?}"
    );
    Ok(both)
}

/// The addresses of a node, one of each family.
pub fn node_ips(cx: &Context, name: &str) -> Result<Vec<IpAddr>> {
    let node = cx.json(&format!("get node {name}"))?;
    let all = node["status"]["addresses"].as_array().context("none")?;
    let internal = all.iter().filter(|a| a["type"] == "InternalIP");
    let texts = internal.filter_map(|a| a["address"].as_str());
    let both: Vec<IpAddr> = texts.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        matches!(both[..], [IpAddr::V4(_), IpAddr::V6(_)]),
        "{name}: {both:?}"
    );
    Ok(both)
}

/// A GET from a pod's shell.
pub fn ask(cx: &Context, from: &str, to: IpAddr, port: u16, path: &str) -> Result<String> {
    let at = SocketAddr::new(to, port);
    let line = format!("timeout 5 wget -q -O - http://{at}{path}");
    Ok(cx.sh(from, &line)?.trim().to_owned())
}

pub fn pods_of_two_nodes_meet_in_both_families(cx: &Context) -> Result<()> {
    for node in ["node-1", "node-2"] {
        let ranges = cx.field(&format!("node {node}"), ".spec.podCIDRs")?;
        ensure!(
            ranges.contains(".0/24") && ranges.contains("::/64"),
            "{ranges}"
        );
    }
    let mut shell = client("shell", "node-1");
    let told = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    shell["spec"]["containers"][0]["env"] = json!([
        told("PODS", "status.podIPs"),
        told("HOSTS", "status.hostIPs")
    ]);
    cx.apply_json(&shell)?;
    cx.apply_json(&server("near", "node-1"))?;
    cx.apply_json(&server("far", "node-2"))?;
    for name in ["shell", "near", "far"] {
        cx.wait_ready(name)?;
    }
    let own = pod_ips(cx, "shell")?;
    let host = ips(&cx.json("get pod shell")?, "/status/hostIPs", "ip")?;
    ensure!(host == node_ips(cx, "node-1")?, "{host:?}");
    let list = |ips: &[IpAddr]| {
        ips.iter()
            .map(IpAddr::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    let told = cx.sh("shell", "echo $PODS $HOSTS; cat /etc/hosts")?;
    let first = format!("{} {}\n", list(&own), list(&host));
    ensure!(told.starts_with(&first), "{told}");
    for ip in &own {
        ensure!(told.contains(&format!("{ip}\tshell\n")), "{told}");
    }
    for name in ["near", "far"] {
        for (to, own) in pod_ips(cx, name)?.into_iter().zip(&own) {
            // The way to another node may still be made.
            let seen = eventually(&format!("{name} answers at {to}"), || {
                ask(cx, "shell", to, 8080, "/clientip")
            })?;
            ensure!(seen == own.to_string(), "{name} at {to} saw {seen}");
        }
    }
    // Larger than a packet: who sends learns what fits.
    let six = pod_ips(cx, "far")?[1];
    eventually("it arrives in parts", || {
        cx.sh("shell", &format!("ping6 -c 1 -W 5 -s 4000 {six}"))
    })?;
    // A pod with its node's network has its node's addresses.
    let mut guest = client("guest", "node-2");
    guest["spec"]["hostNetwork"] = json!(true);
    cx.apply_json(&guest)?;
    cx.wait_ready("guest")?;
    ensure!(pod_ips(cx, "guest")? == node_ips(cx, "node-2")?);
    Ok(())
}

pub fn a_host_port_is_at_all_addresses_of_its_node(cx: &Context) -> Result<()> {
    let mut pod = server("mapped", "node-2");
    pod["spec"]["containers"][0]["ports"][0]["hostPort"] = json!(18_080);
    cx.apply_json(&pod)?;
    cx.wait_ready("mapped")?;
    for ip in node_ips(cx, "node-2")? {
        let at = SocketAddr::new(ip, 18_080);
        let name = eventually(&format!("{at} answers"), || get(at, "/hostname"))?;
        ensure!(name.trim() == "mapped", "{name}");
    }
    Ok(())
}
