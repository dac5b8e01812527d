//! Busybox's shell and tools as an image layer, from the static binary that the machine has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use supervisor::doctor::find_program;

use super::oci::{self, Entry, Layer};

/// The layer, written to `file`, or `None` when the machine has no busybox.
pub fn layer(file: &Path) -> Result<Option<Layer>> {
    let Some(path) = find_program("busybox") else {
        return Ok(None);
    };
    let output = Command::new(&path)
        .arg("--list")
        .output()
        .context("asking busybox for its tools")?;
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut entries = vec![Entry::dir("bin"), Entry::copy("bin/busybox", 0o755, &path)];
    entries.extend(
        list.lines()
            .filter(|tool| *tool != "busybox" && !tool.contains('/'))
            .map(|tool| Entry::link(&format!("bin/{tool}"), "busybox")),
    );
    entries.extend(["tmp", "root", "etc", "var", "home"].map(Entry::dir));
    entries.push(Entry::file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n".to_vec(),
    ));
    entries.push(Entry::file(
        "etc/group",
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n".to_vec(),
    ));
    Ok(Some(oci::layer(&entries, file)?))
}
