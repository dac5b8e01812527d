//! Paths to fields as rules name them (`.spec.ports['http']`), which must exist in the schema.

use crate::model::{Additional, Structural};

/// The path in the form of errors (`.spec.ports[http]`); the error says what is wrong with it.
pub fn parse(path: &str, schema: &Structural) -> Result<String, String> {
    walk(path, schema, true).map(|(path, _)| path)
}

/// The node that a path without indices leads to (`.spec.replicas`).
pub fn find<'s>(path: &str, schema: &'s Structural) -> Result<&'s Structural, String> {
    walk(path, schema, false).map(|(_, node)| node)
}

fn walk<'s>(
    path: &str,
    schema: &'s Structural,
    indices: bool,
) -> Result<(String, &'s Structural), String> {
    let mut out = String::new();
    let mut node = schema;
    let mut tokens = Tokens(path);
    while let Some(token) = tokens.next() {
        match token {
            "[" if !indices => return Err("array notation is not allowed".into()),
            "[" => {
                let quoted = tokens.next().ok_or("unexpected end of JSON path")?;
                let inner = quoted
                    .strip_prefix('\'')
                    .and_then(|q| q.strip_suffix('\''))
                    .filter(|_| quoted.len() >= 2)
                    .ok_or_else(|| format!("expected single quoted string but got {quoted}"))?;
                let name = unescape(inner)?;
                node = step(node, &name, &mut out)?;
                match tokens.next() {
                    None => return Err("unexpected end of JSON path".into()),
                    Some("]") => {}
                    Some(other) => return Err(format!("expected ] but got {other}")),
                }
            }
            "." => {
                let name = tokens.next().ok_or("unexpected end of JSON path")?;
                node = step(node, name, &mut out)?;
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok((out, node))
}

fn step<'s>(node: &'s Structural, name: &str, out: &mut String) -> Result<&'s Structural, String> {
    let wrong = "does not refer to a valid field";
    if !node.properties.is_empty() {
        out.push('.');
        out.push_str(name);
        return node.properties.get(name).ok_or_else(|| wrong.into());
    }
    match &node.additional {
        Additional::Schema(below) => {
            out.push('[');
            out.push_str(name);
            out.push(']');
            Ok(below)
        }
        _ => Err(wrong.into()),
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(c @ ('\'' | '\\')) => c,
            Some(c) => {
                return Err(format!("invalid string literal: invalid escape char \\{c}"));
            }
            None => break,
        });
    }
    Ok(out)
}

/// Dots, brackets, quoted texts, and what stands between them.
struct Tokens<'p>(&'p str);

impl<'p> Iterator for Tokens<'p> {
    type Item = &'p str;

    fn next(&mut self) -> Option<&'p str> {
        let rest = self.0;
        let first = rest.chars().next()?;
        let len = match first {
            '.' | '[' | ']' => 1,
            '\'' => {
                let mut escaped = false;
                let end = rest.char_indices().skip(1).find(|(_, c)| {
                    let ends = *c == '\'' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                end.map_or(rest.len(), |(i, _)| i + 1)
            }
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        let (token, rest) = rest.split_at(len);
        self.0 = rest;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_fields_that_exist() {
        let schema = Structural::read(&json!({
            "type": "object",
            "properties": {
                "foo": {"type": "object", "properties": {"b.c": {"type": "string"}}},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        }))
        .expect("a schema");
        for (path, want) in [
            (".foo", Ok(".foo")),
            (".foo['b.c']", Ok(".foo.b.c")),
            ("['foo']", Ok(".foo")),
            (".map.key", Ok(".map[key]")),
            (".map['a\\'b']", Ok(".map[a'b]")),
            (".bar", Err("does not refer to a valid field")),
            ("foo", Err("expected [ or . but got: foo")),
            (".foo[0]", Err("expected single quoted string but got 0")),
            (".foo['b.c'", Err("unexpected end of JSON path")),
            (".", Err("unexpected end of JSON path")),
            (".foo.b.c", Err("does not refer to a valid field")),
        ] {
            let got = parse(path, &schema);
            assert_eq!(got.as_deref().map_err(|e| &**e), want, "{path}");
        }
        assert!(find(".map['a']", &schema).is_err());
    }
}
