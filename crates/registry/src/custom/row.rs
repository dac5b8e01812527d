//! The row of a CustomResourceDefinition, made when the definition is established or changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use schema::Type;
use serde_json::Value;
use structural::{KindNames, types};

use super::definition::{is_established, is_terminating, preserves_all};
use super::instance::{Instance, Version};
use super::{schema, storage_version, versions};
use crate::check::{at, flag, int, items, text};
use crate::print;
use crate::row::{
    CellFn, Column, Conversion, Convert, Encoding, FieldRead, Row, SelectableField, ServedVersion,
    Subresource, VersionParts,
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

/// The row of a definition; none as long as it is not established, or serves no version. `webhook`
/// converts where the definition says that one does.
pub fn row(crd: &Value, webhook: impl FnOnce(&Value) -> Arc<dyn Convert>) -> Option<Row> {
    if !is_established(crd) {
        return None;
    }
    let spec = at(crd, "spec");
    let names = at(at(crd, "status"), "acceptedNames");
    let group = text(spec, "group");
    let (kind, list_kind) = (text(names, "kind"), text(names, "listKind"));
    let resource = text(names, "plural");
    let known = CustomKind {
        group: group.into(),
        kind: kind.into(),
        list_kind: list_kind.into(),
    };
    let parts = shapes(crd);
    let storage_version = storage_version(crd);
    let of = |version: &str| known.ty(version, parts.get(version)?);
    let storage_type = of(storage_version)?;
    let mut served: Vec<&Value> = versions(crd).iter().filter(|v| flag(v, "served")).collect();
    served.sort_by_key(|v| std::cmp::Reverse(crate::kinds::version_rank(text(v, "name"))));
    if served.is_empty() {
        return None;
    }
    let versions: Vec<ServedVersion> = served
        .iter()
        .map(|version| {
            let name = text(version, "name");
            let ty = match name == storage_version {
                true => storage_type.clone(),
                false => of(name).unwrap_or_default(),
            };
            served_version(crd, version, ty, &known)
        })
        .collect();
    let strategy = Instance {
        versions: parts,
        group: known.group.clone(),
        kind: known.kind.clone(),
        list_kind: known.list_kind.clone(),
        storage: storage_version.into(),
        is_pure: !by_webhook(crd),
    };
    Some(Row {
        group: known.group.clone(),
        kind: known.kind.clone(),
        list_kind: known.list_kind.clone(),
        resource: resource.into(),
        singular: text(names, "singular").into(),
        short_names: words(names, "shortNames"),
        categories: words(names, "categories"),
        namespaced: text(spec, "scope") == "Namespaced",
        verbs: verbs(crd),
        storage_group: known.group.clone(),
        storage_version: storage_version.into(),
        conversion: match by_webhook(crd) {
            true => Conversion::Asked(webhook(crd)),
            false => Conversion::Pure,
        },
        encoding: Encoding::Json,
        storage_prefix: format!("/registry/{group}/{resource}").into(),
        subresources: all_subresources(&versions),
        columns: Vec::new(),
        selectable_fields: selectable(&served),
        versions,
        virtual_kind: false,
        inert: false,
        returns_deleted: false,
        needs_version: true,
        put_creates: false,
        expires_after_seconds: None,
        strategy: Arc::new(strategy),
        storage_type,
    })
}

/// The names of a kind, shared by all that stands for it.
struct CustomKind {
    group: Arc<str>,
    kind: Arc<str>,
    list_kind: Arc<str>,
}

impl CustomKind {
    /// The type of a version, made when it is asked for.
    fn ty(&self, version: &str, parts: &Arc<Version>) -> Option<Type> {
        let (group, kind, list_kind) = (
            self.group.clone(),
            self.kind.clone(),
            self.list_kind.clone(),
        );
        let (version, parts) = (Arc::<str>::from(version), parts.clone());
        let name = structural::openapi::definition(&group, &version, &kind);
        Some(Type::later(name.into(), move || {
            let kind = KindNames {
                group: &group,
                version: &version,
                kind: &kind,
                list_kind: &list_kind,
            };
            types(parts.shape().map(|shape| &shape.schema), &kind)
        }))
    }
}

/// What the versions of a definition say of objects, those included that are not served.
fn shapes(crd: &Value) -> BTreeMap<Arc<str>, Arc<Version>> {
    let all = versions(crd).iter().map(|version| {
        let subresources = at(version, "subresources");
        let made = Version::new(
            schema(version).filter(|_| !preserves_all(crd)),
            at(subresources, "status").is_object(),
            scale(at(subresources, "scale")),
            fields_of(version).map(Arc::from).collect(),
        );
        (Arc::from(text(version, "name")), Arc::new(made))
    });
    all.collect()
}

fn served_version(crd: &Value, version: &Value, ty: Type, known: &CustomKind) -> ServedVersion {
    let name = text(version, "name");
    let parts = VersionParts {
        columns: columns(version),
        subresources: subresources(version, known, &ty),
        selectable: fields_of(version).map(Arc::from).collect(),
        warning: flag(version, "deprecated").then(|| deprecation(crd, version).into()),
    };
    ServedVersion {
        version: name.into(),
        ty,
        deprecated: flag(version, "deprecated"),
        own: Some(Arc::new(parts)),
    }
}

/// The warning for clients of a deprecated version.
fn deprecation(crd: &Value, version: &Value) -> String {
    if let Some(text) = at(version, "deprecationWarning").as_str() {
        return text.to_owned();
    }
    let rank = |v: &Value| crate::kinds::version_rank(text(v, "name"));
    let kind = text(at(at(crd, "spec"), "names"), "kind");
    let group = text(at(crd, "spec"), "group");
    let better = versions(crd)
        .iter()
        .filter(|v| flag(v, "served") && !flag(v, "deprecated") && rank(v) > rank(version))
        .max_by_key(|v| rank(v));
    let instead = better
        .map(|v| format!("; use {group}/{} {kind}", text(v, "name")))
        .unwrap_or_default();
    format!(
        "{group}/{} {kind} is deprecated{instead}",
        text(version, "name")
    )
}

fn by_webhook(crd: &Value) -> bool {
    text(at(at(crd, "spec"), "conversion"), "strategy") == "Webhook"
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

/// Where the scale of objects is; none without that subresource.
fn scale(given: &Value) -> Option<Scale> {
    let pointer = |field: &str| text(given, field).replace('.', "/");
    given.is_object().then(|| Scale {
        replicas: pointer("specReplicasPath"),
        status_replicas: pointer("statusReplicasPath"),
        selector: Some(pointer("labelSelectorPath")),
    })
}

fn subresources(version: &Value, known: &CustomKind, ty: &Type) -> Vec<Subresource> {
    let verbs = || SUB_VERBS.iter().map(|v| Arc::from(*v)).collect();
    let given = at(version, "subresources");
    let mut out = Vec::new();
    if at(given, "status").is_object() {
        out.push(Subresource {
            name: "status".into(),
            verbs: verbs(),
            group: known.group.clone(),
            version: text(version, "name").into(),
            kind: known.kind.clone(),
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

/// Those of all versions, each name once.
fn all_subresources(versions: &[ServedVersion]) -> Vec<Subresource> {
    let mut out: Vec<Subresource> = Vec::new();
    let parts = versions.iter().filter_map(|v| v.own.as_ref());
    for sub in parts.flat_map(|own| &own.subresources) {
        if !out.iter().any(|known| known.name == sub.name) {
            out.push(sub.clone());
        }
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
                    "uuid",
                ],
            ),
            description: match text(column, "description") {
                "" => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    text(column, "jsonPath")
                )
                .into(),
                given => given.into(),
            },
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

/// The names of the fields that a version offers to selectors.
fn fields_of(version: &Value) -> impl Iterator<Item = &str> {
    let given = items(version, "selectableFields").iter();
    given.map(|field| text(field, "jsonPath").trim_start_matches('.'))
}

/// The fields of all served versions, each once.
fn selectable(served: &[&Value]) -> Vec<SelectableField> {
    let mut names: Vec<&str> = Vec::new();
    for name in served.iter().flat_map(|version| fields_of(version)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let field = |name: &str| SelectableField {
        name: name.into(),
        read: FieldRead::Pointer(format!("/{}", name.replace('.', "/")).into()),
        indexed: false,
    };
    names.into_iter().map(field).collect()
}
