//! Tokens that somebody else than the cluster's own key signs.

use std::sync::atomic::{AtomicU64, Ordering};

use apiserver::signing::{SignerError, TokenSigner};
use futures::future::BoxFuture;
use parking_lot::RwLock;

use super::*;

/// A signer whose key can be exchanged, or go.
struct Exchanged {
    key: RwLock<Option<Signer>>,
    edition: AtomicU64,
    longest_seconds: i64,
}

impl Exchanged {
    fn now_has(&self, key: Option<Signer>) {
        *self.key.write() = key;
        self.edition.fetch_add(1, Ordering::Relaxed);
    }

    fn with<T>(&self, f: impl FnOnce(&Signer) -> Result<T, SignerError>) -> Result<T, SignerError> {
        match &*self.key.read() {
            Some(key) => f(key),
            None => Err(SignerError::Answer("the signer is away".into())),
        }
    }
}

impl TokenSigner for Exchanged {
    fn sign<'a>(&'a self, claims: &'a Value) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move { self.with(|key| Ok(key.sign(claims)?)) })
    }

    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, SignerError>> {
        Box::pin(async move { self.with(|key| Ok(key.verify(token)?)) })
    }

    fn jwks(&self) -> Value {
        self.with(|key| Ok(key.jwks())).unwrap_or_default()
    }

    fn jwks_hold_for(&self) -> u64 {
        77
    }

    fn edition(&self) -> u64 {
        self.edition.load(Ordering::Relaxed)
    }

    fn longest_seconds(&self) -> Option<i64> {
        Some(self.longest_seconds)
    }
}

fn new_key() -> Option<Signer> {
    Some(Signer::generate().expect("key").0)
}

async fn answered(s: &ApiServer, method: Method, uri: &str, body: &Value) -> Response<Body> {
    let service = s.local_service(admin());
    let asked = service.oneshot(plain(method, uri, body)).await;
    asked.expect("infallible")
}

#[tokio::test]
async fn an_external_signers_keys_and_bounds_count() {
    let signer = Arc::new(Exchanged {
        key: RwLock::new(new_key()),
        edition: AtomicU64::new(0),
        longest_seconds: 1200,
    });
    let tokens = Tokens::new(signer.clone(), ISSUER);
    let config =
        common::config_at("127.0.0.1", 6443).secured(tokens, &admission::Options::default());
    let s = server_with(config).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    make(&s, accounts, account("x")).await;
    let uri = format!("{accounts}/x/token");
    let ask =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let made = answered(&s, Method::POST, &uri, &ask).await;
    let warning = made.headers().get("warning").map(|w| w.to_str());
    let warning = warning.and_then(Result::ok).unwrap_or_default().to_owned();
    assert!(
        warning.contains("requested expiration of 3600 seconds shortened to 1200 seconds"),
        "{warning}"
    );
    let (code, made) = read(made).await;
    assert_eq!(
        (code, &made["spec"]["expirationSeconds"]),
        (201, &json!(1200))
    );
    let token = made["status"]["token"].as_str().unwrap_or_default();
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 200);

    let page = answered(&s, Method::GET, "/openid/v1/jwks", &Value::Null).await;
    assert_eq!(page.headers()["cache-control"], "public, max-age=77");
    assert_eq!(read(page).await.1, signer.jwks());

    // A token that was believed is not believed by its being remembered.
    signer.now_has(new_key());
    assert_eq!(with_token(&s, token, Method::GET, "/version").await.0, 401);

    signer.now_has(None);
    let (code, refused) = by(&s, &admin(), Method::POST, &uri, ask).await;
    assert_eq!(code, 500);
    assert!(
        message(&refused).contains("failed to generate token: the signer is away"),
        "{refused}"
    );
}
