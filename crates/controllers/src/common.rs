//! What several controllers need: owners, pods' states, conditions, percentages.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::LabelSelector;
use control::Plan;
use control::action::{Action, Target};
pub use control::ready::{is_node_ready, is_pod_ready as is_ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Namespace and name.
pub type Key = (String, String);

pub fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

pub fn uid_of<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

/// The owner that manages the object.
pub fn controller_of<K: Resource>(object: &K) -> Option<&meta::OwnerReference> {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .find(|o| o.controller == Some(true))
}

pub fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// An owner reference that makes `object` the controller.
pub fn controller_reference<K: Resource<DynamicType = ()>>(object: &K) -> Value {
    json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "name": object.meta().name, "uid": object.meta().uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// A selector of the object form; one that cannot be read selects nothing.
pub fn selector_of(given: Option<&meta::LabelSelector>) -> LabelSelector {
    given
        .and_then(|s| serde_json::to_value(s).ok())
        .and_then(|v| LabelSelector::from_json(&v).ok())
        .unwrap_or_else(LabelSelector::nothing)
}

pub fn value_of(object: &impl Serialize) -> Value {
    // Types of the API have string keys and finite numbers: they always encode.
    serde_json::to_value(object).unwrap_or_default()
}

/// Replaces the status at the version that the plan was made on, since upstream's roles let
/// controllers update and not patch. A change meanwhile is a conflict, and the plan is made again.
pub fn update_status<K>(object: &K, status: Value) -> Action
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let (namespace, name) = key_of(object);
    let mut object = value_of(object);
    object["status"] = status;
    Action::Update {
        target: Target::of::<K>(&namespace, &name),
        subresource: "status",
        object,
    }
}

pub fn time_text(millis: i64) -> String {
    api::time::format_seconds(millis.div_euclid(1_000))
}

pub fn millis_of(time: Option<&meta::Time>) -> Option<i64> {
    time.map(|t| t.0.as_millisecond())
}

pub fn time_at(millis: i64) -> meta::Time {
    meta::Time(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH))
}

pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or_default()
}

pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a node took the pod not at all: it failed before anything of it was made.
pub fn was_refused(pod: &Pod) -> bool {
    let has_none = |status: &PodStatus| {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        lists.into_iter().flatten().all(Vec::is_empty)
    };
    phase(pod) == "Failed" && pod.status.as_ref().is_some_and(has_none)
}

/// Neither ended nor about to be deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_deleting(pod)
}

/// Since when the pod is ready, in milliseconds; `None` when it is not, or does not say it.
pub fn ready_since(pod: &Pod) -> Option<i64> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|c| c.type_ == "Ready" && c.status == "True")?;
    millis_of(ready.last_transition_time.as_ref())
}

/// Ready for at least so many seconds; of one that does not say since when nobody knows it.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now_millis: i64) -> bool {
    let least = i64::from(min_ready_seconds) * 1_000;
    let long_enough = |since: i64| since + least <= now_millis;
    is_ready(pod) && (min_ready_seconds == 0 || ready_since(pod).is_some_and(long_enough))
}

/// A number, or a share of `total`.
pub fn int_or_percent(given: &IntOrString, total: i32, round_up: bool) -> i32 {
    match given {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let share = if round_up {
                (product + 99).div_euclid(100)
            } else {
                product.div_euclid(100)
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// How many; a status has no larger number.
pub fn count(of: impl Iterator) -> i32 {
    i32::try_from(of.count()).unwrap_or(i32::MAX)
}

/// A number of a status that upstream leaves out when it is nought; in a merge patch this removes
/// it.
pub fn nothing_if_zero(n: i32) -> Value {
    if n == 0 { Value::Null } else { json!(n) }
}

/// [`update_status`] by a merge patch: what it does not name stays.
pub fn patch_status<K: Resource<DynamicType = ()> + Serialize>(
    object: &K,
    status: &Value,
) -> Action {
    let mut now = value_of(object)["status"].take();
    merge(&mut now, status);
    update_status(object, now)
}

/// RFC 7396.
pub fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    let mut all = match into.take() {
        Value::Object(all) => all,
        _ => serde_json::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            all.remove(key);
        } else {
            merge(all.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
    *into = Value::Object(all);
}

/// Wakes the plan when the next ready pod has been ready for so many seconds.
pub fn wake_when_available<'a>(
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    min_ready_seconds: i32,
    now_millis: i64,
    plan: &mut Plan,
) {
    let due = pods
        .filter_map(|p| ready_since(p))
        .map(|t| t + i64::from(min_ready_seconds) * 1_000);
    let next = due.filter(|t| *t > now_millis).min();
    wake_at(next, now_millis, plan);
}

/// Wakes the plan at a time, if there is one and no earlier one is asked for.
pub fn wake_at(due_millis: Option<i64>, now_millis: i64, plan: &mut Plan) {
    let wait = due_millis.map(|t| u64::try_from(t - now_millis).unwrap_or(0));
    plan.wake_after_millis = plan.wake_after_millis.into_iter().chain(wait).min();
}

/// Letters that form no words; safe in names.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short hash that may be part of a name.
pub fn safe_hash(bytes: &[u8], length: usize) -> String {
    let digest = Sha256::digest(bytes);
    digest
        .iter()
        .take(length)
        .map(|b| char::from(SAFE[usize::from(*b) % SAFE.len()]))
        .collect()
}

/// The end of a generated name: different for each object, time and number.
pub fn suffix(uid: &str, now_millis: i64, number: usize) -> String {
    safe_hash(format!("{uid}/{now_millis}/{number}").as_bytes(), 5)
}

pub type Labels = BTreeMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_available_when_it_was_ready_for_its_time() {
        let now = 1_700_000_000_000;
        let pod = |ready: &str, since: Option<i64>| -> Arc<Pod> {
            let since = since.map(|seconds| time_text(now - seconds * 1_000));
            let condition =
                json!({ "type": "Ready", "status": ready, "lastTransitionTime": since });
            let pod = json!({ "status": { "conditions": [condition] } });
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        // Ready since how many seconds, the least, whether it is available, and the wait until then.
        for (ready, since, least, available, wait) in [
            ("False", Some(99), 0, false, None),
            ("True", Some(0), 0, true, None),
            ("True", None, 0, true, None),
            ("True", None, 1, false, None),
            ("True", Some(0), 1, false, Some(1)),
            ("True", Some(20), 30, false, Some(10)),
            ("True", Some(30), 30, true, None),
            ("True", Some(51), 50, true, None),
        ] {
            let pod = pod(ready, since);
            let mut plan = Plan::default();
            wake_when_available([&pod].into_iter(), least, now, &mut plan);
            let is = is_available(&pod, least, now);
            let seconds = plan.wake_after_millis.map(|wait| wait / 1_000);
            assert_eq!(
                (is, seconds),
                (available, wait),
                "{ready} {since:?} {least}"
            );
        }
    }

    #[test]
    fn percentages_round_as_asked() {
        let p = |t: &str| IntOrString::String(t.into());
        assert_eq!(int_or_percent(&p("25%"), 3, true), 1);
        assert_eq!(int_or_percent(&p("25%"), 3, false), 0);
        assert_eq!(int_or_percent(&p("100%"), 3, false), 3);
        assert_eq!(int_or_percent(&IntOrString::Int(2), 3, true), 2);
    }
}
