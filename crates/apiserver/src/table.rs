//! `Table`: rows of cells as `kubectl get` prints them, from the row's columns.

use std::sync::Arc;

use registry::{CellFn, Row};
use serde_json::{Value, json};

use crate::call::Call;
use crate::http::negotiate::Shape;
use crate::object::partial_metadata;

/// What makes the rows of one answer.
pub struct Rows {
    row: Arc<Row>,
    version: String,
    include: Include,
    now: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

impl Rows {
    pub fn new(call: &Call, version: &str) -> Self {
        debug_assert!(matches!(call.accept.shape, Shape::Table(_)));
        let include = match call.query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        Self {
            row: call.row.clone(),
            version: version.to_owned(),
            include,
            now: call.state.now(),
        }
    }

    /// The table without its rows.
    pub fn head(&self, meta: Value) -> Value {
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": meta,
            "columnDefinitions": self.columns(),
        })
    }

    fn columns(&self) -> Vec<Value> {
        let column = |c: &registry::Column| {
            json!({
                "name": c.name, "type": c.ty, "format": c.format,
                "description": c.description, "priority": c.priority,
            })
        };
        self.row.columns.iter().map(column).collect()
    }

    /// The row of an object.
    pub fn row(&self, object: &Value) -> Value {
        let cells: Vec<Value> = self
            .row
            .columns
            .iter()
            .map(|c| cell(&c.cell, object, self.now))
            .collect();
        match self.include {
            Include::None => json!({ "cells": cells }),
            Include::Metadata => {
                json!({ "cells": cells, "object": partial_metadata(&self.version, object) })
            }
            Include::Object => json!({ "cells": cells, "object": object }),
        }
    }
}

fn cell(how: &CellFn, object: &Value, now: i64) -> Value {
    match how {
        CellFn::Built(f) => f(object, now),
        CellFn::Path(path) => by_path(object, path),
    }
}

/// A simple JSON path: names, and list positions in brackets.
fn by_path(object: &Value, path: &str) -> Value {
    let mut at = object;
    for part in path
        .trim_start_matches('$')
        .split('.')
        .filter(|p| !p.is_empty())
    {
        let (name, index) = match part.split_once('[') {
            Some((n, i)) => (n, i.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let next = at.get(name).and_then(|v| match index {
            Some(i) => v.get(i),
            None => Some(v),
        });
        match next {
            Some(v) => at = v,
            None => return Value::Null,
        }
    }
    at.clone()
}

/// The table of a few values (one object, mostly).
pub fn of_objects(call: &Call, version: &str, objects: &[Value]) -> Value {
    let rows = Rows::new(call, version);
    let meta = objects
        .first()
        .and_then(|o| o.pointer("/metadata/resourceVersion"));
    let meta = match meta {
        Some(rv) => json!({ "resourceVersion": rv }),
        None => json!({}),
    };
    let mut table = rows.head(meta);
    table["rows"] = objects.iter().map(|o| rows.row(o)).collect();
    table
}
