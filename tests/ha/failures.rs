//! A part fails under load: writes go on after a moment, Services all the time.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::Context;
use tests::command::eventually;
use tests::context::{service, web};
use tests::traffic::Load;
use tests::writes::{Writes, refused};

use crate::parts::{all_are_ready, holder, leading_member, others, signal, switch, there, victims};

/// Writes that must be acknowledged before and after each fault.
const WRITES: usize = 50;

/// A Service that is asked on every node, and a stream of writes.
struct Busy {
    load: Load,
    writes: Writes,
}

impl Busy {
    fn start(cx: &Context) -> Result<Self> {
        // A cluster is up when most of its servers are.
        all_are_ready(cx)?;
        cx.apply_json(&web("busy", 3))?;
        cx.apply_json(&service("busy", "busy", "NodePort"))?;
        cx.wait_rollout("deployment/busy")?;
        cx.wait_endpoints("busy", 3)?;
        let port: u16 = cx
            .field("service busy", ".spec.ports[0].nodePort")?
            .parse()?;
        let mut addresses = Vec::new();
        for node in cx.cluster.node_names() {
            let ip = cx.field(&format!("node {node}"), ".status.addresses[0].address")?;
            let address = SocketAddr::new(ip.parse()?, port);
            eventually("the node port answers", || {
                tests::traffic::get(address, "/hostname")
            })?;
            addresses.push(address);
        }
        let busy = Self {
            load: Load::start(&addresses),
            writes: Writes::start(cx)?,
        };
        busy.writes.flow(WRITES)?;
        Ok(busy)
    }

    fn end(self, cx: &Context, what: &str) -> Result<()> {
        let before = self.load.answered();
        eventually("the load goes on", || {
            ensure!(self.load.answered() > before);
            Ok(())
        })?;
        let written = self.writes.end(cx)?;
        let seen = self.load.end()?;
        println!(
            "    {what}: writes paused for {:.1} s ({} acknowledged, {} failed, none lost); {} requests, {} failed",
            written.longest.as_secs_f64(),
            written.acknowledged.len(),
            written.errors.len(),
            seen.answered,
            seen.failures.len()
        );
        ensure!(seen.failures.is_empty(), "{:?}", seen.failures);
        Ok(())
    }
}

/// A Deployment is made, updated and removed: all controllers, the scheduler and the nodes work. A command
/// that was led to a server which is away is given again, as a person would.
fn rollouts_go_on(cx: &Context) -> Result<()> {
    eventually("a Deployment is rolled out", || {
        cx.apply_json(&web("rolled", 2))?;
        cx.wait_rollout("deployment/rolled")
    })?;
    eventually("it is updated", || {
        cx.kubectl("set env deployment/rolled A=b")?;
        cx.wait_rollout("deployment/rolled")
    })?;
    let delete = "delete deployment rolled --cascade=foreground --ignore-not-found --timeout=280s";
    eventually("it is removed", || cx.kubectl(delete)).map(drop)
}

/// Kills a part under load.
fn under_load(cx: &Context, what: &str, kill: impl FnOnce() -> Result<()>) -> Result<()> {
    let busy = Busy::start(cx)?;
    kill()?;
    busy.writes.flow(WRITES)?;
    rollouts_go_on(cx)?;
    busy.end(cx, what)?;
    all_are_ready(cx)
}

pub fn a_server_is_killed(cx: &Context) -> Result<()> {
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        let leader = holder(cx, lease)?;
        let what = format!("the server that leads {lease}");
        under_load(cx, &what, || signal(cx.cluster, &leader, "KILL"))?;
    }
    for server in others() {
        under_load(cx, server, || signal(cx.cluster, server, "KILL"))?;
    }
    Ok(())
}

pub fn an_etcd_member_is_killed(cx: &Context) -> Result<()> {
    let kill = |member: &str| there(cx.cluster, member, "pkill -KILL -x etcd").map(drop);
    let leader = eventually("an etcd member leads", || leading_member(cx))?;
    under_load(cx, "the leading etcd member", || kill(&leader))?;
    for server in others() {
        under_load(cx, &format!("the etcd member of {server}"), || kill(server))?;
    }
    Ok(())
}

pub fn a_machine_loses_its_power(cx: &Context) -> Result<()> {
    for (i, server) in victims().iter().enumerate() {
        let busy = Busy::start(cx)?;
        switch(cx.cluster, "kill", server)?;
        busy.writes.flow(WRITES)?;
        rollouts_go_on(cx)?;
        switch(cx.cluster, "start", server)?;
        all_are_ready(cx)?;
        busy.end(cx, &format!("the machine of {server} with its etcd member"))?;
        if i == 0 {
            switch(cx.cluster, "kill", server)?;
            dead_nodes_are_replaced(cx)?;
            switch(cx.cluster, "start", server)?;
            all_are_ready(cx)?;
        }
    }
    Ok(())
}

/// While a server is away, a node dies: its pods run elsewhere.
fn dead_nodes_are_replaced(cx: &Context) -> Result<()> {
    cx.apply_json(&web("lone", 1))?;
    cx.wait_rollout("deployment/lone")?;
    let first = cx.pods("app=lone")?.pop().unwrap_or_default();
    let node = cx.field(&format!("pod {first}"), ".spec.nodeName")?;
    let started = Instant::now();
    // Its agent falls silent; its containers, and the traffic through it, go on.
    there(cx.cluster, &node, "pkill -STOP -f 'tiphys nod[e] --server'")?;
    eventually("the pod runs elsewhere", || {
        let pods = cx.json("get pods -l app=lone")?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let elsewhere = items.iter().any(|p| {
            p["spec"]["nodeName"] != node.as_str()
                && p["status"]["containerStatuses"][0]["ready"] == true
        });
        ensure!(elsewhere, "not yet");
        Ok(())
    })?;
    println!(
        "    a silent node's pod runs elsewhere after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    there(cx.cluster, &node, "pkill -CONT -f 'tiphys nod[e] --server'")?;
    cx.wait(&format!("node/{node}"), "condition=Ready")?;
    cx.wait_rollout("deployment/lone")
}

pub fn a_server_is_cut_off(cx: &Context) -> Result<()> {
    for server in victims() {
        let busy = Busy::start(cx)?;
        there(cx.cluster, server, "ip link set eth0 down")?;
        busy.writes.flow(WRITES)?;
        rollouts_go_on(cx)?;
        let gateway = cx.cluster.slot.bridge_ip();
        there(
            cx.cluster,
            server,
            &format!("ip link set eth0 up; ip route replace default via {gateway}"),
        )?;
        all_are_ready(cx)?;
        busy.end(cx, &format!("the network of {server}"))?;
    }
    Ok(())
}

pub fn without_a_majority_nothing_is_written(cx: &Context) -> Result<()> {
    let busy = Busy::start(cx)?;
    let away = ["server-2", "server-3"];
    for server in away {
        switch(cx.cluster, "kill", server)?;
    }
    busy.writes.fail(1)?;
    // Errors of the connection to servers that are gone come first; then the one that is left
    // says what is wrong.
    eventually("the server says what is wrong", || {
        let error = refused(cx, "refused")?;
        ensure!(error.contains("store"), "{error}");
        println!("    without a majority: {error}");
        Ok(())
    })?;
    let started = Instant::now();
    switch(cx.cluster, "start", away[0])?;
    busy.writes.flow(WRITES)?;
    println!(
        "    writes again {:.1} s after one of two was started",
        started.elapsed().as_secs_f64()
    );
    rollouts_go_on(cx)?;
    switch(cx.cluster, "start", away[1])?;
    all_are_ready(cx)?;
    busy.end(cx, "two machines of three")
}
