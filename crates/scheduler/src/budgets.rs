//! PodDisruptionBudgets as preemption respects them: what their status allows, not what their
//! controller would say now (documentation "Specifying a Disruption Budget").

use std::collections::HashMap;
use std::sync::Arc;

use api::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::Pod;
use crate::selector_terms;

struct Budget {
    name: String,
    selector: LabelSelector,
    allowed: i32,
    /// Pods whose eviction was let through already: they were counted then.
    disrupted: Vec<String>,
}

/// The budgets of all namespaces.
#[derive(Default)]
pub struct Budgets {
    by_namespace: HashMap<Arc<str>, Vec<Budget>>,
    /// How often one has changed.
    changes: usize,
}

impl Budgets {
    /// A budget came, changed, or went.
    pub fn changed(
        &mut self,
        old: Option<&PodDisruptionBudget>,
        new: Option<&PodDisruptionBudget>,
    ) {
        let Some(meta) = new.or(old).map(|b| &b.metadata) else {
            return;
        };
        self.changes += 1;
        let name = meta.name.as_deref().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        if let Some(of_namespace) = self.by_namespace.get_mut(namespace) {
            of_namespace.retain(|b| b.name != name);
            if of_namespace.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
        if let Some(budget) = new.and_then(Budget::read) {
            let of_namespace = self.by_namespace.entry(namespace.into());
            of_namespace.or_default().push(budget);
        }
    }

    /// How often one has changed: what was found by the budgets holds as long as this is the same.
    pub fn changes(&self) -> usize {
        self.changes
    }

    /// Of each of these pods, whether a budget is violated if it and those before it are deleted.
    pub fn violated_by(&self, pods: &[Arc<Pod>]) -> Vec<bool> {
        let mut spent = HashMap::new();
        pods.iter().map(|p| self.spend(p, &mut spent)).collect()
    }

    /// Takes a pod from all budgets that mean it; true where one has no more to give.
    fn spend<'a>(&'a self, pod: &'a Pod, spent: &mut HashMap<(&'a str, &'a str), i32>) -> bool {
        let budgets = self.by_namespace.get(&pod.namespace).into_iter().flatten();
        let mut violated = false;
        for budget in budgets.filter(|b| b.means(pod)) {
            let left = spent
                .entry((&pod.namespace, &budget.name))
                .or_insert(budget.allowed);
            *left = left.saturating_sub(1);
            violated |= *left < 0;
        }
        violated
    }
}

impl Budget {
    /// None of one that selects no pod: here an empty selector is such a one.
    fn read(from: &PodDisruptionBudget) -> Option<Self> {
        let spec = from.spec.as_ref()?;
        let selector = selector_terms::selector(spec.selector.as_ref());
        let status = from.status.as_ref();
        let disrupted = status.and_then(|s| s.disrupted_pods.as_ref());
        (!selector.nothing && !selector.requirements.is_empty()).then(|| Self {
            name: from.metadata.name.clone().unwrap_or_default(),
            selector,
            allowed: status.and_then(|s| s.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted
                .into_iter()
                .flatten()
                .map(|(n, _)| n.clone())
                .collect(),
        })
    }

    fn means(&self, pod: &Pod) -> bool {
        !pod.labels.is_empty()
            && self.selector.matches(&pod.labels)
            && !self.disrupted.contains(&pod.name)
    }
}
