//! Label selectors and node selectors: matching, printing
//! (documentation "Labels and Selectors"); field selectors have a file of their own.

mod fields;
mod parse;
#[cfg(test)]
mod tests;

pub use fields::{FieldRequirement, FieldSelector};

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::names;
use parse::Parser;

/// What labels are looked up in.
pub trait Labels {
    fn label(&self, key: &str) -> Option<&str>;
}
impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}
impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}
impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}
impl<T: Labels + ?Sized> Labels for &T {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}
impl<T: Labels> Labels for Option<T> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref()?.label(key)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operator {
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement of a label selector or a node selector in the API's words; none if the
    /// operator is not one of them.
    pub fn of_node(key: &str, operator: &str, values: Option<&[String]>) -> Option<Self> {
        let operator = match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::GreaterThan,
            "Lt" => Operator::LessThan,
            _ => return None,
        };
        Some(Self {
            key: key.to_owned(),
            operator,
            values: values.unwrap_or_default().to_vec(),
        })
    }

    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let value = labels.label(&self.key);
        let listed = || value.is_some_and(|v| self.values.iter().any(|x| x == v));
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Equals | Operator::In => listed(),
            Operator::NotEquals | Operator::NotIn => !listed(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
                    (Some(v), Some(b)) if self.operator == Operator::GreaterThan => v > b,
                    (Some(v), Some(b)) => v < b,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, values, .. } = self;
        let first = values.first().map_or("", String::as_str);
        match self.operator {
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

/// All requirements must hold; none hold for everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all: what a missing selector means in most places.
    pub nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }
    pub fn nothing() -> Self {
        Self {
            nothing: true,
            requirements: Vec::new(),
        }
    }
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
    /// A label that every match has, and the values of which it has one: of the requirements that
    /// name `most` values at most, the one that names fewest.
    pub fn demanded(&self, most: usize) -> Option<(&str, &[String])> {
        let of_values = |r: &&Requirement| {
            matches!(r.operator, Operator::Equals | Operator::In) && r.values.len() <= most
        };
        let all = self.requirements.iter().filter(of_values);
        all.min_by_key(|r| r.values.len())
            .map(|r| (r.key.as_str(), r.values.as_slice()))
    }
    /// A plain map, as a Service's or ReplicationController's selector.
    pub fn from_map<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = map.into_iter().map(|(k, v)| equals(k, v)).collect();
        Self {
            requirements,
            nothing: false,
        }
    }

    /// The string form: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let requirements = Parser::new(text).requirements()?;
        for r in &requirements {
            check(r)?;
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// The object form with `matchLabels` and `matchExpressions`; null selects nothing, `{}`
    /// everything.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let Some(fields) = value.as_object() else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        let labels = fields.get("matchLabels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            requirements.push(equals(key, value.as_str().unwrap_or_default()));
        }
        let expressions = fields.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            requirements.push(expression_of(expression)?);
        }
        for r in &requirements {
            check(r)?;
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }
}

/// One term of a selector of nodes: all its requirements must hold. A term without any, or with
/// one that cannot be read, selects no node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
    nothing: bool,
}

/// A requirement of a selector of nodes in the API's words: key, operator and values.
pub type Required<'a> = (&'a str, &'a str, Option<&'a [String]>);

/// The one field of nodes that may be selected by.
struct Name<'a>(&'a str);

impl Labels for Name<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        (key == "metadata.name").then_some(self.0)
    }
}

impl NodeTerm {
    /// Of `matchExpressions` and `matchFields`.
    pub fn new<'a>(
        labels: impl IntoIterator<Item = Required<'a>>,
        fields: impl IntoIterator<Item = Required<'a>>,
    ) -> Self {
        let read =
            |(key, operator, values): Required<'a>| Requirement::of_node(key, operator, values);
        let labels: Option<Vec<_>> = labels.into_iter().map(read).collect();
        let fields: Option<Vec<_>> = fields.into_iter().map(read).collect();
        let is_read = labels.is_some() && fields.is_some();
        let (labels, fields) = (labels.unwrap_or_default(), fields.unwrap_or_default());
        Self {
            nothing: !is_read || labels.is_empty() && fields.is_empty(),
            labels,
            fields,
        }
    }

    /// The nodes that it names, where it names them: no others can match. None are left where it names
    /// some and others at once.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut named = self.fields.iter().filter(|r| r.operator == Operator::In);
        let first = named.next()?.values.iter().map(String::as_str);
        let mut out: Vec<&str> = first.collect();
        for other in named {
            out.retain(|name| other.values.iter().any(|value| value == name));
        }
        Some(out)
    }

    /// Whether it selects a node of this name, with these labels.
    pub fn matches(&self, name: &str, labels: &(impl Labels + ?Sized)) -> bool {
        !self.nothing
            && self.labels.iter().all(|r| r.matches(labels))
            && self.fields.iter().all(|r| r.matches(&Name(name)))
    }
}

fn equals(key: &str, value: &str) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: Operator::Equals,
        values: vec![value.to_owned()],
    }
}

fn expression_of(value: &Value) -> Result<Requirement, String> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let values = value.get("values").and_then(Value::as_array);
    let values: Vec<String> = values
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let operator = match text("operator") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        other => return Err(format!("{other:?} is not a valid label selector operator")),
    };
    Ok(Requirement {
        key: text("key").to_owned(),
        operator,
        values,
    })
}

/// Keys, values and their number, as upstream checks them.
fn check(r: &Requirement) -> Result<(), String> {
    let invalid = |what: &str, text: &str, why: &[String]| {
        Err(format!(
            "{what}: Invalid value: {text:?}: {}",
            why.join("; ")
        ))
    };
    let problems = names::is_qualified_name(&r.key);
    if !problems.is_empty() {
        return invalid("key", &r.key, &problems);
    }
    match r.operator {
        Operator::In | Operator::NotIn if r.values.is_empty() => {
            return Err(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                    .into(),
            );
        }
        Operator::Exists | Operator::DoesNotExist if !r.values.is_empty() => {
            return Err(
                "values: Invalid value: values set must be empty for exists and does not exist"
                    .into(),
            );
        }
        Operator::GreaterThan | Operator::LessThan => {
            let number = r.values.len() == 1 && r.values[0].parse::<i64>().is_ok();
            if !number {
                return Err(
                    "values: Invalid value: for 'Gt', 'Lt' operators, the value must be an integer"
                        .into(),
                );
            }
        }
        _ => {}
    }
    for value in &r.values {
        let problems = names::is_valid_label_value(value);
        if !problems.is_empty() {
            return invalid(&format!("values[0][{}]", r.key), value, &problems);
        }
    }
    Ok(())
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}
