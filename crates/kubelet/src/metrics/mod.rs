//! What the kubelet counts, under upstream's names; and a runtime whose calls are counted. It changes
//! no call.

mod counts;
pub mod files;
mod starts;

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use clock::Instant;
use futures::stream::BoxStream;
use host::runtime::{
    Call, CgroupDriver, Container, ContainerSpec, ContainerStatus, Credential, Event, Health,
    Image, LayerUse, Limit, Ran, Resources, Runtime, RuntimeFs, Sandbox, SandboxNetwork,
    SandboxSpec, Streams, Version,
};
use metrics::{Counters, Gauges, Histograms};

pub use counts::{COUNTS, Lookup};
pub use starts::{STARTS, Start};

/// Seconds; what upstream's figures have that name no bounds.
pub const USUAL: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Seconds; upstream's.
const RUNTIME: [f64; 14] = [
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];

/// The figures; those of several kubelets in one process are counted together.
pub struct KubeletMetrics {
    node: Gauges<1>,
    operations: Counters<1>,
    operation_errors: Counters<1>,
    operation_seconds: Histograms<1>,
    looks: Histograms<0>,
    work: Histograms<1>,
    evictions: Counters<1>,
    statistics_errors: Counters<1>,
    preemptions: Counters<1>,
    requests: Counters<4>,
    request_seconds: Histograms<4>,
    image_volumes: Counters<0>,
    image_volumes_mounted: Counters<0>,
    image_volumes_failed: Counters<0>,
}

pub static METRICS: LazyLock<KubeletMetrics> = LazyLock::new(|| KubeletMetrics {
    node: Gauges::new(
        "kubelet_node_name",
        "The node's name. The count is always 1.",
        ["node"],
    ),
    operations: Counters::new(
        "kubelet_runtime_operations_total",
        "Cumulative number of runtime operations by operation type.",
        ["operation_type"],
    ),
    operation_errors: Counters::new(
        "kubelet_runtime_operations_errors_total",
        "Cumulative number of runtime operation errors by operation type.",
        ["operation_type"],
    ),
    operation_seconds: Histograms::new(
        "kubelet_runtime_operations_duration_seconds",
        "Duration in seconds of runtime operations. Broken down by operation type.",
        ["operation_type"],
        &RUNTIME,
    ),
    looks: Histograms::new(
        "kubelet_pleg_relist_duration_seconds",
        "Duration in seconds of looking at the runtime for a pod: there is no look at all pods.",
        [],
        &USUAL,
    ),
    work: Histograms::new(
        "kubelet_pod_worker_duration_seconds",
        "Duration in seconds to sync a single pod. Broken down by operation type.",
        ["operation_type"],
        &USUAL,
    ),
    evictions: Counters::new(
        "kubelet_evictions",
        "Cumulative number of pod evictions by eviction signal",
        ["eviction_signal"],
    ),
    statistics_errors: Counters::new(
        "tiphys_kubelet_statistics_errors_total",
        "Number of times that something of statistics could not be read, by what.",
        ["what"],
    ),
    preemptions: Counters::new(
        "kubelet_preemptions",
        "Cumulative number of pod preemptions by preemption resource",
        ["preemption_signal"],
    ),
    requests: Counters::new(
        "kubelet_http_requests_total",
        "Number of the http requests received since the server started",
        ["method", "path", "server_type", "long_running"],
    ),
    request_seconds: Histograms::new(
        "kubelet_http_requests_duration_seconds",
        "Duration in seconds to serve http requests",
        ["method", "path", "server_type", "long_running"],
        &USUAL,
    ),
    image_volumes: Counters::new(
        "kubelet_image_volume_requested_total",
        "Number of requested image volumes.",
        [],
    ),
    image_volumes_mounted: Counters::new(
        "kubelet_image_volume_mounted_succeed_total",
        "Number of successful image volume mounts.",
        [],
    ),
    image_volumes_failed: Counters::new(
        "kubelet_image_volume_mounted_errors_total",
        "Number of failed image volume mounts.",
        [],
    ),
});

impl KubeletMetrics {
    /// The kubelet of a node runs here.
    pub fn runs(&self, node: &str) {
        self.node.set([node], 1.0);
        // All that may be counted is shown from the beginning.
        LazyLock::force(&COUNTS);
    }

    /// It was seen what the runtime has of a pod.
    pub fn looked(&self, took: Duration) {
        self.looks.observe([], took.as_secs_f64());
    }

    /// What was decided about a pod was done.
    pub fn worked(&self, took: Duration) {
        self.work.observe(["sync"], took.as_secs_f64());
    }

    /// An image is a volume of a container that is about to start; it was mounted or was not.
    pub fn image_volume(&self, well: bool) {
        self.image_volumes.add([]);
        match well {
            true => self.image_volumes_mounted.add([]),
            false => self.image_volumes_failed.add([]),
        }
    }

    /// A pod is evicted; `signal` in upstream's words.
    pub fn evicted(&self, signal: &str) {
        self.evictions.add([signal]);
    }

    /// Something of statistics could not be read.
    pub fn statistics_failed(&self, what: &str) {
        self.statistics_errors.add([what]);
    }

    /// A pod ends to make room for one that the cluster needs; `resource`: what was short.
    pub fn preempted(&self, resource: &str) {
        self.preemptions.add([resource]);
    }

    /// A request was answered; `page` by [`page`].
    pub fn answered(&self, method: &http::Method, page: &'static str, took: Duration) {
        let method = METHODS.iter().find(|m| **m == method.as_str());
        let method = method.copied().unwrap_or("other");
        let is_long = matches!(
            page,
            "exec" | "attach" | "portForward" | "containerLogs" | "run"
        );
        let labels = [
            method,
            page,
            "readwrite",
            if is_long { "true" } else { "false" },
        ];
        self.requests.add(labels);
        self.request_seconds.observe(labels, took.as_secs_f64());
    }

    fn called(&self, operation: &str, took: Duration, well: bool) {
        let label = [operation];
        self.operations.add(label);
        self.operation_seconds.observe(label, took.as_secs_f64());
        if !well {
            self.operation_errors.add(label);
        }
    }
}

/// The page of a path, under a name that no client chooses: its first part, and of metrics which.
pub fn page(path: &str) -> &'static str {
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let known = |name: &str| PAGES.iter().find(|p| **p == name).copied();
    let found = match (parts.next(), parts.next()) {
        (Some("metrics"), Some(which)) => known(&format!("metrics/{which}")),
        (first, _) => known(first.unwrap_or_default()),
    };
    found.unwrap_or("other")
}

/// Upstream's.
const METHODS: [&str; 8] = [
    "OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT",
];

const PAGES: [&str; 19] = [
    "api",
    "attach",
    "containerLogs",
    "exec",
    "healthz",
    "logs",
    "metrics",
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "pods",
    "portForward",
    "run",
    "runningpods",
    "stats",
    "configz",
    "statusz",
    "flagz",
    "debug",
];

/// A runtime whose calls are counted.
#[derive(Debug)]
pub struct Counted(pub Arc<dyn Runtime>);

fn counted<'a, T: Send + 'a>(operation: &'static str, call: Call<'a, T>) -> Call<'a, T> {
    Box::pin(async move {
        let began = Instant::now();
        let done = match traces::call(operation) {
            None => call.await,
            Some(span) => {
                let done = span.over(call).await;
                if let Err(e) = &done {
                    span.failed(e.to_string());
                }
                done
            }
        };
        METRICS.called(operation, began.elapsed(), done.is_ok());
        done
    })
}

impl Runtime for Counted {
    fn version(&self) -> Call<'_, Version> {
        counted("version", self.0.version())
    }
    fn health(&self) -> Call<'_, Health> {
        counted("status", self.0.health())
    }
    fn cgroup_driver(&self) -> Call<'_, Option<CgroupDriver>> {
        counted("runtime_config", self.0.cgroup_driver())
    }
    fn run_sandbox<'a>(&'a self, spec: &'a SandboxSpec, handler: &'a str) -> Call<'a, String> {
        let call = self.0.run_sandbox(spec, handler);
        Box::pin(async move {
            let began = Instant::now();
            let made = counted("run_podsandbox", call).await;
            STARTS.sandbox(handler, began.elapsed(), made.is_ok());
            made
        })
    }
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        counted("stop_podsandbox", self.0.stop_sandbox(id))
    }
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        counted("remove_podsandbox", self.0.remove_sandbox(id))
    }
    fn sandboxes<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Sandbox>> {
        counted("list_podsandbox", self.0.sandboxes(label))
    }
    fn sandbox_network<'a>(&'a self, id: &'a str) -> Call<'a, SandboxNetwork> {
        counted("podsandbox_status", self.0.sandbox_network(id))
    }
    fn sandbox_pid<'a>(&'a self, id: &'a str) -> Call<'a, Option<u32>> {
        counted("podsandbox_status", self.0.sandbox_pid(id))
    }
    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        spec: &'a ContainerSpec,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String> {
        let call = self.0.create_container(sandbox_id, spec, sandbox);
        counted("create_container", call)
    }
    fn start_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        counted("start_container", self.0.start_container(id))
    }
    fn stop_container<'a>(&'a self, id: &'a str, grace_seconds: i64) -> Call<'a, ()> {
        counted("stop_container", self.0.stop_container(id, grace_seconds))
    }
    fn remove_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        counted("remove_container", self.0.remove_container(id))
    }
    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> Call<'a, ()> {
        counted("update_container", self.0.update_resources(id, resources))
    }
    fn containers<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Container>> {
        counted("list_containers", self.0.containers(label))
    }
    fn container<'a>(&'a self, id: &'a str) -> Call<'a, ContainerStatus> {
        counted("container_status", self.0.container(id))
    }
    fn reopen_log<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        counted("reopen_container_log", self.0.reopen_log(id))
    }
    fn checkpoint<'a>(&'a self, id: &'a str, archive: &'a Path, limit: Limit) -> Call<'a, ()> {
        counted(
            "checkpoint_container",
            self.0.checkpoint(id, archive, limit),
        )
    }
    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], limit: Limit) -> Call<'a, Ran> {
        counted("exec_sync", self.0.exec_sync(id, command, limit))
    }
    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        streams: &'a Streams,
    ) -> Call<'a, String> {
        counted("exec", self.0.exec(id, command, streams))
    }
    fn attach<'a>(&'a self, id: &'a str, streams: &'a Streams) -> Call<'a, String> {
        counted("attach", self.0.attach(id, streams))
    }
    fn image<'a>(&'a self, name: &'a str) -> Call<'a, Option<Image>> {
        counted("image_status", self.0.image(name))
    }
    fn images(&self) -> Call<'_, Vec<Image>> {
        counted("list_images", self.0.images())
    }
    fn pull<'a>(
        &'a self,
        name: &'a str,
        credential: Option<&'a Credential>,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String> {
        counted("pull_image", self.0.pull(name, credential, sandbox))
    }
    fn mount_image<'a>(&'a self, id: &'a str, dir: &'a Path) -> Call<'a, ()> {
        counted("mount_image", self.0.mount_image(id, dir))
    }
    fn remove_image<'a>(&'a self, name: &'a str) -> Call<'a, ()> {
        counted("remove_image", self.0.remove_image(name))
    }
    fn image_fs(&self) -> Call<'_, RuntimeFs> {
        counted("image_fs_info", self.0.image_fs())
    }
    fn layers(&self) -> Call<'_, Vec<LayerUse>> {
        counted("list_container_stats", self.0.layers())
    }
    fn events(&self) -> Call<'_, BoxStream<'static, Event>> {
        counted("get_container_events", self.0.events())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_of_the_runtime_are_counted_under_upstreams_names() {
        let runtime = Counted(Arc::new(host::runtime::fake::Fake::new(0)));
        let called = runtime.start_container("nobody").await;
        METRICS.runs("n");
        METRICS.evicted("memory.available");
        METRICS.image_volume(true);
        METRICS.image_volume(false);
        METRICS.worked(Duration::from_secs(1));
        METRICS.looked(Duration::from_secs(1));
        for path in ["/metrics", "/metrics/resource", "/what a client made up"] {
            METRICS.answered(&http::Method::GET, page(path), Duration::from_secs(1));
        }
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"start_container\"}",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"start_container\"}",
            "kubelet_node_name{node=\"n\"} 1",
            "kubelet_evictions{eviction_signal=\"memory.available\"} 1",
            "# TYPE kubelet_image_volume_requested_total counter",
            "# TYPE kubelet_image_volume_mounted_succeed_total counter",
            "# TYPE kubelet_image_volume_mounted_errors_total counter",
            "kubelet_pod_worker_duration_seconds_count{operation_type=\"sync\"}",
            "# TYPE kubelet_pleg_relist_duration_seconds histogram",
            "kubelet_http_requests_total{method=\"GET\",path=\"metrics\",server_type=\"readwrite\",long_running=\"false\"} 1",
            "kubelet_http_requests_total{method=\"GET\",path=\"metrics/resource\",server_type=\"readwrite\",long_running=\"false\"} 1",
            "kubelet_http_requests_total{method=\"GET\",path=\"other\",server_type=\"readwrite\",long_running=\"false\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let failed = "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"}";
        assert_eq!(text.contains(failed), called.is_err());
    }

    #[test]
    fn pages_have_names_that_no_client_chooses() {
        for (path, name) in [
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics/cadvisor"),
            ("/metrics/none", "other"),
            ("/metrics", "metrics"),
            ("/containerLogs/a/b/c", "containerLogs"),
            ("/", "other"),
        ] {
            assert_eq!(page(path), name, "{path}");
        }
    }
}
