//! An object as the cache holds it: the bytes that were stored, once serialized, and the few
//! parts that selection needs. The resourceVersion is known only after the commit, so the stored
//! bytes have none: it is spliced in behind `"metadata":{` when the object is written out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use registry::Row;
use serde::Deserialize;
use serde_json::{Map, Value};
use store::Revision;

use super::live::{self, Live};
use super::partial_read;

const MARK: &[u8] = b"\"metadata\":{";
/// `"resourceVersion":"` + 20 digits + `",` at most.
const SPLICE_MAX: usize = 41;

/// A form of an object other than its stored JSON; made when first asked for, kept with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormKey {
    pub group: Arc<str>,
    pub version: Arc<str>,
    pub form: Form,
}

/// The encodings that are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// JSON of another served version.
    Json,
    /// The protobuf message, without envelope.
    Proto,
    /// `PartialObjectMetadata` as JSON.
    MetaJson,
    /// `PartialObjectMetadata` as a protobuf message.
    MetaProto,
}

/// One object at one revision; immutable.
pub struct Object {
    /// Key below the resource's prefix: `namespace/name` or `name`.
    pub key: Arc<str>,
    /// The API's resourceVersion.
    pub revision: Revision,
    value: Bytes,
    /// Where `"metadata"` begins.
    body_at: u32,
    /// How many labels there are, and [`REFRESHED`].
    labels: u32,
    /// Keys and values of the labels, then the values of the row's selectable fields, in its order.
    words: Words,
    /// Few objects have any: they pay for no list.
    #[expect(clippy::box_collection, reason = "a list takes three words")]
    forms: Mutex<Option<Box<Vec<RenderedForm>>>>,
}

/// Texts side by side, each behind its length: a server holds hundreds of thousands of objects with
/// a dozen each, and each allocation of its own would take more than the text.
#[derive(Clone)]
struct Words(Box<[u8]>);

impl Words {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for text in texts {
            // Objects have bodies of 3 MiB at most.
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        Self(bytes.into())
    }

    fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            rest = after;
            // It was text when it came in.
            Some(std::str::from_utf8(text).unwrap_or_default())
        })
    }
}

/// A form that was made.
struct RenderedForm {
    key: FormKey,
    bytes: Bytes,
    /// Since the last look of [`Object::drop_idle_forms`].
    used: bool,
}

/// Bytes of all forms that are kept in this process.
static KEPT: AtomicUsize = AtomicUsize::new(0);
/// Most of them. 32 MiB: the pods of a large cluster in one more encoding. What is beyond is made
/// again for each answer, as it would be without this.
const MOST_KEPT: usize = 32 << 20;

/// A stored value is not what this server writes.
#[derive(Debug, thiserror::Error)]
#[error("stored value of {key} is not usable: {why}")]
pub struct BadValue {
    pub key: String,
    pub why: String,
}

#[derive(Deserialize)]
struct OnlyMeta {
    metadata: OnlyLabels,
}
#[derive(Deserialize)]
struct OnlyLabels {
    #[serde(default)]
    labels: Option<BTreeMap<Cow<'static, str>, Cow<'static, str>>>,
}

const MANAGED: &str = "managedFields";
/// In [`Object::labels`]: the bytes are not those that lie in the store.
const REFRESHED: u32 = 1 << 31;

/// The stored form: kind, apiVersion, metadata first; no resourceVersion.
pub fn encode(object: &Value) -> Bytes {
    encode_with(object, &[])
}

/// [`encode`] of an object whose managed fields are not in it, but beside it: a JSON list, or
/// nothing.
pub fn encode_with(object: &Value, managed: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(2048 + managed.len());
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    out.push(b'{');
    for name in ["kind", "apiVersion"] {
        put_member(&mut out, name, map.get(name).unwrap_or(&Value::Null));
        out.push(b',');
    }
    out.extend_from_slice(b"\"metadata\":");
    let meta = map.get("metadata").and_then(Value::as_object);
    put_metadata(&mut out, meta.unwrap_or(&empty), managed);
    for (name, value) in map {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            put_member(&mut out, name, value);
        }
    }
    out.push(b'}');
    // A copy as large as it must be: it is kept for as long as the object lives, and the room that
    // a growing buffer has to spare is up to as much again.
    Bytes::copy_from_slice(&out)
}

/// The metadata in order of names, with managed fields that are held beside it.
fn put_metadata(out: &mut Vec<u8>, meta: &Map<String, Value>, managed: &[u8]) {
    let beside = !managed.is_empty();
    let kept = meta
        .iter()
        .filter(|(name, _)| *name != "resourceVersion" && !(beside && *name == MANAGED));
    let mut members: Vec<(&str, Option<&Value>)> = kept
        .map(|(name, value)| (name.as_str(), Some(value)))
        .collect();
    if beside {
        let at = members.partition_point(|(name, _)| *name < MANAGED);
        members.insert(at, (MANAGED, None));
    }
    out.push(b'{');
    for (nth, (name, value)) in members.into_iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        match value {
            Some(value) => put_member(out, name, value),
            None => {
                out.extend_from_slice(b"\"managedFields\":");
                out.extend_from_slice(managed);
            }
        }
    }
    out.push(b'}');
}

/// Writing to memory cannot fail, and the keys of a value are texts.
fn put_member(out: &mut Vec<u8>, name: &str, value: &Value) {
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
    let _ = serde_json::to_writer(out, value);
}

impl Object {
    /// Reads a stored value; `key` is the part below the resource's prefix.
    pub fn parse(row: &Row, key: &str, value: Bytes, revision: Revision) -> Result<Self, BadValue> {
        let bad = |why: &str| BadValue {
            key: format!("{}/{key}", row.storage_prefix),
            why: why.to_owned(),
        };
        if row.strategy.refreshes()
            && let Some(object) = refreshed(row, key, &value, revision)?
        {
            return Ok(object);
        }
        if row.selectable_fields.is_empty() {
            let meta: OnlyMeta = serde_json::from_slice(&value).map_err(|e| bad(&e.to_string()))?;
            let labels = meta.metadata.labels.unwrap_or_default();
            return Self::new(key, value, revision, &labels, &[]).map_err(bad);
        }
        let parts = partial_read::read(&value).map_err(|e| bad(&e.to_string()))?;
        let (labels, fields) = (labels_of(&parts), fields_of(row, &parts));
        Self::new(key, value, revision, &labels, &fields).map_err(bad)
    }

    /// The object of a value that was just encoded: nothing is read again.
    pub fn written(
        row: &Row,
        key: &str,
        object: &Value,
        encoded: Bytes,
        revision: Revision,
    ) -> Result<Self, BadValue> {
        let (labels, fields) = (labels_of(object), fields_of(row, object));
        Self::new(key, encoded, revision, &labels, &fields).map_err(|why| BadValue {
            key: format!("{}/{key}", row.storage_prefix),
            why: why.to_owned(),
        })
    }

    fn new(
        key: &str,
        value: Bytes,
        revision: Revision,
        labels: &BTreeMap<Cow<'_, str>, Cow<'_, str>>,
        fields: &[String],
    ) -> Result<Self, &'static str> {
        let body_at = memchr::memmem::find(&value, MARK).ok_or("no metadata")?;
        if value.get(body_at + MARK.len()) == Some(&b'}') {
            return Err("empty metadata");
        }
        let pairs = labels.iter().flat_map(|(k, v)| [&**k, &**v]);
        Ok(Self {
            key: key.into(),
            revision,
            body_at: u32::try_from(body_at).map_err(|_| "too long")?,
            labels: u32::try_from(labels.len())
                .ok()
                .filter(|n| n & REFRESHED == 0)
                .ok_or("too many labels")?,
            words: Words::of(pairs.chain(fields.iter().map(String::as_str))),
            value,
            forms: Mutex::default(),
        })
    }

    /// The object with the revision at which it was written.
    #[must_use]
    pub fn written_at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    /// The same object with another revision: the last state of a deleted one.
    pub fn at(&self, revision: Revision) -> Self {
        Self {
            key: self.key.clone(),
            revision,
            value: self.value.clone(),
            body_at: self.body_at,
            labels: self.labels,
            words: self.words.clone(),
            forms: Mutex::default(),
        }
    }

    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }
    /// Empty for objects of the whole cluster.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }
    /// Keys and values of the labels, in order of the keys.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut words = self.words.iter();
        (0..self.label_count()).map_while(move |_| Some((words.next()?, words.next()?)))
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        let mut labels = self.labels();
        labels.find_map(|(name, value)| (name == key).then_some(value))
    }
    /// Whether it has the same labels and selectable fields as another state of the object.
    pub(super) fn is_selected_like(&self, other: &Self) -> bool {
        self.label_count() == other.label_count() && self.words.0 == other.words.0
    }
    /// The value of the row's nth selectable field.
    pub fn field(&self, nth: usize) -> &str {
        let before = self.label_count() as usize * 2;
        self.words.iter().nth(before + nth).unwrap_or_default()
    }
    fn label_count(&self) -> u32 {
        self.labels & !REFRESHED
    }
    /// Whether the store has other bytes than [`Object::stored`] says: the kind has changed since
    /// the object was written, and nobody has written it again.
    pub fn is_refreshed(&self) -> bool {
        self.labels & REFRESHED != 0
    }
    /// The stored bytes, as the object's kind reads them today.
    pub fn stored(&self) -> &Bytes {
        &self.value
    }

    /// Upper bound of what [`Object::write`] adds.
    pub fn len_bound(&self) -> usize {
        self.value.len() + SPLICE_MAX
    }

    /// Appends the object in its storage version with its resourceVersion.
    pub fn write(&self, out: &mut BytesMut) {
        self.splice(0, out);
    }

    /// Appends it as an item of a list: without kind and apiVersion.
    pub fn write_item(&self, out: &mut BytesMut) {
        out.put_u8(b'{');
        self.splice(self.body_at as usize, out);
    }

    fn splice(&self, from: usize, out: &mut BytesMut) {
        let at = self.body_at as usize + MARK.len();
        out.reserve(self.len_bound());
        out.put_slice(self.value.get(from..at).unwrap_or_default());
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(itoa::Buffer::new().format(self.revision).as_bytes());
        out.put_slice(b"\",");
        out.put_slice(self.value.get(at..).unwrap_or_default());
    }

    /// The object as JSON in its storage version.
    pub fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.len_bound());
        self.write(&mut out);
        out.freeze()
    }

    /// The object parsed, with its resourceVersion.
    pub fn to_value(&self) -> Value {
        // It was parsed when it entered the cache, so it can be parsed again.
        let mut v: Value = serde_json::from_slice(&self.value).unwrap_or_default();
        if let Some(meta) = v.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".into(), self.revision.to_string().into());
        }
        v
    }

    /// The object as a write takes it up: parsed, but for the managed fields.
    pub fn to_live(&self) -> Live {
        // As above.
        let (mut value, managed) = live::read(&self.value).unwrap_or_default();
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("resourceVersion".into(), self.revision.to_string().into());
        }
        Live { value, managed }
    }

    /// Another form, made once and kept for as long as it is asked for now and then.
    pub fn form<E>(
        &self,
        key: &FormKey,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut forms = self.forms.lock();
        let mut kept = forms.iter_mut().flat_map(|forms| forms.iter_mut());
        if let Some(made) = kept.find(|m| m.key == *key) {
            made.used = true;
            return Ok(made.bytes.clone());
        }
        drop(forms);
        // Made outside the lock; a second maker only wastes its work.
        let bytes = make()?;
        if KEPT.load(Ordering::Relaxed) < MOST_KEPT {
            KEPT.fetch_add(bytes.len(), Ordering::Relaxed);
            self.forms
                .lock()
                .get_or_insert_default()
                .push(RenderedForm {
                    key: key.clone(),
                    bytes: bytes.clone(),
                    used: true,
                });
        }
        Ok(bytes)
    }

    /// Drops the forms that nobody asked for since the last call.
    pub(super) fn drop_idle_forms(&self) {
        let mut kept = self.forms.lock();
        let Some(forms) = kept.as_mut() else {
            return;
        };
        forms.retain_mut(|made| {
            let used = std::mem::take(&mut made.used);
            if !used {
                KEPT.fetch_sub(made.bytes.len(), Ordering::Relaxed);
            }
            used
        });
        if forms.is_empty() {
            *kept = None;
        }
    }

    /// Whether any object keeps any form.
    pub(super) fn forms_are_kept() -> bool {
        KEPT.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let forms = self.forms.get_mut().iter().flat_map(|f| f.iter());
        let kept: usize = forms.map(|m| m.bytes.len()).sum();
        if kept > 0 {
            KEPT.fetch_sub(kept, Ordering::Relaxed);
        }
    }
}

/// An object in line with what its kind is today; none where it is already.
fn refreshed(
    row: &Row,
    key: &str,
    value: &Bytes,
    revision: Revision,
) -> Result<Option<Object>, BadValue> {
    let bad = |why: String| BadValue {
        key: format!("{}/{key}", row.storage_prefix),
        why,
    };
    let mut object: Value = serde_json::from_slice(value).map_err(|e| bad(e.to_string()))?;
    if !row.strategy.refresh(&mut object) {
        return Ok(None);
    }
    let mut made = Object::written(row, key, &object, encode(&object), revision)?;
    made.labels |= REFRESHED;
    Ok(Some(made))
}

fn labels_of(object: &Value) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let all = labels.into_iter().flatten();
    all.filter_map(|(k, v)| Some((k.as_str().into(), v.as_str()?.into())))
        .collect()
}

fn fields_of(row: &Row, object: &Value) -> Vec<String> {
    let fields = row.selectable_fields.iter();
    fields.map(|f| f.value(object)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn managed_fields_come_apart_and_together_again() {
        for managed in [
            json!([]),
            json!([{ "manager": "m", "fieldsV1": { "f:data": {} } }]),
        ] {
            for meta in [
                json!({ "name": "n" }),
                json!({ "labels": { "a": "b" }, "uid": "u", "name": "n" }),
                json!({ "annotations": { "a": "b" } }),
                json!({}),
            ] {
                let mut whole = json!({ "kind": "K", "apiVersion": "v1", "metadata": meta,
                    "spec": { "managedFields": 1, "metadata": { "managedFields": 2 } } });
                let without = encode(&whole);
                whole["metadata"]["managedFields"] = managed.clone();
                let stored = encode(&whole);
                let (value, apart) = live::read(&stored).expect("JSON");
                assert_eq!(apart, managed.to_string());
                assert_eq!(encode(&value), without);
                assert_eq!(encode_with(&value, &apart), stored);
                let (value, apart) = live::read(&without).expect("JSON");
                assert_eq!((encode(&value), apart), (without, Bytes::new()));
            }
        }
        assert!(live::read(&Bytes::from_static(b"{\"a\":1} x")).is_err());
    }

    #[test]
    fn words_come_out_as_they_went_in() {
        let long = "ä".repeat(40_000);
        let texts = ["", "a", "", &long, "\0"];
        let words = Words::of(texts.into_iter());
        assert!(words.iter().eq(texts));
        assert_eq!(Words::of([].into_iter()).iter().next(), None);
    }
}
