//! Empty folders that live as long as their pod, on disk or in memory.

use super::atomic;
use super::error::{Error, io_at, open_folder};
use super::source::{Order, Preparing, Source};
use crate::pod::env::Around;
use crate::quantity;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use std::path::Path;

/// The kind. A volume without any source is one.
pub struct EmptyDir;

impl Source for EmptyDir {
    fn plugin(&self) -> &'static str {
        "kubernetes.io~empty-dir"
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some() || is_unnamed(volume)
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let dir = order.dir(self.plugin());
        let source = order.volume.empty_dir.clone().unwrap_or_default();
        let made = make(&dir, size(order, &source), order.group());
        Box::pin(std::future::ready(made.map(|()| dir)))
    }
}

fn is_unnamed(volume: &Volume) -> bool {
    *volume
        == Volume {
            name: volume.name.clone(),
            ..Default::default()
        }
}

/// The size of one in memory; none for one on disk.
fn size(order: Order, source: &EmptyDirVolumeSource) -> Option<u64> {
    let limit = source.size_limit.as_ref();
    let limit = limit.and_then(|q| quantity::units(&q.0));
    let in_memory = source.medium.as_deref() == Some("Memory");
    in_memory.then(|| memory_size(order.pod, limit, order.around))
}

/// A memory volume is as large as it says, at most what the pod may use.
fn memory_size(pod: &Pod, limit: Option<i64>, around: &Around) -> u64 {
    let pod_limit = crate::pod::resources::pod_limits(pod).memory_bytes;
    let most = pod_limit.unwrap_or(around.allocatable_memory_bytes).max(0);
    let size = limit.unwrap_or(most);
    let size = if most > 0 { size.min(most) } else { size };
    u64::try_from(size).unwrap_or(0)
}

pub(super) fn make(dir: &Path, memory: Option<u64>, group: Option<i64>) -> Result<(), Error> {
    let mut fresh = !dir.exists();
    open_folder(dir).map_err(io_at(dir))?;
    if let Some(size_bytes) = memory
        && !host::mounts::is_mount_point(dir).map_err(io_at(dir))?
    {
        host::mounts::tmpfs(dir, size_bytes, 0o777).map_err(io_at(dir))?;
        fresh = true;
    }
    if fresh {
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        atomic::set_mode(dir, mode).map_err(io_at(dir))?;
        if let Some(gid) = group.and_then(|g| u32::try_from(g).ok()) {
            std::os::unix::fs::lchown(dir, None, Some(gid)).map_err(io_at(dir))?;
        }
    }
    Ok(())
}
