//! Who asks: from headers and client certificates to a [`UserInfo`].

use std::sync::{Arc, LazyLock};

use access::attributes::CREDENTIAL_ID;
use api::Status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clock::Instant;
use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName};
use metrics::{Histogram, Histograms};
use parking_lot::RwLock;
use registry::kinds::ByName;
use wire::serve::Peer;
use wire::trust::Clients;

use crate::state::State;

pub use access::UserInfo;

pub const ANONYMOUS: &str = "system:anonymous";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const MASTERS: &str = "system:masters";

/// A WebSocket client that cannot set headers (a browser) names its token as a protocol.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
/// Certificates whose names are remembered; one entry has about 1 KiB.
const REMEMBERED: usize = 4096;
/// In a certificate's subject: the uid of its user.
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";

/// What a client shows.
pub struct Credentials<'a> {
    pub headers: &'a HeaderMap,
    /// The connection's other end; absent for clients in this process.
    pub peer: Option<&'a Peer>,
    pub path: &'a str,
}

/// Credentials were shown and are wrong: the request ends with 401.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Rejected {
    pub why: String,
    /// Whether they are wrong could not be found out: the answer in place of 401.
    pub undecided: Option<Box<Status>>,
}

impl Rejected {
    pub fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            undecided: None,
        }
    }

    /// What is needed to judge the credentials cannot be read.
    pub fn undecided(status: Status) -> Self {
        Self {
            why: status.message.clone(),
            undecided: Some(Box::new(status)),
        }
    }

    /// The answer to the request.
    pub fn status(self) -> Status {
        self.undecided.map_or_else(Status::unauthorized, |s| *s)
    }

    /// Several as one, which is undecided if one of them is.
    fn all(errors: Vec<Self>, show: impl FnOnce(&str) -> String) -> Self {
        let each: Vec<&str> = errors.iter().map(|e| &*e.why).collect();
        Self {
            why: show(&each.join(", ")),
            undecided: errors.into_iter().find_map(|e| e.undecided),
        }
    }
}

/// A user that a token names, and the audiences for which it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedUser {
    pub user: UserInfo,
    pub audiences: Vec<String>,
}

/// One way to know a client. `Ok(None)`: it shows nothing of this kind.
pub trait Authenticator: Send + Sync + 'static {
    /// By anything but a bearer token.
    fn authenticate<'a>(
        &'a self,
        _state: &'a State,
        _credentials: &'a Credentials<'a>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, Rejected>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// Whether it believes clients by their own certificates.
    fn is_of_certificates(&self) -> bool {
        false
    }
    /// Takes what it reads out of a request: nothing that follows is to see it.
    fn strip(&self, _headers: &mut HeaderMap) {}
    /// By a bearer token, good for one of the audiences at least.
    fn token<'a>(
        &'a self,
        _state: &'a State,
        _token: &'a str,
        _audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<AuthenticatedUser>, Rejected>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// Client certificates that TLS has verified: the common name is the user, organizations are
/// the groups, an attribute of its own is the user's uid. What a certificate says is read once and
/// remembered.
#[derive(Default)]
pub struct ClientCertificates {
    /// Only those of these authorities, where TLS believes others, too.
    authority: Option<Clients>,
    read: RwLock<ByName<Vec<u8>, Arc<CertificateIdentity>>>,
}

/// What a certificate says.
struct CertificateIdentity {
    /// Without the uid, which counts by a feature gate.
    user: UserInfo,
    uid: Result<Option<String>, &'static str>,
    /// Seconds since the epoch. TLS has checked it at the handshake, but connections last.
    not_after: i64,
}

impl ClientCertificates {
    /// Believes certificates of these authorities alone.
    pub fn of(authority: Clients) -> Self {
        Self {
            authority: Some(authority),
            ..Self::default()
        }
    }

    fn shown(&self, leaf: &[u8]) -> Result<Arc<CertificateIdentity>, Rejected> {
        if let Some(known) = self.read.read().get(leaf) {
            return Ok(known.clone());
        }
        let bad = |e: String| Rejected::new(format!("the client certificate cannot be read: {e}"));
        let names = wire::pki::certificate_names(leaf).map_err(|e| bad(e.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(leaf).map_err(|e| bad(e.to_string()))?;
        let uids = parsed.subject().iter_attributes();
        let uids = uids.filter(|a| a.attr_type().to_id_string() == UID_ATTRIBUTE);
        let shown = Arc::new(CertificateIdentity {
            user: completed(UserInfo {
                name: names.common_name,
                groups: names.organizations,
                extra: [(CREDENTIAL_ID.to_owned(), vec![fingerprint(leaf)])].into(),
                ..UserInfo::default()
            }),
            uid: only_uid(uids.map(|a| a.as_str().ok())),
            not_after: parsed.validity().not_after.timestamp(),
        });
        let mut all = self.read.write();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(leaf.to_vec(), shown.clone());
        Ok(shown)
    }
}

/// A certificate as the value of [`CREDENTIAL_ID`].
fn fingerprint(certificate: &[u8]) -> String {
    use std::fmt::Write;
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let mut out = String::from("X509SHA256=");
    for byte in digest.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The uid of a certificate, of the values that it has for it (`None` is one that is not a text). Whoever
/// signs two, or an empty one, means something that nobody here understands.
fn only_uid<'a>(
    mut values: impl Iterator<Item = Option<&'a str>>,
) -> Result<Option<String>, &'static str> {
    let Some(first) = values.next() else {
        return Ok(None);
    };
    match (first, values.next()) {
        (_, Some(_)) => Err("expected 1 UID, but found multiple"),
        (None, None) => Err("unable to parse UID into a string"),
        (Some(""), None) => Err("UID cannot be an empty string"),
        (Some(uid), None) => Ok(Some(uid.to_owned())),
    }
}

/// Seconds that clients' certificates still hold; upstream's bounds, up to a year.
static EXPIRATION: LazyLock<Histogram> =
    LazyLock::new(|| {
        Histograms::new(
        "apiserver_client_certificate_expiration_seconds",
        "Distribution of the remaining lifetime on the certificate used to authenticate a request.",
        [],
        &[
            0.0, 1800.0, 3600.0, 7200.0, 21600.0, 43200.0, 86400.0, 172_800.0, 345_600.0, 604_800.0,
            2_592_000.0, 7_776_000.0, 15_552_000.0, 31_104_000.0,
        ],
    )
    .of([])
    });

impl Authenticator for ClientCertificates {
    fn is_of_certificates(&self) -> bool {
        true
    }

    fn authenticate<'a>(
        &'a self,
        state: &'a State,
        credentials: &'a Credentials<'a>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, Rejected>> {
        let known = || {
            let chain = credentials.peer.map(|p| &**p.certificates);
            let Some(leaf) = chain.and_then(|c| c.first()) else {
                return Ok(None);
            };
            let now = state.now();
            if let (Some(authority), Some(chain)) = (&self.authority, chain)
                && !authority.vouch_for(chain, now)
            {
                return Ok(None);
            }
            let shown = self.shown(leaf)?;
            if now > shown.not_after {
                return Err(Rejected::new("the client certificate has expired"));
            }
            EXPIRATION.observe((shown.not_after - now) as f64);
            if shown.user.name.is_empty() {
                return Ok(None);
            }
            let mut user = shown.user.clone();
            // Most certificates have none, so that the gate is not asked about.
            if !matches!(shown.uid, Ok(None))
                && state.has_feature("AllowParsingUserUIDFromCertAuth")
            {
                user.uid = shown
                    .uid
                    .clone()
                    .map_err(Rejected::new)?
                    .unwrap_or_default();
            }
            Ok(Some(user))
        };
        Box::pin(std::future::ready(known()))
    }
}

/// Asks each in turn; the first that knows the client counts. Wrong credentials are an error
/// only if no others are right. A request without credentials is anonymous. What came of it is
/// counted, and refusals are logged.
pub async fn authenticate(
    ways: &[Arc<dyn Authenticator>],
    state: &State,
    credentials: &Credentials<'_>,
) -> Result<UserInfo, Rejected> {
    let began = Instant::now();
    let found = find(ways, state, credentials).await;
    let metrics = &state.metrics().identity;
    match &found {
        Ok(user) => metrics.attempt(began.elapsed(), Ok(&user.name)),
        Err(why) => {
            let shown = !why.why.is_empty();
            let result = if shown { "error" } else { "failure" };
            metrics.attempt(began.elapsed(), Err(result));
            if let Some(unsaid) = metrics.refusals.next(state.now()) {
                let why = if shown { &*why.why } else { "no credentials" };
                tracing::info!(
                    path = credentials.path,
                    unsaid,
                    "unable to authenticate a request: {why}"
                );
            }
        }
    }
    found
}

async fn find(
    ways: &[Arc<dyn Authenticator>],
    state: &State,
    credentials: &Credentials<'_>,
) -> Result<UserInfo, Rejected> {
    let mut errors = Vec::new();
    for way in ways {
        match way.authenticate(state, credentials).await {
            Ok(Some(user)) => return Ok(completed(user)),
            Ok(None) => {}
            Err(e) => errors.push(e),
        }
    }
    match bearer(credentials.headers) {
        Err(e) => errors.push(e),
        Ok(None) => {}
        Ok(Some(token)) => {
            match by_token(ways, state, &token, state.settings().audiences()).await {
                Ok(Some(known)) => return Ok(completed(known.user)),
                Ok(None) => errors.push(Rejected::new("invalid bearer token")),
                Err(e) => errors.push(e),
            }
        }
    }
    if !errors.is_empty() || !state.settings().anonymous.allows(credentials.path) {
        return Err(Rejected::all(errors, str::to_owned));
    }
    Ok(UserInfo::anonymous())
}

/// Asks each way for the user of a bearer token.
pub async fn by_token(
    ways: &[Arc<dyn Authenticator>],
    state: &State,
    token: &str,
    audiences: &[String],
) -> Result<Option<AuthenticatedUser>, Rejected> {
    let mut errors = Vec::new();
    for way in ways {
        match way.token(state, token, audiences).await {
            Ok(Some(known)) => return Ok(Some(known)),
            Ok(None) => {}
            Err(e) => errors.push(e),
        }
    }
    if errors.is_empty() {
        Ok(None)
    } else {
        Err(Rejected::all(errors, |all| format!("[{all}]")))
    }
}

/// Everyone known is in `system:authenticated`.
pub fn completed(mut user: UserInfo) -> UserInfo {
    let has = |g: &str| user.groups.iter().any(|own| own == g);
    if user.name == ANONYMOUS {
        if !has(UNAUTHENTICATED) {
            user.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The bearer token of a request: in its header, or as a protocol of a WebSocket.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Rejected> {
    let shown = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    if let Some((scheme, token)) = shown.and_then(|t| t.trim().split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
    {
        // Upstream takes the word after the scheme.
        let token = token.split(' ').next().unwrap_or_default();
        if !token.is_empty() {
            return Ok(Some(token.to_owned()));
        }
    }
    if !is_websocket(headers) {
        return Ok(None);
    }
    let (tokens, others): (Vec<&str>, Vec<&str>) = protocols(headers).partition(|p| is_token(p));
    match tokens.as_slice() {
        [] => Ok(None),
        [_] if others.is_empty() => Err(Rejected::new("missing additional subprotocol")),
        [one] => {
            let text = one.strip_prefix(TOKEN_PROTOCOL).unwrap_or_default();
            let bytes = URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| Rejected::new("invalid base64.bearer.authorization token encoding"))?;
            let token = String::from_utf8(bytes)
                .map_err(|_| Rejected::new("invalid base64.bearer.authorization token"))?;
            Ok((!token.is_empty()).then_some(token))
        }
        _ => Err(Rejected::new(
            "multiple base64.bearer.authorization tokens specified",
        )),
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let text = headers.get(name).and_then(|v| v.to_str().ok());
        text.is_some_and(|t: &str| t.to_ascii_lowercase().contains(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    lines
        .filter_map(|v| v.to_str().ok())
        .flat_map(|l| l.split(','))
        .map(str::trim)
}

fn is_token(protocol: &str) -> bool {
    protocol.starts_with(TOKEN_PROTOCOL)
}

/// Takes the credentials out of a request: nothing that follows is to see them.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    // Upstream's, whatever the headers of this server's own front proxies are called.
    let claims = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "x-remote-user" | "x-remote-uid" | "x-remote-group"
        ) || name.as_str().starts_with("x-remote-extra-")
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(claims).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    if !protocols(headers).any(is_token) {
        return;
    }
    let rest: Vec<&str> = protocols(headers).filter(|p| !is_token(p)).collect();
    match http::HeaderValue::from_str(&rest.join(",")) {
        Ok(v) => headers.insert(SEC_WEBSOCKET_PROTOCOL, v),
        Err(_) => headers.remove(SEC_WEBSOCKET_PROTOCOL),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (k, v) in all {
            map.append(*k, v.parse().expect("value"));
        }
        map
    }

    /// A certificate (DER) of user `jo`, with a uid in its subject.
    fn certificate(uid: Option<&str>) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "jo");
        name.push(rcgen::DnType::OrganizationName, "dev");
        if let Some(uid) = uid {
            let kind = rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
            name.push(kind, uid);
        }
        let key = rcgen::KeyPair::generate().expect("key");
        let made = params.self_signed(&key).expect("certificate");
        made.der().to_vec()
    }

    #[test]
    fn a_certificate_says_a_uid_and_is_itself_named() {
        let all = ClientCertificates::default();
        let read = |uid| {
            let der = certificate(uid);
            let shown = all.shown(&der).map_err(|e| e.why).expect("names");
            let id = shown.user.extra[CREDENTIAL_ID].clone();
            assert_eq!(id, [fingerprint(&der)]);
            assert_eq!((&*shown.user.name, &*shown.user.uid), ("jo", ""));
            shown.uid.clone()
        };
        assert_eq!(read(None), Ok(None));
        assert_eq!(read(Some("7")), Ok(Some("7".to_owned())));
        assert!(read(Some("")).is_err());
        assert!(only_uid([Some("1"), Some("2")].into_iter()).is_err());
        assert!(only_uid([None].into_iter()).is_err());
        // What `openssl x509 -fingerprint -sha256` says, without its colons and in small letters.
        let empty = "X509SHA256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(fingerprint(b""), empty);
    }

    #[test]
    fn tokens_come_by_header_or_protocol() {
        let get = |all: &[(&'static str, &str)]| bearer(&headers(all)).map_err(|e| e.why);
        assert_eq!(get(&[("authorization", "Bearer x")]), Ok(Some("x".into())));
        assert_eq!(
            get(&[("authorization", "bearer x y")]),
            Ok(Some("x".into()))
        );
        assert_eq!(get(&[("authorization", "Basic x")]), Ok(None));
        let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let protocol = format!("{TOKEN_PROTOCOL}{}", URL_SAFE_NO_PAD.encode("tok"));
        let with = |p: &str| {
            let mut all = upgrade.to_vec();
            all.push(("sec-websocket-protocol", p));
            get(&all)
        };
        assert_eq!(
            with(&format!("{protocol}, v5.channel.k8s.io")),
            Ok(Some("tok".into()))
        );
        assert!(with(&protocol).is_err());
        assert!(with(&format!("{protocol},{protocol},x")).is_err());
        assert_eq!(with("v5.channel.k8s.io"), Ok(None));
    }

    #[test]
    fn credentials_do_not_go_further() {
        let mut all = headers(&[
            ("authorization", "Bearer x"),
            (
                "sec-websocket-protocol",
                "base64url.bearer.authorization.k8s.io.eA, v4.channel.k8s.io",
            ),
            ("x-remote-user", "admin"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-address", "is no claim"),
        ]);
        strip(&mut all);
        let left: Vec<&str> = all.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(all.contains_key("x-remote-address"));
        assert!(!all.contains_key(AUTHORIZATION));
        assert_eq!(all[SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
    }

    #[test]
    fn groups_are_completed() {
        let known = completed(UserInfo::new("a", &[]));
        assert_eq!(known.groups, [AUTHENTICATED]);
        assert_eq!(completed(UserInfo::anonymous()), UserInfo::anonymous());
    }
}
