//! What files say, and what comes of it.

use super::*;
use serde_json::json;

fn read(_: &[u8]) -> Result<(Value, Vec<String>), String> {
    Err("nobody reads here".into())
}

/// Of the gates of this test `Known` is on.
fn is_on(name: &str, on: bool) -> Result<bool, String> {
    match name {
        "Known" => Ok(on),
        _ => Err(format!("unrecognized feature gate: {name}")),
    }
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
    let warnings = all.set(&mut config, read, is_on)?;
    Ok((config, warnings))
}

#[test]
fn fields_are_set_in_upstreams_words() {
    let (config, warnings) = set(&[json!({
        "staticPodPath": "/etc/kubernetes/manifests", "fileCheckFrequency": "5s",
        "clusterDNS": ["10.96.0.10"], "clusterDomain": "example.org.",
        "maxPods": 30, "podPidsLimit": 500, "containerLogMaxSize": "5Mi", "containerLogMaxFiles": 3,
        "evictionHard": { "memory.available": "200Mi", "imagefs.inodesFree": "7%",
            "containerfs.available": "5%" },
        "evictionSoft": { "memory.available": "1Gi" },
        "evictionSoftGracePeriod": { "memory.available": "1m30s" },
        "evictionMaxPodGracePeriod": 60,
        "evictionMinimumReclaim": { "nodefs.available": "1Gi" },
        "systemReserved": { "cpu": "500m", "memory": "1Gi", "ephemeral-storage": "2Gi", "pid": "1k" },
        "kubeReserved": { "cpu": "1", "ephemeral-storage": "1Gi", "pid": "500" },
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
    let inodes = eviction.hard.get(Resource::ImageFsInodes);
    assert_eq!(inodes, Some(Threshold::Percent(7)));
    assert_eq!(
        eviction.soft_grace["memory.available"],
        Duration::from_secs(90)
    );
    assert_eq!(eviction.max_pod_grace_seconds, 60);
    let has = &config.reserved;
    assert_eq!(has.storage_bytes, 3 << 30);
    assert_eq!(has.pids_left(32768), Some(31268));
    let nothing = crate::config::Reserved::default();
    assert_eq!(nothing.pids_left(32768), None);
    assert_eq!((has.cpu_millis, has.memory_bytes), (1500, 1 << 30));
    assert_eq!(config.lease_period, Duration::from_secs(10));
    assert_eq!(config.crash_backoff_initial, Duration::from_secs(5));
    assert_eq!(config.shutdown.critical, Duration::from_secs(10));
    assert_eq!(config.taints, ["a=b:NoSchedule"]);
    assert_eq!(
        warnings,
        [
            "cgroupDriver has no effect on this kubelet: control groups are made as folders, never by systemd",
            "the threshold of containerfs.available has no effect: that of nodefs or of imagefs holds, whichever containers' layers are on",
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
    let without: Vec<&str> = WITHOUT_EFFECT.iter().map(|(name, ..)| *name).collect();
    assert!(without.iter().all(|name| !acted.contains(name)));
    for names in [&acted, &without] {
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }
    assert_eq!(acted.len() + without.len(), FIELDS);
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

#[test]
fn what_is_so_anyway_warns_nobody() {
    let (config, warnings) = set(&[json!({
        "authentication": { "anonymous": { "enabled": false }, "webhook": { "enabled": true } },
        "authorization": { "mode": "Webhook" }, "cgroupDriver": "cgroupfs",
        "rotateCertificates": true, "readOnlyPort": 0, "port": 10_250, "healthzPort": 0,
        "enforceNodeAllocatable": ["pods"], "registerNode": true,
        // What kubeadm writes.
        "cpuManagerReconcilePeriod": "0s", "evictionPressureTransitionPeriod": "0s",
        "httpCheckFrequency": "0s", "imageMinimumGCAge": "0s", "nodeStatusUpdateFrequency": "0s",
        "runtimeRequestTimeout": "0s", "streamingConnectionIdleTimeout": "0s",
        "syncFrequency": "0s", "volumeStatsAggPeriod": "0s", "maxPods": 0,
        "nodeLeaseDurationSeconds": 0,
    })])
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let usual = self::config();
    assert_eq!(config.image_gc_min_age, usual.image_gc_min_age);
    assert_eq!(config.stream_idle, usual.stream_idle);
    assert_eq!(config.status_check_period, usual.status_check_period);
    assert_eq!(config.lease_duration, usual.lease_duration);
    assert_eq!(config.capacity.pods, None);
    for none in ["0m", "0h0m0s"] {
        let file = json!({ "streamingConnectionIdleTimeout": none });
        let (config, _) = set(&[file]).unwrap();
        assert_eq!(config.stream_idle, usual.stream_idle, "{none}");
    }
    for (file, why) in [
        (
            json!({ "authentication": { "anonymous": { "enabled": true } } }),
            "authentication.anonymous.enabled has no effect on this kubelet: nobody gets in without a certificate or a token",
        ),
        (
            json!({ "authentication": { "webhook": { "enabled": false } } }),
            "authentication.webhook.enabled has no effect on this kubelet: the API server is asked about every token",
        ),
        (
            json!({ "readOnlyPort": 10_255 }),
            "readOnlyPort has no effect on this kubelet: there is no port without authentication",
        ),
        (
            json!({ "featureGates": { "MemoryQoS": true, "Known": false } }),
            "featureGates: Known has no effect on this kubelet: nothing asks for it",
        ),
    ] {
        assert_eq!(set(&[file]).unwrap().1, [why]);
    }
    let gate = |name: &str| set(&[json!({ "featureGates": { name: true } })]);
    assert_eq!(gate("Known").unwrap().1, Vec::<String>::new());
    assert_eq!(
        gate("Other").unwrap_err().to_string(),
        "featureGates: unrecognized feature gate: Other"
    );
}

#[test]
fn the_ports_certificate_and_the_authority_of_clients_are_files() {
    let (config, warnings) = set(&[json!({
        "tlsCertFile": "/etc/k/a.crt", "tlsPrivateKeyFile": "/etc/k/a.key",
        "authentication": { "x509": { "clientCAFile": "/etc/k/ca.crt" } },
    })])
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let named = ["/etc/k/a.crt", "/etc/k/a.key", "/etc/k/ca.crt"];
    assert_eq!(config.tls_files.all(), Ok(named.map(std::path::Path::new)));
    let shown = crate::configz::of(&config, 110);
    assert_eq!(shown["tlsCertFile"], named[0]);
    assert_eq!(shown["authentication"]["x509"]["clientCAFile"], named[2]);
    let (config, _) = set(&[json!({ "tlsCertFile": "", "tlsPrivateKeyFile": "" })]).unwrap();
    assert_eq!(config.tls_files, crate::tls_files::TlsFiles::default());
    for (file, why) in [
        (
            json!({ "tlsCertFile": "/a.crt" }),
            "tlsCertFile must not be without tlsPrivateKeyFile",
        ),
        (
            json!({ "tlsPrivateKeyFile": "a.key", "tlsCertFile": "/a.crt" }),
            "tlsPrivateKeyFile: \"a.key\" is not an absolute path; tlsCertFile must not be without tlsPrivateKeyFile",
        ),
        (
            json!({ "authentication": { "x509": { "clientCAFile": 1 } } }),
            "authentication: x509.clientCAFile: 1 is not a text",
        ),
    ] {
        assert_eq!(set(&[file]).unwrap_err().to_string(), why);
    }
}

#[test]
fn images_memory_and_the_port_are_set_in_upstreams_words() {
    let (config, warnings) = set(&[json!({
        "imagePullCredentialsVerificationPolicy": "NeverVerifyAllowlistedImages",
        "preloadedImagesVerificationAllowlist": ["reg.io/base/*"],
        "cpuCFSQuota": false, "cpuCFSQuotaPeriod": "10ms",
        "enableDebuggingHandlers": false, "enableProfilingHandler": false,
        "featureGates": { "MemoryQoS": true }, "memoryThrottlingFactor": 0.8,
        "memoryReservationPolicy": "TieredReservation", "singleProcessOOMKill": true,
        "nodeStatusMaxImages": -1, "podsPerCore": 10, "providerID": "cloud://one",
        "containerLogMonitorInterval": "5s", "runtimeRequestTimeout": "30s",
        "userNamespaces": { "idsPerPod": 131_072 }, "failSwapOn": true, "failCgroupV1": true,
        "evictionHard": { "memory.available": "1Gi" }, "mergeDefaultEvictionSettings": true,
    })])
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert!(!config.image_verification.asks("reg.io/base/a:1", true));
    assert!(config.image_verification.asks("reg.io/other:1", false));
    let handlers = config.handlers;
    assert!(!handlers.debugging && !handlers.profiling && handlers.debug_flags);
    let memory = config.memory_qos;
    assert!(memory.is_on && memory.is_tiered && config.oom_kills_one);
    assert!(config.cpus.no_quotas);
    assert_eq!(config.cpus.quota_period_micros, Some(10_000));
    assert_eq!((memory.throttling * 10.0).round() as i64, 8);
    assert_eq!(
        (config.status_images, config.pods_per_core),
        (None, Some(10))
    );
    assert_eq!(config.provider_id, "cloud://one");
    assert_eq!(config.log_check_period, Duration::from_secs(5));
    assert_eq!(config.runtime_timeout, Duration::from_secs(30));
    assert_eq!(config.user_ids_per_pod, 131_072);
    assert!(config.fail_on_swap && config.fail_on_cgroup_v1);
    let hard = &config.eviction.hard;
    let own = Some(Threshold::Amount(1 << 30));
    assert_eq!(hard.get(Resource::Memory), own);
    let usual = Thresholds::default();
    assert_eq!(hard.get(Resource::NodeFs), usual.get(Resource::NodeFs));
    for (file, why) in [
        (
            json!({ "imagePullCredentialsVerificationPolicy": "Sometimes" }),
            "is not a policy",
        ),
        (
            json!({ "preloadedImagesVerificationAllowlist": ["a"] }),
            "it is for the policy \"NeverVerifyAllowlistedImages\", not \"NeverVerifyPreloadedImages\"",
        ),
        (
            json!({ "memoryReservationPolicy": "TieredReservation" }),
            "requires MemoryQoS feature gate",
        ),
        (
            json!({ "memoryThrottlingFactor": 1.5 }),
            "greater than 0 and less than or equal to 1.0",
        ),
        (
            json!({ "userNamespaces": { "idsPerPod": 100 } }),
            "not a multiple of 65536",
        ),
        (json!({ "containerLogMonitorInterval": "1s" }), "3s or more"),
        (json!({ "cpuCFSQuotaPeriod": "2s" }), "from 1ms to 1s"),
    ] {
        let fault = set(&[file]).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
}

#[test]
fn options_of_the_cpu_manager_are_upstreams() {
    let with = |options: Value| set(&[json!({ "cpuManagerPolicyOptions": options })]);
    let (config, _) = with(json!({ "distribute-cpus-across-numa": "true",
        "full-pcpus-only": "true", "align-by-socket": "true", "strict-cpu-reservation": "false" }))
    .unwrap();
    let cpus = &config.cpus;
    assert!(cpus.over_numa && cpus.full_cores_only && cpus.by_socket);
    assert!(!cpus.strict_reservation && !cpus.over_cores && !cpus.by_cache);
    for (options, why) in [
        (
            json!({ "faster": "true" }),
            "unknown CPU Manager Policy option: \"faster\"",
        ),
        (
            json!({ "full-pcpus-only": "true", "distribute-cpus-across-cores": "true" }),
            "full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
        ),
        (
            json!({ "prefer-align-cpus-by-uncorecache": "true", "distribute-cpus-across-numa": "true" }),
            "can not be used at the same time",
        ),
    ] {
        let fault = with(options).unwrap_err().to_string();
        assert!(fault.contains(why), "{fault}");
    }
    let single = json!({ "cpuManagerPolicyOptions": { "align-by-socket": "true" },
        "topologyManagerPolicy": "single-numa-node" });
    let fault = set(&[single]).unwrap_err().to_string();
    assert!(fault.contains("incompatible"), "{fault}");
}
