//! Calls of CRI v1 with their time limits. One method per call, no decisions.

use super::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use super::{MAX_MESSAGE_BYTES, channel};
use std::collections::HashMap;
use std::time::Duration;
use tonic::transport::Channel;

/// Upstream's runtime request timeout: what a call that does not wait for a program may take.
const CALL: Duration = Duration::from_secs(120);
/// Making a sandbox may wait for the network plugin; upstream gives it twice as long.
const SANDBOX: Duration = Duration::from_secs(240);
/// The largest image pull that is waited for; after it the back-off takes over.
const PULL: Duration = Duration::from_secs(30 * 60);

/// A call to the runtime that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The runtime answered with an error or could not be reached.
    #[error("{}", text(.0))]
    Call(tonic::Status),
    /// The runtime left out a part that the call promises.
    #[error("the runtime's answer to {0} is incomplete")]
    Incomplete(&'static str),
}

fn text(status: &tonic::Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}

impl Error {
    /// The runtime does not know the thing that was named.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call(s) if s.code() == tonic::Code::NotFound)
    }
    /// The call ran out of time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Call(s) if matches!(s.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled))
    }
    /// The runtime cannot be reached at all.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Call(s) if s.code() == tonic::Code::Unavailable)
    }
    /// The runtime's own words, without the envelope.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Call(s) => s.message().to_owned(),
            Self::Incomplete(_) => self.to_string(),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status)
    }
}

/// What calls return.
pub type Result<T> = std::result::Result<T, Error>;

fn within<T>(limit: Duration, body: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(body);
    request.set_timeout(limit);
    request
}

/// A container runtime behind CRI v1. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $client:ident.$rpc:ident($limit:expr, $request:ty) -> $answer:ty;)*) => {
        $($(#[$doc])*
        pub async fn $name(&self, body: $request) -> Result<$answer> {
            Ok(self.$client.clone().$rpc(within($limit, body)).await?.into_inner())
        })*
    };
}

impl Runtime {
    /// A runtime at a unix socket. Nothing is connected yet.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        let channel = channel(endpoint);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
        }
    }

    /// The connection, for containerd's own services on the same socket.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    calls! {
        /// Name and versions of the runtime.
        version_of: runtime.version(CALL, v1::VersionRequest) -> v1::VersionResponse;
        /// Whether runtime and network are ready.
        status_of: runtime.status(CALL, v1::StatusRequest) -> v1::StatusResponse;
        /// Makes and starts a pod's sandbox, network included.
        run_sandbox_of: runtime.run_pod_sandbox(SANDBOX, v1::RunPodSandboxRequest) -> v1::RunPodSandboxResponse;
        /// Makes a container without starting it.
        create_container: runtime.create_container(CALL, v1::CreateContainerRequest) -> v1::CreateContainerResponse;
        /// Changes the cgroup limits of a container.
        update_resources: runtime.update_container_resources(CALL, v1::UpdateContainerResourcesRequest) -> v1::UpdateContainerResourcesResponse;
        /// A URL at which a command's streams are served.
        exec: runtime.exec(CALL, v1::ExecRequest) -> v1::ExecResponse;
        /// A URL at which a container's own streams are served.
        attach: runtime.attach(CALL, v1::AttachRequest) -> v1::AttachResponse;
        /// A URL at which connections into a sandbox are served.
        port_forward: runtime.port_forward(CALL, v1::PortForwardRequest) -> v1::PortForwardResponse;
        /// Statistics of containers.
        list_stats: runtime.list_container_stats(CALL, v1::ListContainerStatsRequest) -> v1::ListContainerStatsResponse;
        /// Usage of the file system that holds images.
        image_fs: images.image_fs_info(CALL, v1::ImageFsInfoRequest) -> v1::ImageFsInfoResponse;
        /// Fetches an image from its registry.
        pull: images.pull_image(PULL, v1::PullImageRequest) -> v1::PullImageResponse;
    }

    /// Name and versions of the runtime.
    pub async fn version(&self) -> Result<v1::VersionResponse> {
        self.version_of(v1::VersionRequest {
            version: "v1".into(),
        })
        .await
    }

    /// Whether runtime and network are ready.
    pub async fn status(&self) -> Result<v1::RuntimeStatus> {
        let answer = self.status_of(v1::StatusRequest { verbose: false }).await?;
        answer.status.ok_or(Error::Incomplete("Status"))
    }

    /// What the runtime can do beyond the least; runtimes that do not say can do none of it.
    pub async fn features(&self) -> Result<v1::RuntimeFeatures> {
        let answer = self.status_of(v1::StatusRequest { verbose: false }).await?;
        Ok(answer.features.unwrap_or_default())
    }

    /// Whether a handler of the runtime gives sandboxes a user namespace of their own.
    pub async fn has_user_namespaces(&self, handler: &str) -> Result<bool> {
        let answer = self.status_of(v1::StatusRequest { verbose: false }).await?;
        let mut handlers = answer.runtime_handlers.into_iter();
        let features = handlers
            .find(|h| h.name == handler)
            .and_then(|h| h.features);
        Ok(features.is_some_and(|f| f.user_namespaces))
    }

    /// Makes and starts a sandbox; its id.
    pub async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        Ok(self.run_sandbox_of(request).await?.pod_sandbox_id)
    }

    /// Ends everything in a sandbox and its network. A sandbox that is gone is fine.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let body = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        absent_is_fine(
            self.runtime
                .clone()
                .stop_pod_sandbox(within(CALL, body))
                .await,
        )
    }

    /// Forgets a sandbox and its containers. One that is gone is fine.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let body = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        absent_is_fine(
            self.runtime
                .clone()
                .remove_pod_sandbox(within(CALL, body))
                .await,
        )
    }

    /// One sandbox in full.
    pub async fn sandbox(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let body = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(within(CALL, body))
            .await?;
        answer
            .into_inner()
            .status
            .ok_or(Error::Incomplete("PodSandboxStatus"))
    }

    /// The first process of a sandbox, as the runtime's verbose status names it.
    pub async fn sandbox_pid(&self, id: &str) -> Result<Option<u32>> {
        let body = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let answer = self
            .runtime
            .clone()
            .pod_sandbox_status(within(CALL, body))
            .await?
            .into_inner();
        let info: Option<serde_json::Value> = answer
            .info
            .get("info")
            .and_then(|text| serde_json::from_str(text).ok());
        Ok(info
            .and_then(|v| v.get("pid")?.as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0))
    }

    /// Sandboxes whose labels include all of `labels`.
    pub async fn sandboxes(&self, labels: &[(&str, &str)]) -> Result<Vec<v1::PodSandbox>> {
        let filter = v1::PodSandboxFilter {
            label_selector: owned(labels),
            ..Default::default()
        };
        let body = v1::ListPodSandboxRequest {
            filter: Some(filter),
        };
        Ok(self
            .runtime
            .clone()
            .list_pod_sandbox(within(CALL, body))
            .await?
            .into_inner()
            .items)
    }

    /// Containers in any state whose labels include all of `labels`.
    pub async fn containers(&self, labels: &[(&str, &str)]) -> Result<Vec<v1::Container>> {
        let filter = v1::ContainerFilter {
            label_selector: owned(labels),
            ..Default::default()
        };
        let body = v1::ListContainersRequest {
            filter: Some(filter),
        };
        Ok(self
            .runtime
            .clone()
            .list_containers(within(CALL, body))
            .await?
            .into_inner()
            .containers)
    }

    /// One container in full.
    pub async fn container(&self, id: &str) -> Result<v1::ContainerStatus> {
        let body = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(within(CALL, body))
            .await?;
        answer
            .into_inner()
            .status
            .ok_or(Error::Incomplete("ContainerStatus"))
    }

    /// The first process of a container, as the runtime's verbose status names it.
    pub async fn container_pid(&self, id: &str) -> Result<Option<u32>> {
        let body = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let answer = self
            .runtime
            .clone()
            .container_status(within(CALL, body))
            .await?
            .into_inner();
        let info: Option<serde_json::Value> = answer
            .info
            .get("info")
            .and_then(|text| serde_json::from_str(text).ok());
        Ok(info
            .and_then(|v| v.get("pid")?.as_u64())
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0))
    }

    /// Starts a container that was made.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let body = v1::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .start_container(within(CALL, body))
            .await?;
        Ok(())
    }

    /// Asks a container to end and kills it after `grace_seconds`. Returns when it is down.
    pub async fn stop_container(&self, id: &str, grace_seconds: i64) -> Result<()> {
        let grace = u64::try_from(grace_seconds).unwrap_or(0);
        let body = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace_seconds.max(0),
        };
        let limit = CALL + Duration::from_secs(grace);
        absent_is_fine(
            self.runtime
                .clone()
                .stop_container(within(limit, body))
                .await,
        )
    }

    /// Forgets a container. One that is gone is fine.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let body = v1::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        absent_is_fine(
            self.runtime
                .clone()
                .remove_container(within(CALL, body))
                .await,
        )
    }

    /// Makes the runtime open a container's log file again, after it was moved away.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let body = v1::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        self.runtime
            .clone()
            .reopen_container_log(within(CALL, body))
            .await?;
        Ok(())
    }

    /// Runs a command in a container to its end. `limit` zero means none (then one hour).
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse> {
        let body = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(0),
        };
        let wait = if limit.is_zero() {
            Duration::from_secs(3600)
        } else {
            limit + CALL
        };
        Ok(self
            .runtime
            .clone()
            .exec_sync(within(wait, body))
            .await?
            .into_inner())
    }

    /// An image by name, id or digest; none if it is not here.
    pub async fn image(&self, name: &str) -> Result<Option<v1::Image>> {
        let body = v1::ImageStatusRequest {
            image: Some(image_spec(name)),
            verbose: false,
        };
        Ok(self
            .images
            .clone()
            .image_status(within(CALL, body))
            .await?
            .into_inner()
            .image)
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<v1::Image>> {
        let body = v1::ListImagesRequest { filter: None };
        Ok(self
            .images
            .clone()
            .list_images(within(CALL, body))
            .await?
            .into_inner()
            .images)
    }

    /// Forgets an image by name or id.
    pub async fn remove_image(&self, name: &str) -> Result<()> {
        let body = v1::RemoveImageRequest {
            image: Some(image_spec(name)),
        };
        absent_is_fine(self.images.clone().remove_image(within(CALL, body)).await)
    }
}

/// An image named in CRI's words.
#[must_use]
pub fn image_spec(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

fn owned(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

fn absent_is_fine<T>(answer: std::result::Result<tonic::Response<T>, tonic::Status>) -> Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
        Err(status) => Err(status.into()),
    }
}
