//! Time and chance as arguments: the time of day and random numbers, as handles that whoever
//! starts a component passes in. In a cluster they are the machine's; in a simulation they are
//! virtual time and a seed, and everything above is then a function of that one number.
//!
//! Waiting and measuring need no handle: they are tokio's timers and [`Instant`], which stand
//! still and jump with a runtime whose clock is paused. So a minute of waiting costs nothing in a
//! test, and the time of day of [`Clock::virtual_from`] goes with it.
//!
//! Where tasks wait for one another the order of waking must not be left to chance either: see
//! [`watch`], and `select!` is written with `biased`.
//!
//! `clippy.toml` refuses every other source of either. Keys, certificates and salts are the
//! exception, named where they are made: a secret must not come from a seed.

#![forbid(unsafe_code)]

mod random;
pub mod watch;

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

pub use random::Random;
/// Monotonic time: only differences mean something. Virtual where the runtime's clock is paused.
pub use tokio::time::Instant;

/// The time of day.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: Wall,
    shift: Option<&'static Shift>,
}

/// By how much a clock is wrong: for tests of what clocks that are set do to a cluster. It outlives
/// all that read it, since clocks are copied everywhere.
#[derive(Debug, Default)]
pub struct Shift(AtomicI64);

impl Shift {
    /// One that is right at first.
    #[must_use]
    pub fn forever() -> &'static Self {
        Box::leak(Box::default())
    }

    /// The clock is so many seconds ahead; below zero: behind.
    pub fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
enum Wall {
    System,
    /// What it was, and when that was.
    Virtual(Timestamp, Instant),
    Read(fn() -> Timestamp),
}

impl Clock {
    /// The machine's clock. It may be set, also backwards. For the wiring: all others are given one.
    pub const fn system() -> Self {
        Self::of(Wall::System)
    }

    /// It is `start` now, and goes on with tokio's clock: in a runtime that is paused, by what
    /// tasks wait for alone.
    pub fn virtual_from(start: Timestamp) -> Self {
        Self::of(Wall::Virtual(start, Instant::now()))
    }

    /// It is what `read` says, for tests that set the time.
    pub const fn read_by(read: fn() -> Timestamp) -> Self {
        Self::of(Wall::Read(read))
    }

    const fn of(wall: Wall) -> Self {
        Self { wall, shift: None }
    }

    /// The same clock, as wrong as `shift` says at any time.
    #[must_use]
    pub const fn shifted(self, shift: &'static Shift) -> Self {
        Self {
            wall: self.wall,
            shift: Some(shift),
        }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        let seconds = self.shift.map_or(0, |s| s.0.load(Ordering::Relaxed));
        let right = self.right();
        let shifted = right.checked_add(SignedDuration::from_secs(seconds));
        shifted.unwrap_or(right)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the place from which everyone has the time of day"
    )]
    fn right(&self) -> Timestamp {
        match self.wall {
            Wall::System => Timestamp::now(),
            // Beyond the last time that there is, time stands still.
            Wall::Virtual(start, since) => {
                start.checked_add(since.elapsed()).unwrap_or(Timestamp::MAX)
            }
            Wall::Read(read) => read(),
        }
    }

    /// Whole seconds since the epoch.
    pub fn seconds(&self) -> i64 {
        self.now().as_second()
    }

    /// Milliseconds since the epoch.
    pub fn millis(&self) -> i64 {
        self.now().as_millisecond()
    }

    /// Now in whole seconds, as the API writes most times.
    pub fn now_in_seconds(&self) -> Timestamp {
        let now = self.now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

/// Finds out by how much a clock was set: beside monotonic time, which goes on evenly. A machine that
/// slept looks like one whose clock was set ahead.
#[derive(Clone, Copy, Debug)]
pub struct Jumps {
    wall: Timestamp,
    at: Instant,
}

impl Jumps {
    /// From now on; `now` is what the clock shows.
    #[must_use]
    pub fn from(now: Timestamp) -> Self {
        let at = Instant::now();
        Self { wall: now, at }
    }

    /// By how much the clock was set since it was asked last, if it shows `now`: below zero if back.
    /// What it is wrong by for having been asked a moment late does not add up.
    pub fn until(&mut self, now: Timestamp) -> SignedDuration {
        let at = Instant::now();
        let passed = at.duration_since(self.at);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        let jump = now.duration_since(self.wall).saturating_sub(passed);
        *self = Self { wall: now, at };
        jump
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn virtual_time_goes_by_waiting_alone() {
        let start = Timestamp::from_second(1_000_000_000).unwrap();
        let clock = Clock::virtual_from(start);
        assert_eq!(clock.now(), start);
        tokio::time::sleep(Duration::from_millis(90_500)).await;
        assert_eq!(clock.millis(), 1_000_000_090_500);
        assert_eq!(clock.seconds(), 1_000_000_090);
        assert_eq!(clock.now_in_seconds().as_millisecond(), 1_000_000_090_000);
    }

    #[test]
    fn a_clock_that_is_set_jumps() {
        let shift = Shift::forever();
        let clock = Clock::read_by(|| Timestamp::UNIX_EPOCH).shifted(shift);
        assert_eq!(clock.seconds(), 0);
        for seconds in [18_000, -18_000, 0] {
            shift.set(seconds);
            assert_eq!(clock.seconds(), seconds);
        }
        shift.set(i64::MAX);
        assert_eq!(clock.seconds(), 0, "there is no such time");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_clock_was_set_by_is_what_it_did_not_wait() {
        let shift = Shift::forever();
        let start = Timestamp::from_second(1_000_000_000).unwrap();
        let clock = Clock::virtual_from(start).shifted(shift);
        let mut jumps = Jumps::from(clock.now());
        for (set, jump) in [(0, 0), (3600, 3600), (3600, 0), (-60, -3660), (0, 60)] {
            tokio::time::sleep(Duration::from_secs(7)).await;
            shift.set(set);
            assert_eq!(jumps.until(clock.now()), SignedDuration::from_secs(jump));
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is what is tested")]
    #[tokio::test(start_paused = true)]
    async fn the_machines_clock_does_not_stand_still_with_tokios() {
        let (before, clock) = (Clock::system().now(), Clock::system());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(clock.now().duration_since(before).as_secs() < 3600);
        assert_eq!(Clock::read_by(|| Timestamp::MIN).now(), Timestamp::MIN);
    }
}
