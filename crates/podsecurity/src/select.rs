//! Reading pods, and the words that all checks share.

use std::collections::BTreeSet;

use serde_json::Value;

/// A pod, or what a workload makes pods of.
pub(crate) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

pub(crate) type Set = BTreeSet<String>;

pub(crate) fn list<'a>(v: &'a Value, field: &str) -> &'a [Value] {
    v.get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whether a member is there and not null.
pub(crate) fn has(v: &Value, field: &str) -> bool {
    v.get(field).is_some_and(|m| !m.is_null())
}

pub(crate) fn flag(v: &Value, field: &str) -> Option<bool> {
    v.get(field).and_then(Value::as_bool)
}

impl<'a> Pod<'a> {
    /// Init containers, containers and ephemeral ones.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let spec = self.spec;
        lists.into_iter().flat_map(move |l| list(spec, l))
    }

    /// The names of the containers of which something holds.
    pub fn named(&self, mut holds: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|c| holds(c))
            .map(|c| text(c, "name"))
            .collect()
    }

    /// A part of the pod's own security context.
    pub fn own(&self, part: &str) -> Option<&'a Value> {
        part_of(self.spec, part)
    }

    pub fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.metadata.get("annotations").and_then(Value::as_object);
        let all = all.into_iter().flatten();
        all.filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }

    pub fn is_windows(&self) -> bool {
        self.spec
            .get("os")
            .is_some_and(|os| text(os, "name") == "windows")
    }

    /// Root inside is nobody outside.
    pub fn has_user_namespace(&self) -> bool {
        flag(self.spec, "hostUsers") == Some(false)
    }
}

/// A part of a security context, where it is there and not null.
pub(crate) fn part_of<'a>(of: &'a Value, part: &str) -> Option<&'a Value> {
    of.get("securityContext")?
        .get(part)
        .filter(|part| !part.is_null())
}

pub(crate) fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let each: Vec<String> = items
        .into_iter()
        .map(|i| format!("\"{}\"", i.as_ref()))
        .collect();
    each.join(", ")
}

pub(crate) fn plural<'a>(n: usize, one: &'a str, many: &'a str) -> &'a str {
    if n == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub(crate) fn containers(names: &[&str]) -> String {
    let word = plural(names.len(), "container", "containers");
    format!("{word} {}", quoted(names))
}

/// Who has set something: the pod, its containers, or both.
pub(crate) fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let mut all = Vec::new();
    if pod {
        all.push("pod".to_owned());
    }
    if !names.is_empty() {
        all.push(containers(names));
    }
    (!all.is_empty()).then(|| all.join(" and "))
}
