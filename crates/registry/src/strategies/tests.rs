//! Data-driven tests: what defaults fill in, what checks say, what updates may change.

use std::collections::BTreeMap;

use api::cidr::IpFamily;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::strategy::{Claim, Context, Strategy};
use crate::{Row, kinds, validate_object_meta, validate_object_meta_update};

fn cx(subresource: &'static str) -> Context<'static> {
    Context {
        namespace: "default",
        user: "alice",
        subresource,
        ..Context::of_nobody()
    }
}

/// A request for a certificate says who asks, whatever the client writes there.
#[test]
fn signing_requests_name_the_user() {
    let strategy = &row("certificates.k8s.io", "certificatesigningrequests").strategy;
    let extra = BTreeMap::from([("a.example.com/b".to_owned(), vec!["c".to_owned()])]);
    let groups = ["dev".to_owned()];
    let known = Context {
        groups: &groups,
        uid: "u-1",
        extra: &extra,
        ..cx("")
    };
    let sent = json!({"spec": {"username": "root", "uid": "0", "extra": {"x": ["y"]}}});
    let mut made = sent.clone();
    strategy.prepare_create(&mut made, &known);
    assert_eq!(
        made["spec"],
        json!({"username": "alice", "groups": ["dev"], "uid": "u-1",
            "extra": {"a.example.com/b": ["c"]}})
    );
    let mut made = sent;
    strategy.prepare_create(&mut made, &cx(""));
    assert_eq!(made["spec"], json!({"username": "alice", "groups": []}));
}

fn row(group: &str, resource: &str) -> &'static Row {
    match kinds().resource(group, resource) {
        Some(row) => row,
        None => panic!("no row {group}/{resource}"),
    }
}

/// Changes of an object, by pointer, and the errors that they bring.
type Case<'a> = (&'a [(&'a str, Value)], &'a [&'a str]);

fn strategy(group: &str, resource: &str) -> &'static dyn Strategy {
    &*row(group, resource).strategy
}

/// Puts values at pointers (null removes) of an object.
fn with(base: &Value, changes: &[(&str, Value)]) -> Value {
    let mut out = base.clone();
    for (pointer, v) in changes {
        let (parent, last) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        match out.pointer_mut(parent) {
            Some(Value::Object(o)) if v.is_null() => {
                o.remove(last);
            }
            Some(Value::Object(o)) => {
                o.insert(last.to_owned(), v.clone());
            }
            Some(Value::Array(a)) => match last.parse::<usize>().ok().and_then(|i| a.get_mut(i)) {
                Some(slot) => *slot = v.clone(),
                None => a.push(v.clone()),
            },
            _ => panic!("no {parent} in {base}"),
        }
    }
    out
}

fn created(s: &dyn Strategy, obj: &Value) -> Value {
    let mut obj = obj.clone();
    s.default(&mut obj);
    s.prepare_create(&mut obj, &cx(""));
    obj
}

fn errors_of(s: &dyn Strategy, obj: &Value) -> Vec<String> {
    s.validate(&created(s, obj), &cx(""))
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Each change of a good object gives exactly these errors.
fn check(group: &str, resource: &str, good: &Value, cases: &[Case<'_>]) {
    let s = strategy(group, resource);
    assert_eq!(errors_of(s, good), Vec::<String>::new(), "{good}");
    for (changes, expected) in cases {
        assert_eq!(&errors_of(s, &with(good, changes)), expected, "{changes:?}");
    }
}

/// Each change of an existing object gives exactly these errors of the update.
fn check_update(group: &str, resource: &str, good: &Value, cases: &[Case<'_>]) {
    let s = strategy(group, resource);
    let old = created(s, good);
    for (changes, expected) in cases {
        let mut new = with(&old, changes);
        s.default(&mut new);
        s.prepare_update(&mut new, &old, &cx(""));
        let mut errs = s.validate(&new, &cx(""));
        errs.extend(s.validate_update(&new, &old, &cx("")));
        let errs: Vec<String> = errs.iter().map(ToString::to_string).collect();
        assert_eq!(&errs, expected, "{changes:?}");
    }
}

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "a", "image": "nginx"}]}})
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "nginx:1"}]}})
}

fn workload() -> Value {
    json!({"metadata": {"name": "w", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template()}})
}

fn service() -> Value {
    json!({"metadata": {"name": "s", "namespace": "default"},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]}})
}

/// A smallest good object of each major kind.
fn minimal() -> Vec<(&'static str, &'static str, Value)> {
    let named = json!({"metadata": {"name": "n", "namespace": "default"}});
    let job = json!({"metadata": {"name": "j", "namespace": "default", "uid": "u"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}});
    let cron = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {"schedule": "* * * * *",
        "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}}}});
    vec![
        ("", "pods", pod()),
        ("", "services", service()),
        ("", "configmaps", named.clone()),
        ("", "secrets", named.clone()),
        ("", "serviceaccounts", named.clone()),
        ("", "namespaces", json!({"metadata": {"name": "n"}})),
        ("", "nodes", json!({"metadata": {"name": "n"}})),
        ("", "endpoints", named.clone()),
        ("", "limitranges", named.clone()),
        ("", "resourcequotas", named.clone()),
        (
            "",
            "podtemplates",
            json!({"metadata": {"name": "t", "namespace": "default"}, "template": template()}),
        ),
        (
            "",
            "replicationcontrollers",
            json!({"metadata": {"name": "r"}, "spec": {"template": template()}}),
        ),
        (
            "",
            "persistentvolumes",
            json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}}),
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"metadata": {"name": "c", "namespace": "default"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
        (
            "",
            "events",
            json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"namespace": "default"}}),
        ),
        ("apps", "replicasets", workload()),
        ("apps", "deployments", workload()),
        ("apps", "daemonsets", workload()),
        ("apps", "statefulsets", workload()),
        ("batch", "jobs", job),
        ("batch", "cronjobs", cron),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"metadata": {"name": "i", "namespace": "default"},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"metadata": {"name": "i", "namespace": "default"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}], "from": [{"podSelector": {}}]}]}}),
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"metadata": {"name": "i"}, "spec": {"minAvailable": "50%"}}),
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"metadata": {"name": "i"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}}),
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": {"name": "i"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]}),
        ),
        ("coordination.k8s.io", "leases", named.clone()),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"metadata": {"name": "a:b"},
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
        ),
        (
            "rbac.authorization.k8s.io",
            "clusterroles",
            json!({"metadata": {"name": "a:b"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"metadata": {"name": "p"}, "value": 10}),
        ),
        (
            "apiregistration.k8s.io",
            "apiservices",
            json!({"metadata": {"name": "v1.apps"}, "spec": {"group": "apps",
                "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10}}),
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"metadata": {"name": "p"}, "provisioner": "x"}),
        ),
    ]
}

#[test]
fn a_minimal_object_of_each_kind_is_good_after_defaulting() {
    for (group, resource, obj) in minimal() {
        let errs = errors_of(strategy(group, resource), &obj);
        assert_eq!(errs, Vec::<String>::new(), "{group}/{resource}");
    }
}

#[test]
fn pod_defaults() {
    let s = strategy("", "pods");
    let base = with(
        &pod(),
        &[
            (
                "/spec/containers/0/resources",
                json!({"limits": {"cpu": "1"}}),
            ),
            (
                "/spec/containers/0/readinessProbe",
                json!({"httpGet": {"port": 80}}),
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "secret": {"secretName": "s"}}, {"name": "e"}]),
            ),
        ],
    );
    expect_test::expect![[r#"
        {"metadata":{"name":"p","namespace":"default"},"spec":{"containers":[{"image":"nginx","imagePullPolicy":"Always","name":"a","readinessProbe":{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":10,"successThreshold":1,"timeoutSeconds":1},"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}],"dnsPolicy":"ClusterFirst","enableServiceLinks":true,"restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"volumes":[{"name":"v","secret":{"defaultMode":420,"secretName":"s"}},{"emptyDir":{},"name":"e"}]},"status":{"phase":"Pending","qosClass":"Burstable"}}"#]]
    .assert_eq(&created(s, &base).to_string());
}

#[test]
fn pod_level_requests() {
    let s = strategy("", "pods");
    let base = with(
        &pod(),
        &[
            (
                "/spec/resources",
                json!({"limits": {"cpu": "2", "memory": "1Gi"}}),
            ),
            (
                "/spec/containers/0/resources",
                json!({"requests": {"cpu": "500m"}}),
            ),
            (
                "/spec/containers/1",
                json!({"name": "b", "image": "x", "resources": {"requests": {"cpu": "250m"}}}),
            ),
            (
                "/spec/initContainers",
                json!([{"name": "i", "image": "x", "resources": {"requests": {"cpu": "1"}}}]),
            ),
        ],
    );
    let made = created(s, &base);
    let wanted = json!({"cpu": "1", "memory": "1Gi"});
    assert_eq!(made.pointer("/spec/resources/requests"), Some(&wanted));
}

#[test]
fn quality_of_service() {
    let s = strategy("", "pods");
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
            "Burstable",
        ),
        // Of CPU and memory alone.
        (
            json!({"requests": {"ephemeral-storage": "1Gi"}, "limits": {"ephemeral-storage": "1Gi"}}),
            "BestEffort",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "2Gi"}, "requests": {"ephemeral-storage": "1Gi"}}),
            "Guaranteed",
        ),
    ] {
        let obj = created(
            s,
            &with(
                &pod(),
                &[("/spec/containers/0/resources", resources.clone())],
            ),
        );
        assert_eq!(
            obj.pointer("/status/qosClass"),
            Some(&json!(class)),
            "{resources}"
        );
    }
    // A pod's own resources stand before those of its containers.
    let fixed = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let huge = json!({"limits": {"hugepages-2Mi": "2Mi"}});
    for (own, class) in [(&fixed, "Guaranteed"), (&huge, "BestEffort")] {
        let obj = created(s, &with(&pod(), &[("/spec/resources", own.clone())]));
        assert_eq!(
            obj.pointer("/status/qosClass"),
            Some(&json!(class)),
            "{own}"
        );
    }
}

#[test]
fn pod_checks() {
    let c = "/spec/containers/0";
    let at = |f: &str| format!("{c}/{f}");
    let (ports, env, mounts) = (at("ports"), at("env"), at("volumeMounts"));
    let (image, name, resources) = (at("image"), at("name"), at("resources"));
    let probe = at("livenessProbe");
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                &[("/spec/containers", json!([]))],
                &["spec.containers: Required value"],
            ),
            (
                &[(&image, json!(""))],
                &["spec.containers[0].image: Required value"],
            ),
            (
                &[("/spec/containers/1", json!({"name": "a", "image": "x"}))],
                &["spec.containers[1].name: Duplicate value: \"a\""],
            ),
            (
                &[(&name, Value::Null)],
                &["spec.containers[0].name: Required value"],
            ),
            (
                &[(
                    "/spec/securityContext",
                    json!({"sysctls": [{"name": "foo-", "value": "x"}, {"name": "net/ipv4.a_b", "value": "1"}]}),
                )],
                &[
                    "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                ],
            ),
            (
                &[(
                    &at("envFrom"),
                    json!([{"prefix": "data-1.", "configMapRef": {"name": "m"}}]),
                )],
                &[],
            ),
            (
                &[("/spec/restartPolicy", json!("Sometimes"))],
                &[
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                ],
            ),
            (
                &[(
                    &ports,
                    json!([{"containerPort": 70000}, {"containerPort": 1, "protocol": "X"}]),
                )],
                &[
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                    "spec.containers[0].ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ],
            ),
            (
                &[(&env, json!([{"value": "x"}]))],
                &["spec.containers[0].env[0].name: Required value"],
            ),
            (
                &[(&mounts, json!([{"name": "v", "mountPath": "/x"}]))],
                &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                &[(
                    &resources,
                    json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
                )],
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ],
            ),
            (
                &[(&probe, json!({}))],
                &["spec.containers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                &[(
                    &probe,
                    json!({"tcpSocket": {"port": 1}, "successThreshold": 2}),
                )],
                &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                &[(
                    "/spec/volumes",
                    json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
                )],
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                &[(
                    "/spec/tolerations",
                    json!([{"operator": "Exists", "tolerationSeconds": 1}]),
                )],
                &[
                    "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                ],
            ),
            (
                &[(&at("securityContext"), json!({"procMount": "Unmasked"}))],
                &[
                    "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
                ],
            ),
            (
                &[
                    (&at("securityContext"), json!({"procMount": "Unmasked"})),
                    ("/spec/hostUsers", json!(false)),
                ],
                &[],
            ),
            (
                &[("/spec/activeDeadlineSeconds", json!(0))],
                &[
                    "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                ],
            ),
        ],
    );
}

#[test]
fn variables_in_files_are_read_from_volumes_that_the_pod_fills() {
    let source = |volume: &str, inside: &str, key: &str| {
        json!([{"name": "A", "valueFrom": {"fileKeyRef":
            {"volumeName": volume, "path": inside, "key": key}}}])
    };
    let mut good = pod();
    good["spec"]["volumes"] = json!([
        {"name": "e", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "s"}}]);
    let at = "spec.containers[0].env[0].valueFrom.fileKeyRef";
    let env = "/spec/containers/0/env";
    let is = |text: &str| format!("{at}.{text}");
    let [missing, other, path, key] = [
        is("volumeName: Not found: \"x\""),
        is("volumeName: Invalid value: \"s\": referenced volume must be of type emptyDir"),
        is("path: Invalid value: \"a/../b\": must not contain '..'"),
        is("key: Required value"),
    ];
    check(
        "",
        "pods",
        &good,
        &[
            (&[(env, source("e", "a/b", "K"))], &[]),
            (&[(env, source("x", "a", "K"))], &[&missing]),
            (&[(env, source("s", "a", "K"))], &[&other]),
            (&[(env, source("e", "a/../b", "K"))], &[&path]),
            (&[(env, source("e", "a", ""))], &[&key]),
        ],
    );
}

#[test]
fn rules_of_exit_codes_are_checked_and_allow_new_starts() {
    let rule = |action: &str, operator: &str| json!([{"action": action, "exitCodes": {"operator": operator, "values": [42]}}]);
    let [policy, rules] =
        ["restartPolicy", "restartPolicyRules"].map(|f| format!("/spec/containers/0/{f}"));
    let (policy, rules) = (policy.as_str(), rules.as_str());
    let never = (policy, json!("Never"));
    let at = "spec.containers[0].restartPolicyRules";
    let [action, operator, codes, many] = [
        format!(
            "{at}[0].action: Unsupported value: \"Stop\": supported values: \"Restart\", \"RestartAllContainers\""
        ),
        format!(
            "{at}[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\""
        ),
        format!("{at}[0].exitCodes: Required value: must be specified"),
        format!("{at}: Too many: 21: must have at most 20 items"),
    ];
    let one = rule("Restart", "In")[0].clone();
    check(
        "",
        "pods",
        &pod(),
        &[
            (
                &[never.clone(), (rules, rule("RestartAllContainers", "In"))],
                &[],
            ),
            (&[never.clone(), (rules, rule("Stop", "In"))], &[&action]),
            (
                &[never.clone(), (rules, rule("Restart", "Is"))],
                &[&operator],
            ),
            (
                &[never.clone(), (rules, json!([{"action": "Restart"}]))],
                &[&codes],
            ),
            (&[never.clone(), (rules, json!(vec![one; 21]))], &[&many]),
            (
                &[(rules, rule("Restart", "In"))],
                &[
                    "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                ],
            ),
        ],
    );

    // What ended may run again only where its rules, its policy or its pod's say so.
    let allowed = |changes: &[(&str, Value)], exit_code: i64| {
        let mut all = vec![("/spec/restartPolicy", json!("Never"))];
        all.extend(changes.iter().cloned());
        let state = |state: Value| json!([{"name": "a", "state": state}]);
        let mut old = created(strategy("", "pods"), &with(&pod(), &all));
        old["status"]["containerStatuses"] = state(json!({"terminated": {"exitCode": exit_code}}));
        let mut new = old.clone();
        new["status"]["containerStatuses"] = state(json!({"running": {}}));
        let errs = strategy("", "pods").validate_update(&new, &old, &cx("status"));
        errs.is_empty()
    };
    assert!(!allowed(&[], 42));
    assert!(allowed(&[(policy, json!("OnFailure"))], 42));
    assert!(!allowed(&[(policy, json!("OnFailure"))], 0));
    assert!(allowed(
        &[never.clone(), (rules, rule("Restart", "In"))],
        42
    ));
    assert!(!allowed(
        &[never.clone(), (rules, rule("Restart", "In"))],
        1
    ));
    assert!(allowed(
        &[never.clone(), (rules, rule("Restart", "NotIn"))],
        1
    ));
    // Any container of such a pod may be started again with the others.
    assert!(allowed(
        &[never, (rules, rule("RestartAllContainers", "In"))],
        1
    ));
}

#[test]
fn pod_updates() {
    let forbidden = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\nchanged: spec.nodeName";
    check_update(
        "",
        "pods",
        &pod(),
        &[
            (&[], &[]),
            (&[("/spec/containers/0/image", json!("other"))], &[]),
            (
                &[("/spec/tolerations", json!([{"operator": "Exists"}]))],
                &[],
            ),
            (&[("/spec/nodeName", json!("n"))], &[forbidden]),
            (
                &[("/spec/containers/1", json!({"name": "b", "image": "x"}))],
                &["spec.containers: Forbidden: pod updates may not add or remove containers"],
            ),
        ],
    );
}

#[test]
fn pod_grace() {
    let s = strategy("", "pods");
    let base = json!({"spec": {"terminationGracePeriodSeconds": 30, "nodeName": "n"}, "status": {"phase": "Running"}});
    for (changes, asked, grace) in [
        (vec![], None, 30),
        (vec![], Some(5), 5),
        (vec![], Some(-1), 1),
        (vec![("/spec/nodeName", json!(""))], Some(5), 0),
        (vec![("/status/phase", json!("Failed"))], None, 0),
    ] {
        assert_eq!(
            s.effective_grace(&with(&base, &changes), asked),
            Some(grace),
            "{changes:?}"
        );
    }
}

#[test]
fn pod_warnings() {
    let s = strategy("", "pods");
    let obj = with(
        &pod(),
        &[
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            ),
            (
                "/spec/containers/0/ports",
                json!([{"name": "x", "containerPort": 1, "protocol": "TCP"}]),
            ),
            (
                "/spec/containers/1",
                json!({"name": "b", "image": "x", "ports": [{"name": "x", "containerPort": 1, "protocol": "TCP"}]}),
            ),
        ],
    );
    assert_eq!(
        s.warnings(&obj, None),
        [
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[1].ports[0]: duplicate port name \"x\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
        ]
    );
}

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
fn deployment_checks() {
    check(
        "apps",
        "deployments",
        &workload(),
        &[
            (
                &[("/spec/selector", Value::Null)],
                &["spec.selector: Required value"],
            ),
            (
                &[("/spec/selector", json!({"matchLabels": {"app": "b"}}))],
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                &[("/spec/replicas", json!(-1))],
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                &[(
                    "/spec/strategy",
                    json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
                )],
                &[
                    "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                &[("/spec/template/spec/restartPolicy", json!("Never"))],
                &[
                    "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                ],
            ),
        ],
    );
    check_update(
        "apps",
        "deployments",
        &workload(),
        &[(
            &[
                ("/spec/selector/matchLabels", json!({"app": "b"})),
                ("/spec/template/metadata/labels", json!({"app": "b"})),
            ],
            &[
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable",
            ],
        )],
    );
}

#[test]
fn frozen_data() {
    let base = json!({"metadata": {"name": "n"}, "data": {"a": "YQ=="}, "immutable": true});
    check_update(
        "",
        "configmaps",
        &base,
        &[
            (
                &[("/data/a", json!("b"))],
                &["data: Forbidden: field is immutable when `immutable` is set"],
            ),
            (
                &[("/immutable", json!(false))],
                &["immutable: Forbidden: field is immutable when `immutable` is set"],
            ),
        ],
    );
    check_update(
        "",
        "secrets",
        &base,
        &[(
            &[("/type", json!("x"))],
            &["type: Invalid value: \"x\": field is immutable"],
        )],
    );
}

#[test]
fn job_checks() {
    let job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}}}});
    check(
        "batch",
        "jobs",
        &job,
        &[
            (
                &[("/spec/template/spec/restartPolicy", json!("Always"))],
                &[
                    "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                ],
            ),
            (
                &[
                    ("/spec/completionMode", json!("Indexed")),
                    ("/spec/parallelism", json!(1)),
                ],
                &["spec.completions: Required value: when completion mode is Indexed"],
            ),
        ],
    );
    let made = created(strategy("batch", "jobs"), &job);
    let selector = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}});
    assert_eq!(made.pointer("/spec/selector"), Some(&selector));
    assert_eq!(
        made.pointer("/spec/template/metadata/labels/job-name"),
        Some(&json!("j"))
    );
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
                &[("/spec/policyTypes", json!(["Odd"]))],
                &[
                    "spec.policyTypes[0]: Unsupported value: \"Odd\": supported values: \"Egress\", \"Ingress\"",
                ],
            ),
        ],
    );
}

#[test]
fn namespaces_keep_their_finalizers() {
    let s = strategy("", "namespaces");
    let old = created(s, &json!({"metadata": {"name": "n"}}));
    assert_eq!(
        old.pointer("/spec/finalizers"),
        Some(&json!(["kubernetes"]))
    );
    assert_eq!(
        old.pointer("/metadata/labels/kubernetes.io~1metadata.name"),
        Some(&json!("n"))
    );
    let empty = with(&old, &[("/spec/finalizers", json!([]))]);
    let mut new = empty.clone();
    s.prepare_update(&mut new, &old, &cx(""));
    assert_eq!(new, old);
    let mut new = empty.clone();
    s.prepare_update(&mut new, &old, &cx("finalize"));
    assert_eq!(new, empty);
}

#[test]
fn signing_requests_say_who_asks() {
    let s = strategy("certificates.k8s.io", "certificatesigningrequests");
    let old = created(
        s,
        &json!({"metadata": {"name": "c"}, "spec": {"username": "mallory", "request": "cGVt",
        "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client"},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]}}),
    );
    assert_eq!(old.pointer("/spec/username"), Some(&json!("alice")));
    assert_eq!(old.pointer("/status"), Some(&json!({})));
    let yes = with(
        &old,
        &[(
            "/status/conditions",
            json!([{"type": "Approved", "status": "True"}]),
        )],
    );
    let mut new = yes.clone();
    s.prepare_update(&mut new, &old, &cx("approval"));
    let stamp = new.pointer("/status/conditions/0/lastTransitionTime");
    assert_eq!(stamp, Some(&json!("1970-01-01T00:00:00Z")));
    assert_eq!(s.validate_update(&new, &old, &cx("approval")), []);
    let errs: Vec<String> = s
        .validate_update(&yes, &old, &cx("status"))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        errs,
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );
}

#[test]
fn role_bindings() {
    let base = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}});
    check_update(
        "rbac.authorization.k8s.io",
        "rolebindings",
        &base,
        &[(
            &[("/roleRef/name", json!("other"))],
            &[
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\"name\":\"other\"}: cannot change roleRef",
            ],
        )],
    );
}

#[test]
fn the_same_event_in_both_groups() {
    let s = strategy("", "events");
    let core = json!({"apiVersion": "v1", "involvedObject": {"kind": "Pod"}, "message": "m", "reason": "R",
        "reportingComponent": "c", "count": 1, "firstTimestamp": "t"});
    let mut obj = core.clone();
    s.convert(&mut obj, "v1", "events.k8s.io");
    assert_eq!(
        obj,
        json!({"apiVersion": "events.k8s.io/v1", "regarding": {"kind": "Pod"}, "note": "m",
        "reason": "R", "reportingController": "c", "deprecatedCount": 1, "deprecatedFirstTimestamp": "t"})
    );
    s.convert(&mut obj, "v1", "");
    assert_eq!(obj, core);
}

#[test]
fn autoscalers_in_both_versions() {
    let s = strategy("autoscaling", "horizontalpodautoscalers");
    let two = json!({"apiVersion": "autoscaling/v2", "spec": {"metrics": [
        {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
        {"type": "Resource", "resource": {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
        "metadata": {"name": "h"}});
    let mut obj = two.clone();
    s.convert(&mut obj, "v1", "autoscaling");
    assert_eq!(
        obj.pointer("/spec"),
        Some(&json!({"targetCPUUtilizationPercentage": 80}))
    );
    s.convert(&mut obj, "v2", "autoscaling");
    assert_eq!(obj, two);
}

#[test]
fn metadata_checks() {
    let rule = &crate::meta::name_is_subdomain;
    let errs = |obj: Value, namespaced: bool| -> Vec<String> {
        validate_object_meta(&obj, namespaced, rule)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        errs(json!({"metadata": {"name": "a", "namespace": "b"}}), true),
        Vec::<String>::new()
    );
    assert_eq!(
        errs(json!({"metadata": {}}), true),
        [
            "metadata.name: Required value: name or generateName is required",
            "metadata.namespace: Required value",
        ]
    );
    assert_eq!(
        errs(json!({"metadata": {"name": "a", "namespace": "b"}}), false),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1"}});
    let new = json!({"metadata": {"name": "a", "uid": "2"}});
    let found: Vec<String> = validate_object_meta_update(&new, &old)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
            "metadata.uid: Invalid value: \"2\": field is immutable",
        ]
    );
}

#[test]
fn a_write_of_status_keeps_the_rest() {
    let s = strategy("apps", "deployments");
    let old = json!({"kind": "D", "metadata": {"name": "d"}, "spec": {"a": 1}, "status": {"b": 1}});
    let mut new = json!({"kind": "D", "metadata": {"name": "d", "annotations": {"x": "y"}}, "spec": {"a": 2}, "status": {"b": 2}});
    s.prepare_update(&mut new, &old, &cx("status"));
    assert_eq!(
        new,
        json!({"kind": "D", "metadata": {"name": "d", "annotations": {"x": "y"}}, "spec": {"a": 1}, "status": {"b": 2}})
    );
}

/// Parts of objects with holes in them, as clients send them.
fn patch_of(obj: &Value, keep: &mut impl FnMut() -> bool) -> Value {
    match obj {
        Value::Object(o) => o
            .iter()
            .filter(|_| keep())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(k, v)| (k, patch_of(&v, keep)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(a) => a
            .iter()
            .map(|v| patch_of(v, keep))
            .collect::<Vec<_>>()
            .into(),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn defaulting_twice_is_defaulting_once(bits in prop::collection::vec(any::<u8>(), 64)) {
        for (group, resource, obj) in minimal() {
            let s = strategy(group, resource);
            let mut i = 0;
            let mut keep = || { i += 1; bits.get(i % 64).is_some_and(|b| b % 4 != 0) };
            let mut once = patch_of(&obj, &mut keep);
            s.default(&mut once);
            let mut twice = once.clone();
            s.default(&mut twice);
            prop_assert_eq!(&once, &twice, "{}", resource);
            // Checks never panic, whatever is missing.
            s.prepare_create(&mut twice, &cx(""));
            s.validate(&twice, &cx(""));
            s.validate_update(&twice, &once, &cx(""));
            s.warnings(&twice, None);
            s.claims(&twice, None);
        }
    }
}
