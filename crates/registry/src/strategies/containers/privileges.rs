//! What a container and a pod may do on their node: users, profiles, capabilities, sysctls.

use std::collections::BTreeSet;

use api::{FieldError, FieldPath};
use serde_json::Value;

use super::descending;
use crate::check::{Errors, at, flag, int, invalid, items, one_of, optional_word, text};

/// The security settings of a container.
pub(super) fn security(errs: &mut Errors, path: &FieldPath, s: &Value) {
    if s.is_null() {
        return;
    }
    ids(errs, path, s, &["runAsUser", "runAsGroup"]);
    optional_word(errs, path, s, "procMount", &["Default", "Unmasked"]);
    profile(errs, &path.child("seccompProfile"), at(s, "seccompProfile"));
    profile(
        errs,
        &path.child("appArmorProfile"),
        at(s, "appArmorProfile"),
    );
    if at(s, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if flag(s, "privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            invalid(errs, path, s, why);
        }
        let added = items(at(s, "capabilities"), "add");
        if added.iter().any(|c| c.as_str() == Some("CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            invalid(errs, path, s, why);
        }
    }
}

fn ids(errs: &mut Errors, path: &FieldPath, s: &Value, fields: &[&str]) {
    for field in fields {
        if int(s, field).is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n)) {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, &path.child(field), at(s, field), why);
        }
    }
}

fn profile(errs: &mut Errors, path: &FieldPath, p: &Value) {
    if p.is_null() {
        return;
    }
    let local = text(p, "localhostProfile");
    match text(p, "type") {
        "" => errs.push(FieldError::required(
            &path.child("type"),
            "type is required",
        )),
        "Localhost" if local.is_empty() => errs.push(FieldError::required(
            &path.child("localhostProfile"),
            "must be set when seccomp type is Localhost",
        )),
        "Localhost" => descending(errs, &path.child("localhostProfile"), local),
        ty => {
            if !local.is_empty() {
                let why = "can only be set when seccomp type is Localhost";
                errs.push(FieldError::invalid_str(
                    &path.child("localhostProfile"),
                    local,
                    why,
                ));
            }
            one_of(
                errs,
                &path.child("type"),
                ty,
                &["Localhost", "RuntimeDefault", "Unconfined"],
            );
        }
    }
}

/// Segments of small letters, digits, `-` and `_`, divided by dots or slashes.
fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let segment = |s: &str| {
        let ends = s.bytes().next().zip(s.bytes().next_back());
        ends.is_some_and(|(a, z)| alphanumeric(a) && alphanumeric(z))
            && s.bytes()
                .all(|b| alphanumeric(b) || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

/// The security settings of a pod.
pub fn pod_security(errs: &mut Errors, path: &FieldPath, s: &Value) {
    ids(errs, path, s, &["runAsUser", "runAsGroup", "fsGroup"]);
    for (i, g) in items(s, "supplementalGroups").iter().enumerate() {
        if g.as_i64()
            .is_some_and(|n| !(0..=i64::from(i32::MAX)).contains(&n))
        {
            let why = "must be between 0 and 2147483647, inclusive";
            invalid(errs, &path.child("supplementalGroups").index(i), g, why);
        }
    }
    let mut seen = BTreeSet::new();
    for (i, c) in items(s, "sysctls").iter().enumerate() {
        let (name, path) = (
            text(c, "name"),
            path.child("sysctls").index(i).child("name"),
        );
        if name.is_empty() {
            errs.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let why = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errs.push(FieldError::invalid_str(&path, name, why));
        } else if seen.contains(name) {
            errs.push(FieldError::duplicate(&path, &name.into()));
        }
        seen.insert(name);
    }
    optional_word(
        errs,
        path,
        s,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
    );
    for (field, words) in [
        ("supplementalGroupsPolicy", &["Merge", "Strict"][..]),
        // Upstream knows MountOption, too, where its gate SELinuxMount is on, which nobody asks for here.
        ("seLinuxChangePolicy", &["Recursive"][..]),
    ] {
        optional_word(errs, path, s, field, words);
    }
    profile(errs, &path.child("seccompProfile"), at(s, "seccompProfile"));
    profile(
        errs,
        &path.child("appArmorProfile"),
        at(s, "appArmorProfile"),
    );
}
