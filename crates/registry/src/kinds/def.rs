//! The compact form in which the built-in kinds are written down, and how it becomes a [`Row`].
//! A plain kind is one line: `namespaced("", "ConfigMap", "configmaps", V1).short(&["cm"])`.

use std::sync::Arc;

use schema::Type;
use serde_json::Value;

use crate::row::{
    CellFn, Column, Conversion, Encoding, FieldRead, Row, SelectableField, ServedVersion,
    Subresource,
};
use crate::strategy::{Plain, Strategy, WithStatus};

/// The versions of most kinds.
pub const V1: &[&str] = &["v1"];
/// The verbs of a resource that is stored.
pub const ALL: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
/// Groups whose objects upstream stores as JSON: the servers of these groups are built apart
/// from the one that knows protobuf.
const AS_JSON: &[&str] = &["apiextensions.k8s.io", "apiregistration.k8s.io"];
/// How long an event is kept.
pub const EVENT_SECONDS: u32 = 3600;
/// The verbs of `status`, `scale` and their like.
pub const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];
/// The verbs of HTTP proxies.
pub const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// A column before it is shared: see [`Column`].
pub struct Col {
    pub name: &'static str,
    pub ty: &'static str,
    pub format: &'static str,
    pub priority: i32,
    pub cell: fn(&Value, i64) -> Value,
}

/// A subresource: name, verbs, (group, version, kind) of its body.
#[derive(Clone, Copy)]
pub struct Sub(pub &'static str, pub &'static [&'static str], pub Body);

/// What kind of body a subresource has.
#[derive(Clone, Copy)]
pub enum Body {
    /// The kind of the resource itself.
    Own,
    /// Another kind, by group, version and kind.
    Other(&'static str, &'static str, &'static str),
}

/// `status`, as most kinds have it.
pub const STATUS: Sub = Sub("status", GET_PATCH_UPDATE, Body::Own);
/// `scale`, as all scalable kinds have it.
pub const SCALE: Sub = Sub(
    "scale",
    GET_PATCH_UPDATE,
    Body::Other("autoscaling", "v1", "Scale"),
);

/// A field that selectors may name; see [`SelectableField`].
#[derive(Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub read: fn(&Value) -> String,
    pub indexed: bool,
}

/// One kind, as the tables of this folder write it.
#[derive(Clone, Copy)]
pub struct Def {
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    namespaced: bool,
    versions: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [&'static str],
    storage: Option<(&'static str, &'static str)>,
    prefix: Option<&'static str>,
    subresources: &'static [Sub],
    columns: &'static [Col],
    fields: &'static [Field],
    virtual_kind: bool,
    inert: bool,
    returns_deleted: bool,
    needs_version: bool,
    put_creates: bool,
    expires_after_seconds: Option<u32>,
    strategy: Option<fn() -> Arc<dyn Strategy>>,
}

const fn def(
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    versions: &'static [&'static str],
    namespaced: bool,
) -> Def {
    Def {
        group,
        kind,
        resource,
        namespaced,
        versions,
        short_names: &[],
        categories: &[],
        verbs: ALL,
        storage: None,
        prefix: None,
        subresources: &[],
        columns: super::columns::NAME_AGE,
        fields: &[],
        virtual_kind: false,
        inert: false,
        returns_deleted: false,
        needs_version: false,
        put_creates: false,
        expires_after_seconds: None,
        strategy: None,
    }
}

/// A kind that lives in namespaces; versions in order of preference.
pub const fn namespaced(
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    versions: &'static [&'static str],
) -> Def {
    def(group, kind, resource, versions, true)
}

/// A kind of the whole cluster; versions in order of preference.
pub const fn cluster(
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    versions: &'static [&'static str],
) -> Def {
    def(group, kind, resource, versions, false)
}

impl Def {
    pub const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }
    pub const fn categories(mut self, names: &'static [&'static str]) -> Self {
        self.categories = names;
        self
    }
    /// Instead of all verbs.
    pub const fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.verbs = verbs;
        self
    }
    /// Stored in this group and version instead of the preferred one.
    pub const fn stored(mut self, group: &'static str, version: &'static str) -> Self {
        self.storage = Some((group, version));
        self
    }
    /// Stored under this path below `/registry/` instead of the resource's name.
    pub const fn prefix(mut self, prefix: &'static str) -> Self {
        self.prefix = Some(prefix);
        self
    }
    pub const fn subs(mut self, subs: &'static [Sub]) -> Self {
        self.subresources = subs;
        self
    }
    pub const fn columns(mut self, columns: &'static [Col]) -> Self {
        self.columns = columns;
        self
    }
    pub const fn fields(mut self, fields: &'static [Field]) -> Self {
        self.fields = fields;
        self
    }
    /// Never stored, only answered.
    pub const fn only_answered(mut self) -> Self {
        self.virtual_kind = true;
        self.verbs = &["create"];
        self
    }
    /// Never stored; what it shows is asked for when somebody reads it.
    pub const fn only_read(mut self, columns: &'static [Col]) -> Self {
        self.virtual_kind = true;
        self.verbs = &["get", "list"];
        self.columns = columns;
        self
    }
    /// No controller acts on it yet.
    pub const fn inert(mut self) -> Self {
        self.inert = true;
        self
    }
    /// Its deletion answers with the object.
    pub const fn returned(mut self) -> Self {
        self.returns_deleted = true;
        self
    }
    /// See [`Row::needs_version`].
    pub const fn versioned(mut self) -> Self {
        self.needs_version = true;
        self
    }
    /// See [`Row::put_creates`].
    pub const fn put_creates(mut self) -> Self {
        self.put_creates = true;
        self
    }
    pub const fn expires(mut self, seconds: u32) -> Self {
        self.expires_after_seconds = Some(seconds);
        self
    }
    pub const fn strategy(mut self, make: fn() -> Arc<dyn Strategy>) -> Self {
        self.strategy = Some(make);
        self
    }

    /// The shared form.
    pub fn row(&self) -> Row {
        let preferred = self.versions.first().copied().unwrap_or("v1");
        let (storage_group, storage_version) = self.storage.unwrap_or((self.group, preferred));
        let singular = self.kind.to_ascii_lowercase();
        Row {
            group: self.group.into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind).into(),
            resource: self.resource.into(),
            singular: singular.into(),
            short_names: shared(self.short_names),
            categories: shared(self.categories),
            namespaced: self.namespaced,
            verbs: shared(self.verbs),
            versions: self.versions.iter().map(|v| self.served(v)).collect(),
            storage_group: storage_group.into(),
            storage_version: storage_version.into(),
            // A test finds the types of all rows.
            storage_type: type_of(storage_group, storage_version, self.kind).unwrap_or_default(),
            conversion: Conversion::Pure,
            encoding: if AS_JSON.contains(&self.group) {
                Encoding::Json
            } else {
                Encoding::Protobuf
            },
            storage_prefix: format!("/registry/{}", self.prefix.unwrap_or(self.resource)).into(),
            subresources: self
                .subresources
                .iter()
                .map(|s| self.subresource(s, preferred))
                .collect(),
            columns: self.columns.iter().map(column).collect(),
            selectable_fields: self.fields.iter().map(selectable).collect(),
            virtual_kind: self.virtual_kind,
            inert: self.inert,
            returns_deleted: self.returns_deleted,
            needs_version: self.needs_version,
            put_creates: self.put_creates,
            expires_after_seconds: self.expires_after_seconds,
            strategy: self.hooks(),
        }
    }

    fn hooks(&self) -> Arc<dyn Strategy> {
        match self.strategy {
            Some(make) => make(),
            None if self.subresources.iter().any(|s| s.0 == STATUS.0) => Arc::new(WithStatus),
            None => Arc::new(Plain),
        }
    }

    fn served(&self, version: &str) -> ServedVersion {
        ServedVersion {
            version: version.into(),
            ty: type_of(self.group, version, self.kind).unwrap_or_default(),
            deprecated: crate::deprecation_warning(self.group, version, self.kind).is_some(),
            own: None,
        }
    }

    fn subresource(&self, sub: &Sub, preferred: &str) -> Subresource {
        let (group, version, kind) = match sub.2 {
            Body::Own => (self.group, preferred, self.kind),
            Body::Other(g, v, k) => (g, v, k),
        };
        Subresource {
            name: sub.0.into(),
            verbs: shared(sub.1),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            ty: type_of(group, version, kind),
        }
    }
}

fn shared(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|n| Arc::from(*n)).collect()
}

fn column(c: &Col) -> Column {
    Column {
        name: c.name.into(),
        ty: c.ty,
        format: c.format,
        description: "".into(),
        priority: c.priority,
        cell: CellFn::Built(c.cell),
    }
}

fn selectable(f: &Field) -> SelectableField {
    SelectableField {
        name: f.name.into(),
        read: FieldRead::Built(f.read),
        indexed: f.indexed,
    }
}

/// The type of a built-in kind.
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<Type> {
    Type::named(schema::builtin(), &type_name(group, version, kind))
}

/// The OpenAPI definition of a built-in kind: `io.k8s.api.apps.v1.Deployment`.
pub fn type_name(group: &str, version: &str, kind: &str) -> String {
    let package = match group {
        "" => "io.k8s.api.core",
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration",
        "internal.apiserver.k8s.io" => "io.k8s.api.apiserverinternal",
        other => {
            let short = other.split('.').next().unwrap_or(other);
            return format!("io.k8s.api.{short}.{version}.{kind}");
        }
    };
    format!("{package}.{version}.{kind}")
}
