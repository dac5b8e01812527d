//! `/statusz`: since when a component runs, of which version it is, which pages it has.

use std::collections::BTreeSet;
use std::fmt::Write;

use bytes::Bytes;
use http::Response;
use jiff::{Timestamp, tz::TimeZone};
use metrics::process;
use serde_json::{Value, json};

use crate::negotiate::{self, Version};
use crate::page::{Component, PageRequest};

/// Pages of these components that are the API and not for looking into it.
const NOT_FOR_LOOKING: [&str; 5] = ["/apis", "/api", "/openid", "/openapi", "/.well-known"];
const OWN: [&str; 4] = ["/configz", "/debug", "/flagz", "/statusz"];

/// What the page says.
struct Status {
    component: &'static str,
    started: Timestamp,
    seconds: u64,
    language: String,
    version: String,
    emulated: String,
    paths: BTreeSet<String>,
}

impl Status {
    fn now(component: &Component) -> Self {
        let build = process::build();
        let age = process::age();
        let own = OWN.into_iter().chain(component.paths.iter().copied());
        let field = |of: fn(&process::Build) -> &String| build.map(of).cloned().unwrap_or_default();
        let git = field(|b| &b.git_version);
        Self {
            component: component.name,
            started: age.map(|a| a.started).unwrap_or_default(),
            seconds: age.map_or(0, |a| a.seconds),
            language: field(|b| &b.go_version),
            version: numbers(&git),
            emulated: format!("{}.{}", field(|b| &b.major), field(|b| &b.minor)),
            paths: own.filter_map(first_part).collect(),
        }
    }

    fn text(&self) -> String {
        let started = self.started.to_zoned(TimeZone::UTC);
        let (s, paths) = (self.seconds, Vec::from_iter(self.paths.iter().cloned()));
        let mut out = crate::flagz::head(self.component, "statusz");
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: {}\nBinary version: {}\n\
             Emulation version: {}\nPaths: {}\n",
            started.strftime("%a %b %e %H:%M:%S UTC %Y"),
            s / 3600,
            s / 60 % 60,
            s % 60,
            self.language,
            self.version,
            self.emulated,
            paths.join(" "),
        );
        out
    }

    fn object(&self, version: Version) -> Value {
        json!({
            "kind": "Statusz",
            "apiVersion": version.api_version(),
            "metadata": { "name": self.component },
            "startTime": self.started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "uptimeSeconds": self.seconds,
            "goVersion": self.language,
            "binaryVersion": self.version,
            "emulationVersion": self.emulated,
            "paths": self.paths,
        })
    }
}

/// `/debug` of `/debug/pprof`; none of what is not for looking.
fn first_part(path: &str) -> Option<String> {
    let part = path.split('/').nth(1).filter(|p| !p.is_empty())?;
    let folder = format!("/{part}");
    (!NOT_FOR_LOOKING.contains(&folder.as_str())).then_some(folder)
}

/// `1.36.1` of `v1.36.1+tiphys`.
fn numbers(git_version: &str) -> String {
    let text = git_version.trim_start_matches('v');
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    text.get(..end.unwrap_or(text.len()))
        .unwrap_or_default()
        .to_owned()
}

pub fn answer(component: &Component, asked: &PageRequest<'_>) -> Response<Bytes> {
    let form = negotiate::form(asked.accept, "Statusz");
    let status = || Status::now(component);
    negotiate::answer(
        form,
        "statusz",
        || status().text(),
        |version| status().object(version),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let status = Status {
            component: "kube-test",
            started: Timestamp::from_second(1_000_000_000).expect("a time"),
            seconds: 3_725,
            language: "rustc".into(),
            version: numbers("v1.36.1+tiphys"),
            emulated: "1.36".into(),
            paths: ["/metrics", "/healthz/etcd", "/apis/apps", "/", "/healthz"]
                .into_iter()
                .filter_map(first_part)
                .collect(),
        };
        assert_eq!(
            status.text(),
            "\nkube-test statusz\nWarning: This endpoint is not meant to be machine parseable, \
             has no formatting compatibility guarantees and is for debugging purposes only.\n\n\
             Started: Sun Sep  9 01:46:40 UTC 2001\nUp: 1 hr 02 min 05 sec\nGo version: rustc\n\
             Binary version: 1.36.1\nEmulation version: 1.36\nPaths: /healthz /metrics\n"
        );
        assert_eq!(
            status.object(Version::V1Beta1),
            json!({
                "kind": "Statusz", "apiVersion": "config.k8s.io/v1beta1",
                "metadata": { "name": "kube-test" }, "startTime": "2001-09-09T01:46:40Z",
                "uptimeSeconds": 3725, "goVersion": "rustc", "binaryVersion": "1.36.1",
                "emulationVersion": "1.36", "paths": ["/healthz", "/metrics"],
            })
        );
    }

    #[test]
    fn the_process_knows_its_age() {
        let component = Component {
            name: "kube-test",
            paths: &["/metrics"],
        };
        let status = Status::now(&component);
        assert!(
            status.started.as_second() > 1_000_000_000,
            "{:?}",
            status.started
        );
        assert!(status.paths.contains("/debug") && status.paths.contains("/metrics"));
    }
}
