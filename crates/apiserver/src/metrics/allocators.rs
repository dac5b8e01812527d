//! Figures of what Services are given: cluster IPs and node ports, in upstream's names. What is given
//! counts when it is committed with its Service; a dry run gives nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Who chose what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The client named it.
    Client,
    Server,
}

impl Choice {
    fn scope(self) -> &'static str {
        match self {
            Self::Client => "static",
            Self::Server => "dynamic",
        }
    }
}

/// What an object is given with its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocatedValue {
    /// A cluster IP of a range.
    Address {
        cidr: String,
        choice: Choice,
    },
    NodePort(Choice),
    /// How many node ports are taken then, and how many are not.
    NodePorts {
        taken: usize,
        free: usize,
    },
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRange {
    cidr: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRangeBy {
    cidr: String,
    scope: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct By {
    scope: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

/// The figures.
pub struct AllocatorMetrics {
    addresses_taken: Family<OfRange, Gauge>,
    addresses_free: Family<OfRange, Gauge>,
    /// The ranges that these two show.
    ranges: Mutex<BTreeSet<String>>,
    addresses: Family<OfRangeBy, Counter>,
    address_errors: Family<OfRangeBy, Counter>,
    address_seconds: Family<OfRange, Histogram>,
    ports_taken: Gauge,
    ports_free: Gauge,
    ports: Family<By, Counter>,
    port_errors: Family<By, Counter>,
    ports_made_again: Counter,
}

impl Default for AllocatorMetrics {
    fn default() -> Self {
        Self {
            addresses_taken: Family::default(),
            addresses_free: Family::default(),
            ranges: Mutex::default(),
            addresses: Family::default(),
            address_errors: Family::default(),
            address_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            ports_taken: Gauge::default(),
            ports_free: Gauge::default(),
            ports: Family::default(),
            port_errors: Family::default(),
            ports_made_again: Counter::default(),
        }
    }
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl AllocatorMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = registry.sub_registry_with_prefix("kube_apiserver_clusterip_allocator");
        all.register(
            "allocated_ips",
            "Cluster IPs that Services have, by range",
            self.addresses_taken.clone(),
        );
        all.register(
            "available_ips",
            "Cluster IPs that no Service has, by range",
            self.addresses_free.clone(),
        );
        all.register(
            "allocation",
            "Cluster IPs that were given, by range and by who chose them",
            self.addresses.clone(),
        );
        all.register(
            "allocation_errors",
            "Cluster IPs that were not given, by range and by who chose them",
            self.address_errors.clone(),
        );
        all.register(
            "allocation_duration_seconds",
            "Time from choosing a cluster IP to its commit, by range",
            self.address_seconds.clone(),
        );
        let all = registry.sub_registry_with_prefix("kube_apiserver_nodeport_allocator");
        all.register(
            "allocated_ports",
            "Node ports that Services have, after the last change at this server",
            self.ports_taken.clone(),
        );
        all.register(
            "available_ports",
            "Node ports that no Service has, after the last change at this server",
            self.ports_free.clone(),
        );
        all.register(
            "allocation",
            "Node ports that were given, by who chose them",
            self.ports.clone(),
        );
        all.register(
            "allocation_errors",
            "Node ports that were not given, by who chose them",
            self.port_errors.clone(),
        );
        registry.register(
            "tiphys_apiserver_node_ports_made_again",
            "How often the stored node ports were damaged, or of another range, and were read of Services",
            self.ports_made_again.clone(),
        );
    }

    /// Counts what was committed, so long after it was chosen.
    pub fn given(&self, given: &AllocatedValue, took: Duration) {
        match given {
            AllocatedValue::Address { cidr, choice } => {
                let scope = choice.scope();
                let labels = OfRangeBy {
                    cidr: cidr.clone(),
                    scope,
                };
                self.addresses.get_or_create(&labels).inc();
                let labels = OfRange { cidr: cidr.clone() };
                let histogram = self.address_seconds.get_or_create(&labels);
                histogram.observe(took.as_secs_f64());
            }
            AllocatedValue::NodePort(choice) => {
                let scope = choice.scope();
                self.ports.get_or_create(&By { scope }).inc();
            }
            AllocatedValue::NodePorts { taken, free } => {
                self.ports_taken.set(whole(*taken));
                self.ports_free.set(whole(*free));
            }
        }
    }

    /// Counts that a range had no address.
    pub fn no_address(&self, cidr: String, choice: Choice) {
        let scope = choice.scope();
        let labels = OfRangeBy { cidr, scope };
        self.address_errors.get_or_create(&labels).inc();
    }

    /// Counts that there was no node port.
    pub fn no_port(&self, choice: Choice) {
        let scope = choice.scope();
        self.port_errors.get_or_create(&By { scope }).inc();
    }

    /// Counts that what is stored did not say which ports are taken.
    pub fn ports_made_again(&self) {
        self.ports_made_again.inc();
    }

    /// Notes of all ranges that there are how many of their addresses are had, and how many there are.
    pub fn ranges(&self, all: impl Iterator<Item = (String, usize, u128)>) {
        let (mut shown, mut now) = (self.ranges.lock(), BTreeSet::new());
        for (cidr, taken, size) in all {
            now.insert(cidr.clone());
            let labels = OfRange { cidr };
            self.addresses_taken
                .get_or_create(&labels)
                .set(whole(taken));
            let free = size.saturating_sub(u128::try_from(taken).unwrap_or(u128::MAX));
            let free = i64::try_from(free).unwrap_or(i64::MAX);
            self.addresses_free.get_or_create(&labels).set(free);
        }
        // One that is gone is not shown any more; the others are all the time, whoever else looks.
        for gone in shown.difference(&now) {
            let labels = OfRange { cidr: gone.clone() };
            self.addresses_taken.remove(&labels);
            self.addresses_free.remove(&labels);
        }
        *shown = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_are_gone_are_not_shown() {
        let metrics = AllocatorMetrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let page = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        let range = |cidr: &str, taken| (cidr.to_owned(), taken, 14);
        metrics.ranges([range("10.0.0.0/28", 3), range("10.1.0.0/28", 1)].into_iter());
        metrics.ranges([range("10.0.0.0/28", 4)].into_iter());
        let text = page();
        let of = |what: &str| {
            format!("kube_apiserver_clusterip_allocator_{what}{{cidr=\"10.0.0.0/28\"}}")
        };
        assert!(
            text.contains(&format!("{} 4", of("allocated_ips"))),
            "{text}"
        );
        assert!(
            text.contains(&format!("{} 10", of("available_ips"))),
            "{text}"
        );
        assert!(!text.contains("10.1.0.0"), "{text}");
    }
}
