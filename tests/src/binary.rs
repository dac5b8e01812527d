//! The binary under test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Names the binary; without it the release binary is built.
pub const VARIABLE: &str = "TIPHYS_BINARY";

/// The static binary, built at most once per process.
pub fn tiphys() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| find().map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// The etcd for several servers: as `TIPHYS_ETCD` names it, on the PATH, or unpacked by
/// `cargo xtask etcd`.
pub fn etcd() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIPHYS_ETCD") {
        return std::fs::canonicalize(&path).with_context(|| format!("TIPHYS_ETCD={path:?}"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|dir| dir.join("etcd"));
    if let Some(found) = on_path.find(|file| file.is_file()) {
        return Ok(found);
    }
    last_line_of("etcd")
}

/// The folder with what programs of other languages need: as `TIPHYS_PROGRAMS` names it, or made by
/// `cargo xtask programs`, at most once per process.
pub fn programs() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || match std::env::var_os("TIPHYS_PROGRAMS") {
        Some(path) => Ok(path.into()),
        None => last_line_of("programs"),
    };
    FOUND
        .get_or_init(|| find().map_err(|e| format!("{e:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return std::fs::canonicalize(&path).with_context(|| format!("{VARIABLE}={path:?}"));
    }
    last_line_of("build")
}

/// Runs a command of xtask, whose last line names a file.
fn last_line_of(xtask: &str) -> Result<PathBuf> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--locked", "--package=xtask", "--", xtask])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .with_context(|| format!("running cargo xtask {xtask}"))?;
    if !output.status.success() {
        bail!(
            "cargo xtask {xtask}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .last()
        .with_context(|| format!("cargo xtask {xtask} named no file"))?;
    Ok(line.trim().into())
}
