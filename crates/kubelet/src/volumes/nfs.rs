//! NFS, by the host's own tool: the kernel's client needs what `mount.nfs` finds out.

use super::error::open_folder;
use super::source::{Order, Preparing, Source};
use super::tools::Tool;
use k8s_openapi::api::core::v1::Volume;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The folder of these volumes below the pod's `volumes`.
pub const PLUGIN: &str = "kubernetes.io~nfs";

const MOUNT: Tool = Tool {
    name: "mount.nfs",
    package: "nfs-common",
};
/// A server that does not answer is tried by the tool for two minutes.
const PATIENCE: Duration = Duration::from_secs(130);

/// The kind.
pub struct Nfs;

/// What is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// Name or address.
    pub server: &'a str,
    /// The path that it exports.
    pub path: &'a str,
    /// Options of the mount.
    pub options: &'a [String],
    /// It may not be written.
    pub read_only: bool,
}

impl Source for Nfs {
    fn plugin(&self) -> &'static str {
        PLUGIN
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.nfs.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        Box::pin(async move {
            let source = order.volume.nfs.clone().unwrap_or_default();
            let export = Export {
                server: &source.server,
                path: &source.path,
                options: &[],
                read_only: source.read_only == Some(true),
            };
            let dir = order.dir(PLUGIN);
            mount(&export, &dir).await.map_err(|why| order.wrong(why))
        })
    }
}

/// Mounts an export at a folder, or finds it mounted. An error says why not.
pub async fn mount(export: &Export<'_>, dir: &Path) -> Result<PathBuf, String> {
    open_folder(dir).map_err(|e| e.to_string())?;
    if host::mounts::is_mount_point(dir).map_err(|e| e.to_string())? {
        return Ok(dir.to_owned());
    }
    let done = MOUNT.run(&arguments(export, dir), PATIENCE).await?;
    done.success(MOUNT.name)?;
    Ok(dir.to_owned())
}

fn arguments(export: &Export<'_>, dir: &Path) -> Vec<String> {
    let mut options = export.options.to_vec();
    if export.read_only {
        options.push("ro".into());
    }
    let bare = export.server.contains(':') && !export.server.starts_with('[');
    let server = if bare {
        format!("[{}]", export.server)
    } else {
        export.server.to_owned()
    };
    let mut all = vec![
        format!("{server}:{}", export.path),
        dir.to_string_lossy().into_owned(),
    ];
    if !options.is_empty() {
        all.extend(["-o".to_owned(), options.join(",")]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tool_is_told_what_to_mount() {
        let mut export = Export {
            server: "nfs.example",
            path: "/data",
            options: &[],
            read_only: false,
        };
        let dir = Path::new("/v");
        assert_eq!(arguments(&export, dir), ["nfs.example:/data", "/v"]);
        let options = ["hard".to_owned(), "nfsvers=4.1".to_owned()];
        export = Export {
            server: "fd00::1",
            options: &options,
            read_only: true,
            ..export
        };
        let want = ["[fd00::1]:/data", "/v", "-o", "hard,nfsvers=4.1,ro"];
        assert_eq!(arguments(&export, dir), want);
    }
}
