//! Label selectors as text: words, signs, and what they ask for.

use super::{Operator, Requirement};

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Symbol(&'static str),
    End,
}

/// What is left of a text.
pub(super) struct Parser<'a> {
    rest: &'a str,
}

const SYMBOLS: [&str; 9] = ["!=", "==", "=", "(", ")", ",", "!", ">", "<"];

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
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

    pub fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
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
