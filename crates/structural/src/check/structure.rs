//! The rules of structural schemas: every field that is checked has a place in the structure, and
//! what is only checked says nothing about the structure.

use api::{FieldError, FieldErrorType, FieldPath};
use serde_json::Value as Json;

use crate::model::{Additional, Checks, List, Structural};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What keeps a schema from being structural, in the order of the texts, as upstream.
pub(super) fn check(schema: &Structural, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    if let Some(checks) = &schema.checks {
        complete(checks, Some(schema), path, path, &mut errors);
    }
    errors.sort_by_key(ToString::to_string);
    errors
}

fn ty(schema: &Structural) -> Json {
    Json::from(&*schema.ty)
}

fn invariants(schema: &Structural, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if &*schema.ty == "array" && schema.items.is_none() {
        errors.push(FieldError::required(
            &path.child("items"),
            "must be specified",
        ));
    }
    if let Some(items) = &schema.items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, property) in &schema.properties {
        let path = path.child("properties").key(name);
        invariants(property, Level::Field, &path, errors);
    }
    let additional = path.child("additionalProperties");
    if !matches!(schema.additional, Additional::None) && level == Level::Root {
        errors.push(FieldError::forbidden(
            &additional,
            "must not be used at the root",
        ));
    }
    if let Additional::Schema(below) = &schema.additional {
        invariants(below, Level::Field, &additional, errors);
    }
    extensions(schema, path, errors);
    if let Some(checks) = &schema.checks {
        let first = checks.all_of.first().and_then(|n| n.checks.as_deref());
        let skip_any = is_int_or_string(checks);
        let skip_first = first.is_some_and(is_int_or_string);
        value_checks(checks, skip_any, skip_first, path, errors);
    }
    types(schema, level, path, errors);
    meta(schema, level, path, errors);
}

fn extensions(schema: &Structural, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut both = |is: bool, name: &str| {
        if schema.int_or_string && is {
            errors.push(FieldError::invalid(
                &path.child(name),
                &true.into(),
                "must be false if x-kubernetes-int-or-string is true",
            ));
        }
    };
    both(
        schema.preserve_unknown,
        "x-kubernetes-preserve-unknown-fields",
    );
    both(schema.embedded, "x-kubernetes-embedded-resource");
}

fn types(schema: &Structural, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let at = path.child("type");
    if schema.embedded && &*schema.ty != "object" {
        let what = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match schema.ty.is_empty() {
            true => FieldError::required(&at, what),
            false => FieldError::invalid(&at, &ty(schema), what),
        });
    } else if schema.ty.is_empty() && !schema.int_or_string && !schema.preserve_unknown {
        let what = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, what));
    }
    if schema.embedded && !matches!(schema.additional, Additional::None) {
        errors.push(FieldError::forbidden(
            &path.child("additionalProperties"),
            "must not be used if x-kubernetes-embedded-resource is set",
        ));
    }
    if level == Level::Root && !schema.ty.is_empty() && &*schema.ty != "object" {
        errors.push(FieldError::invalid(
            &at,
            &ty(schema),
            "must be object at the root",
        ));
    }
}

/// What the schema says of fields that every resource has.
fn meta(schema: &Structural, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let resource = level == Level::Root || schema.embedded;
    let at = |name: &str| path.child("properties").key(name);
    for name in ["kind", "apiVersion"] {
        if let Some(property) = schema.properties.get(name)
            && resource
            && &*property.ty != "string"
        {
            let path = at(name).child("type");
            errors.push(FieldError::invalid(&path, &ty(property), "must be string"));
        }
    }
    if let Some(metadata) = schema.properties.get("metadata") {
        if resource && &*metadata.ty != "object" {
            let path = at("metadata").child("type");
            errors.push(FieldError::invalid(&path, &ty(metadata), "must be object"));
        }
        if level == Level::Root && !names_only(metadata) {
            errors.push(FieldError::forbidden(
                &at("metadata"),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }
    if schema.embedded && !schema.preserve_unknown && schema.properties.is_empty() {
        errors.push(FieldError::required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

/// Whether a schema of metadata says nothing but what names are like.
fn names_only(metadata: &Structural) -> bool {
    let names = ["name", "generateName"];
    metadata.properties.keys().all(|k| names.contains(&&**k))
        && metadata.items.is_none()
        && matches!(metadata.additional, Additional::None)
        && !metadata.nullable
        && !metadata.int_or_string
        && !metadata.preserve_unknown
        && !metadata.embedded
        && metadata.list == List::Unset
        && !metadata.atomic
        && metadata.checks.is_none()
        && metadata.rules.is_empty()
        && metadata.title.is_none()
        && metadata.description.is_none()
}

/// `anyOf` an integer or a string, which int-or-string values may say of themselves.
fn is_int_or_string(checks: &Checks) -> bool {
    let only = |node: &Structural, ty: &str| {
        &*node.ty == ty
            && node.checks.is_none()
            && node.properties.is_empty()
            && node.items.is_none()
            && forbidden(node).count() == 1
    };
    match &checks.any_of[..] {
        [a, b] => only(a, "integer") && only(b, "string"),
        _ => false,
    }
}

fn value_checks(
    checks: &Checks,
    skip_any: bool,
    skip_first: bool,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    if !skip_any {
        for (i, node) in checks.any_of.iter().enumerate() {
            nested(node, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, node) in checks.all_of.iter().enumerate() {
        let skip = skip_first && i == 0;
        nested(node, skip, &path.child("allOf").index(i), errors);
    }
    for (i, node) in checks.one_of.iter().enumerate() {
        nested(node, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(not) = &checks.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Some(pattern) = &checks.pattern
        && let Err(error) = cel::re2::compile(&pattern.text)
    {
        let pattern = &pattern.text;
        let what = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid_str(
            &path.child("pattern"),
            pattern,
            &what,
        ));
    }
}

/// Words of the structure in a node that only checks, and why they must not be there.
fn forbidden(node: &Structural) -> impl Iterator<Item = (&'static str, &'static str)> {
    let keys = matches!(&node.list, List::Map(keys) if !keys.is_empty());
    [
        (
            !node.ty.is_empty(),
            "type",
            "must be empty to be structural",
        ),
        (
            !matches!(node.additional, Additional::None),
            "additionalProperties",
            "must be undefined to be structural",
        ),
        (
            node.default.is_some(),
            "default",
            "must be undefined to be structural",
        ),
        (
            node.title.is_some(),
            "title",
            "must be empty to be structural",
        ),
        (
            node.description.is_some(),
            "description",
            "must be empty to be structural",
        ),
        (node.nullable, "nullable", "must be false to be structural"),
        (
            node.preserve_unknown,
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            node.embedded,
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            node.int_or_string,
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            keys,
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            node.list != List::Unset,
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            node.atomic,
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
        (
            !node.rules.is_empty(),
            "x-kubernetes-validations",
            "must be empty to be structural",
        ),
    ]
    .into_iter()
    .filter_map(|(is, word, what)| is.then_some((word, what)))
}

fn nested(node: &Structural, skip_any: bool, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if let Some(checks) = &node.checks {
        value_checks(checks, skip_any, false, path, errors);
    }
    if let Some(items) = &node.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in &node.properties {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    for (word, what) in forbidden(node) {
        errors.push(FieldError::forbidden(&path.child(word), what));
    }
    if node.properties.contains_key("metadata") {
        errors.push(FieldError::forbidden(
            &path.child("properties").key("metadata"),
            "must not be specified in a nested context",
        ));
    }
}

/// Whether each field that is checked is in the structure, too.
fn complete(
    checks: &Checks,
    schema: Option<&Structural>,
    at: &FieldPath,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    if let Some(not) = &checks.not {
        complete_nested(not, schema, at, &path.child("not"), errors);
    }
    for (word, nodes) in [
        ("allOf", &checks.all_of),
        ("anyOf", &checks.any_of),
        ("oneOf", &checks.one_of),
    ] {
        for (i, node) in nodes.iter().enumerate() {
            complete_nested(node, schema, at, &path.child(word).index(i), errors);
        }
    }
}

fn complete_nested(
    node: &Structural,
    schema: Option<&Structural>,
    at: &FieldPath,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let Some(schema) = schema else {
        errors.push(FieldError {
            kind: FieldErrorType::Required,
            field: at.clone(),
            value: None,
            detail: format!("because it is defined in {path}"),
        });
        return;
    };
    if let Some(checks) = &node.checks {
        complete(checks, Some(schema), at, path, errors);
    }
    if let Some(items) = &node.items {
        let (at, path) = (at.child("items"), path.child("items"));
        complete_nested(items, schema.items.as_deref(), &at, &path, errors);
    }
    for (name, property) in &node.properties {
        let (at, path) = (
            at.child("properties").key(name),
            path.child("properties").key(name),
        );
        complete_nested(property, schema.properties.get(name), &at, &path, errors);
    }
}
