//! The accept loop of servers of other protocols than HTTPS (DNS over TCP, pages of health): their
//! connections have rooms, too, so that one client cannot take the places of all others.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::connections::{Connections, Limits};

impl Limits {
    /// For a server whose clients show no credentials: so many connections at most. How long each
    /// may be silent is the server's own matter.
    pub const fn of_strangers(most: usize) -> Self {
        Self {
            unauthenticated: most,
            users: 0,
            system: 0,
            ..Self::MOST
        }
    }
}

/// Serves until dropped; the connections end with it, and when they lose their place.
pub async fn serve_streams<F>(
    connections: Connections,
    listener: TcpListener,
    handle: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let connection = connections.admit(from.ip());
                let work = handle(stream);
                tasks.spawn(async move {
                    tokio::select! {
                        () = work => {}
                        () = connection.evicted() => {}
                    }
                });
            }
            Err(e) => {
                // Out of descriptors or the like: wait until some are free.
                tracing::warn!("accepting a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers each byte with itself.
    async fn echo(mut stream: TcpStream) {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            if stream.write_all(&byte).await.is_err() {
                return;
            }
        }
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [7];
        stream.write_all(&byte).await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn a_full_room_admits_the_newcomer_and_ends_the_oldest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        let connections = Connections::new(Limits::of_strangers(3));
        let server = tokio::spawn(serve_streams(connections.clone(), listener, echo));
        let mut open = Vec::new();
        for _ in 0..5 {
            let mut stream = TcpStream::connect(address).await.expect("connection");
            assert!(answers(&mut stream).await, "a newcomer is served");
            open.push(stream);
        }
        assert_eq!(connections.counts(), [3, 0, 0]);
        let mut served = Vec::new();
        for stream in &mut open {
            served.push(answers(stream).await);
        }
        assert_eq!(served, [false, false, true, true, true]);
        server.abort();
    }
}
