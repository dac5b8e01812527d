//! Named amounts, as `requests`, `limits`, `hard` and `used` hold them.

use std::collections::{BTreeMap, BTreeSet};

use api::Quantity;
use serde_json::{Map, Value};

/// How much of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amounts(BTreeMap<String, Quantity>);

impl Amounts {
    /// Reads an object of amounts; what is not an amount is left out, since the API never stores such.
    pub fn read(value: Option<&Value>) -> Self {
        let members = value.and_then(Value::as_object).into_iter().flatten();
        let read = |(name, v): (&String, &Value)| {
            let amount = match v {
                Value::String(text) => text.parse().ok()?,
                Value::Number(number) => number.to_string().parse().ok()?,
                _ => return None,
            };
            Some((name.clone(), amount))
        };
        Self(members.filter_map(read).collect())
    }

    pub fn write(&self) -> Value {
        let members = self.0.iter();
        let members: Map<String, Value> = members
            .map(|(name, q)| (name.clone(), q.to_string().into()))
            .collect();
        Value::Object(members)
    }

    pub fn get(&self, name: &str) -> Option<&Quantity> {
        self.0.get(name)
    }
    pub fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        self.0.insert(name.into(), amount);
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Quantity)> {
        self.0.iter().map(|(name, q)| (name.as_str(), q))
    }
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds to one resource.
    pub fn add_to(&mut self, name: &str, amount: Quantity) {
        let sum = self.0.entry(name.to_owned()).or_default();
        *sum = *sum + amount;
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            self.add_to(name, *amount);
        }
    }

    /// Of each resource the larger amount.
    pub fn at_least(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            if self.get(name).is_none_or(|own| own < amount) {
                self.set(name, *amount);
            }
        }
    }

    /// What this has more than another, of each resource that either has; never less than nothing.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for name in self.names().chain(other.names()) {
            let of = |all: &Self| all.get(name).copied().unwrap_or_default();
            let more = of(self) - of(other);
            out.set(name, more.max(Quantity::ZERO));
        }
        out
    }

    /// Only these resources.
    #[must_use]
    pub fn masked(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|name, _| keep(name));
        self
    }

    #[must_use]
    pub fn without_zeros(mut self) -> Self {
        self.0.retain(|_, amount| !amount.is_zero());
        self
    }

    /// As refusals show them: `cpu=1,pods=2`.
    pub fn show(&self) -> String {
        let each: Vec<String> = self.iter().map(|(n, q)| format!("{n}={q}")).collect();
        each.join(",")
    }
}

impl<N: Into<String>> FromIterator<(N, Quantity)> for Amounts {
    fn from_iter<I: IntoIterator<Item = (N, Quantity)>>(all: I) -> Self {
        Self(all.into_iter().map(|(n, q)| (n.into(), q)).collect())
    }
}

/// Names of resources, in order.
pub type Names = BTreeSet<String>;

/// As refusals show names: `cpu,pods`.
pub fn show(names: &Names) -> String {
    names
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",")
}
