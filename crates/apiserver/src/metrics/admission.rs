//! Figures of admission's plugins, in upstream's names. Every write passes here: no label is a text
//! that would have to be made.

use std::time::Duration;

use metrics::Quick;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginLabels {
    name: &'static str,
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    operation: &'static str,
    rejected: &'static str,
    r#type: &'static str,
}

/// One of the two steps of admission, of an operation; both in upstream's words.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// `admit` or `validate`.
    pub name: &'static str,
    pub operation: &'static str,
}

/// The figures.
pub struct AdmissionMetrics {
    plugins: Quick<PluginLabels, Histogram>,
    steps: Quick<StepLabels, Histogram>,
}

fn seconds() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.5, 1.0, 2.5])
}

fn word(rejected: bool) -> &'static str {
    if rejected { "true" } else { "false" }
}

impl AdmissionMetrics {
    pub(super) fn new() -> Self {
        let seconds = seconds as fn() -> Histogram;
        Self {
            plugins: Quick::new(Family::new_with_constructor(seconds)),
            steps: Quick::new(Family::new_with_constructor(seconds)),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "apiserver_admission_controller_admission_duration_seconds",
            "Admission controller latency, by name, operation and step",
            self.plugins.family().clone(),
        );
        registry.register(
            "apiserver_admission_step_admission_duration_seconds",
            "Admission latency of all controllers of a step together",
            self.steps.family().clone(),
        );
    }

    /// A plugin has said what it says.
    pub fn plugin(&self, name: &'static str, step: Step, took: Duration, rejected: bool) {
        let labels = PluginLabels {
            name,
            operation: step.operation,
            rejected: word(rejected),
            r#type: step.name,
        };
        self.plugins
            .count(&labels, |histogram| histogram.observe(took.as_secs_f64()));
    }

    /// All plugins have.
    pub fn step(&self, step: Step, took: Duration, rejected: bool) {
        let labels = StepLabels {
            operation: step.operation,
            rejected: word(rejected),
            r#type: step.name,
        };
        self.steps
            .count(&labels, |histogram| histogram.observe(took.as_secs_f64()));
    }
}
