//! Words of an expression: numbers, strings with their escapes, identifiers, signs.

use std::sync::Arc;

use crate::ast::Literal;
use crate::issue::Issue;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Literal(Literal),
    Ident(Arc<str>),
    /// A sign or the word `in`.
    Sign(&'static str),
    End,
}

/// A token and where it begins and ends, in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub at: u32,
    pub end: u32,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%", "=", ";", "@",
];
/// Signs of other languages: they are words, but no expression holds them.
const FOREIGN: [&str; 3] = ["=", ";", "@"];

/// Splits an expression into tokens; the last one is [`Token::End`]. Linear in the text.
pub(crate) fn lex(source: &str) -> Result<Vec<Spanned>, Vec<Issue>> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    let mut issues = Vec::new();
    loop {
        lexer.skip_blank();
        let at = lexer.at as u32;
        match lexer.next() {
            Ok(token) => {
                let last = token == Token::End;
                tokens.push(Spanned {
                    token,
                    at,
                    end: lexer.at as u32,
                });
                if last {
                    break;
                }
            }
            Err(message) => {
                issues.push(Issue { at, message });
                if issues.len() >= MAX_ISSUES {
                    break;
                }
            }
        }
    }
    if issues.is_empty() {
        Ok(tokens)
    } else {
        Err(issues)
    }
}

/// Errors after which reading ends.
const MAX_ISSUES: usize = 30;

struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn take(&mut self, len: usize) -> &'s str {
        let text = &self.rest()[..len];
        self.at += len;
        text
    }

    fn next(&mut self) -> Result<Token, String> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        let second = rest.as_bytes().get(1).copied().unwrap_or(0);
        if let Some(prefix) = string_prefix(rest) {
            return self.string(prefix);
        }
        if first.is_ascii_digit() || (first == '.' && second.is_ascii_digit()) {
            return self.number();
        }
        if first == '_' || first.is_ascii_alphabetic() {
            return Ok(self.word());
        }
        for sign in SIGNS {
            if rest.starts_with(sign) {
                self.at += sign.len();
                if FOREIGN.contains(&sign) {
                    break;
                }
                return Ok(Token::Sign(sign));
            }
        }
        if self.rest().len() == rest.len() {
            self.at += first.len_utf8();
        }
        Err(format!(
            "Syntax error: token recognition error at: '{first}'"
        ))
    }

    fn word(&mut self) -> Token {
        let rest = self.rest();
        let len = rest
            .find(|c: char| c != '_' && !c.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        match self.take(len) {
            "true" => Token::Literal(Literal::Bool(true)),
            "false" => Token::Literal(Literal::Bool(false)),
            "null" => Token::Literal(Literal::Null),
            "in" => Token::Sign("in"),
            word => Token::Ident(Arc::from(word)),
        }
    }

    fn number(&mut self) -> Result<Token, String> {
        let rest = self.rest().as_bytes();
        if rest.starts_with(b"0x") && rest.get(2).is_some_and(u8::is_ascii_hexdigit) {
            let digits = rest[2..]
                .iter()
                .take_while(|b| b.is_ascii_hexdigit())
                .count();
            let text = &self.take(2 + digits)[2..];
            return self.whole(text, 16);
        }
        let digits = |from: usize| {
            rest[from..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count()
        };
        let mut len = digits(0);
        let mut is_float = false;
        if rest.get(len) == Some(&b'.') && rest.get(len + 1).is_some_and(u8::is_ascii_digit) {
            is_float = true;
            len += 1 + digits(len + 1);
        }
        if matches!(rest.get(len), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(len + 1), Some(b'+' | b'-')));
            let power = digits((len + 1 + sign).min(rest.len()));
            if power > 0 {
                is_float = true;
                len += 1 + sign + power;
            }
        }
        let text = self.take(len);
        if !is_float {
            return self.whole(text, 10);
        }
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Token::Literal(Literal::Double(number))),
            _ => Err("invalid double literal".into()),
        }
    }

    /// An integer; the sign of a negative one is a token of its own, so that one more than the
    /// largest is let pass here and refused by the parser unless a minus stands before it.
    fn whole(&mut self, text: &str, radix: u32) -> Result<Token, String> {
        let number = u64::from_str_radix(text, radix);
        if matches!(self.rest().as_bytes().first(), Some(b'u' | b'U')) {
            self.at += 1;
            let number = number.map_err(|_| "invalid uint literal".to_owned())?;
            return Ok(Token::Literal(Literal::Uint(number)));
        }
        match number {
            Ok(n) if n <= i64::MAX as u64 => Ok(Token::Literal(Literal::Int(n as i64))),
            Ok(n) if n == MIN_INT => Ok(Token::Literal(Literal::Int(i64::MIN))),
            _ => Err("invalid int literal".into()),
        }
    }

    fn string(&mut self, prefix: Prefix) -> Result<Token, String> {
        self.at += prefix.len;
        let quote = &self.rest()[..1];
        let triple = quote.repeat(3);
        let close = if self.rest().starts_with(&triple) {
            &*triple
        } else {
            quote
        };
        self.at += close.len();
        let mut bytes = Vec::new();
        loop {
            let rest = self.rest();
            if rest.starts_with(close) {
                self.at += close.len();
                break;
            }
            let Some(c) = rest.chars().next() else {
                return Err("Syntax error: token recognition error at: unterminated string".into());
            };
            if c == '\n' && close.len() == 1 {
                return Err("Syntax error: token recognition error at: unterminated string".into());
            }
            if c == '\\' && !prefix.raw {
                self.escape(prefix.bytes, &mut bytes)?;
            } else if c == '\\' {
                // Raw: the next character has no meaning, not even as the closing quote.
                let two: String = rest.chars().take(2).collect();
                self.at += two.len();
                bytes.extend_from_slice(two.as_bytes());
            } else {
                self.at += c.len_utf8();
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        if prefix.bytes {
            return Ok(Token::Literal(Literal::Bytes(bytes.into())));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Token::Literal(Literal::String(text.into()))),
            Err(_) => Err("invalid string literal".into()),
        }
    }

    fn escape(&mut self, is_bytes: bool, out: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || "Syntax error: token recognition error at: invalid escape".to_owned();
        let rest = self.rest();
        let kind = rest.chars().nth(1).ok_or_else(wrong)?;
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '\'' | '"' | '`' | '?' => Some(kind as u8),
            _ => None,
        };
        if let Some(byte) = simple {
            self.at += 2;
            out.push(byte);
            return Ok(());
        }
        let (skip, len, radix) = match kind {
            'x' | 'X' => (2, 2, 16),
            'u' if !is_bytes => (2, 4, 16),
            'U' if !is_bytes => (2, 8, 16),
            '0'..='3' => (1, 3, 8),
            _ => return Err(wrong()),
        };
        let digits = rest.get(skip..skip + len).ok_or_else(wrong)?;
        if !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(wrong());
        }
        let code = u32::from_str_radix(digits, radix).map_err(|_| wrong())?;
        self.at += skip + len;
        if is_bytes {
            out.push(u8::try_from(code).map_err(|_| wrong())?);
        } else {
            let c = char::from_u32(code).ok_or_else(wrong)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

/// One more than the largest int: only as `-9223372036854775808`.
pub(crate) const MIN_INT: u64 = i64::MAX as u64 + 1;

struct Prefix {
    len: usize,
    raw: bool,
    bytes: bool,
}

/// What stands before a quote: `r`, `b`, or both.
fn string_prefix(text: &str) -> Option<Prefix> {
    let mut prefix = Prefix {
        len: 0,
        raw: false,
        bytes: false,
    };
    for byte in text.bytes().take(3) {
        match byte {
            b'"' | b'\'' => return Some(prefix),
            b'r' | b'R' if !prefix.raw => prefix.raw = true,
            b'b' | b'B' if !prefix.bytes && !prefix.raw => prefix.bytes = true,
            _ => return None,
        }
        prefix.len += 1;
    }
    None
}
