//! `/tiphys/snapshot`: a backup of everything that the store holds, while writers go on. It holds
//! all Secrets, so the right to the path is not enough: it takes the right to everything (`*` on
//! `*.*`), which only administrators have. The file format and the promise of one revision are
//! the store's.

use std::fs::File;
use std::io::Read;

use api::Status;
use bytes::Bytes;
use futures::stream;
use http::Response;
use store::backup;

use crate::filters::authn::UserInfo;
use crate::filters::authz;
use crate::http::body::{Body, BoxError};
use crate::http::respond::respond;
use crate::state::State;

const MEDIA: &str = "application/octet-stream";
/// Bytes that are read from the file at once, and wait for a slow reader.
const CHUNK: usize = 256 << 10;

fn failed(what: &dyn std::fmt::Display) -> Status {
    Status::internal(format!("the backup could not be made: {what}"))
}

/// Makes the backup in a file of its own, then passes that on.
pub async fn answer(state: &State, user: &UserInfo) -> Result<Response<Body>, Status> {
    authz::everything(state, user).await?;
    let dir = tempfile::Builder::new()
        .prefix("snapshot-")
        .tempdir_in(&state.settings().scratch)
        .map_err(|e| failed(&e))?;
    let path = dir.path().join("snapshot");
    let cluster = cluster(state);
    let now = state.settings().clock.seconds();
    let header = backup::save(&**state.store(), &path, &cluster, now)
        .await
        .map_err(|e| failed(&e))?;
    tracing::info!("a backup of revision {} is being read", header.revision);
    let file = File::open(&path).map_err(|e| failed(&e))?;
    // The folder goes when the stream has ended, or its reader has gone.
    let chunks = stream::try_unfold((file, dir), |(mut file, dir)| async move {
        let read = move || -> std::io::Result<(Vec<u8>, File)> {
            let mut chunk = Vec::with_capacity(CHUNK);
            file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            Ok((chunk, file))
        };
        #[expect(clippy::disallowed_methods, reason = "reading a file blocks")]
        let (chunk, file) = tokio::task::spawn_blocking(read).await??;
        let more = !chunk.is_empty();
        Ok::<_, BoxError>(more.then(|| (Bytes::from(chunk), (file, dir))))
    });
    Ok(respond(200, MEDIA, Body::stream(chunks)))
}

/// What the field takes for a cluster's identity: the UID of `kube-system`.
fn cluster(state: &State) -> String {
    let namespace = state.lookup("", "namespaces", "", "kube-system");
    let object = namespace.map(|n| n.to_value());
    let uid = object.as_ref().and_then(|o| o["metadata"]["uid"].as_str());
    uid.unwrap_or_default().to_owned()
}
