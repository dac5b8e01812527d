//! Figures of the proxy, under upstream's names where they mean the same.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clock::Clock;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Figures of another part of the same process, for the same page: in the OpenMetrics text format,
/// without the mark of its end.
#[derive(Clone, Default)]
pub struct Beside(Option<Arc<dyn Fn() -> String + Send + Sync>>);

impl Beside {
    /// What the function says at the time.
    pub fn new(text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(text)))
    }
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Beside")
    }
}

/// The proxy's metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    sync_seconds: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    failures: Counter,
    services: Gauge,
    clock: Clock,
}

impl Metrics {
    /// Nothing was done yet.
    pub fn new(clock: Clock) -> Self {
        let mut registry = Registry::default();
        let sync_seconds = Histogram::new(exponential_buckets(0.0001, 2.0, 18));
        let last_sync = Gauge::<f64, AtomicU64>::default();
        let failures = Counter::default();
        let services = Gauge::default();
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring a change into the kernel",
            sync_seconds.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the rules were last brought up to date",
            last_sync.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures",
            "Transactions that the kernel refused",
            failures.clone(),
        );
        registry.register(
            "tiphys_proxy_services",
            "Services that have rules",
            services.clone(),
        );
        Self {
            registry: Arc::new(registry),
            sync_seconds,
            last_sync,
            failures,
            services,
            clock,
        }
    }

    /// A change is in the kernel.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
        let now = self.clock.now().as_duration();
        self.last_sync.set(now.as_secs_f64());
    }

    /// The kernel refused a change.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// So many Services have rules.
    pub fn services(&self, count: usize) {
        self.services.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self, beside: &Beside) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        // What the API refused to any part of this process, before the end's mark.
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.insert_str(end, &client::refusals::metrics());
        text.insert_str(
            end,
            &beside.0.as_ref().map(|more| more()).unwrap_or_default(),
        );
        text
    }
}
