//! Figures that are distinguished by labels. A handle of one is cheap to count with; looking one up
//! takes a read lock and a copy of the labels' values, so what is counted often keeps its handle.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;

use crate::{Gauge, register};

/// Different values of the labels of one figure; further ones are counted together under
/// [`OTHERS`]. A histogram takes about a kilobyte for each.
const MOST: usize = 4_000;
const OTHERS: &str = "other";

type Labels<const N: usize> = [(&'static str, String); N];

/// How histograms of a family are made.
#[derive(Clone, Debug)]
pub struct Bounds(Arc<[f64]>);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

/// The handles of a family that each request counts in: they are found by a quick hash of labels that
/// own nothing, where the family itself would take its thorough one. Nothing may be removed from it.
pub struct Quick<L, M, C = fn() -> M> {
    family: Family<L, M, C>,
    known: RwLock<HashMap<L, M, foldhash::fast::RandomState>>,
}

impl<L, M: Clone, C: MetricConstructor<M>> Quick<L, M, C>
where
    L: Clone + Hash + Eq,
{
    pub fn new(family: Family<L, M, C>) -> Self {
        Self {
            family,
            known: RwLock::default(),
        }
    }

    /// What is registered.
    pub fn family(&self) -> &Family<L, M, C> {
        &self.family
    }

    /// Counts in the figure of these labels, which is made if it is not there.
    pub fn count(&self, labels: &L, count: impl FnOnce(&M)) {
        if let Some(handle) = self.known.read().get(labels) {
            return count(handle);
        }
        let handle = self.family.get_or_create_owned(labels);
        count(&handle);
        self.known.write().insert(labels.clone(), handle);
    }
}

/// Figures of one name.
#[derive(Clone, Debug)]
struct Named<M, C, const N: usize> {
    labels: [&'static str; N],
    family: Family<Labels<N>, M, C>,
    count: Arc<AtomicUsize>,
}

impl<M: Clone, C: MetricConstructor<M>, const N: usize> Named<M, C, N> {
    fn of(&self, values: [&str; N]) -> M {
        let labels = |values: [&str; N]| {
            let mut at = 0;
            self.labels.map(|label| {
                let value = values.get(at).copied().unwrap_or_default();
                at += 1;
                (label, value.to_owned())
            })
        };
        let mut wanted = labels(values);
        if let Some(known) = self.family.get(&wanted) {
            return known.clone();
        }
        if self.count.fetch_add(1, Ordering::Relaxed) >= MOST {
            wanted = labels([OTHERS; N]);
        }
        self.family.get_or_create_owned(&wanted)
    }
}

/// Counters by labels.
#[derive(Clone, Debug)]
pub struct Counters<const N: usize>(Named<Counter, fn() -> Counter, N>);

/// Gauges by labels.
#[derive(Clone, Debug)]
pub struct Gauges<const N: usize>(Named<Gauge, fn() -> Gauge, N>);

/// Histograms by labels.
#[derive(Clone, Debug)]
pub struct Histograms<const N: usize>(Named<Histogram, Bounds, N>);

impl<const N: usize> Counters<N> {
    /// Enters a name, which may but need not end in `_total`, into the process's table; once for
    /// each name.
    pub fn new(name: &str, help: &str, labels: [&'static str; N]) -> Self {
        let family = Family::new_with_constructor(Counter::default as fn() -> Counter);
        // The ending is added when it is written.
        let name = name.strip_suffix("_total").unwrap_or(name);
        register(name, help, family.clone());
        Self(Named {
            labels,
            family,
            count: Arc::default(),
        })
    }
    /// The counter of these values of the labels, in order.
    pub fn of(&self, values: [&str; N]) -> Counter {
        self.0.of(values)
    }
    /// Counts one.
    pub fn add(&self, values: [&str; N]) {
        self.of(values).inc();
    }
}

impl<const N: usize> Gauges<N> {
    /// Enters a name into the process's table; once for each name.
    pub fn new(name: &str, help: &str, labels: [&'static str; N]) -> Self {
        let family = Family::new_with_constructor(Gauge::default as fn() -> Gauge);
        register(name, help, family.clone());
        Self(Named {
            labels,
            family,
            count: Arc::default(),
        })
    }
    /// The gauge of these values of the labels, in order.
    pub fn of(&self, values: [&str; N]) -> Gauge {
        self.0.of(values)
    }
    /// Sets one.
    pub fn set(&self, values: [&str; N], to: f64) {
        self.of(values).set(to);
    }
    /// Forgets all: those that are not set again have gone.
    pub fn clear(&self) {
        self.0.family.clear();
        self.0.count.store(0, Ordering::Relaxed);
    }
}

impl<const N: usize> Histograms<N> {
    /// Enters a name into the process's table; once for each name. `bounds` are those of the
    /// buckets, upwards.
    pub fn new(name: &str, help: &str, labels: [&'static str; N], bounds: &[f64]) -> Self {
        let family = Family::new_with_constructor(Bounds(bounds.into()));
        register(name, help, family.clone());
        Self(Named {
            labels,
            family,
            count: Arc::default(),
        })
    }
    /// The histogram of these values of the labels, in order.
    pub fn of(&self, values: [&str; N]) -> Histogram {
        self.0.of(values)
    }
    /// Enters a value: of times, seconds.
    pub fn observe(&self, values: [&str; N], value: f64) {
        self.of(values).observe(value);
    }
}

/// Bounds that grow by a factor.
pub fn exponential(first: f64, factor: f64, count: usize) -> Vec<f64> {
    std::iter::successors(Some(first), |b| Some(b * factor))
        .take(count)
        .collect()
}

/// Powers of ten as they are written: from `10^first` to `10^last`.
pub fn decimal(first: i32, last: i32) -> Vec<f64> {
    (first..=last)
        .map(|n| format!("1e{n}").parse().unwrap_or_default())
        .collect()
}
