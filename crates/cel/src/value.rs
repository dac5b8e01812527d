//! Values at run time. What comes from a request is not copied: lists, maps and objects are views
//! of its JSON through a declaration; only what an expression makes is owned.
//!
//! Values live as long as one evaluation, in one thread.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use jiff::Timestamp;
use serde_json::{Map as JsonMap, Value as Json};

use crate::authz::AuthzValue;
use crate::decl::{Decl, DeclKind, ListKind, unescape};
use crate::error::EvalError;
use crate::format::Format;
use crate::net::{Cidr, Ip};
use crate::time;
use crate::url::Url;

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// A value of an expression.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str<'a>),
    Bytes(Rc<[u8]>),
    /// In nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    /// An object of a declared type, made by an expression.
    Struct(Rc<Struct<'a>>),
    /// A type, by its name.
    Type(Str<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Quantity(api::Quantity),
    Semver(Rc<semver::Version>),
    Url(Rc<Url>),
    Ip(Ip),
    Cidr(Cidr),
    Format(Format),
    /// An authorizer or what its functions give.
    Authz(AuthzValue<'a>),
}

/// A text that is borrowed or shared.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    Ref(&'a str),
    Rc(Rc<str>),
}

impl std::ops::Deref for Str<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Ref(text) => text,
            Self::Rc(text) => text,
        }
    }
}

impl<'a> From<&'a str> for Str<'a> {
    fn from(text: &'a str) -> Self {
        Self::Ref(text)
    }
}
impl From<String> for Str<'_> {
    fn from(text: String) -> Self {
        Self::Rc(Rc::from(text))
    }
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Items of a request, and the declaration of the list.
    Json(&'a [Json], &'a Decl),
    Owned(Rc<Vec<Value<'a>>>),
    /// Items that an expression made of lists without order, and the declaration that says so.
    Unordered(Rc<Vec<Value<'a>>>, &'a Decl),
    /// Two lists after each other, and how long they are together: adding costs the same
    /// whatever the lengths.
    Joined(Rc<(List<'a>, List<'a>)>, usize),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Entries of a request, and the declaration of their values.
    Json(&'a JsonMap<String, Json>, &'a Decl),
    /// An object of a request, and its declaration.
    Object(&'a JsonMap<String, Json>, &'a Decl),
    Owned(Rc<BTreeMap<Key<'a>, (Value<'a>, Value<'a>)>>),
}

/// An object that an expression made.
#[derive(Debug)]
pub struct Struct<'a> {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
}

/// A key of a map; numbers that are equal are the same key, whatever their types.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<'a> {
    Bool(bool),
    Int(i128),
    String(KeyStr<'a>),
}

#[derive(Clone, Debug)]
pub struct KeyStr<'a>(pub Str<'a>);
impl PartialEq for KeyStr<'_> {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}
impl Eq for KeyStr<'_> {}
impl PartialOrd for KeyStr<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for KeyStr<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<'a> Value<'a> {
    pub(crate) fn text(text: impl Into<Str<'a>>) -> Self {
        Self::String(text.into())
    }

    pub(crate) fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::Owned(Rc::new(items)))
    }

    pub(crate) fn texts(items: impl IntoIterator<Item = String>) -> Self {
        Self::list(items.into_iter().map(Value::text).collect())
    }

    pub(crate) fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// Reads JSON through a declaration.
    pub fn read(json: &'a Json, decl: &'a Decl) -> Result<Self, EvalError> {
        Ok(match (json, &decl.kind) {
            (Json::Null, _) => Self::Null,
            (Json::Array(items), DeclKind::Dyn) if decl.escaped_keys => {
                Self::List(List::Json(items, decl))
            }
            (Json::Object(map), DeclKind::Dyn) if decl.escaped_keys => {
                Self::Map(Map::Json(map, decl))
            }
            (_, DeclKind::Dyn) => any(json),
            (Json::Bool(b), _) => Self::Bool(*b),
            (Json::Number(n), DeclKind::Double) => Self::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Json::Number(n), DeclKind::Int) => match n.as_i64() {
                Some(n) => Self::Int(n),
                // `1.0` is whole, whatever it is written like.
                None => whole(n.as_f64())?,
            },
            (Json::Number(_), _) => any(json),
            (Json::String(text), kind) => read_text(text, kind)?,
            (Json::Array(items), _) => Self::List(List::Json(items, decl)),
            (Json::Object(map), DeclKind::Map(element)) => Self::Map(Map::Json(map, element)),
            (Json::Object(map), DeclKind::Object(_)) => Self::Map(Map::Object(map, decl)),
            (Json::Object(map), _) => Self::Map(Map::Json(map, element_of_any())),
        })
    }

    /// The name of the value's type, as `type(x)` shows it.
    pub fn type_name(&self) -> Str<'a> {
        Str::Ref(match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(Map::Object(_, decl)) => return Str::Ref(&decl.name),
            Self::Map(_) => "map",
            Self::Struct(s) => return Str::Rc(Rc::from(&*s.name)),
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Authz(value) => value.type_name(),
        })
    }

    /// The size that costs are computed with.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            // Objects with fields have no size.
            Self::Map(Map::Object(..)) => 1,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(inner)) => inner.size(),
            Self::Ip(ip) => ip.bytes(),
            Self::Cidr(cidr) => cidr.bytes(),
            _ => 1,
        }
    }

    /// The value as a key of a map.
    pub(crate) fn key(&self) -> Option<Key<'a>> {
        Some(match self {
            Self::Bool(b) => Key::Bool(*b),
            Self::Int(n) => Key::Int(i128::from(*n)),
            Self::Uint(n) => Key::Int(i128::from(*n)),
            Self::Double(n) if n.fract() == 0.0 && n.abs() < 1e19 => Key::Int(*n as i128),
            Self::String(text) => Key::String(KeyStr(text.clone())),
            _ => return None,
        })
    }
}

fn element_of_any() -> &'static Decl {
    static ANY: std::sync::LazyLock<Arc<Decl>> = std::sync::LazyLock::new(Decl::any);
    &ANY
}

/// JSON without a declaration.
fn any(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (_, Some(n)) => Value::Uint(n),
            _ => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Str::Ref(text)),
        Json::Array(items) => Value::List(List::Json(items, element_of_any())),
        Json::Object(map) => Value::Map(Map::Json(map, element_of_any())),
    }
}

fn whole<'a>(n: Option<f64>) -> Evaluated<'a> {
    match n {
        Some(n) if n.fract() == 0.0 && n.abs() < 9.0e18 => Ok(Value::Int(n as i64)),
        _ => Err(EvalError::new("unsupported conversion to ref.Val")),
    }
}

fn read_text<'a>(text: &'a str, kind: &DeclKind) -> Evaluated<'a> {
    match kind {
        DeclKind::Bytes => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|_| EvalError::new(format!("Invalid byte formatted string {text}"))),
        DeclKind::Duration => api::duration::parse(text)
            .map(Value::Duration)
            .map_err(|_| EvalError::new(format!("Invalid duration {text}"))),
        DeclKind::Date => time::parse_date(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}"))),
        DeclKind::Timestamp => time::parse_timestamp(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}"))),
        _ => Ok(Value::String(Str::Ref(text))),
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Owned(items) | Self::Unordered(items, _) => items.len(),
            Self::Joined(_, len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index.
    pub fn get(&self, at: usize) -> Option<Evaluated<'a>> {
        match self {
            Self::Json(items, decl) => Some(read_item(items.get(at)?, decl)),
            Self::Owned(items) | Self::Unordered(items, _) => items.get(at).cloned().map(Ok),
            Self::Joined(pair, _) => match at.checked_sub(pair.0.len()) {
                None => pair.0.get(at),
                Some(at) => pair.1.get(at),
            },
        }
    }

    pub fn iter(&self) -> ListIter<'a> {
        ListIter {
            stack: vec![(self.clone(), 0)],
        }
    }

    /// A list of the same kind with other items.
    pub(crate) fn like(&self, items: Vec<Value<'a>>) -> Self {
        match self {
            Self::Json(_, decl) | Self::Unordered(_, decl) => Self::Unordered(Rc::new(items), decl),
            _ => Self::Owned(Rc::new(items)),
        }
    }

    pub(crate) fn kind(&self) -> &ListKind {
        static ATOMIC: ListKind = ListKind::Atomic;
        match self {
            Self::Json(_, decl) | Self::Unordered(_, decl) => match &decl.kind {
                DeclKind::List(_, kind) => kind,
                _ => &ATOMIC,
            },
            _ => &ATOMIC,
        }
    }
}

fn read_item<'a>(json: &'a Json, decl: &'a Decl) -> Evaluated<'a> {
    match &decl.kind {
        DeclKind::List(item, _) => Value::read(json, item),
        _ if decl.escaped_keys => Value::read(json, decl),
        _ => Ok(any(json)),
    }
}

/// Goes through a list in order, however it was put together.
pub struct ListIter<'a> {
    stack: Vec<(List<'a>, usize)>,
}

impl<'a> Iterator for ListIter<'a> {
    type Item = Evaluated<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (list, at) = self.stack.last_mut()?;
            if let List::Joined(pair, _) = list {
                let pair = pair.clone();
                self.stack.pop();
                self.stack.push((pair.1.clone(), 0));
                self.stack.push((pair.0.clone(), 0));
                continue;
            }
            match list.get(*at) {
                Some(item) => {
                    *at += 1;
                    return Some(item);
                }
                None => {
                    self.stack.pop();
                }
            }
        }
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, _) | Self::Object(map, _) => map.len(),
            Self::Owned(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key. Fields of objects go by their escaped names, and a field that is null is
    /// as one that is not there.
    pub fn get(&self, key: &Value<'a>) -> Option<Evaluated<'a>> {
        match (self, key) {
            (Self::Json(map, decl), Value::String(key)) => {
                let plain = || map.get(&**key);
                let found = match decl.escaped_keys {
                    // An escaped name means the key that it stands for, also where there is one
                    // that is written like it; as upstream.
                    true => match unescape(key) {
                        Some(name) if *name != **key => map.get(&name),
                        _ => plain(),
                    },
                    false => plain(),
                };
                Some(Value::read(found?, decl))
            }
            (Self::Object(map, decl), Value::String(key)) => {
                let field = decl.field(key)?;
                let value = map.get(&*field.json).filter(|v| !v.is_null());
                Some(Value::read(value?, &field.decl))
            }
            (Self::Owned(map), key) => Some(Ok(map.get(&key.key()?)?.1.clone())),
            _ => None,
        }
    }

    /// The value of a text key, without making a value of it first.
    pub(crate) fn get_text(&self, key: &'a str) -> Option<Evaluated<'a>> {
        self.get(&Value::String(Str::Ref(key)))
    }

    /// Keys in order; of objects those that are fields.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map, _) => map.keys().map(|k| Value::String(Str::Ref(k))).collect(),
            Self::Object(map, decl) => match &decl.kind {
                DeclKind::Object(fields) => fields
                    .iter()
                    .filter(|(_, f)| map.get(&*f.json).is_some_and(|v| !v.is_null()))
                    .map(|(name, _)| Value::String(Str::Ref(name)))
                    .collect(),
                _ => Vec::new(),
            },
            Self::Owned(map) => map.values().map(|(k, _)| k.clone()).collect(),
        }
    }
}
