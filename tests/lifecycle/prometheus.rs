//! Prometheus, as Debian has it, finds everything by the usual Kubernetes discovery and reads it with the
//! configuration that `docs/prometheus.yml` recommends; and the queries of well-known dashboards and
//! alert rules find their series.

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

const CONFIG: &str = include_str!("../../docs/prometheus.yml");
/// Where it answers, within the node.
const ADDRESS: &str = "127.0.0.1:9090";
const NODE: &str = "node-1";

/// Metrics of this project that kubernetes-mixin's dashboards, recording rules and alerts ask for, as
/// of its version 1.4, with the label matchers that they use. What others bring is not here:
/// node_exporter's `node_*` (but `node_namespace_*`, which are recording rules) and
/// kube-state-metrics' `kube_*`. Nor what no component has any more or can have:
/// `kubelet_node_config_error` and `scheduler_volume_scheduling_duration_seconds`, which upstream
/// removed; `storage_operation_errors_total`, which became the label `status` of
/// `storage_operation_duration_seconds`; `go_goroutines`, since this is not a Go program. Counters
/// that begin with their first event are made to have one, or stand in [`AFTER_AN_EVENT`].
const QUERIES: &[&str] = &[
    // API server.
    r#"apiserver_request_total{job="kube-apiserver",verb=~"LIST|GET",code=~"2.."}"#,
    r#"apiserver_request_total{job="kube-apiserver",verb=~"POST|PUT|PATCH|DELETE"}"#,
    r#"apiserver_request_sli_duration_seconds_bucket{job="kube-apiserver",verb=~"LIST|GET",scope=~"resource|",le=~"1(\\.0)?"}"#,
    r#"apiserver_request_sli_duration_seconds_count{job="kube-apiserver",verb=~"POST|PUT|PATCH|DELETE",subresource!~"proxy|attach|log|exec|portforward"}"#,
    r#"apiserver_request_duration_seconds_bucket{job="kube-apiserver",scope="namespace"}"#,
    r#"apiserver_current_inflight_requests{job="kube-apiserver",request_kind="mutating"}"#,
    r#"apiserver_storage_objects{job="kube-apiserver"}"#,
    r#"apiserver_client_certificate_expiration_seconds_count{job="kube-apiserver"}"#,
    r#"apiserver_client_certificate_expiration_seconds_bucket{job="kube-apiserver"}"#,
    r#"apiserver_flowcontrol_current_inqueue_requests{job="kube-apiserver"}"#,
    r#"etcd_request_duration_seconds_bucket{job="kube-apiserver"}"#,
    r#"process_resident_memory_bytes{job="kube-apiserver"}"#,
    r#"process_cpu_seconds_total{job="kube-apiserver"}"#,
    r#"process_start_time_seconds{job="kube-apiserver"}"#,
    r#"kubernetes_build_info{job!~"kube-dns|coredns"}"#,
    // Controllers.
    r#"workqueue_adds_total{job="kube-controller-manager",name!=""}"#,
    r#"workqueue_depth{job="kube-controller-manager",name!=""}"#,
    r#"workqueue_queue_duration_seconds_bucket{job="kube-controller-manager"}"#,
    r#"rest_client_requests_total{job="kube-controller-manager",code=~"2.."}"#,
    r#"rest_client_request_duration_seconds_bucket{job="kube-controller-manager",verb="GET"}"#,
    r#"job_controller_job_syncs_total{job="kube-controller-manager"}"#,
    r#"job_controller_jobs_finished_total{result="succeeded"}"#,
    r#"endpoint_slice_controller_num_endpoint_slices{job="kube-controller-manager"}"#,
    r#"endpoint_slice_controller_changes{operation="create"}"#,
    r#"horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers"#,
    r#"node_collector_zone_size"#,
    r#"running_managed_controllers{name="deployment"}"#,
    // Scheduler.
    r#"scheduler_schedule_attempts_total{job="kube-scheduler",result="scheduled"}"#,
    r#"scheduler_scheduling_attempt_duration_seconds_bucket{job="kube-scheduler"}"#,
    r#"scheduler_scheduling_algorithm_duration_seconds_bucket{job="kube-scheduler"}"#,
    r#"scheduler_pod_scheduling_sli_duration_seconds_count{job="kube-scheduler"}"#,
    r#"scheduler_pending_pods{job="kube-scheduler"}"#,
    // Kubelet.
    r#"up{job="kubelet",metrics_path="/metrics"}"#,
    r#"kubelet_node_name{job="kubelet"}"#,
    r#"kubelet_running_pods{job="kubelet",metrics_path="/metrics"}"#,
    r#"kubelet_running_containers{job="kubelet",container_state="running"}"#,
    r#"kubelet_runtime_operations_total{job="kubelet",operation_type="start_container"}"#,
    r#"kubelet_runtime_operations_duration_seconds_bucket{job="kubelet"}"#,
    r#"kubelet_pod_start_duration_seconds_bucket{job="kubelet"}"#,
    r#"kubelet_pod_start_sli_duration_seconds_count{job="kubelet"}"#,
    r#"kubelet_pod_worker_duration_seconds_bucket{job="kubelet"}"#,
    r#"kubelet_pleg_relist_duration_seconds_bucket{job="kubelet"}"#,
    r#"kubelet_pleg_relist_interval_seconds_bucket{job="kubelet"}"#,
    r#"kubelet_cgroup_manager_duration_seconds_bucket{job="kubelet",operation_type="create"}"#,
    r#"kubelet_certificate_manager_client_ttl_seconds"#,
    r#"kubelet_certificate_manager_server_ttl_seconds"#,
    r#"kubelet_certificate_manager_client_expiration_renew_errors"#,
    r#"kubelet_server_expiration_renew_errors"#,
    r#"kubelet_volume_stats_available_bytes{job="kubelet",namespace!="",persistentvolumeclaim="data"}"#,
    r#"kubelet_volume_stats_capacity_bytes{persistentvolumeclaim="data"}"#,
    r#"kubelet_volume_stats_used_bytes{persistentvolumeclaim="data"}"#,
    r#"kubelet_volume_stats_inodes{persistentvolumeclaim="data"}"#,
    r#"kubelet_volume_stats_inodes_free{persistentvolumeclaim="data"}"#,
    r#"kubelet_volume_stats_inodes_used{persistentvolumeclaim="data"}"#,
    r#"volume_manager_total_volumes{job="kubelet",plugin_name="kubernetes.io/local-volume",state="desired_state_of_world"}"#,
    r#"storage_operation_duration_seconds_bucket{job="kubelet",status="success"}"#,
    r#"storage_operation_duration_seconds_count{job="kubelet",volume_plugin="kubernetes.io/projected"}"#,
    r#"rest_client_requests_total{job="kubelet"}"#,
    r#"process_cpu_seconds_total{job="kubelet"}"#,
    // cAdvisor.
    r#"container_cpu_usage_seconds_total{job="cadvisor",image!="",container!=""}"#,
    r#"container_cpu_cfs_throttled_periods_total{job="cadvisor",container!=""}"#,
    r#"container_cpu_cfs_periods_total{job="cadvisor",container!=""}"#,
    r#"container_memory_working_set_bytes{job="cadvisor",container!="",image!=""}"#,
    r#"container_memory_rss{job="cadvisor",container!="",image!=""}"#,
    r#"container_memory_cache{job="cadvisor",container!="",image!=""}"#,
    r#"container_memory_swap{job="cadvisor",container!="",image!=""}"#,
    r#"container_fs_reads_total{job="cadvisor",device=~"(/dev/)?(mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|dasd.+)",container!=""}"#,
    r#"container_fs_writes_total{job="cadvisor",device=~"(/dev/)?(mmcblk.p.+|nvme.+|rbd.+|sd.+|vd.+|xvd.+|dm-.+|dasd.+)",container!=""}"#,
    r#"container_fs_reads_bytes_total{job="cadvisor",container!=""}"#,
    r#"container_fs_writes_bytes_total{job="cadvisor",container!=""}"#,
    r#"container_network_receive_bytes_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"container_network_transmit_bytes_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"container_network_receive_packets_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"container_network_transmit_packets_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"container_network_receive_packets_dropped_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"container_network_transmit_packets_dropped_total{job="cadvisor",namespace!="",pod!=""}"#,
    r#"machine_memory_bytes{job="cadvisor"}"#,
    r#"machine_cpu_cores{job="cadvisor"}"#,
    r#"node_cpu_usage_seconds_total{job="kubelet-resource"}"#,
    r#"prober_probe_total{job="kubelet-probes",probe_type="Readiness"}"#,
    // Proxy.
    r#"kubeproxy_sync_proxy_rules_duration_seconds_bucket{job="kube-proxy"}"#,
    r#"rest_client_requests_total{job="kube-proxy"}"#,
    // What dashboards compute of several.
    r#"sum by (namespace, pod) (rate(container_network_receive_bytes_total{job="cadvisor"}[1m]))"#,
    r#"sum by (instance, operation_type) (kubelet_runtime_operations_total{job="kubelet"})"#,
    r#"histogram_quantile(0.99, sum by (verb, le) (apiserver_request_sli_duration_seconds_bucket{job="kube-apiserver"}))"#,
    r#"topk by (cluster, namespace, pod, container) (1, container_memory_working_set_bytes{job="cadvisor",image!=""})"#,
];

/// Figures that begin with an event that a healthy cluster does not have; declared from the first on.
const AFTER_AN_EVENT: &[&str] = &[
    "aggregator_unavailable_apiservice",
    "kubelet_evictions",
    "kubelet_runtime_operations_errors_total",
];

/// Families whose names and types are upstream's, of which promtool thinks that they should be others.
const UPSTREAMS_NAMES: &[&str] = &[
    "aggregator_",
    "apiserver_",
    "authenticated_",
    "authentication_",
    "coredns_",
    "serviceaccount_",
    "container_",
    "endpoint_slice_controller_",
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

impl<'a> Prometheus<'a> {
    fn start(cx: &'a Context<'a>, dir: &Path) -> Result<Self> {
        allow(cx)?;
        let token = cx.kubectl("create token prometheus")?;
        fs::write(dir.join("token"), token.trim())?;
        let ca = cx.cluster.kubectl(
            "config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority-data}",
        )?;
        fs::write(dir.join("ca.crt"), STANDARD.decode(ca.ok()?.trim())?)?;
        let host = cx.kubectl(
            "get endpointslices -n default kubernetes -o jsonpath={.endpoints[0].addresses[0]}",
        )?;
        let port =
            cx.kubectl("get endpointslices -n default kubernetes -o jsonpath={.ports[0].port}")?;
        let (ca, token) = (dir.join("ca.crt"), dir.join("token"));
        let (ca, token) = (ca.display(), token.display());
        let within = "/var/run/secrets/kubernetes.io/serviceaccount";
        let outside = format!(
            ", api_server: 'https://{host}:{port}', tls_config: {{ca_file: {ca}}}, \
             authorization: {{credentials_file: {token}}}}}]"
        );
        let config = CONFIG
            .replace("scrape_interval: 30s", "scrape_interval: 2s")
            .replace(&format!("{within}/ca.crt"), &ca.to_string())
            .replace(&format!("{within}/token"), &token.to_string())
            .replace("}]\n", &format!("{outside}\n"))
            + "- job_name: kube-proxy\n  static_configs: [{targets: ['127.0.0.1:10249']}]\n";
        let file = dir.join("prometheus.yml");
        fs::write(&file, config)?;
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
                { "nonResourceURLs": ["/metrics"], "verbs": ["get"] },
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
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "done" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [
            { "name": "main", "image": tests::BUSYBOX, "command": ["true"] } ] } } },
    }))?;
    cx.shell_pod("idle", STAY)?;
    cx.wait_ready("measured")?;
    cx.wait("job/done", "condition=Complete")
}

pub fn prometheus_reads_all_of_it(cx: &Context) -> Result<()> {
    things_to_measure(cx)?;
    let dir = cx.cluster.scratch()?;
    let prometheus = Prometheus::start(cx, &dir)?;
    eventually("all targets are read", || {
        let data = prometheus.ask("targets?state=active")?;
        let targets = data["activeTargets"].as_array().context("no targets")?;
        let mut by_job = BTreeMap::new();
        for target in targets {
            ensure!(target["health"] == "up", "{target:#}");
            let job = target["scrapePool"].as_str().unwrap_or_default();
            *by_job.entry(job).or_insert(0) += 1;
        }
        let jobs: Vec<&str> = CONFIG
            .lines()
            .filter_map(|l| l.strip_prefix("- job_name: "))
            .collect();
        for job in jobs {
            ensure!(by_job.contains_key(job), "no target of {job} in {by_job:?}");
        }
        Ok(())
    })?;
    for query in QUERIES {
        eventually(&format!("{query} finds its series"), || {
            ensure!(prometheus.finds(query)? > 0, "none");
            Ok(())
        })?;
    }
    for job in ["pods", "endpoints", "endpointslices", "services"] {
        let found = prometheus.finds(&format!(r#"of_the_user{{job="{job}"}} == 7"#))?;
        ensure!(found == 1, "{job}: {found}");
    }
    let metadata = prometheus.ask("metadata")?;
    for name in AFTER_AN_EVENT {
        ensure!(metadata.get(name).is_some(), "{name} is not declared");
    }
    cx.kubectl("delete pod measured idle --wait=false")?;
    cx.kubectl("delete clusterrole,clusterrolebinding prometheus")
        .map(drop)
}

/// Every page can be read by Prometheus' own reader, and nothing of it is named otherwise than it should,
/// but where upstream names it so.
pub fn promtool_is_content_with_every_page(cx: &Context) -> Result<()> {
    let node = |page: &str| format!("/api/v1/nodes/{NODE}/proxy/{page}");
    for page in [
        "/metrics".to_owned(),
        node("metrics"),
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
