//! Profiles that restrict processes, in the runtime's words.

use super::spec;
use host::runtime::{Profile, SeLinux};
use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, SELinuxOptions, SeccompProfile};
use std::borrow::Cow;
use std::path::Path;

/// A profile in the runtime's words; anything unknown is none.
fn profile(kind: &str, local: impl FnOnce() -> String) -> Profile {
    match kind {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(local()),
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

/// A seccomp profile; none means unconfined: see [`with_default`]. One of the node is a file below
/// the node's folder of profiles (`folder`), and the runtime opens it by its whole path.
#[must_use]
pub fn seccomp(from: Option<&SeccompProfile>, folder: &Path) -> Profile {
    from.map_or(Profile::Unconfined, |p| {
        let name = p.localhost_profile.as_deref().unwrap_or_default();
        profile(&p.type_, || {
            folder.join(name).to_string_lossy().into_owned()
        })
    })
}

/// An AppArmor profile; none leaves the choice to the runtime. The kernel knows it by its name.
#[must_use]
pub fn app_armor(from: &AppArmorProfile) -> Profile {
    let name = from.localhost_profile.clone();
    profile(&from.type_, || name.unwrap_or_default())
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
            let context = context.unwrap_or_default();
            seccomp(context.seccomp_profile.as_ref(), Path::new("/s"))
        };
        assert_eq!(named(json!({}), false), Profile::Unconfined);
        assert_eq!(named(json!({}), true), Profile::RuntimeDefault);
        let own = json!({ "seccompProfile": { "type": "Unconfined" } });
        assert_eq!(named(own, true), Profile::Unconfined);
    }
    #[test]
    fn profiles_of_the_node_are_files_for_seccomp_and_names_for_app_armor() {
        let local = json!({ "type": "Localhost", "localhostProfile": "audit/a.json" });
        let of_seccomp: SeccompProfile = serde_json::from_value(local.clone()).unwrap();
        let folder = Path::new("/var/lib/kubelet/seccomp");
        assert_eq!(
            seccomp(Some(&of_seccomp), folder),
            Profile::Localhost("/var/lib/kubelet/seccomp/audit/a.json".into())
        );
        let of_app_armor: AppArmorProfile = serde_json::from_value(local).unwrap();
        assert_eq!(
            app_armor(&of_app_armor),
            Profile::Localhost("audit/a.json".into())
        );
        assert_eq!(seccomp(None, folder), Profile::Unconfined);
    }
}
