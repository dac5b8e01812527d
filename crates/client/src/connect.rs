//! Clients of the API server: from a kubeconfig, from its parts, or to a server in this process.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use kube::client::Body;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::{BoxError, Service};
use wire::pki::Pair;

use crate::Accounts;
use crate::refusals::counted;

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

async fn read(path: &Path) -> Result<Config, ConnectError> {
    let wrong = |why: String| ConnectError::Kubeconfig {
        path: path.display().to_string(),
        why,
    };
    let file = Kubeconfig::read_from(path).map_err(|e| wrong(e.to_string()))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| wrong(e.to_string()))
}

/// A client as a kubeconfig says. `agent` names the component to the server.
pub async fn from_kubeconfig(path: &Path, agent: &str) -> Result<Client, ConnectError> {
    Ok(counted(finish(read(path).await?, agent)?, agent))
}

/// As [`from_kubeconfig`], for a component whose parts act as service accounts: the kubeconfig's
/// user reads, and asks for their tokens.
pub async fn accounts_of(path: &Path, agent: &str) -> Result<Accounts, ConnectError> {
    let config = read(path).await?;
    let mut bare = config.clone();
    bare.auth_info = AuthInfo::default();
    let own = counted(finish(config, agent)?, agent);
    // Its refusals are reported by the account that uses it.
    Ok(Accounts::by_tokens(own, finish(bare, agent)?))
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
    let blocks = ::pem::parse_many(ca_pem).map_err(|e| ConnectError::Ca(e.to_string()))?;
    config.root_cert = Some(blocks.into_iter().map(::pem::Pem::into_contents).collect());
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
        let blocks = ::pem::parse_many(pem).map_err(|e| ConnectError::Ca(e.to_string()))?;
        config.root_cert = Some(blocks.into_iter().map(::pem::Pem::into_contents).collect());
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

    use k8s_openapi::api::core::v1::Namespace;

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
}
