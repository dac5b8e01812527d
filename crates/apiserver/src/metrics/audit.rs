//! Figures of the audit log, in upstream's names.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// The figures; clones share them.
#[derive(Clone)]
pub struct AuditMetrics {
    events: Counter,
    errors: Family<PluginLabels, Counter>,
    levels: Family<LevelLabels, Counter>,
    /// Of `levels`, by their rank: every request counts.
    by_level: [Counter; 4],
    rejected: Counter,
}

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];

impl Default for AuditMetrics {
    fn default() -> Self {
        let levels = Family::<LevelLabels, Counter>::default();
        let by_level = LEVELS.map(|level| levels.get_or_create(&LevelLabels { level }).clone());
        Self {
            events: Counter::default(),
            errors: Family::default(),
            levels,
            by_level,
            rejected: Counter::default(),
        }
    }
}

impl AuditMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let all = registry.sub_registry_with_prefix("apiserver_audit");
        all.register(
            "event",
            "Audit events that were made for the back ends",
            self.events.clone(),
        );
        all.register(
            "error",
            "Audit events that are lost, by the part that lost them",
            self.errors.clone(),
        );
        all.register(
            "level",
            "Requests by the level at which they are recorded",
            self.levels.clone(),
        );
        all.register(
            "requests_rejected",
            "Requests that were refused since they could not be recorded",
            self.rejected.clone(),
        );
    }

    /// Counts an event.
    pub fn event(&self) {
        self.events.inc();
    }

    /// Counts events that are lost.
    pub fn lost(&self, plugin: &'static str, events: u64) {
        let counter = self.errors.get_or_create(&PluginLabels { plugin });
        counter.inc_by(events);
    }

    /// How many a part has lost.
    pub fn losses(&self, plugin: &'static str) -> u64 {
        self.errors.get_or_create(&PluginLabels { plugin }).get()
    }

    /// Counts a request by the rank of its level, 0 for None.
    pub fn level(&self, rank: usize) {
        if let Some(counter) = self.by_level.get(rank) {
            counter.inc();
        }
    }

    /// Counts a request that was refused since it could not be recorded.
    pub fn rejected(&self) {
        self.rejected.inc();
    }
}
