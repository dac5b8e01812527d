//! From a policy's texts to programs: its variables first, each of which those after it may read.

use std::sync::Arc;

use cel::{Program, Type};

use crate::env::{Declared, Types, env};

/// Levels that an expression may take of the stack together with the variables that it reads, and
/// those that they read: twice what one expression may have.
const MAX_DEPTH: u32 = 500;
/// Levels that it takes to go from an expression to a variable.
const STEP: u32 = 4;

/// What an expression must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Bool,
    Text,
    /// A text, or null where there is nothing to say.
    TextOrNull,
    Anything,
    /// `Object{…}`.
    Object,
    /// `[JSONPatch{…}, …]`.
    Patches,
}

/// Compiles the expressions of one policy.
#[derive(Default)]
pub struct Compiler {
    params: bool,
    types: Types,
    /// None where expressions may not name variables.
    variables: Option<Vec<(Arc<str>, Type)>>,
    fields: Vec<(Arc<str>, Result<Program, String>)>,
    /// By variable: levels that it takes with those that it reads.
    depths: Vec<u32>,
    /// Errors are reported as they are, and results may be of any type.
    checks_types: bool,
}

impl Compiler {
    /// `params`: the policy has parameters. `composed`: expressions may name `variables`.
    pub fn new(params: bool, composed: bool) -> Self {
        Self {
            params,
            variables: composed.then(Vec::new),
            ..Self::default()
        }
    }

    /// One that checks against types, for warnings.
    pub(crate) fn of_types(params: bool, types: Types) -> Self {
        Self {
            types,
            checks_types: true,
            ..Self::new(params, true)
        }
    }

    /// Compiles a variable, which later expressions can read as `variables.NAME`, also when it
    /// does not compile: then it is of no known type. Gives what is wrong with it.
    pub fn variable(&mut self, name: &str, source: &str) -> Option<String> {
        let program = self.compile(source, Want::Anything);
        let ty = program.as_ref().map_or(Type::Dyn, |p| kept(p.result()));
        let wrong = program.as_ref().err().cloned();
        self.depths
            .push(program.as_ref().map_or(0, |p| self.depth(p)));
        let name: Arc<str> = Arc::from(name);
        self.fields.push((name.clone(), program));
        self.variables.get_or_insert_default().push((name, ty));
        wrong
    }

    /// Compiles an expression; an error is upstream's text.
    pub fn compile(&self, source: &str, want: Want) -> Result<Program, String> {
        let declared = Declared {
            params: self.params,
            authorizer: want != Want::Text || self.checks_types,
            patches: matches!(want, Want::Object | Want::Patches),
        };
        let env = env(declared, &self.types, self.variables.as_deref());
        let program = Program::compile(source, &env).map_err(|error| match self.checks_types {
            true => error.to_string(),
            false => format!("compilation failed: {error}"),
        })?;
        if self.depth(&program) > MAX_DEPTH {
            return Err(format!(
                "expression recursion limit exceeded: {MAX_DEPTH} with the variables that it reads"
            ));
        }
        match self.checks_types {
            true => Ok(program),
            false => fits(program, want),
        }
    }

    fn depth(&self, program: &Program) -> u32 {
        let read = program.composed().iter();
        let below = read.filter_map(|at| self.depths.get(*at)).max();
        u32::from(program.depth()) + below.map_or(0, |d| d + STEP)
    }

    /// The variables, for [`cel::Lazy`].
    pub(crate) fn into_fields(self) -> Vec<(Arc<str>, Result<Program, String>)> {
        self.fields
    }
}

/// Whether a variable may have this name.
pub fn is_identifier(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(good)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        // A word of the language is written in another way.
        && cel::escape(name).is_some_and(|e| !e.starts_with("__") || name.starts_with("__"))
}

fn fits(program: Program, want: Want) -> Result<Program, String> {
    let ty = program.result();
    let good = match (want, ty) {
        (Want::Anything, _) | (Want::Bool, Type::Bool) => true,
        (Want::Text, Type::String) | (Want::TextOrNull, Type::String | Type::Null) => true,
        (Want::Object, Type::Object(decl)) => &*decl.name == "Object",
        (Want::Patches, Type::List(item)) => {
            matches!(&**item, Type::Object(decl) if &*decl.name == "JSONPatch")
        }
        _ => false,
    };
    if good {
        return Ok(program);
    }
    let wanted = match want {
        Want::Bool => "bool",
        Want::Text => "string",
        Want::TextOrNull => "one of [string null_type]",
        Want::Anything => "any",
        Want::Object => "Object",
        Want::Patches => "list(JSONPatch)",
    };
    Err(format!("must evaluate to {wanted} but got {}", ty.text()))
}

/// The type of a variable as others see it: objects and values of libraries are anything, as
/// upstream.
fn kept(ty: &Type) -> Type {
    match ty {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => ty.clone(),
        Type::List(item) => Type::list(kept(item)),
        Type::Map(entry) => Type::map(kept(&entry.0), kept(&entry.1)),
        _ => Type::Dyn,
    }
}
