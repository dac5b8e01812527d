//! Annotations of pods that mean something: what is checked of them, which stay, and what one of
//! them still does for containers whose fields say nothing.

use std::collections::HashSet;

use api::{FieldError, FieldPath};
use serde_json::{Value, json};

use super::parts::each_container;
use crate::check::{Errors, at, has, items_mut, make, set, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Followed by the name of a container; older than the field `appArmorProfile`.
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotations that nobody acts on any more, and what to write instead.
const GONE: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Of a pod, and, followed by its name, of a container.
const SECCOMP: [&str; 2] = [
    "seccomp.security.alpha.kubernetes.io/pod",
    "container.seccomp.security.alpha.kubernetes.io/",
];

/// The annotations of a pod with their texts.
fn all(meta: &Value) -> impl Iterator<Item = (&str, &str)> {
    let map = at(meta, "annotations").as_object();
    let pairs = map.into_iter().flatten();
    pairs.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
}

/// Checks the annotations of a pod, or of a template of pods.
pub fn check(errs: &mut Errors, path: &FieldPath, meta: &Value, spec: &Value) {
    let annotations = at(meta, "annotations");
    if has(annotations, MIRROR) {
        let value = text(annotations, MIRROR);
        if text(spec, "nodeName").is_empty() {
            let why = "must set spec.nodeName if mirror pod annotation is set";
            errs.push(FieldError::invalid_str(&path.key(MIRROR), value, why));
        }
        if has(spec, "resourceClaims") {
            let why = "static pods do not support resource claims";
            errs.push(FieldError::forbidden(&FieldPath::new("[]"), why));
        }
    }
    if has(annotations, DELETION_COST) {
        let cost = text(annotations, DELETION_COST);
        if cost.parse::<i32>().is_err() || cost.starts_with('+') {
            let path = path.key(DELETION_COST);
            errs.push(FieldError::invalid_str(
                &path,
                cost,
                "must be a 32bit integer",
            ));
        }
    }
    let mut containers = HashSet::new();
    each_container(path, spec, |_, c| {
        containers.insert(text(c, "name"));
    });
    for (key, profile) in all(meta) {
        let Some(name) = key.strip_prefix(APP_ARMOR) else {
            continue;
        };
        let path = path.key(key);
        if !containers.contains(name) {
            errs.push(FieldError::invalid_str(&path, name, "container not found"));
        }
        let known = ["", "runtime/default", "unconfined"].contains(&profile);
        if !known && !profile.starts_with("localhost/") {
            let why = format!("invalid AppArmor profile name: {profile:?}");
            errs.push(FieldError::invalid_str(&path, profile, &why));
        }
    }
}

/// What was said at the start of a pod about how it runs cannot be said otherwise later.
pub fn kept(errs: &mut Errors, new: &Value, old: &Value) {
    let path = FieldPath::new("metadata").child("annotations");
    let (now, was) = (at(new, "annotations"), at(old, "annotations"));
    let fixed = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APP_ARMOR) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, what) in all(old).filter_map(|(key, _)| Some((key, fixed(key)?))) {
        if at(now, key) != at(was, key) {
            let why = format!("may not remove or update {what}");
            errs.push(FieldError::forbidden(&path.key(key), &why));
        }
    }
    for (key, what) in all(new).filter_map(|(key, _)| Some((key, fixed(key)?))) {
        if !has(was, key) {
            let why = format!("may not add {what}");
            errs.push(FieldError::forbidden(&path.key(key), &why));
        }
    }
}

/// The profile that an annotation means, if any.
fn profile(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(json!({ "type": "Unconfined" })),
        "runtime/default" => Some(json!({ "type": "RuntimeDefault" })),
        other => {
            let name = other.strip_prefix("localhost/")?;
            let padded = name.trim() != name || name.is_empty();
            (!padded).then(|| json!({ "type": "Localhost", "localhostProfile": name }))
        }
    }
}

/// Gives containers of a new pod the profile that their annotation names, where neither they nor the
/// pod say the same by a field: nodes read the fields alone.
pub fn app_armor(pod: &mut Value) {
    let named: Vec<(String, Value)> = all(at(pod, "metadata"))
        .filter_map(|(key, value)| Some((key.strip_prefix(APP_ARMOR)?.to_owned(), profile(value)?)))
        .collect();
    let Some(spec) = pod.get_mut("spec").filter(|_| !named.is_empty()) else {
        return;
    };
    if text(at(spec, "os"), "name") == "windows" {
        return;
    }
    let of_pod = at(at(spec, "securityContext"), "appArmorProfile").clone();
    for list in super::parts::CONTAINER_LISTS {
        for container in items_mut(spec, list) {
            let name = text(container, "name");
            let Some((_, profile)) = named.iter().find(|(of, _)| of == name) else {
                continue;
            };
            let said = has(at(container, "securityContext"), "appArmorProfile");
            if !said
                && *profile != of_pod
                && let Some(context) = make(container, "securityContext")
            {
                set(context, "appArmorProfile", profile.clone());
            }
        }
    }
}

/// Warnings of annotations that do nothing any more. `path`: as of [`warnings`].
pub fn gone(path: &FieldPath, meta: &Value, spec: &Value) -> Vec<String> {
    let annotations = at(meta, "annotations");
    let path = path.child("metadata").child("annotations");
    let known = GONE.iter().filter(|(key, _)| has(annotations, key));
    let mut out: Vec<String> = known
        .map(|(key, why)| format!("{}: {why}", path.key(key)))
        .collect();
    let mut seccomp = |key: &str, holder: &Value| {
        let said = has(at(holder, "securityContext"), "seccompProfile");
        if has(annotations, key) && !said {
            let why = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
            out.push(format!("{}: {why}", path.key(key)));
        }
    };
    let [of_pod, of_container] = SECCOMP;
    seccomp(of_pod, spec);
    each_container(&FieldPath::root(), spec, |_, c| {
        seccomp(&format!("{of_container}{}", text(c, "name")), c);
    });
    out
}

/// Warnings of annotations whose work is a field's today: where no field says so, or a pod's field is
/// the annotation's. `path`: of the template; the root for a pod.
pub fn warnings(path: &FieldPath, meta: &Value, spec: &Value) -> Vec<String> {
    let of_pod = at(at(spec, "securityContext"), "appArmorProfile");
    let annotations = at(meta, "annotations");
    // A pod's field may be the annotation's, by then; a template's is its own.
    let of_template = !path.as_str().is_empty();
    let mut out = Vec::new();
    each_container(path, spec, |_, c| {
        let key = format!("{APP_ARMOR}{}", text(c, "name"));
        if !has(annotations, &key) {
            return;
        }
        let own = at(at(c, "securityContext"), "appArmorProfile");
        let meant = profile(text(annotations, &key)).unwrap_or_default();
        let said = match own.is_null() {
            true => !meant.is_null() && meant == *of_pod,
            false => of_template || *own != meant,
        };
        if !said {
            let path = path.child("metadata").child("annotations").key(&key);
            out.push(format!(
                "{path}: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            ));
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: Value, spec: Value) -> Value {
        json!({ "metadata": { "annotations": annotations }, "spec": spec })
    }

    fn wrong(pod: &Value) -> Vec<String> {
        let mut errs = Errors::new();
        let path = FieldPath::new("metadata").child("annotations");
        check(&mut errs, &path, at(pod, "metadata"), at(pod, "spec"));
        errs.iter().map(ToString::to_string).collect()
    }

    fn one(profile: &str) -> Value {
        let key = format!("{APP_ARMOR}c");
        pod(
            json!({ key: profile }),
            json!({ "containers": [{ "name": "c" }] }),
        )
    }

    #[test]
    fn a_profile_of_an_annotation_becomes_the_containers() {
        for (given, want) in [
            ("unconfined", json!({ "type": "Unconfined" })),
            ("runtime/default", json!({ "type": "RuntimeDefault" })),
            (
                "localhost/mine",
                json!({ "type": "Localhost", "localhostProfile": "mine" }),
            ),
            ("localhost/", Value::Null),
            ("", Value::Null),
        ] {
            let mut pod = one(given);
            app_armor(&mut pod);
            let found = &pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
            assert_eq!(*found, want, "{given}");
            let said = warnings(&FieldPath::root(), &pod["metadata"], &pod["spec"]);
            assert_eq!(
                said,
                [format!(
                    "metadata.annotations[{APP_ARMOR}c]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
                )]
            );
        }
        // What a field says counts, and what the pod's says already is not said again.
        let mut own = one("unconfined");
        let field = json!({ "appArmorProfile": { "type": "RuntimeDefault" } });
        own["spec"]["containers"][0]["securityContext"] = field.clone();
        let mut whole = one("runtime/default");
        whole["spec"]["securityContext"] = field;
        for mut pod in [own, whole] {
            let before = pod.clone();
            app_armor(&mut pod);
            assert_eq!(pod, before);
            assert!(warnings(&FieldPath::root(), &pod["metadata"], &pod["spec"]).is_empty());
        }
    }

    #[test]
    fn annotations_are_checked_and_some_stay() {
        assert_eq!(wrong(&one("localhost/x")), Vec::<String>::new());
        assert_eq!(
            wrong(&one("mine")),
            [format!(
                "metadata.annotations[{APP_ARMOR}c]: Invalid value: \"mine\": invalid AppArmor profile name: \"mine\""
            )]
        );
        let key = format!("{APP_ARMOR}d");
        let other = pod(
            json!({ key: "unconfined" }),
            json!({ "containers": [{ "name": "c" }] }),
        );
        assert!(wrong(&other)[0].ends_with("Invalid value: \"d\": container not found"));
        let mirror = |spec: Value| pod(json!({ MIRROR: "x" }), spec);
        assert_eq!(
            wrong(&mirror(json!({}))),
            [format!(
                "metadata.annotations[{MIRROR}]: Invalid value: \"x\": must set spec.nodeName if mirror pod annotation is set"
            )]
        );
        assert_eq!(
            wrong(&mirror(json!({ "nodeName": "n" }))),
            Vec::<String>::new()
        );
        let costs = |cost: &str| wrong(&pod(json!({ DELETION_COST: cost }), json!({}))).len();
        assert_eq!(
            (costs("-5"), costs("+5"), costs("5000000000"), costs("x")),
            (0, 1, 1, 1)
        );

        let changed = |new: &Value, old: &Value| {
            let mut errs = Errors::new();
            kept(&mut errs, at(new, "metadata"), at(old, "metadata"));
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (plain, marked) = (pod(json!({ "a": "b" }), json!({})), mirror(json!({})));
        let at = format!("metadata.annotations[{MIRROR}]: Forbidden:");
        assert_eq!(
            changed(&marked, &plain),
            [format!("{at} may not add mirror pod annotation")]
        );
        assert_eq!(
            changed(&plain, &marked),
            [format!(
                "{at} may not remove or update mirror pod annotation"
            )]
        );
        assert_eq!(changed(&marked, &marked), Vec::<String>::new());
        assert!(
            changed(&one("unconfined"), &one("runtime/default"))[0]
                .contains("may not remove or update AppArmor annotations")
        );
    }
}
