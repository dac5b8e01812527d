//! What of a definition is looked at when another one changes. It is small, so that it can be kept
//! of each; the schemas, of which one may have megabytes, are read when their own definition changes.

use serde_json::Value;

use super::definition::{is_established, is_terminating};
use crate::check::{at, items, text};

/// See the head of this file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub group: String,
    /// `status.acceptedNames`.
    pub accepted: Value,
    pub is_established: bool,
    pub is_terminating: bool,
    /// All names that it wants are its own. What others do cannot change its status then.
    pub has_its_names: bool,
}

impl Facts {
    pub fn of(crd: &Value) -> Self {
        let meta = at(crd, "metadata");
        let status = at(crd, "status");
        let mut conditions = items(status, "conditions").iter();
        Self {
            name: text(meta, "name").to_owned(),
            uid: text(meta, "uid").to_owned(),
            generation: at(meta, "generation").as_i64().unwrap_or(0),
            group: text(at(crd, "spec"), "group").to_owned(),
            accepted: at(status, "acceptedNames").clone(),
            is_established: is_established(crd),
            is_terminating: is_terminating(crd),
            has_its_names: conditions
                .any(|c| text(c, "type") == "NamesAccepted" && text(c, "status") == "True"),
        }
    }
}
