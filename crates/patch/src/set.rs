//! Sets of field paths, as `fieldsV1` writes them: a tree whose edges are path elements.
//! A path element is kept as its own key in `fieldsV1` (`f:spec`, `k:{"name":"a"}`, `v:1`, `i:0`),
//! so that reading and writing need no further structure.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Bytes of paths that [`Set::paths`] gives: some thousand usual ones.
const MAX_SHOWN_BYTES: usize = 128 << 10;

/// One step of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct PathElement(Box<str>);

impl PathElement {
    /// A field of a struct or a key of a map.
    pub fn field(name: &str) -> Self {
        Self(format!("f:{name}").into())
    }
    /// An item of a keyed list, by the values of its keys.
    pub fn key(pairs: Vec<(&str, Value)>) -> Self {
        // The map sorts the keys, so that equal keys have equal text.
        let map: std::collections::BTreeMap<&str, Value> =
            pairs.into_iter().map(|(k, v)| (k, canonical(v))).collect();
        Self(format!("k:{}", serde_json::to_string(&map).unwrap_or_default()).into())
    }
    /// An item of a set.
    pub fn value(v: &Value) -> Self {
        Self(format!("v:{}", canonical(v.clone())).into())
    }
    /// The name of a field, if it is one.
    pub fn as_field(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }
    /// As it is written in `fieldsV1`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Reads a key of `fieldsV1`; elements of unknown kinds are an error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("missing colon: {text:?}"));
        };
        let json = || {
            serde_json::from_str::<Value>(rest)
                .map_err(|e| format!("error parsing path element {text:?}: {e}"))
        };
        match kind {
            "f" => Ok(Self(text.into())),
            "v" => Ok(Self::value(&json()?)),
            "k" => match json()? {
                Value::Object(o) => Ok(Self::key(
                    o.iter().map(|(k, v)| (k.as_str(), v.clone())).collect(),
                )),
                _ => Err(format!("key is not an object: {text:?}")),
            },
            "i" if rest.parse::<u32>().is_ok() => Ok(Self(text.into())),
            _ => Err(format!("unknown path element: {text:?}")),
        }
    }

    /// As messages show it: `.spec`, `[name="a"]`, `[="x"]`, `[0]`.
    pub fn show(&self, out: &mut String) {
        let (kind, rest) = self.0.split_once(':').unwrap_or(("f", &self.0));
        match kind {
            "f" => {
                out.push('.');
                out.push_str(rest);
            }
            "k" => {
                let map: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let pairs: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let _ = write!(out, "[{}]", pairs.join(","));
            }
            "v" => {
                let _ = write!(out, "[={rest}]");
            }
            _ => {
                let _ = write!(out, "[{rest}]");
            }
        }
    }
}

/// Whole numbers in one form, whether they came as `1` or `1.0`.
fn canonical(v: Value) -> Value {
    match v.as_f64() {
        Some(f) if v.is_f64() && f.fract() == 0.0 && f.abs() < 9e15 =>
        {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "whole and in range: checked"
            )]
            Value::from(f as i64)
        }
        _ => v,
    }
}

/// A set of paths. Sorted by element; a node is a member, or has children, or both.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Set {
    nodes: Vec<Node>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Node {
    element: PathElement,
    member: bool,
    children: Set,
}

/// Decides membership and what is below an element that one or both of two sets have.
type Choice<'a> = &'a dyn Fn(Option<&Node>, Option<&Node>) -> (bool, Set);

impl Set {
    pub fn new() -> Self {
        Self::default()
    }
    /// A set of dotted field paths (`metadata.name`), for tables in code.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::new();
        for path in paths {
            let path: Vec<PathElement> = path.split('.').map(PathElement::field).collect();
            set.insert(&path);
        }
        set
    }
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// Adds a path; the empty path is not a member of any set.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let node = self.node_mut(first);
        if rest.is_empty() {
            node.member = true;
        } else {
            node.children.insert(rest);
        }
    }
    fn node_mut(&mut self, element: &PathElement) -> &mut Node {
        let at = match self.find(element) {
            Ok(at) => at,
            Err(at) => {
                let node = Node {
                    element: element.clone(),
                    member: false,
                    children: Set::new(),
                };
                self.nodes.insert(at, node);
                at
            }
        };
        &mut self.nodes[at]
    }
    fn find(&self, element: &PathElement) -> Result<usize, usize> {
        // Elements come mostly in order: look at the end first.
        match self.nodes.last() {
            Some(last) if last.element < *element => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|n| n.element.cmp(element)),
        }
    }
    /// Adds one element with all below it. Used by builders that go bottom up.
    pub(crate) fn put(&mut self, element: PathElement, member: bool, children: Set) {
        if member || !children.is_empty() {
            let node = self.node_mut(&element);
            node.member |= member;
            node.children = if node.children.is_empty() {
                children
            } else {
                node.children.union(&children)
            };
        }
    }
    /// Whether this very path is a member.
    pub fn has(&self, path: &[PathElement]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        self.child(first).is_some_and(|(member, children)| {
            if rest.is_empty() {
                member
            } else {
                children.has(rest)
            }
        })
    }
    /// Membership of an element, and what lies below it.
    pub fn child(&self, element: &PathElement) -> Option<(bool, &Set)> {
        let node = self.nodes.get(self.find(element).ok()?)?;
        Some((node.member, &node.children))
    }
    /// The elements of this level, with their membership and what lies below.
    pub fn iter(&self) -> impl Iterator<Item = (&PathElement, bool, &Set)> {
        self.nodes
            .iter()
            .map(|n| (&n.element, n.member, &n.children))
    }

    #[must_use]
    pub fn union(&self, other: &Set) -> Set {
        self.combine(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => (a.member || b.member, a.children.union(&b.children)),
            (Some(n), None) | (None, Some(n)) => (n.member, n.children.clone()),
            (None, None) => (false, Set::new()),
        })
    }
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        self.combine(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => (a.member && b.member, a.children.intersection(&b.children)),
            _ => (false, Set::new()),
        })
    }
    /// Members of this set that are not members of the other.
    #[must_use]
    pub fn difference(&self, other: &Set) -> Set {
        self.combine(other, &|a, b| match (a, b) {
            (Some(a), Some(b)) => (a.member && !b.member, a.children.difference(&b.children)),
            (Some(a), None) => (a.member, a.children.clone()),
            _ => (false, Set::new()),
        })
    }
    /// As [`Set::difference`]; a member of the other set also takes away all that lies below it.
    #[must_use]
    pub fn without_trees(&self, other: &Set) -> Set {
        if other.is_empty() {
            return self.clone();
        }
        self.combine(other, &|a, b| match (a, b) {
            (Some(_), Some(b)) if b.member => (false, Set::new()),
            (Some(a), Some(b)) => (a.member, a.children.without_trees(&b.children)),
            (Some(a), None) => (a.member, a.children.clone()),
            _ => (false, Set::new()),
        })
    }
    fn combine(&self, other: &Set, choose: Choice<'_>) -> Set {
        let (mut a, mut b) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        let mut out = Set::new();
        loop {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return out,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(x), Some(y)) => x.element.cmp(&y.element),
            };
            let left = if order.is_le() { a.next() } else { None };
            let right = if order.is_ge() { b.next() } else { None };
            let (member, children) = choose(left, right);
            if (member || !children.is_empty())
                && let Some(node) = left.or(right)
            {
                out.nodes.push(Node {
                    element: node.element.clone(),
                    member,
                    children,
                });
            }
        }
    }
    /// Whether the two have a member in common; cheaper than the intersection.
    pub fn intersects(&self, other: &Set) -> bool {
        self.nodes.iter().any(|n| {
            other
                .child(&n.element)
                .is_some_and(|(m, c)| (m && n.member) || n.children.intersects(c))
        })
    }
    /// Members that have no members below them.
    #[must_use]
    pub fn leaves(&self) -> Set {
        let nodes = self.nodes.iter().map(|n| Node {
            element: n.element.clone(),
            member: n.member && n.children.is_empty(),
            children: n.children.leaves(),
        });
        Set {
            nodes: nodes.collect(),
        }
    }
    /// The members as messages show them, in order. Of many, or of very long ones, the first:
    /// a path repeats the client's own names, so that all of them may be far more than the set.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out, &mut { MAX_SHOWN_BYTES });
        out
    }
    fn collect(&self, prefix: &mut String, out: &mut Vec<String>, left: &mut usize) {
        for n in &self.nodes {
            if *left == 0 {
                return;
            }
            let length = prefix.len();
            n.element.show(prefix);
            if n.member {
                *left = left.saturating_sub(prefix.len());
                out.push(prefix.clone());
            }
            n.children.collect(prefix, out, left);
            prefix.truncate(length);
        }
    }
    /// Marks nodes that only have children as members where `named` says so (see apply).
    pub(crate) fn nodes_mut(
        &mut self,
    ) -> impl Iterator<Item = (&PathElement, &mut bool, &mut Set)> {
        self.nodes
            .iter_mut()
            .map(|n| (&n.element, &mut n.member, &mut n.children))
    }

    /// Reads `fieldsV1`.
    pub fn from_json(fields: &Value) -> Result<Set, String> {
        match fields {
            Value::Null => Ok(Set::new()),
            fields => Set::deserialize(fields).map_err(|e| e.to_string()),
        }
    }
    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// As `fieldsV1`.
impl Serialize for Set {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        self.write(&mut map)?;
        map.end()
    }
}

impl Set {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        for node in &self.nodes {
            map.serialize_entry(node.element.as_str(), &Below(node))?;
        }
        Ok(())
    }
}

/// What stands behind a node's element.
struct Below<'a>(&'a Node);

impl Serialize for Below<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Node {
            member, children, ..
        } = self.0;
        let mut map = out.serialize_map(None)?;
        if *member && !children.is_empty() {
            map.serialize_entry(".", &Map::new())?;
        }
        children.write(&mut map)?;
        map.end()
    }
}

/// From `fieldsV1`.
impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(Level).map(|(_, set)| set)
    }
}

/// Reads one level of `fieldsV1`. The second is the set; the first says whether `.` was there or
/// nothing at all.
struct Level;

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Level {
    type Value = (bool, Set);
    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = (bool, Set);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of fieldsV1")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut member, mut empty, mut nodes) = (false, true, Vec::new());
        while let Some(Key(key)) = members.next_key()? {
            empty = false;
            if key == "." {
                member = true;
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            let element = PathElement::parse(&key).map_err(serde::de::Error::custom)?;
            let (member, children) = members.next_value_seed(Level)?;
            nodes.push(Node {
                element,
                member,
                children,
            });
        }
        nodes.sort_by(|a, b| a.element.cmp(&b.element));
        nodes.dedup_by(|b, a| a.element == b.element);
        Ok((member || empty, Set { nodes }))
    }
}
