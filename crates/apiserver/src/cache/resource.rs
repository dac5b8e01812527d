//! The cache of one resource: a persistent ordered map of its objects, indexes over it, and a
//! ring of its latest events. Readers take a snapshot and hold no lock; watchers are cursors on
//! the ring.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clock::Instant;
use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use registry::Row;
use store::Revision;
use tokio::sync::watch;

use super::{Object, Selection};

/// Objects by key below the prefix.
pub type Objects = OrdMap<Arc<str>, Arc<Object>>;

/// Events that are kept however old they are.
const RING_MIN: usize = 128;
/// Events that are kept at most; a watcher that is further behind lists anew.
const RING_MAX: usize = 20_000;
/// Bytes at most of what only the events keep: frames, and states that were replaced since.
const RING_BYTES: usize = 32 << 20;
/// What an event itself takes, about.
const EVENT_BYTES: usize = 256;
/// Age up to which events are kept: longer than a client's reconnection takes; as upstream.
const RING_AGE: Duration = Duration::from_secs(75);
/// Age up to which an event keeps its frames: watchers take them at once, and one that comes later
/// has them made for it.
const FRAME_AGE: Duration = Duration::from_secs(10);

/// What happened to an object, as a watch names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change of one object. Its frames are made once and shared by all watchers.
pub struct Event {
    pub revision: Revision,
    /// The new state; for a deletion the last one, with the deletion's revision.
    pub object: Arc<Object>,
    pub prev: Option<Arc<Object>>,
    pub deleted: bool,
    at: Instant,
    /// The previous state with this event's revision, for watchers whose selection it left.
    left: OnceLock<Arc<Object>>,
    frames: Mutex<[Option<Bytes>; 3]>,
}

impl Event {
    fn new(object: Arc<Object>, prev: Option<Arc<Object>>, deleted: bool) -> Self {
        Self {
            revision: object.revision,
            object,
            prev,
            deleted,
            at: Instant::now(),
            left: OnceLock::new(),
            frames: Mutex::default(),
        }
    }

    /// What a watcher with this selection sees, if anything.
    pub fn seen(&self, selection: &Selection) -> Option<(Kind, &Arc<Object>)> {
        let was = self.prev.as_ref().is_some_and(|o| selection.matches(o));
        let is = !self.deleted && selection.matches(&self.object);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some((Kind::Added, &self.object)),
            (true, true) => Some((Kind::Modified, &self.object)),
            (true, false) if self.deleted => Some((Kind::Deleted, &self.object)),
            (true, false) => Some((Kind::Deleted, self.left())),
        }
    }

    fn left(&self) -> &Arc<Object> {
        self.left.get_or_init(|| match &self.prev {
            Some(prev) => Arc::new(prev.at(self.revision)),
            None => self.object.clone(),
        })
    }

    /// The JSON frame in the storage version.
    pub fn frame(&self, kind: Kind, object: &Object) -> Bytes {
        let make = || json_frame(kind.word(), object);
        let mut frames = self.frames.lock();
        match frames.get_mut(kind as usize) {
            Some(frame) => frame.get_or_insert_with(make).clone(),
            None => make(),
        }
    }

    /// What the ring keeps from being freed with this event, about.
    fn weight(&self) -> usize {
        let prev = self.prev.as_ref().map_or(0, |o| o.len_bound());
        EVENT_BYTES + self.object.len_bound() + prev
    }
}

/// A watch frame: `{"type":…,"object":…}` and a line feed.
pub fn json_frame(word: &str, object: &Object) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len_bound() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(word.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object.write(&mut out);
    out.extend_from_slice(b"}\n");
    out.freeze()
}

#[derive(Default)]
struct State {
    objects: Objects,
    /// By the number of the row's selectable field, then by value.
    indexes: Vec<(usize, HashMap<Box<str>, Objects>)>,
    events: VecDeque<Arc<Event>>,
    /// The weight of all events.
    event_bytes: usize,
    /// Sequence number of the first event in the ring.
    first: u64,
    /// All events after this revision are in the ring.
    oldest: Revision,
    /// The row is no longer served as it was: no event comes any more.
    closed: bool,
}

/// The objects and latest events of one resource.
pub struct ResourceCache {
    pub row: Arc<Row>,
    state: RwLock<State>,
    /// The number of events ever; wakes the watchers.
    changed: watch::Sender<u64>,
}

/// A reader fell out of the ring, or asks for a revision before it.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld {
    pub oldest: Revision,
}

impl ResourceCache {
    pub(super) fn new(row: Arc<Row>, oldest: Revision) -> Self {
        let fields = row.selectable_fields.iter().enumerate();
        let indexes = fields
            .filter(|(_, f)| f.indexed)
            .map(|(n, _)| (n, HashMap::new()));
        Self {
            state: RwLock::new(State {
                indexes: indexes.collect(),
                oldest,
                ..State::default()
            }),
            changed: watch::Sender::new(0),
            row,
        }
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn snapshot(&self) -> Objects {
        self.state.read().objects.clone()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that a selection can only be among (one by name, or by index if it names an
    /// indexed field), and the revision of the newest change that they show.
    pub fn candidates(&self, selection: &Selection) -> (Objects, Revision) {
        let state = self.state.read();
        let objects = self.narrowed(&state, selection);
        (
            objects.unwrap_or_else(|| state.objects.clone()),
            state.newest(),
        )
    }

    fn narrowed(&self, state: &State, selection: &Selection) -> Option<Objects> {
        if let Some(name) = selection.only_name()
            && (!selection.namespace.is_empty() || !self.row.namespaced)
        {
            let key = if self.row.namespaced {
                format!("{}/{name}", selection.namespace)
            } else {
                name.to_owned()
            };
            let found = state.objects.get(key.as_str());
            return Some(
                found
                    .map(|o| (o.key.clone(), o.clone()))
                    .into_iter()
                    .collect(),
            );
        }
        let (nth, value) = selection.indexed(&self.row)?;
        let (_, index) = state.indexes.iter().find(|(n, _)| *n == nth)?;
        Some(index.get(value).cloned().unwrap_or_default())
    }

    /// The objects as they were at a revision that the ring still covers.
    pub fn at(&self, revision: Revision) -> Result<Objects, TooOld> {
        let state = self.state.read();
        if revision < state.oldest {
            return Err(TooOld {
                oldest: state.oldest,
            });
        }
        let mut objects = state.objects.clone();
        for e in state
            .events
            .iter()
            .rev()
            .take_while(|e| e.revision > revision)
        {
            match &e.prev {
                Some(prev) => objects.insert(prev.key.clone(), prev.clone()),
                None => objects.remove(&e.object.key),
            };
        }
        Ok(objects)
    }

    /// A cursor behind the newest event, with the objects at that moment.
    pub fn now(self: &Arc<Self>) -> (Objects, Cursor) {
        let (objects, cursor, _) = self.shown();
        (objects, cursor)
    }

    /// [`ResourceCache::now`] with the revision of the newest change that the objects show.
    pub fn shown(self: &Arc<Self>) -> (Objects, Cursor, Revision) {
        let state = self.state.read();
        let next = state.first + state.events.len() as u64;
        (state.objects.clone(), self.cursor(next), state.newest())
    }

    /// A cursor before the first event after a revision.
    pub fn after(self: &Arc<Self>, revision: Revision) -> Result<Cursor, TooOld> {
        let state = self.state.read();
        if revision < state.oldest {
            return Err(TooOld {
                oldest: state.oldest,
            });
        }
        let at = state.events.partition_point(|e| e.revision <= revision);
        Ok(self.cursor(state.first + at as u64))
    }

    fn cursor(self: &Arc<Self>, next: u64) -> Cursor {
        Cursor {
            cache: self.clone(),
            next,
            wake: self.changed.subscribe(),
        }
    }

    /// Applies a put or (without a new state) a deletion.
    pub(super) fn apply(&self, key: &str, new: Option<Arc<Object>>, revision: Revision) {
        let mut state = self.state.write();
        // A row that came while the server ran may have been read at a newer revision.
        if revision <= state.oldest {
            return;
        }
        let prev = match &new {
            Some(o) => state.objects.insert(o.key.clone(), o.clone()),
            None => state.objects.remove(key),
        };
        state.index(prev.as_ref(), new.as_ref());
        let deleted = new.is_none();
        let object = match (new, &prev) {
            (Some(o), _) => o,
            (None, Some(p)) => Arc::new(p.at(revision)),
            (None, None) => return,
        };
        let event = Event::new(object, prev, deleted);
        state.event_bytes += event.weight();
        state.events.push_back(Arc::new(event));
        state.trim();
        let ever = state.first + state.events.len() as u64;
        drop(state);
        self.changed.send_replace(ever);
    }

    /// Frees what time has made needless. Called every few seconds.
    pub(super) fn tidy(&self) {
        self.state.write().tidy();
    }

    /// Drops the forms of objects that nobody asked for since the last call.
    pub(super) fn drop_idle_forms(&self) {
        for object in self.snapshot().values() {
            object.drop_idle_forms();
        }
    }

    /// Ends all watchers: the row is gone, or another one has taken its place.
    pub(super) fn close(&self) {
        self.state.write().closed = true;
        self.changed.send_modify(|_| {});
    }

    /// Replaces everything (after a gap in the store's watch): all watchers list anew.
    pub(super) fn replace(&self, objects: Vec<Arc<Object>>, revision: Revision) {
        let mut state = self.state.write();
        let jump = state.first + state.events.len() as u64 + 1;
        state.objects = Objects::new();
        state.events.clear();
        state.event_bytes = 0;
        state.first = jump;
        state.oldest = revision;
        for (_, index) in &mut state.indexes {
            index.clear();
        }
        for o in objects {
            state.index(None, Some(&o));
            state.objects.insert(o.key.clone(), o);
        }
        drop(state);
        self.changed.send_replace(jump);
    }
}

impl State {
    /// The revision of the newest change; the objects show everything up to it.
    fn newest(&self) -> Revision {
        self.events.back().map_or(self.oldest, |e| e.revision)
    }

    fn index(&mut self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        for (nth, index) in &mut self.indexes {
            if let Some(o) = old
                && let Some(map) = index.get_mut(o.field(*nth))
            {
                map.remove(&o.key);
                if map.is_empty() {
                    index.remove(o.field(*nth));
                }
            }
            if let Some(o) = new {
                let map = index.entry(o.field(*nth).into()).or_default();
                map.insert(o.key.clone(), o.clone());
            }
        }
    }

    fn trim(&mut self) {
        while self.events.len() > RING_MIN {
            let Some(front) = self.events.front() else {
                break;
            };
            let fits = self.events.len() <= RING_MAX && self.event_bytes <= RING_BYTES;
            if fits && front.at.elapsed() < RING_AGE {
                break;
            }
            self.oldest = front.revision;
            self.first += 1;
            self.event_bytes -= front.weight();
            self.events.pop_front();
        }
    }

    /// [`State::trim`] for a resource that may not change again, with its tables.
    fn tidy(&mut self) {
        self.trim();
        for event in self
            .events
            .iter()
            .take_while(|e| e.at.elapsed() > FRAME_AGE)
        {
            *event.frames.lock() = Default::default();
        }
        if self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }
}

/// Objects of a map whose keys begin with `namespace/` (or all), from a key on.
pub fn walk<'a>(
    objects: &'a Objects,
    namespace: &str,
    from: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
    let prefix = if namespace.is_empty() {
        String::new()
    } else {
        format!("{namespace}/")
    };
    let start = match from {
        Some(f) if f > prefix.as_str() => f.to_owned(),
        _ => prefix.clone(),
    };
    objects
        .range::<_, str>((Bound::Included(start.as_str()), Bound::Unbounded))
        .take_while(move |(k, _)| k.starts_with(&prefix))
        .map(|(_, o)| o)
}

/// A watcher's place in the ring.
pub struct Cursor {
    cache: Arc<ResourceCache>,
    next: u64,
    wake: watch::Receiver<u64>,
}

impl Cursor {
    /// The events since the last call, `max` at most; none when there are none yet.
    pub fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        self.wake.borrow_and_update();
        let state = self.cache.state.read();
        let Some(skip) = self.next.checked_sub(state.first) else {
            return Err(TooOld {
                oldest: state.oldest,
            });
        };
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(state.events.len());
        let got: Vec<_> = state.events.range(skip..).take(max).cloned().collect();
        self.next += got.len() as u64;
        Ok(got)
    }

    /// Whether no event comes any more after those that [`Cursor::take`] gives.
    pub fn is_closed(&self) -> bool {
        self.cache.state.read().closed
    }

    /// Waits for an event after those taken.
    pub async fn changed(&mut self) {
        if self.wake.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
