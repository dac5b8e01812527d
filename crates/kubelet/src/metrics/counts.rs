//! Figures of what kubelets do besides calling the runtime, under upstream's names.

use super::USUAL;
use jiff::Timestamp;
use metrics::{Counters, Gauges, Histograms};
use std::sync::LazyLock;
use std::time::Duration;

/// The version of the pod resources API.
const VERSION: &str = "v1";
/// An older one, in which it is seldom asked.
const OLD_VERSION: &str = "v1alpha1";

/// A call of the pod resources API.
#[derive(Clone, Copy, Debug)]
pub enum Lookup {
    /// Of all pods.
    List,
    /// Of what pods may be given.
    Allocatable,
    /// Of one pod.
    Get,
}

/// The figures; those of several kubelets in one process are counted together.
pub struct Counts {
    hooks_without_tls: Counters<0>,
    provider_seconds: Histograms<1>,
    provider_errors: Counters<1>,
    with_user_namespaces: Counters<0>,
    with_user_namespaces_failed: Counters<0>,
    removed_images: Counters<1>,
    shutdown_start: Gauges<0>,
    shutdown_end: Gauges<0>,
    pinned_cpus: Counters<0>,
    pinned_cpus_failed: Counters<0>,
    pinned_memory: Counters<0>,
    pinned_memory_failed: Counters<0>,
    aligned: Counters<0>,
    aligned_failed: Counters<0>,
    aligned_milliseconds: Histograms<0>,
    device_plugins: Counters<1>,
    device_seconds: Histograms<1>,
    infeasible_resizes: Counters<1>,
    containers: Histograms<0>,
    lookups: Counters<1>,
    lists: Counters<1>,
    lists_failed: Counters<1>,
    allocatable: Counters<1>,
    allocatable_failed: Counters<1>,
    gets: Counters<1>,
    gets_failed: Counters<1>,
}

pub static COUNTS: LazyLock<Counts> = LazyLock::new(|| Counts {
    hooks_without_tls: Counters::new(
        "kubelet_lifecycle_handler_http_fallbacks_total",
        "The number of times lifecycle handlers successfully fell back to http from https.",
        [],
    ),
    provider_seconds: Histograms::new(
        "kubelet_credential_provider_plugin_duration",
        "Duration of execution in seconds for credential provider plugin",
        ["plugin_name"],
        &USUAL,
    ),
    provider_errors: Counters::new(
        "kubelet_credential_provider_plugin_errors_total",
        "Number of errors from credential provider plugin",
        ["plugin_name"],
    ),
    with_user_namespaces: Counters::new(
        "kubelet_started_user_namespaced_pods_total",
        "Cumulative number of pods with user namespaces started.",
        [],
    ),
    with_user_namespaces_failed: Counters::new(
        "kubelet_started_user_namespaced_pods_errors_total",
        "Cumulative number of errors when starting pods with user namespaces.",
        [],
    ),
    removed_images: Counters::new(
        "kubelet_image_garbage_collected_total",
        "Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
        ["reason"],
    ),
    shutdown_start: Gauges::new(
        "kubelet_graceful_shutdown_start_time_seconds",
        "Last graceful shutdown start time since unix epoch in seconds",
        [],
    ),
    shutdown_end: Gauges::new(
        "kubelet_graceful_shutdown_end_time_seconds",
        "Last graceful shutdown end time since unix epoch in seconds",
        [],
    ),
    pinned_cpus: Counters::new(
        "kubelet_cpu_manager_pinning_requests_total",
        "The number of cpu core allocations which required pinning.",
        [],
    ),
    pinned_cpus_failed: Counters::new(
        "kubelet_cpu_manager_pinning_errors_total",
        "The number of cpu core allocations which required pinning failed.",
        [],
    ),
    pinned_memory: Counters::new(
        "kubelet_memory_manager_pinning_requests_total",
        "The number of memory pages allocations which required pinning.",
        [],
    ),
    pinned_memory_failed: Counters::new(
        "kubelet_memory_manager_pinning_errors_total",
        "The number of memory pages allocations which required pinning that failed.",
        [],
    ),
    aligned: Counters::new(
        "kubelet_topology_manager_admission_requests_total",
        "The number of admission requests where resources have to be aligned.",
        [],
    ),
    aligned_failed: Counters::new(
        "kubelet_topology_manager_admission_errors_total",
        "The number of admission request failures where resources could not be aligned.",
        [],
    ),
    aligned_milliseconds: Histograms::new(
        "kubelet_topology_manager_admission_duration_ms",
        "Duration in milliseconds to serve a pod admission request.",
        [],
        &metrics::exponential(0.05, 2.0, 15),
    ),
    device_plugins: Counters::new(
        "kubelet_device_plugin_registration_total",
        "Cumulative number of device plugin registrations. Broken down by resource name.",
        ["resource_name"],
    ),
    device_seconds: Histograms::new(
        "kubelet_device_plugin_alloc_duration_seconds",
        "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.",
        ["resource_name"],
        &USUAL,
    ),
    infeasible_resizes: Counters::new(
        "kubelet_pod_infeasible_resizes_total",
        "Number of infeasible resizes for pods.",
        ["reason_detail"],
    ),
    containers: Histograms::new(
        "kubelet_containers_per_pod_count",
        "The number of containers per pod.",
        [],
        &metrics::exponential(1.0, 2.0, 5),
    ),
    lookups: Counters::new(
        "kubelet_pod_resources_endpoint_requests_total",
        "Cumulative number of requests to the PodResource endpoint. Broken down by server api version.",
        ["server_api_version"],
    ),
    lists: Counters::new(
        "kubelet_pod_resources_endpoint_requests_list",
        "Number of requests to the PodResource List endpoint. Broken down by server api version.",
        ["server_api_version"],
    ),
    lists_failed: Counters::new(
        "kubelet_pod_resources_endpoint_errors_list",
        "Number of requests to the PodResource List endpoint which returned error. Broken down by server api version.",
        ["server_api_version"],
    ),
    allocatable: Counters::new(
        "kubelet_pod_resources_endpoint_requests_get_allocatable",
        "Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.",
        ["server_api_version"],
    ),
    allocatable_failed: Counters::new(
        "kubelet_pod_resources_endpoint_errors_get_allocatable",
        "Number of requests to the PodResource GetAllocatableResources endpoint which returned error. Broken down by server api version.",
        ["server_api_version"],
    ),
    gets: Counters::new(
        "kubelet_pod_resources_endpoint_requests_get",
        "Number of requests to the PodResource Get endpoint. Broken down by server api version.",
        ["server_api_version"],
    ),
    gets_failed: Counters::new(
        "kubelet_pod_resources_endpoint_errors_get",
        "Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.",
        ["server_api_version"],
    ),
});

impl Counts {
    /// A hook that was to be asked by HTTPS was asked without.
    pub fn hook_without_tls(&self) {
        self.hooks_without_tls.add([]);
    }

    /// A program for credentials was run, or could not be.
    pub fn provider_ran(&self, name: &str, took: Duration, well: bool) {
        self.provider_seconds.observe([name], took.as_secs_f64());
        if !well {
            self.provider_errors.add([name]);
        }
    }

    /// A sandbox with user ids of its own was made, or could not be.
    pub fn user_namespace(&self, well: bool) {
        self.with_user_namespaces.add([]);
        if !well {
            self.with_user_namespaces_failed.add([]);
        }
    }

    /// An image that nobody uses was removed, because it was too old or because room was short.
    pub fn image_removed(&self, was_old: bool) {
        self.removed_images
            .add([if was_old { "age" } else { "space" }]);
    }

    /// The machine goes down, or does not any more.
    pub fn shutdown_began(&self, at: Timestamp) {
        self.shutdown_start.set([], seconds(at));
        self.shutdown_end.set([], 0.0);
    }

    /// All pods have ended for that.
    pub fn shutdown_ended(&self, at: Timestamp) {
        self.shutdown_end.set([], seconds(at));
    }

    /// A container was to have CPUs for itself.
    pub fn pinned_cpus(&self, well: bool) {
        self.pinned_cpus.add([]);
        if !well {
            self.pinned_cpus_failed.add([]);
        }
    }

    /// A container was to have memory of certain NUMA nodes.
    pub fn pinned_memory(&self, well: bool) {
        self.pinned_memory.add([]);
        if !well {
            self.pinned_memory_failed.add([]);
        }
    }

    /// It was decided where in the machine a pod is.
    pub fn aligned(&self, took: Duration, well: bool) {
        self.aligned.add([]);
        self.aligned_milliseconds
            .observe([], took.as_secs_f64() * 1000.0);
        if !well {
            self.aligned_failed.add([]);
        }
    }

    /// A device plugin has come.
    pub fn device_plugin(&self, resource: &str) {
        self.device_plugins.add([resource]);
    }

    /// It was asked for devices.
    pub fn devices_given(&self, resource: &str, took: Duration) {
        self.device_seconds.observe([resource], took.as_secs_f64());
    }

    /// A pod cannot have other resources; `why` in upstream's words.
    pub fn resize_infeasible(&self, why: &str) {
        self.infeasible_resizes.add([why]);
    }

    /// A pod has come.
    pub fn pod(&self, containers: usize) {
        let containers = u32::try_from(containers).unwrap_or(u32::MAX);
        self.containers.observe([], f64::from(containers));
    }

    /// The pod resources API was asked in its old version.
    pub fn old_lookup(&self) {
        self.lookups.add([OLD_VERSION]);
    }

    /// The pod resources API was asked.
    pub fn lookup(&self, what: Lookup, well: bool) {
        self.lookups.add([VERSION]);
        let (all, failed) = match what {
            Lookup::List => (&self.lists, &self.lists_failed),
            Lookup::Allocatable => (&self.allocatable, &self.allocatable_failed),
            Lookup::Get => (&self.gets, &self.gets_failed),
        };
        all.add([VERSION]);
        // Also that nothing failed is shown.
        let failed = failed.of([VERSION]);
        if !well {
            failed.inc();
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_under_upstreams_names() {
        COUNTS.provider_ran("of-a-cloud", Duration::from_millis(30), false);
        COUNTS.image_removed(true);
        COUNTS.lookup(Lookup::Get, false);
        COUNTS.lookup(Lookup::List, true);
        COUNTS.shutdown_began(Timestamp::from_second(90).unwrap());
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "kubelet_credential_provider_plugin_errors_total{plugin_name=\"of-a-cloud\"} 1",
            "kubelet_credential_provider_plugin_duration_count{plugin_name=\"of-a-cloud\"} 1",
            "kubelet_image_garbage_collected_total{reason=\"age\"}",
            "kubelet_pod_resources_endpoint_errors_get{server_api_version=\"v1\"}",
            "kubelet_pod_resources_endpoint_errors_list{server_api_version=\"v1\"} 0",
            "kubelet_graceful_shutdown_start_time_seconds 90",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
