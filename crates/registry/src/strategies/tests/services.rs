//! Services and what else is of the network: defaults, checks, and what must be unique.

use super::*;

#[test]
fn service_defaults_and_checks() {
    let obj = created(strategy("", "services"), &service());
    assert_eq!(
        obj.pointer("/spec"),
        Some(&json!({
        "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"app": "a"},
        "sessionAffinity": "None", "type": "ClusterIP"}))
    );
    check(
        "",
        "services",
        &service(),
        &[
            (
                &[("/spec/ports", json!([]))],
                &["spec.ports: Required value"],
            ),
            (
                &[("/spec/type", json!("Odd"))],
                &[
                    "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                &[("/spec/ports/0/nodePort", json!(30000))],
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                &[("/spec/ports/0/port", json!(0))],
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                &[("/spec/clusterIP", json!("x"))],
                &[
                    "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                &[
                    ("/spec/type", json!("NodePort")),
                    ("/spec/clusterIP", json!("None")),
                ],
                &[
                    "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
                ],
            ),
        ],
    );
}

#[test]
fn services_claim_what_must_be_unique() {
    let s = strategy("", "services");
    let claims =
        |changes: &[(&str, Value)]| s.claims(&created(s, &with(&service(), changes)), None);
    let any = Claim::ServiceIp {
        ip: None,
        family: IpFamily::Four,
        field: "/spec/clusterIPs/0".into(),
    };
    assert_eq!(claims(&[]), std::slice::from_ref(&any));
    assert_eq!(claims(&[("/spec/clusterIP", json!("None"))]), []);
    let given = Claim::ServiceIp {
        ip: Some("10.0.0.1".into()),
        family: IpFamily::Four,
        field: "/spec/clusterIPs/0".into(),
    };
    assert_eq!(claims(&[("/spec/clusterIP", json!("10.0.0.1"))]), [given]);
    let port = Claim::NodePort {
        port: None,
        protocol: "TCP".into(),
        field: "/spec/ports/0/nodePort".into(),
    };
    assert_eq!(claims(&[("/spec/type", json!("NodePort"))]), [any, port]);
}

#[test]
fn service_updates_keep_what_was_allocated() {
    let s = strategy("", "services");
    let mut old = created(s, &with(&service(), &[("/spec/type", json!("NodePort"))]));
    old = with(
        &old,
        &[
            ("/spec/clusterIP", json!("10.0.0.1")),
            ("/spec/ports/0/nodePort", json!(30001)),
        ],
    );
    s.after_claims(&mut old);
    let mut new = with(&service(), &[("/spec/type", json!("NodePort"))]);
    s.default(&mut new);
    s.prepare_update(&mut new, &old, &cx(""));
    assert_eq!(new.pointer("/spec"), old.pointer("/spec"));
    let mut other = with(&old, &[("/spec/clusterIP", json!("10.0.0.2"))]);
    s.prepare_update(&mut other, &old, &cx(""));
    let errs: Vec<String> = s
        .validate_update(&other, &old, &cx(""))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        errs,
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    let mut plain = with(&old, &[("/spec/type", json!("ClusterIP"))]);
    s.prepare_update(&mut plain, &old, &cx(""));
    assert_eq!(plain.pointer("/spec/ports/0/nodePort"), None);
}

#[test]
fn networking_checks() {
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "a.b", "http": {"paths": [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}});
    let path = "/spec/rules/0/http/paths/0";
    check(
        "networking.k8s.io",
        "ingresses",
        &ingress,
        &[
            (
                &[(&format!("{path}/path"), json!("x"))],
                &[
                    "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
                ],
            ),
            (
                &[(&format!("{path}/pathType"), Value::Null)],
                &[
                    "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
                ],
            ),
            (
                &[(&format!("{path}/backend"), json!({}))],
                &[
                    "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend is required",
                ],
            ),
        ],
    );
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}});
    check(
        "networking.k8s.io",
        "networkpolicies",
        &policy,
        &[
            (
                &[("/spec/ingress/0/from/0", json!({}))],
                &["spec.ingress[0].from[0]: Required value: must specify a peer"],
            ),
            (
                &[(
                    "/spec/ingress/0/ports",
                    json!([{ "port": 80, "endPort": 70, "protocol": "X" }, { "endPort": 70 }]),
                )],
                &[
                    "spec.ingress[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                    "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                    "spec.ingress[0].ports[1].endPort: Invalid value: 70: may not be specified when `port` is not specified",
                ],
            ),
            (
                &[("/spec/policyTypes", json!(["Odd"]))],
                &[
                    "spec.policyTypes[0]: Unsupported value: \"Odd\": supported values: \"Ingress\", \"Egress\"",
                ],
            ),
        ],
    );
}
