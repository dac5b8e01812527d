//! The search path of pods: which names a client asks for next when one does not exist, so that one
//! question answers what would take four, or eight in two families. Pure.
//!
//! Pods look for a name of few dots in their namespace, in `svc` and in the zone, and only then outside.

use api::corefile::is_within;

use crate::answer::{Answer, Data, Record, Zone};
use crate::index::{Index, Key};

/// What follows on a name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    /// The names that are asked for next: two of the zone, and the one outside but where it ends in
    /// what is known here.
    pub names: Vec<String>,
    /// What a client of another namespace may mean, to whom this is the second name of the path: he
    /// looks for a name that ends in that of this namespace.
    pub longer: String,
    /// The namespace.
    pub namespace: String,
}

/// What follows on a name that does not exist; `None` where a client that asks for it means nothing
/// else.
///
/// `name` is in lower case, without its final dot.
pub fn following(index: &Index, zone: &Zone, name: &str) -> Option<Following> {
    let domain = zone.domain.as_str();
    let inner = name.strip_suffix(domain)?.strip_suffix(".svc.")?;
    let (rest, namespace) = inner.rsplit_once('.')?;
    // One label is the name of a Service, which may still come.
    let (_, last) = rest.rsplit_once('.')?;
    let is_namespace = |name: &str| index.has_namespace(name) || index.has_service_in(name);
    // Ports and names of addresses are asked for whole; a dot that is written otherwise ends no label.
    let is_whole = rest.split('.').any(|label| label.starts_with('_'))
        || last == "arpa"
        || rest.contains('\\')
        || is_within(rest, domain);
    if is_whole || !is_namespace(namespace) {
        return None;
    }
    let mut names = vec![format!("{rest}.svc.{domain}"), format!("{rest}.{domain}")];
    // Such as an endpoint that is not ready: the world outside is not asked about it.
    let is_ours =
        matches!(last, "svc" | "pod") || index.service(&Key::new(namespace, last)).is_some();
    if !is_ours {
        names.push(rest.to_owned());
    }
    Some(Following {
        names,
        longer: inner.to_owned(),
        namespace: namespace.to_owned(),
    })
}

/// The answer that leads from a name that does not exist to one of those behind it. It is believed no
/// longer than the absence of the first.
pub fn alias(zone: &Zone, name: &str, target: &str) -> Answer {
    let record = Record {
        name: format!("{name}."),
        ttl_seconds: zone.negative_ttl_seconds,
        data: Data::Cname(format!("{target}.")),
    };
    Answer {
        answers: vec![record],
        ..Answer::default()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn zone() -> Zone {
        Zone::new("cluster.local", 30, 5)
    }

    /// With the namespaces `default` and `dev`, and a Service `db` in the first.
    fn index() -> Index {
        let mut index = Index::default();
        for name in ["default", "dev"] {
            let object = json!({"metadata": {"name": name}});
            let object = serde_json::from_value(object).expect("a Namespace");
            index.namespace_event(Event::Apply(object));
        }
        let metadata = json!({"name": "db", "namespace": "default"});
        let object = json!({"metadata": metadata, "spec": {"clusterIP": "None"}});
        let object = serde_json::from_value(object).expect("a Service");
        index.service_event(Event::Apply(object));
        index
    }

    #[test]
    fn names_follow_in_the_order_of_the_path() {
        let followed = following(
            &index(),
            &zone(),
            "www.example.com.default.svc.cluster.local",
        );
        let expected = [
            "www.example.com.svc.cluster.local",
            "www.example.com.cluster.local",
            "www.example.com",
        ];
        let expected = Following {
            names: expected.map(str::to_owned).to_vec(),
            longer: "www.example.com.default".to_owned(),
            namespace: "default".to_owned(),
        };
        assert_eq!(followed, Some(expected));
    }

    #[test]
    fn only_names_of_the_path_have_others_behind_them() {
        // How many names follow, and none where nobody looks for others.
        for (name, expected) in [
            ("example.com.default.svc.cluster.local", Some(3)),
            ("a.b.c.d.e.f.dev.svc.cluster.local", Some(3)),
            // One label, and none.
            ("example.default.svc.cluster.local", None),
            ("default.svc.cluster.local", None),
            ("svc.cluster.local", None),
            ("cluster.local", None),
            // Elsewhere.
            ("example.com.nowhere.svc.cluster.local", None),
            ("example.com.svc.cluster.local", None),
            ("example.com.default.pod.cluster.local", None),
            ("example.com.cluster.local", None),
            ("example.com.default.svc.cluster.test", None),
            ("example.com.default.svcxcluster.local", None),
            // Ports, addresses, and names that are whole.
            ("_http._tcp.example.com.default.svc.cluster.local", None),
            ("a._tcp.default.svc.cluster.local", None),
            ("4.3.2.1.in-addr.arpa.default.svc.cluster.local", None),
            ("8.ip6.arpa.default.svc.cluster.local", None),
            ("a\\.b.com.default.svc.cluster.local", None),
            (
                "db.default.svc.cluster.local.default.svc.cluster.local",
                None,
            ),
            // What ends in a name of ours is looked for inside alone.
            ("pod-0.db.default.svc.cluster.local", Some(2)),
            ("pod-0.db.dev.svc.cluster.local", Some(3)),
            // A namespace may be called as others' domains are.
            ("web.dev.default.svc.cluster.local", Some(3)),
            ("web.dev.svc.default.svc.cluster.local", Some(2)),
            ("1-2-3-4.dev.pod.default.svc.cluster.local", Some(2)),
        ] {
            let followed = following(&index(), &zone(), name).map(|all| all.names.len());
            assert_eq!(followed, expected, "{name}");
        }
    }

    #[test]
    fn an_alias_is_believed_as_long_as_an_absence() {
        let answer = alias(
            &zone(),
            "example.com.default.svc.cluster.local",
            "example.com",
        );
        assert_eq!(
            answer.to_string(),
            "example.com.default.svc.cluster.local. 5 CNAME example.com.\n"
        );
    }
}
