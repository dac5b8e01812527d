//! The console's page: built from its sources with Node.js, and committed built, so that a machine
//! without Node.js builds the binary. What is committed carries the hash of the sources that it was
//! built from; where there is Node.js, it is also built again and compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::build::root;
use crate::machine::{find, must};

fn web() -> PathBuf {
    root().join("crates/console/web")
}

/// Builds the page again.
pub fn build() -> Result<()> {
    packages()?;
    must(node("build.mjs", &[]).current_dir(web()))
}

/// Whether the committed page belongs to its sources: by their hash. Needs nothing.
pub fn check_hash() -> Result<()> {
    let kept = root().join("crates/console/dist/sources.sha256");
    let kept = fs::read_to_string(&kept).with_context(|| format!("{}", kept.display()))?;
    if kept.trim() != hash(&web())? {
        bail!(
            "crates/console/dist was not built from what is in crates/console/web: `cargo xtask console` builds it again"
        );
    }
    Ok(())
}

/// Builds the page again and compares, and runs its tests, where the machine has Node.js and npm.
pub fn check_build() -> Result<()> {
    if find("node").is_none() || find("npm").is_none() {
        println!("no Node.js: the console's page is checked by the hash of its sources alone");
        return Ok(());
    }
    packages()?;
    must(node("build.mjs", &["--check"]).current_dir(web()))?;
    must(node("test.mjs", &[]).current_dir(web()))
}

/// Installs the packages that the lockfile names, unless they are there.
pub fn packages() -> Result<()> {
    let lock = fs::read_to_string(web().join("package-lock.json"))?;
    let stamp = web().join("node_modules/.lock-of-install");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    // No package's own script has to run: esbuild's binary is a package of its own.
    let npm = find("npm").context("npm is needed to build the console's page")?;
    must(
        Command::new(npm)
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(web()),
    )?;
    Ok(fs::write(stamp, lock)?)
}

fn node(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.arg(script).args(args);
    command
}

/// The hash of all sources, names and lengths included; `build.mjs` makes the same.
fn hash(web: &Path) -> Result<String> {
    let mut names = Vec::new();
    sources(web, web, &mut names)?;
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let text = fs::read(web.join(&name))?;
        hash.update(format!("{name}\n{}\n", text.len()));
        hash.update(text);
    }
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(hex)
}

fn sources(web: &Path, dir: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == "node_modules") {
            continue;
        }
        if path.is_dir() {
            sources(web, &path, names)?;
        } else if let Ok(name) = path.strip_prefix(web) {
            names.push(name.display().to_string());
        }
    }
    Ok(())
}
