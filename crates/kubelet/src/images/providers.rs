//! Credentials for images beside those of pods' secrets: what the node has in a docker config, which is for
//! all of its pods, and what its programs give ([`super::provider`]), which are run for that. Answers are
//! kept as long as they hold, in memory alone.

use super::keyring;
use super::provider::{Account, Answer, CacheKey, Provider, TokenRules};
use super::pulled::{AccountProof, Proof};
use crate::metrics::COUNTS;
use crate::pod::spec;
use crate::volumes::tokens::Tokens;
use clock::Instant;
use host::runtime::Credential;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The docker config of the node below the kubelet's folder; upstream's place.
const NODE_CONFIG: &str = "config.json";
/// The longest that a program may take; upstream's value. It may have to ask a cloud several times.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a token is good that a program is given; the API's own default.
const TOKEN_SECONDS: i64 = 3600;

/// A credential, and whose it is where it is not the node's.
pub type Found = (Option<Proof>, Credential);

/// An answer that holds until then.
type Kept = (Instant, Vec<(String, Credential)>);
/// One question at a time about the same thing.
type Turns = BTreeMap<CacheKey, Weak<tokio::sync::Mutex<()>>>;

/// Where credentials are from that are not pods' own.
pub struct Providers {
    node_config: PathBuf,
    all: Vec<Provider>,
    client: kube::Client,
    tokens: Arc<Tokens>,
    kept: Mutex<BTreeMap<CacheKey, Kept>>,
    turns: Mutex<Turns>,
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Providers").finish_non_exhaustive()
    }
}

impl Providers {
    /// Nothing was asked yet. `root` is the kubelet's folder.
    #[must_use]
    pub fn new(root: &Path, all: Vec<Provider>, client: kube::Client, tokens: Arc<Tokens>) -> Self {
        Self {
            node_config: root.join(NODE_CONFIG),
            all,
            client,
            tokens,
            kept: Mutex::default(),
            turns: Mutex::default(),
        }
    }

    /// Credentials for an image: the node's, then those of its programs, each time those that fit best
    /// first. What one of them fails with does not keep the others.
    pub async fn credentials(&self, pod: &Pod, image: &str) -> Vec<Found> {
        let own = self.of_node().into_iter();
        let mut out = keyring::matching(image, own.map(|(p, c)| (p, (None, c))).collect());
        let mut more = Vec::new();
        for provider in self.all.iter().filter(|p| p.is_for(image)) {
            match self.of_provider(provider, pod, image).await {
                Ok(found) => more.extend(found),
                Err(error) => tracing::warn!(
                    provider = provider.name,
                    image,
                    pod = spec::full_name(pod),
                    error,
                    "a credential provider gives none"
                ),
            }
        }
        out.extend(keyring::matching(image, more));
        out
    }

    /// What the node's docker config says; it may be written at any time.
    fn of_node(&self) -> Vec<(String, Credential)> {
        let read = match std::fs::read(&self.node_config) {
            Ok(bytes) => keyring::of_config(&bytes),
            Err(e) if crate::folder::is_absent(&e) => return Vec::new(),
            Err(e) => Err(e.to_string()),
        };
        read.unwrap_or_else(|error| {
            let file = self.node_config.display();
            tracing::warn!(%file, error, "the node's docker config cannot be used");
            Vec::new()
        })
    }

    async fn of_provider(
        &self,
        provider: &Provider,
        pod: &Pod,
        image: &str,
    ) -> Result<Vec<(String, Found)>, String> {
        let account = match &provider.tokens {
            None => None,
            Some(rules) => match (self.account(rules, pod).await?, rules.required) {
                (Some(account), _) => Some(account),
                (None, false) if account_of(pod).is_none() => None,
                // It wants to be asked for others.
                (None, _) => return Ok(Vec::new()),
            },
        };
        let proof = account.as_ref().map(|a| {
            Proof::Account(AccountProof {
                uid: a.uid.clone(),
                namespace: a.namespace.clone(),
                name: a.name.clone(),
            })
        });
        let name = keyring::whole(image);
        let answer = self.answer(provider, &name, account.as_ref()).await?;
        let found = answer.into_iter();
        Ok(found
            .map(|(place, c)| (place, (proof.clone(), c)))
            .collect())
    }

    /// The pod's service account with a token; none where it has none, or the program is not for it.
    async fn account(&self, rules: &TokenRules, pod: &Pod) -> Result<Option<Account>, String> {
        let Some(name) = account_of(pod) else {
            return Ok(None);
        };
        let namespace = spec::namespace(pod);
        let api: kube::Api<ServiceAccount> = kube::Api::namespaced(self.client.clone(), namespace);
        let found = api.get(name).await;
        let found = found.map_err(|e| format!("failed to get service account {name}: {e}"))?;
        let Some(annotations) = rules.annotations_of(&found) else {
            return Ok(None);
        };
        let audience = Some(rules.audience.as_str());
        let token = self.tokens.get(pod, audience, TOKEN_SECONDS).await;
        let token = token.map_err(|e| format!("failed to get service account token: {e}"))?;
        Ok(Some(Account {
            uid: found.metadata.uid.unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            annotations,
            token,
        }))
    }

    /// What a program says of an image, now or a while ago.
    async fn answer(
        &self,
        provider: &Provider,
        image: &str,
        account: Option<&Account>,
    ) -> Result<Vec<(String, Credential)>, String> {
        if let Some(kept) = self.kept(provider, image, account) {
            return Ok(kept);
        }
        let turn = self.turn(provider.key(image, account));
        let alone = turn.lock().await;
        // Somebody else may have asked meanwhile.
        if let Some(kept) = self.kept(provider, image, account) {
            return Ok(kept);
        }
        let began = Instant::now();
        let said = run(provider, &provider.question(image, account)).await;
        COUNTS.provider_ran(&provider.name, began.elapsed(), said.is_ok());
        let answer = provider.answer(&said?, image, account)?;
        self.keep(provider.key(answer.about(), account), &answer);
        drop(alone);
        Ok(answer.credentials)
    }

    fn kept(
        &self,
        provider: &Provider,
        image: &str,
        account: Option<&Account>,
    ) -> Option<Vec<(String, Credential)>> {
        let now = Instant::now();
        let mut kept = self.kept.lock();
        kept.retain(|_, (until, _)| *until > now);
        let keys = provider.keys(image, account);
        let found = keys.iter().find_map(|key| kept.get(key));
        found.map(|(_, credentials)| credentials.clone())
    }

    fn keep(&self, key: CacheKey, answer: &Answer) {
        let until = answer.lasts.and_then(|l| Instant::now().checked_add(l));
        if let Some(until) = until {
            let kept = (until, answer.credentials.clone());
            self.kept.lock().insert(key, kept);
        }
    }

    fn turn(&self, key: CacheKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| turn.strong_count() > 0);
        let known = turns.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::new(tokio::sync::Mutex::new(()));
            turns.insert(key, Arc::downgrade(&new));
            new
        })
    }
}

/// The pod's service account. Pods from files have none.
fn account_of(pod: &Pod) -> Option<&str> {
    let name = spec::of(pod).service_account_name.as_deref();
    name.filter(|n| !n.is_empty())
}

/// Runs a program: the question is its input, the answer its output.
async fn run(provider: &Provider, question: &Value) -> Result<Vec<u8>, String> {
    let name = &provider.name;
    let mut command = Command::new(&provider.program);
    command
        .args(&provider.args)
        .envs(provider.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let work = async {
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            match input.write_all(question.to_string().as_bytes()).await {
                // It need not read what it does not want to know.
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
        }
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(PATIENCE, work).await;
    let done = done.map_err(|_| format!("{name} has not ended after {PATIENCE:?}"))?;
    let done = done.map_err(|e| format!("{name}: {e}"))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{name}: {}: {}", done.status, said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::testing::Api;
    use clock::Clock;
    use serde_json::json;

    fn pod() -> Pod {
        let pod = json!({ "metadata": { "name": "p", "namespace": "n", "uid": "u" } });
        serde_json::from_value(pod).unwrap()
    }

    fn providers(root: &Path, all: Vec<Provider>) -> Providers {
        let client = Api::default().client();
        let clock = Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
        let tokens = Arc::new(Tokens::new(client.clone(), clock));
        Providers::new(root, all, client, tokens)
    }

    /// A program that says this, and counts how often it was asked.
    fn shell(root: &Path, about: &str, lasts: &str) -> Provider {
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let said = json!({ "apiVersion": version, "kind": "CredentialProviderResponse",
            "cacheKeyType": about, "cacheDuration": lasts,
            "auth": { "reg.io": { "username": "cloud", "password": "p" } } });
        let asked = root.join("asked");
        let line = format!("cat >> {0}; echo >> {0}; echo '{said}'", asked.display());
        Provider {
            name: "cloud".into(),
            program: "/bin/sh".into(),
            version: version.into(),
            images: vec!["reg.io".into()],
            args: vec!["-c".into(), line],
            ..Provider::default()
        }
    }

    fn users(found: &[Found]) -> Vec<&str> {
        found.iter().map(|(_, c)| c.username.as_str()).collect()
    }

    #[tokio::test]
    async fn a_program_is_asked_as_often_as_its_answers_say() {
        for (about, lasts, want) in [
            ("Registry", "1h", vec!["reg.io/a"]),
            ("Image", "1h", vec!["reg.io/a", "reg.io/b"]),
            ("Global", "0s", vec!["reg.io/a", "reg.io/b", "reg.io/a"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let all = providers(dir.path(), vec![shell(dir.path(), about, lasts)]);
            for image in ["reg.io/a:1", "reg.io/b", "reg.io/a:2"] {
                let found = all.credentials(&pod(), image).await;
                assert_eq!(users(&found), ["cloud"], "{about}");
                assert_eq!(found[0].0, None);
            }
            assert!(all.credentials(&pod(), "other.io/a").await.is_empty());
            let asked = std::fs::read_to_string(dir.path().join("asked")).unwrap();
            let images: Vec<String> = asked
                .lines()
                .map(|l| serde_json::from_str::<Value>(l).unwrap())
                .map(|v| v["image"].as_str().unwrap().to_owned())
                .collect();
            assert_eq!(images, want, "{about}");
        }
    }

    #[tokio::test]
    async fn the_nodes_own_credentials_are_for_all_of_its_pods() {
        let dir = tempfile::tempdir().unwrap();
        let mut fails = shell(dir.path(), "Image", "1h");
        fails.args = vec!["-c".into(), "echo no >&2; exit 3".into()];
        let all = providers(dir.path(), vec![fails]);
        assert!(all.credentials(&pod(), "reg.io/a").await.is_empty());
        let config = json!({ "auths": { "reg.io": { "username": "node", "password": "p" } },
            "credsStore": "none" });
        let file = dir.path().join(NODE_CONFIG);
        std::fs::write(&file, config.to_string()).unwrap();
        let found = all.credentials(&pod(), "reg.io/a").await;
        assert_eq!((users(&found), &found[0].0), (vec!["node"], &None));
        std::fs::write(&file, "{").unwrap();
        assert!(all.credentials(&pod(), "reg.io/a").await.is_empty());
    }

    #[tokio::test]
    async fn a_program_that_needs_an_account_is_not_asked_without() {
        let dir = tempfile::tempdir().unwrap();
        let with = |required| {
            let mut provider = shell(dir.path(), "Image", "0s");
            provider.tokens = Some(TokenRules {
                required,
                ..TokenRules::default()
            });
            providers(dir.path(), vec![provider])
        };
        let found = with(true).credentials(&pod(), "reg.io/a").await;
        assert!(found.is_empty());
        let found = with(false).credentials(&pod(), "reg.io/a").await;
        assert_eq!(users(&found), ["cloud"]);
    }
}
