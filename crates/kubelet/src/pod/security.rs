//! Profiles that restrict processes, in the runtime's words.

use host::runtime::{Profile, SeLinux};
use k8s_openapi::api::core::v1::{AppArmorProfile, SELinuxOptions, SeccompProfile};

/// A profile in the runtime's words; anything unknown is none.
fn profile(kind: &str, path: Option<&String>) -> Profile {
    match kind {
        "RuntimeDefault" => Profile::RuntimeDefault,
        "Localhost" => Profile::Localhost(path.cloned().unwrap_or_default()),
        _ => Profile::Unconfined,
    }
}

/// A seccomp profile; none means unconfined, as upstream without SeccompDefault.
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
