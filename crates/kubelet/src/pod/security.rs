//! Profiles that restrict processes, in the runtime's words.

use super::spec;
use host::runtime::{Profile, SeLinux};
use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, SELinuxOptions, SeccompProfile};
use std::borrow::Cow;

/// A profile in the runtime's words; anything unknown is none.
fn profile(kind: &str, path: Option<&String>) -> Profile {
    match kind {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(path.cloned().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

/// The pod with the runtime's own seccomp profile where it names none, if that is the node's default.
#[must_use]
pub fn with_default(pod: &Pod, is_default: bool) -> Cow<'_, Pod> {
    let context = spec::of(pod).security_context.as_ref();
    if !is_default || context.is_some_and(|c| c.seccomp_profile.is_some()) {
        return Cow::Borrowed(pod);
    }
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    let context = spec.security_context.get_or_insert_default();
    context.seccomp_profile = Some(SeccompProfile {
        type_: "RuntimeDefault".into(),
        localhost_profile: None,
    });
    Cow::Owned(pod)
}

/// A seccomp profile; none means unconfined: see [`with_default`].
#[must_use]
pub fn seccomp(from: Option<&SeccompProfile>) -> Profile {
    from.map_or(Profile::Unconfined, |p| {
        profile(&p.type_, p.localhost_profile.as_ref())
    })
}

/// An AppArmor profile; none leaves the choice to the runtime.
#[must_use]
pub fn app_armor(from: &AppArmorProfile) -> Profile {
    profile(&from.type_, from.localhost_profile.as_ref())
}

/// SELinux labels in the runtime's words.
#[must_use]
pub fn selinux(options: &SELinuxOptions) -> SeLinux {
    SeLinux {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        kind: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_is_for_who_names_no_profile() {
        let named = |context: serde_json::Value, is_default| {
            let pod = json!({ "spec": { "containers": [], "securityContext": context } });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let context = with_default(&pod, is_default)
                .spec
                .clone()
                .unwrap()
                .security_context;
            seccomp(context.unwrap_or_default().seccomp_profile.as_ref())
        };
        assert_eq!(named(json!({}), false), Profile::Unconfined);
        assert_eq!(named(json!({}), true), Profile::RuntimeDefault);
        let own = json!({ "seccompProfile": { "type": "Unconfined" } });
        assert_eq!(named(own, true), Profile::Unconfined);
    }
}
