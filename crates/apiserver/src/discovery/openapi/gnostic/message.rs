//! Messages as tables, and how a JSON value is written by them. A member that a message has no field
//! for is left out: gnostic would refuse the whole document, and with it every kind, for one word of
//! an extension server.

use std::borrow::Cow;

use serde_json::Value;

use crate::codec::{put_double, put_field, put_number};

/// A message: which part of a value stands in which of its fields.
pub struct Message {
    pub fields: &'static [Field],
    /// Fields that several messages have in the same order, and what is added to their numbers here.
    pub shared: Option<(u32, &'static [Field])>,
    /// Of a value that is one of several things, each with a field of its own: the number of the
    /// field; 0 where it is none of them.
    pub one_of: Option<fn(&Value) -> u32>,
}

/// A message of its own fields alone: what most are.
pub const PLAIN: Message = Message {
    fields: &[],
    shared: None,
    one_of: None,
};

/// A field of a message.
#[derive(Clone, Copy)]
pub struct Field {
    number: u32,
    part: Part,
    holds: Holds,
    /// Whether it is repeated, for each item of a list.
    is_list: bool,
}

/// What of a value a field is about.
#[derive(Clone, Copy)]
enum Part {
    Member(&'static str),
    /// The members whose names pass, each as a pair of name and value.
    Pairs(fn(&str) -> bool),
    Whole,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub enum Holds {
    Text,
    Flag,
    Integer,
    Number,
    /// Whatever it is, as text.
    Any,
    Of(&'static Message),
}

impl Field {
    const fn member(number: u32, name: &'static str, holds: Holds) -> Self {
        Self {
            number,
            part: Part::Member(name),
            holds,
            is_list: false,
        }
    }

    const fn listed(self) -> Self {
        Self {
            is_list: true,
            ..self
        }
    }
}

pub const fn text(number: u32, name: &'static str) -> Field {
    Field::member(number, name, Holds::Text)
}

pub const fn texts(number: u32, name: &'static str) -> Field {
    text(number, name).listed()
}

pub const fn flag(number: u32, name: &'static str) -> Field {
    Field::member(number, name, Holds::Flag)
}

pub const fn integer(number: u32, name: &'static str) -> Field {
    Field::member(number, name, Holds::Integer)
}

pub const fn number(number: u32, name: &'static str) -> Field {
    Field::member(number, name, Holds::Number)
}

pub const fn any(number: u32, name: &'static str) -> Field {
    Field::member(number, name, Holds::Any)
}

pub const fn anys(number: u32, name: &'static str) -> Field {
    any(number, name).listed()
}

pub const fn one(number: u32, name: &'static str, of: &'static Message) -> Field {
    Field::member(number, name, Holds::Of(of))
}

pub const fn each(number: u32, name: &'static str, of: &'static Message) -> Field {
    one(number, name, of).listed()
}

/// The value itself.
pub const fn whole(number: u32, holds: Holds) -> Field {
    Field {
        number,
        part: Part::Whole,
        holds,
        is_list: false,
    }
}

/// The items of the value itself, which may be one without a list.
pub const fn items(number: u32, holds: Holds) -> Field {
    whole(number, holds).listed()
}

/// The members whose names pass, with their names.
pub const fn pairs(number: u32, takes: fn(&str) -> bool, holds: Holds) -> Field {
    Field {
        number,
        part: Part::Pairs(takes),
        holds,
        is_list: false,
    }
}

/// All members, with their names.
pub const fn members(number: u32, holds: Holds) -> Field {
    pairs(number, every, holds)
}

/// What the specification has no words for.
pub const fn extensions(number: u32) -> Field {
    pairs(number, is_extension, Holds::Any)
}

fn every(_: &str) -> bool {
    true
}

fn is_extension(name: &str) -> bool {
    name.starts_with("x-")
}

/// Of what is itself (field 1) or a reference to it (field 2).
pub fn or_reference(value: &Value) -> u32 {
    match value.get("$ref") {
        None => 1,
        Some(_) => 2,
    }
}

/// A value as a message.
pub fn written(of: &Message, value: &Value) -> Vec<u8> {
    let chosen = of.one_of.map(|choose| choose(value));
    let (after, shared) = of.shared.unwrap_or_default();
    let own = of.fields.iter().map(|field| (field.number, field));
    let shared = shared.iter().map(|field| (after + field.number, field));
    let mut out = Vec::new();
    for (number, field) in own.chain(shared) {
        if chosen.is_none_or(|chosen| chosen == number) {
            field.put(&mut out, number, value, chosen.is_some());
        }
    }
    out
}

impl Field {
    /// `always`: what it holds is said although it is the same as nothing.
    fn put(&self, out: &mut Vec<u8>, number: u32, value: &Value, always: bool) {
        match self.part {
            Part::Whole => self.put_value(out, number, value, always),
            Part::Member(name) => {
                if let Some(value) = value.get(name) {
                    self.put_value(out, number, value, always);
                }
            }
            Part::Pairs(takes) => {
                let members = value.as_object().into_iter().flatten();
                for (name, value) in members.filter(|(name, _)| takes(name)) {
                    let mut pair = Vec::new();
                    put_field(&mut pair, 1, name.as_bytes());
                    self.holds.put(&mut pair, 2, value, false);
                    put_field(out, number, &pair);
                }
            }
        }
    }

    fn put_value(&self, out: &mut Vec<u8>, number: u32, value: &Value, always: bool) {
        match value {
            Value::Array(items) if self.is_list => {
                for item in items {
                    self.holds.put(out, number, item, true);
                }
            }
            _ => self.holds.put(out, number, value, always),
        }
    }
}

impl Holds {
    /// A value of another type than this is left out; as a message it is an empty one.
    fn put(self, out: &mut Vec<u8>, number: u32, value: &Value, always: bool) {
        match self {
            Self::Text => {
                let text = match value {
                    Value::String(text) => Cow::Borrowed(text.as_str()),
                    // As gnostic, which reads a document as YAML.
                    Value::Number(digits) => Cow::Owned(digits.to_string()),
                    _ => return,
                };
                if always || !text.is_empty() {
                    put_field(out, number, text.as_bytes());
                }
            }
            Self::Flag => match value.as_bool() {
                Some(flag) if flag || always => put_number(out, number, flag.into()),
                _ => {}
            },
            Self::Integer => match value.as_i64() {
                // Negative ones are written in ten bytes, as protobuf does it.
                Some(n) if n != 0 || always => put_number(out, number, n as u64),
                _ => {}
            },
            Self::Number => match value.as_f64() {
                Some(n) if n != 0.0 || always => put_double(out, number, n),
                _ => {}
            },
            Self::Any => {
                // JSON is YAML, of which every reader, of whichever version of YAML, makes the same:
                // a kind that is called `No` stays a text.
                let mut any = Vec::new();
                put_field(&mut any, 2, format!("{value}\n").as_bytes());
                put_field(out, number, &any);
            }
            Self::Of(message) => put_field(out, number, &written(message, value)),
        }
    }
}
