//! APIServices: which ones stand for what this server serves itself, and what is said of their
//! availability. Pure functions; who calls them writes the objects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::check::{at, flag, items, text};

/// Says that an APIService is kept by the server: once at its start, or always.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// The group whose order nobody changes: it comes first.
const OWN_GROUP: &str = "apiregistration.k8s.io";
/// Pods and nodes in use: extension servers of anybody may take this group, so no APIService of it
/// is kept, and it is listed last.
const USAGE_GROUP: &str = "metrics.k8s.io";
/// Priorities of groups of custom kinds, and of their versions; upstream's.
const CUSTOM: (i64, i64) = (1000, 100);

/// Group, version, priority of the group, priority of the version; upstream's numbers. The core
/// group is empty.
#[rustfmt::skip]
const PRIORITIES: &[(&str, &str, i64, i64)] = &[
    ("", "v1", 18_000, 1),
    ("apps", "v1", 17_800, 15),
    ("events.k8s.io", "v1", 17_750, 15),
    ("authentication.k8s.io", "v1", 17_700, 15),
    ("authentication.k8s.io", "v1beta1", 17_700, 9),
    ("authentication.k8s.io", "v1alpha1", 17_700, 1),
    ("authorization.k8s.io", "v1", 17_600, 15),
    ("autoscaling", "v1", 17_500, 15),
    ("autoscaling", "v2", 17_500, 30),
    ("batch", "v1", 17_400, 15),
    ("certificates.k8s.io", "v1", 17_300, 15),
    ("certificates.k8s.io", "v1beta1", 17_300, 9),
    ("certificates.k8s.io", "v1alpha1", 17_300, 1),
    ("networking.k8s.io", "v1", 17_200, 15),
    ("networking.k8s.io", "v1beta1", 17_200, 9),
    ("policy", "v1", 17_100, 15),
    ("rbac.authorization.k8s.io", "v1", 17_000, 15),
    ("storage.k8s.io", "v1", 16_800, 15),
    ("storage.k8s.io", "v1beta1", 16_800, 9),
    ("storage.k8s.io", "v1alpha1", 16_800, 1),
    ("admissionregistration.k8s.io", "v1", 16_700, 15),
    ("admissionregistration.k8s.io", "v1beta1", 16_700, 12),
    ("admissionregistration.k8s.io", "v1alpha1", 16_700, 9),
    ("apiextensions.k8s.io", "v1", 16_700, 15),
    ("scheduling.k8s.io", "v1", 16_600, 15),
    ("scheduling.k8s.io", "v1alpha2", 16_600, 2),
    ("coordination.k8s.io", "v1", 16_500, 15),
    ("coordination.k8s.io", "v1beta1", 16_500, 13),
    ("coordination.k8s.io", "v1alpha2", 16_500, 12),
    ("node.k8s.io", "v1", 16_300, 15),
    ("discovery.k8s.io", "v1", 16_200, 15),
    ("resource.k8s.io", "v1", 16_200, 21),
    ("resource.k8s.io", "v1beta2", 16_200, 15),
    ("resource.k8s.io", "v1beta1", 16_200, 9),
    ("resource.k8s.io", "v1alpha3", 16_200, 1),
    ("flowcontrol.apiserver.k8s.io", "v1", 16_100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16_000, 9),
    ("storagemigration.k8s.io", "v1beta1", 15_800, 9),
];

/// The priority of a group that this server serves itself: the higher, the earlier it is listed.
pub fn group_priority(group: &str) -> i64 {
    if group == OWN_GROUP {
        return 20_001;
    }
    if group == USAGE_GROUP {
        // That of metrics-server's APIService.
        return 100;
    }
    let found = PRIORITIES.iter().find(|(g, ..)| *g == group);
    found.map_or(CUSTOM.0, |(_, _, group, _)| *group)
}

/// The priority of a version in its group.
pub fn version_priority(group: &str, version: &str) -> i64 {
    let found = PRIORITIES
        .iter()
        .find(|(g, v, ..)| (*g, *v) == (group, version));
    found.map_or(CUSTOM.1, |(.., version)| *version)
}

/// An APIService that the server keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultApiService {
    pub spec: Value,
    /// Compared once after the server's start only; what somebody changes then stays.
    pub at_start_only: bool,
}

fn kept(
    group: &str,
    version: &str,
    priorities: (i64, i64),
    at_start_only: bool,
) -> (String, DefaultApiService) {
    let mut spec = json!({
        "version": version, "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1,
    });
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    let kept = DefaultApiService {
        spec,
        at_start_only,
    };
    (format!("{version}.{group}"), kept)
}

/// All that the server keeps, by name: for built-in groups and versions, and for those of
/// CustomResourceDefinitions.
pub fn wanted<'a>(
    built_in: impl IntoIterator<Item = (&'a str, &'a str)>,
    definitions: &[Value],
) -> BTreeMap<String, DefaultApiService> {
    let mut all = BTreeMap::new();
    for crd in definitions {
        let spec = at(crd, "spec");
        let group = text(spec, "group");
        let served = items(spec, "versions").iter().filter(|v| flag(v, "served"));
        all.extend(served.map(|v| kept(group, text(v, "name"), CUSTOM, false)));
    }
    for (group, version) in built_in {
        if let Some((.., of_group, of_version)) = PRIORITIES
            .iter()
            .find(|(g, v, ..)| (*g, *v) == (group, version))
        {
            let (name, kept) = kept(group, version, (*of_group, *of_version), true);
            all.insert(name, kept);
        }
    }
    all
}

/// What is to be done with an APIService.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Create(Value),
    /// With this specification.
    Update(Value),
    Delete,
}

/// Compares an APIService with what is wanted. `is_start`: since its start, the server has not done
/// so yet.
pub fn step(
    name: &str,
    wanted: Option<&DefaultApiService>,
    current: Option<&Value>,
    is_start: bool,
) -> Option<Step> {
    let (Some(current), wanted) = (current, wanted) else {
        let wanted = wanted.filter(|w| is_start || !w.at_start_only)?;
        let label = if wanted.at_start_only {
            "onstart"
        } else {
            "true"
        };
        return Some(Step::Create(json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": { "name": name, "labels": { MANAGED: label } },
            "spec": wanted.spec,
        })));
    };
    let managed = text(at(at(current, "metadata"), "labels"), MANAGED);
    match (managed, wanted) {
        ("onstart", _) if !is_start => None,
        ("onstart" | "true", None) => Some(Step::Delete),
        ("onstart" | "true", Some(wanted)) if at(current, "spec") != &wanted.spec => {
            Some(Step::Update(wanted.spec.clone()))
        }
        _ => None,
    }
}

/// Whether an extension server answers, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    pub is: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Available {
    /// Of an APIService without a Service.
    pub fn local() -> Self {
        Self {
            is: true,
            reason: "Local",
            message: "Local APIServices are always available".into(),
        }
    }
    pub fn passed() -> Self {
        Self {
            is: true,
            reason: "Passed",
            message: "all checks passed".into(),
        }
    }
    pub fn not(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            is: false,
            reason,
            message: message.into(),
        }
    }
}

/// Whether an APIService is said to be available.
pub fn is_available(service: &Value) -> bool {
    let conditions = items(at(service, "status"), "conditions");
    conditions
        .iter()
        .any(|c| text(c, "type") == "Available" && text(c, "status") == "True")
}

/// The conditions that an APIService should have; none when it has them. `now` as RFC 3339.
pub fn conditions(service: &Value, available: &Available, now: &str) -> Option<Value> {
    let mut all = items(at(service, "status"), "conditions").to_vec();
    let state = if available.is { "True" } else { "False" };
    let mut next = json!({
        "type": "Available", "status": state, "reason": available.reason,
        "message": available.message, "lastTransitionTime": now,
    });
    match all.iter_mut().find(|c| text(c, "type") == "Available") {
        Some(have) => {
            if text(have, "status") == state {
                next["lastTransitionTime"] = at(have, "lastTransitionTime").clone();
            }
            if *have == next {
                return None;
            }
            *have = next;
        }
        None => all.push(next),
    }
    Some(all.into())
}

/// What can be said of an extension server's Service without asking it: none when it can be asked.
/// `slices` are the EndpointSlices of the Service.
pub fn unreachable(
    (namespace, name, port): (&str, &str, u16),
    service: Option<&Value>,
    slices: &[Value],
) -> Option<Available> {
    let Some(service) = service else {
        let why = format!("service/{name} in {namespace:?} is not present");
        return Some(Available::not("ServiceNotFound", why));
    };
    let spec = at(service, "spec");
    if !matches!(text(spec, "type"), "" | "ClusterIP") {
        return None;
    }
    let mut ports = items(spec, "ports").iter();
    let Some(found) = ports.find(|p| at(p, "port") == &json!(port)) else {
        let why = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Available::not("ServicePortError", why));
    };
    let port_name = text(found, "name");
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Available::not("EndpointsNotFound", why));
    }
    let has_endpoint = |slice: &Value| {
        let ready = |e: &Value| at(at(e, "conditions"), "ready") != &json!(false);
        let named = |p: &Value| text(p, "name") == port_name && !at(p, "port").is_null();
        items(slice, "endpoints").iter().any(ready) && items(slice, "ports").iter().any(named)
    };
    if !slices.iter().any(has_endpoint) {
        let why = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Available::not("MissingEndpoints", why));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_version_has_its_priority() {
        for (group, versions) in crate::kinds().groups() {
            for version in versions
                .iter()
                .filter(|_| ![OWN_GROUP, USAGE_GROUP].contains(&&*group))
            {
                let has = PRIORITIES
                    .iter()
                    .any(|(g, v, ..)| (*g, *v) == (&*group, &**version));
                assert!(has, "{group}/{version}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_made_changed_and_removed() {
        let crd = json!({"spec": {"group": "sea.example.com", "versions": [
            {"name": "v1", "served": true}, {"name": "v2", "served": false}]}});
        let wanted = wanted([("apps", "v1")], &[crd]);
        let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
        assert_eq!(names, ["v1.apps", "v1.sea.example.com"]);
        let custom = wanted.get("v1.sea.example.com");
        let Some(Step::Create(made)) = step("v1.sea.example.com", custom, None, false) else {
            panic!("to be made");
        };
        assert_eq!(made["metadata"]["labels"][MANAGED], "true");
        assert_eq!(made["spec"]["groupPriorityMinimum"], 1000);
        assert_eq!(step("v1.sea.example.com", custom, Some(&made), false), None);
        assert_eq!(
            step("v1.sea.example.com", None, Some(&made), false),
            Some(Step::Delete)
        );
        let apps = wanted.get("v1.apps");
        assert_eq!(
            step("v1.apps", apps, None, false),
            None,
            "once, at the start"
        );
        assert!(step("v1.apps", apps, None, true).is_some());
        let mut own = made.clone();
        own["metadata"]["labels"] = json!({});
        own["spec"]["versionPriority"] = 7.into();
        assert_eq!(step("x", custom, Some(&own), true), None, "somebody's own");
    }

    #[test]
    fn a_service_that_leads_nowhere_says_why() {
        let at = ("n", "s", 443);
        let reason = |service: Option<&Value>, slices: &[Value]| {
            unreachable(at, service, slices).map(|a| a.reason)
        };
        let service =
            json!({"spec": {"type": "ClusterIP", "ports": [{"name": "web", "port": 443}]}});
        let other = json!({"spec": {"ports": [{"port": 80}]}});
        let slice = |name: &str, ready: bool| {
            json!({"ports": [{"name": name, "port": 8443}],
                "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}]})
        };
        assert_eq!(reason(None, &[]), Some("ServiceNotFound"));
        assert_eq!(reason(Some(&other), &[]), Some("ServicePortError"));
        assert_eq!(reason(Some(&service), &[]), Some("EndpointsNotFound"));
        assert_eq!(
            reason(Some(&service), &[slice("web", false), slice("x", true)]),
            Some("MissingEndpoints")
        );
        assert_eq!(reason(Some(&service), &[slice("web", true)]), None);
    }

    #[test]
    fn conditions_change_with_their_state() {
        let mut service = json!({});
        let down = Available::not("ServiceNotFound", "gone");
        let first = conditions(&service, &down, "t1").expect("new");
        service["status"] = json!({"conditions": first});
        assert_eq!(conditions(&service, &down, "t2"), None);
        let other = Available::not("MissingEndpoints", "none");
        let next = conditions(&service, &other, "t2").expect("another reason");
        assert_eq!(next[0]["lastTransitionTime"], "t1");
        let up = conditions(&service, &Available::passed(), "t3").expect("up");
        assert_eq!(up[0]["lastTransitionTime"], "t3");
    }
}
