//! Figures of the proxy, under upstream's names where they mean the same.

use std::sync::LazyLock;
use std::time::Duration;

use clock::Clock;
use host::nft::Family as Ip;
use jiff::Timestamp;
use metrics::{Counters, Gauges, Histograms, exponential};

/// What is counted; proxies of one process are counted together.
struct ProxyMetrics {
    sync_seconds: Histograms<1>,
    full_seconds: Histograms<1>,
    partial_seconds: Histograms<1>,
    programming_seconds: Histograms<1>,
    last_sync: Gauges<1>,
    last_queued: Gauges<1>,
    failures: Counters<1>,
    cleanup_failures: Counters<1>,
    service_changes: Counters<0>,
    services_pending: Gauges<0>,
    endpoint_changes: Counters<0>,
    endpoints_pending: Gauges<0>,
    no_local: Gauges<2>,
    flows_seconds: Histograms<1>,
    flows_deleted: Counters<1>,
    health_answers: Counters<1>,
    life_answers: Counters<1>,
    services: Gauges<0>,
    tracked: Gauges<0>,
    tracked_most: Gauges<0>,
}

const FAMILY: [&str; 1] = ["ip_family"];
const CODE: [&str; 1] = ["code"];

static METRICS: LazyLock<ProxyMetrics> = LazyLock::new(|| {
    // From 0.1 ms, since changes are small.
    let seconds = exponential(0.0001, 2.0, 18);
    let seconds = |name: &str, help: &str| Histograms::new(name, help, FAMILY, &seconds);
    ProxyMetrics {
        sync_seconds: seconds(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring a change into the kernel",
        ),
        full_seconds: seconds(
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "The same, when all rules were compared",
        ),
        partial_seconds: seconds(
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "The same, when only what changed was looked at",
        ),
        programming_seconds: Histograms::new(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod or a Service, as its EndpointSlice says, until it is in the kernel",
            FAMILY,
            &programming_bounds(),
        ),
        last_sync: Gauges::new(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "When the rules were last brought up to date",
            FAMILY,
        ),
        last_queued: Gauges::new(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change was last heard of",
            FAMILY,
        ),
        failures: Counters::new(
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            "Transactions that the kernel refused",
            FAMILY,
        ),
        cleanup_failures: Counters::new(
            "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
            "Always 0: chains go in the transaction that makes them useless",
            FAMILY,
        ),
        service_changes: Counters::new(
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "Changes of Services that were heard of",
            [],
        ),
        services_pending: Gauges::new(
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "Those of them that are not in the kernel",
            [],
        ),
        endpoint_changes: Counters::new(
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "Changes of endpoints that were heard of",
            [],
        ),
        endpoints_pending: Gauges::new(
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "Those of them that are not in the kernel",
            [],
        ),
        no_local: Gauges::new(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Ports of Services with a Local policy that have endpoints, but none here",
            ["traffic_policy", "ip_family"],
        ),
        flows_seconds: seconds(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Time to find and forget flows to endpoints that are gone",
        ),
        flows_deleted: Counters::new(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Flows that were forgotten",
            FAMILY,
        ),
        health_answers: Counters::new("kubeproxy_proxy_healthz_total", "Answers at /healthz", CODE),
        life_answers: Counters::new("kubeproxy_proxy_livez_total", "Answers at /livez", CODE),
        services: Gauges::new("tiphys_proxy_services", "Services that have rules", []),
        tracked: Gauges::new(
            "tiphys_node_tracked_connections",
            "Connections that the node's kernel tracks; of too many some are dropped",
            [],
        ),
        tracked_most: Gauges::new(
            "tiphys_node_tracked_connections_limit",
            "How many it tracks at most",
            [],
        ),
    }
});

/// Upstream's: the objective is about seconds.
fn programming_bounds() -> Vec<f64> {
    let steps =
        |first: f64, step: f64, count: u32| (0..count).map(move |i| first + step * f64::from(i));
    let all = steps(0.25, 0.25, 2).chain(steps(1.0, 1.0, 59));
    all.chain(steps(60.0, 5.0, 12))
        .chain(steps(120.0, 30.0, 7))
        .collect()
}

/// Counts what a proxy does.
#[derive(Debug, Clone, Copy)]
pub struct Metrics {
    clock: Clock,
    /// What changed before is not a measure of this proxy.
    start: Timestamp,
}

/// Which of its policies keeps a Service's traffic on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `internalTrafficPolicy`.
    Internal,
    /// `externalTrafficPolicy`.
    External,
}

fn ip(family: Ip) -> [&'static str; 1] {
    match family {
        Ip::Ip4 => ["IPv4"],
        Ip::Ip6 => ["IPv6"],
    }
}

fn code(healthy: bool) -> [&'static str; 1] {
    [if healthy { "200" } else { "503" }]
}

impl Metrics {
    /// For a proxy that starts now.
    pub fn new(clock: Clock) -> Self {
        // What alerts ask for is there from the start.
        for family in [Ip::Ip4, Ip::Ip6] {
            METRICS.failures.of(ip(family));
            METRICS.cleanup_failures.of(ip(family));
        }
        // Changes are known by their whole seconds: those of this second may be of this proxy's time.
        let now = clock.now();
        let start = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self { clock, start }
    }

    /// Changes were heard of: so many of Services, so many of endpoints.
    pub fn heard(&self, services: usize, endpoints: usize) {
        METRICS.service_changes.of([]).inc_by(services as u64);
        METRICS.endpoint_changes.of([]).inc_by(endpoints as u64);
        METRICS.services_pending.of([]).inc_by(services as f64);
        METRICS.endpoints_pending.of([]).inc_by(endpoints as f64);
    }

    /// A change is to be brought into the kernel.
    pub fn queued(&self, family: Ip) {
        self.now(&METRICS.last_queued, family);
    }

    /// A change is in the kernel; `full` when all rules were compared.
    pub fn synced(&self, family: Ip, took: Duration, full: bool) {
        let own = if full {
            &METRICS.full_seconds
        } else {
            &METRICS.partial_seconds
        };
        for histogram in [&METRICS.sync_seconds, own] {
            histogram.observe(ip(family), took.as_secs_f64());
        }
        self.now(&METRICS.last_sync, family);
    }

    /// What changed at that time is in the kernel now.
    pub fn programmed(&self, family: Ip, changed: Timestamp) {
        if changed >= self.start {
            let took = self.clock.now().duration_since(changed);
            // The clocks of machines differ.
            let seconds = took.as_secs_f64().max(0.0);
            METRICS.programming_seconds.observe(ip(family), seconds);
        }
    }

    /// All that was heard of is in the kernel, of all families.
    pub fn settled(&self) {
        METRICS.services_pending.set([], 0.0);
        METRICS.endpoints_pending.set([], 0.0);
    }

    fn now(&self, times: &Gauges<1>, family: Ip) {
        let now = self.clock.now().as_duration();
        times.set(ip(family), now.as_secs_f64());
    }

    /// The kernel refused a change.
    pub fn failed(&self, family: Ip) {
        METRICS.failures.add(ip(family));
    }

    /// So many Services have rules.
    pub fn services(&self, count: usize) {
        METRICS.services.set([], count as f64);
    }

    /// So many connections are tracked, of so many at most.
    pub fn tracked(&self, count: u64, most: u64) {
        METRICS.tracked.set([], count as f64);
        METRICS.tracked_most.set([], most as f64);
    }

    /// So many ports have a Local policy, endpoints, and none of them here.
    pub fn no_local(&self, family: Ip, policy: Policy, count: usize) {
        let word = match policy {
            Policy::Internal => "internal",
            Policy::External => "external",
        };
        let [family] = ip(family);
        METRICS.no_local.set([word, family], count as f64);
    }

    /// Flows to endpoints that are gone were looked for, and so many forgotten.
    pub fn flows_forgotten(&self, family: Ip, count: u64, took: Duration) {
        let seconds = took.as_secs_f64();
        METRICS.flows_seconds.observe(ip(family), seconds);
        METRICS.flows_deleted.of(ip(family)).inc_by(count);
    }

    /// Somebody asked at /healthz.
    pub fn asked_health(&self, healthy: bool) {
        METRICS.health_answers.add(code(healthy));
    }

    /// Somebody asked at /livez.
    pub fn asked_life(&self, healthy: bool) {
        METRICS.life_answers.add(code(healthy));
    }

    /// All figures of the process, as Prometheus' text, with what the API refused to any part of it.
    pub fn text(&self) -> String {
        metrics::prometheus(&(metrics::lines() + &client::refusals::metrics()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What upstream's dashboards and alerts ask for.
    #[test]
    fn metrics_have_upstreams_names() {
        let metrics = Metrics::new(Clock::read_by(|| Timestamp::UNIX_EPOCH));
        metrics.heard(1, 2);
        metrics.queued(Ip::Ip4);
        metrics.synced(Ip::Ip4, Duration::from_millis(1), true);
        metrics.synced(Ip::Ip4, Duration::from_millis(1), false);
        metrics.failed(Ip::Ip4);
        metrics.no_local(Ip::Ip4, Policy::Internal, 3);
        metrics.flows_forgotten(Ip::Ip4, 1, Duration::ZERO);
        metrics.asked_health(true);
        metrics.asked_life(false);
        let later = Metrics {
            clock: Clock::read_by(|| Timestamp::constant(12, 0)),
            ..metrics
        };
        // Before the start, and two seconds ago.
        let begun = Metrics::new(Clock::read_by(|| Timestamp::constant(7, 900_000_000)));
        assert_eq!(begun.start, Timestamp::constant(7, 0));
        later.programmed(Ip::Ip4, Timestamp::constant(-1, 0));
        later.programmed(Ip::Ip4, Timestamp::constant(10, 0));
        let text = metrics.text();
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} ",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} ",
            "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv6\"} 0",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_service_changes_pending 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 2",
            "# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\",ip_family=\"IPv4\"} 3",
            "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"} 2",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"1\",ip_family=\"IPv4\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"2\",ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"300\",ip_family=\"IPv4\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"200\"} ",
            "kubeproxy_proxy_livez_total{code=\"503\"} ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        metrics.settled();
        let text = metrics.text();
        assert!(text.contains("service_changes_pending 0"), "{text}");
    }
}
