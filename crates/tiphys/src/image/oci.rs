//! OCI image archives: layers as tar files, with configuration, manifest and index, all named by
//! their SHA-256. The same content always gives the same bytes. Layers lie on disk and are never
//! held in memory: the process that makes them lives as long as the cluster.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A file, folder or link of a layer.
pub enum Entry {
    Dir(String),
    File {
        path: String,
        mode: u32,
        content: Content,
    },
    Link {
        path: String,
        target: String,
    },
}

/// What a file of a layer holds.
pub enum Content {
    Bytes(Vec<u8>),
    /// What this file of the machine holds.
    Of(PathBuf),
}

impl Entry {
    pub fn dir(path: &str) -> Self {
        Self::Dir(path.into())
    }
    pub fn file(path: &str, mode: u32, bytes: Vec<u8>) -> Self {
        Self::File {
            path: path.into(),
            mode,
            content: Content::Bytes(bytes),
        }
    }
    pub fn copy(path: &str, mode: u32, of: &Path) -> Self {
        Self::File {
            path: path.into(),
            mode,
            content: Content::Of(of.to_owned()),
        }
    }
    pub fn link(path: &str, target: &str) -> Self {
        Self::Link {
            path: path.into(),
            target: target.into(),
        }
    }
}

/// An uncompressed layer in a file: its digest is its diff ID, too.
#[derive(Clone)]
pub struct Layer {
    file: PathBuf,
    size: u64,
    digest: String,
}

/// What an image runs.
pub struct Image {
    pub name: String,
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
    /// `NAME=value` beside the `PATH`.
    pub env: Vec<String>,
}

fn hex_digest(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn digest(bytes: &[u8]) -> String {
    hex_digest(Sha256::new_with_prefix(bytes))
}

/// Counts and sums up what passes.
struct Summing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    // A fixed time: the same content gives the same layer.
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Writes a layer to `file`.
pub fn layer(entries: &[Entry], file: &Path) -> Result<Layer> {
    let out = File::create(file).with_context(|| format!("making {}", file.display()))?;
    let mut tar = tar::Builder::new(Summing {
        inner: BufWriter::new(out),
        hash: Sha256::new(),
        size: 0,
    });
    for entry in entries {
        match entry {
            Entry::Dir(path) => {
                let mode = if path == "tmp" { 0o1777 } else { 0o755 };
                let mut h = header(tar::EntryType::Directory, mode, 0);
                tar.append_data(&mut h, format!("{path}/"), io::empty())?;
            }
            Entry::File {
                path,
                mode,
                content,
            } => append(&mut tar, path, *mode, content)?,
            Entry::Link { path, target } => {
                let mut h = header(tar::EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut h, path, target)?;
            }
        }
    }
    let mut sum = tar.into_inner()?;
    sum.flush()?;
    Ok(Layer {
        file: file.to_owned(),
        size: sum.size,
        digest: hex_digest(sum.hash),
    })
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &Content,
) -> Result<()> {
    let mut add = |size: u64, data: &mut dyn io::Read| {
        let mut h = header(tar::EntryType::Regular, mode, size);
        tar.append_data(&mut h, path, data)
    };
    match content {
        Content::Bytes(bytes) => add(bytes.len() as u64, &mut bytes.as_slice())?,
        Content::Of(file) => {
            let reading = || format!("reading {}", file.display());
            let mut data = File::open(file).with_context(reading)?;
            let size = data.metadata().with_context(reading)?.len();
            add(size, &mut data).with_context(reading)?;
        }
    }
    Ok(())
}

/// Writes the archive (`oci-layout`, `index.json`, `blobs/`) of one image.
pub fn write_archive(image: &Image, out: impl Write) -> Result<()> {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
    let env: Vec<String> = [path].into_iter().chain(image.env.clone()).collect();
    let mut container = json!({ "Env": env });
    if !image.entrypoint.is_empty() {
        container["Entrypoint"] = json!(image.entrypoint);
    }
    if !image.command.is_empty() {
        container["Cmd"] = json!(image.command);
    }
    if !image.user.is_empty() {
        container["User"] = json!(image.user);
    }
    let diff_ids: Vec<&str> = image.layers.iter().map(|l| l.digest.as_str()).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": api::version::architecture(),
        "os": "linux",
        "config": container,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let layer = |l: &Layer| {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": l.digest,
            "size": l.size,
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": image.layers.iter().map(layer).collect::<Vec<_>>(),
    }))?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "annotations": {
                "io.containerd.image.name": image.name,
                "org.opencontainers.image.ref.name": image.name,
            },
        }],
    }))?;
    let mut tar = tar::Builder::new(out);
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let (config_path, manifest_path) = (blob(&digest(&config)), blob(&digest(&manifest)));
    for (path, bytes) in [
        ("oci-layout", layout),
        ("index.json", index),
        (&config_path, config),
        (&manifest_path, manifest),
    ] {
        append(&mut tar, path, 0o644, &Content::Bytes(bytes))?;
    }
    let mut written: Vec<&str> = Vec::new();
    for layer in &image.layers {
        if !written.contains(&layer.digest.as_str()) {
            let content = Content::Of(layer.file.clone());
            append(&mut tar, &blob(&layer.digest), 0o644, &content)?;
            written.push(&layer.digest);
        }
    }
    Ok(tar.into_inner()?.flush()?)
}

/// Removes the files of layers once their archives are written.
pub fn remove(layers: &[Layer]) {
    for layer in layers {
        let _ = fs::remove_file(&layer.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_archive() {
        let dir = tempfile::tempdir().expect("dir");
        let program = dir.path().join("program");
        fs::write(&program, vec![7; 200_000]).expect("program");
        let make = || {
            let entries = [
                Entry::dir("bin"),
                Entry::file("bin/x", 0o755, b"x".to_vec()),
                Entry::copy("bin/z", 0o755, &program),
                Entry::link("bin/y", "x"),
            ];
            let layer = layer(&entries, &dir.path().join("layer")).expect("layer");
            let held = fs::read(&layer.file).expect("file");
            assert_eq!(
                (layer.size, &layer.digest),
                (held.len() as u64, &digest(&held))
            );
            let mut bytes = Vec::new();
            let image = Image {
                name: "a/b:1".into(),
                layers: vec![layer.clone(), layer],
                entrypoint: vec!["/bin/x".into()],
                command: vec![],
                user: String::new(),
                env: Vec::new(),
            };
            write_archive(&image, &mut bytes).expect("archive");
            remove(&image.layers);
            bytes
        };
        assert_eq!(make(), make());
        let bytes = make();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|e| {
                e.expect("entry")
                    .path()
                    .expect("path")
                    .display()
                    .to_string()
            })
            .collect();
        assert_eq!(names.len(), 5, "{names:?}");
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
    }
}
