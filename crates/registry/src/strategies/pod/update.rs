//! What may change of a pod that exists.

use std::collections::HashSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::parts::{RESTART, by_name, is_sidecar};
use crate::check::{Errors, at, has, int, invalid, items, text};

const MAY_CHANGE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks an update of the pod itself.
pub fn pod(obj: &Value, old: &Value) -> Errors {
    let (mut errs, path) = (Errors::new(), FieldPath::new("spec"));
    super::annotations::kept(&mut errs, at(obj, "metadata"), at(old, "metadata"));
    let (new, old) = (at(obj, "spec"), at(old, "spec"));
    for list in ["containers", "initContainers"] {
        if items(new, list).len() != items(old, list).len() {
            let why = "pod updates may not add or remove containers";
            errs.push(FieldError::forbidden(&path.child(list), why));
            return errs;
        }
    }
    if !deadline(&mut errs, &path, new, old) {
        return errs;
    }
    kept_tolerations(&mut errs, &path.child("tolerations"), new, old);
    let gates: HashSet<&Value> = items(old, "schedulingGates").iter().collect();
    for (i, g) in items(new, "schedulingGates").iter().enumerate() {
        if !gates.contains(g) {
            let why = "only deletion is allowed, but found new scheduling gate '";
            let why = format!("{why}{}'", text(g, "name"));
            errs.push(FieldError::forbidden(
                &path.child("schedulingGates").index(i),
                &why,
            ));
        }
    }
    if is_gated(old) {
        narrowed(&mut errs, &path, new, old);
    }
    let changed = changed_fields(new, old);
    if !changed.is_empty() {
        let why = format!("{MAY_CHANGE}\nchanged: {}", changed.join(", "));
        errs.push(FieldError::forbidden(&path, &why));
    }
    errs
}

/// Whether the checks may go on.
fn deadline(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value) -> bool {
    let path = path.child("activeDeadlineSeconds");
    match (
        int(new, "activeDeadlineSeconds"),
        int(old, "activeDeadlineSeconds"),
    ) {
        (Some(n), Some(o)) if o < n => {
            let why = "must be less than or equal to previous value";
            invalid(errs, &path, &n.into(), why);
            return false;
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            invalid(errs, &path, &Value::Null, why);
        }
        _ => {}
    }
    true
}

/// Tolerations may be added, and their seconds may change.
fn kept_tolerations(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let without = |t: &Value| {
        let mut t = t.clone();
        crate::check::unset(&mut t, "tolerationSeconds");
        t
    };
    let now: HashSet<Value> = items(new, "tolerations").iter().map(without).collect();
    if items(old, "tolerations")
        .iter()
        .any(|t| !now.contains(&without(t)))
    {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errs.push(FieldError::forbidden(path, why));
    }
}

/// The fields of the spec that differ and may not. Of a gated pod nodeSelector and node affinity
/// may be narrowed.
fn changed_fields(new: &Value, old: &Value) -> Vec<String> {
    let gated = is_gated(old);
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if gated {
        free.push("nodeSelector");
    }
    let seconds = |v: &Value| int(v, "terminationGracePeriodSeconds");
    if seconds(old).is_some_and(|s| s < 0) && seconds(new) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    let no_images = |v: &Value, list: &str| -> Vec<Value> {
        let mut all = items(v, list).to_vec();
        all.iter_mut().for_each(|c| crate::check::unset(c, "image"));
        all
    };
    let empty = serde_json::Map::new();
    let (n, o) = (
        new.as_object().unwrap_or(&empty),
        old.as_object().unwrap_or(&empty),
    );
    let mut fields: Vec<&String> = n.keys().chain(o.keys()).collect();
    fields.sort();
    fields.dedup();
    let differs = |f: &str| match f {
        "containers" | "initContainers" => no_images(new, f) != no_images(old, f),
        "affinity" if gated => ["podAffinity", "podAntiAffinity"]
            .iter()
            .any(|of| !same(at(at(new, f), of), at(at(old, f), of))),
        _ => !same(at(new, f), at(old, f)),
    };
    let bad = fields
        .into_iter()
        .filter(|f| !free.contains(&f.as_str()) && differs(f));
    bad.map(|f| format!("spec.{f}")).collect()
}

fn is_gated(spec: &Value) -> bool {
    !items(spec, "schedulingGates").is_empty()
}

/// A gated pod may be given more of where it is to run, and nothing else: what its node must have
/// already, it must have still. What it only prefers is free.
fn narrowed(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let (selector, before) = (at(new, "nodeSelector"), at(old, "nodeSelector"));
    let mut kept = before.as_object().into_iter().flatten();
    if !kept.all(|(key, value)| selector.get(key) == Some(value)) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        invalid(errs, &path.child("nodeSelector"), selector, why);
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let node = |spec| at(at(at(spec, "affinity"), "nodeAffinity"), required);
    let path = path.child("affinity").child("nodeAffinity");
    let path = path.child(required).child("nodeSelectorTerms");
    let before = items(node(old), "nodeSelectorTerms");
    let terms = items(node(new), "nodeSelectorTerms");
    if before.is_empty() {
        return;
    }
    if before.len() != terms.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        let shown = at(node(new), "nodeSelectorTerms");
        invalid(errs, &path, shown, why);
        return;
    }
    for (i, (term, before)) in terms.iter().zip(before).enumerate() {
        if !only_added(term, before) {
            let why = "only additions are allowed (no mutations or deletions)";
            invalid(errs, &path.index(i), term, why);
        }
    }
}

/// Whether a term has all requirements that it had, in their order, and had some if it has some: one
/// without any matches no node.
fn only_added(term: &Value, before: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let empty = |term: &Value| lists.iter().all(|list| items(term, list).is_empty());
    if empty(before) {
        return empty(term);
    }
    lists
        .iter()
        .all(|list| items(term, list).starts_with(items(before, list)))
}

/// Equal, where absent and empty are the same.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (crate::check::is_empty(a) && crate::check::is_empty(b))
}

/// Checks a write of `ephemeralcontainers`: none may go or change.
pub fn ephemeral(obj: &Value, old: &Value) -> Errors {
    let mut errs = Errors::new();
    let mirror = at(
        at(at(old, "metadata"), "annotations"),
        "kubernetes.io/config.mirror",
    );
    if !mirror.is_null() {
        let why = "static pods do not support ephemeral containers";
        errs.push(FieldError::forbidden(&FieldPath::new("[]"), why));
        return errs;
    }
    let path = FieldPath::new("spec").child("ephemeralContainers");
    let now = by_name(items(at(obj, "spec"), "ephemeralContainers"));
    for was in items(at(old, "spec"), "ephemeralContainers") {
        let name = text(was, "name");
        match now.get(name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                errs.push(FieldError::forbidden(&path, &why));
            }
            Some(c) if *c != was => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                errs.push(FieldError::forbidden(&path, &why));
            }
            Some(_) => {}
        }
    }
    errs
}

/// What a pod cannot be made with: ephemeral containers, a node before its gates are gone, and what
/// [`asked_of_new`] refuses.
pub fn only_later(errs: &mut Errors, spec: &Value) {
    let path = FieldPath::new("spec");
    if !items(spec, "ephemeralContainers").is_empty() {
        let path = path.child("ephemeralContainers");
        errs.push(FieldError::forbidden(&path, "cannot be set on create"));
    }
    if !text(spec, "nodeName").is_empty() && is_gated(spec) {
        let why = "cannot be set until all schedulingGates have been cleared";
        errs.push(FieldError::forbidden(&path.child("nodeName"), why));
    }
    asked_of_new(errs, &path, spec);
}

/// What pods may have had since before it was looked at: it is asked of those that are made, and of
/// templates.
pub fn asked_of_new(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    restarts_to_resize(errs, path, spec);
    if at(spec, "hostUsers").as_bool() != Some(false) {
        return;
    }
    // Nobody gives a raw device to users of the pod's own.
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            if !items(container, "volumeDevices").is_empty() {
                let path = path.child(list).index(i).child("volumeDevices");
                errs.push(FieldError::forbidden(&path, "when `hostUsers` is false"));
            }
        }
    }
}

/// Containers that do not run again cannot be restarted to have other resources.
fn restarts_to_resize(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let never = text(spec, "restartPolicy") == "Never";
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            let path = path.child(list).index(i).child("resizePolicy");
            let ends = list == "initContainers" && !is_sidecar(container);
            for (j, policy) in items(container, "resizePolicy").iter().enumerate() {
                if text(policy, "restartPolicy") != RESTART {
                    continue;
                }
                if never {
                    let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
                    errs.push(FieldError::invalid_str(&path, RESTART, why));
                }
                if ends {
                    let path = path.index(j).child("restartPolicy");
                    let why =
                        "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errs.push(FieldError::invalid_str(&path, RESTART, why));
                }
            }
        }
    }
}

/// What of a whole pod forbids that it is resized.
fn never_resized(old: &Value) -> Option<&'static str> {
    let annotations = at(at(old, "metadata"), "annotations");
    if has(annotations, "kubernetes.io/config.mirror") {
        return Some("static pods cannot be resized");
    }
    let os = text(at(at(old, "spec"), "os"), "name");
    (os == "windows").then_some("windows pods cannot be resized")
}

/// Checks a write of `resize`: the class of service stays, containers are neither added, removed
/// nor renamed, only CPU and memory change, and what was requested or limited stays so.
pub fn resize(obj: &Value, old: &Value) -> Errors {
    let mut errs = Errors::new();
    if let Some(why) = never_resized(old) {
        errs.push(FieldError::forbidden(&FieldPath::new("[]"), why));
        return errs;
    }
    let path = FieldPath::new("spec");
    let of_claims = "nodeAllocatableResourceClaimStatuses";
    if !items(at(old, "status"), of_claims).is_empty() {
        let why = "pods with node allocatable resource claims cannot be resized";
        errs.push(FieldError::forbidden(&path, why));
    }
    for list in ["containers", "initContainers"] {
        let (new, was) = (items(at(obj, "spec"), list), items(at(old, "spec"), list));
        if new.len() != was.len() {
            let why = "containers may not be added or removed on resize";
            errs.push(FieldError::forbidden(&path.child(list), why));
            continue;
        }
        for (i, (c, o)) in new.iter().zip(was).enumerate() {
            let path = path.child(list).index(i);
            if text(c, "name") != text(o, "name") {
                let why = "containers may not be renamed or reordered on resize";
                errs.push(FieldError::forbidden(&path.child("name"), why));
                continue;
            }
            resized(&mut errs, &path.child("resources"), c, o);
            if list == "initContainers" && !is_sidecar(c) && c != o {
                for policy in items(c, "resizePolicy") {
                    if text(policy, "restartPolicy") == RESTART {
                        let why = "non-sidecar init containers with a resize policy of \
                                   RestartContainer cannot be resized";
                        errs.push(FieldError::forbidden(&path, why));
                    }
                }
            }
        }
    }
    resized(
        &mut errs,
        &path.child("resources"),
        at(obj, "spec"),
        at(old, "spec"),
    );
    // A pod may have been stored with a class that counted other resources too; what it asks for
    // says its class, and so does what is stored.
    let was = text(at(old, "status"), "qosClass");
    let class = super::defaults::qos_class(obj);
    if !was.is_empty() && class.name() != was && class != super::defaults::qos_class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errs.push(FieldError::invalid_str(&path, class.name(), why));
    }
    errs
}

/// The resources of a container or of the pod before and after.
fn resized(errs: &mut Errors, path: &FieldPath, new: &Value, old: &Value) {
    let (new, old) = (at(new, "resources"), at(old, "resources"));
    for side in ["limits", "requests"] {
        let (now, was) = (at(new, side), at(old, side));
        let empty = serde_json::Map::new();
        let map = |v: &'_ Value| v.as_object().cloned().unwrap_or_else(|| empty.clone());
        let (now, was) = (map(now), map(was));
        let changed = |name: &String| match (now.get(name), was.get(name)) {
            (Some(n), Some(o)) => !super::parts::same_quantity(n, o),
            (None, None) => false,
            _ => true,
        };
        let path = path.child(side);
        let others = now.keys().chain(was.keys());
        if others
            .filter(|n| !["cpu", "memory"].contains(&n.as_str()))
            .any(changed)
        {
            let why = "only cpu and memory resources are mutable";
            errs.push(FieldError::forbidden(&path, why));
        }
        for name in ["cpu", "memory"] {
            if was.contains_key(name) && !now.contains_key(name) {
                let why = format!("resource {side} cannot be removed");
                errs.push(FieldError::forbidden(&path.key(name), &why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_gated_pod_is_told_more_of_its_node_and_nothing_else() {
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let zone = |zones: &[&str]| json!({"key": "zone", "operator": "In", "values": zones});
        let term = |all: &[Value]| json!({ "matchExpressions": all });
        let spec = |selector: Value, terms: Value, more: Value| {
            let mut affinity = json!({"nodeAffinity": {required: {"nodeSelectorTerms": terms}}});
            for (key, value) in more.as_object().into_iter().flatten() {
                affinity[key] = value.clone();
            }
            json!({"nodeSelector": selector, "affinity": affinity, "schedulingGates": [{"name": "g"}]})
        };
        let disk = || json!({"disk": "ssd"});
        let a = zone(&["a"]);
        let one = || json!([term(std::slice::from_ref(&a))]);
        let near = json!({"podAffinity": {required: [{"topologyKey": "zone"}]}});
        let old = json!({ "spec": spec(disk(), one(), json!({})) });
        for (new, wanted) in [
            (spec(disk(), one(), json!({})), ""),
            (
                spec(json!({"disk": "ssd", "cpu": "fast"}), one(), json!({})),
                "",
            ),
            (
                spec(json!({"disk": "hdd"}), one(), json!({})),
                "spec.nodeSelector: Invalid value: {\"disk\":\"hdd\"}: only additions",
            ),
            (
                spec(json!({}), one(), json!({})),
                "only additions to spec.nodeSelector",
            ),
            (
                spec(disk(), json!([term(&[a.clone(), zone(&["b"])])]), json!({})),
                "",
            ),
            (
                spec(disk(), json!([term(&[zone(&["b"]), a.clone()])]), json!({})),
                "nodeSelectorTerms[0]: Invalid value",
            ),
            (
                spec(disk(), json!([term(&[])]), json!({})),
                "nodeSelectorTerms[0]: Invalid value",
            ),
            (
                spec(
                    disk(),
                    json!([
                        term(std::slice::from_ref(&a)),
                        term(std::slice::from_ref(&a))
                    ]),
                    json!({}),
                ),
                "no additions/deletions to non-empty",
            ),
            (
                spec(disk(), json!([]), json!({})),
                "no additions/deletions to non-empty",
            ),
            (spec(disk(), one(), near.clone()), "changed: spec.affinity"),
        ] {
            let text: Vec<String> = pod(&json!({"spec": new}), &old)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(text.is_empty(), wanted.is_empty(), "{new}: {text:?}");
            assert!(text.join("; ").contains(wanted), "{wanted}: {text:?}");
        }
        // Nothing was asked of the node: anything may be.
        let free = json!({"spec": {"schedulingGates": [{"name": "g"}]}});
        let new = json!({"spec": spec(disk(), one(), json!({}))});
        assert_eq!(pod(&new, &free), Vec::new());
        // And what only is preferred.
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        let mut other = old.clone();
        other["spec"]["affinity"]["nodeAffinity"][preferred] =
            json!([{"weight": 1, "preference": term(&[])}]);
        assert_eq!(pod(&other, &old), Vec::new());
    }

    #[test]
    fn a_resize_changes_cpu_and_memory_only() {
        let pod = |name: &str, resources: &Value| {
            json!({"spec": {"containers": [{"name": name, "resources": resources}]},
                "status": {"qosClass": "Burstable"}})
        };
        let was = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let old = pod("c", &was);
        for (name, resources, wanted) in [
            (
                "c",
                json!({"limits": {"cpu": "3", "memory": "2Gi"}, "requests": {"cpu": "2", "memory": "1024Mi"}}),
                "",
            ),
            ("d", was.clone(), "renamed or reordered"),
            (
                "c",
                json!({"requests": {"cpu": "1", "memory": "1Gi"}}),
                "resource limits cannot be removed",
            ),
            (
                "c",
                json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}),
                "resource requests cannot be removed",
            ),
            (
                "c",
                json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1"}}),
                "only cpu and memory",
            ),
            (
                "c",
                json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2", "memory": "1Gi"}}),
                "QOS Class",
            ),
        ] {
            let errs = resize(&pod(name, &resources), &old);
            let text = format!("{errs:?}");
            assert_eq!(errs.is_empty(), wanted.is_empty(), "{text}");
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }

    #[test]
    fn who_runs_no_more_is_not_restarted_to_be_resized() {
        let pod = |cpu: &str, of_init: Value| {
            let resources = json!({"requests": {"cpu": cpu}});
            let mut init = json!({"name": "i", "resources": resources,
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": RESTART}]});
            if !of_init.is_null() {
                init["restartPolicy"] = of_init;
            }
            json!({"spec": {"containers": [{"name": "c"}], "initContainers": [init]}})
        };
        let said = |new: &Value, old: &Value| {
            let errs = resize(new, old);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (one, two) = (pod("1", Value::Null), pod("2", Value::Null));
        assert_eq!(said(&one, &one), Vec::<String>::new());
        assert_eq!(
            said(&two, &one),
            [
                "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer cannot be resized"
            ]
        );
        let sidecar = |cpu| pod(cpu, json!("Always"));
        assert_eq!(said(&sidecar("2"), &sidecar("1")), Vec::<String>::new());

        let made = |pod: &Value, policy: &str| {
            let mut spec = pod["spec"].clone();
            spec["restartPolicy"] = json!(policy);
            let mut errs = Errors::new();
            only_later(&mut errs, &spec);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            made(&one, "Always"),
            [
                "spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"
            ]
        );
        assert_eq!(made(&sidecar("1"), "Always"), Vec::<String>::new());
        assert_eq!(
            made(&sidecar("1"), "Never"),
            [
                "spec.initContainers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            ]
        );
    }

    #[test]
    fn users_of_a_pods_own_get_no_raw_devices() {
        let made = |host_users: Value| {
            let spec = json!({"hostUsers": host_users, "containers": [
                {"name": "a"}, {"name": "b", "volumeDevices": [{"name": "v", "devicePath": "/d"}]}]});
            let mut errs = Errors::new();
            only_later(&mut errs, &spec);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            made(json!(false)),
            ["spec.containers[1].volumeDevices: Forbidden: when `hostUsers` is false"]
        );
        assert!(made(json!(true)).is_empty() && made(Value::Null).is_empty());
    }

    #[test]
    fn pods_of_files_and_of_windows_are_not_resized() {
        let plain = json!({"spec": {"containers": []}});
        let mut of_file = plain.clone();
        of_file["metadata"] = json!({"annotations": {"kubernetes.io/config.mirror": "x"}});
        let windows = json!({"spec": {"os": {"name": "windows"}, "containers": []}});
        let mut claims = plain.clone();
        claims["status"] = json!({"nodeAllocatableResourceClaimStatuses": [{}]});
        for (old, wanted) in [
            (of_file, "[]: Forbidden: static pods cannot be resized"),
            (windows, "[]: Forbidden: windows pods cannot be resized"),
            (
                claims,
                "spec: Forbidden: pods with node allocatable resource claims cannot be resized",
            ),
        ] {
            let said: Vec<String> = resize(&old, &old).iter().map(ToString::to_string).collect();
            assert_eq!(said, [wanted]);
        }
        assert!(resize(&plain, &plain).is_empty());
    }

    #[test]
    fn a_class_that_was_stored_otherwise_does_not_forbid_a_resize() {
        let pod = |cpu: &str| {
            let disk = json!({"limits": {"cpu": cpu, "memory": "1Gi", "ephemeral-storage": "2Gi"},
                "requests": {"cpu": cpu, "memory": "1Gi", "ephemeral-storage": "1Gi"}});
            json!({"spec": {"containers": [{"name": "c", "resources": disk}]},
                "status": {"qosClass": "Burstable"}})
        };
        assert_eq!(resize(&pod("2"), &pod("1")), Vec::new());
    }
}
