//! The figures of priority and fairness, in upstream's names. They are counted beside the request
//! and made into text when somebody asks.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use flowcontrol::timed::TimedRatio;
use flowcontrol::work::Work;

use super::table::Table;
use super::{FlowControl, Why};
use crate::configuration_objects::Configurations;

const PREFIX: &str = "apiserver_flowcontrol_";
/// Seconds; as upstream.
const SECONDS: &[f64] = &[
    0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0,
];
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const WATCHERS: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1000.0, 10_000.0];

/// A histogram of whole numbers of a unit.
pub(super) struct Histogram {
    bounds: &'static [f64],
    /// How many of the numbers are one of what is shown.
    unit: f64,
    /// At or below each bound and above the one before, and at last above all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64], unit: f64) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0));
        Self {
            bounds,
            unit,
            counts: counts.collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, number: u64) {
        let value = number as f64 / self.unit;
        let at = self.bounds.iter().take_while(|b| **b < value).count();
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        let counts: Vec<u64> = self
            .counts
            .iter()
            .map(|c| {
                below += c.load(Ordering::Relaxed);
                below
            })
            .collect();
        let buckets = self.bounds.iter().copied().zip(counts.iter().copied());
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.unit;
        histogram(text, name, labels, buckets, below, sum);
    }
}

/// What is counted of the requests of a flow schema.
pub(super) struct Metrics {
    dispatched: AtomicU64,
    /// By concurrency-limit, queue-full, time-out.
    rejected: [AtomicU64; 3],
    in_queue: AtomicI64,
    in_queue_seats: AtomicI64,
    executing: AtomicI64,
    executing_seats: AtomicI64,
    pub queue_length: Histogram,
    /// Of those that were not, and that were, executed.
    waits: [Histogram; 2],
    /// Of requests, and of watches until their first event.
    executions: [Histogram; 2],
    pub seats: Histogram,
    pub watchers: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(SECONDS, 1e9);
        Self {
            dispatched: AtomicU64::default(),
            rejected: Default::default(),
            in_queue: AtomicI64::default(),
            in_queue_seats: AtomicI64::default(),
            executing: AtomicI64::default(),
            executing_seats: AtomicI64::default(),
            queue_length: Histogram::new(LENGTHS, 1.0),
            waits: [seconds(), seconds()],
            executions: [seconds(), seconds()],
            seats: Histogram::new(SEATS, 1.0),
            watchers: Histogram::new(WATCHERS, 1.0),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Metrics {
    pub fn waited(&self, time: Duration, executed: bool) {
        if executed {
            self.dispatched.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(histogram) = self.waits.get(usize::from(executed)) {
            histogram.observe(nanos(time));
        }
    }

    pub fn rejected(&self, why: Why) {
        if let Some(count) = self.rejected.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn in_queue(&self, n: i64, work: Work) {
        self.in_queue.fetch_add(n, Ordering::Relaxed);
        let seats = n * i64::from(work.seats());
        self.in_queue_seats.fetch_add(seats, Ordering::Relaxed);
    }

    pub fn executes(&self, n: i64, work: Work) {
        self.executing.fetch_add(n, Ordering::Relaxed);
        let seats = n * i64::from(work.seats());
        self.executing_seats.fetch_add(seats, Ordering::Relaxed);
    }

    pub fn executed(&self, time: Duration, is_watch: bool) {
        if let Some(histogram) = self.executions.get(usize::from(is_watch)) {
            histogram.observe(nanos(time));
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name}{{{labels}}} {value}");
}

fn histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    buckets: impl Iterator<Item = (f64, u64)>,
    count: u64,
    sum: f64,
) {
    for (bound, below) in buckets {
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
}

/// A figure of each flow schema: its name, kind, meaning and how it is written.
type OfSchema = (
    &'static str,
    &'static str,
    &'static str,
    fn(&mut String, &str, &str, &Metrics),
);

const SCHEMA_FIGURES: &[OfSchema] = &[
    (
        "dispatched_requests_total",
        "counter",
        "Requests that were let in",
        |text, name, labels, f| line(text, name, labels, f.dispatched.load(Ordering::Relaxed)),
    ),
    (
        "rejected_requests_total",
        "counter",
        "Requests that were sent away",
        |text, name, labels, f| {
            let words = ["concurrency-limit", "queue-full", "time-out"];
            for (count, word) in f.rejected.iter().zip(words) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    line(text, name, &format!("{labels},reason=\"{word}\""), count);
                }
            }
        },
    ),
    (
        "current_inqueue_requests",
        "gauge",
        "Requests that wait in queues",
        |text, name, labels, f| line(text, name, labels, f.in_queue.load(Ordering::Relaxed)),
    ),
    (
        "current_inqueue_seats",
        "gauge",
        "Seats of the requests that wait in queues",
        |text, name, labels, f| line(text, name, labels, f.in_queue_seats.load(Ordering::Relaxed)),
    ),
    (
        "current_executing_requests",
        "gauge",
        "Requests that run (of a watch, until its first event)",
        |text, name, labels, f| line(text, name, labels, f.executing.load(Ordering::Relaxed)),
    ),
    (
        "current_executing_seats",
        "gauge",
        "Seats of the requests that run",
        |text, name, labels, f| {
            line(
                text,
                name,
                labels,
                f.executing_seats.load(Ordering::Relaxed),
            )
        },
    ),
    (
        "request_queue_length_after_enqueue",
        "histogram",
        "Length of its queue, as each request that waits finds it",
        |text, name, labels, f| f.queue_length.write(text, name, labels),
    ),
    (
        "request_wait_duration_seconds",
        "histogram",
        "How long requests waited",
        |text, name, labels, f| {
            for (histogram, word) in f.waits.iter().zip(["false", "true"]) {
                histogram.write(text, name, &format!("{labels},execute=\"{word}\""));
            }
        },
    ),
    (
        "request_execution_seconds",
        "histogram",
        "How long requests ran (watches: until their first event)",
        |text, name, labels, f| {
            for (histogram, word) in f.executions.iter().zip(["regular", "watch"]) {
                histogram.write(text, name, &format!("{labels},type=\"{word}\""));
            }
        },
    ),
    (
        "work_estimated_seats",
        "histogram",
        "Seats that requests are estimated to need",
        |text, name, labels, f| f.seats.write(text, name, labels),
    ),
    (
        "watch_count_samples",
        "histogram",
        "Watchers that writes are sent to",
        |text, name, labels, f| f.watchers.write(text, name, labels),
    ),
];

/// What is shown of a level.
struct LevelMetrics {
    labels: String,
    gauges: [f64; 10],
    ratios: [(&'static str, &'static str, TimedRatio); 4],
    now: Duration,
}

const LEVEL_GAUGES: [(&str, &str); 10] = [
    (
        "nominal_limit_seats",
        "Seats of a priority level by its shares",
    ),
    (
        "lower_limit_seats",
        "Seats that a priority level always keeps",
    ),
    (
        "upper_limit_seats",
        "Seats that a priority level may have with all that it borrows",
    ),
    ("current_limit_seats", "Seats that a priority level has now"),
    (
        "demand_seats_high_watermark",
        "The most seats that a level could use at once in the last period",
    ),
    (
        "demand_seats_average",
        "Seats that a level could use in the last period, on the average",
    ),
    (
        "demand_seats_stdev",
        "Deviation of the seats that a level could use in the last period",
    ),
    (
        "demand_seats_smoothed",
        "Seats that a level could use, smoothed",
    ),
    ("target_seats", "Seats that a level is to have"),
    ("current_r", "Progress of virtual time of a priority level"),
];

fn level_metrics(table: &Table) -> Vec<LevelMetrics> {
    let one = |level: &std::sync::Arc<super::Level>| {
        let now = level.origin.elapsed();
        let state = level.state.lock();
        let (limits, demand, set) = (state.limits, state.demand, &state.set);
        LevelMetrics {
            labels: format!("priority_level=\"{}\"", level.name),
            gauges: [
                f64::from(limits.nominal),
                f64::from(limits.least),
                f64::from(limits.most),
                f64::from(set.limit()),
                f64::from(demand.high),
                demand.average,
                demand.deviation,
                demand.smoothed,
                state.target,
                set.progress(),
            ],
            ratios: [
                (
                    "priority_level_seat_utilization",
                    ",phase=\"executing\"",
                    set.seat_use.clone(),
                ),
                (
                    "priority_level_request_utilization",
                    ",phase=\"executing\"",
                    set.executing_ratio.clone(),
                ),
                (
                    "priority_level_request_utilization",
                    ",phase=\"waiting\"",
                    set.waiting_ratio.clone(),
                ),
                ("demand_seats", "", set.demand_ratio.clone()),
            ],
            now,
        }
    };
    table.levels.values().map(one).collect()
}

impl FlowControl {
    /// Lines for `/metrics`.
    pub fn metrics(&self, objects: &Configurations) -> String {
        let table = self.table(objects);
        let table = &table.1;
        let mut text = String::with_capacity(32 << 10);
        for (name, kind, help, write) in SCHEMA_FIGURES {
            let name = format!("{PREFIX}{name}");
            head(&mut text, &name, kind, help);
            for schema in &table.schemas {
                let (schema_name, level) = (&schema.config.name, &schema.level.name);
                let labels = format!("flow_schema=\"{schema_name}\",priority_level=\"{level}\"");
                write(&mut text, &name, &labels, &schema.metrics);
            }
        }
        let mut levels = level_metrics(table);
        for (nth, (name, help)) in LEVEL_GAUGES.iter().enumerate() {
            let name = format!("{PREFIX}{name}");
            head(&mut text, &name, "gauge", help);
            for level in &levels {
                let value = level.gauges.get(nth).copied().unwrap_or_default();
                line(&mut text, &name, &level.labels, value);
            }
        }
        for (name, help) in [
            (
                "priority_level_seat_utilization",
                "Nanoseconds by the part of its seats that a level used",
            ),
            (
                "priority_level_request_utilization",
                "Nanoseconds by the requests of a level as a part of its limit",
            ),
            (
                "demand_seats",
                "Nanoseconds by the seats that a level could use as a part of those that it had",
            ),
        ] {
            let full = format!("{PREFIX}{name}");
            head(&mut text, &full, "histogram", help);
            for level in &mut levels {
                for (_, more, ratio) in level.ratios.iter_mut().filter(|(n, ..)| *n == name) {
                    let (buckets, count, sum) = ratio.read(level.now);
                    let labels = format!("{}{more}", level.labels);
                    histogram(&mut text, &full, &labels, buckets.into_iter(), count, sum);
                }
            }
        }
        let name = format!("{PREFIX}seat_fair_frac");
        head(
            &mut text,
            &name,
            "gauge",
            "Part of its target that a level has which no bound holds",
        );
        let part = f64::from_bits(self.fair_part.load(Ordering::Relaxed));
        let _ = writeln!(text, "{name} {part}");
        let flight = &self.in_flight;
        for (name, help, counts) in [
            (
                "apiserver_current_inflight_requests",
                "Requests that run",
                &flight.executing,
            ),
            (
                "apiserver_current_inqueue_requests",
                "Requests that wait",
                &flight.waiting,
            ),
        ] {
            head(&mut text, name, "gauge", help);
            for (count, word) in counts.iter().zip(["mutating", "readOnly"]) {
                let labels = format!("request_kind=\"{word}\"");
                line(&mut text, name, &labels, count.load(Ordering::Relaxed));
            }
        }
        text
    }
}
