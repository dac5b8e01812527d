//! From the paths that files name to arrows between files, and from arrows to circles.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Module, Path};

/// A crate's modules, each with the file in which it stands.
#[derive(Debug, Default)]
pub struct Crate {
    pub modules: BTreeMap<Path, (String, Module)>,
}

/// How many names that stand for other names are followed.
const MOST_HOPS: usize = 16;

/// How a name is looked for.
#[derive(Clone, Copy)]
struct Lookup {
    /// Names followed so far that stand for other names.
    hops: usize,
    /// Whether `use a::*` lines are looked through as well.
    globs: bool,
}

impl Lookup {
    const FIRST: Self = Self {
        hops: 0,
        globs: true,
    };
    /// For the path of a `use a::*` line itself: two such lines would lead to each other, and one
    /// of a crate's name to itself, without end.
    const OF_A_GLOB: Self = Self {
        globs: false,
        ..Self::FIRST
    };

    fn next(self) -> Self {
        Self {
            hops: self.hops + 1,
            ..self
        }
    }
}

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// To an item of this module.
    Item(Path),
    /// To the module itself, which is only a name.
    Module(Path),
    /// Out of the crate.
    Outside,
}

pub type Arrows = BTreeMap<String, BTreeSet<String>>;

impl Crate {
    /// Which file uses which.
    pub fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        for (at, (file, module)) in &self.modules {
            let arrows = arrows.entry(file.clone()).or_default();
            let is_used =
                |name: &str| !module.passed_on.contains(name) || module.words.contains(name);
            let names = module.names.iter().filter(|(name, _)| is_used(name));
            let used = names.map(|(_, path)| path).chain(&module.paths);
            let items = used.filter_map(|path| match self.resolve(at, path, Lookup::FIRST) {
                Target::Item(found) => Some(found),
                Target::Module(_) | Target::Outside => None,
            });
            let globs = module.globs.iter().filter_map(|path| self.module(at, path));
            for found in items.chain(globs) {
                if let Some((to, _)) = self.modules.get(&found)
                    && to != file
                {
                    arrows.insert(to.clone());
                }
            }
        }
        arrows
    }

    /// The module that the path of a `use a::*` line names.
    fn module(&self, at: &Path, path: &Path) -> Option<Path> {
        match self.resolve(at, path, Lookup::OF_A_GLOB) {
            Target::Module(found) => Some(found),
            // An enum's variants.
            Target::Item(found) => Some(found),
            Target::Outside => None,
        }
    }

    fn resolve(&self, at: &Path, path: &Path, look: Lookup) -> Target {
        if look.hops > MOST_HOPS {
            return Target::Outside;
        }
        let mut here = at.clone();
        let mut rest = path.as_slice();
        let mut is_first = true;
        while let Some((part, after)) = rest.split_first() {
            match part.as_str() {
                "crate" if is_first => here.clear(),
                "self" if is_first => {}
                "super" => {
                    if here.pop().is_none() {
                        return Target::Outside;
                    }
                }
                _ => match self.step(&here, part, after, is_first, look) {
                    Ok(child) => here = child,
                    Err(target) => return target,
                },
            }
            is_first = false;
            rest = after;
        }
        Target::Module(here)
    }

    /// One part further: into a child, or to the end.
    fn step(
        &self,
        here: &Path,
        part: &str,
        after: &[String],
        is_first: bool,
        look: Lookup,
    ) -> Result<Path, Target> {
        let mut child = here.clone();
        child.push(part.to_owned());
        if self.modules.contains_key(&child) {
            return Ok(child);
        }
        let Some((_, module)) = self.modules.get(here) else {
            return Err(Target::Outside);
        };
        if module.defines.contains(part) {
            return Err(Target::Item(here.clone()));
        }
        if let Some(name) = module.names.get(part)
            && name.first().is_some_and(|first| first != part)
        {
            let whole: Path = name.iter().chain(after).cloned().collect();
            return Err(match self.resolve(here, &whole, look.next()) {
                // What comes from elsewhere is had through this module.
                Target::Outside if !is_first => Target::Item(here.clone()),
                found => found,
            });
        }
        for glob in module.globs.iter().filter(|_| look.globs) {
            if let Some(from) = self.module(here, glob)
                && from != *here
                && let Target::Item(found) = self.resolve_in(&from, part, after, look)
            {
                return Err(Target::Item(found));
            }
        }
        // A word alone may be a crate, a parameter, a local name; one on the way is a module whose file
        // is elsewhere (`#[path]`).
        Err(if is_first || !after.is_empty() {
            Target::Outside
        } else {
            Target::Item(here.clone())
        })
    }

    fn resolve_in(&self, from: &Path, part: &str, after: &[String], look: Lookup) -> Target {
        let defines = self
            .modules
            .get(from)
            .is_some_and(|(_, m)| m.defines.contains(part) || m.names.contains_key(part));
        if !defines || look.hops > MOST_HOPS {
            return Target::Outside;
        }
        let whole: Path = std::iter::once(part.to_owned())
            .chain(after.iter().cloned())
            .collect();
        self.resolve(from, &whole, look.next())
    }
}

/// Groups of files that all lead to one another, two and more, the largest first.
pub fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> = arrows
        .keys()
        .map(|file| (file, reachable(arrows, file)))
        .collect();
    let mut done: BTreeSet<&String> = BTreeSet::new();
    let mut found = Vec::new();
    for (file, to) in &reach {
        if done.contains(file) || !to.contains(file) {
            continue;
        }
        let group: Vec<&String> = to
            .iter()
            .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
            .copied()
            .collect();
        done.extend(&group);
        found.push(group.into_iter().cloned().collect());
    }
    found.sort_by_key(|group: &Vec<String>| std::cmp::Reverse(group.len()));
    found
}

fn reachable<'a>(arrows: &'a Arrows, from: &String) -> BTreeSet<&'a String> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&String> = arrows.get(from).into_iter().flatten().collect();
    while let Some(file) = next.pop() {
        if seen.insert(file) {
            next.extend(arrows.get(file).into_iter().flatten());
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::*;

    fn of(files: &[(&str, &str)]) -> Crate {
        let mut all = Crate::default();
        for (module, text) in files {
            let at: Path = module
                .split("::")
                .filter(|p| !p.is_empty())
                .map(str::to_owned)
                .collect();
            for (path, read) in read(text, &at).expect("Rust") {
                all.modules.insert(path, (format!("{module}.rs"), read));
            }
        }
        all
    }

    fn shown(arrows: &Arrows) -> Vec<String> {
        let all = arrows.iter().map(|(from, to)| {
            let to: Vec<&str> = to.iter().map(String::as_str).collect();
            format!("{from} > {}", to.join(" "))
        });
        all.collect()
    }

    #[test]
    fn an_arrow_leads_to_where_the_item_stands() {
        let all = of(&[
            (
                "",
                "mod a; mod b; pub use a::Thing; use b::c; pub use b::d;\nfn f() { c::go(); serde::x(); }",
            ),
            (
                "a",
                "use super::b; pub struct Thing; fn g() { b::c::go(); }",
            ),
            ("b", "pub mod c; pub use tokio::Out; pub fn d() {}"),
            (
                "b::c",
                "use crate::Thing; use crate::b::Out; pub fn go() { self::go() }",
            ),
        ]);
        assert_eq!(
            shown(&all.arrows()),
            [
                ".rs > b::c.rs",
                "a.rs > b::c.rs",
                "b.rs > ",
                "b::c.rs > a.rs b.rs"
            ]
        );
    }

    #[test]
    fn a_whole_module_brought_in_is_an_arrow() {
        let all = of(&[
            ("", "mod a; mod b; mod c;"),
            ("a", "use crate::b::*; fn f() { T::x(); }"),
            ("b", "pub use super::c::T;"),
            ("c", "pub struct T;"),
        ]);
        let arrows = all.arrows();
        assert_eq!(shown(&arrows)[1], "a.rs > b.rs c.rs");
    }

    #[test]
    fn lines_that_bring_in_whole_crates_or_each_other_end() {
        let all = of(&[
            ("", "mod serde; mod a; mod b;"),
            ("serde", "use serde::*; use tokio::*; fn f() { x::y(); }"),
            ("a", "use b::*; use super::b::*; fn g() { T::new(); }"),
            ("b", "use a::*; use super::a::*; pub struct T;"),
        ]);
        let arrows = all.arrows();
        assert_eq!(
            shown(&arrows)[1..],
            ["a.rs > b.rs", "b.rs > a.rs", "serde.rs > "]
        );
    }

    #[test]
    fn circles_are_found_and_nothing_else() {
        let arrows: Arrows = [
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            ("d", "a"),
            ("e", "f"),
            ("f", "e"),
        ]
        .into_iter()
        .map(|(from, to)| (from.to_owned(), [to.to_owned()].into()))
        .collect();
        let found = circles(&arrows);
        assert_eq!(found, [vec!["a", "b", "c"], vec!["e", "f"]]);
    }
}
