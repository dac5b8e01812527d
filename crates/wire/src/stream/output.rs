//! One stream of bytes from the server to a WebSocket client, such as a log: each message is a
//! piece of it, as it is or in base64. What the client says is read and thrown away, so that its
//! end is seen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::Io;
use super::upgrade::UpgradeRequest;
use super::websocket::{Role, open};

const BINARY: &str = "binary.k8s.io";
const BASE64_BINARY: &str = "base64.binary.k8s.io";
/// The subprotocols, as upstream.
pub const PROTOCOLS: &[&str] = &[BINARY, BASE64_BINARY];

/// The subprotocol to use: the client's first that is known; none named means binary.
#[must_use]
pub fn choose(wish: &UpgradeRequest) -> Option<String> {
    match wish {
        UpgradeRequest::WebSocket { protocols, .. } if protocols.is_empty() => Some(String::new()),
        UpgradeRequest::WebSocket { .. } => wish.choose(PROTOCOLS),
        UpgradeRequest::Spdy { .. } => None,
    }
}

/// Sends pieces over an upgraded connection until they end, or the client does.
pub async fn serve<I: Io, E>(
    io: I,
    protocol: &str,
    pieces: impl Stream<Item = Result<Bytes, E>> + Send,
) {
    let socket = open(io, Role::Server).await;
    let (mut sink, mut heard) = socket.split();
    let listening = async { while let Some(Ok(_)) = heard.next().await {} };
    let sending = async {
        let mut pieces = std::pin::pin!(pieces);
        while let Some(Ok(piece)) = pieces.next().await {
            let message = if protocol == BASE64_BINARY {
                Message::text(BASE64.encode(&piece))
            } else {
                Message::Binary(piece)
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // Its failure means that the client has gone.
        let _ = sink.close().await;
    };
    tokio::select! {
        () = listening => {}
        () = sending => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(protocol: &str) -> Vec<Message> {
        let (ours, theirs) = tokio::io::duplex(4096);
        let pieces: Vec<Result<Bytes, std::io::Error>> =
            vec![Ok("one\n".into()), Ok("two\n".into())];
        let protocol = protocol.to_owned();
        tokio::spawn(async move { serve(ours, &protocol, futures::stream::iter(pieces)).await });
        let mut client = open(theirs, Role::Client).await;
        let mut all = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            all.push(message);
        }
        all.retain(|m| !m.is_close());
        all
    }

    #[tokio::test]
    async fn pieces_are_messages_and_the_end_closes() {
        let binary = [Message::binary("one\n"), Message::binary("two\n")];
        assert_eq!(heard("").await, binary);
        assert_eq!(heard(BINARY).await, binary);
        let text = [Message::text("b25lCg=="), Message::text("dHdvCg==")];
        assert_eq!(heard(BASE64_BINARY).await, text);
    }

    #[test]
    fn a_client_chooses_or_gets_binary() {
        let wish = |protocols: &[&str]| UpgradeRequest::WebSocket {
            key: String::new(),
            protocols: protocols.iter().map(|p| (*p).to_owned()).collect(),
        };
        assert_eq!(choose(&wish(&[])).as_deref(), Some(""));
        assert_eq!(choose(&wish(&["x", BINARY])).as_deref(), Some(BINARY));
        assert_eq!(choose(&wish(&["v5.channel.k8s.io"])), None);
    }
}
