//! Commands over both transports, and between them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::client::{open_spdy, open_websocket};
use super::*;
use crate::stream::upgrade::UpgradeRequest;

const ALL: RequestedStreams = RequestedStreams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

fn spdy_wish() -> UpgradeRequest {
    UpgradeRequest::Spdy {
        protocols: Vec::new(),
    }
}
fn websocket_wish() -> UpgradeRequest {
    UpgradeRequest::WebSocket {
        key: String::new(),
        protocols: Vec::new(),
    }
}

async fn spdy_pair(protocol: &str, wanted: RequestedStreams) -> (Server, Client) {
    let (a, b) = duplex(5_000);
    let wish = spdy_wish();
    let (server, client) = tokio::join!(serve(a, &wish, protocol, wanted), open_spdy(b, wanted));
    (server.unwrap(), client.unwrap())
}

async fn websocket_pair(wanted: RequestedStreams) -> (Server, Client) {
    let (a, b) = duplex(5_000);
    let wish = websocket_wish();
    let (server, client) = tokio::join!(
        serve(a, &wish, "v5.channel.k8s.io", wanted),
        open_websocket(b, wanted)
    );
    (server.unwrap(), client)
}

/// A command like `cat`, which also says something on stderr and ends with 3.
async fn cat(mut server: Server) {
    let (mut stdin, mut stdout) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    server.stdout = Some(stdout);
    let stderr = server.stderr.as_mut().unwrap();
    stderr.write_all(b"done\n").await.unwrap();
    server.finish(&Outcome::Exit(3)).await;
}

async fn talk(mut client: Client, bytes: usize) {
    let sent: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    let (mut stdin, mut stdout) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut stderr = client.stderr.take().unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let input = async {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    };
    let status = {
        let (_, o, e, status) = tokio::join!(
            input,
            stdout.read_to_end(&mut out),
            stderr.read_to_end(&mut err),
            client.status()
        );
        o.unwrap();
        e.unwrap();
        status
    };
    assert!(out == sent);
    assert_eq!(err, b"done\n");
    assert_eq!(Outcome::read(&status), Outcome::Exit(3));
}

#[tokio::test]
async fn a_command_runs_over_both_transports() {
    for bytes in [0, 1, 300_000] {
        let (server, client) = spdy_pair("v4.channel.k8s.io", ALL).await;
        tokio::join!(cat(server), talk(client, bytes));
        let (server, client) = websocket_pair(ALL).await;
        tokio::join!(cat(server), talk(client, bytes));
    }
}

#[tokio::test]
async fn a_bridge_joins_the_transports() {
    let (front, client) = websocket_pair(ALL).await;
    let (command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
    let (_, ended, ()) = tokio::join!(
        cat(command),
        bridge(front, back, None),
        talk(client, 200_000)
    );
    assert_eq!(ended, Ended::Command);
}

#[tokio::test]
async fn a_bridge_ends_when_the_client_goes() {
    let (front, client) = websocket_pair(ALL).await;
    let (mut command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
    let bridging = tokio::spawn(bridge(front, back, None));
    drop(client);
    assert_eq!(bridging.await.unwrap(), Ended::ClientGone);
    let mut rest = Vec::new();
    let mut stdin = command.stdin.take().unwrap();
    stdin.read_to_end(&mut rest).await.unwrap();
    command.end_token().cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn a_bridge_ends_when_nothing_flows() {
    let limit = Duration::from_secs(60);
    let (front, mut client) = websocket_pair(ALL).await;
    let (mut command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
    let bridging = tokio::spawn(bridge(front, back, Some(limit)));
    let began = clock::Instant::now();
    // A word in the middle of the time puts the end off.
    tokio::time::sleep(limit / 2).await;
    client
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"x")
        .await
        .unwrap();
    let status = client.status().await;
    let said = "the streams were idle for 60 s";
    assert!(
        matches!(Outcome::read(&status), Outcome::Error(why) if why.ends_with(said)),
        "{}",
        String::from_utf8_lossy(&status)
    );
    assert_eq!(bridging.await.unwrap(), Ended::Idle);
    assert_eq!(began.elapsed().as_secs(), (limit + limit / 2).as_secs());
    let mut got = Vec::new();
    let mut stdin = command.stdin.take().unwrap();
    stdin.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"x");
}

#[tokio::test]
async fn the_runtimes_sudden_end_is_reported() {
    let (front, mut client) = spdy_pair("v4.channel.k8s.io", ALL).await;
    let (command, back) = spdy_pair("v4.channel.k8s.io", ALL).await;
    let bridging = tokio::spawn(bridge(front, back, None));
    drop(command);
    let status = client.status().await;
    assert!(matches!(Outcome::read(&status), Outcome::Error(_)));
    bridging.await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let tty = RequestedStreams {
        stdin: true,
        stdout: true,
        stderr: true,
        tty: true,
    };
    let tty = tty.checked().unwrap();
    assert!(!tty.stderr);
    for spdy in [true, false] {
        let (mut server, mut client) = if spdy {
            spdy_pair("v4.channel.k8s.io", tty).await
        } else {
            websocket_pair(tty).await
        };
        let size = br#"{"Width":80,"Height":25}"#;
        let mut resize = client.resize.take().unwrap();
        resize.write_all(size).await.unwrap();
        let mut got = vec![0; size.len()];
        server
            .resize
            .as_mut()
            .unwrap()
            .read_exact(&mut got)
            .await
            .unwrap();
        assert_eq!(got, size);
        server.finish(&Outcome::Success).await;
        assert_eq!(Outcome::read(&client.status().await), Outcome::Success);
    }
}

#[tokio::test]
async fn old_versions_get_text() {
    let (server, mut client) = spdy_pair("v2.channel.k8s.io", ALL).await;
    server
        .finish(&Outcome::Error("no such container".into()))
        .await;
    assert_eq!(
        client.status().await,
        b"Internal error occurred: no such container"
    );
}

#[test]
fn nothing_wanted_is_an_error() {
    assert!(RequestedStreams::default().checked().is_err());
}
