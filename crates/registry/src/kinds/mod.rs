//! The built-in kinds of Kubernetes v1.36, one row each, by group; the order of the groups is
//! the order in which discovery lists them.

pub mod columns;
mod def;

mod cluster;
mod core;
mod devices;
mod extension;
mod identity;
mod networking;
mod selectable_fields;
mod storage;
mod usage;
mod workloads;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

pub use def::{type_name, type_of};

use crate::row::{Row, ServedVersion};
use def::Def;

/// A table that every request looks into, of names that nobody can choose by the thousands: a quick
/// hash is enough.
pub type ByName<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// All kinds at one moment and the ways to find one. Immutable: a kind that comes or goes makes a
/// new table, and a request keeps the one it began with.
pub struct Kinds {
    rows: Vec<Arc<Row>>,
    /// By resource, then by group: found without making a key.
    by_resource: ByName<Arc<str>, Vec<usize>>,
    by_kind: ByName<(Arc<str>, Arc<str>), usize>,
}

/// The table of built-in kinds. Built once; a server with kinds of its own makes another one from
/// these rows and those (see [`Kinds::new`]).
pub fn kinds() -> &'static Arc<Kinds> {
    static KINDS: OnceLock<Arc<Kinds>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let rows = built_in().map(Def::row).chain(usage::rows()).map(Arc::new);
        Arc::new(Kinds::new(rows.collect()))
    })
}

fn built_in() -> impl Iterator<Item = &'static def::Def> {
    [
        core::ROWS,
        extension::AGGREGATION,
        workloads::ROWS,
        cluster::EVENTS,
        identity::ROWS,
        workloads::SCALING,
        identity::CERTIFICATES,
        networking::ROWS,
        workloads::POLICY,
        identity::ACCESS,
        storage::ROWS,
        extension::ROWS,
        cluster::ROWS,
        networking::DISCOVERY,
        devices::ROWS,
        cluster::INTERNAL,
    ]
    .into_iter()
    .flatten()
}

impl Kinds {
    /// A table of these rows.
    pub fn new(rows: Vec<Arc<Row>>) -> Self {
        let index = |name: fn(&Row) -> &Arc<str>| {
            let pairs = rows.iter().enumerate();
            pairs
                .map(|(i, r)| ((r.group.clone(), name(r).clone()), i))
                .collect()
        };
        let mut by_resource = ByName::<Arc<str>, Vec<usize>>::default();
        for (nth, row) in rows.iter().enumerate() {
            by_resource
                .entry(row.resource.clone())
                .or_default()
                .push(nth);
        }
        Self {
            by_resource,
            by_kind: index(|r| &r.kind),
            rows,
        }
    }

    /// All rows, in the order of discovery.
    pub fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// By group (empty for the core group) and plural, whatever the version.
    pub fn resource(&self, group: &str, resource: &str) -> Option<&Arc<Row>> {
        let found = self.by_resource.get(resource)?.iter();
        // The last one counts, as in the table by kind.
        found
            .rev()
            .filter_map(|nth| self.rows.get(*nth))
            .find(|row| *row.group == *group)
    }

    /// By group, version and plural: `None` when the version is not served.
    pub fn by_resource(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Row>> {
        self.resource(group, resource)
            .filter(|r| r.version(version).is_some())
    }

    /// By group, version and kind: `None` when the version is not served.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Row>> {
        let row = self
            .rows
            .get(*self.by_kind.get(&(group.into(), kind.into()))?)?;
        row.version(version).is_some().then_some(row)
    }

    /// The groups in the order of discovery, each with its versions in order of preference.
    pub fn groups(&self) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
        let mut groups: Vec<(Arc<str>, Vec<Arc<str>>)> = Vec::new();
        for row in &self.rows {
            let at = match groups.iter().position(|(g, _)| *g == row.group) {
                Some(at) => at,
                None => {
                    groups.push((row.group.clone(), Vec::new()));
                    groups.len() - 1
                }
            };
            if let Some((_, versions)) = groups.get_mut(at) {
                merge_versions(versions, &row.versions);
            }
        }
        groups
    }
}

/// Adds what is missing, keeping the order of preference: stable, then beta, then alpha, newest
/// first.
fn merge_versions(all: &mut Vec<Arc<str>>, more: &[ServedVersion]) {
    for v in more {
        if !all.contains(&v.version) {
            all.push(v.version.clone());
        }
    }
    all.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
}

/// Stability (3 for stable, 2 for beta, 1 for alpha, 0 for other names), major number, minor
/// number: the larger, the more preferred.
pub fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or("");
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (major, tail) = rest.split_at(digits);
    let Ok(major) = major.parse() else {
        return (0, 0, 0);
    };
    let minor = |n: &str| n.parse().unwrap_or(0);
    match tail {
        "" => (3, major, 0),
        _ => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (2, major, minor(n)),
            (_, Some(n)) => (1, major, minor(n)),
            _ => (0, 0, 0),
        },
    }
}

#[cfg(test)]
mod tests;
