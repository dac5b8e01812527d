//! Which tokens of a pod's service account its node may ask for on behalf of CSI drivers: those for
//! the audiences that the drivers of the pod's volumes name.

use serde_json::Value;

use super::{list, text};
use crate::state::State;

/// Whether the driver of one of the pod's volumes wants tokens for the audience.
pub fn is_wanted(state: &State, pod: &Value, audience: &str) -> bool {
    drivers(state, pod).iter().any(|name| {
        let driver = state.lookup("storage.k8s.io", "csidrivers", "", name);
        let driver = driver.map(|d| d.to_value());
        let requests = driver.as_ref().map(|d| list(d, "/spec/tokenRequests"));
        let mut requests = requests.unwrap_or_default().iter();
        requests.any(|r| text(r, "/audience") == audience)
    })
}

/// The drivers of a pod's volumes, also of those that its claims are bound to.
fn drivers(state: &State, pod: &Value) -> Vec<String> {
    let (namespace, name) = (
        text(pod, "/metadata/namespace"),
        text(pod, "/metadata/name"),
    );
    let of = |volume: &Value| {
        if volume.get("csi").is_some() {
            return Some(text(volume, "/csi/driver").to_owned());
        }
        let claim = match text(volume, "/persistentVolumeClaim/claimName") {
            "" if volume.get("ephemeral").is_some() => {
                format!("{name}-{}", text(volume, "/name"))
            }
            "" => return None,
            claim => claim.to_owned(),
        };
        let claim = state.lookup("", "persistentvolumeclaims", namespace, &claim)?;
        let claim = claim.to_value();
        let volume = text(&claim, "/spec/volumeName");
        let volume = state.lookup("", "persistentvolumes", "", volume)?;
        let driver = text(&volume.to_value(), "/spec/csi/driver").to_owned();
        (!driver.is_empty()).then_some(driver)
    };
    list(pod, "/spec/volumes").iter().filter_map(of).collect()
}
