//! Archives of images in a folder, which a node's runtime gets at its start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::image;

/// Gives the runtime at `socket` the images of the folder that was `named`. No pod starts without that of
/// the pause container, which is in no registry: where the folder has none, it is made below the node's
/// folder `dir`, with those of the demo. A node whose runtime has had it for long runs also where it
/// cannot be made again, on a full disk for instance.
pub async fn bring(dir: &Path, named: Option<&Path>, socket: &Path) -> Result<()> {
    if !named.is_some_and(|images| images.join("pause.tar").is_file()) {
        let own = dir.join("images");
        if let Err(e) = make(own.clone()).await {
            tracing::error!("making the node's images in {}: {e:#}", own.display());
        }
        import(&own, &dir.join("imported-own"), socket).await?;
    }
    match named {
        Some(images) => import(images, &dir.join("imported"), socket).await,
        None => Ok(()),
    }
}

async fn make(dir: PathBuf) -> Result<()> {
    let binary = std::env::current_exe().context("finding the running binary")?;
    tokio::task::spawn_blocking(move || image::write_all(&dir, &binary)).await??;
    Ok(())
}

/// Imports every archive of the folder `dir` that containerd at `socket` does not have yet; what it has is
/// noted in `noted`.
async fn import(dir: &Path, noted: &Path, socket: &Path) -> Result<()> {
    let listing = || format!("reading {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            tracing::warn!("there is no folder {} of images", dir.display());
            return Ok(());
        }
        entries => entries.with_context(listing)?,
    };
    let mut archives = Vec::new();
    for entry in entries {
        let path = entry.with_context(listing)?.path();
        if path.extension().is_some_and(|e| e == "tar") {
            archives.push(path);
        }
    }
    archives.sort();
    for archive in archives {
        let mark = noted.join(archive.file_name().unwrap_or_default());
        let stamp = stamp_of(&archive)?;
        if fs::read_to_string(&mark).is_ok_and(|seen| seen == stamp) {
            continue;
        }
        let file = fs::File::open(&archive)?;
        let (socket, sent) = (socket.to_string_lossy(), Arc::default());
        match host::cri::images::import_oci_tar(&socket, file, None, &sent).await {
            Ok(names) => {
                tracing::info!("imported {}", names.join(", "));
                fs::create_dir_all(noted)?;
                fs::write(&mark, stamp)?;
            }
            // One bad archive must not keep the node from running.
            Err(e) => tracing::error!("importing {}: {e}", archive.display()),
        }
    }
    Ok(())
}

/// Size and time of an archive: it is imported again when they change.
fn stamp_of(path: &Path) -> Result<String> {
    let meta = fs::metadata(path)?;
    let modified = meta
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(format!("{} {}", meta.len(), modified.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_bad_archive_keeps_no_node_from_running() {
        let dir = tempfile::tempdir().expect("folder");
        let at = |name: &str| dir.path().join(name);
        let (images, noted) = (at("images"), at("imported"));
        // Nobody is at the socket: a failed import is logged, and the node goes on.
        let nobody = at("none.sock");
        let done = async || import(&images, &noted, &nobody).await;
        assert!(done().await.is_ok(), "there is no folder");
        fs::create_dir(&images).expect("made");
        fs::write(images.join("a.tar"), "no archive").expect("written");
        fs::write(images.join("b.txt"), "no archive").expect("written");
        assert!(done().await.is_ok());
        assert!(!noted.exists());
        // Another time or size is another archive.
        let stamp = stamp_of(&images.join("a.tar")).expect("a stamp");
        fs::write(images.join("a.tar"), "another one").expect("written");
        assert_ne!(stamp_of(&images.join("a.tar")).expect("a stamp"), stamp);
    }
}
