//! Who decides what users may do: flags and the file that they name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apiserver::filters::authorization::Chain;
use apiserver::filters::authorization::config::{
    AuthorizationConfiguration, AuthorizerConfiguration, ConnectionInfo, WebhookConfiguration,
};
use apiserver::filters::authz::Masters;
use apiserver::filters::files::Followed;
use clap::Args;

use crate::flags::go_duration;

/// Upstream's flags; without any of them, nodes and roles decide.
#[derive(Args, Clone, Default)]
pub struct AuthorizationFlags {
    /// File with the authorizers, in order (AuthorizationConfiguration, YAML or JSON). It is read
    /// again when it changes.
    #[arg(long)]
    authorization_config: Option<PathBuf>,
    /// Authorizers in order: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook [default: Node,RBAC].
    #[arg(long, value_delimiter = ',')]
    authorization_mode: Vec<String>,
    /// Kubeconfig that names the webhook of the mode Webhook.
    #[arg(long)]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews that it is sent [default: v1beta1].
    #[arg(long)]
    authorization_webhook_version: Option<String>,
    /// How long what it allows stays allowed, such as `5m0s` [default: 5m].
    #[arg(long, value_parser = go_duration)]
    authorization_webhook_cache_authorized_ttl: Option<i64>,
    /// How long what it does not allow stays so [default: 30s].
    #[arg(long, value_parser = go_duration)]
    authorization_webhook_cache_unauthorized_ttl: Option<i64>,
}

impl AuthorizationFlags {
    /// Sets the server's authorizers.
    pub fn apply(&self, config: &mut apiserver::Config) -> Result<()> {
        let Some(path) = &self.authorization_config else {
            return self.by_flags(config);
        };
        if self.are_old_flags_set() {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
            );
        }
        let told = || format!("--authorization-config {}", path.display());
        let first = std::fs::read(path).with_context(told)?;
        let read = AuthorizationConfiguration::read(&first).map_err(anyhow::Error::msg);
        let (read, conditions) = read.with_context(told)?;
        let chain = Chain::new(&read, conditions).map_err(anyhow::Error::msg);
        let chain = Arc::new(chain.with_context(told)?);
        config.authorizers = vec![Arc::new(Masters), chain.clone()];
        config.background.push(Arc::new(Followed {
            path: path.clone(),
            first,
            configures: chain,
        }));
        Ok(())
    }

    fn are_old_flags_set(&self) -> bool {
        !self.authorization_mode.is_empty()
            || self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some()
    }

    fn by_flags(&self, config: &mut apiserver::Config) -> Result<()> {
        let modes = match &self.authorization_mode[..] {
            [] => vec!["Node".to_owned(), "RBAC".to_owned()],
            given => given.to_vec(),
        };
        let file = self.authorization_webhook_config_file.as_deref();
        let has_webhook = modes.iter().any(|m| m == "Webhook");
        match file {
            None if has_webhook => {
                bail!("authorization-mode Webhook's authorization config file not passed")
            }
            Some(_) if !has_webhook => {
                bail!("cannot specify --authorization-webhook-config-file without mode Webhook")
            }
            _ => {}
        }
        for (i, mode) in modes.iter().enumerate() {
            if modes.iter().take(i).any(|other| other == mode) {
                bail!("authorization-mode {modes:?} has mode specified more than once");
            }
        }
        if modes.iter().any(|m| m == "AlwaysAllow") && config.settings.anonymous.enabled {
            tracing::warn!(
                "anonymous requests are not allowed with the AlwaysAllow authorizer; use another one"
            );
            config.settings.anonymous.enabled = false;
        }
        let authorizers = modes
            .iter()
            .map(|mode| match (&**mode, file) {
                ("Webhook", Some(file)) => self.webhook(file),
                _ => Ok(AuthorizerConfiguration {
                    r#type: mode.clone(),
                    name: mode.to_lowercase(),
                    webhook: None,
                }),
            })
            .collect::<Result<_>>()?;
        let configuration = AuthorizationConfiguration { authorizers };
        let conditions = configuration.check().map_err(|errors| {
            let told = apiserver::filters::files::aggregate(&errors);
            anyhow::anyhow!("--authorization-mode: {told}")
        })?;
        let chain = Chain::new(&configuration, conditions).map_err(anyhow::Error::msg)?;
        config.authorizers = vec![Arc::new(Masters), Arc::new(chain)];
        Ok(())
    }

    /// As upstream: half a minute, and no opinion when it fails.
    fn webhook(&self, file: &Path) -> Result<AuthorizerConfiguration> {
        let file = std::path::absolute(file).context("--authorization-webhook-config-file")?;
        let given = WebhookConfiguration::default();
        let (authorized, unauthorized) = (
            self.authorization_webhook_cache_authorized_ttl,
            self.authorization_webhook_cache_unauthorized_ttl,
        );
        let version = self.authorization_webhook_version.as_deref();
        let webhook = WebhookConfiguration {
            cache_authorized_requests: authorized != Some(0),
            cache_unauthorized_requests: unauthorized != Some(0),
            authorized_ttl: authorized.unwrap_or(given.authorized_ttl),
            unauthorized_ttl: unauthorized.unwrap_or(given.unauthorized_ttl),
            timeout: 30_000_000_000,
            subject_access_review_version: version.unwrap_or("v1beta1").to_owned(),
            failure_policy: "NoOpinion".into(),
            connection_info: ConnectionInfo {
                r#type: "KubeConfigFile".into(),
                kube_config_file: Some(file.display().to_string()),
            },
            ..given
        };
        Ok(AuthorizerConfiguration {
            r#type: "Webhook".into(),
            name: "default".into(),
            webhook: Some(webhook),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: AuthorizationFlags,
    }

    fn apply(args: &[&str]) -> Result<apiserver::Config> {
        let args = std::iter::once("x").chain(args.iter().copied());
        let flags = Command::try_parse_from(args)?.flags;
        let address = "127.0.0.1".parse().expect("address");
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        let mut config = apiserver::Config::new(address, 6443, clock, random);
        flags.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn modes_and_files_make_a_chain() {
        assert_eq!(apply(&[]).expect("good").authorizers.len(), 2);
        assert!(apply(&["--authorization-mode=RBAC,Node"]).is_ok());
        let allowed = apply(&["--authorization-mode=AlwaysAllow"]).expect("good");
        assert!(!allowed.settings.anonymous.enabled);
        for wrong in [
            &["--authorization-mode=Nothing"][..],
            &["--authorization-mode=ABAC"],
            &["--authorization-mode=RBAC,RBAC"],
            &["--authorization-mode=Webhook"],
            &["--authorization-webhook-config-file=/x"],
            &[
                "--authorization-mode=Webhook",
                "--authorization-webhook-config-file=/nowhere",
            ],
            &["--authorization-config=/nowhere"],
        ] {
            assert!(apply(wrong).is_err(), "{wrong:?}");
        }
        let dir = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("file");
            path.display().to_string()
        };
        let kubeconfig = write(
            "hook.yaml",
            "current-context: c\ncontexts: [{name: c, context: {cluster: x, user: ''}}]\nclusters: [{name: x, cluster: {server: 'https://127.0.0.1:1', insecure-skip-tls-verify: true}}]\n",
        );
        let hook = format!("--authorization-webhook-config-file={kubeconfig}");
        let modes = "--authorization-mode=Node,RBAC,Webhook";
        let ttl = "--authorization-webhook-cache-authorized-ttl=1m30s";
        assert!(apply(&[modes, &hook, ttl]).is_ok());
        let long = "--authorization-webhook-cache-authorized-ttl=soon";
        assert!(apply(&[modes, &hook, long]).is_err());
        let file = write(
            "authz.yaml",
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n",
        );
        let file = format!("--authorization-config={file}");
        assert_eq!(apply(&[&file]).expect("good").background.len(), 1);
        assert!(apply(&[&file, "--authorization-mode=RBAC"]).is_err());
    }
}
