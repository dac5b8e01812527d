//! Getting the image of a container: what is here, what must be pulled, and with which
//! credentials. When a pull that failed is tried again is the pod's decision.

pub mod gc;
pub mod keyring;
pub mod provider;
pub mod providers;
pub mod pulled;
pub mod verification;

use crate::config::Config;
use crate::events::{Recorder, Severity};
use crate::objects::{Key, ObjectKind, Objects};
use crate::pod::spec;
use clock::Instant;
use host::runtime::{Credential, Image, Runtime, SandboxSpec};
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use providers::{Found, Providers};
use pulled::{Proof, Pulled};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Why an image is not there. The reason is what the container's status shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Such as `ErrImagePull`.
    pub reason: &'static str,
    /// Shown beside it.
    pub message: String,
    /// It could not be fetched, which is tried again more and more rarely.
    pub is_pull: bool,
}

/// An image that a container needs before it can start.
#[derive(Clone, Copy, Debug)]
pub struct RequiredImage<'a> {
    /// The container that waits for it.
    pub container: &'a str,
    /// The image's name as it was written.
    pub image: &'a str,
    /// When it is pulled; none: as its tag says.
    pub policy: Option<&'a str>,
}

impl<'a> RequiredImage<'a> {
    /// All that a container needs: its own image first, then those of volumes, with their names.
    pub fn by(
        pod: &'a Pod,
        container: &'a Container,
    ) -> impl Iterator<Item = (Option<&'a str>, Self)> {
        let wanted = |image: &'a Option<String>, policy: &'a Option<String>| Self {
            container: &container.name,
            image: image.as_deref().unwrap_or_default(),
            policy: policy.as_deref(),
        };
        let own = wanted(&container.image, &container.image_pull_policy);
        let volumes = crate::volumes::image::of_container(pod, container).map(move |v| {
            let image = wanted(&v.source.reference, &v.source.pull_policy);
            (Some(v.name), image)
        });
        std::iter::once((None, own)).chain(volumes)
    }
}

/// Pulls images one call per container.
#[derive(Debug)]
pub struct Images {
    runtime: Arc<dyn Runtime>,
    objects: Arc<Objects>,
    recorder: Recorder,
    /// Credentials beside pods' secrets.
    providers: Providers,
    /// When images came and were used last.
    pub(crate) ages: Mutex<gc::Ages>,
    /// Who may use what is here.
    pub(crate) pulled: Pulled,
    /// Places for pulls; none: there are enough.
    places: Option<Semaphore>,
}

impl Images {
    /// Nothing was tried yet; what earlier kubelets pulled is known from their folder.
    #[must_use]
    pub fn new(
        runtime: Arc<dyn Runtime>,
        objects: Arc<Objects>,
        recorder: Recorder,
        providers: Providers,
        config: &Config,
    ) -> Self {
        let places = config.parallel_pulls.and_then(|n| usize::try_from(n).ok());
        Self {
            pulled: Pulled::new(&config.root_dir, config.image_verification.clone()),
            places: places.map(Semaphore::new),
            runtime,
            objects,
            recorder,
            providers,
            ages: Mutex::default(),
        }
    }

    /// The image of a container, or of a volume that it mounts, pulled if its policy says so.
    pub async fn ensure(
        &self,
        pod: &Pod,
        wanted: &RequiredImage<'_>,
        sandbox: &SandboxSpec,
    ) -> Result<Image, Error> {
        let asked = wanted.image;
        let name = with_tag(asked);
        let policy = wanted.policy.unwrap_or_else(|| default_policy(&name));
        let say = |severity, reason: &str, text: String| {
            self.recorder
                .pod(pod, Some(wanted.container), severity, reason, text);
        };
        let here = self.runtime.image(&name).await.map_err(|e| {
            let message = format!("Failed to inspect image \"{asked}\": {}", e.message());
            say(Severity::Warning, "InspectFailed", message.clone());
            Error {
                reason: "ImageInspectError",
                message,
                is_pull: false,
            }
        })?;
        let before = here.as_ref().map(|image| image.id.clone());
        match (policy, here) {
            ("Always", _) | ("IfNotPresent", None) => {}
            (policy, Some(image)) if !self.may_use(pod, &name, &image).await => {
                if policy == "Never" {
                    let message = format!(
                        "Container image \"{asked}\" is present with pull policy of Never, but the pod has no credentials with which it was pulled"
                    );
                    say(Severity::Warning, "ErrImageNeverPull", message.clone());
                    return Err(Error {
                        reason: "ErrImageNeverPull",
                        message,
                        is_pull: false,
                    });
                }
                // A pull proves that the pod may have it.
            }
            (_, Some(image)) => {
                say(
                    Severity::Normal,
                    "Pulled",
                    format!(
                        "Container image \"{asked}\" already present on machine and can be accessed by the pod"
                    ),
                );
                return Ok(image);
            }
            (_, None) => {
                let message =
                    format!("Container image \"{asked}\" is not present with pull policy of Never");
                say(Severity::Warning, "ErrImageNeverPull", message.clone());
                return Err(Error {
                    reason: "ErrImageNeverPull",
                    message,
                    is_pull: false,
                });
            }
        }
        self.pull(pod, wanted, sandbox, (&name, before.as_deref()))
            .await
    }

    async fn pull(
        &self,
        pod: &Pod,
        wanted: &RequiredImage<'_>,
        sandbox: &SandboxSpec,
        name: (&str, Option<&str>),
    ) -> Result<Image, Error> {
        let asked = wanted.image;
        let say = |severity, reason: &str, text: String| {
            self.recorder
                .pod(pod, Some(wanted.container), severity, reason, text);
        };
        say(
            Severity::Normal,
            "Pulling",
            format!("Pulling image \"{asked}\""),
        );
        let asked_at = Instant::now();
        let place = match &self.places {
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        let start = Instant::now();
        let outcome = self.try_pull(pod, sandbox, name).await;
        drop(place);
        match outcome {
            Ok(image) => {
                let (took, waited) = (start.elapsed(), asked_at.elapsed());
                crate::metrics::STARTS.pulled(image.bytes, took);
                say(
                    Severity::Normal,
                    "Pulled",
                    format!(
                        "Successfully pulled image \"{asked}\" in {}ms ({}ms including waiting). Image size: {} bytes.",
                        took.as_millis(),
                        waited.as_millis(),
                        image.bytes
                    ),
                );
                Ok(image)
            }
            Err(why) => {
                say(
                    Severity::Warning,
                    "Failed",
                    format!("Failed to pull image \"{asked}\": {why}"),
                );
                Err(Error {
                    reason: "ErrImagePull",
                    message: why,
                    is_pull: true,
                })
            }
        }
    }

    /// Whether the pod may use an image that is here.
    async fn may_use(&self, pod: &Pod, name: &str, image: &Image) -> bool {
        if self.pulled.may_use(name, &image.id, &[]) {
            return true;
        }
        let own = self.credentials(pod, name).await;
        let own: Vec<Proof> = own.into_iter().filter_map(|(proof, _)| proof).collect();
        self.pulled.may_use(name, &image.id, &own)
    }

    /// Pulls, and notes with what; a pull that cannot be noted is one that failed, since nobody would
    /// know who may use the image.
    async fn try_pull(
        &self,
        pod: &Pod,
        sandbox: &SandboxSpec,
        (name, before): (&str, Option<&str>),
    ) -> Result<Image, String> {
        let noted = |e: std::io::Error| format!("the pull cannot be noted: {e}");
        self.pulled.begin(name, before).map_err(noted)?;
        match self.pull_with_any(pod, sandbox, name).await {
            Ok((image, by)) => {
                let note = self.pulled.note(name, &image.id, by.as_ref());
                note.map_err(noted)?;
                Ok(image)
            }
            Err(why) => {
                self.pulled.failed(name);
                Err(why)
            }
        }
    }

    /// Tries each credential, then none.
    async fn pull_with_any(
        &self,
        pod: &Pod,
        sandbox: &SandboxSpec,
        name: &str,
    ) -> Result<(Image, Option<Proof>), String> {
        let mut last = String::new();
        let own = self.credentials(pod, name).await;
        let mut credentials: Vec<_> = own.into_iter().map(Some).collect();
        credentials.push(None);
        for with in credentials {
            let (proof, auth) = with.unzip();
            match self.runtime.pull(name, auth.as_ref(), sandbox).await {
                Ok(pulled) => {
                    let found = self.runtime.image(&pulled).await;
                    let found = found.map_err(|e| e.to_string())?;
                    let found = found.map(|image| (image, proof.flatten()));
                    return found
                        .ok_or_else(|| format!("image {name} is not there after its pull"));
                }
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    }

    /// Credentials for an image: the pod's own, those that fit best first, then the node's. Without a
    /// secret that cannot be read the image may come all the same.
    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<Found> {
        let (mut all, mut failed) = (Vec::new(), Vec::new());
        let named = spec::of(pod).image_pull_secrets.iter().flatten();
        for secret in named.filter(|s| !s.name.is_empty()) {
            let key = Key {
                kind: ObjectKind::Secret,
                namespace: spec::namespace(pod).to_owned(),
                name: secret.name.clone(),
            };
            let data = self.objects.get(&key).await.map_err(|e| e.to_string());
            let found = data.and_then(|data| {
                let proved = |(place, c): (String, Credential)| {
                    (place, (Some(Proof::of(&key, &data.uid, &c)), c))
                };
                Ok(keyring::entries(&data)?
                    .into_iter()
                    .map(proved)
                    .collect::<Vec<_>>())
            });
            match found {
                Ok(found) => all.extend(found),
                Err(error) => {
                    tracing::warn!(
                        pod = spec::full_name(pod),
                        secret = secret.name,
                        error,
                        "a pull secret cannot be used"
                    );
                    failed.push(secret.name.as_str());
                }
            }
        }
        if !failed.is_empty() {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                failed.join(", ")
            );
            let reason = "FailedToRetrieveImagePullSecret";
            self.recorder
                .pod(pod, None, Severity::Warning, reason, text);
        }
        let mut all = keyring::matching(image, all);
        all.extend(self.providers.credentials(pod, image).await);
        all
    }
}

/// The tag `latest` where neither tag nor digest is given.
#[must_use]
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if image.contains('@') || last.contains(':') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag_and_a_policy() {
        assert_eq!(with_tag("a/b"), "a/b:latest");
        assert_eq!(with_tag("r:5000/b"), "r:5000/b:latest");
        assert_eq!(with_tag("a@sha256:1"), "a@sha256:1");
        assert_eq!(
            (default_policy("a:latest"), default_policy("a:1")),
            ("Always", "IfNotPresent")
        );
    }
    #[tokio::test]
    async fn a_pod_pulls_with_its_own_secrets() {
        use crate::csi::testing::Api;
        use clock::{Clock, Random};
        use serde_json::json;
        let dir = tempfile::tempdir().unwrap();
        let api = Api::default();
        let put = |name: &str, host: &str| {
            let config = json!({ "auths": { host: { "username": name, "password": "p" } } });
            let text = config.to_string();
            let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
            let secret = json!({ "metadata": { "name": name, "namespace": "n", "uid": name },
                "type": "kubernetes.io/dockerconfigjson", "data": { ".dockerconfigjson": data } });
            api.put(&format!("/api/v1/namespaces/n/secrets/{name}"), secret);
        };
        put("wide", "reg.io");
        put("narrow", "reg.io/a");
        put("other", "other.io");
        let client = api.client();
        let clock = Clock::virtual_from(jiff::Timestamp::UNIX_EPOCH);
        let mut config = Config::new("node", "192.0.2.1".parse().unwrap());
        config.root_dir = dir.path().to_owned();
        let tokens = Arc::new(crate::volumes::tokens::Tokens::new(client.clone(), clock));
        let images = Images::new(
            Arc::new(host::runtime::fake::Fake::new(0)),
            Arc::new(Objects::new(client.clone(), Random::seeded(1))),
            Recorder::start(client.clone(), "node", clock),
            Providers::new(dir.path(), Vec::new(), client.clone(), tokens),
            &config,
        );
        let of = async |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|n| json!({ "name": n })).collect();
            let pod = json!({ "metadata": { "name": "p", "namespace": "n" },
                "spec": { "imagePullSecrets": names, "containers": [] } });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let found = images.credentials(&pod, "reg.io/a/b:1").await;
            let users = found.into_iter().map(|(_, c)| c.username);
            users.collect::<Vec<_>>()
        };
        // One that is missing keeps no other from being used.
        let names = ["wide", "gone", "other", "narrow"];
        assert_eq!(of(&names).await, ["narrow", "wide"]);
        assert!(of(&[]).await.is_empty());
    }
}
