//! The RBAC objects that a cluster starts with: made when they are missing, and brought back to
//! at least what they must grant unless somebody has taken `autoupdate` off them.

use access::rbac::Objects;
use access::rule::{Rule, uncovered};
use api::Status;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::Loopback;
use crate::object::meta_text;

const GROUP: &str = "rbac.authorization.k8s.io";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Makes and mends all of them. Their writes run together and share the store's commits.
pub async fn ensure(loopback: &Loopback) -> Result<(), Status> {
    let wanted = aggregated(access::bootstrap_policy::bootstrap());
    let made = try_join_all(wanted.into_iter().map(|o| one(loopback, o))).await?;
    loopback
        .state
        .reach(made.into_iter().max().unwrap_or(0))
        .await
}

/// Writes the rules of the roles that are made of others into them, as the controller of
/// aggregation keeps them later.
fn aggregated(mut all: Vec<Value>) -> Vec<Value> {
    let mut objects = Objects::default();
    for o in all.iter().filter(|o| !is_binding(o)) {
        objects.put_role(o);
    }
    for o in all
        .iter_mut()
        .filter(|o| o.get("aggregationRule").is_some())
    {
        let rules = objects.rules("", meta_text(o, "name")).unwrap_or_default();
        o["rules"] = json!(*rules);
    }
    all
}

fn is_binding(o: &Value) -> bool {
    kind(o).ends_with("Binding")
}

fn kind(o: &Value) -> &str {
    o.get("kind").and_then(Value::as_str).unwrap_or_default()
}

fn resource(kind: &str) -> &'static str {
    match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        "ClusterRoleBinding" => "clusterrolebindings",
        _ => "rolebindings",
    }
}

/// Makes or mends one object; gives the revision of the write, 0 when there was none.
async fn one(loopback: &Loopback, want: Value) -> Result<u64, Status> {
    let resource = resource(kind(&want));
    let (namespace, name) = (
        meta_text(&want, "namespace").to_owned(),
        meta_text(&want, "name").to_owned(),
    );
    if let Some(have) = loopback.state.lookup(GROUP, resource, &namespace, &name) {
        return match mended(&have.to_value(), &want) {
            None => Ok(0),
            Some(_) => mend(loopback, resource, &namespace, &name, &want).await,
        };
    }
    match loopback.create(GROUP, resource, want).await {
        Ok(o) => Ok(o.revision),
        // Another server that starts at the same time was faster.
        Err(s) if s.is("AlreadyExists") => Ok(0),
        Err(s) => {
            tracing::error!("making {resource} {namespace}/{name}: {s}");
            Err(s)
        }
    }
}

async fn mend(
    loopback: &Loopback,
    resource: &str,
    namespace: &str,
    name: &str,
    want: &Value,
) -> Result<u64, Status> {
    let make = |now: &Value| mended(now, want).unwrap_or_else(|| now.clone());
    let done = loopback
        .change(GROUP, resource, namespace, name, make)
        .await?;
    tracing::info!("{resource} {namespace}/{name} was brought back to what it must grant");
    Ok(done.revision)
}

/// The object with what it lacks; `None` when it lacks nothing or is not to be touched.
fn mended(have: &Value, want: &Value) -> Option<Value> {
    let annotation = have
        .pointer("/metadata/annotations")
        .and_then(|a| a.get(AUTO_UPDATE));
    if annotation.is_some_and(|v| v == "false") {
        return None;
    }
    let mut new = have.clone();
    for field in ["labels", "annotations"] {
        let more = want
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_object);
        for (k, v) in more.into_iter().flatten() {
            let known = have
                .pointer(&format!("/metadata/{field}"))
                .and_then(|m| m.get(k));
            if known.is_none() {
                new["metadata"][field][k] = v.clone();
            }
        }
    }
    if is_binding(want) {
        // A binding's role cannot be changed; a binding to another role is somebody's own.
        if have.get("roleRef") == want.get("roleRef") {
            add_missing(&mut new, want, "subjects");
        }
    } else if let Some(rule) = want.get("aggregationRule") {
        // The rules of such a role follow from others and are not compared.
        if have.get("aggregationRule").is_none() {
            new["aggregationRule"] = rule.clone();
        }
    } else {
        let missing = uncovered(&rules(have), &rules(want));
        if !missing.is_empty() {
            let mut all = rules(have);
            all.extend(access::rule::compact(missing));
            new["rules"] = json!(all);
        }
    }
    (new != *have).then_some(new)
}

fn rules(o: &Value) -> Vec<Rule> {
    let rules = o.get("rules").cloned().unwrap_or_default();
    serde_json::from_value(rules).unwrap_or_default()
}

fn add_missing(new: &mut Value, want: &Value, field: &str) {
    let list = |v: &Value| {
        v.get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut all = list(new);
    let before = all.len();
    for item in list(want) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    if all.len() > before {
        new[field] = all.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_nothing_taken_away() {
        let want = json!({
            "kind": "ClusterRole",
            "metadata": { "name": "x", "annotations": { AUTO_UPDATE: "true" } },
            "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] }],
        });
        assert_eq!(mended(&want, &want), None);
        let mut have = want.clone();
        have["rules"][0]["verbs"] = json!(["get", "watch"]);
        let new = mended(&have, &want).expect("mended");
        assert_eq!(new["rules"].as_array().map(Vec::len), Some(2));
        assert!(uncovered(&rules(&new), &rules(&have)).is_empty());
        have["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        assert_eq!(mended(&have, &want), None);
    }

    #[test]
    fn aggregated_roles_have_their_rules() {
        let all = aggregated(access::bootstrap_policy::bootstrap());
        let view = all
            .iter()
            .find(|o| meta_text(o, "name") == "view")
            .expect("view");
        assert!(view["rules"].as_array().is_some_and(|r| r.len() > 5));
    }
}
