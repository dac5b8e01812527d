//! What an expression may name: variables with their types, and the functions of the language and
//! of Kubernetes' libraries (`data/functions.txt`), the same for every expression.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use crate::decl::{Decl, DeclKind, Field, NO_MAX};
use crate::types::Type;

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub id: &'static str,
    /// Called on its first argument: `a.f(b)`.
    pub member: bool,
    /// Parameters are [`Type::Param`] from 0 on.
    pub args: Vec<Type>,
    pub result: Type,
    /// How many parameters there are.
    pub params: u32,
}

type Functions = HashMap<&'static str, Vec<Overload>>;

/// The overloads of a function, in the order in which they are tried.
fn function(name: &str) -> Option<(&'static str, &'static [Overload])> {
    static FUNCTIONS: LazyLock<Functions> = LazyLock::new(functions);
    FUNCTIONS
        .get_key_value(name)
        .map(|(name, overloads)| (*name, &overloads[..]))
}

/// Types whose values have an order, so that lists of them are sorted and searched.
const COMPARABLE: [&str; 8] = [
    "int",
    "uint",
    "double",
    "bool",
    "duration",
    "timestamp",
    "string",
    "bytes",
];
const SUMMABLE: [&str; 4] = ["int", "uint", "double", "duration"];
/// Names in `format.` and what they are called in messages.
pub(crate) const FORMATS: [(&str, &str); 13] = [
    ("dns1123Label", "DNS1123Label"),
    ("dns1123Subdomain", "DNS1123Subdomain"),
    ("dns1035Label", "DNS1035Label"),
    ("qualifiedName", "QualifiedName"),
    ("dns1123LabelPrefix", "DNS1123LabelPrefix"),
    ("dns1123SubdomainPrefix", "DNS1123SubdomainPrefix"),
    ("dns1035LabelPrefix", "DNS1035LabelPrefix"),
    ("labelValue", "LabelValue"),
    ("uri", "URI"),
    ("uuid", "uuid"),
    ("byte", "byte"),
    ("date", "date"),
    ("datetime", "datetime"),
];

fn functions() -> Functions {
    let mut all = Functions::new();
    for line in include_str!("../data/functions.txt").lines() {
        if !line.is_empty() && !line.starts_with('#') {
            declare(&mut all, line);
        }
    }
    // Families of overloads; their names live as long as the program.
    let mut family = |line: String| declare(&mut all, line.leak());
    for op in ["<", "<=", ">", ">="] {
        let word = match op {
            "<" => "less",
            "<=" => "less_equals",
            ">" => "greater",
            _ => "greater_equals",
        };
        for ty in COMPARABLE {
            let name = match ty {
                "int" => "int64",
                "uint" => "uint64",
                other => other,
            };
            family(format!("_{op}_ {word}_{name} {ty},{ty} bool"));
        }
        for (a, b) in [
            ("int", "double"),
            ("int", "uint"),
            ("uint", "double"),
            ("uint", "int"),
            ("double", "int"),
            ("double", "uint"),
        ] {
            family(format!("_{op}_ {word}_{a}_{b} {a},{b} bool"));
        }
    }
    for ty in COMPARABLE {
        family(format!(
            "isSorted .list_{ty}_is_sorted_bool list({ty}) bool"
        ));
        family(format!("max .list_{ty}_max_{ty} list({ty}) {ty}"));
        family(format!("min .list_{ty}_min_{ty} list({ty}) {ty}"));
        family(format!("sort .list_{ty}_sort list({ty}) list({ty})"));
        family(format!(
            "@sortByAssociatedKeys .list_{ty}_sortByAssociatedKeys list(T),list({ty}) list(T)"
        ));
    }
    for ty in SUMMABLE {
        family(format!("sum .list_{ty}_sum_{ty} list({ty}) {ty}"));
    }
    for (name, _) in FORMATS {
        family(format!(
            "format.{name} format.{name} - kubernetes.NamedFormat"
        ));
    }
    all
}

fn declare(all: &mut Functions, line: &'static str) {
    let mut parts = line.split(' ');
    let (Some(name), Some(id), Some(args), Some(result)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    let mut letters = Vec::new();
    let args = match args {
        "-" => Vec::new(),
        args => split(args).map(|arg| ty(arg, &mut letters)).collect(),
    };
    let result = ty(result, &mut letters);
    all.entry(name).or_default().push(Overload {
        id: id.strip_prefix('.').unwrap_or(id),
        member: id.starts_with('.'),
        args,
        result,
        params: letters.len() as u32,
    });
}

/// Splits at the commas that stand outside of brackets.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut level = 0;
    text.split(move |c| {
        match c {
            '(' => level += 1,
            ')' => level -= 1,
            _ => {}
        }
        c == ',' && level == 0
    })
}

fn ty(text: &str, letters: &mut Vec<u8>) -> Type {
    if let Some((head, inner)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let mut inner = split(inner);
        let mut next = || ty(inner.next().unwrap_or_default(), letters);
        return match head {
            "list" => Type::list(next()),
            "map" => Type::map(next(), next()),
            "optional" => Type::optional(next()),
            _ => Type::Type(Some(Arc::new(next()))),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        letter if letter.len() == 1 => {
            let letter = letter.as_bytes()[0];
            let n = letters.iter().position(|l| *l == letter);
            Type::Param(n.unwrap_or_else(|| {
                letters.push(letter);
                letters.len() - 1
            }) as u32)
        }
        name => Type::opaque(name),
    }
}

/// The type that a name of the language stands for: `int`, `list`, `net.IP`.
pub(crate) fn type_name(name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "string" => Type::String,
        "null_type" => Type::Null,
        "type" => Type::Type(None),
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Duration" => Type::Duration,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "net.IP"
        | "net.CIDR"
        | "kubernetes.URL"
        | "kubernetes.Quantity"
        | "kubernetes.Semver"
        | "kubernetes.NamedFormat" => Type::opaque(name),
        _ => return None,
    })
}

/// The variables of an expression.
#[derive(Clone, Default)]
pub struct Env {
    variables: Vec<Variable>,
    /// Types that expressions may make (`Object{…}`), by name.
    pub(crate) structs: HashMap<Arc<str>, Arc<Decl>>,
    pub(crate) sizes_of_request: bool,
    /// An entry of a map that is named as a field has the size of the map's values.
    pub(crate) entries_as_fields: bool,
    /// Objects to patch with may be made.
    patches: bool,
    /// The variable whose fields are expressions ([`Env::composed`]), and their names.
    pub(crate) composed: Option<(usize, Vec<Arc<str>>)>,
}

/// The type of an object that a patch is written as; those of its fields have longer names.
const OBJECT: &str = "Object";
/// The type of an operation of a JSON patch.
const JSON_PATCH: &str = "JSONPatch";

#[derive(Clone)]
pub(crate) struct Variable {
    pub name: Arc<str>,
    pub decl: Arc<Decl>,
    /// An optional value of the declared type.
    pub optional: bool,
}

impl Env {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable. Its index, for [`crate::Program::evaluate`], is its place in the order
    /// in which variables were added.
    #[must_use]
    pub fn variable(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.variables.push(Variable {
            name: Arc::from(name),
            decl,
            optional: false,
        });
        self
    }

    /// Adds a variable that may have no value (`oldSelf` with `optionalOldSelf`).
    #[must_use]
    pub fn optional_variable(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self = self.variable(name, decl);
        if let Some(last) = self.variables.last_mut() {
            last.optional = true;
        }
        self
    }

    /// Lets expressions make objects of this type under its name.
    #[must_use]
    pub fn structure(mut self, decl: Arc<Decl>) -> Self {
        self.structs.insert(decl.name.clone(), decl);
        self
    }

    /// Says that the sizes of declarations bound the values of all variables, so that cost can be
    /// estimated from them.
    #[must_use]
    pub fn with_declared_sizes(mut self) -> Self {
        self.sizes_of_request = true;
        self
    }

    /// Says that entries of maps which are named as fields (`map.key`) have the sizes of the maps'
    /// values. Those of schemas have none, as upstream.
    #[must_use]
    pub fn with_entries_as_fields(mut self) -> Self {
        self.entries_as_fields = true;
        self
    }

    /// Adds a variable that no expression can name, so that others keep their places.
    #[must_use]
    pub fn absent(self) -> Self {
        self.variable("", Decl::any())
    }

    /// Adds a variable whose fields are expressions themselves, run when they are first asked for
    /// ([`crate::Lazy`]): their names and the types of what they give, in order. Of two of a name
    /// the later one counts.
    #[must_use]
    pub fn composed(mut self, name: &str, fields: &[(Arc<str>, Type)]) -> Self {
        let decls = fields.iter().map(|(name, ty)| {
            let field = Field {
                json: name.clone(),
                decl: Decl::of(ty.clone()),
            };
            (name.clone(), field)
        });
        let kind = DeclKind::Object(decls.collect());
        let decl = Decl::new(&format!("kubernetes.{name}"), kind, 0, 2);
        let names = fields.iter().map(|(name, _)| name.clone()).collect();
        self.composed = Some((self.variables.len(), names));
        self.variable(name, Arc::new(decl))
    }

    /// Lets expressions make `Object{…}`, `Object.spec{…}` and so on, whose fields are not
    /// checked, and `JSONPatch{…}`.
    #[must_use]
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    /// The type of objects that expressions may make under this name.
    pub(crate) fn structure_named(&self, name: &str) -> Option<Arc<Decl>> {
        if let Some(decl) = self.structs.get(name) {
            return Some(decl.clone());
        }
        static PATCH: LazyLock<Arc<Decl>> = LazyLock::new(|| {
            let text = || Arc::new(Decl::new("string", DeclKind::String, NO_MAX, 2));
            let fields = [
                ("op", text()),
                ("path", text()),
                ("from", text()),
                ("value", Decl::any()),
            ];
            let fields = fields.map(|(name, decl)| (name.to_owned(), decl));
            Arc::new(Decl::object(JSON_PATCH, fields))
        });
        if !self.patches {
            return None;
        }
        if name == JSON_PATCH {
            return Some(PATCH.clone());
        }
        let below = name.strip_prefix(OBJECT)?;
        if below.is_empty() || below.starts_with('.') {
            return Some(Arc::new(Decl::new(name, DeclKind::Open, 0, 2)));
        }
        None
    }

    /// The overloads of a function that expressions may call here.
    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, &'static [Overload])> {
        // The keys of a patch are escaped where there are patches.
        function(name).filter(|_| self.patches || name != "jsonpatch.escapeKey")
    }

    pub(crate) fn find(&self, name: &str) -> Option<(usize, &Variable)> {
        // The latest of a name hides the others.
        let at = self.variables.iter().rposition(|v| &*v.name == name)?;
        Some((at, &self.variables[at]))
    }

    /// The declaration of the first variable.
    pub(crate) fn first(&self) -> Option<Arc<Decl>> {
        self.variables.first().map(|v| v.decl.clone())
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.variables.iter().map(|v| v.name.clone()).collect()
    }

    pub(crate) fn variable_count(&self) -> usize {
        self.variables.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_whole() {
        let (_, add) = function("_+_").expect("declared");
        assert_eq!(add.len(), 9);
        let (_, contains) = function("containsIP").expect("declared");
        assert!(contains.iter().all(|o| o.member && o.args.len() == 2));
        let (_, none) = function("optional.none").expect("declared");
        assert!(none[0].args.is_empty());
        let (_, query) = function("getQuery").expect("declared");
        assert_eq!(query[0].result.to_string(), "map(string, list(string))");
        assert_eq!(function("_<_").expect("declared").1.len(), 14);
    }
}
