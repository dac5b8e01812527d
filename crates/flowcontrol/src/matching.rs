//! Which flow schema a request matches. It runs for every request, so it compares and nothing else:
//! no text is made.

use crate::config::{NonResourceRule, ResourceRule, Rule, Schema, Subject};

/// What is known of a request before it runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestDigest<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    /// Whether it is about a resource; otherwise about `path`.
    pub is_resource: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub path: &'a str,
}

const ALL: &str = "*";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

impl Schema {
    pub fn matches(&self, asked: &RequestDigest<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(asked))
    }
}

impl Rule {
    fn matches(&self, asked: &RequestDigest<'_>) -> bool {
        if !self.subjects.iter().any(|s| s.matches(asked)) {
            return false;
        }
        if asked.is_resource {
            self.resource_rules.iter().any(|r| r.matches(asked))
        } else {
            self.non_resource_rules.iter().any(|r| r.matches(asked))
        }
    }
}

impl Subject {
    fn matches(&self, asked: &RequestDigest<'_>) -> bool {
        match self {
            Self::User { user } => user.name == ALL || user.name == asked.user,
            Self::Group { group } => group.name == ALL || asked.groups.contains(&group.name),
            Self::ServiceAccount { account } => asked
                .user
                .strip_prefix(SERVICE_ACCOUNT)
                .and_then(|rest| rest.strip_prefix(account.namespace.as_str()))
                .and_then(|rest| rest.strip_prefix(':'))
                .is_some_and(|name| account.name == ALL || account.name == name),
        }
    }
}

/// Whether a list names a word; `*` alone in it names all.
fn names(list: &[String], word: &str) -> bool {
    matches!(list, [all] if all == ALL) || list.iter().any(|w| w == word)
}

impl ResourceRule {
    fn matches(&self, asked: &RequestDigest<'_>) -> bool {
        names(&self.verbs, asked.verb)
            && self.names_resource(asked)
            && names(&self.api_groups, asked.group)
            && if asked.namespace.is_empty() {
                self.cluster_scope
            } else {
                names(&self.namespaces, asked.namespace)
            }
    }

    fn names_resource(&self, asked: &RequestDigest<'_>) -> bool {
        if asked.subresource.is_empty() {
            return names(&self.resources, asked.resource);
        }
        let is_it = |word: &String| {
            let rest = word.strip_prefix(asked.resource);
            rest.and_then(|r| r.strip_prefix('/')) == Some(asked.subresource)
        };
        names(&self.resources, ALL) || self.resources.iter().any(is_it)
    }
}

impl NonResourceRule {
    fn matches(&self, asked: &RequestDigest<'_>) -> bool {
        names(&self.verbs, asked.verb) && self.urls.iter().any(|url| is_below(url, asked.path))
    }
}

/// Whether a path is this one, or lies below it.
fn is_below(url: &str, path: &str) -> bool {
    if url == ALL || url == path {
        return true;
    }
    let url = url.strip_suffix('*').unwrap_or(url);
    let url = url.strip_suffix('/').unwrap_or(url);
    path.strip_prefix(url).is_some_and(|r| r.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults;

    fn first(asked: &RequestDigest<'_>) -> String {
        let all = defaults::schemas();
        let mut all: Vec<Schema> = all
            .iter()
            .map(|o| Schema::read(&o.value).expect("schema"))
            .collect();
        all.sort_by(|a, b| a.order().cmp(&b.order()));
        let found = all.iter().find(|s| s.matches(asked));
        found.map(|s| s.name.clone()).unwrap_or_default()
    }

    fn resource<'a>(
        user: &'a str,
        groups: &'a [String],
        verb: &'a str,
        of: [&'a str; 4],
    ) -> RequestDigest<'a> {
        let [group, resource, subresource, namespace] = of;
        RequestDigest {
            user,
            groups,
            verb,
            is_resource: true,
            group,
            resource,
            subresource,
            namespace,
            path: "",
        }
    }

    #[test]
    fn requests_go_where_upstream_sends_them() {
        let all = |group: &str| vec![group.to_owned(), "system:authenticated".to_owned()];
        let (masters, nodes) = (all("system:masters"), all("system:nodes"));
        let (accounts, users) = (all("system:serviceaccounts"), all("people"));
        let pods = ["", "pods", "", "a"];
        let leases = ["coordination.k8s.io", "leases", "", "a"];
        let kube = "system:serviceaccount:kube-system:x";
        let cases = [
            (resource("admin", &masters, "list", pods), "exempt"),
            (
                resource(
                    "system:node:n",
                    &nodes,
                    "update",
                    ["", "nodes", "status", ""],
                ),
                "system-node-high",
            ),
            (
                resource("system:node:n", &nodes, "update", leases),
                "system-node-high",
            ),
            (
                resource("system:node:n", &nodes, "list", pods),
                "system-nodes",
            ),
            (
                resource("system:kube-scheduler", &users, "update", leases),
                "system-leader-election",
            ),
            (
                resource("system:kube-scheduler", &users, "list", pods),
                "kube-scheduler",
            ),
            (
                resource("system:kube-controller-manager", &users, "list", pods),
                "kube-controller-manager",
            ),
            (
                resource(kube, &accounts, "get", leases),
                "system-leader-election",
            ),
            (
                resource(kube, &accounts, "list", pods),
                "kube-system-service-accounts",
            ),
            (
                resource(
                    "system:serviceaccount:kube-system2:x",
                    &accounts,
                    "get",
                    leases,
                ),
                "service-accounts",
            ),
            (resource("jane", &users, "list", pods), "global-default"),
            (resource("jane", &[], "list", pods), ""),
        ];
        for (asked, want) in cases {
            assert_eq!(first(&asked), want, "{asked:?}");
        }
        let probe = |path| RequestDigest {
            verb: "get",
            path,
            user: "jane",
            groups: &users,
            ..RequestDigest::default()
        };
        assert_eq!(first(&probe("/healthz")), "probes");
        assert_eq!(first(&probe("/readyz/ping")), "probes");
        assert_eq!(first(&probe("/healthzx")), "global-default");
        assert_eq!(first(&probe("/metrics")), "global-default");
    }

    #[test]
    fn paths_match_as_prefixes_of_whole_parts() {
        for (url, path, want) in [
            ("*", "/x", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/*", "/a/b/c", true),
            ("/a/*", "/ab", false),
            ("/", "/a", true),
        ] {
            assert_eq!(is_below(url, path), want, "{url} {path}");
        }
    }
}
