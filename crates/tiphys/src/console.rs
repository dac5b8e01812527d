//! `tiphys console`: the address of the console, with a token that lives for a short while. The
//! token stands in the address's fragment, which a browser keeps to itself: no server, log or
//! referrer sees it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::PostParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use serde_json::json;

use crate::say::complain;
use crate::show::OutputFlag;

/// Where accounts for the console are made: only those who run the cluster may make tokens there.
const NAMESPACE: &str = "kube-system";

/// How long a browser has to read the file with the address, before it is removed.
const OPENED: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct ConsoleArgs {
    /// Kubeconfig of who looks. One with a token signs in with that; for one with a client
    /// certificate, which a page cannot show, a service account of `kube-system` is used.
    #[arg(
        long,
        env = "KUBECONFIG",
        default_value = "/var/lib/tiphys/admin.kubeconfig"
    )]
    kubeconfig: PathBuf,
    /// ClusterRole of that account, such as `view`. It is made and bound with the rights of the
    /// kubeconfig's user, who cannot give more than he has.
    #[arg(long, default_value = "cluster-admin")]
    role: String,
    /// Use this account instead, NAMESPACE/NAME, with the rights that it has.
    #[arg(long, conflicts_with = "role")]
    service_account: Option<String>,
    /// Minutes for which the token is good.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(i64).range(10..=1440))]
    minutes: i64,
    /// Open it in this machine's browser.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    form: OutputFlag,
}

pub async fn run(args: ConsoleArgs) -> Result<()> {
    let file = client::kubeconfig(&args.kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let token = match (own_token(&config)?, &args.service_account) {
        (Some(token), None) => token,
        _ => account_token(&args).await?,
    };
    let address = address(&config.cluster_url.to_string(), &token);
    let value = json!({ "address": address });
    args.form.say(&value, || vec![address.clone()])?;
    complain!(
        "The browser has to trust the cluster's CA (certificate-authority-data of the kubeconfig), \
         or asks before it opens the page. Who has this address is signed in: keep it to yourself."
    );
    if args.open {
        open(&address).await?;
    }
    Ok(())
}

fn address(server: &str, token: &str) -> String {
    format!("{}/console/#token={token}", server.trim_end_matches('/'))
}

/// The token with which the kubeconfig's user signs in anyhow.
fn own_token(config: &Config) -> Result<Option<String>> {
    use secrecy::ExposeSecret;
    let user = &config.auth_info;
    if let Some(token) = &user.token {
        return Ok(Some(token.expose_secret().to_owned()));
    }
    let Some(path) = &user.token_file else {
        return Ok(None);
    };
    let token = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(Some(token.trim().to_owned()))
}

async fn account_token(args: &ConsoleArgs) -> Result<String> {
    let client = client::from_kubeconfig(&args.kubeconfig, "tiphys-console").await?;
    let (namespace, name) = match &args.service_account {
        Some(named) => named
            .split_once('/')
            .context("--service-account is NAMESPACE/NAME")?,
        None => {
            let name = account_of(&args.role);
            make_account(&client, &name, &args.role).await?;
            return request(&client, NAMESPACE, &name, args.minutes).await;
        }
    };
    request(&client, namespace, name, args.minutes).await
}

/// One account for each role, so that no token gets the rights of another's.
fn account_of(role: &str) -> String {
    format!("console-{}", role.replace(':', "-"))
}

async fn make_account(client: &Client, name: &str, role: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let account = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    made(accounts.create(&PostParams::default(), &account).await)
        .with_context(|| format!("making the account {NAMESPACE}/{name}"))?;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let binding = serde_json::from_value(json!({
        "metadata": { "name": format!("tiphys:{name}") },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": name }],
    }))?;
    made(bindings.create(&PostParams::default(), &binding).await)
        .with_context(|| format!("binding {role} to {NAMESPACE}/{name}"))
}

/// What is there already is as good as made.
fn made<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(s)) if s.code == 409 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

async fn request(client: &Client, namespace: &str, name: &str, minutes: i64) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let spec = TokenRequestSpec {
        expiration_seconds: Some(minutes * 60),
        ..TokenRequestSpec::default()
    };
    let wanted = TokenRequest {
        spec: Some(spec),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &wanted)
        .await
        .with_context(|| format!("asking for a token of {namespace}/{name}"))?;
    let token = answer.status.and_then(|s| s.token);
    token.context("the answer holds no token")
}

/// Opens the address by way of a file that only this user reads: command lines are for all to see.
async fn open(address: &str) -> Result<()> {
    ensure!(
        address
            .chars()
            .all(|c| c.is_ascii_graphic() && !"\"<>&".contains(c)),
        "the address cannot be written into a page"
    );
    let dir = std::env::temp_dir().join(format!("tiphys-console-{}", uuid::Uuid::new_v4()));
    private_dir(&dir)?;
    let page = dir.join("console.html");
    let text =
        format!("<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={address}\">\n");
    let opened = wire::pki::write_private(&page, text.as_bytes())
        .map_err(anyhow::Error::from)
        .and_then(|()| start_browser(&page));
    if opened.is_ok() {
        tokio::time::sleep(OPENED).await;
    }
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    opened
}

fn private_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    made.with_context(|| format!("making {}", dir.display()))
}

fn start_browser(page: &Path) -> Result<()> {
    let status = Command::new("xdg-open").arg(page).status();
    if !status.context("starting xdg-open")?.success() {
        bail!("xdg-open found no browser: open the address above by hand");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_in_the_fragment_alone() {
        let url: http::Uri = "https://127.0.0.1:6443/".parse().expect("address");
        let full = address(&url.to_string(), "a.b-c.d_e");
        assert_eq!(full, "https://127.0.0.1:6443/console/#token=a.b-c.d_e");
    }

    #[test]
    fn each_role_has_an_account_of_its_own_with_a_name_that_is_allowed() {
        assert_eq!(account_of("view"), "console-view");
        assert_eq!(
            account_of("system:node-reader"),
            "console-system-node-reader"
        );
    }
}
