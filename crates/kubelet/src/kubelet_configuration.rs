//! A KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`, with its drop-ins, from values to
//! [`Config`]. What a file may hold is upstream's: a field that nobody knows is a fault, and one that
//! Tiphys has no use for is named in a warning, never passed over.

use crate::config::Config;
use crate::cpus::set::CpuSet;
use crate::eviction::{Resource, Threshold, Thresholds};
use crate::images::verification::{ImageList, Verification};
use crate::shutdown::plan::Step;
use crate::static_pods::manifest::{Read, Source};
use crate::user_ids::UNIT;
use serde_json::{Map, Value};
use std::time::Duration;
pub use values::IsWhatWeDo;
use values::{
    At, absolute, amount, at_least_a_second, duration, flag, member, number, percent, text, texts,
};
use without_effect::WITHOUT_EFFECT;

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
    /// static pods are read; `gates`: what is said of gates that nothing here asks for.
    ///
    /// # Errors
    /// Fields that nobody knows, and values that are none.
    pub fn set(
        &self,
        config: &mut Config,
        read: Read,
        gates: IsWhatWeDo,
    ) -> Result<Vec<String>, Faults> {
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        let mut fields: Vec<_> = self.fields.iter().filter(|(_, v)| !v.is_null()).collect();
        fields.sort_by_key(|(name, _)| *name);
        for (name, value) in fields {
            // No time at all stands for upstream's default; files that kubeadm writes are full of it.
            let is_said = !is_no_time(value);
            let acted = ACTED_ON.iter().find(|(known, _)| known == name);
            let without = WITHOUT_EFFECT.iter().find(|(known, ..)| known == name);
            match (acted, without) {
                (Some((_, set)), _) if is_said => {
                    let mut at = At {
                        config,
                        warnings: &mut warnings,
                        gates,
                    };
                    if let Err(why) = set(&mut at, value) {
                        faults.push(format!("{name}: {why}"));
                    }
                }
                (None, Some((_, is_so, why))) if is_said && !is_so(value) => {
                    warnings.push(format!("{name} has no effect on this kubelet: {why}"));
                }
                (None, None) => faults.push(format!("unknown field {name:?}")),
                _ => {}
            }
        }
        self.set_static_pods(config, read, &mut faults);
        match enforced::read(&self.fields) {
            Ok(all) => config.enforced = all,
            Err(why) => faults.push(why),
        }
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

/// Whether it is a time of nothing, in whichever words.
fn is_no_time(value: &Value) -> bool {
    let time = value.as_str().map(str::parse::<jiff::SignedDuration>);
    time.is_some_and(|time| time.is_ok_and(|time| time.is_zero()))
}

/// What cannot be together.
fn contradictions(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    if config.image_gc_low_percent > config.image_gc_high_percent {
        out.push("imageGCLowThresholdPercent must not be above imageGCHighThresholdPercent".into());
    }
    if config.memory_qos.is_tiered && !config.memory_qos.is_on {
        out.push(
            "memoryReservationPolicy \"TieredReservation\" requires MemoryQoS feature gate to be enabled"
                .into(),
        );
    }
    out.extend(cpus::contradictions(config));
    out.extend(config.tls_files.contradiction());
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

type Set = fn(&mut At, &Value) -> Result<(), String>;

/// The fields that this kubelet acts on.
const ACTED_ON: &[(&str, Set)] = &[
    ("allowedUnsafeSysctls", |at, v| {
        at.config.allowed_unsafe_sysctls = texts(v)?.join(",").parse()?;
        Ok(())
    }),
    ("authentication", port::authentication),
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
    ("containerLogMonitorInterval", |at, v| {
        let every = duration(v)?;
        if every < Duration::from_secs(3) {
            return Err("it must be 3s or more".into());
        }
        at.config.log_check_period = every;
        Ok(())
    }),
    ("containerRuntimeEndpoint", |at, v| {
        let path = text(v)?.trim_start_matches("unix://");
        if !path.is_empty() {
            at.config.runtime_endpoint = path.to_owned();
        }
        Ok(())
    }),
    ("cpuCFSQuota", |at, v| {
        at.config.cpus.no_quotas = !flag(v)?;
        Ok(())
    }),
    ("cpuCFSQuotaPeriod", cpus::quota_period),
    ("cpuManagerPolicy", |at, v| {
        at.config.cpus.is_static = match text(v)? {
            "none" | "" => false,
            "static" => true,
            other => return Err(format!("{other:?} is neither \"none\" nor \"static\"")),
        };
        Ok(())
    }),
    ("cpuManagerPolicyOptions", |at, v| {
        cpus::options(&mut at.config.cpus, v)
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
    ("enableDebugFlagsHandler", |at, v| {
        at.config.handlers.debug_flags = flag(v)?;
        Ok(())
    }),
    ("enableDebuggingHandlers", |at, v| {
        at.config.handlers.debugging = flag(v)?;
        Ok(())
    }),
    ("enableProfilingHandler", |at, v| {
        at.config.handlers.profiling = flag(v)?;
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
    // Set with what is reserved, and for which groups.
    ("enforceNodeAllocatable", |_, _| Ok(())),
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
    ("failCgroupV1", |at, v| {
        at.config.fail_on_cgroup_v1 = flag(v)?;
        Ok(())
    }),
    ("failSwapOn", |at, v| {
        at.config.fail_on_swap = flag(v)?;
        Ok(())
    }),
    ("featureGates", gates),
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
    ("imagePullCredentialsVerificationPolicy", |at, v| {
        at.config.image_verification = match text(v)? {
            "NeverVerify" => Verification::Never,
            "" | "NeverVerifyPreloadedImages" => Verification::NotPreloaded,
            // The list comes later.
            "NeverVerifyAllowlistedImages" => Verification::NotListed(ImageList::default()),
            "AlwaysVerify" => Verification::Always,
            other => return Err(format!("{other:?} is not a policy")),
        };
        Ok(())
    }),
    ("kubeReserved", reserved::add),
    // Set with enforceNodeAllocatable.
    ("kubeReservedCgroup", |_, v| text(v).map(drop)),
    ("maxParallelImagePulls", |at, v| {
        at.config.parallel_pulls = Some(number(v, 1)?);
        Ok(())
    }),
    ("maxPods", |at, v| {
        let most: u64 = number(v, 0)?;
        at.config.capacity.pods = Some(most).filter(|n| *n > 0);
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
    ("memoryReservationPolicy", |at, v| {
        at.config.memory_qos.is_tiered = match text(v)? {
            "" | "None" => false,
            "TieredReservation" => true,
            other => {
                return Err(format!(
                    "{other:?} is neither \"None\" nor \"TieredReservation\""
                ));
            }
        };
        Ok(())
    }),
    ("memorySwap", memory_swap),
    ("memoryThrottlingFactor", |at, v| {
        let part = v.as_f64().filter(|part| *part > 0.0 && *part <= 1.0);
        let wrong = || format!("{v} must be greater than 0 and less than or equal to 1.0");
        at.config.memory_qos.throttling = part.ok_or_else(wrong)?;
        Ok(())
    }),
    ("mergeDefaultEvictionSettings", |at, v| {
        if flag(v)? {
            let (own, usual) = (&at.config.eviction.hard, Thresholds::default());
            let of = |r: Resource| Some((r, own.get(r).or_else(|| usual.get(r))?));
            at.config.eviction.hard = Resource::ALL.into_iter().filter_map(of).collect();
        }
        Ok(())
    }),
    ("nodeLeaseDurationSeconds", |at, v| {
        let seconds: u32 = number(v, 0)?;
        if seconds == 0 {
            return Ok(());
        }
        at.config.lease_duration = Duration::from_secs(seconds.into());
        // As upstream: a quarter, so that three may be lost.
        at.config.lease_period = at.config.lease_duration / 4;
        Ok(())
    }),
    ("nodeStatusMaxImages", |at, v| {
        let most: i64 = number(v, -1)?;
        at.config.status_images = usize::try_from(most).ok();
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
    ("podsPerCore", |at, v| {
        let each: u64 = number(v, 0)?;
        at.config.pods_per_core = Some(each).filter(|n| *n > 0);
        Ok(())
    }),
    // Fields come in the order of their names, so the policy was before.
    ("preloadedImagesVerificationAllowlist", |at, v| {
        let list = ImageList::read(&texts(v)?)?;
        match &mut at.config.image_verification {
            Verification::NotListed(all) => *all = list,
            _ if list == ImageList::default() => {}
            other => {
                let policy = other.word();
                return Err(format!(
                    "it is for the policy \"NeverVerifyAllowlistedImages\", not {policy:?}"
                ));
            }
        }
        Ok(())
    }),
    ("providerID", |at, v| {
        at.config.provider_id = text(v)?.to_owned();
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
    ("runtimeRequestTimeout", |at, v| {
        at.config.runtime_timeout = at_least_a_second(v)?;
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
    ("singleProcessOOMKill", |at, v| {
        at.config.oom_kills_one = flag(v)?;
        Ok(())
    }),
    // Set with fileCheckFrequency.
    ("staticPodPath", |_, v| match text(v)? {
        "" => Ok(()),
        _ => absolute(v).map(drop),
    }),
    ("streamingConnectionIdleTimeout", |at, v| {
        at.config.stream_idle = Some(duration(v)?);
        Ok(())
    }),
    ("systemReserved", reserved::add),
    // Set with enforceNodeAllocatable.
    ("systemReservedCgroup", |_, v| text(v).map(drop)),
    ("tlsCertFile", port::certificate),
    ("tlsPrivateKeyFile", port::key),
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
    ("userNamespaces", |at, v| {
        let fields = v.as_object().ok_or("it is not an object")?;
        if let Some(other) = fields.keys().find(|k| *k != "idsPerPod") {
            return Err(format!("unknown field {other:?}"));
        }
        let Some(ids) = fields.get("idsPerPod").filter(|v| !v.is_null()) else {
            return Ok(());
        };
        let ids: u32 = number(ids, 1)?;
        if !ids.is_multiple_of(UNIT) {
            return Err(format!("idsPerPod: {ids} is not a multiple of {UNIT}"));
        }
        at.config.user_ids_per_pod = ids;
        Ok(())
    }),
];

/// Of upstream's gates those that are asked for here. Whoever sets another is warned, unless what it
/// says is done anyway.
fn gates(at: &mut At, v: &Value) -> Result<(), String> {
    for (name, value) in v.as_object().ok_or("it is not a map")? {
        let on = flag(value).map_err(|e| format!("{name}: {e}"))?;
        if name == "MemoryQoS" {
            at.config.memory_qos.is_on = on;
        } else if !(at.gates)(name, on)? {
            at.warnings.push(format!(
                "featureGates: {name} has no effect on this kubelet: nothing asks for it"
            ));
        }
    }
    Ok(())
}

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

/// Thresholds by signal; one of a signal that nobody measures here has no effect.
fn thresholds(at: &mut At, v: &Value) -> Result<Thresholds, String> {
    const NOT_MEASURED: [&str; 2] = ["allocatableMemory.available", "swap.available"];
    // As upstream: layers are on the file system of volumes or of images, whose threshold holds.
    const OF_OTHERS: [&str; 2] = ["containerfs.available", "containerfs.inodesFree"];
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
            None if OF_OTHERS.contains(&name.as_str()) => at.warnings.push(format!(
                "the threshold of {name} has no effect: that of nodefs or of imagefs holds, whichever containers' layers are on"
            )),
            None => return Err(format!("{name:?} is not a signal")),
        }
    }
    Ok(all.into_iter().collect())
}

/// `key=value:Effect`.
fn taint(v: &Value) -> Result<String, String> {
    let (key, effect) = (text(member(v, "key"))?, text(member(v, "effect"))?);
    let value = member(v, "value").as_str().unwrap_or_default();
    Ok(format!("{key}={value}:{effect}"))
}

mod cpus;
mod enforced;
mod numa;
mod port;
mod reserved;
#[cfg(test)]
mod tests;
mod values;
mod without_effect;
