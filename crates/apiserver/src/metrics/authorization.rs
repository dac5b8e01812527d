//! Figures of whether requests may be made, in upstream's names.

use std::time::Duration;

use metrics::Quick;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::identity::{Lines, Reloads, hash, seconds};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Decided {
    r#type: String,
    name: String,
    decision: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WebhookLabels {
    name: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Conditions {
    r#type: &'static str,
    name: String,
}

/// What came of match conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    Match,
    Excluded,
    Failed,
}

/// The figures.
pub struct AuthorizationMetrics {
    attempts: Quick<Outcome, Counter>,
    durations: Quick<Outcome, Histogram>,
    decisions: Family<Decided, Counter>,
    webhooks: Family<WebhookLabels, Counter>,
    webhook_seconds: Family<WebhookLabels, Histogram>,
    failed_open: Family<WebhookLabels, Counter>,
    condition_errors: Family<Conditions, Counter>,
    exclusions: Family<Conditions, Counter>,
    condition_seconds: Family<Conditions, Histogram>,
    pub lines: Lines,
    pub reloads: Reloads,
}

fn of_webhooks() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

fn of_conditions() -> Histogram {
    Histogram::new([0.001, 0.005, 0.01, 0.025, 0.1, 0.2, 0.25])
}

impl AuthorizationMetrics {
    /// `server`: the name of this one, of which labels have a digest.
    pub(super) fn new(server: &str) -> Self {
        let of_webhooks = of_webhooks as fn() -> Histogram;
        Self {
            attempts: Quick::new(Family::default()),
            durations: Quick::new(Family::new_with_constructor(seconds as fn() -> Histogram)),
            decisions: Family::default(),
            webhooks: Family::default(),
            webhook_seconds: Family::new_with_constructor(of_webhooks),
            failed_open: Family::default(),
            condition_errors: Family::default(),
            exclusions: Family::default(),
            condition_seconds: Family::new_with_constructor(of_conditions as fn() -> Histogram),
            lines: Lines::default(),
            reloads: Reloads::new(&hash(server.as_bytes())),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "authorization_attempts",
            "Requests by whether they may be made",
            self.attempts.family().clone(),
        );
        registry.register(
            "authorization_duration_seconds",
            "Time of deciding whether requests may be made",
            self.durations.family().clone(),
        );
        let part = registry.sub_registry_with_prefix("apiserver_authorization");
        let counters = [
            (
                "webhook_evaluations",
                "Questions to authorization webhooks",
                &self.webhooks,
            ),
            (
                "webhook_evaluations_fail_open",
                "Requests that were decided without a webhook that failed",
                &self.failed_open,
            ),
        ];
        for (name, help, family) in counters {
            part.register(name, help, family.clone());
        }
        part.register(
            "decisions",
            "Requests that an authorizer allowed or denied",
            self.decisions.clone(),
        );
        part.register(
            "webhook_duration_seconds",
            "Time of questions to authorization webhooks",
            self.webhook_seconds.clone(),
        );
        part.register(
            "match_condition_evaluation_errors",
            "Match conditions that could not be decided",
            self.condition_errors.clone(),
        );
        part.register(
            "match_condition_exclusions",
            "Requests that match conditions left out",
            self.exclusions.clone(),
        );
        part.register(
            "match_condition_evaluation_seconds",
            "Time of running match conditions",
            self.condition_seconds.clone(),
        );
        self.reloads.register(registry, "authorization");
    }

    /// Counts a request that was judged.
    pub fn attempt(&self, result: &'static str, took: Duration) {
        let labels = Outcome { result };
        self.attempts.count(&labels, |counter| {
            counter.inc();
        });
        self.durations
            .count(&labels, |histogram| histogram.observe(took.as_secs_f64()));
    }

    /// Counts a decision of one authorizer: `allowed` or `denied`.
    pub fn decision(&self, of: &str, name: &str, decision: &'static str) {
        let labels = Decided {
            r#type: of.to_owned(),
            name: name.to_owned(),
            decision,
        };
        self.decisions.get_or_create(&labels).inc();
    }

    /// Counts a question to a webhook.
    pub fn webhook(&self, name: &str, result: &'static str, took: Duration) {
        let name = name.to_owned();
        let labels = WebhookLabels { name, result };
        self.webhooks.get_or_create(&labels).inc();
        let histogram = self.webhook_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a request for which a webhook that failed had no opinion.
    pub fn failed_open(&self, name: &str, result: &'static str) {
        let name = name.to_owned();
        self.failed_open
            .get_or_create(&WebhookLabels { name, result })
            .inc();
    }

    /// Counts match conditions that ran.
    pub fn conditions(&self, name: &str, took: Duration, came: Came) {
        let labels = Conditions {
            r#type: "Webhook",
            name: name.to_owned(),
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
