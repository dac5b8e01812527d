//! Parts of a device's capacity: what a request takes of it, and whether there is enough.

use std::collections::BTreeMap;

use api::Quantity;

use super::slices::{Capacity, Policy, Steps};

/// Amounts by the names of capacities.
pub type Amounts = BTreeMap<String, Quantity>;

/// What is taken of each capacity of a device, by a request that asks for these; none when it asks
/// for what the device does not have, or what it does not give out.
pub fn taken(asked: &Amounts, capacities: &BTreeMap<String, Capacity>) -> Option<Amounts> {
    if asked.keys().any(|name| !capacities.contains_key(name)) {
        return None;
    }
    let each = capacities.iter().map(|(name, capacity)| {
        let amount = part(asked.get(name).copied(), capacity);
        let good = allowed(amount, capacity.policy.as_ref());
        good.then(|| (name.clone(), amount))
    });
    each.collect()
}

/// Whether so much is left of each capacity.
pub fn fits(
    amounts: &Amounts,
    capacities: &BTreeMap<String, Capacity>,
    used: &[Option<&Amounts>],
) -> bool {
    amounts.iter().all(|(name, amount)| {
        let before = used.iter().flatten();
        let before = before.filter_map(|u| u.get(name)).copied();
        let sum: Quantity = before.chain([*amount]).sum();
        capacities.get(name).is_some_and(|c| sum <= c.value)
    })
}

fn part(asked: Option<Quantity>, capacity: &Capacity) -> Quantity {
    let policy = capacity.policy.as_ref();
    let Some(asked) = asked else {
        let default = policy.and_then(|p| p.default);
        return default.unwrap_or(capacity.value);
    };
    match policy {
        Some(Policy {
            range: Some(range), ..
        }) => stepped(asked, range),
        Some(policy) => {
            let mut enough = policy.values.iter().filter(|v| asked <= **v);
            enough.next().copied().unwrap_or(asked)
        }
        None => asked,
    }
}

/// The next amount that the range has; what is beyond its end is refused later.
fn stepped(asked: Quantity, range: &Steps) -> Quantity {
    if asked < range.least {
        return range.least;
    }
    let Some(step) = range.step.map(|s| s.value()).filter(|s| *s > 0) else {
        return asked;
    };
    let least = range.least.value();
    let over = asked.value().saturating_sub(least);
    let steps = over / step + i64::from(over % step != 0);
    Quantity::from_bytes(least.saturating_add(step.saturating_mul(steps)))
}

fn allowed(amount: Quantity, policy: Option<&Policy>) -> bool {
    let Some(policy) = policy else {
        return true;
    };
    if policy.default == Some(amount) {
        return true;
    }
    if let Some(range) = &policy.range {
        let in_step = range.step.map(|s| s.value()).filter(|s| *s > 0);
        let in_step =
            in_step.is_none_or(|s| amount.value().saturating_sub(range.least.value()) % s == 0);
        return range.most.is_none_or(|most| amount <= most) && in_step;
    }
    policy.values.is_empty() || policy.values.contains(&amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        text.parse().expect("a quantity")
    }

    #[test]
    fn requests_are_rounded_to_what_a_device_gives_out() {
        let range = |step: Option<&str>| Policy {
            default: Some(q("1Gi")),
            range: Some(Steps {
                least: q("2Gi"),
                most: Some(q("10Gi")),
                step: step.map(q),
            }),
            values: Vec::new(),
        };
        let values = Policy {
            default: Some(q("2")),
            range: None,
            values: vec![q("2"), q("4"), q("8")],
        };
        for (asked, policy, taken_of_it) in [
            (None, None, Some("40Gi")),
            (Some("3Gi"), None, Some("3Gi")),
            (None, Some(range(None)), Some("1Gi")),
            (Some("1Gi"), Some(range(None)), Some("2Gi")),
            (Some("3Gi"), Some(range(None)), Some("3Gi")),
            (Some("11Gi"), Some(range(None)), None),
            (Some("3Gi"), Some(range(Some("2Gi"))), Some("4Gi")),
            (Some("4Gi"), Some(range(Some("2Gi"))), Some("4Gi")),
            (Some("3"), Some(values.clone()), Some("4")),
            (Some("9"), Some(values.clone()), None),
            (None, Some(values), Some("2")),
        ] {
            let capacity = Capacity {
                value: q("40Gi"),
                policy,
            };
            let all = [("memory".to_owned(), capacity)].into();
            let asked: Amounts = asked
                .map(|a| ("memory".to_owned(), q(a)))
                .into_iter()
                .collect();
            let found = taken(&asked, &all).and_then(|t| t.get("memory").copied());
            assert_eq!(found, taken_of_it.map(q), "{asked:?}");
            let other = [("cores".to_owned(), q("1"))].into();
            assert_eq!(taken(&other, &all), None);
        }
    }

    #[test]
    fn what_others_have_counts() {
        let all = [(
            "memory".to_owned(),
            Capacity {
                value: q("10Gi"),
                policy: None,
            },
        )]
        .into();
        let amount = |text: &str| -> Amounts { [("memory".to_owned(), q(text))].into() };
        assert!(fits(&amount("4Gi"), &all, &[Some(&amount("3Gi")), None]));
        assert!(fits(
            &amount("4Gi"),
            &all,
            &[Some(&amount("3Gi")), Some(&amount("3Gi"))]
        ));
        assert!(!fits(
            &amount("4Gi"),
            &all,
            &[Some(&amount("6Gi")), Some(&amount("1Gi"))]
        ));
    }
}
