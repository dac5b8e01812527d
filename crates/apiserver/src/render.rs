//! Answers in the form the client accepts. The common form, JSON in the storage version, is the
//! stored bytes with the revision spliced in; the others are made from the object, once.

use std::sync::Arc;

use api::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use registry::{Conversion, Row, ServedVersion};
use schema::Type;
use serde_json::{Value, json};

use crate::cache::{Form, FormKey, Object};
use crate::call::{Answer, Call, List};
use crate::codec;
use crate::http::body::Body;
use crate::http::negotiate::{Accept, Encoding, JSON, Shape};
use crate::http::respond::{self, CHUNK, chunked, respond};
use crate::object::partial_metadata;
use crate::table;

/// The response to a verb's answer.
pub fn answer(call: &Call, answer: Answer) -> Response<Body> {
    let made = match answer {
        Answer::Response(r) => Ok(r),
        Answer::Status(s) => return respond::status(&s),
        Answer::Object { code, object } => self::object(call, code, &object),
        Answer::Value { code, value, ty } => self::value(call, code, value, ty.as_ref()),
        Answer::List(l) => list(call, l),
    };
    made.unwrap_or_else(|s| respond::status(&s))
}

/// The answer as JSON, whatever form the client wants; none if it would be larger than that, or
/// is not an object.
pub fn whole_json(call: &Call, answer: &Answer, most_bytes: usize) -> Option<Bytes> {
    let (row, version) = (&*call.row, &call.version);
    match answer {
        Answer::Response(_) => None,
        Answer::Status(s) => Some(s.to_json().to_string().into()),
        Answer::Value { value, .. } => Some(value.to_string().into()),
        Answer::Object { object, .. } => {
            let mut out = BytesMut::with_capacity(object.len_bound());
            write_json(row, version, object, &mut out);
            Some(out.freeze())
        }
        Answer::List(list) => {
            let size: usize = list.objects.iter().map(|o| o.len_bound()).sum();
            if size > most_bytes {
                return None;
            }
            let head = json!({ "kind": row.list_kind, "apiVersion": api_version(row, version), "metadata": list_meta(list) });
            let mut head = head.to_string();
            head.pop();
            head.push_str(",\"items\":[");
            let mut out = BytesMut::with_capacity(head.len() + size + 2);
            out.put_slice(head.as_bytes());
            for (nth, object) in list.objects.iter().enumerate() {
                if nth > 0 {
                    out.put_u8(b',');
                }
                write_json(row, version, object, &mut out);
            }
            out.put_slice(b"]}");
            Some(out.freeze())
        }
    }
}

fn form_key(row: &Row, version: &ServedVersion, form: Form) -> FormKey {
    FormKey {
        group: row.group.clone(),
        version: version.version.clone(),
        form,
    }
}

fn stored_as(row: &Row, version: &ServedVersion) -> bool {
    row.group == row.storage_group && version.version == row.storage_version
}

/// The object in a served version, as a value.
pub fn value_of(row: &Row, version: &ServedVersion, object: &Object) -> Value {
    let mut v = object.to_value();
    match &row.conversion {
        Conversion::Pure if stored_as(row, version) => {}
        Conversion::Pure => row.strategy.convert(&mut v, &version.version, &row.group),
        // The verb has waited for it.
        Conversion::Asked(_) => {}
    }
    v
}

/// The object as the columns of a version read it: those of built-in kinds read the stored form.
pub fn for_table(row: &Row, version: &ServedVersion, object: &Object) -> Value {
    match version.own {
        Some(_) => value_of(row, version, object),
        None => object.to_value(),
    }
}

/// Appends the object as JSON in a served version.
pub fn write_json(row: &Row, version: &ServedVersion, object: &Object, out: &mut BytesMut) {
    if stored_as(row, version) {
        object.write(out);
        return;
    }
    let key = form_key(row, version, Form::Json);
    let Ok(made) = object.form(&key, || {
        Ok::<_, std::convert::Infallible>(Bytes::from(value_of(row, version, object).to_string()))
    });
    out.put_slice(&made);
}

/// The object's protobuf message, without envelope.
pub fn proto_of(row: &Row, version: &ServedVersion, object: &Object) -> Result<Bytes, Status> {
    object.form(&form_key(row, version, Form::Proto), || {
        codec::to_proto(&version.ty, &value_of(row, version, object)).map(Bytes::from)
    })
}

/// `PartialObjectMetadata` of an object, as JSON.
pub fn metadata_json(meta_version: &str, object: &Object) -> Bytes {
    let key = FormKey {
        group: "meta.k8s.io".into(),
        version: meta_version.into(),
        form: Form::MetaJson,
    };
    let made = object.form(&key, || {
        let v = partial_metadata(meta_version, &object.to_value());
        Ok::<_, std::convert::Infallible>(Bytes::from(v.to_string()))
    });
    made.unwrap_or_default()
}

/// `PartialObjectMetadata` as a protobuf message.
pub fn metadata_proto(meta_version: &str, object: &Object) -> Result<Bytes, Status> {
    let key = FormKey {
        group: "meta.k8s.io".into(),
        version: meta_version.into(),
        form: Form::MetaProto,
    };
    object.form(&key, || {
        let v = object.to_value();
        let meta = v.get("metadata").cloned().unwrap_or_default();
        let raw = codec::to_proto(&codec::common().object_meta, &meta)?;
        let mut out = Vec::with_capacity(raw.len() + 6);
        codec::put_field(&mut out, 1, &raw);
        Ok(Bytes::from(out))
    })
}

fn api_version(row: &Row, version: &ServedVersion) -> String {
    api::GroupVersion::new(&row.group, &version.version).to_string()
}

fn object(call: &Call, code: u16, o: &Object) -> Result<Response<Body>, Status> {
    let (row, version, accept) = (&*call.row, &call.version, &call.accept);
    let whole = match (&accept.shape, accept.encoding) {
        (Shape::Full, Encoding::Json) if !accept.pretty => {
            let mut out = BytesMut::with_capacity(o.len_bound());
            write_json(row, version, o, &mut out);
            return Ok(respond(code, JSON, out.freeze()));
        }
        (Shape::Full, Encoding::Proto) => {
            let raw = proto_of(row, version, o)?;
            let all = codec::envelope(&api_version(row, version), &row.kind, &raw);
            return Ok(respond(code, accept.content_type(), all));
        }
        (Shape::Metadata(mv), Encoding::Proto) => {
            let raw = metadata_proto(mv, o)?;
            let v = format!("meta.k8s.io/{mv}");
            let all = codec::envelope(&v, "PartialObjectMetadata", &raw);
            return Ok(respond(code, accept.content_type(), all));
        }
        (Shape::Full, _) => value_of(row, version, o),
        (Shape::Metadata(mv), _) => partial_metadata(mv, &o.to_value()),
        (Shape::Table(tv), _) => {
            table::of_objects(call, tv, std::slice::from_ref(&for_table(row, version, o)))
        }
    };
    Ok(text(accept, code, &whole))
}

/// A value as JSON or YAML.
fn text(accept: &Accept, code: u16, value: &Value) -> Response<Body> {
    match accept.encoding {
        Encoding::Yaml => {
            let yaml = serde_norway::to_string(value).unwrap_or_default();
            respond(code, accept.content_type(), yaml)
        }
        Encoding::Json if accept.pretty => respond(
            code,
            JSON,
            serde_json::to_string_pretty(value).unwrap_or_default(),
        ),
        _ => respond(code, JSON, value.to_string()),
    }
}

fn value(
    call: &Call,
    code: u16,
    value: Value,
    ty: Option<&Type>,
) -> Result<Response<Body>, Status> {
    let accept = &call.accept;
    let whole = match &accept.shape {
        Shape::Table(tv) => table::of_objects(call, tv, std::slice::from_ref(&value)),
        Shape::Metadata(mv) => partial_metadata(mv, &value),
        Shape::Full => return Ok(whole(accept, code, &value, ty)),
    };
    Ok(text(accept, code, &whole))
}

/// A value itself, in the encoding that is accepted. What has no protobuf form is answered as JSON;
/// the content type says so.
pub fn whole(accept: &Accept, code: u16, value: &Value, ty: Option<&Type>) -> Response<Body> {
    if accept.encoding == Encoding::Proto
        && let Some(Ok(raw)) = ty.map(|ty| codec::to_proto(ty, value))
    {
        let word = |k: &str| value.get(k).and_then(Value::as_str);
        let version = word("apiVersion").unwrap_or("v1");
        let all = codec::envelope(version, word("kind").unwrap_or_default(), &raw);
        return respond(code, accept.content_type(), all);
    }
    text(accept, code, value)
}

/// How each item of a list is written.
enum Item {
    Stored,
    Version(Arc<Row>, ServedVersion),
    Metadata(String),
    Row(Arc<Row>, ServedVersion, table::Rows),
}

impl Item {
    fn write(&self, o: &Object, out: &mut BytesMut) {
        match self {
            Self::Stored => o.write_item(out),
            Self::Version(row, v) => write_json(row, v, o, out),
            Self::Metadata(mv) => out.put_slice(&metadata_json(mv, o)),
            Self::Row(row, v, rows) => {
                out.put_slice(rows.row(&for_table(row, v, o)).to_string().as_bytes());
            }
        }
    }
}

fn list_meta(l: &List) -> Value {
    let mut meta = json!({ "resourceVersion": l.revision.to_string() });
    if !l.next.is_empty() {
        meta["continue"] = l.next.clone().into();
        if let Some(n) = l.remaining {
            meta["remainingItemCount"] = n.into();
        }
    }
    meta
}

fn list(call: &Call, mut l: List) -> Result<Response<Body>, Status> {
    let (row, version, accept) = (&call.row, &call.version, &call.accept);
    let meta = list_meta(&l);
    if accept.encoding == Encoding::Proto {
        // A list without objects has no form either where its objects have none.
        let (table, id) = (version.ty.table(), version.ty.id());
        if accept.shape == Shape::Full && !table.get(id).has_proto() {
            let none = schema::ProtoError::NoForm(version.ty.name().to_string());
            return Err(Status::not_acceptable(none.to_string()));
        }
        return proto_list(call, &l, &meta);
    }
    let (head, item) = match &accept.shape {
        Shape::Full => (
            json!({ "kind": row.list_kind, "apiVersion": api_version(row, version), "metadata": meta }),
            if stored_as(row, version) {
                Item::Stored
            } else {
                Item::Version(row.clone(), version.clone())
            },
        ),
        Shape::Metadata(mv) => (
            json!({ "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{mv}"), "metadata": meta }),
            Item::Metadata(mv.clone()),
        ),
        Shape::Table(tv) => {
            let rows = table::Rows::new(call, tv);
            if let Some(rank) = row.strategy.table_rank() {
                // Stable: within a rank they stay in the order of their names.
                l.objects.sort_by_cached_key(|o| rank(&o.to_value()));
            }
            (
                rows.head(meta),
                Item::Row(row.clone(), version.clone(), rows),
            )
        }
    };
    let mut first = head.to_string();
    first.pop();
    first.push_str(match item {
        Item::Row(..) => ",\"rows\":[",
        _ => ",\"items\":[",
    });
    let pieces = pieces(first, item, l.objects);
    if accept.encoding == Encoding::Yaml || accept.pretty {
        let all: Vec<u8> = pieces.flat_map(|b| b.to_vec()).collect();
        let v: Value = serde_json::from_slice(&all).map_err(Status::internal)?;
        return Ok(text(accept, 200, &v));
    }
    Ok(chunked(pieces, JSON, accept.gzip))
}

/// The list in pieces of about [`CHUNK`] bytes, each made when the socket wants it.
fn pieces(
    first: String,
    item: Item,
    objects: Vec<Arc<Object>>,
) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut first = Some(first);
    let mut objects = objects.into_iter();
    let (mut comma, mut done) = (false, false);
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let mut out = BytesMut::with_capacity(CHUNK + CHUNK / 4);
        if let Some(head) = first.take() {
            out.put_slice(head.as_bytes());
        }
        while out.len() < CHUNK {
            let Some(o) = objects.next() else {
                out.put_slice(b"]}\n");
                done = true;
                break;
            };
            if comma {
                out.put_u8(b',');
            }
            comma = true;
            item.write(&o, &mut out);
        }
        Some(out.freeze())
    })
}

fn proto_list(call: &Call, l: &List, meta: &Value) -> Result<Response<Body>, Status> {
    let (row, version) = (&*call.row, &call.version);
    let (gv, kind) = match &call.accept.shape {
        Shape::Metadata(mv) => (format!("meta.k8s.io/{mv}"), "PartialObjectMetadataList"),
        _ => (api_version(row, version), &*row.list_kind),
    };
    let items: Vec<Bytes> = l
        .objects
        .iter()
        .map(|o| match &call.accept.shape {
            Shape::Metadata(mv) => metadata_proto(mv, o),
            _ => proto_of(row, version, o),
        })
        .collect::<Result<_, _>>()?;
    let mut list_meta = Vec::new();
    let raw = codec::to_proto(&codec::common().list_meta, meta)?;
    codec::put_field(&mut list_meta, 1, &raw);
    let total = list_meta.len()
        + items
            .iter()
            .map(|i| codec::field_len(i.len()))
            .sum::<usize>();
    let mut first = codec::envelope_head(&gv, kind, total);
    first.extend_from_slice(&list_meta);
    let mut first = Some(first);
    let mut items = items.into_iter().peekable();
    let pieces = std::iter::from_fn(move || {
        let mut out = first.take().unwrap_or_default();
        while out.len() < CHUNK {
            let Some(item) = items.next() else { break };
            codec::put_field(&mut out, 2, &item);
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    });
    Ok(chunked(
        pieces,
        call.accept.content_type(),
        call.accept.gzip,
    ))
}
