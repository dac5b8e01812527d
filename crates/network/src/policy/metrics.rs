//! Figures of network policies on a node.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counters, Gauges, Histograms, exponential};

/// What is counted; agents of one process are counted together.
pub struct PolicyMetrics {
    sync_seconds: Histograms<0>,
    failures: Counters<0>,
    repairs: Counters<0>,
    policies: Gauges<0>,
    unreadable: Gauges<0>,
    isolated: Gauges<0>,
    waiting: Gauges<0>,
}

/// The process's.
pub static METRICS: LazyLock<PolicyMetrics> = LazyLock::new(|| PolicyMetrics {
    sync_seconds: Histograms::new(
        "tiphys_network_policy_sync_duration_seconds",
        "Time to plan a change and to bring it into the kernel",
        [],
        &exponential(0.0001, 2.0, 18),
    ),
    failures: Counters::new(
        "tiphys_network_policy_sync_failures_total",
        "Transactions that the kernel refused",
        [],
    ),
    repairs: Counters::new(
        "tiphys_network_policy_repairs_total",
        "How often others had changed the rules",
        [],
    ),
    policies: Gauges::new(
        "tiphys_network_policies",
        "NetworkPolicies of the cluster",
        [],
    ),
    unreadable: Gauges::new(
        "tiphys_network_policy_unreadable",
        "Parts of NetworkPolicies that are not understood, and allow nothing",
        [],
    ),
    isolated: Gauges::new(
        "tiphys_network_policy_isolated_addresses",
        "Addresses of pods of this node that a policy is for",
        [],
    ),
    waiting: Gauges::new(
        "tiphys_network_policy_waiting_pods",
        "Pods whose start waits for their rules",
        [],
    ),
});

impl PolicyMetrics {
    /// A change is in the kernel.
    pub fn synced(&self, took: Duration) {
        self.sync_seconds.observe([], took.as_secs_f64());
    }

    /// The kernel refused a change.
    pub fn failed(&self) {
        self.failures.add([]);
    }

    /// The rules were not as they had been programmed.
    pub fn repaired(&self) {
        self.repairs.add([]);
    }

    /// What there is now.
    pub fn count(&self, policies: usize, unreadable: usize, isolated: usize, waiting: usize) {
        self.policies.set([], policies as f64);
        self.unreadable.set([], unreadable as f64);
        self.isolated.set([], isolated as f64);
        self.waiting.set([], waiting as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_on_the_process_page() {
        METRICS.synced(Duration::from_millis(1));
        METRICS.failed();
        METRICS.repaired();
        METRICS.count(1, 2, 3, 4);
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "tiphys_network_policy_sync_duration_seconds_count 1",
            "tiphys_network_policy_sync_failures_total 1",
            "tiphys_network_policy_repairs_total 1",
            "tiphys_network_policies 1",
            "tiphys_network_policy_unreadable 2",
            "tiphys_network_policy_isolated_addresses 3",
            "tiphys_network_policy_waiting_pods 4",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
