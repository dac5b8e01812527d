//! Tokens with which nodes join: bootstrap token Secrets of kube-system, handed out together
//! with the hash of the cluster's CA.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::show::{OutputFlag, standard_output};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client};
use rand::RngExt;
use serde::Serialize;
use serde_json::json;
use terminal::table::{self, Column};
use tokio_util::sync::CancellationToken;
use wire::join::JoinToken;
use wire::pki;

#[derive(Args)]
pub struct TokenArgs {
    /// Kubeconfig of an administrator.
    #[arg(
        long,
        global = true,
        env = "KUBECONFIG",
        default_value = "/var/lib/tiphys/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token and print it.
    Create {
        /// Hours until it ends; 0 for never.
        #[arg(long, default_value_t = 24)]
        hours: i64,
        #[command(flatten)]
        form: OutputFlag,
    },
    /// List tokens, without their secrets.
    List {
        #[command(flatten)]
        form: OutputFlag,
    },
    /// Delete a token by its id.
    Delete {
        /// The id, as `token list` shows it.
        id: String,
        #[command(flatten)]
        form: OutputFlag,
    },
}

fn word(letters: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..letters)
        .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
        .collect()
}

fn secret_of(
    id: &str,
    secret: &str,
    expiration: Option<String>,
    description: &str,
) -> Result<Secret> {
    let mut data = json!({
        "token-id": id,
        "token-secret": secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "description": description,
    });
    if let Some(at) = expiration {
        data["expiration"] = at.into();
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": secret_name(id), "namespace": "kube-system" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }))?)
}

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

fn node_token_path(dir: &Path) -> PathBuf {
    dir.join("node-token")
}

fn kept_token(dir: &Path) -> Option<JoinToken> {
    JoinToken::parse(&fs::read_to_string(node_token_path(dir)).ok()?)
}

/// Marks the tokens that servers made for the nodes of their machines.
const NODE_TOKEN_LABEL: &str = "tiphys.io/node-token";
/// A server's token for its machine's nodes lives so long: a machine that starts with it may take
/// a while to reach the server, and a copy of the file is soon worth nothing.
const NODE_TOKEN_SECONDS: i64 = 24 * 3_600;
/// A new one is made when less than this is left.
const NODE_TOKEN_RENEWED_AT: i64 = NODE_TOKEN_SECONDS / 2;
/// Between looks at it.
const NODE_TOKEN_LOOK: Duration = Duration::from_secs(600);

fn text_of(secret: &Secret, key: &str) -> String {
    let value = secret.data.as_ref().and_then(|d| d.get(key));
    value
        .map(|v| String::from_utf8_lossy(&v.0).into_owned())
        .unwrap_or_default()
}

/// Seconds for which a token's Secret is still good; `None` for ever.
fn seconds_left(secret: &Secret, now: i64) -> Option<i64> {
    let expires = text_of(secret, "expiration");
    (!expires.is_empty()).then(|| api::time::parse_seconds(&expires).map_or(0, |at| at - now))
}

/// Whether the kept token can go on: its Secret is there, is its own, and ends, but not soon.
fn goes_on(token: &JoinToken, secret: Option<&Secret>, now: i64) -> bool {
    secret.is_some_and(|s| {
        let own = format!("{}.{}", text_of(s, "token-id"), text_of(s, "token-secret"));
        own == token.bearer && seconds_left(s, now).is_some_and(|left| left > NODE_TOKEN_RENEWED_AT)
    })
}

fn id_of(token: &JoinToken) -> &str {
    token.bearer.split('.').next().unwrap_or_default()
}

fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Makes sure that the token in the data directory's `node-token` is there and is good for a
/// while; what was there before ends by itself.
pub async fn keep_node_token(client: &Client, dir: &Path, ca_pem: &str) -> Result<()> {
    let (hash, now) = (pki::ca_hash(ca_pem)?, jiff::Timestamp::now().as_second());
    let all = secrets(client);
    let kept = kept_token(dir).filter(|t| t.ca_hash == hash);
    let held = match &kept {
        Some(token) => all.get_opt(&secret_name(id_of(token))).await?,
        None => None,
    };
    if kept
        .as_ref()
        .is_some_and(|t| goes_on(t, held.as_ref(), now))
    {
        return Ok(());
    }
    let (id, secret) = (word(6), word(16));
    let expires = api::time::format_seconds(now + NODE_TOKEN_SECONDS);
    let about = "nodes of the machine that the server runs on";
    let mut object = secret_of(&id, &secret, Some(expires), about)?;
    object.metadata.labels = Some([(NODE_TOKEN_LABEL.into(), "true".into())].into());
    all.create(&PostParams::default(), &object)
        .await
        .context("making the node token")?;
    pki::write_private(
        &node_token_path(dir),
        JoinToken::format(&hash, &id, &secret).as_bytes(),
    )?;
    // One of a former version, which has no end.
    let endless =
        held.filter(|s| seconds_left(s, now).is_none() && text_of(s, "description") == about);
    if let Some(old) = endless {
        delete(&all, &old).await?;
    }
    remove_ended(&all, now).await
}

async fn delete(all: &Api<Secret>, secret: &Secret) -> Result<()> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: secret.metadata.uid.clone(),
            resource_version: secret.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    match all.delete(name, &params).await {
        Ok(_) => Ok(()),
        // Another server was faster.
        Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => Ok(()),
        Err(e) => Err(e).with_context(|| format!("removing {name}")),
    }
}

/// Removes servers' tokens that have ended.
async fn remove_ended(all: &Api<Secret>, now: i64) -> Result<()> {
    let ours = ListParams::default().labels(&format!("{NODE_TOKEN_LABEL}=true"));
    for secret in all.list(&ours).await?.items {
        if seconds_left(&secret, now).is_some_and(|left| left < 0) {
            delete(all, &secret).await?;
        }
    }
    Ok(())
}

/// Exchanges the node token before it ends, until `stop`.
pub async fn follow_node_token(
    client: Client,
    dir: PathBuf,
    ca_pem: String,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(NODE_TOKEN_LOOK) => {}
        }
        if let Err(e) = keep_node_token(&client, &dir, &ca_pem).await {
            tracing::warn!("exchanging the node token, tried again later: {e:#}");
        }
    }
}

fn ca_of(path: &Path) -> Result<String> {
    use base64::Engine;
    let file = client::kubeconfig(path)?;
    let cluster = file.clusters.into_iter().next().and_then(|c| c.cluster);
    let data = cluster.and_then(|c| c.certificate_authority_data);
    let data = data.context("the kubeconfig holds no CA")?;
    Ok(String::from_utf8(
        base64::engine::general_purpose::STANDARD.decode(data)?,
    )?)
}

/// A token without its secret.
#[derive(Serialize)]
struct TokenSummary {
    id: String,
    /// None for one that never ends.
    expires: Option<String>,
    description: String,
}

impl TokenSummary {
    fn of(secret: &Secret) -> Self {
        Self {
            id: text_of(secret, "token-id"),
            expires: Some(text_of(secret, "expiration")).filter(|e| !e.is_empty()),
            description: text_of(secret, "description"),
        }
    }
}

fn lines(found: &[TokenSummary]) -> Vec<String> {
    let columns = ["ID", "EXPIRES", "DESCRIPTION"].map(Column::left);
    let cells = |f: &TokenSummary| {
        let expires = f.expires.as_deref().unwrap_or("never");
        vec![
            f.id.as_str().into(),
            expires.into(),
            f.description.as_str().into(),
        ]
    };
    let rows: Vec<_> = found.iter().map(cells).collect();
    table::lines(&columns, &rows, None, standard_output().0)
}

pub async fn run(args: TokenArgs) -> Result<()> {
    let client = client::from_kubeconfig(&args.kubeconfig, "tiphys-token").await?;
    match args.action {
        Action::Create { hours, form } => {
            let (id, secret) = (word(6), word(16));
            let expiration = (hours > 0).then(|| {
                api::time::format_seconds(jiff::Timestamp::now().as_second() + hours * 3600)
            });
            let expires = expiration.clone();
            let object = secret_of(&id, &secret, expiration, "made by tiphys token create")?;
            secrets(&client)
                .create(&PostParams::default(), &object)
                .await?;
            let hash = pki::ca_hash(&ca_of(&args.kubeconfig)?)?;
            let token = JoinToken::format(&hash, &id, &secret);
            let value = json!({ "id": id, "token": token, "expires": expires });
            form.say(&value, || vec![token])?;
        }
        Action::List { form } => {
            let only = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
            let found = secrets(&client).list(&only).await?.items;
            let found: Vec<TokenSummary> = found.iter().map(TokenSummary::of).collect();
            form.say(&found, || lines(&found))?;
        }
        Action::Delete { id, form } => {
            secrets(&client)
                .delete(&secret_name(&id), &DeleteParams::default())
                .await?;
            form.say(&json!({ "id": id }), || vec![format!("deleted {id}")])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn held(id: &str, expiration: Option<i64>) -> Secret {
        let expires = expiration.map(api::time::format_seconds);
        let mut secret = secret_of(id, "0123456789abcdef", expires, "x").expect("secret");
        let texts = secret.string_data.take().unwrap_or_default();
        let data = texts.into_iter();
        secret.data = Some(
            data.map(|(k, v)| (k, k8s_openapi::ByteString(v.into_bytes())))
                .collect(),
        );
        secret
    }

    #[test]
    fn a_node_token_ends_and_is_exchanged_before() {
        let token = JoinToken::parse(&JoinToken::format(
            &"a".repeat(64),
            "abcdef",
            "0123456789abcdef",
        ))
        .expect("token");
        let good = |expires: Option<i64>| goes_on(&token, Some(&held("abcdef", expires)), NOW);
        assert!(good(Some(NOW + NODE_TOKEN_SECONDS)));
        assert!(!good(Some(NOW + NODE_TOKEN_RENEWED_AT)));
        assert!(!good(Some(NOW - 1)));
        // One of a former version; one that somebody deleted; one of another server.
        assert!(!good(None));
        assert!(!goes_on(&token, None, NOW));
        let other = held("fedcba", Some(NOW + NODE_TOKEN_SECONDS));
        assert!(!goes_on(&token, Some(&other), NOW));
    }
}
