//! What compiling and running rules takes, reported to whoever counts it. Rules read no clock of their
//! own: where nobody has given one nothing is measured.

use std::sync::OnceLock;
use std::time::Duration;

/// A clock, and to whom is reported.
pub struct Stopwatch {
    /// The time since some moment.
    pub now: fn() -> Duration,
    /// The rules of one part of a schema were compiled.
    pub compiled: fn(Duration),
    /// The rules of one part of a schema were run on a value.
    pub evaluated: fn(Duration),
}

static STOPWATCH: OnceLock<Stopwatch> = OnceLock::new();

/// Has all rules of this process measured from now on. The first stopwatch stays.
pub fn measure_rules_by(stopwatch: Stopwatch) {
    let _ = STOPWATCH.set(stopwatch);
}

/// Does some work and says what it took.
pub(crate) fn measured<T>(told: fn(&Stopwatch) -> fn(Duration), work: impl FnOnce() -> T) -> T {
    let Some(stopwatch) = STOPWATCH.get() else {
        return work();
    };
    let began = (stopwatch.now)();
    let done = work();
    told(stopwatch)((stopwatch.now)().saturating_sub(began));
    done
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use api::FieldPath;
    use serde_json::json;

    use super::*;
    use crate::{BUDGET, Rules, Structural};

    static COMPILED: AtomicU64 = AtomicU64::new(0);
    static EVALUATED: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn it_is_told_what_rules_take() {
        measure_rules_by(Stopwatch {
            now: || Duration::ZERO,
            compiled: |_| {
                COMPILED.fetch_add(1, Ordering::SeqCst);
            },
            evaluated: |_| {
                EVALUATED.fetch_add(1, Ordering::SeqCst);
            },
        });
        let schema = json!({ "type": "object", "properties": { "n": { "type": "integer",
            "x-kubernetes-validations": [{ "rule": "self > 1" }] } } });
        let schema = Structural::read(&schema).expect("a schema");
        let rules = Rules::compile(&schema).expect("rules");
        assert!(COMPILED.load(Ordering::SeqCst) > 0);
        rules.run(&FieldPath::new("spec"), &json!({ "n": 2 }), None, BUDGET);
        assert!(EVALUATED.load(Ordering::SeqCst) > 0);
    }
}
