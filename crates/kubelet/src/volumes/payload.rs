//! The files of configMap, secret, downwardAPI and projected volumes.

use super::atomic::{File, Files};
use super::{Error, Volumes};
use crate::objects::{self, Data, Key, Kind};
use crate::pod::env::{self, Around};
use crate::pod::spec;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use std::sync::Arc;

/// Permissions of files where nothing is said.
const DEFAULT_MODE: i32 = 0o644;

/// Collects the files of one volume.
pub(super) async fn of_volume(
    volumes: &Volumes,
    pod: &Pod,
    volume: &Volume,
    around: &Around,
) -> Result<Files, Error> {
    let mut out = Payload {
        volumes,
        pod,
        around,
        volume: &volume.name,
        files: Files::new(),
    };
    if let Some(v) = &volume.config_map {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        out.object(
            Kind::ConfigMap,
            &v.name,
            v.items.as_deref(),
            v.optional,
            mode,
        )
        .await?;
    }
    if let Some(v) = &volume.secret {
        let (name, mode) = (
            v.secret_name.clone().unwrap_or_default(),
            v.default_mode.unwrap_or(DEFAULT_MODE),
        );
        out.object(Kind::Secret, &name, v.items.as_deref(), v.optional, mode)
            .await?;
    }
    if let Some(v) = &volume.downward_api {
        out.downward(v.items.as_deref(), v.default_mode.unwrap_or(DEFAULT_MODE))?;
    }
    if let Some(v) = &volume.projected {
        let mode = v.default_mode.unwrap_or(DEFAULT_MODE);
        for source in v.sources.iter().flatten() {
            out.projection(source, mode).await?;
        }
    }
    Ok(out.files)
}

/// Permissions and owner of a token: it is for the pod's own user or group alone, where there is
/// one; else it has the volume's mode, as upstream.
fn token_rights(pod: &Pod, mode: i32) -> (i32, Option<u32>) {
    let owner = spec::common_user(pod).and_then(|user| u32::try_from(user).ok());
    let context = spec::of(pod).security_context.as_ref();
    // The group's right to read is added where the group is set.
    let private = owner.is_some() || context.is_some_and(|s| s.fs_group.is_some());
    (if private { 0o600 } else { mode }, owner)
}

struct Payload<'a> {
    volumes: &'a Volumes,
    pod: &'a Pod,
    around: &'a Around,
    volume: &'a str,
    files: Files,
}

impl Payload<'_> {
    fn wrong(&self, text: String) -> Error {
        Error::Volume {
            volume: self.volume.to_owned(),
            text,
        }
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, mode: i32) {
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
        let owner = None;
        self.files
            .insert(path.to_owned(), File { bytes, mode, owner });
    }

    fn add_token(&mut self, path: &str, token: String, mode: i32) {
        let (mode, owner) = token_rights(self.pod, mode);
        self.add(path, token.into_bytes(), mode);
        if let Some(file) = self.files.get_mut(path) {
            file.owner = owner;
        }
    }

    async fn projection(&mut self, source: &VolumeProjection, mode: i32) -> Result<(), Error> {
        if let Some(s) = &source.config_map {
            self.object(
                Kind::ConfigMap,
                &s.name,
                s.items.as_deref(),
                s.optional,
                mode,
            )
            .await?;
        }
        if let Some(s) = &source.secret {
            self.object(Kind::Secret, &s.name, s.items.as_deref(), s.optional, mode)
                .await?;
        }
        if let Some(s) = &source.downward_api {
            self.downward(s.items.as_deref(), mode)?;
        }
        if let Some(s) = &source.service_account_token {
            let token = self
                .volumes
                .tokens
                .get(
                    self.pod,
                    s.audience.as_deref(),
                    s.expiration_seconds.unwrap_or(3600),
                )
                .await
                .map_err(|e| self.wrong(format!("failed to fetch token: {e}")))?;
            self.add_token(&s.path, token, mode);
        }
        if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
            return Err(self.wrong("this kind of projection is not supported by this node".into()));
        }
        Ok(())
    }

    async fn object(
        &mut self,
        kind: Kind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<(), Error> {
        let optional = optional == Some(true);
        let key = Key {
            kind,
            namespace: spec::namespace(self.pod).to_owned(),
            name: name.to_owned(),
        };
        let data: Arc<Data> = match self.volumes.objects.get(&key).await {
            Ok(data) => data,
            Err(objects::Error::NotFound(_)) if optional => return Ok(()),
            Err(source) => {
                return Err(Error::Object {
                    volume: self.volume.to_owned(),
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
                            return Err(self.wrong(format!(
                                "references non-existent {} key: {}",
                                if kind == Kind::Secret {
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

    fn downward(
        &mut self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
    ) -> Result<(), Error> {
        for item in items.unwrap_or_default() {
            let text = if let Some(field) = &item.field_ref {
                env::field(self.pod, &field.field_path, self.around)
            } else if let Some(selector) = &item.resource_field_ref {
                let own = spec::containers(self.pod)
                    .first()
                    .cloned()
                    .unwrap_or_default();
                env::resource(self.pod, &own, selector, self.around)
            } else {
                Ok(String::new())
            };
            let text = text.map_err(|e| self.wrong(e.to_string()))?;
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
    fn tokens_are_for_the_pods_own_user_or_group() {
        let rights = |context: serde_json::Value| {
            let spec = json!({"securityContext": context, "containers": [{"name": "a"}]});
            let pod = serde_json::from_value(json!({"metadata": {}, "spec": spec}));
            token_rights(&pod.unwrap(), 0o644)
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
