//! Which file may use which, inside of a crate: no circle of more than three files, and in the
//! API server no import against the order of its floors.

mod floors;
mod graph;
mod read;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path as File, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::root;
use crate::tidy;
use graph::{Arrows, Crate, circles};

/// Files that may know each other; more is a tangle in which nothing can be read alone.
const MOST: usize = 3;

/// Circles that are larger and wait to be opened: a debt that is named, not a permission. A number
/// may only become smaller, and goes with its circle. There is none at present.
const KNOWN: &[(&str, usize)] = &[];

/// Compares all crates with the rules.
pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, source) in crates()? {
        let arrows = arrows(&source)?;
        let known = KNOWN.iter().filter(|(n, _)| *n == name);
        let known: Vec<usize> = known.map(|(_, size)| *size).collect();
        wrong.extend(wrong_circles(&name, &circles(&arrows), &known));
        if name == "apiserver" {
            wrong.extend(floors::wrong(&name, floors::APISERVER, &arrows));
            let document = "ARCHITECTURE.md";
            let text = fs::read_to_string(root().join(document))?;
            wrong.extend(floors::wrong_table(document, &text, floors::APISERVER));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "arrows between files (`cargo xtask circles` shows them):\n  {}",
            wrong.join("\n  ")
        );
    }
    Ok(())
}

/// Prints each circle with the arrows that make it.
pub fn print() -> Result<()> {
    for (name, source) in crates()? {
        let arrows = arrows(&source)?;
        for circle in circles(&arrows) {
            println!("{name}: {} files", circle.len());
            for file in &circle {
                let to = arrows.get(file).into_iter().flatten();
                let to: Vec<&str> = to
                    .filter(|to| circle.contains(to))
                    .map(String::as_str)
                    .collect();
                println!("  {file} uses {}", to.join(", "));
            }
        }
    }
    Ok(())
}

/// What is wrong with the circles of a crate (the largest first), of which some are known.
fn wrong_circles(name: &str, circles: &[Vec<String>], known: &[usize]) -> Vec<String> {
    let large: Vec<&Vec<String>> = circles.iter().filter(|c| c.len() > MOST).collect();
    let mut wrong = Vec::new();
    for nth in 0..large.len().max(known.len()) {
        match (large.get(nth), known.get(nth)) {
            (Some(circle), None) => wrong.push(format!(
                "{name}: a circle of {} files: {}",
                circle.len(),
                circle.join(", ")
            )),
            (Some(circle), Some(size)) if circle.len() > *size => wrong.push(format!(
                "{name}: the circle of {size} files has become one of {}: {}",
                circle.len(),
                circle.join(", ")
            )),
            (Some(circle), Some(size)) if circle.len() < *size => wrong.push(format!(
                "{name}: the circle of {size} files is one of {}: say so in xtask/src/modules/mod.rs",
                circle.len()
            )),
            (None, Some(size)) => wrong.push(format!(
                "{name}: the circle of {size} files is gone: take it out of xtask/src/modules/mod.rs"
            )),
            _ => {}
        }
    }
    wrong
}

/// Every crate of the workspace with the folder of its sources, and the programs of its tests with
/// theirs.
fn crates() -> Result<BTreeMap<String, PathBuf>> {
    let mut all = BTreeMap::new();
    let below = fs::read_dir(root().join("crates")).context("reading the folder of crates")?;
    let below = below.filter_map(|e| Some(e.ok()?.path()));
    let others = ["xtask", "tests", "benches", "fuzz"].map(|name| root().join(name));
    for folder in below.chain(others) {
        if let Some(name) = folder.file_name().and_then(|n| n.to_str()) {
            all.extend(sources(name, &folder));
        }
    }
    Ok(all)
}

/// The folders of a package that are crates: `src`; those of tests that are programs of several
/// files; and `tests` with the others, which share modules. The package `tests` has its programs
/// beside `src`.
fn sources(package: &str, folder: &File) -> Vec<(String, PathBuf)> {
    let tests = folder.join("tests");
    let mut all = vec![(package.to_owned(), folder.join("src"))];
    for (name, place) in [
        (package.to_owned(), folder.to_owned()),
        (format!("{package}/tests"), tests.clone()),
    ] {
        let below = fs::read_dir(place).into_iter().flatten().flatten();
        let programs = below.filter(|e| e.file_name() != "src" && is_program(&e.path()));
        all.extend(programs.map(|e| (format!("{name}/{}", e.file_name().display()), e.path())));
    }
    all.push((format!("{package}/tests"), tests));
    all.retain(|(_, source)| source.is_dir());
    all
}

fn is_program(folder: &File) -> bool {
    folder.join("main.rs").is_file()
}

/// The files of a crate: those below its folder that are not a program of their own.
fn files(source: &File) -> Vec<PathBuf> {
    let mut all = tidy::files(source, "rs");
    all.retain(|file| {
        let mut above = file.ancestors().skip(1).take_while(|dir| *dir != source);
        !above.any(is_program)
    });
    all
}

/// Which file of a crate uses which; named from its folder `src` on.
fn arrows(source: &File) -> Result<Arrows> {
    let mut all = Crate::default();
    for file in files(source) {
        let text = fs::read_to_string(&file)?;
        let name = file.strip_prefix(source).unwrap_or(&file);
        let name = name.display().to_string();
        let modules = read::read(&text, &module_of(&name))
            .with_context(|| format!("reading {}", file.display()))?;
        for (path, module) in modules {
            all.modules.insert(path, (name.clone(), module));
        }
    }
    without_tests(&mut all);
    Ok(all.arrows())
}

/// `a/b.rs` and `a/b/mod.rs` are the module `a::b`.
fn module_of(file: &str) -> read::Path {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let mut parts: read::Path = stem.split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod")) {
        parts.pop();
    } else if matches!(stem, "lib" | "main") {
        parts.clear();
    }
    parts
}

/// Takes out the files that only tests have.
fn without_tests(all: &mut Crate) {
    let mut gone: Vec<read::Path> = Vec::new();
    for (path, (_, module)) in &all.modules {
        for name in &module.for_tests {
            let mut child = path.clone();
            child.push(name.clone());
            gone.push(child);
        }
    }
    all.modules
        .retain(|path, _| !gone.iter().any(|g| path.starts_with(g)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_may_only_become_smaller() {
        let circle = |size: usize| vec!["x.rs".to_owned(); size];
        let wrong = |sizes: &[usize], known: &[usize]| {
            let circles: Vec<Vec<String>> = sizes.iter().map(|s| circle(*s)).collect();
            wrong_circles("a", &circles, known).len()
        };
        assert_eq!(wrong(&[3, 2], &[]), 0);
        assert_eq!(wrong(&[4], &[]), 1);
        assert_eq!(wrong(&[9, 5], &[9, 5]), 0);
        assert_eq!(wrong(&[10, 5], &[9, 5]), 1);
        assert_eq!(wrong(&[8, 5], &[9, 5]), 1, "the number must follow");
        assert_eq!(wrong(&[9], &[9, 5]), 1, "and go with its circle");
    }

    #[test]
    fn tests_are_crates_as_well() {
        let of = |package: &str, folder: &str| {
            let all = sources(package, &root().join(folder));
            all.into_iter().collect::<BTreeMap<String, PathBuf>>()
        };
        let server = of("apiserver", "crates/apiserver");
        let names: Vec<&str> = server.keys().map(String::as_str).collect();
        assert_eq!(names.first(), Some(&"apiserver"));
        for folder in ["", "/policies", "/several"] {
            let name = format!("apiserver/tests{folder}");
            assert!(names.contains(&&*name), "{name} in {names:?}");
        }
        let has = |name: &str, file: &str| {
            let source = &server[name];
            files(source).contains(&source.join(file))
        };
        assert!(
            has("apiserver/tests", "common/mod.rs") && has("apiserver/tests/several", "main.rs")
        );
        assert!(
            !has("apiserver/tests", "several/main.rs"),
            "it is a program of its own"
        );
        let suites = of("tests", "tests");
        assert!(suites.contains_key("tests") && suites.contains_key("tests/nodes"));
    }

    #[test]
    fn files_are_modules() {
        assert!(module_of("lib.rs").is_empty());
        assert_eq!(module_of("a/mod.rs"), ["a"]);
        assert_eq!(module_of("a/b.rs"), ["a", "b"]);
    }
}
