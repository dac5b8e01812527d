//! The groups of a class of pods: how much CPU all Burstable pods together, and all that ask for
//! nothing, get beside the others when there is too little of it.

use super::deps::Deps;
use super::resources::shares;
use host::cgroup::Limits;
use std::sync::Arc;
use std::time::Duration;

/// Between settings where nothing changed, should somebody else have set them; upstream's.
const AGAIN: Duration = Duration::from_secs(60);

/// The groups below that of all pods, with their limits. `burstable`: what Burstable pods ask for
/// together, in thousandths of a CPU.
#[must_use]
pub fn limits(burstable: i64) -> [(&'static str, Limits); 2] {
    let weighs = |millis| Limits {
        cpu_shares: u64::try_from(shares(millis)).ok(),
        ..Default::default()
    };
    [("burstable", weighs(burstable)), ("besteffort", weighs(0))]
}

/// Keeps them as the pods of the node need them, as long as the kubelet runs.
pub async fn run(deps: Arc<Deps>) {
    let kubepods = deps.config.kubepods();
    loop {
        for (name, limits) in limits(deps.accounts.burstable_cpu()) {
            let group = format!("{kubepods}/{name}");
            if let Err(e) = deps.cgroups.create(&group, &limits) {
                tracing::warn!(group, error = %e, "how much CPU a class of pods gets could not be set; trying again");
            }
        }
        let _ = tokio::time::timeout(AGAIN, deps.accounts.changed()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burstable_pods_weigh_what_they_ask_for_and_others_nothing() {
        let of = |burstable| limits(burstable).map(|(name, l)| (name, l.cpu_shares));
        let least = ("besteffort", Some(2));
        assert_eq!(of(0), [("burstable", Some(2)), least]);
        assert_eq!(of(1500), [("burstable", Some(1536)), least]);
        assert_eq!(of(i64::MAX), [("burstable", Some(262_144)), least]);
    }
}
