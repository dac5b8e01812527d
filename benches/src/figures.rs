//! What upstream (Kubernetes 1.36.2 with etcd 3.6) measured on a machine with two cores of
//! which the load generator used a part: absolute times vary with the machine, ratios less.

/// One figure of upstream's; `value` for what has no rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upstream {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu_ms: f64,
    pub value: f64,
}

const fn case(per_second: f64, p50_ms: f64, p99_ms: f64, cpu_ms: f64) -> Upstream {
    Upstream {
        per_second,
        p50_ms,
        p99_ms,
        cpu_ms,
        value: 0.0,
    }
}

const fn value(value: f64) -> Upstream {
    Upstream {
        value,
        ..case(0.0, 0.0, 0.0, 0.0)
    }
}

/// By name and concurrency.
const FIGURES: &[(&str, usize, Upstream)] = &[
    ("GET ConfigMap", 1, case(1_200.0, 0.8, 1.6, 1.00)),
    ("GET ConfigMap", 16, case(4_060.0, 3.6, 12.0, 0.42)),
    ("GET ConfigMap", 64, case(4_190.0, 13.6, 42.0, 0.37)),
    ("LIST 1,000 pods, JSON", 4, case(33.0, 105.0, 402.0, 39.5)),
    (
        "LIST 1,000 pods, protobuf",
        4,
        case(66.0, 57.0, 131.0, 23.7),
    ),
    (
        "LIST 1,000 pods, JSON gzip",
        4,
        case(53.0, 71.0, 177.0, 34.6),
    ),
    (
        "LIST 10,000 ConfigMaps, JSON",
        4,
        case(13.0, 312.0, 522.0, 76.4),
    ),
    (
        "LIST 10,000 ConfigMaps, protobuf",
        4,
        case(31.0, 123.0, 226.0, 51.1),
    ),
    ("CREATE ConfigMap", 1, case(690.0, 1.35, 3.7, 1.72)),
    ("CREATE ConfigMap", 16, case(1_840.0, 7.8, 26.0, 0.94)),
    ("CREATE ConfigMap", 64, case(2_110.0, 27.6, 70.0, 0.84)),
    ("PATCH pod status", 1, case(310.0, 2.9, 11.0, 4.10)),
    ("PATCH pod status", 16, case(680.0, 19.0, 64.0, 2.80)),
    ("PATCH pod status", 64, case(730.0, 76.0, 197.0, 2.59)),
    (
        "watch: 200 watchers × 200 events/s, 4 connections",
        200,
        case(39_900.0, 4.8, 32.0, 0.030),
    ),
    (
        "watch: 200 watchers × 200 events/s, 200 connections",
        200,
        case(39_900.0, 9.8, 51.0, 0.034),
    ),
    ("API server after these cases, resident", 0, value(1_400.0)),
    ("start to ready, fresh data", 0, value(2.9)),
    ("idle control plane, resident", 0, value(530.0)),
    ("idle control plane, CPU per minute", 0, value(1.97)),
    ("binary", 0, value(481.0)),
    // The middle of three runs; CPU time of scheduler, API server and etcd by 5,000 pods.
    (
        "scheduling: 5,000 pods on 500 nodes",
        0,
        case(370.0, 0.0, 0.0, 4.2),
    ),
    // Of another machine: the thresholds of upstream's own benchmark of the scheduler, the higher one
    // where there are two. They are what it must reach there, not what it did here.
    (
        "scheduling, plain: 10000 pods on 5000 nodes",
        0,
        case(810.0, 0.0, 0.0, 0.0),
    ),
    (
        "scheduling, affinity: 10000 pods on 5000 nodes",
        0,
        case(35.0, 0.0, 0.0, 0.0),
    ),
    (
        "scheduling, anti-affinity with namespace selector: 5000 pods on 5000 nodes",
        0,
        case(24.0, 0.0, 0.0, 0.0),
    ),
    (
        "scheduling, zones by node affinity: 10000 pods on 5000 nodes",
        0,
        case(220.0, 0.0, 0.0, 0.0),
    ),
    (
        "scheduling, mixed: 10000 pods on 5000 nodes",
        0,
        case(140.0, 0.0, 0.0, 0.0),
    ),
    (
        "scheduling, preemption: 10000 pods on 5000 nodes",
        0,
        case(570.0, 0.0, 0.0, 0.0),
    ),
    (
        "control plane after scheduling, resident",
        0,
        value(1_045.0),
    ),
    ("pod: created to bound", 1, case(0.0, 7.0, 0.0, 0.0)),
    ("pod: created to Ready", 1, case(0.0, 481.0, 0.0, 0.0)),
    ("pod: deleted to gone", 1, case(0.0, 1_440.0, 0.0, 0.0)),
    ("Deployment of 50: created to all Ready", 0, value(7.65)),
    ("node's processes, resident", 0, value(195.0)),
    // kube-proxy in its nftables mode.
    (
        "2,000 Services × 10 endpoints: one change until it is in the kernel",
        1,
        case(0.0, 386.0, 0.0, 0.0),
    ),
];

pub fn upstream(case: &str, concurrency: usize) -> Option<Upstream> {
    let found = FIGURES
        .iter()
        .find(|(name, c, _)| *name == case && *c == concurrency);
    found.map(|(_, _, figures)| *figures)
}
