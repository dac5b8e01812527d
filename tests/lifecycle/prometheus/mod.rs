//! Prometheus, as Debian has it, reads every target of the configuration that `docs/prometheus.yml`
//! recommends; the queries of well-known dashboards and alert rules find their series; and its own reader
//! is content with each page. (Debian builds it without the discovery of Kubernetes: [`discovery`].)

mod discovery;
mod queries;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::Context;
use tests::command::{self, Running, eventually};
use tests::context::{STAY, pod};

use discovery::{Objects, ROLES};
use queries::{NOT_HERE, QUERIES};

const CONFIG: &str = include_str!("../../../docs/prometheus.yml");
/// Where it answers, within the node.
const ADDRESS: &str = "127.0.0.1:9090";
const NODE: &str = "node-1";

/// Families whose names and types are upstream's, of which promtool thinks that they should be others.
const UPSTREAMS_NAMES: &[&str] = &[
    "aggregator_",
    "apiserver_",
    "authenticated_",
    "authentication_",
    "coredns_",
    "serviceaccount_",
    "cadvisor_version_info",
    "container_",
    "attachdetach_controller_",
    "endpoint_slice_controller_",
    "endpoint_slice_mirroring_controller_",
    "node_ipam_controller_",
    "pv_collector_",
    "statefulset_controller_",
    "storage_count_",
    "kube_pod_resource_",
    "kubelet_",
    "kubeproxy_",
    "machine_",
    "node_collector_",
    "volume_manager_total_volumes",
    "running_managed_controllers",
    "workqueue_",
    "scheduler_",
    "rest_client_",
    "process_",
    "job_controller_",
    "prober_",
    "etcd_",
];

struct Prometheus<'a> {
    cx: &'a Context<'a>,
    _running: Running,
}

/// What discovery would see now.
fn objects(cx: &Context) -> Result<Objects> {
    let all = |what: &str| {
        let list = cx.json(&format!("get {what} --all-namespaces"))?;
        Ok::<_, anyhow::Error>(list["items"].as_array().context("no items")?.clone())
    };
    Ok(Objects {
        nodes: all("nodes")?,
        pods: all("pods")?,
        services: all("services")?,
        endpoints: all("endpoints")?,
        slices: all("endpointslices")?,
    })
}

/// The configuration as the document has it: only where the account's files are, how often is asked,
/// and how targets become known, is this test's; with the proxy's loopback page, as its head says.
/// A page must come before it is asked for again, which takes a loaded machine some seconds.
fn config(dir: &Path) -> Result<String> {
    let within = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut config = CONFIG
        .replace("scrape_interval: 30s", "scrape_interval: 5s")
        .replace(within, &dir.display().to_string());
    for role in ROLES {
        let by_api = format!("kubernetes_sd_configs: [{{role: {role}}}]");
        let file = dir.join(format!("{role}.json"));
        let by_file = format!("file_sd_configs: [{{files: ['{}']}}]", file.display());
        ensure!(config.contains(&by_api), "no job has the role {role}");
        config = config.replace(&by_api, &by_file);
    }
    ensure!(!config.contains("kubernetes_sd"), "{config}");
    Ok(config + "- job_name: kube-proxy\n  static_configs: [{targets: ['127.0.0.1:10249']}]\n")
}

impl<'a> Prometheus<'a> {
    fn start(cx: &'a Context<'a>, dir: &Path) -> Result<Self> {
        allow(cx)?;
        let token = cx.kubectl("create token prometheus")?;
        fs::write(dir.join("token"), token.trim())?;
        let ca = cx.cluster.kubectl(
            "config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data}",
        )?;
        fs::write(dir.join("ca.crt"), STANDARD.decode(ca.ok()?.trim())?)?;
        let found = objects(cx)?;
        for role in ROLES {
            let groups = found.groups(role)?.to_string();
            fs::write(dir.join(format!("{role}.json")), groups)?;
        }
        let file = dir.join("prometheus.yml");
        fs::write(&file, config(dir)?)?;
        let mut check = Command::new("promtool");
        check.args(["check", "config"]).arg(&file);
        command::run(check, "")?.ok()?;
        // Names of Services are resolved as in a pod.
        let dns =
            cx.kubectl("get service -n kube-system kube-dns -o jsonpath={.spec.clusterIP}")?;
        let resolver = dir.join("resolv.conf");
        let lines = format!(
            "nameserver {}\nsearch cluster.local\noptions ndots:5\n",
            dns.trim()
        );
        fs::write(&resolver, lines)?;
        let line = format!(
            "mount --bind {} /etc/resolv.conf && exec prometheus --config.file={} \
             --storage.tsdb.path={} --web.listen-address={ADDRESS}",
            resolver.display(),
            file.display(),
            dir.join("data").display(),
        );
        let mut prometheus = Command::new("nsenter");
        prometheus.arg(format!("--target={}", cx.cluster.pid(NODE)?));
        prometheus.args(["--net", "unshare", "--mount", "sh", "-c", &line]);
        Ok(Self {
            cx,
            _running: Running::start(prometheus)?,
        })
    }

    /// Asks it; the answer's data.
    fn ask(&self, path: &str) -> Result<Value> {
        let mut get = Command::new("nsenter");
        get.arg(format!("--target={}", self.cx.cluster.pid(NODE)?));
        get.args(["--net", "busybox", "wget", "-q", "-O", "-"]);
        get.arg(format!("http://{ADDRESS}/api/v1/{path}"));
        let text = command::run(get, "")?.ok()?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(answer["data"].clone())
    }

    /// How many series a query finds now.
    fn finds(&self, query: &str) -> Result<usize> {
        let escaped: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let data = self.ask(&format!("query?query={escaped}"))?;
        Ok(data["result"].as_array().map_or(0, Vec::len))
    }
}

/// What the configuration's head says that it needs.
fn allow(cx: &Context) -> Result<()> {
    let ns = &cx.ns;
    for object in [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "prometheus" } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": "prometheus" }, "rules": [
                { "apiGroups": [""], "resources": ["nodes", "services", "endpoints", "pods"],
                  "verbs": ["get", "list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"],
                  "verbs": ["get", "list", "watch"] },
                { "apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"] },
                { "nonResourceURLs": ["/metrics", "/metrics/resources", "/metrics/slis"], "verbs": ["get"] },
            ] }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "prometheus" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus" },
            "subjects": [{ "kind": "ServiceAccount", "name": "prometheus", "namespace": ns }] }),
    ] {
        cx.apply_json(&object)?;
    }
    Ok(())
}

/// What gives each query something to find: a claim in use, a limit of the CPU, a probe, reads and
/// writes of a disk, a Job that ends, a Service, and figures that a program of the user's serves.
fn things_to_measure(cx: &Context) -> Result<()> {
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "10Mi" } } },
    }))?;
    let line = "dd if=/dev/zero of=/data/file bs=1M count=4 conv=fsync; sync; \
        dd if=/data/file of=/dev/null bs=1M iflag=direct; \
        mkdir /www; printf 'of_the_user 7\\n' > /www/metrics; exec httpd -f -p 8080 -h /www";
    let mut measured = pod("measured", line);
    measured["metadata"]["annotations"] = json!({ "prometheus.io/scrape": "true" });
    let container = &mut measured["spec"]["containers"][0];
    container["resources"] = json!({ "limits": { "cpu": "500m" } });
    container["ports"] = json!([{ "containerPort": 8080 }]);
    container["readinessProbe"] =
        json!({ "httpGet": { "path": "/metrics", "port": 8080 }, "periodSeconds": 1 });
    container["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data" }]);
    measured["spec"]["volumes"] =
        json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
    cx.apply_json(&measured)?;
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "measured", "annotations": { "prometheus.io/scrape": "true" } },
        "spec": { "selector": { "app": "measured" }, "ports": [{ "port": 8080 }] },
    }))?;
    cx.apply_json(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "headless" },
        "spec": { "clusterIP": "None", "selector": { "app": "measured" } },
    }))?;
    cx.apply_json(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "done" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [
            { "name": "main", "image": tests::BUSYBOX, "command": ["true"] } ] } } },
    }))?;
    // What is wrong on purpose: an extension server that is not there, an image that nobody has.
    cx.apply_json(&json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": { "name": "v1.nobody.example.com" },
        "spec": { "group": "nobody.example.com", "version": "v1", "groupPriorityMinimum": 1,
            "versionPriority": 1, "insecureSkipTLSVerify": true,
            "service": { "namespace": cx.ns, "name": "nobody" } },
    }))?;
    let mut imageless = pod("imageless", STAY);
    imageless["spec"]["containers"][0]["image"] = json!("127.0.0.1:1/nobody/has:it");
    cx.apply_json(&imageless)?;
    cx.shell_pod("idle", STAY)?;
    cx.wait_ready("measured")?;
    cx.wait("job/done", "condition=Complete")
}

/// A pod comes to the Services and goes. How long proxy and DNS take for a change is known of those alone that
/// they see happen: an agent that began after the last one knows of none.
fn endpoints_change(cx: &Context) -> Result<()> {
    let mut more = pod("more", STAY);
    more["metadata"]["labels"] = json!({ "app": "measured" });
    cx.apply_json(&more)?;
    cx.wait_ready("more")?;
    cx.kubectl("delete pod more").map(drop)
}

pub fn prometheus_reads_all_of_it(cx: &Context) -> Result<()> {
    things_to_measure(cx)?;
    let dir = cx.cluster.scratch()?;
    let prometheus = Prometheus::start(cx, &dir)?;
    let jobs: Vec<&str> = CONFIG
        .lines()
        .filter_map(|l| l.strip_prefix("- job_name: "))
        .chain(["kube-proxy"])
        .collect();
    eventually("all targets are read", || {
        let data = prometheus.ask("targets?state=active")?;
        let targets = data["activeTargets"].as_array().context("no targets")?;
        let mut by_job = BTreeMap::new();
        for target in targets {
            ensure!(target["health"] == "up", "{target:#}");
            let job = target["scrapePool"].as_str().unwrap_or_default();
            *by_job.entry(job).or_insert(0) += 1;
        }
        for job in &jobs {
            ensure!(by_job.contains_key(job), "no target of {job} in {by_job:?}");
        }
        Ok(())
    })?;
    for query in QUERIES {
        eventually(&format!("{query} finds its series"), || {
            let found = prometheus.finds(query)?;
            if found == 0 && query.contains("_programming_duration_") {
                endpoints_change(cx)?;
            }
            ensure!(found > 0, "none");
            Ok(())
        })?;
    }
    for job in ["pods", "endpoints", "endpointslices", "services"] {
        eventually(&format!("{job} has the user's figure, once"), || {
            let found = prometheus.finds(&format!(r#"of_the_user{{job="{job}"}} == 7"#))?;
            ensure!(found == 1, "{found}");
            Ok(())
        })?;
    }
    // What is said to be missing is: else the list would be of no use to people.
    for (name, why) in NOT_HERE {
        let found = prometheus.finds(name)?;
        ensure!(found == 0, "{name} is there, though {why}");
    }
    cx.kubectl("delete pod measured idle imageless --wait=false")?;
    cx.kubectl("delete apiservice v1.nobody.example.com")?;
    cx.kubectl("delete clusterrole,clusterrolebinding prometheus")
        .map(drop)
}

/// Every page can be read by Prometheus' own reader, and nothing of it is named otherwise than it should,
/// but where upstream names it so.
pub fn promtool_is_content_with_every_page(cx: &Context) -> Result<()> {
    let node = |page: &str| format!("/api/v1/nodes/{NODE}/proxy/{page}");
    for page in [
        "/metrics".to_owned(),
        "/metrics/resources".to_owned(),
        "/metrics/slis".to_owned(),
        node("metrics"),
        node("metrics/slis"),
        node("metrics/cadvisor"),
        node("metrics/resource"),
        node("metrics/probes"),
    ] {
        let text = cx.kubectl(&format!("get --raw {page}"))?;
        let mut promtool = Command::new("promtool");
        promtool.args(["check", "metrics"]);
        let ran = command::run(promtool, &text)?;
        // 3: it can be read, and something is said of names.
        ensure!(matches!(ran.code, 0 | 3), "{page}: {ran:?}");
        for line in ran
            .out
            .lines()
            .chain(ran.err.lines())
            .filter(|l| !l.is_empty())
        {
            let is_upstreams = UPSTREAMS_NAMES.iter().any(|name| line.starts_with(name));
            ensure!(is_upstreams, "{page}: {line}");
        }
    }
    Ok(())
}
