//! YAML to a JSON value, within the bounds that JSON has. The parser gives events one by one, so
//! that too deep a document is refused at its hundredth bracket, and an alias is charged before it
//! is copied. Plain scalars are read as upstream's YAML 1.1 library reads numbers; `yes` and `no`
//! stay text.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::StrictProblem;
use super::budget::{Budget, MAX_DEPTH, TooMuch};
use super::node::number;
use super::typed::MAX_PROBLEMS;

/// Reads one document; what follows it is an error.
pub(super) fn parse(text: &str) -> Result<(Value, Vec<StrictProblem>), String> {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        budget: Budget::new(),
        anchors: HashMap::new(),
        problems: Vec::new(),
    };
    let value = reader.document()?;
    Ok((value, reader.problems))
}

struct Reader<'t> {
    events: Parser<'t, StrInput<'t>>,
    budget: Budget,
    anchors: HashMap<usize, Value>,
    problems: Vec<StrictProblem>,
}

fn at(span: &Span, what: &str) -> String {
    format!("line {}: {what}", span.start.line())
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), String> {
        match self.events.next() {
            Some(Ok(found)) => Ok(found),
            Some(Err(e)) => Err(e.to_string()),
            None => Err("unexpected end of the document".to_owned()),
        }
    }

    fn document(&mut self) -> Result<Value, String> {
        let mut value = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(value.unwrap_or_default()),
                (Event::DocumentStart(_), span) if value.is_some() => {
                    return Err(at(&span, "a body is one document"));
                }
                (Event::DocumentStart(_), _) => {
                    let (event, span) = self.next()?;
                    value = Some(self.value(event, &span, 0)?);
                }
                _ => {}
            }
        }
    }

    fn value(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Value, String> {
        let charged = |r: Result<(), TooMuch>| r.map_err(|e| at(span, &e.to_string()));
        if depth > MAX_DEPTH {
            return Err(at(span, &TooMuch::Depth.to_string()));
        }
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let value = self
                    .anchors
                    .get(&id)
                    .ok_or_else(|| at(span, "unknown anchor"))?;
                charged(self.budget.copy(value).map(|_| ()))?;
                if super::budget::depth(value) + depth > MAX_DEPTH {
                    return Err(at(span, &TooMuch::Depth.to_string()));
                }
                return Ok(value.clone());
            }
            Event::Scalar(text, style, anchor, tag) => {
                charged(self.budget.scalar())?;
                (anchor, scalar(&text, style, tag.as_deref()))
            }
            Event::SequenceStart(anchor, _) => {
                charged(self.budget.container())?;
                (anchor, self.sequence(depth)?)
            }
            Event::MappingStart(anchor, _) => {
                charged(self.budget.container())?;
                (anchor, self.mapping(depth)?)
            }
            _ => return Err(at(span, "did not find expected node content")),
        };
        if anchor > 0 {
            charged(self.budget.copy(&value).map(|_| ()))?;
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.value(event, &span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, ..));
            let key = key_text(self.value(event, &span, depth + 1)?)
                .ok_or_else(|| at(&span, "a key is neither a text nor a number"))?;
            let (event, below) = self.next()?;
            let value = self.value(event, &below, depth + 1)?;
            if plain && key == "<<" {
                merged.push(value);
            } else if map.contains_key(&key) {
                self.duplicate(&span, &key);
                map.insert(key, value);
            } else {
                map.insert(key, value);
            }
        }
        // What is written there itself counts, then the first of what is merged.
        for value in merged {
            let all = match value {
                Value::Array(items) => items,
                one => vec![one],
            };
            for value in all {
                let Value::Object(fields) = value else {
                    return Err("map merge requires map or sequence of maps as the value".into());
                };
                for (k, v) in fields {
                    map.entry(k).or_insert(v);
                }
            }
        }
        Ok(Value::Object(map))
    }

    fn duplicate(&mut self, span: &Span, key: &str) {
        if self.problems.len() < MAX_PROBLEMS {
            let line = span.start.line();
            let key = key.to_owned();
            self.problems
                .push(StrictProblem::DuplicateKey { line, key });
        }
    }
}

fn key_text(key: Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let core = tag.filter(|t| t.is_yaml_core_schema()).map(|t| &*t.suffix);
    let resolved = match core {
        Some("str" | "binary" | "timestamp") => false,
        Some(_) => true,
        None => style == ScalarStyle::Plain && tag.is_none(),
    };
    if !resolved {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => numeric(text).unwrap_or_else(|| text.into()),
    }
}

/// A number as upstream's library reads one: a leading zero is octal, underscores separate.
fn numeric(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.')) {
        return None;
    }
    let plain = text.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => Some((16, 2)),
        [b'0', b'o' | b'O', _, ..] => Some((8, 2)),
        [b'0', b'b' | b'B', _, ..] => Some((2, 2)),
        [b'0', b'0'..=b'7', ..] => Some((8, 1)),
        _ => None,
    };
    if let Some((radix, skip)) = radix {
        let number = format!("{sign}{}", digits.get(skip..)?);
        if let Ok(n) = i64::from_str_radix(&number, radix) {
            return Some(n.into());
        }
    }
    // What no double holds stays a text, which no field of numbers takes; as upstream's library.
    let read = || number(&format!("{sign}{digits}"));
    is_decimal(digits).then(read).filter(|n| !n.is_null())
}

/// Digits with at most one point, and perhaps an exponent.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e.strip_prefix(['+', '-']).unwrap_or(e))),
        None => (text, None),
    };
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|e| !e.is_empty() && digits(e))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Result<Value, String> {
        parse(text).map(|(v, _)| v)
    }

    #[test]
    fn documents_are_read_as_upstream_reads_them() {
        let text = "a: 1\nb: [x, 'y', \"z\", 0644, 0x10, 1.5, 1e3, .5, ~, true, yes, 08, 1_000]\n\
                    c:\n  1: one\n  true: t\nd: |\n  line\n  more\ne: !!str 12\nf: 1.2.3\ng: -5\nh: 2001-01-01\n";
        let want = json!({
            "a": 1, "b": ["x", "y", "z", 420, 16, 1.5, 1000.0, 0.5, null, true, "yes", 8, 1000],
            "c": { "1": "one", "true": "t" }, "d": "line\nmore\n", "e": "12", "f": "1.2.3",
            "g": -5, "h": "2001-01-01",
        });
        assert_eq!(value(text), Ok(want));
        assert_eq!(
            value("{\"a\": [1, {\"b\": null}]}"),
            Ok(json!({ "a": [1, { "b": null }] }))
        );
        let beyond = json!({ "a": "1e400", "b": "-1e400" });
        assert_eq!(value("a: 1e400\nb: -1e400\n"), Ok(beyond));
        assert_eq!(value(""), Ok(Value::Null));
        assert_eq!(value("# nothing\n"), Ok(Value::Null));
        assert!(value("a: 1\n---\nb: 2\n").is_err());
        assert!(value("a: [1").is_err());
        assert!(value("[a]: 1").is_err());
    }

    #[test]
    fn anchors_and_merges_are_expanded() {
        let text = "base: &b { x: 1, y: 2 }\nmore:\n  <<: *b\n  y: 3\nlist: [*b, *b]\n";
        let want = json!({
            "base": { "x": 1, "y": 2 }, "more": { "x": 1, "y": 3 },
            "list": [{ "x": 1, "y": 2 }, { "x": 1, "y": 2 }],
        });
        assert_eq!(value(text), Ok(want));
        assert!(value("a: *none").is_err());
    }

    #[test]
    fn a_key_that_comes_twice_is_a_problem_and_the_last_counts() {
        let (v, problems) = parse("a: 1\nb:\n  c: 1\n  c: 2\n").unwrap();
        assert_eq!(v, json!({ "a": 1, "b": { "c": 2 } }));
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["yaml: unmarshal errors:\n  line 4: key \"c\" already set in map"]
        );
    }

    #[test]
    fn depth_and_expansion_are_bounded() {
        for open in ["[", "{a: ", "- ", "? "] {
            assert!(value(&open.repeat(30_000)).is_err(), "{open}");
        }
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(value(&nested(100)).is_ok());
        assert!(value(&nested(102)).is_err());
        // Ten aliases of ten aliases: each level is ten times the one before.
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let ten = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{ten}]\n"));
        }
        assert!(value(&bomb).unwrap_err().contains("too many values"));
        let long = format!(
            "a: &a {}\nb: [{}]",
            "x".repeat(300_000),
            "*a, ".repeat(1_500)
        );
        assert!(value(&long).unwrap_err().contains("excessive aliasing"));
        let deep = format!(
            "a: &a {}\nb: {}*a{}",
            nested(60),
            "[".repeat(60),
            "]".repeat(60)
        );
        assert!(value(&deep).unwrap_err().contains("depth"));
    }

    #[test]
    fn twice_the_document_costs_twice() {
        let makers: [fn(usize) -> String; 5] = [
            |n| "- {a: 1, b: [x]}\n".repeat(n),
            |n| (0..n).map(|i| format!("k{i}: v\n")).collect(),
            |n| (0..n).map(|i| format!("- &k{i} v\n")).collect(),
            |n| format!("- &a {{b: c}}\n{}", "- *a\n".repeat(n)),
            |n| format!("[{}]", "[],".repeat(n)),
        ];
        for (i, make) in makers.iter().enumerate() {
            let cost = |n: usize| {
                let text = make(n);
                let mut r = Reader {
                    events: Parser::new_from_str(&text),
                    budget: Budget::new(),
                    anchors: HashMap::new(),
                    problems: Vec::new(),
                };
                r.document().expect("document");
                r.budget.spent()
            };
            let (one, two) = (cost(2_000), cost(4_000));
            assert!(two <= 2 * one, "{i}: {one}, then {two}");
        }
    }
}
