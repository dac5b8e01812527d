//! Services: their families, and whom they choose.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{service, web};
use tests::traffic::{count, spread, spread_udp};

use crate::pods::{ask, client, ips, node_ips};

const PODS: u32 = 3;
const REQUESTS: usize = 150;

/// A Service of both families, by TCP and UDP.
pub fn both(name: &str, kind: &str) -> Value {
    let mut object = service(name, "web", kind);
    object["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    object["spec"]["ports"] = json!([
        { "name": "http", "port": 80, "targetPort": 8080 },
        { "name": "datagrams", "port": 80, "targetPort": 8080, "protocol": "UDP" },
    ]);
    object
}

pub fn cluster_ips(cx: &Context, name: &str) -> Result<Vec<IpAddr>> {
    let object = cx.json(&format!("get service {name}"))?;
    ips(&object, "/spec/clusterIPs", "-")
}

/// How many ready endpoints a Service has in slices of each family.
fn endpoints(cx: &Context, name: &str) -> Result<BTreeMap<String, usize>> {
    let slices = cx.json(&format!(
        "get endpointslices -l kubernetes.io/service-name={name}"
    ))?;
    let mut counts = BTreeMap::new();
    for slice in slices["items"].as_array().context("no items")? {
        let family = slice["addressType"].as_str().unwrap_or_default();
        let all = slice["endpoints"].as_array().into_iter().flatten();
        let ready = all.filter(|e| e["conditions"]["ready"] == true).count();
        *counts.entry(family.to_owned()).or_default() += ready;
    }
    Ok(counts)
}

fn wait_endpoints(cx: &Context, name: &str, families: &[&str], pods: u32) -> Result<()> {
    eventually(
        &format!("{name} has {pods} endpoints of {families:?}"),
        || {
            let seen = endpoints(cx, name)?;
            let wanted = families.iter().map(|f| ((*f).to_owned(), pods as usize));
            ensure!(seen == wanted.collect(), "{seen:?}");
            Ok(())
        },
    )
}

pub fn a_service_gets_the_families_that_it_asks_for(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 1))?;
    cx.apply_json(&service("plain", "web", "ClusterIP"))?;
    cx.wait_rollout("deployment/web")?;
    let four = cluster_ips(cx, "plain")?;
    ensure!(matches!(four[..], [IpAddr::V4(_)]), "{four:?}");
    wait_endpoints(cx, "plain", &["IPv4"], 1)?;
    cx.apply_json(&client("shell", "node-1"))?;
    cx.wait_ready("shell")?;

    cx.kubectl(r#"patch service plain -p '{"spec":{"ipFamilyPolicy":"PreferDualStack"}}'"#)?;
    let both = cluster_ips(cx, "plain")?;
    ensure!(
        both.len() == 2 && both[0] == four[0] && both[1].is_ipv6(),
        "{both:?}"
    );
    wait_endpoints(cx, "plain", &["IPv4", "IPv6"], 1)?;
    let pod = cx.pods("app=web")?.pop().context("no pod")?;
    for ip in &both {
        eventually(&format!("{ip} answers"), || {
            let name = ask(cx, "shell", *ip, 80, "/hostname")?;
            ensure!(name == pod, "{name}");
            Ok(())
        })?;
    }
    let refused = cx.refused(
        r#"patch service plain -p '{"spec":{"clusterIPs":null,"ipFamilies":["IPv6"]}}'"#,
    )?;
    ensure!(refused.contains("spec.ipFamil"), "{refused}");

    cx.kubectl(r#"patch service plain -p '{"spec":{"ipFamilyPolicy":"SingleStack"}}'"#)?;
    ensure!(cluster_ips(cx, "plain")? == four);
    wait_endpoints(cx, "plain", &["IPv4"], 1)?;
    // The address that was given back is free again, and only that.
    let mut again = service("again", "web", "ClusterIP");
    again["spec"]["clusterIP"] = json!(both[1]);
    cx.apply_json(&again)?;
    ensure!(cluster_ips(cx, "again")? == [both[1]]);
    wait_endpoints(cx, "again", &["IPv6"], 1)?;
    let taken = cx.run_with("create -f -", &{
        let mut twin = service("twin", "web", "ClusterIP");
        twin["spec"]["clusterIP"] = json!(both[1]);
        twin.to_string()
    })?;
    let said = taken.failed()?;
    ensure!(said.contains("provided IP is already allocated"), "{said}");
    Ok(())
}

fn each_the_same(answers: &BTreeMap<String, usize>, requests: usize) -> Result<()> {
    let pods = PODS as usize;
    ensure!(
        answers.len() == pods && answers.values().all(|n| *n == requests / pods),
        "{answers:?}"
    );
    Ok(())
}

pub fn connections_and_datagrams_go_round_in_both_families(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", PODS))?;
    cx.apply_json(&both("web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    wait_endpoints(cx, "web", &["IPv4", "IPv6"], PODS)?;
    let port = |i: usize| -> Result<u16> {
        let text = cx.field("service web", &format!(".spec.ports[{i}].nodePort"))?;
        text.parse().with_context(|| text.clone())
    };
    let (tcp, udp) = (port(0)?, port(1)?);
    let few = 3 * PODS as usize;
    let mut kept = Vec::new();
    for node in ["node-1", "node-2"] {
        for ip in node_ips(cx, node)? {
            let (tcp, udp) = (SocketAddr::new(ip, tcp), SocketAddr::new(ip, udp));
            // All pods must be in the node's rules before requests are counted.
            eventually(&format!("{ip} answers with all pods"), || {
                each_the_same(&spread(tcp, few)?, few)?;
                each_the_same(&spread_udp(udp, few, &mut kept)?, few)
            })?;
            each_the_same(&spread(tcp, REQUESTS)?, REQUESTS)?;
            each_the_same(&spread_udp(udp, REQUESTS, &mut kept)?, REQUESTS)?;
        }
        for ip in cluster_ips(cx, "web")? {
            let at = SocketAddr::new(ip, 80);
            let line = format!(
                "i=0; while [ $i -lt {REQUESTS} ]; do busybox wget -q -O - http://{at}/hostname; i=$((i+1)); done"
            );
            let answers = count(&cx.cluster.in_node(node, &line)?.ok()?);
            each_the_same(&answers, REQUESTS)?;
        }
    }
    Ok(())
}

pub fn a_client_of_either_family_keeps_its_pod(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", PODS))?;
    let mut sticky = both("sticky", "ClusterIP");
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    cx.apply_json(&sticky)?;
    cx.wait_rollout("deployment/web")?;
    wait_endpoints(cx, "sticky", &["IPv4", "IPv6"], PODS)?;
    cx.apply_json(&client("shell", "node-2"))?;
    cx.wait_ready("shell")?;
    for ip in cluster_ips(cx, "sticky")? {
        let first = eventually(&format!("{ip} answers"), || {
            ask(cx, "shell", ip, 80, "/hostname")
        })?;
        for _ in 0..2 * PODS {
            // Within five seconds, which a burst may take: who answers is what counts.
            let again = eventually(&format!("{ip} answers again"), || {
                ask(cx, "shell", ip, 80, "/hostname")
            })?;
            ensure!(again == first, "{ip}: {first}, then {again}");
        }
    }
    Ok(())
}

/// Nodes have no default route for IPv6, so they need a way to each range.
pub fn a_further_range_serves_in_both_families(cx: &Context) -> Result<()> {
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "further" },
        "spec": { "cidrs": ["198.51.100.0/24", "2001:db8:cb00::/64"] },
    });
    cx.apply_json(&range)?;
    cx.wait("servicecidr/further", "condition=Ready")?;
    let addresses = ["198.51.100.10", "2001:db8:cb00::a"];
    let mut further = both("further", "ClusterIP");
    further["spec"]["clusterIP"] = json!(addresses[0]);
    further["spec"]["clusterIPs"] = json!(addresses);
    cx.apply_json(&web("web", 1))?;
    cx.apply_json(&further)?;
    cx.wait_rollout("deployment/web")?;
    wait_endpoints(cx, "further", &["IPv4", "IPv6"], 1)?;
    cx.apply_json(&client("shell", "node-1"))?;
    cx.wait_ready("shell")?;
    let pod = cx.pods("app=web")?.pop().context("no pod")?;
    for ip in addresses {
        let ip: IpAddr = ip.parse()?;
        let at = SocketAddr::new(ip, 80);
        let line = format!("timeout 5 busybox wget -q -O - http://{at}/hostname");
        eventually(&format!("{ip} answers pods and nodes"), || {
            ensure!(ask(cx, "shell", ip, 80, "/hostname")? == pod);
            for node in ["node-1", "node-2"] {
                let name = cx.cluster.in_node(node, &line)?.ok()?;
                ensure!(name.trim() == pod, "{node}: {name}");
            }
            Ok(())
        })?;
    }
    cx.kubectl("delete service further")?;
    cx.kubectl("delete servicecidr further --wait=false")?;
    cx.wait("servicecidr/further", "delete")
}
