//! Container images that are made here: the binary itself (as pause container and as the demo's
//! server), together with busybox's shell and tools. No registry is needed for them.

mod busybox;
mod oci;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use oci::{Entry, Image};

/// The pod sandbox's image.
pub const PAUSE: &str = "tiphys.local/pause:1";
/// The demo's image: the binary as `/bin/tiphys`, and busybox.
pub const DEMO: &str = "tiphys.local/demo:1";
/// Busybox alone, for everyday use in a cluster without a registry.
pub const BUSYBOX: &str = "tiphys.local/busybox:1";

/// Writes the images that this cluster needs to `dir`, each as an OCI archive. A file that is
/// already there for the same binary is left alone.
pub fn write_all(dir: &Path, binary: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let program = fs::read(binary).with_context(|| format!("reading {}", binary.display()))?;
    let tiphys = oci::layer(&[
        Entry::dir("bin"),
        Entry::file("bin/tiphys", 0o755, program),
        Entry::dir("tmp"),
    ])?;
    let mut written = vec![write(
        dir,
        "pause.tar",
        &Image {
            name: PAUSE.into(),
            layers: vec![tiphys.clone()],
            entrypoint: vec!["/bin/tiphys".into(), "pause".into()],
            command: Vec::new(),
            user: "65535:65535".into(),
        },
    )?];
    let Some(tools) = busybox::layer()? else {
        return Ok(written);
    };
    written.push(write(
        dir,
        "busybox.tar",
        &Image {
            name: BUSYBOX.into(),
            layers: vec![tools.clone()],
            entrypoint: Vec::new(),
            command: vec!["sh".into()],
            user: String::new(),
        },
    )?);
    written.push(write(
        dir,
        "demo.tar",
        &Image {
            name: DEMO.into(),
            layers: vec![tiphys, tools],
            entrypoint: Vec::new(),
            command: vec!["/bin/tiphys".into(), "demo-server".into()],
            user: String::new(),
        },
    )?);
    Ok(written)
}

fn write(dir: &Path, file: &str, image: &Image) -> Result<PathBuf> {
    let path = dir.join(file);
    let beside = dir.join(format!(".{file}.new"));
    fs::write(&beside, oci::archive(image)?)?;
    fs::rename(&beside, &path)?;
    Ok(path)
}
