//! The checks of what steers scheduling: affinity, spread, tolerations, taints, node selectors.

use std::collections::{BTreeSet, HashMap, HashSet};

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{
    Errors, NOT_ABOVE_ZERO, above_zero, at, dns_label, has, int, invalid, invalid_each, items,
    label_selector, one_of, optional_word, qualified_name, required_word, text,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// The affinity of a pod.
pub fn affinity(errs: &mut Errors, path: &FieldPath, a: &Value) {
    let (node, node_path) = (at(a, "nodeAffinity"), path.child("nodeAffinity"));
    if has(node, REQUIRED) {
        node_selector(errs, &node_path.child(REQUIRED), at(node, REQUIRED));
    }
    for (i, p) in items(node, PREFERRED).iter().enumerate() {
        let path = node_path.child(PREFERRED).index(i);
        weight(errs, &path, p);
        node_term(errs, &path.child("preference"), at(p, "preference"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, path) = (at(a, kind), path.child(kind));
        for (i, t) in items(pods, REQUIRED).iter().enumerate() {
            pod_term(errs, &path.child(REQUIRED).index(i), t);
        }
        for (i, p) in items(pods, PREFERRED).iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            weight(errs, &path, p);
            pod_term(
                errs,
                &path.child("podAffinityTerm"),
                at(p, "podAffinityTerm"),
            );
        }
    }
}

fn weight(errs: &mut Errors, path: &FieldPath, p: &Value) {
    let w = int(p, "weight").unwrap_or(0);
    if !(1..=100).contains(&w) {
        invalid(
            errs,
            &path.child("weight"),
            &w.into(),
            "must be in the range 1-100",
        );
    }
}

/// A selector of nodes with its terms.
pub fn node_selector(errs: &mut Errors, path: &FieldPath, selector: &Value) {
    let (terms, path) = (
        items(selector, "nodeSelectorTerms"),
        path.child("nodeSelectorTerms"),
    );
    if terms.is_empty() {
        let why = "must have at least one node selector term";
        errs.push(FieldError::required(&path, why));
    }
    for (i, t) in terms.iter().enumerate() {
        node_term(errs, &path.index(i), t);
    }
}

fn node_term(errs: &mut Errors, path: &FieldPath, term: &Value) {
    for (i, r) in items(term, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        node_requirement(errs, &path, r);
        qualified_name(errs, &path.child("key"), text(r, "key"));
        for (j, v) in items(r, "values").iter().enumerate() {
            let v = v.as_str().unwrap_or("");
            let path = path.child("values").index(j);
            invalid_each(errs, &path, v, names::is_valid_label_value(v));
        }
    }
    for (i, r) in items(term, "matchFields").iter().enumerate() {
        let path = path.child("matchFields").index(i);
        let values = items(r, "values");
        match text(r, "operator") {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => errs.push(FieldError::required(
                &path.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            )),
            other => errs.push(FieldError::invalid_str(
                &path.child("operator"),
                other,
                "not a valid selector operator",
            )),
        }
        let key = text(r, "key");
        if key != "metadata.name" {
            let why = "not a valid field selector key";
            errs.push(FieldError::invalid_str(&path.child("key"), key, why));
        }
    }
}

fn node_requirement(errs: &mut Errors, path: &FieldPath, r: &Value) {
    let (values, value_path) = (items(r, "values"), path.child("values"));
    match text(r, "operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errs.push(FieldError::required(&value_path, why));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errs.push(FieldError::forbidden(&value_path, why));
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errs.push(FieldError::required(&value_path, why));
            }
        }
        other => {
            let why = "not a valid selector operator";
            errs.push(FieldError::invalid_str(&path.child("operator"), other, why));
        }
    }
}

fn pod_term(errs: &mut Errors, path: &FieldPath, t: &Value) {
    label_selector(errs, &path.child("labelSelector"), at(t, "labelSelector"));
    label_selector(
        errs,
        &path.child("namespaceSelector"),
        at(t, "namespaceSelector"),
    );
    for n in items(t, "namespaces") {
        dns_label(errs, &path.child("namespace"), n.as_str().unwrap_or(""));
    }
    label_keys(errs, path, t);
    let key = text(t, "topologyKey");
    if key.is_empty() {
        errs.push(FieldError::required(
            &path.child("topologyKey"),
            "can not be empty",
        ));
    }
    qualified_name(errs, &path.child("topologyKey"), key);
}

/// Keys of labels whose values are the pod's own, which narrow a selector.
fn label_keys(errs: &mut Errors, path: &FieldPath, term: &Value) {
    let selector = at(term, "labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, path) = (items(term, field), path.child(field));
        if !keys.is_empty() && selector.is_null() {
            let why = "must not be specified when labelSelector is not set";
            errs.push(FieldError::forbidden(&path, why));
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            qualified_name(errs, &path.index(i), key.as_str().unwrap_or(""));
        }
    }
    let of = |field| items(term, field).iter().filter_map(Value::as_str);
    let places: HashMap<&str, usize> = of("matchLabelKeys").zip(0..).collect();
    let given = at(selector, "matchLabels").as_object();
    let given = given.into_iter().flat_map(|o| o.keys().map(String::as_str));
    let mut given: HashSet<&str> = given.collect();
    for expression in items(selector, "matchExpressions") {
        let key = text(expression, "key");
        if let Some(i) = places.get(key).filter(|_| given.contains(key)) {
            let why = "exists in both matchLabelKeys and labelSelector";
            errs.push(FieldError::invalid_str(&path.index(*i), key, why));
        }
        given.insert(key);
    }
    let not: HashSet<&str> = of("mismatchLabelKeys").collect();
    for (i, key) in of("matchLabelKeys").enumerate() {
        if not.contains(key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            let path = path.child("matchLabelKeys").index(i);
            errs.push(FieldError::invalid_str(&path, key, why));
        }
    }
}

/// The spread constraints of a pod.
pub fn spread(errs: &mut Errors, path: &FieldPath, spec: &Value) {
    let all = items(spec, "topologySpreadConstraints");
    let mut seen = BTreeSet::new();
    for (i, c) in all.iter().enumerate() {
        let path = path.index(i);
        if int(c, "maxSkew").unwrap_or(0) <= 0 {
            let n = int(c, "maxSkew").unwrap_or(0);
            invalid(errs, &path.child("maxSkew"), &n.into(), NOT_ABOVE_ZERO);
        }
        let (key, when) = (text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
        // What no label can be is on no node; upstream takes it, too.
        if key.is_empty() {
            let path = path.child("topologyKey");
            errs.push(FieldError::required(&path, "can not be empty"));
        }
        one_of(
            errs,
            &path.child("whenUnsatisfiable"),
            when,
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        if !seen.insert((key, when)) {
            let shown = format!("{{{key}, {when}}}");
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errs.push(FieldError::duplicate(&path, &shown.into()));
        }
        above_zero(errs, &path, c, "minDomains");
        if has(c, "minDomains") && when != "DoNotSchedule" {
            let why =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
            invalid(errs, &path.child("minDomains"), at(c, "minDomains"), &why);
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            optional_word(errs, &path, c, field, &["Honor", "Ignore"]);
        }
        label_keys(errs, &path, c);
        label_selector(errs, &path.child("labelSelector"), at(c, "labelSelector"));
    }
}

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The tolerations of a pod.
pub fn tolerations(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    for (i, t) in all.iter().enumerate() {
        let path = path.index(i);
        let (key, operator) = (text(t, "key"), text(t, "operator"));
        let (value, effect) = (text(t, "value"), text(t, "effect"));
        if !key.is_empty() {
            qualified_name(errs, &path.child("key"), key);
        }
        let operator_path = path.child("operator");
        if key.is_empty() && operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errs.push(FieldError::invalid_str(&operator_path, operator, why));
        }
        if has(t, "tolerationSeconds") && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errs.push(FieldError::invalid_str(&path.child("effect"), effect, why));
        }
        match operator {
            "Equal" | "" => {
                let wrong = names::is_valid_label_value(value);
                if !wrong.is_empty() {
                    errs.push(FieldError::invalid_str(
                        &operator_path,
                        value,
                        &wrong.join(";"),
                    ));
                }
            }
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errs.push(FieldError::invalid_str(&operator_path, value, why));
            }
            "Exists" => {}
            other => one_of(errs, &operator_path, other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            one_of(errs, &path.child("effect"), effect, EFFECTS);
        }
    }
}

/// The taints of a node.
pub fn taints(errs: &mut Errors, path: &FieldPath, all: &[Value]) {
    let mut seen = BTreeSet::new();
    for (i, t) in all.iter().enumerate() {
        let path = path.index(i);
        qualified_name(errs, &path.child("key"), text(t, "key"));
        let value = text(t, "value");
        let wrong = names::is_valid_label_value(value);
        if !wrong.is_empty() {
            errs.push(FieldError::invalid_str(
                &path.child("value"),
                value,
                &wrong.join(";"),
            ));
        }
        required_word(errs, &path, t, "effect", EFFECTS);
        if !seen.insert((text(t, "key"), text(t, "effect"))) {
            let mut e = FieldError::duplicate(&path, t);
            e.detail = "taints must be unique by key and effect pair".to_owned();
            errs.push(e);
        }
    }
}
