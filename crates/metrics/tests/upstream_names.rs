//! Upstream's figures, by name: each line of `upstream_names.txt` names one that a component of this
//! project registers, or says after a colon why none does. It is the sources that are read: figures
//! are registered by whoever counts them, and no crate knows all of those.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// Sources whose quoted words are members of documents, and none a part of a figure's name.
const DOCUMENTS: &str = "discovery/openapi";

/// What stands in quotes in a crate's sources, as far as it may be a figure's name or a part of one;
/// `{…}` stands for what is filled in.
fn quoted(dir: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with(DOCUMENTS) {
                quoted(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            let inside = text.lines().flat_map(|l| l.split('"').skip(1).step_by(2));
            let words = inside.flat_map(str::split_whitespace);
            let is_name =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_{}".contains(c);
            let names = words.filter(|w| !w.is_empty() && w.chars().all(is_name));
            found.extend(names.map(str::to_owned));
        }
    }
    Ok(())
}

/// Whether a name is one of these words, or made of them: a head and a tail that are joined by an
/// underscore, or one that is filled in with another.
fn is_made_of(name: &str, words: &BTreeSet<String>) -> bool {
    let is_tail = |rest: &str| {
        let tail = rest.strip_prefix('_');
        rest.is_empty() || tail.is_some_and(|tail| words.contains(tail))
    };
    words.iter().any(|word| {
        let Some((head, after)) = word.split_once('{') else {
            let rest = name.strip_prefix(word.as_str());
            let joins = word.ends_with('_');
            return rest.is_some_and(|r| is_tail(r) || (joins && words.contains(r)));
        };
        let end = after.split_once('}').map_or("", |(_, end)| end);
        let Some(rest) = name.strip_prefix(head).filter(|_| head.len() > 3) else {
            return false;
        };
        if end.is_empty() {
            return words.contains(rest);
        }
        rest.match_indices(end).any(|(at, end)| {
            let (filled, tail) = rest.split_at(at);
            let tail = tail.strip_prefix(end).unwrap_or_default();
            words.contains(filled) && is_tail(tail)
        })
    })
}

#[test]
fn upstreams_names_are_registered_or_it_is_said_why_not() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    for entry in fs::read_dir(crates).expect("the crates") {
        let mut words = BTreeSet::new();
        let dir = entry.expect("a crate").path().join("src");
        if dir.is_dir() {
            quoted(&dir, &mut words).expect("the sources");
            all.push(words);
        }
    }
    let mut wrong = Vec::new();
    for line in include_str!("upstream_names.txt").lines() {
        let (name, why_not) = line.split_once(": ").unwrap_or((line, ""));
        // The ending is added when it is written.
        let bare = name.strip_suffix("_total").unwrap_or(name);
        let is_there = all
            .iter()
            .any(|words| is_made_of(name, words) || is_made_of(bare, words));
        match (is_there, why_not.is_empty()) {
            (false, true) => wrong.push(format!("{name} is not registered")),
            (true, false) => wrong.push(format!("{name} is registered, and the list says why not")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn names_are_found_in_the_forms_that_sources_have() {
    let words = [
        "a_whole_name",
        "a_head",
        "its_tail",
        "form_{n}",
        "both_{x}_ends",
        "fills",
        "ends_so_",
    ];
    let words: BTreeSet<String> = words.map(str::to_owned).into();
    for name in [
        "a_whole_name",
        "a_head_its_tail",
        "ends_so_its_tail",
        "form_its_tail",
        "both_fills_ends",
        "both_fills_ends_its_tail",
    ] {
        assert!(is_made_of(name, &words), "{name}");
    }
    for name in ["a_whole", "a_head_other", "form_other", "both_other_ends"] {
        assert!(!is_made_of(name, &words), "{name}");
    }
}
