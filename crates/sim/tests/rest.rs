//! A cluster at rest: workloads of each kind run or have ended, and nobody wants anything. For an hour
//! nothing is written but what says that somebody lives: leases, and the status of each node once in
//! five minutes; as often it is noted that old revisions went. What expires goes.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sim::{Cluster, Failed, Plan, Size};

use common::{Admin, has_condition, job, number, settle, workload};

/// Longest that it may take until all runs.
const MOST: Duration = Duration::from_secs(300);
/// What was begun by the last change ends in this time, in virtual time.
const SETTLES: Duration = Duration::from_secs(120);
/// `TIPHYS_SOAK=1`: longer, so that what happens once in hours shows, too.
fn watched() -> Duration {
    let hours = if std::env::var_os("TIPHYS_SOAK").is_some() {
        30
    } else {
        1
    };
    Duration::from_secs(hours * 3_600)
}

const NODES: u8 = 3;

fn without_service(mut object: Value) -> Value {
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("serviceName");
    }
    object
}

fn daemon_set() -> Value {
    let mut object = without_service(workload("agent", 0, "web:1"));
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    object
}

async fn begin(admin: &Admin) -> Result<(), Failed> {
    let settings = json!({ "metadata": { "name": "settings" }, "data": { "a": "1" } });
    admin.create("ConfigMap", settings).await;
    let quota = json!({ "metadata": { "name": "wide" }, "spec": { "hard": { "pods": "50" } } });
    admin.create("ResourceQuota", quota).await;
    let budget = json!({ "metadata": { "name": "web" }, "spec": { "minAvailable": 1,
        "selector": { "matchLabels": { "app": "web" } } } });
    admin.create("PodDisruptionBudget", budget).await;
    let service = json!({ "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    admin.create("Service", service).await;
    let web = without_service(workload("web", 4, "web:1"));
    admin.create("Deployment", web).await;
    admin
        .create("StatefulSet", workload("db", 2, "web:1"))
        .await;
    admin.create("DaemonSet", daemon_set()).await;
    admin.create("Job", job("sum", "job:1", 3, false)).await;
    settle("all runs", MOST, || async {
        let mut out = Vec::new();
        for (kind, name, field, wanted) in [
            ("Deployment", "web", "availableReplicas", 4),
            ("StatefulSet", "db", "availableReplicas", 2),
            ("DaemonSet", "agent", "numberAvailable", u64::from(NODES)),
        ] {
            let found = admin.get(kind, name).await;
            let is = number(found.as_ref(), &format!("/status/{field}"));
            if is != wanted {
                out.push(format!("{name}: {is} of {wanted}"));
            }
        }
        let job = admin.get("Job", "sum").await;
        if !has_condition(job.as_ref(), "Complete") {
            out.push("the Job is not complete".to_owned());
        }
        out
    })
    .await
}

/// Whether a key is one that lives by being written.
fn is_lease(key: &str) -> bool {
    key.starts_with("/registry/leases/") || key.starts_with("/registry/masterleases/")
}

#[test]
fn a_cluster_at_rest_writes_heartbeats_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = Plan {
        nodes: NODES,
        size: Size { cpus: 4, pods: 20 },
        ..Plan::steady(folder.path())
    };
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let admin = Admin {
            client: cluster.admin().clone(),
        };
        begin(&admin).await.unwrap_or_else(|e| panic!("{e:?}"));
        tokio::time::sleep(SETTLES).await;
        let before = cluster.trace().lines().len();
        tokio::time::sleep(watched()).await;
        let trace = cluster.end();
        assert!(trace.broken().is_empty(), "{:#?}", trace.broken());
        let lines = trace.lines();
        let lines = lines.get(before..).unwrap_or_default();
        let mut written: BTreeMap<&str, u64> = BTreeMap::new();
        let others = lines.iter().filter(|l| !is_lease(&l.key));
        for line in others.filter(|l| l.value.is_some()) {
            *written.entry(&line.key).or_default() += 1;
        }
        // Once in five minutes, and the look that sees it come due is later by up to ten seconds.
        let most = watched().as_secs() / 300;
        let least = watched().as_secs() / 320;
        for node in 0..NODES {
            let status = written.remove(format!("/registry/minions/node-{node}").as_str());
            let status = status.unwrap_or(0);
            assert!(
                (least..=most).contains(&status),
                "node-{node}: {status} of {most}"
            );
        }
        let compactions = written.remove("compact_rev_key").unwrap_or(0);
        assert!(compactions <= most, "{compactions} compactions");
        assert!(
            written.is_empty(),
            "written although nothing changed: {written:#?}"
        );
        let leases = lines.iter().filter(|l| is_lease(&l.key)).count();
        println!("{leases} writes of leases in {:?}", watched());
    });
}
