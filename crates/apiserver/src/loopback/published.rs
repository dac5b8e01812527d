//! What the server publishes in kube-system for components beside it: the CA of client
//! certificates, by which extension servers know clients, and how they know this server, which
//! passes on requests of others (`extension-apiserver-authentication`),
//! and since when uses of tokens in Secrets are noted
//! (`kube-apiserver-legacy-service-account-token-tracking`). Both are upstream's.

use std::time::Duration;

use api::Status;
use serde_json::{Value, json};

use super::Loopback;
use crate::settings::FrontProxy;

const NAMESPACE: &str = "kube-system";
const AUTHENTICATION: &str = "extension-apiserver-authentication";
const CLIENT_CA: &str = "client-ca-file";
const FRONT_CA: &str = "requestheader-client-ca-file";
/// How requests that this server passes on say who asks.
const FRONT_WORDS: [(&str, &str); 5] = [
    ("requestheader-allowed-names", FrontProxy::NAME),
    ("requestheader-username-headers", "X-Remote-User"),
    ("requestheader-uid-headers", "X-Remote-Uid"),
    ("requestheader-group-headers", "X-Remote-Group"),
    ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
];
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";
/// Somebody may have changed or deleted them. A minute, as upstream.
const EVERY: Duration = Duration::from_secs(60);

/// Brings both up to date.
pub async fn publish(loopback: &Loopback) -> Result<(), Status> {
    let config = loopback.state.settings();
    if let Some(pem) = &config.client_ca_pem {
        set(loopback, AUTHENTICATION, CLIENT_CA, |old| bundle(old, pem)).await?;
    }
    if let Some(front) = &config.front_proxy {
        let ca = &front.ca_pem;
        set(loopback, AUTHENTICATION, FRONT_CA, |old| bundle(old, ca)).await?;
        for (key, words) in FRONT_WORDS {
            set(loopback, AUTHENTICATION, key, |old| list(old, words)).await?;
        }
    }
    if config.tokens.is_some() {
        let today = api::time::format_seconds(loopback.state.now());
        let today = today.split('T').next().unwrap_or_default();
        set(loopback, TRACKING, SINCE, |old| since(old, today)).await?;
    }
    Ok(())
}

/// Does so now and then, until the server stops.
pub async fn keep(loopback: Loopback) {
    while loopback.goes_on_after(EVERY).await {
        if let Err(e) = publish(&loopback).await {
            tracing::warn!("publishing what extension servers need: {e}");
        }
    }
}

/// All certificates of both bundles, each once: other servers may trust others.
fn bundle(old: &str, own: &str) -> String {
    let Ok(ours) = pem::parse_many(own) else {
        return old.to_owned();
    };
    // What is not a bundle is of no use to anybody.
    let mut all = pem::parse_many(old).unwrap_or_default();
    let known =
        |all: &[pem::Pem], one: &pem::Pem| all.iter().any(|a| a.contents() == one.contents());
    let before = all.len();
    for one in ours {
        if !known(&all, &one) {
            all.push(one);
        }
    }
    if all.len() == before {
        return old.to_owned();
    }
    let line_feeds = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    all.iter()
        .map(|one| pem::encode_config(one, line_feeds))
        .collect()
}

/// A JSON list of texts that has this one; what is not such a list is of no use.
fn list(old: &str, word: &str) -> String {
    let mut all: Vec<String> = serde_json::from_str(old).unwrap_or_default();
    if all.iter().any(|have| have == word) {
        return old.to_owned();
    }
    all.push(word.to_owned());
    json!(all).to_string()
}

/// The day that stands there, if it is one.
fn since(old: &str, today: &str) -> String {
    let is_day = api::time::parse_seconds(&format!("{old}T00:00:00Z")).is_some();
    if is_day { old } else { today }.to_owned()
}

async fn set(
    loopback: &Loopback,
    name: &str,
    key: &str,
    want: impl Fn(&str) -> String + Send + Sync,
) -> Result<(), Status> {
    let text = |object: &Value| {
        let text = object.get("data").and_then(|d| d.get(key)?.as_str());
        text.unwrap_or_default().to_owned()
    };
    match loopback.state.lookup("", "configmaps", NAMESPACE, name) {
        Some(have) => {
            let have = text(&have.to_value());
            if want(&have) == have {
                return Ok(());
            }
        }
        None => {
            let object = json!({
                "kind": "ConfigMap", "apiVersion": "v1",
                "metadata": { "name": name, "namespace": NAMESPACE },
                "data": { key: want("") },
            });
            match loopback.create("", "configmaps", object).await {
                Ok(made) => return loopback.state.reach(made.revision).await,
                // Another server was faster, and may publish other things.
                Err(s) if s.is("AlreadyExists") => {}
                Err(s) => return Err(s),
            }
        }
    }
    let make = |old: &Value| {
        let mut new = old.clone();
        if !new["data"].is_object() {
            new["data"] = json!({});
        }
        new["data"][key] = want(&text(old)).into();
        new
    };
    let done = loopback
        .change("", "configmaps", NAMESPACE, name, make)
        .await?;
    loopback.state.reach(done.revision).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(text: &str) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", text)).replace("\r\n", "\n")
    }

    #[test]
    fn a_bundle_grows_by_what_it_lacks() {
        let (a, b) = (certificate("a"), certificate("b"));
        assert_eq!(bundle("", &a), a);
        assert_eq!(bundle(&a, &a), a);
        assert_eq!(bundle(&a, &b), format!("{a}{b}"));
        assert_eq!(bundle(&format!("{b}{a}"), &a), format!("{b}{a}"));
    }

    #[test]
    fn a_list_grows_by_what_it_lacks() {
        assert_eq!(list("", "a"), r#"["a"]"#);
        assert_eq!(list(r#"["b"]"#, "a"), r#"["b","a"]"#);
        assert_eq!(list(r#"["a", "b"]"#, "a"), r#"["a", "b"]"#);
        assert_eq!(list("what", "a"), r#"["a"]"#);
    }

    #[test]
    fn a_day_stays_and_anything_else_goes() {
        assert_eq!(since("2024-01-02", "2026-01-01"), "2024-01-02");
        assert_eq!(since("soon", "2026-01-01"), "2026-01-01");
        assert_eq!(since("", "2026-01-01"), "2026-01-01");
    }
}
