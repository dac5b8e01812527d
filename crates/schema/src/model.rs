//! The data model of the schema table: a type is a list of fields with their JSON names, proto
//! numbers, list and map semantics and merge keys. Built-in types and custom resources use the
//! same model; nothing downstream can distinguish them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// The definition that `JSONSchemaPropsOrBool` and its relatives hold.
pub const JSON_SCHEMA_PROPS: &str =
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Index of a type in a [`TypeTable`].
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(pub u32);

/// A type and the table in which it lies. Every served version and subresource holds one, so that
/// nothing behind the router looks a type up by its name, and a custom resource's own table goes
/// when its last reader does.
#[derive(Clone, Default)]
pub struct Type(TypeSource);

#[derive(Clone)]
enum TypeSource {
    Known { table: Arc<TypeTable>, id: TypeId },
    Later(Arc<Later>),
}

/// A type whose table is made when somebody asks for it.
struct Later {
    name: Arc<str>,
    made: OnceLock<(Arc<TypeTable>, TypeId)>,
    make: Box<dyn Fn() -> Type + Send + Sync>,
}

impl Default for TypeSource {
    fn default() -> Self {
        Self::Known {
            table: Arc::default(),
            id: TypeId::default(),
        }
    }
}

impl Type {
    /// The type of this full definition name.
    pub fn named(table: &Arc<TypeTable>, name: &str) -> Option<Self> {
        let id = table.by_name(name)?;
        Some(Self::new(table, id))
    }

    /// The type with this index; an index of another table gives the empty type.
    pub fn new(table: &Arc<TypeTable>, id: TypeId) -> Self {
        Self(TypeSource::Known {
            table: table.clone(),
            id,
        })
    }

    /// A type of this full definition name that is made when its table is first asked for: most
    /// custom kinds of a cluster are idle, and their tables are large.
    pub fn later(name: Arc<str>, make: impl Fn() -> Self + Send + Sync + 'static) -> Self {
        Self(TypeSource::Later(Arc::new(Later {
            name,
            made: OnceLock::new(),
            make: Box::new(make),
        })))
    }

    fn place(&self) -> (&Arc<TypeTable>, TypeId) {
        match &self.0 {
            TypeSource::Known { table, id } => (table, *id),
            TypeSource::Later(later) => {
                let (table, id) = later.made.get_or_init(|| {
                    let made = (later.make)();
                    (made.table().clone(), made.id())
                });
                (table, *id)
            }
        }
    }

    pub fn table(&self) -> &Arc<TypeTable> {
        self.place().0
    }

    pub fn id(&self) -> TypeId {
        self.place().1
    }

    /// Full definition name; empty for the empty type.
    pub fn name(&self) -> &Arc<str> {
        match &self.0 {
            TypeSource::Known { table, id } => &table.get(*id).name,
            TypeSource::Later(later) => &later.name,
        }
    }
}

impl std::fmt::Debug for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Type({})", self.name())
    }
}

/// One object type.
#[derive(Clone, Debug)]
pub struct TypeDef {
    /// Full definition name, as in OpenAPI: `io.k8s.api.core.v1.Pod`.
    pub name: Arc<str>,
    /// In proto order. Look up by JSON name with [`TypeDef::field`].
    pub fields: Vec<FieldDef>,
    /// `x-kubernetes-map-type: atomic`: server-side apply takes the object as one value.
    pub atomic: bool,
    /// `x-kubernetes-preserve-unknown-fields`: fields without a definition are kept.
    pub preserve_unknown: bool,
    /// A custom resource's own: its schema judges values, not the decoder. No name shows it: those of
    /// groups such as `gateway.networking.k8s.io` begin as the built-in types' do.
    pub custom: bool,
    /// The GVKs this type is served as (a few, such as `DeleteOptions`, have many).
    pub gvks: Vec<(Arc<str>, Arc<str>, Arc<str>)>,
}

impl TypeDef {
    /// The field of this JSON name (case-sensitive).
    pub fn field(&self, json: &str) -> Option<&FieldDef> {
        self.fields.iter().find(|f| &*f.json == json)
    }

    /// Whether the type has a protobuf form: numbers are what it consists of, and without them
    /// all that an object holds would be lost.
    pub fn has_proto(&self) -> bool {
        self.fields.is_empty() || self.fields.iter().any(|f| f.proto != 0)
    }
}

/// One field of a type.
#[derive(Clone, Debug)]
pub struct FieldDef {
    /// Name in JSON. An inline struct's fields are listed in the outer type, with the proto
    /// path in [`FieldDef::proto_path`].
    pub json: Arc<str>,
    /// Proto field number; 0 when the field has none (custom resources, `kind`, `apiVersion`).
    pub proto: u32,
    /// Proto numbers of the messages between the outer type and this field, outermost first.
    /// Empty for nearly all fields; JSON flattens these messages, protobuf does not.
    pub proto_path: Arc<[u32]>,
    pub ty: FieldType,
    pub required: bool,
    /// Written to JSON even when empty (Go fields without `omitempty`, such as `status: {}`).
    pub always: bool,
    /// A pointer in Go: "absent" differs from "zero", so that a zero value is kept.
    pub ptr: bool,
    /// In protobuf the list is the field `items = 1` of a message of its own.
    pub wrapped: bool,
    /// Overrides [`TypeDef::atomic`] of the type that this field holds.
    pub map_type: Option<MapType>,
    /// The declared default, as JSON text (`"TCP"`); most defaults are code in `registry`.
    pub default: Option<Arc<str>>,
    /// Names of the Go structs of [`FieldDef::proto_path`] (`VolumeSource`), which decode errors
    /// show in the path; a dot between several.
    pub inline: Option<Arc<str>>,
    /// The Go type as decode errors print it (`v1.Protocol`), where the type does not show it.
    pub go: Option<Arc<str>>,
    /// Strategic merge patch facts.
    pub patch: PatchFacts,
}

impl FieldDef {
    /// A field with no facts beyond its name and type, as custom resources have them.
    pub fn plain(json: &str, ty: FieldType) -> Self {
        Self {
            json: Arc::from(json),
            proto: 0,
            proto_path: Arc::from([]),
            ty,
            required: false,
            always: false,
            ptr: true,
            wrapped: false,
            map_type: None,
            default: None,
            inline: None,
            go: None,
            patch: PatchFacts::default(),
        }
    }
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
    /// `apiextensions/v1.JSON`.
    Json,
    /// `JSONSchemaPropsOrArray`: one schema or a list of schemas.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`: a schema or a boolean.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`: a schema or a list of strings.
    SchemaOrStrings,
    /// Free-form, of custom resources only: it has no protobuf form.
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
    types: Vec<TypeDef>,
    names: HashMap<Arc<str>, TypeId>,
    /// By kind, then the few groups and versions that have it.
    kinds: HashMap<Arc<str>, Vec<KindOf>>,
}

/// Group, version and type of one meaning of a kind's name.
type KindOf = (Arc<str>, Arc<str>, TypeId);

impl TypeTable {
    /// The type with this index. An index of another table gives the empty type.
    pub fn get(&self, id: TypeId) -> &TypeDef {
        static NONE: std::sync::LazyLock<TypeDef> = std::sync::LazyLock::new(|| TypeDef {
            name: Arc::from(""),
            fields: Vec::new(),
            atomic: false,
            preserve_unknown: true,
            custom: true,
            gvks: Vec::new(),
        });
        self.types.get(id.0 as usize).unwrap_or(&NONE)
    }

    /// All types, in the order of their indices.
    pub fn types(&self) -> &[TypeDef] {
        &self.types
    }

    /// By full definition name (`io.k8s.api.core.v1.Pod`).
    pub fn by_name(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// By group (empty for the core group), version and kind.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let found = self
            .kinds
            .get(kind)?
            .iter()
            .find(|(g, v, _)| &**g == group && &**v == version)?;
        Some(found.2)
    }

    /// Adds a type; its fields may name types that are added later (see [`TypeTable::next_id`]).
    pub fn push(&mut self, def: TypeDef) -> TypeId {
        let id = self.next_id();
        self.names.insert(def.name.clone(), id);
        for (g, v, k) in &def.gvks {
            self.kinds
                .entry(k.clone())
                .or_default()
                .push((g.clone(), v.clone(), id));
        }
        self.types.push(def);
        id
    }

    /// Copies a type of another table, with all that it refers to; returns its index here. A type
    /// of that name that is here already is taken instead. So a custom resource's own table gets
    /// `ObjectMeta`.
    pub fn import(&mut self, from: &TypeTable, id: TypeId) -> TypeId {
        let def = from.get(id);
        if let Some(here) = self.by_name(&def.name) {
            return here;
        }
        // First without fields: types may refer to themselves.
        let here = self.push(TypeDef {
            fields: Vec::new(),
            gvks: Vec::new(),
            ..def.clone()
        });
        let mut fields = def.fields.clone();
        for field in &mut fields {
            field.ty = self.import_type(from, &field.ty);
        }
        self.set_fields(here, fields);
        here
    }

    fn import_type(&mut self, from: &TypeTable, ty: &FieldType) -> FieldType {
        match ty {
            FieldType::Object(id) => FieldType::Object(self.import(from, *id)),
            FieldType::List(item, kind) => {
                FieldType::List(self.import_type(from, item).into(), kind.clone())
            }
            FieldType::Map(item, kind) => {
                FieldType::Map(self.import_type(from, item).into(), *kind)
            }
            other => other.clone(),
        }
    }

    /// The index that the next [`TypeTable::push`] will give.
    pub fn next_id(&self) -> TypeId {
        TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX))
    }

    /// Sets the fields of a type that was pushed before (recursive schemas need the index before
    /// the body); an unknown index changes nothing.
    pub fn set_fields(&mut self, id: TypeId, fields: Vec<FieldDef>) {
        if let Some(t) = self.types.get_mut(id.0 as usize) {
            t.fields = fields;
        }
    }
}
