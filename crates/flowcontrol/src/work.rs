//! What a request costs, estimated before it runs: the seats that it takes while it runs, and those
//! that it takes afterwards while watchers are sent what it wrote.

use std::time::Duration;

use crate::levels::Limits;

/// Seats of a request, and for how long after its end it keeps some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub initial_seats: u32,
    /// Seats for [`Work::latency`] after its end. Its client does not wait for that.
    pub final_seats: u32,
    pub latency: Duration,
}

impl Work {
    /// One seat while it runs.
    pub const ONE: Self = Self::of(1);

    pub const fn of(seats: u32) -> Self {
        Self {
            initial_seats: seats,
            final_seats: 0,
            latency: Duration::ZERO,
        }
    }

    /// The seats that it takes from its start to its very end.
    pub fn seats(&self) -> u32 {
        self.initial_seats.max(self.final_seats)
    }

    /// Seats times seconds after its end.
    pub fn final_work(&self) -> f64 {
        f64::from(self.final_seats) * self.latency.as_secs_f64()
    }
}

/// Bytes of a list that cost a seat; as upstream.
const BYTES_PER_SEAT: u64 = 100_000;
/// Memory that a list takes at most at once, since it is sent in pieces; as upstream.
const LIST_MEMORY: u64 = 1_000_000;
/// Seats of a list at most, whatever its level has; as upstream.
const LIST_SEATS: u32 = 100;
/// Seats of a write at most, whatever its level has; as upstream.
const WRITE_SEATS: u32 = 10;
/// Watchers that cost a seat for [`EVENT`]; as upstream.
const WATCHERS_PER_SEAT: usize = 10;
const EVENT: Duration = Duration::from_millis(5);

/// Seats of one request of a level at most: 15 % of the level's own, and few enough that each queue
/// of a hand could have one; as upstream. `hand_size` is 0 for a level that does not queue.
pub fn most_seats(limits: &Limits, hand_size: u32) -> u32 {
    if hand_size == 0 {
        return LIST_SEATS;
    }
    let part = (f64::from(limits.nominal) * 0.15).ceil() as u32;
    part.min(limits.nominal / hand_size).max(1)
}

/// A list of so many objects (after its `limit`), which take so many bytes together.
pub fn list(objects: u64, bytes: u64, limit: Option<u64>, most: u32) -> Work {
    let bytes = match limit {
        Some(limit) if limit < objects && objects > 0 => {
            let part = u128::from(bytes) * u128::from(limit) / u128::from(objects);
            u64::try_from(part).unwrap_or(u64::MAX)
        }
        _ => bytes,
    };
    let seats = bytes.min(LIST_MEMORY).div_ceil(BYTES_PER_SEAT);
    let seats = u32::try_from(seats).unwrap_or(LIST_SEATS);
    Work::of(seats.min(most).clamp(1, LIST_SEATS))
}

/// A write that so many watchers are sent.
pub fn write(watchers: usize, most: u32) -> Work {
    if watchers < WATCHERS_PER_SEAT {
        return Work::ONE;
    }
    let wanted = u32::try_from(watchers.div_ceil(WATCHERS_PER_SEAT)).unwrap_or(u32::MAX);
    let seats = wanted.min(most).clamp(1, WRITE_SEATS);
    // The same work, in fewer seats for longer.
    let latency = EVENT.mul_f64(f64::from(wanted) / f64::from(seats));
    Work {
        initial_seats: 1,
        final_seats: seats,
        latency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_costs_by_its_bytes() {
        assert_eq!(list(0, 0, None, 10), Work::ONE);
        assert_eq!(list(100, 350_000, None, 10), Work::of(4));
        assert_eq!(list(10_000, 50_000_000, None, 100), Work::of(10));
        assert_eq!(list(10_000, 50_000_000, Some(50), 100), Work::of(3));
        assert_eq!(list(10_000, 50_000_000, None, 2), Work::of(2));
    }

    #[test]
    fn a_write_costs_by_its_watchers() {
        assert_eq!(write(9, 10), Work::ONE);
        let some = write(50, 10);
        assert_eq!(
            (some.final_seats, some.latency),
            (5, Duration::from_millis(5))
        );
        let many = write(1000, 10);
        assert_eq!(
            (many.final_seats, many.latency),
            (10, Duration::from_millis(50))
        );
        assert!((many.final_work() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn one_request_does_not_take_a_level() {
        let limits = |nominal| Limits {
            nominal,
            least: 0,
            most: 0,
        };
        assert_eq!(most_seats(&limits(245), 6), 37);
        assert_eq!(most_seats(&limits(49), 6), 8);
        assert_eq!(most_seats(&limits(3), 6), 1);
    }
}
