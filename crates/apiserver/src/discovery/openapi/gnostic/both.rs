//! Messages that both editions have, with the same numbers of their fields, and choices that both make.

use serde_json::Value;

use super::message::{Holds, Message, PLAIN, extensions, flag, items, members, one, text};

pub static CONTACT: Message = Message {
    fields: &[
        text(1, "name"),
        text(2, "url"),
        text(3, "email"),
        extensions(4),
    ],
    ..PLAIN
};

pub static LICENSE: Message = Message {
    fields: &[text(1, "name"), text(2, "url"), extensions(3)],
    ..PLAIN
};

pub static TAG: Message = Message {
    fields: &[
        text(1, "name"),
        text(2, "description"),
        one(3, "externalDocs", &EXTERNAL_DOCS),
        extensions(4),
    ],
    ..PLAIN
};

pub static EXTERNAL_DOCS: Message = Message {
    fields: &[text(1, "description"), text(2, "url"), extensions(3)],
    ..PLAIN
};

pub fn is_path(name: &str) -> bool {
    name.starts_with('/')
}

pub fn schema_or_flag(value: &Value) -> u32 {
    match value {
        Value::Bool(_) => 2,
        _ => 1,
    }
}

pub static TEXTS: Message = Message {
    fields: &[items(1, Holds::Text)],
    ..PLAIN
};

pub static XML: Message = Message {
    fields: &[
        text(1, "name"),
        text(2, "namespace"),
        text(3, "prefix"),
        flag(4, "attribute"),
        flag(5, "wrapped"),
        extensions(6),
    ],
    ..PLAIN
};

pub static SECURITY_REQUIREMENT: Message = Message {
    fields: &[members(1, Holds::Of(&TEXTS))],
    ..PLAIN
};

/// Names and what they stand for.
pub static WORDS: Message = Message {
    fields: &[members(1, Holds::Text)],
    ..PLAIN
};
