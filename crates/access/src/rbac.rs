//! RBAC: an index from users, groups and service accounts to the rules that are bound to them.
//! It is built again (cheaply, from shared parts) whenever one of its objects changes; asking it
//! takes a few hash lookups.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::attributes::{Attributes, Decision, UserInfo};
use crate::rule::Rule;

/// Namespace (empty for cluster-wide) and name.
type Key = (String, String);

/// All roles and bindings of a cluster, as they change.
#[derive(Clone, Default)]
pub struct Objects {
    roles: BTreeMap<Key, Arc<Role>>,
    bindings: BTreeMap<Key, Arc<Binding>>,
}

struct Role {
    rules: Arc<Vec<Rule>>,
    labels: BTreeMap<String, String>,
    /// Each selector as its JSON; a role that matches one adds its rules.
    aggregates: Vec<api::LabelSelector>,
}

struct Binding {
    subjects: Vec<Subject>,
    /// Kind and name of the role.
    role: (String, String),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Subject {
    User(String),
    Group(String),
    /// By the name of its user.
    ServiceAccount(String),
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn key_of(object: &Value) -> Key {
    (
        text(object, "/metadata/namespace").into(),
        text(object, "/metadata/name").into(),
    )
}

fn rules_of(object: &Value) -> Vec<Rule> {
    let rules = object.get("rules").cloned().unwrap_or(Value::Null);
    serde_json::from_value(rules).unwrap_or_default()
}

fn subject_of(v: &Value, namespace: &str) -> Option<Subject> {
    let name = text(v, "/name");
    match text(v, "/kind") {
        "User" => Some(Subject::User(name.into())),
        "Group" => Some(Subject::Group(name.into())),
        "ServiceAccount" => {
            let ns = Some(text(v, "/namespace"))
                .filter(|n| !n.is_empty())
                .unwrap_or(namespace);
            let user = format!("system:serviceaccount:{ns}:{name}");
            Some(Subject::ServiceAccount(user))
        }
        _ => None,
    }
}

impl Objects {
    /// Takes in a Role or ClusterRole.
    pub fn put_role(&mut self, object: &Value) {
        let labels = object
            .pointer("/metadata/labels")
            .cloned()
            .unwrap_or(Value::Null);
        let selectors = object.pointer("/aggregationRule/clusterRoleSelectors");
        let role = Role {
            rules: Arc::new(rules_of(object)),
            labels: serde_json::from_value(labels).unwrap_or_default(),
            aggregates: selectors
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|s| api::LabelSelector::from_json(s).ok())
                .collect(),
        };
        self.roles.insert(key_of(object), Arc::new(role));
    }

    pub fn delete_role(&mut self, namespace: &str, name: &str) {
        self.roles.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Takes in a RoleBinding or ClusterRoleBinding.
    pub fn put_binding(&mut self, object: &Value) {
        let namespace = text(object, "/metadata/namespace");
        let subjects = object.get("subjects").and_then(Value::as_array);
        let binding = Binding {
            subjects: subjects
                .into_iter()
                .flatten()
                .filter_map(|s| subject_of(s, namespace))
                .collect(),
            role: (
                text(object, "/roleRef/kind").into(),
                text(object, "/roleRef/name").into(),
            ),
        };
        self.bindings.insert(key_of(object), Arc::new(binding));
    }

    pub fn delete_binding(&mut self, namespace: &str, name: &str) {
        self.bindings
            .remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// The rules of a role as they count: its own, or those it aggregates. `namespace` is empty
    /// for a ClusterRole. `None` when there is no such role.
    pub fn rules(&self, namespace: &str, name: &str) -> Option<Arc<Vec<Rule>>> {
        let role = self.roles.get(&(namespace.to_owned(), name.to_owned()))?;
        if role.aggregates.is_empty() {
            return Some(role.rules.clone());
        }
        let mut visited = vec![name.to_owned()];
        Some(Arc::new(self.aggregate(role, &mut visited)))
    }

    fn aggregate(&self, role: &Role, visited: &mut Vec<String>) -> Vec<Rule> {
        let mut out = role.rules.to_vec();
        for ((namespace, name), other) in &self.roles {
            let chosen = namespace.is_empty()
                && !visited.contains(name)
                && role.aggregates.iter().any(|s| s.matches(&other.labels));
            if chosen {
                visited.push(name.clone());
                for rule in self.aggregate(other, visited) {
                    if !out.contains(&rule) {
                        out.push(rule);
                    }
                }
            }
        }
        out
    }

    /// The index that requests are asked of.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::default();
        let mut cluster_rules: HashMap<&str, Option<Arc<Vec<Rule>>>> = HashMap::new();
        for ((namespace, name), binding) in &self.bindings {
            let (kind, role) = &binding.role;
            let rules = if kind == "ClusterRole" {
                cluster_rules
                    .entry(role)
                    .or_insert_with(|| self.rules("", role))
                    .clone()
            } else {
                self.rules(namespace, role)
            };
            // A binding to a role that does not exist grants nothing, until it does.
            let Some(rules) = rules else { continue };
            let grant = Arc::new(Grant {
                namespace: namespace.clone(),
                binding: name.clone(),
                role: (kind.clone(), role.clone()),
                rules,
            });
            for subject in &binding.subjects {
                let list = match subject {
                    Subject::User(user) | Subject::ServiceAccount(user) => {
                        policy.users.entry(user.clone()).or_default()
                    }
                    Subject::Group(group) => policy.groups.entry(group.clone()).or_default(),
                };
                list.push((grant.clone(), subject.clone()));
            }
        }
        policy
    }
}

#[derive(Debug)]
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    binding: String,
    /// Kind and name.
    role: (String, String),
    rules: Arc<Vec<Rule>>,
}

/// A grant, and to whom.
type GrantToSubject = (Arc<Grant>, Subject);

/// Why a request is allowed, in upstream's words.
fn reason(grant: &Grant, to: &Subject) -> String {
    let (kind, role) = &grant.role;
    let binding = match &*grant.namespace {
        "" => format!("ClusterRoleBinding {:?}", grant.binding),
        namespace => format!("RoleBinding {:?}", format!("{}/{namespace}", grant.binding)),
    };
    let to = match to {
        Subject::User(name) => format!("User {name:?}"),
        Subject::Group(name) => format!("Group {name:?}"),
        Subject::ServiceAccount(user) => {
            let of = user.rsplit_once(':').unwrap_or(("", user));
            let namespace = of.0.rsplit(':').next().unwrap_or_default();
            format!("ServiceAccount {:?}", format!("{}/{namespace}", of.1))
        }
    };
    format!("RBAC: allowed by {binding} of {kind} {role:?} to {to}")
}

/// An immutable index of who may do what.
#[derive(Debug, Default)]
pub struct Policy {
    users: HashMap<String, Vec<GrantToSubject>>,
    groups: HashMap<String, Vec<GrantToSubject>>,
}

impl Policy {
    fn grants<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a GrantToSubject> {
        let own = self.users.get(&user.name).into_iter().flatten();
        let shared = user
            .groups
            .iter()
            .filter_map(|g| self.groups.get(g))
            .flatten();
        own.chain(shared)
    }

    pub fn decide(&self, user: &UserInfo, a: &Attributes<'_>) -> Decision {
        let applies = |(g, _): &&GrantToSubject| {
            g.namespace.is_empty() || (a.is_resource && g.namespace == a.namespace)
        };
        let grant = self
            .grants(user)
            .filter(applies)
            .find(|(g, _)| g.rules.iter().any(|r| r.allows(a)));
        match grant {
            Some((grant, to)) => Decision::Allow(reason(grant, to)),
            None => Decision::NoOpinion(String::new()),
        }
    }

    /// Every rule that holds for the user in a namespace (empty: only what holds everywhere).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        self.grants(user)
            .filter(|(g, _)| g.namespace.is_empty() || g.namespace == namespace)
            .flat_map(|(g, _)| g.rules.iter().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let mut o = Objects::default();
        o.put_role(&json!({ "metadata": { "name": "reader" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }] }));
        o.put_role(&json!({ "metadata": { "name": "sum" }, "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "x": "y" } }] } }));
        o.put_role(&json!({ "metadata": { "name": "part", "labels": { "x": "y" } }, "rules": [{ "apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"] }] }));
        o.put_binding(&json!({ "metadata": { "name": "b", "namespace": "a" }, "roleRef": { "kind": "ClusterRole", "name": "reader" },
            "subjects": [{ "kind": "ServiceAccount", "name": "sa" }, { "kind": "Group", "name": "g" }] }));
        o.put_binding(&json!({ "metadata": { "name": "c" }, "roleRef": { "kind": "ClusterRole", "name": "sum" },
            "subjects": [{ "kind": "User", "name": "u" }] }));
        o
    }

    fn get<'a>(group: &'a str, resource: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes {
            verb: "get",
            is_resource: true,
            group,
            resource,
            namespace,
            name: "x",
            ..Attributes::default()
        }
    }

    #[test]
    fn bindings_grant_in_their_namespace() {
        let p = objects().policy();
        let sa = UserInfo::new("system:serviceaccount:a:sa", &[]);
        assert!(p.decide(&sa, &get("", "pods", "a")).is_allowed());
        assert!(!p.decide(&sa, &get("", "pods", "b")).is_allowed());
        assert!(
            p.decide(&UserInfo::new("x", &["g"]), &get("", "pods", "a"))
                .is_allowed()
        );
        assert!(
            !p.decide(&UserInfo::anonymous(), &get("", "pods", "a"))
                .is_allowed()
        );
    }

    #[test]
    fn aggregated_roles_follow_their_parts() {
        let mut o = objects();
        let u = UserInfo::new("u", &[]);
        assert!(
            o.policy()
                .decide(&u, &get("apps", "deployments", "z"))
                .is_allowed()
        );
        o.delete_role("", "part");
        assert!(
            !o.policy()
                .decide(&u, &get("apps", "deployments", "z"))
                .is_allowed()
        );
    }

    #[test]
    fn rules_of_a_user_are_listed() {
        let p = objects().policy();
        assert_eq!(p.rules_for(&UserInfo::new("u", &["g"]), "a").len(), 2);
        assert_eq!(p.rules_for(&UserInfo::new("u", &["g"]), "").len(), 1);
    }
}
