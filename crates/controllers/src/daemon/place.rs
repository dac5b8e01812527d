//! On which nodes a set's pod should run, and the pod that the scheduler puts on one of them.

use api::selector::{Labels as _, NodeTerm, Required};
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use serde_json::{Value, json};

use crate::common::{merge, value_of};
use crate::nodes::taint_eviction::tolerates;

const NAME_FIELD: &str = "metadata.name";

/// What a set has to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A pod should be made there.
    pub should_run: bool,
    /// One that is there may stay.
    pub may_stay: bool,
}

/// Taints that a daemon's pods always tolerate: they are what the node is looked after by.
fn own_tolerations(host_network: bool) -> Vec<Toleration> {
    let mut taints = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if host_network {
        taints.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let toleration = |(key, effect): (&str, &str)| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    };
    taints.into_iter().map(toleration).collect()
}

/// The tolerations of the template and our own, each once.
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for own in own_tolerations(spec.host_network == Some(true)) {
        let same = |t: &Toleration| {
            t.key == own.key
                && t.effect == own.effect
                && t.operator == own.operator
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        match all.iter_mut().find(|t| same(t)) {
            Some(given) => *given = own,
            None => all.push(own),
        }
    }
    all
}

fn selects(term: &NodeSelectorTerm, node: &Node) -> bool {
    fn read(e: &NodeSelectorRequirement) -> Required<'_> {
        (&e.key, &e.operator, e.values.as_deref())
    }
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    NodeTerm::new(labels.map(read), fields.map(read)).matches(name, &node.metadata.labels)
}

fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let mut labels = spec.node_selector.iter().flatten();
    if !labels.all(|(k, v)| node.metadata.labels.label(k) == Some(v)) {
        return false;
    }
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| {
        a.required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| selects(t, node)))
}

/// Whether pods of this template, with these [`tolerations`], fit a node.
pub fn fit(spec: &PodSpec, tolerations: &[Toleration], node: &Node) -> Fit {
    let no = Fit {
        should_run: false,
        may_stay: false,
    };
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if named.is_some_and(|n| node.metadata.name.as_deref() != Some(n)) || !is_selected(spec, node) {
        return no;
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    let keeps_off = |effects: &[&str]| {
        taints.unwrap_or_default().iter().any(|taint| {
            effects.contains(&&*taint.effect) && !tolerations.iter().any(|t| tolerates(t, taint))
        })
    };
    Fit {
        should_run: !keeps_off(&["NoSchedule", "NoExecute"]),
        may_stay: !keeps_off(&["NoExecute"]),
    }
}

/// The node of a pod: where it is, or where the scheduler shall put it.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.iter();
    let mut fields = fields.flat_map(|t| t.match_fields.iter().flatten());
    let field = fields.find(|f| f.key == NAME_FIELD && f.operator == "In")?;
    match field.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

/// The template of the pods of a node.
pub fn template_for(template: &Value, tolerations: &[Toleration], node: &str) -> Value {
    let mut template = template.clone();
    let spec = &mut template["spec"];
    spec["tolerations"] = value_of(&tolerations);
    let terms =
        json!([{ "matchFields": [{ "key": NAME_FIELD, "operator": "In", "values": [node] }] }]);
    // The scheduler chooses by name; what else the template asks of nodes holds already.
    let required = json!({ "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } });
    merge(&mut spec["affinity"], &required);
    template
}
