//! Acting as somebody else: the `Impersonate-*` headers. There are ways of it, each with verbs of
//! its own ([`Mode`]): those that are constrained grant to act as somebody for named requests alone
//! (`impersonate-on:MODE:VERB`), the oldest grants everything that he may do. The first way that is
//! allowed counts.

use std::collections::{BTreeMap, HashMap};

use access::Decision;
use access::attributes::NODE_NAME;
use api::{FieldPath, Status, names};
use clock::Instant;
use http::HeaderMap;
use parking_lot::Mutex;

use super::authn::{self, MASTERS, UserInfo};
use super::authz::{self, Attributes};
use super::oidc::check::domain_prefixed;
use crate::audit::Trail;
use crate::http::request::decode_percent;
use crate::state::State;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
const NODE_PREFIX: &str = "system:node:";
const NODES: &str = "system:nodes";
/// What stands in place of the extra of such an account while it is asked about.
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups or extra values on it is asked first whether all are allowed; as upstream.
const MANY: usize = 4;
/// Users whose way is remembered; one entry has about 100 bytes.
const REMEMBERED: usize = 10_000;

/// A way of acting as somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    ServiceAccount,
    /// As whoever is neither.
    UserInfo,
    /// As anybody, for everything.
    Legacy,
}

impl Mode {
    const ALL: [Self; 5] = [
        Self::AssociatedNode,
        Self::ArbitraryNode,
        Self::ServiceAccount,
        Self::UserInfo,
        Self::Legacy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "legacy",
        }
    }

    fn verb(self) -> String {
        match self {
            Self::Legacy => "impersonate".to_owned(),
            constrained => format!("impersonate:{}", constrained.name()),
        }
    }

    /// Whether it is there for this wish at all.
    fn applies(self, wish: &ImpersonatedUser, requestor: &UserInfo) -> bool {
        let node = node(&wish.user);
        match self {
            Self::AssociatedNode => {
                let own = requestor.extra.get(NODE_NAME).map(Vec::as_slice);
                let is_own = matches!((own, node), (Some([own]), Some(node)) if own == node);
                wish.names_only() && is_own && service_account(&requestor.name).is_some()
            }
            Self::ArbitraryNode => wish.names_only() && node.is_some(),
            Self::ServiceAccount => wish.names_only() && service_account(&wish.user).is_some(),
            Self::UserInfo => node.is_none() && service_account(&wish.user).is_none(),
            Self::Legacy => true,
        }
    }
}

/// The way that a user was last allowed: it is tried first.
#[derive(Default)]
pub struct Ways(Mutex<HashMap<String, Mode>>);

impl Ways {
    fn get(&self, user: &str) -> Option<Mode> {
        self.0.lock().get(user).copied()
    }

    fn set(&self, user: &str, mode: Mode) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(user.to_owned(), mode);
    }
}

/// Whom a request wants to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImpersonatedUser {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

impl ImpersonatedUser {
    /// Reads a request's headers; none where they name nobody.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
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

    fn names_only(&self) -> bool {
        self.groups.is_empty() && self.uid.is_empty() && self.extra.is_empty()
    }

    /// Who the request is, if it may.
    fn user(self, mode: Mode) -> UserInfo {
        let mut groups = self.groups;
        if mode != Mode::Legacy && node(&self.user).is_some() {
            groups = vec![NODES.to_owned()];
        } else if groups.is_empty()
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

/// Namespace and name of a service account.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user
        .strip_prefix("system:serviceaccount:")?
        .split_once(':')?;
    let good = names::is_dns1123_label(namespace).is_empty()
        && names::is_dns1123_subdomain(name).is_empty();
    good.then_some((namespace, name))
}

/// The name of a node.
fn node(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_PREFIX)?;
    names::is_dns1123_subdomain(name).is_empty().then_some(name)
}

/// Who the request is to be treated as; the headers are taken out of it. `asked`: what it asks.
pub async fn apply(
    (state, ways): (&State, &Ways),
    user: UserInfo,
    headers: &mut HeaderMap,
    asked: &Attributes<'_>,
    trail: &Trail,
) -> Result<UserInfo, Status> {
    let Some(wish) = ImpersonatedUser::read(headers) else {
        return Ok(user);
    };
    if wish.user.is_empty() {
        return Err(Status::bad_request(
            "requested groups, uid or extra values without impersonating a user name",
        ));
    }
    let began = Instant::now();
    let metrics = &state.metrics().identity;
    let allowed = choose(state, ways, &user, &wish, asked).await;
    let mode = match allowed {
        Ok(mode) => mode,
        Err(refusal) => {
            metrics.impersonation("", "denied", began.elapsed());
            return Err(refusal);
        }
    };
    metrics.impersonation(mode.name(), "allowed", began.elapsed());
    let names: Vec<http::HeaderName> = headers
        .keys()
        .filter(|k| k.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
    let constraint = (mode != Mode::Legacy).then(|| mode.verb());
    let user = wish.user(mode);
    trail.impersonated(&user, constraint);
    Ok(user)
}

/// The first way that is allowed; otherwise why the first that applies is not.
async fn choose(
    state: &State,
    ways: &Ways,
    user: &UserInfo,
    wish: &ImpersonatedUser,
    asked: &Attributes<'_>,
) -> Result<Mode, Status> {
    let last = ways.get(&user.name);
    let others = Mode::ALL.into_iter().filter(|mode| Some(*mode) != last);
    let is_constrained = state.has_feature("ConstrainedImpersonation");
    let mut refused = None;
    for mode in last.into_iter().chain(others) {
        if !mode.applies(wish, user) || (mode != Mode::Legacy && !is_constrained) {
            continue;
        }
        let judge = Judge { state, user, mode };
        match judge.allows(wish, asked).await {
            Ok(()) => {
                if Some(mode) != last {
                    ways.set(&user.name, mode);
                }
                return Ok(mode);
            }
            Err(status) => refused = refused.or(Some(status)),
        }
    }
    // The oldest way always applies.
    Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Asks whether a user may act as somebody in one way.
struct Judge<'a> {
    state: &'a State,
    user: &'a UserInfo,
    mode: Mode,
}

impl Judge<'_> {
    async fn allows(&self, wish: &ImpersonatedUser, asked: &Attributes<'_>) -> Result<(), Status> {
        if self.mode != Mode::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), asked.verb);
            let on = Attributes {
                verb: &verb,
                ..asked.clone()
            };
            self.check(&on).await?;
        }
        let verb = self.mode.verb();
        let of = |group: &'static str, resource: &'static str| Attributes {
            verb: &verb,
            is_resource: true,
            group,
            version: "v1",
            resource,
            ..Attributes::default()
        };
        self.name(wish, of).await?;
        if !wish.uid.is_empty() {
            let uid = Attributes {
                name: &wish.uid,
                ..of(AUTHENTICATION, "uids")
            };
            self.check(&uid).await?;
        }
        self.groups(&wish.groups, of(self.names_group(), "groups"))
            .await?;
        self.extra(&wish.extra, of(AUTHENTICATION, "userextras"))
            .await
    }

    /// Users and groups are of the core group only in the oldest way.
    fn names_group(&self) -> &'static str {
        match self.mode {
            Mode::Legacy => "",
            _ => AUTHENTICATION,
        }
    }

    async fn name<'a>(
        &self,
        wish: &'a ImpersonatedUser,
        of: impl Fn(&'static str, &'static str) -> Attributes<'a>,
    ) -> Result<(), Status> {
        let group = self.names_group();
        let is_constrained = self.mode != Mode::Legacy;
        let mut asked = of(group, "users");
        asked.name = &wish.user;
        if let Some(name) = node(&wish.user).filter(|_| is_constrained) {
            asked = of(group, "nodes");
            // For a service account's own node one grant holds for all nodes.
            asked.name = match self.mode {
                Mode::AssociatedNode => "*",
                _ => name,
            };
        } else if let Some((namespace, name)) = service_account(&wish.user) {
            asked = of(group, "serviceaccounts");
            (asked.namespace, asked.name) = (namespace, name);
        }
        self.check(&asked).await
    }

    async fn groups<'a>(&self, groups: &'a [String], of: Attributes<'a>) -> Result<(), Status> {
        let named = |name| Attributes { name, ..of.clone() };
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                let why = "impersonating the empty string group is not allowed";
                return Err(authz::forbidden(self.user, &of, why));
            }
            if groups.iter().any(|g| g == MASTERS) {
                let why = "impersonating the system:masters group is not allowed";
                return Err(authz::forbidden(self.user, &named(MASTERS), why));
            }
            if groups.len() >= MANY && self.check(&named("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.check(&named(group)).await?;
        }
        Ok(())
    }

    async fn extra<'a>(
        &self,
        extra: &'a BTreeMap<String, Vec<String>>,
        of: Attributes<'a>,
    ) -> Result<(), Status> {
        let named = |subresource, name| Attributes {
            subresource,
            name,
            ..of.clone()
        };
        if self.mode != Mode::Legacy {
            if let Err(why) = good_extra(extra) {
                return Err(authz::forbidden(self.user, &of, &why));
            }
            let many = extra.values().map(Vec::len).sum::<usize>() >= MANY;
            if many && self.check(&named("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.check(&named(key, value)).await?;
            }
        }
        Ok(())
    }

    async fn check(&self, asked: &Attributes<'_>) -> Result<(), Status> {
        let began = Instant::now();
        let blurred;
        let user = match self.mode {
            Mode::AssociatedNode => {
                blurred = without_node(self.user);
                &blurred
            }
            _ => self.user,
        };
        let judged = authz::judge(self.state, user, asked).await;
        let word = if judged.decision.is_allowed() {
            "allowed"
        } else {
            "denied"
        };
        let metrics = &self.state.metrics().identity;
        metrics.impersonation_check(self.mode.name(), word, began.elapsed());
        let reason = match judged.decision {
            Decision::Allow(_) => return Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) => why,
        };
        let mut all = judged.errors;
        if !reason.is_empty() {
            all.push(reason);
        }
        Err(authz::forbidden(user, asked, &all.join(": ")))
    }
}

/// A service account without what its extra says of one node: grants are for all of its nodes.
fn without_node(user: &UserInfo) -> UserInfo {
    let keys = user.extra.keys().cloned().collect();
    UserInfo {
        extra: BTreeMap::from([(NODE_KEYS.to_owned(), keys)]),
        ..user.clone()
    }
}

fn good_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".into());
        }
        let mut errors = Vec::new();
        domain_prefixed(&mut errors, key, &FieldPath::new("extra").child("key"));
        if !errors.is_empty() {
            let why = super::files::aggregate(&errors);
            return Err(format!(
                "impersonating an invalid key in extra is not allowed: {why}"
            ));
        }
        if key.chars().any(char::is_uppercase) {
            return Err(format!(
                "impersonating a non-lowercase key in extra is not allowed: {key:?}"
            ));
        }
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(all: &[(&'static str, &str)]) -> Option<ImpersonatedUser> {
        let mut map = HeaderMap::new();
        for (k, v) in all {
            map.append(*k, v.parse().expect("value"));
        }
        ImpersonatedUser::read(&map)
    }

    #[test]
    fn service_accounts_and_nodes_bring_their_groups() {
        let sa = wish(&[(USER, "system:serviceaccount:a:b")]).expect("wish");
        let want = [
            "system:serviceaccounts",
            "system:serviceaccounts:a",
            "system:authenticated",
        ];
        assert_eq!(sa.user(Mode::Legacy).groups, want);
        let node = wish(&[(USER, "system:node:n")]).expect("wish");
        let groups = |mode| node.clone().user(mode).groups;
        assert_eq!(groups(Mode::ArbitraryNode), [NODES, "system:authenticated"]);
        assert_eq!(groups(Mode::Legacy), ["system:authenticated"]);
        assert_eq!(wish(&[("accept", "x")]), None);
    }

    #[test]
    fn each_way_is_for_its_own() {
        let account = UserInfo {
            extra: BTreeMap::from([(NODE_NAME.to_owned(), vec!["n".to_owned()])]),
            ..UserInfo::new("system:serviceaccount:a:agent", &[])
        };
        let ways = |headers: &[(&'static str, &str)], user: &UserInfo| {
            let wish = wish(headers).expect("wish");
            let all = Mode::ALL.into_iter().filter(|m| m.applies(&wish, user));
            all.map(Mode::name).collect::<Vec<_>>()
        };
        let own = [(USER, "system:node:n")];
        assert_eq!(
            ways(&own, &account),
            ["associated-node", "arbitrary-node", "legacy"]
        );
        let other = [(USER, "system:node:m")];
        assert_eq!(ways(&other, &account), ["arbitrary-node", "legacy"]);
        let person = UserInfo {
            name: "jane".into(),
            ..account.clone()
        };
        assert_eq!(ways(&own, &person), ["arbitrary-node", "legacy"]);
        let with_group = [(USER, "system:node:n"), (GROUP, "g")];
        assert_eq!(ways(&with_group, &account), ["legacy"]);
        let sa = [(USER, "system:serviceaccount:a:b")];
        assert_eq!(ways(&sa, &person), ["serviceaccount", "legacy"]);
        let jo = [(USER, "jo"), (GROUP, "g"), (UID, "1")];
        assert_eq!(ways(&jo, &person), ["user-info", "legacy"]);
        // What only looks like a node is a user.
        assert_eq!(
            ways(&[(USER, "system:node:")], &person),
            ["user-info", "legacy"]
        );
    }

    #[test]
    fn constrained_extra_has_keys_of_domains() {
        let extra = |key: &str, value: &str| {
            good_extra(&BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]))
        };
        assert_eq!(extra("x.io/a", "v"), Ok(()));
        for (key, value) in [("", "v"), ("a", "v"), ("x.io/A", "v"), ("x.io/a", "")] {
            assert!(extra(key, value).is_err(), "{key} {value}");
        }
    }
}
