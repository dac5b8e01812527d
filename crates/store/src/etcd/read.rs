//! Reads: one key, pages at a revision, and the newest revision, which concurrent callers share.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::inner::Inner;
use super::members::{Members, led};
use super::proto::kv_client::KvClient;
use super::proto::{RangeRequest, RangeResponse};
use super::wire::{end_of, key_value, signed, unsigned};
use crate::contract::{KeyValue, RangePage, Result, Revision, StoreError};

/// Keys of the first request of a range, whose values' size is not known yet.
const FIRST_KEYS: usize = 128;
/// Most keys in one request: etcd holds its lock while it gathers them.
const MOST_KEYS: usize = 10_000;
/// Bytes that one answer should have: large enough to be quick, small enough for every buffer.
const PAGE_BYTES: usize = 2 << 20;

type Asker = oneshot::Sender<Result<Revision>>;

/// The reads that wait for the newest revision: one request answers all that came before it was
/// sent.
#[derive(Clone, Default)]
pub struct SharedRead {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    askers: Vec<Asker>,
    is_asking: bool,
}

impl SharedRead {
    /// The newest revision, by a linearizable read that is sent after this call. A task of its
    /// own asks, so that a caller that goes away takes nobody's answer with it.
    pub async fn revision(&self, members: &Arc<Members>) -> Result<Revision> {
        let (asker, answer) = oneshot::channel();
        let must_start = {
            let mut waiting = self.waiting.lock();
            waiting.askers.push(asker);
            !std::mem::replace(&mut waiting.is_asking, true)
        };
        if must_start {
            tokio::spawn(self.clone().serve(members.clone()));
        }
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the runtime ends".into())))
    }

    async fn serve(self, members: Arc<Members>) {
        loop {
            let askers = {
                let mut waiting = self.waiting.lock();
                if waiting.askers.is_empty() {
                    waiting.is_asking = false;
                    return;
                }
                std::mem::take(&mut waiting.askers)
            };
            let answer = newest(&members).await;
            for asker in askers {
                // A read that was cancelled needs no answer.
                let _ = asker.send(answer.clone());
            }
        }
    }
}

async fn newest(members: &Members) -> Result<Revision> {
    let request = RangeRequest {
        key: Bytes::from_static(b"\0"),
        count_only: true,
        ..RangeRequest::default()
    };
    let answer = ask(members, request).await.map_err(Failure::into_error)?;
    Ok(revision_of(&answer))
}

pub async fn ask(members: &Members, request: RangeRequest) -> Result<RangeResponse, Failure> {
    members
        .read(|channel| {
            let request = led(request.clone());
            async move {
                // The server bounds its messages; what it sends has to be taken.
                let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
                client.range(request).await
            }
        })
        .await
}

fn revision_of(answer: &RangeResponse) -> Revision {
    answer.header.as_ref().map_or(0, |h| unsigned(h.revision))
}

/// How many keys to ask for next, by the size of those before.
fn next_keys(last: usize, answer: &RangeResponse) -> usize {
    let bytes: usize = answer
        .kvs
        .iter()
        .map(|kv| kv.value.len() + kv.key.len())
        .sum();
    let each = bytes / answer.kvs.len().max(1) + 1;
    (PAGE_BYTES / each).clamp(1, (last * 8).min(MOST_KEYS))
}

impl Inner {
    pub async fn get(&self, key: Bytes, at: Revision) -> Result<Option<KeyValue>> {
        let request = RangeRequest {
            key,
            revision: signed(at),
            ..RangeRequest::default()
        };
        match ask(&self.members, request).await {
            Ok(answer) => Ok(answer.kvs.into_iter().next().map(key_value)),
            Err(failure) => Err(self.explain(failure, at).await),
        }
    }

    /// Reads in pages, so that a large range is never one giant message; all of them at the
    /// revision of the first.
    pub async fn range(
        &self,
        prefix: Bytes,
        start: Bytes,
        limit: usize,
        at: Revision,
    ) -> Result<RangePage> {
        let end = end_of(&prefix);
        let mut from = start.max(prefix);
        if from.is_empty() {
            from = Bytes::from_static(b"\0");
        }
        let mut page = RangePage {
            items: Vec::new(),
            more: false,
            remaining: 0,
            revision: at,
        };
        if end != Bytes::from_static(b"\0") && from >= end {
            // etcd takes such a range for a mistake; it is an empty one.
            page.revision = self.revision_at(at).await?;
            return Ok(page);
        }
        let mut keys = FIRST_KEYS;
        loop {
            let left = if limit == 0 {
                usize::MAX
            } else {
                limit - page.items.len()
            };
            let request = RangeRequest {
                key: from.clone(),
                range_end: end.clone(),
                limit: i64::try_from(keys.min(left)).unwrap_or(i64::MAX),
                revision: signed(page.revision),
                ..RangeRequest::default()
            };
            let answer = match ask(&self.members, request).await {
                Ok(answer) => answer,
                Err(failure) => return Err(self.explain(failure, page.revision).await),
            };
            if page.revision == 0 {
                page.revision = revision_of(&answer);
            }
            keys = next_keys(keys, &answer);
            page.more = answer.more;
            page.remaining = unsigned(answer.count).saturating_sub(answer.kvs.len() as u64);
            page.items.extend(answer.kvs.into_iter().map(key_value));
            let is_full = limit != 0 && page.items.len() >= limit;
            let Some(last) = page.items.last().filter(|_| page.more && !is_full) else {
                return Ok(page);
            };
            from = [&last.key[..], b"\0"].concat().into();
        }
    }

    /// A revision that can be read: the newest for 0.
    async fn revision_at(&self, at: Revision) -> Result<Revision> {
        if at == 0 {
            return self.newest.revision(&self.members).await;
        }
        self.get(Bytes::from_static(b"\0"), at).await.map(|_| at)
    }

    /// Shows every live key, without its value.
    pub async fn each_key(
        &self,
        note: &mut (dyn FnMut(&super::proto::KeyValue) + Send),
    ) -> Result<()> {
        let mut request = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            limit: i64::try_from(MOST_KEYS).unwrap_or(i64::MAX),
            keys_only: true,
            ..RangeRequest::default()
        };
        loop {
            let answer = match ask(&self.members, request.clone()).await {
                Ok(answer) => answer,
                Err(failure) => {
                    return Err(self.explain(failure, unsigned(request.revision)).await);
                }
            };
            answer.kvs.iter().for_each(&mut *note);
            let Some(last) = answer.kvs.last().filter(|_| answer.more) else {
                return Ok(());
            };
            request.revision = signed(revision_of(&answer)).max(request.revision);
            request.key = [&last.key[..], b"\0"].concat().into();
        }
    }
}
