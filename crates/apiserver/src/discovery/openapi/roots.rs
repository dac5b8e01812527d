//! What the paths of a document refer to: it defines that, and nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use schema::TypeTable;
use serde_json::{Map, Value};

use super::parameters::Parameters;

/// What the names of the types begin with that all groups share.
pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What a document's paths refer to.
#[derive(Default)]
pub(super) struct Roots {
    /// The types that it must define, by the table in which each lies.
    types: Vec<(Arc<TypeTable>, BTreeSet<String>)>,
    pub(super) parameters: Parameters,
}

impl Roots {
    pub(super) fn add(&mut self, table: &Arc<TypeTable>, name: String) {
        match self.types.iter_mut().find(|(t, _)| Arc::ptr_eq(t, table)) {
            Some((_, names)) => {
                names.insert(name);
            }
            None => self.types.push((table.clone(), BTreeSet::from([name]))),
        }
    }

    pub(super) fn schemas(
        &self,
        define: impl Fn(&TypeTable, &[&str]) -> Map<String, Value>,
    ) -> Map<String, Value> {
        let mut all = Map::new();
        // Built-in definitions last: another table's copy of `ObjectMeta` is not better.
        let is_built_in = |table: &Arc<TypeTable>| Arc::ptr_eq(table, schema::builtin());
        let (own, others): (Vec<_>, Vec<_>) = self.types.iter().partition(|(t, _)| is_built_in(t));
        for (table, names) in others.into_iter().chain(own) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            all.extend(define(table, &names));
        }
        all
    }
}
