//! Rules of the house that no other tool knows: files open with what they are for and stay
//! readable in one sitting, the tours name files that exist, nothing is left half-done.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::build::root;

/// Most lines of a file, tests not counted. A table may need more, and says so here.
const MOST_LINES: usize = 700;

/// Files that are longer and wait to be split: a debt that is named, not a permission.
const KNOWN_LONG: [&str; 1] = ["crates/wire/src/stream/spdy/connection.rs"];

/// Words that a finished file does not hold. Split, so that this file may name them.
const UNFINISHED: [&str; 3] = [
    concat!("to", "do!("),
    concat!("un", "implemented!("),
    concat!("FIX", "ME"),
];

pub fn check() -> Result<()> {
    let root = root();
    let mut wrong = Vec::new();
    for dir in ["crates", "xtask", "tests", "benches", "fuzz"] {
        for file in rust_files(&root.join(dir)) {
            let text = fs::read_to_string(&file)?;
            let name = file
                .strip_prefix(&root)
                .unwrap_or(&file)
                .display()
                .to_string();
            wrong.extend(problems(&name, &text));
        }
    }
    wrong.extend(dead_paths(&root)?);
    if !wrong.is_empty() {
        bail!("tidiness:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn problems(name: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if !text.starts_with("//!") {
        out.push(format!("{name}: does not open with what it is for (//!)"));
    }
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or(text);
    let lines = code.lines().count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    let is_known = KNOWN_LONG.contains(&name);
    if lines > MOST_LINES && !is_test && !is_known {
        out.push(format!(
            "{name}: {lines} lines; split it by idea (at most {MOST_LINES})"
        ));
    }
    for word in UNFINISHED.iter().filter(|w| text.contains(**w)) {
        out.push(format!("{name}: holds {word:?}"));
    }
    out
}

/// Paths in backticks of the tours that do not exist.
fn dead_paths(root: &Path) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let Ok(tours) = fs::read_dir(root.join("docs/tours")) else {
        return Ok(out);
    };
    for tour in tours {
        let tour = tour?.path();
        let text = fs::read_to_string(&tour)?;
        for path in text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|p| p.starts_with("crates/"))
        {
            if !root.join(path).exists() {
                out.push(format!("{}: {path} does not exist", tour.display()));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_breach() {
        assert!(problems("a.rs", "//! x\nfn a() {}\n").is_empty());
        assert_eq!(problems("a.rs", "fn a() {}\n").len(), 1);
        let long = format!("//! x\n{}", "// y\n".repeat(MOST_LINES));
        assert_eq!(problems("a.rs", &long).len(), 1);
        let half = format!("//! x\nfn a() {{ {}) }}\n", UNFINISHED[0]);
        assert_eq!(problems("a.rs", &half).len(), 1);
    }
}
