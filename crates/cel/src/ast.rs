//! The syntax tree: nodes in one vector, so that dropping it never recurses, and facts of the
//! checker lie beside it under the same index.

use std::sync::Arc;

/// Index of a node in [`Ast`].
pub(crate) type Id = u32;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Literal(Literal),
    Ident(Arc<str>),
    Select {
        operand: Id,
        field: Arc<str>,
        /// `has(operand.field)`.
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Id>,
        args: Vec<Id>,
    },
    /// Items, and which of them are optional (`[?x]`).
    List(Vec<(Id, bool)>),
    /// Keys, values, and which are optional.
    Map(Vec<(Id, Id, bool)>),
    Struct {
        name: Arc<str>,
        fields: Vec<(Arc<str>, Id, bool)>,
    },
    Fold(Box<Fold>),
}

/// What every macro over lists and maps becomes: `accu = init; for var in range { if !condition
/// break; accu = step }; result`.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub range: Id,
    pub accu: Arc<str>,
    pub init: Id,
    pub condition: Id,
    pub step: Id,
    pub result: Id,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub expr: Expr,
    /// Byte offset in the source that errors point to.
    pub at: u32,
    /// Levels of nodes below, itself included.
    pub depth: u16,
    /// Levels of operators, selections and calls in the text, as upstream counts them.
    pub hanging: u16,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ast {
    pub nodes: Vec<Node>,
    pub root: Id,
}

impl Ast {
    pub fn expr(&self, id: Id) -> &Expr {
        &self.nodes[id as usize].expr
    }
    pub fn at(&self, id: Id) -> u32 {
        self.nodes[id as usize].at
    }

    /// `a.b.c` as a dotted name, if the node is nothing but that.
    pub fn qualified(&self, id: Id) -> Option<String> {
        match self.expr(id) {
            Expr::Ident(name) => Some(name.to_string()),
            Expr::Select {
                operand,
                field,
                test: false,
            } => {
                let mut name = self.qualified(*operand)?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }
}

impl Expr {
    /// Calls `f` with each child.
    pub fn children(&self, mut f: impl FnMut(Id)) {
        match self {
            Self::Literal(_) | Self::Ident(_) => {}
            Self::Select { operand, .. } => f(*operand),
            Self::Call { target, args, .. } => target.iter().chain(args).for_each(|id| f(*id)),
            Self::List(items) => items.iter().for_each(|(id, _)| f(*id)),
            Self::Map(entries) => entries.iter().for_each(|(k, v, _)| {
                f(*k);
                f(*v);
            }),
            Self::Struct { fields, .. } => fields.iter().for_each(|(_, id, _)| f(*id)),
            Self::Fold(fold) => {
                for id in [
                    fold.range,
                    fold.init,
                    fold.condition,
                    fold.step,
                    fold.result,
                ] {
                    f(id);
                }
            }
        }
    }
}
