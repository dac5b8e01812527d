//! PodTolerationRestriction: the tolerations that a namespace's pods get, and those that they may
//! have at all, by annotations of the namespace or the cluster's configuration.

use api::Status;
use futures::future::BoxFuture;
use registry::Row;
use serde_json::{Value, json};

use super::{AdmissionAttributes, Admit, Need, Operation, Review, is_pod, list, text};
use crate::state::State;

const DEFAULTS: &str = "scheduler.alpha.kubernetes.io/defaultTolerations";
const ALLOWED: &str = "scheduler.alpha.kubernetes.io/tolerationsWhitelist";
/// The label of the namespace.
const NAMESPACE: &str = "namespace with tolerations";

/// What the configuration says, for namespaces that say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lists {
    pub default: Vec<Value>,
    /// All that pods may tolerate; anything where it is empty.
    pub allowed: Vec<Value>,
}

pub struct PodTolerationRestriction(pub Lists);

impl Admit for PodTolerationRestriction {
    fn name(&self) -> &'static str {
        "PodTolerationRestriction"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update) && is_pod(row, subresource)
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        let kind = ("", "namespaces");
        vec![Need::seen(NAMESPACE, kind, "", asked.namespace)]
    }
    fn mutate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.apply(review)))
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.check(review)))
    }
}

/// The list of an annotation; absent where the namespace does not have it.
fn annotated(review: &Review<'_>, key: &str) -> Result<Option<Vec<Value>>, Status> {
    match review.found.annotation(NAMESPACE, key).as_deref() {
        None => Ok(None),
        Some("") => Ok(Some(Vec::new())),
        Some(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|e| Status::internal(format!("annotation {key}: {e}"))),
    }
}

impl PodTolerationRestriction {
    fn apply(&self, review: &mut Review<'_>) -> Result<(), Status> {
        let mut more = Vec::new();
        if review.operation == Operation::Create {
            let own = annotated(review, DEFAULTS)?;
            more = own.unwrap_or_else(|| self.0.default.clone());
        }
        if let Some(pod) = review.object.as_deref_mut() {
            if !quota::pod::is_best_effort(pod) {
                more.push(json!({
                    "key": "node.kubernetes.io/memory-pressure",
                    "operator": "Exists",
                    "effect": "NoSchedule",
                }));
            }
            if !more.is_empty() {
                let mut all = list(pod, "/spec/tolerations").to_vec();
                all.append(&mut more);
                pod["spec"]["tolerations"] = merged(&all).into();
            }
        }
        self.check(review)
    }

    fn check(&self, review: &Review<'_>) -> Result<(), Status> {
        let pod = review.object.as_deref();
        let own = pod.map_or(&[][..], |p| list(p, "/spec/tolerations"));
        if own.is_empty() {
            return Ok(());
        }
        let (allowed, whose) = match annotated(review, ALLOWED)? {
            Some(all) => (all, "namespace"),
            None => (self.0.allowed.clone(), "cluster"),
        };
        let covered = |t: &Value| allowed.iter().any(|a| covers(a, t));
        if allowed.is_empty() || own.iter().all(covered) {
            return Ok(());
        }
        // Upstream says so in a plain error: a 500 without a reason.
        Err(Status {
            code: 500,
            status: "Failure".into(),
            message: format!(
                "pod tolerations (possibly merged with namespace default tolerations) conflict with its {whose} whitelist"
            ),
            ..Status::default()
        })
    }
}

/// Without those that another one covers.
fn merged(all: &[Value]) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (n, t) in all.iter().enumerate() {
        let later = all.get(n + 1..).unwrap_or_default();
        let needless =
            kept.iter().any(|k| covers(k, t)) || later.iter().any(|l| l != t && covers(l, t));
        if !needless {
            kept.push(t.clone());
        }
    }
    kept
}

/// Whether one toleration tolerates all that another does.
fn covers(whole: &Value, part: &Value) -> bool {
    if whole == part {
        return true;
    }
    let same = |field: &str| text(whole, field) == text(part, field);
    let exists = text(whole, "/operator") == "Exists";
    let (any_key, any_effect) = (
        exists && text(whole, "/key").is_empty(),
        text(whole, "/effect").is_empty(),
    );
    if !same("/key") && !any_key || !same("/effect") && !any_effect {
        return false;
    }
    let seconds = |t: &Value| t.get("tolerationSeconds").and_then(Value::as_i64);
    if text(whole, "/effect") == "NoExecute"
        && let Some(most) = seconds(whole)
        && seconds(part).is_none_or(|s| s > most)
    {
        return false;
    }
    match text(whole, "/operator") {
        "Exists" => true,
        "Equal" | "" => matches!(text(part, "/operator"), "Equal" | "") && same("/value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered_is_merged() {
        let all = json!({ "operator": "Exists" });
        let one = json!({ "key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule" });
        let other = json!({ "key": "a", "operator": "Exists", "effect": "NoSchedule" });
        let brief = json!({ "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 });
        let long = json!({ "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9 });
        assert!(covers(&all, &one) && covers(&other, &one) && !covers(&one, &other));
        assert!(covers(&long, &brief) && !covers(&brief, &long));
        let both = [one.clone(), other.clone()];
        assert_eq!(merged(&both), both[1..]);
        assert_eq!(
            merged(&[one.clone(), one.clone(), brief.clone()]),
            [one, brief]
        );
    }
}
