//! The lines of one log, as the server sends them.

use anyhow::{Context, Result};
use futures::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};
use terminal::logs::{Line, Source};

/// The longest piece of a line; longer ones come in several, since a container can write without
/// ever ending its line.
const LONGEST: u64 = 1 << 20;

/// What of a log is wanted.
#[derive(Clone, Default)]
pub struct LogOptions {
    pub tail: Option<i64>,
    pub since_seconds: Option<i64>,
    pub since: Option<jiff::Timestamp>,
    pub follow: bool,
    pub previous: bool,
}

/// A log that is being read.
pub struct Lines {
    reader: std::pin::Pin<Box<dyn AsyncBufRead + Send>>,
}

impl Lines {
    pub async fn open(client: &Client, source: &Source, wanted: &LogOptions) -> kube::Result<Self> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &source.namespace);
        let params = LogParams {
            container: Some(source.container.clone()),
            follow: wanted.follow,
            previous: wanted.previous,
            // The server takes one of them.
            since_seconds: wanted.since_seconds.filter(|_| wanted.since.is_none()),
            since_time: wanted.since,
            tail_lines: wanted.tail,
            // Always: by its time a line is known again.
            timestamps: true,
            ..LogParams::default()
        };
        let reader = pods.log_stream(&source.pod, &params).await?;
        Ok(Self {
            reader: Box::pin(reader),
        })
    }

    /// The next line; none at the end.
    pub async fn next(&mut self) -> Result<Option<Line>> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.reader).take(LONGEST);
        let read = limited.read_until(b'\n', &mut bytes).await;
        if read.context("reading a log")? == 0 {
            return Ok(None);
        }
        Ok(Some(Line::parse(&String::from_utf8_lossy(&bytes))))
    }
}
