//! The RBAC objects that every cluster starts with, read from the table in `data/policy.txt`.

use serde_json::{Value, json};

const TABLE: &str = include_str!("../data/policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

fn words(list: &str) -> Vec<String> {
    list.split(',')
        .filter(|w| !w.is_empty())
        .map(|w| {
            if w == "core" {
                String::new()
            } else {
                w.to_owned()
            }
        })
        .collect()
}

/// `namespace/name` or `name`.
fn metadata(full: &str, namespaced: bool) -> Value {
    let mut meta = json!({
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
        "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" },
    });
    match full.split_once('/').filter(|_| namespaced) {
        Some((namespace, name)) => {
            meta["namespace"] = namespace.into();
            meta["name"] = name.into();
        }
        None => meta["name"] = full.into(),
    }
    meta
}

fn role(kind: &str, rest: &str) -> Value {
    let (name, into) = rest.split_once(" into ").unwrap_or((rest, ""));
    let mut meta = metadata(name, kind == "Role");
    for target in into.split(',').filter(|t| !t.is_empty()) {
        meta["labels"][format!("{GROUP}/aggregate-to-{target}")] = "true".into();
    }
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": meta, "rules": [] })
}

fn rule(line: &str) -> Value {
    let mut parts = line.split('|');
    let mut next = || words(parts.next().unwrap_or_default());
    let (groups, resources, verbs, names) = (next(), next(), next(), next());
    let mut rule = json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

fn url(line: &str) -> Value {
    let (paths, verbs) = line.split_once('|').unwrap_or((line, ""));
    json!({ "nonResourceURLs": words(paths), "verbs": words(verbs) })
}

fn subject(word: &str) -> Option<Value> {
    let (kind, name) = word.split_once(':')?;
    Some(match kind {
        "sa" => {
            let (namespace, name) = name.split_once('/')?;
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        "user" => json!({ "apiGroup": GROUP, "kind": "User", "name": name }),
        _ => json!({ "apiGroup": GROUP, "kind": "Group", "name": name }),
    })
}

fn binding(kind: &str, rest: &str) -> Option<Value> {
    let mut parts = rest.split(' ');
    let (name, role_kind, role) = (parts.next()?, parts.next()?, parts.next()?);
    let role_kind = if role_kind == "clusterrole" {
        "ClusterRole"
    } else {
        "Role"
    };
    let subjects: Vec<Value> = parts.filter_map(subject).collect();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind,
        "metadata": metadata(name, kind == "RoleBinding"),
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role },
    });
    if !subjects.is_empty() {
        object["subjects"] = json!(subjects);
    }
    Some(object)
}

fn push(object: Option<&mut Value>, list: &str, item: Value) {
    if let Some(items) = object
        .and_then(|o| o.pointer_mut(list))
        .and_then(Value::as_array_mut)
    {
        items.push(item);
    }
}

/// All of them, roles before bindings: ClusterRole, Role, ClusterRoleBinding and RoleBinding
/// objects as they are to be created, or brought up to date, when a server starts.
pub fn bootstrap() -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for line in TABLE
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let (word, rest) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        match word {
            "clusterrole" => out.push(role("ClusterRole", rest)),
            "role" => out.push(role("Role", rest)),
            "clusterrolebinding" => out.extend(binding("ClusterRoleBinding", rest)),
            "rolebinding" => out.extend(binding("RoleBinding", rest)),
            "rule" => push(out.last_mut(), "/rules", rule(rest)),
            "url" => push(out.last_mut(), "/rules", url(rest)),
            "collect" => {
                let key = format!("rbac.authorization.k8s.io/aggregate-to-{rest}");
                if let Some(last) = out.last_mut() {
                    last["aggregationRule"] =
                        json!({ "clusterRoleSelectors": [{ "matchLabels": { key: "true" } }] });
                }
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, UserInfo};
    use crate::rbac::Objects;

    /// What an API server of upstream's is given so that parts of Tiphys work with it; nothing of it answers
    /// `tiphys why`.
    #[test]
    fn the_roles_for_upstreams_server_are_ours_of_the_table() {
        let list: Value = serde_json::from_str(include_str!("../../../docs/upstream-roles.json"))
            .expect("a list of objects");
        let is_ours = |o: &Value| {
            let name = o["metadata"]["name"].as_str();
            name.is_some_and(|n| n.starts_with("tiphys:") && n != "tiphys:why")
        };
        let ours: Vec<Value> = bootstrap().into_iter().filter(is_ours).collect();
        assert_eq!(list["items"], json!(ours));
    }

    fn objects() -> Objects {
        let mut objects = Objects::default();
        for object in bootstrap() {
            if object["kind"]
                .as_str()
                .is_some_and(|k| k.ends_with("Binding"))
            {
                objects.put_binding(&object);
            } else {
                objects.put_role(&object);
            }
        }
        objects
    }

    #[test]
    fn every_line_is_understood() {
        let known = [
            "clusterrole",
            "role",
            "clusterrolebinding",
            "rolebinding",
            "rule",
            "url",
            "collect",
        ];
        for line in TABLE
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            let word = line.trim_start().split(' ').next().unwrap_or_default();
            assert!(known.contains(&word), "{line}");
        }
        assert!(bootstrap().len() > 130);
    }

    #[test]
    fn the_default_policy_grants_what_it_should() {
        let policy = objects().policy();
        let ask = |verb, resource, namespace| Attributes {
            verb,
            is_resource: true,
            resource,
            namespace,
            ..Attributes::default()
        };
        let admin = UserInfo::new("root", &["system:masters"]);
        assert!(
            policy
                .decide(&admin, &ask("delete", "nodes", ""))
                .is_allowed()
        );
        let scheduler = UserInfo::new("system:kube-scheduler", &[]);
        assert!(
            policy
                .decide(&scheduler, &ask("list", "pods", ""))
                .is_allowed()
        );
        assert!(
            !policy
                .decide(&scheduler, &ask("list", "secrets", ""))
                .is_allowed()
        );
        // It reads for its controllers; each of them writes as itself.
        let manager = UserInfo::new("system:kube-controller-manager", &[]);
        for (verb, allowed) in [("list", true), ("delete", false)] {
            let decision = policy.decide(&manager, &ask(verb, "pods", "x"));
            assert_eq!(decision.is_allowed(), allowed, "{verb}");
        }
        let version = Attributes {
            verb: "get",
            path: "/version",
            ..Attributes::default()
        };
        assert!(policy.decide(&UserInfo::anonymous(), &version).is_allowed());
    }

    /// Each controller has the role of its name as the account of its name; upstream's components
    /// find here what they find in an upstream cluster, and the controllers' common user no more.
    #[test]
    fn controllers_have_their_own_roles_and_accounts() {
        let (mut controllers, mut manager) = (0, Vec::new());
        for binding in bootstrap() {
            let name = binding["metadata"]["name"].as_str().expect("name");
            let subjects = binding["subjects"].as_array().cloned().unwrap_or_default();
            if subjects
                .iter()
                .any(|s| s["name"] == "system:kube-controller-manager")
            {
                manager.push(name.to_owned());
            }
            let is_role = binding.get("roleRef").is_none();
            let account = ["system:controller:", "tiphys:controller:"]
                .iter()
                .find_map(|prefix| name.strip_prefix(prefix));
            let Some(account) = account.filter(|_| !is_role) else {
                continue;
            };
            controllers += 1;
            assert_eq!(binding["roleRef"]["name"], name);
            assert_eq!(subjects.len(), 1, "{name}");
            assert_eq!(subjects[0]["kind"], "ServiceAccount", "{name}");
            assert_eq!(subjects[0]["namespace"], "kube-system", "{name}");
            assert_eq!(subjects[0]["name"], account, "{name}");
        }
        assert!(controllers > 35, "{controllers}");
        manager.sort();
        let upstreams = [
            "system::extension-apiserver-authentication-reader",
            "system::leader-locking-kube-controller-manager",
            "system:kube-controller-manager",
        ];
        assert_eq!(manager, upstreams);
    }

    #[test]
    fn admin_collects_edit_and_view() {
        let rules = objects().rules("", "admin").expect("admin");
        assert!(
            rules
                .iter()
                .any(|r| r.resources.iter().any(|x| x == "rolebindings"))
        );
        assert!(
            rules
                .iter()
                .any(|r| r.resources.iter().any(|x| x == "pods/log"))
        );
    }
}
