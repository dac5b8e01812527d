//! Expressions as upstream's grammar has them, macros expanded on the way (`macros.rs`).
//! Depth and size of the tree are bounded here, so that nothing after the parser has to ask.

use std::sync::Arc;

use crate::ast::{Ast, Expr, Id, Literal, Node};
use crate::issue::Issue;
use crate::lexer::{Spanned, Token, lex};
use crate::macros;

/// Longest expression, in characters, as upstream.
const MAX_CHARS: usize = 100_000;
/// Upstream's recursion limit: how often a rule of the grammar may be within itself, and how many
/// operators, selections and calls may hang below one another.
pub(crate) const MAX_DEPTH: u16 = 250;
/// Deepest tree. Macros make more levels than the text has (`x.map(y, …)` three); upstream has no
/// bound for those, we have a stack.
pub(crate) const MAX_TREE: u16 = 500;
/// Most nodes of a tree. Some macros write their target twice; without a bound, a chain of them
/// would double each time.
const MAX_NODES: usize = 200_000;

/// Parsing ends at the first error of syntax.
pub(crate) type Parsed<T> = Result<T, Issue>;

pub(crate) fn parse(source: &str) -> Result<Ast, Vec<Issue>> {
    let chars = source.chars().take(MAX_CHARS + 1).count();
    if chars > MAX_CHARS {
        let message = format!(
            "expression code point size exceeds limit: size: {}, limit {MAX_CHARS}",
            source.chars().count()
        );
        return Err(vec![Issue::nowhere(message)]);
    }
    let tokens = lex(source)?;
    let mut parser = Parser {
        source,
        tokens,
        next: 0,
        levels: [0; 3],
        ast: Ast::default(),
    };
    let root = parser.whole().map_err(|issue| vec![issue])?;
    if parser.ast.nodes[root as usize].hanging > MAX_DEPTH {
        return Err(vec![Issue::nowhere("max recursion depth exceeded".into())]);
    }
    parser.ast.root = root;
    Ok(parser.ast)
}

pub(crate) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Spanned>,
    next: usize,
    /// How often each [`Rule`] is within itself just now, as upstream's parser counts.
    levels: [u16; 3],
    ast: Ast,
}

/// Rules of upstream's grammar that meet its recursion limit; none of the others can be the first.
#[derive(Clone, Copy)]
enum Rule {
    Expr,
    Relation,
    Calc,
}

/// Binary operators by how tightly they bind, `&&` and `||` aside.
const RELATIONS: [(&str, &str); 7] = [
    ("==", "_==_"),
    ("!=", "_!=_"),
    ("<", "_<_"),
    ("<=", "_<=_"),
    (">", "_>_"),
    (">=", "_>=_"),
    ("in", "@in"),
];
const SUMS: [(&str, &str); 2] = [("+", "_+_"), ("-", "_-_")];
const PRODUCTS: [(&str, &str); 3] = [("*", "_*_"), ("/", "_/_"), ("%", "_%_")];

impl Parser<'_> {
    fn whole(&mut self) -> Parsed<Id> {
        let root = self.expr()?;
        match self.peek() {
            Token::End => Ok(root),
            _ => Err(self.unexpected("extraneous", "<EOF>")),
        }
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |t| &t.token)
    }

    /// Where the next token begins.
    fn at(&self) -> u32 {
        self.tokens.get(self.next).map_or(0, |t| t.at)
    }

    /// Passes a sign, if it is the next token; returns where it stood.
    fn accept(&mut self, sign: &str) -> Option<u32> {
        if !matches!(self.peek(), Token::Sign(s) if *s == sign) {
            return None;
        }
        let at = self.at();
        self.next += 1;
        Some(at)
    }

    fn expect(&mut self, sign: &str) -> Parsed<u32> {
        self.accept(sign)
            .ok_or_else(|| self.unexpected("mismatched", &format!("'{sign}'")))
    }

    fn unexpected(&self, how: &str, expected: &str) -> Issue {
        let text = self
            .tokens
            .get(self.next)
            .map_or("<EOF>", |t| match t.token {
                Token::End => "<EOF>",
                _ => &self.source[t.at as usize..t.end as usize],
            });
        Issue {
            at: self.at(),
            message: format!("Syntax error: {how} input '{text}' expecting {expected}"),
        }
    }

    /// Adds a node.
    pub(crate) fn node(&mut self, at: u32, expr: Expr) -> Parsed<Id> {
        let (mut below, mut hanging) = (0, 0);
        expr.children(|id| {
            let child = &self.ast.nodes[id as usize];
            below = below.max(child.depth);
            hanging = hanging.max(child.hanging);
        });
        let depth = below + 1;
        if depth > MAX_TREE {
            return Err(too_deep());
        }
        if self.ast.nodes.len() >= MAX_NODES {
            return Err(Issue {
                at,
                message: format!("expression has more than {MAX_NODES} parts"),
            });
        }
        let id = self.ast.nodes.len() as Id;
        self.ast.nodes.push(Node {
            expr,
            at,
            depth,
            hanging,
        });
        Ok(id)
    }

    /// Counts an operator, a selection or a call with what hangs below it, also where a macro was
    /// made of it.
    fn hang(&mut self, id: Id, below: impl IntoIterator<Item = Id>) -> Id {
        let deepest = below.into_iter().map(|b| self.hanging(b)).max();
        self.ast.nodes[id as usize].hanging = deepest.unwrap_or(0).saturating_add(1);
        id
    }

    fn hanging(&self, id: Id) -> u16 {
        self.ast.nodes[id as usize].hanging
    }

    fn enter(&mut self, rule: Rule) -> Parsed<()> {
        let level = &mut self.levels[rule as usize];
        *level += 1;
        if *level > MAX_DEPTH {
            return Err(too_deep());
        }
        Ok(())
    }

    fn leave(&mut self, rule: Rule, times: u16) {
        let level = &mut self.levels[rule as usize];
        *level = level.saturating_sub(times);
    }

    pub(crate) fn literal(&mut self, at: u32, literal: Literal) -> Parsed<Id> {
        self.node(at, Expr::Literal(literal))
    }

    pub(crate) fn ident(&mut self, at: u32, name: &str) -> Parsed<Id> {
        self.node(at, Expr::Ident(Arc::from(name)))
    }

    pub(crate) fn call(&mut self, at: u32, function: &str, args: Vec<Id>) -> Parsed<Id> {
        self.node(
            at,
            Expr::Call {
                function: Arc::from(function),
                target: None,
                args,
            },
        )
    }

    pub(crate) fn member(
        &mut self,
        at: u32,
        target: Id,
        function: &str,
        args: Vec<Id>,
    ) -> Parsed<Id> {
        self.node(
            at,
            Expr::Call {
                function: Arc::from(function),
                target: Some(target),
                args,
            },
        )
    }

    pub(crate) fn ast(&self) -> &Ast {
        &self.ast
    }

    /// A copy of a tree, with nodes of its own.
    pub(crate) fn copy(&mut self, id: Id) -> Parsed<Id> {
        let node = self.ast.nodes[id as usize].clone();
        let mut expr = node.expr;
        match &mut expr {
            Expr::Literal(_) | Expr::Ident(_) => {}
            Expr::Select { operand, .. } => *operand = self.copy(*operand)?,
            Expr::Call { target, args, .. } => {
                for id in target.iter_mut().chain(args) {
                    *id = self.copy(*id)?;
                }
            }
            Expr::List(items) => {
                for (id, _) in items {
                    *id = self.copy(*id)?;
                }
            }
            Expr::Map(entries) => {
                for (key, value, _) in entries {
                    *key = self.copy(*key)?;
                    *value = self.copy(*value)?;
                }
            }
            Expr::Struct { fields, .. } => {
                for (_, id, _) in fields {
                    *id = self.copy(*id)?;
                }
            }
            Expr::Fold(fold) => {
                for id in [
                    &mut fold.range,
                    &mut fold.init,
                    &mut fold.condition,
                    &mut fold.step,
                    &mut fold.result,
                ] {
                    *id = self.copy(*id)?;
                }
            }
        }
        self.node(node.at, expr)
    }

    fn expr(&mut self) -> Parsed<Id> {
        self.enter(Rule::Expr)?;
        let first = self.or()?;
        let whole = match self.accept("?") {
            None => first,
            Some(at) => {
                let then = self.or()?;
                self.expect(":")?;
                let other = self.expr()?;
                let id = self.call(at, "_?_:_", vec![first, then, other])?;
                self.hang(id, [first, then, other])
            }
        };
        self.leave(Rule::Expr, 1);
        Ok(whole)
    }

    fn or(&mut self) -> Parsed<Id> {
        let mut terms = vec![self.and()?];
        let mut ops = Vec::new();
        while let Some(at) = self.accept("||") {
            ops.push(at);
            terms.push(self.and()?);
        }
        self.balanced("_||_", &terms, &ops)
    }

    fn and(&mut self) -> Parsed<Id> {
        let mut terms = vec![self.relation()?];
        let mut ops = Vec::new();
        while let Some(at) = self.accept("&&") {
            ops.push(at);
            terms.push(self.relation()?);
        }
        self.balanced("_&&_", &terms, &ops)
    }

    /// A chain of one logical operator as a tree without a deep side.
    fn balanced(&mut self, function: &str, terms: &[Id], ops: &[u32]) -> Parsed<Id> {
        if let [only] = terms {
            return Ok(*only);
        }
        let middle = terms.len().div_ceil(2) - 1;
        let left = self.balanced(function, &terms[..=middle], &ops[..middle])?;
        let right = self.balanced(function, &terms[middle + 1..], &ops[middle + 1..])?;
        self.call(ops[middle], function, vec![left, right])
    }

    /// An operator of a table, if it is the next token.
    fn operator(&mut self, table: &[(&str, &'static str)]) -> Option<(u32, &'static str)> {
        let Token::Sign(sign) = self.peek() else {
            return None;
        };
        let (_, function) = table.iter().find(|(s, _)| s == sign)?;
        let at = self.at();
        self.next += 1;
        Some((at, function))
    }

    fn operation(&mut self, at: u32, function: &str, left: Id, right: Id) -> Parsed<Id> {
        let id = self.call(at, function, vec![left, right])?;
        Ok(self.hang(id, [left, right]))
    }

    /// Relations, from left to right. A chain of them is left as often as upstream's parser leaves
    /// it, which is once for each operator.
    fn relation(&mut self) -> Parsed<Id> {
        self.enter(Rule::Relation)?;
        let mut left = self.calc(0)?;
        let mut times = 1;
        while let Some((at, function)) = self.operator(&RELATIONS) {
            times += 1;
            self.enter(Rule::Relation)?;
            let right = self.calc(0)?;
            self.leave(Rule::Relation, 1);
            left = self.operation(at, function, left, right)?;
        }
        self.leave(Rule::Relation, times);
        Ok(left)
    }

    /// Sums (at tightness 0) and products (up to 1), from left to right.
    fn calc(&mut self, tightness: u8) -> Parsed<Id> {
        self.enter(Rule::Calc)?;
        let mut left = self.unary()?;
        let mut times = 1;
        loop {
            let product = match tightness {
                0 | 1 => self.operator(&PRODUCTS).map(|found| (found, 2)),
                _ => None,
            };
            let found = match product {
                None if tightness == 0 => self.operator(&SUMS).map(|found| (found, 1)),
                other => other,
            };
            let Some(((at, function), tighter)) = found else {
                break;
            };
            times += 1;
            let right = self.calc(tighter)?;
            left = self.operation(at, function, left, right)?;
        }
        self.leave(Rule::Calc, times);
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Id> {
        let at = self.at();
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            while self.accept(sign).is_some() {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if sign == "-" && count == 1 && self.is_number() {
                return self.postfix(true);
            }
            let operand = self.postfix(false)?;
            return if count % 2 == 0 {
                Ok(operand)
            } else {
                self.call(at, function, vec![operand])
            };
        }
        self.postfix(false)
    }

    fn is_number(&self) -> bool {
        matches!(
            self.peek(),
            Token::Literal(Literal::Int(_) | Literal::Double(_))
        )
    }

    /// A primary expression with its selections, calls and indices.
    fn postfix(&mut self, negative: bool) -> Parsed<Id> {
        let mut left = self.primary(negative)?;
        loop {
            if let Some(at) = self.accept(".") {
                left = self.select(at, left)?;
            } else if let Some(at) = self.accept("[") {
                let optional = self.accept("?").is_some();
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                left = self.operation(at, function, left, index)?;
            } else if matches!(self.peek(), Token::Sign("{")) {
                let Some(name) = self.ast.qualified(left) else {
                    return Ok(left);
                };
                left = self.message(&name)?;
            } else {
                return Ok(left);
            }
        }
    }

    fn select(&mut self, at: u32, operand: Id) -> Parsed<Id> {
        let optional = self.accept("?").is_some();
        let Token::Ident(field) = self.peek().clone() else {
            return Err(self.unexpected("mismatched", "IDENTIFIER"));
        };
        self.next += 1;
        if optional {
            let field = self.literal(at, Literal::String(field))?;
            return self.operation(at, "_?._", operand, field);
        }
        if let Some(open) = self.accept("(") {
            let args = self.args(")")?;
            let below: Vec<Id> = args.iter().copied().chain([operand]).collect();
            let id = match macros::receiver(self, open, operand, &field, &args)? {
                Some(expanded) => expanded,
                None => self.member(open, operand, &field, args)?,
            };
            return Ok(self.hang(id, below));
        }
        let id = self.node(
            at,
            Expr::Select {
                operand,
                field,
                test: false,
            },
        )?;
        Ok(self.hang(id, [operand]))
    }

    /// Comma-separated expressions up to the closing sign.
    fn args(&mut self, close: &str) -> Parsed<Vec<Id>> {
        let mut args = Vec::new();
        if self.accept(close).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.accept(",").is_none() {
                self.expect(close)?;
                return Ok(args);
            }
        }
    }

    fn primary(&mut self, negative: bool) -> Parsed<Id> {
        let at = self.at();
        let rooted = self.accept(".").is_some();
        match self.peek().clone() {
            Token::Ident(name) => {
                self.next += 1;
                self.name(at, &name, rooted)
            }
            _ if rooted => Err(self.unexpected("mismatched", "IDENTIFIER")),
            Token::Literal(literal) => {
                self.next += 1;
                let literal = signed(literal, negative).ok_or_else(|| Issue {
                    at,
                    message: "invalid int literal".into(),
                })?;
                self.literal(at, literal)
            }
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.next += 1;
                self.list(at)
            }
            Token::Sign("{") => {
                self.next += 1;
                self.map(at)
            }
            _ => Err(self.unexpected("mismatched", PRIMARY)),
        }
    }

    fn name(&mut self, at: u32, name: &str, rooted: bool) -> Parsed<Id> {
        if !rooted && crate::decl::is_reserved(name) {
            return Err(Issue {
                at,
                message: format!("reserved identifier: {name}"),
            });
        }
        if let Some(open) = self.accept("(") {
            let args = self.args(")")?;
            return match macros::global(self, open, name, &args)? {
                Some(expanded) => {
                    // `has(a.b)`: the selection was there before the macro.
                    let deepest = args.iter().map(|a| self.hanging(*a)).max();
                    self.ast.nodes[expanded as usize].hanging = deepest.unwrap_or(0);
                    Ok(expanded)
                }
                None => self.call(open, name, args),
            };
        }
        self.ident(at, name)
    }

    fn list(&mut self, at: u32) -> Parsed<Id> {
        let mut items = Vec::new();
        while self.accept("]").is_none() {
            let optional = self.accept("?").is_some();
            items.push((self.expr()?, optional));
            if self.accept(",").is_none() {
                self.expect("]")?;
                break;
            }
        }
        self.node(at, Expr::List(items))
    }

    fn map(&mut self, at: u32) -> Parsed<Id> {
        let mut entries = Vec::new();
        while self.accept("}").is_none() {
            let optional = self.accept("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            entries.push((key, self.expr()?, optional));
            if self.accept(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Expr::Map(entries))
    }

    fn message(&mut self, name: &str) -> Parsed<Id> {
        let at = self.expect("{")?;
        let mut fields = Vec::new();
        while self.accept("}").is_none() {
            let optional = self.accept("?").is_some();
            let Token::Ident(field) = self.peek().clone() else {
                return Err(self.unexpected("mismatched", "IDENTIFIER"));
            };
            self.next += 1;
            self.expect(":")?;
            fields.push((field, self.expr()?, optional));
            if self.accept(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        let name = Arc::from(name);
        self.node(at, Expr::Struct { name, fields })
    }
}

/// What may begin an operand, in upstream's words.
const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

fn signed(literal: Literal, negative: bool) -> Option<Literal> {
    match literal {
        Literal::Int(i64::MIN) if !negative => None,
        Literal::Int(n) if negative => Some(Literal::Int(n.wrapping_neg())),
        Literal::Double(n) if negative => Some(Literal::Double(-n)),
        other => Some(other),
    }
}

fn too_deep() -> Issue {
    Issue::nowhere(format!("expression recursion limit exceeded: {MAX_DEPTH}"))
}
