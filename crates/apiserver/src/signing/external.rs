//! A service that keeps the keys of service accounts' tokens (upstream's protocol `externaljwt` v1,
//! over gRPC by a Unix socket). It signs; tokens are verified here, by the public keys that it
//! names. These are fetched as often as it asks for, and once more when a token names another key.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use clock::{Clock, Instant};
use futures::future::BoxFuture;
use metrics::{Counters, Gauges, Histograms};
use prost::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use wire::jwks::{Algorithm, KeySet, Token, published};

use super::{SignerError, TokenSigner};
use crate::unix_grpc::UnixGrpc;

/// What it is asked.
const SIGN: &str = "/v1.ExternalJWTSigner/Sign";
const FETCH_KEYS: &str = "/v1.ExternalJWTSigner/FetchKeys";
const METADATA: &str = "/v1.ExternalJWTSigner/Metadata";
/// As long as a request may take; upstream's default.
const SIGN_WITHIN: Duration = Duration::from_secs(60);
/// Upstream's; at the start also how long the service may be away.
const KEYS_WITHIN: Duration = Duration::from_secs(60);
const METADATA_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to reach it at the start.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// After a failure keys are fetched again; upstream's.
const FETCH_AGAIN: Duration = Duration::from_secs(10);
/// Keys are fetched once a year at least, whatever the service says: clocks count no further than they
/// can.
const LONGEST_HOLD_SECONDS: u64 = 365 * 24 * 3600;
/// The longest name of a key, in bytes; of the protocol.
const LONGEST_ID: usize = 1024;
/// The shortest life that a token can be asked for; the service must sign such ones.
const LEAST_SECONDS: i64 = 600;
/// How tokens are signed; of the protocol.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Rs256,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::Es512,
];

#[derive(Clone, PartialEq, Message)]
struct SignRequest {
    /// As they stand in the token.
    #[prost(string, tag = "1")]
    claims: String,
}

#[derive(Clone, PartialEq, Message)]
struct SignResponse {
    #[prost(string, tag = "1")]
    header: String,
    #[prost(string, tag = "2")]
    signature: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeysRequest {}

#[derive(Clone, PartialEq, Message)]
struct KeysResponse {
    #[prost(message, repeated, tag = "1")]
    keys: Vec<PublicKey>,
    #[prost(message, optional, tag = "2")]
    data_timestamp: Option<Timestamp>,
    #[prost(int64, tag = "3")]
    refresh_hint_seconds: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PublicKey {
    #[prost(string, tag = "1")]
    key_id: String,
    /// PKIX, DER.
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
    #[prost(bool, tag = "3")]
    exclude_from_oidc_discovery: bool,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct MetadataRequest {}

#[derive(Clone, PartialEq, Message)]
struct MetadataResponse {
    #[prost(int64, tag = "1")]
    max_token_expiration_seconds: i64,
}

/// A token's header, and nothing else may stand in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(default)]
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    typ: String,
}

/// What is counted, in upstream's names.
struct Figures {
    seconds: Histograms<2>,
    signings: Counters<1>,
    fetches: Counters<1>,
    fetched: Gauges<0>,
    data: Gauges<0>,
}

static FIGURES: LazyLock<Figures> = LazyLock::new(|| Figures {
    seconds: Histograms::new(
        "apiserver_externaljwt_request_duration_seconds",
        "Time of the questions to the service that signs tokens",
        ["method", "code"],
        &[
            0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        ],
    ),
    signings: Counters::new(
        "apiserver_externaljwt_sign_request_total",
        "Tokens that the service was to sign",
        ["code"],
    ),
    fetches: Counters::new(
        "apiserver_externaljwt_fetch_keys_request_total",
        "Times that the service was asked for its keys",
        ["code"],
    ),
    fetched: Gauges::new(
        "apiserver_externaljwt_fetch_keys_success_timestamp",
        "When the service last named its keys, in seconds since the epoch",
        [],
    ),
    data: Gauges::new(
        "apiserver_externaljwt_fetch_keys_data_timestamp",
        "How new its keys are, as the service says, in seconds since the epoch",
        [],
    ),
});

/// A code as gRPC's library for Go names it.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    }
}

/// What came of an attempt, as labels have it.
fn outcome<T>(done: &Result<T, SignerError>) -> String {
    match done {
        Ok(_) => code_name(Code::Ok),
        Err(SignerError::Service { status, .. }) => code_name(status.code()),
        Err(_) => "unknown-non-grpc".to_owned(),
    }
}

/// The keys that the service named.
struct Keys {
    set: KeySet,
    /// All of them with all that was said of them, to see whether others are different.
    named: Vec<PublicKey>,
    /// As others see them.
    published: Value,
    /// The names of those that others do not see: they vouch for older tokens alone.
    excluded: HashSet<String>,
    data_seconds: f64,
    edition: u64,
    /// When they are to be fetched again.
    good_until: Instant,
}

impl Keys {
    /// Those of an answer that came now.
    fn read(answer: KeysResponse) -> Result<Self, SignerError> {
        let wrong = |why: String| Err(SignerError::Answer(why));
        let hint = answer.refresh_hint_seconds;
        let Some(hold) = u64::try_from(hint).ok().filter(|hold| *hold > 0) else {
            return wrong(format!("found invalid refresh hint ({hint}s)"));
        };
        if answer.keys.is_empty() {
            return wrong("found no keys".into());
        }
        let Some(at) = answer.data_timestamp.filter(Timestamp::is_valid) else {
            return wrong("invalid data timestamp".into());
        };
        let (mut all, mut shown, mut excluded) = (Vec::new(), Vec::new(), HashSet::new());
        for key in &answer.keys {
            let id = &key.key_id;
            if id.is_empty() || id.len() > LONGEST_ID {
                return wrong(format!("found invalid public key id {id:?}"));
            }
            if key.key.is_empty() {
                return wrong("found empty public key".into());
            }
            let read = published(id, &key.key)?;
            if key.exclude_from_oidc_discovery {
                excluded.insert(id.clone());
            } else {
                shown.push(read.clone());
            }
            all.push(read);
        }
        let set = json!({ "keys": all }).to_string();
        Ok(Self {
            set: KeySet::parse(set.as_bytes())?,
            published: json!({ "keys": shown }),
            excluded,
            data_seconds: at.seconds as f64 + f64::from(at.nanos) / 1e9,
            edition: 0,
            good_until: Instant::now() + Duration::from_secs(hold.min(LONGEST_HOLD_SECONDS)),
            named: answer.keys,
        })
    }
}

impl Timestamp {
    /// Whether it is a time of the years 1 to 9999, as the protocol has them.
    fn is_valid(&self) -> bool {
        (-62_135_596_800..=253_402_300_799).contains(&self.seconds)
            && (0..1_000_000_000).contains(&self.nanos)
    }
}

/// The service.
pub struct External {
    service: UnixGrpc,
    clock: Clock,
    longest_seconds: i64,
    keys: ArcSwap<Keys>,
    /// How often keys were fetched; and of the last time what went wrong, held while they are fetched.
    rounds: AtomicU64,
    fetching: tokio::sync::Mutex<Option<String>>,
}

impl External {
    /// Waits for the service at a socket (`@NAME` is an abstract one), and asks for its keys and for
    /// how long its tokens may live.
    ///
    /// # Errors
    /// It does not come, or what it answers is of no use.
    pub async fn connect(socket: &str, clock: Clock) -> Result<Arc<Self>, SignerError> {
        let path = match socket.strip_prefix('@') {
            Some(name) => format!("\0{name}"),
            None => socket.to_owned(),
        };
        let service = UnixGrpc::new(PathBuf::from(path));
        let until = Instant::now() + KEYS_WITHIN;
        let keys = loop {
            match fetch(&service, clock).await {
                Ok(keys) => break keys,
                Err(why) if is_away(&why) && Instant::now() + TRY_AGAIN < until => {
                    tracing::info!("the signer of tokens at {socket} is waited for: {why}");
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(why) => return Err(why),
            }
        };
        let asked = ask(&service, METADATA, MetadataRequest {}, METADATA_WITHIN).await;
        let answer: MetadataResponse = asked?;
        let longest_seconds = answer.max_token_expiration_seconds;
        if longest_seconds < LEAST_SECONDS {
            let why = format!(
                "max token life supported by external-jwt-signer ({longest_seconds}s) is less than acceptable (min {LEAST_SECONDS}s)"
            );
            return Err(SignerError::Answer(why));
        }
        Ok(Arc::new(Self {
            service,
            clock,
            longest_seconds,
            keys: ArcSwap::from_pointee(keys),
            rounds: AtomicU64::new(0),
            fetching: tokio::sync::Mutex::default(),
        }))
    }

    /// Fetches the keys whenever the service said so, until `stop`. Those that are known count on while
    /// it does not answer.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut next = self.keys.load().good_until;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
            next = match self.refresh().await {
                Ok(()) => self.keys.load().good_until,
                Err(why) => {
                    tracing::error!("the keys of tokens are not fetched, older ones count: {why}");
                    Instant::now() + FETCH_AGAIN
                }
            };
        }
    }

    /// Fetches the keys. Who comes while they are fetched gets what comes of that.
    async fn refresh(&self) -> Result<(), SignerError> {
        let seen = self.rounds.load(Ordering::Acquire);
        let mut failed = self.fetching.lock().await;
        if self.rounds.load(Ordering::Acquire) != seen {
            return match &*failed {
                Some(why) => Err(SignerError::Answer(why.clone())),
                None => Ok(()),
            };
        }
        let done = fetch(&self.service, self.clock).await;
        *failed = done.as_ref().err().map(ToString::to_string);
        self.rounds.fetch_add(1, Ordering::Release);
        let mut keys = done?;
        let before = self.keys.load();
        let are_others = keys.named != before.named;
        keys.edition = before.edition + u64::from(are_others);
        if are_others {
            tracing::info!(
                "tokens are believed by other keys: {} now",
                keys.named.len()
            );
        }
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    /// The keys, among them the one of this name if the service has it.
    async fn keys_with(&self, id: &str) -> Result<Arc<Keys>, SignerError> {
        let keys = self.keys.load_full();
        if id.is_empty() || keys.set.has(id) {
            return Ok(keys);
        }
        self.refresh().await?;
        Ok(self.keys.load_full())
    }

    async fn signed(&self, claims: &Value) -> Result<String, SignerError> {
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        let request = SignRequest {
            claims: claims.clone(),
        };
        let answer: SignResponse = ask(&self.service, SIGN, request, SIGN_WITHIN).await?;
        self.check_header(&answer.header).await?;
        if answer.signature.is_empty() {
            return Err(SignerError::Answer("empty signature returned".into()));
        }
        Ok(format!("{}.{claims}.{}", answer.header, answer.signature))
    }

    /// Whether others can find out by it who has signed.
    async fn check_header(&self, header: &str) -> Result<(), SignerError> {
        let wrong = |why: String| {
            Err(SignerError::Answer(format!(
                "while validating header: {why}"
            )))
        };
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(header) else {
            return wrong("it is not base64url".into());
        };
        let header: Header = match serde_json::from_slice(&bytes) {
            Ok(header) => header,
            Err(e) => return wrong(e.to_string()),
        };
        if header.typ != "JWT" {
            return wrong("bad type".into());
        }
        if header.kid.is_empty() {
            return wrong("key id missing".into());
        }
        if header.kid.len() > LONGEST_ID {
            return wrong("key id longer than 1 kb".into());
        }
        if !ALGORITHMS.iter().any(|known| known.name() == header.alg) {
            return wrong(format!("bad signing algorithm {:?}", header.alg));
        }
        // Where the keys are not to be had, nobody has said that this one is excluded.
        let keys = match self.keys_with(&header.kid).await {
            Ok(keys) => keys,
            Err(why) => {
                tracing::warn!("the key {:?} of a token is not fetched: {why}", header.kid);
                return Ok(());
            }
        };
        match keys.excluded.contains(&header.kid) {
            true => wrong(format!(
                "key used for signing JWT (kid: {}) is excluded from OIDC discovery docs",
                header.kid
            )),
            false => Ok(()),
        }
    }

    async fn verified(&self, token: &str) -> Result<Value, SignerError> {
        let token = Token::parse(token)?;
        let keys = self.keys_with(token.key_id()).await?;
        token.verify(&keys.set)?;
        Ok(Value::Object(token.into_claims()))
    }
}

/// Whether nobody answers at the socket.
fn is_away(why: &SignerError) -> bool {
    matches!(why, SignerError::Service { status, .. } if status.code() == Code::Unavailable)
}

/// Asks the service, and counts.
async fn ask<Q, A>(
    service: &UnixGrpc,
    method: &'static str,
    request: Q,
    within: Duration,
) -> Result<A, SignerError>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let began = Instant::now();
    let done = service.call(method, request, within).await;
    let done = done.map_err(|status| SignerError::Service {
        method,
        status: Box::new(status),
    });
    let took = began.elapsed().as_secs_f64();
    FIGURES.seconds.observe([method, &outcome(&done)], took);
    done
}

/// Asks for the keys, and counts.
async fn fetch(service: &UnixGrpc, clock: Clock) -> Result<Keys, SignerError> {
    let answer = ask(service, FETCH_KEYS, KeysRequest {}, KEYS_WITHIN).await;
    let done = answer.and_then(Keys::read);
    FIGURES.fetches.add([&outcome(&done)]);
    if let Ok(keys) = &done {
        FIGURES.fetched.set([], clock.millis() as f64 / 1000.0);
        FIGURES.data.set([], keys.data_seconds);
    }
    done
}

impl TokenSigner for External {
    fn sign<'a>(&'a self, claims: &'a Value) -> BoxFuture<'a, Result<String, SignerError>> {
        Box::pin(async move {
            let done = self.signed(claims).await;
            FIGURES.signings.add([&outcome(&done)]);
            done
        })
    }

    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, SignerError>> {
        Box::pin(self.verified(token))
    }

    fn jwks(&self) -> Value {
        self.keys.load().published.clone()
    }

    fn jwks_hold_for(&self) -> u64 {
        let until = self.keys.load().good_until;
        until.saturating_duration_since(Instant::now()).as_secs()
    }

    fn edition(&self) -> u64 {
        self.keys.load().edition
    }

    fn longest_seconds(&self) -> Option<i64> {
        Some(self.longest_seconds)
    }
}

#[cfg(test)]
mod tests;
