//! Servers go away in the middle of work: first the one that leads, then all of them one after the
//! other, while a Deployment is rolled, a StatefulSet is updated, a Job of a thousand completions
//! runs, and what a deleted owner leaves is collected. All ends right, and no invariant breaks.
#![expect(clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::DeleteParams;
use serde_json::{Value, json};
use sim::{Cluster, Failed, Faults, Plan, Size};

use common::{Admin, has_condition, number, settle, workload};

/// Longest that all of it may take in virtual time: a thousand pods of five seconds, sixty at once.
const MOST: Duration = Duration::from_secs(1_800);
/// A leader that dies is followed after seven seconds, a server that starts serves at once.
const BETWEEN: Duration = Duration::from_secs(10);
const SERVERS: usize = 3;
const WEB: u64 = 12;
const DB: u64 = 6;
const COMPLETIONS: u64 = 1_000;
const OWNED: usize = 60;

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        servers: SERVERS,
        nodes: 6,
        size: Size { cpus: 16, pods: 60 },
        faults: Faults {
            write_micros: 1_000,
            failing: 0.0,
            runtime_micros: 100_000,
        },
        elections: Default::default(),
        heartbeat: sim::HEARTBEAT,
        begun: false,
        folder: Default::default(),
    }
}

fn small(mut object: Value) -> Value {
    let pod = &mut object["spec"]["template"]["spec"];
    pod["containers"][0]["resources"]["requests"]["cpu"] = json!("100m");
    pod["terminationGracePeriodSeconds"] = json!(1);
    // Thousands of starts need not read a file each.
    pod["volumes"] = Value::Null;
    pod["containers"][0]["volumeMounts"] = Value::Null;
    object
}

fn deployment(name: &str, replicas: u64) -> Value {
    let mut object = small(workload(name, replicas, "web:1"));
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove("serviceName");
    }
    object
}

fn thousand() -> Value {
    let mut job = small(common::job("sum", "job:1", COMPLETIONS, false));
    job["spec"]["parallelism"] = json!(60);
    job
}

fn stamped(stamp: &str) -> Value {
    json!({ "spec": { "template": { "metadata": { "annotations": { "stamp": stamp } } } } })
}

/// Which of some counts of a status are not the wanted one.
async fn counts(admin: &Admin, what: &str, name: &str, wanted: u64) -> Vec<String> {
    let found = admin.get(what, name).await;
    let fields = [
        "replicas",
        "readyReplicas",
        "updatedReplicas",
        "availableReplicas",
    ];
    let seen = number(found.as_ref(), "/status/observedGeneration");
    let generation = found.as_ref().and_then(|o| o.metadata.generation);
    let mut out: Vec<String> = fields
        .iter()
        .filter_map(|field| {
            let is = number(found.as_ref(), &format!("/status/{field}"));
            (is != wanted).then(|| format!("{name}: {field} is {is} of {wanted}"))
        })
        .collect();
    if generation.and_then(|g| u64::try_from(g).ok()) != Some(seen) {
        out.push(format!("{name} is not observed"));
    }
    out
}

async fn begin(admin: &Admin) -> Result<(), Failed> {
    admin.create("Deployment", deployment("web", WEB)).await;
    admin.create("Deployment", deployment("old", 10)).await;
    admin.create("Deployment", deployment("older", 10)).await;
    let db = small(workload("db", DB, "web:1"));
    admin.create("StatefulSet", db).await;
    for name in ["old", "older"] {
        let owner = admin.get("Deployment", name).await;
        let uid = owner.and_then(|o| o.metadata.uid).unwrap_or_default();
        for i in 0..OWNED {
            let owned = json!({ "metadata": { "name": format!("{name}-{i}"),
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "Deployment",
                    "name": name, "uid": uid, "blockOwnerDeletion": true }] } });
            admin.create("ConfigMap", owned).await;
        }
    }
    settle("before", MOST, || async {
        let mut out = counts(admin, "Deployment", "web", WEB).await;
        out.extend(counts(admin, "StatefulSet", "db", DB).await);
        out.extend(counts(admin, "Deployment", "old", 10).await);
        out.extend(counts(admin, "Deployment", "older", 10).await);
        out
    })
    .await
}

async fn lacking(admin: &Admin) -> Vec<String> {
    let mut out = counts(admin, "Deployment", "web", WEB).await;
    out.extend(counts(admin, "StatefulSet", "db", DB).await);
    let job = admin.get("Job", "sum").await;
    let (succeeded, failed) = (
        number(job.as_ref(), "/status/succeeded"),
        number(job.as_ref(), "/status/failed"),
    );
    if !has_condition(job.as_ref(), "Complete") || succeeded != COMPLETIONS || failed != 0 {
        out.push(format!("the Job: {succeeded} succeeded, {failed} failed"));
    }
    for what in ["Deployment", "ReplicaSet", "Pod", "ConfigMap"] {
        let all = admin.list(what).await;
        let names = all.into_iter().filter_map(|o| o.metadata.name);
        out.extend(names.filter(|n| n.starts_with("old")));
    }
    out
}

/// Dies, and is back after a while.
async fn bounce(cluster: &Cluster, number: usize) -> Result<(), Failed> {
    cluster.kill_server(number);
    tokio::time::sleep(BETWEEN).await;
    cluster.start_server(number).await?;
    tokio::time::sleep(BETWEEN).await;
    Ok(())
}

async fn story(cluster: &Cluster) -> Result<(), Failed> {
    let admin = Admin {
        client: cluster.admin().clone(),
    };
    begin(&admin).await?;
    admin.create("Job", thousand()).await;
    admin.patch("Deployment", "web", &stamped("1")).await;
    admin.patch("StatefulSet", "db", &stamped("1")).await;
    let foreground = DeleteParams::foreground();
    admin.delete("Deployment", "older", &foreground).await;
    let background = DeleteParams::background();
    admin.delete("Deployment", "old", &background).await;
    for number in 0..SERVERS {
        bounce(cluster, number).await?;
        // What was rolled goes on being rolled.
        let stamp = format!("{}", number + 2);
        admin.patch("Deployment", "web", &stamped(&stamp)).await;
        admin.patch("StatefulSet", "db", &stamped(&stamp)).await;
    }
    let job = admin.get("Job", "sum").await;
    let done = number(job.as_ref(), "/status/succeeded");
    if done == 0 || done >= COMPLETIONS {
        return Err(Failed(format!("{done} had ended: this was not amid it")));
    }
    settle("as wanted", MOST, || lacking(&admin)).await?;
    let pods = admin.pods().await;
    let of = |kind: &'static str| {
        let owned = pods.iter().filter(move |p| {
            let mut owners = p.metadata.owner_references.iter().flatten();
            owners.any(|o| o.kind == kind)
        });
        owned.filter_map(|p| p.metadata.name.clone())
    };
    // Each pod of the Job counts once, and none was made too many.
    let of_job = of("Job").count();
    if u64::try_from(of_job) != Ok(COMPLETIONS) {
        return Err(Failed(format!("the Job has {of_job} pods")));
    }
    let identities: BTreeSet<String> = of("StatefulSet").collect();
    let wanted: BTreeSet<String> = (0..DB).map(|i| format!("db-{i}")).collect();
    if identities != wanted {
        return Err(Failed(format!("the StatefulSet has {identities:?}")));
    }
    Ok(())
}

#[test]
fn work_goes_on_while_servers_go_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut plan = plan(1);
    plan.folder = folder.path().to_owned();
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let came = story(&cluster).await;
        let trace = cluster.end();
        let broken = trace.broken();
        assert!(broken.is_empty(), "{broken:#?}");
        came.unwrap_or_else(|e| panic!("{e:?}"));
        let last = trace.lines().last().map_or(0, |l| l.millis);
        println!(
            "{} revisions in {} virtual seconds",
            trace.lines().len(),
            last / 1_000
        );
    });
}
