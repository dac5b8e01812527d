//! The data model of a custom resource's schema: what of it holds values (the structure) and what
//! only checks them. It is read from the schema as a CustomResourceDefinition holds it, leniently;
//! what must not be in it is found by `check.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use regex::Regex;
use serde_json::{Map, Value as Json};

/// Deepest schema that is read. Ordinary ones have some 20 levels.
const MAX_DEPTH: usize = 200;

/// A node of a schema.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    /// `object`, `array`, `string`, `number`, `integer`, `boolean`; empty for none.
    pub ty: Arc<str>,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub items: Option<Box<Structural>>,
    pub properties: BTreeMap<Arc<str>, Structural>,
    pub additional: Additional,
    pub default: Option<Arc<Json>>,
    pub list: List,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
    pub checks: Option<Box<Checks>>,
    pub rules: Vec<Rule>,
    /// Words about the node, for publication.
    pub title: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
}

/// `additionalProperties`.
#[derive(Clone, Debug, Default)]
pub enum Additional {
    #[default]
    None,
    Bool(bool),
    Schema(Box<Structural>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum List {
    /// Not said, which means atomic.
    #[default]
    Unset,
    Atomic,
    Set,
    Map(Vec<Arc<str>>),
}

/// What values of a node must be.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    pub format: Option<Arc<str>>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<Arc<str>>,
    pub values: Vec<Json>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

/// A regular expression, compiled when the first value is held against it: most kinds of a cluster
/// are idle, and compiled expressions are large.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub text: Arc<str>,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn new(text: Arc<str>) -> Self {
        Self {
            text,
            regex: OnceLock::new(),
        }
    }

    /// None when the pattern is wrong.
    pub fn regex(&self) -> Option<&Regex> {
        let compile = || cel::re2::compile(&self.text).ok();
        self.regex.get_or_init(compile).as_ref()
    }
}

/// One of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

/// Why a schema cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("OpenAPIV3Schema 'items' must be a schema, but is an array")]
    ItemsArray,
    #[error("OpenAPIV3Schema is nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
}

/// Words and names are repeated often in a schema: one allocation for each.
#[derive(Default)]
struct Words(std::collections::HashSet<Arc<str>>);

impl Words {
    fn get(&mut self, word: &str) -> Arc<str> {
        if let Some(have) = self.0.get(word) {
            return have.clone();
        }
        let word: Arc<str> = Arc::from(word);
        self.0.insert(word.clone());
        word
    }
}

impl Structural {
    /// Reads a schema (`openAPIV3Schema` of a version).
    pub fn read(schema: &Json) -> Result<Self, ReadError> {
        let mut reader = Reader {
            words: Words::default(),
            level: 0,
        };
        let mut root = reader.node(schema)?;
        root.shrink();
        Ok(root)
    }

    /// The schema of a field: of a property, or of any other field.
    pub fn field(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(schema) => Some(schema),
            _ => None,
        })
    }

    fn shrink(&mut self) {
        self.rules.shrink_to_fit();
    }

    /// Calls `f` with every node that is checked against, itself included.
    pub fn walk(&self, f: &mut dyn FnMut(&Structural)) {
        f(self);
        let below = self
            .items
            .iter()
            .map(|i| &**i)
            .chain(self.properties.values());
        let additional = match &self.additional {
            Additional::Schema(schema) => Some(&**schema),
            _ => None,
        };
        for node in below.chain(additional) {
            node.walk(f);
        }
        if let Some(checks) = &self.checks {
            let all = checks.all_of.iter().chain(&checks.any_of);
            for node in all.chain(&checks.one_of).chain(checks.not.as_deref()) {
                node.walk(f);
            }
        }
    }
}

struct Reader {
    words: Words,
    level: usize,
}

impl Reader {
    fn node(&mut self, json: &Json) -> Result<Structural, ReadError> {
        let Json::Object(map) = json else {
            return Ok(Structural::default());
        };
        self.level += 1;
        if self.level > MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        let flag = |name: &str| map.get(name) == Some(&Json::Bool(true));
        let mut node = Structural {
            ty: self.words.get(text(map, "type")),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            atomic: text(map, "x-kubernetes-map-type") == "atomic",
            list: self.list(map),
            default: map
                .get("default")
                .filter(|d| !d.is_null())
                .map(|d| Arc::new(d.clone())),
            rules: rules(map),
            title: self.word(map, "title"),
            description: self.word(map, "description"),
            ..Structural::default()
        };
        node.items = match map.get("items") {
            None | Some(Json::Null) => None,
            Some(Json::Array(_)) => return Err(ReadError::ItemsArray),
            Some(items) => Some(Box::new(self.node(items)?)),
        };
        if let Some(Json::Object(properties)) = map.get("properties") {
            for (name, schema) in properties {
                let schema = self.node(schema)?;
                node.properties.insert(self.words.get(name), schema);
            }
        }
        node.additional = match map.get("additionalProperties") {
            None | Some(Json::Null) => Additional::None,
            Some(Json::Bool(allowed)) => Additional::Bool(*allowed),
            Some(schema) => Additional::Schema(Box::new(self.node(schema)?)),
        };
        node.checks = self.checks(map)?;
        self.level -= 1;
        Ok(node)
    }

    fn word(&mut self, map: &Map<String, Json>, name: &str) -> Option<Arc<str>> {
        let text = text(map, name);
        (!text.is_empty()).then(|| self.words.get(text))
    }

    fn list(&mut self, map: &Map<String, Json>) -> List {
        match text(map, "x-kubernetes-list-type") {
            "atomic" => List::Atomic,
            "set" => List::Set,
            "map" => List::Map(
                texts(map, "x-kubernetes-list-map-keys")
                    .map(|key| self.words.get(key))
                    .collect(),
            ),
            _ => List::Unset,
        }
    }

    fn checks(&mut self, map: &Map<String, Json>) -> Result<Option<Box<Checks>>, ReadError> {
        let number = |name: &str| map.get(name).and_then(Json::as_f64);
        let count = |name: &str| map.get(name).and_then(Json::as_i64);
        let flag = |name: &str| map.get(name) == Some(&Json::Bool(true));
        let pattern = text(map, "pattern");
        let checks = Checks {
            format: self.word(map, "format"),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: (!pattern.is_empty()).then(|| Pattern::new(self.words.get(pattern))),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: texts(map, "required").map(|r| self.words.get(r)).collect(),
            values: match map.get("enum") {
                Some(Json::Array(values)) => values.clone(),
                _ => Vec::new(),
            },
            all_of: self.nodes(map, "allOf")?,
            any_of: self.nodes(map, "anyOf")?,
            one_of: self.nodes(map, "oneOf")?,
            not: match map.get("not") {
                Some(not @ Json::Object(_)) => Some(Box::new(self.node(not)?)),
                _ => None,
            },
        };
        Ok((!checks.is_empty()).then(|| Box::new(checks)))
    }

    fn nodes(&mut self, map: &Map<String, Json>, name: &str) -> Result<Vec<Structural>, ReadError> {
        match map.get(name) {
            Some(Json::Array(nodes)) => nodes.iter().map(|n| self.node(n)).collect(),
            _ => Ok(Vec::new()),
        }
    }
}

impl Checks {
    fn is_empty(&self) -> bool {
        let numbers = [self.maximum, self.minimum, self.multiple_of];
        let counts = [
            self.max_length,
            self.min_length,
            self.max_items,
            self.min_items,
            self.max_properties,
            self.min_properties,
        ];
        numbers.iter().all(Option::is_none)
            && counts.iter().all(Option::is_none)
            && self.format.is_none()
            && self.pattern.is_none()
            && !self.unique_items
            && !self.exclusive_maximum
            && !self.exclusive_minimum
            && self.required.is_empty()
            && self.values.is_empty()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}

pub(crate) fn text<'a>(map: &'a Map<String, Json>, name: &str) -> &'a str {
    map.get(name).and_then(Json::as_str).unwrap_or_default()
}

pub(crate) fn texts<'a>(
    map: &'a Map<String, Json>,
    name: &str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let list = map.get(name).and_then(Json::as_array);
    list.into_iter().flatten().filter_map(Json::as_str)
}

fn rules(map: &Map<String, Json>) -> Vec<Rule> {
    let Some(Json::Array(rules)) = map.get("x-kubernetes-validations") else {
        return Vec::new();
    };
    let rules = rules.iter().filter_map(Json::as_object);
    rules
        .map(|rule| Rule {
            rule: text(rule, "rule").to_owned(),
            message: text(rule, "message").to_owned(),
            message_expression: text(rule, "messageExpression").to_owned(),
            reason: rule.get("reason").and_then(Json::as_str).map(str::to_owned),
            field_path: text(rule, "fieldPath").to_owned(),
            optional_old_self: rule.get("optionalOldSelf").and_then(Json::as_bool),
        })
        .collect()
}
