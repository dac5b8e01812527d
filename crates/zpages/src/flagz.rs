//! `/flagz`: the flags of the command line with their values; those that are secrets are not shown.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use http::Response;
use parking_lot::RwLock;
use serde_json::json;

use crate::negotiate;
use crate::page::{Component, PageRequest};

static FLAGS: RwLock<BTreeMap<String, String>> = RwLock::new(BTreeMap::new());

/// Says which flags this process has, by name without dashes; secrets as
/// [`CLASSIFIED`](crate::page::CLASSIFIED).
pub fn show(flags: BTreeMap<String, String>) {
    *FLAGS.write() = flags;
}

/// The first lines of a page for people.
pub(crate) fn head(component: &str, page: &str) -> String {
    format!(
        "\n{component} {page}\nWarning: This endpoint is not meant to be machine parseable, has no \
         formatting compatibility guarantees and is for debugging purposes only.\n"
    )
}

pub fn answer(component: &Component, asked: &PageRequest<'_>) -> Response<Bytes> {
    let flags = FLAGS.read().clone();
    let form = negotiate::form(asked.accept, "Flagz");
    let plain = || {
        let mut out = head(component.name, "flagz");
        for (name, value) in &flags {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}={value}");
        }
        out
    };
    negotiate::answer(form, "flagz", plain, |version| {
        json!({
            "kind": "Flagz",
            "apiVersion": version.api_version(),
            "metadata": { "name": component.name },
            "flags": flags,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::CLASSIFIED;

    #[test]
    fn flags_are_shown_in_both_forms() {
        show(BTreeMap::from([
            ("port".into(), "1".into()),
            ("token".into(), CLASSIFIED.into()),
        ]));
        let component = Component {
            name: "kube-test",
            paths: &[],
        };
        let of = |accept| {
            let asked = PageRequest {
                method: &http::Method::GET,
                path: "/flagz",
                query: "",
                accept,
                body: Bytes::new(),
            };
            let body = answer(&component, &asked).into_body();
            String::from_utf8_lossy(&body).into_owned()
        };
        let text = of(None);
        assert!(text.starts_with("\nkube-test flagz\nWarning: "), "{text}");
        assert!(text.ends_with(".\nport=1\ntoken=CLASSIFIED\n"), "{text}");
        let object = of(Some("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"));
        let object: serde_json::Value = serde_json::from_str(&object).expect("JSON");
        assert_eq!(object["flags"]["port"], "1");
        assert_eq!(object["kind"], "Flagz");
    }
}
