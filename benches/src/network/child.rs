//! Parts in processes of their own: this program again, with a line that says what to measure.

use std::process::Command;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// Names what a child is to measure.
const MEASURE: &str = "TIPHYS_BENCH_NETWORK";

/// What a child measured.
pub fn ask<T: DeserializeOwned>(what: &str) -> Result<T> {
    let output = command(what)?.output().context("starting a child")?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .with_context(|| format!("{what}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A child that measures or serves, to be started.
pub fn command(what: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(MEASURE, what);
    Ok(command)
}

/// What this process is to measure, if it is such a child.
pub fn asked() -> Option<String> {
    std::env::var(MEASURE).ok()
}
