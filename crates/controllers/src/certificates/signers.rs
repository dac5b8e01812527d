//! What each of the cluster's own signers signs, and for how long. Pure.

use std::collections::BTreeSet;

use wire::pki::{BACKDATE_SECONDS, Names, Validity};

/// What the API server takes from people and components.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// What the API server takes from kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// What kubelets show on their own port.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Anything; nobody is bound to trust it.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Signers whose certificates the cluster's CA makes.
pub const ALL: [&str; 4] = [CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN];

/// The group of nodes.
pub const NODES: &str = "system:nodes";
/// What the user name of a node begins with.
pub const NODE_PREFIX: &str = "system:node:";

/// A certificate is good for a year, as upstream's; nodes ask again a month before its end.
const LONGEST_SECONDS: i64 = 365 * 86_400;
/// Shorter ones would end before anybody could use them.
const SHORTEST_SECONDS: i64 = 600;
/// From this length on, the end is back-dated as the beginning is (5 minutes are 1 % of it).
const LONG_SECONDS: i64 = 8 * 3_600;

/// From when to when a certificate is good that was asked for so many seconds, or for as long as
/// there is. It never outlives its authority.
pub fn validity(asked: Option<i64>, now: i64, authority_ends: i64) -> Result<Validity, String> {
    if authority_ends <= now {
        return Err("the cluster's certificate authority has expired".to_owned());
    }
    let seconds = asked
        .unwrap_or(LONGEST_SECONDS)
        .clamp(SHORTEST_SECONDS, LONGEST_SECONDS);
    let backdate = if seconds < LONG_SECONDS {
        0
    } else {
        BACKDATE_SECONDS
    };
    Ok(Validity {
        not_before: now - BACKDATE_SECONDS,
        not_after: (now + seconds - backdate).min(authority_ends),
    })
}

/// Exactly one purpose, with the signature that TLS needs, and what RSA keys need besides.
fn usages_are(usages: &[&str], purpose: &str) -> Result<(), String> {
    let all = BTreeSet::from([purpose, "digital signature", "key encipherment"]);
    let asked: BTreeSet<&str> = usages.iter().copied().collect();
    let without_rsa = BTreeSet::from([purpose, "digital signature"]);
    if asked == all || asked == without_rsa {
        return Ok(());
    }
    let mut list: Vec<&str> = all.into_iter().collect();
    list.sort_unstable();
    Err(format!("usages did not match [{}]", list.join(" ")))
}

fn client_usages(usages: &[&str]) -> Result<(), String> {
    for usage in usages {
        if !["client auth", "digital signature", "key encipherment"].contains(usage) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if usages.contains(&"client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".to_owned())
}

fn refuse(wrong: bool, why: &str) -> Result<(), String> {
    if wrong { Err(why.to_owned()) } else { Ok(()) }
}

fn is_of_nodes(names: &Names) -> Result<(), String> {
    refuse(
        names.organizations != [NODES],
        "subject organization is not system:nodes",
    )
}

fn names_a_node(names: &Names) -> Result<(), String> {
    refuse(
        !names.common_name.starts_with(NODE_PREFIX),
        "subject common name does not begin with system:node:",
    )
}

/// Whether a signer may sign what a request names and is for; otherwise why not.
pub fn check(signer: &str, names: &Names, usages: &[&str]) -> Result<(), String> {
    let (email, uri) = (!names.emails.is_empty(), !names.uris.is_empty());
    let (dns, ip) = (!names.dns_names.is_empty(), !names.ips.is_empty());
    match signer {
        CLIENT => client_usages(usages),
        KUBELET_CLIENT => {
            is_of_nodes(names)?;
            refuse(dns, "DNS subjectAltNames are not allowed")?;
            refuse(email, "Email subjectAltNames are not allowed")?;
            refuse(ip, "IP subjectAltNames are not allowed")?;
            refuse(uri, "URI subjectAltNames are not allowed")?;
            names_a_node(names)?;
            usages_are(usages, "client auth")
        }
        KUBELET_SERVING => {
            is_of_nodes(names)?;
            refuse(!dns && !ip, "DNS or IP subjectAltName is required")?;
            refuse(email, "Email subjectAltNames are not allowed")?;
            refuse(uri, "URI subjectAltNames are not allowed")?;
            usages_are(usages, "server auth")?;
            names_a_node(names)
        }
        // Nobody is bound to trust what it signs.
        LEGACY_UNKNOWN => Ok(()),
        other => Err(format!("{other:?} is not a signer of this cluster")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000;
    const FAR: i64 = NOW + 3_650 * 86_400;

    #[test]
    fn lifetimes_are_exact_and_only_long_ones_are_backdated() {
        let ends = |asked| validity(asked, NOW, FAR).expect("alive").not_after - NOW;
        assert_eq!(ends(Some(700)), 700);
        assert_eq!(ends(Some(1)), 600);
        assert_eq!(ends(Some(28_799)), 28_799);
        assert_eq!(ends(Some(28_800)), 28_500);
        assert_eq!(ends(Some(86_399)), 86_099);
        assert_eq!(ends(None), 365 * 86_400 - 300);
        assert_eq!(ends(Some(i64::from(i32::MAX))), 365 * 86_400 - 300);
        assert_eq!(
            validity(None, NOW, FAR).expect("alive").not_before,
            NOW - 300
        );
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let soon = validity(Some(700), NOW, NOW + 60).expect("alive");
        assert_eq!(soon.not_after, NOW + 60);
        assert!(validity(Some(700), NOW, NOW).is_err());
    }

    fn node() -> Names {
        Names {
            common_name: "system:node:n".into(),
            organizations: vec![NODES.into()],
            ..Names::default()
        }
    }

    #[test]
    fn client_certificates_are_for_clients() {
        let jo = Names {
            common_name: "jo".into(),
            ..Names::default()
        };
        let ask = |usages: &[&str]| check(CLIENT, &jo, usages);
        assert_eq!(ask(&["client auth"]), Ok(()));
        assert_eq!(
            ask(&["digital signature", "key encipherment", "client auth"]),
            Ok(())
        );
        assert_eq!(
            ask(&["client auth", "server auth"]),
            Err("invalid usage for client certificate: server auth".into())
        );
        assert_eq!(
            ask(&["digital signature"]),
            Err("missing required usage for client certificate: client auth".into())
        );
    }

    #[test]
    fn a_kubelets_client_certificate_names_a_node_and_nothing_else() {
        let usages = ["digital signature", "client auth"];
        let ask = |names: &Names, usages: &[&str]| check(KUBELET_CLIENT, names, usages);
        assert_eq!(ask(&node(), &usages), Ok(()));
        assert_eq!(
            ask(&node(), &["client auth"]),
            Err("usages did not match [client auth digital signature key encipherment]".into())
        );
        let mut other = node();
        other.organizations = vec!["system:masters".into()];
        assert!(ask(&other, &usages).is_err());
        for change in [
            (|n: &mut Names| n.dns_names.push("n".into())) as fn(&mut Names),
            |n| n.emails.push("n@x".into()),
            |n| n.uris.push("u:n".into()),
            |n| n.ips.push([10, 0, 0, 1].into()),
            |n| n.common_name = "admin".into(),
        ] {
            let mut other = node();
            change(&mut other);
            assert!(ask(&other, &usages).is_err(), "{other:?}");
        }
    }

    #[test]
    fn a_kubelets_serving_certificate_has_names_of_servers() {
        let usages = ["digital signature", "server auth"];
        assert_eq!(
            check(KUBELET_SERVING, &node(), &usages),
            Err("DNS or IP subjectAltName is required".into())
        );
        let mut served = node();
        served.dns_names.push("n".into());
        assert_eq!(check(KUBELET_SERVING, &served, &usages), Ok(()));
        assert!(
            check(
                KUBELET_SERVING,
                &served,
                &["digital signature", "client auth"]
            )
            .is_err()
        );
        assert_eq!(check(LEGACY_UNKNOWN, &served, &["code signing"]), Ok(()));
        assert!(check("example.com/mine", &served, &usages).is_err());
    }
}
