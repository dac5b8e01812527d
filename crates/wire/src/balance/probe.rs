//! Looks after the servers' health by asking for `/readyz` over one kept connection each: a
//! process that hangs still has a kernel that accepts and acknowledges for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::Balancer;

/// Between looks at a server that is in use or was bad: with [`ANSWER`] it bounds how long one
/// that hangs is used.
const CLOSE_LOOK: Duration = Duration::from_secs(1);
/// Between looks at a server that is good and not in use. Servers close connections that are
/// idle for 10 s.
const FAR_LOOK: Duration = Duration::from_secs(5);
/// Time for an answer, which takes a server microseconds. The first one, which includes the TLS
/// handshake, has the same time.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest answer in bytes that is read.
const MOST_BYTES: usize = 16 << 10;

#[derive(Clone)]
struct Probe {
    balancer: Balancer,
    tls: TlsConnector,
    name: ServerName<'static>,
}

/// Keeps one task per server of the list while there is a choice between servers.
pub async fn run(
    balancer: Balancer,
    tls: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    stop: CancellationToken,
) {
    let probe = Probe {
        balancer: balancer.clone(),
        tls: tls.into(),
        name,
    };
    let mut tasks: HashMap<String, CancellationToken> = HashMap::new();
    loop {
        let changed = balancer.0.changed.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let wanted = {
            let servers = &balancer.0.state.lock().servers;
            if servers.has_choice() {
                servers.addresses()
            } else {
                Vec::new()
            }
        };
        tasks.retain(|address, end| {
            let keep = wanted.contains(address);
            if !keep {
                end.cancel();
            }
            keep
        });
        for address in wanted {
            tasks.entry(address.clone()).or_insert_with(|| {
                let end = stop.child_token();
                let (probe, until) = (probe.clone(), end.clone());
                tokio::spawn(async move {
                    tokio::select! { () = probe.watch(&address) => {}, () = until.cancelled() => {} }
                });
                end
            });
        }
        tokio::select! { () = stop.cancelled() => return, () = changed => {} }
    }
}

impl Probe {
    async fn watch(&self, address: &str) {
        let mut connection = None;
        loop {
            match tokio::time::timeout(ANSWER, self.look(address, &mut connection)).await {
                Ok(Ok(())) => self.balancer.answered(address),
                Ok(Err(why)) => {
                    connection = None;
                    self.balancer.failed(address, &why);
                }
                Err(_) => {
                    connection = None;
                    self.balancer.failed(address, &"it does not answer");
                }
            }
            self.pause(address).await;
        }
    }

    /// Waits for the next look, which comes sooner when the server is taken into use.
    async fn pause(&self, address: &str) {
        let close = || self.balancer.0.state.lock().servers.is_close(address);
        tokio::time::sleep(CLOSE_LOOK).await;
        let until = tokio::time::Instant::now() + (FAR_LOOK - CLOSE_LOOK);
        while !close() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.balancer.0.changed.notified() => {}
            }
        }
    }

    async fn look(
        &self,
        address: &str,
        connection: &mut Option<SendRequest<Empty<Bytes>>>,
    ) -> Result<(), String> {
        // A kept connection may have been closed just now, as idle ones are: only a new one's
        // failure counts.
        if let Some(kept) = connection.as_mut()
            && let Ok(status) = ask(address, kept).await
        {
            return judge(status);
        }
        let sender = connection.insert(self.open(address).await?);
        judge(ask(address, sender).await?)
    }

    async fn open(&self, address: &str) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = super::connect(address).await.map_err(|e| e.to_string())?;
        let stream = self
            .tls
            .connect(self.name.clone(), stream)
            .await
            .map_err(|e| e.to_string())?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        // Ends with the connection, which ends with its sender.
        tokio::spawn(driver);
        Ok(sender)
    }
}

async fn ask(address: &str, sender: &mut SendRequest<Empty<Bytes>>) -> Result<StatusCode, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let request = Request::get("/readyz")
        .header(http::header::HOST, address)
        .body(Empty::new())
        .map_err(|e| text(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
    let status = answer.status();
    // Read to its end, so that the connection can be used again.
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect();
    body.await.map_err(|e| text(&e))?;
    Ok(status)
}

/// A server that refuses us, or is busy, can still serve those whom it knows.
fn judge(status: StatusCode) -> Result<(), String> {
    if status.is_server_error() {
        return Err(format!("it is not ready ({status})"));
    }
    Ok(())
}
