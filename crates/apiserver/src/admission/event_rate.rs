//! EventRateLimit: how many events the server takes, in all, of a namespace, of a user, or of one
//! source about one object.

use std::collections::HashMap;

use api::Status;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use registry::Row;
use serde_json::Value;
use tokio::time::Instant;

use super::{Admit, Operation, Review, joined, text};
use crate::state::State;

/// Buckets of one limit that are kept when the configuration does not say; as upstream.
const KEPT: usize = 4096;

/// What shares one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

impl Shared {
    pub const NAMES: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];

    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "Server" => Self::Server,
            "Namespace" => Self::Namespace,
            "User" => Self::User,
            "SourceAndObject" => Self::SourceAndObject,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Namespace => "Namespace",
            Self::User => "User",
            Self::SourceAndObject => "SourceAndObject",
        }
    }

    fn key(self, review: &Review<'_>) -> String {
        let event = review.object.as_deref().unwrap_or(&Value::Null);
        match self {
            Self::Server => String::new(),
            Self::Namespace => review.namespace.to_owned(),
            Self::User => review.user.name.clone(),
            Self::SourceAndObject => [
                "/source/component",
                "/source/host",
                "/involvedObject/kind",
                "/involvedObject/namespace",
                "/involvedObject/name",
                "/involvedObject/uid",
                "/involvedObject/apiVersion",
            ]
            .map(|at| text(event, at))
            .concat(),
        }
    }
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub shared: Shared,
    /// Events that come back to a bucket in a second.
    pub per_second: u32,
    /// Events that a full bucket holds.
    pub burst: u32,
    /// Buckets that are kept; 0 for upstream's number.
    pub kept: usize,
}

pub struct EventRateLimit {
    limits: Vec<(Limit, Mutex<Buckets>)>,
}

impl EventRateLimit {
    pub fn new(limits: &[Limit]) -> Self {
        let limits = limits.iter().map(|l| (*l, Mutex::default()));
        Self {
            limits: limits.collect(),
        }
    }
}

impl Admit for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }
    fn handles(&self, operation: Operation, row: &Row, _: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && matches!(&*row.group, "" | "events.k8s.io")
            && &*row.resource == "events"
    }
    fn validate<'a>(
        &'a self,
        _: &'a State,
        review: &'a mut Review<'_>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(self.check(review)))
    }
}

impl EventRateLimit {
    fn check(&self, review: &Review<'_>) -> Result<(), Status> {
        if review.dry_run {
            return Ok(());
        }
        let (now, mut reached) = (Instant::now(), Vec::new());
        for (limit, buckets) in &self.limits {
            let key = limit.shared.key(review);
            if !buckets.lock().take(limit, &key, now) {
                let word = limit.shared.word();
                reached.push(format!("limit reached on type {word} for key {key}"));
            }
        }
        if reached.is_empty() {
            return Ok(());
        }
        // As upstream's error, which names no time to wait.
        Err(Status::too_many_requests(joined(reached), 0))
    }
}

#[derive(Default)]
struct Buckets {
    all: HashMap<String, Bucket>,
    /// Counts uses, so that the oldest buckets are known.
    uses: u64,
}

struct Bucket {
    events: f64,
    at: Instant,
    used: u64,
}

impl Buckets {
    fn take(&mut self, limit: &Limit, key: &str, now: Instant) -> bool {
        self.uses += 1;
        let most = if limit.kept == 0 { KEPT } else { limit.kept };
        if self.all.len() >= most && !self.all.contains_key(key) {
            self.drop_older_half();
        }
        let full = f64::from(limit.burst);
        let bucket = self.all.entry(key.to_owned()).or_insert(Bucket {
            events: full,
            at: now,
            used: 0,
        });
        let back = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.events = (bucket.events + back * f64::from(limit.per_second)).min(full);
        (bucket.at, bucket.used) = (now, self.uses);
        if bucket.events < 1.0 {
            return false;
        }
        bucket.events -= 1.0;
        true
    }

    /// Half at once, so that a flood of new keys costs each of them little.
    fn drop_older_half(&mut self) {
        let mut uses: Vec<u64> = self.all.values().map(|b| b.used).collect();
        let middle = uses.len() / 2;
        let (_, middle, _) = uses.select_nth_unstable(middle);
        let middle = *middle;
        self.all.retain(|_, bucket| bucket.used > middle);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_fills_again() {
        let limit = Limit {
            shared: Shared::User,
            per_second: 2,
            burst: 3,
            kept: 4,
        };
        let (mut buckets, now) = (Buckets::default(), Instant::now());
        let taken = (0..5).filter(|_| buckets.take(&limit, "a", now)).count();
        assert_eq!(taken, 3);
        assert!(buckets.take(&limit, "b", now), "another one's bucket");
        let later = now + Duration::from_millis(500);
        assert!(buckets.take(&limit, "a", later) && !buckets.take(&limit, "a", later));
        for n in 0..100 {
            buckets.take(&limit, &n.to_string(), later);
            assert!(buckets.all.len() <= 4);
        }
        assert!(buckets.all.contains_key("99"));
    }
}
