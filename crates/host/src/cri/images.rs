//! Importing images into containerd, and its table of them.
//!
//! An import writes the blobs into the content store under a lease, names the top one in the
//! image table, and is done: the CRI plugin sees the new name and unpacks the layers when the
//! first container wants them.

use super::proto::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, content_client::ContentClient,
};
use super::proto::containerd::services::images::v1::{
    CreateImageRequest, DeleteImageRequest, Image, ListImagesRequest, UpdateImageRequest,
    images_client::ImagesClient,
};
use super::proto::containerd::services::leases::v1::{
    CreateRequest, DeleteRequest, leases_client::LeasesClient,
};
use super::proto::containerd::types::Descriptor;
use super::{channel, namespaced};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use tonic::transport::Channel;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// How much of a blob goes in one message, in bytes; half of gRPC's usual 4 MiB limit.
const CHUNK_BYTES: usize = 2 << 20;
/// The largest archive that is taken, in bytes: it is held in memory once.
const MAX_ARCHIVE_BYTES: u64 = 4 << 30;

/// Why an image could not be imported, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive could not be read.
    #[error("reading the archive: {0}")]
    Archive(#[from] std::io::Error),
    /// A JSON part of the archive is not what it should be.
    #[error("{part} of the archive: {source}")]
    Json {
        /// Which part.
        part: String,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// The archive names a blob that it does not hold.
    #[error("the archive lacks {0}")]
    Missing(String),
    /// A blob is not what its name says.
    #[error("blob {0} has another digest")]
    Digest(String),
    /// No image in the archive has a name.
    #[error("the archive has no image with a name; give one")]
    Nameless,
    /// containerd refused.
    #[error("containerd: {}", .0.message())]
    Containerd(#[from] tonic::Status),
}

/// An image as containerd's table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full name with registry and tag, or a digest form.
    pub name: String,
    /// Digest of its manifest or index.
    pub digest: String,
    /// When the name was last set, in seconds since 1970.
    pub updated_unix_seconds: i64,
}

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
struct Plan {
    /// Blobs in the order in which they must be written: children first.
    writes: Vec<Write>,
    names: Vec<(String, Descriptor)>,
}

#[derive(Debug)]
struct Write {
    digest: String,
    bytes: Vec<u8>,
    labels: HashMap<String, String>,
}

/// Imports an OCI layout or a `docker save` archive from `reader`.
/// `name` overrides the names inside. Returns the full names that now exist.
pub async fn import_oci_tar(
    socket: &str,
    reader: impl Read + Send + 'static,
    name: Option<&str>,
) -> Result<Vec<String>, Error> {
    let name = name.map(full_name);
    let plan = tokio::task::spawn_blocking(move || plan(read_tar(reader)?, name.as_deref()))
        .await
        .map_err(|e| std::io::Error::other(e.to_string()))??;
    let channel = channel(socket);
    let lease = lease(&channel, &plan).await?;
    let outcome = write_all(&channel, &lease, plan).await;
    let done = DeleteRequest {
        id: lease,
        sync: false,
    };
    LeasesClient::new(channel).delete(namespaced(done)).await?;
    outcome
}

async fn lease(channel: &Channel, plan: &Plan) -> Result<String, Error> {
    let digests: String = plan.writes.iter().map(|w| w.digest.as_str()).collect();
    let request = CreateRequest {
        id: format!(
            "import-{}-{}",
            std::process::id(),
            hex(&Sha256::digest(digests.as_bytes()))
        ),
        // A crash in the middle leaves the lease: it ends by itself after an hour.
        labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expiry())]),
    };
    let id = request.id.clone();
    match LeasesClient::new(channel.clone())
        .create(namespaced(request))
        .await
    {
        Ok(_) => Ok(id),
        Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(id),
        Err(status) => Err(status.into()),
    }
}

fn expiry() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    rfc3339(now + 3600)
}

/// Seconds since 1970 as `2026-01-02T03:04:05Z` (days-to-civil after Hinnant).
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

async fn write_all(channel: &Channel, lease: &str, plan: Plan) -> Result<Vec<String>, Error> {
    for write in plan.writes {
        write_blob(channel, lease, write).await?;
    }
    let mut names = Vec::new();
    for (name, target) in plan.names {
        set_name(channel, lease, &name, target).await?;
        names.push(name);
    }
    Ok(names)
}

fn leased<T>(body: T, lease: &str) -> tonic::Request<T> {
    let mut request = namespaced(body);
    if let Ok(value) = lease.parse() {
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

async fn write_blob(channel: &Channel, lease: &str, write: Write) -> Result<(), Error> {
    let total = i64::try_from(write.bytes.len()).unwrap_or(i64::MAX);
    let reference = format!("import-{}", write.digest);
    let mut messages = Vec::new();
    let mut offset = 0i64;
    for chunk in write.bytes.chunks(CHUNK_BYTES) {
        messages.push(WriteContentRequest {
            action: WriteAction::Write as i32,
            r#ref: reference.clone(),
            total,
            expected: write.digest.clone(),
            offset,
            data: chunk.to_vec(),
            labels: HashMap::new(),
        });
        offset += i64::try_from(chunk.len()).unwrap_or(0);
    }
    messages.push(WriteContentRequest {
        action: WriteAction::Commit as i32,
        r#ref: reference,
        total,
        expected: write.digest,
        offset,
        data: Vec::new(),
        labels: write.labels,
    });
    let answer = ContentClient::new(channel.clone())
        .write(leased(futures::stream::iter(messages), lease))
        .await;
    let drained = match answer {
        Ok(stream) => drain(stream.into_inner()).await,
        Err(status) => Err(status),
    };
    match drained {
        Ok(()) => Ok(()),
        Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(()),
        Err(status) => Err(status.into()),
    }
}

async fn drain<T>(mut stream: tonic::Streaming<T>) -> Result<(), tonic::Status> {
    while stream.message().await?.is_some() {}
    Ok(())
}

async fn set_name(
    channel: &Channel,
    lease: &str,
    name: &str,
    target: Descriptor,
) -> Result<(), Error> {
    let mut client = ImagesClient::new(channel.clone());
    let image = Image {
        name: name.to_owned(),
        target: Some(target),
        ..Default::default()
    };
    let create = CreateImageRequest {
        image: Some(image.clone()),
    };
    match client.create(leased(create, lease)).await {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::AlreadyExists => {
            let update = UpdateImageRequest {
                image: Some(image),
                update_mask: Some(prost_types::FieldMask {
                    paths: vec!["target".into()],
                }),
            };
            client.update(leased(update, lease)).await?;
            Ok(())
        }
        Err(status) => Err(status.into()),
    }
}

/// All names in containerd's table, without the aliases that the CRI plugin keeps by image id.
pub async fn list(socket: &str) -> Result<Vec<Entry>, Error> {
    let answer = ImagesClient::new(channel(socket))
        .list(namespaced(ListImagesRequest {
            filters: Vec::new(),
        }))
        .await?
        .into_inner();
    let mut entries: Vec<Entry> = answer
        .images
        .into_iter()
        .filter(|i| !i.name.starts_with("sha256:"))
        .map(|i| Entry {
            digest: i.target.map(|t| t.digest).unwrap_or_default(),
            updated_unix_seconds: i.updated_at.map_or(0, |t| t.seconds),
            name: i.name,
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Forgets one name (short forms are completed). Blobs that nothing names any more are
/// collected by containerd. True if the name existed.
pub async fn remove(socket: &str, name: &str) -> Result<bool, Error> {
    let request = DeleteImageRequest {
        name: full_name(name),
        sync: true,
    };
    match ImagesClient::new(channel(socket))
        .delete(namespaced(request))
        .await
    {
        Ok(_) => Ok(true),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
        Err(status) => Err(status.into()),
    }
}

/// An image's name with registry and tag: `busybox` is `docker.io/library/busybox:latest`.
#[must_use]
pub fn full_name(name: &str) -> String {
    let (first, rest) = name
        .split_once('/')
        .map_or((name, None), |(a, b)| (a, Some(b)));
    let named = match rest {
        Some(_) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    if named.contains('@') || last.contains(':') {
        named
    } else {
        format!("{named}:latest")
    }
}

fn read_tar(reader: impl Read) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(reader.take(MAX_ARCHIVE_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry
            .path()?
            .to_string_lossy()
            .trim_start_matches("./")
            .to_owned();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(path, bytes);
        }
    }
    Ok(files)
}

fn plan(mut files: BTreeMap<String, Vec<u8>>, name: Option<&str>) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    if let Some(index) = files.get("index.json") {
        let index: Index = json("index.json", index)?;
        for blob in index.manifests {
            plan_oci(&mut plan, &mut files, &blob)?;
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
    } else {
        let entries: Vec<DockerEntry> = match files.get("manifest.json") {
            Some(bytes) => json("manifest.json", bytes)?,
            None => return Err(Error::Missing("index.json or manifest.json".into())),
        };
        for entry in entries {
            plan_docker(&mut plan, &files, entry, name)?;
        }
    }
    if plan.names.is_empty() {
        Err(Error::Nameless)
    } else {
        Ok(plan)
    }
}

fn plan_oci(
    plan: &mut Plan,
    files: &mut BTreeMap<String, Vec<u8>>,
    blob: &Blob,
) -> Result<(), Error> {
    let path = format!("blobs/{}", blob.digest.replacen(':', "/", 1));
    let Some(bytes) = files.remove(&path) else {
        // Written before: two manifests may share a layer.
        return if plan.writes.iter().any(|w| w.digest == blob.digest) {
            Ok(())
        } else {
            Err(Error::Missing(path))
        };
    };
    if sha256(&bytes) != blob.digest {
        return Err(Error::Digest(blob.digest.clone()));
    }
    let mut labels = HashMap::new();
    if blob.media_type.contains("manifest.list") || blob.media_type == INDEX {
        let index: Index = json(&path, &bytes)?;
        for (i, child) in index.manifests.iter().enumerate() {
            plan_oci(plan, files, child)?;
            labels.insert(
                format!("containerd.io/gc.ref.content.m.{i}"),
                child.digest.clone(),
            );
        }
    } else if blob.media_type.contains("manifest") {
        let manifest: Manifest = json(&path, &bytes)?;
        plan_oci(plan, files, &manifest.config)?;
        labels.insert(
            "containerd.io/gc.ref.content.config".into(),
            manifest.config.digest.clone(),
        );
        for (i, layer) in manifest.layers.iter().enumerate() {
            plan_oci(plan, files, layer)?;
            labels.insert(
                format!("containerd.io/gc.ref.content.l.{i}"),
                layer.digest.clone(),
            );
        }
    }
    plan.writes.push(Write {
        digest: blob.digest.clone(),
        bytes,
        labels,
    });
    Ok(())
}

fn plan_docker(
    plan: &mut Plan,
    files: &BTreeMap<String, Vec<u8>>,
    entry: DockerEntry,
    name: Option<&str>,
) -> Result<(), Error> {
    let mut add = |path: &str, media_type: &str| -> Result<Blob, Error> {
        let bytes = files
            .get(path)
            .ok_or_else(|| Error::Missing(path.to_owned()))?
            .clone();
        let gzip = bytes.starts_with(&[0x1f, 0x8b]);
        let blob = Blob {
            media_type: if media_type == LAYER && gzip {
                LAYER_GZIP
            } else {
                media_type
            }
            .to_owned(),
            digest: sha256(&bytes),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            annotations: BTreeMap::new(),
        };
        plan.writes.push(Write {
            digest: blob.digest.clone(),
            bytes,
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
        bytes,
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

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (short, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("a/b:1", "docker.io/a/b:1"),
            ("localhost/x", "localhost/x:latest"),
            ("reg.io:5000/x/y:2", "reg.io:5000/x/y:2"),
            ("reg.io/x@sha256:00", "reg.io/x@sha256:00"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }

    #[test]
    fn a_docker_archive_becomes_a_manifest_with_references() {
        let files = BTreeMap::from([
            ("c.json".to_owned(), b"{}".to_vec()),
            ("l/layer.tar".to_owned(), b"tar".to_vec()),
            (
                "manifest.json".to_owned(),
                br#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["l/layer.tar"]}]"#.to_vec(),
            ),
        ]);
        let plan = plan(files, None).unwrap();
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
        let files = BTreeMap::from([
            ("index.json".to_owned(), index.into_bytes()),
            (
                format!("blobs/{}", digest.replacen(':', "/", 1)),
                b"evil".to_vec(),
            ),
        ]);
        assert!(matches!(plan(files, Some("x")), Err(Error::Digest(_))));
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_323_045), "2026-01-02T03:04:05Z");
    }
}
