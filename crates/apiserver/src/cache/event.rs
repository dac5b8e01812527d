//! One change of one object, as the ring of a resource keeps it and watches show it.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use clock::Instant;
use parking_lot::Mutex;
use store::Revision;

use super::watch_lanes::Key;
use super::{Object, Selection};

/// What an event itself takes, about.
const EVENT_BYTES: usize = 256;

/// What happened to an object, as a watch names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
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
    pub(super) at: Instant,
    /// The previous state with this event's revision, for watchers whose selection it left.
    left: OnceLock<Arc<Object>>,
    frames: Mutex<[Option<Bytes>; 3]>,
}

impl Event {
    pub(super) fn new(object: Arc<Object>, prev: Option<Arc<Object>>, deleted: bool) -> Self {
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
    pub fn seen(&self, selection: &Selection) -> Option<(EventType, &Arc<Object>)> {
        self.seen_by(&|o| selection.matches(o))
    }

    /// The states that the event is about: the one before it, that with its revision, the new one.
    pub fn states(&self) -> impl Iterator<Item = &Arc<Object>> {
        let left = self.prev.is_some().then(|| self.left());
        let all = [self.prev.as_ref(), left, Some(&self.object)];
        all.into_iter().flatten()
    }

    /// What a watcher sees that chooses objects by a function.
    pub fn seen_by(&self, matches: &dyn Fn(&Object) -> bool) -> Option<(EventType, &Arc<Object>)> {
        let was = self.prev.as_ref().is_some_and(|o| matches(o));
        let is = !self.deleted && matches(&self.object);
        match (was, is) {
            (false, false) => None,
            (false, true) => Some((EventType::Added, &self.object)),
            (true, true) => Some((EventType::Modified, &self.object)),
            (true, false) if self.deleted => Some((EventType::Deleted, &self.object)),
            (true, false) => Some((EventType::Deleted, self.left())),
        }
    }

    /// Whether watchers of this key may see something of it.
    pub(super) fn concerns(&self, key: &Key) -> bool {
        key.concerns(&self.object, self.prev.as_deref())
    }

    fn left(&self) -> &Arc<Object> {
        self.left.get_or_init(|| match &self.prev {
            Some(prev) => Arc::new(prev.at(self.revision)),
            None => self.object.clone(),
        })
    }

    /// The JSON frame in the storage version.
    pub fn frame(&self, kind: EventType, object: &Object) -> Bytes {
        let make = || json_frame(kind.word(), object);
        let mut frames = self.frames.lock();
        match frames.get_mut(kind as usize) {
            Some(frame) => frame.get_or_insert_with(make).clone(),
            None => make(),
        }
    }

    /// A watcher that comes late has its frames made for it.
    pub(super) fn forget_frames(&self) {
        *self.frames.lock() = Default::default();
    }

    /// What the ring keeps from being freed with this event, about.
    pub(super) fn weight(&self) -> usize {
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
