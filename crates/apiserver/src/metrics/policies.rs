//! Figures of policies of admission, in upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upstream's words for what came of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorType(&'static str);

impl ErrorType {
    pub const NONE: Self = Self("no_error");

    /// Of the message of an expression that failed or refused, as upstream distinguishes them.
    pub fn of(message: &str) -> Self {
        Self(if message.starts_with("compilation") {
            "compile_error"
        } else if message.starts_with("validation failed due to running out of cost budget") {
            "out_of_budget"
        } else {
            "invalid_error"
        })
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Validation {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
    /// `allow`, `deny`, `warn`, `audit`.
    enforcement_action: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Mutation {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
}

fn seconds() -> Histogram {
    Histogram::new([0.000_000_5, 0.001, 0.01, 0.1, 1.0])
}

/// The figures.
pub struct PolicyMetrics {
    validations: Family<Validation, Counter>,
    validation_seconds: Family<Validation, Histogram>,
    mutations: Family<Mutation, Counter>,
    mutation_seconds: Family<Mutation, Histogram>,
}

impl Default for PolicyMetrics {
    fn default() -> Self {
        Self {
            validations: Family::default(),
            validation_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            mutations: Family::default(),
            mutation_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
        }
    }
}

impl PolicyMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = registry.sub_registry_with_prefix("apiserver_validating_admission_policy");
        all.register(
            "check",
            "Validations that refused, warned or failed",
            self.validations.clone(),
        );
        all.register(
            "check_duration_seconds",
            "Time of the policies whose validations refused, warned or failed",
            self.validation_seconds.clone(),
        );
        let all = registry.sub_registry_with_prefix("apiserver_mutating_admission_policy");
        all.register("check", "Mutations that ran", self.mutations.clone());
        all.register(
            "check_duration_seconds",
            "Time of mutations",
            self.mutation_seconds.clone(),
        );
    }

    /// Counts what followed from a validation.
    pub fn validation(
        &self,
        (policy, binding): (&str, &str),
        error: ErrorType,
        action: &'static str,
        took: Duration,
    ) {
        let labels = Validation {
            policy: policy.to_owned(),
            policy_binding: binding.to_owned(),
            error_type: error.0,
            enforcement_action: action,
        };
        self.validations.get_or_create(&labels).inc();
        let histogram = self.validation_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// Counts a mutation.
    pub fn mutation(&self, (policy, binding): (&str, &str), error: ErrorType, took: Duration) {
        let labels = Mutation {
            policy: policy.to_owned(),
            policy_binding: binding.to_owned(),
            error_type: error.0,
        };
        self.mutations.get_or_create(&labels).inc();
        let histogram = self.mutation_seconds.get_or_create(&labels);
        histogram.observe(took.as_secs_f64());
    }
}
