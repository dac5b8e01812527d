//! Questions that are answered and not stored: TokenReview, SubjectAccessReview and its
//! relatives. The answers come from the same authenticators and authorizers that every request
//! passes.

use std::collections::BTreeMap;

use access::{Attributes, Decision, UserInfo};
use api::{FieldError, FieldPath, GroupKind, Status, names};
use registry::check::is_empty;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::admission::Operation;
use crate::call::{Answer, Call};
use crate::filters::{authn, authz};
use crate::object::{meta_mut, time_text};
use crate::state::Rules;
use crate::subresources::binding::bind_value;
use crate::verbs::admit::Admission;
use crate::verbs::decode::decode;

/// Answers the creation of a kind that is never stored.
pub async fn create(call: &Call, body: &[u8]) -> Result<Answer, Status> {
    let dry_run = call.write_options()?;
    let mut object = decode(call, body)?;
    if &*call.row.kind == "Binding" {
        // Admitted as the binding of a pod that it is.
        return bind_value(call, object).await;
    }
    let mut admission = Admission::new(call, Operation::Create, "", "", dry_run);
    admission.mutate(Some(&mut object), None).await?;
    admission.validate(Some(&mut object), None).await?;
    match &*call.row.kind {
        "TokenReview" => token_review(call, &mut object).await?,
        "SelfSubjectReview" => {
            let meta = meta_mut(&mut object);
            let now = time_text(call.state.now());
            meta.insert("creationTimestamp".into(), now.into());
            object["status"] = json!({ "userInfo": shown(&call.user) });
        }
        "SelfSubjectRulesReview" => rules_review(call, &mut object)?,
        "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            access_review(call, &mut object).await?;
        }
        _ => return Err(Status::method_not_supported(&call.resource(), "create")),
    }
    Ok(Answer::Value {
        code: 201,
        value: object,
        ty: Some(call.version.ty.clone()),
    })
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A user as the API writes it.
fn shown(user: &UserInfo) -> Value {
    serde_json::to_value(user).unwrap_or_default()
}

async fn token_review(call: &Call, review: &mut Value) -> Result<(), Status> {
    let token = text(review, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let config = call.state.settings();
    let asked = review.pointer("/spec/audiences").cloned();
    let mut audiences: Vec<String> =
        serde_json::from_value(asked.unwrap_or_default()).unwrap_or_default();
    if audiences.is_empty() {
        audiences = config.audiences().to_vec();
    }
    let found = authn::by_token(
        &call.plugins.authenticators,
        &call.state,
        &token,
        &audiences,
    )
    .await;
    review["status"] = match found {
        Ok(Some(known)) => json!({
            "authenticated": true,
            "user": shown(&authn::completed(known.user)),
            "audiences": known.audiences,
        }),
        Ok(None) => json!({ "error": "invalid bearer token", "user": {} }),
        Err(authn::Rejected {
            undecided: Some(unknown),
            ..
        }) => return Err(*unknown),
        Err(e) => json!({ "error": e.to_string(), "user": {} }),
    };
    Ok(())
}

/// The spec of an access review.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    resource_attributes: Option<Resource>,
    non_resource_attributes: Option<Path>,
    user: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resource {
    namespace: String,
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    name: String,
    field_selector: Option<Selector>,
    label_selector: Option<Selector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    raw_selector: String,
    requirements: Vec<Requirement>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Path {
    path: String,
    verb: String,
}

impl Selector {
    /// As a field selector's text. Terms that such a text cannot say are left out: a selector only
    /// narrows, so more is asked about than is meant.
    fn fields(&self) -> String {
        let terms = self.requirements.iter().filter_map(|r| {
            let sign = match &*r.operator {
                "In" => "=",
                "NotIn" => "!=",
                _ => return None,
            };
            let [value] = &*r.values else { return None };
            let plain = !r.key.contains(['=', ',', '!', '\\']);
            plain.then(|| format!("{}{sign}{}", r.key, escaped(value)))
        });
        self.raw_or(terms.collect())
    }

    /// As a label selector's text.
    fn labels(&self) -> String {
        let terms = self.requirements.iter().filter_map(|r| {
            let (key, values) = (&r.key, r.values.join(","));
            Some(match &*r.operator {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.clone(),
                "DoesNotExist" => format!("!{key}"),
                // Of newer clients.
                _ => return None,
            })
        });
        self.raw_or(terms.collect())
    }

    fn raw_or(&self, terms: Vec<String>) -> String {
        match self.raw_selector.is_empty() {
            true => terms.join(","),
            false => self.raw_selector.clone(),
        }
    }

    fn check(&self, errors: &mut Vec<FieldError>, path: &FieldPath, of_labels: bool) {
        let all = path.child("requirements");
        match (self.raw_selector.is_empty(), self.requirements.is_empty()) {
            (false, false) => errors.push(FieldError::invalid_str(
                &path.child("rawSelector"),
                &self.raw_selector,
                "may not specified at the same time as requirements",
            )),
            (true, true) => {
                let why =
                    format!("when {path} is specified, requirements or rawSelector is required");
                errors.push(FieldError::required(&all, &why));
            }
            _ => {}
        }
        for (i, one) in self.requirements.iter().enumerate() {
            one.check(errors, &all.index(i), of_labels);
        }
    }
}

impl Requirement {
    fn check(&self, errors: &mut Vec<FieldError>, path: &FieldPath, of_labels: bool) {
        let (key, values) = (path.child("key"), path.child("values"));
        if !of_labels && self.key.is_empty() {
            errors.push(FieldError::required(&key, "must be specified"));
        }
        match (&*self.operator, self.values.is_empty()) {
            ("In" | "NotIn", true) => errors.push(FieldError::required(
                &values,
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            ("Exists" | "DoesNotExist", false) => errors.push(FieldError::forbidden(
                &values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            _ => {}
        }
        if !of_labels {
            return;
        }
        for why in names::is_qualified_name(&self.key) {
            errors.push(FieldError::invalid_str(&key, &self.key, &why));
        }
        for (i, value) in self.values.iter().enumerate() {
            for why in names::is_valid_label_value(value) {
                errors.push(FieldError::invalid_str(&values.index(i), value, &why));
            }
        }
    }
}

/// A value of a field selector as its text has it.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

async fn access_review(call: &Call, review: &mut Value) -> Result<(), Status> {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let spec: Spec =
        serde_json::from_value(spec).map_err(|e| Status::bad_request(e.to_string()))?;
    let own = &*call.row.kind == "SelfSubjectAccessReview";
    let local = &*call.row.kind == "LocalSubjectAccessReview";
    let errors = check(review, &spec, own, local.then_some(&*call.info.namespace));
    if !errors.is_empty() {
        let kind = GroupKind::new(&call.row.group, &call.row.kind);
        return Err(Status::invalid(&kind, "", &errors));
    }
    let user = if own {
        call.user.clone()
    } else {
        UserInfo {
            name: spec.user,
            uid: spec.uid,
            groups: spec.groups,
            extra: spec.extra,
        }
    };
    let (fields, labels);
    let asked = match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(r), _) => {
            let (by_fields, by_labels) = (r.field_selector.as_ref(), r.label_selector.as_ref());
            fields = by_fields.map(Selector::fields).unwrap_or_default();
            labels = by_labels.map(Selector::labels).unwrap_or_default();
            attributes(r, &fields, &labels)
        }
        (_, Some(p)) => Attributes {
            verb: &p.verb,
            path: &p.path,
            ..Attributes::default()
        },
        // Refused above.
        (None, None) => Attributes::default(),
    };
    let judged = authz::judge(&call.state, &user, &asked).await;
    review["status"] = match judged.decision {
        Decision::Allow(why) => answer_with(true, false, why),
        Decision::Deny(why) => answer_with(false, true, why),
        Decision::NoOpinion(why) => answer_with(false, false, why),
    };
    if !judged.errors.is_empty() {
        review["status"]["evaluationError"] = joined(&judged.errors).into();
    }
    Ok(())
}

/// Errors as one text, as upstream's aggregate.
fn joined<T: AsRef<str>>(all: impl IntoIterator<Item = T>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for one in all {
        if !seen.iter().any(|s| s == one.as_ref()) {
            seen.push(one.as_ref().to_owned());
        }
    }
    match &seen[..] {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

fn attributes<'a>(
    r: &'a Resource,
    field_selector: &'a str,
    label_selector: &'a str,
) -> Attributes<'a> {
    Attributes {
        verb: &r.verb,
        is_resource: true,
        group: &r.group,
        version: &r.version,
        resource: &r.resource,
        subresource: &r.subresource,
        namespace: &r.namespace,
        name: &r.name,
        path: "",
        field_selector,
        label_selector,
    }
}

fn answer_with(allowed: bool, denied: bool, reason: String) -> Value {
    let mut status = json!({ "allowed": allowed });
    if denied {
        status["denied"] = true.into();
    }
    if !reason.is_empty() {
        status["reason"] = reason.into();
    }
    status
}

/// What is wrong with a review; `local`: the namespace of its path.
fn check(review: &Value, spec: &Spec, own: bool, local: Option<&str>) -> Vec<FieldError> {
    let path = FieldPath::new("spec");
    let mut errors = Vec::new();
    let part = |f: &str| {
        review
            .pointer(&format!("/spec/{f}"))
            .cloned()
            .unwrap_or_default()
    };
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(_)) => errors.push(FieldError::invalid(
            &path.child("nonResourceAttributes"),
            &part("nonResourceAttributes"),
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(FieldError::invalid(
            &path.child("resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if !own && spec.user.is_empty() && spec.groups.is_empty() {
        errors.push(FieldError::invalid(
            &path.child("user"),
            &"".into(),
            "at least one of user or group must be specified",
        ));
    }
    if let Some(r) = &spec.resource_attributes {
        let path = path.child("resourceAttributes");
        if let Some(fields) = &r.field_selector {
            fields.check(&mut errors, &path.child("fieldSelector"), false);
        }
        if let Some(labels) = &r.label_selector {
            labels.check(&mut errors, &path.child("labelSelector"), true);
        }
    }
    let said = review.get("metadata").and_then(Value::as_object);
    let counts =
        |field: &str| field != "managedFields" && (field != "namespace" || local.is_none());
    let mut said = said.into_iter().flatten();
    if said.any(|(field, value)| counts(field) && !is_empty(value)) {
        let why = match local {
            Some(_) => "must be empty except for namespace",
            None => "must be empty",
        };
        let metadata = review.get("metadata").unwrap_or(&Value::Null);
        errors.push(FieldError::invalid(
            &FieldPath::new("metadata"),
            metadata,
            why,
        ));
    }
    if let Some(namespace) = local {
        if let Some(r) = &spec.resource_attributes
            && r.namespace != namespace
        {
            errors.push(FieldError::invalid(
                &path.child("resourceAttributes").child("namespace"),
                &r.namespace.as_str().into(),
                "must match metadata.namespace",
            ));
        }
        if spec.non_resource_attributes.is_some() {
            errors.push(FieldError::invalid(
                &path.child("nonResourceAttributes"),
                &part("nonResourceAttributes"),
                "disallowed on this kind of request",
            ));
        }
    }
    errors
}

/// All rules that hold for the asking user in a namespace.
fn rules_review(call: &Call, review: &mut Value) -> Result<(), Status> {
    let namespace = text(review, "/spec/namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let mut rules = Rules::default();
    for one in call.state.authorizers() {
        one.rules(&call.state, &call.user, namespace, &mut rules);
    }
    review["status"] = json!({
        "resourceRules": rules.resources, "nonResourceRules": rules.paths,
        "incomplete": !rules.unknown.is_empty(),
    });
    if !rules.unknown.is_empty() {
        review["status"]["evaluationError"] = joined(rules.unknown).into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(spec: Value, own: bool, local: Option<&str>) -> Vec<String> {
        let review = json!({ "spec": spec });
        let spec = serde_json::from_value(review["spec"].clone()).expect("spec");
        let all = check(&review, &spec, own, local);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn reviews_are_checked() {
        let r = json!({ "resourceAttributes": { "verb": "get", "namespace": "a" }, "user": "u" });
        assert!(errors(r.clone(), false, None).is_empty());
        assert!(errors(r.clone(), false, Some("a")).is_empty());
        assert_eq!(errors(r, false, Some("b")).len(), 1);
        assert_eq!(errors(json!({}), false, None).len(), 2);
        assert_eq!(errors(json!({}), true, None).len(), 1);
    }

    #[test]
    fn reviews_are_nobody() {
        let wrong = |metadata: Value, local: Option<&str>| -> Vec<String> {
            let review = json!({ "metadata": metadata });
            let spec = Spec {
                user: "u".into(),
                resource_attributes: Some(Resource {
                    namespace: "n".into(),
                    ..Resource::default()
                }),
                ..Spec::default()
            };
            let all = check(&review, &spec, false, local);
            all.iter().map(|e| e.detail.clone()).collect()
        };
        let bare = json!({ "creationTimestamp": null, "labels": {}, "managedFields": [1] });
        assert!(wrong(bare, None).is_empty());
        assert_eq!(wrong(json!({ "name": "r" }), None), ["must be empty"]);
        let placed = json!({ "namespace": "n" });
        assert_eq!(wrong(placed.clone(), None), ["must be empty"]);
        assert!(wrong(placed, Some("n")).is_empty());
        assert_eq!(
            wrong(json!({ "labels": { "a": "b" } }), Some("n")),
            ["must be empty except for namespace"]
        );
    }

    #[test]
    fn selectors_become_text() {
        let read = |requirements: Value| -> Selector {
            serde_json::from_value(json!({ "requirements": requirements })).expect("selector")
        };
        let fields = read(json!([
            { "key": "spec.nodeName", "operator": "In", "values": ["n"] },
            { "key": "x", "operator": "NotIn", "values": ["y,spec.nodeName=m"] },
            { "key": "x", "operator": "In", "values": ["two", "values"] },
            { "key": "a=b,c", "operator": "In", "values": ["d"] },
            { "key": "x", "operator": "Newer" },
        ]));
        let text = fields.fields();
        assert_eq!(text, r"spec.nodeName=n,x!=y\,spec.nodeName\=m");
        let asked = Attributes {
            field_selector: &text,
            ..Attributes::default()
        };
        assert!(asked.selects("spec.nodeName", "n") && !asked.selects("spec.nodeName", "m"));
        let labels = read(json!([
            { "key": "a", "operator": "In", "values": ["b", "c"] },
            { "key": "d", "operator": "NotIn", "values": ["e"] },
            { "key": "f", "operator": "Exists" },
            { "key": "g", "operator": "DoesNotExist" },
        ]));
        let text = labels.labels();
        assert_eq!(text, "a in (b,c),d notin (e),f,!g");
        let parsed = api::LabelSelector::parse(&text).expect("a selector");
        assert_eq!(parsed.requirements.len(), 4);
    }

    #[test]
    fn selectors_are_checked() {
        let wrong = |field: &str, selector: Value| {
            errors(
                json!({ "user": "u", "resourceAttributes": { field: selector } }),
                false,
                None,
            )
        };
        let one = |operator: &str, values: &[&str]| json!({ "requirements": [{ "key": "k", "operator": operator, "values": values }] });
        for field in ["fieldSelector", "labelSelector"] {
            assert!(wrong(field, one("In", &["v"])).is_empty());
            assert!(wrong(field, one("Newer", &[])).is_empty());
            assert!(wrong(field, json!({ "rawSelector": "?" })).is_empty());
            let path = format!("spec.resourceAttributes.{field}");
            let values = format!("{path}.requirements[0].values");
            assert_eq!(
                wrong(field, one("In", &[])),
                [format!(
                    "{values}: Required value: must be specified when `operator` is 'In' or 'NotIn'"
                )]
            );
            assert_eq!(wrong(field, one("Exists", &["v"])).len(), 1);
            assert_eq!(
                wrong(field, json!({})),
                [format!(
                    "{path}.requirements: Required value: when {path} is specified, requirements or rawSelector is required"
                )]
            );
        }
        assert_eq!(wrong("labelSelector", one("In", &["a b"])).len(), 1);
    }
}
