//! The kubelet's configuration in upstream's words, as `/configz` shows it: the fields that this kubelet
//! acts on, with the values by which it runs.

use serde_json::{Map, Value, json};
use std::time::Duration;
use zpages::duration;

use crate::config::Config;
use crate::eviction::thresholds::{Resource, Thresholds};

/// A `KubeletConfiguration` of kubelet.config.k8s.io/v1beta1; `pods`: the most that the node takes.
pub fn of(config: &Config, pods: u64) -> Value {
    let c = config;
    let by_signal = |all: &Thresholds| -> Map<String, Value> {
        let each = Resource::ALL.into_iter();
        each.filter_map(|r| Some((r.name().to_owned(), json!(all.get(r)?.to_string()))))
            .collect()
    };
    let grace: Map<String, Value> = (c.eviction.soft_grace.iter())
        .map(|(signal, time)| (signal.clone(), json!(duration(*time))))
        .collect();
    let cpus = if c.cpus.is_static { "static" } else { "none" };
    let mut shown = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": c.listen.is_some(),
        "address": c.listen.map(|l| l.ip().to_string()),
        "port": c.listen.map(|l| l.port()),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
        },
        "authorization": { "mode": "Webhook" },
        "clusterDomain": c.cluster_domain,
        "clusterDNS": c.cluster_dns,
        "resolvConf": c.resolv_conf,
        "containerRuntimeEndpoint": format!("unix://{}", c.runtime_endpoint),
        "cgroupRoot": c.cgroup_parent,
        "cgroupDriver": "cgroupfs",
        "maxPods": pods,
        "nodeLeaseDurationSeconds": c.lease_duration.as_secs(),
        "nodeStatusUpdateFrequency": duration(c.status_check_period),
        "nodeStatusReportFrequency": duration(c.status_report_period),
        "imageMinimumGCAge": duration(c.image_gc_min_age),
        "imageGCHighThresholdPercent": c.image_gc_high_percent,
        "imageGCLowThresholdPercent": c.image_gc_low_percent,
        "imageMaximumGCAge": duration(c.image_gc_max_age.unwrap_or_default()),
        "maxParallelImagePulls": c.parallel_pulls,
        "evictionHard": by_signal(&c.eviction.hard),
        "evictionSoft": by_signal(&c.eviction.soft),
        "evictionSoftGracePeriod": grace,
        "evictionMinimumReclaim": by_signal(&c.eviction.minimum_reclaim),
        "evictionMaxPodGracePeriod": c.eviction.max_pod_grace_seconds,
        "seccompDefault": c.seccomp_default,
        "cpuManagerPolicy": cpus,
        "enableSystemLogHandler": c.system_logs.files,
        "enableSystemLogQuery": c.system_logs.query,
        "evictionPressureTransitionPeriod": duration(c.eviction.transition_period),
        "containerLogMaxSize": c.log_max_bytes.to_string(),
        "containerLogMaxFiles": c.log_max_files,
        "crashLoopBackOff": { "maxContainerRestartPeriod": duration(c.crash_backoff_max) },
        "systemReserved": {
            "cpu": format!("{}m", c.reserved.cpu_millis),
            "memory": c.reserved.memory_bytes.to_string(),
        },
        "registerNode": true,
        "podLogsDir": c.log_dir,
    });
    let storage = json!(c.reserved.storage_bytes.to_string());
    shown["systemReserved"]["ephemeral-storage"] = storage;
    shown["systemReserved"]["pid"] = json!(c.reserved.pids.to_string());
    shown["authentication"]["x509"] = json!({ "clientCAFile": c.tls_files.client_ca });
    if let Some(fields) = shown.as_object_mut() {
        fields.extend(numa(c));
        fields.extend(others(c));
    }
    shown
}

/// The rest: one table of all would be too long for the compiler.
fn others(c: &Config) -> Map<String, Value> {
    let all = json!({
        "containerLogMonitorInterval": duration(c.log_check_period),
        "cpuCFSQuota": !c.cpus.no_quotas,
        "cpuCFSQuotaPeriod": duration(quota_period(c)),
        "enableDebuggingHandlers": c.handlers.debugging,
        "enableDebugFlagsHandler": c.handlers.debug_flags,
        "enableProfilingHandler": c.handlers.profiling,
        "failSwapOn": c.fail_on_swap,
        "failCgroupV1": c.fail_on_cgroup_v1,
        "featureGates": { "MemoryQoS": c.memory_qos.is_on },
        "imagePullCredentialsVerificationPolicy": c.image_verification.word(),
        "memoryThrottlingFactor": c.memory_qos.throttling,
        "nodeStatusMaxImages": c.status_images.map_or(-1, |n| i64::try_from(n).unwrap_or(-1)),
        "podsPerCore": c.pods_per_core.unwrap_or(0),
        "providerID": c.provider_id,
        "runtimeRequestTimeout": duration(c.runtime_timeout),
        "singleProcessOOMKill": c.oom_kills_one,
        "tlsCertFile": c.tls_files.certificate,
        "tlsPrivateKeyFile": c.tls_files.key,
        "userNamespaces": { "idsPerPod": c.user_ids_per_pod },
        "streamingConnectionIdleTimeout": duration(c.stream_idle.unwrap_or_default()),
    });
    match all {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The period of CPU limits; upstream's where nothing is said.
fn quota_period(c: &Config) -> Duration {
    let micros = c
        .cpus
        .quota_period_micros
        .and_then(|m| u64::try_from(m).ok());
    Duration::from_micros(micros.unwrap_or(100_000))
}

/// What is said of NUMA nodes and swap.
fn numa(c: &Config) -> [(String, Value); 4] {
    let memory = if c.memory.is_static { "Static" } else { "None" };
    let swap = if c.limited_swap {
        "LimitedSwap"
    } else {
        "NoSwap"
    };
    let (policy, scope) = (c.topology.policy.word(), c.topology.scope.word());
    [
        ("memoryManagerPolicy".into(), json!(memory)),
        ("topologyManagerPolicy".into(), json!(policy)),
        ("topologyManagerScope".into(), json!(scope)),
        ("memorySwap".into(), json!({ "swapBehavior": swap })),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kubelet_runs_by_is_shown() {
        let mut config = Config::new("n", "127.0.0.1".parse().expect("an address"));
        config.eviction.hard = "memory.available<1Gi".parse().expect("thresholds");
        let shown = of(&config, 110);
        assert_eq!(
            shown["evictionHard"],
            json!({ "memory.available": "1024Mi" })
        );
        assert_eq!(shown["nodeStatusReportFrequency"], "5m0s");
        assert_eq!(shown["maxPods"], 110);
        assert_eq!(shown["cpuCFSQuotaPeriod"], "100ms");
        assert_eq!(shown["systemReserved"]["ephemeral-storage"], "0");
        assert_eq!(shown["systemReserved"]["pid"], "0");
        assert_eq!(shown["topologyManagerPolicy"], "none");
    }
}
