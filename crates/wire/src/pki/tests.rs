//! Certificates and keys, made and read.

use super::*;

const NOW: i64 = 1_790_000_000;

const FIT: Validity = Validity {
    not_before: NOW - 300,
    not_after: NOW + 700,
};

fn der(pem: &str) -> Vec<u8> {
    ::pem::parse(pem).expect("pem").into_contents()
}

#[test]
fn a_client_certificate_names_user_and_groups() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    let pair = ca
        .issue(
            &Subject::client("system:node:n1", &["system:nodes"]),
            NOW,
            1,
        )
        .expect("issue");
    let names = certificate_names(&der(&pair.cert_pem)).expect("names");
    assert_eq!(names.common_name, "system:node:n1");
    assert_eq!(names.organizations, ["system:nodes"]);
}

#[test]
fn no_group_is_lost() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    let pair = ca
        .issue(&Subject::client("jo", &["dev", "ops"]), NOW, 1)
        .expect("issue");
    let names = certificate_names(&der(&pair.cert_pem)).expect("names");
    assert_eq!(names.organizations, ["dev", "ops"]);
    assert!(
        ca.issue(&Subject::client("jo", &["a", "b", "c"]), NOW, 1)
            .is_err()
    );
}

#[test]
fn a_request_is_signed_with_its_names() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    let mut subject = Subject::server("n1", &["n1.local"], &["10.0.0.9".parse().expect("ip")]);
    subject.organizations = vec!["system:nodes".into()];
    let (csr, key) = make_request(&subject).expect("request");
    let asked = request_names(&csr).expect("names");
    assert_eq!(asked.dns_names, ["n1.local"]);
    assert_eq!(check_request_signature(&csr), Ok(()));
    let cert = ca
        .sign_request(&csr, &["digital signature", "server auth"], FIT)
        .expect("sign");
    assert_eq!(certificate_names(&der(&cert)).expect("names"), asked);
    let pair = |key_pem: String| Pair {
        cert_pem: cert.clone(),
        key_pem,
    };
    assert!(pair(key).belongs_together());
    assert!(!pair(new_key().expect("key")).belongs_together());
}

#[test]
fn a_certificate_is_for_the_requests_key_with_whatever_hash_it_signed() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    for request in crate::signatures::tests::crossed_requests() {
        let asked = crate::pod_keys::key_of_request(&request).expect("a key");
        let csr = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", request));
        let pem = ca.sign_request(&csr, &["client auth"], FIT).expect("sign");
        let der = der(&pem);
        let (_, cert) = x509_parser::certificate::X509Certificate::from_der(&der).expect("cert");
        assert_eq!(cert.public_key().raw, asked);
    }
}

#[test]
fn a_request_that_was_changed_after_it_was_signed_is_refused() {
    let (csr, _) = make_request(&Subject::client("jane", &[])).expect("request");
    let mut bytes = der(&csr);
    let name = bytes.windows(4).position(|w| w == b"jane").expect("name");
    bytes[name] = b'k';
    let forged = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", bytes.clone()));
    let why = check_request_signature(&forged).expect_err("not signed");
    assert!(why.contains("verification failure"), "{why}");
    assert!(request_names(&forged).is_err());
    bytes.push(0);
    let longer = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", bytes));
    let why = check_request_signature(&longer).expect_err("not one request");
    assert!(why.contains("trailing data"), "{why}");
    assert!(check_request_signature("garbage").is_err());
}

#[test]
fn pairs_are_of_one_key() {
    let ca = Ca::generate("ca", NOW).expect("ca");
    let pair = ca.issue(&Subject::client("u", &[]), NOW, 1).expect("pair");
    let cert = &pair.cert_pem;
    assert_eq!(pair_problem(cert, &pair.key_pem), None);
    // The first of several counts, as with a chain.
    let chain = format!("{cert}{}", ca.pair.cert_pem);
    assert_eq!(pair_problem(&chain, &pair.key_pem), None);
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    for (cert, key, why) in [
        (cert, ca.pair.key_pem.clone(), "does not match public key"),
        (cert, other.serialize_pem(), "type does not match"),
        (cert, plain("PRIVATE KEY"), "failed to parse private key"),
        (
            &plain("CERTIFICATE"),
            pair.key_pem.clone(),
            "malformed certificate",
        ),
    ] {
        let found = pair_problem(cert, &key).expect(why);
        assert!(found.contains(why), "{found}");
    }
    assert_eq!(pair_problem("", ""), None);
}

fn plain(tag: &str) -> String {
    ::pem::encode(&::pem::Pem::new(tag, b"x"))
}

#[test]
fn unknown_usages_and_garbage_are_refused() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    let (csr, _) = make_request(&Subject::client("x", &[])).expect("request");
    assert!(ca.sign_request(&csr, &["flying"], FIT).is_err());
    assert!(request_names("garbage").is_err());
}

#[test]
fn a_certificate_lives_to_the_second_and_for_every_usage_of_the_api() {
    let ca = Ca::generate("test-ca", NOW).expect("ca");
    let (csr, _) = make_request(&Subject::client("x", &[])).expect("request");
    let usages = [
        "signing",
        "digital signature",
        "content commitment",
        "key encipherment",
        "key agreement",
        "data encipherment",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
        "any",
        "server auth",
        "client auth",
        "code signing",
        "email protection",
        "s/mime",
        "ipsec end system",
        "ipsec tunnel",
        "ipsec user",
        "timestamping",
        "ocsp signing",
        "microsoft sgc",
        "netscape sgc",
    ];
    let pem = ca.sign_request(&csr, &usages, FIT).expect("sign");
    assert_eq!(not_after(&pem).expect("end"), NOW + 700);
    let der = der(&pem);
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(&der).expect("cert");
    assert_eq!(cert.validity().not_before.timestamp(), NOW - 300);
    assert!(!cert.is_ca());
    let extended = cert.extended_key_usage().expect("valid").expect("present");
    assert!(extended.value.client_auth && extended.value.any);
    assert_eq!(extended.value.other.len(), 5);
}

#[test]
fn an_authority_is_made_once() {
    let dir = tempfile::tempdir().expect("dir");
    let a = Ca::load_or_create(dir.path(), "ca", "test", NOW).expect("create");
    let b = Ca::load_or_create(dir.path(), "ca", "test", NOW).expect("load");
    assert_eq!(a.pair.cert_pem, b.pair.cert_pem);
    assert_eq!(ca_hash(&a.pair.cert_pem).expect("hash").len(), 64);
}
