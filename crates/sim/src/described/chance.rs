//! What a file leaves to chance: when events happen that come now and then, and how long something
//! takes. All of it is drawn from the file's seed.

use std::time::Duration;

use clock::Random;
use serde::Deserialize;

use super::form::Span;

/// A length of time that is drawn: exactly one of these.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Drawn {
    /// With this mean; most are shorter, a few much longer.
    pub exponential: Option<Span>,
    /// Any from the one to the other.
    pub uniform: Option<[Span; 2]>,
    /// Mean and standard deviation; never less than nothing.
    pub normal: Option<[Span; 2]>,
}

/// From above 0 up to 1: a logarithm of it is finite.
fn part(random: &Random) -> f64 {
    1.0 - random.fraction()
}

/// How long until the next of what happens once in `mean` on the average, whatever came before.
fn gap(mean: Duration, random: &Random) -> Duration {
    scaled(mean, -part(random).ln())
}

/// As long as can be, where it would be longer.
fn scaled(of: Duration, by: f64) -> Duration {
    Duration::try_from_secs_f64(of.as_secs_f64() * by).unwrap_or(Duration::MAX)
}

impl Drawn {
    /// Why it cannot be drawn.
    pub fn wrong(&self) -> Option<&'static str> {
        let kinds = [
            self.exponential.is_some(),
            self.uniform.is_some(),
            self.normal.is_some(),
        ];
        if kinds.iter().filter(|k| **k).count() != 1 {
            return Some("must have exactly one of exponential, uniform and normal");
        }
        let [from, to] = self.uniform.unwrap_or([Span(Duration::ZERO); 2]);
        (from > to).then_some("uniform: the first is longer than the second")
    }

    /// One length of time.
    pub fn draw(&self, random: &Random) -> Duration {
        if let Some(mean) = self.exponential {
            return gap(mean.0, random);
        }
        if let Some([from, to]) = self.uniform {
            return from.0 + scaled(to.0.saturating_sub(from.0), random.fraction());
        }
        let Some([mean, deviation]) = self.normal else {
            return Duration::ZERO;
        };
        // Two equal parts make one that is distributed normally (Box and Muller).
        let radius = (-2.0 * part(random).ln()).sqrt();
        let by = radius * (std::f64::consts::TAU * random.fraction()).cos();
        let away = scaled(deviation.0, by.abs());
        if by < 0.0 {
            mean.0.saturating_sub(away)
        } else {
            mean.0.saturating_add(away)
        }
    }
}

/// The moments from `from` to `until` at which something happens that does so this often an hour on
/// the average, one independent of the other; at most `most`.
pub fn moments(
    (from, until): (Duration, Duration),
    per_hour: f64,
    most: usize,
    random: &Random,
) -> Vec<Duration> {
    let mean = scaled(Duration::from_secs(3_600), 1.0 / per_hour);
    let mut at = from;
    let next = || {
        at = at.saturating_add(gap(mean, random));
        (at < until).then_some(at)
    };
    std::iter::from_fn(next).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(of: &Drawn) -> f64 {
        const DRAWN: u32 = 2_000;
        let random = Random::seeded(5);
        assert_eq!(of.wrong(), None);
        let all = (0..DRAWN).map(|_| of.draw(&random));
        all.sum::<Duration>().as_secs_f64() / f64::from(DRAWN)
    }

    #[test]
    fn what_is_drawn_has_its_mean() {
        let minutes = |n: u64| Span(Duration::from_secs(n * 60));
        let exponential = Drawn {
            exponential: Some(minutes(10)),
            ..Drawn::default()
        };
        let uniform = Drawn {
            uniform: Some([minutes(5), minutes(15)]),
            ..Drawn::default()
        };
        let normal = Drawn {
            normal: Some([minutes(10), minutes(2)]),
            ..Drawn::default()
        };
        for of in [exponential, uniform, normal] {
            let mean = mean(&of);
            assert!((mean - 600.0).abs() < 100.0, "{of:?}: {mean}");
        }
        let backwards = Drawn {
            uniform: Some([minutes(2), minutes(1)]),
            ..Drawn::default()
        };
        assert!(backwards.wrong().is_some());
        assert!(Drawn::default().wrong().is_some());
    }

    #[test]
    fn moments_come_as_often_as_they_should() {
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        let span = (hours(1), hours(11));
        let drawn = |seed| moments(span, 100.0, 10_000, &Random::seeded(seed));
        let all = drawn(1);
        assert!((800..1_200).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted());
        assert!(all.iter().all(|at| (span.0..span.1).contains(at)));
        assert_eq!(all, drawn(1));
        assert_ne!(all, drawn(2));
        assert_eq!(moments(span, 100.0, 7, &Random::seeded(1)).len(), 7);
        assert_eq!(moments(span, 0.0, 7, &Random::seeded(1)).len(), 0);
    }
}
