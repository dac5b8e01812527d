//! Scopes: which objects a quota counts.

use serde_json::Value;

use crate::pod::{is_best_effort, list, text};

/// One condition; all of a quota's must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    pub values: Vec<String>,
}

impl Scope {
    /// All scopes of a quota's specification: those of `scopes`, then those of `scopeSelector`.
    pub fn all(spec: &Value) -> Vec<Self> {
        let plain = list(spec, "/scopes").iter().filter_map(Value::as_str);
        let plain = plain.map(|name| Self {
            name: name.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = list(spec, "/scopeSelector/matchExpressions");
        plain.chain(selected.iter().map(Self::read)).collect()
    }

    pub fn read(requirement: &Value) -> Self {
        let values = list(requirement, "/values")
            .iter()
            .filter_map(Value::as_str);
        Self {
            name: text(requirement, "scopeName").to_owned(),
            operator: text(requirement, "operator").to_owned(),
            values: values.map(str::to_owned).collect(),
        }
    }

    /// As a selector of a label with this value, or of a label that is not there.
    fn selects(&self, value: Option<&str>) -> bool {
        let among = value.is_some_and(|v| self.values.iter().any(|own| own == v));
        match self.operator.as_str() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }

    pub(crate) fn has_pod(&self, pod: &Value) -> bool {
        match self.name.as_str() {
            "Terminating" => is_terminating(pod),
            "NotTerminating" => !is_terminating(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => {
                let class = pod.pointer("/spec/priorityClassName");
                let class = class.and_then(Value::as_str);
                self.selects(class.filter(|c| !c.is_empty()))
            }
            "CrossNamespacePodAffinity" => looks_into_other_namespaces(pod),
            _ => false,
        }
    }

    pub(crate) fn has_claim(&self, claim: &Value) -> bool {
        if self.name != "VolumeAttributesClass" {
            return false;
        }
        let mut classes = attribute_classes(claim).peekable();
        if classes.peek().is_none() {
            return self.selects(None);
        }
        classes.any(|class| self.selects(Some(class)))
    }
}

impl std::fmt::Display for Scope {
    /// As upstream prints such a structure: `{PriorityClass In [high]}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values = self.values.join(" ");
        write!(f, "{{{} {} [{values}]}}", self.name, self.operator)
    }
}

/// The pod has a deadline.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    let deadline = pod.pointer("/spec/activeDeadlineSeconds");
    deadline.and_then(Value::as_i64).is_some_and(|s| s >= 0)
}

fn looks_into_other_namespaces(pod: &Value) -> bool {
    let elsewhere = |term: &Value| {
        !list(term, "/namespaces").is_empty()
            || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list: &str| format!("/spec/affinity/{kind}/{list}");
        let required = at("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = at("preferredDuringSchedulingIgnoredDuringExecution");
        list(pod, &required).iter().any(elsewhere)
            || list(pod, &preferred)
                .iter()
                .filter_map(|w| w.get("podAffinityTerm"))
                .any(elsewhere)
    })
}

/// The volume attributes classes that a claim wants, has or is being changed to.
pub(crate) fn attribute_classes(claim: &Value) -> impl Iterator<Item = &str> {
    [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ]
    .into_iter()
    .filter_map(|at| claim.pointer(at).and_then(Value::as_str))
    .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(name: &str, operator: &str, values: &[&str]) -> Scope {
        Scope::read(&json!({ "scopeName": name, "operator": operator, "values": values }))
    }

    #[test]
    fn scopes_of_pods() {
        let plain = json!({ "spec": { "containers": [{ "name": "c" }] } });
        let other = json!({ "spec": {
            "activeDeadlineSeconds": 0, "priorityClassName": "high",
            "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1" } } }],
            "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 1, "podAffinityTerm": { "topologyKey": "k", "namespaceSelector": {} } }] } },
        } });
        for (scope, of_plain, of_other) in [
            (scope("Terminating", "Exists", &[]), false, true),
            (scope("NotTerminating", "Exists", &[]), true, false),
            (scope("BestEffort", "Exists", &[]), true, false),
            (scope("NotBestEffort", "Exists", &[]), false, true),
            (scope("PriorityClass", "Exists", &[]), false, true),
            (scope("PriorityClass", "DoesNotExist", &[]), true, false),
            (scope("PriorityClass", "In", &["high", "x"]), false, true),
            (scope("PriorityClass", "NotIn", &["high"]), true, false),
            (
                scope("CrossNamespacePodAffinity", "Exists", &[]),
                false,
                true,
            ),
            (scope("VolumeAttributesClass", "Exists", &[]), false, false),
        ] {
            assert_eq!(scope.has_pod(&plain), of_plain, "{scope}");
            assert_eq!(scope.has_pod(&other), of_other, "{scope}");
        }
    }

    #[test]
    fn scopes_of_claims() {
        let none = json!({ "spec": {} });
        let gold = json!({ "spec": { "volumeAttributesClassName": "gold" },
            "status": { "currentVolumeAttributesClassName": "silver" } });
        for (scope, of_none, of_gold) in [
            (scope("VolumeAttributesClass", "Exists", &[]), false, true),
            (
                scope("VolumeAttributesClass", "In", &["silver"]),
                false,
                true,
            ),
            (
                scope("VolumeAttributesClass", "In", &["bronze"]),
                false,
                false,
            ),
            (
                scope("VolumeAttributesClass", "NotIn", &["bronze"]),
                true,
                true,
            ),
            (scope("Terminating", "Exists", &[]), false, false),
        ] {
            assert_eq!(scope.has_claim(&none), of_none, "{scope}");
            assert_eq!(scope.has_claim(&gold), of_gold, "{scope}");
        }
    }
}
