//! The TLS of a server as files say it: its certificate with its key, and the authorities of its clients.
//! They are read again when they change, without a restart.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::followed::{FollowedFiles, LOOK_EVERY};
use crate::pki::Pair;
use crate::tls::{Identity, ServerTls, TlsError, server_config_of};
use crate::trust::certificates;

/// Why files do not make a server's TLS.
#[derive(Debug, thiserror::Error)]
pub enum ServingFilesError {
    #[error("reading {path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{what}: {source}")]
    Tls {
        what: &'static str,
        source: TlsError,
    },
}

/// Where a server's certificate comes from.
pub enum CertificateSource<'a> {
    /// Files (PEM) with the certificate, which others may follow, and its key.
    Files(&'a Path, &'a Path),
    /// One that was made for this process.
    Made(Pair),
}

/// A server's TLS, and the files that it follows.
#[derive(Debug)]
pub struct ServingFiles {
    pub tls: ServerTls,
    followed: Vec<FollowedFiles>,
}

const CERTIFICATE: &str = "the server's certificate";
const CLIENT_CA: &str = "the authority of clients";

impl ServingFiles {
    /// Reads the files. Without `client_ca` no client certificates are asked for.
    pub fn open(
        certificate: CertificateSource<'_>,
        client_ca: Option<&Path>,
    ) -> Result<Self, ServingFilesError> {
        Self::believing(certificate, None, client_ca)
    }

    /// As [`ServingFiles::open`], of a server that believes clients of `own` (PEM) besides, whatever the
    /// file says.
    pub fn open_beside(
        certificate: CertificateSource<'_>,
        own: &str,
        client_ca: Option<&Path>,
    ) -> Result<Self, ServingFilesError> {
        Self::believing(certificate, Some(own), client_ca)
    }

    fn believing(
        certificate: CertificateSource<'_>,
        own: Option<&str>,
        client_ca: Option<&Path>,
    ) -> Result<Self, ServingFilesError> {
        let of = |what| move |source| ServingFilesError::Tls { what, source };
        let mut followed = Vec::new();
        let identity = match certificate {
            CertificateSource::Made(pair) => Identity::new(&pair).map_err(of(CERTIFICATE))?,
            CertificateSource::Files(certificate, key) => {
                let (chain, secret) = (read(certificate)?, read(key)?);
                let pair = pair_of(&chain, &secret).map_err(of(CERTIFICATE))?;
                let identity = Identity::new(&pair).map_err(of(CERTIFICATE))?;
                let shown = identity.clone();
                let files = vec![(certificate.into(), chain), (key.into(), secret)];
                followed.push(FollowedFiles::new(CERTIFICATE, files, move |found| {
                    let [chain, secret] = found else {
                        return Err("there are not two files".into());
                    };
                    let pair = pair_of(chain, secret).map_err(|e| e.to_string())?;
                    shown.exchange(&pair).map_err(|e| e.to_string())
                }));
                identity
            }
        };
        let believed = client_ca.map(|path| read(path).map(|pem| (path, pem)));
        let believed = believed.transpose()?;
        let file = believed.as_ref().map(|(_, pem)| pem.as_slice());
        let pem = together(own, file);
        let config = pem.and_then(|pem| server_config_of(&identity, pem.as_deref()));
        let tls = ServerTls::from(config.map_err(of(CLIENT_CA))?);
        if let Some((path, pem)) = believed {
            let (exchanged, own) = (tls.clone(), own.map(str::to_owned));
            let files = vec![(path.into(), pem)];
            followed.push(FollowedFiles::new(CLIENT_CA, files, move |found| {
                let [pem] = found else {
                    return Err("there is not one file".into());
                };
                let pem = together(own.as_deref(), Some(pem.as_slice()));
                let next = pem.and_then(|pem| server_config_of(&identity, pem.as_deref()));
                let next = next.map_err(|e| e.to_string())?;
                exchanged.exchange(&next);
                Ok(())
            }));
        }
        Ok(Self { tls, followed })
    }

    /// Looks at the files; whether any of them says something else that is in effect from now on.
    pub fn look(&mut self) -> bool {
        let changed = self.followed.iter_mut().map(FollowedFiles::look);
        // Each of them is looked at.
        changed.fold(false, |any, changed| any | changed)
    }

    /// Looks at them every few seconds until `end`.
    pub async fn follow(mut self, end: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = end.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.look();
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ServingFilesError> {
    std::fs::read(path).map_err(|source| ServingFilesError::File {
        path: path.into(),
        source,
    })
}

fn text(pem: &[u8]) -> Result<&str, TlsError> {
    std::str::from_utf8(pem).map_err(|e| TlsError::Pem(e.to_string()))
}

/// The authorities of clients (PEM): the server's own, and those of a file, which must name some.
fn together(own: Option<&str>, file: Option<&[u8]>) -> Result<Option<String>, TlsError> {
    let Some(file) = file else {
        return Ok(own.map(str::to_owned));
    };
    certificates(file)?;
    let file = text(file)?;
    Ok(Some(own.map_or_else(
        || file.to_owned(),
        |own| format!("{own}\n{file}"),
    )))
}

fn pair_of(chain: &[u8], secret: &[u8]) -> Result<Pair, TlsError> {
    Ok(Pair {
        cert_pem: text(chain)?.to_owned(),
        key_pem: text(secret)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::pki::{Ca, Subject, certificate_names};
    use crate::serve::{Peer, RequestBody, serve};

    #[expect(clippy::disallowed_methods, reason = "certificates for real peers")]
    fn now() -> i64 {
        clock::Clock::system().seconds()
    }

    fn client(ca: &Ca, name: &str) -> Pair {
        let pair = ca.issue(&Subject::client(name, &[]), now(), 1);
        pair.expect("a certificate")
    }

    fn server(ca: &Ca) -> Pair {
        let subject = Subject::server("s", &["localhost"], &[Ipv4Addr::LOCALHOST.into()]);
        ca.issue(&subject, now(), 1).expect("a certificate")
    }

    /// A server that answers with the name of its client; ends with the test.
    async fn start(tls: ServerTls) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.await.expect("port");
        let address = listener.local_addr().expect("address");
        let handle = |request: Request<RequestBody>| {
            let peer = request.extensions().get::<Peer>();
            let leaf = peer.and_then(|p| p.certificates.first());
            let names = leaf.map(|leaf| certificate_names(leaf).expect("names"));
            let name = names.map_or_else(|| "nobody".to_owned(), |n| n.common_name);
            async move { Response::new(Full::new(Bytes::from(format!("<{name}>")))) }
        };
        tokio::spawn(serve(listener, tls, handle, CancellationToken::new()));
        address
    }

    async fn dial(at: SocketAddr, ca: &Ca, own: &Pair) -> std::io::Result<TlsStream<TcpStream>> {
        let tls = crate::tls::client_config(&ca.pair.cert_pem, Some(own), &["http/1.1"]);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.expect("tls")));
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        connector.connect(name, TcpStream::connect(at).await?).await
    }

    /// Asks on an open connection, which it leaves open.
    async fn say(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
        let head = b"GET / HTTP/1.1\r\nhost: s\r\n\r\n";
        stream.write_all(head).await?;
        let mut got = Vec::new();
        while got.last() != Some(&b'>') {
            got.push(stream.read_u8().await?);
        }
        let said = String::from_utf8_lossy(&got).into_owned();
        Ok(said.rsplit('<').next().unwrap_or_default().to_owned())
    }

    /// Who the server takes the client for on a new connection; none: one does not believe the other.
    async fn ask(at: SocketAddr, ca: &Ca, own: &Pair) -> Option<String> {
        let mut stream = dial(at, ca, own).await.ok()?;
        say(&mut stream).await.ok()
    }

    fn put(path: &Path, pem: &str) {
        fs::write(path, pem).expect("a file");
    }

    #[tokio::test]
    async fn a_server_is_what_its_files_say_at_the_moment() {
        let dir = tempfile::tempdir().expect("folder");
        let [chain, key, clients] =
            ["tls.crt", "tls.key", "ca.crt"].map(|name| dir.path().join(name));
        let (one, two) = (Ca::generate("one", now()), Ca::generate("two", now()));
        let (one, two) = (one.expect("ca"), two.expect("ca"));
        let (jo, pat) = (client(&one, "jo"), client(&two, "pat"));
        let (first, next) = (server(&one), server(&two));
        put(&chain, &first.cert_pem);
        put(&key, &first.key_pem);
        put(&clients, &one.pair.cert_pem);
        let source = CertificateSource::Files(&chain, &key);
        let mut files = ServingFiles::open(source, Some(&clients)).expect("files");
        let at = start(files.tls.clone()).await;
        let jo_is = Some("jo>".to_owned());
        let pat_is = Some("pat>".to_owned());
        assert_eq!(ask(at, &one, &jo).await, jo_is);
        assert_eq!(ask(at, &one, &pat).await, None);
        assert!(!files.look());

        // Half of it is written: the certificate is not that of the key.
        put(&chain, &next.cert_pem);
        assert!(!files.look());
        assert_eq!(ask(at, &one, &jo).await, jo_is);
        let mut open = dial(at, &one, &jo).await.expect("a connection");
        put(&key, &next.key_pem);
        assert!(files.look());
        assert_eq!(ask(at, &one, &jo).await, None);
        assert_eq!(ask(at, &two, &jo).await, jo_is);
        // What is open goes on, as far as the certificate is concerned.
        assert_eq!(say(&mut open).await.ok(), jo_is);

        put(&clients, &two.pair.cert_pem);
        assert!(files.look());
        assert_eq!(ask(at, &two, &jo).await, None);
        assert_eq!(ask(at, &two, &pat).await, pat_is);
        // Nobody stays whom the authority has not signed.
        assert!(open.read_u8().await.is_err());

        put(&clients, "nothing");
        assert!(!files.look());
        assert_eq!(ask(at, &two, &pat).await, pat_is);
    }

    #[tokio::test]
    async fn a_servers_own_authority_stays_beside_that_of_a_file() {
        let dir = tempfile::tempdir().expect("folder");
        let clients = dir.path().join("ca.crt");
        let all = ["own", "one", "two"].map(|name| Ca::generate(name, now()).expect("ca"));
        let [own, one, two] = &all;
        let [jo, pat, kim] = [(own, "jo"), (one, "pat"), (two, "kim")].map(|(ca, n)| client(ca, n));
        let made = || CertificateSource::Made(server(own));
        put(&clients, &one.pair.cert_pem);
        let files = ServingFiles::open_beside(made(), &own.pair.cert_pem, Some(&clients));
        let mut files = files.expect("files");
        let at = start(files.tls.clone()).await;
        let asked = async || {
            let [jo, pat, kim] = [
                ask(at, own, &jo).await,
                ask(at, own, &pat).await,
                ask(at, own, &kim).await,
            ];
            [jo.is_some(), pat.is_some(), kim.is_some()]
        };
        assert_eq!(asked().await, [true, true, false]);
        put(&clients, &two.pair.cert_pem);
        assert!(files.look());
        assert_eq!(asked().await, [true, false, true]);
        // A file that is being written names nobody: that is not an authority.
        put(&clients, "");
        assert!(!files.look());
        assert_eq!(asked().await, [true, false, true]);
        assert!(ServingFiles::open_beside(made(), &own.pair.cert_pem, None).is_ok());
    }

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().expect("folder");
        let ca = Ca::generate("one", now()).expect("ca");
        let missing = dir.path().join("missing");
        let made = || CertificateSource::Made(server(&ca));
        let error = ServingFiles::open(made(), Some(&missing)).expect_err("no file");
        assert!(error.to_string().contains("missing"), "{error}");
        let bad = dir.path().join("bad");
        put(&bad, "nothing");
        let error = ServingFiles::open(made(), Some(&bad)).expect_err("no authority");
        assert!(error.to_string().starts_with(CLIENT_CA), "{error}");
        assert!(ServingFiles::open(made(), None).is_ok());
    }
}
