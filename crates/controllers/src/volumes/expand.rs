//! Claims that are to grow: what our own provisioner made grows in `local`; for all others it is
//! said that somebody else has to do it.

use std::sync::Arc;

use client::{Informer, Informers};
use control::action::{Action, reference};
use control::{Controller, Plan, Watches};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{is_local, is_to_grow, requested, volume_name};
use crate::common::{Key, key_of};

pub struct Expansions {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl Expansions {
    pub fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.of(),
            volumes: informers.of(),
        }
    }
}

pub struct Observed {
    claim: Arc<PersistentVolumeClaim>,
    volume: Arc<PersistentVolume>,
}

impl Controller for Expansions {
    const NAME: &'static str = "volume_expand";
    const ACCOUNT: &'static str = "expand-controller";
    type Key = Key;
    type Observed = Observed;

    fn watches(&self, watches: &mut Watches<Key>) {
        watches.on_change(&self.claims, |change| {
            let Some(new) = change.new.as_deref().filter(|c| is_to_grow(c)) else {
                return Vec::new();
            };
            // Told once for each size that is asked for.
            let before = change.old.as_deref().map(requested);
            if before == Some(requested(new)) {
                return Vec::new();
            }
            vec![key_of(new)]
        });
        watches.expect_from(&self.volumes);
    }

    fn observe(&self, (namespace, name): &Key) -> Option<Observed> {
        let claim = self.claims.get(namespace, name)?;
        let volume = self.volumes.get("", volume_name(&claim))?;
        Some(Observed { claim, volume })
    }

    fn plan(&self, seen: &Observed, _: i64) -> Plan {
        if !is_to_grow(&seen.claim) || is_local(&seen.volume) {
            return Plan::nothing();
        }
        let is_csi = seen.volume.spec.as_ref().is_some_and(|s| s.csi.is_some());
        Action::Event {
            about: reference(&*seen.claim),
            // A driver may come; of other kinds nobody is known who could.
            warning: !is_csi,
            reason: "ExternalExpanding",
            message: "waiting for an external controller to expand this PVC".into(),
        }
        .into()
    }
}
