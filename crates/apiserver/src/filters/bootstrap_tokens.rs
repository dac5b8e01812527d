//! Bootstrap tokens `<id>.<secret>`: secrets of kube-system by which a machine that is not a member
//! yet asks to become one.

use access::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use serde_json::Value;

use super::authn::{AuthenticatedUser, Authenticator, Rejected};
use crate::state::State;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Believes bootstrap tokens.
pub struct BootstrapTokens;

impl Authenticator for BootstrapTokens {
    fn token<'a>(
        &'a self,
        state: &'a State,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        Box::pin(async move {
            let Some((id, secret)) = parse(token) else {
                return Ok(None);
            };
            // These tokens are for this server alone.
            let Some(audiences) = state.settings().audiences_among(audiences) else {
                return Ok(None);
            };
            let name = format!("bootstrap-token-{id}");
            let held = state.fresh("", "secrets", "kube-system", &name).await;
            let Some(held) = held.map_err(Rejected::undecided)? else {
                return Ok(None);
            };
            let user = user_of(&held.to_value(), id, secret, state.now());
            Ok(user.map(|user| AuthenticatedUser { user, audiences }))
        })
    }
}

/// Id (6 characters) and secret (16).
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let word = |s: &str, n: usize| {
        s.len() == n
            && s.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (word(id, 6) && word(secret, 16)).then_some((id, secret))
}

/// A text of a secret's data.
pub(super) fn data(secret: &Value, key: &str) -> Option<String> {
    let text = secret.get("data")?.get(key)?.as_str()?;
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// Compares in a time that depends on the lengths only.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let different = a
        .iter()
        .zip(b)
        .fold(0u8, |all, (x, y)| std::hint::black_box(all | (x ^ y)));
    a.len() == b.len() && different == 0
}

/// Whom the token names if the secret vouches for it.
fn user_of(object: &Value, id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    let deleted = object.pointer("/metadata/deletionTimestamp").is_some();
    if deleted || object.get("type").and_then(Value::as_str) != Some(TYPE) {
        return None;
    }
    let held = data(object, "token-secret")?;
    if !same(held.as_bytes(), secret.as_bytes()) || data(object, "token-id")? != id {
        return None;
    }
    // An expiration that cannot be read counts as passed.
    if let Some(until) = data(object, "expiration").filter(|t| !t.is_empty())
        && api::time::parse_seconds(&until).is_none_or(|t| t < now)
    {
        return None;
    }
    if data(object, "usage-bootstrap-authentication")? != "true" {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    let extra = data(object, "auth-extra-groups").unwrap_or_default();
    for group in extra.split(',').filter(|g| !g.is_empty()) {
        if !is_group(group) {
            return None;
        }
        groups.push(group.to_owned());
    }
    Some(UserInfo {
        name: format!("system:bootstrap:{id}"),
        groups,
        ..UserInfo::default()
    })
}

/// `system:bootstrappers:` and 1 to 256 of `a-z0-9:-`, the last a letter or digit.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else {
        return false;
    };
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=256).contains(&rest.len())
        && rest.bytes().all(|b| letter(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(fields: &[(&str, &str)]) -> Value {
        let mut data = serde_json::Map::new();
        for (k, v) in fields {
            data.insert((*k).into(), STANDARD.encode(v).into());
        }
        json!({ "type": TYPE, "metadata": {}, "data": data })
    }

    #[test]
    fn a_secret_vouches_for_its_token() {
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        let ask = |more: &[(&str, &str)], secret_text: &str| {
            let mut all = base.to_vec();
            all.extend(more);
            user_of(&secret(&all), "abcdef", secret_text, 1_700_000_000)
        };
        let good = "0123456789abcdef";
        let user = ask(&[("auth-extra-groups", "system:bootstrappers:x:y")], good).expect("user");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [GROUP, "system:bootstrappers:x:y"]);
        assert!(ask(&[("expiration", "2030-01-01T00:00:00Z")], good).is_some());
        for bad in [
            ("expiration", "2020-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
            ("usage-bootstrap-authentication", "false"),
        ] {
            assert_eq!(ask(&[bad], good), None, "{bad:?}");
        }
        assert_eq!(ask(&[], "0123456789abcdeg"), None);
        assert_eq!(
            parse("abcdef.0123456789abcdef").map(|p| p.0),
            Some("abcdef")
        );
        assert_eq!(parse("abcdef"), None);
    }

    #[test]
    fn comparison_is_exact() {
        assert!(same(b"a", b"a"));
        assert!(!same(b"a", b"ab"));
        assert!(!same(b"a", b"b"));
        assert!(same(b"", b""));
    }
}
