//! What is counted of a pod's way from its binding to its end: how long the start takes, what of it are
//! images, control groups and volumes, and what fails.

use std::sync::LazyLock;
use std::time::Duration;

use clock::Instant;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use metrics::{Counters, Gauges, Histograms};
use parking_lot::Mutex;

use super::USUAL;
use crate::pod::spec;

/// Seconds; upstream's.
const OF_STARTS: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0,
    300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Seconds; upstream's.
const OF_PULLS: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];
/// Seconds; upstream's.
const OF_STORAGE: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0,
];
/// Sizes from which images have another label; upstream's.
const SIZES: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10 << 20, "10MB-100MB"),
    (100 << 20, "100MB-500MB"),
    (500 << 20, "500MB-1GB"),
    (1 << 30, "1GB-5GB"),
    (5 << 30, "5GB-10GB"),
    (10 << 30, "10GB-20GB"),
    (20 << 30, "20GB-30GB"),
    (30 << 30, "30GB-40GB"),
    (40 << 30, "40GB-60GB"),
    (60 << 30, "60GB-100GB"),
    (100 << 30, "GT100GB"),
];

/// The figures; those of several kubelets in one process are counted together.
pub struct Starts {
    seen_to_running: Histograms<0>,
    sli: Histograms<0>,
    total: Histograms<0>,
    pods: Counters<0>,
    pod_errors: Counters<0>,
    containers: Counters<1>,
    container_errors: Counters<2>,
    pulls: Histograms<1>,
    sandboxes: Histograms<1>,
    sandbox_errors: Counters<1>,
    groups: Histograms<1>,
    storage: Histograms<4>,
    between_lists: Histograms<0>,
    lists_seen: Gauges<0>,
    rejections: Counters<1>,
    last_list: Mutex<Option<Instant>>,
}

pub static STARTS: LazyLock<Starts> = LazyLock::new(|| Starts {
    seen_to_running: Histograms::new(
        "kubelet_pod_start_duration_seconds",
        "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
        [],
        &OF_STARTS,
    ),
    sli: Histograms::new(
        "kubelet_pod_start_sli_duration_seconds",
        "Duration in seconds to start a pod, excluding time to pull images and run init containers, \
         measured from pod creation timestamp to when all its containers are reported as started",
        [],
        &OF_STARTS,
    ),
    total: Histograms::new(
        "kubelet_pod_start_total_duration_seconds",
        "Duration in seconds to start a pod since creation, including time to pull images and run \
         init containers",
        [],
        &OF_STARTS,
    ),
    pods: Counters::new(
        "kubelet_started_pods_total",
        "Cumulative number of pods started",
        [],
    ),
    pod_errors: Counters::new(
        "kubelet_started_pods_errors_total",
        "Cumulative number of errors when starting pods",
        [],
    ),
    containers: Counters::new(
        "kubelet_started_containers_total",
        "Cumulative number of containers started",
        ["container_type"],
    ),
    container_errors: Counters::new(
        "kubelet_started_containers_errors_total",
        "Cumulative number of errors when starting containers",
        ["container_type", "code"],
    ),
    pulls: Histograms::new(
        "kubelet_image_pull_duration_seconds",
        "Duration in seconds to pull an image.",
        ["image_size_in_bytes"],
        &OF_PULLS,
    ),
    sandboxes: Histograms::new(
        "kubelet_run_podsandbox_duration_seconds",
        "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
        ["runtime_handler"],
        &USUAL,
    ),
    sandbox_errors: Counters::new(
        "kubelet_run_podsandbox_errors_total",
        "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
        ["runtime_handler"],
    ),
    groups: Histograms::new(
        "kubelet_cgroup_manager_duration_seconds",
        "Duration in seconds for cgroup manager operations. Broken down by method.",
        ["operation_type"],
        &USUAL,
    ),
    storage: Histograms::new(
        "storage_operation_duration_seconds",
        "Storage operation duration",
        ["volume_plugin", "operation_name", "status", "migrated"],
        &OF_STORAGE,
    ),
    between_lists: Histograms::new(
        "kubelet_pleg_relist_interval_seconds",
        "Interval in seconds between lists of all containers, which repair what events lost.",
        [],
        &USUAL,
    ),
    lists_seen: Gauges::new(
        "kubelet_pleg_last_seen_seconds",
        "Timestamp in seconds when all containers were listed last.",
        [],
    ),
    rejections: Counters::new(
        "kubelet_admission_rejections_total",
        "Cumulative number pod admission rejections by the Kubelet.",
        ["reason"],
    ),
    last_list: Mutex::default(),
});

impl Starts {
    /// A sandbox was asked for.
    pub fn sandbox(&self, handler: &str, took: Duration, well: bool) {
        self.sandboxes.observe([handler], took.as_secs_f64());
        if !well {
            self.sandbox_errors.add([handler]);
        }
    }

    /// A pod was begun with, or could not be.
    pub fn pod(&self, well: bool) {
        self.pods.add([]);
        if !well {
            self.pod_errors.add([]);
        }
    }

    /// A container was started; with the reason, if it could not be.
    pub fn container(&self, pod: &Pod, name: &str, failed: Option<&str>) {
        let kind = kind_of(pod, name);
        self.containers.add([kind]);
        if let Some(reason) = failed {
            self.container_errors.add([kind, reason]);
        }
    }

    /// An image of so many bytes was pulled.
    pub fn pulled(&self, bytes: u64, took: Duration) {
        let size = SIZES.iter().rev().find(|(from, _)| bytes >= *from);
        let label = size.map_or("0-10MB", |(_, label)| label);
        self.pulls.observe([label], took.as_secs_f64());
    }

    /// Something is done to a control group: `create`, `update` or `destroy`.
    pub fn group<T>(&self, operation: &str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        let took = began.elapsed().as_secs_f64();
        self.groups.observe([operation], took);
        done
    }

    /// A volume was made or given back; `plugin` by its folder's name.
    pub fn volume(&self, plugin: &str, operation: &str, took: Duration, well: bool) {
        let plugin = match plugin {
            "" => "kubernetes.io/host-path".to_owned(),
            folder => folder.replace('~', "/"),
        };
        let status = if well { "success" } else { "fail-unknown" };
        let labels = [plugin.as_str(), operation, status, "false"];
        self.storage.observe(labels, took.as_secs_f64());
    }

    /// All containers were listed.
    pub fn listed(&self, now: Timestamp) {
        let mut last = self.last_list.lock();
        if let Some(last) = *last {
            self.between_lists.observe([], last.elapsed().as_secs_f64());
        }
        *last = Some(Instant::now());
        self.lists_seen.set([], now.as_millisecond() as f64 / 1e3);
    }

    /// The node did not take a pod.
    pub fn rejected(&self, reason: &str) {
        self.rejections.add([reason]);
    }
}

fn kind_of(pod: &Pod, name: &str) -> &'static str {
    let spec = spec::of(pod);
    let mut init = spec.init_containers.iter().flatten();
    let mut ephemeral = spec.ephemeral_containers.iter().flatten();
    if init.any(|c| c.name == name) {
        "init_container"
    } else if ephemeral.any(|c| c.name == name) {
        "ephemeral_container"
    } else {
        "container"
    }
}

/// One pod's start, followed until it runs.
#[derive(Debug)]
pub struct Start {
    /// When this kubelet saw it; none when its start is not this kubelet's, or was counted.
    seen: Option<Instant>,
    /// Time that its images took.
    pulls: Duration,
}

impl Start {
    /// Begins to follow a pod. One that runs already was started by an earlier kubelet.
    pub fn of(pod: &Pod) -> Self {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let is_new = matches!(phase, None | Some("" | "Pending"));
        Self {
            seen: is_new.then(Instant::now),
            pulls: Duration::ZERO,
        }
    }

    /// Getting images took so long.
    pub fn waited_for_images(&mut self, took: Duration) {
        self.pulls += took;
    }

    /// Looks at the status that is published; counts the start when it says that the pod runs.
    pub fn follow(&mut self, pod: &Pod, status: &PodStatus, now: Timestamp) {
        match status.phase.as_deref() {
            Some("Running") => {}
            Some("Succeeded" | "Failed") => {
                self.seen = None;
                return;
            }
            _ => return,
        }
        let Some(seen) = self.seen.take() else {
            return;
        };
        STARTS
            .seen_to_running
            .observe([], seen.elapsed().as_secs_f64());
        let Some(created) = pod.metadata.creation_timestamp.as_ref() else {
            return;
        };
        let seconds = (now - created.0)
            .total(jiff::Unit::Second)
            .unwrap_or(0.0)
            .max(0.0);
        STARTS.total.observe([], seconds);
        let apart = self.pulls.as_secs_f64() + of_init_containers(status);
        STARTS.sli.observe([], (seconds - apart).max(0.0));
    }
}

/// Seconds from the first init container's start to the last one's end.
fn of_init_containers(status: &PodStatus) -> f64 {
    let all = status.init_container_statuses.iter().flatten();
    let ended = all.filter_map(|c| c.state.as_ref()?.terminated.as_ref());
    let spans: Vec<(Timestamp, Timestamp)> = ended
        .filter_map(|t| Some((t.started_at.as_ref()?.0, t.finished_at.as_ref()?.0)))
        .collect();
    let first = spans.iter().map(|(from, _)| *from).min();
    let last = spans.iter().map(|(_, to)| *to).max();
    match (first, last) {
        (Some(first), Some(last)) => (last - first).total(jiff::Unit::Second).unwrap_or(0.0),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shows(line: &str) -> bool {
        let text = metrics::prometheus(&metrics::lines());
        text.lines().any(|l| l == line)
    }

    #[test]
    fn a_start_is_counted_once_and_without_images_and_init_containers() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "containers": [] },
        }))
        .unwrap();
        let status = |phase: &str| -> PodStatus {
            serde_json::from_value(json!({ "phase": phase, "initContainerStatuses": [{
                "name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": { "terminated": { "exitCode": 0,
                    "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:04Z" } },
            }] }))
            .unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut start = Start::of(&pod);
        start.waited_for_images(Duration::from_secs(2));
        start.follow(&pod, &status("Pending"), at("2026-01-01T00:00:05Z"));
        for _ in 0..2 {
            start.follow(&pod, &status("Running"), at("2026-01-01T00:00:10Z"));
        }
        for line in [
            "kubelet_pod_start_total_duration_seconds_sum 10.0",
            "kubelet_pod_start_total_duration_seconds_count 1",
            "kubelet_pod_start_sli_duration_seconds_sum 5.0",
        ] {
            assert!(shows(line), "{line} in {}", metrics::lines());
        }
    }

    #[test]
    fn pods_of_an_earlier_kubelet_are_not_counted() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": { "containers": [] }, "status": { "phase": "Running" },
        }))
        .unwrap();
        assert!(Start::of(&pod).seen.is_none());
    }

    #[test]
    fn labels_are_upstreams() {
        let pod: Pod = serde_json::from_value(json!({ "spec": {
            "containers": [{ "name": "a" }], "initContainers": [{ "name": "b" }],
        } }))
        .unwrap();
        STARTS.container(&pod, "b", Some("CreateContainerError"));
        STARTS.pulled(20 << 20, Duration::from_secs(3));
        STARTS.volume(
            "kubernetes.io~empty-dir",
            "volume_mount",
            Duration::ZERO,
            true,
        );
        assert!(STARTS.group("create", || true));
        for line in [
            "kubelet_started_containers_errors_total{container_type=\"init_container\",code=\"CreateContainerError\"} 1",
            "kubelet_image_pull_duration_seconds_sum{image_size_in_bytes=\"10MB-100MB\"} 3.0",
            "storage_operation_duration_seconds_count{volume_plugin=\"kubernetes.io/empty-dir\",operation_name=\"volume_mount\",status=\"success\",migrated=\"false\"} 1",
            "kubelet_cgroup_manager_duration_seconds_count{operation_type=\"create\"} 1",
        ] {
            assert!(shows(line), "{line} in {}", metrics::lines());
        }
    }
}
