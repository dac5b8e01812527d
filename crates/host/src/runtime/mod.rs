//! A container runtime: sandboxes, containers, images, events, statistics and streams, in words
//! of our own ([`types`]). [`crate::cri`] is one, over a socket; [`fake`] another, for tests. It
//! knows no Kubernetes object, and decides nothing.

pub mod fake;
pub mod types;

pub use types::*;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::path::Path;

/// A call to the runtime that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// All of it, with how it was asked.
    pub text: String,
    /// The runtime's own words.
    pub message: String,
}

/// What kind of failure a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The runtime does not know the thing that was named.
    NotFound,
    /// The call ran out of time.
    Timeout,
    /// The runtime cannot be reached at all.
    Unavailable,
    /// Anything else.
    Other,
}

impl Error {
    /// A failure in the runtime's own words.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            text: message.clone(),
            message,
        }
    }

    /// The runtime does not know the thing that was named.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }
    /// The call ran out of time.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.kind == ErrorKind::Timeout
    }
    /// The runtime's own words, without the envelope.
    #[must_use]
    pub fn message(&self) -> String {
        self.message.clone()
    }
}

/// What calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// A call that is under way.
pub type Call<'a, T> = BoxFuture<'a, Result<T>>;

/// A container runtime. Each call has its own bound in time; one that names something that is
/// gone, and asks for it to be gone, succeeds.
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Name and version.
    fn version(&self) -> Call<'_, Version>;
    /// How it is, and what it can do.
    fn health(&self) -> Call<'_, Health>;
    /// Who makes the control groups of its containers; none if it does not say.
    fn cgroup_driver(&self) -> Call<'_, Option<CgroupDriver>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Makes and starts a sandbox, network included, by one of the handlers; its id.
    fn run_sandbox<'a>(&'a self, spec: &'a SandboxSpec, handler: &'a str) -> Call<'a, String>;
    /// Ends everything in a sandbox and its network.
    fn stop_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()>;
    /// Forgets a sandbox and its containers.
    fn remove_sandbox<'a>(&'a self, id: &'a str) -> Call<'a, ()>;
    /// Sandboxes that have a label, or all.
    fn sandboxes<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Sandbox>>;
    /// The network of a sandbox.
    fn sandbox_network<'a>(&'a self, id: &'a str) -> Call<'a, SandboxNetwork>;
    /// The first process of a sandbox; none if the runtime does not say.
    fn sandbox_pid<'a>(&'a self, id: &'a str) -> Call<'a, Option<u32>>;

    /// Makes a container in a sandbox without starting it; its id.
    fn create_container<'a>(
        &'a self,
        sandbox_id: &'a str,
        spec: &'a ContainerSpec,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String>;
    /// Starts a container that was made.
    fn start_container<'a>(&'a self, id: &'a str) -> Call<'a, ()>;
    /// Asks a container to end and kills it after so many seconds. Returns when it is down.
    fn stop_container<'a>(&'a self, id: &'a str, grace_seconds: i64) -> Call<'a, ()>;
    /// Forgets a container.
    fn remove_container<'a>(&'a self, id: &'a str) -> Call<'a, ()>;
    /// Changes the limits of a container.
    fn update_resources<'a>(&'a self, id: &'a str, resources: &'a Resources) -> Call<'a, ()>;
    /// Containers in any state that have a label, or all.
    fn containers<'a>(&'a self, label: Option<(&'a str, &'a str)>) -> Call<'a, Vec<Container>>;
    /// A container in full.
    fn container<'a>(&'a self, id: &'a str) -> Call<'a, ContainerStatus>;
    /// Opens a container's log again, after it was moved away.
    fn reopen_log<'a>(&'a self, id: &'a str) -> Call<'a, ()>;

    /// Writes what a container's processes are and have into an archive; they go on.
    fn checkpoint<'a>(&'a self, id: &'a str, archive: &'a Path, limit: Limit) -> Call<'a, ()>;

    /// Runs a command in a container to its end.
    fn exec_sync<'a>(&'a self, id: &'a str, command: &'a [String], limit: Limit) -> Call<'a, Ran>;
    /// A URL at which a command's streams are served, once.
    fn exec<'a>(
        &'a self,
        id: &'a str,
        command: &'a [String],
        streams: &'a Streams,
    ) -> Call<'a, String>;
    /// A URL at which a container's own streams are served, once.
    fn attach<'a>(&'a self, id: &'a str, streams: &'a Streams) -> Call<'a, String>;

    /// An image by name, id or digest; none if it is not here.
    fn image<'a>(&'a self, name: &'a str) -> Call<'a, Option<Image>>;
    /// All images.
    fn images(&self) -> Call<'_, Vec<Image>>;
    /// Fetches an image from its registry; a name by which it is found.
    fn pull<'a>(
        &'a self,
        name: &'a str,
        credential: Option<&'a Credential>,
        sandbox: &'a SandboxSpec,
    ) -> Call<'a, String>;
    /// Shows the files of an image, by its id, read-only at a folder that exists. Where they are
    /// shown already, nothing changes.
    fn mount_image<'a>(&'a self, id: &'a str, dir: &'a Path) -> Call<'a, ()>;
    /// Forgets an image.
    fn remove_image<'a>(&'a self, name: &'a str) -> Call<'a, ()>;
    /// The file systems that hold images and layers.
    fn image_fs(&self) -> Call<'_, RuntimeFs>;

    /// What containers have written into their own layers.
    fn layers(&self) -> Call<'_, Vec<LayerUse>>;
    /// What happens from now on. Hints only: the stream ends when the connection does, and whoever
    /// reads it lists to be sure.
    fn events(&self) -> Call<'_, BoxStream<'static, Event>>;
}
