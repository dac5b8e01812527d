//! How two documents differ: each place where they do. Entries of lists are found by their names,
//! so that one that is missing is one difference.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// How much of a value is shown.
const SHOWN: usize = 160;

/// A difference, and where.
pub struct Difference {
    place: String,
    what: String,
}

impl Difference {
    pub fn missing(place: String, what: &str) -> Self {
        Self {
            place,
            what: format!("we lack {what}"),
        }
    }

    pub fn extra(place: String, what: &str) -> Self {
        Self {
            place,
            what: format!("only we have {what}"),
        }
    }

    pub fn other(place: String, what: String) -> Self {
        Self { place, what }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Whether a text fits a pattern, in which `*` stands for anything.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// How entries of two lists belong together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    /// By their names, in whatever order.
    Named,
    /// By their names, and their order counts.
    Ordered,
    /// The first is the first.
    Numbered,
}

/// Of objects, where each value has its place.
pub fn objects(place: &str, theirs: &Value, ours: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(place, theirs, ours, Lists::Numbered, &mut found);
    found
}

/// Of OpenAPI: without its sentences, and with shared parameters where they are meant.
pub fn openapi(place: &str, theirs: &Value, ours: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let whole = |document: &Value| {
        let mut all = plain(document, document);
        if let Some(all) = all.as_object_mut() {
            // They stand where they are meant.
            all.remove("parameters");
        }
        all
    };
    let (theirs, ours) = (whole(theirs), whole(ours));
    compare(place, &theirs, &ours, Lists::Named, &mut found);
    found
}

/// Of discovery, where order means preference.
pub fn discovery(place: &str, theirs: &Value, ours: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(place, theirs, ours, Lists::Ordered, &mut found);
    found
}

fn plain(document: &Value, value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let shared = map.get("$ref").and_then(Value::as_str);
            if let Some(name) = shared.and_then(|r| r.strip_prefix("#/parameters/")) {
                return plain(document, &document["parameters"][name]);
            }
            // A reference with a sentence beside it.
            if let Some([only]) = map
                .get("allOf")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                && only.get("$ref").is_some()
                && map.keys().all(|key| key == "allOf" || key == "description")
            {
                return only.clone();
            }
            let is_sentence = |key: &str, below: &Value| key == "description" && below.is_string();
            let kept = map.iter().filter(|(key, below)| !is_sentence(key, below));
            let all = kept.map(|(key, below)| (key.clone(), plain(document, below)));
            all.collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|below| plain(document, below)).collect(),
        other => other.clone(),
    }
}

/// What an entry of a list is called.
fn name(entry: &Value) -> Option<String> {
    if let Some(text) = entry.as_str() {
        return Some(text.to_owned());
    }
    let text = |field: &str| entry.get(field).and_then(Value::as_str);
    if let (Some(place), Some(name)) = (text("in"), text("name")) {
        return Some(format!("{place} {name}"));
    }
    if let (Some(group), Some(version), Some(kind)) = (text("group"), text("version"), text("kind"))
        && text("name").is_none()
    {
        return Some(format!("{group}/{version} {kind}"));
    }
    let fields = ["name", "resource", "subresource", "groupVersion", "version"];
    let found = fields.iter().find_map(|field| text(field));
    let meta = entry.pointer("/metadata/name").and_then(Value::as_str);
    found.or(meta).map(str::to_owned)
}

/// The entries of a list by their names, where each has one of its own.
fn named(items: &[Value]) -> Option<BTreeMap<String, &Value>> {
    let mut all = BTreeMap::new();
    for item in items {
        if all.insert(name(item)?, item).is_some() {
            return None;
        }
    }
    Some(all)
}

/// The entries of a list by their places.
fn numbered(items: &[Value]) -> BTreeMap<String, &Value> {
    let all = items.iter().enumerate();
    all.map(|(nth, item)| (nth.to_string(), item)).collect()
}

fn compare(place: &str, theirs: &Value, ours: &Value, lists: Lists, found: &mut Vec<Difference>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let theirs = theirs.iter().map(|(k, v)| (k.clone(), v)).collect();
            let ours = ours.iter().map(|(k, v)| (k.clone(), v)).collect();
            entries(place, &theirs, &ours, lists, found);
        }
        (Value::Array(theirs), Value::Array(ours)) if lists == Lists::Numbered => {
            entries(place, &numbered(theirs), &numbered(ours), lists, found);
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            let (Some(a), Some(b)) = (named(theirs), named(ours)) else {
                if theirs != ours {
                    found.push(differs(place, &theirs.clone().into(), &ours.clone().into()));
                }
                return;
            };
            entries(place, &a, &b, lists, found);
            let order = |all: &[Value], other: &BTreeMap<String, &Value>| -> Vec<String> {
                let names = all.iter().filter_map(name);
                names.filter(|name| other.contains_key(name)).collect()
            };
            let (theirs, ours) = (order(theirs, &b), order(ours, &a));
            if lists == Lists::Ordered && theirs != ours {
                let what = format!("order is {ours:?}, not {theirs:?}");
                let place = place.to_owned();
                found.push(Difference { place, what });
            }
        }
        (theirs, ours) if theirs == ours => {}
        (theirs, ours) => found.push(differs(place, theirs, ours)),
    }
}

fn entries(
    place: &str,
    theirs: &BTreeMap<String, &Value>,
    ours: &BTreeMap<String, &Value>,
    lists: Lists,
    found: &mut Vec<Difference>,
) {
    for (name, value) in theirs {
        let place = format!("{place} > {name}");
        match ours.get(name) {
            Some(have) => compare(&place, value, have, lists, found),
            None => found.push(Difference::missing(place, &short(value))),
        }
    }
    for (name, value) in ours.iter().filter(|(name, _)| !theirs.contains_key(*name)) {
        let place = format!("{place} > {name}");
        found.push(Difference::extra(place, &short(value)));
    }
}

fn differs(place: &str, theirs: &Value, ours: &Value) -> Difference {
    Difference {
        place: place.to_owned(),
        what: format!("{} instead of {}", short(ours), short(theirs)),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(found: Vec<Difference>) -> Vec<String> {
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn patterns() {
        assert!(matches("a*c", "abc"));
        assert!(matches("*b*", "abc"));
        assert!(matches("abc", "abc"));
        assert!(!matches("ab", "abc"));
        assert!(!matches("a*d", "abc"));
    }

    #[test]
    fn entries_are_found_by_name_and_sentences_do_not_count() {
        let theirs = json!({
            "description": "x",
            "parameters": { "p-1": { "in": "query", "name": "p", "type": "string" } },
            "paths": { "/a": { "parameters": [{ "$ref": "#/parameters/p-1" }], "tags": ["t", "u"] } },
            "definitions": { "A": { "properties": { "description": { "type": "string" } } } },
        });
        let ours = json!({
            "paths": { "/a": { "parameters": [{ "in": "query", "name": "p", "type": "integer",
                "description": "y" }], "tags": ["u"] } },
            "definitions": { "A": { "properties": {} } },
        });
        assert_eq!(
            texts(openapi("v2", &theirs, &ours)),
            [
                "v2 > definitions > A > properties > description: we lack {\"type\":\"string\"}",
                "v2 > paths > /a > parameters > query p > type: \"integer\" instead of \"string\"",
                "v2 > paths > /a > tags > t: we lack \"t\"",
            ]
        );
    }

    #[test]
    fn every_value_of_an_object_has_its_place() {
        let theirs = json!({ "a": [{ "name": "x", "n": 1 }, { "name": "y" }], "description": "d" });
        let ours = json!({ "a": [{ "name": "x", "n": 2 }], "description": "e" });
        assert_eq!(
            texts(objects("o", &theirs, &ours)),
            [
                "o > a > 0 > n: 2 instead of 1",
                "o > a > 1: we lack {\"name\":\"y\"}",
                "o > description: \"e\" instead of \"d\"",
            ]
        );
        assert!(objects("o", &theirs, &theirs).is_empty());
    }

    #[test]
    fn order_counts_in_discovery_alone() {
        let of = |names: [&str; 2]| json!([{ "name": names[0] }, { "name": names[1] }]);
        let (theirs, ours) = (of(["a", "b"]), of(["b", "a"]));
        assert_eq!(discovery("d", &theirs, &ours).len(), 1);
        assert_eq!(openapi("d", &theirs, &ours).len(), 0);
    }
}
