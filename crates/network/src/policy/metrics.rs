//! Figures of network policies on a node.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The figures.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    sync_seconds: Histogram,
    failures: Counter,
    repairs: Counter,
    policies: Gauge,
    unreadable: Gauge,
    isolated: Gauge,
    waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let new = Self {
            sync_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 18)),
            failures: Counter::default(),
            repairs: Counter::default(),
            policies: Gauge::default(),
            unreadable: Gauge::default(),
            isolated: Gauge::default(),
            waiting: Gauge::default(),
            registry: Arc::default(),
        };
        registry.register(
            "tiphys_network_policy_sync_duration_seconds",
            "Time to plan a change and to bring it into the kernel",
            new.sync_seconds.clone(),
        );
        registry.register(
            "tiphys_network_policy_sync_failures",
            "Transactions that the kernel refused",
            new.failures.clone(),
        );
        registry.register(
            "tiphys_network_policy_repairs",
            "How often others had changed the rules",
            new.repairs.clone(),
        );
        registry.register(
            "tiphys_network_policies",
            "NetworkPolicies of the cluster",
            new.policies.clone(),
        );
        registry.register(
            "tiphys_network_policy_unreadable",
            "Parts of NetworkPolicies that are not understood, and allow nothing",
            new.unreadable.clone(),
        );
        registry.register(
            "tiphys_network_policy_isolated_addresses",
            "Addresses of pods of this node that a policy is for",
            new.isolated.clone(),
        );
        registry.register(
            "tiphys_network_policy_waiting_pods",
            "Pods whose start waits for their rules",
            new.waiting.clone(),
        );
        Self {
            registry: Arc::new(registry),
            ..new
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// A change is in the kernel.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// The kernel refused a change.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// The rules were not as they had been programmed.
    pub fn repaired(&self) {
        self.repairs.inc();
    }

    /// What there is now.
    pub fn count(&self, policies: usize, unreadable: usize, isolated: usize, waiting: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.policies.set(number(policies));
        self.unreadable.set(number(unreadable));
        self.isolated.set(number(isolated));
        self.waiting.set(number(waiting));
    }

    /// All of them in the OpenMetrics text format, without the mark of its end.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text.truncate(text.rfind("# EOF").unwrap_or(text.len()));
        text
    }
}
