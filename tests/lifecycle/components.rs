//! Components as processes of their own against an API server alone, as upstream's would be.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::command::{Ran, Running, eventually, run, words};
use tests::slot::Slot;
use tests::{Cluster, Context};

/// A control plane whose parts are started one by one.
struct Parts {
    server: Running,
    dir: tempfile::TempDir,
    slot: Slot,
}

impl Parts {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let (slot, dir) = (Slot::take()?, tempfile::tempdir()?);
        let mut server = cluster.tiphys(&["apiserver", "--bind-address=127.0.0.1"]);
        server.args(arguments);
        server
            .arg("--advertise-address=127.0.0.1")
            .args(ranges(&slot));
        server.arg(format!("--data-dir={}", dir.path().display()));
        server.arg(format!("--port={}", slot.port()));
        let server = Running::start(server)?;
        server.line(|l| l.contains("serving at"))?;
        Ok(Self { server, dir, slot })
    }
    fn kubectl(&self, line: &str, stdin: &str) -> Result<Ran> {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(words(line)).env("HOME", self.dir.path());
        kubectl.env("KUBECONFIG", self.dir.path().join("admin.kubeconfig"));
        run(kubectl, stdin)
    }
    fn component(&self, cluster: &Cluster, name: &str) -> Result<Running> {
        let mut component = cluster.tiphys(&[name]);
        let file = self.dir.path().join(format!("{name}.kubeconfig"));
        component.arg("--kubeconfig").arg(file);
        if name == "controller-manager" {
            component.args(ranges(&self.slot));
        }
        Running::start(component)
    }
}

fn ranges(slot: &Slot) -> [String; 2] {
    [
        format!("--service-cidr={}", slot.service_cidr()),
        format!("--pod-cidr={}", slot.pod_cidr()),
    ]
}

pub fn the_controllers_run_alone(cx: &Context) -> Result<()> {
    let parts = Parts::start(cx.cluster, &[])?;
    parts
        .kubectl("create deployment web --image=i:1 --replicas=2", "")?
        .ok()?;
    let sets = parts.kubectl("get rs -o name", "")?.ok()?;
    ensure!(sets.is_empty(), "an API server has no controllers: {sets}");
    let controllers = parts.component(cx.cluster, "controller-manager")?;
    eventually("the pods are made, or it ends", || {
        let pods = parts.kubectl("get pods -o name", "")?.ok()?;
        ensure!(
            pods.lines().count() == 2 || !controllers.is_running(),
            "{pods}"
        );
        Ok(())
    })?;
    ensure!(controllers.is_running(), "it ended: {}", controllers.text());
    parts
        .kubectl("get lease kube-controller-manager -n kube-system", "")?
        .ok()?;
    ensure!(parts.server.is_running(), "{}", parts.server.text());
    Ok(())
}

pub fn the_scheduler_runs_alone(cx: &Context) -> Result<()> {
    let parts = Parts::start(cx.cluster, &[])?;
    let room = json!({ "cpu": "1", "memory": "1Gi", "pods": "10" });
    let status = json!({ "status": {
        "capacity": room, "allocatable": room, "conditions": [{ "type": "Ready", "status": "True" }],
    } });
    for object in [
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "paper" } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } }),
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": {
            "automountServiceAccountToken": false, "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "c", "image": "i" }],
        } }),
    ] {
        parts.kubectl("apply -f -", &object.to_string())?.ok()?;
    }
    let patch = format!("patch node paper --subresource=status --type=merge -p '{status}'");
    parts.kubectl(&patch, "")?.ok()?;
    let node = || {
        parts
            .kubectl("get pod p -o 'jsonpath={.spec.nodeName}'", "")?
            .ok()
    };
    ensure!(node()?.is_empty(), "an API server has no scheduler");
    let scheduler = parts.component(cx.cluster, "scheduler")?;
    eventually("the pod has a node, or the scheduler ends", || {
        ensure!(node()? == "paper" || !scheduler.is_running(), "none");
        Ok(())
    })?;
    ensure!(scheduler.is_running(), "it ended: {}", scheduler.text());
    Ok(())
}

/// Each line of the log is an object, and how much is logged is changed while it runs.
pub fn logs_are_for_programs_and_their_level_changes(cx: &Context) -> Result<()> {
    let parts = Parts::start(cx.cluster, &["--logging-format=json", "--log=info"])?;
    let of_level = |level: &str| {
        let text = parts.server.text();
        let read = text.lines().filter_map(|l| serde_json::from_str(l).ok());
        read.filter(|line: &Value| line["level"] == level).count()
    };
    let text = parts.server.text();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let has = |field: &str| line[field].is_string();
        ensure!(has("timestamp") && has("level") && has("target"), "{line}");
        ensure!(line["fields"]["message"].is_string(), "{line}");
    }
    ensure!(of_level("INFO") > 0 && of_level("DEBUG") == 0, "{text}");
    let set = |level: &str| {
        parts
            .kubectl("replace --raw /debug/flags/v -f -", level)?
            .ok()
    };
    set("debug")?;
    eventually("more is logged", || {
        parts.kubectl("get namespaces", "")?.ok()?;
        ensure!(of_level("DEBUG") > 0, "nothing");
        Ok(())
    })?;
    let refused = parts.kubectl("replace --raw /debug/flags/v -f -", "=[");
    refused?.failed().map(drop)
}
