//! Clients of the API server: from a kubeconfig, from its parts, or to a server in this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clock::Instant;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use parking_lot::Mutex;
use tower::{BoxError, Service};
use wire::followed::{FollowedFiles, LOOK_EVERY};
use wire::pki::Pair;

use crate::refusals::counted;
use crate::{Accounts, Swap};

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{0:?} is not a server's address")]
    Server(String),
    #[error("kubeconfig {path}: {why}")]
    Kubeconfig { path: String, why: String },
    #[error("client: {0}")]
    Client(#[from] kube::Error),
    #[error("the CA is not PEM: {0}")]
    Ca(String),
}

/// How the client proves who it is.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    Certificate(&'a Pair),
    Token(&'a str),
}

/// Time to open a connection: a server that does not answer by then is taken for dead, and the
/// watch goes to its next try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

fn finish(mut config: Config, agent: &str) -> Result<Client, ConnectError> {
    wire::install_crypto();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // kube would send a request again, up to 15 times, when the answer is 503 or 504. But a write
    // with such an answer may have worked, and its second sending meets the first: the caller has
    // to look before it tries again, and hears now, not after minutes, that the store is away.
    config.default_retry = false;
    if let Ok(value) = HeaderValue::from_str(&format!("tiphys/{agent}")) {
        config.headers.push((USER_AGENT, value));
    }
    Ok(Client::try_from(config)?)
}

/// What a kubeconfig says.
#[derive(Clone)]
struct Said {
    config: Config,
    /// Where the server's authority lies and what is there, where it has a file of its own.
    authority: Option<(PathBuf, Vec<u8>)>,
}

/// What is wrong with the kubeconfig of this path.
fn wrong_kubeconfig(path: &Path, why: String) -> ConnectError {
    ConnectError::Kubeconfig {
        path: path.display().to_string(),
        why,
    }
}

/// Reads a kubeconfig. Several files, as `KUBECONFIG` may name them to kubectl, are not merged.
///
/// # Errors
/// When it is not there, in words that help who has named none; or cannot be read.
pub fn kubeconfig(path: &Path) -> Result<Kubeconfig, ConnectError> {
    let why = match Kubeconfig::read_from(path) {
        Ok(file) => return Ok(file),
        Err(KubeconfigError::ReadConfig(e, _)) if e.kind() == std::io::ErrorKind::NotFound => {
            "there is no such file; name one file with --kubeconfig, or in the variable KUBECONFIG"
                .to_owned()
        }
        Err(KubeconfigError::ReadConfig(e, _)) => e.to_string(),
        Err(e) => e.to_string(),
    };
    Err(wrong_kubeconfig(path, why))
}

async fn read(path: &Path) -> Result<Said, ConnectError> {
    let wrong = |why: String| wrong_kubeconfig(path, why);
    let file = kubeconfig(path)?;
    // Before the configuration reads it: what is written meanwhile is found by the first look.
    let authority = match authority_file(&file) {
        None => None,
        Some(of) => match std::fs::read(&of) {
            Ok(pem) => Some((of, pem)),
            Err(e) => return Err(wrong(format!("{}: {e}", of.display()))),
        },
    };
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| wrong(e.to_string()))?;
    Ok(Said { config, authority })
}

/// The file of the current cluster's authority; none where the kubeconfig itself holds it.
fn authority_file(file: &Kubeconfig) -> Option<PathBuf> {
    let current = file.current_context.as_ref()?;
    let context = file.contexts.iter().find(|c| c.name == *current)?;
    let cluster = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|c| c.name == *cluster)?;
    let cluster = cluster.cluster.as_ref()?;
    if cluster.certificate_authority_data.is_some() {
        return None;
    }
    cluster.certificate_authority.as_ref().map(PathBuf::from)
}

/// Certificates (PEM) as a configuration has them.
fn authorities(pem: &[u8]) -> Result<Vec<Vec<u8>>, ConnectError> {
    let blocks = ::pem::parse_many(pem).map_err(|e| ConnectError::Ca(e.to_string()))?;
    Ok(blocks.into_iter().map(::pem::Pem::into_contents).collect())
}

/// A client that takes the server's authority from its file again when it has changed: requests that
/// come then have new connections, those that run go on. Requests look, `every` so often at most.
/// kube's own way looks once a minute, and asks on connections for which no authority vouches any more.
fn following(said: Said, agent: &str, every: Duration) -> Result<Client, ConnectError> {
    let Said { config, authority } = said;
    let first = finish(config.clone(), agent)?;
    let Some(file) = authority else {
        return Ok(first);
    };
    let swap = Swap::new(first);
    let (place, agent) = (swap.clone(), agent.to_owned());
    let apply = move |found: &[Vec<u8>]| {
        let pem = found.first().map(Vec::as_slice).unwrap_or_default();
        let all = authorities(pem).map_err(|e| e.to_string())?;
        if all.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        let mut next = config.clone();
        next.root_cert = Some(all);
        place.exchange(finish(next, &agent).map_err(|e| e.to_string())?);
        Ok(())
    };
    let files = FollowedFiles::new("the server's authority", vec![file], apply);
    let looked = Mutex::new((files, Instant::now()));
    Ok(swap.client_after(move || {
        let mut looked = looked.lock();
        if looked.1.elapsed() >= every {
            looked.0.look();
            looked.1 = Instant::now();
        }
    }))
}

/// A client as a kubeconfig says. `agent` names the component to the server.
pub async fn from_kubeconfig(path: &Path, agent: &str) -> Result<Client, ConnectError> {
    let client = following(read(path).await?, agent, LOOK_EVERY)?;
    Ok(counted(client, agent))
}

/// As [`from_kubeconfig`], for a component whose parts act as service accounts: the kubeconfig's
/// user reads, and asks for their tokens.
pub async fn accounts_of(path: &Path, agent: &str) -> Result<Accounts, ConnectError> {
    let said = read(path).await?;
    let mut bare = said.clone();
    bare.config.auth_info = AuthInfo::default();
    let own = counted(following(said, agent, LOOK_EVERY)?, agent);
    // Its refusals are reported by the account that uses it.
    Ok(Accounts::by_tokens(
        own,
        following(bare, agent, LOOK_EVERY)?,
    ))
}

/// A client of `server` (`https://host:port`), trusting the CA alone.
pub async fn from_parts(
    server: &str,
    ca_pem: &str,
    credential: Credential<'_>,
    agent: &str,
) -> Result<Client, ConnectError> {
    let url = server
        .parse()
        .map_err(|_| ConnectError::Server(server.to_owned()))?;
    let mut config = Config::new(url);
    config.root_cert = Some(authorities(ca_pem.as_bytes())?);
    match credential {
        Credential::Certificate(pair) => {
            config.auth_info.client_certificate_data = Some(STANDARD.encode(&pair.cert_pem));
            config.auth_info.client_key_data = Some(STANDARD.encode(&pair.key_pem).into());
        }
        Credential::Token(token) => config.auth_info.token = Some(token.to_owned().into()),
    }
    Ok(counted(finish(config, agent)?, agent))
}

/// Another server than the API's, such as an extender of the scheduler.
pub struct Web<'a> {
    /// `http` or `https`; what it has of a path comes before the paths of requests.
    pub url: &'a str,
    /// The server's certificate is not looked at.
    pub insecure: bool,
    /// In place of the address's, in the server's certificate.
    pub server_name: Option<String>,
    /// PEM; without them the machine's.
    pub authorities: Option<Vec<u8>>,
    /// Certificate and key, in PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// To open a connection.
    pub timeout: Duration,
}

/// A client of another server.
///
/// # Errors
/// When its address, or what stands for certificates, is none.
pub fn of_web(web: Web<'_>) -> Result<Client, ConnectError> {
    wire::install_crypto();
    let url = web.url.trim_end_matches('/').parse();
    let url = url.map_err(|_| ConnectError::Server(web.url.to_owned()))?;
    let mut config = Config::new(url);
    config.connect_timeout = Some(web.timeout);
    // Whoever asks has a limit of his own, and a second sending may not be wanted.
    config.read_timeout = None;
    config.default_retry = false;
    config.accept_invalid_certs = web.insecure;
    config.tls_server_name = web.server_name;
    if let Some(pem) = web.authorities {
        config.root_cert = Some(authorities(&pem)?);
    }
    if let Some((certificate, key)) = web.identity {
        config.auth_info.client_certificate_data = Some(STANDARD.encode(certificate));
        config.auth_info.client_key_data = Some(STANDARD.encode(key).into());
    }
    Ok(Client::try_from(config)?)
}

/// A client of a server in this process: no socket, no TLS; the service carries the identity.
pub fn in_process<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, "default")
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    use http_body_util::Full;
    use k8s_openapi::api::core::v1::Namespace;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use wire::pki::{Ca, Subject};

    use super::*;

    /// Answers 504 to every request, until a connection says `end`; gives how many there were.
    fn refuse(listener: &TcpListener) -> usize {
        let mut requests = 0;
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let mut lines = BufReader::new(stream.try_clone().expect("clone")).lines();
            let first = lines.next().expect("a line").expect("text");
            if first == "end" {
                break;
            }
            requests += 1;
            let head = lines.map(|l| l.expect("text"));
            assert!(head.take_while(|l| !l.is_empty()).count() > 0);
            let answer = "HTTP/1.1 504 Gateway Timeout\r\nconnection: close\r\ncontent-length: 0\r\nretry-after: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).expect("answer");
        }
        requests
    }

    #[tokio::test]
    async fn what_may_have_worked_is_not_sent_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address");
        #[expect(clippy::disallowed_methods, reason = "a peer that is not ours")]
        let server = tokio::task::spawn_blocking(move || refuse(&listener));
        let url = format!("http://{address}").parse().expect("url");
        let client = finish(Config::new(url), "test").expect("client");
        let error = kube::Api::<Namespace>::all(client).get("x").await;
        assert!(matches!(error, Err(kube::Error::Api(s)) if s.code == 504));
        let mut end = std::net::TcpStream::connect(address).expect("connect");
        end.write_all(b"end\n").expect("end");
        assert_eq!(server.await.expect("server"), 1);
    }

    #[test]
    fn who_has_no_kubeconfig_hears_how_to_name_one() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("none");
        let error = kubeconfig(&path).expect_err("it is not there").to_string();
        let path = path.display();
        assert!(error.starts_with(&format!("kubeconfig {path}: there is no such file")));
        assert!(error.contains("--kubeconfig"), "{error}");
    }

    async fn answers(client: &Client) -> bool {
        let request = Request::get("/version").body(Vec::new());
        client.request_text(request.expect("request")).await.is_ok()
    }

    #[tokio::test]
    async fn an_authority_that_is_rotated_is_taken_from_its_file() {
        #[expect(clippy::disallowed_methods, reason = "certificates for real peers")]
        let now = clock::Clock::system().seconds();
        let dir = tempfile::tempdir().expect("folder");
        let (kubeconfig, ca) = (dir.path().join("kubeconfig"), dir.path().join("ca.crt"));
        let [one, two] = ["one", "two"].map(|name| Ca::generate(name, now).expect("ca"));
        let serving = |ca: &Ca| {
            let ip = std::net::Ipv4Addr::LOCALHOST.into();
            let subject = Subject::server("s", &["localhost"], &[ip]);
            ca.issue(&subject, now, 1).expect("a certificate")
        };
        let identity = wire::tls::Identity::new(&serving(&one)).expect("identity");
        let tls = wire::tls::server_config_of(&identity, None).expect("tls");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.expect("port");
        let address = listener.local_addr().expect("address");
        let handle =
            |_: Request<wire::serve::RequestBody>| async { Response::new(Full::new(Bytes::new())) };
        // It ends with the test.
        let end = CancellationToken::new();
        tokio::spawn(wire::serve::serve(listener, tls, handle, end));
        let text = json!({
            "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": {
                "server": format!("https://{address}"), "certificate-authority": "ca.crt",
            }}],
            "users": [{ "name": "u", "user": {} }],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("a file");
        let put = |pem: &str| std::fs::write(&ca, pem).expect("a file");
        put(&one.pair.cert_pem);
        let said = read(&kubeconfig).await.expect("a kubeconfig");
        let stale = following(said.clone(), "test", Duration::MAX).expect("a client");
        let client = following(said, "test", Duration::ZERO).expect("a client");
        assert!(answers(&client).await);

        identity.exchange(&serving(&two)).expect("identity");
        assert!(!answers(&stale).await, "nobody signed for this authority");
        put(&two.pair.cert_pem);
        assert!(answers(&client).await);
        let next = from_kubeconfig(&kubeconfig, "test")
            .await
            .expect("a client");
        assert!(answers(&next).await);
        // What holds no certificate changes nothing.
        put("nothing");
        assert!(answers(&client).await);
    }
}
