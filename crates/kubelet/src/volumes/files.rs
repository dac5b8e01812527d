//! What volumes of files have in common: the files of objects, of the pod's own fields and of
//! tokens, and how they come into the volume.

use super::atomic::{self, File};
use super::error::{Error, io_at, open_folder};
use super::source::Order;
use crate::objects::{self, Data, Key, ObjectKind};
use crate::pod::env;
use crate::pod::spec;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Permissions of files where nothing is said.
pub const DEFAULT_MODE: i32 = 0o644;

/// Brings files into a volume. `secret`: they never reach a disk.
pub fn write(
    order: Order,
    plugin: &str,
    secret: bool,
    files: &atomic::Files,
) -> Result<PathBuf, Error> {
    let dir = order.dir(plugin);
    open_folder(&dir).map_err(io_at(&dir))?;
    if secret {
        let mounted = host::mounts::tmpfs(&dir, 0, 0o755);
        in_memory(&dir, mounted, host::mounts::may_mount())?;
    }
    atomic::write(&dir, files, order.group(), order.means.clock.now()).map_err(io_at(&dir))?;
    Ok(dir)
}

/// What is secret does not reach a disk: without memory for it there is no volume. Only a kubelet that
/// may mount nothing at all, which is one that is tried out, goes on.
fn in_memory(dir: &Path, mounted: io::Result<()>, may_mount: bool) -> Result<(), Error> {
    match mounted {
        Err(e) if !may_mount => {
            tracing::warn!(dir = %dir.display(), error = %e, "a secret volume is on the disk, since this user may mount nothing");
            Ok(())
        }
        mounted => mounted.map_err(io_at(dir)),
    }
}

/// Permissions and owner of tokens and certificates: they are for the pod's own user or group alone,
/// where there is one; else they have the volume's mode, as upstream.
fn own_rights(pod: &Pod, mode: i32) -> (i32, Option<u32>) {
    let owner = spec::common_user(pod).and_then(|user| u32::try_from(user).ok());
    let context = spec::of(pod).security_context.as_ref();
    // The group's right to read is added where the group is set.
    let private = owner.is_some() || context.is_some_and(|s| s.fs_group.is_some());
    (if private { 0o600 } else { mode }, owner)
}

/// The files of a volume, as they are collected.
pub struct Files<'a> {
    order: Order<'a>,
    files: atomic::Files,
}

impl<'a> Files<'a> {
    /// None yet.
    #[must_use]
    pub fn new(order: Order<'a>) -> Self {
        Self {
            order,
            files: atomic::Files::new(),
        }
    }

    /// All that were collected.
    #[must_use]
    pub fn done(self) -> atomic::Files {
        self.files
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: i32) {
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
        let owner = None;
        self.files
            .insert(path.to_owned(), File { bytes, mode, owner });
    }

    /// Adds what is the pod's own, such as a token: it is for the pod's user or group where it has
    /// one.
    pub fn add_own(&mut self, path: &str, text: String, mode: i32) {
        let (mode, owner) = own_rights(self.order.pod, mode);
        self.add(path, text.into_bytes(), mode);
        if let Some(file) = self.files.get_mut(path) {
            file.owner = owner;
        }
    }

    /// Adds the values of an object, or of some of its keys.
    pub async fn object(
        &mut self,
        kind: ObjectKind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<(), Error> {
        let optional = optional == Some(true);
        let key = Key {
            kind,
            namespace: spec::namespace(self.order.pod).to_owned(),
            name: name.to_owned(),
        };
        let data: Arc<Data> = match self.order.means.objects.get(&key).await {
            Ok(data) => data,
            Err(objects::Error::NotFound(_)) if optional => return Ok(()),
            Err(source) => {
                return Err(Error::Object {
                    volume: self.order.volume.name.clone(),
                    source,
                });
            }
        };
        match items.filter(|items| !items.is_empty()) {
            None => {
                for (key, value) in &data.values {
                    self.add(key, value.clone(), mode);
                }
            }
            Some(items) => {
                for item in items {
                    match data.values.get(&item.key) {
                        Some(value) => {
                            self.add(&item.path, value.clone(), item.mode.unwrap_or(mode))
                        }
                        None if optional => {}
                        None => {
                            return Err(self.order.wrong(format!(
                                "references non-existent {} key: {}",
                                if kind == ObjectKind::Secret {
                                    "secret"
                                } else {
                                    "config"
                                },
                                item.key
                            )));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what fields and resources of the pod say.
    pub fn downward(
        &mut self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
    ) -> Result<(), Error> {
        for item in items.unwrap_or_default() {
            let text = if let Some(field) = &item.field_ref {
                env::field(self.order.pod, &field.field_path, self.order.around)
            } else if let Some(selector) = &item.resource_field_ref {
                let own = spec::containers(self.order.pod)
                    .first()
                    .cloned()
                    .unwrap_or_default();
                env::resource(self.order.pod, &own, selector, self.order.around)
            } else {
                Ok(String::new())
            };
            let text = text.map_err(|e| self.order.wrong(e.to_string()))?;
            self.add(&item.path, text.into_bytes(), item.mode.unwrap_or(mode));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_memory_for_it_there_is_no_secret_volume() {
        let dir = Path::new("/v");
        let failed = || Err(io::Error::other("no tmpfs"));
        assert!(in_memory(dir, Ok(()), true).is_ok());
        let why = in_memory(dir, failed(), true).unwrap_err().to_string();
        assert_eq!(why, "/v: no tmpfs");
        assert!(in_memory(dir, failed(), false).is_ok());
    }

    #[test]
    fn tokens_are_for_the_pods_own_user_or_group() {
        let rights = |context: serde_json::Value| {
            let spec = json!({"securityContext": context, "containers": [{"name": "a"}]});
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec}));
            own_rights(&pod.unwrap(), 0o644)
        };
        assert_eq!(rights(json!({})), (0o644, None));
        assert_eq!(rights(json!({"runAsUser": 7})), (0o600, Some(7)));
        assert_eq!(rights(json!({"fsGroup": 7})), (0o600, None));
        assert_eq!(
            rights(json!({"runAsUser": 7, "fsGroup": 8})),
            (0o600, Some(7))
        );
    }
}
