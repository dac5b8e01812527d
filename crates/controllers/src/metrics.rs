//! What controllers count beside the work of their queues, under upstream's names. Each looks at what
//! was observed and planned; it changes neither.

pub mod device_claims;
pub mod sets;
pub mod volumes;

mod autoscalers;
mod jobs;
mod nodes;
mod slices;

pub use autoscalers::{OfScaler, scalers, show_scalers};
pub use jobs::{crons, jobs};
pub use nodes::{forced, nodes, show_nodes};
pub use slices::{show_slices, slices};

use std::sync::{Arc, LazyLock, Weak};

use control::{Action, Plan};
use metrics::Gauges;
use serde_json::Value;

/// Lives as long as a controller does: figures that are read from its caches are its own while it
/// leads, and nobody's after.
#[derive(Clone, Default)]
pub struct Alive(Arc<()>);

impl Alive {
    fn watch(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }

    /// Has something shown before figures are read, with whether the controller lives; once it
    /// does not, that is shown, too.
    pub fn show(&self, mut show: impl FnMut(bool) + Send + 'static) {
        let alive = self.watch();
        metrics::before_reading(move || {
            let lives = alive.upgrade().is_some();
            show(lives);
            lives
        });
    }
}

static RUNNING: LazyLock<Gauges<2>> = LazyLock::new(|| {
    Gauges::new(
        "running_managed_controllers",
        "Indicates where instances of a controller are currently running",
        ["name", "manager"],
    )
});

/// A controller runs here, or no longer.
pub fn runs(name: &str, is_running: bool) {
    let value = if is_running { 1.0 } else { 0.0 };
    RUNNING.set([name, "kube-controller-manager"], value);
}

/// Whether an action writes this resource; as which of upstream's operations.
fn operation<'a>(action: &'a Action, plural: &str) -> Option<(&'static str, &'a Action)> {
    let target = action.target().filter(|t| t.resource.plural == plural)?;
    let word = match action {
        Action::Create { .. } => "create",
        Action::Patch { .. } | Action::Update { .. } => "update",
        Action::Delete { .. } | Action::DeleteCollection { .. } => "delete",
        Action::Noted { .. } | Action::Event { .. } => return None,
    };
    let _ = target;
    Some((word, action))
}

fn counted(plan: &Plan, plural: &str, word: &str) -> u64 {
    let all = plan.all().filter_map(|a| operation(a, plural));
    all.filter(|(w, _)| *w == word).count() as u64
}

/// The status that an action writes to this resource.
fn status<'a>(plan: &'a Plan, plural: &str) -> Option<&'a Value> {
    plan.all().find_map(|action| match action {
        Action::Update {
            target,
            subresource: "status",
            object,
        } if target.resource.plural == plural => object.get("status"),
        _ => None,
    })
}

/// An object of a test.
#[cfg(test)]
fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

/// Whether this line is on the page of figures.
#[cfg(test)]
fn shows(line: &str) -> bool {
    let text = metrics::prometheus(&metrics::lines());
    text.lines().any(|l| l == line)
}
