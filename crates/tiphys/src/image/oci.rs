//! OCI image archives: layers as tar files, with configuration, manifest and index, all named by
//! their SHA-256. The same content always gives the same bytes.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;
use sha2::Digest;

/// A file, folder or link of a layer.
pub enum Entry {
    Dir(String),
    File {
        path: String,
        mode: u32,
        bytes: Vec<u8>,
    },
    Link {
        path: String,
        target: String,
    },
}

impl Entry {
    pub fn dir(path: &str) -> Self {
        Self::Dir(path.into())
    }
    pub fn file(path: &str, mode: u32, bytes: Vec<u8>) -> Self {
        Self::File {
            path: path.into(),
            mode,
            bytes,
        }
    }
    pub fn link(path: &str, target: &str) -> Self {
        Self::Link {
            path: path.into(),
            target: target.into(),
        }
    }
}

/// An uncompressed layer: its digest is its diff ID, too.
#[derive(Clone)]
pub struct Layer {
    bytes: Vec<u8>,
    digest: String,
}

/// What an image runs.
pub struct Image {
    pub name: String,
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub user: String,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = sha2::Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{hex}")
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    // A fixed time: the same content gives the same layer.
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

pub fn layer(entries: &[Entry]) -> Result<Layer> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::Dir(path) => {
                let mode = if path == "tmp" { 0o1777 } else { 0o755 };
                let mut h = header(tar::EntryType::Directory, mode, 0);
                tar.append_data(&mut h, format!("{path}/"), std::io::empty())?;
            }
            Entry::File { path, mode, bytes } => {
                let mut h = header(tar::EntryType::Regular, *mode, bytes.len());
                tar.append_data(&mut h, path, bytes.as_slice())?;
            }
            Entry::Link { path, target } => {
                let mut h = header(tar::EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut h, path, target)?;
            }
        }
    }
    let bytes = tar.into_inner()?;
    let digest = digest(&bytes);
    Ok(Layer { bytes, digest })
}

/// The archive (`oci-layout`, `index.json`, `blobs/`) of one image.
pub fn archive(image: &Image) -> Result<Vec<u8>> {
    let mut container = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    });
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
        "architecture": "amd64",
        "os": "linux",
        "config": container,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|l| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": l.digest,
                "size": l.bytes.len(),
            })
        })
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": layers,
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
    let mut blobs: BTreeMap<String, &[u8]> = BTreeMap::new();
    blobs.insert(digest(&config), &config);
    blobs.insert(digest(&manifest), &manifest);
    for layer in &image.layers {
        blobs.insert(layer.digest.clone(), &layer.bytes);
    }
    pack(&index, &blobs)
}

fn pack(index: &[u8], blobs: &BTreeMap<String, &[u8]>) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        tar.append_data(
            &mut header(tar::EntryType::Regular, 0o644, bytes.len()),
            path,
            bytes,
        )
    };
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index)?;
    for (digest, bytes) in blobs {
        add(&format!("blobs/{}", digest.replace(':', "/")), bytes)?;
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_gives_the_same_archive() {
        let make = || {
            let layer = layer(&[
                Entry::dir("bin"),
                Entry::file("bin/x", 0o755, b"x".to_vec()),
                Entry::link("bin/y", "x"),
            ])
            .expect("layer");
            archive(&Image {
                name: "a/b:1".into(),
                layers: vec![layer],
                entrypoint: vec!["/bin/x".into()],
                command: vec![],
                user: String::new(),
            })
            .expect("archive")
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
