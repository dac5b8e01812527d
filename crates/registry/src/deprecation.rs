//! Which served kinds are deprecated in Kubernetes v1.36, and the warning that clients get about it
//! on every request that names them.

use api::GroupVersion;

struct Old {
    group: &'static str,
    version: &'static str,
    /// Empty: all kinds of the version.
    kind: &'static str,
    /// Minor versions since which it is deprecated and from which it is gone (0: not said).
    since: u32,
    gone: u32,
    instead: &'static str,
}

const fn old(group: &'static str, version: &'static str, kind: &'static str, since: u32) -> Old {
    Old {
        group,
        version,
        kind,
        since,
        gone: since + 3,
        instead: "",
    }
}

/// Of a version some kinds come first, then the rest.
const OLD: &[Old] = &[
    Old {
        gone: 0,
        ..old("", "v1", "ComponentStatus", 19)
    },
    Old {
        gone: 0,
        instead: "discovery.k8s.io/v1 EndpointSlice",
        ..old("", "v1", "Endpoints", 33)
    },
    old("certificates.k8s.io", "v1alpha1", "", 34),
    old("networking.k8s.io", "v1beta1", "", 34),
    Old {
        instead: "storage.k8s.io/v1 VolumeAttributesClass",
        ..old("storage.k8s.io", "v1beta1", "", 34)
    },
    old("admissionregistration.k8s.io", "v1alpha1", "", 35),
    old("coordination.k8s.io", "v1alpha2", "", 35),
    old("coordination.k8s.io", "v1beta1", "", 36),
    old("resource.k8s.io", "v1beta1", "", 35),
    old("resource.k8s.io", "v1beta2", "DeviceClass", 36),
    old("resource.k8s.io", "v1beta2", "ResourceClaim", 36),
    old("resource.k8s.io", "v1beta2", "ResourceClaimTemplate", 36),
    old("resource.k8s.io", "v1beta2", "ResourceSlice", 36),
    old("resource.k8s.io", "v1alpha3", "DeviceTaintRule", 36),
];

/// The text of the `Warning` header for requests of this kind in this version, if it is
/// deprecated.
pub fn deprecation_warning(group: &str, version: &str, kind: &str) -> Option<String> {
    let o = find(group, version, kind)?;
    let mut text = format!(
        "{} {kind} is deprecated in v1.{}+",
        GroupVersion::new(group, version),
        o.since
    );
    if o.gone > 0 {
        text.push_str(&format!(", unavailable in v1.{}+", o.gone));
    }
    if !o.instead.is_empty() {
        text.push_str(&format!("; use {}", o.instead));
    }
    Some(text)
}

/// The minor version from which a deprecated kind is gone, if that is said.
pub fn gone_in(group: &str, version: &str, kind: &str) -> Option<u32> {
    find(group, version, kind)
        .map(|o| o.gone)
        .filter(|gone| *gone > 0)
}

fn find(group: &str, version: &str, kind: &str) -> Option<&'static Old> {
    OLD.iter()
        .find(|o| o.group == group && o.version == version && (o.kind.is_empty() || o.kind == kind))
}

#[cfg(test)]
mod tests {
    use super::deprecation_warning;

    #[test]
    fn says_what_to_use_instead() {
        for (group, version, kind, text) in [
            ("", "v1", "Pod", None),
            (
                "",
                "v1",
                "Endpoints",
                Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            ),
            (
                "resource.k8s.io",
                "v1beta1",
                "ResourceClaim",
                Some(
                    "resource.k8s.io/v1beta1 ResourceClaim is deprecated in v1.35+, unavailable in v1.38+",
                ),
            ),
        ] {
            assert_eq!(deprecation_warning(group, version, kind).as_deref(), text);
        }
    }
}
