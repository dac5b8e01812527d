//! Events of the core group and of events.k8s.io: the same objects, stored in the core form, of which
//! the newer group wants more.

use api::{FieldError, FieldPath};
use jiff::Timestamp;
use serde_json::Value;

use crate::check::{
    Errors, at, dns_subdomain, has, immutable, int, invalid, is_empty, qualified_name,
    required_text, set, text,
};
use crate::meta::{name_is_path_segment, name_is_subdomain};
use crate::strategy::{Context, Strategy};

const LONGEST_WORD: usize = 128;
const LONGEST_NOTE: usize = 1024;

/// The strategy of events.
pub struct Event {
    /// In events.k8s.io.
    pub strict: bool,
}

impl Strategy for Event {
    fn validate_name(&self, name: &str, generate: bool) -> Vec<String> {
        if self.strict {
            name_is_subdomain(name, generate)
        } else {
            name_is_path_segment(name, generate)
        }
    }
    fn validate(&self, obj: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = self.of_both(obj);
        if self.strict {
            created(&mut errs, obj);
        }
        errs
    }
    fn validates_whole_update(&self) -> bool {
        true
    }
    fn validate_update(&self, obj: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errs = self.of_both(obj);
        if self.strict {
            updated(&mut errs, obj, old);
        }
        errs
    }

    fn convert(&self, obj: &mut Value, to_version: &str, group: &str) {
        let to_new = group == "events.k8s.io";
        let is_new = text(obj, "apiVersion").starts_with("events.k8s.io/");
        if to_new != is_new {
            rename_fields(obj, to_new);
        }
        let version = if group.is_empty() {
            to_version.to_owned()
        } else {
            format!("{group}/{to_version}")
        };
        set(obj, "apiVersion", version);
    }
}

impl Event {
    /// What both groups want. An event with a time of its own is of the newer form.
    fn of_both(&self, obj: &Value) -> Errors {
        let mut errs = Errors::new();
        let own = text(at(obj, "metadata"), "namespace");
        let of = text(at(obj, "involvedObject"), "namespace");
        let new_form = has(obj, "eventTime");
        let fits = match (new_form, of) {
            (false, "") => own.is_empty() || own == "default",
            (false, of) => own == of,
            (true, "") => own == "default" || own == "kube-system",
            (true, _) => true,
        };
        if !fits {
            let path = FieldPath::new("involvedObject").child("namespace");
            let why = "does not match event.namespace";
            errs.push(FieldError::invalid_str(&path, of, why));
        }
        if new_form {
            self.of_new_form(&mut errs, obj);
        }
        dns_subdomain(&mut errs, &FieldPath::new("namespace"), own);
        errs
    }

    fn of_new_form(&self, errs: &mut Errors, obj: &Value) {
        let reporter = text(obj, "reportingComponent");
        let path = FieldPath::new(if self.strict {
            "reportingController"
        } else {
            "reportingComponent"
        });
        if reporter.is_empty() {
            errs.push(FieldError::required(&path, ""));
        }
        qualified_name(errs, &path, reporter);
        for (field, limit, required) in [
            ("reportingInstance", LONGEST_WORD, true),
            ("action", LONGEST_WORD, true),
            ("reason", LONGEST_WORD, true),
            ("message", LONGEST_NOTE, false),
        ] {
            let (value, path) = (text(obj, field), FieldPath::new(field));
            if required && value.is_empty() {
                errs.push(FieldError::required(&path, ""));
            }
            if value.len() > limit {
                let why = format!("can have at most {limit} characters");
                errs.push(FieldError::invalid_str(&path, "", &why));
            }
        }
    }
}

/// What the newer group wants of new events: nothing in the fields of the older one.
fn created(errs: &mut Errors, obj: &Value) {
    series(errs, obj);
    required_text(errs, &FieldPath::root(), obj, "eventTime");
    let kind = text(obj, "type");
    if !["Normal", "Warning"].contains(&kind) {
        let why = format!("has invalid value: {kind}");
        errs.push(FieldError::invalid_str(&FieldPath::new("type"), "", &why));
    }
    let source = at(obj, "source");
    let given = [
        ("firstTimestamp", has(obj, "firstTimestamp")),
        ("lastTimestamp", has(obj, "lastTimestamp")),
        ("count", int(obj, "count").unwrap_or(0) != 0),
        (
            "source",
            !text(source, "component").is_empty() || !text(source, "host").is_empty(),
        ),
    ];
    for (field, _) in given.into_iter().filter(|(_, given)| *given) {
        let (path, why) = (FieldPath::new(field), "needs to be unset");
        errs.push(FieldError::invalid_str(&path, "", why));
    }
}

fn series(errs: &mut Errors, obj: &Value) {
    let of = at(obj, "series");
    if of.is_null() {
        return;
    }
    if int(of, "count").unwrap_or(0) < 2 {
        let path = FieldPath::new("series").child("count");
        errs.push(FieldError::invalid_str(&path, "", "should be at least 2"));
    }
    required_text(errs, &FieldPath::new("series"), of, "lastObservedTime");
}

/// In the newer group only the series of an event goes on.
fn updated(errs: &mut Errors, obj: &Value, old: &Value) {
    if at(obj, "series") != at(old, "series") {
        series(errs, obj);
    }
    let root = FieldPath::root();
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let (new, was) = (at(obj, field), at(old, field));
        let none = |v: &Value| is_empty(v) || v.as_i64() == Some(0);
        if none(new) && none(was) || field == "eventTime" && same_microsecond(new, was) {
            continue;
        }
        if field == "reportingComponent" {
            if new != was {
                let path = FieldPath::new("reportingController");
                invalid(errs, &path, new, crate::check::IMMUTABLE);
            }
        } else {
            immutable(errs, &root, obj, old, field);
        }
    }
}

/// Clients may know of a time no more than its microseconds.
fn same_microsecond(a: &Value, b: &Value) -> bool {
    let micros = |v: &Value| {
        let time: Timestamp = v.as_str()?.parse().ok()?;
        Some(time.as_microsecond())
    };
    micros(a).is_some() && micros(a) == micros(b)
}

/// The fields that have another name in events.k8s.io.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename_fields(obj: &mut Value, to_new: bool) {
    let Some(map) = obj.as_object_mut() else {
        return;
    };
    for (old, new) in EVENT_FIELDS {
        let (from, to) = if to_new { (old, new) } else { (new, old) };
        if let Some(v) = map.remove(*from) {
            map.insert((*to).to_owned(), v);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STRICT: Event = Event { strict: true };
    const LOOSE: Event = Event { strict: false };

    fn lines(errs: &[FieldError]) -> Vec<String> {
        errs.iter().map(ToString::to_string).collect()
    }

    fn event() -> Value {
        json!({ "metadata": { "name": "e", "namespace": "n" }, "eventTime": "2026-01-01T00:00:00.000000Z",
            "involvedObject": { "namespace": "n" }, "reportingComponent": "x.io/c",
            "reportingInstance": "i", "action": "Do", "reason": "R", "message": "m", "type": "Normal" })
    }

    #[test]
    fn new_events_of_the_newer_group_are_whole() {
        let cx = Context::of_nobody();
        let cases: [(&str, Value, &[&str]); 8] = [
            ("note", Value::Null, &[]),
            ("eventTime", Value::Null, &["eventTime: Required value"]),
            (
                "type",
                json!("Odd"),
                &["type: Invalid value: \"\": has invalid value: Odd"],
            ),
            (
                "count",
                json!(1),
                &["count: Invalid value: \"\": needs to be unset"],
            ),
            (
                "source",
                json!({ "host": "h" }),
                &["source: Invalid value: \"\": needs to be unset"],
            ),
            (
                "firstTimestamp",
                json!("2026-01-01T00:00:00Z"),
                &["firstTimestamp: Invalid value: \"\": needs to be unset"],
            ),
            (
                "series",
                json!({ "count": 1 }),
                &[
                    "series.count: Invalid value: \"\": should be at least 2",
                    "series.lastObservedTime: Required value",
                ],
            ),
            (
                "reportingComponent",
                json!("a b/c"),
                &[
                    "reportingController: Invalid value: \"a b/c\": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
        ];
        for (field, value, want) in cases {
            let mut event = event();
            event[field] = value;
            assert_eq!(lines(&STRICT.validate(&event, &cx)), want, "{field}");
            let loose = LOOSE.validate(&event, &cx);
            let same = field == "reportingComponent";
            assert_eq!(loose.len(), usize::from(same), "{field}: {loose:?}");
        }
        assert!(LOOSE.validate_name("An_Event", false).is_empty());
        assert!(!STRICT.validate_name("An_Event", false).is_empty());
    }

    #[test]
    fn events_of_the_newer_group_go_on_and_do_not_change() {
        let cx = Context::of_nobody();
        let cases: [(&str, Value, &[&str]); 6] = [
            (
                "series",
                json!({ "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" }),
                &[],
            ),
            ("eventTime", json!("2026-01-01T00:00:00.0000001Z"), &[]),
            (
                "eventTime",
                json!("2026-01-01T00:00:01.000000Z"),
                &["eventTime: Invalid value: \"2026-01-01T00:00:01.000000Z\": field is immutable"],
            ),
            ("count", json!(0), &[]),
            (
                "message",
                json!("n"),
                &["message: Invalid value: \"n\": field is immutable"],
            ),
            (
                "reportingComponent",
                json!("x.io/d"),
                &["reportingController: Invalid value: \"x.io/d\": field is immutable"],
            ),
        ];
        for (field, value, want) in cases {
            let mut new = event();
            new[field] = value;
            let found = STRICT.validate_update(&new, &event(), &cx);
            assert_eq!(lines(&found), want, "{field}");
            assert!(LOOSE.validate_update(&new, &event(), &cx).is_empty());
        }
    }
}
