//! Selectors of devices: CEL over one variable, `device`, as upstream declares it.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use cel::{Key, KeyStr, Map, Program, Str, Value};
use parking_lot::Mutex;

use super::slices::{Attribute, Device};

/// Compiled selectors that are kept: a cluster has a few classes and some templates.
const KEPT: usize = 1_000;

/// A selector that was compiled.
pub struct Selector {
    program: Program,
    /// Domains that it looks into, as literals: one that a device has nothing of is empty there.
    domains: Vec<String>,
}

impl std::fmt::Debug for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selector").finish_non_exhaustive()
    }
}

impl Selector {
    /// # Errors
    /// Why it is none.
    pub fn compile(expression: &str) -> Result<Self, String> {
        let program = cel::device::compile(expression)?;
        // Whether a device has a domain at all is another question than what is in it.
        let asked = expression.contains(" in device.");
        let domains = if asked {
            Vec::new()
        } else {
            domains(expression)
        };
        Ok(Self { program, domains })
    }

    /// Whether it selects a device of a driver.
    ///
    /// # Errors
    /// When it cannot be evaluated for this device.
    pub fn matches(&self, driver: &str, device: &Device) -> Result<bool, String> {
        let value = self.value(driver, device)?;
        let done = self
            .program
            .evaluate(&[Some(value)], cel::device::COST_LIMIT);
        match done.result {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(format!(
                "CEL result of type {} could not be converted to bool",
                &*other.type_name()
            )),
            Err(e) => Err(e.to_string()),
        }
    }

    fn value<'a>(&self, driver: &'a str, device: &'a Device) -> Result<Value<'a>, String> {
        let mut attributes: Domains<'a> = BTreeMap::new();
        for (name, attribute) in &device.attributes {
            let value = match attribute {
                Attribute::Bool(b) => Value::Bool(*b),
                Attribute::Int(n) => Value::Int(*n),
                Attribute::Text(text) => Value::String(Str::Ref(text)),
                Attribute::Version(text) => {
                    let version = semver::Version::parse(text);
                    let version = version
                        .map_err(|e| format!("attribute {name}: parse semantic version: {e}"))?;
                    Value::Semver(Rc::new(version))
                }
                Attribute::Unknown => {
                    return Err(format!("attribute {name}: unsupported attribute value"));
                }
            };
            put(&mut attributes, name, driver, value);
        }
        let mut capacity: Domains<'a> = BTreeMap::new();
        for (name, amount) in &device.capacity {
            put(&mut capacity, name, driver, Value::Quantity(amount.value));
        }
        Ok(map([
            ("driver", Value::String(Str::Ref(driver))),
            ("allowMultipleAllocations", Value::Bool(device.shared)),
            ("attributes", self.by_domain(attributes)),
            ("capacity", self.by_domain(capacity)),
        ]))
    }

    fn by_domain<'a>(&self, found: Domains<'a>) -> Value<'a> {
        let mut all: BTreeMap<Key<'a>, (Value<'a>, Value<'a>)> = BTreeMap::new();
        for domain in &self.domains {
            let text: Str<'a> = Str::Rc(Rc::from(domain.as_str()));
            let key = Key::String(KeyStr(text.clone()));
            all.insert(key, (Value::String(text), map([])));
        }
        for (domain, values) in found {
            let text = Str::Ref(domain);
            all.insert(
                Key::String(KeyStr(text.clone())),
                (Value::String(text), map(values)),
            );
        }
        Value::Map(Map::Owned(Rc::new(all)))
    }
}

type Domains<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Value<'a>>>;

/// A name without a domain is one of the driver's.
fn put<'a>(to: &mut Domains<'a>, name: &'a str, driver: &'a str, value: Value<'a>) {
    let (domain, id) = name.split_once('/').unwrap_or((driver, name));
    to.entry(domain).or_default().insert(id, value);
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value<'a>)>) -> Value<'a> {
    let entries = entries.into_iter().map(|(name, value)| {
        let text = Str::Ref(name);
        (
            Key::String(KeyStr(text.clone())),
            (Value::String(text), value),
        )
    });
    Value::Map(Map::Owned(Rc::new(entries.collect())))
}

/// The literals by which attributes and capacities are looked up.
fn domains(expression: &str) -> Vec<String> {
    let mut out = Vec::new();
    for part in ["attributes[", "capacity["] {
        for (at, _) in expression.match_indices(part) {
            let rest = expression.get(at + part.len()..).unwrap_or_default();
            let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
                continue;
            };
            let rest = rest.get(1..).unwrap_or_default();
            if let Some((domain, _)) = rest.split_once(quote)
                && i64::try_from(domain.len()).is_ok_and(|n| n <= cel::device::LONGEST_DOMAIN)
            {
                out.push(domain.to_owned());
            }
        }
    }
    out
}

/// Selectors that were compiled, by their texts.
#[derive(Debug, Default)]
pub struct Compiled(Mutex<HashMap<String, Result<Arc<Selector>, String>>>);

impl Compiled {
    /// # Errors
    /// Why it is none.
    pub fn get(&self, expression: &str) -> Result<Arc<Selector>, String> {
        let mut all = self.0.lock();
        if let Some(known) = all.get(expression) {
            return known.clone();
        }
        if all.len() >= KEPT {
            all.clear();
        }
        let made = Selector::compile(expression).map(Arc::new);
        all.insert(expression.to_owned(), made.clone());
        made
    }
}
