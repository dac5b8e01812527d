//! Figures of who asks: signing in, keys of issuers, and files that configure it, in upstream's
//! names.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use metrics::Quick;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct User {
    username: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ActingAs {
    mode: &'static str,
    decision: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfIssuer {
    result: &'static str,
    jwt_issuer_hash: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeySet {
    jwt_issuer_hash: String,
    apiserver_id_hash: String,
    hash: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeyFetch {
    result: &'static str,
    jwt_issuer_hash: String,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: &'static str,
    apiserver_id_hash: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HashLabels {
    apiserver_id_hash: String,
    hash: String,
}

/// As upstream: `sha256:` and the digest, nothing of nothing.
pub(super) fn hash(data: &[u8]) -> String {
    use std::fmt::Write;
    if data.is_empty() {
        return String::new();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, data);
    let mut out = String::from("sha256:");
    for byte in digest.as_ref() {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

pub(super) fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

fn of_tokens() -> Histogram {
    Histogram::new([
        0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// Changes of a file that were put into effect, or were not.
pub struct Reloads {
    server: String,
    all: Family<Status, Counter>,
    last: Family<Status, Gauge>,
    held: Family<HashLabels, Gauge>,
}

impl Reloads {
    /// `server`: the digest of this one's name.
    pub(super) fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            all: Family::default(),
            last: Family::default(),
            held: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry, what: &str) {
        let prefix = format!("apiserver_{what}_config_controller");
        let part = registry.sub_registry_with_prefix(prefix);
        part.register(
            "automatic_reloads",
            "Changes of the configuration's file, by what became of them",
            self.all.clone(),
        );
        part.register(
            "automatic_reload_last_timestamp_seconds",
            "When the file was last read again, in seconds since the epoch",
            self.last.clone(),
        );
        part.register(
            "last_config_info",
            "The configuration in effect, by its digest",
            self.held.clone(),
        );
    }

    fn count(&self, status: &'static str, now: i64) {
        let labels = Status {
            status,
            apiserver_id_hash: self.server.clone(),
        };
        self.all.get_or_create(&labels).inc();
        self.last.get_or_create(&labels).set(now);
    }

    pub fn succeeded(&self, now: i64) {
        self.count("success", now);
    }

    pub fn failed(&self, now: i64) {
        self.count("failure", now);
    }

    /// What is in effect.
    pub fn holds(&self, bytes: &[u8]) {
        self.held.clear();
        let labels = HashLabels {
            apiserver_id_hash: self.server.clone(),
            hash: hash(bytes),
        };
        self.held.get_or_create(&labels).set(1);
    }
}

/// What came of asking an issuer for its keys.
pub enum Fetched<'a> {
    /// As they were published.
    Keys(&'a [u8]),
    Failed,
}

/// The figures.
pub struct IdentityMetrics {
    server: String,
    /// These two are counters; this library gives those a suffix that upstream's names lack.
    attempts: Quick<Outcome, Gauge>,
    users: Quick<User, Gauge>,
    durations: Quick<Outcome, Histogram>,
    jwt: Family<OfIssuer, Histogram>,
    fetches: Family<KeyFetch, Gauge>,
    key_sets: Family<KeySet, Gauge>,
    /// The digest of each issuer's keys, so that the one before goes from the figures.
    last_keys: Mutex<HashMap<String, KeySet>>,
    impersonations: Family<ActingAs, Counter>,
    impersonation_seconds: Family<ActingAs, Histogram>,
    impersonation_checks: Family<ActingAs, Counter>,
    impersonation_check_seconds: Family<ActingAs, Histogram>,
    pub refusals: Lines,
    token_webhook: Family<Outcome, Histogram>,
    pub token_webhook_lines: Lines,
    pub authentication: Reloads,
    /// Of how what is stored is encrypted.
    pub encryption: Reloads,
}

impl IdentityMetrics {
    /// `server`: the name of this one, of which labels have a digest.
    pub(super) fn new(server: &str) -> Self {
        let server = hash(server.as_bytes());
        Self {
            attempts: Quick::new(Family::default()),
            users: Quick::new(Family::default()),
            durations: Quick::new(Family::new_with_constructor(seconds as fn() -> Histogram)),
            jwt: Family::new_with_constructor(of_tokens as fn() -> Histogram),
            fetches: Family::default(),
            key_sets: Family::default(),
            last_keys: Mutex::default(),
            impersonations: Family::default(),
            impersonation_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            impersonation_checks: Family::default(),
            impersonation_check_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            refusals: Lines::default(),
            token_webhook: Family::new_with_constructor(of_tokens as fn() -> Histogram),
            token_webhook_lines: Lines::default(),
            authentication: Reloads::new(&server),
            encryption: Reloads::new(&server),
            server,
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "authentication_attempts",
            "Requests by whether it is known who asks",
            self.attempts.family().clone(),
        );
        registry.register(
            "authenticated_user_requests",
            "Requests of known users, by kinds of names",
            self.users.family().clone(),
        );
        registry.register(
            "authentication_duration_seconds",
            "Time of finding out who asks",
            self.durations.family().clone(),
        );
        let part = registry.sub_registry_with_prefix("apiserver_authentication");
        part.register(
            "jwt_authenticator_latency_seconds",
            "Time of judging tokens of issuers that were not judged just before",
            self.jwt.clone(),
        );
        part.register(
            "jwt_authenticator_jwks_fetch_last_timestamp_seconds",
            "When an issuer was last asked for its keys, in seconds since the epoch",
            self.fetches.clone(),
        );
        part.register(
            "jwt_authenticator_jwks_fetch_last_key_set_info",
            "The keys of an issuer that count, by their digest",
            self.key_sets.clone(),
        );
        let part = registry.sub_registry_with_prefix("apiserver_impersonation");
        part.register(
            "attempts",
            "Requests that act as somebody else, by the way of it and whether it was allowed",
            self.impersonations.clone(),
        );
        part.register(
            "attempts_duration_seconds",
            "Time of deciding whether requests may act as somebody else",
            self.impersonation_seconds.clone(),
        );
        part.register(
            "authorization_attempts",
            "Questions to the authorizers about acting as somebody else",
            self.impersonation_checks.clone(),
        );
        part.register(
            "authorization_attempts_duration_seconds",
            "Time of those questions",
            self.impersonation_check_seconds.clone(),
        );
        registry.register(
            "tiphys_authentication_token_webhook_duration_seconds",
            "Time of asking the webhook about a token, each try by itself",
            self.token_webhook.clone(),
        );
        self.authentication.register(registry, "authentication");
        self.encryption.register(registry, "encryption");
    }

    /// Counts a request that was let in, by its user, or was not: `failure` without credentials,
    /// `error` with wrong ones.
    pub fn attempt(&self, took: Duration, who: Result<&str, &'static str>) {
        let result = match who {
            Ok(name) => {
                let username = compressed(name);
                self.users.count(&User { username }, |gauge| {
                    gauge.inc();
                });
                "success"
            }
            Err(result) => result,
        };
        let labels = Outcome { result };
        self.attempts.count(&labels, |gauge| {
            gauge.inc();
        });
        self.durations
            .count(&labels, |histogram| histogram.observe(took.as_secs_f64()));
    }

    /// Counts a token that was judged.
    pub fn jwt(&self, issuer: &str, took: Duration, good: bool) {
        let labels = OfIssuer {
            result: if good { "success" } else { "failure" },
            jwt_issuer_hash: hash(issuer.as_bytes()),
        };
        let histogram = self.jwt.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a request that wants to act as somebody else.
    pub fn impersonation(&self, mode: &'static str, decision: &'static str, took: Duration) {
        let labels = ActingAs { mode, decision };
        self.impersonations.get_or_create(&labels).inc();
        let histogram = self.impersonation_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a question to the authorizers about it.
    pub fn impersonation_check(&self, mode: &'static str, decision: &'static str, took: Duration) {
        let labels = ActingAs { mode, decision };
        self.impersonation_checks.get_or_create(&labels).inc();
        let histogram = self.impersonation_check_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a question to the webhook about a token.
    pub fn token_webhook(&self, took: Duration, good: bool) {
        let result = if good { "success" } else { "failure" };
        let histogram = self.token_webhook.get_or_create(&Outcome { result });
        histogram.observe(took.as_secs_f64());
    }

    /// An issuer was asked for its keys.
    pub fn fetched(&self, issuer: &str, now: i64, what: Fetched<'_>) {
        let issuer = hash(issuer.as_bytes());
        let result = match what {
            Fetched::Keys(_) => "success",
            Fetched::Failed => "failure",
        };
        let labels = KeyFetch {
            result,
            jwt_issuer_hash: issuer.clone(),
            apiserver_id_hash: self.server.clone(),
        };
        self.fetches.get_or_create(&labels).set(now);
        if let Fetched::Keys(bytes) = what {
            let labels = KeySet {
                jwt_issuer_hash: issuer.clone(),
                apiserver_id_hash: self.server.clone(),
                hash: hash(bytes),
            };
            if let Some(before) = self.last_keys.lock().insert(issuer, labels.clone()) {
                self.key_sets.remove(&before);
            }
            self.key_sets.get_or_create(&labels).set(1);
        }
    }
}

/// Lines of the log that strangers can cause: one each second at most, which says how many there
/// were since the last.
#[derive(Default)]
pub struct Lines {
    last: AtomicI64,
    unsaid: AtomicU64,
}

impl Lines {
    /// Whether to write one now, and how many were not written.
    pub fn next(&self, now: i64) -> Option<u64> {
        let last = self.last.load(Ordering::Relaxed);
        let is_ours = last != now
            && self
                .last
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        match is_ours {
            true => Some(self.unsaid.swap(0, Ordering::Relaxed)),
            false => {
                self.unsaid.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Kinds of names, as upstream: names themselves would be labels without end.
fn compressed(name: &str) -> &'static str {
    match name {
        "admin" => "admin",
        "client" => "client",
        "kube_proxy" => "kube_proxy",
        "kubelet" => "kubelet",
        "system:serviceaccount:kube-system:default" => "system:serviceaccount:kube-system:default",
        name if name.contains('@') => "email_id",
        _ => "other",
    }
}
