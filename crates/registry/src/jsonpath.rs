//! The JSON paths of additional printer columns, in the dialect of kubectl's: names, which may hold
//! dots behind backslashes, list positions and ranges, wildcards, unions, filters. Only the first
//! result is of interest here; a path that leads nowhere has none.

use serde_json::Value;

/// Longest path that is read, in bytes; columns have some dozens.
const MAX_PATH: usize = 4096;
/// Most values that one step may lead to: `..` in a large object.
const MAX_VALUES: usize = 10_000;

/// Most filters within filters; each takes of the stack when the path is read and walked.
const MAX_FILTERS: usize = 32;

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Wildcard,
    /// All values below, at any depth.
    Recursive,
    Range {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Index(i64),
    Union(Vec<Step>),
    Filter(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// From the item that is looked at (`@`).
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The longer ones first, so that they are found.
const COMPARISONS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

impl JsonPath {
    /// Reads a path (`.status.conditions[?(@.type=="Ready")].status`); none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_PATH || text.matches("?(").count() > MAX_FILTERS {
            return None;
        }
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Recursive);
                rest = after;
                // The name behind two dots has none of its own.
                if !rest.is_empty() && !rest.starts_with('[') {
                    rest = field(rest, &mut steps)?;
                }
            } else if let Some(after) = rest.strip_prefix('.') {
                rest = match after.starts_with('[') || after.is_empty() {
                    true => after,
                    false => field(after, &mut steps)?,
                };
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after)?;
                steps.push(bracket(after.get(..end)?)?);
                rest = after.get(end + 1..)?;
            } else if steps.is_empty() {
                rest = field(rest, &mut steps)?;
            } else {
                return None;
            }
        }
        Some(Self(steps))
    }

    /// The first value that the path leads to.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.all(value).first().copied()
    }

    fn all<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut at = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for value in at {
                step.walk(value, &mut next);
                next.truncate(MAX_VALUES);
            }
            at = next;
        }
        at
    }
}

/// Reads a name; a dot or bracket in it stands behind a backslash.
fn field<'t>(text: &'t str, steps: &mut Vec<Step>) -> Option<&'t str> {
    let mut name = String::new();
    let mut letters = text.char_indices();
    let mut end = text.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.push(letters.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            // What kubectl's reader gives up at.
            ' ' | '|' | ',' | ')' | ']' | '{' | '}' => return None,
            other => name.push(other),
        }
    }
    match name.as_str() {
        "" => return None,
        "*" => steps.push(Step::Wildcard),
        _ => steps.push(Step::Field(name)),
    }
    text.get(end..)
}

/// Where the bracket that was opened before ends.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_usize);
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match (letter, quote) {
            ('\\', Some(_)) => {
                letters.next()?;
            }
            (c, Some(q)) if c == q => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(letter),
            ('[', None) => depth += 1,
            (']', None) if depth == 0 => return Some(at),
            (']', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return comparison(filter);
    }
    if let Some(name) = quoted(text) {
        return Some(Step::Field(name));
    }
    if text.contains(',') {
        let all: Option<Vec<Step>> = text.split(',').map(bracket).collect();
        return all.map(Step::Union);
    }
    if text == "*" {
        return Some(Step::Wildcard);
    }
    if text.contains(':') {
        let mut parts = text.split(':').map(str::trim);
        let mut number = || match parts.next() {
            None | Some("") => Some(None),
            Some(n) => n.parse().ok().map(Some),
        };
        let (start, end, step) = (number()?, number()?, number()?);
        return Some(Step::Range {
            start,
            end,
            step: step.unwrap_or(1),
        });
    }
    text.parse().ok().map(Step::Index)
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.push(letters.next()?),
            c if c == quote => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

fn comparison(text: &str) -> Option<Step> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (letter, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('\'' | '"', None) => quote = Some(letter),
            _ => {}
        }
        if quote.is_some() {
            continue;
        }
        let rest = text.get(at..)?;
        if let Some((word, what)) = COMPARISONS.iter().find(|(w, _)| rest.starts_with(w)) {
            let right = rest.get(word.len()..)?;
            let left = operand(text.get(..at)?)?;
            return Some(Step::Filter(left, Some((*what, operand(right)?))));
        }
    }
    Some(Step::Filter(operand(text)?, None))
}

fn operand(text: &str) -> Option<Operand> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix('@') {
        return JsonPath::parse(path).map(Operand::Path);
    }
    if let Some(text) = quoted(text) {
        return Some(Operand::Literal(text.into()));
    }
    let value: Value = serde_json::from_str(text).ok()?;
    (value.is_number() || value.is_boolean()).then_some(Operand::Literal(value))
}

impl Step {
    fn walk<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => out.extend(map.get(name)),
            (Self::Wildcard, Value::Object(map)) => out.extend(map.values()),
            (Self::Wildcard, Value::Array(items)) => out.extend(items),
            (Self::Recursive, _) => below(value, out),
            (Self::Union(steps), _) => steps.iter().for_each(|s| s.walk(value, out)),
            (Self::Index(at), Value::Array(items)) => out.extend(position(items, *at)),
            (Self::Range { start, end, step }, Value::Array(items)) => {
                range(items, *start, *end, *step, out);
            }
            (Self::Filter(left, right), Value::Array(items)) => {
                out.extend(
                    items
                        .iter()
                        .filter(|item| holds(left, right.as_ref(), item)),
                );
            }
            _ => {}
        }
    }
}

fn below<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() >= MAX_VALUES {
        return;
    }
    out.push(value);
    match value {
        Value::Object(map) => map.values().for_each(|v| below(v, out)),
        Value::Array(items) => items.iter().for_each(|v| below(v, out)),
        _ => {}
    }
}

fn position(items: &[Value], at: i64) -> Option<&Value> {
    let len = i64::try_from(items.len()).ok()?;
    let at = if at < 0 { at + len } else { at };
    items.get(usize::try_from(at).ok()?)
}

fn range<'v>(
    items: &'v [Value],
    start: Option<i64>,
    end: Option<i64>,
    step: i64,
    out: &mut Vec<&'v Value>,
) {
    let Ok(len) = i64::try_from(items.len()) else {
        return;
    };
    let from_end = |n: i64| if n < 0 { n + len } else { n };
    let (start, end) = (from_end(start.unwrap_or(0)), from_end(end.unwrap_or(len)));
    let (Ok(start), Ok(step)) = (usize::try_from(start), usize::try_from(step)) else {
        return;
    };
    let end = usize::try_from(end.min(len)).unwrap_or(0);
    if step > 0 && start < end {
        let chosen = items.get(start..end).unwrap_or_default();
        out.extend(chosen.iter().step_by(step));
    }
}

fn holds(left: &Operand, right: Option<&(Comparison, Operand)>, item: &Value) -> bool {
    let value = |operand: &Operand| match operand {
        Operand::Path(path) => path.first(item).cloned(),
        Operand::Literal(value) => Some(value.clone()),
    };
    let Some(left) = value(left) else {
        return false;
    };
    let Some((what, right)) = right else {
        return true;
    };
    value(right).is_some_and(|right| compare(*what, &left, &right))
}

fn compare(what: Comparison, left: &Value, right: &Value) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => None,
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        // No other values have an order.
        (a, b) if a == b => Some(Equal),
        _ => None,
    };
    match what {
        Comparison::Equal => order == Some(Equal),
        Comparison::NotEqual => order != Some(Equal),
        Comparison::Less => order == Some(Less),
        Comparison::LessOrEqual => matches!(order, Some(Less | Equal)),
        Comparison::Greater => order == Some(Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_kubectl_leads() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "spec": {"list": [1, 2, 3], "items": [{"n": "a", "v": 1}, {"n": "b", "v": 2}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Synced", "status": "False"},
            ]},
        });
        for (path, want) in [
            (".spec.list[0]", json!(1)),
            (".spec.list[-1]", json!(3)),
            (".spec.list[1:]", json!(2)),
            (".spec.list[0:3:2]", json!(1)),
            (".spec['list'][1]", json!(2)),
            (".metadata.labels.a\\.b/c", json!("x")),
            (".metadata.labels['a.b/c']", json!("x")),
            (".spec.items[*].n", json!("a")),
            (".spec.items[1,0].n", json!("b")),
            (".spec.items[?(@.v>1)].n", json!("b")),
            (".spec.items[?(@.v != 1)].n", json!("b")),
            (
                ".status.conditions[?(@.type==\"Ready\")].status",
                json!("True"),
            ),
            (
                ".status.conditions[?(@.type=='Synced')].status",
                json!("False"),
            ),
            (".status..status", json!("True")),
            ("$.spec.list[2]", json!(3)),
        ] {
            let read = JsonPath::parse(path).expect(path);
            assert_eq!(read.first(&object), Some(&want), "{path}");
        }
        for path in [
            ".none",
            ".spec.list[7]",
            ".spec.list.x",
            ".status.conditions[?(@.type=='No')].status",
        ] {
            let read = JsonPath::parse(path).expect(path);
            assert_eq!(read.first(&object), None, "{path}");
        }
        for path in [".a[", ".a[x]", ".a b"] {
            assert_eq!(JsonPath::parse(path), None, "{path}");
        }
        let nested = |n: usize| format!("{}.a{}", ".a[?(@".repeat(n), ")]".repeat(n));
        assert!(JsonPath::parse(&nested(32)).is_some());
        assert_eq!(JsonPath::parse(&nested(500)), None);
    }
}
