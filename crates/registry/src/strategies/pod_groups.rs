//! Workloads and groups of pods that are scheduled together.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use super::conditions::conditions;
use crate::check::{
    Errors, at, dns_label, dns_subdomain, has, int, invalid, invalid_each, is_empty, items,
    items_mut, make, required_text, set, text, unset,
};
use crate::status_writes::{METADATA, keep_other_half, no_status};
use crate::strategy::{Context, Strategy};

/// Most templates of groups in a workload.
const MOST_TEMPLATES: usize = 8;
/// Of a group, what gates that are off upstream keep out; nothing here acts on it.
const GATED: [&str; 4] = [
    "schedulingConstraints",
    "resourceClaims",
    "priorityClassName",
    "priority",
];
/// How groups are preempted, by the same gates; what is read again says it of every group.
const DISRUPTION: &str = "disruptionMode";
const SINGLY: &str = "Pod";

/// The strategy of workloads.
pub struct Workload;

impl Strategy for Workload {
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        drop_gated_templates(obj);
    }
    fn prepare_update(&self, obj: &mut Value, _old: &Value, _cx: &Context<'_>) {
        drop_gated_templates(obj);
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if has(spec, "controllerRef") {
            let path = path.child("controllerRef");
            controller(&mut errs, &path, at(spec, "controllerRef"));
        }
        templates(&mut errs, &path, items(spec, "podGroupTemplates"));
        errs
    }
    /// Nothing of a workload changes, so what is in it is not judged again.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        stay(&mut errs, obj, old, &["controllerRef", "podGroupTemplates"]);
        let path = FieldPath::new("spec").child("podGroupTemplates");
        let templates = items(at(obj, "spec"), "podGroupTemplates");
        if !errs.is_empty() {
            count(&mut errs, &path, templates);
        }
        errs
    }
}

fn drop_gated_templates(obj: &mut Value) {
    let Some(spec) = make(obj, "spec") else {
        return;
    };
    for template in items_mut(spec, "podGroupTemplates") {
        for field in GATED.iter().chain([&DISRUPTION]) {
            unset(template, field);
        }
    }
}

/// Fields of the specification that never change; upstream does not say to what.
fn stay(errs: &mut Errors, obj: &Value, old: &Value, fields: &[&str]) {
    let (path, spec, was) = (FieldPath::new("spec"), at(obj, "spec"), at(old, "spec"));
    for field in fields {
        if at(spec, field) != at(was, field) {
            let why = crate::check::IMMUTABLE;
            invalid(errs, &path.child(field), &Value::Null, why);
        }
    }
}

fn controller(errs: &mut Errors, path: &FieldPath, reference: &Value) {
    let group = text(reference, "apiGroup");
    if !group.is_empty() {
        dns_subdomain(errs, &path.child("apiGroup"), group);
    }
    for field in ["kind", "name"] {
        if required_text(errs, path, reference, field) {
            let name = text(reference, field);
            invalid_each(
                errs,
                &path.child(field),
                name,
                names::is_path_segment_name(name),
            );
        }
    }
}

/// Whether there is as many of them as there may be.
fn count(errs: &mut Errors, path: &FieldPath, all: &[Value]) -> bool {
    if all.is_empty() {
        errs.push(FieldError::required(path, ""));
    } else if all.len() > MOST_TEMPLATES {
        errs.push(FieldError::too_many(path, all.len(), MOST_TEMPLATES));
    } else {
        return true;
    }
    false
}

fn templates(errs: &mut Errors, spec: &FieldPath, all: &[Value]) {
    let path = spec.child("podGroupTemplates");
    if !count(errs, &path, all) {
        return;
    }
    for (i, template) in all.iter().enumerate() {
        let mut before = all.iter().take(i);
        if before.any(|other| text(other, "name") == text(template, "name")) {
            errs.push(FieldError::duplicate(&path.index(i), template));
        }
    }
    for (i, template) in all.iter().enumerate() {
        let path = path.index(i);
        if required_text(errs, &path, template, "name") {
            dns_label(errs, &path.child("name"), text(template, "name"));
        }
        policy(errs, &path, template);
    }
}

/// Exactly one of some members.
fn one_member(errs: &mut Errors, path: &FieldPath, v: &Value, members: &[&str]) {
    let given: Vec<&str> = members.iter().copied().filter(|m| has(v, m)).collect();
    let all: Vec<String> = members.iter().map(|m| format!("`{m}`")).collect();
    let all = all.join(", ");
    match given.as_slice() {
        [_] => {}
        [] => {
            let why = format!("must specify one of: {all}");
            errs.push(FieldError::invalid_str(path, "", &why));
        }
        more => {
            let why = format!("must specify exactly one of: {all}");
            let more = format!("{{{}}}", more.join(", "));
            errs.push(FieldError::invalid_str(path, &more, &why));
        }
    }
}

/// How the pods of a group are scheduled.
fn policy(errs: &mut Errors, holder: &FieldPath, group: &Value) {
    let (path, policy) = (
        holder.child("schedulingPolicy"),
        at(group, "schedulingPolicy"),
    );
    one_member(errs, &path, policy, &["basic", "gang"]);
    if has(policy, "gang") {
        let path = path.child("gang").child("minCount");
        match int(at(policy, "gang"), "minCount").unwrap_or(0) {
            0 => errs.push(FieldError::required(&path, "")),
            n if n < 0 => {
                let why = "must be greater than or equal to 1";
                invalid(errs, &path, &n.into(), why);
            }
            _ => {}
        }
    }
}

/// The strategy of groups of pods.
pub struct PodGroup;

impl Strategy for PodGroup {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) = make(obj, "spec") {
            crate::check::fill(spec, DISRUPTION, SINGLY);
        }
    }
    fn prepare_create(&self, obj: &mut Value, _cx: &Context<'_>) {
        no_status(obj);
        if let Some(spec) = make(obj, "spec") {
            drop_gated(spec);
            set(spec, DISRUPTION, SINGLY);
        }
    }
    fn prepare_update(&self, obj: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(obj, old, cx.subresource);
        if let Some(spec) = make(obj, "spec") {
            drop_gated(spec);
        }
        if let Some(status) = obj.get_mut("status") {
            unset(status, "resourceClaimStatuses");
        }
    }
    fn status_leaves(&self) -> &'static [&'static str] {
        METADATA
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let (mut errs, path, spec) = (Errors::new(), FieldPath::new("spec"), at(obj, "spec"));
        if has(spec, "podGroupTemplateRef") {
            let path = path.child("podGroupTemplateRef");
            template(&mut errs, &path, at(spec, "podGroupTemplateRef"));
        }
        policy(&mut errs, &path, spec);
        errs
    }
    /// Nothing of the specification changes, so it is not judged again.
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = Errors::new();
        if cx.subresource == "status" {
            conditions(&mut errs, &FieldPath::new("status"), at(obj, "status"));
            return errs;
        }
        stay(
            &mut errs,
            obj,
            old,
            &["podGroupTemplateRef", "schedulingPolicy"],
        );
        let (now, was) = (at(at(obj, "spec"), DISRUPTION), at(old, "spec"));
        if now != at(was, DISRUPTION) && !is_empty(now) {
            let path = FieldPath::new("spec").child(DISRUPTION);
            errs.push(FieldError::forbidden(&path, ""));
        }
        errs
    }
}

fn drop_gated(group: &mut Value) {
    for field in GATED {
        unset(group, field);
    }
}

/// The template that a group was made from.
fn template(errs: &mut Errors, path: &FieldPath, reference: &Value) {
    one_member(errs, path, reference, &["workload"]);
    if !has(reference, "workload") {
        return;
    }
    let (path, of) = (path.child("workload"), at(reference, "workload"));
    if required_text(errs, &path, of, "workloadName") {
        dns_subdomain(errs, &path.child("workloadName"), text(of, "workloadName"));
    }
    let name = "podGroupTemplateName";
    if required_text(errs, &path, of, name) {
        dns_label(errs, &path.child(name), text(of, name));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(errs: &[FieldError]) -> Vec<String> {
        errs.iter().map(ToString::to_string).collect()
    }

    fn wrong(strategy: &dyn Strategy, spec: Value) -> Vec<String> {
        lines(&strategy.validate(&json!({ "spec": spec }), &Context::of_nobody()))
    }

    const NAME: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

    #[test]
    fn a_workload_has_templates() {
        let good = || json!({ "name": "workers", "schedulingPolicy": { "basic": {} } });
        let with = |change: &dyn Fn(&mut Value)| {
            let mut template = good();
            change(&mut template);
            wrong(&Workload, json!({ "podGroupTemplates": [template] }))
        };
        let at_template = |rest: &str| format!("spec.podGroupTemplates[0].{rest}");
        assert_eq!(with(&|_| {}), Vec::<String>::new());
        type Change<'a> = &'a dyn Fn(&mut Value);
        let cases: [(Change, String); 6] = [
            (&|t| t["name"] = "".into(), "name: Required value".into()),
            (
                &|t| t["name"] = "A".into(),
                format!("name: Invalid value: \"A\": {NAME}"),
            ),
            (
                &|t| t["schedulingPolicy"] = json!({}),
                "schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`".into(),
            ),
            (
                &|t| t["schedulingPolicy"]["gang"] = json!({ "minCount": 1 }),
                "schedulingPolicy: Invalid value: \"{basic, gang}\": must specify exactly one of: `basic`, `gang`".into(),
            ),
            (
                &|t| t["schedulingPolicy"] = json!({ "gang": { "minCount": 0 } }),
                "schedulingPolicy.gang.minCount: Required value".into(),
            ),
            (
                &|t| t["schedulingPolicy"] = json!({ "gang": { "minCount": -1 } }),
                "schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1".into(),
            ),
        ];
        for (change, want) in cases {
            assert_eq!(with(change), [at_template(&want)]);
        }
        assert_eq!(
            wrong(&Workload, json!({})),
            ["spec.podGroupTemplates: Required value"]
        );
        let many: Vec<Value> = (0..9).map(|_| good()).collect();
        assert_eq!(
            wrong(&Workload, json!({ "podGroupTemplates": many })),
            ["spec.podGroupTemplates: Too many: 9: must have at most 8 items"]
        );
        let twice = wrong(&Workload, json!({ "podGroupTemplates": [good(), good()] }));
        assert_eq!(twice.len(), 1);
        assert!(twice[0].starts_with("spec.podGroupTemplates[1]: Duplicate value: {"));
        let spec = json!({ "podGroupTemplates": [good()], "controllerRef": { "kind": "a/b" } });
        assert_eq!(
            wrong(&Workload, spec),
            [
                "spec.controllerRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.controllerRef.name: Required value",
            ]
        );
    }

    #[test]
    fn a_workload_stays_and_holds_nothing_that_is_not_acted_on() {
        let cx = Context::of_nobody();
        let old = json!({ "spec": { "podGroupTemplates": [{ "name": "a", "schedulingPolicy": { "basic": {} } }] } });
        let mut new = old.clone();
        new["spec"]["podGroupTemplates"][0]["priority"] = json!(5);
        Workload.prepare_update(&mut new, &old, &cx);
        assert_eq!(new, old);
        new["spec"]["podGroupTemplates"][0]["name"] = "b".into();
        assert_eq!(
            lines(&Workload.validate_update(&new, &old, &cx)),
            ["spec.podGroupTemplates: Invalid value: null: field is immutable"]
        );
        new["spec"] = json!({ "controllerRef": { "kind": "K", "name": "n" } });
        assert_eq!(
            lines(&Workload.validate_update(&new, &old, &cx)),
            [
                "spec.controllerRef: Invalid value: null: field is immutable",
                "spec.podGroupTemplates: Invalid value: null: field is immutable",
                "spec.podGroupTemplates: Required value",
            ]
        );
    }

    #[test]
    fn a_group_has_a_policy_and_perhaps_a_template() {
        let policy = || json!({ "gang": { "minCount": 2 } });
        let with = |reference: Value| {
            let spec = json!({ "schedulingPolicy": policy(), "podGroupTemplateRef": reference });
            wrong(&PodGroup, spec)
        };
        assert_eq!(with(Value::Null), Vec::<String>::new());
        assert_eq!(
            with(json!({ "workload": { "workloadName": "w", "podGroupTemplateName": "t" } })),
            Vec::<String>::new()
        );
        assert_eq!(
            with(json!({})),
            ["spec.podGroupTemplateRef: Invalid value: \"\": must specify one of: `workload`"]
        );
        assert_eq!(
            with(json!({ "workload": {} })),
            [
                "spec.podGroupTemplateRef.workload.workloadName: Required value",
                "spec.podGroupTemplateRef.workload.podGroupTemplateName: Required value",
            ]
        );
    }

    #[test]
    fn a_group_changes_its_status_alone() {
        let cx = Context::of_nobody();
        let mut old = json!({ "metadata": {}, "status": {}, "spec": {
            "schedulingPolicy": { "basic": {} }, "priority": 3, "disruptionMode": "PodGroup" } });
        PodGroup.prepare_create(&mut old, &cx);
        assert_eq!(
            old["spec"],
            json!({ "schedulingPolicy": { "basic": {} }, "disruptionMode": "Pod" })
        );
        let mut new = old.clone();
        new["spec"]["disruptionMode"] = "PodGroup".into();
        new["spec"]["schedulingPolicy"] = json!({ "gang": { "minCount": 1 } });
        assert_eq!(
            lines(&PodGroup.validate_update(&new, &old, &cx)),
            [
                "spec.schedulingPolicy: Invalid value: null: field is immutable",
                "spec.disruptionMode: Forbidden",
            ]
        );
        let cx = Context {
            subresource: "status",
            ..Context::of_nobody()
        };
        new["status"] = json!({ "conditions": [{ "type": "T", "status": "True", "reason": "R" }],
            "resourceClaimStatuses": [{ "name": "c" }] });
        PodGroup.prepare_update(&mut new, &old, &cx);
        assert_eq!(new["spec"], old["spec"]);
        assert!(new["status"].get("resourceClaimStatuses").is_none());
        assert_eq!(
            lines(&PodGroup.validate_update(&new, &old, &cx)),
            ["status.conditions[0].lastTransitionTime: Required value"]
        );
    }
}
