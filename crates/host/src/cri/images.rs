//! Importing images into containerd, and its table of them.
//!
//! An import writes the blobs into the content store under a lease, names the top one in the
//! image table, and is done: the CRI plugin sees the new name and unpacks the layers when the
//! first container wants them. The archive is read twice, once for what it holds and once for the
//! blobs' bytes, and never lies in memory: layers may be larger than that.

mod archive;

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
use archive::{Archive, Content, Plan, Write, plan};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::transport::Channel;

/// How much of a blob goes in one message, in bytes; half of gRPC's usual 4 MiB limit.
const CHUNK_BYTES: u64 = 2 << 20;
/// Chunks that wait for containerd at most.
const CHUNKS_AHEAD: usize = 2;

/// Why an image could not be imported, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive could not be read.
    #[error("reading the archive: {0}")]
    Archive(#[from] std::io::Error),
    /// It has more files, or a larger document, than an image has.
    #[error("{0} is too much for an archive of images")]
    TooMuch(String),
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

/// Imports an OCI layout or a `docker save` archive from a file.
/// `name` overrides the names inside. Returns the full names that now exist. `sent` counts meanwhile the
/// bytes that containerd has got.
pub async fn import_oci_tar(
    socket: &str,
    file: File,
    name: Option<&str>,
    sent: &Arc<AtomicU64>,
) -> Result<Vec<String>, Error> {
    let name = name.map(full_name);
    let file = Arc::new(file);
    let scanned = file.clone();
    let look = move || plan(&Archive::scan(scanned)?, name.as_deref());
    #[expect(clippy::disallowed_methods, reason = "reading an archive blocks")]
    let looking = tokio::task::spawn_blocking(look);
    let plan = looking.await.map_err(ended)??;
    let channel = channel(socket);
    let lease = lease(&channel, &plan).await?;
    let outcome = write_all(&channel, &lease, (&file, sent), plan).await;
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
        labels: HashMap::from([("containerd.io/gc.expire".to_owned(), rfc3339_after(3600))]),
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

/// The time in so many seconds, as containerd reads it.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "containerd's clock counts, which is this machine's"
)]
pub(super) fn rfc3339_after(seconds: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    rfc3339(now + seconds)
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

fn ended(e: tokio::task::JoinError) -> std::io::Error {
    std::io::Error::other(e.to_string())
}

async fn write_all(
    channel: &Channel,
    lease: &str,
    (file, sent): (&Arc<File>, &Arc<AtomicU64>),
    plan: Plan,
) -> Result<Vec<String>, Error> {
    for write in plan.writes {
        write_blob(channel, lease, (file, sent), write).await?;
    }
    let mut names = Vec::new();
    for (name, target) in plan.names {
        set_name(channel, lease, &name, target).await?;
        names.push(name);
    }
    Ok(names)
}

pub(super) fn leased<T>(body: T, lease: &str) -> tonic::Request<T> {
    let mut request = namespaced(body);
    if let Ok(value) = lease.parse() {
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

async fn write_blob(
    channel: &Channel,
    lease: &str,
    (file, sent): (&Arc<File>, &Arc<AtomicU64>),
    write: Write,
) -> Result<(), Error> {
    // A bounded channel: the file is read as fast as containerd takes it.
    let (sender, messages) = tokio::sync::mpsc::channel(CHUNKS_AHEAD);
    let (file, sent) = (file.clone(), sent.clone());
    #[expect(clippy::disallowed_methods, reason = "reading an archive blocks")]
    let reading = tokio::task::spawn_blocking(move || {
        send_blob(&file, write, |message| {
            let bytes = message.data.len() as u64;
            let is_taken = sender.blocking_send(message).is_ok();
            if is_taken {
                sent.fetch_add(bytes, Ordering::Relaxed);
            }
            is_taken
        })
    });
    let messages = futures::stream::unfold(messages, |mut messages| async {
        messages.recv().await.map(|message| (message, messages))
    });
    let answer = ContentClient::new(channel.clone())
        .write(leased(messages, lease))
        .await;
    let drained = match answer {
        Ok(stream) => drain(stream.into_inner()).await,
        Err(status) => Err(status),
    };
    // A read that failed is the reason for what containerd says after it.
    reading.await.map_err(ended)??;
    match drained {
        Ok(()) => Ok(()),
        Err(status) if status.code() == tonic::Code::AlreadyExists => Ok(()),
        Err(status) => Err(status.into()),
    }
}

/// Cuts a blob into messages; `send` says whether more are wanted.
fn send_blob(
    file: &File,
    write: Write,
    mut send: impl FnMut(WriteContentRequest) -> bool,
) -> std::io::Result<()> {
    let size = write.content.size();
    let mut message = WriteContentRequest {
        action: WriteAction::Write as i32,
        r#ref: format!("import-{}", write.digest),
        total: i64::try_from(size).unwrap_or(i64::MAX),
        expected: write.digest,
        offset: 0,
        data: Vec::new(),
        labels: HashMap::new(),
    };
    let mut done = 0;
    while done < size {
        let length = (size - done).min(CHUNK_BYTES);
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        match &write.content {
            Content::Part { offset, .. } => file.read_exact_at(&mut data, offset + done)?,
            Content::Made(bytes) => {
                let from = usize::try_from(done).unwrap_or(usize::MAX);
                let rest = bytes.get(from..).unwrap_or_default();
                data.clear();
                data.extend(rest.iter().take(usize::try_from(length).unwrap_or(0)));
            }
        }
        message.data = data;
        message.offset = i64::try_from(done).unwrap_or(i64::MAX);
        if !send(message.clone()) {
            return Ok(());
        }
        done += length;
    }
    send(WriteContentRequest {
        action: WriteAction::Commit as i32,
        offset: i64::try_from(done).unwrap_or(i64::MAX),
        data: Vec::new(),
        labels: write.labels,
        ..message
    });
    Ok(())
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

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::archive::sha256;
    use super::archive::tests::archive;
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
    fn blobs_are_sent_in_chunks_from_where_they_lie() {
        let size = usize::try_from(CHUNK_BYTES).unwrap() + 5;
        let blob: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let archive = archive(&[("before", b"x"), ("./blob", &blob), ("after", b"y")]);
        let part = archive.part("blob").unwrap().clone();
        assert_eq!(part.digest, sha256(&blob));
        let contents = [
            Content::Made(blob.clone()),
            Content::Part {
                offset: part.offset,
                size: part.size,
            },
        ];
        for content in contents {
            let write = Write {
                digest: part.digest.clone(),
                content,
                labels: HashMap::from([("a".to_owned(), "b".to_owned())]),
            };
            let mut sent = Vec::new();
            send_blob(&archive.file, write, |message| {
                sent.push(message);
                true
            })
            .unwrap();
            let offsets: Vec<i64> = sent.iter().map(|m| m.offset).collect();
            let chunk = i64::try_from(CHUNK_BYTES).unwrap();
            assert_eq!(offsets, [0, chunk, chunk + 5]);
            let data: Vec<u8> = sent.iter().flat_map(|m| m.data.clone()).collect();
            assert!(data == blob && sent.iter().all(|m| m.total == chunk + 5));
            assert_eq!(sent[2].action, WriteAction::Commit as i32);
            assert_eq!(sent[2].labels.len(), 1);
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_767_323_045), "2026-01-02T03:04:05Z");
    }
}
