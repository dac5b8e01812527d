//! The row of a CustomResourceDefinition, made when the definition is established or changes.

use std::pin::Pin;
use std::sync::Arc;

use schema::Type;
use serde_json::Value;
use structural::openapi::Packed;
use structural::{Kind, Rules, Structural, types};

use super::definition::{is_established, is_terminating, preserves_all};
use super::instance::{Instance, Shape};
use super::{schema, storage_version, versions};
use crate::check::{at, flag, int, items, text};
use crate::print;
use crate::row::{
    CellFn, Column, Conversion, Convert, Encoding, FieldRead, Row, SelectableField, ServedVersion,
    Subresource,
};
use crate::strategy::Scale;

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const SUB_VERBS: [&str; 3] = ["get", "patch", "update"];

/// The row of a definition; none as long as it is not established, or serves no version.
pub fn row(crd: &Value) -> Option<Row> {
    if !is_established(crd) {
        return None;
    }
    let spec = at(crd, "spec");
    let names = at(at(crd, "status"), "acceptedNames");
    let group = text(spec, "group");
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    let of = |version: &Value| -> Type {
        let kind = Kind {
            group,
            version: text(version, "name"),
            kind,
            list_kind,
        };
        types(structure(crd, version).as_ref(), &kind)
    };
    let stored = versions(crd).iter().find(|v| flag(v, "storage"))?;
    let storage_type = of(stored);
    let mut served: Vec<&Value> = versions(crd).iter().filter(|v| flag(v, "served")).collect();
    served.sort_by_key(|v| std::cmp::Reverse(priority(text(v, "name"))));
    let first = served.first()?;
    let resource = text(names, "plural");
    let versions = served.iter().map(|version| ServedVersion {
        version: text(version, "name").into(),
        ty: match text(version, "name") == text(stored, "name") {
            true => storage_type.clone(),
            false => of(version),
        },
        deprecated: flag(version, "deprecated"),
    });
    Some(Row {
        group: group.into(),
        kind: kind.into(),
        list_kind: list_kind.into(),
        resource: resource.into(),
        singular: text(names, "singular").into(),
        short_names: words(names, "shortNames"),
        categories: words(names, "categories"),
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: verbs(crd),
        versions: versions.collect(),
        storage_group: group.into(),
        storage_version: text(stored, "name").into(),
        conversion: conversion(crd),
        encoding: Encoding::Json,
        storage_prefix: format!("/registry/{group}/{resource}").into(),
        subresources: subresources(first, group, kind, &storage_type),
        columns: columns(first),
        selectable_fields: selectable(first),
        virtual_kind: false,
        inert: false,
        expires_after_seconds: None,
        strategy: Arc::new(instance(crd, first)),
        storage_type,
    })
}

fn conversion(crd: &Value) -> Conversion {
    match text(at(at(crd, "spec"), "conversion"), "strategy") {
        "Webhook" => Conversion::Asked(Arc::new(NoWebhook)),
        _ => Conversion::Pure,
    }
}

/// Webhooks of conversion are not called yet: an object is served in the version in which it is
/// stored, and in no other.
struct NoWebhook;

impl Convert for NoWebhook {
    fn convert<'a>(
        &'a self,
        _objects: Vec<Value>,
        api_version: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Value>, String>> + Send + 'a>> {
        let why =
            format!("conversion to {api_version}: webhooks are not called by this server yet");
        Box::pin(std::future::ready(Err(why)))
    }
}

/// Nothing new is made of a kind that goes.
fn verbs(crd: &Value) -> Vec<Arc<str>> {
    let goes = is_terminating(crd);
    let all = VERBS.iter().filter(|v| !goes || **v != "create");
    all.map(|v| Arc::from(*v)).collect()
}

fn words(names: &Value, field: &str) -> Vec<Arc<str>> {
    let all = items(names, field).iter().filter_map(Value::as_str);
    all.map(Arc::from).collect()
}

/// The structural schema of a version; none where everything is kept.
fn structure(crd: &Value, version: &Value) -> Option<Structural> {
    if preserves_all(crd) {
        return None;
    }
    Structural::read(schema(version)?).ok()
}

fn instance(crd: &Value, first: &Value) -> Instance {
    let shapes = versions(crd).iter().filter_map(|version| {
        let schema = structure(crd, version)?;
        let shape = Shape {
            rules: Rules::compile(&schema),
            schema,
        };
        Some((Arc::from(text(version, "name")), shape))
    });
    let packed = versions(crd).iter().filter_map(|version| {
        // What is not structural is not published, as upstream.
        let given = schema(version).filter(|_| structure(crd, version).is_some())?;
        Some((Arc::from(text(version, "name")), Packed::new(given)))
    });
    let names = at(at(crd, "status"), "acceptedNames");
    let subresources = at(first, "subresources");
    Instance {
        shapes: shapes.collect(),
        packed: packed.collect(),
        group: text(at(crd, "spec"), "group").into(),
        kind: text(names, "kind").into(),
        list_kind: text(names, "listKind").into(),
        storage: storage_version(crd).into(),
        status: at(subresources, "status").is_object(),
        replicas: text(at(subresources, "scale"), "specReplicasPath").to_owned(),
        scale: scale(at(subresources, "scale")),
    }
}

fn scale(given: &Value) -> Scale {
    let pointer = |field: &str| text(given, field).replace('.', "/");
    let selector = pointer("labelSelectorPath");
    Scale {
        replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector: Some(selector),
    }
}

fn subresources(version: &Value, group: &str, kind: &str, ty: &Type) -> Vec<Subresource> {
    let verbs = || SUB_VERBS.iter().map(|v| Arc::from(*v)).collect();
    let given = at(version, "subresources");
    let mut out = Vec::new();
    if at(given, "status").is_object() {
        out.push(Subresource {
            name: "status".into(),
            verbs: verbs(),
            group: group.into(),
            version: text(version, "name").into(),
            kind: kind.into(),
            ty: Some(ty.clone()),
        });
    }
    if at(given, "scale").is_object() {
        out.push(Subresource {
            name: "scale".into(),
            verbs: verbs(),
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            ty: crate::kinds::type_of("autoscaling", "v1", "Scale"),
        });
    }
    out
}

fn columns(version: &Value) -> Vec<Column> {
    let mut out = vec![Column {
        name: "Name".into(),
        ty: "string",
        format: "name",
        description: "".into(),
        priority: 0,
        cell: CellFn::Built(print::name),
    }];
    let given = items(version, "additionalPrinterColumns");
    for column in given {
        out.push(Column {
            name: text(column, "name").into(),
            ty: word(
                text(column, "type"),
                &["string", "integer", "number", "boolean", "date"],
            ),
            format: word(
                text(column, "format"),
                &[
                    "",
                    "int32",
                    "int64",
                    "float",
                    "double",
                    "byte",
                    "date",
                    "date-time",
                    "password",
                ],
            ),
            description: text(column, "description").into(),
            priority: int(column, "priority")
                .and_then(|p| i32::try_from(p).ok())
                .unwrap_or(0),
            cell: CellFn::Path(text(column, "jsonPath").into()),
        });
    }
    if given.is_empty() {
        out.push(Column {
            name: "Age".into(),
            ty: "date",
            format: "",
            description: "".into(),
            priority: 0,
            cell: CellFn::Built(print::age),
        });
    }
    out
}

/// One of a few words; the first one for all others.
fn word(given: &str, words: &[&'static str]) -> &'static str {
    let found = words.iter().find(|w| **w == given);
    found.or(words.first()).copied().unwrap_or_default()
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let given = items(version, "selectableFields").iter();
    given
        .map(|field| {
            let path = text(field, "jsonPath");
            SelectableField {
                name: path.trim_start_matches('.').into(),
                read: FieldRead::Pointer(path.replace('.', "/").into()),
                indexed: false,
            }
        })
        .collect()
}

/// The order of versions: released before beta before alpha, and later ones first.
fn priority(version: &str) -> (u8, u64, u64) {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let minor = |text: &str| text.parse().ok();
        match &rest[end..] {
            "" => Some((3, major, 0)),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(n), _) => Some((2, major, minor(n)?)),
                (_, Some(n)) => Some((1, major, minor(n)?)),
                _ => None,
            },
        }
    };
    parse().unwrap_or((0, 0, 0))
}
