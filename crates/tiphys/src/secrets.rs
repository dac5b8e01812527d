//! `tiphys secrets`: the keys with which the store's Secrets are encrypted, replaced by a server that
//! runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::say::say;
use crate::show::Output;
use crate::show::progress::Work;

#[derive(Args)]
pub struct SecretsArgs {
    #[command(subcommand)]
    action: Action,
    /// Kubeconfig of an administrator.
    #[arg(
        long,
        global = true,
        env = "KUBECONFIG",
        default_value = "/var/lib/tiphys/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    /// How the answer is written.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Subcommand)]
enum Action {
    /// Make a new key, write all Secrets again with it, and drop the old one.
    RotateKey,
    /// Write all again that is not stored as --encryption-provider-config says now, such as after
    /// a change of that file.
    Rewrite,
}

pub async fn run(args: SecretsArgs) -> Result<()> {
    let (path, done) = match args.action {
        Action::RotateKey => ("/tiphys/secrets/rotate-key", "a new key writes now"),
        Action::Rewrite => ("/tiphys/secrets/rewrite", "all is stored as it is to be"),
    };
    let work = Work::begin();
    work.waits("the server writes what is stored again");
    let answer = ask(&args.kubeconfig, path).await;
    drop(work);
    let answer = answer?;
    let line = || {
        let rewritten = answer["rewritten"].as_u64().unwrap_or_default();
        let key = answer["key"].as_str().map(|key| format!(", {key}"));
        let key = key.unwrap_or_default();
        format!("{done}{key}; {rewritten} values were written again")
    };
    say!("{}", args.output.of(&answer, || vec![line()])?);
    Ok(())
}

async fn ask(kubeconfig: &Path, path: &str) -> Result<Value> {
    let config = client::kubeconfig(kubeconfig)?;
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
    // Many values take their time.
    config.read_timeout = None;
    let client = kube::Client::try_from(config)?;
    let request = http::Request::post(path).body(kube::client::Body::empty())?;
    let response = client.send(request).await.context("asking the server")?;
    let (head, body) = response.into_parts();
    let text = body.collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
    if head.status == http::StatusCode::GATEWAY_TIMEOUT {
        bail!("the server has not ended yet, and goes on; its log says how it went");
    }
    if !head.status.is_success() {
        let why = answer["message"].as_str().unwrap_or("no reason given");
        bail!("the server refused: {} {why}", head.status.as_u16());
    }
    Ok(answer)
}
