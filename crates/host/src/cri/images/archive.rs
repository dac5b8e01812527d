//! Archives of images, as an OCI layout or as `docker save` writes them: what they hold, and what has
//! to be written for it. The bytes of blobs stay where they are.

use super::{Descriptor, Error, full_name, hex};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The largest JSON document of an archive, in bytes: registries take manifests of 4 MiB.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most files in one archive. An image has some hundred.
const MAX_FILES: usize = 100_000;

#[derive(Deserialize, Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    manifests: Vec<Blob>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What an archive holds: blobs by digest, and names for some of them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Blobs in the order in which they must be written: children first.
    pub(super) writes: Vec<Write>,
    pub(super) names: Vec<(String, Descriptor)>,
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) digest: String,
    pub(super) content: Content,
    pub(super) labels: HashMap<String, String>,
}

/// The bytes of a blob.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Made here.
    Made(Vec<u8>),
    /// Of the archive.
    Part { offset: u64, size: u64 },
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Made(bytes) => bytes.len() as u64,
            Self::Part { size, .. } => *size,
        }
    }
}

/// A file of an archive.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) digest: String,
    gzip: bool,
}

/// What an archive holds, by path; the bytes stay where they are.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) file: Arc<File>,
    parts: BTreeMap<String, Part>,
}

impl Archive {
    pub(super) fn scan(file: Arc<File>) -> Result<Self, Error> {
        let mut parts = BTreeMap::new();
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, &*file));
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            if !entry.header().entry_type().is_file() {
                continue;
            }
            if parts.len() >= MAX_FILES {
                return Err(Error::TooMuch(format!("more than {MAX_FILES} files")));
            }
            let (offset, size) = (entry.raw_file_position(), entry.size());
            let (digest, gzip) = digest(&mut entry)?;
            let part = Part {
                offset,
                size,
                digest,
                gzip,
            };
            parts.insert(path.trim_start_matches("./").to_owned(), part);
        }
        drop(archive);
        Ok(Self { file, parts })
    }

    pub(super) fn part(&self, path: &str) -> Result<&Part, Error> {
        let part = self.parts.get(path);
        part.ok_or_else(|| Error::Missing(path.to_owned()))
    }

    /// A JSON document of the archive.
    fn document<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let part = self.part(path)?;
        if part.size > MAX_DOCUMENT_BYTES {
            return Err(Error::TooMuch(format!("{path} of {} bytes", part.size)));
        }
        let mut bytes = vec![0; usize::try_from(part.size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, part.offset)?;
        json(path, &bytes)
    }
}

/// The digest of what a reader gives, and whether it is in gzip's form.
fn digest(reader: &mut impl Read) -> std::io::Result<(String, bool)> {
    let (mut sum, mut gzip, mut first) = (Sha256::new(), false, true);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = reader.read(&mut buffer)?;
        let read = buffer.get(..length).unwrap_or_default();
        if read.is_empty() {
            return Ok((format!("sha256:{}", hex(&sum.finalize())), gzip));
        }
        gzip |= first && read.starts_with(&[0x1f, 0x8b]);
        first = false;
        sum.update(read);
    }
}

/// What is to be written and named, of an archive whose images have the name that is given, or else
/// their own.
pub(super) fn plan(archive: &Archive, name: Option<&str>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    if archive.parts.contains_key("index.json") {
        let index: Index = archive.document("index.json")?;
        for blob in index.manifests {
            plan_oci(&mut plan, archive, &blob)?;
            let inner = [
                "io.containerd.image.name",
                "org.opencontainers.image.ref.name",
            ]
            .iter()
            .find_map(|key| blob.annotations.get(*key));
            if let Some(name) = name
                .map(str::to_owned)
                .or_else(|| inner.map(|n| full_name(n)))
            {
                plan.names.push((name, descriptor(&blob)));
            }
        }
    } else if archive.parts.contains_key("manifest.json") {
        let entries: Vec<DockerEntry> = archive.document("manifest.json")?;
        for entry in entries {
            plan_docker(&mut plan, archive, entry, name)?;
        }
    } else {
        return Err(Error::Missing("index.json or manifest.json".into()));
    }
    if plan.names.is_empty() {
        Err(Error::Nameless)
    } else {
        Ok(plan)
    }
}

fn plan_oci(plan: &mut Plan, archive: &Archive, blob: &Blob) -> Result<(), Error> {
    if plan.writes.iter().any(|w| w.digest == blob.digest) {
        // Two manifests may share a layer.
        return Ok(());
    }
    let path = format!("blobs/{}", blob.digest.replacen(':', "/", 1));
    let part = archive.part(&path)?;
    if part.digest != blob.digest {
        return Err(Error::Digest(blob.digest.clone()));
    }
    let mut labels = HashMap::new();
    if blob.media_type.contains("manifest.list") || blob.media_type == INDEX {
        let index: Index = archive.document(&path)?;
        for (i, child) in index.manifests.iter().enumerate() {
            plan_oci(plan, archive, child)?;
            labels.insert(
                format!("containerd.io/gc.ref.content.m.{i}"),
                child.digest.clone(),
            );
        }
    } else if blob.media_type.contains("manifest") {
        let manifest: Manifest = archive.document(&path)?;
        plan_oci(plan, archive, &manifest.config)?;
        labels.insert(
            "containerd.io/gc.ref.content.config".into(),
            manifest.config.digest.clone(),
        );
        for (i, layer) in manifest.layers.iter().enumerate() {
            plan_oci(plan, archive, layer)?;
            labels.insert(
                format!("containerd.io/gc.ref.content.l.{i}"),
                layer.digest.clone(),
            );
        }
    }
    plan.writes.push(Write {
        digest: blob.digest.clone(),
        content: Content::Part {
            offset: part.offset,
            size: part.size,
        },
        labels,
    });
    Ok(())
}

fn plan_docker(
    plan: &mut Plan,
    archive: &Archive,
    entry: DockerEntry,
    name: Option<&str>,
) -> Result<(), Error> {
    let mut add = |path: &str, media_type: &str| -> Result<Blob, Error> {
        let part = archive.part(path)?;
        let blob = Blob {
            media_type: if media_type == LAYER && part.gzip {
                LAYER_GZIP
            } else {
                media_type
            }
            .to_owned(),
            digest: part.digest.clone(),
            size: i64::try_from(part.size).unwrap_or(i64::MAX),
            annotations: BTreeMap::new(),
        };
        plan.writes.push(Write {
            digest: blob.digest.clone(),
            content: Content::Part {
                offset: part.offset,
                size: part.size,
            },
            labels: HashMap::new(),
        });
        Ok(blob)
    };
    let config = add(&entry.config, CONFIG)?;
    let layers = entry
        .layers
        .iter()
        .map(|l| add(l, LAYER))
        .collect::<Result<Vec<_>, _>>()?;
    let mut labels = HashMap::new();
    labels.insert(
        "containerd.io/gc.ref.content.config".to_owned(),
        config.digest.clone(),
    );
    for (i, layer) in layers.iter().enumerate() {
        labels.insert(
            format!("containerd.io/gc.ref.content.l.{i}"),
            layer.digest.clone(),
        );
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.into()),
        config,
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Json {
        part: "manifest".into(),
        source,
    })?;
    let target = Descriptor {
        media_type: MANIFEST.to_owned(),
        digest: sha256(&bytes),
        size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        annotations: HashMap::new(),
    };
    plan.writes.push(Write {
        digest: target.digest.clone(),
        content: Content::Made(bytes),
        labels,
    });
    match name {
        Some(name) => plan.names.push((name.to_owned(), target)),
        None => {
            for tag in entry.repo_tags.unwrap_or_default() {
                plan.names.push((full_name(&tag), target.clone()));
            }
        }
    }
    Ok(())
}

fn descriptor(blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type.clone(),
        digest: blob.digest.clone(),
        size: blob.size,
        annotations: HashMap::new(),
    }
}

fn json<T: serde::de::DeserializeOwned>(part: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        part: part.to_owned(),
        source,
    })
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cri::images) fn archive(files: &[(&str, &[u8])]) -> Archive {
        let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        let mut file = tar.into_inner().unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Archive::scan(Arc::new(file)).unwrap()
    }

    #[test]
    fn a_document_that_is_too_large_is_refused() {
        let huge = vec![b' '; usize::try_from(MAX_DOCUMENT_BYTES).unwrap() + 1];
        let archive = archive(&[("index.json", &huge)]);
        assert!(matches!(plan(&archive, Some("x")), Err(Error::TooMuch(_))));
    }

    #[test]
    fn a_docker_archive_becomes_a_manifest_with_references() {
        let archive = archive(&[
            ("c.json", b"{}"),
            ("l/layer.tar", b"tar"),
            (
                "manifest.json",
                br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l/layer.tar"]}]"#,
            ),
        ]);
        let plan = plan(&archive, None).unwrap();
        assert_eq!(plan.names[0].0, "docker.io/library/x:1");
        let manifest = plan.writes.last().unwrap();
        assert_eq!(manifest.labels.len(), 2);
        assert_eq!(manifest.digest, plan.names[0].1.digest);
    }

    #[test]
    fn a_blob_with_another_digest_is_refused() {
        let digest = sha256(b"good");
        let index =
            format!(r#"{{"manifests":[{{"mediaType":"{CONFIG}","digest":"{digest}","size":4}}]}}"#);
        let path = format!("blobs/{}", digest.replacen(':', "/", 1));
        let archive = archive(&[("index.json", index.as_bytes()), (&path, b"evil")]);
        assert!(matches!(plan(&archive, Some("x")), Err(Error::Digest(_))));
    }
}
