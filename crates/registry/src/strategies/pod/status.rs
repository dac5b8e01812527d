//! What may be written into the status of a pod, mostly by its kubelet.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::parts::by_name;
use crate::check::{
    Errors, at, dns_label, dns_subdomain, has, int, invalid, items, items_mut, one_of, set, text,
};
use crate::strategies::containers;

const AGAIN: &str = "may not be transitioned to non-terminated state";
/// Where a container's status says how its devices are.
const HEALTH: &str = "allocatedResourcesStatus";
/// Bytes of what is said of a device's health.
const LONGEST_MESSAGE: usize = 1024;

/// Checks a write of the status.
pub fn update(obj: &Value, old: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("status"));
    let (new, was) = (at(obj, "status"), at(old, "status"));
    if text(at(obj, "spec"), "nodeName") != text(at(old, "spec"), "nodeName") {
        let path = FieldPath::new("status").child("nodeName");
        errs.push(FieldError::forbidden(&path, "may not be changed directly"));
    }
    let (spec, nominated) = (at(old, "spec"), text(new, "nominatedNodeName"));
    if !nominated.is_empty() && nominated != text(was, "nominatedNodeName") {
        let path = path.child("nominatedNodeName");
        dns_subdomain(&mut errs, &path, nominated);
        if !text(spec, "nodeName").is_empty() {
            let why = "may not be set on pods that are already bound to a node";
            errs.push(FieldError::forbidden(&path, why));
        }
    }
    generation(&mut errs, &path, new);
    for (i, condition) in items(new, "conditions").iter().enumerate() {
        generation(&mut errs, &path.child("conditions").index(i), condition);
    }
    claims(&mut errs, &path.child("resourceClaimStatuses"), new, spec);
    extended(
        &mut errs,
        &path.child("extendedResourceClaimStatus"),
        new,
        spec,
    );
    if !containers::all_may_restart(spec) {
        for (field, list) in [
            ("containerStatuses", "containers"),
            ("initContainerStatuses", "initContainers"),
        ] {
            restarts(&mut errs, &path.child(field), spec, list, (new, was), field);
        }
    }
    let field = "ephemeralContainerStatuses";
    let now = by_name(items(new, field));
    for (i, was) in items(was, field).iter().enumerate() {
        let runs = now.get(text(was, "name")).is_some_and(|s| !has_ended(s));
        if runs && has_ended(was) {
            let path = path.child(field).index(i).child("state");
            errs.push(FieldError::forbidden(&path, AGAIN));
        }
    }
    for field in ["podIPs", "hostIPs"] {
        addresses(&mut errs, &path.child(field), items(new, field));
    }
    if let Some(first) = items(new, "hostIPs").first().map(|ip| text(ip, "ip"))
        && first != text(new, "hostIP")
    {
        let path = path.child("hostIPs").index(0).child("ip");
        let why = "must be equal to `hostIP`";
        errs.push(FieldError::invalid_str(&path, first, why));
    }
    for (field, list) in [
        ("containerStatuses", Some("containers")),
        ("initContainerStatuses", Some("initContainers")),
        ("ephemeralContainerStatuses", None),
    ] {
        for (i, container) in items(new, field).iter().enumerate() {
            let path = path.child(field).index(i);
            user(&mut errs, &path.child("user"), container, spec);
            let resources = items(container, HEALTH);
            if resources.is_empty() {
                continue;
            }
            let path = path.child(HEALTH);
            if let Some(list) = list {
                let is_it = |c: &&Value| text(c, "name") == text(container, "name");
                let of_spec = items(spec, list).iter().find(is_it);
                health(&mut errs, &path, resources, of_spec);
            } else {
                let why = "must not be specified in container status";
                errs.push(FieldError::forbidden(&path, why));
            }
        }
    }
    errs
}

fn has_ended(container: &Value) -> bool {
    has(at(container, "state"), "terminated")
}

/// Addresses of a pod or of its node: one, or one of each family.
fn addresses(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut parsed = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let one = text(one, "ip");
        crate::check::ip(errs, &path.index(i), one);
        parsed.extend(one.parse::<IpAddr>().ok());
    }
    let families: BTreeSet<bool> = parsed.iter().map(IpAddr::is_ipv6).collect();
    // Of what is not an address, that is said already.
    if all.len() > 1 && parsed.len() == all.len() && families.len() != all.len() {
        let why = "may specify no more than one IP for each IP family";
        invalid(errs, path, &json!(all), why);
    }
}

/// As whom a container runs.
fn user(errs: &mut Errors, path: &FieldPath, container: &Value, spec: &Value) {
    let linux = at(at(container, "user"), "linux");
    if linux.is_null() {
        return;
    }
    let path = path.child("linux");
    if text(at(spec, "os"), "name") == "windows" {
        let why = "cannot be set for a windows pod";
        errs.push(FieldError::forbidden(&path, why));
        return;
    }
    let mut id = |path: &FieldPath, id: &Value| {
        let is_one = |n: i64| (0..=i64::from(i32::MAX)).contains(&n);
        if id.as_i64().is_some_and(|n| !is_one(n)) {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, path, id, why);
        }
    };
    for field in ["uid", "gid"] {
        id(&path.child(field), at(linux, field));
    }
    let field = "supplementalGroups";
    for (i, group) in items(linux, field).iter().enumerate() {
        id(&path.child(field).index(i), group);
    }
}

/// How the devices of a container are: those that it asks for, each once.
fn health(errs: &mut Errors, path: &FieldPath, resources: &[Value], of_spec: Option<&Value>) {
    for (i, all) in resources.iter().enumerate() {
        let path = path.index(i);
        // A container that nobody knows is upstream's to ignore, too.
        if let Some(why) =
            of_spec.and_then(|c| not_asked_for(at(c, "resources"), text(all, "name")))
        {
            let name = text(all, "name");
            errs.push(FieldError::invalid_str(&path.child("name"), name, why));
        }
        let mut seen = HashSet::new();
        for (j, device) in items(all, "resources").iter().enumerate() {
            let path = path.child("resources").index(j);
            let words = ["Healthy", "Unhealthy", "Unknown"];
            one_of(errs, &path.child("health"), text(device, "health"), &words);
            if has(device, "message") {
                let (path, message) = (path.child("message"), text(device, "message"));
                if message.is_empty() {
                    let why = "must be non-empty if specified";
                    errs.push(FieldError::required(&path, why));
                } else if message.len() > LONGEST_MESSAGE {
                    errs.push(FieldError::too_long(&path, LONGEST_MESSAGE));
                }
            }
            let id = text(device, "resourceID");
            if !seen.insert(id) {
                errs.push(FieldError::duplicate(&path.child("resourceID"), &id.into()));
            }
        }
    }
}

/// Why a container with these resources has nothing of this name.
fn not_asked_for(resources: &Value, name: &str) -> Option<&'static str> {
    let Some(claim) = name.strip_prefix("claim:") else {
        let asked = at(resources, "requests").get(name).is_some();
        return (!asked).then_some("must match one of the container's resource requests");
    };
    let asked = items(resources, "claims")
        .iter()
        .any(|c| match text(c, "request") {
            "" => claim == text(c, "name"),
            request => claim.split_once('/') == Some((text(c, "name"), request)),
        });
    (!asked).then_some(
        "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' \
         or 'claim:<claimName>' if request is empty",
    )
}

/// The claim that was made for what a pod asks for as extended resources.
fn extended(errs: &mut Errors, path: &FieldPath, status: &Value, spec: &Value) {
    let made = at(status, "extendedResourceClaimStatus");
    if made.is_null() {
        return;
    }
    let mut of_spec = by_name(items(spec, "initContainers"));
    of_spec.extend(by_name(items(spec, "containers")));
    let (mappings, of_mappings) = (
        items(made, "requestMappings"),
        path.child("requestMappings"),
    );
    if mappings.is_empty() {
        let why = "at least one request mapping is required";
        errs.push(FieldError::required(&of_mappings, why));
    }
    let mut seen = HashSet::new();
    let fields = ["containerName", "resourceName", "requestName"];
    for (i, mapping) in mappings.iter().enumerate() {
        let at_mapping = of_mappings.index(i);
        let names = fields.map(|field| text(mapping, field));
        let [container, resource, request] = names;
        let mut wrong = |field: &str, name: &str, why: &str| {
            errs.push(FieldError::invalid_str(&at_mapping.child(field), name, why));
        };
        match of_spec.get(container) {
            None => wrong(
                "containerName",
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(c) if at(at(c, "resources"), "requests").get(resource).is_none() => wrong(
                "resourceName",
                resource,
                "must match the extended resource name of an entry in \
                 spec.initContainers.resources.requests or spec.containers.resources.requests",
            ),
            Some(_) => {}
        }
        // Upstream names the field without the mapping's place.
        dns_label(errs, &path.child("requestName"), request);
        if !seen.insert(names) {
            for (field, name) in fields.iter().zip(names) {
                errs.push(FieldError::duplicate(
                    &at_mapping.child(field),
                    &name.into(),
                ));
            }
        }
    }
    let (path, name) = (
        path.child("resourceClaimName"),
        text(made, "resourceClaimName"),
    );
    match name {
        "" => errs.push(FieldError::required(&path, "")),
        name => dns_subdomain(errs, &path, name),
    }
}

const GENERATION: &str = "observedGeneration";

fn generation(errs: &mut Errors, path: &FieldPath, holder: &Value) {
    if int(holder, GENERATION).is_some_and(|n| n < 0) {
        let why = "must be a non-negative integer";
        invalid(errs, &path.child(GENERATION), at(holder, GENERATION), why);
    }
}

/// What generation was seen stays known when somebody writes the status who does not know the field:
/// of the whole, and of each condition.
pub fn keep_generations(status: &mut Value, was: &Value) {
    fn keep(new: &mut Value, old: &Value) {
        let before = int(old, GENERATION).unwrap_or(0);
        if before != 0 && int(new, GENERATION).unwrap_or(0) == 0 {
            set(new, GENERATION, before);
        }
    }
    keep(status, was);
    // A type may be there several times: then in order.
    let mut known: HashMap<&str, VecDeque<&Value>> = HashMap::new();
    for condition in items(was, "conditions") {
        let of_type = known.entry(text(condition, "type")).or_default();
        of_type.push_back(condition);
    }
    for condition in items_mut(status, "conditions") {
        let before = known.get_mut(text(condition, "type"));
        if let Some(before) = before.and_then(VecDeque::pop_front) {
            keep(condition, before);
        }
    }
}

/// Which claims were made for those that the pod names.
fn claims(errs: &mut Errors, path: &FieldPath, status: &Value, spec: &Value) {
    let of_pod = by_name(items(spec, "resourceClaims"));
    let mut seen = HashSet::new();
    for (i, claim) in items(status, "resourceClaimStatuses").iter().enumerate() {
        let (path, name) = (path.index(i), text(claim, "name"));
        if !of_pod.contains_key(name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errs.push(FieldError::invalid_str(&path.child("name"), name, why));
        }
        if !seen.insert(name) {
            errs.push(FieldError::duplicate(&path.child("name"), &name.into()));
        }
        if has(claim, "resourceClaimName") {
            let made = text(claim, "resourceClaimName");
            dns_subdomain(errs, &path.child("resourceClaimName"), made);
        }
    }
}

/// A container that has ended for good stays so.
fn restarts(
    errs: &mut Errors,
    path: &FieldPath,
    spec: &Value,
    list: &str,
    (new, old): (&Value, &Value),
    field: &str,
) {
    let (new, of_spec) = (by_name(items(new, field)), by_name(items(spec, list)));
    for (i, was) in items(old, field).iter().enumerate() {
        let name = text(was, "name");
        if !has_ended(was) || new.get(name).is_none_or(|now| has_ended(now)) {
            continue;
        }
        let code = at(at(at(was, "state"), "terminated"), "exitCode");
        let code = code.as_i64().unwrap_or(0);
        let container = of_spec.get(name);
        if !container.is_some_and(|c| containers::may_restart(spec, c, code)) {
            errs.push(FieldError::forbidden(&path.index(i).child("state"), AGAIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_says_of_nodes_generations_and_claims_is_checked() {
        let spec = json!({ "nodeName": "a", "resourceClaims": [{ "name": "gpu" }] });
        let of = |status: Value| json!({ "spec": spec, "status": status });
        let said = |new: Value, old: Value| {
            let errs = update(&of(new), &of(old));
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let nominated = json!({ "nominatedNodeName": "b" });
        assert_eq!(
            said(nominated.clone(), json!({})),
            [
                "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"
            ]
        );
        // What was there when it was bound may stay until somebody takes it away.
        assert!(said(nominated.clone(), nominated).is_empty());
        let negative = json!({ "observedGeneration": -1,
            "conditions": [{ "type": "Ready", "observedGeneration": -2 }] });
        assert_eq!(
            said(negative, json!({})),
            [
                "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
                "status.conditions[0].observedGeneration: Invalid value: -2: must be a non-negative integer",
            ]
        );
        let claim = |name: &str| json!({ "name": name, "resourceClaimName": "p-gpu-1" });
        let made = json!({ "resourceClaimStatuses": [claim("gpu")] });
        assert!(said(made, json!({})).is_empty());
        let others = json!({ "resourceClaimStatuses": [claim("gpu"), claim("gpu"), claim("x")] });
        assert_eq!(
            said(others, json!({})),
            [
                "status.resourceClaimStatuses[1].name: Duplicate value: \"gpu\"",
                "status.resourceClaimStatuses[2].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
            ]
        );
    }

    fn said(spec: &Value, new: Value, old: Value) -> Vec<String> {
        let of = |status: Value| json!({ "spec": spec, "status": status });
        let errs = update(&of(new), &of(old));
        errs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_one_of_each_family() {
        let of = |all: &[&str]| {
            let all: Vec<Value> = all.iter().map(|ip| json!({ "ip": ip })).collect();
            said(&json!({}), json!({ "podIPs": all }), json!({}))
        };
        assert_eq!(of(&["10.0.0.1", "fd00::1"]), Vec::<String>::new());
        assert_eq!(of(&["fd00::1"]), Vec::<String>::new());
        for wrong in [
            &["10.0.0.1", "10.0.0.2"][..],
            &["10.0.0.1", "fd00::1", "fd00::2"],
        ] {
            let text = of(wrong).join("; ");
            assert!(text.starts_with("status.podIPs: Invalid value: "), "{text}");
            assert!(
                text.ends_with("may specify no more than one IP for each IP family"),
                "{text}"
            );
        }
        let text = of(&["x"]).join("; ");
        assert!(
            text.starts_with("status.podIPs[0]: Invalid value: \"x\""),
            "{text}"
        );
        let hosts = json!({ "hostIP": "10.0.0.2", "hostIPs": [{ "ip": "10.0.0.1" }] });
        assert_eq!(
            said(&json!({}), hosts, json!({})),
            ["status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`"]
        );
    }

    #[test]
    fn what_ended_to_look_into_a_pod_does_not_begin_again() {
        let of = |state: &str| {
            let state: Value = json!({ state: {} });
            json!({ "ephemeralContainerStatuses": [{ "name": "e", "state": state }] })
        };
        let spec = json!({ "restartPolicy": "Always" });
        assert_eq!(
            said(&spec, of("running"), of("terminated")),
            [
                "status.ephemeralContainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
            ]
        );
        assert!(said(&spec, of("terminated"), of("running")).is_empty());
        assert!(said(&spec, json!({}), of("terminated")).is_empty());
    }

    #[test]
    fn devices_are_those_of_the_container_and_healthy_or_not() {
        let spec = json!({ "restartPolicy": "Always", "containers": [{ "name": "c", "resources": {
            "requests": { "x.io/d": "1" },
            "claims": [{ "name": "own", "request": "r" }, { "name": "all" }] } }] });
        let of = |name: &str, device: Value| {
            let all = json!([{ "name": name, "resources": [device] }]);
            let container = json!({ "name": "c", "allocatedResourcesStatus": all });
            said(
                &spec,
                json!({ "containerStatuses": [container] }),
                json!({}),
            )
        };
        let good = json!({ "resourceID": "0", "health": "Unknown" });
        for name in ["x.io/d", "claim:own/r", "claim:all"] {
            assert_eq!(of(name, good.clone()), Vec::<String>::new(), "{name}");
        }
        for name in ["x.io/e", "claim:own", "claim:own/s", "claim:all/r"] {
            let text = of(name, good.clone()).join("; ");
            assert!(
                text.contains("must match one of the container's"),
                "{name}: {text}"
            );
        }
        let at = "status.containerStatuses[0].allocatedResourcesStatus[0].resources[0]";
        let silent = json!({ "resourceID": "0", "health": "Ill", "message": "" });
        assert_eq!(
            of("x.io/d", silent),
            [
                format!(
                    "{at}.health: Unsupported value: \"Ill\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\""
                ),
                format!("{at}.message: Required value: must be non-empty if specified"),
            ]
        );
        let ephemeral = json!({ "ephemeralContainerStatuses": [
            { "name": "e", "allocatedResourcesStatus": [{ "name": "x.io/d" }] }] });
        assert_eq!(
            said(&spec, ephemeral, json!({})),
            [
                "status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status"
            ]
        );
    }

    #[test]
    fn a_container_runs_as_somebody_who_can_be() {
        let of = |os: &str, user: Value| {
            let spec = json!({ "restartPolicy": "Always", "os": { "name": os } });
            let container = json!({ "name": "c", "user": { "linux": user } });
            said(
                &spec,
                json!({ "containerStatuses": [container] }),
                json!({}),
            )
        };
        let good = json!({ "uid": 0, "gid": 1, "supplementalGroups": [2] });
        assert!(of("linux", good.clone()).is_empty());
        let at = "status.containerStatuses[0].user.linux";
        let why = "must be between 0 and 2147483647, inclusive";
        assert_eq!(
            of(
                "linux",
                json!({ "uid": -1, "gid": 1, "supplementalGroups": [-2] })
            ),
            [
                format!("{at}.uid: Invalid value: -1: {why}"),
                format!("{at}.supplementalGroups[0]: Invalid value: -2: {why}"),
            ]
        );
        assert_eq!(
            of("windows", good),
            [format!("{at}: Forbidden: cannot be set for a windows pod")]
        );
    }

    #[test]
    fn a_claim_of_extended_resources_names_who_asks_for_what() {
        let spec = json!({ "restartPolicy": "Always", "containers": [
            { "name": "c", "resources": { "requests": { "x.io/d": "1" } } }] });
        let mapping = |container: &str, resource: &str| {
            json!({ "containerName": container, "resourceName": resource,
                "requestName": "container-0-request-0" })
        };
        let of = |mappings: Value| {
            let made = json!({ "resourceClaimName": "p-e", "requestMappings": mappings });
            let status = json!({ "extendedResourceClaimStatus": made });
            said(&spec, status, json!({})).len()
        };
        assert_eq!(of(json!([mapping("c", "x.io/d")])), 0);
        assert_eq!(of(json!([mapping("c", "x.io/e")])), 1);
        assert_eq!(of(json!([mapping("d", "x.io/d")])), 1);
        assert_eq!(of(json!([])), 1);
        let twice = json!([mapping("c", "x.io/d"), mapping("c", "x.io/d")]);
        assert_eq!(of(twice), 3);
    }

    #[test]
    fn a_generation_that_was_seen_is_not_forgotten() {
        let was = json!({ "observedGeneration": 3, "conditions": [
            { "type": "Ready", "observedGeneration": 2 }, { "type": "Other" } ] });
        let mut new = json!({ "conditions": [
            { "type": "Other" }, { "type": "Ready", "status": "True" }, { "type": "Ready" } ] });
        keep_generations(&mut new, &was);
        assert_eq!(
            new,
            json!({ "observedGeneration": 3, "conditions": [
                { "type": "Other" }, { "type": "Ready", "status": "True", "observedGeneration": 2 },
                { "type": "Ready" } ] })
        );
        let mut newer = json!({ "observedGeneration": 4 });
        keep_generations(&mut newer, &was);
        assert_eq!(newer, json!({ "observedGeneration": 4 }));
    }
}
