//! What everything used lately, kept only while somebody asks for it.

use super::All;
use clock::Instant;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Between two samples while somebody asks; cAdvisor's.
pub const EVERY: Duration = Duration::from_secs(10);
/// For how long samples are taken after the last question. Then all of them are dropped.
pub const AFTER_THE_LAST: Duration = Duration::from_secs(120);
/// Samples that are kept: five minutes.
const MOST_SAMPLES: usize = 30;
/// Groups in all samples together: each takes about half a kilobyte, so that this is some 3 MB. A node
/// with many keeps fewer samples.
const MOST_GROUPS: usize = 6_000;

/// Samples, the oldest first.
#[derive(Debug, Default)]
pub struct History {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    samples: VecDeque<Arc<All>>,
    asked: Option<Instant>,
    is_sampling: bool,
}

impl History {
    /// Somebody asks. True: nobody takes samples yet, and who asks has to see to it.
    pub fn ask(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.asked = Some(Instant::now());
        !std::mem::replace(&mut inner.is_sampling, true)
    }

    /// Whether samples are still wanted. If not, there are none any more.
    pub fn goes_on(&self) -> bool {
        let mut inner = self.inner.lock();
        let wanted = inner.asked.is_some_and(|at| at.elapsed() < AFTER_THE_LAST);
        if !wanted {
            inner.samples = VecDeque::new();
            inner.is_sampling = false;
        }
        wanted
    }

    /// Keeps a sample.
    pub fn keep(&self, sample: Arc<All>) {
        let mut inner = self.inner.lock();
        inner.samples.push_back(sample);
        let groups = |all: &VecDeque<Arc<All>>| all.iter().map(|a| a.groups()).sum::<usize>();
        while inner.samples.len() > MOST_SAMPLES
            || (inner.samples.len() > 1 && groups(&inner.samples) > MOST_GROUPS)
        {
            inner.samples.pop_front();
        }
    }

    /// The last so many samples, the oldest first.
    pub fn last(&self, count: usize) -> Vec<Arc<All>> {
        let inner = self.inner.lock();
        let from = inner.samples.len().saturating_sub(count);
        inner.samples.iter().skip(from).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::OfPod;

    fn sample(pods: usize) -> Arc<All> {
        Arc::new(All {
            pods: (0..pods).map(|_| OfPod::default()).collect(),
            ..All::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn samples_end_some_time_after_the_last_question() {
        let history = History::default();
        assert!(!history.goes_on());
        assert!(history.ask() && !history.ask());
        history.keep(sample(1));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(history.goes_on());
        history.ask();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(history.goes_on());
        tokio::time::advance(Duration::from_secs(100)).await;
        assert!(!history.goes_on());
        assert!(history.last(9).is_empty());
        assert!(history.ask(), "the next one begins again");
    }

    #[test]
    fn what_is_kept_has_a_bound_in_samples_and_in_groups() {
        let history = History::default();
        (0..100).for_each(|_| history.keep(sample(1)));
        assert_eq!(history.last(1_000).len(), MOST_SAMPLES);
        (0..100).for_each(|_| history.keep(sample(1_000)));
        let kept = history.last(1_000);
        assert!(kept.iter().map(|a| a.groups()).sum::<usize>() <= MOST_GROUPS);
        assert!(!kept.is_empty());
    }
}
