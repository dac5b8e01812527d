//! What the scheduler counts, under upstream's names.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counters, Gauges, Histogram, Histograms, exponential};

use crate::core::Core;
use crate::decision_timings::{Code, Noted, Point};
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
    incoming: Counters<2>,
    after_flush: Counters<0>,
    point_seconds: Histograms<3>,
    plugin_seconds: Histograms<3>,
    unschedulable: Gauges<2>,
    cache: Gauges<1>,
    goroutines: Gauges<1>,
    permit_seconds: Histograms<1>,
    event_seconds: Histograms<1>,
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
    incoming: Counters::new(
        "scheduler_queue_incoming_pods_total",
        "Number of pods added to scheduling queues by event and queue type",
        ["queue", "event"],
    ),
    after_flush: Counters::new(
        "scheduler_pod_scheduled_after_flush_total",
        "Number of pods that were scheduled by a try that no event but a long wait was the reason of",
        [],
    ),
    point_seconds: Histograms::new(
        "scheduler_framework_extension_point_duration_seconds",
        "Latency for running all plugins of a specific extension point",
        ["extension_point", "status", "profile"],
        &exponential(0.000_1, 2.0, 12),
    ),
    plugin_seconds: Histograms::new(
        "scheduler_plugin_execution_duration_seconds",
        "Duration for running a plugin at a specific extension point, of one decision in ten",
        ["plugin", "extension_point", "status"],
        &exponential(0.000_01, 1.5, 20),
    ),
    unschedulable: Gauges::new(
        "scheduler_unschedulable_pods",
        "The number of unschedulable pods by the plugins that refused them",
        ["plugin", "profile"],
    ),
    cache: Gauges::new(
        "scheduler_cache_size",
        "Number of nodes, pods, and assumed (bound) pods in the scheduler cache",
        ["type"],
    ),
    goroutines: Gauges::new(
        "scheduler_goroutines",
        "Number of tasks that run, by the work that they do; decisions are made by one and not here",
        ["operation"],
    ),
    permit_seconds: Histograms::new(
        "scheduler_permit_wait_duration_seconds",
        "Duration of waiting on permit",
        ["result"],
        &exponential(0.001, 2.0, 15),
    ),
    event_seconds: Histograms::new(
        "scheduler_event_handling_duration_seconds",
        "Event handling latency in seconds",
        ["event"],
        &exponential(0.000_1, 2.0, 12),
    ),
});

/// What one scheduler has shown: handles, so that each is looked up once, and what it shows no more when
/// it has gone.
#[derive(Default)]
pub struct CoreFigures {
    points: BTreeMap<(Point, Code, Arc<str>), Histogram>,
    events: BTreeMap<&'static str, Histogram>,
    refused: BTreeMap<(&'static str, Arc<str>), usize>,
}

impl CoreFigures {
    /// What has happened in the core since this was last called.
    pub fn update(&mut self, core: &mut Core) {
        METRICS.waiting(core.queue().lengths());
        for ((queue, event), count) in core.queue_mut().take_incoming() {
            METRICS.incoming.of([queue, event]).inc_by(count);
        }
        let (pods, assumed) = core.snapshot().placed();
        for (what, count) in [
            ("nodes", core.snapshot().len()),
            ("pods", pods),
            ("assumed_pods", assumed),
        ] {
            METRICS.cache.set([what], count as f64);
        }
        self.took(core.timings().take());
        self.refused(core);
    }

    /// A change of the cluster was taken in; the event in upstream's words.
    pub fn handled(&mut self, event: &'static str, took: Duration) {
        let handle = self.events.entry(event);
        let handle = handle.or_insert_with(|| METRICS.event_seconds.of([event]));
        handle.observe(took.as_secs_f64());
    }

    fn took(&mut self, noted: Noted) {
        for (code, waited) in noted.permits {
            let seconds = waited.as_secs_f64();
            METRICS.permit_seconds.observe([code.word()], seconds);
        }
        for part in noted.parts {
            let key = (part.point, part.code, part.profile);
            let handle = self.points.entry(key).or_insert_with_key(|key| {
                let (point, code, profile) = key;
                let labels = [point.word(), code.word(), &**profile];
                METRICS.point_seconds.of(labels)
            });
            handle.observe(part.took.as_secs_f64());
        }
        for own in noted.plugins {
            let labels = [own.plugin, own.point.word(), own.code.word()];
            let seconds = own.took.as_secs_f64();
            METRICS.plugin_seconds.observe(labels, seconds);
        }
    }

    /// A pod that several plugins refused counts for each of them.
    fn refused(&mut self, core: &Core) {
        let mut now: BTreeMap<(&'static str, Arc<str>), usize> = BTreeMap::new();
        for ((scheduler, refused), count) in core.queue().refusals() {
            let plugins = core
                .profile(scheduler)
                .map_or(&[][..], |p| p.plugins.as_slice());
            for (at, (plugin, _)) in plugins.iter().enumerate() {
                if refused.has(at) && !refused.is_everybody() {
                    let key = (plugin.name(), scheduler.clone());
                    *now.entry(key).or_default() += count;
                }
            }
        }
        if now == self.refused {
            return;
        }
        for (plugin, profile) in self.refused.keys() {
            METRICS.unschedulable.set([plugin, profile], 0.0);
        }
        for ((plugin, profile), count) in &now {
            METRICS.unschedulable.set([plugin, profile], *count as f64);
        }
        self.refused = now;
    }
}

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

    /// The request that binds a pod was answered.
    pub fn asked_to_bind(&self, profile: &str, is_bound: bool, took: Duration) {
        let code = match is_bound {
            true => Code::Success,
            false => Code::Error,
        };
        let labels = [Point::Bind.word(), code.word(), profile];
        self.point_seconds.observe(labels, took.as_secs_f64());
    }

    /// A pod was bound after so many tries and so much time since it came; `was_flushed`: only because it
    /// had waited long.
    pub fn bound(&self, tries: u32, since_it_came: Duration, was_flushed: bool) {
        if was_flushed {
            self.after_flush.add([]);
        }
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

    /// So many pods are being bound, or prepared for it.
    pub fn binding(&self, pods: usize) {
        self.goroutines.set(["binding"], pods as f64);
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
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;
    use crate::decide::Profile;
    use crate::decision_timings::Timings;
    use crate::queue::Waits;

    /// The figures are those of the whole process, and so of all tests.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn names_and_labels_are_upstreams() {
        let _alone = ALONE.lock();
        let second = Duration::from_secs(1);
        METRICS.attempted("p", Attempt::Scheduled, second);
        METRICS.attempted("p", Attempt::Unschedulable, second);
        METRICS.decided(second);
        METRICS.bound(1, second, false);
        METRICS.bound(99, second, true);
        METRICS.asked_to_bind("p", true, second);
        METRICS.preempts(3);
        METRICS.binding(2);
        CoreFigures::default().handled("NodeAdd", second);
        let mut noted = Noted::default();
        noted.permits.push((Code::Success, second));
        CoreFigures::default().took(noted);
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
            "scheduler_pod_scheduled_after_flush_total 1",
            "scheduler_goroutines{operation=\"binding\"}",
            "scheduler_permit_wait_duration_seconds_count{result=\"Success\"}",
            "scheduler_event_handling_duration_seconds_count{event=\"NodeAdd\"}",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Bind\",status=\"Success\",profile=\"p\"} 1",
            "# TYPE scheduler_preemption_attempts_total counter",
            "# TYPE scheduler_preemption_victims histogram",
            "# TYPE scheduler_pod_scheduling_attempts histogram",
            "# TYPE scheduler_scheduling_algorithm_duration_seconds histogram",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn what_a_core_does_is_shown() {
        let _alone = ALONE.lock();
        let profile = Profile {
            scheduler: "shown".into(),
            ..Profile::default()
        };
        let core = Core::new(vec![profile], Waits::default());
        let mut core = core.timed(Timings::by(clock::Instant::now));
        let mut shown = CoreFigures::default();
        let node = json!({"metadata": {"name": "a"},
            "status": {"allocatable": {"cpu": "1", "memory": "8Gi", "pods": "9"}}});
        core.node_changed(None, Some(&serde_json::from_value(node).expect("a node")));
        for (name, cpu) in [("fits", "1"), ("large", "9")] {
            let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
                "spec": {"schedulerName": "shown", "containers": [
                    {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
            let pod = serde_json::from_value(pod).expect("a pod");
            core.pod_changed(None, Some(&pod), 0);
        }
        // Of the first decision each plugin's time is measured.
        while core.step(10, 0).is_some() {}
        shown.update(&mut core);
        let of = |text: &str, name: &str, labels: &[&str]| {
            let mut lines = text.lines().filter(|l| l.starts_with(name));
            let line = lines.find(|l| labels.iter().all(|label| l.contains(label)));
            line.map(str::to_owned)
        };
        let text = metrics::prometheus(&metrics::lines());
        let wanted: [(&str, &[&str]); 7] = [
            (
                "scheduler_queue_incoming_pods_total{",
                &["queue=\"active\"", "event=\"UnschedulablePodAdd\""],
            ),
            (
                "scheduler_framework_extension_point_duration_seconds_count{",
                &["\"Filter\"", "\"Success\"", "\"shown\""],
            ),
            (
                "scheduler_framework_extension_point_duration_seconds_count{",
                &["\"PostFilter\"", "\"Unschedulable\"", "\"shown\""],
            ),
            (
                "scheduler_framework_extension_point_duration_seconds_count{",
                &["\"PreBind\"", "\"Success\"", "\"shown\""],
            ),
            (
                "scheduler_plugin_execution_duration_seconds_count{",
                &["\"NodeResourcesFit\"", "\"Filter\""],
            ),
            ("scheduler_cache_size{", &["\"assumed_pods\"} 1"]),
            (
                "scheduler_unschedulable_pods{",
                &["\"NodeResourcesFit\"", "\"shown\"} 1"],
            ),
        ];
        for (name, labels) in wanted {
            assert!(
                of(&text, name, labels).is_some(),
                "{name} {labels:?}: {text}"
            );
        }
        let large = Arc::from("large");
        core.queue_mut().remove(&large);
        shown.update(&mut core);
        let text = metrics::prometheus(&metrics::lines());
        let gone = ["\"NodeResourcesFit\"", "\"shown\"} 0"];
        assert!(of(&text, "scheduler_unschedulable_pods{", &gone).is_some());
    }
}
