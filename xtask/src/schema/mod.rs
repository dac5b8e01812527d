//! `cargo xtask schema`: makes `crates/schema/data/types.txt` again from its sources, or with
//! `--check` says whether it would change. The sources are the published definitions (a PyPI
//! source package at a pinned version and hash), the proto numbers of the crate `k8s-pb`, and
//! `overlay.txt` beside this file for what those two lack. `join.py` does the joining.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const PACKAGE: &str = "kubernetes_validate";
const VERSION: &str = "1.36.0";
const SHA256: &str = "edbfd2db9e88b571029aa16ab1116c6502ad2b9628b6738dd39d639323f84715";
const DEFINITIONS: &str =
    "src/kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";

/// Runs the command. It needs python3 with pip, and the package index on its first run.
///
/// # Errors
/// A source cannot be had or is not the pinned one, or the table differs under `--check`.
pub fn run(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("usage: cargo xtask schema [--check]"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let here = root.join("src/schema");
    let work = root.join("../target/schema");
    std::fs::create_dir_all(&work)?;
    let definitions = definitions(&work)?;
    let numbers = crate_source(root, "k8s-pb")?;
    let table = root.join("../crates/schema/data/types.txt");
    let made = work.join("types.txt");
    let mut join = Command::new("python3");
    join.arg(here.join("join.py"))
        .arg(definitions)
        .arg(numbers)
        .arg(here.join("overlay.txt"));
    command(join.arg(&made))?;
    let (old, new) = (
        std::fs::read(&table).unwrap_or_default(),
        std::fs::read(&made)?,
    );
    if old == new {
        println!("{} is up to date", table.display());
    } else if check {
        bail!("{} is not what `cargo xtask schema` makes", table.display());
    } else {
        std::fs::write(&table, new)?;
        println!("wrote {}", table.display());
    }
    Ok(())
}

/// The definitions of the pinned package, downloaded once.
fn definitions(work: &Path) -> Result<PathBuf> {
    let archive = work.join(format!("{PACKAGE}-{VERSION}.tar.gz"));
    if !archive.exists() {
        let pin = format!("{PACKAGE}=={VERSION}");
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-binary",
            PACKAGE,
            "--dest",
        ]);
        command(pip.arg(work).arg(pin))?;
    }
    let out = Command::new("sha256sum")
        .arg(&archive)
        .output()
        .context("sha256sum")?;
    if !String::from_utf8_lossy(&out.stdout).starts_with(SHA256) {
        bail!(
            "{} has not the pinned hash; remove it and try again",
            archive.display()
        );
    }
    let inside = format!("{PACKAGE}-{VERSION}/{DEFINITIONS}");
    command(
        Command::new("tar")
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(work)
            .arg(&inside),
    )?;
    Ok(work.join(inside))
}

/// The folder `src` of a locked dependency, wherever cargo keeps it.
fn crate_source(root: &Path, name: &str) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--manifest-path",
        ])
        .arg(root.join("Cargo.toml"))
        .output()
        .context("cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&out.stdout).context("cargo metadata gave no JSON")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let found = packages.iter().find(|p| p["name"] == name);
    let manifest = found
        .and_then(|p| p["manifest_path"].as_str())
        .with_context(|| format!("{name} is not a dependency of the workspace"))?;
    Ok(Path::new(manifest).with_file_name("src"))
}

fn command(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
