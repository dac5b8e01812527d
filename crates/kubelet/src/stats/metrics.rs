//! The kubelet's metrics in Prometheus' text form: about itself, for autoscaling, and of its probes.

use super::text::{Text, seconds};
use super::{All, OfClaim, OfContainer, OfPod};
use crate::pod::deps::Deps;
use crate::pod::handle::Snapshot;
use crate::pod::manager::Pods;
use crate::pod::spec;
use host::mounts::FsUsage;
use std::collections::BTreeSet;
use std::sync::Arc;

/// `/metrics`: the kubelet about itself.
#[must_use]
pub fn own(deps: &Deps, pods: &Pods, of_claims: &[OfClaim]) -> String {
    let mut t = Text::default();
    let all = pods.snapshots();
    let running = all
        .iter()
        .filter(|s| s.seen.ready_sandbox().is_some())
        .count();
    t.family(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    t.sample("kubelet_running_pods", &[], running as f64, None);
    t.family(
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    for (state, run) in [
        ("created", crate::pod::runtime_state::Run::Created),
        ("exited", crate::pod::runtime_state::Run::Exited),
        ("running", crate::pod::runtime_state::Run::Running),
        ("unknown", crate::pod::runtime_state::Run::Unknown),
    ] {
        let count = all
            .iter()
            .flat_map(|s| &s.seen.containers)
            .filter(|c| c.run == run)
            .count();
        t.sample(
            "kubelet_running_containers",
            &[("container_state", state)],
            count as f64,
            None,
        );
    }
    t.family(
        "kubelet_desired_pods",
        "gauge",
        "Number of pods bound to this node",
    );
    let none = [("static", "")];
    t.sample("kubelet_desired_pods", &none, all.len() as f64, None);
    t.family(
        "kubelet_active_pods",
        "gauge",
        "The number of pods the kubelet considers active and which are being considered when admitting new pods.",
    );
    let active = all.iter().filter(|s| !s.over).count();
    t.sample("kubelet_active_pods", &none, active as f64, None);
    let version = f64::from(deps.cgroups.version());
    t.one(
        (
            "kubelet_cgroup_version",
            "gauge",
            "cgroup version on the hosts.",
        ),
        version,
    );
    volumes(&mut t, deps, &all, of_claims);
    t.done()
}

/// How full claims are, and how many volumes of which kind there are.
fn volumes(t: &mut Text, deps: &Deps, pods: &[Arc<Snapshot>], of_claims: &[OfClaim]) {
    let mut seen = BTreeSet::new();
    let claims: Vec<_> = of_claims
        .iter()
        .filter_map(|c| Some((c.claim.as_ref()?, &c.fs)))
        // Several pods may use one claim.
        .filter(|(claim, _)| seen.insert(*claim))
        .collect();
    for (name, help, value) in VOLUME_ROWS {
        if !claims.is_empty() {
            t.family(name, "gauge", help);
        }
        for ((namespace, claim), fs) in &claims {
            let labels = [
                ("namespace", namespace.as_str()),
                ("persistentvolumeclaim", claim.as_str()),
            ];
            t.sample(name, &labels, value(fs) as f64, None);
        }
    }
    let name = "volume_manager_total_volumes";
    t.family(name, "gauge", "Number of volumes in Volume Manager");
    let live = pods.iter().filter(|p| !p.over).map(|p| &*p.pod);
    for (plugin, (wanted, there)) in crate::volumes::counts(&deps.volumes.0.pods_dir, live) {
        for (state, count) in [
            ("desired_state_of_world", wanted),
            ("actual_state_of_world", there),
        ] {
            let labels = [("plugin_name", plugin.as_str()), ("state", state)];
            t.sample(name, &labels, count as f64, None);
        }
    }
}

/// A family of claims: name, help, value.
type VolumeRow = (&'static str, &'static str, fn(&FsUsage) -> u64);

#[rustfmt::skip]
const VOLUME_ROWS: [VolumeRow; 6] = [
    ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |f| f.capacity_bytes),
    ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |f| f.available_bytes),
    ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |f| f.used_bytes),
    ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |f| f.inodes),
    ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |f| f.inodes_free),
    ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |f| f.inodes.saturating_sub(f.inodes_free)),
];

/// `/metrics/resource`: what autoscaling needs, and nothing else.
#[must_use]
pub fn resource(all: &All) -> String {
    let mut t = Text::default();
    let at = Some(all.at);
    let (c_cpu, c_mem) = (
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
    );
    t.family(
        c_cpu,
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    each(all, |p, c| {
        t.sample(
            c_cpu,
            &resource_labels(p, c),
            seconds(c.stats.cpu_nanos),
            at,
        );
    });
    t.family(
        c_mem,
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    each(all, |p, c| {
        t.sample(
            c_mem,
            &resource_labels(p, c),
            c.stats.working_set_bytes as f64,
            at,
        );
    });
    t.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    each(all, |p, c| {
        let start = c
            .started_at
            .map_or(0.0, |t| t.as_millisecond() as f64 / 1e3);
        t.sample(
            "container_start_time_seconds",
            &resource_labels(p, c),
            start,
            None,
        );
    });
    t.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    t.sample(
        "node_cpu_usage_seconds_total",
        &[],
        seconds(all.node.cpu_nanos),
        at,
    );
    t.family(
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    t.sample(
        "node_memory_working_set_bytes",
        &[],
        all.node.working_set_bytes as f64,
        at,
    );
    t.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for p in &all.pods {
        let labels = [
            ("namespace", spec::namespace(&p.pod)),
            ("pod", spec::name(&p.pod)),
        ];
        t.sample(
            "pod_cpu_usage_seconds_total",
            &labels,
            seconds(p.stats.cpu_nanos),
            at,
        );
    }
    t.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
    );
    for p in &all.pods {
        let labels = [
            ("namespace", spec::namespace(&p.pod)),
            ("pod", spec::name(&p.pod)),
        ];
        t.sample(
            "pod_memory_working_set_bytes",
            &labels,
            p.stats.working_set_bytes as f64,
            at,
        );
    }
    t.family(
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    t.sample("resource_scrape_error", &[], 0.0, None);
    t.done()
}

fn each<'a>(all: &'a All, mut f: impl FnMut(&'a OfPod, &'a OfContainer)) {
    for p in &all.pods {
        for c in &p.containers {
            f(p, c);
        }
    }
}

fn resource_labels<'a>(p: &'a OfPod, c: &'a OfContainer) -> [(&'a str, &'a str); 3] {
    [
        ("container", &c.name),
        ("namespace", spec::namespace(&p.pod)),
        ("pod", spec::name(&p.pod)),
    ]
}

/// `/metrics/probes`: how often probes had which result.
#[must_use]
pub fn probes() -> String {
    let mut t = Text::default();
    t.family("prober_probe_total", "counter", "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.");
    for (s, count) in crate::probes::counts() {
        let l = [
            ("container", s.container.as_str()),
            ("namespace", s.namespace.as_str()),
            ("pod", s.pod.as_str()),
            ("pod_uid", s.uid.as_str()),
            ("probe_type", s.kind.word()),
            ("result", s.result),
        ];
        t.sample("prober_probe_total", &l, count as f64, None);
    }
    t.done()
}
