//! The columns of events, which have two forms in one: the old one with first and last
//! timestamps, the new one with `eventTime` and a series.

use serde_json::Value;

use super::{col, text_col, wide, wide_col};
use crate::kinds::def::Col;
use crate::print::{self, int, since, text, text_or};

pub const EVENTS: &[Col] = &[
    col("Last Seen", "string", |o, now| last_seen(o, now).into()),
    text_col!("Type", "/type"),
    text_col!("Reason", "/reason"),
    col("Object", "string", |o, _| target(o).into()),
    wide_col!("Subobject", "/involvedObject/fieldPath", ""),
    wide("Source", |o, _| source(o).into()),
    col("Message", "string", |o, _| {
        text(o, "/message").trim().into()
    }),
    wide("First Seen", |o, now| first_seen(o, now).into()),
    wide("Count", |o, _| count(o).into()),
    Col {
        name: "Name",
        ty: "string",
        format: "name",
        priority: 1,
        cell: print::name,
    },
];

fn set<'a>(o: &'a Value, pointer: &str) -> Option<&'a Value> {
    o.pointer(pointer).filter(|t| !t.is_null())
}

fn first_seen(o: &Value, now: i64) -> String {
    since(set(o, "/firstTimestamp").or(set(o, "/eventTime")), now)
}

fn last_seen(o: &Value, now: i64) -> String {
    if set(o, "/series").is_some() {
        return since(set(o, "/series/lastObservedTime"), now);
    }
    match set(o, "/lastTimestamp") {
        Some(t) => since(Some(t), now),
        None => first_seen(o, now),
    }
}

fn count(o: &Value) -> i64 {
    match (set(o, "/series"), int(o, "/count")) {
        (Some(s), _) => int(s, "/count"),
        (None, 0) => 1,
        (None, n) => n,
    }
}

fn target(o: &Value) -> String {
    let kind = text(o, "/involvedObject/kind").to_lowercase();
    match text(o, "/involvedObject/name") {
        n if n.is_empty() => kind,
        n => format!("{kind}/{n}"),
    }
}

fn source(o: &Value) -> String {
    let component = text_or(o, "/source/component", &text(o, "/reportingComponent"));
    match text_or(o, "/source/host", &text(o, "/reportingInstance")) {
        host if host.is_empty() => component,
        host => format!("{component}, {host}"),
    }
}
