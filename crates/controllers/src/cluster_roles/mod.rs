//! ClusterRoles that are made of others: their rules are those of all roles that their selectors
//! choose. Authorization adds them up by itself; here they are written down, for whoever reads the
//! role.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::Target;
use control::{Action, Controller, Plan, Watches};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::ResourceExt;

use crate::common::{is_deleting, selector_of, value_of};

/// Writes the rules of aggregated roles.
pub struct AggregatedRoles {
    roles: Informer<ClusterRole>,
}

impl AggregatedRoles {
    pub fn new(informers: &Informers) -> Self {
        Self {
            roles: informers.of(),
        }
    }
}

fn is_aggregated(role: &ClusterRole) -> bool {
    role.aggregation_rule.is_some()
}

/// A role that is made of others, and all roles by their names.
pub struct Observed {
    role: Arc<ClusterRole>,
    all: Vec<Arc<ClusterRole>>,
}

/// Each rule once, in the order of the selectors and of the roles' names.
fn rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.as_ref();
    let selectors = selectors.and_then(|a| a.cluster_role_selectors.as_ref());
    let mut out: Vec<PolicyRule> = Vec::new();
    for selector in selectors.into_iter().flatten() {
        let selector = selector_of(Some(selector));
        let chosen = all
            .iter()
            .filter(|r| r.name_any() != role.name_any() && selector.matches(r.labels()));
        for rule in chosen.flat_map(|r| r.rules.iter().flatten()) {
            if !out.contains(rule) {
                out.push(rule.clone());
            }
        }
    }
    out
}

fn plan(seen: &Observed) -> Plan {
    let wanted = rules(&seen.role, &seen.all);
    let role = &*seen.role;
    if is_deleting(role) || role.rules.as_deref().unwrap_or_default() == wanted {
        return Plan::nothing();
    }
    let mut changed = role.clone();
    changed.rules = Some(wanted);
    Action::Update {
        target: Target::of::<ClusterRole>("", &role.name_any()),
        subresource: "",
        object: value_of(&changed),
    }
    .into()
}

impl Controller for AggregatedRoles {
    const NAME: &'static str = "clusterrole-aggregation-controller";
    const QUEUE: &'static str = "ClusterRoleAggregator";
    const ACCOUNT: &'static str = "clusterrole-aggregation-controller";
    type Key = String;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<String>) {
        let roles = self.roles.clone();
        // Roles are few, and which depends on which shows only when all are looked at.
        watches.on(&self.roles, move |_| {
            let all = roles.list();
            let made = all.iter().filter(|r| is_aggregated(r));
            made.map(|r| r.name_any()).collect()
        });
    }

    fn observe(&self, name: &String) -> Option<Observed> {
        let role = self.roles.get("", name).filter(|r| is_aggregated(r))?;
        Some(Observed {
            role,
            all: self.roles.list(),
        })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        plan(seen)
    }

    /// One after the other: some are made of others that are made of others.
    fn workers(&self) -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role(value: Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).expect("a role"))
    }

    fn of(name: &str, label: &str, verb: &str) -> Arc<ClusterRole> {
        role(
            json!({ "metadata": { "name": name, "labels": { "into": label } },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] }] }),
        )
    }

    #[test]
    fn a_role_has_the_rules_of_all_that_are_chosen() {
        let chooser = json!({ "metadata": { "name": "m", "labels": { "into": "b" } },
            "aggregationRule": { "clusterRoleSelectors": [
                { "matchLabels": { "into": "b" } }, { "matchLabels": { "into": "a" } }] } });
        let own = role(chooser);
        let all = vec![
            of("x", "a", "get"),
            of("y", "b", "list"),
            of("z", "b", "get"),
            of("other", "c", "delete"),
            own.clone(),
        ];
        let mut seen = Observed { role: own, all };
        let made = plan(&seen);
        let [Action::Update { object, .. }] = made.actions.as_slice() else {
            panic!("{made:?}");
        };
        let verbs: Vec<&Value> = object["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|r| &r["verbs"][0])
            .collect();
        assert_eq!(verbs, ["list", "get"]);
        seen.role = role(object.clone());
        assert!(plan(&seen).is_empty());
        // What is chosen no more is gone.
        seen.all.retain(|r| r.name_any() != "y");
        assert!(!plan(&seen).is_empty());
    }
}
