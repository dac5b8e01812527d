//! Fields of features that are off: they are dropped from what clients write, and stay where an object
//! had them before, so that a feature can be turned off without harm to what used it. Which fields a
//! gate decides of stands in `data/gated_fields.txt` (its head describes it).

use std::sync::OnceLock;

use api::FieldPath;
use serde_json::Value;

use crate::check::{at, is_empty};
use crate::feature_gates::Features;
use crate::row::Row;

const TEXT: &str = include_str!("../data/gated_fields.txt");

/// What gates decide of in one kind.
struct OfKind {
    group: &'static str,
    kind: &'static str,
    rules: Vec<Rule>,
}

/// Fields of one gate that are in use together.
struct Rule {
    gate: &'static str,
    paths: Vec<Path>,
}

struct Path {
    steps: Vec<Step>,
    /// The field is dropped only where it has this member.
    only_with: Option<&'static str>,
}

enum Step {
    /// To these members of an object; `goes`: each goes too when nothing is left in it.
    Members {
        names: Vec<&'static str>,
        goes: bool,
    },
    /// To each item of a list or value of a map.
    Each,
}

/// Drops from an object that is written (in its storage version) the fields of features that are off,
/// but those that `old` makes use of already. Gives texts of `Warning` headers: upstream drops them
/// without a word, and whoever set them would wonder.
pub fn drop_disabled(
    row: &Row,
    new: &mut Value,
    old: Option<&Value>,
    features: &Features,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let of_kind = table()
        .iter()
        .find(|k| k.group == &*row.storage_group && k.kind == &*row.kind);
    for rule in of_kind.into_iter().flat_map(|k| &k.rules) {
        let used = |object: &Value| rule.paths.iter().any(|p| is_set(object, &p.steps));
        if features.on(rule.gate) || !used(&*new) || old.is_some_and(used) {
            continue;
        }
        let mut gone = Vec::new();
        for path in &rule.paths {
            take(
                new,
                &path.steps,
                path.only_with,
                &FieldPath::root(),
                &mut gone,
            );
        }
        warnings.extend(warning(rule.gate, &gone));
    }
    warnings
}

/// One for all fields of a gate: of a slice of devices there may be hundreds.
fn warning(gate: &str, gone: &[FieldPath]) -> Option<String> {
    let (first, others) = gone.split_first()?;
    let why = format!("dropped, since the feature gate {gate} is off");
    Some(match others.len() {
        0 => format!("{first}: {why}"),
        n => format!("{first}: {why} (and {n} more of its fields)"),
    })
}

/// Whether a path leads to something.
fn is_set(value: &Value, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return !value.is_null() && !value.as_array().is_some_and(Vec::is_empty);
    };
    match (step, value) {
        (Step::Members { names, .. }, Value::Object(_)) => {
            names.iter().any(|name| is_set(at(value, name), rest))
        }
        (Step::Each, Value::Array(items)) => items.iter().any(|v| is_set(v, rest)),
        (Step::Each, Value::Object(members)) => members.values().any(|v| is_set(v, rest)),
        _ => false,
    }
}

/// Takes away what a path leads to, and notes where that was.
fn take(
    value: &mut Value,
    steps: &[Step],
    only_with: Option<&str>,
    path: &FieldPath,
    gone: &mut Vec<FieldPath>,
) {
    let Some((step, rest)) = steps.split_first() else {
        return;
    };
    match (step, value) {
        (Step::Members { names, goes }, Value::Object(members)) => {
            for name in names {
                let Some(inner) = members.get_mut(*name).filter(|v| !v.is_null()) else {
                    continue;
                };
                let (path, before) = (path.child(name), gone.len());
                let remove = if rest.is_empty() {
                    only_with.is_none_or(|member| !is_empty(at(inner, member)))
                } else {
                    take(inner, rest, only_with, &path, gone);
                    *goes && gone.len() > before && is_empty(inner)
                };
                if remove {
                    members.remove(*name);
                }
                if remove && rest.is_empty() {
                    gone.push(path);
                }
            }
        }
        (Step::Each, Value::Array(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                take(item, rest, only_with, &path.index(i), gone);
            }
        }
        (Step::Each, Value::Object(members)) => {
            for (key, item) in members {
                take(item, rest, only_with, &path.key(key), gone);
            }
        }
        _ => {}
    }
}

fn table() -> &'static [OfKind] {
    static TABLE: OnceLock<Vec<OfKind>> = OnceLock::new();
    TABLE.get_or_init(read)
}

/// The rules by kind. A line that cannot be read is left out here; a test finds it.
fn read() -> Vec<OfKind> {
    let mut places: Vec<(&'static str, &'static str, &'static str)> = Vec::new();
    let mut out: Vec<OfKind> = Vec::new();
    for line in lines() {
        let words: Vec<&'static str> = line.split(' ').collect();
        let (gate, place, paths) = match words.as_slice() {
            ["P", place, kind, prefix] => {
                places.push((*place, *kind, *prefix));
                continue;
            }
            [gate, place, paths @ ..] => (*gate, *place, paths),
            _ => continue,
        };
        let holders: Vec<(&'static str, &'static str)> = if place.contains('/') {
            vec![(place, "")]
        } else {
            let same = places.iter().filter(|(name, ..)| *name == place);
            same.map(|(_, kind, prefix)| (*kind, *prefix)).collect()
        };
        for (kind, prefix) in holders {
            let Some((group, kind)) = kind.split_once('/') else {
                continue;
            };
            let texts = paths.iter().copied();
            let paths = texts.map(|text| path_of(prefix, text)).collect();
            let rule = Rule { gate, paths };
            match out.iter_mut().find(|k| k.group == group && k.kind == kind) {
                Some(known) => known.rules.push(rule),
                None => out.push(OfKind {
                    group,
                    kind,
                    rules: vec![rule],
                }),
            }
        }
    }
    out
}

fn lines() -> impl Iterator<Item = &'static str> {
    TEXT.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
}

fn path_of(prefix: &'static str, text: &'static str) -> Path {
    let ends = text.strip_suffix(']').and_then(|t| t.split_once('['));
    let (text, only_with) = match ends {
        Some((text, member)) => (text, Some(member)),
        None => (text, None),
    };
    let words = prefix.split('/').chain(text.split('/'));
    let steps = words.filter(|word| !word.is_empty()).map(step).collect();
    Path { steps, only_with }
}

fn step(word: &'static str) -> Step {
    if word == "*" {
        return Step::Each;
    }
    let (names, goes) = match word.strip_suffix('?') {
        Some(names) => (names, true),
        None => (word, false),
    };
    Step::Members {
        names: names.split('|').collect(),
        goes,
    }
}

#[cfg(test)]
mod tests {
    use schema::{FieldType, TypeTable};
    use serde_json::json;

    use super::*;
    use crate::feature_gates;

    fn row(resource: &str) -> std::sync::Arc<Row> {
        let mut all = crate::kinds().rows().iter();
        let found = all.find(|r| &*r.resource == resource && !r.virtual_kind);
        found.expect("a kind").clone()
    }

    fn leads(table: &TypeTable, ty: &FieldType, steps: &[Step]) -> bool {
        let Some((step, rest)) = steps.split_first() else {
            return true;
        };
        match (step, ty) {
            (Step::Members { names, .. }, FieldType::Object(id)) => names.iter().all(|name| {
                let field = table.get(*id).field(name);
                field.is_some_and(|f| leads(table, &f.ty, rest))
            }),
            (Step::Each, FieldType::List(item, _) | FieldType::Map(item, _)) => {
                leads(table, item, rest)
            }
            _ => false,
        }
    }

    #[test]
    fn gates_are_known_and_paths_lead_to_fields() {
        let places = lines().filter(|l| l.starts_with("P ")).count();
        let mut seen = 0;
        for OfKind { group, kind, rules } in table() {
            let mut all = crate::kinds().rows().iter();
            let found = all.find(|r| &*r.storage_group == *group && &*r.kind == *kind);
            let row = found.expect(kind);
            let (types, ty) = (row.storage_type.table(), row.storage_type.id());
            for rule in rules {
                seen += 1;
                assert!(feature_gates::decides(rule.gate), "{}", rule.gate);
                assert!(!rule.paths.is_empty(), "{}", rule.gate);
                for path in &rule.paths {
                    let ty = FieldType::Object(ty);
                    assert!(leads(types, &ty, &path.steps), "{kind}: {}", rule.gate);
                }
            }
        }
        assert!(seen > lines().count() - places, "{seen} rules");
    }

    #[test]
    fn fields_of_what_is_off_are_dropped_and_stay_where_they_were() {
        let pod = || {
            json!({ "spec": { "schedulingGroup": { "podGroupName": "g" }, "containers": [
                { "name": "a", "lifecycle": { "stopSignal": "SIGINT" } },
                { "name": "b", "lifecycle": { "stopSignal": "SIGINT", "preStop": { "sleep": { "seconds": 1 } } } }] } })
        };
        let off = Features::default();
        let (row, mut new) = (row("pods"), pod());
        let warned = drop_disabled(&row, &mut new, None, &off);
        assert_eq!(
            new,
            json!({ "spec": { "containers": [{ "name": "a" },
                { "name": "b", "lifecycle": { "preStop": { "sleep": { "seconds": 1 } } } }] } })
        );
        assert_eq!(
            warned,
            [
                "spec.containers[0].lifecycle.stopSignal: dropped, since the feature gate ContainerStopSignals is off (and 1 more of its fields)",
                "spec.schedulingGroup: dropped, since the feature gate GenericWorkload is off",
            ]
        );
        // One that had the field keeps it, and may get more of them.
        let mut new = pod();
        let old = json!({ "spec": { "containers": [{ "lifecycle": { "stopSignal": "SIGHUP" } }],
            "schedulingGroup": {} } });
        assert!(drop_disabled(&row, &mut new, Some(&old), &off).is_empty());
        assert_eq!(new, pod());
        let mut new = pod();
        let on =
            Features::read(&["ContainerStopSignals=true,GenericWorkload=true"]).expect("gates");
        assert!(drop_disabled(&row, &mut new, None, &on).is_empty());
        assert_eq!(new, pod());
    }

    #[test]
    fn what_is_on_can_be_turned_off() {
        let row = row("resourceclaimtemplates");
        let off = Features::read(&["DRADeviceTaints=false"]).expect("gates");
        let exactly = json!({ "deviceClassName": "c" });
        let mut new = json!({ "spec": { "spec": { "devices": { "requests": [
            { "exactly": exactly }, { "exactly": { "deviceClassName": "c", "tolerations": [{}] } }] } } } });
        assert!(drop_disabled(&row, &mut new.clone(), None, &Features::default()).is_empty());
        assert_eq!(drop_disabled(&row, &mut new, None, &off).len(), 1);
        let requests = &new["spec"]["spec"]["devices"]["requests"];
        assert_eq!(
            requests,
            &json!([{ "exactly": exactly }, { "exactly": exactly }])
        );
    }

    #[test]
    fn a_claim_takes_no_data_of_another_namespace() {
        let (row, off) = (row("persistentvolumeclaims"), Features::default());
        let source = |namespace: Value| json!({ "spec": { "dataSourceRef": { "name": "a", "namespace": namespace } } });
        let mut other = source("n".into());
        assert_eq!(drop_disabled(&row, &mut other, None, &off).len(), 1);
        assert_eq!(other, json!({ "spec": {} }));
        for own in [Value::Null, "".into()] {
            let mut same = source(own.clone());
            assert!(drop_disabled(&row, &mut same, None, &off).is_empty());
            assert_eq!(same, source(own));
        }
    }

    #[test]
    fn attributes_of_devices_are_looked_through_by_name() {
        let (row, off) = (row("resourceslices"), Features::default());
        let mut slice = json!({ "spec": { "devices": [{ "attributes": { "a": { "ints": [1] }, "b": { "int": 1 } } }] } });
        assert_eq!(
            drop_disabled(&row, &mut slice, None, &off),
            [
                "spec.devices[0].attributes[a].ints: dropped, since the feature gate DRAListTypeAttributes is off"
            ]
        );
        let left = &slice["spec"]["devices"][0]["attributes"];
        assert_eq!(left, &json!({ "a": {}, "b": { "int": 1 } }));
    }
}
