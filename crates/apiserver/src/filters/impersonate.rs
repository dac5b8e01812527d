//! Acting as somebody else: the `Impersonate-*` headers. Each thing that is put on (user, group,
//! uid, extra value) must be allowed by the verb `impersonate`.

use std::collections::BTreeMap;

use api::Status;
use http::HeaderMap;

use super::authn::{self, UserInfo};
use super::authz::{self, Attributes};
use crate::http::request::decode_percent;
use crate::state::State;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom a request wants to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wish {
    fn read(headers: &HeaderMap) -> Option<Self> {
        if !headers
            .keys()
            .any(|k| k.as_str().starts_with("impersonate-"))
        {
            return None;
        }
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let one = |name| headers.get(name).map(text).unwrap_or_default();
        let mut wish = Self {
            user: one(USER),
            groups: headers.get_all(GROUP).iter().map(text).collect(),
            uid: one(UID),
            extra: BTreeMap::new(),
        };
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let values = wish.extra.entry(decode_percent(key)).or_default();
                values.push(text(value));
            }
        }
        (wish != Self::default()).then_some(wish)
    }

    /// What must be allowed, each in turn.
    fn asks(&self) -> Vec<Attributes<'_>> {
        let ask = |group, resource, subresource, namespace, name| Attributes {
            verb: "impersonate",
            is_resource: true,
            group,
            version: "v1",
            resource,
            subresource,
            namespace,
            name,
            ..Attributes::default()
        };
        const AUTHENTICATION: &str = "authentication.k8s.io";
        let mut all = vec![match service_account(&self.user) {
            Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
            None => ask("", "users", "", "", self.user.as_str()),
        }];
        for group in &self.groups {
            all.push(ask("", "groups", "", "", group));
        }
        for (key, values) in &self.extra {
            for value in values {
                all.push(ask(AUTHENTICATION, "userextras", key, "", value));
            }
        }
        if !self.uid.is_empty() {
            all.push(ask(AUTHENTICATION, "uids", "", "", &self.uid));
        }
        all
    }

    fn user(self) -> UserInfo {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = service_account(&self.user)
        {
            groups = access::attributes::service_account_groups(namespace);
        }
        authn::completed(UserInfo {
            name: self.user,
            uid: self.uid,
            groups,
            extra: self.extra,
        })
    }
}

fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    (!namespace.is_empty() && !name.is_empty()).then_some((namespace, name))
}

/// Whether a request is to be treated as somebody else's.
pub fn is_wanted(headers: &HeaderMap) -> bool {
    headers.contains_key(USER)
}

/// Who the request is to be treated as; the headers are taken out of it.
pub async fn apply(
    state: &State,
    user: UserInfo,
    headers: &mut HeaderMap,
) -> Result<UserInfo, Status> {
    let Some(wish) = Wish::read(headers) else {
        return Ok(user);
    };
    if wish.user.is_empty() {
        return Err(Status::bad_request(
            "requested groups, uid or extra values without impersonating a user",
        ));
    }
    for asked in wish.asks() {
        authz::authorize(state, &user, &asked).await?;
    }
    let names: Vec<http::HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    Ok(wish.user())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(all: &[(&'static str, &str)]) -> Option<Wish> {
        let mut map = HeaderMap::new();
        for (k, v) in all {
            map.append(*k, v.parse().expect("value"));
        }
        Wish::read(&map)
    }

    #[test]
    fn service_accounts_bring_their_groups() {
        let sa = wish(&[(USER, "system:serviceaccount:a:b")]).expect("wish");
        assert_eq!(sa.asks()[0].resource, "serviceaccounts");
        let groups = sa.user().groups;
        let want = [
            "system:serviceaccounts",
            "system:serviceaccounts:a",
            "system:authenticated",
        ];
        assert_eq!(groups, want);
    }

    #[test]
    fn every_part_is_asked_for() {
        let all = wish(&[
            (USER, "u"),
            (GROUP, "g"),
            (GROUP, "h"),
            (UID, "1"),
            ("impersonate-extra-a%2fb", "x"),
        ])
        .expect("wish");
        let asked: Vec<String> = all
            .asks()
            .iter()
            .map(|a| format!("{}/{}/{}", a.resource, a.subresource, a.name))
            .collect();
        assert_eq!(
            asked,
            [
                "users//u",
                "groups//g",
                "groups//h",
                "userextras/a/b/x",
                "uids//1"
            ]
        );
        assert_eq!(wish(&[("accept", "x")]), None);
    }
}
