//! Data-driven tests: what defaults fill in, what checks say, what updates may change.

mod pods;
mod services;

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
