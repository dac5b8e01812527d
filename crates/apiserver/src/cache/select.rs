//! What a list or watch selects: namespace, labels and fields, compiled against a row so that
//! matching an object parses nothing.

use api::selector::Labels;
use api::{FieldSelector, LabelSelector, Status};
use registry::Row;

use super::object::Object;
use super::watch_lanes::{Key, Property};

/// Most values of a label by which a watch has lanes; its cursor reads and waits in each of them.
const MOST_VALUES: usize = 4;

impl Labels for Object {
    fn label(&self, key: &str) -> Option<&str> {
        Object::label(self, key)
    }
}

/// Where a field's value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldSource {
    Name,
    Namespace,
    /// The row's nth selectable field.
    Nth(usize),
}

/// A compiled selection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Empty for all namespaces.
    pub namespace: String,
    labels: LabelSelector,
    fields: Vec<(FieldSource, bool, String)>,
}

impl Selection {
    /// Compiles the texts of `labelSelector` and `fieldSelector`.
    pub fn new(row: &Row, namespace: &str, labels: &str, fields: &str) -> Result<Self, Status> {
        Self::of_version(row, &row.storage_version, namespace, labels, fields)
    }

    /// As [`Selection::new`], with the fields that a version offers.
    pub fn of_version(
        row: &Row,
        version: &str,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Self, Status> {
        Ok(Self {
            namespace: namespace.to_owned(),
            labels: LabelSelector::parse(labels)
                .map_err(|e| Status::bad_request(format!("unable to parse requirement: {e}")))?,
            fields: compile(row, version, fields)?,
        })
    }

    /// Whether it asks for fields that only the object shows, not its key.
    pub fn asks_fields(&self) -> bool {
        let mut places = self.fields.iter().map(|(place, ..)| place);
        places.any(|place| matches!(place, FieldSource::Nth(_)))
    }

    /// The selection without those fields.
    #[must_use]
    pub fn without_fields(&self) -> Self {
        let mut rest = self.clone();
        rest.fields
            .retain(|(place, ..)| !matches!(place, FieldSource::Nth(_)));
        rest
    }

    /// Narrows the selection to the one object whose name was authorized. Other fields are not
    /// asked for beside a name in the path, as upstream.
    pub fn named(mut self, name: &str) -> Result<Self, Status> {
        match self.only_name() {
            Some(own) if own == name => Ok(self),
            None if self.fields.is_empty() => {
                self.fields.push((FieldSource::Name, true, name.to_owned()));
                Ok(self)
            }
            _ => Err(Status::bad_request(
                "fieldSelector metadata.name doesn't match requested name",
            )),
        }
    }

    /// Everything is selected (within the namespace).
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    pub fn matches(&self, o: &Object) -> bool {
        self.in_namespace(o)
            && self.labels.matches(o)
            && self.fields.iter().all(|(place, equal, want)| {
                let have = match place {
                    FieldSource::Name => o.name(),
                    FieldSource::Namespace => o.namespace(),
                    FieldSource::Nth(n) => o.field(*n),
                };
                (have == want) == *equal
            })
    }

    fn in_namespace(&self, o: &Object) -> bool {
        self.namespace.is_empty() || o.namespace() == self.namespace
    }

    /// The single object that the selection can only be, by name.
    pub fn only_name(&self) -> Option<&str> {
        self.fields.iter().find_map(|(place, equal, want)| {
            (*place == FieldSource::Name && *equal).then_some(want.as_str())
        })
    }

    /// What selected objects have in common, as far as a cache distinguishes objects by it: each of
    /// them has one of these. Without any, all objects must be looked at.
    pub fn keys(&self, row: &Row) -> Vec<Key> {
        let namespace = self.only_namespace();
        let key = |property| Key {
            namespace: namespace.into(),
            property,
        };
        if let Some(name) = self.only_name() {
            return vec![key(Property::Name(name.into()))];
        }
        if let Some((nth, value)) = self.indexed(row) {
            return vec![key(Property::Field(nth, value.into()))];
        }
        if let Some((label, values)) = self.labels.demanded(MOST_VALUES) {
            let keys = values.iter().map(|value| {
                let (label, value) = (label.into(), value.as_str().into());
                key(Property::Label(label, value))
            });
            return keys.collect();
        }
        if namespace.is_empty() {
            return Vec::new();
        }
        vec![key(Property::Any)]
    }

    /// The namespace in which all selected objects lie; empty if they may lie anywhere.
    fn only_namespace(&self) -> &str {
        if !self.namespace.is_empty() {
            return &self.namespace;
        }
        let mut demanded = self
            .fields
            .iter()
            .filter(|(place, equal, _)| *place == FieldSource::Namespace && *equal);
        demanded
            .next()
            .map_or("", |(.., namespace)| namespace.as_str())
    }

    /// A demanded value of an indexed field: its number in the row and the value.
    pub fn indexed(&self, row: &Row) -> Option<(usize, &str)> {
        self.fields
            .iter()
            .find_map(|(place, equal, want)| match place {
                FieldSource::Nth(n)
                    if *equal && row.selectable_fields.get(*n).is_some_and(|f| f.indexed) =>
                {
                    Some((*n, want.as_str()))
                }
                _ => None,
            })
    }
}

fn compile(
    row: &Row,
    version: &str,
    text: &str,
) -> Result<Vec<(FieldSource, bool, String)>, Status> {
    let selector = FieldSelector::parse(text).map_err(Status::bad_request)?;
    let place = |name: &str| match name {
        "metadata.name" => Ok(FieldSource::Name),
        "metadata.namespace" => Ok(FieldSource::Namespace),
        _ => row
            .selectable_fields
            .iter()
            .position(|f| &*f.name == name)
            .filter(|_| row.may_select(version, name))
            .map(FieldSource::Nth)
            .ok_or_else(|| unknown_field(row, name)),
    };
    let terms = selector.requirements.into_iter();
    terms
        .map(|r| Ok((place(&r.field)?, !r.not, r.value)))
        .collect()
}

fn unknown_field(row: &Row, name: &str) -> Status {
    Status::bad_request(if row.selectable_fields.is_empty() {
        format!(
            "{name:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        )
    } else {
        format!("field label not supported: {name}")
    })
}
