//! Questions that are answered and not stored: TokenReview, SubjectAccessReview and its
//! relatives. The answers come from the same authenticators and authorizers that every request
//! passes.

use std::collections::BTreeMap;

use access::{Attributes, Decision, UserInfo};
use api::{FieldError, FieldPath, GroupKind, Status};
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
    /// The terms that demand one value, as a selector's text: the others grant nothing.
    fn text(&self) -> String {
        if !self.raw_selector.is_empty() {
            return self.raw_selector.clone();
        }
        let terms = self.requirements.iter().filter_map(|r| match &*r.values {
            [one] if r.operator == "In" => Some(format!("{}={one}", r.key)),
            _ => None,
        });
        terms.collect::<Vec<_>>().join(",")
    }
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
            let text = |s: &Option<Selector>| s.as_ref().map(Selector::text).unwrap_or_default();
            (fields, labels) = (text(&r.field_selector), text(&r.label_selector));
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
    fn selectors_become_text() {
        let s: Selector = serde_json::from_value(json!({ "requirements": [
            { "key": "spec.nodeName", "operator": "In", "values": ["n"] },
            { "key": "x", "operator": "NotIn", "values": ["y"] },
        ]}))
        .expect("selector");
        assert_eq!(s.text(), "spec.nodeName=n");
    }
}
