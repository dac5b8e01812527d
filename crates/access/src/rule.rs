//! One rule of a role: what it matches, and whether it is covered by other rules.

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// A `PolicyRule` of rbac.authorization.k8s.io/v1.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|w| w == "*" || w == word)
}

/// `pods`, `pods/log`, `*/scale` or `*`.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    match (pattern, subresource) {
        ("*", _) => true,
        (p, "") => p == resource,
        (p, sub) => p
            .split_once('/')
            .is_some_and(|(r, s)| s == sub && (r == "*" || r == resource)),
    }
}

/// `/healthz`, or a prefix such as `/api/*`.
fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

impl Rule {
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|p| path_matches(p, a.path));
        }
        has(&self.api_groups, a.group)
            && self
                .resources
                .iter()
                .any(|r| resource_matches(r, a.resource, a.subresource))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name))
    }

    /// The rule cut into pieces of one verb, group, resource and name each: what an escalation
    /// check compares.
    pub fn pieces(&self) -> Vec<Rule> {
        let one = |s: &String| vec![s.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                out.push(Rule {
                    verbs: one(verb),
                    non_resource_urls: one(url),
                    ..Rule::default()
                });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let piece = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(piece);
                        continue;
                    }
                    for name in &self.resource_names {
                        out.push(Rule {
                            resource_names: one(name),
                            ..piece.clone()
                        });
                    }
                }
            }
        }
        out
    }

    /// Whether this rule grants all that a single `piece` does.
    fn covers_piece(&self, piece: &Rule) -> bool {
        let verb = piece.verbs.first().map_or("", String::as_str);
        if !has(&self.verbs, verb) {
            return false;
        }
        if let Some(url) = piece.non_resource_urls.first() {
            return self.non_resource_urls.iter().any(|p| path_matches(p, url));
        }
        let group = piece.api_groups.first().map_or("", String::as_str);
        let resource = piece.resources.first().map_or("", String::as_str);
        let (name, sub) = resource.split_once('/').unwrap_or((resource, ""));
        has(&self.api_groups, group)
            && self
                .resources
                .iter()
                .any(|r| r == resource || resource_matches(r, name, sub))
            && match piece.resource_names.first() {
                None => self.resource_names.is_empty(),
                Some(n) => self.resource_names.is_empty() || self.resource_names.contains(n),
            }
    }
}

/// The pieces of `wanted` that `owned` does not grant: a user who holds `owned` may not give
/// them away.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::pieces)
        .filter(|piece| !owned.iter().any(|o| o.covers_piece(piece)))
        .collect()
}

/// Pieces that differ only by verb become one rule; sorted as they are printed.
pub fn compact(pieces: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for piece in pieces {
        let same = |r: &&mut Rule| {
            r.non_resource_urls.is_empty()
                && piece.non_resource_urls.is_empty()
                && r.api_groups == piece.api_groups
                && r.resources == piece.resources
                && r.resource_names == piece.resource_names
        };
        match out.iter_mut().find(same) {
            Some(r) => r.verbs.extend(piece.verbs),
            None => out.push(piece),
        }
    }
    out
}

/// What is wrong with giving rules away, in upstream's words; `None` when all of them are held.
pub fn escalation(user: &crate::UserInfo, owned: &[Rule], wanted: &[Rule]) -> Option<String> {
    let missing = uncovered(owned, wanted);
    if missing.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = compact(missing).iter().map(show).collect();
    lines.sort();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|g| format!("{g:?}")).collect();
    Some(format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        lines.join("\n")
    ))
}

/// A piece as upstream prints it in an escalation error.
pub fn show(rule: &Rule) -> String {
    let list = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
        format!("[{}]", words.join(" "))
    };
    let mut parts = Vec::new();
    for (name, words) in [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ] {
        if !words.is_empty() {
            parts.push(format!("{name}:{}", list(words)));
        }
    }
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &str, resources: &str, verbs: &str, names: &str) -> Rule {
        let list = |s: &str| {
            s.split(',')
                .filter(|w| *w != "-")
                .map(str::to_owned)
                .collect()
        };
        Rule {
            api_groups: list(groups),
            resources: list(resources),
            verbs: list(verbs),
            resource_names: list(names),
            ..Rule::default()
        }
    }

    fn asks<'a>(verb: &'a str, resource: &'a str, sub: &'a str, name: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            is_resource: true,
            resource,
            subresource: sub,
            name,
            ..Attributes::default()
        }
    }

    #[test]
    fn rules_match_as_documented() {
        let read = rule("", "pods,pods/log", "get,list", "-");
        assert!(read.allows(&asks("get", "pods", "", "x")));
        assert!(read.allows(&asks("get", "pods", "log", "x")));
        assert!(!read.allows(&asks("get", "pods", "exec", "x")));
        assert!(!read.allows(&asks("delete", "pods", "", "x")));
        let one = rule("", "secrets", "get", "a");
        assert!(one.allows(&asks("get", "secrets", "", "a")));
        assert!(!one.allows(&asks("get", "secrets", "", "b")));
        let scale = rule("*", "*/scale", "*", "-");
        assert!(scale.allows(&asks("patch", "deployments", "scale", "x")));
        assert!(!scale.allows(&asks("patch", "deployments", "", "x")));
    }

    #[test]
    fn paths_match_exactly_or_by_prefix() {
        let url = Rule {
            verbs: vec!["get".into()],
            non_resource_urls: vec!["/healthz".into(), "/api/*".into()],
            ..Rule::default()
        };
        let ask = |path| Attributes {
            verb: "get",
            path,
            ..Attributes::default()
        };
        assert!(url.allows(&ask("/healthz")));
        assert!(url.allows(&ask("/api/v1")));
        assert!(!url.allows(&ask("/healthz/etcd")));
    }

    #[test]
    fn what_is_not_held_is_named() {
        let owned = [rule("", "pods", "get,list", "-")];
        assert!(uncovered(&owned, &[rule("", "pods", "get", "a")]).is_empty());
        let missing = uncovered(&owned, &[rule("", "pods,secrets", "get", "-")]);
        assert_eq!(missing.len(), 1);
        assert_eq!(
            show(&missing[0]),
            r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#
        );
        let user = crate::UserInfo::new("u", &["a", "b"]);
        let text = escalation(&user, &owned, &[rule("", "secrets", "get,list", "-")]);
        assert_eq!(
            text.as_deref(),
            Some(
                "user \"u\" (groups=[\"a\" \"b\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
            )
        );
        let named_only = [rule("", "secrets", "get", "a")];
        assert_eq!(
            uncovered(&named_only, &[rule("", "secrets", "get", "-")]).len(),
            1
        );
        assert!(
            uncovered(
                &[rule("*", "*", "*", "-")],
                &[rule("apps", "deployments/scale", "update", "x")]
            )
            .is_empty()
        );
    }
}
