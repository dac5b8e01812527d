//! How a webhook is reached, as its configuration says it: by a URL, or by a Service.

use api::{FieldError, FieldPath, names};
use serde_json::Value;

use crate::check::{Errors, at, fill, has, invalid, required_text, text};

const FORM: &str = "; desired format: https://host[/path]";

/// Fills in the port of the Service in the `clientConfig` of a webhook.
pub fn default(of: &mut Value) {
    let service = of.pointer_mut("/clientConfig/service");
    if let Some(service) = service.filter(|s| s.is_object()) {
        fill(service, "port", 443);
    }
}

/// What is wrong with a `clientConfig`.
pub fn check(errs: &mut Errors, path: &FieldPath, config: &Value) {
    match (has(config, "url"), has(config, "service")) {
        (true, false) => check_url(errs, &path.child("url"), text(config, "url")),
        (false, true) => check_service(errs, &path.child("service"), at(config, "service")),
        _ => {
            let why = "exactly one of url or service is required";
            errs.push(FieldError::required(path, why));
        }
    }
}

/// What is wrong with a URL.
pub fn check_url(errs: &mut Errors, path: &FieldPath, url: &str) {
    let mut wrong = |value: &str, why: &str| errs.push(FieldError::invalid_str(path, value, why));
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("", url.trim_start_matches("//")),
    };
    if !scheme.eq_ignore_ascii_case("https") {
        wrong(
            scheme,
            &format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = if scheme.is_empty() && !url.starts_with("//") {
        ""
    } else {
        rest.split('/').next().unwrap_or_default()
    };
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    if host.is_empty() {
        wrong(host, &format!("host must be specified{FORM}"));
    }
    for (part, why) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            wrong(part, why);
        }
    }
}

/// What is wrong with a reference to a Service.
pub fn check_service(errs: &mut Errors, path: &FieldPath, service: &Value) {
    for field in ["name", "namespace"] {
        required_text(errs, path, service, field);
    }
    let port = at(service, "port");
    if !port.is_null() && !port.as_i64().is_some_and(|p| (1..=65_535).contains(&p)) {
        let why = "port is not valid: must be between 1 and 65535, inclusive";
        invalid(errs, &path.child("port"), port, why);
    }
    check_path(errs, &path.child("path"), text(service, "path"));
}

fn check_path(errs: &mut Errors, path: &FieldPath, given: &str) {
    let mut wrong = |why: String| errs.push(FieldError::invalid_str(path, given, &why));
    if matches!(given, "" | "/") {
        return;
    }
    if given == "//" {
        return wrong("segment[0] may not be empty".into());
    }
    if !given.starts_with('/') {
        wrong("must start with a '/'".into());
    }
    let mut letters = given.chars();
    letters.next();
    let inner = letters.as_str();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            wrong(format!("segment[{i}] may not be empty"));
            continue;
        }
        for why in names::is_dns1123_subdomain(step) {
            wrong(format!("segment[{i}]: {why}"));
        }
    }
}

/// Whether a bundle of certificates (base64 of PEM) can be one; an empty one is that of the machine.
pub fn is_bundle(bundle: &str) -> bool {
    // `-----BEGIN CERTIFICATE-----`, wherever it begins in a group of three bytes.
    const MARKS: [&str; 3] = [
        "QkVHSU4gQ0VSVElGSUNBVE",
        "JFR0lOIENFUlRJRklDQVRF",
        "CRUdJTiBDRVJUSUZJQ0FUR",
    ];
    bundle.is_empty() || MARKS.iter().any(|mark| bundle.contains(mark))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn urls_and_services_are_checked_as_upstream_does() {
        let url = |given: &str| {
            let mut errs = Errors::new();
            check_url(&mut errs, &FieldPath::new("url"), given);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(url("https://a.example.com:8443/x"), [""; 0]);
        for (given, want) in [
            ("http://a", "'https' is the only allowed URL scheme"),
            ("https:///x", "host must be specified"),
            ("https://u:p@a", "user information is not permitted"),
            ("https://a#f", "fragments are not permitted"),
            ("https://a?q=1", "query parameters are not permitted"),
            ("a/b", "host must be specified"),
        ] {
            let found = url(given);
            assert!(found.iter().any(|e| e.contains(want)), "{given}: {found:?}");
        }
        let service = |given: Value| {
            let mut errs = Errors::new();
            check_service(&mut errs, &FieldPath::new("service"), &given);
            errs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            service(json!({"name": "s", "namespace": "n", "port": 443, "path": "/a/b/"})),
            [""; 0]
        );
        assert_eq!(
            service(json!({"namespace": "n", "port": 0, "path": "a//b"})),
            [
                "service.name: Required value",
                "service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "service.path: Invalid value: \"a//b\": must start with a '/'",
                "service.path: Invalid value: \"a//b\": segment[0] may not be empty",
                "service.path: Invalid value: \"a//b\": segment[1] may not be empty",
            ]
        );
    }

    #[test]
    fn a_bundle_is_known_wherever_it_begins() {
        for bundle in [
            "",
            "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JST0K",
            "Iy0tLS0tQkVHSU4gQ0VSVElGSUNBVEUtLS0tLQpNSUk9Cg==",
            "YWItLS0tLUJFR0lOIENFUlRJRklDQVRFLS0tLS0KTUlJPQo=",
        ] {
            assert!(is_bundle(bundle), "{bundle}");
        }
        assert!(!is_bundle("d2hhdCBpcyBubyBidW5kbGU="));
    }
}
