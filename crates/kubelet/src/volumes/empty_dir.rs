//! Empty folders that live as long as their pod: on disk, in memory, or in huge pages.

use super::atomic;
use super::error::{Error, io_at, open_folder};
use super::source::{Order, Preparing, Source};
use crate::pod::env::Around;
use crate::pod::spec;
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
        let word = source.medium.as_deref().unwrap_or_default();
        let made = medium(word, order.pod).map_err(|text| order.wrong(text));
        let made = made.and_then(|medium| {
            let backing = match medium {
                Medium::Disk => None,
                Medium::Memory => Some(Backing::Memory(size(order, &source))),
                Medium::HugePages(bytes) => Some(Backing::HugePages(bytes)),
            };
            make(&dir, backing, order.group())
        });
        Box::pin(std::future::ready(made.map(|()| dir)))
    }
}

/// Where the files of a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    /// On the node's disk.
    Disk,
    /// In memory.
    Memory,
    /// In huge pages of so many bytes each.
    HugePages(u64),
}

/// What is meant by a medium's name. Huge pages are of a size that the pod asks for.
fn medium(word: &str, pod: &Pod) -> Result<Medium, String> {
    let wanted = match word {
        "" => return Ok(Medium::Disk),
        "Memory" => return Ok(Medium::Memory),
        "HugePages" => None,
        _ => match word.strip_prefix("HugePages-").and_then(quantity::units) {
            Some(bytes) => Some(bytes),
            None => return Err(format!("unknown storage medium {word:?}")),
        },
    };
    let own = spec::of(pod).resources.iter();
    let containers = spec::containers(pod).iter();
    let containers = containers.chain(spec::init_containers(pod));
    let all = own.chain(containers.filter_map(|c| c.resources.as_ref()));
    let names = all.flat_map(|r| r.requests.iter().flatten().map(|(name, _)| name));
    let sizes = names.filter_map(|name| quantity::units(name.strip_prefix("hugepages-")?));
    let mut sizes: Vec<i64> = sizes.filter(|s| wanted.is_none_or(|w| w == *s)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    match sizes.as_slice() {
        [] => Err(format!(
            "medium {word}: hugePages storage requested, but there is no resource request for huge pages"
        )),
        [one] => Ok(Medium::HugePages(u64::try_from(*one).unwrap_or(0))),
        _ => Err(format!(
            "medium: {word} can't be used if container requests multiple huge page sizes"
        )),
    }
}

fn is_unnamed(volume: &Volume) -> bool {
    *volume
        == Volume {
            name: volume.name.clone(),
            ..Default::default()
        }
}

/// The size of one in memory.
fn size(order: Order, source: &EmptyDirVolumeSource) -> u64 {
    let limit = source.size_limit.as_ref();
    let limit = limit.and_then(|q| quantity::units(&q.0));
    memory_size(order.pod, limit, order.around)
}

/// A memory volume is as large as it says, at most what the pod may use.
fn memory_size(pod: &Pod, limit: Option<i64>, around: &Around) -> u64 {
    let pod_limit = crate::pod::resources::pod_limits(pod).memory_bytes;
    let most = pod_limit.unwrap_or(around.allocatable_memory_bytes).max(0);
    let size = limit.filter(|l| *l > 0).unwrap_or(most);
    let size = if most > 0 { size.min(most) } else { size };
    u64::try_from(size).unwrap_or(0)
}

/// What is mounted at a folder whose files are not on the disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backing {
    /// Memory of so many bytes.
    Memory(u64),
    /// Huge pages of so many bytes each.
    HugePages(u64),
}

pub(super) fn make(dir: &Path, backing: Option<Backing>, group: Option<i64>) -> Result<(), Error> {
    let mut fresh = !dir.exists();
    open_folder(dir).map_err(io_at(dir))?;
    if let Some(backing) = backing
        && !host::mounts::is_mount_point(dir).map_err(io_at(dir))?
    {
        let done = match backing {
            Backing::Memory(bytes) => host::mounts::tmpfs(dir, bytes, 0o777),
            Backing::HugePages(bytes) => host::mounts::huge_pages(dir, bytes),
        };
        done.map_err(io_at(dir))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_medium_is_known_or_refused() {
        let of = |word: &str, sizes: &[&str]| {
            let asks = |size: &&str| json!({ "requests": { *size: "1Gi", "cpu": "1" } });
            let all: Vec<_> = sizes.iter().map(asks).collect();
            let named = all.iter().map(|r| json!({ "name": "c", "resources": r }));
            let containers: Vec<_> = named.collect();
            let pod = json!({ "spec": { "containers": containers } });
            medium(word, &serde_json::from_value(pod).unwrap())
        };
        let (small, large) = ("hugepages-2Mi", "hugepages-1Gi");
        assert_eq!(of("", &[]), Ok(Medium::Disk));
        assert_eq!(of("Memory", &[]), Ok(Medium::Memory));
        assert_eq!(
            of("HugePages", &[small, small]),
            Ok(Medium::HugePages(2 << 20))
        );
        assert_eq!(
            of("HugePages-1Gi", &[small, large]),
            Ok(Medium::HugePages(1 << 30))
        );
        for (word, sizes, want) in [
            (
                "HugePages",
                vec![small, large],
                "medium: HugePages can't be used if container requests multiple huge page sizes",
            ),
            (
                "HugePages-1Gi",
                vec![small],
                "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages",
            ),
            (
                "HugePages",
                vec![],
                "medium HugePages: hugePages storage requested, but there is no resource request for huge pages",
            ),
            (
                "HugePages-x",
                vec![small],
                "unknown storage medium \"HugePages-x\"",
            ),
            ("memory", vec![], "unknown storage medium \"memory\""),
        ] {
            assert_eq!(of(word, &sizes), Err(want.to_owned()));
        }
    }
}
