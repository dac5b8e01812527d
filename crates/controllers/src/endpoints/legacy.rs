//! Endpoints, for clients that still read them: one object per Service, of the first family, with
//! at most a thousand addresses. The rest of the way is that of [`super::plan`].

use std::collections::BTreeMap;
use std::sync::Arc;

use control::action::{Action, Plan, Target};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServiceSpec};
use serde_json::{Value, json};

use super::plan::{
    CHANGED, address, changed_at, families, hostname, is_headless, labels, node_of, ports_of,
    reference,
};
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
    /// The Service was there, and has gone: so its Endpoints go, whoever made them.
    pub service_went: bool,
}

pub fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    let Some(service) = seen.service.as_ref() else {
        if let Some(old) = &seen.endpoints {
            let target = Target::of::<Endpoints>(&seen.namespace, &seen.name);
            // Those that people keep without a Service are theirs.
            let labels = old.metadata.labels.as_ref();
            let ours = labels.is_some_and(|l| l.contains_key(MANAGED_BY));
            let action = || Action::delete(target, Some(uid_of(&**old)));
            plan.actions
                .extend((ours || seen.service_went).then(action));
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
        let wants_none = spec.ports.iter().flatten().next().is_none() && is_headless(spec);
        if ports.is_empty() && !wants_none {
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
    write_endpoints(
        seen,
        service,
        labels(service, spec),
        subsets,
        truncated,
        plan,
    );
}

/// All addresses of some subsets, each with the list in which it stands.
fn addresses(subsets: &[Value]) -> Vec<Value> {
    let of = |subset: &Value, list: &str| {
        let all = subset[list].as_array().into_iter().flatten();
        let all = all.map(|one| {
            let mut one = one.clone();
            one["list"] = json!(list);
            one
        });
        all.collect::<Vec<_>>()
    };
    let lists = |s: &Value| [of(s, "addresses"), of(s, "notReadyAddresses")].concat();
    subsets.iter().flat_map(lists).collect()
}

fn write_endpoints(
    seen: &Observed,
    service: &Service,
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
    let old = seen.endpoints.as_deref();
    let published = old.iter().flat_map(|e| e.subsets.iter().flatten());
    let published: Vec<Value> = published.map(value_of).collect();
    let mut notes = old
        .and_then(|e| e.metadata.annotations.clone())
        .unwrap_or_default();
    let note = truncated.then_some("truncated");
    let same_note = notes.get(OVER_CAPACITY).map(String::as_str) == note;
    let is_same = |old: &Endpoints| {
        published == subsets
            && same_note
            && !notes.contains_key(SKIP_MIRROR)
            && old.metadata.labels.as_ref() == Some(&labels)
    };
    // What goes is kept up to date, but nothing is made for it any more.
    if old.map_or(is_deleting(service), is_same) {
        return;
    }
    let (before, now) = (addresses(&published), addresses(&subsets));
    let pods = seen.pods.as_deref().unwrap_or_default();
    let time = changed_at(Some(service), pods, old.is_none(), &before, &now);
    for name in [CHANGED, OVER_CAPACITY, SKIP_MIRROR] {
        notes.remove(name);
    }
    notes.extend(time.map(|time| (CHANGED.to_owned(), time)));
    notes.extend(note.map(|note| (OVER_CAPACITY.to_owned(), note.to_owned())));
    if !notes.is_empty() {
        object["metadata"]["annotations"] = json!(notes);
    }
    plan.actions.push(match old {
        None => Action::Create { target, object },
        Some(old) => {
            object["metadata"]["resourceVersion"] = json!(old.metadata.resource_version);
            Action::Update {
                target,
                subresource: "",
                object,
            }
        }
    });
}
