//! As which users a component acts: it reads as its own, and each of its parts writes as a service
//! account of `kube-system`, so that each may do what its role says and no more. In the server's
//! process the wiring hands the identities out; elsewhere each account has tokens by TokenRequest,
//! and gets the next one before the last ends. It decides nothing about permissions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Fence;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::BoxError;

/// Where the accounts of the control plane's parts are; only those who run the cluster make pods
/// there.
pub const NAMESPACE: &str = "kube-system";

/// The clients of a component and of its parts. Clones share them.
#[derive(Clone)]
pub struct Accounts {
    own: Client,
    of: Arc<dyn Fn(&str) -> Client + Send + Sync>,
}

impl Accounts {
    /// `own` is the component's own client; `of` gives one that acts as the service account of this
    /// name.
    pub fn new(own: Client, of: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        let of = Arc::new(of);
        Self { own, of }
    }

    /// All parts act as the component itself.
    pub fn shared(own: Client) -> Self {
        let same = own.clone();
        Self::new(own, move |_| same.clone())
    }

    /// Each account with tokens that `own` asks for; `bare` is a client of the same server without
    /// credentials.
    pub fn by_tokens(own: Client, bare: Client) -> Self {
        let made: Mutex<BTreeMap<String, Client>> = Mutex::default();
        let asks = own.clone();
        Self::new(own, move |account| {
            let mut made = made.lock();
            let make = || Account::client(&asks, &bare, account);
            made.entry(account.to_owned()).or_insert_with(make).clone()
        })
    }

    pub fn own(&self) -> &Client {
        &self.own
    }

    /// A client that acts as the service account of this name.
    pub fn of(&self, account: &str) -> Client {
        (self.of)(account)
    }

    /// The same, with the fence in all writes of all accounts.
    #[must_use]
    pub fn fenced(&self, fence: &Fence) -> Self {
        let (of, held) = (self.of.clone(), fence.clone());
        let own = crate::fenced(&self.own, fence);
        Self::new(own, move |account| crate::fenced(&of(account), &held))
    }
}

/// The name of an account's user, and its groups.
pub fn user_of(account: &str) -> (String, [String; 2]) {
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{NAMESPACE}"),
    ];
    (
        format!("system:serviceaccount:{NAMESPACE}:{account}"),
        groups,
    )
}

/// Lifetime that is asked for; the next token is asked for when four fifths of it have passed, as
/// upstream.
const LIFETIME_SECONDS: i64 = 3_600;
/// A token is waited for so long; its user waits with it.
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a renewal that failed, while the old token is still good.
const ASK_AGAIN: Duration = Duration::from_secs(30);

struct AccountToken {
    token: String,
    renew_at: Instant,
    ends: Instant,
}

/// One service account over HTTPS.
struct Account {
    name: String,
    own: Client,
    bare: Client,
    held: tokio::sync::Mutex<Option<AccountToken>>,
}

impl Account {
    fn client(own: &Client, bare: &Client, name: &str) -> Client {
        let account = Arc::new(Self {
            name: name.to_owned(),
            own: own.clone(),
            bare: bare.clone(),
            held: tokio::sync::Mutex::default(),
        });
        let service = tower::service_fn(move |request| account.clone().send(request));
        crate::refusals::counted(Client::new(service, "default"), name)
    }

    async fn send(self: Arc<Self>, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let token = self.token().await?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        let answer = self.bare.send(request).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The account was made again, or the server has another key: the next request shows
            // another token.
            let mut held = self.held.lock().await;
            if held.as_ref().is_some_and(|h| h.token == token) {
                *held = None;
            }
        }
        Ok(answer)
    }

    async fn token(&self) -> Result<String, BoxError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(good) = held.as_ref().filter(|h| now < h.renew_at) {
            return Ok(good.token.clone());
        }
        let failure: BoxError = match tokio::time::timeout(ASK_WITHIN, self.ask()).await {
            Ok(Ok(fresh)) => return Ok(held.insert(fresh).token.clone()),
            Ok(Err(e)) => e,
            Err(_) => format!("no answer within {} s", ASK_WITHIN.as_secs()).into(),
        };
        match held.as_mut().filter(|h| now < h.ends) {
            Some(old) => {
                tracing::warn!(account = self.name, "no new token: {failure}");
                old.renew_at = now + ASK_AGAIN;
                Ok(old.token.clone())
            }
            None => Err(format!("a token of {NAMESPACE}/{}: {failure}", self.name).into()),
        }
    }

    async fn ask(&self) -> Result<AccountToken, BoxError> {
        let asked = Instant::now();
        let api: Api<ServiceAccount> = Api::namespaced(self.own.clone(), NAMESPACE);
        let spec = TokenRequestSpec {
            expiration_seconds: Some(LIFETIME_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest {
            spec: Some(spec),
            ..TokenRequest::default()
        };
        let params = PostParams::default();
        let answer = match api
            .create_token_request(&self.name, &params, &request)
            .await
        {
            Err(e) if code_of(&e) == Some(404) => {
                self.make(&api).await?;
                api.create_token_request(&self.name, &params, &request)
                    .await?
            }
            answer => answer?,
        };
        let token = answer.status.and_then(|s| s.token);
        let token = token.ok_or("the answer holds no token")?;
        // By this process's clock, which may differ from the server's.
        let seconds = answer.spec.and_then(|s| s.expiration_seconds);
        let seconds = seconds.unwrap_or(LIFETIME_SECONDS);
        let lifetime = Duration::from_secs(seconds.try_into().unwrap_or(0));
        Ok(AccountToken {
            token,
            renew_at: asked + lifetime * 4 / 5,
            ends: asked + lifetime,
        })
    }

    /// Makes the account, and its namespace in a cluster that is just being made.
    async fn make(&self, api: &Api<ServiceAccount>) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(self.name.clone());
        match api.create(&params, &account).await {
            Err(e) if code_of(&e) == Some(404) => {}
            Err(e) if code_of(&e) == Some(409) => return Ok(()),
            made => return made.map(drop),
        }
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.to_owned());
        match Api::all(self.own.clone()).create(&params, &namespace).await {
            Err(e) if code_of(&e) != Some(409) => return Err(e),
            _ => {}
        }
        api.create(&params, &account).await.map(drop)
    }
}

fn code_of(e: &kube::Error) -> Option<u16> {
    match e {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    use super::*;

    fn answer(code: u16, body: &Value) -> Response<Body> {
        let body = Body::from(body.to_string().into_bytes());
        Response::builder().status(code).body(body).expect("answer")
    }

    fn refused(code: u16) -> Response<Body> {
        let text = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "no", "reason": "Unknown", "code": code });
        answer(code, &text)
    }

    /// The server as a component meets it: which requests for tokens it sees, whether it has the
    /// account, which token it takes.
    #[derive(Default)]
    struct Server {
        has_account: AtomicUsize,
        asked: AtomicUsize,
        down: AtomicUsize,
        seen: Mutex<Vec<String>>,
    }

    fn clients(server: &Arc<Server>) -> Accounts {
        let at = server.clone();
        let own = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let reply = if at.down.load(Ordering::SeqCst) > 0 {
                refused(503)
            } else if !path.ends_with("/token") {
                at.has_account.store(1, Ordering::SeqCst);
                answer(201, &json!({ "metadata": { "name": "part" } }))
            } else if at.has_account.load(Ordering::SeqCst) == 0 {
                refused(404)
            } else {
                let number = at.asked.fetch_add(1, Ordering::SeqCst);
                answer(
                    201,
                    &json!({ "metadata": {}, "spec": { "audiences": [], "expirationSeconds": 1_000 },
                    "status": { "token": format!("t{number}"), "expirationTimestamp": "2026-01-01T00:00:00Z" } }),
                )
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(reply))
        });
        let at = server.clone();
        let bare = tower::service_fn(move |request: Request<Body>| {
            let shown = request.headers()[AUTHORIZATION].to_str().expect("text");
            let shown = shown.trim_start_matches("Bearer ").to_owned();
            at.seen.lock().push(shown.clone());
            let newest = format!("t{}", at.asked.load(Ordering::SeqCst) - 1);
            let reply = if shown == newest {
                answer(200, &json!({ "metadata": {} }))
            } else {
                refused(401)
            };
            std::future::ready(Ok::<_, std::convert::Infallible>(reply))
        });
        Accounts::by_tokens(Client::new(own, "default"), Client::new(bare, "default"))
    }

    async fn read(accounts: &Accounts) -> Result<ConfigMap, kube::Error> {
        Api::namespaced(accounts.of("part"), "a").get("x").await
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_made_kept_and_renewed_before_they_end() {
        let server = Arc::new(Server::default());
        let accounts = clients(&server);
        read(&accounts).await.expect("the account is made");
        read(&accounts).await.expect("the token is kept");
        assert_eq!(*server.seen.lock(), ["t0", "t0"]);
        tokio::time::advance(Duration::from_secs(799)).await;
        read(&accounts).await.expect("still good");
        tokio::time::advance(Duration::from_secs(2)).await;
        read(&accounts).await.expect("renewed");
        assert_eq!(server.seen.lock().last().expect("seen"), "t1");
        // While no new one is to be had, the old one serves to its end.
        server.down.store(1, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(900)).await;
        read(&accounts).await.expect("not ended yet");
        tokio::time::advance(Duration::from_secs(200)).await;
        let error = read(&accounts).await.expect_err("it has ended");
        assert!(error.to_string().contains("kube-system/part"), "{error}");
        server.down.store(0, Ordering::SeqCst);
        read(&accounts).await.expect("a new one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_refused_is_not_shown_again() {
        let server = Arc::new(Server::default());
        let accounts = clients(&server);
        read(&accounts).await.expect("a token");
        // Somebody else asked: by this server's rule the first is void.
        server.asked.fetch_add(1, Ordering::SeqCst);
        assert!(read(&accounts).await.is_err());
        read(&accounts).await.expect("another token");
        assert_eq!(*server.seen.lock(), ["t0", "t0", "t2"]);
    }

    #[tokio::test]
    async fn each_account_writes_with_the_fence() {
        let seen: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
        let client = |name: &str, seen: &Arc<Mutex<Vec<(String, bool)>>>| {
            let (name, seen) = (name.to_owned(), seen.clone());
            let service = tower::service_fn(move |request: Request<Body>| {
                let fenced = request.headers().contains_key(Fence::HEADER);
                seen.lock().push((name.clone(), fenced));
                std::future::ready(Ok::<_, std::convert::Infallible>(refused(403)))
            });
            Client::new(service, "default")
        };
        let own = client("own", &seen);
        let parts = seen.clone();
        let accounts = Accounts::new(own, move |name| client(name, &parts));
        let fence = Fence {
            namespace: NAMESPACE.into(),
            name: "x".into(),
            revision: 7,
        };
        let fenced = accounts.fenced(&fence);
        for client in [accounts.of("a"), fenced.of("b"), fenced.own().clone()] {
            let api: Api<ConfigMap> = Api::namespaced(client, "a");
            let (params, object) = (PostParams::default(), ConfigMap::default());
            assert!(api.create(&params, &object).await.is_err());
        }
        let want = [("a", false), ("b", true), ("own", true)];
        assert_eq!(*seen.lock(), want.map(|(n, f)| (n.to_owned(), f)));
    }
}
