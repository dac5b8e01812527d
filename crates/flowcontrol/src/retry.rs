//! When a client that was sent away is to come again: the more of a level's requests are sent away,
//! the later.

use std::collections::VecDeque;

/// Seconds that a client is to wait at most; as upstream.
const MOST: u64 = 32;

/// A level's refusals of late.
#[derive(Clone, Debug)]
pub struct RetryAfter {
    /// Refusals by second; none older than 2 × [`MOST`].
    history: VecDeque<(u64, u64)>,
    current: (u64, u64),
    seconds: u64,
    raised: u64,
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self {
            history: VecDeque::new(),
            current: (0, 0),
            seconds: 1,
            raised: 0,
        }
    }
}

impl RetryAfter {
    /// A request is refused in this second (since some moment); gives how many seconds its client
    /// is to wait.
    pub fn refuse(&mut self, second: u64) -> u64 {
        if self.current.0 == second {
            self.current.1 += 1;
            return self.seconds;
        }
        self.history.push_back(self.current);
        let oldest = second.saturating_sub((2 * self.seconds).min(MOST));
        while self.history.front().is_some_and(|(at, _)| *at < oldest) {
            self.history.pop_front();
        }
        self.current = (second, 1);
        self.adjust(second);
        self.seconds
    }

    /// Doubles the time, at most once in that time, when three requests a second were refused in
    /// it; shortens it when fewer than one was.
    fn adjust(&mut self, second: u64) {
        let since = second.saturating_sub(self.seconds);
        let lately = self.history.iter().filter(|(at, _)| *at >= since);
        let refused: u64 = lately.map(|(_, n)| n).sum();
        if second.saturating_sub(self.raised) >= self.seconds && refused >= 3 * self.seconds {
            self.seconds = (2 * self.seconds).min(MOST);
            self.raised = second;
        } else if refused < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_under_a_flood_and_falls_afterwards() {
        let mut retry = RetryAfter::default();
        let mut last = 0;
        for second in 1..200 {
            for _ in 0..50 {
                last = retry.refuse(second);
            }
        }
        assert_eq!(last, MOST);
        for second in 0..40 {
            last = retry.refuse(10_000 + 40 * second);
        }
        assert_eq!(last, 1);
        assert!(retry.history.len() < 70);
    }
}
