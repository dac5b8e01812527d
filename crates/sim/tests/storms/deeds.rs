//! What may happen in a small storm at any time: to nodes, to servers, and what people do.

use std::time::Duration;

use clock::Random;
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use kube::core::DynamicObject;
use kube::{Api, ResourceExt};
use rand::RngExt;
use serde_json::{Value, json};
use sim::{Cluster, Failed, SimNode};

use crate::common::{Admin, kind, patiently};
use crate::drawn::{Storm, Work};

/// A storm under way.
pub struct Story<'a> {
    pub cluster: &'a Cluster,
    pub admin: Admin,
    pub storm: Storm,
    pub random: Random,
}

/// A dead part is looked for so often by those who watch over servers.
const WARD: Duration = Duration::from_secs(3);
const TAINT: &str = "storm";

/// Starts a server when none lives: else nobody could do anything.
pub async fn ward(cluster: &Cluster) -> Failed {
    loop {
        tokio::time::sleep(WARD).await;
        if cluster.living_servers().is_empty()
            && let Err(e) = cluster.start_server(0).await
        {
            return e;
        }
    }
}

impl Story<'_> {
    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn some_work(&mut self, is: impl Fn(&Work) -> bool) -> Option<&mut Work> {
        let count = self.storm.works.values().filter(|w| is(w)).count();
        if count == 0 {
            return None;
        }
        let at = self.below(count);
        self.storm.works.values_mut().filter(|w| is(w)).nth(at)
    }

    fn some_node(&mut self) -> &SimNode {
        let at = self.below(self.cluster.nodes().len());
        &self.cluster.nodes()[at]
    }

    /// One thing happens.
    pub async fn happen(&mut self) -> Result<(), Failed> {
        match self.below(30) {
            0 | 1 => self.some_node().set_cut(true),
            2 | 3 => self.some_node().set_cut(false),
            4 | 5 => self.switch_off().await,
            6 => self.some_node().power_on()?,
            7 => self.some_node().restart_kubelet()?,
            8 => {
                let requests = self.random.random_range(1..40);
                self.some_node().die_at_request(requests);
            }
            9 => self.some_node().heal()?,
            10 => self.bounce_a_server().await?,
            11 | 12 => {
                let living = self.cluster.living_servers();
                let writes = self.random.random_range(1..60);
                if let Some(server) = living.first() {
                    self.cluster.die_at_write(*server, writes);
                }
            }
            13 | 14 => self.scale().await,
            15..=17 => self.roll().await,
            18 => self.suspend().await,
            19 => self.change_parallelism().await,
            20 => self.delete_a_pod().await,
            21..=23 => self.evict().await,
            24 => self.close_or_open_a_node().await,
            25 => {
                let name = self.some_node().name().to_owned();
                taint(&self.admin, &name, true).await;
            }
            26 => {
                let name = self.some_node().name().to_owned();
                taint(&self.admin, &name, false).await;
            }
            27 | 28 => self.delete_a_workload().await,
            _ => {
                let patch = json!({ "data": { "a": self.random.number().to_string() } });
                self.admin.patch("ConfigMap", "settings", &patch).await;
            }
        }
        Ok(())
    }

    /// A machine loses its power; sometimes its object is deleted, too. One keeps it.
    async fn switch_off(&mut self) {
        let nodes = self.cluster.nodes();
        let dark = nodes.iter().filter(|n| !n.has_power()).count();
        if dark + 1 >= nodes.len() {
            return;
        }
        let gone = self.below(3) == 0;
        let node = self.some_node();
        node.power_off();
        let name = node.name().to_owned();
        if gone {
            self.admin
                .delete("Node", &name, &DeleteParams::default())
                .await;
        }
    }

    async fn bounce_a_server(&mut self) -> Result<(), Failed> {
        let at = self.below(self.storm.plan.servers);
        if self.cluster.living_servers().contains(&at) {
            self.cluster.kill_server(at);
        } else {
            self.cluster.start_server(at).await?;
        }
        Ok(())
    }

    async fn scale(&mut self) {
        let number = self.random.number();
        let Some(work) = self.some_work(Work::is_replicated) else {
            return;
        };
        let replicas = json!(number % (work.most + 1));
        work.object["spec"]["replicas"] = replicas.clone();
        let (kind, name) = (work.kind, work.name.clone());
        let patch = json!({ "spec": { "replicas": replicas } });
        self.admin.patch(kind, &name, &patch).await;
    }

    async fn roll(&mut self) {
        let stamp = json!({ "stamp": self.random.number().to_string() });
        let has_template = |w: &Work| !matches!(w.kind, "Job" | "CronJob");
        let Some(work) = self.some_work(has_template) else {
            return;
        };
        work.object["spec"]["template"]["metadata"]["annotations"] = stamp.clone();
        let (kind, name) = (work.kind, work.name.clone());
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": stamp } } } });
        self.admin.patch(kind, &name, &patch).await;
    }

    /// A Job, or a CronJob, pauses or goes on.
    async fn suspend(&mut self) {
        let Some(work) = self.some_work(|w| matches!(w.kind, "Job" | "CronJob")) else {
            return;
        };
        let suspended = json!(work.object["spec"]["suspend"] != true);
        work.object["spec"]["suspend"] = suspended.clone();
        let (kind, name) = (work.kind, work.name.clone());
        let patch = json!({ "spec": { "suspend": suspended } });
        self.admin.patch(kind, &name, &patch).await;
    }

    async fn change_parallelism(&mut self) {
        let parallelism = json!(self.random.random_range(0..4_u64));
        let Some(work) = self.some_work(|w| w.kind == "Job") else {
            return;
        };
        work.object["spec"]["parallelism"] = parallelism.clone();
        let name = work.name.clone();
        let patch = json!({ "spec": { "parallelism": parallelism } });
        self.admin.patch("Job", &name, &patch).await;
    }

    async fn some_pod(&mut self) -> Option<String> {
        let pods = self.admin.pods().await;
        if pods.is_empty() {
            return None;
        }
        let at = self.below(pods.len());
        Some(pods[at].name_any())
    }

    async fn delete_a_pod(&mut self) {
        if let Some(name) = self.some_pod().await {
            self.admin
                .delete("Pod", &name, &DeleteParams::default())
                .await;
        }
    }

    /// Somebody asks for pods to go, one after the other.
    async fn evict(&mut self) {
        for _ in 0..self.random.random_range(1..5) {
            if let Some(name) = self.some_pod().await {
                self.admin.evict(&name).await;
            }
        }
    }

    async fn close_or_open_a_node(&mut self) {
        let closed = self.below(2) == 0;
        let name = self.some_node().name().to_owned();
        let patch = json!({ "spec": { "unschedulable": closed } });
        self.admin.patch("Node", &name, &patch).await;
    }

    /// A workload goes, in one of the ways in which it may, and is made again, perhaps while what
    /// it owned is still there.
    async fn delete_a_workload(&mut self) {
        let number = self.random.number();
        let Some(work) = self.some_work(|_| true) else {
            return;
        };
        // What a Job leaves nobody takes over.
        let ways = if matches!(work.kind, "Job" | "CronJob") {
            2
        } else {
            3
        };
        let params = match number % ways {
            0 => DeleteParams::background(),
            1 => DeleteParams::foreground(),
            _ => DeleteParams {
                propagation_policy: Some(PropagationPolicy::Orphan),
                ..DeleteParams::default()
            },
        };
        let (kind, name) = (work.kind, work.name.clone());
        self.admin.delete(kind, &name, &params).await;
        let pause = self.random.random_range(1..5_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        self.make(&name).await;
    }

    /// Makes a workload, as it is wanted now, unless there is one.
    pub async fn make(&self, name: &str) {
        if let Some(work) = self.storm.works.get(name) {
            self.admin.create(work.kind, work.object.clone()).await;
        }
    }

    /// The end of all trouble: what people stopped goes on, and CronJobs rest.
    pub async fn calm_down(&mut self) -> Result<(), Failed> {
        mend(self.cluster, self.storm.plan.servers, &self.admin).await?;
        for work in self.storm.works.values_mut() {
            let spec = match work.kind {
                "Job" => json!({ "suspend": false, "parallelism": 2 }),
                "CronJob" => json!({ "suspend": true }),
                _ => continue,
            };
            for (field, value) in spec.as_object().into_iter().flatten() {
                work.object["spec"][field.as_str()] = value.clone();
            }
            let patch = json!({ "spec": spec });
            self.admin.patch(work.kind, &work.name, &patch).await;
        }
        Ok(())
    }
}

/// Nothing fails any more; servers, nodes and kubelets live, and nodes are open to all pods.
pub async fn mend(cluster: &Cluster, servers: usize, admin: &Admin) -> Result<(), Failed> {
    cluster.calm();
    let living = cluster.living_servers();
    for number in (0..servers).filter(|n| !living.contains(n)) {
        cluster.start_server(number).await?;
    }
    for number in 0..servers {
        cluster.die_at_write(number, 0);
    }
    for node in cluster.nodes() {
        node.die_at_request(0);
        node.heal()?;
    }
    for node in cluster.nodes() {
        let open = json!({ "spec": { "unschedulable": false } });
        admin.patch("Node", node.name(), &open).await;
        taint(admin, node.name(), false).await;
    }
    Ok(())
}

/// A node gets a taint that pods do not bear, or loses it.
async fn taint(admin: &Admin, node: &str, has: bool) {
    let api: Api<DynamicObject> = Api::all_with(admin.client.clone(), &kind("", "v1", "Node"));
    patiently(|| async {
        let Some(found) = api.get_opt(node).await? else {
            return Ok(());
        };
        let taints = found.data["spec"]["taints"].as_array().cloned();
        let mut taints: Vec<Value> = taints.unwrap_or_default();
        let before = taints.len();
        taints.retain(|t| t["key"] != TAINT);
        if has {
            taints.push(json!({ "key": TAINT, "effect": "NoExecute" }));
        }
        if taints.len() == before {
            return Ok(());
        }
        // With its version, so that nobody's taints are lost.
        let version = found.metadata.resource_version;
        let patch = json!({ "metadata": { "resourceVersion": version },
            "spec": { "taints": taints } });
        let params = PatchParams::default();
        api.patch(node, &params, &Patch::Merge(&patch))
            .await
            .map(drop)
    })
    .await;
}
