//! What we make of upstream's golden files: each object read from protobuf, JSON and YAML, written
//! as protobuf and as YAML, and kept in the store's form. Pure: whoever calls it reads the files,
//! and `cargo xtask compare` holds the outcome against them.

use std::collections::{BTreeMap, BTreeSet};

use apiserver::cache::encode;
use apiserver::codec::{self, Expected, Strictness};
use apiserver::http::negotiate::{JSON, PROTO, YAML};
use apiserver::storage::Layout;
use registry::{Kinds, Row, Subresource};
use schema::{Type, proto};
use serde::Serialize;
use serde_json::Value;

/// The files of one object.
pub struct Files {
    pub protobuf: Vec<u8>,
    pub json: Vec<u8>,
    pub yaml: Vec<u8>,
}

/// The outcome, which `xtask/src/compare/golden.rs` reads.
#[derive(Serialize)]
pub struct Golden {
    /// By the name of the files, such as `apps.v1.Deployment`; null where we have no such type.
    pub objects: BTreeMap<String, Option<Made>>,
    /// Versions of kinds that are served, of which there are no files.
    pub without: BTreeSet<String>,
}

/// What became of one object.
#[derive(Serialize)]
pub struct Made {
    /// It is the body of a resource or subresource.
    pub served: bool,
    /// From protobuf.
    pub decoded: Form,
    /// From JSON. What follows is made of it, but for `yaml`.
    pub read: Form,
    /// From YAML.
    pub yaml: Form,
    /// As protobuf in the envelope with which it is stored.
    pub message: Result<Vec<u8>, String>,
    /// As protobuf in the envelope of an answer.
    pub answer: Result<Vec<u8>, String>,
    /// Written as YAML and read again.
    pub written: Form,
    /// Written in the store's form and read again; none where nothing of this version is stored.
    pub stored: Option<Form>,
    /// The version in which it is stored in place of its own.
    pub stored_as: Option<String>,
}

/// An object, or why there is none, and the warnings that a client would get.
#[derive(Serialize)]
pub struct Form {
    pub value: Result<Value, String>,
    pub warnings: Vec<String>,
}

impl From<Result<Value, String>> for Form {
    fn from(value: Result<Value, String>) -> Self {
        let warnings = Vec::new();
        Self { value, warnings }
    }
}

/// All objects, with the kinds that a server serves.
pub fn golden(files: &BTreeMap<String, Files>, kinds: &Kinds) -> Golden {
    let layout = Layout::new(kinds);
    let objects = files.iter().map(|(name, files)| {
        let made = split(name).and_then(|gvk| made(gvk, files, kinds, &layout));
        (name.clone(), made)
    });
    let served = kinds.rows().iter().flat_map(|row| {
        let versions = row.versions.iter();
        versions.map(move |v| name(&row.group, &v.version, &row.kind))
    });
    Golden {
        objects: objects.collect(),
        without: served.filter(|name| !files.contains_key(name)).collect(),
    }
}

/// Group, version and kind of files.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, kind) = name.rsplit_once('.')?;
    let (group, version) = rest.rsplit_once('.')?;
    Some((if group == "core" { "" } else { group }, version, kind))
}

fn name(group: &str, version: &str, kind: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}.{version}.{kind}")
}

fn made(
    (group, version, kind): (&str, &str, &str),
    files: &Files,
    kinds: &Kinds,
    layout: &Layout,
) -> Option<Made> {
    let table = schema::builtin();
    let ty = Type::new(table, table.by_gvk(group, version, kind)?);
    // What is the body of no request (an event of a watch) has no names in it.
    let names: Value = serde_json::from_slice(&files.json).unwrap_or_default();
    let word = |field: &str| names[field].as_str().unwrap_or_default();
    let expected = Expected {
        api_version: word("apiVersion"),
        kind: word("kind"),
        ty: &ty,
    };
    let read = form(JSON, &files.json, &expected);
    let object = read.value.as_ref().map_err(Clone::clone);
    let raw = object
        .clone()
        .and_then(|object| codec::to_proto(&ty, object).map_err(|e| e.to_string()));
    let text = object
        .clone()
        .and_then(|object| serde_norway::to_string(object).map_err(|e| e.to_string()));
    let row = kinds
        .by_kind(group, version, kind)
        .filter(|row| !row.virtual_kind);
    let same = |row: &Row| *row.storage_group == *group && *row.storage_version == *version;
    let here = row.filter(|row| same(row));
    let back = here.map(|row| {
        object
            .clone()
            .and_then(|object| stored(row, layout, object))
    });
    Some(Made {
        served: is_served(kinds, (group, version, kind)),
        decoded: form(PROTO, &files.protobuf, &expected),
        yaml: form(YAML, &files.yaml, &expected),
        message: raw
            .clone()
            .map(|raw| proto::wrap_unknown(expected.api_version, expected.kind, &raw)),
        answer: raw.map(|raw| codec::envelope(expected.api_version, expected.kind, &raw)),
        written: match text {
            Ok(text) => form(YAML, text.as_bytes(), &expected),
            Err(e) => Form::from(Err(e)),
        },
        stored: back.map(Form::from),
        stored_as: row
            .filter(|row| !same(row))
            .map(|row| row.storage_api_version()),
        read,
    })
}

/// A body, as the server reads a client's.
fn form(media: &str, body: &[u8], expected: &Expected<'_>) -> Form {
    let mut warnings = Vec::new();
    let value = codec::decode(media, body, expected, Strictness::Warn, &mut warnings);
    let value = value.map(|mut object| {
        if let Some(map) = object.as_object_mut() {
            let is_name = |name: &str| name == "kind" || name == "apiVersion";
            map.retain(|name, value| !is_name(name) || value.as_str() != Some(""));
        }
        object
    });
    Form {
        value: value.map_err(|e| e.to_string()),
        warnings,
    }
}

/// Into the form in which the store has an object, and out of it.
fn stored(row: &Row, layout: &Layout, object: &Value) -> Result<Value, String> {
    let key = format!("{}/{}", row.storage_prefix, row.key("ns", "name"));
    let form = layout.of(key.as_bytes()).ok_or("no form for its key")?;
    let mut object = object.clone();
    codec::settle(row, &mut object);
    let bytes = form.write(&encode(&object)).map_err(|e| e.to_string())?;
    let back = form.read(&bytes).map_err(|e| e.to_string())?;
    serde_json::from_slice(&back).map_err(|e| e.to_string())
}

fn is_served(kinds: &Kinds, gvk: (&str, &str, &str)) -> bool {
    let is_body = |sub: &Subresource| (&*sub.group, &*sub.version, &*sub.kind) == gvk;
    let below = |row: &Row| row.subresources.iter().any(is_body);
    kinds.by_kind(gvk.0, gvk.1, gvk.2).is_some() || kinds.rows().iter().any(|row| below(row))
}
