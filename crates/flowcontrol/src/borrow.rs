//! How seats are divided among priority levels that want more or less than they have: each gets the
//! same part of what it wants, within its own bounds.

/// What a level wants, and its bounds, in seats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Want {
    pub target: f64,
    pub least: f64,
    pub most: f64,
}

/// A target is taken for at least so much, so that a level that wants nothing has a part as well.
const LEAST_TARGET: f64 = 0.001;

/// Divides `sum` seats: gives the seats of each level, in order, and the part of its target that a
/// level has which its bounds leave alone. `None` when the bounds do not allow that sum.
///
/// The part is the one `p` for which the bounded targets sum up right. Their sum grows with `p`,
/// linearly between the points at which a bound begins or ends to hold; so it is looked for between
/// two such points.
pub fn divide(sum: f64, wants: &[Want]) -> Option<(Vec<f64>, f64)> {
    const SLACK: f64 = 1e-7;
    let target = |w: &Want| w.target.max(LEAST_TARGET);
    let seats = |w: &Want, part: f64| (part * target(w)).clamp(w.least, w.most);
    let valid = |w: &Want| 0.0 <= w.least && w.least <= w.most && w.target.is_finite();
    if !wants.iter().all(valid) {
        return None;
    }
    let total = |part: f64| wants.iter().map(|w| seats(w, part)).sum::<f64>();
    let least: f64 = wants.iter().map(|w| w.least).sum();
    let most: f64 = wants.iter().map(|w| w.most).sum();
    if least - sum > SLACK || sum - most > SLACK {
        return None;
    }
    let bounds = wants
        .iter()
        .flat_map(|w| [w.least, w.most].map(|b| b / target(w)));
    let mut points: Vec<f64> = bounds.collect();
    points.sort_by(f64::total_cmp);
    let mut before = 0.0;
    for point in points {
        let (low, high) = (total(before), total(point));
        if high + SLACK >= sum {
            let part = if high > low && sum > low {
                before + (point - before) * ((sum - low) / (high - low)).min(1.0)
            } else {
                before
            };
            return Some((wants.iter().map(|w| seats(w, part)).collect(), part));
        }
        before = point;
    }
    Some((wants.iter().map(|w| seats(w, before)).collect(), before))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn want(target: f64, least: f64, most: f64) -> Want {
        Want {
            target,
            least,
            most,
        }
    }

    #[test]
    fn each_gets_the_same_part_within_its_bounds() {
        let (seats, part) =
            divide(100.0, &[want(10.0, 0.0, 600.0), want(30.0, 0.0, 600.0)]).expect("possible");
        assert_eq!((seats, part), (vec![25.0, 75.0], 2.5));
        let (seats, _) = divide(
            100.0,
            &[
                want(10.0, 40.0, 600.0),
                want(30.0, 0.0, 50.0),
                want(10.0, 0.0, 600.0),
            ],
        )
        .expect("possible");
        assert_eq!(seats.iter().sum::<f64>().round(), 100.0);
        assert_eq!(seats[0].max(40.0), seats[0]);
        assert!(seats[1] <= 50.0);
        assert_eq!(divide(10.0, &[want(1.0, 11.0, 12.0)]), None);
        assert_eq!(divide(13.0, &[want(1.0, 11.0, 12.0)]), None);
        assert_eq!(divide(0.0, &[]), Some((vec![], 0.0)));
    }

    proptest! {
        #[test]
        fn all_seats_are_given_and_no_bound_is_left(
            levels in proptest::collection::vec((0.0_f64..500.0, 0.0_f64..50.0, 0.0_f64..600.0), 1..12),
            at in 0.0_f64..1.0,
        ) {
            let wants: Vec<Want> = levels.iter().map(|(t, l, more)| want(t.max(*l), *l, l + more)).collect();
            let least: f64 = wants.iter().map(|w| w.least).sum();
            let most: f64 = wants.iter().map(|w| w.most).sum();
            let sum = least + (most - least) * at;
            let (seats, part) = divide(sum, &wants).expect("possible");
            let given: f64 = seats.iter().sum();
            prop_assert!((given - sum).abs() < 1e-4, "{given} of {sum}");
            for (s, w) in seats.iter().zip(&wants) {
                prop_assert!(w.least <= *s && *s <= w.most);
                let free = *s > w.least + 1e-6 && *s < w.most - 1e-6;
                prop_assert!(!free || (s - part * w.target.max(LEAST_TARGET)).abs() < 1e-6);
            }
        }
    }
}
