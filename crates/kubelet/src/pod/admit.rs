//! Whether this node can give what a pod demands: if not, it is refused before anything is made,
//! with upstream's reasons. (Whether it fits beside the others is [`super::fit`].) Pure.

use super::spec;
use super::sysctls::Allowed;
use k8s_openapi::api::core::v1::Pod;

/// What the node can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities<'a> {
    /// Kernel parameters beside the safe ones.
    pub sysctls: &'a Allowed,
    /// The kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// The runtime can leave out the groups that an image gives to a user.
    pub strict_groups: bool,
}

/// Why a pod is not taken: it fails with this reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One word for programs.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Whether the answer depends on what the runtime can do.
#[must_use]
pub fn asks_the_runtime(pod: &Pod) -> bool {
    wants_strict_groups(pod)
}

/// The first reason against a pod.
pub fn check(pod: &Pod, can: Abilities<'_>) -> Result<(), Refusal> {
    let s = spec::of(pod);
    let labels = pod.metadata.labels.as_ref();
    let os = labels.and_then(|l| l.get("kubernetes.io/os"));
    let refuse = |reason: &str, message: String| {
        Err(Refusal {
            reason: reason.to_owned(),
            message,
        })
    };
    if os.is_some_and(|os| os != "linux") {
        let text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", text.into());
    }
    if s.os.as_ref().is_some_and(|os| os.name != "linux") {
        let text = "Failed to admit pod as the OS field doesn't match node OS";
        return refuse("PodOSNotSupported", text.into());
    }
    if wants_strict_groups(pod) && !can.strict_groups {
        let text = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return refuse("SupplementalGroupsPolicyNotSupported", text.into());
    }
    let security = s.security_context.as_ref();
    let sysctls = security.and_then(|c| c.sysctls.as_deref());
    let (network, ipc) = (spec::host_network(pod), s.host_ipc.unwrap_or(false));
    for sysctl in sysctls.unwrap_or_default() {
        if let Err(why) = can.sysctls.check(&sysctl.name, network, ipc) {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {why}"));
        }
    }
    if !can.app_armor && wants_app_armor(pod) {
        let text = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return refuse("AppArmor", text.into());
    }
    Ok(())
}

fn wants_strict_groups(pod: &Pod) -> bool {
    let security = spec::of(pod).security_context.as_ref();
    security.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict")
}

/// Whether a container is to run under a profile: its own, or else the pod's.
fn wants_app_armor(pod: &Pod) -> bool {
    let security = spec::of(pod).security_context.as_ref();
    let of_pod = security.and_then(|c| c.app_armor_profile.as_ref());
    spec::init_containers(pod)
        .iter()
        .chain(spec::containers(pod))
        .any(|c| {
            let own = c.security_context.as_ref();
            let profile = own.and_then(|s| s.app_armor_profile.as_ref()).or(of_pod);
            profile.is_some_and(|p| p.type_ != "Unconfined")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_node_cannot_give_is_refused() {
        let sysctls = Allowed::default();
        let none = Abilities {
            sysctls: &sysctls,
            app_armor: false,
            strict_groups: false,
        };
        let all = Abilities {
            app_armor: true,
            strict_groups: true,
            ..none
        };
        let unsafe_one = json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]});
        for (spec, reason, anywhere) in [
            (json!({"os": {"name": "linux"}}), None, false),
            (
                json!({"os": {"name": "windows"}}),
                Some("PodOSNotSupported"),
                true,
            ),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
                Some("SupplementalGroupsPolicyNotSupported"),
                false,
            ),
            (
                json!({"securityContext": {"supplementalGroupsPolicy": "Merge"}}),
                None,
                false,
            ),
            (
                json!({"securityContext": unsafe_one}),
                Some("SysctlForbidden"),
                true,
            ),
            (
                json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
                Some("AppArmor"),
                false,
            ),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([{"name": "c"}]);
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
            let found = check(&pod, none).err().map(|r| r.reason);
            assert_eq!(found.as_deref(), reason, "{spec}");
            let found = check(&pod, all).err().map(|r| r.reason);
            assert_eq!(found.as_deref(), reason.filter(|_| anywhere), "{spec}");
        }
    }
}
