//! The data model of the schema table: a type is a list of fields with their JSON names, proto
//! numbers, list and map semantics and merge keys. Built-in types and custom resources use the
//! same model; nothing downstream can tell them apart.

use std::sync::Arc;

/// Index of a type in a [`TypeTable`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(pub u32);

/// One object type.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// Full definition name, as in OpenAPI: `io.k8s.api.core.v1.Pod`.
    pub name: Arc<str>,
    /// In proto order. Look up by JSON name with [`TypeDef::field`].
    pub fields: Vec<FieldDef>,
    /// `x-kubernetes-map-type: atomic` or `x-kubernetes-preserve-unknown-fields`.
    pub atomic: bool,
    pub preserve_unknown: bool,
    /// The GVKs this type is served as (a few, such as `DeleteOptions`, have many).
    pub gvks: Vec<(Arc<str>, Arc<str>, Arc<str>)>,
}

impl TypeDef {
    pub fn field(&self, json: &str) -> Option<&FieldDef> {
        self.fields.iter().find(|f| &*f.json == json)
    }
}

/// One field of a type.
#[derive(Clone, Debug)]
pub struct FieldDef {
    /// Name in JSON. An inline struct's fields are listed in the outer type, with the proto
    /// path in [`FieldDef::proto_path`].
    pub json: Arc<str>,
    /// Proto field number; 0 when the field has none (custom resources).
    pub proto: u32,
    pub ty: FieldType,
    pub required: bool,
    /// Written to JSON even when empty (Go fields without `omitempty`, such as `status: {}`).
    pub always: bool,
    /// Strategic merge patch facts.
    pub patch: PatchFacts,
}

/// Facts of strategic merge patch; separate from the list semantics of server-side apply.
#[derive(Clone, Debug, Default)]
pub struct PatchFacts {
    /// `x-kubernetes-patch-merge-key`.
    pub merge_key: Option<Arc<str>>,
    /// `x-kubernetes-patch-strategy` contains `merge`.
    pub merge: bool,
    /// … contains `retainKeys`.
    pub retain_keys: bool,
    /// … contains `replace`.
    pub replace: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub enum FieldType {
    Bool,
    Int32,
    Int64,
    Float64,
    String,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with six fractional digits.
    MicroTime,
    /// Go duration string (`1h0m0s`).
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON, such as `runtime.RawExtension`, `JSON`, `FieldsV1`; see [`AnyKind`] for protobuf.
    Any(AnyKind),
    Object(TypeId),
    List(Arc<FieldType>, ListType),
    Map(Arc<FieldType>, MapType),
}

/// How a free-form value is wrapped in protobuf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnyKind {
    RawExtension,
    FieldsV1,
    Json,
    /// `JSONSchemaPropsOrBool` and its relatives: the type table holds their shape.
    PreserveUnknown,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListType {
    Atomic,
    Set,
    /// Keys with their default (JSON text), when the key may be left out (`protocol` of ports).
    Map(Vec<ListKey>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListKey {
    pub name: Arc<str>,
    pub default: Option<Arc<str>>,
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapType {
    Granular,
    Atomic,
}

/// All types of one universe: the built-in ones, or a custom resource's own.
#[derive(Clone, Debug, Default)]
pub struct TypeTable {
    pub types: Vec<TypeDef>,
}

impl TypeTable {
    pub fn get(&self, id: TypeId) -> &TypeDef {
        &self.types[id.0 as usize]
    }
}
