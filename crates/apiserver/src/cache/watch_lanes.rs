//! Which watchers are woken by an event. Most watchers want one object, what one node has, what has
//! one label, or one namespace: each such key that is watched has a lane of its own in the ring of
//! events, so that an event costs nothing to those whom it does not concern. Nothing is kept of
//! what nobody watches, and an event looks only for the keys that its object has.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use clock::watch;

use super::object::Object;

/// What objects of a selection have in common, as far as a cache distinguishes them: where they lie,
/// and one thing that they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Empty for all namespaces.
    pub namespace: Box<str>,
    pub property: Property,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// All objects have it.
    Any,
    Name(Box<str>),
    /// A value of the row's nth selectable field, which is indexed.
    Field(usize, Box<str>),
    /// A label and its value.
    Label(Box<str>, Box<str>),
}

impl Property {
    fn is_of(&self, object: &Object) -> bool {
        match self {
            Self::Any => true,
            Self::Name(name) => object.name() == &**name,
            Self::Field(nth, value) => object.field(*nth) == &**value,
            Self::Label(label, value) => object.label(label) == Some(&**value),
        }
    }
}

impl Key {
    /// Whether a watcher of this key may see something of a change of an object, which was `prev`.
    pub(super) fn concerns(&self, object: &Object, prev: Option<&Object>) -> bool {
        let is_here = self.namespace.is_empty() || object.namespace() == &*self.namespace;
        let was_it = || prev.is_some_and(|prev| self.property.is_of(prev));
        is_here && (self.property.is_of(object) || was_it())
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
    pub changed: Arc<watch::Sender<()>>,
}

impl Lane {
    fn new(since: u64) -> Self {
        Self {
            events: VecDeque::new(),
            since,
            lost: 0,
            cursors: 0,
            changed: Arc::new(watch::Sender::new(())),
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

/// Lanes by the value that they are for. All tables are in order: so whoever an event wakes is woken
/// in the same order every time.
type ByValue = BTreeMap<Box<str>, Lane>;

/// Lets a cursor out; a lane without cursors goes.
fn leave(lanes: &mut ByValue, value: &str) {
    if let Some(lane) = lanes.get_mut(value) {
        lane.cursors -= 1;
        if lane.cursors == 0 {
            lanes.remove(value);
        }
    }
}

/// [`leave`], of the lanes of one field or label.
fn leave_one_of<K: Ord>(all: &mut BTreeMap<K, ByValue>, which: &K, value: &str) {
    if let Some(lanes) = all.get_mut(which) {
        leave(lanes, value);
        if lanes.is_empty() {
            all.remove(which);
        }
    }
}

/// The lanes of one namespace, or those across all.
#[derive(Default)]
struct Area {
    any: Option<Lane>,
    names: ByValue,
    fields: BTreeMap<usize, ByValue>,
    labels: BTreeMap<Box<str>, ByValue>,
}

impl Area {
    fn get(&self, property: &Property) -> Option<&Lane> {
        match property {
            Property::Any => self.any.as_ref(),
            Property::Name(name) => self.names.get(name),
            Property::Field(nth, value) => self.fields.get(nth)?.get(value),
            Property::Label(label, value) => self.labels.get(label)?.get(value),
        }
    }

    fn get_or_make(&mut self, property: &Property, next: u64) -> &mut Lane {
        let make = || Lane::new(next);
        match property {
            Property::Any => self.any.get_or_insert_with(make),
            Property::Name(name) => self.names.entry(name.clone()).or_insert_with(make),
            Property::Field(nth, value) => {
                let lanes = self.fields.entry(*nth).or_default();
                lanes.entry(value.clone()).or_insert_with(make)
            }
            Property::Label(label, value) => {
                let lanes = self.labels.entry(label.clone()).or_default();
                lanes.entry(value.clone()).or_insert_with(make)
            }
        }
    }

    fn leave(&mut self, property: &Property) {
        match property {
            Property::Any => {
                if let Some(lane) = &mut self.any {
                    lane.cursors -= 1;
                    if lane.cursors == 0 {
                        self.any = None;
                    }
                }
            }
            Property::Name(name) => leave(&mut self.names, name),
            Property::Field(nth, value) => leave_one_of(&mut self.fields, nth, value),
            Property::Label(label, value) => leave_one_of(&mut self.labels, label, value),
        }
    }

    fn is_empty(&self) -> bool {
        self.any.is_none()
            && self.names.is_empty()
            && self.fields.is_empty()
            && self.labels.is_empty()
    }

    /// Calls a function with each lane that this state of an object, which lies here, belongs to.
    fn of(&mut self, object: &Object, call: &mut impl FnMut(&mut Lane)) {
        if let Some(lane) = &mut self.any {
            call(lane);
        }
        if let Some(lane) = self.names.get_mut(object.name()) {
            call(lane);
        }
        for (nth, lanes) in &mut self.fields {
            if let Some(lane) = lanes.get_mut(object.field(*nth)) {
                call(lane);
            }
        }
        if self.labels.is_empty() {
            return;
        }
        for (label, value) in object.labels() {
            let lanes = self.labels.get_mut(label);
            if let Some(lane) = lanes.and_then(|lanes| lanes.get_mut(value)) {
                call(lane);
            }
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        let fields = self.fields.values_mut().flat_map(BTreeMap::values_mut);
        let labels = self.labels.values_mut().flat_map(BTreeMap::values_mut);
        let named = self.any.iter_mut().chain(self.names.values_mut());
        named.chain(fields).chain(labels)
    }
}

/// The lanes that have cursors.
#[derive(Default)]
pub(super) struct Lanes {
    everywhere: Area,
    namespaces: BTreeMap<Box<str>, Area>,
}

impl Lanes {
    pub fn get(&self, key: &Key) -> Option<&Lane> {
        let area = match &*key.namespace {
            "" => &self.everywhere,
            namespace => self.namespaces.get(namespace)?,
        };
        area.get(&key.property)
    }

    /// How many cursors are for all of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> usize {
        let lane = self.namespaces.get(namespace).and_then(|a| a.any.as_ref());
        lane.map_or(0, |lane| lane.cursors)
    }

    /// Lets a cursor in, at a moment when `next` is the number of the next event.
    pub fn enter(&mut self, key: &Key, next: u64) -> &mut Lane {
        let area = match &*key.namespace {
            "" => &mut self.everywhere,
            _ => self.namespaces.entry(key.namespace.clone()).or_default(),
        };
        let lane = area.get_or_make(&key.property, next);
        lane.cursors += 1;
        lane
    }

    /// Lets a cursor out.
    pub fn leave(&mut self, key: &Key) {
        if key.namespace.is_empty() {
            self.everywhere.leave(&key.property);
        } else if let Some(area) = self.namespaces.get_mut(&key.namespace) {
            area.leave(&key.property);
            if area.is_empty() {
                self.namespaces.remove(&key.namespace);
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
    ) -> Vec<Arc<watch::Sender<()>>> {
        let mut woken = Vec::new();
        let mut enter = |lane: &mut Lane| {
            // Both states may belong here.
            if lane.events.back() != Some(&number) {
                lane.trim(first);
                lane.events.push_back(number);
                woken.push(lane.changed.clone());
            }
        };
        // Most changes leave labels and fields as they were.
        let prev = prev.filter(|prev| !prev.is_selected_like(object));
        let here = match object.namespace() {
            "" => None,
            namespace => self.namespaces.get_mut(namespace),
        };
        for area in [Some(&mut self.everywhere), here].into_iter().flatten() {
            area.of(object, &mut enter);
            if let Some(prev) = prev {
                area.of(prev, &mut enter);
            }
        }
        woken
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Lane> {
        let areas = std::iter::once(&mut self.everywhere).chain(self.namespaces.values_mut());
        areas.flat_map(Area::all)
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

    /// Whether nothing is kept at all.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.namespaces.is_empty()
    }
}
