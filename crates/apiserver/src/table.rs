//! `Table`: rows of cells as `kubectl get` prints them, from the row's columns.

use std::sync::Arc;

use api::{FieldError, FieldPath, Status};
use registry::jsonpath::JsonPath;
use registry::{CellFn, Column, Row, ServedVersion, print};
use serde_json::{Value, json};

use crate::call::Call;
use crate::http::negotiate::Shape;
use crate::http::request::Query;
use crate::object::partial_metadata;

/// What makes the rows of one answer.
pub struct Rows {
    row: Arc<Row>,
    served: ServedVersion,
    /// The paths of the columns that are read by one.
    paths: Vec<Option<JsonPath>>,
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

/// Refuses what a request for a table cannot ask of its rows.
pub fn check(query: &Query) -> Result<(), Status> {
    match query.get("includeObject") {
        None | Some("None" | "Metadata" | "Object") => Ok(()),
        Some(other) => {
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            let path = FieldPath::new("includeObject");
            let e = FieldError::invalid_str(&path, other, why);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: {e}"
            )))
        }
    }
}

impl Rows {
    pub fn new(call: &Call, version: &str) -> Self {
        debug_assert!(matches!(call.accept.shape, Shape::Table(_)));
        let include = match call.query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        let path = |c: &Column| match &c.cell {
            CellFn::Built(_) => None,
            CellFn::Path(path) => JsonPath::parse(path),
        };
        let paths = call.row.columns_of(&call.version).iter().map(path);
        Self {
            row: call.row.clone(),
            served: call.version.clone(),
            paths: paths.collect(),
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
        self.all().iter().map(column).collect()
    }

    fn all(&self) -> &[Column] {
        self.row.columns_of(&self.served)
    }

    /// The row of an object, which is in the version that [`crate::render::for_table`] gives.
    pub fn row(&self, object: &Value) -> Value {
        let columns = self.all().iter().zip(&self.paths);
        let cells: Vec<Value> = columns
            .map(|(column, path)| match (&column.cell, path) {
                (CellFn::Built(f), _) => f(object, self.now),
                (CellFn::Path(_), None) => Value::Null,
                (CellFn::Path(_), Some(path)) => {
                    let found = path.first(object);
                    found.map_or(Value::Null, |v| cell(column.ty, v, self.now))
                }
            })
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

/// A value as a cell of a column of this type shows it; as upstream.
fn cell(ty: &str, value: &Value, now: i64) -> Value {
    match (ty, value) {
        ("string", Value::String(_)) => value.clone(),
        ("string", Value::Null) => "<no value>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) => match n.as_i64() {
            Some(n) => n.into(),
            // Without its fraction.
            None => n.as_f64().map_or(Value::Null, |n| (n as i64).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(_)) => match print::seconds(value) {
            Some(_) => print::since(Some(value), now).into(),
            None => "<invalid>".into(),
        },
        _ => Value::Null,
    }
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
