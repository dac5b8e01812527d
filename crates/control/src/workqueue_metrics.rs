//! Figures of queues of work, under upstream's names; by the name of the queue.

use std::sync::LazyLock;

use metrics::{Counter, Counters, Gauge, Gauges, Histogram, Histograms};

struct All {
    adds: Counters<1>,
    depth: Gauges<1>,
    waits: Histograms<1>,
    works: Histograms<1>,
    retries: Counters<1>,
    unfinished: Gauges<1>,
    longest: Gauges<1>,
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    // From ten nanoseconds to ten seconds; upstream's.
    let bounds = metrics::decimal(-8, 1);
    let label = ["name"];
    let gauge = |name, help| Gauges::new(name, help, label);
    let histogram = |name, help| Histograms::new(name, help, label, &bounds);
    All {
        adds: Counters::new(
            "workqueue_adds_total",
            "Total number of adds handled by workqueue",
            label,
        ),
        depth: gauge("workqueue_depth", "Current depth of workqueue"),
        waits: histogram(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested",
        ),
        works: histogram(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes",
        ),
        retries: Counters::new(
            "workqueue_retries_total",
            "Total number of retries handled by workqueue",
            label,
        ),
        unfinished: gauge(
            "workqueue_unfinished_work_seconds",
            "Seconds of work that is in progress and has not been observed by work_duration",
        ),
        longest: gauge(
            "workqueue_longest_running_processor_seconds",
            "How many seconds the longest running processor for workqueue has been running",
        ),
    }
});

/// Handles of one queue's figures; queues of the same name share them.
#[derive(Clone)]
pub(crate) struct WorkMetrics {
    pub adds: Counter,
    pub depth: Gauge,
    /// Seconds until a worker took a key.
    pub waits: Histogram,
    /// Seconds that a worker took.
    pub works: Histogram,
    pub retries: Counter,
    unfinished: Gauge,
    longest: Gauge,
}

impl WorkMetrics {
    pub fn of(name: &str) -> Self {
        let of = [name];
        Self {
            adds: ALL.adds.of(of),
            depth: ALL.depth.of(of),
            waits: ALL.waits.of(of),
            works: ALL.works.of(of),
            retries: ALL.retries.of(of),
            unfinished: ALL.unfinished.of(of),
            longest: ALL.longest.of(of),
        }
    }

    /// Seconds that work takes which has not ended: all of it, and the longest.
    pub fn under_way(&self, all: f64, longest: f64) {
        self.unfinished.set(all);
        self.longest.set(longest);
    }
}
