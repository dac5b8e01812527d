//! Storms over more kinds of things: pods that take the place of less important ones, volumes that
//! claims get, devices that claims get, an autoscaler, a namespace that goes with all that is in it. The
//! nodes are too small for all: what is least important waits.

use std::collections::BTreeSet;
use std::time::Duration;

use clock::Random;
use kube::ResourceExt;
use kube::api::DeleteParams;
use kube::core::DynamicObject;
use rand::RngExt;
use serde_json::{Value, json};
use sim::{Cluster, Failed, Faults, Plan, SimNode, Size, Times};

use crate::common::{Admin, has_code, number, patiently, settle, workload};
use crate::deeds::{mend, ward};
use crate::gangs::Parts;

/// Longest that it may take, in virtual time, until all is as wanted once all is whole.
const MOST: Duration = Duration::from_secs(1_500);
/// Longest that all of it may take.
const LONGEST: Duration = Duration::from_secs(3 * 3_600);
const NODES: u8 = 3;
/// Processors of a node.
const CPUS: u32 = 4;
/// Devices, and volumes, that there are.
const DEVICES: u64 = 4;
const VOLUMES: u64 = 4;
/// The namespace that goes.
const TEAM: &str = "team";
/// What the autoscaler may choose from.
const LEAST: u64 = 2;
const GREATEST: u64 = 4;

pub fn plan(seed: u64) -> Plan {
    // Another source than the cluster's own, which begins with the same seed.
    let mut draw = Random::seeded(seed).fork();
    let retry = Duration::from_secs(draw.random_range(1..4));
    let failing = [0.0, 0.005, 0.02][draw.random_range(0..3_usize)];
    Plan {
        seed,
        servers: draw.random_range(1..3),
        nodes: NODES,
        size: Size {
            cpus: CPUS,
            pods: 30,
        },
        faults: Faults {
            write_micros: 4_000,
            failing,
            runtime_micros: 200_000,
        },
        elections: Times::new(retry * 6, retry * 4, retry).expect("times that go together"),
        heartbeat: sim::HEARTBEAT,
        begun: true,
        folder: Default::default(),
    }
}

/// What is wanted, as far as it changes.
struct Wanted {
    vip: u64,
    filler: u64,
    shelved: u64,
    gpu: u64,
}

struct Story<'a> {
    cluster: &'a Cluster,
    servers: usize,
    admin: Admin,
    random: Random,
    wanted: Wanted,
    parts: Option<Parts>,
}

pub async fn story(cluster: &Cluster, servers: usize, parts: Option<Parts>) -> Result<(), Failed> {
    tokio::select! {
        biased;
        failed = ward(cluster) => Err(failed),
        done = course(cluster, servers, parts) => done,
        () = tokio::time::sleep(LONGEST) => Err(Failed(format!("no end after {LONGEST:?}"))),
    }
}

async fn course(cluster: &Cluster, servers: usize, parts: Option<Parts>) -> Result<(), Failed> {
    let mut story = Story {
        cluster,
        servers,
        admin: Admin {
            client: cluster.admin().clone(),
        },
        random: cluster.random().clone(),
        wanted: Wanted {
            vip: 2,
            filler: 14,
            shelved: 2,
            gpu: 6,
        },
        parts,
    };
    story.begin().await;
    for _ in 0..12 {
        let pause = story.random.random_range(500..20_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        story.happen().await?;
    }
    mend(cluster, story.servers, &story.admin).await?;
    story.end_of_team().await;
    settle("as wanted", MOST, || story.lacking()).await?;
    story.end().await;
    settle("nothing is left", MOST, || story.left()).await
}

/// A workload whose pods ask for so much, of a class of priority.
fn of_class(name: &str, replicas: u64, class: &str, millis: u64) -> Value {
    let mut made = workload(name, replicas, "web:1");
    let spec = &mut made["spec"]["template"]["spec"];
    spec["priorityClassName"] = json!(class);
    spec["terminationGracePeriodSeconds"] = json!(3);
    spec["containers"][0]["resources"]["requests"]["cpu"] = json!(format!("{millis}m"));
    made
}

/// The same, as a Deployment.
pub fn deployment(name: &str, replicas: u64, class: &str, millis: u64) -> Value {
    let mut made = of_class(name, replicas, class, millis);
    if let Some(spec) = made["spec"].as_object_mut() {
        spec.remove("serviceName");
    }
    made
}

fn volume(nth: u64) -> Value {
    json!({ "metadata": { "name": format!("shelf-{nth}") }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "shelf", "persistentVolumeReclaimPolicy": "Retain",
        // What every machine has; nothing is written there.
        "hostPath": { "path": "/", "type": "Directory" } } })
}

impl Story<'_> {
    async fn begin(&self) {
        let admin = &self.admin;
        for (name, value) in [("low", 1), ("middle", 500), ("urgent", 1_000)] {
            let class = json!({ "metadata": { "name": name }, "value": value });
            admin.create("PriorityClass", class).await;
        }
        let settings = json!({ "metadata": { "name": "settings" }, "data": { "a": "1" } });
        admin.create("ConfigMap", settings.clone()).await;
        self.volumes().await;
        self.devices().await;
        let wanted = &self.wanted;
        for (name, replicas, class, millis) in [
            ("filler", wanted.filler, "low", 1_000),
            ("auto", 1, "middle", 50),
            ("vip", wanted.vip, "urgent", 1_500),
        ] {
            let made = deployment(name, replicas, class, millis);
            admin.create("Deployment", made).await;
        }
        let scaler = json!({ "metadata": { "name": "auto" }, "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "auto" },
            "minReplicas": LEAST, "maxReplicas": GREATEST } });
        admin.create("HorizontalPodAutoscaler", scaler).await;
        let team = json!({ "metadata": { "name": TEAM } });
        admin.create("Namespace", team).await;
        let inside = deployment("inside", 2, "middle", 50);
        for (kind, object) in [("ConfigMap", settings), ("Deployment", inside)] {
            admin.create_within(TEAM, kind, object).await;
        }
        if let Some(parts) = &self.parts {
            parts.begin(self.cluster, admin).await;
        }
    }

    /// Volumes for some claims, and a workload with claims.
    async fn volumes(&self) {
        let class = json!({ "metadata": { "name": "shelf" },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer" });
        self.admin.create("StorageClass", class).await;
        for nth in 0..VOLUMES {
            self.admin.create("PersistentVolume", volume(nth)).await;
        }
        let mut set = of_class("shelved", self.wanted.shelved, "middle", 100);
        let spec = &mut set["spec"];
        spec["persistentVolumeClaimRetentionPolicy"] =
            json!({ "whenDeleted": "Delete", "whenScaled": "Retain" });
        spec["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" }, "spec": {
            "storageClassName": "shelf", "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } } }]);
        spec["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "data", "mountPath": "/data" }]);
        self.admin.create("StatefulSet", set).await;
    }

    /// Devices that any node reaches, fewer than are wanted. No driver prepares them: their pods get
    /// nodes and wait there.
    async fn devices(&self) {
        let class = json!({ "metadata": { "name": "gpus" }, "spec": {} });
        self.admin.create("DeviceClass", class).await;
        let devices = (0..DEVICES).map(|nth| json!({ "name": format!("gpu-{nth}") }));
        let slice = json!({ "metadata": { "name": "gpus" }, "spec": {
            "driver": "gpu.example.com", "allNodes": true,
            "pool": { "name": "all", "generation": 1, "resourceSliceCount": 1 },
            "devices": devices.collect::<Vec<_>>() } });
        self.admin.create("ResourceSlice", slice).await;
        let template = json!({ "metadata": { "name": "gpu" }, "spec": { "spec": { "devices": {
            "requests": [{ "name": "gpu", "exactly": { "deviceClassName": "gpus" } }] } } } });
        self.admin.create("ResourceClaimTemplate", template).await;
        let mut gpu = deployment("gpu", self.wanted.gpu, "middle", 50);
        let spec = &mut gpu["spec"]["template"]["spec"];
        spec["resourceClaims"] = json!([{ "name": "gpu", "resourceClaimTemplateName": "gpu" }]);
        spec["containers"][0]["resources"]["claims"] = json!([{ "name": "gpu" }]);
        self.admin.create("Deployment", gpu).await;
    }

    fn some_node(&mut self) -> &SimNode {
        let at = self.random.random_range(0..self.cluster.nodes().len());
        &self.cluster.nodes()[at]
    }

    async fn happen(&mut self) -> Result<(), Failed> {
        match self.random.random_range(0..16) {
            0 | 1 => self.some_node().set_cut(true),
            2 | 3 => self.some_node().set_cut(false),
            4 => self.some_node().restart_kubelet()?,
            5 => {
                let requests = self.random.random_range(1..40);
                self.some_node().die_at_request(requests);
            }
            6 => self.some_node().heal()?,
            7 | 8 => {
                let writes = self.random.random_range(1..60);
                if let Some(server) = self.cluster.living_servers().first() {
                    self.cluster.die_at_write(*server, writes);
                }
            }
            9 => {
                let at = self.random.random_range(0..self.servers);
                if self.cluster.living_servers().contains(&at) {
                    self.cluster.kill_server(at);
                } else {
                    self.cluster.start_server(at).await?;
                }
            }
            10 => {
                self.wanted.vip = self.random.random_range(0..3);
                self.scale("Deployment", "vip", self.wanted.vip).await;
            }
            11 => {
                self.wanted.filler = self.random.random_range(2..16);
                self.scale("Deployment", "filler", self.wanted.filler).await;
            }
            12 => {
                self.wanted.shelved = self.random.random_range(0..VOLUMES);
                self.scale("StatefulSet", "shelved", self.wanted.shelved)
                    .await;
            }
            13 => {
                self.wanted.gpu = self.random.random_range(1..7);
                self.scale("Deployment", "gpu", self.wanted.gpu).await;
            }
            14 => {
                // The autoscaler has its own opinion.
                let replicas = self.random.random_range(1..8);
                self.scale("Deployment", "auto", replicas).await;
            }
            _ => self.end_of_team().await,
        }
        Ok(())
    }

    async fn scale(&self, kind: &str, name: &str, replicas: u64) {
        let patch = json!({ "spec": { "replicas": replicas } });
        self.admin.patch(kind, name, &patch).await;
    }

    async fn end_of_team(&self) {
        let now = DeleteParams::default();
        let api = self.admin.within("", "Namespace");
        patiently(|| async {
            match api.delete(TEAM, &now).await {
                // It goes already, or has gone.
                Err(e) if has_code(&e, 404) || has_code(&e, 409) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
    }

    async fn lacking(&self) -> Vec<String> {
        let (admin, mut out) = (&self.admin, Vec::new());
        let mut unless = |is_so: bool, what: String| {
            if !is_so {
                out.push(what);
            }
        };
        let found = admin.get("Namespace", TEAM).await;
        unless(found.is_none(), format!("{TEAM} is still there"));
        for (kind, name, wanted) in [
            ("Deployment", "vip", self.wanted.vip),
            ("StatefulSet", "shelved", self.wanted.shelved),
        ] {
            let found = admin.get(kind, name).await;
            for field in ["replicas", "availableReplicas"] {
                let is = number(found.as_ref(), &format!("/status/{field}"));
                unless(is == wanted, format!("{name}: {field} is {is} of {wanted}"));
            }
        }
        let auto = admin.get("Deployment", "auto").await;
        let wanted = number(auto.as_ref(), "/spec/replicas");
        let is = number(auto.as_ref(), "/status/availableReplicas");
        let chosen = (LEAST..=GREATEST).contains(&wanted);
        unless(chosen && is == wanted, format!("auto has {is} of {wanted}"));
        let pods = admin.pods().await;
        let placed = |app: &str| {
            let of = pods
                .iter()
                .filter(|p| p.labels().get("app").is_some_and(|a| a == app));
            let on = of.filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
            u64::try_from(on.count()).unwrap_or(u64::MAX)
        };
        let (is, wanted) = (placed("gpu"), self.wanted.gpu.min(DEVICES));
        unless(
            is == wanted,
            format!("{is} pods with devices have nodes, of {wanted}"),
        );
        // Whole processors, of which the others leave some on each node.
        let least = self.wanted.filler.min(3);
        let is = placed("filler");
        unless(is >= least, format!("{is} pods that fill have nodes"));
        let claims = admin.list("PersistentVolumeClaim").await;
        let volumes: BTreeSet<&str> = claims.iter().filter_map(bound_to).collect();
        let most = usize::try_from(self.wanted.shelved).unwrap_or(usize::MAX);
        unless(
            volumes.len() >= most,
            format!("{volumes:?} are bound, {most} are used"),
        );
        if let Some(parts) = &self.parts {
            out.extend(parts.lacking(self.cluster, &pods));
        }
        out
    }

    async fn end(&self) {
        if let Some(parts) = &self.parts {
            parts.end(&self.admin).await;
        }
        let params = DeleteParams::background();
        self.admin
            .delete("HorizontalPodAutoscaler", "auto", &params)
            .await;
        for name in ["filler", "auto", "vip", "gpu"] {
            self.admin.delete("Deployment", name, &params).await;
        }
        self.admin.delete("StatefulSet", "shelved", &params).await;
    }

    async fn left(&self) -> Vec<String> {
        let mut out = Vec::new();
        for kind in [
            "Pod",
            "ReplicaSet",
            "ControllerRevision",
            "PersistentVolumeClaim",
            "ResourceClaim",
        ] {
            let all = self.admin.list(kind).await;
            out.extend(all.iter().map(|one| format!("{kind} {}", one.name_any())));
        }
        let volumes = self.admin.list("PersistentVolume").await;
        let bound = volumes
            .iter()
            .filter(|v| v.data["status"]["phase"] == "Bound");
        out.extend(bound.map(|v| format!("{} is bound", v.name_any())));
        for node in self.cluster.nodes() {
            let running = node.running();
            out.extend(running.iter().map(|one| format!("{} runs", one.pod.name)));
        }
        out
    }
}

/// The volume of a claim that is bound.
fn bound_to(claim: &DynamicObject) -> Option<&str> {
    let phase = &claim.data["status"]["phase"];
    claim.data["spec"]["volumeName"]
        .as_str()
        .filter(|_| *phase == "Bound")
}
