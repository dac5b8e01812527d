//! Services: whom they choose, and that they stay.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod, service, web};
use tests::traffic::{Load, count, get, spread};

const CONNECTIONS: usize = 300;

fn node_ips(cx: &Context) -> Result<Vec<IpAddr>> {
    let list = cx.json("get nodes")?;
    let nodes = list["items"].as_array().context("no nodes")?;
    let address = |n: &serde_json::Value| {
        let all = n["status"]["addresses"].as_array()?;
        let internal = all.iter().find(|a| a["type"] == "InternalIP")?;
        internal["address"].as_str()?.parse().ok()
    };
    Ok(nodes.iter().filter_map(address).collect())
}

fn node_port(cx: &Context, name: &str) -> Result<u16> {
    let text = cx.field(&format!("service {name}"), ".spec.ports[0].nodePort")?;
    text.parse().with_context(|| format!("node port {text:?}"))
}

fn each_a_third(answers: &BTreeMap<String, usize>) -> Result<()> {
    ensure!(
        answers.len() == 3 && answers.values().all(|n| *n == CONNECTIONS / 3),
        "{answers:?}"
    );
    Ok(())
}

/// The Service is programmed on a node when its address answers there.
fn answers_on_every_node(cx: &Context, port: u16) -> Result<Vec<SocketAddr>> {
    let ips = node_ips(cx)?;
    ensure!(ips.len() == 3, "{ips:?}");
    let addresses: Vec<SocketAddr> = ips.into_iter().map(|ip| (ip, port).into()).collect();
    for address in &addresses {
        // All three pods must be in the node's rules before connections are counted.
        eventually(&format!("{address} answers with all pods"), || {
            let seen = spread(*address, 9)?;
            ensure!(
                seen.len() == 3 && seen.values().all(|n| *n == 3),
                "{seen:?}"
            );
            Ok(())
        })?;
    }
    Ok(addresses)
}

pub fn connections_are_spread_evenly_on_every_node(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 3))?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 3)?;
    for address in answers_on_every_node(cx, node_port(cx, "web")?)? {
        each_a_third(&spread(address, CONNECTIONS)?)?;
    }
    let ip = cx.field("service web", ".spec.clusterIP")?;
    for node in cx.cluster.node_names() {
        let line = format!(
            "i=0; while [ $i -lt {CONNECTIONS} ]; do busybox wget -q -O - http://{ip}/hostname; i=$((i+1)); done"
        );
        each_a_third(&count(&cx.cluster.in_node(&node, &line)?.ok()?))?;
    }
    Ok(())
}

pub fn a_service_keeps_its_address(cx: &Context) -> Result<()> {
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&service("web", "web", "NodePort"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;
    let (ip, port) = (
        cx.field("service web", ".spec.clusterIP")?,
        node_port(cx, "web")?,
    );
    let before = cx.pods("app=web")?;
    cx.kubectl("delete pods -l app=web --wait=false")?;
    cx.wait_rollout("deployment/web")?;
    let after = eventually("all pods are new", || {
        let now = cx.pods("app=web")?;
        ensure!(
            now.len() == 2 && now.iter().all(|p| !before.contains(p)),
            "{now:?}"
        );
        Ok(now)
    })?;
    cx.kubectl("label service web tier=front")?;
    ensure!(cx.field("service web", ".spec.clusterIP")? == ip);
    ensure!(node_port(cx, "web")? == port);
    cx.wait_endpoints("web", 2)?;
    let address = SocketAddr::from((node_ips(cx)?[0], port));
    eventually("the new pods answer", || {
        let name = get(address, "/hostname")?;
        ensure!(after.iter().any(|p| p == name.trim()), "{name}");
        Ok(())
    })
}

pub fn a_pod_reaches_itself_through_its_service(cx: &Context) -> Result<()> {
    cx.apply_json(&web("self", 1))?;
    cx.apply_json(&service("self", "self", "ClusterIP"))?;
    cx.wait_rollout("deployment/self")?;
    cx.wait_endpoints("self", 1)?;
    let pod = cx.pods("app=self")?.pop().context("no pod")?;
    let name = eventually("it answers itself, by name", || {
        cx.sh(&pod, "wget -q -O - http://self/hostname")
    })?;
    ensure!(name.trim() == pod, "{name}");
    Ok(())
}

/// Requests that must have been answered before the next step, so that the load has met it.
const SOME: usize = 100;

fn some_more(load: &Load) -> Result<()> {
    let before = load.answered();
    eventually("more requests are answered", || {
        ensure!(load.answered() >= before + SOME, "{}", load.answered());
        Ok(())
    })
}

pub fn an_unready_pod_gets_no_traffic(cx: &Context) -> Result<()> {
    let mut deployment = web("gate", 3);
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    container["readinessProbe"] = json!({
        "exec": { "command": ["test", "!", "-e", "/tmp/closed"] }, "periodSeconds": 1, "failureThreshold": 1,
        // No request may fail: a command that takes its time must not close all pods at once.
        "timeoutSeconds": 60,
    });
    cx.apply_json(&deployment)?;
    cx.apply_json(&service("gate", "gate", "NodePort"))?;
    cx.wait_rollout("deployment/gate")?;
    cx.wait_endpoints("gate", 3)?;
    let addresses = answers_on_every_node(cx, node_port(cx, "gate")?)?;
    let load = Load::start(&addresses);
    some_more(&load)?;
    let closed = cx.pods("app=gate")?.pop().context("no pod")?;
    cx.sh(&closed, "touch /tmp/closed")?;
    for address in &addresses {
        // Many, since the load takes its turns, too.
        eventually("its endpoint is gone", || {
            let seen = spread(*address, 60)?;
            ensure!(!seen.contains_key(&closed), "{seen:?}");
            Ok(())
        })?;
        ensure!(
            !spread(*address, 60)?.contains_key(&closed),
            "it still gets traffic"
        );
    }
    some_more(&load)?;
    cx.sh(&closed, "rm /tmp/closed")?;
    eventually("it is back", || {
        let seen = spread(addresses[0], 9)?;
        ensure!(seen.contains_key(&closed), "{seen:?}");
        Ok(())
    })?;
    some_more(&load)?;
    let seen = load.end()?;
    println!(
        "    {} requests, {} failed",
        seen.answered,
        seen.failures.len()
    );
    ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
    // A shell pod elsewhere still resolves and reaches it by name.
    cx.shell_pod("asker", STAY)?;
    let line = format!(
        "wget -q -O - http://gate.{}.svc.cluster.local/hostname",
        cx.ns
    );
    eventually("it answers by its name", || cx.sh("asker", &line)).map(drop)
}

pub fn pods_meet_without_translation(cx: &Context) -> Result<()> {
    let mut server = web("server", 1);
    server["spec"]["template"]["spec"]["nodeName"] = "node-1".into();
    cx.apply_json(&server)?;
    cx.apply_json(&service("server", "server", "ClusterIP"))?;
    cx.wait_rollout("deployment/server")?;
    cx.wait_endpoints("server", 1)?;
    let name = cx.pods("app=server")?.pop().context("no pod")?;
    let ip = cx.pod_ip(&name)?;
    for node in ["node-1", "node-2"] {
        let asker = format!("on-{node}");
        let mut pod = pod(&asker, STAY);
        pod["spec"]["nodeName"] = node.into();
        cx.apply_json(&pod)?;
        cx.wait_ready(&asker)?;
        let own = cx.pod_ip(&asker)?.to_string();
        // By its address and by its Service: the server sees the client's address.
        for to in [format!("{ip}:8080"), "server".to_owned()] {
            let seen = eventually(&format!("{to} answers"), || {
                cx.sh(&asker, &format!("wget -q -O - http://{to}/clientip"))
            })?;
            ensure!(seen.trim() == own, "{own} was seen as {seen}");
        }
    }
    Ok(())
}

pub fn a_client_keeps_its_pod_where_that_is_asked_for(cx: &Context) -> Result<()> {
    cx.apply_json(&web("sticky", 3))?;
    let mut sticky = service("sticky", "sticky", "ClusterIP");
    sticky["spec"]["sessionAffinity"] = "ClientIP".into();
    cx.apply_json(&sticky)?;
    cx.wait_rollout("deployment/sticky")?;
    cx.wait_endpoints("sticky", 3)?;
    cx.shell_pod("asker", STAY)?;
    let ask = "i=0; while [ $i -lt 20 ]; do wget -q -O - http://sticky/hostname || exit 1; i=$((i+1)); done";
    let first = eventually("it answers", || {
        cx.sh("asker", "wget -q -O - http://sticky/hostname")
    })?;
    let seen = count(&cx.sh("asker", ask)?);
    ensure!(
        seen.len() == 1 && seen.contains_key(first.trim()),
        "{first}: {seen:?}"
    );
    // Its pod goes: another one takes over.
    cx.kubectl(&format!(
        "delete pod {} --grace-period=0 --force",
        first.trim()
    ))?;
    eventually("another pod answers", || {
        let now = cx.sh("asker", "timeout 5 wget -q -O - http://sticky/hostname")?;
        ensure!(now.trim() != first.trim(), "{now}");
        Ok(())
    })
}

/// A range of addresses that no network has: those of examples.
const FURTHER: &str = "203.0.113.0/24";

pub fn a_further_range_serves_until_it_is_empty(cx: &Context) -> Result<()> {
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "further" }, "spec": { "cidrs": [FURTHER] },
    });
    let at = |name: &str, ip: &str| {
        let mut service = service(name, "web", "ClusterIP");
        service["spec"]["clusterIP"] = ip.into();
        service
    };
    let refused = |ip: &str| -> Result<()> {
        let object = at("twin", ip).to_string();
        let said = cx.run_with("create -f -", &object)?.failed()?;
        let why = "the provided network does not match the current range";
        ensure!(said.contains(why), "{said}");
        Ok(())
    };
    refused("203.0.113.11")?;
    cx.apply_json(&range)?;
    cx.wait("servicecidr/further", "condition=Ready")?;
    cx.apply_json(&web("web", 2))?;
    cx.apply_json(&at("web", "203.0.113.10"))?;
    cx.wait_rollout("deployment/web")?;
    cx.wait_endpoints("web", 2)?;
    cx.shell_pod("asker", STAY)?;
    let answers = || -> Result<()> {
        for to in ["203.0.113.10", "web"] {
            eventually(&format!("{to} answers a pod"), || {
                cx.sh("asker", &format!("wget -q -O - http://{to}/hostname"))
            })?;
        }
        for node in cx.cluster.node_names() {
            let line = "busybox wget -q -O - http://203.0.113.10/hostname";
            eventually(&format!("it answers {node}"), || {
                cx.cluster.in_node(&node, line)?.ok()
            })?;
        }
        Ok(())
    };
    answers()?;
    let name = format!("web.{}.svc.cluster.local", cx.ns);
    let names = cx.sh("asker", "nslookup 203.0.113.10")?;
    ensure!(names.contains(&name), "{names}");

    cx.kubectl("delete servicecidr further --wait=false")?;
    cx.wait("servicecidr/further", "condition=Ready=False")?;
    let reason = cx.field("servicecidr further", ".status.conditions[0].reason")?;
    ensure!(reason == "Terminating", "{reason}");
    refused("203.0.113.11")?;
    answers()?;
    cx.kubectl("delete service web")?;
    cx.wait("servicecidr/further", "delete")
}

/// A line's kind of queue and its rate, as tc(8) shows it.
fn limited(shown: &str, rate: &str) -> bool {
    let rate = format!("rate {rate} ");
    shown
        .lines()
        .any(|l| l.contains("tbf") && l.contains(&rate))
}

pub fn annotations_limit_what_a_pod_receives_and_sends(cx: &Context) -> Result<()> {
    let node = cx.cluster.node_names()[0].clone();
    let mut slow = pod("slow", STAY);
    slow["spec"]["nodeName"] = node.clone().into();
    slow["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": "3M", "kubernetes.io/egress-bandwidth": "2M",
    });
    cx.apply_json(&slow)?;
    cx.wait_ready("slow")?;
    let at_node = cx.cluster.in_node(&node, "tc qdisc show")?.ok()?;
    ensure!(limited(&at_node, "3Mbit"), "{at_node}");
    let uid = cx.field("pod slow", ".metadata.uid")?;
    let line = format!(
        "nsenter --net --target $(find /sys/fs/cgroup -path '*pod{uid}*' -name cgroup.procs -exec cat {{}} + | head -n 1) \
         tc qdisc show"
    );
    let at_pod = cx.cluster.in_node(&node, &line)?.ok()?;
    ensure!(limited(&at_pod, "2Mbit"), "{at_pod}");
    Ok(())
}

/// Many kernels have no SCTP; then whoever has such a Service hears so of the nodes with its pods, and its
/// rules are there all the same.
pub fn a_service_of_sctp_has_rules_or_says_why_nobody_answers(cx: &Context) -> Result<()> {
    let node = &cx.cluster.node_names()[0];
    let mut server = pod("server", STAY);
    server["spec"]["nodeName"] = node.clone().into();
    cx.apply_json(&server)?;
    cx.wait_ready("server")?;
    let mut sctp = service("server", "server", "ClusterIP");
    sctp["spec"]["ports"][0]["protocol"] = json!("SCTP");
    cx.apply_json(&sctp)?;
    cx.wait_endpoints("server", 1)?;
    let ip = cx.field("service server", ".spec.clusterIP")?;
    eventually("its rules are there", || {
        let line = format!("nft list set ip tiphys-proxy cluster-ips | grep -w {ip}");
        cx.cluster.in_node(node, &line)?.ok()
    })?;
    // Nodes run on the kernel of this test.
    if !host::sctp::has_sockets() {
        let event = cx.wait_event("SCTPNotSupported", "CONFIG_IP_SCTP")?;
        ensure!(event["source"]["host"] == node.as_str(), "{event}");
        ensure!(event["involvedObject"]["name"] == "server", "{event}");
        return Ok(());
    }
    let events = cx.kubectl("get events --field-selector reason=SCTPNotSupported -o name")?;
    ensure!(events.is_empty(), "{events}");
    Ok(())
}
