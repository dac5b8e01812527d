//! Endpoints, for clients that still read them: one object per Service, of the first family, with
//! at most a thousand addresses. The rest of the way is that of [`super::plan`].

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServiceSpec};
use serde_json::{Value, json};

use super::plan::{address, families, hostname, is_headless, labels, node_of, ports_of, reference};
use crate::common::{is_deleting, is_finished, is_ready, uid_of, value_of};

/// Addresses of one object, as upstream.
const PER_ENDPOINTS: usize = 1_000;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// A Service (or what is left of one), the pods it selects, and its Endpoints.
#[derive(Clone)]
pub struct Observed {
    pub namespace: String,
    pub name: String,
    pub service: Option<Arc<Service>>,
    /// `None`: the Service has no selector.
    pub pods: Option<Vec<Arc<Pod>>>,
    pub endpoints: Option<Arc<Endpoints>>,
}

pub fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = seen.service.as_ref().filter(|s| !is_deleting(&***s)) else {
        if let Some(old) = &seen.endpoints {
            let target = Target::of::<Endpoints>(&seen.namespace, &seen.name);
            // Those that people keep without a Service are theirs.
            let labels = old.metadata.labels.as_ref();
            let ours = labels.is_some_and(|l| l.contains_key(MANAGED_BY));
            let action = || Action::delete(target, Some(uid_of(&**old)));
            plan.actions.extend(ours.then(action));
        }
        return plan;
    };
    let (Some(spec), Some(pods)) = (service.spec.as_ref(), &seen.pods) else {
        return plan;
    };
    if spec.type_.as_deref() != Some("ExternalName")
        && let Some(family) = families(spec).first()
    {
        endpoints(seen, service, spec, pods, family, &mut plan);
    }
    plan
}

/// Ports, addresses of ready pods, addresses of the others.
type Subset = (Vec<Value>, Vec<Value>, Vec<Value>);

fn endpoints(
    seen: &Observed,
    service: &Service,
    spec: &ServiceSpec,
    pods: &[Arc<Pod>],
    family: &str,
    plan: &mut Plan,
) {
    let anyhow = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut subsets: BTreeMap<String, Subset> = BTreeMap::new();
    let mut usable: Vec<(bool, String, &Arc<Pod>)> = pods
        .iter()
        .filter(|p| !is_finished(p) && (anyhow || !is_deleting(&***p)))
        .filter_map(|p| Some((!(anyhow || is_ready(p)), address(p, family)?, p)))
        .collect();
    usable.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let truncated = usable.len() > PER_ENDPOINTS;
    for (not_ready, ip, pod) in usable.into_iter().take(PER_ENDPOINTS) {
        let ports: Vec<Value> = ports_of(spec, pod)
            .into_iter()
            .map(|mut p| {
                // The core type leaves an empty name out.
                if p["name"] == ""
                    && let Some(fields) = p.as_object_mut()
                {
                    fields.remove("name");
                }
                p
            })
            .collect();
        if ports.is_empty() && !is_headless(spec) {
            continue;
        }
        let mut one = json!({ "ip": ip, "targetRef": reference(pod) });
        if let Some(node) = node_of(pod) {
            one["nodeName"] = json!(node);
        }
        if let Some(name) = hostname(pod, &seen.name) {
            one["hostname"] = json!(name);
        }
        let text = Value::from(ports.clone()).to_string();
        let subset = subsets
            .entry(text)
            .or_insert_with(|| (ports, Vec::new(), Vec::new()));
        if not_ready {
            subset.2.push(one)
        } else {
            subset.1.push(one)
        }
    }
    let subsets: Vec<Value> = subsets
        .into_values()
        .map(|(ports, ready, not_ready)| {
            let mut one = json!({});
            for (field, list) in [
                ("addresses", ready),
                ("notReadyAddresses", not_ready),
                ("ports", ports),
            ] {
                if !list.is_empty() {
                    one[field] = Value::from(list);
                }
            }
            one
        })
        .collect();
    write_endpoints(seen, labels(service, spec), subsets, truncated, plan);
}

fn write_endpoints(
    seen: &Observed,
    mut labels: BTreeMap<String, String>,
    subsets: Vec<Value>,
    truncated: bool,
    plan: &mut Plan,
) {
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    let target = Target::of::<Endpoints>(&seen.namespace, &seen.name);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": seen.name, "namespace": seen.namespace, "labels": labels },
        "subsets": subsets,
    });
    let note = if truncated {
        json!("truncated")
    } else {
        Value::Null
    };
    let Some(old) = &seen.endpoints else {
        if truncated {
            object["metadata"]["annotations"] = json!({ OVER_CAPACITY: note });
        }
        plan.actions.push(Action::Create { target, object });
        return;
    };
    let published: Vec<Value> = old.subsets.iter().flatten().map(value_of).collect();
    let annotations = old.metadata.annotations.clone().unwrap_or_default();
    let same_note = annotations.get(OVER_CAPACITY).map(String::as_str) == note.as_str();
    let skipped = annotations.contains_key(SKIP_MIRROR);
    if published == subsets
        && same_note
        && !skipped
        && old.metadata.labels.as_ref() == Some(&labels)
    {
        return;
    }
    object["metadata"]["resourceVersion"] = json!(old.metadata.resource_version);
    object["metadata"]["annotations"] = json!(annotations);
    match note {
        Value::Null => drop(
            object["metadata"]["annotations"]
                .as_object_mut()
                .map(|a| a.remove(OVER_CAPACITY)),
        ),
        note => object["metadata"]["annotations"][OVER_CAPACITY] = note,
    }
    if let Some(all) = object["metadata"]["annotations"].as_object_mut() {
        all.remove(SKIP_MIRROR);
    }
    plan.actions.push(Action::Update {
        target,
        subresource: "",
        object,
    });
}
