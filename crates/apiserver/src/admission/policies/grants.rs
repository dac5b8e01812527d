//! Who may have a policy read parameters: whoever may read them. Upstream asks this within the
//! rules of the kinds; here it is a plugin, since those ask nobody.

use access::Attributes;
use api::{FieldError, FieldPath, GroupKind, Status};
use futures::future::BoxFuture;
use registry::Row;
use serde_json::Value;

use crate::admission::{AdmissionAttributes, Admit, Need, Operation, Review, text};
use crate::filters::authn::{MASTERS, UserInfo};
use crate::filters::authz;
use crate::state::State;

const GROUP: &str = "admissionregistration.k8s.io";
const POLICY: &str = "policies/policy";

/// The rule.
pub struct Parameters;

/// The resource of the policies that a binding is of, or of the policy itself; and whether it is a
/// binding.
fn policies_of(row: &Row) -> Option<(&'static str, bool)> {
    if &*row.group != GROUP {
        return None;
    }
    Some(match &*row.resource {
        "validatingadmissionpolicies" => ("validatingadmissionpolicies", false),
        "mutatingadmissionpolicies" => ("mutatingadmissionpolicies", false),
        "validatingadmissionpolicybindings" => ("validatingadmissionpolicies", true),
        "mutatingadmissionpolicybindings" => ("mutatingadmissionpolicies", true),
        _ => return None,
    })
}

impl Admit for Parameters {
    fn name(&self) -> &'static str {
        "AdmissionPolicyParameters"
    }
    fn handles(&self, operation: Operation, row: &Row, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && subresource.is_empty()
            && policies_of(row).is_some()
    }
    fn needs(&self, asked: &AdmissionAttributes<'_>) -> Vec<Need> {
        match policies_of(asked.row) {
            Some((policies, true)) => {
                let name = asked.text("/spec/policyName");
                vec![Need::seen(POLICY, (GROUP, policies), "", name)]
            }
            _ => Vec::new(),
        }
    }
    fn validate<'a>(
        &'a self,
        state: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            let Some((_, is_binding)) = policies_of(review.row) else {
                return Ok(());
            };
            if review.user.is_in(MASTERS) {
                return Ok(());
            }
            let (field, why) = match is_binding {
                false => ("paramKind", policy(state, review).await),
                true => ("paramRef", binding(state, review).await),
            };
            let Some(why) = why else { return Ok(()) };
            let path = FieldPath::new("spec").child(field);
            let kind = GroupKind::new(GROUP, &review.row.kind);
            let error = FieldError::forbidden(&path, &why);
            Err(Status::invalid(&kind, review.name, &[error]))
        })
    }
}

/// What an object asks for, unless it is what it asked for before.
fn asked_again<'a>(review: &'a Review<'_>, fields: &[&str]) -> Option<&'a Value> {
    let spec = review.object.as_deref()?.get("spec")?;
    let (first, _) = fields.split_first()?;
    let given = spec.get(first).filter(|g| g.is_object())?;
    let before = review.old.and_then(|o| o.get("spec"));
    let same = before.is_some_and(|b| fields.iter().all(|f| b.get(f) == spec.get(f)));
    (!same).then_some(given)
}

/// Group, version and resource of a kind, as far as they are known; `*` for what is not.
fn resource(state: &State, kind: &Value) -> ([String; 3], bool) {
    let version = text(kind, "/apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kinds = state.kinds();
    let row = kinds.by_kind(group, version, text(kind, "/kind"));
    let resource = row.map_or("*", |r| &*r.resource).to_owned();
    (
        [group.to_owned(), version.to_owned(), resource],
        row.is_some(),
    )
}

async fn may(state: &State, user: &UserInfo, asked: Attributes<'_>) -> bool {
    let asked = Attributes {
        is_resource: true,
        ..asked
    };
    authz::decide(state, user, &asked).await.is_allowed()
}

/// A user as upstream's messages show one.
fn shown(user: &UserInfo) -> String {
    let extra: Vec<String> = user
        .extra
        .iter()
        .map(|(k, v)| format!("{k}:[{}]", v.join(" ")))
        .collect();
    format!(
        "&{{{} {} [{}] map[{}]}}",
        user.name,
        user.uid,
        user.groups.join(" "),
        extra.join(" ")
    )
}

async fn policy(state: &State, review: &Review<'_>) -> Option<String> {
    let kind = asked_again(review, &["paramKind"])?;
    let ([group, version, resource], _) = resource(state, kind);
    let asked = Attributes {
        verb: "get",
        group: &group,
        version: &version,
        resource: &resource,
        namespace: "*",
        name: "*",
        ..Attributes::default()
    };
    if may(state, review.user, asked).await {
        return None;
    }
    Some(format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
        shown(review.user),
        text(kind, "/kind"),
        text(kind, "/apiVersion")
    ))
}

async fn binding(state: &State, review: &Review<'_>) -> Option<String> {
    let param = asked_again(review, &["paramRef", "policyName"])?;
    let policy = review.found.get(POLICY).map(|o| o.to_value());
    let kind = policy
        .as_ref()
        .and_then(|p| p.pointer("/spec/paramKind"))
        .filter(|k| k.is_object());
    let any = || ["*", "*", "*"].map(str::to_owned);
    let ([group, version, resource], known) =
        kind.map_or_else(|| (any(), true), |k| resource(state, k));
    let name = text(param, "/name");
    let verb = if name.is_empty() { "list" } else { "get" };
    let asked = Attributes {
        verb,
        group: &group,
        version: &version,
        resource: &resource,
        namespace: text(param, "/namespace"),
        name,
        ..Attributes::default()
    };
    if may(state, review.user, asked).await {
        return None;
    }
    let user = shown(review.user);
    let without = format!(
        "user {user} does not have \"{verb}\" permission for all groups, versions and resources"
    );
    Some(match (&policy, kind) {
        (None, _) => {
            let name = review
                .object
                .as_deref()
                .map_or("", |o| text(o, "/spec/policyName"));
            format!(
                "unable to get policy {name} to determine minimum required permissions and {without}"
            )
        }
        (Some(_), Some(kind)) if !known => format!(
            "unable to resolve paramKind {}, Kind={} to determine minimum required permissions and {without}",
            text(kind, "/apiVersion"),
            text(kind, "/kind")
        ),
        _ => format!(
            "user {user} does not have \"{verb}\" permission on the object referenced by paramRef"
        ),
    })
}
