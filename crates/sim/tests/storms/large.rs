//! One cluster of four nodes with the same workloads each time: Deployments, StatefulSets and Jobs,
//! changed at any time, while nodes lose power and network, kubelets and servers die, and runtimes
//! fail.

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Random;
use kube::api::DeleteParams;
use rand::RngExt;
use serde_json::json;
use sim::{Cluster, Failed, Faults, Plan, Size};

use crate::common::{Admin, has_condition, job, number, settle, workload};

/// Longest that it may take, in virtual time, until all is as wanted once all is whole: pods that
/// crash wait for five minutes, and nodes that failed are believed again after less.
const MOST: Duration = Duration::from_secs(900);

pub fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        servers: 2,
        nodes: 4,
        size: Size { cpus: 4, pods: 20 },
        faults: Faults {
            write_micros: 4_000,
            failing: 0.01,
            runtime_micros: 1_000_000,
        },
        elections: Default::default(),
        heartbeat: sim::HEARTBEAT,
        begun: true,
        folder: Default::default(),
    }
}

/// What is wanted, as far as it changes.
struct Replicas {
    web: u64,
    db: u64,
}

async fn begin(admin: &Admin) -> Replicas {
    let wanted = Replicas { web: 4, db: 3 };
    // Room for all that is wanted, and little more.
    let quota = json!({ "metadata": { "name": "narrow" },
        "spec": { "hard": { "pods": "18", "requests.cpu": "7200m" } } });
    admin.create("ResourceQuota", quota).await;
    let budget = json!({ "metadata": { "name": "web" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "web" } } } });
    admin.create("PodDisruptionBudget", budget).await;
    let settings = json!({ "metadata": { "name": "settings" }, "data": { "a": "1" } });
    admin.create("ConfigMap", settings).await;
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    });
    admin.create("Service", service).await;
    let mut web = workload("web", wanted.web, "web:1");
    web["spec"]["serviceName"].take();
    web["spec"]
        .as_object_mut()
        .expect("an object")
        .remove("serviceName");
    admin.create("Deployment", web).await;
    admin
        .create("StatefulSet", workload("db", wanted.db, "deaf:1"))
        .await;
    admin.create("Job", job("sum", "job:1", 6, false)).await;
    admin.create("Job", job("parts", "job:1", 5, true)).await;
    let mut bad = job("bad", "bad:1", 1, false);
    bad["spec"]["backoffLimit"] = json!(2);
    admin.create("Job", bad).await;
    // It goes with its owner, and not before.
    if let Some(owner) = admin.get("Deployment", "web").await {
        let uid = owner.metadata.uid.unwrap_or_default();
        let owned = json!({
            "metadata": { "name": "owned", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid,
            }] },
        });
        admin.create("ConfigMap", owned).await;
    }
    wanted
}

/// One thing happens.
async fn happen(cluster: &Cluster, admin: &Admin, wanted: &mut Replicas) -> Result<(), Failed> {
    let mut random: Random = cluster.random().clone();
    let nodes = cluster.nodes();
    let node = &nodes[random.random_range(0..nodes.len())];
    match random.random_range(0..20) {
        0 | 1 => node.set_cut(true),
        2..=4 => node.set_cut(false),
        5 => {
            // More than one machine at a time has no power, but not all.
            let dark = nodes.iter().filter(|n| !n.has_power()).count();
            if dark + 2 < nodes.len() {
                node.power_off();
            }
        }
        6 | 7 => node.power_on()?,
        8 | 9 => node.restart_kubelet()?,
        10 => {
            let living = cluster.living_servers();
            if living.len() > 1 {
                cluster.kill_server(living[random.random_range(0..living.len())]);
            }
        }
        11 => heal_servers(cluster).await?,
        12 => {
            wanted.web = random.random_range(0..8);
            let patch = json!({ "spec": { "replicas": wanted.web } });
            admin.patch("Deployment", "web", &patch).await;
        }
        13 => {
            wanted.db = random.random_range(0..5);
            let patch = json!({ "spec": { "replicas": wanted.db } });
            admin.patch("StatefulSet", "db", &patch).await;
        }
        14 => {
            let (what, name) =
                [("Deployment", "web"), ("StatefulSet", "db")][random.random_range(0..2)];
            let stamp = random.number().to_string();
            let patch = json!({ "spec": { "template": { "metadata": { "annotations": {
                "stamp": stamp } } } } });
            admin.patch(what, name, &patch).await;
        }
        // Somebody empties a node.
        17..=19 => {
            let pods = admin.pods().await;
            let of_web = pods.iter().filter_map(|p| {
                let name = p.metadata.name.clone()?;
                name.starts_with("web-").then_some(name)
            });
            let names: Vec<String> = of_web.collect();
            for name in names.iter().take(1 + random.random_range(0..3)) {
                admin.evict(name).await;
            }
        }
        15 => {
            let pods = admin.pods().await;
            if !pods.is_empty() {
                let pod = &pods[random.random_range(0..pods.len())];
                let name = pod.metadata.name.clone().unwrap_or_default();
                admin.delete("Pod", &name, &DeleteParams::default()).await;
            }
        }
        _ => {
            let patch = json!({ "data": { "a": random.number().to_string() } });
            admin.patch("ConfigMap", "settings", &patch).await;
        }
    }
    Ok(())
}

async fn heal_servers(cluster: &Cluster) -> Result<(), Failed> {
    let living = cluster.living_servers();
    for number in 0..2 {
        if !living.contains(&number) {
            cluster.start_server(number).await?;
        }
    }
    Ok(())
}

/// What is not as it is wanted.
async fn lacking(cluster: &Cluster, admin: &Admin, wanted: &Replicas) -> Vec<String> {
    let mut out = Vec::new();
    let mut note = |is_so: bool, what: String| {
        if !is_so {
            out.push(what);
        }
    };
    for (what, name, replicas) in [
        ("Deployment", "web", wanted.web),
        ("StatefulSet", "db", wanted.db),
    ] {
        let found = admin.get(what, name).await;
        let generation = found
            .as_ref()
            .and_then(|o| o.metadata.generation)
            .unwrap_or(0);
        let observed = number(found.as_ref(), "/status/observedGeneration");
        note(
            u64::try_from(generation) == Ok(observed),
            format!("{name} is not observed"),
        );
        for count in [
            "replicas",
            "readyReplicas",
            "updatedReplicas",
            "availableReplicas",
        ] {
            let is = number(found.as_ref(), &format!("/status/{count}"));
            note(
                is == replicas,
                format!("{name}: {count} is {is} of {replicas}"),
            );
        }
    }
    for (name, condition, succeeded) in [
        ("sum", "Complete", 6),
        ("parts", "Complete", 5),
        ("bad", "Failed", 0),
    ] {
        let found = admin.get("Job", name).await;
        let counted = number(found.as_ref(), "/status/succeeded");
        note(
            has_condition(found.as_ref(), condition),
            format!("{name} is not {condition}"),
        );
        note(
            counted == succeeded,
            format!("{name}: {counted} of {succeeded} succeeded"),
        );
    }
    // What runs in truth is what the API shows.
    let pods = admin.pods().await;
    let mut should: BTreeMap<String, String> = BTreeMap::new();
    for pod in &pods {
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone());
        if phase.as_deref() == Some("Running") {
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
            let name = pod.metadata.name.clone().unwrap_or_default();
            should.insert(name, node.unwrap_or_default());
        }
    }
    let mut is: BTreeMap<String, String> = BTreeMap::new();
    for node in cluster.nodes() {
        for one in node.running() {
            is.insert(one.pod.name, node.name().to_owned());
        }
    }
    note(should == is, format!("{is:?} run, {should:?} should"));
    out
}

async fn left(cluster: &Cluster, admin: &Admin) -> Vec<String> {
    let mut out = Vec::new();
    for what in ["Pod", "ReplicaSet", "Job", "StatefulSet", "Deployment"] {
        for one in admin.list(what).await {
            out.push(format!("{what} {}", one.metadata.name.unwrap_or_default()));
        }
    }
    if admin.get("ConfigMap", "owned").await.is_some() {
        out.push("what a Deployment owned".to_owned());
    }
    for node in cluster.nodes() {
        out.extend(
            node.running()
                .iter()
                .map(|r| format!("{} runs", r.pod.name)),
        );
        out.extend(node.folders().iter().map(|f| format!("the folder of {f}")));
    }
    out
}

pub async fn story(cluster: &Cluster) -> Result<(), Failed> {
    let admin = Admin {
        client: cluster.admin().clone(),
    };
    let mut wanted = begin(&admin).await;
    let mut random = cluster.random().clone();
    for _ in 0..30 {
        let pause = random.random_range(100..30_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        happen(cluster, &admin, &mut wanted).await?;
    }
    cluster.calm();
    heal_servers(cluster).await?;
    for node in cluster.nodes() {
        node.set_cut(false);
        node.power_on()?;
    }
    settle("as wanted", MOST, || lacking(cluster, &admin, &wanted)).await?;
    let background = DeleteParams::background();
    for (what, name) in [
        ("Deployment", "web"),
        ("StatefulSet", "db"),
        ("Job", "sum"),
        ("Job", "parts"),
        ("Job", "bad"),
    ] {
        admin.delete(what, name, &background).await;
    }
    settle("nothing is left", MOST, || left(cluster, &admin)).await
}
