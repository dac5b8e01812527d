//! The strategy of CustomResourceDefinitions.

use api::FieldError;
use serde_json::{Map, Value, json};

use super::{check, schema, storage_version, versions};
use crate::check::{at, fill, flag, items, make, set, text};
use crate::status_writes::keep_other_half;
use crate::strategy::{Context, Strategy};

/// The finalizer under which a definition stays until its objects are deleted. Upstream adds it
/// when the deletion begins; here a definition has it from the beginning.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// See the head of this file.
pub struct Definition;

impl Strategy for Definition {
    fn default(&self, crd: &mut Value) {
        let stored = storage_version(crd).to_owned();
        let Some(spec) = crd.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        fill(spec, "conversion", json!({ "strategy": "None" }));
        if let Some(service) = spec
            .pointer_mut("/conversion/webhook/clientConfig/service")
            .filter(|s| s.is_object())
        {
            fill(service, "port", 443);
        }
        if let Some(names) = make(spec, "names") {
            let kind = text(names, "kind").to_owned();
            if !kind.is_empty() {
                if text(names, "singular").is_empty() {
                    set(names, "singular", kind.to_lowercase());
                }
                if text(names, "listKind").is_empty() {
                    set(names, "listKind", format!("{kind}List"));
                }
            }
        }
        store(crd, &stored, true);
    }

    fn prepare_create(&self, crd: &mut Value, _cx: &Context<'_>) {
        let stored = storage_version(crd).to_owned();
        set(crd, "status", Value::Object(Map::new()));
        store(crd, &stored, false);
        if let Some(meta) = make(crd, "metadata") {
            let mut all = items(meta, "finalizers").to_vec();
            if !all.iter().any(|f| f == CLEANUP) {
                all.push(CLEANUP.into());
                set(meta, "finalizers", all);
            }
        }
    }

    fn prepare_update(&self, crd: &mut Value, old: &Value, cx: &Context<'_>) {
        keep_other_half(crd, old, cx.subresource);
        if cx.subresource.is_empty() {
            let stored = storage_version(crd).to_owned();
            store(crd, &stored, false);
        }
    }

    fn validate(&self, crd: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "" => check::created(crd),
            _ => check::status(crd),
        }
    }

    fn validate_update(&self, crd: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        match cx.subresource {
            "" => check::updated(crd, old),
            _ => check::status(crd),
        }
    }

    fn validates_whole_update(&self) -> bool {
        true
    }

    fn warnings(&self, crd: &Value, old: Option<&Value>) -> Vec<String> {
        let before = old.map(unknown_formats).unwrap_or_default();
        let mut formats = unknown_formats(crd);
        formats.retain(|f| !before.contains(f));
        let warning = |f: &String| format!("unrecognized format {f:?}");
        formats.iter().map(warning).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Notes that objects are stored in a version from now on.
fn store(crd: &mut Value, version: &str, only_if_none: bool) {
    if version.is_empty() {
        return;
    }
    let Some(status) = make(crd, "status") else {
        return;
    };
    let mut all = items(status, "storedVersions").to_vec();
    let known = all.iter().any(|v| v == version);
    if !known && (all.is_empty() || !only_if_none) {
        all.push(version.into());
        set(status, "storedVersions", all);
    }
}

/// Formats in a definition's schemas that mean nothing to us, each once, in order.
fn unknown_formats(crd: &Value) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for version in versions(crd) {
        let Some(Ok(schema)) = schema(version).map(structural::Structural::read) else {
            continue;
        };
        schema.walk(&mut |node| {
            let format = node.checks.as_ref().and_then(|c| c.format.as_deref());
            if let Some(format) = format
                && !structural::formats::is_known(&node.ty, format)
            {
                found.insert(format.to_owned());
            }
        });
    }
    found.into_iter().collect()
}

/// Whether a definition serves objects.
pub fn is_established(crd: &Value) -> bool {
    let conditions = items(at(crd, "status"), "conditions");
    conditions
        .iter()
        .any(|c| text(c, "type") == "Established" && text(c, "status") == "True")
}

/// Whether a definition is being deleted.
pub fn is_terminating(crd: &Value) -> bool {
    !text(at(crd, "metadata"), "deletionTimestamp").is_empty()
}

/// Whether a definition keeps unknown fields of all its objects, as old ones may.
pub(super) fn preserves_all(crd: &Value) -> bool {
    flag(at(crd, "spec"), "preserveUnknownFields")
}
