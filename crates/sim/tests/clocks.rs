//! Clocks are set, by hours and both ways: a node's, and those of all servers. What runs goes on without
//! a restart, nodes stay Ready, what is new starts, and what fails again and again is tried again no
//! later than its back-off says.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sim::{Cluster, Failed, Plan, Size};

use common::{Admin, number, settle, workload};

/// Longest that anything may take, in virtual time: the longest back-off, and a start.
const MOST: Duration = Duration::from_secs(400);
/// How long it is watched that nothing happens: several heartbeats, and a node's whole grace.
const QUIET: Duration = Duration::from_secs(60);
const HOURS: i64 = 5 * 3_600;
const NODES: u8 = 3;

fn small(name: &str, replicas: u64, image: &str) -> Value {
    let mut object = workload(name, replicas, image);
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("serviceName");
    }
    let pod = &mut object["spec"]["template"]["spec"];
    pod["containers"][0]["resources"]["requests"]["cpu"] = json!("50m");
    pod["terminationGracePeriodSeconds"] = json!(1);
    pod["volumes"] = Value::Null;
    pod["containers"][0]["volumeMounts"] = Value::Null;
    object
}

/// A pod whose own deadline comes long after the story, but before a clock that is set ahead.
fn timed(node: &str) -> Value {
    let mut pod = json!({ "metadata": { "name": "still-timed" } });
    pod["spec"] = small("still", 1, "web:1")["spec"]["template"]["spec"].clone();
    pod["spec"]["nodeName"] = json!(node);
    pod["spec"]["activeDeadlineSeconds"] = json!(HOURS - 3_600);
    pod
}

/// Which of a Deployment's pods are not ready.
async fn unready(admin: &Admin, name: &str, wanted: u64) -> Vec<String> {
    let found = admin.get("Deployment", name).await;
    let ready = number(found.as_ref(), "/status/readyReplicas");
    let well = ready == wanted;
    let lacks = (!well).then(|| format!("{name}: {ready} of {wanted}"));
    lacks.into_iter().collect()
}

/// Nodes that are not Ready.
async fn unready_nodes(admin: &Admin) -> Vec<String> {
    let nodes = admin.list("Node").await;
    let is_ready = |node: &kube::api::DynamicObject| {
        let all = node.data["status"]["conditions"].as_array();
        let mut all = all.into_iter().flatten();
        all.any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let bad = nodes.iter().filter(|n| !is_ready(n));
    bad.map(|n| format!("{:?}", n.metadata.name)).collect()
}

/// Containers of a Deployment that run, with how often they were started.
fn running(cluster: &Cluster, app: &str) -> BTreeSet<(String, u32)> {
    let all = cluster.nodes().iter().flat_map(|n| n.running());
    let of = all.filter(|r| r.pod.name.starts_with(app));
    of.map(|r| (r.pod.uid, r.attempt)).collect()
}

/// How often the container that always fails was restarted.
async fn restarts(admin: &Admin) -> u64 {
    let pods = admin.pods().await;
    let statuses = pods.iter().filter_map(|p| p.status.as_ref());
    let all = statuses.flat_map(|s| s.container_statuses.iter().flatten());
    let most = all.map(|c| c.restart_count).max().unwrap_or(0);
    u64::try_from(most).unwrap_or(0)
}

async fn goes_on(cluster: &Cluster, admin: &Admin, what: &str, nth: usize) -> Result<(), Failed> {
    let before = running(cluster, "still");
    let tried = restarts(admin).await;
    let quiet = clock::Instant::now() + QUIET;
    while clock::Instant::now() < quiet {
        let bad = unready_nodes(admin).await;
        if !bad.is_empty() {
            return Err(Failed(format!("{what}: not Ready: {bad:?}")));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let after = running(cluster, "still");
    if after != before {
        return Err(Failed(format!("{what}: {before:?} became {after:?}")));
    }
    let name = format!("new-{nth}");
    let each = u64::from(NODES);
    admin
        .create("Deployment", small(&name, each, "web:1"))
        .await;
    settle(what, MOST, || unready(admin, &name, each)).await?;
    settle(what, MOST, || async {
        let now = restarts(admin).await;
        let well = now > tried;
        let lacks = (!well).then(|| format!("restarted {now} times, as before"));
        lacks.into_iter().collect()
    })
    .await
}

async fn story(cluster: &Cluster) -> Result<(), Failed> {
    let admin = Admin {
        client: cluster.admin().clone(),
    };
    admin.create("Deployment", small("still", 6, "web:1")).await;
    admin.create("Deployment", small("crash", 1, "bad:1")).await;
    settle("before", MOST, || unready(&admin, "still", 6)).await?;
    let nodes = cluster.nodes();
    // Not the one whose kubelet is started again: from one to the next the clock counts.
    let last = nodes.last().expect("a node").name();
    admin.create("Pod", timed(last)).await;
    settle("before", MOST, || async {
        let count = running(cluster, "still").len();
        let lacks = (count != 7).then(|| format!("{count} run"));
        lacks.into_iter().collect()
    })
    .await?;
    let sets: [(&str, i64); 6] = [
        ("nodes ahead", HOURS),
        ("nodes behind", -HOURS),
        ("nodes right again", 0),
        ("servers ahead", HOURS),
        ("servers behind", -HOURS),
        ("servers right again", 0),
    ];
    for (nth, (what, seconds)) in sets.into_iter().enumerate() {
        if what.starts_with("servers") {
            cluster.set_servers_clocks(seconds);
        } else {
            nodes.iter().for_each(|n| n.set_clock(seconds));
        }
        goes_on(cluster, &admin, what, nth).await?;
    }
    // One alone, among others that are right.
    if let Some(one) = nodes.first() {
        one.set_clock(HOURS);
        goes_on(cluster, &admin, "one node ahead", 7).await?;
        one.restart_kubelet()?;
        goes_on(cluster, &admin, "its kubelet starts again", 8).await?;
        one.set_clock(-HOURS);
        goes_on(cluster, &admin, "one node behind", 9).await?;
    }
    Ok(())
}

#[test]
fn clocks_that_are_set_restart_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        servers: 2,
        nodes: NODES,
        size: Size { cpus: 16, pods: 60 },
        ..Plan::steady(folder.path())
    };
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let came = story(&cluster).await;
        let trace = cluster.end();
        let broken = trace.broken();
        came.unwrap_or_else(|e| panic!("{e:?}"));
        assert!(broken.is_empty(), "{broken:#?}");
    });
}
