//! The entries of `metadata.managedFields`: reading, order, and the cap on updaters.

use serde_json::{Map, Value};

use crate::set::Set;

/// Most entries of operation Update; older ones are merged (upstream's number).
const MAX_UPDATERS: usize = 10;
/// The manager that merged entries go to, one per version.
const ANCIENT: &str = "ancient-changes";

/// One manager's fields.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub manager: String,
    pub applied: bool,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339; empty for none.
    pub time: String,
    pub set: Set,
}

impl Entry {
    /// Appliers are one manager whatever version they apply, updaters one per version.
    pub fn is(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.applied == other.applied
            && self.subresource == other.subresource
            && (self.applied || self.api_version == other.api_version)
    }
    /// As conflicts name the manager.
    pub fn show(&self) -> String {
        let mut out = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            out.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applied {
            out.push_str(&format!(" using {}", self.api_version));
        }
        out
    }
    fn read(v: &Value) -> Option<Self> {
        let text = |name: &str| v.get(name).and_then(Value::as_str).unwrap_or_default();
        let applied = match text("operation") {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: text("manager").to_owned(),
            applied,
            api_version: text("apiVersion").to_owned(),
            subresource: text("subresource").to_owned(),
            time: text("time").to_owned(),
            set: Set::from_json(v.get("fieldsV1").unwrap_or(&Value::Null)).ok()?,
        })
    }
    fn write(&self) -> Value {
        let mut o = Map::new();
        o.insert("apiVersion".into(), self.api_version.as_str().into());
        o.insert("fieldsType".into(), "FieldsV1".into());
        o.insert("fieldsV1".into(), self.set.to_json());
        o.insert("manager".into(), self.manager.as_str().into());
        let operation = if self.applied { "Apply" } else { "Update" };
        o.insert("operation".into(), operation.into());
        if !self.subresource.is_empty() {
            o.insert("subresource".into(), self.subresource.as_str().into());
        }
        if !self.time.is_empty() {
            o.insert("time".into(), self.time.as_str().into());
        }
        Value::Object(o)
    }
}

/// Reads all entries; `None` when one of them is malformed.
pub(crate) fn read(list: &[Value]) -> Option<Vec<Entry>> {
    let mut out: Vec<Entry> = Vec::with_capacity(list.len());
    for v in list {
        let entry = Entry::read(v)?;
        match out.iter_mut().find(|e| e.is(&entry)) {
            Some(same) => *same = entry,
            None => out.push(entry),
        }
    }
    Some(out)
}

/// Sorts and writes the entries.
pub(crate) fn write(mut entries: Vec<Entry>) -> Value {
    entries.sort_by(|a, b| {
        (
            b.applied,
            &a.time,
            &a.manager,
            &a.api_version,
            &a.subresource,
        )
            .cmp(&(
                a.applied,
                &b.time,
                &b.manager,
                &b.api_version,
                &b.subresource,
            ))
    });
    Value::Array(entries.iter().map(Entry::write).collect())
}

/// Merges the oldest updaters of the same version until there are few enough.
pub(crate) fn cap(entries: &mut Vec<Entry>) {
    let (mut updaters, mut rest): (Vec<Entry>, Vec<Entry>) =
        entries.drain(..).partition(|e| !e.applied);
    if updaters.len() > MAX_UPDATERS {
        updaters.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
        updaters = merge_oldest(updaters);
    }
    rest.append(&mut updaters);
    *entries = rest;
}

fn merge_oldest(updaters: Vec<Entry>) -> Vec<Entry> {
    let mut over = updaters.len().saturating_sub(MAX_UPDATERS);
    let mut out: Vec<Entry> = Vec::with_capacity(updaters.len());
    for entry in updaters {
        let bucket = out
            .iter_mut()
            .find(|e| e.api_version == entry.api_version)
            .filter(|_| over > 0);
        let Some(bucket) = bucket else {
            out.push(entry);
            continue;
        };
        over -= 1;
        bucket.manager = ANCIENT.into();
        bucket.subresource = String::new();
        bucket.set = bucket.set.union(&entry.set);
        bucket.time = entry.time;
    }
    out
}
