//! How long a number had which values: its moments and its maximum over time, and a histogram of the
//! time that it spent at each height.

use std::time::Duration;

/// What a number was over some time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    pub seconds: f64,
    pub average: f64,
    pub deviation: f64,
    pub max: f64,
}

/// A number that changes, and its integrals.
#[derive(Clone, Debug, Default)]
pub struct Integral {
    last: Duration,
    value: f64,
    seconds: f64,
    sum: f64,
    squares: f64,
    max: f64,
}

impl Integral {
    pub fn new(now: Duration) -> Self {
        Self {
            last: now,
            ..Self::default()
        }
    }

    /// The number is `value` from now on.
    pub fn set(&mut self, now: Duration, value: f64) {
        self.advance(now);
        self.value = value;
        self.max = self.max.max(value);
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.seconds += passed;
        self.sum += passed * self.value;
        self.squares += passed * self.value * self.value;
    }

    /// What it was since the last call.
    pub fn take(&mut self, now: Duration) -> Observed {
        self.advance(now);
        let mut seen = Observed {
            seconds: self.seconds,
            max: self.max,
            ..Observed::default()
        };
        if self.seconds > 0.0 {
            seen.average = self.sum / self.seconds;
            let variance = self.squares / self.seconds - seen.average * seen.average;
            // Below zero only by rounding.
            seen.deviation = variance.max(0.0).sqrt();
        }
        (self.seconds, self.sum, self.squares) = (0.0, 0.0, 0.0);
        self.max = self.value;
        seen
    }
}

/// A histogram of the time that a number, as a part of another one, spent at each height. It counts
/// nanoseconds.
#[derive(Clone, Debug)]
pub struct TimedRatio {
    bounds: &'static [f64],
    /// Time at or below each bound and above the one before, and at last above all.
    nanos: Vec<u64>,
    sum: f64,
    last: Duration,
    value: f64,
    whole: f64,
}

impl TimedRatio {
    pub fn new(bounds: &'static [f64], now: Duration) -> Self {
        Self {
            bounds,
            nanos: vec![0; bounds.len() + 1],
            sum: 0.0,
            last: now,
            value: 0.0,
            whole: 1.0,
        }
    }

    /// The number is `value` from now on.
    pub fn set(&mut self, now: Duration, value: f64) {
        self.advance(now);
        self.value = value;
    }

    /// What the number is a part of is `whole` from now on.
    pub fn set_whole(&mut self, now: Duration, whole: f64) {
        self.advance(now);
        self.whole = whole;
    }

    fn advance(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.last).as_nanos();
        if passed == 0 {
            return;
        }
        self.last = now;
        let ratio = if self.whole > 0.0 {
            self.value / self.whole
        } else {
            0.0
        };
        let at = self.bounds.iter().take_while(|b| **b < ratio).count();
        if let Some(nanos) = self.nanos.get_mut(at) {
            *nanos = nanos.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        }
        self.sum += ratio * passed as f64;
    }

    /// Bounds with the nanoseconds at or below them, all nanoseconds, and the sum.
    pub fn read(&mut self, now: Duration) -> (Vec<(f64, u64)>, u64, f64) {
        self.advance(now);
        let mut below = 0_u64;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (bound, nanos) in self.bounds.iter().zip(&self.nanos) {
            below = below.saturating_add(*nanos);
            buckets.push((*bound, below));
        }
        let all = self.nanos.iter().fold(0_u64, |a, b| a.saturating_add(*b));
        (buckets, all, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_weighted_by_time() {
        let at = Duration::from_secs;
        let mut n = Integral::new(at(0));
        n.set(at(1), 4.0);
        n.set(at(2), 0.0);
        let seen = n.take(at(4));
        assert_eq!((seen.seconds, seen.average, seen.max), (4.0, 1.0, 4.0));
        assert!((seen.deviation - 3.0_f64.sqrt()).abs() < 1e-9);
        // The maximum begins with what it is.
        n.set(at(4), 2.0);
        n.take(at(5));
        assert_eq!(n.take(at(6)).max, 2.0);
        assert_eq!(n.take(at(6)).seconds, 0.0);
    }

    #[test]
    fn time_is_counted_by_height() {
        let at = Duration::from_nanos;
        let mut h = TimedRatio::new(&[0.0, 0.5, 1.0], at(0));
        h.set_whole(at(0), 10.0);
        h.set(at(5), 5.0);
        h.set(at(7), 20.0);
        let (buckets, all, sum) = h.read(at(10));
        assert_eq!(buckets, [(0.0, 5), (0.5, 7), (1.0, 7)]);
        assert_eq!((all, sum), (10, 7.0));
    }
}
