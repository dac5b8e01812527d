//! What is given out and may not be exceeded: quotas of namespaces, and budgets for the disruption
//! of pods. Both are judged by what is stored alone.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::pods::Pods;
use crate::values::{millis, number, text};

/// All quotas by their keys: namespace, pods, thousandths of a processor.
#[derive(Default)]
pub(crate) struct Quotas(BTreeMap<String, (String, Option<i64>, Option<i64>)>);

impl Quotas {
    /// Takes a quota in; none when it is deleted.
    pub fn note(&mut self, key: &str, quota: Option<&Value>) {
        let Some(quota) = quota else {
            self.0.remove(key);
            return;
        };
        let namespace = text(quota, "/metadata/namespace").to_owned();
        let hard = |pointer: &str| {
            let limit = text(quota, pointer);
            (!limit.is_empty()).then_some(limit)
        };
        let pods = hard("/spec/hard/pods").and_then(|n| n.parse().ok());
        let cpu = hard("/spec/hard/requests.cpu").map(millis);
        self.0.insert(key.to_owned(), (namespace, pods, cpu));
    }

    /// The quota of a namespace that its living pods exceed. Those that are being deleted may count
    /// or not, by how long they have been asked to go.
    pub fn exceeded(&self, namespace: &str, pods: &Pods) -> Option<String> {
        let (count, cpu) = pods.active_in(namespace);
        let mut own = self.0.values().filter(|(n, _, _)| n == namespace);
        own.find_map(|(_, most, most_cpu)| {
            let over = most.is_some_and(|m| count > m) || most_cpu.is_some_and(|m| cpu > m);
            over.then(|| {
                format!(
                    "{count} pods of {most:?}, {cpu}m of {most_cpu:?}m by the quota of {namespace}"
                )
            })
        })
    }
}

/// What is wrong with a budget's status, as it was and as it is.
pub(crate) fn budget(old: Option<&Value>, new: &Value) -> Option<String> {
    let allowed = |b: &Value| number(b, "/status/disruptionsAllowed");
    let healthy = number(new, "/status/currentHealthy");
    let desired = number(new, "/status/desiredHealthy");
    let now = allowed(new);
    if now < 0 || now > (healthy - desired).max(0) {
        return Some(format!(
            "{now} disruptions are allowed with {healthy} healthy of {desired}"
        ));
    }
    let named = |b: &Value| -> Vec<String> {
        let all = b
            .pointer("/status/disruptedPods")
            .and_then(Value::as_object);
        all.into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    };
    let old = old.filter(|o| text(o, "/metadata/uid") == text(new, "/metadata/uid"))?;
    let known = named(old);
    let evicted = named(new).iter().filter(|n| !known.contains(n)).count();
    let evicted = i64::try_from(evicted).unwrap_or(i64::MAX);
    if evicted > 0 && allowed(old) - now != evicted {
        return Some(format!(
            "{evicted} were evicted, and of {} allowed disruptions {now} are left",
            allowed(old)
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget_of(allowed: i64, healthy: i64, disrupted: Value) -> Value {
        json!({ "metadata": { "uid": "b" }, "status": { "disruptionsAllowed": allowed,
            "currentHealthy": healthy, "desiredHealthy": 2, "disruptedPods": disrupted } })
    }

    #[test]
    fn budgets_pay_for_each_eviction() {
        let one = json!({ "a": "2026-01-01T00:00:00Z" });
        let two = json!({ "a": "2026-01-01T00:00:00Z", "b": "2026-01-01T00:00:00Z" });
        let before = budget_of(2, 4, json!({}));
        assert_eq!(budget(None, &before), None);
        assert_eq!(budget(Some(&before), &budget_of(1, 4, one.clone())), None);
        assert!(budget(Some(&before), &budget_of(2, 4, one.clone())).is_some());
        assert!(budget(Some(&before), &budget_of(1, 4, two)).is_some());
        assert!(budget(None, &budget_of(3, 4, one)).is_some());
        assert!(budget(None, &budget_of(-1, 1, json!({}))).is_some());
    }

    #[test]
    fn a_quota_is_held_against_pods_that_live() {
        let (mut quotas, mut pods) = (Quotas::default(), Pods::default());
        let pod = |phase: &str| {
            json!({ "metadata": { "namespace": "d" }, "status": { "phase": phase },
                "spec": { "containers": [{ "resources": { "requests": { "cpu": "400m" } } }] } })
        };
        let quota = json!({ "metadata": { "namespace": "d" },
            "spec": { "hard": { "pods": "2", "requests.cpu": "1" } } });
        quotas.note("q", Some(&quota));
        pods.note("a", None, Some(&pod("Running")));
        pods.note("b", None, Some(&pod("Pending")));
        assert_eq!(quotas.exceeded("d", &pods), None);
        pods.note("c", None, Some(&pod("Pending")));
        assert!(quotas.exceeded("d", &pods).is_some());
        pods.note("a", Some(&pod("Running")), Some(&pod("Succeeded")));
        assert_eq!(quotas.exceeded("d", &pods), None);
        quotas.note("q", None);
        assert_eq!(quotas.exceeded("d", &pods), None);
    }
}
