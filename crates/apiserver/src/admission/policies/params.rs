//! Parameters of policies: objects of any kind, also of custom ones, that a binding names or
//! selects.

use std::sync::Arc;

use registry::check::selector_matches;
use registry::{Kinds, Row};
use serde_json::Value;

use super::hooks::{Binding, Hook, ParamRef};
use crate::admission::matching::{Gvk, Subject};
use crate::admission::versions::shown;
use crate::admission::{Need, Review};

/// The kind of a policy's parameters in its version; none: no such kind is served.
fn row<'k>(
    kinds: &'k Kinds,
    (api_version, kind): &(String, String),
) -> Option<(&'k Arc<Row>, Gvk)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let row = kinds.by_kind(group, version, kind)?;
    Some((row, Gvk::of(row, version, "")?))
}

fn label<E>(hook: &Hook<E>, binding: &Binding) -> String {
    format!("policies/{}/{}", hook.name, binding.name)
}

/// Where a binding's parameters are; an error when that is not known.
fn namespace<'a>(row: &Row, param: &'a ParamRef, own: &'a str) -> Result<&'a str, String> {
    match (row.namespaced, &*param.namespace, own) {
        (false, "", _) => Ok(""),
        (false, ..) => {
            Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into())
        }
        (true, "", "") => Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .into(),
        ),
        (true, "", own) => Ok(own),
        (true, given, _) => Ok(given),
    }
}

/// What is to be read for a binding.
pub fn need<E>(subject: &Subject<'_>, hook: &Hook<E>, binding: &Binding) -> Option<Need> {
    let (Some(kind), Some(param)) = (&hook.param_kind, &binding.params) else {
        return None;
    };
    let (row, _) = row(subject.kinds, kind)?;
    let namespace = namespace(row, param, subject.namespace()).ok()?;
    let label = label(hook, binding);
    if param.name.is_empty() {
        return Some(Need::All {
            label,
            group: row.group.to_string(),
            resource: row.resource.to_string(),
            namespace: namespace.to_owned(),
        });
    }
    let of = (&*row.group, &*row.resource);
    Some(Need::seen(&label, of, namespace, &param.name))
}

/// Why there are no parameters.
pub enum Missing {
    /// The policy itself is wrong.
    Policy(String),
    Binding(String),
}

/// Parameters of a binding, each of which the policy is run with; `None` stands for none at all.
pub async fn collect<E>(
    review: &Review<'_>,
    hook: &Hook<E>,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, Missing> {
    let Some(kind) = &hook.param_kind else {
        return Ok(vec![None]);
    };
    let subject = review.subject();
    let Some((row, gvk)) = row(subject.kinds, kind) else {
        let (group, version) = kind.0.split_once('/').unwrap_or(("", &kind.0));
        return Err(Missing::Policy(format!(
            "failed to find resource referenced by paramKind: '{group}/{version}, Kind={}'",
            kind.1
        )));
    };
    let Some(param) = &binding.params else {
        return Ok(vec![None]);
    };
    namespace(row, param, subject.namespace()).map_err(Missing::Binding)?;
    let label = label(hook, binding);
    let found: Vec<Value> = match &param.selector {
        None => review
            .found
            .get(&label)
            .map(|o| o.to_value())
            .into_iter()
            .collect(),
        Some(selector) => {
            let all = review.found.all(&label).iter().map(|o| o.to_value());
            all.filter(|v| selector_matches(selector, &v["metadata"]["labels"]))
                .collect()
        }
    };
    if found.is_empty() && param.deny {
        return Err(Missing::Binding(
            "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        ));
    }
    let mut params = Vec::with_capacity(found.len());
    for value in found {
        let value = shown(review.versions, row, &value, &gvk).await;
        let value = value.map_err(|s| Missing::Binding(s.message))?;
        params.push(Some(value.into_owned()));
    }
    Ok(params)
}
