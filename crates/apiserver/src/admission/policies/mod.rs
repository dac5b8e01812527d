//! Admission by policies: ValidatingAdmissionPolicies and MutatingAdmissionPolicies with their
//! bindings and parameters. Compiled when they are first needed after a change; a write that none
//! of them names costs a look at each one's rules.

mod grants;
mod hooks;
mod mutating;
mod params;
mod validating;

pub use grants::Parameters;
pub use mutating::MutatingPolicies;
pub use validating::ValidatingPolicies;

use std::borrow::Cow;

use serde_json::Value;

use super::expressions::namespace_object;
use super::matching::{Hit, Subject};
use super::versions::shown;
use super::{AdmissionAttributes, Need, Review};
use hooks::Hook;

/// The label of the namespace that an object is in.
const NAMESPACE: &str = "policies/namespace";

/// What all hooks of a plugin need that may be asked about a write.
fn needs<E>(hooks: &[Hook<E>], asked: &AdmissionAttributes<'_>) -> Vec<Need> {
    let subject = asked.subject();
    if hooks.is_empty() || subject.is_exempt() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for hook in hooks.iter().filter(|h| h.criteria.concerns(&subject)) {
        if all.is_empty() && asked.row.namespaced && !asked.namespace.is_empty() {
            let kind = ("", "namespaces");
            all.push(Need::seen(NAMESPACE, kind, "", asked.namespace));
        }
        for binding in &hook.bindings {
            all.extend(params::need(&subject, hook, binding));
        }
    }
    all
}

/// The namespace that a write is in, as expressions see it; none for what is in none, as a
/// namespace itself.
fn namespace_of(review: &Review<'_>) -> Option<Value> {
    let found = review.found.get(NAMESPACE)?;
    Some(namespace_object(&found.to_value()))
}

/// An object in the version by which a policy matched.
async fn in_version<'v>(
    review: &Review<'_>,
    value: Option<&'v Value>,
    hit: &Hit,
) -> Result<Option<Cow<'v, Value>>, String> {
    match value {
        None => Ok(None),
        Some(value) => shown(review.versions, review.row, value, &hit.kind)
            .await
            .map(Some)
            .map_err(|s| format!("failed to convert object version: {}", s.message)),
    }
}

/// The request as expressions see it.
fn request(review: &Review<'_>, subject: &Subject<'_>, hit: &Hit) -> Value {
    let options = review.options();
    super::expressions::request(subject, hit, review.user, review.dry_run, options.as_ref())
}

/// What a policy with the failure policy `Ignore` passes over is logged.
fn passed_over(policy: &str, what: &str) {
    tracing::info!("admission policy {policy:?} is passed over: {what}");
}
