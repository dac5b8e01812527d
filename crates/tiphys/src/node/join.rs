//! How a node gets its credentials: it trusts the server by the hash in its token, asks for
//! certificates with that token, and keeps them. Keys never leave the node.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use wire::join::JoinToken;
use wire::pki::{self, Pair, Subject};

/// What a node knows and may do after joining.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `https://host:port`.
    pub server: String,
    pub ca_pem: String,
    /// As `system:node:NAME`.
    pub node: Pair,
    /// As `system:kube-proxy`: for the service proxy, DNS and routes.
    pub proxy: Pair,
    /// The kubelet's own port.
    pub serving: Pair,
}

/// With less than this left a certificate is not begun with, in seconds.
const LEAST_LEFT: i64 = 60;
/// Between tries to reach a server that is not there yet.
const RETRY: Duration = Duration::from_millis(500);
/// Between tries that the server refuses.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a request waits for its approval before the log says so (again).
const APPROVAL: Duration = Duration::from_secs(60);

/// Where a node's credentials are kept.
struct Store {
    dir: PathBuf,
}

/// The text of a kept file; none where there is none. What is not text in it is neither a certificate
/// nor a key, which whoever reads it finds.
fn kept(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => {
            let bytes = read.with_context(|| format!("reading {}", path.display()))?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
    }
}

impl Store {
    /// A certificate with its key.
    ///
    /// # Errors
    /// One of them is there and cannot be read: who asked for others would be another node.
    fn read(&self, name: &str) -> Result<Option<Pair>> {
        let cert_pem = kept(&self.dir.join(format!("{name}.crt")))?;
        let key_pem = kept(&self.dir.join(format!("{name}.key")))?;
        let pair = cert_pem.zip(key_pem);
        let pair = pair.map(|(cert_pem, key_pem)| Pair { cert_pem, key_pem });
        // A crash may have come between the writing of the two.
        Ok(pair.filter(Pair::belongs_together))
    }
    fn pending(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pending"))
    }
    /// The key of a request that has no answer yet, made when there is none. It is kept, so that
    /// a node that asks again after a lost answer or a restart is known as the same.
    fn pending_key(&self, name: &str) -> Result<String> {
        let path = self.pending(name);
        if let Some(key) = kept(&path)? {
            return Ok(key);
        }
        let key = pki::new_key()?;
        pki::write_private(&path, key.as_bytes())?;
        Ok(key)
    }
    /// The request was answered, well or not.
    fn drop_pending(&self, name: &str) {
        let path = self.pending(name);
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("removing {}: {e}", path.display());
        }
    }
    fn write(&self, name: &str, pair: &Pair) -> Result<()> {
        pki::write_private(
            &self.dir.join(format!("{name}.key")),
            pair.key_pem.as_bytes(),
        )?;
        Ok(pki::write_public(
            &self.dir.join(format!("{name}.crt")),
            pair.cert_pem.as_bytes(),
        )?)
    }
}

/// Whether a kept certificate can still prove this node's identity.
fn proves(pair: &Pair, subject: &Subject, now: i64) -> bool {
    let name = pki::certificate_names_pem(&pair.cert_pem);
    name.is_ok_and(|n| n.common_name == subject.common_name)
        && pki::not_after(&pair.cert_pem).is_ok_and(|end| end > now)
}

/// Whether a kept certificate still serves: made for the same names, and not at its end. What is
/// about to end is renewed while the node runs ([`super::renew`]).
fn serves(pair: &Pair, subject: &Subject, now: i64) -> bool {
    let Ok(names) = pki::certificate_names_pem(&pair.cert_pem) else {
        return false;
    };
    let Ok(end) = pki::not_after(&pair.cert_pem) else {
        return false;
    };
    names.common_name == subject.common_name
        && subject.ips.iter().all(|ip| names.ips.contains(ip))
        && subject
            .dns_names
            .iter()
            .all(|n| names.dns_names.contains(n))
        && end - now > LEAST_LEFT
}

/// A certificate that a node needs.
pub struct CertificateNeed {
    /// File name and part of the request's name.
    pub name: &'static str,
    subject: Subject,
    signer: &'static str,
}

impl CertificateNeed {
    /// Whether the certificate proves this node's identity to the API.
    fn is_client(&self) -> bool {
        self.subject.client
    }
}

/// Join tokens: one by its text, and files that are read again whenever one is needed, since the
/// servers that write them exchange them.
#[derive(Clone, Default)]
pub struct Tokens {
    pub text: Option<String>,
    /// Of several servers each writes its own; any of them will do.
    pub files: Vec<PathBuf>,
}

impl Tokens {
    /// All that can be read now, the newest file first: that of a server that is away may have
    /// ended.
    pub fn read(&self) -> Result<Vec<JoinToken>> {
        let wrong = "this is not a join token; see `tiphys token create`";
        let mut all = Vec::new();
        if let Some(text) = &self.text {
            all.push(JoinToken::parse(text).context(wrong)?);
        }
        let mut files = Vec::new();
        for path in &self.files {
            let text = match fs::read_to_string(path) {
                // A node that has joined needs none.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    tracing::warn!("there is no join token in {}", path.display());
                    continue;
                }
                text => text.with_context(|| format!("reading {}", path.display()))?,
            };
            let token =
                JoinToken::parse(&text).with_context(|| format!("{}: {wrong}", path.display()))?;
            files.push((fs::metadata(path).and_then(|m| m.modified()).ok(), token));
        }
        files.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        all.extend(files.into_iter().map(|(_, token)| token));
        Ok(all)
    }
}

/// Which node joins, and by what right.
#[derive(Clone)]
pub struct Entry {
    pub tokens: Tokens,
    /// The node's data directory.
    pub dir: PathBuf,
    pub node: String,
    pub ips: Vec<IpAddr>,
}

impl Entry {
    fn store(&self) -> Store {
        Store {
            dir: self.dir.join("pki"),
        }
    }

    /// Joins, or takes up the credentials of an earlier run. `server` is `https://host:port`.
    pub async fn join(&self, server: &str, ca_pem: String) -> Result<Credentials> {
        let store = self.store();
        let mut pairs = Vec::new();
        for ask in &self.asks() {
            // The node's own identity, once there is one, asks for the others.
            let own: Option<&Pair> = pairs.first();
            pairs.push(obtain(&store, server, &ca_pem, &self.tokens, own, ask).await?);
        }
        let mut next = pairs.into_iter();
        let mut pair = || next.next().context("a credential is missing");
        Ok(Credentials {
            server: server.into(),
            ca_pem,
            node: pair()?,
            proxy: pair()?,
            serving: pair()?,
        })
    }

    /// In the order of [`Credentials`]: as the node, as the proxy, for the kubelet's port.
    pub fn asks(&self) -> [CertificateNeed; 3] {
        let user = format!("system:node:{}", self.node);
        let mut serving = Subject::server(&user, &[&self.node], &self.ips);
        serving.organizations = vec!["system:nodes".into()];
        [
            CertificateNeed {
                name: "kubelet",
                subject: Subject::client(&user, &["system:nodes"]),
                signer: "kubernetes.io/kube-apiserver-client-kubelet",
            },
            CertificateNeed {
                name: "proxy",
                subject: Subject::client("system:kube-proxy", &[]),
                signer: "kubernetes.io/kube-apiserver-client",
            },
            CertificateNeed {
                name: "serving",
                subject: serving,
                signer: "kubernetes.io/kubelet-serving",
            },
        ]
    }

    /// The cluster's CA: as kept, or fetched from one of the servers (`host:port`) and checked
    /// against the token's hash.
    pub async fn trusted_ca(&self, servers: Vec<String>) -> Result<String> {
        let (store, tokens) = (self.store(), self.tokens.read()?);
        let path = store.dir.join("ca.crt");
        if let Some(pem) = kept(&path)? {
            let of = |t: &JoinToken| pki::ca_hash(&pem).is_ok_and(|h| h == t.ca_hash);
            if tokens.is_empty() || tokens.iter().any(of) {
                return Ok(pem);
            }
            // Another cluster's token: nothing kept is of use any more.
            fs::remove_dir_all(&store.dir)
                .context("forgetting the credentials of another cluster")?;
        }
        let token = tokens.first().context(NO_TOKEN)?;
        let pem = fetch_ca(&servers, token).await?;
        pki::write_public(&path, pem.as_bytes())?;
        Ok(pem)
    }
}

const NO_TOKEN: &str = "this node has not joined yet: --token or --token-file is needed";

/// Time for a server to present itself before the next one is asked.
const PRESENT: Duration = Duration::from_secs(5);

/// Asks each server in turn, until one proves that it is of the token's cluster, or all that
/// answer are of another.
async fn fetch_ca(servers: &[String], token: &JoinToken) -> Result<String> {
    loop {
        let mut untrusted = Vec::new();
        for server in servers {
            let (host, port) = server.rsplit_once(':').context("a server without port")?;
            let port = port
                .parse()
                .with_context(|| format!("port of the server {server}"))?;
            // An address of IPv6 stands in brackets there.
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let fetched = wire::join::fetch_ca(host, port, &token.ca_hash);
            match tokio::time::timeout(PRESENT, fetched).await {
                Ok(Ok(pem)) => return Ok(pem),
                Ok(Err(e @ wire::join::JoinError::Connect { .. })) => {
                    tracing::info!("waiting for the server: {e}");
                }
                Ok(Err(e)) => untrusted.push(e),
                Err(_) => tracing::info!("waiting for the server: {server} does not answer"),
            }
        }
        if untrusted.len() == servers.len()
            && let Some(e) = untrusted.pop()
        {
            return Err(e.into());
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn obtain(
    store: &Store,
    server: &str,
    ca_pem: &str,
    tokens: &Tokens,
    own: Option<&Pair>,
    ask: &CertificateNeed,
) -> Result<Pair> {
    let now = jiff::Timestamp::now().as_second();
    let kept = store.read(ask.name)?;
    if let Some(pair) = kept.as_ref().filter(|p| serves(p, &ask.subject, now)) {
        return Ok(pair.clone());
    }
    // A certificate that is about to end is renewed by itself: a token does not get the name of a
    // node that exists.
    let renewing = kept
        .as_ref()
        .filter(|p| ask.is_client() && proves(p, &ask.subject, now));
    let mut pause = RETRY;
    for attempt in 0.. {
        // Read again for each try: a token may have ended meanwhile, and its file have another.
        let tokens = tokens.read()?;
        let credential = match own.or(renewing) {
            Some(pair) => client::Credential::Certificate(pair),
            None => {
                let next = attempt % tokens.len().max(1);
                client::Credential::Token(&tokens.get(next).context(NO_TOKEN)?.bearer)
            }
        };
        let client = client::from_parts(server, ca_pem, credential, "tiphys-join").await?;
        match exchange(&client, store, ask).await {
            Ok(pair) => return Ok(pair),
            Err(e) => {
                tracing::warn!("asking for the {} certificate: {e:#}", ask.name);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    bail!("asking for the {} certificate", ask.name)
}

/// Asks once, and keeps what comes.
async fn exchange(client: &Client, store: &Store, ask: &CertificateNeed) -> Result<Pair> {
    let pair = request(client, store, ask).await?;
    store.write(ask.name, &pair)?;
    store.drop_pending(ask.name);
    Ok(pair)
}

impl Entry {
    /// Asks for another certificate with another key, as the node that `client` stands for.
    pub async fn renew(&self, client: &Client, ask: &CertificateNeed) -> Result<Pair> {
        exchange(client, &self.store(), ask).await
    }
}

/// The name of a request: the same for the same key and subject, so that a second try finds the
/// first one's.
fn request_name(ask: &CertificateNeed, csr_pem: &str) -> Result<String> {
    use sha2::Digest;
    let what = format!("{} {:?}", pki::request_key_hash(csr_pem)?, ask.subject);
    let sum = sha2::Sha256::digest(what.as_bytes());
    let hex: String = sum.iter().take(12).map(|b| format!("{b:02x}")).collect();
    Ok(format!("node-csr-{}-{hex}", ask.name))
}

async fn request(client: &Client, store: &Store, ask: &CertificateNeed) -> Result<Pair> {
    let key_pem = store.pending_key(ask.name)?;
    let csr_pem = match pki::request_with(&ask.subject, &key_pem) {
        Ok(csr) => csr,
        Err(e) => {
            // Not a key: the next try makes one.
            store.drop_pending(ask.name);
            return Err(e.into());
        }
    };
    let usage = if ask.subject.server {
        "server auth"
    } else {
        "client auth"
    };
    let name = request_name(ask, &csr_pem)?;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr_pem.into_bytes()),
            signer_name: ask.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        // The one of an earlier try.
        Err(kube::Error::Api(s)) if s.code == 409 => {}
        Err(e) => return Err(e.into()),
    }
    let mut answer = std::pin::pin!(signed(&api, &name));
    let cert_pem = loop {
        match tokio::time::timeout(APPROVAL, answer.as_mut()).await {
            Ok(Ok(cert)) => break cert,
            Ok(Err(e)) => {
                // Whatever the reason, this request has no future.
                store.drop_pending(ask.name);
                return Err(e);
            }
            Err(_) => tracing::warn!(
                "request {name} waits for its approval; where a Node of this name exists, delete it or run `kubectl certificate approve {name}`"
            ),
        }
    };
    Ok(Pair { cert_pem, key_pem })
}

/// The certificate, or why there will be none.
fn outcome(request: CertificateSigningRequest) -> Option<Result<String>> {
    let status = request.status.unwrap_or_default();
    if let Some(cert) = status.certificate.filter(|c| !c.0.is_empty()) {
        return Some(String::from_utf8(cert.0).context("the certificate is not text"));
    }
    let conditions = status.conditions.unwrap_or_default();
    let refused = conditions
        .into_iter()
        .find(|c| c.type_ == "Denied" || c.type_ == "Failed")?;
    Some(Err(anyhow::anyhow!(
        "it was refused: {} {}",
        refused.reason.unwrap_or_default(),
        refused.message.unwrap_or_default()
    )))
}

/// Waits for the answer to a request.
async fn signed(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String> {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut changes = watcher(api.clone(), only).default_backoff().boxed();
    let mut is_there = false;
    while let Some(change) = changes.next().await {
        let object = match change {
            Ok(Event::Apply(object) | Event::InitApply(object)) => object,
            Ok(Event::Init) => {
                is_there = false;
                continue;
            }
            Ok(Event::InitDone) if is_there => continue,
            Ok(Event::InitDone | Event::Delete(_)) => bail!("request {name} was deleted"),
            Err(e) => {
                tracing::warn!("watching request {name}: {e}");
                continue;
            }
        };
        is_there = true;
        if let Some(outcome) = outcome(object) {
            return outcome.with_context(|| format!("request {name}"));
        }
    }
    bail!("watching request {name} ended")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_is_kept_and_cannot_be_read_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("folder");
        let store = Store {
            dir: dir.path().to_owned(),
        };
        assert!(store.read("node").expect("readable").is_none());
        let key = store.pending_key("node").expect("made");
        assert_eq!(store.pending_key("node").expect("kept"), key);
        for file in ["node.crt", "other.pending"] {
            fs::create_dir(dir.path().join(file)).expect("folder");
        }
        assert!(store.read("node").is_err());
        assert!(store.pending_key("other").is_err());
    }

    #[test]
    fn the_token_of_a_server_that_is_away_comes_last() {
        let dir = tempfile::tempdir().expect("folder");
        let path = |name: &str| dir.path().join(name);
        let now = SystemTime::now();
        for (name, age) in [("old", 90_000), ("new", 60)] {
            let token = JoinToken::format(&"a".repeat(64), "abcdef", &format!("{name:0>16}"));
            fs::write(path(name), token).expect("token");
            let file = fs::File::options().append(true).open(path(name));
            let written = now - Duration::from_secs(age);
            file.expect("file").set_modified(written).expect("time");
        }
        let tokens = Tokens {
            text: None,
            files: ["gone", "old", "new"].map(path).into(),
        };
        let read = tokens.read().expect("tokens");
        let ends: Vec<&str> = read.iter().filter_map(|t| t.bearer.get(20..)).collect();
        assert_eq!(ends, ["new", "old"]);
        fs::write(path("new"), "no token").expect("file");
        assert!(tokens.read().is_err());
    }
}
