//! Watches: each is one etcd watch over the whole key space, so that every revision arrives, and
//! what lies outside the prefix shows as progress. No member's word on progress is needed, which
//! older versions give wrongly.
//!
//! It starts one revision before the wanted one and drops that: so etcd refuses it exactly when
//! the read of that revision is refused, and a deletion at the compacted revision is not missed.
//! When the stream breaks or lags it goes on at the next member, after the last complete
//! revision, for as long as it is read: a watch ends only with an error that a new list solves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use super::failure::{Failure, classify};
use super::inner::Inner;
use super::members::{Members, led};
use super::proto::watch_client::WatchClient;
use super::proto::watch_request::RequestUnion;
use super::proto::{self, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use super::read::ask;
use super::wire::{key_value, signed, unsigned};
use crate::contract::{
    Batch, Event, EventKind, KeyValue, Result, Revision, StoreError, WatchStream,
};

/// A member opens a watch from memory.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);
/// A revision that is known to exist and has not arrived after this: the member is cut off or
/// hangs. Shorter than an election, longer than a slow disk's pause.
const LAG: Duration = Duration::from_secs(2);
/// Pauses between tries, doubled from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// An open stream with the sender that keeps it open.
struct Open {
    stream: Streaming<WatchResponse>,
    _requests: mpsc::Sender<WatchRequest>,
}

async fn open(members: &Members, number: usize, from: Revision) -> Result<Open, Failure> {
    let member = members.known(number).await?;
    let (requests, receiver) = mpsc::channel(1);
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0").to_vec(),
        range_end: b"\0".to_vec(),
        start_revision: signed(from.max(1)),
        prev_kv: true,
        fragment: true,
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    requests
        .try_send(request)
        .map_err(|_| Failure::Open("the stream is closed".into()))?;
    let outgoing = futures::stream::unfold(receiver, |mut r| async { Some((r.recv().await?, r)) });
    let mut client = WatchClient::new(member.channel()).max_decoding_message_size(usize::MAX);
    let opened = async {
        let mut stream = client.watch(led(outgoing)).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, tonic::Status>((stream, first))
    };
    match timeout(OPEN_PATIENCE, opened).await {
        Ok(Ok((stream, Some(first)))) if first.created && !first.canceled => {
            members.accept(member, first.header.as_ref())?;
            Ok(Open {
                stream,
                _requests: requests,
            })
        }
        Ok(Ok((_, Some(first)))) if first.compact_revision > 0 => Err(Failure::Compacted),
        Ok(Ok((_, first))) => Err(Failure::Open(
            first.map_or_else(|| "the stream ended".into(), |first| first.cancel_reason),
        )),
        Ok(Err(status)) => Err(classify(&status, 0)),
        Err(_) => {
            members.hang_up(number);
            Err(Failure::Open(format!("{} is silent", member.name())))
        }
    }
}

/// The oldest readable revision: what etcd names when a watch asks for an older one.
pub async fn oldest(members: &Members) -> Option<Revision> {
    let mut opened = open(members, members.current(), 1).await.ok()?;
    let asked = async {
        loop {
            let message = opened.stream.message().await.ok()??;
            if message.compact_revision > 0 {
                return Some(unsigned(message.compact_revision));
            }
        }
    };
    timeout(OPEN_PATIENCE, asked).await.ok()?
}

/// Starts a watch, once a read of `after` has shown that it can be served.
pub async fn start(inner: Arc<Inner>, prefix: Bytes, after: Revision) -> Result<WatchStream> {
    check(&inner, after).await?;
    Ok(follow(inner, prefix, after).boxed())
}

async fn check(inner: &Inner, after: Revision) -> Result<()> {
    let request = RangeRequest {
        key: Bytes::from_static(b"\0"),
        revision: signed(after.max(1)),
        count_only: true,
        ..RangeRequest::default()
    };
    match ask(&inner.members, request).await {
        Ok(_) => Ok(()),
        Err(failure) => Err(inner.explain(failure, after).await),
    }
}

fn follow(
    inner: Arc<Inner>,
    prefix: Bytes,
    after: Revision,
) -> impl futures::Stream<Item = Result<Batch>> + Send {
    async_stream::stream! {
        let mut at = after;
        let mut number = inner.members.current();
        let mut pause = PAUSES.0;
        loop {
            let failure = match open(&inner.members, number, at).await {
                Err(failure) => failure,
                Ok(mut opened) => {
                    let mut gathered = Gathered::default();
                    loop {
                        match next(&inner.members, number, &mut opened, at).await {
                            Ok(message) => {
                                pause = PAUSES.0;
                                for batch in gathered.take(message, &prefix, at) {
                                    at = batch.revision;
                                    yield Ok(batch);
                                }
                            }
                            Err(failure) => break failure,
                        }
                    }
                }
            };
            if let Some(end) = ends(&inner, failure, at, number).await {
                yield Err(end);
                return;
            }
            number = number.wrapping_add(1);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Whether a failure ends the watch: when its next revision can no longer be had.
async fn ends(inner: &Inner, failure: Failure, at: Revision, number: usize) -> Option<StoreError> {
    let name = inner.members.at(number).name();
    match failure {
        Failure::Compacted => Some(inner.explain(Failure::Compacted, at).await),
        failure => {
            tracing::warn!(
                member = name,
                revision = at,
                "a watch goes on elsewhere: {failure:?}"
            );
            // An etcd that was set back would otherwise be followed in silence.
            match check(inner, at).await {
                Err(e @ (StoreError::Compacted { .. } | StoreError::Future { .. })) => Some(e),
                _ => None,
            }
        }
    }
}

/// The next message, unless the stream breaks or stays behind what is known to exist.
async fn next(
    members: &Members,
    number: usize,
    opened: &mut Open,
    at: Revision,
) -> Result<WatchResponse, Failure> {
    let mut seen = members.seen();
    let lag = async {
        // The sender lives as long as `members`.
        let _ = seen.wait_for(|seen| seen.revision > at).await;
        sleep(LAG).await;
    };
    let message = tokio::select! {
        biased;
        message = opened.stream.message() => message,
        () = lag => {
            members.hang_up(number);
            return Err(Failure::Open(format!("nothing after revision {at} arrives")));
        }
    };
    match message {
        Ok(Some(message)) if message.canceled && message.compact_revision > 0 => {
            Err(Failure::Compacted)
        }
        Ok(Some(message)) if message.canceled => Err(Failure::Open(message.cancel_reason)),
        Ok(Some(message)) => {
            members.accept(members.at(number), message.header.as_ref())?;
            Ok(message)
        }
        Ok(None) => Err(Failure::Open("the stream ended".into())),
        Err(status) => Err(classify(&status, 0)),
    }
}

/// Events whose revision is not known to be complete: a message may be a fragment.
#[derive(Default)]
struct Gathered {
    events: Vec<Event>,
}

impl Gathered {
    /// The batches that are complete with this message, after revision `at`: what concerns the
    /// prefix, and the last revision of what does not, as progress.
    fn take(&mut self, message: WatchResponse, prefix: &Bytes, at: Revision) -> Vec<Batch> {
        self.events
            .extend(message.events.into_iter().filter_map(event));
        let open_from = match self.events.last() {
            Some(last) if message.fragment => {
                let revision = last.kv.mod_revision;
                self.events
                    .partition_point(|e| e.kv.mod_revision < revision)
            }
            _ => self.events.len(),
        };
        let rest = self.events.split_off(open_from);
        let complete = std::mem::replace(&mut self.events, rest);
        batches(complete, prefix, at)
    }
}

fn batches(events: Vec<Event>, prefix: &Bytes, at: Revision) -> Vec<Batch> {
    let mut out: Vec<Batch> = Vec::new();
    for event in events.into_iter().filter(|e| e.kv.mod_revision > at) {
        let revision = event.kv.mod_revision;
        let is_ours = event.kv.key.starts_with(prefix);
        match out.last_mut() {
            Some(last) if last.revision == revision => {}
            // Progress that is overtaken needs not be shown.
            Some(last) if last.events.is_empty() => last.revision = revision,
            _ => out.push(Batch {
                revision,
                events: Vec::new(),
            }),
        }
        if let Some(last) = out.last_mut().filter(|_| is_ours) {
            last.events.push(event);
        }
    }
    out
}

fn event(event: proto::Event) -> Option<Event> {
    let is_delete = event.r#type() == proto::event::EventType::Delete;
    let kv = key_value(event.kv?);
    let prev = event.prev_kv.map(key_value);
    Some(if is_delete {
        Event {
            kind: EventKind::Delete,
            kv: KeyValue {
                value: Bytes::new(),
                create_revision: 0,
                version: 0,
                ..kv
            },
            prev,
        }
    } else {
        Event {
            kind: EventKind::Put,
            kv,
            prev,
        }
    })
}

impl Inner {
    /// An error with what its reader needs to know.
    pub async fn explain(&self, failure: Failure, asked: Revision) -> StoreError {
        match failure {
            Failure::Compacted => StoreError::Compacted {
                asked,
                oldest: oldest(&self.members).await.unwrap_or(asked + 1),
            },
            Failure::Future => match self.newest.revision(&self.members).await {
                Ok(current) => StoreError::Future { asked, current },
                Err(e) => e,
            },
            other => other.into_error(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: i64) -> proto::Event {
        proto::Event {
            r#type: 0,
            kv: Some(proto::KeyValue {
                key: key.into(),
                mod_revision: revision,
                ..proto::KeyValue::default()
            }),
            prev_kv: None,
        }
    }

    fn message(events: Vec<proto::Event>, fragment: bool) -> WatchResponse {
        WatchResponse {
            events,
            fragment,
            ..WatchResponse::default()
        }
    }

    fn shape(batches: &[Batch]) -> Vec<(Revision, usize)> {
        batches
            .iter()
            .map(|b| (b.revision, b.events.len()))
            .collect()
    }

    #[test]
    fn a_revision_is_one_batch_however_it_is_cut() {
        let prefix = Bytes::from_static(b"a");
        let mut gathered = Gathered::default();
        let first = message(vec![put("a1", 4), put("a1", 5), put("a2", 5)], true);
        assert_eq!(shape(&gathered.take(first, &prefix, 3)), [(4, 1)]);
        let second = message(vec![put("a3", 5), put("a1", 6)], true);
        assert_eq!(shape(&gathered.take(second, &prefix, 4)), [(5, 3)]);
        let third = message(vec![put("a1", 7)], false);
        assert_eq!(shape(&gathered.take(third, &prefix, 5)), [(6, 1), (7, 1)]);
    }

    #[test]
    fn what_is_outside_shows_as_progress_and_what_is_known_is_dropped() {
        let prefix = Bytes::from_static(b"a");
        let events = vec![
            put("a", 3),
            put("b", 4),
            put("b", 5),
            put("a", 5),
            put("b", 6),
            put("b", 7),
        ];
        let got = Gathered::default().take(message(events, false), &prefix, 3);
        assert_eq!(shape(&got), [(5, 1), (7, 0)]);
    }
}
