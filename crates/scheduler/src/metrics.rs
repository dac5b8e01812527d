//! What the scheduler counts, under upstream's names.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counters, Gauges, Histograms, exponential};

use crate::queue::Lengths;

/// The figures; those of several schedulers in one process are counted together.
pub struct SchedulerMetrics {
    attempts: Counters<2>,
    attempt_seconds: Histograms<2>,
    algorithm_seconds: Histograms<0>,
    sli_seconds: Histograms<1>,
    tries: Histograms<0>,
    pending: Gauges<1>,
    preemptions: Counters<0>,
    victims: Histograms<0>,
}

pub static METRICS: LazyLock<SchedulerMetrics> = LazyLock::new(|| SchedulerMetrics {
    attempts: Counters::new(
        "scheduler_schedule_attempts_total",
        "Number of attempts to schedule pods, by the result",
        ["result", "profile"],
    ),
    attempt_seconds: Histograms::new(
        "scheduler_scheduling_attempt_duration_seconds",
        "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
        ["result", "profile"],
        &exponential(0.001, 2.0, 15),
    ),
    algorithm_seconds: Histograms::new(
        "scheduler_scheduling_algorithm_duration_seconds",
        "Scheduling algorithm latency in seconds",
        [],
        &exponential(0.001, 2.0, 15),
    ),
    sli_seconds: Histograms::new(
        "scheduler_pod_scheduling_sli_duration_seconds",
        "Latency for a pod being scheduled, from the time it enters the queue",
        ["attempts"],
        &exponential(0.01, 2.0, 20),
    ),
    tries: Histograms::new(
        "scheduler_pod_scheduling_attempts",
        "Number of attempts to successfully schedule a pod",
        [],
        &[1.0, 2.0, 4.0, 8.0, 16.0],
    ),
    pending: Gauges::new(
        "scheduler_pending_pods",
        "Number of pending pods, by the queue",
        ["queue"],
    ),
    preemptions: Counters::new(
        "scheduler_preemption_attempts_total",
        "Total preemption attempts in the cluster till now",
        [],
    ),
    victims: Histograms::new(
        "scheduler_preemption_victims",
        "Number of selected preemption victims",
        [],
        &exponential(1.0, 2.0, 7),
    ),
});

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Scheduled,
    Unschedulable,
    Error,
}

impl Attempt {
    fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

impl SchedulerMetrics {
    /// An attempt to find a node for a pod has ended, for a pod that has one with its binding.
    pub fn attempted(&self, profile: &str, came: Attempt, took: Duration) {
        let labels = [came.word(), profile];
        self.attempts.add(labels);
        self.attempt_seconds.observe(labels, took.as_secs_f64());
    }

    /// A decision was made.
    pub fn decided(&self, took: Duration) {
        self.algorithm_seconds.observe([], took.as_secs_f64());
    }

    /// A pod was bound after so many tries and so much time since it came.
    pub fn bound(&self, tries: u32, since_it_came: Duration) {
        let tries_label = match tries {
            0..15 => tries.max(1).to_string(),
            _ => "15+".to_owned(),
        };
        let seconds = since_it_came.as_secs_f64();
        self.sli_seconds.observe([&tries_label], seconds);
        self.tries.observe([], f64::from(tries.max(1)));
    }

    /// Room is made by the end of so many pods.
    pub fn preempts(&self, victims: usize) {
        self.preemptions.add([]);
        self.victims.observe([], victims as f64);
    }

    /// How many pods wait where.
    pub fn waiting(&self, lengths: Lengths) {
        for (queue, count) in [
            ("active", lengths.active),
            ("backoff", lengths.back_off),
            ("unschedulable", lengths.unschedulable),
            ("gated", lengths.gated),
        ] {
            self.pending.set([queue], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_upstreams() {
        let second = Duration::from_secs(1);
        METRICS.attempted("p", Attempt::Scheduled, second);
        METRICS.attempted("p", Attempt::Unschedulable, second);
        METRICS.decided(second);
        METRICS.bound(1, second);
        METRICS.bound(99, second);
        METRICS.preempts(3);
        METRICS.waiting(Lengths {
            gated: 4,
            ..Lengths::default()
        });
        let text = metrics::prometheus(&metrics::lines());
        for line in [
            "scheduler_schedule_attempts_total{result=\"scheduled\",profile=\"p\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_count{result=\"unschedulable\",profile=\"p\"} 1",
            "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"15+\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 4",
            "# TYPE scheduler_preemption_attempts_total counter",
            "# TYPE scheduler_preemption_victims histogram",
            "# TYPE scheduler_pod_scheduling_attempts histogram",
            "# TYPE scheduler_scheduling_algorithm_duration_seconds histogram",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
