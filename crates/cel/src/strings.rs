//! Functions on texts: upstream's string extensions, and those of regular expressions.

use std::rc::Rc;

use regex::Regex;

use crate::convert::{double_text, to_text};
use crate::error::EvalError;
use crate::value::{Evaluated, Map, Str, Value};

/// Most bytes of a text that an expression makes. Costs are computed from what goes in, and some
/// functions make much of little (`'aa…'.replace('a', …)`).
pub(crate) const MAX_TEXT: usize = 10 << 20;

fn bounded(bytes: usize) -> Result<(), EvalError> {
    if bytes > MAX_TEXT {
        return Err(EvalError::new("string is too large"));
    }
    Ok(())
}

/// A part of a text, borrowed where the text is.
fn part<'a>(text: &Str<'a>, from: usize, to: usize) -> Str<'a> {
    match text {
        Str::Ref(text) => Str::Ref(&text[from..to]),
        Str::Rc(text) => Str::Rc(Rc::from(&text[from..to])),
    }
}

/// The byte at which the `n`th character begins; the end counts as one.
fn offset(text: &str, n: i64) -> Option<usize> {
    let n = usize::try_from(n).ok()?;
    if text.is_ascii() {
        return (n <= text.len()).then_some(n);
    }
    let ends = text.char_indices().map(|(i, _)| i);
    ends.chain([text.len()]).nth(n)
}

fn out_of_range(n: i64) -> EvalError {
    EvalError::new(format!("index out of range: {n}"))
}

pub(crate) fn contains<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.contains(&**b))),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn starts_with<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.starts_with(&**b))),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn ends_with<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.ends_with(&**b))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `matches`, `find` and `findAll` with a compiled pattern.
pub(crate) fn with_regex<'a>(name: &str, regex: &Regex, args: &[Value<'a>]) -> Evaluated<'a> {
    let Some(Value::String(text)) = args.first() else {
        return Err(EvalError::no_overload());
    };
    match name {
        "matches" => Ok(Value::Bool(regex.is_match(text))),
        "find" => Ok(Value::String(match regex.find(text) {
            Some(found) => part(text, found.start(), found.end()),
            None => Str::Ref(""),
        })),
        _ => {
            let most = match args.get(2) {
                None => usize::MAX,
                Some(Value::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                Some(_) => return Err(EvalError::no_overload()),
            };
            let found = regex.find_iter(text).take(most);
            let found = found.map(|m| Value::String(part(text, m.start(), m.end())));
            Ok(Value::list(found.collect()))
        }
    }
}

pub(crate) fn char_at<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(n)] = args else {
        return Err(EvalError::no_overload());
    };
    let from = offset(text, *n).ok_or_else(|| out_of_range(*n))?;
    let len = text[from..].chars().next().map_or(0, char::len_utf8);
    Ok(Value::String(part(text, from, from + len)))
}

/// Characters before a byte.
fn count(text: &str, byte: usize) -> i64 {
    text[..byte].chars().count() as i64
}

pub(crate) fn index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, *from),
        _ => return crate::lists::index_of(args),
    };
    if part.is_empty() {
        return Ok(Value::Int(from));
    }
    if from < 0 {
        return Err(out_of_range(from));
    }
    let found = offset(text, from).and_then(|start| Some(start + text[start..].find(&**part)?));
    Ok(Value::Int(found.map_or(-1, |at| count(text, at))))
}

pub(crate) fn last_index_of<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, part, from) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(from)] => (text, part, Some(*from)),
        _ => return crate::lists::last_index_of(args),
    };
    if part.is_empty() {
        return Ok(Value::Int(from.unwrap_or_else(|| count(text, text.len()))));
    }
    let end = match from {
        None => text.len(),
        Some(from) if from < 0 => return Err(out_of_range(from)),
        Some(from) => match offset(text, from) {
            // Past the end there is nothing.
            None => return Ok(Value::Int(-1)),
            Some(at) if at == text.len() => return Ok(Value::Int(-1)),
            Some(at) => {
                let mut end = (at + part.len()).min(text.len());
                while !text.is_char_boundary(end) {
                    end += 1;
                }
                end
            }
        },
    };
    let found = text[..end].rfind(&**part);
    Ok(Value::Int(found.map_or(-1, |at| count(text, at))))
}

pub(crate) fn join<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return Err(EvalError::no_overload()),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let Value::String(item) = item? else {
            return Err(EvalError::no_overload());
        };
        bounded(out.len() + separator.len() + item.len())?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(&item);
    }
    Ok(Value::text(out))
}

pub(crate) fn lower_ascii<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::text(text.to_ascii_lowercase())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn upper_ascii<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::text(text.to_ascii_uppercase())),
        _ => Err(EvalError::no_overload()),
    }
}

pub(crate) fn replace<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, old, new, most) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => {
            (text, old, new, usize::MAX)
        }
        [
            Value::String(text),
            Value::String(old),
            Value::String(new),
            Value::Int(n),
        ] => (text, old, new, usize::try_from(*n).unwrap_or(usize::MAX)),
        _ => return Err(EvalError::no_overload()),
    };
    let places = if old.is_empty() {
        text.chars().count() + 1
    } else {
        text.matches(&**old).count()
    };
    bounded(
        text.len()
            .saturating_add(places.min(most).saturating_mul(new.len())),
    )?;
    Ok(Value::text(text.replacen(&**old, new, most)))
}

pub(crate) fn split<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, separator, most) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(n)] => (text, separator, *n),
        _ => return Err(EvalError::no_overload()),
    };
    if most == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut items = Vec::new();
    let mut at = 0;
    while items.len() + 1 < most {
        let rest = &text[at..];
        let found = if separator.is_empty() {
            // Between all characters, but not before the first and after the last.
            let first = rest.chars().next().map_or(0, char::len_utf8);
            (first < rest.len()).then_some((first, 0))
        } else {
            rest.find(&**separator).map(|i| (i, separator.len()))
        };
        let Some((len, skip)) = found else { break };
        items.push(Value::String(part(text, at, at + len)));
        at += len + skip;
    }
    if !(separator.is_empty() && text.is_empty()) {
        items.push(Value::String(part(text, at, text.len())));
    }
    Ok(Value::list(items))
}

pub(crate) fn substring<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text, *from, None),
        [Value::String(text), Value::Int(from), Value::Int(to)] => (text, *from, Some(*to)),
        _ => return Err(EvalError::no_overload()),
    };
    if let Some(to) = to
        && from > to
    {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {from}, end: {to}"
        )));
    }
    let start = offset(text, from).ok_or_else(|| out_of_range(from))?;
    let end = match to {
        None => text.len(),
        Some(to) => offset(text, to).ok_or_else(|| out_of_range(to))?,
    };
    Ok(Value::String(part(text, start, end)))
}

pub(crate) fn trim<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else {
        return Err(EvalError::no_overload());
    };
    let trimmed = text.trim();
    let from = text.len() - text.trim_start().len();
    Ok(Value::String(part(text, from, from + trimmed.len())))
}

pub(crate) fn quote<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text)] = args else {
        return Err(EvalError::no_overload());
    };
    bounded(2 * text.len() + 2)?;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Value::text(out))
}

/// `jsonpatch.escapeKey`.
pub(crate) fn escape_key<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::text(text.replace('~', "~0").replace('/', "~1"))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `'%s is %d'.format([…])`.
pub(crate) fn format<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::String(text), Value::List(values)] = args else {
        return Err(EvalError::no_overload());
    };
    let mut values = values.iter();
    let mut out = String::new();
    let mut rest: &str = text;
    let mut used = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return Err(EvalError::new("unexpected end of string"));
        }
        let value = values
            .next()
            .ok_or_else(|| EvalError::new(format!("index {used} out of range")))??;
        used += 1;
        rest = clause(rest, &value, &mut out)?;
        bounded(out.len())?;
    }
    out.push_str(rest);
    bounded(out.len())?;
    Ok(Value::text(out))
}

/// Default digits after the point of `%f` and `%e`.
const DIGITS: usize = 6;
/// Most digits that may be asked for.
const MAX_DIGITS: usize = 1000;

fn clause<'t>(rest: &'t str, value: &Value, out: &mut String) -> Result<&'t str, EvalError> {
    let parse = |text: String| EvalError::new(format!("could not parse formatting clause: {text}"));
    let mut digits = None;
    let mut rest = rest;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| {
            parse("error while parsing precision: could not find end of precision specifier".into())
        })?;
        let wanted = if end == 0 {
            Ok(0)
        } else {
            after[..end].parse()
        };
        digits = Some(
            wanted
                .ok()
                .filter(|n| *n <= MAX_DIGITS)
                .ok_or_else(|| parse("error while parsing precision".into()))?,
        );
        rest = &after[end..];
    }
    let kind = rest
        .chars()
        .next()
        .ok_or_else(|| EvalError::new("unexpected end of string"))?;
    let rest = &rest[kind.len_utf8()..];
    let given = |what: &str| {
        EvalError::new(format!(
            "error during formatting: {what}, was given {}",
            &*value.type_name()
        ))
    };
    match kind {
        's' => text_of(value, out)?,
        'd' => match value {
            Value::Int(_) | Value::Uint(_) | Value::Double(_) => out.push_str(&plain(value)),
            _ => {
                return Err(given(
                    "decimal clause can only be used on ints, uints, and doubles",
                ));
            }
        },
        'f' | 'e' => {
            let digits = digits.unwrap_or(DIGITS);
            let n = match value {
                Value::Double(n) => *n,
                Value::Int(n) => *n as f64,
                Value::Uint(n) => *n as f64,
                _ if kind == 'f' => {
                    return Err(given(
                        "fixed-point clause can only be used on ints, uints, and doubles",
                    ));
                }
                _ => {
                    return Err(given(
                        "scientific clause can only be used on ints, uints, and doubles",
                    ));
                }
            };
            out.push_str(&match kind {
                _ if !n.is_finite() => plain(&Value::Double(n)),
                'f' => format!("{n:.digits$}"),
                _ => scientific(n, digits),
            });
        }
        'b' => match value {
            Value::Int(n) => out.push_str(&signed(*n, |n| format!("{n:b}"))),
            Value::Uint(n) => out.push_str(&format!("{n:b}")),
            Value::Bool(b) => out.push(if *b { '1' } else { '0' }),
            _ => {
                return Err(given(
                    "only ints, uints, and bools can be formatted as binary",
                ));
            }
        },
        'x' | 'X' => {
            let hex = match value {
                Value::Int(n) => signed(*n, |n| format!("{n:x}")),
                Value::Uint(n) => format!("{n:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => {
                    return Err(given(
                        "only ints, uints, bytes, and strings can be formatted as hex",
                    ));
                }
            };
            out.push_str(&if kind == 'X' { hex.to_uppercase() } else { hex });
        }
        'o' => match value {
            Value::Int(n) => out.push_str(&signed(*n, |n| format!("{n:o}"))),
            Value::Uint(n) => out.push_str(&format!("{n:o}")),
            _ => return Err(given("octal clause can only be used on ints and uints")),
        },
        other => return Err(parse(format!("unrecognized formatting clause \"{other}\""))),
    }
    Ok(rest)
}

fn signed(n: i64, print: impl Fn(u64) -> String) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", print(n.unsigned_abs()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// As upstream's version of the library writes it: `3.140000×10⁰⁰`.
fn scientific(n: f64, digits: usize) -> String {
    let text = format!("{n:.digits$e}");
    let (head, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = match power.strip_prefix('-') {
        Some(power) => ("⁻", power),
        None => ("", power),
    };
    let raised = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let power: String = format!("{power:0>2}")
        .bytes()
        .filter_map(|b| raised.get(usize::from(b.wrapping_sub(b'0'))))
        .collect();
    format!("{head}×10{sign}{power}")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Double(n) if n.is_infinite() => {
            if *n > 0.0 { "Infinity" } else { "-Infinity" }.into()
        }
        Value::Double(n) => double_text(*n),
        other => to_text(other),
    }
}

fn text_of(value: &Value, out: &mut String) -> Result<(), EvalError> {
    bounded(out.len())?;
    match value {
        Value::List(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                text_of(&item?, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => map_text(map, out)?,
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::Duration(_)
        | Value::Timestamp(_)
        | Value::Type(_) => out.push_str(&plain(value)),
        other => {
            return Err(EvalError::new(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                &*other.type_name()
            )));
        }
    }
    Ok(())
}

fn map_text(map: &Map, out: &mut String) -> Result<(), EvalError> {
    let mut keys: Vec<(String, Value)> = map.keys().into_iter().map(|k| (plain(&k), k)).collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    out.push('{');
    for (i, (text, key)) in keys.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(text);
        out.push_str(": ");
        if let Some(value) = map.get(key) {
            text_of(&value?, out)?;
        }
    }
    out.push('}');
    Ok(())
}
