//! `cargo xtask compare`: what the server says of itself, held against documents that upstream
//! publishes. The project holds no copy of those: their places are arguments. A difference that
//! `explained.rs` does not name makes the command fail.
//!
//! Upstream's golden files (`golden.rs`) are compared in the same way: objects in place of documents.
//!
//! Sentences are not compared: `description` is our own where the sources of the types have none.

mod difference;
mod explained;
mod golden;
mod message;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::difference::Difference;
use crate::build::{cargo, root};
use crate::machine::must;

const USAGE: &str = "usage: cargo xtask compare [--discovery FOLDER] [--openapi-v2 FILE] \
    [--openapi-v3 FOLDER] [--golden FOLDER]... [--kept FOLDER]

FOLDER and FILE are as in api/ of upstream's sources: discovery/, openapi-spec/swagger.json,
openapi-spec/v3/. Golden files lie in staging/src/k8s.io: api/testdata/HEAD and
apiextensions-apiserver/pkg/apis/testdata/HEAD. With --kept the documents are not made again but read
from there.";

#[derive(Default)]
struct Args {
    discovery: Option<PathBuf>,
    v2: Option<PathBuf>,
    v3: Option<PathBuf>,
    golden: Vec<PathBuf>,
    kept: Option<PathBuf>,
}

impl Args {
    fn read(args: &[String]) -> Result<Self> {
        let mut all = Self::default();
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let place = words.next().with_context(|| USAGE.to_owned())?;
            let place = Some(std::path::absolute(place)?);
            match word.as_str() {
                "--discovery" => all.discovery = place,
                "--openapi-v2" => all.v2 = place,
                "--openapi-v3" => all.v3 = place,
                "--golden" => all.golden.extend(place),
                "--kept" => all.kept = place,
                _ => bail!("{USAGE}"),
            }
        }
        let documents = [&all.discovery, &all.v2, &all.v3];
        if documents.iter().all(|place| place.is_none()) && all.golden.is_empty() {
            bail!("{USAGE}");
        }
        Ok(all)
    }
}

/// Runs the command.
///
/// # Errors
/// A document cannot be had, or differs in a way that nobody has explained.
pub fn run(args: &[String]) -> Result<()> {
    let args = Args::read(args)?;
    let ours = match &args.kept {
        Some(kept) => kept.clone(),
        None => make(&args.golden)?,
    };
    let mut found = Vec::new();
    let mut compared = 0;
    if let Some(file) = &args.v2 {
        let (theirs, ours) = (read(file)?, read(&ours.join("openapi-v2.json"))?);
        found.extend(difference::openapi("v2", &theirs, &ours));
        compared += 1;
    }
    for (name, theirs) in [("discovery", &args.discovery), ("v3", &args.v3)] {
        let Some(theirs) = theirs else {
            continue;
        };
        let names = both(theirs, &ours.join(name))?;
        compared += names.len();
        for file in names {
            found.extend(document(name, &file, theirs, &ours.join(name))?);
        }
    }
    if !args.golden.is_empty() {
        let theirs = golden::read(&args.golden)?;
        let made: golden::Golden = serde_json::from_value(read(&ours.join("golden.json"))?)?;
        let outcome = golden::compare(&theirs, &made);
        print!("{outcome}");
        compared += theirs.len();
        found.extend(outcome.found());
    }
    report(&found, compared)
}

/// The names of the documents that either side has.
fn both(theirs: &Path, ours: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in [theirs, ours] {
        for entry in
            std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names.sort();
    Ok(names)
}

fn document(kind: &str, file: &str, theirs: &Path, ours: &Path) -> Result<Vec<Difference>> {
    let name = file.trim_end_matches(".json").trim_end_matches("_openapi");
    let place = format!("{kind} > {name}");
    let (theirs, ours) = (theirs.join(file), ours.join(file));
    Ok(match (theirs.exists(), ours.exists()) {
        (true, false) => vec![Difference::missing(place, "the document")],
        (false, true) => vec![Difference::extra(place, "the document")],
        _ if kind == "v3" => difference::openapi(&place, &read(&theirs)?, &read(&ours)?),
        _ => difference::discovery(&place, &read(&theirs)?, &read(&ours)?),
    })
}

fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))
}

/// Lets a server in a process of its own write its documents, and what it makes of golden files.
fn make(golden: &[PathBuf]) -> Result<PathBuf> {
    let folder = root().join("target/documents");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let mut command = cargo();
    // Of the workspace, so that nothing is compiled with other features.
    command.args(["test", "--locked", "--workspace", "--test", "documents"]);
    must(command.arg("--").arg(&folder).args(golden))?;
    Ok(folder)
}

fn report(found: &[Difference], compared: usize) -> Result<()> {
    let mut used = vec![0_usize; explained::TABLE.len()];
    let mut open = Vec::new();
    for difference in found {
        match explained::reason(difference).and_then(|at| used.get_mut(at)) {
            Some(count) => *count += 1,
            None => open.push(difference.to_string()),
        }
    }
    for ((pattern, why), count) in explained::TABLE.iter().zip(&used) {
        if *count > 0 {
            println!("{count:5} × {pattern}\n        {why}");
        }
    }
    println!(
        "{compared} documents and objects, {} differences, {} of them explained",
        found.len(),
        found.len() - open.len()
    );
    if open.is_empty() {
        return Ok(());
    }
    bail!(
        "{} differences that nobody has explained:\n  {}",
        open.len(),
        open.join("\n  ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_must_be_compared() {
        assert!(Args::read(&[]).is_err());
        assert!(Args::read(&["--kept".into(), "x".into()]).is_err());
        assert!(Args::read(&["--openapi-v2".into()]).is_err());
        let args = Args::read(&["--openapi-v2".into(), "/x".into()]).expect("arguments");
        assert_eq!(args.v2, Some(PathBuf::from("/x")));
        let two = ["--golden", "/x", "--golden", "/y"].map(str::to_owned);
        let args = Args::read(&two).expect("arguments");
        assert_eq!(args.golden, [PathBuf::from("/x"), PathBuf::from("/y")]);
    }
}
