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

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return std::fs::canonicalize(&path).with_context(|| format!("{VARIABLE}={path:?}"));
    }
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package=xtask",
            "--",
            "build",
        ])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .context("running cargo xtask build")?;
    if !output.status.success() {
        bail!(
            "cargo xtask build: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    // Its last line says where the binary is.
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .last()
        .context("cargo xtask build named no binary")?;
    Ok(line.trim().into())
}
