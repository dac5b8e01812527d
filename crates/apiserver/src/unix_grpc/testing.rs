//! A gRPC service at a socket of its own, for tests of those that ask one.

use std::convert::Infallible;
use std::path::PathBuf;

use futures::future::BoxFuture;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::task::{JoinHandle, JoinSet};
use tonic::server::UnaryService;
use tonic::{Response, Status};

/// What a service answers.
pub type Answer = http::Response<tonic::body::Body>;

/// A service that runs until this is dropped, or it is ended.
pub struct Served {
    dir: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Served {
    pub fn path(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// Ends the service and all its connections; its socket goes.
    pub async fn end(mut self) {
        self.task.abort();
        let ended = (&mut self.task).await;
        assert!(ended.is_err_and(|e| e.is_cancelled()));
        std::fs::remove_file(self.path()).expect("the socket");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn socket(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("service.sock")
}

/// Serves; each request is given to `answer`, which distinguishes methods by the path.
pub fn serve<F, W>(answer: F) -> Served
where
    F: Fn(Request<Incoming>) -> W + Clone + Send + Sync + 'static,
    W: Future<Output = Answer> + Send + 'static,
{
    let dir = tempfile::tempdir().expect("dir");
    let listener = tokio::net::UnixListener::bind(socket(&dir)).expect("socket");
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let handle = hyper::service::service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            connections.spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // It ends with its client.
                let _ = builder.serve_connection(TokioIo::new(stream), handle).await;
            });
        }
    });
    Served { dir, task }
}

struct Method<F>(F);

impl<Q, A, F> UnaryService<Q> for Method<F>
where
    F: FnMut(Q) -> Result<A, Status>,
    A: Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let answer = self.0(request.into_inner()).map(Response::new);
        Box::pin(std::future::ready(answer))
    }
}

/// Answers a request by a function on messages.
pub async fn unary<Q, A, F>(request: Request<Incoming>, answer: F) -> Answer
where
    Q: Message + Default + Send + 'static,
    A: Message + Send + 'static,
    F: FnMut(Q) -> Result<A, Status>,
{
    let codec = tonic_prost::ProstCodec::<A, Q>::default();
    tonic::server::Grpc::new(codec)
        .unary(Method(answer), request)
        .await
}
