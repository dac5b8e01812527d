//! Selectors of nodes and pods in the form in which plugins match them: read once per pod.

use std::sync::Arc;

use api::selector::{LabelSelector, Operator, Requirement};
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

/// One term of a node selector: all must hold. A term without requirements selects no node.
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
    nothing: bool,
}

struct Name<'a>(&'a str);
impl api::selector::Labels for Name<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        (key == "metadata.name").then_some(self.0)
    }
}

impl NodeTerm {
    pub fn read(from: &k8s::NodeSelectorTerm) -> Self {
        let read = |list: &Option<Vec<k8s::NodeSelectorRequirement>>| -> Option<Vec<Requirement>> {
            let list = list.iter().flatten();
            list.map(|e| Requirement::of_node(&e.key, &e.operator, e.values.as_deref()))
                .collect()
        };
        match (read(&from.match_expressions), read(&from.match_fields)) {
            (Some(labels), Some(fields)) => Self {
                nothing: labels.is_empty() && fields.is_empty(),
                labels,
                fields,
            },
            _ => Self {
                labels: Vec::new(),
                fields: Vec::new(),
                nothing: true,
            },
        }
    }

    /// The nodes that it names, where it names them: no others can match.
    pub fn names(&self) -> Option<Vec<Arc<str>>> {
        if self.nothing {
            return Some(Vec::new());
        }
        let mut named = self.fields.iter().filter(|r| r.operator == Operator::In);
        let values = &named.next()?.values;
        Some(values.iter().map(|v| Arc::from(v.as_str())).collect())
    }

    /// Whether the term means a node of this name, with these labels.
    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        !self.nothing
            && self.labels.iter().all(|r| r.matches(labels))
            && self.fields.iter().all(|r| r.matches(&Name(name)))
    }
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
