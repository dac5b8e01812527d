//! A KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`, with its drop-ins, from values to
//! [`Config`]. What a file may hold is upstream's: a field that nobody knows is a fault, and one that
//! Tiphys has no use for is named in a warning, never passed over.

use crate::config::{Config, Reserved};
use crate::cpus::set::CpuSet;
use crate::eviction::{Resource, Threshold, Thresholds};
use crate::shutdown::plan::Step;
use crate::static_pods::manifest::{Read, Source};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Group and version of the kind.
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
const KIND: &str = "KubeletConfiguration";
/// Between looks at static pods; upstream's default.
const FILE_CHECK: Duration = Duration::from_secs(20);

/// Why files are no configuration: the field and what is wrong with it, one each.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Faults(pub Vec<String>);

/// What files say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Configuration {
    fields: Map<String, Value>,
}

impl Configuration {
    /// Puts a file's fields over those of the files before: lists and plain values in their place,
    /// maps member by member, as upstream's drop-ins.
    ///
    /// # Errors
    /// It is of another kind, or no object.
    pub fn add(&mut self, file: Value) -> Result<(), Faults> {
        let Value::Object(mut fields) = file else {
            return Err(Faults(vec!["it is not an object".into()]));
        };
        for (field, want) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            let have = fields.remove(field).unwrap_or_default();
            if have != want {
                return Err(Faults(vec![format!("{field} is {have}, not {want:?}")]));
            }
        }
        merge(&mut self.fields, fields);
        Ok(())
    }

    /// Sets what the files say; gives what of it has no effect, for people. `read`: how manifests of
    /// static pods are read.
    ///
    /// # Errors
    /// Fields that nobody knows, and values that are none.
    pub fn set(&self, config: &mut Config, read: Read) -> Result<Vec<String>, Faults> {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let mut fields: Vec<_> = self.fields.iter().filter(|(_, v)| !v.is_null()).collect();
        fields.sort_by_key(|(name, _)| *name);
        for (name, value) in fields {
            if let Some((_, set)) = ACTED_ON.iter().find(|(known, _)| known == name) {
                let mut at = At {
                    config,
                    warnings: &mut warnings,
                };
                if let Err(why) = set(&mut at, value) {
                    faults.push(format!("{name}: {why}"));
                }
            } else if WITHOUT_EFFECT.contains(&name.as_str()) {
                warnings.push(format!("{name} has no effect on this kubelet"));
            } else {
                faults.push(format!("unknown field {name:?}"));
            }
        }
        self.set_static_pods(config, read, &mut faults);
        faults.extend(contradictions(config));
        if faults.is_empty() {
            Ok(warnings)
        } else {
            Err(Faults(faults))
        }
    }

    fn set_static_pods(&self, config: &mut Config, read: Read, faults: &mut Vec<String>) {
        let path = self.fields.get("staticPodPath").and_then(Value::as_str);
        let Some(path) = path.filter(|p| !p.is_empty()) else {
            return;
        };
        let period = self.fields.get("fileCheckFrequency").map(duration);
        match period.unwrap_or(Ok(FILE_CHECK)) {
            Ok(period) => {
                let period = if period.is_zero() { FILE_CHECK } else { period };
                config.static_pods = Some(Source {
                    path: path.into(),
                    period,
                    read,
                });
            }
            Err(why) => faults.push(format!("fileCheckFrequency: {why}")),
        }
    }
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (name, value) in from {
        match (into.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => drop(into.insert(name, value)),
        }
    }
}

/// What cannot be together.
fn contradictions(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    if config.image_gc_low_percent > config.image_gc_high_percent {
        out.push("imageGCLowThresholdPercent must not be above imageGCHighThresholdPercent".into());
    }
    let eviction = &config.eviction;
    for (resource, _) in eviction.soft.iter() {
        if !eviction.soft_grace.contains_key(resource.name()) {
            let name = resource.name();
            out.push(format!(
                "evictionSoftGracePeriod: grace period must be specified for the soft eviction threshold {name}"
            ));
        }
    }
    out
}

/// What a field is set on.
struct At<'a> {
    config: &'a mut Config,
    warnings: &'a mut Vec<String>,
}

type Set = fn(&mut At, &Value) -> Result<(), String>;

/// The fields that this kubelet acts on.
const ACTED_ON: &[(&str, Set)] = &[
    ("allowedUnsafeSysctls", |at, v| {
        at.config.allowed_unsafe_sysctls = texts(v)?.join(",").parse()?;
        Ok(())
    }),
    ("clusterDNS", |at, v| {
        let one = |t: &String| t.parse().map_err(|_| format!("{t:?} is not an address"));
        let all: Result<_, String> = texts(v)?.iter().map(one).collect();
        at.config.cluster_dns = all?;
        Ok(())
    }),
    ("clusterDomain", |at, v| {
        at.config.cluster_domain = text(v)?.trim_end_matches('.').to_owned();
        Ok(())
    }),
    ("containerLogMaxFiles", |at, v| {
        at.config.log_max_files = number(v, 2)?;
        Ok(())
    }),
    ("containerLogMaxSize", |at, v| {
        at.config.log_max_bytes = amount(v)?;
        Ok(())
    }),
    ("containerRuntimeEndpoint", |at, v| {
        let path = text(v)?.trim_start_matches("unix://");
        if !path.is_empty() {
            at.config.runtime_endpoint = path.to_owned();
        }
        Ok(())
    }),
    ("cpuManagerPolicy", |at, v| {
        at.config.cpus.is_static = match text(v)? {
            "none" | "" => false,
            "static" => true,
            other => return Err(format!("{other:?} is neither \"none\" nor \"static\"")),
        };
        Ok(())
    }),
    ("cpuManagerPolicyOptions", |at, v| {
        for (name, value) in v.as_object().ok_or("it is not a map")? {
            let on = match text(value)? {
                "true" => true,
                "false" => false,
                other => return Err(format!("{name}: {other:?} is neither true nor false")),
            };
            match name.as_str() {
                "full-pcpus-only" => at.config.cpus.full_cores_only = on,
                "strict-cpu-reservation" => at.config.cpus.strict_reservation = on,
                other if on => return Err(format!("the option {other:?} is not supported")),
                _ => {}
            }
        }
        Ok(())
    }),
    ("crashLoopBackOff", |at, v| {
        let longest = v.get("maxContainerRestartPeriod").map(duration);
        if let Some(longest) = longest.transpose()? {
            if longest < Duration::from_secs(1) || longest > Duration::from_secs(300) {
                return Err("maxContainerRestartPeriod must be from 1s to 300s".into());
            }
            at.config.crash_backoff_max = longest;
            at.config.crash_backoff_initial = at.config.crash_backoff_initial.min(longest);
        }
        Ok(())
    }),
    ("enableSystemLogHandler", |at, v| {
        at.config.system_logs.files = flag(v)?;
        Ok(())
    }),
    ("enableSystemLogQuery", |at, v| {
        at.config.system_logs.query = flag(v)?;
        Ok(())
    }),
    ("evictionHard", |at, v| {
        let found = thresholds(at, v)?;
        at.config.eviction.hard = found;
        Ok(())
    }),
    ("evictionMaxPodGracePeriod", |at, v| {
        at.config.eviction.max_pod_grace_seconds = number(v, 0)?;
        Ok(())
    }),
    ("evictionMinimumReclaim", |at, v| {
        let found = thresholds(at, v)?;
        at.config.eviction.minimum_reclaim = found;
        Ok(())
    }),
    ("evictionPressureTransitionPeriod", |at, v| {
        at.config.eviction.transition_period = duration(v)?;
        Ok(())
    }),
    ("evictionSoft", |at, v| {
        let found = thresholds(at, v)?;
        at.config.eviction.soft = found;
        Ok(())
    }),
    ("evictionSoftGracePeriod", |at, v| {
        let map = v.as_object().ok_or("it is not a map")?;
        let one = |(name, v): (&String, &Value)| Ok((name.clone(), duration(v)?));
        at.config.eviction.soft_grace = map.iter().map(one).collect::<Result<_, String>>()?;
        Ok(())
    }),
    // Set with staticPodPath.
    ("fileCheckFrequency", |_, v| duration(v).map(drop)),
    ("imageGCHighThresholdPercent", |at, v| {
        at.config.image_gc_high_percent = percent(v)?;
        Ok(())
    }),
    ("imageGCLowThresholdPercent", |at, v| {
        at.config.image_gc_low_percent = percent(v)?;
        Ok(())
    }),
    ("imageMaximumGCAge", |at, v| {
        let most = duration(v)?;
        at.config.image_gc_max_age = Some(most).filter(|m| !m.is_zero());
        Ok(())
    }),
    ("imageMinimumGCAge", |at, v| {
        at.config.image_gc_min_age = duration(v)?;
        Ok(())
    }),
    ("kubeReserved", reserved),
    ("maxParallelImagePulls", |at, v| {
        at.config.parallel_pulls = Some(number(v, 1)?);
        Ok(())
    }),
    ("maxPods", |at, v| {
        at.config.capacity.pods = Some(number(v, 0)?);
        Ok(())
    }),
    ("memoryManagerPolicy", |at, v| {
        at.config.memory.is_static = match text(v)? {
            "None" | "" => false,
            "Static" => true,
            other => return Err(format!("{other:?} is neither \"None\" nor \"Static\"")),
        };
        Ok(())
    }),
    ("memorySwap", memory_swap),
    ("nodeLeaseDurationSeconds", |at, v| {
        let seconds: u32 = number(v, 1)?;
        at.config.lease_duration = Duration::from_secs(seconds.into());
        // As upstream: a quarter, so that three may be lost.
        at.config.lease_period = at.config.lease_duration / 4;
        Ok(())
    }),
    ("nodeStatusReportFrequency", |at, v| {
        at.config.status_report_period = at_least_a_second(v)?;
        Ok(())
    }),
    ("nodeStatusUpdateFrequency", |at, v| {
        at.config.status_check_period = at_least_a_second(v)?;
        Ok(())
    }),
    ("podLogsDir", |at, v| {
        at.config.log_dir = absolute(v)?.into();
        Ok(())
    }),
    ("podPidsLimit", |at, v| {
        let most: i64 = number(v, -1)?;
        at.config.pod_pids_limit = Some(most).filter(|n| *n > 0);
        Ok(())
    }),
    ("registerWithTaints", |at, v| {
        let all = v.as_array().ok_or("it is not a list")?;
        at.config.taints = all.iter().map(taint).collect::<Result<_, _>>()?;
        Ok(())
    }),
    ("reservedMemory", |at, v| {
        at.config.memory.reserved = numa::reserved(v)?;
        Ok(())
    }),
    ("reservedSystemCPUs", |at, v| {
        let set: CpuSet = text(v)?.parse()?;
        if !set.0.is_empty() {
            let count = u64::try_from(set.0.len()).unwrap_or(u64::MAX);
            // In place of what kubeReserved and systemReserved say of CPU.
            at.config.reserved.cpu_millis = count.saturating_mul(1000);
            at.config.cpus.reserved = Some(set);
        }
        Ok(())
    }),
    ("resolvConf", |at, v| {
        // None: the node itself is asked.
        let none = text(v)?.is_empty();
        at.config.resolv_conf = if none { "" } else { absolute(v)? }.into();
        Ok(())
    }),
    ("seccompDefault", |at, v| {
        at.config.seccomp_default = flag(v)?;
        Ok(())
    }),
    // Fields come in the order of their names, so maxParallelImagePulls was before.
    ("serializeImagePulls", |at, v| {
        if flag(v)? {
            if at.config.parallel_pulls.is_some_and(|n| n > 1) {
                return Err("it cannot be true where maxParallelImagePulls is above 1".into());
            }
            at.config.parallel_pulls = Some(1);
        }
        Ok(())
    }),
    ("shutdownGracePeriod", |at, v| {
        at.config.shutdown.whole = duration(v)?;
        Ok(())
    }),
    ("shutdownGracePeriodByPodPriority", |at, v| {
        let all = v.as_array().ok_or("it is not a list")?;
        let one = |v: &Value| -> Result<Step, String> {
            let seconds: u32 = number(member(v, "shutdownGracePeriodSeconds"), 0)?;
            let priority = member(v, "priority").as_i64().unwrap_or_default();
            Ok(Step {
                priority: i32::try_from(priority).map_err(|e| e.to_string())?,
                grace: Duration::from_secs(seconds.into()),
            })
        };
        at.config.shutdown.steps = all.iter().map(one).collect::<Result<_, _>>()?;
        Ok(())
    }),
    ("shutdownGracePeriodCriticalPods", |at, v| {
        at.config.shutdown.critical = duration(v)?;
        Ok(())
    }),
    // Set with fileCheckFrequency.
    ("staticPodPath", |_, v| match text(v)? {
        "" => Ok(()),
        _ => absolute(v).map(drop),
    }),
    // Zero is upstream's default, as everywhere in this kind.
    ("streamingConnectionIdleTimeout", |at, v| {
        let most = duration(v)?;
        if !most.is_zero() {
            at.config.stream_idle = Some(most);
        }
        Ok(())
    }),
    ("systemReserved", reserved),
    ("topologyManagerPolicy", |at, v| {
        at.config.topology.policy = numa::policy(text(v)?)?;
        Ok(())
    }),
    ("topologyManagerPolicyOptions", |at, v| {
        numa::options(&mut at.config.topology, v)
    }),
    ("topologyManagerScope", |at, v| {
        at.config.topology.scope = numa::scope(text(v)?)?;
        Ok(())
    }),
    ("tracing", |at, v| {
        let fields = v.as_object().ok_or("it is not an object")?;
        let read = traces::Configuration::read_fields(fields);
        at.config.tracing = Some(read.map_err(|e| e.to_string())?);
        Ok(())
    }),
];

/// The fields that upstream knows and that have no effect here.
const WITHOUT_EFFECT: &[&str] = &[
    "address",
    "authentication",
    "authorization",
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "configMapAndSecretChangeDetectionStrategy",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "contentType",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerReconcilePeriod",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableDebuggingHandlers",
    "enableProfilingHandler",
    "enableServer",
    "enforceNodeAllocatable",
    "eventBurst",
    "eventRecordQPS",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "hairpinMode",
    "healthzBindAddress",
    "healthzPort",
    "httpCheckFrequency",
    "imagePullCredentialsVerificationPolicy",
    "imageServiceEndpoint",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kubeAPIBurst",
    "kubeAPIQPS",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "memoryReservationPolicy",
    "memoryThrottlingFactor",
    "mergeDefaultEvictionSettings",
    "nodeStatusMaxImages",
    "oomScoreAdj",
    "podCIDR",
    "podsPerCore",
    "port",
    "preloadedImagesVerificationAllowlist",
    "protectKernelDefaults",
    "providerID",
    "qosReserved",
    "readOnlyPort",
    "registerNode",
    "registryBurst",
    "registryPullQPS",
    "rotateCertificates",
    "runOnce",
    "runtimeRequestTimeout",
    "serverTLSBootstrap",
    "showHiddenMetricsForVersion",
    "singleProcessOOMKill",
    "staticPodURL",
    "staticPodURLHeader",
    "syncFrequency",
    "systemCgroups",
    "systemReservedCgroup",
    "tlsCertFile",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "tlsPrivateKeyFile",
    "userNamespaces",
    "volumePluginDir",
    "volumeStatsAggPeriod",
];

/// Whether pods may use swap; what else is said of it is upstream's future.
fn memory_swap(at: &mut At, v: &Value) -> Result<(), String> {
    let all = v.as_object().ok_or("it is not a map")?;
    if let Some(other) = all.keys().find(|k| *k != "swapBehavior") {
        return Err(format!("unknown field {other:?}"));
    }
    at.config.limited_swap = match member(v, "swapBehavior").as_str().unwrap_or_default() {
        "" | "NoSwap" => false,
        "LimitedSwap" => true,
        other => {
            return Err(format!(
                "{other:?} is neither \"NoSwap\" nor \"LimitedSwap\""
            ));
        }
    };
    Ok(())
}

fn member<'a>(v: &'a Value, name: &str) -> &'a Value {
    v.get(name).unwrap_or(&Value::Null)
}

fn text(v: &Value) -> Result<&str, String> {
    v.as_str().ok_or_else(|| format!("{v} is not a text"))
}

fn texts(v: &Value) -> Result<Vec<String>, String> {
    let all = v.as_array().ok_or("it is not a list")?;
    all.iter().map(|v| text(v).map(str::to_owned)).collect()
}

fn flag(v: &Value) -> Result<bool, String> {
    v.as_bool().ok_or_else(|| format!("{v} is not a boolean"))
}

fn absolute(v: &Value) -> Result<&str, String> {
    let path = text(v)?;
    let well = path.starts_with('/');
    well.then_some(path)
        .ok_or_else(|| format!("{path:?} is not an absolute path"))
}

/// A whole number that is not below the least.
fn number<T: TryFrom<i64>>(v: &Value, least: i64) -> Result<T, String> {
    let found = v.as_i64().filter(|n| *n >= least);
    let found = found.and_then(|n| T::try_from(n).ok());
    found.ok_or_else(|| format!("{v} is not a whole number from {least} on"))
}

fn percent(v: &Value) -> Result<u64, String> {
    number(v, 0).and_then(|n| {
        let well = n <= 100;
        well.then_some(n).ok_or_else(|| format!("{n} is above 100"))
    })
}

/// A duration as upstream writes it, such as `1m30s`.
fn duration(v: &Value) -> Result<Duration, String> {
    let text = text(v)?;
    let wrong = || format!("{text:?} is not a duration such as 1m30s");
    let parsed: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    parsed.try_into().map_err(|_| wrong())
}

fn at_least_a_second(v: &Value) -> Result<Duration, String> {
    let found = duration(v)?;
    let well = found >= Duration::from_secs(1);
    well.then_some(found).ok_or_else(|| "below 1s".into())
}

fn amount(v: &Value) -> Result<u64, String> {
    let text = text(v)?;
    let quantity: api::Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{text:?} is not an amount"))
}

/// Thresholds by signal; one of a signal that nobody measures here has no effect.
fn thresholds(at: &mut At, v: &Value) -> Result<Thresholds, String> {
    const NOT_MEASURED: [&str; 5] = [
        "imagefs.inodesFree",
        "containerfs.available",
        "containerfs.inodesFree",
        "allocatableMemory.available",
        "swap.available",
    ];
    let map = v.as_object().ok_or("it is not a map")?;
    let mut all = Vec::new();
    for (name, v) in map {
        let threshold: Threshold = text(v)?.parse()?;
        match Resource::ALL.into_iter().find(|r| r.name() == name) {
            Some(resource) => all.push((resource, threshold)),
            None if NOT_MEASURED.contains(&name.as_str()) => {
                at.warnings.push(format!(
                    "the signal {name} is not measured: its threshold has no effect"
                ));
            }
            None => return Err(format!("{name:?} is not a signal")),
        }
    }
    Ok(all.into_iter().collect())
}

/// Both kinds of reserved resources count together.
fn reserved(at: &mut At, v: &Value) -> Result<(), String> {
    let map: BTreeMap<&String, &Value> = v.as_object().ok_or("it is not a map")?.iter().collect();
    let mut more = Reserved::default();
    for (name, v) in map {
        match name.as_str() {
            "cpu" => {
                let text = text(v)?;
                let quantity: api::Quantity = text.parse().map_err(|e| format!("{text:?}: {e}"))?;
                let millis = u64::try_from(quantity.milli_value());
                more.cpu_millis = millis.map_err(|_| format!("{text:?} is not an amount"))?;
            }
            "memory" => more.memory_bytes = amount(v)?,
            "ephemeral-storage" | "pid" => at.warnings.push(format!(
                "{name} is not reserved: what is said of it has no effect"
            )),
            other => return Err(format!("{other:?} is not a resource that can be reserved")),
        }
    }
    if at.config.cpus.reserved.is_some() {
        // Which CPUs are reserved says how many.
        more.cpu_millis = 0;
    }
    let have = &mut at.config.reserved;
    have.cpu_millis = have.cpu_millis.saturating_add(more.cpu_millis);
    have.memory_bytes = have.memory_bytes.saturating_add(more.memory_bytes);
    Ok(())
}

/// `key=value:Effect`.
fn taint(v: &Value) -> Result<String, String> {
    let (key, effect) = (text(member(v, "key"))?, text(member(v, "effect"))?);
    let value = member(v, "value").as_str().unwrap_or_default();
    Ok(format!("{key}={value}:{effect}"))
}

mod numa;
#[cfg(test)]
mod tests;
