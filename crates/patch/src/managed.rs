//! Field management: who set which field. Every write goes through [`update`], server-side apply
//! through [`apply`]. The rules are structured-merge-diff's and the API server's around it.

use std::borrow::Cow;

use api::status::Cause;
use schema::model::{TypeId, TypeTable};
use serde_json::{Map, Value};

use crate::compare::{Comparison, compare, nulls_of, set_of};
use crate::entries::{self, Entry};
use crate::merge::{merge, name_structs, remove, validate};
use crate::set::Set;
use crate::{PatchError, json::go_kind};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Gives an object in another served version, with that version's type; `None` when that version
/// is not known (its managers are dropped).
pub type Convert<'a> = &'a dyn Fn(&Value, &str) -> Option<(TypeId, Value)>;

/// Whose write this is, and of what.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub table: &'a TypeTable,
    pub ty: TypeId,
    /// Of the request (`apps/v1`); objects are in this version.
    pub api_version: &'a str,
    pub kind: &'a str,
    /// `status`, `scale`, … or empty.
    pub subresource: &'a str,
    /// The field manager; empty reads as `unknown`.
    pub manager: &'a str,
    /// RFC 3339, whole seconds.
    pub time: &'a str,
    /// Paths that this endpoint resets and so never owns: `status` for the object itself,
    /// `spec` and `metadata` for its status.
    pub ignored: &'a Set,
    /// For kinds with several versions of different form.
    pub convert: Option<Convert<'a>>,
}

impl Request<'_> {
    fn entry(&self, applied: bool, set: Set) -> Entry {
        let manager = if self.manager.is_empty() {
            "unknown"
        } else {
            self.manager
        };
        Entry {
            manager: manager.to_owned(),
            applied,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: self.time.to_owned(),
            set,
            text: None,
        }
    }
}

/// Parts of an object that have no owner.
fn unowned() -> &'static Set {
    static STRIP: std::sync::LazyLock<Set> = std::sync::LazyLock::new(|| {
        Set::of_fields(&[
            "apiVersion",
            "kind",
            "metadata",
            "metadata.name",
            "metadata.namespace",
            "metadata.creationTimestamp",
            "metadata.selfLink",
            "metadata.uid",
            "metadata.clusterName",
            "metadata.generation",
            "metadata.managedFields",
            "metadata.resourceVersion",
        ])
    });
    &STRIP
}

fn metadata<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(field)
}

/// Takes `managedFields` out of an object.
fn take_managed(object: &mut Value) -> Option<Value> {
    object
        .get_mut("metadata")?
        .as_object_mut()?
        .remove("managedFields")
}

/// Whether the client asks to forget all managers: an empty list, or one empty entry.
fn is_reset(list: &[Value]) -> bool {
    match list {
        [] => true,
        [one] => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Computes `metadata.managedFields` on a create, update or patch (not apply). `old` is the live
/// object, null on a create, and `managed` its managed fields as they are stored: a JSON list, or
/// nothing. What `new` has of them is what the client sent: it is taken out, and those of the new
/// object are given, as they are to be stored. Never fails: managers that cannot be read are
/// forgotten, as upstream does.
pub fn update<'m>(
    rq: &Request<'_>,
    old: &Value,
    managed: &'m [u8],
    new: &mut Value,
) -> Cow<'m, [u8]> {
    let sent = match take_managed(new) {
        Some(Value::Array(list)) if rq.subresource.is_empty() => Some(list),
        _ => None,
    };
    if sent.as_ref().is_some_and(|l| is_reset(l)) && !old.is_null() {
        return Cow::default();
    }
    // What a client hands back unchanged is not worth reading.
    let from_client = sent
        .map(|list| Value::Array(list).to_string())
        .filter(|text| text.as_bytes() != managed)
        .and_then(|text| entries::read(text.as_bytes()))
        .filter(|l| !l.is_empty());
    if old.is_null() || from_client.is_some() {
        let all = from_client.unwrap_or_default();
        let change = compare_owned(rq, rq.ty, old, new);
        return entries::write(changed(rq, old, new, all, &change)).into();
    }
    if managed.is_empty() {
        // An object without managers stays so until it is applied.
        return Cow::default();
    }
    let change = compare_owned(rq, rq.ty, old, new);
    if change.is_same() {
        // The usual case of a repeated write: nothing is read.
        return managed.into();
    }
    let all = entries::read(managed).unwrap_or_default();
    entries::write(changed(rq, old, new, all, &change)).into()
}

/// The comparison without what has no owner anyway.
fn compare_owned(rq: &Request<'_>, ty: TypeId, old: &Value, new: &Value) -> Comparison {
    let mut c = compare(rq.table, ty, old, new).without(rq.ignored);
    for set in [&mut c.added, &mut c.modified, &mut c.removed] {
        *set = set.without_trees(volatile());
    }
    c
}

/// Fields of the server that change with every write.
fn volatile() -> &'static Set {
    static SET: std::sync::LazyLock<Set> = std::sync::LazyLock::new(|| {
        Set::of_fields(&[
            "metadata.managedFields",
            "metadata.resourceVersion",
            "metadata.generation",
            "metadata.uid",
            "metadata.creationTimestamp",
        ])
    });
    &SET
}

/// The entries after an update with these changes.
fn changed(
    rq: &Request<'_>,
    old: &Value,
    new: &Value,
    all: Vec<Entry>,
    change: &Comparison,
) -> Vec<Entry> {
    let mut out = Vec::with_capacity(all.len() + 1);
    for mut entry in all {
        let Some(seen) = in_version(rq, old, new, &entry.api_version, change) else {
            continue;
        };
        for lost in [&seen.added, &seen.modified, &seen.removed] {
            entry.lose(lost);
        }
        if !entry.set.is_empty() {
            out.push(entry);
        }
    }
    let mine = change.added.union(&change.modified).difference(unowned());
    if !mine.is_empty() {
        let mut mine = rq.entry(false, mine);
        if let Some(at) = out.iter().position(|e| e.is(&mine)) {
            mine.set = mine.set.union(&out.swap_remove(at).set);
        }
        out.push(mine);
    }
    entries::cap(&mut out);
    out
}

/// The change as a manager of another version sees it.
fn in_version<'c>(
    rq: &Request<'_>,
    old: &Value,
    new: &Value,
    version: &str,
    same: &'c Comparison,
) -> Option<Cow<'c, Comparison>> {
    let Some(convert) = rq.convert.filter(|_| version != rq.api_version) else {
        return Some(Cow::Borrowed(same));
    };
    let (ty, new) = convert(new, version)?;
    let old = if old.is_null() {
        Value::Null
    } else {
        convert(old, version)?.1
    };
    Some(Cow::Owned(compare_owned(rq, ty, &old, &new)))
}

/// Server-side apply: merges `config` into `live` (null when there is none yet), whose managed
/// fields are `managed`, as they are stored; gives the new object and its managed fields. The
/// caller fills in defaults and validates it.
pub fn apply(
    rq: &Request<'_>,
    live: &Value,
    managed: &[u8],
    config: &Value,
    force: bool,
) -> Result<(Value, Vec<u8>), PatchError> {
    check_config(rq, config)?;
    let mut all = if managed.is_empty() {
        Vec::new()
    } else {
        entries::read(managed)
            .ok_or_else(|| PatchError::Failed("failed to decode managed fields".into()))?
    };
    let mut base = live.clone();
    take_managed(&mut base);
    if all.is_empty() && !live.is_null() {
        let before = Request {
            manager: "before-first-apply",
            ..*rq
        };
        let all_of_it = compare_owned(&before, before.ty, &Value::Null, &base);
        all = changed(&before, &Value::Null, &base, Vec::new(), &all_of_it);
    }
    let for_kubectl = rq.manager == "kubectl"
        && metadata(&base, "annotations").is_some_and(|a| a.get(LAST_APPLIED).is_some());
    // What client-side apply has set, and nobody has changed since, passes to server-side apply.
    let allowed = if for_kubectl {
        last_applied_set(rq, &base)
    } else {
        Set::default()
    };
    let (mut new, all) = applied(rq, base, config, all, force, &allowed)?;
    if for_kubectl {
        refresh_last_applied(&mut new, config);
    }
    Ok((new, entries::write(all)))
}

fn check_config(rq: &Request<'_>, config: &Value) -> Result<(), PatchError> {
    let text = |f: &str| config.get(f).and_then(Value::as_str).unwrap_or_default();
    if !config.is_object() {
        return Err(PatchError::Malformed(format!(
            "error decoding YAML: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            go_kind(config)
        )));
    }
    if text("kind") != rq.kind || text("apiVersion") != rq.api_version {
        return Err(PatchError::Malformed(format!(
            "invalid object type: {}, Kind={}",
            if text("apiVersion").contains('/') {
                text("apiVersion").to_owned()
            } else {
                format!("/{}", text("apiVersion"))
            },
            text("kind")
        )));
    }
    if metadata(config, "managedFields").is_some_and(|m| !m.is_null()) {
        return Err(PatchError::Malformed(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let errors = validate(rq.table, rq.ty, config);
    if errors.is_empty() {
        return Ok(());
    }
    let list = match errors.as_slice() {
        [one] => one.clone(),
        many => format!(
            "errors:\n{}",
            many.iter()
                .map(|e| format!("  {e}"))
                .collect::<Vec<_>>()
                .join("\n")
        ),
    };
    Err(PatchError::Failed(format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {list}",
        api::meta::namespace(config),
        api::meta::name(config),
        if rq.api_version.contains('/') {
            rq.api_version.to_owned()
        } else {
            format!("/{}", rq.api_version)
        },
        rq.kind
    )))
}

/// Clients that still read the annotation of client-side apply find the applied configuration.
fn refresh_last_applied(result: &mut Value, config: &Value) {
    let mut kept = config.clone();
    if let Some(a) = kept
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        a.remove(LAST_APPLIED);
    }
    let text = format!("{kept}\n");
    if let Some(a) = result
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        a.insert(LAST_APPLIED.into(), text.into());
    }
}

/// The fields of the annotation's configuration that are still as it says.
fn last_applied_set(rq: &Request<'_>, live: &Value) -> Set {
    let text = metadata(live, "annotations").and_then(|a| a.get(LAST_APPLIED)?.as_str());
    let Some(last) = text.and_then(|t| serde_json::from_str::<Value>(t).ok()) else {
        return Set::default();
    };
    let change = compare(rq.table, rq.ty, &last, live);
    set_of(rq.table, rq.ty, &last)
        .difference(&change.modified)
        .difference(&change.removed)
}

fn applied(
    rq: &Request<'_>,
    base: Value,
    config: &Value,
    mut all: Vec<Entry>,
    force: bool,
    allowed: &Set,
) -> Result<(Value, Vec<Entry>), PatchError> {
    let mut new = if base.is_null() {
        Value::Object(Map::new())
    } else {
        base.clone()
    };
    merge(rq.table, rq.ty, &mut new, config);
    let mut mine = rq.entry(
        true,
        set_of(rq.table, rq.ty, config).without_trees(rq.ignored),
    );
    let last = all
        .iter()
        .position(|e| e.is(&mine))
        .map(|at| all.swap_remove(at));
    if let Some(last) = &last {
        mine.time = last.time.clone();
        prune(rq, &mut new, last, &mine, &all);
    } else {
        mine.time = String::new();
    }
    let mut change = compare_owned(rq, rq.ty, &base, &new);
    if !change.is_same() {
        mine.time = rq.time.to_owned();
    }
    // Who sets another one's field to null changes it, though nothing is there then.
    if !change.removed.is_empty() {
        let nulled = nulls_of(rq.table, rq.ty, config).intersection(&change.removed);
        change.removed = change.removed.difference(&nulled);
        change.modified = change.modified.union(&nulled);
    }
    yield_fields(rq, &base, &new, &mut all, &change, force, allowed)?;
    mine.set = mine.set.difference(unowned());
    if !mine.set.is_empty() {
        all.push(mine);
    }
    Ok((new, all))
}

/// Takes the changed fields from other managers; without force an error if there are any.
fn yield_fields(
    rq: &Request<'_>,
    old: &Value,
    new: &Value,
    all: &mut Vec<Entry>,
    change: &Comparison,
    force: bool,
    allowed: &Set,
) -> Result<(), PatchError> {
    let mut conflicts: Vec<(String, String)> = Vec::new();
    let mut kept = Vec::with_capacity(all.len());
    for mut entry in all.drain(..) {
        let Some(seen) = in_version(rq, old, new, &entry.api_version, change) else {
            continue;
        };
        let lost = entry.set.intersection(&seen.added.union(&seen.modified));
        if !lost.is_empty() {
            let name = entry.show();
            let refused = lost.difference(allowed).paths();
            conflicts.extend(refused.into_iter().map(|p| (name.clone(), p)));
            entry.lose(&lost);
        }
        entry.lose(&seen.removed);
        if !entry.set.is_empty() {
            kept.push(entry);
        }
    }
    *all = kept;
    if force || conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort_by(|a, b| a.0.cmp(&b.0));
    Err(conflict(&conflicts))
}

fn conflict(conflicts: &[(String, String)]) -> PatchError {
    let message = if let [(manager, path)] = conflicts {
        format!("Apply failed with 1 conflict: conflict with {manager}: {path}")
    } else {
        let mut lines = Vec::new();
        let mut last = None;
        for (manager, path) in conflicts {
            if last != Some(manager) {
                lines.push(format!("conflicts with {manager}:"));
                last = Some(manager);
            }
            lines.push(format!("- {path}"));
        }
        format!(
            "Apply failed with {} conflicts: {}",
            conflicts.len(),
            lines.join("\n")
        )
    };
    let causes = conflicts.iter().map(|(manager, path)| Cause {
        reason: "FieldManagerConflict".into(),
        message: format!("conflict with {manager}"),
        field: path.clone(),
    });
    PatchError::Conflict {
        message,
        causes: causes.collect(),
    }
}

/// Takes out of the merged object what the manager applied before, does not apply now, and nobody
/// else owns.
fn prune(rq: &Request<'_>, merged: &mut Value, last: &Entry, mine: &Entry, others: &[Entry]) {
    let named = |mut set: Set| {
        name_structs(rq.table, rq.ty, &mut set);
        set
    };
    let last_set = named(last.set.clone());
    let mut pruned = merged.clone();
    remove(rq.table, rq.ty, &mut pruned, &last_set);
    // Give back what is owned: also below what was taken as a whole.
    let owned = others
        .iter()
        .fold(mine.set.clone(), |all, e| all.union(&e.set));
    let all_paths = named(set_of(rq.table, rq.ty, merged));
    let left = named(set_of(rq.table, rq.ty, &pruned)).union(&named(owned));
    pruned = merged.clone();
    remove(rq.table, rq.ty, &mut pruned, &all_paths.difference(&left));
    // Give back what nobody owns but this manager never did either.
    let left = named(set_of(rq.table, rq.ty, &pruned));
    let gone = all_paths.difference(&left).intersection(&last_set);
    remove(rq.table, rq.ty, merged, &gone);
}
