//! What a row says of a kind: names, versions, scope, verbs, subresources, columns.
//! Router, discovery, OpenAPI paths and printing derive from it.

use std::pin::Pin;
use std::sync::Arc;

use schema::Type;

use crate::pointer;
use crate::strategy::Strategy;

/// How a stored value is encoded in upstream's layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// What the servers of extensions write: custom resources, and the kinds that describe them.
    Json,
    Protobuf,
}

/// How an object gets from one served version to another.
#[derive(Clone, Default)]
pub enum Conversion {
    /// By [`Strategy::convert`], which by default changes `apiVersion` alone.
    #[default]
    Pure,
    /// By something else (the webhook of a custom kind), which is waited for.
    Asked(Arc<dyn Convert>),
}

/// Something that converts objects.
pub trait Convert: Send + Sync + 'static {
    /// The objects (of any of the kind's versions) in another version (`group/version`), in the
    /// same order. An error is a sentence for the client.
    fn convert<'a>(
        &'a self,
        objects: Vec<serde_json::Value>,
        api_version: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<serde_json::Value>, String>> + Send + 'a>>;
}

/// One resource, in all its served versions.
#[derive(Clone)]
pub struct Row {
    /// Empty for the core group.
    pub group: Arc<str>,
    pub kind: Arc<str>,
    pub list_kind: Arc<str>,
    /// Plural, lower case, as in paths.
    pub resource: Arc<str>,
    pub singular: Arc<str>,
    pub short_names: Vec<Arc<str>>,
    /// Such as `all`.
    pub categories: Vec<Arc<str>>,
    pub namespaced: bool,
    /// As discovery lists them: create, delete, deletecollection, get, list, patch, update, watch.
    pub verbs: Vec<Arc<str>>,
    /// In order of preference.
    pub versions: Vec<ServedVersion>,
    /// The group of the stored form. It differs from `group` only where two groups serve the
    /// same objects (events.k8s.io stores core events).
    pub storage_group: Arc<str>,
    /// The version in which objects are stored.
    pub storage_version: Arc<str>,
    /// The type of the stored form.
    pub storage_type: Type,
    /// Between the stored form and the others.
    pub conversion: Conversion,
    /// How the stored form is encoded where upstream's layout is kept.
    pub encoding: Encoding,
    /// Where objects lie in the store, without a trailing slash: `/registry/pods`. Two rows with
    /// the same prefix serve the same objects.
    pub storage_prefix: Arc<str>,
    pub subresources: Vec<Subresource>,
    /// Columns of `Table`; `NAME` and `AGE` are columns like others.
    pub columns: Vec<Column>,
    /// Fields besides `metadata.name` and `metadata.namespace` that field selectors may name.
    pub selectable_fields: Vec<SelectableField>,
    /// Never stored (TokenReview and its relatives): create answers at once.
    pub virtual_kind: bool,
    /// No controller of this cluster acts on it yet: its creation answers with a Warning.
    pub inert: bool,
    /// A deletion that removes the object answers with the object, where most kinds answer with a
    /// `Status`.
    pub returns_deleted: bool,
    /// A replacement must say which version it replaces; of most kinds one that does not replaces
    /// whatever is there.
    pub needs_version: bool,
    /// A replacement of what does not exist creates it.
    pub put_creates: bool,
    /// Events: seconds until the store drops an object.
    pub expires_after_seconds: Option<u32>,
    pub strategy: Arc<dyn Strategy>,
}

#[derive(Clone, Debug)]
pub struct ServedVersion {
    /// Such as `v1`.
    pub version: Arc<str>,
    pub ty: Type,
    pub deprecated: bool,
    /// What the version has of its own instead of what the row has: versions of a custom kind may
    /// differ in everything.
    pub own: Option<Arc<VersionParts>>,
}

/// See [`ServedVersion::own`].
#[derive(Clone, Debug, Default)]
pub struct VersionParts {
    pub columns: Vec<Column>,
    pub subresources: Vec<Subresource>,
    /// Names of the row's selectable fields that selectors may name in this version.
    pub selectable: Vec<Arc<str>>,
    /// Text of a `Warning` header of requests for the version.
    pub warning: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct Subresource {
    /// `status`, `scale`, `binding`, `eviction`, `token`, `log`, `exec`, …
    pub name: Arc<str>,
    pub verbs: Vec<Arc<str>>,
    /// Group, version and kind of its body (`autoscaling/v1 Scale`).
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub kind: Arc<str>,
    /// That type; none where the body is not an object (the options of `exec` are a query).
    pub ty: Option<Type>,
}

#[derive(Clone, Debug)]
pub struct Column {
    /// As upstream's: `Name`, `Ready`; kubectl prints it in capitals.
    pub name: Arc<str>,
    /// OpenAPI type: string, integer, number, boolean, date.
    pub ty: &'static str,
    pub format: &'static str,
    pub description: Arc<str>,
    /// 0 always, 1 only with `-o wide`.
    pub priority: i32,
    /// The cell of an object. `now` in seconds since the epoch, for ages.
    pub cell: CellFn,
}

/// How a cell is computed.
#[derive(Clone)]
pub enum CellFn {
    Built(fn(&serde_json::Value, i64) -> serde_json::Value),
    /// A JSON path ([`crate::jsonpath`]) of a custom resource's `additionalPrinterColumns`.
    Path(Arc<str>),
}

impl std::fmt::Debug for CellFn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Built(_) => "Built",
            Self::Path(p) => p,
        })
    }
}

/// A field that field selectors may name, and how it is read from an object.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// As in the selector: `spec.nodeName`.
    pub name: Arc<str>,
    pub read: FieldRead,
    /// Kept as an index by the watch cache, because node-scoped readers use it.
    pub indexed: bool,
}

/// Where the value of a selectable field is.
#[derive(Clone, Debug)]
pub enum FieldRead {
    /// A JSON pointer to a text, number or boolean; empty where there is none.
    Pointer(Arc<str>),
    Built(fn(&serde_json::Value) -> String),
}

impl SelectableField {
    /// The field's value in an object (storage version), as a selector writes it.
    pub fn value(&self, object: &serde_json::Value) -> String {
        match &self.read {
            FieldRead::Built(read) => read(object),
            FieldRead::Pointer(path) => match pointer::at(object, path) {
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(other @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
                    other.to_string()
                }
                _ => String::new(),
            },
        }
    }
}

impl Row {
    /// Whether the resource has this version.
    pub fn version(&self, version: &str) -> Option<&ServedVersion> {
        self.versions.iter().find(|v| &*v.version == version)
    }
    /// The subresource of this name, in whichever version.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| &*s.name == name)
    }
    /// The subresources of a version.
    pub fn subresources_of<'r>(&'r self, version: &'r ServedVersion) -> &'r [Subresource] {
        match &version.own {
            Some(own) => &own.subresources,
            None => &self.subresources,
        }
    }
    /// The subresource of this name in a version.
    pub fn subresource_of<'r>(
        &'r self,
        version: &'r ServedVersion,
        name: &str,
    ) -> Option<&'r Subresource> {
        let all = self.subresources_of(version);
        all.iter().find(|s| &*s.name == name)
    }
    /// The columns of a version.
    pub fn columns_of<'r>(&'r self, version: &'r ServedVersion) -> &'r [Column] {
        match &version.own {
            Some(own) => &own.columns,
            None => &self.columns,
        }
    }
    /// Whether selectors may name a field in this version, which may be one that is not served any
    /// more.
    pub fn may_select(&self, version: &str, field: &str) -> bool {
        let own = self.version(version).and_then(|v| v.own.as_ref());
        own.is_none_or(|own| own.selectable.iter().any(|name| &**name == field))
    }
    /// Whether the resource itself has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| &**v == verb)
    }
    /// The key of an object below the row's prefix.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if !self.namespaced {
            return name.to_owned();
        }
        // Every request makes one.
        let mut key = String::with_capacity(namespace.len() + 1 + name.len());
        key.push_str(namespace);
        key.push('/');
        key.push_str(name);
        key
    }
    /// `apiVersion` of the stored form: `v1`, `apps/v1`.
    pub fn storage_api_version(&self) -> String {
        if self.storage_group.is_empty() {
            self.storage_version.to_string()
        } else {
            format!("{}/{}", self.storage_group, self.storage_version)
        }
    }
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({}/{})", self.group, self.resource)
    }
}
