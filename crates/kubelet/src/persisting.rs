//! Failures of what is tried again until it works. Of a short one, as each start of an API server is,
//! nobody need hear; one that lasts must not be silent, nor fill the log: it is said once.

use clock::Instant;
use std::time::Duration;

/// How long a failure lasts before it is said: longer than a server or a runtime takes to start again.
const LASTS: Duration = Duration::from_secs(15);

/// Something that may fail again and again.
#[derive(Debug, Default)]
pub struct Persisting {
    since: Option<Instant>,
    is_said: bool,
}

impl Persisting {
    /// It failed once more. True once in a row: when it has lasted, and is to be said.
    #[must_use]
    pub fn failed(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_due = !self.is_said && since.elapsed() >= LASTS;
        self.is_said |= is_due;
        is_due
    }

    /// It works.
    pub fn is_over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_said_once() {
        let mut failure = Persisting::default();
        let mut said = Vec::new();
        for second in 0..60 {
            if second == 30 {
                failure.is_over();
            }
            if failure.failed() {
                said.push(second);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(said, [15, 45]);
    }
}
