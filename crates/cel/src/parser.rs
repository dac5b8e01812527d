//! Expressions as upstream's grammar has them, macros expanded on the way (`macros.rs`).
//! Depth and size of the tree are bounded here, so that nothing after the parser has to ask.

use std::sync::Arc;

use crate::ast::{Ast, Expr, Id, Literal, Node};
use crate::issue::Issue;
use crate::lexer::{Spanned, Token, lex};
use crate::macros;

/// Longest expression, in characters, as upstream.
const MAX_CHARS: usize = 100_000;
/// Deepest tree, as upstream's recursion limit.
pub(crate) const MAX_DEPTH: u16 = 250;
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
        return Err(vec![Issue { at: 0, message }]);
    }
    let tokens = lex(source)?;
    let mut parser = Parser {
        source,
        tokens,
        next: 0,
        level: 0,
        ast: Ast::default(),
    };
    let root = parser.whole().map_err(|issue| vec![issue])?;
    parser.ast.root = root;
    Ok(parser.ast)
}

pub(crate) struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Spanned>,
    next: usize,
    /// Of brackets and other nesting, while parsing recurses.
    level: u16,
    ast: Ast,
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
        let mut below = 0;
        expr.children(|id| below = below.max(self.ast.nodes[id as usize].depth));
        let depth = below + 1;
        if depth > MAX_DEPTH {
            return Err(too_deep(at));
        }
        if self.ast.nodes.len() >= MAX_NODES {
            return Err(Issue {
                at,
                message: format!("expression has more than {MAX_NODES} parts"),
            });
        }
        let id = self.ast.nodes.len() as Id;
        self.ast.nodes.push(Node { expr, at, depth });
        Ok(id)
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
        self.level += 1;
        if self.level > MAX_DEPTH {
            return Err(too_deep(self.at()));
        }
        let first = self.or()?;
        let whole = match self.accept("?") {
            None => first,
            Some(at) => {
                let then = self.or()?;
                self.expect(":")?;
                let other = self.expr()?;
                self.call(at, "_?_:_", vec![first, then, other])?
            }
        };
        self.level -= 1;
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
        let mut terms = vec![self.binary(0)?];
        let mut ops = Vec::new();
        while let Some(at) = self.accept("&&") {
            ops.push(at);
            terms.push(self.binary(0)?);
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

    /// Relations (0), sums (1) and products (2), each from left to right.
    fn binary(&mut self, tightness: usize) -> Parsed<Id> {
        let table: &[(&str, &str)] = match tightness {
            0 => &RELATIONS,
            1 => &SUMS,
            2 => &PRODUCTS,
            _ => return self.unary(),
        };
        let mut left = self.binary(tightness + 1)?;
        while let Token::Sign(sign) = self.peek() {
            let Some((_, function)) = table.iter().find(|(s, _)| s == sign) else {
                break;
            };
            let at = self.at();
            self.next += 1;
            let right = self.binary(tightness + 1)?;
            left = self.call(at, function, vec![left, right])?;
        }
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
                left = self.call(at, function, vec![left, index])?;
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
            return self.call(at, "_?._", vec![operand, field]);
        }
        if let Some(open) = self.accept("(") {
            let args = self.args(")")?;
            return match macros::receiver(self, open, operand, &field, &args)? {
                Some(expanded) => Ok(expanded),
                None => self.member(open, operand, &field, args),
            };
        }
        self.node(
            at,
            Expr::Select {
                operand,
                field,
                test: false,
            },
        )
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
                Some(expanded) => Ok(expanded),
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

fn too_deep(at: u32) -> Issue {
    Issue {
        at,
        message: format!("expression recursion limit exceeded: {MAX_DEPTH}"),
    }
}
