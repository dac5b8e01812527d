//! Which of the times that a schedule names is to be run now, when some were missed: the last one.

use api::cron_schedule::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// More missed times than this are reported: mostly a clock is wrong.
const MANY: i64 = 100;
/// Times that are looked at after the estimated one at most.
const LOOKED_AT: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    None,
    Few,
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The last time that is not in the future.
    pub at: Option<Timestamp>,
    pub missed: Missed,
}

/// The schedule names times that are less than a second apart, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoTimes;

/// The last of the times after `since` that is not after `now`.
pub fn last(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    now: Timestamp,
) -> Result<Due, NoTimes> {
    let due = |at: Option<Timestamp>, missed: Missed| Ok(Due { at, missed });
    let first = schedule.next(since, zone).ok_or(NoTimes)?;
    if now < first {
        return due(None, Missed::None);
    }
    let Some(second) = schedule.next(first, zone) else {
        return due(Some(first), Missed::None);
    };
    if now < second {
        return due(Some(first), Missed::None);
    }
    let apart = second.as_second() - first.as_second();
    if apart < 1 {
        return Err(NoTimes);
    }
    // Estimated by the distance of the first two, then looked for from a little before.
    let number = (now.as_second() - first.as_second()) / apart + 1;
    let missed = if number > MANY {
        Missed::Many
    } else {
        Missed::Few
    };
    let back = SignedDuration::from_secs((number - 2).saturating_mul(apart));
    let mut at = first.checked_add(back).unwrap_or(first);
    let mut found = None;
    for _ in 0..LOOKED_AT {
        match schedule.next(at, zone).filter(|t| *t <= now) {
            Some(next) => (at, found) = (next, Some(next)),
            None => break,
        }
    }
    due(found, missed)
}
