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

/// When to look next: at the time after the one that is due, or after `since` where none is.
pub fn next_look(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let after = match last(schedule, zone, since, now) {
        Ok(Due { at: Some(at), .. }) => at,
        Ok(Due {
            missed: Missed::None,
            ..
        }) => since,
        _ => now,
    };
    // `since` is ahead of a clock that was set back; and the last time may be too far to be found.
    let times = [after, now].into_iter();
    let times = times.filter_map(|t| schedule.next(t, zone));
    times.filter(|t| *t > now).min()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A Thursday, 10:00, and so many seconds.
    fn at(seconds: i64) -> Timestamp {
        let top: Timestamp = "2016-05-19T10:00:00Z".parse().unwrap();
        top.checked_add(SignedDuration::from_secs(seconds)).unwrap()
    }

    const MINUTE: i64 = 60;
    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn the_last_time_that_was_missed_is_due() {
        let half = 30 * MINUTE;
        let (few, many) = (Missed::Few, Missed::Many);
        let often = "30 6-16/4 * * 1-5";
        for (text, since, now, due, missed) in [
            ("0 * * * *", 0, 30, None, Missed::None),
            ("0 * * * *", 0, 61 * MINUTE, Some(60 * MINUTE), Missed::None),
            ("0 * * * *", 10, 301 * MINUTE, Some(300 * MINUTE), few),
            ("0 * * * *", -HOUR, 10 * DAY, Some(10 * DAY), many),
            ("*/5 * * * *", half, 31 * MINUTE, None, Missed::None),
            (often, half, DAY + half + MINUTE, Some(DAY + half), few),
            (often, 0, DAY + half + MINUTE, Some(DAY + half), few),
            (
                often,
                half,
                4 * DAY + half + MINUTE,
                Some(4 * DAY + half),
                few,
            ),
            // Estimated by an hour, which holds on no weekend.
            ("30 10,11,12 * * 1-5", half, 30 * HOUR + half, None, few),
            (
                "@every 1h",
                MINUTE,
                7 * DAY,
                Some(7 * DAY - 59 * MINUTE),
                many,
            ),
        ] {
            let schedule = Schedule::parse(text).unwrap();
            let found = last(&schedule, &TimeZone::UTC, at(since), at(now));
            let expected = Due {
                at: due.map(at),
                missed,
            };
            assert_eq!(found, Ok(expected), "{text} {since} {now}");
        }
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        let found = last(&never, &TimeZone::UTC, at(10), at(HOUR));
        assert_eq!(found, Err(NoTimes));
    }

    #[test]
    fn the_next_look_follows_the_last_time() {
        let half = 30 * MINUTE;
        for (text, since, now, wait) in [
            (
                "30 6-16/4 * * 1-5",
                half,
                DAY + half + MINUTE,
                4 * HOUR - MINUTE,
            ),
            ("30 10,11,12 * * 1-5", half, 30 * HOUR + half, 66 * HOUR),
            (
                "0 12 * * 4",
                2 * HOUR,
                19 * DAY + HOUR + half,
                48 * HOUR + half,
            ),
            ("0 12 * * 5", 0, 6 * HOUR, 20 * HOUR),
            ("@every 1h", -MINUTE, 0, 59 * MINUTE),
            ("@every 1h", -HOUR - MINUTE, -MINUTE, HOUR),
            ("@every 1h", MINUTE, 7 * DAY, MINUTE),
            ("@every 3m", -MINUTE, -1, 2 * MINUTE + 1),
            // The clock was set back.
            ("0 * * * *", 5 * HOUR, MINUTE, 59 * MINUTE),
            ("@every 1h", 5 * HOUR, 0, HOUR),
        ] {
            let schedule = Schedule::parse(text).unwrap();
            let next = next_look(&schedule, &TimeZone::UTC, at(since), at(now));
            assert_eq!(next, Some(at(now + wait)), "{text} {since} {now}");
        }
    }
}
