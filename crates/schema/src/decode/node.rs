//! A JSON document as it was written: order, duplicates and the digits of numbers are kept, and
//! errors are the texts of Go's `encoding/json`, since clients see them.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::budget::{Budget, MAX_DEPTH, TooMuch};

#[derive(Debug)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Node<'a>>),
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

impl Node<'_> {
    /// The free-form value; of duplicate names the last one counts.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(b),
            Self::Number(n) => number(&n),
            Self::String(s) => Value::String(s.into_owned()),
            Self::Array(items) => items.into_iter().map(Node::into_value).collect(),
            Self::Object(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(k, v)| (k.into_owned(), v.into_value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// What Go calls this in a type error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

impl From<Value> for Node<'static> {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(b),
            Value::Number(n) => Self::Number(n.to_string().into()),
            Value::String(s) => Self::String(s.into()),
            Value::Array(items) => Self::Array(items.into_iter().map(Node::from).collect()),
            Value::Object(map) => {
                Self::Object(map.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
            }
        }
    }
}

/// An integer where the text is one that fits, else a float.
pub(super) fn number(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    if let Ok(n) = text.parse::<u64>() {
        return n.into();
    }
    text.parse::<f64>()
        .ok()
        .and_then(Number::from_f64)
        .map_or(Value::Null, Value::Number)
}

/// Parses a whole document.
///
/// # Errors
/// Go's text of the syntax error.
pub(super) fn parse(bytes: &[u8]) -> Result<Node<'_>, String> {
    let mut p = Parser {
        bytes,
        at: 0,
        depth: 0,
        budget: Budget::new(),
    };
    let node = p.value()?;
    p.space();
    match p.peek() {
        None => Ok(node),
        Some(c) => Err(bad(c, "after top-level value")),
    }
}

/// A whole number of so many digits is a double for certain.
const DOUBLE_DIGITS: usize = 308;
/// Of a number that is refused.
const SHOWN_DIGITS: usize = 60;

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    budget: Budget,
}

fn bad(c: u8, context: &str) -> String {
    format!("invalid character {} {context}", quote_char(c))
}

fn end() -> String {
    "unexpected end of JSON input".to_owned()
}

/// A byte as Go shows it in a syntax error.
fn quote_char(c: u8) -> String {
    match c {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        _ => {
            let quoted = go_quote(char::from(c).encode_utf8(&mut [0; 4]));
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

/// A string in quotes, as Go's `strconv.Quote` writes it.
pub(super) fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if (0x80..0xa0).contains(&(c as u32)) => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// The next byte that is not a space.
    fn next(&mut self) -> Result<u8, String> {
        self.space();
        self.peek().ok_or_else(end)
    }

    fn value(&mut self) -> Result<Node<'a>, String> {
        self.budget.scalar().map_err(|e| e.to_string())?;
        match self.next()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => Ok(Node::String(self.string()?)),
            b't' => self.literal("true", Node::Bool(true)),
            b'f' => self.literal("false", Node::Bool(false)),
            b'n' => self.literal("null", Node::Null),
            b'-' | b'0'..=b'9' => self.number(),
            c => Err(bad(c, "looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Node<'a>, String>,
    ) -> Result<Node<'a>, String> {
        if self.depth >= MAX_DEPTH {
            return Err(TooMuch::Depth.to_string());
        }
        self.budget.container().map_err(|e| e.to_string())?;
        self.depth += 1;
        self.at += 1;
        let node = read(self)?;
        self.depth -= 1;
        Ok(node)
    }

    fn object(&mut self) -> Result<Node<'a>, String> {
        let mut fields = Vec::new();
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(Node::Object(fields));
        }
        loop {
            match self.next()? {
                b'"' => {}
                c => return Err(bad(c, "looking for beginning of object key string")),
            }
            let key = self.string()?;
            match self.next()? {
                b':' => self.at += 1,
                c => return Err(bad(c, "after object key")),
            }
            fields.push((key, self.value()?));
            match self.next()? {
                b',' => self.at += 1,
                b'}' => break,
                c => return Err(bad(c, "after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(Node::Object(fields))
    }

    fn array(&mut self) -> Result<Node<'a>, String> {
        let mut items = Vec::new();
        if self.next()? == b']' {
            self.at += 1;
            return Ok(Node::Array(items));
        }
        loop {
            items.push(self.value()?);
            match self.next()? {
                b',' => self.at += 1,
                b']' => break,
                c => return Err(bad(c, "after array element")),
            }
        }
        self.at += 1;
        Ok(Node::Array(items))
    }

    fn literal(&mut self, word: &'static str, node: Node<'a>) -> Result<Node<'a>, String> {
        for want in word.bytes() {
            match self.peek() {
                Some(c) if c == want => self.at += 1,
                Some(c) => {
                    let want = char::from(want);
                    return Err(bad(c, &format!("in literal {word} (expecting '{want}')")));
                }
                None => return Err(end()),
            }
        }
        Ok(node)
    }

    fn digits(&mut self, context: &str) -> Result<(), String> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(c) => return Err(bad(c, context)),
            None => return Err(end()),
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Node<'a>, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        // What no double holds has no value here, and must not become null.
        let may_be_large = text.len() > DOUBLE_DIGITS || text.contains(['e', 'E']);
        if may_be_large && text.parse::<f64>().is_ok_and(f64::is_infinite) {
            let shown: String = text.chars().take(SHOWN_DIGITS).collect();
            return Err(format!(
                "json: cannot unmarshal number {shown} into Go value of type float64"
            ));
        }
        Ok(Node::Number(text))
    }

    /// At the opening quote. Bytes that are not UTF-8 become U+FFFD, as in Go.
    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => return self.escaped_string(start),
                Some(c) if c < 0x20 => return Err(bad(c, "in string literal")),
                Some(_) => self.at += 1,
                None => return Err(end()),
            }
        }
        let text = self.bytes.get(start..self.at).unwrap_or_default();
        self.at += 1;
        Ok(String::from_utf8_lossy(text))
    }

    fn escaped_string(&mut self, start: usize) -> Result<Cow<'a, str>, String> {
        let mut out = self.bytes.get(start..self.at).unwrap_or_default().to_vec();
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(c) if c < 0x20 => return Err(bad(c, "in string literal")),
                Some(c) => {
                    out.push(c);
                    self.at += 1;
                }
                None => return Err(end()),
            }
        }
        self.at += 1;
        Ok(Cow::Owned(String::from_utf8_lossy(&out).into_owned()))
    }

    fn escape(&mut self) -> Result<char, String> {
        let c = self.peek().ok_or_else(end)?;
        self.at += 1;
        Ok(match c {
            b'"' | b'\\' | b'/' => char::from(c),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            c => return Err(bad(c, "in string escape code")),
        })
    }

    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex4()?;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let low_follows = self.bytes.get(self.at..self.at + 2) == Some(b"\\u");
        if (0xd800..0xdc00).contains(&first) && low_follows {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            self.at = back;
        }
        Ok('\u{fffd}')
    }

    fn hex4(&mut self) -> Result<u32, String> {
        let mut out = 0;
        for _ in 0..4 {
            let c = self.peek().ok_or_else(end)?;
            let digit = char::from(c)
                .to_digit(16)
                .ok_or_else(|| bad(c, "in \\u hexadecimal character escape"))?;
            out = out * 16 + digit;
            self.at += 1;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(text: &str) -> usize {
        let mut p = Parser {
            bytes: text.as_bytes(),
            at: 0,
            depth: 0,
            budget: Budget::new(),
        };
        p.value().expect("JSON");
        p.budget.spent()
    }

    #[test]
    fn twice_the_document_costs_twice() {
        let makers: [fn(usize) -> String; 4] = [
            |n| format!("[{}1]", "1,".repeat(n)),
            |n| format!("[{}1]", "{\"a\":[{}]},".repeat(n)),
            |n| format!("{{{}\"b\":1}}", "\"a\":1,".repeat(n)),
            |n| format!("[{}1]", "\"\\u0041\",".repeat(n)),
        ];
        for (i, make) in makers.iter().enumerate() {
            let (one, two) = (cost(&make(5_000)), cost(&make(10_000)));
            assert!(two <= 2 * one, "{i}: {one}, then {two}");
        }
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
