//! The fields that upstream knows and that have no effect here: what is so here whatever they say, and
//! why. Of a value that says just that nobody is warned.

use serde_json::Value;

/// A field: its name, whether a value says what is so here, and what is so here.
pub(super) type Without = (&'static str, fn(&Value) -> bool, &'static str);

fn never(_: &Value) -> bool {
    false
}

fn is_true(v: &Value) -> bool {
    v == true
}

fn is_false(v: &Value) -> bool {
    v == false
}

fn is_empty(v: &Value) -> bool {
    match v {
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
        _ => false,
    }
}

fn is_zero(v: &Value) -> bool {
    v == 0
}

fn asks_the_api(v: &Value) -> bool {
    let mode = v.get("mode").and_then(Value::as_str);
    mode.is_none_or(|m| m.is_empty() || m == "Webhook")
}

/// In the order of their names.
pub(super) const WITHOUT_EFFECT: &[Without] = &[
    (
        "address",
        never,
        "the port is open at the node's own address",
    ),
    (
        "authorization",
        asks_the_api,
        "the API server is asked about every request",
    ),
    (
        "cgroupDriver",
        |v| v == "cgroupfs",
        "control groups are made as folders, never by systemd",
    ),
    (
        "cgroupRoot",
        |v| is_empty(v) || v == "/",
        "the groups of pods are below the one that --cgroup names",
    ),
    ("cgroupsPerQOS", is_true, "each class of pods has a group"),
    (
        "configMapAndSecretChangeDetectionStrategy",
        |v| v == "Watch",
        "what pods use is watched",
    ),
    (
        "containerLogMaxWorkers",
        |v| v == 1,
        "logs are rotated one after the other",
    ),
    ("contentType", is_empty, "the API is asked in JSON"),
    (
        "cpuManagerReconcilePeriod",
        never,
        "the CPUs of containers are set when they change",
    ),
    (
        "enableContentionProfiling",
        is_false,
        "contention is not sampled",
    ),
    (
        "enableControllerAttachDetach",
        is_true,
        "volumes are attached by the controller",
    ),
    ("enableServer", is_true, "the port is always open"),
    (
        "eventBurst",
        never,
        "events are bounded by what they are about, not by a rate of all",
    ),
    (
        "eventRecordQPS",
        never,
        "events are bounded by what they are about, not by a rate of all",
    ),
    (
        "hairpinMode",
        |v| v != "none",
        "pods reach themselves through their Services",
    ),
    (
        "healthzBindAddress",
        is_empty,
        "/healthz is on the kubelet's own port",
    ),
    (
        "healthzPort",
        is_zero,
        "/healthz is on the kubelet's own port",
    ),
    (
        "httpCheckFrequency",
        never,
        "static pods come from files alone",
    ),
    (
        "imageServiceEndpoint",
        is_empty,
        "the runtime has the images",
    ),
    ("iptablesDropBit", never, "packets are not marked"),
    ("iptablesMasqueradeBit", never, "packets are not marked"),
    (
        "kernelMemcgNotification",
        is_false,
        "memory is looked at in turns",
    ),
    (
        "kubeAPIBurst",
        never,
        "how much may be asked is said by the API server",
    ),
    (
        "kubeAPIQPS",
        never,
        "how much may be asked is said by the API server",
    ),
    (
        "kubeletCgroups",
        is_empty,
        "the kubelet stays in the group that it is started in",
    ),
    (
        "localStorageCapacityIsolation",
        is_true,
        "local storage is accounted for",
    ),
    (
        "logging",
        is_empty,
        "how logs are written is said by the process's own flags",
    ),
    (
        "makeIPTablesUtilChains",
        never,
        "there are no rules of iptables",
    ),
    (
        "maxOpenFiles",
        is_zero,
        "the process takes as many open files as the machine allows it",
    ),
    (
        "oomScoreAdj",
        never,
        "the process's score is the one that it is started with",
    ),
    (
        "podCIDR",
        is_empty,
        "the node's ranges come from its object",
    ),
    ("port", |v| v == 10_250, "the port is 10250"),
    (
        "protectKernelDefaults",
        is_false,
        "kernel parameters are not compared",
    ),
    (
        "qosReserved",
        is_empty,
        "no memory is kept for a class of pods",
    ),
    (
        "readOnlyPort",
        is_zero,
        "there is no port without authentication",
    ),
    ("registerNode", is_true, "the node registers itself"),
    (
        "registryBurst",
        never,
        "pulls are bounded by maxParallelImagePulls, not by a rate",
    ),
    (
        "registryPullQPS",
        never,
        "pulls are bounded by maxParallelImagePulls, not by a rate",
    ),
    (
        "rotateCertificates",
        is_true,
        "certificates are renewed before they expire",
    ),
    ("runOnce", is_false, "the kubelet runs until it is ended"),
    (
        "serverTLSBootstrap",
        is_true,
        "the port's certificate is asked for from the cluster",
    ),
    (
        "showHiddenMetricsForVersion",
        is_empty,
        "no metrics are hidden",
    ),
    (
        "staticPodURL",
        is_empty,
        "static pods come from files alone",
    ),
    (
        "staticPodURLHeader",
        is_empty,
        "static pods come from files alone",
    ),
    (
        "syncFrequency",
        |v| v == "1m" || v == "1m0s",
        "pods are looked at when something changes, and their volumes each minute",
    ),
    (
        "systemCgroups",
        is_empty,
        "processes of the system stay in their groups",
    ),
    (
        "tlsCipherSuites",
        is_empty,
        "the port speaks TLS 1.2 and 1.3 with modern suites alone",
    ),
    (
        "tlsCurvePreferences",
        is_empty,
        "the port speaks TLS 1.2 and 1.3 with modern suites alone",
    ),
    (
        "tlsMinVersion",
        |v| is_empty(v) || v == "VersionTLS12",
        "the port speaks TLS 1.2 and 1.3",
    ),
    ("volumePluginDir", is_empty, "there are no FlexVolumes"),
    (
        "volumeStatsAggPeriod",
        |v| v == "1m" || v == "1m0s",
        "what volumes take is looked at when somebody asks, at most each minute",
    ),
];
