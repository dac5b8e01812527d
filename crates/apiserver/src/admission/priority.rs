//! Priority: from a pod's priority class to its number and preemption policy; one default class
//! at most.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use super::{AdmissionAttributes, Admit, Need, NeededObjects, Operation, Review, text};
use crate::state::State;

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses";
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

/// The labels of the class that a pod names, and of all classes.
const CLASS: &str = "priority class";
const ALL: &str = "priority classes";

pub struct Priority;

impl Admit for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && matches!(
                (&*row.group, &*row.resource),
                ("", "pods") | (GROUP, CLASSES)
            )
    }
    /// The class that a pod names; of a pod that names none, and of a class that wants to be the
    /// default, all of them.
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let pod = asked.is("", "pods");
        if pod && asked.old.is_some() {
            return Vec::new();
        }
        match asked.text("/spec/priorityClassName") {
            name if pod && !name.is_empty() => {
                vec![Need::relied(CLASS, (GROUP, CLASSES), "", name)]
            }
            _ => vec![Need::all(ALL, GROUP, CLASSES)],
        }
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !review.is("", "pods") {
                return Ok(());
            }
            let Some(pod) = review.object.as_deref_mut() else {
                return Ok(());
            };
            if let Some(old) = review.old {
                keep(pod, old);
                return Ok(());
            }
            let named = text(pod, "/spec/priorityClassName").to_owned();
            let class = if named.is_empty() {
                default_class(review.found)
            } else {
                review.found.get(CLASS).map(|o| o.to_value())
            };
            resolved(pod, &named, class.as_ref()).map_err(|why| review.forbidden(&why))
        })
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let is_default = |v: &Value| v.get("globalDefault") == Some(&Value::Bool(true));
            if !review.is(GROUP, CLASSES) || !review.object.as_deref().is_some_and(is_default) {
                return Ok(());
            }
            match default_class(review.found) {
                Some(other) if text(&other, "/metadata/name") != review.name => {
                    let name = text(&other, "/metadata/name");
                    Err(review.forbidden(&format!(
                        "PriorityClass {name} is already marked as default. Only one default can exist"
                    )))
                }
                _ => Ok(()),
            }
        })
    }
}

/// Set at creation, not to be lost by a writer that does not know the fields.
fn keep(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        let before = old.get("spec").and_then(|s| s.get(field));
        if let Some(before) = before
            && pod
                .pointer("/spec")
                .and_then(|s| s.get(field))
                .is_none_or(Value::is_null)
        {
            pod["spec"][field] = before.clone();
        }
    }
}

/// The default class; of several (two servers raced) the one with the lowest value.
fn default_class(found: &NeededObjects) -> Option<Value> {
    let mut found: Vec<Value> = found
        .all(ALL)
        .iter()
        .filter(|o| memchr::memmem::find(o.stored(), b"\"globalDefault\":true").is_some())
        .map(|o| o.to_value())
        .filter(|v| v.get("globalDefault") == Some(&Value::Bool(true)))
        .collect();
    found.sort_by_key(value);
    found.into_iter().next()
}

fn value(class: &Value) -> i64 {
    class.get("value").and_then(Value::as_i64).unwrap_or(0)
}

/// Writes what the class says into the pod.
fn resolved(pod: &mut Value, named: &str, class: Option<&Value>) -> Result<(), String> {
    if class.is_none() && !named.is_empty() {
        return Err(format!("no PriorityClass with name {named} was found"));
    }
    let number = class.map_or(0, value);
    let policy = class
        .map(|c| text(c, "/preemptionPolicy"))
        .filter(|p| !p.is_empty())
        .unwrap_or(DEFAULT_POLICY);
    let given = pod.pointer("/spec/priority").and_then(Value::as_i64);
    if let Some(given) = given.filter(|g| *g != number) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {number} from the given PriorityClass name"
        ));
    }
    let given = text(pod, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    pod["spec"]["priority"] = number.into();
    pod["spec"]["preemptionPolicy"] = policy.into();
    if let Some(class) = class {
        pod["spec"]["priorityClassName"] = text(class, "/metadata/name").into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_class_decides() {
        let class =
            json!({ "metadata": { "name": "high" }, "value": 7, "preemptionPolicy": "Never" });
        let mut pod = json!({ "spec": {} });
        assert_eq!(resolved(&mut pod, "high", Some(&class)), Ok(()));
        assert_eq!(
            pod["spec"],
            json!({ "priority": 7, "preemptionPolicy": "Never", "priorityClassName": "high" })
        );
        let mut plain = json!({ "spec": {} });
        assert_eq!(resolved(&mut plain, "", None), Ok(()));
        assert_eq!(
            plain["spec"],
            json!({ "priority": 0, "preemptionPolicy": DEFAULT_POLICY })
        );
        assert!(resolved(&mut json!({ "spec": {} }), "x", None).is_err());
        assert!(resolved(&mut json!({ "spec": { "priority": 1 } }), "", None).is_err());
    }

    #[test]
    fn an_update_keeps_what_was_set() {
        let mut new = json!({ "spec": {} });
        keep(&mut new, &json!({ "spec": { "priority": 3 } }));
        assert_eq!(new["spec"]["priority"], 3);
    }
}
