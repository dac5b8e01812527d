//! The events of a list and a watch, as long as anybody wants them: a watch that breaks begins
//! again after a short wait.

use std::fmt::Debug;
use std::time::Duration;

use clock::Random;
use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Waits before a broken watch is tried again: from the first, doubled, up to the longest. A
/// server that restarts is back within a second; what depends on the watch should not lag behind
/// it by the half minute that is kube's default.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Each wait is up to half as long again, by chance: those that lost the same server do not all
/// come back in the same moment.
struct Waits(Duration, Random);

impl Iterator for Waits {
    type Item = Duration;
    fn next(&mut self) -> Option<Duration> {
        let next = (self.0 * 2).min(LONGEST_WAIT);
        let wait = std::mem::replace(&mut self.0, next);
        Some(wait.mul_f64(1.0 + self.1.fraction() / 2.0))
    }
}

impl Backoff for Waits {
    fn reset(&mut self) {
        self.0 = FIRST_WAIT;
    }
}

/// Failures in a row of which people hear: about six seconds of them. A server that restarts is
/// no reason.
const WARN_AFTER: u32 = 5;
/// Then every so many of them, which is once a minute or so.
const WARN_EVERY: u32 = 20;

/// All events of what `api` and `config` select; see [`crate::objects`] for what they amount to.
/// How long the waits are is drawn from `random`.
pub fn events<K>(random: Random, api: Api<K>, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let what = api.resource_url().to_owned();
    let mut failures = 0u32;
    let events = watcher(api, config).backoff(Waits(FIRST_WAIT, random));
    events.filter_map(move |event| {
        match &event {
            Ok(_) => failures = 0,
            Err(e) => {
                failures = failures.saturating_add(1);
                if failures % WARN_EVERY == WARN_AFTER {
                    tracing::warn!("watching {what} goes on failing: {e}");
                } else {
                    tracing::debug!("watching {what}: {e}; trying again");
                }
            }
        }
        std::future::ready(event.ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_longest_and_begin_again() {
        let mut waits = Waits(FIRST_WAIT, Random::seeded(1));
        let least = [200, 400, 800, 1_600, 3_000, 3_000];
        for least in least.map(Duration::from_millis) {
            let wait = waits.next().expect("endless");
            assert!(wait >= least && wait <= least + least / 2, "{wait:?}");
        }
        waits.reset();
        assert!(waits.next().expect("endless") <= FIRST_WAIT + FIRST_WAIT / 2);
    }
}
