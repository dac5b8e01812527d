//! Plugins of nodes, written against the public protocols for the tests: they run within a node as
//! programs of their own, and may be killed and started again at will.

pub mod claimed;
pub mod folders;
pub mod listed;
pub mod troubled;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use host::plugins::registration::registration_server::{Registration, RegistrationServer};
use host::plugins::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Listens on a socket that replaces what an earlier life left there.
pub fn listen(socket: &Path) -> Result<UnixListenerStream> {
    let _ = std::fs::remove_file(socket);
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = UnixListener::bind(socket);
    let listener = listener.with_context(|| format!("listening on {}", socket.display()))?;
    Ok(UnixListenerStream::new(listener))
}

/// Tells the kubelet who the plugin is.
pub struct Introduction(pub PluginInfo);

#[tonic::async_trait]
impl Registration for Introduction {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        println!("registered: {} {}", status.plugin_registered, status.error);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Serves the introduction in the kubelet's folder for as long as the program runs.
pub async fn introduce(root: &Path, info: PluginInfo) -> Result<()> {
    let socket: PathBuf = root
        .join("plugins_registry")
        .join(format!("{}-reg.sock", info.name));
    let incoming = listen(&socket)?;
    let server = Server::builder().add_service(RegistrationServer::new(Introduction(info)));
    server.serve_with_incoming(incoming).await?;
    Ok(())
}
