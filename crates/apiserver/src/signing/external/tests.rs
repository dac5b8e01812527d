//! A service of keys on this machine, and tokens that it signs.

use std::sync::atomic::AtomicUsize;

use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use tonic::Status;

use super::*;
use crate::unix_grpc::testing::{self, Answer, Served, unary};

/// What stands before the point of a key of P-256 in its PKIX form.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A service that signs with the last of its keys.
struct Service {
    keys: Mutex<Vec<Key>>,
    /// The header of its tokens in place of a good one.
    header: Mutex<Option<Value>>,
    hint: Mutex<i64>,
    longest: i64,
    fetches: AtomicUsize,
}

struct Key {
    id: String,
    pair: EcdsaKeyPair,
    is_excluded: bool,
}

impl Key {
    fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let der = der.expect("a key");
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random);
        Self {
            id: id.to_owned(),
            pair: pair.expect("a key"),
            is_excluded: false,
        }
    }
}

impl Service {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::new(vec![Key::new("one")]),
            header: Mutex::default(),
            hint: Mutex::new(3600),
            longest: 7200,
            fetches: AtomicUsize::new(0),
        })
    }

    fn sign(&self, asked: &SignRequest) -> Result<SignResponse, Status> {
        let keys = self.keys.lock();
        let key = keys.last().ok_or_else(|| Status::internal("no keys"))?;
        let good = json!({ "alg": "ES256", "kid": key.id, "typ": "JWT" });
        let header = self.header.lock().clone().unwrap_or(good);
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        let signed = format!("{header}.{}", asked.claims);
        let signature = key.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| Status::internal("not signed"))?;
        Ok(SignResponse {
            header,
            signature: URL_SAFE_NO_PAD.encode(signature),
        })
    }

    fn named(&self) -> KeysResponse {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let public = |key: &Key| PublicKey {
            key_id: key.id.clone(),
            key: [&P256[..], key.pair.public_key().as_ref()].concat().into(),
            exclude_from_oidc_discovery: key.is_excluded,
        };
        KeysResponse {
            keys: self.keys.lock().iter().map(public).collect(),
            data_timestamp: Some(Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            }),
            refresh_hint_seconds: *self.hint.lock(),
        }
    }

    fn metadata(&self) -> MetadataResponse {
        MetadataResponse {
            max_token_expiration_seconds: self.longest,
        }
    }
}

async fn answer(service: Arc<Service>, request: http::Request<hyper::body::Incoming>) -> Answer {
    match request.uri().path() {
        SIGN => unary(request, |asked: SignRequest| service.sign(&asked)).await,
        FETCH_KEYS => unary(request, |_: KeysRequest| Ok(service.named())).await,
        _ => unary(request, |_: MetadataRequest| Ok(service.metadata())).await,
    }
}

fn serve(service: &Arc<Service>) -> Served {
    let service = service.clone();
    testing::serve(move |request| answer(service.clone(), request))
}

fn clock() -> Clock {
    Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH)
}

async fn connect(served: &Served) -> Result<Arc<External>, SignerError> {
    let path = served.path();
    External::connect(path.to_str().expect("a path"), clock()).await
}

fn why<T>(done: Result<T, SignerError>) -> String {
    done.err().map(|e| e.to_string()).unwrap_or_default()
}

fn ids(jwks: &Value) -> Vec<&str> {
    let keys = jwks["keys"].as_array().into_iter().flatten();
    keys.filter_map(|key| key["kid"].as_str()).collect()
}

#[tokio::test]
async fn tokens_are_signed_there_and_verified_here_while_keys_change() {
    let service = Service::new();
    let served = serve(&service);
    let signer = connect(&served).await.expect("an answer");
    assert_eq!(signer.longest_seconds(), Some(7200));
    let claims = json!({ "sub": "a" });
    let old = signer.sign(&claims).await.expect("signed");
    assert_eq!(signer.verify(&old).await.expect("verified"), claims);
    assert_eq!(ids(&signer.jwks()), ["one"]);
    assert_eq!(signer.jwks()["keys"][0]["alg"], "ES256");
    assert!(signer.jwks_hold_for() <= 3600);
    assert_eq!(service.fetches.load(Ordering::Relaxed), 1);

    // Another one signs: its name is not known here, so that keys are fetched.
    service.keys.lock().push(Key::new("two"));
    let before = signer.edition();
    let new = signer.sign(&claims).await.expect("signed");
    assert_eq!(service.fetches.load(Ordering::Relaxed), 2);
    assert_ne!(signer.edition(), before);
    for token in [&old, &new] {
        assert_eq!(signer.verify(token).await.expect("verified"), claims);
    }
    assert_eq!(service.fetches.load(Ordering::Relaxed), 2);

    // One that only vouches for older tokens is not shown to others.
    service.keys.lock()[0].is_excluded = true;
    signer.refresh().await.expect("fetched");
    assert_eq!(ids(&signer.jwks()), ["two"]);
    assert!(signer.verify(&old).await.is_ok());

    // One that went vouches for nothing.
    service.keys.lock().remove(0);
    let before = signer.edition();
    signer.refresh().await.expect("fetched");
    assert_ne!(signer.edition(), before);
    assert!(signer.verify(&old).await.is_err());
    let before = signer.edition();
    signer.refresh().await.expect("fetched");
    assert_eq!(signer.edition(), before, "the keys are the same");
}

#[tokio::test]
async fn keys_are_fetched_when_the_service_says_so() {
    let service = Service::new();
    *service.hint.lock() = 1;
    let served = serve(&service);
    let signer = connect(&served).await.expect("an answer");
    let stop = CancellationToken::new();
    let following = tokio::spawn(signer.clone().follow(stop.clone()));
    let before = signer.edition();
    service.keys.lock().push(Key::new("two"));
    while signer.edition() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(ids(&signer.jwks()), ["one", "two"]);
    stop.cancel();
    following.await.expect("it ends");
}

#[tokio::test]
async fn a_service_that_is_gone_is_missed_by_what_needs_it_alone() {
    let service = Service::new();
    let served = serve(&service);
    let signer = connect(&served).await.expect("an answer");
    let claims = json!({ "sub": "a" });
    let token = signer.sign(&claims).await.expect("signed");
    service.keys.lock().push(Key::new("two"));
    let elsewhere = connect(&served).await.expect("an answer");
    let unknown = elsewhere.sign(&claims).await.expect("signed");
    served.end().await;
    assert!(why(signer.sign(&claims).await).starts_with(SIGN));
    assert_eq!(signer.verify(&token).await.expect("verified"), claims);
    assert!(why(signer.verify(&unknown).await).starts_with(FETCH_KEYS));
    assert!(signer.refresh().await.is_err());
    assert_eq!(
        ids(&signer.jwks()),
        ["one"],
        "the keys that are known count"
    );
}

#[tokio::test]
async fn headers_that_others_do_not_understand_are_refused() {
    let service = Service::new();
    let served = serve(&service);
    let signer = connect(&served).await.expect("an answer");
    let claims = json!({});
    for (header, want) in [
        (json!({ "alg": "ES256", "kid": "one" }), "bad type"),
        (json!({ "alg": "ES256", "typ": "JWT" }), "key id missing"),
        (
            json!({ "alg": "ES256", "typ": "JWT", "kid": "k".repeat(1025) }),
            "key id longer than 1 kb",
        ),
        (
            json!({ "alg": "HS256", "kid": "one", "typ": "JWT" }),
            "bad signing algorithm \"HS256\"",
        ),
        (
            json!({ "alg": "ES256", "kid": "one", "typ": "JWT", "jku": "x" }),
            "unknown field",
        ),
    ] {
        *service.header.lock() = Some(header);
        let why = why(signer.sign(&claims).await);
        assert!(why.contains(want), "{why}");
    }
    *service.header.lock() = None;
    service.keys.lock()[0].is_excluded = true;
    signer.refresh().await.expect("fetched");
    let why = why(signer.sign(&claims).await);
    assert!(why.contains("excluded from OIDC discovery"), "{why}");
}

#[tokio::test]
async fn answers_of_no_use_are_refused() {
    let mut service = Service::new();
    Arc::get_mut(&mut service).expect("ours").longest = 599;
    let served = serve(&service);
    let short = why(connect(&served).await);
    assert!(short.contains("(599s) is less than acceptable"), "{short}");
    *service.hint.lock() = 0;
    let hint = why(connect(&served).await);
    assert_eq!(hint, "found invalid refresh hint (0s)");
    *service.hint.lock() = i64::MAX;
    service.keys.lock().clear();
    assert_eq!(why(connect(&served).await), "found no keys");
    service.keys.lock().push(Key::new(""));
    let unnamed = why(connect(&served).await);
    assert_eq!(unnamed, "found invalid public key id \"\"");
}

#[test]
fn codes_are_named_as_upstream_does() {
    let named = [Code::Ok, Code::Cancelled, Code::DeadlineExceeded].map(code_name);
    assert_eq!(named, ["OK", "Canceled", "DeadlineExceeded"]);
    let wrong = Err::<(), _>(SignerError::Answer("x".into()));
    assert_eq!(outcome(&wrong), "unknown-non-grpc");
}
