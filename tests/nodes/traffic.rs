//! Traffic through Services while what is behind them changes, and while what programs them fails.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::netns::NetNs;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tests::Context;
use tests::command::eventually;
use tests::context::{STAY, pod, service, web};
use tests::traffic::{Load, spread, spread_udp};

/// Requests that must have been answered before the next step, so that the load has met it.
const SOME: usize = 100;

fn some_more(load: &Load) -> Result<()> {
    let before = load.answered();
    eventually("more requests are answered", || {
        ensure!(load.answered() >= before + SOME, "{}", load.answered());
        Ok(())
    })
}

fn node_ip(cx: &Context, node: &str) -> Result<IpAddr> {
    let text = cx.field(&format!("node {node}"), ".status.addresses[0].address")?;
    text.parse().with_context(|| text.clone())
}

/// A Service's node port at every node.
fn node_ports(cx: &Context, name: &str) -> Result<Vec<SocketAddr>> {
    let port = cx.field(&format!("service {name}"), ".spec.ports[0].nodePort")?;
    let port: u16 = port.parse().with_context(|| port.clone())?;
    let nodes = cx.cluster.node_names();
    let at = |node: &String| Ok(SocketAddr::new(node_ip(cx, node)?, port));
    nodes.iter().map(at).collect()
}

/// Waits until connections to an address go to so many pods, each as often as the others.
fn spreads(address: SocketAddr, pods: usize) -> Result<()> {
    eventually(&format!("{address} answers with {pods} pods"), || {
        let seen = spread(address, 3 * pods)?;
        let even = seen.len() == pods && seen.values().all(|n| *n == 3);
        ensure!(even, "{seen:?}");
        Ok(())
    })
}

fn ended_well(load: Load) -> Result<()> {
    let seen = load.end()?;
    let failed = seen.failures.len();
    println!("    {} requests, {failed} failed", seen.answered);
    ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
    Ok(())
}

/// A pod that asks an address again and again, each time by a new connection, until it is asked to stop.
fn asker(name: &str, url: &str) -> Value {
    let line = format!(
        "until [ -e /tmp/go ]; do sleep 0.1; done; touch /tmp/ok /tmp/failed; \
         while [ ! -e /tmp/stop ]; do \
           if timeout 20 wget -q -O /dev/null {url}; then echo >> /tmp/ok; else date >> /tmp/failed; fi; \
         done; touch /tmp/done; {STAY}"
    );
    pod(name, &line)
}

/// Ends an [`asker`]; none of its requests may have failed.
fn asker_ended_well(cx: &Context, name: &str) -> Result<()> {
    cx.sh(name, "touch /tmp/stop")?;
    eventually("the pod asks no more", || cx.sh(name, "cat /tmp/done"))?;
    let count = cx.sh(name, "wc -l < /tmp/ok")?;
    let failed = cx.sh(name, "cat /tmp/failed")?;
    println!(
        "    {} requests within the cluster, {} failed",
        count.trim(),
        failed.lines().count()
    );
    ensure!(failed.trim().is_empty(), "failed at {failed}");
    ensure!(count.trim() != "0", "it asked for nothing");
    Ok(())
}

/// `cargo xtask soak rolling --times N` repeats the update.
pub fn a_rolling_update_loses_no_request(cx: &Context) -> Result<()> {
    let updates = tests::times(2, 20)?;
    let mut deployment = web("roll", 3);
    let template = &mut deployment["spec"]["template"]["spec"];
    template["terminationGracePeriodSeconds"] = json!(40);
    // As for every server: it goes on serving until all nodes have heard that it goes, busy ones as well.
    template["containers"][0]["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 12 } } });
    deployment["spec"]["strategy"] =
        json!({ "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    cx.apply_json(&deployment)?;
    cx.apply_json(&service("roll", "roll", "LoadBalancer"))?;
    cx.wait_rollout("deployment/roll")?;
    cx.wait_endpoints("roll", 3)?;
    let cluster_ip = cx.field("service roll", ".spec.clusterIP")?;
    cx.apply_json(&asker("asker", &format!("http://{cluster_ip}/hostname")))?;
    let balancer = eventually("there is an address of the pool", || {
        let ip = cx.field("service roll", ".status.loadBalancer.ingress[*].ip")?;
        ip.parse::<IpAddr>().with_context(|| ip.clone())
    })?;
    let mut ways = node_ports(cx, "roll")?;
    ways.push((balancer, 80).into());
    for way in &ways {
        spreads(*way, 3)?;
    }
    cx.wait_ready("asker")?;
    cx.sh("asker", "touch /tmp/go")?;
    let load = Load::start(&ways);
    some_more(&load)?;
    for update in 1..=updates {
        cx.kubectl("rollout restart deployment/roll")?;
        cx.wait_rollout("deployment/roll")?;
        eventually("the old pods are gone", || {
            let all = cx.json("get pods -l app=roll")?;
            let count = all["items"].as_array().map_or(0, Vec::len);
            ensure!(count == 3, "{count} pods");
            Ok(())
        })?;
        some_more(&load)?;
        let (answered, failed) = (load.answered(), load.failed());
        println!(
            "    after {update} of {updates} rolling updates: {answered} requests, {failed} failed"
        );
    }
    // Both are counted, whatever one of them says.
    let outside = ended_well(load);
    asker_ended_well(cx, "asker")?;
    outside
}

const DATAGRAMS: usize = 300;

pub fn datagrams_go_to_the_pods_in_turn(cx: &Context) -> Result<()> {
    cx.apply_json(&web("turns", 3))?;
    let mut turns = service("turns", "turns", "NodePort");
    turns["spec"]["ports"][0]["protocol"] = json!("UDP");
    cx.apply_json(&turns)?;
    cx.wait_rollout("deployment/turns")?;
    cx.wait_endpoints("turns", 3)?;
    for address in node_ports(cx, "turns")? {
        let mut kept = Vec::new();
        let even = |seen: &BTreeMap<String, usize>, each: usize| {
            seen.len() == 3 && seen.values().all(|n| *n == each)
        };
        eventually("all pods are in the node's rules", || {
            let seen = spread_udp(address, 9, &mut kept)?;
            ensure!(even(&seen, 3), "{seen:?}");
            Ok(())
        })?;
        let seen = spread_udp(address, DATAGRAMS, &mut kept)?;
        ensure!(even(&seen, DATAGRAMS / 3), "{seen:?}");
    }
    Ok(())
}

/// How often an endpoint comes and goes in a second, and for how long.
const FLAPS_PER_SECOND: u32 = 100;
const FLAPPING: Duration = Duration::from_secs(8);

/// A Service of two pods whose endpoints the test writes.
struct Flapping {
    name: &'static str,
    slices: Api<EndpointSlice>,
    ips: Vec<IpAddr>,
}

impl Flapping {
    fn start(cx: &Context, name: &'static str) -> Result<Self> {
        cx.apply_json(&web(name, 2))?;
        let mut own = service(name, name, "NodePort");
        own["spec"]["selector"] = Value::Null;
        cx.apply_json(&own)?;
        cx.wait_rollout(&format!("deployment/{name}"))?;
        let pods = cx.pods(&format!("app={name}"))?;
        let ips = pods.iter().map(|pod| cx.pod_ip(pod));
        let flapping = Self {
            name,
            slices: Api::namespaced(cx.cluster.client()?, &cx.ns),
            ips: ips.collect::<Result<_>>()?,
        };
        cx.apply_json(&flapping.slice(2))?;
        for way in node_ports(cx, name)? {
            spreads(way, 2)?;
        }
        Ok(flapping)
    }

    fn endpoints(&self, count: usize) -> Value {
        let all = self.ips.iter().take(count);
        let one = |ip: &IpAddr| json!({ "addresses": [ip], "conditions": { "ready": true } });
        all.map(one).collect()
    }

    fn slice(&self, count: usize) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": self.name, "labels": {
                "kubernetes.io/service-name": self.name,
                "endpointslice.kubernetes.io/managed-by": "the-test" } },
            "addressType": "IPv4", "endpoints": self.endpoints(count),
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        })
    }

    /// The second endpoint goes and comes; in the end it is there.
    fn flap(&self, cx: &Context, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
        let (slices, name) = (self.slices.clone(), self.name);
        let bodies = [1, 2].map(|count| json!({ "endpoints": self.endpoints(count) }));
        let flapping = cx.cluster.spawn(async move {
            let begun = Instant::now();
            let mut pace = tokio::time::interval(Duration::from_secs(1) / FLAPS_PER_SECOND);
            let mut changes = 0_u32;
            while begun.elapsed() < FLAPPING {
                for body in &bodies {
                    pace.tick().await;
                    let patch = Patch::Merge(body);
                    slices.patch(name, &PatchParams::default(), &patch).await?;
                    changes += 1;
                }
            }
            let rate = f64::from(changes) / begun.elapsed().as_secs_f64();
            println!("    {changes} changes, {rate:.0} a second");
            anyhow::Ok(())
        });
        while !flapping.is_finished() {
            meanwhile()?;
        }
        cx.cluster.block_on(flapping)?
    }
}

pub fn endpoints_that_flap_lose_no_request(cx: &Context) -> Result<()> {
    let flapping = Flapping::start(cx, "flap")?;
    let ways = node_ports(cx, "flap")?;
    let load = Load::start(&ways);
    some_more(&load)?;
    flapping.flap(cx, || some_more(&load))?;
    for way in &ways {
        spreads(*way, 2)?;
    }
    ended_well(load)
}

/// Lines that a connection through a Service has brought.
fn lines_got(cx: &Context) -> Result<u64> {
    let text = cx.sh("talker", "wc -l < /tmp/got")?;
    text.trim().parse().with_context(|| text.clone())
}

/// A connection through a Service's address that brings a line all the time, from and to pods of
/// these nodes.
fn talk(cx: &Context, from: &str, to: &str) -> Result<()> {
    let mut speaker = pod(
        "speaker",
        "while true; do nc -l -p 8080 -e sh -c 'while echo x; do sleep 0.1; done'; done",
    );
    speaker["spec"]["nodeName"] = to.into();
    cx.apply_json(&speaker)?;
    cx.apply_json(&service("speaker", "speaker", "ClusterIP"))?;
    let mut talker = pod("talker", STAY);
    talker["spec"]["nodeName"] = from.into();
    cx.apply_json(&talker)?;
    cx.wait_ready("speaker")?;
    cx.wait_ready("talker")?;
    cx.wait_endpoints("speaker", 1)?;
    let ip = cx.field("service speaker", ".spec.clusterIP")?;
    eventually("the connection brings something", || {
        let line = format!(
            "(sleep 1000000 | nc {ip} 80 > /tmp/got) < /dev/null > /dev/null 2>&1 & sleep 1"
        );
        cx.sh("talker", &line)?;
        ensure!(lines_got(cx)? > 0, "nothing yet");
        Ok(())
    })
}

fn goes_on(cx: &Context) -> Result<()> {
    let before = lines_got(cx)?;
    eventually("the connection goes on", || {
        let now = lines_got(cx)?;
        ensure!(now > before, "{before} lines, then {now}");
        Ok(())
    })
}

/// How often the agent is killed while it programs.
const KILLS: usize = 6;
/// How often it is killed beside a command in a pod; each start after a kill waits longer.
const RESTARTS: usize = 3;

pub fn an_agent_killed_while_it_programs_leaves_whole_rules(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    let (killed, other) = (&nodes[0], &nodes[1]);
    talk(cx, killed, other)?;
    let flapping = Flapping::start(cx, "torn")?;
    let ways = node_ports(cx, "torn")?;
    let load = Load::start(&ways);
    some_more(&load)?;
    let mut kills = 0;
    flapping.flap(cx, || {
        some_more(&load)?;
        if kills < KILLS && cx.cluster.kill_agent(killed).is_ok() {
            kills += 1;
        }
        Ok(())
    })?;
    ensure!(kills > 0, "it was never killed");
    println!("    {kills} kills");
    cx.cluster.wait_agent(killed)?;
    for way in &ways {
        spreads(*way, 2)?;
    }
    ended_well(load)?;
    goes_on(cx)
}

/// The way from kubectl to the API is a Service's, as for every client in the cluster: it leads
/// through the rules of the node whose proxy restarts.
pub fn a_command_in_a_pod_stays_connected_while_proxies_restart(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    let (here, there) = (&nodes[0], &nodes[1]);
    let mut told = pod("told", STAY);
    told["spec"]["nodeName"] = there.clone().into();
    cx.apply_json(&told)?;
    cx.wait_ready("told")?;
    // Another test may have killed it just before.
    cx.cluster.wait_agent(here)?;
    let line = "--namespace default get service kubernetes -o jsonpath={.spec.clusterIP}";
    let api = cx.cluster.kubectl(line)?.ok()?;
    let mut command = cx.cluster.kubectl_command();
    command
        .arg(format!("--server=https://{}:443", api.trim()))
        .args(["--namespace", &cx.ns, "exec", "-i", "told", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let netns = NetNs::of_process(u32::try_from(cx.cluster.pid(here)?)?)?;
    let mut exec = netns.run(move || command.spawn())??;
    let mut says = exec.stdin.take().context("no way in")?;
    let mut hears = BufReader::new(exec.stdout.take().context("no way out")?);
    let mut echoes = |word: &str| -> Result<()> {
        writeln!(says, "{word}")?;
        let mut heard = String::new();
        hears.read_line(&mut heard)?;
        ensure!(heard.trim() == word, "{word} came back as {heard:?}");
        Ok(())
    };
    echoes("connected")?;
    for restart in 0..RESTARTS {
        let before = cx.cluster.agent(here)?;
        cx.cluster.kill_agent(here)?;
        echoes(&format!("without its proxy, {restart}"))?;
        // Each start waits longer, and streams that are idle for a while end: it is kept busy.
        eventually("another agent runs", || {
            echoes("still without its proxy")?;
            ensure!(cx.cluster.agent(here)? != before);
            Ok(())
        })?;
        // A Service that is new is programmed by the new one.
        let name = format!("after-{restart}");
        cx.apply_json(&service(&name, "nobody", "ClusterIP"))?;
        let ip = cx.field(&format!("service {name}"), ".spec.clusterIP")?;
        eventually("the new proxy programs", || {
            echoes("not programmed yet")?;
            let line = format!("nft list set ip tiphys-proxy cluster-ips | grep -w {ip}");
            cx.cluster.in_node(here, &line)?.ok()
        })?;
        echoes(&format!("with another one, {restart}"))?;
    }
    println!("    {RESTARTS} restarts");
    drop(says);
    ensure!(exec.wait()?.success(), "it ended with an error");
    cx.cluster.wait_agent(here)
}

/// What a node's agent keeps in nftables.
const TABLES: [&str; 4] = [
    "tiphys-proxy",
    "tiphys-network",
    "tiphys-pods",
    "tiphys-policy",
];

pub fn tables_that_others_removed_come_back(cx: &Context) -> Result<()> {
    let nodes = cx.cluster.node_names();
    let here = &nodes[0];
    cx.apply_json(&web("back", 2))?;
    cx.apply_json(&service("back", "back", "NodePort"))?;
    // A pod whose node knows a policy for it.
    cx.apply_json(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": "kept" },
        "spec": { "podSelector": { "matchLabels": { "app": "kept" } }, "policyTypes": ["Egress"] },
    }))?;
    let mut kept = pod("kept", STAY);
    kept["spec"]["nodeName"] = here.clone().into();
    cx.apply_json(&kept)?;
    let mut free = pod("free", STAY);
    free["spec"]["nodeName"] = here.clone().into();
    cx.apply_json(&free)?;
    cx.wait_ready("kept")?;
    cx.wait_ready("free")?;
    cx.wait_rollout("deployment/back")?;
    let way = node_ports(cx, "back")?[0];
    spreads(way, 2)?;
    let there = |table: &str| -> Result<bool> {
        // Some versions of nft end themselves when they print concatenations of the policies' table;
        // of a table that is not there all say so.
        let line = format!("nft list table ip {table} 2>&1 | grep -c 'No such file' || true");
        Ok(cx.cluster.in_node(here, &line)?.ok()?.trim() == "0")
    };
    for flush in ["nft flush ruleset", "nft delete table ip tiphys-proxy"] {
        for table in TABLES {
            eventually(&format!("{table} is there"), || {
                ensure!(there(table)?);
                Ok(())
            })?;
        }
        cx.cluster.in_node(here, flush)?.ok()?;
        for table in TABLES {
            eventually(&format!("{table} is back after `{flush}`"), || {
                ensure!(there(table)?);
                Ok(())
            })?;
        }
        spreads(way, 2)?;
    }
    let server = cx.pods("app=back")?.pop().context("no pod")?;
    let ip = cx.pod_ip(&server)?;
    let line = format!("timeout 3 wget -q -O - http://{ip}:8080/hostname || echo kept");
    eventually("who is free gets an answer", || {
        let said = cx.sh("free", &line)?;
        ensure!(said.trim() == server, "{said}");
        Ok(())
    })?;
    ensure!(
        cx.sh("kept", &line)?.trim() == "kept",
        "it is not protected"
    );
    let routes = "ip route flush proto 85";
    cx.cluster.in_node(here, routes)?.ok()?;
    eventually("routes to other nodes are back", || {
        let text = cx.cluster.in_node(here, "ip route show proto 85")?.ok()?;
        ensure!(text.lines().count() >= nodes.len() - 1, "{text}");
        Ok(())
    })?;
    spreads(way, 2)
}

/// Flows that wait for an answer, as many as the kernel follows and some more.
fn fill_conntrack(target: IpAddr, most: usize) -> Result<()> {
    let mut left = most + most / 20;
    while left > 0 {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        for port in 1024..=u16::MAX {
            // Nobody listens there: errors come back, which say nothing.
            let _ = socket.send_to(b"x", (target, port));
            left = left.saturating_sub(1);
        }
    }
    Ok(())
}

pub fn a_full_table_of_connections_lets_new_ones_in(cx: &Context) -> Result<()> {
    let node = &cx.cluster.node_names()[1];
    let mut sink = pod("sink", STAY);
    sink["spec"]["nodeName"] = node.clone().into();
    cx.apply_json(&sink)?;
    cx.apply_json(&web("full", 2))?;
    cx.apply_json(&service("full", "full", "NodePort"))?;
    cx.wait_ready("sink")?;
    cx.wait_rollout("deployment/full")?;
    let way = node_ports(cx, "full")?[1];
    spreads(way, 2)?;
    let number = |name: &str| -> Result<usize> {
        let line = format!("cat /proc/sys/net/netfilter/nf_conntrack_{name}");
        let text = cx.cluster.in_node(node, &line)?.ok()?;
        text.trim().parse().with_context(|| text.clone())
    };
    let most = number("max")?;
    let target = cx.pod_ip("sink")?;
    let load = Load::start(&[way]);
    some_more(&load)?;
    let netns = NetNs::of_process(u32::try_from(cx.cluster.pid(node)?)?)?;
    // Flows without an answer are forgotten after a while: on a slow machine it takes more of them.
    eventually("the table is full", || {
        netns.run(|| fill_conntrack(target, most))??;
        let count = number("count")?;
        println!("    {count} of {most} flows are followed");
        ensure!(count > most * 9 / 10, "{count} of {most}");
        Ok(())
    })?;
    eventually("the node says so", || {
        let log = cx.cluster.data().join(format!("logs/{node}.log"));
        let text = std::fs::read_to_string(&log)?;
        ensure!(text.contains("nearly all connections"), "{}", log.display());
        Ok(())
    })?;
    some_more(&load)?;
    ended_well(load)
}
