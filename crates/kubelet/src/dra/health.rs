//! How devices of drivers are, as their drivers say. Without I/O.

use clock::Instant;
use host::plugins::dra_health::{DeviceHealth, HealthStatus};
use std::collections::BTreeMap;
use std::time::Duration;

/// For how long a word of a driver holds, unless it says otherwise; upstream's.
const HOLDS: Duration = Duration::from_secs(30);
/// The longest text beside it, in bytes, and what ends one that was longer; upstream's.
const TEXT: usize = 1024;
const CUT: &str = "...";

/// A device: pool and name.
type Name = (String, String);

/// What a driver said of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    health: &'static str,
    message: String,
    until: Instant,
}

/// All devices, by driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health(BTreeMap<String, BTreeMap<Name, Word>>);

const UNKNOWN: &str = "Unknown";

impl Health {
    /// How a device is, and what its driver says to that.
    pub(super) fn of(&self, driver: &str, pool: &str, device: &str) -> (&'static str, &str) {
        let name = (pool.to_owned(), device.to_owned());
        let word = self.0.get(driver).and_then(|all| all.get(&name));
        word.map_or((UNKNOWN, ""), |w| (w.health, &w.message))
    }

    /// Takes a driver's list; whether that changes how some device is.
    pub(super) fn take(&mut self, driver: &str, list: Vec<DeviceHealth>, now: Instant) -> bool {
        let all = self.0.entry(driver.to_owned()).or_default();
        let mut changed = false;
        for said in list {
            let health = match said.health() {
                HealthStatus::Healthy => "Healthy",
                HealthStatus::Unhealthy => "Unhealthy",
                HealthStatus::Unknown => UNKNOWN,
            };
            let seconds = u64::try_from(said.health_check_timeout_seconds).unwrap_or(0);
            let holds = match seconds {
                0 => HOLDS,
                // A day: what is said of the next years is not a measurement.
                some => Duration::from_secs(some.min(86_400)),
            };
            let name = said.device.unwrap_or_default();
            let word = Word {
                health,
                message: cut(said.message),
                until: now + holds,
            };
            let old = all.insert((name.pool_name, name.device_name), word.clone());
            let same = old.is_some_and(|o| o.health == word.health && o.message == word.message);
            changed |= !same;
        }
        self.expire(driver, now) || changed
    }

    /// Forgets what no longer holds; whether something did.
    pub(super) fn expire(&mut self, driver: &str, now: Instant) -> bool {
        let Some(all) = self.0.get_mut(driver) else {
            return false;
        };
        let before = all.len();
        all.retain(|_, word| word.until > now);
        all.len() != before
    }

    /// Until when all of a driver's words hold.
    pub(super) fn next(&self, driver: &str) -> Option<Instant> {
        let all = self.0.get(driver)?;
        all.values().map(|word| word.until).min()
    }

    /// The driver is silent: nobody says anything of its devices any more.
    pub(super) fn lose(&mut self, driver: &str) -> bool {
        self.0.remove(driver).is_some_and(|all| !all.is_empty())
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT {
        let mut end = TEXT - CUT.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::plugins::dra_health::DeviceIdentifier;

    fn said(device: &str, health: HealthStatus, seconds: i64) -> DeviceHealth {
        DeviceHealth {
            device: Some(DeviceIdentifier {
                pool_name: "p".into(),
                device_name: device.into(),
            }),
            health: health.into(),
            health_check_timeout_seconds: seconds,
            message: "x".repeat(2000),
            ..DeviceHealth::default()
        }
    }

    #[test]
    fn a_word_holds_for_its_time() {
        let mut all = Health::default();
        let now = Instant::now();
        let list = || {
            vec![
                said("a", HealthStatus::Healthy, 0),
                said("b", HealthStatus::Unhealthy, 90),
            ]
        };
        assert_eq!(all.of("d", "p", "a"), ("Unknown", ""));
        assert!(all.take("d", list(), now));
        assert!(!all.take("d", list(), now));
        assert_eq!(all.of("d", "p", "a").0, "Healthy");
        assert_eq!(all.of("d", "p", "a").1.len(), TEXT);
        assert_eq!(all.next("d"), Some(now + HOLDS));
        assert!(all.expire("d", now + HOLDS) && !all.expire("d", now + HOLDS));
        assert_eq!(all.of("d", "p", "a").0, "Unknown");
        assert_eq!(all.of("d", "p", "b").0, "Unhealthy");
        assert!(all.lose("d") && !all.lose("d"));
        assert_eq!(all.of("d", "p", "b").0, "Unknown");
    }
}
