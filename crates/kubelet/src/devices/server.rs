//! The kubelet's own socket, where device plugins register. It is made again by each kubelet, which
//! is how plugins learn that they have to register again.

use super::Devices;
use crate::metrics::COUNTS;
use host::plugins::devices::registration_server::{Registration, RegistrationServer};
use host::plugins::devices::{Empty, RegisterRequest};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// The socket's name.
const SOCKET: &str = "kubelet.sock";
/// The version that this kubelet speaks.
pub(super) const VERSION: &str = "v1beta1";
/// Between tries to listen: something is wrong with the folder.
const AGAIN: Duration = Duration::from_secs(10);

struct Door(Arc<Devices>);

#[tonic::async_trait]
impl Registration for Door {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let asked = request.into_inner();
        if asked.version != VERSION {
            return Err(Status::invalid_argument(format!(
                "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
                asked.version
            )));
        }
        if asked.endpoint.is_empty() || asked.endpoint.contains('/') {
            return Err(Status::invalid_argument(
                "the endpoint is not the name of a socket",
            ));
        }
        let socket = self.0.folder.join(&asked.endpoint);
        let options = asked.options.unwrap_or_default();
        let done = self.0.register(&asked.resource_name, &socket, options);
        done.map_err(Status::invalid_argument)?;
        COUNTS.device_plugin(&asked.resource_name);
        Ok(Response::new(Empty {}))
    }
}

/// Listens as long as the kubelet runs.
pub(super) async fn run(devices: Arc<Devices>) {
    loop {
        let listening = listen(&devices.folder);
        let outcome = match listening {
            Ok(incoming) => {
                let door = RegistrationServer::new(Door(devices.clone()));
                let server = Server::builder().add_service(door);
                let served = server.serve_with_incoming(incoming).await;
                served.map_err(|e| e.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        let folder = devices.folder.display();
        tracing::error!(%folder, ?outcome, "device plugins cannot register; trying again");
        tokio::time::sleep(AGAIN).await;
    }
}

fn listen(folder: &Path) -> io::Result<UnixListenerStream> {
    crate::volumes::error::private_folder(folder)?;
    // Upstream's kubelets remove all sockets here: plugins take it as the sign to begin again.
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(folder.join(SOCKET)).map(UnixListenerStream::new)
}
