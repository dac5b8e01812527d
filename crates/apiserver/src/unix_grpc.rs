//! A gRPC service at a Unix socket of this machine. It is connected to when it is first asked, and
//! again when it went and came. What is asked, and what an answer means, is not known here.

#[cfg(test)]
pub mod testing;

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// A service.
#[derive(Clone, Debug)]
pub struct UnixGrpc {
    channel: Channel,
}

impl UnixGrpc {
    /// The service at a socket; a path that begins with a zero byte is an abstract one.
    pub fn new(socket: PathBuf) -> Self {
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                let socket = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(TokioIo::new(socket))
            }
        });
        Self {
            channel: Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect),
        }
    }

    /// Asks; `method` is the whole path (`/package.Service/Method`).
    ///
    /// # Errors
    /// What the service says, `Unavailable` where nobody is there, `DeadlineExceeded` where it takes
    /// longer than `within`.
    pub async fn call<Q, A>(
        &self,
        method: &'static str,
        request: Q,
        within: Duration,
    ) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::from_static(method);
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let call = async {
            let ready = client.ready().await;
            ready.map_err(|e| Status::unavailable(e.to_string()))?;
            let codec = tonic_prost::ProstCodec::default();
            let answer = client
                .unary(tonic::Request::new(request), path, codec)
                .await;
            Ok(answer?.into_inner())
        };
        let done = tokio::time::timeout(within, call).await;
        done.unwrap_or_else(|_| {
            let why = format!("no answer to {method} in time");
            Err(Status::deadline_exceeded(why))
        })
    }
}
