//! How many requests run at once. Reads and writes have places of their own; a request that
//! finds none waits in line for a while and is then answered 429. Watches and other streams, and
//! the masters, need no place.

use std::time::Duration;

use access::UserInfo;
use api::Status;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::authn::MASTERS;
use crate::http::request::RequestInfo;

/// As upstream's `--max-requests-inflight` and `--max-mutating-requests-inflight`.
pub const READS: usize = 400;
pub const WRITES: usize = 200;
/// A burst of a second or two is served late rather than refused; a request that waits longer than
/// this would only add to an overload.
const WAIT: Duration = Duration::from_secs(5);
const COME_BACK_SECONDS: u32 = 1;

/// The places.
pub struct Places {
    reads: Semaphore,
    writes: Semaphore,
    wait: Duration,
}

impl Places {
    pub fn new(reads: usize, writes: usize) -> Self {
        Self {
            reads: Semaphore::new(reads),
            writes: Semaphore::new(writes),
            wait: WAIT,
        }
    }

    /// Takes a place until the result is dropped; `None` for requests that need none.
    pub async fn take(
        &self,
        user: &UserInfo,
        info: &RequestInfo,
    ) -> Result<Option<SemaphorePermit<'_>>, Status> {
        if info.long_running() || user.is_in(MASTERS) {
            return Ok(None);
        }
        let places = match info.verb.as_str() {
            "get" | "list" | "head" | "options" => &self.reads,
            _ => &self.writes,
        };
        if let Ok(place) = places.try_acquire() {
            return Ok(Some(place));
        }
        match tokio::time::timeout(self.wait, places.acquire()).await {
            Ok(Ok(place)) => Ok(Some(place)),
            _ => Err(Status::too_many_requests(
                "Too many requests, please try again later.",
                COME_BACK_SECONDS,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            ..RequestInfo::default()
        }
    }

    #[tokio::test]
    async fn the_last_in_line_is_sent_away() {
        let mut places = Places::new(1, 1);
        places.wait = Duration::ZERO;
        let user = UserInfo::new("u", &[]);
        let first = places.take(&user, &info("get")).await;
        assert!(matches!(first, Ok(Some(_))));
        assert!(matches!(
            places.take(&user, &info("create")).await,
            Ok(Some(_))
        ));
        let refused = places.take(&user, &info("list")).await;
        assert!(refused.is_err_and(|s| s.code == 429));
        assert!(matches!(places.take(&user, &info("watch")).await, Ok(None)));
        let master = UserInfo::new("m", &[MASTERS]);
        assert!(matches!(places.take(&master, &info("get")).await, Ok(None)));
        drop(first);
        assert!(matches!(
            places.take(&user, &info("get")).await,
            Ok(Some(_))
        ));
    }
}
