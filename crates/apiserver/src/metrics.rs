//! The server's own figures, in upstream's names.

pub mod admission;
pub mod allocators;
pub mod audit;
pub mod authorization;
mod cel;
pub mod identity;
pub mod policies;
pub mod requests;
pub mod watch_cache;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use metrics::Quick;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use registry::{Features, Row};

use admission::AdmissionMetrics;
use allocators::AllocatorMetrics;
use audit::AuditMetrics;
use authorization::AuthorizationMetrics;
use identity::IdentityMetrics;
use policies::PolicyMetrics;
use requests::RequestMetrics;
use webhooks::WebhookMetrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResourceLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StoredLabels {
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FeatureLabels {
    name: &'static str,
    stage: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

/// Figures of the calls to the store. Clones share them.
#[derive(Clone)]
pub struct StoreMetrics {
    durations: Arc<Quick<OperationLabels, Histogram>>,
    calls: Arc<Quick<OperationLabels, Counter>>,
    errors: Family<OperationLabels, Counter>,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            durations: Arc::new(Quick::new(Family::new_with_constructor(
                of_store as fn() -> Histogram,
            ))),
            calls: Arc::new(Quick::new(Family::default())),
            errors: Family::default(),
        }
    }
}

impl StoreMetrics {
    /// Counts a call when it has ended.
    pub fn call(&self, operation: &'static str, took: Duration, failed: bool) {
        let labels = OperationLabels { operation };
        self.durations
            .count(&labels, |histogram| histogram.observe(took.as_secs_f64()));
        self.calls.count(&labels, |counter| {
            counter.inc();
        });
        if failed {
            self.errors.get_or_create(&labels).inc();
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "etcd_request_duration_seconds",
            "Time of calls to the store, whichever it is",
            self.durations.family().clone(),
        );
        registry.register(
            "etcd_requests",
            "Calls to the store",
            self.calls.family().clone(),
        );
        registry.register(
            "etcd_request_errors",
            "Calls to the store that failed",
            self.errors.clone(),
        );
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConversionLabels {
    crd_name: String,
    from_version: String,
    to_version: String,
    succeeded: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConversionResult {
    result: &'static str,
    failure_type: &'static str,
}

/// Calls of conversion webhooks, in upstream's names.
#[derive(Clone)]
pub struct ConversionMetrics {
    durations: Family<ConversionLabels, Histogram>,
    results: Family<ConversionResult, Counter>,
}

impl Default for ConversionMetrics {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(seconds as fn() -> Histogram),
            results: Family::default(),
        }
    }
}

impl ConversionMetrics {
    /// Counts a call for objects of a definition, by their versions; `failure` is empty for none.
    pub fn call(&self, crd: &str, versions: (&str, &str), took: Duration, failure: &'static str) {
        let succeeded = if failure.is_empty() { "true" } else { "false" };
        let result = if failure.is_empty() {
            "success"
        } else {
            "failure"
        };
        let labels = ConversionLabels {
            crd_name: crd.to_owned(),
            from_version: versions.0.to_owned(),
            to_version: versions.1.to_owned(),
            succeeded,
        };
        self.durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let labels = ConversionResult {
            result,
            failure_type: failure,
        };
        self.results.get_or_create(&labels).inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_crd_conversion_webhook_duration_seconds",
            "CRD webhook conversion duration in seconds",
            self.durations.clone(),
        );
        registry.register(
            "apiserver_conversion_webhook_request",
            "Calls of conversion webhooks, with what went wrong",
            self.results.clone(),
        );
    }
}

/// Uses of service accounts' tokens, in upstream's names.
#[derive(Default)]
pub struct TokenMetrics {
    /// Of pods' tokens that their clients should have read again by then.
    pub stale: Counter,
    /// Of pods' tokens before that time.
    pub valid: Counter,
    /// Of tokens in Secrets, all of them.
    pub legacy: Counter,
    /// Of those in Secrets that somebody made.
    pub legacy_manual: Counter,
    /// Of those in Secrets that a former release's controller made.
    pub legacy_auto: Counter,
    /// Of those that are marked invalid; refused.
    pub legacy_invalid: Counter,
}

impl TokenMetrics {
    fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "serviceaccount_stale_tokens",
                "Uses of projected service account tokens that were not refreshed in time",
                &self.stale,
            ),
            (
                "serviceaccount_valid_tokens",
                "Uses of projected service account tokens that were refreshed in time",
                &self.valid,
            ),
            (
                "serviceaccount_legacy_tokens",
                "Uses of service account tokens that lie in Secrets",
                &self.legacy,
            ),
            (
                "serviceaccount_legacy_manual_token_uses",
                "Uses of service account tokens in Secrets that were made by hand",
                &self.legacy_manual,
            ),
            (
                "serviceaccount_legacy_auto_token_uses",
                "Uses of service account tokens in Secrets that were made by a controller",
                &self.legacy_auto,
            ),
            (
                "serviceaccount_invalid_legacy_auto_token_uses",
                "Refused uses of service account tokens in Secrets that are marked invalid",
                &self.legacy_invalid,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}

/// All figures.
pub struct Metrics {
    registry: Registry,
    /// Uses of service accounts' tokens.
    pub tokens: TokenMetrics,
    pub conversions: ConversionMetrics,
    /// Webhooks of admission, and match conditions.
    pub webhooks: WebhookMetrics,
    pub policies: PolicyMetrics,
    pub admission: AdmissionMetrics,
    pub allocators: AllocatorMetrics,
    pub audit: AuditMetrics,
    pub identity: IdentityMetrics,
    pub authorization: AuthorizationMetrics,
    pub requests: RequestMetrics,
    objects: Family<ResourceLabels, Gauge>,
    stored: Family<StoredLabels, Gauge>,
    features: Family<FeatureLabels, Gauge>,
}

/// Upstream's bounds, and some below a millisecond's for the store in this process.
fn of_store() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0,
        5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    ])
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&StoreMetrics::default(), "")
    }
}

impl Metrics {
    /// `server`: the name of this one among those of a cluster.
    pub fn new(store: &StoreMetrics, server: &str) -> Self {
        cel::count_rules();
        let mut registry = Registry::default();
        store.register(&mut registry);
        let tokens = TokenMetrics::default();
        tokens.register(&mut registry);
        let conversions = ConversionMetrics::default();
        conversions.register(&mut registry);
        let webhooks = WebhookMetrics::default();
        webhooks.register(&mut registry);
        let policies = PolicyMetrics::default();
        policies.register(&mut registry);
        let admission = AdmissionMetrics::new();
        admission.register(&mut registry);
        let allocators = AllocatorMetrics::default();
        allocators.register(&mut registry);
        let audit = AuditMetrics::default();
        audit.register(&mut registry);
        let identity = IdentityMetrics::new(server);
        identity.register(&mut registry);
        let authorization = AuthorizationMetrics::new(server);
        authorization.register(&mut registry);
        let requests = RequestMetrics::new();
        requests.register(&mut registry);
        let (objects, stored) = (Family::default(), Family::default());
        registry.register(
            "apiserver_resource_objects",
            "Objects in the cache",
            objects.clone(),
        );
        registry.register(
            "apiserver_storage_objects",
            "Stored objects at the time of the last look",
            stored.clone(),
        );
        let features = Family::default();
        registry.register(
            "kubernetes_feature_enabled",
            "How far each feature of Kubernetes has come, and whether it is on",
            features.clone(),
        );
        Self {
            registry,
            tokens,
            conversions,
            webhooks,
            policies,
            admission,
            allocators,
            audit,
            identity,
            authorization,
            requests,
            objects,
            stored,
            features,
        }
    }

    /// Notes which features are on.
    pub fn features(&self, features: &Features) {
        for (name, stage, on) in features.all() {
            let labels = FeatureLabels { name, stage };
            self.features.get_or_create(&labels).set(i64::from(on));
        }
    }

    /// The lines that `/metrics` shows, without the end's mark; `objects`: how many each cache has, `more`: further
    /// lines.
    pub fn text(&self, objects: impl Iterator<Item = (Arc<Row>, usize)>, more: &str) -> String {
        for (row, count) in objects {
            let labels = ResourceLabels {
                group: row.group.to_string(),
                resource: row.resource.to_string(),
            };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.objects.get_or_create(&labels).set(count);
            let resource = match &*row.group {
                "" => row.resource.to_string(),
                group => format!("{}.{group}", row.resource),
            };
            let labels = StoredLabels { resource };
            self.stored.get_or_create(&labels).set(count);
        }
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry);
        let end = out.strip_suffix("# EOF\n").map_or(out.len(), str::len);
        out.truncate(end);
        out + more
    }
}
