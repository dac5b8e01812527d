//! Figures of the rules in schemas of custom resources, in upstream's names and in the process's
//! table. Each of them is counted for one part of a schema that has rules, as upstream does it.

use std::sync::LazyLock;
use std::time::Duration;

use clock::Instant;
use metrics::{Histogram, Histograms};
use registry::{Stopwatch, measure_rules_by};

/// Seconds; what upstream's figures have that name no bounds.
const USUAL: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

struct Cel {
    compilation: Histogram,
    evaluation: Histogram,
    /// The moment that times are counted from.
    origin: Instant,
}

static CEL: LazyLock<Cel> = LazyLock::new(|| {
    let of = |name, help| Histograms::new(name, help, [], &USUAL).of([]);
    Cel {
        compilation: of(
            "apiserver_cel_compilation_duration_seconds",
            "CEL compilation time in seconds",
        ),
        evaluation: of(
            "apiserver_cel_evaluation_duration_seconds",
            "CEL evaluation time in seconds",
        ),
        origin: Instant::now(),
    }
});

/// Has the rules of this process counted.
pub(super) fn count_rules() {
    // The figures are there before the first rule is.
    let _ = LazyLock::force(&CEL);
    measure_rules_by(Stopwatch {
        now: || Instant::now().saturating_duration_since(CEL.origin),
        compiled: |took: Duration| CEL.compilation.observe(took.as_secs_f64()),
        evaluated: |took: Duration| CEL.evaluation.observe(took.as_secs_f64()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        count_rules();
        let text = metrics::prometheus(&metrics::lines());
        for name in ["compilation", "evaluation"] {
            let line = format!("# TYPE apiserver_cel_{name}_duration_seconds histogram");
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
