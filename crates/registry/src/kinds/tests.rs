//! The whole table, one line per kind.

use std::collections::HashSet;
use std::fmt::Write;

use super::kinds;

#[test]
fn the_table() {
    let mut out = String::new();
    for r in kinds().rows() {
        let names = |all: &[std::sync::Arc<str>]| all.join(",");
        let versions: Vec<&str> = r.versions.iter().map(|v| &*v.version).collect();
        let subs: Vec<&str> = r.subresources.iter().map(|s| &*s.name).collect();
        let columns: Vec<&str> = r.columns.iter().map(|c| &*c.name).collect();
        let scope = if r.namespaced {
            "namespaced"
        } else {
            "cluster"
        };
        let verbs = if r.verbs.len() == 8 {
            "all".to_owned()
        } else {
            names(&r.verbs)
        };
        let _ = writeln!(
            out,
            "{}/{} {} {} {} stored={}@{} short={} categories={} verbs={} subs={} columns={}{}",
            r.group,
            r.resource,
            versions.join(","),
            r.kind,
            scope,
            r.storage_prefix,
            r.storage_api_version(),
            names(&r.short_names),
            names(&r.categories),
            verbs,
            subs.join(","),
            columns.join(","),
            if r.inert { " inert" } else { "" },
        );
    }
    expect_test::expect_file!["./table.txt"].assert_eq(&out);
}

#[test]
fn names_are_unique_and_found() {
    let mut seen = HashSet::new();
    for r in kinds().rows() {
        assert!(seen.insert((r.group.clone(), r.resource.clone())), "{r:?}");
        for v in &r.versions {
            let by_resource = kinds().by_resource(&r.group, &v.version, &r.resource);
            let by_kind = kinds().by_kind(&r.group, &v.version, &r.kind);
            assert!(
                by_resource.is_some_and(|f| f.resource == r.resource),
                "{r:?}"
            );
            assert!(by_kind.is_some_and(|f| f.resource == r.resource), "{r:?}");
        }
        assert!(kinds().by_resource(&r.group, "v0", &r.resource).is_none());
    }
}

#[test]
fn versions_in_order_of_preference() {
    let groups = kinds().groups();
    let of = |g: &str| -> Vec<String> {
        let found = groups.iter().find(|(name, _)| &**name == g);
        found
            .map(|(_, v)| v.iter().map(ToString::to_string).collect())
            .unwrap_or_default()
    };
    assert_eq!(of("autoscaling"), ["v2", "v1"]);
    assert_eq!(
        of("resource.k8s.io"),
        ["v1", "v1beta2", "v1beta1", "v1alpha3"]
    );
    assert_eq!(
        groups.first().map(|(g, _)| g.to_string()),
        Some(String::new())
    );
}
