//! The cache of one resource: a persistent ordered map of its objects, indexes over it, and a
//! ring of its latest events. Readers take a snapshot and hold no lock; watchers are cursors on
//! the ring. What cannot be read is in [`unread`].

mod unread;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::Status;
use clock::watch;
use futures::future::select_all;
use imbl::OrdMap;
use parking_lot::RwLock;
use registry::Row;
use store::Revision;

use super::event::Event;
use super::unreadable::{Contents, Unreadable};
use super::watch_lanes::{Key, Lanes};
use super::{Object, Selection};
use crate::metrics::watch_cache::CacheFigures;

/// Objects by key below the prefix.
pub type Objects = OrdMap<Arc<str>, Arc<Object>>;

/// Events that are kept however old they are.
const RING_MIN: usize = 128;
/// Events that are kept at most; a watcher that is further behind lists again.
const RING_MAX: usize = 20_000;
/// Bytes at most of what only the events keep: frames, and states that were replaced since.
const RING_BYTES: usize = 32 << 20;
/// How long events are kept.
#[derive(Clone, Copy)]
struct Window {
    min: usize,
    max: usize,
    bytes: usize,
    age: Duration,
}

const WINDOW: Window = Window {
    min: RING_MIN,
    max: RING_MAX,
    bytes: RING_BYTES,
    age: RING_AGE,
};
/// Age up to which events are kept: longer than a client's reconnection takes; as upstream.
const RING_AGE: Duration = Duration::from_secs(75);
/// Age up to which an event keeps its frames: watchers take them at once, and one that comes later
/// has them made for it.
const FRAME_AGE: Duration = Duration::from_secs(10);

struct State {
    window: Window,
    objects: Objects,
    /// Values that are stored and cannot be read, by key. None is among the objects.
    unreadable: BTreeMap<Arc<str>, Arc<Unreadable>>,
    /// By the number of the row's selectable field, then by value.
    indexes: Vec<(usize, HashMap<Box<str>, Objects>)>,
    events: VecDeque<Arc<Event>>,
    /// The weight of all events.
    event_bytes: usize,
    /// What all objects take, about.
    object_bytes: usize,
    /// Sequence number of the first event in the ring.
    first: u64,
    /// All events after this revision are in the ring.
    oldest: Revision,
    /// The revision at which everything was read: events up to it are no news.
    loaded: Revision,
    /// Cursors before this number were left behind when everything was replaced, or when an object
    /// could not be read, or could again.
    replaced: u64,
    lanes: Lanes,
    /// The row is no longer served as it was: no event comes any more.
    closed: bool,
}

/// The objects and latest events of one resource.
pub struct ResourceCache {
    pub row: Arc<Row>,
    pub figures: CacheFigures,
    state: RwLock<State>,
    /// Wakes the watchers that have no lane.
    changed: watch::Sender<()>,
    /// How many watchers have no lane.
    unlaned: AtomicUsize,
}

/// A reader fell out of the ring, or asks for a revision before it.
#[derive(Debug, PartialEq, Eq)]
pub struct TooOld {
    pub oldest: Revision,
}

impl ResourceCache {
    pub(super) fn new(row: Arc<Row>, oldest: Revision) -> Self {
        Self::with_window(row, oldest, WINDOW)
    }

    fn with_window(row: Arc<Row>, oldest: Revision, window: Window) -> Self {
        let fields = row.selectable_fields.iter().enumerate();
        let indexes = fields
            .filter(|(_, f)| f.indexed)
            .map(|(n, _)| (n, HashMap::new()));
        Self {
            state: RwLock::new(State {
                window,
                objects: Objects::new(),
                unreadable: BTreeMap::new(),
                indexes: indexes.collect(),
                events: VecDeque::new(),
                event_bytes: 0,
                object_bytes: 0,
                first: 0,
                oldest,
                loaded: oldest,
                replaced: 0,
                lanes: Lanes::default(),
                closed: false,
            }),
            changed: watch::Sender::new(()),
            unlaned: AtomicUsize::new(0),
            figures: CacheFigures::new(row.clone()),
            row,
        }
    }

    /// An object as it can be read now. [`ResourceCache::find`] distinguishes what is not there from
    /// what cannot be read.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn snapshot(&self) -> Objects {
        self.state.read().objects.clone()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// How many objects there are, and how many bytes they take as JSON, about.
    pub fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        (state.objects.len(), state.object_bytes)
    }

    /// Watchers that are sent each change in a namespace: those of everything and those of that
    /// namespace.
    pub fn watchers(&self, namespace: &str) -> usize {
        let of_namespace = self.state.read().lanes.of_namespace(namespace);
        self.unlaned.load(Ordering::Relaxed) + of_namespace
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects that a selection can only be among (one by name, or by index if it names an
    /// indexed field), and the revision of the newest change that they show. An error: it may ask
    /// for one that cannot be read.
    pub fn candidates(&self, selection: &Selection) -> Result<(Objects, Revision), Status> {
        let state = self.state.read();
        self.is_whole(&state, selection)?;
        let objects = self.narrowed(&state, selection);
        Ok((
            objects.unwrap_or_else(|| state.objects.clone()),
            state.newest(),
        ))
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

    /// The objects as they were at a revision that the ring still covers. While some cannot be read
    /// it says nothing: the store has to be asked.
    pub fn at(&self, revision: Revision) -> Result<Objects, TooOld> {
        let state = self.state.read();
        if revision < state.oldest || !state.unreadable.is_empty() {
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

    /// A cursor behind the newest event, for what is selected, with the objects at that moment and
    /// the revision of the newest change that they show. An error is as in
    /// [`ResourceCache::candidates`].
    pub fn shown(
        self: &Arc<Self>,
        selection: &Selection,
    ) -> Result<(Objects, Cursor, Revision), Status> {
        let mut state = self.state.write();
        self.is_whole(&state, selection)?;
        let cursor = self.cursor(&mut state, selection, None);
        Ok((state.objects.clone(), cursor, state.newest()))
    }

    /// A cursor behind the newest event, for who is only to be woken by changes.
    pub fn from_now(self: &Arc<Self>, selection: &Selection) -> Cursor {
        self.cursor(&mut self.state.write(), selection, None)
    }

    /// A cursor before the first event after a revision, for what is selected.
    pub fn after(
        self: &Arc<Self>,
        revision: Revision,
        selection: &Selection,
    ) -> Result<Cursor, TooOld> {
        let mut state = self.state.write();
        if revision < state.oldest {
            return Err(TooOld {
                oldest: state.oldest,
            });
        }
        let mut at = state.events.partition_point(|e| e.revision <= revision);
        // A client that lost its watch between two changes of one revision (the quotas that one
        // pod is charged to) sees both once more, rather than one of them never.
        let first = state.events.partition_point(|e| e.revision < revision);
        if at - first > 1 {
            at = first;
        }
        let next = state.first + at as u64;
        let ahead = (state.newest() < revision).then_some(revision);
        let mut cursor = self.cursor(&mut state, selection, Some(next));
        cursor.ahead = ahead;
        Ok(cursor)
    }

    /// A cursor before the event `next`, or behind all.
    fn cursor(
        self: &Arc<Self>,
        state: &mut State,
        selection: &Selection,
        next: Option<u64>,
    ) -> Cursor {
        let keys = selection.keys(&self.row);
        let (first, end) = (state.first, state.end());
        let next = next.unwrap_or(end);
        let State { lanes, events, .. } = state;
        let events = &*events;
        let mut wakes: Vec<_> = keys
            .iter()
            .map(|key| {
                let lane = lanes.enter(key, end);
                let concerns = |number: &u64| {
                    event_at(events, first, *number).is_some_and(|e| e.concerns(key))
                };
                let earlier = lane.missing_from(next).filter(concerns).collect();
                lane.prepend(earlier, next);
                lane.changed.subscribe()
            })
            .collect();
        if keys.is_empty() {
            self.unlaned.fetch_add(1, Ordering::Relaxed);
            wakes.push(self.changed.subscribe());
        }
        Cursor {
            cache: self.clone(),
            next,
            keys,
            wakes,
            ahead: None,
            closed: false,
        }
    }

    /// Applies a put or (without a new state) a deletion.
    pub(super) fn apply(&self, key: &str, new: Option<Arc<Object>>, revision: Revision) {
        self.figures.received();
        let mut state = self.state.write();
        // A row that came while the server ran may have been read at a newer revision.
        if revision <= state.loaded {
            return;
        }
        let own = new.as_ref().map_or(key, |o| &*o.key);
        let is_mended = state.unreadable.remove(own).is_some();
        let prev = match &new {
            Some(o) => state.objects.insert(o.key.clone(), o.clone()),
            None => state.objects.remove(key),
        };
        state.index(prev.as_ref(), new.as_ref());
        if is_mended {
            // No watcher has seen what was there.
            state.begin_again(revision);
            drop(state);
            self.figures.dispatched(revision);
            self.changed.send_modify(|_| {});
            return;
        }
        let deleted = new.is_none();
        let object = match (new, &prev) {
            (Some(o), _) => o,
            (None, Some(p)) => Arc::new(p.at(revision)),
            (None, None) => return,
        };
        let event = Arc::new(Event::new(object, prev, deleted));
        let number = state.end();
        state.event_bytes += event.weight();
        state.events.push_back(event.clone());
        state.trim();
        let first = state.first;
        let woken = state
            .lanes
            .push(&event.object, event.prev.as_deref(), number, first);
        drop(state);
        self.figures.dispatched(revision);
        self.changed.send_modify(|_| {});
        for lane in woken {
            lane.send_modify(|_| {});
        }
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

    /// Ends all watchers: the row is gone, another one has taken its place, or the server drains.
    pub(super) fn close(&self) {
        let mut state = self.state.write();
        state.closed = true;
        state.lanes.wake();
        drop(state);
        self.changed.send_modify(|_| {});
    }

    /// Replaces everything (after a gap in the store's watch): all watchers list again.
    pub(super) fn replace(&self, contents: Contents, revision: Revision) {
        let Contents {
            objects,
            unreadable,
        } = contents;
        let mut state = self.state.write();
        self.figures.replaced(objects.len(), revision);
        state.loaded = revision;
        state.objects = Objects::new();
        state.object_bytes = 0;
        for (_, index) in &mut state.indexes {
            index.clear();
        }
        for o in objects {
            state.index(None, Some(&o));
            state.objects.insert(o.key.clone(), o);
        }
        let unreadable = unreadable.into_iter();
        state.unreadable = unreadable.map(|u| (u.key.clone(), Arc::new(u))).collect();
        state.begin_again(revision);
        drop(state);
        self.changed.send_modify(|_| {});
    }
}

impl State {
    /// The number of the next event.
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The revision of the newest change; the objects show everything up to it.
    fn newest(&self) -> Revision {
        self.events.back().map_or(self.oldest, |e| e.revision)
    }

    /// Empties the ring: all watchers begin again, from this revision or a later one.
    fn begin_again(&mut self, revision: Revision) {
        let jump = self.end() + 1;
        self.events.clear();
        self.event_bytes = 0;
        self.first = jump;
        self.replaced = jump;
        self.oldest = revision;
        self.lanes.clear();
        self.lanes.wake();
    }

    fn index(&mut self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) {
        let bytes = |o: Option<&Arc<Object>>| o.map_or(0, |o| o.len_bound());
        self.object_bytes = (self.object_bytes + bytes(new)).saturating_sub(bytes(old));
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
        while self.events.len() > self.window.min {
            let Some(front) = self.events.front() else {
                break;
            };
            let Window { max, bytes, .. } = self.window;
            let fits = self.events.len() <= max && self.event_bytes <= bytes;
            if fits && front.at.elapsed() < self.window.age {
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
        self.lanes.trim(self.first);
        for event in self
            .events
            .iter()
            .take_while(|e| e.at.elapsed() > FRAME_AGE)
        {
            event.forget_frames();
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
    /// No event of interest before this number is still to be taken.
    next: u64,
    /// The lanes that have what it is for; without any, all events are looked at.
    keys: Vec<Key>,
    /// One of each lane, or that of all events.
    wakes: Vec<watch::Receiver<()>>,
    /// See [`Cursor::is_news`].
    ahead: Option<Revision>,
    /// See [`Cursor::is_closed`].
    closed: bool,
}

impl Cursor {
    /// The events since the last call, `max` at most; none when there are none yet, and fewer than
    /// `max` when these are all. They are all that the selection may see something of, and may be
    /// more.
    pub fn take(&mut self, max: usize) -> Result<Vec<Arc<Event>>, TooOld> {
        for wake in &mut self.wakes {
            wake.mark_seen();
        }
        let state = self.cache.state.read();
        self.closed = state.closed;
        let taken = if self.next < state.replaced {
            None
        } else if self.keys.is_empty() {
            in_ring(&state, self.next, max)
        } else {
            in_lanes(&state, &self.keys, self.next, max)
        };
        let Some((events, next)) = taken else {
            // One whose objects were all replaced is not to blame.
            if self.next >= state.replaced {
                self.cache.figures.left_behind();
            }
            return Err(TooOld {
                oldest: state.oldest,
            });
        };
        self.next = next;
        Ok(events)
    }

    /// Whether all objects that may be selected can be read: what a cursor fell behind for may be
    /// that one of them cannot.
    pub fn is_whole(&self, selection: &Selection) -> Result<(), Status> {
        self.cache.whole(selection)
    }

    /// Whether an event that was taken is news to a client that knows everything up to the revision
    /// which the cursor was made after. It may have that from the store, or from another server,
    /// before this cache comes to it. Of several changes of the very revision it knows the first, and
    /// perhaps no other. To be asked for each event, in their order.
    pub fn is_news(&mut self, event: &Event) -> bool {
        let Some(known) = self.ahead else { return true };
        if event.revision >= known {
            self.ahead = None;
        }
        event.revision > known
    }

    /// Whether no event comes any more after those that were there at the last [`Cursor::take`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Waits for an event after those taken.
    pub async fn changed(&mut self) {
        let ended = match &mut *self.wakes {
            [wake] => wake.changed().await.is_err(),
            wakes => {
                let waits = wakes.iter_mut().map(|wake| Box::pin(wake.changed()));
                select_all(waits).await.0.is_err()
            }
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            self.cache.unlaned.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let mut state = self.cache.state.write();
        for key in &self.keys {
            state.lanes.leave(key);
        }
    }
}

/// Events that a cursor takes, and where it then is; `None` when some are gone.
type TakenEvents = Option<(Vec<Arc<Event>>, u64)>;

fn in_ring(state: &State, next: u64, max: usize) -> TakenEvents {
    let skip = usize::try_from(next.checked_sub(state.first)?).ok()?;
    let rest = state.events.range(skip.min(state.events.len())..);
    let events: Vec<_> = rest.take(max).cloned().collect();
    let next = next + events.len() as u64;
    Some((events, next))
}

fn in_lanes(state: &State, keys: &[Key], next: u64, max: usize) -> TakenEvents {
    let mut numbers: Vec<u64> = Vec::new();
    for key in keys {
        let lane = state.lanes.get(key)?;
        if next < lane.lost {
            return None;
        }
        let skip = lane.events.partition_point(|number| *number < next);
        // One more than is taken: there the next call goes on.
        numbers.extend(lane.events.range(skip..).take(max.saturating_add(1)));
    }
    if keys.len() > 1 {
        numbers.sort_unstable();
        numbers.dedup();
    }
    let mut events = Vec::with_capacity(numbers.len().min(max));
    for number in numbers.iter().take(max) {
        events.push(event_at(&state.events, state.first, *number)?.clone());
    }
    let next = numbers.get(max).copied().unwrap_or_else(|| state.end());
    Some((events, next))
}

/// The event of this number, if the ring, which begins with the event `first`, has it.
fn event_at(events: &VecDeque<Arc<Event>>, first: u64, number: u64) -> Option<&Arc<Event>> {
    events.get(usize::try_from(number.checked_sub(first)?).ok()?)
}

#[cfg(test)]
mod tests;
