//! Requests for certificates: what they hold, and what may become of them.

use serde_json::{Value, json};

use super::SigningRequest;
use crate::check::Errors;
use crate::strategy::{Context, Strategy};

/// The least that is signed, in a block of PEM, as JSON has it.
fn signed(label: &str) -> String {
    let body = crate::base64::encode(&[0x30, 6, 0x30, 0, 0x30, 0, 3, 0]);
    let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    crate::base64::encode(text.as_bytes())
}

#[test]
fn signing_requests_hold_requests_and_get_certificates() {
    let s = SigningRequest;
    let of = |request: &str, signer: &str| json!({"metadata": {"name": "c"}, "spec": {"request": request, "usages": ["client auth"], "signerName": signer}});
    let client = "kubernetes.io/kube-apiserver-client";
    let good = of(&signed("CERTIFICATE REQUEST"), client);
    let cx = |subresource: &'static str| Context {
        subresource,
        ..Context::of_nobody()
    };
    let say = |errs: Errors| errs.iter().map(ToString::to_string).collect::<Vec<_>>();
    let made = |request: &str, signer: &str| say(s.validate(&of(request, signer), &cx("")));
    assert_eq!(say(s.validate(&good, &cx(""))), Vec::<String>::new());
    assert!(made("", client)[0].contains("PEM block type must be CERTIFICATE REQUEST"));
    assert!(made(&signed("CERTIFICATE"), client)[0].contains("must be CERTIFICATE REQUEST"));
    let text = "-----BEGIN CERTIFICATE REQUEST-----\nAQI=\n-----END CERTIFICATE REQUEST-----";
    assert!(made(&crate::base64::encode(text.as_bytes()), client)[0].contains("malformed"));
    let legacy = made(
        &signed("CERTIFICATE REQUEST"),
        "kubernetes.io/legacy-unknown",
    );
    assert!(
        legacy[0].contains("the legacy signerName is not allowed"),
        "{legacy:?}"
    );

    let with_status = |status: Value| {
        let mut object = good.clone();
        object["status"] = status;
        object
    };
    let now = |new: Value, old: &Value, sub: &'static str| {
        say(s.validate_update(&with_status(new), old, &cx(sub)))
    };
    let none = with_status(json!({}));
    let (issued, other) = (
        json!({"certificate": signed("CERTIFICATE")}),
        json!({"certificate": signed("PRIVATE KEY")}),
    );
    assert_eq!(now(issued.clone(), &none, "status"), Vec::<String>::new());
    assert_eq!(
        now(other, &none, "status"),
        [
            "status.certificate: Invalid value: \"<certificate data>\": only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\""
        ]
    );
    assert!(
        now(json!({"certificate": "eA=="}), &none, "status")[0]
            .contains("at least one CERTIFICATE PEM block")
    );
    let has = with_status(issued);
    assert_eq!(
        now(json!({}), &has, "status"),
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
    let decided = |reason: &str| json!({"conditions": [{"type": "Approved", "status": "True", "reason": reason}]});
    let approved = with_status(decided("a"));
    assert_eq!(now(decided("a"), &approved, "status"), Vec::<String>::new());
    let modified = now(decided("b"), &approved, "status");
    let why = "status.conditions: Forbidden: updates may not modify a condition of type \"Approved\"\n@@ -";
    assert!(
        modified.len() == 1 && modified[0].starts_with(why),
        "{modified:?}"
    );
    let shown = "\n-  \"Reason\": \"a\",\n+  \"Reason\": \"b\",\n";
    assert!(modified[0].contains(shown), "{modified:?}");
    assert_eq!(
        now(decided("b"), &approved, "approval"),
        Vec::<String>::new()
    );
    assert_eq!(
        now(json!({}), &approved, "approval"),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let twice = json!({"conditions": [{"type": "Odd", "status": "True"}, {"type": "Odd", "status": "True"}]});
    assert_eq!(
        now(twice.clone(), &none, "status"),
        ["status.conditions[1].type: Duplicate value: \"Odd\""]
    );
    assert_eq!(
        now(twice.clone(), &with_status(twice), "status"),
        Vec::<String>::new()
    );
}

#[test]
fn signers_are_named_by_a_domain_and_a_path() {
    let wrong = |name: &str| -> Vec<String> {
        let mut errs = Errors::new();
        super::signer(&mut errs, &api::FieldPath::new("signerName"), name);
        errs.iter().map(|e| e.detail.clone()).collect()
    };
    let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    let two = "should be a domain with at least two segments separated by dots";
    let long = "l".repeat(64);
    let too_long = "validating label \"".to_owned() + &long + "\": must be no more than 63 bytes";
    let cases: [(&str, &[&str]); 6] = [
        ("example.com/s", &[]),
        ("", &[""]),
        ("example.com", &[form]),
        ("example.com/s/t", &[form]),
        ("example/s", &[two]),
        (&format!("{long}.com/s"), &[&too_long]),
    ];
    for (name, want) in cases {
        assert_eq!(wrong(name), want, "{name}");
    }
    let [path] = &wrong("example.com/a.B")[..] else {
        panic!("one error");
    };
    assert!(path.starts_with("validating label \"B\": a lowercase RFC 1123 subdomain"));
}
