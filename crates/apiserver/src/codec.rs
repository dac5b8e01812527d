//! Bodies to values and back, by the schema table: the one place that knows `schema`'s functions.

use std::cell::OnceCell;
use std::sync::LazyLock;

use api::Status;
use registry::kinds::type_of;
use registry::{Encoding, Row};
use schema::decode::Decoded;
use schema::{StrictProblem, Type};
use serde_json::{Map, Value};

use crate::http::negotiate::{JSON, PROTO, YAML};

/// The start of every protobuf body: the envelope's magic.
const MAGIC: &[u8] = b"k8s\0";

/// The types that bodies of every kind have in common.
pub struct Common {
    pub delete_options: Type,
    pub list_meta: Type,
    pub object_meta: Type,
    pub status: Type,
    /// A kind whose `metadata` has the number that it has in every kind: for what holds nothing
    /// else.
    pub only_metadata: Type,
}

/// See [`Common`].
pub fn common() -> &'static Common {
    static COMMON: LazyLock<Common> = LazyLock::new(|| {
        let meta = |name: &str| {
            let name = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
            // The table is a part of the program; a test finds these in it.
            Type::named(schema::builtin(), &name).unwrap_or_default()
        };
        Common {
            delete_options: meta("DeleteOptions"),
            list_meta: meta("ListMeta"),
            object_meta: meta("ObjectMeta"),
            status: meta("Status"),
            only_metadata: type_of("", "v1", "ConfigMap").unwrap_or_default(),
        }
    });
    &COMMON
}

/// Brings an object (storage version) into the form in which any store gives it back.
pub fn settle(row: &Row, object: &mut Value) {
    if row.encoding == Encoding::Protobuf {
        let ty = &row.storage_type;
        schema::settle(ty.table(), ty.id(), object);
    }
}

/// [`settle`], where `old` is settled: what is as it was there is not looked at.
pub fn settle_changed(row: &Row, object: &mut Value, old: &Value) {
    if row.encoding == Encoding::Protobuf {
        let aside = Aside::take(object, old, ASIDE_LEVELS);
        settle(row, object);
        aside.put_back(object);
    }
}

/// Levels of an object at which members are compared one by one: the object's own, those of its
/// metadata, spec and status, and those below. Each level more compares again what lies in it.
const ASIDE_LEVELS: usize = 3;

/// Members of an object that another object has, too, while they are out of it.
#[derive(Default)]
struct Aside {
    same: Map<String, Value>,
    /// Of members that differ, but are objects in both.
    below: Vec<(String, Aside)>,
}

impl Aside {
    fn take(object: &mut Value, other: &Value, levels: usize) -> Self {
        let mut aside = Self::default();
        if let (Some(map), Some(other)) = (object.as_object_mut(), other.as_object()) {
            map.retain(|name, value| {
                let Some(have) = other.get(name) else {
                    return true;
                };
                if have == value {
                    aside.same.insert(name.clone(), value.take());
                    return false;
                }
                if levels > 1 && value.is_object() {
                    let below = Self::take(value, have, levels - 1);
                    if !below.is_empty() {
                        aside.below.push((name.clone(), below));
                    }
                }
                true
            });
        }
        aside
    }

    fn is_empty(&self) -> bool {
        self.same.is_empty() && self.below.is_empty()
    }

    fn put_back(self, object: &mut Value) {
        if self.is_empty() {
            return;
        }
        // What became empty without them may be gone, or null.
        if !object.is_object() {
            *object = Value::Object(Map::new());
        }
        let Some(map) = object.as_object_mut() else {
            return;
        };
        map.extend(self.same);
        for (name, below) in self.below {
            below.put_back(map.entry(name).or_insert(Value::Null));
        }
    }
}

/// What is expected of a body.
pub struct Expected<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub ty: &'a Type,
}

/// How unknown and duplicate fields are treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strictness {
    Ignore,
    Warn,
    Strict,
}

impl Strictness {
    /// Reads `fieldValidation`.
    pub fn read(verb: &str, text: Option<&str>) -> Result<Self, Status> {
        match text {
            None | Some("Warn" | "") => Ok(Self::Warn),
            Some("Ignore") => Ok(Self::Ignore),
            Some("Strict") => Ok(Self::Strict),
            Some(other) => Err(crate::http::options::unsupported(
                verb,
                "fieldValidation",
                other,
                &["Ignore", "Strict", "Warn"],
            )),
        }
    }
}

/// Decodes a body of a media type; warnings are appended.
pub fn decode(
    media: &str,
    body: &[u8],
    expected: &Expected<'_>,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let (mut value, problems) = match media {
        JSON => json(body, expected)?,
        YAML | "text/yaml" | "application/x-yaml" => yaml(body, expected)?,
        PROTO => (proto(body, expected)?, Vec::new()),
        other => return Err(unsupported(other)),
    };
    strict(problems, expected, strictness, warnings)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".into(), expected.kind.into());
        map.insert("apiVersion".into(), expected.api_version.into());
    }
    Ok(value)
}

/// The media type of a body is not known.
pub fn unsupported(_media: &str) -> Status {
    Status::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {JSON}, {YAML}, {PROTO}"
    ))
}

/// Checks a value that the server made from the client's (a patched object). Members that are as
/// in `stored`, if it is given, are not looked at: they were checked before they were stored. `why`
/// gets the decoder's words for what is not an object of the kind.
pub fn decode_value(
    mut value: Value,
    stored: Option<&Value>,
    expected: &Expected<'_>,
    strictness: Strictness,
    warnings: &mut Vec<String>,
    why: &OnceCell<String>,
) -> Result<Value, Status> {
    let ty = expected.ty;
    let aside = stored.map(|stored| Aside::take(&mut value, stored, ASIDE_LEVELS));
    let mut decoded = schema::decode::value(ty.table(), ty.id(), value).map_err(|e| {
        let why = why.get_or_init(|| e.to_string());
        cannot_handle(expected, why)
    })?;
    strict(decoded.problems, expected, strictness, warnings)?;
    if let Some(aside) = aside {
        aside.put_back(&mut decoded.value);
    }
    Ok(decoded.value)
}

/// Decodes `DeleteOptions`, which comes under the name of any group.
pub fn decode_options(media: &str, body: &[u8]) -> Result<Value, Status> {
    let bad = |e: String| Status::bad_request(format!("couldn't get version/kind; {e}"));
    match media {
        JSON => schema::decode::untyped(body)
            .map(|d| d.value)
            .map_err(|e| bad(format!("json parse error: {e}"))),
        YAML => read_yaml(body).map(|d| d.value).map_err(bad),
        PROTO => {
            let ty = &common().delete_options;
            let unknown = schema::proto::unwrap_unknown(body).map_err(|e| bad(e.to_string()))?;
            schema::proto::decode(ty.table(), ty.id(), &unknown.raw).map_err(|e| bad(e.to_string()))
        }
        other => Err(unsupported(other)),
    }
}

fn json(body: &[u8], expected: &Expected<'_>) -> Result<(Value, Vec<StrictProblem>), Status> {
    check_type(body, expected)?;
    let ty = expected.ty;
    let decoded = schema::decode::json(ty.table(), ty.id(), body)
        .map_err(|e| cannot_handle(expected, &e.to_string()))?;
    Ok((decoded.value, decoded.problems))
}

fn yaml(body: &[u8], expected: &Expected<'_>) -> Result<(Value, Vec<StrictProblem>), Status> {
    let read = read_yaml(body).map_err(|e| unrecognized(expected, body, &e))?;
    let mut problems = read.problems;
    let (value, more) = json(read.value.to_string().as_bytes(), expected)?;
    problems.extend(more);
    Ok((value, problems))
}

/// YAML as a JSON value.
fn read_yaml(body: &[u8]) -> Result<Decoded, String> {
    schema::decode::yaml(body).map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))
}

/// A configuration to be applied: YAML, whose type is checked where it is merged.
pub fn read_config(
    body: &[u8],
    expected: &Expected<'_>,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let read =
        read_yaml(body).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    strict(read.problems, expected, strictness, warnings)?;
    Ok(read.value)
}

fn proto(body: &[u8], expected: &Expected<'_>) -> Result<Value, Status> {
    let ty = expected.ty;
    let bad = |e: &str| unrecognized(expected, body, e);
    let unknown = schema::proto::unwrap_unknown(body).map_err(|e| bad(&e.to_string()))?;
    check_kind(&unknown.api_version, &unknown.kind, expected)?;
    schema::proto::decode(ty.table(), ty.id(), &unknown.raw).map_err(|e| bad(&e.to_string()))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

fn check_type(body: &[u8], expected: &Expected<'_>) -> Result<(), Status> {
    let meta: TypeMeta = serde_json::from_slice(body).map_err(|e| {
        // The schema's decoder has the words that clients know.
        let e = match schema::decode::untyped(body) {
            Err(e) => e.to_string(),
            Ok(_) => e.to_string(),
        };
        let e = format!("couldn't get version/kind; json parse error: {e}");
        unrecognized(expected, body, &e)
    })?;
    check_kind(
        meta.api_version.as_deref().unwrap_or_default(),
        meta.kind.as_deref().unwrap_or_default(),
        expected,
    )
}

/// Empty names stand for what is expected.
fn check_kind(api_version: &str, kind: &str, expected: &Expected<'_>) -> Result<(), Status> {
    let same_version = api_version.is_empty() || api_version == expected.api_version;
    let same_kind = kind.is_empty() || kind == expected.kind;
    if same_kind && same_version {
        return Ok(());
    }
    if same_kind {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version
        )));
    }
    let version = api_version.rsplit('/').next().unwrap_or_default();
    Err(Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered for this resource",
        expected.kind
    )))
}

fn cannot_handle(expected: &Expected<'_>, why: &str) -> Status {
    let version = expected.api_version.rsplit('/').next().unwrap_or_default();
    Status::bad_request(format!(
        "{} in version {version:?} cannot be handled as a {}: {why}",
        expected.kind, expected.kind
    ))
}

fn unrecognized(expected: &Expected<'_>, body: &[u8], why: &str) -> Status {
    let shown: String = body.iter().take(30).map(|b| format!("{b:02x}")).collect();
    let summary = match body.len() {
        0 => "<empty>".to_owned(),
        n if n > 30 => format!("raw=\"{shown} ...\", len={n}"),
        n => format!("raw=\"{shown}\", len={n}"),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): {why} ({summary})",
        expected.kind
    ))
}

fn strict(
    problems: Vec<StrictProblem>,
    expected: &Expected<'_>,
    strictness: Strictness,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    match strictness {
        _ if texts.is_empty() => Ok(()),
        Strictness::Ignore => Ok(()),
        Strictness::Warn => {
            warnings.extend(texts);
            Ok(())
        }
        Strictness::Strict => Err(cannot_handle(
            expected,
            &format!("strict decoding error: {}", texts.join(", ")),
        )),
    }
}

/// A value as a protobuf message; 406 for what has none.
pub fn to_proto(ty: &Type, value: &Value) -> Result<Vec<u8>, Status> {
    schema::proto::encode(ty.table(), ty.id(), value)
        .map_err(|e| Status::not_acceptable(e.to_string()))
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push((n & 0x7f) as u8);
}

fn varint_len(n: u64) -> usize {
    (64 - (n | 1).leading_zeros() as usize).div_ceil(7)
}

/// A field's number, and how its content is written.
fn key(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    varint(out, (u64::from(number) << 3) | wire_type);
}

/// Appends a length-delimited field.
pub fn put_field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    key(out, number, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a whole number; a flag is 0 or 1.
pub fn put_number(out: &mut Vec<u8>, number: u32, content: u64) {
    key(out, number, 0);
    varint(out, content);
}

/// Appends a double.
pub fn put_double(out: &mut Vec<u8>, number: u32, content: f64) {
    key(out, number, 1);
    out.extend_from_slice(&content.to_le_bytes());
}

/// The size of [`put_field`]'s result, of a number below 16.
pub fn field_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// The envelope up to the message of `len` bytes, which must follow.
pub fn envelope_head(api_version: &str, kind: &str, len: usize) -> Vec<u8> {
    let mut meta = Vec::new();
    put_field(&mut meta, 1, api_version.as_bytes());
    put_field(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_field(&mut out, 1, &meta);
    out.push((2 << 3) | 2);
    varint(&mut out, len as u64);
    out
}

/// A message in its envelope.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_that_are_left_alone_come_out_as_those_that_are_looked_at() {
        let kinds = registry::kinds();
        let row = kinds.resource("", "pods").expect("pods");
        let pod = |meta: Value, spec: Value, status: Value| {
            let mut pod = json!({ "kind": "Pod", "apiVersion": "v1",
                "metadata": meta, "spec": spec, "status": status });
            settle(row, &mut pod);
            pod
        };
        let metas = [
            json!({ "name": "p", "labels": { "a": "1", "b": "2" }, "creationTimestamp": null }),
            json!({ "name": "p", "labels": { "a": "1" }, "annotations": {}, "finalizers": [] }),
            json!({ "name": "p", "labels": {}, "annotations": { "x": "y" } }),
        ];
        let specs = [
            json!({ "containers": [{ "name": "c" }], "nodeSelector": { "a": "b" }, "hostNetwork": true }),
            json!({ "containers": [], "nodeSelector": {}, "volumes": [], "securityContext": {} }),
            json!({ "containers": null, "overhead": { "cpu": "1" }, "securityContext": { "sysctls": [] } }),
        ];
        let statuses = [
            json!({}),
            json!({ "phase": "Running", "conditions": [], "message": "" }),
            json!({ "phase": "Running", "conditions": [{ "type": "Ready" }], "podIPs": [] }),
        ];
        let all: Vec<Value> = metas
            .iter()
            .flat_map(|m| specs.iter().map(move |s| (m, s)))
            .flat_map(|(m, s)| statuses.iter().map(move |t| [m, s, t].map(Value::clone)))
            .map(|[m, s, t]| json!({ "kind": "Pod", "apiVersion": "v1", "metadata": m, "spec": s, "status": t }))
            .collect();
        for old in &all {
            let old = pod(
                old["metadata"].clone(),
                old["spec"].clone(),
                old["status"].clone(),
            );
            for new in &all {
                let (mut fast, mut slow) = (new.clone(), new.clone());
                settle_changed(row, &mut fast, &old);
                settle(row, &mut slow);
                assert_eq!(fast, slow, "{new} after {old}");
            }
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            Just(json!(1)),
            Just(json!([1])),
            Just(json!({}))
        ];
        leaf.prop_recursive(5, 40, 3, |inner| {
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn what_is_taken_aside_is_put_back(object in tree(), other in tree()) {
            let mut through = object.clone();
            Aside::take(&mut through, &other, ASIDE_LEVELS).put_back(&mut through);
            prop_assert_eq!(through, object);
        }
    }

    #[test]
    fn common_types_are_in_the_table() {
        let c = common();
        for ty in [
            &c.delete_options,
            &c.list_meta,
            &c.object_meta,
            &c.status,
            &c.only_metadata,
        ] {
            assert!(!ty.name().is_empty());
        }
    }

    #[test]
    fn varints_have_the_length_that_is_said() {
        for n in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut out = Vec::new();
            varint(&mut out, n);
            assert_eq!(out.len(), varint_len(n), "{n}");
        }
    }
}
