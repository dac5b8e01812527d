//! Files of one volume that are in each other's way: two of the same path, or one where another needs
//! a folder. The last one would win, or none; clients are warned.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::check::{at, has, items, text};

/// Pairs that are spoken of at most; no answer has room for as many.
const PAIRS: usize = 128;
/// Longer paths are left alone: no system takes them, and each folder of theirs is looked for.
const LONGEST: usize = 4096;

/// Warnings of the volumes of a pod.
pub fn of_volumes(volumes: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    for volume in volumes {
        let name = text(volume, "name");
        for (field, named, list) in [
            ("configMap", "name", "ConfigMap "),
            ("secret", "secretName", "Secret "),
            ("downwardAPI", "", "DownwardAPI"),
        ] {
            let source = at(volume, field);
            let what = described(list, text(source, named), named);
            let mut files = Files::default();
            for item in items(source, "items") {
                let pairs = files.add(text(item, "path"), "", left(&out));
                out.extend(pairs.iter().map(|pair| overlapping(name, &what, pair)));
            }
        }
        projected(&mut out, name, at(volume, "projected"));
    }
    out
}

/// Of how many pairs may still be spoken.
fn left(out: &[String]) -> usize {
    PAIRS.saturating_sub(out.len())
}

fn overlapping(volume: &str, what: &str, pair: &str) -> String {
    format!("volume {volume:?} ({what}): overlapping paths: {pair}")
}

/// What holds files, with its name in quotes where it has one.
fn described(what: &str, name: &str, named: &str) -> String {
    if named.is_empty() {
        what.to_owned()
    } else {
        format!("{what}{name:?}")
    }
}

fn projected(out: &mut Vec<String>, volume: &str, projected: &Value) {
    let mut files = Files::default();
    for source in items(projected, "sources") {
        let mut members = source.as_object().into_iter().flatten();
        if members.all(|(_, member)| member.is_null()) {
            out.push(format!(
                "volume {volume:?} (Projected) has no sources provided"
            ));
            continue;
        }
        for (path, of) in projected_paths(source) {
            let pairs = files.add(path, &of, left(out));
            let said = pairs.iter();
            out.extend(said.map(|pair| overlapping(volume, "Projected", pair)));
        }
    }
}

/// The paths of a list of files of a source, with what they are of.
fn listed<'s>(source: &'s Value, field: &str, of: &str) -> Vec<(&'s str, String)> {
    let all = items(at(source, field), "items").iter();
    all.map(|item| (text(item, "path"), of.to_owned()))
        .collect()
}

/// The paths of a source of a projected volume, with what they are of.
fn projected_paths(source: &Value) -> Vec<(&str, String)> {
    for (field, what) in [("configMap", "ConfigMap "), ("secret", "Secret ")] {
        if has(at(source, field), "items") {
            let of = described(what, text(at(source, field), "name"), "name");
            return listed(source, field, &of);
        }
    }
    if has(at(source, "downwardAPI"), "items") {
        return listed(source, "downwardAPI", "DownwardAPI");
    }
    let (token, bundle) = (
        at(source, "serviceAccountToken"),
        at(source, "clusterTrustBundle"),
    );
    if !token.is_null() {
        return vec![(text(token, "path"), "ServiceAccountToken".to_owned())];
    }
    if !bundle.is_null() {
        let by = if has(bundle, "name") {
            "name"
        } else {
            "signerName"
        };
        let of = described("ClusterTrustBundle ", text(bundle, by), by);
        return vec![(text(bundle, "path"), of)];
    }
    let certificate = at(source, "podCertificate");
    let parts = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    let given = parts.map(|(field, of)| (text(certificate, field), of.to_owned()));
    given.into_iter().filter(|(p, _)| !p.is_empty()).collect()
}

/// The files of a volume so far.
#[derive(Default)]
struct Files {
    /// As they are shown.
    shown: Vec<String>,
    /// By their path, ended by a slash: what is below one follows it.
    places: BTreeMap<String, Vec<usize>>,
}

impl Files {
    /// Adds a file, and gives it with each of those before that it is in the way of, `most` of them.
    fn add(&mut self, path: &str, of: &str, most: usize) -> Vec<String> {
        let path = path.trim_end_matches('/');
        let shown = if of.is_empty() {
            format!("{path:?}")
        } else {
            format!("{path:?} ({of})")
        };
        let mut others: Vec<usize> = Vec::new();
        if !path.is_empty() && path.len() <= LONGEST {
            let key = format!("{path}/");
            let below = self.places.range(key.clone()..);
            let below = below.take_while(|(other, _)| other.starts_with(key.as_str()));
            others.extend(below.flat_map(|(_, places)| places).take(most).copied());
            // The folders that it is in, but for itself, which is found already.
            for (end, _) in path.match_indices('/') {
                let folder = key.get(..=end).and_then(|folder| self.places.get(folder));
                others.extend(folder.into_iter().flatten().take(most).copied());
            }
            self.places.entry(key).or_default().push(self.shown.len());
        }
        others.sort_unstable();
        others.truncate(most);
        let known = others.into_iter().filter_map(|at| self.shown.get(at));
        let pairs = known.map(|other| format!("{shown} with {other}")).collect();
        self.shown.push(shown);
        pairs
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_that_are_in_each_others_way_are_named() {
        let files = |paths: &[&str]| -> Vec<Value> {
            let all = paths.iter();
            all.map(|path| json!({ "key": "k", "path": path }))
                .collect()
        };
        let of = |source: Value| of_volumes(&[source]);
        let map = |paths: &[&str]| {
            of(json!({ "name": "v", "configMap": { "name": "m", "items": files(paths) } }))
        };
        assert_eq!(map(&["a", "ab", "b/a", "b/b"]), Vec::<String>::new());
        let said =
            |pair: &str| format!("volume \"v\" (ConfigMap \"m\"): overlapping paths: {pair}");
        assert_eq!(
            map(&["a", "b/c/d", "a/", "b", "b/c"]),
            [
                said("\"a\" with \"a\""),
                said("\"b\" with \"b/c/d\""),
                said("\"b/c\" with \"b/c/d\""),
                said("\"b/c\" with \"b\""),
            ]
        );
        let secret =
            json!({ "name": "v", "secret": { "secretName": "s", "items": files(&["a", "a"]) } });
        assert_eq!(
            of(secret),
            ["volume \"v\" (Secret \"s\"): overlapping paths: \"a\" with \"a\""]
        );
        let downward = json!({ "name": "v", "downwardAPI": { "items": files(&["a", "a"]) } });
        assert_eq!(
            of(downward),
            ["volume \"v\" (DownwardAPI): overlapping paths: \"a\" with \"a\""]
        );
    }

    #[test]
    fn sources_of_one_volume_are_looked_at_together() {
        let volume = json!({ "name": "v", "projected": { "sources": [
            {},
            { "configMap": { "name": "m", "items": [{ "key": "k", "path": "token/x" }] } },
            { "serviceAccountToken": { "path": "token" } },
            { "clusterTrustBundle": { "signerName": "s.io/s", "path": "ca" } },
            { "podCertificate": { "keyPath": "ca/key" } },
            { "secret": { "name": "all" } },
        ] } });
        assert_eq!(
            of_volumes(&[volume]),
            [
                "volume \"v\" (Projected) has no sources provided",
                "volume \"v\" (Projected): overlapping paths: \"token\" (ServiceAccountToken) with \"token/x\" (ConfigMap \"m\")",
                "volume \"v\" (Projected): overlapping paths: \"ca/key\" (PodCertificate key) with \"ca\" (ClusterTrustBundle \"s.io/s\")",
            ]
        );
    }

    #[test]
    fn many_files_cost_no_square() {
        let same: Vec<Value> = (0..50_000).map(|_| json!({ "path": "a" })).collect();
        let other: Vec<Value> = (0..50_000)
            .map(|n| json!({ "path": n.to_string() }))
            .collect();
        let of = |items: Vec<Value>| {
            of_volumes(&[json!({ "name": "v", "configMap": { "name": "m", "items": items } })])
                .len()
        };
        assert_eq!((of(same), of(other)), (PAIRS, 0));
    }
}
