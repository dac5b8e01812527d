//! What files say, and what comes of it.

use super::*;
use serde_json::json;

fn read(_: &[u8]) -> Result<(Value, Vec<String>), String> {
    Err("nobody reads here".into())
}

fn of(fields: Value) -> Value {
    let mut file = json!({ "apiVersion": API_VERSION, "kind": KIND });
    for (name, value) in fields.as_object().unwrap() {
        file[name] = value.clone();
    }
    file
}

fn config() -> Config {
    Config::new("n", "10.0.0.1".parse().unwrap())
}

fn set(files: &[Value]) -> Result<(Config, Vec<String>), Faults> {
    let (mut config, mut all) = (config(), Configuration::default());
    for file in files {
        all.add(of(file.clone()))?;
    }
    let warnings = all.set(&mut config, read)?;
    Ok((config, warnings))
}

#[test]
fn fields_are_set_in_upstreams_words() {
    let (config, warnings) = set(&[json!({
        "staticPodPath": "/etc/kubernetes/manifests", "fileCheckFrequency": "5s",
        "clusterDNS": ["10.96.0.10"], "clusterDomain": "example.org.",
        "maxPods": 30, "podPidsLimit": 500, "containerLogMaxSize": "5Mi", "containerLogMaxFiles": 3,
        "evictionHard": { "memory.available": "200Mi", "imagefs.inodesFree": "5%" },
        "evictionSoft": { "memory.available": "1Gi" },
        "evictionSoftGracePeriod": { "memory.available": "1m30s" },
        "evictionMaxPodGracePeriod": 60,
        "evictionMinimumReclaim": { "nodefs.available": "1Gi" },
        "systemReserved": { "cpu": "500m", "memory": "1Gi" }, "kubeReserved": { "cpu": "1" },
        "nodeLeaseDurationSeconds": 40, "crashLoopBackOff": { "maxContainerRestartPeriod": "5s" },
        "shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "10s",
        "registerWithTaints": [{ "key": "a", "value": "b", "effect": "NoSchedule" }],
        "allowedUnsafeSysctls": ["net.core.somaxconn"],
        "cgroupDriver": "systemd",
    })])
    .unwrap();
    let source = config.static_pods.as_ref().unwrap();
    assert_eq!(source.path.to_str(), Some("/etc/kubernetes/manifests"));
    assert_eq!(source.period, Duration::from_secs(5));
    assert_eq!(config.cluster_domain, "example.org");
    assert_eq!(config.capacity.pods, Some(30));
    assert_eq!(config.pod_pids_limit, Some(500));
    assert_eq!((config.log_max_bytes, config.log_max_files), (5 << 20, 3));
    let eviction = &config.eviction;
    let memory = Threshold::Amount(200 << 20);
    assert_eq!(eviction.hard.get(Resource::Memory), Some(memory));
    assert_eq!(eviction.hard.get(Resource::NodeFs), None);
    assert_eq!(
        eviction.soft_grace["memory.available"],
        Duration::from_secs(90)
    );
    assert_eq!(eviction.max_pod_grace_seconds, 60);
    let has = &config.reserved;
    assert_eq!((has.cpu_millis, has.memory_bytes), (1500, 1 << 30));
    assert_eq!(config.lease_period, Duration::from_secs(10));
    assert_eq!(config.crash_backoff_initial, Duration::from_secs(5));
    assert_eq!(config.shutdown.critical, Duration::from_secs(10));
    assert_eq!(config.taints, ["a=b:NoSchedule"]);
    assert_eq!(
        warnings,
        [
            "cgroupDriver has no effect on this kubelet",
            "the signal imagefs.inodesFree is not measured: its threshold has no effect",
        ]
    );
}

#[test]
fn numa_nodes_and_swap_are_set_in_upstreams_words() {
    use crate::topology::merge::{Policy, Scope};
    let reserved = |limits: Value| json!([{ "numaNode": 1, "limits": limits }]);
    let (config, warnings) = set(&[json!({
        "topologyManagerPolicy": "single-numa-node", "topologyManagerScope": "pod",
        "topologyManagerPolicyOptions":
            { "prefer-closest-numa-nodes": "true", "max-allowable-numa-nodes": "9" },
        "memoryManagerPolicy": "Static",
        "reservedMemory": reserved(json!({ "memory": "1Gi", "hugepages-2Mi": "4Mi" })),
        "memorySwap": { "swapBehavior": "LimitedSwap" },
    })])
    .unwrap();
    let rules = &config.topology;
    assert_eq!(
        (rules.policy, rules.scope),
        (Policy::SingleNumaNode, Scope::Pod)
    );
    assert_eq!((rules.closest, rules.most_nodes), (true, 9));
    assert!(config.memory.is_static && config.limited_swap);
    let kept = &config.memory.reserved[&1];
    assert_eq!((kept["memory"], kept["hugepages-2Mi"]), (1 << 30, 4 << 20));
    assert_eq!(warnings, Vec::<String>::new());
    for (file, why) in [
        (json!({ "topologyManagerPolicy": "best" }), "unknown policy"),
        (json!({ "topologyManagerScope": "node" }), "unknown scope"),
        (
            json!({ "topologyManagerPolicyOptions": { "a": "b" } }),
            "unknown Topology",
        ),
        (
            json!({ "topologyManagerPolicyOptions": { "max-allowable-numa-nodes": "7" } }),
            "should not be less than 8",
        ),
        (
            json!({ "memoryManagerPolicy": "static" }),
            "neither \"None\" nor",
        ),
        (
            json!({ "reservedMemory": reserved(json!({ "cpu": "1" })) }),
            "not supported",
        ),
        (
            json!({ "reservedMemory": [{ "numaNode": 0, "limits": { "memory": "1" } },
                { "numaNode": 0, "limits": { "memory": "1" } }] }),
            "reserved twice",
        ),
        (
            json!({ "memorySwap": { "swapBehavior": "All" } }),
            "neither \"NoSwap\"",
        ),
        (json!({ "memorySwap": { "size": "1" } }), "unknown field"),
    ] {
        let fault = set(&[file]).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
}

#[test]
fn what_is_no_configuration_is_refused_with_its_field() {
    let fault = |file: Value| set(&[file]).unwrap_err().to_string();
    assert_eq!(fault(json!({ "maxPod": 1 })), "unknown field \"maxPod\"");
    for (file, why) in [
        (
            json!({ "maxPods": "many" }),
            "maxPods: \"many\" is not a whole number from 0 on",
        ),
        (
            json!({ "imageGCLowThresholdPercent": 101 }),
            "imageGCLowThresholdPercent: 101 is above 100",
        ),
        (
            json!({ "tracing": { "endpoint": "https://collector" } }),
            "tracing: endpoint: Invalid value: \"https://collector\": unsupported scheme: https.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md",
        ),
        (
            json!({ "evictionHard": { "cpu": "1" } }),
            "evictionHard: \"cpu\" is not a signal",
        ),
        (
            json!({ "staticPodPath": "manifests" }),
            "staticPodPath: \"manifests\" is not an absolute path",
        ),
        (
            json!({ "nodeStatusUpdateFrequency": "fast" }),
            "nodeStatusUpdateFrequency: \"fast\" is not a duration such as 1m30s",
        ),
        (
            json!({ "maxParallelImagePulls": 2, "serializeImagePulls": true }),
            "serializeImagePulls: it cannot be true where maxParallelImagePulls is above 1",
        ),
        (
            json!({ "evictionSoft": { "memory.available": "1Gi" } }),
            "evictionSoftGracePeriod: grace period must be specified for the soft eviction threshold memory.available",
        ),
    ] {
        assert_eq!(fault(file), why);
    }
    let mut other = Configuration::default();
    assert!(other.add(json!({ "kind": KIND })).is_err() && other.add(json!([])).is_err());
}

#[test]
fn tracing_names_a_collector_and_how_much_is_recorded() {
    let file = json!({ "tracing": { "endpoint": "10.0.0.1:4317", "samplingRatePerMillion": 7 } });
    let (config, warnings) = set(&[file]).unwrap();
    let wanted = traces::Configuration {
        endpoint: "http://10.0.0.1:4317".into(),
        per_million: 7,
    };
    assert_eq!((config.tracing, warnings.len()), (Some(wanted), 0));
}

#[test]
fn drop_ins_replace_values_and_lists_and_add_to_maps() {
    let (config, _) = set(&[
        json!({ "maxPods": 30, "clusterDNS": ["10.96.0.10", "10.96.0.11"],
            "evictionHard": { "memory.available": "200Mi", "pid.available": "5%" } }),
        json!({ "clusterDNS": ["10.96.0.12"], "evictionHard": { "memory.available": "300Mi" } }),
    ])
    .unwrap();
    assert_eq!(config.capacity.pods, Some(30));
    assert_eq!(config.cluster_dns.len(), 1);
    let hard = &config.eviction.hard;
    assert_eq!(
        hard.get(Resource::Memory),
        Some(Threshold::Amount(300 << 20))
    );
    assert_eq!(hard.get(Resource::Pid), Some(Threshold::Percent(5)));
}

/// Each of upstream's fields is either acted on or named as one without effect.
#[test]
fn no_field_is_in_both_tables() {
    let acted: Vec<&str> = ACTED_ON.iter().map(|(name, _)| *name).collect();
    assert!(WITHOUT_EFFECT.iter().all(|name| !acted.contains(name)));
    for names in [&acted[..], WITHOUT_EFFECT] {
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
    assert_eq!(acted.len() + WITHOUT_EFFECT.len(), FIELDS);
}

/// Fields of upstream's v1.36, but for those of the type itself.
const FIELDS: usize = 125;

#[test]
fn an_empty_resolver_file_is_none() {
    for (file, wanted) in [
        ("/run/resolv.conf", Some("/run/resolv.conf")),
        ("", Some("")),
        ("r", None),
    ] {
        let read = set(&[json!({ "resolvConf": file })]).ok();
        let read = read.map(|(config, _)| config.resolv_conf);
        assert_eq!(read, wanted.map(std::path::PathBuf::from), "{file:?}");
    }
}
