//! Tokens with which nodes join: bootstrap token Secrets of kube-system, handed out together
//! with the hash of the cluster's CA.

use std::fs;
use std::path::{Path, PathBuf};

use crate::say::say;
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Api, Client};
use rand::RngExt;
use serde_json::json;
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
    },
    /// List tokens, without their secrets.
    List,
    /// Delete a token by its id.
    Delete { id: String },
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
        "metadata": { "name": format!("bootstrap-token-{id}"), "namespace": "kube-system" },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": data,
    }))?)
}

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), "kube-system")
}

/// A new bootstrap token, `<id>.<secret>`.
pub fn new_bearer() -> String {
    format!("{}.{}", word(6), word(16))
}

fn node_token_path(dir: &Path) -> PathBuf {
    dir.join("node-token")
}

fn kept_token(dir: &Path) -> Option<JoinToken> {
    JoinToken::parse(&fs::read_to_string(node_token_path(dir)).ok()?)
}

/// The bootstrap token in the data directory's `node-token`, if there is one.
pub fn kept_bearer(dir: &Path) -> Option<String> {
    Some(kept_token(dir)?.bearer)
}

/// Writes the data directory's `node-token`.
pub fn write_node_token(dir: &Path, ca_pem: &str, bearer: &str) -> Result<()> {
    let (id, secret) = bearer.split_once('.').context("a token has two parts")?;
    let text = JoinToken::format(&pki::ca_hash(ca_pem)?, id, secret);
    Ok(pki::write_private(&node_token_path(dir), text.as_bytes())?)
}

/// Makes sure that the token in the data directory's `node-token` is there and is good.
pub async fn keep_node_token(client: &Client, dir: &Path, ca_pem: &str) -> Result<()> {
    let hash = pki::ca_hash(ca_pem)?;
    let kept = kept_token(dir).filter(|t| t.ca_hash == hash);
    let bearer = kept.map_or_else(new_bearer, |t| t.bearer);
    let (id, secret) = bearer.split_once('.').context("a token has two parts")?;
    let object = secret_of(
        id,
        secret,
        None,
        "nodes of the machine that the server runs on",
    )?;
    match secrets(client)
        .create(&PostParams::default(), &object)
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(s)) if s.code == 409 => {}
        Err(e) => return Err(e).context("keeping the node token"),
    }
    write_node_token(dir, ca_pem, &bearer)
}

fn ca_of(path: &Path) -> Result<String> {
    use base64::Engine;
    let file = Kubeconfig::read_from(path)?;
    let cluster = file.clusters.into_iter().next().and_then(|c| c.cluster);
    let data = cluster.and_then(|c| c.certificate_authority_data);
    let data = data.context("the kubeconfig holds no CA")?;
    Ok(String::from_utf8(
        base64::engine::general_purpose::STANDARD.decode(data)?,
    )?)
}

pub async fn run(args: TokenArgs) -> Result<()> {
    let client = client::from_kubeconfig(&args.kubeconfig, "tiphys-token").await?;
    match args.action {
        Action::Create { hours } => {
            let (id, secret) = (word(6), word(16));
            let expiration = (hours > 0).then(|| {
                api::time::format_seconds(jiff::Timestamp::now().as_second() + hours * 3600)
            });
            let object = secret_of(&id, &secret, expiration, "made by tiphys token create")?;
            secrets(&client)
                .create(&PostParams::default(), &object)
                .await?;
            let hash = pki::ca_hash(&ca_of(&args.kubeconfig)?)?;
            say!("{}", JoinToken::format(&hash, &id, &secret));
        }
        Action::List => {
            let only = ListParams::default().fields("type=bootstrap.kubernetes.io/token");
            say!("{:<8}{:<24}DESCRIPTION", "ID", "EXPIRES");
            for secret in secrets(&client).list(&only).await?.items {
                let data = secret.data.unwrap_or_default();
                let text = |key: &str| {
                    data.get(key)
                        .map(|v| String::from_utf8_lossy(&v.0).into_owned())
                        .unwrap_or_default()
                };
                let expires = Some(text("expiration")).filter(|e| !e.is_empty());
                say!(
                    "{:<8}{:<24}{}",
                    text("token-id"),
                    expires.as_deref().unwrap_or("never"),
                    text("description")
                );
            }
        }
        Action::Delete { id } => {
            secrets(&client)
                .delete(&format!("bootstrap-token-{id}"), &DeleteParams::default())
                .await?;
            say!("deleted {id}");
        }
    }
    Ok(())
}
