//! CRI v1 as a [`Runtime`]: each call with its time limit, and no decisions.

use super::convert;
use super::events;
use super::image_mounts;
use super::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use super::{MAX_MESSAGE_BYTES, channel};
use crate::runtime::{
    Call, CgroupDriver, Container, ContainerSpec, ContainerStatus, Credential, Error, ErrorKind,
    Event, Health, Image, LayerUse, Limit, Ran, Resources, Result, Runtime, RuntimeFs, Sandbox,
    SandboxNetwork, SandboxSpec, Streams, Version,
};
use futures::future::FutureExt;
use futures::stream::{BoxStream, StreamExt};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;

/// Making a sandbox may wait for the network plugin; upstream gives it twice as long as other calls.
const SANDBOX_TIMES: u32 = 2;
/// The largest image pull that is waited for; after it the back-off takes over.
const PULL: Duration = Duration::from_secs(30 * 60);
/// Unpacking an image of some gigabytes onto a slow disk.
const UNPACK: Duration = Duration::from_secs(10 * 60);
/// Nobody waits longer, whatever time a pod or a client asks for: what gRPC can say of time ends somewhere.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A command without a limit of its own.
const COMMAND: Duration = Duration::from_secs(3600);

/// In the words in which upstream's client reports it: people search for them.
pub(super) fn failed(status: &tonic::Status) -> Error {
    let kind = match status.code() {
        tonic::Code::NotFound => ErrorKind::NotFound,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => ErrorKind::Timeout,
        tonic::Code::Unavailable => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    };
    Error {
        kind,
        text: format!(
            "rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        ),
        message: status.message().to_owned(),
    }
}

fn incomplete(call: &str) -> Error {
    let text = format!("the runtime's answer to {call} is incomplete");
    Error::new(ErrorKind::Other, text)
}

fn within<T>(limit: Duration, body: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(body);
    request.set_timeout(limit.min(LONGEST));
    traces::pass_on(request.metadata_mut().as_mut());
    request
}

fn answer<T>(answer: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<T> {
    match answer {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(failed(&status)),
    }
}

/// What is gone need not go.
fn gone<T>(outcome: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<()> {
    match answer(outcome) {
        Ok(_) => Ok(()),
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}

/// A container runtime behind CRI v1. Cheap to clone. Its connection is lazy: a runtime that
/// restarts costs failed calls while it is away and nothing else.
#[derive(Clone, Debug)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    /// What a call that does not wait for a program may take.
    limit: Duration,
}

impl Cri {
    /// A runtime at a unix socket. Nothing is connected yet. `limit`: what a call may take that does not
    /// wait for a program.
    #[must_use]
    pub fn new(endpoint: &str, limit: Duration) -> Self {
        let channel = channel(endpoint);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
            limit,
        }
    }

    async fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::PodSandboxStatusResponse> {
        let body = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose,
        };
        let mut client = self.runtime.clone();
        answer(client.pod_sandbox_status(within(self.limit, body)).await)
    }
}

fn selector(label: Option<(&str, &str)>) -> HashMap<String, String> {
    let pairs = label.into_iter();
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// An image named in CRI's words.
fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

impl Runtime for Cri {
    fn version(&self) -> Call<'_, Version> {
        async {
            let body = v1::VersionRequest {
                version: "v1".into(),
            };
            let found = answer(self.runtime.clone().version(within(self.limit, body)).await)?;
            Ok(Version {
                name: found.runtime_name,
                version: found.runtime_version,
            })
        }
        .boxed()
    }

    fn health(&self) -> Call<'_, Health> {
        async {
            let body = v1::StatusRequest { verbose: false };
            let found = answer(self.runtime.clone().status(within(self.limit, body)).await)?;
            convert::health(found).ok_or_else(|| incomplete("Status"))
        }
        .boxed()
    }

    fn cgroup_driver(&self) -> Call<'_, Option<CgroupDriver>> {
        async {
            let request = within(self.limit, v1::RuntimeConfigRequest {});
            match self.runtime.clone().runtime_config(request).await {
                // As containerd before 2.0.
                Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
                said => Ok(convert::cgroup_driver(answer(said)?)),
            }
        }
        .boxed()
    }

    fn run_sandbox<'a>(&'a self, spec: &'a SandboxSpec, handler: &'a str) -> Call<'a, String> {
        async move {
            let body = v1::RunPodSandboxRequest {
                config: Some(convert::sandbox_config(spec)),
                runtime_handler: handler.to_owned(),
            };
            let mut client = self.runtime.clone();
            let made = answer(
                client
                    .run_pod_sandbox(within(self.limit.saturating_mul(SANDBOX_TIMES), body))
                    .await,
            )?;
            Ok(made.pod_sandbox_id)
        }
        .boxed()
    }

    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::StopPodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            gone(
                self.runtime
                    .clone()
                    .stop_pod_sandbox(within(self.limit, body))
                    .await,
            )
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::RemovePodSandboxRequest {
                pod_sandbox_id: id.to_owned(),
            };
            let mut client = self.runtime.clone();
            gone(client.remove_pod_sandbox(within(self.limit, body)).await)
        }
        .boxed()
    }

    fn sandboxes<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Sandbox>> {
        async move {
            let filter = v1::PodSandboxFilter {
                label_selector: selector(label),
                ..Default::default()
            };
            let body = v1::ListPodSandboxRequest {
                filter: Some(filter),
            };
            let mut client = self.runtime.clone();
            let found = answer(client.list_pod_sandbox(within(self.limit, body)).await)?;
            Ok(found.items.into_iter().map(convert::sandbox).collect())
        }
        .boxed()
    }

    fn sandbox_network<'a>(&'a self, id: &'a str) -> Call<'a, SandboxNetwork> {
        async move {
            let found = self.sandbox_status(id, false).await?.status;
            let found = found.ok_or_else(|| incomplete("PodSandboxStatus"))?;
            Ok(convert::network(found))
        }
        .boxed()
    }

    fn sandbox_pid<'a>(&'a self, id: &'a str) -> Call<'a, Option<u32>> {
        async move {
            let found = self.sandbox_status(id, true).await?;
            Ok(convert::pid(&found.info))
        }
        .boxed()
    }

    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        spec: &'a ContainerSpec,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String> {
        async move {
            let body = v1::CreateContainerRequest {
                pod_sandbox_id: sandbox_id.to_owned(),
                config: Some(convert::container_config(spec)),
                sandbox_config: Some(convert::sandbox_config(sandbox)),
            };
            let mut client = self.runtime.clone();
            let made = answer(client.create_container(within(self.limit, body)).await)?;
            Ok(made.container_id)
        }
        .boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::StartContainerRequest {
                container_id: id.to_owned(),
            };
            let mut client = self.runtime.clone();
            answer(client.start_container(within(self.limit, body)).await).map(drop)
        }
        .boxed()
    }

    fn stop_container<'a>(&'a self, id: &'a str, grace_seconds: i64) -> Call<'a, ()> {
        async move {
            let grace = u64::try_from(grace_seconds).unwrap_or(0);
            let body = v1::StopContainerRequest {
                container_id: id.to_owned(),
                timeout: grace_seconds.max(0),
            };
            let limit = self.limit.saturating_add(Duration::from_secs(grace));
            gone(
                self.runtime
                    .clone()
                    .stop_container(within(limit, body))
                    .await,
            )
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::RemoveContainerRequest {
                container_id: id.to_owned(),
            };
            gone(
                self.runtime
                    .clone()
                    .remove_container(within(self.limit, body))
                    .await,
            )
        }
        .boxed()
    }

    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> Call<'a, ()> {
        async move {
            let body = v1::UpdateContainerResourcesRequest {
                container_id: id.to_owned(),
                linux: Some(convert::resources(resources)),
                ..Default::default()
            };
            let mut client = self.runtime.clone();
            answer(
                client
                    .update_container_resources(within(self.limit, body))
                    .await,
            )
            .map(drop)
        }
        .boxed()
    }

    fn containers<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Container>> {
        async move {
            let filter = v1::ContainerFilter {
                label_selector: selector(label),
                ..Default::default()
            };
            let body = v1::ListContainersRequest {
                filter: Some(filter),
            };
            let mut client = self.runtime.clone();
            let found = answer(client.list_containers(within(self.limit, body)).await)?;
            Ok(found
                .containers
                .into_iter()
                .map(convert::container)
                .collect())
        }
        .boxed()
    }

    fn container<'a>(&'a self, id: &'a str) -> Call<'a, ContainerStatus> {
        async move {
            let body = v1::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let mut client = self.runtime.clone();
            let found = answer(client.container_status(within(self.limit, body)).await)?.status;
            let found = found.ok_or_else(|| incomplete("ContainerStatus"))?;
            Ok(convert::container_status(found))
        }
        .boxed()
    }

    fn reopen_log<'a>(&'a self, id: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::ReopenContainerLogRequest {
                container_id: id.to_owned(),
            };
            let mut client = self.runtime.clone();
            answer(client.reopen_container_log(within(self.limit, body)).await).map(drop)
        }
        .boxed()
    }

    fn checkpoint<'a>(&'a self, id: &'a str, archive: &'a Path, limit: Limit) -> Call<'a, ()> {
        async move {
            let seconds = limit.map_or(0, |limit| limit.as_secs());
            let body = v1::CheckpointContainerRequest {
                container_id: id.to_owned(),
                location: archive.to_string_lossy().into_owned(),
                timeout: i64::try_from(seconds).unwrap_or(0),
            };
            let wait = limit.map_or(self.limit, |limit| limit.saturating_add(self.limit));
            let mut client = self.runtime.clone();
            answer(client.checkpoint_container(within(wait, body)).await).map(drop)
        }
        .boxed()
    }

    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], limit: Limit) -> Call<'a, Ran> {
        async move {
            let seconds = limit.map_or(0, |limit| limit.as_secs());
            let body = v1::ExecSyncRequest {
                container_id: id.to_owned(),
                cmd: command.to_vec(),
                timeout: i64::try_from(seconds).unwrap_or(0),
            };
            let wait = limit.map_or(COMMAND, |limit| limit.saturating_add(self.limit));
            let ran = answer(self.runtime.clone().exec_sync(within(wait, body)).await)?;
            Ok(Ran {
                exit_code: ran.exit_code,
                stdout: ran.stdout,
                stderr: ran.stderr,
            })
        }
        .boxed()
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        streams: &'a Streams,
    ) -> Call<'a, String> {
        async move {
            let body = v1::ExecRequest {
                container_id: id.to_owned(),
                cmd: command.to_vec(),
                tty: streams.tty,
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
            };
            Ok(answer(self.runtime.clone().exec(within(self.limit, body)).await)?.url)
        }
        .boxed()
    }

    fn attach<'a>(&'a self, id: &'a str, streams: &'a Streams) -> Call<'a, String> {
        async move {
            let body = v1::AttachRequest {
                container_id: id.to_owned(),
                stdin: streams.stdin,
                tty: streams.tty,
                stdout: streams.stdout,
                stderr: streams.stderr,
            };
            Ok(answer(self.runtime.clone().attach(within(self.limit, body)).await)?.url)
        }
        .boxed()
    }

    fn image<'a>(&'a self, name: &'a str) -> Call<'a, Option<Image>> {
        async move {
            let body = v1::ImageStatusRequest {
                image: Some(image_spec(name)),
                verbose: false,
            };
            let found = answer(
                self.images
                    .clone()
                    .image_status(within(self.limit, body))
                    .await,
            )?;
            Ok(found.image.map(convert::image))
        }
        .boxed()
    }

    fn images(&self) -> Call<'_, Vec<Image>> {
        async {
            let body = v1::ListImagesRequest { filter: None };
            let found = answer(
                self.images
                    .clone()
                    .list_images(within(self.limit, body))
                    .await,
            )?;
            Ok(found.images.into_iter().map(convert::image).collect())
        }
        .boxed()
    }

    fn pull<'a>(
        &'a self,
        name: &'a str,
        credential: Option<&'a Credential>,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String> {
        async move {
            let body = v1::PullImageRequest {
                image: Some(image_spec(name)),
                auth: credential.map(convert::credential),
                sandbox_config: Some(convert::sandbox_config(sandbox)),
            };
            Ok(answer(self.images.clone().pull_image(within(PULL, body)).await)?.image_ref)
        }
        .boxed()
    }

    fn remove_image<'a>(&'a self, name: &'a str) -> Call<'a, ()> {
        async move {
            let body = v1::RemoveImageRequest {
                image: Some(image_spec(name)),
            };
            gone(self.images.clone().remove_image(within(self.limit, body)).await)?;
            if let Err(e) = image_mounts::sweep(&self.channel).await {
                tracing::debug!(error = %e, "views of images that are gone could not be looked for");
            }
            Ok(())
        }
        .boxed()
    }

    fn mount_image<'a>(&'a self, id: &'a str, dir: &'a Path) -> Call<'a, ()> {
        async move {
            let mounted = image_mounts::mount(&self.channel, id, dir);
            match tokio::time::timeout(UNPACK, mounted).await {
                Ok(done) => done.map_err(image_mounts::Error::into_failure),
                Err(_) => {
                    let text = format!("image {id} is not unpacked after {} s", UNPACK.as_secs());
                    Err(Error::new(ErrorKind::Timeout, text))
                }
            }
        }
        .boxed()
    }

    fn image_fs(&self) -> Call<'_, RuntimeFs> {
        async {
            let body = v1::ImageFsInfoRequest {};
            let found = answer(
                self.images
                    .clone()
                    .image_fs_info(within(self.limit, body))
                    .await,
            )?;
            let images = found.image_filesystems.into_iter();
            let layers = found.container_filesystems.into_iter();
            Ok(RuntimeFs {
                images: images.map(convert::image_fs).collect(),
                layers: layers.map(convert::image_fs).collect(),
            })
        }
        .boxed()
    }

    fn layers(&self) -> Call<'_, Vec<LayerUse>> {
        async {
            let body = v1::ListContainerStatsRequest::default();
            let mut client = self.runtime.clone();
            let found = answer(client.list_container_stats(within(self.limit, body)).await)?;
            Ok(found.stats.into_iter().filter_map(convert::layer).collect())
        }
        .boxed()
    }

    fn events(&self) -> Call<'_, BoxStream<'static, Event>> {
        async {
            let stream = events::subscribe(self.channel.clone()).await;
            Ok(stream.map_err(|status| failed(&status))?.boxed())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_that_nobody_expects_is_a_failure_in_the_runtimes_words() {
        for number in -1..40 {
            let status = tonic::Status::new(tonic::Code::from_i32(number), "words");
            let error = failed(&status);
            let wanted = match number {
                5 => ErrorKind::NotFound,
                1 | 4 => ErrorKind::Timeout,
                14 => ErrorKind::Unavailable,
                _ => ErrorKind::Other,
            };
            assert_eq!((error.kind, error.message.as_str()), (wanted, "words"));
        }
        let full = tonic::Status::resource_exhausted("message larger than max");
        let text = "rpc error: code = ResourceExhausted desc = message larger than max";
        assert_eq!(failed(&full).text, text);
        assert!(gone::<()>(Err(full)).is_err(), "it is not gone");
    }

    #[test]
    fn a_time_of_any_length_can_be_asked_for() {
        for limit in [Duration::ZERO, Duration::MAX] {
            let request = within(limit, ());
            assert!(request.metadata().contains_key("grpc-timeout"), "{limit:?}");
        }
    }
}
