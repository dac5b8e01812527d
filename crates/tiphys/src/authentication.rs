//! Whom the API server knows beside its own certificates and tokens: flags and the files that they
//! name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apiserver::filters::authn::ClientCertificates;
use apiserver::filters::authorization::config::time;
use apiserver::filters::files::Followed;
use apiserver::filters::front_proxy::{AuthorityFile, FrontProxy, Headers};
use apiserver::filters::oidc::Jwt;
use apiserver::filters::oidc::config::{
    AuthenticationConfiguration, ClaimMappings, ClaimValidationRule, Issuer, JwtAuthenticator,
    PrefixedClaimOrExpression,
};
use apiserver::filters::static_tokens::StaticTokens;
use apiserver::filters::token_webhook::{TokenWebhook, Version};
use apiserver::filters::webhook::Webhook;
use apiserver::settings::Anonymous;
use clap::Args;
use http::HeaderName;
use wire::jwks::Algorithm;
use wire::trust::Clients;

use crate::flags::{BoolFlag as _, go_duration};

/// How long a webhook's answers hold; as upstream.
const WEBHOOK_TTL: Duration = Duration::from_secs(120);

/// Upstream's flags.
#[derive(Args, Clone, Default)]
pub struct AuthenticationFlags {
    /// File with issuers of tokens (JWT) that are believed, and with the paths that are open to
    /// clients without credentials (AuthenticationConfiguration, YAML or JSON). It is read again
    /// when it changes.
    #[arg(long)]
    authentication_config: Option<PathBuf>,
    /// Whether clients without credentials are `system:anonymous` [default: true].
    #[arg(long, bare_is_true())]
    anonymous_auth: Option<bool>,
    /// The URL of an OpenID issuer whose tokens are believed.
    #[arg(long)]
    oidc_issuer_url: Option<String>,
    /// The audience that its tokens must have.
    #[arg(long)]
    oidc_client_id: Option<String>,
    /// The authorities of its certificate [default: this machine's].
    #[arg(long)]
    oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name [default: sub].
    #[arg(long)]
    oidc_username_claim: Option<String>,
    /// What stands before it; `-` for nothing [default: the issuer's URL and `#`, but nothing before
    /// an email].
    #[arg(long)]
    oidc_username_prefix: Option<String>,
    /// The claim that holds the user's groups.
    #[arg(long)]
    oidc_groups_claim: Option<String>,
    /// What stands before each of them.
    #[arg(long)]
    oidc_groups_prefix: Option<String>,
    /// How its tokens may be signed [default: RS256].
    #[arg(long, value_delimiter = ',')]
    oidc_signing_algs: Vec<Algorithm>,
    /// A claim that its tokens must have, with its value; may be given several times.
    #[arg(long, value_name = "CLAIM=VALUE")]
    oidc_required_claim: Vec<String>,
    /// The authorities of proxies that say in headers who asks. It is read again when it changes.
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such proxies, separated by commas [default: any].
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers that name the user, such as X-Remote-User.
    #[arg(long, value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers that hold his uid, such as X-Remote-Uid.
    #[arg(long, value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers that hold his groups, such as X-Remote-Group.
    #[arg(long, value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// What headers with his extra begin with, such as X-Remote-Extra-.
    #[arg(long, value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// File with tokens that are believed as they stand, a line for each: `token,user,uid` and
    /// perhaps `,"group,group"`. It is read once, and what it grants has no end.
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Kubeconfig that names a webhook which is asked about tokens that nobody else knows.
    #[arg(long)]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReviews that it is sent: v1 or v1beta1 [default: v1beta1].
    #[arg(long)]
    authentication_token_webhook_version: Option<String>,
    /// How long its answers hold, such as `2m0s` [default: 2m].
    #[arg(long, value_parser = go_duration)]
    authentication_token_webhook_cache_ttl: Option<i64>,
}

impl AuthenticationFlags {
    /// Adds what the flags say to the server's configuration, which has its tokens already.
    pub fn apply(&self, config: &mut apiserver::Config) -> Result<()> {
        self.front_proxy(config)?;
        self.tokens(config)?;
        self.issuers(config)?;
        // The last to be asked, since it gets to see every token that nobody else knows.
        self.webhook(config)
    }

    fn issuers(&self, config: &mut apiserver::Config) -> Result<()> {
        if let Some(enabled) = self.anonymous_auth {
            config.settings.anonymous.enabled = enabled;
        }
        let issuers = |config: &apiserver::Config| {
            let tokens = config.settings.tokens.as_ref();
            tokens.map(|t| t.issuer.clone()).into_iter().collect()
        };
        let Some(path) = &self.authentication_config else {
            let Some(configuration) = self.by_flags()? else {
                return Ok(());
            };
            let algorithms = match &self.oidc_signing_algs[..] {
                [] => vec![Algorithm::Rs256],
                given => given.to_vec(),
            };
            let jwt = Jwt::new(&configuration, algorithms, issuers(config));
            let jwt = Arc::new(jwt.map_err(anyhow::Error::msg)?);
            config.authenticators.push(jwt.clone());
            config.background.push(jwt);
            return Ok(());
        };
        let told = || format!("--authentication-config {}", path.display());
        if self.are_oidc_flags_set() {
            bail!("authentication-config file and oidc-* flags are mutually exclusive");
        }
        let first = std::fs::read(path).with_context(told)?;
        let configuration = AuthenticationConfiguration::read(&first).map_err(anyhow::Error::msg);
        let configuration = configuration.with_context(told)?;
        if let Some(anonymous) = &configuration.anonymous {
            if self.anonymous_auth.is_some() {
                bail!(
                    "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
                );
            }
            let conditions = anonymous.conditions.iter();
            config.settings.anonymous = Anonymous {
                enabled: anonymous.enabled,
                paths: conditions.map(|c| c.path.clone()).collect(),
            };
        }
        let all = Algorithm::ALL.to_vec();
        let jwt = Jwt::new(&configuration, all, issuers(config)).map_err(anyhow::Error::msg);
        let jwt = Arc::new(jwt.with_context(told)?);
        config.authenticators.push(jwt.clone());
        config.background.push(jwt.clone());
        config.background.push(Arc::new(Followed {
            path: path.clone(),
            first,
            configures: jwt,
        }));
        Ok(())
    }

    /// The file of the authorities whose certificates clients may show beside the cluster's.
    pub fn more_client_authorities(&self) -> Option<&Path> {
        self.requestheader_client_ca_file.as_deref()
    }

    fn front_proxy(&self, config: &mut apiserver::Config) -> Result<()> {
        let headers = self.headers()?;
        let Some(path) = self.more_client_authorities() else {
            if headers != Headers::default() || !self.requestheader_allowed_names.is_empty() {
                bail!("--requestheader-* flags need --requestheader-client-ca-file");
            }
            return Ok(());
        };
        let told = "--requestheader-client-ca-file";
        let pem = text_of(path).context(told)?.into_bytes();
        let authority = Clients::of(&pem).context(told)?;
        // A proxy's certificate is nobody's own, unless the cluster's authority has signed it.
        if let Some(own) = &config.settings.client_ca_pem {
            let own = Clients::of(own.as_bytes())?;
            for way in &mut config.authenticators {
                if way.is_of_certificates() {
                    *way = Arc::new(ClientCertificates::of(own.clone()));
                }
            }
        }
        let followed = AuthorityFile::new(path.to_owned(), pem, authority.clone());
        config.background.push(Arc::new(followed));
        let proxy = FrontProxy {
            authority,
            names: self.requestheader_allowed_names.clone(),
            headers,
        };
        config.authenticators.insert(0, Arc::new(proxy));
        Ok(())
    }

    fn headers(&self) -> Result<Headers> {
        let names = |flag: &str, all: &[String], usual: &str| -> Result<Vec<HeaderName>> {
            let known = all.iter().map(|name| {
                let name = name.trim();
                if name.is_empty() {
                    bail!("empty value in {flag:?}");
                }
                Ok(name.parse::<HeaderName>()?)
            });
            let known: Vec<HeaderName> = known.collect::<Result<_>>().context(flag.to_owned())?;
            if !known.is_empty() && !known.iter().any(|n| n.as_str() == usual) {
                tracing::warn!(
                    "--{flag} is set without specifying the standard {usual} header - API aggregation will not work"
                );
            }
            Ok(known)
        };
        let prefixes = self.requestheader_extra_headers_prefix.iter();
        let prefixes: Vec<String> = prefixes.map(|p| p.trim().to_lowercase()).collect();
        if prefixes.iter().any(String::is_empty) {
            bail!("empty value in \"requestheader-extra-headers-prefix\"");
        }
        Ok(Headers {
            users: names(
                "requestheader-username-headers",
                &self.requestheader_username_headers,
                "x-remote-user",
            )?,
            uids: names(
                "requestheader-uid-headers",
                &self.requestheader_uid_headers,
                "x-remote-uid",
            )?,
            groups: names(
                "requestheader-group-headers",
                &self.requestheader_group_headers,
                "x-remote-group",
            )?,
            extra_prefixes: prefixes,
        })
    }

    /// Tokens of a file are asked for before those that somebody has signed.
    fn tokens(&self, config: &mut apiserver::Config) -> Result<()> {
        let Some(path) = &self.token_auth_file else {
            return Ok(());
        };
        let read = text_of(path).and_then(|t| StaticTokens::read(&t).map_err(anyhow::Error::msg));
        let (tokens, warnings) = read.context("--token-auth-file")?;
        for warning in warnings {
            tracing::warn!("--token-auth-file {}: {warning}", path.display());
        }
        let ways = &mut config.authenticators;
        let last = ways.iter().rposition(|way| way.is_of_certificates());
        ways.insert(last.map_or(0, |at| at + 1), Arc::new(tokens));
        Ok(())
    }

    fn webhook(&self, config: &mut apiserver::Config) -> Result<()> {
        let Some(path) = &self.authentication_token_webhook_config_file else {
            return Ok(());
        };
        let version = match self.authentication_token_webhook_version.as_deref() {
            Some("v1") => Version::V1,
            None | Some("v1beta1") => Version::V1beta1,
            Some(other) => bail!(
                "unsupported authentication webhook version {other:?}, supported versions are \"v1\", \"v1beta1\""
            ),
        };
        let webhook = Webhook::read(path).map_err(anyhow::Error::msg);
        let webhook = webhook.context("--authentication-token-webhook-config-file")?;
        let hold = self.authentication_token_webhook_cache_ttl;
        let hold = hold.map_or(WEBHOOK_TTL, time);
        let webhook = TokenWebhook::new(webhook, version, hold);
        config.authenticators.push(Arc::new(webhook));
        Ok(())
    }

    fn are_oidc_flags_set(&self) -> bool {
        let texts = [
            &self.oidc_issuer_url,
            &self.oidc_client_id,
            &self.oidc_username_claim,
            &self.oidc_username_prefix,
            &self.oidc_groups_claim,
            &self.oidc_groups_prefix,
        ];
        texts.iter().any(|t| t.is_some())
            || self.oidc_ca_file.is_some()
            || !self.oidc_signing_algs.is_empty()
            || !self.oidc_required_claim.is_empty()
    }

    /// What the `--oidc-*` flags say, as a configuration says it.
    fn by_flags(&self) -> Result<Option<AuthenticationConfiguration>> {
        if !self.are_oidc_flags_set() {
            return Ok(None);
        }
        let (Some(url), Some(audience)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            bail!(
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
            );
        };
        let claim = self.oidc_username_claim.as_deref().unwrap_or("sub");
        let prefix = match self.oidc_username_prefix.as_deref() {
            None | Some("") if claim != "email" => format!("{url}#"),
            None | Some("" | "-") => String::new(),
            Some(prefix) => prefix.to_owned(),
        };
        let prefixed = |claim: &str, prefix: &str| PrefixedClaimOrExpression {
            claim: claim.to_owned(),
            prefix: Some(prefix.to_owned()),
            expression: String::new(),
        };
        let groups = self.oidc_groups_claim.as_deref().filter(|c| !c.is_empty());
        let groups_prefix = self.oidc_groups_prefix.as_deref().unwrap_or_default();
        let authority = self.oidc_ca_file.as_deref().map(text_of).transpose()?;
        let required = self.oidc_required_claim.iter().map(|pair| {
            let (claim, value) = pair.split_once('=').with_context(|| {
                format!("--oidc-required-claim {pair:?}: CLAIM=VALUE is wanted")
            })?;
            Ok(ClaimValidationRule {
                claim: claim.to_owned(),
                required_value: value.to_owned(),
                ..ClaimValidationRule::default()
            })
        });
        let one = JwtAuthenticator {
            issuer: Issuer {
                url: url.clone(),
                certificate_authority: authority.unwrap_or_default(),
                audiences: vec![audience.clone()],
                ..Issuer::default()
            },
            claim_validation_rules: required.collect::<Result<_>>()?,
            claim_mappings: ClaimMappings {
                username: prefixed(claim, &prefix),
                groups: groups.map_or_else(Default::default, |g| prefixed(g, groups_prefix)),
                ..ClaimMappings::default()
            },
            ..JwtAuthenticator::default()
        };
        Ok(Some(AuthenticationConfiguration {
            jwt: vec![one],
            anonymous: None,
        }))
    }
}

fn text_of(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: AuthenticationFlags,
    }

    fn flags(args: &[&str]) -> Result<AuthenticationFlags> {
        let args = std::iter::once("x").chain(args.iter().copied());
        Ok(Command::try_parse_from(args)?.flags)
    }

    fn read(args: &[&str]) -> Result<JwtAuthenticator> {
        let read = flags(args)?.by_flags()?;
        read.and_then(|r| r.jwt.into_iter().next())
            .context("no issuer")
    }

    fn config() -> apiserver::Config {
        let address = "127.0.0.1".parse().expect("address");
        let (clock, random) = (clock::Clock::system(), clock::Random::system());
        apiserver::Config::new(address, 6443, clock, random)
    }

    const URL: &str = "--oidc-issuer-url=https://i.example";
    const ID: &str = "--oidc-client-id=me";

    #[test]
    fn old_flags_mean_a_configuration() {
        let one = read(&[URL, ID]).expect("good");
        assert_eq!(one.issuer.audiences, ["me"]);
        let username = &one.claim_mappings.username;
        assert_eq!(username.claim, "sub");
        assert_eq!(username.prefix.as_deref(), Some("https://i.example#"));
        let prefix = |args: &[&str]| {
            let args = [&[URL, ID], args].concat();
            let one = read(&args).expect("good");
            one.claim_mappings.username.prefix.unwrap_or_default()
        };
        assert_eq!(prefix(&["--oidc-username-claim=email"]), "");
        assert_eq!(prefix(&["--oidc-username-prefix=-"]), "");
        assert_eq!(prefix(&["--oidc-username-prefix=p:"]), "p:");
        let one = read(&[
            URL,
            ID,
            "--oidc-groups-claim=g",
            "--oidc-groups-prefix=x:",
            "--oidc-required-claim=a=b=c",
            "--oidc-required-claim=d=e,f",
        ]);
        let one = one.expect("good");
        assert_eq!(one.claim_mappings.groups.prefix.as_deref(), Some("x:"));
        let required = one.claim_validation_rules.iter();
        let required: Vec<(&str, &str)> =
            required.map(|r| (&*r.claim, &*r.required_value)).collect();
        assert_eq!(required, [("a", "b=c"), ("d", "e,f")]);
        assert!(read(&[URL]).is_err());
        assert!(read(&[URL, ID, "--oidc-required-claim=a"]).is_err());
        assert!(flags(&["--oidc-signing-algs=HS256"]).is_err());
        assert!(flags(&["--oidc-signing-algs=RS256,ES384"]).is_ok());
    }

    #[test]
    fn proxies_are_named_with_their_authority() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("ca.crt");
        let ca = wire::pki::Ca::generate("proxies", 1_800_000_000).expect("ca");
        std::fs::write(&path, &ca.pair.cert_pem).expect("file");
        let file = format!("--requestheader-client-ca-file={}", path.display());
        let user = "--requestheader-username-headers=X-Remote-User,X-Other";
        let mut taken = config();
        flags(&[&file, user])
            .and_then(|f| f.apply(&mut taken))
            .expect("good");
        assert_eq!(taken.authenticators.len(), 2);
        // Who follows the file.
        assert_eq!(taken.background.len(), 1);
        for wrong in [
            &[user][..],
            &["--requestheader-client-ca-file=/nowhere"],
            &[&file, "--requestheader-username-headers= "],
            &[&file, "--requestheader-extra-headers-prefix= "],
        ] {
            let done = flags(wrong).and_then(|f| f.apply(&mut config()));
            assert!(done.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_tokens_is_read_at_the_start() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("tokens.csv");
        let file = format!("--token-auth-file={}", path.display());
        let apply = |text: &str| {
            std::fs::write(&path, text).expect("file");
            let mut taken = config();
            flags(&[&file]).and_then(|f| f.apply(&mut taken))?;
            anyhow::Ok(taken.authenticators.len())
        };
        assert_eq!(apply("secret,jane,7\n").expect("good"), 2);
        let refused = apply("secret,jane\n").expect_err("two columns");
        assert!(format!("{refused:#}").starts_with("--token-auth-file: "));
        let missing = flags(&["--token-auth-file=/nowhere"]).and_then(|f| f.apply(&mut config()));
        assert!(missing.is_err());
    }

    #[test]
    fn a_file_and_flags_that_say_the_same_are_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("a.yaml");
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n";
        std::fs::write(&path, text).expect("file");
        let file = format!("--authentication-config={}", path.display());
        let mut taken = config();
        flags(&[&file])
            .and_then(|f| f.apply(&mut taken))
            .expect("good");
        assert_eq!(taken.settings.anonymous.paths, ["/livez"]);
        assert_eq!(taken.background.len(), 2);
        for args in [&[&*file, URL][..], &[&file, "--anonymous-auth=false"]] {
            let done = flags(args).and_then(|f| f.apply(&mut config()));
            assert!(done.is_err(), "{args:?}");
        }
        std::fs::write(&path, text.replace("true", "false")).expect("file");
        assert!(
            flags(&[&file])
                .and_then(|f| f.apply(&mut config()))
                .is_err()
        );
        assert!(
            flags(&["--authentication-config=/nowhere"])
                .and_then(|f| f.apply(&mut config()))
                .is_err()
        );
        let mut taken = config();
        flags(&["--anonymous-auth=false"])
            .and_then(|f| f.apply(&mut taken))
            .expect("good");
        assert!(!taken.settings.anonymous.enabled);
    }
}
