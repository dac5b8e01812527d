//! Figures of the watch cache, of lists that it answers and of the events that watchers are sent, in
//! upstream's names and in the process's table. Each cache and each watch holds its handles, so that
//! what is counted for an event is an addition; a resource that nothing happens to shows nothing.

use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use metrics::{Counter, Counters, Gauge, Gauges, Histogram, Histograms, exponential};
use registry::Row;

/// Seconds until the cache has what a read asks for; upstream's.
const WAITS: [f64; 13] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0,
];
/// Seconds until a list that comes as a watch is whole; upstream's.
const WATCH_LISTS: [f64; 17] = [
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];
/// Digits of a revision that upstream's figure shows, so that it stays exact.
const SHOWN_REVISIONS: u64 = 1_000_000_000_000_000;

struct All {
    initialised: Counters<2>,
    initial: Counters<2>,
    stored: Counters<2>,
    received: Counters<2>,
    dispatched: Counters<2>,
    revision: Gauges<2>,
    left_behind: Counters<2>,
    undecoded: Counters<2>,
    waits: Histograms<2>,
    consistent: Counters<4>,
    compared: Counters<3>,
    lists: Counters<3>,
    fetched: Counters<3>,
    returned: Counters<2>,
    store_lists: Counters<2>,
    store_fetched: Counters<2>,
    store_evaluated: Counters<2>,
    store_returned: Counters<2>,
    events: Counters<3>,
    sizes: Histograms<3>,
    watch_lists: Histograms<4>,
}

static ALL: LazyLock<All> = LazyLock::new(|| {
    let of = ["group", "resource"];
    let by_index = ["group", "resource", "index"];
    let of_version = ["group", "version", "resource"];
    let counter = |name, help| Counters::new(name, help, of);
    All {
        initialised: counter(
            "apiserver_watch_cache_initializations_total",
            "Times that a resource's objects were read again",
        ),
        initial: counter(
            "apiserver_init_events_total",
            "Objects that the watch cache began with",
        ),
        stored: counter(
            "apiserver_storage_events_received_total",
            "Events that the store's watch brought",
        ),
        received: counter(
            "apiserver_watch_cache_events_received_total",
            "Events that came to the watch cache",
        ),
        dispatched: counter(
            "apiserver_watch_cache_events_dispatched_total",
            "Events that the watch cache showed its watchers",
        ),
        revision: Gauges::new(
            "apiserver_watch_cache_resource_version",
            "Revision of the newest change in the watch cache, its last 15 digits",
            of,
        ),
        left_behind: counter(
            "apiserver_terminated_watchers_total",
            "Watchers that ended since they did not keep up",
        ),
        undecoded: counter(
            "apiserver_storage_decode_errors_total",
            "Stored objects that could not be read",
        ),
        waits: Histograms::new(
            "apiserver_watch_cache_read_wait_seconds",
            "Time that reads waited for the watch cache to have the newest state",
            of,
            &WAITS,
        ),
        consistent: Counters::new(
            "apiserver_watch_cache_consistent_read_total",
            "Reads of the newest state, from the watch cache or, as a fallback, from the store",
            ["group", "resource", "success", "fallback"],
        ),
        compared: Counters::new(
            "apiserver_storage_consistency_checks_total",
            "Comparisons of the watch cache with the store, by what came of them",
            ["group", "resource", "status"],
        ),
        lists: Counters::new(
            "apiserver_cache_list_total",
            "Lists that the watch cache answered",
            by_index,
        ),
        fetched: Counters::new(
            "apiserver_cache_list_fetched_objects_total",
            "Objects that were looked at for lists from the watch cache",
            by_index,
        ),
        returned: counter(
            "apiserver_cache_list_returned_objects_total",
            "Objects in lists from the watch cache",
        ),
        store_lists: counter(
            "apiserver_storage_list_total",
            "Lists that were read from the store",
        ),
        store_fetched: counter(
            "apiserver_storage_list_fetched_objects_total",
            "Objects that were read from the store for lists",
        ),
        store_evaluated: counter(
            "apiserver_storage_list_evaluated_objects_total",
            "Objects that were looked at for lists from the store",
        ),
        store_returned: counter(
            "apiserver_storage_list_returned_objects_total",
            "Objects in lists from the store",
        ),
        events: Counters::new(
            "apiserver_watch_events_total",
            "Events that were sent to watching clients",
            of_version,
        ),
        sizes: Histograms::new(
            "apiserver_watch_events_sizes",
            "Bytes of events that were sent to watching clients",
            of_version,
            &exponential(1_024.0, 2.0, 8),
        ),
        watch_lists: Histograms::new(
            "apiserver_watch_list_duration_seconds",
            "Time until a list that is asked for as a watch was sent whole",
            ["group", "version", "resource", "scope"],
            &WATCH_LISTS,
        ),
    }
});

/// A stored object of a resource could not be read.
pub fn undecoded(row: &Row) {
    ALL.undecoded.add([&*row.group, &*row.resource]);
}

/// What changes of one resource's objects count in.
struct Changes {
    stored: Counter,
    received: Counter,
    dispatched: Counter,
    revision: Gauge,
}

/// What lists by one index count in.
struct Lists {
    lists: Counter,
    fetched: Counter,
    returned: Counter,
}

/// What reads of the newest state count in.
struct Reads {
    waits: Histogram,
    /// Those that the cache answered.
    well: Counter,
}

/// How a list came by its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedFrom {
    /// By an index over this one of the row's fields, or by none.
    Cache(Option<usize>),
    /// By reading them in the store: an older state that it still has, or the newest one, which the
    /// cache did not come to.
    Store,
}

/// Handles of one resource's figures; caches of the same resource, one after the other, share them.
pub struct CacheFigures {
    row: Arc<Row>,
    changes: OnceLock<Changes>,
    reads: OnceLock<Reads>,
    /// By index: none, then by the number of the field.
    lists: Box<[OnceLock<Lists>]>,
}

impl CacheFigures {
    pub fn new(row: Arc<Row>) -> Self {
        let indexes = row.selectable_fields.len() + 1;
        Self {
            changes: OnceLock::new(),
            reads: OnceLock::new(),
            lists: (0..indexes).map(|_| OnceLock::new()).collect(),
            row,
        }
    }

    fn of(&self) -> [&str; 2] {
        [&*self.row.group, &*self.row.resource]
    }

    fn changes(&self) -> &Changes {
        self.changes.get_or_init(|| Changes {
            stored: ALL.stored.of(self.of()),
            received: ALL.received.of(self.of()),
            dispatched: ALL.dispatched.of(self.of()),
            revision: ALL.revision.of(self.of()),
        })
    }

    /// The store's watch brought a change.
    pub fn received(&self) {
        let changes = self.changes();
        changes.stored.inc();
        changes.received.inc();
    }

    /// Watchers were shown a change of this revision.
    pub fn dispatched(&self, revision: u64) {
        let changes = self.changes();
        changes.dispatched.inc();
        changes.revision.set((revision % SHOWN_REVISIONS) as f64);
    }

    /// All objects were read again, so many. What has none, and had none, is not shown.
    pub fn replaced(&self, objects: usize, revision: u64) {
        if objects == 0 && self.changes.get().is_none() {
            return;
        }
        let changes = self.changes();
        changes.revision.set((revision % SHOWN_REVISIONS) as f64);
        ALL.initialised.add(self.of());
        ALL.initial.of(self.of()).inc_by(objects as u64);
    }

    /// A watcher did not keep up.
    pub fn left_behind(&self) {
        ALL.left_behind.add(self.of());
    }

    fn reads(&self) -> &Reads {
        self.reads.get_or_init(|| Reads {
            waits: ALL.waits.of(self.of()),
            well: self.consistent(true, false),
        })
    }

    fn consistent(&self, success: bool, fallback: bool) -> Counter {
        let word = |is| if is { "true" } else { "false" };
        let [group, resource] = self.of();
        let labels = [group, resource, word(success), word(fallback)];
        ALL.consistent.of(labels)
    }

    /// A read waited for the newest state, in vain or not.
    pub fn waited(&self, took: Duration) {
        self.reads().waits.observe(took.as_secs_f64());
    }

    /// The newest state was read, or not; and if it was tried in the store, since the cache did not
    /// come to it.
    pub fn read_newest(&self, success: bool, fallback: bool) {
        match (success, fallback) {
            (true, false) => self.reads().well.inc(),
            // Seldom.
            _ => self.consistent(success, fallback).inc(),
        };
    }

    /// The cache was compared with the store: `success` where they hold the same, `failure` where they
    /// do not, `error` where that could not be found out.
    pub fn compared(&self, status: &str) {
        let [group, resource] = self.of();
        ALL.compared.add([group, resource, status]);
    }

    /// A list looked at so many objects and has so many of them.
    pub fn listed(&self, from: ListedFrom, fetched: usize, returned: usize) {
        let (fetched, returned) = (fetched as u64, returned as u64);
        let ListedFrom::Cache(field) = from else {
            let of = self.of();
            ALL.store_lists.add(of);
            ALL.store_evaluated.of(of).inc_by(fetched);
            ALL.store_returned.of(of).inc_by(returned);
            return;
        };
        let Some(slot) = self.lists.get(field.map_or(0, |n| n + 1)) else {
            return;
        };
        let lists = slot.get_or_init(|| {
            let [group, resource] = self.of();
            let field = field.and_then(|n| self.row.selectable_fields.get(n));
            let index = field.map_or_else(String::new, |f| format!("f:{}", f.name));
            let labels = [group, resource, index.as_str()];
            Lists {
                lists: ALL.lists.of(labels),
                fetched: ALL.fetched.of(labels),
                returned: ALL.returned.of(self.of()),
            }
        });
        lists.lists.inc();
        lists.fetched.inc_by(fetched);
        lists.returned.inc_by(returned);
    }

    /// The store was asked for so many objects.
    pub fn read_from_store(&self, objects: usize) {
        ALL.store_fetched.of(self.of()).inc_by(objects as u64);
    }
}

/// What one watch counts in; looked up once, when it begins.
pub struct WatchFigures {
    events: Counter,
    sizes: Histogram,
}

impl WatchFigures {
    pub fn of(row: &Row, version: &str) -> Self {
        let labels = [&*row.group, version, &*row.resource];
        Self {
            events: ALL.events.of(labels),
            sizes: ALL.sizes.of(labels),
        }
    }

    /// An event of so many bytes goes to the client.
    pub fn sent(&self, bytes: usize) {
        self.events.inc();
        self.sizes.observe(bytes as f64);
    }
}

/// A list that was asked for as a watch is whole; of one object, one namespace, or all.
pub fn watch_listed(row: &Row, version: &str, scope: &str, took: Duration) {
    let labels = [&*row.group, version, &*row.resource, scope];
    ALL.watch_lists.observe(labels, took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_upstreams() {
        let pods = registry::kinds().resource("", "pods").expect("pods");
        let row = Row {
            group: "watch-cache.test".into(),
            ..Row::clone(pods)
        };
        let node = row.selectable_fields.iter().position(|f| f.indexed);
        let row = Arc::new(row);
        let figures = CacheFigures::new(row.clone());
        figures.replaced(0, 7);
        let of = |text: &str| text.contains("group=\"watch-cache.test\"");
        let text = metrics::prometheus(&metrics::lines());
        assert!(!of(&text), "what is idle is not shown: {text}");
        figures.replaced(3, 7);
        figures.received();
        figures.dispatched(SHOWN_REVISIONS + 9);
        figures.left_behind();
        figures.waited(Duration::from_secs(1));
        figures.read_newest(true, false);
        figures.read_newest(true, true);
        figures.read_newest(false, true);
        figures.compared("success");
        figures.listed(ListedFrom::Cache(None), 5, 2);
        figures.listed(ListedFrom::Cache(node), 1, 1);
        figures.read_from_store(8);
        figures.listed(ListedFrom::Store, 8, 4);
        let watch = WatchFigures::of(&row, "v1");
        watch.sent(1_500);
        watch_listed(&row, "v1", "cluster", Duration::from_secs(1));
        let text = metrics::prometheus(&metrics::lines());
        let own = "{group=\"watch-cache.test\",resource=\"pods\"";
        let versioned = "{group=\"watch-cache.test\",version=\"v1\",resource=\"pods\"";
        for line in [
            format!("apiserver_watch_cache_initializations_total{own}}} 1"),
            format!("apiserver_init_events_total{own}}} 3"),
            format!("apiserver_storage_events_received_total{own}}} 1"),
            format!("apiserver_watch_cache_events_received_total{own}}} 1"),
            format!("apiserver_watch_cache_events_dispatched_total{own}}} 1"),
            format!("apiserver_watch_cache_resource_version{own}}} 9"),
            format!("apiserver_terminated_watchers_total{own}}} 1"),
            format!("apiserver_watch_cache_read_wait_seconds_count{own}}} 1"),
            format!(
                "apiserver_watch_cache_consistent_read_total{own},success=\"true\",fallback=\"false\"}} 1"
            ),
            format!(
                "apiserver_watch_cache_consistent_read_total{own},success=\"true\",fallback=\"true\"}} 1"
            ),
            format!(
                "apiserver_watch_cache_consistent_read_total{own},success=\"false\",fallback=\"true\"}} 1"
            ),
            format!("apiserver_storage_consistency_checks_total{own},status=\"success\"}} 1"),
            format!("apiserver_cache_list_total{own},index=\"\"}} 1"),
            format!("apiserver_cache_list_total{own},index=\"f:spec.nodeName\"}} 1"),
            format!("apiserver_cache_list_fetched_objects_total{own},index=\"\"}} 5"),
            format!("apiserver_cache_list_returned_objects_total{own}}} 3"),
            format!("apiserver_storage_list_total{own}}} 1"),
            format!("apiserver_storage_list_fetched_objects_total{own}}} 8"),
            format!("apiserver_storage_list_evaluated_objects_total{own}}} 8"),
            format!("apiserver_storage_list_returned_objects_total{own}}} 4"),
            format!("apiserver_watch_events_total{versioned}}} 1"),
            format!("apiserver_watch_events_sizes_count{versioned}}} 1"),
            format!("apiserver_watch_list_duration_seconds_count{versioned},scope=\"cluster\"}} 1"),
        ] {
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
