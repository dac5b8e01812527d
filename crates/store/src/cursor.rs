//! Watches of stores whose state is in this process: a cursor on the ring of recent batches.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clock::watch;
use futures::StreamExt;

use crate::contract::{Batch, Result, Revision, WatchStream};

/// What a cursor moves on.
pub trait Ring: Send + Sync + 'static {
    /// Batches after a revision that are still held.
    fn since(&self, after: Revision) -> Result<Vec<Arc<Batch>>>;
    /// After this time a look may show more although nobody wrote.
    fn look_again(&self) -> Option<Duration> {
        None
    }
}

/// Changes under `prefix` after `after`; `newest` says when there are more.
pub fn stream<R: Ring>(
    ring: Arc<R>,
    newest: watch::Receiver<Revision>,
    prefix: Bytes,
    after: Revision,
) -> WatchStream {
    let cursor = Cursor {
        ring,
        newest,
        prefix,
        after,
        ended: false,
    };
    futures::stream::unfold(cursor, Cursor::next)
        .flat_map(futures::stream::iter)
        .boxed()
}

/// The state of a watch: where it is, and whether it has ended.
struct Cursor<R> {
    ring: Arc<R>,
    newest: watch::Receiver<Revision>,
    prefix: Bytes,
    after: Revision,
    ended: bool,
}

impl<R: Ring> Cursor<R> {
    /// The next batches that concern the prefix.
    async fn next(mut self) -> Option<(Vec<Result<Batch>>, Self)> {
        while !self.ended {
            drop(self.newest.borrow_and_update());
            match self.ring.since(self.after) {
                Err(e) => {
                    self.ended = true;
                    return Some((vec![Err(e)], self));
                }
                Ok(found) => {
                    if let Some(last) = found.last() {
                        self.after = last.revision;
                        return Some((parts_of(&found, &self.prefix), self));
                    }
                    self.wait().await?;
                }
            }
        }
        None
    }

    /// Until there may be more; `None` when there never will.
    async fn wait(&mut self) -> Option<()> {
        let Some(time) = self.ring.look_again() else {
            return self.newest.changed().await.ok();
        };
        tokio::select! {
            biased;
            changed = self.newest.changed() => changed.ok(),
            () = tokio::time::sleep(time) => Some(()),
        }
    }
}

/// What concerns the prefix, and the newest revision as progress.
fn parts_of(batches: &[Arc<Batch>], prefix: &Bytes) -> Vec<Result<Batch>> {
    let mut parts: Vec<_> = batches.iter().filter_map(|b| part_of(b, prefix)).collect();
    let newest = batches.last().map(|b| b.revision);
    if let Some(revision) = newest.filter(|&r| parts.last().is_none_or(|p| p.revision < r)) {
        parts.push(Batch {
            revision,
            events: Vec::new(),
        });
    }
    parts.into_iter().map(Ok).collect()
}

fn part_of(batch: &Batch, prefix: &Bytes) -> Option<Batch> {
    let events: Vec<_> = batch
        .events
        .iter()
        .filter(|e| e.kv.key.starts_with(prefix))
        .cloned()
        .collect();
    (!events.is_empty()).then(|| Batch {
        revision: batch.revision,
        events,
    })
}
