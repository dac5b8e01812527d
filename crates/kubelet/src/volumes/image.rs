//! The files of an image, read-only. The folder is made with the other volumes; the image is
//! fetched and shown there when the first container that mounts it starts, so that a fetch that
//! fails is that container's, with its reason and back-off, as upstream's.

use super::error::{Error, io_at};
use super::source::{Order, Preparing, Source};
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Volume};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// The kind.
pub struct Image;

/// The folder of these volumes below the pod's `volumes`.
pub(super) const PLUGIN: &str = "kubernetes.io~image";

impl Source for Image {
    fn plugin(&self) -> &'static str {
        PLUGIN
    }

    fn means(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    fn prepare<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        let dir = order.dir(PLUGIN);
        order.means.image_volumes.note(order.pod);
        Box::pin(std::future::ready(make(&dir).map(|()| dir)))
    }

    fn refresh<'a>(&self, order: Order<'a>) -> Preparing<'a> {
        self.prepare(order)
    }
}

fn make(dir: &Path) -> Result<(), Error> {
    if host::mounts::is_mount_point(dir).unwrap_or(false) {
        return Ok(());
    }
    super::error::open_folder(dir).map_err(io_at(dir))
}

/// A volume of this kind that a container mounts.
#[derive(Debug)]
pub struct Mounted<'a> {
    /// The volume's name.
    pub name: &'a str,
    /// Which image, and when it is fetched.
    pub source: &'a ImageVolumeSource,
}

/// The volumes of this kind that a container mounts.
pub fn of_container<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> impl Iterator<Item = Mounted<'a>> {
    let volumes = crate::pod::spec::of(pod).volumes.iter().flatten();
    volumes.filter_map(move |volume| {
        let source = volume.image.as_ref()?;
        let mut mounts = container.volume_mounts.iter().flatten();
        mounts.find(|m| m.name == volume.name)?;
        Some(Mounted {
            name: &volume.name,
            source,
        })
    })
}

/// Where a volume of this kind is.
#[must_use]
pub fn dir(pods_dir: &Path, pod: &Pod, volume: &str) -> PathBuf {
    let pod = pods_dir.join(crate::pod::spec::uid(pod));
    pod.join("volumes").join(PLUGIN).join(volume)
}

/// Which images the volumes of pods are, so that none of them is removed as unused.
#[derive(Debug, Default)]
pub struct InUse(Mutex<HashMap<String, HashSet<String>>>);

impl InUse {
    fn note(&self, pod: &Pod) {
        let volumes = crate::pod::spec::of(pod).volumes.iter().flatten();
        let images = volumes.filter_map(|v| v.image.as_ref()?.reference.clone());
        let names = images.flat_map(|i| [host::cri::images::full_name(&i), i]);
        let uid = crate::pod::spec::uid(pod).to_owned();
        self.0.lock().insert(uid, names.collect());
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }

    /// The names of all images.
    #[must_use]
    pub fn names(&self) -> HashSet<String> {
        self.0.lock().values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": "u"},
            "spec": {
                "containers": [
                    {"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                    {"name": "b"},
                ],
                "volumes": [
                    {"name": "v", "image": {"reference": "tools"}},
                    {"name": "w", "image": {"reference": "r.io/w:1"}},
                    {"name": "e", "emptyDir": {}},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_container_waits_for_the_images_that_it_mounts() {
        let pod = pod();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let names = |c: &Container| -> Vec<String> {
            of_container(&pod, c).map(|m| m.name.to_owned()).collect()
        };
        assert_eq!(names(&containers[0]), ["v"]);
        assert!(names(&containers[1]).is_empty());
    }

    #[test]
    fn images_of_volumes_are_in_use_until_the_pod_is_gone() {
        let used = InUse::default();
        used.note(&pod());
        let names = used.names();
        assert!(names.contains("docker.io/library/tools:latest") && names.contains("r.io/w:1"));
        used.forget("u");
        assert!(used.names().is_empty());
    }
}
