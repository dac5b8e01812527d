//! A client and the command behind another connection, joined.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::Client;
use super::outcome::Outcome;
use super::server::Server;
use crate::stream::idle::Activity;
use crate::stream::{BoxRead, BoxWrite, CHUNK_BYTES};

/// Why a bridge has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command has.
    Command,
    /// The client is gone, and the command was not over.
    ClientGone,
    /// Nothing flowed for as long as may be, and the command was not over.
    Idle,
}

/// Connects a client to the command behind another connection, until the command has ended,
/// the client is gone, or nothing has flowed for so long.
pub async fn bridge(mut server: Server, mut client: Client, idle: Option<Duration>) -> Ended {
    let gone = server.end_token();
    let activity = Activity::default();
    let input = {
        let stdin = pump(server.stdin.take(), client.stdin.take(), &activity);
        let resize = pump(server.resize.take(), client.resize.take(), &activity);
        async {
            tokio::join!(stdin, resize);
            std::future::pending::<()>().await;
        }
    };
    let output = {
        let stdout = pump_to(client.stdout.take(), server.stdout.as_mut(), &activity);
        let stderr = pump_to(client.stderr.take(), server.stderr.as_mut(), &activity);
        let status = client.status();
        async { tokio::join!(stdout, stderr, status).2 }
    };
    let (ended, status) = tokio::select! {
        biased;
        status = output => (Ended::Command, status),
        () = input => (Ended::ClientGone, Vec::new()),
        () = gone.cancelled() => (Ended::ClientGone, Vec::new()),
        () = activity.idle_for(idle) => (Ended::Idle, Vec::new()),
    };
    match (ended, status.as_slice()) {
        (Ended::ClientGone, _) => {}
        (Ended::Idle, _) => {
            let seconds = idle.unwrap_or_default().as_secs();
            let text = format!("the streams were idle for {seconds} s");
            server.finish(&Outcome::Error(text)).await;
        }
        (Ended::Command, []) => {
            let text = "the container runtime closed the connection";
            server.finish(&Outcome::Error(text.into())).await;
        }
        (Ended::Command, status) => server.finish_with(status).await,
    }
    ended
}

/// Copies to the end and half-closes. What the writer does not take any more is thrown away,
/// so that an unread stream does not stop the others of its connection.
async fn pump(from: Option<BoxRead>, mut to: Option<BoxWrite>, activity: &Activity) {
    pump_to(from, to.as_mut(), activity).await;
    if let Some(mut to) = to {
        let _ = to.shutdown().await;
    }
}

async fn pump_to(from: Option<BoxRead>, mut to: Option<&mut BoxWrite>, activity: &Activity) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let n = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        activity.mark();
        let part = buffer.get(..n).unwrap_or_default();
        if let Some(writer) = to.as_mut()
            && writer.write_all(part).await.is_err()
        {
            to = None;
        }
    }
}
