//! Tests of requests: what is approved, signed, refused and removed.

use serde_json::json;
use wire::pki::{Subject, make_request};

use super::*;

const NOW: i64 = 1_700_000_000_000;

fn request(
    subject: &Subject,
    signer: &str,
    usage: &str,
    user: &str,
    group: &str,
) -> CertificateSigningRequest {
    let (csr, _) = make_request(subject).expect("request");
    let mut request: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": { "name": "r", "uid": "u", "creationTimestamp": api::time::format_seconds(NOW / 1000) },
        "spec": { "request": "", "signerName": signer, "usages": ["digital signature", usage], "username": user, "groups": [group] },
    })).expect("object");
    request.spec.request = ByteString(csr.into_bytes());
    request
}

/// The controller as it sees these requests and nodes.
fn controller(
    requests: impl IntoIterator<Item = CertificateSigningRequest>,
    nodes: &[Node],
) -> Certificates {
    Certificates {
        clock: Clock::read_by(|| jiff::Timestamp::UNIX_EPOCH),
        requests: Informer::fixed(requests),
        nodes: Informer::fixed(nodes.iter().cloned()),
        ca: None,
    }
}

/// What the authorizers say by the roles that a cluster begins with.
fn grant(request: &CertificateSigningRequest) -> Option<Grant> {
    let groups = request.spec.groups.iter().flatten();
    let is_in = |group: &str| groups.clone().any(|g| g == group);
    let mut all = approve::grants(&request.spec).into_iter();
    all.find(|grant| match grant {
        Grant::Own => is_in("system:nodes"),
        Grant::Any => is_in("system:bootstrappers"),
    })
}

/// What both controllers do with a request; one of them at most.
fn plan_of(controller: &Certificates, name: &str) -> Plan {
    let request = controller.requests.get("", name).expect("request");
    let seen = Observed {
        known: ApprovalFacts {
            grant: grant(&request),
            ..controller.known(&request, NOW)
        },
        request,
        signed: None,
        ends: None,
    };
    let upstreams = plan(&seen, NOW);
    if approve::is_upstreams(&seen.request.spec.signer_name) {
        return upstreams;
    }
    assert!(upstreams.is_empty(), "{upstreams:?}");
    approval(&seen, NOW)
}

fn approves(plan: &Plan) -> bool {
    matches!(
        &plan.actions[..],
        [Action::Update {
            subresource: "approval",
            ..
        }]
    )
}

fn is_approved(request: CertificateSigningRequest) -> bool {
    let name = request.name_any();
    approves(&plan_of(&controller([request], &[]), &name))
}

#[test]
fn nodes_get_what_is_theirs() {
    let client = "kubernetes.io/kube-apiserver-client-kubelet";
    let node = Subject::client("system:node:n1", &["system:nodes"]);
    let boot = ("system:bootstrap:abcdef", "system:bootstrappers");
    assert!(is_approved(request(
        &node,
        client,
        "client auth",
        boot.0,
        boot.1
    )));
    assert!(is_approved(request(
        &node,
        client,
        "client auth",
        "system:node:n1",
        "system:nodes"
    )));
    assert!(!is_approved(request(
        &node,
        client,
        "client auth",
        "system:node:n2",
        "system:nodes"
    )));
    assert!(!is_approved(request(
        &node,
        client,
        "server auth",
        boot.0,
        boot.1
    )));
    let admin = Subject::client("system:node:n1", &["system:masters"]);
    assert!(!is_approved(request(
        &admin,
        client,
        "client auth",
        boot.0,
        boot.1
    )));
    let mut serving = Subject::server(
        "system:node:n1",
        &["n1"],
        &["10.0.0.9".parse().expect("ip")],
    );
    serving.organizations = vec!["system:nodes".into()];
    let signer = "kubernetes.io/kubelet-serving";
    assert!(is_approved(request(
        &serving,
        signer,
        "server auth",
        "system:node:n1",
        "system:nodes"
    )));
    assert!(!is_approved(request(
        &serving,
        signer,
        "server auth",
        boot.0,
        boot.1
    )));
    serving.dns_names = vec!["kubernetes".into()];
    assert!(!is_approved(request(
        &serving,
        signer,
        "server auth",
        "system:node:n1",
        "system:nodes"
    )));
    let proxy = Subject::client("system:kube-proxy", &[]);
    let signer = "kubernetes.io/kube-apiserver-client";
    assert!(is_approved(request(
        &proxy,
        signer,
        "client auth",
        "system:node:n1",
        "system:nodes"
    )));
    assert!(!is_approved(request(
        &proxy,
        signer,
        "client auth",
        "someone",
        "system:authenticated"
    )));
    let other = Subject::client("admin", &[]);
    assert!(!is_approved(request(
        &other,
        signer,
        "client auth",
        "system:node:n1",
        "system:nodes"
    )));
}

#[test]
fn a_bootstrap_token_asks_for_a_nodes_identity_alone() {
    let proxy = Subject::client("system:kube-proxy", &[]);
    assert!(!is_approved(request(
        &proxy,
        signers::CLIENT,
        "client auth",
        BOOT.0,
        BOOT.1
    )));
}

const BOOT: (&str, &str) = ("system:bootstrap:abcdef", "system:bootstrappers");

fn node(name: &str, ip: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "status": { "addresses": [{ "type": "InternalIP", "address": ip }] },
    }))
    .expect("node")
}

/// A machine's request for the identity of the node n1, by a token; made so many seconds ago.
fn joining(name: &str, seconds_ago: i64) -> CertificateSigningRequest {
    let subject = Subject::client("system:node:n1", &["system:nodes"]);
    let mut r = request(
        &subject,
        signers::KUBELET_CLIENT,
        "client auth",
        BOOT.0,
        BOOT.1,
    );
    r.metadata.name = Some(name.into());
    r.metadata.uid = Some(name.into());
    r.metadata.creation_timestamp = Some(time_at(NOW - seconds_ago * 1_000));
    r
}

#[test]
fn who_is_not_permitted_gets_no_nodes_certificate_and_hears_why() {
    let subject = Subject::client("system:node:n1", &["system:nodes"]);
    let of = |user, group| {
        let client = signers::KUBELET_CLIENT;
        request(&subject, client, "client auth", user, group)
    };
    let asked = |r: &CertificateSigningRequest| approve::grants(&r.spec);
    let own = of("system:node:n1", "system:nodes");
    assert_eq!(asked(&own), [Grant::Own, Grant::Any]);
    let other = of("system:node:n2", "system:nodes");
    assert_eq!(asked(&other), [Grant::Any]);
    let plan = plan_of(&controller([other], &[]), "r");
    let [Action::Event { reason, .. }] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(*reason, "NotApproved");
    assert_eq!(plan.wake_after_millis, Some(ASK_AGAIN_MILLIS));
    let mut more = of(BOOT.0, BOOT.1);
    more.spec.signer_name = signers::KUBELET_SERVING.into();
    assert!(asked(&more).is_empty());
}

#[test]
fn a_token_does_not_take_the_name_of_a_node() {
    let held = plan_of(
        &controller([joining("a", 1)], &[node("n1", "10.0.0.1")]),
        "a",
    );
    let [
        Action::Event {
            reason, message, ..
        },
    ] = &held.actions[..]
    else {
        panic!("{held:?}");
    };
    assert_eq!(*reason, "NotApproved");
    assert!(message.contains("delete the Node"), "{message}");
    let other = controller([joining("a", 1)], &[node("n2", "10.0.0.1")]);
    assert!(approves(&plan_of(&other, "a")));
}

#[test]
fn of_two_machines_that_ask_for_one_name_the_first_gets_it() {
    let both = controller([joining("a", 2), joining("b", 1)], &[]);
    assert!(approves(&plan_of(&both, "a")));
    let later = plan_of(&both, "b");
    assert!(later.actions.is_empty());
    assert_eq!(later.wake_after_millis, Some(LOOK_AGAIN_MILLIS));
    // The first one's certificate was made a minute ago: it may be about to register.
    let approved = with_condition(&joining("a", 90), "Approved", "x", "y", NOW - 60_000);
    let plan = plan_of(&controller([approved, joining("b", 1)], &[]), "b");
    assert!(plan.actions.is_empty());
    assert_eq!(plan.wake_after_millis, Some(540_000));
    // It never did.
    let approved = with_condition(&joining("a", 3_000), "Approved", "x", "y", NOW - 600_001);
    assert!(approves(&plan_of(
        &controller([approved, joining("b", 1)], &[]),
        "b"
    )));
}

#[test]
fn who_lost_an_answer_may_ask_again_with_the_same_key() {
    let first = with_condition(&joining("a", 60), "Approved", "x", "y", NOW - 50_000);
    let mut again = joining("b", 1);
    again.spec.request = first.spec.request.clone();
    let known = controller([first, again], &[node("n1", "10.0.0.1")]);
    assert!(approves(&plan_of(&known, "b")));
}

#[test]
fn a_serving_certificate_has_no_other_nodes_address() {
    let serving = |ip: &str| {
        let ip = ip.parse().expect("ip");
        let mut subject = Subject::server("system:node:n1", &["n1"], &[ip]);
        subject.organizations = vec!["system:nodes".into()];
        let (signer, user) = (signers::KUBELET_SERVING, "system:node:n1");
        let r = request(&subject, signer, "server auth", user, "system:nodes");
        let nodes = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")];
        approves(&plan_of(&controller([r], &nodes), "r"))
    };
    assert!(serving("10.0.0.1") && serving("10.0.0.9"));
    assert!(!serving("10.0.0.2") && !serving("127.0.0.1"));
}

fn with_outcome(request: CertificateSigningRequest, signed: Option<Signature>) -> Observed {
    Observed {
        known: ApprovalFacts {
            grant: None,
            holder: Holder::Free,
            others: Vec::new(),
        },
        request: Arc::new(request),
        signed,
        ends: None,
    }
}

#[test]
fn approved_requests_are_signed() {
    let plain = joining("a", 1);
    let mut approved = with_condition(&plain, "Approved", "x", "y", NOW);
    assert!(wants_signature(&approved) && !wants_signature(&plain));
    approved.spec.expiration_seconds = Some(700);
    let ca = Ca::generate("ca", NOW / 1000).expect("ca");
    let signed = sign(&ca, &approved, NOW / 1000);
    let Signature::Pem(pem) = &signed else {
        panic!("{signed:?}");
    };
    let names = pki::certificate_names_pem(pem).expect("names");
    assert_eq!(names.common_name, "system:node:n1");
    assert_eq!(pki::not_after(pem).expect("end"), NOW / 1000 + 700);
    assert!(matches!(
        &plan(&with_outcome(approved, Some(signed)), NOW).actions[..],
        [Action::Update {
            subresource: "status",
            ..
        }]
    ));
}

#[test]
fn what_a_signer_does_not_sign_has_failed() {
    let jo = Subject::client("jo", &[]);
    let asked = request(&jo, signers::CLIENT, "server auth", "jo", "dev");
    let approved = with_condition(&asked, "Approved", "x", "y", NOW);
    let ca = Ca::generate("ca", NOW / 1000).expect("ca");
    let signed = sign(&ca, &approved, NOW / 1000);
    let plan = plan(&with_outcome(approved, Some(signed)), NOW);
    let [Action::Update { object, .. }] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    let failed = &object["status"]["conditions"][1];
    assert_eq!(failed["type"], "Failed");
    assert_eq!(failed["reason"], "SignerValidationFailure");
    assert_eq!(
        failed["message"],
        "invalid usage for client certificate: server auth"
    );
}

#[test]
fn requests_go_when_they_are_old() {
    const HOUR: i64 = 3_600_000;
    let goes = |request: CertificateSigningRequest, ends: Option<i64>| {
        let mut seen = with_outcome(request, None);
        seen.ends = ends;
        removed_at(&seen, NOW) - NOW
    };
    let old = joining("a", 7_200);
    assert_eq!(goes(old.clone(), None), 22 * HOUR);
    // Approved late: it is signed, not removed.
    let mut approved = with_condition(&old, "Approved", "x", "y", NOW);
    assert_eq!(goes(approved.clone(), None), 24 * HOUR);
    approved.status.get_or_insert_default().certificate = Some(ByteString(b"pem".to_vec()));
    assert_eq!(goes(approved.clone(), None), HOUR);
    assert_eq!(goes(approved, Some(NOW + 5)), 5);
    let denied = with_condition(&old, "Denied", "x", "y", NOW - HOUR / 2);
    assert_eq!(goes(denied, None), HOUR / 2);
}

#[test]
fn requests_are_kept_as_long_as_somebody_may_ask_for_them() {
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    // When it was made, what was said of it and when, whether it has a certificate, and when that
    // ends, all in milliseconds before now; and whether it goes.
    type Row<'a> = (i64, &'a [(&'a str, i64)], bool, i64, bool);
    let (young, old) = (50 * MINUTE, 2 * HOUR);
    let rows: [Row<'_>; 14] = [
        (MINUTE, &[("Approved", young)], true, -HOUR, false),
        (MINUTE, &[("Approved", young)], true, HOUR, true),
        (MINUTE, &[("Approved", old)], true, -HOUR, true),
        (MINUTE, &[("Approved", young)], false, 0, false),
        (MINUTE, &[("Approved", 5 * HOUR)], false, 0, false),
        (MINUTE, &[("Approved", 25 * HOUR)], false, 0, true),
        (MINUTE, &[("Denied", young)], false, 0, false),
        (MINUTE, &[("Denied", old)], false, 0, true),
        (
            MINUTE,
            &[("Approved", old), ("Failed", young)],
            false,
            0,
            false,
        ),
        (
            MINUTE,
            &[("Approved", old), ("Failed", old)],
            false,
            0,
            true,
        ),
        (5 * HOUR, &[], false, 0, false),
        (25 * HOUR, &[], false, 0, true),
        (25 * HOUR, &[("Approved", young)], false, 0, false),
        (25 * HOUR, &[("Denied", young)], false, 0, false),
    ];
    for (made, conditions, issued, ended, goes) in rows {
        let mut request = joining("a", made / 1_000);
        for (kind, ago) in conditions {
            request = with_condition(&request, kind, "x", "y", NOW - ago);
        }
        if issued {
            let status = request.status.get_or_insert_default();
            status.certificate = Some(ByteString(b"pem".to_vec()));
        }
        let mut seen = with_outcome(request, None);
        seen.ends = issued.then_some(NOW - ended);
        let planned = plan(&seen, NOW);
        let deletes = matches!(&planned.actions[..], [Action::Delete { .. }]);
        assert_eq!(deletes, goes, "{made} {conditions:?} {issued} {ended}");
    }
    // What cannot be read as a certificate goes like one.
    let mut odd = with_condition(&joining("a", 60), "Approved", "x", "y", NOW - old);
    let status = odd.status.get_or_insert_default();
    status.certificate = Some(ByteString(b"garbage".to_vec()));
    let planned = plan(&with_outcome(odd, None), NOW);
    assert!(matches!(&planned.actions[..], [Action::Delete { .. }]));
}
