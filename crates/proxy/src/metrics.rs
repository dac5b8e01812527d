//! Figures of the proxy, under upstream's names where they mean the same.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clock::Clock;
use host::nft::Family as Ip;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};

type Labels = Vec<(&'static str, &'static str)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;
type Times = Family<Labels, Gauge<f64, AtomicU64>>;

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
    sync_seconds: Histograms,
    full_seconds: Histograms,
    partial_seconds: Histograms,
    last_sync: Times,
    last_queued: Times,
    failures: Family<Labels, Counter>,
    service_changes: Counter,
    services_pending: Gauge,
    endpoint_changes: Counter,
    endpoints_pending: Gauge,
    no_local: Family<Labels, Gauge>,
    flows_seconds: Histograms,
    flows_deleted: Family<Labels, Counter>,
    health_answers: Family<Labels, Counter>,
    life_answers: Family<Labels, Counter>,
    services: Gauge,
    clock: Clock,
}

/// Which of its policies keeps a Service's traffic on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

/// From 0.1 ms, since changes are small.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

fn ip(family: Ip) -> Labels {
    let word = match family {
        Ip::Ip4 => "IPv4",
        Ip::Ip6 => "IPv6",
    };
    vec![("ip_family", word)]
}

fn code(healthy: bool) -> Labels {
    vec![("code", if healthy { "200" } else { "503" })]
}

/// Registers a metric of upstream's subsystem.
fn register<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(format!("kubeproxy_{name}"), help, metric.clone());
    metric
}

fn histograms(registry: &mut Registry, name: &str, help: &str) -> Histograms {
    let family = Histograms::new_with_constructor(seconds);
    register(registry, name, help, family)
}

impl Metrics {
    /// Nothing was done yet.
    pub fn new(clock: Clock) -> Self {
        let mut registry = Registry::default();
        let all = &mut registry;
        let own = Self {
            registry: Arc::default(),
            sync_seconds: histograms(
                all,
                "sync_proxy_rules_duration_seconds",
                "Time to bring a change into the kernel",
            ),
            full_seconds: histograms(
                all,
                "sync_full_proxy_rules_duration_seconds",
                "The same, when all rules were compared",
            ),
            partial_seconds: histograms(
                all,
                "sync_partial_proxy_rules_duration_seconds",
                "The same, when only what changed was looked at",
            ),
            last_sync: register(
                all,
                "sync_proxy_rules_last_timestamp_seconds",
                "When the rules were last brought up to date",
                Times::default(),
            ),
            last_queued: register(
                all,
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change was last heard of",
                Times::default(),
            ),
            failures: register(
                all,
                "sync_proxy_rules_nftables_sync_failures",
                "Transactions that the kernel refused",
                Family::default(),
            ),
            service_changes: register(
                all,
                "sync_proxy_rules_service_changes",
                "Changes of Services that were heard of",
                Counter::default(),
            ),
            services_pending: register(
                all,
                "sync_proxy_rules_service_changes_pending",
                "Those of them that are not in the kernel",
                Gauge::default(),
            ),
            endpoint_changes: register(
                all,
                "sync_proxy_rules_endpoint_changes",
                "Changes of endpoints that were heard of",
                Counter::default(),
            ),
            endpoints_pending: register(
                all,
                "sync_proxy_rules_endpoint_changes_pending",
                "Those of them that are not in the kernel",
                Gauge::default(),
            ),
            no_local: register(
                all,
                "sync_proxy_rules_no_local_endpoints_total",
                "Ports of Services with a Local policy that have endpoints, but none here",
                Family::default(),
            ),
            flows_seconds: histograms(
                all,
                "conntrack_reconciler_sync_duration_seconds",
                "Time to find and forget flows to endpoints that are gone",
            ),
            flows_deleted: register(
                all,
                "conntrack_reconciler_deleted_entries",
                "Flows that were forgotten",
                Family::default(),
            ),
            health_answers: register(
                all,
                "proxy_healthz",
                "Answers at /healthz",
                Family::default(),
            ),
            life_answers: register(all, "proxy_livez", "Answers at /livez", Family::default()),
            services: Gauge::default(),
            clock,
        };
        let help = "Services that have rules";
        registry.register("tiphys_proxy_services", help, own.services.clone());
        Self {
            registry: Arc::new(registry),
            ..own
        }
    }

    /// Changes were heard of: so many of Services, so many of endpoints.
    pub fn heard(&self, services: usize, endpoints: usize) {
        self.service_changes.inc_by(services as u64);
        self.endpoint_changes.inc_by(endpoints as u64);
        self.services_pending.inc_by(number(services));
        self.endpoints_pending.inc_by(number(endpoints));
    }

    /// A change is to be brought into the kernel.
    pub fn queued(&self, family: Ip) {
        self.now(&self.last_queued, family);
    }

    /// A change is in the kernel; `full` when all rules were compared.
    pub fn synced(&self, family: Ip, took: Duration, full: bool) {
        let own = if full {
            &self.full_seconds
        } else {
            &self.partial_seconds
        };
        for histogram in [&self.sync_seconds, own] {
            let histogram = histogram.get_or_create(&ip(family));
            histogram.observe(took.as_secs_f64());
        }
        self.now(&self.last_sync, family);
    }

    /// All that was heard of is in the kernel, of all families.
    pub fn settled(&self) {
        self.services_pending.set(0);
        self.endpoints_pending.set(0);
    }

    fn now(&self, times: &Times, family: Ip) {
        let now = self.clock.now().as_duration();
        times.get_or_create(&ip(family)).set(now.as_secs_f64());
    }

    /// The kernel refused a change.
    pub fn failed(&self, family: Ip) {
        self.failures.get_or_create(&ip(family)).inc();
    }

    /// So many Services have rules.
    pub fn services(&self, count: usize) {
        self.services.set(number(count));
    }

    /// So many ports have a Local policy, endpoints, and none of them here.
    pub fn no_local(&self, family: Ip, policy: Policy, count: usize) {
        let word = match policy {
            Policy::Internal => "internal",
            Policy::External => "external",
        };
        let mut labels = vec![("traffic_policy", word)];
        labels.extend(ip(family));
        self.no_local.get_or_create(&labels).set(number(count));
    }

    /// Flows to endpoints that are gone were looked for, and so many forgotten.
    pub fn flows_forgotten(&self, family: Ip, count: u64, took: Duration) {
        let seconds = self.flows_seconds.get_or_create(&ip(family));
        seconds.observe(took.as_secs_f64());
        self.flows_deleted.get_or_create(&ip(family)).inc_by(count);
    }

    /// Somebody asked at /healthz.
    pub fn asked_health(&self, healthy: bool) {
        self.health_answers.get_or_create(&code(healthy)).inc();
    }

    /// Somebody asked at /livez.
    pub fn asked_life(&self, healthy: bool) {
        self.life_answers.get_or_create(&code(healthy)).inc();
    }

    /// All figures of the proxy, its process and what is beside it, as Prometheus' text.
    pub fn text(&self, beside: &Beside) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        let beside = beside.0.as_ref().map(|more| more()).unwrap_or_default();
        // What the API refused to any part of this process, too.
        let refused = client::refusals::metrics();
        figures::prometheus(&(text + &beside + &figures::lines() + &refused))
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What upstream's dashboards and alerts ask for.
    #[test]
    fn metrics_have_upstreams_names() {
        #[expect(clippy::disallowed_methods, reason = "any time does")]
        let metrics = Metrics::new(Clock::system());
        metrics.heard(1, 2);
        metrics.queued(Ip::Ip4);
        metrics.synced(Ip::Ip4, Duration::from_millis(1), true);
        metrics.synced(Ip::Ip4, Duration::from_millis(1), false);
        metrics.failed(Ip::Ip4);
        metrics.no_local(Ip::Ip4, Policy::Internal, 3);
        metrics.flows_forgotten(Ip::Ip4, 1, Duration::ZERO);
        metrics.asked_health(true);
        metrics.asked_life(false);
        let text = metrics.text(&Beside::default());
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} ",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\",ip_family=\"IPv4\"} 3",
            "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_livez_total{code=\"503\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.settled();
        let text = metrics.text(&Beside::default());
        assert!(text.contains("service_changes_pending 0"), "{text}");
    }
}
