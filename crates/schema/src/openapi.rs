//! The definitions of OpenAPI v2 and the components of v3, made from the table. Paths and
//! operations are made where the resources are known (`apiserver`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::descriptions::Descriptions;
use crate::model::*;

const V2: Style = Style {
    prefix: "#/definitions/",
    v3: false,
};
const V3: Style = Style {
    prefix: "#/components/schemas/",
    v3: true,
};

#[derive(Clone, Copy)]
struct Style {
    prefix: &'static str,
    v3: bool,
}

/// The components of OpenAPI v3 that `roots` need, themselves included, by name. Names that the
/// table lacks are left out.
pub fn v3_components(table: &TypeTable, roots: &[&str]) -> Map<String, Value> {
    build(table, &closure(table, roots), V3)
}

/// [`v3_components`] for the document of one version: types that all groups serve, such as
/// `DeleteOptions`, name only this version and the core group's.
pub fn v3_components_of(
    table: &TypeTable,
    group: &str,
    version: &str,
    roots: &[&str],
) -> Map<String, Value> {
    let mut out = v3_components(table, roots);
    for schema in out.values_mut() {
        if let Some(Value::Array(gvks)) = schema.get_mut("x-kubernetes-group-version-kind")
            && gvks.len() > 1
        {
            let is = |gvk: &Value, g: &str, v: &str| gvk["group"] == g && gvk["version"] == v;
            gvks.retain(|gvk| is(gvk, "", "v1") || is(gvk, group, version));
        }
    }
    out
}

/// The definitions of v2 that `roots` need, themselves included.
pub fn v2_closure(table: &TypeTable, roots: &[&str]) -> Map<String, Value> {
    build(table, &closure(table, roots), V2)
}

fn build(table: &TypeTable, names: &BTreeSet<String>, style: Style) -> Map<String, Value> {
    let words = Descriptions::unpack();
    let mut out = Map::new();
    for name in names {
        let schema = match table.by_name(name) {
            Some(id) => definition(table, table.get(id), &words, style),
            None => match scalar_definition(name, &words, style) {
                Some(schema) => schema,
                None => continue,
            },
        };
        out.insert(name.clone(), schema);
    }
    out
}

/// Structs of which one field at a time is meant to be set: with the field that says which, if there
/// is one. Each value of that field is the other's name with a capital.
const UNIONS: &[(&str, Option<&str>, &[&str])] = &[
    (
        "core.v1.AppArmorProfile",
        Some("type"),
        &["localhostProfile"],
    ),
    ("core.v1.PodSchedulingGroup", None, &["podGroupName"]),
    (
        "core.v1.SeccompProfile",
        Some("type"),
        &["localhostProfile"],
    ),
    ("flowcontrol.v1.LimitResponse", Some("type"), &["queuing"]),
    (
        "flowcontrol.v1.PriorityLevelConfigurationSpec",
        Some("type"),
        &["exempt", "limited"],
    ),
    (
        "flowcontrol.v1.Subject",
        Some("kind"),
        &["group", "serviceAccount", "user"],
    ),
    (
        "scheduling.v1alpha2.PodGroupSchedulingPolicy",
        None,
        &["basic", "gang"],
    ),
    (
        "scheduling.v1alpha2.PodGroupTemplateReference",
        None,
        &["workload"],
    ),
];

/// Facts that upstream's documents show of single fields, and on which nothing here depends.
const SHOWN: &[(&str, &str, &str, &str)] = &[
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
        "x-kubernetes-map-type",
        "granular",
    ),
    (
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec",
        "caBundle",
        "x-kubernetes-list-type",
        "atomic",
    ),
];

fn union(name: &str) -> Option<Value> {
    let name = name.strip_prefix("io.k8s.api.")?;
    let (_, kind, fields) = UNIONS.iter().find(|(of, _, _)| *of == name)?;
    let values = fields.iter().map(|field| {
        let (first, rest) = field.split_at(1);
        (
            (*field).to_owned(),
            Value::from(first.to_uppercase() + rest),
        )
    });
    let mut union = Map::new();
    if let Some(kind) = kind {
        union.insert("discriminator".into(), (*kind).into());
    }
    union.insert(
        "fields-to-discriminateBy".into(),
        values.collect::<Map<_, _>>().into(),
    );
    Some(json!([union]))
}

/// Every definition that the roots name, directly or not.
fn closure(table: &TypeTable, roots: &[&str]) -> BTreeSet<String> {
    let mut open: Vec<String> = roots.iter().map(|r| (*r).to_owned()).collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(id) = table.by_name(&name) else {
            if name.starts_with(SCHEMA_OR) {
                open.push(JSON_SCHEMA_PROPS.to_owned());
            }
            continue;
        };
        for field in &table.get(id).fields {
            open.extend(referred(table, &field.ty));
        }
    }
    seen
}

fn referred(table: &TypeTable, ty: &FieldType) -> Option<String> {
    match ty {
        FieldType::List(item, _) | FieldType::Map(item, _) => referred(table, item),
        FieldType::Object(id) => Some(table.get(*id).name.to_string()),
        other => scalar_name(other).map(str::to_owned),
    }
}

fn definition(table: &TypeTable, def: &TypeDef, words: &Descriptions, style: Style) -> Value {
    let mut out = Map::new();
    if let Some(text) = words.get(&def.name, "").or_else(|| list_description(def)) {
        out.insert("description".into(), text.into());
    }
    out.insert("type".into(), "object".into());
    let required: Vec<Value> = def
        .fields
        .iter()
        .filter(|f| f.required)
        .map(|f| (*f.json).into())
        .collect();
    let properties: Map<String, Value> = def
        .fields
        .iter()
        .map(|f| (f.json.to_string(), property(table, def, f, words, style)))
        .collect();
    if !properties.is_empty() {
        out.insert("properties".into(), properties.into());
    }
    if !required.is_empty() {
        out.insert("required".into(), required.into());
    }
    if def.atomic {
        out.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    if def.preserve_unknown {
        out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    if let Some(union) = union(&def.name) {
        out.insert("x-kubernetes-unions".into(), union);
    }
    if !def.gvks.is_empty() {
        let gvks: Vec<Value> = def
            .gvks
            .iter()
            .map(|(g, v, k)| json!({"group": &**g, "kind": &**k, "version": &**v}))
            .collect();
        out.insert("x-kubernetes-group-version-kind".into(), gvks.into());
    }
    Value::Object(out)
}

fn is_list(def: &TypeDef) -> bool {
    def.name.ends_with("List") && def.field("items").is_some() && def.field("metadata").is_some()
}

/// The kind of a list's objects.
fn kind_of(def: &TypeDef) -> Option<&str> {
    def.name.rsplit('.').next()?.strip_suffix("List")
}

/// Objects of a kind in a sentence: `NetworkPolicy` → `networkpolicies`.
fn plural(kind: &str) -> String {
    let one = kind.to_lowercase();
    if let Some(stem) = one.strip_suffix('y')
        && !stem.ends_with(['a', 'e', 'o', 'u'])
    {
        return format!("{stem}ies");
    }
    if one.ends_with("ss") || one.ends_with("us") {
        format!("{one}es")
    } else if one.ends_with('s') {
        one
    } else {
        format!("{one}s")
    }
}

/// `PodList` and its like have no sentences in the source of descriptions.
fn list_description(def: &TypeDef) -> Option<String> {
    let kind = kind_of(def).filter(|_| is_list(def))?;
    Some(format!("{kind}List holds objects of kind {kind}."))
}

fn field_description(def: &TypeDef, field: &FieldDef, words: &Descriptions) -> Option<String> {
    const POD: &str = "io.k8s.api.core.v1.Pod";
    words
        .get(&def.name, &field.json)
        .or_else(|| match &*field.json {
            // The same sentences everywhere; those of a well-known kind serve.
            "kind" | "apiVersion" => words.get(POD, &field.json),
            "metadata" if is_list(def) => Some("Metadata of the list.".to_owned()),
            "items" if is_list(def) => Some(format!("List of {}.", plural(kind_of(def)?))),
            _ => None,
        })
}

fn property(
    table: &TypeTable,
    def: &TypeDef,
    field: &FieldDef,
    words: &Descriptions,
    style: Style,
) -> Value {
    let mut out = schema(table, &field.ty, style);
    if let Some(text) = field_description(def, field, words) {
        out.insert("description".into(), text.into());
    }
    if field.wrapped || (is_list(def) && &*field.json == "items") {
        // Upstream says nothing about lists with a Go type of their own, nor about the items of its
        // lists.
        out.remove("x-kubernetes-list-type");
    }
    if style.v3 {
        if let Some(default) = declared_default(field) {
            out.insert("default".into(), default);
        }
        // In v3 a reference must stand alone.
        if out.len() > 1
            && let Some(reference) = out.remove("$ref")
        {
            out.insert("allOf".into(), json!([{ "$ref": reference }]));
        }
    }
    if let Some(kind) = field.map_type {
        out.insert("x-kubernetes-map-type".into(), map_type(kind).into());
    }
    for (_, _, key, value) in SHOWN
        .iter()
        .filter(|(of, name, _, _)| *of == &*def.name && *name == &*field.json)
    {
        out.insert((*key).into(), (*value).into());
    }
    patch_facts(&field.patch, &mut out);
    Value::Object(out)
}

/// v3 shows declared defaults, and the zero value of fields that are always written.
fn declared_default(field: &FieldDef) -> Option<Value> {
    if let Some(text) = &field.default {
        return serde_json::from_str(text).ok();
    }
    if !field.always || field.ptr {
        return None;
    }
    match field.ty {
        FieldType::Bool => Some(false.into()),
        FieldType::Int32 | FieldType::Int64 | FieldType::Float64 => Some(0.into()),
        FieldType::String => Some("".into()),
        FieldType::Object(_) => Some(json!({})),
        _ => None,
    }
}

fn patch_facts(facts: &PatchFacts, out: &mut Map<String, Value>) {
    if let Some(key) = &facts.merge_key {
        out.insert("x-kubernetes-patch-merge-key".into(), (**key).into());
    }
    let strategies: Vec<&str> = [
        (facts.merge, "merge"),
        (facts.retain_keys, "retainKeys"),
        (facts.replace, "replace"),
    ]
    .iter()
    .filter_map(|(on, name)| on.then_some(*name))
    .collect();
    if !strategies.is_empty() {
        out.insert(
            "x-kubernetes-patch-strategy".into(),
            strategies.join(",").into(),
        );
    }
}

fn schema(table: &TypeTable, ty: &FieldType, style: Style) -> Map<String, Value> {
    let mut out = Map::new();
    let mut plain = |kind: &str, format: &str| {
        out.insert("type".into(), kind.into());
        if !format.is_empty() {
            out.insert("format".into(), format.into());
        }
    };
    match ty {
        FieldType::Bool => plain("boolean", ""),
        FieldType::Int32 => plain("integer", "int32"),
        FieldType::Int64 => plain("integer", "int64"),
        FieldType::Float64 => plain("number", "double"),
        FieldType::String => plain("string", ""),
        FieldType::Bytes => plain("string", "byte"),
        FieldType::Any(AnyKind::PreserveUnknown) => {
            out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        }
        FieldType::List(item, kind) => {
            plain("array", "");
            out.insert("items".into(), nested(table, item, style).into());
            list_facts(kind, &mut out);
        }
        FieldType::Map(item, kind) => {
            plain("object", "");
            out.insert(
                "additionalProperties".into(),
                nested(table, item, style).into(),
            );
            if *kind == MapType::Atomic {
                out.insert("x-kubernetes-map-type".into(), map_type(*kind).into());
            }
        }
        FieldType::Object(id) => {
            out.insert(
                "$ref".into(),
                format!("{}{}", style.prefix, table.get(*id).name).into(),
            );
        }
        other => {
            let name = scalar_name(other).unwrap_or_default();
            out.insert("$ref".into(), format!("{}{name}", style.prefix).into());
        }
    }
    out
}

/// Of what is within a list or a map: facts of lists are those of fields.
fn nested(table: &TypeTable, ty: &FieldType, style: Style) -> Map<String, Value> {
    let mut out = schema(table, ty, style);
    out.remove("x-kubernetes-list-type");
    out.remove("x-kubernetes-list-map-keys");
    out
}

fn list_facts(kind: &ListType, out: &mut Map<String, Value>) {
    let name = match kind {
        ListType::Atomic => "atomic",
        ListType::Set => "set",
        ListType::Map(keys) => {
            let keys: Vec<Value> = keys.iter().map(|k| (*k.name).into()).collect();
            out.insert("x-kubernetes-list-map-keys".into(), keys.into());
            "map"
        }
    };
    out.insert("x-kubernetes-list-type".into(), name.into());
}

fn map_type(kind: MapType) -> &'static str {
    match kind {
        MapType::Granular => "granular",
        MapType::Atomic => "atomic",
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const SCHEMA_OR: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOr";

/// The definitions that stand for scalars and free-form values.
fn scalar_name(ty: &FieldType) -> Option<&'static str> {
    Some(match ty {
        FieldType::Time => "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
        FieldType::MicroTime => "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        FieldType::Duration => "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        FieldType::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity",
        FieldType::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        FieldType::Any(AnyKind::RawExtension) => "io.k8s.apimachinery.pkg.runtime.RawExtension",
        FieldType::Any(AnyKind::FieldsV1) => "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        FieldType::Any(AnyKind::Json) => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"
        }
        FieldType::Any(AnyKind::SchemaOrArray) => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        }
        FieldType::Any(AnyKind::SchemaOrBool) => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
        }
        FieldType::Any(AnyKind::SchemaOrStrings) => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray"
        }
        _ => return None,
    })
}

fn scalar_definition(name: &str, words: &Descriptions, style: Style) -> Option<Value> {
    let mut out = match name.strip_prefix(META) {
        Some("Time" | "MicroTime") => json!({"type": "string", "format": "date-time"}),
        Some("Duration") => json!({"type": "string"}),
        Some("FieldsV1" | "Patch") => json!({"type": "object"}),
        _ => match name.rsplit('.').next()? {
            "Quantity" if style.v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "Quantity" => json!({"type": "string"}),
            "IntOrString" if style.v3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
            "RawExtension" => json!({"type": "object"}),
            "JSON" => json!({}),
            other if other.starts_with("JSONSchemaPropsOr") => json!({}),
            _ => return None,
        },
    };
    if let (Some(text), Value::Object(map)) = (words.get(name, ""), &mut out) {
        map.insert("description".into(), text.into());
    }
    Some(out)
}
