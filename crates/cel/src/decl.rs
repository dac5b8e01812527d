//! Declared types: what a schema says of the values that an expression reads, with the largest
//! and smallest sizes that cost estimation needs. They are also the lens through which JSON is
//! read while an expression runs (`value.rs`).
//!
//! How a schema becomes a declaration is decided by the owner of the schema (`structural`).

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::types::Type;

/// Largest request that is accepted, in bytes; sizes that a schema does not bound follow from it.
pub const MAX_REQUEST_BYTES: i64 = 3 * 1024 * 1024;
/// No number of elements is known.
pub const NO_MAX: i64 = i64::MAX;

/// A declared type.
#[derive(Clone, Debug)]
pub struct Decl {
    /// Name in error messages; of objects also their identity.
    pub name: Arc<str>,
    pub kind: DeclKind,
    /// Most characters of a string, bytes of bytes, items of a list or entries of a map; 0 of what
    /// has a fixed size.
    pub max_elements: i64,
    /// Fewest bytes that a value takes in JSON.
    pub min_size: i64,
    /// Keys of a map of such values, and of all maps within them that have no declaration of their
    /// own, may also be written as fields are ([`escape`]): `claims.a__dash__b`.
    pub escaped_keys: bool,
}

#[derive(Clone, Debug)]
pub enum DeclKind {
    /// Anything, read by what it is.
    Dyn,
    Bool,
    Int,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    /// A Go duration in JSON.
    Duration,
    /// `2006-01-02` in JSON.
    Date,
    /// RFC 3339 in JSON.
    Timestamp,
    List(Arc<Decl>, ListKind),
    /// Keys are strings.
    Map(Arc<Decl>),
    /// Fields by their names in expressions (see [`escape`]).
    Object(BTreeMap<Arc<str>, Field>),
    /// An object whose fields are not known: each may be named, and holds anything.
    Open,
    /// A CEL type that JSON has no form of.
    Other(Type),
}

/// How lists are compared and added: sets and maps have no order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Of objects with these JSON keys.
    Map(Vec<Arc<str>>),
}

#[derive(Clone, Debug)]
pub struct Field {
    /// Name in JSON.
    pub json: Arc<str>,
    pub decl: Arc<Decl>,
}

impl Decl {
    pub fn new(name: &str, kind: DeclKind, max_elements: i64, min_size: i64) -> Self {
        Self {
            name: Arc::from(name),
            kind,
            max_elements,
            min_size,
            escaped_keys: false,
        }
    }

    /// The same, as values of a map whose keys may be written escaped.
    #[must_use]
    pub fn with_escaped_keys(&self) -> Self {
        Self {
            escaped_keys: true,
            ..self.clone()
        }
    }

    /// Anything, of unknown size.
    pub fn any() -> Arc<Self> {
        static ANY: LazyLock<Arc<Decl>> =
            LazyLock::new(|| Arc::new(Decl::new("dyn", DeclKind::Dyn, NO_MAX, 1)));
        ANY.clone()
    }

    /// An object with these fields, under their JSON names. Those that cannot be written in an
    /// expression are left out.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Arc<Decl>)>) -> Self {
        let fields = fields.into_iter().filter_map(|(json, decl)| {
            let field = Field {
                json: Arc::from(json.as_str()),
                decl,
            };
            Some((Arc::from(escape(&json)?), field))
        });
        Self::new(name, DeclKind::Object(fields.collect()), 0, 2)
    }

    /// Values of a type that is only known as that of another expression.
    pub fn of(ty: Type) -> Arc<Self> {
        Arc::new(Self::new(&ty.to_string(), DeclKind::Other(ty), NO_MAX, 1))
    }

    /// The CEL type of values of this declaration.
    pub fn ty(self: &Arc<Self>) -> Type {
        match &self.kind {
            DeclKind::Dyn => Type::Dyn,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::String => Type::String,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Duration => Type::Duration,
            DeclKind::Date | DeclKind::Timestamp => Type::Timestamp,
            DeclKind::List(item, _) => Type::list(item.ty()),
            DeclKind::Map(item) => Type::map(Type::String, item.ty()),
            DeclKind::Object(_) | DeclKind::Open => Type::Object(self.clone()),
            DeclKind::Other(ty) => ty.clone(),
        }
    }

    /// The declaration of list items or map values.
    pub fn element(&self) -> Option<&Arc<Decl>> {
        match &self.kind {
            DeclKind::List(item, _) | DeclKind::Map(item) => Some(item),
            _ => None,
        }
    }

    /// The field of this name, escaped or a word of the language.
    pub fn field(&self, name: &str) -> Option<&Field> {
        match &self.kind {
            // Words of the language need no escaping behind a dot.
            DeclKind::Object(fields) => fields.get(name).or_else(|| {
                let reserved = is_reserved(name).then(|| format!("__{name}__"));
                fields.get(&*reserved?)
            }),
            DeclKind::Open => Some(&ANY_FIELD),
            _ => None,
        }
    }
}

/// A field of an object that is [`DeclKind::Open`].
static ANY_FIELD: LazyLock<Field> = LazyLock::new(|| Field {
    json: Arc::from(""),
    decl: Decl::any(),
});

/// Words of CEL that a field may have as its name only when escaped.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether the parser refuses this word as an identifier.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// A field's name as it is written in expressions: `a.b-c` is `a__dot__b__dash__c`, `namespace`
/// is `__namespace__`. None when it cannot be written.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The field that an escaped name means; none for sequences that [`escape`] never writes.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        let after = &rest[at + 2..];
        let Some(end) = after.find("__") else { break };
        let word = &after[..end];
        if word.is_empty() || word.contains('_') {
            // Not a sequence: one character on.
            out.push_str(&rest[..at + 1]);
            rest = &rest[at + 1..];
            continue;
        }
        out.push_str(&rest[..at]);
        out.push_str(match word {
            "underscores" => "__",
            "dot" => ".",
            "dash" => "-",
            "slash" => "/",
            word if is_reserved(word) && at == 0 && after.len() == end + 2 => word,
            _ => return None,
        });
        rest = &after[end + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_back() {
        for (name, want) in [
            ("a", "a"),
            ("foo.bar", "foo__dot__bar"),
            ("a-b/c", "a__dash__b__slash__c"),
            ("a__b", "a__underscores__b"),
            ("a_b", "a_b"),
            ("___", "__underscores___"),
            ("namespace", "__namespace__"),
            ("if", "__if__"),
            ("a.__b", "a__dot____underscores__b"),
            ("int", "int"),
        ] {
            assert_eq!(escape(name).as_deref(), Some(want), "{name}");
            assert_eq!(unescape(want).as_deref(), Some(name), "{want}");
        }
        for name in ["", "1a", "a b", "ä", "$ref", "a:b"] {
            assert_eq!(escape(name), None, "{name}");
        }
        assert_eq!(unescape("a__hat__b"), None);
    }
}
