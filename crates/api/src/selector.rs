//! Label and field selectors: parsing, matching, printing
//! (documentation "Labels and Selectors", "Field Selectors").

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::names;

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

    /// The nodes that it names, where it names them: no others can match.
    pub fn names(&self) -> Option<&[String]> {
        if self.nothing {
            return Some(&[]);
        }
        let mut named = self.fields.iter().filter(|r| r.operator == Operator::In);
        Some(named.next()?.values.as_slice())
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

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

struct Parser<'a> {
    rest: &'a str,
}

const SYMBOLS: [&str; 9] = ["!=", "==", "=", "(", ")", ",", "!", ">", "<"];

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn next(&mut self) -> Token {
        self.rest = self.rest.trim_start();
        if self.rest.is_empty() {
            return Token::End;
        }
        for symbol in SYMBOLS {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return Token::Symbol(symbol);
            }
        }
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "!=(),><".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word.to_owned())
    }

    fn peek(&self) -> Token {
        Parser { rest: self.rest }.next()
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        if self.peek() == Token::End {
            return Ok(out);
        }
        loop {
            out.push(self.requirement()?);
            match self.next() {
                Token::End => return Ok(out),
                Token::Symbol(",") if self.peek() == Token::End => {
                    return Err("found '', expected: identifier after ','".into());
                }
                Token::Symbol(",") => {}
                other => {
                    return Err(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        show(&other)
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let make = |key: String, operator, values| Requirement {
            key,
            operator,
            values,
        };
        let key = match self.next() {
            Token::Symbol("!") => {
                return match self.next() {
                    Token::Word(key) => Ok(make(key, Operator::DoesNotExist, Vec::new())),
                    other => Err(format!("found '{}', expected: identifier", show(&other))),
                };
            }
            Token::Word(key) => key,
            other => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    show(&other)
                ));
            }
        };
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(make(key, Operator::Exists, Vec::new()));
        }
        let operator = match self.next() {
            Token::Symbol("=" | "==") => Operator::Equals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            Token::Word(w) if w == "in" => return Ok(make(key, Operator::In, self.set()?)),
            Token::Word(w) if w == "notin" => return Ok(make(key, Operator::NotIn, self.set()?)),
            other => {
                return Err(format!(
                    "found '{}', expected: in, notin, =, ==, !=, gt, lt",
                    show(&other)
                ));
            }
        };
        // Nothing after `=` is the empty value.
        let value = match self.peek() {
            Token::Word(w) => {
                self.next();
                w
            }
            Token::End | Token::Symbol(",") => String::new(),
            other @ Token::Symbol(_) => {
                return Err(format!("found '{}', expected: identifier", show(&other)));
            }
        };
        Ok(make(key, operator, vec![value]))
    }

    fn set(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(format!("found '{}' expected: '('", show(&other))),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(w) => {
                    values.push(w);
                    match self.next() {
                        Token::Symbol(",") if self.peek() == Token::Symbol(")") => {
                            values.push(String::new())
                        }
                        Token::Symbol(",") => {}
                        Token::Symbol(")") => break,
                        other => {
                            return Err(format!("found '{}', expected: ',' or ')'", show(&other)));
                        }
                    }
                }
                Token::Symbol(",") => values.push(String::new()),
                Token::Symbol(")") => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    break;
                }
                other => {
                    return Err(format!(
                        "found '{}', expected: ',', ')' or identifier",
                        show(&other)
                    ));
                }
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn show(token: &Token) -> &str {
    match token {
        Token::Word(w) => w,
        Token::Symbol(s) => s,
        Token::End => "",
    }
}

/// One term of a field selector.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldRequirement {
    pub field: String,
    pub value: String,
    /// `!=`.
    pub not: bool,
}

/// All terms must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// `a=b,c!=d`; backslash escapes comma, equals sign and itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for term in split_unescaped(text, ',') {
            if term.is_empty() {
                continue;
            }
            let bad = || format!("invalid selector: '{text}'; can't understand '{term}'");
            let at = find_operator(term).ok_or_else(bad)?;
            let (field, rest) = term.split_at(at);
            let (not, value) = match (rest.strip_prefix("!="), rest.strip_prefix("==")) {
                (Some(v), _) => (true, v),
                (_, Some(v)) => (false, v),
                _ => (false, rest.strip_prefix('=').ok_or_else(bad)?),
            };
            let value = unescape(value).ok_or_else(bad)?;
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                value,
                not,
            });
        }
        Ok(Self { requirements })
    }
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
    /// `read` gives a field's value.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> std::borrow::Cow<'a, str>) -> bool {
        self.requirements
            .iter()
            .all(|r| (read(&r.field) == r.value) != r.not)
    }
    /// The value that `field` must have, if the selector says so: for indexes.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && !r.not)
            .map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            let value = r
                .value
                .replace('\\', "\\\\")
                .replace(',', "\\,")
                .replace('=', "\\=");
            let comma = if i > 0 { "," } else { "" };
            write!(
                f,
                "{comma}{}{}{value}",
                r.field,
                if r.not { "!=" } else { "=" }
            )?;
        }
        Ok(())
    }
}

fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..i]);
            start = i + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn find_operator(term: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in term.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || term[i..].starts_with("!=") {
            return Some(i);
        }
    }
    None
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.into(), v.into()))
            .collect()
    }

    #[test]
    fn selectors_match_as_documented() {
        for (selector, own, expected) in [
            ("", "a=b", true),
            ("a=b", "a=b", true),
            ("a==b,c!=d", "a=b", true),
            ("a!=b", "a=b", false),
            ("a in (x, y)", "a=y", true),
            ("a notin (x)", "b=1", true),
            ("a", "a=", true),
            ("!a", "b=1", true),
            ("n>3,n<5", "n=4", true),
            ("n>3", "n=x", false),
            ("a=", "a=", true),
            ("a in (x,)", "a=", true),
            ("x.y/z=1", "x.y/z=1", true),
        ] {
            let parsed =
                LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
            assert_eq!(
                parsed.matches(&labels(own)),
                expected,
                "{selector} on {own}"
            );
            assert_eq!(
                LabelSelector::parse(&parsed.to_string()).as_ref(),
                Ok(&parsed),
                "{selector}"
            );
        }
        for bad in [
            "a=b,", ",", "a in x", "a in (x", "=b", "!", "a=b c", "a>x", "-a=b", "a=b=c",
            "a in ()x",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_every_match_has_is_found() {
        let values = |all: &[&str]| all.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        for (selector, expected) in [
            ("", None),
            ("a!=b,c notin (d),e,!f,n>1", None),
            ("a,b=c", Some(("b", values(&["c"])))),
            ("a=", Some(("a", values(&[""])))),
            ("a in (x,y),b=c,d=e", Some(("b", values(&["c"])))),
            ("a in (x,y),b in (z)", Some(("b", values(&["z"])))),
            ("a in (x,y)", Some(("a", values(&["x", "y"])))),
            ("a in (x,y,z)", None),
        ] {
            let parsed = LabelSelector::parse(selector).expect("selector");
            let demanded = parsed.demanded(2);
            let demanded = demanded.map(|(key, values)| (key, values.to_vec()));
            assert_eq!(demanded, expected, "{selector}");
        }
    }

    #[test]
    fn object_selectors_are_read() {
        let s = json!({ "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "c", "operator": "Exists" }] });
        let parsed = LabelSelector::from_json(&s).expect("selector");
        assert!(parsed.matches(&labels("a=b,c=1")));
        assert!(!parsed.matches(&labels("a=b")));
        assert!(
            LabelSelector::from_json(&json!({}))
                .expect("all")
                .matches(&labels(""))
        );
        assert!(
            !LabelSelector::from_json(&Value::Null)
                .expect("none")
                .matches(&labels(""))
        );
        assert!(
            LabelSelector::from_json(
                &json!({ "matchExpressions": [{ "key": "a", "operator": "X" }] })
            )
            .is_err()
        );
    }

    #[test]
    fn field_selectors_are_read() {
        let s = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").expect("selector");
        assert_eq!(s.exact("spec.nodeName"), Some("n1"));
        let read = |f: &str| {
            (if f == "spec.nodeName" {
                "n1"
            } else {
                "Running"
            })
            .into()
        };
        assert!(s.matches(read));
        assert_eq!(
            FieldSelector::parse(r"a=b\,c")
                .expect("escaped")
                .requirements[0]
                .value,
            "b,c"
        );
        assert!(FieldSelector::parse("a").is_err());
        assert_eq!(s.to_string(), "spec.nodeName=n1,status.phase!=Failed");
    }

    #[test]
    fn terms_of_nodes_select_by_labels_and_name() {
        let values =
            |all: &[&str]| -> Vec<String> { all.iter().map(|v| (*v).to_owned()).collect() };
        let (ssd, names) = (values(&["ssd"]), values(&["n", "m"]));
        let disk: Required<'_> = ("disk", "In", Some(ssd.as_slice()));
        let named: Required<'_> = ("metadata.name", "In", Some(names.as_slice()));
        let node: BTreeMap<String, String> = [("disk".to_owned(), "ssd".to_owned())].into();
        for (labels, fields, wanted, only) in [
            (vec![disk], vec![], true, None),
            (vec![disk], vec![named], true, Some(names.as_slice())),
            (vec![], vec![named], true, Some(names.as_slice())),
            (vec![("disk", "DoesNotExist", None)], vec![], false, None),
            (
                vec![],
                vec![("metadata.name", "NotIn", Some(names.as_slice()))],
                false,
                None,
            ),
            // Neither what is empty nor what cannot be read.
            (vec![], vec![], false, Some([].as_slice())),
            (
                vec![disk, ("disk", "Is", None)],
                vec![],
                false,
                Some([].as_slice()),
            ),
        ] {
            let term = NodeTerm::new(labels, fields);
            assert_eq!(
                (term.matches("n", &node), term.names()),
                (wanted, only),
                "{term:?}"
            );
        }
    }
}
