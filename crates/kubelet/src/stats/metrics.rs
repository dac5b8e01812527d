//! The kubelet's metrics in Prometheus' text form. Samples of statistics carry their own time,
//! which client libraries do not write; so this text is written by hand.

use super::{All, OfContainer, OfPod};
use crate::pod::manager::Pods;
use crate::pod::spec;
use jiff::Timestamp;
use std::fmt::Write;

/// A text of families of samples.
#[derive(Debug, Default)]
struct Text {
    out: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        self.out.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(k, v)| format!("{k}=\"{}\"", escaped(v)))
                .collect();
            let _ = write!(self.out, "{{{}}}", pairs.join(","));
        }
        let _ = write!(self.out, " {value}");
        if let Some(at) = at {
            let _ = write!(self.out, " {}", at.as_millisecond());
        }
        self.out.push('\n');
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// `/metrics`: the kubelet about itself.
#[must_use]
pub fn own(pods: &Pods) -> String {
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
    t.sample(
        "kubelet_desired_pods",
        &[("static", "")],
        all.len() as f64,
        None,
    );
    t.out
}

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
    t.out
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

/// A family of /metrics/cadvisor: name, kind, help, and its value of a group.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    fn(&host::cgroup::Stats) -> f64,
);

const ROWS: [Row; 17] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        |s| seconds(s.cpu_nanos),
    ),
    (
        "container_cpu_user_seconds_total",
        "counter",
        "Cumulative user cpu time consumed in seconds.",
        |s| seconds(s.cpu_user_nanos),
    ),
    (
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        |s| seconds(s.cpu_system_nanos),
    ),
    (
        "container_cpu_cfs_periods_total",
        "counter",
        "Number of elapsed enforcement period intervals.",
        |s| s.cpu_periods as f64,
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        "counter",
        "Number of throttled period intervals.",
        |s| s.cpu_throttled_periods as f64,
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |s| seconds(s.cpu_throttled_nanos),
    ),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |s| s.memory_bytes as f64,
    ),
    (
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        |s| s.working_set_bytes as f64,
    ),
    (
        "container_memory_rss",
        "gauge",
        "Size of RSS in bytes.",
        |s| s.rss_bytes as f64,
    ),
    (
        "container_memory_cache",
        "gauge",
        "Number of bytes of page cache memory.",
        |s| s.cache_bytes as f64,
    ),
    (
        "container_memory_mapped_file",
        "gauge",
        "Size of memory mapped files in bytes.",
        |s| s.mapped_file_bytes as f64,
    ),
    (
        "container_memory_swap",
        "gauge",
        "Container swap usage in bytes.",
        |s| s.swap_bytes as f64,
    ),
    (
        "container_memory_max_usage_bytes",
        "gauge",
        "Maximum memory usage recorded in bytes",
        |s| s.max_memory_bytes as f64,
    ),
    (
        "container_memory_failcnt",
        "counter",
        "Number of memory usage hits limits",
        |s| s.memory_failures as f64,
    ),
    (
        "container_fs_reads_bytes_total",
        "counter",
        "Cumulative count of bytes read",
        |s| s.read_bytes as f64,
    ),
    (
        "container_fs_writes_bytes_total",
        "counter",
        "Cumulative count of bytes written",
        |s| s.written_bytes as f64,
    ),
    (
        "container_threads",
        "gauge",
        "Number of threads running inside the container",
        |s| s.tasks as f64,
    ),
];

/// `/metrics/cadvisor`: every container, every pod and the machine, in cAdvisor's words.
#[must_use]
pub fn cadvisor(all: &All) -> String {
    let mut t = Text::default();
    let at = Some(all.at);
    for (name, kind, help, value) in ROWS {
        t.family(name, kind, help);
        let total = name == "container_cpu_usage_seconds_total";
        let mut put = |labels: [(&str, &str); 6], v: f64| {
            let mut all_labels: Vec<(&str, &str)> = labels.to_vec();
            if total {
                all_labels.insert(1, ("cpu", "total"));
            }
            t.sample(name, &all_labels, v, at);
        };
        put(labels("", "/", "", "", "", ""), value(&all.node));
        for p in &all.pods {
            let (ns, pod) = (spec::namespace(&p.pod), spec::name(&p.pod));
            put(labels("", &p.group, "", "", ns, pod), value(&p.stats));
            for c in &p.containers {
                put(
                    labels(&c.name, &c.group, &c.image, &c.id, ns, pod),
                    value(&c.stats),
                );
            }
        }
    }
    containers_only(&mut t, all);
    network(&mut t, all);
    t.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    t.sample("machine_cpu_cores", &[], all.cpu_millis as f64 / 1000.0, at);
    t.family(
        "machine_memory_bytes",
        "gauge",
        "Amount of memory installed on the machine.",
    );
    t.sample("machine_memory_bytes", &[], all.memory_bytes as f64, at);
    t.out
}

fn labels<'a>(
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
) -> [(&'a str, &'a str); 6] {
    [
        ("container", container),
        ("id", id),
        ("image", image),
        ("name", name),
        ("namespace", namespace),
        ("pod", pod),
    ]
}

/// A family of containers only: name, kind, help, value.
type ContainerRow = (
    &'static str,
    &'static str,
    &'static str,
    fn(&OfContainer) -> f64,
);
/// A family of interfaces: name, help, value.
type InterfaceRow = (&'static str, &'static str, fn(&super::Interface) -> u64);

fn containers_only(t: &mut Text, all: &All) {
    let at = Some(all.at);
    let of = |p: &'_ OfPod, c: &'_ OfContainer| {
        (
            spec::namespace(&p.pod).to_owned(),
            spec::name(&p.pod).to_owned(),
            c.clone(),
        )
    };
    let rows: Vec<_> = all
        .pods
        .iter()
        .flat_map(|p| p.containers.iter().map(move |c| of(p, c)))
        .collect();
    let families: [ContainerRow; 3] = [
        (
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
            |c| c.layer_bytes as f64,
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds.",
            |c| c.started_at.map_or(0.0, |t| t.as_second() as f64),
        ),
        (
            "container_spec_memory_limit_bytes",
            "gauge",
            "Memory limit for the container.",
            |c| c.memory_limit.unwrap_or(0) as f64,
        ),
    ];
    for (name, kind, help, value) in families {
        t.family(name, kind, help);
        for (ns, pod, c) in &rows {
            t.sample(
                name,
                &labels(&c.name, &c.group, &c.image, &c.id, ns, pod),
                value(c),
                at,
            );
        }
    }
    t.family(
        "container_last_seen",
        "gauge",
        "Last time a container was seen by the exporter",
    );
    for (ns, pod, c) in &rows {
        let now = all.at.as_second() as f64;
        t.sample(
            "container_last_seen",
            &labels(&c.name, &c.group, &c.image, &c.id, ns, pod),
            now,
            at,
        );
    }
}

fn network(t: &mut Text, all: &All) {
    let families: [InterfaceRow; 8] = [
        (
            "container_network_receive_bytes_total",
            "Cumulative count of bytes received",
            |i| i.rx_bytes,
        ),
        (
            "container_network_receive_packets_total",
            "Cumulative count of packets received",
            |i| i.rx_packets,
        ),
        (
            "container_network_receive_errors_total",
            "Cumulative count of errors encountered while receiving",
            |i| i.rx_errors,
        ),
        (
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            |i| i.rx_dropped,
        ),
        (
            "container_network_transmit_bytes_total",
            "Cumulative count of bytes transmitted",
            |i| i.tx_bytes,
        ),
        (
            "container_network_transmit_packets_total",
            "Cumulative count of packets transmitted",
            |i| i.tx_packets,
        ),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting",
            |i| i.tx_errors,
        ),
        (
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            |i| i.tx_dropped,
        ),
    ];
    for (name, help, value) in families {
        t.family(name, "counter", help);
        for i in &all.network {
            let l = [
                ("id", "/"),
                ("image", ""),
                ("interface", i.name.as_str()),
                ("name", ""),
                ("namespace", ""),
                ("pod", ""),
            ];
            t.sample(name, &l, value(i) as f64, Some(all.at));
        }
        for p in &all.pods {
            for i in &p.network {
                let l = [
                    ("id", p.group.as_str()),
                    ("image", ""),
                    ("interface", i.name.as_str()),
                    ("name", p.sandbox_id.as_str()),
                    ("namespace", spec::namespace(&p.pod)),
                    ("pod", spec::name(&p.pod)),
                ];
                t.sample(name, &l, value(i) as f64, Some(all.at));
            }
        }
    }
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
    t.out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_carry_labels_and_times() {
        let mut t = Text::default();
        let at = Timestamp::from_second(2).ok();
        t.sample("a", &[("l", "x\"y")], 1.5, at);
        t.sample("b", &[], 3.0, None);
        assert_eq!(t.out, "a{l=\"x\\\"y\"} 1.5 2000\nb 3\n");
    }
}
