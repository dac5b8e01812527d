//! Minutes in the life of a cluster, in virtual time, from one seed: a Deployment is made, scaled
//! and rolled, a node falls silent and comes back, all is deleted. Twice the same, to the byte.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sim::{Cluster, Faults, Line, Plan, Size};

/// Longest that anything may take, in virtual time: pods leave a silent node after 40 s.
const MOST: Duration = Duration::from_secs(180);

/// How long the cluster is left alone in the end.
const QUIET: Duration = Duration::from_secs(60);

fn plan(seed: u64, failing: f64) -> Plan {
    Plan {
        seed,
        servers: 1,
        nodes: 5,
        size: Size { cpus: 4, pods: 20 },
        faults: Faults {
            write_micros: 4_000,
            failing,
            runtime_micros: 1_000_000,
        },
        elections: Default::default(),
        heartbeat: sim::HEARTBEAT,
        begun: false,
        folder: Default::default(),
    }
}

/// Runs a story to its end in a runtime of its own; gives its trace.
fn run(mut plan: Plan) -> Vec<Line> {
    let folder = tempfile::tempdir().expect("a folder");
    plan.folder = folder.path().to_owned();
    let runtime = sim::runtime().expect("runtime");
    runtime.block_on(async {
        let cluster = Cluster::start(&plan).await.expect("a cluster");
        let ended = story(&cluster).await;
        let story_end = cluster.trace().lines().len();
        tokio::time::sleep(QUIET).await;
        let trace = cluster.end();
        let broken = trace.broken();
        let lines = trace.lines();
        if ended.is_err() || !broken.is_empty() {
            for line in lines.iter().rev().take(200).rev() {
                println!("{line} {}", line.text());
            }
            // What is written too often is not at the end.
            for line in lines
                .iter()
                .filter(|l| broken.iter().any(|b| b.contains(&l.key)))
            {
                println!("broken: {line} {}", line.text());
            }
        }
        assert!(broken.is_empty(), "seed {}: {broken:#?}", plan.seed);
        is_quiet(lines.get(story_end..).unwrap_or_default());
        ended.unwrap_or_else(|e| panic!("seed {}: {e:?}", plan.seed));
        lines
    })
}

/// Nobody wants anything: what is written are heartbeats, and what the last deletions left.
fn is_quiet(lines: &[Line]) {
    let settled = lines.first().map_or(0, |l| l.millis) + 10_000;
    let heartbeat = |l: &&Line| {
        [
            "/registry/leases/",
            "/registry/masterleases/",
            "/registry/minions/",
        ]
        .iter()
        .any(|prefix| l.key.starts_with(prefix))
            || l.key.contains("/leases/")
    };
    let late = lines.iter().filter(|l| l.millis > settled);
    let other: Vec<String> = late
        .filter(|l| !heartbeat(l))
        .map(|l| l.to_string())
        .collect();
    if !other.is_empty() {
        for line in lines {
            println!("{line} {}", line.text());
        }
    }
    assert!(
        other.is_empty(),
        "written although nothing changed: {other:#?}"
    );
}

fn deployment(replicas: u32) -> Value {
    json!({
        "metadata": { "name": "web", "namespace": "default" },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "automountServiceAccountToken": false, "containers": [{
                    "name": "c", "image": "web:1",
                    "resources": { "requests": { "cpu": "500m", "memory": "64Mi" } },
                }] },
            },
        },
    })
}

/// Asks again until it works: with faults, a request may fail.
async fn patiently<T, F: Future<Output = kube::Result<T>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(done) => return done,
            Err(e) => {
                tracing::debug!("asked again: {e}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

struct Admin {
    deployments: Api<Deployment>,
    sets: Api<ReplicaSet>,
    pods: Api<Pod>,
    nodes: Api<Node>,
}

impl Admin {
    fn new(client: &Client) -> Self {
        Self {
            deployments: Api::default_namespaced(client.clone()),
            sets: Api::default_namespaced(client.clone()),
            pods: Api::default_namespaced(client.clone()),
            nodes: Api::all(client.clone()),
        }
    }

    async fn patch(&self, patch: Value) {
        let params = PatchParams::default();
        let change = Patch::Merge(&patch);
        patiently(|| self.deployments.patch("web", &params, &change)).await;
    }

    async fn pods(&self) -> Vec<Pod> {
        patiently(|| async { Ok(self.pods.list(&ListParams::default()).await?.items) }).await
    }

    /// All replicas are there, of the newest template, and available.
    async fn is_settled(&self, replicas: i32) -> bool {
        let Ok(found) = self.deployments.get("web").await else {
            return false;
        };
        let status = found.status.clone().unwrap_or_default();
        let counts = [
            status.replicas,
            status.updated_replicas,
            status.available_replicas,
        ];
        status.observed_generation == found.metadata.generation
            && counts.iter().all(|n| n.unwrap_or(0) == replicas)
    }

    async fn is_ready(&self, node: &str) -> bool {
        let Ok(node) = self.nodes.get(node).await else {
            return false;
        };
        let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        let ready = |c: &&k8s_openapi::api::core::v1::NodeCondition| c.type_ == "Ready";
        taints.is_empty()
            && conditions
                .iter()
                .find(ready)
                .is_some_and(|c| c.status == "True")
    }
}

fn is_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)
}

async fn story(cluster: &Cluster) -> Result<(), sim::Failed> {
    let admin = Admin::new(cluster.admin());
    for node in cluster.nodes() {
        cluster
            .until("a node is ready", MOST, || admin.is_ready(node.name()))
            .await?;
    }
    let made = serde_json::from_value(deployment(6)).expect("a deployment");
    patiently(|| async {
        match admin
            .deployments
            .create(&PostParams::default(), &made)
            .await
        {
            Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
            other => other.map(drop),
        }
    })
    .await;
    settled(cluster, &admin, "a deployment is made", 6).await?;

    admin.patch(json!({ "spec": { "replicas": 12 } })).await;
    settled(cluster, &admin, "it is scaled up", 12).await?;

    let image = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image",
        "value": "web:2" }]);
    let image: json_patch::Patch = serde_json::from_value(image).expect("a patch");
    let (change, params) = (Patch::<()>::Json(image), PatchParams::default());
    patiently(|| admin.deployments.patch("web", &params, &change)).await;
    settled(cluster, &admin, "it is rolled", 12).await?;

    // A node with pods loses its network.
    let pods = admin.pods().await;
    let has_pods = |n: &&sim::SimNode| pods.iter().any(|p| is_on(p, n.name()));
    let lost = cluster
        .nodes()
        .iter()
        .find(has_pods)
        .expect("a node with pods");
    lost.set_cut(true);
    cluster
        .until("its silence is noticed", MOST, || async {
            !admin.is_ready(lost.name()).await
        })
        .await?;
    cluster
        .until("its pods are replaced elsewhere", MOST, || async {
            let is_live = |p: &&Pod| p.metadata.deletion_timestamp.is_none();
            let pods = admin.pods().await;
            let live: Vec<&Pod> = pods.iter().filter(is_live).collect();
            live.len() == 12
                && live.iter().all(|p| !is_on(p, lost.name()))
                && admin.is_settled(12).await
        })
        .await?;
    lost.set_cut(false);
    cluster
        .until("it comes back", MOST, || admin.is_ready(lost.name()))
        .await?;
    cluster
        .until("what it still had is gone", MOST, || async {
            admin.pods().await.len() == 12
        })
        .await?;

    admin.patch(json!({ "spec": { "replicas": 3 } })).await;
    settled(cluster, &admin, "it is scaled down", 3).await?;
    let delete = DeleteParams::default();
    patiently(|| async {
        match admin.deployments.delete("web", &delete).await {
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
            other => other.map(drop),
        }
    })
    .await;
    cluster
        .until("all of it is gone", MOST, || async {
            let sets = admin.sets.list(&ListParams::default()).await;
            admin.pods().await.is_empty() && sets.is_ok_and(|s| s.items.is_empty())
        })
        .await?;
    Ok(())
}

async fn settled(
    cluster: &Cluster,
    admin: &Admin,
    what: &str,
    replicas: i32,
) -> Result<(), sim::Failed> {
    cluster
        .until(what, MOST, || async {
            let pods = admin.pods().await;
            i32::try_from(pods.len()).is_ok_and(|n| n >= replicas)
                && admin.is_settled(replicas).await
        })
        .await
}

/// Where two traces part, with what came before.
fn parting(one: &[Line], two: &[Line]) -> Option<String> {
    let same = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    if same == one.len() && same == two.len() {
        return None;
    }
    let around = |lines: &[Line]| -> String {
        let some = lines.iter().skip(same.saturating_sub(5)).take(10);
        some.map(|l| format!("  {l} {}\n", l.text())).collect()
    };
    Some(format!(
        "after {same} lines:\n{}\nand\n{}",
        around(one),
        around(two)
    ))
}

#[test]
fn one_seed_gives_one_trace() {
    let (first, again) = (run(plan(1, 0.0)), run(plan(1, 0.0)));
    if let Some(parting) = parting(&first, &again) {
        panic!("two runs of one seed part {parting}");
    }
    let other = run(plan(2, 0.0));
    assert!(
        parting(&first, &other).is_some(),
        "the seed decides nothing"
    );
    let last = first.last().expect("lines");
    assert!(last.millis > 60_000, "{last}: minutes of a cluster's life");
    println!(
        "{} revisions in {} virtual seconds",
        last.revision,
        last.millis / 1_000
    );
}

/// With writes that fail, or whose outcome is not known, all still comes to its end, no invariant
/// breaks, and the trace is one of the seed. `TIPHYS_SOAK=1` runs many seeds, `TIPHYS_SEED=n` one.
#[test]
fn faults_break_nothing() {
    let seeds = match (std::env::var("TIPHYS_SEED"), std::env::var("TIPHYS_SOAK")) {
        (Ok(seed), _) => {
            let seed = seed.parse().expect("TIPHYS_SEED is a number");
            seed..seed + 1
        }
        (_, Ok(_)) => 100..400,
        _ => 100..101,
    };
    for seed in seeds {
        let (first, again) = (run(plan(seed, 0.02)), run(plan(seed, 0.02)));
        if let Some(parting) = parting(&first, &again) {
            panic!("two runs of seed {seed} part {parting}");
        }
    }
}
