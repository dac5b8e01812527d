//! Figures of admission's webhooks and match conditions, in upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Codes beyond are counted as this one: they come from outside, and would be labels without end.
const LARGEST_CODE: u16 = 600;

/// Which webhook or policy, in which step, of which operation.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    pub name: &'a str,
    /// `admit` or `validating`.
    pub step: &'static str,
    pub operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Took {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejection {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailOpen {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Condition {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

/// The figures.
pub struct WebhookMetrics {
    durations: Family<Took, Histogram>,
    requests: Family<Request, Counter>,
    /// These two are counters; this library gives those a suffix that upstream's names lack.
    rejections: Family<Rejection, Gauge>,
    failed_open: Family<FailOpen, Gauge>,
    condition_errors: Family<Condition, Counter>,
    exclusions: Family<Condition, Counter>,
    condition_seconds: Family<Condition, Histogram>,
}

fn of_calls() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0])
}

fn of_conditions() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25])
}

impl Default for WebhookMetrics {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(of_calls as fn() -> Histogram),
            requests: Family::default(),
            rejections: Family::default(),
            failed_open: Family::default(),
            condition_errors: Family::default(),
            exclusions: Family::default(),
            condition_seconds: Family::new_with_constructor(of_conditions as fn() -> Histogram),
        }
    }
}

impl WebhookMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = registry.sub_registry_with_prefix("apiserver_admission");
        all.register(
            "webhook_admission_duration_seconds",
            "Time of calls to webhooks of admission",
            self.durations.clone(),
        );
        all.register(
            "webhook_request",
            "Calls to webhooks of admission",
            self.requests.clone(),
        );
        all.register(
            "webhook_rejection_count",
            "Requests that webhooks rejected, or that failed with them",
            self.rejections.clone(),
        );
        all.register(
            "webhook_fail_open_count",
            "Requests that went on without a webhook that failed",
            self.failed_open.clone(),
        );
        all.register(
            "match_condition_evaluation_errors",
            "Match conditions that could not be decided",
            self.condition_errors.clone(),
        );
        all.register(
            "match_condition_exclusions",
            "Requests that match conditions left out",
            self.exclusions.clone(),
        );
        all.register(
            "match_condition_evaluation_seconds",
            "Time of running match conditions",
            self.condition_seconds.clone(),
        );
    }

    /// Counts a call.
    pub fn call(&self, of: Of<'_>, took: Duration, rejected: bool, code: u16) {
        let rejected = rejected.to_string();
        self.requests
            .get_or_create(&Request {
                name: of.name.to_owned(),
                r#type: of.step,
                operation: of.operation,
                code: code.min(LARGEST_CODE),
                rejected: rejected.clone(),
            })
            .inc();
        let labels = Took {
            name: of.name.to_owned(),
            r#type: of.step,
            operation: of.operation,
            rejected,
        };
        let histogram = self.durations.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a request that ended here; `error_type` is upstream's word.
    pub fn rejection(&self, of: Of<'_>, error_type: &'static str, code: u16) {
        let labels = Rejection {
            name: of.name.to_owned(),
            r#type: of.step,
            operation: of.operation,
            error_type,
            rejection_code: code.min(LARGEST_CODE),
        };
        self.rejections.get_or_create(&labels).inc();
    }

    /// Counts a request that went on without a webhook.
    pub fn fail_open(&self, of: Of<'_>) {
        let labels = FailOpen {
            name: of.name.to_owned(),
            r#type: of.step,
        };
        self.failed_open.get_or_create(&labels).inc();
    }

    /// Counts match conditions that ran, of a `webhook` or a `policy`.
    pub fn conditions(&self, kind: &'static str, of: Of<'_>, took: Duration, came: Came) {
        let labels = Condition {
            name: of.name.to_owned(),
            kind,
            r#type: of.step,
            operation: of.operation,
        };
        let histogram = self.condition_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
        drop(histogram);
        match came {
            Came::Match => {}
            Came::Excluded => drop(self.exclusions.get_or_create(&labels).inc()),
            Came::Failed => drop(self.condition_errors.get_or_create(&labels).inc()),
        }
    }
}

/// What came of match conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    Match,
    Excluded,
    Failed,
}
