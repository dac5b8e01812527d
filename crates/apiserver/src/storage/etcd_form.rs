//! How each key's values are stored upstream, and the two ways between that and our JSON. Pure:
//! it knows neither store nor cache.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use registry::kinds::{type_name, type_of};
use registry::{Encoding, Kinds, Row};
use schema::Type;
use schema::proto::{self, MAGIC};
use serde_json::Value;

use super::crds;
use crate::cache::{ROOT, encode};

/// How JSON begins that we wrote. Upstream sorts the members of custom objects by their names, so
/// that `apiVersion` comes first; the cache wants type and metadata before all others.
const OURS: &[u8] = b"{\"kind\":";

/// Kinds that are stored but not served under their key, with what lies below it.
const OTHERS: &[(&str, &str)] = &[
    ("/registry/ranges", "RangeAllocation"),
    ("/registry/masterleases", "Endpoints"),
];

/// A value cannot be brought into the other form.
#[derive(Debug, thiserror::Error)]
pub enum BadForm {
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Proto(#[from] schema::ProtoError),
    #[error("there is no type {0}")]
    NoType(String),
    #[error("it is encrypted")]
    Encrypted,
    #[error("its encoding is not known")]
    Unknown,
}

/// The stored form of one kind.
pub struct Form {
    api_version: String,
    kind: Arc<str>,
    /// Its protobuf type; JSON is stored without one.
    ty: Option<Type>,
    row: Option<Arc<Row>>,
}

/// The forms of all kinds, by where their objects lie.
pub struct Layout {
    by_prefix: HashMap<Arc<str>, Form>,
    /// Of kinds that come while the server runs: `/registry/<group>/<resource>/…`, JSON.
    custom: Form,
}

impl Layout {
    pub fn new(kinds: &Kinds) -> Self {
        let mut by_prefix: HashMap<Arc<str>, Form> = HashMap::new();
        for row in kinds.rows().iter().filter(|r| !r.virtual_kind) {
            // Where two rows share objects, the one that stores them says how.
            if row.storage_group == row.group || !by_prefix.contains_key(&row.storage_prefix) {
                by_prefix.insert(row.storage_prefix.clone(), Form::of(row));
            }
        }
        for (prefix, kind) in OTHERS {
            let form = Form {
                api_version: "v1".into(),
                kind: (*kind).into(),
                ty: type_of("", "v1", kind),
                row: None,
            };
            by_prefix.insert((*prefix).into(), form);
        }
        let custom = Form {
            api_version: String::new(),
            kind: "".into(),
            ty: None,
            row: None,
        };
        Self { by_prefix, custom }
    }

    /// The form of a key's value; `None` for keys that hold no object: private ones, and those
    /// that upstream has beside objects.
    pub fn of(&self, key: &[u8]) -> Option<&Form> {
        let key = std::str::from_utf8(key).ok()?;
        let (head, _) = key.rsplit_once('/')?;
        let is = |form: &&Form, namespaced| form.is_namespaced() == namespaced;
        if let Some(form) = self.by_prefix.get(head).filter(|f| is(f, false)) {
            return Some(form);
        }
        let (prefix, _) = head.rsplit_once('/')?;
        let namespaced = self.by_prefix.get(prefix).filter(|f| is(f, true));
        namespaced.or_else(|| is_custom(head).then_some(&self.custom))
    }
}

/// Whether a custom kind's objects lie here: below a group, which has a dot, and a resource.
fn is_custom(folder: &str) -> bool {
    let below = folder.strip_prefix(ROOT).unwrap_or_default();
    let mut parts = below.split('/');
    let is_group = parts.next().is_some_and(|group| group.contains('.'));
    is_group && (1..=2).contains(&parts.count())
}

impl Form {
    fn of(row: &Arc<Row>) -> Self {
        Self {
            api_version: row.storage_api_version(),
            kind: row.kind.clone(),
            ty: (row.encoding == Encoding::Protobuf).then(|| row.storage_type.clone()),
            row: Some(row.clone()),
        }
    }

    fn is_custom(&self) -> bool {
        self.row.is_none() && self.ty.is_none()
    }

    fn is_namespaced(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.namespaced)
    }

    /// Whether objects of this kind are stored as protobuf.
    pub fn is_proto(&self) -> bool {
        self.ty.is_some()
    }

    /// Our JSON in upstream's form.
    pub fn write(&self, json: &Bytes) -> Result<Bytes, BadForm> {
        let Some(ty) = &self.ty else {
            return Ok(json.clone());
        };
        let value: Value = serde_json::from_slice(json)?;
        let raw = proto::encode(ty.table(), ty.id(), &value)?;
        Ok(proto::wrap_unknown(&self.api_version, &self.kind, &raw).into())
    }

    /// What upstream stored (in either encoding, in any version that we know) as our JSON.
    pub fn read(&self, stored: &Bytes) -> Result<Bytes, BadForm> {
        if self.is_custom() && stored.starts_with(OURS) {
            return Ok(stored.clone());
        }
        let mut value = if stored.starts_with(&MAGIC) {
            self.read_proto(stored)?
        } else if stored.starts_with(b"k8s:enc:") {
            return Err(BadForm::Encrypted);
        } else if stored.starts_with(b"{") {
            serde_json::from_slice(stored)?
        } else {
            return Err(BadForm::Unknown);
        };
        self.to_storage_version(&mut value);
        Ok(encode(&value))
    }

    /// Whether a value has another form than one that is written now: another encoding, or another
    /// version. Of custom objects their kinds say it, which are not known here.
    pub fn is_outdated(&self, stored: &[u8]) -> bool {
        if self.is_custom() {
            return false;
        }
        let version = match self.is_proto() {
            true => proto::unwrap_unknown(stored).ok().map(|u| u.api_version),
            false => serde_json::from_slice::<Value>(stored).ok().and_then(|v| {
                let version = v.get("apiVersion")?.as_str()?;
                Some(version.to_owned())
            }),
        };
        version.as_ref() != Some(&self.api_version)
    }

    fn read_proto(&self, stored: &[u8]) -> Result<Value, BadForm> {
        let unknown = proto::unwrap_unknown(stored)?;
        let (group, version) = split(&unknown.api_version);
        let own = self.ty.as_ref();
        let ty = match own.filter(|_| unknown.api_version == self.api_version) {
            Some(ty) => ty.clone(),
            // An older version, which this server no longer writes.
            None => type_of(group, version, &unknown.kind)
                .ok_or_else(|| BadForm::NoType(type_name(group, version, &unknown.kind)))?,
        };
        let mut value = proto::decode(ty.table(), ty.id(), &unknown.raw)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("kind".into(), unknown.kind.into());
            map.insert("apiVersion".into(), unknown.api_version.into());
        }
        Ok(value)
    }

    fn to_storage_version(&self, value: &mut Value) {
        let have = value.get("apiVersion").and_then(Value::as_str);
        let Some(row) = self
            .row
            .as_ref()
            .filter(|_| have != Some(&self.api_version))
        else {
            return;
        };
        if have == Some(crds::OLD) {
            crds::convert(value);
        }
        row.strategy
            .convert(value, &row.storage_version, &row.storage_group);
    }
}

/// Group and version of an `apiVersion`.
fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}
