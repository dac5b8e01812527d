//! Rules of the house that no other tool knows: files open with what they are for and stay
//! readable in one sitting, documents name files that exist, nothing is left half-done.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::build::root;

/// Most lines of a file, tests not counted. A table may need more, and says so here.
const MOST_LINES: usize = 700;

/// Most lines of a file of tests, and of any file together with the tests in it.
const MOST_WITH_TESTS: usize = 800;

/// Words that a finished file does not hold. Split, so that this file may name them.
const UNFINISHED: [&str; 3] = [
    concat!("to", "do!("),
    concat!("un", "implemented!("),
    concat!("FIX", "ME"),
];

/// Words of comments over which a reader stumbles who knows Kubernetes: it reports, publishes,
/// answers, warns, and distinguishes. Split, so that this file may name them.
const STUMBLING: [&str; 3] = [
    concat!("to", "ld"),
    concat!("te", "ll"),
    concat!("te", "lls"),
];

/// Crates that the simulation plays: what is ready first there must not be left to chance.
const SIMULATED: [&str; 9] = [
    "apiserver",
    "client",
    "control",
    "controllers",
    "host",
    "kubelet",
    "scheduler",
    "sim",
    "store",
];

/// Over these a reader stumbles wherever they stand, in texts for people most of all: the word, and
/// the denial that nobody speaks (but "there" before it is plain).
const ONCE_MORE: &str = concat!("an", "ew");
const DENIAL: &str = concat!(" is", " no ");

/// Folders of Rust code.
const CODE: [&str; 5] = ["crates", "xtask", "tests", "benches", "fuzz"];

/// Documents whose backticked paths must exist; of a folder, all below it.
const DOCUMENTS: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "GLOSSARY.md",
    "docs",
];

pub fn check() -> Result<()> {
    let root = root();
    let mut wrong = Vec::new();
    for dir in CODE {
        for file in files(&root.join(dir), "rs") {
            let text = fs::read_to_string(&file)?;
            wrong.extend(problems(&name_of(&root, &file), &text));
        }
    }
    let folders = folders(&root);
    for document in DOCUMENTS {
        let place = root.join(document);
        let all = if place.is_dir() {
            files(&place, "md")
        } else {
            vec![place]
        };
        for file in all {
            let text =
                fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let name = name_of(&root, &file);
            wrong.extend(dead_paths(&name, &text, |path| root.join(path).exists()));
            wrong.extend(dead_folders(&name, &text, &folders));
        }
    }
    let glossary = fs::read_to_string(root.join("GLOSSARY.md"))?;
    wrong.extend(dead_names(&glossary, &folders, &stems(&root)));
    if !wrong.is_empty() {
        bail!("tidiness:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

/// A file's path below the root.
fn name_of(root: &Path, file: &Path) -> String {
    let name = file.strip_prefix(root).unwrap_or(file);
    name.display().to_string()
}

/// All files below a folder whose names end in this extension.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn problems(name: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if !text.starts_with("//!") {
        out.push(format!("{name}: does not open with what it is for (//!)"));
    }
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or(text);
    let lines = code.lines().count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    if lines > MOST_LINES && !is_test {
        out.push(format!(
            "{name}: {lines} lines; split it by idea (at most {MOST_LINES})"
        ));
    }
    let all = text.lines().count();
    if all > MOST_WITH_TESTS {
        out.push(format!(
            "{name}: {all} lines with its tests; split them by idea (at most {MOST_WITH_TESTS})"
        ));
    }
    for (at, line) in text.lines().enumerate() {
        let comment = line.trim_start().strip_prefix("//").unwrap_or_default();
        let mut words = comment.split(|c: char| !c.is_alphanumeric() && c != '_');
        if let Some(word) = words.find(|w| STUMBLING.contains(w)) {
            out.push(format!(
                "{name}:{}: {word:?}: say reports, publishes, answers or distinguishes",
                at + 1
            ));
        }
    }
    if is_simulated(name) {
        let chosen = text.split("select! {").skip(1);
        let by_chance = chosen.filter(|body| !body.trim_start().starts_with("biased;"));
        for _ in by_chance {
            out.push(format!(
                "{name}: a select! without `biased;`: which branch is taken must not be chance"
            ));
        }
    }
    for (at, line) in text.lines().enumerate() {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.any(|word| word.eq_ignore_ascii_case(ONCE_MORE)) {
            out.push(format!("{name}:{}: {ONCE_MORE}: say again", at + 1));
        }
        if denies_oddly(line) {
            out.push(format!("{name}:{}:{DENIAL}…: say is not a …", at + 1));
        }
    }
    for word in UNFINISHED.iter().filter(|w| text.contains(**w)) {
        out.push(format!("{name}: holds {word:?}"));
    }
    out
}

/// Whether a line denies something in the form that [`DENIAL`] is about.
fn denies_oddly(line: &str) -> bool {
    line.match_indices(DENIAL).any(|(at, found)| {
        let before = line.get(..at).unwrap_or_default().to_lowercase();
        let after = line.get(at + found.len()..).unwrap_or_default();
        let is_plain = ["there", "here", "where"]
            .iter()
            .any(|w| before.ends_with(w))
            || ["longer", "more"].iter().any(|w| after.starts_with(w));
        after.starts_with(|c: char| c.is_ascii_lowercase()) && !is_plain
    })
}

/// Whether a file is of a crate that runs in simulations; what its tests do does not matter.
fn is_simulated(name: &str) -> bool {
    let below = name.strip_prefix("crates/");
    let split = below.and_then(|below| below.split_once('/'));
    split.is_some_and(|(name, rest)| SIMULATED.contains(&name) && rest.starts_with("src/"))
}

/// All folders of code and documents, by their paths.
fn folders(root: &Path) -> Vec<String> {
    let places = CODE.iter().chain(&DOCUMENTS);
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = places.map(|place| root.join(place)).collect();
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        let below = entries.filter_map(|e| Some(e.ok()?.path()));
        left.extend(below.filter(|path| path.is_dir() && !path.ends_with("node_modules")));
        found.push(name_of(root, &dir));
    }
    found
}

/// Names of all files of code, without their extension.
fn stems(root: &Path) -> BTreeSet<String> {
    let all = CODE.iter().flat_map(|dir| files(&root.join(dir), "rs"));
    let stem = |file: PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
    all.filter_map(stem).collect()
}

/// Folders in backticks, such as `a/b/`, of which there is none anywhere.
fn dead_folders(name: &str, text: &str, folders: &[String]) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_folder = |word: &&str| {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
        word.ends_with('/') && !word.starts_with('/') && word.chars().all(plain)
    };
    let is_there = |word: &&str| {
        let path = word.trim_end_matches('/');
        folders.iter().any(|folder| {
            let before = folder.strip_suffix(path);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
    };
    let dead = quoted.filter(is_folder).filter(|word| !is_there(word));
    dead.map(|word| format!("{name}: there is no folder {word}"))
        .collect()
}

/// Names of crates and folders in the glossary that nothing has.
fn dead_names(glossary: &str, folders: &[String], stems: &BTreeSet<String>) -> Vec<String> {
    let section = glossary.split("\n## Names of crates and folders\n").nth(1);
    let lines = section.unwrap_or_default().lines();
    let heads = lines.filter_map(|line| line.strip_prefix("- **`")?.split(" — ").next());
    let names = heads.flat_map(|head| head.split(['`', '*', ',', ' ']).filter(|n| !n.is_empty()));
    let is_there = |name: &&str| {
        let mut all = folders.iter().filter_map(|f| f.rsplit('/').next());
        stems.contains(*name) || all.any(|folder| folder == *name)
    };
    let dead = names.filter(|name| !is_there(name));
    dead.map(|name| format!("GLOSSARY.md: nothing is called {name}"))
        .collect()
}

/// Paths in backticks that do not exist: those that begin with a folder of code or of documents.
fn dead_paths(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let is_path = |word: &&str| {
        let folder = word.split_once('/').map(|(folder, _)| folder);
        folder.is_some_and(|f| CODE.contains(&f) || DOCUMENTS.contains(&f))
    };
    let quoted = text.split('`').skip(1).step_by(2).filter(is_path);
    let dead = quoted.filter(|path| !exists(path));
    dead.map(|path| format!("{name}: {path} does not exist"))
        .collect()
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
        let tests = "// y\n".repeat(MOST_WITH_TESTS);
        let tests = format!("//! x\n\n#[cfg(test)]\n{tests}");
        assert_eq!(problems("a.rs", &tests).len(), 1);
        let stumbling = format!("//! x\n    // It is {} why.\n", STUMBLING[0]);
        assert_eq!(problems("a.rs", &stumbling).len(), 1);
        for (text, wrong) in [
            (format!("//! It is made {ONCE_MORE}.\n"), 1),
            (
                format!("//! x\nconst A: &str = \"What{DENIAL}number is read {ONCE_MORE}.\";\n"),
                2,
            ),
            (
                format!("//! There{DENIAL}number, and it{DENIAL}longer one.\n"),
                0,
            ),
            (format!("//! It{DENIAL}UTF-8.\n"), 0),
        ] {
            assert_eq!(problems("a.rs", &text).len(), wrong, "{text}");
        }
        let half = format!("//! x\nfn a() {{ {}) }}\n", UNFINISHED[0]);
        assert_eq!(problems("a.rs", &half).len(), 1);
        let chosen = "//! x\nfn a() {\n    tokio::select! {\n        () = b => {}\n    }\n}\n";
        let biased = chosen.replace("() = b", "biased;\n        () = b");
        for (name, text, wrong) in [
            ("crates/control/src/a.rs", chosen, 1),
            ("crates/control/src/a.rs", &*biased, 0),
            ("crates/control/tests/a.rs", chosen, 0),
            ("crates/wire/src/a.rs", chosen, 0),
        ] {
            assert_eq!(problems(name, text).len(), wrong, "{name} {text}");
        }
    }
    #[test]
    fn documents_name_folders_that_exist() {
        let folders = ["crates".to_owned(), "crates/a/src/b".to_owned()];
        let text = "`b/`, `src/b/`, `crates/`, `rc/b/`, `gone/`, `/`, `/debug/`, `a b/`";
        let dead = [
            "A.md: there is no folder rc/b/",
            "A.md: there is no folder gone/",
        ];
        assert_eq!(dead_folders("A.md", text, &folders), dead);
        let text = "- **`x`** — y\n\n## Names of crates and folders\n- **`b`** — a\n  `gone`\n- **`c`**, **`d`** — e\n- **`b`, `f`** — g\n";
        let stems = BTreeSet::from(["c".to_owned()]);
        let dead = [
            "GLOSSARY.md: nothing is called d",
            "GLOSSARY.md: nothing is called f",
        ];
        assert_eq!(dead_names(text, &folders, &stems), dead);
    }
    #[test]
    fn documents_name_paths_that_exist() {
        let text = "`crates/a.rs`, `cargo xtask`, `a/b` and `crates/gone.rs`\n\
            ```\ncrates/no_path.rs\n```\nin `docs/gone.md`, crates/not_quoted.rs";
        let exists = |path: &str| path == "crates/a.rs";
        assert_eq!(
            dead_paths("A.md", text, exists),
            [
                "A.md: crates/gone.rs does not exist",
                "A.md: docs/gone.md does not exist"
            ]
        );
    }
}
