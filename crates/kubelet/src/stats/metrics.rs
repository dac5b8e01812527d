//! The kubelet's metrics in Prometheus' text form: about itself, for autoscaling, and of its probes.

use super::text::{Labels, Text, seconds};
use super::{All, OfClaim, OfContainer};
use crate::metrics::USUAL;
use crate::pod::deps::Deps;
use crate::pod::handle::Snapshot;
use crate::pod::manager::Pods;
use crate::pod::spec;
use crate::probes::tallies::{self, Asked, Tally};
use crate::static_pods::manifest::is_static;
use host::cgroup::Stats;
use host::mounts::FsUsage;
use std::collections::{BTreeMap, BTreeSet};
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
    pods_by_origin(&mut t, &all);
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

/// A family of pods: name, help, and which it counts.
type PodCount = (&'static str, &'static str, fn(&Snapshot) -> bool);

#[rustfmt::skip]
const POD_COUNTS: [PodCount; 2] = [
    ("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
        |_| true),
    ("kubelet_active_pods", "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
        |s| !s.over),
];

/// How many pods there are of the API and of files.
fn pods_by_origin(t: &mut Text, all: &[Arc<Snapshot>]) {
    for (name, help, counts) in POD_COUNTS {
        t.family(name, "gauge", help);
        for (of_files, word) in [(false, ""), (true, "true")] {
            let own = all.iter().filter(|s| is_static(&s.pod) == of_files);
            let count = own.filter(|s| counts(s)).count();
            t.sample(name, &[("static", word)], count as f64, None);
        }
    }
    let mirrors = all.iter().filter(|s| s.mirror_uid.is_some()).count();
    let help =
        "The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    t.one(("kubelet_mirror_pods", "gauge", help), mirrors as f64);
}

/// How full claims are, and how many volumes of which kind there are.
fn volumes(t: &mut Text, deps: &Deps, pods: &[Arc<Snapshot>], of_claims: &[OfClaim]) {
    let mut seen = BTreeSet::new();
    let claims: Vec<_> = of_claims
        .iter()
        .filter_map(|c| Some((c.claim.as_ref()?, c)))
        // Several pods may use one claim.
        .filter(|(claim, _)| seen.insert(*claim))
        .collect();
    for (name, help, value) in VOLUME_ROWS {
        if !claims.is_empty() {
            t.family(name, "gauge", help);
        }
        for (claim, of) in &claims {
            t.sample(name, &of_claim(claim), value(&of.fs) as f64, None);
        }
    }
    let mut told = claims
        .iter()
        .filter_map(|(claim, of)| Some((claim, of.health.as_ref()?)))
        .peekable();
    if told.peek().is_some() {
        t.family(ABNORMAL.0, "gauge", ABNORMAL.1);
    }
    for (claim, health) in told {
        let value = if health.abnormal { 1.0 } else { 0.0 };
        t.sample(ABNORMAL.0, &of_claim(claim), value, None);
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

fn of_claim((namespace, claim): &(String, String)) -> [(&str, &str); 2] {
    [
        ("namespace", namespace.as_str()),
        ("persistentvolumeclaim", claim.as_str()),
    ]
}

/// Of claims whose drivers say how they are.
const ABNORMAL: (&str, &str) = (
    "kubelet_volume_stats_health_status_abnormal",
    "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
);

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

/// `/metrics/resource`: what autoscaling needs, and nothing else. Of what could not be read there is
/// no series but the one that says so: a zero would be a counter that begins again.
#[must_use]
pub fn resource(all: Option<&All>) -> String {
    let mut t = Text::default();
    if let Some(all) = all {
        used(&mut t, all);
    }
    t.one(
        (
            "resource_scrape_error",
            "gauge",
            "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        ),
        if all.is_some() { 0.0 } else { 1.0 },
    );
    t.done()
}

/// A family of containers; no sample where nothing is known.
type ContainerRow = (
    &'static str,
    &'static str,
    &'static str,
    fn(&OfContainer) -> Option<f64>,
);

#[rustfmt::skip]
const CONTAINER_ROWS: [ContainerRow; 5] = [
    ("container_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        |c| Some(seconds(c.stats.cpu_nanos))),
    ("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes",
        |c| Some(c.stats.working_set_bytes as f64)),
    ("container_swap_usage_bytes", "gauge", "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
        |c| Some(c.stats.swap_bytes as f64)),
    ("container_swap_limit_bytes", "gauge", "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
        |c| c.swap_limit.map(|v| v as f64)),
    ("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds",
        |c| c.started_at.map(|t| t.as_millisecond() as f64 / 1e3)),
];

/// A family of groups: of the node or of pods.
type GroupRow = (&'static str, &'static str, &'static str, fn(&Stats) -> f64);

#[rustfmt::skip]
const NODE_ROWS: [GroupRow; 3] = [
    ("node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        |s| seconds(s.cpu_nanos)),
    ("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes",
        |s| s.working_set_bytes as f64),
    ("node_swap_usage_bytes", "gauge", "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
        |s| s.swap_bytes as f64),
];

#[rustfmt::skip]
const POD_ROWS: [GroupRow; 3] = [
    ("pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        |s| seconds(s.cpu_nanos)),
    ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes",
        |s| s.working_set_bytes as f64),
    ("pod_swap_usage_bytes", "gauge", "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
        |s| s.swap_bytes as f64),
];

fn used(t: &mut Text, all: &All) {
    let at = Some(all.at);
    for (name, kind, help, value) in CONTAINER_ROWS {
        let each = all.pods.iter().flat_map(|p| {
            let own = p.containers.iter();
            own.filter_map(move |c| Some((p, c, value(c)?)))
        });
        let mut each = each.peekable();
        // A family without samples is not a family.
        if each.peek().is_some() {
            t.family(name, kind, help);
        }
        for (p, c, value) in each {
            let labels = [
                ("container", c.name.as_str()),
                ("namespace", spec::namespace(&p.pod)),
                ("pod", spec::name(&p.pod)),
            ];
            // When it started does not change.
            let at = at.filter(|_| name != "container_start_time_seconds");
            t.sample(name, &labels, value, at);
        }
    }
    for (name, kind, help, value) in NODE_ROWS {
        t.family(name, kind, help);
        t.sample(name, &[], value(&all.node), at);
    }
    for (name, kind, help, value) in POD_ROWS {
        if !all.pods.is_empty() {
            t.family(name, kind, help);
        }
        for p in &all.pods {
            let labels = [
                ("namespace", spec::namespace(&p.pod)),
                ("pod", spec::name(&p.pod)),
            ];
            t.sample(name, &labels, value(&p.stats), at);
        }
    }
}

/// `/metrics/probes`: how often probes had which result, and how long it took.
#[must_use]
pub fn probes() -> String {
    of_probes(&tallies::all())
}

fn of_probes(all: &BTreeMap<Asked, Tally>) -> String {
    let mut t = Text::default();
    t.family("prober_probe_total", "counter", "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.");
    for (asked, tally) in all {
        let own = labels_of(asked);
        for (result, count) in &tally.results {
            let more = Labels::of(&[("pod_uid", asked.uid.as_str()), ("result", *result)]);
            t.labelled("prober_probe_total", &[&own, &more], *count as f64, None);
        }
    }
    let name = "prober_probe_duration_seconds";
    let help = "[ALPHA] Duration in seconds for a probe response.";
    t.family(name, "histogram", help);
    // These do not name UIDs: a pod and the one that it replaces are one series, and no series may be there
    // twice.
    let mut timed: BTreeMap<Asked, Tally> = BTreeMap::new();
    for (asked, tally) in all.iter().filter(|(_, tally)| tally.timed > 0) {
        let uid = String::new();
        let of_name = Asked {
            uid,
            ..asked.clone()
        };
        timed.entry(of_name).or_default().join(tally);
    }
    for (asked, tally) in &timed {
        let own = labels_of(asked);
        let bounds = USUAL.iter().map(f64::to_string).zip(tally.within);
        let infinite = ("+Inf".to_owned(), tally.timed);
        for (bound, count) in bounds.chain([infinite]) {
            let bound = Labels::of(&[("le", bound.as_str())]);
            let name = format!("{name}_bucket");
            t.labelled(&name, &[&own, &bound], count as f64, None);
        }
        t.labelled(&format!("{name}_sum"), &[&own], tally.seconds, None);
        t.labelled(&format!("{name}_count"), &[&own], tally.timed as f64, None);
    }
    t.done()
}

fn labels_of(asked: &Asked) -> Labels {
    Labels::of(&[
        ("container", asked.container.as_str()),
        ("namespace", asked.namespace.as_str()),
        ("pod", asked.pod.as_str()),
        ("probe_type", asked.kind),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::OfPod;
    use k8s_openapi::api::core::v1::Pod;

    #[test]
    fn pods_of_files_are_counted_apart() {
        let snapshot = |source: &str, over, mirror: bool| {
            let annotations = [("kubernetes.io/config.source".to_owned(), source.to_owned())];
            let mut pod = Pod::default();
            pod.metadata.annotations = Some(annotations.into());
            Arc::new(Snapshot {
                pod: Arc::new(pod),
                seen: Arc::default(),
                over,
                mirror_uid: mirror.then(|| "m".to_owned()),
                life: tokio_util::sync::CancellationToken::new(),
            })
        };
        let mut t = Text::default();
        pods_by_origin(
            &mut t,
            &[
                snapshot("file", false, true),
                snapshot("file", true, false),
                snapshot("api", false, false),
            ],
        );
        let text = t.done();
        let samples: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        let expected = [
            "kubelet_desired_pods{static=\"\"} 1",
            "kubelet_desired_pods{static=\"true\"} 2",
            "kubelet_active_pods{static=\"\"} 1",
            "kubelet_active_pods{static=\"true\"} 1",
            "kubelet_mirror_pods 1",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn probes_have_their_results_and_their_times() {
        let asked = |container: &str| Asked {
            kind: "Readiness",
            container: container.into(),
            pod: "p".into(),
            namespace: "n".into(),
            uid: "u".into(),
        };
        let never = Tally {
            results: [("failed", 3)].into(),
            ..Tally::default()
        };
        let once = Tally {
            results: [("successful", 1)].into(),
            within: [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
            timed: 1,
            seconds: 0.5,
        };
        let replaced = Asked {
            uid: "other".into(),
            ..asked("b")
        };
        let all = [
            (asked("a"), never),
            (asked("b"), once.clone()),
            (replaced, once),
        ];
        let text = of_probes(&all.into());
        let pod = "namespace=\"n\",pod=\"p\",probe_type=\"Readiness\"";
        let name = "prober_probe_duration_seconds";
        for line in [
            format!(
                "prober_probe_total{{container=\"a\",{pod},pod_uid=\"u\",result=\"failed\"}} 3"
            ),
            format!("{name}_bucket{{container=\"b\",{pod},le=\"0.25\"}} 0"),
            format!("{name}_bucket{{container=\"b\",{pod},le=\"0.5\"}} 2"),
            format!("{name}_bucket{{container=\"b\",{pod},le=\"10\"}} 2"),
            format!("{name}_bucket{{container=\"b\",{pod},le=\"+Inf\"}} 2"),
            format!("{name}_sum{{container=\"b\",{pod}}} 1"),
            format!("{name}_count{{container=\"b\",{pod}}} 2"),
        ] {
            let times = text.lines().filter(|l| *l == line).count();
            assert_eq!(times, 1, "{line}: {text}");
        }
        let never = format!("{name}_count{{container=\"a\"");
        assert!(!text.contains(&never), "{text}");
    }

    #[test]
    fn what_could_not_be_read_is_said_by_one_series_alone() {
        let text = resource(None);
        let samples: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(samples, ["resource_scrape_error 1"]);
    }

    #[test]
    fn containers_pods_and_the_node_have_cpu_memory_and_swap() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        let stats = |n: u64| Stats {
            cpu_nanos: n * 1_000_000_000,
            working_set_bytes: 10 * n,
            swap_bytes: 100 * n,
            ..Stats::default()
        };
        let container = |name: &str, swap_limit| OfContainer {
            name: name.into(),
            stats: stats(1),
            swap_limit,
            ..OfContainer::default()
        };
        let all = All {
            node: stats(3),
            pods: vec![OfPod {
                pod: Arc::new(pod),
                stats: stats(2),
                containers: vec![container("c", Some(700)), container("d", None)],
                ..OfPod::default()
            }],
            ..All::default()
        };
        let text = resource(Some(&all));
        for line in [
            r#"container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1 0"#,
            r#"container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 100 0"#,
            r#"container_swap_limit_bytes{container="c",namespace="ns",pod="p"} 700 0"#,
            r#"pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 2 0"#,
            r#"pod_memory_working_set_bytes{namespace="ns",pod="p"} 20 0"#,
            r#"pod_swap_usage_bytes{namespace="ns",pod="p"} 200 0"#,
            "node_cpu_usage_seconds_total 3 0",
            "node_swap_usage_bytes 300 0",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        // Of the other one nobody knows a limit, and of neither when it started.
        let has = |part: &str| text.lines().filter(|l| l.starts_with(part)).count();
        assert_eq!(has("container_swap_limit_bytes{"), 1, "{text}");
        assert!(!text.contains("container_start_time_seconds"), "{text}");
    }
}
