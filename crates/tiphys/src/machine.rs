//! What several commands ask of the machine that they run on.

use std::path::Path;

use anyhow::{Context, Result};

/// The host's name, as nodes are named by it.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase()
}

/// A text file; the error names it.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
