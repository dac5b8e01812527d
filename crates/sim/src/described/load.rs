//! What pods use: loads that the file describes, shared by the pods that they meet, as kubelets would
//! measure it. Autoscalers learn of it by the usual way.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use api::quantity::Quantity;
use client::Change;
use clock::Instant;
use control::ready::is_pod_ready;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Deserialize;

/// Bytes that whatever runs has, and a node by itself: who reads figures takes nought for not measured.
const LEAST_BYTES: i64 = 1 << 20;

/// What pods with these labels have to do, all together: each takes its part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Load {
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Labels that they all have.
    pub selector: BTreeMap<String, String>,
    pub cpu: Option<Quantity>,
    pub memory: Option<Quantity>,
}

pub fn default_namespace() -> String {
    "default".to_owned()
}

impl Load {
    /// What is wrong with it, with its field.
    pub fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.selector.is_empty() {
            return Some((".selector", "must have a label"));
        }
        if self.cpu.is_none() && self.memory.is_none() {
            return Some(("", "say how much: cpu, memory or both"));
        }
        for (field, amount) in [(".cpu", &self.cpu), (".memory", &self.memory)] {
            if amount.as_ref().is_some_and(Quantity::is_negative) {
                return Some((field, "must not be negative"));
            }
        }
        None
    }

    fn meets(&self, namespace: &str, pod: &PodUse) -> bool {
        let has = |(key, value): (&String, &String)| pod.labels.get(key) == Some(value);
        self.namespace == namespace && self.selector.iter().all(has)
    }
}

/// A pod that runs and is ready, and what it uses.
struct PodUse {
    node: String,
    labels: BTreeMap<String, String>,
    /// The container that has the load.
    container: String,
    /// No more processor than its limit, in thousandths.
    most_millis: Option<i64>,
    /// Whether any load meets it: of others nothing is measured.
    is_met: bool,
    cpu_millis: i64,
    memory_bytes: i64,
    /// Of processors, since it was first seen.
    used_seconds: f64,
}

impl PodUse {
    /// None of a pod that does not run, or is on a node that is silent: nobody sends it anything to do.
    fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let container = spec.containers.first()?;
        let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
        let limit = limits.and_then(|all| all.get("cpu"));
        let limit = limit.and_then(|q| q.0.parse::<Quantity>().ok());
        let works = phase == Some("Running") && is_pod_ready(pod);
        if !works || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            node: spec.node_name.clone()?,
            labels: pod.labels().clone(),
            container: container.name.clone(),
            most_millis: limit.map(|q| q.milli_value()),
            is_met: false,
            cpu_millis: 0,
            memory_bytes: 0,
            used_seconds: 0.0,
        })
    }
}

/// What all pods use.
#[derive(Default)]
pub struct Usage {
    loads: Vec<Load>,
    /// By namespace and name.
    pods: BTreeMap<(String, String), PodUse>,
    /// Until when it is counted.
    counted: Option<Instant>,
}

impl Usage {
    /// Counts what was used until now.
    fn count(&mut self, now: Instant) {
        let before = self.counted.replace(now).unwrap_or(now);
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        for pod in self.pods.values_mut() {
            pod.used_seconds += pod.cpu_millis as f64 / 1_000.0 * seconds;
        }
    }

    /// From now on a load is so large; another one of the same pods is replaced.
    pub fn set(&mut self, load: &Load, now: Instant) {
        self.count(now);
        let is_same = |l: &Load| l.namespace == load.namespace && l.selector == load.selector;
        self.loads.retain(|l| !is_same(l));
        self.loads.push(load.clone());
        self.share();
    }

    /// Takes a change of a pod in.
    pub fn take(&mut self, change: &Change<Pod>, now: Instant) {
        let Some(pod) = change.new.as_deref().or(change.old.as_deref()) else {
            return;
        };
        let key = (pod.namespace().unwrap_or_default(), pod.name_any());
        let new = change.new.as_deref().and_then(PodUse::of);
        if new.is_some() == self.pods.contains_key(&key) {
            return;
        }
        self.count(now);
        match new {
            Some(new) => self.pods.insert(key, new),
            None => self.pods.remove(&key),
        };
        self.share();
    }

    /// Gives each pod its part of the loads.
    fn share(&mut self) {
        for pod in self.pods.values_mut() {
            (pod.is_met, pod.cpu_millis, pod.memory_bytes) = (false, 0, 0);
        }
        for load in &self.loads {
            let all = self.pods.iter_mut();
            let met = all.filter(|((namespace, _), pod)| load.meets(namespace, pod));
            let met: Vec<&mut PodUse> = met.map(|(_, pod)| pod).collect();
            let parts = i64::try_from(met.len()).unwrap_or(i64::MAX).max(1);
            let part = |amount: Option<i64>| amount.unwrap_or(0) / parts;
            let cpu = part(load.cpu.as_ref().map(Quantity::milli_value));
            let memory = part(load.memory.as_ref().map(Quantity::value));
            for pod in met {
                let most = pod.most_millis.unwrap_or(i64::MAX);
                pod.is_met = true;
                pod.cpu_millis = pod.cpu_millis.saturating_add(cpu).min(most);
                pod.memory_bytes = pod.memory_bytes.saturating_add(memory);
            }
        }
    }

    /// What the kubelet of a node would say, at this time in milliseconds since the epoch.
    pub fn text(&mut self, node: &str, now: Instant, millis: i64) -> String {
        self.count(now);
        let mut out = String::new();
        let (mut seconds, mut bytes) = (0.0, LEAST_BYTES);
        let here = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.node == node && pod.is_met);
        for ((namespace, name), pod) in here {
            let (used, container) = (pod.used_seconds, &pod.container);
            let memory = pod.memory_bytes.max(LEAST_BYTES);
            let labels =
                format!("container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\"");
            let _ = writeln!(
                out,
                "container_cpu_usage_seconds_total{{{labels}}} {used} {millis}"
            );
            let _ = writeln!(
                out,
                "container_memory_working_set_bytes{{{labels}}} {memory} {millis}"
            );
            seconds += used;
            bytes = bytes.saturating_add(memory);
        }
        let _ = writeln!(out, "node_cpu_usage_seconds_total {seconds} {millis}");
        let _ = writeln!(out, "node_memory_working_set_bytes {bytes} {millis}");
        out
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn comes(name: &str, limit: &str) -> Change<Pod> {
        let pod = json!({ "metadata": { "name": name, "namespace": "d", "labels": { "app": "web" } },
            "spec": { "nodeName": "n", "containers": [
                { "name": "c", "resources": { "limits": { "cpu": limit } } }] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        let new = serde_json::from_value(pod).expect("a pod");
        Change {
            old: None,
            new: Some(Arc::new(new)),
        }
    }

    /// What is measured of a pod has memory, too, else it is taken for not measured.
    #[test]
    fn all_that_runs_has_memory_and_what_is_not_ready_has_no_load() {
        let mut usage = Usage::default();
        let load = json!({ "namespace": "d", "selector": { "app": "web" }, "cpu": "1" });
        let load: Load = serde_json::from_value(load).expect("a load");
        let begin = Instant::now();
        usage.set(&load, begin);
        let mut silent = comes("b", "1");
        for change in [comes("a", "1"), comes("b", "1")] {
            usage.take(&change, begin);
        }
        let text = usage.text("n", begin, 5);
        let of_memory =
            "container_memory_working_set_bytes{container=\"c\",namespace=\"d\",pod=\"a\"}";
        assert!(
            text.contains(&format!("{of_memory} {LEAST_BYTES} 5")),
            "{text}"
        );
        let node = format!("node_memory_working_set_bytes {} 5", 3 * LEAST_BYTES);
        assert!(text.contains(&node), "{text}");
        // The node of one is not heard from: the other has all of the load.
        let pod = silent.new.as_mut().map(Arc::make_mut);
        let status = pod.and_then(|p| p.status.as_mut());
        let conditions = status
            .and_then(|s| s.conditions.as_mut())
            .expect("conditions");
        conditions[0].status = "False".to_owned();
        usage.take(&silent, begin);
        let text = usage.text("n", begin + Duration::from_secs(10), 6);
        assert!(!text.contains("pod=\"b\""), "{text}");
        assert!(text.contains("node_cpu_usage_seconds_total 10 6"), "{text}");
    }

    #[test]
    fn a_load_is_shared_up_to_limits() {
        let mut usage = Usage::default();
        let load = json!({ "namespace": "d", "selector": { "app": "web" }, "cpu": "3" });
        let load: Load = serde_json::from_value(load).expect("a load");
        assert_eq!(load.fault(), None);
        let begin = Instant::now();
        usage.set(&load, begin);
        usage.take(&comes("a", "4"), begin);
        // For ten seconds it has all, then each has a half, of which one may not use all.
        let later = begin + Duration::from_secs(10);
        usage.take(&comes("b", "1"), later);
        let text = usage.text("n", later + Duration::from_secs(10), 5);
        let of = |pod: &str| {
            format!(
                "container_cpu_usage_seconds_total{{container=\"c\",namespace=\"d\",pod=\"{pod}\"}}"
            )
        };
        assert!(text.contains(&format!("{} 45 5", of("a"))), "{text}");
        assert!(text.contains(&format!("{} 10 5", of("b"))), "{text}");
        assert!(text.contains("node_cpu_usage_seconds_total 55 5"), "{text}");
        let mut goes = comes("b", "1");
        goes.old = goes.new.take();
        usage.take(&goes, later);
        assert!(!usage.text("n", later, 6).contains("pod=\"b\""));
        assert!(!usage.text("m", later, 6).contains("pod="));
    }

    #[test]
    fn a_load_says_of_which_pods_and_how_much() {
        for (load, field) in [
            (json!({ "selector": {}, "cpu": "1" }), ".selector"),
            (json!({ "selector": { "a": "b" } }), ""),
            (json!({ "selector": { "a": "b" }, "cpu": "-1" }), ".cpu"),
        ] {
            let load: Load = serde_json::from_value(load).expect("a load");
            assert_eq!(load.fault().map(|(field, _)| field), Some(field));
        }
    }
}
