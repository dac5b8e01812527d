//! Watch: a cursor on the cache's ring of events, written out as frames that all watchers share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{FieldError, FieldPath, Status};
use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use rand::RngExt;
use registry::{Row, ServedVersion};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::convert::AskedConversion;
use super::list::{invalid_options, newest, read_number, read_revision, selection, unread};
use crate::cache::{Cursor, Event, EventType, Newest, Object, Objects, Selection, walk};
use crate::call::{Answer, Call};
use crate::codec;
use crate::http::body::Body;
use crate::http::negotiate::{Encoding, Shape};
use crate::metrics::requests::Watching;
use crate::metrics::watch_cache::{WatchFigures, watch_listed};
use crate::object::partial_metadata;
use crate::render;
use crate::state::State;
use crate::table;

/// Time between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Seconds that a watch lasts when the client gives no limit: a random number from here to twice
/// that, so that watches do not all end at once; as upstream.
const MIN_SECONDS: u64 = 1800;
/// A year: longer than any connection lasts.
const MAX_SECONDS: u64 = 365 * 86_400;
/// Events that are taken from the ring at once.
const BATCH: usize = 256;
/// Size of the chunks in which initial events are sent.
const CHUNK: usize = 64 * 1024;
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// How a watch begins.
struct Start {
    /// Written as ADDED before anything else.
    initial: Option<Objects>,
    cursor: Cursor,
    /// A bookmark ends the initial events.
    mark_initial: bool,
    revision: u64,
    /// When it was asked for.
    asked_at: Instant,
}

/// Watches objects.
pub async fn watch(call: &Call) -> Result<Answer, Status> {
    let seconds = read_number(call, "timeoutSeconds")?;
    check_options(call)?;
    let selection = selection(call)?;
    let start = match start(call, &selection).await {
        Ok(s) => s,
        // Upstream opens the stream and puts the error into it: what was asked for is too old, or
        // too new for this server.
        Err(s) if matches!(s.code, 410 | 504) => return Ok(failed(call, &s)),
        Err(s) => return Err(s),
    };
    let frames = Frames::new(call);
    let seconds = match seconds {
        0 => call
            .state
            .random()
            .random_range(MIN_SECONDS..MIN_SECONDS * 2),
        // Below zero it is over as soon as it begins, as upstream.
        n => u64::try_from(n).unwrap_or(0),
    };
    let end = Instant::now() + Duration::from_secs(seconds.min(MAX_SECONDS));
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let content_type = frames.content_type();
    let body = stream(call.state.clone(), selection, start, frames, bookmarks, end);
    let mut r = Response::new(Body::stream(body));
    r.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(Answer::Response(r))
}

fn check_options(call: &Call) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = FieldPath::new("resourceVersionMatch");
    let initial = call.query.tristate("sendInitialEvents");
    let wanted = call.query.get("resourceVersionMatch");
    if initial.is_some() && wanted != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&path, why));
    }
    if initial.is_some() && !call.state.has_feature("WatchList") {
        let why =
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        errors.push(FieldError::forbidden(
            &FieldPath::new("sendInitialEvents"),
            why,
        ));
    }
    if let Some(m) = wanted {
        if initial.is_none() {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if m != "NotOlderThan" {
            errors.push(FieldError::not_supported(&path, m, &["NotOlderThan"]));
        }
        if call.query.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    invalid_options(&errors)
}

async fn start(call: &Call, selection: &Selection) -> Result<Start, Status> {
    let (cache, asked_at) = (call.cache()?, Instant::now());
    let asked = read_revision(call.query.get("resourceVersion")).map_err(|e| unread(&e))?;
    // A watch that begins with the objects of now is one that asks for them, as upstream.
    let initial = match call.query.tristate("sendInitialEvents") {
        None if matches!(asked, None | Some(0)) => {
            call.state.has_feature("WatchList").then_some(true)
        }
        given => given,
    };
    match asked {
        // What is shown must be in the cache, which the watch goes on from: so it waits on where a
        // list would be read in the store, and fails in the end, as upstream's.
        None => {
            if let Newest::Stored(newest) = newest(call).await? {
                call.state.reach(newest).await?;
            }
        }
        Some(0) => {}
        // A list that streams waits for its revision; a plain watch waits by watching.
        Some(r) if initial == Some(true) => call.state.reach(r).await?,
        Some(r) => {
            let cursor = cache.after(r, selection);
            // It may have missed the moment from which one of them could not be read.
            cache.whole(selection)?;
            let cursor = cursor.map_err(|old| too_old(r, old.oldest))?;
            return Ok(Start {
                initial: None,
                cursor,
                mark_initial: false,
                revision: r,
                asked_at,
            });
        }
    }
    let revision = call.state.cache().revision();
    let (objects, cursor, shown) = cache.shown(selection)?;
    let send = initial.unwrap_or(true);
    Ok(Start {
        initial: send.then_some(objects),
        cursor,
        mark_initial: initial == Some(true) && call.query.flag("allowWatchBookmarks"),
        revision: revision.max(shown),
        asked_at,
    })
}

fn too_old(asked: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {asked} ({oldest})"))
}

fn failed(call: &Call, s: &Status) -> Answer {
    let frames = Frames::new(call);
    let mut r = Response::new(Body::from(frames.error(s)));
    r.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static(frames.content_type()),
    );
    Answer::Response(r)
}

type Piece = Result<Bytes, crate::http::body::BoxError>;

/// Frames to be sent together: a single one is passed on as it is, shared with other watchers.
#[derive(Default)]
struct Chunk {
    one: Option<Bytes>,
    many: BytesMut,
}

impl Chunk {
    fn push(&mut self, frame: Bytes) {
        if self.one.is_none() && self.many.is_empty() {
            self.one = Some(frame);
            return;
        }
        if let Some(first) = self.one.take() {
            self.many.extend_from_slice(&first);
        }
        self.many.extend_from_slice(&frame);
    }
    fn take(self) -> Option<Bytes> {
        self.one
            .or_else(|| (!self.many.is_empty()).then(|| self.many.freeze()))
    }
}

fn stream(
    state: State,
    selection: Selection,
    start: Start,
    mut frames: Frames,
    bookmarks: bool,
    end: Instant,
) -> impl futures::Stream<Item = Piece> + Send + 'static {
    let Start {
        initial,
        mut cursor,
        mark_initial,
        revision,
        asked_at,
    } = start;
    let watching = frames.watching(&state, &selection.namespace);
    async_stream::stream! {
        let _watching = watching;
        if let Some(objects) = initial {
            let chosen = walk(&objects, &selection.namespace, None);
            let first = frames.first_choice(&selection);
            if let Err(s) = frames.convert(chosen.filter(|o| first.matches(o))).await {
                yield Ok(frames.error(&s));
                return;
            }
            // Many small frames in few large chunks.
            let mut chunk = BytesMut::new();
            for o in walk(&objects, &selection.namespace, None).filter(|o| first.matches(o)) {
                if !selection.matches(frames.as_shown(o)) {
                    continue;
                }
                match frames.object(EventType::Added, o) {
                    Ok(frame) => chunk.extend_from_slice(&frame),
                    Err(s) => {
                        yield Ok(frames.error(&s));
                        return;
                    }
                }
                if chunk.len() >= CHUNK {
                    yield Ok(chunk.split().freeze());
                }
            }
            if !chunk.is_empty() {
                yield Ok(chunk.freeze());
            }
        }
        if mark_initial {
            let bookmark = frames.bookmark(revision, true);
            frames.whole(&selection, asked_at.elapsed());
            yield Ok(bookmark);
        }
        let mut sent = revision;
        // One for the end and for bookmarks, made once: it would be entered into a list that all
        // watchers share, and taken out again, for every event.
        let soon = move |now: Instant| if bookmarks { end.min(now + BOOKMARK_EVERY) } else { end };
        let timer = tokio::time::sleep_until(soon(Instant::now()));
        tokio::pin!(timer);
        let mut bookmark_is_due = false;
        loop {
            // Read before the events: everything up to it is in the ring by then, also what has
            // not woken this watcher. Only when it is wanted: all watchers share its lock.
            let progress = bookmark_is_due.then(|| state.cache().revision());
            let mut events = match cursor.take(BATCH) {
                Ok(e) => e,
                Err(old) => {
                    let whole = cursor.is_whole(&selection);
                    let why = whole.err().unwrap_or_else(|| too_old(sent, old.oldest));
                    yield Ok(frames.error(&why));
                    return;
                }
            };
            let more = events.len() == BATCH;
            events.retain(|e| cursor.is_news(e));
            // Few kinds are converted by others: what everybody else sees is chosen once.
            if frames.asked.is_some() {
                let shown = events.iter().flat_map(|e| frames.shown(e, &selection));
                let shown: Vec<_> = shown.cloned().collect();
                if let Err(s) = frames.convert(shown.iter()).await {
                    yield Ok(frames.error(&s));
                    return;
                }
            }
            let mut chunk = Chunk::default();
            for e in events {
                sent = e.revision.max(sent);
                if let Some((kind, object)) = frames.seen(&e, &selection) {
                    match frames.event(&e, kind, object) {
                        Ok(frame) => chunk.push(frame),
                        Err(s) => {
                            yield Ok(frames.error(&s));
                            return;
                        }
                    }
                }
            }
            if let Some(bytes) = chunk.take() {
                yield Ok(bytes);
            }
            if more {
                continue;
            }
            if cursor.is_closed() {
                return;
            }
            if let Some(progress) = progress {
                bookmark_is_due = false;
                sent = sent.max(progress);
                yield Ok(frames.bookmark(sent, false));
            }
            tokio::select! {
                biased;
                () = &mut timer => {
                    if timer.deadline() >= end {
                        return;
                    }
                    timer.as_mut().reset(soon(Instant::now()));
                    bookmark_is_due = true;
                }
                () = cursor.changed() => {}
            }
        }
    }
}

/// Writes frames in the client's form.
struct Frames {
    row: Arc<Row>,
    version: ServedVersion,
    encoding: Encoding,
    shape: Shape,
    stored: bool,
    figures: WatchFigures,
    rows: Option<table::Rows>,
    /// Column definitions go with the first row only.
    head_sent: bool,
    asked: Option<AskedConversion>,
    /// Those of the events at hand whose conversion had to be asked for, by the address of what
    /// they were, which is held here as well: an event knows two states of one key and revision.
    converted: HashMap<usize, (Arc<Object>, Arc<Object>)>,
}

fn address(object: &Object) -> usize {
    std::ptr::from_ref(object).addr()
}

impl Frames {
    fn new(call: &Call) -> Self {
        let rows = match &call.accept.shape {
            Shape::Table(v) => Some(table::Rows::new(call, v)),
            _ => None,
        };
        Self {
            row: call.row.clone(),
            version: call.version.clone(),
            encoding: call.accept.encoding,
            shape: call.accept.shape.clone(),
            stored: call.in_storage_version(),
            figures: WatchFigures::of(&call.row, &call.version.version),
            rows,
            head_sent: false,
            asked: AskedConversion::of(&call.row),
            converted: HashMap::new(),
        }
    }

    /// The watch among the server's figures.
    fn watching(&self, state: &State, namespace: &str) -> Watching {
        let (row, version) = (&self.row, &self.version.version);
        let metrics = &state.metrics().requests;
        metrics.watching(&row.group, version, &row.resource, namespace)
    }

    /// A list that was asked for as a watch has been sent.
    fn whole(&self, selection: &Selection, took: Duration) {
        let scope = match (selection.only_name(), selection.namespace.is_empty()) {
            (Some(_), _) => "resource",
            (None, false) => "namespace",
            (None, true) => "cluster",
        };
        watch_listed(&self.row, &self.version.version, scope, took);
    }

    /// Counts a frame that goes to the client.
    fn sent(&self, frame: Bytes) -> Bytes {
        self.figures.sent(frame.len());
        frame
    }

    /// Waits for the conversions of objects that are about to be written, all at once.
    fn convert<'a>(
        &mut self,
        objects: impl Iterator<Item = &'a Arc<Object>>,
    ) -> impl Future<Output = Result<(), Status>> + Send {
        let (objects, version): (Vec<_>, _) = match self.asked {
            Some(_) => (objects.cloned().collect(), self.api_version()),
            None => Default::default(),
        };
        async move {
            self.converted.clear();
            let Some(asked) = self.asked.as_ref().filter(|_| !objects.is_empty()) else {
                return Ok(());
            };
            let made = asked.objects(objects.clone(), &version).await?;
            let pairs = objects.iter().zip(made);
            let others = pairs.filter(|(old, new)| !Arc::ptr_eq(old, new));
            self.converted = others
                .map(|(old, new)| (address(old), (old.clone(), new)))
                .collect();
            Ok(())
        }
    }

    /// What is selected as far as it is known before conversions: fields differ by version.
    fn first_choice(&self, selection: &Selection) -> Selection {
        match self.asked {
            Some(_) => selection.without_fields(),
            None => selection.clone(),
        }
    }

    /// The object in the version of the request, if it was asked for.
    fn as_shown<'o>(&'o self, object: &'o Object) -> &'o Object {
        let found = self.converted.get(&address(object));
        found.map_or(object, |(_, converted)| converted)
    }

    /// The objects of an event that must be known in the version of the request.
    fn shown<'e>(&self, e: &'e Event, selection: &Selection) -> Vec<&'e Arc<Object>> {
        if self.asked.is_none() || !selection.asks_fields() {
            return e.seen(selection).map(|(_, o)| o).into_iter().collect();
        }
        let rest = selection.without_fields();
        e.states().filter(|o| rest.matches(o)).collect()
    }

    /// What the watcher sees of an event, if anything.
    fn seen<'e>(
        &self,
        e: &'e Event,
        selection: &Selection,
    ) -> Option<(EventType, &'e Arc<Object>)> {
        if self.asked.is_none() || !selection.asks_fields() {
            return e.seen(selection);
        }
        let rest = selection.without_fields();
        e.seen_by(&|o| rest.matches(o) && selection.matches(self.as_shown(o)))
    }

    fn content_type(&self) -> &'static str {
        match self.encoding {
            Encoding::Proto => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        }
    }

    fn event(&mut self, e: &Event, kind: EventType, object: &Object) -> Result<Bytes, Status> {
        let shared = self.stored && self.converted.is_empty();
        if shared && self.encoding != Encoding::Proto && self.shape == Shape::Full {
            return Ok(self.sent(e.frame(kind, object)));
        }
        self.object(kind, object)
    }

    fn object(&mut self, kind: EventType, o: &Object) -> Result<Bytes, Status> {
        let frame = self.object_frame(kind, o)?;
        Ok(self.sent(frame))
    }

    fn object_frame(&mut self, kind: EventType, o: &Object) -> Result<Bytes, Status> {
        let word = kind.word();
        let converted = self.converted.get(&address(o)).map(|(_, o)| o.clone());
        let o = converted.as_deref().unwrap_or(o);
        if self.encoding == Encoding::Proto {
            let (version, kind, raw) = match &self.shape {
                Shape::Metadata(mv) => (
                    format!("meta.k8s.io/{mv}"),
                    "PartialObjectMetadata",
                    render::metadata_proto(mv, o)?,
                ),
                _ => (
                    self.api_version(),
                    &*self.row.kind,
                    render::proto_of(&self.row, &self.version, o)?,
                ),
            };
            return Ok(proto_frame(word, &codec::envelope(&version, kind, &raw)));
        }
        Ok(match &self.shape {
            Shape::Full if self.stored => crate::cache::json_frame(word, o),
            Shape::Full => text_frame(word, &render::value_of(&self.row, &self.version, o)),
            Shape::Metadata(mv) => text_frame(word, &partial_metadata(mv, &o.to_value())),
            Shape::Table(_) => {
                let value = render::for_table(&self.row, &self.version, o);
                text_frame(word, &self.table(&value))
            }
        })
    }

    fn table(&mut self, value: &Value) -> Value {
        let Some(rows) = &self.rows else {
            return Value::Null;
        };
        let rv = value
            .pointer("/metadata/resourceVersion")
            .cloned()
            .unwrap_or_default();
        let mut table = rows.head(json!({ "resourceVersion": rv }));
        if self.head_sent {
            table["columnDefinitions"] = Value::Null;
        }
        self.head_sent = true;
        table["rows"] = json!([rows.row(value)]);
        table
    }

    fn api_version(&self) -> String {
        api::GroupVersion::new(&self.row.group, &self.version.version).to_string()
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let frame = self.bookmark_frame(revision, initial_end);
        self.sent(frame)
    }

    fn bookmark_frame(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let mut meta =
            json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_end {
            meta["annotations"] = json!({ INITIAL_END: "true" });
        }
        let mut value = match &self.shape {
            Shape::Metadata(mv) => json!({
                "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{mv}"),
            }),
            _ => json!({ "kind": self.row.kind, "apiVersion": self.api_version() }),
        };
        value["metadata"] = meta;
        if self.encoding == Encoding::Proto {
            return self.proto_bookmark(&value);
        }
        if matches!(self.shape, Shape::Table(_)) {
            let Some(rows) = &self.rows else {
                return Bytes::new();
            };
            let mut table = rows.head(json!({ "resourceVersion": revision.to_string() }));
            if self.head_sent {
                table["columnDefinitions"] = Value::Null;
            }
            table["rows"] = json!([rows.row(&value)]);
            return text_frame("BOOKMARK", &table);
        }
        text_frame("BOOKMARK", &value)
    }

    fn proto_bookmark(&self, value: &Value) -> Bytes {
        let word = |k: &str| value.get(k).and_then(Value::as_str).unwrap_or_default();
        let ty = match &self.shape {
            Shape::Metadata(_) => &codec::common().only_metadata,
            _ => &self.version.ty,
        };
        let mut bare = json!({ "metadata": value.get("metadata") });
        if let Some(meta) = bare.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("creationTimestamp");
        }
        match codec::to_proto(ty, &bare) {
            Ok(raw) => proto_frame(
                "BOOKMARK",
                &codec::envelope(word("apiVersion"), word("kind"), &raw),
            ),
            Err(s) => self.error_frame(&s),
        }
    }

    fn error(&self, s: &Status) -> Bytes {
        self.sent(self.error_frame(s))
    }

    fn error_frame(&self, s: &Status) -> Bytes {
        let value = s.to_json();
        if self.encoding == Encoding::Proto
            && let Ok(raw) = codec::to_proto(&codec::common().status, &value)
        {
            return proto_frame("ERROR", &codec::envelope("v1", "Status", &raw));
        }
        text_frame("ERROR", &value)
    }
}

/// The type comes first, as from upstream's server: by it a reader knows what the object is, and our
/// own takes an object's text only as it comes.
fn text_frame(word: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{word}\",\"object\":{object}}}\n").into()
}

/// A frame of the protobuf stream: its length in four bytes, then `WatchEvent`.
fn proto_frame(word: &str, enveloped: &[u8]) -> Bytes {
    let mut raw = Vec::with_capacity(enveloped.len() + 8);
    codec::put_field(&mut raw, 1, enveloped);
    let mut event = Vec::with_capacity(raw.len() + 24);
    codec::put_field(&mut event, 1, word.as_bytes());
    codec::put_field(&mut event, 2, &raw);
    let mut out = u32::try_from(event.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(&event);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_its_type_before_its_object() {
        let object = json!({ "kind": "PartialObjectMetadata", "metadata": { "name": "a\"b" } });
        let frame = text_frame("ADDED", &object);
        assert!(frame.starts_with(b"{\"type\":\"ADDED\",\"object\":{"));
        assert!(frame.ends_with(b"}\n"));
        let read: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(read, json!({ "type": "ADDED", "object": object }));
    }
}
