//! Figures of this process's components: counters, gauges and histograms under upstream's names, in
//! one table that `/metrics` of every component shows. Whoever counts declares them beside his work;
//! this crate knows none of them but what every process has.
//!
//! A label's values must come from a small set: names of resources that exist, of plugins, of
//! results; never what a client may write freely.
#![forbid(unsafe_code)]

mod family;
mod page;
pub mod pages;
pub mod process;
pub mod slis;

use std::sync::LazyLock;

use parking_lot::Mutex;
use prometheus_client::registry::{Metric, Registry};

pub use family::{Counters, Gauges, Histograms, Quick, decimal, exponential};
pub use page::{OPENMETRICS, TEXT, kind_for, openmetrics, page_for, prometheus};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge as WholeGauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// A gauge of any number.
pub type Gauge = prometheus_client::metrics::gauge::Gauge<f64, std::sync::atomic::AtomicU64>;

static ALL: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

type Hook = Box<dyn FnMut() -> bool + Send>;

/// What is asked before figures are read; each lasts as long as a queue or a component.
static HOOKS: Mutex<Vec<Hook>> = Mutex::new(Vec::new());

/// Has something called each time before figures are read, for what is known then only, until it
/// says `false`. It must not read figures itself.
pub fn before_reading(hook: impl FnMut() -> bool + Send + 'static) {
    HOOKS.lock().push(Box::new(hook));
}

fn register(name: &str, help: &str, metric: impl Metric) {
    ALL.lock().register(name, help, metric);
}

/// All figures of this process, each component's in turn, without the end's mark; to be given to
/// [`prometheus`] or [`openmetrics`].
pub fn lines() -> String {
    HOOKS.lock().retain_mut(|hook| hook());
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &ALL.lock());
    if let Some(rest) = text.strip_suffix("# EOF\n") {
        text.truncate(rest.len());
    }
    text + &process::lines()
}
