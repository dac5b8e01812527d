//! Selectors of nodes and pods in the form in which plugins match them: read once per pod.

use std::sync::Arc;

pub use api::selector::NodeTerm;
use api::selector::{LabelSelector, Operator, Required, Requirement};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::interned::{Labels, Strings};

/// Reads a selector; none selects nothing.
pub fn selector(from: Option<&meta::LabelSelector>) -> LabelSelector {
    let Some(from) = from else {
        return LabelSelector::nothing();
    };
    let mut out = LabelSelector::from_map(from.match_labels.iter().flatten());
    for e in from.match_expressions.iter().flatten() {
        match Requirement::of_node(&e.key, &e.operator, e.values.as_deref()) {
            Some(r) => out.requirements.push(r),
            None => return LabelSelector::nothing(),
        }
    }
    out
}

/// Adds what `matchLabelKeys` and `mismatchLabelKeys` mean for a pod with these labels.
pub fn add_label_keys(
    to: &mut LabelSelector,
    keys: Option<&[String]>,
    labels: &Labels,
    operator: Operator,
) {
    for key in keys.into_iter().flatten() {
        if let Some(value) = labels.get(key) {
            to.requirements.push(Requirement {
                key: key.clone(),
                operator,
                values: vec![value.to_string()],
            });
        }
    }
}

/// Reads a selector of nodes: one of its terms must hold.
pub fn node_terms(from: &k8s::NodeSelector) -> Vec<NodeTerm> {
    from.node_selector_terms.iter().map(node_term).collect()
}

/// Reads the nodes that are rather wanted, with the weights of the wishes.
pub fn node_wishes(from: &[k8s::PreferredSchedulingTerm]) -> Vec<(i64, NodeTerm)> {
    let read = |p: &k8s::PreferredSchedulingTerm| (i64::from(p.weight), node_term(&p.preference));
    from.iter().map(read).collect()
}

fn node_term(from: &k8s::NodeSelectorTerm) -> NodeTerm {
    fn read(e: &k8s::NodeSelectorRequirement) -> Required<'_> {
        (&e.key, &e.operator, e.values.as_deref())
    }
    let labels = from.match_expressions.iter().flatten();
    let fields = from.match_fields.iter().flatten();
    NodeTerm::new(labels.map(read), fields.map(read))
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    pub selector: LabelSelector,
    namespaces: Vec<Arc<str>>,
    namespace_selector: LabelSelector,
    pub topology_key: Arc<str>,
}

impl PodTerm {
    /// Reads a term of a pod with these labels in this namespace.
    pub fn read(
        from: &k8s::PodAffinityTerm,
        namespace: &Arc<str>,
        labels: &Labels,
        strings: &mut Strings,
    ) -> Self {
        let mut own = selector(from.label_selector.as_ref());
        if from.label_selector.is_some() {
            let (with, without) = (&from.match_label_keys, &from.mismatch_label_keys);
            add_label_keys(&mut own, with.as_deref(), labels, Operator::In);
            add_label_keys(&mut own, without.as_deref(), labels, Operator::NotIn);
        }
        let mut namespaces: Vec<Arc<str>> = from
            .namespaces
            .iter()
            .flatten()
            .map(|n| strings.get(n))
            .collect();
        if namespaces.is_empty() && from.namespace_selector.is_none() {
            namespaces.push(namespace.clone());
        }
        Self {
            selector: own,
            namespaces,
            namespace_selector: selector(from.namespace_selector.as_ref()),
            topology_key: strings.get(&from.topology_key),
        }
    }

    /// Whether the term means a pod with these labels in this namespace; `of_namespace` knows a
    /// namespace's own labels.
    pub fn matches<'a>(
        &self,
        namespace: &Arc<str>,
        labels: &Labels,
        of_namespace: impl Fn(&str) -> Option<&'a Labels>,
    ) -> bool {
        self.selects_namespace(namespace, of_namespace) && self.selector.matches(labels)
    }

    fn selects_namespace<'a>(
        &self,
        namespace: &Arc<str>,
        of_namespace: impl Fn(&str) -> Option<&'a Labels>,
    ) -> bool {
        if self.namespaces.contains(namespace) || self.namespace_selector.is_everything() {
            return true;
        }
        !self.namespace_selector.nothing
            && of_namespace(namespace).is_some_and(|l| self.namespace_selector.matches(l))
    }
}
