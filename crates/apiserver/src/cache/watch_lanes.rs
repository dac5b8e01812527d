//! Which watchers are woken by an event. Most watchers want one object, what one node has, or one
//! namespace: each such key that is watched has a lane of its own in the ring of events, so that an
//! event costs nothing to those whom it does not concern.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use clock::watch;

use super::object::Object;

/// What all objects of a selection have in common; the narrowest that a cache distinguishes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The one object with this key below the prefix.
    Object(Box<str>),
    /// A value of the row's nth selectable field, which is indexed.
    Field(usize, Box<str>),
    Namespace(Box<str>),
}

impl Key {
    /// Whether a watcher of this key may see something of a change of an object, which was `prev`.
    pub(super) fn concerns(&self, object: &Object, prev: Option<&Object>) -> bool {
        match self {
            Self::Object(key) => *object.key == **key,
            Self::Namespace(namespace) => object.namespace() == &**namespace,
            Self::Field(nth, value) => {
                let has = |o: &Object| o.field(*nth) == &**value;
                has(object) || prev.is_some_and(has)
            }
        }
    }
}

/// The events of the ring that concern one key.
pub(super) struct Lane {
    /// Their numbers, in order.
    pub events: VecDeque<u64>,
    /// Events from this number on are here.
    since: u64,
    /// An event before this number was here, and is no longer in the ring.
    pub lost: u64,
    cursors: usize,
    /// Wakes the cursors.
    pub changed: Arc<watch::Sender<u64>>,
}

impl Lane {
    fn new(since: u64) -> Self {
        Self {
            events: VecDeque::new(),
            since,
            lost: 0,
            cursors: 0,
            changed: Arc::new(watch::Sender::new(since)),
        }
    }

    /// The number from which on events are to be looked for, so that a cursor can begin there.
    pub fn missing_from(&self, number: u64) -> std::ops::Range<u64> {
        number.min(self.since)..self.since
    }

    /// Enters earlier events: all that concern the key from a number on.
    pub fn prepend(&mut self, earlier: Vec<u64>, since: u64) {
        for number in earlier.into_iter().rev() {
            self.events.push_front(number);
        }
        self.since = self.since.min(since);
    }

    /// Forgets what the ring, which begins with the event `first`, has no longer.
    fn trim(&mut self, first: u64) {
        while let Some(gone) = self.events.pop_front_if(|event| *event < first) {
            self.lost = gone + 1;
        }
        if self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }
}

type Named = HashMap<Box<str>, Lane>;

/// The lanes that have cursors.
#[derive(Default)]
pub(super) struct Lanes {
    objects: Named,
    namespaces: Named,
    /// By the number of the selectable field, in order: an event wakes in the same one every time.
    fields: BTreeMap<usize, Named>,
}

impl Lanes {
    pub fn get(&self, key: &Key) -> Option<&Lane> {
        match key {
            Key::Object(key) => self.objects.get(key),
            Key::Namespace(namespace) => self.namespaces.get(namespace),
            Key::Field(nth, value) => self.fields.get(nth)?.get(value),
        }
    }

    /// How many cursors a namespace's lane has.
    pub fn of_namespace(&self, namespace: &str) -> usize {
        self.namespaces
            .get(namespace)
            .map_or(0, |lane| lane.cursors)
    }

    fn named(&mut self, key: &Key) -> (&mut Named, Box<str>) {
        match key {
            Key::Object(key) => (&mut self.objects, key.clone()),
            Key::Namespace(namespace) => (&mut self.namespaces, namespace.clone()),
            Key::Field(nth, value) => (self.fields.entry(*nth).or_default(), value.clone()),
        }
    }

    /// Lets a cursor in, at a moment when `next` is the number of the next event.
    pub fn enter(&mut self, key: &Key, next: u64) -> &mut Lane {
        let (named, name) = self.named(key);
        let lane = named.entry(name).or_insert_with(|| Lane::new(next));
        lane.cursors += 1;
        lane
    }

    /// Lets a cursor out; a lane without cursors goes.
    pub fn leave(&mut self, key: &Key) {
        let (named, name) = self.named(key);
        if let Some(lane) = named.get_mut(&name) {
            lane.cursors -= 1;
            if lane.cursors == 0 {
                named.remove(&name);
            }
        }
    }

    /// Enters the event of this number, a change of an object which was `prev`, into the lanes that
    /// it concerns; gives what wakes them. `first` is the number of the ring's first event.
    pub fn push(
        &mut self,
        object: &Object,
        prev: Option<&Object>,
        number: u64,
        first: u64,
    ) -> Vec<Arc<watch::Sender<u64>>> {
        let mut concerned: Vec<&mut Lane> = Vec::new();
        concerned.extend(self.objects.get_mut(&*object.key));
        concerned.extend(self.namespaces.get_mut(object.namespace()));
        let mut woken = Vec::new();
        let mut enter = |lane: &mut Lane| {
            lane.trim(first);
            lane.events.push_back(number);
            woken.push(lane.changed.clone());
        };
        concerned.into_iter().for_each(&mut enter);
        for (nth, named) in &mut self.fields {
            let now = object.field(*nth);
            named.get_mut(now).into_iter().for_each(&mut enter);
            let was = prev.map(|o| o.field(*nth));
            if let Some(was) = was.filter(|was| *was != now) {
                named.get_mut(was).into_iter().for_each(&mut enter);
            }
        }
        woken
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        let fields = self.fields.values_mut().flat_map(HashMap::values_mut);
        let objects = self.objects.values_mut();
        objects.chain(self.namespaces.values_mut()).chain(fields)
    }

    /// Forgets, in all lanes, what the ring has no longer.
    pub fn trim(&mut self, first: u64) {
        self.all().for_each(|lane| lane.trim(first));
    }

    /// The ring was emptied.
    pub fn clear(&mut self) {
        self.all().for_each(|lane| lane.events.clear());
    }

    /// Wakes all cursors.
    pub fn wake(&mut self) {
        self.all().for_each(|lane| lane.changed.send_modify(|_| {}));
    }
}
