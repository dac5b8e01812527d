//! Files and folders of the node.

use super::error::{Error, io_at};
use super::source::{Order, Preparing, Source};
use k8s_openapi::api::core::v1::Volume;
use std::path::PathBuf;

/// The kind.
pub struct HostPath;

impl Source for HostPath {
    fn plugin(&self) -> &'static str {
        ""
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let source = order.volume.host_path.clone().unwrap_or_default();
        let kind = source.type_.as_deref().unwrap_or_default();
        let found = host_path(&order.volume.name, &source.path, kind);
        Box::pin(std::future::ready(found))
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let source = order.volume.host_path.clone().unwrap_or_default();
        Box::pin(std::future::ready(Ok(source.path.into())))
    }
}

/// Checks what is at the path, or makes it, as the type says.
pub(super) fn host_path(volume: &str, path: &str, kind: &str) -> Result<PathBuf, Error> {
    use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
    let target = PathBuf::from(path);
    let wrong = |what: &str| Error::Volume {
        volume: volume.to_owned(),
        text: format!("hostPath type check failed: {path} is not a {what}"),
    };
    let found = std::fs::metadata(&target).ok();
    match kind {
        // What appears at the name meanwhile is neither followed nor changed.
        "DirectoryOrCreate" if found.is_none() => {
            let mut folder = std::fs::DirBuilder::new();
            let made = folder.recursive(true).mode(0o755).create(&target);
            made.map_err(io_at(&target))?;
        }
        "FileOrCreate" if found.is_none() => {
            let mut file = std::fs::OpenOptions::new();
            let made = file.write(true).create_new(true).mode(0o644).open(&target);
            made.map_err(io_at(&target))?;
        }
        "Directory" | "DirectoryOrCreate" if !found.as_ref().is_some_and(|m| m.is_dir()) => {
            return Err(wrong("directory"));
        }
        "File" | "FileOrCreate" if !found.as_ref().is_some_and(|m| m.is_file()) => {
            return Err(wrong("file"));
        }
        "Socket" if !found.as_ref().is_some_and(|m| m.file_type().is_socket()) => {
            return Err(wrong("socket file"));
        }
        "CharDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_char_device()) =>
        {
            return Err(wrong("character device"));
        }
        "BlockDevice"
            if !found
                .as_ref()
                .is_some_and(|m| m.file_type().is_block_device()) =>
        {
            return Err(wrong("block device"));
        }
        // Upstream's runtime makes a missing path a folder.
        "" if found.is_none() => std::fs::create_dir_all(&target).map_err(io_at(&target))?,
        _ => {}
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        assert!(host_path("v", &at("none"), "Directory").is_err());
        assert!(
            host_path("v", &at("d"), "DirectoryOrCreate")
                .unwrap()
                .is_dir()
        );
        assert!(host_path("v", &at("f"), "FileOrCreate").unwrap().is_file());
        assert!(host_path("v", &at("d"), "File").is_err());
    }

    #[test]
    fn what_is_at_the_name_of_a_new_host_path_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("made"), &link).unwrap();
        for kind in ["FileOrCreate", "DirectoryOrCreate"] {
            assert!(host_path("v", &link.to_string_lossy(), kind).is_err());
        }
        assert!(!dir.path().join("made").exists());
    }
}
