//! The entries of `metadata.managedFields`: reading, order, and the cap on updaters.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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
    /// As it was read, for as long as nothing of it changes: then it is written as it was.
    pub text: Option<Box<str>>,
}

/// An entry as it is written.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(borrow, default)]
    fields_type: Cow<'a, str>,
    #[serde(rename = "fieldsV1", default)]
    fields: Option<Cow<'a, Set>>,
    #[serde(borrow, default)]
    manager: Cow<'a, str>,
    #[serde(borrow, default)]
    operation: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    subresource: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "str::is_empty")]
    time: Cow<'a, str>,
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
    /// Takes fields away.
    pub fn lose(&mut self, lost: &Set) {
        if self.set.intersects(lost) {
            self.set = self.set.difference(lost);
            self.text = None;
        }
    }
    fn read(text: &str) -> Option<Self> {
        let written: Written<'_> = serde_json::from_str(text).ok()?;
        let applied = match &*written.operation {
            "Apply" => true,
            "Update" => false,
            _ => return None,
        };
        if written.api_version.is_empty() || written.fields_type != "FieldsV1" {
            return None;
        }
        Some(Self {
            manager: written.manager.into_owned(),
            applied,
            api_version: written.api_version.into_owned(),
            subresource: written.subresource.into_owned(),
            time: written.time.into_owned(),
            set: written.fields.map(Cow::into_owned).unwrap_or_default(),
            text: Some(text.into()),
        })
    }
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(text) = &self.text {
            out.extend_from_slice(text.as_bytes());
            return;
        }
        let written = Written {
            api_version: Cow::Borrowed(&self.api_version),
            fields_type: Cow::Borrowed("FieldsV1"),
            fields: Some(Cow::Borrowed(&self.set)),
            manager: Cow::Borrowed(&self.manager),
            operation: Cow::Borrowed(if self.applied { "Apply" } else { "Update" }),
            subresource: Cow::Borrowed(&self.subresource),
            time: Cow::Borrowed(&self.time),
        };
        // Writing to memory cannot fail, and all keys are texts.
        let _ = serde_json::to_writer(out, &written);
    }
}

/// Reads all entries of a JSON list; `None` when one of them is malformed.
pub(crate) fn read(list: &[u8]) -> Option<Vec<Entry>> {
    let list: Vec<&RawValue> = serde_json::from_slice(list).ok()?;
    let mut out: Vec<Entry> = Vec::with_capacity(list.len());
    for text in list {
        let entry = Entry::read(text.get())?;
        match out.iter_mut().find(|e| e.is(&entry)) {
            Some(same) => *same = entry,
            None => out.push(entry),
        }
    }
    Some(out)
}

/// Sorts and writes the entries, as a JSON list; nothing where there are none.
pub(crate) fn write(mut entries: Vec<Entry>) -> Vec<u8> {
    if entries.is_empty() {
        return Vec::new();
    }
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
    let mut out = Vec::with_capacity(1024);
    for entry in &entries {
        out.push(if out.is_empty() { b'[' } else { b',' });
        entry.write(&mut out);
    }
    out.push(b']');
    out
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
        bucket.text = None;
        bucket.manager = ANCIENT.into();
        bucket.subresource = String::new();
        bucket.set = bucket.set.union(&entry.set);
        bucket.time = entry.time;
    }
    out
}
