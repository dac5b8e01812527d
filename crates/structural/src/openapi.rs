//! How a custom resource's schema is published: with the fields that every resource has, and in
//! OpenAPI v2 without what that version cannot say.

use std::io::Read;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::{Map, Value as Json, json};

/// Which version of OpenAPI is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    V2,
    V3,
}

impl Form {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// Group, version and kind of what is published.
#[derive(Clone, Copy, Debug)]
pub struct KindNames<'k> {
    pub group: &'k str,
    pub version: &'k str,
    pub kind: &'k str,
    pub list_kind: &'k str,
}

impl KindNames<'_> {
    /// The name of the definition: `com.example.v1.Ship`.
    pub fn definition(&self) -> String {
        definition(self.group, self.version, self.kind)
    }
    pub fn list_definition(&self) -> String {
        definition(self.group, self.version, self.list_kind)
    }
    fn extension(&self, kind: &str) -> Json {
        json!([{ "group": self.group, "version": self.version, "kind": kind }])
    }
}

/// `com.example.v1.Ship` of group `example.com`.
pub fn definition(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    parts.join(".")
}

/// The definition of a kind. `schema` is what a CustomResourceDefinition holds; none where there
/// is none, or where it is not structural.
pub fn publish(schema: Option<&Json>, kind: &KindNames, form: Form) -> Json {
    let mut out = match schema {
        None => json!({ "type": "object" }),
        Some(schema) if !schema.is_object() => json!({ "type": "object" }),
        Some(schema) if form == Form::V2 && schema[PRESERVE] == true => json!({ "type": "object" }),
        Some(schema) => {
            let mut out = schema.clone();
            if let Json::Object(node) = &mut out {
                rewrite(node, form);
                add_meta(node, form, false);
            }
            out
        }
    };
    out["x-kubernetes-group-version-kind"] = kind.extension(kind.kind);
    out
}

/// The definition of the kind's list.
pub fn publish_list(kind: &KindNames, form: Form) -> Json {
    let words = &*WORDS;
    let of = |field: &str| words.list[field].clone();
    json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": of("apiVersion"),
            "kind": of("kind"),
            "metadata": described(form.reference(LIST_META), of("metadata")["description"].clone(), form),
            "items": {
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", kind.kind.to_lowercase()),
                "type": "array",
                "items": { "$ref": form.reference(&kind.definition()) },
            },
        },
        "x-kubernetes-group-version-kind": kind.extension(kind.list_kind),
    })
}

/// A reference with a description; OpenAPI v3.0 has no words beside references.
fn described(reference: String, description: Json, form: Form) -> Json {
    match form {
        Form::V2 => json!({ "description": description, "$ref": reference }),
        Form::V3 => json!({ "description": description, "allOf": [{ "$ref": reference }] }),
    }
}

/// A schema as it was written, packed: it is read when somebody asks for a document.
pub struct Packed(Box<[u8]>);

/// Most bytes of a schema that is unpacked: more than any request may have.
const MAX_UNPACKED: u64 = 16 << 20;

impl Packed {
    pub fn new(schema: &Json) -> Self {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail; what could not be written is not published.
        let written = serde_json::to_writer(&mut packer, schema).is_ok();
        let bytes = packer.finish().ok().filter(|_| written);
        Self(bytes.unwrap_or_default().into())
    }

    /// The schema; none if it could not be packed.
    pub fn unpack(&self) -> Option<Json> {
        let reader = DeflateDecoder::new(&self.0[..]).take(MAX_UNPACKED);
        serde_json::from_reader(reader).ok()
    }
}

struct Words {
    object: Json,
    list: Json,
}

/// The words about the fields that all kinds have, as a built-in kind has them.
static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let names = [
        "io.k8s.api.core.v1.ConfigMap",
        "io.k8s.api.core.v1.ConfigMapList",
    ];
    let mut all = schema::openapi::v2_closure(schema::builtin(), &names);
    let mut take = |name: &str| {
        let definition = all.remove(name).unwrap_or_default();
        definition["properties"].clone()
    };
    Words {
        object: take(names[0]),
        list: take(names[1]),
    }
});

fn add_meta(node: &mut Map<String, Json>, form: Form, embedded: bool) {
    let properties = node.entry("properties").or_insert_with(|| json!({}));
    let Json::Object(properties) = properties else {
        return;
    };
    for field in ["apiVersion", "kind"] {
        properties.insert(field.into(), WORDS.object[field].clone());
    }
    let words = WORDS.object["metadata"]["description"].clone();
    let meta = described(form.reference(OBJECT_META), words, form);
    properties.insert("metadata".into(), meta);
    if embedded {
        let required = node.entry("required").or_insert_with(|| json!([]));
        if let Json::Array(required) = required {
            for field in ["kind", "apiVersion"] {
                if !required.iter().any(|r| r == field) {
                    required.push(field.into());
                }
            }
        }
    }
}

/// Rewrites a node and all below it that hold values.
fn rewrite(node: &mut Map<String, Json>, form: Form) {
    let flag = |node: &Map<String, Json>, name: &str| node.get(name) == Some(&Json::Bool(true));
    let preserves = flag(node, PRESERVE);
    match form {
        Form::V2 => {
            // Defaults are not published there, as those of built-in kinds are not.
            for word in ["allOf", "oneOf", "anyOf", "not", "default"] {
                node.remove(word);
            }
            strip_nullable_required(node);
            if node.remove("nullable") == Some(Json::Bool(true)) {
                for word in ["type", "items", "properties"] {
                    node.remove(word);
                }
            }
            if preserves {
                for word in ["items", "properties"] {
                    node.remove(word);
                }
                if node.get("type").is_some_and(|t| t == "object") {
                    node.remove("type");
                }
            }
            if !node.contains_key("items") && node.get("type").is_some_and(|t| t == "array") {
                node.remove("type");
            }
        }
        Form::V3 if flag(node, "x-kubernetes-int-or-string") && !node.contains_key("anyOf") => {
            let first = node.get("allOf").map(|all| all[0]["anyOf"].clone());
            if first != Some(int_or_string()) {
                node.insert("anyOf".into(), int_or_string());
            }
        }
        Form::V3 => {}
    }
    for word in ["items", "additionalProperties"] {
        if let Some(Json::Object(below)) = node.get_mut(word) {
            rewrite(below, form);
        }
    }
    if let Some(Json::Object(properties)) = node.get_mut("properties") {
        for below in properties.values_mut() {
            if let Json::Object(below) = below {
                rewrite(below, form);
            }
        }
    }
    if flag(node, "x-kubernetes-embedded-resource") && !(preserves && form == Form::V2) {
        add_meta(node, form, true);
    }
}

fn int_or_string() -> Json {
    json!([{ "type": "integer" }, { "type": "string" }])
}

/// OpenAPI v2 knows no null: a field that may be null cannot be required.
fn strip_nullable_required(node: &mut Map<String, Json>) {
    let nullable = |schema: &Json| schema["nullable"] == true;
    if node.get("additionalProperties").is_some_and(nullable) {
        node.remove("required");
        return;
    }
    let Some(Json::Object(properties)) = node.get("properties") else {
        return;
    };
    let gone: Vec<String> = properties
        .iter()
        .filter(|(_, schema)| nullable(schema))
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Json::Array(required)) = node.get_mut("required") {
        required.retain(|r| !gone.iter().any(|g| r == g.as_str()));
        if required.is_empty() {
            node.remove("required");
        }
    }
}
