//! How the server's seats are divided among priority levels: what each has by its shares, between
//! which bounds lending and borrowing move it, and what it has at the moment.

use std::time::Duration;

use crate::borrow::{Want, divide};
use crate::config::Level;
use crate::demand::Demand;

/// How often seats are lent and given back; as upstream.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Seats of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// By its shares.
    pub nominal: u32,
    /// When it lends all that it lends.
    pub least: u32,
    /// When it borrows all that it may.
    pub most: u32,
}

impl Limits {
    /// What it begins with: half of what it lends is lent.
    pub fn initial(&self) -> u32 {
        self.nominal - (self.nominal - self.least) / 2
    }
}

/// What each level has of `total` seats, in order. They sum up to a little more, since each is
/// rounded up; as upstream.
pub fn limits<'a>(total: u32, levels: impl Iterator<Item = &'a Level> + Clone) -> Vec<Limits> {
    let shares: f64 = levels.clone().map(|l| f64::from(l.shares)).sum();
    let of = |l: &Level| {
        let nominal = if shares > 0.0 {
            (f64::from(total) * f64::from(l.shares) / shares).ceil() as u32
        } else {
            0
        };
        let percent = |p: u32| (f64::from(nominal) * f64::from(p) / 100.0).round() as u32;
        let lent = percent(l.lendable_percent).min(nominal);
        let borrowed = l.borrowing_limit_percent.map_or(total, percent);
        Limits {
            nominal,
            least: nominal - lent,
            most: nominal.saturating_add(borrowed),
        }
    };
    levels.map(of).collect()
}

/// A level when seats are divided again.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub limits: Limits,
    pub demand: Demand,
    pub is_exempt: bool,
}

impl State {
    /// What it is to have at least: what it used, up to its own; but never less than it keeps.
    fn needed(&self) -> u32 {
        if self.is_exempt {
            self.limits.least.max(self.demand.high)
        } else {
            let used = self.limits.nominal.min(self.demand.high);
            self.limits.least.max(used)
        }
    }

    /// What it wants.
    pub fn target(&self) -> f64 {
        self.demand.smoothed.max(f64::from(self.needed()))
    }
}

/// The seats that each level is to have now, in order, and the part of its target that an unbounded
/// level has.
pub fn adjust(all: &[State]) -> (Vec<u32>, f64) {
    let sum = |of: &dyn Fn(&State) -> u32, exempt: bool| -> u32 {
        let these = all.iter().filter(|s| s.is_exempt == exempt);
        these.fold(0_u32, |sum, s| sum.saturating_add(of(s)))
    };
    let nominal =
        sum(&|s| s.limits.nominal, false).saturating_add(sum(&|s| s.limits.nominal, true));
    // What exempt requests take is not there for others.
    let left = nominal.saturating_sub(sum(&State::needed, true));
    let (least, needed) = (sum(&|s| s.limits.least, false), sum(&State::needed, false));
    if left <= least {
        return (each(all, |s| s.limits.least), 0.0);
    }
    if left <= needed {
        let part = f64::from(left - least) / f64::from(needed - least);
        let more = |s: &State| (f64::from(s.needed() - s.limits.least) * part).round() as u32;
        return (each(all, |s| s.limits.least + more(s)), 0.0);
    }
    let wants: Vec<Want> = all
        .iter()
        .filter(|s| !s.is_exempt)
        .map(|s| Want {
            target: s.target(),
            least: f64::from(s.needed()),
            most: f64::from(s.limits.most),
        })
        .collect();
    // All seats, also those that exempt requests have at the moment; as upstream.
    let divided = divide(f64::from(nominal), &wants);
    let Some((seats, part)) = divided else {
        // All of them have what they may have, and some is left over.
        return (each(all, |s| s.limits.most.max(s.needed())), 0.0);
    };
    let mut seats = seats.into_iter();
    (
        each(all, |_| seats.next().unwrap_or(0.0).round() as u32),
        part,
    )
}

/// The seats of each: `others` of those that are not exempt.
fn each(all: &[State], mut others: impl FnMut(&State) -> u32) -> Vec<u32> {
    let one = |s: &State| if s.is_exempt { s.needed() } else { others(s) };
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::defaults;

    fn defaults_of(total: u32) -> Vec<(Level, Limits)> {
        let all = defaults::levels();
        let all: Vec<Level> = all
            .iter()
            .map(|o| Level::read(&o.value).expect("level"))
            .collect();
        let limits = limits(total, all.iter());
        all.into_iter().zip(limits).collect()
    }

    #[test]
    fn shares_become_seats_as_upstream_rounds_them() {
        let all = defaults_of(600);
        let of = |name: &str| {
            all.iter()
                .find(|(l, _)| l.name == name)
                .map(|(_, l)| *l)
                .expect(name)
        };
        let limits = |nominal, least, most| Limits {
            nominal,
            least,
            most,
        };
        assert_eq!(of("catch-all"), limits(13, 13, 613));
        assert_eq!(of("workload-low"), limits(245, 24, 845));
        assert_eq!(of("leader-election"), limits(25, 25, 625));
        assert_eq!(of("exempt"), limits(0, 0, 600));
        assert_eq!(of("workload-low").initial(), 135);
    }

    fn states(total: u32, demands: &[(u32, f64)]) -> Vec<State> {
        let all = defaults_of(total);
        let demands = demands.iter().chain(std::iter::repeat(&(0, 0.0)));
        all.iter()
            .zip(demands)
            .map(|((l, limits), (high, smoothed))| State {
                limits: *limits,
                demand: Demand {
                    high: *high,
                    smoothed: *smoothed,
                    ..Demand::default()
                },
                is_exempt: l.name == crate::EXEMPT,
            })
            .collect()
    }

    #[test]
    fn a_busy_level_borrows_and_gives_back() {
        let all = defaults_of(600);
        let at = all
            .iter()
            .position(|(l, _)| l.name == "workload-low")
            .expect("there");
        let mut demands = vec![(0, 0.0); all.len()];
        demands[at] = (600, 600.0);
        let (busy, _) = adjust(&states(600, &demands));
        assert!(busy[at] > all[at].1.nominal, "{}", busy[at]);
        // It goes quiet, another needs its own.
        let other = all
            .iter()
            .position(|(l, _)| l.name == "system")
            .expect("there");
        demands[at] = (0, 100.0);
        demands[other] = (70, 70.0);
        let (later, _) = adjust(&states(600, &demands));
        assert!(
            later[other] >= all[other].1.nominal.min(70),
            "{}",
            later[other]
        );
        assert!(later[at] < busy[at]);
    }

    proptest! {
        #[test]
        fn nobody_goes_below_what_he_keeps_and_all_together_stay_within_the_server(
            total in 30_u32..3000,
            demands in proptest::collection::vec((0_u32..1000, 0.0_f64..1000.0), 8),
        ) {
            let all = states(total, &demands);
            let (seats, _) = adjust(&all);
            let nominal: u32 = all.iter().map(|s| s.limits.nominal).sum();
            let mut given = 0;
            for (s, seats) in all.iter().zip(&seats) {
                if !s.is_exempt {
                    prop_assert!(*seats >= s.limits.least && *seats <= s.limits.most);
                    given += seats;
                }
            }
            let least: u32 = all.iter().filter(|s| !s.is_exempt).map(|s| s.limits.least).sum();
            // Rounding may give each half a seat more.
            let bound = nominal.max(least) + all.len() as u32 / 2 + 1;
            prop_assert!(given <= bound, "{given} of {bound}");
        }
    }
}
