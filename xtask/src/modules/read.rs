//! What one file of Rust names: the modules it opens, what its `use` lines bring in, and the paths
//! that its code writes out. Read from tokens, so that paths inside of macros count, too; code that
//! only tests see does not.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as written: `crate::a::b` or `b::c`.
pub type Path = Vec<String>;

/// One module: a file, or a block `mod x { … }` in one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Names that `use` lines bring in, with what they stand for.
    pub names: BTreeMap<String, Path>,
    /// Those of them that are only passed on (`pub use`), unless the code uses them, too.
    pub passed_on: BTreeSet<String>,
    /// All words of its code.
    pub words: BTreeSet<String>,
    /// What is brought in whole (`use a::*`).
    pub globs: Vec<Path>,
    /// Items that stand here.
    pub defines: BTreeSet<String>,
    /// All paths of two parts and more that its code writes out.
    pub paths: BTreeSet<Path>,
    /// Modules that only tests have (`#[cfg(test)] mod x;`).
    pub for_tests: BTreeSet<String>,
}

/// The modules of a file whose own name is `at`.
pub fn read(text: &str, at: &Path) -> Result<BTreeMap<Path, Module>> {
    let tokens: TokenStream = text.parse().map_err(|e| anyhow!("{e}"))?;
    let mut all = BTreeMap::new();
    let mut reader = Reader {
        all: &mut all,
        at: at.clone(),
    };
    reader.items(tokens);
    Ok(all)
}

struct Reader<'a> {
    all: &'a mut BTreeMap<Path, Module>,
    at: Path,
}

type Tokens = Peekable<proc_macro2::token_stream::IntoIter>;

impl Reader<'_> {
    fn here(&mut self) -> &mut Module {
        self.all.entry(self.at.clone()).or_default()
    }

    /// Walks over tokens of any depth.
    fn items(&mut self, tokens: TokenStream) {
        self.here();
        let mut tokens = tokens.into_iter().peekable();
        let (mut before, mut last) = (None, None);
        let mut after_pub = false;
        while let Some(token) = tokens.next() {
            // A field's or a method's name, or what is said after `<T as X>`.
            let is_public = std::mem::take(&mut after_pub);
            let is_path_part = matches!((before, last), (Some(':'), Some(':')) | (_, Some('.')));
            before = last;
            last = match &token {
                TokenTree::Punct(p) => Some(p.as_char()),
                _ => None,
            };
            match token {
                TokenTree::Punct(p) if p.as_char() == '#' => self.attribute(&mut tokens),
                TokenTree::Group(group) => {
                    // `pub(crate)`
                    after_pub = is_public;
                    self.items(group.stream());
                }
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    after_pub = word == "pub";
                    if word != "use" {
                        self.here().words.insert(word.clone());
                    }
                    match word.as_str() {
                        _ if is_path_part => {}
                        "use" => self.use_line(&mut tokens, is_public),
                        "mod" => self.module(&mut tokens),
                        _ => self.word(word, &mut tokens),
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Leaves out what an attribute says is for tests.
    fn attribute(&mut self, tokens: &mut Tokens) {
        let Some(TokenTree::Group(group)) = tokens.peek() else {
            return;
        };
        let text = group.stream().to_string();
        if !is_for_tests(&text) {
            // What stands in other attributes are names, too.
            return;
        }
        tokens.next();
        let (mut is_module, mut name) = (false, None);
        for token in tokens.by_ref() {
            match token {
                TokenTree::Ident(word) if is_module && name.is_none() => {
                    name = Some(word.to_string());
                }
                TokenTree::Ident(word) => is_module |= word == "mod",
                TokenTree::Group(g) if g.delimiter() == Delimiter::Brace => return,
                TokenTree::Punct(p) if p.as_char() == ';' => break,
                _ => {}
            }
        }
        self.here().for_tests.extend(name);
    }

    fn module(&mut self, tokens: &mut Tokens) {
        let Some(TokenTree::Ident(name)) = tokens.next() else {
            return;
        };
        let name = name.to_string();
        let Some(TokenTree::Group(_)) = tokens.peek() else {
            return;
        };
        if let Some(TokenTree::Group(body)) = tokens.next() {
            self.at.push(name);
            self.items(body.stream());
            self.at.pop();
        }
    }

    /// A word that begins a path, or is followed by the name of what it defines.
    fn word(&mut self, word: String, tokens: &mut Tokens) {
        const DEFINES: [&str; 9] = [
            "fn",
            "struct",
            "enum",
            "union",
            "trait",
            "type",
            "const",
            "static",
            "macro_rules",
        ];
        if DEFINES.contains(&word.as_str()) {
            if let Some(TokenTree::Punct(p)) = tokens.peek()
                && p.as_char() == '!'
            {
                tokens.next();
            }
            if let Some(TokenTree::Ident(name)) = tokens.peek() {
                let name = name.to_string();
                self.here().defines.insert(name);
            }
            return;
        }
        let mut path = vec![word];
        while colons(tokens) {
            match tokens.peek() {
                Some(TokenTree::Ident(next)) => path.push(next.to_string()),
                _ => break,
            }
            tokens.next();
        }
        if path.len() > 1 {
            self.here().paths.insert(path);
        }
    }

    fn use_line(&mut self, tokens: &mut Tokens, is_public: bool) {
        let line = tokens.by_ref().take_while(|t| !is(t, ';'));
        let line: TokenStream = line.collect();
        let before: BTreeSet<String> = self.here().names.keys().cloned().collect();
        self.use_tree(&Vec::new(), line);
        if is_public {
            let here = self.here();
            let new = here.names.keys().filter(|name| !before.contains(*name));
            here.passed_on = here.passed_on.iter().chain(new).cloned().collect();
        }
    }

    fn use_tree(&mut self, below: &Path, tree: TokenStream) {
        let mut tokens = tree.into_iter().peekable();
        while tokens.peek().is_some() {
            let mut path = below.clone();
            let mut name = None;
            loop {
                match tokens.next() {
                    Some(TokenTree::Ident(word)) if word == "as" => {
                        name = tokens.next().map(|t| t.to_string());
                    }
                    Some(TokenTree::Ident(word)) => path.push(word.to_string()),
                    Some(TokenTree::Group(group)) => {
                        self.use_tree(&path, group.stream());
                        path.clear();
                    }
                    Some(TokenTree::Punct(p)) if p.as_char() == '*' => {
                        self.here().globs.push(std::mem::take(&mut path));
                    }
                    Some(TokenTree::Punct(p)) if p.as_char() == ':' => {}
                    _ => break,
                }
            }
            self.bring_in(path, name);
        }
    }

    fn bring_in(&mut self, mut path: Path, name: Option<String>) {
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(name) = name.or_else(|| path.last().cloned()) {
            // Of a trait that has no name, the path still counts.
            let name = if name == "_" { path.join("::") } else { name };
            self.here().names.insert(name, path);
        }
    }
}

fn is(token: &TokenTree, what: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == what)
}

/// Whether an attribute is `test` or a `cfg` that asks for tests.
fn is_for_tests(text: &str) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    match words.next() {
        Some("test") => true,
        Some("cfg") => {
            let words: Vec<&str> = words.filter(|w| !w.is_empty()).collect();
            words.contains(&"test") && !words.contains(&"not") && !words.contains(&"any")
        }
        _ => false,
    }
}

/// Takes `::`, if it comes next.
fn colons(tokens: &mut Tokens) -> bool {
    let mut ahead = tokens.clone();
    let found =
        ahead.next().is_some_and(|t| is(&t, ':')) && ahead.next().is_some_and(|t| is(&t, ':'));
    if found {
        *tokens = ahead;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split("::").map(str::to_owned).collect()
    }

    #[test]
    fn use_lines_are_read_with_their_braces() {
        let text = "pub use a::{self, b::{C, D as E}, f::*};\nuse crate::g as h;\nuse T as _;";
        let all = read(text, &path("m")).expect("Rust");
        let module = &all[&path("m")];
        let names: Vec<String> = module
            .names
            .iter()
            .map(|(name, path)| format!("{name}={}", path.join("::")))
            .collect();
        assert_eq!(
            names,
            ["C=a::b::C", "E=a::b::D", "T=T", "a=a", "h=crate::g"]
        );
        assert_eq!(module.globs, [path("a::f")]);
    }

    #[test]
    fn what_is_passed_on_is_known() {
        let text = "pub use a::B; pub(crate) use c::D; use e::F; fn f(_: D) {}";
        let all = read(text, &path("m")).expect("Rust");
        let module = &all[&path("m")];
        let passed_on: Vec<&String> = module.passed_on.iter().collect();
        assert_eq!(passed_on, ["B", "D"]);
        assert!(module.words.contains("D") && !module.words.contains("B"));
    }

    #[test]
    fn paths_count_wherever_they_stand_but_in_tests() {
        let text = r#"
            //! see crate::no
            fn f() { json!({ "k": crate::a::b(super::c::D::new()) }); let x = y.crate_(); }
            mod inner { struct S(super::T); }
            #[cfg(test)]
            mod tests { use super::*; fn t() { crate::only::tests(); } }
            #[cfg(test)]
            pub mod more;
            #[cfg(not(test))]
            fn g() { h::i(); }
        "#;
        let all = read(text, &path("m")).expect("Rust");
        let module = &all[&path("m")];
        let paths: Vec<String> = module.paths.iter().map(|p| p.join("::")).collect();
        assert_eq!(paths, ["crate::a::b", "h::i", "super::c::D::new"]);
        assert_eq!(module.for_tests.iter().collect::<Vec<_>>(), ["more"]);
        assert!(module.defines.contains("f") && module.defines.contains("g"));
        assert_eq!(all[&path("m::inner")].paths.len(), 1);
        assert_eq!(all.len(), 2);
    }
}
