//! Upstream's golden files: an object of each version of each kind with every field set, as
//! protobuf, JSON and YAML. What we make of them comes from the API server's own functions, in a
//! process of its own (`crates/apiserver/tests/common/golden.rs`); here it is held against the files.
//!
//! Equal means the same bytes of protobuf, and in JSON and YAML the same values: white space and
//! the order of members do not count, also not in raw JSON inside. Nothing else is evened out: null,
//! empty and absent are three things.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::difference::{Difference, objects};
use super::explained::reason;
use super::message::first;

/// What is made of each object: what places call it, and what the table does.
const FORMS: [(&str, &str); 7] = [
    ("decoded", ".pb read, against .json"),
    ("read", ".json read, against itself"),
    ("message", ".json written as protobuf, against .pb"),
    ("answer", "the same in an answer's envelope"),
    ("yaml", ".yaml read, against .json"),
    ("written", "written as YAML and read, against .json"),
    ("stored", "written to the store and read, against .json"),
];

/// What one object is held against. Its YAML has no place here: it says what its JSON says.
pub struct Files {
    protobuf: Vec<u8>,
    json: Value,
}

/// What the other process wrote.
#[derive(Deserialize)]
pub struct Golden {
    /// None where we have no such type.
    objects: BTreeMap<String, Option<Made>>,
    /// What is served without a golden file.
    without: Vec<String>,
}

#[derive(Deserialize)]
struct Made {
    served: bool,
    decoded: Form,
    read: Form,
    yaml: Form,
    message: Result<Vec<u8>, String>,
    answer: Result<Vec<u8>, String>,
    written: Form,
    stored: Option<Form>,
    stored_as: Option<String>,
}

#[derive(Deserialize)]
struct Form {
    value: Result<Value, String>,
    warnings: Vec<String>,
}

/// The golden files of some folders, by their names without an ending.
///
/// # Errors
/// A folder has none, or lacks one of a triple.
pub fn read(folders: &[PathBuf]) -> anyhow::Result<BTreeMap<String, Files>> {
    let mut all = BTreeMap::new();
    for folder in folders {
        let names = names(folder)?;
        if names.is_empty() {
            bail!("{} holds no golden files", folder.display());
        }
        for name in names {
            let content = |ending: &str| {
                let file = folder.join(format!("{name}.{ending}"));
                std::fs::read(&file).with_context(|| format!("reading {}", file.display()))
            };
            let json = serde_json::from_slice(&content("json")?)
                .with_context(|| format!("{name}.json is not JSON"))?;
            let protobuf = content("pb")?;
            all.insert(name, Files { protobuf, json });
        }
    }
    Ok(all)
}

fn names(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut all = BTreeSet::new();
    for entry in entries {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let mut endings = [".pb", ".json", ".yaml"].into_iter();
        let name = endings.find_map(|ending| file.strip_suffix(ending));
        all.extend(name.map(str::to_owned));
    }
    Ok(all)
}

/// How all objects came out.
#[derive(Default)]
pub struct Outcome {
    /// By form: of each object that has it, where it differs.
    forms: BTreeMap<&'static str, Vec<Vec<Difference>>>,
    /// Objects that were not looked at.
    missing: Vec<Difference>,
    /// Of versions that are not served, whatever is turned on: we have no type for them.
    unknown: Vec<String>,
    /// Types of which no request's body is.
    bodies: Vec<String>,
    /// Answered, not stored.
    answered: Vec<String>,
    /// Stored in another version.
    elsewhere: Vec<String>,
    without: Vec<String>,
}

/// Holds what was made of objects against their files.
pub fn compare(theirs: &BTreeMap<String, Files>, ours: &Golden) -> Outcome {
    let mut outcome = Outcome {
        without: ours.without.clone(),
        ..Outcome::default()
    };
    for (name, files) in theirs {
        match ours.objects.get(name) {
            Some(Some(made)) => outcome.add(name, files, made),
            Some(None) => outcome.unknown.push(name.clone()),
            None => {
                let lacking = Difference::missing(format!("golden > {name}"), "an outcome");
                outcome.missing.push(lacking);
            }
        }
    }
    outcome
}

impl Outcome {
    fn add(&mut self, name: &str, theirs: &Files, made: &Made) {
        let place = |form: &str| format!("golden > {name} > {form}");
        let forms = [
            ("decoded", &made.decoded),
            ("read", &made.read),
            ("yaml", &made.yaml),
            ("written", &made.written),
        ];
        let stored = made.stored.iter().map(|form| ("stored", form));
        for (form, ours) in forms.into_iter().chain(stored) {
            let found = values(&place(form), &theirs.json, ours);
            self.forms.entry(form).or_default().push(found);
        }
        for (form, ours) in [("message", &made.message), ("answer", &made.answer)] {
            let found = bytes(&place(form), &theirs.protobuf, ours);
            self.forms.entry(form).or_default().push(found);
        }
        match &made.stored_as {
            _ if !made.served => self.bodies.push(name.to_owned()),
            Some(version) => self.elsewhere.push(format!("{name} as {version}")),
            None if made.stored.is_none() => self.answered.push(name.to_owned()),
            None => {}
        }
    }

    /// All differences.
    pub fn found(self) -> impl Iterator<Item = Difference> {
        let forms = self.forms.into_values().flatten().flatten();
        self.missing.into_iter().chain(forms)
    }
}

fn values(place: &str, theirs: &Value, ours: &Form) -> Vec<Difference> {
    let other = |what: String| Difference::other(place.to_owned(), what);
    let mut found = match &ours.value {
        Ok(value) => objects(place, theirs, value),
        Err(why) => vec![other(why.clone())],
    };
    let warnings = ours.warnings.iter();
    found.extend(warnings.map(|text| other(format!("a warning: {text}"))));
    found
}

fn bytes(place: &str, theirs: &[u8], ours: &Result<Vec<u8>, String>) -> Vec<Difference> {
    match ours {
        Ok(ours) => first(place, theirs, ours).into_iter().collect(),
        Err(why) => vec![Difference::other(place.to_owned(), why.clone())],
    }
}

fn line(f: &mut fmt::Formatter<'_>, title: &str, cells: &[String]) -> fmt::Result {
    write!(f, "{title:46}")?;
    for cell in cells {
        write!(f, "{cell:>10}")?;
    }
    writeln!(f)
}

/// The table of counts, and the names of what could not be counted.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["objects", "equal", "explained", "other"];
        line(f, "golden files", &heads.map(str::to_owned))?;
        for (form, title) in FORMS {
            let all = self.forms.get(form).map(Vec::as_slice).unwrap_or_default();
            let equal = all.iter().filter(|found| found.is_empty()).count();
            let is_explained = |found: &&Vec<Difference>| {
                !found.is_empty() && found.iter().all(|one| reason(one).is_some())
            };
            let explained = all.iter().filter(is_explained).count();
            let counts = [all.len(), equal, explained, all.len() - equal - explained];
            line(f, title, &counts.map(|count| count.to_string()))?;
        }
        for (title, names) in [
            ("not served in this version", &self.unknown),
            ("the body of no request", &self.bodies),
            ("answered and not stored", &self.answered),
            ("stored in another version", &self.elsewhere),
            ("served without a golden file", &self.without),
        ] {
            if !names.is_empty() {
                writeln!(f, "{title}: {}\n    {}", names.len(), names.join("\n    "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MESSAGE: &[u8] = b"k8s\0\x0a\x00\x12\x00\x1a\x00\x22\x00";

    fn files() -> Files {
        Files {
            protobuf: MESSAGE.to_vec(),
            json: json!({ "metadata": { "name": "a", "resourceVersion": "1" }, "n": 1 }),
        }
    }

    /// What the other process would write of an object that comes through unchanged.
    fn made() -> Value {
        let object = files().json;
        let form = json!({ "value": { "Ok": object }, "warnings": [] });
        let mut stored = form.clone();
        stored["value"]["Ok"]["metadata"] = json!({ "name": "a" });
        let answer = MESSAGE
            .strip_suffix(b"\x1a\x00\x22\x00")
            .expect("two texts");
        json!({
            "served": true, "decoded": form, "read": form, "yaml": form, "written": form,
            "message": { "Ok": MESSAGE }, "answer": { "Ok": answer },
            "stored": stored, "stored_as": null,
        })
    }

    fn outcome(name: &str, made: &Value) -> Outcome {
        let ours = json!({ "objects": { name: made }, "without": ["g.v1.Other"] });
        let ours: Golden = serde_json::from_value(ours).expect("the other process writes it");
        compare(&BTreeMap::from([(name.to_owned(), files())]), &ours)
    }

    fn open(outcome: Outcome) -> Vec<String> {
        let found = outcome.found().filter(|one| reason(one).is_none());
        found.map(|one| one.to_string()).collect()
    }

    #[test]
    fn what_comes_through_differs_only_where_that_is_meant() {
        let all = outcome("g.v1.Kind", &made());
        let text = all.to_string();
        let counts = |title: &str| -> Vec<usize> {
            let line = text.lines().find(|line| line.starts_with(title));
            let cells = line
                .expect("a line")
                .rsplit(' ')
                .filter(|cell| !cell.is_empty());
            let mut counts: Vec<usize> = cells.map_while(|cell| cell.parse().ok()).collect();
            counts.reverse();
            counts
        };
        for (form, title) in FORMS {
            let want = match form {
                "answer" | "stored" => [1, 0, 1, 0],
                _ => [1, 1, 0, 0],
            };
            assert_eq!(counts(title), want, "{text}");
        }
        assert!(text.ends_with("served without a golden file: 1\n    g.v1.Other\n"));
        assert_eq!(open(all), [""; 0]);
    }

    #[test]
    fn every_difference_has_its_object_form_and_field() {
        let mut made = made();
        made["served"] = false.into();
        made["decoded"]["value"]["Ok"]["n"] = 2.into();
        made["read"]["warnings"] = json!(["unknown field \"n\""]);
        made["yaml"]["value"] = json!({ "Err": "no YAML" });
        made["message"] = json!({ "Ok": b"k8s\0\x0a\x00\x12\x01a\x1a\x00\x22\x00" });
        let all = outcome("g.v1.Kind", &made);
        assert!(all.to_string().contains("the body of no request: 1\n"));
        assert_eq!(
            open(all),
            [
                "golden > g.v1.Kind > decoded > n: 2 instead of 1",
                "golden > g.v1.Kind > message > 2: only we have 61 at the end",
                "golden > g.v1.Kind > read: a warning: unknown field \"n\"",
                "golden > g.v1.Kind > yaml: no YAML",
            ]
        );
    }

    #[test]
    fn what_was_not_looked_at_is_named() {
        let all = outcome("g.v1.Kind", &Value::Null);
        let text = all.to_string();
        assert!(text.contains("not served in this version: 1\n    g.v1.Kind\n"));
        assert_eq!(open(all), [""; 0]);
        let nothing = Golden {
            objects: BTreeMap::new(),
            without: Vec::new(),
        };
        let all = compare(&BTreeMap::from([("k".to_owned(), files())]), &nothing);
        assert_eq!(open(all), ["golden > k: we lack an outcome"]);
    }
}
