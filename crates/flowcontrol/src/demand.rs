//! How many seats a priority level can use, smoothed: it follows a rise at once and a fall slowly.

use crate::timed::Observed;

/// How much of the old figure is kept in each period of [`crate::levels::PERIOD`]: half of it is
/// left after five minutes; as upstream.
const SMOOTHING: f64 = 0.977;

/// What a level could use in the last period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    pub average: f64,
    pub deviation: f64,
    /// The most seats at any moment.
    pub high: u32,
    pub smoothed: f64,
}

impl Demand {
    /// Takes in what was observed over a period.
    pub fn update(&mut self, seen: Observed) {
        self.high = seen.max.round().clamp(0.0, f64::from(u32::MAX)) as u32;
        if seen.seconds <= 0.0 {
            return;
        }
        (self.average, self.deviation) = (seen.average, seen.deviation);
        let envelope = seen.average + seen.deviation;
        let slow = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope;
        self.smoothed = envelope.max(slow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fall_takes_five_minutes_for_half() {
        let mut d = Demand::default();
        let seen = |average: f64| Observed {
            seconds: 10.0,
            average,
            deviation: 0.0,
            max: average,
        };
        d.update(seen(100.0));
        assert_eq!((d.smoothed, d.high), (100.0, 100));
        for _ in 0..30 {
            d.update(seen(0.0));
        }
        assert!((49.0..51.0).contains(&d.smoothed), "{}", d.smoothed);
        assert_eq!(d.high, 0);
    }
}
